"""Gradient inversion: the records of a batch, reconstructed from the sum of their gradients.

Two attacks, of which the second is made where the first does not explain what was seen:

1. Without noise records can be read off exactly, from what a decoder's gradient counts
   (:mod:`privacy.audit.channel.code_counts`) or from the space that gradients span
   (:mod:`privacy.audit.channel.span_search`).
2. Under noise the likeliest cells are sought, by Gibbs sampling over records of the same kind that the attacker knows.
   Where the noise hides everything this ends at the most common categories, which is the best that anybody can do.
   Gradient matching (Zhu, Liu, Han 2019; Geiping, Bauermeister, Dröge, Moeller 2020) seeks real numbers instead; codes
   are few enough to be tried.

The attacker is given more than he would have: the number of records in the batch, and that all of them are in it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from privacy.audit.channel.code_counts import CodeSignals, counted_records
from privacy.audit.channel.public_inputs import Codes, Matrix, PublicInputs, offsets_of, one_hot
from privacy.audit.channel.span_search import InputGradient, explaining, span_search
from protocol.errors import InputError

_SWEEPS = 12
_LEAST_NOISE = 0.1  # over the norm of a gradient: known records are about that far from unknown ones


@dataclass(frozen=True, kw_only=True, eq=False)
class Observation:
    """What the attacker sees of one round.

    Attributes:
        vector: float64 [d], the sum of clipped gradients, with noise if there is any.
        layers: The parts of it that belong to layers which records enter.
        count: Number of records in the batch.
        noise: Standard deviation that the noise of a coordinate should have, in the unit of the clip norm's.
        inputs: How records enter these layers; None for one-hot vectors.
        signals: The part that belongs to a decoder's numbers per code; None where there are none.
    """

    vector: Matrix
    layers: Sequence[InputGradient]
    count: int
    noise: float
    inputs: PublicInputs | None = None
    signals: CodeSignals | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownRecords:
    """Records of the same kind as those attacked, none of which is in the batch: what the attacker knows beforehand.

    Attributes:
        codes: int32 [m, columns], at least one.
        cardinalities: Number of codes of every column.
        gradients: float32 [m, d], their clipped gradients.

    Raises:
        InputError: If there is no record, or another number of gradients.
    """

    codes: Codes
    cardinalities: tuple[int, ...]
    gradients: NDArray[np.float32]

    def __post_init__(self) -> None:
        if not len(self.codes) or len(self.codes) != len(self.gradients):
            raise InputError(
                f"{len(self.codes)} known records and {len(self.gradients)} gradients.",
                remedy="Give one gradient for each record, and at least one record.",
            )

    @cached_property
    def cells(self) -> Matrix:
        """One-hot vectors, [m, places]."""
        return one_hot(self.codes, offsets_of(self.cardinalities))

    @cached_property
    def products(self) -> Matrix:
        """Inner products of all gradients, [m, m]."""
        return (self.gradients @ self.gradients.T).astype(np.float64)

    def most_common(self) -> Codes:
        """The most common code of each column, [columns]: the best guess of a record of which nothing is known."""
        common: Codes = self.likeliest(self.cells.mean(axis=0)[None])[0]
        return common

    def likeliest(self, chances: Matrix) -> Codes:
        """The likeliest code of every column, [n, columns], of chances [n, places]."""
        blocks = np.split(chances, offsets_of(self.cardinalities)[1:-1], axis=1)
        return np.stack([block.argmax(axis=1) for block in blocks], axis=1).astype(np.int32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reconstruction:
    """What an attacker takes the batch for.

    Attributes:
        codes: int32 [count, columns], in no order.
        exact: Whether the records explain what was seen; otherwise they are the most probable ones.
    """

    codes: Codes
    exact: bool


def invert(observation: Observation, known: KnownRecords, *, generator: np.random.Generator) -> Reconstruction:
    """Reconstruct the records of a batch.

    Args:
        observation: What is seen.
        known: What the attacker knows beforehand.
        generator: Source of the sampler's draws; of no consequence for privacy.

    Returns:
        As many records as are in the batch.

    Raises:
        InputError: If the observation does not fit the known records.

    Example:
        >>> inputs = np.eye(3)[[2]]  # a record of one column with three codes has its third
        >>> layer = InputGradient(entered=1, rows=inputs.T @ np.array([[0.5, -1.0]]))
        >>> seen = Observation(vector=layer.rows.ravel(), layers=[layer], count=1, noise=0.0)
        >>> known = KnownRecords(
        ...     codes=np.zeros((1, 1), np.int32), cardinalities=(3,), gradients=np.ones((1, 6), np.float32)
        ... )
        >>> invert(seen, known, generator=np.random.default_rng(0)).codes.tolist()
        [[2]]
    """
    if observation.vector.shape != known.gradients.shape[1:]:
        raise InputError(
            f"The sum has shape {observation.vector.shape}, the known gradients {known.gradients.shape}.",
            remedy="Use one model for both.",
        )
    found = _read(observation, known.cardinalities)
    if found is not None:
        return Reconstruction(codes=found, exact=True)
    return Reconstruction(codes=_sampled(observation, known, generator), exact=False)


def _read(observation: Observation, cardinalities: tuple[int, ...]) -> Codes | None:
    """The records, read off exactly; None where no records explain what is seen."""
    inputs, signals, count = observation.inputs, observation.signals, observation.count
    present: Sequence[NDArray[np.int64]] = ()
    if inputs is not None and signals is not None:
        counted = counted_records(signals, inputs, count=count)
        found = None if counted is None else explaining(observation.layers, counted, inputs, count=count)
        if found is not None:
            return found
        present = signals.present(count=count)
    return span_search(observation.layers, cardinalities=cardinalities, count=count, inputs=inputs, present=present)


def _sampled(observation: Observation, known: KnownRecords, generator: np.random.Generator) -> Codes:
    """The likeliest cells of every record, given the sum and the others (Geman and Geman 1984), [count, columns].

    The batch is taken for records that the attacker knows; only inner products of gradients are needed then.
    """
    squares = np.diag(known.products)
    # The study's word is not taken for it: whoever adds too little noise must be found out.
    noise = min(observation.noise, float(np.linalg.norm(observation.vector)) / math.sqrt(len(observation.vector)))
    variance = max(noise, _LEAST_NOISE * float(np.sqrt(squares.max())), 1e-12) ** 2
    seen = known.gradients @ observation.vector.astype(np.float32)
    chosen = generator.integers(0, len(known.codes), observation.count)
    together = known.products[chosen].sum(axis=0)
    cells = np.empty((observation.count, known.cells.shape[1]))
    for _ in range(_SWEEPS):
        for record in range(observation.count):
            together -= known.products[chosen[record]]
            chances = softmax((seen - together - 0.5 * squares) / variance)
            chosen[record] = min(int((chances.cumsum() < generator.random()).sum()), len(chances) - 1)
            together += known.products[chosen[record]]
            cells[record] = chances @ known.cells
    return known.likeliest(cells)
