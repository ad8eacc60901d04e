"""What federating gains: one study trained by all sites together, by each alone, and on the pooled records.

Rounds, rates and the like are the study's for all of them: they were not tuned for a site alone. A generator's
synthetic rows outnumber the real ones, so that "real" is no ceiling.

Every site keeps a fifth of its people back; generators are judged by a classifier that is trained on their
records and tested on what was kept back at all sites together. All trainings make the same promise.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.table import CodedTable, coded_table
from evaluation.utility import Learner, Utility, train_on_synthetic_test_on_real
from privacy.statement import Statement
from protocol.study import Study
from records.dataset import Records
from records.schema import Schema
from server.release import Release
from simulations.federation import alone, simulate, with_sites

SYNTHETIC_ROWS = 4000
_HELD_OUT = 0.2


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the comparison.

    Attributes:
        name: Who trained.
        records: On how many records.
        auroc: Area under the ROC curve of boosted trees on the real records that were kept back.
        accuracy: Their accuracy.
    """

    name: str
    records: int
    auroc: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The whole table.

    Attributes:
        real: Trained on the real training records of all sites.
        alone: Each site's own generator.
        federated: The federation's generator.
        pooled: The same on the pooled records, at one site.
        statement: The federation's.
    """

    real: Row
    alone: tuple[Row, ...]
    federated: Row
    pooled: Row
    statement: Statement

    @property
    def rows(self) -> tuple[Row, ...]:
        """All lines in the order in which they are shown."""
        return (self.real, *self.alone, self.federated, self.pooled)

    @property
    def mean_alone(self) -> float:
        """Mean AUROC of the sites by themselves."""
        return float(np.mean([row.auroc for row in self.alone]))


def hold_out(parts: Mapping[str, Records], *, seed: int) -> tuple[dict[str, Records], Records]:
    """Keep a fifth of every site's people back.

    Args:
        parts: Records by site.
        seed: Of the choice.

    Returns:
        The training records by site, and what was kept back at all sites together.
    """
    train, test = {}, []
    for number, (name, records) in enumerate(parts.items()):
        generator = np.random.default_rng([seed, number])
        units = records.units
        people = generator.permutation(len(np.unique(units)))
        # Somebody is left to train on, wherever there is anybody.
        back = min(int(np.ceil(_HELD_OUT * len(people))), max(0, len(people) - 1))
        kept = np.isin(units, people[:back])
        train[name] = records.take(np.flatnonzero(~kept))
        test.append(records.take(np.flatnonzero(kept)))
    return train, concatenate(test)


def concatenate(parts: list[Records]) -> Records:
    """Put records of one schema under one another; people at different sites are different people."""
    codes = np.concatenate([part.codes for part in parts])
    persons, start = [], 0
    for part in parts:
        if part.persons is not None:
            persons.append(part.persons + start)
            start += int(part.persons.max()) + 1 if len(part) else 0
    return Records(codes=codes, persons=np.concatenate(persons) if persons else None, schema=parts[0].schema)


def compare(
    study: Study,
    parts: Mapping[str, Records],
    *,
    seed: int,
    federated: Release | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Train the study together, alone and pooled, and judge all generators alike.

    Args:
        study: The study; its number of sites is taken from ``parts``.
        parts: Records by site.
        seed: Of the split and of the synthetic records; training is always freshly random.
        federated: A release that the sites together have trained on what :func:`hold_out` leaves them with
            this seed; None to train it here.
        announce: Told what is about to be trained.

    Returns:
        The comparison.
    """
    train, test = hold_out(parts, seed=seed)
    pool = concatenate(list(train.values()))
    shares = {name: max(2, round(study.federation.public_records * len(r) / len(pool))) for name, r in train.items()}
    judge = _Judge(test=coded_table(test.schema, test.codes), seed=seed)
    if federated is None:
        announce("federated")
        together, statement = judge.train("federated", with_sites(study, len(train)), train)
    else:
        together, statement = judge.judge("federated", federated, len(pool)), federated.statement
    singles = []
    for name, records in train.items():
        announce(f"{name} alone")
        single, _ = judge.train(f"{name} alone", alone(study, public_records=shares[name]), {name: records})
        singles.append(single)
    announce("pooled")
    pooled, _ = judge.train("pooled", alone(study, public_records=study.federation.public_records), {"pool": pool})
    real = judge.row("real records", len(pool), judge.score(pool.schema, pool.codes))
    return Comparison(real=real, alone=tuple(singles), federated=together, pooled=pooled, statement=statement)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Judge:
    """Trains studies and scores their generators on the same held-out records."""

    test: CodedTable
    seed: int

    def train(self, name: str, study: Study, parts: Mapping[str, Records]) -> tuple[Row, Statement]:
        """Train once; returns the line and the statement."""
        with tempfile.TemporaryDirectory() as folder:
            release = simulate(study, parts, release=Path(folder) / "release")
        size = sum(len(records) for records in parts.values())
        return self.judge(name, release, size), release.statement

    def judge(self, name: str, release: Release, records: int) -> Row:
        """Score a release that was trained on so many records."""
        codes = np.concatenate(list(release.sample_codes(SYNTHETIC_ROWS, allowed={}, seed=self.seed)))
        return self.row(name, records, self.score(release.schema, codes))

    def score(self, schema: Schema, codes: NDArray[np.int32]) -> Utility:
        """Train boosted trees on codes ``[n, columns]`` and test them on what was kept back."""
        return train_on_synthetic_test_on_real(
            learner=Learner.BOOSTED_TREES,
            real_train=None,
            real_test=self.test,
            synthetic=coded_table(schema, codes),
        )

    def row(self, name: str, records: int, utility: Utility) -> Row:
        """Return one line."""
        scores = utility.synthetic
        return Row(name=name, records=records, auroc=scores.auroc, accuracy=scores.accuracy)
