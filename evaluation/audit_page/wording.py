"""What the page of an audit says in words, for a reader who is no statistician."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from privacy.audit.finding import Claim, Finding, Tier, Verdict
from privacy.audit.verdict import Measure
from protocol.terms import Relation

TITLES: Mapping[Tier, str] = {
    Tier.MECHANISM: "mechanism",
    Tier.MODEL: "trained model",
    Tier.RELEASE: "released records",
    Tier.CHANNEL: "channel",
}
CONCLUSIONS: Mapping[Verdict, tuple[str, str]] = {
    Verdict.VIOLATED: (
        "Violated",
        "At least one attack showed more than the claim allows. Either the claim does not hold for what was audited, "
        "or chance played the trick that the stated confidence leaves room for. Release nothing before it is "
        "understood. Running the same audit again does not settle it: a real defect can stay silent the second time. "
        "Only an audit with more canaries or a higher confidence, fixed before it is run, decides; keep and show both "
        "reports.",
    ),
    Verdict.NO_VERDICT: (
        "No verdict",
        "The audit itself failed: it overlooked a defect that had been put there for it to find, or an attack could "
        "not be carried out. Nothing can be concluded from it, neither for the claim nor against it.",
    ),
    Verdict.UNDERPOWERED: (
        "Underpowered",
        "Nothing that was tried contradicts the claim, but at least one attack could not have done so: it does not "
        "contradict the claim where there is no privacy at all, either. Its silence says nothing. Where a number of "
        "canaries is named below, an audit with as many would tell more.",
    ),
    Verdict.CONSISTENT: (
        "Consistent",
        "Nothing that was tried contradicts the claim, and everything that was tried does find a breach where one was "
        "made on purpose. That is evidence for the claim and no proof: another attack may succeed.",
    ),
}
TRIED: Mapping[Tier, tuple[str, ...]] = {
    Tier.MECHANISM: (
        "A twin of the study was run on this machine: the same code, noise, clip norm and sample rate, but with "
        "canaries for records. A canary is a made-up record of which it is known exactly what it adds to a sum. From "
        "what a site sends, and from what a sum shows, the audit works out how much noise there really is, composes "
        "that over all rounds, and gets an epsilon that is spent at the least: the lower bound.",
        "What is left without the canaries is tested: whether the noise has the planned size and shape, whether it is "
        "fresh every time, whether records are drawn as the study says, and whether everything is paid for.",
    ),
    Tier.MODEL: (
        "Twins of the study were trained on this machine. A coin decided for each canary whether a twin was trained on "
        "it. An attack then says of each canary whether it was in, from the trained model or from what was seen in "
        "training. The more often it is right, the more the model gives away about who was in.",
        "The same attack was made on a twin without any privacy, to see what it can do, and on a model that never saw "
        "a canary, where it must fail.",
    ),
    Tier.RELEASE: (
        "Attackers who have nothing but synthetic records, and know what is publicly known, tried to tell training "
        "records from records that were held out, to single people out, to link what belongs together, and to infer "
        "what they do not know. Whatever succeeds as well with held-out records is knowledge about everybody and no "
        "breach.",
        "The same attacks were made on a release that simply repeats the records given as real.",
    ),
    Tier.CHANNEL: (
        "An attacker who reads what the coordinator sees in one round tried to reconstruct the records behind it "
        "(gradient inversion), knowing model, weights and the scale of the noise. It was tried in four settings: "
        "without protection, under the secure sum alone, with all noise at each site, and with shares of it under a "
        "secure sum.",
    ),
}
LIMITS: Mapping[Tier, tuple[str, ...]] = {
    Tier.MECHANISM: (
        "It cannot show that there is no defect, only that none of the kinds was found that it looks for. Which "
        "defects it does find is in the table of broken twins.",
        "It shows what the installed code does on this machine, with the randomness of this operating system. It "
        "cannot show that another site runs the same code; approvals bind sites to a fingerprint for that.",
        "It says nothing about what happens to records outside the study.",
    ),
    Tier.MODEL: (
        "Where the weights of a release are attacked by real records, it cannot notice a wrong file: whoever runs it "
        "must give the very file that the generator was trained on. With any other, even of the same table, the attack "
        "finds nothing whatever the weights give away, and the broken twin, which is trained on the file that is "
        "given, is still caught.",
        "A bound far below the claim does not mean that the model gives away less than was claimed. One training run "
        "with so many canaries proves no more than about the ceiling, however strong the attacker.",
        "It is about a twin, so that no canary touches the real model. What a stronger attack would find is open.",
        "The lower bound for the mechanism comes much nearer to the truth: see cloister audit mechanism.",
    ),
    Tier.RELEASE: (
        "It cannot notice a wrong file: whoever runs it must give the very file that the generator was trained on. "
        "With any other, even of the same table, every attack finds nothing whatever the release gives away, and the "
        "broken twin, which repeats the file that is given, is still caught.",
        "Attacks on synthetic records alone see little: they may stay silent on a generator that was trained without "
        "any privacy. Their silence is no evidence of privacy. What they do find is a breach.",
        "The released generator can be attacked more directly than the records drawn from it: see cloister audit "
        "model.",
        "How close synthetic records come to real ones is data quality. It neither shows nor excludes a breach, and no "
        "verdict rests on it.",
    ),
    Tier.CHANNEL: (
        "It is one attack on one round. That a reconstruction fails is no proof that nothing can be learnt; what "
        "bounds that is the noise, and what tests the noise is cloister audit mechanism.",
        "Here every record takes part in the round, and the claim that is tested is that of such a round. In the study "
        "a record takes part at its sample rate only, which makes it harder for an attacker.",
    ),
}
BROKEN_TWINS: Mapping[Tier, str] = {
    Tier.MECHANISM: "Each of these twins was broken on purpose and audited like the study. An audit that does not "
    "catch every one of them gives no verdict.",
    Tier.MODEL: "The attacks of this very audit were made on these, which have no noise, and held against the same "
    "claim. Defects of other kinds were not tried on them: they are a matter of the mechanism's audit. An attack "
    "that does not see them is underpowered.",
    Tier.RELEASE: "The attacks of this very audit were made on a release that repeats records, and held against the "
    "same claim. Subtler defects were not tried on them. An attack that does not see it is underpowered.",
    Tier.CHANNEL: "The attack of this very audit was made on the same rounds without noise, and held against what is "
    "claimed of rounds with noise. Where it does not see that noise is missing, it is underpowered.",
}
WORST_CASE = "It is the worst case that is bounded: an attack that achieves less does not contradict the claim."
_TESTED: Mapping[Tier, str] = {
    Tier.MECHANISM: "What is tested here is that all steps of the study together keep it",
    Tier.MODEL: "What is tested here is that a trained model keeps it",
    Tier.RELEASE: "What is tested here is what it says about one record in the place of another",
    Tier.CHANNEL: "What is tested here is what it comes to for a record that is known to take part in a single round",
}
READING: tuple[tuple[str, str], ...] = (
    (
        "Lower bound",
        "an epsilon that is spent at the least, at the confidence stated. Above the claim it contradicts the claim. "
        "Below, it does not.",
    ),
    (
        "Ceiling",
        "the lower bound that a perfect attacker would typically show, with as many canaries, of a subject that spends "
        "exactly its claim. A lower bound cannot be expected to come nearer to the claim than that, and passes it by "
        "luck alone.",
    ),
    ("Interval", "where the true value lies, at the confidence stated; the mark is the single best estimate."),
    ("Baseline", "how well one can guess without what is audited."),
    ("Control", "how well the same attack does on records that were in nothing, where it can only guess."),
    (
        "Calibration",
        "how well the scores of an attack tell one half of the records that were in nothing from the other half. It "
        "shows how far chance alone goes with as many records, and nothing about the attack: no defect of it could "
        "show here.",
    ),
    ("Canary", "a record about nobody that is planted in a twin to see whether an attack finds it."),
    (
        "ROC on a log scale",
        "of all records that were in, how many an attack finds, for every share of wrongly accused that it accepts. "
        "The dashed line is a blind guess. What matters is the left: many found while hardly anybody is wrongly "
        "accused.",
    ),
    (
        "Underpowered",
        "the same attack does not contradict the claim even where there is no privacy at all. Its silence says "
        "nothing.",
    ),
)
_CONTROL_NAMES: Mapping[Tier, tuple[str, str]] = {
    Tier.MECHANISM: ("blind guess", "on canaries that add nothing"),
    Tier.MODEL: ("best guess without the model", "where it can only guess"),
    Tier.RELEASE: ("best guess without the release", "on records that were held out"),
    Tier.CHANNEL: ("best guess without the channel", "on records that were in no batch"),
}


_OF_WEIGHTS = "release of "  # the subject of an attack on the weights of a release
_CALIBRATION = "calibration: held-out halves"


@dataclass(frozen=True, kw_only=True)
class Names:
    """What the three intervals of a finding are called."""

    attacked: str
    baseline: str
    control: str


def names(finding: Finding) -> Names:
    """What the intervals of a finding are called."""
    baseline, control = _CONTROL_NAMES[finding.tier]
    if finding.measure == Measure.AUROC and (finding.tier is Tier.RELEASE or finding.subject.startswith(_OF_WEIGHTS)):
        baseline, control = _CONTROL_NAMES[Tier.RELEASE][0], _CALIBRATION
    compared = finding.baseline is not None or finding.control is not None
    return Names(attacked="the attack" if compared else "measured", baseline=baseline, control=control)


def tested(tier: Tier, claims: Sequence[Claim]) -> str:
    """Which epsilon was put to the test: not always that of the headline."""
    numbers = sorted({f"{claim.epsilon:.3g}" for claim in claims}, key=float)
    return f"{_TESTED[tier]}: epsilon {' and '.join(numbers)}."


def odds(claim: Claim) -> str:
    """What a claim allows, in words."""
    factor = math.exp(min(claim.epsilon, 700.0))
    why = "it is there" if claim.relation is Relation.ADD_REMOVE else "it is there instead of another one"
    told = f"{factor:.2g}" if factor < 10 else f"{factor:,.0f}" if factor < 1e6 else "more than a million"
    return (
        f"An epsilon of {claim.epsilon:.3g} lets the odds of any conclusion about one record (or person) change by a "
        f"factor of at most {told} because {why}."
    )


def css(verdict: Verdict) -> str:
    """Class of a verdict."""
    return verdict.value.replace(" ", "-")
