"""A site: its records, key, ledger, policy and approvals, and how the app finds them.

A site lives in a folder of its own::

    site.toml      name, data source, data set, ledger; paths in it are relative to the folder
    policy.toml    what the site allows
    key.pem        Ed25519 private key, readable by the owner alone
    approvals/     one file per approved study
    transcripts/   what the site was told and did in secure sums, one file per run
    sums/          secrets of the secure sum under way

The app finds the folder through the environment variable ``CLOISTER_SITE``. Where Flower simulates many sites
in one place, site number i is the sub-folder ``i``. Nothing that a server sends can name a folder or a file.
"""

import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from flwr.app import Context

from client.approvals import Approvals
from client.policy import Policy
from client.training import Trainer
from privacy.ledger import Ledger
from privacy.plan import PrivacyPlan
from privacy.secure_sum import SiteSession
from protocol.errors import InputError, RecordsError
from protocol.randomness import DeterministicRandom, RandomSource, SystemRandom
from protocol.study import Study
from protocol.terms import SITE_NAME, NoiseOrigin
from records.dataset import Records, load_records
from records.partition import partition
from strategies.study_model import study_schema

FOLDER_VARIABLE = "CLOISTER_SITE"
_RESIDENT = "cloister-resident"
_PARTITION = "partition-id"
_SHARE = frozenset({"scheme", "sites", "number", "seed"})
# Where in site.toml, which keys are known, which are needed.
_TABLES: tuple[tuple[tuple[str, ...], frozenset[str], frozenset[str]], ...] = (
    ((), frozenset({"name", "data", "device"}), frozenset({"name", "data"})),
    (("data",), frozenset({"location", "set", "ledger", "share"}), frozenset({"location", "set"})),
    (("data", "share"), _SHARE, _SHARE),
)


@dataclass(kw_only=True, eq=False)
class Site:
    """Everything that a site holds.

    Attributes:
        name: Lower-case letters, digits and hyphens.
        location: The data source; None where ``records`` are given.
        records: Records already read, for simulations.
        share: Scheme, number of sites, own number and seed of a partition of the source, for simulations.
        policy: What the site allows.
        approvals: Which studies it approved.
        ledger: The book of its data set.
        key: Signs what leaves.
        device: Where to compute.
        transcripts: Folder for the transcripts of secure sums; None keeps them in :attr:`sessions` alone.
        sums: Folder for the memory of secure sums under way, for processes that end between messages; None keeps
            it in :attr:`sessions` alone.
        sessions: The secure sum under way, by study and run, where ``sums`` is None.
        ended_runs: Runs that were left for another one, where ``sums`` is None.
        turn: Held while a turn of a secure sum is taken.
    """

    name: str
    policy: Policy
    approvals: Approvals
    ledger: Ledger
    key: Ed25519PrivateKey
    location: str | None = None
    records: Records | None = None
    share: Mapping[str, Any] | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    transcripts: Path | None = None
    sums: Path | None = None
    sessions: dict[str, SiteSession] = field(default_factory=dict, init=False)
    ended_runs: set[str] = field(default_factory=set, init=False)
    turn: AbstractContextManager[Any] = field(default_factory=Lock, init=False)
    _trainers: dict[str, Trainer] = field(default_factory=dict, init=False)
    _plans: dict[str, PrivacyPlan] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Refuse a name that no message could carry."""
        if not SITE_NAME.fullmatch(self.name):
            raise InputError(
                f"The site's name is {self.name!r}.",
                remedy="Use up to 63 lower-case letters, digits and hyphens.",
            )

    @property
    def public_key(self) -> str:
        """The site's Ed25519 public key, 64 hexadecimal digits."""
        return self.key.public_key().public_bytes_raw().hex()

    def plan(self, study: Study) -> PrivacyPlan:
        """Return the privacy plan of an approved study."""
        if study.hash not in self._plans:
            self._plans[study.hash] = PrivacyPlan.from_study(study)
        return self._plans[study.hash]

    def trainer(self, study: Study) -> Trainer:
        """Return the study's model on the site's records, reading them at first use.

        Raises:
            RecordsError: If the records do not fit the study's schema.
        """
        if study.hash not in self._trainers:
            self._trainers[study.hash] = Trainer(self.plan(study), self._read(study), device=self.device)
        return self._trainers[study.hash]

    def random(self, study: Study, *, run: str, number: int) -> RandomSource:
        """Return the source of all randomness of one round: the system's, except in a test."""
        if study.privacy.noise is NoiseOrigin.DETERMINISTIC:
            return DeterministicRandom(study.training.seed).child(self.name, number)
        return SystemRandom().child(self.name, run, number)

    def _read(self, study: Study) -> Records:
        schema = study_schema(study)
        if self.records is not None:
            if self.records.schema != schema:
                raise RecordsError(f"{self.name}: records of another schema.", remedy="Encode them by the study's.")
            return self.records
        if self.location is None:
            raise InputError(f"{self.name}: no data source.", remedy="Give data.location in site.toml.")
        records = load_records(self.location, schema=schema)
        if self.share is None:
            return records
        parts = partition(
            records,
            str(self.share["scheme"]),
            sites=int(self.share["sites"]),
            generator=np.random.default_rng(int(self.share["seed"])),
        )
        return records.take(parts[int(self.share["number"])])


def create_key(path: Path) -> Ed25519PrivateKey:
    """Make a site's key and write it, readable by the owner alone; an existing file is never replaced.

    Raises:
        InputError: If the file exists.
    """
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise InputError(f"{path} exists.", remedy="Keep it: a new key would orphan the ledger.") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    return key


@cache
def open_site(folder: Path) -> Site:
    """Open a site's folder, once per process.

    Raises:
        InputError: If a file is missing or says something unknown.
        ApprovalError: If there is no policy, or an approved study was changed.
        LedgerError: If the ledger is missing or damaged.
    """
    values, key = _site_file(folder / "site.toml"), _read_key(folder / "key.pem")
    data = values["data"]
    location = str(data["location"])
    try:
        device = torch.device(str(values.get("device", "cpu")))
    except RuntimeError as error:
        raise InputError(f"{folder}: device is {values['device']!r}.", remedy="Use cpu or cuda.") from error
    policy = Policy.from_toml(folder / "policy.toml")
    approvals = Approvals.from_folder(folder / "approvals")
    ledger = folder / str(data.get("ledger", "ledger.sqlite"))
    return Site(
        name=str(values["name"]),
        location=location if "://" in location else str(folder / location),
        share=data.get("share"),
        policy=policy,
        approvals=approvals,
        ledger=Ledger.open(ledger, key=key, data_set=str(data["set"])),
        key=key,
        device=device,
        transcripts=folder / "transcripts",
        sums=folder / "sums",
    )


def _site_file(path: Path) -> dict[str, Any]:
    """Read site.toml: everything that is needed, and nothing unknown, lest a misspelt key be ignored."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.", remedy=f"Check {FOLDER_VARIABLE}.") from error
    except ValueError as error:
        raise InputError(f"{path} is not TOML: {error}.", remedy="Mend it.") from error
    for place, known, needed in _TABLES:
        table: Any = values
        for name in place:
            table = table.get(name, {})
        called = ".".join(place) or "site.toml"
        if not isinstance(table, dict):
            raise InputError(f"{path}: {called} is {table!r}.", remedy="Write it as a table.")
        if place == ("data", "share") and not table:
            continue
        if not needed <= set(table) <= known:
            odd = sorted(needed - set(table)) + sorted(set(table) - known)
            raise InputError(
                f"{path}: missing or unknown in {called}: {', '.join(odd)}.",
                remedy=f"Needed: {', '.join(sorted(needed))}; known: {', '.join(sorted(known))}.",
            )
    return values


def _read_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.", remedy=f"Check {FOLDER_VARIABLE}.") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: {error}.", remedy="Put back the key that the ledger names.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} is no Ed25519 key.", remedy="Put back the key that the ledger names.")
    return key


_residents: dict[str, Site] = {}


@contextmanager
def resident(sites: Mapping[str, Site]) -> Iterator[list[dict[str, Any]]]:
    """Let sites live in this process for as long as the block runs; yields their node configurations.

    Raises:
        InputError: If a site of one of the names lives here already.
    """
    taken = sorted(set(sites) & set(_residents))
    if taken:
        raise InputError(f"Sites named {taken} live in this process already.", remedy="Run one study at a time.")
    _residents.update(sites)
    try:
        yield [{_RESIDENT: name} for name in sites]
    finally:
        for name in sites:
            del _residents[name]


def locate_site(context: Context) -> Site:
    """Return the site that an app's context belongs to.

    Raises:
        InputError: If there is none.
    """
    name = context.node_config.get(_RESIDENT)
    if isinstance(name, str) and name in _residents:
        return _residents[name]
    variable = os.environ.get(FOLDER_VARIABLE)
    if not variable:
        raise InputError(f"{FOLDER_VARIABLE} is not set.", remedy="Let it name the site's folder.")
    folder = Path(variable)
    if not (folder / "site.toml").exists() and _PARTITION in context.node_config:
        folder = folder / str(int(context.node_config[_PARTITION]))
    return open_site(folder)
