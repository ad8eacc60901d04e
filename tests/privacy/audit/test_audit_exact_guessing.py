"""Both one-run tests against the best mechanism there is, found by linear programming."""

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import coo_matrix
from scipy.special import ndtr

from privacy.audit import f_dp, one_run
from privacy.audit.one_run import Guesses
from privacy.audit.trade_off import randomised_response


def best_of_all(canaries, made, right, lines):
    """Largest P[at least ``right`` right] over every mechanism that keeps every line (epsilon, delta)."""
    inputs = list(itertools.product((-1, 1), repeat=canaries))
    outputs = [y for y in itertools.product((-1, 0, 1), repeat=canaries) if sum(map(abs, y)) == made]
    chance = {pair: index for index, pair in enumerate(itertools.product(inputs, outputs))}
    flips = [(x, tuple(-c if k == i else c for k, c in enumerate(x))) for x in inputs for i in range(canaries)]
    entries, limits, spare = [], [], len(chance)
    for (x, neighbour), (epsilon, delta) in itertools.product(flips, lines):
        first = spare
        for y in outputs:
            row = len(limits)
            entries += [(row, chance[x, y], 1.0), (row, chance[neighbour, y], -math.exp(epsilon)), (row, spare, -1.0)]
            limits.append(0.0)
            spare += 1
        entries += [(len(limits), index, 1.0) for index in range(first, spare)]
        limits.append(delta)
    sums = [(row, chance[x, y], 1.0) for row, x in enumerate(inputs) for y in outputs]
    wins = [index for (x, y), index in chance.items() if sum(a == b for a, b in zip(x, y, strict=True)) >= right]
    return maximum(entries, limits, sums, len(inputs), spare, wins) / len(inputs)


def best_of_symmetric(canaries, made, right, lines):
    """The same; averaging over permutations and flips loses nothing and leaves one unknown per number right."""
    entries, limits, spare = [], [], made + 1
    for epsilon, delta in lines:
        first = spare
        for number, other in [(j, j - 1) for j in range(1, made + 1)] + [(j, j + 1) for j in range(made)]:
            kept, lost = (number, made - other) if other < number else (made - number, other)
            row = len(limits)
            entries += [(row, number, kept / canaries), (row, other, -math.exp(epsilon) * lost / canaries)]
            entries += [(row, spare, -1.0)]
            limits.append(0.0)
            spare += 1
        entries += [(len(limits), index, 1.0) for index in range(first, spare)]
        limits.append(delta)
    sums = [(0, number, 1.0) for number in range(made + 1)]
    return maximum(entries, limits, sums, 1, spare, range(right, made + 1))


def maximum(entries, limits, sums, inputs, unknowns, wins):
    def matrix(cells, rows):
        row, column, value = zip(*cells, strict=True)
        return coo_matrix((value, (row, column)), shape=(rows, unknowns)).tocsr()

    aim = np.zeros(unknowns)
    aim[list(wins)] = -1.0
    found = linprog(
        aim,
        A_ub=matrix(entries, len(limits)),
        b_ub=limits,
        A_eq=matrix(sums, inputs),
        b_eq=np.ones(inputs),
        bounds=(0, 1),
    )
    assert found.success, found.message
    return -found.fun


def gaussian_lines(strength):
    return [
        (
            epsilon,
            ndtr(-epsilon / strength + strength / 2) - math.exp(epsilon) * ndtr(-epsilon / strength - strength / 2),
        )
        for epsilon in np.linspace(-4, 4, 15)
    ]


def curve_of(lines):
    return lambda rate: max(0.0, max(math.exp(-epsilon) * (rate - delta) for epsilon, delta in lines))


CLAIMS = [[(1.0, 0.0)], [(1.0, 0.05)], [(0.3, 0.01)], gaussian_lines(1.0)]


@pytest.mark.parametrize(("canaries", "made"), [(2, 2), (2, 1), (3, 3), (3, 2)])
@pytest.mark.parametrize("lines", CLAIMS, ids=["pure", "approximate", "small", "gaussian"])
def test_no_mechanism_beats_either_bound(canaries, made, lines):
    for right in range(1, made + 1):
        guesses = Guesses(canaries=canaries, made=made, right=right)
        best = best_of_all(canaries, made, right, lines)
        assert best_of_symmetric(canaries, made, right, lines) >= best - 1e-7
        curve = curve_of(lines) if len(lines) > 1 else randomised_response(lines[0][1]).curve(lines[0][0])
        assert f_dp.p_value(guesses, curve) >= best - 1e-6
        if right == made:
            assert f_dp.p_value(guesses, curve) == pytest.approx(best, abs=1e-5)
        if len(lines) == 1:
            assert one_run.p_value(guesses, epsilon=lines[0][0], delta=lines[0][1]) >= best - 1e-7


@pytest.mark.parametrize(("canaries", "made"), [(30, 30), (60, 20), (100, 100)])
@pytest.mark.parametrize(("epsilon", "delta"), [(1.0, 0.0), (1.0, 1e-3), (0.5, 0.01), (2.0, 1e-5)])
def test_bounds_hold_for_the_best_mechanism_on_many_canaries(canaries, made, epsilon, delta):
    for right in range(made // 2, made + 1, 3):
        guesses = Guesses(canaries=canaries, made=made, right=right)
        best = best_of_symmetric(canaries, made, right, [(epsilon, delta)])
        steinke = one_run.p_value(guesses, epsilon=epsilon, delta=delta)
        assert steinke >= best - 1e-7
        assert f_dp.p_value(guesses, randomised_response(delta).curve(epsilon)) >= best - 1e-6
        if delta == 0.0 and steinke < 0.5:
            assert steinke == pytest.approx(best, rel=1e-4, abs=1e-9)


def test_gaussian_bound_is_close_to_the_best_mechanism():
    lines = gaussian_lines(0.7)
    for right in (29, 31, 34, 38):
        guesses = Guesses(canaries=60, made=40, right=right)
        best, bound = best_of_symmetric(60, 40, right, lines), f_dp.p_value(guesses, curve_of(lines))
        assert best - 1e-7 <= bound <= 1.5 * best + 1e-7


def test_published_formula_is_no_bound_below_the_middle():
    # The best mechanism by hand: with b the chance of one given right guess alone, e b for both and (b - delta) / e
    # for none, the four chances add up to one.
    epsilon, delta = 1.0, 0.05
    none = math.exp(-1) * ((1 + delta * math.exp(-1)) / (math.e + 2 + math.exp(-1)) - delta)
    best = best_of_all(2, 2, 1, [(epsilon, delta)])
    assert best == pytest.approx(1 - none, abs=1e-9)
    reach = 1 - (1 / (1 + math.e)) ** 2
    assert reach + 2 * 2 * delta * (1 - reach) < best
    assert one_run.p_value(Guesses(canaries=2, made=2, right=1), epsilon=epsilon, delta=delta) == 1.0
