"""Clipped gradient sums of linear layers without the gradient of any single unit (Bu et al., 2023).

The gradient of a linear layer at one record is the outer product of the signal that comes back to its output
and of what entered it. Norms and inner products of such gradients are products of inner products of vectors,
and the clipped sum is one matrix product. So one forward pass and one backward pass *to the outputs of the
layers* are enough.

A bag of embeddings in mode ``sum`` is a linear layer too: what entered it is the vector that counts every
index.

Rounding: the passes run in the model's own precision; norms, clipping and sums in float64. With the margin
below, one unit more or less moves the sum of n units by at most the clip norm as long as n^2 2^-53 <= 2^-21,
which is n <= 65,536 (the worst case over all orders of summation; Casacuberta et al., 2022).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from privacy.bags import Bags, BagSorter
from protocol.errors import PrivacyError

Layer: TypeAlias = nn.Linear | nn.EmbeddingBag

_CLIP_MARGIN = 1.0 - 2.0**-20
# Bound on the relative rounding of a unit's squared norm in float64, against the square of the sum of its records'
# norms: sums over up to 2^12 layer calls and records, of up to 2^53 / 2^40 units of least precision each.
_ROUNDING = 2.0**-40


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """One call of a layer: what entered it, ``[n, inputs]``, and where its output lies in the graph."""

    layer: Layer
    inputs: Tensor
    version: int
    edge: GradientEdge


@dataclass(frozen=True, kw_only=True)
class _Gradient:
    """The gradients of one call: row t is the outer product of ``signal[t]`` (float64) and ``inputs[t]``."""

    layer: Layer
    inputs: Tensor
    signal: Tensor
    bags: Bags | None


def is_linear_network(module: nn.Module) -> bool:
    """Return whether every trainable parameter belongs to exactly one linear layer or bag of embeddings."""
    owners = [
        id(parameter)
        for layer in module.modules()
        if _is_linear(layer)
        for parameter in layer.parameters(recurse=False)
    ]
    return all(owners.count(id(p)) == 1 for p in module.parameters() if p.requires_grad)


def book_keeping_sum(
    module: nn.Module, loss: Callable[[], Tensor], *, units: Tensor | None, clip_norm: float
) -> Tensor:
    """Return the sum of clipped unit gradients, flat ``[d]``, float64, on the CPU.

    Arguments, guarantee and errors are those of :func:`privacy.dp_sgd.clipped_gradient_sum`; the layers of
    ``module`` must be called as modules, on one row per record.
    """
    with _traced(module) as passes:
        losses = loss()
    trainable = [p for p in module.parameters() if p.requires_grad]
    if losses.numel() == 0:
        return torch.zeros(sum(p.numel() for p in trainable), dtype=torch.float64)
    _check_passes(passes, losses)
    gradients = _backward(passes, losses)
    with torch.no_grad():
        weights = _record_weights(gradients, units=units, clip_norm=clip_norm)
        sums = _weighted_sums(gradients, weights)
        flat = [sums[id(p)].flatten() if id(p) in sums else p.new_zeros(p.numel()).double() for p in trainable]
    return torch.cat(flat).cpu()


def clip_factors(norms: Tensor, clip_norm: float) -> Tensor:
    """Return what every unit's gradient is multiplied with, ``[n]``; zero where its norm is not finite."""
    factors = (clip_norm * _CLIP_MARGIN / norms.clamp(min=1e-300)).clamp(max=1.0)
    return torch.where(norms.isfinite(), factors, 0.0)


def unit_index(units: Tensor) -> tuple[Tensor, Tensor]:
    """Return each record's dense unit index ``[n]``, and each unit's number of records."""
    index = torch.cat([units.new_zeros(1), (units.diff() != 0).to(units.dtype)]).cumsum(dim=0).long()
    return index, index.bincount()


def _is_linear(layer: nn.Module) -> bool:
    """Return whether the layer's gradient is an outer product; a subclass may do anything."""
    if type(layer) is nn.EmbeddingBag:
        return layer.mode == "sum" and layer.padding_idx is None and not layer.include_last_offset
    return type(layer) is nn.Linear


@contextmanager
def _traced(module: nn.Module) -> Iterator[list[_Pass]]:
    """Note every call of a linear layer that has something to train."""
    passes: list[_Pass] = []

    def note(layer: Layer, args: tuple[Tensor, ...], keywords: Mapping[str, object], output: Tensor) -> None:
        if len(args) != 1 or keywords or args[0].dim() != 2:
            raise PrivacyError(
                f"A layer {type(layer).__name__} was not called on one row per record.",
                remedy="Give it one positional tensor [records, inputs].",
            )
        if output.requires_grad:
            # The edge, not the tensor: an activation in place would move the tensor on in the graph.
            inputs = args[0].detach()
            passes.append(_Pass(layer=layer, inputs=inputs, version=inputs._version, edge=get_gradient_edge(output)))

    handles = [
        layer.register_forward_hook(note, with_kwargs=True)
        for layer in module.modules()
        if _is_linear(layer) and any(p.requires_grad for p in layer.parameters(recurse=False))
    ]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def _check_passes(passes: Sequence[_Pass], losses: Tensor) -> None:
    """Refuse what the book-keeping would get wrong."""
    if not passes:
        raise PrivacyError("The loss uses none of the model's layers.", remedy="Mend the model family.")
    for each in passes:
        if losses.dim() != 1 or len(each.inputs) != len(losses):
            raise PrivacyError(
                f"A layer saw {len(each.inputs)} rows, but the loss has shape {list(losses.shape)}.",
                remedy="Return one loss per record and give every layer one row per record.",
            )
        if each.inputs._version != each.version:
            raise PrivacyError(
                f"The input of a layer {type(each.layer).__name__} was changed in place.",
                remedy="Use operations that return a new tensor.",
            )


def _backward(passes: Sequence[_Pass], losses: Tensor) -> list[_Gradient]:
    """Run the backward pass to the outputs of the layers; calls that the loss does not depend on drop out."""
    signals: Sequence[Tensor | None] = torch.autograd.grad(
        losses.sum(), [each.edge for each in passes], allow_unused=True
    )
    sorter = BagSorter(each.inputs for each in passes if isinstance(each.layer, nn.EmbeddingBag))
    doubles: dict[tuple[int, tuple[int, ...], tuple[int, ...]], Tensor] = {}
    gradients = []
    for each, signal in zip(passes, signals, strict=True):
        if signal is None:
            continue
        # Layers whose outputs are added get one and the same signal: convert it once.
        place = (signal.data_ptr(), tuple(signal.shape), signal.stride())
        if place not in doubles:
            doubles[place] = signal.to(torch.float64, copy=True).contiguous()
        bags = sorter.bags(each.inputs) if isinstance(each.layer, nn.EmbeddingBag) else None
        gradients.append(_Gradient(layer=each.layer, inputs=each.inputs, signal=doubles[place], bags=bags))
    return gradients


def _record_weights(gradients: Sequence[_Gradient], *, units: Tensor | None, clip_norm: float) -> Tensor:
    """Return what each record's gradient is multiplied with, ``[n]``, float64."""
    squares = _products(gradients, pairs=None)
    if units is None:
        return clip_factors(squares.sqrt(), clip_norm)
    index, counts = unit_index(units.to(squares.device))
    total = torch.zeros(len(counts), dtype=torch.float64, device=squares.device).index_add(0, index, squares)
    for shift in range(1, int(counts.max())):
        first = (index[shift:] == index[:-shift]).nonzero().squeeze(1)
        total.index_add_(0, index[first], 2.0 * _products(gradients, pairs=(first, first + shift)))
    # Where the records of a unit nearly cancel out, the difference of their large squares is rounding and nothing
    # else, and a norm that looks small would leave a unit unclipped. So the norm is taken as larger by more than that.
    mass = torch.zeros_like(total).index_add(0, index, squares.sqrt())
    total = total.clamp(min=0.0) + _ROUNDING * mass.square()
    factors = clip_factors(total.sqrt() / counts, clip_norm) / counts
    weights: Tensor = factors[index]
    return weights


def _products(gradients: Sequence[_Gradient], *, pairs: tuple[Tensor, Tensor] | None) -> Tensor:
    """Return the inner products of the gradients of pairs of records; None pairs each with itself."""
    total = torch.zeros(1, dtype=torch.float64, device=gradients[0].signal.device)
    for left in gradients:
        for right in gradients:
            if left.layer is right.layer:
                inputs = _input_products(left, right, pairs=pairs)
                total = total + inputs * _row_products(left.signal, right.signal, pairs=pairs)
    return total


def _input_products(left: _Gradient, right: _Gradient, *, pairs: tuple[Tensor, Tensor] | None) -> Tensor:
    """Return the inner products of what entered the layer, with a one for the bias, float64."""
    if isinstance(left.layer, nn.EmbeddingBag):
        if pairs is None and left is right and left.bags is not None and left.bags.distinct:
            return torch.tensor(float(left.inputs.shape[1]), dtype=torch.float64, device=left.inputs.device)
        first, second = _rows(left.inputs, right.inputs, pairs)
        return (first[:, :, None] == second[:, None, :]).sum(dim=(1, 2)).double()
    bias = 1.0 if left.layer.bias is not None and left.layer.bias.requires_grad else 0.0
    if not left.layer.weight.requires_grad:
        count = len(left.inputs) if pairs is None else len(pairs[0])
        return torch.full((count,), bias, dtype=torch.float64, device=left.inputs.device)
    return _row_products(left.inputs, right.inputs, pairs=pairs) + bias


def _row_products(left: Tensor, right: Tensor, *, pairs: tuple[Tensor, Tensor] | None) -> Tensor:
    """Return the inner products of pairs of rows in float64, where squares of float32 cannot overflow."""
    if pairs is None and left is right:
        norms: Tensor = torch.linalg.vector_norm(left, dim=1, dtype=torch.float64)
        return norms.square()
    first, second = _rows(left, right, pairs)
    products: Tensor = torch.linalg.vecdot(first.double(), second.double(), dim=1)
    return products


def _rows(left: Tensor, right: Tensor, pairs: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Return the rows of the pairs."""
    return (left, right) if pairs is None else (left[pairs[0]], right[pairs[1]])


def _weighted_sums(gradients: Sequence[_Gradient], weights: Tensor) -> dict[int, Tensor]:
    """Return the weighted sums of the gradients, float64, by the identity of the parameter."""
    void = None if bool((weights > 0).all()) else (weights <= 0)[:, None]
    sums: dict[int, Tensor] = {}

    def add(parameter: Tensor | None, value: Tensor) -> None:
        if parameter is not None and parameter.requires_grad:
            sums[id(parameter)] = sums[id(parameter)] + value if id(parameter) in sums else value

    for signal in {id(each.signal): each.signal for each in gradients}.values():
        signal.mul_(weights[:, None])
        if void is not None:  # zero times a signal that is not finite is not zero
            signal.masked_fill_(void, 0.0)
    for each in gradients:
        if each.bags is not None:
            add(each.layer.weight, each.bags.sum(each.signal, rows=each.layer.weight.shape[0]))
            continue
        if each.layer.weight.requires_grad:
            inputs = each.inputs.double()
            inputs = inputs if void is None else inputs.masked_fill(void, 0.0)
            add(each.layer.weight, each.signal.T @ inputs)
        if isinstance(each.layer, nn.Linear):
            add(each.layer.bias, each.signal.sum(dim=0))
    return sums
