"""No global generator in a privacy path: the syntax trees of those folders are searched for any."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("client", "privacy", "protocol", "strategies", "records")

# What numpy.random offers that is no draw from the hidden global state.
NUMPY_CLASSES = {
    "Generator",
    "BitGenerator",
    "SeedSequence",
    "PCG64",
    "PCG64DXSM",
    "Philox",
    "MT19937",
    "SFC64",
}
NUMPY_SEEDED = {"default_rng"}
TORCH_GLOBAL_STATE = {"manual_seed", "seed", "set_rng_state"}
TORCH_DRAWS = {"randn", "rand", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"}
TORCH_DRAWS_WITHOUT_GENERATOR = {"randn_like", "rand_like", "randint_like"}
TENSOR_DRAWS = {
    "normal_", "uniform_", "bernoulli_", "random_", "exponential_", "geometric_", "cauchy_", "log_normal_",
}  # fmt: skip


def imported_names(tree: ast.AST) -> dict[str, str]:
    """Local name to dotted origin, for every import anywhere in the file."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                origin = alias.name if alias.asname else alias.name.partition(".")[0]
                names[alias.asname or origin] = origin
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """The origin of a chain of attributes on an imported name, or nothing."""
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute):
        start = dotted(node.value, names)
        return f"{start}.{node.attr}" if start else ""
    return ""


def import_fault(node: ast.AST) -> str:
    modules = []
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level:
        modules = [node.module]
    return "the module random" if "random" in modules else ""


def numpy_fault(origin: str, call: ast.Call | None) -> str:
    parent, _, name = origin.rpartition(".")
    if parent != "numpy.random" or name in NUMPY_CLASSES:
        return ""
    if name not in NUMPY_SEEDED:
        return f"numpy's global {name}"
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)] if call else []
    if not arguments or all(isinstance(a, ast.Constant) and a.value is None for a in arguments):
        return f"{name} without a seed"
    return ""


def torch_fault(origin: str, call: ast.Call | None) -> str:
    name = origin.rpartition(".")[2]
    if origin.partition(".")[0] != "torch" or origin.startswith("torch.Generator"):
        return ""
    if name in TORCH_GLOBAL_STATE or name == "manual_seed_all":
        return f"torch's global {name}"
    if origin not in {f"torch.{draw}" for draw in TORCH_DRAWS | TORCH_DRAWS_WITHOUT_GENERATOR}:
        return ""
    return "" if has_generator(call) else f"torch.{name} without a generator"


def has_generator(call: ast.Call | None) -> bool:
    given = [keyword.value for keyword in call.keywords if keyword.arg == "generator"] if call else []
    return bool(given) and not (isinstance(given[0], ast.Constant) and given[0].value is None)


def faults(source: str, name: str) -> list[str]:
    """Every use of a global generator in ``source``, as ``name:line: what``."""
    tree = ast.parse(source)
    names = imported_names(tree)
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = []
    for node in ast.walk(tree):
        fault = import_fault(node)
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            call, origin = calls.get(id(node)), dotted(node, names)
            fault = numpy_fault(origin, call) or torch_fault(origin, call)
            if isinstance(node, ast.Attribute) and node.attr in TENSOR_DRAWS and not has_generator(call):
                fault = f"{node.attr} without a generator"
        if fault:
            found.append((node.lineno, f"{name}:{node.lineno}: {fault}"))
    return [text for _, text in sorted(found)]


def test_no_global_generator_in_a_privacy_path():
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert ROOT / "protocol" / "randomness.py" in files
    found = [fault for path in files for fault in faults(path.read_text("utf-8"), str(path.relative_to(ROOT)))]
    assert not found, "take a RandomSource, or a generator seeded by its seed64():\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("planted", "fault"),
    [
        ("import random", "1: the module random"),
        ("from random import gauss", "1: the module random"),
        ("import random as r", "1: the module random"),
        ("import numpy as np\nx = np.random.normal(0, 1, 3)", "2: numpy's global normal"),
        ("import numpy as np\nnp.random.seed(1)", "2: numpy's global seed"),
        ("import numpy\nf = numpy.random.standard_normal", "2: numpy's global standard_normal"),
        ("import numpy.random\nnumpy.random.rand()", "2: numpy's global rand"),
        ("import numpy.random as nr\nnr.shuffle(x)", "2: numpy's global shuffle"),
        ("from numpy import random\nrandom.choice(3)", "2: numpy's global choice"),
        ("from numpy.random import laplace as noise\nnoise(0, 1)", "2: numpy's global laplace"),
        ("import numpy as np\nnp.random.RandomState(3)", "2: numpy's global RandomState"),
        ("import numpy as np\ng = np.random.default_rng()", "2: default_rng without a seed"),
        ("import numpy as np\ng = np.random.default_rng(seed=None)", "2: default_rng without a seed"),
        ("from numpy.random import default_rng\nmake = default_rng", "2: default_rng without a seed"),
        ("import torch\ntorch.manual_seed(0)", "2: torch's global manual_seed"),
        ("import torch\ntorch.cuda.manual_seed_all(0)", "2: torch's global manual_seed_all"),
        ("import torch as t\n\nt.randn(3)", "3: torch.randn without a generator"),
        ("import torch\ntorch.normal(0.0, 1.0, (3,), generator=None)", "2: torch.normal without a generator"),
        ("from torch import rand\ndef f():\n    return rand(3)", "3: torch.rand without a generator"),
        (
            "import torch\ndef f(x):\n    return torch.randn_like(x)",
            "3: torch.randn_like without a generator",
        ),
        ("def f(x):\n    x.normal_(0, 1)", "2: normal_ without a generator"),
    ],
)
def test_search_finds_what_is_planted(planted, fault):
    assert faults(planted, "planted.py") == [f"planted.py:{fault}"]


@pytest.mark.parametrize(
    "clean",
    [
        "from protocol.randomness import SystemRandom\nrandom = SystemRandom()\nrandom.uniform(3)",
        "import numpy as np\ndef f(g: np.random.Generator):\n    return g.normal(0, 1)",
        "import numpy as np\ng = np.random.default_rng(source.seed64())",
        "import torch\ng = torch.Generator().manual_seed(1)\ntorch.randn(3, generator=g)",
        "def f(x, g):\n    x.normal_(0, 1, generator=g)",
        "from . import random",
        "import torch\nd = torch.distributions.Normal",
    ],
)
def test_search_leaves_alone_what_is_right(clean):
    assert faults(clean, "clean.py") == []
