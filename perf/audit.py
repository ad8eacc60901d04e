"""What audits can show, and what they cost: ``python -m perf.audit [--json] [--audits N]``.

The study has the size of the census scenario: eleven columns with 103 categories, ten sites of 3,200 records, 300
rounds at a sample rate of 0.1, delta 1e-6, a variational auto-encoder of 6,006 shared weights, gradients with local
noise.

``per_step_eps4``, ``per_step_eps1``
    Largest lower bound of an audit of the mechanism over the claimed epsilon. The audit ends when its number of
    canaries suffices or the budget is over (``--budget4``, ``--budget1``).
``one_run_eps4``
    The same of one run of the whole study with 1,000 canaries by f-DP: the median of nine runs, whose least is
    ``one_run_eps4_least``. Its ``_seconds`` are of one run.
``mutants_caught``, ``mutants``, ``mutant_seconds``
    Broken twins that fail a test that is about their defect, of how many, and the wall time of all together. Those
    that need a secure sum or protected persons are twins of a smaller study of five sites that has both.
``false_alarm_rate``, ``false_alarms``, ``audits``
    QUICK audits of the mechanism of an honest twin in which anything is raised, and how many were made: of the size
    at which broken twins are audited, of four studies in turns (both families, strategies, trust modes and units).
    Nothing is said of longer audits of the mechanism, nor of audits of a model, a release or a channel.
    ``false_alarm_high`` is the rate's upper limit at 95 per cent confidence. They run in ``--processes`` processes.

Keys in ``_seconds`` are wall time, those in ``_processor_seconds`` do not depend on what else the machine does.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch

from privacy.audit.intervals import Side, clopper_pearson
from protocol.errors import InputError
from protocol.randomness import SystemRandom
from protocol.study import Study
from simulations.audit.mechanism.assessment import assess
from simulations.audit.mechanism.audit import Caught, audit_twin, catch_mutants, claim_of, collect
from simulations.audit.mechanism.mutants import MUTANTS
from simulations.audit.mechanism.twin import HONEST
from simulations.audit.model.audit import claimed_steps
from simulations.audit.model.one_run import one_run_attempt, one_run_lower_bound

CARDINALITIES = (16, 7, 16, 16, 7, 14, 6, 5, 2, 12, 2)
ONE_RUN_CANARIES, ONE_RUNS = 1000, 9
AUDITED: tuple[Mapping[str, str], ...] = (
    {"family": "vae", "trust": "none", "strategy": "gradients", "unit": "record"},
    {"family": "vae", "trust": "none", "strategy": "updates", "unit": "person"},
    {"family": "gan", "trust": "sum", "strategy": "gradients", "unit": "person"},
    {"family": "vae", "trust": "sum", "strategy": "updates", "unit": "record"},
)
"""The studies whose honest twins are audited in turns."""

Figures = dict[str, float]


def study(
    *, epsilon: float, family: str = "vae", trust: str = "none", strategy: str = "gradients", unit: str = "record"
) -> Study:
    """The study that is audited."""
    columns = [
        {"name": f"column-{number}", "kind": "categorical", "categories": [f"code-{code}" for code in range(size)]}
        for number, size in enumerate(CARDINALITIES)
    ]
    sites: dict[str, int] = {"sites": 5, "dropouts": 1, "colluders": 1} if trust == "sum" else {"sites": 10}
    return Study.from_mapping(
        {
            "study": {"name": "audited", "purpose": "Measure audits."},
            "schema": {"columns": columns} | ({"person": "who"} if unit == "person" else {}),
            "model": {"family": family},
            "training": {"rounds": 300, "strategy": strategy, "local_steps": 5},
            "privacy": {"epsilon": epsilon, "delta": 1e-6, "sample_rate": 0.1, "trust": trust, "unit": unit},
            "federation": sites | {"public_records": 3_200 * sites["sites"]},
        }
    )


def per_step(*, epsilon: float, budget_seconds: float) -> Figures:
    """Lower bound over epsilon, step by step, and what it took."""
    name = f"per_step_eps{epsilon:g}"
    audited = study(epsilon=epsilon)
    with _timed(name) as figures:
        claim = claim_of(audited)
        evidence = collect(audited, random=SystemRandom(), budget_seconds=budget_seconds)
        bounds = assess(evidence, audited, claim, compose_all=True).bounds
        figures[name] = max(bound.lower_bound for bound in bounds) / claim.epsilon
    return figures | {f"{name}_canaries": float(sum(len(bound.present) for bound in bounds))}


def one_run() -> Figures:
    """Lower bound over epsilon of one run of the whole study."""
    audited, name = study(epsilon=4.0), "one_run_eps4"
    claimed = claimed_steps(audited, None)
    found = []
    with _timed(name) as figures:
        for _ in range(ONE_RUNS):
            attempt = one_run_attempt(audited, canaries=ONE_RUN_CANARIES, random=SystemRandom())
            found.append(one_run_lower_bound(attempt, claimed) / claimed.claim.epsilon)
    each = {key: value / ONE_RUNS for key, value in figures.items()}
    return {name: median(found), f"{name}_least": min(found)} | each


def mutants() -> Figures:
    """How many broken twins are caught, and what it takes."""
    with _timed("mutant") as figures:
        caught = list(catch_mutants(study(epsilon=4.0), random=SystemRandom()))
        others = [mutant.name for mutant in MUTANTS if mutant.name not in {each.mutant for each in caught}]
        caught += catch_mutants(study(epsilon=4.0, **AUDITED[2]), random=SystemRandom(), names=others)
    _tell_missed(caught)
    return {"mutants_caught": float(sum(bool(each.tests) for each in caught)), "mutants": float(len(caught))} | figures


def false_alarms(*, audits: int, processes: int) -> Figures:
    """How often the QUICK audit of the mechanism of an honest twin raises anything."""
    with _timed("false_alarm") as figures:
        if processes == 1:
            raised = [honest_audit(number) for number in range(audits)]
        else:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(processes, mp_context=context, initializer=_one_thread) as pool:
                raised = list(pool.map(honest_audit, range(audits)))
    _tell_missed([each for each in raised if each.problem])
    # The processes' own time, not that of the one that waits for them.
    figures["false_alarm_processor_seconds"] = sum(each.processor_seconds for each in raised)
    alarms = sum(bool(each.tests or each.problem) for each in raised)
    high = clopper_pearson(alarms, audits, confidence=0.95, side=Side.UPPER).high
    rates = {"false_alarm_rate": alarms / audits, "false_alarms": float(alarms), "false_alarm_high": high}
    return rates | {"audits": float(audits)} | figures


def honest_audit(number: int) -> Caught:
    """Audit an honest twin as broken ones are audited; what it raises is a false alarm."""
    audited = study(epsilon=4.0, **AUDITED[number % len(AUDITED)])
    return audit_twin(audited, claim_of(audited), name=f"honest {number}", parts=HONEST, random=SystemRandom())


def measure(*, audits: int, processes: int, budget_seconds: tuple[float, float]) -> Figures:
    """All figures."""
    parts: list[Callable[[], Figures]] = [
        lambda: per_step(epsilon=4.0, budget_seconds=budget_seconds[0]),
        lambda: per_step(epsilon=1.0, budget_seconds=budget_seconds[1]),
        one_run,
        mutants,
    ]
    if audits:
        parts.append(lambda: false_alarms(audits=audits, processes=processes))
    result: Figures = {}
    for part in parts:
        result |= part()
    return result


@contextmanager
def _timed(name: str) -> Iterator[Figures]:
    """Time a block, in wall and processor time; yields figures that gain both at its end."""
    figures: Figures = {}
    begin, used = time.monotonic(), time.process_time()
    yield figures
    figures[f"{name}_seconds"] = time.monotonic() - begin
    figures[f"{name}_processor_seconds"] = time.process_time() - used


def _tell_missed(caught: Sequence[Caught]) -> None:
    """Name what went wrong; nothing is written where nothing did."""
    for each in caught:
        if not each.tests:
            sys.stderr.write(f"{each.mutant}: {each.problem or 'not caught'}\n")


def _one_thread() -> None:
    torch.set_num_threads(1)


def main(arguments: list[str] | None = None) -> int:
    """Parse, measure, write; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m perf.audit", description="What audits show, and what they cost.")
    parser.add_argument("--json", action="store_true", help="write one flat JSON object")
    parser.add_argument("--audits", type=int, default=20, help="honest audits for the rate of false alarms (20)")
    parser.add_argument("--processes", type=int, default=2, help="processes for the honest audits (2)")
    parser.add_argument("--budget4", type=float, default=45.0, help="seconds for the bound at epsilon 4 (45)")
    parser.add_argument("--budget1", type=float, default=150.0, help="seconds for the bound at epsilon 1 (150)")
    options = parser.parse_args(arguments)
    if options.audits < 0 or options.processes < 1:
        raise InputError(f"{options.audits} audits, {options.processes} processes.", remedy="Use positive numbers.")
    _one_thread()
    result: dict[str, Any] = measure(
        audits=options.audits, processes=options.processes, budget_seconds=(options.budget4, options.budget1)
    )
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return 0
    for name, value in result.items():
        sys.stdout.write(f"{name:<36}{value:>12.4f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
