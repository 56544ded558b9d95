"""That the benchmark of simulated rounds compares two things that do the same work."""

import pytest
import torch

from tacit.models.data import open_source
from tacit.models.data.rows import Source
from tacit.models.recipe import Recipe, recipe_from_dict
from tacit.simulations.benchmarks import simulation
from tacit.simulations.benchmarks.simulation import bare_round


@pytest.fixture
def small() -> tuple[Recipe, Source]:
    values = simulation.recipe_of("mlp", rounds=3).to_dict()
    values["population"]["clients"] = 6
    values["training"]["cohort"] = 3
    recipe = recipe_from_dict(values)
    source = open_source("synthetic:images?rows=300&size=8", task=recipe.task.kind, label="label", environ={})
    return recipe, source


def test_each_round_but_the_first_is_timed_on_both_sides(small: tuple[Recipe, Source]) -> None:
    threads = torch.get_num_threads()
    compared = simulation.compare(*small)
    assert len(compared.engine) == len(compared.bare) == 3
    assert all(spent.cpu > 0 and spent.wall > 0 for spent in [*compared.engine, *compared.bare])
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    "cheat",
    [
        lambda model, start, clients, shuffles: start,
        lambda model, start, clients, shuffles: bare_round(model, start, clients[1:], shuffles[1:]),
        lambda model, start, clients, shuffles: bare_round(model, start, clients, [torch.Generator() for _ in clients]),
    ],
    ids=["trains nothing", "leaves a client out", "takes other batches"],
)
def test_a_bare_loop_that_does_other_work_is_not_compared(small: tuple[Recipe, Source], cheat, monkeypatch) -> None:
    monkeypatch.setattr(simulation, "bare_round", cheat)
    with pytest.raises(RuntimeError, match="its time is of no interest"):
        simulation.compare(*small)


def test_the_mean_of_two_models_is_weighted_by_their_examples() -> None:
    # One parameter, loss of logits (w, 0): a step from 0 on a class-1 example moves w by -lr/2, on class 0 by +lr/2.
    model = torch.nn.Linear(1, 2, bias=False)
    start = {"weight": torch.zeros(2, 1)}
    one = torch.ones(1, 1), torch.tensor([0])
    three = torch.ones(3, 1), torch.tensor([1, 1, 1])
    found = bare_round(model, start, [one, three], [torch.Generator(), torch.Generator()], learning_rate=1.0)
    torch.testing.assert_close(
        found["weight"], torch.tensor([[0.5 * 1 / 4 - 0.5 * 3 / 4], [0.5 * 3 / 4 - 0.5 * 1 / 4]])
    )


def test_the_worse_ratio_is_the_headline(monkeypatch: pytest.MonkeyPatch, small: tuple[Recipe, Source]) -> None:
    spent = simulation.Spent
    times = {"mlp": [spent(2.0, 3.0)], "cnn": [spent(1.1, 1.0)]}

    def compared(recipe: Recipe, source: Source) -> simulation.Comparison:
        return simulation.Comparison(None, None, engine=times[recipe.model.name], bare=[spent(1.0, 1.0)])  # type: ignore[arg-type]

    monkeypatch.setattr(simulation, "open_source", lambda *given, **named: small[1])
    monkeypatch.setattr(simulation, "compare", compared)
    found = {figure.name: figure for figure in simulation.figures(quick=True)}
    assert found["round_ratio_to_bare_loop"].value == found["round_ratio_to_bare_loop_mlp"].value == 2.0
    assert found["round_ratio_to_bare_loop_cnn"].value == pytest.approx(1.1)
    assert (found["round_seconds_mlp"].value, found["round_seconds_cnn"].value) == (3.0, 1.0)
