"""Whole studies under the secure sum: the coordinator sees sums, drop-outs at every stage, nothing else changes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Message

from client.app import app
from client.site import Site, resident
from privacy.mechanisms.gaussian import GaussianMechanism
from privacy.mechanisms.grid import IntegerGrid
from privacy.secure_sum import ServerSession, SiteSession
from protocol.errors import FederationError, StudyError
from protocol.messages import Contribution, decode
from protocol.randomness import DeterministicRandom
from protocol.study import Study
from records.dataset import Records
from server.study_run import StudyRun
from server.sum_collection import SumCollector
from simulations.federation import simulate, simulated_site, with_roster
from simulations.grid import InMemoryGrid
from strategies.sum_wire import without_sum

SITES = ("a", "b", "c", "d", "e", "f")
MakeStudy = Callable[..., Study]
MakeRecords = Callable[..., Records]


class LossyGrid(InMemoryGrid):
    """A grid that loses messages to some sites: ``lost(site, message type, kind of turn, round)`` decides."""

    def __init__(self, *arguments: Any, lost: Callable[[str, str], bool], **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.lost = lost
        self.calls: list[tuple[str, str]] = []

    def _deliver(self, message: Message) -> None:
        site = SITES[message.metadata.dst_node_id - 2]
        part = message.content.config_records.get("sum")
        stage = message.metadata.message_type if part is None else f"{message.metadata.message_type}:{part['type']}"
        header = message.content.config_records.get("header")
        stage += f":{header['round']}" if header is not None and "round" in header else ""
        self.calls.append((site, stage))
        if not self.lost(site, stage):
            super()._deliver(message)


@contextmanager
def federation(
    study: Study, make: MakeRecords, *, lost: Callable[[str, str], bool] = lambda *_: False
) -> Iterator[tuple[StudyRun, LossyGrid, dict[str, Site]]]:
    keys = {name: Ed25519PrivateKey.generate() for name in SITES}
    study = with_roster(study, keys)
    sites = {
        name: simulated_site(name, study, make(30, seed=number), device="cpu", key=keys[name])
        for number, name in enumerate(SITES)
    }
    with resident(sites) as nodes:
        grid = LossyGrid(app, nodes, lost=lost)
        with grid.as_server():
            yield StudyRun(grid, study, device=torch.device("cpu")), grid, sites


def sum_study(make: MakeStudy, **sections: dict[str, Any]) -> Study:
    """Return a study of six sites, one of which may drop out."""
    defaults: dict[str, dict[str, Any]] = {
        "privacy": {"trust": "sum"},
        "federation": {"sites": 6, "dropouts": 1, "deadline": 60.0},
    }
    return make(**{name: defaults.get(name, {}) | sections.get(name, {}) for name in {*defaults, *sections}})


@pytest.mark.parametrize("strategy", ["gradients", "updates"])
def test_the_coordinator_gets_exactly_the_sum(
    strategy: str, tiny_study: MakeStudy, tiny_records: MakeRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is opened is the sum, to the last bit, of what the sites put in before masking."""
    put_in: list[np.ndarray] = []
    mask = SiteSession.mask

    def watch(self: SiteSession, start: Any, *, model: str, vector: np.ndarray) -> Any:
        put_in.append(vector.astype(np.int64))
        return mask(self, start, model=model, vector=vector)

    opened: list[np.ndarray] = []
    collect = SumCollector.collect

    def watch_sum(self: SumCollector, request: Any, **more: Any) -> Any:
        found = collect(self, request, **more)
        opened.append(found.total)
        return found

    monkeypatch.setattr(SiteSession, "mask", watch)
    monkeypatch.setattr(SumCollector, "collect", watch_sum)
    study = sum_study(tiny_study, training={"strategy": strategy, "local_steps": 2})
    with federation(study, tiny_records) as (run, *_):
        run.execute()
    assert len(opened) == 3
    for number, total in enumerate(opened):
        np.testing.assert_array_equal(total, np.sum(put_in[6 * number : 6 * number + 6], axis=0))
    assert not np.array_equal(opened[0], opened[1])


def test_two_exchanges_a_round_in_the_steady_state(tiny_study: MakeStudy, tiny_records: MakeRecords) -> None:
    with federation(sum_study(tiny_study), tiny_records) as (run, grid, _):
        run.execute()
    stages = [stage for site, stage in grid.calls if site == "a"]
    assert stages == [
        "query.hello",
        "query.sum:1",
        "query.sum:OfferList:1",
        *(
            stage
            for number in (1, 2, 3)
            for stage in (f"train.gradients:RoundStart:{number}", f"query.sum:UnmaskRequest:{number}")
        ),
    ]


def test_what_leaves_a_site_is_masked(tiny_study: MakeStudy, tiny_records: MakeRecords, tmp_path: Path) -> None:
    """A masked vector is uniform words; the same site's vector in the clear is far from it."""
    seen: dict[str, list[np.ndarray]] = {"sum": [], "none": []}

    def tap_of(trust: str) -> Callable[[Message, bytes], None]:
        def tap(message: Message, _: bytes) -> None:
            if "vector" in message.content.array_records:
                seen[trust].append(decode(without_sum(message.content), Contribution).vector)

        return tap

    parts = {name: tiny_records(30, seed=number) for number, name in enumerate(SITES)}
    for trust in ("sum", "none"):
        study = sum_study(tiny_study, privacy={"trust": trust, "epsilon": 5.0, "delta": 1e-4, "sample_rate": 0.5})
        simulate(study, parts, release=tmp_path / trust, tap=tap_of(trust))
    spread = {trust: float(np.abs(np.concatenate(found)).mean()) for trust, found in seen.items()}
    assert 0.95 < spread["sum"] / 2**30 < 1.05, "uniform words have a mean magnitude of 2^30"
    assert spread["none"] < 2**28


STAGES = {
    "before its keys": "query.sum:1",
    "after its keys": "query.sum:OfferList:1",
    "before masking": "train.gradients:RoundStart:2",
    "after masking": "query.sum:UnmaskRequest:2",
}


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES.keys())
def test_one_site_may_drop_out_at_any_stage(stage: str, tiny_study: MakeStudy, tiny_records: MakeRecords) -> None:
    with federation(
        sum_study(tiny_study), tiny_records, lost=lambda site, at: site == "c" and at.startswith(stage)
    ) as (run, grid, sites):
        evidence = run.execute()
    assert evidence.rounds == 3
    assert stage in {at for site, at in grid.calls if site == "c"}, "the stage never came: nothing was tested"
    assert all(evidence.contributions[name] == 3 for name in SITES if name != "c")
    # A site pays for what it contributed, once a round, whether the coordinator could use it or not.
    for name, site in sites.items():
        paid = sum(1 for entry in site.ledger.entries() if hasattr(entry.record, "event"))
        assert paid >= evidence.contributions.get(name, 0), name
        assert paid <= 3, name


def test_a_site_that_was_away_comes_back(tiny_study: MakeStudy, tiny_records: MakeRecords) -> None:
    with federation(sum_study(tiny_study), tiny_records, lost=lambda site, at: site == "c" and at.endswith(":2")) as (
        run,
        _,
        _,
    ):
        evidence = run.execute()
    assert evidence.contributions["c"] == 2


def test_below_the_stated_dropouts_the_round_ends_and_the_model_stays(
    tiny_study: MakeStudy, tiny_records: MakeRecords
) -> None:
    """Two missing sites of a study that allows one: their noise would be missing, so nothing is opened."""
    with federation(
        sum_study(tiny_study), tiny_records, lost=lambda site, at: site in "cd" and at.endswith("RoundStart:2")
    ) as (run, _, _):
        before: list[np.ndarray] = []
        apply = run._strategy.apply

        def watch(*arguments: Any, **more: Any) -> None:
            apply(*arguments, **more)
            before.append(run.model.weights())

        run._strategy.apply = watch  # type: ignore[method-assign]  # an instance may have its own
        with pytest.raises(FederationError, match="4 sites, fewer than 5"):
            run.execute()
        np.testing.assert_array_equal(run.model.weights(), before[-1])
    assert len(before) == 1


def test_four_sites_are_refused_with_the_reason(
    tiny_study: MakeStudy, tiny_records: MakeRecords, tmp_path: Path
) -> None:
    study = sum_study(tiny_study, federation={"sites": 4, "dropouts": 0})
    parts = {name: tiny_records(20) for name in SITES[:4]}
    with pytest.raises(StudyError, match="hides too little"):
        simulate(study, parts, release=tmp_path / "release")


def test_a_cohort_with_another_key_than_the_rosters_is_refused(
    tiny_study: MakeStudy, tiny_records: MakeRecords
) -> None:
    with federation(sum_study(tiny_study), tiny_records) as (run, _, sites):
        sites["c"].key = Ed25519PrivateKey.generate()
        with pytest.raises(FederationError, match="c: not in the study's roster"):
            run.execute()


def test_a_round_is_masked_for_the_round_that_is_paid_for(
    tiny_study: MakeStudy, tiny_records: MakeRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys of one round with the number of another: refused before anything is charged."""
    start_round = ServerSession.start_round

    def swap(self: ServerSession, number: int, *, model: str) -> Any:
        start = start_round(self, number, model=model)
        return replace(start, round=number + 1)

    monkeypatch.setattr(ServerSession, "start_round", swap)
    with federation(sum_study(tiny_study), tiny_records) as (run, _, sites):
        with pytest.raises(FederationError):
            run.execute()
        assert all(len(list(site.ledger.entries())) == 1 for site in sites.values()), "only the opening entry"


def test_the_quorum_of_the_study_holds_under_the_sum(tiny_study: MakeStudy, tiny_records: MakeRecords) -> None:
    study = sum_study(tiny_study, federation={"minimum_sites": 6})
    with (
        federation(study, tiny_records, lost=lambda site, at: site == "c" and at.endswith("RoundStart:2")) as (run, *_),
        pytest.raises(FederationError, match="5 sites, fewer than 6"),
    ):
        run.execute()


def test_a_share_is_never_clamped_after_its_noise() -> None:
    """An exact vector at the very limit: its noise goes up as often as down, and stays within the word."""
    grid = IntegerGrid.fit(clip_norm=1.0, dimension=4000, expected_units=10.0, noise_multiplier=0.5, contributors=10)
    mechanism = GaussianMechanism(grid=grid, noise_multiplier=0.5, shared=True)
    found = mechanism.privatise(np.full(4000, 1e9), random=DeterministicRandom("limit")).astype(np.float64)
    assert np.abs(found).max() <= grid.limit
    assert abs(float((found > np.median(found)).mean()) - 0.5) < 0.02
    assert 0.95 < float(found.std()) / mechanism.sigma < 1.05
    clamped = GaussianMechanism(grid=grid, noise_multiplier=0.5).privatise(
        np.full(4000, 1e9), random=DeterministicRandom("limit")
    )
    assert float((clamped == grid.limit).mean()) > 0.4, "the twin: clamped after the noise, half sits on the limit"
