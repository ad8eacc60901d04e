"""Tables and pictures: what they show is what the runs hold."""

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
from scipy import stats

from perf.results.report.page import DOCS, page, pictures, write
from perf.results.report.plots import picture
from perf.results.report.published import QUOTED
from perf.results.report.summary import Estimate, cells
from perf.results.report.tables import results_table, site_table, words
from perf.results.result import Promise, Result, keep, kept
from perf.results.sets import SETS
from perf.results.setting import Among, Setting
from protocol.terms import Trust

PROMISE = Promise(epsilon=0.999, delta=1e-6, unit="record", relation="add_remove", accountant="PLD", private=True)


def result(*, auroc, system="vae", promise=PROMISE, extra=None, **fields):
    """An invented run, for tables of these tests alone."""
    setting = Setting(data_set="adult", system=system, **fields)
    measures = {"auroc": auroc, "tvd2": 0.1} | (extra or {})
    return Result(
        setting=setting, measures=measures, promise=promise, seconds=7.0, peak_mb=99.0, machine="none", versions={}
    )


def test_the_interval_is_student_s():
    numbers = [0.4, 0.5, 0.9, 0.3]
    low, high = stats.ttest_1samp(numbers, 0).confidence_interval(0.95)
    estimate = Estimate.of(numbers)
    assert (estimate.mean - estimate.half_width, estimate.mean + estimate.half_width) == pytest.approx((low, high))
    assert math.isnan(Estimate.of([0.5]).half_width)


def test_seeds_of_a_cell_are_averaged_and_cells_are_not_mixed():
    found = cells(
        [
            result(auroc=auroc, epsilon=epsilon, seed=seed)
            for epsilon, auroc, seed in [(1.0, 0.7, 1), (1.0, 0.8, 0), (10.0, 0.9, 0)]
        ]
    )
    assert [cell.estimate("auroc").mean for cell in found] == pytest.approx([0.75, 0.9])
    assert [run.setting.seed for run in found[0].runs] == [0, 1]


def test_a_table_says_what_was_measured_and_promises_nothing_without_noise():
    open_promise = Promise(**(vars(PROMISE) | {"private": False}))
    text = results_table(
        cells(
            [
                result(auroc=0.9, system="real", promise=None),
                result(auroc=0.8, epsilon=1.0),
                result(auroc=0.6, epsilon=1.0, seed=1),
                result(auroc=0.85, promise=open_promise),
            ]
        )
    )
    lines = text.splitlines()
    assert lines[2].startswith("| real rows | - | - | .900 |")
    assert lines[3].startswith("| `vae`, pooled | 1 | 1 | .700 ± 1.271 | .100 ± .000 | 7 | 99 | 2 |")
    assert lines[4].startswith("| `vae`, pooled, without privacy | - | 1 | .850 |")


def test_the_weakest_promise_of_a_cell_counts():
    weak = Promise(**(vars(PROMISE) | {"private": False}))
    cell = cells([result(auroc=0.8, epsilon=1.0), result(auroc=0.8, epsilon=1.0, seed=1, promise=weak)])[0]
    assert not cell.promise.private


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"system": "mst", "epsilon": 1.0}, "MST, central"),
        ({"system": "vae", "sites": 10}, "`vae`, federated, without privacy"),
        ({"system": "vae", "sites": 10, "epsilon": 1.0}, "`vae`, local noise"),
        (
            {"system": "vae", "sites": 10, "epsilon": 1.0, "trust": Trust.SUM, "dropouts": 2},
            "`vae`, shared noise (2 out, 0 collude)",
        ),
        (
            {"system": "vae", "sites": 10, "epsilon": 1.0, "among": Among.ALONE, "partition": "dirichlet:0.5"},
            "`vae`, each site alone, mean, dirichlet:0.5",
        ),
    ],
)
def test_a_cell_is_told_in_words(fields, text):
    assert words(Setting(data_set="adult", **fields)) == text


def test_sites_have_a_table_of_their_own():
    found = cells([result(auroc=0.8, epsilon=1.0, extra={"auroc@north": 0.7, "auroc@south": 0.65})])
    assert site_table(found).splitlines()[-1] == "| `vae`, pooled | 1 | .700 | .650 |"
    assert site_table(cells([result(auroc=0.8, epsilon=1.0)])) == ""


def test_a_picture_is_well_formed_always_alike_and_names_every_series():
    found = cells([result(auroc=0.8, epsilon=e, sites=s) for e in (1.0, 10.0) for s in (1, 10)])
    text = picture("adult", found)
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314  # our own text
    assert "vae, pooled" in text
    assert "vae, local noise, 10" in text
    assert text == picture("adult", found)


def test_nothing_is_drawn_without_an_epsilon():
    assert picture("adult", cells([result(auroc=0.8)])) == ""


def test_page_and_pictures_are_written_of_the_runs_that_are_there(tmp_path):
    keep(result(auroc=0.8125, epsilon=1.0), folder=tmp_path / "runs")
    files = write(docs=tmp_path / "docs", runs=tmp_path / "runs")
    text = (tmp_path / "docs" / "results.md").read_text()
    assert "## adult\n" in text
    assert ".812" in text
    assert "## cardio" not in text
    assert {path.name for path in files} == {"results.md", "adult.svg"}


def test_figures_of_others_are_of_known_sets_and_name_their_source():
    assert {quoted.data_set for quoted in QUOTED} <= set(SETS)
    assert all(quoted.source and quoted.promise for quoted in QUOTED)


@pytest.mark.skipif(not (DOCS / "results.md").exists(), reason="no results were made yet")
def test_the_page_in_the_documentation_is_that_of_its_runs():
    results = kept()
    assert (DOCS / "results.md").read_text(encoding="utf-8") == page(results), "Run make results."
    for name, text in pictures(results).items():
        assert Path(DOCS / "results" / name).read_text(encoding="utf-8") == text, "Run make results."
