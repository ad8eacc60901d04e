"""What a trial is judged by: one measure of the evaluation, or a weighted sum of several."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from evaluation.detection import detect
from evaluation.fidelity import TRIPLES, choose_triples, column_distances, pair_distances, triple_distances
from evaluation.images import ImageSet, evaluate_images
from evaluation.table import CodedTable
from evaluation.utility import Learner, train_on_synthetic_test_on_real
from protocol.errors import InputError

PREDICTION = ("auroc", "accuracy", "average_precision")
"""Of boosted trees trained on synthetic and tested on held-out records: more is better."""

DISTANCES = ("tvd1", "tvd2", "tvd3", "detection")
"""Total variation distances to the training records (one column, pairs, triples), and how well a classifier tells
synthetic from training records: less is better."""

IMAGE_DISTANCES = ("feature_distance",)
"""Of images: their kernel distance to held-out images in a fixed feature space. Less is better."""

_ALWAYS = ("tvd1", "tvd2")
_LESS_IS_BETTER = frozenset({*DISTANCES, *IMAGE_DISTANCES})


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A weighted sum of measures, every one turned so that more is better.

    Attributes:
        weights: Positive weight of each measure; what is better when small is subtracted.
    """

    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        """Refuse weights that are none."""
        for name, weight in self.weights.items():
            if not 0 < weight < float("inf"):
                raise InputError(
                    f"The weight of {name} is {weight:g}.",
                    remedy="Give a positive number: distances are subtracted by themselves.",
                )

    @classmethod
    def parse(cls, text: str, *, known: tuple[str, ...]) -> Self:
        """Read ``auroc`` or ``auroc=1,tvd2=2``.

        Args:
            text: Measures, each with a weight unless there is one alone.
            known: Measures that may be named.

        Raises:
            InputError: If a measure is unknown or a weight no number.
        """
        weights: dict[str, float] = {}
        for part in text.split(","):
            name, sign, weight = (word.strip() for word in part.partition("="))
            if name not in known or name in weights:
                raise InputError(f"The objective {text!r} names {name!r}.", remedy=f"Known, once each: {_list(known)}.")
            try:
                weights[name] = float(weight) if sign else 1.0
            except ValueError as error:
                raise InputError(f"{part!r} has no weight.", remedy="Write NAME=NUMBER.") from error
        return cls(weights=weights)

    def score(self, measures: Mapping[str, float]) -> float:
        """Return what measures are worth; more is better.

        >>> Objective(weights={"auroc": 1.0, "tvd2": 2.0}).score({"auroc": 0.9, "tvd2": 0.1})
        0.7
        """
        return sum(weight * (-measures[name] if name in _LESS_IS_BETTER else measures[name])
                   for name, weight in self.weights.items())  # fmt: skip

    def told(self, score: float) -> float:
        """Return a score as it is shown: a single distance as itself, which is better when small.

        >>> Objective(weights={"tvd2": 1.0}).told(-0.25)
        0.25
        """
        return -score if len(self.weights) == 1 and set(self.weights) <= _LESS_IS_BETTER else score

    def __str__(self) -> str:
        """The sum as it is written."""
        parts = [f"{'-' if name in _LESS_IS_BETTER else '+'} {'' if weight == 1 else f'{weight:g} '}{name}"
                 for name, weight in self.weights.items()]  # fmt: skip
        if len(parts) == 1:
            return next(iter(self.weights))
        return " ".join(parts).removeprefix("+ ")


def known_measures(*, images: bool) -> tuple[str, ...]:
    """Return the measures that an objective may name, of tables or of images."""
    return (*PREDICTION, *(IMAGE_DISTANCES if images else DISTANCES))


def usual_measure(schema: Mapping[str, Any]) -> str:
    """Return what counts where nobody says: prediction where the schema names a target, else a distance."""
    if schema.get("target"):
        return "auroc"
    return "feature_distance" if "image" in schema else "tvd2"


def measure(
    objective: Objective,
    *,
    train: CodedTable,
    held_out: CodedTable,
    synthetic: CodedTable,
    generator: np.random.Generator,
) -> dict[str, float]:
    """Measure synthetic rows: all that the objective names, and what costs little.

    Args:
        objective: Names what is wanted.
        train: Records that the generator was trained on.
        held_out: Records of the same kind that it never saw.
        synthetic: Rows drawn from it.
        generator: Chooses triples and the rows of the detection. Not a source of privacy.

    Returns:
        Measures by name.

    Raises:
        InputError: If a prediction is wanted and the schema names no target.
    """
    found: dict[str, float] = {}
    if held_out.target is not None:
        trees = Learner.BOOSTED_TREES
        scores = train_on_synthetic_test_on_real(
            learner=trees, real_train=None, real_test=held_out, synthetic=synthetic
        ).synthetic
        found |= {name: float(getattr(scores, name)) for name in PREDICTION}
    elif set(objective.weights) & set(PREDICTION):
        raise InputError(f"The schema names no target for {objective}.", remedy="Name one, or judge by tvd2.")
    for name, distance in _DISTANCES.items():
        if name in objective.weights or name in _ALWAYS:
            found[name] = distance(train, synthetic, generator)
    return found


def measure_images(
    objective: Objective, held_out: ImageSet, synthetic: ImageSet, *, seed: int, device: torch.device
) -> dict[str, float]:
    """Measure synthetic images.

    Args:
        objective: Names what is wanted.
        held_out: Real images that the generator never saw.
        synthetic: Images drawn from it.
        seed: Of the classifier, and of the choice of images.
        device: Where the classifier is trained.

    Returns:
        Measures by name: those of prediction, by a small convolutional net, and of `IMAGE_DISTANCES`.

    Raises:
        InputError: If a prediction is wanted and the schema names no target.
    """
    found = evaluate_images(None, held_out, synthetic, trained_on=False, seed=seed, device=device)
    if found.synthetic is not None:
        measures = {name: float(getattr(found.synthetic, name)) for name in PREDICTION}
    elif set(objective.weights) & set(PREDICTION):
        raise InputError(f"The schema names no target for {objective}.", remedy="Judge by feature_distance.")
    else:
        measures = {}
    return measures | {"feature_distance": found.feature_distance}


def _one_way(real: CodedTable, synthetic: CodedTable, _: np.random.Generator) -> float:
    return float(column_distances(real.codes, synthetic.codes, real.cardinalities).mean())


def _two_way(real: CodedTable, synthetic: CodedTable, _: np.random.Generator) -> float:
    pairs = pair_distances(real.codes, synthetic.codes, real.cardinalities)[np.triu_indices(len(real.names), k=1)]
    return float(pairs.mean()) if pairs.size else 0.0


def _three_way(real: CodedTable, synthetic: CodedTable, generator: np.random.Generator) -> float:
    triples = choose_triples(len(real.names), limit=TRIPLES, generator=generator)
    found = triple_distances(real.codes, synthetic.codes, real.cardinalities, triples=triples)
    return float(found.mean()) if found.size else 0.0


def _detection(real: CodedTable, synthetic: CodedTable, generator: np.random.Generator) -> float:
    return detect(real.codes, synthetic.codes, generator=generator).auroc


_DISTANCES: Mapping[str, Callable[[CodedTable, CodedTable, np.random.Generator], float]] = {
    "tvd1": _one_way,
    "tvd2": _two_way,
    "tvd3": _three_way,
    "detection": _detection,
}


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names)
