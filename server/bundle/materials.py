"""The software bill of materials: what is installed where the bundle is made, in the form of CycloneDX 1.6."""

from collections import deque
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = "cloister"


def bill_of_materials(root: str = _ROOT) -> str:
    """List a package and everything that it needs, as installed here, as CycloneDX JSON.

    Args:
        root: Name of the installed package to begin with.

    Returns:
        The document, with a dependency of each on each. What is not installed is not in it.

    Raises:
        PackageNotFoundError: If ``root`` is not installed.
    """
    found = installed(root)
    components = {name: _component(one, is_root=name == root) for name, (one, _) in found.items()}
    bom = Bom()
    bom.metadata.component = components[root]
    for name, component in components.items():
        if name != root:
            bom.components.add(component)
    for name, (_, needed) in found.items():
        bom.register_dependency(components[name], [components[each] for each in sorted(needed)])
    return str(JsonV1Dot6(bom).output_as_string(indent=2))


def installed(root: str) -> Mapping[str, tuple[Distribution, set[str]]]:
    """Find a package and everything that it needs: each installed distribution, and which of the others it needs."""
    found: dict[str, tuple[Distribution, set[str]]] = {root: (distribution(root), set())}
    seen: set[tuple[str, str]] = set()
    waiting = deque([(root, "")])
    while waiting:
        name, extra = waiting.popleft()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for needed, extras in _needed(found[name][0], extra):
            try:
                found.setdefault(needed, (distribution(needed), set()))
            except PackageNotFoundError:
                continue
            found[name][1].add(needed)
            waiting.extend((needed, wanted) for wanted in ("", *sorted(extras)))
    return dict(sorted(found.items()))


def _needed(one: Distribution, extra: str) -> Iterator[tuple[str, set[str]]]:
    """What a distribution needs in this environment, with an extra or without, and which extras of it."""
    environment = {**{name: str(value) for name, value in default_environment().items()}, "extra": extra}
    for line in one.requires or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            yield canonicalize_name(requirement.name), requirement.extras


def _component(one: Distribution, *, is_root: bool) -> Component:
    name, version = canonicalize_name(one.name), one.version
    expression = _field(one, "License-Expression")
    # Cloister is on no index; what is installed beside it may come from any.
    url = None if is_root else PackageURL(type="pypi", name=name, version=version)
    return Component(
        name=name,
        version=version,
        type=ComponentType.APPLICATION if is_root else ComponentType.LIBRARY,
        bom_ref=f"{name}=={version}",
        purl=url,
        description=_field(one, "Summary"),
        licenses=[LicenseExpression(expression)] if expression else None,
    )


def _field(one: Distribution, name: str) -> str | None:
    """A field of a distribution's metadata, if it has it."""
    found = one.metadata.get_all(name) or [None]
    return None if found[0] is None else str(found[0])
