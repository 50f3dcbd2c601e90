"""`beholder.score`: the command's job from Python, with its options, its files and its result at hand."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import beholder
from oracles import program
from oracles.picture_jobs import picture_bytes, plain_scores
from oracles.result_bytes import check_same
from oracles.slow_scores import affine_scores


@pytest.mark.parametrize("suffix", ["", ".parquet", ".csv"])
def test_pictures_are_scored_as_by_the_command(
    here: Path, small_tower: Path, plain_head: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for folder in ("photos", "mine", "its"):
        Path(folder).mkdir()
    for number in range(4):
        Path(f"photos/{number}.jpg").write_bytes(picture_bytes(number))
    Path("photos/2b.jpg").write_bytes(b"no picture")
    options = {"backbone": str(small_tower), "precision": "fp32", "threads": 1, "workers": 0, "device": "cpu"}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run = beholder.score(Path("photos/"), Path(f"mine/s{suffix}"), heads=[plain_head], **options)
    assert capfd.readouterr() == ("", "")
    assert [str(one.message) for one in told if one.filename == __file__] == run.summary.warnings
    assert (run.output, run.num_read, run.num_scored, run.num_rejected) == (f"mine/s{suffix}", 5, 4, 1)
    table = run.scores()
    names = [f"photos/{number}.jpg" for number in range(4)]
    assert table["sample"].to_pylist() == names
    assert table.schema.field("aesthetic_score").type == pa.float32()
    found = table["aesthetic_score"].to_numpy()
    assert np.abs(found - plain_scores(names, small_tower, plain_head)).max() < 1e-4
    assert table.to_pandas()["width"].astype(int).tolist() == [70] * 4
    assert [(row["sample"], row["reason"]) for row in run.rejects().to_pylist()] == [("photos/2b.jpg", "not_an_image")]
    best = beholder.select(table, top=1).kept_rows()
    assert best["sample"].to_pylist() == [names[int(np.argmax(found))]]
    again = beholder.score("photos", f"mine/s{suffix}", head=str(plain_head), **options)
    assert (again.num_new, again.num_scored) == (0, 4)
    Path("photos/9.jpg").write_bytes(picture_bytes(9))
    assert beholder.score("photos", f"mine/s{suffix}", head=str(plain_head), **options).num_new == 1
    line = ["score", "photos", "-o", f"its/s{suffix}", "--backbone", small_tower, "--head", plain_head, "--precision", "fp32"]
    line += ["--threads", "1", "-j", "0", "--device", "cpu", "-q"]
    assert program.beholder(*line).returncode == 3
    check_same(Path(f"mine/s{suffix}"), Path(f"its/s{suffix}"))


def test_embeddings_and_options(here: Path, small_head: Path) -> None:
    dim = beholder.load_head(str(small_head)).weight.size
    rows = np.random.default_rng(0).standard_normal((5, dim)).astype(np.float32)
    rows[1] = 0
    np.save("a.npy", rows)
    np.save("b.npy", rows[2:])
    seen: list[int] = []
    beholder.save_head(beholder.Head.affine(np.linspace(-1, 1, dim), 4.0, name="second"), "second.safetensors")
    heads = (str(small_head), "second.safetensors")
    with pytest.warns(UserWarning, match="no stamp"):
        run = beholder.score(
            ["a.npy", "b.npy"], heads=heads, memory="100MB", shard_rows=2, on_progress=lambda count, size: seen.append(count)
        )
    assert run.output == "embeddings.scores"
    assert sum(seen) == run.num_read == 8
    table = run.scores()
    assert table["sample"].to_pylist() == ["a.npy#0", "a.npy#2", "a.npy#3", "a.npy#4", "b.npy#0", "b.npy#1", "b.npy#2"]
    for path, name in zip(heads, run.summary.stats, strict=True):
        head = beholder.load_head(path)
        expected = affine_scores(rows[[0, 2, 3, 4, 2, 3, 4]], head.weight, head.bias)
        assert np.abs(table[name].to_numpy() - expected).max() < 1e-5
    assert run.rejects()["sample"].to_pylist() == ["a.npy#1"]


def test_a_list_names_its_own_output(here: Path, small_tower: Path, plain_head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the results of one list do not take the place of another's."""
    for number, name in enumerate("abc"):
        Path(f"{name}.jpg").write_bytes(picture_bytes(number))
    Path("one.txt").write_text("a.jpg\nb.jpg\n")
    Path("two.txt").write_text("b.jpg\nc.jpg\n")
    options = {"backbone": small_tower, "head": plain_head, "precision": "fp32", "workers": 0}
    runs = [beholder.score(name, **options) for name in ("one.txt", "two.txt")]
    assert [run.output for run in runs] == ["one.scores.parquet", "two.scores.parquet"]
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")  # what was written is found from any folder
    assert [run.scores()["sample"].to_pylist() for run in runs] == [["a.jpg", "b.jpg"], ["b.jpg", "c.jpg"]]
    assert [run.rejects().num_rows for run in runs] == [0, 0]


def test_what_cannot_be_done_is_said(here: Path, small_head: Path) -> None:
    np.save("a.npy", np.zeros((2, 3), np.float32))
    with pytest.raises(TypeError, match=r"score\(\) has no option 'beauty'; there are .*head, heads.*vanished"):
        beholder.score("a.npy", beauty=1)
    with pytest.raises(TypeError, match="given 'heads' twice"):
        beholder.score("a.npy", head="x", heads=["y"])
    with pytest.raises(beholder.InputError, match="does not exist"):
        beholder.score("gone.npy")
    with pytest.raises(beholder.InputError, match="nothing to score"):
        beholder.score([])
    with pytest.raises(beholder.BeholderError, match="3 dimensions"):
        beholder.score("a.npy", heads=str(small_head))
    assert sorted(path.name for path in here.iterdir()) == ["a.npy"]
