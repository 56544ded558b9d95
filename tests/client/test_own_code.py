"""Own code is approved by the hash of what importing it would run, and looking for it runs nothing."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from tacit.client.own_code import code_digest

BOMB = "raise SystemExit('imported')\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def sha256(*texts: str) -> str:
    return hashlib.sha256("".join(texts).encode()).hexdigest()


def test_a_module_has_the_hash_of_its_file_and_is_not_run(place: Path) -> None:
    (place / "own_net.py").write_text(BOMB)
    assert code_digest("own_net:build") == sha256(BOMB)
    assert "own_net" not in sys.modules


def test_a_module_in_packages_has_the_hash_of_all_that_importing_it_runs(place: Path) -> None:
    (place / "outer_own" / "inner").mkdir(parents=True)
    for name, text in (("__init__.py", BOMB), ("inner/__init__.py", "# inner\n"), ("inner/net.py", "# net\n")):
        (place / "outer_own" / name).write_text(text)
    assert code_digest("outer_own.inner.net:build") == sha256(BOMB, "# inner\n", "# net\n")
    assert code_digest("outer_own.inner:build") == sha256(BOMB, "# inner\n")
    (place / "outer_own" / "__init__.py").write_text("# other\n")
    assert code_digest("outer_own.inner.net:build") == sha256("# other\n", "# inner\n", "# net\n")
    assert "outer_own" not in sys.modules


def test_a_directory_without_code_of_its_own_adds_nothing(place: Path) -> None:
    (place / "bare_own").mkdir()
    (place / "bare_own" / "net.py").write_text(BOMB)
    assert code_digest("bare_own.net:build") == sha256(BOMB)


def test_code_that_changed_has_another_hash(place: Path) -> None:
    (place / "own_net.py").write_text("one = 1\n")
    before = code_digest("own_net:build")
    (place / "own_net.py").write_text("one = 2\n")
    assert code_digest("own_net:build") not in (before, None)


@pytest.mark.parametrize(
    "factory", ["", ":", "no_such_module_of_anybody:f", "math.nothing:f", "..:f", "bare_own:f", "sys:exit"]
)
def test_what_is_no_plain_file_has_no_hash_and_so_cannot_be_approved(place: Path, factory: str) -> None:
    (place / "bare_own").mkdir()
    assert code_digest(factory) is None
