"""A charged sweep costs the composition of every attempt, and its judgement is as private as it says."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant

from evaluation.table import coded_table
from privacy.events import NoisyRelease
from privacy.ledger import Ledger
from privacy.plan import PrivacyPlan
from protocol.errors import ApprovalError, BudgetError, InputError, StudyError
from protocol.keys import read_identity
from protocol.randomness import DeterministicRandom, SystemRandom
from protocol.terms import NoiseOrigin, Relation, Trust
from records.schema import Schema
from simulations.sweep.charged import (
    HELD_OUT,
    alone_at_a_site,
    attempt_events,
    charged_bench,
    paid_statement,
    planned_events,
    protected_units,
    sweep_statement,
)
from simulations.sweep.journal import Journal
from simulations.sweep.judgement import (
    CHARGED_MEASURES,
    judgement,
    judgement_norm,
    noisy_sum,
    one_record_each,
    reading,
)
from simulations.sweep.objective import Objective
from simulations.sweep.search import Search
from simulations.sweep.space import Space
from simulations.sweep.sweep import Sweep, run_sweep

NOISE = 5.0
KNOWN = CHARGED_MEASURES


def brute_force(events: list[NoisyRelease], *, delta: float) -> float:
    """Epsilon of events, each put one by one, as often as it happened, into Google's own accountant."""
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    for event in events:
        gaussian = dp_event.GaussianDpEvent(event.noise_multiplier)
        for _ in range(event.count):
            accountant.compose(dp_event.PoissonSampledDpEvent(event.sample_rate, gaussian))
    return accountant.get_epsilon(delta)


def plan(study, *, trials: int = 3, repeats: int = 1) -> Sweep:
    rates = ",".join(str(0.01 * (number + 1)) for number in range(trials))
    space = Space.read(choices=(f"training.learning_rate={rates}",), ranges=(), file=None)
    return Sweep(
        base=study.to_mapping(), space=space, search=Search.GRID, trials=trials, repeats=repeats, seed=0,
        objective=Objective.parse("accuracy", known=KNOWN),
    )  # fmt: skip


def opened(folder, study, **options):
    defaults = {"measure_name": "accuracy", "score_noise": NOISE, "device": "cpu"}
    return charged_bench(folder, study, **defaults | options)


def ledger_of(folder) -> Ledger:
    return Ledger.open(folder / "ledger.sqlite", key=read_identity(folder / "key.pem"), data_set="stays")


def test_the_total_is_the_composition_of_all_trials_and_not_of_one(tiny):
    study = tiny(training={"rounds": 2}, privacy={"epsilon": 2.0, "delta": 1e-5})
    trials = [study, tiny(training={"rounds": 2, "learning_rate": 0.1}, privacy={"epsilon": 2.0, "delta": 1e-5}),
              tiny(training={"rounds": 1}, privacy={"epsilon": 2.0, "delta": 1e-5})]  # fmt: skip
    events = planned_events(trials, score_noise=NOISE)
    claimed = sweep_statement(study, events, ())
    slow = brute_force([event for one in trials for event in attempt_events(one, score_noise=NOISE)], delta=1e-5)
    assert claimed.epsilon == pytest.approx(slow, rel=2e-3)
    assert claimed.delta == 1e-5
    # The broken twins: one trial alone, the trials without their judgements, and the study's own promise.
    single = sweep_statement(study, attempt_events(study, score_noise=NOISE), ()).epsilon
    unjudged = brute_force([event for one in trials for event in attempt_events(one, score_noise=NOISE)[:-1]],
                           delta=1e-5)  # fmt: skip
    assert single < 0.7 * slow
    assert unjudged < slow - 0.01
    assert study.privacy.epsilon < 0.7 * slow


def test_an_attempt_releases_a_whole_training_and_a_judgement(tiny):
    study = tiny(training={"rounds": 7}, federation={"sites": 4, "public_records": 400})
    single = alone_at_a_site(study)
    assert (single.federation.sites, single.federation.public_records) == (1, 100)
    *training, judged = attempt_events(study, score_noise=NOISE)
    assert sum(event.count for event in training) == 7
    assert {event.noise_multiplier for event in training} == {PrivacyPlan.from_study(single).noise_multiplier}
    assert (judged.noise_multiplier, judged.sample_rate, judged.count) == (NOISE, 1.0, 1)


@pytest.mark.parametrize("privacy", [{"epsilon": None, "noise_multiplier": 0.0}, {"noise": "deterministic"}])
def test_a_study_that_promises_nothing_is_not_charged_for(tiny, privacy):
    mapping = tiny().to_mapping()
    terms = {key: value for key, value in (mapping["privacy"] | privacy).items() if value is not None}
    study = type(tiny()).from_mapping(mapping | {"privacy": terms})
    with pytest.raises(StudyError, match="without a guarantee"):
        attempt_events(study, score_noise=NOISE)


def test_the_ledger_has_paid_for_all_of_it(tiny, site, tmp_path):
    folder, study = site(), tiny()
    sweep = plan(study, trials=2, repeats=2)
    with opened(folder, study) as bench, Journal(tmp_path / "j.jsonl", head=sweep.head(bench)) as journal:
        outcome = run_sweep(sweep, bench, journal)
        statement = paid_statement(study, journal)
    assert all(0.2 < score < 1.3 for trial in outcome.trials for score in trial.scores)
    planned = planned_events([sweep.study(t.values) for t in outcome.trials for _ in range(2)], score_noise=NOISE)
    assert statement.epsilon == pytest.approx(sweep_statement(study, planned, ()).epsilon)
    assert statement.private
    assert not statement.simulated
    with ledger_of(folder) as ledger:
        spent = ledger.spent(delta=1e-4, relation=Relation.ADD_REMOVE, trust=Trust.NONE, origin=NoiseOrigin.SYSTEM)
        assert spent.epsilon == pytest.approx(statement.epsilon)
        assert spent.steps == 4 * (3 + 1)
        assert {entry.hash for entry in ledger.entries()} >= set(statement.ledger_entries)


def test_an_attempt_is_paid_for_before_it_begins_and_counts_when_it_dies(tiny, site, tmp_path, monkeypatch):
    folder, study = site(), tiny()
    sweep = plan(study, trials=1)

    def dies(*_, **__):
        with ledger_of(folder) as ledger:  # already there when training begins
            assert sum(event["count"] for event in paid_events(path)) == 4
            assert len(ledger.entries()) == 3
        raise KeyboardInterrupt

    path = tmp_path / "j.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr("simulations.sweep.charged.simulate", dies)
        with opened(folder, study) as bench, Journal(path, head=sweep.head(bench)) as journal:  # noqa: SIM117 - one after the other
            with pytest.raises(KeyboardInterrupt):
                run_sweep(sweep, bench, journal)
    with opened(folder, study) as bench, Journal(path, head=sweep.head(bench)) as journal:
        outcome = run_sweep(sweep, bench, journal)
        statement = paid_statement(study, journal)
    assert len(outcome.trials) == 1
    assert statement.steps == 2 * (3 + 1)  # the attempt that died counts
    assert statement.epsilon > sweep_statement(study, attempt_events(study, score_noise=NOISE), ()).epsilon + 0.1


def paid_events(path) -> list[dict]:
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [event for line in lines if line["kind"] == "paid" for event in line["events"]]


def test_a_ceiling_stops_the_sweep_before_anything_is_released(tiny, site, tmp_path):
    folder, study = site(epsilon=1.5), tiny()
    sweep = plan(study, trials=3)
    path = tmp_path / "j.jsonl"
    with opened(folder, study) as bench, Journal(path, head=sweep.head(bench)) as journal:
        events = planned_events(sweep.left(journal), score_noise=NOISE)
        with pytest.raises(BudgetError, match="as a whole|would pass"):
            bench.account.check(events, relation=Relation.ADD_REMOVE)
        bench.account.check(events[:2], relation=Relation.ADD_REMOVE)
        with pytest.raises(BudgetError):  # and the ledger itself refuses what passes the ceiling
            run_sweep(sweep, bench, journal)
        assert len(list(journal.kind("run"))) == 1
    with ledger_of(folder) as ledger:
        spent = ledger.spent(delta=1e-4, relation=Relation.ADD_REMOVE, trust=Trust.NONE, origin=NoiseOrigin.SYSTEM)
        assert 0.9 < spent.epsilon <= 1.5


def test_the_policy_of_the_site_holds(tiny, site, tmp_path):
    folder, study = site(), tiny()
    policy = folder / "policy.toml"
    policy.write_text('epsilon = 50.0\ndelta = 1e-4\nfamilies = ["gan"]\n', "utf-8")
    sweep = plan(study, trials=1)
    with opened(folder, study) as bench, Journal(tmp_path / "j.jsonl", head=sweep.head(bench)) as journal:
        with pytest.raises(ApprovalError, match="model family 'vae'"):
            run_sweep(sweep, bench, journal)
        assert not list(journal.kind("paid"))
    policy.unlink()
    with pytest.raises(ApprovalError, match="no policy"), opened(folder, study):
        pass


def test_a_target_of_numbers_is_refused(tiny, site):
    numeric = tiny(schema={"target": "age"})
    with pytest.raises(InputError, match="classes of a target"), opened(site(), numeric):
        pass


def test_neither_the_journal_nor_its_head_says_anything_of_a_record(tiny, site, tmp_path):
    folder, study = site(), tiny()
    sweep = plan(study, trials=1)
    path = tmp_path / "j.jsonl"
    with opened(folder, study) as bench, Journal(path, head=sweep.head(bench)) as journal:
        run_sweep(sweep, bench, journal)
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert lines[0]["bench"] == {"mode": "charged", "site": "north", "score_noise": NOISE}
    assert lines[0]["trials"] == 1
    assert [set(line) for line in lines[1:]] == [
        {"kind", "trial", "values"},
        {"kind", "trial", "repeat", "events", "entries"},
        {"kind", "trial", "repeat", "measures"},  # no seconds: they tell how many records there are
    ]


def test_who_judges_is_decided_by_a_secret_coin_for_each(tiny, site):
    folder, study = site(records=3000), tiny()
    with opened(folder, study) as first, opened(folder, study) as second:
        assert abs(first.held_out.mean() - HELD_OUT) < 0.04
        assert 0.25 < (first.held_out != second.held_out).mean() < 0.4  # 0.32 where the coins are independent
        assert isinstance(first.random, SystemRandom)


@pytest.mark.parametrize("coin", [True, False])
def test_coins_that_all_fall_alike_are_no_error(tiny, site, coin):
    """What fails for some records and not for others would tell about them."""
    with opened(site(records=3), tiny(training={"rounds": 1})) as bench:
        alike = replace(bench, held_out=np.full(3, coin))
        found = alike.measure(tiny(training={"rounds": 1}), repeat=0)
    assert abs(found["accuracy"]) < 12 * NOISE / (HELD_OUT * 400)


def test_people_are_on_one_side_and_charged_as_people(tiny, site):
    people = tiny(schema={"person": "patient"}, privacy={"unit": "person"}, training={"rounds": 1})
    folder = site()
    rows = [f"p{number // 2},{number % 10},red,{number % 2}" for number in range(40)]
    (folder / "records.csv").write_text("\n".join(["patient,age,colour,ill", *rows]) + "\n", "utf-8")
    assert {event.unit.value for event in attempt_events(people, score_noise=NOISE)} == {"person"}
    with opened(folder, people) as bench:
        assert bench.held_out.shape == (20,)
        judged = bench.held_out[bench.records.units]
        assert (judged[::2] == judged[1::2]).all()  # both records of a person
        assert len(one_record_each(bench.records.units, judged)) == bench.held_out.sum()
        assert set(bench.measure(people, repeat=0)) == {"accuracy"}


def test_a_person_key_does_not_make_persons_the_unit(tiny, site):
    """Where records are promised something, each is judged by itself: one more moves the sum by one vector alone."""
    keyed = tiny(schema={"person": "patient"}, training={"rounds": 1})
    folder = site()
    rows = [f"p{number // 2},{number % 10},red,{number % 2}" for number in range(40)]
    (folder / "records.csv").write_text("\n".join(["patient,age,colour,ill", *rows]) + "\n", "utf-8")
    with opened(folder, keyed) as bench:
        assert bench.held_out.shape == (40,)
        units = protected_units(keyed, bench.records)
        assert units.tolist() == list(range(40))
        # By person, the second record of each would never judge: another one would take its place.
        assert len(one_record_each(units, bench.held_out[units])) == bench.held_out.sum()
        assert len(one_record_each(bench.records.units, np.ones(40, dtype=bool))) == 20


def table(codes) -> object:
    schema = Schema.from_mapping({
        "target": "kind",
        "columns": [
            {"name": "age", "kind": "integer", "lower": 0, "upper": 9},
            {"name": "kind", "kind": "categorical", "categories": ["a", "b", "c"], "missing": True},
        ],
    })  # fmt: skip
    return coded_table(schema, np.asarray(codes).reshape(-1, 2))


def drawn(count: int, *, seed: int):
    generator = np.random.default_rng(seed)
    age = generator.integers(0, 10, count)
    return np.stack([age, np.minimum(3, (age + generator.integers(0, 3, count)) // 3)], axis=1)


@pytest.mark.parametrize("name", CHARGED_MEASURES)
def test_one_record_more_adds_one_bounded_vector_and_changes_no_other(name):
    synthetic, held = table(drawn(300, seed=1)), drawn(60, seed=2)
    whole = judgement(name, synthetic, table(held))
    for row in range(0, 60, 6):
        rest = judgement(name, synthetic, table(np.delete(held, row, axis=0)))
        assert (rest == np.delete(whole, row, axis=0)).all()
    norms = np.linalg.norm(whole, axis=1)
    assert norms.max() == pytest.approx(judgement_norm(name))
    assert norms[held[:, 1] == 3].max() == 0.0  # the target is missing
    assert judgement_norm("balanced_accuracy") == math.sqrt(2)


def test_a_mean_would_have_no_such_bound():
    """The broken twin: dividing by the private count moves every other record's share."""
    right = judgement("accuracy", table(drawn(300, seed=1)), table(drawn(4, seed=2)))[:, 0]
    assert abs(right.mean() - right[:-1].mean()) != pytest.approx(abs(right[-1]) / 4)


def test_measures_are_read_from_sums():
    synthetic, held = table(drawn(300, seed=1)), drawn(500, seed=2)
    held = held[held[:, 1] < 3]
    right = judgement("accuracy", synthetic, table(held)).sum(axis=0)
    assert reading("accuracy", right, expected=len(held)) == pytest.approx(right[0] / len(held))
    both = judgement("balanced_accuracy", synthetic, table(held))
    recalls = [both[held[:, 1] == label, 3:].sum() / (held[:, 1] == label).sum() for label in range(3)]
    assert reading("balanced_accuracy", both.sum(axis=0), expected=1.0) == pytest.approx(np.mean(recalls))
    assert both[:, 3:].sum() == right[0]


def test_nobody_to_judge_and_nothing_learnt_are_no_error():
    few, none = table([[1, 0], [2, 0]]), table(np.empty((0, 2), dtype=np.int64))
    assert judgement("accuracy", few, none).shape == (0, 1)
    assert judgement("accuracy", none, table([[1, 0], [1, 2]])).sum() == 1.0
    assert judgement("accuracy", few, table([[1, 0], [1, 2]])).sum() == 1.0


@pytest.mark.parametrize("name", CHARGED_MEASURES)
def test_the_noise_of_a_judgement_is_what_is_charged_for(name):
    width = 1 if name == "accuracy" else 6
    rows = np.zeros((3, width))
    random = DeterministicRandom(7)
    drawn = np.concatenate([noisy_sum(rows, expected=100.0, noise=NOISE, random=random) for _ in range(1500)])
    wanted = NOISE * judgement_norm(name)
    spread = drawn.std()
    margin = 4 * wanted / math.sqrt(2 * len(drawn))
    assert abs(spread - wanted) < margin
    assert abs(spread - wanted * 2 / 3) > margin  # and a wrong scale would have been noticed
    assert abs(spread - wanted * 3 / 2) > margin


@pytest.mark.parametrize("name", CHARGED_MEASURES)
def test_how_noisy_a_score_is_is_told_beforehand(tiny, site, name):
    with opened(site(), tiny(), measure_name=name) as bench:
        told = bench.deviation
    width, expected, random = (1 if name == "accuracy" else 4), HELD_OUT * 400, DeterministicRandom(3)
    counts = np.tile([[1.0] if name == "accuracy" else [0.5, 0.5, 0.25, 0.25]], (80, 1))
    read = [
        reading(name, noisy_sum(counts, expected=expected, noise=NOISE, random=random), expected=expected)
        for _ in range(600)
    ]
    assert width == counts.shape[1]
    assert np.std(read) == pytest.approx(told, rel=0.25)


def test_a_person_judges_once():
    units = np.array([0, 1, 0, 2, 2, 1])
    coins = np.array([True, False, True])
    rows = one_record_each(units, coins[units])
    assert rows.tolist() == [0, 3]
    assert len(set(units[rows])) == len(rows)
