"""A model and its flat vector are the same numbers."""

import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tacit.models.errors import InputError
from tacit.models.vector import Entry, Layout, layout_of, packed, read_vector, state_dict_of, write_vector
from tacit.models.zoo import Architecture

ZOO = [
    Architecture("logistic", "", (7,), 3),
    Architecture("mlp", "", (7,), 3, {"hidden": [5, 4], "dropout": 0.5}),
    Architecture("cnn", "", (1, 12, 9), 4),
    Architecture("resnet", "", (3, 8, 8), 2, {"blocks": [1, 2], "width": 8}),
]


@pytest.mark.parametrize("architecture", ZOO, ids=lambda architecture: architecture.name)
def test_a_model_survives_the_way_through_a_vector_to_the_last_bit(architecture: Architecture) -> None:
    source, target = architecture.build(seed=1), architecture.build(seed=2)
    layout = layout_of(source)
    write_vector(target, layout, read_vector(source, layout))
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor.view(torch.int32), target.state_dict()[name].view(torch.int32)), name
    assert layout.size == sum(parameter.numel() for parameter in source.parameters())


def test_every_bit_pattern_survives() -> None:
    model = nn.Linear(2, 2)
    layout = layout_of(model)
    patterns = [0x7FC00001, 0xFF800000, 0x80000000, 0x00000001, 0x7F7FFFFF, 0x3F800000]
    numbers = torch.frombuffer(bytearray(struct.pack("<6I", *patterns)), dtype=torch.float32)
    write_vector(model, layout, numbers)
    assert read_vector(model, layout).view(torch.int32).tolist() == numbers.view(torch.int32).tolist()


def test_the_vector_that_is_read_is_a_copy() -> None:
    model = nn.Linear(2, 1)
    layout = layout_of(model)
    read_vector(model, layout).fill_(9.0)
    assert not bool((read_vector(model, layout) == 9.0).any())


def test_writing_leaves_the_parameters_the_same_objects() -> None:
    model = nn.Linear(2, 1)
    layout = layout_of(model)
    weight, storage = model.weight, model.weight.data_ptr()
    write_vector(model, layout, torch.ones(layout.size))
    assert model.weight is weight and weight.data_ptr() == storage and weight.requires_grad


def test_a_shared_parameter_is_counted_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    layout = layout_of(model)
    assert [entry.name for entry in layout.entries] == ["0.weight", "0.bias", "1.bias"]
    write_vector(model, layout, torch.arange(15.0))
    assert torch.equal(model[1].weight, torch.arange(9.0).view(3, 3))


def test_float_buffers_travel_and_integer_and_boolean_ones_do_not() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.register_buffer("scale", torch.ones(2))
    model.register_buffer("count", torch.zeros((), dtype=torch.int64))
    model.register_buffer("mask", torch.zeros(3, dtype=torch.bool))
    model.register_buffer("scratch", torch.zeros(4), persistent=False)
    assert [entry.name for entry in layout_of(model).entries] == ["weight", "scale"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.complex64])
def test_any_other_precision_is_refused_by_name(dtype: torch.dtype) -> None:
    model = nn.Linear(2, 1)
    model.bias = nn.Parameter(model.bias.to(dtype))
    with pytest.raises(InputError, match="model entry bias: is .*; models travel as float32"):
        layout_of(model)


def test_a_lazy_module_must_have_run_once() -> None:
    with pytest.raises(InputError, match="has no shape yet"):
        layout_of(nn.LazyLinear(2))


def test_a_model_without_numbers_is_refused() -> None:
    with pytest.raises(InputError, match="no floating-point parameter"):
        layout_of(nn.ReLU())


def test_extra_state_that_is_no_tensor_is_refused() -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> object:
            return {"anything": 1}

    with pytest.raises(InputError, match="no tensor"):
        layout_of(Odd(1, 1))


@pytest.mark.parametrize(
    "vector", [torch.zeros(2), torch.zeros(4), torch.zeros(3, dtype=torch.float64), torch.zeros(3, 1)]
)
def test_a_vector_of_another_size_or_type_changes_nothing(vector: torch.Tensor) -> None:
    model = nn.Linear(2, 1)
    layout = layout_of(model)
    before = read_vector(model, layout)
    with pytest.raises(InputError, match=r"expected float32 of shape \(3,\)"):
        write_vector(model, layout, vector)
    assert torch.equal(read_vector(model, layout), before)


def test_a_layout_of_another_model_is_refused() -> None:
    with pytest.raises(InputError, match="layout entry weight: the model has shape"):
        read_vector(nn.Linear(2, 1), layout_of(nn.Linear(3, 1)))
    with pytest.raises(InputError, match="does not have this entry"):
        read_vector(nn.Linear(2, 1, bias=False), layout_of(nn.Linear(2, 1)))


def test_the_named_tensors_are_views_of_the_vector() -> None:
    layout = packed([("a", (2, 2)), ("b", ()), ("c", (0, 3))])
    vector = torch.arange(5.0)
    tensors = state_dict_of(vector, layout)
    vector[3] = 7.0
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"a": [[0, 1], [2, 7]], "b": 4.0, "c": []}


shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@given(st.dictionaries(st.text(max_size=8), shapes, max_size=6))
def test_a_layout_survives_json_with_its_digest(named: dict[str, tuple[int, ...]]) -> None:
    layout = packed(named.items())
    again = Layout.from_json_list(layout.to_json_list())
    assert again == layout and again.digest == layout.digest


@given(st.lists(st.tuples(st.sampled_from("abc"), shapes), max_size=3, unique_by=lambda pair: pair[0]))
def test_layouts_with_one_digest_are_one_layout(named: list[tuple[str, tuple[int, ...]]]) -> None:
    other = [("x", (1,)), *named]
    assert packed(named).digest != packed(other).digest
    assert (packed(named).digest == packed(named[::-1]).digest) == (named == named[::-1])


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        [3],
        [{"name": "a"}],
        [{"name": 1, "shape": []}],
        [{"name": "a", "shape": [1.0]}],
        [{"name": "a", "shape": [True]}],
    ],
)
def test_what_is_no_layout_is_refused(data: object) -> None:
    with pytest.raises(InputError, match="layout: "):
        Layout.from_json_list(data)


def test_gaps_wrong_sizes_and_repeated_names_are_refused() -> None:
    with pytest.raises(InputError, match="expected 2"):
        Layout((Entry("a", (2,), 0, 2), Entry("b", (2,), 3, 2)))
    with pytest.raises(InputError, match="product"):
        Layout((Entry("a", (2, 2), 0, 2),))
    with pytest.raises(InputError, match="product"):
        Layout.from_json_list([{"name": "a", "shape": [-1]}])
    with pytest.raises(InputError, match="same name"):
        packed([("a", (1,)), ("a", (1,))])
