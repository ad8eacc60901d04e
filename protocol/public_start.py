"""What a study says of the public release that its training starts from."""

import re
from dataclasses import dataclass

from protocol.errors import StudyError

_HASH = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9-]{1,64}")
_MOST_REASON = 300
REASON_REMEDY = f"Say in one line of up to {_MOST_REASON} characters why the records are public."


def is_reason(text: str) -> bool:
    """Tell whether a text can say why records are public: one printable line.

    Example:
        >>> is_reason("census of 1994, published by the UCI repository"), is_reason(" ")
        (True, False)
    """
    return 0 < len(text.strip()) <= len(text) <= _MOST_REASON and text.isprintable()


@dataclass(frozen=True, kw_only=True)
class PublicStart:
    """Weights of a public release, as a study names them and sites approve them.

    Attributes:
        release: Name of the study that made the release.
        public: Why the records behind it are public, in the words of whoever made it.
        weights: SHA-256 of all starting weights, 64 hexadecimal digits.
        sent: SHA-256 of what sites receive in the first round, by which each of them knows it.

    Raises:
        StudyError: A field is malformed.
    """

    release: str
    public: str
    weights: str
    sent: str

    def __post_init__(self) -> None:
        """Refuse what no release gives."""
        fits = {
            "release": _NAME.fullmatch(self.release) is not None,
            "public": is_reason(self.public),
            "weights": _HASH.fullmatch(self.weights) is not None,
            "sent": _HASH.fullmatch(self.sent) is not None,
        }
        for name, fit in fits.items():
            if not fit:
                raise StudyError(
                    f"model.init.{name} is {getattr(self, name)!r}.",
                    remedy="Leave [model.init] out of the file and give the release with --init: it is filled in.",
                )
