"""How a statement reads: plain English for a privacy officer. Epsilons are rounded up, never down."""

import math
from collections.abc import Sequence

from privacy.accounting import CrossCheck
from privacy.ceiling import Ceiling
from privacy.events import NoisyRelease
from protocol.study import Study
from protocol.terms import ContributionKind, Relation, Sampler, Trust

_WEAK_EPSILON = 10.0
_NAMED_ENTRIES = 5
_NOT_AGAINST = "It does not hold against the site's own operator."
_AGAINST = {
    Trust.NONE: (
        "It holds against whoever gets the release, every other site, and the coordinator with every message"
        " that it receives.",
    ),
    Trust.SUM: (
        "It holds against whoever gets the release and every other site, for the sum over all sites.",
        "It holds against the coordinator and colluding sites only while the secure sum holds, and no more"
        " sites drop out or collude than the study states.",
    ),
}
_RELATIONS = {Relation.ADD_REMOVE: "add/remove", Relation.REPLACE_ONE: "replace-one"}
_DISJOINT = (
    "The sites are assumed to hold different people; then the federation's epsilon is its sites' largest.",
    "For somebody whose records are at s sites, both epsilon and delta are the sums over those sites.",
)
_HIDDEN_SAMPLE = "Who takes part in a step is drawn secretly and independently, and is never revealed."


def against_whom(trust: Trust) -> tuple[str, ...]:
    """Against whom a guarantee holds, and against whom not."""
    return (*_AGAINST[trust], _NOT_AGAINST)


def assumptions(events: Sequence[NoisyRelease]) -> tuple[str, ...]:
    """What a guarantee about these events rests on."""
    sampled = any(event.sampler is Sampler.POISSON for event in events)
    return (*_DISJOINT, _HIDDEN_SAMPLE) if sampled else _DISJOINT


def circumstances(study: Study) -> list[str]:
    """What a study says that no event tells: that its records are public, and what its training starts from."""
    told = []
    if study.public:
        told.append(f"The study says that its records are public: {study.public}")
    if (start := study.model.init) is not None:
        told.append(
            f"Training started from the public release {start.release!r}, weights {start.weights[:16]}…, whose maker"
            f" says that its records are public: {start.public} Were they not, its own epsilon would come on top."
        )
    return told


def promise(check: CrossCheck, replace_one: CrossCheck, unit: str) -> str:
    """The guarantee in one clause."""
    return (
        f"{pair(check)}-differential privacy per {unit} under {_RELATIONS[check.relation]}"
        f" ({_up(replace_one.pld)} under replace-one)"
    )


def meaning(check: CrossCheck, unit: str) -> list[str]:
    """What the guarantee bounds, exactly, in words."""
    advantage = most_advantage(check.pld, check.delta)
    change = (
        "with it as without it" if check.relation is Relation.ADD_REMOVE else "with it as with another in its place"
    )
    lines = [
        f"Whatever somebody knows beforehand, any conclusion they can draw about a {unit} is at most"
        f" {_factor_up(check.pld)} times as likely {change}, and the other way round, give or take a"
        f" probability of {check.delta:g}.",
        f"A test for a {unit} is right at most {_percent_up((1.0 + advantage) / 2.0)} of the time when both"
        f" answers are equally likely: its true-positive rate exceeds its false-positive rate by at most"
        f" {_percent_up(advantage)}.",
        "These are upper bounds for the worst case, not estimates of what an attack achieves.",
    ]
    if check.pld > _WEAK_EPSILON:
        lines.append(f"An epsilon above {_WEAK_EPSILON:g} is a weak bound: by itself it rules out little.")
    return lines


def release(event: NoisyRelease) -> str:
    """What was released."""
    who = f"each {event.unit} taking part with probability {event.sample_rate:g} (Poisson)"
    if event.sampler is Sampler.ALL:
        who = f"every {event.unit} taking part"
    sums = "sum" if event.count == 1 else "sums"
    what = f"{sums} of {event.kind.value}"
    if event.kind is ContributionKind.UPDATES:
        what = f"{sums} of gradients inside local training"
    return f"Released: {event.count} noisy {what}, noise multiplier {event.noise_multiplier:g}, {who}."


def brief(event: NoisyRelease) -> str:
    """What was released, as short as a table's cell.

    Args:
        event: What was released.
    """
    what = "gradients in local training" if event.kind is ContributionKind.UPDATES else event.kind.value
    who = f"each {event.unit} at {event.sample_rate:g}" if event.sampler is Sampler.POISSON else f"every {event.unit}"
    sums = "sum" if event.count == 1 else "sums"
    return f"{event.count} noisy {sums} of {what}, noise {event.noise_multiplier:.4g}, {who}"


def pair(check: CrossCheck) -> str:
    """The guarantee's two numbers, for a table whose heading says unit and relation."""
    return f"({_up(check.pld)}, {check.delta:g})"


def period(ceiling: Ceiling) -> str:
    """What a ceiling is about in time."""
    return "for ever" if ceiling.days is None else f"within {ceiling.days} days"


def limit(ceiling: Ceiling, unit: str) -> str:
    """A ceiling in one clause."""
    return (
        f"({ceiling.epsilon:g}, {ceiling.delta:g})-differential privacy per {unit} under"
        f" {_RELATIONS[ceiling.relation]}, {period(ceiling)}"
    )


def left(check: CrossCheck, ceiling: Ceiling) -> str:
    """How much of a ceiling's epsilon is not spent, rounded down."""
    return f"{max(0.0, math.floor((ceiling.epsilon - check.pld) * 1000.0 + 1e-9) / 1000.0):.3f}"


def budget(check: CrossCheck, ceiling: Ceiling, unit: str, *, after: CrossCheck | None = None) -> str:
    """What is spent of a ceiling and what is left, as a sentence or two.

    Args:
        check: What is spent, at the ceiling's delta and under its relation.
        ceiling: The ceiling.
        unit: Whom the guarantee is about.
        after: What would be spent after something more; None for nothing more.
    """
    spent = pair(check) if check.pld > 0.0 else "nothing"
    told = f"Of at most {limit(ceiling, unit)}: {spent} is spent, {left(check, ceiling)} of epsilon is left."
    if after is None:
        return told
    if after.pld > ceiling.epsilon:
        return f"{told} With the study it would be {pair(after)}, more than the ceiling."
    return f"{told} With the study {pair(after)} is spent and {left(after, ceiling)} left."


def working(check: CrossCheck, accountant: str) -> str:
    """How the number was worked out."""
    return (
        f"Worked out by {accountant} (discretisation {check.discretisation:g}): {_up(check.pld)}; an"
        f" independent Fourier accountant finds {check.fourier:.3f}, a Rényi bound {_up(check.renyi)}."
    )


def provenance(ledger_entries: Sequence[str]) -> list[str]:
    """Which ledger entries paid for it."""
    if not ledger_entries:
        return []
    names = ", ".join(entry[:12] for entry in ledger_entries[:_NAMED_ENTRIES])
    left = len(ledger_entries) - _NAMED_ENTRIES
    more = f" and {left} more" if left > 0 else ""
    return [f"Paid for by ledger entries {names}{more}; each commits to all entries before it."]


def most_advantage(epsilon: float, delta: float) -> float:
    """Largest true-positive less false-positive rate of any test (Kairouz, Oh, Viswanath 2015, theorem 2.1).

    Example:
        >>> most_advantage(0.0, 1e-5)
        1e-05
    """
    return min(1.0, math.tanh(epsilon / 2.0) + 2.0 * delta / (math.exp(min(epsilon, 700.0)) + 1.0))


def _up(value: float) -> str:
    """Three decimals."""
    return f"{math.ceil(value * 1000.0 - 1e-9) / 1000.0:.3f}"


def _percent_up(share: float) -> str:
    """Per cent with one decimal."""
    return f"{min(100.0, math.ceil(share * 1000.0 - 1e-9) / 10.0):.1f} %"


def _factor_up(epsilon: float) -> str:
    """exp(epsilon) with two decimals, or three digits from 100."""
    factor = math.exp(epsilon)
    if factor < 100.0:
        return f"{math.ceil(factor * 100.0 - 1e-9) / 100.0:.2f}"
    scale = 10.0 ** (math.floor(math.log10(factor)) - 2)
    return f"{math.ceil(factor / scale) * scale:.3g}"
