"""How the integer codes of a table lie in a one-hot vector, and what is publicly known of their geometry."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from protocol.errors import InputError


@dataclass(frozen=True, kw_only=True)
class OneHotLayout:
    """One block of indicator coordinates per column, in column order.

    Args:
        cardinalities: Number of codes of every column; each at least 1.
        ordered: For every column how many of its first codes lie on a line, such as the cells of a number; 0 where
            none do. Codes behind them, such as the one for missing, stand for themselves. Empty for no such column.
        groups: For every column the public group of each code, ``0..G-1``; empty for a column without groups. Empty
            for no such column.

    Raises:
        InputError: If the table is empty, or the geometry does not fit the cardinalities.

    Example:
        >>> layout = OneHotLayout(cardinalities=(2, 3))
        >>> layout.width, layout.offsets
        (5, (0, 2))
        >>> layout.encode(torch.tensor([[1, 0]])).tolist()
        [[0.0, 1.0, 1.0, 0.0, 0.0]]
    """

    cardinalities: tuple[int, ...]
    ordered: tuple[int, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        """Refuse an empty table, empty columns, and a geometry of another table."""
        if not self.cardinalities or min(self.cardinalities) < 1:
            raise InputError(
                f"A table needs columns of at least one code each, not {self.cardinalities}.",
                remedy="Mend the schema.",
            )
        if not self.ordered:
            object.__setattr__(self, "ordered", (0,) * self.columns)
        if not self.groups:
            object.__setattr__(self, "groups", ((),) * self.columns)
        lines = len(self.ordered) == self.columns and all(
            0 <= count <= size for count, size in zip(self.ordered, self.cardinalities, strict=True)
        )
        grouped = len(self.groups) == self.columns and all(
            not group or (len(group) == size and set(group) == set(range(max(group) + 1)))
            for group, size in zip(self.groups, self.cardinalities, strict=True)
        )
        if not lines or not grouped:
            raise InputError("The geometry of the columns does not fit their codes.", remedy="Mend the schema.")

    @property
    def columns(self) -> int:
        """Number of columns."""
        return len(self.cardinalities)

    @cached_property
    def width(self) -> int:
        """Length of the one-hot vector of a record."""
        return sum(self.cardinalities)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where the block of each column begins."""
        starts = [0]
        for size in self.cardinalities[:-1]:
            starts.append(starts[-1] + size)
        return tuple(starts)

    def encode(self, codes: Tensor) -> Tensor:
        """Return the one-hot vectors, float32 ``[n, width]``, of integer codes ``[n, columns]``."""
        flat = torch.zeros(codes.shape[0], self.width, device=codes.device)
        return flat.scatter_(1, self.places(codes), 1.0)

    def places(self, codes: Tensor) -> Tensor:
        """Return where the ones of the one-hot vectors are, int64 ``[n, columns]``."""
        return codes.long() + torch.tensor(self.offsets, device=codes.device)

    def split(self, blocks: Tensor) -> Sequence[Tensor]:
        """Return the views ``[n, K_j]`` of a tensor ``[n, width]``, one per column."""
        return torch.split_with_sizes(blocks, self.cardinalities, dim=-1)
