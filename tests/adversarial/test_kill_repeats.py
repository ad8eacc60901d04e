"""Killed with signal 9 at any moment and asked the same again: each round has one charge, one reply, and none is stuck.

Run as a program, this file is a coordinator and one site: the site is a child process that answers through the real app
from its folder, and the coordinator kills it while it waits for an answer, starts it again, and repeats its request. It
also repeats, now and then, what was answered already, as a coordinator does that died before it wrote that down. Under
the secure sum, four more sites live in the coordinator's process.
"""

import contextlib
import json
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ROUNDS = 30
NAMES = ("a", "b", "c", "d", "e")
RUN = "a" * 64
SCHEMA = {"columns": [{"name": "ill", "kind": "boolean"}, {"name": "age", "kind": "integer", "lower": 0, "upper": 9}]}


def prepare(folder: Path, trust: str) -> Any:
    """Make a study, and the folder of its site a."""
    from protocol.study import Study
    from simulations.site_folders import write_site_folders

    sites = len(NAMES) if trust == "sum" else 1
    study = Study.from_mapping(
        {
            "study": {"name": "repeated"},
            "schema": SCHEMA,
            "model": {"family": "vae", "options": {"latent": 1}},
            "training": {"rounds": ROUNDS},
            "privacy": {"noise_multiplier": 100.0, "sample_rate": 0.5, "trust": trust},
            "federation": {"sites": sites, "public_records": 100},
        }
    )
    rows = "\n".join(f"{'true' if n % 3 else 'false'},{n % 10}" for n in range(30))
    (folder / "records.csv").write_text(f"ill,age\n{rows}\n", "utf-8")
    data = {"location": str(folder / "records.csv"), "set": "a"}
    study = write_site_folders(folder / "sites", study, {name: data | {"set": name} for name in NAMES[:sites]})
    return study


def serve(folder: Path, asked: int, told: int) -> None:
    """Answer whatever is asked, until killed."""
    from flwr.app import Message

    from client.app import app
    from client.site import FOLDER_VARIABLE
    from protocol.record_bytes import record_bytes, record_from_bytes
    from simulations.grid import InMemoryGrid

    os.environ[FOLDER_VARIABLE] = str(folder / "sites" / "0")
    grid = InMemoryGrid(app, [{}])
    with grid.as_server():
        while True:
            message_type, content = received(asked).split(b"\0", 1)
            (reply,) = grid.send_and_receive([Message(record_from_bytes(content), 2, message_type.decode())])
            form = record_bytes(reply.content)
            os.write(told, struct.pack("!I", len(form)) + form)


def received(descriptor: int) -> bytes:
    """Read one message; what a killed process wrote half is none."""
    size = exactly(descriptor, 4)
    return exactly(descriptor, struct.unpack("!I", size)[0])


def exactly(descriptor: int, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = os.read(descriptor, size - len(found))
        if not more:
            raise EOFError
        found += more
    return found


class Site:
    """A site in a process of its own, whose life is short."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kills, self.chance = folder, 0, random.Random()  # noqa: S311 - when to kill is no secret
        self.left: list[dict[str, Any]] = []
        self.usual = {True: 0.02, False: 0.2}  # seconds to an answer, of a warm site and of one that must begin first
        self.start()

    def start(self) -> None:
        (asked, self.asking), (self.hearing, told) = os.pipe(), os.pipe()
        self.process = os.fork()
        if self.process == 0:
            try:
                os.close(self.asking), os.close(self.hearing)
                serve(self.folder, asked, told)
            finally:
                os._exit(1)
        os.close(asked), os.close(told)
        self.warm = False

    def kill(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        _, status = os.waitpid(self.process, 0)
        if not os.WIFSIGNALED(status):
            raise SystemExit("the site ended by itself")
        os.close(self.asking)

    def ask(self, content: Any, message_type: str) -> Any:
        """Ask until there is an answer, and sometimes once more."""
        from protocol.record_bytes import record_bytes, record_from_bytes

        form = message_type.encode() + b"\0" + record_bytes(content)
        while True:
            os.write(self.asking, struct.pack("!I", len(form)) + form)
            short = self.chance.uniform(0.0, 1.2 * self.usual[self.warm])
            patience = short if self.chance.random() < 0.6 else 60.0
            begin = time.monotonic()
            if not select.select([self.hearing], [], [], patience)[0]:
                self.kills += 1
                self.kill()
                with contextlib.suppress(EOFError):
                    self.note(received(self.hearing))  # it had just left
                os.close(self.hearing)
                self.start()
                continue
            reply = received(self.hearing)
            self.usual[self.warm] += 0.3 * (time.monotonic() - begin - self.usual[self.warm])
            self.warm = True
            self.note(reply)
            if self.chance.random() > 0.3:
                return record_from_bytes(reply)

    def note(self, reply: bytes) -> None:
        from client.outbox import reply_digest
        from protocol.record_bytes import record_from_bytes

        header = dict(record_from_bytes(reply)["header"])
        self.left.append({"type": header["type"], "round": header.get("round"), "digest": reply_digest(reply)})


def whole(site: Site, study: Any) -> None:
    """Rounds whose contributions are private one by one."""
    from protocol.messages import encode

    for number in range(1, ROUNDS + 1):
        site.ask(encode(request(study, number)), "train.gradients")


def request(study: Any, number: int) -> Any:
    import numpy as np

    from protocol.messages import RoundRequest
    from protocol.warrant import NO_WARRANT
    from strategies.server_model import ServerModel
    from strategies.study_model import build_study_model

    size = ServerModel(build_study_model(study), study.training).dimension
    weights = np.full(size, 0.01 * number, dtype=np.float32)
    return RoundRequest(
        study=study.hash, run=RUN, round=number, kind=study.training.strategy, warrant=NO_WARRANT, vector=weights
    )


def masked(site: Site, study: Any, folder: Path) -> None:
    """Rounds under the secure sum, opened one by one; site a speaks last."""
    from flwr.app import Message

    from client.app import app
    from client.site import resident
    from privacy.plan import PrivacyPlan
    from privacy.secure_sum import KeyOffer, Preparation, Reveal, ServerSession
    from protocol.keys import read_identity
    from protocol.messages import Contribution, SumTurn, decode, encode, vector_hash
    from protocol.warrant import NO_WARRANT
    from records.dataset import load_records
    from simulations.federation import simulated_site
    from simulations.grid import InMemoryGrid
    from strategies.study_model import build_study_model, study_schema
    from strategies.sum_wire import masked_input, read_sum, sum_policy, with_sum, without_sum

    records = load_records(str(folder / "records.csv"), schema=study_schema(study))
    others = {
        name: simulated_site(
            name, study, records, device="cpu", key=read_identity(folder / "sites" / str(number) / "key.pem")
        )
        for number, name in enumerate(NAMES)
        if number
    }
    session = ServerSession(sum_policy(PrivacyPlan.from_study(study), build_study_model(study), run=RUN))
    with resident(others) as nodes:
        grid = InMemoryGrid(app, nodes)
        places = dict(zip(others, grid.get_node_ids(), strict=True))

        def ask(name: str, content: Any, message_type: str = "query.sum") -> Any:
            if name == "a":
                return site.ask(content, message_type)
            (reply,) = grid.send_and_receive([Message(content, places[name], message_type)])
            return reply.content

        def tell(contents: dict[str, Any], kind: Any, take: Callable[[Any], None], number: int = 1) -> None:
            for name, message in sorted(contents.items(), reverse=True):
                turn = encode(SumTurn(study=study.hash, run=RUN, warrant=NO_WARRANT, round=number))
                take(read_sum(ask(name, turn if message is None else with_sum(turn, message)), kind))

        with grid.as_server():
            tell(dict.fromkeys(NAMES), KeyOffer, session.add_offer)
            tell(dict.fromkeys(NAMES, session.close_offers()), Preparation, session.add_preparation)
            for number in range(1, ROUNDS + 1):
                asked = request(study, number)
                start = session.start_round(number, model=vector_hash(asked.vector))
                for name in reversed(NAMES):
                    reply = ask(name, with_sum(encode(asked), start), "train.gradients")
                    session.add_masked(masked_input(reply, decode(without_sum(reply), Contribution)))
                session.close_masking()
                tell(session.unmask_requests(), Reveal, session.add_reveal, number)
                session.finish_round()


def main(folder: Path, trust: str) -> None:
    """Run all rounds; write down what left, and how often the site was killed."""
    import torch

    import client.app
    import privacy.secure_sum

    del client.app, privacy.secure_sum
    torch.set_num_threads(1)
    study = prepare(folder, trust)
    site = Site(folder)
    whole(site, study) if trust == "none" else masked(site, study, folder)
    site.kill()
    os.close(site.hearing)
    (folder / "left.json").write_text(json.dumps({"kills": site.kills, "left": site.left}), "utf-8")


def faults(folder: Path) -> list[str]:
    """Compare what left with the site's ledger and with its egress record."""
    from client.egress import compare, read
    from privacy.ledger import Charge, Ledger, Seal
    from protocol.keys import read_identity

    place = folder / "sites" / "0"
    left = json.loads((folder / "left.json").read_text("utf-8"))["left"]
    with Ledger.open(place / "ledger.sqlite", key=read_identity(place / "key.pem"), data_set="a") as ledger:
        entries = ledger.entries()
    charged = sorted(entry.record.first_round for entry in entries if isinstance(entry.record, Charge))
    sealed = {
        charge.record.first_round: seal.digest
        for charge in entries
        for seal in (entry.record for entry in entries if isinstance(entry.record, Seal))
        if isinstance(charge.record, Charge) and seal.charge == charge.hash
    }
    found = [] if charged == list(range(1, ROUNDS + 1)) else [f"charged: {charged}"]
    found += [f"not sealed: {number}" for number in charged if number not in sealed]
    for line in left:
        if line["type"] == "refusal":
            found.append("refused")
        elif line["type"] == "contribution" and line["digest"] != sealed.get(line["round"]):
            found.append(f"round {line['round']} left as something else than was sealed")
    return found + list(compare(read(place / "egress.jsonl"), entries))


def killed(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(folder), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("trust", ["none", "sum"])
def test_every_round_is_charged_once_and_leaves_as_one_reply(tmp_path: Path, trust: str) -> None:
    done = killed(tmp_path, trust)
    assert done.returncode == 0, done.stderr[-3000:]
    assert faults(tmp_path) == []
    said = json.loads((tmp_path / "left.json").read_text("utf-8"))
    assert said["kills"] >= 10
    replies = [line for line in said["left"] if line["type"] == "contribution"]
    assert len(replies) > ROUNDS, "nothing was answered twice"


@pytest.mark.slow
def test_a_site_that_seals_nothing_is_caught(tmp_path: Path) -> None:
    """The broken twin computes anew whatever it is asked again."""
    done = killed(tmp_path, "none", "unsealed")
    assert done.returncode == 0, done.stderr[-3000:]
    found = faults(tmp_path)
    assert any("left as something else" in fault for fault in found)


def unsealed() -> None:
    """The broken twin."""
    from privacy.ledger import Ledger

    Ledger.seal = lambda _, entry, __: entry  # type: ignore[method-assign]  # that is what is broken


if __name__ == "__main__":
    if "unsealed" in sys.argv:
        unsealed()
    main(Path(sys.argv[1]), sys.argv[2])
