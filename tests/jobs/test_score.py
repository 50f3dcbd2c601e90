"""The scoring job end to end: exact through every reader, several heads, columns, rejects, outputs, resuming."""

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
from beholder.jobs.score import ScoreOptions, score
from beholder.scores.summary import RunSummary
from oracles.slow_scores import affine_scores, mlp_scores

N, D = 3000, 24
ROWS = np.random.default_rng(0).standard_normal((N, D)).astype(np.float16)
NAMES = [f"pictures/{i:05d}.jpg" for i in range(N)]


def run(sources: Any, out: Path, head: Path, **options: Any) -> RunSummary:
    sources = tuple(str(source) for source in (sources if isinstance(sources, list | tuple) else [sources]))
    heads = tuple(str(h) for h in options.pop("heads", [head]))
    return score(ScoreOptions(sources=sources, out=str(out), heads=heads, **options))


def read_scores(out: Path) -> pl.DataFrame:
    return pl.read_parquet(out / "scores" / "*.parquet" if out.is_dir() else out)


def clip_retrieval_set(root: Path, padding: int = 0, parts: int = 12) -> Path:
    """A set in clip-retrieval's layout: img_emb/img_emb_I.npy and metadata/metadata_I.parquet."""
    (root / "img_emb").mkdir(parents=True)
    (root / "metadata").mkdir()
    for i, (rows, names) in enumerate(zip(np.array_split(ROWS, parts), np.array_split(NAMES, parts), strict=True)):
        np.save(root / "img_emb" / f"img_emb_{i:0{padding}d}.npy", rows)
        table = pa.table({"image_path": names, "width": np.arange(len(names)), "caption": [f"c, {n}" for n in names]})
        pq.write_table(table, root / "metadata" / f"metadata_{i:0{padding}d}.parquet", row_group_size=100)
    return root


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


@pytest.mark.parametrize("padding", [0, 4])
def test_clip_retrieval_sets_keep_names_and_columns(tmp_path: Path, small_head: Path, padding: int) -> None:
    source = clip_retrieval_set(tmp_path / "set", padding)
    run(source, tmp_path / "out", small_head, columns=("width", "caption"))
    found = read_scores(tmp_path / "out")
    assert found.columns == ["sample", "aesthetic_score", "width", "caption"]
    assert sorted(found["sample"].to_list()) == NAMES
    by_name = dict(zip(found["sample"], found["aesthetic_score"], strict=True))
    direct = load_head(str(small_head)).score(ROWS)
    assert [by_name[name] for name in NAMES] == direct.tolist()
    assert set(found["caption"]) == {f"c, {name}" for name in NAMES}
    whole = run(source, tmp_path / "all.parquet", small_head, columns=("*",))
    assert read_scores(Path(whole.output)).columns == ["sample", "aesthetic_score", "width", "caption"]


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


def test_the_same_command_again_does_nothing_new(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    for out in (tmp_path / "out", tmp_path / "out.parquet", tmp_path / "out.csv"):
        first = run(tmp_path / "x.npy", out, small_head)
        files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
        again = run(tmp_path / "x.npy", out, small_head)
        assert again.num_new == 0
        assert again.num_scored == first.num_scored == N
        assert again.stats == first.stats
        assert files == {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.parametrize("suffix", ["", ".parquet", ".csv"])
def test_other_options_are_refused_by_name(tmp_path: Path, small_head: Path, second_head: Path, suffix: str) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    out = tmp_path / f"out{suffix}"
    run(tmp_path / "x.npy", out, small_head)
    before = out.read_bytes() if suffix else (out / "scores" / "x.parquet").read_bytes()
    with pytest.raises(OutputError, match=r'--head was \["small"\], now it is \["second"\].*--overwrite'):
        run(tmp_path / "x.npy", out, second_head)
    assert before == (out.read_bytes() if suffix else (out / "scores" / "x.parquet").read_bytes())
    with pytest.raises(OutputError, match="--shard-rows was 1000000, now it is 10"):
        run(tmp_path / "x.npy", out, small_head, shard_rows=10)
    run(tmp_path / "x.npy", out, second_head, overwrite=True)
    with pytest.raises(OutputError, match=r'--head was \["second"\]'):
        run(tmp_path / "x.npy", out, small_head)


@pytest.mark.parametrize("suffix", ["", ".parquet", ".csv"])
def test_other_inputs_are_refused(tmp_path: Path, small_head: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    np.save(tmp_path / "x.npy", ROWS)
    run(tmp_path / "x.npy", out, small_head)
    np.save(tmp_path / "x.npy", ROWS[:-1])
    with pytest.raises(OutputError, match=r"changed: rows was 3000, now it is 2999|made from other inputs"):
        run(tmp_path / "x.npy", out, small_head)


def test_a_folder_takes_up_parts_that_were_added(tmp_path: Path, small_head: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    np.save(source / "a.npy", ROWS[:1000])
    run(source, tmp_path / "out", small_head)
    np.save(source / "b.npy", ROWS[1000:])
    summary = run(source, tmp_path / "out", small_head)
    assert summary.num_new == 2000
    assert summary.num_read == N
    assert len(read_scores(tmp_path / "out")) == N


@pytest.mark.parametrize("suffix", ["", ".parquet", ".csv"])
def test_foreign_outputs_are_never_overwritten(tmp_path: Path, small_head: Path, suffix: str) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    out = tmp_path / f"out{suffix}"
    if suffix:
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="already exists"):
        run(tmp_path / "x.npy", out, small_head)
    assert (out if suffix else out / "mine.txt").read_text() == "mine"
    if not suffix:
        with pytest.raises(OutputError, match="not a beholder run"):
            run(tmp_path / "x.npy", out, small_head, overwrite=True)
        assert (out / "mine.txt").read_text() == "mine"


def test_a_missing_shard_file_is_done_again(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    run(tmp_path / "x.npy", tmp_path / "out", small_head, shard_rows=1000)
    whole = read_scores(tmp_path / "out")
    (tmp_path / "out" / "scores" / "x-from-000000001000.parquet").unlink()
    summary = run(tmp_path / "x.npy", tmp_path / "out", small_head, shard_rows=1000)
    assert summary.num_new == 1000
    assert read_scores(tmp_path / "out").equals(whole)


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


def test_names_from_different_folders_do_not_collide(tmp_path: Path, small_head: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "x.npy", ROWS[:5])
    run([tmp_path / "a" / "x.npy", tmp_path / "b" / "x.npy"], tmp_path / "out", small_head)
    found = read_scores(tmp_path / "out")
    assert found["sample"].n_unique() == 10
    with pytest.raises(InputError, match="named twice"):
        run([tmp_path / "a" / "x.npy", tmp_path / "a" / "x.npy"], tmp_path / "out2", small_head)


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


def test_a_column_that_would_be_written_twice_is_refused(tmp_path: Path, small_head: Path) -> None:
    columns = {"sample": NAMES, "aesthetic_score": np.zeros(N), "status": ["x"] * N}
    table = pa.table({**columns, "embedding": pa.FixedSizeListArray.from_arrays(pa.array(ROWS.reshape(-1)), D)})
    pq.write_table(table, tmp_path / "x.parquet")
    for column, out in [("aesthetic_score", "out.parquet"), ("status", "out.csv")]:
        with pytest.raises(InputError, match=f"--column {column}: the score set has a column of that name"):
            run(tmp_path / "x.parquet", tmp_path / out, small_head, columns=(column,))
    with pytest.raises(InputError, match="'aesthetic_score' is in the metadata and the name of a score"):
        run(tmp_path / "x.parquet", tmp_path / "out3.parquet", small_head, columns=("*",))
    run(tmp_path / "x.parquet", tmp_path / "out.parquet", small_head, columns=("status",))
    assert read_scores(tmp_path / "out.parquet").columns == ["sample", "aesthetic_score", "status"]


def test_all_columns_of_a_table_without_any(tmp_path: Path, small_head: Path) -> None:
    pq.write_table(
        pa.table({"embedding": pa.FixedSizeListArray.from_arrays(pa.array(ROWS.reshape(-1)), D)}), tmp_path / "x.parquet"
    )
    run(tmp_path / "x.parquet", tmp_path / "out.parquet", small_head, columns=("*",))
    found = read_scores(tmp_path / "out.parquet")
    assert found.columns == ["sample", "aesthetic_score"]
    assert found["sample"][0] == "x.parquet#0"


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


def test_other_content_of_the_same_size_is_noticed(tmp_path: Path, small_head: Path) -> None:
    for out in ("out", "out.parquet"):
        np.save(tmp_path / "x.npy", ROWS)
        run(tmp_path / "x.npy", tmp_path / out, small_head)
        np.save(tmp_path / "x.npy", ROWS[::-1])
        with pytest.raises(OutputError, match=r"its contents are others|made from other inputs"):
            run(tmp_path / "x.npy", tmp_path / out, small_head)


def test_a_folder_with_results_of_other_inputs_is_refused(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS[:10])
    np.save(tmp_path / "b.npy", ROWS[10:20])
    run([tmp_path / "a.npy", tmp_path / "b.npy"], tmp_path / "out", small_head)
    with pytest.raises(OutputError, match="holds results of b, which is not among the inputs now"):
        run(tmp_path / "a.npy", tmp_path / "out", small_head)
    run(tmp_path / "a.npy", tmp_path / "out", small_head, overwrite=True)
    assert len(read_scores(tmp_path / "out")) == 10


def test_an_embedding_set_is_never_taken_for_an_output(tmp_path: Path, small_head: Path) -> None:
    source = clip_retrieval_set(tmp_path / "set")
    stamp = json.dumps({"format": "beholder-embeddings", "backbone": "test/clip-24"})
    (source / "beholder.json").write_text(stamp)
    before = sorted(path.name for path in source.rglob("*"))
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="is an input of this command"):
            run(source, source, small_head, overwrite=overwrite)
    assert (source / "beholder.json").read_text() == stamp
    assert sorted(path.name for path in source.rglob("*")) == before


@pytest.mark.parametrize("name", ["scores.csv.gz", "scores.txt", "scores.jsonl"])
def test_outputs_of_unknown_kinds_are_refused(tmp_path: Path, small_head: Path, name: str) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    with pytest.raises(OutputError, match="scores are written as .parquet, .csv"):
        run(tmp_path / "x.npy", tmp_path / name, small_head)
    assert not (tmp_path / name).exists()


def test_the_smallest_memory_is_enough(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    assert run(tmp_path / "x.npy", tmp_path / "out", small_head, memory_bytes=64_000_000).num_scored == N


def test_an_input_is_never_overwritten(tmp_path: Path, small_head: Path) -> None:
    pq.write_table(
        pa.table({"embedding": pa.FixedSizeListArray.from_arrays(pa.array(ROWS.reshape(-1)), D)}), tmp_path / "x.parquet"
    )
    (tmp_path / "link.parquet").symlink_to(tmp_path / "x.parquet")
    before = (tmp_path / "x.parquet").read_bytes()
    for out in ("x.parquet", "link.parquet", "../" + tmp_path.name + "/x.parquet"):
        with pytest.raises(OutputError, match="is an input of this command"):
            run(tmp_path / "x.parquet", tmp_path / out, small_head, overwrite=True)
    assert (tmp_path / "x.parquet").read_bytes() == before


def test_parts_named_like_our_ranges_lose_no_row(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS[:6])
    np.save(tmp_path / "a-from-000000000003.npy", ROWS[6:8])
    sources = [tmp_path / "a.npy", tmp_path / "a-from-000000000003.npy"]
    for out in ("out", "out.parquet"):
        run(sources, tmp_path / out, small_head, shard_rows=3)
        found = read_scores(tmp_path / out)
        assert len(found) == found["sample"].n_unique() == 8


def test_columns_of_clashing_types_become_text(tmp_path: Path, small_head: Path) -> None:
    for name, tags in (("a", [1, 2]), ("b", ["x", None])):
        rows = pa.FixedSizeListArray.from_arrays(pa.array(ROWS[:2].reshape(-1)), D)
        pq.write_table(pa.table({"embedding": rows, "tag": tags}), tmp_path / f"{name}.parquet")
    run([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "out.parquet", small_head, columns=("tag",))
    assert read_scores(tmp_path / "out.parquet")["tag"].to_list() == ["1", "2", "x", None]
    run([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "out.csv", small_head, columns=("tag",))
    assert pl.read_csv(tmp_path / "out.csv")["tag"].to_list() == ["1", "2", "x", None]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["status"], {"columns": ("*",)}, "column 'status' is the CSV's own"),
        (["my\ncol"], {"columns": ("*",)}, "line break in its name"),
        (["sample", "url"], {"columns": ("*",), "sample_column": "url"}, "a column 'sample' besides --sample-column url"),
        (["url", "url"], {"columns": ("*",)}, "two columns called 'url'"),
    ],
)
def test_columns_that_cannot_all_be_kept_are_refused(
    tmp_path: Path, small_head: Path, names: list[str], options: dict[str, Any], message: str
) -> None:
    arrays = [pa.FixedSizeListArray.from_arrays(pa.array(ROWS[:2].reshape(-1)), D), *[pa.array(["a", "b"]) for _ in names]]
    pq.write_table(pa.table(arrays, names=["embedding", *names]), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=message):
        run(tmp_path / "x.parquet", tmp_path / "out.csv", small_head, **options)


def test_results_inside_the_source_are_not_read_as_embeddings(
    tmp_path: Path, small_head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(
        pa.table({"embedding": pa.FixedSizeListArray.from_arrays(pa.array(ROWS.reshape(-1)), D)}), tmp_path / "x.parquet"
    )
    monkeypatch.chdir(tmp_path)
    for out in (None, "one.parquet", "two.csv"):
        options = ScoreOptions(sources=(".",), out=out, heads=(str(small_head),))
        assert score(options).num_new == N
        assert score(options).num_new == 0


def test_a_sample_column_that_holds_no_text_is_said_so(tmp_path: Path, small_head: Path) -> None:
    rows = pa.FixedSizeListArray.from_arrays(pa.array(ROWS[:2].reshape(-1)), D)
    pq.write_table(pa.table({"embedding": rows, "where": pa.array([[1], [2]])}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="column 'where' .*does not hold names as text"):
        run(tmp_path / "x.parquet", tmp_path / "out", small_head, sample_column="where")


def test_two_runs_of_one_command_at_once_give_one_whole_result(tmp_path: Path, small_head: Path) -> None:
    import subprocess
    import sys

    np.save(tmp_path / "x.npy", ROWS)
    line = [sys.executable, "-m", "beholder", "score", str(tmp_path / "x.npy"), "-o", str(tmp_path / "out.parquet")]
    line += ["--head", str(small_head), "--shard-rows", "50", "-q"]
    running = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [process.communicate(timeout=100)[1] for process in running]
    statuses = [process.returncode for process in running]
    assert 0 in statuses
    for status, error in zip(statuses, errors, strict=True):
        assert status == 0 or "another run" in error, error
    found = read_scores(tmp_path / "out.parquet")
    assert len(found) == found["sample"].n_unique() == N


def test_a_foreign_rejects_table_is_neither_overwritten_nor_deleted(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    (tmp_path / "out.parquet.rejects.parquet").write_text("precious")
    with pytest.raises(OutputError, match="in the way of the rejects table and is not ours"):
        run(tmp_path / "x.npy", tmp_path / "out.parquet", small_head, overwrite=True)
    assert (tmp_path / "out.parquet.rejects.parquet").read_text() == "precious"


def test_single_names_and_paths_are_taken_as_they_are(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    options = ScoreOptions(sources=tmp_path / "x.npy", heads=small_head, out=tmp_path / "out.parquet")  # type: ignore[arg-type]
    assert score(options).num_scored == N
    for wrong in ({"sources": ("",)}, {"out": ""}, {"columns": ("a", "a")}, {"heads": ("",)}):
        with pytest.raises(InputError, match="empty|twice"):
            ScoreOptions(**{"sources": ("x.npy",), **wrong})
