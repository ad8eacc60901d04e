"""Records read off what a decoder's gradient counts."""

from itertools import combinations, product

import numpy as np
import pytest

from privacy.audit.channel.code_counts import CodeSignals, counted_records
from privacy.audit.channel.public_inputs import Codes, Matrix, PublicInputs, indicators
from privacy.audit.channel.span_search import InputGradient, span_search
from protocol.errors import InputError

CARDINALITIES = (4, 6, 9)
HATS = np.maximum(0.0, 1.0 - np.abs(np.arange(40)[:, None] / 39 * 3 - np.arange(4)))
SHARED = np.eye(3)[np.arange(12) % 3]


def seen(codes: Codes, weights: Matrix, inputs: PublicInputs, *, seed: int = 0) -> CodeSignals:
    """The long way: every record's predicted minus true, times what entered, added up record by record."""
    generator = np.random.default_rng(seed)
    shares = tuple(generator.dirichlet(np.full(len(each), 5.0)) for each in inputs.features)
    totals = [np.zeros(len(each)) for each in inputs.features]
    tables = [np.zeros((inputs.offsets[j], each.shape[1])) for j, each in enumerate(inputs.features)]
    for record, weight in zip(codes, weights, strict=True):
        for column, features in enumerate(inputs.features):
            signal = weight * (shares[column] - np.eye(len(features))[record[column]])
            totals[column] += signal
            tables[column] += np.outer(inputs.vectors(record[None, :column])[0], signal @ features)
    return CodeSignals(totals=tuple(totals), shares=shares, tables=(None, *tables[1:]))


def drawn(count: int, inputs: PublicInputs, *, seed: int) -> tuple[Codes, Matrix]:
    generator = np.random.default_rng(seed)
    sizes = [len(each) for each in inputs.features]
    return generator.integers(0, sizes, size=(count, len(sizes))).astype(np.int32), generator.uniform(0.3, 1.0, count)


def sorted_rows(codes: Codes) -> list[tuple[int, ...]]:
    return sorted(map(tuple, codes.tolist()))


# Of eight records with twelve codes that share three features, several codes are behind the same feature.
@pytest.mark.parametrize(
    ("features", "count"),
    [(features, count) for features in ((), (HATS,)) for count in (1, 2, 4, 8)]
    + [((HATS, SHARED), count) for count in (1, 2, 4)],
)
def test_records_are_read_off(features: tuple[Matrix, ...], count: int) -> None:
    inputs = PublicInputs(features=(*indicators(CARDINALITIES).features, *features))
    exact = 0
    for seed in range(10):
        codes, weights = drawn(count, inputs, seed=seed)
        found = counted_records(seen(codes, weights, inputs), inputs, count=count)
        exact += found is not None and sorted_rows(found) == sorted(set(sorted_rows(codes)))
    # Least squares round differently on other processors, which decides ties of larger batches.
    assert exact >= (10 if count <= 2 else 6 if count <= 4 else 4)


def test_counts_are_the_weights_of_records_with_a_code() -> None:
    inputs = indicators(CARDINALITIES)
    codes, weights = drawn(5, inputs, seed=3)
    signals = seen(codes, weights, inputs)
    weight, counts = signals.counts()
    assert weight == pytest.approx(weights.sum())
    for column, counted in enumerate(counts):
        expected = [weights[codes[:, column] == code].sum() for code in range(CARDINALITIES[column])]
        assert counted == pytest.approx(expected, abs=1e-9)
    for column, present in enumerate(signals.present(count=5)):
        assert present.tolist() == sorted(set(codes[:, column].tolist()))


def test_it_finds_what_trying_every_pair_finds() -> None:
    inputs = indicators((3, 2, 3))
    everything = np.array(list(product(range(3), range(2), range(3))), dtype=np.int32)
    signals = seen(everything[[4, 13]], np.array([0.4, 0.9]), inputs)
    target = np.concatenate([each.ravel() for each in (*signals.totals, *signals.tables) if each is not None])
    explaining = []
    for places in combinations(range(len(everything)), 2):
        alone = [seen(everything[[place]], np.ones(1), inputs) for place in places]
        parts = np.array(
            [np.concatenate([x.ravel() for x in (*each.totals, *each.tables) if x is not None]) for each in alone]
        )
        weights = np.linalg.lstsq(parts.T, target, rcond=None)[0]
        if np.linalg.norm(weights @ parts - target) < 1e-9 and (weights > 1e-9).all():
            explaining.append(sorted_rows(everything[list(places)]))
    found = counted_records(signals, inputs, count=2)
    assert found is not None
    assert explaining == [sorted_rows(found)]


@pytest.mark.parametrize("noise", [0.05, 1.0])
def test_noise_leaves_nothing_to_count(noise: float) -> None:
    inputs = PublicInputs(features=(*indicators(CARDINALITIES).features, HATS))
    codes, weights = drawn(3, inputs, seed=1)
    signals, generator = seen(codes, weights, inputs), np.random.default_rng(2)
    noisy = CodeSignals(
        totals=tuple(each + generator.normal(0, noise, each.shape) for each in signals.totals),
        shares=signals.shares,
        tables=tuple(
            None if each is None else each + generator.normal(0, noise, each.shape) for each in signals.tables
        ),
    )
    assert counted_records(noisy, inputs, count=3) is None


def test_nothing_counted_is_nothing_read() -> None:
    inputs = indicators((2, 3))
    silent = seen(np.zeros((0, 2), np.int32), np.zeros(0), inputs)
    assert counted_records(silent, inputs, count=1) is None
    codes, weights = drawn(2, inputs, seed=0)
    unknown = CodeSignals(totals=seen(codes, weights, inputs).totals)
    assert counted_records(unknown, inputs, count=2) is None
    # A negative total says that the batch has a code, whatever was predicted.
    for column, present in enumerate(unknown.present(count=2)):
        assert set(present.tolist()) <= set(codes[:, column].tolist())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_space_is_searched_through_features_in_any_order(count: int) -> None:
    inputs = PublicInputs(features=(np.eye(5), HATS, SHARED, np.eye(7)), order=(3, 0, 2, 1))
    for seed in range(10):
        generator = np.random.default_rng(seed)
        codes, _ = drawn(count, inputs, seed=seed)
        layer = InputGradient(entered=4, rows=inputs.vectors(codes).T @ generator.normal(size=(count, 8)))
        present = [np.unique(codes[:, column]).astype(np.int64) for column in range(4)]
        records = inputs.restored(codes)
        found = span_search([layer], cardinalities=(40, 7, 12, 5), count=count, inputs=inputs, present=present)
        assert found is not None
        if len({code % 3 for code in codes[:, 2]}) == len(set(codes[:, 2].tolist())):
            assert set(sorted_rows(found)) == set(sorted_rows(records))


def test_orders_are_undone_and_checked() -> None:
    inputs = PublicInputs(features=(np.eye(2), np.eye(3), np.eye(4)), order=(2, 0, 1))
    records = np.array([[2, 3, 1]], dtype=np.int32)
    assert inputs.ordered(records).tolist() == [[1, 2, 3]]
    assert inputs.restored(inputs.ordered(records)).tolist() == records.tolist()
    with pytest.raises(InputError, match="every column once"):
        PublicInputs(features=(np.eye(2), np.eye(3)), order=(0, 0))
