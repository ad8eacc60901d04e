"""docs/results.md: every run that is kept, as tables and pictures."""

from collections.abc import Sequence
from pathlib import Path

from perf.results.judges import FEWEST_ROWS
from perf.results.report.plots import picture
from perf.results.report.summary import Cell, cells
from perf.results.report.tables import quoted_table, results_table, site_table
from perf.results.result import FOLDER, Result, kept
from perf.results.sets import FEW_RECORDS, SETS

DOCS = FOLDER.parent.parent
_HEAD = f"""# Results

Made by `make results` from the runs in [results/runs](results/runs); do not edit. A run is made by
`python -m perf.utility ... --write`, whose `--help` says how; each file there also holds the machine, the epsilon of
the privacy statement, and a hash of the code, which is not the same in all of them. Seconds were
taken on shared machines.

**Protocol.** A fifth is kept back: of the records, or of the persons with all their records where there is a key,
so that nobody is in both halves. Sets of fewer than {FEW_RECORDS:,} records are split anew by every seed, larger
ones always alike. A generator draws as many rows as it was trained on, at least {FEWEST_ROWS:,}. *AUROC*, *accuracy*:
a classifier trained on drawn rows alone, tested on real rows that were kept back; trees are scikit-learn's
`HistGradientBoostingClassifier(random_state=0)`. *1-way* and *2-way*: mean total variation distance to the real
training rows over all columns and over all pairs of columns. All of them are of codes of the public schema, for real
rows too. Numbers are means with 95 % intervals over the seeds; *seconds* and *MB* are of training alone.

**One recipe** trains a family on every set (`simulations/recipes.py`); it knows the public number of units and of
columns, epsilon and how many sites add noise, and no data set.
It was chosen on these very sets, so that the figures are to that extent optimistic. *Shared noise* is
`trust = "sum"`, *local noise* `trust = "none"`; *pooled* is central differential privacy on all records. Delta is the
study's default where nothing else is said: min(1e-5, 1 / (10 n)). Rows without an epsilon promise nothing.
"""
_QUOTED = "Figures of others, quoted with their protocol; they were not run here:"


def page(results: Sequence[Result]) -> str:
    """Return the text of docs/results.md."""
    return "\n".join([_HEAD, *(_section(name, _of(name, results)) for name in SETS if _of(name, results))])


def pictures(results: Sequence[Result]) -> dict[str, str]:
    """Return the SVG files of docs/results by name."""
    drawn = {f"{name}.svg": picture(name, _of(name, results)) for name in SETS}
    return {name: text for name, text in drawn.items() if text}


def write(*, docs: Path = DOCS, runs: Path = FOLDER) -> list[Path]:
    """Write page and pictures from the runs that are there; returns the files."""
    results = kept(folder=runs)
    files = {docs / "results.md": page(results)}
    files |= {docs / "results" / name: text for name, text in pictures(results).items()}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(files)


def _of(name: str, results: Sequence[Result]) -> list[Cell]:
    return cells(result for result in results if result.setting.data_set == name)


def _section(name: str, found: Sequence[Cell]) -> str:
    """Return the part about one data set."""
    data_set = SETS[name]
    delta = "" if data_set.delta is None else f", delta {data_set.delta:g}"
    parts = [f"## {name}", f"Protected: {data_set.unit.value}{delta}.", results_table(found)]
    if site_table(found):
        parts += ["AUROC of trees by site:", site_table(found)]
    if quoted_table(name):
        parts += [_QUOTED, quoted_table(name)]
    if picture(name, found):
        parts += [f"![AUROC and 2-way distance by epsilon](results/{name}.svg)"]
    return "\n\n".join(parts) + "\n"
