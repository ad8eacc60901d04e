"""Where records enter the models of a table, and what of a gradient belongs there."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from models.autoregressive import AutoregressiveDecoder
from models.family import Family
from models.gan import AdversarialNetwork
from models.geometry import FeatureMap, column_features
from models.vae import VariationalAutoencoder
from privacy.audit.channel.code_counts import CodeSignals
from privacy.audit.channel.public_inputs import PublicInputs
from privacy.audit.channel.span_search import InputGradient
from protocol.errors import InputError

Matrix = NDArray[np.float64]


def public_inputs(family: Family) -> PublicInputs:
    """How records enter the layers that :func:`input_layers` gives.

    Raises:
        InputError: If the family is unknown to the attack.
    """
    if isinstance(family, AdversarialNetwork):
        return PublicInputs(features=tuple(np.eye(codes) for codes in family.layout.cardinalities))
    known = _auto_encoder(family)
    features = column_features(known.layout, splines=known.options.splines)
    order = _order(known)
    return PublicInputs(features=tuple(features[column].double().numpy() for column in order), order=order)


def input_layers(family: Family, vector: Matrix) -> tuple[InputGradient, ...]:
    """The gradients of the layers that records enter.

    Args:
        family: The model.
        vector: Gradient of its shared part, flat [d].

    Returns:
        For an adversarial network, the critic's first layer; for a variational auto-encoder the encoder's, its
        critic's where it has one, and the decoder's layers between columns. Rows are those of :func:`public_inputs`.

    Raises:
        InputError: If the family is unknown to the attack.
    """
    if isinstance(family, AdversarialNetwork):
        return (InputGradient(entered=family.layout.columns, rows=_first(family, "", vector).T),)
    known = _auto_encoder(family)
    rows = [_first(known, part, vector).T for part in ("encoder.", "critic.") if hasattr(known, part[:-1])]
    places = _places(known)
    whole = [InputGradient(entered=known.layout.columns, rows=each[places]) for each in rows]
    heads = enumerate(_heads(known, vector))
    return (*whole, *(InputGradient(entered=j, rows=each, logits=True) for j, each in heads if j and each is not None))


def code_signals(family: Family, vector: Matrix) -> CodeSignals | None:
    """What of a gradient belongs to a decoder's numbers per code; None where a family has none.

    Args:
        family: The model, with the weights at which the gradient was taken.
        vector: Gradient of its shared part, flat [d].
    """
    if not isinstance(family, VariationalAutoencoder):
        return None
    order, decoder, parts = _order(family), family.decoder, _parts(family, vector)
    linear = isinstance(decoder, AutoregressiveDecoder)
    totals = _blocks(family, parts["decoder.shapes.weight" if linear else "decoder.head.bias"].ravel())
    own = tuple(totals[column] for column in order)
    # Layers between columns that say nothing yet leave every record the same probabilities.
    if not isinstance(decoder, AutoregressiveDecoder) or any(bool(each.any()) for each in decoder.heads.parameters()):
        return CodeSignals(totals=own)
    logits = _blocks(family, decoder.shapes.weight.detach().double().numpy().ravel())
    return CodeSignals(
        totals=own,
        shares=tuple(softmax(logits[column]) for column in order),
        tables=tuple(_heads(family, vector)),
    )


def _auto_encoder(family: Family) -> VariationalAutoencoder:
    if not isinstance(family, VariationalAutoencoder):
        raise InputError(
            f"The family {type(family).__name__} has no layer known here.", remedy="Use vae or gan, or vaegan."
        )
    return family


def _order(family: VariationalAutoencoder) -> tuple[int, ...]:
    """Columns as the decoder generates them; as they are where it generates all at once."""
    decoder = family.decoder
    return decoder.order if isinstance(decoder, AutoregressiveDecoder) else tuple(range(family.layout.columns))


def _places(family: VariationalAutoencoder) -> NDArray[np.int64]:
    """Where the features of the columns, in order of generation, are in the encoder's input, [features]."""
    sizes = FeatureMap(family.layout, splines=family.options.splines).sizes
    blocks = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    return np.concatenate([blocks[column] for column in _order(family)])


def _heads(family: VariationalAutoencoder, vector: Matrix) -> list[Matrix | None]:
    """Gradients of the decoder's layers between columns, [features before, outputs], as of unscaled features."""
    decoder = family.decoder
    if not isinstance(decoder, AutoregressiveDecoder):
        return []
    parts = _parts(family, vector)
    rows = (parts[f"decoder.heads.{j}.weight"].T[decoder.latent :] for j in range(len(decoder.heads)))
    return [each / decoder.input_scale if len(each) else None for each in rows]


def _blocks(family: Family, flat: Matrix) -> list[Matrix]:
    """The parts of a vector of all codes, [width], that belong to each column."""
    return np.split(flat, family.layout.offsets[1:])


def _first(family: Family, part: str, vector: Matrix) -> Matrix:
    """The gradient of the first layer, [outputs, features], of a part of the model."""
    parts = _parts(family, vector)
    return next(rows for name, rows in parts.items() if name.startswith(part) and name.endswith(".weight"))


def _parts(family: Family, vector: Matrix) -> dict[str, Matrix]:
    """The parts of a flat gradient by the name of their weight."""
    parts: dict[str, Matrix] = {}
    start = 0
    weights: list[tuple[str, Tensor]] = [each for each in family.shared.named_parameters() if each[1].requires_grad]
    for name, weight in weights:
        parts[name] = vector[start : start + weight.numel()].reshape(tuple(weight.shape))
        start += weight.numel()
    return parts
