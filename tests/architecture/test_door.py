"""Inside client/ only the door can make what leaves a site: what the import contract is too coarse to see."""

import ast
import re
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[2] / "client"
DOOR = "door.py"

# What these files may take from Flower: the app and what it is handed, to annotate and to pass on.
TAKEN_FROM_FLOWER = {
    "app.py": {"flwr.app.Context", "flwr.app.Message", "flwr.clientapp.ClientApp"},
    "site.py": {"flwr.app.Context"},
}
OUTWARD = re.compile(r"(flwr|protocol\.messages)(\.|$)")
BUILDS = re.compile(r"(^|\.)(Message|__import__|import_module)$")


def faults(source: str, name: str) -> list[str]:
    """Every use of a module that can build a message, in a file that is not the door."""
    found = []
    tree = ast.parse(source)
    for node in ast.walk(tree):
        origins = set()
        if isinstance(node, ast.Import):
            origins = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origins = {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and BUILDS.search(ast.unparse(node.func)):
            found.append(f"{name}:{node.lineno}: calls {ast.unparse(node.func)}")
        taken = {origin for origin in origins if OUTWARD.match(origin)}
        for origin in sorted(taken - TAKEN_FROM_FLOWER.get(name, set())):
            found.append(f"{name}:{node.lineno}: takes {origin}")
    return found


def test_only_the_door_builds_messages():
    files = sorted(CLIENT.rglob("*.py"))
    assert CLIENT / DOOR in files
    found = [fault for path in files if path != CLIENT / DOOR
             for fault in faults(path.read_text("utf-8"), str(path.relative_to(CLIENT)))]  # fmt: skip
    assert not found, "let client/door.py build it:\n" + "\n".join(found)


def test_the_door_is_caught_by_the_same_search():
    assert faults((CLIENT / DOOR).read_text("utf-8"), "not_the_door.py")


@pytest.mark.parametrize(
    ("name", "planted", "fault"),
    [
        ("app.py", "from flwr.app import RecordDict", "1: takes flwr.app.RecordDict"),
        ("app.py", "from flwr.app import Message\nMessage(x, reply_to=m)", "2: calls Message"),
        ("site.py", "from flwr.app import Message", "1: takes flwr.app.Message"),
        ("site.py", "import flwr.app", "1: takes flwr.app"),
        ("app.py", "import flwr", "1: takes flwr"),
        ("training.py", "from flwr.common import ArrayRecord", "1: takes flwr.common.ArrayRecord"),
        ("policy.py", "from protocol.messages import encode", "1: takes protocol.messages.encode"),
        ("policy.py", "from protocol import messages", "1: takes protocol.messages"),
        (
            "policy.py",
            "import importlib\nimportlib.import_module('flwr')",
            "2: calls importlib.import_module",
        ),
    ],
)
def test_search_finds_what_is_planted(name, planted, fault):
    assert faults(planted, name) == [f"{name}:{fault}"]
