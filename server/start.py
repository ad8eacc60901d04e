"""Training that starts from a public release: which one may be, and what a study then says of it.

A start is free of charge only where nothing private is in it. A release carries the mark ``public`` where its study
said so before it was trained, under ``[study] public``; any other is refused.
"""

from dataclasses import replace
from pathlib import Path

import torch

from protocol.errors import StudyError
from protocol.public_start import PublicStart
from protocol.study import Study
from records.schema import Schema
from server.release import Release
from strategies.starting_point import State, sent_hash, state_hash
from strategies.study_model import study_schema


def with_start(study: Study, folder: str | Path) -> Study:
    """Return a study that starts from a public release; sites approve it with the hash of the weights in it.

    Args:
        study: The study. Where it names a start already, the release must be that one.
        folder: The release.

    Returns:
        The study, its ``[model.init]`` filled in.

    Raises:
        ReleaseError: If the release is damaged, or none.
        StudyError: If the release is not public, of another family, other options or another schema, or not the one
            that the study names.
    """
    release = Release.open(folder, device=torch.device("cpu"))
    state = public_state(release)
    _check_alike(study, release)
    plain = replace(study, model=replace(study.model, init=None))
    init = PublicStart(
        release=release.study.name,
        public=release.study.public,
        weights=state_hash(state),
        sent=sent_hash(plain, state),
    )
    if study.model.init not in (None, init):
        raise StudyError(
            f"The study names another start than the release {release.study.name!r}.",
            remedy="Give the release that it was made with, or take [model.init] out of the study.",
        )
    return replace(study, model=replace(study.model, init=init))


def start_weights(study: Study, folder: str | Path | None) -> State | None:
    """Read what a run of a study starts from; None where no release is given, or an empty name.

    Raises:
        ReleaseError: If the release is damaged, or none.
        StudyError: If the release is not the public one that the study names.
    """
    if not folder:
        return None
    with_start(study, folder)
    return public_state(Release.open(folder, device=torch.device("cpu")))


def public_state(release: Release) -> State:
    """Return all weights of a public release.

    Raises:
        StudyError: If it is not marked public.
    """
    if release.start is None:
        raise StudyError(
            f"The release of {release.study.name!r} is not marked public.",
            remedy="A private start would cost its own epsilon again: train one on public records, whose study says"
            ' why they are, [study] public = "...".',
        )
    return release.start


def _check_alike(study: Study, release: Release) -> None:
    """Refuse a release whose weights would mean something else in the study's model."""
    choice, made = study.model, release.study.model
    for what, wanted, found in (("family", choice.family, made.family), ("options", choice.options, made.options)):
        if wanted != found:
            raise StudyError(
                f"The study's model.{what} is {wanted!r}, the public release's {found!r}.",
                remedy="Both must be the same: change the study, or train another start.",
            )
    _check_columns(study_schema(study), release.schema)


def _check_columns(wanted: Schema, found: Schema) -> None:
    remedy = "Both schemas must have the same columns with the same codes, in the same order."
    if wanted.names != found.names or wanted.image != found.image:
        raise StudyError(
            f"The study has the columns {', '.join(wanted.names)}; the public release has {', '.join(found.names)}.",
            remedy=remedy,
        )
    for one, other in zip(wanted.columns, found.columns, strict=True):
        if one.code_labels != other.code_labels or one.group_codes != other.group_codes:
            raise StudyError(f"Column {one.name}: the public release has other codes for it.", remedy=remedy)
