"""A first draft of a schema, read off one site's own file, for people to correct from public knowledge."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import tomli_w

from protocol.errors import RecordsError
from records.images import IMAGE_COLUMN
from records.mapping import plain
from records.proposal import Keys, Proposal, propose
from records.reading import flat
from records.schema import Format
from records.sources import open_location
from records.sources.form import sniffed_form

CONFIRM = "# to be confirmed from public knowledge"
_NOT_FROM_RECORDS = ("name", "kind", "bins")
_LONGEST_LINE = 60
_HEAD = """\
# A draft of a schema, made from the records of one site: keep it there. Bounds, categories and other values
# marked "to be confirmed from public knowledge" were read off the records outside of any privacy budget, and
# would betray them if this file were shared. Replace each by one that is known without the records (a code
# book, a form, common sense), take the marks off, and only then send the schema to others.
"""
_TAIL = """\
# What every record fulfils by public knowledge, so that every synthetic one does. Nothing is proposed here: a rule
# that was seen in the records would betray them.
# [[constraints]]
# holds = "systolic >= diastolic"
"""


def draft_schema(location: str | Path, *, form: Format | None = None) -> str:
    """Propose a schema for a source.

    Separator, header, kinds, bounds, categories, tokens for missing values, identifiers to drop and
    candidates for the person key are guessed. The text loads with :meth:`records.schema.Schema.from_toml`,
    and the source loads with that. It is the site's secret until its values are replaced by public ones.

    Args:
        location: As for :func:`records.sources.open_source`.
        form: How a text file is written; guessed when None.

    Returns:
        TOML text.

    Raises:
        RecordsError: The source cannot be read, or no column is left to model.
    """
    written = sniffed_form(location) if form is None else form
    table, name = _table(location, written)
    names = [column for column in table.schema.names if not _holds_images(table.schema, column)]
    proposals = [propose(column, flat(table.column(column)), written) for column in names]
    if not any(proposal.keys for proposal in proposals):
        raise RecordsError(
            f"{name}: no column can be modelled.",
            remedy="Every column is an identifier, constant, free text or too rare.",
        )
    parts = [_HEAD, _top(proposals), _format(written)]
    parts += [_image(table.schema) for column in table.schema.names if column not in names]
    parts += [_column(proposal.keys) for proposal in proposals if proposal.keys]
    return "\n".join(part for part in [*parts, _TAIL] if part)


def _table(location: str | Path, form: Format) -> tuple[pa.Table, str]:
    source = open_location(location, form=form, drop=())
    tables = [pa.Table.from_batches([batch]) for batch in source.batches()]
    if not sum(len(table) for table in tables):
        raise RecordsError(f"{source.name}: holds no records.", remedy="Give a source with at least one record.")
    try:
        return pa.concat_tables(tables, promote_options="permissive"), source.name
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        raise RecordsError(
            f"{source.name}: a column changes its type on the way.", remedy="Store each column with one type."
        ) from None


def _holds_images(schema: pa.Schema, column: str) -> bool:
    return column == IMAGE_COLUMN and isinstance(schema.field(column).type, pa.FixedShapeTensorType)


def _image(schema: pa.Schema) -> str:
    sides = dict(zip(("height", "width", "channels"), schema.field(IMAGE_COLUMN).type.shape, strict=True))
    return f"[image]  {CONFIRM}\n" + tomli_w.dumps(sides)


def _top(proposals: list[Proposal]) -> str:
    lines = ['# target = "..."  # the column that a predictive task is about, if any']
    lines += [
        f"# person = {_toml(proposal.name)}  # a candidate for the person key; take it off drop if it is"
        for proposal in proposals
        if proposal.reason and proposal.repeats
    ]
    dropped = [proposal for proposal in proposals if proposal.reason]
    if dropped:
        lines.append("drop = [")
        lines += [f"    {_toml(proposal.name)},  # {proposal.reason}" for proposal in dropped]
        lines.append("]")
    return "\n".join(lines) + "\n"


def _format(form: Format) -> str:
    keys = plain(form)
    return "[format]  # as guessed from the first lines\n" + tomli_w.dumps(keys) if keys else ""


def _column(keys: Keys) -> str:
    lines = ["[[columns]]"]
    for key, value in keys.items():
        mark = "" if key in _NOT_FROM_RECORDS else f"  {CONFIRM}"
        lines.append(f"{key} = {_toml(value)}{mark}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """Write one value as TOML, a short list on one line."""
    if isinstance(value, list):
        items = [_toml(item) for item in value]
        line = f"[{', '.join(items)}]"
        return line if len(line) <= _LONGEST_LINE else "[\n" + "".join(f"    {item},\n" for item in items) + "]"
    return tomli_w.dumps({"value": value}).strip().removeprefix("value = ")
