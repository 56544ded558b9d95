"""The scattering network: what its features are, and that they are computed once and never trained."""

import cmath
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tacit.models.errors import InputError
from tacit.models.vector import layout_of, read_vector
from tacit.models.zoo import build
from tacit.models.zoo.frozen import Frozen, frozen_features, split_frozen
from tacit.models.zoo.scatter import FEATURES, ORIENTATIONS, Scattering

FINE = slice(1, 1 + ORIENTATIONS)
COARSE = slice(1 + ORIENTATIONS, 1 + 2 * ORIENTATIONS)


def images(count: int = 3, side: int = 29, channels: int = 1) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(4))


def scattered(batch: Tensor) -> Tensor:
    return Scattering()(batch)


def wave(frequency: float, step: int, side: int = 41) -> Tensor:
    """Return an image of a plane wave whose crests are normal to `step` eighths of a half turn."""
    angle = step * math.pi / ORIENTATIONS
    down, right = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.cos(frequency * (math.cos(angle) * right + math.sin(angle) * down))[None, None]


def test_a_plain_surface_has_its_brightness_and_nothing_else() -> None:
    found = scattered(torch.full((1, 1, 16, 16), 0.7))
    assert found.shape == (1, FEATURES, 4, 4)
    torch.testing.assert_close(found[:, 0], torch.full((1, 4, 4), 0.7))
    assert float(found[:, 1:].abs().max()) < 1e-5


@pytest.mark.parametrize("step", range(ORIENTATIONS))
@pytest.mark.parametrize(("frequency", "scale"), [(0.75 * math.pi, FINE), (0.375 * math.pi, COARSE)])
def test_a_wave_is_seen_by_the_wavelet_of_its_direction_and_scale(step: int, frequency: float, scale: slice) -> None:
    middle = scattered(wave(frequency, step))[0, :, 5, 5]
    assert int(middle[scale].argmax()) == step
    assert int(middle[1 : COARSE.stop].argmax()) == scale.start - 1 + step


def test_a_feature_is_what_its_definition_says() -> None:
    # Sums written out for one fine feature in the middle, where no filter reaches the border.
    image, place, angle = images(1)[0, 0].double(), 12, 3 * math.pi / ORIENTATIONS
    near = [(down, right) for down in range(-5, 6) for right in range(-5, 6)]
    bells, waves = [], []
    for down, right in near:
        along = math.cos(angle) * right + math.sin(angle) * down
        across = math.cos(angle) * down - math.sin(angle) * right
        bells.append(math.exp(-(along**2 + across**2 / 4) / (2 * 0.8**2)))
        waves.append(cmath.exp(0.75j * math.pi * along))
    mean = sum(bell * wave.real for bell, wave in zip(bells, waves, strict=True)) / sum(bells)
    wavelet = [bell * (wave - mean) / (4 * math.pi * 0.8**2) for bell, wave in zip(bells, waves, strict=True)]

    def response(y: int, x: int) -> float:
        return abs(sum(w * float(image[y + down, x + right]) for w, (down, right) in zip(wavelet, near, strict=True)))

    smooth = [math.exp(-(down**2 + right**2) / (2 * 1.6**2)) for down, right in near]
    summed = sum(s * response(place + down, place + right) for s, (down, right) in zip(smooth, near, strict=True))
    found = scattered(image[None, None].float())[0, 1 + 3, place // 4, place // 4]
    assert float(found) == pytest.approx(summed / sum(smooth), rel=1e-4)


def test_turning_an_image_turns_its_features() -> None:
    # A side of 4 n + 1 has places at both ends, so that turned places are places again.
    image = images()
    turned, still = scattered(torch.rot90(image, 1, (2, 3))), torch.rot90(scattered(image), 1, (2, 3))
    fine, coarse = still[:, FINE].roll(4, 1), still[:, COARSE].roll(4, 1)
    both = still[:, COARSE.stop :].unflatten(1, (8, 8)).roll((4, 4), (1, 2)).flatten(1, 2)
    torch.testing.assert_close(turned, torch.cat([still[:, :1], fine, coarse, both], 1), atol=1e-5, rtol=1e-4)


def test_moving_an_image_by_four_pixels_moves_its_features_by_one_place() -> None:
    image = F.pad(images(1, 9), (24, 24, 24, 24))
    moved = scattered(torch.roll(image, (4, 8), (2, 3)))
    torch.testing.assert_close(moved, torch.roll(scattered(image), (1, 2), (2, 3)), atol=1e-5, rtol=1e-4)


def test_moving_an_image_by_one_pixel_changes_features_less_than_pixels() -> None:
    image = F.pad(images(1, 21), (4, 4, 4, 4))
    moved = torch.roll(image, 1, 3)
    before, after = scattered(image), scattered(moved)
    pixels = float((image - moved).norm() / image.norm())
    assert float((before - after).norm() / before.norm()) < pixels / 3


def test_colours_are_transformed_one_by_one() -> None:
    image = images(2, 16, channels=3)
    each = [scattered(image[:, at : at + 1]) for at in range(3)]
    torch.testing.assert_close(scattered(image), torch.cat(each, 1))


def test_only_the_linear_layer_is_part_of_the_model() -> None:
    network = build("scatter", (1, 28, 28), 10, {})
    assert layout_of(network).size == (FEATURES * 7 * 7 + 1) * 10 == 39_700
    assert {name for name, _ in network.named_parameters()} == set(network.state_dict()) == {"1.weight", "1.bias"}
    assert not read_vector(network, layout_of(network)).any()


def test_features_of_an_example_depend_on_no_other() -> None:
    start, _ = split_frozen(build("scatter", (1, 28, 28), 10, {}))
    batch = images(4, 28)
    torch.testing.assert_close(start(batch)[2:3], start(batch[2:3]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(28,), (1, 7, 8), (8, 8)])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"model scatter.*expected \(channels, height, width\)"):
        build("scatter", shape, 2, {})


# The frozen start of any model ----------------------------------------------------------------------------------------


def test_training_the_rest_on_features_trains_the_model() -> None:
    network, batch, targets = build("scatter", (1, 12, 12), 3, {}), images(5, 12), torch.tensor([0, 1, 2, 1, 0])
    start, rest = split_frozen(network)
    assert layout_of(rest).size == layout_of(network).size
    features = frozen_features(start, batch)
    optimizer = torch.optim.SGD(rest.parameters(), lr=0.1)
    F.cross_entropy(rest(features), targets).backward()
    optimizer.step()
    assert network[1].weight.any()
    torch.testing.assert_close(network(batch), rest(features))
    assert torch.equal(read_vector(rest, layout_of(rest)), read_vector(network, layout_of(network)))


@pytest.mark.parametrize("examples", [0, 1, 256, 300])
def test_features_are_computed_in_pieces_and_all_of_them(examples: int) -> None:
    start = Frozen(nn.AvgPool2d(2), nn.Flatten())
    batch = images(examples, 8)
    assert torch.equal(frozen_features(start, batch), start(batch))


@pytest.mark.parametrize("network", [nn.Linear(3, 2), nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), nn.Sequential()])
def test_a_model_that_starts_with_training_is_its_own_rest(network: nn.Module) -> None:
    start, rest = split_frozen(network)
    inputs = torch.ones(2, 3)
    assert rest is network and not len(start)
    assert frozen_features(start, inputs) is inputs
