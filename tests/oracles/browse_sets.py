"""Columns in; a score set as `beholder score` writes it, with its record and rejects, out; or a running server of one."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beholder.browse.options import BrowseOptions


def write_set(
    path: Path,
    rows: Mapping[str, Any],
    *,
    sources: Sequence[str] = (),
    folder: Path | None = None,
    heads: Mapping[str, str] | None = None,
    of_heads: Mapping[str, Any] | None = None,
    rejects: Sequence[tuple[str, str, str, str]] = (),
    row_group_rows: int = 1 << 20,
) -> Path:
    """Write `path`, `path`.beholder.json and `path`.rejects.parquet; `of_heads`: what the record says of each head further."""
    heads = heads or {"aesthetic_score": "sac+logos+ava1-l14-linearMSE"}
    record: dict[str, Any] = {
        "format": "beholder-score-set",
        "version": 1,
        "score_columns": list(heads),
        "heads": [{"name": name, **(of_heads or {})} for name in heads.values()],
    }
    if sources:
        record["pictures"] = {"sources": list(sources), "folder": str(folder)}
    table = pa.table(dict(rows)).replace_schema_metadata({b"beholder": json.dumps(record).encode()})
    pq.write_table(table, path, row_group_size=row_group_rows)
    Path(f"{path}.beholder.json").write_text(json.dumps(record), encoding="utf-8")
    if rejects:
        columns = dict(zip(("sample", "stage", "reason", "message"), map(list, zip(*rejects, strict=True)), strict=True))
        pq.write_table(pa.table(columns), f"{path}.rejects.parquet")
    return path


def keep_embeddings(path: Path, names: Sequence[str], rows: Any, backbone: str | None = None) -> Path:
    """Embeddings in clip-retrieval's layout beside the set `path`, where `beholder score --keep-embeddings` puts them."""
    folder = Path(f"{path}.embeddings")
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    np.save(folder / "img_emb" / "img_emb_0.npy", rows)
    pq.write_table(pa.table({"sample": list(names)}), folder / "metadata" / "metadata_0.parquet")
    stamp = {"format": "beholder-embeddings", "version": 1, "backbone": backbone, "normalised": False}
    (folder / "beholder.json").write_text(json.dumps(stamp), encoding="utf-8")
    return folder


@dataclass(frozen=True)
class TasteSet:
    """A set with embeddings, a public head that gave its scores, and somebody's taste, known by construction.

    Attributes:
        path: of the set.
        names: (N,) samples; rows: (N, D) float16 embeddings, of the last `num_without` there are none kept.
        public: (N,) scores of the head; liking: (N,) what somebody likes, 0 in the middle.
        head: file of the head.
    """

    path: Path
    names: list[str]
    rows: Any
    public: Any
    liking: Any
    head: Path
    num_without: int


def write_taste_set(place: Path, num_rows: int, dim: int, *, num_without: int = 0, seed: int = 0, **more: Any) -> TasteSet:
    """Rows of a falling spectrum about a centre; the taste is three fifths the public head and four fifths its own.

    `more`: `columns` of the rows, and arguments of `write_set`.
    """
    from beholder import Head, save_head

    rng = np.random.default_rng(seed)
    rows = (1.0 + rng.normal(size=(num_rows, dim)) * 2 * np.arange(1, dim + 1) ** -0.5).astype(np.float16)
    unit = rows / np.linalg.norm(rows.astype(float), axis=1, keepdims=True)
    weights = rng.normal(size=(2, dim))
    parts = [(unit @ weight - (unit @ weight).mean()) / (unit @ weight).std() for weight in weights]
    spread = float((unit @ weights[0]).std())
    head = Head.affine(weights[0] / spread * 0.5, 5 - 0.5 * float((unit @ weights[0]).mean()) / spread, name="public")
    file = place / "public.safetensors"
    of_heads = {"source": str(file), "sha256": save_head(head, file), "sha256_of": "file"}
    names = [f"pictures/{number:05d}.jpg" for number in range(num_rows)]
    public = np.asarray(head.score(rows), np.float32)
    columns = {"sample": names, "aesthetic_score": public, **more.pop("columns", {})}
    path = write_set(place / "scores.parquet", columns, heads={"aesthetic_score": "public"}, of_heads=of_heads, **more)
    keep_embeddings(path, names[: num_rows - num_without], rows[: num_rows - num_without])
    liking = 0.6 * parts[0] + 0.8 * parts[1]
    return TasteSet(path, names, rows, public, liking, file, num_without)


@dataclass(frozen=True)
class Served:
    """A running server (uvicorn's): its address, and the folder of the set."""

    url: str
    folder: Path
    options: BrowseOptions
    server: Any


@contextlib.contextmanager
def running(options: BrowseOptions, folder: Path, limits: Any = None) -> Iterator[Served]:
    """A server in a thread of this process, stopped at the end; `limits`: of its connections."""
    from beholder.browse.server import listening, make_server, serving

    with listening(options) as (found, port), serving(options, port) as (guard, address):
        server = make_server(guard, limits)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [found]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield Served(address.url, folder, options, server)
        finally:
            server.should_exit = True
            server.force_exit = True
            thread.join(timeout=20)
