"""What bad input gets: one line that says what, where and what would be right; exit code 2; nothing half-written."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tacit.server.store import open_store

from .conftest import Outcome, Tacit, refused, statuses, table, write_csv


def nothing_was_written(home: Path, before: set[str]) -> None:
    """Check that there is no new file but a database that knows no run, and that only where the recipe could be run."""
    assert {path.name for path in home.iterdir() if not path.name.startswith("tacit.db")} == before
    assert statuses() == []


def simulate(tacit: Tacit, *settings: str) -> Outcome:
    """Simulate the tiny recipe with some settings replaced, and check that a refusal leaves nothing behind."""
    home = Path.cwd()
    before = {path.name for path in home.iterdir()}
    outcome = tacit("simulate", "tiny.toml", *(word for setting in settings for word in ("--set", setting)))
    if outcome.code == 2:
        nothing_was_written(home, before)
    return outcome


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("training.learning_rat=0.1", ("tiny.toml", "'training.learning_rat'", "nearest is 'learning_rate'")),
        ("trainin.rounds=3", ("'trainin'", "nearest is 'training'")),
        ("training.learning_rate=-0.1", ("training.learning_rate", "greater than 0")),
        ("training.rounds=many", ("training.rounds", "integer")),
        ("training.cohort=5", ("training.cohort = 5", "population.clients = 4")),
        ("training.device=gpu", ("training.device",)),
        ("strategy.name=fedavgg", ("strategy.name", "nearest is 'fedavg'")),
        ("strategy.server_momentum=0.5", ("strategy", "'server_momentum'", "fedavg")),
        ("model.name=logistc", ("model.name", "nearest is 'logistic'")),
        ("model.hidden=[3]", ("model logistic", "'hidden'")),
        ("model.name=cnn", ("model cnn", "(channels, height, width)")),
        ("model.factory=no.such.module:build", ("model.factory no.such.module:build", "ModuleNotFoundError")),
        ("model.init=tiny@champion", ("model.init", "registry:NAME@ALIAS")),
        ("task.kind=tabular-clasification", ("task.kind", "nearest is 'tabular-classification'")),
        ("task.kind=image-classification", ("data source csv:", "'image-classification'", "tabular-classification")),
        ("data.label=kinds", ("rows.csv", "label column 'kinds'", "nearest is 'kind'")),
        ("data.source=rows.csv", ("data source", "scheme:location")),
        ("data.source=cvs:rows.csv", ("data source", "'cvs'", "nearest is 'csv'")),
        ("data.source=csv:rows.csv?separator=;", ("'separator'", "nearest is 'sep'")),
        ("data.source=csv:${TACIT_NOT_SET}/rows.csv", ("TACIT_NOT_SET", "not set")),
        ("data.source=csv:missing.csv", ("missing.csv", "no such file")),
        ("data.source=idx:missing", ("data source idx:", "'tabular-classification'", "image-classification")),
        ("data.test=csv:missing.csv", ("missing.csv", "no such file")),
        ("population.clients=1000", ("population.clients", "1000 clients")),
        ("population.partition=by-file", ("population.partition", "directory of files")),
        ("nothing", ("--set", "'nothing'", "section.key=value")),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(tacit: Tacit, setting: str, words: tuple[str, ...]) -> None:
    refused(simulate(tacit, setting), *words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("secure_aggregation.enabled=true",), ("4 clients", "min_cohort is 5")),
        (("secure_aggregation.enabled=true", "population.clients=6", "secure_aggregation.dropout=0.9"), ("dropout",)),
        (
            ("secure_aggregation.enabled=true", "population.clients=6", "secure_aggregation.colluding=0.8"),
            ("colluding",),
        ),
        (("privacy.unit=client", "privacy.epsilon=8"), ("secure_aggregation.enabled",)),
        (("privacy.unit=client", "secure_aggregation.enabled=true"), ("epsilon or noise_multiplier",)),
        (("privacy.epsilon=8", "secure_aggregation.enabled=true"), ("privacy.epsilon", "privacy.unit")),
        (("privacy.unit=client", "privacy.epsilon=-1", "secure_aggregation.enabled=true"), ("privacy.epsilon",)),
        (
            ("privacy.unit=client", "privacy.epsilon=1e-5", "secure_aggregation.enabled=true", "population.clients=6"),
            ("privacy, 6 clients", "larger epsilon"),
        ),
        (
            (
                "privacy.unit=client",
                "privacy.noise_multiplier=1e9",
                "secure_aggregation.enabled=true",
                "population.clients=6",
            ),
            ("6 clients", "lower the noise"),
        ),
    ],
)
def test_a_promise_that_cannot_be_kept_is_refused_with_the_number_to_change(
    tacit: Tacit, settings: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused(simulate(tacit, *settings), *words)


def test_a_recipe_that_is_missing_or_no_toml_is_named(tacit: Tacit, home: Path) -> None:
    before = {path.name for path in home.iterdir()} | {"broken.toml"}
    (home / "broken.toml").write_text('name = "tiny"\nseed =\n')
    refused(tacit("simulate", "missing.toml"), "missing.toml", "No such file")
    refused(tacit("simulate", "broken.toml"), "broken.toml", "line 2")
    refused(tacit("simulate", "dem"), "unknown recipe 'dem'", "nearest is 'demo'")
    nothing_was_written(home, before)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("data.csv", "no rows")),
        (b"age,colour,constant,kind\n", ("data.csv", "no rows")),
        (b"\x89PNG\r\n\x1a\n\x00\xff\xfe", ("data.csv",)),
        (b"age,kind\n1,yes\n2,no,3\n", ("data.csv: line 3", "3 fields", "2 fields")),
        (b"age,age,kind\n1,2,yes\n", ("data.csv: line 1", "same name")),
        (b'age,kind\n"1,yes\n2,no\n', ("data.csv: line", "well-formed")),
        (b"\x1f\x8b\x08\x00truncated", ("data.csv", "truncated")),
    ],
    ids=["empty", "header only", "binary", "ragged", "two of a name", "open quote", "truncated gzip"],
)
def test_a_file_that_is_no_table_is_refused(tacit: Tacit, content: bytes, words: tuple[str, ...]) -> None:
    Path("data.csv").write_bytes(content)
    refused(simulate(tacit, "data.source=csv:data.csv"), *words)
    assert not Path("tacit.db").exists()


@pytest.mark.parametrize(
    ("value", "words"),
    [("forty", ("is not a number",)), ("Inf", ("infinite",)), ("-Infinity", ("infinite",)), ("1e999", ("infinite",))],
)
def test_garbage_in_a_numeric_column_is_found_by_line_and_column(
    tacit: Tacit, value: str, words: tuple[str, ...]
) -> None:
    rows = table()
    rows[17][0] = value
    write_csv("data.csv", rows)
    refused(outcome := simulate(tacit, "data.source=csv:data.csv"), "data.csv: line 19", "column 'age'", *words)
    assert f" {value}" not in outcome.err  # a value may be somebody's


def test_data_of_one_class_are_refused(tacit: Tacit) -> None:
    write_csv("data.csv", table(kinds=["yes"]))
    refused(simulate(tacit, "data.source=csv:data.csv"), "data.csv", "1 class")


def test_a_client_whose_file_is_empty_is_named(tacit: Tacit) -> None:
    write_csv("clients/a.csv", table(20))
    write_csv("clients/b.csv", [])
    by_file = ("population.partition=by-file", "population.clients=2")
    refused(simulate(tacit, "data.source=csv:clients", *by_file), "clients/b.csv", "no rows")


@pytest.mark.parametrize("damage", ["truncated", "not an archive", "pickled"])
def test_a_damaged_archive_of_arrays_is_refused(tacit: Tacit, damage: str) -> None:
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(40, 3)), rng.integers(0, 2, 40)
    if damage == "pickled":
        np.savez("data.npz", x=inputs, y=np.array([{"a": 1}] * 40, dtype=object))
    else:
        np.savez("data.npz", x=inputs, y=labels)
        content = Path("data.npz").read_bytes()
        Path("data.npz").write_bytes(content[: len(content) // 2] if damage == "truncated" else b"x" * 100)
    refused(simulate(tacit, "data.source=npz:data.npz"), "data.npz")


def test_missing_values_constant_columns_and_single_class_clients_are_no_errors(tacit: Tacit) -> None:
    rows = [table(20, kinds) for kinds in (["yes"], ["no"], ["yes", "no"])]
    for row, missing in enumerate(("", "NaN", "?")):
        rows[2][row][0] = rows[2][row][1] = missing
    for name, part in zip("abc", rows, strict=True):
        write_csv(f"clients/{name}.csv", part)
    outcome = simulate(
        tacit, "data.source=csv:clients", "population.partition=by-file", "population.clients=3", "training.rounds=5"
    )
    assert outcome.code == 0, outcome.err
    assert statuses() == ["finished"]
    assert "6 values missing" in outcome.err
    assert "accuracy 1.0000" in outcome.out  # the classes lie five standard deviations apart


def test_wrong_usage_is_one_line_too(tacit: Tacit) -> None:
    refused(tacit("simulat", "demo"), "'simulat'", "nearest is 'simulate'")
    refused(tacit("simulate"), "RECIPE", "tacit simulate --help")
    refused(tacit("simulate", "tiny.toml", "--nope"), "--nope")
    refused(tacit("serve", "--port", "70000"), "--port", "70000")
    refused(tacit("runs", "compare", "one"), "two different runs")


def test_a_file_name_cannot_forge_a_second_line_or_an_escape_sequence(tacit: Tacit) -> None:
    refused(tacit("simulate", "no\nerror: fine\x1b[2J.toml"), "No such file")
    refused(tacit("runs", "show", "a\r\x9bb"))


def test_a_run_directory_that_exists_is_left_as_it_is(tacit: Tacit, home: Path) -> None:
    (home / "mine").mkdir()
    (home / "mine" / "thesis.txt").write_text("years of work")
    refused(tacit("simulate", "tiny.toml", "--out", "mine"), "mine", "exists already", "--out")
    assert [path.name for path in (home / "mine").iterdir()] == ["thesis.txt"]
    assert statuses() == []


def test_a_run_directory_that_cannot_be_made_leaves_no_row(tacit: Tacit) -> None:
    refused(tacit("simulate", "tiny.toml", "--out", "rows.csv/run"), "rows.csv/run", "cannot be made")
    assert statuses() == []


def test_databases_that_are_none_are_refused(tacit: Tacit, home: Path) -> None:
    (home / "notes.txt").write_text("this is no database\n" * 300)
    before = {path.name for path in home.iterdir()}
    refused(tacit("simulate", "tiny.toml", "--db", "notes.txt"), "notes.txt", "database")
    refused(tacit("simulate", "tiny.toml", "--db", "missing/tacit.db"), "missing", "does not exist")
    refused(tacit("simulate", "tiny.toml", "--db", "nosuchdb://somewhere"), "nosuchdb", "driver")
    refused(tacit("runs", "list"), "tacit.db", "no database")
    refused(tacit("model", "list", "--db", "missing.db"), "missing.db", "no database")
    nothing_was_written(home, before)


def test_a_password_in_a_database_url_is_not_repeated(tacit: Tacit) -> None:
    refused(outcome := tacit("runs", "list", "--db", "nosuchdb://me:hunter2@somewhere/x"))
    assert "hunter2" not in outcome.err


def test_a_database_of_a_newer_version_is_refused_and_left_alone(tacit: Tacit, home: Path) -> None:
    open_store("tacit.db").close()
    connection = sqlite3.connect("tacit.db")
    connection.execute("UPDATE tacit_schema_version SET version_num = 'v2099_01_01_of_the_future'")
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    before = (home / "tacit.db").read_bytes()
    for command in (("simulate", "tiny.toml"), ("simulate", "tiny.toml", "--resume"), ("runs", "list"), ("serve",)):
        (home / "models-store").mkdir(exist_ok=True)
        refused(tacit(*command), "tacit.db", "newer")
    assert (home / "tacit.db").read_bytes() == before
    assert not (home / "runs").exists()


def stored_weights(home: Path) -> Path:
    (path,) = home.glob("models-store/sha256/*/*/model.safetensors")
    return path


@pytest.mark.parametrize("damage", ["truncated", "tampered"])
def test_a_damaged_model_is_refused_wherever_it_is_used(tacit: Tacit, home: Path, damage: str) -> None:
    assert tacit("simulate", "tiny.toml").code == 0
    weights = stored_weights(home)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content) if damage == "tampered" else bytes(content[:-10]))
    refused(tacit("model", "verify", "tiny"), "model.safetensors", "not the file that was registered")
    refused(tacit("model", "promote", "tiny", "1", "champion"), "model.safetensors")
    refused(tacit("model", "export", "tiny", "copy"), "model.safetensors")
    assert not (home / "copy").exists()
    runs = set((home / "runs").iterdir())
    refused(tacit("simulate", "tiny.toml", "--set", "model.init=registry:tiny@latest"), "digest")
    assert set((home / "runs").iterdir()) == runs
    assert statuses() == ["finished"]


def test_runs_and_models_that_do_not_exist_are_named(tacit: Tacit) -> None:
    assert tacit("simulate", "tiny.toml").code == 0
    refused(tacit("runs", "show", "yesterday"), "'yesterday'", "tacit runs list")
    refused(tacit("runs", "reproduce", "yesterday"), "'yesterday'", "tacit runs list")
    refused(tacit("model", "show", "tini"), "'tini'", "tacit model list")
    refused(tacit("model", "promote", "tiny", "7", "champion"), "no version 7")
    refused(tacit("simulate", "tiny.toml", "--resume"), "no unfinished run")
    refused(tacit("simulate", "tiny.toml", "--set", "model.init=registry:tiny@champion"), "'champion'")


def test_resuming_with_another_recipe_is_refused(tacit: Tacit, home: Path) -> None:
    assert tacit("simulate", "tiny.toml", "--out", "runs/one").code == 0
    refused(tacit("simulate", "tiny.toml", "--out", "runs/one", "--resume"), "run one", "finished")
    refused(tacit("simulate", "tiny.toml", "--out", "runs/two", "--resume"), "'two'")


def test_a_run_that_diverges_fails_with_one_line_and_is_marked_so(tacit: Tacit, home: Path) -> None:
    outcome = tacit("simulate", "tiny.toml", "--format", "json", "--set", "training.learning_rate=1e38")
    assert (outcome.code, outcome.out) == (1, "")
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert "round 1" in line
    assert "not finite" in line or "diverged" in line
    assert statuses() == ["failed"]


def test_the_console_script_says_the_same(home: Path) -> None:
    command = [sys.executable, "-m", "tacit", "simulate", "tiny.toml", "--set", "training.learning_rate=0"]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), timeout=300)
    refused(Outcome(done.returncode, done.stdout, done.stderr), "training.learning_rate", "greater than 0")
