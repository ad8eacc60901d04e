"""What a coordinator may send at most: nobody but the site decides how much of its memory a message takes."""

import threading
from collections.abc import Iterator

import httpx

from protocol.errors import WireError
from protocol.flower_objects import MOST_OBJECT_BYTES

# The largest object, or a message's tree of objects.
_MOST_ANSWER_BYTES = MOST_OBJECT_BYTES + 2**20
_REMEDY = "The coordinator must mend it."


class Room:
    """How many bytes of a message may still come; for several threads."""

    def __init__(self, size: int) -> None:
        self._left, self._lock = size, threading.Lock()

    def take(self, size: int) -> None:
        """Count bytes that came.

        Raises:
            WireError: If there are too many.
        """
        with self._lock:
            self._left -= size
            if self._left < 0:
                raise WireError("A message is larger than 1 GiB.", remedy="The coordinator must send a smaller model.")


class _Bounded(httpx.SyncByteStream):
    """An answer that ends the connection when it is too long."""

    def __init__(self, stream: httpx.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for part in self._stream:
            size += len(part)
            if size > _MOST_ANSWER_BYTES:
                raise WireError("An answer of the coordinator is too long.", remedy=_REMEDY)
            yield part

    def close(self) -> None:
        """Close what is bounded."""
        self._stream.close()


def bound_answer(response: httpx.Response) -> None:
    """See, before an answer is read, that it cannot fill the memory: neither by its length nor unpacked."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise WireError("An answer of the coordinator is packed.", remedy=_REMEDY)
    if isinstance(response.stream, httpx.SyncByteStream):
        response.stream = _Bounded(response.stream)
