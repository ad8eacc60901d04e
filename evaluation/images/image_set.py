"""Images with their classes: what every measure of images reads."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.table import CodedTable, coded_table
from protocol.errors import RecordsError
from records.images import decode_images
from records.schema import Schema

_FULL = 255.0


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """Images, and the table of the columns beside them.

    Attributes:
        images: float32 ``[n, channels, height, width]`` from 0 to 1.
        table: The columns of the same n records.
    """

    images: NDArray[np.float32]
    table: CodedTable

    def __post_init__(self) -> None:
        """Refuse images that do not fit the table."""
        if self.images.ndim != 4 or len(self.images) != self.table.rows:
            raise RecordsError(
                f"there are images of shape {self.images.shape} for {self.table.rows} records.",
                remedy="Give one image for each record.",
            )

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.images)

    def take(self, rows: ArrayLike) -> Self:
        """Return the images of the given rows (positions, repeats allowed)."""
        places = np.asarray(rows, dtype=np.int64)
        return type(self)(images=self.images[places], table=self.table.take(places))


def image_set(schema: Schema, codes: NDArray[np.int32]) -> ImageSet:
    """Return the images of coded records.

    Args:
        schema: The data dictionary, with an image.
        codes: ``[n, columns + pixels]``.

    Returns:
        The images and the table beside them.

    Raises:
        RecordsError: The schema has no image, or the codes do not fit it.
    """
    if schema.image is None:
        raise RecordsError("the schema has no image.", remedy="Use the measures of tables.")
    columns = len(schema.columns)
    if codes.ndim != 2 or codes.shape[1] != columns + schema.image.size:
        raise RecordsError(
            f"codes have the shape {codes.shape}.", remedy=f"Give {columns + schema.image.size} codes for each record."
        )
    pixels = decode_images(codes[:, columns:], schema.image).transpose(0, 3, 1, 2)
    return ImageSet(
        images=np.ascontiguousarray(pixels, dtype=np.float32) / np.float32(_FULL),
        table=coded_table(replace(schema, image=None), codes[:, :columns]),
    )
