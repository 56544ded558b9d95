"""Factories as a user would write them, for the tests that import one by name."""

from torch import nn


def linear(input_shape: tuple[int, ...], outputs: int, width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(input_shape[0], width), nn.Linear(width, outputs))


def batch_norm(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(input_shape[0]), nn.Linear(input_shape[0], outputs))


def instance_norm(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.InstanceNorm1d(1, track_running_stats=True), nn.Linear(input_shape[0], outputs))


def no_module(input_shape: tuple[int, ...], outputs: int) -> str:
    return "no network"


def wrong_outputs(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Linear(input_shape[0], outputs + 1)


def wrong_inputs(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Linear(input_shape[0] + 1, outputs)


def broken(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    raise KeyError("first line\nsecond line")
