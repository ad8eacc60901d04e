"""A model family whose flagged records have losses with a known gradient, and the records that carry the flags.

The canary's loss is made of calls of the family's own layers, as any loss is: so what clips and sums gradients in
production meets nothing that it does not know.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.family import Family
from models.statistics import Statistics
from privacy.audit.mechanism.canaries import Canaries
from records.codec import check_codes
from records.dataset import Records
from records.schema import Schema

NO_CANARIES = Canaries(
    dimension=1,
    kinds=(),
    scales=np.zeros(0),
    owners=np.zeros(0, dtype=np.int64),
    coordinates=np.zeros(0, dtype=np.int64),
    weights=np.zeros(0),
)


class CanaryRecords(Records):
    """Records with one column more, which says which canary each is: 0 for none, i + 1 for canary i."""

    def __post_init__(self) -> None:
        """Check all columns but the flag."""
        check_codes(self.codes[:, :-1], self.schema)


def canary_records(canaries: NDArray[np.int64], *, schema: Schema, records_each: Sequence[int]) -> CanaryRecords:
    """Return records of some canaries; each canary is one unit.

    Args:
        canaries: int64 [n], numbers of canaries.
        schema: The study's.
        records_each: How many records the units have, in turns; (1,) for a study that protects records.
    """
    lengths = np.resize(np.asarray(records_each, dtype=np.int64), len(canaries))
    codes = np.zeros((int(lengths.sum()), len(schema.code_cardinalities) + 1), dtype=np.int32)
    codes[:, -1] = np.repeat(canaries + 1, lengths)
    persons = None
    if schema.person is not None:
        persons = np.repeat(np.arange(len(canaries), dtype=np.int64), lengths)
    return CanaryRecords(codes=codes, persons=persons, schema=schema)


def plain_records(codes: NDArray[np.int32], *, persons: NDArray[np.int64] | None, schema: Schema) -> CanaryRecords:
    """Return ordinary records, flagged as no canaries."""
    flagged = np.concatenate([codes, np.zeros((len(codes), 1), dtype=np.int32)], axis=1)
    return CanaryRecords(codes=flagged, persons=persons, schema=schema)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Terms:
    """What canaries use of one layer; entry 0 of each array is for records that are none.

    Attributes:
        layer: The layer.
        inputs: int64 [K + 1], the input whose weight is used.
        outputs: int64 [K + 1], the output whose weight is used.
        weights: float32 [K + 1], factor of that weight.
        bias_outputs: int64 [K + 1], the output whose bias is used.
        biases: float32 [K + 1], factor of that bias.
    """

    layer: nn.Linear | nn.EmbeddingBag
    inputs: Tensor
    outputs: Tensor
    weights: Tensor
    bias_outputs: Tensor
    biases: Tensor

    def loss(self, canaries: Tensor) -> Tensor:
        """The layer's part of every record's loss, ``[n]``, of canaries ``[n]``."""
        inputs, factors = self.inputs[canaries], self.weights[canaries]
        if isinstance(self.layer, nn.EmbeddingBag):
            outputs = self.layer(inputs[:, None])
            used: Tensor = outputs.gather(1, self.outputs[canaries, None]).squeeze(1)
            return factors * used
        entered = functional.one_hot(inputs, self.layer.in_features).float()
        outputs = self.layer(entered).gather(1, self.outputs[canaries, None]).squeeze(1)
        found: Tensor = factors * outputs
        if not _has_bias(self.layer):
            return found
        # The layer of nothing is its bias: taken away from the one, it is the other.
        nothing = self.layer(torch.zeros_like(entered))
        own = nothing.gather(1, self.outputs[canaries, None]).squeeze(1)
        other = nothing.gather(1, self.bias_outputs[canaries, None]).squeeze(1)
        found = factors * (outputs - own) + self.biases[canaries] * other
        return found

    def used_by(self, canaries: Tensor) -> bool:
        """Whether any of these canaries uses the layer."""
        return bool(((self.weights[canaries] != 0) | (self.biases[canaries] != 0)).any())


class CanaryStatistics(Statistics):
    """A family's statistics of one round, in which a canary adds its direction times its scale and the public bound.

    Every round of a twin is that one round, however many there are.

    Args:
        inner: The family's statistics.
        canaries: The canaries; their directions are of as many coordinates as the statistics of the round.
        seen: int64 ``[K + 1]``; set to one for every canary that comes by, and at 0 for records that are none.
        number: The family's round.
    """

    def __init__(self, inner: Statistics, canaries: Canaries, seen: NDArray[np.int64], *, number: int) -> None:
        self._inner, self._number, self._seen = inner, number, seen
        self._scales = torch.as_tensor(np.concatenate([[0.0], canaries.scales]))
        self._owners = torch.as_tensor(canaries.owners + 1)
        self._coordinates = torch.as_tensor(canaries.coordinates)
        self._weights = torch.as_tensor(canaries.weights)

    def dimension(self, number: int) -> int:
        """That of the family's round."""
        del number
        return self._inner.dimension(self._number)

    def norm(self, number: int) -> float:
        """That of the family's round: what a canary adds is longer, and has to be clipped."""
        del number
        return self._inner.norm(self._number)

    def norms(self, number: int, codes: Tensor) -> Tensor:
        """Those of the family's round; a canary's is its scale times the bound."""
        canaries = codes[:, -1]
        self._seen[canaries.numpy()] = 1
        own = self._inner.norms(self._number, codes[:, :-1])
        return torch.where(canaries > 0, self._scales[canaries].abs() * self.norm(number), own)

    def weighted_sum(self, number: int, codes: Tensor, weights: Tensor) -> Tensor:
        """That of the family's round, over records that are no canaries, and the canaries' directions."""
        canaries, plain = codes[:, -1], codes[:, -1] == 0
        total = self._inner.weighted_sum(self._number, codes[plain][:, :-1], weights[plain]).double()
        each = torch.zeros(len(self._scales), dtype=torch.float64).index_add(
            0, canaries[~plain], weights[~plain] * self._scales[canaries[~plain]]
        )
        return total.index_add(0, self._coordinates, each[self._owners] * self._weights * self.norm(number))


class CanaryFamily(Family):
    """A family with canaries among its records.

    The first columns of the codes are the family's; the last says which canary a record is. A canary's loss is
    ``scale * <weights, direction>``; that of any other record is the family's own.

    Args:
        inner: The family.
        canaries: The canaries.
        statistics: Whether they are canaries of statistics; else they are of gradients.
    """

    def __init__(self, inner: Family, canaries: Canaries, *, statistics: bool = False) -> None:
        super().__init__(inner.layout)
        self.inner = inner
        self._seen = np.zeros(len(canaries) + 1, dtype=np.int64)
        self._terms = [] if statistics else _layer_terms(inner.shared, canaries)
        self._statistics = None
        if statistics and inner.statistics is not None:
            self._statistics = CanaryStatistics(inner.statistics, canaries, self._seen, number=1)

    @property
    def code_columns(self) -> int:
        """Those of the family, and the flag."""
        return self.inner.code_columns + 1

    @property
    def most_rows_per_pass(self) -> int:
        """That of the family."""
        return self.inner.most_rows_per_pass

    @property
    def views_per_record(self) -> int:
        """That of the family."""
        return self.inner.views_per_record

    def views(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Those of the family, each with the flag of its record."""
        flags = codes[:, -1:].repeat_interleave(self.views_per_record, dim=0)
        return torch.cat([self.inner.views(codes[:, :-1], generator=generator), flags], dim=1)

    @property
    def shared(self) -> nn.Module:
        """That of the family."""
        return self.inner.shared

    @property
    def generator(self) -> nn.Module:
        """That of the family."""
        return self.inner.generator

    def unit_loss(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return one loss per record, ``[n]``, of codes ``[n, columns + 1]``."""
        canaries = codes[:, -1].long()
        self._seen[canaries.numpy()] = 1
        losses = self.inner.unit_loss(codes[:, :-1], generator=generator)
        flagged = torch.zeros_like(losses)
        for terms in self._terms:
            if terms.used_by(canaries):
                flagged = flagged + terms.loss(canaries)
        return torch.where(canaries > 0, flagged, losses)

    @property
    def statistics(self) -> Statistics | None:
        """That of the family's first round, with canaries; None for canaries of gradients."""
        return self._statistics

    @property
    def seen(self) -> int:
        """How many canaries, and records that are none counted as one, came by since they were taken."""
        return int(self._seen.sum())

    def take_seen(self) -> NDArray[np.int64]:
        """Return which canaries came by since the last call, int64 ``[K]`` of zeros and ones."""
        seen = self._seen[1:].copy()
        self._seen[:] = 0
        return seen

    def draw(self, count: int, *, allowed: Mapping[int, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw from the family."""
        return self.inner.draw(count, allowed=allowed, generator=generator)


def reachable_coordinates(shared: nn.Module) -> NDArray[np.bool_]:
    """Which coordinates of a contribution canaries can be made of: those of linear layers and bags, bool ``[d]``."""
    linear = {id(parameter) for layer in _layers(shared) for parameter in layer.parameters(recurse=False)}
    parts = [np.full(p.numel(), id(p) in linear) for p in shared.parameters() if p.requires_grad]
    return np.concatenate(parts)


def tensor_sizes(shared: nn.Module) -> list[int]:
    """Number of coordinates of every tensor of a contribution."""
    return [p.numel() for p in shared.parameters() if p.requires_grad]


def _has_bias(layer: nn.Module) -> bool:
    return any(name == "bias" for name, _ in layer.named_parameters(recurse=False))


def _layers(shared: nn.Module) -> list[nn.Linear | nn.EmbeddingBag]:
    return [layer for layer in shared.modules() if isinstance(layer, nn.Linear | nn.EmbeddingBag)]


def _layer_terms(shared: nn.Module, canaries: Canaries) -> list[_Terms]:
    """Sort the canaries' coordinates by the layers that they belong to."""
    starts: dict[int, int] = {}
    total = 0
    for parameter in shared.parameters():
        if parameter.requires_grad:
            starts[id(parameter)] = total
            total += parameter.numel()
    factors = canaries.scales[canaries.owners] * canaries.weights
    return [_terms(layer, starts, canaries, factors) for layer in _layers(shared)]


def _terms(
    layer: nn.Linear | nn.EmbeddingBag, starts: Mapping[int, int], canaries: Canaries, factors: NDArray[np.float64]
) -> _Terms:
    whole = np.zeros((3, len(canaries) + 1), dtype=np.int64)
    parts = np.zeros((2, len(canaries) + 1), dtype=np.float32)

    def inside(parameter: nn.Parameter | None) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Owner, place in the tensor, and factor of each entry that lies in a parameter."""
        start = -1 if parameter is None else starts.get(id(parameter), -1)
        size = 0 if parameter is None or start < 0 else parameter.numel()
        found = (canaries.coordinates >= start) & (canaries.coordinates < start + size)
        return canaries.owners[found] + 1, canaries.coordinates[found] - start, factors[found]

    own = dict(layer.named_parameters(recurse=False))
    owners, places, values = inside(own.get("weight"))
    rows, columns = np.divmod(places, layer.weight.shape[1])
    bag = isinstance(layer, nn.EmbeddingBag)
    whole[0, owners], whole[1, owners], parts[0, owners] = (
        rows if bag else columns,
        columns if bag else rows,
        values,
    )
    owners, places, values = inside(own.get("bias"))
    whole[2, owners], parts[1, owners] = places, values
    indices, numbers = torch.from_numpy(whole), torch.from_numpy(parts)
    return _Terms(
        layer=layer,
        inputs=indices[0],
        outputs=indices[1],
        weights=numbers[0],
        bias_outputs=indices[2],
        biases=numbers[1],
    )
