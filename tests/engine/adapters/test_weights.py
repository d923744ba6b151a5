"""Weights are read once: damage is a sentence, values are seen to be finite, the largest is known, the hash is right."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from transfergrid.engine.adapters.weights import read_weights

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


@pytest.mark.parametrize("dtype", FLOATS)
def test_shapes_largest_values_and_hash_are_those_of_the_file(file: Path, dtype: torch.dtype) -> None:
    tensors = {
        "a": torch.linspace(-3.0, 2.0, 24).to(dtype).reshape(4, 6),
        "zero": torch.zeros(2, 3, dtype=dtype),
        "negative zero": -torch.zeros(2, dtype=dtype),
        "tiny": torch.tensor([-1e-6], dtype=dtype),
        "nothing": torch.zeros(0, 5, dtype=dtype),
    }
    save_file(tensors, file)
    found = read_weights(file)
    assert found.shapes == {name: tuple(value.shape) for name, value in tensors.items()}
    expected = {name: float(value.abs().max()) if value.numel() else 0.0 for name, value in tensors.items()}
    assert found.largest == expected
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -float("nan")])
def test_a_tensor_with_a_value_that_is_not_finite_is_named(file: Path, dtype: torch.dtype, value: float) -> None:
    save_file({"fine": torch.ones(3, dtype=dtype), "broken": torch.tensor([1.0, value, 2.0], dtype=dtype)}, file)
    with pytest.raises(ValueError, match="'broken' holds NaN or infinity"):
        read_weights(file)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.int64])
def test_values_that_are_no_plain_floats_are_refused(file: Path, dtype: torch.dtype) -> None:
    save_file({"coded": torch.ones(4).to(dtype)}, file)
    with pytest.raises(ValueError, match=r"'coded' is of type '\w+'; expected one of \['BF16', 'F16', 'F32', 'F64'\]"):
        read_weights(file)


def with_header(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "should have 0 bytes, the file has 0"),
        (b"not safetensors at all", "its header should have"),
        (with_header({"a": ENTRY}, bytes(8))[:30], "its header should have"),
        (with_header({"a": ENTRY}, bytes(7)), "speaks of 8 bytes of weights, the file holds 7"),
        (with_header({"a": ENTRY}, bytes(9)), "speaks of 8 bytes of weights, the file holds 9"),
        (with_header({"a": {**ENTRY, "shape": [3]}}, bytes(8)), "'a' should have 12 bytes from 0 on; found 0 to 8"),
        (with_header({"a": ENTRY, "b": ENTRY}, bytes(8)), "'b' should have 8 bytes from 8 on; found 0 to 8"),
        (with_header({"a": {**ENTRY, "shape": [-2]}}, bytes(8)), "'a' should have"),
        (with_header({"a": {**ENTRY, "shape": 2}}, bytes(8)), "its header is damaged"),
        (with_header({"a": {"dtype": "F32"}}), "its header is damaged"),
        (with_header([1]), "its header is damaged"),
        (with_header(b'{"a": 1, "a": 2}'), "key 'a' is there twice"),
        (with_header(b"[" * 100_000), "nested deeper than 100 brackets"),
    ],
)
def test_a_damaged_file_is_told_in_words(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_weights(file)


@given(start=st.binary(max_size=40), text=st.binary(max_size=200), data=st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, start: bytes, text: bytes, data: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.safetensors"
    for content in (start + text, with_header(text, data), with_header({"a": ENTRY}, start)):
        file.write_bytes(content)
        try:
            read_weights(file)
        except ValueError as error:
            assert str(error)
