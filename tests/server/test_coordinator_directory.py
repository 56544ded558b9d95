"""A coordinator's directory is made whole or not at all, for its owner alone, and read with suspicion."""

import ipaddress
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tacit.models.errors import InputError
from tacit.privacy.codec import sha256
from tacit.privacy.randomness import SeededRandomness
from tacit.server.coordinator_directory import CoordinatorDirectory, create, metrics_address, open_directory
from tacit.server.store import open_store
from tacit.server.tls_authority import fingerprint

NOW = datetime(2026, 3, 14, 12, tzinfo=UTC)
FILES = {
    "coordinator.toml",
    "coordinator.key",
    "authority.key",
    "ca.pem",
    "ca.key",
    "server.pem",
    "server.key",
}


@pytest.fixture
def made(tmp_path: Path) -> CoordinatorDirectory:
    return create(tmp_path / "hub", NOW, federation="hospitals", names=["hub.example", "10.0.0.7"])


def refused(path: Path, now: datetime = NOW) -> str:
    with pytest.raises(InputError) as caught:
        open_directory(path, now)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_everything_is_there_and_for_the_owner_alone(made: CoordinatorDirectory) -> None:
    assert {file.name for file in made.path.iterdir()} == FILES
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in made.path.iterdir()} == {0o600}


def test_what_was_made_can_be_opened_again(made: CoordinatorDirectory) -> None:
    again = open_directory(made.path, NOW)
    assert again.settings == made.settings and again.ca_der == made.ca_der
    assert again.coordinator.public_key == made.coordinator.public_key
    assert again.authority.public_key == made.authority.public_key


def test_figures_are_on_the_loopback_unless_somebody_says_otherwise(made: CoordinatorDirectory) -> None:
    assert made.settings.metrics == "127.0.0.1:9464"
    settings = made.path / "coordinator.toml"
    written = settings.read_text()
    settings.write_text(written.replace('metrics = "127.0.0.1:9464"\n', ""))
    assert open_directory(made.path, NOW).settings.metrics == "127.0.0.1:9464"
    settings.write_text(written.replace('"127.0.0.1:9464"', '""'))
    assert open_directory(made.path, NOW).settings.metrics == ""


@pytest.mark.parametrize(
    "text",
    ["9464", "127.0.0.1", "localhost:9464", "127.0.0.1:65536", "::1:9464", "[127.0.0.1]:1", ":1"],
)
def test_an_address_for_figures_that_cannot_be_used_is_told(text: str, made: CoordinatorDirectory) -> None:
    settings = made.path / "coordinator.toml"
    settings.write_text(settings.read_text().replace("127.0.0.1:9464", text))
    assert "'metrics': write ADDRESS:PORT, as in 127.0.0.1:9464" in refused(made.path)


def test_addresses_for_figures_are_of_either_kind() -> None:
    assert metrics_address("0.0.0.0:0") == ("0.0.0.0", 0)
    assert metrics_address("[::1]:9464") == ("::1", 9464)


def test_the_identities_are_two_and_nobody_elses(made: CoordinatorDirectory, tmp_path: Path) -> None:
    other = create(tmp_path / "other", NOW)
    keys = {one.public_key for both in (made, other) for one in (both.coordinator, both.authority)}
    assert len(keys) == 4 and made.ca_der != other.ca_der


def test_the_identities_come_from_the_randomness_that_is_passed_in(tmp_path: Path) -> None:
    first, second = (
        create(tmp_path / name, NOW, randomness=SeededRandomness(bytes(32))) for name in ("first", "second")
    )
    assert first.coordinator.public_key == second.coordinator.public_key


def test_the_server_certificate_names_the_hosts_and_the_loopback_and_was_issued_here(
    made: CoordinatorDirectory,
) -> None:
    authority = x509.load_der_x509_certificate(made.ca_der)
    server = x509.load_pem_x509_certificate(made.server_certificate.read_bytes())
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["hub.example", "localhost"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.7", "127.0.0.1", "::1"]
    limits = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert limits.critical and (limits.value.ca, limits.value.path_length) == (True, 0)
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert fingerprint((made.path / "ca.pem").read_bytes()) == sha256(made.ca_der)


def test_with_names_it_is_for_everybody_and_without_for_this_machine(
    made: CoordinatorDirectory, tmp_path: Path
) -> None:
    assert (made.settings.url, made.settings.host) == ("https://hub.example:9092", "0.0.0.0")
    alone = create(tmp_path / "alone", NOW, port=7).settings
    assert (alone.url, alone.host) == ("https://127.0.0.1:7", "127.0.0.1")
    six = create(tmp_path / "six", NOW, names=["2001:db8::1"]).settings
    assert six.url == "https://[2001:db8::1]:9092"
    assert ipaddress.ip_address("2001:db8::1").version == 6


def test_paths_are_those_of_the_directory_whatever_the_working_directory(made: CoordinatorDirectory) -> None:
    assert (made.db, made.models) == (str(made.path / "tacit.db"), made.path / "models-store")


def test_another_database_is_left_as_it_was_given(tmp_path: Path) -> None:
    url = "postgresql+psycopg://tacit:hunter2@host/db"
    made = create(tmp_path / "hub", NOW, db=url)
    assert made.db == url and "hunter2" not in repr(made)


def test_no_secret_is_shown(made: CoordinatorDirectory) -> None:
    secrets = [made.coordinator.secret_bytes(), (made.path / "ca.key").read_bytes()]
    assert not any(secret.hex() in repr(made) or str(secret) in repr(made) for secret in secrets)


def test_what_is_there_is_never_overwritten(made: CoordinatorDirectory) -> None:
    before = {file.name: file.read_bytes() for file in made.path.iterdir()}
    with pytest.raises(InputError, match="is there already"):
        create(made.path, NOW)
    assert {file.name: file.read_bytes() for file in made.path.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["two words"]}, "neither a host name nor an address"),
        ({"names": ["-x.example"]}, "neither a host name nor an address"),
        ({"names": [""]}, "neither a host name nor an address"),
        ({"federation": "two words"}, "'federation': a name has"),
        ({"port": 0}, "'url'"),
        ({"db": "postgres ql://u:hunter2@h:x/db"}, "'db': the database URL cannot be read"),
        ({"db": "what://u:hunter2@host/db"}, "no driver for what is installed"),
        ({"db": "sqlite://"}, "'db': a database in memory ends with its process"),
        ({"db": ":memory:"}, "'db': a database in memory ends with its process"),
    ],
)
def test_arguments_that_cannot_be_used_leave_nothing_behind(
    arguments: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        create(tmp_path / "hub", NOW, **arguments)  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_a_database_of_something_else_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    songs, letter = tmp_path / "songs.db", tmp_path / "letter.db"
    with closing(sqlite3.connect(songs)) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    letter.write_text("Dear all, this is no database. " * 100)
    for db in (str(songs), f"sqlite:///{songs}", "../songs.db"):
        with pytest.raises(InputError, match="songs.db: is a database of something else; name a new file"):
            create(tmp_path / "hub", NOW, db=db)
    with pytest.raises(InputError, match=r"letter.db: cannot be used as a database"):
        create(tmp_path / "hub", NOW, db=str(letter))
    assert not (tmp_path / "hub").exists()


def test_a_database_of_tacits_and_a_server_that_is_not_there_yet_are_taken(tmp_path: Path) -> None:
    open_store(str(tmp_path / "runs.db")).close()
    before = (tmp_path / "runs.db").read_bytes()
    create(tmp_path / "first", NOW, db="../runs.db")
    assert (tmp_path / "runs.db").read_bytes() == before
    create(tmp_path / "second", NOW, db="postgresql+psycopg://tacit@127.0.0.1:1/tacit")


def test_a_disk_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot be made \(No space left on device\)"):
        create(tmp_path / "hub", NOW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(FILES))
def test_each_missing_file_is_named(name: str, made: CoordinatorDirectory) -> None:
    (made.path / name).unlink()
    assert refused(made.path).startswith(f"{made.path / name}: is missing")


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_that_others_can_read_is_refused(name: str, made: CoordinatorDirectory) -> None:
    (made.path / name).chmod(0o640)
    assert "by others" in (text := refused(made.path)) or "others can read it" in text


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_link_is_refused(name: str, made: CoordinatorDirectory, tmp_path: Path) -> None:
    (made.path / name).rename(tmp_path / "elsewhere")
    (made.path / name).symlink_to(tmp_path / "elsewhere")
    assert name in refused(made.path)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_damaged_file_is_named(name: str, made: CoordinatorDirectory) -> None:
    (made.path / name).write_bytes(b"damaged \xff")
    assert str(made.path / name) in refused(made.path)


def test_nobody_is_told_to_close_a_directory_that_is_no_coordinators(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    text = refused(tmp_path)
    assert "is no coordinator's directory: it has no coordinator.toml" in text and "chmod" not in text


def test_a_directory_that_others_can_enter_is_refused(made: CoordinatorDirectory) -> None:
    made.path.chmod(0o750)
    assert "chmod 700" in refused(made.path)


def test_there_may_be_no_directory_at_all(tmp_path: Path) -> None:
    assert "`tacit coordinator init` makes one" in refused(tmp_path / "hub")


@pytest.mark.parametrize("part", ["ca", "server"])
def test_a_certificate_of_another_coordinator_is_found(part: str, made: CoordinatorDirectory, tmp_path: Path) -> None:
    other = create(tmp_path / "other", NOW)
    shutil.copy(other.path / f"{part}.pem", made.path / f"{part}.pem")
    assert f"{part}.key: is another certificate's key" in refused(made.path)
    shutil.copy(other.path / f"{part}.key", made.path / f"{part}.key")
    assert "server.pem: was issued by another authority" in refused(made.path)


@pytest.mark.parametrize("years", [-1, 11])
def test_a_clock_that_is_far_off_is_told(years: int, made: CoordinatorDirectory) -> None:
    assert "check the clock" in refused(made.path, NOW + timedelta(days=365 * years))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("port", "prot"), "'prot': .*the nearest is 'port'"),
        (lambda text: text.replace("port = 9092", 'port = "9092"'), "'port'"),
        (lambda text: text + "\nport = 1", "is no TOML"),
        (lambda text: text.replace("https", "http"), "https://HOST:PORT"),
        (lambda text: text.replace("certificate_days = 365", "certificate_days = 0"), "'certificate_days'"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_in_one_line(
    change: Callable[[str], str], message: str, made: CoordinatorDirectory
) -> None:
    file = made.path / "coordinator.toml"
    file.write_text(change(file.read_text()))
    with pytest.raises(InputError, match=message):
        open_directory(made.path, NOW)
