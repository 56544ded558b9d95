import csv
import json
import logging
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tacit.client.app import Agent
from tacit.client.holdings import SourceHoldings
from tacit.client.training import Workbench
from tacit.models.errors import InputError
from tacit.models.recipe import load_recipe, parse_recipe
from tacit.models.sections import PrivacySection, SecureAggregationSection
from tacit.server.attempts import RunFailed
from tacit.server.public_sample import open_public_sample
from tacit.server.registry import Registry
from tacit.server.rounds import Request
from tacit.server.stock import NOTHING_IS_MASKED, StockSettings, refuse_promises, train, wait_for_clients
from tacit.server.store import open_store
from tacit.server.transport import Arrival
from tacit.simulations.engine import run_in_process

ROOT = Path(__file__).parents[2]

RECIPE = """
name = "halves"

[task]
kind = "tabular-classification"

[data]
source = "csv:what-the-clients-hold"
test = "csv:{directory}/public.csv"
label = "side"

[population]
clients = 2

[training]
rounds = 3
learning_rate = 0.5
batch_size = 8

[secure_aggregation]
enabled = false

[evaluation]
validation = 0.5
"""


@dataclass
class TwoAgents:
    """Two agents in this process, each with a file of its own."""

    agents: dict[int, Agent]
    names: dict[int, str]


@dataclass
class Gathering:
    """A transport whose clients come one after another, one a second; it carries nothing.

    Time passes by itself by `haste` seconds whenever somebody looks at the clock, and else in pauses only.
    """

    expected: int
    time: float = 0.0
    haste: float = 0.0

    def clients(self) -> tuple[str, ...]:
        return tuple(str(number) for number in range(min(self.expected, int(self.time))))

    def now(self) -> float:
        self.time += self.haste
        return self.time

    def pause(self, seconds: float) -> None:
        self.time += seconds

    def send(self, requests: Sequence[Request]) -> None:
        raise AssertionError("nothing is to be sent")

    def arrivals(self, deadline: float) -> Iterable[Arrival]:
        raise AssertionError("nothing is to arrive")

    def abandon(self) -> None:
        return None


def write_halves(path: Path, rows: int, seed: int) -> None:
    """Write points whose side is that of their first coordinate."""
    points = np.random.default_rng(seed).uniform(-1, 1, (rows, 2))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["x", "y", "side"])
        writer.writerows([*point, "right" if point[0] > 0 else "left"] for point in points.tolist())


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    for seed, name in enumerate(("public", "a", "b")):
        write_halves(tmp_path / f"{name}.csv", 60, seed)
    (tmp_path / "recipe.toml").write_text(RECIPE.format(directory=tmp_path))
    before = logging.getLogger("tacit").level
    logging.getLogger("tacit").setLevel(logging.INFO)
    yield tmp_path
    logging.getLogger("tacit").setLevel(before)


def two_agents(directory: Path) -> TwoAgents:
    bench = Workbench()
    names = {2: "a", 3: "b"}
    return TwoAgents(
        {node: Agent(name, SourceHoldings(f"csv:{directory}/{name}.csv", {}), bench) for node, name in names.items()},
        names,
    )


def settings(directory: Path, **changes: Any) -> dict[str, Any]:
    paths = {"recipe": "recipe.toml", "db": "t.db", "models": "models", "out": "run"}
    return {key: str(directory / name) for key, name in paths.items()} | changes


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_run_registers_the_model_that_it_tested_and_writes_itself_down(directory: Path) -> None:
    run_in_process(two_agents(directory), lambda transport: train(transport, settings(directory)))
    summary = json.loads((directory / "run" / "summary.json").read_text())
    with open_store(str(directory / "t.db")) as store:
        assert store.get_run("run").status == "finished"
        registry = Registry(store, directory / "models")
        version = registry.resolve("halves")
        registry.verify(version)
    assert summary["model"] == {"name": "halves", "version": version.version, "sha256": version.digest}
    assert (summary["clients"], summary["rounds_completed"], summary["mode"]) == (2, 3, "stock-flower")
    assert summary["public_sample"] == {"rows": 60, "columns": 2, "classes": ["left", "right"]}
    # Half of the points are on either side: who always says the same is right for about half of them.
    assert summary["metrics"]["accuracy"] > 0.75
    assert {"recipe.toml", "environment.json", "rounds.csv", "privacy.json", "model", "MANIFEST.sha256"} <= files(
        directory / "run"
    )
    assert "divided over clients" not in (directory / "run" / "model" / "README.md").read_text()


def test_the_log_says_at_the_beginning_and_at_the_end_that_nothing_is_masked(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_in_process(two_agents(directory), lambda transport: train(transport, settings(directory)))
    assert "sees every single update" in NOTHING_IS_MASKED
    warnings = [number for number, record in enumerate(caplog.records) if record.getMessage() == NOTHING_IS_MASKED]
    assert warnings == [0, len(caplog.records) - 1]
    assert all(caplog.records[number].levelno == logging.WARNING for number in warnings)


def test_the_log_names_a_client_that_is_left_out_and_no_value_of_its_rows(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = (directory / "recipe.toml").read_text().replace("[training]", "[training]\nquorum = 0.5")
    (directory / "recipe.toml").write_text(recipe)
    (directory / "b.csv").write_text("x,y,side\n0.5,secret-value,right\n")
    run_in_process(two_agents(directory), lambda transport: train(transport, settings(directory)))
    left_out = [record.getMessage() for record in caplog.records if "client b: dropped" in record.getMessage()]
    assert len(left_out) == 4  # the preparation and three rounds
    assert all("secret-value" not in record.getMessage() for record in caplog.records)


def test_the_first_round_waits_until_enough_clients_are_there() -> None:
    gathering = Gathering(expected=3)
    assert wait_for_clients(gathering, 3, 60.0, gathering.pause) == ("0", "1", "2")
    assert gathering.time == 3.0


def test_waiting_ends_at_its_time_with_the_number_that_came() -> None:
    gathering = Gathering(expected=1)
    with pytest.raises(RunFailed, match=r"^1 of 2 clients were connected after 4.5 s$"):
        wait_for_clients(gathering, 2, 4.5, gathering.pause)
    assert gathering.time == 4.5


def test_a_run_that_waited_in_vain_is_recorded_as_failed(directory: Path) -> None:
    with pytest.raises(RunFailed, match="0 of 2 clients"):
        train(Gathering(expected=0, haste=1.0), settings(directory, wait_seconds=0.5))
    with open_store(str(directory / "t.db")) as store:
        record = store.get_run("run")
    assert (record.status, record.reason) == ("failed", "0 of 2 clients were connected after 0.5 s")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"recipe": ""}, '--run-config: names no recipe; recipe="FILE.toml"'),
        ({"recipe": "adulte"}, "RECIPE: unknown recipe 'adulte'; the nearest is 'adult'"),
        ({"min_clients": 0}, "--run-config: min_clients is not usable; input should be greater than or equal to 1"),
        ({"min_clients": "2"}, "--run-config: min_clients is not usable; input should be a valid integer"),
        ({"wait_seconds": float("inf")}, "--run-config: wait_seconds is not usable; input should be a finite number"),
        ({"colour": "red"}, "--run-config: colour is not usable; extra inputs are not permitted"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_in_one_line(
    directory: Path, changes: dict[str, Any], line: str
) -> None:
    before = files(directory)
    with pytest.raises(InputError) as caught:
        train(Gathering(expected=2), settings(directory, **changes))
    assert str(caught.value) == line
    assert files(directory) == before


@pytest.mark.parametrize(
    ("given", "instead", "text"),
    [
        ("[evaluation]", '[strategy]\nname = "fedavgmm"\n\n[evaluation]', "the nearest is 'fedavgm'"),
        ("public.csv", "nothing.csv", "there is no such file"),
        ("validation = 0.5", "validation = 0.001", "60 public rows are too few"),
        ("validation = 0.5", "validation = 0.999", "60 public rows are too few"),
    ],
)
def test_a_recipe_that_cannot_run_leaves_nothing_behind(directory: Path, given: str, instead: str, text: str) -> None:
    recipe = (directory / "recipe.toml").read_text()
    (directory / "recipe.toml").write_text(recipe.replace(given, instead))
    before = files(directory)
    with pytest.raises(InputError, match=text):
        train(Gathering(expected=2), settings(directory))
    assert files(directory) == before


def test_a_recipe_that_promises_masks_or_noise_is_refused(directory: Path) -> None:
    recipe = load_recipe(directory / "recipe.toml")
    refuse_promises(recipe)
    masked = recipe.model_copy(update={"secure_aggregation": SecureAggregationSection(enabled=True)})
    with pytest.raises(InputError, match="secure_aggregation.enabled: stock Flower cannot keep the secrets of a mask"):
        refuse_promises(masked)
    for unit in ("client", "example"):
        noised = recipe.model_copy(update={"privacy": PrivacySection(unit=unit)})
        with pytest.raises(InputError, match="privacy.unit: stock Flower keeps no ledger"):
            refuse_promises(noised)


def recipe_with(directory: Path, source: str, test: str) -> Path:
    text = RECIPE.replace("csv:what-the-clients-hold", source).replace("csv:{directory}/public.csv", test)
    (directory / "other.toml").write_text(text)
    return directory / "other.toml"


def test_the_public_sample_is_the_test_part_of_a_source_that_has_one(directory: Path) -> None:
    write_halves(directory / "held.csv", 10, seed=9)
    recipe = load_recipe(recipe_with(directory, f"csv:{directory}/a.csv?test=held.csv", ""))
    sample = open_public_sample(recipe, {})
    assert (len(sample.test), len(sample.validation or ())) == (5, 5)
    assert sample.schema.classes == ("left", "right")


@pytest.mark.parametrize(
    ("test", "line"),
    [
        ("split", "data.test: 'split' leaves the coordinator without a public sample"),
        ("per-client", "data.test: 'per-client' leaves the coordinator without a public sample"),
        ("", "data.source: has no test part, so the coordinator has no public sample"),
    ],
)
def test_rows_that_clients_might_train_on_are_never_the_public_sample(directory: Path, test: str, line: str) -> None:
    recipe = load_recipe(recipe_with(directory, f"csv:{directory}/a.csv", test))
    with pytest.raises(InputError) as caught:
        open_public_sample(recipe, {})
    assert str(caught.value).startswith(line)


def test_without_a_validation_share_all_public_rows_are_for_the_end(directory: Path) -> None:
    path = recipe_with(directory, "csv:nothing", f"csv:{directory}/public.csv")
    path.write_text(path.read_text().replace("validation = 0.5", "validation = 0.0"))
    sample = open_public_sample(load_recipe(path), {})
    assert sample.validation is None
    assert len(sample.test) == 60


def test_the_recipe_and_the_settings_of_the_guide_are_those_that_work() -> None:
    guide = (ROOT / "docs" / "guides" / "stock-flower.md").read_text()
    recipe = guide.partition('```toml\nname = "wine"')[2].partition("```")[0]
    refuse_promises(parse_recipe(f'name = "wine"{recipe}'))
    table = guide.partition("| setting |")[2].partition("\n\n")[0]
    assert [line.split("`")[1] for line in table.splitlines()[2:]] == list(StockSettings.model_fields)


def test_flower_may_change_exactly_the_settings_that_exist() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    known = {name: field.default for name, field in StockSettings.model_fields.items()}
    assert declared == known | {"recipe": ""}
