"""Noise of a latent vector that belongs to the record, not to its place in a batch.

A site's guarantee needs the loss of a record to depend on nothing but that record. Noise that is dealt out
along the batch breaks this to the letter: one record more, and all that follow it get other noise. Here a
fresh key is drawn for each step, and a record's noise is a hash of the key and of its codes. Under every
fixed key the loss is a function of the record alone, whatever generator the key came from, in whatever order
or chunks the records come. Equal records of a batch share their noise.
"""

import math

import torch
from torch import Tensor


def record_noise(codes: Tensor, size: int, *, generator: torch.Generator) -> Tensor:
    """Return standard normal noise, one vector per record.

    Args:
        codes: ``[n, columns]``, integers.
        size: Length of a noise vector.
        generator: Source of the step's key, on the device of ``codes``.

    Returns:
        ``[n, size]``, float32. Row i is a function of the key and of row i of the codes.

    Source:
        Multilinear hashing (Carter and Wegman, 1979), finished by the mixing function of SplitMix64 (Steele,
        Lea and Flood, 2014); a pair of uniform numbers becomes a normal one by Box and Muller (1958).

    Example:
        >>> key = torch.Generator()
        >>> alone = record_noise(torch.tensor([[1, 2]]), 3, generator=key.manual_seed(0))
        >>> among = record_noise(torch.tensor([[0, 2], [1, 2]]), 3, generator=key.manual_seed(0))
        >>> torch.equal(alone[0], among[1])
        True
    """
    columns = codes.shape[1]
    shape = (columns + size,)
    key = torch.randint(-(2**63), 2**63 - 1, shape, generator=generator, device=codes.device)
    hashed = ((codes.long() + 1) * (key[:columns] | 1)).sum(dim=1)
    words = _mixed(hashed[:, None] + key[columns:])
    radius = ((_shifted(words, 32).double() + 0.5) * 2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = (words & 0xFFFFFFFF).double() * (math.tau * 2.0**-32)
    return (radius * angle.cos()).float()


def _shifted(words: Tensor, bits: int) -> Tensor:
    """Shift to the right without copies of the sign."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(words: Tensor) -> Tensor:
    """Return 64-bit words in which every bit depends on every bit of the input; products wrap around."""
    words = (words ^ _shifted(words, 30)) * -0x40A7B892E31B1A47
    words = (words ^ _shifted(words, 27)) * -0x6B2FB644ECCEEE15
    return words ^ _shifted(words, 31)
