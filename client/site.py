"""A site: its records, key, ledger, policy and approvals, and how the app finds them.

A site lives in a folder of its own::

    site.toml         name, data source, data set, ledger; paths in it are relative to the folder
    policy.toml       what the site allows
    key.pem           Ed25519 private key, readable by the owner alone
    coordinator.json  whom the site is enrolled with; without it only simulations reach the site
    approvals/        one signed consent per approved study
    transcripts/      what the site was told and did in secure sums, one file per run
    sums/             secrets of the secure sum under way
    outbox/           replies as they left, to be sent again
    egress.jsonl      what left, message by message

The app finds the folder through the environment variable ``CLOISTER_SITE``. Where Flower simulates many sites
in one place, site number i is the sub-folder ``i``. Nothing that a server sends can name a folder or a file.

What people decide while the client runs counts from the next message on: ``policy.toml``, ``approvals/`` and
``coordinator.json`` are read again when they change, and while one of them is broken every request is refused.
Everything else is read once: start the client again after a change of ``site.toml`` or the key. A study is trained on
the records as they were at its first round in this process, also where the source changes meanwhile; records that
arrive during a study take part after the next start.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Context

from client.approvals import Approvals
from client.egress import Egress, read
from client.outbox import Outbox
from client.policy import Policy
from client.rules import Rules
from client.settings import FOLDER_VARIABLE, data_location, ledger_path, site_settings
from client.training import Trainer
from privacy.ledger import Ledger
from privacy.plan import PrivacyPlan
from privacy.secure_sum import SiteSession
from protocol.errors import InputError, LedgerError, RecordsError
from protocol.keys import public_hex, read_identity
from protocol.randomness import DeterministicRandom, RandomSource, SystemRandom
from protocol.study import Study
from protocol.terms import SITE_NAME, NoiseOrigin
from records.dataset import Records, load_records
from records.partition import partition
from records.site_values import site_codes
from strategies.study_model import study_schema

_RESIDENT = "cloister-resident"
_PARTITION = "partition-id"


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
        outbox: Replies as they left, to be sent again; keeps nothing by default, as for simulated sites.
        egress: The record of what left; keeps nothing by default.
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
    outbox: Outbox = field(default_factory=Outbox)
    egress: Egress = field(default_factory=Egress)
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
        return public_hex(self.key)

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
        fixed = site_codes(study, schema, site=self.name)
        if self.records is not None:
            # Whether a site fills its column in or not, the codes are the same.
            if replace(self.records.schema, site_column=schema.site_column) != schema:
                raise RecordsError(f"{self.name}: records of another schema.", remedy="Encode them by the study's.")
            return replace(self.records, schema=schema).with_codes(fixed)
        if self.location is None:
            raise InputError(f"{self.name}: no data source.", remedy="Give data.location in site.toml.")
        records = load_records(self.location, schema=schema, fixed=fixed)
        if self.share is None:
            return records
        parts = partition(
            records,
            str(self.share["scheme"]),
            sites=int(self.share["sites"]),
            generator=np.random.default_rng(int(self.share["seed"])),
        )
        return records.take(parts[int(self.share["number"])])


_open: dict[Path, tuple[Site, Rules]] = {}
_opening = Lock()


def open_site(folder: Path) -> Site:
    """Return the site of a folder with the policy and approvals of this moment; call it for every message.

    Ledger, key, records and models are kept for as long as the process lives.

    Raises:
        InputError: If a file is missing or says something unknown, or the site is enrolled under another name.
        ApprovalError: If there is no policy, the policy is broken, or a consent was changed.
        LedgerError: If the ledger is missing or damaged.
    """
    with _opening:
        found = _open.get(folder)
        if found is None:
            found = _open[folder] = _open_folder(folder)
        site, rules = found
        site.policy, site.approvals = rules.current()
        return site


def close_site(folder: Path) -> None:
    """Close a site's ledger and forget the site; the next `open_site` reads everything anew."""
    with _opening:
        found = _open.pop(folder, None)
        if found is not None:
            found[0].ledger.close()


def _open_folder(folder: Path) -> tuple[Site, Rules]:
    settings, key = site_settings(folder), read_identity(folder / "key.pem")
    data, name = settings["data"], str(settings["name"])
    try:
        device = torch.device(str(settings.get("device", "cpu")))
    except RuntimeError as error:
        raise InputError(f"{folder}: device is {settings['device']!r}.", remedy="Use cpu or cuda.") from error
    rules = Rules(folder, key=key.public_key(), site=name)
    policy, approvals = rules.current()
    site = Site(
        name=name,
        location=data_location(folder, settings),
        share=data.get("share"),
        policy=policy,
        approvals=approvals,
        ledger=Ledger.open(ledger_path(folder, settings), key=key, data_set=str(data["set"])),
        key=key,
        device=device,
        transcripts=folder / "transcripts",
        sums=folder / "sums",
        outbox=Outbox(folder / "outbox"),
        egress=Egress(folder / "egress.jsonl"),
    )
    _check_not_rolled_back(site, folder)
    return site, rules


def _check_not_rolled_back(site: Site, folder: Path) -> None:
    """Refuse a ledger that has forgotten what left: charged again, a round would be released for the second time.

    The record of what left finds a ledger that alone was put back from an older copy; where both were, nothing does.
    """
    held = {entry.hash for entry in site.ledger.entries()}
    lost = {line.departure.entry for line in read(folder / "egress.jsonl")} - held - {""}
    if lost:
        site.ledger.close()
        raise LedgerError(
            f"The ledger lacks {len(lost)} entries that paid for what left, says egress.jsonl: it is an older copy.",
            remedy="Put the newest ledger back, and release nothing from these records until then.",
        )


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
