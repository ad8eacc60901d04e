"""Images of records to pixel codes and back."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from protocol.errors import RecordsError
from protocol.image_shape import ImageShape
from records.bins import Codes

IMAGE_COLUMN = "image"
_FULL = 255
_ROWS = 4096  # images at a time, so that the wider copies stay small

Pixels = npt.NDArray[np.uint8]


def image_column(pixels: Pixels) -> pa.Array:
    """Return images as an Arrow column that knows their shape.

    Args:
        pixels: uint8 ``[n, height, width, channels]``.

    Returns:
        An array of fixed-shape tensors ``[height, width, channels]``.
    """
    kind = pa.fixed_shape_tensor(pa.uint8(), pixels.shape[1:])
    storage = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), int(np.prod(pixels.shape[1:])))
    return pa.ExtensionArray.from_storage(kind, storage)


def column_images(column: pa.Array | pa.ChunkedArray, *, source: str) -> Pixels:
    """Read a column of :func:`image_column` back.

    Raises:
        RecordsError: It holds something else, or images are missing.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = array.type
    fits = isinstance(kind, pa.FixedShapeTensorType) and kind.value_type == pa.uint8() and len(kind.shape) == 3
    if not fits or array.null_count:
        raise RecordsError(
            f"{source}: column {IMAGE_COLUMN}: is no column of whole images.",
            remedy="Give tensors of unsigned bytes [height, width, channels], or use a .npz file.",
        )
    pixels: Pixels = array.to_numpy_ndarray()
    return pixels


def encode_images(pixels: Pixels, shape: ImageShape, *, source: str) -> Codes:
    """Turn images into pixel codes; larger images are averaged over square blocks first.

    Args:
        pixels: uint8 ``[n, k * height, k * width, channels]`` for a whole number k.
        shape: The schema's shape.
        source: Name of the file, for errors.

    Returns:
        int32 ``[n, shape.size]``, in the order channel, row, column; each the nearest of the levels.

    Raises:
        RecordsError: The images have another shape.

    Examples:
        >>> grey = np.full((1, 16, 16, 1), 128, dtype=np.uint8)
        >>> encode_images(grey, ImageShape(height=8, width=8, levels=256), source="example")[0, :3].tolist()
        [128, 128, 128]
    """
    height, width, channels = pixels.shape[1:]
    block = height // shape.height
    if (block * shape.height, block * shape.width, shape.channels) != (height, width, channels) or block < 1:
        raise RecordsError(
            f"{source}: images are {height} x {width} with {channels} channels.",
            remedy=f"The schema wants {shape.height} x {shape.width} (or the same multiple of both sides) with "
            f"{shape.channels}: mend [image], or prepare the images.",
        )
    codes = np.empty((len(pixels), shape.size), dtype=np.int32)
    full, top = _FULL * block**2, shape.levels - 1
    for start in range(0, len(pixels), _ROWS):
        part = pixels[start : start + _ROWS].transpose(0, 3, 1, 2).astype(np.int32)
        split = part.reshape(len(part), channels, shape.height, block, shape.width, block)
        sums = split.sum(axis=(3, 5), dtype=np.int64)
        codes[start : start + _ROWS] = ((2 * top * sums + full) // (2 * full)).reshape(len(part), -1)
    return codes


def decode_images(codes: Codes, shape: ImageShape) -> Pixels:
    """Turn pixel codes into images; encoding the result gives back exactly ``codes``.

    Args:
        codes: int ``[n, shape.size]``, each in ``0..levels-1``.
        shape: The schema's shape.

    Returns:
        uint8 ``[n, height, width, channels]``.

    Examples:
        >>> shape = ImageShape(height=8, width=8, levels=2)
        >>> decode_images(np.ones((1, 64), dtype=np.int32), shape).max()
        np.uint8(255)
    """
    top = shape.levels - 1
    grey = ((2 * _FULL * codes.astype(np.int64) + top) // (2 * top)).astype(np.uint8)
    planes = grey.reshape(-1, shape.channels, shape.height, shape.width)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
