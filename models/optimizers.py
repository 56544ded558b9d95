"""Local optimizers over flat vectors.

They compute what `torch.optim` computes with the same settings, on one tensor instead of a list of them: one kernel for
each operation however many layers the model has, and the same code for one model or a stack of them.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor


class Optimizer(Protocol):
    """State of one local training run."""

    def step(self, weights: Tensor, gradient: Tensor) -> None:
        """Move `weights` in place; `gradient`, of the same shape, is used up as working space."""


class Sgd:
    """Stochastic gradient descent: `b <- momentum b + (g + weight_decay w)`, `w <- w - learning_rate b`."""

    def __init__(self, learning_rate: float, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        """Start with an empty momentum buffer."""
        self._learning_rate = learning_rate
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._buffer: Tensor | None = None

    @torch.no_grad()
    def step(self, weights: Tensor, gradient: Tensor) -> None:
        """Move `weights` in place."""
        if self._weight_decay:
            gradient.add_(weights, alpha=self._weight_decay)
        if self._momentum:
            if self._buffer is None:
                self._buffer = gradient.clone()
            else:
                self._buffer.mul_(self._momentum).add_(gradient)
            gradient = self._buffer
        weights.add_(gradient, alpha=-self._learning_rate)


class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1) with beta 0.9 and 0.999 and epsilon 1e-8.

    With `decoupled`, weight decay shrinks the weights and not the gradient (AdamW, Loshchilov and Hutter 2019,
    algorithm 2).
    """

    _BETA1 = 0.9
    _BETA2 = 0.999
    _EPSILON = 1e-8

    def __init__(self, learning_rate: float, weight_decay: float = 0.0, *, decoupled: bool = False) -> None:
        """Start with both moments at zero."""
        self._learning_rate = learning_rate
        self._weight_decay = weight_decay
        self._decoupled = decoupled
        self._steps = 0
        self._moments: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def step(self, weights: Tensor, gradient: Tensor) -> None:
        """Move `weights` in place."""
        if self._moments is None:
            self._moments = (torch.zeros_like(weights), torch.zeros_like(weights))
        if self._decoupled:
            weights.mul_(1 - self._learning_rate * self._weight_decay)
        elif self._weight_decay:
            gradient.add_(weights, alpha=self._weight_decay)
        first, second = self._moments
        self._steps += 1
        first.lerp_(gradient, 1 - self._BETA1)
        second.mul_(self._BETA2).addcmul_(gradient, gradient, value=1 - self._BETA2)
        bias1 = 1 - self._BETA1**self._steps
        bias2 = 1 - self._BETA2**self._steps
        scale = torch.sqrt(second, out=gradient).div_(math.sqrt(bias2)).add_(self._EPSILON)
        weights.addcdiv_(first, scale, value=-self._learning_rate / bias1)
