"""The federation's benchmark measures real processes, and prints the bounds that it is held to beside them."""

import pytest

from tacit.simulations.benchmarks.federation import BOUNDS, stage_figure
from tacit.simulations.benchmarks.federation_round import ROUNDS, memory_mb, recipe_of, round_figures


@pytest.mark.slow
@pytest.mark.parametrize("count", BOUNDS)
def test_a_stage_that_asks_nothing_is_measured_beside_its_bound(count: int) -> None:
    figure = stage_figure(count, 10)
    assert figure.name == f"stage_seconds_{count}_agents" and figure.unit == "s"
    assert figure.value is not None and figure.value > 0 and figure.baseline_value == BOUNDS[count][0]


@pytest.mark.slow
def test_a_whole_private_round_and_an_idle_agent_are_measured_beside_their_bounds() -> None:
    figures = round_figures("round_overhead_seconds_10_agents_mlp", 2)
    assert [figure.name for figure in figures] == [
        "round_overhead_seconds_10_agents_mlp",
        "agent_idle_mb",
        "agent_idle_cpu_percent",
    ]
    for figure in figures:
        assert figure.value is not None and figure.baseline_value is not None
        assert figure.value >= 0 and figure.baseline_value > 0, figure


def test_the_highest_memory_is_that_since_it_was_last_asked_for() -> None:
    def briefly(megabytes: int) -> None:
        assert bytearray(b"x") * (megabytes * 1_000_000)

    briefly(200)
    before = memory_mb(peak=False)
    briefly(100)
    assert memory_mb(peak=True) - before == pytest.approx(100, abs=20)


def test_the_networks_have_the_sizes_that_the_figures_name() -> None:
    for name, megabytes in zip(ROUNDS, (0.2, 20.0), strict=True):
        (hidden,) = recipe_of(ROUNDS[name][0], 1).model.options["hidden"]
        parameters = (784 + 1) * hidden + (hidden + 1) * 10
        assert 4e-6 * parameters == pytest.approx(megabytes, rel=0.05)
