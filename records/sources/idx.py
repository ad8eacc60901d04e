"""Images in the IDX form of MNIST (LeCun, Cortes and Burges, 1998), with the labels that lie beside them.

An IDX file is four bytes (two zeros, a type, the number of dimensions), one big-endian size per dimension, and the
numbers. Beside ``NAME-images-idx3-ubyte`` belong ``NAME-labels-idx1-ubyte`` or a table ``NAME-labels-idx2-int`` of
QMNIST (Yadav and Bottou, 2019), which says who wrote a digit; either or both may be there.
"""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from protocol.errors import RecordsError
from records.images import IMAGE_COLUMN
from records.schema import Format
from records.sources.npz import LABEL_COLUMN, image_batches
from records.sources.source import forbidden

# The columns of QMNIST's tables, in their order.
QMNIST_COLUMNS = (LABEL_COLUMN, "series", "writer", "writer_index", "nist_class", "nist_index", "duplicate", "unused")
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MARK = "-images-idx"
# MNIST calls its test images t10k; they are the first of QMNIST's test images.
_QMNIST_NAMES = {"train": "qmnist-train", "t10k": "qmnist-test"}


@dataclass(frozen=True)
class IdxSource:
    """An IDX file of images; labels and writers are found beside it.

    Attributes:
        path: The file, ``NAME-images-idx3-ubyte``, also with ``.gz``.
        form: Ignored: an IDX file describes itself.
        drop: Columns that are left out.
    """

    path: Path
    form: Format
    drop: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name

    def column_names(self) -> tuple[str, ...]:
        """Read the labels' files, and not the images.

        Raises:
            RecordsError: A file cannot be read.
        """
        return (*self._columns(), IMAGE_COLUMN)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read the records.

        Yields:
            Blocks of records with a column ``image``.

        Raises:
            RecordsError: A file is damaged, or images and labels do not fit each other.
        """
        columns = {name: values for name, values in self._columns().items() if name not in self.drop}
        yield from image_batches(read_idx(self.path), columns, source=self.name)

    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of the files beside the images; one file's ``label`` must be the other's."""
        found: dict[str, npt.NDArray[Any]] = {}
        for path in self._beside():
            values = read_idx(path)
            named = {LABEL_COLUMN: values} if values.ndim == 1 else _table(values, path.name)
            if LABEL_COLUMN in found:  # QMNIST's table of test images goes on after MNIST's
                named = {name: column[: len(found[LABEL_COLUMN])] for name, column in named.items()}
            if LABEL_COLUMN in found and not np.array_equal(found[LABEL_COLUMN], named[LABEL_COLUMN]):
                raise RecordsError(
                    f"{self.name}: the files of labels beside it differ.", remedy="Keep the one that belongs to it."
                )
            found |= named
        return found

    def _beside(self) -> list[Path]:
        name, _, _ = self.path.name.partition(_MARK)
        names = [f"{name}-labels-idx1-ubyte", f"{name}-labels-idx2-int"]
        if name in _QMNIST_NAMES:
            names.append(f"{_QMNIST_NAMES[name]}-labels-idx2-int")
        paths = [self.path.with_name(each + ending) for each in names for ending in ("", ".gz")]
        return [path for path in paths if path.is_file()]


def _table(values: npt.NDArray[Any], name: str) -> dict[str, npt.NDArray[Any]]:
    if values.ndim != 2 or values.shape[1] != len(QMNIST_COLUMNS):
        raise RecordsError(f"{name}: has the shape {values.shape}.", remedy="Give the table that QMNIST has.")
    return dict(zip(QMNIST_COLUMNS, values.T, strict=True))


def read_idx(path: Path) -> npt.NDArray[Any]:
    """Read an IDX file, also a compressed one.

    Args:
        path: The file.

    Returns:
        The array, big-endian as it is written.

    Raises:
        RecordsError: It cannot be read, or its length is not what its head says.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise forbidden(path, error) or _damaged(path) from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES or not content[3]:
        raise _damaged(path)
    kind, head = np.dtype(_TYPES[content[2]]), 4 + 4 * content[3]
    sizes = np.frombuffer(content[4:head], dtype=">u4").astype(np.int64)
    if len(sizes) != content[3] or head + int(np.prod(sizes)) * kind.itemsize != len(content):
        raise _damaged(path)
    values: npt.NDArray[Any] = np.frombuffer(content, dtype=kind, offset=head).reshape(sizes)
    return values


def _damaged(path: Path) -> RecordsError:
    return RecordsError(f"{path.name}: is no whole IDX file.", remedy="Fetch it again.")
