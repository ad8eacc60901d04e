"""What the node needs of a site's folder."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from client.node.connection import Connection
from protocol.errors import InputError


@pytest.fixture
def folder(authority, tmp_path):
    return authority.site(tmp_path / "site", port=4711)


def test_reads_what_enrolment_left(folder):
    connection = Connection.open(folder)
    assert connection.base_url == "https://127.0.0.1:4711"
    assert connection.site == "north"
    assert connection.context.check_hostname
    assert connection.node_key.curve.name == "secp384r1"
    assert timedelta(days=180) < connection.left() < timedelta(days=184)


def test_address_of_the_sixth_version(folder):
    told = json.loads((folder / "coordinator.json").read_text())
    (folder / "coordinator.json").write_text(json.dumps(told | {"host": "::1"}))
    assert Connection.open(folder).base_url == "https://[::1]:4711"


@pytest.mark.parametrize("name", ["coordinator.json", "ca.pem", "tls.pem", "tls.key", "node.key"])
@pytest.mark.parametrize("fate", ["missing", "damaged"])
def test_says_what_is_wrong_and_what_to_do(folder, name, fate):
    (folder / name).unlink() if fate == "missing" else (folder / name).write_text("{}")
    with pytest.raises(InputError) as error:
        Connection.open(folder)
    assert str(folder) in error.value.problem
    assert error.value.remedy


def test_expired_certificate(folder, authority):
    authority.issue(folder / "tls.pem", folder / "tls.key", expires=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(InputError, match=r"expired .*enroll"):
        Connection.open(folder)
