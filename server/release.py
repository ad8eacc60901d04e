"""The release: a folder with a generator and all that makes it mean something, and no byte of a record.

::

    generator.safetensors   the averaged weights of the generator
    study.json              the study, with schema and model options, in the form that is hashed
    statement.json          the privacy statement
    statement.txt           the same in words
    provenance.json         run, sites, code, versions
    signed_study.json       the study under the coordinator's signature, where a coordinator signed it
    start.safetensors       all weights, for studies that start from these: only where the study says that its records
                            are public
    SHA256SUMS              of all of the above
    SIGNATURE               the coordinator's, over SHA256SUMS, where it signed the study

It is written beside its final place and moved there whole, so that a release is complete or absent.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.family import Family
from privacy.statement import Statement
from protocol.errors import CloisterError, InputError, ReleaseError
from protocol.fingerprint import VERSION, code_fingerprint
from protocol.messages import NO_ENTRY
from protocol.signed_study import SignedStudy
from protocol.study import Study
from records.codec import Codec
from records.schema import Schema
from server.job import Job
from server.sampling import draw_records
from server.study_run import Evidence, StudyRun
from server.whole_folder import check_new, whole_folder
from strategies.starting_point import starting_state
from strategies.study_model import build_study_model, study_schema

__all__ = [
    "LIBRARIES",
    "Release",
    "check_new",
    "run_statement",
    "statement_text",
    "write_job_release",
    "write_release",
]
RELEASE_VERSION = 2
_WEIGHTS, _STUDY, _STATEMENT, _WORDS = (
    "generator.safetensors",
    "study.json",
    "statement.json",
    "statement.txt",
)
_PROVENANCE, _SUMS = "provenance.json", "SHA256SUMS"
_SIGNED, _SIGNATURE, _START = "signed_study.json", "SIGNATURE", "start.safetensors"
_FILES = (_WEIGHTS, _STUDY, _STATEMENT, _WORDS, _PROVENANCE)
_DOMAIN = b"cloister release v1\0"
LIBRARIES = ("dp-accounting", "flwr", "opacus", "torch")
_FETCH = "Fetch the release again from whoever made it."


def write_job_release(job: Job, run: StudyRun, evidence: Evidence) -> None:
    """Write the release of a job into its folder, under the coordinator's signature.

    Raises:
        InputError: If there is one, or it cannot be written.
    """
    write_release(job.release, run, evidence, simulated=False, signed=job.signed, key=job.key)


def write_release(
    folder: Path,
    run: StudyRun,
    evidence: Evidence,
    *,
    simulated: bool,
    signed: SignedStudy | None = None,
    key: Ed25519PrivateKey | None = None,
) -> None:
    """Write a release; an existing folder is never touched.

    Args:
        folder: Where; it must not exist.
        run: The finished run.
        evidence: What the run left behind.
        simulated: Whether sites and ledgers were simulated.
        signed: The study under the coordinator's signature; None leaves the release unsigned.
        key: The coordinator's key, where ``signed`` is given.

    Raises:
        InputError: If the folder exists or cannot be written.
    """
    statement = run_statement(run, evidence, simulated=simulated)
    with whole_folder(folder) as draft:
        try:
            save_file(run.model.released_state(), draft / _WEIGHTS)
            if run.study.public:
                save_file(starting_state(run.model), draft / _START)
        except SafetensorError as error:
            raise InputError(f"{folder} cannot be written: {error}.", remedy="Check space and permissions.") from error
        (draft / _STUDY).write_text(run.study.text, encoding="utf-8")
        (draft / _STATEMENT).write_text(_json(statement.to_mapping()), encoding="utf-8")
        (draft / _WORDS).write_text(statement_text(statement), encoding="utf-8")
        (draft / _PROVENANCE).write_text(_json(_provenance(run, evidence, simulated=simulated)), encoding="utf-8")
        if signed is not None:
            (draft / _SIGNED).write_text(signed.to_text(), encoding="utf-8")
        names = (*_FILES, *([] if signed is None else [_SIGNED]), *([_START] if run.study.public else []))
        sums = "".join(f"{_sha256(draft / name)}  {name}\n" for name in names)
        (draft / _SUMS).write_text(sums, encoding="utf-8")
        if key is not None:
            (draft / _SIGNATURE).write_text(key.sign(_DOMAIN + sums.encode()).hex() + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True, eq=False)
class Release:
    """A release that was read and whose checksums hold.

    Attributes:
        folder: Where it lies.
        study: The study.
        schema: Its data dictionary.
        statement: The privacy statement.
        words: What statement.txt says; whether that is the same is for `server.verification` to say.
        provenance: Run, sites, code, versions.
        model: The generator.
        coordinator: Public key of the coordinator that signed study and release, 64 hexadecimal digits; None where
            nobody signed. Whose key it is must be known from elsewhere.
        start: All weights, where the study says that its records are public; None elsewhere.
    """

    folder: Path
    study: Study
    schema: Schema
    statement: Statement
    words: str
    provenance: Mapping[str, Any]
    model: Family
    coordinator: str | None = None
    start: Mapping[str, Tensor] | None = None

    @classmethod
    def open(cls, folder: str | Path, *, device: torch.device) -> Self:
        """Read a release.

        Raises:
            ReleaseError: If a file is missing, changed, of another version or of another form than
                :func:`write_release` gives it, or a signature does not hold.
        """
        folder = Path(folder)
        signed = _check_sums(folder)
        try:
            texts = {name: (folder / name).read_bytes().decode() for name in (_STUDY, _STATEMENT, _WORDS, _PROVENANCE)}
            study = Study.from_text(texts[_STUDY])
            statement = Statement.from_mapping(json.loads(texts[_STATEMENT]))
            provenance = json.loads(texts[_PROVENANCE])
            forms = {_STUDY: study.text, _STATEMENT: _json(statement.to_mapping()), _PROVENANCE: _json(provenance)}
            state = load_file(folder / _WEIGHTS)
            start = load_file(folder / _START) if (folder / _START).exists() else None
            model = build_study_model(study)
        except (ValueError, OSError, RecursionError, SafetensorError, CloisterError) as error:
            raise ReleaseError(f"{folder} cannot be read: {error}.", remedy=_FETCH) from error
        for name, text in forms.items():
            # What reads alike but is written otherwise, or names a key twice, could show a person something else.
            if texts[name] != text:
                raise ReleaseError(f"{folder}/{name} is not in the one form that a release has.", remedy=_FETCH)
        found = provenance.get("version") if isinstance(provenance, dict) else None
        if type(found) is not int or found != RELEASE_VERSION:
            raise ReleaseError(
                f"{folder} is not of version {RELEASE_VERSION}.", remedy="Use the Cloister that made it."
            )
        if provenance.get("study") != study.hash:
            raise ReleaseError(f"{folder} holds the files of two studies.", remedy=_FETCH)
        if (start is None) is bool(study.public) or provenance.get("public", "") != study.public:
            raise ReleaseError(f"{folder} is marked public, and its study is not, or the other way.", remedy=_FETCH)
        coordinator = _signer(folder, study) if signed else None
        try:
            model.generator.load_state_dict(state)
        except RuntimeError as error:
            raise ReleaseError(f"{folder}: the weights do not fit the study.", remedy=_FETCH) from error
        return cls(
            folder=folder,
            study=study,
            schema=study_schema(study),
            statement=statement,
            words=texts[_WORDS],
            provenance=provenance,
            model=model.to(device).eval(),
            coordinator=coordinator,
            start=start,
        )

    def sample_codes(
        self, count: int, *, allowed: Mapping[int, NDArray[np.bool_]], seed: int
    ) -> Iterator[NDArray[np.int32]]:
        """Draw synthetic records as integer codes, batch by batch.

        Args:
            count: How many records.
            allowed: For a column index, the mask of codes that may occur.
            seed: The same seed, count and condition give the same records on the same machine.

        Yields:
            int32 ``[m, columns]``. Every record fulfils the constraints of the schema.

        Raises:
            InputError: If the model gives the conditions under the constraints (nearly) no probability.
        """
        for codes, _ in draw_records(self.model, self.schema, count, allowed=allowed, seed=seed):
            yield codes

    def sample(self, count: int, *, allowed: Mapping[int, NDArray[np.bool_]], seed: int) -> Iterator[pa.Table]:
        """Draw synthetic records as tables of the schema's columns; see :meth:`sample_codes`, whose codes they have."""
        codec = Codec(self.schema)
        generator = np.random.default_rng(seed)
        for codes, values in draw_records(self.model, self.schema, count, allowed=allowed, seed=seed):
            yield codec.decode(codes, generator=generator, values=values)


def statement_text(statement: Statement) -> str:
    """Return what statement.txt says of a statement."""
    return "\n".join(statement.sentences()) + "\n"


def run_statement(run: StudyRun, evidence: Evidence, *, simulated: bool) -> Statement:
    """Return what the run promises to every unit of every site, from the rounds that were completed."""
    entries = sorted(set(evidence.entries.values()) - {NO_ENTRY})
    return run.plan.statement(rounds=evidence.rounds, simulated=simulated, ledger_entries=entries)


def _provenance(run: StudyRun, evidence: Evidence, *, simulated: bool) -> dict[str, Any]:
    """Return where the release comes from."""
    entries = {name: entry for name, entry in evidence.entries.items() if entry != NO_ENTRY}
    return {
        "version": RELEASE_VERSION,
        "study": run.study.hash,
        "run": evidence.run,
        **_origin(run.study),
        "code": code_fingerprint(),
        "simulated": simulated,
        "rounds": evidence.rounds,
        "unfinished_rounds": evidence.unfinished,
        "seconds": round(evidence.seconds, 1),
        "device": str(run.model.device),
        "versions": {"cloister": VERSION} | {name: version(name) for name in LIBRARIES},
        "sites": {
            name: {
                "public_key": key,
                "contributions": evidence.contributions.get(name, 0),
                "last_ledger_entry": entries.get(name),
            }
            for name, key in evidence.keys.items()
        },
    }


def _origin(study: Study) -> dict[str, Any]:
    """Return the marks of a study of public records, and of one that started from a public release."""
    public = {"public": study.public} if study.public else {}
    init = study.model.init
    return public if init is None else public | {"public_start": {"release": init.release, "weights": init.weights}}


def _json(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _check_sums(folder: Path) -> bool:
    """Compare every file with its checksum; returns whether the release says that it is signed."""
    try:
        lines = (folder / _SUMS).read_text(encoding="utf-8").splitlines()
        pairs = [line.split("  ", 1) for line in lines]
        sums = {name: digest for digest, name in pairs}
        if len(sums) != len(pairs):
            raise ReleaseError(f"{folder}/{_SUMS} names a file twice.", remedy=_FETCH)
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{folder} is no release: no readable {_SUMS}.", remedy="Check the path.") from error
    signed = _SIGNED in sums or (folder / _SIGNATURE).exists()
    public = {_START} if _START in sums or (folder / _START).exists() else set()
    if set(sums) != {*_FILES, *({_SIGNED} if signed else ()), *public}:
        raise ReleaseError(f"{folder}/{_SUMS} names other files than a release has.", remedy=_FETCH)
    for name, expected in sums.items():
        try:
            found = _sha256(folder / name)
        except OSError as error:
            raise ReleaseError(f"{folder}/{name} is missing.", remedy=_FETCH) from error
        if found != expected:
            raise ReleaseError(f"{folder}/{name} was changed after it was written.", remedy=_FETCH)
    return signed


def _signer(folder: Path, study: Study) -> str:
    """Return the key of the coordinator that signed both the study and this release of it."""
    try:
        held = SignedStudy.from_text((folder / _SIGNED).read_text(encoding="utf-8"))
        held.verify(held.coordinator)
        signature = bytes.fromhex((folder / _SIGNATURE).read_text(encoding="utf-8"))
        signed = _DOMAIN + (folder / _SUMS).read_bytes()
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(held.coordinator)).verify(signature, signed)
    except (OSError, ValueError, CloisterError, InvalidSignature) as error:
        raise ReleaseError(f"{folder}: the coordinator's signature does not hold.", remedy=_FETCH) from error
    if held.study.hash != study.hash:
        raise ReleaseError(f"{folder} holds the files of two studies.", remedy=_FETCH)
    return held.coordinator
