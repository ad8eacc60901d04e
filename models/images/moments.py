"""Images drawn from mixtures of Gaussians, one mixture per class, learnt from three statistics rounds.

A first round shows in which few directions images differ, a second one where each class lies among them, and a third
one the parts of each class: their shares, means and covariances. All that sites send are sums of bounded numbers, once
per round; everything else is post-processing at the server. What a round could tell of a part only beneath its noise
is taken from the class, and what it could not tell of a class from all classes together.

Sources: a generator from released moments: Harder, Adamczewski and Park (2021); noisy second moments for principal
directions: Dwork, Talwar, Thakurta and Zhang (2014, "Analyze Gauss"); mixtures whose centres come from a few noisy
rounds: Blum, Dwork, McSherry and Nissim (2005, "SuLQ", k-means).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.autoregressive import draw_allowed
from models.images.deformation import deformed
from models.images.family import ImageModel
from models.images.mixtures import Mixtures
from models.images.moment_rounds import ROUNDS, Axes, ImageMoments, Seen, frequencies
from models.images.noisy_cells import LEAST_VARIANCE, NoisyCells
from models.images.shape import ImageShape, pixel_codes
from models.images.shrinkage import nearest_covariance, shrunk_covariances, shrunk_means
from models.layout import OneHotLayout
from protocol.errors import StudyError

# Radius of the ball around a centre, in root mean squares of the distance from it.
_CLASS_REACH, _COMPONENT_REACH = 1.0, 1.2
# Draws of a class in which its components' first centres are looked for, and steps of the search.
_DRAWS, _LLOYD_STEPS = 4000, 30
# Least share of a code, in shares of all records.
_LEAST_COUNT = 1e-9
_DRAWN_AT_ONCE = 512
# Most numbers in a sum: what a site holds, and sends masked.
_MOST_NUMBERS = 1 << 22


@dataclass(frozen=True, kw_only=True)
class ImageMomentsOptions:
    """What a study may choose about the mixtures.

    Args:
        components: Components of each class.
        directions: Numbers that describe an image: the brightness of each channel, and principal directions.
        frequencies: Frequencies along each side of an image that are looked at.
        deformation: Strength of the small random deformations of drawn images; 0 leaves them as they are.
        label: Index of the column whose codes are the classes, or None for one class. A study may leave it out: it is
            then the schema's target.
    """

    components: int = 10
    directions: int = 40
    frequencies: int = 14
    deformation: float = 1.0
    label: int | None = None

    def __post_init__(self) -> None:
        """Refuse sizes out of range."""
        if not 1 <= self.components <= 64 or not 4 <= self.directions <= 128 or not 3 <= self.frequencies <= 32:
            raise StudyError(
                f"model.options: components={self.components}, directions={self.directions}, "
                f"frequencies={self.frequencies}.",
                remedy="Give 1 to 64 components, 4 to 128 directions and 3 to 32 frequencies.",
            )
        if not 0.0 <= self.deformation <= 3.0:
            raise StudyError(f"model.options.deformation={self.deformation}.", remedy="Give a number from 0 to 3.")


class ImageMixture(ImageModel):
    """Released moments, and images drawn from them.

    Args:
        layout: The columns beside the image.
        image: The shape of the images.
        options: The family's options.
    """

    def __init__(self, layout: OneHotLayout, image: ImageShape, options: ImageMomentsOptions) -> None:
        super().__init__(layout, image)
        self.options = options
        if options.label is not None and not 0 <= options.label < layout.columns:
            raise StudyError(
                f"model.options.label={options.label}.", remedy=f"Give a column index below {layout.columns}."
            )
        looks = frequencies(image, options.frequencies)
        if not image.channels < options.directions <= len(looks):
            raise StudyError(
                f"model.options.directions={options.directions} of {len(looks)} frequencies.",
                remedy="Give more directions than channels, and not more than frequencies.",
            )
        self._axes = Axes(
            features=len(looks),
            channels=image.channels,
            classes=1 if options.label is None else layout.cardinalities[options.label],
            components=options.components,
            directions=options.directions,
        )
        self._moments = ImageMoments(
            layout, image, label=options.label, axes=self._axes, frequencies_per_side=options.frequencies
        )
        if max(self._moments.dimension(number) for number in range(1, ROUNDS + 1)) > _MOST_NUMBERS:
            raise StudyError(
                f"model.options: a round has {self._moments.dimension(ROUNDS)} numbers.",
                remedy="Ask for fewer components or directions, or a label of fewer codes.",
            )
        self._mixtures = Mixtures(self._axes, [layout.cardinalities[column] for column in self._moments.others])

    def initialise(self, *, generator: torch.Generator) -> None:
        """Begin without knowledge: grey images, all classes alike. Nothing is drawn."""
        del generator
        self._axes.reset()
        start = Mixtures(self._axes, [self.layout.cardinalities[column] for column in self._moments.others])
        self._mixtures.load_state_dict(start.state_dict())

    @property
    def shared(self) -> nn.Module:
        """Directions and centres, which earlier rounds gave."""
        return self._axes

    @property
    def generator(self) -> nn.Module:
        """The mixtures."""
        return self._mixtures

    @property
    def statistics(self) -> ImageMoments:
        """The three rounds."""
        return self._moments

    @property
    def statistics_rounds(self) -> int:
        """Three: everybody, classes, components."""
        return ROUNDS

    def unit_loss(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Refuse: there is nothing to train on records.

        Raises:
            StudyError: Always.
        """
        del codes, generator
        raise StudyError(
            "model.family is 'moments', which is not trained by gradients.",
            remedy='Set training.strategy = "statistics", training.rounds = 3 and privacy.sample_rate = 1.',
        )

    @torch.no_grad()
    def learn_statistics(self, number: int, means: Tensor, *, deviation: float, generator: torch.Generator) -> None:
        """Take directions, centres or components from a round; see :meth:`Family.learn_statistics`."""
        if number == 1:
            self._learn_directions(means)
            return
        seen = self._moments.read_cells(number, means)
        if number == ROUNDS:
            self._learn_components(seen, deviation=deviation)
        else:
            self._learn_classes(seen, deviation=deviation, generator=generator)

    def _learn_directions(self, means: Tensor) -> None:
        """Look along the principal directions of the contrast, from the mean image."""
        everybody = self._moments.read_everybody(means)
        # The public number of records may be rough.
        number = everybody.number.clamp(min=0.1)
        mean, second = everybody.mean / number, everybody.contrast
        axes, half = self._axes, 0.5 * self.image.size**0.5
        vectors = torch.linalg.eigh(second).eigenvectors.flip(1)[:, : axes.directions.shape[0]].T
        axes.directions.copy_(vectors * vectors.sum(dim=1, keepdim=True).sign())
        grey = self._moments.cosines.to(means.device) @ means.new_full((self.image.size,), 0.5)
        axes.centres.copy_(axes.reduced((grey + half * mean)[None])[0])
        variance = half**2 * (everybody.energy / number - mean.square().sum())
        axes.radius.fill_(_CLASS_REACH * float(variance.clamp(min=LEAST_VARIANCE * self.image.size)) ** 0.5)
        self._mixtures.directions.copy_(axes.directions)
        unknown = torch.eye(axes.centres.shape[2], device=means.device) * variance.clamp(min=0.0)
        self._mixtures.hold(
            shares=torch.ones_like(self._mixtures.shares),
            means=axes.centres,
            covariances=(unknown / axes.centres.shape[2]).expand(*axes.centres.shape[:2], -1, -1),
        )

    def _learn_classes(self, seen: Seen, *, deviation: float, generator: torch.Generator) -> None:
        """Take a Gaussian per class, and look for its components in draws from it."""
        axes = self._axes
        found = NoisyCells(seen, deviation=deviation, radius=float(axes.radius))
        shifts = shrunk_means(found.means, target=found.pooled(found.means), variance=found.mean_noise)
        pooled = found.pooled(shifts)
        covariances = shrunk_covariances(found.around(shifts), target=pooled, variance=found.spread_noise)
        covariances = nearest_covariance(covariances, floor=LEAST_VARIANCE)
        means = axes.centres[:, :1].double() + shifts
        # A code that noise alone could have counted has hardly any share; it is not impossible.
        self._mixtures.class_logits.copy_(seen.counts[:, 0].clamp(min=_LEAST_COUNT).log())
        for place, table in enumerate(seen.tables):
            self._mixtures.tables[place].copy_(table.clamp(min=_LEAST_COUNT).log())
        self._mixtures.hold(shares=torch.ones_like(found.counts), means=means, covariances=covariances)
        distance = 0.0
        for label in range(len(means)):
            noise = torch.randn(_DRAWS, means.shape[2], generator=generator, device=means.device).double()
            draws = means[label] + noise @ self._mixtures.factors[label, 0].double().T
            centres, square = _centres(draws, axes.centres.shape[1], generator=generator)
            axes.centres[label] = centres.to(axes.centres)
            distance += square / len(means)
        axes.radius.fill_(_COMPONENT_REACH * max(distance, LEAST_VARIANCE) ** 0.5)

    def _learn_components(self, seen: Seen, *, deviation: float) -> None:
        """Take a Gaussian per component: as much of it as is above the noise, the rest from its class."""
        found = NoisyCells(seen, deviation=deviation, radius=float(self._axes.radius))
        shifts = shrunk_means(found.means, target=found.pooled(found.means), variance=found.mean_noise)
        pooled = found.pooled(shifts)
        classes = nearest_covariance(
            shrunk_covariances(found.by_class(shifts), target=pooled, variance=found.class_noise), floor=LEAST_VARIANCE
        )
        covariances = shrunk_covariances(found.around(shifts), target=classes[:, None], variance=found.spread_noise)
        self._mixtures.hold(
            shares=found.counts,
            means=self._axes.centres.double() + shifts,
            covariances=nearest_covariance(covariances, floor=LEAST_VARIANCE),
        )

    @torch.no_grad()
    def draw(self, count: int, *, allowed: Mapping[int, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw columns; a restricted label is conditioned on, other columns are restricted at their turn."""
        held, label = self._mixtures, self.options.label
        mask = None if label is None else allowed.get(label)
        classes, _ = draw_allowed(held.class_logits.expand(count, -1), allowed=mask, generator=generator)
        columns = torch.zeros(count, self.layout.columns, dtype=torch.long, device=classes.device)
        if label is not None:
            columns[:, label] = classes
        log_weight = torch.zeros(count, device=classes.device)
        for place, column in enumerate(self._moments.others):
            codes, weights = draw_allowed(held.tables[place][classes], allowed=allowed.get(column), generator=generator)
            columns[:, column] = codes
            log_weight = log_weight + weights
        return columns, log_weight

    @torch.no_grad()
    def depict(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Draw an image of each row's class; see :meth:`Family.depict`."""
        label, image = self.options.label, self.image
        rows = torch.empty(len(codes), self.code_columns, dtype=torch.long, device=codes.device)
        rows[:, : self.layout.columns] = codes
        for start in range(0, len(codes), _DRAWN_AT_ONCE):
            part = slice(start, start + _DRAWN_AT_ONCE)
            classes = torch.zeros_like(codes[part, 0]) if label is None else codes[part, label]
            features = self._mixtures.draw(classes.long(), generator=generator)
            flat = features @ self._moments.cosines.to(features)
            images = flat.view(-1, image.channels, image.height, image.width).clamp(0.0, 1.0)
            changed = deformed(images, strength=self.options.deformation, generator=generator)
            rows[part, self.layout.columns :] = pixel_codes(changed, image)
        return rows


def _centres(draws: Tensor, count: int, *, generator: torch.Generator) -> tuple[Tensor, float]:
    """Return centres ``[count, d]`` of draws (Lloyd, 1982), and the mean squared distance to the nearest."""
    order = torch.randperm(len(draws), generator=generator, device=draws.device)
    centres = draws[order[:count]].clone()
    for _ in range(_LLOYD_STEPS):
        nearest = torch.cdist(draws, centres).argmin(dim=1)
        members = functional.one_hot(nearest, count).to(draws)
        totals = members.sum(dim=0)
        found = members.T @ draws / totals.clamp(min=1.0)[:, None]
        centres = torch.where(totals[:, None] > 0, found, centres)
    return centres, float(torch.cdist(draws, centres).min(dim=1).values.square().mean())
