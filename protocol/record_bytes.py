"""One byte form for what a Flower message carries: what is hashed, kept in an outbox and compared is exactly this."""

from typing import Any

from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as WireRecordDict
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types

from protocol.errors import WireError


def record_bytes(record: RecordDict) -> bytes:
    """Return the content of a message as bytes: Flower's own wire form, with everything sorted by name.

    Two contents have the same bytes exactly if they say the same. An update of Flower may change the form.

    Args:
        record: The content.

    Returns:
        Little more than the content's own size.
    """
    form = recorddict_to_proto(record)
    form.items.sort(key=_name)
    for part in form.items:
        getattr(part, part.WhichOneof("value")).items.sort(key=_name)
    written: bytes = form.SerializeToString(deterministic=True)
    return written


def record_from_bytes(form: bytes) -> RecordDict:
    """Read what `record_bytes` wrote.

    Raises:
        WireError: If it is something else.
    """
    try:
        return recorddict_from_proto(WireRecordDict.FromString(form))
    except (DecodeError, ValueError) as error:
        raise WireError(
            f"A kept message cannot be read ({type(error).__name__}).", remedy="It was written by another Flower."
        ) from error


def _name(item: Any) -> str:
    key: str = item.key
    return key
