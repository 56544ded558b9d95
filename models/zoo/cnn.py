"""A small convolutional network for images of 8x8 and more.

Strides halve the image in each convolution, where most small networks convolve at full size and pool afterwards: a
quarter of the products, and no pooling, which on a CPU costs more than these convolutions do. A local pass is three
times as fast, and that buys more accuracy than the pooled network's better rounds do.

The default width is a trade for the same reason: 16 and 32 channels with 64 dense units are 106 thousand parameters for
28x28 images. Every parameter also travels, and under user-level privacy brings its own share of the noise.

Under DP-SGD a bounded activation keeps gradients from growing beyond the clip and loses less accuracy (Papernot,
Thakurta, Song, Chien and Erlingsson, "Tempered Sigmoid Activations for Deep Learning with Differential Privacy", 2021).
"""

from __future__ import annotations

from torch import nn

from tacit.models.zoo.images import image_shape
from tacit.models.zoo.options import CnnOptions

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


def build(input_shape: tuple[int, ...], outputs: int, options: CnnOptions) -> nn.Module:
    """Return a 5x5 and a 3x3 convolution, each with stride 2, and two linear layers.

    Raises:
        InputError: `input_shape` is not `(channels, height, width)` with height and width of at least 8.
    """
    channels, height, width = image_shape(input_shape, "cnn")
    first, second = options.channels
    activation = _ACTIVATIONS[options.activation]
    layers: list[nn.Module] = [
        nn.Conv2d(channels, first, 5, stride=2, padding=2),
        activation(),
        nn.Conv2d(first, second, 3, stride=2, padding=1),
        activation(),
        nn.Flatten(),
        # The padding makes each convolution halve a side, rounded up: a quarter of it, rounded up, is left.
        nn.Linear(second * -(-height // 4) * -(-width // 4), options.dense),
        activation(),
    ]
    if options.dropout:
        layers.append(nn.Dropout(options.dropout))
    layers.append(nn.Linear(options.dense, outputs))
    return nn.Sequential(*layers)
