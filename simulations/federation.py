"""A whole study on one machine: the real apps, one resident site per part of the records."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.app import app as client_app
from client.approvals import Approvals
from client.policy import Policy
from client.site import Site, resident
from privacy.accounting import MOST_EPSILON
from privacy.ledger import Ledger
from privacy.plan import PrivacyPlan
from protocol.errors import InputError
from protocol.study import FederationTerms, Study
from protocol.terms import Trust
from records.dataset import Records
from server.app import app as server_app
from server.release import Release, check_new
from simulations.grid import Tap, run_in_memory


def simulate(
    study: Study,
    parts: Mapping[str, Records],
    *,
    release: Path,
    device: str = "cpu",
    transcripts: Path | None = None,
    start: Path | None = None,
    tap: Tap | None = None,
) -> Release:
    """Train a study among simulated sites and return its release.

    The server's and the sites' apps are the real ones; what is simulated is that they share a process, that
    the ledgers live in memory and that every site approves. The release says so.

    Args:
        study: The study; its number of sites must be that of ``parts``.
        parts: The records of every site, by the site's name.
        release: Folder to write; it must not exist.
        device: Where sites and server compute.
        transcripts: Folder for what each site was told and did under ``trust = "sum"``, one sub-folder per site.
        start: Public release that training starts from, of which the study holds the hash; see `server.start`.
        tap: Sees every message that leaves a site.

    Returns:
        The release, opened on ``device``.

    Raises:
        InputError: If the folder exists, or the number of sites is another.
        CloisterError: Whatever a run can raise.
    """
    check_new(release)
    if len(parts) != study.federation.sites:
        raise InputError(
            f"There are records for {len(parts)} sites, the study has {study.federation.sites}.",
            remedy="Give as many parts as the study has sites, or change federation.sites.",
        )
    keys = {name: Ed25519PrivateKey.generate() for name in parts}
    if study.privacy.trust is Trust.SUM:
        study = with_roster(study, keys)
    sites = {
        name: simulated_site(name, study, records, key=keys[name], device=device) for name, records in parts.items()
    }
    if transcripts is not None:
        for name, site in sites.items():
            site.transcripts = transcripts / name
    config: dict[str, bool | float | int | str] = {
        "study": study.text,
        "release": str(release),
        "simulated": True,
        "device": device,
        "start": "" if start is None else str(start),
    }
    with resident(sites) as nodes:
        run_in_memory(server_app, client_app, node_configs=nodes, run_config=config, tap=tap)
    return Release.open(release, device=torch.device(device))


def simulated_site(
    name: str, study: Study, records: Records, *, device: str, key: Ed25519PrivateKey | None = None
) -> Site:
    """Return a site that approves one study, with a ledger of its own in memory, and a new key if none is given."""
    key = key or Ed25519PrivateKey.generate()
    return Site(
        name=name,
        policy=permissive_policy(study),
        approvals=Approvals([study]),
        ledger=Ledger.in_memory(key=key, data_set=name),
        key=key,
        records=records,
        device=torch.device(device),
    )


def permissive_policy(study: Study) -> Policy:
    """Return a policy that allows just this study once: its ceiling is the study's own promise.

    A study given by its noise has no promised epsilon; the ceiling is then the largest that a policy may
    have.
    """
    plan = PrivacyPlan.from_study(study)
    return Policy(
        epsilon=study.privacy.epsilon or MOST_EPSILON,
        delta=plan.delta,
        families=(study.model.family,),
        trust=(study.privacy.trust.value,),
        allow_not_private=True,
    )


def with_roster(study: Study, keys: Mapping[str, Ed25519PrivateKey]) -> Study:
    """Return the study with the sites' public keys pinned; it has another hash."""
    roster = {name: key.public_key().public_bytes_raw().hex() for name, key in keys.items()}
    return replace(study, federation=replace(study.federation, roster=roster))


def with_sites(study: Study, sites: int) -> Study:
    """Return the study among another number of sites; it has another hash."""
    return replace(study, federation=replace(study.federation, sites=sites, minimum_sites=None))


def unbound(study: Study) -> Study:
    """Return the study without what binds it to its own sites and files.

    A site column becomes an ordinary column, no site lacks anything, and training starts from the study's seed. Twins
    and baselines, whose sites are others, need that; what is promised to a record does not depend on it.

    Example:
        >>> study = Study.from_mapping({
        ...     "study": {"name": "two-wards"},
        ...     "schema": {"columns": [{"name": "ill", "kind": "boolean", "missing": True}]},
        ...     "model": {"family": "vae"},
        ...     "training": {},
        ...     "privacy": {"epsilon": 1.0, "sample_rate": 0.1},
        ...     "federation": {"sites": 2, "public_records": 100, "lacking": {"east": ["ill"]}},
        ... })
        >>> unbound(study).federation.lacking, unbound(study) == unbound(unbound(study))
        (None, True)
    """
    schema = {key: value for key, value in study.schema.items() if key != "site_column"}
    federation = replace(study.federation, lacking=None)
    return replace(study, schema=schema, federation=federation, model=replace(study.model, init=None))


def alone(study: Study, *, public_records: int) -> Study:
    """Return the study of one site by itself at the same promise: its own records, its own divisor.

    One site has nobody to share noise with, and adds all of it. The study's delta is kept, also where it follows from
    the number of records of the federation. A site column is an ordinary one here.
    """
    delta = PrivacyPlan.from_study(study).delta
    privacy = replace(study.privacy, delta=delta, trust=Trust.NONE)
    federation = FederationTerms(sites=1, public_records=public_records, deadline=study.federation.deadline)
    schema = {key: value for key, value in study.schema.items() if key != "site_column"}
    return replace(study, schema=schema, privacy=privacy, federation=federation)
