"""The picture of the channel: four records beside what an attacker makes of one round, in four settings.

It is a table for every setting, with a column's values as anybody reads them. A value that the attacker got right is
orange, as everything in a report that is not the original; a wrong one is grey. The originals are blue.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from evaluation.page.inline import drawing
from privacy.audit.channel.public_inputs import Codes
from privacy.audit.channel.reconstruction import matched
from protocol.errors import InputError
from protocol.randomness import RandomSource
from protocol.study import Study
from records.dataset import Records
from records.schema import Schema
from simulations.audit.channel.attacker import ChannelAttacker
from simulations.audit.channel.twin import ChannelTwin, Setting
from strategies.study_model import study_schema

SHOWN_RECORDS = 4
_MOST_COLUMNS = 8
_MOST_LETTERS = 15
_DOTS_PER_INCH = 144
_LABEL, _CELL, _ROW = 0.8, 1.2, 0.24  # widths and height in inches
_TITLE, _GAP = 0.32, 0.14
_ORIGINAL, _RIGHT, _WRONG = "#d3e6f3", "#f6b26b", "#eef0f3"
_DARK, _FAINT = "#1d2530", "#737b87"


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """One table of the picture.

    Attributes:
        title: What it shows.
        truth: The records, [n, columns].
        guess: What they were taken for, [n, columns]; None for the originals.
    """

    title: str
    truth: Codes
    guess: Codes | None

    @property
    def right(self) -> float:
        """Share of cells that are right."""
        return 1.0 if self.guess is None else float((self.truth == self.guess).mean())


def channel_picture(study: Study, records: Records | None = None, *, random: RandomSource) -> bytes:
    """Draw four records beside their reconstructions from one round, in the four settings.

    They are the whole batch of one site or, in a sum, at one site each. Where real records are given the picture shows
    some of them: it must then not leave the site.

    Args:
        study: The study.
        records: Records of its schema; None for synthetic ones.
        random: Source of every choice, of batches, latent draws and noise.

    Returns:
        A picture as PNG.

    Raises:
        InputError: If there are too few records, or the family is unknown to the attack.
        CloisterError: Whatever a round of the study can raise.
    """
    attacker = ChannelAttacker(study, records, random=random)
    drawn, baseline = panels(attacker, study)
    return draw_panels(drawn, study_schema(study), baseline=baseline)


def panels(attacker: ChannelAttacker, study: Study) -> tuple[tuple[Panel, ...], float]:
    """Attack one round of every setting with the same records.

    Args:
        attacker: The attacker.
        study: The study.

    Returns:
        The originals and one panel per setting; and the share of cells that the best guess without the channel gets.

    Raises:
        CloisterError: Whatever a round of the study can raise.
    """
    twins = [
        ChannelTwin(study=study, setting=setting, batch=1 if setting.summed else SHOWN_RECORDS) for setting in Setting
    ]
    codes = attacker.batch(max(twins, key=lambda twin: twin.records))
    shown = codes[:SHOWN_RECORDS]
    found = [Panel(title="The true records", truth=shown, guess=None)]
    for twin in twins:
        present = codes[: twin.records]
        guess = attacker.reconstruct(twin, present, number=0).codes
        own = guess[matched(present, guess)][:SHOWN_RECORDS]
        found.append(Panel(title=_title(twin), truth=shown, guess=own))
    return tuple(found), float((shown == attacker.known.most_common()).mean())


def draw_panels(shown: Sequence[Panel], schema: Schema, *, baseline: float) -> bytes:
    """Draw panels one below the other.

    Args:
        shown: The panels, originals first.
        schema: Names of columns and codes.
        baseline: Share of cells that the best guess without the channel gets right.

    Returns:
        A picture as PNG.

    Raises:
        InputError: If there is no panel.
    """
    if not shown:
        raise InputError("No panel to draw.", remedy="Give the originals at least.")
    names = schema.names[:_MOST_COLUMNS]
    labels = [schema.code_labels(name) for name in names]
    heights = [_TITLE + _ROW * len(each.truth) + _GAP for each in shown]
    width, height = _LABEL + _CELL * len(names), 2 * _ROW + sum(heights) + 4 * _ROW
    with drawing():
        figure = Figure(figsize=(max(width, 7.5) + 0.2, height + 0.1))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(-0.1, max(width, 7.5) + 0.1), ylim=(height + 0.05, -0.05))
        axes.axis("off")
        for column, name in enumerate(names):
            _text(axes, column, _ROW * 1.2, _short(name, letters=13), weight="bold")
        top = 1.6 * _ROW
        for panel, tall in zip(shown, heights, strict=True):
            _table(axes, panel, labels, top=top)
            top += tall
        for line, text in enumerate(_caption(len(names), schema, baseline)):
            axes.text(0.0, top + (line + 0.8) * _ROW, text, fontsize=9, color=_DARK)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _title(twin: ChannelTwin) -> str:
    what = {
        Setting.NO_PROTECTION: "No protection, read from what a site sends",
        Setting.SECURE_SUM: f"Secure sum only, read from the sum of {twin.sites} sites",
        Setting.LOCAL_NOISE: "Local noise, guessed from what a site sends",
        Setting.SHARED_NOISE: f"Shared noise, guessed from the noisy sum of {twin.sites} sites",
    }[twin.setting]
    return f"{what} (this study adds none)" if twin.setting.noisy and twin.plan.noise_multiplier == 0.0 else what


def _caption(columns: int, schema: Schema, baseline: float) -> tuple[str, ...]:
    """How to read the picture."""
    part = "" if columns == len(schema.columns) else f" Shown are {columns} of {len(schema.columns)} columns."
    return (
        "Orange: the attacker's value is the true one. Grey: it is wrong.",
        "The records are the whole batch of one site; in a sum each is at another site.",
        f"Whoever sees nothing at all, and guesses the most common value of every column, gets {baseline:.0%} right.",
        f"Percentages count the values of all columns of the records above.{part}",
    )


def _table(axes: Axes, panel: Panel, labels: Sequence[Sequence[str]], *, top: float) -> None:
    """One table: its title, then a row for each record."""
    right = "" if panel.guess is None else f": {panel.right:.0%} of the values right"
    axes.text(0.0, top + 0.22, f"{panel.title}{right}", fontsize=10.5, weight="bold", color=_DARK)
    written = panel.truth if panel.guess is None else panel.guess
    for row, column in np.ndindex(len(written), len(labels)):
        true = written[row, column] == panel.truth[row, column]
        fill = _ORIGINAL if panel.guess is None else _RIGHT if true else _WRONG
        left, upper = _LABEL + column * _CELL, top + _TITLE + row * _ROW
        axes.add_patch(Rectangle((left, upper), _CELL - 0.03, _ROW - 0.03, facecolor=fill, edgecolor="none"))
        text = _short(labels[column][int(written[row, column])])
        _text(axes, column, upper + 0.68 * _ROW, text, colour=_DARK if true else _FAINT)
    for row in range(len(written)):
        axes.text(0.0, top + _TITLE + (row + 0.68) * _ROW, f"record {row + 1}", fontsize=8.5, color=_FAINT)


def _text(axes: Axes, column: int, baseline: float, text: str, *, colour: str = _DARK, weight: str = "normal") -> None:
    axes.text(_LABEL + column * _CELL + 0.05, baseline, text, fontsize=8.5, color=colour, weight=weight)


def _short(text: str, *, letters: int = _MOST_LETTERS) -> str:
    line = " ".join(text.split())
    return line if len(line) <= letters else line[: letters - 1] + "…"
