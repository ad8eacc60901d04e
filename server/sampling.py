"""Synthetic records drawn from a generator: under conditions, and under the constraints of the schema."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.conditional import Rows, sample_complete, sample_where
from models.family import Family
from records.bins import Floats
from records.completion import Completion
from records.narrowing import narrowed
from records.rules import Mask
from records.schema import Schema

_BATCH = 65_536
_IMAGE_BATCH = 4096
_WITHIN_CELLS = 1  # sets the stream of draws within cells apart from others of one seed


def draw_records(
    model: Family, schema: Schema, count: int, *, allowed: Mapping[int, Mask], seed: int
) -> Iterator[tuple[NDArray[np.int32], dict[int, Floats]]]:
    """Draw synthetic records, batch by batch.

    Args:
        model: The generator.
        schema: Its data dictionary; every record fulfils its constraints.
        count: How many records.
        allowed: For a column index, the mask of codes that may occur.
        seed: The same seed, count and condition give the same records on the same machine.

    Yields:
        Codes int32 ``[m, columns]``, and for the index of each column that constraints need as a number the values
        float64 ``[m]`` to write, NaN for missing; see `records.completion`.

    Raises:
        InputError: The model gives the conditions under the constraints (nearly) no probability.
    """
    generator = torch.Generator(model.device).manual_seed(seed)
    batch = _BATCH if schema.image is None else _IMAGE_BATCH
    sizes = [min(batch, count - start) for start in range(0, count, batch)]
    if not schema.rule_book.rules:
        masks = {column: torch.as_tensor(mask) for column, mask in allowed.items()}
        for size in sizes:
            drawn = sample_where(model, size, allowed=masks, generator=generator)
            yield _codes(model.depict(drawn, generator=generator)), {}
        return
    masks = {column: torch.as_tensor(mask) for column, mask in narrowed(schema.rule_book, allowed).items()}
    completion = Completion(schema.rule_book, allowed=allowed, generator=np.random.default_rng((seed, _WITHIN_CELLS)))
    for size in sizes:
        codes, values = sample_complete(
            model, size, allowed=masks, complete=_Completed(completion), generator=generator
        )
        held = values.cpu().numpy()
        yield (
            _codes(model.depict(codes, generator=generator)),
            {index: held[:, place] for place, index in enumerate(completion.measured)},
        )


class _Completed:
    """A completion of tables as models ask for it: from tensor to tensor."""

    def __init__(self, completion: Completion) -> None:
        self._completion = completion

    def __call__(self, codes: Tensor) -> Rows:
        found = self._completion.complete(codes.cpu().numpy())
        values = np.empty((len(codes), len(self._completion.measured)))
        for place, index in enumerate(self._completion.measured):
            values[:, place] = found.values[index]
        return Rows(*(torch.as_tensor(part, device=codes.device) for part in (found.codes, values, found.stands)))


def _codes(codes: Tensor) -> NDArray[np.int32]:
    return codes.cpu().numpy().astype(np.int32)
