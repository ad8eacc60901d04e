"""Images in NumPy's .npz form, with the columns beside them."""

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from protocol.errors import RecordsError
from records.images import IMAGE_COLUMN, Pixels, image_column
from records.schema import Format
from records.sources.source import forbidden

BATCH_ROWS = 4096
LABEL_COLUMN = "label"
_IMAGES, _LABELS = "images", "labels"
_ABOUT = "cloister."
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class NpzSource:
    """Arrays ``images`` (uint8 ``[n, height, width]`` or ``[n, height, width, channels]``) and one per column.

    The array ``labels`` is the column ``label``; any other keeps its name. Where the names begin with the name of a
    part (``train_images``, ``train_labels``, as MedMNIST has them), the part is chosen by ``FILE.npz#train``.

    Attributes:
        path: The file.
        form: Ignored: arrays describe themselves.
        drop: Columns that are left out.
        part: Which part; empty for names without one.
    """

    path: Path
    form: Format
    drop: tuple[str, ...]
    part: str = ""

    @property
    def name(self) -> str:
        """Name of the file, and of the part."""
        return f"{self.path.name}#{self.part}" if self.part else self.path.name

    def column_names(self) -> tuple[str, ...]:
        """Name the arrays without reading them.

        Raises:
            RecordsError: The file cannot be read, or has no images.
        """
        with self._opened() as file:
            return tuple(self._keys(file.files))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read the records, some thousand images at a time.

        Yields:
            Blocks of records with a column ``image``.

        Raises:
            RecordsError: The file is damaged, or its arrays do not fit each other.
        """
        with self._opened() as file:
            keys = self._keys(file.files)
            try:
                arrays = {name: file[key] for name, key in keys.items() if name not in self.drop}
            except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
                raise self._unreadable(error) from None
        yield from image_batches(arrays.pop(IMAGE_COLUMN), arrays, source=self.name)

    def _opened(self) -> Any:  # NumPy's NpzFile, whose type has no public name
        try:
            opened = np.load(self.path, allow_pickle=False)
        except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
            raise self._unreadable(error) from None
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise self._unreadable(ValueError())
        return opened

    def _keys(self, files: list[str]) -> dict[str, str]:
        """Return for each column the name of its array."""
        before = f"{self.part}_" if self.part else ""
        if before + _IMAGES not in files:
            parts = sorted(name.removesuffix(f"_{_IMAGES}") for name in files if name.endswith(f"_{_IMAGES}"))
            remedy = f"Name a part: {self.path.name}#{parts[0]}." if parts else f"Name the array of images {_IMAGES!r}."
            raise RecordsError(f"{self.name}: has no array {before + _IMAGES!r}.", remedy=remedy)
        known = {before + _IMAGES: IMAGE_COLUMN, before + _LABELS: LABEL_COLUMN}
        # What cloister sample writes about its images is no column.
        inside = [name for name in files if name.startswith(before) and not name.startswith(_ABOUT)]
        return {known.get(name, name.removeprefix(before)): name for name in inside}

    def _unreadable(self, error: Exception) -> RecordsError:
        return forbidden(self.path, error) or RecordsError(
            f"{self.name}: cannot be read as .npz ({type(error).__name__}).",
            remedy="Check that the file is whole and holds plain arrays, no Python objects.",
        )


def image_batches(images: npt.NDArray[Any], columns: Arrays, *, source: str) -> Iterator[pa.RecordBatch]:
    """Give images and the columns beside them as batches of records.

    Args:
        images: uint8 ``[n, height, width]`` or ``[n, height, width, channels]``.
        columns: Arrays ``[n]`` or ``[n, 1]`` of numbers, texts or truth values.
        source: Name of the file, for errors.

    Raises:
        RecordsError: The arrays have other shapes or types.
    """
    pixels = _pixels(images, source)
    flat = {name: _flat(values, name, len(pixels), source) for name, values in columns.items()}
    for start in range(0, len(pixels), BATCH_ROWS):
        stop = start + BATCH_ROWS
        arrays = [pa.array(values[start:stop]) for values in flat.values()]
        yield pa.RecordBatch.from_arrays([*arrays, image_column(pixels[start:stop])], names=[*flat, IMAGE_COLUMN])


def _pixels(images: npt.NDArray[Any], source: str) -> Pixels:
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise RecordsError(
            f"{source}: images are {images.dtype} with {images.ndim} dimensions.",
            remedy="Give unsigned bytes [n, height, width] or [n, height, width, channels].",
        )
    return np.ascontiguousarray(images if images.ndim == 4 else images[..., None])


def _flat(values: npt.NDArray[Any], name: str, count: int, source: str) -> npt.NDArray[Any]:
    if values.shape not in ((count,), (count, 1)) or values.dtype.kind not in "biufU":
        raise RecordsError(
            f"{source}: array {name!r} is {values.dtype} of shape {values.shape}.",
            remedy=f"Give one number, text or truth value for each of the {count} images, or drop it.",
        )
    # Arrow reads this computer's byte order only.
    return np.ascontiguousarray(values.reshape(count).astype(values.dtype.newbyteorder("=")))
