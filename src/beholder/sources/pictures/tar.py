"""A tar (webdataset, img2dataset, any) in, its pictures out, with what the `.json`, `.txt` and `.cls` members beside say."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from beholder.columns import SAMPLE
from beholder.errors import InputError
from beholder.io import storage
from beholder.io.schemas import schema_of
from beholder.io.tables import check_names
from beholder.pixels.picture import LateLabels, PictureBlock, PicturePart, SourceOptions
from beholder.sources.pictures.labels import block_labels, column_of, is_heavy, passed_columns, valid_text
from beholder.sources.pictures.magic import TAR_SUFFIX, is_tar_header
from beholder.sources.pictures.tar_members import BLOCK_BYTES, DAMAGE, TarFile, split_key
from beholder.sources.pictures.tar_walk import (
    KEY,
    MOST_SIDECAR_BYTES,
    SIDECARS,
    Row,
    ShardTable,
    Walk,
    index_of,
    sidecar_fields,
)

RANGED_BYTES = 1 << 30
"""Local tars without compression that are larger are gone through when they are inspected, so that they can be cut."""
_PEEKED_SAMPLES = 32
_PEEKED_BYTES, _PEEKED_REMOTE_BYTES, _PEEKED_END_BYTES = 64 << 20, 2 << 20, 256 << 10
"""Columns are decided by the first so many pictures, as far as they lie in the first bytes, and by the last bytes of a tar."""


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
        detail: dict[str, Any] = {"table": table}
        kinds: dict[str, pa.Field] = {KEY: pa.field(KEY, pa.string())}
        table_columns: list[str] | None = None
        if table is not None:
            with storage.remote_errors(table), storage.open_parquet(table) as file:
                schema = file.schema_with_ranges
            check_names(schema.names, table)
            if KEY in schema.names:
                identity["table bytes"] = storage.size(table)
                table_kinds = {field.name: field for field in schema if field.name != KEY and not is_heavy(field.type)}
                table_columns = list(table_kinds)
                kinds |= table_kinds
            else:
                detail["table"] = None
        with TarFile(path, num_bytes) as tar:
            if any(column not in (SAMPLE, *kinds) for column in options.columns):
                kinds |= {name: kind for name, kind in _peek(tar).items() if name not in kinds}
            detail["is_plain"] = tar.is_plain
            if num_bytes > RANGED_BYTES and tar.is_plain and storage.is_local(path):
                detail["index"] = index_of(tar, path, table_columns)
        detail["schema"] = pa.schema(list(kinds.values()))
        detail["columns"] = list(kinds)
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
                num_bytes += len(row.ref.data or b"") + row.num_said_bytes
                if len(rows) >= options.block_rows or num_bytes >= options.block_bytes:
                    yield _block(rows, table, options)
                    rows, num_bytes = [], 0
            if rows:
                yield _block(rows, table, options)
            last = _last_block(walk, options, is_end=stop is None or (part.num_rows is not None and stop >= part.num_rows))
            if last.late is not None or last.remarks:
                yield last


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


def _peek(tar: TarFile) -> dict[str, pa.Field]:
    """The fields that the first pictures have, and those that members near the tar's end tell of; and their types.

    A server that fails tells of none: reading the tar will say so.
    """
    said: list[dict[str, Any]] = []
    with contextlib.suppress(InputError):
        if tar.is_plain and not storage.is_local(tar.path):
            said += _said_within(tar, 0, min(tar.num_bytes, _PEEKED_REMOTE_BYTES))
            is_whole = tar.num_bytes <= _PEEKED_REMOTE_BYTES
        else:
            is_whole = _said_first(tar, said)
        if tar.is_plain and not is_whole:
            low = max(0, tar.num_bytes - _PEEKED_END_BYTES) // BLOCK_BYTES * BLOCK_BYTES
            said += _said_within(tar, low, tar.num_bytes)
    names = dict.fromkeys(name for fields in said for name in fields)
    found = schema_of(pa.table({name: column_of([fields.get(name) for fields in said]) for name in names}))
    return {field.name: field for field in found}


def _said_first(tar: TarFile, said: list[dict[str, Any]]) -> bool:
    """Add what is said of the first pictures; whether there are no others."""
    walk = Walk(tar, "", 0, None, SourceOptions(), None, with_data=False)
    for row in walk.rows():
        said.append(row.fields)
        if len(said) >= _PEEKED_SAMPLES or walk.last_byte > _PEEKED_BYTES:
            said += [*walk.strays.late.values(), *walk.strays.said_of_none()]
            return False
    said += [*walk.strays.late.values(), *walk.strays.said_of_none()]
    return True


def _said_within(tar: TarFile, low: int, high: int) -> list[dict[str, Any]]:
    """What sidecars in these bytes of a plain tar say; at the end, as in some tars all captions stand behind all pictures."""
    data = storage.read_range(tar.path, low, high)
    starts = (at for at in range(0, len(data), BLOCK_BYTES) if is_tar_header(data[at : at + BLOCK_BYTES]))
    said: list[dict[str, Any]] = []
    with contextlib.suppress(*DAMAGE), tarfile.open(fileobj=io.BytesIO(data[next(starts, len(data)) :]), mode="r:") as archive:
        for info in archive:
            split = split_key(valid_text(info.name))
            kind = SIDECARS.get(split[1].rsplit(".", 1)[-1]) if split is not None else None
            content = archive.extractfile(info) if kind is not None and info.size <= MOST_SIDECAR_BYTES else None
            if kind is not None and content is not None:
                said.append(sidecar_fields(kind, content.read()) or {})
    return said


def _last_block(walk: Walk, options: SourceOptions, *, is_end: bool) -> PictureBlock:
    """No picture, but what the tar has said of earlier ones after they were given out, and what it said of none."""
    late = None
    if walk.strays.late:
        said = list(walk.strays.late.values())
        names = passed_columns(dict.fromkeys(name for fields in said for name in fields), None, options)
        passed = {name: column_of([fields.get(name) for fields in said]) for name in names}
        if passed:
            late = LateLabels(np.fromiter(walk.strays.late, np.int64), pa.table(passed))
    return PictureBlock([], block_labels([], {}, SourceOptions()), late, walk.remarks(is_end=is_end))


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
