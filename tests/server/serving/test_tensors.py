"""Tensors survive both ways of writing them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tacit.server.serving.problem import Refusal
from tacit.server.serving.tensors import NUMBERS, TEXT, Tensor, tensor_from_json, tensor_to_binary, tensor_to_json

_shapes = npst.array_shapes(max_dims=3, max_side=4)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    datatype = draw(st.sampled_from([*NUMBERS, TEXT]))
    if datatype == TEXT:
        values = draw(npst.arrays(object, _shapes, elements=st.text(st.characters(exclude_categories=["Cs"]))))
    else:
        finite = {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else {}
        values = draw(npst.arrays(NUMBERS[datatype], _shapes, elements=finite))
    return Tensor("t", datatype, values)


def same(one: Tensor, other: Tensor) -> bool:
    return (
        one.datatype == other.datatype and one.values.dtype == other.values.dtype and (one.values == other.values).all()
    )


@given(tensors())
def test_json_returns_the_same_tensor(tensor: Tensor) -> None:
    assert same(tensor_from_json("t", tensor_to_json(tensor), None), tensor)


@given(tensors())
def test_nested_data_is_the_same_as_flat_data(tensor: Tensor) -> None:
    declared = tensor_to_json(tensor) | {"data": tensor.values.tolist()}
    assert same(tensor_from_json("t", declared, None), tensor)


@given(tensors())
def test_binary_returns_the_same_tensor(tensor: Tensor) -> None:
    declared, data = tensor_to_binary(tensor)
    assert declared["parameters"] == {"binary_data_size": len(data)}
    assert same(tensor_from_json("t", declared, memoryview(data)), tensor)


@given(st.binary(max_size=40), st.integers(1, 4))
def test_any_bytes_are_texts_or_refused(data: bytes, count: int) -> None:
    declared = {"name": "t", "datatype": TEXT, "shape": [count]}
    try:
        tensor = tensor_from_json("t", declared, memoryview(data))
    except Refusal as refusal:
        assert refusal.status == 400
    else:
        assert tensor_to_binary(tensor)[1] == data


def test_not_a_number_in_binary_is_refused() -> None:
    declared = {"name": "t", "datatype": "FP32", "shape": [1]}
    with pytest.raises(Refusal, match="NaN"):
        tensor_from_json("t", declared, memoryview(np.array([np.nan], dtype="<f4").tobytes()))
