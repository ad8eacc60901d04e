"""Reconstruction of outliers: do the rarest training records come back?

Whoever is unlike everybody else is the first whom a generator that remembers gives away (Stadler, Oprisanu, Troncoso
2022, "Synthetic data: anonymisation groundhog day"). The rarest targets, members and controls alike, are those where a
density learnt from other people's records is lowest; they come back exactly when a synthetic record equals them, and
nearly when it differs by no more than one column. Rare controls that come back as often do so by chance.
"""

import math

import numpy as np

from privacy.audit.intervals import clopper_pearson
from privacy.audit.release.attempt import Attempt, Hits, risk
from privacy.audit.release.density import Population
from privacy.audit.release.distances import UNIT, nearest
from privacy.audit.release.paired import PairedScores
from privacy.audit.release.tables import AttackTables, Codes, Floats
from privacy.audit.verdict import Measure

OUTLIERS = "reconstruction of outliers"
RAREST = 0.1  # share of the targets that count as rare


def outliers(tables: AttackTables, *, confidence: float, rarest: float = RAREST) -> Attempt:
    """Attack a release by looking for the rarest records in it.

    The baseline looks for them in the reference instead of the release.

    Args:
        tables: What the attacker gets.
        confidence: Confidence of the intervals.
        rarest: Share of the targets that count as rare, in (0, 1].

    Returns:
        The attempt, measured by the rate of rare members that come back nearly or exactly.
    """
    population = Population.learn(tables.columns, tables.reference)
    common = [population.log_density(rows, tables.reference) for rows in (tables.members, tables.controls)]
    # One line for both: who is rare must not depend on who was in.
    wanted = max(1, math.ceil(rarest * 2 * tables.pairs))
    line = np.partition(np.concatenate(common), wanted - 1)[wanted - 1]
    rare = [density <= line for density in common]
    targets = (tables.members, tables.controls)
    back = [_distances(tables, rows, which, tables.synthetic) for rows, which in zip(targets, rare, strict=True)]
    nearly = [distance <= UNIT for distance in back]
    blind = _distances(tables, tables.members, rare[0], tables.reference)[rare[0]] <= UNIT
    counts = [(int(hits[which].sum()), int(which.sum())) for hits, which in zip(nearly, rare, strict=True)]
    exact = [int(np.count_nonzero(distance == 0)) for distance in back]
    return Attempt(
        attack=OUTLIERS,
        measure=Measure.HIT_RATE,
        attacked=clopper_pearson(*counts[0], confidence=confidence),
        baseline=clopper_pearson(int(blind.sum()), blind.size, confidence=confidence),
        control=clopper_pearson(*counts[1], confidence=confidence),
        risk=risk(counts[0], counts[1], confidence=confidence),
        scores=PairedScores(members=_closest_first(back[0], nearly[0]), controls=_closest_first(back[1], nearly[1])),
        curve=None,
        words=(
            f"Of {counts[0][1]:,} of the rarest training records {counts[0][0]:,} come back with at most one column "
            f"wrong, {exact[0]:,} of them exactly; of {counts[1][1]:,} as rare that were in nothing {counts[1][0]:,} "
            f"and {exact[1]:,}.",
        ),
    )


def _distances(tables: AttackTables, rows: Codes, which: Hits, table: Codes) -> Floats:
    """Distance of the rare rows to the nearest record of a table, infinite for the others; float64 [n]."""
    found = np.full(len(rows), np.inf)
    found[which] = nearest(tables.columns, np.asfortranarray(rows[which]), table)
    return found


def _closest_first(distances: Floats, nearly: Hits) -> Floats:
    """Suspicion: 0 for what does not come back, from 1 for nearly to 2 for exactly."""
    return np.where(nearly, 2.0 - np.minimum(distances, UNIT) / UNIT, 0.0)
