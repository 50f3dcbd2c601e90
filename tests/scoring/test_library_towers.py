"""From pictures to a trained head to scores with a tower of another library; heads of other spaces are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from PIL import Image
from skimage import data
from typer.testing import CliRunner

import beholder
from beholder import BeholderError
from beholder.cli.app import app
from oracles.in_process import command
from oracles.library_models import by_the_library, clip, saved, siglip
from oracles.peers import ask, needs_peers

NUM_PICTURES = 24


def make_pictures(folder: Path) -> list[Path]:
    """Crops of photographs, some grey, some with an alpha channel, and a file that is no picture; beside them ratings."""
    folder.mkdir()
    rng, paths = np.random.default_rng(5), []
    photographs = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    for number in range(NUM_PICTURES):
        whole = photographs[number % 4]
        top, left = (int(rng.integers(0, side - 170)) for side in whole.shape[:2])
        height, width = (int(rng.integers(90, 170)) for _ in range(2))
        cut = whole[top : top + height, left : left + width].astype(float) * rng.uniform(0.3, 1.4, 3)
        image = Image.fromarray(cut.clip(0, 255).astype(np.uint8))
        image = image.convert("L") if number % 5 == 1 else image.convert("RGBA") if number % 5 == 2 else image
        paths.append(folder / f"{number:02}.png")
        image.save(paths[-1])
    rows = "".join(f"{path},{1 + number % 4 + 0.1 * number}\n" for number, path in enumerate(paths))
    (folder.parent / "ratings.csv").write_text(f"sample,rating\n{rows}")
    (folder / "broken.png").write_bytes(b"no picture")
    return paths


def run(*words: Any, status: int = 0) -> None:
    """A command in this process, which has the libraries already."""
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == status, (done.output, done.exception)


def scores_in(path: Path) -> dict[str, float]:
    table = pyarrow.csv.read_csv(path)
    column = next(name for name in table.column_names if name not in ("sample", "width", "height", "num_bytes", "traits"))
    rows = zip(table["sample"].to_pylist(), table[column].to_pylist(), strict=True)
    return {name: score for name, score in rows if score is not None}  # the file that is no picture has none


@pytest.mark.slow
def test_from_pictures_to_a_head_to_scores(here: Path) -> None:
    tmp_path, paths = here, make_pictures(here / "pictures")
    model, processor = saved(tmp_path / "tower", siglip)
    backbone = f"transformers:{tmp_path / 'tower'}"

    where = ["--backbone", backbone, "--device", "cpu", "--precision", "fp32"]
    run("embed", "pictures", "-o", "set.parquet", "--dtype", "float32", "--raw", "--workers", "0", *where, status=3)
    table = pyarrow.parquet.read_table(tmp_path / "set.parquet")
    wanted = by_the_library(model, processor, paths)
    names = [Path(name).name for name in table["sample"].to_pylist()]
    assert names == [path.name for path in paths]
    np.testing.assert_allclose(np.stack(table["embedding"].to_numpy()), wanted, rtol=0, atol=1e-6)
    stamp = json.loads((tmp_path / "set.parquet.beholder.json").read_text())
    assert stamp["backbone"].startswith("transformers:tower#")
    assert len(stamp["weights_sha256"]) == 64
    assert stamp["tower"]["features"] == "pooled"
    assert stamp["tower"]["preprocessing"]["class"] == "SiglipImageProcessorPil"

    run("train", "set.parquet", "--ratings", "ratings.csv", "-o", "mine.safetensors")
    head = beholder.load_head(tmp_path / "mine.safetensors")
    assert head.backbone == stamp["backbone"]
    run("score", "pictures", "-o", "scores.csv", "--head", "./mine.safetensors", "--workers", "1", *where, status=3)
    run("score", "pictures", "-o", "here.csv", "--head", "./mine.safetensors", "--workers", "0", *where, status=3)
    run("score", "set.parquet", "-o", "again.csv", "--head", "./mine.safetensors")
    found, alone, again = (scores_in(tmp_path / f"{name}.csv") for name in ("scores", "here", "again"))
    expected = head.score(wanted)
    assert np.ptp(expected) > 0.5
    assert found == alone
    np.testing.assert_allclose([found[name] for name in sorted(found)], expected, atol=1e-4)
    np.testing.assert_allclose([again[name] for name in sorted(again)], expected, atol=1e-4)


@pytest.mark.slow
def test_heads_and_embeddings_of_other_spaces_are_refused(here: Path) -> None:
    tmp_path = here
    make_pictures(tmp_path / "pictures")
    for name, maker, seed in (("tower", siglip, 0), ("others/tower", siglip, 1), ("clip", clip, 0)):
        saved(tmp_path / name, maker, seed)

    def line(*words: str) -> str:
        with pytest.raises(BeholderError) as caught:
            command(*words)
        return str(caught.value)

    tower, others, projected = (f"transformers:{tmp_path / name}" for name in ("tower", "others/tower", "clip"))
    run("embed", "pictures", "-o", "set.parquet", "--backbone", tower, "--workers", "0", status=3)
    run("train", "set.parquet", "--ratings", "ratings.csv", "-o", "mine.safetensors")
    head = ["--head", "./mine.safetensors"]
    ours = beholder.load_head(tmp_path / "mine.safetensors").backbone
    told = line("score", "pictures", "--backbone", others, *head)
    assert told.startswith(f"mine scores embeddings of {ours}, and transformers:tower#")
    assert told.endswith("is another tower; its scores would mean nothing")
    assert "scores embeddings of length 48, and transformers:clip#" in line("score", "pictures", "--backbone", projected, *head)
    run("embed", "pictures", "-o", "other.parquet", "--backbone", others, "--workers", "0", status=3)
    told = line("score", "other.parquet", *head)
    assert told.startswith("these embeddings were made with transformers:tower#")
    assert f"but mine is made for {ours}" in told
    told = line("train", "set.parquet", "--ratings", "ratings.csv", "-o", "b.safetensors", "--backbone", "timm:tower")
    assert f"is of {ours} by its stamp, not of timm:tower" in told
    assert "leave the activation out" in line("score", "pictures", "--backbone", tower, *head, "--tower-activation", "gelu")
    assert "--decoder scaled" in line("score", "pictures", "--backbone", tower, *head, "--decoder", "scaled")
    assert "--precision int8" in line("score", "pictures", "--backbone", tower, *head, "--precision", "int8", "--device", "cpu")


MAKE_AND_RUN = """
import json, sys, torch
library, model, source, commands = sys.argv[1:]
sys.path.insert(0, source)
for seed in (0, 1):
    torch.manual_seed(seed)
    if library == "timm":
        import timm
        made = timm.create_model(model, pretrained=False)
    else:
        import open_clip
        made = open_clip.create_model(model)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    torch.save(made.state_dict(), f"{seed}.pt")

from typer.testing import CliRunner
from beholder.cli.app import app
done = [CliRunner().invoke(app, words) for words in json.loads(commands)]
print(json.dumps([(one.exit_code, one.output, str(one.exception)) for one in done]))
"""


@needs_peers("timm and open_clip are")
@pytest.mark.parametrize(
    ("library", "model"), [("timm", "test_vit.r160_in1k"), pytest.param("open_clip", "ViT-S-32", marks=pytest.mark.soak)]
)
def test_scores_with_towers_of_timm_and_open_clip(library: str, model: str, here: Path) -> None:
    make_pictures(here / "pictures")
    tower, other = (f"{library}:{model}@{here}/{seed}.pt" for seed in (0, 1))
    where = ["--device", "cpu", "--precision", "fp32", "--workers"]
    head = ["--head", "./mine.safetensors"]
    commands = [
        ["embed", "pictures", "-o", "set.parquet", "--backbone", tower, "--dtype", "float32", "--raw", *where, "0"],
        ["train", "set.parquet", "--ratings", "ratings.csv", "-o", "mine.safetensors"],
        ["score", "pictures", "-o", "scores.csv", *head, "--backbone", tower, *where, "1"],
        ["score", "pictures", "-o", "no.csv", *head, "--backbone", other, *where, "0"],
    ]
    source = str(Path(beholder.__file__).parents[1])
    done = json.loads(ask(MAKE_AND_RUN, library, model, source, json.dumps(commands), cache=here / "cache"))
    assert [status for status, _, _ in done] == [3, 0, 3, 1], done
    table = pyarrow.parquet.read_table("set.parquet")
    expected = beholder.load_head("mine.safetensors").score(np.stack(table["embedding"].to_numpy()))
    found = scores_in(Path("scores.csv"))
    np.testing.assert_allclose([found[name] for name in table["sample"].to_pylist()], expected, atol=1e-4)
    _, said, error = done[-1]
    assert f"and {library}:{model}#" in said + error
    assert "is another tower; its scores would mean nothing" in said + error
