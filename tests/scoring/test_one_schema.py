"""Parts that say different things of their rows: all outputs have the same columns, and what fits into none is told."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import InputError, select
from beholder.curate.options import OutputOptions
from beholder.curate.select.selection import write_lists
from beholder.scoring.score import embed, score
from beholder.scoring.summary import RunSummary
from oracles.picture_jobs import embed_options, picture_bytes, score_options
from oracles.score_jobs import D, run
from oracles.tar_making import tar

MEASURED = ["width", "height", "traits", "num_bytes"]


def shard(path: Path, sidecars: list[dict[str, str]], first: int = 0, more: Sequence[tuple[str, bytes]] = ()) -> Path:
    """A tar of one picture for each entry: its sidecars by suffix; then `more`."""
    members: list[tuple[str, bytes]] = []
    for number, texts in enumerate(sidecars, first):
        members.append((f"{number}.jpg", picture_bytes(number)))
        members += [(f"{number}.{suffix}", text.encode()) for suffix, text in texts.items()]
    path.write_bytes(tar([*members, *more]))
    return path


def scored(sources: list[Path], out: Path, tower: Path, head: Path, **more: Any) -> RunSummary:
    return score(score_options(tuple(map(str, sources)), out, tower, head, workers=0, **more))


def rows_of_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def shard_schemas(out: Path) -> list[pa.Schema]:
    return [pq.read_schema(path).remove_metadata() for path in sorted((out / "scores").glob("*.parquet"))]


def column_by_name(table: pa.Table, column: str) -> dict[str, Any]:
    """What the column says of each picture, by the key in its name."""
    names = [name.rsplit("/", 1)[-1] for name in table["sample"].to_pylist()]
    return dict(zip(names, table[column].to_pylist(), strict=True))


def test_csv_of_tars_with_and_without_captions(tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    full = shard(tmp_path / "full.tar", [{"txt": "one, two"}, {"txt": "three"}])
    bare = shard(tmp_path / "bare.tar", [{}, {"json": '{"n": 4}'}], first=2)
    empty = shard(tmp_path / "empty.tar", [])
    for number, sources in enumerate(([full, empty, bare], [bare, full, empty])):
        out = tmp_path / f"{number}.csv"
        summary = scored(sources, out, small_tower, plain_head)
        assert (summary.num_scored, summary.remarks) == (4, {})
        rows = {row["sample"].rsplit("/", 1)[-1]: row for row in rows_of_csv(out)}
        assert {key: (row["caption"], row["n"]) for key, row in rows.items()} == {
            "0": ("one, two", ""), "1": ("three", ""), "2": ("", ""), "3": ("", "4"),
        }  # fmt: skip
    alone = scored([full, empty], tmp_path / "alone.csv", small_tower, plain_head)
    assert [row["caption"] for row in rows_of_csv(Path(alone.output))] == ["one, two", "three"]


def test_shards_of_a_folder_have_one_schema(tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    numbers = shard(tmp_path / "i.tar", [{"json": '{"f": 1, "g": 1, "h": true}'}])
    texts = shard(tmp_path / "t.tar", [{"json": '{"f": "1a", "g": 2.5, "h": 7}'}], first=1)
    empty = shard(tmp_path / "e.tar", [])
    for number, sources in enumerate(([numbers, texts, empty], [empty, texts, numbers])):
        out = tmp_path / f"set{number}"
        scored(sources, out, small_tower, plain_head)
        first, *others = shard_schemas(out)
        assert others == [first, first]
        assert set(first.names) == {"sample", "aesthetic_score", "key", "f", "g", "h", *MEASURED}
        assert (first.field("f").type, first.field("g").type, first.field("h").type) == (pa.string(), pa.float64(), pa.string())
        record = json.loads((out / "beholder.json").read_text())
        assert record["columns"]["types"]["f"] == "string"
        with select(str(out), min_score=-100) as selection:
            kept = selection.kept_rows()
        assert column_by_name(kept, "f") == {"0": "1", "1": "1a"}
        assert column_by_name(kept, "g") == {"0": 1.0, "1": 2.5}
        assert column_by_name(kept, "h") == {"0": "true", "1": "7"}
    one = scored([numbers, texts], tmp_path / "one.parquet", small_tower, plain_head)
    assert column_by_name(pq.read_table(one.output), "f") == {"0": "1", "1": "1a"}


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ([1 - 2**63, 7], [0.5, None], ["-9223372036854775807", "7", "0.5", None]),
        (pa.array([2**64 - 1, 0], pa.uint64()), [-5, None], [Decimal(2**64 - 1), Decimal(0), Decimal(-5), None]),
        ([3, 4], [Decimal("1.10"), None], [Decimal(3), Decimal(4), Decimal("1.10"), None]),
        ([["q"], None], ['["r"]', None], ['["q"]', None, '["r"]', None]),
        (pa.array([0.1, 1], pa.float32()), ["x", None], ["0.1", "1.0", "x", None]),
    ],
)
def test_no_value_is_lost_to_the_type_of_another_part(
    tmp_path: Path, small_head: Path, one: Any, other: Any, found: list[Any]
) -> None:
    vectors = np.random.default_rng(3).standard_normal((2, D)).astype(np.float32)
    for name, values in (("a", one), ("b", other)):
        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), D)
        pq.write_table(pa.table({"x": values, "embedding": lists}), tmp_path / f"{name}.parquet")
    sources = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    assert run(sources, tmp_path / "out.parquet", small_head, columns=("x",)).remarks == {}
    assert pq.read_table(tmp_path / "out.parquet")["x"].to_pylist() == found


def test_csv_of_scores_and_of_what_is_selected_say_the_same(tmp_path: Path, small_head: Path) -> None:
    uuids = pa.array([b"0" * 16, b"1" * 16], pa.uuid())
    said = {
        "tags": pa.array([["x", "y"], []]),
        "pair": pa.array([{"a": 1, "b": "q"}, None]),
        "id": uuids,
        "ids": pa.ListArray.from_arrays([0, 1, 2], uuids),
        "part": pa.array([0.1, 2], pa.float32()),
    }
    vectors = np.random.default_rng(3).standard_normal((2, D)).astype(np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), D)
    pq.write_table(pa.table({"sample": ["a", "b"], **said, "embedding": lists}), tmp_path / "a.parquet")
    for suffix in ("csv", "parquet"):
        run(tmp_path / "a.parquet", tmp_path / f"out.{suffix}", small_head, columns=("*",))
    with select(str(tmp_path / "out.parquet"), top=2) as selection:
        write_lists(selection.selection, OutputOptions(out=str(tmp_path / "kept.csv")))
    names = ["30303030-3030-3030-3030-303030303030", "31313131-3131-3131-3131-313131313131"]
    expected = {
        "a": ['["x", "y"]', '{"a": 1, "b": "q"}', names[0], f'["{names[0]}"]', "0.1"],
        "b": ["[]", "", names[1], f'["{names[1]}"]', "2.0"],
    }
    for path in ("out.csv", "kept.csv"):
        found = {row["sample"]: [row[name] for name in said] for row in rows_of_csv(tmp_path / path)}
        assert found == expected, path


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_of_embeddings_with_columns_of_different_types(tmp_path: Path, small_head: Path, kind: str) -> None:
    rows = np.random.default_rng(1).standard_normal((4, D)).astype(np.float32)
    sources = []
    for number, uid in enumerate((["12", "-7"], ["1a", "0012"])):
        some = rows[2 * number : 2 * number + 2]
        path = tmp_path / f"c{number}.{kind}"
        if kind == "csv":
            head = ",".join(["sample", "uid", *map(str, range(D))])
            lines = [",".join([f"s{number}{i}", uid[i], *map(str, row)]) for i, row in enumerate(some)]
            path.write_text("\n".join([head, *lines]) + "\n")
        else:
            lists = pa.FixedSizeListArray.from_arrays(pa.array(some.reshape(-1)), D)
            values = pa.array([int(value) for value in uid]) if number == 0 else pa.array(uid)
            pq.write_table(pa.table({"sample": [f"s{number}{i}" for i in range(2)], "uid": values, "embedding": lists}), path)
        sources.append(path)
    for number, order in enumerate((sources, sources[::-1])):
        out = tmp_path / f"set{number}"
        assert run(order, out, small_head, columns=("uid",)).remarks == {}
        assert len(set(map(str, shard_schemas(out)))) == 1
        with select(str(out), min_score=-100) as selection:
            found = column_by_name(selection.kept_rows(), "uid")
        assert found == {"s00": "12", "s01": "-7", "s10": "1a", "s11": "0012"}
        run(order, tmp_path / f"{number}.csv", small_head, columns=("uid",))
        assert {row["sample"]: row["uid"] for row in rows_of_csv(tmp_path / f"{number}.csv")} == found


def test_metadata_of_some_parts_only(tmp_path: Path, small_head: Path) -> None:
    rows = np.random.default_rng(2).standard_normal((6, D)).astype(np.float16)
    for number, columns in enumerate(({"url": ["a", "b"], "width": [1, 2]}, {"url": ["c", "d"], "height": [3.5, None]})):
        for folder in ("img_emb", "metadata"):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "set" / "img_emb" / f"img_emb_{number}.npy", rows[2 * number : 2 * number + 2])
        pq.write_table(pa.table(columns), tmp_path / "set" / "metadata" / f"metadata_{number}.parquet")
    np.save(tmp_path / "plain.npy", rows[4:])
    out = tmp_path / "all.csv"
    run([tmp_path / "set", tmp_path / "plain.npy"], out, small_head, columns=("*",))
    assert [(row["sample"], row["width"], row["height"]) for row in rows_of_csv(out)] == [
        ("a", "1", ""), ("b", "2", ""), ("c", "", "3.5"), ("d", "", ""), ("plain.npy#0", "", ""), ("plain.npy#1", "", ""),
    ]  # fmt: skip


def test_what_comes_after_the_first_samples_is_fitted_and_told(tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    said: list[dict[str, Any]] = [{"n": number, "word": "w"} for number in range(40)]
    said[35] = {"n": 0.5, "word": 3, "new": "x"}
    said[36] = {"n": "036", "word": ["a"], "new": None}
    said[37] = {"n": None, "new": 5}
    source = shard(tmp_path / "x.tar", [{"json": json.dumps(fields)} for fields in said], more=[("end.bin", bytes(1 << 19))])
    out = tmp_path / "out"
    summary = scored([source, shard(tmp_path / "y.tar", [{}] * 40)], out, small_tower, plain_head, shard_rows=8)
    assert summary.remarks == {
        "values that column 'n' (int64) cannot hold are null": 2,
        "values of column 'new', met after the columns were decided, are left out": 2,
    }
    table = pq.read_table(out / "scores" / "x.parquet")
    numbers, words = column_by_name(table, "n"), column_by_name(table, "word")
    assert [numbers[str(i)] for i in range(33, 40)] == [33, 34, None, None, None, 38, 39]
    assert [words[str(i)] for i in range(34, 39)] == ["w", "3", '["a"]', None, "w"]
    assert "new" not in table.column_names
    again = scored([source, tmp_path / "y.tar"], out, small_tower, plain_head, shard_rows=8)
    assert (again.num_new, again.remarks) == (0, summary.remarks)


def test_sources_that_have_grown_decide_the_columns_anew(tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    first = shard(tmp_path / "0.tar", [{"json": '{"n": 1}'}])
    out = tmp_path / "out"
    scored([first], out, small_tower, plain_head)
    second = shard(tmp_path / "1.tar", [{"json": '{"n": "12"}'}, {"json": '{"n": "x", "more": 1}'}], first=1)
    summary = scored([first, second], out, small_tower, plain_head)
    one, other = shard_schemas(out)
    assert one == other
    assert (summary.num_new, summary.remarks) == (2, {})
    assert pq.read_table(out / "scores" / "0.parquet")["n"].to_pylist() == ["1"]
    assert pq.read_table(out / "scores" / "1.parquet")["n"].to_pylist() == ["12", "x"]
    assert pq.read_table(out / "scores" / "1.parquet")["more"].to_pylist() == [None, 1]


def test_embeddings_of_mixed_tars(tmp_path: Path, small_tower: Path) -> None:
    sources = (
        str(shard(tmp_path / "i.tar", [{"json": '{"f": 1}'}])),
        str(shard(tmp_path / "t.tar", [{"json": '{"f": "a"}'}], 1)),
    )
    embed(embed_options(sources, tmp_path / "set", small_tower, workers=0))
    schemas = [pq.read_schema(path).remove_metadata() for path in sorted((tmp_path / "set" / "metadata").glob("*.parquet"))]
    assert len(schemas) == 2
    assert schemas[0] == schemas[1]
    embed(embed_options(sources, tmp_path / "set.parquet", small_tower, workers=0))
    assert pq.read_table(tmp_path / "set.parquet")["f"].to_pylist() == ["1", "a"]


def test_names_that_a_csv_cannot_hold_are_refused_before_anything_is_written(
    tmp_path: Path, small_tower: Path, plain_head: Path
) -> None:
    source = shard(tmp_path / "x.tar", [{"json": json.dumps({"a\nb": 1})}])
    with pytest.raises(InputError, match="line break in its name"):
        scored([source], tmp_path / "x.csv", small_tower, plain_head)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.tar"]
