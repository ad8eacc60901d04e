"""A site refuses what breaks the protocol's order, what is forged, and what would have it act twice."""

from dataclasses import replace

import numpy as np
import pytest

from privacy.secure_sum import KeyOffer, OfferList, RoundStart, SiteSession, SurvivorList, UnmaskRequest
from privacy.secure_sum.messages import ShareOf, sign
from privacy.secure_sum.survivors import require_signatures
from protocol.errors import PrivacyError, WireError
from protocol.randomness import SystemRandom

MODEL = "a" * 64


@pytest.fixture
def world(federation):
    return federation(sites=5, coordinates=3)


def restored(world, name, saved):
    return SiteSession.restore(saved, world.policy, site=name, identity=world.identities[name], random=SystemRandom())


def test_identity_must_be_the_rosters(world):
    with pytest.raises(PrivacyError, match="another key for 'site-00'"):
        SiteSession(world.policy, site="site-00", identity=world.identities["site-01"], random=SystemRandom())


@pytest.mark.parametrize("name", ["run", "study", "code", "cohort"])
def test_offer_for_something_else_is_refused(world, name):
    offers = {key: site.offer() for key, site in world.sites.items()}
    offers["site-01"] = sign(replace(offers["site-01"], **{name: "e" * 64}), world.identities["site-01"])
    with pytest.raises(PrivacyError, match="another run, study, code or cohort"):
        world.sites["site-00"].accept_offers(OfferList(offers=tuple(offers.values())))
    with pytest.raises(PrivacyError, match="another run, study, code or cohort"):
        world.server.add_offer(offers["site-01"])


def test_own_offer_twice_offers_and_a_second_agreement_are_refused(world):
    offers = [site.offer() for site in world.sites.values()]
    first = world.sites["site-00"]
    with pytest.raises(PrivacyError, match="own offer is missing"):
        first.accept_offers(OfferList(offers=tuple(offers[1:])))
    with pytest.raises(PrivacyError, match="two offers"):
        first.accept_offers(OfferList(offers=(*offers, offers[1])))
    with pytest.raises(PrivacyError, match="3 sites, fewer than 4"):
        first.accept_offers(OfferList(offers=tuple(offers[:3])))
    first.accept_offers(OfferList(offers=tuple(offers)))
    with pytest.raises(PrivacyError, match="accepted before"):
        first.accept_offers(OfferList(offers=tuple(offers)))
    assert isinstance(first.offer(), KeyOffer)
    assert first.offer() == offers[0]


def test_round_is_masked_once(world):
    world.agree()
    start = world.server.start_round(1, model=MODEL)
    site, vector = world.sites["site-00"], np.zeros(3, dtype=np.int64)
    site.mask(start, model=MODEL, vector=vector)
    for model in (MODEL, "b" * 64):
        with pytest.raises(PrivacyError, match="masked before"):
            site.mask(start, model=model, vector=vector)


def test_secrets_of_a_masked_round_are_gone(world):
    world.agree()
    start = world.server.start_round(1, model=MODEL)
    site = world.sites["site-00"]
    secrets = site._memory.pending
    site.mask(start, model=MODEL, vector=np.zeros(3, dtype=np.int64))
    saved = site.save()
    assert secrets.seed.hex().encode() not in saved
    assert secrets.mask_key.hex().encode() not in saved
    assert site._memory.sealing_key.hex().encode() in saved  # so the search would have found them


def test_round_is_prepared_once_and_never_again(world):
    world.agree()
    site = world.sites["site-00"]
    assert site.prepare(3) == site.prepare(3)
    for number in (1, 2):
        with pytest.raises(PrivacyError, match="prepared before"):
            site.prepare(number)


def test_start_with_wrong_keys_is_refused(world):
    world.agree()
    start = world.server.start_round(1, model=MODEL)
    site, vector = world.sites["site-00"], np.zeros(3, dtype=np.int64)
    own, other = start.keys[0], start.keys[1]
    stolen = replace(other, mask_key=own.mask_key)
    wrong = {
        "own round key": (replace(own, mask_key=other.mask_key), *start.keys[1:]),
        "not that of 'site-01'": (own, stolen, *start.keys[2:]),
        "out of order": (*start.keys[1:], own),
        "3 sites, fewer than 4": start.keys[:3],
        "another run or round": (own, sign(replace(other, round=2), world.identities["site-01"]), *start.keys[2:]),
        "not in the run": (*start.keys, sign(replace(other, site="zoe"), world.identities["site-01"])),
    }
    for match, keys in wrong.items():
        with pytest.raises((PrivacyError, WireError), match=match):
            site.mask(RoundStart(agreement=start.agreement, round=1, keys=keys), model=MODEL, vector=vector)
    with pytest.raises(PrivacyError, match="has not prepared"):
        site.mask(replace(start, agreement="e" * 64), model=MODEL, vector=vector)
    site.mask(start, model=MODEL, vector=vector)


@pytest.fixture
def listed(world):
    """A list on which site-04 has dropped out."""
    world.agree()
    world.mask(world.server.start_round(1, model=MODEL), world.vectors(1), silent=["site-04"])
    return world.server.close_masking()


def test_lists_that_do_not_fit_are_refused(world, listed):
    site, everybody = world.sites["site-00"], world.names
    wrong = {
        "not disjoint": replace(listed, dropped=("site-00", "site-04")),
        "does not add up": replace(listed, dropped=()),
        "add up to": replace(listed, dropped=("site-04", "site-99")),
        "not in order": replace(listed, survivors=tuple(reversed(listed.survivors))),
        "3 sites, fewer than 4": replace(listed, survivors=tuple(everybody[:3]), dropped=tuple(everybody[3:])),
        "not among the survivors": replace(listed, survivors=tuple(everybody[1:]), dropped=("site-00",)),
        "another context": replace(listed, context="e" * 64),
        "another context than": replace(listed, round=2),
    }
    for match, wrong_list in wrong.items():
        with pytest.raises(PrivacyError, match=match):
            site.sign_survivors(wrong_list)
        with pytest.raises(PrivacyError, match=match):
            site.reveal(UnmaskRequest(listed=wrong_list, sealed=(), signatures=()))
    site.sign_survivors(listed)


def test_site_acts_on_one_list(world, listed):
    site = world.sites["site-00"]
    assert site.sign_survivors(listed) == site.sign_survivors(listed)
    everybody = SurvivorList(agreement=listed.agreement, round=1, context=listed.context,
                             survivors=tuple(world.names), dropped=())  # fmt: skip
    others = replace(listed, survivors=("site-00", "site-01", "site-02", "site-04"), dropped=("site-03",))
    for other in (everybody, others):
        with pytest.raises(PrivacyError, match="was acted on"):
            site.sign_survivors(other)


def test_signatures_are_counted_once_each_and_checked(world, listed):
    signatures = {name: world.sites[name].sign_survivors(listed) for name in listed.survivors}
    real = list(signatures.values())
    require_signatures(listed, real, policy=world.policy)
    first = real[0]
    dropped = sign(replace(first, site="site-04"), world.identities["site-04"])
    elsewhere = sign(replace(first, list_hash="e" * 64), world.identities["site-00"])
    for wrong, match in [
        (real[:3], "3 of 4 sites signed"),
        ([*real[:3], real[0]], "3 of 4 sites signed"),
        ([*real[:3], replace(real[0], site="site-03")], "not that of 'site-03'"),
        ([*real[:3], dropped], "without having survived"),
        ([*real[1:], elsewhere], "another survivor list"),
    ]:
        with pytest.raises((PrivacyError, WireError), match=match):
            require_signatures(listed, wrong, policy=world.policy)


def test_shares_for_somebody_else_or_altered_are_refused(world, listed):
    for name in listed.survivors:
        world.server.add_signature(world.sites[name].sign_survivors(listed))
    requests = world.server.unmask_requests()
    request, other = requests["site-00"], requests["site-01"]
    item = request.sealed[0]
    flipped = ShareOf(site=item.site, share=f"{int(item.share[:2], 16) ^ 1:02x}{item.share[2:]}")
    swapped = ShareOf(site=item.site, share=request.sealed[1].share)
    foreign = ShareOf(site=request.sealed[1].site, share=other.sealed[1].share)
    for sealed in [(flipped, *request.sealed[1:]), (swapped, *request.sealed[1:]),
                   (item, foreign, *request.sealed[2:])]:  # fmt: skip
        with pytest.raises(WireError, match="cannot be opened"):
            world.sites["site-00"].reveal(replace(request, sealed=sealed))
    for sealed in [request.sealed[1:], (*request.sealed, item)]:
        with pytest.raises(WireError, match="not one of each peer"):
            world.sites["site-00"].reveal(replace(request, sealed=sealed))
    told = world.sites["site-00"].reveal(request)
    assert told == world.sites["site-00"].reveal(request)  # asked again, it tells the same
    assert sorted(share.site for share in told.shares) == world.names


def test_process_may_end_between_any_two_messages(federation):
    """Every site is saved and restored before each step; two rounds, one with a drop-out."""
    world = federation(sites=4, coordinates=50)

    def restart():
        for name in world.names:
            world.sites[name] = restored(world, name, world.sites[name].save())

    for name in world.names:
        world.server.add_offer(world.sites[name].offer())
    restart()
    offers = world.server.close_offers()
    for name in world.names:
        world.server.add_preparation(world.sites[name].accept_offers(offers))
    for number, silent in ((1, ()), (2, ("site-02",))):
        vectors = world.vectors(number)
        restart()
        world.mask(world.server.start_round(number, model=MODEL), vectors, silent=silent)
        restart()
        result = world.unmask()
        assert result.vector.tolist() == sum(vectors[name] for name in result.contributors).tolist()
    with pytest.raises(PrivacyError, match="was acted on"):
        restored(world, "site-00", world.sites["site-00"].save()).sign_survivors(
            SurvivorList(agreement=world.sites["site-00"]._memory.agreement, round=2,
                         context=world.sites["site-00"]._memory.open.context,
                         survivors=tuple(world.names), dropped=())
        )  # fmt: skip


def test_damaged_or_foreign_memory_is_refused(world, federation):
    world.agree()
    saved = world.sites["site-00"].save()
    for damaged in (b"", b"{}", saved[:-9], saved.replace(b'"version":1', b'"version":2')):
        with pytest.raises(PrivacyError, match="damaged"):
            restored(world, "site-00", damaged)
    with pytest.raises(PrivacyError, match="another run"):
        restored(world, "site-01", saved)
    other = federation(sites=6, coordinates=3)
    with pytest.raises(PrivacyError, match="another run"):
        restored(other, "site-00", saved)


def test_secrets_are_not_printed(world):
    world.agree()
    site = world.sites["site-00"]
    shown = repr(site._memory)
    assert repr(site._memory.sealing_key) not in shown
    assert repr(site._memory.pending.seed) not in shown
    assert "agreement" in shown
