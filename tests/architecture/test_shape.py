"""The shape of the house: sizes, names, errors and paths, where no linter looks."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from protocol import errors

ROOT = Path(__file__).parents[2]
PACKAGES = ("cli", "client", "server", "strategies", "privacy", "protocol", "records", "models", "evaluation",
            "simulations", "perf")  # fmt: skip
FOLDERS = {*PACKAGES, "tests", "docs", "scripts"}
MADE_AGAIN = {"runs", "build", "dist", "__pycache__"}

# Names that say nothing about what is inside.
EMPTY_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "misc"}

MOST_LINES = 600
MOST_FUNCTION_LINES = 60

# Errors that are no error of ours: what the command line's framework and Python's own protocols ask for.
FOREIGN_ERRORS = {
    "cli": {"typer.Exit", "typer.Abort", "typer.BadParameter", "SystemExit"},
}
PROTOCOL_ERRORS = {"NotImplementedError"}

MACHINE_PATHS = ("/" + "work/", "/" + "root/", "/" + "tmp/", "/" + "home/")


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def product() -> dict[str, ast.Module]:
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text("utf-8")) for path in sources(*PACKAGES)}


def length_faults(name: str, text: str) -> list[str]:
    """The file if it is too long, and every function in it that is."""
    lines = len(text.splitlines())
    found = [f"{name}: {lines} lines"] if lines > MOST_LINES else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > MOST_FUNCTION_LINES:
                found.append(f"{name}:{node.lineno}: {node.name} has {lines} lines")
    return found


def raised(tree: ast.Module, package: str) -> list[str]:
    """What is raised here and stands neither in protocol/errors.py nor among what is allowed."""
    ours = {alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
            and node.module == "protocol.errors" for alias in node.names}  # fmt: skip
    allowed = ours | PROTOCOL_ERRORS | FOREIGN_ERRORS.get(package, set())
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Raise) or node.exc is None:
            continue
        name = ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
        made_elsewhere = name.split(".")[-1].lstrip("_")[:1].islower()  # a variable, or a function that returns one
        if name not in allowed and not made_elsewhere:
            found.append(f"{node.lineno}: raises {name}")
    return found


def own_errors(tree: ast.Module) -> list[str]:
    """Classes that are exceptions by their bases' names."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    endings = ("Error", "Exception", "Warning")
    return [
        f"{node.lineno}: class {node.name}"
        for node in classes
        if any(ast.unparse(base).endswith(endings) for base in node.bases)
    ]


def drawn_tree(docstring: str) -> dict[str, str]:
    """Child to parent, as drawn."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in docstring.splitlines():
        match = re.match(r"    ((?:│   |    )*)(?:├── |└── )?([A-Z]\w+Error)\b", line)
        if match:
            branch = "── " in line
            depth = len(match[1]) // 4 + 1 if branch else 0
            path[depth:] = [match[2]]
            if branch:
                parents[match[2]] = path[depth - 1]
    return parents


def real_tree(root: type[Exception]) -> dict[str, str]:
    """Child to parent, as it is."""
    parents = {}
    for child in root.__subclasses__():
        if child.__module__ == "protocol.errors":
            parents[child.__name__] = root.__name__
            parents.update(real_tree(child))
    return parents


def test_files_and_functions_keep_their_length():
    found = [fault for path in sources(*PACKAGES, "tests")
             for fault in length_faults(str(path.relative_to(ROOT)), path.read_text("utf-8"))]  # fmt: skip
    assert not found, "\n".join(found)


def test_too_long_is_found():
    body = "def f():\n" + "    x = 1\n" * MOST_FUNCTION_LINES
    assert length_faults("a.py", body) == [f"a.py:1: f has {MOST_FUNCTION_LINES + 1} lines"]
    assert length_faults("a.py", body.replace("    x = 1\n", "", 1)) == []
    assert length_faults("a.py", "\n" * (MOST_LINES + 1)) == [f"a.py: {MOST_LINES + 1} lines"]


def test_no_other_top_level_folder():
    found = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    odd = {name for name in found - FOLDERS - MADE_AGAIN if not name.startswith(".")}
    assert not odd, f"{sorted(odd)}: dependencies install packages of such names, and Flower's bundle drops others."


def test_every_package_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert settings["tool"]["setuptools"]["packages"]["find"]["include"] == [f"{name}*" for name in PACKAGES]
    assert settings["tool"]["mypy"]["packages"] == list(PACKAGES)
    folders = {path.parent for path in sources(*PACKAGES)}
    assert all((folder / "__init__.py").exists() for folder in folders)


def test_tests_are_no_package():
    found = [str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("__init__.py")]
    assert not found, f"{found}: tests/server would shadow server."


def test_test_files_have_names_of_their_own():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted(name for name in set(names) if names.count(name) > 1)


def test_names_say_what_is_inside():
    paths = [path.relative_to(ROOT) for path in sources(*PACKAGES, "tests")]
    found = [str(path) for path in paths if EMPTY_NAMES & {part.removeprefix("test_") for part in
             (*path.parent.parts, path.stem)}]  # fmt: skip
    assert not found, found


def test_only_the_command_line_prints():
    quiet = {name: tree for name, tree in product().items() if not name.startswith(("cli/", "perf/"))}
    calls = [(name, node) for name, tree in quiet.items() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found = [f"{name}:{call.lineno}" for name, call in calls if ast.unparse(call.func) == "print"]
    assert calls
    assert not found, found


def test_every_error_is_in_the_one_tree():
    # Benchmarks are run by us, not by users: what fails there may fail as it likes.
    trees = {name: tree for name, tree in product().items() if not name.startswith(("protocol/errors.py", "perf/"))}
    found = [f"{name}:{fault}" for name, tree in trees.items()
             for fault in raised(tree, name.split("/")[0]) + own_errors(tree)]  # fmt: skip
    assert not found, "raise an error of protocol/errors.py:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("planted", "fault"),
    [
        ("raise ValueError('x')", "1: raises ValueError"),
        ("raise KeyError", "1: raises KeyError"),
        ("import typer\nraise typer.Exit(1)", "2: raises typer.Exit"),
        ("from elsewhere import SchemaError\nraise SchemaError('x')", "2: raises SchemaError"),
    ],
)
def test_foreign_error_is_found(planted, fault):
    assert raised(ast.parse(planted), "records") == [fault]


def test_own_error_class_is_found():
    assert own_errors(ast.parse("class Mine(ValueError):\n    pass")) == ["1: class Mine"]


def test_our_errors_pass():
    text = "from protocol.errors import SchemaError\nraise SchemaError('x', remedy='y')"
    assert raised(ast.parse(text), "records") == []
    assert raised(ast.parse("import typer\nraise typer.Exit(1)"), "cli") == []


def test_error_tree_is_drawn_as_it_is():
    drawn = drawn_tree(errors.__doc__ or "")
    assert drawn == real_tree(errors.CloisterError)
    assert drawn["SchemaError"] == "InputError"


def test_drawn_tree_can_be_wrong():
    moved = (errors.__doc__ or "").replace("│   ├── SchemaError", "├── SchemaError")
    assert drawn_tree(moved)["SchemaError"] == "CloisterError"


def machine_paths(text: str) -> list[str]:
    """Folders of somebody's machine that a text names."""
    return [path for path in MACHINE_PATHS if re.search(rf"(?<![\w./]){re.escape(path)}", text)]


def test_no_path_of_a_machine():
    files = [path for folder in (*PACKAGES, "docs", "scripts", ".ci") for path in (ROOT / folder).rglob("*")]
    files += [path for path in ROOT.glob("*.*") if path.suffix in {".md", ".toml", ".txt"}]
    files = [path for path in [*files, ROOT / "Makefile"] if path.is_file() and "__pycache__" not in path.parts]
    named = {path: machine_paths(path.read_text("utf-8", errors="ignore")) for path in files}
    assert not any(named.values()), {str(path): found for path, found in named.items() if found}


def test_path_of_a_machine_is_found():
    assert machine_paths(f"open('{MACHINE_PATHS[0]}x')") == [MACHINE_PATHS[0]]
    assert machine_paths(f"see docs{MACHINE_PATHS[0]}x") == []


def test_versions_agree():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    listed = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert listed[0] == version


def test_constraints_pin_what_is_asked_for_and_name_no_place():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    odd = [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][\w.]*(; \w+ [!=]= '\w+')?", line)]
    assert not odd, odd
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.match(r"[\w-]+", line)[0].lower() for line in asked}
    assert names <= pinned, sorted(names - pinned)
