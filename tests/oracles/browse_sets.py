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
    rejects: Sequence[tuple[str, str, str, str]] = (),
    row_group_rows: int = 1 << 20,
) -> Path:
    """Write `path`, `path`.beholder.json and `path`.rejects.parquet."""
    heads = heads or {"aesthetic_score": "sac+logos+ava1-l14-linearMSE"}
    record: dict[str, Any] = {
        "format": "beholder-score-set",
        "version": 1,
        "score_columns": list(heads),
        "heads": [{"name": name} for name in heads.values()],
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
