"""A user's mistake is told in one line with a remedy and a status, never with a traceback."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "cli.app"]
COMMANDS = ["demo", "simulate", "sweep", "sample", "evaluate", "audit mechanism", "audit model", "audit release",
            "audit channel", "audit check", "schema draft", "schema check"]  # fmt: skip


def process(*arguments, **options):
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, **options,
    )  # fmt: skip


def test_help_of_the_program_lists_the_commands(cloister):
    status, out, err = cloister("--help")
    assert (status, err) == (0, "")
    assert all(f"\n  {name.split()[0]} " in out for name in COMMANDS)
    assert cloister("-h")[1] == out
    assert cloister()[::2] == (2, out)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_an_example_and_is_plain(cloister, command):
    status, out, err = cloister(*command.split(), "--help")
    assert (status, err) == (0, "")
    assert f"cloister {command} " in out.partition("Example")[2]
    assert not set("\x1b\\╭│") & set(out)
    assert "--json" in out or command == "schema draft"


def test_help_imports_nothing_heavy():
    heavy = "[m for m in ('torch', 'pyarrow', 'flwr', 'sklearn', 'matplotlib', 'pandas') if m in sys.modules]"
    code = f"import sys; from cli.app import run; run(['sample', '--help']); print({heavy}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert "Usage: cloister sample" in done.stdout


def test_version(cloister):
    status, out, _ = cloister("--version")
    assert status == 0
    assert out.startswith("cloister 0.")


MISUSES = [
    (["frobnicate"], "No such command 'frobnicate'.", "cloister --help"),
    (["sample"], "Missing argument 'RELEASE'.", "cloister sample --help"),
    (["sample", "r", "--sede", "3"], "No such option '--sede'.", "cloister sample --help"),
    (["sample", "r", "-n", "0"], "0 is not in the range", "cloister sample --help"),
    (["sample", "r", "-n", "many"], "'many' is not a valid int", "cloister sample --help"),
    (
        ["sample", "r", "--format", "xls"],
        "'xls' is not one of 'parquet', 'csv', 'npz', 'png'.",
        "cloister sample --help",
    ),
    (["sample", "r", "--json"], "--json: it needs -o FILE", "cloister sample --help"),
    (["evaluate", "r"], "Missing option '--real'.", "cloister evaluate --help"),
    (["schema", "chek"], "No such command 'chek'.", "cloister schema --help"),
    (
        ["audit", "mechansim", "x"],
        "No such command 'mechansim'. Did you mean 'mechanism'? Try:",
        "cloister audit --help",
    ),
]


@pytest.mark.parametrize(("arguments", "problem", "hint"), MISUSES)
def test_misuse_is_one_line_with_a_hint_and_status_two(cloister, arguments, problem, hint):
    status, out, err = cloister(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("cloister: ")
    assert problem in err
    assert err.endswith(f"Try: {hint}\n")
    assert err.count("\n") == 1


REFUSALS = [
    (["sample", "{none}"], "is no release", "Check the path."),
    (["sample", "{release}", "--where", "agee=3"], "'agee' is not a modelled column", "Did you mean 'age'?"),
    (["sample", "{release}", "--where", "age"], "no operator follows 'age'", "COLUMN OP VALUE"),
    (["sample", "{release}", "--where", "age>29"], "no value of column age meets it", "from 20 to 29"),
    (["sample", "{release}", "-o", "{none}/a.csv"], "is not a folder", "Make it first"),
    (["sample", "{release}", "-o", "{folder}"], "is a folder", "Give the name of a file"),
    (["sample", "{release}", "-o", "{none}.txt"], "rows are not written as .txt", "add --format"),
    (["sample", "{release}", "-o", "{none}.gz", "--format", "parquet"], "already compressed", ".parquet"),
    (["sample", "{release}", "--format", "parquet"], "Parquet cannot be written to standard", "Add -o"),
    (["sample", "{release}", "--device", "abacus"], "'abacus' cannot be used", "Use --device cpu."),
    (["evaluate", "{none}", "--real", "x.csv"], "no such file or folder", "Check the path."),
    (["evaluate", "{release}", "--real", "{none}.csv"], "there is no such file", "Check the path."),
    (["schema", "check", "{none}"], "No such file or directory", "Give the path of a schema file."),
    (["schema", "draft", "{none}.csv"], "none.csv", "Check that the file is there"),
]


@pytest.mark.parametrize(("arguments", "problem", "remedy"), REFUSALS)
def test_refusal_is_one_line_with_a_remedy_and_status_one(cloister, odd_release, tmp_path, arguments, problem, remedy):
    places = {"release": odd_release, "none": tmp_path / "none", "folder": tmp_path}
    status, out, err = cloister(*(argument.format(**places) for argument in arguments))
    assert (status, out) == (1, "")
    assert err.startswith("cloister: ")
    assert problem in err
    assert remedy in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_process_has_the_status_and_the_line():
    with process("sample", "nowhere") as started:
        out, err = started.communicate(timeout=120)
    assert (started.returncode, out) == (1, b"")
    assert err == b"cloister: nowhere is no release: no readable SHA256SUMS. Check the path.\n"


def test_a_closed_pipe_ends_quietly(odd_release):
    with process("sample", odd_release, "-q", "-n", 300_000) as started:
        assert started.stdout.readline() == b'"age","colour","dose","seen","ill"\n'
        started.stdout.close()
        err = started.stderr.read()
    assert err == b""
    assert started.returncode == 1


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_an_interrupt_ends_in_one_line_and_leaves_nothing(odd_release, tmp_path):
    arguments = ("sample", odd_release, "-n", 500_000_000, "-o", tmp_path / "a.csv")
    # A job in the background inherits an ignored Ctrl-C from its shell; this one must hear it.
    with process(*arguments, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as started:
        timer = threading.Timer(60.0, started.kill)
        timer.start()
        while b"Drawing" not in started.stderr.readline():
            assert started.poll() is None
        started.send_signal(signal.SIGINT)
        err = started.stderr.read()
        timer.cancel()
    assert started.returncode == 130
    assert err == b"cloister: interrupted.\n"
    assert not list(tmp_path.iterdir())
