"""`tacit serve keys`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tacit.__main__ import run
from tacit.server.store import open_store


@pytest.fixture
def db(tmp_path: Path) -> str:
    path = str(tmp_path / "tacit.db")
    open_store(path).close()
    return path


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["serve", *arguments]) == 0
    return capsys.readouterr().out


def test_a_key_is_created_listed_and_revoked(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    created = json.loads(
        printed(
            capsys, "keys", "create", "shop", "--scope", "predict", "--scope", "read", "--db", db, "--format", "json"
        )
    )
    assert created["scopes"] == ["predict", "read"]
    with open_store(db) as store:
        key = store.check_key(created["secret"])
        assert key is not None and key.name == "shop"
        assert store.audit()[0].actor.startswith("command")
    listed = printed(capsys, "keys", "list", "--db", db)
    assert created["key_id"] in listed
    assert created["secret"] not in listed
    assert printed(capsys, "keys", "revoke", created["key_id"], "--db", db) == f"key {created['key_id']} is revoked\n"
    with open_store(db) as store:
        assert store.check_key(created["secret"]) is None


def test_the_secret_is_on_standard_output_and_the_advice_is_not(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "keys", "create", "shop", "--scope", "read", "--db", db]) == 0
    captured = capsys.readouterr()
    assert "tacit_" in captured.out
    assert "tacit_" not in captured.err and "cannot be shown again" in captured.err


def test_the_database_may_be_named_before_or_after_keys(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no API keys yet" in printed(capsys, "--db", db, "keys", "list")
    assert "no API keys yet" in printed(capsys, "--db", "elsewhere.db", "keys", "list", "--db", db)


def test_the_database_may_come_from_the_environment(
    db: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TACIT_DB", db)
    assert "no API keys yet" in printed(capsys, "keys", "list")


@pytest.mark.parametrize(
    "arguments",
    [
        ["keys", "create", "shop"],
        ["keys", "create", "shop", "--scope", "everything"],
        ["keys", "create", " ", "--scope", "read"],
        ["keys", "revoke", "0123"],
    ],
)
def test_wrong_usage_is_exit_code_2(db: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--db", db, *arguments]) == 2
    assert capsys.readouterr().out == ""


def test_a_missing_database_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "keys", "list", "--db", str(tmp_path / "none.db")]) == 2
    assert not (tmp_path / "none.db").exists()
    assert capsys.readouterr().err.count("\n") == 1
