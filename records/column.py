"""One column of the data dictionary, and the codes that it has."""

import datetime
import difflib
import math
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cached_property

import numpy as np

from protocol.errors import SchemaError
from records.bins import WIDEST_WHOLE_NUMBER, Bins, Scale, explicit_bins, spaced_bins
from records.identifiers import looks_like_identifier

Number = int | float
OTHER = "other"
MISSING = "(missing)"
EPOCH = datetime.date(1970, 1, 1)
TRUE_VALUES = ("true", "t", "yes", "y", "1")
FALSE_VALUES = ("false", "f", "no", "n", "0")


class Kind(StrEnum):
    """What the values of a column are."""

    CATEGORICAL = "categorical"
    ORDINAL = "ordinal"
    INTEGER = "integer"
    CONTINUOUS = "continuous"
    BOOLEAN = "boolean"
    DATE = "date"


class OutOfBounds(StrEnum):
    """What happens to a value beyond the public bounds."""

    REFUSE = "refuse"
    CLIP = "clip"


NAMED = (Kind.CATEGORICAL, Kind.ORDINAL)
BOUNDED = (Kind.INTEGER, Kind.CONTINUOUS, Kind.DATE)
DEFAULT_BINS = {Kind.INTEGER: 100, Kind.CONTINUOUS: 32, Kind.DATE: 100}

# Fields that only some kinds have; setting one on another kind is refused, since it would be ignored.
_ONLY_FOR: dict[str, tuple[Kind, ...]] = {
    "categories": NAMED,
    "other": (Kind.CATEGORICAL,),
    "aliases": NAMED,
    "hierarchy": (Kind.CATEGORICAL,),
    "true_values": (Kind.BOOLEAN,),
    "false_values": (Kind.BOOLEAN,),
    "lower": BOUNDED,
    "upper": BOUNDED,
    "bins": BOUNDED,
    "scale": (Kind.INTEGER, Kind.CONTINUOUS),
    "edges": (Kind.INTEGER, Kind.CONTINUOUS),
    "points": (Kind.INTEGER, Kind.CONTINUOUS),
    "learn_bins": (Kind.INTEGER, Kind.CONTINUOUS),
    "out_of_bounds": BOUNDED,
    "format": (Kind.DATE,),
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One modelled column. Everything here is public knowledge: nothing may be read off the records.

    Attributes:
        name: Name in the source.
        kind: What the values are.
        categories: Allowed texts, in rank order for an ordinal column.
        other: Whether unknown categories share one more code, ``other``.
        aliases: Pairs (text in the source, category it means).
        hierarchy: Pairs (category, its public group), one per category; empty for none. Models learn a column of
            many categories group by group.
        true_values: Texts that mean true, in any letter case (boolean columns).
        false_values: Texts that mean false, in any letter case.
        lower: Smallest allowed value; an ISO 8601 date for a date column.
        upper: Largest allowed value.
        bins: Number of cells; whole numbers and dates with at most so many values get a code for each.
        scale: Spacing of the cells, and of the values that are drawn within a cell.
        edges: Explicit edges instead of ``lower``, ``upper`` and ``bins``.
        points: Values with a cell of their own, such as a zero that many records hold.
        learn_bins: Whether cells may be put together by released counts, for a later study.
        missing: Whether a value may be missing; that is one more code and is modelled.
        missing_values: Texts (or numbers, as text) that mean missing in this column.
        out_of_bounds: Whether values beyond the bounds are refused or moved to the bound.
        format: How dates are written, as for strptime; ISO 8601 by default.
        not_identifier: Confirms that the column is harmless although its name reads like an identifier.
        description: Text for people.

    Raises:
        SchemaError: The fields contradict each other; the message names the column.

    Examples:
        >>> age = Column(name="age", kind=Kind.INTEGER, lower=18, upper=90, missing=True)
        >>> age.cardinality, age.code_labels[0], age.code_labels[-1]
        (74, '18', '(missing)')
    """

    name: str
    kind: Kind
    categories: tuple[str, ...] = ()
    other: bool = False
    aliases: tuple[tuple[str, str], ...] = ()
    hierarchy: tuple[tuple[str, str], ...] = ()
    true_values: tuple[str, ...] = ()
    false_values: tuple[str, ...] = ()
    lower: Number | str | None = None
    upper: Number | str | None = None
    bins: int | None = None
    scale: Scale = Scale.LINEAR
    edges: tuple[Number, ...] = ()
    points: tuple[Number, ...] = ()
    learn_bins: bool = False
    missing: bool = False
    missing_values: tuple[str, ...] = ()
    out_of_bounds: OutOfBounds = OutOfBounds.REFUSE
    format: str | None = None
    not_identifier: bool = False
    description: str = ""

    def __post_init__(self) -> None:
        """Check the fields against each other."""
        if not self.name or self.name != self.name.strip():
            raise SchemaError(f"A column is named {self.name!r}.", remedy="Give a name without blanks around it.")
        _closed(self, "kind", Kind)
        _closed(self, "scale", Scale)
        _closed(self, "out_of_bounds", OutOfBounds)
        self._check_identifier()
        self._check_fields_of_kind()
        if self.kind in NAMED:
            self._check_categories()
        elif self.kind is Kind.BOOLEAN:
            self._check_booleans()
        else:
            self._settle_bounds()
        if self.cardinality < 2:
            raise self._wrong("has one possible value", "Put it in drop: it says nothing.")
        self.check_missing(self.missing_values)

    def _wrong(self, problem: str, remedy: str) -> SchemaError:
        return SchemaError(f"Column {self.name}: {problem}.", remedy=remedy)

    def _check_identifier(self) -> None:
        if looks_like_identifier(self.name) and not self.not_identifier:
            raise self._wrong(
                "the name reads like an identifier",
                "Put it in drop, or make it the person key; not_identifier = true is for harmless codes.",
            )

    def _check_fields_of_kind(self) -> None:
        for field in fields(self):
            allowed = _ONLY_FOR.get(field.name)
            if allowed and self.kind not in allowed and getattr(self, field.name) != field.default:
                raise self._wrong(
                    f"{field.name} does not go with kind = {str(self.kind)!r}",
                    f"Remove {field.name}, or choose a kind among {', '.join(allowed)}.",
                )

    def _check_categories(self) -> None:
        if not self.categories:
            raise self._wrong("has no categories", "List the public categories.")
        self._check_texts("categories", self.categories)
        self._check_texts("aliases", tuple(alias for alias, _ in self.aliases))
        known = set(self.categories)
        for alias, category in self.aliases:
            if category not in known:
                raise self._wrong(f"alias {alias!r} stands for {category!r}", "Let it stand for one of the categories.")
            if alias in known:
                raise self._wrong(f"{alias!r} is an alias and a category", "Remove one of the two.")
        if self.hierarchy:
            self._check_hierarchy(known)
        if self.other and OTHER in self.categories:
            raise self._wrong(f"{OTHER!r} is a category although other = true", f"Remove the category {OTHER!r}.")
        if self.missing and MISSING in self.categories:
            raise self._wrong(f"{MISSING!r} is a category although missing = true", "Add it to missing_values instead.")

    def _check_hierarchy(self, known: set[str]) -> None:
        self._check_texts("hierarchy", tuple(category for category, _ in self.hierarchy))
        placed = {category for category, _ in self.hierarchy}
        for category, group in self.hierarchy:
            if category not in known:
                raise self._wrong(f"hierarchy holds {category!r}", "Name categories only; aliases follow theirs.")
            if not group or group != group.strip():
                raise self._wrong(f"hierarchy holds the group {group!r}", "Write it without blanks, and not empty.")
        lacking = [category for category in self.categories if category not in placed]
        if lacking:
            raise self._wrong(f"hierarchy gives {lacking[0]!r} no group", "Give every category a public group.")

    def _check_texts(self, what: str, texts: tuple[str, ...]) -> None:
        if len(set(texts)) < len(texts):
            twice = next(text for text in texts if texts.count(text) > 1)
            raise self._wrong(f"{what} holds {twice!r} twice", "List each once.")
        for text in texts:
            if not text or text != text.strip():
                raise self._wrong(f"{what} holds {text!r}", "Write it without blanks around it, and not empty.")

    def _check_booleans(self) -> None:
        if bool(self.true_values) != bool(self.false_values):
            raise self._wrong("gives only one of true_values and false_values", "Give both, or neither.")
        texts = tuple(text.lower() for text in self.words(truth=True) + self.words(truth=False))
        self._check_texts("true_values and false_values", texts)

    def words(self, *, truth: bool) -> tuple[str, ...]:
        """Texts of a boolean column that mean true, or false."""
        if truth:
            return self.true_values or TRUE_VALUES
        return self.false_values or FALSE_VALUES

    def _settle_bounds(self) -> None:
        """Bring bounds, edges and points into the type of the kind; default the bounds to the edges."""
        if self.edges:
            if self.bins is not None:
                raise self._wrong("gives edges as well as bins", "Give edges alone.")
            for bound, edge in (("lower", self.edges[0]), ("upper", self.edges[-1])):
                if getattr(self, bound) not in (None, edge):
                    raise self._wrong(f"{bound} differs from the edges", f"Remove {bound}.")
                object.__setattr__(self, bound, edge)
        if self.lower is None or self.upper is None:
            raise self._wrong("lacks lower or upper", "Give both public bounds.")
        for field in ("lower", "upper"):
            object.__setattr__(self, field, self._settled(field, getattr(self, field)))
        for field in ("edges", "points"):
            object.__setattr__(self, field, tuple(self._settled(field, value) for value in getattr(self, field)))
        if self.position(self.lower) >= self.position(self.upper):
            raise self._wrong(f"lower {self.lower} is not below upper {self.upper}", "Give bounds in increasing order.")

    def _settled(self, field: str, value: Number | str) -> Number | str:
        if self.kind is Kind.DATE:
            try:
                return datetime.date.fromisoformat(str(value)).isoformat()
            except ValueError:
                raise self._wrong(f"{field} is {value!r}", "Write a date as YYYY-MM-DD.") from None
        if isinstance(value, bool | str) or not math.isfinite(value):
            raise self._wrong(f"{field} holds {value!r}", "Give a finite number.")
        if self.kind is Kind.CONTINUOUS:
            return float(value)
        if value != math.floor(value) or abs(value) >= WIDEST_WHOLE_NUMBER:
            raise self._wrong(f"{field} holds {value!r}", "Give a whole number below 2 to the power of 53.")
        return int(value)

    def position(self, value: Number | str) -> float:
        """Place a bound on the line: the number itself, or the days of a date since 1970-01-01."""
        if isinstance(value, str):
            return float((datetime.date.fromisoformat(value) - EPOCH).days)
        return float(value)

    def check_missing(self, tokens: tuple[str, ...]) -> None:
        """Refuse tokens for a missing value that are also a proper value of this column."""
        for token in tokens:
            if token in self.categories or token in (alias for alias, _ in self.aliases):
                raise self._wrong(f"{token!r} is a category and means missing", "Keep one of the two meanings.")
            if self.kind is Kind.BOOLEAN and token.lower() in self.words(truth=True) + self.words(truth=False):
                raise self._wrong(f"{token!r} is a truth value and means missing", "Keep one of the two meanings.")
            if self.kind in BOUNDED and self._within(token):
                raise self._wrong(
                    f"{token!r} means missing and lies within the bounds", "Choose bounds that leave it out."
                )

    def _within(self, token: str) -> bool:
        number = number_of(token) if self.kind is not Kind.DATE else self._day_of(token)
        if number is None or self.lower is None or self.upper is None:
            return False
        return self.position(self.lower) <= number <= self.position(self.upper)

    def _day_of(self, token: str) -> float | None:
        try:
            return self.position(token)
        except ValueError:
            return None

    @cached_property
    def cells(self) -> Bins | None:
        """Cells of a bounded column; None for the other kinds."""
        if self.lower is None or self.upper is None:
            return None
        whole, where = self.kind is not Kind.CONTINUOUS, f"Column {self.name}"
        points = [self.position(point) for point in self.points]
        if self.edges:
            edges = [self.position(edge) for edge in self.edges]
            return explicit_bins(edges, points=points, whole=whole, where=where, scale=self.scale)
        return spaced_bins(
            lower=self.position(self.lower),
            upper=self.position(self.upper),
            count=DEFAULT_BINS[self.kind] if self.bins is None else self.bins,
            scale=self.scale,
            points=points,
            whole=whole,
            where=where,
        )

    @property
    def values_cardinality(self) -> int:
        """Number of codes that stand for a value (all but the one for missing)."""
        if self.cells is not None:
            return self.cells.count
        return 2 if self.kind is Kind.BOOLEAN else len(self.categories) + self.other

    @property
    def cardinality(self) -> int:
        """Number of codes, ``0..K-1``; the last one means missing where ``missing`` is set."""
        return self.values_cardinality + self.missing

    @cached_property
    def group_codes(self) -> tuple[int, ...]:
        """Public group of each code, ``0..G-1``; () without a hierarchy.

        Groups are numbered in the order of their first category. The codes for ``other`` and for missing each have
        a group of their own.

        Examples:
            >>> icd = {"C50.1": "breast", "C50.9": "breast", "E11": "diabetes"}
            >>> Column(
            ...     name="diagnosis",
            ...     kind=Kind.CATEGORICAL,
            ...     categories=tuple(icd),
            ...     hierarchy=tuple(icd.items()),
            ...     missing=True,
            ... ).group_codes
            (0, 0, 1, 2)
        """
        if not self.hierarchy:
            return ()
        group_of = dict(self.hierarchy)
        numbers: dict[str, int] = {}
        codes = [numbers.setdefault(group_of[category], len(numbers)) for category in self.categories]
        return (*codes, *range(len(numbers), len(numbers) + self.other + self.missing))

    @cached_property
    def code_labels(self) -> tuple[str, ...]:
        """Text for people, one per code."""
        return self._value_labels() + ((MISSING,) if self.missing else ())

    def _value_labels(self) -> tuple[str, ...]:
        if self.cells is None:
            if self.kind is Kind.BOOLEAN:
                return ("false", "true")
            return self.categories + ((OTHER,) if self.other else ())
        if self.kind is not Kind.DATE:
            return self.cells.labels()
        days = [EPOCH + datetime.timedelta(days=int(day)) for day in self.cells.edges[:-1]]
        lasts = [EPOCH + datetime.timedelta(days=int(day) - 1) for day in self.cells.edges[1:]]
        return tuple(f"{day}" if day == last else f"{day} to {last}" for day, last in zip(days, lasts, strict=True))

    @cached_property
    def code_numbers(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Number of each code, float64 [K]: mid-point, rank or truth value; NaN where there is none."""
        numbers = np.full(self.cardinality, np.nan)
        if self.cells is not None:
            numbers[: self.cells.count] = self.cells.centres()
        elif self.kind is not Kind.CATEGORICAL:
            numbers[: self.values_cardinality] = np.arange(self.values_cardinality)
        return numbers


def number_of(token: str) -> float | None:
    """Read a token as a finite number; None when it is not one."""
    try:
        number = float(token)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def closest(word: str, allowed: list[str]) -> str:
    """Suggest the allowed word nearest to a misspelt one."""
    near = difflib.get_close_matches(word, allowed, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Allowed: {', '.join(sorted(allowed))}."


def _closed(column: Column, field: str, vocabulary: type[StrEnum]) -> None:
    """Bring a field into its closed vocabulary, or refuse it with the nearest allowed word."""
    value = getattr(column, field)
    allowed = [str(word) for word in vocabulary]
    if value not in allowed:
        raise SchemaError(f"Column {column.name}: {field} = {value!r}.", remedy=closest(str(value), allowed))
    object.__setattr__(column, field, vocabulary(value))
