"""The flat optimizers compute what torch's compute on lists of tensors."""

from typing import Any

import pytest
import torch
from torch import nn

from tacit.models.optimizers import Adam, Optimizer, Sgd


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (Sgd(0.1), torch.optim.SGD, {"lr": 0.1}),
        (Sgd(0.1, momentum=0.9), torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (Sgd(0.1, 0.5, 0.01), torch.optim.SGD, {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.01}),
        (Adam(0.01), torch.optim.Adam, {"lr": 0.01}),
        (Adam(0.01, 0.1), torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1}),
        (Adam(0.01, 0.1, decoupled=True), torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    ],
)
def test_ten_steps_are_those_of_torch(ours: Optimizer, theirs: Any, settings: dict[str, float]) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(40, generator=generator)
    parameters = [nn.Parameter(piece.clone()) for piece in weights.split([3, 30, 7])]
    optimizer = theirs(parameters, **settings)
    for _ in range(10):
        gradient = torch.randn(40, generator=generator)
        for parameter, piece in zip(parameters, gradient.clone().split([3, 30, 7]), strict=True):
            parameter.grad = piece
        optimizer.step()
        ours.step(weights, gradient)
    torch.testing.assert_close(weights, torch.cat(list(parameters)).detach(), rtol=1e-5, atol=1e-7)
