"""Towers by name, path, URL and hub id: what is fetched, what is kept, what is refused, and which heads fit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner, Result

from beholder import Head, load_head
from beholder.cli.models import models_app
from beholder.errors import BeholderError, HeadError
from beholder.kernels.scoring import Affine
from beholder.models import backbones, tower_fetch, tower_registry
from beholder.models.clip_vit import SHAPES, TowerShape, canonical_shapes, random_tensors
from beholder.models.pieces import PIECE_BYTES, cut, fetch_pieces, need_space
from beholder.models.registry import Source
from beholder.models.tower_registry import TowerEntry, find_towers
from beholder.models.tower_store import check_tower, remove_tower
from beholder.models.towers import check_head_fits, fetch_tower, inspect_tower, load_tower, local_file
from oracles import checkpoints as made

SHAPE = TowerShape.small()
PICTURES = torch.randint(0, 256, (2, 28, 28, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit.save, in the tests' own maker
COMMIT = "0123456789abcdef0123456789abcdef01234567"
B32 = "openai/clip-vit-base-patch32"


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return random_tensors(SHAPE, seed=9)


@pytest.fixture
def hf_folder(tmp_path: Path, tensors: dict[str, Tensor]) -> Path:
    """A whole CLIPModel as transformers saves it; the text tower is as large as the image tower."""
    folder = tmp_path / "clip"
    folder.mkdir()
    text = {"text_model.big": torch.zeros(600_000), "text_model.a.position_ids": torch.arange(77)}
    made.write_safetensors(folder / "model.safetensors", made.hf_state(tensors) | made.hf_text_state() | text)
    made.write_json(folder / "config.json", made.hf_config(SHAPE))
    return folder


def num_bytes(tensors: dict[str, Tensor]) -> int:
    return sum(4 * tensor.numel() for tensor in tensors.values())


def publish(web: Any, repo: str, folder: Path, revision: str = "main") -> None:
    for path in folder.iterdir():
        web.add_hub_file(repo, path.name, path.read_bytes(), revision=revision)


def file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
    with pytest.raises(HeadError, match=r"does not say its activation.*--activation"):
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
        shape = SHAPES[backbone.id]
        assert backbone.tower == (shape.patch_px, shape.num_tokens, shape.width)
    assert [entry.name for entry in find_towers("ViT-L/14")] == [
        "vit_l14_pn_quick_gelu_openai-clip", "hf-hub:openai/clip-vit-large-patch14", "ViT-L-14",
    ]  # fmt: skip
    assert find_towers("vit-l-14.pt")[0].name == "ViT-L-14"
    assert find_towers("laion-v2") == ()
    assert len({entry.name for entry in tower_registry.TOWERS}) == 9
    for entry in tower_registry.TOWERS:
        assert entry.sha256 is None or len(entry.sha256) == 64
        assert all(source.url.startswith("https://") for source in entry.sources)


def test_openais_weights_under_names_that_mean_plain_gelu_elsewhere() -> None:
    for name in ("ViT-L-14/openai", "open_clip:ViT-L-14/openai", "vit_large_patch14_clip_224.openai"):
        assert tower_registry.is_plain_gelu_name(name)
        assert find_towers(name)[0].backbone == "openai/clip-vit-large-patch14"
        assert backbones.find_backbone(name) is None, "as a name of embeddings it stays unknown"
    assert not tower_registry.is_plain_gelu_name("ViT-L-14-quickgelu/openai")
    assert tower_registry.openai_repository("timm/vit_large_patch14_clip_224.openai") == "openai/clip-vit-large-patch14"
    assert tower_registry.openai_repository("timm/vit_base_patch16_clip_quickgelu_224.openai") == "openai/clip-vit-base-patch16"
    assert tower_registry.openai_repository(B32) == B32
    assert tower_registry.openai_repository("laion/CLIP-ViT-L-14-laion2B-s32B-b82K") is None


# The hub.


def test_of_a_whole_model_on_the_hub_only_the_image_tower_travels(
    web: Any, hf_folder: Path, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    publish(web, "some/clip", hf_folder)
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
    kept = tower_fetch.kept_path(Source(repo="some/clip", file="model.safetensors"))
    assert kept.stat().st_size < num_bytes(tensors) + header
    assert tower.sha256 == tower_fetch.data_sha256(kept)
    assert load_tower(kept).describe() == {**tower.describe(), "name": kept.stem, "source": str(kept)}


def test_a_changed_model_is_fetched_again_and_a_dead_hub_is_bridged(
    web: Any, hf_folder: Path, dead_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish(web, "some/clip", hf_folder)
    first = load_tower("some/clip")
    changed = random_tensors(SHAPE, seed=10)
    made.write_safetensors(hf_folder / "model.safetensors", made.hf_state(changed) | {"text_model.x": torch.zeros(600_000)})
    publish(web, "some/clip", hf_folder)
    second = load_tower("some/clip")
    assert second.sha256 != first.sha256
    monkeypatch.setenv("HF_ENDPOINT", dead_url)
    assert load_tower("some/clip").sha256 == second.sha256
    assert "using the copy kept earlier" in caplog.text
    with pytest.raises(HeadError, match="cannot be reached"):
        load_tower("some/other")


def test_a_pinned_commit_is_asked_once(web: Any, hf_folder: Path) -> None:
    publish(web, "some/clip", hf_folder)
    load_tower(f"some/clip@{COMMIT}")
    web.log.clear()
    load_tower(f"some/clip@{COMMIT}")
    assert web.log == []


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "clip.pt"])
def test_the_usual_files_of_a_repository(web: Any, tensors: dict[str, Tensor], tmp_path: Path, file: str) -> None:
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
    publish(web, "some/clip", folder)
    tower = load_tower("some/clip", activation="quick_gelu" if file == "clip.pt" else None)
    assert torch.equal(tower.module.state_dict()["positions"], tensors["positions"])
    web.log.clear()
    assert load_tower("some/clip", offline=True, activation="quick_gelu").sha256 == tower.sha256
    assert web.log == []


def test_a_sharded_repository(web: Any, tensors: dict[str, Tensor], tmp_path: Path) -> None:
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
    publish(web, "some/clip", folder)
    tower = load_tower("some/clip")
    assert torch.equal(tower.module.state_dict()["positions"], tensors["positions"])
    digests = "".join(file_sha256(folder / file) for file in sorted(parts))
    assert (tower.sha256, tower.sha256_of) == (hashlib.sha256(digests.encode()).hexdigest(), "tensors")
    assert load_tower("some/clip", offline=True).sha256 == tower.sha256


def test_a_repository_without_a_tower(web: Any, tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    with pytest.raises(HeadError, match="none of the files of a tower"):
        load_tower("some/nothing")
    folder = tmp_path / "bare"
    folder.mkdir()
    made.write_safetensors(folder / "model.safetensors", made.hf_state(tensors, "", projection=False))
    publish(web, "some/bare", folder)
    with pytest.raises(HeadError, match=r"some/bare .*has no projection"):
        load_tower("some/bare")
    with pytest.raises(HeadError, match="offline mode is on"):
        load_tower("some/other", offline=True)


def test_a_connection_that_breaks_is_taken_up_again(web: Any, hf_folder: Path) -> None:
    publish(web, "some/clip", hf_folder)
    for name in ("main", COMMIT):
        page = web.pages[f"/some/clip/resolve/{name}/model.safetensors"]
        page.cut_after, page.cuts_left = 300_000, 2
    assert load_tower("some/clip").name == "some/clip"
    page.cuts_left = 1 << 30
    remove_kept()
    with pytest.raises(HeadError):
        load_tower("some/clip")
    assert not tower_fetch.kept_path(Source(repo="some/clip", file="model.safetensors")).exists()


def remove_kept() -> None:
    tower_fetch.kept_path(Source(repo="some/clip", file="model.safetensors")).unlink()


# URLs.


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_a_tower_by_url_is_fetched_once_until_it_changes(
    web: Any, hf_folder: Path, tensors: dict[str, Tensor], tmp_path: Path, kind: str
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


# Registry files: the functions behind the registry's names, with entries for files made here.


def entry_of(path: Path, web: Any, **how: Any) -> TowerEntry:
    fields: dict[str, Any] = {
        "name": "test-tower", "files": (path.name,), "sources": (Source(plain_url=f"{web.url}/{path.name}"),),
        "sha256": file_sha256(path), "num_bytes": path.stat().st_size, "backbone": B32, "note": "",
    }  # fmt: skip
    return TowerEntry(**{**fields, **how})


def test_a_published_file_is_checked_before_it_is_used(
    web: Any, tensors: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made.write_archive(tmp_path / "tiny.pt", made.openai_state(tensors))
    entry = entry_of(path, web)
    web.add("/tiny.pt", path.read_bytes())
    found = fetch_tower(entry)
    assert found.read_bytes() == path.read_bytes()
    web.log.clear()
    assert fetch_tower(entry) == found == local_file(entry)
    assert web.log == []
    assert check_tower(entry).message.endswith(f"its sizes are {SHAPE}"), "a small tower is no B/32"
    found.write_bytes(b"\0" + found.read_bytes()[1:])
    assert fetch_tower(entry).read_bytes() == path.read_bytes(), "a damaged copy in the cache is fetched anew"
    assert remove_tower(entry) == [found]
    assert local_file(entry) is None
    web.add("/tiny.pt", b"<html>")
    with pytest.raises(HeadError, match=f"expected sha256 {entry.sha256}, found .*web page"):
        fetch_tower(entry)
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(path, folder / "tiny.pt")
    monkeypatch.setenv("BEHOLDER_MODELS", str(folder))
    assert fetch_tower(entry, offline=True) == folder / "tiny.pt"
    assert remove_tower(entry) == [], "files in the user's own folder stay"
    monkeypatch.setenv("BEHOLDER_MODELS", f"{web.url}/mirror")
    web.add("/mirror/tiny.pt", path.read_bytes())
    assert fetch_tower(entry).read_bytes() == path.read_bytes()
    remove_tower(entry)
    monkeypatch.delenv("BEHOLDER_MODELS")
    with pytest.raises(HeadError, match="offline mode is on"):
        fetch_tower(entry, offline=True)


def test_a_published_file_on_the_hub(web: Any, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    """As birder's file is published: whole, on the hub, with a known sha256; the hub's own cache holds it."""
    path = tmp_path / "tiny.pt"
    torch.save({"state": made.birder_state(tensors), **made.birder_extras(SHAPE)}, path)
    entry = entry_of(path, web, sources=(Source(repo="birder-project/tiny", file="tiny.pt"),))
    with pytest.raises(HeadError, match=r"test-tower: .*has no such file"):
        fetch_tower(entry)
    web.add_hub_file("birder-project/tiny", "tiny.pt", path.read_bytes())
    found = fetch_tower(entry)
    assert found.read_bytes() == path.read_bytes()
    web.log.clear()
    assert fetch_tower(entry) == found
    assert web.log == []
    assert remove_tower(entry) == [found]
    assert not found.exists()
    web.add_hub_file("birder-project/tiny", "tiny.pt", path.read_bytes()[:-1] + b"x")
    with pytest.raises(HeadError, match=f"expected sha256 {entry.sha256}.*was not kept"):
        fetch_tower(entry)
    assert local_file(entry) is None


def test_a_large_file_comes_in_pieces_and_is_hashed_once(web: Any, tmp_path: Path) -> None:
    body = np.random.default_rng(0).bytes(2 * PIECE_BYTES + 1001)
    path = tmp_path / "large.pt"
    path.write_bytes(body)
    entry = entry_of(path, web)
    page = web.add("/large.pt", path, cut_after=5_000_000, cuts_left=2)
    found = fetch_tower(entry)
    assert found.read_bytes() == body
    assert page.cuts_left == 0
    assert [method for method, _ in web.log].count("GET") >= 5
    stamp = found.stat()
    with found.open("r+b") as file:
        file.write(b"\0\0\0")
    os.utime(found, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert fetch_tower(entry) == found, "same size, time and inode: not hashed again"
    state = check_tower(entry)
    assert state.state == "wrong"
    assert "expected sha256" in state.message, f"verify hashes it all the same: {state.message}"
    page.ranges = False
    remove_tower(entry)
    page.cut_after = None
    assert fetch_tower(entry).read_bytes() == body, "servers that give no parts are read in one go"


def sparse_model(path: Path, shape: TowerShape) -> int:
    """A whole CLIP model of full size in which every number is a zero that takes no disk. Returns the image tower's bytes."""
    with torch.device("meta"):
        state = made.hf_state({name: torch.empty(size) for name, size in canonical_shapes(shape).items()})
    state = {"text_model.all": torch.empty(63_000_000, device="meta"), **dict(sorted(state.items()))}
    header: dict[str, Any] = {}
    at = 0
    for name, tensor in state.items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + 4 * tensor.numel()]}
        at += 4 * tensor.numel()
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    return at - 4 * 63_000_000


def test_the_second_source_by_its_registry_name(
    web: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B/32 in full size from the hub, of 603 MB only the 351 MB of the image tower; then exported and used offline."""
    wanted = sparse_model(tmp_path / "model.safetensors", SHAPES[B32])
    assert wanted == 4 * 87_849_216
    web.add_hub_file(B32, "model.safetensors", tmp_path / "model.safetensors")
    tower = load_tower(f"hf-hub:{B32}")
    assert wanted < web.num_bytes_sent < wanted + 60_000
    assert (tower.name, tower.backbone, tower.activation, tower.licence) == (f"hf-hub:{B32}", B32, "quick_gelu", "MIT")
    assert tower.activation_from == "the weights are OpenAI's, which were trained with QuickGELU"
    assert tower.sha256_of == "tensors"
    web.log.clear()
    assert load_tower("ViT-B/32").describe() == tower.describe(), "a file that is here goes before one that is not"
    plain = load_tower("ViT-B-32/openai")
    assert (plain.activation, plain.sha256) == ("quick_gelu", tower.sha256)
    assert "plain GELU" in caplog.text
    assert web.log == []
    assert load_tower(B32, activation="gelu").backbone is None
    run("export", str(tmp_path / "out"), "ViT-B/32")
    states = json.loads(run("verify", "ViT-B/32", "--json").output)
    assert [state["state"] for state in states] == ["converted"]
    assert f"removed {tower_fetch.kept_path(Source(repo=B32, file='model.safetensors'))}" in run("remove", "ViT-B/32").output
    assert json.loads(run("info", "ViT-B/32", "--json").output)["here"] is False
    monkeypatch.setenv("BEHOLDER_MODELS", str(tmp_path / "out"))
    assert load_tower("ViT-B/32", offline=True).sha256 == tower.sha256
    assert json.loads(run("info", B32, "--json").output)["activation"] == "quick_gelu"


def test_offline_nothing_is_said_of_sources_that_were_not_asked(web: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Neither of the two files with L/14@336 is here."""
    with pytest.raises(HeadError, match="is not on this machine and offline mode is on") as caught:
        load_tower("ViT-L/14@336px", offline=True)
    assert "beholder models export DIR ViT-L-14-336px" in str(caught.value)
    assert "failed too" not in str(caught.value)


# Pieces.


def test_cutting_spans() -> None:
    piece = PIECE_BYTES
    assert cut([]) == []
    assert cut([(5, 5, 0)]) == []
    assert cut([(10, 20, 0), (20, 25, 10), (40, 50, 15)]) == [(10, 25, 0), (40, 50, 15)]
    assert cut([(0, 2 * piece + 1, 7)]) == [
        (0, piece, 7),
        (piece, 2 * piece, piece + 7),
        (2 * piece, 2 * piece + 1, 2 * piece + 7),
    ]
    assert cut([(0, 10, 0), (10, 20, 100)]) == [(0, 10, 0), (10, 20, 100)], "neighbours that go to other places stay apart"


def test_pieces_land_where_they_should(web: Any, tmp_path: Path) -> None:
    body = np.random.default_rng(1).bytes(1000)
    web.add("/x", body)
    (tmp_path / "out").write_bytes(bytes(100))
    fetch_pieces(f"{web.url}/x", [(900, 950, 50), (0, 50, 0)], tmp_path / "out", "x")
    assert (tmp_path / "out").read_bytes() == body[:50] + body[900:950]


def test_a_disk_without_room(tmp_path: Path) -> None:
    need_space(tmp_path / "not" / "yet", 1, "x")
    with pytest.raises(HeadError, match=r"x needs 1000000000\.00 GB.*BEHOLDER_CACHE"):
        need_space(tmp_path, 10**18, "x")


# Heads.


def head(dim: int, backbone: str | None) -> Head:
    return Head(name="h", math=Affine(np.ones(dim), 0.0), backbone=backbone)


def test_heads_that_fit(tmp_path: Path, tensors: dict[str, Tensor], hf_folder: Path) -> None:
    tower = load_tower(hf_folder)
    with pytest.raises(HeadError, match="length 768, and clip gives 32"):
        check_head_fits(tower, head(768, None))
    assert "does not say which tower" in str(check_head_fits(tower, head(32, None)))
    assert check_head_fits(tower, head(32, "clip")) is None
    assert "nothing tells whether clip holds the weights of other" in str(check_head_fits(tower, head(32, "other")))

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
    assert "nothing tells whether t holds" in str(check_head_fits(unknown, ours))
    with pytest.raises(HeadError, match="run with quick_gelu; t runs plain gelu"):
        check_head_fits(dataclasses.replace(unknown, activation="gelu"), ours)
    with pytest.raises(HeadError, match="another tower"):
        check_head_fits(dataclasses.replace(at_336, backbone=None), ours)


# `beholder models`.

runner = CliRunner()


def run(*args: str) -> Result:
    result = runner.invoke(models_app, list(args))
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def failure(*args: str) -> str:
    result = runner.invoke(models_app, list(args))
    assert isinstance(result.exception, BeholderError), (result.output, result.exception)
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_list_names_every_tower() -> None:
    output = run("list").output
    for entry in tower_registry.TOWERS:
        assert entry.name in output
    found = json.loads(run("list", "--json").output)["towers"]
    assert [record["here"] for record in found] == [False] * 9
    assert found[0]["shape"]["width"] == 1024


def test_info_of_a_tower(hf_folder: Path) -> None:
    found = json.loads(run("info", "vit_l14_pn_quick_gelu_openai-clip", "--json").output)
    assert (found["backbone"], found["dim"], found["here"]) == ("openai/clip-vit-large-patch14", 768, False)
    assert json.loads(run("info", str(hf_folder), "--json").output)["width"] == 128
    assert json.loads(run("info", str(hf_folder / "model.safetensors"), "--json").output)["layout"] == "hugging face"


def test_commands_on_towers_that_are_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BEHOLDER_OFFLINE", "1")
    assert "vit_l14_pn_quick_gelu_openai-clip is not on this machine" in failure("download", "ViT-L/14")
    assert "1 of 1 models cannot be used" in failure("verify", "vit_l14_pn_quick_gelu_openai-clip")
    assert "is not on this machine" in failure("export", str(tmp_path / "x"), "ViT-B/16")
    assert "nothing to remove" in run("remove", "ViT-L/14", "laion-v2").output
    assert "did you mean" in failure("download", "vit_l14_pn_quick_gelu_openai_clip")


def test_remove_deletes_what_was_fetched_and_not_your_files(shared_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEHOLDER_OFFLINE", "1")
    monkeypatch.setenv("BEHOLDER_MODELS", str(shared_models))
    name = "sa_0_4_vit_l_14_linear"
    load_head(name)  # leaves a conversion in the cache
    assert "sa_0_4" not in run("remove", "laion-v1").output.replace(str(shared_models), "")
    assert (shared_models / f"{name}.pth").exists()
    monkeypatch.delenv("BEHOLDER_MODELS")
    with pytest.raises(HeadError, match="not on this machine"):
        load_head(name)
