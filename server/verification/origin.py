"""What a release says of public records and of what its training started from, held against its study."""

from collections.abc import Iterator

from protocol.errors import ReleaseError
from server.release import Release

_ASK = "Ask whoever made the release."


def origin(release: Release) -> Iterator[str]:
    """Check the marks of a release of public records, and of one that started from another.

    Yields:
        What holds.

    Raises:
        ReleaseError: If study and provenance differ.
    """
    study, told = release.study, release.provenance
    if told.get("public", "") != study.public:
        raise ReleaseError("The provenance says of public records what the study does not.", remedy=_ASK)
    init = study.model.init
    expected = None if init is None else {"release": init.release, "weights": init.weights}
    if told.get("public_start") != expected:
        raise ReleaseError("The provenance names another start of the training than the study.", remedy=_ASK)
    if study.public:
        yield f"Study and provenance say that the records are public: {study.public}"
    if init is not None:
        yield f"Training started from the public release {init.release!r}, weights {init.weights}, as the study says."
