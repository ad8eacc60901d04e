"""The sites of a job among all nodes that come and go: found again and again, without holding a round up.

In a deployment there are more nodes than a study has sites, some have not approved it yet, and some are away. So
every node that is not known is greeted, and greeted again after a while if it refused; what is no site of the study is
passed over. A site keeps its node as long as it keeps its node key; should it come with another one, its signature
tells that it is the same site, and the new node takes the old one's place.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from protocol.errors import FederationError, WireError
from protocol.messages import Introduction, RefusalReason
from protocol.study import Study
from server.cohort import HELLO, Cohort, fresh_hello, read_introduction
from server.exchange import activations, push

_LOGGER = logging.getLogger("cloister.server")
_LOOK_SECONDS = 2.0
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 60.0
_HELLO_LIFE = 30.0


@dataclass(kw_only=True)
class _Greeted:
    """What is known of a node that was greeted.

    Attributes:
        activated: When it was last activated, in Flower's words; another time is another chance.
        due: When to greet it again unless it has a place, on the monotonic clock.
        wait: Seconds after its answer before the next greeting.
        challenge: What its answer must be signed over.
        number: Of the message under way; empty when answered.
    """

    activated: str
    due: float
    wait: float
    challenge: str
    number: str


class RollCall:
    """Knows which node is which site of a study.

    Args:
        grid: Flower's grid.
        study: The study.
        keys: Keys under which sites took part earlier in the run: a name keeps its key.
        every: Seconds between two looks at the connected nodes.

    Attributes:
        cohort: The sites so far; its mappings are alive.
        refusals: The last word of every node that refused, by node.
    """

    def __init__(
        self, grid: Grid, study: Study, *, keys: Mapping[str, str] | None = None, every: float = _LOOK_SECONDS
    ) -> None:
        self._grid = grid
        self._study = study
        self._pinned = dict(study.federation.roster or keys or {})
        self._nodes: dict[str, int] = {}
        self._keys: dict[str, str] = dict(keys or {})
        self.cohort = Cohort(nodes=self._nodes, keys=self._keys)
        self.refusals: dict[int, str] = {}
        self._every = every
        self._looked = -every
        self._greeted: dict[int, _Greeted] = {}
        self._replaced: set[int] = set()

    @property
    def settled(self) -> bool:
        """Whether every connected node was greeted and has answered."""
        return bool(self._greeted) and not any(each.number for each in self._greeted.values())

    @property
    def names(self) -> frozenset[str]:
        """Every site that is known to belong here, whether it is there or not."""
        return frozenset(self._pinned) | frozenset(self._nodes)

    def step(self) -> bool:
        """Greet who is due, read what came, and return at once; says whether a site found its place."""
        now = time.monotonic()
        if now - self._looked >= self._every:
            self._looked = now
            self._greet(now)
        under_way = {each.number: node for node, each in self._greeted.items() if each.number}
        if not under_way:
            return False
        changed = False
        for reply in self._grid.pull_messages(list(under_way)):
            node = under_way.get(reply.metadata.reply_to_message_id)
            if node is not None:
                changed |= self._hear(node, reply)
        return changed

    def _greet(self, now: float) -> None:
        """Greet every node that is due: new, activated anew, or without a place for a while."""
        there = activations(self._grid)
        placed = set(self._nodes.values())
        full = len(self._nodes) >= self._study.federation.sites
        due = []
        for node, activated in there.items():
            known = self._greeted.get(node)
            again = known is not None and now >= known.due and node not in placed | self._replaced and not full
            if known is None or known.activated != activated or again:
                due.append(node)
        hellos = [fresh_hello(self._study) for _ in due]
        life = min(self._study.federation.deadline, _HELLO_LIFE)
        messages = [
            Message(content=content, dst_node_id=node, message_type=HELLO, ttl=life)
            for node, (_, content) in zip(due, hellos, strict=True)
        ]
        for node, number, (challenge, _) in zip(due, push(self._grid, messages), hellos, strict=True):
            known = self._greeted.get(node)
            anew = known is None or known.activated != there[node]
            wait = _FIRST_WAIT if known is None or anew else min(2 * known.wait, _LONGEST_WAIT)
            self._greeted[node] = _Greeted(
                activated=there[node],
                due=now + max(wait, life if number else 0.0),
                wait=wait,
                challenge=challenge,
                number=number,
            )
        for node in self._greeted.keys() - there.keys():
            self._greeted[node].number = ""  # nobody will answer; it is greeted when it is back, as activated anew

    def _hear(self, node: int, reply: Message) -> bool:
        """Give a node that introduces itself its place; says whether it is a new one."""
        greeted = self._greeted[node]
        greeted.number = ""
        greeted.due = time.monotonic() + greeted.wait
        if reply.has_error():
            return False
        try:
            answer = read_introduction(reply, challenge=greeted.challenge, study=self._study)
        except (WireError, FederationError) as error:
            _LOGGER.warning("node %d: %s", node, error)
            self._refused(node, error.problem)
            return False
        if isinstance(answer, RefusalReason):
            self._refused(node, f"{answer.value}.")
            if answer is RefusalReason.CODE:
                self._leave(node)
            return False
        return self._place(node, answer)

    def _place(self, node: int, site: Introduction) -> bool:
        """Take a site in, unless it is a stranger."""
        full = len(self._pinned) >= self._study.federation.sites or self._study.federation.roster is not None
        pinned = self._pinned.get(site.site)
        if pinned != site.public_key and (pinned is not None or full or site.public_key in self._pinned.values()):
            self._refused(node, f"{site.site} is no site of this study under its key.")
            return False
        self.refusals.pop(node, None)
        for other in [name for name, place in self._nodes.items() if place == node and name != site.site]:
            del self._nodes[other]
        before = self._nodes.get(site.site)
        if before is not None and before != node:
            _LOGGER.warning("site %s has come with another node", site.site)
            self._replaced.add(before)
        self._replaced.discard(node)
        self._pinned[site.site] = self._keys[site.site] = site.public_key
        self._nodes[site.site] = node
        return before != node

    def _refused(self, node: int, word: str) -> None:
        if self.refusals.get(node) != word:
            _LOGGER.info("node %d has no place in the study: %s", node, word)
        self.refusals[node] = word

    def _leave(self, node: int) -> None:
        """Take a place away: a site with other code must not take part."""
        for site in [site for site, place in self._nodes.items() if place == node]:
            _LOGGER.warning("site %s now runs other code, and is left out", site)
            del self._nodes[site]
