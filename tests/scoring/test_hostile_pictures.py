"""100 hostile files among 300 good ones: all good ones scored, each bad one explained."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from beholder import load_head, preprocess
from beholder.models.towers import load_tower
from oracles.hostile import hostile_files, picture
from oracles.program import beholder
from oracles.slow_scores import affine_scores

NUM_GOOD, NUM_BAD = 300, 100
KINDS = ("JPEG", "PNG", "WEBP", "PPM", "BMP", "GIF", "TIFF", "progressive")
MAX_PIXELS = 1_000_000


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder, and the reason that each bad file in it must be given."""
    root = tmp_path_factory.mktemp("album") / "pictures"
    chance = random.Random(7)
    pool = [(kind, picture(chance, kind)) for kind in KINDS for _ in range(12)]
    for number in range(NUM_GOOD):
        folder = root / f"{number % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        kind, data = pool[number % len(pool)]
        (folder / f"good {number}.{'jpg' if kind == 'progressive' else kind.lower()}").write_bytes(data)
    reasons: dict[str, str] = {}
    for number, (name, data, reason) in enumerate(hostile_files(chance, NUM_BAD)):
        suffix = ".tif" if reason == "unsupported" and not Path(name).suffix else ""
        path = root / f"{number % 10}" / f"bad {number} {Path(name).name}{suffix}"
        path.write_bytes(data)
        if not path.suffix and reason in ("empty", "not_an_image"):
            continue  # neither name nor content speaks of a picture
        reasons[str(path)] = str(reason)
    (root / "0" / "a link to nothing.jpg").symlink_to(root / "gone.jpg")
    return root, reasons


def line(source: Path, out: Path, tower: Path, head: Path) -> list[str]:
    return [
        "score", str(source), "-o", str(out), "--backbone", str(tower), "--head", str(head),
        "--shard-rows", "50", "--keep-embeddings", "--device", "cpu", "--precision", "fp32", "--workers", "1",
        "--threads", "1",
        "--max-pixels", str(MAX_PIXELS), "--json",
    ]  # fmt: skip


def contents(out: Path) -> tuple[list[tuple[str, bytes]], list[tuple[str, str]], bytes]:
    """Scores to the bit, rejects, and the kept embeddings' bytes in order."""
    if out.suffix == ".csv":
        frame = pl.read_csv(out)
        scores = frame.filter(pl.col("status") == "ok").select("sample", pl.col("aesthetic_score").cast(pl.Float32))
    elif out.suffix == ".parquet":
        scores = pl.read_parquet(out).select("sample", "aesthetic_score")
    else:
        scores = pl.read_parquet(out / "scores" / "*.parquet").select("sample", "aesthetic_score")
    rejects = pl.read_parquet(out / "rejects" / "*.parquet" if not out.suffix else f"{out}.rejects.parquet")
    kept = (out / "embeddings") if not out.suffix else out.with_name(f"{out.name}.embeddings")
    embeddings = b"".join(path.read_bytes() for path in sorted((kept / "img_emb").glob("*.npy")))
    bits = [(sample, np.float32(score).tobytes()) for sample, score in scores.iter_rows()]
    return sorted(bits), sorted(rejects.select("sample", "reason").iter_rows()), embeddings


@pytest.fixture(scope="module")
def undisturbed(
    album: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory, small_tower: Path, plain_head: Path
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    command = line(album[0], out, small_tower, plain_head)
    return out, beholder(*command)


def test_all_good_pictures_are_scored_and_each_bad_one_is_explained(
    album: tuple[Path, dict[str, str]],
    undisturbed: tuple[Path, subprocess.CompletedProcess[str]],
    small_tower: Path,
    plain_head: Path,
) -> None:
    root, reasons = album
    out, result = undisturbed
    assert result.returncode == 3, result.stderr
    assert "Traceback" not in result.stderr
    summary = json.loads(result.stdout)
    lost = str(root / "0" / "a link to nothing.jpg")
    expected = {**reasons, lost: "missing"}
    scores, rejects, _ = contents(out)
    assert dict(rejects) == expected
    assert len(scores) == summary["num_scored"] == NUM_GOOD
    assert summary["num_rejected"] == len(expected) >= 85
    assert summary["num_ignored"] == NUM_BAD + 1 - len(expected)
    messages = pl.read_parquet(out / "rejects" / "*.parquet")
    assert messages["message"].str.len_chars().min() > 10
    assert not messages["message"].str.contains("\n").any()

    chosen = random.Random(1).sample([sample for sample, _ in scores], 30)
    module, head = load_tower(str(small_tower)).module, load_head(str(plain_head))
    import torch

    pixels = np.stack([preprocess(path, size_px=56) for path in chosen])
    with torch.inference_mode():
        embeddings = module(torch.from_numpy(pixels)).numpy()
    slow = affine_scores(embeddings, head.weight, head.bias)
    ours = np.array([np.frombuffer(dict(scores)[sample], np.float32)[0] for sample in chosen])
    assert np.abs(ours - slow).max() < 2e-4
    assert {Image.open(path).mode for path in chosen} >= {"RGB", "P"}
