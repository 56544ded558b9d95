"""How one step's gradients are clipped and noised: Opacus' ways and our own, behind one seam.

Whatever the way, Opacus' optimizer takes the sums over, keeps a batch's pieces together, adds up, calls its accountant
and steps; only the words behind its noise are ours.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing Opacus warns of its own dependencies' deprecations
    from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping
    from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
    from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed
    from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

from tacit.privacy.dp_sgd_direct import Calls, add_clipped_sums, recorded
from tacit.privacy.errors import PrivacyError
from tacit.privacy.skellam import Words

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Takes outputs `(batch, ...)` and targets `(batch, ...)`; only ever called with a batch of one."""

Mode: TypeAlias = Literal["hooks", "ghost", "vmap", "direct"]

MODES: Final[tuple[Mode, ...]] = ("hooks", "ghost", "vmap", "direct")
"""How gradients are clipped one by one: Opacus' hooks; its ghost clipping, which never holds a gradient per example
and so fits large models; `torch.func.vmap`; our own pass for common layers (`dp_sgd_direct`), the fastest where it
knows them all. All give the same sums; `fastest_mode` measures."""

Backward: TypeAlias = Callable[[Tensor, Tensor], None]
"""Takes inputs and targets and leaves clipped sums, or gradients one by one, where Opacus' optimizer looks."""

_TRACES: Final = (
    *("activations", "max_batch_len", "autograd_grad_sample_hooks", "ft_compute_sample_grad"),
    *("grad_sample", "summed_grad", "_norm_sample", "_forward_counter", "_current_grad_sample"),
)


def normals(words: Words, count: int, device: torch.device) -> Tensor:
    """Draw `count` standard normal float64 values on `device` from 52-bit uniforms, each half a sum of four.

    Box and Muller 1958: radius `r = sqrt(-2 ln u)` and angle `a = 2 pi v` give the normals `r cos a` and `r sin a`. A
    sum of four keeps the low bits of a float from betraying the noise (Holohan and Braghin 2021). Of two radii and
    angles, `(r_1 cos a_1 + r_2 cos a_2) / sqrt 2` is half such a sum, as turning each angle by an eighth shows, and the
    same with sines is another that is independent of it: whoever saw both would have two uniforms left to guess.
    """
    half = -(-count // 2)
    drawn = words.words64(4 * half)
    drawn >>= np.uint64(12)
    drawn |= np.uint64(0x3FF << 52)  # the bits of a float in [1, 2)
    uniform = torch.from_numpy(drawn.view(np.float64)).to(device).sub_(1.0 - 2.0**-53)  # exact; neither 0 nor 1
    radius = uniform[: 2 * half].log_().neg_().sqrt_()
    angle = uniform[2 * half :].mul_(2.0 * math.pi)
    sines, cosines = angle.sin().mul_(radius), angle.cos_().mul_(radius)
    return torch.cat([cosines[:half] + cosines[half:], sines[:half] + sines[half:]])[:count]


class _KeyedNoise:
    """Opacus' noise step with words of our own in place of a torch generator; the rest of the step is Opacus'."""

    words: Words
    params: Sequence[nn.Parameter]
    noise_multiplier: float
    max_grad_norm: float

    def add_noise(self) -> None:
        """Set every gradient to its clipped sum plus noise of deviation `noise_multiplier max_grad_norm`."""
        sizes = [parameter.numel() for parameter in self.params]
        where, dtype = self.params[0].device, self.params[0].dtype
        device = torch.device("cpu") if where.type == "mps" else where  # which has no float64
        drawn = normals(self.words, sum(sizes), device).mul_(self.noise_multiplier * self.max_grad_norm)
        for parameter, noise in zip(self.params, torch.split(drawn.to(where, dtype), sizes), strict=True):
            summed: Tensor = parameter.summed_grad  # type: ignore[attr-defined]  # Opacus puts it there
            _check_processed_flag(summed)
            parameter.grad = noise.view_as(parameter).add_(summed)
            _mark_as_processed(summed)


class _Optimizer(_KeyedNoise, DPOptimizer):  # type: ignore[misc]  # Opacus has no types
    """Opacus' optimizer for gradients held one by one."""


class _GhostOptimizer(_KeyedNoise, DPOptimizerFastGradientClipping):  # type: ignore[misc]  # Opacus has no types
    """Opacus' optimizer for gradients that were clipped on their way."""

    def accumulate(self) -> None:
        """Add a piece's clipped sums up, and take the first over as it is, which Opacus copies deeply."""
        for parameter in self.params:
            if parameter.summed_grad is None:  # type: ignore[attr-defined]  # Opacus puts it there
                parameter.summed_grad, parameter.grad = parameter.grad, None  # type: ignore[attr-defined]
            else:
                parameter.summed_grad.add_(parameter.grad)  # type: ignore[attr-defined]


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


@contextmanager
def private_steps(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    mode: Mode,
    noise_multiplier: float,
    l2_clip: float,
    expected_batch_size: float,
    noise: Words,
) -> Iterator[tuple[Any, Backward]]:
    """Yield Opacus' optimizer and a backward pass for it; take every trace off the module at the end.

    Raises:
        PrivacyError: the optimizer is over other parameters, or the mode cannot train a layer.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    listed = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    if listed != set(trained):
        raise PrivacyError("the optimizer's parameters are not the model's trainable ones")
    kind = _GhostOptimizer if mode in ("ghost", "direct") else _Optimizer
    private = kind(
        optimizer,
        noise_multiplier=noise_multiplier,
        max_grad_norm=l2_clip,
        expected_batch_size=expected_batch_size,
        loss_reduction="mean",  # divides the noised sum by the expected batch size; our losses are sums
    )
    private.words = noise
    hooks: Any = None
    try:
        if mode == "hooks":
            hooks = GradSampleHooks(module, loss_reduction="sum")
            yield private, _hooked(module, loss)
        elif mode == "ghost":
            hooks = _GhostHooks(module, loss_reduction="sum", max_grad_norm=l2_clip, use_ghost_clipping=True)
            yield private, _ghost(module, loss, hooks, private)
        elif mode == "direct":
            with _channels_last(module), recorded(module) as calls:
                yield private, _directly(module, loss, calls, l2_clip)
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


@contextmanager
def _channels_last(module: nn.Module) -> Iterator[None]:
    """Lay weights of convolutions out as the direct path reads them, a tenth of a step faster, and back at the end."""
    weights = [parameter for parameter in module.parameters() if parameter.dim() == 4]
    for weight in weights:
        weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for weight in weights:
            weight.data = weight.data.contiguous()


def _directly(module: nn.Module, loss: Loss, calls: Calls, l2_clip: float) -> Backward:
    def backward(inputs: Tensor, targets: Tensor) -> None:
        calls.clear()
        channels_last = inputs.to(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs
        add_clipped_sums(calls, _each(loss, module(channels_last), targets), l2_clip)
        calls.clear()

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


def no_gradients(private: Any) -> None:
    """Leave an empty batch's gradients for the optimizer: none in number, or zero in sum."""
    for parameter in private.params:
        if isinstance(private, _GhostOptimizer):
            # Nothing one by one: what lies there now would be in the way of the next pass.
            parameter.grad = torch.zeros_like(parameter)
        else:
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))


def all_finite(private: Any) -> bool:
    """Say whether what a pass has left for the optimizer, sums or gradients one by one, is all finite; in one look."""
    where = "grad" if isinstance(private, _GhostOptimizer) else "grad_sample"
    left = [getattr(parameter, where).detach() for parameter in private.params]
    # What is not finite leaves no sum finite; a sum that has grown beyond all bounds by itself is looked at again.
    if bool(torch.stack([gradients.sum() for gradients in left]).isfinite().all()):
        return True
    return all(bool(gradients.isfinite().all()) for gradients in left)
