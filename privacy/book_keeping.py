"""Clipped gradient sums of networks of linear layers, without the gradient of any single unit (Bu et al., 2023).

The gradient of a linear layer at one record is the outer product of the signal that comes back to its output and of
what entered it. Norms and inner products of such gradients are products of inner products of vectors, and the clipped
sum is one matrix product. So one forward pass and one backward pass *to the outputs of the layers* are enough.

A bag of embeddings in mode ``sum`` is a linear layer too: what entered it is the vector that counts every index.

Rounding: the passes run in the model's own precision; norms, clipping and sums in float64. With the margin below, n
units of float64 arithmetic stay under the clip norm as long as n^2 2^-53 <= 2^-21, which is n <= 65,536 (the worst
case over all orders of summation; Casacuberta et al., 2022, section 3).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from protocol.errors import PrivacyError

Layer: TypeAlias = nn.Linear | nn.EmbeddingBag

_CLIP_MARGIN = 1.0 - 2.0**-20


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """One call of a layer: what entered it, ``[n, inputs]``, and where its output lies in the graph."""

    layer: Layer
    inputs: Tensor
    version: int
    edge: GradientEdge


@dataclass(frozen=True, kw_only=True)
class _Gradient:
    """The gradients of one call: row t is the outer product of ``signal[t]`` and ``inputs[t]``."""

    layer: Layer
    inputs: Tensor
    signal: Tensor


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

    Arguments, guarantee and errors are those of :func:`privacy.dp_sgd.clipped_gradient_sum`; the layers of ``module``
    must be called as modules, on one row per record.
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


def _is_linear(layer: nn.Module) -> bool:
    """Return whether the layer's gradient is an outer product; subclasses may do anything and are not trusted."""
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
            passes.append(
                _Pass(layer=layer, inputs=inputs, version=inputs._version, edge=get_gradient_edge(output))
            )

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
    signals = torch.autograd.grad(losses.sum(), [each.edge for each in passes], allow_unused=True)
    return [
        _Gradient(layer=each.layer, inputs=each.inputs, signal=signal)
        for each, signal in zip(passes, signals, strict=True)
        if signal is not None
    ]


def _record_weights(gradients: Sequence[_Gradient], *, units: Tensor | None, clip_norm: float) -> Tensor:
    """Return what each record's gradient is multiplied with, ``[n]``, float64."""
    squares = _products(gradients, shift=0)
    if units is None:
        return clip_factors(squares.sqrt(), clip_norm)
    _, index, counts = units.to(squares.device).unique_consecutive(return_inverse=True, return_counts=True)
    total = torch.zeros(len(counts), dtype=torch.float64, device=squares.device).index_add(0, index, squares)
    for shift in range(1, int(counts.max())):
        same = index[shift:] == index[:-shift]
        total.index_add_(0, index[shift:], torch.where(same, 2.0 * _products(gradients, shift=shift), 0.0))
    # Rounding may leave a tiny negative square where the records of a unit cancel out.
    factors = clip_factors(total.clamp(min=0.0).sqrt() / counts, clip_norm) / counts
    return factors[index]


def _products(gradients: Sequence[_Gradient], *, shift: int) -> Tensor:
    """Return the inner products of the gradients of records t and t + shift, ``[n - shift]``, float64."""
    total = torch.zeros(1, dtype=torch.float64, device=gradients[0].signal.device)
    for left in gradients:
        for right in gradients:
            if left.layer is right.layer:
                inputs = _input_products(left, right, shift=shift)
                total = total + inputs * _row_products(left.signal, right.signal, shift=shift)
    return total


def _input_products(left: _Gradient, right: _Gradient, *, shift: int) -> Tensor:
    """Return the inner products of what entered the layer, with a one for the bias, ``[n - shift]``, float64."""
    if isinstance(left.layer, nn.EmbeddingBag):
        rows = len(left.inputs) - shift
        equal = left.inputs[:rows, :, None] == right.inputs[shift:, None, :]
        return equal.sum(dim=(1, 2)).double()
    bias = left.layer.bias is not None and left.layer.bias.requires_grad
    if not left.layer.weight.requires_grad:
        return torch.ones(len(left.inputs) - shift, dtype=torch.float64, device=left.inputs.device)
    return _row_products(left.inputs, right.inputs, shift=shift) + (1.0 if bias else 0.0)


def _row_products(left: Tensor, right: Tensor, *, shift: int) -> Tensor:
    """Return the inner product of rows t and t + shift in float64, which squares of float32 cannot overflow."""
    if shift == 0 and left is right:
        return torch.linalg.vector_norm(left, dim=1, dtype=torch.float64).square()
    return torch.linalg.vecdot(left[: len(left) - shift].double(), right[shift:].double(), dim=1)


def _weighted_sums(gradients: Sequence[_Gradient], weights: Tensor) -> dict[int, Tensor]:
    """Return the gradients summed over records with their weights, float64, by the identity of the parameter."""
    keep = weights > 0
    every = bool(keep.all())
    orders: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    sums: dict[int, Tensor] = {}

    def add(parameter: Tensor | None, value: Tensor) -> None:
        if parameter is not None and parameter.requires_grad:
            sums[id(parameter)] = sums[id(parameter)] + value if id(parameter) in sums else value

    # The widest bag first: narrower bags of the same indices then use its order.
    for each in sorted(gradients, key=lambda gradient: -gradient.inputs.shape[1]):
        signal = each.signal.double() * weights[:, None]
        signal = signal if every else torch.where(keep[:, None], signal, 0.0)
        if isinstance(each.layer, nn.EmbeddingBag):
            add(each.layer.weight, _bag_sum(each.layer, each.inputs, signal, orders=orders))
            continue
        if each.layer.weight.requires_grad:
            inputs = each.inputs.double()
            inputs = inputs if every else torch.where(keep[:, None], inputs, 0.0)
            add(each.layer.weight, signal.T @ inputs)
        add(each.layer.bias, signal.sum(dim=0))
    return sums


def _bag_sum(
    layer: nn.EmbeddingBag,
    indices: Tensor,
    signal: Tensor,
    *,
    orders: dict[tuple[int, int], tuple[Tensor, Tensor]],
) -> Tensor:
    """Return the sum over records of signals at their indices, ``[rows of the table, outputs]``.

    It is a bag itself: one bag per row of the table, which holds the records that named the row. Sorting makes the
    bags; the layers of an autoregressive decoder see prefixes of the same columns and share one sort.
    """
    wide = indices.shape[1]
    place = (indices.data_ptr(), indices.stride(0))
    if place not in orders:
        orders[place] = indices.flatten().sort(stable=True)
    rows, positions = orders[place]
    columns = len(positions) // len(indices)
    if wide < columns:
        inside = positions % columns < wide
        rows, positions = rows[inside], positions[inside]
    starts = torch.searchsorted(rows, torch.arange(layer.num_embeddings, device=rows.device))
    records = torch.div(positions, columns, rounding_mode="floor")
    return nn.functional.embedding_bag(records, signal, offsets=starts, mode="sum")
