"""Messages: what is sent comes back, and whatever else is on the wire is a WireError and nothing more."""

import pickle
import tracemalloc
from dataclasses import fields, replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import WireError
from protocol.messages import (
    NO_ENTRY,
    Contribution,
    Hello,
    Introduction,
    Refusal,
    RefusalReason,
    RoundRequest,
    SumTurn,
    decode,
    encode,
    is_finite,
    vector_hash,
)
from protocol.terms import ContributionKind

HASH, OTHER = "a" * 64, "b" * 64
FLOATS = np.array([1.5, -0.0, np.inf, 1e-40], dtype=np.float32)
INTEGERS = np.array([0, -1, 2**31 - 1, -(2**31)], dtype=np.int32)
MESSAGES = [
    Hello(study=HASH, code=OTHER, challenge=HASH),
    Introduction(study=HASH, code=OTHER, site="north-1", public_key=HASH, signature="d" * 128),
    RoundRequest(
        study=HASH, run=OTHER, round=1, kind=ContributionKind.GRADIENTS, warrant="e" * 128, vector=FLOATS,
    ),
    Contribution(
        study=HASH, run=OTHER, round=1_000_000, kind=ContributionKind.UPDATES, site="s", model=HASH,
        entry=NO_ENTRY, signature="c" * 128, vector=INTEGERS,
    ),
    Refusal(reason=RefusalReason.BUDGET),
    SumTurn(study=HASH, run=OTHER, warrant="f" * 128, round=7),
]  # fmt: skip
KINDS = [type(message) for message in MESSAGES]


def remade(record: RecordDict, **header: Any) -> RecordDict:
    """The same records with some header fields changed; None removes one."""
    values = {**record["header"], **header}
    kept = ConfigRecord({name: value for name, value in values.items() if value is not None})
    return RecordDict({**record, "header": kept})


def with_array(record: RecordDict, **parts: Any) -> RecordDict:
    """The same records with some parts of the array changed."""
    array = record["vector"]["vector"]
    values = {"dtype": array.dtype, "shape": array.shape, "stype": array.stype, "data": array.data} | parts
    return RecordDict({**record, "vector": ArrayRecord({"vector": Array(**values)})})


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back(message: Any) -> None:
    found = decode(encode(message), type(message))
    for each in fields(message):
        sent, got = getattr(message, each.name), getattr(found, each.name)
        if each.name == "vector":
            assert got.dtype == sent.dtype
            assert got.tobytes() == sent.tobytes()
        else:
            assert (type(got), got) == (type(sent), sent)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_is_taken_only_where_it_is_expected(message: Any) -> None:
    for kind in KINDS:
        if kind is type(message):
            assert type(decode(encode(message), kind, Refusal)) is kind
        else:
            with pytest.raises(WireError, match="Expected"):
                decode(encode(message), kind)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_field_is_needed_and_no_other_is_taken(message: Any) -> None:
    record = encode(message)
    for name in record["header"]:
        with pytest.raises(WireError):
            decode(remade(record, **{name: None}), type(message))
    for extra in (remade(record, records=40), RecordDict({**record, "metrics": MetricRecord({"loss": 0.1})})):
        with pytest.raises(WireError, match="fields"):
            decode(extra, type(message))
    if "vector" not in record:
        more = RecordDict({**record, "vector": ArrayRecord({"vector": Array(INTEGERS)})})
        with pytest.raises(WireError, match="fields"):
            decode(more, type(message))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
@pytest.mark.parametrize("version", [0, 1, 2, 4, 3.0, True, "3", b"3", [3]])
def test_another_version_is_refused(message: Any, version: Any) -> None:
    with pytest.raises(WireError, match="version"):
        decode(remade(encode(message), version=version), type(message))


@pytest.mark.parametrize("value", ["A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n", "", 1, b"a" * 64, "g" * 64, ["a"]])
@pytest.mark.parametrize(
    ("base", "name"),
    [*((3, name) for name in ("study", "run", "model", "entry", "signature")), (0, "challenge"), (1, "signature"),
     (1, "public_key"), (2, "warrant"), (5, "warrant")],
)  # fmt: skip
def test_a_hash_is_hexadecimal_and_of_its_length(base: int, name: str, value: Any) -> None:
    with pytest.raises(WireError, match=name):
        decode(remade(encode(MESSAGES[base]), **{name: value}), KINDS[base])


@pytest.mark.parametrize("value", ["", "-a", "North", "a b", "a/b", "é", "a" * 64, 3, b"a", "a\n"])
def test_a_site_has_a_plain_name(value: Any) -> None:
    with pytest.raises(WireError, match="site"):
        decode(remade(encode(MESSAGES[1]), site=value), Introduction)


@pytest.mark.parametrize("value", [0, -1, 1_000_001, 1.0, True, "1", [1], 2**62])
def test_a_round_is_a_small_whole_number(value: Any) -> None:
    with pytest.raises(WireError, match="round"):
        decode(remade(encode(MESSAGES[2]), round=value), RoundRequest)


@pytest.mark.parametrize("value", ["", "GRADIENTS", "sum", 1, b"gradients", ["gradients"]])
def test_words_come_from_closed_sets(value: Any) -> None:
    with pytest.raises(WireError, match="kind"):
        decode(remade(encode(MESSAGES[2]), kind=value), RoundRequest)
    with pytest.raises(WireError, match="reason"):
        decode(remade(encode(MESSAGES[4]), reason=value), Refusal)


def pickled() -> bytes:
    buffer = BytesIO()
    np.save(buffer, np.array([{"a": 1}] * 4, dtype=object), allow_pickle=True)
    return buffer.getvalue()


def saved(array: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def promising(size: int) -> bytes:
    """A file whose header promises so many numbers and that holds four."""
    return saved(INTEGERS).replace(b"(4,)", f"({size},)".encode())


@pytest.mark.parametrize(
    "parts",
    [
        {"data": pickled()},
        {"data": pickled(), "dtype": "object"},
        {"data": pickle.dumps(INTEGERS)},
        {"data": b""},
        {"data": saved(INTEGERS)[:-1]},
        {"data": saved(INTEGERS) + b"\0"},
        {"data": saved(INTEGERS)[:9]},
        {"data": saved(INTEGERS.astype(np.int64))},
        {"data": saved(INTEGERS.astype(np.float32))},
        {"data": saved(INTEGERS.astype(">i4"))},
        {"data": saved(INTEGERS.reshape(2, 2))},
        {"data": saved(INTEGERS[:3])},
        {"data": promising(2**40)},
        {"data": promising(5), "shape": (5,)},
        {"data": saved(INTEGERS).replace(b"<i4", b"|O4")},
        {"shape": (5,)},
        {"shape": (2, 2)},
        {"shape": ()},
        {"shape": (0,)},
        {"shape": (-4,)},
        {"shape": (2**28 + 1,)},
        {"shape": (2**60,), "data": promising(2**60)},
        {"dtype": "float32"},
        {"dtype": "int64"},
        {"dtype": ">i4"},
        {"dtype": "object"},
        {"stype": "pickle"},
        {"stype": "torch.tensor"},
        {"stype": ""},
    ],
    ids=lambda parts: ",".join(parts),
)
def test_a_vector_that_is_not_what_it_says_is_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(WireError, match="vector"):
        decode(with_array(encode(MESSAGES[3]), **parts), Contribution)


def test_no_promise_of_a_message_makes_anybody_allocate_it() -> None:
    record = with_array(encode(MESSAGES[3]), data=promising(2**28), shape=(2**28,))
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            decode(record, Contribution)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_vector_record_holds_one_array_called_vector() -> None:
    record = encode(MESSAGES[3])
    array = record["vector"]["vector"]
    for arrays in (ArrayRecord(), ArrayRecord({"0": array}), ArrayRecord({"vector": array, "0": array})):
        with pytest.raises(WireError, match="vector"):
            decode(RecordDict({**record, "vector": arrays}), Contribution)
    with pytest.raises(WireError):
        decode(RecordDict({**record, "vector": ConfigRecord({"vector": 1})}), Contribution)
    with pytest.raises(WireError):
        decode(RecordDict({"vector": record["vector"], "header": MetricRecord({"version": 1})}), Contribution)


def test_what_was_received_cannot_be_changed_by_mistake() -> None:
    found = decode(encode(MESSAGES[2]), RoundRequest)
    with pytest.raises(ValueError, match="read-only"):
        found.vector[0] = 1.0


VALUES: st.SearchStrategy[Any] = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.booleans(),
    st.text(max_size=140),
    st.binary(max_size=70),
    st.text("0123456789abcdef", min_size=64, max_size=64),
    st.lists(st.integers(-5, 5), max_size=3),
)
NAMES = st.sampled_from(["version", "type", *sorted({f.name for kind in KINDS for f in fields(kind)})]) | st.text(
    max_size=8
)


@given(header=st.dictionaries(NAMES, VALUES, max_size=12), base=st.sampled_from(MESSAGES), whole=st.booleans())
def test_any_header_is_a_message_or_a_wire_error(header: dict[str, Any], base: Any, *, whole: bool) -> None:
    record = encode(base)
    record["header"] = ConfigRecord({**(record["header"] if whole else {}), **header})
    for kind in KINDS:
        try:
            found = decode(record, kind)
        except WireError:
            continue
        assert encode(found)["header"] == record["header"], "a message was read as something that it is not"


@given(
    dtype=st.sampled_from(["int32", "float32", "int64", "object", ""]) | st.text(max_size=6),
    shape=st.lists(st.integers(-2, 2**40), max_size=3).map(tuple) | st.just((4,)),
    stype=st.sampled_from(["numpy.ndarray", ""]),
    data=st.binary(max_size=200) | st.sampled_from([saved(INTEGERS), saved(FLOATS), pickled()]),
    flip=st.integers(0, 10**6),
)
def test_any_array_is_a_vector_or_a_wire_error(
    dtype: str, shape: tuple[int, ...], stype: str, data: bytes, flip: int
) -> None:
    damaged = bytearray(data)
    if damaged and flip % 2:
        damaged[flip % len(damaged)] ^= 1 + flip % 255
    for base in (MESSAGES[2], MESSAGES[3]):
        record = with_array(encode(base), dtype=dtype, shape=shape, stype=stype, data=bytes(damaged))
        try:
            found = decode(record, type(base))
        except WireError:
            continue
        assert found.vector.nbytes == 4 * shape[0]


def test_what_is_signed_is_everything_but_the_signature() -> None:
    message = MESSAGES[3]
    assert isinstance(message, Contribution)
    changes: list[dict[str, Any]] = [
        {"study": OTHER}, {"run": HASH}, {"round": 2}, {"kind": ContributionKind.GRADIENTS}, {"site": "t"},
        {"model": OTHER}, {"entry": OTHER}, {"vector": INTEGERS[::-1].copy()}, {"vector": INTEGERS[:3]},
    ]  # fmt: skip
    bodies = [replace(message, **change).signed_bytes() for change in changes]
    assert len({*bodies, message.signed_bytes()}) == len(changes) + 1
    assert {f.name for f in fields(message)} - {name for change in changes for name in change} == {"signature"}
    assert replace(message, signature="d" * 128).signed_bytes() == message.signed_bytes()


def test_an_introduction_answers_one_challenge_with_everything_that_it_says() -> None:
    message = MESSAGES[1]
    assert isinstance(message, Introduction)
    changes: list[dict[str, Any]] = [{"study": OTHER}, {"code": HASH}, {"site": "south"}, {"public_key": OTHER}]
    bodies = [replace(message, **change).signed_bytes(HASH) for change in changes]
    bodies += [message.signed_bytes(HASH), message.signed_bytes(OTHER)]
    assert len(set(bodies)) == len(changes) + 2
    assert {f.name for f in fields(message)} - {name for change in changes for name in change} == {"signature"}
    assert replace(message, signature="0" * 128).signed_bytes(HASH) == message.signed_bytes(HASH)
    contribution = MESSAGES[3]
    assert isinstance(contribution, Contribution)
    labels = {body.split(b"\0", 1)[0] for body in (contribution.signed_bytes(), message.signed_bytes(HASH))}
    assert labels == {b"cloister contribution v1", b"cloister introduction v1"}, "one key, two kinds of message"


def test_the_hash_of_a_vector_is_that_of_its_little_endian_bytes() -> None:
    # printf '\\x01\\x00\\x00\\x00\\xff\\xff\\xff\\xff' | sha256sum
    expected = "b15348c8f462384c01e83b6d499c6faf3f96808f5aa07c6bab4b65b36b4445d4"
    vector = np.array([1, -1], dtype=np.int32)
    assert vector_hash(vector) == vector_hash(vector.astype(">i4")) == expected
    assert vector_hash(np.array([1, 0, -1, 0], dtype=np.int32)[::2]) == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_finite_means_every_weight(value: float) -> None:
    weights = np.zeros(5, dtype=np.float32)
    request = replace(MESSAGES[2], vector=weights)
    assert isinstance(request, RoundRequest)
    assert is_finite(request)
    weights[3] = value
    assert not is_finite(request)


def test_a_message_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        MESSAGES[0].study = OTHER  # type: ignore[misc]  # that is what is tested
