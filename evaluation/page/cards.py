"""The headline cards: one number each, what it is measured against, and what it means in a plain sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from evaluation.baselines import Yardstick
from evaluation.detection import Detection
from evaluation.fidelity import Fidelity
from evaluation.prediction.scores import NO_SKILL
from evaluation.utility import Utility


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One number on a card's scale: "synthetic", "real" or "other", how it is called, and its value."""

    kind: str
    name: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Card:
    """One headline.

    Attributes:
        heading: What is measured.
        value: The number of the synthetic rows.
        sentence: What it means, in plain English.
        aim: Which way is better.
        low: Left end of the scale.
        high: Right end of the scale.
        marks: The numbers on the scale; the synthetic one is drawn on top.
    """

    heading: str
    value: float
    sentence: str
    aim: str
    low: float
    high: float
    marks: tuple[Mark, ...]

    def to_html(self) -> str:
        """Return the card; every text is escaped here."""
        dots = "".join(
            f'<span class="mark {mark.kind}" style="left:{self._place(mark.value):.1f}%"></span>' for mark in self.marks
        )
        numbers = "".join(
            f"<div><dt>{escape(mark.name)}</dt><dd>{mark.value:.3f}</dd></div>"
            for mark in self.marks
            if mark.kind != "synthetic"
        )
        return (
            f'<article class="card"><h3>{escape(self.heading)}</h3><div class="figure">{self.value:.3f}</div>'
            f'<div class="scale" aria-hidden="true">{dots}</div><dl class="compare">{numbers}</dl>'
            f'<p>{escape(self.sentence)}</p><p class="aim">{escape(self.aim)}</p></article>'
        )

    def _place(self, value: float) -> float:
        return 100 * min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def cards(
    *,
    fidelity: Fidelity,
    utility: Utility | None,
    detection: Detection,
    yardsticks: Sequence[Yardstick],
    target: str,
    may_be_missing: Sequence[bool],
) -> tuple[Card, ...]:
    """Make the cards that apply: prediction needs a target, missing values a column that may miss some."""
    predictions = () if utility is None else (_ranking_card(utility, target), _accuracy_card(utility, target))
    return (
        *predictions,
        *_distance_cards(fidelity, yardsticks),
        _association_card(fidelity),
        *((_missing_card(fidelity, may_be_missing),) if any(may_be_missing) else ()),
        _detection_card(detection),
    )


def _ranking_card(utility: Utility, target: str) -> Card:
    synthetic, real = utility.synthetic.auroc, utility.real
    pair = (
        f"one real record with {target} = {utility.classes[1]} and one with {utility.classes[0]}"
        if len(utility.classes) == 2
        else f"two real records of different {target}"
    )
    told = _of_100(synthetic)
    sentence = f"Shown {pair}, a model that learnt from synthetic rows alone tells which is which {told}"
    marks = [Mark(kind="other", name="coin toss", value=NO_SKILL)]
    if real is not None:
        sentence += f"; one that learnt from real rows, {_of_100(real.auroc)}"
        marks.append(Mark(kind="real", name="trained on real rows", value=real.auroc))
    return Card(
        heading="Predicting the target (AUROC)",
        value=synthetic,
        sentence=sentence + ".",
        aim="Higher is better; the real-trained model is the ceiling to reach.",
        low=min(NO_SKILL, *(mark.value for mark in marks), synthetic),
        high=1.0,
        marks=(*marks, Mark(kind="synthetic", name="synthetic", value=synthetic)),
    )


def _accuracy_card(utility: Utility, target: str) -> Card:
    synthetic, real = utility.synthetic.accuracy, utility.real
    guess = utility.majority_share
    sentence = (
        f"Trained on synthetic rows alone, a model names the right {target} for {_of_100(synthetic, 'of')} real records"
    )
    marks = [Mark(kind="other", name="always the commonest", value=guess)]
    if real is not None:
        sentence += f"; trained on real rows, for {_of_100(real.accuracy, 'of')}"
        marks.append(Mark(kind="real", name="trained on real rows", value=real.accuracy))
    return Card(
        heading="Naming the right answer (accuracy)",
        value=synthetic,
        sentence=f"{sentence}. Always guessing the commonest answer is right for {_of_100(guess, 'of')}.",
        aim="Higher is better, and it should beat the guess.",
        low=0.0,
        high=1.0,
        marks=(*marks, Mark(kind="synthetic", name="synthetic", value=synthetic)),
    )


def _distance_cards(fidelity: Fidelity, yardsticks: Sequence[Yardstick]) -> tuple[Card, ...]:
    told = (
        ("Single columns (1-way TVD)", "one_way", "a column's histogram"),
        ("Pairs of columns (2-way TVD)", "two_way", "the joint histogram of two columns"),
        ("Triples of columns (3-way TVD)", "three_way", "the joint histogram of three columns"),
    )
    made = []
    for heading, attribute, histogram in told:
        value = float(getattr(fidelity, attribute))
        marks = tuple(
            Mark(
                kind="real" if stick.is_real else "other",
                name=stick.name,
                value=float(getattr(stick, attribute)),
            )
            for stick in yardsticks
        )
        made.append(
            Card(
                heading=heading,
                value=value,
                sentence=f"On average {100 * value:.1f} % of the rows would have to change for {histogram} "
                "to match the real one.",
                aim="Lower is better; rows redrawn from the real ones show what chance alone costs.",
                low=0.0,
                high=1.1 * max([value, 1e-3, *(mark.value for mark in marks)]),
                marks=(*marks, Mark(kind="synthetic", name="synthetic", value=value)),
            )
        )
    return tuple(made)


def _association_card(fidelity: Fidelity) -> Card:
    value = fidelity.association_difference
    return Card(
        heading="Relationships (association difference)",
        value=value,
        sentence="On a scale where 0 is no relationship and 1 a perfect one, the strength of the "
        "relationship "
        f"of two columns is off by {value:.2f} on average.",
        aim="Lower is better; 0 is ideal.",
        low=0.0,
        high=max(0.5, value),
        marks=(
            Mark(kind="other", name="ideal", value=0.0),
            Mark(kind="synthetic", name="synthetic", value=value),
        ),
    )


def _missing_card(fidelity: Fidelity, may_be_missing: Sequence[bool]) -> Card:
    value = float(np.abs(fidelity.missing_difference[np.array(may_be_missing)]).mean())
    return Card(
        heading="Missing values (difference of shares)",
        value=value,
        sentence=f"The share of missing values of a column is off by {100 * value:.1f} percentage points on average.",
        aim="Lower is better; 0 is ideal.",
        low=0.0,
        high=max(0.2, value),
        marks=(
            Mark(kind="other", name="ideal", value=0.0),
            Mark(kind="synthetic", name="synthetic", value=value),
        ),
    )


def _detection_card(detection: Detection) -> Card:
    value = detection.auroc
    sentence = f"Shown one real and one synthetic row, a classifier picks the synthetic one {_of_100(value)}."
    if value < 0.45:
        sentence += " Below 50 is a warning: rows may occur on both sides, as when real records are repeated."
    return Card(
        heading="Telling them apart (detection AUC)",
        value=value,
        sentence=sentence,
        aim="0.5 is ideal: a coin toss. 1 means every synthetic row gives itself away.",
        low=min(0.4, value),
        high=1.0,
        marks=(
            Mark(kind="other", name="ideal", value=NO_SKILL),
            Mark(kind="synthetic", name="synthetic", value=value),
        ),
    )


def _of_100(share: float, between: str = "times in") -> str:
    return f"{round(100 * share)} {between} 100"
