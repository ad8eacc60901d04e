"""How a budget reads: what is spent is rounded up, what is left down, and both stand beside what makes them mean it."""

from dataclasses import replace

import pytest

from privacy import wording
from privacy.accounting import CrossCheck, cross_check
from privacy.ceiling import Ceiling
from privacy.events import Mechanism, NoisyRelease
from protocol.terms import ContributionKind, Relation, Sampler, Unit

FOR_EVER = Ceiling(epsilon=8.0, delta=1e-6, relation=Relation.ADD_REMOVE)
YEARLY = replace(FOR_EVER, epsilon=2.5, days=365)


def check(value: float) -> CrossCheck:
    """A check with a chosen value."""
    return replace(cross_check([], delta=1e-6, relation=Relation.ADD_REMOVE), pld=value)


def test_a_budget_names_unit_relation_delta_and_period() -> None:
    assert wording.budget(check(1.0), FOR_EVER, "person") == (
        "Of at most (8, 1e-06)-differential privacy per person under add/remove, for ever:"
        " (1.000, 1e-06) is spent, 7.000 of epsilon is left."
    )
    assert "under add/remove, within 365 days: nothing is spent, 2.500 of" in wording.budget(
        check(0.0), YEARLY, "record"
    )


@pytest.mark.parametrize(
    ("spent", "told", "left"),
    [(0.0001, "(0.001, 1e-06)", "2.499"), (1.2341, "(1.235, 1e-06)", "1.265"), (2.4999, "(2.500, 1e-06)", "0.000"),
     (2.5, "(2.500, 1e-06)", "0.000"), (2.6, "(2.600, 1e-06)", "0.000")],
)  # fmt: skip
def test_what_is_spent_is_rounded_up_and_what_is_left_down(spent: float, told: str, left: str) -> None:
    assert wording.pair(check(spent)) == told
    assert wording.left(check(spent), YEARLY) == left


def test_what_a_study_adds_is_told_and_so_is_a_ceiling_that_it_passes() -> None:
    fits = wording.budget(check(1.0), YEARLY, "record", after=check(2.0))
    assert fits.endswith("With the study (2.000, 1e-06) is spent and 0.500 left.")
    assert wording.budget(check(1.0), YEARLY, "record", after=check(2.501)).endswith(
        "With the study it would be (2.501, 1e-06), more than the ceiling."
    )


def test_a_release_in_brief() -> None:
    event = NoisyRelease(
        mechanism=Mechanism.GAUSSIAN, noise_multiplier=1.23456, sample_rate=0.1, sampler=Sampler.POISSON, count=300,
        kind=ContributionKind.GRADIENTS, relation=Relation.ADD_REMOVE, unit=Unit.PERSON,
    )  # fmt: skip
    assert wording.brief(event) == "300 noisy sums of gradients, noise 1.235, each person at 0.1"
    whole = replace(event, sample_rate=1.0, sampler=Sampler.ALL, count=1, kind=ContributionKind.UPDATES)
    assert wording.brief(whole) == "1 noisy sum of gradients in local training, noise 1.235, every person"
