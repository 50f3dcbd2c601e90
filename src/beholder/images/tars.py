"""A tar (webdataset, img2dataset, any) in, its pictures out, with what the `.json`, `.txt` and `.cls` members beside say."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pyarrow as pa

from beholder import storage
from beholder.columns import SAMPLE
from beholder.csv_tables import check_names
from beholder.errors import InputError
from beholder.images.labels import block_labels, column_of, is_heavy, passed_columns
from beholder.images.magic import TAR_SUFFIX
from beholder.images.picture import PictureBlock, PicturePart, SourceOptions
from beholder.images.tar_members import TarFile
from beholder.images.tar_walk import KEY, Row, ShardTable, Walk, index_of

RANGED_BYTES = 1 << 30
"""Local tars without compression that are larger are gone through when they are inspected, so that they can be cut."""
_PEEKED_SAMPLES = 32


class TarReader:
    """Reads tars; `sample` is the tar's path as given, "/", and the key (webdataset's: the path up to the first dot).

    The second and later pictures of a key are named key.extension. Local plain tars give places, all others bytes.
    Columns, with "*": `key`; the columns of the shard's Parquet file (`00000.parquet` beside `00000.tar`), joined by `key`;
    fields of the `.json` members that it lacks; `caption` from `.txt` and `cls` from `.cls` members where neither has them.
    A broken tar ends with one picture that has an error. Local plain tars of more than RANGED_BYTES know how many pictures
    they have and can be cut anywhere; others are one shard each.
    """

    def inspect(self, path: str, name: str, options: SourceOptions) -> PicturePart:
        """Look at the first header (of large local tars at all), and for named columns at the first samples.

        Raises InputError for what is no tar.
        """
        num_bytes = storage.size(path)
        if num_bytes == 0:
            raise InputError(f"{path} is empty (0 bytes)")
        identity = {"bytes": num_bytes, "contents": storage.content_sample(path, num_bytes)}
        table = _table_beside(path)
        detail: dict[str, Any] = {"table": table, "columns": [KEY]}
        table_columns: list[str] | None = None
        if table is not None:
            with storage.remote_errors(table), storage.open_parquet(table) as file:
                schema = file.schema_arrow
            check_names(schema.names, table)
            if KEY in schema.names:
                identity["table bytes"] = storage.size(table)
                table_columns = [field.name for field in schema if field.name != KEY and not is_heavy(field.type)]
                detail["columns"] += table_columns
            else:
                detail["table"] = None
        with TarFile(path, num_bytes) as tar:
            missing = [column for column in options.columns if column not in ("*", SAMPLE, *detail["columns"])]
            if missing:
                detail["columns"] += [name for name in _peek(tar) if name not in detail["columns"]]
            detail["is_plain"] = tar.is_plain
            if num_bytes > RANGED_BYTES and tar.is_plain and storage.is_local(path):
                detail["index"] = index_of(tar, path, table_columns)
        num_rows = detail["index"].num_rows or None if "index" in detail else None
        return PicturePart(path, name, "tar", num_rows, num_bytes, identity, detail=detail)

    def blocks(self, part: PicturePart, start: int, stop: int | None, options: SourceOptions) -> Iterator[PictureBlock]:
        """Pictures [start, stop). Raises InputError before the first one only, or when a server fails for good."""
        table = _table_of(part, options)
        with TarFile(part.path, part.num_bytes) as tar:
            rows: list[Row] = []
            num_bytes = 0
            walk = Walk(tar, part.path, start, stop, options, table, index=part.detail.get("index"))
            for index, row in enumerate(walk.rows(), walk.count):
                if index < start:
                    continue
                if stop is not None and index >= stop:
                    break
                rows.append(row)
                num_bytes += len(row.ref.data or b"")
                if len(rows) >= options.block_rows or num_bytes >= options.block_bytes:
                    yield _block(rows, table, options)
                    rows, num_bytes = [], 0
            if rows:
                yield _block(rows, table, options)


def _table_beside(path: str) -> str | None:
    """The shard's Parquet file, if there is one. A server that does not let us ask is taken to have none."""
    if storage.is_web(path) and "?" in path:
        return None
    candidate = TAR_SUFFIX.sub("", path) + ".parquet"
    try:
        return candidate if candidate != path and storage.exists(candidate) else None
    except InputError:
        return None


def _table_of(part: PicturePart, options: SourceOptions) -> ShardTable | None:
    """The table beside; of a tar that is cut into ranges it is kept, as every one of them asks again."""
    path = part.detail["table"]
    if path is None:
        return None
    if "index" not in part.detail:
        return ShardTable.read(path, options)
    return _read_again(path, storage.local_path(path).stat().st_mtime_ns, options)


@lru_cache(maxsize=1)
def _read_again(path: str, written_ns: int, options: SourceOptions) -> ShardTable:
    return ShardTable.read(path, options)


def _peek(tar: TarFile) -> list[str]:
    """Names of the fields that the first samples have."""
    names: dict[str, None] = {}
    walk = Walk(tar, "", 0, _PEEKED_SAMPLES, SourceOptions(), None, with_data=False)
    for row in walk.rows():
        names |= dict.fromkeys(row.fields)
    return list(names)


def _block(rows: list[Row], table: ShardTable | None, options: SourceOptions) -> PictureBlock:
    joined = table.join(rows) if table is not None else {}
    available = [KEY, *joined]
    available += [name for name in dict.fromkeys(name for row in rows for name in row.fields) if name not in available]
    passed: dict[str, Any] = {}
    for name in passed_columns(available, None, options):
        if name == KEY:
            passed[name] = pa.array([row.key for row in rows], pa.string())
        else:
            passed[name] = joined[name] if name in joined else column_of([row.fields.get(name) for row in rows])
    if "*" not in options.columns:
        passed |= {name: pa.nulls(len(rows)) for name in options.columns if name not in passed and name != SAMPLE}
    return PictureBlock([row.ref for row in rows], block_labels([row.sample for row in rows], passed, options))
