"""A federation is what its recipe and its data say together."""

from pathlib import Path

import numpy as np
import pytest

from tacit.models.errors import InputError
from tacit.models.recipe import Recipe, parse_recipe
from tacit.simulations.engine import FIRST_NODE
from tacit.simulations.federation import Federation, build_federation

RECIPE = """
name = "r"
seed = {seed}
[task]
kind = "tabular-classification"
[data]
source = "csv:{path}"
label = "y"
test = "{test}"
[population]
{population}
[training]
{training}
[evaluation]
validation = {validation}
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "people.csv"
    lines = [f"{index},{'xyz'[index % 3]},{'no yes'.split()[index * 7 % 10 > 4]}" for index in range(90)]
    path.write_text("age,job,y\n" + "\n".join(lines) + "\n")
    return path


def recipe(path: Path, **changes: object) -> Recipe:
    values = {"seed": 1, "test": "split", "population": "clients = 6", "training": "", "validation": 0.1} | changes
    return parse_recipe(RECIPE.format(path=path, **values))


def rows_of(federation: Federation) -> list[list[float]]:
    """Return for each agent the ages of its training rows, which name the rows."""
    holdings = [agent._holdings for agent in federation.agents.values()]
    return [held.training(None).columns["age"].tolist() for held in holdings]  # type: ignore[arg-type]


def held_out(federation: Federation) -> list[float]:
    parts = [part.columns["age"].tolist() for part in (federation.validation, federation.test) if part is not None]
    return [age for part in parts for age in part]


def test_every_row_is_with_one_client_or_held_out(table: Path) -> None:
    federation = build_federation(recipe(table))
    everywhere = [age for rows in rows_of(federation) for age in rows] + held_out(federation)
    assert sorted(everywhere) == list(range(90))
    assert federation.validation is not None and federation.test is not None
    assert (len(federation.test), len(federation.validation)) == (18, 7)


def test_with_tests_at_the_clients_no_client_trains_on_its_test_rows(table: Path) -> None:
    federation = build_federation(recipe(table, test="per-client"))
    assert federation.test is None
    tests = [agent._holdings.test(None) for agent in federation.agents.values()]  # type: ignore[arg-type]
    ages = [age for rows in tests if rows is not None for age in rows.columns["age"].tolist()]
    everywhere = [age for rows in rows_of(federation) for age in rows] + ages + held_out(federation)
    assert sorted(everywhere) == list(range(90))


def test_the_seed_decides_who_holds_what_and_nothing_else_does(table: Path) -> None:
    assert rows_of(build_federation(recipe(table))) == rows_of(build_federation(recipe(table)))
    assert rows_of(build_federation(recipe(table))) != rows_of(build_federation(recipe(table, seed=2)))
    np.random.seed(3)
    assert rows_of(build_federation(recipe(table))) == rows_of(
        build_federation(recipe(table, training="learning_rate = 0.5"))
    )


def test_agents_and_names_go_by_node(table: Path) -> None:
    federation = build_federation(recipe(table))
    assert list(federation.agents) == list(federation.names) == list(range(FIRST_NODE, FIRST_NODE + 6))
    assert [agent.client for agent in federation.agents.values()] == list(federation.names.values())


def test_the_summary_counts_rows_and_classes_of_each_client(table: Path) -> None:
    summary = build_federation(recipe(table)).partition_summary
    assert [sum(counts) for counts in summary["counts"]] == summary["rows"]
    assert sum(summary["rows"]) == 90 - 18 - 7 and sum(summary["test_rows"]) == 18


def test_a_cohort_larger_than_the_clients_that_the_data_has_is_refused(table: Path) -> None:
    asked = recipe(table, population='partition = "by-column"\ncolumn = "job"', training="cohort = 4")
    with pytest.raises(InputError, match="training.cohort: is 4, the data has 3 clients; ask for fewer"):
        build_federation(asked)


def test_everybody_may_be_in_the_cohort(table: Path) -> None:
    asked = recipe(table, population='partition = "by-column"\ncolumn = "job"', training="cohort = 3")
    assert sorted(build_federation(asked).names.values()) == ["x", "y", "z"]
