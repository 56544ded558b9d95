"""Whoever knows the recipe, its seed and all the code cannot take the noise away, nor choose anybody's draws."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pydantic import BaseModel

import tacit
from tacit.__main__ import cli
from tacit.models import noise as noise_module
from tacit.models.errors import InputError
from tacit.models.recipe import Recipe, parse_recipe
from tacit.models.spending import run_budget
from tacit.privacy.codec import sha256
from tacit.privacy.randomness import Keystream, Randomness, SeededRandomness
from tacit.privacy.skellam import skellam_sampler
from tacit.server.kept_run import KeptRun
from tacit.server.registry import Registry
from tacit.server.store import open_store
from tacit.simulations.cli.simulate import simulate as command
from tacit.simulations.noise_source import RepeatableRandomness
from tacit.simulations.simulation import SEED_FILE, Simulation, simulate

RECIPE = """
name = "attacked"
seed = 77
[task]
kind = "image-classification"
[data]
source = "sklearn:digits"
[population]
clients = 8
[training]
rounds = 2
learning_rate = 0.2
[evaluation]
validation = 0.0
[privacy]
unit = "client"
noise_multiplier = 4.0
clip = 0.5
[secure_aggregation]
mode = "elided"
"""
CLIENTS, ROUNDS, SEED = 8, 2, 77


def recipe(*overrides: str) -> Recipe:
    return parse_recipe(RECIPE, overrides)


def run(tmp_path: Path, name: str, *overrides: str, **options: Any) -> Simulation:
    return simulate(
        recipe(*overrides),
        out=tmp_path / name,
        db=str(tmp_path / "t.db"),
        models=tmp_path / "models",
        key=tmp_path / "key",
        **options,
    )


def weights(finished: Simulation) -> bytes:
    return (finished.directory / "model" / "model.safetensors").read_bytes()


# Subtracting the noise ------------------------------------------------------------------------------------------------


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, float]]:
    """Every client's noise in every round, as it really was, and the variance that is claimed for it."""
    taken: list[tuple[np.ndarray, float]] = []
    honest = noise_module.skellam_share

    def share(values: np.ndarray, bound: Any, variance: float, shares: int, words: Any) -> Any:
        noised, event = honest(values, bound, variance, shares, words)
        taken.append((noised - values, variance))
        return noised, event

    monkeypatch.setattr(noise_module, "skellam_share", share)
    return taken


def derivable(run_name: str) -> Iterator[Randomness]:
    """Yield every source of draws that follows from what a recipe says."""
    yield RepeatableRandomness(SEED, run_name)
    for text in (f"reproducible-noise/{SEED}", f"rounding/{SEED}", f"shuffle/{SEED}", str(SEED), recipe().to_toml()):
        yield SeededRandomness(sha256(text.encode()))
    yield SeededRandomness(bytes.fromhex(recipe().digest))
    yield SeededRandomness(SEED.to_bytes(32, "big"))
    yield SeededRandomness(SEED.to_bytes(32, "little"))
    yield SeededRandomness(bytes(32))


def guesses(run_name: str, names: Sequence[str], variance: float, size: int) -> np.ndarray:
    """Return the noise that every derivable source gives every client in every round, shape `(guesses, size)`."""
    draws = [
        skellam_sampler(variance).draw(Keystream(source.key("secagg", run_name, number, 0, name, "noise")), size)
        for source in derivable(run_name)
        for number in range(1, ROUNDS + 1)
        for name in names
    ]
    return np.array(draws, dtype=np.float64)


def client_names(finished: Simulation) -> list[str]:
    with open_store(str(finished.directory.parent / "t.db")) as store:
        return [member.client for member in store.rounds(finished.directory.name)[-1].participation]


def test_what_follows_from_the_recipe_and_its_seed_takes_nothing_off_the_noise(
    tmp_path: Path, made: list[tuple[np.ndarray, float]]
) -> None:
    finished = run(tmp_path, "secret")
    assert len(made) == CLIENTS * ROUNDS
    variance, size = made[0][1], made[0][0].size
    guessed = guesses("secret", client_names(finished), variance, size)
    spread = np.sqrt(2.0 / size)  # of a sample variance, relative to what it estimates
    for noise, _ in made:
        assert noise.var() == pytest.approx(variance, rel=7 * spread)  # all sixteen of them but once in 10^8
        # Whatever is subtracted, what is left varies like two noises: the attempt only adds another one.
        residuals = (noise - guessed).var(axis=1)
        assert residuals.min() > 2 * variance * (1 - 6 * spread)


def test_the_same_attack_takes_all_of_it_where_noise_repeats(
    tmp_path: Path, made: list[tuple[np.ndarray, float]]
) -> None:
    finished = run(tmp_path, "public", reproducible_noise=True)
    guessed = guesses("public", client_names(finished), made[0][1], made[0][0].size)
    assert all((noise == guessed).all(axis=1).any() for noise, _ in made)


def test_no_two_clients_or_rounds_have_noise_in_common(tmp_path: Path, made: list[tuple[np.ndarray, float]]) -> None:
    # Global generators are set alike before every client's turn, as by somebody who wants runs to repeat.
    honest = noise_module.skellam_share

    def seeded(*arguments: Any) -> Any:
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        return honest(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise_module, "skellam_share", seeded)
        run(tmp_path, "first")
        run(tmp_path, "second")
    vectors = np.array([noise for noise, _ in made], dtype=np.float64)
    assert len(vectors) == 2 * CLIENTS * ROUNDS
    correlations = np.corrcoef(vectors) - np.eye(len(vectors))
    # Nearly 500 pairs: by chance one is beyond seven standard errors once in 10^8, beyond five once in 3000.
    assert np.abs(correlations).max() < 7 / np.sqrt(vectors.shape[1])


# Who chooses the draws ------------------------------------------------------------------------------------------------

CHOOSES = re.compile("seed|random|entropy|draw|reproduc|repeat|determin")


def keys_of(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys_of(field.annotation, f"{prefix}{name}.")


def test_a_recipe_has_one_seed_and_it_reaches_no_draw(tmp_path: Path) -> None:
    assert [key for key in keys_of(Recipe) if CHOOSES.search(key)] == ["seed"]
    one, two = (run(tmp_path, name, "training.cohort=6", "training.rounds=5") for name in ("one", "two"))
    assert weights(one) != weights(two)
    with open_store(str(tmp_path / "t.db")) as store:
        cohorts = [[m.client for r in store.rounds(name) for m in r.participation] for name in ("one", "two")]
    assert cohorts[0] != cohorts[1]  # by chance alike once in 28^5


def options_of(given: click.Command, path: str = "tacit") -> Iterator[tuple[str, click.Parameter]]:
    context = click.Context(given)
    for parameter in given.params:
        yield path, parameter
    if isinstance(given, click.Group):
        for name in given.list_commands(context):
            found = given.get_command(context, name)
            assert found is not None
            yield from options_of(found, f"{path} {name}")


def test_no_command_chooses_draws_but_the_one_that_says_so() -> None:
    options = list(options_of(cli))
    assert len(options) > 20
    named = {(path, parameter.name) for path, parameter in options if CHOOSES.search(str(parameter.name))}
    assert named <= {("tacit simulate", "reproducible_noise")}
    variables = [str(parameter.envvar) for _, parameter in options if parameter.envvar]
    assert not any(CHOOSES.search(variable.lower()) for variable in variables)


def test_no_code_on_the_wire_knows_a_seeded_source_and_no_environment_variable_names_one() -> None:
    root = Path(tacit.__file__).parent
    sources = [path for part in ("client", "server", "models") for path in (root / part).rglob("*.py")]
    assert len(sources) > 80
    for path in sources:
        text = path.read_text(encoding="utf-8")
        assert not re.search("SeededRandomness|RepeatableRandomness|reproducible_noise=True", text), path
    for path in [*sources, *(root / "privacy").rglob("*.py"), *(root / "simulations").rglob("*.py")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.search(r"os\.environ|getenv|envvar", line):
                assert not CHOOSES.search(line.lower()), (path, line)


# Noise that repeats ---------------------------------------------------------------------------------------------------


def test_a_run_whose_noise_repeats_promises_nothing_and_its_model_goes_nowhere(tmp_path: Path) -> None:
    one = run(tmp_path, "one", reproducible_noise=True)
    assert weights(one) == weights(run(tmp_path, "two", reproducible_noise=True))
    privacy = one.summary["privacy"]
    assert [privacy[f"epsilon{observer}"] for observer in ("", "_fellow_clients", "_outsiders")] == [None] * 3
    statement = (one.directory / "privacy.md").read_text()
    assert "The noise can be repeated and subtracted: nothing is promised" in statement
    with open_store(str(tmp_path / "t.db")) as store, pytest.raises(InputError, match="is never promoted"):
        Registry(store, tmp_path / "models").promote("attacked", "latest", "champion")


def stopped(tmp_path: Path, name: str, **options: Any) -> None:
    def stop(report: Any) -> None:
        if report.number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, name, on_round=stop, **options)


def test_a_run_whose_noise_repeats_is_not_forgotten_to_be_one_when_it_is_resumed(tmp_path: Path) -> None:
    stopped(tmp_path, "half", reproducible_noise=True)
    finished = run(tmp_path, "half", resume=True)
    assert finished.summary["privacy"]["epsilon"] is None
    assert weights(finished) == weights(run(tmp_path, "whole", reproducible_noise=True))


def test_a_run_with_secret_noise_does_not_go_on_with_noise_that_repeats(tmp_path: Path) -> None:
    stopped(tmp_path, "half")
    with pytest.raises(InputError, match="was started with secret noise"):
        run(tmp_path, "half", resume=True, reproducible_noise=True)
    assert run(tmp_path, "half", resume=True).summary["privacy"]["epsilon"] > 0


def test_the_secret_seed_is_the_owners_alone_and_in_no_file_that_stays(tmp_path: Path) -> None:
    stopped(tmp_path, "half")
    file = tmp_path / "half" / SEED_FILE
    seed = file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600 and len(set(seed)) > 8
    run(tmp_path, "half", resume=True)
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert file not in kept and len(kept) > 10
    for path in kept:
        data = path.read_bytes()
        assert seed not in data and seed.hex().encode() not in data, path


def test_a_run_that_dies_after_its_seed_was_removed_can_still_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: KeptRun, summary: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(KeptRun, "finish", die)
        run(tmp_path, "half")
    assert not (tmp_path / "half" / SEED_FILE).exists()
    finished = run(tmp_path, "half", resume=True)
    assert finished.summary["rounds_completed"] == ROUNDS == len(finished.rounds) - 1
    with open_store(str(tmp_path / "t.db")) as store:
        assert store.get_run("half").status == "finished"
    assert (tmp_path / "half" / "MANIFEST.sha256").is_file()


@pytest.mark.parametrize(("overrides", "repeats"), [(("privacy.noise_cohort=80",), False), ((), True)])
def test_a_populations_ledger_pays_for_no_noise_that_protects_nobody(
    tmp_path: Path, overrides: tuple[str, ...], repeats: bool
) -> None:
    # Such a run would enter less than its rounds really cost the population.
    ledger = ("population.ledger=wards", "population.epsilon_budget=8.0")
    with pytest.raises(InputError, match=r"^population\.ledger: cannot pay for"):
        run(tmp_path, "a", *overrides, *ledger, reproducible_noise=repeats)
    assert not (tmp_path / "a").exists()


def test_a_hypothetical_model_goes_nowhere(tmp_path: Path) -> None:
    privacy = run(tmp_path, "a", "privacy.noise_cohort=80").summary["privacy"]
    assert privacy["hypothetical"] is True
    with open_store(str(tmp_path / "t.db")) as store, pytest.raises(InputError, match="is never promoted"):
        Registry(store, tmp_path / "models").promote("attacked", "latest", "champion")


# A budget that several runs share -------------------------------------------------------------------------------------


def test_a_population_pays_once_for_all_its_runs_and_what_is_spent_ends_the_next_with_exit_code_3(
    tmp_path: Path,
) -> None:
    given = ("population.ledger=wards", "training.rounds=3")
    plan = noise_module.noise_plan(recipe(*given), 650, CLIENTS, CLIENTS)
    # Four rounds at the fewest survivors; more of them survive, so that the first run's three cost a little less.
    budget = run_budget(plan, 4).epsilon
    path = tmp_path / "recipe.toml"
    path.write_text(recipe(*given, f"population.epsilon_budget={budget}").to_toml())
    codes, trained = [], []
    rounds: list[str] = []
    for name in ("first", "second", "third"):
        options = ["--out", tmp_path / name, "--db", tmp_path / "t.db", "--models", tmp_path / "models"]
        result = CliRunner().invoke(command, [str(path), *map(str, options)], env={"TACIT_KEY": str(tmp_path / "key")})
        assert result.exit_code in (0, 3), result.output
        trained.append((tmp_path / name / "model" / "model.safetensors").is_file())
        codes.append(result.exit_code)
        rounds += [line for line in result.output.splitlines() if line.startswith(("rounds", "error"))]
    # The third has nothing left, not even for its first round: what it would release was never trained.
    assert codes == [0, 3, 3] and trained == [True, True, False]
    assert rounds[0].startswith("rounds      3 (all of them)")
    assert re.match(r"rounds +[12] \(the privacy budget is spent\)", rounds[1])
    assert re.match(r"error: the privacy budget is spent: privacy budget of wards: epsilon .* was granted", rounds[2])
    with open_store(str(tmp_path / "t.db")) as store:
        assert [record.status for record in reversed(store.list_runs())] == ["finished", "finished", "failed"]
        assert [version.run for version in store.list_versions("attacked")] == ["first", "second"]


def test_a_budget_that_is_too_large_for_any_noise_begins_nothing(tmp_path: Path) -> None:
    for budget, right in ((100, r"at most 5\d"), (0.01, "for all rounds")):
        with pytest.raises(InputError, match=rf"^population\.epsilon_budget: {budget} .*{right}"):
            run(tmp_path, "a", "population.ledger=wards", f"population.epsilon_budget={budget}")
    assert not (tmp_path / "a").exists()
    with open_store(str(tmp_path / "t.db")) as store:
        assert store.ledger_key("wards", "client") is None and store.list_runs() == []
