"""Records drawn under conditions, such as ``sex = F``: from the model's conditional distribution.

A family draws column by column and keeps to the restrictions at each turn. Such a row follows the conditional
distribution once it is weighted with the probability that an unrestricted row would have met every
restriction at its turn. Two ways turn weighted rows into plain ones:

- **Rejection**, exact: a weight is a probability, so a row is kept with just that probability.
- **Resampling** (Rubin, 1987), where rejection would throw away nearly everything: rows are chosen from a
  larger pool in proportion to their weights. Its error falls with the effective sample size of the pool,
  (sum w)^2 / sum w^2, which is at least :data:`POOL_PER_ROW` times the number of rows that are taken from it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.family import Family
from protocol.errors import InputError

# Below this share of rows kept, resampling takes over.
LEAST_ACCEPTANCE = 1 / 64
# Effective rows of the pool per row taken from it.
POOL_PER_ROW = 4.0
# Most rows taken from one pool, and most draws into it: what bounds memory and time.
_POOL_TAKE = 8192
_POOL_DRAWS = 1 << 20


def sample_where(
    family: Family,
    count: int,
    *,
    allowed: Mapping[int, Tensor],
    generator: torch.Generator,
    batch: int = 16_384,
) -> Tensor:
    """Draw records from the model's distribution under conditions.

    Args:
        family: The model.
        count: How many records, not negative.
        allowed: For a column index, the boolean mask ``[K_j]`` of codes that may occur; empty for no
            condition.
        generator: Source of all draws, on the device of the model. One state of it and one ``batch`` give one
            result; another ``batch`` gives other rows of the same distribution.
        batch: Rows drawn at a time, at least 1.

    Returns:
        Codes ``[count, columns]``, int64, on the device of the model.

    Raises:
        InputError: If ``count`` or ``batch`` is out of range, a mask does not fit its column or allows no
            code, or the model gives the condition (nearly) no probability.
    """
    if count < 0 or batch < 1:
        raise InputError(f"{count} records in batches of {batch}.", remedy="Give at least 0 and at least 1.")
    _check_masks(family, allowed)
    if not allowed:
        return _draw_plain(family, count, generator=generator, batch=batch)
    kept: list[Tensor] = []
    missing, exact = count, None
    while missing > 0:
        codes, weight = family.draw(batch, allowed=allowed, generator=generator)
        if exact is None:
            exact = float(weight.exp().mean()) >= LEAST_ACCEPTANCE
        if exact:
            coins = torch.rand(batch, generator=generator, device=weight.device)
            found = codes[coins < weight.exp()][:missing]
        else:
            take = min(missing, _POOL_TAKE)
            found = _resample(family, take, (codes, weight), allowed=allowed, generator=generator)
        kept.append(found)
        missing -= len(found)
    return torch.cat([torch.empty(0, family.layout.columns, dtype=torch.long, device=generator.device), *kept])


def _check_masks(family: Family, allowed: Mapping[int, Tensor]) -> None:
    """Refuse masks that do not fit the table."""
    for column, mask in allowed.items():
        if not 0 <= column < family.layout.columns:
            raise InputError(
                f"A condition on column {column}.",
                remedy=f"The table has columns 0 to {family.layout.columns - 1}.",
            )
        size = family.layout.cardinalities[column]
        if mask.dtype != torch.bool or mask.shape != (size,):
            raise InputError(
                f"The condition on column {column} is {mask.dtype} {list(mask.shape)}.",
                remedy=f"Give a boolean mask [{size}].",
            )
        if not bool(mask.any()):
            raise InputError(f"The condition on column {column} allows no code.", remedy="Allow at least one.")


def _draw_plain(family: Family, count: int, *, generator: torch.Generator, batch: int) -> Tensor:
    """Draw without conditions."""
    rows = torch.empty(count, family.layout.columns, dtype=torch.long, device=generator.device)
    for start in range(0, count, batch):
        size = min(batch, count - start)
        rows[start : start + size] = family.draw(size, allowed={}, generator=generator)[0]
    return rows


def _resample(
    family: Family,
    take: int,
    first: tuple[Tensor, Tensor],
    *,
    allowed: Mapping[int, Tensor],
    generator: torch.Generator,
) -> Tensor:
    """Return ``take`` rows of a pool, chosen in proportion to their weights; ``first`` begins the pool."""
    pool, weights = [first[0].int()], [first[1].double()]
    drawn, batch = len(first[0]), len(first[0])
    while (effective := _effective_size(torch.cat(weights))) < POOL_PER_ROW * take:
        if drawn + batch > _POOL_DRAWS:
            raise InputError(
                f"The model gives the condition on columns {sorted(allowed)} nearly no probability: "
                f"{drawn} draws are worth {effective:.0f} rows, and {take} rows need {POOL_PER_ROW * take:.0f}.",
                remedy="Widen the condition, or ask for fewer records.",
            )
        codes, weight = family.draw(batch, allowed=allowed, generator=generator)
        pool.append(codes.int())
        weights.append(weight.double())
        drawn += batch
    logs = torch.cat(weights)
    cumulative = (logs - logs.max()).exp().cumsum(dim=0)
    # A comb of equally spaced points (systematic resampling) takes no row oftener than its weight asks for.
    teeth = torch.arange(take, device=logs.device, dtype=torch.float64)
    offset = torch.rand(1, generator=generator, device=logs.device, dtype=torch.float64)
    places = torch.searchsorted(cumulative, (teeth + offset) * (cumulative[-1] / take), right=True)
    rows = torch.cat(pool)[places.clamp(max=drawn - 1)].long()
    return rows[torch.rand(take, generator=generator, device=logs.device).argsort()]


def _effective_size(log_weights: Tensor) -> float:
    """Return how many equally weighted rows the weights are worth (Kong, 1992)."""
    largest = log_weights.max()
    if not bool(largest.isfinite()):
        return 0.0
    weights = (log_weights - largest).exp()
    return float(weights.sum().square() / weights.square().sum())
