"""Where a trial is tried: on records that may be looked at, because they are public or drawn from a release."""

import hashlib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from evaluation.images import image_set
from evaluation.table import coded_table
from protocol.errors import InputError, StudyError
from protocol.public_start import REASON_REMEDY, is_reason
from protocol.study import Study
from protocol.terms import Unit
from records.dataset import Records
from server.release import Release
from simulations.comparison import concatenate, hold_out
from simulations.federation import simulate, unbound, with_sites
from simulations.scenario import Scenario, split
from simulations.sweep.objective import Objective, measure, measure_images
from strategies.study_model import study_schema

FEWEST_SYNTHETIC_ROWS = 4000


class Bench(ABC):
    """Trains one study, and says how good it was."""

    charged: ClassVar[bool] = False
    """Whether a training costs privacy."""

    @property
    @abstractmethod
    def words(self) -> str:
        """On what records, as the end of the sentence "It was tuned on ..."."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells this bench from another one, as JSON's types."""

    @abstractmethod
    def start(self, study: Study) -> dict[str, Any]:
        """Pay for one training and its judgement, before it begins.

        Args:
            study: What will be trained.

        Returns:
            What was paid, for the journal; nothing where trials are free.
        """

    @abstractmethod
    def measure(self, study: Study, *, repeat: int) -> dict[str, float]:
        """Train a study once and judge it.

        Args:
            study: What to train.
            repeat: Number of the repeat, from 0: its split and initial weights.

        Returns:
            Measures by name.

        Raises:
            CloisterError: Whatever a run can raise.
        """


@dataclass(frozen=True, kw_only=True)
class OpenBench(Bench):
    """Records that cost nothing to look at.

    Attributes:
        reason: As of :attr:`Bench.words`.
        source: Where the records come from, for the journal.
        parts: Gives the records of every site for the split of a repeat.
        objective: What is measured.
        device: Where to compute.
    """

    reason: str
    source: Mapping[str, Any]
    parts: Callable[[int], Mapping[str, Records]]
    objective: Objective
    device: str

    @property
    def words(self) -> str:
        """See :class:`Bench`."""
        return self.reason

    def identity(self) -> dict[str, Any]:
        """See :class:`Bench`; the records by a digest, which says nothing that they do not say themselves."""
        digest = hashlib.sha256()
        for name, records in self.parts(0).items():
            digest.update(name.encode() + b"\0" + np.ascontiguousarray(records.codes).tobytes())
        return {**self.source, "records": digest.hexdigest()}

    def start(self, study: Study) -> dict[str, Any]:
        """Free: see the module's text."""
        del study
        return {}

    def measure(self, study: Study, *, repeat: int) -> dict[str, float]:
        """See :class:`Bench`: a fifth of every site's records is kept back, and judges."""
        train, held_out = hold_out(self.parts(repeat), seed=repeat)
        pool = concatenate(list(train.values()))
        training = replace(study.training, seed=study.training.seed + repeat)
        trained = replace(with_sites(unbound(study), len(train)), training=training)
        with tempfile.TemporaryDirectory() as folder:
            release = simulate(trained, train, release=Path(folder) / "release", device=self.device)
            rows = max(FEWEST_SYNTHETIC_ROWS, len(pool))
            synthetic = np.concatenate(list(release.sample_codes(rows, allowed={}, seed=repeat)))
        schema = pool.schema
        if schema.image is not None:
            images = (image_set(schema, held_out.codes), image_set(schema, synthetic))
            return measure_images(self.objective, *images, seed=repeat, device=torch.device(self.device))
        return measure(
            self.objective,
            train=coded_table(schema, pool.codes),
            held_out=coded_table(schema, held_out.codes),
            synthetic=coded_table(schema, synthetic),
            generator=np.random.default_rng(repeat),
        )


def public_bench(
    scenario: Scenario,
    *,
    why: str,
    data: str | None,
    scheme: str | None,
    sites: int | None,
    seed: int,
    objective: Objective,
    device: str,
) -> OpenBench:
    """Return a bench on records of which the user says that they are public, and why.

    Args:
        scenario: The study with its records.
        why: The reason; it is written into the journal and the winner.
        data: As of :meth:`simulations.scenario.Scenario.load`, and the next two.
        scheme: How to split.
        sites: How many sites.
        seed: Of the split; each repeat adds its number.
        objective: What is measured.
        device: Where to compute.

    Raises:
        InputError: If no reason is given.
    """
    why = why.strip().rstrip(".")
    if not is_reason(why):
        raise InputError(f"--public says {why!r}.", remedy=f"{REASON_REMEDY} Who published them, and where?")

    @lru_cache(maxsize=8)
    def parts(repeat: int) -> Mapping[str, Records]:
        return scenario.load(data, scheme=scheme, sites=sites, seed=seed + repeat)

    where = "" if data is None else f" of {Path(data).name}" if "://" not in data else " of a database"
    return OpenBench(
        reason=f"public records{where} ({why})",
        source={"mode": "public", "why": why, "partition": scheme, "sites": sites},
        parts=parts,
        objective=objective,
        device=device,
    )


def synthetic_bench(
    study: Study,
    release: Release,
    *,
    rows: int,
    scheme: str | None,
    sites: int | None,
    seed: int,
    objective: Objective,
    device: str,
) -> OpenBench:
    """Return a bench on rows drawn from a release: what its statement covers already, so that trials are free.

    Args:
        study: The study that is tuned; its schema must be the release's.
        release: The release.
        rows: How many rows to draw.
        scheme: How to split them; ``iid`` if None.
        sites: Over how many sites; the study's number if None.
        seed: Of the rows and the split; each repeat adds its number to the latter.
        objective: What is measured.
        device: Where to compute.

    Raises:
        StudyError: If the schemas differ.
        InputError: If the release promises nothing.
    """
    schema = study_schema(study)
    if schema != release.schema:
        raise StudyError("The study and the release have different schemas.", remedy="Tune a study of its schema.")
    if not release.statement.private:
        raise InputError(
            f"{release.folder} is not private: rows drawn from it may be records.",
            remedy='Take a release with a guarantee; where its records are public, use --public "why".',
        )
    codes = np.concatenate(list(release.sample_codes(rows, allowed={}, seed=seed)))
    # Every drawn row counts as a person of its own: nobody is behind it.
    persons = np.arange(len(codes), dtype=np.int64) if study.privacy.unit is Unit.PERSON else None
    records = Records(codes=codes, persons=persons, schema=schema)

    @lru_cache(maxsize=8)
    def parts(repeat: int) -> Mapping[str, Records]:
        return split(records, scheme or "iid", sites=sites or study.federation.sites, seed=seed + repeat)

    simulated = ", a simulation," if release.statement.simulated else ""
    promised = release.statement.headline().removeprefix("SIMULATED: ").rstrip(".")
    return OpenBench(
        reason=f"{rows:,} synthetic rows of the release of study {release.study.hash[:12]}{simulated} whose "
        f"{promised} covers it",
        source={"mode": "synthetic", "release": release.study.hash, "rows": rows, "partition": scheme, "sites": sites},
        parts=parts,
        objective=objective,
        device=device,
    )
