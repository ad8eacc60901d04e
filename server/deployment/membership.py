"""Making the SuperLink know exactly the nodes of the sites that take part."""

from collections.abc import Sequence
from typing import Protocol

from protocol.errors import FederationError
from server.deployment.roster import Member
from server.deployment.superlink import NodeRecord


class Nodes(Protocol):
    """What is asked of the SuperLink; `server.deployment.superlink.Control` does it."""

    def nodes(self) -> list[NodeRecord]:
        """Return every node that was ever registered."""

    def register(self, key: bytes, *, name: str) -> None:
        """Let a node connect."""

    def unregister(self, number: int) -> None:
        """Let a node connect no more."""


def align_nodes(link: Nodes, members: Sequence[Member]) -> list[str]:
    """Register the nodes of all members, and unregister all others.

    Args:
        link: The SuperLink.
        members: The sites that take part.

    Returns:
        What is wrong, one sentence for each site whose node cannot connect; other sites are not touched by it.

    Raises:
        FederationError: If the SuperLink does not answer.
    """
    known = link.nodes()
    wanted = {member.node_key.encode(): member.name for member in members}
    present = {node.key: node for node in known if node.registered}
    gone = {node.key for node in known if not node.registered}
    for key, node in present.items():
        if key not in wanted:
            link.unregister(node.number)
    problems = []
    for key, name in wanted.items():
        if key in gone:
            # Flower never takes a key again that was unregistered.
            problems.append(f"{name}: its node key was revoked; let it enrol with a new code")
        elif key not in present:
            try:
                link.register(key, name=name)
            except FederationError as error:
                problems.append(f"{name}: {error.problem}")
    return problems
