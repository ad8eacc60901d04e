"""One byte form for the content of a message: equal contents, equal bytes, and back."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from protocol.errors import WireError
from protocol.messages import Contribution, RoundRequest, SumTurn, decode, encode
from protocol.record_bytes import record_bytes, record_from_bytes
from protocol.terms import ContributionKind

HASH = "a" * 64
REQUEST = RoundRequest(
    study=HASH, run=HASH, round=1, kind=ContributionKind.GRADIENTS, warrant="b" * 128,
    vector=np.array([1.5, -0.0, 1e-40], dtype=np.float32),
)  # fmt: skip


def test_a_content_comes_back_and_has_the_same_bytes_again() -> None:
    content = encode(REQUEST)
    content["sum"] = ConfigRecord({"type": "RoundStart", "round": 1, "keys": ["x", "y"], "bytes": b"\0\xff"})
    found = record_from_bytes(record_bytes(content))
    assert {name: dict(part) for name, part in found.config_records.items()} == {
        name: dict(part) for name, part in content.config_records.items()
    }
    assert found["vector"]["vector"].data == content["vector"]["vector"].data
    assert record_bytes(found) == record_bytes(content)


def test_the_order_of_parts_and_of_fields_says_nothing() -> None:
    content = encode(REQUEST)
    backwards = RecordDict({
        "vector": content["vector"],
        "header": ConfigRecord(dict(reversed(content["header"].items()))),
    })  # fmt: skip
    assert list(backwards) != list(content)
    assert record_bytes(backwards) == record_bytes(content)


def test_whatever_differs_has_other_bytes() -> None:
    content = encode(REQUEST)
    array = content["vector"]["vector"]
    more = [
        encode(SumTurn(study=HASH, run=HASH, warrant="b" * 128)),
        RecordDict({"header": content["header"]}),
        RecordDict({**content, "sum": ConfigRecord()}),
        RecordDict({**content, "header": ConfigRecord({**content["header"], "round": 2})}),
        RecordDict({**content, "header": ConfigRecord({**content["header"], "round": 1.0})}),
        RecordDict({**content, "vector": ArrayRecord({"vector": Array(np.array([1.5, 0.0, 1e-40], np.float32))})}),
        RecordDict({**content, "vector": ArrayRecord({"victor": array})}),
    ]
    assert len({record_bytes(record) for record in [content, *more]}) == len(more) + 1


@pytest.mark.parametrize("form", [b"no record", b"\xff" * 40])
def test_what_is_no_content_is_refused(form: bytes) -> None:
    with pytest.raises(WireError):
        decode(record_from_bytes(form), Contribution)
