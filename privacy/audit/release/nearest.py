"""Nearest neighbours: are records of the training set closer to the release than others?

The attack scores a record by its distance to the nearest synthetic one (Chen, Yu, Zhang, Fritz 2020, "GAN-Leaks"),
and, calibrated as they call it, by how much closer that is than the nearest record of a reference set. So a record that
is far from everything is not taken for one that was left out, nor a common one for a member.

The distances themselves, as shares of exact copies and medians, are data quality and no more: see `Closeness`.
"""

from dataclasses import dataclass

import numpy as np

from privacy.audit.finding import Interval
from privacy.audit.intervals import clopper_pearson
from privacy.audit.release.attempt import Attempt, score_attempt
from privacy.audit.release.distances import UNIT, nearest
from privacy.audit.release.tables import AttackTables, Floats

NEAREST = "nearest neighbour"
CALIBRATED = "nearest neighbour, calibrated"


def nearest_neighbour(tables: AttackTables, *, confidence: float) -> tuple[Attempt, Attempt]:
    """Attack a release by distances, plain and calibrated.

    The baseline is the distance to the reference, without the release.

    Args:
        tables: What the attacker gets; at least four pairs of targets.
        confidence: Confidence of the intervals.

    Returns:
        The plain attempt and the calibrated one, measured by the area under the curve.
    """
    near = [_distance(tables, rows_of, "synthetic") for rows_of in ("members", "controls")]
    usual = [_distance(tables, rows_of, "reference") for rows_of in ("members", "controls")]
    plain = score_attempt(
        NEAREST,
        -near[0],
        -near[1],
        blind=(-usual[0], -usual[1]),
        confidence=confidence,
        words="The attacker calls the records closest to a synthetic one members.",
    )
    calibrated = score_attempt(
        CALIBRATED,
        usual[0] - near[0],
        usual[1] - near[1],
        blind=(-usual[0], -usual[1]),
        confidence=confidence,
        words="The attacker calls records members that are closer to the release than to other people's records.",
    )
    return plain, calibrated


@dataclass(frozen=True, kw_only=True)
class Closeness:
    """How close the release is to real records: a measure of data quality, never a verdict about privacy.

    A release may keep its distance from every record and still betray who was in, and records of few columns
    coincide by chance (Ganev, De Cristofaro 2023, "On the inadequacy of similarity-based privacy metrics").

    Attributes:
        copies: Share of synthetic records that equal one of the members compared.
        chance_copies: Share that equals one of as many controls: what chance does.
        median: Median distance of a synthetic record to the nearest member; 1 is a whole column apart.
        chance_median: The same to the nearest of as many controls.
    """

    copies: Interval
    chance_copies: Interval
    median: float
    chance_median: float


def closeness(tables: AttackTables, *, confidence: float, most_rows: int) -> Closeness:
    """Measure distances to the closest record, from synthetic records to members and to as many controls.

    Args:
        tables: What is compared.
        confidence: Confidence of the intervals.
        most_rows: Only the first synthetic records are looked at.

    Returns:
        The measurements.
    """
    rows = tables.synthetic[:most_rows]
    to_members, to_controls = (nearest(tables.columns, rows, table) for table in (tables.members, tables.controls))
    copies = [int(np.count_nonzero(found == 0)) for found in (to_members, to_controls)]
    return Closeness(
        copies=clopper_pearson(copies[0], len(rows), confidence=confidence),
        chance_copies=clopper_pearson(copies[1], len(rows), confidence=confidence),
        median=float(np.median(to_members)) / UNIT,
        chance_median=float(np.median(to_controls)) / UNIT,
    )


def _distance(tables: AttackTables, rows: str, table: str) -> Floats:
    found = nearest(tables.columns, getattr(tables, rows), getattr(tables, table))
    return found.astype(np.float64)
