"""``cloister sweep``: tune a study on records that may be looked at, or pay for looking."""

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cli.coordinator.signing import PLACEHOLDER_PURPOSE
from cli.output import check_output, new_file
from cli.result import print_json
from cli.rounds import announce
from cli.sample import open_release
from cli.simulate import check_device
from cli.site.folder import check_account, check_site
from cli.study import warn_of_drafts
from cli.sweep import options
from cli.sweep.result import comments, show, to_mapping
from protocol.errors import InputError

if TYPE_CHECKING:
    from protocol.study import Study
    from simulations.scenario import Scenario
    from simulations.sweep.bench import Bench
    from simulations.sweep.journal import Journal
    from simulations.sweep.objective import Objective
    from simulations.sweep.search import Search
    from simulations.sweep.sweep import Sweep

EXAMPLES = (
    "\b\nExamples:\n"
    '  cloister sweep breast_cancer --public "embedded in scikit-learn" --set training.learning_rate=0.01,0.03\n'
    "  cloister sweep study.toml --synthetic release --range privacy.clip_norm=0.3:3:log --trials 20\n"
    "  cloister sweep study.toml --charged --site north --set training.rounds=100,300 --objective accuracy\n"
    "\b\nWhat each way promises and costs: docs/tuning.md."
)
_TWO_WAYS = (
    'Tune on public records (--public "why they are public"), or on rows drawn from a release (--synthetic RELEASE); '
    "--charged pays for every trial from a site's own ledger."
)
_TRIALS = 20
_MOST_ROWS = 50_000
_MUCH_NOISE = 0.05


@dataclass(frozen=True, kw_only=True)
class _Way:
    """Which records are tuned on, as the user said."""

    public: str | None
    synthetic: Path | None
    charged: bool
    data: str | None
    rows: int | None
    site: Path | None
    sites: int | None
    partition: str | None
    score_noise: float | None
    seed: int
    device: str


@dataclass(frozen=True, kw_only=True)
class _Place:
    """The study's own file, and the winner's.

    ``base`` is the study as its file has it, ``folder`` that file's folder, or None for a ready study.
    """

    base: dict[str, Any]
    folder: Path | None
    output: Path
    force: bool


def sweep(
    study: options.StudyArgument,
    *,
    public: options.PublicOption = None,
    synthetic: options.SyntheticOption = None,
    charged: options.ChargedOption = False,
    data: options.DataOption = None,
    rows: options.RowsOption = None,
    site: options.SiteOption = None,
    score_noise: options.ScoreNoiseOption = None,
    choices: options.ChoicesOption = None,
    ranges: options.RangesOption = None,
    space: options.SpaceOption = None,
    search: options.SearchOption = None,
    trials: options.TrialsOption = None,
    objective: options.ObjectiveOption = None,
    repeats: options.RepeatsOption = 1,
    sites: options.SitesOption = None,
    partition: options.PartitionOption = None,
    seed: options.SeedOption = 0,
    output: options.OutputOption = Path("best.toml"),
    force: options.ForceOption = False,
    yes: options.YesOption = False,
    device: options.DeviceOption = "cpu",
    json_output: options.JsonOutputOption = False,
) -> None:
    """Try values of a study's keys, and write the best as a study file that says how it was tuned.

    Choosing by a look at private records is itself a release about them. So say which records may be looked at:
    --public, --synthetic or --charged. Every trial is kept in a journal: the same command goes on after a stop.
    """
    way = _Way(public=public, synthetic=synthetic, charged=charged, data=data, rows=rows, site=site, sites=sites,
               partition=partition, score_noise=score_noise, seed=seed, device=device)  # fmt: skip
    _check_way(way)
    check_output(output, force=force)
    check_device(device)
    scenario, base, folder = _subject(study)
    plan = _plan(scenario.study, choices or [], ranges or [], space, search, trials, objective, repeats, way)
    with ExitStack() as stack:
        bench = _bench(way, scenario, plan.objective, stack)
        place = _Place(base=base, folder=folder, output=output, force=force)
        _go(plan, bench, scenario.study, place, yes=yes, as_json=json_output)


def _check_way(way: _Way) -> None:
    """Refuse all but one way, and options of another one."""
    ways = [name for name, given in (("--public", way.public is not None), ("--synthetic", way.synthetic is not None),
            ("--charged", way.charged)) if given]  # fmt: skip
    if len(ways) != 1:
        told = " and ".join(ways) if ways else "No word on what the records are"
        raise InputError(f"{told}: a sweep looks at records in exactly one way.", remedy=_TWO_WAYS)
    belongs = {
        "--data": (way.data, ("--public",)),
        "--rows": (way.rows, ("--synthetic",)),
        "--score-noise": (way.score_noise, ("--charged",)),
        "--sites": (way.sites, ("--public", "--synthetic")),
        "--partition": (way.partition, ("--public", "--synthetic")),
    }
    for option, (value, allowed) in belongs.items():
        if value is not None and ways[0] not in allowed:
            remedy = "The site's folder says where its records are." if way.charged else f"It goes with {allowed[0]}."
            raise InputError(f"{option} does not go with {ways[0]}.", remedy=remedy)


def _subject(study: str) -> "tuple[Scenario, dict[str, Any], Path | None]":
    """Read the study: with its records, as its file has it, and the folder from which that names its schema."""
    from protocol.study import Study
    from simulations.scenario import Scenario
    from simulations.sweep.winner import study_mapping

    if study.endswith(".toml") or "/" in study:
        own = Study.from_toml(study)
        warn_of_drafts(Path(study))
        scenario = Scenario(study=own, sites={}, file="", partition="iid", source="files")
        return scenario, study_mapping(Path(study)), Path(study).parent
    scenario = Scenario.ready(study)
    return scenario, scenario.study.to_mapping(), None


def _plan(
    study: "Study",
    choices: list[str],
    ranges: list[str],
    file: Path | None,
    search: str | None,
    trials: int | None,
    objective: str | None,
    repeats: int,
    way: _Way,
) -> "Sweep":
    """Read what is to be tried, and refuse what cannot be, before any record is read."""
    from simulations.sweep.judgement import CHARGED_MEASURES
    from simulations.sweep.objective import Objective, known_measures, usual_measure
    from simulations.sweep.search import Search, check_library, count_trials
    from simulations.sweep.space import Space
    from simulations.sweep.sweep import Sweep

    space = Space.read(choices=choices, ranges=ranges, file=file)
    chosen = _search(search, default=Search.RANDOM if space.has_ranges else Search.GRID)
    check_library(chosen)
    if way.charged and chosen is Search.BAYESIAN:
        raise InputError(
            "A charged sweep is not Bayesian: its whole cost is told before its first trial.",
            remedy="Use --search grid or random.",
        )
    if study.model.init is not None:
        raise InputError("A study that starts from a release is not tuned.", remedy="Leave [model.init] out of it.")
    known = CHARGED_MEASURES if way.charged else known_measures(images="image" in study.schema)
    judged = Objective.parse(objective or ("accuracy" if way.charged else usual_measure(study.schema)), known=known)
    if way.charged and len(judged.weights) > 1:
        raise InputError(
            f"A charged sweep has one measure, not {judged}.", remedy="Name accuracy or balanced_accuracy."
        )
    plan = Sweep(
        base=study.to_mapping(),
        space=space,
        search=chosen,
        trials=count_trials(space, chosen, trials, default=_TRIALS),
        repeats=repeats,
        seed=way.seed,
        objective=judged,
    )
    plan.check()
    return plan


def _search(name: str | None, *, default: "Search") -> "Search":
    from simulations.sweep.search import Search

    if name is not None and name not in list(Search):
        raise InputError(f"--search is {name!r}.", remedy=f"Use {', '.join(Search)}.")
    return default if name is None else Search(name)


def _bench(way: _Way, scenario: "Scenario", objective: "Objective", stack: ExitStack) -> "Bench":
    """Open the records of the way that the user chose, and no others."""
    from simulations.sweep.bench import public_bench, synthetic_bench
    from simulations.sweep.charged import SCORE_NOISE, charged_bench

    study = scenario.study
    if way.charged:
        folder = way.site or Path()
        check_site(folder)
        check_account(folder)
        noise = SCORE_NOISE if way.score_noise is None else way.score_noise
        measure = next(iter(objective.weights))
        opened = charged_bench(folder, study, measure_name=measure, score_noise=noise, device=way.device)
        return stack.enter_context(opened)
    if way.synthetic is not None:
        rows = way.rows or min(study.federation.public_records, _MOST_ROWS)
        return synthetic_bench(
            study, open_release(way.synthetic, way.device), rows=rows, scheme=way.partition, sites=way.sites,
            seed=way.seed, objective=objective, device=way.device,
        )  # fmt: skip
    return public_bench(
        scenario, why=way.public or "", data=way.data, scheme=way.partition, sites=way.sites, seed=way.seed,
        objective=objective, device=way.device,
    )  # fmt: skip


def _consent(plan: "Sweep", bench: "Bench", study: "Study", journal: "Journal", *, yes: bool) -> None:
    """Say what the trials that are left will cost, refuse what the ceilings do not allow, and ask."""
    from simulations.sweep.charged import ChargedBench, planned_events, sweep_statement

    if not isinstance(bench, ChargedBench):
        return
    left = plan.left(journal)
    if not left:
        return
    events = planned_events(left, score_noise=bench.score_noise)
    bench.account.check(events, relation=study.privacy.relation)
    announce(f"{len(left)} trainings: {sweep_statement(study, events, ()).headline()}")
    announce(f"The ledger of site {bench.site} pays for each before it begins; one that is stopped counts.")
    spread = f"about {bench.deviation:.3f}" if bench.deviation < _MUCH_NOISE else f"{bench.deviation:.2f}, much"
    announce(f"Every score carries noise with a standard deviation of {spread}; --score-noise sets it.")
    if not (yes or typer.confirm("Pay for them?", err=True)):
        sys.stderr.write("Nothing was paid, and no trial made.\n")
        raise typer.Exit(1)


def _go(plan: "Sweep", bench: "Bench", study: "Study", place: _Place, *, yes: bool, as_json: bool) -> None:
    """Make the trials, write the winner, and show the table."""
    from simulations.sweep.charged import paid_statement
    from simulations.sweep.journal import Journal
    from simulations.sweep.sweep import run_sweep
    from simulations.sweep.winner import tuning_note, winner_text

    output = place.output
    trials_file = output.with_name(f"{output.stem}.trials.jsonl")
    with Journal(trials_file, head=plan.head(bench)) as journal:
        _consent(plan, bench, study, journal, yes=yes)
        outcome = run_sweep(plan, bench, journal, announce=announce)
        statement = paid_statement(study, journal) if bench.charged else None
    text = winner_text(
        place.base,
        outcome.best.values,
        note=tuning_note(plan, outcome, bench),
        purpose_is_written=study.purpose.strip() not in ("", PLACEHOLDER_PURPOSE),
        comments=comments(plan, outcome, statement),
        base=place.folder,
        output=output,
    )
    with new_file(output, force=place.force) as part:
        part.write_text(text, encoding="utf-8")
    if as_json:
        print_json(to_mapping(plan, outcome, bench, output, trials_file, statement))
        return
    show(plan, outcome, bench, statement)
    sys.stdout.write(f"\nWritten: {output}; every trial: {trials_file}. Next: cloister study check {output}\n")
