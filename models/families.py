"""The closed table of model families."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from enum import StrEnum
from typing import Any, get_args, get_origin

from models.family import Family
from models.gan import AdversarialNetwork, GanOptions
from models.layout import OneHotLayout
from models.vae import VaeOptions, VariationalAutoencoder
from protocol.errors import StudyError

_TABLE: dict[str, tuple[type[Any], Callable[[OneHotLayout, Any], Family]]] = {
    "vae": (VaeOptions, VariationalAutoencoder),
    "gan": (GanOptions, AdversarialNetwork),
}
FAMILIES = tuple(_TABLE)


def build_family(
    name: str, options: Mapping[str, object], *, cardinalities: tuple[int, ...], label: int | None
) -> Family:
    """Return a model with fresh weights.

    Args:
        name: One of `FAMILIES`.
        options: The family's own options, in TOML's types.
        cardinalities: Number of codes of every column.
        label: Index of the schema's target, for families that condition on it.

    Raises:
        StudyError: If the family or an option is unknown, or a value has the wrong type.
    """
    if name not in _TABLE:
        raise StudyError(f"model.family is {name!r}.", remedy=f"Use one of {', '.join(FAMILIES)}.")
    kind, construct = _TABLE[name]
    declared = {field.name: field for field in fields(kind)}
    values: dict[str, object] = {"label": label} if "label" in declared else {}
    for key, value in options.items():
        if key not in declared or key == "label":
            known = ", ".join(sorted(set(declared) - {"label"}))
            raise StudyError(f"model.options.{key} is unknown to family {name}.", remedy=f"Known: {known}.")
        values[key] = _typed(f"model.options.{key}", declared[key].type, value)
    return construct(OneHotLayout(cardinalities=cardinalities), kind(**values))


def _typed(key: str, kind: Any, value: object) -> object:
    """Return a TOML value as the type that the options declare."""
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_typed(key, get_args(kind)[0], item) for item in value)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        words = [member.value for member in kind]
        if value in words:
            return kind(value)
        raise StudyError(f"{key} is {value!r}.", remedy=f"Use one of {', '.join(words)}.")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and number:
        return float(value)  # type: ignore[arg-type]  # checked to be a number
    if kind is int and number and isinstance(value, int):
        return value
    raise StudyError(f"{key} is {value!r}.", remedy=f"Give a value of type {getattr(kind, '__name__', kind)}.")
