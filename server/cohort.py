"""Who takes part in a run: the sites that introduced themselves, and how to reach them."""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from protocol.errors import FederationError, WireError
from protocol.fingerprint import code_fingerprint
from protocol.messages import Hello, Introduction, Refusal, decode, encode
from protocol.study import Study

_LOGGER = logging.getLogger("cloister.server")
_POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """The sites of a run.

    Attributes:
        nodes: Flower's node id of each site, by the site's name.
        keys: Ed25519 public key of each site, by the site's name, hexadecimal.
    """

    nodes: Mapping[str, int]
    keys: Mapping[str, str]


def exchange(
    grid: Grid, contents: Mapping[int, RecordDict], *, message_type: str, deadline: float
) -> Iterator[tuple[int, Message]]:
    """Send nodes their contents, and hand out what they answer before the deadline as it comes.

    A reply is not kept: whoever adds vectors up needs memory for one, whatever the number of nodes.

    Args:
        grid: Flower's grid.
        contents: The wire form of a message, by node.
        message_type: Flower's message type.
        deadline: Seconds to wait.

    Yields:
        Node and reply; nodes that did not answer, or answered with an error of Flower's, are left out.
    """
    ends = time.monotonic() + deadline
    messages = [
        Message(content=content, dst_node_id=node, message_type=message_type, ttl=deadline)
        for node, content in contents.items()
    ]
    numbers = grid.push_messages(messages)
    pending = {number: node for number, node in zip(numbers, contents, strict=True) if number}
    while pending:
        for reply in grid.pull_messages(list(pending)):
            node = pending.pop(reply.metadata.reply_to_message_id, None)
            if node is None:
                continue
            if reply.has_error():
                _LOGGER.warning("node %d answered with Flower's error %d", node, reply.error.code)
            else:
                yield node, reply
        if not pending or time.monotonic() > ends:
            break
        time.sleep(_POLL_SECONDS)


def gather_cohort(grid: Grid, study: Study) -> Cohort:
    """Wait until all sites of a study are connected and have introduced themselves.

    Raises:
        FederationError: If too few sites come before the study's deadline, or one refuses, is no site, or has
            another's name or key.
    """
    nodes = _wait_for_nodes(grid, study)
    hello = encode(Hello(study=study.hash, code=code_fingerprint()))
    replies = dict(
        exchange(
            grid,
            dict.fromkeys(nodes, hello),
            message_type="query.hello",
            deadline=study.federation.deadline,
        )
    )
    found: dict[str, int] = {}
    keys: dict[str, str] = {}
    for node, reply in sorted(replies.items()):
        site = _introduction(reply, node=node, study=study)
        if site.site in found:
            raise FederationError(f"Two sites are named {site.site!r}.", remedy="Give every site its own name.")
        if site.public_key in keys.values():
            raise FederationError(
                f"Site {site.site!r} has the key of another site.", remedy="Make a key for every site."
            )
        found[site.site], keys[site.site] = node, site.public_key
    roster = study.federation.roster
    strangers = [] if roster is None else [site for site, key in keys.items() if roster.get(site) != key]
    if strangers:
        raise FederationError(
            f"{', '.join(strangers)}: not in the study's roster under this key.",
            remedy="Sign a new study, or ask the site which key it has.",
        )
    if len(found) < study.federation.quorum:
        raise FederationError(
            f"{len(found)} of {study.federation.sites} sites introduced themselves.",
            remedy="Start the missing sites, or set federation.minimum_sites.",
        )
    return Cohort(nodes=found, keys=keys)


def _wait_for_nodes(grid: Grid, study: Study) -> list[int]:
    """Return the ids of the connected nodes once there are as many as the study has sites."""
    ends = time.monotonic() + study.federation.deadline
    nodes = sorted(grid.get_node_ids())
    while len(nodes) < study.federation.sites and time.monotonic() < ends:
        time.sleep(_POLL_SECONDS)
        nodes = sorted(grid.get_node_ids())
    if len(nodes) > study.federation.sites:
        raise FederationError(
            f"{len(nodes)} nodes are connected, the study has {study.federation.sites} sites.",
            remedy="Start exactly the study's sites.",
        )
    return nodes


def _introduction(reply: Message, *, node: int, study: Study) -> Introduction:
    """Read a site's introduction, or say why there is none."""
    try:
        answer = decode(reply.content, Introduction, Refusal)
    except WireError as error:
        raise FederationError(f"Node {node} is no site: {error.problem}", remedy=error.remedy) from error
    if isinstance(answer, Refusal):
        raise FederationError(
            f"A site (node {node}) refused: {answer.reason.value}.",
            remedy="Its administrator's log says more.",
        )
    if answer.study != study.hash or answer.code != code_fingerprint():
        raise FederationError(
            f"Site {answer.site} has another study or other code.",
            remedy="Install the same Cloister everywhere.",
        )
    return answer
