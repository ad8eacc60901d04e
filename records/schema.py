"""The public data dictionary of a study: columns, target, person key, and the form of the source."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from protocol.errors import SchemaError
from protocol.image_shape import ImageShape
from protocol.terms import SITE_NAME
from records.bins import Scale
from records.column import Column, Kind, OutOfBounds
from records.constraints import Broken, Constraint
from records.images import IMAGE_COLUMN
from records.mapping import Plain, arguments, plain
from records.rule_book import RuleBook, read_constraints

__all__ = ["Broken", "Column", "Constraint", "Format", "Kind", "OutOfBounds", "Scale", "Schema"]

# Written as tables of their own.
_PARTS = ("columns", "constraints", "format", "image")


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a text file is written; Parquet files and databases ignore it.

    Attributes:
        separator: One character between fields.
        header: Whether the first line (after ``skip_rows``) names the columns.
        names: Names of the columns in order, for a file without header.
        skip_rows: Lines before the header, or before the records.
        comment: Further lines at the top that begin with this text are left out; empty for none.
        decimal: ``"."`` or ``","``.
        quote: One character around texts that hold the separator; empty for none.
        encoding: Text encoding, such as ``"utf-8"`` or ``"latin-1"``.
    """

    separator: str = ","
    header: bool = True
    names: tuple[str, ...] = ()
    skip_rows: int = 0
    comment: str = ""
    decimal: str = "."
    quote: str = '"'
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        """Check the fields against each other."""
        if len(self.separator) != 1 or self.separator in "\r\n":
            raise SchemaError(f"format: separator = {self.separator!r}.", remedy="Give one character.")
        if len(self.quote) > 1 or self.quote == self.separator:
            raise SchemaError(f"format: quote = {self.quote!r}.", remedy="Give one other character, or none.")
        if self.decimal not in (".", ","):
            raise SchemaError(f"format: decimal = {self.decimal!r}.", remedy='Use "." or ",".')
        if self.skip_rows < 0:
            raise SchemaError(f"format: skip_rows = {self.skip_rows}.", remedy="Use zero or more.")
        if self.header and self.names:
            raise SchemaError("format: names is given although header = true.", remedy="Remove one of the two.")
        if not self.header and not self.names:
            raise SchemaError("format: header = false without names.", remedy="List the names of all columns in order.")
        if len(set(self.names)) < len(self.names):
            raise SchemaError("format: names holds a name twice.", remedy="Give every column a name of its own.")
        try:
            "".encode(self.encoding)
        except LookupError:
            raise SchemaError(
                f"format: encoding = {self.encoding!r} is not known.",
                remedy='Use "utf-8" or "latin-1", for example.',
            ) from None


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The data dictionary that every site of a study shares.

    Attributes:
        columns: Modelled columns; their order is the order of the codes.
        target: Column that a predictive task is about, if any.
        person: Source column that says whom a record is about; never modelled.
        site_column: Modelled column that says which site a record is from, its categories the names of all sites.
            Every site fills it with its own name; what a source holds there is never read.
        drop: Source columns that are left out, identifiers among them.
        missing_values: Texts that mean missing in every column; the empty text always does.
        constraints: What every record fulfils by public knowledge, and every synthetic record therefore does.
        format: How a text file is written.
        image: Shape of the image that every record has beside its columns; None for plain tables.
        description: Text for people.

    Raises:
        SchemaError: Parts contradict each other.

    Examples:
        >>> schema = Schema.from_mapping({
        ...     "target": "ill",
        ...     "drop": ["email"],
        ...     "columns": [
        ...         {"name": "age", "kind": "integer", "lower": 0, "upper": 89},
        ...         {"name": "ill", "kind": "boolean", "missing": True},
        ...     ],
        ... })
        >>> schema.names, schema.cardinalities
        (('age', 'ill'), (90, 3))
    """

    columns: tuple[Column, ...]
    target: str | None = None
    person: str | None = None
    site_column: str | None = None
    drop: tuple[str, ...] = ()
    missing_values: tuple[str, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    format: Format = field(default=Format())
    image: ImageShape | None = None
    description: str = ""

    def __post_init__(self) -> None:
        """Check the parts against each other."""
        if not self.columns:
            raise SchemaError("The schema has no columns.", remedy="Add at least one [[columns]] table.")
        self._check_names()
        for column in self.columns:
            column.check_missing(self.missing_values)
        if self.target is not None and self.target not in self.names:
            raise SchemaError(f"target = {self.target!r} is not a column.", remedy="Name one of the columns.")
        if self.site_column is not None:
            self._check_site_column(self.site_column)
        if not self.format.header:
            self._check_positions()
        # Read them now, so that a wrong one is refused here.
        _ = self.rule_book

    def _check_site_column(self, name: str) -> None:
        """Refuse a site column whose categories are not just the names of sites."""
        if name not in self.names:
            raise SchemaError(
                f"site_column = {name!r} is not a column.", remedy="Add it to columns, its categories the sites' names."
            )
        column = self.column(name)
        plain_list = column.kind is Kind.CATEGORICAL and not (column.other or column.missing or column.aliases)
        if not plain_list or not all(map(SITE_NAME.fullmatch, column.categories)):
            raise SchemaError(
                f"Column {name}: is the site column and holds more than names of sites.",
                remedy="Make it categorical, with the sites' names as categories: without other, missing or aliases.",
            )

    def _check_names(self) -> None:
        mentioned = list(self.source_names)
        twice = sorted({name for name in mentioned if mentioned.count(name) > 1})
        if twice:
            raise SchemaError(
                f"Column {twice[0]}: is mentioned twice.",
                remedy="Let it stand once among columns, drop and person.",
            )

    def _check_positions(self) -> None:
        # No source needs to have the site column.
        listed, mentioned = set(self.format.names), set(self.source_names)
        mentioned -= {self.site_column} - listed
        lacking, extra = sorted(mentioned - listed), sorted(listed - mentioned)
        if lacking:
            raise SchemaError(f"Column {lacking[0]}: is not among format.names.", remedy="Add it to format.names.")
        if extra:
            raise SchemaError(
                f"Column {extra[0]}: stands in format.names only.", remedy="Add it to columns or to drop."
            )

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a schema from a TOML file.

        Args:
            path: File.

        Returns:
            The schema.

        Raises:
            SchemaError: The file cannot be read, is not TOML, or does not describe a schema.
        """
        try:
            mapping = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise SchemaError(f"{path}: {error.strerror}.", remedy="Give the path of a schema file.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SchemaError(f"{path}: is not TOML: {error}.", remedy="Mend the line that is named.") from error
        return cls.from_mapping(mapping)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Make a schema from what a TOML or JSON file holds.

        Args:
            mapping: Keys as the attributes; ``columns`` is a list of tables, ``format`` a table.

        Returns:
            The schema.

        Raises:
            SchemaError: Unknown or lacking keys, wrong types, or contradictions.
        """
        rest = {key: value for key, value in dict(mapping).items() if key not in _PARTS}
        columns = tuple(_column(table, index) for index, table in enumerate(_tables(mapping, "columns"), start=1))
        constraints = tuple(
            Constraint(**arguments(table, Constraint, where=f"Constraint number {index}"))
            for index, table in enumerate(_tables(mapping, "constraints"), start=1)
        )
        form = Format(**arguments(mapping.get("format", {}), Format, where="format"))
        parts = {"columns": columns, "constraints": constraints, "format": form, "image": _image(mapping)}
        return cls(**arguments({**rest, "columns": []}, cls, where="schema") | parts)

    def to_mapping(self) -> dict[str, Plain]:
        """Give the schema as texts, numbers, lists and dictionaries, without defaults.

        Returns:
            A mapping that :meth:`from_mapping` turns into an equal schema.
        """
        mapping = plain(self)
        mapping["columns"] = [plain(column) for column in self.columns]
        if self.constraints:
            mapping["constraints"] = [plain(constraint) for constraint in self.constraints]
        if self.format != Format():
            mapping["format"] = plain(self.format)
        if self.image is not None:
            mapping["image"] = plain(self.image)
        return mapping

    def canonical(self) -> bytes:
        """Give the schema as canonical JSON, the bytes that a hash or signature covers."""
        return json.dumps(self.to_mapping(), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @cached_property
    def rule_book(self) -> RuleBook:
        """The constraints, ready to check records and to complete drawn ones."""
        return read_constraints(self.constraints, columns=self.columns)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the modelled columns, in the order of the codes."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def cardinalities(self) -> tuple[int, ...]:
        """Number of codes of each column, K_0 .. K_{C-1}."""
        return tuple(column.cardinality for column in self.columns)

    @cached_property
    def code_cardinalities(self) -> tuple[int, ...]:
        """Number of codes of each coordinate of a record: of its columns, then of the pixels of its image."""
        pixels = () if self.image is None else (self.image.levels,) * self.image.size
        return self.cardinalities + pixels

    @cached_property
    def source_names(self) -> tuple[str, ...]:
        """Every column that the source may have: modelled, dropped, the person key, and the image."""
        images = (IMAGE_COLUMN,) if self.image is not None else ()
        return self.names + self.drop + ((self.person,) if self.person is not None else ()) + images

    def index(self, name: str) -> int:
        """Find the position of a column among the codes.

        Args:
            name: Name of a modelled column.

        Returns:
            Position, counted from zero.

        Raises:
            SchemaError: There is no such column.
        """
        if name not in self.names:
            raise SchemaError(f"{name!r} is not a column.", remedy=f"Use one of {', '.join(self.names)}.")
        return self.names.index(name)

    def column(self, name: str) -> Column:
        """Find a modelled column by name.

        Args:
            name: Name of the column.

        Returns:
            The column.

        Raises:
            SchemaError: There is no such column.
        """
        return self.columns[self.index(name)]

    def code_labels(self, name: str) -> tuple[str, ...]:
        """Name every code of a column for people.

        Args:
            name: Name of the column.

        Returns:
            One text per code; ``other`` and ``(missing)`` name the extra codes.

        Raises:
            SchemaError: There is no such column.
        """
        return self.column(name).code_labels


def _tables(mapping: Mapping[str, Any], key: str) -> Sequence[Any]:
    tables = mapping.get(key, [])
    if not isinstance(tables, list | tuple):
        raise SchemaError(f"{key} is not a list.", remedy=f"Write [[{key}]] tables, one for each.")
    return tables


def _image(mapping: Mapping[str, Any]) -> ImageShape | None:
    if mapping.get("image") is None:
        return None
    return ImageShape(**arguments(mapping["image"], ImageShape, where="image"))


def _column(table: Any, index: int) -> Column:
    name = table.get("name", f"number {index}") if isinstance(table, Mapping) else f"number {index}"
    return Column(**arguments(table, Column, where=f"Column {name}"))
