"""A message of ours passes whole, whatever its length; what would become more in memory than was sent does not."""

import json
import tracemalloc

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.task_identity import TaskIdentity

from protocol.errors import WireError
from protocol.flower_objects import MOST_OBJECT_BYTES, Part, check_object, message_parts
from protocol.messages import Refusal, RefusalReason, encode

MEBIBYTE = 2**20


@pytest.fixture(autouse=True)
def task(monkeypatch):
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def message_of(length, *, numbers=None):
    """A message with a vector of so many int32, as a round of a secure sum sends it."""
    vector = np.zeros(length, np.int32) if numbers is None else numbers.integers(0, 2**31, length, np.int32)
    parts = {"header": ConfigRecord({"a": 1}), "sum": ConfigRecord({"b": 2})}
    return Message(RecordDict({**parts, "vector": ArrayRecord({"vector": Array(vector)})}), 2, "query.x")


def check(message, *, most_bytes):
    parts = message_parts(get_object_tree(message), most=256)
    contents = {name: item.deflate() for name, item in get_all_nested_objects(message).items()}
    assert parts.keys() == contents.keys()
    for name, content in contents.items():
        assert len(content) <= MOST_OBJECT_BYTES
        check_object(content, parts[name], most_bytes=most_bytes)


@pytest.mark.parametrize("length", [0, 1, 4, 100_000, 3_000_000, 4_000_000])
@pytest.mark.parametrize("kind", ["zeros", "noise"])
def test_a_message_of_ours_passes(length, kind):
    """Zeros are cut into chunks that are all the same."""
    numbers = np.random.default_rng(1) if kind == "noise" else None
    check(message_of(length, numbers=numbers), most_bytes=4 * length)


def test_the_order_in_which_the_superlink_tells_the_objects_does_not_count():
    """Its database keeps none."""
    message = message_of(3_000_000)
    tree = get_object_tree(message)
    (content,) = tree.children
    turned = ObjectTree(object_id=content.object_id, children=list(reversed(content.children)))
    assert [child.object_id for child in turned.children] != [child.object_id for child in content.children]
    parts = message_parts(ObjectTree(object_id=tree.object_id, children=[turned]), most=256)
    for name, item in get_all_nested_objects(message).items():
        check_object(item.deflate(), parts[name], most_bytes=12_000_000)


def test_the_order_in_a_tree_tells_nothing():
    """Flower's SuperLink gives a tree out in the order of its database."""
    part = Part(level=2, children=("a",))
    check_object(b"ArrayRecord a 2\0{}", part, most_bytes=0)
    check_object(b"RecordDict a,b 2\0{}", Part(level=1, children=("b", "a")), most_bytes=0)
    check_object(array_object([1, 0], children=("a", "b")), Part(level=3, children=("b", "a")), most_bytes=2**24)
    for told in (b"a", b"a,a", b"a,b,b", b"a,c", b""):
        with pytest.raises(WireError, match="another"):
            check_object(b"RecordDict %s 2\0{}" % told, Part(level=1, children=("b", "a")), most_bytes=0)


def test_a_message_without_a_vector_passes():
    check(Message(encode(Refusal(reason=RefusalReason.CODE)), 2, "query.x"), most_bytes=0)


def array_object(numbers, *, children=("a",), **changes):
    told = {"dtype": "int32", "shape": [4], "stype": "numpy.ndarray", "arraychunk_ids": numbers} | changes
    body = json.dumps(told).encode()
    return f"Array {','.join(children)} {len(body)}".encode() + b"\0" + body


def test_a_chunk_that_is_listed_many_times_is_refused_and_would_have_filled_the_memory():
    chunk = b"ArrayChunk  1048576\0" + bytes(MEBIBYTE)
    bomb = array_object([0] * 100)
    with pytest.raises(WireError, match="100 chunks"):
        check_object(bomb, Part(level=3, children=("a",)), most_bytes=MEBIBYTE)
    # The twin: what Flower does with it.
    tracemalloc.start()
    from flwr.app.message.arraychunk import ArrayChunk

    Array.inflate(bomb, {"a": ArrayChunk.inflate(chunk)})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak > 100 * MEBIBYTE


@pytest.mark.parametrize("most", [0, FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE, 10 * FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE])
def test_an_array_may_be_as_long_as_is_said(most):
    most_chunks = most // FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE + 1
    part = Part(level=3, children=("a",))
    check_object(array_object([0] * most_chunks), part, most_bytes=most)
    with pytest.raises(WireError, match="chunks"):
        check_object(array_object([0] * (most_chunks + 1)), part, most_bytes=most)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0", b"Array", b"Array a 1", b"Array a 2\0x", b"Array a 01\0x", b"Array  a 1\0x", b"Array b 1\0x",
        b"Array a,a 1\0x", b"ArrayChunk a 1\0x", b"Message a 1\0x", b"\xff a 1\0x", b"Array a 1\0x", b"Array a 2\0[]",
        array_object("0"), array_object(None), array_object([7]), array_object([-1]), array_object([True]),
        array_object([0.0]), array_object(["0"]), array_object([]), array_object([[0]]),
        array_object([0], more="x" * 70_000), b"Array a 100000\0" + b"[" * 100_000,
    ],
)  # fmt: skip
def test_odd_arrays_are_refused(content):
    with pytest.raises(WireError):
        check_object(content, Part(level=3, children=("a",)), most_bytes=2**30)
    check_object(array_object([0]), Part(level=3, children=("a",)), most_bytes=0)


def test_a_record_that_holds_an_array_is_one_of_arrays():
    part = Part(level=2, children=("a",))
    check_object(b"ArrayRecord a 2\0{}", part, most_bytes=0)
    with pytest.raises(WireError, match="cannot hold"):
        check_object(b"ConfigRecord a 2\0{}", part, most_bytes=0)


def nested(*widths):
    """A tree with so many children at each level, all ids different."""
    names = iter(range(10**6))

    def node(level):
        children = [node(level + 1) for _ in range(widths[level])] if level < len(widths) else []
        return ObjectTree(object_id=f"{next(names):064x}", children=children)

    return node(0)


@pytest.mark.parametrize("widths", [(), (1,), (1, 4), (1, 4, 1, 30), (1, 0)])
def test_trees_of_our_shape_pass(widths):
    assert message_parts(nested(*widths), most=200)


@pytest.mark.parametrize("widths", [(2,), (1, 5), (1, 1, 2), (1, 1, 1, 1, 1), (1, 1, 1, 300), (1, 4, 1, 60)])
def test_other_trees_are_refused(widths):
    with pytest.raises(WireError):
        message_parts(nested(*widths), most=200)


def test_an_object_is_in_one_place_alone():
    twice = ObjectTree(object_id="a", children=[ObjectTree(object_id="b", children=[ObjectTree(object_id="a")])])
    with pytest.raises(WireError, match="order"):
        message_parts(twice, most=200)
