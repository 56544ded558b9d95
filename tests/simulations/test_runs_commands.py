"""`tacit runs` from the outside."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tacit.models.errors import InputError
from tacit.server.store import NewRun, Participation, RoundRecord, Store, open_store
from tacit.simulations.cli.runs import runs

Invoke = Callable[..., Result]

RECIPE = """name = "fashion"
seed = {seed}
[model]
name = "cnn"
[training]
rounds = 2
learning_rate = {rate}
"""


def add_run(store: Store, name: str, seed: int, rate: float, accuracy: float) -> None:
    recipe = RECIPE.format(seed=seed, rate=rate)
    store.create_run(NewRun(name, "fashion", "image-classification", recipe, "a" * 64, f"runs/{name}", {"cores": 2}))
    members = (Participation("a", "reported"), Participation("b", "reported"), Participation("c", "dropped", "\x1b[2J"))
    store.commit_round(name, RoundRecord(1, 0, "aborted", 0.5, {}, members[2:]))
    store.commit_round(name, RoundRecord(1, 1, "committed", 1.5, {"train_loss": 0.9}, members))
    store.commit_round(name, RoundRecord(2, 0, "committed", 1.5, {"train_loss": math.nan, "accuracy": 0.5}, members))
    summary = {"metrics": {"accuracy": accuracy, "auroc": math.nan}, "privacy": {"unit": "client", "epsilon": 8.0}}
    store.finish_run(name, summary)


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TACIT_DB", raising=False)
    with open_store("tacit.db") as store:
        add_run(store, "first", seed=7, rate=0.05, accuracy=0.75)
        add_run(store, "second", seed=7, rate=0.1, accuracy=0.8)
        store.create_run(NewRun("third", "fashion", "image-classification", "", "b" * 64, "runs/third"))
    return lambda *arguments: CliRunner().invoke(runs, arguments)


def cells(line: str) -> list[str]:
    return [part.strip() for part in line.split("  ") if part.strip()]


def test_the_list_is_newest_first_with_results(invoke: Invoke) -> None:
    lines = invoke("list").output.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "third", "second", "first"]
    assert cells(lines[2])[3:7] == ["finished", "2", "accuracy=0.8, auroc=nan", "8"]
    assert len(invoke("list", "--limit", "1").output.splitlines()) == 2
    assert [line.split()[0] for line in invoke("list", "--status", "running").output.splitlines()] == ["run", "third"]


def test_the_list_for_programs_is_json_with_null_for_nan(invoke: Invoke) -> None:
    found = json.loads(invoke("list", "--format", "json").output)
    assert [one["run"] for one in found] == ["third", "second", "first"]
    assert found[2]["metrics"] == {"accuracy": 0.75, "auroc": None}
    assert found[0]["metrics"] == {} and found[0]["finished_at"] is None


def test_a_database_without_runs_says_so(invoke: Invoke) -> None:
    open_store("empty.db").close()
    assert invoke("list", "--db", "empty.db").output == "no run is recorded yet\n"


def test_a_run_is_shown_round_by_round(invoke: Invoke) -> None:
    output = invoke("show", "first").output
    assert "\x1b" not in output
    head, table = output.split("\n\n")
    fields = dict(cells(line) for line in head.splitlines())
    assert fields["status"] == "finished" and fields["test accuracy"] == "0.75" and fields["privacy epsilon"] == "8"
    heading, *rows = map(str.split, table.splitlines())
    assert heading == [
        *("round", "attempt", "outcome", "seconds"),
        *("reported", "dropped", "late", "refused", "selected"),
        *("train_loss", "accuracy"),
    ]
    assert rows == [
        ["1", "0", "aborted", "0.5", "0", "1", "0", "0", "0"],
        ["1", "1", "committed", "1.5", "2", "1", "0", "0", "0", "0.9"],
        ["2", "0", "committed", "1.5", "2", "1", "0", "0", "0", "nan", "0.5"],
    ]


def test_a_run_for_programs_has_its_recipe_environment_and_participation(invoke: Invoke) -> None:
    found = json.loads(invoke("show", "first", "--format", "json").output)
    assert found["recipe_toml"] == RECIPE.format(seed=7, rate=0.05)
    assert found["environment"] == {"cores": 2}
    assert found["summary"]["metrics"] == {"accuracy": 0.75, "auroc": None}
    last = found["rounds"][-1]
    assert last["metrics"] == {"train_loss": None, "accuracy": 0.5}
    assert [one["outcome"] for one in last["participation"]] == ["reported", "reported", "dropped"]


def test_a_run_that_has_just_begun_can_be_shown(invoke: Invoke) -> None:
    assert "no round yet" in invoke("show", "third").output


def test_a_comparison_shows_the_settings_that_differ_and_all_results(invoke: Invoke) -> None:
    rows = [cells(line) for line in invoke("compare", "first", "second").output.splitlines()]
    assert rows[0] == ["first", "second"]
    table = {row[0]: row[1:] for row in rows[1:]}
    assert table["training.learning_rate"] == ["0.05", "0.1"]
    assert table["test accuracy"] == ["0.75", "0.8"]
    assert "seed" not in table and "model.name" not in table


def test_a_comparison_for_programs_names_each_run(invoke: Invoke) -> None:
    found = json.loads(invoke("compare", "second", "first", "third", "--format", "json").output)
    assert found["runs"] == ["second", "first", "third"]
    assert found["settings"]["training.learning_rate"] == {"second": 0.1, "first": 0.05, "third": None}
    assert found["results"]["test accuracy"] == {"second": 0.8, "first": 0.75, "third": None}
    assert found["results"]["test auroc"]["first"] is None


@pytest.mark.parametrize("names", [("first",), ("first", "first")])
def test_a_comparison_needs_two_runs(invoke: Invoke, names: tuple[str, ...]) -> None:
    result = invoke("compare", *names)
    assert result.exit_code == 2 and "two different runs" in result.output


@pytest.mark.parametrize("arguments", [("show", "nobody"), ("compare", "first", "nobody")])
def test_an_unknown_run_is_refused_in_one_line(invoke: Invoke, arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments)
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == "run 'nobody': there is no such run; `tacit runs list` names them"


def test_without_a_database_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(runs, ["list"])
    assert isinstance(result.exception, InputError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["list", "show", "compare"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = CliRunner().invoke(runs, [command, "--help"])
    assert result.exit_code == 0
    assert f"Example: tacit runs {command}" in result.output
