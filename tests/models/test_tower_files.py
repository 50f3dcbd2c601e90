"""Checkpoints of every published layout give the same tensors; what is no CLIP ViT, damaged or unsafe is refused by name."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from torch import Tensor

from beholder.errors import HeadError
from beholder.models.backbones import TowerShape
from beholder.models.clip import build_tower, random_tensors
from beholder.models.tensor_files import open_script
from beholder.models.tower_layouts import open_tower_file, recognise
from oracles import checkpoints as made

SHAPE = TowerShape.small()
LAYOUTS = [
    "archive", "traced", "openai state dict", "hf whole", "hf bin", "hf vision", "hf bare", "hf inside", "bundle", "open_clip",
    "open_clip bin", "open_clip training", "timm", "timm bin", "birder", "birder safetensors",
]  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit.save, in the tests' own maker


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return random_tensors(SHAPE, seed=9)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Tensor]) -> dict[str, tuple[Path, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return made.every_layout(tmp_path_factory.mktemp("layouts"), tensors, SHAPE)


def test_the_list_is_complete(written: dict[str, tuple[Path, str]]) -> None:
    assert sorted(LAYOUTS) == sorted(written)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_tower(name: str, written: dict[str, tuple[Path, str]], tensors: dict[str, Tensor]) -> None:
    path, word = written[name]
    for place in (path, path.parent):
        file = open_tower_file(place)
        assert (file.layout, file.shape, file.hints.activation) == (word, SHAPE, "quick_gelu")
    found = file.tensors()
    assert set(found) - {"projection.bias"} == set(tensors)
    for key, tensor in tensors.items():
        assert torch.equal(found[key], tensor), key
        assert found[key].dtype == torch.float32
    pictures = torch.randint(0, 256, (3, 28, 28, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = build_tower(SHAPE, "quick_gelu", tensors)(pictures)
    again = build_tower(SHAPE, "quick_gelu", found)(pictures)  # the last bits depend on where in memory the weights lie
    assert (again - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("traced", [False, True])
def test_openais_mixed_precision(tmp_path: Path, tensors: dict[str, Tensor], traced: bool) -> None:
    state = made.half_where_openai_does(made.openai_state(tensors) | made.text_state())
    assert {tensor.dtype for tensor in state.values()} == {torch.float16, torch.float32, torch.int64}
    found = open_tower_file(made.write_archive(tmp_path / "x.pt", state, traced=traced)).tensors()
    for key, tensor in tensors.items():
        is_wide = any(word in key for word in ("norm", "class_token", "positions"))
        assert torch.equal(found[key], tensor if is_wide else tensor.half().float()), key


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_widened_exactly(tmp_path: Path, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in made.hf_state(tensors).items()}
    found = open_tower_file(made.write_safetensors(tmp_path / "x.safetensors", state)).tensors()
    for key, tensor in tensors.items():
        assert torch.equal(found[key], tensor.to(dtype).float()), key


def test_what_transformers_saves_itself(tmp_path: Path) -> None:
    vision = transformers.CLIPVisionConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14,
        projection_dim=32, hidden_act="gelu",
    )  # fmt: skip
    whole = transformers.CLIPConfig(
        vision_config=vision.to_dict(), projection_dim=32,
        text_config={"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 99},
    )  # fmt: skip
    transformers.CLIPModel(whole).save_pretrained(tmp_path / "whole")
    transformers.CLIPVisionModelWithProjection(vision).save_pretrained(tmp_path / "projection")
    transformers.CLIPVisionModelWithProjection(vision).save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    transformers.CLIPVisionModel(vision).save_pretrained(tmp_path / "bare")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    for folder in ("whole", "projection", "shards"):
        file = open_tower_file(tmp_path / folder)
        assert (file.layout, file.shape, file.hints.activation) == ("hugging face", SHAPE, "gelu")
        model = transformers.CLIPVisionModelWithProjection.from_pretrained(tmp_path / folder)
        assert torch.equal(
            file.tensors()["blocks.1.mlp_in.weight"], model.state_dict()["vision_model.encoder.layers.1.mlp.fc1.weight"]
        )
    with pytest.raises(HeadError, match=r"has no projection \(visual_projection.weight\)"):
        open_tower_file(tmp_path / "bare")
    next((tmp_path / "shards").glob("*2-of*.safetensors")).unlink()
    with pytest.raises(HeadError, match="not complete"):
        open_tower_file(tmp_path / "shards")


def test_text_tensors_are_never_read(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    """The text tower's bytes are a hole in the file, 8 GB long: reading or mapping them into memory would be felt."""
    data = safetensors.torch.save(made.hf_state(tensors))
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    at = len(data) - 8 - length
    header["text_model.hole"] = {"dtype": "F32", "shape": [2_000_000_000], "data_offsets": [at, at + 8_000_000_000]}
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + data[8 + length :])
        file.truncate(8 + len(text) + at + 8_000_000_000)
    found = open_tower_file(path).tensors()
    assert torch.equal(found["class_token"], tensors["class_token"])


State = dict[str, Tensor]
Make = Callable[[Path, State], object]


def less(state: State, pattern: str) -> State:
    return {name: tensor for name, tensor in state.items() if not re.search(pattern, name)}


def beside(make: Callable[[Path, State], object], **configs: object) -> Make:
    """Write the checkpoint, and JSON files beside it."""

    def write(folder: Path, tensors: State) -> None:
        make(folder, tensors)
        for name, value in configs.items():
            made.write_json(folder / f"{name}.json", value)

    return write


def hf(folder: Path, tensors: State) -> None:
    made.write_safetensors(folder / "model.safetensors", made.hf_state(tensors))


def timm(folder: Path, tensors: State) -> None:
    made.write_safetensors(folder / "model.safetensors", made.timm_state(tensors))


def open_clip(folder: Path, tensors: State) -> None:
    made.write_safetensors(folder / "open_clip_model.safetensors", made.openai_state(tensors))


def archive(kind: str) -> Make:
    return lambda folder, tensors: made.write_archive(folder / "x.pt", made.openai_state(tensors), kind)


def birder(shape: TowerShape = SHAPE, **extras: object) -> Make:
    """A birder file under a name that says nothing."""
    return lambda folder, tensors: torch.save(
        {"state": made.birder_state(tensors), **made.birder_extras(shape), **extras}, folder / "x.pt"
    )


def empty(*sizes: int) -> Tensor:
    return torch.zeros(sizes)


SIGLIP = {"patch_embed.proj.weight": empty(8, 3, 2, 2), "attn_pool.latent": empty(1)}
RESNET = {"visual.layer1.0.conv1.weight": empty(1), "visual.conv1.weight": empty(1)}
IMAGENET = {"head.weight": empty(1000, 128), "head.bias": empty(1000)}
TEXT = less(made.hf_text_state(), "vision_model")
V1, V2 = {"weight": empty(1, 768), "bias": empty(1)}, {"layers.0.weight": empty(1, 768), "layers.0.bias": empty(1)}

WRONG: dict[str, tuple[Callable[[State], State], str]] = {
    "no projection": (lambda t: less(made.openai_state(t), r"visual\.proj"), r"no projection \(visual.proj\)"),
    "siglip of transformers": (lambda t: made.hf_state(t) | {"vision_model.head.probe": empty(1, 1, 8)}, "SigLIP"),
    "siglip of timm": (lambda t: SIGLIP, "SigLIP"),
    "resnet": (lambda t: RESNET, "ResNet"),
    "timm trunk": (lambda t: {"visual.trunk.cls_token": empty(1)}, "timm trunk"),
    "text of transformers": (lambda t: TEXT, "text tower only"),
    "text of openai": (lambda t: made.text_state(), "text tower only"),
    "v1 head": (lambda t: V1, "aesthetic head"),
    "v2 head": (lambda t: V2, "aesthetic head"),
    "nothing known": (lambda t: {"a": empty(1), "b": empty(1)}, "no CLIP image tower.*a, b"),
    "no block 0": (lambda t: less(made.openai_state(t), r"blocks\.0\."), "lacks visual.transformer.resblocks.0"),
    "no tensor": (lambda t: less(made.openai_state(t), "1.ln_2.bias"), "lacks .*resblocks.1.ln_2.bias"),
    "no class token": (lambda t: less(made.hf_state(t), "class_emb"), "lacks vision_model.embeddings.class_embedding"),
    "layer scale": (lambda t: made.timm_state(t) | {"blocks.0.ls1.gamma": empty(1)}, "another architecture.*ls1.gamma"),
    "imagenet": (lambda t: made.timm_state(t) | IMAGENET, "classifier of 1000 classes"),
    "no square": (lambda t: made.timm_state(t) | {"pos_embed": empty(1, 7, 128)}, "7 positions"),
    "a shape": (lambda t: made.timm_state(t) | {"blocks.1.norm1.weight": empty(5)}, r"blocks.1.norm1.weight gives \(5,\)"),
    "a width": (lambda t: made.hf_state(t) | {"visual_projection.weight": empty(32, 100)}, "visual_projection"),
    "NaN": (lambda t: made.timm_state(t) | {"norm.bias": empty(128) / 0}, "norm.bias holds NaN"),
    "Inf": (lambda t: made.timm_state(t) | {"pos_embed": 1 / empty(1, 5, 128)}, "pos_embed holds NaN or inf"),
    "whole numbers": (lambda t: made.timm_state(t) | {"norm.bias": empty(128).int()}, "norm.bias holds torch.int32"),
}


@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_tower_is_named(name: str, kind: str, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    make, words = WRONG[name]
    path = tmp_path / f"x.{kind}"
    made.write_safetensors(path, make(tensors)) if kind == "safetensors" else torch.save(make(tensors), path)
    with pytest.raises(HeadError, match=words) as caught:
        open_tower_file(path).tensors()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def archive_without_numbers(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/code/__torch__.py", "")
        archive.writestr("x/data.pkl", b"\x80\x02}.")


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "html": (lambda p: p.write_bytes(b"  <!DOCTYPE html><html>"), "web page"),
    "lfs": (lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), "git lfs pull"),
    "noise": (lambda p: p.write_bytes(os.urandom(5000)), "not a file of plain weights"),
    "a number": (lambda p: torch.save(3, p), "holds a int"),
    "names only": (lambda p: torch.save({"state": {"a": 1}}, p), "no tensors by name"),
    "cut zip": (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(200)), "not a file of plain weights"),
    "an archive of nothing": (archive_without_numbers, "no CLIP image tower"),
}


@pytest.mark.parametrize("name", FILES)
def test_wrong_files(name: str, tmp_path: Path) -> None:
    make, words = FILES[name]
    make(tmp_path / "x.pt")
    with pytest.raises(HeadError, match=words) as caught:
        open_tower_file(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", LAYOUTS)
def test_files_cut_short(name: str, written: dict[str, tuple[Path, str]], tmp_path: Path) -> None:
    data = written[name][0].read_bytes()
    for share in (0.3, 0.9, 0.999):
        path = tmp_path / f"{share}-{written[name][0].name}"
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(HeadError) as caught:
            open_tower_file(path).tensors()
        assert "\n" not in str(caught.value)


def test_an_archive_with_flipped_bytes(written: dict[str, tuple[Path, str]], tmp_path: Path) -> None:
    """The archive's own checksums notice what the tensors' values would not show."""
    data = bytearray(written["archive"][0].read_bytes())
    with zipfile.ZipFile(written["archive"][0]) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    data[largest.header_offset + largest.file_size // 2] ^= 1
    (tmp_path / "x.pt").write_bytes(bytes(data))
    with pytest.raises(HeadError, match="damaged"):
        open_tower_file(tmp_path / "x.pt").tensors()


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.path}",))


def test_a_hostile_archive_runs_nothing(written: dict[str, tuple[Path, str]], tmp_path: Path) -> None:
    mark = tmp_path / "touched"
    payload = pickle.dumps({"visual.proj": Evil(mark)}, protocol=2)
    pickle.loads(payload)
    assert mark.exists(), "the payload does nothing even where it is run"
    mark.unlink()
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(written["archive"][0]) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, payload if info.filename.endswith("/data.pkl") else old.read(info))
    with pytest.raises(HeadError, match=r"asks to run (posix|os)\.system"):
        open_tower_file(path)
    torch.save({"state": {"x": Evil(mark)}}, path)
    with pytest.raises(HeadError, match=r"asks to run (posix|os)\.system"):
        open_tower_file(path)
    assert not mark.exists()


@pytest.mark.parametrize("is_there", [True, False])
def test_an_archive_that_points_outside_itself(is_there: bool, written: dict[str, tuple[Path, str]], tmp_path: Path) -> None:
    """The bytes of a tensor are half missing, or gone, and the archive is otherwise sound."""
    member = open_script(written["archive"][0]).tensors["visual.proj"].member
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(written["archive"][0]) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename != member:
                new.writestr(info.filename, data)
            elif is_there:
                new.writestr(info.filename, data[: len(data) // 2])
    file = open_tower_file(path)
    with pytest.raises(HeadError, match="damaged"):
        file.tensors()


OTHER_SIZES = made.hf_config(TowerShape.small(width=192))
SEVEN_HEADS = made.hf_config(SHAPE)
SEVEN_HEADS["vision_config"]["num_attention_heads"] = 7
LAION, DFN = made.timm_config("vit_tiny_clip_28", "laion2b"), made.timm_config("vit_tiny_clip_quickgelu_28", "dfn2b")
BIRDER_CONFIG = {"act_layer_type": "quick_gelu", "norm_layer_eps": 1e-5}
HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

ACTIVATIONS: dict[str, tuple[Make, str | None, str]] = {
    "archive with gelu": (archive("gelu"), "gelu", "program"),
    "archive that does not say": (archive("neither"), None, ""),
    "openai state dict": (lambda p, t: torch.save(made.openai_state(t), p / "x.pt"), None, ""),
    "hf gelu": (beside(hf, config=made.hf_config(SHAPE, "gelu")), "gelu", "config.json"),
    "hf without config": (hf, None, ""),
    "hf with a config for other sizes": (beside(hf, config=OTHER_SIZES), None, ""),
    "open_clip plain": (beside(open_clip, open_clip_config={"model_cfg": {"embed_dim": 32}}), "gelu", "open_clip_config"),
    "timm plain": (beside(timm, config=LAION), "gelu", "architecture"),
    "timm quickgelu": (beside(timm, config=DFN), "quick_gelu", "architecture"),
    "timm of openai under its plain name": (beside(timm, config=made.timm_config("vit_clip_28")), "quick_gelu", "OpenAI's"),
    "timm without config": (timm, None, ""),
    "birder by config": (birder(config=BIRDER_CONFIG), "quick_gelu", "config"),
    "birder renamed": (birder(), None, ""),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_activation_is_known_only_where_it_is_written(name: str, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    make, activation, reason = ACTIVATIONS[name]
    make(tmp_path, tensors)
    hints = open_tower_file(tmp_path).hints
    assert hints.activation == activation
    assert reason in hints.reason


CONFIGS: dict[str, tuple[Make, str]] = {
    "birder statistics": (birder(rgb_stats=HALVES), "wants pixels normalised with"),
    "birder signature": (birder(TowerShape.small(image_px=42)), "signature"),
    "birder epsilon": (birder(config={"norm_layer_eps": 1e-6}), "layer norms"),
    "hf activation": (beside(hf, config=made.hf_config(SHAPE, "silu")), "silu"),
    "hf heads": (beside(hf, config=SEVEN_HEADS), "whole heads"),
    "hf pixels": (beside(hf, preprocessor_config={"image_mean": [0.5, 0.5, 0.5]}), "wants pixels normalised"),
    "hf pixels that are no numbers": (
        beside(hf, preprocessor_config={"image_mean": [float("nan")] * 3}),
        "wants pixels normalised with .nan",
    ),
    "hf pixels without bounds": (beside(hf, preprocessor_config={"image_std": [10**400] * 3}), "wants pixels normalised"),
    "timm statistics": (beside(timm, config={"architecture": "x", "pretrained_cfg": HALVES}), "wants pixels normalised"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_that_are_not_clips(name: str, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    make, words = CONFIGS[name]
    make(tmp_path, tensors)
    with pytest.raises(HeadError, match=words):
        open_tower_file(tmp_path)


def test_heads_of_the_wide_towers() -> None:
    """ViT-H, -g and -bigG have heads of 80, 88 and 104, not 64."""
    for width in (1280, 1408, 1664):
        shape = TowerShape(28, 14, width, 1, 16, 4 * width, 64)
        with torch.device("meta"):
            state = {name: torch.empty(size) for name, size in _canonical(shape).items()}
        sizes = {name: tuple(tensor.shape) for name, tensor in made.openai_state(state).items()}
        assert recognise(sizes, "x").shape == shape
    assert recognise(sizes, "x", num_heads=26).shape.num_heads == 26


def _canonical(shape: TowerShape) -> dict[str, tuple[int, ...]]:
    from beholder.models.tower_layouts import canonical_shapes

    return canonical_shapes(shape)


def test_a_folder_of_several_files(written: dict[str, tuple[Path, str]], tmp_path: Path) -> None:
    with pytest.raises(HeadError, match="no weights"):
        open_tower_file(tmp_path)
    for name in ("a.pt", "b.pt"):
        shutil.copy(written["birder"][0], tmp_path / name)
    with pytest.raises(HeadError, match="several files"):
        open_tower_file(tmp_path)
