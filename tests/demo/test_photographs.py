"""Photographs of installed packages: found without importing them, scored as one at a time, said to mean nothing or not."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from beholder import load_head, preprocess
from beholder.demo.photographs import UNTRAINED_NOTE, Models, Photographs, find_photographs, score_photographs, untrained_models
from beholder.demo.pictures import draw_contact_sheet
from beholder.models.towers import load_tower
from oracles.program import beholder
from oracles.slow_scores import affine_scores


def save_photograph(path: Path, seed: int, kind: str = "JPEG", **more: Any) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).resize((300, 240), Image.Resampling.BICUBIC).save(path, kind, **more)


@pytest.fixture
def photographs(tmp_path: Path) -> Photographs:
    """Five pictures, one of them turned, one with a palette, one that is none; and a text."""
    folder = tmp_path / "package" / "data"
    for seed in range(2):
        save_photograph(folder / f"{seed}.jpg", seed)
    exif = Image.Exif()
    exif[0x0112] = 6
    save_photograph(folder / "turned.jpg", 7, exif=exif)
    with Image.open(folder / "0.jpg") as picture:
        picture.convert("P").save(folder / "palette.png")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "README.txt").write_text("five pictures")
    return Photographs("a package", folder)


def run(folder: Path, photographs: Photographs | None, models: Models) -> tuple[dict[str, Any], str]:
    lines: list[str] = []
    return score_photographs(folder, photographs, models, lines.append), "\n".join(lines)


def test_the_first_package_that_has_some_is_taken_and_none_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [("One", "photographs_one", "data"), ("Two", "photographs_two", "in/side"), ("Three", "photographs_three", "data")]
    for _, module, _ in names:
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "photographs_one" / "data").mkdir()
    save_photograph(tmp_path / "photographs_two" / "in" / "side" / "a.jpg", 1)
    save_photograph(tmp_path / "photographs_three" / "data" / "b.png", 1, "PNG")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_photographs(names) == Photographs("Two", tmp_path / "photographs_two" / "in" / "side")
    assert find_photographs([("Missing", "no_such_package_here", "data"), names[0]]) is None
    assert find_photographs([]) is None


def test_a_package_of_the_test_environment_has_photographs() -> None:
    pytest.importorskip("skimage")
    found = find_photographs()
    assert found is not None
    assert found.package == "scikit-image"
    assert (found.folder / "astronaut.png").is_file()


def test_scores_are_those_of_one_picture_at_a_time(tmp_path: Path, photographs: Photographs) -> None:
    models = untrained_models(tmp_path / "out", 0)
    record, text = run(tmp_path / "out", photographs, models)
    table = pl.read_parquet(tmp_path / "out" / "meaningless-scores.parquet")
    assert [Path(path).name for path in table["sample"]] == ["0.jpg", "1.jpg", "palette.png", "turned.jpg"]
    import torch

    module, head = load_tower(models.tower).module, load_head(models.head)
    with torch.inference_mode():
        rows = torch.cat([module(torch.from_numpy(preprocess(path))[None]) for path in table["sample"]]).numpy()
    assert rows.shape == (4, 768)
    np.testing.assert_allclose(table["aesthetic_score"].to_numpy(), affine_scores(rows, head.weight, head.bias), atol=1e-4)
    assert head.backbone is None
    assert (record["score"]["num_scored"], record["score"]["reasons"]) == (4, {"not_an_image": 1})
    assert record["score"]["traits"] == {"palette": 1, "rotated": 1}
    assert (record["is_meaningless"], record["note"]) == (True, UNTRAINED_NOTE)
    assert record["pictures_per_second"] > 0
    assert all(Path(path).exists() for path in record["paths"].values())
    assert np.load(Path(record["paths"]["embeddings"]) / "img_emb" / "img_emb_00000.npy").shape == (4, 768)
    for words in (
        "4 pictures that come with a package scored, 1 rejected (1 not_an_image)", "broken.png is not_an_image",
        "1 palette, 1 rotated", UNTRAINED_NOTE, "beholder demo --real", "pictures/s",
    ):  # fmt: skip
        assert words in text, words
    json.dumps(record, allow_nan=False)


@pytest.mark.soak
def test_run_again_it_scores_new_photographs_alone_and_all_by_other_models(tmp_path: Path, photographs: Photographs) -> None:
    models = untrained_models(tmp_path / "out", 0)
    run(tmp_path / "out", photographs, models)
    record, text = run(tmp_path / "out", photographs, untrained_models(tmp_path / "out", 0))
    assert record["score"]["num_new"] == 0
    assert "kept from before" in text
    save_photograph(photographs.folder / "new.jpg", 9)
    record, text = run(tmp_path / "out", photographs, models)
    assert (record["score"]["num_scored"], record["score"]["num_new"]) == (5, 1)
    assert "anew" not in text
    record, text = run(tmp_path / "out", photographs, untrained_models(tmp_path / "others", 1))
    assert record["score"]["num_new"] == record["score"]["num_read"] == 6
    assert "anew: an earlier result there was by other models" in text


@pytest.mark.slow
def test_a_trained_tower_gets_its_scores_told_and_no_warning(tmp_path: Path, photographs: Photographs) -> None:
    made = untrained_models(tmp_path / "models", 1)
    record, text = run(tmp_path / "out", photographs, Models(made.tower, made.head, is_trained=True))
    assert (record["is_meaningless"], record["note"]) == (False, "")
    table = pl.read_parquet(tmp_path / "out" / "scores.parquet").sort("aesthetic_score", descending=True)
    told = [line.split() for line in text.splitlines()[-4:]]
    assert told == [[f"{score:.3f}", Path(path).name] for path, score in table.select("sample", "aesthetic_score").iter_rows()]
    assert "mean nothing" not in text


def test_without_photographs_it_says_which_packages_have_some(tmp_path: Path) -> None:
    record, text = run(tmp_path / "out", None, Models("tower", "head", is_trained=False))
    assert "skipped" in record
    for name in ("scikit-image", "scikit-learn", "matplotlib"):
        assert name in text
    assert not (tmp_path / "out").exists()


def test_the_same_seed_makes_the_same_models(tmp_path: Path) -> None:
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        models = untrained_models(tmp_path / name, seed)
        digests.append([hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in (models.tower, models.head)])
    assert digests[0] == digests[1]
    assert digests[0][0] != digests[2][0]
    assert digests[0][1] != digests[2][1]


@pytest.mark.parametrize(("count", "size"), [(0, (1164, 84)), (1, (1164, 312)), (6, (1164, 312)), (7, (1164, 540))])
def test_the_sheet_has_room_for_every_picture(tmp_path: Path, count: int, size: tuple[int, int]) -> None:
    save_photograph(tmp_path / "a.png", 3, "PNG")
    Image.new("RGB", (300, 240), (0, 200, 0)).save(tmp_path / "green.png")
    rows = [(str(tmp_path / "a.png"), 5.0)] * (count - 1) + [(str(tmp_path / "green.png"), 4.0)] * (count > 0)
    draw_contact_sheet(tmp_path / "sheet.png", rows, title="Title", warning="they mean nothing")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == size
        assert sheet.info["Description"] == "they mean nothing"
        if count:
            left, top = 12 + (count - 1) % 6 * 192, 72 + (count - 1) // 6 * 228
            assert sheet.getpixel((left + 90, top + 90)) == (0, 200, 0)


@pytest.mark.slow
def test_the_real_tower_out_of_reach_is_one_line_and_leaves_nothing(tmp_path: Path, shared_models: Path) -> None:
    load_head(shared_models / "sac+logos+ava1-l14-linearMSE.pth")  # keeps the conversion, so that only the tower lacks
    for environment in ({"BEHOLDER_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        done = beholder("demo", "here", "--rows", "100", "--real", cwd=tmp_path, env={**os.environ, **environment})
        assert done.returncode == 1
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("beholder: --real: ")
        assert line.endswith("the demo without --real needs no network")
        assert not (tmp_path / "here").exists()
