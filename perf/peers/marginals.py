"""Marginal-based synthesizers on private-pgm's inference (``pip install mbi==2.0.0``, Apache-2.0): MST and AIM.

``python marginals.py mst TASK.npz ANSWER.npz --epsilon 1 --delta 1e-9 --rows 10000 --seed 0``

The task holds ``codes`` (integers ``[n, columns]``) and ``cardinalities``; the answer holds ``codes`` of the drawn
rows. The last line of the output is JSON with ``seconds`` and ``peak_mb``. The mechanisms follow McKenna, Miklau and
Sheldon 2021, "Winning the NIST contest" (MST), and McKenna, Mullins, Sheldon and Miklau 2022, "AIM" (pairs of columns
as workload, weights as there, models of at most 4 MB). Add/remove of one record; noise of numpy's generator, which is
good enough for a measurement and for nothing else.
"""

import argparse
import itertools
import json
import resource
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODEL_MB = 4.0
STEPS = 1000
_ROUNDS_PER_COLUMN = 16
_MEASURE_SHARE = 0.9

Codes = NDArray[np.int64]
Counts = NDArray[np.float64]
Clique = tuple[int, ...]


class Data:
    """Records as marginals, and what was measured of them.

    Args:
        codes: ``[n, columns]``.
        cardinalities: Number of codes of each column.
        generator: Source of the noise.
    """

    def __init__(self, codes: Codes, cardinalities: Sequence[int], *, generator: np.random.Generator) -> None:
        self.mbi = import_module("mbi")
        self.codes, self.generator = codes, generator
        self.columns = tuple(range(len(cardinalities)))
        self.domain = self.mbi.Domain([str(column) for column in self.columns], [int(k) for k in cardinalities])
        self.measurements: list[Any] = []

    def marginal(self, clique: Clique) -> Counts:
        """Count the records in every cell of a clique, flat."""
        shape = [self.domain[str(column)] for column in clique]
        places = np.ravel_multi_index([self.codes[:, column] for column in clique], shape)
        return np.bincount(places, minlength=int(np.prod(shape))).astype(np.float64)

    def measure(self, clique: Clique, *, deviation: float) -> Counts:
        """Release a marginal with Gaussian noise and keep it."""
        counts = self.marginal(clique)
        noisy = counts + self.generator.normal(0.0, deviation, counts.size)
        names = tuple(str(column) for column in clique)
        self.measurements.append(self.mbi.LinearMeasurement(noisy, names, stddev=deviation))
        return noisy

    def estimate(self, start: Any = None) -> Any:  # noqa: ANN401  # a model of a package without types here
        """Fit a graphical model to what was measured."""
        solver = self.mbi.estimation.MirrorDescent()
        return solver.estimate(self.domain, self.measurements, iters=STEPS, warm_start=start)

    def choose(self, scores: Counts, *, epsilon: float, sensitivity: float) -> int:
        """Choose by the exponential mechanism."""
        logits = 0.5 * epsilon * scores / sensitivity
        weights = np.exp(logits - logits.max())
        return int(self.generator.choice(scores.size, p=weights / weights.sum()))


def zero_concentrated(epsilon: float, delta: float) -> float:
    """Return the largest rho whose rho-zCDP implies (epsilon, delta) (Canonne, Kamath and Steinke 2020, prop. 12).

    >>> round(zero_concentrated(1.0, 1e-5), 4)
    0.0306
    """
    orders = 1.0 + np.logspace(-3, 6, 4000)
    low, high = 0.0, epsilon + 10.0
    for _ in range(80):
        rho = (low + high) / 2
        log_delta = (orders - 1) * (orders * rho - epsilon) + orders * np.log1p(-1 / orders) - np.log(orders - 1)
        low, high = (rho, high) if log_delta.min() <= np.log(delta) else (low, rho)
    return low


def mst(data: Data, rho: float, rows: int) -> Codes:
    """Measure columns, then the pairs of a maximum spanning tree; a third of the budget for each part."""
    third, columns = rho / 3, len(data.columns)
    deviation = (columns / (2 * third)) ** 0.5
    noisy = [data.measure((column,), deviation=deviation) for column in data.columns]
    merged, draw_back = _merge_rare(data, noisy, threshold=3 * deviation)
    for pair in _spanning_tree(merged, rho=third):
        merged.measure(pair, deviation=((columns - 1) / (2 * third)) ** 0.5)
    return draw_back(_drawn(merged, merged.estimate(), rows))


def _merge_rare(data: Data, noisy: Sequence[Counts], *, threshold: float) -> tuple[Data, Callable[[Codes], Codes]]:
    """Let codes whose noisy count is below the threshold share one; also return how to undo that at random."""
    maps = [_merging(counts >= threshold) for counts in noisy]
    codes = np.stack([mapping[data.codes[:, column]] for column, mapping in enumerate(maps)], axis=1)
    merged = Data(codes, [int(mapping.max()) + 1 for mapping in maps], generator=data.generator)
    by_name = {str(column): mapping for column, mapping in enumerate(maps)}
    merged.measurements = [measurement.compress(by_name, data.domain) for measurement in data.measurements]

    def draw_back(drawn: Codes) -> Codes:
        wide = np.empty_like(drawn)
        for column, mapping in enumerate(maps):
            for code in range(int(mapping.max()) + 1):
                chosen = drawn[:, column] == code
                wide[chosen, column] = data.generator.choice(np.flatnonzero(mapping == code), int(chosen.sum()))
        return wide

    return merged, draw_back


def _merging(common: NDArray[np.bool_]) -> Codes:
    """Number the common codes in their order, and give all others the next number."""
    mapping = np.where(common, np.cumsum(common) - 1, int(common.sum()))
    return mapping.astype(np.int64)


def _spanning_tree(data: Data, *, rho: float) -> list[Clique]:
    """Choose pairs of columns whose dependence is largest, without a circle."""
    edges = len(data.columns) - 1
    model = data.estimate()
    total = float(model.total)
    shares = {column: _of_model(model, (column,)) for column in data.columns}
    pairs = list(itertools.combinations(data.columns, 2))
    scores = np.array(
        [np.abs(data.marginal((a, b)) - np.outer(shares[a], shares[b]).ravel() / total).sum() for a, b in pairs]
    )
    tree: list[Clique] = []
    part_of = {column: column for column in data.columns}
    for _ in range(edges):
        open_pairs = [i for i, (a, b) in enumerate(pairs) if part_of[a] != part_of[b]]
        epsilon = (8 * rho / edges) ** 0.5
        chosen = pairs[open_pairs[data.choose(scores[open_pairs], epsilon=epsilon, sensitivity=1.0)]]
        tree.append(chosen)
        old, new = part_of[chosen[0]], part_of[chosen[1]]
        part_of = {column: new if part == old else part for column, part in part_of.items()}
    return tree


def aim(data: Data, rho: float, rows: int) -> Codes:
    """Measure columns, then again and again the pair that the model knows worst; noise falls where little is learnt."""
    columns = len(data.columns)
    rounds = _ROUNDS_PER_COLUMN * columns
    deviation = (rounds / (2 * _MEASURE_SHARE * rho)) ** 0.5
    epsilon = (8 * (1 - _MEASURE_SHARE) * rho / rounds) ** 0.5
    for column in data.columns:
        data.measure((column,), deviation=deviation)
    spent, model, last = columns / (2 * deviation**2), data.estimate(), False
    candidates = _candidates(data.columns)
    while not last:
        left = rho - spent
        if left < 2 * (1 / (2 * deviation**2) + epsilon**2 / 8):
            last = True
            deviation = (1 / (2 * _MEASURE_SHARE * left)) ** 0.5
            epsilon = (8 * (1 - _MEASURE_SHARE) * left) ** 0.5
        spent += 1 / (2 * deviation**2) + epsilon**2 / 8
        small = _small_enough(data, candidates, limit=MODEL_MB * min(1.0, spent / rho))
        clique, before = _worst(data, model, small, deviation=deviation, epsilon=epsilon)
        data.measure(clique, deviation=deviation)
        model = data.estimate(model)
        change = np.abs(_of_model(model, clique) - before).sum()
        if change <= (2 / np.pi) ** 0.5 * deviation * before.size:
            deviation, epsilon = deviation / 2, 2 * epsilon
    return _drawn(data, model, rows)


def _candidates(columns: Sequence[int]) -> dict[Clique, float]:
    """Weigh columns and pairs by how much they share with the workload of all pairs."""
    pairs = list(itertools.combinations(columns, 2))
    single: list[Clique] = [(column,) for column in columns]
    return {clique: float(sum(len(set(clique) & set(pair)) for pair in pairs)) for clique in (*single, *pairs)}


def _small_enough(data: Data, candidates: dict[Clique, float], *, limit: float) -> dict[Clique, float]:
    """Keep the cliques with which the model stays small; a column alone always is."""
    size = data.mbi.junction_tree.hypothetical_model_size
    known = [measurement.clique for measurement in data.measurements]
    return {
        clique: weight
        for clique, weight in candidates.items()
        if len(clique) == 1 or size(data.domain, [*known, tuple(str(c) for c in clique)]) <= limit
    }


def _worst(
    data: Data,
    model: Any,  # noqa: ANN401  # as above
    candidates: dict[Clique, float],
    *,
    deviation: float,
    epsilon: float,
) -> tuple[Clique, Counts]:
    """Choose the clique that the model knows worst beyond the noise; also return what the model says of it."""
    names = [tuple(str(column) for column in clique) for clique in candidates]
    marginals = data.mbi.marginal_oracles.bulk_variable_elimination(model.potentials, names, float(model.total))
    said = {
        clique: np.asarray(marginals.project(name).datavector(), dtype=np.float64)
        for clique, name in zip(candidates, names, strict=True)
    }
    scores = np.array(
        [
            weight
            * (np.abs(data.marginal(clique) - said[clique]).sum() - (2 / np.pi) ** 0.5 * deviation * said[clique].size)
            for clique, weight in candidates.items()
        ]
    )
    sensitivity = max(candidates.values())
    clique = list(candidates)[data.choose(scores, epsilon=epsilon, sensitivity=sensitivity)]
    return clique, said[clique]


def _of_model(model: Any, clique: Clique) -> Counts:  # noqa: ANN401  # as above
    return np.asarray(model.project(tuple(str(column) for column in clique)).datavector(), dtype=np.float64)


def _drawn(data: Data, model: Any, rows: int) -> Codes:  # noqa: ANN401  # as above
    """Draw rows from a model."""
    # The package draws from numpy's global generator and offers no other.
    np.random.seed(int(data.generator.integers(2**31)))  # noqa: NPY002  # see above
    drawn = model.synthetic_data(rows=rows)
    return np.stack([np.asarray(drawn.data[str(column)]) for column in data.columns], axis=1).astype(np.int64)


MECHANISMS = {"mst": mst, "aim": aim}


def main() -> None:
    """Learn, draw, and say what it cost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("mechanism", choices=sorted(MECHANISMS))
    parser.add_argument("task", type=Path)
    parser.add_argument("answer", type=Path)
    parser.add_argument("--epsilon", type=float, required=True)
    parser.add_argument("--delta", type=float, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    given = parser.parse_args()
    import_module("jax").config.update("jax_enable_x64", True)  # noqa: FBT003  # its only form
    with np.load(given.task) as task:
        codes, cardinalities = task["codes"].astype(np.int64), task["cardinalities"].tolist()
    begin = time.perf_counter()
    data = Data(codes, cardinalities, generator=np.random.default_rng(given.seed))
    drawn = MECHANISMS[given.mechanism](data, zero_concentrated(given.epsilon, given.delta), given.rows)
    seconds = time.perf_counter() - begin
    np.savez(given.answer, codes=drawn)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak}))


if __name__ == "__main__":
    main()
