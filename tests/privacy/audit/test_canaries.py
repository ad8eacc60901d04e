"""Canaries know what they do to a sum: disjoint directions of length one, of every kind that was asked for."""

import numpy as np
import pytest

from privacy.audit.mechanism.canaries import HUGE, Canaries, CanaryKind, design_canaries
from protocol.errors import InputError
from protocol.randomness import DeterministicRandom, SystemRandom

SIZES = [40, 1, 24, 8, 3]
COUNTS = {
    CanaryKind.DIRAC: 15,
    CanaryKind.SPREAD: 4,
    CanaryKind.ZERO: 3,
    CanaryKind.HUGE: 2,
    CanaryKind.NON_FINITE: 3,
}


def design(random=None, reachable=None, counts=COUNTS):
    return design_canaries(
        SIZES,
        reachable=np.ones(sum(SIZES), dtype=bool) if reachable is None else reachable,
        counts=counts,
        clip_norm=0.5,
        random=random or SystemRandom(),
    )


def test_directions_have_length_one_and_share_no_coordinate():
    directions = design().directions.toarray()
    np.testing.assert_allclose(directions @ directions.T, np.eye(len(directions)), atol=1e-12)


def test_there_are_as_many_of_each_kind_as_was_asked_for():
    found = design()
    assert {kind: len(found.of(kind)) for kind in CanaryKind} == COUNTS


def test_the_first_spread_canary_touches_every_tensor_and_others_those_with_room():
    found = design()
    tensors = np.repeat(np.arange(len(SIZES)), SIZES)
    touched = [set(tensors[found.coordinates[found.owners == number]]) for number in found.of(CanaryKind.SPREAD)]
    assert touched[0] == {0, 1, 2, 3, 4}
    assert touched[3] == {0, 2}, "a quarter of a tensor at the most is for spread canaries"


def test_every_other_canary_touches_one_coordinate_and_a_fifth_stays_free():
    found = design(counts=COUNTS | {CanaryKind.DIRAC: 1000})
    for number, kind in enumerate(found.kinds):
        assert (found.owners == number).sum() == 1 or kind is CanaryKind.SPREAD
    assert len(found.coordinates) <= 0.8 * sum(SIZES) + 1
    assert len(found.coordinates) >= 0.7 * sum(SIZES)


def test_scales_are_what_the_kinds_say():
    found = design()
    scales = {kind: found.scales[found.of(kind)] for kind in CanaryKind}
    assert (scales[CanaryKind.DIRAC] == 4 * 0.5).all()
    assert (scales[CanaryKind.ZERO] == 0).all()
    assert (scales[CanaryKind.HUGE] == HUGE).all()
    assert not np.isfinite(scales[CanaryKind.NON_FINITE]).any()
    # Every tensor's part alone is longer than the clip norm: what clips tensors by themselves then shows.
    parts = found.scales[found.owners] * found.weights
    assert (parts[np.isin(found.owners, found.of(CanaryKind.SPREAD))] > 0.5).all()


def test_only_what_can_be_reached_is_touched():
    reachable = np.arange(sum(SIZES)) % 2 == 0
    assert reachable[design(reachable=reachable).coordinates].all()


def test_nothing_to_reach_is_refused():
    with pytest.raises(InputError, match="0 of 76"):
        design(reachable=np.zeros(sum(SIZES), dtype=bool))


def test_two_canaries_on_one_coordinate_are_refused():
    one = np.zeros(2, dtype=np.int64)
    with pytest.raises(InputError, match="share"):
        Canaries(
            dimension=3, kinds=(CanaryKind.DIRAC,) * 2, scales=np.ones(2), owners=np.arange(2), coordinates=one,
            weights=np.ones(2),
        )  # fmt: skip


def test_scores_and_sums_are_those_written_out():
    found = design()
    generator = np.random.default_rng(0)
    releases = generator.normal(size=(5, sum(SIZES)))
    counts = generator.integers(0, 3, size=(5, len(found)))
    directions = np.zeros((len(found), sum(SIZES)))
    for owner, place, weight in zip(found.owners, found.coordinates, found.weights, strict=True):
        directions[owner, place] = weight
    np.testing.assert_allclose(found.scores(releases), releases @ directions.T)
    adds = [kind not in (CanaryKind.ZERO, CanaryKind.NON_FINITE) for kind in found.kinds]
    np.testing.assert_allclose(found.expected(counts), (counts * np.array(adds)) @ directions)


def test_the_choice_is_the_sources():
    first, again = (design(DeterministicRandom(1)).coordinates for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first != design(DeterministicRandom(2)).coordinates).any()
