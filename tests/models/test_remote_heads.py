"""Heads loaded by URL and by hub id: small files whole, of a CLIP model only the head."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from beholder.errors import HeadError
from beholder.models import catalog
from beholder.models.heads import load_head
from oracles.hub import Hub

HTML = b"<!DOCTYPE html><html><body>Sign in to the proxy</body></html>"


def head_bytes(tmp_path: Path, seed: int = 0, dim: int = 8) -> bytes:
    make = torch.Generator().manual_seed(seed)
    torch.save({"weight": torch.randn(1, dim, generator=make), "bias": torch.zeros(1)}, tmp_path / "made.pth")
    return (tmp_path / "made.pth").read_bytes()


@pytest.fixture
def body(tmp_path: Path) -> bytes:
    return head_bytes(tmp_path)


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    return text


def test_any_url_is_fetched_each_time_and_kept_for_offline(web: Hub, body: bytes, tmp_path: Path) -> None:
    page = web.add("/x/my head.pth", body)
    url = f"{web.url}/x/my%20head.pth"
    first = load_head(url)
    assert (first.dim, first.source, first.sha256) == (8, url, hashlib.sha256(body).hexdigest())
    page.body = head_bytes(tmp_path, seed=1)
    second = load_head(url)
    assert second.sha256 != first.sha256
    assert load_head(url, offline=True).sha256 == second.sha256
    page.status = 500
    with pytest.raises(HeadError, match="HTTP status 500"):
        load_head(url)
    with pytest.raises(HeadError, match="never fetched on this machine"):
        load_head(f"{web.url}/other.pth", offline=True)


def test_a_registry_file_by_url_is_recognised(web: Hub, shared_models: Path) -> None:
    web.add("/v1", (shared_models / "sa_0_4_vit_b_32_linear.pth").read_bytes())
    assert load_head(f"{web.url}/v1").name == "sa_0_4_vit_b_32_linear"


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_url_failures_in_one_line(web: Hub, dead_url: str, ending: str) -> None:
    web.add(f"/html.{ending}", HTML)
    web.add(f"/bad.{ending}", b"x", status=500)
    for url, words in (
        (f"{web.url}/none.{ending}", "does not exist"),
        (f"{web.url}/bad.{ending}", "500"),
        (f"{web.url}/html.{ending}", "web page|not a safetensors file"),
        (f"{dead_url}/x.{ending}", "[Cc]onnect"),
        (f"nosuchscheme://x/y.{ending}", "nosuchscheme"),
    ):
        with pytest.raises(HeadError, match=words) as caught:
            load_head(url)
        one_line(caught.value)


def bundle(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A repackaged head on paper as large as the real ones; the tower's bytes are a hole in the file."""
    make = torch.Generator().manual_seed(4)
    head: dict[str, torch.Tensor] = {}
    widths = (768, 1024, 128, 64, 16, 1)
    for position, num_in, num_out in zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False):
        head[f"layers.{position}.weight"] = torch.randn(num_out, num_in, generator=make) / num_in**0.5
        head[f"layers.{position}.bias"] = torch.randn(num_out, generator=make)
    data = safetensors.torch.save(head)
    length = int.from_bytes(data[:8], "little")
    records = json.loads(data[8 : 8 + length])
    at = len(data) - 8 - length
    shapes = {
        "vision_model.embeddings.patch_embedding.weight": (1024, 3, 14, 14),
        "vision_model.embeddings.position_embedding.weight": (257, 1024),
        "vision_model.rest": (300_000_000,),
        "visual_projection.weight": (768, 1024),
    }
    for key, shape in shapes.items():
        stop = at + 4 * int(np.prod(shape))
        records[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, stop]}
        at = stop
    text = json.dumps(records).encode()
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + data[8 + length :])
        file.truncate(8 + len(text) + at)
    return path, head


def folded(head: dict[str, torch.Tensor]) -> np.ndarray[Any, Any]:
    weight = head["layers.7.weight"].double()
    for position in (6, 4, 2, 0):
        weight = weight @ head[f"layers.{position}.weight"].double()
    found: np.ndarray[Any, Any] = weight[0].numpy()
    return found


SHUNK = "shunk031/aesthetics-predictor-v2-sac-logos-ava1-l14-linearMSE"


def test_of_a_hub_bundle_only_the_head_is_fetched_and_kept(web: Hub, tmp_path: Path) -> None:
    path, tensors = bundle(tmp_path)
    assert path.stat().st_size > 1_200_000_000
    web.add_hub_file(SHUNK, "model.safetensors", path)
    head = load_head(SHUNK)
    assert web.num_bytes_sent < 4_200_000
    np.testing.assert_allclose(head.weight, folded(tensors), rtol=1e-12)
    assert (head.name, head.backbone, head.sha256_of) == (SHUNK, "openai/clip-vit-large-patch14", "weights")
    assert head.licence == "not checked; the original weights are Apache-2.0"
    assert head.source == f"https://huggingface.co/{SHUNK}/resolve/main/model.safetensors"
    sent = web.num_bytes_sent
    for offline in (False, True):
        again = load_head(SHUNK, offline=offline)
        assert again.describe() == head.describe()
        assert again.weight.tobytes() == head.weight.tobytes()
    assert web.num_bytes_sent == sent


def test_a_changed_hub_bundle_is_read_again_and_a_dead_hub_is_bridged(
    web: Hub, tmp_path: Path, dead_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, _ = bundle(tmp_path)
    page = web.add_hub_file("some/one", "model.safetensors", path)
    first = load_head("some/one")
    page.headers["ETag"] = '"another"'
    sent = web.num_bytes_sent
    assert load_head("some/one").sha256 == first.sha256
    assert web.num_bytes_sent > sent
    monkeypatch.setenv("HF_ENDPOINT", dead_url)
    assert load_head("some/one").describe() == first.describe()
    assert "using the copy kept earlier" in caplog.text
    with pytest.raises(HeadError, match="cannot be reached"):
        load_head("some/two")


def test_a_hub_revision(web: Hub, tmp_path: Path) -> None:
    path, _ = bundle(tmp_path)
    web.add_hub_file("some/one", "model.safetensors", path, revision="v2")
    assert load_head("some/one@v2").name == "some/one"
    with pytest.raises(HeadError, match="no such"):
        load_head("some/one")
    commit = "0123456789abcdef0123456789abcdef01234567"
    load_head(f"some/one@{commit}")
    web.log.clear()
    load_head(f"some/one@{commit}")
    assert web.log == []


def test_a_small_hub_file_is_fetched_whole_and_kept_by_the_hub(web: Hub, shared_models: Path) -> None:
    state = torch.load(shared_models / "sac+logos+ava1-l14-linearMSE.pth", map_location="cpu", weights_only=True)
    data = safetensors.torch.save(dict(state))
    entry = catalog.find("ttj/sac-logos-ava1-l14-linearMSE")
    assert entry is not None
    web.add_hub_file(entry.name, "model.safetensors", data, revision=entry.sources[0].revision)
    head = load_head(entry.name)
    assert (head.name, head.backbone, head.sha256_of) == (entry.name, "openai/clip-vit-large-patch14", "file")
    assert head.sha256 == hashlib.sha256(data).hexdigest()
    assert float(np.linalg.norm(head.weight)) == pytest.approx(17.9956, abs=1e-4)
    web.log.clear()
    assert load_head(entry.name, offline=True).sha256 == head.sha256
    assert web.log == []


def test_of_a_bundle_by_url_only_the_head_is_fetched(web: Hub, tmp_path: Path) -> None:
    path, tensors = bundle(tmp_path)
    web.add("/b/model.safetensors", path)
    head = load_head(f"{web.url}/b/model.safetensors?download=true")
    assert web.num_bytes_sent < 4_200_000
    np.testing.assert_allclose(head.weight, folded(tensors), rtol=1e-12)
    assert head.backbone == "openai/clip-vit-large-patch14"
    assert head.source == f"{web.url}/b/model.safetensors", "a signature in a URL must not get into stamps"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_small_safetensors_by_url_even_without_ranges(web: Hub, ranges: bool) -> None:
    data = safetensors.torch.save({"head.weight": torch.ones(1, 16), "head.bias": torch.ones(1)})
    web.add("/x.safetensors", data, ranges=ranges)
    head = load_head(f"{web.url}/x.safetensors")
    assert (head.layout, head.sha256) == ("linear", hashlib.sha256(data).hexdigest())
    assert head.score(np.ones(16, np.float32)) == pytest.approx(5.0)  # 16 * 1/4 + 1


def test_a_cut_bundle_is_noticed(web: Hub) -> None:
    data = safetensors.torch.save(
        {"predictor.weight": torch.ones(1, 16), "predictor.bias": torch.ones(1), "vision_model.x": torch.ones(1)}
    )
    web.add("/x.safetensors", data[:-60])
    with pytest.raises(HeadError, match="cut short"):
        load_head(f"{web.url}/x.safetensors")
