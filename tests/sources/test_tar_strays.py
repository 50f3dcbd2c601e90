"""Sidecars of a tar that do not stand beside their picture: joined by key, or counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from beholder.sources.find import find_pictures
from beholder.sources.labels import join_labels
from beholder.sources.reader import SourceOptions
from beholder.sources.tar import TarReader
from oracles.tar_making import png, tar
from oracles.web import serving

COUNT = 20
SAID = [{"caption": f"cap {i}", "n": i} for i in range(COUNT)]
PICTURES = [(f"k{i}.png", png(i)) for i in range(COUNT)]
CAPTIONS = [(f"k{i}.txt", b"cap %d\n" % i) for i in range(COUNT)]
NUMBERS = [(f"k{i}.json", b'{"n": %d}' % i) for i in range(COUNT)]
OPTIONS = SourceOptions(block_rows=3)
ORDERS = {
    "after": [*PICTURES, *CAPTIONS, *NUMBERS],
    "before": [*CAPTIONS, *NUMBERS, *PICTURES],
    "around": [*NUMBERS, *PICTURES, *CAPTIONS],
    "reversed": [*PICTURES, *CAPTIONS[::-1], *NUMBERS[::-1]],
    "half": [*(member for pair in zip(PICTURES, CAPTIONS, strict=True) for member in pair), *NUMBERS],
}


def read(
    path: str,
    step: int | None = None,
    reader: TarReader = TarReader(),  # noqa: B008 (it is frozen)
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """What all blocks say of the pictures of a tar (in ranges of `step`), and remarks."""
    part = reader.inspect(path, "x.tar", OPTIONS)
    stop = part.num_rows if step is not None else None
    ranges = [(0, None)] if step is None else [(low, min(low + step, stop or 0)) for low in range(0, stop or 0, step)]
    rows, remarks = [], {}
    for low, high in ranges:
        blocks = list(reader.blocks(part, low, high, OPTIONS))
        late = [block.late for block in blocks if block.late is not None]
        rows += join_labels([block.labels for block in blocks], late=late).to_pylist()
        for block in blocks:
            remarks |= block.remarks
    return rows, remarks


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("packed", [False, True])
def test_sidecars_anywhere_in_a_tar(tmp_path: Path, order: str, packed: bool) -> None:
    data = tar(ORDERS[order])
    path = tmp_path / ("x.tar.gz" if packed else "x.tar")
    path.write_bytes(gzip.compress(data) if packed else data)
    rows, remarks = read(str(path))
    assert [{name: row[name] for name in ("caption", "n")} for row in rows] == SAID
    assert remarks == {}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("step", [1, 7])
def test_sidecars_anywhere_in_a_tar_that_is_read_in_ranges(tmp_path: Path, order: str, step: int) -> None:
    (tmp_path / "x.tar").write_bytes(tar(ORDERS[order]))
    rows, remarks = read(str(tmp_path / "x.tar"), step, TarReader(ranged_bytes=1000, mark_rows=3))
    assert [{name: row[name] for name in ("caption", "n")} for row in rows] == SAID
    assert remarks == {}


def test_sidecars_anywhere_in_a_remote_tar() -> None:
    with serving({"x.tar": tar(ORDERS["around"])}) as server:
        rows, remarks = read(f"{server.url}/x.tar")
    assert [{name: row[name] for name in ("caption", "n")} for row in rows] == SAID
    assert remarks == {}


def test_what_stands_beside_a_picture_counts_first(tmp_path: Path) -> None:
    members = [("a.json", b'{"n": 1, "m": 1}'), ("b.png", png(1)), ("a.png", png(2)), ("a.json", b'{"n": 2}')]
    members += [("b.txt", b"late"), ("a.x.png", png(3)), ("a.json", b'{"n": 3}'), ("b.json", b'{"caption": "later", "n": 9}')]
    (tmp_path / "x.tar").write_bytes(tar(members))
    rows, _ = read(str(tmp_path / "x.tar"))
    assert [(row["key"], row["n"], row["m"], row["caption"]) for row in rows] == [
        ("b", 9, None, "late"), ("a", 2, 1, None), ("a", 3, 1, None),
    ]  # fmt: skip


def test_sidecars_that_say_nothing_of_any_picture_are_counted(tmp_path: Path) -> None:
    members = [*PICTURES[:2], ("none.txt", b"x"), ("none.json", b"{}"), ("k0.json", b"{"), ("k1.json", b"[1]"),
               ("k1.txt", b"x" * ((1 << 20) + 1))]  # fmt: skip
    (tmp_path / "x.tar").write_bytes(tar(members))
    assert read(str(tmp_path / "x.tar"))[1] == {
        "sidecars in tars (.json, .txt, .cls) belong to no picture": 2,
        "sidecars in tars are no JSON objects, larger than 1 MiB, or of over 1,000 fields, so what they say is left out": 3,
    }


def test_too_much_that_stands_elsewhere_is_counted(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar([*PICTURES, *CAPTIONS]))
    rows, remarks = read(str(tmp_path / "x.tar"), reader=TarReader(most_waiting_bytes=35))  # five captions of 6 or 7 bytes
    assert [row["caption"] for row in rows] == [f"cap {i}" for i in range(5)] + [None] * 15
    assert remarks == {"sidecars in tars stand too far from their pictures, so what they say is left out": 15}


def test_columns_are_known_beforehand_though_they_stand_at_the_end(tmp_path: Path) -> None:
    many = [(f"k{i}.png", png(i)) for i in range(100)]
    captions = [(f"k{i}.txt", b"cap") for i in range(100)]
    (tmp_path / "x.tar").write_bytes(tar([*many, *captions]))
    (part,) = find_pictures([str(tmp_path / "x.tar")], SourceOptions())
    assert part.detail["schema"].names == ["key", "caption"]


def test_a_table_beside_counts_first(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "x.tar").write_bytes(
        tar([*PICTURES[:2], ("k0.json", b'{"n": 5, "more": 6}'), ("k1.json", b'{"n": 7, "more": 8}')])
    )
    pq.write_table(pa.table({"key": ["k0"], "n": pa.array([None], pa.int64())}), tmp_path / "x.parquet")
    rows, _ = read(str(tmp_path / "x.tar"))
    assert [(row["n"], row["more"]) for row in rows] == [(None, 6), (7, 8)]


@pytest.mark.parametrize("name", ["row", "rank", "width"])
@pytest.mark.parametrize("values", [[2, 0, 1], ["b", "a", "c"]])
def test_fields_of_any_name_stay_with_their_pictures(tmp_path: Path, name: str, values: list[Any]) -> None:
    pictures = [(f"{letter}.png", png(at)) for at, letter in enumerate("abc")]
    said = [(f"{letter}.json", json.dumps({name: values[at]}).encode()) for at, letter in enumerate("abc")]
    (tmp_path / "x.tar").write_bytes(tar([*pictures, *said]))
    rows, remarks = read(str(tmp_path / "x.tar"))
    assert [(row["key"], row[name]) for row in rows] == list(zip("abc", values, strict=True))
    assert remarks == {}


def test_lists_in_json_are_text_again_at_once(tmp_path: Path) -> None:
    """Unpacked they take some 25 times as much; 60 MB of them in 65 kB took 1.8 GB before a picture was scored."""
    nested = {"a": [1, {"b": None}], "c": {"d": "\u00e9"}, "e": "[2]", "n": 3}
    wide = {f"f{i}": i for i in range(1001)}
    members = [
        ("x.png", png(1)),
        ("y.png", png(2)),
        ("y.json", json.dumps(nested).encode()),
        ("x.json", json.dumps(nested).encode()),
    ]
    (tmp_path / "x.tar").write_bytes(tar([*members, ("z.png", png(3)), ("z.json", json.dumps(wide).encode())]))
    rows, remarks = read(str(tmp_path / "x.tar"))
    texts = {"a": '[1, {"b": null}]', "c": '{"d": "\u00e9"}', "e": "[2]", "n": 3}
    assert [{name: row[name] for name in texts} for row in rows] == [texts, texts, dict.fromkeys(texts)]
    assert remarks == {
        "sidecars in tars are no JSON objects, larger than 1 MiB, or of over 1,000 fields, so what they say is left out": 1
    }
