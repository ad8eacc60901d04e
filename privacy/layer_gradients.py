"""The gradients of linear layers at single records: their inner products and weighted sums, never written out.

The gradient of a call of a linear layer at a record is the outer product of the signal that comes back to its output
and of what entered it. Inner products of such gradients are products of inner products of vectors; a weighted sum is
one matrix product, or, where numbers entered at known places, a sum of signals by place. All in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations, product
from typing import TypeAlias

import torch
from torch import Tensor, nn

from privacy.bags import PlaceMatrix, Prefixes, place_of
from privacy.indicator_linear import IndicatorLinear
from protocol.errors import PrivacyError

Layer: TypeAlias = nn.Linear | IndicatorLinear | nn.EmbeddingBag
Pairs: TypeAlias = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class LayerCall:
    """One call of a layer, and what came back to its output.

    Attributes:
        layer: The layer.
        inputs: The arguments, ``[n, ...]`` each. They entered one behind the other; the last one may be integers, each
            of which stands for a number at that place.
        signal: ``[n, outputs]``, of the model's precision.
    """

    layer: Layer
    inputs: tuple[Tensor, ...]
    signal: Tensor

    @property
    def scale(self) -> float:
        """The number at a place."""
        return self.layer.scale if isinstance(self.layer, IndicatorLinear) else 1.0

    @property
    def biased(self) -> bool:
        """Whether a one for a trainable bias entered as well."""
        return isinstance(self.layer, nn.Linear) and self.layer.bias is not None and self.layer.bias.requires_grad

    @property
    def widths(self) -> list[int | None]:
        """The number of columns of each argument; None for places."""
        return [part.shape[1] if part.is_floating_point() else None for part in self.inputs]

    @property
    def entered(self) -> Tensor:
        """What entered a linear layer, written out, float64 ``[n, inputs]``."""
        if isinstance(self.layer, IndicatorLinear):
            # Not in the model's precision: a scale rounded here and not elsewhere is another number.
            return self.layer.entered(*self.inputs, dtype=torch.float64)
        return self.inputs[0].double()


class LayerGradients:
    """The gradients of n records: of every call, the outer products of its signals and of what entered.

    Args:
        calls: At least one.
    """

    def __init__(self, calls: Sequence[LayerCall]) -> None:
        # Layers whose outputs are added get one and the same signal: it is kept once.
        kept: dict[tuple[object, ...], Tensor] = {}
        keys = [(call.signal.shape[1], place_of(call.signal)) for call in calls]
        for key, call in zip(keys, calls, strict=True):
            kept.setdefault(key, call.signal)
        widths = [part.shape[1] for part in kept.values()]
        count, device = len(calls[0].signal), calls[0].signal.device
        self._signals = torch.empty(count, sum(widths), dtype=torch.float64, device=device)
        views = dict(zip(kept, torch.split_with_sizes(self._signals, widths, dim=1), strict=True))
        for whole, part in kept.items():
            views[whole].copy_(part)
        starts = dict(zip(kept, accumulate([0, *widths]), strict=False))
        self._gradients = [
            _Gradient(call=call, signal=views[key], start=starts[key]) for key, call in zip(keys, calls, strict=True)
        ]
        self._layers: dict[int, list[_Gradient]] = {}
        for each in self._gradients:
            self._layers.setdefault(id(each.call.layer), []).append(each)
        self._entered = _Entered(calls)

    def squares(self) -> tuple[Tensor, Tensor]:
        """Return the squared norms of the gradients, and how large they are before calls of one layer cancel out.

        Returns:
            Two vectors, float64 ``[n]``. The second is the sum over layers of the square of the sum over calls of the
            norms of their outer products: at least the first, and the same where every layer was called once. The
            rounding of the first is relative to the second; it may even be negative.
        """
        squares = parts = torch.zeros(1, dtype=torch.float64, device=self._signals.device)
        for calls in self._layers.values():
            own = [self._product(each, each, pairs=None) for each in calls]
            if len(own) == 1:
                squares, parts = squares + own[0], parts + own[0]
                continue
            cross = [2.0 * self._product(left, right, pairs=None) for left, right in combinations(calls, 2)]
            squares = squares + torch.stack([*own, *cross]).sum(dim=0)
            parts = parts + torch.stack(own).sqrt().sum(dim=0).square()
        return squares, parts

    def products(self, pairs: Pairs) -> Tensor:
        """Return the inner products of the gradients of pairs of records, float64, one per pair."""
        total = torch.zeros(len(pairs[0]), dtype=torch.float64, device=self._signals.device)
        for calls in self._layers.values():
            for left, right in product(calls, repeat=2):
                total += self._product(left, right, pairs=pairs)
        return total

    def weighted_sum(self, weights: Tensor, *, trainable: Sequence[nn.Parameter]) -> Tensor:
        """Return the sum of the gradients, each times its record's weight, flat ``[d]``, float64.

        Signals are weighted in place: this is the last that can be asked.

        Args:
            weights: float64 ``[n]``, not negative. A record of weight zero adds zero, whatever its gradient is.
            trainable: The parameters, in the order of the result.
        """
        void = None if bool((weights > 0).all()) else (weights <= 0)[:, None]
        self._signals.mul_(weights[:, None])
        if void is not None:  # zero times a signal that is not finite is not zero
            self._signals.masked_fill_(void, 0.0)
        sizes = [p.numel() for p in trainable]
        flat = torch.zeros(sum(sizes), dtype=torch.float64, device=self._signals.device)
        parts = torch.split_with_sizes(flat, sizes)
        held = {id(p): part.view_as(p) for p, part in zip(trainable, parts, strict=True)}
        named: dict[int, list[_Named]] = {}
        for each in self._gradients:
            layer = each.call.layer
            if each.call.biased and isinstance(layer, nn.Linear):
                held[id(layer.bias)] += each.signal.sum(dim=0)
            if id(layer.weight) in held:
                sums = held[id(layer.weight)]
                for place in self._add(each, sums.T if isinstance(layer, nn.EmbeddingBag) else sums, void=void):
                    named.setdefault(id(self._entered.matrix(place.places)), []).append(place)
        for together in named.values():
            self._add_named(sorted(together, key=lambda each: each.places.shape[1]))
        return flat

    def _add(self, gradient: "_Gradient", sums: Tensor, *, void: Tensor | None) -> list["_Named"]:
        """Add what entered as numbers to the sums ``[outputs, inputs]``; return where sums by place belong."""
        for part in gradient.call.inputs:
            if not part.is_floating_point():
                return [_Named(gradient=gradient, places=part, sums=sums)]  # the last part, of all places left
            sums[:, : part.shape[1]] += gradient.signal.T @ self._entered.double(part, void=void)
            sums = sums[:, part.shape[1] :]
        return []

    def _add_named(self, together: Sequence["_Named"]) -> None:
        """Add the sums by place of calls that saw more and more of the same columns."""
        widths = [each.gradient.signal.shape[1] for each in together]
        firsts = list(accumulate([0, *widths[:-1]]))
        begin = together[0].gradient.start
        if [each.gradient.start - begin for each in together] == firsts:
            beside = self._signals[:, begin : begin + sum(widths)]
        else:
            beside = torch.cat([each.gradient.signal for each in together], dim=1)
        # A column adds to the calls that saw it, which are the last ones.
        starts = [
            next(first for first, each in zip(firsts, together, strict=True) if each.places.shape[1] > column)
            for column in range(together[-1].places.shape[1])
        ]
        rows = max(each.sums.shape[1] for each in together)
        totals = self._entered.matrix(together[0].places).sums(beside, starts=starts, rows=rows)
        for first, width, each in zip(firsts, widths, together, strict=True):
            each.sums.add_(totals[: each.sums.shape[1], first : first + width].T, alpha=each.gradient.call.scale)

    def _product(self, left: "_Gradient", right: "_Gradient", *, pairs: Pairs | None) -> Tensor:
        """Return the inner products of the outer products of two calls of a layer; None pairs a record with itself."""
        entered = self._entered_products(left, right, pairs=pairs)
        return entered * _row_products(left.signal, right.signal, pairs=pairs)

    def _entered_products(self, left: "_Gradient", right: "_Gradient", *, pairs: Pairs | None) -> Tensor:
        """Return the inner products of what entered the layer, with a one for the bias, float64."""
        one, two = left.call, right.call
        count = len(self._signals) if pairs is None else len(pairs[0])
        total = torch.full((count,), float(one.biased), dtype=torch.float64, device=self._signals.device)
        if not one.layer.weight.requires_grad:
            return total
        if one.widths != two.widths:  # one layer, called in two ways
            return total + _row_products(one.entered, two.entered, pairs=pairs)
        for mine, other in zip(one.inputs, two.inputs, strict=True):
            if not mine.is_floating_point():
                total += one.scale**2 * self._entered.common_places(mine, other, pairs=pairs)
            elif pairs is None and mine is other:
                total += self._entered.squares(mine)
            else:
                total += _row_products(mine, other, pairs=pairs)
        return total


@dataclass(frozen=True, kw_only=True)
class _Gradient:
    """A call, its signals in float64, and their first column in the matrix of all signals."""

    call: LayerCall
    signal: Tensor
    start: int


@dataclass(frozen=True, kw_only=True)
class _Named:
    """Where the sums by place of a call belong: ``[outputs, places]``, a view of the flat vector."""

    gradient: _Gradient
    places: Tensor
    sums: Tensor


class _Entered:
    """What entered the layers: work on parts of one and the same matrix is done once, for its widest part."""

    def __init__(self, calls: Sequence[LayerCall]) -> None:
        self._keys = {id(part): place_of(part) for call in calls for part in call.inputs}
        self._prefixes = Prefixes()
        for part in (part for call in calls for part in call.inputs):
            self._prefixes.add(part)
        self._matrices: dict[tuple[object, ...], PlaceMatrix] = {}
        self._doubles: dict[tuple[object, ...], Tensor] = {}
        self._squares: dict[tuple[object, ...], Tensor] = {}

    def matrix(self, places: Tensor) -> PlaceMatrix:
        """Return the widest matrix that these places are a part of."""
        key = self._keys[id(places)]
        if key not in self._matrices:
            self._matrices[key] = PlaceMatrix(self._prefixes.widest(places))
        return self._matrices[key]

    def double(self, numbers: Tensor, *, void: Tensor | None) -> Tensor:
        """Return numbers in float64, zero where the record is void, ``[n, 1]``."""
        key = self._keys[id(numbers)]
        if key not in self._doubles:
            doubles = self._prefixes.widest(numbers).double()
            self._doubles[key] = doubles if void is None else doubles.masked_fill(void, 0.0)
        return self._doubles[key][:, : numbers.shape[1]]

    def squares(self, numbers: Tensor) -> Tensor:
        """Return the squared norm of every row, float64."""
        key = (numbers.shape[1], *self._keys[id(numbers)])
        if key not in self._squares:
            self._squares[key] = _row_products(numbers, numbers, pairs=None)
        return self._squares[key]

    def common_places(self, left: Tensor, right: Tensor, *, pairs: Pairs | None) -> Tensor:
        """Return how many pairs of a place named left and the same place named right there are, float64."""
        known = self.matrix(left)
        apart = known is self.matrix(right) and left.shape == right.shape and known.apart(left.shape[1])
        if apart and pairs is None:
            return torch.full((len(left),), float(left.shape[1]), dtype=torch.float64, device=left.device)
        first, second = _rows(left, right, pairs)
        if apart:  # then only within a column
            return (first == second).sum(dim=1).double()
        return (first[:, :, None] == second[:, None, :]).sum(dim=(1, 2)).double()


def _row_products(left: Tensor, right: Tensor, *, pairs: Pairs | None) -> Tensor:
    """Return the inner products of pairs of rows in float64, where squares of float32 cannot overflow."""
    if pairs is None and left is right:
        norms: Tensor = torch.linalg.vector_norm(left, dim=1, dtype=torch.float64)
        return norms.square()
    if left.shape[1] != right.shape[1]:  # a width of 1 would be repeated in silence
        raise PrivacyError(
            f"A layer was given {left.shape[1]} and {right.shape[1]} columns in one pass.",
            remedy="Give it as many as it has inputs.",
        )
    first, second = _rows(left, right, pairs)
    products: Tensor = torch.linalg.vecdot(first.double(), second.double(), dim=1)
    return products


def _rows(left: Tensor, right: Tensor, pairs: Pairs | None) -> Pairs:
    """Return the rows of the pairs."""
    return (left, right) if pairs is None else (left[pairs[0]], right[pairs[1]])
