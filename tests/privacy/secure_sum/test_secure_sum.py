"""The secure sum is the plain sum, whoever drops out wherever; below the threshold there is no sum at all."""

import os
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy.secure_sum import SumStage, server
from protocol.errors import FederationError, PrivacyError, WireError

EXAMPLES = 500 if os.environ.get("CLOISTER_HYPOTHESIS") == "nightly" else 12
STAGES = ("offering", "preparing", "masking", "signing", "revealing")
MODEL = "a" * 64


def plain_sum(vectors, names):
    """The slow twin: Python integers, one by one."""
    return [sum(int(vectors[name][i]) for name in names) for i in range(len(next(iter(vectors.values()))))]


@st.composite
def rounds(draw):
    """Number of sites, length, who falls silent at which stage, who is back, and a seed."""
    sites = draw(st.integers(3, 40))
    length = draw(st.sampled_from([1, 2, 17, 300, 5000]))
    most = sites - (2 * sites // 3 + 1)
    gone = draw(st.lists(st.integers(0, sites - 1), max_size=most, unique=True))
    stages = {f"site-{i:02d}": draw(st.sampled_from(STAGES)) for i in gone}
    return sites, length, stages, draw(st.booleans()), draw(st.integers(0, 2**32)), draw(st.booleans())


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=rounds())
def test_sum_is_the_plain_sum_whoever_drops_out(federation, case):
    sites, length, stages, back, seed, extreme = case
    world = federation(sites=sites, coordinates=length, seed=seed)
    at = {stage: [name for name, where in stages.items() if where == stage] for stage in STAGES}
    world.agree(absent=at["offering"], unprepared=at["preparing"])
    vectors = world.vectors(seed, extreme=extreme)
    result = world.round(1, vectors, silent=at["masking"], unsigning=at["signing"], unrevealing=at["revealing"])
    away = {*at["offering"], *at["preparing"], *at["masking"]}
    assert result.contributors == tuple(name for name in world.names if name not in away)
    assert result.vector.tolist() == plain_sum(vectors, result.contributors)

    still_away = at["offering"] if back else list(stages)
    world.rejoin(2, absent=still_away)
    again = world.vectors(seed + 1)
    result = world.round(2, again, silent=still_away)
    assert result.contributors == tuple(name for name in world.names if name not in still_away)
    assert result.vector.tolist() == plain_sum(again, result.contributors)


@pytest.mark.parametrize("stage", STAGES)
def test_three_of_ten_are_lost_at_each_stage(federation, stage):
    world, gone = federation(sites=10, coordinates=100), ["site-00", "site-04", "site-09"]
    world.agree(absent=gone if stage == "offering" else (), unprepared=gone if stage == "preparing" else ())
    for number in (1, 2, 3):
        vectors = world.vectors(number)
        result = world.round(
            number,
            vectors,
            silent=gone if stage == "masking" else (),
            unsigning=gone if stage == "signing" else (),
            unrevealing=gone if stage == "revealing" else (),
        )
        assert result.vector.tolist() == plain_sum(vectors, result.contributors)
        assert len(result.contributors) == (10 if stage in ("signing", "revealing") else 7)


@pytest.mark.parametrize("gone", [("site-00", "site-05", "site-09"), ("site-09", "site-05", "site-00")])
def test_losses_at_three_stages_of_one_round(federation, gone):
    """One never sends its vector; then one that did falls silent, so that neither can tell their common mask."""
    world = federation(sites=10, coordinates=100)
    world.agree()
    vectors = world.vectors(5)
    result = world.round(1, vectors, silent=gone[:1], unsigning=gone[1:2], unrevealing=gone[2:])
    assert result.contributors == tuple(name for name in world.names if name != gone[0])
    assert result.vector.tolist() == plain_sum(vectors, result.contributors)


@pytest.mark.parametrize(("sites", "silent"), [(3, ()), (5, ("site-03",)), (12, ("site-00", "site-05"))])
def test_million_coordinates(federation, sites, silent):
    world = federation(sites=sites, coordinates=1_000_000)
    world.agree()
    vectors = world.vectors(7)
    result = world.round(1, vectors, silent=silent)
    assert len(result.contributors) == sites - len(silent)
    np.testing.assert_array_equal(result.vector, sum(vectors[name] for name in result.contributors))


def test_forgetting_a_dropped_site_masks_is_noticed(federation, monkeypatch):
    """The broken twin: a coordinator that leaves the masks with dropped sites in the sum."""
    real = server.remaining_masks
    monkeypatch.setattr(server, "remaining_masks", lambda **named: real(**(named | {"mask_keys": {}})))
    world = federation(sites=4, coordinates=100)
    world.agree()
    vectors = world.vectors(5)
    result = world.round(1, vectors, silent=["site-01"])
    assert result.vector.tolist() != plain_sum(vectors, result.contributors)


def test_two_exchanges_where_all_survive_and_three_where_not(federation):
    world = federation(sites=4, coordinates=10)
    world.agree()
    for number, (silent, exchanges) in enumerate([((), 2), ((), 2), (("site-02",), 3)], start=1):
        world.exchanges = 0
        world.round(number, world.vectors(number), silent=silent)
        assert world.exchanges == exchanges
    world.exchanges = 0
    world.round(4, world.vectors(4))  # whoever is away for long is not waited for
    assert world.exchanges == 2


def test_late_vector_is_not_counted_and_site_joins_the_next_round(federation):
    world = federation(sites=4, coordinates=10)
    world.agree()
    vectors = world.vectors(1)
    start = world.server.start_round(1, model=MODEL)
    world.mask(start, vectors, silent=["site-02"])
    world.server.close_masking()
    late = world.sites["site-02"].mask(start, model=MODEL, vector=vectors["site-02"])
    with pytest.raises(WireError, match="late"):
        world.server.add_masked(late)
    assert world.unmask().vector.tolist() == plain_sum(vectors, ["site-00", "site-01", "site-03"])
    assert world.server.unprepared(2) == ("site-02",)
    world.rejoin(2)
    assert world.round(2, vectors).vector.tolist() == plain_sum(vectors, world.names)


def test_vector_sent_twice_is_counted_once(federation):
    world = federation(sites=3, coordinates=10)
    world.agree()
    vectors = world.vectors(1)
    start = world.server.start_round(1, model=MODEL)
    world.mask(start, vectors, silent=["site-02"])
    message = world.sites["site-02"].mask(start, model=MODEL, vector=vectors["site-02"])
    world.server.add_masked(message)
    with pytest.raises(WireError, match="was counted"):
        world.server.add_masked(message)
    assert world.unmask().vector.tolist() == plain_sum(vectors, world.names)


@pytest.mark.parametrize("stage", ["masking", "signing", "revealing"])
def test_below_the_threshold_there_is_no_sum_and_the_next_round_works(federation, stage):
    world, gone = federation(sites=7, coordinates=10), ["site-01", "site-03", "site-06"]
    world.agree()
    vectors = world.vectors(1)
    with pytest.raises(FederationError, match="Nothing was revealed"):
        world.round(
            1,
            vectors,
            silent=gone if stage == "masking" else gone[:1],
            unsigning=gone[1:] if stage == "signing" else (),
            unrevealing=gone[1:] if stage == "revealing" else (),
        )
    with pytest.raises(FederationError, match="no round"):
        world.server.finish_round()
    world.rejoin(2)
    assert world.round(2, vectors).vector.tolist() == plain_sum(vectors, world.names)


def test_too_few_offers_or_preparations(federation):
    world = federation(sites=7, coordinates=10)
    with pytest.raises(FederationError, match="4 sites, fewer than 5"):
        world.agree(absent=["site-00", "site-01", "site-02"])
    world = federation(sites=7, coordinates=10)
    world.agree(unprepared=["site-00", "site-01", "site-02"])
    with pytest.raises(FederationError, match="round 1 has 4 sites, fewer than 5"):
        world.server.start_round(1, model=MODEL)


def test_minimum_cohort_above_the_threshold_counts(federation):
    world = federation(sites=7, coordinates=10, minimum=6)
    world.agree()
    with pytest.raises(FederationError, match="5 sites, fewer than 6"):
        world.round(1, world.vectors(1), silent=["site-00", "site-01"])


def test_wrong_share_is_noticed(federation):
    """A site that lies spoils the round, but no wrong sum comes out."""
    world = federation(sites=4, coordinates=10)
    world.agree()
    world.mask(world.server.start_round(1, model=MODEL), world.vectors(1))
    world.server.close_masking()
    for name, request in world.server.unmask_requests().items():
        if name == "site-01":
            world.sites[name]._memory.open.own_share = bytes(32)
        world.server.add_reveal(world.sites[name].reveal(request))
    with pytest.raises(FederationError, match="share of site-01's secret"):
        world.server.finish_round()


def test_server_memory_does_not_grow_with_the_sites(federation):
    """Vectors are handed over and forgotten: the peak above the first vector stays below two vectors."""
    world = federation(sites=12, coordinates=200_000)
    world.agree()
    vectors = world.vectors(1)
    start = world.server.start_round(1, model=MODEL)
    tracemalloc.start()
    for name in world.names:
        world.server.add_masked(world.sites[name].mask(start, model=MODEL, vector=vectors[name]))
    _, peak = tracemalloc.get_traced_memory()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 4 * 200_000
    assert peak < 5 * 4 * 200_000


def test_site_refuses_what_it_cannot_have(federation):
    world = federation(sites=3, coordinates=4)
    site = world.sites["site-00"]
    with pytest.raises(PrivacyError, match="no offers"):
        site.prepare(1)
    world.agree()
    start = world.server.start_round(1, model=MODEL)
    with pytest.raises(PrivacyError, match="beyond"):
        site.mask(start, model=MODEL, vector=np.array([0, 0, 0, world.policy.stage(1).limit + 1]))
    with pytest.raises(PrivacyError, match="float64"):
        site.mask(start, model=MODEL, vector=np.zeros(4))
    with pytest.raises(PrivacyError, match=r"\[3\]"):
        site.mask(start, model=MODEL, vector=np.zeros(3, dtype=np.int64))
    site.mask(start, model=MODEL, vector=np.zeros(4, dtype=np.int32))  # a refusal used nothing up


def test_rounds_of_several_lengths_are_each_summed_at_their_own(federation):
    """Statistics before training: the session, its keys and its preparations go on; only the vectors differ."""
    before = (SumStage(rounds=1, coordinates=9, limit=50), SumStage(rounds=1, coordinates=2, limit=7))
    world = federation(sites=5, coordinates=4, limit=1000, before=before)
    world.agree()
    for number, (size, limit) in enumerate([(9, 50), (2, 7), (4, 1000), (4, 1000)], start=1):
        draw = np.random.default_rng(number)
        vectors = {name: draw.integers(-limit, limit, size, endpoint=True) for name in world.names}
        start = world.server.start_round(number, model=MODEL)
        site = world.sites["site-00"]
        with pytest.raises(PrivacyError, match="beyond"):
            site.mask(start, model=MODEL, vector=np.full(size, limit + 1))
        with pytest.raises(PrivacyError, match=rf"\[{size}\]"):
            site.mask(start, model=MODEL, vector=np.zeros(size + 1, dtype=np.int64))
        world.mask(start, vectors)
        # A coordinator that dies here goes on with a sum of the round's own length, and with no other.
        saved = world.server.save()
        world.server = type(world.server).restore(saved, world.policy)
        others = replace(world.policy, stages=(SumStage(rounds=9, coordinates=size + 1, limit=1000),))
        with pytest.raises(PrivacyError, match="another run"):
            type(world.server).restore(saved, others)
        found = world.unmask()
        assert np.array_equal(found.vector, sum(vectors.values()))
