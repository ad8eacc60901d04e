"""Who takes part in a run: the sites that introduced themselves, and how to reach them."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from protocol.errors import FederationError, WireError
from protocol.fingerprint import code_fingerprint
from protocol.messages import Hello, Introduction, Refusal, RefusalReason, decode, encode
from protocol.study import Study
from server.exchange import exchange

HELLO = "query.hello"
_POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """The sites of a run. In a job the two mappings grow while it runs, as sites come.

    Attributes:
        nodes: Flower's node id of each site, by the site's name.
        keys: Ed25519 public key of each site, by the site's name, hexadecimal.
    """

    nodes: Mapping[str, int]
    keys: Mapping[str, str]


def fresh_hello(study: Study) -> tuple[str, RecordDict]:
    """Return a challenge that nobody has seen, and the hello that carries it."""
    challenge = secrets.token_hex(32)
    return challenge, encode(Hello(study=study.hash, code=code_fingerprint(), challenge=challenge))


def read_introduction(reply: Message, *, challenge: str, study: Study) -> Introduction | RefusalReason:
    """Read what a node answered to a hello.

    Returns:
        An introduction that is signed with the key it names, over this challenge; or the word of a refusal.

    Raises:
        WireError: If it is neither, or is signed by somebody else.
        FederationError: If the site has another study or other code.
    """
    answer = decode(reply.content, Introduction, Refusal)
    if isinstance(answer, Refusal):
        return answer.reason
    if answer.study != study.hash or answer.code != code_fingerprint():
        raise FederationError(
            f"Site {answer.site} has another study or other code.", remedy="Install the same Cloister everywhere."
        )
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(answer.public_key)).verify(
            bytes.fromhex(answer.signature), answer.signed_bytes(challenge)
        )
    except (InvalidSignature, ValueError) as error:
        raise WireError(
            f"the introduction of {answer.site} is not signed with its key.", remedy="Somebody may be speaking for it."
        ) from error
    return answer


def gather_cohort(grid: Grid, study: Study) -> Cohort:
    """Wait until all sites of a study are connected and have introduced themselves.

    Raises:
        FederationError: If too few sites come before the study's deadline, or one refuses, is no site, has another's
            name or key, or does not sign what it says.
    """
    nodes = _wait_for_nodes(grid, study)
    hellos = {node: fresh_hello(study) for node in nodes}
    contents = {node: content for node, (_, content) in hellos.items()}
    replies = dict(exchange(grid, contents, message_type=HELLO, deadline=study.federation.deadline))
    found: dict[str, int] = {}
    keys: dict[str, str] = {}
    for node, reply in sorted(replies.items()):
        site = _introduction(reply, node=node, challenge=hellos[node][0], study=study)
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


def _introduction(reply: Message, *, node: int, challenge: str, study: Study) -> Introduction:
    """Return a site's introduction, or end the run."""
    try:
        answer = read_introduction(reply, challenge=challenge, study=study)
    except WireError as error:
        raise FederationError(f"Node {node} is no site: {error.problem}", remedy=error.remedy) from error
    if isinstance(answer, RefusalReason):
        raise FederationError(
            f"A site (node {node}) refused: {answer.value}.", remedy="Its administrator's log says more."
        )
    return answer
