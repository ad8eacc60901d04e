"""A linear layer that is told of the ones in its input by their places."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from protocol.errors import InputError

_FLOAT32 = torch.finfo(torch.float32)


class IndicatorLinear(nn.Linear):
    """A linear layer without bias whose input may be mostly zeros: a short vector, and one number at few places.

    Such an input is never written out: the layer adds up the columns of its weight that the places name. It may be
    called in four ways, each on one row per record:

    - ``layer(inputs)``, float ``[n, in_features]``: an ordinary linear layer;
    - ``layer(places)``, int64 or int32 ``[n, m]``: what enters is ``scale`` times the number of times that a place is
      named;
    - ``layer(vector, places)``: a vector, float ``[n, v]``, and behind it the above, places counted from 0;
    - ``layer(vector, rest)``: two parts of an ordinary input, of which the second may need no gradient.

    Args:
        in_features: Length of the whole input.
        out_features: Length of the output.
        scale: The number at a place; not zero, and of a size that float32 can hold.

    Raises:
        InputError: If ``scale`` is out of range, or places are no integers.

    Example:
        >>> layer = IndicatorLinear(4, 1, scale=0.5)
        >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 2.0, 4.0, 8.0]]))
        >>> layer(torch.tensor([[3.0]]), torch.tensor([[0, 2]])).tolist()
        [[8.0]]
        >>> layer.entered(torch.tensor([[3.0]]), torch.tensor([[0, 2]])).tolist()
        [[3.0, 0.5, 0.0, 0.5]]
    """

    def __init__(self, in_features: int, out_features: int, *, scale: float = 1.0) -> None:
        super().__init__(in_features, out_features, bias=False)
        if not _FLOAT32.tiny <= abs(scale) <= _FLOAT32.max:
            raise InputError(f"Scale {scale} of a layer of indicators.", remedy="Give a number near 1.")
        self._scale = float(scale)

    @property
    def scale(self) -> float:
        """The number at a place; it stays the same, so that all calls of the layer mean the same by a place."""
        return self._scale

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        """Return the output, ``[n, out_features]``."""
        if second is None:
            return self._part(first, self.weight)
        start = first.shape[1]
        outputs = functional.linear(first, self.weight[:, :start])
        if second.shape[1] == 0 and _are_places(second):
            return outputs
        return outputs + self._part(second, self.weight[:, start:])

    def entered(self, first: Tensor, second: Tensor | None = None, *, dtype: torch.dtype | None = None) -> Tensor:
        """Return what the arguments of a call stand for, written out: ``[n, in_features]``.

        Args:
            first: As for a call.
            second: As for a call.
            dtype: A floating-point type; None for that of the weight.
        """
        dtype = self.weight.dtype if dtype is None else dtype
        parts = [first] if second is None else [first, second]
        start = 0 if second is None else first.shape[1]
        return torch.cat([self._written_out(p, start, dtype) if _are_places(p) else p.to(dtype) for p in parts], dim=1)

    def _part(self, inputs: Tensor, weight: Tensor) -> Tensor:
        if not _are_places(inputs):
            return functional.linear(inputs, weight)
        if inputs.shape[1] == 0:  # zero, by way of the weight so that its gradient is zero too
            return functional.linear(weight.new_zeros(inputs.shape), weight[:, :0])
        # A row for every place, so that the numbers that belong together are neighbours.
        return self.scale * functional.embedding_bag(inputs, weight.T.contiguous(), mode="sum")

    def _written_out(self, places: Tensor, start: int, dtype: torch.dtype) -> Tensor:
        rows = self.weight.new_zeros(len(places), self.in_features - start, dtype=dtype)
        return rows.scatter_add_(1, places.long(), torch.full_like(places, self.scale, dtype=dtype))


def _are_places(inputs: Tensor) -> bool:
    """Return whether these are places and no numbers."""
    if not inputs.is_floating_point() and inputs.dtype not in (torch.int64, torch.int32):
        raise InputError(f"Places of type {inputs.dtype}.", remedy="Give them as torch.int64.")
    return not inputs.is_floating_point()
