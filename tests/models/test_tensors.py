"""Our reader and writer of safetensors against the safetensors library and against damaged files."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from beholder.errors import HeadError
from beholder.models.tensor_files import open_tensors, pack_tensors


def sample(seed: int = 0) -> dict[str, torch.Tensor]:
    make = torch.Generator().manual_seed(seed)
    kinds = {"a.f16": torch.float16, "b.bf16": torch.bfloat16, "c.f32": torch.float32, "d.f64": torch.float64}
    return {name: torch.randn(3, 5, generator=make, dtype=torch.float64).to(kind) for name, kind in kinds.items()}


def test_reads_what_the_library_writes_exactly(tmp_path: Path) -> None:
    tensors = {**sample(), "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), "one": torch.ones(1)}
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(tensors, path, {"key": "value ü"})
    file = open_tensors(str(path))
    assert file.metadata == {"key": "value ü"}
    assert file.num_bytes == path.stat().st_size
    assert file.shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    found = file.read(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == np.float64
        np.testing.assert_array_equal(found[name], tensor.double().numpy())


def test_special_bfloat16_values(tmp_path: Path) -> None:
    values = torch.tensor([float("inf"), -0.0, 3.0e38, 1e-40, float("nan")], dtype=torch.bfloat16)
    safetensors.torch.save_file({"x": values}, tmp_path / "x.safetensors")
    found = open_tensors(str(tmp_path / "x.safetensors")).read(["x"])["x"]
    np.testing.assert_array_equal(found, values.double().numpy())


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    tensors = {"b": np.random.default_rng(0).normal(size=(2, 3)), "a": np.array([np.pi])}
    data = pack_tensors(tensors, {"z": "1", "a": 'quote " and ü'})
    (tmp_path / "x.safetensors").write_bytes(data)
    found = safetensors.numpy.load(data)
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array)
    with safetensors.safe_open(tmp_path / "x.safetensors", "np") as opened:
        assert opened.metadata() == {"z": "1", "a": 'quote " and ü'}


def test_the_same_input_gives_the_same_bytes() -> None:
    first = pack_tensors({"b": np.ones(2), "a": np.zeros(1)}, {"y": "2", "x": "1"})
    second = pack_tensors({"a": np.zeros(1), "b": np.ones(2)}, {"x": "1", "y": "2"})
    assert first == second
    assert int.from_bytes(first[:8], "little") % 8 == 0


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    safetensors.torch.save_file({"x": torch.arange(3)}, tmp_path / "x.safetensors")
    with pytest.raises(HeadError, match="holds I64"):
        open_tensors(str(tmp_path / "x.safetensors")).read(["x"])


def header(record: Any, data: bytes = b"\0" * 8) -> bytes:
    text = json.dumps(record).encode()
    return len(text).to_bytes(8, "little") + text + data


GOOD = {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut short"),
        (b"\0\0\0", "cut short"),
        (b"\xff" * 16, "not a safetensors file"),
        (b"<!DOCTYPE html><html></html>", "not a safetensors file"),
        ((40).to_bytes(8, "little") + b"{}", "cut short"),
        ((2).to_bytes(8, "little") + b"{]", "does not make sense"),
        (header([]), "does not make sense"),
        (header({"x": 3}), "does not make sense"),
        (header({"x": {**GOOD, "shape": [2]}}), "do not agree"),
        (header({"x": {**GOOD, "shape": [-1, -1]}}), "do not agree"),
        (header({"x": {**GOOD, "data_offsets": [8, 0]}}), "do not agree"),
        (header({"x": {**GOOD, "data_offsets": [-8, 0]}}), "do not agree"),
        (header({"x": {**GOOD, "data_offsets": [8, 16]}}), "cut short"),
        (header({"__metadata__": {"a": 1}, "x": GOOD}), "metadata that is not text"),
        (header({"__metadata__": 3, "x": GOOD}), "does not make sense"),
    ],
)
def test_damaged_headers_are_told_in_one_line(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(HeadError, match=words) as caught:
        open_tensors(str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(HeadError, match="does not exist"):
        open_tensors(str(tmp_path / "no.safetensors"))


def test_random_damage_never_raises_anything_else(tmp_path: Path) -> None:
    good = pack_tensors({"weight": np.ones((1, 4)), "bias": np.ones(1)}, {"format": "x"})
    draw = random.Random(5)
    path = tmp_path / "x.safetensors"
    messages = []
    for _ in range(400):
        data = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(good) - 40)] = draw.randrange(256)
        path.write_bytes(bytes(data[: draw.choice([len(data), draw.randrange(len(data))])]))
        try:
            file = open_tensors(str(path))
            file.read(name for name, info in file.tensors.items() if info.dtype in ("F64", "F32", "F16", "BF16"))
        except HeadError as error:
            messages.append(str(error))
    assert len(messages) > 200
    assert not any("\n" in message for message in messages)
