"""Jobs on pictures that are run again, continued, replaced or refused: what stays, what is done anew, what is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beholder.errors import BeholderError, HeadError, InputError, OutputError
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import embed, score
from oracles.picture_jobs import embed_options, score_options


def test_a_finished_run_does_nothing_and_other_options_are_refused(
    tmp_path: Path, photos: Path, small_tower: Path, plain_head: Path
) -> None:
    out = tmp_path / "out"
    assert score(score_options(str(photos), out, small_tower, plain_head)).num_new == 23
    assert score(score_options(str(photos), out, small_tower, plain_head)).num_new == 0
    with pytest.raises(OutputError, match='--preset was "reference", now it is "upright"'):
        score(score_options(str(photos), out, small_tower, plain_head, preset="upright"))
    with pytest.raises(OutputError, match="--precision"):
        score(score_options(str(photos), out, small_tower, plain_head, precision="bf16"))
    assert score(score_options(str(photos), out, small_tower, plain_head, preset="upright", overwrite=True)).num_new == 23


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"device": "cuda:7"}, BeholderError, "no CUDA device"),
        ({"precision": "fp4"}, InputError, "--precision fp4: choose one of"),
        ({"preset": "nice"}, InputError, "--preset nice"),
        ({"timeout_s": 0}, InputError, "--timeout"),
        ({"columns": ("nothing",)}, InputError, "nothing"),
        ({"backbone": "no/such-tower", "offline": True}, HeadError, "no/such-tower"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(
    tmp_path: Path,
    photos: Path,
    small_tower: Path,
    plain_head: Path,
    more: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    values: dict[str, Any] = {"backbone": str(small_tower), "device": "cpu", "workers": 0, **more}
    with pytest.raises(error, match=message) as raised:
        score(ScoreOptions(sources=str(photos), out=str(tmp_path / "out"), heads=(str(plain_head),), **values))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_head_of_another_length_is_refused(tmp_path: Path, photos: Path, small_tower: Path, shared_models: Path) -> None:
    head = shared_models / "sa_0_4_vit_l_14_linear.pth"
    with pytest.raises(HeadError, match="768.*24"):
        score(score_options(str(photos), tmp_path / "out", small_tower, head))


def test_kept_embeddings_never_replace_somebody_elses(
    tmp_path: Path, photos: Path, small_tower: Path, plain_head: Path
) -> None:
    embed(embed_options(str(photos), tmp_path / "s.parquet.embeddings", small_tower))
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "s.parquet.embeddings").rglob("*.npy"))
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="in the way of the embeddings to be kept"):
            score(
                score_options(
                    str(photos), tmp_path / "s.parquet", small_tower, plain_head, keep_embeddings=True, overwrite=overwrite
                )
            )
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "s.parquet.embeddings").rglob("*.npy")) == before
    assert not (tmp_path / "s.parquet").exists()


@pytest.mark.slow
def test_kept_embeddings_are_replaced_by_those_of_a_new_run(
    tmp_path: Path, photos: Path, small_tower: Path, plain_head: Path
) -> None:
    out = tmp_path / "s.csv"
    score(score_options(str(photos), out, small_tower, plain_head, keep_embeddings=True, shard_rows=5))
    assert len(list((tmp_path / "s.csv.embeddings" / "img_emb").iterdir())) == 5
    again = score_options(str(photos / "b"), out, small_tower, plain_head, keep_embeddings=True, overwrite=True)
    assert score(again).num_scored == 11
    (part,) = (tmp_path / "s.csv.embeddings" / "img_emb").iterdir()
    assert len(np.load(part)) == 11
    shutil.rmtree(tmp_path / "s.csv.embeddings")
    with pytest.raises(OutputError, match="is gone, which the finished run had written; .*use --overwrite"):
        score(score_options(str(photos / "b"), out, small_tower, plain_head, keep_embeddings=True))


@pytest.mark.slow
def test_remote_kept_embeddings_are_replaced_too(photos: Path, small_tower: Path, plain_head: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    out = Path("memory://kept/s.parquet")
    for source, count, overwrite in ((photos, 5, False), (photos / "b", 1, True)):
        options = score_options(
            str(source), out, small_tower, plain_head, keep_embeddings=True, shard_rows=5 if count > 1 else 50
        )
        score(ScoreOptions(**{**options.__dict__, "out": "memory://kept/s.parquet", "overwrite": overwrite}))
        assert len(memory.ls("/kept/s.parquet.embeddings/img_emb")) == count
    assert memory.exists("/kept/s.parquet.embeddings/beholder.json")


def test_options_without_effect_are_refused(tmp_path: Path, photos: Path, small_tower: Path, plain_head: Path) -> None:
    embed(embed_options(str(photos), tmp_path / "e", small_tower))
    with pytest.raises(InputError, match="--preset: these are embeddings already"):
        score(score_options(str(tmp_path / "e"), tmp_path / "s", small_tower, plain_head, precision="auto", workers=None,
                            device="auto", preset="upright"))  # fmt: skip
    with pytest.raises(InputError, match="--embedding-column: these are pictures"):
        score(score_options(str(photos), tmp_path / "s", small_tower, plain_head, embedding_column="x"))
    with pytest.raises(InputError, match="birder's layouts hold float32"):
        embed(embed_options(str(photos), tmp_path / "x.csv", small_tower, dtype="float16"))


def test_another_batch_size_is_another_run(tmp_path: Path, photos: Path, small_tower: Path, plain_head: Path) -> None:
    score(score_options(str(photos), tmp_path / "out", small_tower, plain_head, batch_size=2))
    with pytest.raises(OutputError, match="--batch-size was 2, now it is 3"):
        score(score_options(str(photos), tmp_path / "out", small_tower, plain_head, batch_size=3))


def test_auto_goes_on_with_the_precision_it_began_with(
    tmp_path: Path, photos: Path, small_tower: Path, plain_head: Path
) -> None:
    out = tmp_path / "out"
    score(score_options(str(photos), out, small_tower, plain_head, precision="bf16"))
    same = score(score_options(str(photos), out, small_tower, plain_head, precision="auto"))
    assert same.num_new == 0
    assert json.loads((out / "beholder.json").read_text())["options"]["--precision"] == "bf16"


def test_results_are_not_taken_for_pictures(tmp_path: Path, photos: Path, small_tower: Path, plain_head: Path) -> None:
    embed(embed_options(str(photos), tmp_path / "e", small_tower))
    with pytest.raises(InputError, match="holds results of beholder, not pictures"):
        score(score_options((str(photos), str(tmp_path / "e")), tmp_path / "s.parquet", small_tower, plain_head))


@pytest.mark.parametrize("out", ["mine.parquet", "mine.csv", "mine"])
def test_an_output_in_the_way_is_found_before_the_tower_is_loaded(
    tmp_path: Path, photos: Path, plain_head: Path, out: str
) -> None:
    target = tmp_path / out
    if target.suffix:
        target.write_bytes(b"mine")
    else:
        target.mkdir()
        (target / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=f"{out} already exists and"):
        score(score_options(str(photos), target, tmp_path / "no such tower", plain_head))
