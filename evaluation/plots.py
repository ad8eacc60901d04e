"""The pictures of a report, as inline SVG.

Blue is real, orange is synthetic (Okabe and Ito's colours, told apart by colour-blind readers); shape tells
them apart as well: real is broad and pale, synthetic narrow and dark.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from evaluation.page.inline import drawing, inline_svg
from evaluation.prediction.scores import false_positive_rate

REAL = "#0072B2"
SYNTHETIC = "#D55E00"
_PALE_REAL = "#a9cfe6"
_MOST_BARS = 10
_LABEL_LENGTH = 16
_ANNOTATED_COLUMNS = 16
_LABELLED_COLUMNS = 60


@dataclass(frozen=True, kw_only=True, eq=False)
class Marginal:
    """The histogram of one column in both tables.

    Attributes:
        name: The column.
        is_ordered: Whether the order of the codes means something.
        has_missing: Whether the last code means "missing".
        labels: One readable label per code.
        real: Share of each code among the real rows, ``[K]``.
        synthetic: The same among the synthetic rows, ``[K]``.
        distance: Total variation distance of the two.
    """

    name: str
    is_ordered: bool
    has_missing: bool
    labels: tuple[str, ...]
    real: NDArray[np.float64]
    synthetic: NDArray[np.float64]
    distance: float


def marginal_svg(marginal: Marginal, *, prefix: str) -> str:
    """Draw both histograms of a column over each other: bars for few codes, steps for many ordered ones."""
    distance = f"total variation distance {marginal.distance:.3f}"
    alternative = f"Histogram of {marginal.name}, real and synthetic rows; {distance}."
    with drawing():
        figure = Figure(figsize=(2.9, 1.95), layout="constrained")
        axes = figure.subplots()
        if marginal.is_ordered and len(marginal.labels) > _MOST_BARS:
            _steps(axes, marginal)
        else:
            _bars(axes, *_few_bars(marginal))
        return inline_svg(figure, alternative=alternative, prefix=prefix)


def missing_svg(names: Sequence[str], real: NDArray[np.float64], synthetic: NDArray[np.float64], *, prefix: str) -> str:
    """Draw the share of missing values of the given columns (``[C]`` each)."""
    with drawing():
        figure = Figure(figsize=(4.4, 0.6 + 0.24 * max(len(names), 2)), layout="constrained")
        _bars(figure.subplots(), [_short(name, 24) for name in names], real, synthetic)
        alternative = f"Share of missing values of {len(names)} columns, real and synthetic rows."
        return inline_svg(figure, alternative=alternative, prefix=prefix)


def heat_map_svg(
    names: Sequence[str],
    matrix: NDArray[np.float64],
    *,
    alternative: str,
    prefix: str,
    is_signed: bool,
    limit: float | None = None,
) -> str:
    """Draw a matrix ``[C, C]`` of one number per pair of columns.

    Args:
        names: The columns.
        matrix: The numbers.
        alternative: What the picture shows, in words.
        prefix: The picture's own prefix of ids.
        is_signed: Whether numbers below 0 occur: colours then run both ways from a pale 0.
        limit: Largest number of the scale; the largest that occurs if None.
    """
    columns = len(names)
    largest = limit if limit is not None else max(float(np.abs(matrix).max()), 1e-3)
    with drawing():
        figure = Figure(figsize=(4.1, 3.9), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(
            matrix,
            cmap="RdBu_r" if is_signed else "Blues",
            vmin=-largest if is_signed else 0.0,
            vmax=largest,
            interpolation="none",
        )
        _name_axes(axes, names)
        if columns <= _ANNOTATED_COLUMNS:
            _write_cells(axes, matrix, largest)
        bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02, aspect=24)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=6.5)
        return inline_svg(figure, alternative=alternative, prefix=prefix)


def roc_svg(curves: Sequence[tuple[str, float, NDArray[np.float64] | None]], *, alternative: str, prefix: str) -> str:
    """Draw receiver operating characteristics.

    Args:
        curves: "real" or "synthetic", area and height (``[201]``, None if undefined) of each.
        alternative: What the picture shows, in words.
        prefix: The picture's own prefix of ids.
    """
    with drawing():
        figure = Figure(figsize=(4.2, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color="#8a94a3", linewidth=0.8, linestyle=(0, (2, 2)))
        for name, area, heights in curves:
            if heights is None:
                continue
            is_real = name == "real"
            axes.plot(
                false_positive_rate(),
                heights,
                color=REAL if is_real else SYNTHETIC,
                linewidth=3.2 if is_real else 1.5,
                alpha=0.45 if is_real else 1.0,
                label=f"trained on {name} rows: {area:.3f}",
            )
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        axes.spines[["top", "right"]].set_visible(False)
        if any(heights is not None for _, _, heights in curves):
            axes.legend(loc="lower right", frameon=False, fontsize=7.5)
        return inline_svg(figure, alternative=alternative, prefix=prefix)


def _few_bars(marginal: Marginal) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """All codes where they are few; else the most common real ones, and the others in one bar."""
    codes = len(marginal.labels)
    labels = [_short(label, _LABEL_LENGTH) for label in marginal.labels]
    if codes <= _MOST_BARS:
        return labels, marginal.real, marginal.synthetic
    order = np.argsort(-marginal.real, kind="stable")
    shown, others = order[: _MOST_BARS - 1], order[_MOST_BARS - 1 :]
    return (
        [labels[code] for code in shown] + [f"{others.size} others"],
        np.append(marginal.real[shown], marginal.real[others].sum()),
        np.append(marginal.synthetic[shown], marginal.synthetic[others].sum()),
    )


def _bars(axes: Axes, labels: Sequence[str], real: NDArray[np.float64], synthetic: NDArray[np.float64]) -> None:
    places = np.arange(len(labels))
    axes.barh(places, real, height=0.8, color=_PALE_REAL, edgecolor=REAL, linewidth=0.5)
    axes.barh(places, synthetic, height=0.34, color=SYNTHETIC)
    axes.set_yticks(places, labels, fontsize=7.5)
    # At least four slots, so that two categories do not become two slabs.
    spare = max(0.0, (4 - len(labels)) / 2)
    axes.set_ylim(len(labels) - 0.45 + spare, -0.55 - spare)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(_percent(real, synthetic))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#e3e7ec", linewidth=0.6)
    axes.set_axisbelow(True)


def _steps(axes: Axes, marginal: Marginal) -> None:
    """Steps over the codes in their order; the missing code stands apart on the right."""
    known = len(marginal.labels) - int(marginal.has_missing)
    edges = np.arange(known + 1)
    axes.stairs(marginal.real[:known], edges, fill=True, color=_PALE_REAL)
    axes.stairs(marginal.real[:known], edges, color=REAL, linewidth=0.6)
    axes.stairs(marginal.synthetic[:known], edges, color=SYNTHETIC, linewidth=1.3, baseline=None)
    ticks = [(code + 0.5, marginal.labels[code]) for code in _spread(known)]
    if marginal.has_missing:
        place, width = known * 1.07 + 0.5, max(1.0, known * 0.05)
        axes.bar(place, marginal.real[-1], width=width, color=_PALE_REAL, edgecolor=REAL, linewidth=0.5)
        axes.bar(place, marginal.synthetic[-1], width=width * 0.42, color=SYNTHETIC)
        ticks = [*ticks[:-1], (place, "missing")]
    axes.set_xticks([place for place, _ in ticks], [_short(label, 12) for _, label in ticks], fontsize=7)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(_percent(marginal.real, marginal.synthetic))
    axes.tick_params(axis="y", labelsize=7)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e3e7ec", linewidth=0.6)
    axes.set_axisbelow(True)


def _percent(real: NDArray[np.float64], synthetic: NDArray[np.float64]) -> PercentFormatter:
    """Write whole per cent, save where the largest share is too small for them."""
    largest = max(float(real.max()), float(synthetic.max()))
    return PercentFormatter(1.0, decimals=0 if largest > 0.08 else 1)


def _spread(codes: int) -> list[int]:
    """Positions of at most four labels, first and last included."""
    return sorted({round(place) for place in np.linspace(0, codes - 1, min(codes, 4))})


def _name_axes(axes: Axes, names: Sequence[str]) -> None:
    step = -(-len(names) // _LABELLED_COLUMNS)
    places = list(range(0, len(names), step))
    labels = [_short(names[place], 18) for place in places]
    size = float(np.clip(150 / len(names), 3.5, 7.5))
    axes.set_xticks(places, labels, rotation=90, fontsize=size)
    axes.set_yticks(places, labels, fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _write_cells(axes: Axes, matrix: NDArray[np.float64], largest: float) -> None:
    """Write every number, off the diagonal, in hundredths: a cell has room for two digits."""
    for row, column in np.ndindex(matrix.shape):
        if row == column:
            continue
        number = float(matrix[row, column])
        dark = abs(number) > 0.6 * largest
        axes.text(
            column,
            row,
            str(round(100 * number)),
            ha="center",
            va="center",
            fontsize=5.5,
            color="white" if dark else "#1d2530",
        )


def _short(label: str, length: int) -> str:
    """Cut a long label, and keep it on one line."""
    line = " ".join(label.split())
    return line if len(line) <= length else line[: length - 1] + "…"
