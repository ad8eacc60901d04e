"""The study: what a federation agreed to, and the only place that any side takes its parameters from.

A study is written as TOML, and known by the SHA-256 of its canonical form. Sites keep the studies that they
approved; a message names a study by its hash and can change nothing in it.
"""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar, get_args, get_origin

from protocol.digest import canonical_json, digest
from protocol.errors import StudyError, WireError
from protocol.public_start import REASON_REMEDY, PublicStart, is_reason
from protocol.terms import ContributionKind, NoiseOrigin, Relation, Trust, Unit

STUDY_VERSION = 1
MOST_STATISTICS_ROUNDS = 1000
_MOST_ROUNDS = 1_000_000
_SITE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_KEY = re.compile(r"[0-9a-f]{64}")

Section = TypeVar("Section")


class Optimiser(StrEnum):
    """What the server does with a mean gradient, or with a mean change of the weights."""

    SGD = "sgd"
    ADAM = "adam"


def _refuse(key: str, value: object, remedy: str) -> NoReturn:
    raise StudyError(f"{key} is {value!r}.", remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which generator is trained.

    Attributes:
        family: A name of `models.families.FAMILIES`.
        options: The family's own options.
        init: The public release whose weights training starts from; None for those that ``training.seed`` gives.
    """

    family: str
    options: Mapping[str, Any]
    init: PublicStart | None = None


@dataclass(frozen=True, kw_only=True)
class Training:
    """How it is trained; every value is public.

    Attributes:
        strategy: ``gradients`` (one DP-SGD step per round), ``updates`` (local DP-SGD steps, averaged), or
            ``statistics`` (noisy sums of public functions of the records, and no training at the sites).
        rounds: Number of rounds, without those of :class:`StatisticsTerms`.
        optimiser: The server's optimiser.
        learning_rate: Of the server's optimiser.
        cooldown: Last rounds of the training, over which the learning rate falls in equal steps towards zero; None
            keeps it.
        momentum: Of SGD; the first beta of Adam.
        second_moment: The second beta of Adam.
        averaging: Decay of the exponential moving average of the weights that is released; 0 releases the
            last weights.
        local_steps: DP-SGD steps at a site per round (``updates`` only).
        local_learning_rate: Of these steps.
        update_norm: Bound on the norm of a site's change of the weights (``updates`` only).
        seed: Public seed of the initial weights.
    """

    strategy: ContributionKind = ContributionKind.GRADIENTS
    rounds: int = 300
    optimiser: Optimiser = Optimiser.ADAM
    learning_rate: float = 0.03
    cooldown: int | None = None
    momentum: float = 0.9
    second_moment: float = 0.999
    averaging: float = 0.99
    local_steps: int = 10
    local_learning_rate: float = 0.5
    update_norm: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("rounds", "local_steps"):
            if not 1 <= getattr(self, name) <= 1_000_000:
                _refuse(f"training.{name}", getattr(self, name), "Give a whole number from 1 to 1,000,000.")
        if self.cooldown is not None and not 1 <= self.cooldown <= 1_000_000:
            _refuse("training.cooldown", self.cooldown, "Give a whole number from 1 to 1,000,000, or leave it out.")
        for name in ("learning_rate", "local_learning_rate", "update_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                _refuse(f"training.{name}", getattr(self, name), "Give a positive number.")
        for name in ("momentum", "second_moment", "averaging"):
            if not 0 <= getattr(self, name) < 1:
                _refuse(f"training.{name}", getattr(self, name), "Give a number from 0 to below 1.")
        if not 0 <= self.seed < 2**63:
            _refuse("training.seed", self.seed, "Give a whole number from 0 to below 2^63.")


@dataclass(frozen=True, kw_only=True)
class StatisticsTerms:
    """Rounds before the training in which every unit of every site enters a noisy sum of public functions of it.

    Attributes:
        rounds: How many; none by default.
        share: Of the privacy budget, for all of them together: they have this share of the squared parameter of the
            central limit (Dong, Roth, Su, 2022) that all rounds have.
    """

    rounds: int = 0
    share: float = 0.1

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.rounds <= MOST_STATISTICS_ROUNDS:
            _refuse("statistics.rounds", self.rounds, f"Give a whole number from 0 to {MOST_STATISTICS_ROUNDS:,}.")
        if not 0.001 <= self.share <= 0.999:
            _refuse("statistics.share", self.share, "Give a number from 0.001 to 0.999.")
        if not self.rounds and self.share != type(self).share:
            _refuse("statistics.share", self.share, "Give statistics.rounds too, or leave the section out.")


@dataclass(frozen=True, kw_only=True)
class PrivacyTerms:
    """What is promised to whom; every value is public.

    Attributes:
        unit: ``record`` or ``person``.
        relation: Which data sets are neighbours.
        epsilon: Target; None where ``noise_multiplier`` is given instead.
        noise_multiplier: Noise over sensitivity; None where it follows from ``epsilon``. Zero trains without
            privacy.
        delta: Target; None for the default, min(1e-5, 1 / (10 * public_records)).
        sample_rate: Poisson rate of a unit in one step.
        clip_norm: Bound on the norm of a unit's gradient.
        trust: Where the noise is placed.
        noise: ``system``; ``deterministic`` is for tests and makes everything not private.
    """

    unit: Unit = Unit.RECORD
    relation: Relation = Relation.ADD_REMOVE
    epsilon: float | None = None
    noise_multiplier: float | None = None
    delta: float | None = None
    sample_rate: float
    clip_norm: float = 1.0
    trust: Trust = Trust.NONE
    noise: NoiseOrigin = NoiseOrigin.SYSTEM

    def __post_init__(self) -> None:
        """Check ranges and that the noise is determined once."""
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise StudyError(
                f"privacy.epsilon is {self.epsilon} and privacy.noise_multiplier is {self.noise_multiplier}.",
                remedy="Give exactly one of the two.",
            )
        if self.epsilon is not None and not 0.01 <= self.epsilon <= 300:
            _refuse("privacy.epsilon", self.epsilon, "Give a number from 0.01 to 300: more protects nobody.")
        if self.noise_multiplier is not None and not (
            self.noise_multiplier == 0 or 0.01 <= self.noise_multiplier <= 1e6
        ):
            _refuse("privacy.noise_multiplier", self.noise_multiplier, "Give 0 (no privacy), or 0.01 to 1e6.")
        if self.delta is not None and not 1e-12 <= self.delta < 1:
            _refuse("privacy.delta", self.delta, "Give a number from 1e-12 to far below 1 / public_records.")
        if not 1e-9 <= self.sample_rate <= 1:
            _refuse("privacy.sample_rate", self.sample_rate, "Give a number from 1e-9 to 1.")
        if not 0 < self.clip_norm < float("inf"):
            _refuse("privacy.clip_norm", self.clip_norm, "Give a positive number.")
        if self.relation is Relation.REPLACE_ONE:
            _refuse(
                "privacy.relation",
                "replace_one",
                "Use add_remove; the statement prints replace-one beside it.",
            )


@dataclass(frozen=True, kw_only=True)
class FederationTerms:
    """Who takes part.

    Attributes:
        sites: Number of sites.
        public_records: Publicly known order of magnitude of the units of the whole federation. It sets
            divisors and the default delta; it is never counted.
        minimum_sites: Fewest contributions that make a round; None for all (under ``trust = "sum"``, for all but
            the stated drop-outs).
        dropouts: Sites that may be missing from a secure sum without its noise falling below the promise.
        colluders: Sites that may side with the coordinator without the noise falling below the promise.
        roster: Ed25519 public key of each site by its name, hexadecimal; needed under ``trust = "sum"``.
        lacking: Columns that a site does not have, by the site's name; every record is missing there.
        deadline: Seconds that a round waits for its sites.
    """

    sites: int
    public_records: int
    minimum_sites: int | None = None
    dropouts: int = 0
    colluders: int = 0
    roster: Mapping[str, str] | None = None
    lacking: Mapping[str, Sequence[str]] | None = None
    deadline: float = 600.0

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 1 <= self.sites <= 100_000:
            _refuse("federation.sites", self.sites, "Give a whole number from 1 to 100,000.")
        if not 2 <= self.public_records <= 10**11:
            _refuse(
                "federation.public_records",
                self.public_records,
                "Give what is publicly known, from 2 to 10^11.",
            )
        if self.minimum_sites is not None and not 1 <= self.minimum_sites <= self.sites:
            _refuse("federation.minimum_sites", self.minimum_sites, "Give a number from 1 to federation.sites.")
        for name in ("dropouts", "colluders"):
            if not 0 <= getattr(self, name) < self.sites:
                _refuse(f"federation.{name}", getattr(self, name), "Give a number from 0 to below federation.sites.")
        if self.roster is not None:
            self._check_roster(self.roster)
        if self.lacking is not None:
            self._check_lacking(self.lacking)
        if not 0 < self.deadline <= 86_400:
            _refuse("federation.deadline", self.deadline, "Give seconds, up to 86,400.")

    def _check_roster(self, roster: Mapping[str, str]) -> None:
        if len(roster) != self.sites or len(set(roster.values())) != len(roster):
            _refuse("federation.roster", f"{len(roster)} sites", "Name every site once, each with its own key.")
        for site, key in roster.items():
            if not _SITE.fullmatch(site) or not isinstance(key, str) or not _KEY.fullmatch(key):
                _refuse(f"federation.roster.{site}", key, "Give the site's public key, 64 hexadecimal digits.")

    def _check_lacking(self, lacking: Mapping[str, Sequence[str]]) -> None:
        for site, columns in lacking.items():
            key = f"federation.lacking.{site}"
            listed = isinstance(columns, list | tuple) and all(isinstance(name, str) for name in columns)
            if not listed or not columns or len(set(columns)) < len(columns):
                _refuse(key, columns, 'Give a list of columns, each once, such as ["chol"].')
            if not _SITE.fullmatch(site) or (self.roster is not None and site not in self.roster):
                _refuse(key, list(columns), "Name a site of the study.")

    @property
    def quorum(self) -> int:
        """Fewest contributions that make a round."""
        return self.sites - self.dropouts if self.minimum_sites is None else self.minimum_sites


@dataclass(frozen=True, kw_only=True)
class Study:
    """The whole agreement.

    Attributes:
        name: Lower-case letters, digits and hyphens.
        purpose: One sentence that a privacy officer reads.
        public: Why the records of all sites are public, in a sentence; empty where they are not. A release of public
            records may be what another study starts from.
        schema: The public data dictionary as a mapping (see `records.schema.Schema`).
        model: Which generator.
        training: How.
        privacy: What is promised.
        federation: Among whom.
        statistics: Rounds of statistics before the training.
    """

    name: str
    purpose: str
    schema: Mapping[str, Any]
    model: ModelChoice
    training: Training
    privacy: PrivacyTerms
    federation: FederationTerms
    statistics: StatisticsTerms = field(default_factory=StatisticsTerms)
    public: str = ""

    def __post_init__(self) -> None:
        """Check the name, which becomes part of file names, that the unit can be told, and that the rounds make sense.

        Raises:
            StudyError: If they do not.
        """
        if not self.name or len(self.name) > 64 or not set(self.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-"):
            _refuse("study.name", self.name, "Use up to 64 lower-case letters, digits and hyphens.")
        if self.privacy.unit is Unit.PERSON and not self.schema.get("person"):
            _refuse("privacy.unit", "person", "Name the schema's person key, or protect records.")
        if self.public and not is_reason(self.public):
            _refuse("study.public", self.public, REASON_REMEDY)
        self._check_statistics()

    def _check_statistics(self) -> None:
        """Refuse statistics that take part in training, and more rounds than messages can number."""
        if self.rounds > _MOST_ROUNDS:
            _refuse("training.rounds", self.training.rounds, f"All rounds together are at most {_MOST_ROUNDS:,}.")
        if self.training.strategy is not ContributionKind.STATISTICS:
            return
        if self.statistics.rounds:
            _refuse("statistics.rounds", self.statistics.rounds, 'With training.strategy "statistics" leave it out.')
        if self.training.rounds > MOST_STATISTICS_ROUNDS:
            _refuse("training.rounds", self.training.rounds, f"Give at most {MOST_STATISTICS_ROUNDS:,}.")
        if self.privacy.sample_rate != 1.0:
            _refuse(
                "privacy.sample_rate",
                self.privacy.sample_rate,
                'With training.strategy "statistics" all units take part: give 1.',
            )

    @property
    def rounds(self) -> int:
        """All rounds of a run: those of statistics, and those of training."""
        return self.statistics.rounds + self.training.rounds

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a study; ``schema.file`` names a schema beside it.

        Raises:
            StudyError: If a file is missing, is not TOML or says something unknown.
        """
        path = Path(path)
        mapping = _read_toml(path)
        schema = mapping.get("schema")
        if isinstance(schema, Mapping) and set(schema) == {"file"}:
            mapping["schema"] = _read_toml(path.parent / str(schema["file"]))
        return cls.from_mapping(mapping)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read the canonical form, as it travels.

        Raises:
            StudyError: If the text is no study.
        """
        try:
            mapping = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StudyError("The study is not JSON.", remedy="Pass the text that Study.text gave.") from error
        if not isinstance(mapping, dict):
            _refuse("The study", type(mapping).__name__, "Pass the text that Study.text gave.")
        return cls.from_mapping(mapping)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Build a study from TOML's or JSON's form.

        Raises:
            StudyError: If a key is unknown or missing, or a value out of range.
        """
        known = {"version", "study", "schema", "model", "training", "statistics", "privacy", "federation"}
        if set(mapping) - known:
            raise StudyError(f"Unknown sections {sorted(set(mapping) - known)}.", remedy=f"Known: {sorted(known)}.")
        version = mapping.get("version", STUDY_VERSION)
        if version != STUDY_VERSION or isinstance(version, bool):
            _refuse("version", version, f"This Cloister reads version {STUDY_VERSION}.")
        head, model = _table(mapping, "study"), _table(mapping, "model")
        _check_keys(head, "study", known=("name", "purpose", "public"), required=("name",))
        _check_keys(model, "model", known=("family", "options", "init"), required=("family",))
        schema = _table(mapping, "schema")
        if not schema:
            _refuse("schema", schema, 'Give the data dictionary, or schema.file = "FILE.schema.toml".')
        return cls(
            name=_text(head["name"], "study.name"),
            purpose=_text(head.get("purpose", ""), "study.purpose"),
            public=_text(head.get("public", ""), "study.public"),
            schema=schema,
            model=ModelChoice(
                family=_text(model["family"], "model.family"),
                options=_table(model, "options", "model.options"),
                init=_section(PublicStart, _table(model, "init", "model.init"), "model.init")
                if "init" in model
                else None,
            ),
            training=_section(Training, _table(mapping, "training"), "training"),
            privacy=_section(PrivacyTerms, _table(mapping, "privacy"), "privacy"),
            federation=_section(FederationTerms, _table(mapping, "federation"), "federation"),
            statistics=_section(StatisticsTerms, _table(mapping, "statistics"), "statistics"),
        )

    def to_mapping(self) -> dict[str, Any]:
        """Return the study as JSON's types, every default written out; what it does without has no section or key."""
        statistics = {"statistics": _plain(self.statistics)} if self.statistics.rounds else {}
        start = {} if self.model.init is None else {"init": _plain(self.model.init)}
        return {
            "version": STUDY_VERSION,
            "study": {"name": self.name, "purpose": self.purpose} | ({"public": self.public} if self.public else {}),
            "schema": self.schema,
            "model": {"family": self.model.family, "options": self.model.options} | start,
            "training": _plain(self.training),
            **statistics,
            "privacy": _plain(self.privacy),
            "federation": _plain(self.federation),
        }

    @cached_property
    def text(self) -> str:
        """The canonical form: what is hashed, approved and sent."""
        try:
            return canonical_json(self.to_mapping()).decode()
        except WireError as error:
            raise StudyError(f"The study cannot be hashed: {error.problem}", remedy=error.remedy) from error

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical form, 64 hexadecimal digits."""
        return digest(json.loads(self.text))


def _plain(section: Any) -> dict[str, Any]:
    """Return a section without the values that are not set."""
    return {key: value for key, value in asdict(section).items() if value is not None}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise StudyError(f"{path}: {error.strerror}.", remedy="Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{path} is not TOML: {error}.", remedy="Mend the line it names.") from error


def _table(mapping: Mapping[str, Any], name: str, path: str | None = None) -> dict[str, Any]:
    """Return a sub-table, empty where there is none; ``path`` is what messages call it."""
    found = mapping.get(name, {})
    if not isinstance(found, Mapping):
        _refuse(path or name, found, f"Write it as a table, [{path or name}].")
    return dict(found)


def _text(value: object, key: str) -> str:
    if not isinstance(value, str):
        _refuse(key, value, "Give text in quotes.")
    return value


def _check_keys(table: Mapping[str, Any], name: str, *, known: Sequence[str], required: Sequence[str]) -> None:
    """Refuse keys that are unknown, and the lack of those that are needed."""
    for key in table:
        if key not in known:
            raise StudyError(f"{name}.{key} is unknown.", remedy=f"Known: {', '.join(known)}.")
    missing = [key for key in required if key not in table]
    if missing:
        raise StudyError(f"{name} lacks {', '.join(missing)}.", remedy="Add it to the study.")


def _section(kind: type[Section], table: Mapping[str, Any], name: str) -> Section:
    """Build a frozen section; numbers, enums and nothing unknown."""
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]  # every section is a dataclass
    needed = [key for key, field in known.items() if _required(field)]
    _check_keys(table, name, known=tuple(known), required=needed)
    return kind(**{key: _value(known[key].type, value, f"{name}.{key}") for key, value in table.items()})


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _value(kind: Any, value: Any, key: str) -> Any:
    """Check one value against its declared type."""
    allowed = get_args(kind) or (kind,)
    for option in allowed:
        if isinstance(option, type) and issubclass(option, StrEnum):
            words = [member.value for member in option]
            if value not in words:
                raise StudyError(f"{key} is {value!r}.", remedy=f"Use one of {', '.join(words)}.")
            return option(value)
    if isinstance(value, Mapping) and any(get_origin(option) is Mapping for option in allowed):
        return dict(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if float in allowed and number:
        try:
            return float(value)
        except OverflowError:
            _refuse(key, value, "Give a number that a computer can hold.")
    if (int in allowed and number and isinstance(value, int)) or (str in allowed and isinstance(value, str)):
        return value
    names = " or ".join(option.__name__ for option in allowed if option is not type(None))
    raise StudyError(f"{key} is {value!r}.", remedy=f"Give a value of type {names}.")
