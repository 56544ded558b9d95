"""Each server optimizer does what its paper says, in place."""

import dataclasses
import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.models.errors import InputError
from tacit.models.sections import StrategySection
from tacit.server.strategies import strategy_named
from tacit.server.strategies.adaptive import _CHUNK, Adaptive

ALL = ("fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedadagrad")

# The papers' algorithms once more, in double precision and with a new array for every quantity: `deltas` is the
# sequence of mean updates; the result is the sequence of global vectors.

Trajectory = list[np.ndarray]


def fedavg(start: np.ndarray, deltas: Trajectory, lr: float = 1.0) -> Trajectory:
    """McMahan et al. 2017, algorithm 1: w_{t+1} = sum n_k/n w_k, that is w_t plus the mean of the differences."""
    models = [start]
    for delta in deltas:
        client_mean = models[-1] + delta
        models.append(models[-1] + lr * (client_mean - models[-1]))
    return models[1:]


def fedavgm(start: np.ndarray, deltas: Trajectory, lr: float = 1.0, beta: float = 0.9) -> Trajectory:
    """Hsu et al. 2019, section 4.3: v <- beta v + dw, w <- w - v, where dw is minus our delta."""
    velocity, model, models = np.zeros_like(start), start, []
    for delta in deltas:
        velocity = beta * velocity + (-delta)
        model = model - lr * velocity
        models.append(model)
    return models


def fedopt(
    second: Callable[[np.ndarray, np.ndarray, float], np.ndarray],
) -> Callable[..., Trajectory]:
    def run(
        start: np.ndarray, deltas: Trajectory, lr: float = 0.03, b1: float = 0.9, b2: float = 0.99, tau: float = 1e-3
    ) -> Trajectory:
        """Reddi et al. 2021, algorithm 2, lines 9 to 14, with v_{-1} = tau^2."""
        m, v, x, models = np.zeros_like(start), np.full_like(start, tau**2), start, []
        for delta in deltas:
            m = b1 * m + (1 - b1) * delta
            v = second(v, delta, b2)
            x = x + lr * m / (np.sqrt(v) + tau)
            models.append(x)
        return models

    return run


fedadagrad = fedopt(lambda v, delta, b2: v + delta**2)
fedyogi = fedopt(lambda v, delta, b2: v - (1 - b2) * delta**2 * np.sign(v - delta**2))
fedadam = fedopt(lambda v, delta, b2: b2 * v + (1 - b2) * delta**2)

CASES = [
    ("fedavg", {}, fedavg, {}),
    ("fedavg", {"server_learning_rate": 0.3}, fedavg, {"lr": 0.3}),
    ("fedprox", {}, fedavg, {}),
    ("fedprox", {"proximal_mu": 0.7}, fedavg, {}),
    ("fedavgm", {}, fedavgm, {}),
    ("fedavgm", {"server_learning_rate": 0.5, "server_momentum": 0.7}, fedavgm, {"lr": 0.5, "beta": 0.7}),
    ("fedavgm", {"server_momentum": 0.0}, fedavg, {}),
    ("fedadam", {}, fedadam, {}),
    ("fedadam", {"server_learning_rate": 0.1, "beta_1": 0.5, "beta_2": 0.9, "tau": 0.01}, fedadam,
     {"lr": 0.1, "b1": 0.5, "b2": 0.9, "tau": 0.01}),
    ("fedyogi", {}, fedyogi, {}),
    ("fedyogi", {"beta_1": 0.0, "beta_2": 0.5, "tau": 0.1}, fedyogi, {"b1": 0.0, "b2": 0.5, "tau": 0.1}),
    ("fedadagrad", {}, fedadagrad, {}),
    ("fedadagrad", {"server_learning_rate": 1.0, "tau": 1.0}, fedadagrad, {"lr": 1.0, "tau": 1.0}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "paper", "settings"), CASES)
@pytest.mark.parametrize("size", [5, _CHUNK + 3])
def test_a_strategy_goes_where_its_paper_goes(
    name: str, options: dict[str, float], paper: Callable[..., Trajectory], settings: dict[str, float], size: int
) -> None:
    rng = np.random.default_rng(3)
    start = rng.normal(size=size)
    # Updates of very different sizes, and zeros: yogi's sign and adagrad's sum show there.
    deltas = [rng.normal(size=size) * scale for scale in (1.0, 1e-3, 0.0, 10.0, 0.1, 0.1)]
    strategy = strategy_named(name, options)
    vector, moments = start.astype(np.float32), strategy.moments(size)
    for delta, expected in zip(deltas, paper(start, deltas, **settings), strict=True):
        strategy.step(vector, delta.astype(np.float32), moments)
        np.testing.assert_allclose(vector, expected, rtol=2e-4, atol=2e-5)


def test_fedavg_with_one_round_and_the_mean_update_is_the_mean_model() -> None:
    rng = np.random.default_rng(0)
    start, clients = rng.normal(size=7).astype(np.float32), rng.normal(size=(4, 7)).astype(np.float32)
    vector = start.copy()
    strategy_named("fedavg", {}).step(vector, (clients - start).mean(axis=0), {})
    np.testing.assert_allclose(vector, clients.mean(axis=0), atol=1e-6)


def test_yogi_forgets_a_large_gradient_more_slowly_than_adam() -> None:
    second = {}
    for name in ("fedadam", "fedyogi"):
        strategy = strategy_named(name, {"beta_2": 0.9})
        moments = strategy.moments(1)
        for update in (10.0, *[0.1] * 20):
            strategy.step(np.zeros(1, np.float32), np.array([update], np.float32), moments)
        second[name] = moments["second"][0]
    # After the first update both hold 0.1 * 100; adam then keeps 0.9^20 of it, yogi loses 0.1 * 0.01 a step.
    assert second["fedadam"] == pytest.approx(10 * 0.9**20 + 0.01 * (1 - 0.9**20), rel=1e-3)
    assert second["fedyogi"] == pytest.approx(10 - 20 * 0.001, rel=1e-3)


def test_only_fedprox_asks_clients_for_a_proximal_term() -> None:
    assert {name: strategy_named(name, {}).proximal_mu for name in ALL} == dict.fromkeys(ALL, 0.0) | {"fedprox": 0.01}
    assert strategy_named("fedprox", {"proximal_mu": 0.4}).proximal_mu == 0.4


@pytest.mark.parametrize("name", ALL)
def test_moments_fit_the_model_and_start_where_the_paper_says(name: str) -> None:
    moments = strategy_named(name, {}).moments(6)
    expected = {
        "fedavgm": {"momentum": 0.0},
        **dict.fromkeys(("fedadam", "fedyogi", "fedadagrad"), {"first": 0.0, "second": 1e-6}),
    }.get(name, {})
    assert {key: (value.dtype, value.shape) for key, value in moments.items()} == {
        key: (np.dtype(np.float32), (6,)) for key in expected
    }
    for key, value in expected.items():
        np.testing.assert_allclose(moments[key], value)


@pytest.mark.parametrize("name", ALL)
def test_a_step_changes_the_vector_and_the_moments_in_place(name: str) -> None:
    strategy = strategy_named(name, {})
    vector, moments = np.zeros(4, np.float32), strategy.moments(4)
    before = {key: (value, value.copy()) for key, value in moments.items()}
    strategy.step(vector, np.ones(4, np.float32), moments)
    assert (vector > 0).all() and vector.dtype == np.float32
    for key, (same, old) in before.items():
        assert moments[key] is same and not np.array_equal(same, old)


@pytest.mark.parametrize("name", ALL)
def test_a_step_needs_no_further_vector(name: str) -> None:
    size = 2_000_000
    strategy = strategy_named(name, {"server_learning_rate": 0.5} if name != "fedprox" else {})
    vector, moments = np.zeros(size, np.float32), strategy.moments(size)
    mean = np.ones(size, np.float32)
    tracemalloc.start()
    try:
        strategy.step(vector, mean, moments)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.3 * vector.nbytes


@given(st.sampled_from(ALL), st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=8))
def test_a_step_is_the_same_for_every_parameter_whatever_stands_beside_it(name: str, updates: list[float]) -> None:
    strategy = strategy_named(name, {})
    whole, moments = np.zeros(len(updates), np.float32), strategy.moments(len(updates))
    strategy.step(whole, np.array(updates, np.float32), moments)
    for index, update in enumerate(updates):
        alone = np.zeros(1, np.float32)
        strategy.step(alone, np.array([update], np.float32), strategy.moments(1))
        assert alone[0] == whole[index]


def test_an_unknown_strategy_names_the_nearest() -> None:
    with pytest.raises(InputError, match="strategy.name: unknown strategy 'fedadm'; the nearest is 'fedadam'"):
        strategy_named("fedadm", {})


@pytest.mark.parametrize(
    ("name", "option"),
    [("fedavg", "beta_1"), ("fedprox", "server_momentum"), ("fedavgm", "tau"), ("fedadagrad", "beta_2")],
)
def test_an_option_of_another_strategy_is_refused(name: str, option: str) -> None:
    with pytest.raises(InputError, match=f"strategy: unknown option of {name} '{option}'; "):
        strategy_named(name, {option: 0.5})


@pytest.mark.parametrize("name", ALL)
def test_every_option_of_a_strategy_can_be_given_in_a_recipe(name: str) -> None:
    own = {field.name for field in dataclasses.fields(strategy_named(name, {}))}  # type: ignore[arg-type]
    assert own <= set(StrategySection.model_fields)
    given_ = StrategySection(name=name, **dict.fromkeys(own, 0.5)).options
    strategy = strategy_named(name, given_)
    assert {getattr(strategy, option) for option in own} == {0.5}


def test_the_shared_step_alone_is_no_strategy() -> None:
    with pytest.raises(TypeError, match="no second moment"):
        Adaptive().step(np.zeros(1, np.float32), np.ones(1, np.float32), Adaptive().moments(1))


def test_the_first_adam_step_is_the_learning_rate_times_the_sign_of_a_large_update() -> None:
    strategy = strategy_named("fedadam", {"beta_1": 0.0, "beta_2": 0.0, "server_learning_rate": 0.03})
    vector = np.zeros(2, np.float32)
    strategy.step(vector, np.array([1e4, -1e4], np.float32), strategy.moments(2))
    np.testing.assert_allclose(vector, [0.03, -0.03], rtol=1e-5)
    assert math.isfinite(float(vector.sum()))
