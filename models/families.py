"""The closed table of model families, and how a study's options become one."""

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Generic, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from models.family import Family
from models.gan import AdversarialNetwork, GanOptions
from models.images.gan import ImageAdversarialNetwork, ImageGanOptions
from models.images.moments import ImageMixture, ImageMomentsOptions
from models.images.shape import ImageShape
from models.images.vae import ImageAutoencoder, ImageVaeOptions
from models.layout import OneHotLayout
from models.moments import MomentGenerator, MomentsOptions
from models.vae import VaeOptions, VariationalAutoencoder
from models.vaegan import AdversarialAutoencoder, VaeGanOptions
from protocol.errors import StudyError

_Options = TypeVar("_Options")


@dataclass(frozen=True, kw_only=True)
class _Entry(Generic[_Options]):
    """How one family is made.

    Attributes:
        options: The class of its options.
        construct: Makes the model.
        labelled: Whether the option ``label`` is by default the schema's target.
    """

    options: type[_Options]
    construct: Callable[[OneHotLayout, _Options], Family]
    labelled: bool = False


_TABLE: Mapping[str, _Entry[Any]] = {
    "vae": _Entry(options=VaeOptions, construct=VariationalAutoencoder, labelled=True),
    "gan": _Entry(options=GanOptions, construct=AdversarialNetwork, labelled=True),
    "vaegan": _Entry(options=VaeGanOptions, construct=AdversarialAutoencoder, labelled=True),
    "moments": _Entry(options=MomentsOptions, construct=MomentGenerator, labelled=True),
}

FAMILIES: tuple[str, ...] = tuple(_TABLE)


@dataclass(frozen=True, kw_only=True)
class _ImageEntry(Generic[_Options]):
    """How one family of images is made; as :class:`_Entry`, with the shape of the images."""

    options: type[_Options]
    construct: Callable[[OneHotLayout, ImageShape, _Options], Family]
    labelled: bool = False


# What a study's family means where its schema has an image.
_IMAGE_TABLE: Mapping[str, _ImageEntry[Any]] = {
    "vae": _ImageEntry(options=ImageVaeOptions, construct=ImageAutoencoder),
    "gan": _ImageEntry(options=ImageGanOptions, construct=ImageAdversarialNetwork),
    "moments": _ImageEntry(options=ImageMomentsOptions, construct=ImageMixture, labelled=True),
}

IMAGE_FAMILIES: tuple[str, ...] = tuple(_IMAGE_TABLE)


def build_family(
    name: str,
    options: Mapping[str, object],
    *,
    cardinalities: tuple[int, ...],
    label: int | None,
    ordered: tuple[int, ...] = (),
    groups: tuple[tuple[int, ...], ...] = (),
    image: ImageShape | None = None,
) -> Family:
    """Return a new model of the family that a study names.

    Args:
        name: One of :data:`FAMILIES`; of :data:`IMAGE_FAMILIES` where there is an image.
        options: The study's table ``model.options``: keys of the family's options, values as TOML has them.
        cardinalities: Number of codes of every column.
        label: Index of the schema's target column, or None. Families that condition on a label use it, unless
            the options name another.
        ordered: For every column how many of its first codes lie on a line; see `models.layout.OneHotLayout`.
        groups: For every column the public group of each code; see there.
        image: Shape of the image that each record has beside its columns, or None.

    Returns:
        The model, with the same initial weights on every machine.

    Raises:
        StudyError: If there is no such family, or an option is unknown or of the wrong type or value.

    Example:
        >>> model = build_family("vae", {"encoder_widths": [8]}, cardinalities=(2, 3), label=None)
        >>> model.options.encoder_widths
        (8,)
    """
    table: Mapping[str, _Entry[Any] | _ImageEntry[Any]] = _TABLE if image is None else _IMAGE_TABLE
    entry = table.get(name)
    if entry is None:
        kind = "" if image is None else " for images"
        raise StudyError(f"model.family={name!r}{kind}.", remedy=f"Choose one of {', '.join(table)}.")
    parsed = _parse(entry.options, options)
    if entry.labelled and "label" not in options:
        parsed = replace(parsed, label=label)
    layout = OneHotLayout(cardinalities=cardinalities, ordered=ordered, groups=groups)
    if isinstance(entry, _ImageEntry):
        # The table that holds such entries was chosen because there is an image.
        return entry.construct(layout, cast(ImageShape, image), parsed)
    return entry.construct(layout, parsed)


def _parse(options: type[_Options], given: Mapping[str, object]) -> _Options:
    """Return the options that a mapping spells out."""
    hints = get_type_hints(options)
    known = [field.name for field in fields(options)]  # type: ignore[arg-type]  # the table holds dataclasses only
    for key in given:
        if key not in known:
            raise StudyError(f"model.options.{key} does not exist.", remedy=f"Choose from {', '.join(sorted(known))}.")
    return options(**{key: _convert(f"model.options.{key}", value, hints[key]) for key, value in given.items()})


def _convert(key: str, value: object, hint: Any) -> object:  # noqa: ANN401  # a type hint has no type
    """Return a TOML value as the type of an option."""
    if get_origin(hint) in (types.UnionType, Union):
        hint = next(choice for choice in get_args(hint) if choice is not type(None))
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise StudyError(f"{key}={value!r} is no list.", remedy="Write it in brackets, such as [64, 64].")
        return tuple(_convert(f"{key}[{place}]", each, get_args(hint)[0]) for place, each in enumerate(value))
    if issubclass(hint, StrEnum):
        choices = [str(choice) for choice in hint]
        if value not in choices:
            raise StudyError(f"{key}={value!r}.", remedy=f"Choose one of {', '.join(choices)}.")
        return hint(str(value))
    allowed = (int, float) if hint is float else (hint,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and hint is not bool):
        kind = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[hint]
        raise StudyError(f"{key}={value!r}.", remedy=f"Give {kind}.")
    return hint(value)
