"""What can be known before anything of a run is written: that networks fit, thresholds can be met, promises kept."""

from __future__ import annotations

from tacit.models.contributions import training_layout
from tacit.models.errors import InputError
from tacit.models.noise import noise_plan
from tacit.models.plan import Plan
from tacit.models.recipe import Recipe
from tacit.models.spending import check_grant, granted_budget, run_budget
from tacit.models.tasks import task_named
from tacit.models.zoo.architecture import Architecture
from tacit.privacy.calibration import with_spare
from tacit.privacy.errors import PrivacyError
from tacit.privacy.secagg.layout import Infeasible
from tacit.server.exchanges import Occasion
from tacit.server.masking import Masking


def check_network(plan: Plan) -> int:
    """Build the network once for nothing, where that can tell before the preparation that it cannot be built.

    Returns:
        How many parameters it has at least.

    Raises:
        InputError: the task does not fit the data, or the network does not fit the task.
    """
    from tacit.models.vector import layout_of  # brings torch: what else is looked at here takes numbers alone

    recipe, columns = plan.recipe, plan.schema.columns
    task = task_named(recipe.task.kind)
    task.check(plan.schema)
    # How many inputs a category becomes is only known from everybody's rows; a network of the zoo does not mind.
    if recipe.model.factory and any(column.kind == "categorical" for column in columns):
        return 1
    shape = columns[0].shape if columns[0].kind == "image" else (len(columns),)
    name = "" if recipe.model.factory else recipe.model.name
    architecture = Architecture(name, recipe.model.factory, shape, task.outputs(plan.schema), recipe.model.options)
    return layout_of(architecture.build(recipe.seed)).size


def check_promise(recipe: Recipe, clients: int, parameters: int, *, reproducible_noise: bool = False) -> None:
    """Refuse a promise that no noise keeps, or that a population's budget would not let begin.

    And a population's ledger for a run that promises nothing real.

    Raises:
        InputError: names the number to change.
    """
    if recipe.privacy.unit == "none":
        return
    if recipe.population.ledger and (recipe.privacy.noise_cohort or reproducible_noise):
        # What it would enter is less than its rounds cost the population.
        why = "noise that anybody can repeat" if reproducible_noise else "a hypothetical cohort"
        raise InputError(f"cannot pay for {why}", where="population.ledger", right="leave the ledger out of such a run")
    cohort = min(recipe.training.cohort or clients, clients)
    try:
        plan = noise_plan(recipe, parameters, cohort, clients)
    except PrivacyError as error:
        right = "a larger epsilon, fewer rounds, or more clients"
        raise InputError(str(error), where=f"privacy, {cohort} clients", right=right) from None
    try:
        run_budget(plan, recipe.training.rounds)
    except PrivacyError as error:
        right = "a smaller epsilon" if recipe.privacy.epsilon else "a larger noise_multiplier, or fewer rounds"
        raise InputError(str(error), where=f"privacy, {cohort} clients", right=right) from None
    if recipe.population.epsilon_budget is not None:
        granted_budget(recipe.population.epsilon_budget, plan, with_spare(recipe.training.rounds))


def check_budget(recipe: Recipe) -> None:
    """Refuse a population's budget that is too large whatever the model and however many the clients will be.

    Raises:
        InputError: names the largest one.
    """
    granted, settings = recipe.population.epsilon_budget, recipe.secure_aggregation
    if granted is None or recipe.privacy.unit == "none":
        return
    fewest = recipe.training.cohort or recipe.population.clients or settings.min_cohort
    try:
        # More parameters, and more clients, mean more draws, which err more.
        plan = noise_plan(recipe, 1, fewest)
    except PrivacyError:
        return  # for want of clients, which is found when they are there
    check_grant(granted, plan, with_spare(recipe.training.rounds))


def check_cohorts(recipe: Recipe, masking: Masking, clients: int, parameters: int) -> None:
    """Refuse thresholds that no full cohort could meet, and noise that no sum could carry, before anything is offered.

    Args:
        recipe: says thresholds and noise.
        masking: the coordinator's part.
        clients: how many clients the federation has, all of whom the preparation asks.
        parameters: how many parameters the model has, or at least has.

    Raises:
        InputError: names the number to change.
    """
    at, cohort = Occasion(recipe.name, 0, 0, b""), min(recipe.training.cohort or clients, clients)
    for size, training in ((clients, False), (cohort, True)):
        layout, noise = training_layout(1, size), None
        try:
            if training and recipe.privacy.unit != "none":
                noise = noise_plan(recipe, parameters, size, clients)
                layout = noise.layout or layout
            masking.offer(at, {}, layout, size, noise)
        except Infeasible as error:
            raise InputError(error.what, where=f"secure_aggregation, {size} clients", right=error.change) from None
        except PrivacyError as error:
            right = "a larger epsilon, fewer rounds, or more clients"
            raise InputError(str(error), where=f"privacy, {size} clients", right=right) from None


def fewest_clients(recipe: Recipe, masking: Masking, parameters: int, most: int) -> int:
    """Return the fewest clients that `check_cohorts` lets a round be made of; `most` if it is no fewer."""
    low, high = min(recipe.secure_aggregation.min_cohort, most), most
    while low < high:
        size = (low + high) // 2
        try:
            check_cohorts(recipe, masking, size, parameters)
        except InputError:
            low = size + 1
        else:
            high = size
    return high
