"""A tiny study of each kind that an audit of the mechanism must be able to take apart."""

from collections.abc import Callable
from typing import Any

import pytest

from protocol.study import Study

OPTIONS: dict[str, dict[str, Any]] = {
    "vae": {"latent": 2},
    "gan": {"critic_widths": [12], "generator_widths": [4]},
    "vaegan": {"latent": 2, "critic_widths": [12], "fake_batch": 32},
    "moments": {"components": 8},
}


@pytest.fixture
def claiming_study(given_noise: Callable[..., Study]) -> Callable[..., Study]:
    """Return a builder of tiny studies that make a claim: family, trust, strategy and unit may be chosen."""

    def build(
        *,
        family: str = "vae",
        trust: str = "none",
        strategy: str = "gradients",
        unit: str = "record",
        noise: float = 1.5,
        rate: float = 0.2,
        rounds: int = 50,
        **federation: Any,
    ) -> Study:
        return given_noise(
            noise,
            model={"family": family, "options": OPTIONS[family]},
            schema={"person": "who"} if unit == "person" else {},
            training={"rounds": rounds, "strategy": strategy, "local_steps": 3},
            privacy={"delta": 1e-5, "sample_rate": rate, "trust": trust, "unit": unit},
            federation={"sites": 2, "public_records": 200} | federation,
        )

    return build
