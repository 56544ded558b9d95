"""DP-SGD through Opacus, and each of the traps around it: a test fails if one comes back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("opacus")

from dp_accounting import NeighboringRelation  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from tacit.privacy.accounting import cost, in_sequence  # noqa: E402
from tacit.privacy.calibration import smallest_noise  # noqa: E402
from tacit.privacy.dp_sgd import (  # noqa: E402
    MODES,
    DpSgd,
    Mode,
    Spent,
    check_trainable,
    fastest_mode,
    poisson_batch,
    train_privately,
)
from tacit.privacy.dp_sgd_passes import normals  # noqa: E402
from tacit.privacy.errors import LocalProtocolError, PrivacyError  # noqa: E402
from tacit.privacy.randomness import Keystream, SystemRandomness  # noqa: E402
from tacit.privacy.terms import RecordNoise  # noqa: E402

RECORDS = NeighboringRelation.ADD_OR_REMOVE_ONE


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.GroupNorm(2, 4),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(4 * 16, 8),
        nn.Tanh(),
        nn.Linear(8, 3),
    )


def data(records: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(records, 1, 8, 8, generator=generator), torch.randint(0, 3, (records,), generator=generator)


def stream(number: int) -> Keystream:
    return Keystream(bytes([number]) * 32)


def settings(noise: float = 1.0, rate: float = 0.25, steps: int = 3, clip: float = 0.5, **more: Any) -> DpSgd:
    return DpSgd(RecordNoise(noise, rate, steps), clip, expected_batch_size=10.0, **more)


def train(
    module: nn.Module,
    how: DpSgd,
    *,
    records: tuple[Tensor, Tensor] | None = None,
    spent: Spent = Spent(),  # noqa: B008  # frozen
    noise: Keystream | None = None,
    sampling: Any = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Spent:
    inputs, targets = records or data()
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    return train_privately(
        module, optimizer, loss, inputs, targets, how, spent, sampling=sampling or stream(2), noise=noise or stream(3)
    )


def flat(module: nn.Module) -> NDArray[np.float64]:
    return np.concatenate([parameter.detach().double().numpy().ravel() for parameter in module.parameters()])


def change(how: DpSgd, **more: Any) -> NDArray[np.float64]:
    module = network()
    before = flat(module)
    train(module, how, **more)
    return flat(module) - before


def clipped_mean_by_hand(inputs: Tensor, targets: Tensor, clip: float, divisor: float) -> NDArray[np.float64]:
    """One noiseless step, each example's gradient by a backward pass of its own."""
    total = np.zeros_like(flat(network()))
    for place in range(len(inputs)):
        module = network()
        F.cross_entropy(module(inputs[place : place + 1]), targets[place : place + 1]).backward()
        gradient = np.concatenate([parameter.grad.double().numpy().ravel() for parameter in module.parameters()])
        total += gradient * min(1.0, clip / np.linalg.norm(gradient))
    return -total / divisor


class EveryRecord:
    """Words so small that every record is in every batch."""

    def words64(self, count: int) -> NDArray[np.uint64]:
        return np.zeros(count, dtype=np.uint64)


class NoRecordThenEvery:
    """Words by which the first batch is empty and every later one full."""

    def __init__(self) -> None:
        self._first = True

    def words64(self, count: int) -> NDArray[np.uint64]:
        first, self._first = self._first, False
        return np.full(count, 2**64 - 1 if first else 0, dtype=np.uint64)


class NoRecord:
    """Words so large that no record is in any batch."""

    def words64(self, count: int) -> NDArray[np.uint64]:
        return np.full(count, 2**64 - 1, dtype=np.uint64)


# Gradients ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("clip", [0.05, 0.5, 100.0])
@pytest.mark.parametrize("physical", [1024, 7])
def test_a_step_without_noise_is_the_mean_of_gradients_clipped_one_by_one(
    mode: Mode, clip: float, physical: int
) -> None:
    how = settings(noise=1e-30, rate=0.999, steps=1, clip=clip, mode=mode, physical_batch_size=physical)
    moved = change(how, sampling=EveryRecord())
    assert moved == pytest.approx(clipped_mean_by_hand(*data(), clip, 10.0), abs=2e-6)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_same_sums_over_several_steps(mode: Mode) -> None:
    plain = change(settings(noise=0.3, steps=4))
    assert change(settings(noise=0.3, steps=4, mode=mode, physical_batch_size=3)) == pytest.approx(plain, abs=1e-5)


def test_the_sum_is_divided_by_the_public_batch_size_and_never_by_the_one_that_was_drawn() -> None:
    how = settings(noise=1e-30, rate=0.999, steps=1)
    few, many = (change(how, records=data(records), sampling=EveryRecord()) for records in (5, 40))
    assert few == pytest.approx(clipped_mean_by_hand(*data(5), 0.5, 10.0), abs=2e-6)
    assert many == pytest.approx(clipped_mean_by_hand(*data(40), 0.5, 10.0), abs=2e-6)


# Noise ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_batch_trains_on_noise_of_the_claimed_size(mode: Mode) -> None:
    how = settings(noise=2.0, steps=60, mode=mode)
    moved = change(how, sampling=NoRecord())
    deviation = 2.0 * 0.5 / 10.0 * math.sqrt(60)
    assert float(moved.std()) == pytest.approx(deviation, rel=5 / math.sqrt(2 * len(moved)))


def test_a_client_without_records_adds_noise_all_the_same() -> None:
    moved = change(settings(), records=data(0))
    assert np.count_nonzero(moved) == len(moved)


def test_the_same_torch_seed_at_two_clients_gives_different_noise() -> None:
    moves = []
    for _ in range(2):
        torch.manual_seed(7)
        noise = Keystream(SystemRandomness().key("dp-sgd", "noise"))
        moves.append(change(settings(steps=50), sampling=NoRecord(), noise=noise))
    assert abs(float(np.corrcoef(*moves)[0, 1])) < 7 / math.sqrt(len(moves[0]))  # drawn anew in each run


def test_the_noise_follows_from_its_stream_and_leaves_torchs_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first = change(settings())
    torch.manual_seed(12345)
    seeded = torch.random.get_rng_state()
    module = network()  # seeds the generator by itself
    torch.random.set_rng_state(seeded)
    before = flat(module)
    train(module, settings())
    assert torch.equal(torch.random.get_rng_state(), seeded)
    assert np.array_equal(flat(module) - before, first)
    torch.random.set_rng_state(state)


def test_no_two_steps_share_noise() -> None:
    noise = stream(3)
    first, second = (change(settings(steps=1), sampling=NoRecord(), noise=noise) for _ in range(2))
    assert abs(float(np.corrcoef(first, second)[0, 1])) < 5 / math.sqrt(len(first))


def test_the_normals_have_the_moments_of_a_normal_and_are_finite_at_the_ends() -> None:
    drawn = normals(stream(1), 400_000, torch.device("cpu")).numpy()
    error = 5 / math.sqrt(len(drawn))
    assert float(drawn.mean()) == pytest.approx(0.0, abs=error)
    assert float((drawn**2).mean()) == pytest.approx(1.0, abs=error * math.sqrt(2))
    assert float((drawn**4).mean()) == pytest.approx(3.0, abs=error * math.sqrt(96))
    # The two that come from the same words are independent: neither they nor their squares move together.
    first, second = np.split(drawn, 2)
    assert abs(float(np.mean(first * second))) < math.sqrt(2) * error
    assert abs(float(np.mean((first**2 - 1) * (second**2 - 1)))) < math.sqrt(2) * 2 * error
    assert len(normals(stream(1), 7, torch.device("cpu"))) == 7
    for ends in (EveryRecord(), NoRecord()):
        assert bool(torch.isfinite(normals(ends, 8, torch.device("cpu"))).all())


# Sampling -------------------------------------------------------------------------------------------------------------


def test_batches_are_poisson_samples() -> None:
    words = stream(5)
    batches = [poisson_batch(words, 1000, 0.05) for _ in range(2000)]
    sizes = np.array([len(batch) for batch in batches])
    assert float(sizes.mean()) == pytest.approx(50.0, abs=5 * math.sqrt(47.5 / 2000))
    assert float(sizes.var()) == pytest.approx(47.5, rel=5 * math.sqrt(2 / 2000))  # a fixed size would have none
    counts = np.bincount(np.concatenate(batches), minlength=1000)
    assert float(((counts - 100) ** 2 / 95).sum()) == pytest.approx(1000, abs=5 * math.sqrt(2000))
    together = np.mean([(3 in batch) and (4 in batch) for batch in batches])
    assert together == pytest.approx(0.0025, abs=5 * math.sqrt(0.0025 / 2000))
    assert np.array_equal(poisson_batch(words, 4, 1.0), np.arange(4))


# Accounting -----------------------------------------------------------------------------------------------------------


def test_what_rounds_cost_adds_up_when_the_state_goes_from_one_to_the_next() -> None:
    how, spent, module = settings(noise=3.0, rate=0.1, steps=100), Spent(), nn.Linear(64, 3)
    records = data()[0].flatten(1), data()[1]
    for _ in range(3):
        spent = train(module, how, records=records, spent=spent)
    assert spent == Spent(((3.0, 0.1, 300),))
    three, one = cost(spent.event(), 1e-5, RECORDS).epsilon, cost(how.noise.event(), 1e-5, RECORDS).epsilon
    assert three == pytest.approx(cost(in_sequence([how.noise.event()] * 3), 1e-5, RECORDS).epsilon)
    assert three > 1.5 * one  # what a fresh engine each round would go on reporting


def test_opacus_accountant_and_ours_agree_on_what_was_spent() -> None:
    spent = train(network(), settings(noise=1.0, rate=0.1, steps=50))
    ours, opacus = cost(spent.event(), 1e-5, RECORDS).epsilon, spent.accountant().get_epsilon(1e-5)
    assert ours <= opacus <= 1.25 * ours


def test_changed_noise_is_a_new_entry_of_the_history() -> None:
    spent = train(network(), settings(noise=1.0))
    spent = train(network(), settings(noise=2.0), spent=spent)
    assert spent.history == ((1.0, 0.25, 3), (2.0, 0.25, 3))


def test_pieces_of_a_batch_are_one_step_for_the_accountant() -> None:
    assert train(network(), settings(physical_batch_size=1), sampling=EveryRecord()).history == ((1.0, 0.25, 3),)


def test_noise_is_calibrated_from_what_was_spent_and_never_from_zero() -> None:
    spent = Spent(((3.0, 0.1, 100),))

    def rest(noise: float) -> Any:
        return in_sequence([spent.event(), RecordNoise(noise, 0.1, 100).event()])

    target = 1.3 * cost(spent.event(), 1e-5, RECORDS).epsilon
    after = smallest_noise(rest, target, 1e-5, RECORDS, tolerance=1e-2)
    fresh = smallest_noise(lambda z: RecordNoise(z, 0.1, 100).event(), target, 1e-5, RECORDS, tolerance=1e-2)
    assert after > 1.3 * fresh
    assert cost(rest(after), 1e-5, RECORDS).epsilon <= target


# The module -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_the_module_keeps_its_keys_and_no_hook_stays_behind(mode: Mode) -> None:
    module = network()
    keys, attributes = list(module.state_dict()), set(vars(module[0]))
    train(module, settings(mode=mode))
    assert list(module.state_dict()) == keys
    assert set(vars(module[0])) == attributes
    for layer in module.modules():
        assert not layer._forward_hooks and not layer._backward_hooks
    for parameter in module.parameters():
        assert not {"grad_sample", "summed_grad", "_norm_sample", "_forward_counter"} & set(vars(parameter))
        assert parameter.grad is None
        assert parameter.is_contiguous()


@pytest.mark.parametrize("mode", MODES)
def test_hooks_are_gone_even_after_an_error(mode: Mode) -> None:
    module = network()

    def broken(outputs: Tensor, targets: Tensor) -> Tensor:
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        train(module, settings(mode=mode), loss=broken)
    assert not any(layer._forward_hooks or layer._backward_hooks for layer in module.modules())
    train(module, settings(mode=mode))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False), nn.SyncBatchNorm(4)])
def test_batch_normalisation_is_refused_by_name_and_not_replaced(norm: nn.Module) -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Flatten(), nn.LazyLinear(3))
    module(data()[0])
    before = flat(module)
    with pytest.raises(PrivacyError, match=r"layer 1 \((Sync)?BatchNorm(2d)?\).*GroupNorm"):
        train(module, settings())
    assert module[1] is norm and np.array_equal(flat(module), before)


def test_a_recurrent_layer_that_opacus_cannot_take_apart_is_refused() -> None:
    with pytest.raises(PrivacyError, match="LSTM"):
        check_trainable(nn.Sequential(nn.LSTM(4, 4)))


class Positions(nn.Module):
    """Tokens and positions, as in small language models."""

    def __init__(self, expanded: bool) -> None:
        super().__init__()
        self.tokens, self.positions, self.head = nn.Embedding(5, 6), nn.Embedding(4, 6), nn.Linear(6, 3)
        self.expanded = expanded

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1])[None]
        if self.expanded:
            places = places.expand(len(ids), -1).contiguous()  # Opacus' ghost clipping views the ids
        return self.head((self.tokens(ids) + self.positions(places)).mean(dim=1))


TEXT = torch.randint(0, 5, (40, 4), generator=torch.Generator().manual_seed(2)), data()[1]


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_position_ids_broadcast_over_the_batch_are_refused_or_frozen_and_work_expanded(mode: Mode) -> None:
    with pytest.raises(PrivacyError, match="positions.weight.*expand"):
        train(Positions(expanded=False), settings(mode=mode), records=TEXT)
    train(Positions(expanded=True), settings(mode=mode), records=TEXT)
    frozen = Positions(expanded=False)
    frozen.positions.requires_grad_(False)
    optimizer = torch.optim.SGD([each for each in frozen.parameters() if each.requires_grad], lr=1.0)
    train_privately(
        frozen, optimizer, F.cross_entropy, *TEXT, settings(mode=mode), Spent(), sampling=stream(2), noise=stream(3)
    )


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_a_parameter_that_takes_no_part_is_refused_instead_of_left_without_noise(mode: Mode) -> None:
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(64, 3), nn.Linear(3, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.used(inputs.flatten(1))

    with pytest.raises(PrivacyError, match="unused.weight"):
        train(Forgetful(), settings(mode=mode), sampling=EveryRecord())


def test_an_optimizer_over_other_parameters_is_refused() -> None:
    module = network()
    optimizer = torch.optim.SGD(list(module.parameters())[:2], lr=1.0)
    with pytest.raises(PrivacyError, match="trainable ones"):
        train_privately(
            module, optimizer, F.cross_entropy, *data(), settings(), Spent(), sampling=stream(2), noise=stream(3)
        )


def test_a_model_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(PrivacyError, match="no parameter to train"):
        check_trainable(network().requires_grad_(False))


def test_parameters_that_are_no_longer_finite_are_never_returned() -> None:
    module = network()
    with torch.no_grad():
        next(module.parameters()).fill_(math.nan)  # as noise has made them, or a coordinator
    with pytest.raises(LocalProtocolError, match="finite"):
        train(module, settings(), sampling=EveryRecord())


@pytest.mark.parametrize("mode", MODES)
def test_a_record_whose_gradient_is_not_finite_adds_nothing_and_is_not_given_away(mode: Mode) -> None:
    """Weights that one record alone overflows ask whether it is there, and a round that ends would answer."""
    inputs, targets = data()
    inputs[7] = inputs[7].clamp(-1, 1) * 1e30  # finite itself
    without = torch.cat([inputs[:7], inputs[8:]]), torch.cat([targets[:7], targets[8:]])
    changes = []
    for records in ((inputs, targets), without):
        module = network()
        module[0].weight.data *= 1e12
        for part in (2, 5):
            module[part] = nn.Identity()
        start = [parameter.detach().clone() for parameter in module.parameters()]
        train(module, settings(mode=mode, physical_batch_size=16), records=records, sampling=EveryRecord())
        changes.append([(now - then).detach() for now, then in zip(module.parameters(), start, strict=True)])
        assert all(bool(torch.isfinite(change).all()) for change in changes[-1])
    for change, expected in zip(*changes, strict=True):
        torch.testing.assert_close(change, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_after_an_empty_batch_a_full_one_trains(mode: Mode) -> None:
    """Whether a batch is empty depends on how many records there are, so no step may end on it."""
    module = network()
    train(module, settings(mode=mode), sampling=NoRecordThenEvery())
    assert all(bool(torch.isfinite(parameter).all()) for parameter in module.parameters())


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_of_nothing_but_such_records_is_a_step_of_noise_alone(mode: Mode) -> None:
    inputs, targets = data(4)
    module, empty = network(), network()
    train(module, settings(mode=mode), records=(inputs * math.inf, targets), sampling=EveryRecord())
    train(empty, settings(mode=mode), records=(inputs[:0], targets[:0]))
    for parameter, expected in zip(module.parameters(), empty.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected)


def test_inputs_without_their_targets_are_refused() -> None:
    with pytest.raises(LocalProtocolError, match="40 inputs have 39 targets"):
        train(network(), settings(), records=(data()[0], data()[1][:-1]))


@pytest.mark.parametrize(
    "wrong", [{"clip": 0.0}, {"clip": math.inf}, {"physical_batch_size": 0}, {"mode": "poisson_sampling=False"}]
)
def test_settings_that_cannot_be_trained_with_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError):
        settings(**wrong)


# The direct path ------------------------------------------------------------------------------------------------------


class Varied(nn.Module):
    """Convolutions of every plain shape, both normalisations, and linear layers over a sequence."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first = nn.Conv2d(1, 4, (3, 2), stride=(2, 1), padding=(0, 1), bias=False)
        self.second = nn.Conv2d(4, 6, 2, padding="valid")
        self.groups, self.over = nn.GroupNorm(3, 6), nn.LayerNorm(6)
        self.frozen, self.along, self.head = nn.Linear(6, 6), nn.Linear(6, 5), nn.Linear(5, 3, bias=False)
        self.frozen.requires_grad_(False)
        self.head_bias = nn.LayerNorm(3, elementwise_affine=False)

    def forward(self, inputs: Tensor) -> Tensor:
        seen = torch.tanh(self.groups(self.second(torch.tanh(self.first(inputs)))))
        sequence = self.over(seen.flatten(2).transpose(1, 2))
        return self.head_bias(self.head(torch.tanh(self.along(self.frozen(sequence))).mean(dim=1)))


@pytest.mark.parametrize("clip", [0.01, 0.5, 100.0])
def test_the_direct_path_gives_opacus_sums_for_every_layer_it_knows(clip: float) -> None:
    ends = []
    for mode in ("hooks", "direct"):
        module = Varied()
        trained = [each for each in module.parameters() if each.requires_grad]
        how = settings(noise=1e-30, rate=0.4, steps=4, clip=clip, mode=mode, physical_batch_size=9)
        train_privately(
            module,
            torch.optim.SGD(trained, lr=0.5),
            F.cross_entropy,
            *data(),
            how,
            Spent(),
            sampling=stream(2),
            noise=stream(3),
        )
        ends.append(flat(module))
    start = flat(Varied())
    assert np.abs(ends[0] - start).max() > 1e-4
    assert ends[1] == pytest.approx(ends[0], abs=1e-5)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(64, 64), nn.Linear(64, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.layer(self.layer(inputs.flatten(1))))


def tied() -> nn.Module:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 3))
    module[2].weight = module[1].weight
    return module


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(72, 3)), "in place"),
        (Twice, "more than once"),
        (tied, "no direct path"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3, dilation=2), nn.Flatten(), nn.Linear(32, 3)), "no direct path"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.Flatten(), nn.Linear(128, 3)), "no direct path"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Embedding(3, 3), nn.Linear(3, 3)), "no direct path"),
    ],
)
def test_the_direct_path_refuses_what_it_would_get_wrong(module: Callable[[], nn.Module], reason: str) -> None:
    built = module()
    before = flat(built)
    with pytest.raises(PrivacyError, match=reason):
        train(built, settings(mode="direct"))
    assert np.array_equal(flat(built), before)
    assert not any(layer._forward_hooks for layer in built.modules())


class Clock:
    """Seconds that a test dealt out: for every pass a start and an end."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.order, self.now, self.calls = list(seconds.values()), 0.0, 0

    def __call__(self) -> float:
        self.calls += 1
        if self.calls % 2 == 0:
            self.now += self.order[(self.calls - 1) // 8]  # four passes a mode, two readings a pass
        return self.now


@pytest.mark.parametrize("fastest", MODES)
def test_the_mode_that_is_measured_as_fastest_is_chosen_and_the_module_left_alone(fastest: Mode) -> None:
    module = network()
    before = flat(module)
    clock = Clock({mode: 1.0 if mode == fastest else 2.0 for mode in MODES})
    assert fastest_mode(module, F.cross_entropy, *data(), settings(), clock) == fastest
    assert np.array_equal(flat(module), before)
    assert all(not layer._forward_hooks for layer in module.modules())


def test_a_mode_that_cannot_train_the_module_is_passed_over() -> None:
    clock = Clock(dict.fromkeys(MODES, 1.0))
    assert fastest_mode(Positions(expanded=True), F.cross_entropy, *TEXT, settings(), clock) == "hooks"
    with pytest.raises(PrivacyError, match="BatchNorm"):
        fastest_mode(nn.Sequential(nn.BatchNorm2d(1), nn.Linear(8, 3)), F.cross_entropy, *data(), settings(), clock)


def test_private_training_learns() -> None:
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(2000, 10, generator=generator)
    targets = (inputs[:, 0] > 0).long()
    module = nn.Linear(10, 2)
    how = DpSgd(RecordNoise(1.0, 0.1, 60), l2_clip=1.0, expected_batch_size=200.0)
    train(module, how, records=(inputs, targets))
    assert float((module(inputs).argmax(dim=1) == targets).float().mean()) > 0.95
