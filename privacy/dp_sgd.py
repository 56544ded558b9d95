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

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import torch
from dp_accounting import dp_event
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing Opacus warns of its own dependencies' deprecations
    from opacus.accountants import RDPAccountant
    from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping
    from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
    from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed
    from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
    from opacus.validators import ModuleValidator

from tacit.privacy.accounting import in_sequence
from tacit.privacy.errors import LocalProtocolError, PrivacyError
from tacit.privacy.skellam import Words
from tacit.privacy.terms import RecordNoise

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Takes outputs `(batch, ...)` and targets `(batch, ...)`; only ever called with a batch of one."""

Mode: TypeAlias = Literal["hooks", "ghost", "vmap"]

MODES: Final[tuple[Mode, ...]] = ("hooks", "ghost", "vmap")
"""How gradients are clipped one by one: Opacus' hooks; its ghost clipping, which never holds a gradient per example
and so fits large models; `torch.func.vmap`, which is the fastest for some small ones. All give the same sums."""


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

    Edge cases: an empty batch is a step of noise alone; a client without any record adds only noise. Gradients that
    are not finite are a data-dependent abort, which no epsilon covers.

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
    with _quiet(), _private(module, optimizer, loss, settings, noise) as (private, backward):
        private.attach_step_hook(accountant.get_optimizer_hook_fn(settings.noise.sample_rate))
        for _ in range(settings.noise.steps):
            chosen = poisson_batch(sampling, len(inputs), settings.noise.sample_rate)
            # One piece at least: an empty batch is a step too.
            pieces = np.array_split(chosen, max(1, math.ceil(len(chosen) / settings.physical_batch_size)))
            for place, piece in enumerate(pieces, start=1):
                private.zero_grad()
                picked = torch.from_numpy(piece)
                if len(piece):
                    backward(inputs[picked].to(device), targets[picked].to(device))
                else:
                    _nothing(private)
                private.signal_skip_step(do_skip=place < len(pieces))
                private.step()
        private.zero_grad(set_to_none=True)
    if not all(bool(torch.isfinite(parameter).all()) for parameter in module.parameters()):
        raise LocalProtocolError("the parameters are no longer finite; nothing of them may be sent")
    return Spent(tuple((float(z), float(q), int(steps)) for z, q, steps in accountant.history))


def poisson_batch(words: Words, records: int, sample_rate: float) -> NDArray[np.int64]:
    """Draw a Poisson sample of `range(records)`: each index by itself with probability `sample_rate`, up to 2^-64."""
    if sample_rate >= 1.0:
        return np.arange(records)
    return np.flatnonzero(words.words64(records) < np.uint64(int(sample_rate * 2.0**64)))


def normals(words: Words, count: int, device: torch.device) -> Tensor:
    """Draw `count` standard normal float64 values on `device`: each half the sum of four inverted 52-bit uniforms.

    The sum of four keeps the low bits of a float from betraying the noise (Holohan and Braghin 2021).
    """
    drawn = torch.from_numpy(words.words64(4 * count).view(np.int64)).to(device)
    uniform = (((drawn >> 12) & ((1 << 52) - 1)).double() + 0.5) * 2.0**-52
    quarters: Tensor = torch.special.ndtri(uniform).reshape(4, count)
    return quarters.sum(dim=0) / 2.0


class _KeyedNoise:
    """Opacus' noise step with words of our own in place of a torch generator; the rest of the step is Opacus'."""

    words: Words
    params: Sequence[nn.Parameter]
    noise_multiplier: float
    max_grad_norm: float

    def add_noise(self) -> None:
        """Set every gradient to its clipped sum plus noise of deviation `noise_multiplier max_grad_norm`."""
        sizes = [parameter.numel() for parameter in self.params]
        drawn = normals(self.words, sum(sizes), self.params[0].device) * (self.noise_multiplier * self.max_grad_norm)
        for parameter, noise in zip(self.params, torch.split(drawn, sizes), strict=True):
            summed: Tensor = parameter.summed_grad  # type: ignore[attr-defined]  # Opacus puts it there
            _check_processed_flag(summed)
            parameter.grad = (summed + noise.view_as(parameter).to(summed.dtype)).view_as(parameter)
            _mark_as_processed(summed)


class _Optimizer(_KeyedNoise, DPOptimizer):  # type: ignore[misc]  # Opacus has no types
    """Opacus' optimizer for gradients held one by one."""


class _GhostOptimizer(_KeyedNoise, DPOptimizerFastGradientClipping):  # type: ignore[misc]  # Opacus has no types
    """Opacus' optimizer for gradients that were clipped on their way."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's remark that the first layer's input needs no gradient: true, and as it should be."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        yield


class _GhostHooks(GradSampleHooksFastGradientClipping):  # type: ignore[misc]  # Opacus has no types
    """Opacus' ghost clipping, which says so when a parameter has no norm for each example."""

    batch = 0

    def get_norm_sample(self) -> Tensor:
        """Return the norm of every example's gradient, shape `(batch,)`."""
        for name, parameter in self._module.named_parameters():
            if parameter.requires_grad:
                _check_samples(name, getattr(parameter, "_norm_sample", None), self.batch)
        norms: Tensor = super().get_norm_sample()
        return norms


Backward: TypeAlias = Callable[[Tensor, Tensor], None]

_TRACES: Final = (
    *("activations", "max_batch_len", "autograd_grad_sample_hooks", "ft_compute_sample_grad"),
    *("grad_sample", "summed_grad", "_norm_sample", "_forward_counter", "_current_grad_sample"),
)


@contextmanager
def _private(
    module: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, settings: DpSgd, noise: Words
) -> Iterator[tuple[Any, Backward]]:
    """Yield Opacus' optimizer and a backward pass for it; take every trace off the module at the end."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    listed = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    if listed != set(trained):
        raise PrivacyError("the optimizer's parameters are not the model's trainable ones")
    kind = _GhostOptimizer if settings.mode == "ghost" else _Optimizer
    private = kind(
        optimizer,
        noise_multiplier=settings.noise.noise_multiplier,
        max_grad_norm=settings.l2_clip,
        expected_batch_size=settings.expected_batch_size,
        loss_reduction="mean",  # divides the noised sum by the expected batch size; our losses are sums
    )
    private.words = noise
    hooks: Any = None
    try:
        if settings.mode == "hooks":
            hooks = GradSampleHooks(module, loss_reduction="sum")
            yield private, _hooked(module, loss)
        elif settings.mode == "ghost":
            hooks = _GhostHooks(module, loss_reduction="sum", max_grad_norm=settings.l2_clip, use_ghost_clipping=True)
            yield private, _ghost(module, loss, hooks, private)
        else:
            yield private, _vmapped(module, loss)
    finally:
        if hooks is not None:
            hooks.cleanup()
        # What Opacus leaves: after an error even a batch's activations, which would spoil the next pass and are data.
        for place in (*module.modules(), *trained):
            for name in _TRACES:
                if name in vars(place):
                    delattr(place, name)


def _each(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return every example's own loss, shape `(batch,)`: the loss of a batch of one."""
    return vmap(lambda output, target: loss(output[None], target[None]), randomness="different")(outputs, targets)


def _hooked(module: nn.Module, loss: Loss) -> Backward:
    def backward(inputs: Tensor, targets: Tensor) -> None:
        torch.autograd.backward(_each(loss, module(inputs), targets).sum())
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                _check_samples(name, getattr(parameter, "grad_sample", None), len(inputs))

    return backward


def _ghost(module: nn.Module, loss: Loss, hooks: Any, private: Any) -> Backward:
    def backward(inputs: Tensor, targets: Tensor) -> None:
        hooks.batch = len(inputs)
        each = _each(loss, module(inputs), targets)
        DPTensorFastGradientClipping(hooks, private, each, "sum").backward()

    return backward


def _vmapped(module: nn.Module, loss: Loss) -> Backward:
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}

    def one(weights: dict[str, Tensor], single: Tensor, target: Tensor) -> Tensor:
        return loss(functional_call(module, weights, (single[None],)), target[None])

    every = vmap(grad(one), in_dims=(None, 0, 0), randomness="different")

    def backward(inputs: Tensor, targets: Tensor) -> None:
        weights = {name: parameter.detach() for name, parameter in trained.items()}
        for name, samples in every(weights, inputs, targets).items():
            trained[name].grad_sample = samples  # type: ignore[attr-defined]  # where Opacus looks for it

    return backward


def _check_samples(name: str, samples: object, batch: int) -> None:
    if not isinstance(samples, Tensor) or len(samples) != batch:
        raise PrivacyError(
            f"parameter {name} has no gradient for each of {batch} examples: it is unused, or what enters its layer "
            f"(such as position ids) is broadcast over the batch; expand that to the batch, or freeze the layer"
        )


def _nothing(private: Any) -> None:
    """Make an empty batch's gradients: none in number, zero in sum."""
    for parameter in private.params:
        parameter.grad_sample = torch.zeros((0, *parameter.shape), dtype=parameter.dtype, device=parameter.device)
        parameter.grad = torch.zeros_like(parameter)
