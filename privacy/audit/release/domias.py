"""DOMIAS: records around which a release is denser than the population were likely trained on.

Van Breugel, Sun, Qian, van der Schaar 2023, "Membership inference attacks against synthetic data through overfitting
detection": the score of a record is the density of the release over that of a reference set. By the density of the
release alone every common record looks like a member; the reference takes that out.
"""

import numpy as np

from privacy.audit.finding import Interval
from privacy.audit.intervals import auroc
from privacy.audit.release.attempt import Attempt, score_attempt
from privacy.audit.release.density import Population
from privacy.audit.release.tables import AttackTables, Floats

DOMIAS = "DOMIAS"


def domias(tables: AttackTables, *, confidence: float) -> Attempt:
    """Attack a release by the ratio of two densities.

    The baseline is the ratio's lower half alone: rare records first, without the release.

    Args:
        tables: What the attacker gets; at least four pairs of targets and two records of reference.
        confidence: Confidence of the intervals.

    Returns:
        The attempt, measured by the area under the curve.
    """
    population = Population.learn(tables.columns, tables.reference)
    rare = [-population.log_density(rows, tables.reference) for rows in (tables.members, tables.controls)]
    dense = [population.log_density(rows, tables.synthetic) for rows in (tables.members, tables.controls)]
    return score_attempt(
        DOMIAS,
        dense[0] + rare[0],
        dense[1] + rare[1],
        blind=(rare[0], rare[1]),
        confidence=confidence,
        words=(
            "The attacker calls a record a member where the release is denser than the population, which he knows "
            f"from {len(tables.reference):,} other records."
        ),
    )


def shift(tables: AttackTables, *, confidence: float) -> Interval:
    """Can members be told from controls without any release?

    If so the two are not from one population, and every comparison of the two measures that instead of the release.
    The attack itself does the test, in two folds: one half of the members stands in for the release, one half of the
    controls for the reference, and the other halves are asked about.

    Args:
        tables: What the attacker gets; at least eight pairs of targets.
        confidence: Confidence of the interval.

    Returns:
        Area under the curve; its interval holds one half where both are from one population.
    """
    half = tables.pairs // 2
    folds = (slice(None, half), slice(half, None))
    told = [_told_apart(tables, learnt, asked) for learnt, asked in (folds, folds[::-1])]
    found = [auroc(members, controls, confidence=confidence) for members, controls in told]
    return Interval(
        value=(found[0].value + found[1].value) / 2.0,
        low=(found[0].low + found[1].low) / 2.0,
        high=(found[0].high + found[1].high) / 2.0,
        confidence=confidence,
    )


def _told_apart(tables: AttackTables, learnt: slice, asked: slice) -> tuple[Floats, Floats]:
    """Scores of the members and controls that are asked about, by what the others teach."""
    members, controls = np.asfortranarray(tables.members[learnt]), np.asfortranarray(tables.controls[learnt])
    population = Population.learn(tables.columns, controls)
    ratio = [
        population.log_density(rows, members) - population.log_density(rows, controls)
        for rows in (tables.members[asked], tables.controls[asked])
    ]
    return ratio[0], ratio[1]
