"""Towers by name, path, URL and hub id: what is fetched, what is kept, what is refused, and which heads fit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from beholder import Head
from beholder.errors import HeadError
from beholder.kernels.scoring import Affine
from beholder.models import backbones, catalog
from beholder.models.backbones import SHAPES
from beholder.models.catalog import find_towers
from beholder.models.towers import check_head_fits, inspect_tower, load_tower
from oracles import checkpoints as made
from oracles.hub import Hub
from oracles.small_towers import B32, PICTURES, SHAPE, file_sha256


def test_a_local_folder(hf_folder: Path, tensors: dict[str, Tensor]) -> None:
    tower = load_tower(str(hf_folder))
    assert (tower.shape, tower.activation, tower.backbone, tower.name) == (SHAPE, "quick_gelu", None, "clip")
    assert tower.sha256 == file_sha256(hf_folder / "model.safetensors")
    assert (tower.sha256_of, tower.layout, tower.source) == ("file", "hugging face", str(hf_folder))
    assert torch.equal(tower.module.state_dict()["class_token"], tensors["class_token"])
    assert not any(parameter.requires_grad for parameter in tower.module.parameters())
    json.dumps(tower.describe())
    for spec in (hf_folder / "model.safetensors", f"file://{hf_folder}/model.safetensors"):
        again = load_tower(spec)
        assert torch.equal(again.module(PICTURES), tower.module(PICTURES))
        assert again.name == "model"


def test_an_unknown_activation_is_asked_for(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = made.write_safetensors(tmp_path / "x.safetensors", made.timm_state(tensors))
    with pytest.raises(HeadError, match=r"does not say its activation.*--tower-activation"):
        load_tower(path)
    assert inspect_tower(path).activation is None
    quick, plain = load_tower(path, activation="quick_gelu"), load_tower(path, activation="gelu")
    assert (quick.activation_from, quick.module.activation, plain.module.activation) == ("you said so", "quick_gelu", "gelu")
    assert (quick.module(PICTURES) - plain.module(PICTURES)).abs().max() > 1e-3
    with pytest.raises(HeadError, match="quick_gelu or gelu, not relu"):
        load_tower(path, activation="relu")  # type: ignore[arg-type]


def test_what_you_say_overrules_the_file(hf_folder: Path) -> None:
    tower = load_tower(hf_folder, activation="gelu")
    assert tower.activation == "gelu"
    assert tower.activation_from == "you said so, against quick_gelu: config.json says so"


def test_inspecting_reads_no_weights(hf_folder: Path) -> None:
    found = inspect_tower(hf_folder)
    assert (found.shape, found.activation, found.activation_from) == (SHAPE, "quick_gelu", "config.json says so")
    assert found.describe()["num_layers"] == 2


@pytest.mark.parametrize("spec", ["nowhere.pt", "./nowhere", "/nowhere/x.safetensors", "no such tower", "ViT-L/15"])
def test_names_that_are_nothing(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEHOLDER_OFFLINE", "1")
    with pytest.raises(HeadError) as caught:
        load_tower(spec)
    assert "\n" not in str(caught.value)


def test_near_misses_are_suggested() -> None:
    with pytest.raises(HeadError, match="did you mean .*vit_l14_pn_quick_gelu_openai-clip"):
        load_tower("vit_l14_pn_quick_gelu_openai_clip")


def test_every_name_of_a_backbone_finds_its_files() -> None:
    for backbone in backbones.BACKBONES:
        for name in (backbone.id, *backbone.aliases):
            found = find_towers(name)
            assert {entry.backbone for entry in found} == {backbone.id}, name
            assert all(entry.dim == backbone.dim for entry in found)
    assert [entry.name for entry in find_towers("ViT-L/14")] == [
        "vit_l14_pn_quick_gelu_openai-clip", "hf-hub:openai/clip-vit-large-patch14", "ViT-L-14",
    ]  # fmt: skip
    assert find_towers("vit-l-14.pt")[0].name == "ViT-L-14"
    assert find_towers("laion-v2") == ()
    assert len({entry.name for entry in catalog.TOWERS}) == 9
    for entry in catalog.TOWERS:
        assert entry.sha256 is None or len(entry.sha256) == 64
        assert all(source.url.startswith("https://") for source in entry.sources)


def test_openais_weights_under_names_that_mean_plain_gelu_elsewhere() -> None:
    for name in ("ViT-L-14/openai", "open_clip:ViT-L-14/openai", "vit_large_patch14_clip_224.openai"):
        assert catalog.is_plain_gelu_name(name)
        assert find_towers(name)[0].backbone == "openai/clip-vit-large-patch14"
        assert backbones.find_backbone(name) is None, "as a name of embeddings it stays unknown"
    assert not catalog.is_plain_gelu_name("ViT-L-14-quickgelu/openai")
    assert catalog.openai_repository("timm/vit_large_patch14_clip_224.openai") == "openai/clip-vit-large-patch14"
    assert catalog.openai_repository("timm/vit_base_patch16_clip_quickgelu_224.openai") == "openai/clip-vit-base-patch16"
    assert catalog.openai_repository(B32) == B32
    assert catalog.openai_repository("laion/CLIP-ViT-L-14-laion2B-s32B-b82K") is None


def test_offline_nothing_is_said_of_sources_that_were_not_asked(web: Hub, caplog: pytest.LogCaptureFixture) -> None:
    """Neither of the two files with L/14@336 is here."""
    with pytest.raises(HeadError, match="is not on this machine and offline mode is on") as caught:
        load_tower("ViT-L/14@336px", offline=True)
    assert "beholder models export DIR ViT-L-14-336px" in str(caught.value)
    assert "failed too" not in str(caught.value)


def head(dim: int, backbone: str | None) -> Head:
    return Head(name="h", math=Affine(np.ones(dim), 0.0), backbone=backbone)


def test_heads_that_fit(tmp_path: Path, tensors: dict[str, Tensor], hf_folder: Path) -> None:
    tower = load_tower(hf_folder)
    with pytest.raises(HeadError, match="length 768, and clip gives 32"):
        check_head_fits(tower, head(768, None))
    assert "does not say which tower" in str(check_head_fits(tower, head(32, None)))
    assert check_head_fits(tower, head(32, "clip")) is None
    assert "it is not known whether clip holds the weights of other" in str(check_head_fits(tower, head(32, "other")))

    def published(name: str, **how: Any) -> Any:
        shape = SHAPES[name]
        return dataclasses.replace(inspect_tower(hf_folder), shape=shape, backbone=name, name="t", **how)

    large, at_336 = published("openai/clip-vit-large-patch14"), published("openai/clip-vit-large-patch14-336")
    ours = head(768, "openai/clip-vit-large-patch14")
    assert check_head_fits(large, ours) is None
    assert check_head_fits(large, head(768, "ViT-L/14")) is None
    with pytest.raises(HeadError, match="h scores embeddings of openai/clip-vit-large-patch14, and t is another tower"):
        check_head_fits(at_336, ours)
    unknown = dataclasses.replace(large, backbone=None)
    assert "it is not known whether t holds" in str(check_head_fits(unknown, ours))
    with pytest.raises(HeadError, match="run with quick_gelu; t runs plain gelu"):
        check_head_fits(dataclasses.replace(unknown, activation="gelu"), ours)
    with pytest.raises(HeadError, match="another tower"):
        check_head_fits(dataclasses.replace(at_336, backbone=None), ours)
