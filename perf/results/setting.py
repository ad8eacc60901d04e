"""One cell of the results table: what is trained on what, under which promise, among whom."""

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Self

from perf.results.sets import SETS
from protocol.errors import InputError
from protocol.terms import Trust
from simulations.recipes import RECIPES


class Yardstick(StrEnum):
    """What is drawn from real records without training, and without privacy."""

    REAL = "real"
    INDEPENDENT = "independent"
    PERMUTED = "permuted"


class Peer(StrEnum):
    """Marginal-based synthesizers, central, run in an environment of their own."""

    MST = "mst"
    AIM = "aim"


class Among(StrEnum):
    """Who trains."""

    TOGETHER = "together"
    ALONE = "alone"


SYSTEMS: tuple[str, ...] = (*Yardstick, *RECIPES, *Peer)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What one run is about.

    Attributes:
        data_set: One of `perf.results.sets.SETS`.
        system: A model family, a yardstick or a peer.
        epsilon: Promise of the run; 0 without privacy, as are all yardsticks.
        sites: Number of sites; 1 pools all records.
        trust: Where the noise is placed.
        dropouts: Sites that may drop out of a secure sum.
        colluders: Sites that may collude with the coordinator.
        partition: How one file is split over the sites; ignored where sites have a file each.
        among: Whether the sites train together, or each by itself at the same promise.
        seed: Of initial weights, split and synthetic rows. Sampling and noise are fresh in every run.

    Raises:
        InputError: An unknown name, or a combination without meaning.
    """

    data_set: str
    system: str
    epsilon: float = 0.0
    sites: int = 1
    trust: Trust = Trust.NONE
    dropouts: int = 0
    colluders: int = 0
    partition: str = "iid"
    among: Among = Among.TOGETHER
    seed: int = 0

    def __post_init__(self) -> None:
        """Check names and combinations."""
        if self.data_set not in SETS:
            raise InputError(f"No data set is named {self.data_set!r}.", remedy=f"Choose from {', '.join(SETS)}.")
        if self.system not in SYSTEMS:
            raise InputError(f"No system is named {self.system!r}.", remedy=f"Choose from {', '.join(SYSTEMS)}.")
        if self.system in tuple(Yardstick) and (self.epsilon or self.sites != 1):
            raise InputError(f"{self.system} is no training.", remedy="Leave out its epsilon and its sites.")
        if self.system in tuple(Peer) and (self.epsilon <= 0 or self.sites != 1):
            raise InputError(f"{self.system} is private and central.", remedy="Give an epsilon and one site.")
        if self.among is Among.ALONE and self.sites < 2:
            raise InputError("One site is always alone.", remedy="Give at least two sites.")

    @property
    def cell(self) -> "Setting":
        """The setting without its seed: runs of one cell are averaged."""
        return replace(self, seed=0)

    @property
    def key(self) -> str:
        """A name for files, unique among settings."""
        words = [self.data_set, self.system]
        if self.epsilon or self.system not in tuple(Yardstick):
            words.append(f"eps{self.epsilon:g}")
        if self.system in RECIPES:
            words.append("pooled" if self.sites == 1 else f"{self.sites}-sites-{self.trust.value}")
        if self.dropouts or self.colluders:
            words.append(f"{self.dropouts}-out-{self.colluders}-collude")
        if self.sites > 1:
            words.append(self.partition.replace(":", "-"))
        if self.among is Among.ALONE:
            words.append("alone")
        return "_".join([*words, f"seed{self.seed}"])

    def to_mapping(self) -> dict[str, Any]:
        """Return JSON's form."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, mapping: dict[str, Any]) -> Self:
        """Read JSON's form."""
        enums = {"trust": Trust(mapping["trust"]), "among": Among(mapping["among"])}
        return cls(**(mapping | enums))
