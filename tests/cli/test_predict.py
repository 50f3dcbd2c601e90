"""`beholder predict` as a process, beside birder 0.8.4's own predict on the same small tower and pictures."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from beholder.models.backbones import TowerShape
from beholder.models.clip import random_tensors
from oracles.checkpoints import birder_extras, birder_state
from oracles.peers import PEERS, needs_peers
from oracles.program import beholder

NET = ["-n", "vit_l14_pn_quick_gelu", "-t", "tiny"]
LOADER = ["--img-loader", "pil"]
RUNS = [
    [*NET, *LOADER, "--simple-crop", "--save-logits", "--save-labels", "--suffix", "NAME", "in"],
    [*NET, *LOADER, "--save-logits", "--save-embeddings", "--output-format", "parquet", "--center-crop", "0.9", "in"],
    [*NET, *LOADER, "--simple-crop", "--save-logits", "--save-labels", "--prefix", "wds", "--wds", "tars"],
]
BIRDER = """
import runpy, sys
for line in sys.argv[1].split("\\n"):
    sys.argv = ["predict", *line.split("\\t"), "-j", "0"] if "--wds" not in line else ["predict", *line.split("\\t"), "-j", "1"]
    runpy.run_module("birder.scripts.predict", run_name="__main__")
"""


def picture(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (7 + seed % 3, 9, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((90 - seed, 70 + 2 * seed), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in: a small birder checkpoint, ten pictures in folders, a webdataset tar with the same."""
    root = tmp_path_factory.mktemp("birder")
    shape = TowerShape.small(image_px=56, patch_px=14, width=64, dim=24)
    config = {"patch_size": 14, "num_layers": shape.num_layers, "num_heads": 1, "hidden_dim": 64, "mlp_dim": shape.mlp_width}
    (root / "models").mkdir()
    record = {"state": birder_state(random_tensors(shape)), **birder_extras(shape), "config": config}
    torch.save(record, root / "models" / "vit_l14_pn_quick_gelu_tiny.pt")
    (root / "tars").mkdir()
    with tarfile.open(root / "tars" / "x-000000.tar", "w") as tar:
        for number in range(10):
            folder = root / "in" / ("3" if number % 2 else "unknown")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{7 * number}.png").write_bytes(picture(number))  # 7 comes last: names are ordered as text
            for name, data in ((f"{number:04}.png", picture(number)), (f"{number:04}.cls", str(number).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    (root / "in" / "3" / "birder leaves this out.gif").write_bytes(b"GIF89a" + bytes(20))
    return root


def predict(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return beholder("predict", *arguments, cwd=place, env=environment)


@pytest.fixture(scope="module")
def birders(place: Path) -> Path:
    """What birder itself writes for `RUNS`."""
    if not PEERS.exists():
        pytest.skip("needs-peers: birder is not installed (make peers)")
    lines = "\n".join("\t".join(run) for run in RUNS)
    result = subprocess.run(
        [str(PEERS), "-c", BIRDER, lines], cwd=place, capture_output=True, text=True, check=False, timeout=200
    )
    assert result.returncode == 0, result.stderr[-2000:]
    (place / "results").rename(place / "birders")
    return place / "birders"


def frame_of(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)


@pytest.mark.slow
@needs_peers("birder is")
def test_files_names_columns_and_numbers_are_birders(place: Path, birders: Path) -> None:
    for run in RUNS:
        result = predict(place, *run, "-j", "0")
        assert result.returncode == 0, result.stderr
        assert ("1 picture is left out, as birder leaves them out: 1 .gif" in result.stderr) == ("--wds" not in run)
    theirs = sorted(path.name for path in birders.iterdir())
    beside = (".beholder.json", ".inputs")
    ours = sorted(path.name for path in (place / "results").iterdir() if not path.name.endswith(beside))
    assert len(theirs) == 4
    assert ours == theirs
    for name in theirs:
        expected, found = frame_of(birders / name), frame_of(place / "results" / name)
        assert found.schema == expected.schema, name
        texts = [column for column in ("sample", "label") if column in expected.columns]
        assert found.select(texts).equals(expected.select(texts)), name
        numbers = [frame.drop(texts) for frame in (found, expected)]
        if "embedding" in expected.columns:
            values = [np.stack(frame["embedding"].to_list()) for frame in numbers]
            assert values[0].shape == (10, 64)
        else:
            values = [frame.to_numpy() for frame in numbers]
            assert values[0].shape == (10, 24)
        np.testing.assert_allclose(values[0], values[1], atol=2e-5)


def test_bad_pictures_are_rejected_and_named_in_any_script(place: Path) -> None:
    folder = place / "schön ✓"
    folder.mkdir()
    for number in range(3):
        (folder / f"größe {number}, „x“.png").write_bytes(picture(number))
    (folder / "bad.jpg").write_bytes(b"no picture")
    arguments = [*NET, "--simple-crop", "--save-logits", "--prefix", "bad", "--chunk-size", "2", "-j", "0", "schön ✓"]
    result = predict(place, *arguments)
    assert result.returncode == 3, result.stderr
    assert "--chunk-size has no effect here" in result.stderr
    out = place / "results" / "bad_vit_l14_pn_quick_gelu_tiny_24_56px_crop1.0_4_sc_logits.csv"
    frame = pl.read_csv(out)
    assert frame["sample"].to_list() == [f"schön ✓/größe {number}, „x“.png" for number in range(3)]
    assert frame.columns == ["sample", *map(str, range(24))]
    rejects = pq.read_table(f"{out}.rejects.parquet").to_pylist()
    assert [row["sample"] for row in rejects] == ["schön ✓/bad.jpg"]
    stamp = json.loads(Path(f"{out}.beholder.json").read_text())
    assert (stamp["pixels"]["preset"], stamp["precision"]["precision"], stamp["normalised"]) == ("rgb", "fp32", False)

    before = out.read_bytes()
    again = predict(place, *arguments, "--json")
    assert again.returncode == 3
    assert json.loads(again.stdout)["num_new"] == 0
    assert out.read_bytes() == before
    other = predict(place, *arguments, "--amp")
    assert other.returncode == 1
    assert "already exists with other options: --precision" in other.stderr
    assert "--overwrite" in other.stderr
    assert out.read_bytes() == before
    replaced = predict(place, *arguments, "--amp", "--overwrite")
    assert replaced.returncode == 3, replaced.stderr
    assert out.read_bytes() != before
    assert np.allclose(pl.read_csv(out).drop("sample").to_numpy(), frame.drop("sample").to_numpy(), atol=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_model_cards_command_without_a_gpu_is_one_clear_line(place: Path) -> None:
    card = "-n vit_l14_pn_quick_gelu -t openai-clip --simple-crop --gpu --parallel --batch-size 256 --chunk-size 50000 --amp"
    result = predict(place, *card.split(), "--amp-dtype", "bfloat16", "--save-logits", "--suffix", "NAME", "in")
    assert result.returncode == 1
    assert result.stderr.startswith("beholder: --gpu: no CUDA device")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--save-output"], 1, "--save-output is not done here: softmax"),
        (["--save-logits", "--size", "224", "--", "in"], 1, "--size 224: this tower takes 56 pixels"),
        (["--save-logits", "nowhere"], 1, "nowhere"),
        (["--save-logits", "in", "--no-such-flag"], 2, "--no-such-flag"),
    ],
)
def test_what_is_not_done_is_said_in_one_line(place: Path, arguments: list[str], status: int, text: str) -> None:
    result = predict(place, *NET, "-j", "0", *arguments)
    assert result.returncode == status, result.stderr
    assert text in result.stderr
    assert "Traceback" not in result.stderr
    if status == 1:
        assert result.stderr.count("\n") == 1


def test_help_lists_every_flag_and_the_three_steps(place: Path) -> None:
    from beholder.scoring.birder import FLAGS

    result = predict(place, "--help")
    assert result.returncode == 0
    for flag in FLAGS:
        assert flag.name in result.stdout
    for step in ("beholder models download vit_l14", "beholder predict -n vit_l14", "beholder score results/"):
        assert step in result.stdout
