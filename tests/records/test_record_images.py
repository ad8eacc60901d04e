"""Images as records: sources, shapes, codes and back."""

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest

from protocol.errors import RecordsError, SchemaError
from protocol.image_shape import ImageShape
from records.codec import Codec
from records.dataset import Records, load_records
from records.draft import draft_schema
from records.images import decode_images, encode_images
from records.schema import Schema
from records.sources import open_source
from records.sources.idx import QMNIST_COLUMNS, read_idx

SCHEMA = Schema.from_mapping(
    {
        "target": "label",
        "image": {"height": 8, "width": 8, "levels": 16},
        "columns": [{"name": "label", "kind": "categorical", "categories": ["0", "1", "2"]}],
    }
)


def images(count, *, side=8, channels=0, seed=0):
    shape = (count, side, side, channels) if channels else (count, side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def labels(count, *, seed=0):
    return np.random.default_rng(seed).integers(0, 3, count, dtype=np.uint8)


def write_npz(folder, **arrays):
    np.savez(folder / "some.npz", **arrays)
    return folder / "some.npz"


def write_idx(path: Path, values):
    kind = {"u1": 8, "i4": 12}[values.dtype.str[1:]]
    content = bytes([0, 0, kind, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    content += values.astype(values.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 7}, "height = 7.*8 to 64"),
        ({"width": 65}, "width = 65"),
        ({"channels": 2}, "channels = 2"),
        ({"levels": 1}, "levels = 1"),
        ({"levels": 257}, "levels = 257"),
        ({"depth": 8}, "unknown key 'depth'"),
        ({"height": "8"}, "height = '8'"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(change, message):
    mapping = SCHEMA.to_mapping()
    mapping["image"] = mapping["image"] | change
    with pytest.raises(SchemaError, match=message):
        Schema.from_mapping(mapping)


def test_the_shape_is_part_of_the_schema():
    assert Schema.from_mapping(SCHEMA.to_mapping()) == SCHEMA
    assert SCHEMA.to_mapping()["image"] == {"height": 8, "width": 8, "levels": 16}
    assert SCHEMA.cardinalities == (3,)
    assert SCHEMA.code_cardinalities == (3,) + (16,) * 64
    plain = replace(SCHEMA, image=None)
    assert "image" not in plain.to_mapping()
    assert plain.canonical() != SCHEMA.canonical()


def test_no_column_may_be_called_image():
    with pytest.raises(SchemaError, match="image: is mentioned twice"):
        replace(SCHEMA, drop=("image",))


@pytest.mark.parametrize("levels", [2, 3, 16, 100, 255, 256])
def test_decoded_images_have_their_codes(levels):
    shape = ImageShape(height=8, width=9, channels=3, levels=levels)
    codes = (np.arange(4 * shape.size) % levels).astype(np.int32).reshape(4, -1)
    np.testing.assert_array_equal(encode_images(decode_images(codes, shape), shape, source="x"), codes)


def test_the_order_is_channel_row_column_and_blocks_are_averaged():
    shape = ImageShape(height=8, width=8, channels=3, levels=7)
    wide = images(3, side=16, channels=3)
    codes = encode_images(wide, shape, source="x").reshape(3, 3, 8, 8)
    for number in range(3):
        for channel in range(3):
            for row in range(8):
                for column in range(8):
                    block = wide[number, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2, channel]
                    exact = block.mean() / 255 * 6
                    assert abs(codes[number, channel, row, column] - exact) <= 0.5 + 1e-9


@pytest.mark.parametrize("shape", [(2, 9, 9, 1), (2, 8, 16, 1), (2, 4, 4, 1), (2, 8, 8, 3)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(RecordsError, match="the schema wants 8 x 8|The schema wants 8 x 8"):
        encode_images(np.zeros(shape, np.uint8), ImageShape(height=8, width=8), source="x")


def test_arrays_become_records(tmp_path):
    pixels, classes = images(5), labels(5)
    path = write_npz(tmp_path, images=pixels, labels=classes)
    found = load_records(path, schema=SCHEMA)
    assert found.codes.dtype == np.int32
    np.testing.assert_array_equal(found.codes[:, 0], classes)
    np.testing.assert_array_equal(found.codes[:, 1:], np.rint(pixels.reshape(5, -1) / 255 * 15))
    table = Codec(SCHEMA).decode(found.codes, generator=np.random.default_rng(0))
    parquet.write_table(table, tmp_path / "some.parquet")
    again = load_records(tmp_path / "some.parquet", schema=SCHEMA)
    np.testing.assert_array_equal(again.codes, found.codes)


def test_parts_are_chosen_by_name(tmp_path):
    arrays = {"train_images": images(3), "train_labels": labels(3)[:, None], "test_images": images(2), "test_labels":
              labels(2)[:, None]}  # fmt: skip
    path = write_npz(tmp_path, **arrays)
    assert len(load_records(f"{path}#train", schema=SCHEMA)) == 3
    assert len(load_records(f"{path}#test", schema=SCHEMA)) == 2
    assert open_source(f"{path}#test", schema=SCHEMA).column_names() == ("image", "label")
    with pytest.raises(RecordsError, match=r"no array 'images'.*some.npz#test"):
        load_records(path, schema=SCHEMA)
    with pytest.raises(RecordsError, match="no array 'val_images'"):
        load_records(f"{path}#val", schema=SCHEMA)


def test_other_arrays_are_columns_persons_or_refused(tmp_path):
    arrays = {"images": images(4), "labels": labels(4), "patient": np.array(["b", "a", "b", "c"])}
    path = write_npz(tmp_path, **arrays)
    found = load_records(path, schema=replace(SCHEMA, person="patient"))
    assert found.persons is not None
    assert found.persons.tolist() == [0, 1, 0, 2]
    assert len(load_records(path, schema=replace(SCHEMA, drop=("patient",)))) == 4
    with pytest.raises(RecordsError, match="patient: .*not (mentioned|in the schema)"):
        load_records(path, schema=SCHEMA)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": images(4).astype(float), "labels": labels(4)}, "images are float64"),
        ({"images": images(4)[0], "labels": labels(4)}, "2 dimensions"),
        ({"images": images(4), "labels": labels(3)}, r"'label' is uint8 of shape \(3,\)"),
        ({"images": images(4), "labels": np.zeros((4, 2), int)}, "'label' is int64"),
        ({"images": images(4), "labels": labels(4) + 7}, "4 of 4 rows hold a category"),
        ({"pictures": images(4), "labels": labels(4)}, "no array 'images'"),
        ({"images": images(4)}, "column label: is not there|only 1 of 2 columns"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, message):
    with pytest.raises(RecordsError, match=message):
        load_records(write_npz(tmp_path, **arrays), schema=SCHEMA)


def test_python_objects_are_never_loaded(tmp_path):
    path = tmp_path / "some.npz"
    np.savez(path, images=images(2), labels=np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    with pytest.raises(RecordsError, match="no Python objects"):
        load_records(path, schema=SCHEMA)
    path.write_bytes(b"not a zip")
    with pytest.raises(RecordsError, match="cannot be read as .npz"):
        load_records(path, schema=SCHEMA)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files_find_their_labels_and_writers(tmp_path, ending):
    writers = np.zeros((6, 8), dtype=np.int32)
    writers[:, 0], writers[:, 2] = labels(6), [70, 71, 70, 72, 71, 70]
    write_idx(tmp_path / f"train-images-idx3-ubyte{ending}", images(6))
    write_idx(tmp_path / f"train-labels-idx1-ubyte{ending}", labels(6))
    write_idx(tmp_path / f"qmnist-train-labels-idx2-int{ending}", writers)
    rest = tuple(name for name in QMNIST_COLUMNS if name not in ("label", "writer"))
    schema = replace(SCHEMA, person="writer", drop=rest)
    found = load_records(tmp_path / f"train-images-idx3-ubyte{ending}", schema=schema)
    np.testing.assert_array_equal(found.codes[:, 0], labels(6))
    assert found.persons is not None
    assert found.persons.tolist() == [0, 1, 0, 2, 1, 0]
    assert len(found.take(np.array([1, 2]))) == 2


def test_labels_that_contradict_each_other_are_refused(tmp_path):
    write_idx(tmp_path / "train-images-idx3-ubyte", images(6))
    write_idx(tmp_path / "train-labels-idx1-ubyte", labels(6))
    write_idx(tmp_path / "qmnist-train-labels-idx2-int", np.full((6, 8), 9, dtype=np.int32))
    with pytest.raises(RecordsError, match="labels beside it differ"):
        load_records(tmp_path / "train-images-idx3-ubyte", schema=SCHEMA)


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\x08\x01\0\0\0\x05abc", b"\1\0\x08\x01\0\0\0\1a", b"\0\0\x07\x01\0\0\0\1a"]
)
def test_a_damaged_idx_file_is_refused(tmp_path, content):
    path = tmp_path / "bad-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(RecordsError, match="no whole IDX file"):
        read_idx(path)


def test_a_draft_has_the_shape_and_loads(tmp_path):
    path = write_npz(tmp_path, images=images(60, side=12, channels=3), labels=labels(60))
    text = draft_schema(path)
    (tmp_path / "draft.toml").write_text(text, "utf-8")
    schema = Schema.from_toml(tmp_path / "draft.toml")
    assert schema.image == ImageShape(height=12, width=12, channels=3)
    assert schema.names == ("label",)
    assert len(load_records(path, schema=schema)) == 60
    assert "[image]  # to be confirmed from public knowledge" in text


def test_records_check_their_pixels():
    codes = np.zeros((2, 65), dtype=np.int32)
    assert len(Records(codes=codes, persons=None, schema=SCHEMA)) == 2
    codes[1, 9] = 16
    with pytest.raises(RecordsError, match="Pixels: codes out of range"):
        Records(codes=codes, persons=None, schema=SCHEMA)
    with pytest.raises(RecordsError, match=r"shape \(n, 65\)"):
        Records(codes=codes[:, :1], persons=None, schema=SCHEMA)
