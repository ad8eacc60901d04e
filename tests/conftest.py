"""What many tests need: a tiny public table, a study of it, and what is left of a run among sites with ledgers."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.study import Study
from records.dataset import Records
from records.schema import Schema

SCHEMA: dict[str, Any] = {
    "target": "ill",
    "columns": [
        {"name": "age", "kind": "integer", "lower": 20, "upper": 29},
        {"name": "colour", "kind": "categorical", "categories": ["red", "green", "blue"], "missing": True},
        {"name": "ill", "kind": "boolean"},
    ],
}


@pytest.fixture
def tiny_study() -> Callable[..., Study]:
    """Return a builder of a study of two sites and three rounds; sections may be overridden."""
    return _study


@pytest.fixture
def tiny_records() -> Callable[..., Records]:
    """Return a builder of records whose ``ill`` depends on ``age``."""
    return lambda count, *, seed=0: _records(count, seed=seed)


@pytest.fixture
def without_noise(tiny_study: Callable[..., Study]) -> Callable[..., Study]:
    """Return a builder of tiny studies in the deterministic test mode."""

    def build(**sections: dict[str, Any]) -> Study:
        study = tiny_study(**sections)
        from protocol.terms import NoiseOrigin

        return replace(study, privacy=replace(study.privacy, noise=NoiseOrigin.DETERMINISTIC))

    return build


@pytest.fixture
def given_noise(tiny_study: Callable[..., Study]) -> Callable[..., Study]:
    """Return a builder of tiny studies that name their noise multiplier instead of an epsilon; 0 for none."""

    def build(noise_multiplier: float, **sections: dict[str, Any]) -> Study:
        study = tiny_study(**sections)
        terms = replace(study.privacy, epsilon=None, noise_multiplier=noise_multiplier)
        return replace(study, privacy=terms)

    return build


@dataclass(kw_only=True)
class Deployed:
    """What is left of a run whose sites had ledgers of their own: the release, and what its sites can show.

    Attributes:
        folder: The release.
        study: With the sites' keys in it.
        coordinator: The key that signed it.
        keys: The sites' keys.
        entries: All entries of each site's ledger; of another study, too.
        told: The sites' transcripts, where there was a secure sum.
    """

    folder: Path
    study: Study
    coordinator: Ed25519PrivateKey
    keys: dict[str, Ed25519PrivateKey]
    entries: dict[str, tuple[Any, ...]]
    told: dict[str, Path]

    def extract(self, site: str) -> Any:
        """What the site's ledger says of the study."""
        from privacy.ledger import LedgerExtract

        time = self.entries[site][-1].time
        return LedgerExtract.of(self.entries[site], site=site, study=self.study.hash, time=time, key=self.keys[site])

    def copy(self, target: Path) -> Path:
        """A copy of the release to meddle with."""
        return Path(shutil.copytree(self.folder, target))

    def rewrite(self, folder: Path, name: str, edit: Callable[[Any], object]) -> None:
        """Change a JSON file of a release as a coordinator that lies well would: in its form, its words with it."""
        from privacy.statement import Statement
        from server.release import statement_text

        value = json.loads((folder / name).read_text("utf-8"))
        edit(value)
        (folder / name).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", "utf-8")
        if name == "statement.json":
            (folder / "statement.txt").write_text(statement_text(Statement.from_mapping(value)), "utf-8")

    def name(self, folder: Path, entries: dict[str, str]) -> Path:
        """Let a release name other entries, as if its sites' ledgers had been like that from the beginning."""
        named: list[str] = []

        def change(provenance: Any) -> None:
            for site, entry in entries.items():
                provenance["sites"][site]["last_ledger_entry"] = entry
            named.extend(sorted({one["last_ledger_entry"] for one in provenance["sites"].values()}))

        self.rewrite(folder, "provenance.json", change)
        self.rewrite(folder, "statement.json", lambda value: value.update(ledger_entries=named))
        self.seal(folder)
        return folder

    def seal(self, folder: Path) -> None:
        """Write checksums and signature anew, as a coordinator that lies would."""
        names = [line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text("utf-8").splitlines()]
        sums = "".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
        (folder / "SHA256SUMS").write_text(sums, "utf-8")
        if (folder / "SIGNATURE").exists():
            signature = self.coordinator.sign(b"cloister release v1\0" + sums.encode()).hex()
            (folder / "SIGNATURE").write_text(signature + "\n", "utf-8")


@pytest.fixture(scope="session")
def deploy() -> Callable[..., Deployed]:
    """Return a function that runs a study among sites with ledgers on the disk, and signs its release."""

    def run(root: Path, study: Study, records: dict[str, Records]) -> Deployed:
        import torch

        from client.app import app
        from client.site import resident
        from privacy.ledger import Ledger
        from privacy.plan import PrivacyPlan
        from protocol.signed_study import SignedStudy
        from server.release import write_release
        from server.study_run import StudyRun
        from simulations.federation import simulated_site, with_roster
        from simulations.grid import InMemoryGrid

        keys = {name: Ed25519PrivateKey.generate() for name in records}
        study, coordinator = with_roster(study, keys), Ed25519PrivateKey.generate()
        event = PrivacyPlan.from_study(study).round_event
        sites, ledgers = {}, {}
        for name, key in keys.items():
            (root / name).mkdir(parents=True)
            ledgers[name] = Ledger.create(root / name / "ledger.sqlite", key=key, data_set=f"wards-of-{name}")
            if event is not None:
                other = replace(event, noise_multiplier=50.0)
                ledgers[name].charge(study="0" * 64, run="0" * 64, round=1, event=other, ceilings=())
            sites[name] = simulated_site(name, study, records[name], device="cpu", key=key)
            sites[name].policy = replace(sites[name].policy, epsilon=300.0)
            sites[name].ledger = ledgers[name]
            sites[name].transcripts = root / "told" / name
        with resident(sites) as nodes:
            grid = InMemoryGrid(app, nodes)
            with grid.as_server():
                made = StudyRun(grid, study, device=torch.device("cpu"))
                evidence = made.execute()
        signed = SignedStudy.sign(study, coordinator)
        write_release(root / "release", made, evidence, simulated=False, signed=signed, key=coordinator)
        entries = {name: ledger.entries() for name, ledger in ledgers.items()}
        for ledger in ledgers.values():
            ledger.close()
        return Deployed(
            folder=root / "release",
            study=study,
            coordinator=coordinator,
            keys=keys,
            entries=entries,
            told={path.parent.name: path for path in sorted((root / "told").rglob("*.json"))},
        )

    return run


def _records(count: int, *, seed: int) -> Records:
    """Records whose ``ill`` depends on ``age``."""
    generator = np.random.default_rng(seed)
    age = generator.integers(0, 10, count)
    colour = generator.integers(0, 4, count)
    ill = (generator.random(count) < age / 10).astype(int)
    codes = np.stack([age, colour, ill], axis=1).astype(np.int32)
    return Records(codes=codes, persons=None, schema=Schema.from_mapping(SCHEMA))


def _study(**sections: dict[str, Any]) -> Study:
    """A study of two sites and three rounds; sections may be overridden."""
    mapping: dict[str, Any] = {
        "study": {"name": "tiny", "purpose": "A test."},
        "schema": SCHEMA,
        "model": {"family": "vae", "options": {"latent": 2}},
        "training": {"rounds": 3},
        "privacy": {"epsilon": 5.0, "delta": 1e-4, "sample_rate": 0.5},
        "federation": {"sites": 2, "public_records": 100},
    }
    for name, section in sections.items():
        mapping[name] = mapping[name] | section
    return Study.from_mapping(mapping)


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory, deploy: Callable[..., Deployed]) -> Deployed:
    """A release of two sites that each added the whole noise. Nobody may change it."""
    records = {name: _records(30, seed=seed) for seed, name in enumerate(("north", "south"))}
    return deploy(tmp_path_factory.mktemp("deployed"), _study(), records)


@pytest.fixture(scope="session")
def deployed_sum(tmp_path_factory: pytest.TempPathFactory, deploy: Callable[..., Deployed]) -> Deployed:
    """A release of a secure sum over six sites, with their transcripts. Nobody may change it."""
    study = _study(
        study={"name": "tiny-sum"},
        privacy={"trust": "sum"},
        federation={"sites": 6, "dropouts": 1, "colluders": 1},
    )
    records = {name: _records(20, seed=seed) for seed, name in enumerate("abcdef")}
    return deploy(tmp_path_factory.mktemp("deployed-sum"), study, records)


@pytest.fixture
def tally(monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    """Offer studies a family that learns from two rounds of statistics, of different sizes, and can train as well."""
    from models import families

    options, family = _tally_family()
    entry = families._Entry(options=options, construct=family)
    monkeypatch.setattr(families, "_TABLE", {**families._TABLE, "tally": entry})
    return family


def _tally_statistics() -> type[Any]:
    """The first round counts the codes of every column. The second depends on a weight that sites receive."""
    from torch import Tensor, nn, stack

    from models.layout import OneHotLayout
    from models.statistics import Statistics

    class TallyStatistics(Statistics):
        def __init__(self, layout: OneHotLayout, weight: nn.Parameter) -> None:
            self.layout, self.weight = layout, weight

        def dimension(self, number: int) -> int:
            return self.layout.width if number == 1 else 2

        def norm(self, number: int) -> float:
            return float(self.layout.columns**0.5) if number == 1 else 2.0

        def weighted_sum(self, number: int, codes: Tensor, weights: Tensor) -> Tensor:
            if number == 1:
                return weights @ self.layout.encode(codes).double()
            first = codes[:, 0].double() / self.layout.cardinalities[0]
            return stack([weights @ (first * self.weight[0].double()), weights.sum()])

    return TallyStatistics


def _tally_family() -> tuple[type[Any], type[Any]]:
    """The options and the family, which learns counts, then sets a weight, then learns what depends on it."""
    import torch
    from torch import Tensor, nn

    from models.family import Family
    from models.layout import OneHotLayout
    from models.statistics import Statistics

    statistics_type = _tally_statistics()

    @dataclass(frozen=True, kw_only=True)
    class TallyOptions:
        rounds: int = 2

    class Tally(Family):
        def __init__(self, layout: OneHotLayout, options: TallyOptions) -> None:
            super().__init__(layout)
            self.options = options
            self.layer = nn.Linear(1, 2)
            for name, size in (("counts", layout.width), ("second", 2), ("deviations", 2)):
                self.register_buffer(name, torch.zeros(size, dtype=torch.float64))

        shared = property(lambda self: self.layer)
        generator = property(lambda self: self)
        statistics_rounds = property(lambda self: self.options.rounds)

        @property
        def statistics(self) -> Statistics:
            return statistics_type(self.layout, self.layer.bias)

        def learn_statistics(self, number: int, means: Tensor, *, deviation: float, generator: torch.Generator) -> None:
            del generator
            (self.counts if number == 1 else self.second).copy_(means)
            self.deviations[number - 1] = deviation
            if number == 1:
                with torch.no_grad():
                    self.layer.bias[0] = 0.5

        def unit_loss(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
            del generator
            return self.layer(codes[:, :1].float() / 10.0).square().sum(dim=1)

        def draw(
            self, count: int, *, allowed: Mapping[int, Tensor], generator: torch.Generator
        ) -> tuple[Tensor, Tensor]:
            del allowed, generator
            return torch.zeros(count, self.layout.columns, dtype=torch.long), torch.zeros(count)

    return TallyOptions, Tally
