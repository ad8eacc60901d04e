"""One round of statistics at a site: the sum over all units of a bounded public function of each."""

from collections.abc import Callable

import torch
from torch import Tensor

from privacy.book_keeping import clip_factors, unit_index
from protocol.errors import PrivacyError


def bounded_statistics_sum(
    codes: Tensor,
    *,
    units: Tensor | None,
    norms: Callable[[Tensor], Tensor],
    weighted_sum: Callable[[Tensor, Tensor], Tensor],
    bound: float,
    dimension: int,
) -> Tensor:
    """Return the sum over units of the mean of phi over each unit's records, in units of a public bound.

    **Formal guarantee.** Where ``norms`` gives the norms of what ``weighted_sum`` adds up, adding or removing all
    records of one unit changes the result by at most 1 in the L2 norm, whatever the records and whatever phi: a record
    whose phi is longer than the bound is scaled down to it, and a mean of vectors within a ball is within it. Norms,
    scaling and summation are float64 with a margin that covers their own rounding for up to 65,536 units in any order
    of summation; for n units beyond that the worst order adds at most n^2 2^-53, which is 1e-4 at a million. Phi itself
    is taken as given: a family whose phi goes through products of matrices must compute every record's in matrices of
    one public size, because another size may round it differently.

    **Edge cases.** A record whose norm is not finite counts as zero and touches no other; its unit's mean is still over
    all of its records. No records give the zero vector. Nothing about which record was too long, or was no number, is
    told, raised or logged.

    Args:
        codes: Records, int64 ``[n, columns]``.
        units: Index of each record's unit, ``[n]``, sorted ascending; None where a record is a unit.
        norms: Gives the norm of phi of each record, float64 ``[n]``.
        weighted_sum: Adds up phi of records, each times its weight, float64 ``[dimension]``.
        bound: Public bound of the norm of phi.
        dimension: Coordinates of phi.

    Returns:
        float64 ``[dimension]``, on the CPU.

    Raises:
        PrivacyError: If the bound is none, or there are other norms than records or other coordinates than said.

    Example:
        >>> indicators = torch.eye(2, dtype=torch.float64)
        >>> bounded_statistics_sum(
        ...     torch.tensor([[0], [1], [1]]), units=torch.tensor([0, 0, 1]), bound=1.0, dimension=2,
        ...     norms=lambda codes: torch.ones(len(codes), dtype=torch.float64),
        ...     weighted_sum=lambda codes, weights: weights @ indicators[codes[:, 0]],
        ... ).round(decimals=3)
        tensor([0.5000, 1.5000], dtype=torch.float64)
    """
    if not 0.0 < bound < float("inf"):
        raise PrivacyError(f"The norm of the statistics is bounded by {bound!r}.", remedy="Mend the model family.")
    if not len(codes):
        return torch.zeros(dimension, dtype=torch.float64)
    with torch.no_grad():
        weights = _record_weights(norms(codes).double(), records=len(codes), units=units, bound=bound)
        counted = weights > 0  # zero times what is not finite is not zero
        total = weighted_sum(codes[counted], weights[counted]).double().cpu() / bound
    if total.shape != (dimension,):
        raise PrivacyError(
            f"The statistics have shape {list(total.shape)}, not [{dimension}].", remedy="Mend the model family."
        )
    return total.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _record_weights(norms: Tensor, *, records: int, units: Tensor | None, bound: float) -> Tensor:
    """Return what each record's phi is multiplied with, float64 ``[n]``: its scale, over the records of its unit."""
    if norms.shape != (records,):
        raise PrivacyError(
            f"{records} records have norms of shape {list(norms.shape)}.", remedy="Mend the model family."
        )
    factors = clip_factors(norms, bound)
    if units is None:
        return factors
    index, counts = unit_index(units.to(factors.device))
    return factors / counts[index]
