"""Names and columns that are passed on: which, in what order, of what type, and which cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import InputError, load_head
from oracles.score_jobs import NAMES, ROWS, D, N, clip_retrieval_set, read_scores, run


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


def test_names_from_different_folders_do_not_collide(tmp_path: Path, small_head: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "x.npy", ROWS[:5])
    run([tmp_path / "a" / "x.npy", tmp_path / "b" / "x.npy"], tmp_path / "out", small_head)
    found = read_scores(tmp_path / "out")
    assert found["sample"].n_unique() == 10
    with pytest.raises(InputError, match="named twice"):
        run([tmp_path / "a" / "x.npy", tmp_path / "a" / "x.npy"], tmp_path / "out2", small_head)


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


def test_a_sample_column_that_holds_no_text_is_said_so(tmp_path: Path, small_head: Path) -> None:
    rows = pa.FixedSizeListArray.from_arrays(pa.array(ROWS[:2].reshape(-1)), D)
    pq.write_table(pa.table({"embedding": rows, "where": pa.array([[1], [2]])}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="column 'where' .*does not hold names as text"):
        run(tmp_path / "x.parquet", tmp_path / "out", small_head, sample_column="where")
