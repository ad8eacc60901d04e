"""Check and convert what a TOML or JSON file holds before a frozen dataclass is made of it."""

import datetime
from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import StrEnum
from typing import Any

from protocol.errors import SchemaError
from records.column import closest

_TABLES = ("aliases", "hierarchy", "lookup")  # tuples of pairs that a file writes as a table of texts
Plain = str | bool | int | float | list[Any] | dict[str, Any]


def arguments(mapping: Mapping[str, Any], made: type[Any], *, where: str) -> dict[str, Any]:
    """Turn a mapping into keyword arguments for a frozen dataclass.

    Lists become tuples, tables of texts become tuples of pairs, dates become ISO 8601 texts.

    Args:
        mapping: What the file holds.
        made: The dataclass; the annotations of its fields say which types are allowed.
        where: What to call this part of the file in an error.

    Returns:
        Keyword arguments.

    Raises:
        SchemaError: An unknown or lacking key, or a value of another type.
    """
    if not isinstance(mapping, Mapping):
        raise SchemaError(f"{where} is {mapping!r}.", remedy="Write it as a table of keys and values.")
    known = {field.name: field for field in fields(made)}
    for key in mapping:
        if key not in known:
            raise SchemaError(f"{where}: unknown key {key!r}.", remedy=closest(str(key), list(known)))
    for name, field in known.items():
        if name not in mapping and field.default is MISSING and field.default_factory is MISSING:
            raise SchemaError(f"{where}: {name} is lacking.", remedy=f"Add {name}.")
    return {key: _converted(value, str(known[key].type), f"{where}: {key}") for key, value in mapping.items()}


def plain(made: Any) -> dict[str, Plain]:
    """Turn a frozen dataclass into what TOML and JSON can hold, leaving out defaults.

    Args:
        made: Instance of a dataclass.

    Returns:
        Texts, numbers, booleans, lists and dictionaries.
    """
    kept = {
        field.name: getattr(made, field.name) for field in fields(made) if getattr(made, field.name) != field.default
    }
    return {name: _plain_value(name, value) for name, value in kept.items()}


def _plain_value(name: str, value: Any) -> Plain:
    if name in _TABLES:
        return dict(value)
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, StrEnum) else value


def _converted(value: Any, annotation: str, where: str) -> Any:
    if "records." in annotation:
        return value  # a dataclass of ours, made by the caller
    if isinstance(value, datetime.date):
        value = value.isoformat()
    if "tuple[tuple[str" in annotation:
        _demand(where, value, "a table of texts", fits=isinstance(value, Mapping))
        return tuple((_text(alias, where), _text(meaning, where)) for alias, meaning in value.items())
    if "tuple[str" in annotation:
        _demand(where, value, "a list of texts", fits=isinstance(value, list | tuple))
        return tuple(_text(item, where) for item in value)
    if "tuple[int" in annotation:
        _demand(where, value, "a list of numbers", fits=isinstance(value, list | tuple))
        return tuple(value)
    if "bool" in annotation:
        _demand(where, value, "true or false", fits=isinstance(value, bool))
    elif "float" in annotation:
        dates = "str" in annotation
        number = isinstance(value, int | float | str if dates else int | float) and not isinstance(value, bool)
        _demand(where, value, "a number or date" if dates else "a number", fits=number)
    elif "int" in annotation:
        _demand(where, value, "a whole number", fits=isinstance(value, int) and not isinstance(value, bool))
    else:
        _text(value, where)
    return value


def _text(value: Any, where: str) -> str:
    _demand(where, value, "text in quotation marks", fits=isinstance(value, str))
    return str(value)


def _demand(where: str, value: object, wanted: str, *, fits: bool) -> None:
    if not fits:
        raise SchemaError(f"{where} = {value!r}.", remedy=f"Write {wanted}.")
