"""Membership by comparison with reference models: the robust attack of Zarifzadeh, Liu, Shokri 2024 (RMIA).

A model that saw a record gives it more probability than models that did not, *relative* to what it gives to other
records of the population. Both comparisons matter: the first takes out how common the record is, the second how the
model differs from its references as a whole.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protocol.errors import InputError


def log_ratios(target: ArrayLike, references: ArrayLike) -> NDArray[np.float64]:
    """How much likelier the target makes each record than the reference models do on average.

    The offline form of Zarifzadeh et al. 2024, section 3: no reference saw the records in question. They divide by
    ``((1 + a) p_out + 1 - a) / 2``, which guesses at models that did; densities have no bound of one to guess with,
    so a is 1. The average is geometric: densities of records that are rare differ by orders of magnitude between
    references, and an arithmetic mean would be that of the largest alone.

    Args:
        target: Log-likelihood of each record under the target, shape (records,), nats.
        references: The same under each reference, shape (references, records).

    Returns:
        Log-ratios, shape (records,).

    Raises:
        InputError: If there is no reference, or shapes do not fit.

    Example:
        >>> log_ratios([-1.0, -5.0], [[-2.0, -5.0], [-4.0, -5.0]]).tolist()
        [2.0, 0.0]
    """
    values, others = np.asarray(target, dtype=np.float64), np.asarray(references, dtype=np.float64)
    if values.ndim != 1 or others.ndim != 2 or not len(others) or others.shape[1:] != values.shape:
        raise InputError(
            f"Scores of shape {values.shape} and references of shape {others.shape} do not fit.",
            remedy="Give one row of the same records per reference model.",
        )
    ratios: NDArray[np.float64] = values - others.mean(axis=0)
    return ratios


def outdone_share(ratios: ArrayLike, population: ArrayLike, *, gamma: float = 1.0) -> NDArray[np.float64]:
    """The score of the attack: the share of the population that a record outdoes by a factor.

    Args:
        ratios: Log-ratio of each record, shape (records,).
        population: Log-ratio of records that no model saw, shape (population,).
        gamma: The factor, above 0.

    Returns:
        Shares in [0, 1], shape (records,); a tie counts half.

    Raises:
        InputError: If the population is empty or the factor is not positive.

    Example:
        >>> outdone_share([0.0, 3.0], [-1.0, 0.0, 1.0, 2.0]).tolist()
        [0.375, 1.0]
    """
    others = np.sort(np.asarray(population, dtype=np.float64))
    if others.ndim != 1 or not others.size or not 0.0 < gamma < np.inf:
        raise InputError(f"{others.size} records, factor {gamma}.", remedy="Give a population and a positive factor.")
    reached = np.asarray(ratios, dtype=np.float64) - np.log(gamma)
    below, upto = np.searchsorted(others, reached, side="left"), np.searchsorted(others, reached, side="right")
    shares: NDArray[np.float64] = (below + upto) / (2.0 * others.size)
    return shares
