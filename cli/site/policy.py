"""``cloister site policy``: write the site's own ceiling and permissions, and read them in words."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.result import print_json
from cli.site.folder import HERE, SiteFolder, check_account
from protocol.errors import InputError

if TYPE_CHECKING:
    from client.policy import Policy

EXAMPLES = "\b\nExamples:\n  cloister site policy --epsilon 8 --delta 1e-6\n  cloister site policy"


def policy(
    *,
    site: SiteFolder = HERE,
    epsilon: Annotated[
        float | None, typer.Option(help="With --delta: write a new policy with this ceiling for ever.")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="At which the ceiling is held, such as 1e-6.")] = None,
    yearly_epsilon: Annotated[
        float | None, typer.Option(help="A second ceiling, on what is released within 365 days.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print what this site allows; with --epsilon and --delta, write a commented policy.toml first.

    An existing policy is changed with an editor, and by nobody else. The running client follows it at once.
    """
    from client.policy import Policy, write_policy

    path = site / "policy.toml"
    if (epsilon is None) != (delta is None) or (epsilon is None and yearly_epsilon is not None):
        raise InputError("A ceiling is epsilon and delta.", remedy="Give --epsilon and --delta together.")
    if epsilon is not None:
        check_account(site)
        write_policy(path, epsilon=epsilon, delta=delta, yearly_epsilon=yearly_epsilon)
        sys.stderr.write(f"cloister: written: {path}\n")
    found = Policy.from_toml(path)
    if json_output:
        print_json(to_mapping(found))
        return
    for sentence in sentences(found):
        sys.stdout.write(f"{sentence}\n")


def to_mapping(policy: "Policy") -> dict[str, Any]:
    """Return a policy as JSON, every default written out."""
    from dataclasses import asdict

    return asdict(policy)


def sentences(policy: "Policy") -> list[str]:
    """Say in words what a policy allows."""
    from privacy import wording
    from protocol.terms import Relation

    unit = "record (or person, as the first study says)"
    found = [
        f"Releases about the data set stay within {wording.limit(ceiling, unit)}."
        for ceiling in policy.ceilings(Relation.ADD_REMOVE)
    ]
    found.append(f"Every round has at least {policy.minimum_sites} sites.")
    found.append(f"Model families: {', '.join(policy.families) or 'none'}.")
    found.append(f"Noise: {_placements(policy.trust)}.")
    if policy.most_rounds is not None:
        found.append(f"A study has at most {policy.most_rounds} rounds.")
    if policy.studies is not None:
        found.append(f"Only these studies: {', '.join(hash_[:12] for hash_ in policy.studies) or 'none'}.")
    when = f"{', '.join(policy.hours)} ({policy.timezone})" if policy.hours else "always"
    found.append(f"Requests are answered {when}.")
    if policy.allow_not_private:
        found.append("STUDIES WITHOUT A GUARANTEE ARE ALLOWED: for tests on public data only.")
    found.append("Beyond this, every study needs the site's own approval.")
    return found


def _placements(trust: tuple[str, ...]) -> str:
    told = {
        "none": "all of it added here, so that nobody has to be trusted",
        "sum": "a share added here, under a secure sum with the other sites",
    }
    return "; or ".join(told[word] for word in trust) or "no placement is allowed"
