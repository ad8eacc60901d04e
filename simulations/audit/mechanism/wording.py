"""What an audit of a mechanism says in words, for a reader who is no statistician."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from privacy.audit.mechanism.canaries import CanaryKind
from privacy.audit.mechanism.residuals import Check, Property
from protocol.study import Study
from simulations.audit.mechanism.assessment import KIND_SHARES, ViewBound
from simulations.audit.mechanism.control import ADDS_NOTHING, PositiveControl
from simulations.audit.mechanism.evidence import LEAST_RATE

_ITS_GRADIENT = {
    CanaryKind.DIRAC: "one coordinate",
    CanaryKind.SPREAD: "one coordinate in every tensor",
    CanaryKind.HUGE: "enormous",
    CanaryKind.ZERO: "zero",
    CanaryKind.NON_FINITE: "infinite or no number",
}


class Result(Protocol):
    """What became of a broken twin."""

    @property
    def mutant(self) -> str:
        """What was wrong with it."""

    @property
    def tests(self) -> tuple[str, ...]:
        """The tests that failed on it."""

    @property
    def seconds(self) -> float:
        """Wall time."""

    @property
    def problem(self) -> str:
        """Why it could not be audited, or what else failed on it."""


def bound_words(bound: ViewBound) -> Iterator[str]:
    """How a lower bound came about, step by step."""
    best, study = bound.families[bound.best], bound.plan.study
    unit = study.privacy.unit.value
    yield (
        f"A canary is a made-up {unit} of which it is known exactly what it adds to a sum. {best.present:,} times one "
        f"was in a step and {best.absent:,} times it was not; the attack had to tell the two apart."
    )
    if np.isfinite(best.noise):
        yield (
            f"By how often it was right, the noise of one step is at most {best.noise:.4g} times what one {unit} may "
            f"add (the clip norm); planned is {bound.plan.noise_multiplier:.4g}. A {unit} is drawn into at least "
            f"{bound.rate:.2%} of the steps; the study says {study.privacy.sample_rate:.2%}. Over all "
            f"{study.training.rounds:,} rounds that comes to the lower bound."
        )
    else:
        yield (
            "It was not right often enough to say anything about the noise of a step, so the lower bound is zero: "
            "there were few canaries for so much noise."
        )
    shown = [
        f"{_ITS_GRADIENT[kind]}: {found:.4g}" if np.isfinite(found) else f"{_ITS_GRADIENT[kind]}: nothing"
        for kind, found in ((kind, bound.families[kind].noise) for kind in KIND_SHARES)
    ]
    yield (
        "The noise at the most, in clip norms, by what a canary's gradient looks like before it is clipped: "
        f"{'; '.join(shown)}. The last two must show nothing, for they add nothing."
    )
    nothing = sum(len(bound.scores[kind][0]) for kind in ADDS_NOTHING)
    yield (
        f"These last are the control, too: {nothing:,} times one took part in a step like any other. An attack that "
        "told them from those that did not would know from somewhere else than from the sums who was drawn."
    )
    yield (
        "The ceiling is what a perfect attacker typically shows with as many canaries of a mechanism that spends what "
        "was planned: more in half of all audits, less in the other half. A lower bound above the ceiling is luck; one "
        "above the claim contradicts it. One far below the ceiling means that the attack saw less than it could have."
    )
    yield (
        "The lower bound takes the noise to be Gaussian, which is tested apart. Whatever its shape, one step in which "
        f"a {unit} is sure to take part costs an epsilon of at least {best.shape_free(delta=bound.claim.delta):.3g}."
    )


def control_words(control: PositiveControl | None) -> Iterator[str]:
    """What the attack showed where there is no noise; nothing where it was not made there."""
    if control is None:
        return
    step = control.step
    told = f"at most {step.noise:.3g} times the clip norm" if np.isfinite(step.noise) else "of any size"
    yield (
        f"The twin without privacy, which adds no noise, was run, too. By the same attack on its sums, with "
        f"{step.present:,} times a canary in a step and {step.absent:,} times none, its noise is {told}."
    )


def residual_words(checks: Sequence[Check], broken: Sequence[Check], missed: Sequence[str]) -> Iterator[str]:
    """What was tested, and what of it does not hold."""
    if missed:
        yield f"The audit did not catch what it must catch: {', '.join(missed)}. So nothing can be concluded from it."
    kinds = dict.fromkeys(str(check.what) for check in checks)
    yield f"{len(checks)} tests were made of the following: {'; '.join(kinds)}."
    if str(Property.DERIVED) in kinds and not broken:
        yield "What leaves is worked out from noisy sums and nothing else, so that whatever bounds them bounds it."
    for what in dict.fromkeys(check.what for check in broken):
        yield _failed_words([check for check in broken if check.what is what])
    if broken:
        yield "So the mechanism is not the one that the claim was worked out for."
    else:
        yield (
            "None fails; that many tests were made at once is allowed for. The broken twins show which defects these "
            "tests do find; they cannot show that there is none."
        )


def rate_words(study: Study) -> Iterator[str]:
    """Where the noise was looked at, for a study whose units are drawn so seldom that little would be seen of it."""
    rate, unit = study.privacy.sample_rate, study.privacy.unit.value
    if rate < LEAST_RATE:
        yield (
            f"A {unit} of this study is drawn into {rate:.2g} of all steps, too seldom for canaries to show the noise "
            f"in a short audit. Noise, clip and what leaves were looked at in runs in which the rate is {LEAST_RATE:g} "
            "instead, of the twin as it is and of the broken ones, and most of what is caught is caught there. At the "
            "study's own rate the sampler alone was looked at. A defect that shows at that rate only, and not in the "
            "sampler, would be missed."
        )


def unseen_words(unseen: Mapping[str, tuple[int, int]], study: Study) -> Iterator[str]:
    """What an opponent may see, too, and what canaries could not be looked for in.

    Args:
        unseen: By name of the view: how often it was not looked at, and how often it was.
        study: The study.
    """
    for name, (times, seen) in unseen.items():
        yield (
            f"NOT LOOKED AT {'every time' if not seen else f'in {times} of {times + seen} cases'}: {name}. There the "
            f"change of the weights reached the bound on it (update_norm, {study.training.update_norm:g}), so that it "
            "is no longer the sum of noisy steps and canaries cannot be read from it. No lower bound was worked out "
            "for it there, and what is concluded here does not include it. That it follows from the noisy steps and "
            "nothing else was tested; if it does, whatever bounds these bounds it."
        )


def mutant_words(caught: Sequence[Result]) -> Iterator[str]:
    """What was done to every broken twin, and what found it."""
    yield (
        "Each of these twins has one defect that was put there on purpose. One is caught if a test that is about its "
        "defect fails. An audit that does not catch all of them concludes nothing."
    )
    yield f"{sum(bool(each.tests) for each in caught)} of {len(caught)} broken twins were caught. By what:"
    for each in caught:
        yield f"{outcome_of(each)}."


def outcome_of(result: Result) -> str:
    """A broken twin in one line of text."""
    missed = f"NOT CAUGHT{': it ' * bool(result.problem)}{result.problem}"
    return f"{result.mutant}: {', '.join(result.tests) or missed}"


def _failed_words(broken: Sequence[Check]) -> str:
    """One property that does not hold, with the place where that is plainest."""
    plainest = min(broken, key=lambda check: check.p_value)
    places = f"In {len(broken)} tests, plainest at" if len(broken) > 1 else "At"
    return f"Does not hold: {plainest.what}. {places} {plainest.where}. {_chance(plainest.p_value)}"


def _chance(p_value: float) -> str:
    """How often an honest mechanism would look like this."""
    if p_value == 0.0:
        return "An honest mechanism never looks like this."
    if p_value < 1e-9:
        return "An honest mechanism looks like this less than once in a billion audits."
    return f"An honest mechanism looks like this about once in {1.0 / p_value:,.0f} audits."
