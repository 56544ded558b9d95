"""A new authority takes the old one's place whole, also if the coordinator dies at any step of the switch."""

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tacit.models.errors import InputError
from tacit.server.coordinator_directory import CoordinatorDirectory, create, open_directory
from tacit.server.tls_authority import der
from tacit.server.tls_rotation import FILES, announce, announced, switch

NOW = datetime(2026, 3, 14, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=3000)


@pytest.fixture
def made(tmp_path: Path) -> CoordinatorDirectory:
    return create(tmp_path / "hub", NOW, names=["hub.example", "10.0.0.7"])


def contents(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in FILES}


def test_an_authority_that_is_announced_changes_nothing_yet(made: CoordinatorDirectory) -> None:
    before = contents(made.path)
    coming = announce(made.path, "hospitals", LATER)
    assert contents(made.path) == before and announced(made.path) == coming
    assert open_directory(made.path, LATER).authorities() == (made.ca_der, coming)
    assert {stat.S_IMODE(file.stat().st_mode) for file in (made.path / "next").iterdir()} == {0o600}


def test_after_the_switch_everything_is_the_new_ones_with_the_same_names(made: CoordinatorDirectory) -> None:
    coming = announce(made.path, "hospitals", LATER)
    old = x509.load_pem_x509_certificate(made.server_certificate.read_bytes())
    switch(made.path)
    opened = open_directory(made.path, LATER + timedelta(days=3000))
    assert opened.ca_der == coming and opened.authorities() == (coming,)
    new = x509.load_pem_x509_certificate(opened.server_certificate.read_bytes())
    kind = x509.SubjectAlternativeName
    assert new.extensions.get_extension_for_class(kind).value == old.extensions.get_extension_for_class(kind).value
    assert not (made.path / "next").exists()
    assert made.authorities() == (made.ca_der, coming), "a process that serves with the old one still names it"


def test_there_is_one_new_authority_at_a_time_and_nothing_to_switch_to_without(made: CoordinatorDirectory) -> None:
    with pytest.raises(InputError, match="no new authority is announced"):
        switch(made.path)
    announce(made.path, "hospitals", NOW)
    with pytest.raises(InputError, match="announced already"):
        announce(made.path, "hospitals", NOW)


@pytest.mark.parametrize("steps", range(len(FILES) + 1))
def test_a_switch_that_was_cut_off_is_completed_when_the_directory_is_opened(
    steps: int, made: CoordinatorDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    coming = announce(made.path, "hospitals", NOW)
    moved: list[str] = []
    replace = os.replace

    def dying(source: str | Path, target: str | Path) -> None:
        if Path(target).name in FILES:
            if len(moved) == steps:
                raise KeyboardInterrupt
            moved.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", dying)
    try:
        switch(made.path)
    except KeyboardInterrupt:
        pass
    assert len(moved) == steps
    monkeypatch.undo()
    opened = open_directory(made.path, NOW)
    assert opened.ca_der == coming == der((made.path / "ca.pem").read_bytes())
    assert not (made.path / "next").exists()


def test_an_empty_directory_that_a_crash_left_is_in_nobodys_way(made: CoordinatorDirectory) -> None:
    (made.path / "next").mkdir()
    assert open_directory(made.path, NOW).authorities() == (made.ca_der,)
    assert announce(made.path, "hospitals", NOW) == announced(made.path)
