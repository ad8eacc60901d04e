"""What a column of one site's file looks like: kind, bounds, categories, or a reason to leave it out."""

import datetime
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from protocol.errors import InputError
from records.bins import Floats
from records.codec import Codec
from records.column import EPOCH, FALSE_VALUES, OTHER, TRUE_VALUES
from records.identifiers import looks_like_free_text, looks_like_identifier
from records.reading import Mask, days, is_text, numbers, texts
from records.schema import Format, Schema

MOST_CATEGORIES = 100
RAREST_CATEGORY = 5  # a category of fewer records may point at a person, and goes to "other"
FEW_ROWS = 20
WIDE_BINS = 32
SKEWED = 0.05
SPIKE = 0.1
_TOKENS = ("?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", ".", "-")
_WRITTEN = (
    None,
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%Y/%m/%d",
    "%d.%m.%Y",
    "%d-%m-%Y",
    "%Y-%m-%d %H:%M:%S",
    "%d/%m/%Y %H:%M",
)

Keys = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What a draft says about one column.

    Attributes:
        name: Name of the column.
        keys: Keys of a modelled column; empty for one to drop.
        reason: Why to drop it.
        repeats: Whether values occur a few times each, as those of a person key do.
    """

    name: str
    keys: Keys = field(default_factory=dict)
    reason: str = ""
    repeats: bool = False


def propose(name: str, array: pa.Array, form: Format) -> Proposal:
    """Propose how to describe a column; a proposal to model it encodes every one of the values.

    Args:
        name: Name of the column.
        array: Its n values.
        form: Gives the decimal mark.

    Returns:
        The proposal.
    """
    text = texts(array)
    if text is None:
        return Proposal(name=name, reason="of a type that cannot be modelled")
    present = text.filter(pc.invert(pc.is_in(text, value_set=pa.array(["", None, *_TOKENS], pa.string()))))
    unique = int(pc.count_distinct(present).as_py())
    reason = _reason(name, array, present, unique)
    if reason:
        return Proposal(name=name, reason=reason, repeats=len(present) < FEW_ROWS * unique < FEW_ROWS * len(present))
    missing = _missing_keys(text, array)
    keys = _described(array, present, missing, form)
    if not keys:
        return Proposal(name=name, reason="free text, or too many categories: list public ones with a hierarchy")
    keys = {"name": name, **keys, **missing}
    if not _fits(keys, array, form):
        return Proposal(name=name, reason="values of several kinds, to be described by hand")
    return Proposal(name=name, keys=keys)


def _reason(name: str, array: pa.Array, present: pa.Array, unique: int) -> str:
    if not name.strip():
        return "has no name"
    if looks_like_identifier(name):
        return "the name reads like an identifier"
    if unique == 0:
        return "always missing"
    if unique == 1 and len(present) == len(array):
        return "one value only"
    if looks_like_free_text(present):
        return "free text or an identifier"
    if unique == len(array) >= FEW_ROWS and pc.all(pc.match_substring_regex(present, "^[0-9]+$")).as_py():
        return "whole numbers, all different: a row number or an identifier"
    return ""


def _missing_keys(text: pa.Array, array: pa.Array) -> Keys:
    found = [token for token in _TOKENS if pc.any(pc.equal(text, token)).as_py()]
    absent = pc.any(pc.is_in(text, value_set=pa.array(["", None], pa.string()))).as_py()
    if pa.types.is_floating(array.type) and pc.any(pc.is_nan(array)).as_py():
        found = sorted({*found, "nan"})
    return {"missing": True, **({"missing_values": found} if found else {})} if found or absent else {}


def _described(array: pa.Array, present: pa.Array, missing: Keys, form: Format) -> Keys:
    tokens = tuple(missing.get("missing_values", ()))
    return (
        _boolean(present)
        or _number(array, tokens, form)
        or _date(array, tokens)
        or _categories(present, missing=bool(missing))
    )


def _fits(keys: Keys, array: pa.Array, form: Format) -> bool:
    """Tell whether the proposal is a valid column and every value fits it."""
    try:
        schema = Schema.from_mapping({"columns": [keys], "format": {"decimal": form.decimal}})
        Codec(schema).encode(pa.table([array], names=[keys["name"]]), source=keys["name"])
    except InputError:
        return False
    return True


def _boolean(present: pa.Array) -> Keys:
    unique = pc.unique(present)
    words = {str(word).lower() for word in unique.to_pylist()} if len(unique) <= MOST_CATEGORIES else set()
    both = len(words & set(TRUE_VALUES)) == 1 and len(words & set(FALSE_VALUES)) == 1
    return {"kind": "boolean"} if both and len(words) == 2 else {}


def _number(array: pa.Array, tokens: tuple[str, ...], form: Format) -> Keys:
    reading = numbers(array, tokens=tokens, decimal=form.decimal)
    values = reading.values[~reading.missing]
    if reading.unreadable.any() or not np.isfinite(values).all() or pa.types.is_temporal(array.type):
        return {}
    low, high = float(values.min()), float(values.max())
    if not (values == np.floor(values)).all():
        return {"kind": "continuous", **_bounds(low, high), **_shape(values)}
    if high - low < MOST_CATEGORIES:
        return {"kind": "integer", "lower": int(low), "upper": int(max(high, low + 1))}
    bounds = {key: int(bound) for key, bound in _bounds(low, high).items()}
    return {"kind": "integer", **bounds, "bins": WIDE_BINS, **_shape(values)}


def _bounds(low: float, high: float) -> Keys:
    """Round outwards to about two digits of the span: a rounder bound also tells less."""
    exponent = math.floor(math.log10(high - low)) - 1 if high > low else 0
    step, digits = 10.0**exponent, max(0, -exponent)
    lower = min(low, round(math.floor(low / step) * step, digits))
    upper = max(high, round(math.ceil(high / step) * step, digits))
    return {"lower": lower, "upper": upper if upper > lower else lower + 1}


def _shape(values: Floats) -> Keys:
    """Propose a logarithmic scale for a long tail, and a code of its own for a frequent zero."""
    keys: Keys = {}
    sizes = np.abs(values)
    if np.median(sizes) < SKEWED * sizes.max() and sizes.max() > 1:
        keys["scale"] = "log1p" if values.min() >= 0 else "symlog"
    if (values == 0).mean() > SPIKE:
        keys["points"] = [0]
    return keys


def _date(array: pa.Array, tokens: tuple[str, ...]) -> Keys:
    if not (is_text(array) or pa.types.is_date(array.type) or pa.types.is_timestamp(array.type)):
        return {}
    for written in _WRITTEN if is_text(array) else (None,):
        reading = days(array, tokens=tokens, written=written)
        if reading.unreadable.any():
            continue
        first, last = _years(reading.values, reading.missing)
        keys = {"kind": "date", "lower": f"{first:04d}-01-01", "upper": f"{last:04d}-12-31"}
        return keys | ({"format": written} if written else {})
    return {}


def _years(values: Floats, missing: Mask) -> tuple[int, int]:
    present = values[~missing]
    first, last = (EPOCH + datetime.timedelta(days=int(day)) for day in (present.min(), present.max()))
    return first.year, last.year


def _categories(present: pa.Array, *, missing: bool) -> Keys:
    counts = pc.value_counts(present)
    if len(counts) > MOST_CATEGORIES:
        return {}
    frequent = pc.greater_equal(counts.field("counts"), RAREST_CATEGORY)
    kept = sorted(counts.field("values").filter(frequent).to_pylist())
    other = len(kept) < len(counts) or OTHER in kept
    kept = [category for category in kept if category != OTHER]
    if len(kept) + other + missing < 2 or not kept:
        return {}
    return {"kind": "categorical", "categories": kept, **({"other": True} if other else {})}
