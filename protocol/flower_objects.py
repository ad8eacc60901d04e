"""What a message is made of when Flower carries it, checked before Flower makes a message of it again.

Flower cuts a message into objects, each named by its hash: message, records, arrays, and the arrays' bytes in chunks.
An array lists its chunks by number and may name one many times, and any object may be part of many others: so a few
bytes that were sent can become many in memory. A message of ours has one shape, and nothing of another passes.

Taken from inside Flower 1.41, and to be looked at again when the version moves: the form of objects (its module
``flwr.supercore.inflatable``) and the size of chunks.
"""

import json
from dataclasses import dataclass

from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from flwr.proto.message_pb2 import ObjectTree

from protocol.errors import WireError

MOST_OBJECT_BYTES = 6 * 1024 * 1024
"""No object is larger: chunks have 5 MiB, and all else is far smaller."""
_CHUNK_BYTES = FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
_KINDS = (
    frozenset({"Message"}),
    frozenset({"RecordDict"}),
    frozenset({"ConfigRecord", "ArrayRecord", "MetricRecord"}),
    frozenset({"Array"}),
    frozenset({"ArrayChunk"}),
)
# One content; header, secure sum and vector, and one to spare; one array in a record of arrays; any number of chunks.
_MOST_CHILDREN: tuple[int | None, ...] = (1, 4, 1, None, 0)
# Type, shape and chunks of one array: 205 chunks are a vector of the largest length that a message may have.
_MOST_ARRAY_BYTES = 65_536
_REMEDY = "Both ends must run the same Cloister."


@dataclass(frozen=True, kw_only=True)
class Part:
    """One object's place in a message.

    Attributes:
        level: How deep it lies: 0 is the message itself.
        children: The ids of what it is made of.
    """

    level: int
    children: tuple[str, ...]


def message_parts(tree: ObjectTree, *, most: int) -> dict[str, Part]:
    """Return the objects of a message, by id.

    Args:
        tree: What the sender says that the message is made of.
        most: How many objects it may have.

    Raises:
        WireError: If there are more, or it has another shape than our messages have.

    Example:
        >>> tree = ObjectTree(object_id="a", children=[ObjectTree(object_id="b")])
        >>> {name: part.level for name, part in message_parts(tree, most=2).items()}
        {'a': 0, 'b': 1}
    """
    parts: dict[str, Part] = {}
    todo = [(0, tree)]
    while todo:
        level, node = todo.pop()
        children = tuple(child.object_id for child in node.children)
        allowed = _MOST_CHILDREN[level]
        if node.object_id in parts or (allowed is not None and len(children) > allowed):
            raise WireError("The objects of a message are in another order than ours.", remedy=_REMEDY)
        parts[node.object_id] = Part(level=level, children=children)
        if len(parts) + len(todo) + len(children) > most:
            raise WireError(f"A message has more than {most} objects.", remedy=_REMEDY)
        todo += [(level + 1, child) for child in node.children]
    return parts


def check_object(content: bytes, part: Part, *, most_bytes: int) -> None:
    """Refuse an object that is something else than its place says, or would become too much.

    Chunks of an array may be the same, as those of many zeros are: what counts is how long the array becomes.

    Args:
        content: The object, as Flower sends it.
        part: Its place in the message.
        most_bytes: How long an array may be.

    Raises:
        WireError: Saying what is wrong.
    """
    head, divider, body = content.partition(b"\0")
    words = head.split(b" ")
    if not divider or len(words) != 3 or words[2] != str(len(body)).encode():  # noqa: PLR2004 - kind, children, length
        raise WireError("An object of a message is malformed.", remedy=_REMEDY)
    kind, children = words[0].decode("latin-1"), words[1].decode("latin-1")
    # The SuperLink's database tells the children in an order of its own; what counts in the message is the object's.
    if kind not in _KINDS[part.level] or sorted(children.split(",")) != sorted(part.children or ("",)):
        raise WireError("An object of a message is another than was announced.", remedy=_REMEDY)
    if part.children and part.level == 2 and kind != "ArrayRecord":  # noqa: PLR2004 - the records' level
        raise WireError("A record of a message holds what it cannot hold.", remedy=_REMEDY)
    if kind == "Array":
        _check_array(content, body, part, most_bytes=most_bytes)


def _check_array(content: bytes, body: bytes, part: Part, *, most_bytes: int) -> None:
    """Refuse an array that lists chunks which it does not have, or too many."""
    try:
        told = json.loads(body) if len(content) <= _MOST_ARRAY_BYTES else None
    except (ValueError, RecursionError):
        told = None
    chunks = told.get("arraychunk_ids") if isinstance(told, dict) else None
    if not isinstance(chunks, list) or not all(type(number) is int for number in chunks):
        raise WireError("An array of a message is malformed.", remedy=_REMEDY)
    if set(chunks) != set(range(len(part.children))):
        raise WireError("An array of a message lists other chunks than it has.", remedy=_REMEDY)
    # All of an honest array's chunks but the last are full.
    if (len(chunks) - 1) * _CHUNK_BYTES > most_bytes:
        raise WireError(f"An array of a message has {len(chunks)} chunks.", remedy=_REMEDY)
