"""The coordinator's folder: whole or told from a whole one, and nobody else's to read."""

import stat
import tomllib

import pytest
from cryptography import x509

from protocol.errors import InputError
from protocol.invitation import Invitation
from protocol.keys import public_hex, read_identity
from server.deployment import folder as folder_module
from server.deployment.folder import CoordinatorFolder

SETTINGS = {"name": "hearts", "host": "127.0.0.1", "port": 9443, "enrolment_port": 9444, "superlink_port": 9445}


def test_folder_comes_back_as_it_was_made(tmp_path):
    made = CoordinatorFolder.create(tmp_path / "c", **SETTINGS)
    assert CoordinatorFolder.open(tmp_path / "c") == made
    assert tomllib.loads(made.settings.read_text("utf-8")) == SETTINGS
    assert public_hex(made.key()) == public_hex(read_identity(made.key_file))
    assert made.roster().members() == ()
    assert len(made.superexec_secret.read_text("utf-8")) == 64
    assert not made.flower_database.exists()


def test_everything_is_the_owners_alone(tmp_path):
    (tmp_path / "c").mkdir(mode=0o755)
    made = CoordinatorFolder.create(tmp_path / "c", **SETTINGS)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [made.root, *made.root.iterdir()]}
    folders = {"c", "studies", "logs"}
    assert {name for name, mode in modes.items() if mode == 0o700} == folders
    assert {mode for name, mode in modes.items() if name not in folders} == {0o600}


def test_servers_are_certified_for_their_hosts_alone(tmp_path):
    made = CoordinatorFolder.create(tmp_path / "c", **SETTINGS | {"host": "train.example.org"})

    def names(path):
        extensions = x509.load_pem_x509_certificate(path.read_bytes()).extensions
        found = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return [str(name.value) for name in found]

    assert names(made.server_certificate) == ["train.example.org"]
    assert names(made.link_certificate) == ["localhost", "127.0.0.1"]


def test_existing_coordinator_is_refused_and_untouched(tmp_path):
    made = CoordinatorFolder.create(tmp_path / "c", **SETTINGS)
    before = {path: path.read_bytes() for path in made.root.iterdir() if path.is_file()}
    with pytest.raises(InputError, match="already"):
        CoordinatorFolder.create(tmp_path / "c", **SETTINGS)
    assert {path: path.read_bytes() for path in before} == before


def test_interrupted_making_is_told_from_a_whole_folder(tmp_path, monkeypatch):
    def interrupted(_path):
        raise InputError("full.", remedy="x")

    monkeypatch.setattr(folder_module.Roster, "create", interrupted)
    with pytest.raises(InputError, match="full"):
        CoordinatorFolder.create(tmp_path / "c", **SETTINGS)
    monkeypatch.undo()
    for again in (CoordinatorFolder.open, lambda root: CoordinatorFolder.create(root, **SETTINGS)):
        with pytest.raises(InputError, match="interrupted"):
            again(tmp_path / "c")


def test_a_shared_folder_is_not_closed(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    (shared / "a colleagues.txt").write_text("mine")
    with pytest.raises(InputError, match="other accounts may enter"):
        CoordinatorFolder.create(shared, **SETTINGS)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    assert len(list(shared.iterdir())) == 1


def test_other_files_may_lie_there(tmp_path):
    (tmp_path / "study.toml").write_text("x", "utf-8")
    assert CoordinatorFolder.create(tmp_path, **SETTINGS).root == tmp_path


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="no coordinator's folder"):
        CoordinatorFolder.open(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Hearts"}, {"name": 3}, {"host": "a b"}, {"host": ""}, {"port": 0}, {"port": "80"}, {"port": True},
        {"port": 9444},
    ],
)  # fmt: skip
def test_odd_settings_are_refused_before_anything_is_made(tmp_path, change):
    with pytest.raises(InputError, match="setting"):
        CoordinatorFolder.create(tmp_path / "c", **SETTINGS | change)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("text", ["", "x", 'name = "hearts"', "\udcff"])
def test_damaged_settings_are_refused(tmp_path, text):
    made = CoordinatorFolder.create(tmp_path / "c", **SETTINGS)
    made.settings.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"coordinator\.toml"):
        CoordinatorFolder.open(made.root)


def test_invitation_leads_here(tmp_path):
    made = CoordinatorFolder.create(tmp_path / "c", **SETTINGS)
    secret = made.roster().invite("north")
    invitation = Invitation.from_text(made.invitation("north", secret=secret).text())
    assert (invitation.federation, invitation.site, invitation.secret) == ("hearts", "north", secret)
    assert (invitation.host, invitation.port, invitation.enrolment_port) == ("127.0.0.1", 9443, 9444)
    assert invitation.ca_fingerprint == made.authority().fingerprint
