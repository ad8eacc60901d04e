"""Runs under Flower's own simulation runtime: what arrives where, whose code runs, and that nothing stays."""

import hashlib
import io
import json
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import load_and_validate

from protocol.errors import FederationError, InputError
from simulations import flower_runtime
from simulations.flower_runtime import FlowerRun, run_with_flower, write_launcher

ROOT = Path(__file__).parents[2]

SERVER = """
import hashlib, json, time
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()

def report(**facts):
    print("REPORT " + json.dumps(facts), flush=True)

def exchange(grid, messages):
    waiting = set(grid.push_messages(messages))
    while waiting:
        for reply in grid.pull_messages(waiting):
            waiting.discard(reply.metadata.reply_to_message_id)
            yield reply
        time.sleep(0.02)

@app.main()
def main(grid: Grid, context: Context) -> None:
    study = context.run_config["study"]
    report(kind="server", file=__file__, study=hashlib.sha256(study.encode()).hexdigest())
    while not (nodes := sorted(grid.get_node_ids())):
        time.sleep(0.1)
    vector = np.arange(1000, dtype=np.int32)
    for number in range(3):
        started = time.monotonic()
        records = RecordDict({
            "header": ConfigRecord({"round": number, "rate": 0.1, "name": "x", "key": bytes([0, 255])}),
            "vector": ArrayRecord({"0": Array(vector)}),
        })
        for reply in exchange(grid, [Message(records, node, "train.gradients") for node in nodes]):
            doubled = reply.content["vector"]["0"].numpy()
            same = bool((doubled == 2 * vector).all()) and doubled.dtype == np.int32
            report(kind="site", vector=same, **dict(reply.content["header"]))
        report(kind="round", seconds=time.monotonic() - started)
    (reply,) = grid.send_and_receive([Message(RecordDict(), nodes[0], "query.failure")])
    report(kind="failure", code=reply.error.code, reason=reply.error.reason)
    if context.run_config["release"] == "fail":
        raise RuntimeError("asked to fail")
    while context.run_config["release"] == "hang":
        time.sleep(0.1)
"""

CLIENT = """
import hashlib, os
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train("gradients")
def gradients(message: Message, context: Context) -> Message:
    calls = 1 + (context.state["calls"]["n"] if "calls" in context.state else 0)
    context.state["calls"] = ConfigRecord({"n": calls})
    header = {
        "file": __file__,
        "calls": calls,
        "round": message.content["header"]["round"],
        "key": message.content["header"]["key"].hex(),
        "partition": context.node_config["partition-id"],
        "partitions": context.node_config["num-partitions"],
        "variable": os.environ["CLOISTER_SITE"],
        "study": hashlib.sha256(context.run_config["study"].encode()).hexdigest(),
    }
    vector = message.content["vector"]["0"].numpy()
    records = {"header": ConfigRecord(header), "vector": ArrayRecord({"0": Array(2 * vector)})}
    return Message(RecordDict(records), reply_to=message)

@app.query("failure")
def failure(message: Message, context: Context) -> Message:
    raise ValueError("something went wrong at a site")
"""

DECOY = "raise SystemExit('the code of the project that the caller happened to stand in')"
STUDY = "".join(f"line {n}: \"quoted\" 'single' \\ back\tslash {{x}} = é # [y]\n" for n in range(300))


def write_packages(folder: Path, *, server: str = SERVER, client: str = CLIENT) -> Path:
    """Write the packages ``server`` and ``client``, each with its app."""
    for name, source in (("server", server), ("client", client)):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").touch()
        (folder / name / "app.py").write_text(source)
    return folder


@pytest.fixture
def app_dir(tmp_path: Path) -> Path:
    """An app of this repository's shape: its project file is this repository's own."""
    folder = write_packages(tmp_path / "app")
    (folder / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    return folder


@pytest.fixture(autouse=True)
def decoy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in another project while running: its code must not get into the run."""
    folder = write_packages(tmp_path / "decoy", server=DECOY, client=DECOY)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(autouse=True)
def homes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The private folders of the runs that the test makes."""
    used: list[Path] = []
    original = flower_runtime._surroundings

    def remember(home: Path, environment: dict[str, str]) -> dict[str, str]:
        used.append(home)
        return original(home, environment)

    monkeypatch.setattr(flower_runtime, "_surroundings", remember)
    return used


def reports(run: FlowerRun) -> dict[str, list[dict[str, Any]]]:
    """What the apps reported, by kind."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in run.log.splitlines():
        if line.startswith("REPORT "):
            facts = json.loads(line.removeprefix("REPORT "))
            found.setdefault(facts.pop("kind"), []).append(facts)
    return found


def assert_nothing_stays(homes: list[Path]) -> None:
    assert len(homes) == 1
    assert not homes[0].exists()
    assert flower_runtime._processes_of(homes[0]) == []


@pytest.mark.slow
def test_an_app_runs_from_its_bundle_on_both_sides(app_dir: Path, homes: list[Path]) -> None:
    run = run_with_flower(
        app_dir,
        run_config={"study": STUDY},
        sites=4,
        environment={"CLOISTER_SITE": "a value, with = and spaces"},
        timeout_s=85,
    )
    assert run.returncode == 0, run.log
    assert run.status.startswith("finished:completed")
    told = reports(run)
    fingerprint = hashlib.sha256(STUDY.encode()).hexdigest()
    assert len(STUDY) > 10_000
    assert told["server"][0]["study"] == fingerprint
    bundle = Path(told["server"][0]["file"]).parents[1]
    assert bundle.is_relative_to(homes[0] / "apps")
    expected = [
        {"partition": partition, "round": number, "calls": number + 1} for number in range(3) for partition in range(4)
    ]
    told["site"].sort(key=lambda facts: (facts["round"], facts["partition"]))
    for facts, own in zip(told["site"], expected, strict=True):
        assert facts == own | {
            "vector": True,
            "file": str(bundle / "client" / "app.py"),
            "key": "00ff",
            "partitions": 4,
            "variable": "a value, with = and spaces",
            "study": fingerprint,
        }
    assert told["failure"][0]["code"] == 2
    assert "something went wrong at a site" in told["failure"][0]["reason"]
    assert_nothing_stays(homes)


@pytest.mark.slow
def test_a_launcher_runs_the_installed_packages_and_a_failure_is_reported(tmp_path: Path, homes: list[Path]) -> None:
    installed = write_packages(tmp_path / "installed")
    launcher = write_launcher(tmp_path / "launcher", run_config_keys=["study", "release"])
    run = run_with_flower(
        launcher,
        run_config={"study": "s", "release": "fail"},
        sites=2,
        environment={"CLOISTER_SITE": "", "PYTHONPATH": str(installed)},
        timeout_s=85,
    )
    assert run.returncode == 1
    assert run.status.startswith("finished:failed")
    assert "asked to fail" in run.status
    told = reports(run)
    assert told["server"][0]["file"] == str(installed / "server" / "app.py")
    assert {facts["file"] for facts in told["site"]} == {str(installed / "client" / "app.py")}
    assert_nothing_stays(homes)


@pytest.mark.slow
def test_a_run_that_hangs_is_ended_with_all_its_processes(app_dir: Path, homes: list[Path]) -> None:
    with pytest.raises(FederationError, match="not over in time"):
        run_with_flower(
            app_dir,
            run_config={"release": "hang"},
            sites=2,
            environment={"CLOISTER_SITE": ""},
            timeout_s=25,
        )
    assert_nothing_stays(homes)


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # of pathspec, by flwr
def test_a_launcher_is_an_app_without_code(tmp_path: Path) -> None:
    launcher = write_launcher(tmp_path / "launcher", run_config_keys=["study"])
    config, warnings = load_and_validate(launcher / "pyproject.toml", check_module=False)
    assert warnings == []
    assert config["tool"]["flwr"]["app"]["config"] == {"study": ""}
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(launcher))) as bundle:
        assert bundle.namelist() == ["pyproject.toml", ".info/CONTENT"]


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # of pathspec, by flwr
def test_the_bundle_of_this_repository_leaves_no_module_behind() -> None:
    """Flower drops test_*.py, folders that .gitignore names, and what is not code or text, without a word."""
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["packages"]
    needed = {
        path.relative_to(ROOT).as_posix()
        for package in packages
        for pattern in ("*.py", "*.toml")
        for path in (ROOT / package).rglob(pattern)
    }
    content = build_fab_from_disk(ROOT)
    with zipfile.ZipFile(io.BytesIO(content)) as bundle:
        shipped = set(bundle.namelist())
    assert needed - shipped == set()
    assert "simulations/flower_runtime.py" in shipped
    assert not any(name.rpartition("/")[2].startswith("test_") for name in shipped)
    assert len(content) < 10 * 1024 * 1024


def test_a_folder_without_an_app_and_a_federation_without_sites_are_refused(app_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no pyproject\.toml"):
        run_with_flower(tmp_path, run_config={}, sites=1, environment={}, timeout_s=1)
    with pytest.raises(InputError, match="0 sites"):
        run_with_flower(app_dir, run_config={}, sites=0, environment={}, timeout_s=1)


def test_a_missing_flower_is_named(app_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.deployment.processes.flower.shutil.which", lambda *_, **__: None)
    with pytest.raises(FederationError, match="flower-superlink"):
        run_with_flower(app_dir, run_config={}, sites=1, environment={}, timeout_s=1)
