"""Singling out: can the release be used to say something that is true of exactly one person?

Giomi, Boenisch, Wehmeyer, Tasnadi 2023, "A unified framework for quantifying privacy risk in synthetic data"; the
notion is that of Cohen, Nissim 2020, "Towards formalizing the GDPR's notion of singling out". The attacker
writes down predicates that are true of exactly one synthetic record, hoping that they are true of exactly one real one.
Many are, by chance: so they are counted on as many people who were in nothing, too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from privacy.audit.intervals import clopper_pearson
from privacy.audit.release.attempt import Attempt, Hits, risk
from privacy.audit.release.paired import PairedScores
from privacy.audit.release.tables import AttackTables, Codes, Columns
from privacy.audit.verdict import Measure

PREDICATES = 2000
_TRIES = 10  # for each predicate that is wanted
_FEWEST_COLUMNS = 2  # of a predicate on several


class Reach(StrEnum):
    """How many columns a predicate speaks of."""

    UNIVARIATE = "univariate"
    MULTIVARIATE = "multivariate"


@dataclass(frozen=True, kw_only=True, order=True)
class Condition:
    """A column's code lies between two codes, both included."""

    column: int
    low: int
    high: int

    def holds(self, table: Codes) -> Hits:
        """Whether it is true of each record of a table [n, C], bool [n]."""
        codes = table[:, self.column]
        return np.asarray(codes == self.low if self.low == self.high else (codes >= self.low) & (codes <= self.high))


Predicate = tuple[Condition, ...]


def attack_name(reach: Reach) -> str:
    """What the attack is called."""
    return f"singling out, {reach}"


def singling_out(
    tables: AttackTables, *, reach: Reach, generator: np.random.Generator, confidence: float, most: int = PREDICATES
) -> Attempt:
    """Attack a release by predicates that are true of exactly one of its records.

    The baseline are predicates on as many columns with values drawn from the population's histograms. Where the release
    has no such predicate, nothing was attacked and the interval is from 0 to 1.

    Args:
        tables: What the attacker gets. A predicate singles out when it is true of exactly one member; the control
            counts those true of exactly one control.
        reach: Whether predicates speak of one column or of several.
        generator: Draws predicates.
        confidence: Confidence of the intervals; they take predicates for independent.
        most: Most predicates.

    Returns:
        The attempt, measured by its success rate. A target's score is the number of predicates true of it and of no
        other target: those guesses are what a claim is held against, as predicates are not independent of each other.
    """
    if reach is Reach.UNIVARIATE:
        predicates = _univariate(tables, most, generator)
        widths: Sequence[int] = (1,)
    else:
        predicates = _multivariate(tables, most, generator)
        widths = _widths(tables.columns)
    random = _random(tables, max(1, len(predicates)), widths, generator)
    singled, scores = _singled(tables, predicates)
    blind, _ = _singled(tables, random)
    counts = [(int(hits.sum()), hits.size) for hits in (singled[0], singled[1], blind[0])]
    attacked, control, baseline = (clopper_pearson(*count, confidence=confidence) for count in counts)
    return Attempt(
        attack=attack_name(reach),
        measure=Measure.HIT_RATE,
        attacked=attacked,
        baseline=baseline,
        control=control,
        risk=risk(counts[0], counts[1], confidence=confidence),
        scores=scores,
        curve=None,
        words=(
            f"The attacker wrote {len(predicates):,} sentences that are true of one synthetic record; {counts[0][0]:,} "
            f"are true of exactly one of {tables.pairs:,} training records, and {counts[1][0]:,} of exactly one of as "
            "many people who were in nothing. Sentences that are true of the same people hang together; the intervals "
            "take them for independent, so no conclusion rests on them alone.",
        ),
        independent=False,
    )


def _univariate(tables: AttackTables, most: int, generator: np.random.Generator) -> list[Predicate]:
    """Values that occur once in a column, and the record at either end of a line."""
    found: set[Predicate] = set()
    for column, (size, ordered) in enumerate(zip(tables.columns.cardinalities, tables.columns.ordered, strict=True)):
        counts = np.bincount(tables.synthetic[:, column], minlength=size)
        found |= {(_equals(column, code),) for code in np.flatnonzero(counts == 1).tolist()}
        placed = np.flatnonzero(counts[:ordered])
        if placed.size and counts[placed[0]] == 1:
            found.add((Condition(column=column, low=0, high=int(placed[0])),))
        if placed.size and counts[placed[-1]] == 1:
            found.add((Condition(column=column, low=int(placed[-1]), high=ordered - 1),))
    chosen = sorted(found)
    return [chosen[place] for place in generator.permutation(len(chosen))[:most].tolist()]


def _multivariate(tables: AttackTables, most: int, generator: np.random.Generator) -> list[Predicate]:
    """Some columns of a synthetic record: categories as they are, ordered codes on their side of the median."""
    medians = [int(np.median(tables.synthetic[:, column])) for column in range(tables.columns.count)]
    widths = _widths(tables.columns)
    found: dict[Predicate, None] = {}  # in order, each once
    for _ in range(_TRIES * most):
        record = tables.synthetic[generator.integers(len(tables.synthetic))]
        columns = _some_columns(tables.columns, widths, generator)
        predicate = tuple(
            _side(column, int(record[column]), int(record[column]) >= medians[column], tables.columns)
            for column in columns
        )
        if predicate not in found and int(_all_hold(predicate, tables.synthetic).sum()) == 1:
            found[predicate] = None
            if len(found) == most:
                break
    return list(found)


def _random(tables: AttackTables, count: int, widths: Sequence[int], generator: np.random.Generator) -> list[Predicate]:
    """Predicates that need no release: every value from another record of the reference."""
    made = []
    for _ in range(count):
        columns = _some_columns(tables.columns, widths, generator)
        codes = [int(tables.reference[generator.integers(len(tables.reference)), column]) for column in columns]
        above = (generator.random(len(columns)) < 0.5).tolist()
        made.append(tuple(map(_side, columns, codes, above, [tables.columns] * len(columns))))
    return made


def _widths(columns: Columns) -> Sequence[int]:
    """From two columns to all: the more, the fewer strangers fit by chance."""
    return range(min(_FEWEST_COLUMNS, columns.count), columns.count + 1)


def _some_columns(columns: Columns, widths: Sequence[int], generator: np.random.Generator) -> list[int]:
    width = widths[int(generator.integers(len(widths)))]
    return sorted(generator.permutation(columns.count)[:width].tolist())


def _equals(column: int, code: int) -> Condition:
    return Condition(column=column, low=code, high=code)


def _side(column: int, code: int, above: bool, columns: Columns) -> Condition:  # noqa: FBT001 - mapped over columns
    """At least the code, or at most, where codes are ordered; the code itself elsewhere."""
    ordered = columns.ordered[column]
    if code >= ordered:
        return _equals(column, code)
    return Condition(column=column, low=code if above else 0, high=ordered - 1 if above else code)


def _all_hold(predicate: Predicate, table: Codes) -> Hits:
    """Whether a predicate is true of each record, bool [n]."""
    return np.asarray(np.logical_and.reduce([condition.holds(table) for condition in predicate]))


def _singled(tables: AttackTables, predicates: Iterable[Predicate]) -> tuple[tuple[Hits, Hits], PairedScores]:
    """Which predicates are true of exactly one member, and of one control; and how often each target stood alone."""
    singled: tuple[list[bool], list[bool]] = ([], [])
    members, controls = np.zeros(tables.pairs), np.zeros(tables.pairs)
    for predicate in predicates:
        of_members, of_controls = (_all_hold(predicate, table) for table in (tables.members, tables.controls))
        counts = int(of_members.sum()), int(of_controls.sum())
        singled[0].append(counts[0] == 1)
        singled[1].append(counts[1] == 1)
        if sum(counts) == 1:
            members += of_members
            controls += of_controls
    hits = np.array(singled[0], dtype=np.bool_), np.array(singled[1], dtype=np.bool_)
    return hits, PairedScores(members=members, controls=controls)
