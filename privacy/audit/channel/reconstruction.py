"""How good a reconstruction of records is: the share of cells that are right, and what it says about epsilon.

A cell that is right is an event that a record in the batch makes more likely, and privacy bounds by how much: under a
Gaussian mechanism of sensitivity over noise mu, an event of chance c without the record has at most the chance
Phi(Phi^-1(c) + mu) with it (Dong, Roth, Su 2019, lemma 2.10). That is concave in c, so it holds for averages over
cells and records too. The chance without the record is that with all others in their place: a sum of several records
may show what they have in common, and no promise is broken by that.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.optimize import linear_sum_assignment

from privacy.audit import trade_off
from privacy.audit.channel.public_inputs import Codes
from privacy.audit.finding import Interval
from privacy.audit.intervals import significance
from protocol.errors import InputError

_LEAST_STRENGTH = 1e-3


def matched(truth: Codes, guess: Codes) -> NDArray[np.int64]:
    """Pair records with guesses such that the most cells agree (Kuhn 1955).

    Args:
        truth: [n, columns].
        guess: [n, columns].

    Returns:
        int64 [n], the guess of each record.

    Raises:
        InputError: If the shapes differ.

    Example:
        >>> matched(np.array([[0, 1], [2, 2]]), np.array([[2, 1], [0, 1]])).tolist()
        [1, 0]
    """
    if truth.shape != guess.shape:
        raise InputError(f"Shapes {truth.shape} and {guess.shape}.", remedy="Guess as many records as there are.")
    agree = (truth[:, None, :] == guess[None, :, :]).sum(axis=2)
    pairs: NDArray[np.int64] = linear_sum_assignment(agree, maximize=True)[1]
    return pairs


def right_cells(truth: Codes, guess: Codes) -> NDArray[np.bool_]:
    """Which cells of every record are right after the best pairing, bool [n, columns]; see :func:`matched`."""
    right: NDArray[np.bool_] = truth == guess[matched(truth, guess)]
    return right


def share_interval(shares: NDArray[np.float64], *, confidence: float) -> Interval:
    """The share of cells, or of whole records, that are right, from several batches.

    Cells of one batch are not independent, batches are: the interval is that of Student (1908) for the mean over
    batches, after one batch of either extreme was added (as Agresti, Coull 1998 do with a rate), so that it has a width
    even where all batches agree.

    Args:
        shares: Share that is right in each batch, [batches], at least two batches.
        confidence: Confidence, in (0, 1).

    Returns:
        The mean of what was given, with an interval inside [0, 1].

    Raises:
        InputError: If there are fewer than two batches, or a number is out of range.

    Example:
        >>> interval = share_interval(np.ones(40), confidence=0.95)
        >>> interval.value, round(interval.low, 3), interval.high
        (1.0, 0.928, 1.0)
    """
    if len(shares) < 2 or not ((shares >= 0.0) & (shares <= 1.0)).all():
        raise InputError(f"{len(shares)} shares from 0 to 1.", remedy="Attack two batches or more.")
    mean, padded = float(shares.mean()), np.concatenate([shares, [0.0, 1.0]])
    quantile = float(special.stdtrit(len(padded) - 1, 1.0 - significance(confidence) / 2.0))
    middle, reach = float(padded.mean()), quantile * float(padded.std(ddof=1)) / math.sqrt(len(padded))
    low, high = max(0.0, min(middle - reach, mean)), min(1.0, max(middle + reach, mean))
    return Interval(value=mean, low=low, high=high, confidence=confidence)


def strength(attacked: float, reference: float) -> float:
    """The least mu of a Gaussian mechanism under which a share of right cells can rise from one number to another."""
    mu = float(special.ndtri(attacked) - special.ndtri(reference))
    return mu if mu > _LEAST_STRENGTH else 0.0


def most_right(reference: float, mu: float) -> float:
    """The largest share of right cells that a Gaussian mechanism of strength mu allows; see the module's text.

    Example:
        >>> round(most_right(0.5, 1.0), 4)
        0.8413
    """
    return float(special.ndtr(special.ndtri(reference) + mu))


def epsilon_bound(attacked: Interval, references: Sequence[Interval], *, delta: float) -> float:
    """A lower bound on the epsilon of a Gaussian mechanism, from the low end of what was reached.

    Args:
        attacked: Share of right cells.
        references: The same without the records: baseline and control. The highest end counts.
        delta: Delta of the claim.

    Returns:
        Epsilon, at least 0; it errs with a chance of at most one minus the confidence, half of it on each side.

    Raises:
        InputError: If there is no reference.

    Example:
        >>> interval = lambda low, high: Interval(value=(low + high) / 2, low=low, high=high, confidence=0.95)
        >>> round(epsilon_bound(interval(0.95, 0.97), [interval(0.4, 0.5)], delta=1e-5), 2)
        7.88
    """
    if not references:
        raise InputError("Nothing to compare with.", remedy="Give a baseline or a control.")
    highest = max(each.high for each in references)
    mu = strength(attacked.low, highest) if attacked.low > 0.0 and highest < 1.0 else 0.0
    return trade_off.gaussian().epsilon(mu, delta) if mu > 0.0 else 0.0
