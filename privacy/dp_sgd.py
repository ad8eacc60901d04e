"""One step of DP-SGD at a site: the sum of clipped per-unit gradients (Abadi et al., 2016).

This is the only file that touches Opacus. Its materialised per-sample gradients are the reference; for
networks of linear layers :mod:`privacy.book_keeping` computes the same sum much faster.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from privacy.book_keeping import book_keeping_sum, clip_factors, is_linear_network, unit_index
from privacy.indicator_linear import IndicatorLinear
from protocol.errors import PrivacyError

__all__ = [
    "chunked_gradient_sum",
    "clipped_gradient_sum",
    "is_linear_network",
    "parameter_count",
    "reference_gradient_sum",
]


def clipped_gradient_sum(
    module: nn.Module, loss: Callable[[], Tensor], *, units: Tensor | None, clip_norm: float
) -> Tensor:
    """Return the sum over units of their gradients, each scaled down to at most ``clip_norm`` in the L2 norm.

    **Formal guarantee.** Where row i of ``loss()`` depends on record i alone, adding or removing all records
    of one unit changes the result by at most ``clip_norm`` in the L2 norm. Norms, clipping and summation are
    float64 with a margin for their own rounding; the guarantee takes the forward and backward pass as given,
    that is, it does not cover a processor that rounds one record's pass differently in a batch of another
    size.

    **Edge cases.** A unit whose gradient is not finite contributes zero and touches no other unit. No records
    give the zero vector.

    Args:
        module: Holds the parameters; those that require a gradient count.
        loss: Runs the forward pass and returns one loss per record, ``[n]``.
        units: Index of each record's unit, ``[n]``, sorted ascending; None where a record is a unit.
            A unit's gradient is the mean over its records.
        clip_norm: Bound on the norm of a unit's whole gradient (all parameters together), positive.

    Returns:
        Flat vector ``[d]``, float64, on the CPU, in the order of ``module.parameters()``.

    Raises:
        PrivacyError: If ``clip_norm`` is not a positive number, ``units`` is not sorted or not one per
            record, or a layer mixes records.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> records = torch.tensor([[3.0, 4.0], [0.0, 0.5], [float("nan"), 0.0]])
        >>> total = clipped_gradient_sum(layer, lambda: layer(records).squeeze(1), units=None, clip_norm=1.0)
        >>> [round(coordinate, 3) for coordinate in total.tolist()]
        [0.6, 1.3]
    """
    _check(module, units=units, clip_norm=clip_norm)
    counted = _counted(loss, units)
    if is_linear_network(module):
        return book_keeping_sum(module, counted, units=units, clip_norm=clip_norm)
    return _materialised_sum(module, counted, units=units, clip_norm=clip_norm)


def chunked_gradient_sum(
    module: nn.Module,
    unit_loss: Callable[[Tensor], Tensor],
    records: Tensor,
    *,
    units: Tensor | None,
    clip_norm: float,
    chunk: int = 8192,
    padded: bool = False,
) -> Tensor:
    """Return :func:`clipped_gradient_sum` of a batch of any size in bounded memory.

    The batch is cut between units, never inside one, so that the guarantee is the same: which records share a
    chunk has no influence on what any of them contributes.

    Args:
        module: Holds the parameters.
        unit_loss: Returns one loss per record, ``[m]``, of any slice ``[m, ...]`` of the records. It must give a
            record the same loss in any slice: where it takes a generator, seed it alike in every call.
        records: ``[n, ...]``.
        units: As for :func:`clipped_gradient_sum`.
        clip_norm: As for :func:`clipped_gradient_sum`.
        chunk: Records per chunk, at least 1; a unit with more records than that is a chunk of its own.
        padded: Whether to fill every chunk up to a multiple of ``chunk`` rows whose losses are thrown away. Matrix
            products in float32 round a row differently in batches of different size: with padding, all passes have
            the same, public size, and how many records were drawn changes no other record's gradient.

    Returns:
        Flat vector ``[d]``, float64, on the CPU.

    Raises:
        PrivacyError: As for :func:`clipped_gradient_sum`, or if ``chunk`` is below 1.
    """
    if chunk < 1:
        raise PrivacyError(f"Chunks of {chunk} records.", remedy="Give at least 1.")
    _check(module, units=units, clip_norm=clip_norm)
    if units is not None and len(units) != len(records):
        raise PrivacyError(f"{len(units)} units for {len(records)} records.", remedy="Give one per record.")
    total = torch.zeros(parameter_count(module), dtype=torch.float64)
    for start, end in _chunks(len(records), units, chunk):
        part = records[start:end]
        inside = None if units is None else units[start:end]

        fill = -len(part) % chunk if padded else 0
        if fill:
            part = torch.cat([part, part[:1].expand(fill, *part.shape[1:])])
            if inside is not None:
                inside = torch.cat([inside, inside[-1] + 1 + torch.arange(fill, device=inside.device)])

        def loss(part: Tensor = part, kept: int = end - start) -> Tensor:
            losses = unit_loss(part)
            return torch.cat([losses[:kept], torch.zeros_like(losses[kept:])])

        total += clipped_gradient_sum(module, loss, units=inside, clip_norm=clip_norm)
    return total


def reference_gradient_sum(
    module: nn.Module, loss: Callable[[], Tensor], *, units: Tensor | None, clip_norm: float
) -> Tensor:
    """Return the same sum from the per-sample gradients of Opacus: any layer it knows, slow, much memory."""
    _check(module, units=units, clip_norm=clip_norm)
    return _materialised_sum(module, _counted(loss, units), units=units, clip_norm=clip_norm)


def parameter_count(module: nn.Module) -> int:
    """Return the number of trainable parameters: the dimension of a gradient."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _check(module: nn.Module, *, units: Tensor | None, clip_norm: float) -> None:
    """Refuse arguments under which the guarantee would not hold."""
    if not 0 < clip_norm < float("inf"):
        raise PrivacyError(f"Clip norm {clip_norm}.", remedy="Give a positive number.")
    if units is not None and units.numel() and bool((units.diff() < 0).any()):
        raise PrivacyError("Units of a batch out of order.", remedy="Sort the records by unit.")
    for name, layer in module.named_modules():
        if _mixes_records(layer):
            raise PrivacyError(
                f"Layer {name or 'itself'} ({type(layer).__name__}) lets records of a batch meet.",
                remedy="Use layers that treat every record by itself, such as group or layer normalisation.",
            )


def _mixes_records(layer: nn.Module) -> bool:
    """Return whether what a record yields, or what the layer keeps, depends on other records of the batch."""
    if isinstance(layer, _BatchNorm):
        return layer.training or layer.running_mean is None
    if isinstance(layer, _InstanceNorm):
        return layer.training and layer.track_running_stats
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        return layer.max_norm is not None or layer.scale_grad_by_freq
    if isinstance(layer, nn.MultiheadAttention | nn.RNNBase):
        return not layer.batch_first
    return False


def _counted(loss: Callable[[], Tensor], units: Tensor | None) -> Callable[[], Tensor]:
    """Return the loss with a check of its shape."""

    def checked() -> Tensor:
        losses = loss()
        if losses.dim() != 1 or (units is not None and len(units) != len(losses)):
            raise PrivacyError(
                f"The loss has shape {list(losses.shape)} for "
                f"{'any number of' if units is None else len(units)} records.",
                remedy="Return one loss per record, and give one unit per record.",
            )
        return losses

    return checked


def _chunks(count: int, units: Tensor | None, chunk: int) -> Iterator[tuple[int, int]]:
    """Yield slices of at most ``chunk`` records, or of one unit where that has more."""
    if units is None:
        yield from ((start, min(start + chunk, count)) for start in range(0, count, chunk))
        return
    start = end = 0
    for size in unit_index(units)[1].tolist() if count else ():
        if end > start and end + size - start > chunk:
            yield start, end
            start = end
        end += size
    if end > start:
        yield start, end


def _materialised_sum(
    module: nn.Module, loss: Callable[[], Tensor], *, units: Tensor | None, clip_norm: float
) -> Tensor:
    """Return the clipped sum from one materialised gradient per record."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    with _opacus(module):
        losses = loss()
        if losses.numel() == 0:
            return torch.zeros(parameter_count(module), dtype=torch.float64)
        with warnings.catch_warnings():
            # Opacus hooks the first layer too, whose inputs need no gradient: as it should be.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            torch.autograd.backward([losses.sum()])
        # Parameter by parameter: a matrix of all of them would be held, and copied, once more.
        parts = [_per_record(p, len(losses)) for p in trainable]
    if units is not None:
        parts = [_unit_means(part, units.to(part.device)) for part in parts]
    norms = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part, dim=1) for part in parts]), dim=0)
    factors = clip_factors(norms, clip_norm)
    void = ~norms.isfinite()  # of finite float32 rows the norm is finite too
    if bool(void.any()):  # zero times a row that is not finite is not zero
        parts = [part.masked_fill(void[:, None], 0.0) for part in parts]
    return torch.cat([factors @ part for part in parts]).cpu()


def _per_record(parameter: Tensor, count: int) -> Tensor:
    """Return the parameter's gradient at every record, ``[n, size]``, float64; zero where it is not used."""
    samples = getattr(parameter, "grad_sample", None)
    if samples is None:
        return torch.zeros(count, parameter.numel(), dtype=torch.float64, device=parameter.device)
    if len(samples) != count:
        raise PrivacyError(
            f"A layer saw {len(samples)} rows, but there are {count} records.",
            remedy="Give every layer one row per record.",
        )
    rows: Tensor = samples.detach().flatten(1).double()
    return rows


def _unit_means(rows: Tensor, units: Tensor) -> Tensor:
    """Return the mean row of every unit, ``[units, d]``."""
    index, counts = unit_index(units)
    sums = rows.new_zeros(len(counts), rows.shape[1]).index_add(0, index, rows)
    means: Tensor = sums / counts[:, None]
    return means


@contextmanager
def _opacus(module: nn.Module) -> Iterator[None]:
    """Let Opacus note per-sample gradients of ``module``, and leave no trace of it behind."""
    from opacus.grad_sample import GradSampleModule

    samplers = GradSampleModule.GRAD_SAMPLERS
    _check_what_opacus_would_get_wrong(module, known=[IndicatorLinear, *samplers])
    held: list[nn.Module | Tensor] = [*module.modules(), *module.parameters()]
    before = [set(vars(each)) for each in held]
    state = [(p, p.grad) for p in module.parameters()]
    # Opacus is blind to layers in evaluation mode.
    resting = [m for m in module.modules() if not m.training and list(m.parameters(recurse=False))]
    before_samplers = dict(samplers)
    wrapped: GradSampleModule | None = None
    try:
        samplers.update({nn.EmbeddingBag: _bag_samples, IndicatorLinear: _indicator_samples})
        module.zero_grad(set_to_none=True)
        for layer in resting:
            layer.training = True
        wrapped = GradSampleModule(module, loss_reduction="sum", strict=True)
        yield
    except NotImplementedError as problem:
        raise PrivacyError(
            f"Per-unit gradients of this model are not known: {problem}",
            remedy="Use layers that Opacus supports, without buffers.",
        ) from problem
    finally:
        samplers.clear()
        samplers.update(before_samplers)
        if wrapped is not None:
            wrapped.remove_hooks()
        for layer in resting:
            layer.training = False
        for parameter, gradient in state:
            parameter.grad = gradient
        for each, names in zip(held, before, strict=True):
            for name in set(vars(each)) - names:
                delattr(each, name)


def _check_what_opacus_would_get_wrong(module: nn.Module, *, known: Sequence[type[nn.Module]]) -> None:
    """Refuse layers whose gradients Opacus would note, but not as they are; ``known`` are those with a sampler."""
    reached = [id(layer) for _, layer in module.named_modules(remove_duplicate=False)]
    if len(reached) > len(set(reached)):  # its gradient would count once per name
        raise PrivacyError("A layer of this model has two names.", remedy="Let every layer lie in one place.")
    for layer in module.modules():
        if isinstance(layer, IndicatorLinear) and type(layer) not in known:  # all but the first argument would be lost
            raise PrivacyError(
                f"Per-unit gradients of {type(layer).__name__}, a subclass of IndicatorLinear, are not known.",
                remedy="Use IndicatorLinear itself, or register a sampler with Opacus.",
            )


def _bag_samples(layer: nn.EmbeddingBag, activations: list[Tensor], signals: Tensor) -> dict[Tensor, Tensor]:
    """Return per-sample gradients of a bag of two-dimensional indices, which Opacus has no sampler for."""
    counts = torch.zeros(len(signals), layer.num_embeddings, dtype=signals.dtype, device=signals.device)
    counts.scatter_add_(1, activations[0], torch.ones_like(activations[0], dtype=signals.dtype))
    return {layer.weight: counts[:, :, None] * signals[:, None, :]}


def _indicator_samples(layer: IndicatorLinear, activations: list[Tensor], signals: Tensor) -> dict[Tensor, Tensor]:
    """Return per-sample gradients of a layer of indicators, which is a linear layer of what its arguments stand for."""
    return {layer.weight: signals[:, :, None] * layer.entered(*activations)[:, None, :]}
