"""Mutated tables of scores, metadata and lists: selected from, advised on and reported, or refused in one line."""

from __future__ import annotations

import functools
import io
import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import beholder
from oracles import inside_formats, odd_json, odd_tables
from oracles.fuzzing import Target, check
from oracles.in_process import all_of, empty_beside
from oracles.tiers import mostly_slow

Change = Callable[[bytes], bytes]
ROWS = 24
NAMES = ("sample", "aesthetic_score", "score", "key", "image_path", "url", "width", "aesthetic", "clip_score", "scores")
_RNG = np.random.default_rng(3)


def table() -> pa.Table:
    """Scores with metadata."""
    return pa.table(
        {
            "sample": [f"p/{i % 5}/é{i}.jpg" for i in range(ROWS)],
            "aesthetic_score": pa.array(_RNG.normal(5, 1, ROWS), pa.float32()),
            "label": ["cat", "dog", None] * (ROWS // 3),
            "width": pa.array(range(ROWS), pa.int32()),
        }
    )


def selected(path: Path) -> Hashable:
    """A selection in every way that looks at columns, as many rows as its rules leave."""
    folder, file = empty_beside(path), str(path)
    kept = folder / "kept.parquet"
    all_of(
        ("select", file, "--top", "5", "-q", "-o", str(kept)),
        ("select", file, "--min-score", "4.5", "--where", "width > 3", "-q", "--decisions-out", str(folder / "all.csv")),
        ("select", file, "--top-share", "50%", "--per", "folder", "-q", "-o", str(folder / "kept.jsonl")),
    )
    assert pq.read_metadata(kept).num_rows <= 5
    return tuple(map(str, pq.read_schema(kept).types))


def looked_at(path: Path) -> Hashable:
    """Advice and a report."""
    page = empty_beside(path) / "page.html"
    all_of(("advise", str(path)), ("report", str(path), "-q", "--no-thumbnails", "-o", str(page)))
    return page.stat().st_size >> 14


def joined(path: Path) -> Hashable:
    """Scores with a table of metadata beside them."""
    folder = empty_beside(path)
    pq.write_table(table(), folder / "set.parquet")
    scores = str(folder / "set.parquet")
    return len(
        all_of(
            ("select", scores, "--top", "5", "--join", str(path), "-q", "-o", str(folder / "kept.csv")),
            ("select", scores, "--top", "5", "--exclude", str(path), "-q", "-o", str(folder / "kept.parquet")),
        )
    )


def excluded(path: Path) -> Hashable:
    """Scores without the names of a list."""
    folder = empty_beside(path)
    pq.write_table(table(), folder / "set.parquet")
    return len(
        all_of(("select", str(folder / "set.parquet"), "--top", "5", "--exclude", str(path), "-q", "-o", str(folder / "k.csv")))
    )


def as_frame(path: Path) -> Hashable:
    """The same table given from memory, in types that Parquet has not."""
    seed = int.from_bytes(path.read_bytes()[-16:-8], "little")
    rng = random.Random(seed)
    try:
        given = odd_tables.changed(table(), rng, NAMES)
    except (pa.ArrowException, ValueError, OverflowError):
        return "not made"
    if not given.column_names:
        return "not made"
    found = beholder.select(given, top=5)
    return str(getattr(found, "num_rows", None))


def in_types(data: bytes, change: Change, rng: random.Random) -> bytes:
    """A table with odd columns."""
    return odd_tables.parquet(lambda: odd_tables.changed(table(), rng, NAMES), rng)


def in_cells(data: bytes, change: Change, rng: random.Random) -> bytes:
    """The record in the schema changed as a tree."""
    record = {
        "format": "beholder-score-set", "version": 1, "score_columns": ["aesthetic_score"], "heads": [{"name": "x",
            "sha256": "0"}],
        "pictures": {"sources": ["p"], "folder": "/nowhere"}, "result": {"num_read": 24}, "backbone": "x/y",
        "rules": {"top": 5}, "funnel": [{"rule": "top", "left": 5}], "options": {"heads": ["x"]},
    }  # fmt: skip
    text = odd_json.text_of(odd_json.changed(record, rng)).encode("utf-8", "replace")
    key = rng.choice((b"beholder", b"beholder", b"huggingface", b"pandas"))
    return odd_tables.parquet(lambda: table().replace_schema_metadata({key: text}), rng)


def of_parquet() -> Sequence[bytes]:
    """The table, written in two ways."""
    found = []
    for options in ({}, {"use_dictionary": False, "compression": "none", "row_group_size": 7}):
        out = io.BytesIO()
        pq.write_table(table(), out, **options)
        found.append(out.getvalue())
    return found


def of_csv(delimiter: str = ",") -> Sequence[bytes]:
    """The table as text."""
    rows = table().to_pylist()
    lines = [delimiter.join(rows[0])]
    lines += [delimiter.join('"a ""b"""' if value is None else str(value) for value in row.values()) for row in rows]
    return ["\n".join(lines).encode(), "\r\n".join(lines).encode()]


def of_list() -> Sequence[bytes]:
    """Names, one a line."""
    return ["".join(f"p/{i % 5}/é{i}.jpg\n" for i in range(0, ROWS, 3)).encode()]


_LIMITS: dict[str, Any] = {"limit_s": 8.0, "most_bytes": 400 << 20, "names_file": False}
_PARQUET: dict[str, Any] = {
    "insides": (in_types, in_types, in_types, in_cells, inside_formats.in_parquet_footer, inside_formats.in_parquet_pages),
    **_LIMITS,
}
_CSV: dict[str, Any] = {"is_text": True, "tokens": (b"sample", b"aesthetic_score", b'"', b",", b"\n"), **_LIMITS}

TARGETS: Mapping[str, Target] = {
    "selected, Parquet": Target(selected, of_parquet, "x.parquet", count=7, **_PARQUET),
    "advised and reported, Parquet": Target(looked_at, of_parquet, "x.parquet", count=3, **_PARQUET),
    "joined, Parquet": Target(joined, of_parquet, "x.parquet", count=3, **_PARQUET),
    "selected, CSV": Target(selected, of_csv, "x.csv", count=4, **_CSV),
    "selected, TSV": Target(selected, functools.partial(of_csv, "\t"), "x.tsv", count=3, **_CSV),
    "advised and reported, CSV": Target(looked_at, of_csv, "x.csv", count=3, **_CSV),
    "joined, CSV": Target(joined, of_csv, "x.csv", count=3, **_CSV),
    "excluded": Target(excluded, of_list, "x.txt", count=12, **_CSV),
    "from memory": Target(as_frame, of_parquet, "x.parquet", count=8, **_LIMITS),
}


@pytest.mark.parametrize("name", mostly_slow(TARGETS))
def test_mutated_tables_are_read_or_refused(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path, count=TARGETS[name].count)


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_tables_for_a_minute(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path)
