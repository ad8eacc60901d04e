"""Every broken twin is caught by the test that is there for it, and the honest twin by none.

All are audited on one study, and each once more on another one in turns; nightly, all on all.
"""

import os
from typing import Any

import pytest

from client.training import Trainer
from privacy.mechanisms.gaussian import GaussianMechanism
from privacy.plan import PrivacyPlan
from privacy.sampling import UnitIndex
from protocol.randomness import SystemRandom
from protocol.study import Study
from simulations.audit.mechanism import catching
from simulations.audit.mechanism.audit import audit_twin, catch_mutants, claim_of
from simulations.audit.mechanism.mutants import CONTROL, MUTANTS, mutants_of
from simulations.audit.mechanism.twin import HONEST

NIGHTLY = os.environ.get("CLOISTER_HYPOTHESIS") == "nightly"
SCHEMA = {
    "person": "who",
    "columns": [
        {"name": "age", "kind": "integer", "lower": 20, "upper": 29},
        {"name": "colour", "kind": "categorical", "categories": ["red", "green", "blue"]},
        {"name": "ill", "kind": "boolean"},
    ],
}
# As many counts as there is room for canaries.
WIDE = SCHEMA | {"columns": [{"name": "age", "kind": "integer", "lower": 1, "upper": 240}, *SCHEMA["columns"][1:]]}
OPTIONS: dict[str, dict[str, Any]] = {"vae": {"latent": 2}, "gan": {"critic_widths": [12], "generator_widths": [4]}}
# Part of the name of the test that must be among those that catch it.
CAUGHT_BY = {
    "noise times 0.5": "lower bound",
    "noise missing on some tensors": "planned size",
    "clip missing": "at most the clip norm",
    "clip per layer instead of per unit": "at most the clip norm",
    "clip after averaging": "exactly one clip norm",
    "wrong sampling rate": "public rate",
    "shuffle instead of Poisson": "vary like those of independent coins",
    "the same noise in every round": "two contributions",
    "noise from a seed": "two contributions",
    "skipped empty batches": "planned size",
    "sampling rate that depends on the number of records": "public rate",
    "layers that mix records": "who else",
    "uncharged restart": "ledger",
    "contributions charged to nobody": "ledger",
    "no noise at all": "lower bound",
    "more noise than was said": "planned size",
    "clip per record instead of per person": "at most the clip norm",
    "shares that forget drop-outs and colluders": "planned size",
    "statistics charged to nobody": "ledger",
    "statistics without a clip": "at most the clip norm",
    "bound of statistics too small": "at most the clip norm",
}
# The mutants of training that the audit's contract names; seeded noise comes in two kinds.
NAMED = 13


def study_of(*, family: str, trust: str, strategy: str, unit: str) -> Study:
    federation = {"sites": 5, "dropouts": 1, "colluders": 1} if trust == "sum" else {"sites": 2}
    statistics = strategy == "statistics"
    return Study.from_mapping(
        {
            "study": {"name": "audited"},
            "schema": WIDE if statistics else SCHEMA,
            "model": {"family": family, "options": OPTIONS[family]},
            "training": {"rounds": 1 if statistics else 50, "strategy": strategy, "local_steps": 3},
            "privacy": {
                "noise_multiplier": 1.5, "delta": 1e-5, "sample_rate": 1.0 if statistics else 0.2, "trust": trust,
                "unit": unit,
            },
            "federation": federation | {"public_records": 300},
        }
    )  # fmt: skip


def production_code() -> tuple[object, ...]:
    """What broken twins replace the like of."""
    return (
        Trainer.gradient_sum,
        Trainer.statistics_sum,
        PrivacyPlan.mechanism,
        GaussianMechanism.privatise,
        UnitIndex.poisson_sample,
    )


REAL = production_code()
STUDIES = [
    {"family": "gan", "trust": "none", "strategy": "gradients", "unit": "person"},
    {"family": "vae", "trust": "none", "strategy": "gradients", "unit": "record"},
    {"family": "gan", "trust": "sum", "strategy": "gradients", "unit": "record"},
    {"family": "vae", "trust": "none", "strategy": "updates", "unit": "person"},
    {"family": "vae", "trust": "sum", "strategy": "updates", "unit": "record"},
    {"family": "vae", "trust": "none", "strategy": "statistics", "unit": "person"},
    {"family": "vae", "trust": "sum", "strategy": "statistics", "unit": "record"},
]


def names_for(choice: dict[str, str]) -> list[str]:
    """The broken twins that a study is for: all that apply on the first, a turn of them on the others."""
    applied = {study["family"] + study["trust"] + study["strategy"]: names_of(study) for study in STUDIES[1:]}
    if NIGHTLY or choice == STUDIES[0]:
        return names_of(choice)
    own = choice["family"] + choice["trust"] + choice["strategy"]
    turns = [[kind for kind, names in applied.items() if mutant.name in names] for mutant in MUTANTS]
    return [
        mutant.name
        for number, (mutant, kinds) in enumerate(zip(MUTANTS, turns, strict=True))
        if kinds and kinds[number % len(kinds)] == own
    ]


def names_of(choice: dict[str, str]) -> list[str]:
    return [mutant.name for mutant in mutants_of(study_of(**choice))]


@pytest.mark.slow
@pytest.mark.parametrize("choice", STUDIES, ids=lambda choice: "-".join(choice.values()))
def test_every_broken_twin_is_caught_by_the_test_that_is_there_for_it(choice: dict[str, str]) -> None:
    names = names_for(choice)
    caught = catch_mutants(study_of(**choice), random=SystemRandom(), names=names)
    assert [each.mutant for each in caught] == names
    for each in caught:
        assert each.problem == ""
        assert any(CAUGHT_BY[each.mutant] in test for test in each.tests), f"{each.mutant}: {each.tests}"
        assert bool(each.control) is (each.mutant == CONTROL.name), "what it showed is kept as the positive control"
    assert production_code() == REAL, "what broken twins replace, they replace in themselves alone"


@pytest.mark.parametrize("choice", STUDIES, ids=lambda choice: "-".join(choice.values()))
def test_the_honest_twin_is_not_caught(choice: dict[str, str]) -> None:
    study = study_of(**choice)

    def tests() -> set[str]:
        found = audit_twin(study, claim_of(study), name="honest", parts=HONEST, random=SystemRandom())
        assert found.problem == ""
        return set(found.tests)

    # By chance one audit in a hundred or so raises something; two in a row do not raise the same.
    first = tests()
    assert not first or not first & tests()


def test_all_broken_twins_are_audited_on_the_first_study_or_another_one() -> None:
    names = [names_for(choice) for choice in STUDIES]
    assert set().union(*names) == {mutant.name for mutant in MUTANTS} == set(CAUGHT_BY)
    assert len(names[0]) >= NAMED
    # What counts as caught at run time includes what is demanded here.
    assert all(any(name in test for test in catching.CAUGHT_BY[mutant]) for mutant, name in CAUGHT_BY.items())
    assert all(names), "no study without a turn"
