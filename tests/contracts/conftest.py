"""The databases that every contract of the store is run against, each empty and a test's own."""

import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from tacit.server.store import Store, open_store

POSTGRES = "TACIT_TEST_POSTGRES_URL"


@pytest.fixture
def postgres_url() -> Iterator[str]:
    if POSTGRES not in os.environ:
        pytest.skip(f"{POSTGRES} is not set")
    url, schema = make_url(os.environ[POSTGRES]), f"tacit_{uuid.uuid4().hex}"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    yield url.update_query_dict({"options": f"-csearch_path={schema}"}).render_as_string(hide_password=False)
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()


@pytest.fixture(params=["sqlite file", "sqlite memory", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "sqlite file":
            return f"sqlite:///{tmp_path / 'tacit.db'}"
        case "sqlite memory":
            return "sqlite://"
    return request.getfixturevalue("postgres_url")


@pytest.fixture(params=["sqlite file", "postgresql"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that several processes can open."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path / 'tacit.db'}"


START = datetime(2026, 3, 14, 9, 26, 53, 589793, tzinfo=UTC)


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """A store whose clock ticks once for every transaction."""
    seconds = count()
    with open_store(database_url, now=lambda: START + timedelta(seconds=next(seconds))) as opened:
        yield opened
