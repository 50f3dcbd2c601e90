"""Acts on sets whose rows are named by keys, and whose pictures are at the addresses of a column."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from beholder.cli.app import app
from oracles.acting import contents, take_back
from oracles.journals import lines_of, write_journal
from oracles.tar_making import png
from oracles.web import FileServer, serving

NUM_ROWS = 6
EMPTY = 4
"""The row that has no address."""
FOUND = "since 'key' holds no paths or URLs of pictures; --picture-column names another"


@pytest.fixture
def server(here: Path) -> Iterator[FileServer]:
    with serving({f"p/{row}.png": png(row) for row in range(NUM_ROWS)}) as server:
        yield server


def write_table(addresses: list[str | None], **more: Any) -> None:
    """Scores 1, 2, ... of the keys 000000, 000001, ..., with addresses and captions, as other tools write them."""
    table = pa.table({
        "key": [f"{row:06d}" for row in range(len(addresses))],
        "url": pa.array(addresses, pa.string()),
        "caption": [f"caption {row}" for row in range(len(addresses))],
        "aesthetic_score": pa.array([1.0 + row for row in range(len(addresses))], pa.float32()),
        **more,
    })  # fmt: skip
    pq.write_table(table, "plain.parquet")


def on_server(server: FileServer) -> list[str | None]:
    return [f"{server.url}/p/{row}.png" if row != EMPTY else None for row in range(NUM_ROWS)]


def select(*more: str, status: int = 0) -> str:
    """What `beholder select` says of the table, keeping what has a score of at least 3: rows 2 to 5."""
    outcome = CliRunner().invoke(app, ["select", "plain.parquet", "--min-score", "3", *more])
    assert outcome.exit_code == status, outcome.output
    return outcome.output + str(outcome.exception or "")


def test_copies_are_of_the_pictures_at_the_addresses(server: FileServer) -> None:
    write_table(on_server(server))
    said = select("--copy", "pc", status=3)
    assert f"pictures are taken from column 'url', {FOUND}" in said
    assert "would copy 3 pictures" in said
    assert "000004: column 'url' is empty for this row" in said
    assert not Path("pc").exists()
    said = select("--copy", "pc", "--apply", status=3)
    assert "copied 3 pictures" in said
    wanted = {f"{row}.png": png(row) for row in (2, 3, 5)}
    assert contents(Path("pc")) == wanted
    assert "done already" in select("--copy", "pc", status=3)
    undone, _ = take_back("pc.journal.jsonl")
    assert (undone.num_done, Path("pc").exists()) == (3, False)


def test_a_killed_copy_goes_on(server: FileServer) -> None:
    write_table(on_server(server))
    select("--copy", "pc", "--apply", status=3)
    whole, journal = contents(Path("pc")), Path("pc.journal.jsonl")
    lines = lines_of(journal)
    write_journal(journal, lines[: next(i for i, line in enumerate(lines) if "results" in line)])
    (Path("pc") / "5.png").unlink()
    select("--copy", "pc", "--apply", status=3)
    assert contents(Path("pc")) == whole


def test_what_is_packed_keeps_the_names_of_the_rows(server: FileServer) -> None:
    write_table(on_server(server))
    select("--tars", "tars", "--apply", "--caption-column", "caption", status=3)
    with tarfile.open("tars/00000.tar") as archive:
        found = {info.name: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]
    assert sorted(found.values()) == sorted([*(png(row) for row in (2, 3, 5)), b"caption 2", b"caption 3", b"caption 5"])
    beside = pq.read_table("tars/00000.parquet")
    assert beside.column("sample").to_pylist() == ["000002", "000003", "000005"]
    assert beside.column("url").to_pylist() == [f"{server.url}/p/{row}.png" for row in (2, 3, 5)]
    select("--hf-parquet", "rows", "--apply", status=3)
    rows = pq.read_table("rows/train-00000.parquet").to_pylist()
    assert [(row["sample"], row["image"]["bytes"]) for row in rows] == [(f"{row:06d}", png(row)) for row in (2, 3, 5)]


def test_a_column_of_paths_is_found_or_named_and_moves_come_back(here: Path) -> None:
    before = contents(here / "photos")
    other = [f"photos/{name}" for name in ("a.jpg", "b/c.png", "b/a.jpg", "e.f.jpg")]
    write_table(["http://127.0.0.1:9/gone.jpg"] * 4, place=other)
    said = select("--move", "best", "--picture-column", "place", "--apply")
    assert "pictures are taken from column 'place'\n" in said
    assert "moved 2 pictures" in said
    assert set(contents(here / "best")) == {"b/a.jpg", "e.f.jpg"}
    take_back("best.journal.jsonl")
    assert contents(here / "photos") == before
    write_table(other)
    assert f"pictures are taken from column 'url', {FOUND}" in select("--link", "links")


def test_joined_columns_are_looked_at_too(server: FileServer) -> None:
    write_table(on_server(server))
    table = pq.read_table("plain.parquet")
    pq.write_table(table.select(["key", "url"]), "meta.parquet")
    pq.write_table(table.select(["key", "aesthetic_score"]), "plain.parquet")
    assert "would copy 3 pictures" in select("--copy", "pc", "--join", "meta.parquet", status=3)


def test_columns_that_cannot_say_where_pictures_are(server: FileServer) -> None:
    write_table(on_server(server), empty=pa.nulls(NUM_ROWS, pa.string()))
    assert "--picture-column ulr: plain.parquet has no such column; it has key, " in select(
        "--copy", "pc", "--picture-column", "ulr", status=1
    )
    assert "column 'empty' is empty for all 4 kept rows" in select("--copy", "pc", "--picture-column", "empty", status=1)
    assert "--picture-column is for --copy" in select("--picture-column", "url", status=1)


def test_known_sources_and_names_that_are_addresses_go_first(server: FileServer, here: Path) -> None:
    write_table([f"{server.url}/p/{row}.png" for row in range(4)])
    table = pq.read_table("plain.parquet")
    record = {"pictures": {"sources": ["photos"], "folder": str(here)}}
    names = ["photos/a.jpg", "photos/b/c.png", "photos/b/a.jpg", "photos/e.f.jpg"]
    named = table.set_column(0, "sample", pa.array(names, pa.large_string()))
    pq.write_table(named.replace_schema_metadata({"beholder": json.dumps(record)}), "plain.parquet")
    select("--copy", "pc", "--apply")
    assert set(contents(here / "pc")) == {"b/a.jpg", "e.f.jpg"}
    select("--copy", "named", "--apply", "--picture-column", "url")
    assert contents(here / "named") == {f"{row}.png": png(row) for row in (2, 3)}
