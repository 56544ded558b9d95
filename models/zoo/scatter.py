"""A linear layer over the scattering transform of an image: features that are strong without having seen any data.

Bruna and Mallat, "Invariant Scattering Convolution Networks", 2013: with oriented Morlet wavelets `psi` of scales 1 and
2 and a Gaussian `phi` of scale 4, an image `x` gives `x * phi`, `|x * psi_a| * phi` and `||x * psi_a| * psi_b| * phi`
for `b` coarser than `a` (section 2), at every fourth place. Tramer and Boneh, "Differentially Private Learning Needs
Better Features (or Much More Data)", 2021, train a linear layer on them: under DP-SGD its few parameters, and what the
wavelets already know about images, are worth more than what a deep network could learn under the noise.

The features are normalised example by example over groups of channels (their section 3.2), which needs no statistics of
anybody's data. Nothing before the linear layer is trained, so a trainer computes it once (`tacit.models.zoo.frozen`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tacit.models.zoo.frozen import Frozen
from tacit.models.zoo.images import image_shape
from tacit.models.zoo.options import ScatterOptions

ORIENTATIONS = 8
# One of order 0, one for each wavelet of both scales, and one for each pair of a fine and a coarse wavelet.
FEATURES = 1 + 2 * ORIENTATIONS + ORIENTATIONS**2
# A third of the features share a norm, three neighbours each.
_GROUPS = FEATURES // 3

# The common Morlet wavelet: a wave of three eighths of a cycle a pixel at scale 1, under an oval Gaussian.
_DEVIATION, _FREQUENCY, _ASPECT = 0.8, 0.75 * math.pi, 4 / ORIENTATIONS
_DEVIATIONS = 3.0  # where filters are cut off


class Scattering(nn.Module):
    """The scattering transform of order 2 and scale 4 of every channel of an image; it has nothing to train."""

    fine: Tensor
    coarse: Tensor
    smooth: Tensor
    smooth_half: Tensor

    def __init__(self) -> None:
        """Compute the filters: real and imaginary parts one after the other, shape `(filters, 1, side, side)`."""
        super().__init__()
        # Not persistent: they follow from this file, so they are part of no model that is saved or sent.
        self.register_buffer("fine", _wavelets(1), persistent=False)
        self.register_buffer("coarse", _wavelets(2), persistent=False)
        self.register_buffer("smooth", _gaussian(2 * _DEVIATION), persistent=False)
        self.register_buffer("smooth_half", _gaussian(_DEVIATION), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map `(batch, channels, height, width)` to `(batch, 81 channels, height / 4, width / 4)`, rounded up."""
        single = images.flatten(0, 1)[:, None]
        fine = _modulus(_filtered(single, self.fine, 1))
        coarse = _modulus(_filtered(single, self.coarse, 2))  # at every second place: it has no finer detail
        both = _modulus(_filtered(_one_channel(fine), self.coarse, 2)).unflatten(0, fine.shape[:2]).flatten(1, 2)
        smoothed = [_filtered(single, self.smooth, 4)]
        for features, gaussian, stride in (
            (fine, self.smooth, 4),
            (coarse, self.smooth_half, 2),
            (both, self.smooth_half, 2),
        ):
            smoothed.append(_filtered(_one_channel(features), gaussian, stride).view(*_leading(features, stride)))
        return torch.cat(smoothed, dim=1).unflatten(0, images.shape[:2]).flatten(1, 2)


def build(input_shape: tuple[int, ...], outputs: int, options: ScatterOptions) -> nn.Module:
    """Return the frozen features and one linear layer over them, starting from zero.

    Raises:
        InputError: `input_shape` is not `(channels, height, width)` with height and width of at least 8.
    """
    channels, height, width = image_shape(input_shape, "scatter")
    normalised = nn.GroupNorm(_GROUPS * channels, FEATURES * channels, affine=False)
    linear = nn.Linear(FEATURES * channels * -(-height // 4) * -(-width // 4), outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(Frozen(Scattering(), normalised, nn.Flatten()), linear)


def _filtered(images: Tensor, filters: Tensor, stride: int) -> Tensor:
    """Filter `(batch, 1, height, width)` at every `stride`-th place; beyond its border an image goes on unchanged."""
    margin = filters.shape[-1] // 2
    return F.conv2d(F.pad(images, (margin,) * 4, mode="replicate"), filters, stride=stride)


def _modulus(filtered: Tensor) -> Tensor:
    """Return the absolute values, `(batch, orientations, ...)`, of real and imaginary parts in turn."""
    return filtered.square_().unflatten(1, (-1, 2)).sum(dim=2).sqrt_()


def _one_channel(features: Tensor) -> Tensor:
    return features.flatten(0, 1)[:, None]


def _leading(features: Tensor, stride: int) -> tuple[int, int, int, int]:
    batch, channels, height, width = features.shape
    return batch, channels, -(-height // stride), -(-width // stride)


def _wavelets(scale: int) -> Tensor:
    return torch.stack([part for step in range(ORIENTATIONS) for part in _morlet(scale, step * math.pi / ORIENTATIONS)])


def _morlet(scale: int, angle: float) -> tuple[Tensor, Tensor]:
    """Return real and imaginary part, `(1, side, side)`, of the wavelet `g(u) (exp(i w u_1) - c)`, `u` turned by angle.

    `c` makes the mean zero, so that a plain surface gives nothing.
    """
    deviation = _DEVIATION * scale
    along, across = _turned(math.ceil(_DEVIATIONS * deviation / _ASPECT), angle)
    bell = torch.exp(-(along.square() + (_ASPECT * across).square()) / (2 * deviation**2))
    wave = along * (_FREQUENCY / scale)
    offset = (bell * wave.cos()).sum() / bell.sum()
    bell /= 2 * math.pi * deviation**2 / _ASPECT
    return (bell * (wave.cos() - offset)).float()[None], (bell * wave.sin()).float()[None]


def _gaussian(deviation: float) -> Tensor:
    """Return a Gaussian of sum one, `(1, 1, side, side)`."""
    along, across = _turned(math.ceil(_DEVIATIONS * deviation), 0.0)
    bell = torch.exp(-(along.square() + across.square()) / (2 * deviation**2))
    return (bell / bell.sum()).float()[None, None]


def _turned(margin: int, angle: float) -> tuple[Tensor, Tensor]:
    """Return both coordinates of a square's pixels, shape `(side, side)`, in axes turned by `angle`."""
    places = torch.arange(-margin, margin + 1, dtype=torch.float64)
    down, right = torch.meshgrid(places, places, indexing="ij")
    return math.cos(angle) * right + math.sin(angle) * down, math.cos(angle) * down - math.sin(angle) * right
