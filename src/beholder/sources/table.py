"""Reader of lists (.txt), CSV, JSON and Parquet tables of paths or URLs, with their other columns."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beholder.columns import PictureReason
from beholder.errors import InputError
from beholder.io import locations, remote, storage
from beholder.io.schemas import common_schema, fit_table, schema_of
from beholder.io.tables import JSON_SUFFIXES, decoded, open_table, read_objects
from beholder.sources.column_choice import Columns, choose
from beholder.sources.file_kinds import PARQUET_SUFFIXES, is_written_out, picture_of_text, suffix_of, without_written_out
from beholder.sources.folder import prefix_of
from beholder.sources.labels import block_labels, column_of, names_as_text, passable, passed_columns, renames
from beholder.sources.parquet import columns_of_parquet, first_values, sample_names
from beholder.sources.reader import PictureBlock, PicturePart, PictureRef, SourceOptions

PLACE = "path"
"""The only column of a .txt list."""
_TRIED_PLACES = 8
_LIST_HINT = "a list holds one path or URL a line, in UTF-8"


class TableReader:
    """Reads tables of places. `sample`: the sample column (sample, key), else the path or URL as it is opened.

    A relative path counts from the current folder, as everywhere; in a table where none of the first few is there but one
    is below the table's own folder, all count from that. Relative paths in remote tables count from their folder.
    Rows of the same name get `#2`, `#3`, ...; nulls in the picture column are errors. CSV and JSON tables are held in memory.
    Places that are pictures themselves (base64 text, `data:` addresses) are taken as such; they are no names and no labels.
    """

    def inspect(self, path: str, name: str, options: SourceOptions) -> PicturePart:
        """Choose the columns. Raises InputError when no column holds places of pictures, or there is no row."""
        num_bytes = storage.size(path)
        contents = storage.content_sample(path, num_bytes)
        is_parquet = suffix_of(path) in PARQUET_SUFFIXES or storage.read_range(path, 0, 4) == b"PAR1"
        if is_parquet:
            columns, schema = columns_of_parquet(path, options)
            with remote.read_errors(path), storage.open_parquet(path) as file:
                num_rows, first = file.metadata.num_rows, list(first_values(file, columns.picture, _TRIED_PLACES))
        else:
            table = _load(path, num_bytes, contents)
            schema, num_rows = schema_of(table), table.num_rows
            columns = _choose(table, path, options)
            if columns.is_list or columns.is_struct:
                raise InputError(f"{path}: column {columns.picture!r} holds no paths, URLs or pictures as text")
            columns = replace(columns, kind="table")
            first = table.column(columns.picture).drop_null().slice(0, _TRIED_PLACES).to_pylist()
        if num_rows == 0:
            raise InputError(f"{path} lists nothing: expected one picture a row")
        is_written = any(isinstance(place, str) and is_written_out(place) for place in first)
        light = passable(schema, columns.picture) if is_written else passable(schema)
        detail = {
            **asdict(columns),
            "columns": light.names,
            "schema": light,
            "base": _base(path, first),
            "is_parquet": is_parquet,
        }
        identity = {"bytes": num_bytes, "contents": contents}
        return PicturePart(path, name, "table", num_rows, 0, identity, detail=detail)

    def blocks(self, part: PicturePart, start: int, stop: int | None, options: SourceOptions) -> Iterator[PictureBlock]:
        """Pictures [start, stop), by path or URL; no picture is opened."""
        total = part.num_rows or 0
        stop = total if stop is None else min(stop, total)
        for first, rows, names in _stretches(part, start, stop, options):
            for at in range(0, rows.num_rows, options.block_rows):
                yield _block(part, rows.slice(at, options.block_rows), first + at, names, options)


def _stretches(
    part: PicturePart, start: int, stop: int, options: SourceOptions
) -> Iterator[tuple[int, pa.Table, dict[int, str]]]:
    """(first row, rows, new names) of stretches of the rows [start, stop)."""
    detail = part.detail
    if not detail["is_parquet"]:
        table = _load(part.path, part.identity["bytes"], part.identity["contents"])
        if detail.get("renames") is None:
            detail["renames"] = renames(_names(table, part), lambda row: f"{part.name}:{row}")
        yield start, table.slice(start, max(0, stop - start)), detail["renames"]
        return
    wanted = list(
        dict.fromkeys([detail["picture"], detail["sample"], *passed_columns(detail["columns"], detail["sample"], options)])
    )
    with remote.read_errors(part.path), storage.open_parquet(part.path, streamed=True) as file:
        names = sample_names(part, file, lambda values: _finished(values, part))
        groups, at = storage.covering_row_groups(file.metadata, start, stop)
        batches = (batch for group in groups for batch in file.iter_batches(8192, [group], wanted))
        for first, rows in storage.rows_within(batches, at, start, stop):
            yield first, pa.Table.from_batches([rows]), names


def _block(part: PicturePart, rows: pa.Table, first: int, names: dict[int, str], options: SourceOptions) -> PictureBlock:
    detail = part.detail
    written = names_as_text(rows.column(detail["picture"]), part.path, detail["picture"])
    places = _joined(written, detail["base"])
    empty = PictureRef(error=(PictureReason.MISSING, f"column {detail['picture']!r} is empty in this row"))
    refs = [_ref(text, place, empty) for text, place in zip(written.to_pylist(), places.to_pylist(), strict=True)]
    texts = _names(rows, part).to_pylist()
    samples = [names.get(first + i, text) for i, text in enumerate(texts)]
    labels = {name: rows.column(name) for name in passed_columns(detail["columns"], detail["sample"], options)}
    if detail["picture"] in labels:
        labels[detail["picture"]] = without_written_out(labels[detail["picture"]])
    return PictureBlock(refs, block_labels(samples, labels, options))


def _ref(text: str | None, place: str | None, empty: PictureRef) -> PictureRef:
    """The picture that one row names, or is."""
    if text is None or not text.strip():
        return empty
    return picture_of_text(text) if is_written_out(text) else PictureRef(path=place)


def _names(rows: pa.Table, part: PicturePart) -> pa.ChunkedArray:
    """The rows' own names (large_string), null where they have none."""
    sample = part.detail["sample"]
    if sample is None:
        return pa.chunked_array([pa.nulls(rows.num_rows, pa.large_string())])
    return _finished(names_as_text(rows.column(sample), part.path, sample), part)


def _finished(values: pa.ChunkedArray, part: PicturePart) -> pa.ChunkedArray:
    """Names as they are written: of a table that is named by its places, these as they are opened."""
    values = without_written_out(values)
    return _joined(values, part.detail["base"]) if part.detail["sample"] == part.detail["picture"] else values


def _joined(places: pa.ChunkedArray, base: str) -> pa.ChunkedArray:
    """Places as they are opened: `base` before the relative ones; blank ones stay as they are."""
    if not base:
        return places
    is_whole = pc.match_substring_regex(places, pattern=r"^[/~]|://|^\s*$")
    joined = pc.binary_join_element_wise(pa.scalar(base, pa.large_string()), places, pa.scalar("", pa.large_string()))
    return pc.if_else(is_whole, places, joined)


def _base(path: str, first: Sequence[Any]) -> str:
    """What stands before the relative paths of a table: nothing, or its folder."""
    folder = posixpath.dirname(path)
    folder = f"{folder}/" if folder not in ("", "/") else folder
    texts = [str(place) for place in first if place and not is_written_out(str(place))]
    relative = [text for text in texts if "://" not in text and not text.startswith(("/", "~"))]
    if not locations.is_local(path):
        return folder
    if not relative or not folder or any(storage.is_there(place) for place in relative):
        return ""
    base = prefix_of(folder)
    return base if any(storage.is_there(base + place) for place in relative) else ""


def _choose(table: pa.Table, path: str, options: SourceOptions) -> Columns:
    if suffix_of(path) == "txt":
        if options.picture_column not in (None, PLACE) or options.sample_column not in (None, PLACE):
            raise InputError(f"{path} is a plain list and has no columns; use a CSV or Parquet table")
        return Columns("table", PLACE, False, PLACE)

    def first_value(name: str) -> object:
        return next((value for value in table.column(name).slice(0, 64).to_pylist() if value is not None), None)

    return choose(table.schema, options.picture_column, options.sample_column, first_value, path)


@lru_cache(maxsize=1)
def _load(path: str, num_bytes: int, contents: str) -> pa.Table:
    """A list, CSV or JSON file as a table. The last one is kept, as every shard of it asks again."""
    if suffix_of(path) == "txt":
        return pa.table({PLACE: _parse_list(storage.read_range(path, 0, num_bytes), path)})
    if suffix_of(path) in JSON_SUFFIXES:
        return _json_table(path)
    with open_table(path, {}, empty_is_null=True) as (schema, batches):
        return pa.Table.from_batches(batches, schema)


def _json_table(path: str) -> pa.Table:
    """All rows of JSON lines; a field that some rows lack is null there, and values of several types are text."""
    pieces = []
    for rows in read_objects(path):
        names = dict.fromkeys(name for row in rows for name in row)
        pieces.append(pa.table({name: column_of([row.get(name) for row in rows]) for name in names}))
    schema = common_schema(piece.schema for piece in pieces)
    return pa.concat_tables([fit_table(piece, schema)[0] for piece in pieces]) if pieces else pa.table({})


def read_list(path: str) -> pa.Array:
    """Entries of a `.txt` list: one a line, without blank ones and those that begin with `#`. Raises InputError."""
    return _parse_list(storage.read_range(path, 0, storage.size(path)), path)


def _parse_list(data: bytes, path: str) -> pa.Array:
    text = decoded(data, path, _LIST_HINT)
    lines = pc.utf8_trim_whitespace(pa.array(text.split("\n"), pa.large_string()))
    lines = lines.filter(pc.and_(pc.not_equal(lines, ""), pc.invert(pc.starts_with(lines, "#"))))
    if not len(lines):
        raise InputError(f"{path} lists nothing: expected one path or URL a line")
    return lines
