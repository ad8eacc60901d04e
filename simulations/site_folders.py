"""Sites in folders, as Flower's own simulation finds them: number i of the federation is the sub-folder i."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from client.consent import consent_to
from client.policy import Policy, write_policy
from privacy.accounting import MOST_EPSILON
from privacy.ledger import Ledger
from privacy.plan import PrivacyPlan
from protocol.errors import InputError
from protocol.keys import create_identity
from protocol.study import Study
from protocol.terms import Trust
from simulations.federation import with_roster

_BY = "the simulation, for nobody"


def write_site_folders(root: Path, study: Study, sources: Mapping[str, Mapping[str, Any]]) -> Study:
    """Make the folder of every site, with a key, an empty ledger, a policy and the study approved.

    Args:
        root: Where; ``CLOISTER_SITE`` will name it.
        study: The study.
        sources: For the name of every site, its ``data`` table: ``location``, ``set`` and, where the source
            is to be split, ``share`` (see `client.site`).

    Returns:
        The study that the sites approved: under ``trust = "sum"`` with their new keys pinned.

    Raises:
        InputError: If a site's folder exists: a key or a ledger is never replaced.
    """
    plan = PrivacyPlan.from_study(study)
    policy: dict[str, Any] = {
        "epsilon": study.privacy.epsilon or MOST_EPSILON,
        "delta": plan.delta,
        "families": (study.model.family,),
        "trust": (study.privacy.trust.value,),
        "allow_not_private": not plan.private,
    }
    ceilings = Policy(**policy).ceilings(study.privacy.relation)
    keys = {}
    for number, name in enumerate(sources):
        folder = root / str(number)
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"{folder}: {error.strerror}.", remedy="Choose a new folder.") from error
        keys[name] = create_identity(folder / "key.pem")
    if study.privacy.trust is Trust.SUM:
        study = with_roster(study, keys)
    for number, (name, data) in enumerate(sources.items()):
        folder = root / str(number)
        Ledger.create(folder / "ledger.sqlite", key=keys[name], data_set=str(data["set"])).close()
        (folder / "site.toml").write_text(tomli_w.dumps({"name": name, "data": dict(data)}), encoding="utf-8")
        write_policy(folder / "policy.toml", **policy)
        consent = consent_to(study, key=keys[name], site=name, by=_BY, ceilings=ceilings)
        consent.write(folder / "approvals")
    return study
