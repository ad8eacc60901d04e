"""What an examination of a site finds."""

from dataclasses import dataclass
from enum import StrEnum

from protocol.errors import InputError


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check; no field ever holds a value of a record, a key or a passphrase.

    Attributes:
        check: What was looked at, in a word or two.
        state: How it ended.
        message: What was seen, one sentence.
        remedy: What to do about it, one sentence; empty only where all is well.

    Raises:
        InputError: If a finding that is not well says nothing about what to do.
    """

    check: str
    state: State
    message: str
    remedy: str = ""

    def __post_init__(self) -> None:
        """Refuse a complaint without a remedy."""
        if (self.state is State.OK) != (not self.remedy):
            raise InputError(
                f"The finding {self.check!r} is {self.state} with remedy {self.remedy!r}.",
                remedy="Say what to do about a warning or a failure, and nothing where all is well.",
            )

    def to_mapping(self) -> dict[str, str]:
        """Return the finding as a JSON object."""
        return {"check": self.check, "state": self.state.value, "message": self.message, "remedy": self.remedy}


def well(check: str, message: str) -> Finding:
    """Return the finding that all is well."""
    return Finding(check=check, state=State.OK, message=message)


def warning(check: str, message: str, *, remedy: str) -> Finding:
    """Return the finding that something will become, or may be, a problem."""
    return Finding(check=check, state=State.WARNING, message=message, remedy=remedy)


def failed(check: str, message: str, *, remedy: str) -> Finding:
    """Return the finding that something does not work."""
    return Finding(check=check, state=State.FAILED, message=message, remedy=remedy)
