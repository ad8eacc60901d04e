"""Writing a policy, and reading it in words."""

import json

import pytest

from client.policy import Policy


def test_a_policy_is_written_once_and_read_in_words(says, site_cli, tmp_path):
    status, out, err = says("policy", "--site", tmp_path, "--epsilon", "8", "--delta", "1e-6", "--yearly-epsilon", "3")
    assert status == 0, err
    assert (
        "(8, 1e-06)-differential privacy per record (or person, as the first study says) under add/remove, for ever"
        in out
    )
    assert "(3, 1e-06)-differential privacy" in out
    assert "within 365 days" in out
    assert "Requests are answered always." in out
    assert Policy.from_toml(tmp_path / "policy.toml") == Policy(epsilon=8.0, delta=1e-6, yearly_epsilon=3.0)
    status, _, err = says("policy", "--site", tmp_path, "--epsilon", "9", "--delta", "1e-6")
    assert status == 1
    assert "exists" in err
    found = json.loads(site_cli("policy", "--site", tmp_path, "--json")[1])
    assert (found["epsilon"], found["yearly_epsilon"], found["minimum_sites"]) == (8.0, 3.0, 1)


def test_everything_that_a_policy_says_is_told(says, officer):
    officer.set_policy(minimum_sites=3, families=["gan"], trust=["sum"], most_rounds=7, studies=["ab" * 32],
                       hours=["22:00-06:00"], timezone="Europe/Berlin", allow_not_private=True)  # fmt: skip
    out = says("policy", "--site", officer.folder)[1]
    for words in ("at least 3 sites", "families: gan", "under a secure sum", "at most 7 rounds", "abababababab",
                  "22:00-06:00 (Europe/Berlin)", "STUDIES WITHOUT A GUARANTEE ARE ALLOWED"):  # fmt: skip
        assert words in out, words


@pytest.mark.parametrize(
    "options",
    [("--epsilon", "8"), ("--delta", "1e-6"), ("--yearly-epsilon", "3"), ("--epsilon", "0", "--delta", "1e-6")],
)
def test_half_a_ceiling_is_none(says, tmp_path, options):
    assert says("policy", "--site", tmp_path, *options)[0] == 1
    assert not (tmp_path / "policy.toml").exists()


def test_no_policy_is_said_to_mean_refusal(says, tmp_path):
    status, _, err = says("policy", "--site", tmp_path)
    assert status == 1
    assert "no policy, no study" in err
