"""Noisy means and covariances, drawn towards what is known better: as far as their noise is larger than their signal.

Source: empirical Bayes estimation of many normal means (Efron and Morris, 1973), here in the axes of the target, with
a prior whose spread is proportional to what the target says of each axis.
"""

import torch
from torch import Tensor

_ROUNDS = 20
_LEAST_SPREAD = 1e-3
_TINY = 1e-12


def nearest_covariance(matrices: Tensor, *, floor: float) -> Tensor:
    """Return symmetric matrices ``[..., d, d]`` with eigenvalues below ``floor`` raised to it."""
    values, vectors = torch.linalg.eigh(matrices)
    raised: Tensor = (vectors * values.clamp(min=floor)[..., None, :]) @ vectors.mT
    return raised


def shrunk_means(means: Tensor, *, target: Tensor, variance: Tensor) -> Tensor:
    """Draw noisy means towards zero.

    Args:
        means: ``[..., d]``.
        target: Covariance that says how far means may lie from zero in each direction, in some scale, ``[d, d]``.
        variance: Variance of the noise in each coordinate of each mean, ``[...]``.

    Returns:
        ``[..., d]``.
    """
    values, vectors = torch.linalg.eigh(target)
    found = means @ vectors
    prior = values.clamp(min=_TINY).expand_as(found)
    noise = variance[..., None].expand_as(found)
    kept: Tensor = (found * _kept(found, prior=prior, noise=noise)) @ vectors.mT
    return kept


def shrunk_covariances(matrices: Tensor, *, target: Tensor, variance: Tensor) -> Tensor:
    """Draw noisy covariances towards their targets.

    Args:
        matrices: Symmetric, ``[..., d, d]``; need not be positive.
        target: Covariances, of a shape that broadcasts to that of ``matrices``; positive definite.
        variance: Variance of the noise on the diagonal of each matrix, ``[...]``; it is half of this elsewhere.

    Returns:
        Symmetric, ``[..., d, d]``; need not be positive.

    Example:
        >>> noisy, far = torch.eye(3).double()[None] * 2, torch.tensor([1e9]).double()
        >>> shrunk = shrunk_covariances(noisy, target=torch.eye(3).double(), variance=far)
        >>> shrunk.diagonal(dim1=1, dim2=2).round().tolist()
        [[1.0, 1.0, 1.0]]
    """
    values, vectors = torch.linalg.eigh(target)
    found = vectors.mT @ (matrices - target) @ vectors
    values = values.clamp(min=_TINY)
    diagonal = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    prior = (values[..., :, None] * values[..., None, :] * (1.0 + diagonal)).expand_as(found)
    noise = (variance[..., None, None] * (0.5 + 0.5 * diagonal)).expand_as(found)
    kept: Tensor = vectors @ (found * _kept(found, prior=prior, noise=noise)) @ vectors.mT
    return target + kept


def _kept(found: Tensor, *, prior: Tensor, noise: Tensor) -> Tensor:
    """Return the share of each number that is signal, where its variance is ``spread * prior + noise``.

    The one unknown, the spread, is found by weighted moments (DerSimonian and Laird, 1986, iterated).
    """
    spread = torch.full((), 0.1, dtype=found.dtype, device=found.device)
    for _ in range(_ROUNDS):
        weight = prior / (noise + spread * prior).square()
        spread = (((found.square() - noise) * weight).sum() / (prior * weight).sum()).clamp(min=_LEAST_SPREAD)
    return spread * prior / (spread * prior + noise)
