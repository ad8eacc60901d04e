"""What an attacker reads off a trained model about a record: one number, the higher, the likelier a member.

Whoever has the release sees the generator. Every site and the coordinator hold the last shared weights as well, and
saw what was sent in every round.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.family import Family
from models.gan import AdversarialNetwork
from models.vae import VariationalAutoencoder
from privacy.plan import PrivacyPlan
from protocol.errors import InputError
from protocol.study import Study
from protocol.terms import ContributionKind
from records.bins import Codes
from simulations.audit.model.deadline import Deadline
from simulations.audit.model.pool import Crowd
from simulations.audit.model.record_gradients import RecordGradients
from simulations.audit.model.twin import TrainedTwin
from strategies.study_model import build_study_model

Signal = Callable[[TrainedTwin, Codes], NDArray[np.float64]]
"""From a twin and codes [n, columns] to one number per record, float64 [n]."""

_LATENT_DRAWS = 128
_NOISE_DRAWS = 32
_UNKNOWN, _ROUNDING = 0.1, 1e-5  # shares of the crowd's variance


@torch.no_grad()
def likelihood(twin: TrainedTwin, codes: Codes) -> NDArray[np.float64]:
    """The log-likelihood of records under the released generator, by Monte Carlo over its latent vector.

    All records meet the same latent draws, so that these add little to what tells records apart.

    Args:
        twin: The twin.
        codes: int32 [n, columns].

    Returns:
        float64 [n], nats.

    Raises:
        InputError: If the family's likelihood is not known here.
    """
    return generator_likelihood(twin.released, codes)


@torch.no_grad()
def generator_likelihood(model: Family, codes: Codes) -> NDArray[np.float64]:
    """The same of any generator, such as that of a release; see :func:`likelihood`."""
    records = torch.as_tensor(codes)
    if isinstance(model, VariationalAutoencoder):
        return _vae_likelihood(model, records)
    if isinstance(model, AdversarialNetwork):
        return _gan_likelihood(model, records)
    raise InputError(f"The likelihood of {type(model).__name__} is unknown.", remedy="Add it to the signals.")


@torch.no_grad()
def loss(twin: TrainedTwin, codes: Codes) -> NDArray[np.float64]:
    """Minus the training loss under the last shared weights: the evidence lower bound, or what the critic says.

    Args:
        twin: The twin.
        codes: int32 [n, columns].

    Returns:
        float64 [n], the mean over draws of the latent noise.
    """
    records = torch.as_tensor(codes)
    draws = [
        twin.insider.unit_loss(records, generator=torch.Generator().manual_seed(seed)).double()
        for seed in range(_NOISE_DRAWS if isinstance(twin.insider, VariationalAutoencoder) else 1)
    ]
    return -torch.stack(draws).mean(dim=0).numpy()


@torch.no_grad()
def reconstruction(twin: TrainedTwin, codes: Codes) -> NDArray[np.float64]:
    """The log-probability with which an auto-encoder gives a record back, at the middle of its latent code.

    Args:
        twin: The twin of an auto-encoder.
        codes: int32 [n, columns].

    Returns:
        float64 [n], nats.

    Raises:
        InputError: If the model has no encoder.
    """
    model, records = twin.insider, torch.as_tensor(codes)
    if not isinstance(model, VariationalAutoencoder):
        raise InputError(f"{type(model).__name__} has no encoder.", remedy="Leave the attack out.")
    middle = model.posterior(records)[0]
    found: NDArray[np.float64] = -model.decoder.negative_log_likelihood(records, middle).double().numpy()
    return found


def gradients(
    twin: TrainedTwin, codes: Codes, *, views: NDArray[np.int64], crowd: Crowd, deadline: Deadline
) -> NDArray[np.float64]:
    """How far all that was sent points along each record's own clipped gradient, summed over the rounds.

    Where rounds are single steps, a sum is noise and the gradients of whoever was drawn. What the crowd is expected to
    add is taken away, and what it adds by chance is weighed down: with g a record's gradient, r what is left and S the
    covariance of noise and crowd the signal is ``g S^-1 r``, the best of all linear ones (Fisher's discriminant). Where
    noise outweighs the crowd it is the inner product.

    Args:
        twin: The twin.
        codes: int32 [n, columns].
        views: int64 [n], number of the watched site that each record is at.
        crowd: What the attacker knows of the other records.
        deadline: Asked in every round.

    Returns:
        float64 [n].

    Raises:
        InputError: If the time is over, or the family has layers that are not linear.
    """
    study, model = twin.study, build_study_model(twin.study)
    clip_norm, by_step = study.privacy.clip_norm, study.training.strategy is ContributionKind.GRADIENTS
    at = [np.flatnonzero(views % len(twin.words) == view) for view in range(len(twin.words))]
    found = torch.zeros(len(codes), dtype=torch.float64)
    for number, weights in enumerate(twin.weights):
        deadline.check("reading the gradients of all rounds")
        start = torch.as_tensor(weights)
        known = RecordGradients(model, start, crowd.codes, clip_norm=clip_norm, seed=number) if by_step else None
        outlook = None if known is None else _Outlook(known, crowd, study)
        for view, rows in enumerate(at):
            sent = torch.as_tensor(twin.words[view, number]).double() * twin.step
            # A change of the weights points against the gradients that it was made of.
            along = -sent if outlook is None else outlook.telling(sent)
            if len(rows):
                own = RecordGradients(model, start, codes[rows], clip_norm=clip_norm, seed=number)
                found[rows] += own.along(along)
    return found.numpy()


class _Outlook:
    """What a sum of one step is expected to be without the record that is looked for.

    Args:
        known: The gradients of the crowd.
        crowd: The crowd.
        study: The study.
    """

    def __init__(self, known: RecordGradients, crowd: Crowd, study: Study) -> None:
        rate, numbers = study.privacy.sample_rate, torch.as_tensor(crowd.numbers)
        self._known = known
        self._expected = known.combined(numbers * rate)
        self._roots = (numbers * rate * (1.0 - rate)).sqrt()
        products = self._roots[:, None] * known.products() * self._roots
        noise = (PrivacyPlan.from_study(study).noise_multiplier * study.privacy.clip_norm) ** 2
        # What a record's latent noise was is unknown, and the crowd is a sample: neither is known exactly.
        unknown = max(_UNKNOWN / len(self._expected), _ROUNDING) * float(products.trace())
        identity = torch.eye(len(products), dtype=torch.float64)
        self._noise = noise + unknown
        self._factor = torch.linalg.cholesky(products + self._noise * identity)

    def telling(self, sent: Tensor) -> Tensor:
        """Return ``S^-1 (sent - expected)``, float64 [d], by the identity of Woodbury."""
        left = sent - self._expected
        inside = torch.cholesky_solve((self._roots * self._known.along(left))[:, None], self._factor)[:, 0]
        return (left - self._known.combined(self._roots * inside)) / self._noise


def _vae_likelihood(model: VariationalAutoencoder, records: Tensor) -> NDArray[np.float64]:
    latents = torch.randn(_LATENT_DRAWS, model.options.latent, generator=torch.Generator().manual_seed(0))
    terms = [-model.decoder.negative_log_likelihood(records, each.expand(len(records), -1)) for each in latents]
    return (torch.logsumexp(torch.stack(terms).double(), dim=0) - math.log(_LATENT_DRAWS)).numpy()


def _gan_likelihood(model: AdversarialNetwork, records: Tensor) -> NDArray[np.float64]:
    """The generator's columns are independent given noise and label; every record meets the noise with its label."""
    noise = torch.randn(_LATENT_DRAWS, model.options.latent, generator=torch.Generator().manual_seed(0))
    label = model.options.label if model.classes else None
    found = torch.zeros(len(records), dtype=torch.float64)
    for code in range(max(1, model.classes)):
        own = torch.arange(len(records)) if label is None else torch.nonzero(records[:, label] == code).flatten()
        inputs = noise
        if label is not None:
            found[own] = functional.log_softmax(model.generator.get_parameter("label_logits"), dim=0)[code].double()
            one_hot = functional.one_hot(torch.tensor(code), model.classes).float()
            inputs = torch.cat([noise, one_hot.expand(len(noise), -1)], dim=1)
        blocks = model.layout.split(model.generator(inputs))
        total = torch.zeros(len(noise), len(own), dtype=torch.float64)
        for column, block in enumerate(blocks):
            if column != label:
                total += functional.log_softmax(block, dim=1).double()[:, records[own, column].long()]
        found[own] += torch.logsumexp(total, dim=0) - math.log(len(noise))
    return found.numpy()
