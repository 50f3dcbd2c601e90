"""Towers from the hub and by URL: of large files only the image tower travels, it is kept, and broken connections go on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from beholder.errors import HeadError
from beholder.models import download, towers
from beholder.models.catalog import Source
from beholder.models.clip import random_tensors
from beholder.models.towers import load_tower
from oracles import checkpoints as made
from oracles.hub import COMMIT, Hub
from oracles.small_towers import PICTURES, SHAPE, file_sha256


def num_bytes(tensors: dict[str, Tensor]) -> int:
    return sum(4 * tensor.numel() for tensor in tensors.values())


def test_of_a_whole_model_on_the_hub_only_the_image_tower_travels(
    web: Hub, hf_folder: Path, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    web.publish("some/clip", hf_folder)
    whole = (hf_folder / "model.safetensors").stat().st_size
    tower = load_tower("some/clip")
    header = 20_000
    assert num_bytes(tensors) < web.num_bytes_sent < num_bytes(tensors) + header < whole - 2_000_000
    assert (tower.name, tower.sha256_of, tower.layout, tower.activation) == (
        "some/clip",
        "tensors",
        "hugging face",
        "quick_gelu",
    )
    assert torch.equal(tower.module(PICTURES), load_tower(hf_folder).module(PICTURES))
    sent = web.num_bytes_sent
    for offline in (None, True):
        again = load_tower("some/clip", offline=offline)
        assert again.describe() == tower.describe()
        assert torch.equal(again.module(PICTURES), tower.module(PICTURES))
    assert web.num_bytes_sent == sent
    kept = download.kept_path("towers", Source(repo="some/clip", file="model.safetensors"))
    assert kept.stat().st_size < num_bytes(tensors) + header
    assert tower.sha256 == towers.data_sha256(kept)
    assert load_tower(kept).describe() == {**tower.describe(), "name": kept.stem, "source": str(kept)}


def test_a_changed_model_is_fetched_again_and_a_dead_hub_is_bridged(
    web: Hub, hf_folder: Path, dead_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    web.publish("some/clip", hf_folder)
    first = load_tower("some/clip")
    changed = random_tensors(SHAPE, seed=10)
    made.write_safetensors(hf_folder / "model.safetensors", made.hf_state(changed) | {"text_model.x": torch.zeros(600_000)})
    web.publish("some/clip", hf_folder)
    second = load_tower("some/clip")
    assert second.sha256 != first.sha256
    monkeypatch.setenv("HF_ENDPOINT", dead_url)
    assert load_tower("some/clip").sha256 == second.sha256
    assert "using the copy kept earlier" in caplog.text
    with pytest.raises(HeadError, match="cannot be reached"):
        load_tower("some/other")


def test_a_pinned_commit_is_asked_once(web: Hub, hf_folder: Path) -> None:
    web.publish("some/clip", hf_folder)
    load_tower(f"some/clip@{COMMIT}")
    web.log.clear()
    load_tower(f"some/clip@{COMMIT}")
    assert web.log == []


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "clip.pt"])
def test_the_usual_files_of_a_repository(web: Hub, tensors: dict[str, Tensor], tmp_path: Path, file: str) -> None:
    folder = tmp_path / "repo"
    folder.mkdir()
    if file == "clip.pt":
        torch.save({"state": made.birder_state(tensors), **made.birder_extras(SHAPE)}, folder / file)
    elif file == "pytorch_model.bin":
        torch.save(made.hf_state(tensors), folder / file)
        made.write_json(folder / "config.json", made.hf_config(SHAPE))
    elif file == "model.safetensors":
        made.write_safetensors(folder / file, made.timm_state(tensors))
        made.write_json(folder / "config.json", made.timm_config("vit_clip_28"))
    else:
        made.write_safetensors(folder / file, made.openai_state(tensors) | made.text_state(300))
        made.write_json(folder / "open_clip_config.json", {"model_cfg": {"quick_gelu": True}})
    web.publish("some/clip", folder)
    tower = load_tower("some/clip", activation="quick_gelu" if file == "clip.pt" else None)
    assert torch.equal(tower.module.state_dict()["positions"], tensors["positions"])
    web.log.clear()
    assert load_tower("some/clip", offline=True, activation="quick_gelu").sha256 == tower.sha256
    assert web.log == []


def test_a_sharded_repository(web: Hub, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    state = made.hf_state(tensors)
    names = sorted(state)
    parts = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    folder = tmp_path / "repo"
    folder.mkdir()
    for file, some in parts.items():
        made.write_safetensors(folder / file, {name: state[name] for name in some})
    index = {"weight_map": {name: file for file, some in parts.items() for name in some}}
    made.write_json(folder / "model.safetensors.index.json", index)
    made.write_json(folder / "config.json", made.hf_config(SHAPE))
    web.publish("some/clip", folder)
    tower = load_tower("some/clip")
    assert torch.equal(tower.module.state_dict()["positions"], tensors["positions"])
    digests = "".join(file_sha256(folder / file) for file in sorted(parts))
    assert (tower.sha256, tower.sha256_of) == (hashlib.sha256(digests.encode()).hexdigest(), "tensors")
    assert load_tower("some/clip", offline=True).sha256 == tower.sha256


def test_a_repository_without_a_tower(web: Hub, tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    with pytest.raises(HeadError, match="none of the files of a tower"):
        load_tower("some/nothing")
    folder = tmp_path / "bare"
    folder.mkdir()
    made.write_safetensors(folder / "model.safetensors", made.hf_state(tensors, "", projection=False))
    web.publish("some/bare", folder)
    with pytest.raises(HeadError, match=r"some/bare .*has no projection"):
        load_tower("some/bare")
    with pytest.raises(HeadError, match="offline mode is on"):
        load_tower("some/other", offline=True)


def test_a_connection_that_breaks_is_taken_up_again(web: Hub, hf_folder: Path) -> None:
    web.publish("some/clip", hf_folder)
    for name in ("main", COMMIT):
        page = web.pages[f"/some/clip/resolve/{name}/model.safetensors"]
        page.cut_after, page.cuts_left = 300_000, 2
    assert load_tower("some/clip").name == "some/clip"
    page.cuts_left = 1 << 30
    remove_kept()
    with pytest.raises(HeadError):
        load_tower("some/clip")
    assert not download.kept_path("towers", Source(repo="some/clip", file="model.safetensors")).exists()


def remove_kept() -> None:
    download.kept_path("towers", Source(repo="some/clip", file="model.safetensors")).unlink()


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_a_tower_by_url_is_fetched_once_until_it_changes(
    web: Hub, hf_folder: Path, tensors: dict[str, Tensor], tmp_path: Path, kind: str
) -> None:
    if kind == "pt":
        torch.save(made.openai_state(tensors), tmp_path / "x.pt")
    body = (tmp_path / "x.pt" if kind == "pt" else hf_folder / "model.safetensors").read_bytes()
    page = web.add(f"/x.{kind}", body, headers={"ETag": '"one"'})
    url = f"{web.url}/x.{kind}?signature=secret"
    tower = load_tower(url, activation="quick_gelu")
    assert torch.equal(tower.module.state_dict()["positions"], tensors["positions"])
    assert tower.source == f"{web.url}/x.{kind}"
    sent = web.num_bytes_sent
    assert load_tower(url, activation="quick_gelu").sha256 == tower.sha256
    assert load_tower(url, activation="quick_gelu", offline=True).sha256 == tower.sha256
    assert web.num_bytes_sent == sent
    page.headers["ETag"] = '"two"'
    load_tower(url, activation="quick_gelu")
    assert web.num_bytes_sent > sent
    page.status = 500
    with pytest.raises(HeadError, match="500"):
        load_tower(url, activation="quick_gelu")
    with pytest.raises(HeadError, match="never fetched"):
        load_tower(f"{web.url}/other", offline=True)
