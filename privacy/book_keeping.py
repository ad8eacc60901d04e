"""Clipped gradient sums of linear layers without the gradient of any single unit (Bu et al., 2023).

The gradient of a linear layer at one record is the outer product of the signal that comes back to its output
and of what entered it. Norms and inner products of such gradients are products of inner products of vectors,
and the clipped sum is one matrix product. So one forward pass and one backward pass *to the outputs of the
layers* are enough.

A bag of embeddings in mode ``sum`` is a linear layer too: what entered it is the vector that counts every
index. So is :class:`privacy.indicator_linear.IndicatorLinear`, whose zeros are never written out: the norm of
ones at known places is counted, and the sum over records is one of signals by place.

Rounding: the passes run in the model's own precision; norms, clipping and sums in float64. With the margin
below, one unit more or less moves the sum of n units by at most the clip norm as long as n^2 2^-53 <= 2^-21,
which is n <= 65,536 (the worst case over all orders of summation; Casacuberta et al., 2022). That holds where a
record is a unit and a layer is called once. Calls of a layer and records of a unit can cancel out, and their sum
rounds as what they are before: then it is as long as n m 2^-53 <= 2^-21, where m is the sum over units of how long
their calls and records are together, clipped and in clip norms. For one unit that is at most 2^20.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from privacy.indicator_linear import IndicatorLinear
from privacy.layer_gradients import Layer, LayerCall, LayerGradients
from protocol.errors import PrivacyError

_CLIP_MARGIN = 1.0 - 2.0**-20
# Bound on the relative rounding of a unit's squared norm in float64, against the square of the sum of the norms of its
# records' layer calls: sums over up to 2^12 of these, of up to 2^53 / 2^40 units of least precision each.
_ROUNDING = 2.0**-40


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """One call of a layer: its arguments, ``[n, ...]`` each, and where its output lies in the graph."""

    layer: Layer
    inputs: tuple[Tensor, ...]
    versions: tuple[int, ...]
    edge: GradientEdge


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
        return gradients.weighted_sum(weights, trainable=trainable).cpu()


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
    return type(layer) in (nn.Linear, IndicatorLinear)


@contextmanager
def _traced(module: nn.Module) -> Iterator[list[_Pass]]:
    """Note every call of a linear layer that has something to train."""
    passes: list[_Pass] = []

    def note(layer: Layer, args: tuple[Tensor | None, ...], keywords: Mapping[str, object], output: Tensor) -> None:
        most, tensors = (2, "one or two tensors") if isinstance(layer, IndicatorLinear) else (1, "one tensor")
        inputs = tuple(each.detach() for each in args if each is not None)
        if not len(inputs) == len(args) in range(1, most + 1) or keywords or any(each.dim() != 2 for each in inputs):
            raise PrivacyError(
                f"A layer {type(layer).__name__} was not called on one row per record.",
                remedy=f"Give it {tensors} [records, inputs], positional.",
            )
        if output.requires_grad:
            # The edge, not the tensor: an activation in place would move the tensor on in the graph.
            versions = tuple(each._version for each in inputs)
            passes.append(_Pass(layer=layer, inputs=inputs, versions=versions, edge=get_gradient_edge(output)))

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
        rows = {len(part) for part in each.inputs}
        if losses.dim() != 1 or rows != {len(losses)}:
            raise PrivacyError(
                f"A layer saw {max(rows)} rows, but the loss has shape {list(losses.shape)}.",
                remedy="Return one loss per record and give every layer one row per record.",
            )
        if tuple(part._version for part in each.inputs) != each.versions:
            raise PrivacyError(
                f"The input of a layer {type(each.layer).__name__} was changed in place.",
                remedy="Use operations that return a new tensor.",
            )


def _backward(passes: Sequence[_Pass], losses: Tensor) -> LayerGradients:
    """Run the backward pass to the outputs of the layers; calls that the loss does not depend on drop out."""
    signals: Sequence[Tensor | None] = torch.autograd.grad(
        losses.sum(), [each.edge for each in passes], allow_unused=True
    )
    calls = [
        LayerCall(layer=each.layer, inputs=each.inputs, signal=signal)
        for each, signal in zip(passes, signals, strict=True)
        if signal is not None
    ]
    if not calls:
        raise PrivacyError("The loss depends on none of the model's layers.", remedy="Mend the model family.")
    return LayerGradients(calls)


def _record_weights(gradients: LayerGradients, *, units: Tensor | None, clip_norm: float) -> Tensor:
    """Return what each record's gradient is multiplied with, ``[n]``, float64."""
    # Where the calls of a layer, or the records of a unit, nearly cancel out, the difference of their large squares is
    # rounding and nothing else, and a norm that looks small would leave a unit unclipped. So the norm is taken as
    # larger by more than that: by a share of what it was before anything cancelled out.
    squares, parts = gradients.squares()
    if units is None:
        return clip_factors((squares.clamp(min=0.0) + _ROUNDING * parts).sqrt(), clip_norm)
    index, counts = unit_index(units.to(squares.device))
    total = torch.zeros(len(counts), dtype=torch.float64, device=squares.device).index_add(0, index, squares)
    for shift in range(1, int(counts.max())):
        first = (index[shift:] == index[:-shift]).nonzero().squeeze(1)
        total.index_add_(0, index[first], 2.0 * gradients.products((first, first + shift)))
    mass = torch.zeros_like(total).index_add(0, index, parts.sqrt())
    total = total.clamp(min=0.0) + _ROUNDING * mass.square()
    factors = clip_factors(total.sqrt() / counts, clip_norm) / counts
    weights: Tensor = factors[index]
    return weights
