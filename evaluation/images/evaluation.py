"""One call that measures everything about images, and the report of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.fidelity import column_distances
from evaluation.images.classifier import train_classifier
from evaluation.images.distances import MOST_IMAGES, Nearest, features, kernel_distance, nearest
from evaluation.images.image_set import ImageSet
from evaluation.page.sections import statement_section
from evaluation.page.skeleton import WARNING, WARNING_TITLE, page, section, sentences, table, words_table
from evaluation.prediction.outcome import Outcome, define_outcome
from evaluation.prediction.scores import Scores, score
from protocol.errors import RecordsError

VERSION = 1
_FEW = 500


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageEvaluation:
    """What was found when synthetic images were compared with real ones.

    Attributes:
        shape: Channels, height, width.
        target: The column that was predicted from the image, or None.
        classes: Names of its classes.
        train_images: Number of real training images, None where none were given.
        test_images: Number of real test images.
        synthetic_images: Number of synthetic images.
        synthetic: Scores of the classifier that was trained on synthetic images; None without a target.
        real: The same trained on real images; None where none were given.
        real_shares: Share of each class among the real images that distances are to.
        synthetic_shares: Share of each class among the synthetic images.
        columns: Distance of each column's distribution from the real one (total variation), by name.
        feature_distance: Kernel distance between synthetic and real images in the fixed feature space.
        test_distance: The same between real training and real test images; None where none were given.
        nearest: Whether training images are repeated; None without real training images.
        notes: What a reader must know, as sentences.
    """

    shape: tuple[int, int, int]
    target: str | None
    classes: tuple[str, ...]
    train_images: int | None
    test_images: int
    synthetic_images: int
    synthetic: Scores | None
    real: Scores | None
    real_shares: tuple[float, ...]
    synthetic_shares: tuple[float, ...]
    columns: Mapping[str, float]
    feature_distance: float
    test_distance: float | None
    nearest: Nearest | None
    notes: tuple[str, ...]

    def to_json(self, *, statement: Mapping[str, object] | None = None, statement_lines: Sequence[str] = ()) -> str:
        """Return everything as JSON (RFC 8259), version `VERSION`; arguments as of the report of tables."""
        found = {
            "version": VERSION,
            "kind": "images",
            "warning": f"{WARNING_TITLE} {WARNING}",
            "statement": None if statement is None else dict(statement),
            "statement_lines": list(statement_lines),
            "shape": list(self.shape),
            "target": self.target,
            "classes": list(self.classes),
            "rows": {"train": self.train_images, "test": self.test_images, "synthetic": self.synthetic_images},
            "utility": {"synthetic": _plain(self.synthetic), "real": _plain(self.real)},
            "class_shares": {"real": list(self.real_shares), "synthetic": list(self.synthetic_shares)},
            "columns": dict(self.columns),
            "feature_distance": self.feature_distance,
            "test_distance": self.test_distance,
            "nearest": None if self.nearest is None else asdict(self.nearest),
            "notes": list(self.notes),
        }
        return json.dumps(found, allow_nan=False, ensure_ascii=False, indent=2)

    def to_html(self, *, statement: Mapping[str, object] | None = None, statement_lines: Sequence[str] = ()) -> str:
        """Return one page that is complete in itself; it shows no image."""
        body = [statement_section(statement, statement_lines)]
        body.append(section("Measures", "What each number means stands beside it.", _measures(self)))
        if self.classes:
            rows = [
                (name, f"{real:.3f}", f"{made:.3f}")
                for name, real, made in zip(self.classes, self.real_shares, self.synthetic_shares, strict=True)
            ]
            shares = table(("Class", "Real", "Synthetic"), rows, label="Share of every class")
            body.append(section(f"Classes of {self.target}", "Share of every class.", shares))
        if self.notes:
            body.append(section("Notes", "What a reader must know.", sentences(self.notes)))
        training = "" if self.train_images is None else f"{self.train_images:,} real training images, "
        lead = f"{self.synthetic_images:,} synthetic images, {training}{self.test_images:,} real test images."
        return page(title="Synthetic and real images compared", lead=lead, body=body)

    def lines(self) -> list[tuple[str, float, float | None, str]]:
        """Return the measures: name, number, the real images' own (or None), and what it means."""
        found: list[tuple[str, float, float | None, str]] = []
        if self.synthetic is not None:
            scores, real = self.synthetic, self.real
            trained = "of a small convolutional net trained on such images, on real test images"
            accuracy, auroc = (None, None) if real is None else (real.accuracy, real.auroc)
            found.append(("Accuracy", scores.accuracy, accuracy, f"{trained}; 1 is best"))
            found.append(("AUROC", scores.auroc, auroc, "of the same; 0.5 is a guess, 1 is best"))
        found += [
            (f"Distance of {name}", far, None, "share of records in the wrong cell; 0 is best")
            for name, far in self.columns.items()
        ]
        meaning = "kernel distance of images in a fixed feature space; 0 is best"
        found.append(("Feature distance", self.feature_distance, self.test_distance, meaning))
        if self.nearest is not None:
            meaning = "share of synthetic images whose nearest real image is a training one; 0.5 is best"
            found.append(("Closer to training", self.nearest.closer_to_train, None, meaning))
            found.append(("Copies", float(self.nearest.copies), None, "synthetic images that are a training image"))
        return found


def evaluate_images(
    real_train: ImageSet | None,
    real_test: ImageSet,
    synthetic: ImageSet,
    *,
    trained_on: bool,
    seed: int,
    device: torch.device | None = None,
) -> ImageEvaluation:
    """Compare synthetic images with real ones.

    Args:
        real_train: Real images to train the comparison on, or None.
        real_test: Real images that the generator never saw, at least two.
        synthetic: Synthetic images, at least two.
        trained_on: Whether the generator was trained on ``real_train``: only then can repetition be judged.
        seed: Of the classifiers and of the choice of images. Not a source of privacy.
        device: Where classifiers are trained; the CPU if None.

    Returns:
        What was found. It is computed from real records without noise, and to be kept where they are.

    Raises:
        RecordsError: There are fewer than two images of a kind, or the sets are not of one schema.
    """
    _check(real_train, real_test, synthetic)
    generator = np.random.default_rng(seed)
    real = real_test if real_train is None else real_train
    outcome = None if real_test.table.target is None else define_outcome(real_test.table)
    made, trained = (
        None if outcome is None or train is None else _trained(train, real_test, outcome, seed, device)
        for train in (synthetic, real_train)
    )
    far = column_distances(real.table.codes, synthetic.table.codes, real.table.cardinalities)
    space = _space(real, generator)
    repeats = nearest(synthetic.images, real.images, real_test.images, generator=generator) if trained_on else None
    return ImageEvaluation(
        shape=(real_test.images.shape[1], real_test.images.shape[2], real_test.images.shape[3]),
        target=real_test.table.target,
        classes=() if outcome is None else outcome.classes,
        train_images=None if real_train is None else real_train.count,
        test_images=real_test.count,
        synthetic_images=synthetic.count,
        synthetic=made,
        real=trained,
        real_shares=_shares(real, outcome),
        synthetic_shares=_shares(synthetic, outcome),
        columns=dict(zip(real.table.names, far.tolist(), strict=True)),
        feature_distance=kernel_distance(space, _space(synthetic, generator)),
        test_distance=None if real_train is None else kernel_distance(space, _space(real_test, generator)),
        nearest=repeats if real_train is not None else None,
        notes=_notes(real_train, real_test, synthetic, (made, trained)),
    )


def _space(images: ImageSet, generator: np.random.Generator) -> NDArray[np.float64]:
    """Return the features of at most 2,000 images."""
    rows = generator.permutation(images.count)[:MOST_IMAGES]
    return features(images.images[rows])


def _trained(train: ImageSet, test: ImageSet, outcome: Outcome, seed: int, device: torch.device | None) -> Scores:
    """Train a classifier on the images whose class is known, and score it on those of the test."""
    known, test = (
        train.take(np.flatnonzero(outcome.known(train.table))),
        test.take(np.flatnonzero(outcome.known(test.table))),
    )
    labels = outcome.labels(known.table)
    present = np.unique(labels)
    if present.size < 2:
        probabilities = np.zeros((test.count, len(outcome.classes)))
        probabilities[:, present if present.size else slice(None)] = 1.0
        note = "The training images hold fewer than two classes: every prediction is the same."
        return score(outcome.labels(test.table), probabilities, notes=(note,))
    generator = torch.Generator().manual_seed(seed)
    model = train_classifier(known.images, labels, classes=len(outcome.classes), generator=generator, device=device)
    return score(outcome.labels(test.table), model.probabilities(test.images))


def _shares(images: ImageSet, outcome: Outcome | None) -> tuple[float, ...]:
    """Return the share of each class among the images whose class is known."""
    if outcome is None:
        return ()
    labels = outcome.labels(images.table)[outcome.known(images.table)]
    counts = np.bincount(labels, minlength=len(outcome.classes))
    return tuple((counts / max(1, labels.size)).tolist())


def _notes(
    real_train: ImageSet | None, real_test: ImageSet, synthetic: ImageSet, scores: Sequence[Scores | None]
) -> tuple[str, ...]:
    notes = []
    if real_train is None:
        notes.append("No real training images were given: nothing shows what training on real images would reach.")
    if real_test.table.target is None:
        notes.append("The schema names no target: prediction was left out.")
    for origin, each in zip(("synthetic", "real"), scores, strict=True):
        notes += [f"Trained on {origin} images: {note}" for note in (() if each is None else each.notes)]
    smallest = min(real_test.count, synthetic.count)
    if smallest < _FEW:
        notes.append(f"The smallest set has {smallest} images: every number here is a rough one.")
    return tuple(notes)


def _check(real_train: ImageSet | None, real_test: ImageSet, synthetic: ImageSet) -> None:
    given = {"real_train": real_train, "real_test": real_test, "synthetic": synthetic}
    for name, each in given.items():
        if each is None:
            continue
        if each.count < 2:
            raise RecordsError(f"the set {name} has {each.count} images.", remedy="Give at least two.")
        if (each.images.shape[1:], each.table.names, each.table.cardinalities, each.table.target) != (
            real_test.images.shape[1:],
            real_test.table.names,
            real_test.table.cardinalities,
            real_test.table.target,
        ):
            raise RecordsError(
                f"the set {name} has other images or columns than real_test.",
                remedy="Encode all sets with one schema.",
            )


def _measures(found: ImageEvaluation) -> str:
    rows = [
        (name, f"{number:.3f}", "-" if real is None else f"{real:.3f}", meaning)
        for name, number, real, meaning in found.lines()
    ]
    return words_table(("Measure", "Synthetic", "Real", "What it is"), rows, label="All measures")


def _plain(scores: Scores | None) -> dict[str, object] | None:
    if scores is None:
        return None
    return {
        "auroc": scores.auroc,
        "accuracy": scores.accuracy,
        "average_precision": scores.average_precision,
        "notes": list(scores.notes),
    }
