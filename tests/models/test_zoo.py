"""Architectures: by name, by a user's factory, and always the same for the same seed."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.models.errors import InputError
from tacit.models.vector import layout_of, read_vector
from tacit.models.zoo import NAMES, Architecture, build, build_from_factory, initial_model


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return "own_networks"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 11, 17)])
def test_every_architecture_maps_a_batch_to_its_outputs(name: str, shape: tuple[int, ...]) -> None:
    options = {"width": 8} if name == "resnet" else {}
    network = build(name, shape, 5, options)
    assert network(torch.zeros(3, *shape)).shape == (3, 5)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 9), max_size=3), st.integers(1, 20), st.integers(1, 4))
def test_a_perceptron_has_the_parameters_that_its_widths_say(hidden: list[int], inputs: int, outputs: int) -> None:
    widths = [inputs, *hidden, outputs]
    expected = sum((a + 1) * b for a, b in zip(widths, widths[1:], strict=False))
    assert layout_of(build("mlp", (inputs,), outputs, {"hidden": hidden})).size == expected


def test_the_small_network_for_fashion_images_has_the_size_that_its_text_says() -> None:
    convolutions = (25 * 1 + 1) * 16 + (9 * 16 + 1) * 32
    dense = (32 * 7 * 7 + 1) * 64 + 65 * 10
    assert layout_of(build("cnn", (1, 28, 28), 10, {})).size == convolutions + dense == 106_122


@settings(deadline=None, max_examples=25)
@given(st.integers(8, 40), st.integers(8, 40), st.integers(1, 6), st.integers(1, 6), st.integers(1, 9))
def test_the_small_network_halves_a_side_twice_and_rounds_up(
    height: int, width: int, first: int, second: int, dense: int
) -> None:
    network = build("cnn", (1, height, width), 3, {"channels": [first, second], "dense": dense, "dropout": 0.5})
    left = second * math.ceil(math.ceil(height / 2) / 2) * math.ceil(math.ceil(width / 2) / 2)
    expected = (25 + 1) * first + (9 * first + 1) * second + (left + 1) * dense + (dense + 1) * 3
    assert layout_of(network).size == expected
    assert network(torch.zeros(2, 1, height, width)).shape == (2, 3)


def test_a_bounded_activation_bounds_what_the_small_network_puts_out() -> None:
    network = build("cnn", (1, 8, 8), 3, {"activation": "tanh"})
    last = network[-1]
    most = last.weight.abs().sum(dim=1) + last.bias.abs()
    assert bool((network(1e6 * torch.randn(20, 1, 8, 8)).abs() <= 1.001 * most).all())


def test_the_default_residual_network_has_eighteen_layers_with_weights() -> None:
    layout = layout_of(build("resnet", (3, 32, 32), 10, {}))
    layers = [e for e in layout.entries if len(e.shape) > 1 and "shortcut" not in e.name]
    assert len(layers) == 18


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_the_seed_alone_decides_the_initial_values(name: str) -> None:
    architecture = Architecture(name, "", (1, 8, 8), 3, {"width": 8} if name == "resnet" else {})

    def vector(seed: int) -> torch.Tensor:
        network = initial_model(architecture, seed)
        return read_vector(network, layout_of(network))

    torch.manual_seed(5)
    first = vector(7)
    torch.manual_seed(6)
    assert torch.equal(vector(7), first)
    assert not torch.equal(vector(8), first)
    assert not torch.equal(vector(7 + 2**32), first)


def test_building_a_model_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    Architecture("mlp", "", (4,), 2).build(seed=1)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("cn", {}, "unknown model 'cn'; the nearest is 'cnn'"),
        ("mlp", {"hiden": [3]}, "unknown option 'hiden'; the nearest is 'hidden'"),
        ("logistic", {"hidden": [3]}, "unknown option 'hidden'; none is known"),
        ("mlp", {"hidden": [0]}, "model.hidden.0: "),
        ("mlp", {"hidden": 3}, "model.hidden: "),
        ("mlp", {"hidden": [2.5]}, "model.hidden.0: "),
        ("mlp", {"dropout": 1.0}, "model.dropout: "),
        ("mlp", {"activation": "sigmoidd"}, "model.activation: "),
        ("cnn", {"channels": [8]}, "model.channels: "),
        ("cnn", {"activation": "gelu"}, "model.activation: "),
        ("resnet", {"width": 12}, "model.width: "),
        ("resnet", {"blocks": []}, "model.blocks: "),
        ("resnet", {"blocks": [10**9]}, "model.blocks.0: "),
    ],
)
def test_unknown_names_and_bad_options_are_refused_in_one_line(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        build(name, (1, 8, 8), 2, options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["cnn", "resnet"])
@pytest.mark.parametrize("shape", [(8,), (1, 7, 8), (8, 8)])
def test_image_networks_refuse_other_inputs(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected \(channels, height, width\)"):
        build(name, shape, 2, {})


@pytest.mark.parametrize(("shape", "outputs"), [((), 2), ((0,), 2), ((3,), 0)])
def test_empty_shapes_are_refused(shape: tuple[int, ...], outputs: int) -> None:
    with pytest.raises(InputError, match="no network from shape"):
        build("mlp", shape, outputs, {})


def test_a_users_factory_is_called_with_its_options_under_the_seed(own: str) -> None:
    architecture = Architecture("", f"{own}:linear", (3,), 2, {"width": 5})
    network = architecture.build(seed=1)
    assert [tuple(parameter.shape) for parameter in network.parameters()] == [(5, 3), (5,), (2, 5), (2,)]
    again = architecture.build(seed=1)
    layout = layout_of(network)
    assert torch.equal(read_vector(again, layout), read_vector(network, layout))
    assert network.training


@pytest.mark.parametrize(
    ("factory", "options", "said"),
    [
        ("batch_norm", {}, "BatchNorm1d .* running statistics.*; use torch.nn.GroupNorm"),
        ("instance_norm", {}, "InstanceNorm1d .* running statistics"),
        ("no_module", {}, "returned str; expected a torch.nn.Module"),
        ("wrong_outputs", {}, r"maps two examples to shape \(2, 3\); expected \(2, 2\)"),
        ("wrong_inputs", {}, r"cannot map inputs of shape \(3,\): RuntimeError"),
        ("broken", {}, "failed with KeyError"),
        ("linear", {"depth": 3}, "failed with TypeError"),
        ("missing", {}, "failed with AttributeError"),
    ],
)
def test_a_factory_that_does_not_fit_is_refused_in_one_line(
    own: str, factory: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        build_from_factory(f"{own}:{factory}", (3,), 2, options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("factory", ["", "os", "os:", ":f", "a b:c", "os:system('x')", "a..b:c"])
def test_what_names_no_function_is_not_imported(factory: str) -> None:
    with pytest.raises(InputError, match="expected package.module:function"):
        build_from_factory(factory, (3,), 2, {})


def test_a_module_that_is_not_there_is_an_input_error() -> None:
    with pytest.raises(InputError, match="failed with ModuleNotFoundError"):
        build_from_factory("no_such_package_at_all:f", (3,), 2, {})


def test_an_architecture_survives_json() -> None:
    architecture = Architecture("mlp", "", (3, 4), 2, {"hidden": [5], "dropout": 0.1})
    assert Architecture.from_json_dict(architecture.to_json_dict()) == architecture


@pytest.mark.parametrize(
    "change",
    [
        {"name": 3},
        {"input_shape": [1.0]},
        {"input_shape": [True]},
        {"outputs": True},
        {"options": []},
        {"more": 1},
        {"factory": "a:b"},
    ],
)
def test_what_is_no_architecture_is_refused(change: dict[str, Any]) -> None:
    data = Architecture("mlp", "", (3,), 2).to_json_dict() | change
    with pytest.raises(InputError):
        Architecture.from_json_dict(data)


def test_neither_a_name_nor_a_factory_and_options_that_are_no_json_are_refused() -> None:
    with pytest.raises(InputError, match="either a name or a factory"):
        Architecture("", "", (3,), 2)
    with pytest.raises(InputError, match="no plain JSON"):
        Architecture("mlp", "", (3,), 2, {"hidden": {1, 2}})


def test_naming_an_architecture_does_not_import_torch() -> None:
    code = (
        "import sys; from tacit.models.zoo import NAMES, Architecture; "
        "Architecture('mlp', '', (3,), 2); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
