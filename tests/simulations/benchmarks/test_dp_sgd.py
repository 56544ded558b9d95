"""That the benchmark of DP-SGD times trainings that train, and pairs what it says it pairs."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

pytest.importorskip("opacus")

from tacit.models.zoo import initial_model  # noqa: E402
from tacit.simulations.benchmarks import dp_sgd, masked_round, skellam  # noqa: E402
from tacit.simulations.benchmarks.figure import Figure  # noqa: E402

TRAININGS = {
    "private": dp_sgd.private_steps("direct"),
    "default": dp_sgd.default_steps,
    "channels last": dp_sgd.channels_last_steps,
    "hooks": dp_sgd.opacus_steps,
}


def records(count: int = 256) -> tuple[Tensor, Tensor]:
    images = torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    return images, (images[:, 0, :14].mean((1, 2)) > images[:, 0, 14:].mean((1, 2))).long()


def network() -> nn.Module:
    return initial_model(dp_sgd.ARCHITECTURE, seed=0)


def change(name: str, steps: int) -> Tensor:
    trained, start = network(), network()
    TRAININGS[name](trained, *records(), steps)
    pairs = zip(trained.parameters(), start.parameters(), strict=True)
    return torch.cat([(one - other).detach().flatten() for one, other in pairs])


def test_both_bare_loops_take_the_same_steps_and_learn() -> None:
    torch.testing.assert_close(change("default", 3), change("channels last", 3), atol=1e-5, rtol=1e-3)
    trained = network()
    TRAININGS["default"](trained, *records(), 20)
    images, classes = records()
    assert F.cross_entropy(trained(images), classes) < F.cross_entropy(network()(images), classes)


@pytest.mark.parametrize("name", ["private", "hooks"])
def test_private_steps_add_the_noise_that_they_account_for(name: str) -> None:
    # Two trainings share the clipped gradients, as good as, and differ by their noise: multiplier 1, clip 1.
    steps = 4
    between = change(name, steps) - change(name, steps)
    noise = dp_sgd.LEARNING_RATE / dp_sgd.BATCH * math.sqrt(2 * steps)
    assert float(between.std()) == pytest.approx(noise, rel=0.1)


def test_times_are_of_every_turn_but_the_first_and_leave_the_threads_alone() -> None:
    asked: list[int] = []

    def training(module: nn.Module, images: Tensor, classes: Tensor, steps: int) -> None:
        asked.append(steps)
        assert torch.get_num_threads() == 1 and images.shape == (dp_sgd.RECORDS, 1, 28, 28)

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = dp_sgd.compare({"one": training, "other": training}, steps=7, repetitions=3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert asked == [7] * 8 and {name: len(times) for name, times in found.items()} == {"one": 3, "other": 3}


def test_the_ratio_is_to_the_faster_plain_step_and_competitors_are_left_out_when_quick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = {"private": [6.0, 9.0], "channels last": [5.0, 6.0], "default": [4.0, 6.0], "hooks": [12.0, 12.0]}

    def compared(trainings: dict[str, dp_sgd.Steps], steps: int, repetitions: int) -> dict[str, list[float]]:
        return {name: times[name] for name in trainings}

    monkeypatch.setattr(dp_sgd, "compare", compared)
    monkeypatch.setattr(dp_sgd, "chosen_mode", lambda: "direct")
    monkeypatch.setattr(masked_round, "noised_over_masked", lambda **given: Figure("round", 1.5, "ratio"))
    monkeypatch.setattr(skellam, "figures", lambda quick: [Figure("skellam", 5.0, "ns")])
    quick = {figure.name: figure for figure in dp_sgd.figures(quick=True)}
    assert quick["step_ratio_dp_to_fastest_plain"].value == 1.5  # to the default step, the median of two pairs
    assert "fastest plain: default" in quick["step_ratio_dp_to_fastest_plain"].detail
    assert quick["opacus_hooks_step_ratio"].value is None
    assert {"skellam", "round", "step_ratio_dp_to_default_plain"} < quick.keys()
    full = {figure.name: figure for figure in dp_sgd.figures(quick=False)}
    assert full["opacus_hooks_step_ratio"].value == pytest.approx((12 / 4 + 12 / 6) / 2)


def test_the_noised_round_is_the_masked_one_with_a_promise() -> None:
    noised, masked = masked_round.recipe_of(True, 3, noised=True), masked_round.recipe_of(True, 3)
    assert noised.privacy.unit == "client" and noised.secure_aggregation.enabled and masked.privacy.unit == "none"
    assert noised.training == masked.training and noised.model == masked.model
