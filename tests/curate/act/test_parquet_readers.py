"""New Parquet files in Hugging Face's datasets: pictures are pictures there, and all other columns keep types and values."""

from __future__ import annotations

import base64
import datetime
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beholder.curate.act.run import perform
from beholder.curate.options import ActionOptions, SelectRules
from beholder.curate.select.selection import select_rows
from beholder.errors import InputError
from beholder.scoreset.score_set import open_scores
from oracles.acting import act, score_table
from oracles.peers import ask, needs_peers
from oracles.tiers import mostly_slow

needs_datasets = needs_peers("datasets is")

READ = """
import base64, json, sys, datasets
datasets.disable_progress_bars()
how, where = sys.argv[1:]
given = dict(path=where) if how == "folder" else dict(path="parquet", data_files=where)
read = datasets.load_dataset(**given, split="train", streaming=how == "stream")
rows = list(read)
for row in rows:
    row["image"] = [row["image"].mode, row["image"].size, base64.b64encode(row["image"].tobytes()).decode()]
stored = [row["image"] for row in read.cast_column("image", datasets.Image(decode=False))]
print(json.dumps([
    {name: str(feature) for name, feature in read.features.items()},
    [{name: value if name == "image" else repr(value) for name, value in row.items()} for row in rows],
    [[image["path"], base64.b64encode(image["bytes"]).decode()] for image in stored],
]))
"""
IMAGE = "Image(mode=None, decode=True)"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures of noise, of several formats and modes, 7 by 5 pixels: see PICTURES."""
    monkeypatch.chdir(tmp_path)
    for number, (name, (kind, mode)) in enumerate(PICTURES.items()):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(noise).convert(mode).save(path, kind)
    return tmp_path


PICTURES = {
    "a.jpg": ("JPEG", "RGB"), "b/IMG_1.2.JPG": ("JPEG", "L"), "b/c.png": ("PNG", "RGBA"), "w.webp": ("WEBP", "RGB"),
    "plain": ("PNG", "P"), "é/x y.gif": ("GIF", "P"), "-t.tiff": ("TIFF", "CMYK"), "m.bmp": ("BMP", "RGB"),
}  # fmt: skip
"""Name below `photos` -> format and mode."""


def read(where: str, how: str = "folder") -> tuple[dict[str, str], list[dict[str, Any]], list[list[str]]]:
    """By datasets: the text of each column's feature, rows (pixels, and the `repr` of other values), and path and bytes."""
    features, rows, stored = json.loads(ask(READ, how, where, cache=Path("cache").absolute()))
    return features, rows, stored


@needs_datasets
@pytest.mark.parametrize(
    ("how", "where"), mostly_slow([("folder", "out"), ("files", "out/*.parquet"), ("stream", "out/*.parquet")], slow=0)
)
def test_pictures_are_pictures(here: Path, how: str, where: str) -> None:
    samples = [f"photos/{name}" for name in PICTURES]
    done, _ = act(score_table(samples, ["photos"], text=["é"] * 7 + [None]), hf_parquet="out", shard_count=3, apply=True)
    assert done.num_shards == 3
    features, rows, stored = read(where, how)
    assert features == {
        "image": IMAGE, "sample": "Value('large_string')", "aesthetic_score": "Value('float32')", "text": "Value('string')"
    }  # fmt: skip
    for i, name in enumerate(PICTURES):
        data = (here / "photos" / name).read_bytes()
        shown = Image.open(io.BytesIO(data))
        assert rows[i]["image"] == [shown.mode, [7, 5], base64.b64encode(shown.tobytes()).decode()], name
        assert stored[i] == ["plain.png" if name == "plain" else name, base64.b64encode(data).decode()]
        assert rows[i]["sample"] == repr(f"photos/{name}")
        assert rows[i]["aesthetic_score"] == repr(1.0 + i)
    assert [row["text"] for row in rows] == ["'é'"] * 7 + ["None"]


NOON = datetime.datetime(2026, 11, 25, 12, 30, 15, 678901)
COLUMNS: dict[str, tuple[pa.Array, str, str]] = {
    "f16": (pa.array([1.5], pa.float16()), "Value('float16')", "1.5"),
    "f64": (pa.array([0.1]), "Value('float64')", "0.1"),
    "nan": (pa.array([float("nan")]), "Value('float64')", "nan"),
    "i8": (pa.array([-1], pa.int8()), "Value('int8')", "-1"),
    "u64": (pa.array([2**64 - 1], pa.uint64()), "Value('uint64')", "18446744073709551615"),
    "bool": (pa.array([True]), "Value('bool')", "True"),
    "null": (pa.nulls(1), "Value('null')", "None"),
    "none": (pa.array([None], pa.int32()), "Value('int32')", "None"),
    "binary": (pa.array([b"\0x"]), "Value('binary')", r"b'\x00x'"),
    "fixed": (pa.array([b"abc"], pa.binary(3)), "Value('fixed_size_binary[3]')", "b'abc'"),
    "day": (pa.array([NOON.date()]), "Value('date32')", "datetime.date(2026, 11, 25)"),
    "stamp": (pa.array([NOON]), "Value('timestamp[us]')", repr(NOON)),
    "seconds": (pa.array([0], pa.timestamp("s")), "Value('timestamp[ms]')", "datetime.datetime(1970, 1, 1, 0, 0)"),
    "zone": (
        pa.array([NOON], pa.timestamp("us", "+01:00")), "Value('timestamp[us, tz=+01:00]')",
        "datetime.datetime(2026, 11, 25, 13, 30, 15, 678901, tzinfo=datetime.timezone(datetime.timedelta(seconds=3600)))",
    ),
    "time": (pa.array([NOON.time()]), "Value('time64[us]')", repr(NOON.time())),
    "span": (pa.array([90], pa.duration("s")), "Value('duration[s]')", "datetime.timedelta(seconds=90)"),
    "money": (pa.array([Decimal("1.25")], pa.decimal128(5, 2)), "Value('decimal128(5, 2)')", "Decimal('1.25')"),
    "list": (pa.array([[1, None]]), "List(Value('int64'))", "[1, None]"),
    "empty": (pa.array([[]], pa.list_(pa.string())), "List(Value('string'))", "[]"),
    "nested": (pa.array([[["a"], None]]), "List(List(Value('string')))", "[['a'], None]"),
    "large": (pa.array([["a"]], pa.large_list(pa.string())), "LargeList(Value('string'))", "['a']"),
    "pair": (pa.array([[1, 2]], pa.list_(pa.float32(), 2)), "List(Value('float32'), length=2)", "[1.0, 2.0]"),
    "struct": (pa.array([{"a": 1, "b": ["x"]}]), "{'a': Value('int64'), 'b': List(Value('string'))}", "{'a': 1, 'b': ['x']}"),
    "structs": (pa.array([[{"a": 1}]]), "List({'a': Value('int64')})", "[{'a': 1}]"),
    "_type": (pa.array([{"_type": "x"}]), "{'_type': Value('string')}", "{'_type': 'x'}"),
    "category": (pa.array(["x"]).dictionary_encode(), "Value('string')", "'x'"),
    "map": (
        pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int32())),
        "List({'key': Value('string'), 'value': Value('int32')})", "[{'key': 'k', 'value': 1}]",
    ),
    "maps": (
        pa.array([[{"m": [("k", [b"1"])]}]], pa.list_(pa.struct([("m", pa.map_(pa.string(), pa.list_(pa.binary())))]))),
        "List({'m': List({'key': Value('string'), 'value': List(Value('binary'))})})",
        "[{'m': [{'key': 'k', 'value': [b'1']}]}]",
    ),
    "uuid": (pa.array([b"0123456789abcdef"], pa.uuid()), "Value('fixed_size_binary[16]')", "b'0123456789abcdef'"),
    "json": (pa.array(['{"a": 1}'], pa.json_()), "Value('string')", """'{"a": 1}'"""),
    "image": (pa.array(["mine"]), "source_source_image Value('string')", "'mine'"),
    "source_image": (pa.array(["theirs"]), "Value('string')", "'theirs'"),
}  # fmt: skip
"""Name -> a value, and the text of the feature and of the value in datasets."""


@needs_datasets
def test_columns_keep_their_types_and_values(here: Path) -> None:
    table = score_table(["photos/a.jpg"], ["photos"], **{name: array for name, (array, _, _) in COLUMNS.items()})
    act(table, hf_parquet="out", apply=True)
    features, rows, _ = read("out")
    assert features["image"] == IMAGE
    assert len(rows) == 1
    for name, (_, feature, value) in COLUMNS.items():
        known_as, _, expected = feature.rpartition(" ") if name == "image" else (name, "", feature)
        assert (features[known_as], rows[0][known_as]) == (expected, value), name
    assert len(features) == len(COLUMNS) + 3


@pytest.mark.parametrize("name", list(COLUMNS))
def test_no_type_takes_the_pictures_away(here: Path, name: str) -> None:
    """The feature is in the file's own metadata, whatever stands beside the picture."""
    act(score_table(["photos/a.jpg"], ["photos"], **{name: COLUMNS[name][0]}), hf_parquet="out", apply=True)
    schema = pq.read_schema(here / "out" / "train-00000.parquet")
    assert json.loads(schema.metadata[b"huggingface"])["info"]["features"]["image"] == {"_type": "Image"}
    assert len(set(schema.names)) == 4


@pytest.mark.soak
@needs_datasets
def test_tables_of_polars_and_duckdb(here: Path) -> None:
    frame = pl.DataFrame({"tags": [["a"], []], "kind": ["x", "y"], "for": [datetime.timedelta(seconds=1)] * 2},
                         schema_overrides={"kind": pl.Categorical})  # fmt: skip
    frame.write_parquet("polars.parquet")
    duckdb.sql(
        """copy (select '01234567-89ab-cdef-0123-456789abcdef'::uuid as id, '{"a":1}'::json as said, 
        map{'k': 1.5::decimal(3, 1)} as counts from range(2)) to 'duckdb.parquet' (format parquet)"""
    )
    for number, source in enumerate(("polars", "duckdb")):
        table = pq.read_table(f"{source}.parquet")
        names = dict(zip(table.column_names, table.columns, strict=True))
        act(score_table(["photos/a.jpg", "photos/m.bmp"], ["photos"], **names), hf_parquet=f"out{number}", apply=True)
    features, rows, _ = read("out0")
    assert features["image"] == IMAGE
    assert [(row["tags"], row["kind"], row["for"]) for row in rows] == [
        ("['a']", "'x'", "datetime.timedelta(seconds=1)"), ("[]", "'y'", "datetime.timedelta(seconds=1)")
    ]  # fmt: skip
    features, rows, _ = read("out1")
    assert features["image"] == IMAGE
    assert [(row["id"], row["said"], row["counts"]) for row in rows] == [
        (repr(bytes.fromhex("0123456789abcdef" * 2)), """'{"a":1}'""", "[{'key': 'k', 'value': Decimal('1.5')}]")
    ] * 2


@pytest.mark.parametrize("kind", [pa.list_view(pa.int8()), pa.run_end_encoded(pa.int32(), pa.int8())], ids=str)
def test_types_that_are_not_read_are_refused_by_the_column(here: Path, kind: pa.DataType) -> None:
    run_ends = pa.RunEndEncodedArray.from_arrays([1], pa.array([7], pa.int8()))
    values = pa.array([[1]], kind) if pa.types.is_list_view(kind) else run_ends
    table = score_table(["photos/a.jpg"], ["photos"], odd=values)
    with pytest.raises(InputError, match=r"column 'odd' is of type .*, which is not read; write it"), open_scores(table):
        pass


@needs_datasets
@pytest.mark.parametrize("kind", mostly_slow(["file", "table"], slow=0))
def test_nested_types_of_a_selection(here: Path, kind: str) -> None:
    """Views of texts, and extension types inside others, which datasets cannot read, come as what it can."""
    ids = pa.array([b"0123456789abcdef"], pa.uuid())
    said = pa.array(['{"a": 1}'], pa.json_())
    columns = {
        "ids": pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), ids),
        "said": pa.StructArray.from_arrays([said], ["j"]),
        "tags": pa.array([["x", None]], pa.large_list(pa.string_view())),
        "words": pa.array([[("k", "v")]], pa.map_(pa.string_view(), pa.string_view())),
        "pair": pa.array([["a", "b"]], pa.list_(pa.string_view(), 2)),
    }
    table: Any = score_table(["photos/a.jpg"], ["photos"], **columns)
    if kind == "file":
        pq.write_table(table, "scores.parquet")
    with (
        open_scores("scores.parquet" if kind == "file" else table) as scores,
        select_rows(scores, SelectRules(top=1)) as chosen,
    ):
        for options in ({"hf_parquet": "out"}, {"tars": "tars"}, {"copy": "copied"}):
            done = perform(chosen.kept_rows(), scores, ActionOptions(**options, apply=True), lambda line: None)
            assert (done.num_done, done.reasons) == (1, {})
    assert pq.read_table("tars/00000.parquet").column("tags").to_pylist() == [["x", None]]
    features, rows, _ = read("out")
    assert features["image"] == IMAGE
    assert {name: (features[name], rows[0][name]) for name in columns} == {
        "ids": ("List(Value('fixed_size_binary[16]'))", "[b'0123456789abcdef']"),
        "said": ("{'j': Value('string')}", """{'j': '{"a": 1}'}"""),
        "tags": ("LargeList(Value('large_string'))", "['x', None]"),
        "words": ("List({'key': Value('large_string'), 'value': Value('large_string')})", "[{'key': 'k', 'value': 'v'}]"),
        "pair": ("List(Value('large_string'), length=2)", "['a', 'b']"),
    }
