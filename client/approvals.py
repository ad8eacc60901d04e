"""Which studies a site has approved. A message names a study; what the study says is read from here alone."""

from collections.abc import Iterable
from pathlib import Path

from protocol.errors import ApprovalError, StudyError
from protocol.study import Study

_REMEDY = "Read the study and approve it at the site, or ask the coordinator why it differs."


class Approvals:
    """The approved studies of one site, by hash.

    Args:
        studies: Approved studies.
    """

    def __init__(self, studies: Iterable[Study] = ()) -> None:
        self._studies = {study.hash: study for study in studies}

    @classmethod
    def from_folder(cls, folder: Path) -> "Approvals":
        """Read every ``HASH.json`` of a folder; a file whose content has another hash is refused.

        Raises:
            ApprovalError: If a file was changed after it was approved.
        """
        studies = []
        for path in sorted(folder.glob("*.json")):
            try:
                study = Study.from_text(path.read_text(encoding="utf-8"))
                unchanged = study.hash == path.stem
            except (StudyError, UnicodeDecodeError) as error:
                raise ApprovalError(f"{path} is no study (any more): {error}", remedy=_REMEDY) from error
            if not unchanged:
                raise ApprovalError(f"{path} was changed after it was approved.", remedy=_REMEDY)
            studies.append(study)
        return cls(studies)

    @staticmethod
    def record(study: Study, folder: Path) -> Path:
        """Write down that a study is approved, and return the file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{study.hash}.json"
        path.write_text(study.text, encoding="utf-8")
        return path

    def study(self, study_hash: str) -> Study:
        """Return an approved study.

        Raises:
            ApprovalError: If it was not approved.
        """
        try:
            return self._studies[study_hash]
        except KeyError:
            raise ApprovalError(f"Study {study_hash[:12]}… is not approved.", remedy=_REMEDY) from None
