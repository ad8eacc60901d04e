"""Matplotlib figures as SVG that can stand inside an HTML page.

Everything a stand-alone file needs and a page does not is taken away: the XML head, metadata, name spaces,
comments, the style sheet that would apply to the whole page, and ids that two pictures could share.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Text stays text (small, readable by a screen reader, in the page's own font); a "$" in a label is a dollar.
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cloister",
    "text.parse_math": False,
    "text.usetex": False,
    "font.family": ["sans-serif"],
    "font.size": 8.0,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#8a94a3",
    "axes.labelcolor": "#3b4554",
    "axes.unicode_minus": True,
    "text.color": "#1d2530",
    "xtick.color": "#3b4554",
    "ytick.color": "#3b4554",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_TAG = re.compile(r"<[^>]*>")
_LEFT_OUT = re.compile(r"<!--.*?-->|<style\b.*?</style>|<metadata\b.*?</metadata>", re.DOTALL)
_ID = re.compile(r'\sid="([^"]*)"')
_FONT_FAMILY = re.compile(r"\bfont-family:[^;\"]*;?\s*")
_REFERENCE = re.compile(r'(url\(#|href="#)([^)"]*)')


@contextmanager
def drawing() -> Iterator[None]:
    """Set the style of pictures; figures must be made and turned into SVG inside it."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The page's own font draws the text: a glyph that matplotlib cannot measure is no loss.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        yield


def inline_svg(figure: Figure, *, alternative: str, prefix: str) -> str:
    """Turn a figure into an ``<svg>`` element.

    Args:
        figure: What to draw.
        alternative: What a reader who does not see the picture is told; escaped here.
        prefix: Put before the ids of the picture; must differ between the pictures of a page.

    Returns:
        The element, without fixed size: it fills the width it is given.
    """
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    text = _LEFT_OUT.sub("", buffer.getvalue())
    text = text[text.index("<svg") :]
    used = {name for tag in _TAG.findall(text) for _, name in _REFERENCE.findall(tag)}
    text = _TAG.sub(lambda tag: _own_ids(tag.group(), used, prefix), text)
    opening = f'<svg role="img" aria-label="{escape(alternative)}" viewBox="{_view_box(text)}">'
    return opening + text[text.index(">") + 1 :].strip()


def _own_ids(tag: str, used: set[str], prefix: str) -> str:
    """Drop fonts and ids that nothing refers to; make the other ids this picture's own."""
    tag = _FONT_FAMILY.sub("", tag)
    tag = _ID.sub(lambda found: f' id="{prefix}-{found.group(1)}"' if found.group(1) in used else "", tag)
    return _REFERENCE.sub(rf"\g<1>{prefix}-\g<2>", tag)


def _view_box(text: str) -> str:
    found = re.search(r'viewBox="([\d. ]+)"', text)
    return found.group(1) if found else "0 0 1 1"
