"""Client-level privacy in whole simulated federations: what leaves, what it costs, and what ends it."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant
from safetensors.numpy import load_file

from tacit.models.noise import NoisePlan, noise_plan
from tacit.models.recipe import Recipe, parse_recipe
from tacit.privacy.randomness import Keystream, SeededRandomness
from tacit.server.attempts import RunFailed
from tacit.server.masking import Masking
from tacit.simulations.cli.simulate import simulate as command
from tacit.simulations.simulation import Simulation, simulate

RECIPE = """
name = "private"
seed = 3
[task]
kind = "image-classification"
[data]
source = "sklearn:digits"
[population]
clients = 12
[training]
rounds = 3
learning_rate = 0.2
[privacy]
unit = "client"
epsilon = 8.0
clip = 0.5
"""


def recipe(*overrides: str) -> Recipe:
    return parse_recipe(RECIPE, ["secure_aggregation.mode=elided", *overrides])


def run(tmp_path: Path, name: str, given: Recipe) -> Simulation:
    return simulate(given, out=tmp_path / name, db=str(tmp_path / "t.db"), models=tmp_path / "models")


def test_the_stated_epsilon_is_below_the_target_and_not_far_from_a_gaussian_of_the_same_noise(tmp_path: Path) -> None:
    privacy = run(tmp_path, "a", recipe()).summary["privacy"]
    assert 0 < privacy["epsilon"] <= 8.0
    assert privacy["epsilon"] <= privacy["epsilon_fellow_clients"]
    assert (privacy["unit"], privacy["delta"], privacy["hypothetical"]) == ("client", 1e-5, False)
    # Everybody survived: 12 - c shares counted of the (U_min - c) that the noise multiplier is stated for.
    shares = (12 - privacy["colluders"]) / (privacy["min_survivors"] - privacy["colluders"])
    gaussian = RdpAccountant(list(range(2, 257)))
    gaussian.compose(dp_event.GaussianDpEvent(privacy["noise_multiplier"] * math.sqrt(shares)), 3)
    assert privacy["epsilon"] == pytest.approx(gaussian.get_epsilon(1e-5), rel=0.05)


def test_masks_change_nothing_about_the_noised_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tacit.simulations.simulation.secrets.token_bytes", lambda count: bytes(range(count)))
    # The run's name is part of every draw's label, so both runs have one.
    models = []
    for mode in ("real", "elided"):
        given = recipe(f"secure_aggregation.mode={mode}")
        (tmp_path / mode).mkdir()
        models.append(load_file(run(tmp_path / mode, "same", given).directory / "model" / "model.safetensors"))
    assert models[0].keys() == models[1].keys()
    for name in models[0]:
        np.testing.assert_array_equal(models[0][name], models[1][name])


def test_an_image_federation_asks_nobody_for_statistics(tmp_path: Path) -> None:
    (preparation, *_) = run(tmp_path, "a", recipe()).rounds
    assert (preparation["round"], preparation["selected"]) == (0, 0)


def test_no_loss_and_no_dataset_size_leaves_a_client(tmp_path: Path) -> None:
    finished = run(tmp_path, "a", recipe())
    assert not any("train_loss" in one for one in finished.rounds)


@pytest.mark.parametrize("weaker", [0.7, 0.0])
def test_members_answer_no_offer_with_less_noise_than_the_recipe_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weaker: float
) -> None:
    honest = Masking.offer

    def lowered(self: Masking, *arguments: object, **named: object) -> object:
        offer = honest(self, *arguments, **named)  # type: ignore[arg-type]
        return replace(offer, noise_variance=offer.noise_variance * weaker)

    monkeypatch.setattr(Masking, "offer", lowered)
    with pytest.raises(RunFailed, match="the noise is not what the plan promises"):
        run(tmp_path, "a", recipe())


def test_the_sum_carries_the_variance_that_is_accounted() -> None:
    plan = noise_plan(recipe(), parameters=4096, cohort=12)
    randomness = SeededRandomness(bytes(32))
    seed = bytes(32)

    def contribution(client: int) -> np.ndarray:
        words = (Keystream(randomness.key("test", client, purpose)) for purpose in ("rounding", "noise"))
        return plan.integers(np.zeros(4096, np.float32), seed, *words)

    total = sum((contribution(client) for client in range(12)), np.zeros(4096, np.int64))
    # 4096 coordinates: the sample variance is within five standard errors, sqrt(2 / 4096) each.
    assert total.var() == pytest.approx(12 * plan.share_variance, rel=5 * math.sqrt(2 / 4096))


def test_an_update_longer_than_the_clip_moves_the_sum_by_no_more_than_the_bound() -> None:
    plan: NoisePlan = noise_plan(recipe(), parameters=650, cohort=12)
    huge = np.full(650, 1e3, np.float32)
    words = [SeededRandomness(bytes(32)).key("x", purpose) for purpose in ("rounding", "noise")]
    with_it = plan.integers(huge, bytes(32), *map(Keystream, words))
    without = plan.integers(np.zeros(650, np.float32), bytes(32), *map(Keystream, words))
    moved = (with_it - without).astype(np.float64)
    # The noise is the same in both; what is left is one rounded contribution (rounding of zeros gives zeros).
    assert np.sum(moved**2) <= plan.bound.l2_squared


def test_two_runs_of_one_recipe_have_different_noise(tmp_path: Path) -> None:
    first, second = (
        load_file(run(tmp_path, name, recipe()).directory / "model" / "model.safetensors") for name in ("a", "b")
    )
    assert any(not np.array_equal(first[name], second[name]) for name in first)


def test_a_spent_budget_ends_the_run_with_its_last_model_and_exit_code_3(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe("privacy.max_participations=1", "training.rounds=5").to_toml())
    options = ["--out", tmp_path / "run", "--db", tmp_path / "t.db", "--models", tmp_path / "models"]
    result = CliRunner().invoke(command, [str(path), *map(str, options)])
    assert result.exit_code == 3, result.output
    # One participation and a tenth to spare, rounded up: two rounds.
    assert "rounds      2 (the privacy budget is spent)" in result.output
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
