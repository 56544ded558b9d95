import logging
import os
import socket
import sqlite3
import subprocess
import sys
import traceback
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, make_url, text

from tacit.models.data import open_source, sql_query
from tacit.models.data.rows import Column, Schema, Source
from tacit.models.errors import InputError

CLASSIFICATION = "tabular-classification"
REGRESSION = "tabular-regression"
POSTGRES = "TACIT_TEST_POSTGRES_URL"


def written(path: Path, columns: str, *rows: tuple) -> str:
    """Write the table `visits` and return the URL of its database."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"CREATE TABLE visits ({columns})")
        marks = ", ".join("?" * (columns.count(",") + 1))
        connection.executemany(f"INSERT INTO visits VALUES ({marks})", rows)
        connection.commit()
    return f"sqlite:///{path}"


@pytest.fixture
def visits(tmp_path) -> str:
    rows = (31, " cook", "u"), (2.5, None, "v"), (None, "x", "u"), (7, "cook", None)
    return written(tmp_path / "site.db", "age, job, y", *rows)


def opened(url: str, options: str = "table=visits", *, task: str = CLASSIFICATION, **more) -> Source:
    return open_source(f"sql:${{URL}}?{options}", task=task, label="y", environ={"URL": url}, **more)


def asked(url: str, query: str, **more) -> Source:
    return opened(url, f"query={quote(query)}", **more)


def refused(url: str, options: str = "table=visits", *, task: str = CLASSIFICATION) -> str:
    with pytest.raises(InputError) as caught:
        opened(url, options, task=task)
    error = caught.value
    assert "\n" not in str(error)
    # What a driver or a parser said may hold a row or a password, so nothing of theirs hangs on the error.
    assert error.__cause__ is None and error.__context__ is None
    assert "hunter2" not in "".join(traceback.format_exception(error))
    return str(error)


def refused_query(url: str, query: str) -> str:
    return refused(url, f"query={quote(query)}")


def kinds(source: Source) -> dict[str, str]:
    return {column.name: column.kind for column in source.schema.columns}


def contents(url: str) -> bytes:
    return Path(url.removeprefix("sqlite:///")).read_bytes()


def test_numbers_make_numeric_columns_and_text_categorical_ones(visits):
    source = opened(visits)
    assert kinds(source) == {"age": "numeric", "job": "categorical"}
    np.testing.assert_array_equal(source.train.columns["age"], [31.0, 2.5, np.nan])
    assert source.train.columns["job"].tolist() == ["cook", "", "x"]
    assert source.schema.classes == ("u", "v")
    assert source.train.labels.tolist() == [0, 1, 0]
    assert source.findings.missing == {"age": 1, "job": 1}
    assert source.findings.dropped == {"without a label": 1}


def test_a_query_chooses_and_names_the_rows(visits):
    source = asked(visits, "WITH v AS (SELECT * FROM visits WHERE y LIKE '%') SELECT age * 2 AS twice, y FROM v ;\n")
    assert kinds(source) == {"twice": "numeric"}
    assert source.train.columns["twice"].tolist()[:2] == [62.0, 5.0]
    assert asked(visits, "SELECT ':x' AS a, y FROM visits").train.columns["a"].tolist() == [":x"] * 3


def test_kinds_classes_and_dropped_columns_can_be_given(visits):
    source = opened(visits, "table=visits&categorical=age&drop=job&classes=w,v,u")
    assert kinds(source) == {"age": "categorical"}
    assert source.train.columns["age"].tolist() == ["31", "2.5", ""]
    assert source.train.labels.tolist() == [2, 1, 2]
    agreed = Schema((Column("age", "categorical"), Column("job", "categorical")), "y", ("v", "u"))
    assert opened(visits, agreed=agreed).schema == agreed


def test_a_column_with_text_and_numbers_is_text_whichever_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(sql_query, "ROWS_AT_ONCE", 2)
    rows = (1, "u"), (2, "v"), ("x", "u"), (3.5, "v"), (None, "u")
    source = opened(written(tmp_path / "a.db", "code, y", *rows))
    assert source.train.columns["code"].tolist() == ["1", "2", "x", "3.5", ""]


def test_a_regression_takes_numbers_as_targets(tmp_path):
    url = written(tmp_path / "a.db", "a, y", (1, 0.5), (2, None), (3, 2))
    assert opened(url, task=REGRESSION).train.labels.tolist() == [0.5, 2.0]


def test_names_are_quoted_and_never_part_of_the_statement(tmp_path):
    url = written(tmp_path / "a.db", '"select" INTEGER, y', (1, "u"), (2, "v"))
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute('ALTER TABLE visits RENAME TO "odd "" name"')
    assert kinds(opened(url, 'table=odd " name')) == {"select": "numeric"}
    assert len(opened(url, 'table=main.odd " name').train) == 2
    before = contents(url)
    assert "the database refused" in refused(url, "table=" + quote('x"; DROP TABLE visits; --'))
    assert contents(url) == before


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM visits",
        "SELECT 1; DELETE FROM visits",
        "SELECT 1 /* ; */ ; DELETE FROM visits",
        "/* SELECT */ DELETE FROM visits",
        "PRAGMA query_only = OFF",
        "ATTACH 'other.db' AS other",
        "selection",
        "",
        " ; ",
    ],
)
def test_what_is_not_one_select_never_reaches_the_database(visits, query):
    before = contents(visits)
    message = refused(visits, f"query={quote(query)}") if query else refused(visits, "query=%20")
    assert message == "option query: is not one SELECT; SELECT or WITH first, and no semicolon"
    assert contents(visits) == before


@pytest.mark.parametrize(
    "query",
    [
        "WITH x AS (SELECT 1) DELETE FROM visits",
        "WITH x AS (SELECT 1) INSERT INTO visits SELECT 1, 2, 3",
        "SELECT load_extension('other')",
        "SELECT * FROM pragma_table_info('visits')",
        "SELECT nothing FROM visits",
    ],
)
def test_the_database_itself_refuses_what_is_no_reading(visits, query):
    before = contents(visits)
    assert "data source sql: the database refused the query (SQLITE_" in refused_query(visits, query)
    assert contents(visits) == before


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM visits",
        "CREATE TABLE other (a)",
        "CREATE TEMP TABLE other (a)",
        "ATTACH 'other.db' AS other",
        "PRAGMA query_only = OFF",
        "PRAGMA journal_mode = WAL",
        "VACUUM",
        "VACUUM INTO 'copy.db'",
    ],
)
def test_a_statement_that_came_past_the_check_could_still_not_write(visits, statement, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, files = contents(visits), sorted(tmp_path.iterdir())
    with closing(sql_query._sqlite_opener(make_url(visits))()) as connection:
        with pytest.raises(sqlite3.DatabaseError):
            connection.execute(statement)
    assert (contents(visits), sorted(tmp_path.iterdir())) == (before, files)


def test_a_database_that_another_program_writes_to_is_read_as_it_was_committed(visits):
    with closing(sqlite3.connect(visits.removeprefix("sqlite:///"), isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("INSERT INTO visits VALUES (1, 'baker', 'v')")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM visits")
        before = contents(visits)
        assert opened(visits).findings.classes == {"u": 2, "v": 2}
        assert contents(visits) == before


def test_an_error_of_the_database_carries_no_row(visits):
    message = refused_query(visits, "SELECT json_extract(job, '$.a') AS a, y FROM visits")
    assert "cook" not in message and "the database refused" in message
    with closing(sqlite3.connect(visits.removeprefix("sqlite:///"))) as connection:
        connection.execute("UPDATE visits SET job = CAST(x'ff736563726574' AS TEXT)")
        connection.commit()
    message = refused(visits)
    assert "secret" not in message and "the database refused" in message


def test_the_most_detailed_log_holds_neither_a_row_nor_a_password(visits, caplog):
    with caplog.at_level(logging.DEBUG):
        assert len(opened(visits).train) == 3
        with closing(socket.create_server(("127.0.0.1", 0))) as silent:
            port = silent.getsockname()[1]
        message = refused(f"postgresql+psycopg://site:hunter2@127.0.0.1:{port}/db")
        assert "the database refused the connection" in message or "driver is not installed" in message
    assert "cook" not in caplog.text and "hunter2" not in caplog.text


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense-hunter2", "the URL cannot be read; for example sqlite:///visits.db"),
        ("postgresql://u:hunter2@host:port/db", "the URL cannot be read"),
        ("mysql+pymysql://u:hunter2@host/db", "knows no way to make this database read-only; a URL of sqlite+pysqlite"),
        ("sqlite+aiosqlite:///a.db", "knows no way to make this database read-only"),
        ("oracle://u:hunter2@host/db", "knows no way to make this database read-only"),
        ("sqlite://", "there is no such file"),
        ("sqlite:///:memory:", "there is no such file"),
        ("sqlite:///absent.db", "there is no such file"),
        ("sqlite:///file:absent.db?mode=rwc&uri=true", "the URL holds more than a path"),
        ("sqlite://u:hunter2@host/a.db", "the URL holds more than a path"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_line_that_repeats_none_of_it(url, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refused(url)
    assert said.startswith(f"data source sql: {message}") and "host" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("table=visits&query=SELECT 1", "needs a query or a table; one of query= and table="),
        ("drop=age", "needs a query or a table"),
        ("table=absent", "the database refused the query (SQLITE_ERROR)"),
        ("table=visits&test=visits", "unknown option 'test'"),
        ("query=SELECT * FROM visits WHERE 0", "the query returns no rows"),
        ("query=SELECT age, age, y FROM visits", "two columns have the same name; names that differ, given with AS"),
        ("query=SELECT age FROM visits", "unknown label column 'y'"),
        ("query=SELECT y FROM visits", "there is no feature column"),
        (
            "query=SELECT x'00' AS photo, y FROM visits",
            "column 'photo' is of type bytes; numbers, text or truth values",
        ),
        ("query=SELECT 9e999 AS a, y FROM visits", "row 0: the value in column 'a' is infinite"),
    ],
)
def test_bad_input_is_one_line_that_says_what_would_be_right(visits, options, message):
    assert message in refused(visits, options)


def test_a_column_that_cannot_be_read_can_be_dropped(visits):
    source = opened(visits, "drop=photo&query=SELECT x'00' AS photo, age, y FROM visits")
    assert kinds(source) == {"age": "numeric"}


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "a.db").write_bytes(b"not a database " * 100)
    assert "the database refused the query (SQLITE_NOTADB)" in refused(f"sqlite:///{tmp_path}/a.db")


def test_a_query_serves_no_image_task(visits):
    assert "has no data for the task 'image-classification'" in refused(visits, task="image-classification")


def test_without_sqlalchemy_the_line_says_what_to_install(visits):
    program = (
        "import sys; sys.modules['sqlalchemy'] = None\n"
        "from tacit.models.data import open_source\n"
        f"open_source('sql:{visits}?table=visits', task='{CLASSIFICATION}', label='y', environ={{}})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith("data source sql: needs SQLAlchemy; install tacit[agent]")


VALUES = st.none() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@given(st.lists(st.tuples(VALUES, TEXTS, st.sampled_from("uv")), min_size=1, max_size=30))
def test_what_is_written_is_read_back(rows):
    rows = [*rows, (1, "text", "u"), (2, "text", "v")]
    with TemporaryDirectory() as folder:
        source = opened(written(Path(folder) / "a.db", "number, words TEXT, y", *rows))
    numbers, words, labels = zip(*rows, strict=True)
    np.testing.assert_array_equal(source.train.columns["number"], np.array(numbers, dtype=np.float64))
    assert source.train.columns["words"].tolist() == [(word or "").strip() for word in words]
    assert [source.schema.classes[label] for label in source.train.labels] == list(labels)


@pytest.fixture
def postgres() -> Iterator[str]:
    """A database with a table `visits` and a sequence `counter` in a schema of its own."""
    if POSTGRES not in os.environ:
        pytest.skip(f"{POSTGRES} is not set")
    url, schema = make_url(os.environ[POSTGRES]), f"tacit_{uuid.uuid4().hex}"
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in (
            f"CREATE SCHEMA {schema}",
            f"SET search_path TO {schema}",
            "CREATE SEQUENCE counter",
            "CREATE TABLE visits (age int, weight numeric, job text, old bool, seen date, y text)",
            "INSERT INTO visits VALUES (31, 60.5, ' cook', true, now(), 'u'), (NULL, 'NaN', '50%', false, NULL, 'v'),"
            " (7, NULL, NULL, NULL, NULL, 'v')",
        ):
            connection.execute(text(statement))
    yield url.update_query_dict({"options": f"-csearch_path={schema}"}).render_as_string(hide_password=False)
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()


def test_postgresql_gives_its_rows_with_their_types(postgres):
    source = opened(postgres, "table=visits&drop=seen")
    assert kinds(source) == {"age": "numeric", "weight": "numeric", "job": "categorical", "old": "categorical"}
    np.testing.assert_array_equal(source.train.columns["weight"], [60.5, np.nan, np.nan])
    assert source.train.columns["job"].tolist() == ["cook", "50%", ""]
    assert source.train.columns["old"].tolist() == ["true", "false", ""]
    assert "column 'seen' is of type date" in refused(postgres)
    assert asked(postgres, "SELECT ':x' AS a, y FROM visits WHERE job LIKE '50%' OR y = 'u'").findings.rows == 2


@pytest.mark.parametrize(
    ("query", "state"),
    [
        ("WITH gone AS (DELETE FROM visits RETURNING *) SELECT * FROM gone", "0A000"),
        ("SELECT nextval('counter') AS a, y FROM visits", "25006"),
        ("SELECT set_config('transaction_read_only', 'off', false) AS a, y FROM visits", "25001"),
        ("SELECT * INTO copy FROM visits", "42601"),
        ("SELECT job::int AS a, y FROM visits", "22P02"),
    ],
)
def test_postgresql_refuses_to_write_and_its_errors_carry_no_row(postgres, query, state):
    message = refused_query(postgres, query)
    assert f"the database refused the query ({state})" in message and "cook" not in message
    engine = create_engine(postgres)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM visits")).scalar_one() == 3
        assert connection.execute(text("SELECT is_called FROM counter")).scalar_one() is False
        assert connection.execute(text("SELECT to_regclass('copy')")).scalar_one() is None
    engine.dispose()
