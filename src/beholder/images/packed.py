"""A Parquet file with the pictures' bytes in it (Hugging Face, img2dataset, any) in, blocks of them out, a few MB at a time."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beholder import storage
from beholder.columns import PictureReason
from beholder.errors import DamagedError, InputError
from beholder.images.fetch_bytes import too_many_bytes
from beholder.images.labels import block_labels, is_heavy, passed_columns, renames, valid_text
from beholder.images.magic import is_picture
from beholder.images.picture import PictureBlock, PicturePart, PictureRef, SourceOptions
from beholder.images.picture_columns import Columns, choose, is_bytes
from beholder.images.tar_members import MOST_MEMBER_BYTES

_MOST_ROWS = 256


def columns_of_parquet(path: str, options: SourceOptions) -> tuple[Columns, pa.Schema]:
    """Which columns of a Parquet file are what. Raises InputError when none holds pictures or places of pictures."""
    with storage.remote_errors(path), storage.open_parquet(path, streamed=True) as file:
        schema = file.schema_arrow

        def first_value(name: str) -> object:
            """Of the first rows; None where they are all null, or the file is damaged (which reading it will tell)."""
            try:
                batch = next(file.iter_batches(batch_size=16, columns=[name]), None)
            except DamagedError:
                return None
            return next((value.as_py() for value in batch.column(0) if value.is_valid), None) if batch else None

        return choose(schema, options.picture_column, options.sample_column, first_value, is_picture, path), schema


class PackedReader:
    """Reads Parquet with bytes. `sample`: the sample column, else the path in the struct, else "<part name>:<row>".

    A null picture is an error; of a struct, the bytes count first, then the path (relative to the file's folder).
    """

    def inspect(self, path: str, name: str, options: SourceOptions) -> PicturePart:
        """Choose the columns. Raises InputError when no column holds pictures."""
        columns, schema = columns_of_parquet(path, options)
        if columns.kind != "parquet":
            raise InputError(f"{path} holds no pictures but paths or URLs (column {columns.picture!r})")
        num_bytes = storage.size(path)
        with storage.remote_errors(path), storage.open_parquet(path) as file:
            metadata = file.metadata
        cuts, at = [], 0
        for group in range(metadata.num_row_groups - 1):
            at += metadata.row_group(group).num_rows
            cuts.append(at)
        identity = {"bytes": num_bytes, "contents": storage.content_sample(path, num_bytes)}
        light = pa.schema([f for f in schema if f.name != columns.picture and not is_heavy(f.type)])
        detail = {**asdict(columns), "columns": light.names, "schema": light}
        return PicturePart(path, name, "parquet", metadata.num_rows, num_bytes, identity, tuple(cuts), detail=detail)

    def blocks(self, part: PicturePart, start: int, stop: int | None, options: SourceOptions) -> Iterator[PictureBlock]:
        """Pictures [start, stop), from the row group that holds `start`. Rows of a damaged row group are errors."""
        total = part.num_rows or 0
        stop = total if stop is None else min(stop, total)
        detail = part.detail
        passed = passed_columns(detail["columns"], detail["sample"], options)
        wanted = list(dict.fromkeys([detail["picture"], *([detail["sample"]] if detail["sample"] else []), *passed]))
        wanted += ["error_message"] if "error_message" in detail["columns"] and "error_message" not in wanted else []
        with storage.remote_errors(part.path), storage.open_parquet(part.path, streamed=True) as file:
            names = sample_names(part, file)
            groups, at = storage.covering_row_groups(file.metadata, start, stop)
            for group in groups:
                for first, batch in _batches(file, group, at, wanted, detail["picture"], options):
                    low, high = max(start, first), min(stop, first + batch.num_rows)
                    if high > low:
                        yield _block(part, batch.slice(low - first, high - low), low, names, passed, options)
                at += file.metadata.row_group(group).num_rows


def sample_names(
    part: PicturePart, file: pq.ParquetFile, finish: Callable[[pa.ChunkedArray], pa.ChunkedArray] | None = None
) -> dict[int, str]:
    """New names of rows whose own name (after `finish`) is null or taken; found once by reading the names alone."""
    known: dict[int, str] | None = part.detail.get("renames")
    if known is None:
        name = part.detail["sample"]
        column = f"{part.detail['picture']}.path" if name is None and _has_path(part, file) else name
        known = {}
        if column is not None:
            try:
                table = file.read(columns=[column])
            except DamagedError as error:
                raise InputError(f"{part.path} is damaged: the names of its pictures cannot be read ({error.why})") from None
            values = table.column(0)
            if name is None:
                values = pa.chunked_array([_path_field(chunk) for chunk in values.chunks], pa.large_string())
            values = as_text(values, part, column)
            known = renames(values if finish is None else finish(values), lambda row: f"{part.name}:{row}")
        part.detail["renames"] = known
    return known


def _path_field(column: pa.StructArray) -> pa.Array:
    path = pc.struct_field(column, "path").cast(pa.large_string())
    return pc.if_else(pc.is_valid(column), path, pa.scalar(None, pa.large_string()))


def as_text(values: pa.ChunkedArray, part: PicturePart, column: str) -> pa.ChunkedArray:
    """A column of names as large_string. Raises InputError when it holds none."""
    try:
        return values.cast(pa.large_string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise InputError(
            f"{part.path}: column {column!r} ({values.type}) does not hold names as text; choose another --sample-column"
        ) from None


def _has_path(part: PicturePart, file: pq.ParquetFile) -> bool:
    kind = file.schema_arrow.field(part.detail["picture"]).type
    return bool(part.detail["is_struct"] and kind.get_field_index("path") >= 0)


def _batches(
    file: pq.ParquetFile, group: int, first: int, wanted: list[str], picture: str, options: SourceOptions
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(first row, batch) of a row group, few enough rows for a block; rows that cannot be decoded come as nulls."""
    metadata = file.metadata.row_group(group)
    num_rows = metadata.num_rows
    bytes_a_row = metadata.total_byte_size / max(1, num_rows)
    rows = max(1, min(options.block_rows, _MOST_ROWS, int(options.block_bytes / max(1.0, bytes_a_row))))
    at = first
    try:
        for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=wanted):
            yield at, batch
            at += batch.num_rows
    except DamagedError as error:
        rest = _without_pictures(file, group, wanted, picture).replace_schema_metadata({"damage": error.why})
        for batch in rest.slice(at - first).combine_chunks().to_batches(max_chunksize=rows):
            yield at, batch
            at += batch.num_rows


def _without_pictures(file: pq.ParquetFile, group: int, wanted: list[str], picture: str) -> pa.Table:
    """A row group with nulls for its pictures, and for all else that cannot be decoded."""
    num_rows = file.metadata.row_group(group).num_rows
    columns = {}
    for name in wanted:
        columns[name] = pa.nulls(num_rows, file.schema_arrow.field(name).type)
        if name != picture:
            with contextlib.suppress(DamagedError):  # its nulls are said to be damage
                columns[name] = file.read_row_group(group, columns=[name]).column(0)
    return pa.table(columns)


def _block(
    part: PicturePart, batch: pa.RecordBatch, first: int, names: dict[int, str], passed: list[str], options: SourceOptions
) -> PictureBlock:
    detail = part.detail
    damage = (batch.schema.metadata or {}).get(b"damage")
    pictures = _cells(batch.column(batch.schema.get_field_index(detail["picture"])))
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    notes = columns["error_message"].to_pylist() if "error_message" in columns else []
    refs, samples = [], []
    given = columns[detail["sample"]] if detail["sample"] else None
    texts = as_text(pa.chunked_array([given]), part, detail["sample"]).to_pylist() if given is not None else None
    for i, picture in enumerate(pictures):
        if damage is not None:
            refs.append(PictureRef(error=(PictureReason.UNREADABLE, f"the Parquet file is damaged here: {damage.decode()}")))
        else:
            refs.append(_ref(picture, part.path, notes[i] if notes else None))
        own = texts[i] if texts is not None else picture.get("path") if isinstance(picture, dict) else None
        fallback = own if own is not None else f"{part.name}:{first + i}"
        samples.append(valid_text(names.get(first + i, fallback)))
    return PictureBlock(refs, block_labels(samples, {name: columns[name] for name in passed}, options))


def _cells(column: pa.Array) -> list[Any]:
    """The cells of the picture column as Python has them; bytes that are too many for a picture only as their number."""
    data = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
    if not is_bytes(data.type):
        return list(column.to_pylist())
    lengths = _lengths(data)
    if not (lengths > MOST_MEMBER_BYTES).any():
        return list(column.to_pylist())
    cells: list[Any] = []
    for row, length in enumerate(lengths):
        if length <= MOST_MEMBER_BYTES:
            cells.append(column[row].as_py())
        elif data is column:
            cells.append(int(length))
        else:
            cells.append({"bytes": int(length), "path": column[row]["path"].as_py() if _has_field(column, "path") else None})
    return cells


def _lengths(data: pa.Array) -> npt.NDArray[np.int64]:
    """Bytes of each value of a column of bytes, 0 for null."""
    if not pa.types.is_binary_view(data.type):
        return np.asarray(pc.fill_null(pc.binary_length(data), 0)).astype(np.int64)
    views = np.frombuffer(data.buffers()[1], np.int32).reshape(-1, 4)  # the first of four numbers is the length
    found = views[data.offset : data.offset + len(data), 0]
    return np.where(data.is_valid().to_numpy(zero_copy_only=False), found, 0).astype(np.int64)


def _has_field(column: pa.Array, name: str) -> bool:
    return bool(column.type.get_field_index(name) >= 0)


def _ref(picture: Any, file_path: str, note: Any) -> PictureRef:
    """Where one cell's picture is."""
    data, path = (picture.get("bytes"), picture.get("path")) if isinstance(picture, dict) else (picture, None)
    if isinstance(data, int):
        return PictureRef(error=too_many_bytes(data, MOST_MEMBER_BYTES))
    if data is not None:
        return PictureRef(data=data)
    if path:
        if "://" not in path and not path.startswith("/"):
            path = posixpath.join(posixpath.dirname(file_path), path)
        return PictureRef(path=path)
    text = f"the picture is null ({note})" if note else "the picture is null"
    return PictureRef(error=(PictureReason.MISSING, text))
