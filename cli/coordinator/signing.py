"""A study under the coordinator's signature, among sites that are enrolled."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from protocol.errors import StudyError

if TYPE_CHECKING:
    from protocol.signed_study import SignedStudy
    from server.deployment.folder import CoordinatorFolder

SitesOption = Annotated[
    str | None, typer.Option("--sites", metavar="NAME,NAME...", help="Sites that take part; all enrolled if not given.")
]


InitOption = Annotated[
    Path | None,
    typer.Option("--init", metavar="RELEASE", help="Start from a public release of the same family and columns."),
]
PLACEHOLDER_PURPOSE = "Say in one sentence what the synthetic records are for."


def sign_for(opened: "CoordinatorFolder", path: Path, *, sites: str | None, init: Path | None = None) -> "SignedStudy":
    """Return a study file under the coordinator's signature, its roster filled in.

    Args:
        opened: The coordinator's folder.
        path: A study in TOML, or one that this coordinator signed.
        sites: Names, separated by commas; None for the study's own or all.
        init: Public release that it starts from; None for the study's seed.

    Raises:
        StudyError: If sites and study do not go together, nobody wrote what the study is for, or it cannot start from
            the release.
        ApprovalError: If somebody else signed it.
    """
    from protocol.keys import public_hex
    from protocol.signed_study import SignedStudy
    from server.deployment.jobs import agreed_study, read_study

    key, found = opened.key(), read_study(path)
    if isinstance(found, SignedStudy):
        found.verify(public_hex(key))
        study = found.study
    else:
        study = found
    if study.purpose.strip() == PLACEHOLDER_PURPOSE:
        raise StudyError(
            f"{path}: purpose is {study.purpose!r}.",
            remedy="Write what it is for: every site's officer reads it first.",
        )
    names = None if sites is None else [name.strip() for name in sites.split(",") if name.strip()]
    with opened.roster() as roster:
        agreed = agreed_study(study, roster.members(), sites=names)
    if init is not None:
        from server.start import with_start

        agreed = with_start(agreed, init)
    return SignedStudy.sign(agreed, key)
