"""The clipped gradients of single records, as an attacker uses them, without writing any of them out.

The gradient of a linear layer at one record is the outer product of the signal that comes back to the layer's output
and of what entered it (Bu et al. 2023); a bag of embeddings is a linear layer on the counts of its indices. So inner
products with a vector, inner products between records and weighted sums are products of small matrices, also where
the gradients of all records would not fit into memory.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from models.family import Family
from privacy.dp_sgd import is_linear_network
from privacy.indicator_linear import IndicatorLinear
from protocol.errors import InputError
from records.bins import Codes

_Layer: TypeAlias = nn.Linear | nn.EmbeddingBag


@dataclass(frozen=True, kw_only=True, eq=False)
class _Call:
    """One call of a layer: what entered it, float32 [n, inputs], and what came back to its output, [n, outputs]."""

    layer: _Layer
    inputs: Tensor
    signal: Tensor


class RecordGradients:
    """The clipped gradients of n records at given weights.

    Args:
        model: The model; its weights are replaced.
        weights: float32 [d], of its shared part.
        codes: int32 [n, columns].
        clip_norm: Every gradient is scaled down to at most this norm.
        seed: Of the latent noise that the loss draws.

    Raises:
        InputError: If the model has other layers than linear ones and bags of embeddings.
    """

    def __init__(self, model: Family, weights: Tensor, codes: Codes, *, clip_norm: float, seed: int) -> None:
        if not is_linear_network(model.shared):
            raise InputError(
                f"{type(model).__name__} has layers whose gradients are no outer products.",
                remedy="Leave the attack on gradients out for this family.",
            )
        self._places = {
            id(parameter): (start, parameter)
            for start, parameter in _starts([each for each in model.shared.parameters() if each.requires_grad])
        }
        vector_to_parameters(weights.float(), [parameter for _, parameter in self._places.values()])
        with _noted(model.shared) as found:
            losses = model.unit_loss(torch.as_tensor(codes), generator=torch.Generator().manual_seed(seed))
        signals = torch.autograd.grad(losses.sum(), [output for _, _, output in found], allow_unused=True)
        self._calls = [
            _Call(layer=layer, inputs=_dense(layer, inputs), signal=signal)
            for (layer, inputs, _), signal in zip(found, signals, strict=True)
            if signal is not None
        ]
        self._factors = (clip_norm / self._squares(len(codes)).sqrt().clamp(min=1e-30)).clamp(max=1.0)

    @torch.no_grad()
    def along(self, vector: Tensor) -> Tensor:
        """Inner product of every gradient with a vector [d], float64 [n]."""
        found = torch.zeros(len(self._factors), dtype=torch.float64)
        for call in self._calls:
            matrix, bias = self._parts(call.layer, vector.float())
            rows = call.inputs @ matrix.T
            found += ((rows if bias is None else rows + bias) * call.signal).sum(dim=1).double()
        return found * self._factors

    @torch.no_grad()
    def products(self) -> Tensor:
        """Inner products of all pairs of gradients, float64 [n, n]."""
        count = len(self._factors)
        found = torch.zeros(count, count)
        for call in self._calls:
            found += (call.inputs @ call.inputs.T + _bias(call.layer)) * (call.signal @ call.signal.T)
        return found.double() * self._factors[:, None] * self._factors

    @torch.no_grad()
    def combined(self, shares: Tensor) -> Tensor:
        """Sum of the gradients, each times its share, float64 [d]; shares are float64 [n]."""
        size = sum(parameter.numel() for _, parameter in self._places.values())
        found = torch.zeros(size, dtype=torch.float64)
        for call in self._calls:
            signal = call.signal * (shares * self._factors).float()[:, None]
            outer = signal.T @ call.inputs
            self._add(found, call.layer.weight, outer.T if isinstance(call.layer, nn.EmbeddingBag) else outer)
            if isinstance(call.layer, nn.Linear) and _bias(call.layer):
                self._add(found, call.layer.bias, signal.sum(dim=0))
        return found

    def _squares(self, count: int) -> Tensor:
        found = torch.zeros(count, dtype=torch.float64)
        for call in self._calls:
            entered = call.inputs.double().square().sum(dim=1) + _bias(call.layer)
            found += entered * call.signal.double().square().sum(dim=1)
        return found

    def _parts(self, layer: _Layer, vector: Tensor) -> tuple[Tensor, Tensor | None]:
        """What of a vector belongs to a layer's matrix [outputs, inputs], and to its bias."""
        matrix = self._part(layer.weight, vector)
        if isinstance(layer, nn.EmbeddingBag):
            return matrix.T, None
        return matrix, self._part(layer.bias, vector) if _bias(layer) else None

    def _part(self, parameter: Tensor, vector: Tensor) -> Tensor:
        start = self._places[id(parameter)][0]
        return vector[start : start + parameter.numel()].view_as(parameter)

    def _add(self, total: Tensor, parameter: Tensor, value: Tensor) -> None:
        start = self._places[id(parameter)][0]
        total[start : start + parameter.numel()] += value.flatten().double()


def _bias(layer: _Layer) -> float:
    """One where the layer has a bias: what enters it is then one longer."""
    return 1.0 if isinstance(layer, nn.Linear) and layer.bias is not None else 0.0


def _dense(layer: _Layer, inputs: Tensor) -> Tensor:
    """What entered a layer as vectors: for a bag, how often it holds each index."""
    if isinstance(layer, nn.Linear):
        return inputs
    counts = torch.zeros(len(inputs), layer.num_embeddings)
    return counts.scatter_add_(1, inputs.long(), torch.ones(inputs.shape))


def _starts(parameters: list[nn.Parameter]) -> Iterator[tuple[int, nn.Parameter]]:
    """Every parameter with the place of its first number in the flat vector."""
    start = 0
    for parameter in parameters:
        yield start, parameter
        start += parameter.numel()


@contextmanager
def _noted(module: nn.Module) -> Iterator[list[tuple[_Layer, Tensor, Tensor]]]:
    """Note every call of a layer: the layer, what entered it, and its output."""
    found: list[tuple[_Layer, Tensor, Tensor]] = []

    def note(layer: _Layer, args: tuple[Tensor, ...], keywords: Mapping[str, object], output: Tensor) -> None:
        del keywords
        inputs = layer.entered(*args) if isinstance(layer, IndicatorLinear) else args[0]
        found.append((layer, inputs.detach(), output))

    layers = [each for each in module.modules() if isinstance(each, nn.Linear | nn.EmbeddingBag)]
    handles = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
