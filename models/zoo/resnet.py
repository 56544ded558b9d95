"""A residual network for small images, with group instead of batch normalisation.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", 2016: basic blocks (section 3.3) behind the 3x3
stem of their CIFAR-10 networks (section 4.2). Wu and He, "Group Normalization", 2018: a norm without running
statistics, so that averaging over clients means what it says.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tacit.models.zoo.images import image_shape
from tacit.models.zoo.options import ResnetOptions


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels: int, stride: int, groups: int) -> None:
        """Build the block; `groups` divides `channels`."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.GroupNorm(groups, channels)
            )

    def forward(self, images: Tensor) -> Tensor:
        """Map `(batch, channels_in, height, width)` to `(batch, channels, height / stride, width / stride)`."""
        hidden = F.relu(self.norm1(self.conv1(images)))
        return F.relu(self.norm2(self.conv2(hidden)) + self.shortcut(images))


def build(input_shape: tuple[int, ...], outputs: int, options: ResnetOptions) -> nn.Module:
    """Return stem, stages and a linear layer over the mean of the last feature map.

    Raises:
        InputError: `input_shape` is not `(channels, height, width)` with height and width of at least 8.
    """
    channels_in, _, _ = image_shape(input_shape, "resnet")
    width = options.width
    # Eight channels a group at the first stage, and as many groups later: never one value a group, even on 1x1 maps.
    groups = width // 8
    layers: list[nn.Module] = [
        nn.Conv2d(channels_in, width, 3, padding=1, bias=False),
        nn.GroupNorm(groups, width),
        nn.ReLU(),
    ]
    channels_in = width
    for stage, count in enumerate(options.blocks):
        channels = width << stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            layers.append(BasicBlock(channels_in, channels, stride, groups))
            channels_in = channels
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels_in, outputs)]
    return nn.Sequential(*layers)
