"""What the three statistics rounds of `models.images.moments` release of a record with an image.

1. Everybody: how many, the mean image, the mean energy, and the second moments of the images' contrast, in low
   frequencies. They show in which few directions images differ.
2. Classes: how many, their mean and their second moments in these directions, and the tables of the columns.
3. Components: the same for the parts of each class whose centre is nearest.

Images are looked at through the lowest frequencies of the discrete cosine transform (Ahmed, Natarajan and Rao, 1974),
which are public. A matrix travels as its upper triangle, off the diagonal times the square root of two, so that the
vector has the norm of the matrix. Each round's parts are scaled so that their squared bounds add up to one.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.images.shape import ImageShape
from models.layout import OneHotLayout
from models.statistics import Statistics
from protocol.errors import InputError

ROUNDS = 3
# Parts of the squared norm. First round: count, energy, mean, contrast. Later ones: counts, means, second moments.
NUMBER_SHARE, ENERGY_SHARE, MEAN_SHARE, CONTRAST_SHARE = 0.02, 0.02, 0.06, 0.9
COUNT_SHARE, CENTRE_SHARE, SPREAD_SHARE = 0.04, 0.24, 0.72
_ROWS = 1024
_BLANK = 1e-6


def frequencies(image: ImageShape, most: int) -> Tensor:
    """Return the lowest frequencies of images: orthonormal rows, float64 ``[f, image.size]``.

    The first rows, one per channel, are constant: the brightness of the channel.

    Args:
        image: The shape.
        most: Frequencies along each side, at least 1.

    Example:
        >>> frequencies(ImageShape(height=8, width=8), 3).shape
        torch.Size([9, 64])
    """
    down, across = _cosines(image.height, most), _cosines(image.width, most)
    rows = torch.kron(down, across)
    channels = torch.eye(image.channels, dtype=torch.float64)
    constant = torch.kron(channels, rows[:1])
    return torch.cat([constant, torch.kron(channels, rows[1:])])


def _cosines(side: int, most: int) -> Tensor:
    """Return orthonormal cosines ``[min(side, most), side]``, the constant first."""
    order = torch.arange(min(side, most), dtype=torch.float64)[:, None]
    places = torch.arange(side, dtype=torch.float64) + 0.5
    waves = torch.cos(torch.pi * order * places / side)
    lengths: Tensor = torch.linalg.vector_norm(waves, dim=1, keepdim=True)
    return waves / lengths


def triangle(matrices: Tensor) -> Tensor:
    """Return symmetric matrices ``[..., d, d]`` as vectors of the same norm, ``[..., d (d + 1) / 2]``."""
    row, column = torch.triu_indices(matrices.shape[-1], matrices.shape[-1], device=matrices.device)
    return matrices[..., row, column] * _lengths(row == column).to(matrices.dtype)


def matrices(triangles: Tensor, size: int) -> Tensor:
    """Return the symmetric matrices ``[..., size, size]`` of which :func:`triangle` made vectors."""
    row, column = torch.triu_indices(size, size, device=triangles.device)
    entries = triangles / _lengths(row == column).to(triangles.dtype)
    found = triangles.new_zeros(*triangles.shape[:-1], size, size)
    found[..., row, column] = entries
    found[..., column, row] = entries
    return found


def _lengths(diagonal: Tensor) -> Tensor:
    """Return how long an entry is in the norm of its matrix: those off the diagonal occur twice."""
    return (2.0 - diagonal.double()).sqrt()


class Axes(nn.Module):
    """What sites receive: which directions to look along, and from which centres.

    Args:
        features: Frequencies, the constant ones of each channel included.
        channels: Channels of an image.
        classes: Number of classes.
        components: Parts of each class.
        directions: Numbers to which an image is reduced, the brightness of each channel included.
    """

    def __init__(self, *, features: int, channels: int, classes: int, components: int, directions: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.zeros(directions - channels, features - channels))
        self.centres = nn.Parameter(torch.zeros(classes, components, directions))
        self.radius = nn.Parameter(torch.ones(1))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Begin with the lowest frequencies, and with centres at zero."""
        nn.init.eye_(self.directions)
        self.centres.zero_()
        self.radius.fill_(1.0)

    def reduced(self, features: Tensor) -> Tensor:
        """Return the numbers ``[n, directions]``, float64, of the frequencies ``[n, features]`` of images."""
        channels = self.centres.shape[2] - self.directions.shape[0]
        return torch.cat([features[:, :channels], features[:, channels:] @ self.directions.double().T], dim=1)


class Everybody(NamedTuple):
    """Sums over all records.

    Attributes:
        number: How many, ``[]``.
        energy: Of squared distances from a grey image, in the largest that there is, ``[]``.
        mean: Of these distances' frequencies, ``[f]``.
        contrast: Second moments of all frequencies but the brightness, each image's brought to norm one.
    """

    number: Tensor
    energy: Tensor
    mean: Tensor
    contrast: Tensor


class Seen(NamedTuple):
    """Sums over records, each of a cell: its class, or the component nearest to it.

    Attributes:
        counts: ``[classes, components]``.
        means: Sums of numbers in the unit ball, ``[classes, components, d]``.
        spreads: Sums of their squares, ``[classes, components, d, d]``.
        tables: For every column but the label, sums ``[classes, K_j]``; empty in the third round.
    """

    counts: Tensor
    means: Tensor
    spreads: Tensor
    tables: list[Tensor]


def _filled(codes: Tensor) -> Tensor:
    """Return up to ``_ROWS`` records with blank ones behind them, ``_ROWS`` in all.

    A product of matrices rounds a row differently in matrices of other sizes, and where two centres are equally near,
    rounding decides between them. With one size for all, a record more or less leaves the others' places as they are.
    """
    return torch.cat([codes, codes.new_zeros(_ROWS - len(codes), codes.shape[1])])


class ImageMoments(Statistics):
    """The three rounds; see the module.

    Args:
        layout: The columns.
        image: The shape of the images.
        label: Index of the column that says the class; None for one class of all.
        axes: What sites have received.
        frequencies_per_side: Frequencies along each side of an image.
    """

    def __init__(
        self, layout: OneHotLayout, image: ImageShape, *, label: int | None, axes: Axes, frequencies_per_side: int
    ) -> None:
        self._image, self._label, self._axes = image, label, axes
        self.cosines = frequencies(image, frequencies_per_side)
        self.classes, self._components, self.directions = axes.centres.shape
        self.others = tuple(column for column in range(layout.columns) if column != label)
        self._sizes = [layout.cardinalities[column] for column in self.others]
        self._columns = layout.columns

    @property
    def features(self) -> int:
        """Frequencies of an image."""
        return len(self.cosines)

    def components(self, number: int) -> int:
        """Return the cells of a class: one in the second round."""
        return self._components if number == ROUNDS else 1

    def dimension(self, number: int) -> int:
        """See :meth:`Statistics.dimension`."""
        return sum(self._parts(number))

    def norm(self, number: int) -> float:
        """Return 1: the squared bounds of the parts add up to it."""
        self._parts(number)
        return 1.0

    def _parts(self, number: int) -> list[int]:
        """Return the coordinates of each part of a round's vector."""
        if not 1 <= number <= ROUNDS:
            raise InputError(f"Statistics round {number}.", remedy=f"Images have rounds 1 to {ROUNDS}.")
        if number == 1:
            contrast = self.features - self._image.channels
            return [1, 1, self.features, contrast * (contrast + 1) // 2]
        cells, size = self.classes * self.components(number), self.directions
        tables = [self.classes * each for each in self._sizes] if number == 2 else []
        return [cells, *tables, cells * size, cells * (size * (size + 1) // 2)]

    def weighted_sum(self, number: int, codes: Tensor, weights: Tensor) -> Tensor:
        """See :meth:`Statistics.weighted_sum`; 1,024 records at a time."""
        total = torch.zeros(self.dimension(number), dtype=torch.float64, device=codes.device)
        with torch.no_grad():
            for part, counted in zip(torch.split(codes, _ROWS), torch.split(weights.double(), _ROWS), strict=True):
                if len(part):
                    total += self._everybody(part, counted) if number == 1 else self._cells(number, part, counted)
        return total

    def norms(self, number: int, codes: Tensor) -> Tensor:
        """Return the norms of the same numbers that are added up; see :meth:`Statistics.norms`."""
        self._parts(number)
        with torch.no_grad():
            found = [self._norms(number, part) for part in torch.split(codes, _ROWS) if len(part)]
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64, device=codes.device)

    def _norms(self, number: int, codes: Tensor) -> Tensor:
        if number == 1:
            energy, mean, contrast = self._looks(codes)
            squares = NUMBER_SHARE + ENERGY_SHARE * energy.square() + MEAN_SHARE * mean.square().sum(dim=1)
            return (squares + CONTRAST_SHARE * contrast.square().sum(dim=1).square()).sqrt()
        length = self._placed(number, codes)[1].square().sum(dim=1)
        return (COUNT_SHARE + CENTRE_SHARE * length + SPREAD_SHARE * length.square()).sqrt()

    def _images(self, codes: Tensor) -> Tensor:
        """Return images from 0 to 1, float64 ``[n, image.size]``; whatever the codes are, none is outside."""
        return (codes[:, self._columns :].double() / (self._image.levels - 1)).clamp(0.0, 1.0)

    def _looks(self, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return energy ``[n]``, mean ``[n, f]`` and contrast ``[n, f - channels]``, each of a norm of at most 1."""
        count, codes = len(codes), _filled(codes)
        # From a grey image no image is farther than half of the largest norm.
        away = (self._images(codes) - 0.5) * (2.0 / self._image.size**0.5)
        mean = away @ self.cosines.to(away.device).T
        contrast = mean[:, self._image.channels :]
        lengths = torch.linalg.vector_norm(contrast, dim=1, keepdim=True)
        contrast = torch.where(lengths > _BLANK, contrast / lengths.clamp(min=_BLANK), 0.0)
        return away.square().sum(dim=1)[:count], mean[:count], contrast[:count]

    def _everybody(self, codes: Tensor, weights: Tensor) -> Tensor:
        energy, mean, contrast = self._looks(codes)
        second = triangle((contrast * weights[:, None]).T @ contrast)
        parts = [
            weights.sum()[None] * NUMBER_SHARE**0.5,
            (weights @ energy)[None] * ENERGY_SHARE**0.5,
            weights @ mean * MEAN_SHARE**0.5,
        ]
        return torch.cat([*parts, second * CONTRAST_SHARE**0.5])

    def _placed(self, number: int, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return each record's cell ``[n]``, and where it lies in the unit ball around the cell's centre ``[n, d]``."""
        count, codes = len(codes), _filled(codes)
        label = codes[:, self._label].long() if self._label is not None else codes.new_zeros(len(codes)).long()
        features = self._images(codes) @ self.cosines.to(codes.device).T
        components = self.components(number)
        # Between a record and each centre of its class.
        away = self._axes.reduced(features)[:, None] - self._axes.centres.double()[label, :components]
        # What sites receive need not be finite.
        away = (away / self._axes.radius.double()).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        lengths = torch.linalg.vector_norm(away, dim=2)
        nearest = lengths.argmin(dim=1)
        rows = torch.arange(len(codes), device=codes.device)
        shortened = away[rows, nearest] / lengths[rows, nearest].clamp(min=1.0)[:, None]
        return (label * components + nearest)[:count], shortened[:count]

    def _cells(self, number: int, codes: Tensor, weights: Tensor) -> Tensor:
        cell, ball = self._placed(number, codes)
        cells = self.classes * self.components(number)
        counts = weights.new_zeros(cells).index_add(0, cell, weights)
        means = weights.new_zeros(cells, self.directions).index_add(0, cell, ball * weights[:, None])
        spreads = weights.new_zeros(cells, self.directions, self.directions)
        for each in sorted(set(cell.tolist())):
            inside = cell == each
            spreads[each] = (ball[inside] * weights[inside, None]).T @ ball[inside]
        tables = list(self._tables(number, codes, weights))
        count_scale = (COUNT_SHARE / (1 + len(tables))) ** 0.5
        parts = [table.flatten() * count_scale for table in (counts, *tables)]
        return torch.cat([*parts, means.flatten() * CENTRE_SHARE**0.5, triangle(spreads).flatten() * SPREAD_SHARE**0.5])

    def _tables(self, number: int, codes: Tensor, weights: Tensor) -> Iterator[Tensor]:
        """Give for every column but the label the sums ``[classes * K_j]``, class by class."""
        label = 0 if self._label is None else codes[:, self._label].long()
        for column, size in zip(self.others, self._sizes, strict=True):
            if number == 2:
                places = label * size + codes[:, column].long()
                yield weights.new_zeros(self.classes * size).index_add(0, places, weights)

    def read_everybody(self, means: Tensor) -> Everybody:
        """Return what the first round released, in the scale of the records."""
        number, energy, mean, contrast = torch.split(means, self._parts(1))
        return Everybody(
            number=number[0] / NUMBER_SHARE**0.5,
            energy=energy[0] / ENERGY_SHARE**0.5,
            mean=mean / MEAN_SHARE**0.5,
            contrast=matrices(contrast / CONTRAST_SHARE**0.5, self.features - self._image.channels),
        )

    def read_cells(self, number: int, means: Tensor) -> Seen:
        """Return what the second or third round released, in the scale of the records."""
        shape, size = (self.classes, self.components(number)), self.directions
        counts, *tables, first, second = torch.split(means, self._parts(number))
        scale = (COUNT_SHARE / (1 + len(tables))) ** 0.5
        return Seen(
            counts=counts.view(shape) / scale,
            means=first.view(*shape, size) / CENTRE_SHARE**0.5,
            spreads=matrices(second.view(*shape, -1) / SPREAD_SHARE**0.5, size),
            tables=[table.view(self.classes, -1) / scale for table in tables],
        )
