"""Linkability: can somebody who holds two halves of a record tell, by the release, that they belong together?

Giomi, Boenisch, Wehmeyer, Tasnadi 2023, "A unified framework for quantifying privacy risk in synthetic data": the
attacker knows some columns of a record from one source and others from a second one, looks up the nearest
synthetic records of each half, and links the halves when the two lists share a record.
"""

from collections.abc import Sequence

import numpy as np

from privacy.audit.release.attempt import Attempt, Hits, success_attempt
from privacy.audit.release.distances import blocks
from privacy.audit.release.tables import AttackTables, Codes
from protocol.errors import InputError

LINKABILITY = "linkability"
NEIGHBOURS = 10


def linkability(
    tables: AttackTables,
    *,
    halves: tuple[Sequence[int], Sequence[int]],
    generator: np.random.Generator,
    confidence: float,
    neighbours: int = NEIGHBOURS,
) -> Attempt:
    """Attack a release by linking two sets of columns.

    The baseline draws both lists at random.

    Args:
        tables: What the attacker gets.
        halves: Two sets of columns, by position; no column in both, none empty.
        generator: Breaks ties among equally near records, anew for each half, and draws the baseline.
        confidence: Confidence of the intervals.
        neighbours: Length of a list.

    Returns:
        The attempt, measured by its success rate.

    Raises:
        InputError: The halves overlap or one is empty, or there is no neighbour to list.
    """
    first, second = (tuple(half) for half in halves)
    if not first or not second or set(first) & set(second):
        raise InputError(f"The halves are {first} and {second}.", remedy="Give two sets of columns without overlap.")
    if neighbours < 1:
        raise InputError(f"neighbours is {neighbours}.", remedy="Use at least one.")
    listed = min(neighbours, len(tables.synthetic))
    orders = [generator.permutation(len(tables.synthetic)) for _ in range(2)]
    members, controls = (
        _linked(tables, rows, (first, second), orders, listed) for rows in (tables.members, tables.controls)
    )
    return success_attempt(
        LINKABILITY,
        members,
        controls,
        blind=_by_chance(len(tables.synthetic), listed, tables.pairs, generator),
        confidence=confidence,
        words=(
            f"The attacker links {_names(tables, first)} with {_names(tables, second)}, "
            f"looking at {listed} synthetic records for each.",
        ),
    )


def random_halves(columns: int, *, generator: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two sets of columns of equal size, or nearly, drawn at random; raises InputError for a single column."""
    if columns < 2:
        raise InputError("There is one column only.", remedy="Linkability needs two sets of columns.")
    order = generator.permutation(columns).tolist()
    return tuple(sorted(order[: columns // 2])), tuple(sorted(order[columns // 2 :]))


def _linked(
    tables: AttackTables,
    rows: Codes,
    halves: tuple[tuple[int, ...], tuple[int, ...]],
    orders: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.int64]]],
    listed: int,
) -> Hits:
    """Whether the two lists of each row share a synthetic record, bool [n]."""
    hits = np.zeros(len(rows), dtype=np.bool_)
    found = (blocks(tables.columns, rows, tables.synthetic, chosen=half) for half in halves)
    for (part, near), (_, also_near) in zip(*found, strict=True):
        chosen = np.zeros(near.shape, dtype=np.bool_)
        np.put_along_axis(chosen, _nearest_places(near, orders[0], listed), True, axis=1)  # noqa: FBT003 - a value
        hits[part] = np.take_along_axis(chosen, _nearest_places(also_near, orders[1], listed), axis=1).any(axis=1)
    return hits


def _nearest_places(
    gaps: np.ndarray[tuple[int, ...], np.dtype[np.int32]],
    order: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    listed: int,
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Positions of the nearest records, int64 [b, listed]; equally near ones in a random order."""
    keys = gaps.astype(np.int64) * len(order) + order
    return np.argpartition(keys, listed - 1, axis=1)[:, :listed]


def _by_chance(records: int, listed: int, trials: int, generator: np.random.Generator) -> Hits:
    """Whether two random lists share a record: the second has so many of the first's by chance."""
    return np.asarray(generator.hypergeometric(listed, records - listed, listed, size=trials) > 0)


def _names(tables: AttackTables, half: tuple[int, ...]) -> str:
    return "(" + ", ".join(tables.columns.names[column] for column in half) + ")"
