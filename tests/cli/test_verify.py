"""`beholder verify` as a process: published scores, and drift on one's own pictures."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beholder import load_scorer
from oracles.program import beholder
from oracles.tiers import mostly_slow


def verify(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "BEHOLDER_OFFLINE": "1", "COLUMNS": "200"}
    return beholder("verify", *arguments, env=environment)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 256, (10, 12 + number, 3), np.uint8)
        Image.fromarray(noise).resize((90, 70), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    (folder / "bad.jpg").write_bytes(b"no picture")
    return folder


def test_a_fast_setting_is_held_against_the_exact_one(photos: Path, small_tower: Path, plain_head: Path) -> None:
    common = ["--backbone", str(small_tower), "--head", str(plain_head), "--min-score", "5", "--device", "cpu"]
    result = verify(str(photos), *common, "--precision", "fp32", "--preset", "squash", "--json")
    assert result.returncode == 3, result.stderr
    found = json.loads(result.stdout)
    pictures = [photos / f"{number}.png" for number in range(6)]
    exact, squashed = (
        np.asarray(load_scorer(small_tower, plain_head, precision="fp32", preset=preset, device="cpu").score(pictures))
        for preset in ("reference", "squash")
    )
    assert (found["num_pictures"], found["num_rejected"]) == (6, 1)
    assert found["mean"] == pytest.approx(np.abs(squashed - exact).mean(), abs=1e-5)
    assert found["largest"] == pytest.approx(np.abs(squashed - exact).max(), abs=1e-5)
    assert found["largest"] > 1e-3
    assert found["moved"] == {"5": int(((exact >= 5) != (squashed >= 5)).sum())}
    shown = verify(str(photos / "1.png"), *common, "--precision", "bf16", "--threshold", "laion-6plus", "--min-score", "sd-v1")
    assert shown.returncode == 0, shown.stderr
    assert "1 pictures, plain: precision bf16, decoder pillow, preset reference against precision fp32" in shown.stdout
    assert "at 5: 0 pictures (0 %) change sides" in shown.stdout
    assert "at >= 6 (laion-6plus): 0 pictures (0 %) change sides" in shown.stdout
    assert "at > 5 (sd-v1): 0 pictures (0 %) change sides" in shown.stdout
    warned = [line for line in shown.stderr.splitlines() if "these are by plain, whose scale is another" in line]
    assert [line.split(" cut ")[0] for line in warned] == [
        "warning: 5 is where Stable Diffusion v1-2 to v1-5",
        "warning: 6 is where LAION-Aesthetics v2 6+",
    ]


def test_golden_without_the_pictures_fails_and_says_why(photos: Path) -> None:
    for arguments in (["--golden", "--pictures", str(photos)], ["--golden"]):
        result = verify(*arguments)
        assert result.returncode == 1
        assert result.stderr.startswith("beholder: no published score could be checked; the first reason: ")
        assert len(result.stdout.splitlines()) == 17
        assert "Traceback" not in result.stderr
    as_json = verify("--golden", "--json")
    assert {row["verdict"] for row in json.loads(as_json.stdout)} == {"not checked"}
    assert as_json.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    mostly_slow(
        [
            ([], "name pictures, or what a run wrote, or use --golden"),
            (["--golden", "in"], "not both"),
            (["in", "--pictures", "x"], "--pictures goes with --golden"),
            (["--golden", "--pictures", "nowhere"], "--pictures nowhere"),
            (["--golden", "--head", "laion-v2"], "--head has no effect with --golden"),
            (["--golden", "--decoder", "pillow"], "--decoder has no effect with --golden"),
            (["--golden", "--preset", "squash"], "--preset has no effect with --golden"),
            (["--golden", "--draw", "200"], "--draw has no effect with --golden"),
            (["--golden", "--min-score", "5", "--min-score", "6"], "--min-score has no effect with --golden"),
            (["--golden", "--draw", "3", "--head", "x"], "--head, --draw have no effect with --golden"),
            (["in", "--preset", "square"], "--preset square: choose one of reference, upright"),
            (["in", "--min-score", "sd-v9"], "--min-score 'sd-v9' is no number and no landmark; the landmarks are"),
            (["in", "--precision", "fp4"], "--precision fp4: choose one of auto"),
        ],
        quick=4,
    ),
)
def test_wrong_usage_is_one_line(arguments: list[str], text: str) -> None:
    result = verify(*arguments)
    assert result.returncode == 1
    assert text in result.stderr
    assert len(result.stderr.splitlines()) == 1
