"""What the families of images have in common: columns beside the image, views of a record, bounds of memory."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.autoregressive import AutoregressiveDecoder
from models.family import Family
from models.geometry import FeatureMap
from models.images.augmentation import record_views
from models.images.shape import ImageShape, pixel_codes
from models.layout import OneHotLayout
from models.marginals import MarginalCounts, code_logits
from models.statistics import Statistics
from privacy.dp_sgd import parameter_count
from protocol.errors import StudyError

# Numbers in one pass at a site: gradients of single records are held as float64, 128 MiB of them.
_PASS_NUMBERS = 1 << 24
_LEAST_ROWS = 8
_DRAWN_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What a study may choose about every family of images that is trained on gradients.

    Args:
        latent: Size of the latent vector.
        views: Views of a record in a step, whose gradients are averaged before the record is clipped (De et al.,
            2022). 1 is the record as it is; more are it and that many less one changed copies.
        shift: Pixels by which a changed copy is moved at most, up, down, left and right.
        flip: Whether changed copies are mirrored left to right half of the time. Not for letters, nor for organs that
            lie on one side.
        mixed_precision: Whether forward and backward passes compute in bfloat16, on a CUDA device only. Norms,
            clipping and sums are float64 all the same.
    """

    latent: int = 16
    views: int = 1
    shift: int = 1
    flip: bool = False
    mixed_precision: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes out of range."""
        if self.latent < 1:
            raise StudyError(f"model.options.latent={self.latent}.", remedy="Give a whole number of at least 1.")
        if not 1 <= self.views <= 64:
            raise StudyError(f"model.options.views={self.views}.", remedy="Give a whole number from 1 to 64.")
        if not 0 <= self.shift <= 4:
            raise StudyError(f"model.options.shift={self.shift}.", remedy="Give a whole number from 0 to 4.")


class ColumnModel(nn.Module):
    """The columns beside the image: their distribution, and their features as a condition of the image.

    Args:
        layout: The columns.
    """

    def __init__(self, layout: OneHotLayout) -> None:
        super().__init__()
        # The latent vector is always zero: columns come first, and the image's latent vector knows nothing of them.
        self.decoder = AutoregressiveDecoder(layout, latent=1)
        self.features = FeatureMap(layout)

    @property
    def size(self) -> int:
        """Number of features of a record's columns."""
        return sum(self.features.sizes)

    def negative_log_likelihood(self, columns: Tensor) -> Tensor:
        """Return ``-log p(columns)``, ``[n]``, of codes ``[n, columns]``."""
        return self.decoder.negative_log_likelihood(columns, self._nothing(len(columns), columns.device))

    def condition(self, columns: Tensor) -> Tensor:
        """Return the features ``[n, size]`` of codes ``[n, columns]``."""
        features: Tensor = self.features(columns)
        return features

    @torch.no_grad()
    def sample(self, count: int, *, allowed: Mapping[int, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw codes ``[count, columns]`` with their log-weights; as :meth:`AutoregressiveDecoder.sample`."""
        latent = self._nothing(count, next(self.parameters()).device)
        return self.decoder.sample(latent, allowed=allowed, generator=generator)

    def _nothing(self, count: int, device: torch.device) -> Tensor:
        return torch.zeros(count, 1, device=device)


class ImageModel(Family):
    """A family of records with an image, whichever way it is trained.

    Args:
        layout: The columns beside the image.
        image: The shape of the images.
    """

    def __init__(self, layout: OneHotLayout, image: ImageShape) -> None:
        super().__init__(layout)
        self.image = image

    @property
    def code_columns(self) -> int:
        """Number of codes of a record."""
        return self.layout.columns + self.image.size

    @abstractmethod
    def depict(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return columns with the codes of an image of them behind; see :meth:`Family.depict`."""


class ImageFamily(ImageModel):
    """A family of images, conditional on the columns beside them, that is trained on gradients.

    Args:
        layout: The columns.
        image: The shape of the images.
        options: The family's options.
    """

    def __init__(self, layout: OneHotLayout, image: ImageShape, options: ImageOptions) -> None:
        super().__init__(layout, image)
        self.options: ImageOptions = options
        self._counts = MarginalCounts(layout)

    def initialise(self, *, generator: torch.Generator) -> None:
        """Draw new initial weights; the distribution of the columns starts flat."""
        super().initialise(generator=generator)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                bound = float(layer.weight[0].numel()) ** -0.5
                nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
                if layer.bias is not None:
                    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
            elif isinstance(layer, nn.GroupNorm | nn.BatchNorm2d):
                layer.reset_parameters()
        self.columns.decoder.initialise()

    @property
    @abstractmethod
    def columns(self) -> ColumnModel:
        """The model of the columns; it lies in one place of :attr:`shared`, and in :attr:`generator`."""

    @property
    def most_rows_per_pass(self) -> int:
        """Records whose gradients and activations fit the memory of a pass."""
        return max(_LEAST_ROWS, _PASS_NUMBERS // max(parameter_count(self.shared), 32 * self.image.size))

    @property
    def views_per_record(self) -> int:
        """Rows that :meth:`views` makes of a record."""
        return self.options.views

    def views(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return every record with its changed copies behind it; see :meth:`Family.views`."""
        options = self.options
        return record_views(
            codes, self.image, count=options.views, shift=options.shift, flip=options.flip, generator=generator
        )

    @property
    def statistics(self) -> Statistics:
        """Counts of every column."""
        return self._counts

    def learn_statistics(self, number: int, means: Tensor, *, deviation: float, generator: torch.Generator) -> None:
        """Start with the released shares of the columns; see :meth:`Family.learn_statistics`."""
        del number, generator
        found = self._counts.read(means, deviation=deviation)
        self.columns.decoder.set_shapes(code_logits(found.columns, deviation=found.deviation))

    @torch.no_grad()
    def draw(self, count: int, *, allowed: Mapping[int, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw columns; see :meth:`Family.draw`. Their images come from :meth:`depict`."""
        return self.columns.sample(count, allowed=allowed, generator=generator)

    @torch.no_grad()
    def depict(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Draw a latent vector for each row of columns, and the image of both; see :meth:`Family.depict`."""
        latent = torch.randn(len(codes), self.options.latent, generator=generator, device=codes.device)
        rows = torch.empty(len(codes), self.code_columns, dtype=torch.long, device=codes.device)
        rows[:, : self.layout.columns] = codes
        for start in range(0, len(codes), _DRAWN_AT_ONCE):
            part = slice(start, start + _DRAWN_AT_ONCE)
            images = self.images_of(latent[part], self.columns.condition(codes[part]))
            rows[part, self.layout.columns :] = pixel_codes(images, self.image)
        return rows

    @abstractmethod
    def images_of(self, latent: Tensor, condition: Tensor) -> Tensor:
        """Return images ``[n, channels, height, width]`` from 0 to 1, each from its own latent vector and columns."""

    def precision(self, device: torch.device) -> torch.autocast:
        """Return the context of a pass at a site: bfloat16 where the study and the device allow it."""
        wanted = self.options.mixed_precision and device.type == "cuda"
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)
