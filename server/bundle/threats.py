"""The threat model of one release: against whom its statement holds, by what, and where it ends.

Generated from the study's trust, drop-outs and colluders, in the words of the statement (`privacy.wording`). What a
release does not show, such as how messages travelled, is said to be unknown here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from evaluation.page.skeleton import plain_page, section, sentences, words_table
from privacy import wording
from privacy.shares import NoiseShares
from privacy.stage import Stage
from protocol.terms import ContributionKind, Trust
from server.bundle.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Threat:
    """One opponent.

    Attributes:
        against: Whom.
        holds: What holds against them, or that nothing does.
        rests_on: By what, and up to where.
    """

    against: str
    holds: str
    rests_on: str


def threat_model(subject: Subject) -> str:
    """Return the threat model as one HTML page."""
    rows = [(threat.against, threat.holds, threat.rests_on) for threat in threats(subject)]
    intro = subject.simulated_words + (" It shows what would hold of a real run." if subject.simulated_words else "")
    body = [
        section(
            "Who is defended against whom",
            intro.strip(),
            words_table(("Against", "What holds", "By what, and up to where"), rows, label="Who is defended"),
        )
    ]
    if subject.private:
        body.append(section("What it rests on", "", sentences(list(_assumptions(subject)))))
    body.append(section("What this release does not show", "", sentences(list(_unknown(subject)))))
    return plain_page(
        title=f"Threat model: {subject.name}",
        lead="Against whom the statement of this release holds, by what, and where it ends.",
        body=body,
    )


def threats(subject: Subject) -> Iterator[Threat]:
    """Say of each opponent what holds against them.

    Args:
        subject: The release.
    """
    if not subject.private:
        yield Threat(against="Everybody", holds="Nothing is promised.", rests_on=subject.release.statement.headline())
        return
    yield _public(subject)
    yield from _in_sum(subject, subject.plan.shares) if subject.plan.shares is not None else _alone()
    yield _liar(subject)
    yield Threat(
        against="A site's own operator",
        holds="Nothing.",
        rests_on=f"{subject.release.statement.against_whom[-1]} Whoever has the records has them.",
    )


def _liar(subject: Subject) -> Threat:
    told = "It can send any vector of the right form, and so spoil the model: that it is right is not promised."
    if _has_shares(subject):
        told += " A site that leaves out its share of the noise counts as a colluder."
    return Threat(
        against="A site that lies",
        holds="What it learns about others is bounded as for everybody else, also by what it sees of every round.",
        rests_on=told,
    )


def _has_shares(subject: Subject) -> bool:
    """Whether each site adds a share of some noise alone; local training adds the whole, whatever the trust."""
    return any(stage.shares is not None for stage in subject.plan.stages)


def _public(subject: Subject) -> Threat:
    return Threat(
        against="Whoever gets the release, and every other site",
        holds=subject.release.statement.headline(),
        rests_on=" ".join(_hidden(stage) for stage in subject.plan.stages)
        + " What is done with a noisy sum afterwards costs nothing.",
    )


def _hidden(stage: Stage) -> str:
    """Say what bounds and hides a unit's part in the rounds of a stage."""
    hidden = f"clipped to a norm of {stage.clip_norm:g} and hidden by noise of multiplier {stage.noise_multiplier:g}"
    if stage.kind is ContributionKind.STATISTICS:
        many = "one sum" if stage.rounds == 1 else f"each of {stage.rounds} sums"
        return f"Every {stage.unit.value} enters {many} of statistics once, divided by its public bound, {hidden}."
    return (
        f"Every {stage.unit.value}'s part of a sum is {hidden}; who takes part in a step is drawn at a rate of"
        f" {stage.sample_rate:g}."
    )


def _alone() -> Iterator[Threat]:
    """Each site adds the whole noise, and nothing is masked."""
    yield Threat(
        against="The coordinator",
        holds=wording.against_whom(Trust.NONE)[0],
        rests_on="Each site adds the whole noise itself, before anything leaves it. Neither the coordinator nor another"
        " site has to be trusted.",
    )
    yield _colluders_without_shares()
    yield Threat(
        against="Sites that drop out",
        holds="The same for all others.",
        rests_on="No site's noise depends on another site's taking part.",
    )


def _in_sum(subject: Subject, shares: NoiseShares) -> Iterator[Threat]:
    """Vectors are masked; each site adds a share of the noise, or, in local training, the whole."""
    holds, limited = wording.against_whom(Trust.SUM)[:2]
    fewest = max(shares.survivors, subject.study.federation.quorum)
    yield Threat(
        against="The coordinator",
        holds=f"It learns sums over at least {fewest} of {shares.sites} sites, and no site's own vector. {holds}",
        rests_on="A secure sum: vectors are masked, and a mask is taken off where at least"
        f" {shares.threshold} sites help. {limited}",
    )
    if _has_shares(subject):
        yield Threat(
            against="Sites that collude with the coordinator",
            holds=f"The same, while they are at most {max(1, shares.colluders)}.",
            rests_on=f"Each site adds a share of multiplier {_shares(subject)}, so that {shares.honest} of"
            f" them make the whole noise. With more colluders the noise is smaller than stated; with more than"
            f" {shares.most_colluders} the argument for the masks ends, too.",
        )
    else:
        yield _colluders_without_shares()
    yield Threat(
        against="Sites that drop out",
        holds=f"The same, while at most {shares.sites - fewest} are missing from a sum.",
        rests_on=f"The sites do not open a sum over fewer than {fewest}.",
    )


def _shares(subject: Subject) -> str:
    """Name the multiplier of a site's share of the noise; with two stages, of each that has shares."""
    stages = subject.plan.stages
    found = [(f"{stage.shares.share_multiplier:.3g}", stage.kind.value) for stage in stages if stage.shares is not None]
    if len(stages) == 1:
        return found[0][0]
    return " and ".join(f"{multiplier} in the sums of {kind}" for multiplier, kind in found)


def _colluders_without_shares() -> Threat:
    return Threat(
        against="Sites that collude with the coordinator",
        holds="The same for all others, however many they are.",
        rests_on="Each site adds the whole noise itself, and nobody else knows it.",
    )


def _assumptions(subject: Subject) -> Iterator[str]:
    """What the guarantee rests on, beside the mechanism."""
    yield from subject.release.statement.assumptions
    yield "Bounds, categories and numbers of the study are public: nobody read them off the records."
    yield "Every site drew its noise from its operating system's generator, and none was cloned while it ran."
    yield "All that a site ever releases about a data set is charged to one ledger, of which there is one living copy."
    yield "Other studies and releases about the same people add up with this one: the statement is of this one alone."


def _unknown(subject: Subject) -> Iterator[str]:
    """What nobody can tell from a release."""
    yield "How messages travelled, and who could see that sites took part, and when."
    yield "How the sites and the coordinator keep their machines, keys and disks."
    yield "Whether the model is good, and whether all sites sent what they should."
    yield (
        "Whether its weights come of this run: they are what the coordinator released. A run may start from what other"
        " studies released; what bounds all of that together is the total of each site's ledger."
    )
    if not subject.provenance.simulated:
        yield "Whether sites ran the code that they approved: its fingerprint is what they said of themselves."
