"""What a recipe names: whether each is there, which takes no data, no torch and no accounting to know."""

from __future__ import annotations

from tacit.models.recipe import Recipe
from tacit.models.tasks import task_named
from tacit.models.zoo.catalogue import check_options
from tacit.models.zoo.factory import find_factory
from tacit.server.strategies import strategy_named


def check_names(recipe: Recipe) -> None:
    """Refuse what a recipe names and nothing here answers to: needs no data, so it can come before everything else.

    Raises:
        InputError: names the nearest task, strategy, model or option, or the factory that cannot be imported.
    """
    task_named(recipe.task.kind)
    strategy_named(recipe.strategy.name, recipe.strategy.options)
    if recipe.model.factory:
        find_factory(recipe.model.factory)
    else:
        check_options(recipe.model.name, recipe.model.options)
