"""Score sets opened from every place they may stand in: rows in order, columns and heads found, what is odd refused."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import beholder
from beholder.cli.app import app
from beholder.errors import InputError
from beholder.io.records import sealed
from beholder.models.catalog import DEFAULT_HEAD
from beholder.scoreset.score_set import ROW, ScoreSet, heads_recorded, open_scores, quoted, text_literal
from beholder.scoring.options import EmbedOptions, ScoreOptions
from beholder.scoring.score import embed, score
from oracles.picture_jobs import embed_options, picture_bytes, score_options
from oracles.s3 import BUCKET

COUNTS = {"part_2": 3, "part_10": 4, "part_1": 0}


def table(first: int, count: int, **more: Any) -> pa.Table:
    rows = range(first, first + count)
    columns = {"sample": [f"p{row}.jpg" for row in rows], "aesthetic_score": pa.array([row / 8 for row in rows], pa.float32())}
    return pa.table({**columns, **more})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files whose natural order differs from that of their text; only one of them has captions."""
    place = tmp_path / "set"
    place.mkdir()
    pq.write_table(table(0, 0), place / "part_1.parquet")
    pq.write_table(table(0, 3), place / "part_2.parquet")
    pq.write_table(table(3, 4, caption=["a", None, "c", "d"]), place / "part_10.parquet", row_group_size=3)
    return place


def rows_of(scores: ScoreSet, *names: str) -> list[dict[str, Any]]:
    return [row for batch in scores.batches(names) for row in batch.to_pylist()]


def by_duckdb(scores: ScoreSet, names: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        scores.register(connection)
        return connection.execute(f"SELECT {names} FROM scores ORDER BY {ROW}").fetchall()


def test_rows_come_in_natural_order_and_lacking_columns_are_null(folder: Path) -> None:
    with open_scores(str(folder)) as scores:
        assert scores.num_rows == 7
        assert scores.row_counts == (0, 3, 4)
        assert (scores.sample_column, scores.score_columns, scores.metadata_columns) == (
            "sample",
            ("aesthetic_score",),
            ["caption"],
        )
        assert scores.head_names == {"aesthetic_score": None}
        expected = [(f"p{row}.jpg", caption) for row, caption in enumerate([None, None, None, "a", None, "c", "d"])]
        assert [tuple(row.values()) for row in rows_of(scores, "sample", "caption")] == expected
        np.testing.assert_array_equal(scores.scores("aesthetic_score"), np.arange(7, dtype=np.float32) / 8)
        assert [name for names in scores.samples() for name in names.to_pylist()] == [name for name, _ in expected]
        wanted = [(row, name, row / 8, caption) for row, (name, caption) in enumerate(expected)]
        assert by_duckdb(scores, f"{ROW}, sample, aesthetic_score, caption") == wanted


def test_pieces_are_as_small_as_asked_for(folder: Path) -> None:
    with open_scores(str(folder)) as scores:
        counts = [batch.num_rows for batch in scores.batches(["sample"], num_rows=2)]
        assert (sum(counts), max(counts)) == (7, 2)


def test_a_table_in_memory_is_a_set(folder: Path) -> None:
    given = table(0, 5, width=[1, 2, None, 4, 5])
    with open_scores(given) as scores:
        assert scores.num_rows == 5
        assert [row["width"] for row in rows_of(scores, "width")] == [1, 2, None, 4, 5]
        assert by_duckdb(scores, f"{ROW}, sample, width")[2] == (2, "p2.jpg", None)


def test_half_floats_in_memory_are_read(tmp_path: Path) -> None:
    halves = np.array([1.5, 2.25], np.float16)
    given = pa.table({"sample": ["a", "b"], "aesthetic_score": halves, "half": halves})
    pq.write_table(given, tmp_path / "s.parquet")
    for source in (given, str(tmp_path / "s.parquet")):
        with open_scores(source) as scores:
            assert scores.scores("aesthetic_score").tolist() == [1.5, 2.25]
            assert by_duckdb(scores, "sample, half") == [("a", 1.5), ("b", 2.25)]


def test_no_rows_at_all() -> None:
    with open_scores(table(0, 0)) as scores:
        assert scores.num_rows == 0
        assert scores.scores("aesthetic_score").shape == (0,)
        assert by_duckdb(scores, "sample") == []


@pytest.mark.parametrize("out", ["s", "s.parquet", "s.csv"])
def test_what_beholder_score_wrote_is_opened_with_its_heads_and_rejects(
    tmp_path: Path, small_head: Path, plain_head: Path, out: str
) -> None:
    rows = np.random.default_rng(1).standard_normal((9, 24)).astype(np.float32)
    rows[4] = np.nan
    np.save(tmp_path / "e.npy", rows)
    heads = (str(small_head), str(plain_head))
    score(ScoreOptions(sources=(str(tmp_path / "e.npy"),), out=str(tmp_path / out), heads=heads, shard_rows=3))
    with open_scores(str(tmp_path / out)) as scores:
        assert scores.score_columns == ("small", "plain")
        assert scores.head_names == {"small": "small", "plain": "plain"}
        assert scores.record["format"] == "beholder-score-set"
        found = scores.scores("small")
        assert len(found) == (9 if out.endswith("csv") else 8)
        assert np.isnan(found).sum() == (1 if out.endswith("csv") else 0)
        assert [pq.read_table(path)["reason"].to_pylist() for path in scores.rejects] == [["nan"]]
        assert scores.embeddings is None


def test_csv_of_others(tmp_path: Path) -> None:
    text = "sample,aesthetic_score,label\n0012,5,\n0013,4.25,a\n0014,nan,\n0015,,b\n"
    (tmp_path / "r.csv").write_text(text)
    with open_scores(str(tmp_path / "r.csv")) as scores:
        assert [row["sample"] for row in rows_of(scores, "sample")] == ["0012", "0013", "0014", "0015"]
        np.testing.assert_array_equal(scores.scores("aesthetic_score"), np.array([5, 4.25, np.nan, np.nan], np.float32))
        assert scores.record == {}


@pytest.mark.parametrize(
    ("name", "head"),
    [("AESTHETIC_SCORE", DEFAULT_HEAD), ("aesthetic_score_laion_v2", DEFAULT_HEAD), ("aesthetic", "sa_0_4_vit_l_14_linear")],
)
def test_names_of_known_public_sets(tmp_path: Path, name: str, head: str) -> None:
    pq.write_table(pa.table({"URL": ["https://a/1.jpg", None], name: [6.5, None]}), tmp_path / "x.parquet")
    with open_scores(str(tmp_path / "*.parquet")) as scores:
        assert (scores.sample_column, scores.score_columns, scores.head_names) == ("URL", (name,), {name: head})
        assert [text for names in scores.samples() for text in names.to_pylist()] == ["https://a/1.jpg", "#1"]
        assert by_duckdb(scores, "sample, URL")[0] == ("https://a/1.jpg", "https://a/1.jpg")


def test_columns_may_be_named_and_names_may_be_odd(tmp_path: Path) -> None:
    odd = 'it\'s "odd"'
    pq.write_table(pa.table({odd: ["a"], "my score": [1]}), tmp_path / "it's.parquet")
    with open_scores(str(tmp_path / "it's.parquet"), score_column="my score", sample_column=odd) as scores:
        assert scores.scores("my score").tolist() == [1.0]
        assert by_duckdb(scores, f"sample, {quoted(odd)}, {text_literal(odd)}") == [("a", "a", odd)]


def test_columns_of_a_csv_are_the_text_that_stands_there(tmp_path: Path) -> None:
    (tmp_path / "w.csv").write_text('photo,score,hash,empty,quoted\n007,5,9007199254740993,,""\n008,6,-1,,nan\n')
    with open_scores(str(tmp_path / "w.csv"), sample_column="photo") as scores:
        assert rows_of(scores, "photo", "hash", "empty", "quoted") == [
            {"photo": "007", "hash": "9007199254740993", "empty": "", "quoted": ""},
            {"photo": "008", "hash": "-1", "empty": "", "quoted": "nan"},
        ]  # fmt: skip
        assert scores.schema.field("score").type == pa.float64()
    (tmp_path / "none.csv").write_text("sample,aesthetic_score\n")
    with open_scores(str(tmp_path / "none.csv")) as scores:
        assert scores.scores("aesthetic_score").tolist() == []


def test_a_csv_whose_late_rows_are_of_another_type(tmp_path: Path) -> None:
    early = "".join(f"{i:0900d},5,1,true,2020-01-01\n" for i in range(10_000))  # more than is looked at to tell types
    (tmp_path / "late.csv").write_text("sample,score,n,flag,day\n" + early + "x,5.5,0.5,maybe,someday\n")
    with open_scores(str(tmp_path / "late.csv")) as scores:
        rows = rows_of(scores, "score", "n", "flag", "day")
    assert rows[0] == {"score": 5.0, "n": "1", "flag": "true", "day": "2020-01-01"}
    assert rows[-1] == {"score": 5.5, "n": "0.5", "flag": "maybe", "day": "someday"}
    assert len(rows) == 10_001


@pytest.mark.parametrize(("name", "mark"), [("s.csv", ";"), ("s.csv", "\t"), ("s.tsv", ","), ("s.csv", "|")])
def test_a_csv_of_another_delimiter_is_named_as_such(tmp_path: Path, name: str, mark: str) -> None:
    (tmp_path / name).write_text(f"sample{mark}score\na{mark}5\n")
    assert f"its fields look separated by {mark!r}" in refused(str(tmp_path / name))
    (tmp_path / name).write_text(f"sample{mark}score\n")
    assert f"its fields look separated by {mark!r}" in refused(str(tmp_path / name))


def test_another_delimiter_is_named_whatever_the_rows_hold_and_however_many_columns_there_are(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text('\ufeffsample;score;caption\r\na.jpg;5,1;"hello, you"\r\n')
    assert "its first line is 'sample;score;caption'" in refused(str(path))
    path.write_text(";".join(f"column {number}" for number in range(1000)) + "\n" + ";".join(["1"] * 1000) + "\n")
    assert "fields look separated by ';' where ',' is expected" in refused(str(path))
    path.write_text('"a;b",score\nx,5\n')  # no delimiter but a name
    with open_scores(str(path), sample_column="a;b") as scores:
        assert scores.scores("score").tolist() == [5]


def test_whole_numbers_may_be_scores(tmp_path: Path) -> None:
    with open_scores(pa.table({"sample": ["a", "b"], "score": pa.array([16_777_217, None], pa.int64())})) as scores:
        np.testing.assert_array_equal(scores.scores("score"), np.array([16_777_216, np.nan], np.float32))


@pytest.mark.parametrize("kind", ["table", "parquet", "csv"])
def test_a_column_that_is_said_to_name_the_rows_does_so_beside_one_called_sample(kind: str, tmp_path: Path) -> None:
    table = pa.table({"sample": ["a", "b"], "url": ["u", "v"], "score": [1.0, 2.0], "n": [7, 8]})
    source: Any = table
    if kind != "table":
        source = str(tmp_path / f"scores.{kind}")
        (pq.write_table if kind == "parquet" else pa_csv.write_csv)(table, source)
    with open_scores(source, sample_column="url") as scores:
        assert scores.schema.names == ["url", "score", "n"]
        assert pa.concat_tables(pa.table({"s": part}) for part in scores.samples()).column(0).to_pylist() == ["u", "v"]
        assert by_duckdb(scores, "sample, url, score") == [("u", "u", 1.0), ("v", "v", 2.0)]
        assert len(scores.notes) == 1
        assert "column 'sample' is left out" in scores.notes[0]


def test_names_that_sql_cannot_tell_apart(tmp_path: Path) -> None:
    two = pa.table({"URL": ["a"], "url": ["b"], "score": [1.0]})
    assert "'URL' and 'url', which differ in case only" in refused(two)
    both = pa.table({"Sample": ["a"], "id": ["b"], "score": [1.0]})
    assert "beside 'id', which is to name the rows" in refused(both)
    with open_scores(both, sample_column="Sample") as scores:
        assert by_duckdb(scores, "sample, id") == [("a", "b")]
    with open_scores(pa.table({"Sample": ["a"], "score": [1.0]}), sample_column="Sample") as scores:
        assert by_duckdb(scores, "sample") == [("a",)]


@pytest.mark.parametrize("name", ["[x].parquet", "a*.parquet", "a?.parquet", "year=2020/x.parquet"])
def test_names_of_files_and_folders_mean_nothing_to_sql(tmp_path: Path, name: str) -> None:
    for other in (name, "x.parquet", "ab.parquet"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"sample": [other], "score": [1.0], "year": [1999]}), tmp_path / other)
    with open_scores(str(tmp_path / name)) as scores:
        assert by_duckdb(scores, "*") == [(name, 1.0, 1999, 0)]


def test_records_that_others_wrote_are_taken_as_far_as_they_are_sound() -> None:
    for record in (
        {"heads": 5}, {"score_columns": 5, "heads": [{}]}, {"heads": [{"name": []}], "score_columns": ["score"]}, [], 7,
    ):  # fmt: skip
        given = pa.table({"sample": ["a"], "score": [1.0]}).replace_schema_metadata({"beholder": json.dumps(record)})
        with open_scores(given) as scores:
            assert scores.head_names == {"score": None}


def test_the_head_of_a_column_is_what_the_record_says_else_its_name() -> None:
    """A record may name fewer heads than columns; of a column that others name by a public head, that is known."""
    record = {"score_columns": ["a", "b"], "heads": [{"name": "mine", "sha256": "12"}]}
    given = pa.table({"sample": ["x"], "a": [1.0], "b": [2.0]}).replace_schema_metadata({"beholder": json.dumps(record)})
    assert heads_recorded(record) == {"a": {"name": "mine", "sha256": "12"}}
    assert heads_recorded({**record, "heads": ["mine", {}]}) == {"b": {}}
    assert heads_recorded({"heads": [{}]}) == heads_recorded({}) == {}
    with open_scores(given, score_column="a") as scores:
        assert scores.head_record("a") == {"name": "mine", "sha256": "12"}
    with open_scores(pa.table({"URL": ["x"], "aesthetic": [1.0]})) as scores:
        assert scores.head_record("aesthetic") == {"name": "sa_0_4_vit_l_14_linear"}
    with open_scores(pa.table({"sample": ["x"], "score": [1.0]})) as scores:
        assert scores.head_record("score") == {"name": None}


def test_kept_embeddings_are_found(tmp_path: Path) -> None:
    pq.write_table(table(0, 2), tmp_path / "s.parquet")
    (tmp_path / "s.parquet.embeddings").mkdir()
    with open_scores(str(tmp_path / "s.parquet")) as scores:
        assert scores.embeddings == str(tmp_path / "s.parquet.embeddings")


def an_embedding_set(folder: Path) -> None:
    """As far as it matters here: its record, and a table about its rows that could be one of scores."""
    (folder / "metadata").mkdir(parents=True)
    pq.write_table(table(50, 2), folder / "metadata" / "metadata_0.parquet")
    (folder / "beholder.json").write_bytes(sealed({"format": "beholder-embeddings", "format_version": 1}))


def a_quick_run(place: str, names: list[str], small_head: Path) -> None:
    """Score embeddings of these names, and one that is no embedding; beside the scores stands a set of embeddings."""
    rows = np.random.default_rng(len(names)).standard_normal((len(names) + 1, 24)).astype(np.float32)
    rows[-1] = 0
    pq.write_table(pa.table({"sample": [*names, "none.jpg"], "embedding": list(rows)}), f"{names[0]}.parquet")
    beholder.score(f"{names[0]}.parquet", place, heads=str(small_head), shard_rows=2)
    an_embedding_set(Path(place) / "embeddings")


@pytest.mark.filterwarnings("ignore:no stamp")
def test_of_quick_runs_in_a_folder_only_the_scores_count(here: Path, small_head: Path) -> None:
    a_quick_run("sets/a.scores", ["a1.jpg", "a2.jpg", "a3.jpg"], small_head)
    with open_scores("sets") as scores:  # one run is that run
        assert (scores.num_rows, len(scores.rejects), scores.embeddings) == (3, 1, "sets/a.scores/embeddings")
    a_quick_run("sets/b.scores", ["b1.jpg", "b2.jpg"], small_head)
    an_embedding_set(Path("sets/c.embeddings"))
    for source in ("sets", "sets/*.scores", "sets/*", "sets/**", "sets/**/*.parquet", "sets/*/scores/*.parquet"):
        with open_scores(source) as scores:
            assert (scores.num_rows, scores.record["score_columns"]) == (5, ["aesthetic_score"]), source
            assert len(scores.rejects) == (0 if source.endswith(".parquet") else 2)
        assert names_in(source) == ["a1.jpg", "a2.jpg", "a3.jpg", "b1.jpg", "b2.jpg"], source


@pytest.mark.filterwarnings("ignore:no stamp")
def test_a_quick_run_among_other_files_is_the_run(here: Path, small_head: Path) -> None:
    a_quick_run("photos/scores", ["a1.jpg", "a2.jpg"], small_head)
    Path("photos/a1.jpg").write_bytes(b"a picture")
    for source in ("photos", "./photos/", "photos/*", "photos/scores"):
        with open_scores(source) as scores:
            assert (scores.num_rows, len(scores.rejects), scores.embeddings) == (2, 1, "photos/scores/embeddings"), source
    os.chdir("photos")
    assert names_in(".") == names_in("*") == ["a1.jpg", "a2.jpg"]
    pq.write_table(pa.table({"sample": ["x"], "width": [7]}), "captions.parquet")
    os.chdir("..")
    told = refused("photos")
    assert "(photos/scores)" in told
    assert "(photos/captions.parquet)" in told


def a_run(place: str, names: list[str], small_tower: Path, plain_head: Path) -> None:
    """Score pictures of these names, and one that is none; the folder of scores is `place`, with all it can have."""
    photos = Path(f"{Path(place).name}-photos")
    photos.mkdir()
    for number, name in enumerate(names):
        (photos / name).write_bytes(picture_bytes(number))
    (photos / "none.jpg").write_bytes(b"no picture")
    more: dict[str, Any] = {"workers": 0, "keep_embeddings": True, "shard_rows": 2}
    score(ScoreOptions(**{**vars(score_options(str(photos), Path("x"), small_tower, plain_head, **more)), "out": place}))


def names_in(source: str) -> list[str]:
    """Sorted last parts of the names of all rows that have a score."""
    with open_scores(source) as scores:
        values = scores.scores("aesthetic_score")
        names = [name for some in scores.samples() for name in some.to_pylist()]
        return sorted(name.rsplit("/", 1)[-1] for name, value in zip(names, values, strict=True) if np.isfinite(value))


@pytest.mark.slow
@pytest.mark.parametrize("is_remote", [False, True])
def test_of_runs_in_a_folder_only_the_scores_count(
    here: Path, s3: Any, small_tower: Path, plain_head: Path, is_remote: bool
) -> None:
    """Not their rejects, what they say of inputs, or embeddings; named by the folder, by a glob of runs, or of all below."""
    sets = f"s3://{BUCKET}/sets" if is_remote else "sets"
    a_run(f"{sets}/a.scores", ["a1.jpg", "a2.jpg", "a3.jpg"], small_tower, plain_head)
    with open_scores(sets) as scores:  # one run is that run
        assert (scores.num_rows, len(scores.rejects)) == (3, 1)
        assert scores.embeddings == f"{sets}/a.scores/embeddings"
    a_run(f"{sets}/b.scores", ["b1.jpg", "b2.jpg"], small_tower, plain_head)
    embed(EmbedOptions(**{**vars(embed_options("a.scores-photos", Path("x"), small_tower)), "out": f"{sets}/c.embeddings"}))
    of_folders, of_files = ("", "/*.scores", "/*", "/**"), ("/**/*.parquet", "/*/scores/*.parquet")
    for source in (f"{sets}{end}" for end in (*of_folders[: 2 if is_remote else 4], *of_files[: 1 if is_remote else 2])):
        with open_scores(source) as scores:
            assert scores.num_rows == 5, source
            assert list(scores.schema.names[:2]) == ["sample", "aesthetic_score"]
            assert scores.record["score_columns"] == ["aesthetic_score"]
            assert len(scores.rejects) == (0 if source.endswith(".parquet") else 2)
        assert names_in(source) == ["a1.jpg", "a2.jpg", "a3.jpg", "b1.jpg", "b2.jpg"], source
    if not is_remote:
        assert CliRunner().invoke(app, ["select", sets, "--min-score", "-1000", "-o", "kept.txt"]).exit_code == 0
        assert len(Path("kept.txt").read_text().splitlines()) == 5


def test_names_with_an_underscore_and_rejects_are_no_scores(folder: Path) -> None:
    (folder / "_inputs").mkdir()
    for name in ("_inputs/0.parquet", "_metadata.parquet", "part_2.parquet.rejects.parquet"):
        pq.write_table(pa.table({"sample": ["x"]}), folder / name)
    for source in (str(folder), f"{folder}/*.parquet", f"{folder}/**/*.parquet"):
        with open_scores(source) as scores:
            assert scores.row_counts == (0, 3, 4)
    pq.write_table(table(0, 9), folder / "_mine.parquet")
    with open_scores(f"{folder}/_mi*.parquet") as scores:  # named as such
        assert scores.num_rows == 9


def refused(source: Any, **more: Any) -> str:
    with pytest.raises(InputError) as caught, open_scores(source, **more):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_score_set_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "does not exist" in refused(str(tmp_path / "gone"))
    assert "nothing that matches" in refused(str(tmp_path / "*.parquet"))
    (tmp_path / "empty").mkdir()
    assert "holds no Parquet or CSV files" in refused(str(tmp_path / "empty"))
    (tmp_path / "a.txt").write_text("x")
    assert "are read from .parquet" in refused(str(tmp_path / "a.txt"))
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    assert "not a whole Parquet file" in refused(str(tmp_path / "b.parquet"))
    assert "name one with --sample-column" in refused(pa.table({"aesthetic_score": [1.0]}))
    assert "name it with --score-column" in refused(pa.table({"sample": ["a"], "beauty": [1.0]}))
    assert "no column 'x'" in refused(table(0, 1), score_column="x")
    assert "is no column of numbers" in refused(pa.table({"sample": ["a"], "aesthetic_score": ["high"]}))
    pq.write_table(table(0, 1), tmp_path / "empty" / "a.parquet")
    pq.write_table(pa.table({"sample": ["a"], "aesthetic_score": [[1.0]]}), tmp_path / "empty" / "b.parquet")
    assert "do not fit together" in refused(str(tmp_path / "empty"))
    embeddings = tmp_path / "e"
    embeddings.mkdir()
    (embeddings / "beholder.json").write_text(json.dumps({"format": "beholder-embeddings"}))
    assert "holds embeddings, no scores" in refused(str(embeddings))
    assert "the name of the scores is empty" in refused("")


def test_scratch_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r.csv").write_text("sample,aesthetic_score\na,1.5\n")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    with open_scores(str(tmp_path / "r.csv")) as scores:
        assert scores.files[0].is_relative_to(tmp_path / "scratch")
    assert not list((tmp_path / "scratch").iterdir())


def test_views_of_strings_and_bytes_are_read_as_plain_ones(tmp_path: Path) -> None:
    table = pa.table({
        "sample": pa.array(["a", "b", "c"], pa.string_view()),
        "aesthetic_score": pa.array([1, 2, 3], pa.float32()),
        "caption": pa.array(["x", None, "z"], pa.string_view()),
        "bytes": pa.array([b"x", None, b"z"], pa.binary_view()),
        "words": pa.array([["x"], None, ["y", "z"]], pa.list_(pa.string_view())),
        "large": pa.array([["x"], None, []], pa.large_list(pa.string_view())),
        "more": pa.array([{"x": "q"}, None, {"x": None}], pa.struct([("x", pa.string_view())])),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "s.parquet")
    assert pq.read_schema(tmp_path / "s.parquet").field("caption").type == pa.string_view()  # as it is stored
    for source in (table, str(tmp_path / "s.parquet")):
        with open_scores(source) as scores, duckdb.connect() as connection:
            assert [item.type for item in scores.schema] == [
                pa.large_string(), pa.float32(), pa.large_string(), pa.large_binary(), pa.list_(pa.large_string()),
                pa.large_list(pa.large_string()), pa.struct([("x", pa.large_string())]),
            ]  # fmt: skip
            (found,) = scores.batches(scores.schema.names)
            assert found.to_pylist() == table.to_pylist()
            scores.register(connection)
            assert connection.sql("SELECT caption, words FROM scores ORDER BY sample").fetchall()[2] == ("z", ["y", "z"])


def test_numbers_of_files_that_differ_in_type_keep_every_digit(tmp_path: Path) -> None:
    """Whole numbers that float64 cannot hold, beside fractions, are text; small ones are fractions, of 64 bits."""
    hashes = [2**53 + 1, 2**63 - 1, -7]
    place = tmp_path / "set"
    place.mkdir()
    whole = table(0, 3, phash=pa.array(hashes, pa.int64()), n=pa.array([1, 2**24 + 1, None], pa.int32()), day=[1, 2, 3])
    parts = table(3, 2, phash=[0.5, 1e300], n=pa.array([0.1, 2.0], pa.float32()), day=["a", "b"])
    pq.write_table(whole, place / "a.parquet")
    pq.write_table(parts, place / "b.parquet")
    texts = ["9007199254740993", "9223372036854775807", "-7", "0.5", "1e+300"]
    fractions = [1.0, 16777217.0, None, float(np.float32(0.1)), 2.0]
    with open_scores(str(place)) as scores:
        assert [row["phash"] for row in rows_of(scores, "phash")] == texts
        assert [row["n"] for row in rows_of(scores, "n")] == fractions
        assert [row["day"] for row in rows_of(scores, "day")] == ["1", "2", "3", "a", "b"]
        assert by_duckdb(scores, "phash, n, day") == list(zip(texts, fractions, "123ab", strict=True))
    kept = tmp_path / "kept"
    for name, where in (("all", "true"), ("some", "phash > 1"), ("one", "phash = 9223372036854775807"), ("n", "n > 1.5")):
        outcome = CliRunner().invoke(app, ["select", str(place), "--where", where, "-o", f"{kept}-{name}.csv"])
        assert outcome.exit_code == 0, outcome.output
    with Path(f"{kept}-all.csv").open(newline="", encoding="utf-8") as file:
        found = sorted((row["sample"], row["phash"]) for row in csv.DictReader(file))
    assert found == [(f"p{row}.jpg", text) for row, text in enumerate(texts)]
    names = {name: sorted(pl.read_csv(f"{kept}-{name}.csv")["sample"]) for name in ("some", "one", "n")}
    assert names == {"some": ["p0.jpg", "p1.jpg", "p4.jpg"], "one": ["p1.jpg"], "n": ["p1.jpg", "p4.jpg"]}


def test_scores_of_files_that_differ_in_type_are_numbers(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sample": ["a"], "aesthetic_score": pa.array([2**60], pa.int64())}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"sample": ["b"], "aesthetic_score": [0.5]}), tmp_path / "b.parquet")
    with open_scores(str(tmp_path)) as scores:
        assert scores.scores("aesthetic_score").tolist() == [2.0**60, 0.5]
        assert by_duckdb(scores, "sample, aesthetic_score") == [("a", 2.0**60), ("b", 0.5)]


def test_a_csv_with_the_index_of_pandas_is_reported_and_joined(here: Path) -> None:
    """Its first column has no name; it is called by its place."""
    frame = pd.DataFrame({"sample": ["a", "b", "c"], "aesthetic_score": [5.0, 6.0, 4.0]}, index=[7, 8, 9])
    frame.to_csv("index.csv")
    frame.to_parquet("scores.parquet")
    beholder.report("index.csv", "page.html", no_thumbnails=True)
    assert beholder.advise("scores.parquet", join="index.csv").num_scored == 3
    for scores, more in (("index.csv", {}), ("scores.parquet", {"join": "index.csv"})):
        kept = beholder.select(scores, where="column_1 > 7", **more).kept_rows()
        assert kept["sample"].to_pylist() == ["b", "c"]
        assert kept["column_1"].to_pylist() == ["8", "9"]
