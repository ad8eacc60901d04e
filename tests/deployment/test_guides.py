"""Every guide does what it says: its commands are carried out, in order, by real processes on loopback.

In a ``console`` block a line that begins with a prompt such as ``north$`` is a command of that machine. Other lines
show what it may print and are not compared, but for ``[y/N]: y``, which is typed. A comment ``<!-- meanwhile: ... -->``
says what others do; what that comes to stands in `MEANWHILE`. `World` says what is replaced.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import typer

from cli.app import app

ROOT = Path(__file__).parents[2]
GUIDES = ("guide-partner-site", "guide-coordinator", "guide-privacy-officer")
ANSWER = re.compile(r"\[y/N\]: (\w)$")
OTHER_GUIDES = (
    "../README", "operations", "schema", "models", "audits", "tuning", "different-sites", "image-studies",
)  # fmt: skip
SITES = ("north", "south", "east")
ROUNDS = 5
ALL_ROUNDS = 1 + ROUNDS  # what `cloister study new` writes begins with a round of statistics

# Each is a federation of its own and takes more than a minute. The partner's guide runs every time; the README's seven
# commands are those of test_deployed_federation.py.
nightly = pytest.mark.skipif(
    os.environ.get("CLOISTER_HYPOTHESIS") != "nightly", reason="takes minutes: CLOISTER_HYPOTHESIS=nightly"
)


@dataclass(kw_only=True)
class Command:
    """One line after a prompt."""

    prompt: str
    line: str
    answer: str | None = None


@dataclass(kw_only=True)
class Meanwhile:
    """What others do."""

    words: str


def steps(text: str) -> Iterator[Command | Meanwhile]:
    """Read a guide: commands and comments, in order."""
    for comment, block in re.findall(r"<!-- meanwhile: (.*?) -->|```console\n(.*?)```", text, re.DOTALL):
        if comment:
            yield Meanwhile(words=" ".join(comment.split()))
            continue
        command: Command | None = None
        for line in block.replace("\\\n", " ").splitlines():
            prompted = re.match(r"([a-z]+)\$ (.*)", line)
            if prompted:
                if command is not None:
                    yield command
                command = Command(prompt=prompted[1], line=" ".join(prompted[2].split()))
            elif command is not None and (typed := ANSWER.search(line)):
                command.answer = typed[1]
        if command is not None:
            yield command


def read(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text("utf-8")


# What others do, by the words of the guide.


def coordinator_with_invitations(world) -> None:
    coordinator = world.machine("coordinator")
    coordinator.run("cloister coordinator init /srv/hearts --name hearts --host fed.example.org")
    coordinator.run("export CLOISTER_COORDINATOR=/srv/hearts")
    coordinator.run(f"cloister coordinator invite {' '.join(SITES)}")
    coordinator.run("cloister coordinator start")


def enrol(world, *names: str) -> None:
    """Let sites enrol with a few made-up records each, which fit the public schema."""
    for number, name in enumerate(names):
        machine = world.machine(name)
        (machine.folder / "masses.csv").write_text(some_records(150, seed=number))
        machine.run("export CLOISTER_SITE=/srv/cloister")
        machine.run("cloister site enroll CODE --data masses.csv --epsilon 8")


def some_records(count: int, *, seed: int) -> str:
    """Rows for the schema of the breast cancer records, made from nothing."""
    import numpy as np

    from records.codec import Codec
    from records.schema import Schema

    schema = Schema.from_toml(ROOT / "simulations" / "scenarios" / "breast_cancer.schema.toml")
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, schema.cardinalities, (count, len(schema.cardinalities))).astype(np.int32)
    table = Codec(schema).decode(codes, generator=generator)
    lines = [",".join(table.column_names)]
    lines += [",".join(str(value) for value in row.values()) for row in table.to_pylist()]
    return "\n".join(lines) + "\n"


def offer_study(world, *, at: str) -> None:
    coordinator = world.machine("coordinator")
    coordinator.run(
        "cloister study new --schema simulations/scenarios/breast_cancer.schema.toml --sites 3 --records 600"
        " --epsilon 4 --delta 1e-4 --name masses --purpose 'Teaching data for a course.' -o masses.toml"
    )
    shortened = rf"/^cooldown/d; /^\[training\]/,$ s/^rounds = .*/rounds = {ROUNDS}/"
    coordinator.run(f"sed -i '{shortened}' masses.toml")
    coordinator.run("cloister coordinator run masses.toml")
    wait_for_offer(world, at=at)


def wait_for_offer(world, *, at: str, study: str = "masses") -> None:
    world.wait(lambda: study in world.machine(at).run("cloister site approve"), "the offer of the study")


def approve_and_start(world, *names: str) -> None:
    for name in names:
        world.machine(name).run("cloister site approve masses", answer="y")
        world.machine(name).run("cloister site start")


def finish(world) -> Path:
    """Wait for the release."""
    world.machine("coordinator").finish_long()
    (release,) = (world.machine("coordinator").folder / "srv" / "hearts" / "studies").glob("*/release")
    return release


def others_offer_the_study(world) -> None:
    enrol(world, "south", "east")
    offer_study(world, at="north")


def all_sites_take_part(world) -> None:
    wait_for_offer(world, at="north")
    approve_and_start(world, *SITES)


def officer_is_asked(world) -> None:
    coordinator_with_invitations(world)
    enrol(world, "officer", "south", "east")
    offer_study(world, at="officer")
    approve_and_start(world, "south", "east")


def release_is_fetched(world) -> None:
    officer = world.machine("officer")
    officer.run("cloister site start")
    shutil.copytree(finish(world), officer.folder / "masses-release")


MEANWHILE: dict[str, Callable] = {
    "a coordinator runs at fed.example.org, and has invited north, south and east": coordinator_with_invitations,
    "south and east enrol, and the coordinator offers the study masses": others_offer_the_study,
    "south and east approve the study and start": lambda world: approve_and_start(world, "south", "east"),
    "the study runs to its end": finish,
    "the three sites enrol": lambda world: enrol(world, *SITES),
    "the three sites approve the study masses and start": all_sites_take_part,
    "the site north is enrolled, and its coordinator offers the study masses": officer_is_asked,
    "the study runs to its end, and the release is fetched into the folder masses-release": release_is_fetched,
}


def carry_out(world, text: str) -> None:
    """Do everything that a guide says."""
    for step in steps(text):
        if isinstance(step, Meanwhile):
            MEANWHILE[step.words](world)
        else:
            world.machine(step.prompt).run(step.line, answer=step.answer)


@pytest.mark.slow
def test_the_partners_guide(world):
    carry_out(world, read("guide-partner-site"))
    north = world.machine("north")
    spent = json.loads(north.run("cloister site ledger --json"))
    assert json.dumps(spent).count(spent_study(north)) >= 1
    status = json.loads(north.run("cloister site status --json"))
    assert status["running"] is True
    assert status["studies"] == [], "withdrawn"
    assert 4.0 <= status["budget"][0]["epsilon"] < 8.0
    assert "ReadWritePaths=" in (north.folder / "cloister-site.service").read_text()
    assert "USER 10001" in (north.folder / "Containerfile").read_text()


def spent_study(machine) -> str:
    """Hash of the study that the site's last message was about."""
    return json.loads(machine.run("cloister site status --json"))["last_departure"]["study"]


@pytest.mark.slow
@nightly
def test_the_coordinators_guide(world):
    carry_out(world, read("guide-coordinator"))
    coordinator = world.machine("coordinator")
    assert len((coordinator.folder / "synthetic.csv").read_text().splitlines()) == 101
    assert "cloister coordinator start" in (coordinator.folder / "cloister-coordinator.service").read_text()
    facts = json.loads(coordinator.run("cloister coordinator status --json"))
    assert [study["state"] for study in facts["studies"]] == ["finished"]
    assert {member["site"]: bool(member["revoked"]) for member in facts["members"]} == {
        "north": False, "south": False, "east": True,
    }  # fmt: skip
    world.machine("east").run("cloister site enroll CODE")  # the new code lets it in again


@pytest.mark.slow
@nightly
def test_the_officers_guide(world):
    carry_out(world, read("guide-privacy-officer"))
    officer = world.machine("officer")
    assert (officer.folder / "ledger.html").read_text().startswith("<!")
    checked = "".join(officer.outputs)
    assert f"north: its ledger shows {ALL_ROUNDS} of the {ALL_ROUNDS} rounds, each charged once" in checked
    assert "BAD" not in checked
    assert (officer.folder / "masses-bundle" / "index.html").is_file()
    assert (officer.folder / "masses-bundle" / "ledgers" / "north.json").is_file()
    record = (officer.folder / "srv" / "cloister" / "egress.jsonl").read_text()
    lines = [json.loads(line) for line in record.splitlines()]
    assert sum(line["kind"] == "contribution" for line in lines) == ALL_ROUNDS
    assert json.loads(officer.run("cloister site status --json"))["studies"] == []


@pytest.mark.slow
@nightly
def test_the_readme_gets_three_sites_training_with_four_commands_and_three_each(world):
    _, _, section = (ROOT / "README.md").read_text("utf-8").partition("\n## Run a federation\n")
    section = section.partition("\n## ")[0]
    found = [step for step in steps(section) if isinstance(step, Command)]
    if not found:
        pytest.skip("the README has no such section")
    coordinator = [step for step in found if step.prompt == "coordinator"]
    at_a_site = [step for step in found if step.prompt == "site"]
    assert len(coordinator) <= 4
    assert len(at_a_site) <= 3
    assert len(coordinator) + len(at_a_site) == len(found)
    host = world.machine("coordinator")
    (host.folder / "study.toml").write_text(a_study())
    for name in SITES:
        (world.machine(name).folder / "records.csv").write_text(some_records(150, seed=len(name)))
    for step in coordinator[:3]:
        host.run(step.line)
    for name in SITES:
        world.machine(name).run(at_a_site[0].line)
    host.run(coordinator[3].line)
    wait_for_offer(world, at=SITES[0], study="stroke-unit")
    for name in SITES:
        world.machine(name).run(at_a_site[1].line, answer="y")
        world.machine(name).run(at_a_site[2].line)
    host.finish_long()
    assert len(list(host.folder.glob("*/studies/*/release/statement.json"))) == 1


def a_study() -> str:
    """A short study on the public schema."""
    import tomllib

    import tomli_w

    scenarios = ROOT / "simulations" / "scenarios"
    mapping = tomllib.loads((scenarios / "breast_cancer.toml").read_text("utf-8"))
    del mapping["records"]
    mapping["study"]["name"] = "stroke-unit"
    mapping["schema"] = tomllib.loads((scenarios / "breast_cancer.schema.toml").read_text("utf-8"))
    mapping["training"]["rounds"] = ROUNDS
    mapping["federation"] |= {"sites": 3, "public_records": 600}
    return tomli_w.dumps(mapping)


# What can be seen without running anything.


def spans(text: str) -> list[str]:
    """Every command that a text mentions, in blocks and in words."""
    blocks = re.findall(r"```(?:console|sh|)\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    quoted = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = [re.sub(r"^[a-z]+\$ ", "", line) for line in lines] + quoted
    return [line for line in found if line.startswith("cloister ")]


def fault(line: str) -> str | None:
    """What is wrong with a mentioned command; None if it exists with all its options."""
    command: click.Command = typer.main.get_command(app)
    words = re.split(r" [>|] | # ", line)[0].split()[1:]
    while words and isinstance(command, click.Group):
        if words[0].startswith("-"):
            break
        if words[0] not in command.commands:
            return f"{line}: no command {words[0]!r}"
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    odd = [word for word in words if word.startswith("-") and word.split("=")[0] not in known | {"--help", "-h"}]
    return f"{line}: no option {odd}" if odd else None


@pytest.mark.parametrize("name", [*GUIDES, *OTHER_GUIDES])
def test_every_command_that_a_guide_mentions_exists(name):
    mentioned = spans(read(name))
    assert [found for line in mentioned if (found := fault(line))] == []
    if name in GUIDES:
        assert len(mentioned) > 8


def test_the_search_finds_what_is_not_there():
    assert fault("cloister site fly") is not None
    assert fault("cloister site status --colour red") is not None
    assert fault("cloister site status --json") is None


def test_every_step_aside_is_known_and_used():
    told = {step.words for name in GUIDES for step in steps(read(name)) if isinstance(step, Meanwhile)}
    assert told == set(MEANWHILE)


def test_a_guide_is_read_as_it_is_meant():
    text = "<!-- meanwhile: they\nwait -->\n```console\na$ one \\\n  two\nsays\nb$ three\nSure? [y/N]: y\n```\n"
    text += "```sh\nno\n```\n"
    assert list(steps(text)) == [
        Meanwhile(words="they wait"),
        Command(prompt="a", line="one two"),
        Command(prompt="b", line="three", answer="y"),
    ]


def test_the_partners_guide_has_two_pages():
    assert len(read("guide-partner-site").splitlines()) <= 130
    assert len(read("guide-partner-site").split()) <= 1200


def test_links_between_guides_lead_somewhere():
    for name in [*GUIDES, *OTHER_GUIDES, "threat-model", "sharp-edges", "results"]:
        folder = (ROOT / "docs" / f"{name}.md").parent
        for target in re.findall(r"\]\(([^)#:]+)\)", read(name)):
            assert (folder / target).exists(), f"{name}: {target}"
