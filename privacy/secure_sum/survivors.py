"""The survivor list: what a site checks before it opens anything, and why that is enough.

Notation: a roster of n sites, threshold t = floor(2n/3) + 1, m <= n sites that take part in the run, and c of them
that side with the coordinator. **The bound: c <= 2t - n - 1**, which is at least n/3 rounded down. Every round, each
site u shares two secrets t-of-n: the seed b_u of its own mask, and the private key s_u behind its pair masks. An
honest site masks a round once and acts on one survivor list per round: it signs or opens that list and no other. The
list has at least `SumPolicy.fewest` >= t survivors, the site itself among them, is disjoint, and adds up to the sites
that the round began with, as this site was told. From each peer it opens one half: b of a survivor, s of a dropped
site.

* **Everybody survived: two exchanges.** The site opens halves of b only, and asks for no signatures.
* **Somebody dropped out: three.** The site opens halves of s only after t survivors have signed this very list.

Claim: per round the coordinator learns at most one sum, and it is over at least `fewest` sites.

1. *At most one list with drop-outs is ever acted on.* Two such lists have t signers each, so at least t - c honest
   ones each, and these differ, because an honest site signs one list. But 2(t - c) > m - c. Call the list L, if it
   exists: survivors S, dropped D. Its honest signers, at least t - c, are survivors by their own check.
2. *Nobody's two secrets are both opened.* Only D's keys s can be. For u in D, shares of b_u come from the c colluders
   and from honest sites that acted on another list, which are no signers of L: together at most c + (m - c) - (t - c)
   = m - t + c < t.
3. *The one sum.* The masks of u hold as long as some honest v, whom u was told of in the round's beginning, shares a
   pair mask with u that neither cancels nor can be computed. It cancels only against v's vector, and only if both
   derived it from the same context: the same keys of the same sites and the same model (`round_context`). It can be
   computed only if v is in D (or u is, but then b_u hides u's vector). Hence a sum of honest vectors can be unmasked
   only for a set X that contains, with any member, all honest sites outside D that the member was told of, all in one
   context. If there is no L, X holds the honest ones of at least `fewest` sites. Two such sets are disjoint and have
   t - c members each, too many for m - c. If there is L, a set X of another context than L's meets no signer of L:
   sites that its members were told of lie in X or in D, at least t - c of them honest, and the signers lie in
   neither; again too many. So X is of L's context, and is S.

Step 3 fails if sites may sign a list on which they themselves have dropped out; hence that check. It also fails
without signatures, even though no site's two secrets could be had: different lists at different sites open s of
different sites, until the sum is over too few. Up to c of the survivors may be the coordinator's own, and it knows
what those added: minimum cohort and noise shares must be chosen with c in mind.

Source: Bonawitz et al. 2017, "Practical secure aggregation for privacy-preserving machine learning", section 6 and
figure 4 (consistency check); the fast path and the binding to a context are this project's.
"""

from collections.abc import Sequence

from privacy.secure_sum.messages import SurvivorList, SurvivorSignature
from privacy.secure_sum.policy import SumPolicy
from protocol.errors import PrivacyError

_ONCE = "Nothing was opened. The coordinator must explain it; do not start the run again before."


def require_partition(listed: SurvivorList, *, active: Sequence[str]) -> None:
    """Check that the list is sorted, disjoint, and adds up to the sites that began the round.

    Raises:
        PrivacyError: If it is not: a site on both lists would have both of its secrets opened.
    """
    named = [*listed.survivors, *listed.dropped]
    if len(set(named)) != len(named) or sorted(named) != sorted(active):
        raise PrivacyError(
            f"the survivor list of round {listed.round} is not disjoint or does not add up to its sites.",
            remedy=_ONCE,
        )
    if list(listed.survivors) != sorted(listed.survivors) or list(listed.dropped) != sorted(listed.dropped):
        raise PrivacyError(f"the survivor list of round {listed.round} is not in order.", remedy=_ONCE)


def require_survivors(listed: SurvivorList, *, policy: SumPolicy, site: str) -> None:
    """Check that enough have survived, and the reader among them.

    Raises:
        PrivacyError: If there are fewer than `SumPolicy.fewest`, or this site is not among them.
    """
    policy.require_enough(len(listed.survivors), what=f"the survivor list of round {listed.round}")
    if site not in listed.survivors:
        raise PrivacyError(f"{site} is not among the survivors of round {listed.round}.", remedy="Join the next round.")


def require_signatures(listed: SurvivorList, signatures: Sequence[SurvivorSignature], *, policy: SumPolicy) -> None:
    """Check that at least `SumPolicy.threshold` survivors have signed this very list.

    Raises:
        WireError: If a signature is not that of a site of the roster.
        PrivacyError: If a signature is about another list or by no survivor, or there are too few.
    """
    expected = (listed.agreement, listed.round, listed.hash())
    for signature in signatures:
        if (signature.agreement, signature.round, signature.list_hash) != expected:
            raise PrivacyError(f"{signature.site} signed another survivor list.", remedy=_ONCE)
        if signature.site not in listed.survivors:
            raise PrivacyError(f"{signature.site} signed a list without having survived.", remedy=_ONCE)
        policy.verify(signature.site, signature=signature.signature, signed=signature.signed_bytes())
    signers = {signature.site for signature in signatures}
    if len(signers) < policy.threshold:
        raise PrivacyError(
            f"{len(signers)} of {policy.threshold} sites signed the survivor list of round {listed.round}.",
            remedy="Nothing was opened. Wait for more signatures.",
        )
