"""Pictures of results: one for each data set, SVG, without anything that changes between two drawings."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.page.inline import drawing, inline_svg
from perf.results.report.summary import Cell, Estimate
from perf.results.report.tables import words
from perf.results.setting import Peer, Yardstick

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_MARKERS = "osD^vPX*"
_LINES = {Yardstick.REAL: "-", Yardstick.INDEPENDENT: ":", Yardstick.PERMUTED: "--"}
_PANELS = {"auroc": "AUROC on real test rows", "tvd2": "2-way distance to real rows"}
# A file needs them, a picture inside a page does not.
_NAME_SPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
_MOST_SERIES = len(_COLOURS)


def picture(name: str, cells: Sequence[Cell]) -> str:
    """Draw AUROC and 2-way distance against epsilon; empty where no cell has an epsilon.

    Args:
        name: Of the data set.
        cells: Its cells.

    Returns:
        An SVG file's text. Bars are 95 % intervals over the seeds; lines without marks are yardsticks.
    """
    series = _series(cells)
    measures = [measure for measure in _PANELS if any(cell.estimate(measure) for cell in cells)]
    if not series or not measures:
        return ""
    with drawing():
        figure = Figure(figsize=(3.6 * len(measures), 3.3), layout="constrained")
        for axes, measure in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
            _panel(axes, measure, series, cells)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=7)
        text = inline_svg(figure, alternative=f"Results on {name}, by epsilon; see the table.", prefix=f"{name}-")
    return text.replace("<svg ", f"<svg {_NAME_SPACES} ", 1) + "\n"


def _series(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Group the private cells by all but their epsilon, at most as many as there are colours."""
    series: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.setting.epsilon:
            sites = "" if cell.setting.system in tuple(Peer) or cell.setting.sites == 1 else f", {cell.setting.sites}"
            series.setdefault((words(cell.setting) + sites).replace("`", ""), []).append(cell)
    return dict(list(series.items())[:_MOST_SERIES])


def _panel(axes: Axes, measure: str, series: dict[str, list[Cell]], cells: Sequence[Cell]) -> None:
    """Draw one measure."""
    for number, (label, group) in enumerate(series.items()):
        points = sorted((cell.setting.epsilon, estimate) for cell in group if (estimate := cell.estimate(measure)))
        axes.errorbar(
            [epsilon for epsilon, _ in points],
            [estimate.mean for _, estimate in points],
            yerr=[_whisker(estimate) for _, estimate in points],
            color=_COLOURS[number],
            marker=_MARKERS[number],
            markersize=4,
            linewidth=1.0,
            capsize=2,
            label=label,
        )
    for cell in cells:
        estimate = cell.estimate(measure)
        if cell.setting.system in tuple(Yardstick) and estimate:
            style = _LINES[Yardstick(cell.setting.system)]
            axes.axhline(estimate.mean, color="#8a94a3", linewidth=0.9, linestyle=style, label=words(cell.setting))
    axes.set_xscale("log")
    epsilons = sorted({cell.setting.epsilon for group in series.values() for cell in group})
    axes.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
    axes.minorticks_off()
    axes.set_xlabel("epsilon")
    axes.set_title(_PANELS[measure], fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _whisker(estimate: Estimate) -> float:
    return 0.0 if math.isnan(estimate.half_width) else estimate.half_width
