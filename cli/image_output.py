"""Files of synthetic images: arrays for programs, and a sheet for people."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cli.output import TableFormat, new_file, table_writer
from protocol.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from records.schema import Schema

MOST_ON_A_SHEET = 400
_IMAGES = (TableFormat.NPZ, TableFormat.PNG)


def check_form(form: TableFormat, schema: "Schema", count: int) -> int:
    """Refuse to write images as text, and tables as images.

    Returns:
        How many records to draw: those asked for, as far as they fit on a sheet.

    Raises:
        InputError: The form does not go with the schema.
    """
    if schema.image is not None and form is TableFormat.CSV:
        raise InputError(
            "Images are not written as CSV.",
            remedy="Add -o FILE.npz or FILE.parquet, or FILE.png for a sheet of the first images.",
        )
    if schema.image is None and form in _IMAGES:
        raise InputError(f"The release has no images to write as {form}.", remedy="Use .parquet or .csv.")
    return min(count, MOST_ON_A_SHEET) if form is TableFormat.PNG else count


@contextmanager
def rows_writer(
    target: Path | None, *, form: TableFormat, metadata: Mapping[str, str], force: bool
) -> Iterator[Callable[["pa.Table"], None]]:
    """Write tables, or the images in them; otherwise as :func:`cli.output.table_writer`.

    ``.npz`` has the arrays ``images`` (uint8 ``[n, height, width]``, with three channels ``[..., 3]``), ``labels`` for
    a column ``label``, one array for each other column, and the metadata as texts. ``.png`` shows the first images.
    """
    if form not in _IMAGES or target is None:
        with table_writer(target, form=form, metadata=metadata, force=force) as write:
            yield write
        return
    tables: list[Any] = []
    with new_file(target, force=force) as part:
        yield tables.append
        _write(part, tables, form, metadata)


def _write(path: Path, tables: "list[pa.Table]", form: TableFormat, metadata: Mapping[str, str]) -> None:
    import pyarrow as pa  # slow to import

    joined = pa.concat_tables(tables)
    if form is TableFormat.PNG:
        _write_sheet(path, joined.slice(0, MOST_ON_A_SHEET), metadata)
        return
    with path.open("xb") as file:
        np.savez_compressed(file, allow_pickle=False, **npz_arrays(joined, metadata))


def npz_arrays(table: "pa.Table", metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the arrays of a file of images, by name; :mod:`records.sources.npz` reads them back.

    Args:
        table: Records with images, as a release draws them.
        metadata: Texts about them.
    """
    from records.images import IMAGE_COLUMN, column_images  # Arrow: slow to import
    from records.sources.npz import LABEL_COLUMN

    pixels = column_images(table.column(IMAGE_COLUMN), source="synthetic records")
    arrays: dict[str, Any] = {"images": pixels[..., 0] if pixels.shape[-1] == 1 else pixels}
    for name in table.column_names:
        if name != IMAGE_COLUMN:
            arrays["labels" if name == LABEL_COLUMN else name] = _plain(table.column(name).to_pylist())
    return arrays | {name: np.array(text) for name, text in metadata.items()}


def _plain(values: list[Any]) -> Any:  # an array of numbers or of texts
    """Return texts as whole numbers where all of them are such, and other values as they are; missing as ''."""
    if values and all(isinstance(value, int | float) for value in values):
        return np.array(values)
    texts = ["" if value is None else str(value) for value in values]
    whole = texts and all(text.isascii() and text.isdigit() and str(int(text)) == text for text in texts)
    return np.array([int(text) for text in texts]) if whole else np.array(texts, dtype=np.str_)


def _write_sheet(path: Path, table: "pa.Table", metadata: Mapping[str, str]) -> None:
    """Write images side by side, in rows."""
    from matplotlib.image import imsave  # slow to import

    from records.images import IMAGE_COLUMN, column_images

    pixels = column_images(table.column(IMAGE_COLUMN), source="synthetic records")
    across = math.ceil(math.sqrt(len(pixels)))
    down = math.ceil(len(pixels) / across)
    count, height, width, channels = pixels.shape
    blank = np.zeros((down * across - count, height, width, channels), dtype=np.uint8)
    grid = np.concatenate([pixels, blank]).reshape(down, across, height, width, channels)
    sheet = grid.transpose(0, 2, 1, 3, 4).reshape(down * height, across * width, channels)
    # The extension is not the path's: the file takes its name when it is whole.
    imsave(path, np.repeat(sheet, 3, axis=2) if channels == 1 else sheet, format="png", metadata=dict(metadata))
