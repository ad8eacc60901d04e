"""The software list: valid CycloneDX, complete, and a copy of nothing but what is installed."""

import json
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import canonicalize_name

from server.bundle.materials import bill_of_materials, installed


@pytest.fixture(scope="module")
def listed() -> dict[str, Any]:
    return json.loads(bill_of_materials())


def test_it_is_valid_by_the_official_schema() -> None:
    text = bill_of_materials()
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(text) is None
    broken = text.replace('"bomFormat": "CycloneDX"', '"bomFormat": "Cyclone"')
    assert broken != text
    assert validator.validate_str(broken) is not None, "the validator finds what is wrong"


def test_what_a_reader_needs_is_there(listed: dict[str, Any]) -> None:
    assert (listed["bomFormat"], listed["specVersion"]) == ("CycloneDX", "1.6")
    assert listed["serialNumber"].startswith("urn:uuid:")
    assert listed["metadata"]["timestamp"]
    root = listed["metadata"]["component"]
    assert (root["name"], root["type"], root["version"]) == (
        "cloister",
        "application",
        distribution("cloister").version,
    )
    for component in listed["components"]:
        assert component["purl"] == f"pkg:pypi/{component['name']}@{component['version'].replace('+', '%2B')}"
        assert component["version"] == distribution(component["name"]).version


def test_everything_that_is_needed_is_listed_and_linked(listed: dict[str, Any]) -> None:
    names = {component["name"] for component in listed["components"]}
    assert {"torch", "flwr", "opacus", "dp-accounting", "cryptography", "numpy"} <= names
    assert "ray" in names, "needed by an extra of Flower's that Cloister asks for"
    assert "pytest" not in names, "an extra that nobody asked for"
    references = {component["bom-ref"] for component in listed["components"]}
    references.add(listed["metadata"]["component"]["bom-ref"])
    linked = {one["ref"]: set(one.get("dependsOn", ())) for one in listed["dependencies"]}
    assert linked.keys() == references
    assert set().union(*linked.values()) <= references
    reached, waiting = set(), [listed["metadata"]["component"]["bom-ref"]]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += linked[name]
    assert reached == references, "everything is there because something needs it"


def test_the_slow_way_finds_the_same_direct_needs() -> None:
    """Requirements without extras and markers, read by hand."""
    found = installed("dp-accounting")
    lines = [line for line in distribution("dp-accounting").requires or [] if ";" not in line]
    direct = {canonicalize_name(line.split("<")[0].split(">")[0].split("=")[0].split("~")[0].strip()) for line in lines}
    assert direct
    assert direct <= found["dp-accounting"][1]


def test_what_is_not_installed_is_refused() -> None:
    with pytest.raises(PackageNotFoundError):
        bill_of_materials("no-such-package-anywhere")
