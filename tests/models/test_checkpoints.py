"""Head files of every layout, made here, in every container; and files that must be refused without being run."""

from __future__ import annotations

import itertools
import os
import pickle
import random
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from beholder.errors import HeadError
from beholder.models.head_layouts import HeadFile, HeadUsage, Layer, layers_sha256, pack_head, read_head_file

WIDTHS = (768, 1024, 128, 64, 16, 1)
LINEAR, RELU = (0, 2, 4, 6, 7), (0, 3, 6, 9, 11)
Tensors = dict[str, torch.Tensor]


def layer_tensors(prefixes: list[str], widths: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensors:
    make = torch.Generator().manual_seed(seed)
    found: Tensors = OrderedDict()
    for prefix, num_in, num_out in zip(prefixes, widths, widths[1:], strict=False):
        found[f"{prefix}weight"] = (torch.randn(num_out, num_in, generator=make) / num_in**0.5).to(dtype)
        found[f"{prefix}bias"] = torch.randn(num_out, generator=make).to(dtype)
    return found


def mlp(positions: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensors:
    return layer_tensors([f"layers.{position}." for position in positions], WIDTHS, dtype)


def tower(patch: int, tokens: int, width: int, dim: int) -> Tensors:
    return {
        "vision_model.embeddings.patch_embedding.weight": torch.zeros(width, 3, patch, patch),
        "vision_model.embeddings.position_embedding.weight": torch.zeros(tokens, width),
        "vision_model.encoder.layers.0.layer_norm1.weight": torch.ones(width),
        "vision_model.embeddings.position_ids": torch.arange(tokens),
        "visual_projection.weight": torch.zeros(dim, width),
    }


def save(tensors: Tensors, path: Path) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=path.suffix == ".pth")
    return path


def same_layers(found: HeadFile, expected: Tensors) -> None:
    arrays = [tensor.double().numpy() for tensor in expected.values()]
    assert len(found.layers) * 2 == len(arrays)
    for layer, weight, bias in zip(found.layers, arrays[::2], arrays[1::2], strict=True):
        assert layer.weight.dtype == layer.bias.dtype == np.float64
        np.testing.assert_array_equal(layer.weight, weight)
        np.testing.assert_array_equal(layer.bias, bias)


ENDINGS = [".pth", ".pt", ".safetensors"]
"""A zip of torch's, a legacy pickle of torch's, safetensors."""


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("word", "tensors", "activation", "scale"),
    [
        ("laion-v1", layer_tensors([""], (512, 1)), "none", 1.0),
        ("simulacra", layer_tensors(["linear."], (512, 1)), "none", 512**0.5),
        ("mlp-linear", mlp(LINEAR), "none", 1.0),
        ("mlp-relu", mlp(RELU), "relu", 1.0),
    ],
)
def test_every_layout_in_every_container(
    word: str, tensors: Tensors, activation: str, scale: float, dtype: torch.dtype, ending: str, tmp_path: Path
) -> None:
    tensors = OrderedDict((name, tensor.to(dtype)) for name, tensor in tensors.items())
    told = HeadUsage(input_scale="sqrt-dim" if word == "simulacra" else None)  # of a file that is none of the published ones
    found = read_head_file(save(tensors, tmp_path / f"anything{ending}"), told)
    assert (found.layout, found.activation, found.input_scale, found.backbone) == (word, activation, scale, None)
    same_layers(found, tensors)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("sizes", "backbone"),
    [
        ((14, 257, 1024, 768), "openai/clip-vit-large-patch14"),
        ((14, 577, 1024, 768), "openai/clip-vit-large-patch14-336"),
        ((32, 50, 768, 512), "openai/clip-vit-base-patch32"),
        ((16, 197, 768, 512), "openai/clip-vit-base-patch16"),
        ((8, 17, 32, 768), None),
    ],
)
def test_bundle_v1_names_its_tower(sizes: tuple[int, int, int, int], backbone: str | None, ending: str, tmp_path: Path) -> None:
    head = layer_tensors(["predictor."], (sizes[-1], 1))
    found = read_head_file(save({**tower(*sizes), **head}, tmp_path / f"model{ending}"))
    assert (found.layout, found.backbone, found.activation) == ("bundle laion-v1", backbone, "none")
    same_layers(found, head)


@pytest.mark.parametrize(("positions", "word", "activation"), [(LINEAR, "mlp-linear", "none"), (RELU, "mlp-relu", "relu")])
def test_bundle_v2(positions: tuple[int, ...], word: str, activation: str, tmp_path: Path) -> None:
    head = mlp(positions)
    found = read_head_file(save({**tower(14, 257, 1024, 768), **head}, tmp_path / "model.safetensors"))
    assert (found.layout, found.activation) == (f"bundle {word}", activation)
    assert found.backbone == "openai/clip-vit-large-patch14"
    same_layers(found, head)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            layer_tensors([f"scoring_head.{i}." for i in (0, 2, 4, 6, 8)], (1152, 1024, 128, 64, 16, 1), torch.bfloat16),
            "is refused: .*SigLIP.*1152.*AGPL",
        ),
        (
            layer_tensors([f"layers.{i}.linear." for i in range(7)], (768, 1024, 512, 256, 128, 64, 16, 1)),
            "is refused: .*candle.*not normalised",
        ),
        (tower(8, 17, 32, 16), "CLIP model without an aesthetic head"),
        (layer_tensors(["linear."], (768, 1)), "as those of the simulacra heads.*as those of any layer called linear"),
        (layer_tensors(["layers.0.", "layers.2."], (768, 16, 1)), "nothing in it says what stands between"),
        (layer_tensors([f"layers.{i}." for i in LINEAR], (768, 512, 128, 64, 16, 1)), "says what stands between"),
        (layer_tensors([""], (768, 1)) | {"extra": torch.ones(1)}, "no head that beholder knows"),
        (layer_tensors([""], (768, 5)), "gives 5 numbers"),
        ({"weight": torch.ones(768), "bias": torch.ones(768)}, "are no linear layer's"),
        ({"weight": torch.ones(1, 768), "bias": torch.ones(2)}, "do not fit"),
        ({"weight": torch.ones(1, 0), "bias": torch.ones(1)}, "do not fit"),
        ({"weight": torch.full((1, 768), float("nan")), "bias": torch.ones(1)}, "NaN or infinite"),
        ({"weight": torch.ones(1, 768), "bias": torch.tensor([float("inf")])}, "NaN or infinite"),
        ({"weight": torch.ones(1, 768, dtype=torch.int64), "bias": torch.ones(1)}, "not floating-point"),
        (layer_tensors([f"layers.{i}." for i in LINEAR], (768, 1024, 128, 64, 17, 1))
         | {"layers.7.weight": torch.ones(1, 16)}, "do not fit"),
    ],
)  # fmt: skip
def test_what_is_no_usable_head_is_refused_with_the_reason(tensors: Tensors, words: str, ending: str, tmp_path: Path) -> None:
    path = save(tensors, tmp_path / f"x{ending}")
    with pytest.raises(HeadError, match=words) as caught:
        read_head_file(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


class Evil:
    """Unpickling this touches a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def write_evil(kind: str, marker: Path, path: Path) -> None:
    tensors = {"weight": torch.ones(1, 768), "bias": Evil(marker)}
    if kind == "zip":
        torch.save(tensors, path)
    elif kind == "legacy":
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
    elif kind == "whole object":
        torch.save(Evil(marker), path)
    else:
        path.write_bytes(pickle.dumps({"state": Evil(marker)}, protocol=int(kind.removeprefix("pickle "))))


@pytest.mark.parametrize("kind", ["zip", "legacy", "whole object", "pickle 0", "pickle 2", "pickle 4", "pickle 5"])
def test_a_malicious_pickle_runs_nothing(kind: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "head.pth"
    write_evil(kind, marker, path)
    if kind.startswith("pickle"):
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists(), "the file is not malicious, so this test would prove nothing"
    marker.unlink()
    with pytest.raises(HeadError) as caught:
        read_head_file(path)
    assert not marker.exists()
    assert "\n" not in str(caught.value)


def test_the_refusal_names_what_a_pickle_wanted_to_run(tmp_path: Path) -> None:
    write_evil("zip", tmp_path / "marker", tmp_path / "head.pth")
    with pytest.raises(HeadError, match=r"asks to run posix\.system, not plain weights"):
        read_head_file(tmp_path / "head.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_pickled_module_is_refused(zipped: bool, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(torch.nn.Linear(768, 1), tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(HeadError, match=r"asks to run torch\.nn\.modules\.linear\.Linear.*state dict"):
        read_head_file(tmp_path / "m.pth")


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(8, 1), torch.ones(1, 8)), tmp_path / "m.pt")
    with pytest.raises(HeadError, match="TorchScript program"):
        read_head_file(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\n <html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"hello", "not a file of plain weights"),
        (b"PK\x03\x04" + b"\0" * 60, "not a file of plain weights"),
        (b"\x80\x02}q\x00.", "not a file of plain weights|holds nothing"),
    ],
)
def test_files_that_are_something_else(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(HeadError, match=words) as caught:
        read_head_file(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [[torch.ones(1)], torch.ones(3), {"state": {"weight": [1.0]}, "birder_version": "0.8"}, {}, {1: torch.ones(1)}],
)
def test_pickles_that_are_no_state_dict(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(HeadError, match=r"state dict|no head that beholder knows"):
        read_head_file(tmp_path / "x.pth")


def test_a_file_far_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.pth").open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(300 << 20)
    with pytest.raises(HeadError, match="a few million at most"):
        read_head_file(tmp_path / "x.pth")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(HeadError, match="cannot read"):
        read_head_file(tmp_path / "none.pth")
    with pytest.raises(HeadError, match="cannot read"):
        read_head_file(tmp_path)


def test_damaged_torch_files_never_raise_anything_else(tmp_path: Path) -> None:
    good = save(layer_tensors([""], (512, 1)), tmp_path / "good.pth").read_bytes()
    draw = random.Random(1)
    path = tmp_path / "bad.pth"
    messages = []
    for _ in range(100):
        data = bytearray(good)
        for _ in range(3):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(bytes(data[: draw.choice([len(data), draw.randrange(len(data))])]))
        try:
            read_head_file(path)
        except HeadError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert not any("\n" in message for message in messages)


def test_a_zip_that_is_no_torch_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(HeadError, match="not a file of plain weights"):
        read_head_file(tmp_path / "x.pth")


def own_head(activation: str = "none", num_layers: int = 1) -> HeadFile:
    make = np.random.default_rng(3)
    widths = (6, *range(num_layers, 1, -1), 1)
    layers = tuple(Layer(make.normal(size=(out, num_in)), make.normal(size=out)) for num_in, out in itertools.pairwise(widths))
    return HeadFile(
        layers, "relu" if activation == "relu" else "none", 2.5, "x", None, {"name": "mine", "backbone": "my/tower"}
    )


@pytest.mark.parametrize(("activation", "num_layers"), [("none", 1), ("none", 3), ("relu", 2), ("relu", 4)])
def test_our_own_format_comes_back_to_the_bit(activation: str, num_layers: int, tmp_path: Path) -> None:
    head = own_head(activation, num_layers)
    (tmp_path / "h.safetensors").write_bytes(pack_head(head))
    found = read_head_file(tmp_path / "h.safetensors")
    assert (found.layout, found.activation, found.input_scale, found.backbone) == ("beholder-head", activation, 2.5, "my/tower")
    assert found.metadata["name"] == "mine"
    assert found.metadata["dim"] == "6"
    for mine, its in zip(head.layers, found.layers, strict=True):
        assert mine.weight.tobytes() == its.weight.tobytes()
        assert mine.bias.tobytes() == its.bias.tobytes()
    assert found.tensors_sha256 == layers_sha256(head.layers)


def test_our_own_format_may_be_written_by_others_in_float32(tmp_path: Path) -> None:
    tensors = layer_tensors(["layers.0."], (8, 1))
    metadata = {"format": "beholder-head", "version": "1", "activation": "none"}
    safetensors.torch.save_file(tensors, tmp_path / "h.safetensors", metadata)
    found = read_head_file(tmp_path / "h.safetensors")
    assert found.input_scale == 1.0
    same_layers(found, tensors)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "2"}, "format version 2; this beholder reads version 1; upgrade"),
        ({"activation": "gelu"}, "activation is 'gelu'"),
        ({"input_scale": "nan"}, "input_scale is 'nan'"),
        ({"input_scale": "big"}, "input_scale is 'big'"),
        ({"input_scale": "-1"}, "input_scale is '-1'"),
        ({"dim": "7"}, "says dim 7 and holds 8"),
        ({"layers_sha256": "0" * 64}, "do not have the sha256 it was written with"),
    ],
)
def test_our_own_format_damaged(changes: dict[str, str], words: str, tmp_path: Path) -> None:
    metadata = {"format": "beholder-head", "version": "1", "activation": "none", **changes}
    safetensors.torch.save_file(layer_tensors(["layers.0."], (8, 1)), tmp_path / "h.safetensors", metadata)
    with pytest.raises(HeadError, match=words):
        read_head_file(tmp_path / "h.safetensors")


@pytest.mark.parametrize("names", [["layers.1."], ["layers.0.", "layers.2."], []])
def test_our_own_format_with_other_tensors(names: list[str], tmp_path: Path) -> None:
    metadata = {"format": "beholder-head", "version": "1", "activation": "none"}
    tensors = layer_tensors(names, (8, 4, 1)[-len(names) - 1 :]) if names else {}
    safetensors.torch.save_file(tensors, tmp_path / "h.safetensors", metadata)
    with pytest.raises(HeadError, match="damaged beholder head: its tensors are"):
        read_head_file(tmp_path / "h.safetensors")


def test_one_flipped_bit_in_our_own_format_is_noticed(tmp_path: Path) -> None:
    data = bytearray(pack_head(own_head()))
    data[-3] ^= 1
    (tmp_path / "h.safetensors").write_bytes(bytes(data))
    with pytest.raises(HeadError, match="sha256 it was written with"):
        read_head_file(tmp_path / "h.safetensors")
