"""The sections of the page below the cards."""

import json
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from evaluation.fidelity import Fidelity
from evaluation.page.skeleton import NO_STATEMENT, section, table
from evaluation.plots import Marginal, heat_map_svg, marginal_svg, missing_svg, roc_svg
from evaluation.prediction.scores import Scores
from evaluation.utility import Learner, Utility

MOST_MARGINALS = 24
_MOST_MISSING = 30
_WORST_PAIRS = 10
_MOST_COLUMNS_ON_A_TELEPHONE = 10
# The scale of differences never ends below this, so that mere noise stays pale.
_PALE_LIMIT = 0.25
_MEANINGS = {
    "Total variation distance (TVD)": "half the sum of the absolute differences of two histograms; "
    "0 equal, 1 disjoint. "
    "Two samples of the same population are never at 0.",
    "AUROC": "how often a model ranks a record of one class above one of another; 0.5 is a coin "
    "toss, 1 perfect. With "
    "several classes the mean of each against the rest.",
    "Detection AUC": "the AUROC of boosted trees told to tell synthetic from real rows, the mean "
    "of five cross-validated "
    "folds of equal numbers of both.",
    "Privacy": "none of these numbers measures it. That is what the privacy statement and an audit are for.",
}
_LEARNERS = {
    Learner.BOOSTED_TREES: "Boosted trees",
    Learner.LOGISTIC_REGRESSION: "Logistic regression",
}


def statement_section(statement: Mapping[str, object] | None, lines: Sequence[str]) -> str:
    """Show the privacy statement that the caller gives, or say that there is none."""
    if statement is None and not lines:
        return f'<section class="panel"><h2>Privacy statement</h2><p>{escape(NO_STATEMENT)}</p></section>'
    texts = "".join(f"<p>{escape(line)}</p>" for line in lines)
    entries = "".join(
        f"<div><dt>{escape(str(key).replace('_', ' '))}</dt><dd>{escape(_plain(value))}</dd></div>"
        for key, value in (statement or {}).items()
    )
    listed = f'<dl class="statement">{entries}</dl>' if entries else ""
    return (
        f'<section class="panel"><h2>Privacy statement of the synthetic rows</h2>{texts}{listed}'
        "<p>It covers the synthetic rows, not the numbers of this report.</p></section>"
    )


def columns_section(marginals: Sequence[Marginal]) -> str:
    """Show the histograms of the columns, the largest error first, and a table of all columns."""
    ordered = sorted(marginals, key=lambda marginal: -marginal.distance)
    shown = ordered[:MOST_MARGINALS]
    figures = "\n".join(
        _figure(marginal.name, f"TVD {marginal.distance:.3f}", marginal_svg(marginal, prefix=f"m{index}"))
        for index, marginal in enumerate(shown)
    )
    every = table(
        ("Column", "Total variation distance"),
        [(marginal.name, f"{marginal.distance:.4f}") for marginal in ordered],
        label="Total variation distance of every column",
    )
    all_shown = len(shown) == len(ordered)
    some = "" if all_shown else f" The {len(shown)} least faithful of {len(ordered)} columns are drawn."
    return section(
        "Column by column",
        "How often each value occurs among real rows (broad, pale blue) and synthetic rows (narrow, orange), "
        f"the least faithful column first. Where the two agree, the orange ends where the blue does.{some}",
        f'<div class="gallery">{figures}</div>',
        f"<details><summary>All {len(ordered)} columns as a table</summary>{every}</details>",
    )


def pairs_section(names: Sequence[str], fidelity: Fidelity) -> str:
    """Show the distance of every pair of columns as a heat map, and the worst pairs as a table."""
    alternative = (
        f"Heat map of the total variation distance of every pair of {len(names)} columns; "
        f"the mean is {fidelity.two_way:.3f}."
    )
    picture = heat_map_svg(names, fidelity.pairs, alternative=alternative, prefix="pairs", is_signed=False)
    worst = table(("Pair", "TVD"), _worst_pairs(names, fidelity.pairs, form=".3f"), label="The least faithful pairs")
    return section(
        "Pairs of columns",
        "Total variation distance of the joint histogram of every two columns, in hundredths where there is "
        "room. A dark row is a column whose relationships were not learnt.",
        '<div class="row">',
        _figure("Distance of every pair", f"mean {fidelity.two_way:.3f}", picture, is_large=_is_large(names)),
        f'<div class="panel"><h3>The least faithful pairs</h3>{worst}</div></div>',
    )


def associations_section(names: Sequence[str], fidelity: Fidelity) -> str:
    """Show the associations of the real rows, of the synthetic rows, and their difference."""
    difference = fidelity.synthetic_associations - fidelity.real_associations
    worst = table(
        ("Pair", "Difference"),
        _worst_pairs(names, difference, form="+.3f"),
        label="The largest differences of association",
    )
    figures = "".join(
        _association_figure(names, matrix, title=title, limit=limit)
        for title, matrix, limit in (
            ("Real rows", fidelity.real_associations, 1.0),
            ("Synthetic rows", fidelity.synthetic_associations, 1.0),
            ("Synthetic minus real", difference, max(_PALE_LIMIT, float(np.abs(difference).max()))),
        )
    )
    return section(
        "Relationships",
        "How strongly two columns go together, in hundredths: Pearson's correlation of two numbers "
        "(-100 to 100), "
        "the bias-corrected Cramér's V of two others and the correlation ratio of a mixed pair (0 "
        "to 100). The third "
        "picture should be pale; it has a scale of its own. "
        f"Mean absolute difference: {fidelity.association_difference:.3f}.",
        f'<div class="row">{figures}<div class="panel"><h3>The largest differences</h3>{worst}</div></div>',
    )


def prediction_section(utilities: Sequence[Utility], target: str) -> str:
    """Show how well models trained on either kind of rows predict the target of real test rows."""
    figures = "".join(_roc_figure(utility, index) for index, utility in enumerate(utilities))
    rows = [
        (f"{_LEARNERS[utility.learner]}, trained on {name} rows", *_numbers(scores))
        for utility in utilities
        for name, scores in (("synthetic", utility.synthetic), ("real", utility.real))
        if scores is not None
    ]
    scores = table(("Model", "AUROC", "Accuracy", "Avg. precision"), rows, label="Scores of every model")
    classes = utilities[0].classes
    judged = f"The positive class is {classes[1]}." if len(classes) == 2 else f"Means over {len(classes)} classes."
    return section(
        f"Predicting {target}",
        "The same model trained twice, on synthetic and on real rows, and tested on the same real "
        "rows that neither "
        f"saw. The closer the two curves, the better a synthetic table stands in for a real one. {judged}",
        f'<div class="row">{figures}</div>',
        f'<div class="panel">{scores}</div>',
    )


def missing_section(names: Sequence[str], may_be_missing: Sequence[bool], fidelity: Fidelity) -> str:
    """Show how often values are missing, for the columns where they may be."""
    heading = "Missing values"
    columns = np.flatnonzero(np.array(may_be_missing, dtype=np.bool_))
    if not columns.size:
        return section(heading, "No column of this schema may be missing.")
    sizes = np.abs(fidelity.missing_difference[columns])
    worst = columns[np.argsort(-sizes, kind="stable")][:_MOST_MISSING]
    picture = missing_svg(
        [names[index] for index in worst],
        fidelity.real_missing[worst],
        fidelity.synthetic_missing[worst],
        prefix="missing",
    )
    return section(
        heading,
        "How often a value is missing among real and synthetic rows, the largest difference first "
        f"({100 * float(sizes.max()):.1f} percentage points).",
        f'<div class="narrow">{_figure("Share of missing values", f"{worst.size} columns", picture)}</div>',
    )


def notes_section(notes: Sequence[str]) -> str:
    """Show what a reader must know, and how to read the numbers."""
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    told = f'<ul class="notes">{listed}</ul>' if listed else "<p>Nothing went out of the ordinary.</p>"
    meanings = "".join(
        f"<li><strong>{escape(name)}</strong>: {escape(meaning)}</li>" for name, meaning in _MEANINGS.items()
    )
    return (
        f"<section><h2>Notes</h2>{told}"
        f"<details><summary>What the numbers are</summary><ul>{meanings}</ul></details></section>"
    )


def _worst_pairs(names: Sequence[str], matrix: NDArray[np.float64], *, form: str) -> list[tuple[str, str]]:
    """Names and number (written as ``form`` says) of the pairs whose number is farthest from 0."""
    first, second = np.triu_indices(len(names), k=1)
    numbers = matrix[first, second]
    order = np.argsort(-np.abs(numbers), kind="stable")[:_WORST_PAIRS]
    return [(f"{names[first[place]]} × {names[second[place]]}", format(numbers[place], form)) for place in order]


def _association_figure(names: Sequence[str], matrix: NDArray[np.float64], *, title: str, limit: float) -> str:
    picture = heat_map_svg(
        names,
        matrix,
        alternative=f"Heat map of the association of every pair of {len(names)} columns: {title.lower()}.",
        prefix="association-" + title.lower().replace(" ", "-"),
        is_signed=True,
        limit=limit,
    )
    return _figure(title, "", picture, is_large=_is_large(names))


def _is_large(names: Sequence[str]) -> bool:
    """Whether a heat map of these columns would be unreadable at the width of a telephone."""
    return len(names) > _MOST_COLUMNS_ON_A_TELEPHONE


def _roc_figure(utility: Utility, index: int) -> str:
    name = _LEARNERS[utility.learner]
    curves = [("synthetic", utility.synthetic.auroc, utility.synthetic.true_positive_rate)]
    if utility.real is not None:
        curves.insert(0, ("real", utility.real.auroc, utility.real.true_positive_rate))
    areas = ", ".join(f"{area:.3f} trained on {kind} rows" for kind, area, _ in curves)
    alternative = f"Receiver operating characteristic of {name.lower()}; area {areas}."
    return _figure(name, "ROC curves", roc_svg(curves, alternative=alternative, prefix=f"roc{index}"))


def _numbers(scores: Scores) -> tuple[str, str, str]:
    return f"{scores.auroc:.3f}", f"{scores.accuracy:.3f}", f"{scores.average_precision:.3f}"


def _figure(name: str, number: str, picture: str, *, is_large: bool = False) -> str:
    """A captioned picture; a large one scrolls sideways on a narrow screen rather than shrink."""
    inside = (
        f'<div class="scroll large" tabindex="0" role="region" aria-label="{escape(name)}">{picture}</div>'
        if is_large
        else picture
    )
    return (
        f'<figure><figcaption><span class="name">{escape(name)}</span>'
        f'<span class="number">{escape(number)}</span></figcaption>{inside}</figure>'
    )


def _plain(value: object) -> str:
    """A value of a statement as a line of text."""
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
