"""The pictures of an audit, as inline SVG.

Orange is the attack, blue what it is held against (Okabe and Ito's colours); shape tells them apart as well. Labels
stand above what they name, so that a picture can be read at the width of a telephone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from evaluation.page.inline import drawing, inline_svg
from privacy.audit.finding import Curve, Interval

ATTACK = "#D55E00"
CLAIM = "#0072B2"
_PALE_CLAIM = "#cfe3f1"
_INK = "#1d2530"
_GREY = "#6b7686"
_WIDTH = 3.6
_LEAST_RATE = 1e-3
_MOST_OVER_CLAIM = 2.5
_LABEL_LENGTH = 50


@dataclass(frozen=True, kw_only=True)
class Bound:
    """One attack's lower bound against its claim.

    Attributes:
        name: The attack.
        lower_bound: Epsilon that it proves.
        ceiling: What a perfect attack would typically prove of a subject that spends its claim; None where unknown.
        claim: Epsilon claimed.
    """

    name: str
    lower_bound: float
    ceiling: float | None
    claim: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One interval of a picture.

    Attributes:
        name: What it is the interval of.
        interval: The interval.
        is_attack: Whether it is the attack's own.
    """

    name: str
    interval: Interval
    is_attack: bool


def roc_svg(curve: Curve, *, alternative: str, prefix: str) -> str:
    """Draw a receiver operating characteristic with both rates on a log scale.

    Privacy is lost first where few are accused: there the usual linear picture shows nothing (Carlini et al. 2022,
    "Membership Inference Attacks From First Principles", section IV).

    Args:
        curve: The curve; what is below one in a thousand is drawn at the edge.
        alternative: What the picture shows, in words.
        prefix: The picture's own prefix of ids.
    """
    false, true = (np.clip(rate, _LEAST_RATE, 1.0) for rate in (curve.false_positive_rate, curve.true_positive_rate))
    with drawing():
        figure = Figure(figsize=(_WIDTH, 2.75), layout="constrained")
        axes = figure.subplots()
        axes.plot([_LEAST_RATE, 1.0], [_LEAST_RATE, 1.0], color=_GREY, linewidth=0.9, linestyle=(0, (3, 2)))
        axes.text(0.012, 0.0085, "blind guess", color=_GREY, fontsize=7.5, rotation=33, rotation_mode="anchor")
        axes.step(false, true, where="post", color=ATTACK, linewidth=1.7)
        axes.set(xscale="log", yscale="log", xlim=(_LEAST_RATE, 1.0), ylim=(_LEAST_RATE, 1.06))
        axes.set_xlabel("wrongly accused (false-positive rate)")
        axes.set_ylabel("rightly found (true-positive rate)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(_share))
            axis.set_minor_locator(NullLocator())
        _bare(axes)
        axes.grid(color="#e8ecf0", linewidth=0.6)
        axes.set_axisbelow(True)
        return inline_svg(figure, alternative=alternative, prefix=prefix)


def bounds_svg(bounds: Sequence[Bound], *, alternative: str, prefix: str) -> str:
    """Draw for each attack its lower bound, its ceiling, and the epsilon that was claimed.

    Args:
        bounds: At least one.
        alternative: What the picture shows, in words.
        prefix: The picture's own prefix of ids.
    """
    most_claimed = max(bound.claim for bound in bounds)
    end = max([most_claimed, *(min(bound.lower_bound, _MOST_OVER_CLAIM * bound.claim) for bound in bounds)])
    end = 1.12 * end if end > 0 else 1.0
    with drawing():
        figure = Figure(figsize=(1.1 * _WIDTH, 0.62 + 0.46 * len(bounds)), layout="constrained")
        axes = figure.subplots()
        for place, bound in enumerate(bounds):
            _bound(axes, place, bound, end)
        axes.set(xlim=(0.0, end), ylim=(len(bounds) - 0.42, -0.62))
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel("epsilon")
        _bare(axes)
        axes.spines["left"].set_visible(False)
        return inline_svg(figure, alternative=alternative, prefix=prefix)


def intervals_svg(rows: Sequence[Row], *, measure: str, alternative: str, prefix: str) -> str:
    """Draw what an attack reached, with its interval, beside what it is held against.

    Args:
        rows: At least one.
        measure: What is measured.
        alternative: What the picture shows, in words.
        prefix: The picture's own prefix of ids.
    """
    low = min(row.interval.low for row in rows)
    high = max(row.interval.high for row in rows)
    margin = 0.08 * (high - low) if high > low else 0.08 * max(abs(high), 0.5)
    with drawing():
        figure = Figure(figsize=(_WIDTH, 0.62 + 0.46 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for place, row in enumerate(rows):
            _interval(axes, place, row, low - margin)
        axes.set(xlim=(low - margin, high + margin), ylim=(len(rows) - 0.5, -0.62))
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.ticklabel_format(axis="x", style="plain", useOffset=False)
        axes.set_xlabel(measure)
        _bare(axes)
        axes.spines["left"].set_visible(False)
        return inline_svg(figure, alternative=alternative, prefix=prefix)


def _bound(axes: Axes, place: int, bound: Bound, end: float) -> None:
    """A pale bar as long as the claim, the bound in it, and a mark where a perfect attacker would have ended."""
    label = f"{_short(bound.name)}: at least {bound.lower_bound:.3g}"
    axes.text(0.0, place - 0.2, label, fontsize=7.5, va="bottom", color=_INK)
    axes.barh(place, bound.claim, height=0.3, color=_PALE_CLAIM)
    axes.plot([bound.claim] * 2, [place - 0.2, place + 0.2], color=CLAIM, linewidth=2.2, solid_capstyle="butt")
    axes.barh(place, min(bound.lower_bound, end), height=0.13, color=ATTACK)
    if bound.lower_bound > end:
        axes.text(
            0.995 * end, place + 0.1, f"{bound.lower_bound:.3g} →", fontsize=7, ha="right", va="top", color=ATTACK
        )
    if bound.ceiling is not None:
        axes.plot([bound.ceiling], [place + 0.22], marker="^", markersize=4.5, color=_INK, clip_on=False)


def _interval(axes: Axes, place: int, row: Row, left: float) -> None:
    """A line from end to end of the interval, a mark on the value, and both in words."""
    colour, marker = (ATTACK, "D") if row.is_attack else (CLAIM, "o")
    found = row.interval
    numbers = f"{_number(found.value)} ({_number(found.low)} to {_number(found.high)})"
    axes.text(left, place - 0.2, f"{row.name}: {numbers}", fontsize=7.5, va="bottom", color=_INK)
    axes.plot([found.low, found.high], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
    for end in (found.low, found.high):
        axes.plot([end, end], [place - 0.1, place + 0.1], color=colour, linewidth=1.2)
    axes.plot([found.value], [place], marker=marker, markersize=5, color=colour)


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def _share(value: float, position: int) -> str:
    """A rate as a person would say it."""
    del position
    return f"{100 * value:g} %"


def _short(label: str) -> str:
    line = " ".join(label.split())
    return line if len(line) <= _LABEL_LENGTH else line[: _LABEL_LENGTH - 1] + "…"
