"""The site's policy: no policy, no study; a permission must be meant; the stricter one wins."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from client.policy import Fault, Policy, policy_text, write_policy
from privacy.ceiling import Ceiling
from privacy.plan import PrivacyPlan
from protocol.errors import ApprovalError, InputError
from protocol.study import Study
from protocol.terms import Relation

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
        ('epsilon = 4\ndelta = 1e-6\ntrust = ["nobody"]', "nobody"),
        ("epsilon = 4\ndelta = 1e-6\nyearly_epsilon = 5", "yearly_epsilon"),
        ("epsilon = 4\ndelta = 1e-6\nyearly_epsilon = 0", "yearly_epsilon"),
        ("epsilon = 4\ndelta = 1e-6\nyearly_epsilon = nan", "yearly_epsilon"),
        ("epsilon = 4\ndelta = 1e-6\nmost_rounds = 0", "most_rounds"),
        ("epsilon = 4\ndelta = 1e-6\nmost_rounds = 2.5", "most_rounds"),
        ("epsilon = 4\ndelta = 1e-6\nstudies = ['abc']", "studies"),
        ("epsilon = 4\ndelta = 1e-6\nstudies = 'all'", "studies"),
        ("epsilon = 4\ndelta = 1e-6\nhours = '22:00-06:00'", "hours"),
        ("epsilon = 4\ndelta = 1e-6\nhours = ['22-06']", "hours"),
        ("epsilon = 4\ndelta = 1e-6\nhours = ['24:00-06:00']", "hours"),
        ("epsilon = 4\ndelta = 1e-6\nhours = ['06:00-06:00']", "hours"),
        ("epsilon = 4\ndelta = 1e-6\nhours = ['22:00-06:60']", "hours"),
        ("epsilon = 4\ndelta = 1e-6\ntimezone = 'Mars/Olympus'", "timezone"),
        ("epsilon = 4\ndelta = 1e-6\ntimezone = '../localtime'", "timezone"),
        ("epsilon = 4\ndelta = 1e-6\ntimezone = 1", "timezone"),
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


def test_rounds_and_studies_can_be_limited(tiny_study: Callable[..., Study]) -> None:
    plan = PrivacyPlan.from_study(tiny_study())
    assert Policy(epsilon=5.0, delta=1e-4, most_rounds=3, studies=(plan.study.hash,)).faults(plan) == ()
    faults = Policy(epsilon=5.0, delta=1e-4, most_rounds=2, studies=("0" * 64,), families=()).faults(plan)
    assert [fault.key for fault in faults] == ["families", "most_rounds", "studies"]
    assert faults[1] == Fault(key="most_rounds", problem="3 rounds")
    with pytest.raises(ApprovalError, match=r"3 rounds.*most_rounds, studies"):
        Policy(epsilon=5.0, delta=1e-4, most_rounds=2, studies=()).check(plan)


def test_there_is_always_a_ceiling_for_ever_and_one_of_a_year_where_it_is_asked_for() -> None:
    for_ever = Ceiling(epsilon=5.0, delta=1e-4, relation=Relation.ADD_REMOVE)
    yearly = Ceiling(epsilon=2.0, delta=1e-4, relation=Relation.ADD_REMOVE, days=365)
    assert Policy(epsilon=5.0, delta=1e-4).ceilings(Relation.ADD_REMOVE) == (for_ever,)
    policy = Policy(epsilon=5.0, delta=1e-4, yearly_epsilon=2.0)
    assert policy.ceilings(Relation.ADD_REMOVE) == (for_ever, yearly)
    assert {ceiling.relation for ceiling in policy.ceilings(Relation.REPLACE_ONE)} == {Relation.REPLACE_ONE}


def at(hour: int, minute: int = 0, *, day: int = 15, month: int = 1) -> datetime:
    return datetime(2030, month, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("hours", "is_open", "is_shut"),
    [
        ((), [at(0), at(12)], []),
        (("22:00-06:00",), [at(22), at(23, 59), at(0), at(5, 59)], [at(6), at(21, 59), at(12)]),
        (("08:30-12:00", "13:00-17:00"), [at(8, 30), at(11, 59), at(13)], [at(8, 29), at(12), at(17), at(0)]),
        (("00:00-24:00",), [at(0), at(23, 59)], []),
        (("22:00-24:00",), [at(23, 59)], [at(0)]),
        (("22:00-00:00",), [at(23, 59)], [at(0)]),
    ],
)
def test_hours_hold_their_first_minute_and_not_their_last(
    hours: tuple[str, ...], is_open: list[datetime], is_shut: list[datetime]
) -> None:
    policy = Policy(epsilon=1.0, delta=1e-6, hours=hours)
    assert [moment for moment in is_open if not policy.open_at(moment)] == []
    assert [moment for moment in is_shut if policy.open_at(moment)] == []


def test_hours_are_told_by_the_sites_own_clock_also_in_summer() -> None:
    berlin = Policy(epsilon=1.0, delta=1e-6, hours=("22:00-06:00",), timezone="Europe/Berlin")
    assert [berlin.open_at(at(hour)) for hour in (20, 21, 4, 5)] == [False, True, True, False]
    assert [berlin.open_at(at(hour, month=7)) for hour in (19, 20, 3, 4)] == [False, True, True, False]


def test_outside_its_hours_a_site_refuses_what_it_allows_inside(tiny_study: Callable[..., Study]) -> None:
    plan = PrivacyPlan.from_study(tiny_study())
    now = datetime.now(UTC)
    window = f"{now - timedelta(minutes=10):%H:%M}-{now + timedelta(minutes=10):%H:%M}"
    other = f"{now + timedelta(hours=2):%H:%M}-{now + timedelta(hours=3):%H:%M}"
    Policy(epsilon=5.0, delta=1e-4, hours=(window,)).check(plan)
    policy = Policy(epsilon=5.0, delta=1e-4, hours=(other,))
    assert policy.faults(plan) == (), "hours forbid a moment, not a study: it may be approved at any time"
    with pytest.raises(ApprovalError, match=r"at this hour.*hours"):
        policy.check(plan)
    policy.check(plan, at=now + timedelta(hours=2, minutes=30))


def test_a_written_policy_reads_as_it_was_meant(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "epsilon": 8, "delta": 1e-6, "yearly_epsilon": 3.0, "minimum_sites": 3, "families": ["gan"], "trust": ["sum"],
        "most_rounds": 500, "studies": ["a" * 64], "hours": ["22:00-06:00"], "timezone": "Europe/Berlin",
        "allow_not_private": True,
    }  # fmt: skip
    write_policy(tmp_path / "policy.toml", **values)
    lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    assert Policy.from_toml(tmp_path / "policy.toml") == Policy(**values | lists)
    with pytest.raises(InputError, match="exists"):
        write_policy(tmp_path / "policy.toml", epsilon=9.0, delta=1e-6)
    assert Policy.from_toml(tmp_path / "policy.toml").epsilon == 8


def test_a_new_policy_names_every_key_and_sets_the_ceiling_alone(tmp_path: Path) -> None:
    write_policy(tmp_path / "policy.toml", epsilon=8.0, delta=1e-6)
    assert Policy.from_toml(tmp_path / "policy.toml") == Policy(epsilon=8.0, delta=1e-6)
    text = (tmp_path / "policy.toml").read_text("utf-8")
    assert [key for key in Policy.__dataclass_fields__ if f"{key} = " not in text] == []
    examples = "\n".join(line.removeprefix("# ") for line in text.splitlines() if " = " in line)
    Policy.from_content(examples.encode(), path=tmp_path)  # every example in it may be used as it stands


def test_no_policy_is_written_that_could_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="epsilon"):
        write_policy(tmp_path / "policy.toml", epsilon=0.0, delta=1e-6)
    with pytest.raises(InputError, match="hours"):
        policy_text(epsilon=1.0, delta=1e-6, hours=["always"])
    assert not (tmp_path / "policy.toml").exists()
