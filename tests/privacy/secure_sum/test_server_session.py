"""The coordinator's session may be written down and taken up at every stage, and says the same in the same bytes."""

import numpy as np
import pytest

from privacy.secure_sum import ServerSession
from protocol.errors import FederationError, PrivacyError

MODEL = "a" * 64
STAGES = ("offered", "agreed", "started", "masked", "listed", "signed", "finished")


def plain(message):
    """The form in which a message travels."""
    return message.to_mapping()


def run(made, *, forget, silent=(), rounds=2):
    """Run some rounds, the session being restored from its bytes after each stage that is named; returns all told."""
    told, sums, vectors = [], [], made.vectors(1)

    def stage(name, *messages):
        told.extend(plain(message) for message in messages)
        if name in forget:
            made.server = ServerSession.restore(made.server.save(), made.policy)

    for name in made.names:
        made.server.add_offer(made.sites[name].offer())
    stage("offered")
    offers = made.server.close_offers()
    stage("agreed", offers)
    assert plain(made.server.offer_list()) == plain(offers)
    for name in made.names:
        made.server.add_preparation(made.sites[name].accept_offers(offers))
    for number in range(1, rounds + 1):
        made.rejoin(number)
        start = made.server.start_round(number, model=MODEL)
        stage("started", start)
        assert plain(made.server.under_way) == plain(start)
        made.mask(start, vectors, silent=silent)
        listed = made.server.close_masking()
        stage("listed", listed)
        assert made.server.masking_closed
        assert plain(made.server.close_masking()) == plain(listed)
        if made.server.needs_signatures:
            for name in listed.survivors:
                made.server.add_signature(made.sites[name].sign_survivors(listed))
            stage("signed")
        requests = made.server.unmask_requests()
        told.extend(plain(requests[name]) for name in sorted(requests))
        for name, request in requests.items():
            made.server.add_reveal(made.sites[name].reveal(request))
        sums.append(made.server.finish_round())
        stage("finished")
        assert made.server.under_way is None
        assert made.server.last_round == number
    return told, sums, vectors


@pytest.mark.parametrize("silent", [(), ("site-02",)])
@pytest.mark.parametrize(
    "forget", [*[{stage} for stage in STAGES], set(STAGES)], ids=lambda kinds: "+".join(sorted(kinds))
)
def test_what_is_told_and_summed_is_the_same(federation, silent, forget):
    expected = run(federation(sites=6, coordinates=7, minimum=4), forget=(), silent=silent)
    found = run(federation(sites=6, coordinates=7, minimum=4), forget=forget, silent=silent)
    assert found[0] == expected[0]
    kept = [name for name in (f"site-{i:02d}" for i in range(6)) if name not in silent]
    for one, other in zip(expected[1], found[1], strict=True):
        np.testing.assert_array_equal(one.vector, other.vector)
        np.testing.assert_array_equal(one.vector, np.sum([found[2][name] for name in kept], axis=0))
        assert one.contributors == other.contributors == tuple(kept)


def test_masking_that_was_interrupted_is_repeated_from_the_start(federation):
    """The vectors that came before are not in what was written down; they come again, and count once."""
    made = federation(sites=5, coordinates=4)
    made.agree()
    vectors = made.vectors(2)
    start = made.server.start_round(1, model=MODEL)
    saved = made.server.save()
    sent = {name: made.sites[name].mask(start, model=MODEL, vector=vectors[name]) for name in made.names}
    for name in made.names[:3]:
        made.server.add_masked(sent[name])
    made.server = ServerSession.restore(saved, made.policy)
    assert made.server.counted == frozenset()
    for name in made.names:
        made.server.add_masked(sent[name])
    np.testing.assert_array_equal(made.unmask().vector, np.sum(list(vectors.values()), axis=0))


def test_a_list_that_was_told_is_never_another(federation):
    """The broken twin of writing the list down before it is told: the same sites refuse the second list."""
    made = federation(sites=6, coordinates=4, minimum=4)
    made.agree()
    vectors = made.vectors(3)
    start = made.server.start_round(1, model=MODEL)
    before = made.server.save()
    sent = {name: made.sites[name].mask(start, model=MODEL, vector=vectors[name]) for name in made.names}
    for name in made.names[:5]:
        made.server.add_masked(sent[name])
    listed = made.server.close_masking()
    after = made.server.save()
    for name in listed.survivors:
        made.sites[name].sign_survivors(listed)
    assert ServerSession.restore(after, made.policy).close_masking() == listed
    forgetful = ServerSession.restore(before, made.policy)
    for name in made.names[1:]:
        forgetful.add_masked(sent[name])
    with pytest.raises(PrivacyError, match="another survivor list"):
        made.sites[made.names[1]].sign_survivors(forgetful.close_masking())


def test_a_round_that_is_given_up_opens_nothing_and_the_next_may_begin(federation):
    made = federation(sites=5, coordinates=4)
    made.agree()
    vectors = made.vectors(4)
    made.mask(made.server.start_round(1, model=MODEL), vectors)
    made.server.close_masking()
    made.server.end_round()
    with pytest.raises(FederationError, match="no round is under way"):
        made.server.finish_round()
    with pytest.raises(FederationError, match="round 1 is over"):
        made.server.start_round(1, model=MODEL)
    np.testing.assert_array_equal(made.round(2, vectors).vector, np.sum(list(vectors.values()), axis=0))


def test_sites_that_never_prepared_are_known(federation):
    made = federation(sites=5, coordinates=4)
    made.agree(unprepared=("site-03",))
    assert made.server.strangers == ("site-03",)
    made.rejoin(1)
    assert made.server.strangers == ()


@pytest.mark.parametrize("damage", [b"", b"{}", b"null\n", b"[]\n"])
def test_damaged_memory_is_refused(federation, damage):
    with pytest.raises(PrivacyError, match="damaged"):
        ServerSession.restore(damage, federation(sites=5, coordinates=4).policy)


def test_memory_of_another_run_study_or_size_is_refused(federation):
    made = federation(sites=5, coordinates=4)
    made.agree()
    made.server.start_round(1, model=MODEL)
    saved = made.server.save()
    with pytest.raises(PrivacyError, match="another run"):
        ServerSession.restore(saved, federation(sites=5, coordinates=4, seed="other").policy)
    with pytest.raises(PrivacyError, match="another run"):
        ServerSession.restore(saved, federation(sites=5, coordinates=9).policy)
    agreement = made.server.offer_list().offers[0].cohort.encode()
    assert agreement in saved
    changed = saved.replace(b'"agreement":"', b'"agreement":"0', 1)
    with pytest.raises(PrivacyError):
        ServerSession.restore(changed, made.policy)
