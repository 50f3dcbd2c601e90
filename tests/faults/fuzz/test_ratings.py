"""Mutated files of people's ratings, in every format: read, their values finite and one a picture, or refused in one line."""

from __future__ import annotations

import functools
import io
import json
import random
import sqlite3
import tempfile
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder.errors import InputError
from beholder.train.ratings.options import RatingsOptions
from beholder.train.ratings.read import read_ratings
from oracles import inside_formats, odd_json, odd_tables
from oracles.fuzzing import Target, check
from oracles.in_process import empty_beside
from oracles.sidecars import DARKTABLE, LIGHTROOM
from oracles.tiers import mostly_slow

Change = Callable[[bytes], bytes]
NUM = 24
NAMES = [f"p/é{i}.jpg" for i in range(NUM)]
_COLUMNS = (
    "rating",
    "rater",
    "image",
    "count",
    "std",
    "score1",
    "score2",
    "votes",
    "winner",
    "loser",
    "label",
    "target",
    "mark",
)


def ratings(path: Path, **options: Any) -> Hashable:
    """The ratings of a file, checked against each other."""
    found = read_ratings(str(path), RatingsOptions(**options))
    samples = found.samples.to_pylist()
    assert None not in samples
    if found.kind != "pairs":
        assert np.isfinite(found.values).all()
        assert len(found.values) == len(samples)
        assert len(set(samples)) == len(samples) or found.is_by_row
    assert all(len(str(line).splitlines()) == 1 for line in found.findings)
    if any("passed over" in str(line) for line in found.findings):
        raise InputError("passed over")
    return found.kind, min(len(samples), 30), found.layout[:30]


def stars(path: Path) -> Hashable:
    """Stars of pictures in a folder, one of whose sidecars is the file; and the sidecar written anew with other stars."""
    folder = empty_beside(path)
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(b"\xff\xd8\xff\xd9")
        (folder / f"{number}.jpg.xmp").write_text(LIGHTROOM.format(stars=number + 1), encoding="utf-8")
    (folder / "x.jpg").write_bytes(b"\xff\xd8\xff\xd9")
    (folder / "x.jpg.xmp").write_bytes(path.read_bytes())
    return ratings(folder)


def embedded(path: Path) -> Hashable:
    """Stars inside of pictures, one of which is the file."""
    folder = empty_beside(path)
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(_picture(LIGHTROOM.format(stars=number + 1).encode()))
    (folder / f"x{path.suffix}").write_bytes(path.read_bytes())
    return ratings(folder)


def _picture(packet: bytes, kind: str = "JPEG") -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, kind, xmp=packet)
    return out.getvalue()


def _rows(kind: str) -> list[dict[str, Any]]:
    match kind:
        case "mean":
            return [{"image": name, "rating": 1 + i % 5, "count": 10 + i, "std": 0.5} for i, name in enumerate(NAMES)]
        case "raters":
            return [{"worker": f"w{i % 3}", "image": NAMES[i // 3], "rating": 1 + i % 5} for i in range(3 * NUM)]
        case "histogram":
            return [{"image": name} | {f"score{j}": (i * j) % 7 for j in range(1, 11)} for i, name in enumerate(NAMES)]
        case "koniq":
            return [{"image_name": name} | {f"c{j}": (i + j) % 9 for j in range(1, 6)} | {"c_total": 9, "MOS": 3.0 + i / 20,
                "SD": 0.5}
                    for i, name in enumerate(NAMES)]  # fmt: skip
        case "pairs":
            return [{"winner": NAMES[i], "loser": NAMES[(i + 7) % NUM], "votes": 1 + i % 3} for i in range(NUM)]
        case "sides":
            return [
                {"left": NAMES[i], "right": NAMES[(i + 5) % NUM], "choice": ("left", "right", "tie")[i % 3]} for i in range(NUM)
            ]
        case _:
            return [{"sample": name, "mark": ("keep", "drop")[i % 2], "time": "t"} for i, name in enumerate(NAMES)]


KINDS = ("mean", "raters", "histogram", "koniq", "pairs", "sides", "marks")


def of_csv() -> Sequence[bytes]:
    """Each kind as text."""
    found = []
    for kind in KINDS:
        rows = _rows(kind)
        found.append("\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]).encode())
    return found


def of_parquet() -> Sequence[bytes]:
    """Each kind as Parquet, and a histogram in a list."""
    found = []
    for rows in [*map(_rows, KINDS), [{"image": name, "votes": [i, 2, 3, 4, 5]} for i, name in enumerate(NAMES)]]:
        out = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), out)
        found.append(out.getvalue())
    return found


def of_json() -> Sequence[bytes]:
    """Each kind as a list and as lines."""
    return [json.dumps(_rows(kind)).encode() for kind in KINDS[:5]] + [
        "".join(json.dumps(row) + "\n" for row in _rows(KINDS[6])).encode()
    ]


def of_label_studio() -> Sequence[bytes]:
    """Ratings and pairs as Label Studio exports them."""
    rated = [
        {"id": i, "data": {"image": f"/data/upload/3/0123abcd-{i}.jpg"}, "annotations": [
            {"completed_by": {"email": "a@b", "id": 1}, "was_cancelled": i == 3, "result": [
                {"type": "rating", "to_name": "image", "from_name": "r", "value": {"rating": 1 + i % 5}}]}]}
        for i in range(8)
    ]  # fmt: skip
    paired = [
        {"data": {"image1": f"a{i}.jpg", "image2": f"b{i}.jpg"}, "annotations": [
            {"completed_by": 4, "result": [{"type": "pairwise", "value": {"selected": ("left", "right")[i % 2]}}]}]}
        for i in range(8)
    ]  # fmt: skip
    return json.dumps(rated).encode(), json.dumps(paired).encode()


def of_ava() -> Sequence[bytes]:
    """AVA.txt."""
    lines = [" ".join(map(str, [i, 1000 + i, *((i * j) % 5 + 1 for j in range(10)), 1, 0, 7])) for i in range(1, 12)]
    return ["\n".join(lines).encode() + b"\n"]


def of_npy() -> Sequence[bytes]:
    """One rating a row."""
    found = []
    for values in (np.arange(12.0), np.arange(12, dtype=np.int16)[:, np.newaxis], np.arange(12, dtype="f2")):
        out = io.BytesIO()
        np.save(out, values)
        found.append(out.getvalue())
    return found


def of_sqlite() -> Sequence[bytes]:
    """Tables as Simulacra Aesthetic Captions has them."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.sqlite"
        connection = sqlite3.connect(file)
        connection.executescript(
            "PRAGMA page_size = 512; CREATE TABLE ratings (sid, iid, rating, verified); CREATE TABLE images (id, gid, idx);"
            "CREATE TABLE paths (iid, path);"
        )
        connection.executemany("INSERT INTO ratings VALUES (?, ?, ?, 1)", [(i % 3, i // 2, 1 + i % 9) for i in range(20)])
        connection.executemany("INSERT INTO images VALUES (?, 1, 2)", [(i,) for i in range(10)])
        connection.executemany("INSERT INTO paths VALUES (?, ?)", [(i, f"p/{i}.jpg") for i in range(10)])
        connection.commit()
        connection.close()
        return [file.read_bytes()]


_VALUES = (
    None,
    1,
    -1,
    0,
    2**62,
    -(2**63),
    1.5,
    float("inf"),
    float("nan"),
    1e308,
    "5",
    "",
    "x",
    "\0",
    b"\xff\xfe",
    b"",
    b"p/1.jpg",
)


def in_database(data: bytes, change: Change, rng: random.Random) -> bytes:
    """Values of other kinds, and tables and columns of other names, in a sound SQLite file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.sqlite"
        file.write_bytes(data)
        connection = sqlite3.connect(file)
        for _ in range(rng.choice((1, 2, 4))):
            table, fields = rng.choice((("ratings", "sid iid rating"), ("images", "id gid"), ("paths", "iid path")))
            match rng.randrange(5):
                case 0 if rng.random() < 0.3:
                    connection.execute(f"DROP TABLE {table}")
                    break
                case 1:
                    connection.execute(f"DELETE FROM {table} WHERE rowid % ? = 0", (rng.choice((1, 2, 3)),))
                case 2 if rng.random() < 0.3:
                    new = rng.choice(("rating", "x", "ITEM", "uid", "path"))
                    connection.execute(f"ALTER TABLE {table} RENAME COLUMN {rng.choice(fields.split())} TO {new}")
                    break
                case _:
                    where = rng.choice(("1", "rowid = 3", "rowid % 2 = 0"))
                    connection.execute(
                        f"UPDATE {table} SET {rng.choice(fields.split())} = ? WHERE {where}", (rng.choice(_VALUES),)
                    )
        connection.commit()
        connection.close()
        return file.read_bytes()


def in_types(data: bytes, change: Change, rng: random.Random) -> bytes:
    """One of the kinds with odd columns."""
    rows = pa.Table.from_pylist(_rows(rng.choice(KINDS)))
    return odd_tables.parquet(lambda: odd_tables.changed(rows, rng, _COLUMNS), rng)


def in_tree(data: bytes, change: Change, rng: random.Random) -> bytes:
    """JSON as a tree, or JSON lines."""
    if data.startswith(b"["):
        return odd_json.document(json.loads(data), rng)
    return odd_json.lines([json.loads(line) for line in data.splitlines()], rng)


def in_packet(data: bytes, change: Change, rng: random.Random) -> bytes:
    """The XMP inside of a picture."""
    return _picture(change(LIGHTROOM.format(stars=4).encode()), rng.choice(("JPEG", "PNG", "WEBP")))


def in_xml(data: bytes, change: Change, rng: random.Random) -> bytes:
    """XML that expands, nests, or says a thing twice."""
    odd = (
        '<!DOCTYPE a [<!ENTITY b "' + "x" * 100 + '"><!ENTITY c "' + "&b;" * 50 + '"><!ENTITY d "' + "&c;" * 50 + '">'
        '<!ENTITY e "' + "&d;" * 50 + '"><!ENTITY f "' + "&e;" * 50 + '">]>',
        '<!DOCTYPE a SYSTEM "file:///etc/passwd">',
        '<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/passwd">]>',
    )
    text = data.decode()
    match rng.randrange(5):
        case 0:
            text = rng.choice(odd) + text.replace("xmp:Rating=", 'x="&f;" xmp:Rating=')
        case 1:
            text = "<a>" * rng.choice((100, 50_000)) + text
        case 2:
            text = text.replace(
                '"4"', rng.choice(('"&f;"', '"4.0"', '"1e999"', '"nan"', '" 4 "', '"-1"', '"٤"', '"999999999999999999999"'))
            )
        case 3:
            text = text.replace("</rdf:RDF>", "<rdf:Description><xmp:Rating>2</xmp:Rating></rdf:Description></rdf:RDF>")
        case _:
            return text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32", "latin-1")), "replace")
    return text.encode()


def of_pictures() -> Sequence[bytes]:
    """Pictures with stars inside."""
    return [_picture(LIGHTROOM.format(stars=4).encode(), kind) for kind in ("JPEG", "PNG", "WEBP")]


_LIMITS: dict[str, Any] = {"limit_s": 6.0, "most_bytes": 256 << 20}
TARGETS: Mapping[str, Target] = {
    "CSV": Target(ratings, of_csv, "x.csv", is_text=True, tokens=(*(name.encode() for name in _COLUMNS), b",", b'"'), count=20,
                  **_LIMITS),
    "pairs in CSV": Target(functools.partial(ratings, ratings_kind="pairs", zero_means="tie"), lambda: of_csv()[4:6], "x.csv",
                           is_text=True, count=7, **_LIMITS),
    "Parquet": Target(ratings, of_parquet, "x.parquet", count=20, **_LIMITS,
                      insides=(in_types, in_types, inside_formats.in_parquet_footer, inside_formats.in_parquet_pages)),
    "JSON": Target(ratings, of_json, "x.json", insides=(in_tree,), count=17, **_LIMITS),
    "Label Studio": Target(ratings, of_label_studio, "x.json", insides=(in_tree, in_tree), count=17, **_LIMITS),
    "AVA.txt": Target(ratings, of_ava, "x.txt", is_text=True, count=13, **_LIMITS),
    "npy": Target(ratings, of_npy, "x.npy", insides=(inside_formats.in_npy_header,), count=10, **_LIMITS),
    "SQLite": Target(ratings, of_sqlite, "x.sqlite", insides=(in_database, in_database), count=17, **_LIMITS),
    "sidecar": Target(stars, lambda: [DARKTABLE.format(stars=4, label="Red").encode(), LIGHTROOM.format(stars="4").encode()],
                      "x.xmp",
                      insides=(in_xml,), is_text=True, names_file=False, count=13, **_LIMITS),
    "XMP in a picture": Target(embedded, of_pictures, "x.jpg", names_file=False, count=13, **_LIMITS,
                               insides=(in_packet, inside_formats.in_jpeg_segment, inside_formats.in_png_chunk,
                                        inside_formats.in_riff_chunk)),
}  # fmt: skip


@pytest.mark.parametrize("name", mostly_slow(TARGETS))
def test_mutated_ratings_are_read_or_refused(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path, count=TARGETS[name].count)


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_ratings_for_a_minute(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path)
