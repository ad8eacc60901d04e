"""What a sweep tries: values of a study, by key, and nothing that is a promise."""

import copy
import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn, Self, TypeAlias

import numpy as np

from protocol.errors import InputError
from protocol.study import PrivacyTerms, Training

Values: TypeAlias = Mapping[str, Any]
"""One value for each key that is tried, such as ``{"training.learning_rate": 0.03}``."""

_OPTIONS = "model.options."
_OPEN = ("training.KEY", "privacy.clip_norm", "privacy.sample_rate", "statistics.rounds", "statistics.share",
         "model.family", "model.options.KEY")  # fmt: skip
_SINGLE = frozenset({"privacy.clip_norm", "privacy.sample_rate", "statistics.rounds", "statistics.share",
                     "model.family"})  # fmt: skip
_DIGITS = 4


class Scale(StrEnum):
    """How a range is covered: evenly, or evenly in its logarithm."""

    LINEAR = "linear"
    LOG = "log"


def _refuse(key: str, text: object, remedy: str) -> NoReturn:
    raise InputError(f"{key} cannot be tried as {text!r}.", remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """A key and the values to try for it.

    Attributes:
        key: Such as ``training.learning_rate``.
        values: At least one, of any of TOML's types.
    """

    key: str
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        """Refuse an empty or repeated list."""
        if not self.values:
            _refuse(self.key, self.values, "Give at least one value.")
        if any(value in self.values[:index] for index, value in enumerate(self.values)):
            _refuse(self.key, list(self.values), "Give every value once.")
        try:
            json.dumps(self.values, allow_nan=False)
        except (TypeError, ValueError):
            _refuse(self.key, self.values, "Give numbers, words, true or false, or lists of them.")

    def draw(self, generator: np.random.Generator) -> Any:
        """Return one of the values, each equally likely."""
        return self.values[int(generator.integers(len(self.values)))]


@dataclass(frozen=True, kw_only=True)
class Range:
    """A key and the numbers to try for it.

    Attributes:
        key: Such as ``privacy.clip_norm``.
        low: Smallest number.
        high: Largest number.
        scale: How it is covered.
        whole: Whether only whole numbers are tried.
    """

    key: str
    low: float
    high: float
    scale: Scale
    whole: bool

    def __post_init__(self) -> None:
        """Refuse what is no range."""
        text = f"{self.low:g}:{self.high:g}"
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            _refuse(self.key, text, "Give two numbers, the smaller one first.")
        if self.scale is Scale.LOG and self.low <= 0:
            _refuse(self.key, f"{text}:log", "A logarithmic range begins above zero.")

    def draw(self, generator: np.random.Generator) -> float | int:
        """Return a number of the range, drawn evenly on its scale."""
        if self.whole and self.scale is Scale.LINEAR:
            return int(generator.integers(int(self.low), int(self.high), endpoint=True))
        low, high = (self.low, self.high) if self.scale is Scale.LINEAR else (math.log(self.low), math.log(self.high))
        drawn = float(generator.uniform(low, high))
        return self.tidy(drawn if self.scale is Scale.LINEAR else math.exp(drawn))

    def tidy(self, number: float) -> float | int:
        """Return a number in the form in which it is tried: whole, or of four digits, and inside the range.

        >>> Range(key="privacy.clip_norm", low=0.3, high=3.0, scale=Scale.LOG, whole=False).tidy(0.123456789)
        0.3
        """
        if self.whole:
            return int(min(self.high, max(self.low, round(number))))
        return min(self.high, max(self.low, float(f"{number:.{_DIGITS}g}")))


Axis: TypeAlias = Choices | Range


@dataclass(frozen=True, kw_only=True)
class Space:
    """All that is tried.

    Attributes:
        axes: One for each key, no key twice.
    """

    axes: tuple[Axis, ...]

    def __post_init__(self) -> None:
        """Refuse keys that are given twice, or that are not for tuning, and a space of nothing."""
        if not self.axes:
            raise InputError("Nothing is to be tried.", remedy="Give --set KEY=VALUE,VALUE or --range KEY=LOW:HIGH.")
        keys = [axis.key for axis in self.axes]
        for key in keys:
            _check_key(key)
            if keys.count(key) > 1:
                _refuse(key, "two lists", "Give every key once.")

    @property
    def has_ranges(self) -> bool:
        """Whether some key has a range rather than a list."""
        return any(isinstance(axis, Range) for axis in self.axes)

    def to_mapping(self) -> dict[str, Any]:
        """Return the space as JSON's types, in a form that tells two spaces apart."""
        return {
            axis.key: list(axis.values)
            if isinstance(axis, Choices)
            else {"low": axis.low, "high": axis.high, "scale": axis.scale.value, "whole": axis.whole}
            for axis in self.axes
        }

    @classmethod
    def read(cls, *, choices: Sequence[str], ranges: Sequence[str], file: Path | None) -> Self:
        """Read a space from options and a file.

        Args:
            choices: Such as ``training.learning_rate=0.01,0.03``.
            ranges: Such as ``privacy.clip_norm=0.3:3:log``.
            file: TOML in the form of a study, with a list of values, or a table ``low, high, scale``, in the
                place of a value.

        Raises:
            InputError: If something cannot be read, or is not for tuning.
        """
        axes: list[Axis] = [_choices(text) for text in choices]
        axes += [_range(text) for text in ranges]
        return cls(axes=(*axes, *(_from_file(file) if file is not None else ())))


def applied(mapping: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """Return a study's mapping with values put in; the mapping itself is left as it was.

    >>> applied({"training": {"rounds": 3}}, {"training.learning_rate": 0.1})
    {'training': {'rounds': 3, 'learning_rate': 0.1}}
    """
    changed = copy.deepcopy(dict(mapping))
    for key, value in values.items():
        *tables, last = key.split(".")
        place = changed
        for name in tables:
            place = place.setdefault(name, {})
        place[last] = value
    return changed


def _check_key(key: str) -> None:
    """Refuse what a sweep may not change: a promise, who takes part, and the seed, which repeats vary."""
    section, _, name = key.partition(".")
    if key == "training.seed":
        _refuse(key, "a value", "Use --repeats N: every repeat has another seed.")
    if section == "training" and name in {field.name for field in fields(Training)}:
        return
    if key in _SINGLE or (key.startswith(_OPTIONS) and key.count(".") == 2 and key != _OPTIONS):
        return
    raise InputError(
        f"{key} is not for tuning.",
        remedy=f"Known: {', '.join(_OPEN)}. Promises and who takes part are agreed on, not tuned.",
    )


def _parted(text: str, form: str) -> tuple[str, str]:
    key, sign, rest = text.partition("=")
    if not sign or not rest.strip():
        raise InputError(f"{text!r} is no list of values.", remedy=f"Write {form}.")
    return key.strip(), rest.strip()


def _choices(text: str) -> Choices:
    key, rest = _parted(text, "--set KEY=VALUE,VALUE")
    try:
        values = tomllib.loads(f"values = [{rest}]")["values"]
    except ValueError:  # words without quotes
        values = [_word(part.strip()) for part in rest.split(",")]
    return Choices(key=key, values=tuple(values))


def _word(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return text


def _range(text: str) -> Range:
    key, rest = _parted(text, "--range KEY=LOW:HIGH or KEY=LOW:HIGH:log")
    low, high, *scale = rest.split(":") if rest.count(":") in (1, 2) else (rest, "", "")
    if scale and scale[0] not in list(Scale):
        _refuse(key, rest, "Write LOW:HIGH, LOW:HIGH:linear or LOW:HIGH:log.")
    return _ranged(key, _word(low), _word(high), scale[0] if scale else Scale.LINEAR.value)


def _ranged(key: str, low: Any, high: Any, scale: str) -> Range:
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if not numbers or scale not in list(Scale):
        _refuse(key, f"{low}:{high}:{scale}", "Write LOW:HIGH, LOW:HIGH:linear or LOW:HIGH:log.")
    whole = isinstance(low, int) and isinstance(high, int) and not _is_real(key)
    return Range(key=key, low=float(low), high=float(high), scale=Scale(scale), whole=whole)


def _is_real(key: str) -> bool:
    """Whether the study declares a key as a real number, so that 1:3 means more than 1, 2 and 3."""
    section, _, name = key.partition(".")
    kinds = {
        "training": {field.name: field.type for field in fields(Training)},
        "privacy": {field.name: field.type for field in fields(PrivacyTerms)},
    }
    return key == "statistics.share" or kinds.get(section, {}).get(name) is float


def _from_file(path: Path) -> Iterator[Axis]:
    try:
        mapping = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.", remedy="Check the path.") from error
    except ValueError as error:
        raise InputError(f"{path} is not TOML: {error}.", remedy="Mend the line it names.") from error
    yield from _axes(mapping, prefix="")


def _axes(table: Mapping[str, Any], *, prefix: str) -> Iterator[Axis]:
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, list):
            yield Choices(key=key, values=tuple(value))
        elif isinstance(value, dict) and {"low", "high"} <= set(value) <= {"low", "high", "scale"}:
            yield _ranged(key, value["low"], value["high"], str(value.get("scale", Scale.LINEAR.value)))
        elif isinstance(value, dict):
            yield from _axes(value, prefix=f"{key}.")
        else:
            _refuse(key, value, "Write a list of values, or { low = ..., high = ... }.")
