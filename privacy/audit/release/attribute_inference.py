"""Attribute inference: can somebody who knows most of a record guess the rest from the release?

Giomi, Boenisch, Wehmeyer, Tasnadi 2023, "A unified framework for quantifying privacy risk in synthetic data": the
attacker looks up the synthetic records nearest to what he knows and takes over their secret. That works for
anybody's secret where columns depend on each other, and is what a release is for; only success on members beyond that
on people who were in nothing is owed to the training.
"""

from collections.abc import Sequence

import numpy as np

from privacy.audit.release.attempt import Attempt, Hits, success_attempt
from privacy.audit.release.distances import blocks, column_gaps
from privacy.audit.release.tables import AttackTables, Codes
from protocol.errors import InputError

TOLERANCE = 0.05  # of the range of an ordered secret: so close is a hit


def attack_name(column: str) -> str:
    """What the attack on one secret is called."""
    return f"attribute inference: {column}"


def attribute_inference(tables: AttackTables, *, secrets: Sequence[int], confidence: float) -> tuple[Attempt, ...]:
    """Attack a release by guessing one column from all others, for each of several secrets.

    Among equally near records the commonest secret is taken, and the lowest code among equally common ones. The
    baseline guesses the population's commonest value for everybody.

    Args:
        tables: What the attacker gets.
        secrets: Columns to guess, by position; each once.
        confidence: Confidence of the intervals.

    Returns:
        One attempt for each secret, measured by its success rate.

    Raises:
        InputError: There is no column besides the secret, or a secret is named twice.
    """
    if tables.columns.count < 2:
        raise InputError("There is one column only.", remedy="Attribute inference needs something that is known.")
    if len(set(secrets)) < len(secrets):
        raise InputError(f"The secrets {tuple(secrets)} hold one twice.", remedy="Name each once.")
    members, controls = (_guesses(tables, rows, secrets) for rows in (tables.members, tables.controls))
    attempts = []
    for place, secret in enumerate(secrets):
        commonest = np.bincount(tables.reference[:, secret], minlength=tables.columns.cardinalities[secret]).argmax()
        blind = np.full(tables.pairs, commonest, dtype=np.int32)
        attempts.append(
            success_attempt(
                attack_name(tables.columns.names[secret]),
                _right(tables, secret, members[:, place], tables.members[:, secret]),
                _right(tables, secret, controls[:, place], tables.controls[:, secret]),
                blind=_right(tables, secret, blind, tables.members[:, secret]),
                confidence=confidence,
                words=(
                    f"The attacker knows every column but {tables.columns.names[secret]} and takes it over from the "
                    "nearest synthetic record.",
                ),
            )
        )
    return tuple(attempts)


def _guesses(tables: AttackTables, rows: Codes, secrets: Sequence[int]) -> Codes:
    """Guess of each secret for each row, int32 [n, secrets]."""
    guessed = np.empty((len(rows), len(secrets)), dtype=np.int32)
    for part, gaps in blocks(tables.columns, rows, tables.synthetic):
        for place, secret in enumerate(secrets):
            known = gaps - column_gaps(tables.columns, secret, rows[part, secret], tables.synthetic[:, secret])
            row, record = np.nonzero(known == known.min(axis=1, keepdims=True))
            size = tables.columns.cardinalities[secret]
            votes = np.bincount(row * size + tables.synthetic[record, secret], minlength=len(known) * size)
            guessed[part, place] = votes.reshape(len(known), size).argmax(axis=1)
    return guessed


def _right(tables: AttackTables, secret: int, guessed: Codes, truth: Codes) -> Hits:
    """Whether a guess is the truth, or near it on the line of an ordered column, bool [n]."""
    ordered = tables.columns.ordered[secret]
    if ordered < 2:
        return np.asarray(guessed == truth)
    on_line = (guessed < ordered) & (truth < ordered)
    near = np.abs(guessed - truth) <= TOLERANCE * (ordered - 1)
    return np.asarray((guessed == truth) | (on_line & near))
