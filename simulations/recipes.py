"""How each family of tables is trained where nobody says otherwise: one recipe for every study.

A recipe depends on what is public - the number of units and of columns, epsilon, how much noise is added - by formulas
that are the same for all records; it knows no data set. The recipes were chosen by runs on adult-binned at epsilon 1
and 10 and on medical sets, judged by the measures of the results table: for these sets its figures are to that extent
optimistic.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Section = dict[str, Any]

_FINE_BUDGET = 100_000.0
"""Epsilon times units, where noise is added once, from which on the weights of single codes are worth their noise."""


@dataclass(frozen=True, kw_only=True)
class PublicFacts:
    """What a recipe may know.

    Attributes:
        units: Public number of units of the whole federation.
        columns: Number of modelled columns.
        epsilon: Target; None where the noise is given, or there is none.
        noises: How many whole noises a sum has: 1 for pooled records or under a secure sum, else the number of sites.
    """

    units: int
    columns: int
    epsilon: float | None
    noises: int = 1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A family's way of training.

    Attributes:
        batch: Expected units of a round; the sample rate is this over the number of units, at most 1. Infinite for all.
        training: The study's training section.
        options: Options of the family.
        clip_norm: Bound on the norm of a unit's gradient.
        statistics: The study's statistics section; empty for none.
    """

    batch: float
    training: Callable[[PublicFacts], Section]
    options: Callable[[PublicFacts], Section] = field(default=lambda _: {})
    clip_norm: Callable[[PublicFacts], float] = field(default=lambda _: 1.0)
    statistics: Mapping[str, Any] = field(default_factory=dict)

    def sample_rate(self, units: int) -> float:
        """Return the Poisson rate for so many units."""
        return min(1.0, self.batch / units)

    def sections(self, facts: PublicFacts) -> dict[str, Section]:
        """Return the sections ``model`` (its options alone), ``training``, ``privacy`` and ``statistics`` of a study.

        Of the privacy section it is the sample rate and the clip norm; of no statistics there is no section.

        Example:
            >>> facts = PublicFacts(units=40_000, columns=14, epsilon=1.0)
            >>> RECIPES["vae"].sections(facts)["privacy"]
            {'sample_rate': 0.1024, 'clip_norm': 5.6}
        """
        sections: dict[str, Section] = {
            "model": {"options": self.options(facts)},
            "training": self.training(facts),
            "privacy": {"sample_rate": self.sample_rate(facts.units), "clip_norm": self.clip_norm(facts)},
        }
        return sections | ({"statistics": dict(self.statistics)} if self.statistics else {})


def _fine(facts: PublicFacts) -> bool:
    """Return whether many units meet a large epsilon, so that the noise is small enough for a weight per code.

    The noise of n sites that each add the whole is that of one site at about epsilon over the square root of n.
    """
    return facts.epsilon is None or facts.epsilon / math.sqrt(facts.noises) * facts.units >= _FINE_BUDGET


def _vae_training(facts: PublicFacts) -> Section:
    """Fewer rounds where few units can pay for little: 300 from 12,000 units on, about 100 at 500; or half more.

    The released average spans the last third of them, and the learning rate falls over the last two. It is smaller
    where noise outweighs gradients: every weight then wanders from its released start, as far as the rate lets it.
    """
    most = 450 if _fine(facts) else 300
    rounds = max(50, min(most, round(most * (facts.units / 12_000) ** (1 / 3))))
    return {
        "rounds": rounds,
        "learning_rate": 0.05 if _fine(facts) else 0.03,
        "cooldown": round(2 * rounds / 3),
        "averaging": round(1 - 3 / min(rounds, 300), 4),
    }


def _vae_options(facts: PublicFacts) -> Section:
    return {"splines": 0, "input_scale": 1.0} if _fine(facts) else {}


def _vae_clip_norm(facts: PublicFacts) -> float:
    """The typical norm of a record's gradient where columns are few; less than that where they are many.

    The norm grows with the columns. Clipping most of it away bends the shapes of the columns, which shows in small
    tables; in wide ones the noise that a large clip norm brings is the greater evil.
    """
    return round(max(1.0, (2.06 if _fine(facts) else 1.5) * math.sqrt(facts.columns)), 1)


_ONE_ROUND = {"rounds": 1, "share": 0.1}

RECIPES: Mapping[str, Recipe] = {
    "vae": Recipe(
        batch=4096,
        training=_vae_training,
        options=_vae_options,
        clip_norm=_vae_clip_norm,
        statistics=_ONE_ROUND,
    ),
    "vaegan": Recipe(
        batch=4096,
        training=_vae_training,
        options=_vae_options,
        clip_norm=_vae_clip_norm,
        statistics=_ONE_ROUND,
    ),
    "gan": Recipe(
        batch=4096,
        training=lambda _: {
            "rounds": 150,
            "learning_rate": 0.002,
            "momentum": 0.5,
            "second_moment": 0.9,
            "averaging": 0.98,
        },
        statistics={"rounds": 1, "share": 0.5},
    ),
    "moments": Recipe(batch=math.inf, training=lambda _: {"strategy": "statistics", "rounds": 1}),
}
