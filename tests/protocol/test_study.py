"""The study: everything it says is checked, named when wrong, and part of its hash."""

import hashlib
import json
import random
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import StudyError
from protocol.study import FederationTerms, Optimiser, PrivacyTerms, Study, Training
from protocol.terms import ContributionKind, NoiseOrigin, Relation, Trust, Unit

LEAST: dict[str, Any] = {
    "study": {"name": "least"},
    "schema": {"columns": [{"name": "ill", "kind": "boolean"}]},
    "model": {"family": "vae"},
    "privacy": {"epsilon": 1.0, "sample_rate": 0.5},
    "federation": {"sites": 2, "public_records": 100},
}
WHOLE: dict[str, Any] = {
    "version": 1,
    "study": {"name": "whole", "purpose": "A test, and nothing else."},
    "schema": {"person": "who", "columns": [{"name": "ill", "kind": "boolean"}]},
    "model": {"family": "gan", "options": {"latent": 3}},
    "training": {
        "strategy": "updates", "rounds": 7, "optimiser": "sgd", "learning_rate": 0.1, "momentum": 0.5,
        "second_moment": 0.9, "averaging": 0.5, "local_steps": 3, "local_learning_rate": 0.2,
        "update_norm": 3.0, "seed": 9, "cooldown": 4,
    },
    "privacy": {
        "unit": "person", "relation": "add_remove", "noise_multiplier": 1.5, "delta": 1e-6, "sample_rate": 0.1,
        "clip_norm": 2.0, "trust": "none", "noise": "deterministic",
    },
    "federation": {
        "sites": 5, "public_records": 5000, "minimum_sites": 3, "dropouts": 1, "colluders": 2, "deadline": 60.0,
        "roster": {f"site-{number}": f"{number:064x}" for number in range(5)},
    },
}  # fmt: skip
# Written out by hand from docs: sorted keys, no white space, every default, absent values left out.
LEAST_TEXT = (
    '{"federation":{"colluders":0,"deadline":600.0,"dropouts":0,"public_records":100,"sites":2},'
    '"model":{"family":"vae","options":{}},'
    '"privacy":{"clip_norm":1.0,"epsilon":1.0,"noise":"system","relation":"add_remove","sample_rate":0.5,'
    '"trust":"none","unit":"record"},"schema":{"columns":[{"kind":"boolean","name":"ill"}]},'
    '"study":{"name":"least","purpose":""},"training":{"averaging":0.99,"learning_rate":0.03,'
    '"local_learning_rate":0.5,"local_steps":10,"momentum":0.9,"optimiser":"adam","rounds":300,'
    '"second_moment":0.999,"seed":0,"strategy":"gradients","update_norm":10.0},"version":1}'
)


def changed(base: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The mapping with one value changed; ``...`` removes it."""
    copy = json.loads(json.dumps(base))
    *parents, last = path.split(".")
    place = copy
    for name in parents:
        place = place.setdefault(name, {})
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return copy


def shuffled(value: Any, order: random.Random) -> Any:
    if isinstance(value, list):
        return [shuffled(each, order) for each in value]
    if not isinstance(value, dict):
        return value
    keys = list(value)
    order.shuffle(keys)
    return {key: shuffled(value[key], order) for key in keys}


def test_the_least_study_has_the_published_defaults() -> None:
    study = Study.from_mapping(LEAST)
    assert study.training == Training()
    assert study.privacy == PrivacyTerms(epsilon=1.0, sample_rate=0.5)
    assert (study.privacy.unit, study.privacy.trust, study.privacy.noise) == (
        Unit.RECORD, Trust.NONE, NoiseOrigin.SYSTEM,
    )  # fmt: skip
    assert study.federation == FederationTerms(sites=2, public_records=100)
    assert study.federation.quorum == 2


def test_the_canonical_form_and_its_hash_are_golden() -> None:
    study = Study.from_mapping(LEAST)
    assert study.text == LEAST_TEXT
    assert study.hash == hashlib.sha256(LEAST_TEXT.encode()).hexdigest()
    # sha256sum of LEAST_TEXT: if this changes, every site must approve its studies anew.
    assert study.hash == "0f266bfb12bcd77d434de85bae39481120ef38d42be99c649be55529c83b0a52"


def test_every_value_arrives() -> None:
    study = Study.from_mapping(WHOLE)
    assert study.training.strategy is ContributionKind.UPDATES
    assert study.training.optimiser is Optimiser.SGD
    assert (study.privacy.unit, study.privacy.relation) == (Unit.PERSON, Relation.ADD_REMOVE)
    assert study.federation.quorum == 3
    assert study.to_mapping() == WHOLE


@pytest.mark.parametrize("mapping", [LEAST, WHOLE])
def test_text_and_toml_bring_a_study_back(mapping: dict[str, Any], tmp_path: Path) -> None:
    study = Study.from_mapping(mapping)
    assert Study.from_text(study.text) == study
    path = tmp_path / "study.toml"
    path.write_text(tomli_w.dumps(study.to_mapping()), "utf-8")
    again = Study.from_toml(path)
    assert (again, again.hash) == (study, study.hash)
    assert Study.from_mapping(tomllib.loads(path.read_text("utf-8"))).text == study.text


def test_a_schema_may_lie_beside_the_study(tmp_path: Path) -> None:
    (tmp_path / "ill.schema.toml").write_text(tomli_w.dumps(LEAST["schema"]), "utf-8")
    path = tmp_path / "study.toml"
    path.write_text(tomli_w.dumps(LEAST | {"schema": {"file": "ill.schema.toml"}}), "utf-8")
    assert Study.from_toml(path).hash == Study.from_mapping(LEAST).hash
    (tmp_path / "ill.schema.toml").unlink()
    with pytest.raises(StudyError, match="ill.schema.toml"):
        Study.from_toml(path)


@given(order=st.randoms(use_true_random=False))
def test_the_hash_knows_no_order_of_keys(order: random.Random) -> None:
    assert Study.from_mapping(shuffled(WHOLE, order)).hash == Study.from_mapping(WHOLE).hash


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("study.name", "other"),
        ("study.purpose", "Another."),
        ("schema.person", "whom"),
        ("schema.columns", [{"name": "ill", "kind": "boolean", "missing": True}]),
        ("model.family", "vae"),
        ("model.options", {}),
        ("model.options.latent", 4),
        ("training.strategy", "gradients"),
        ("training.rounds", 8),
        ("training.optimiser", "adam"),
        ("training.learning_rate", 0.10000000000000002),
        ("training.momentum", 0.0),
        ("training.second_moment", 0.91),
        ("training.averaging", 0.0),
        ("training.local_steps", 4),
        ("training.local_learning_rate", 0.3),
        ("training.update_norm", 3.5),
        ("training.seed", 10),
        ("training.cooldown", 5),
        ("training.cooldown", ...),
        ("privacy.unit", "record"),
        ("privacy.noise_multiplier", 1.25),
        ("privacy.delta", 1e-7),
        ("privacy.sample_rate", 0.2),
        ("privacy.clip_norm", 1.0),
        ("privacy.noise", "system"),
        ("federation.public_records", 5001),
        ("federation.minimum_sites", 4),
        ("federation.minimum_sites", ...),
        ("federation.deadline", 61.0),
        ("federation.dropouts", 0),
        ("federation.colluders", 1),
        ("federation.roster.site-0", "f" * 64),
        ("federation.roster", ...),
        ("privacy.trust", "sum"),
    ],
)
def test_every_value_changes_the_hash(path: str, value: Any) -> None:
    assert Study.from_mapping(changed(WHOLE, path, value)).hash != Study.from_mapping(WHOLE).hash


def test_the_number_of_sites_changes_the_hash() -> None:
    assert Study.from_mapping(changed(LEAST, "federation.sites", 3)).hash != Study.from_mapping(LEAST).hash


def test_every_value_above_is_every_value_there_is() -> None:
    marks = test_every_value_changes_the_hash.pytestmark
    tried = {path for mark in marks for path, _ in mark.args[1]}
    tried.add("federation.sites")  # must be that of the roster: tried below
    there = {f"{section}.{key}" for section in ("training", "privacy", "federation") for key in WHOLE[section]}
    # The other relation is refused by this version.
    assert there - tried == {"privacy.relation"}


WRONG: list[tuple[str, Any, str]] = [
    ("version", 2, "version"),
    ("version", True, "version"),
    ("version", "1", "version"),
    ("extra", {}, "extra"),
    ("study", ..., "study"),
    ("study", [], "study"),
    ("study.name", ..., "name"),
    ("study.name", "", "study.name"),
    ("study.name", "Whole", "study.name"),
    ("study.name", "a" * 65, "study.name"),
    ("study.name", "../whole", "study.name"),
    ("study.name", 5, "study.name"),
    ("study.purpose", ["x"], "study.purpose"),
    ("study.sponsor", "x", "study.sponsor"),
    ("schema", ..., "schema"),
    ("schema", {}, "schema"),
    ("schema", "file", "schema"),
    ("model", ..., "family"),
    ("model", 1, "model"),
    ("model.family", ..., "family"),
    ("model.family", 1, "model.family"),
    ("model.options", 3, "model.options"),
    ("model.size", 3, "model.size"),
    ("training", 3, "training"),
    ("training.epochs", 3, "training.epochs"),
    ("training.strategy", "statistics", "privacy.sample_rate"),
    ("statistics", 3, "statistics"),
    ("statistics.rounds", -1, "statistics.rounds"),
    ("statistics.rounds", 1001, "statistics.rounds"),
    ("statistics.rounds", True, "statistics.rounds"),
    ("statistics", {"rounds": 1, "share": 0.0}, "statistics.share"),
    ("statistics", {"rounds": 1, "share": 1.0}, "statistics.share"),
    ("statistics", {"rounds": 1, "share": float("nan")}, "statistics.share"),
    ("statistics", {"share": 0.2}, "statistics.share"),
    ("statistics", {"rounds": 1, "kind": "means"}, "statistics.kind"),
    ("training.strategy", "averaging", "training.strategy"),
    ("training.strategy", 1, "training.strategy"),
    ("training.rounds", 0, "training.rounds"),
    ("training.rounds", 1_000_001, "training.rounds"),
    ("training.rounds", 3.0, "training.rounds"),
    ("training.rounds", True, "training.rounds"),
    ("training.rounds", "3", "training.rounds"),
    ("training.local_steps", 0, "training.local_steps"),
    ("training.optimiser", "lbfgs", "training.optimiser"),
    ("training.learning_rate", 0, "training.learning_rate"),
    ("training.learning_rate", float("inf"), "training.learning_rate"),
    ("training.learning_rate", float("nan"), "training.learning_rate"),
    ("training.learning_rate", 10**400, "training.learning_rate"),
    ("training.local_learning_rate", -1.0, "training.local_learning_rate"),
    ("training.update_norm", 0.0, "training.update_norm"),
    ("training.momentum", 1.0, "training.momentum"),
    ("training.momentum", -0.1, "training.momentum"),
    ("training.second_moment", float("nan"), "training.second_moment"),
    ("training.averaging", 1, "training.averaging"),
    ("training.seed", -1, "training.seed"),
    ("training.seed", 2**63, "training.seed"),
    ("privacy", ..., "sample_rate"),
    ("privacy.unit", "patient", "privacy.unit"),
    ("privacy.relation", "replace_one", "privacy.relation"),
    ("privacy.relation", "swap", "privacy.relation"),
    ("privacy.epsilon", 1.0, "privacy.epsilon"),
    ("privacy.noise_multiplier", ..., "privacy.noise_multiplier"),
    ("privacy.noise_multiplier", -1.0, "privacy.noise_multiplier"),
    ("privacy.noise_multiplier", 0.001, "privacy.noise_multiplier"),
    ("privacy.noise_multiplier", float("nan"), "privacy.noise_multiplier"),
    ("privacy.noise_multiplier", float("inf"), "privacy.noise_multiplier"),
    ("privacy.delta", 0.0, "privacy.delta"),
    ("privacy.delta", 1e-13, "privacy.delta"),
    ("privacy.delta", 1.0, "privacy.delta"),
    ("privacy.delta", float("nan"), "privacy.delta"),
    ("privacy.sample_rate", ..., "sample_rate"),
    ("privacy.sample_rate", 0.0, "privacy.sample_rate"),
    ("privacy.sample_rate", 1.1, "privacy.sample_rate"),
    ("privacy.sample_rate", float("nan"), "privacy.sample_rate"),
    ("privacy.clip_norm", 0, "privacy.clip_norm"),
    ("privacy.clip_norm", float("inf"), "privacy.clip_norm"),
    ("federation.dropouts", 9, "federation.dropouts"),
    ("federation.colluders", -1, "federation.colluders"),
    ("federation.roster", {"a": "0" * 64}, "federation.roster"),
    ("federation.roster", {"a": "0" * 64, "b": "0" * 64}, "federation.roster"),
    ("federation.roster.site-1", "x", "federation.roster.site-1"),
    ("federation.roster.B!", "1" * 64, "federation.roster"),
    ("federation.roster", 7, "federation.roster"),
    ("privacy.trust", "all", "privacy.trust"),
    ("privacy.noise", "seeded", "privacy.noise"),
    ("privacy.noise", None, "privacy.noise"),
    ("schema.person", ..., "privacy.unit"),
    ("schema.person", "", "privacy.unit"),
    ("federation", ..., "sites"),
    ("federation.sites", ..., "sites"),
    ("federation.sites", 0, "federation.sites"),
    ("federation.sites", 100_001, "federation.sites"),
    ("federation.public_records", ..., "public_records"),
    ("federation.public_records", 1, "federation.public_records"),
    ("federation.public_records", 10**400, "federation.public_records"),
    ("federation.minimum_sites", 0, "federation.minimum_sites"),
    ("federation.minimum_sites", 6, "federation.minimum_sites"),
    ("federation.minimum_sites", "3", "federation.minimum_sites"),
    ("federation.deadline", 0, "federation.deadline"),
    ("federation.deadline", 86_401, "federation.deadline"),
    ("federation.deadline", float("nan"), "federation.deadline"),
    ("federation.quorum", 3, "federation.quorum"),
]


@pytest.mark.parametrize(("path", "value", "named"), WRONG, ids=lambda part: str(part)[:30])
def test_what_is_wrong_gives_one_error_that_names_the_key(path: str, value: Any, named: str) -> None:
    with pytest.raises(StudyError) as caught:
        Study.from_mapping(changed(WHOLE, path, value))
    assert named in caught.value.problem
    assert caught.value.remedy


@pytest.mark.parametrize("epsilon", [0.0, 0.001, 301.0, float("nan"), float("inf"), -1.0])
def test_an_epsilon_that_is_none_is_refused(epsilon: float) -> None:
    with pytest.raises(StudyError, match="privacy.epsilon"):
        Study.from_mapping(changed(LEAST, "privacy.epsilon", epsilon))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '"study"', "[" * 100_000, '{"study": NaN}', '{"a": ' * 50_000]
)
def test_a_text_that_is_no_study_is_refused(text: str) -> None:
    with pytest.raises(StudyError):
        Study.from_text(text)


@pytest.mark.parametrize("content", [b"[study", b"\xff\xfe", b"a = 1\na = 2", b"x = " + b"[" * 50_000])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(content)
    with pytest.raises(StudyError, match="study.toml"):
        Study.from_toml(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(StudyError, match=path.name):
            Study.from_toml(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_a_study_that_cannot_be_hashed_is_refused(value: Any) -> None:
    study = Study.from_mapping(changed(LEAST, "schema.columns", value))
    with pytest.raises(StudyError, match="hashed"):
        _ = study.hash


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
PLACES = sorted([*WHOLE, *(f"{name}.{key}" for name, section in WHOLE.items() if name != "version" for key in section)])


@given(path=st.sampled_from(PLACES), value=JSON)
def test_anything_anywhere_is_a_study_or_a_study_error(path: str, value: Any) -> None:
    copy: dict[str, Any] = json.loads(json.dumps(WHOLE))
    name, _, key = path.partition(".")
    (copy[name] if key else copy)[key or name] = value
    try:
        study = Study.from_mapping(copy)
        text = study.text
    except StudyError:
        return
    assert Study.from_text(text).hash == study.hash


def test_builders_are_held_to_the_same_ranges(tiny_study: Callable[..., Study]) -> None:
    with pytest.raises(StudyError, match=r"training\.rounds"):
        Training(rounds=0)
    with pytest.raises(StudyError, match=r"federation\.sites"):
        tiny_study(federation={"sites": 0})


def test_statistics_come_before_training_and_have_a_section_of_their_own() -> None:
    study = Study.from_mapping(LEAST | {"statistics": {"rounds": 2}})
    assert (study.statistics.rounds, study.statistics.share, study.rounds) == (2, 0.1, study.training.rounds + 2)
    assert study.to_mapping()["statistics"] == {"rounds": 2, "share": 0.1}
    assert Study.from_text(study.text) == study
    assert study.hash != Study.from_mapping(LEAST | {"statistics": {"rounds": 2, "share": 0.2}}).hash


def test_a_study_without_statistics_is_what_it_was_before_there_were_any() -> None:
    study = Study.from_mapping(LEAST)
    assert "statistics" not in study.to_mapping()
    assert Study.from_mapping(LEAST | {"statistics": {"rounds": 0}}).hash == study.hash
    assert study.rounds == study.training.rounds


def test_statistics_may_be_all_of_a_study_and_then_are_of_everybody() -> None:
    mapping = changed(changed(LEAST, "training.strategy", "statistics"), "training.rounds", 2)
    with pytest.raises(StudyError, match="sample_rate is 0.5") as caught:
        Study.from_mapping(mapping)
    assert "training.strategy" in caught.value.remedy
    study = Study.from_mapping(changed(mapping, "privacy.sample_rate", 1))
    assert (study.rounds, study.training.strategy) == (2, ContributionKind.STATISTICS)
    with pytest.raises(StudyError, match="statistics.rounds is 1"):
        Study.from_mapping(changed(mapping, "privacy.sample_rate", 1) | {"statistics": {"rounds": 1}})
    with pytest.raises(StudyError, match="training.rounds is 1001"):
        Study.from_mapping(changed(changed(mapping, "privacy.sample_rate", 1), "training.rounds", 1001))


def test_messages_can_number_all_rounds() -> None:
    mapping = changed(LEAST, "training.rounds", 1_000_000)
    assert Study.from_mapping(mapping).rounds == 1_000_000
    with pytest.raises(StudyError, match="training.rounds is 1000000") as caught:
        Study.from_mapping(mapping | {"statistics": {"rounds": 1}})
    assert "All rounds together" in caught.value.remedy
