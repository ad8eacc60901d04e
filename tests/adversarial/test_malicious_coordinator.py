"""Eight stories of a coordinator that wants one site's vector. Each fails, and each succeeds once its check is gone.

A story is played to its end in both cases: what a site refuses is simply not had. Three of ten sites collude.
"""

import numpy as np
import pytest

from privacy.secure_sum import SumPolicy, admission, messages, site

SITES = [f"site-{i}" for i in range(10)]
TARGET, HONEST, COLLUDERS = SITES[0], SITES[1:7], SITES[7:]
MODEL, ZERO_MODEL = "a" * 64, "b" * 64


def play_round(coordinator, number, *, dropped=()):
    """A round as it should be, from which the coordinator leaves some out."""
    start = coordinator.start(number)
    for name in SITES:
        coordinator.mask(name, start)
    listed = coordinator.survivor_list(TARGET, number, dropped=dropped)
    signatures = coordinator.signatures(listed, listed.survivors) if dropped else ()
    for name in listed.survivors:
        coordinator.reveal(name, listed, signatures)
    coordinator.collude(number)


def both_shares(coordinator):
    """Everybody survived, says the coordinator; and then that the target dropped out, signed by all the others."""
    coordinator.agree_with_all()
    play_round(coordinator, 1)
    gone = coordinator.survivor_list(TARGET, 1, dropped=[TARGET])
    signatures = coordinator.signatures(gone, HONEST)
    for name in HONEST:
        coordinator.reveal(name, gone, signatures)
    return coordinator.strip(TARGET, 1)


def swapped_keys(coordinator):
    """The target hears of its real peers, but the keys are the coordinator's."""
    return coordinator.isolate_target(SITES[1:])


def different_models(coordinator):
    """All but the target get a model without gradient, so that the sum is the target's (Pasquini et al. 2022)."""
    coordinator.agree_with_all()
    start = coordinator.start(1)
    for name in SITES:
        coordinator.mask(name, start, MODEL if name == TARGET else ZERO_MODEL)
    for name in SITES:
        coordinator.reveal(name, coordinator.survivor_list(name, 1))
    coordinator.collude(1)
    return coordinator.sum_of_all(1)


def replay(coordinator):
    """Each peer drops out of a round, so that its key of that round is opened; then the target gets these keys."""
    coordinator.agree_with_all()
    play_round(coordinator, 1, dropped=HONEST[:3])
    play_round(coordinator, 2, dropped=HONEST[3:])
    old = {name: coordinator.prepared[name, 1].key for name in HONEST[:3]}
    old |= {name: coordinator.prepared[name, 2].key for name in HONEST[3:]}
    start = coordinator.start(3)
    for name in HONEST:
        coordinator.mask(name, start)
    coordinator.mask(TARGET, coordinator.start(3, replaced=old))
    for name in HONEST:
        coordinator.reveal(name, coordinator.survivor_list(name, 3))
    coordinator.collude(3)
    return coordinator.strip(TARGET, 3)


def shrunk_cohort(coordinator):
    """The target is told of a round with nobody but colluders; the others play a round with everybody."""
    coordinator.agree_with_all()
    start = coordinator.start(1)
    for name in HONEST:
        coordinator.mask(name, start)
    coordinator.mask(TARGET, coordinator.start(1, [TARGET, *COLLUDERS]))
    for name in HONEST:
        coordinator.reveal(name, coordinator.survivor_list(name, 1))
    coordinator.collude(1)
    return coordinator.strip(TARGET, 1)


def lowered_threshold(coordinator):
    """Four are enough, says the coordinator; so half of the sites open one secret and half the other."""
    coordinator.agree_with_all()
    start = coordinator.start(1)
    for name in SITES:
        coordinator.mask(name, start)
    everybody = coordinator.survivor_list(TARGET, 1)
    for name in [TARGET, *HONEST[:3]]:
        coordinator.reveal(name, everybody)
    gone = coordinator.survivor_list(TARGET, 1, dropped=[TARGET])
    signatures = coordinator.signatures(gone, HONEST[3:])
    for name in HONEST[3:]:
        coordinator.reveal(name, gone, signatures)
    coordinator.collude(1)
    return coordinator.strip(TARGET, 1)


def forged_survivor_list(coordinator):
    """The target survived and dropped out, on one list that everybody signs."""
    coordinator.agree_with_all()
    start = coordinator.start(1)
    for name in SITES:
        coordinator.mask(name, start)
    listed = coordinator.survivor_list(TARGET, 1, both=[TARGET])
    signatures = coordinator.signatures(listed, HONEST)
    for name in HONEST:
        coordinator.reveal(name, listed, signatures)
    coordinator.collude(1)
    return coordinator.strip(TARGET, 1)


def invented_site(coordinator):
    """The target's peers are nine sites that the coordinator has made up, with keys and signatures in order."""
    names = [f"made-up-{i}" for i in range(9)]
    return coordinator.isolate_target(names, dict.fromkeys(names, coordinator.identities[SITES[-1]]))


def never_refuse(*_arguments, **_named):
    """In place of a check."""


def verify_whom_it_knows(policy, name, *, signature, signed, real=SumPolicy.verify):
    if name in policy.roster:
        real(policy, name, signature=signature, signed=signed)


def context_without_model(start, *, model, real=messages.round_context):
    del model
    return real(start, model="0" * 64)


# Story, what the sites say, and the one thing that is taken out in the twin.
STORIES = {
    both_shares: ("acted on", (site.SiteSession, "_act_once", never_refuse)),
    swapped_keys: ("a signature is not that of", (SumPolicy, "verify", never_refuse)),
    different_models: ("", (site, "round_context", context_without_model)),
    replay: ("of another run or round", (admission, "require_same_round", never_refuse)),
    shrunk_cohort: ("round 1 has 4 sites, fewer than 7", (SumPolicy, "require_enough", never_refuse)),
    lowered_threshold: ("6 of 7 sites signed", (SumPolicy, "threshold", property(lambda _policy: 4))),
    forged_survivor_list: ("not disjoint", (site, "require_partition", never_refuse)),
    invented_site: ("is not in the study's roster", (SumPolicy, "verify", verify_whom_it_knows)),
}


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_nothing_is_revealed(coordinator, story):
    said, _ = STORIES[story]
    found = story(coordinator)
    assert any(said in refusal for refusal in coordinator.refusals) or not said, coordinator.refusals
    assert found is None or said == ""
    if found is not None:  # nobody refused, and what came out is noise
        assert np.mean(found == coordinator.vectors[TARGET]) < 0.1
        assert np.abs(found.astype(np.int64)).max() > 2**28


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_without_its_check_the_attack_succeeds(coordinator, story, monkeypatch):
    _, (owner, name, replacement) = STORIES[story]
    monkeypatch.setattr(owner, name, replacement)
    found = story(coordinator)
    assert found is not None, coordinator.refusals
    np.testing.assert_array_equal(found, coordinator.vectors[TARGET])


def test_the_colluders_are_as_many_as_the_bound_allows(coordinator):
    assert len(COLLUDERS) == coordinator.policy.most_colluders == 3


@pytest.mark.parametrize("story", [both_shares, shrunk_cohort, replay], ids=lambda story: story.__name__)
def test_refusals_name_no_number_of_a_vector(coordinator, story):
    story(coordinator)
    telling = {str(abs(int(value))) for value in coordinator.vectors[TARGET] if abs(value) > 999}
    assert coordinator.refusals
    assert telling
    assert not [refusal for refusal in coordinator.refusals if any(number in refusal for number in telling)]
