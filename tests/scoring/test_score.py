"""The scoring job end to end: exact through every reader, several heads, rejects, outputs, stamps, summary."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import BeholderError, InputError, OutputError, load_head
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from oracles.score_jobs import NAMES, ROWS, D, N, clip_retrieval_set, read_scores, run
from oracles.slow_scores import affine_scores, mlp_scores


def every_format(folder: Path) -> dict[str, Any]:
    """The same rows, as float32 where a format needs it, in every format that is read."""
    wide = ROWS.astype(np.float32)
    np.save(folder / "c.npy", ROWS)
    np.save(folder / "f.npy", np.asfortranarray(ROWS))
    np.save(folder / "f4.npy", wide)
    np.save(folder / "f8.npy", ROWS.astype(np.float64))
    np.save(folder / "f4f.npy", np.asfortranarray(wide))
    np.savez(folder / "x.npz", embeddings=ROWS)
    frame = pl.DataFrame({"sample": NAMES, **{str(i): wide[:, i] for i in range(D)}})
    frame.write_parquet(folder / "wide.parquet", row_group_size=1000)
    frame.write_csv(folder / "logits.csv")
    half = pa.table({"sample": NAMES, "embedding": pa.FixedSizeListArray.from_arrays(pa.array(ROWS.reshape(-1)), D)})
    pq.write_table(half, folder / "half.parquet", row_group_size=1024)
    pq.write_table(
        pa.table({"sample": NAMES, "embedding": pa.array(wide.tolist(), pa.list_(pa.float32()))}), folder / "list.parquet"
    )
    (folder / "hf" / "data").mkdir(parents=True)
    for i in range(3):
        part = half.slice(i * 1000, 1000)
        pq.write_table(part, folder / "hf" / "data" / f"train-{i:05d}-of-00003.parquet")
    clip_retrieval_set(folder / "cr")
    (folder / "list.txt").write_text("".join(f"{folder}/cr/img_emb/img_emb_{i}.npy\n" for i in range(12)))
    files = [
        "c.npy",
        "f.npy",
        "f4.npy",
        "f8.npy",
        "f4f.npy",
        "x.npz",
        "wide.parquet",
        "logits.csv",
        "half.parquet",
        "list.parquet",
        "hf",
        "cr",
    ]
    return {**{name: folder / name for name in files}, "glob": f"{folder}/cr/img_emb/*.npy", "list": folder / "list.txt"}


def test_every_reader_gives_the_same_bits(tmp_path: Path, small_head: Path, second_head: Path) -> None:
    expected: pl.DataFrame | None = None
    for name, source in every_format(tmp_path).items():
        summary = run(source, tmp_path / "out" / f"{name}.parquet", small_head, heads=[small_head, second_head])
        assert (summary.num_read, summary.num_scored, summary.num_rejected) == (N, N, 0), name
        found = read_scores(tmp_path / "out" / f"{name}.parquet").select("small", "second")
        if expected is None:
            expected = found
            head = load_head(str(small_head))
            assert np.abs(found["small"].to_numpy() - affine_scores(ROWS, head.weight, head.bias)).max() < 1e-5
            second = load_head(str(second_head)).math
            assert np.abs(found["second"].to_numpy() - mlp_scores(ROWS, second.weights, second.biases)).max() < 1e-5  # type: ignore[union-attr]
        assert found.equals(expected), name


def test_one_file_keeps_the_order_of_the_input(tmp_path: Path, small_head: Path) -> None:
    run(clip_retrieval_set(tmp_path / "set"), tmp_path / "one.parquet", small_head, shard_rows=100)
    found = read_scores(tmp_path / "one.parquet")
    assert found["sample"].to_list() == NAMES
    assert not list(tmp_path.glob("one.parquet.partial"))


def test_rejected_rows_are_listed_and_never_scored(tmp_path: Path, small_head: Path) -> None:
    rows = ROWS.astype(np.float32)
    rows[3, 5], rows[10, 0], rows[20], rows[2999, 23] = np.nan, np.inf, 0, -np.inf
    np.save(tmp_path / "x.npy", rows)
    summary = run(tmp_path / "x.npy", tmp_path / "out", small_head, shard_rows=1000)
    assert (summary.num_read, summary.num_scored, summary.num_rejected) == (N, N - 4, 4)
    assert summary.reasons == {"nan": 1, "inf": 2, "zero_norm": 1}
    assert summary.rejects == f"{tmp_path}/out/rejects"
    rejects = pl.read_parquet(tmp_path / "out" / "rejects" / "*.parquet").sort("sample")
    assert rejects.columns == ["sample", "stage", "reason", "message"]
    assert dict(zip(rejects["sample"], rejects["reason"], strict=True)) == {
        "x.npy#3": "nan", "x.npy#10": "inf", "x.npy#20": "zero_norm", "x.npy#2999": "inf"
    }  # fmt: skip
    assert set(rejects["stage"]) == {"score"}
    found = read_scores(tmp_path / "out")
    assert len(found) == N - 4
    assert found["aesthetic_score"].is_finite().all()
    one = run(tmp_path / "x.npy", tmp_path / "one.parquet", small_head)
    assert one.rejects == f"{tmp_path}/one.parquet.rejects.parquet"
    assert len(pl.read_parquet(one.rejects)) == 4


def test_reasons_stand_in_one_order(tmp_path: Path, small_head: Path) -> None:
    rows = ROWS.astype(np.float32)
    rows[3], rows[7, 0], rows[1500, 5], rows[2000] = 0, np.inf, np.nan, 0
    np.save(tmp_path / "x.npy", rows)
    for shard_rows in (N, 1000):
        out = tmp_path / f"{shard_rows}.parquet"
        runs = [run(tmp_path / "x.npy", out, small_head, shard_rows=shard_rows) for _ in range(2)]
        record = json.loads(Path(f"{out}.beholder.json").read_text())["result"]["reasons"]
        for found in (*(one.reasons for one in runs), *(one.to_json()["reasons"] for one in runs), record):
            assert list(found.items()) == [("nan", 1), ("inf", 1), ("zero_norm", 2)]


def test_csv_has_empty_scores_for_rejects_and_numbers_with_a_dot(tmp_path: Path, small_head: Path) -> None:
    head = load_head(str(small_head))
    rows = np.random.default_rng(1).standard_normal((300, D)).astype(np.float32)
    rows[7], rows[8, 0] = 0, np.nan
    names = [f'a "{i}", b.jpg' if i % 3 else f"x\ny{i}" for i in range(300)]
    pq.write_table(
        pa.table({"sample": names, "embedding": pa.array(rows.tolist(), pa.list_(pa.float32()))}), tmp_path / "x.parquet"
    )
    summary = run(tmp_path / "x.parquet", tmp_path / "x.csv", small_head)
    assert summary.num_rejected == 2
    with (tmp_path / "x.csv").open(newline="") as file:
        records = list(csv.DictReader(file))
    assert [record["sample"] for record in records] == names
    assert [(i, r["status"]) for i, r in enumerate(records) if r["status"] != "ok"] == [(7, "zero_norm"), (8, "nan")]
    assert records[7]["aesthetic_score"] == records[8]["aesthetic_score"] == ""
    scores = head.score(rows)
    for i, record in enumerate(records):
        if i not in (7, 8):
            assert "." in record["aesthetic_score"]
            assert np.float32(record["aesthetic_score"]) == scores[i]
    frame = pl.read_csv(tmp_path / "x.csv")
    assert frame.schema["aesthetic_score"] == pl.Float64
    assert frame["aesthetic_score"].null_count() == 2


def test_whole_numbers_are_written_with_a_dot(tmp_path: Path) -> None:
    from beholder import Head, save_head
    from beholder.kernels.scoring import Affine

    save_head(Head(name="five", math=Affine(np.zeros(2), 5.0)), tmp_path / "five.safetensors")
    np.save(tmp_path / "x.npy", np.ones((2, 2), np.float32))
    run(tmp_path / "x.npy", tmp_path / "x.csv", tmp_path / "five.safetensors")
    assert (tmp_path / "x.csv").read_text() == "sample,aesthetic_score,status\nx.npy#0,5.0,ok\nx.npy#1,5.0,ok\n"


def test_provenance_is_in_the_files(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    run(tmp_path / "x.npy", tmp_path / "out", small_head)
    head = load_head(str(small_head))
    record = json.loads((tmp_path / "out" / "beholder.json").read_text())
    assert record["heads"][0]["sha256"] == head.sha256
    assert record["heads"][0]["name"] == "small"
    metadata = pq.read_schema(tmp_path / "out" / "scores" / "x.parquet").metadata
    assert json.loads(metadata[b"beholder"])["heads"][0]["sha256"] == head.sha256
    schema = pq.read_schema(tmp_path / "out" / "scores" / "x.parquet")
    assert schema.field("aesthetic_score").type == pa.float32()
    marker = json.loads((tmp_path / "out" / "done" / "x.json").read_text())
    assert marker["models"] == [head.sha256]
    assert marker["result"]["num_read"] == N


def test_shard_size_threads_and_memory_do_not_change_a_bit(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    run(tmp_path / "x.npy", tmp_path / "a.parquet", small_head)
    expected = read_scores(tmp_path / "a.parquet")
    for number, options in enumerate([{"shard_rows": 7}, {"num_threads": 1}, {"num_threads": 3, "memory_bytes": 64 << 20}]):
        run(tmp_path / "x.npy", tmp_path / f"b{number}.parquet", small_head, **options)
        assert read_scores(tmp_path / f"b{number}.parquet").equals(expected)


def test_one_row_and_empty_parts(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS[:1])
    np.save(tmp_path / "b.npy", ROWS[:0])
    summary = run([tmp_path / "a.npy", tmp_path / "b.npy"], tmp_path / "out.parquet", small_head)
    assert summary.num_scored == 1
    with pytest.raises(InputError, match="zero rows, nothing to score"):
        run(tmp_path / "b.npy", tmp_path / "none", small_head)
    (tmp_path / "h.csv").write_text("sample," + ",".join(str(i) for i in range(D)) + "\n")
    with pytest.raises(InputError, match="zero rows, nothing to score"):
        run(tmp_path / "h.csv", tmp_path / "none.csv", small_head)


def test_every_row_rejected(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((5, D), np.float32))
    for out in ("out", "out.parquet", "out.csv"):
        summary = run(tmp_path / "x.npy", tmp_path / out, small_head)
        assert (summary.num_scored, summary.num_rejected) == (0, 5)
        assert json.loads(json.dumps(summary.to_json(), allow_nan=False))["scores"]["aesthetic_score"]["mean"] is None
    assert len(pl.read_parquet(tmp_path / "out.parquet")) == 0


def test_stamps_are_compared_with_the_head(tmp_path: Path, small_head: Path) -> None:
    source = clip_retrieval_set(tmp_path / "set")
    assert "no stamp" in run(source, tmp_path / "a", small_head).warnings[0]
    assert "test/clip-24" in run(source, tmp_path / "a2", small_head).warnings[0]
    (source / "beholder.json").write_text(json.dumps({"backbone": "test/clip-24"}))
    assert run(source, tmp_path / "b", small_head).warnings == []
    (source / "beholder.json").write_text(json.dumps({"backbone": "openai/clip-vit-base-patch32"}))
    with pytest.raises(InputError, match="made with openai/clip-vit-base-patch32 .*but small is made for test/clip-24"):
        run(source, tmp_path / "c", small_head)
    with pytest.raises(InputError, match="made with openai/clip-vit-base-patch32"):
        run(source / "img_emb", tmp_path / "c", small_head)
    np.save(tmp_path / "x.npy", ROWS)
    (tmp_path / "x.npy.beholder.json").write_text(json.dumps({"backbone": "other/model"}))
    with pytest.raises(InputError, match="other/model"):
        run(tmp_path / "x.npy", tmp_path / "d", small_head)
    (tmp_path / "x.npy.beholder.json").write_text("not json")
    with pytest.raises(InputError, match="not a readable stamp"):
        run(tmp_path / "x.npy", tmp_path / "d", small_head)
    assert not (tmp_path / "d").exists()


def test_a_told_backbone_counts_as_a_stamp(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    assert run(tmp_path / "x.npy", tmp_path / "a", small_head, backbone="test/clip-24").warnings == []
    with pytest.raises(InputError, match="--backbone"):
        run(tmp_path / "x.npy", tmp_path / "b", small_head, backbone="ViT-B/32")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ("width",)}, "no metadata, so no column 'width'"),
        ({"memory_bytes": 1000}, "too little"),
        ({"shard_rows": 0}, "at least 1"),
        ({"heads": []}, "no head"),
    ],
)
def test_options_that_cannot_work_are_refused(tmp_path: Path, small_head: Path, options: dict[str, Any], message: str) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    with pytest.raises(BeholderError, match=message):
        run(tmp_path / "x.npy", tmp_path / "out", small_head, **options)
    assert not (tmp_path / "out").exists()


def test_the_same_head_twice_is_refused(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    with pytest.raises(InputError, match="named twice"):
        run(tmp_path / "x.npy", tmp_path / "out", small_head, heads=[small_head, small_head])


def test_summary_numbers_equal_numpys(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    record = run(tmp_path / "x.npy", tmp_path / "out", small_head, shard_rows=700).to_json()
    scores = load_head(str(small_head)).score(ROWS).astype(np.float64)
    found = record["scores"]["aesthetic_score"]
    assert found["count"] == N
    assert found["mean"] == pytest.approx(scores.mean(), abs=1e-9)
    assert found["standard_deviation"] == pytest.approx(scores.std(), abs=1e-9)
    assert found["minimum"] == scores.min()
    assert found["share_at_least"]["5.5"] == (scores >= 5.5).mean()
    assert found["quantiles"]["0.5"] == pytest.approx(np.quantile(scores, 0.5), abs=0.02)
    assert record["rows_per_second"] > 0


@pytest.mark.parametrize("name", ["scores.csv.gz", "scores.txt", "scores.jsonl"])
def test_outputs_of_unknown_kinds_are_refused(tmp_path: Path, small_head: Path, name: str) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    with pytest.raises(OutputError, match="scores are written as .parquet, .csv"):
        run(tmp_path / "x.npy", tmp_path / name, small_head)
    assert not (tmp_path / name).exists()


def test_the_smallest_memory_is_enough(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    assert run(tmp_path / "x.npy", tmp_path / "out", small_head, memory_bytes=64_000_000).num_scored == N


def test_single_names_and_paths_are_taken_as_they_are(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    options = ScoreOptions(sources=tmp_path / "x.npy", heads=small_head, out=tmp_path / "out.parquet")  # type: ignore[arg-type]
    assert score(options).num_scored == N
    for wrong in ({"sources": ("",)}, {"out": ""}, {"columns": ("a", "a")}, {"heads": ("",)}):
        with pytest.raises(InputError, match="empty|twice"):
            ScoreOptions(**{"sources": ("x.npy",), **wrong})


def test_a_folder_called_tilde_is_not_the_home(tmp_path: Path, small_head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    np.save("x.npy", ROWS[:9])
    for out in ("./~/out", "./~/out.csv"):
        found = score(ScoreOptions(sources=("x.npy",), out=out, heads=(str(small_head),)))
        assert (found.num_scored, Path(out).exists()) == (9, True)
    assert not (tmp_path / "home").exists()


def test_an_address_that_names_no_place_is_refused(tmp_path: Path, small_head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", ROWS[:9])
    for out in ("s3://", "gs:///"):
        with pytest.raises(OutputError, match=f"^{out} names no place that could be written to"):
            score(ScoreOptions(sources=("x.npy",), out=out, heads=(str(small_head),)))
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".safetensors"] == ["x.npy"]
