"""A peer of the secure sum: homomorphic encryption by CKKS in TenSEAL, where that package is installed.

``pip install tenseal`` adds it; nothing else here needs it. Measured is the usual setting for sums, 8,192 coefficients
with a 160-bit modulus and a scale of 2^40: processor time to encrypt a vector, and its serialised size. The sum is
approximate, the key is one for all sites, and whoever holds it can read every site's vector: that is what the secure
sum avoids, and what the times here do not show.
"""

import importlib
import statistics
import time
from typing import Any

import numpy as np

_DEGREE = 8192
_SLOTS = _DEGREE // 2
_BITS = [60, 40, 60]
_SCALE = 2.0**40
_BATCHES = 20


def measure(parameters: int) -> dict[str, object]:
    """Return ``ckks_client_cpu_ms`` and ``ckks_upload_ratio``, or null and a reason.

    Args:
        parameters: Length of the vector; times are those of some blocks, scaled up.
    """
    try:
        tenseal: Any = importlib.import_module("tenseal")
    except ImportError:
        return {"ckks_client_cpu_ms": None, "ckks_reason": "TenSEAL is not installed"}
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=_DEGREE, coeff_mod_bit_sizes=_BITS)
    context.global_scale = _SCALE
    block = np.linspace(-1.0, 1.0, _SLOTS)
    seconds, sizes = [], []
    for _ in range(_BATCHES):
        begin = time.process_time()
        encrypted = tenseal.ckks_vector(context, block)
        seconds.append(time.process_time() - begin)
        sizes.append(len(encrypted.serialize()))
    blocks = parameters / _SLOTS
    return {
        "ckks_client_cpu_ms": 1000.0 * statistics.median(seconds) * blocks,
        "ckks_upload_ratio": statistics.median(sizes) / (4 * _SLOTS),
    }
