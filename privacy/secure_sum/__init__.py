"""A sum of the sites' vectors that nobody can take apart: not the coordinator, not if it is malicious.

Secure aggregation after Bonawitz et al. 2017 in its malicious-server variant, on a complete graph of 3 to 100 sites.
Pure state machines without a transport: whoever carries the messages calls `SiteSession` and `ServerSession`.

* Every site hides its vector under a mask of its own and one with each peer; the pair masks cancel in the sum.
* Sites take cohort, threshold and sizes from the approved study (`SumPolicy`), check every signature themselves, and
  refuse in words that name no record.
* Up to n - threshold sites may drop out, at any stages: the sum is then exactly that of the sites whose vectors
  counted. A site that was away joins a later round.
* What holds, up to how many colluders, and why: `privacy.secure_sum.survivors`.
* What does not hold: the coordinator can stop a run, and a lying site can spoil a sum. A site that starts the run's
  process anew without `SiteSession.save` is out until the next run.
"""

from privacy.secure_sum.messages import (
    KeyOffer,
    MaskedInput,
    OfferList,
    Preparation,
    Reveal,
    RoundStart,
    SurvivorList,
    SurvivorSignature,
    UnmaskRequest,
)
from privacy.secure_sum.policy import SumPolicy, SumStage
from privacy.secure_sum.server import RoundSum, ServerSession
from privacy.secure_sum.site import SiteSession
from privacy.secure_sum.transcript import Transcript, compare_transcripts

__all__ = [
    "KeyOffer",
    "MaskedInput",
    "OfferList",
    "Preparation",
    "Reveal",
    "RoundStart",
    "RoundSum",
    "ServerSession",
    "SiteSession",
    "SumPolicy",
    "SumStage",
    "SurvivorList",
    "SurvivorSignature",
    "Transcript",
    "UnmaskRequest",
    "compare_transcripts",
]
