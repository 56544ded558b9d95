"""Settings for all tests."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from .private_postgresql import URL, PrivatePostgresql, programs  # noqa: TID252 - tests are no package

# A deadline measures the machine and who else is on it, not the code.
settings.register_profile("tacit", deadline=None)
settings.load_profile("tacit")


@pytest.fixture(autouse=True)
def the_log_as_it_was() -> Iterator[None]:
    """Take back what a command that ran in this process has set up: its stream is closed with its test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def key_of_the_tests(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sign with a key of the tests' own instead of one in the working directory."""
    path = tmp_path_factory.getbasetemp() / "tests.key"
    monkeypatch.setenv("TACIT_KEY", str(path))
    return path


@pytest.fixture(scope="module")
def private_postgresql() -> Iterator[PrivatePostgresql]:
    """Lend a PostgreSQL of the module's own, which may be stopped and killed, where tests are to use one at all."""
    if URL not in os.environ or programs() is None:
        pytest.skip(f"{URL} is not set, or PostgreSQL's own programs are not here")
    database = PrivatePostgresql()
    yield database
    database.close()
