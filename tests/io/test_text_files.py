"""Lists and tables in other encodings, and addresses in capitals: read as others are, or refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beholder import InputError
from beholder.io import locations, storage
from beholder.io.tables import header_of, open_table
from beholder.scoreset.database import connect
from beholder.scoreset.joined import read_list
from beholder.sources.fetch import ReadLimits, read_bytes
from beholder.sources.find import find, find_parts
from beholder.sources.reader import PictureRef, ReadOptions, SourceOptions, embedding_reader
from oracles.picture_sources import put, read, refused
from oracles.tar_making import png
from oracles.web import serving

MARKED = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-marked", "utf-16-be-marked"]


def encoded(text: str, encoding: str) -> bytes:
    if encoding.endswith("-marked"):
        return ("\ufeff" + text).encode(encoding.removesuffix("-marked"))
    return text.encode(encoding)


@pytest.mark.parametrize("encoding", MARKED)
def test_lists_and_tables_of_pictures(here: Path, encoding: str) -> None:
    put(here / "größe" / "ü.png")
    rows = {"file_name": "größe/ü.png", "caption": "Zürich €"}
    texts = {
        "l.txt": "# Größe\r\ngröße/ü.png\r\n",
        "t.csv": "file_name,caption\r\ngröße/ü.png,Zürich €\r\n",
        "t.tsv": "file_name\tcaption\ngröße/ü.png\tZürich €\n",
        "t.jsonl": json.dumps(rows, ensure_ascii=False) + "\n",
        "t.json": json.dumps([rows], ensure_ascii=False),
    }
    for name, text in texts.items():
        Path(name).write_bytes(encoded(text, encoding))
        found = find([name], SourceOptions(), ReadOptions())
        (part,) = found.pictures
        names, refs = read(part)
        assert names == ["größe/ü.png"], name
        assert Path(refs[0].path or "").is_file()
    assert header_of("t.csv") == ["file_name", "caption"]
    with open_table("t.csv", {}) as (_, batches):
        assert [row for batch in batches for row in batch.to_pylist()] == [rows]


@pytest.mark.parametrize("encoding", MARKED)
def test_embeddings_and_lists_of_them(here: Path, encoding: str) -> None:
    wanted = np.random.default_rng(3).standard_normal((300, 4)).astype(np.float32)
    lines = ["sample,0,1,2,3", *(f"é{i}," + ",".join(map(repr, row.tolist())) for i, row in enumerate(wanted))]
    Path("e.csv").write_bytes(encoded("\n".join(lines) + "\n", encoding))
    rows = [{"id": f"é{i}", "emb": row.tolist()} for i, row in enumerate(wanted)]
    Path("e.jsonl").write_bytes(encoded("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding))
    Path("l.txt").write_bytes(encoded("e.csv\r\n", encoding))
    for name in ("e.csv", "l.txt", "e.jsonl"):
        (part,) = find([name], SourceOptions(), ReadOptions()).embeddings
        blocks = list(embedding_reader(part.kind).blocks(part, 0, None, ReadOptions(block_bytes=1000)))
        assert np.array_equal(np.concatenate([block.embeddings.copy() for block in blocks]), wanted)
        names = [name for block in blocks if block.labels is not None for name in block.labels["sample"].to_pylist()]
        assert names == [f"é{i}" for i in range(300)]


@pytest.mark.parametrize("encoding", MARKED)
def test_lists_of_samples(here: Path, encoding: str) -> None:
    Path("drop.txt").write_bytes(encoded("é.jpg\nb.jpg\r\n", encoding))
    with connect(here) as connection:
        assert read_list(connection, "drop.txt", "dropped", here) == 2
        assert sorted(connection.execute("SELECT * FROM dropped").fetchall()) == [("b.jpg",), ("é.jpg",)]


def test_what_is_neither_is_refused_in_words(here: Path) -> None:
    Path("l.txt").write_bytes("a.jpg\nbü.jpg\n".encode("latin-1"))
    assert "l.txt is not UTF-8 text (line 2: byte 0xfc, of Latin-1 or Windows-1252, perhaps)" in refused("l.txt")
    Path("w.txt").write_bytes("a.jpg\n".encode("utf-32"))
    assert "w.txt is UTF-32 text" in refused("w.txt")
    Path("n.txt").write_bytes("a.jpg\n".encode("utf-16-le"))
    assert "UTF-16 without its mark" in refused("n.txt")
    Path("j.jsonl").write_bytes('{"file_name": "ü.jpg"}\n'.encode("latin-1"))
    assert "line 1 is not UTF-8 text; save the file as UTF-8" in refused("j.jsonl")
    Path("cut.csv").write_bytes("file_name\nü.jpg\n".encode("utf-16")[:-1])
    assert "is UTF-16 text that breaks off or is damaged" in refused("cut.csv")
    for name, words in (("l.txt", "lists pictures, and embeddings were asked for"), ("w.txt", "UTF-32"), ("n.txt", "UTF-16")):
        with pytest.raises(InputError, match=words):
            find_parts([name], ReadOptions())


def test_schemes_in_any_case(tmp_path: Path, s3: Any) -> None:
    put(tmp_path / "a" / "x.png", png(7))
    for scheme in ("FILE://", "File://", "LOCAL://", "file://"):
        assert locations.is_local(f"{scheme}{tmp_path}")
        assert locations.local_path(f"{scheme}{tmp_path}/a") == tmp_path / "a"
        (part,) = find([f"{scheme}{tmp_path}/a"], SourceOptions(), ReadOptions()).pictures
        assert read(part)[0] == [f"{tmp_path}/a/x.png"]
        assert read_bytes(PictureRef(path=f"{scheme}{tmp_path}/a/x.png"), ReadLimits()) == png(7)
    s3.put_object(Bucket="data", Key="p/x.png", Body=png(8))
    (part,) = find(["S3://data/p"], SourceOptions(), ReadOptions()).pictures
    assert read_bytes(read(part)[1][0], ReadLimits()) == png(8)
    assert storage.exists("S3://data/p/x.png")
    with serving({"x.png": png(9), "t.csv": b"url\nHTTP://127.0.0.1/x.png\n"}) as server:
        address = server.url.replace("http", "HTTP")
        assert locations.is_web(address)
        (part,) = find([f"{address}/x.png?size=2"], SourceOptions(), ReadOptions()).pictures
        assert part.kind == "files"
        (table,) = find([f"{address}/t.csv"], SourceOptions(), ReadOptions()).pictures
        assert read(table)[1][0].path == "HTTP://127.0.0.1/x.png"
        assert read_bytes(PictureRef(path=f"{address}/x.png"), ReadLimits()) == png(9)
        assert storage.size(f"{address}/x.png") == len(png(9))
