"""`beholder models`: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import beholder
from beholder.cli.models import models_app
from beholder.errors import BeholderError, HeadError
from beholder.models import catalog
from beholder.models.heads import load_head

run_cli = CliRunner()


def run(*args: str) -> Result:
    return run_cli.invoke(models_app, list(args))


def failure(*args: str) -> str:
    result = run(*args)
    assert isinstance(result.exception, BeholderError), (result.output, result.exception)
    text = str(result.exception)
    assert "\n" not in text
    return text


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEHOLDER_OFFLINE", "1")


@pytest.fixture
def models(shared_models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BEHOLDER_MODELS", str(shared_models))
    return shared_models


@pytest.mark.parametrize("command", ["list", "info", "download", "verify", "export"])
def test_help_has_examples(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"beholder models {command}" in result.output


def test_list_names_everything() -> None:
    result = run("list")
    assert result.exit_code == 0
    names = [entry.name for entry in (*catalog.HEADS, *catalog.BUNDLES)] + [head.name for head in catalog.REFUSED]
    for name in names:
        assert name in result.output
    assert " here " not in result.output


def test_list_as_json(models: Path) -> None:
    found = json.loads(run("list", "--json").output)
    assert len(found["heads"]) == 16
    assert len(found["refused"]) == 2
    first = found["heads"][0]
    assert (first["name"], first["here"]) == ("sac+logos+ava1-l14-linearMSE", True)
    assert first["published_share_at_least"]["5.0"] == 600 / 2370
    assert first["sources"][0] == (
        "https://huggingface.co/birder-project/aesthetic-predictor/resolve/main/openai-clip_aesthetic-predictor.pt"
    )
    assert [record["here"] for record in found["heads"]] == [True] * 9 + [False] * 7
    entry = next(record for record in found["heads"] if record["name"] == "sa_0_4_vit_l_14_linear")
    assert entry["aliases"] == ["laion-v1", "laion-aesthetics-v1", "laion-v1-l_14", "sa_0_4"]
    assert all(list(record)[-3:] == ["shape", "dim", "here"] for record in found["towers"])


def test_info_of_a_head_that_is_not_here() -> None:
    found = json.loads(run("info", "laion-v1", "--json").output)
    assert found["name"] == "sa_0_4_vit_l_14_linear"
    assert found["here"] is False
    assert "weight_norm" not in found
    assert "sa_0_4_vit_l_14_linear" in run("info", "laion-v1").output


def test_info_of_a_head_that_is_here(models: Path) -> None:
    found = json.loads(run("info", "laion-v1", "--json").output)
    assert found["here"] is True
    assert round(found["weight_norm"], 2) == 28.44
    assert round(found["bias"], 3) == 3.529


def test_info_of_a_file(models: Path, tmp_path: Path) -> None:
    shutil.copy(models / "sa_0_4_vit_b_32_linear.pth", tmp_path / "x.pth")
    found = json.loads(run("info", str(tmp_path / "x.pth"), "--json").output)
    assert found["name"] == "sa_0_4_vit_b_32_linear"
    assert found["dim"] == 512


@pytest.mark.parametrize("command", ["info", "download", "verify"])
def test_an_unknown_name_gets_near_misses(command: str) -> None:
    assert "did you mean sac+logos+ava1-l14-linearMSE" in failure(command, "sac+logos+ava-l14-linearMSE")


def test_a_refused_head() -> None:
    assert "AGPL" in failure("download", "aesthetic-predictor-v2-5")
    assert "AGPL" in failure("info", "aesthetic-predictor-v2-5")


def test_export_then_use_it_on_a_machine_without_a_network(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "to go"
    result = run("export", str(folder))
    assert result.exit_code == 0
    assert "9 heads" in result.output
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == "beholder-models"
    assert len(manifest["files"]) == 9
    for record in manifest["files"]:
        data = (folder / record["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == record["sha256"]
        assert len(data) == record["num_bytes"]
    assert len(list(folder.iterdir())) == 10
    monkeypatch.setenv("BEHOLDER_MODELS", str(folder))
    monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path / "fresh"))
    assert load_head("laion-v2").sha256 == catalog.HEADS[0].sha256
    states = json.loads(run("verify", "--json").output)
    assert [state["state"] for state in states] == ["ok"] * 9
    again = run("export", str(folder), "laion-v1", "--json")
    assert [record["name"] for record in json.loads(again.output)["files"]] == ["sa_0_4_vit_l_14_linear"]


def test_a_repackaged_head_is_not_exported(models: Path, tmp_path: Path) -> None:
    text = failure("export", str(tmp_path / "x"), "ttj/sac-logos-ava1-l14-linearMSE")
    assert "export sac+logos+ava1-l14-linearMSE, the original, instead" in text
    assert not (tmp_path / "x").exists()


def test_export_where_nothing_can_be_written(models: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "cannot write" in failure("export", str(tmp_path / "file"))


def test_export_without_the_heads(tmp_path: Path) -> None:
    assert "is not on this machine" in failure("export", str(tmp_path / "x"), "--offline")


def test_download(models: Path) -> None:
    result = run("download")
    assert result.exit_code == 0
    assert result.output.strip() == f"sac+logos+ava1-l14-linearMSE: {models / 'sac+logos+ava1-l14-linearMSE.pth'}"
    assert run("download", "--all").output.count("\n") == 9
    assert run("download", "laion-v1", "simulacra-b_16").output.count("\n") == 2


def test_verify_says_what_is_missing() -> None:
    result = run("verify")
    assert result.exit_code == 0
    assert result.output.count("missing") == 9
    assert result.output.count("not on this machine") == 9
    assert "1 of 1 heads cannot be used" in failure("verify", "laion-v2")


def test_verify_finds_a_wrong_file_and_leaves_it(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray((models / "sa_0_4_vit_l_14_linear.pth").read_bytes())
    data[1000] ^= 1
    (tmp_path / "sa_0_4_vit_l_14_linear.pth").write_bytes(bytes(data))
    shutil.copy(models / "sa_0_4_vit_b_16_linear.pth", tmp_path)
    monkeypatch.setenv("BEHOLDER_MODELS", str(tmp_path))
    result = run("verify")
    assert isinstance(result.exception, HeadError)
    assert str(result.exception) == "1 of 9 heads cannot be used as they are: sa_0_4_vit_l_14_linear"
    assert f"wrong      sa_0_4_vit_l_14_linear  {tmp_path}" in result.output
    assert "expected sha256 2cd4e60f" in result.output
    assert "ok         sa_0_4_vit_b_16_linear" in result.output
    assert (tmp_path / "sa_0_4_vit_l_14_linear.pth").read_bytes() == bytes(data)
    states = {state["name"]: state["state"] for state in json.loads(run("verify", "--json").output)}
    assert sorted(states.values()) == ["missing"] * 7 + ["ok", "wrong"]


def test_verify_counts_a_kept_conversion(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_head("laion-v1")
    monkeypatch.delenv("BEHOLDER_MODELS")
    state = json.loads(run("verify", "laion-v1", "--json").output)[0]
    assert state["state"] == "converted"
    kept = Path(state["path"])
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    kept.write_bytes(bytes(data))
    result = run("verify", "laion-v1", "--json")
    assert json.loads(result.output)[0]["state"] == "wrong"
    assert isinstance(result.exception, HeadError)


def test_the_commands_import_lightly() -> None:
    source = str(Path(beholder.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {source!r}); import beholder.cli.models; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numba", "numpy", "huggingface_hub", "fsspec"} & set(loaded)


def test_export_replaces_nothing_of_somebody_elses(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    name = catalog.HEADS[0].files[0]
    for file, text in (("manifest.json", '{"name": "my web app"}'), ("manifest.json", "[" * 100_000), (name, "mine")):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
        assert f"{file} is in the way of" in failure("export", str(folder))
        assert (folder / file).read_text() == text
        assert [path for path in folder.rglob("*") if path.is_file()] == [folder / file]
        (folder / file).unlink()
