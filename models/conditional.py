"""Records drawn under conditions, such as ``sex = F``: from the model's conditional distribution.

A family draws column by column and keeps to the restrictions at each turn. Such a row follows the conditional
distribution once it is weighted with the probability that an unrestricted row would have met every
restriction at its turn. Two ways turn weighted rows into plain ones:

- **Rejection**, exact: a weight is a probability, so a row is kept with just that probability.
- **Resampling** (Rubin, 1987), where rejection would throw away nearly everything: rows are chosen from a
  larger pool in proportion to their weights. Its error falls with the effective sample size of the pool,
  (sum w)^2 / sum w^2, which is at least :data:`POOL_PER_ROW` times the number of rows that are taken from it.

Constraints between columns, of which families know nothing, come in as a function that completes drawn rows and says
which of them stand; a row that does not stand has the weight zero.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from models.family import Family
from protocol.errors import InputError

# Below this share of rows kept, resampling takes over, where it needs fewer draws.
LEAST_ACCEPTANCE = 1 / 64
# Effective rows of the pool per row taken from it.
POOL_PER_ROW = 4.0
# Most rows taken from one pool, and most draws into it: what bounds memory and time.
_POOL_TAKE = 8192
_POOL_DRAWS = 1 << 20
# Rows drawn at a time, and numbers that these may have as one-hot vectors and codes together.
_ROWS = 16_384
_NUMBERS = 1 << 25
# Rejection gives up where fewer rows than this are kept of that many draws.
_LEAST_KEPT = 64


class Rows(NamedTuple):
    """Rows that were drawn and completed.

    Attributes:
        codes: ``[n, columns]``, int64.
        values: ``[n, v]``, float64: what the completion adds to the codes, such as numbers within their cells.
        stands: ``[n]``, bool: whether the row may occur at all.
    """

    codes: Tensor
    values: Tensor
    stands: Tensor


Complete = Callable[[Tensor], Rows]
"""Completes drawn codes ``[n, columns]``; the rows stay on the device of the codes."""


def sample_where(
    family: Family,
    count: int,
    *,
    allowed: Mapping[int, Tensor],
    generator: torch.Generator,
    batch: int | None = None,
) -> Tensor:
    """Draw records from the model's distribution under conditions.

    Args:
        family: The model.
        count: How many records, not negative.
        allowed: For a column index, the boolean mask ``[K_j]`` of codes that may occur; empty for no
            condition.
        generator: Source of all draws, on the device of the model. One state of it and one ``batch`` give one
            result; another ``batch`` gives other rows of the same distribution.
        batch: Rows drawn at a time, at least 1; None for 16,384, or fewer where the table is so wide that these
            would take much memory.

    Returns:
        Codes ``[count, columns]``, int64, on the device of the model.

    Raises:
        InputError: If ``count`` or ``batch`` is out of range, a mask does not fit its column or allows no
            code, or the model gives the condition (nearly) no probability.
    """
    batch = _most_rows(family) if batch is None else batch
    _check_count(count, batch)
    _check_masks(family, allowed)
    if not allowed:
        return _draw_plain(family, count, generator=generator, batch=batch)
    return _sample(family, count, allowed=allowed, complete=_as_drawn, generator=generator, batch=batch)[0]


def sample_complete(
    family: Family,
    count: int,
    *,
    allowed: Mapping[int, Tensor],
    complete: Complete,
    generator: torch.Generator,
    batch: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw records from the model's distribution under conditions and constraints.

    Args:
        family: The model.
        count: As for :func:`sample_where`.
        allowed: As for :func:`sample_where`; what the model draws meets them, what completion writes may not.
        complete: Completes drawn codes and says which rows stand. The rows follow the model's distribution given
            that they stand.
        generator: As for :func:`sample_where`.
        batch: As for :func:`sample_where`.

    Returns:
        Codes ``[count, columns]``, int64, and values ``[count, v]``, float64, of rows that stand.

    Raises:
        InputError: As for :func:`sample_where`, or (nearly) no row stands.
    """
    batch = _most_rows(family) if batch is None else batch
    _check_count(count, batch)
    _check_masks(family, allowed)
    return _sample(family, count, allowed=allowed, complete=complete, generator=generator, batch=batch)


def _sample(
    family: Family,
    count: int,
    *,
    allowed: Mapping[int, Tensor],
    complete: Complete,
    generator: torch.Generator,
    batch: int,
) -> tuple[Tensor, Tensor]:
    """Draw until enough rows are kept; the first rows that stand decide between rejection and resampling."""
    source = _Source(family=family, allowed=allowed, complete=complete, generator=generator, batch=batch)
    kept: list[tuple[Tensor, Tensor]] = []
    found, exact = 0, None
    while found < count or not kept:
        rows, weight = source.draw()
        if exact is None and bool(weight.isfinite().any()):
            exact = _rejects_well(weight)
        if exact is not False:
            coins = torch.rand(batch, generator=generator, device=weight.device)
            places = (coins < weight.exp()).nonzero().squeeze(1)[: count - found]
            found += len(places)
            if found < count:
                source.check_worth(found)
        else:
            take = min(count - found, _POOL_TAKE)
            rows, places = _resample(source, take, (rows, weight))
            found += take
        kept.append((rows.codes[places].long(), rows.values[places]))
    return torch.cat([codes for codes, _ in kept]), torch.cat([values for _, values in kept])


def _rejects_well(weight: Tensor) -> bool:
    """Whether rejection keeps enough rows, or at least as many as resampling would give for the same draws."""
    acceptance = float(weight.exp().mean())
    return acceptance >= min(LEAST_ACCEPTANCE, _effective_size(weight.double()) / len(weight) / POOL_PER_ROW)


class _Source:
    """Completed rows of a model and their log-weights, and how many were drawn."""

    def __init__(
        self,
        *,
        family: Family,
        allowed: Mapping[int, Tensor],
        complete: Complete,
        generator: torch.Generator,
        batch: int,
    ) -> None:
        self.family, self.allowed, self.complete = family, allowed, complete
        self.generator, self.batch = generator, batch
        self.drawn = 0

    def draw(self) -> tuple[Rows, Tensor]:
        codes, weight = self.family.draw(self.batch, allowed=self.allowed, generator=self.generator)
        self.drawn += self.batch
        rows = self.complete(codes)
        return rows, weight.masked_fill(~rows.stands, -torch.inf)

    def check_worth(self, found: int) -> None:
        if self.drawn >= _POOL_DRAWS and found < self.drawn // _POOL_DRAWS * _LEAST_KEPT:
            raise self.refusal(f"{self.drawn} draws gave {found} rows.")

    def refusal(self, worth: str) -> InputError:
        condition = f"the condition on columns {sorted(self.allowed)}" if self.allowed else "records"
        constraints = "" if self.complete is _as_drawn else " under the schema's constraints"
        return InputError(
            f"The model gives {condition}{constraints} nearly no probability: {worth}",
            remedy="Widen the condition, or ask for fewer records.",
        )


def _as_drawn(codes: Tensor) -> Rows:
    nothing = torch.empty(len(codes), 0, dtype=torch.float64, device=codes.device)
    return Rows(codes, nothing, torch.ones(len(codes), dtype=torch.bool, device=codes.device))


def _most_rows(family: Family) -> int:
    return max(1, min(_ROWS, _NUMBERS // (family.layout.width + family.code_columns)))


def _check_count(count: int, batch: int) -> None:
    if count < 0 or batch < 1:
        raise InputError(f"{count} records in batches of {batch}.", remedy="Give at least 0 and at least 1.")


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


def _resample(source: _Source, take: int, first: tuple[Rows, Tensor]) -> tuple[Rows, Tensor]:
    """Return a pool of rows, and ``take`` places in it chosen in proportion to their weights; ``first`` begins it."""
    pool, weights = [_stored(first[0])], [first[1].double()]
    drawn = len(first[1])
    while (effective := _effective_size(torch.cat(weights))) < POOL_PER_ROW * take:
        if drawn + source.batch > _POOL_DRAWS:
            raise source.refusal(
                f"{drawn} draws are worth {effective:.0f} rows, and {take} rows need {POOL_PER_ROW * take:.0f}."
            )
        rows, weight = source.draw()
        pool.append(_stored(rows))
        weights.append(weight.double())
        drawn += source.batch
    logs = torch.cat(weights)
    cumulative = (logs - logs.max()).exp().cumsum(dim=0)
    # A comb of equally spaced points (systematic resampling) takes no row oftener than its weight asks for.
    teeth = torch.arange(take, device=logs.device, dtype=torch.float64)
    offset = torch.rand(1, generator=source.generator, device=logs.device, dtype=torch.float64)
    places = torch.searchsorted(cumulative, (teeth + offset) * (cumulative[-1] / take), right=True)
    # Rounding may put the last tooth on the total: the last row of any weight is then the answer.
    places = places.clamp(max=int((logs > -torch.inf).nonzero()[-1]))
    joined = Rows(*(torch.cat(parts) for parts in zip(*pool, strict=True)))
    return joined, places[torch.rand(take, generator=source.generator, device=logs.device).argsort()]


def _stored(rows: Rows) -> Rows:
    """Return rows as a pool keeps them: codes in half the memory."""
    return rows._replace(codes=rows.codes.int())


def _effective_size(log_weights: Tensor) -> float:
    """Return how many equally weighted rows the weights are worth (Kong, 1992)."""
    largest = log_weights.max()
    if not bool(largest.isfinite()):
        return 0.0
    weights = (log_weights - largest).exp()
    return float(weights.sum().square() / weights.square().sum())
