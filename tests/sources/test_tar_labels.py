"""Columns of pictures in tars: from the Parquet file beside, from json, txt and cls, of one type in all blocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from oracles.tar_making import png, tar
from oracles.tar_reading import img2dataset_tar, read, samples, write


def test_an_img2dataset_shard_is_joined_by_key(tmp_path: Path) -> None:
    path = img2dataset_tar(tmp_path)
    _, rows, labels = read(path, block_rows=5)
    assert len(rows) == 18
    for row in rows:
        i = int(row["key"])
        assert row == {
            "sample": f"{path}/{i:09d}", "key": f"{i:09d}", "url": f"http://x/{i}.jpg", "caption": f"of {i}",
            "status": "success",
            "error_message": None, "width": 256 + i,
        }  # fmt: skip
    assert labels.schema.field("width").type == pa.int32()
    assert labels.schema.field("error_message").type == pa.string()


def test_pictures_that_the_parquet_file_does_not_list_are_described_by_their_json(tmp_path: Path) -> None:
    write(tmp_path / "0.tar", tar([
        ("1.png", png(1)), ("1.json", b'{"width": 5, "caption": "one"}'), ("2.png", png(2)),
        ("2.json", b'{"width": "7", "caption": 9, "more": [1]}'), ("3.png", png(3)),
            ("3.json", b'{"width": 3.5, "caption": "three"}'),
    ]))  # fmt: skip
    table = pa.table({"key": ["1"], "width": pa.array([11], pa.int16()), "caption": ["told"]})
    pq.write_table(table, tmp_path / "0.parquet")
    _, rows, labels = read(tmp_path / "0.tar")
    assert [row["width"] for row in rows] == [11, None, None]
    assert [row["caption"] for row in rows] == ["told", "9", "three"]
    assert [row["more"] for row in rows] == [None, "[1]", None]
    assert labels.schema.field("width").type == pa.int16()


def test_columns_from_json_txt_and_cls(tmp_path: Path) -> None:
    members = []
    for i in range(10):
        fields: dict[str, Any] = {"n": i, "x": i / 2, "flag": i % 2 == 0, "word": f"w{i}", "deep": {"a": [i]}, "none": None}
        fields["mixed"] = i if i < 6 else "text"
        fields["int then float"] = i if i < 6 else i + 0.5
        if i == 7:
            fields["late"] = 1
        members += [(f"{i}.png", png(i)), (f"{i}.json", json.dumps(fields).encode()), (f"{i}.txt", f"caption {i}\n".encode()),
                    (f"{i}.cls", str(i).encode())]  # fmt: skip
    path = write(tmp_path / "x.tar", tar(members))
    for block_rows in (3, 100):
        _, rows, labels = read(path, block_rows=block_rows)
        types = {field.name: field.type for field in labels.schema}
        assert types == {
            "sample": pa.large_string(), "key": pa.string(), "n": pa.int64(), "x": pa.float64(), "flag": pa.bool_(),
            "word": pa.string(), "deep": pa.string(), "none": pa.string(), "mixed": pa.string(), "int then float": pa.float64(),
            "caption": pa.string(), "cls": pa.int64(), "late": pa.int64(),
        }  # fmt: skip
        assert rows[7] == {
            "sample": f"{path}/7", "key": "7", "n": 7, "x": 3.5, "flag": False, "word": "w7", "deep": '{"a": [7]}',
            "none": None,
            "mixed": "text", "int then float": 7.5, "caption": "caption 7", "cls": 7, "late": 1,
        }  # fmt: skip
        assert rows[5]["mixed"] == "5"
        assert rows[5]["int then float"] == 5.0
        assert rows[6]["late"] is None


def test_json_that_is_hostile_says_nothing(tmp_path: Path) -> None:
    bad = [b"{", b"[1]", b"\xff\xfe", b"[" * 100_000,
           b'{"sample": "x", "key": "y", "big": 99999999999999999999999, "s": "\\ud800"}',
           b'{"nan": NaN, "": 1}', b'"text"']  # fmt: skip
    members = [member for i, data in enumerate(bad) for member in ((f"{i}.png", png(i)), (f"{i}.json", data))]
    path = write(tmp_path / "x.tar", tar(members))
    _, rows, labels = read(path)
    assert samples(rows) == [f"{path}/{i}" for i in range(len(bad))]
    assert [row["key"] for row in rows] == [str(i) for i in range(len(bad))]
    assert rows[4]["big"] == "99999999999999999999999"
    assert rows[4]["s"] == "\\ud800"
    assert np.isnan(rows[5]["nan"])
    assert labels.num_rows == len(bad)


def test_named_columns(tmp_path: Path) -> None:
    path = img2dataset_tar(tmp_path)
    _, rows, _ = read(path, columns=("width", "url"))
    assert list(rows[0]) == ["sample", "width", "url"]
    assert rows[0]["width"] == 256
    _, rows, _ = read(path, columns=())
    assert list(rows[0]) == ["sample"]
    plain = write(tmp_path / "plain.tar", tar([("1.png", png(1)), ("1.json", b'{"punsafe": 0.5}'), ("2.png", png(2))]))
    _, rows, labels = read(plain, columns=("punsafe", "sample"))
    assert rows == [{"sample": f"{plain}/1", "punsafe": 0.5}, {"sample": f"{plain}/2", "punsafe": None}]
    _, rows, labels = read(plain, columns=("punsafe",), block_rows=1)
    assert labels.schema.field("punsafe").type == pa.float64()


def test_a_parquet_file_without_keys_beside_is_no_table_of_the_tar(tmp_path: Path) -> None:
    path = write(tmp_path / "e.tar", tar([("1.png", png(1))]))
    pq.write_table(pa.table({"x": [1]}), tmp_path / "e.parquet")
    assert read(path)[1] == [{"sample": f"{path}/1", "key": "1"}]
