"""What a site insists on: threshold, bound on colluders, no overflow, and the roster's signatures."""

from dataclasses import replace

import pytest

from privacy.secure_sum import SumPolicy, SumStage
from protocol.errors import PrivacyError, WireError


def policy(sites=10, **changes):
    terms = {
        "run": "0" * 64, "study": "1" * 64, "code": "2" * 64, "minimum_cohort": 3,
        "roster": {f"site-{i}": f"{i:064x}" for i in range(sites)},
    }  # fmt: skip
    size = {"rounds": 9, "coordinates": 5, "limit": 1}
    stage = SumStage(**(size | {name: value for name, value in changes.items() if name in size}))
    others = {name: value for name, value in changes.items() if name not in size}
    return SumPolicy(**({"stages": (stage,)} | terms | others))


@pytest.mark.parametrize("sites", range(3, 101))
def test_two_quorums_share_an_honest_site(sites):
    found = policy(sites)
    threshold, colluders = found.threshold, found.most_colluders
    assert threshold == int(2 * sites / 3 + 1e-9) + 1
    assert colluders >= sites // 3
    assert colluders < threshold  # or they could open secrets alone
    assert 2 * (threshold - colluders) > sites - colluders  # the step that every proof in survivors.py rests on
    worse = colluders + 1
    assert 2 * (threshold - worse) <= sites - worse  # one more, and it would not hold


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sites": 2}, "the roster has 2 sites"),
        ({"sites": 101}, "the roster has 101 sites"),
        ({"run": "0" * 63}, "run is"),
        ({"minimum_cohort": 2}, "minimum cohort is 2"),
        ({"minimum_cohort": 11}, "minimum cohort is 11"),
        ({"coordinates": 0}, "0 coordinates"),
        ({"rounds": 0}, "no rounds"),
        ({"stages": ()}, "no rounds"),
        ({"limit": 0}, "do not fit"),
        ({"limit": 2**31 // 10 + 1}, "do not fit"),
        ({"roster": dict.fromkeys(("a", "b", "c"), "0" * 64)}, "same key"),
        ({"roster": {"a": "1" * 64, "b": "2" * 64, "C": "3" * 64}}, "'C' is malformed"),
    ],
)
def test_terms_are_checked(changes, match):
    with pytest.raises(PrivacyError, match=match):
        policy(**changes)


def test_every_round_has_the_size_of_its_stage_and_no_other_round_exists():
    stages = (SumStage(rounds=1, coordinates=7, limit=3), SumStage(rounds=2, coordinates=5, limit=4))
    found = policy(stages=stages)
    assert [found.stage(number).coordinates for number in (1, 2, 3)] == [7, 5, 5]
    for number in (0, 4):
        with pytest.raises(PrivacyError, match=f"round {number} is not in the run, which has 3"):
            found.stage(number)
    with pytest.raises(PrivacyError, match="do not fit"):
        policy(stages=(*stages, SumStage(rounds=1, coordinates=1, limit=2**31 // 10 + 1)))


def test_largest_limit_that_fits():
    limit = (2**31 - 1) // 10
    assert policy(limit=limit).stage(1).limit == limit
    with pytest.raises(PrivacyError, match="do not fit"):
        policy(sites=8, limit=2**28)  # 8 times 2^28 is 2^31, one more than an int32 holds
    assert policy(sites=8, limit=2**28 - 1)


def test_cohort_names_every_site_and_key():
    first = policy()
    assert first.cohort == replace(first, roster=dict(reversed(first.roster.items()))).cohort
    assert first.cohort != replace(first, roster=first.roster | {"site-3": "f" * 64}).cohort
    assert first.cohort != policy(9).cohort


def test_only_the_sites_own_signature_counts(federation):
    world = federation(sites=3, coordinates=1)
    signature = world.identities["site-00"].sign(b"text").hex()
    world.policy.verify("site-00", signature=signature, signed=b"text")
    for name, signed in (("site-01", b"text"), ("site-00", b"Text"), ("nobody", b"text")):
        with pytest.raises(WireError):
            world.policy.verify(name, signature=signature, signed=signed)
