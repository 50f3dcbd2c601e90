"""`beholder models` on towers: what is here, what is fetched, exported, checked and removed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from beholder import load_head
from beholder.cli.models import models_app
from beholder.errors import BeholderError, HeadError
from beholder.models import catalog, download
from beholder.models.backbones import SHAPES, TowerShape
from beholder.models.catalog import Source
from beholder.models.tower_layouts import canonical_shapes
from beholder.models.towers import load_tower
from oracles import checkpoints as made
from oracles.hub import Hub
from oracles.small_towers import B32


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


@pytest.mark.soak
def test_the_second_source_by_its_registry_name(
    web: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
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
    assert "vit_l14" in failure("export", str(tmp_path / "out"), "ViT-B/32", "vit_l14_pn_quick_gelu_openai-clip")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 1, "it broke off behind the first"
    run("export", str(tmp_path / "out"), "ViT-B/32")
    states = json.loads(run("verify", "ViT-B/32", "--json").output)
    assert [state["state"] for state in states] == ["converted"]
    assert (
        f"removed {download.kept_path('towers', Source(repo=B32, file='model.safetensors'))}"
        in run("remove", "ViT-B/32").output
    )
    assert json.loads(run("info", "ViT-B/32", "--json").output)["here"] is False
    monkeypatch.setenv("BEHOLDER_MODELS", str(tmp_path / "out"))
    assert load_tower("ViT-B/32", offline=True).sha256 == tower.sha256
    assert json.loads(run("info", B32, "--json").output)["activation"] == "quick_gelu"


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
    for entry in catalog.TOWERS:
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
