"""DP-SGD at one client, for unit "example": Opacus clips, accounts and steps; what surrounds it is here.

One step (Abadi et al. 2016, algorithm 1): every record enters the batch by itself with probability q; each record's
gradient is clipped to C; `(sum of clipped gradients + N(0, z^2 C^2)) / expected batch size` goes to the optimizer. The
expected batch size, like q, z, C and the number of steps, is public: the update shows no dataset size.

What differs from Opacus' own loop, each for a reason that a test holds:
- Batches and noise come from AES streams that the caller keys, with entropy from the operating system. A torch
  generator repeats its noise wherever `manual_seed` was called with the same number, and its Mersenne Twister can be
  solved from the noise that an adversary of the threat model is assumed to see.
- Batches are Poisson samples, always, because that is what is accounted. An empty one trains: it adds the noise.
- The accountant's state comes in and goes out, so that rounds add up.
- No module is wrapped, so no key gets a prefix, and every hook is removed at the end, whatever happens.
- Layers that mix the examples of a batch are refused by name and never replaced behind the caller's back.
"""

from __future__ import annotations

import copy
import math
import statistics
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from dp_accounting import dp_event
from numpy.typing import NDArray
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing Opacus warns of its own dependencies' deprecations
    from opacus.accountants import RDPAccountant
    from opacus.validators import ModuleValidator

from tacit.privacy.accounting import in_sequence
from tacit.privacy.dp_sgd_passes import MODES, Backward, Loss, Mode, all_finite, no_gradients, private_steps
from tacit.privacy.errors import LocalProtocolError, PrivacyError
from tacit.privacy.randomness import KEY_BYTES, Keystream
from tacit.privacy.skellam import Words
from tacit.privacy.terms import RecordNoise


@dataclass(frozen=True)
class DpSgd:
    """The public settings of a client's private local training.

    Attributes:
        noise: noise multiplier, sample rate and steps of one round.
        l2_clip: C, what each example's gradient is clipped to.
        expected_batch_size: the public number that sums are divided by; the recipe's, never one counted from the data.
        physical_batch_size: at most so many examples are in memory at once; it does not change the result.
        mode: one of `MODES`.
    """

    noise: RecordNoise
    l2_clip: float
    expected_batch_size: float
    physical_batch_size: int = 1024
    mode: Mode = "hooks"

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        if not (0.0 < self.l2_clip < math.inf and 0.0 < self.expected_batch_size < math.inf):
            raise PrivacyError("DP-SGD needs a positive, finite clip and expected batch size")
        if self.physical_batch_size < 1 or self.mode not in MODES:
            raise PrivacyError(f"DP-SGD needs a physical batch of at least 1 and a mode out of {', '.join(MODES)}")


@dataclass(frozen=True)
class Spent:
    """What a client's records have paid so far: Opacus' history of `(noise multiplier, sample rate, steps)`."""

    history: tuple[tuple[float, float, int], ...] = ()

    def event(self) -> dp_event.DpEvent:
        """Return the same as an event, for our own accounting and the ledger."""
        return in_sequence([RecordNoise(noise, rate, steps).event() for noise, rate, steps in self.history])

    def accountant(self) -> RDPAccountant:
        """Return an Opacus accountant that goes on from here."""
        accountant = RDPAccountant()
        if self.history:
            accountant.load_state_dict({"history": list(self.history), "mechanism": accountant.mechanism()})
        return accountant


def check_trainable(module: nn.Module) -> None:
    """Check that every example's gradient is its own: no layer mixes a batch or keeps statistics of the data.

    Raises:
        PrivacyError: a layer does, such as batch normalisation; the text names it and says what to use.
    """
    for name, layer in module.named_modules():
        validator = ModuleValidator.VALIDATORS.get(type(layer))
        trained = any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) or (validator and trained and validator(layer)):
            raise PrivacyError(
                f"layer {name or 'model'} ({type(layer).__name__}) cannot be trained privately example by example; "
                f"batch normalisation becomes GroupNorm, other layers Opacus' own in opacus.layers"
            )
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise PrivacyError("the model has no parameter to train")


def train_privately(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    settings: DpSgd,
    spent: Spent,
    *,
    sampling: Words,
    noise: Words,
) -> Spent:
    """Train `module` in place for one round of private steps and return what its records have paid by then.

    Guarantee: the change of the parameters is one `settings.noise.event()`, for adding or removing one record, after
    all that `spent` holds. It rests on the two streams being secret, never read before and independent.

    Edge cases: an empty batch is a step of noise alone; a client without any record adds only noise. A record whose own
    gradient is not finite adds nothing: who chooses the weights can choose what overflows, and whether the round ended
    would say without noise that there is such a record. Parameters that are no longer finite at the end then follow
    from noised sums alone.

    Args:
        module: the model, on any device; in training mode afterwards.
        optimizer: a torch optimizer over its trainable parameters.
        loss: gives the mean loss of a batch.
        inputs: shape `(records, ...)`, on any device; pieces are moved to the module's.
        targets: shape `(records, ...)`.
        settings: the public settings.
        spent: what earlier rounds returned; `Spent()` only if there were none.
        sampling: words for the batches.
        noise: words for the noise.

    Raises:
        PrivacyError: a layer cannot be trained privately, or has no gradient of its own for each example.
        LocalProtocolError: inputs and targets differ in number, or the parameters are no longer finite.
    """
    check_trainable(module)
    if len(inputs) != len(targets):
        raise LocalProtocolError(f"{len(inputs)} inputs have {len(targets)} targets")
    module.train()
    device = next(module.parameters()).device
    accountant = spent.accountant()
    with _private(module, optimizer, loss, settings, noise) as (private, backward):
        private.attach_step_hook(accountant.get_optimizer_hook_fn(settings.noise.sample_rate))
        for _ in range(settings.noise.steps):
            chosen = poisson_batch(sampling, len(inputs), settings.noise.sample_rate)
            # One piece at least: an empty batch is a step too.
            pieces = np.array_split(chosen, max(1, math.ceil(len(chosen) / settings.physical_batch_size)))
            for place, piece in enumerate(pieces, start=1):
                _piece(private, backward, inputs, targets, piece, device)
                private.signal_skip_step(do_skip=place < len(pieces))
                private.step()
        private.zero_grad(set_to_none=True)
    if not all(bool(torch.isfinite(parameter).all()) for parameter in module.parameters()):
        raise LocalProtocolError("the parameters are no longer finite; nothing of them may be sent")
    return Spent(tuple((float(z), float(q), int(steps)) for z, q, steps in accountant.history))


def _piece(
    private: Any, backward: Backward, inputs: Tensor, targets: Tensor, piece: NDArray[np.int64], device: torch.device
) -> None:
    """Leave the gradients of a piece of a batch for the optimizer, without those that are not finite."""

    def passed(rows: NDArray[np.int64]) -> bool:
        private.zero_grad(set_to_none=True)
        if not len(rows):
            no_gradients(private)
            return True
        backward(_rows(inputs, rows).to(device), _rows(targets, rows).to(device))
        return all_finite(private)

    if passed(piece):
        return
    sound = np.array([row for row in piece if passed(np.array([row]))], dtype=np.int64)
    if not passed(sound):
        passed(sound[:0])


def fastest_mode(
    module: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    settings: DpSgd,
    clock: Callable[[], float],
    repeats: int = 3,
) -> Mode:
    """Measure every mode that can train `module` and return the fastest; the module is left as it was.

    Args:
        module: the model.
        loss: gives the mean loss of a batch.
        inputs: a batch of the size to expect, made up: time shows what is measured.
        targets: its targets.
        settings: the settings of the training to come; their mode is what is looked for.
        clock: seconds, such as `time.perf_counter`; the only clock here.
        repeats: passes whose median counts, after one that does not.

    Raises:
        PrivacyError: no mode can train it; the text is that of the first.
    """
    check_trainable(module)
    measured: dict[Mode, float] = {}
    refused: list[PrivacyError] = []
    for mode in MODES:
        copied = copy.deepcopy(module).train()
        trained = [parameter for parameter in copied.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=0.0)
        noise = Keystream(bytes(KEY_BYTES))  # thrown away with the copy
        try:
            with (
                _quiet(),
                _private(copied, optimizer, loss, replace(settings, mode=mode), noise) as (private, backward),
            ):
                times = []
                for _ in range(repeats + 1):
                    started = clock()
                    private.zero_grad(set_to_none=True)
                    backward(inputs, targets)
                    private.step()
                    if inputs.is_cuda:
                        torch.cuda.synchronize(inputs.device)
                    times.append(clock() - started)
        except PrivacyError as error:
            refused.append(error)
        else:
            measured[mode] = statistics.median(times[1:])
    if not measured:
        raise refused[0]
    return min(measured, key=lambda mode: measured[mode])


def poisson_batch(words: Words, records: int, sample_rate: float) -> NDArray[np.int64]:
    """Draw a Poisson sample of `range(records)`: each index by itself with probability `sample_rate`, up to 2^-64."""
    if sample_rate >= 1.0:
        return np.arange(records)
    return np.flatnonzero(words.words64(records) < np.uint64(int(sample_rate * 2.0**64)))


def _rows(records: Tensor, picked: NDArray[np.int64]) -> Tensor:
    return records.index_select(0, torch.from_numpy(picked).to(records.device))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's remark that the first layer's input needs no gradient: true, and as it should be."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        yield


@contextmanager
def _private(
    module: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, settings: DpSgd, noise: Words
) -> Iterator[tuple[Any, Backward]]:
    with (
        _quiet(),
        private_steps(
            module,
            optimizer,
            loss,
            settings.mode,
            settings.noise.noise_multiplier,
            settings.l2_clip,
            settings.expected_batch_size,
            noise,
        ) as steps,
    ):
        yield steps
