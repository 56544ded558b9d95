"""The file that names the page: for its owner alone, and only while the page is served."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tacit.client.page.door import Door
from tacit.client.page.served import AlreadyServed, Served, link_to
from tacit.models.errors import InputError

KEY = bytes(range(32))


def test_a_link_can_be_made_while_the_page_is_served_and_not_after(tmp_path: Path) -> None:
    path = tmp_path / "page"
    assert link_to(path) is None
    with Served(path) as served:
        assert link_to(path) is None  # it does not say yet where it is
        served.tell("http://127.0.0.1:4242", KEY)
        link = link_to(path, lambda: 1000.0)
        assert link is not None and link.startswith("http://127.0.0.1:4242/open?with=")
        assert Door(KEY, lambda: 1000.0).enter(link.partition("=")[2]) is not None
    assert link_to(path) is None and path.read_bytes() == b""


def test_two_links_are_never_the_same(tmp_path: Path) -> None:
    with Served(tmp_path / "page") as served:
        served.tell("http://127.0.0.1:4242", KEY)
        assert link_to(tmp_path / "page", lambda: 1.0) != link_to(tmp_path / "page", lambda: 1.0)


def test_a_page_that_is_served_is_not_served_twice(tmp_path: Path) -> None:
    with Served(tmp_path / "page"), pytest.raises(AlreadyServed, match="is served already"):
        Served(tmp_path / "page")
    with Served(tmp_path / "page"):
        pass


def test_nobody_else_can_read_the_key(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Served(tmp_path / "page"):
            assert stat.S_IMODE((tmp_path / "page").stat().st_mode) == 0o600
    finally:
        os.umask(before)
    (tmp_path / "page").chmod(0o644)
    with pytest.raises(InputError, match="open to other users"):
        Served(tmp_path / "page")


def test_no_link_is_followed_to_another_file(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    (tmp_path / "page").symlink_to(tmp_path / "other")
    with pytest.raises(InputError, match="cannot be made"):
        Served(tmp_path / "page")
