"""The site's policy: no policy, no study; a permission must be meant; the stricter one wins."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.policy import Policy
from privacy.plan import PrivacyPlan
from protocol.errors import ApprovalError, InputError
from protocol.study import Study

WHOLE = """
epsilon = 4
delta = 1e-6
minimum_sites = 2
families = ["vae"]
trust = ["none"]
allow_not_private = false
"""


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "policy.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_policy_is_read_as_it_is_written(tmp_path: Path) -> None:
    policy = Policy.from_toml(written(tmp_path, WHOLE))
    assert policy == Policy(epsilon=4, delta=1e-6, minimum_sites=2, families=("vae",))


def test_no_policy_means_refusal(tmp_path: Path) -> None:
    with pytest.raises(ApprovalError, match="no policy"):
        Policy.from_toml(tmp_path / "policy.toml")


def test_a_policy_allows_nothing_that_is_not_private_by_default() -> None:
    assert not Policy(epsilon=1.0, delta=1e-6).allow_not_private


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("epsilon = 4", "delta"),
        ("delta = 1e-6", "epsilon"),
        ("epsilon = 4\ndelta = 1e-6\nepsilom = 1", "epsilom"),
        ("epsilon = ", "TOML"),
        (b"epsilon = 4\xff", "TOML"),
        ("epsilon = 0\ndelta = 1e-6", "epsilon"),
        ("epsilon = 301\ndelta = 1e-6", "epsilon"),
        ("epsilon = nan\ndelta = 1e-6", "epsilon"),
        ("epsilon = inf\ndelta = 1e-6", "epsilon"),
        ('epsilon = "4"\ndelta = 1e-6', "epsilon"),
        ("epsilon = true\ndelta = 1e-6", "epsilon"),
        ("epsilon = 4\ndelta = 0", "delta"),
        ("epsilon = 4\ndelta = 1", "delta"),
        ("epsilon = 4\ndelta = 1e-13", "delta"),
        ("epsilon = 4\ndelta = nan", "delta"),
        ("epsilon = 4\ndelta = 1e-6\nminimum_sites = 0", "minimum_sites"),
        ("epsilon = 4\ndelta = 1e-6\nminimum_sites = 1.5", "minimum_sites"),
        ("epsilon = 4\ndelta = 1e-6\nminimum_sites = true", "minimum_sites"),
        ('epsilon = 4\ndelta = 1e-6\nfamilies = "vae"', "families"),
        ("epsilon = 4\ndelta = 1e-6\nfamilies = 3", "families"),
        ("epsilon = 4\ndelta = 1e-6\nfamilies = [3]", "families"),
        ('epsilon = 4\ndelta = 1e-6\ntrust = "none"', "trust"),
        ('epsilon = 4\ndelta = 1e-6\nallow_not_private = "false"', "allow_not_private"),
        ("epsilon = 4\ndelta = 1e-6\nallow_not_private = 1", "allow_not_private"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str | bytes, named: str) -> None:
    with pytest.raises(InputError, match=named):
        Policy.from_toml(written(tmp_path, text))


def test_a_policy_that_cannot_be_read_is_no_permission(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").mkdir()
    with pytest.raises(InputError, match="policy.toml"):
        Policy.from_toml(tmp_path / "policy.toml")


@pytest.mark.parametrize(
    ("terms", "named"),
    [
        ({"families": ("gan",)}, "vae"),
        ({"families": ()}, "vae"),
        ({"trust": ("sum",)}, "none"),
        ({"minimum_sites": 3}, "2 sites"),
    ],
)
def test_the_term_at_fault_is_named(tiny_study: Callable[..., Study], terms: dict[str, Any], named: str) -> None:
    plan = PrivacyPlan.from_study(tiny_study())
    Policy(epsilon=5.0, delta=1e-4).check(plan)
    with pytest.raises(ApprovalError, match=named):
        Policy(epsilon=5.0, delta=1e-4, **terms).check(plan)


def test_deterministic_noise_and_none_at_all_need_leave(
    without_noise: Callable[..., Study], given_noise: Callable[..., Study]
) -> None:
    for study in (without_noise(), given_noise(0.0)):
        plan = PrivacyPlan.from_study(study)
        with pytest.raises(ApprovalError, match="no guarantee"):
            Policy(epsilon=5.0, delta=1e-4).check(plan)
        Policy(epsilon=5.0, delta=1e-4, allow_not_private=True).check(plan)
