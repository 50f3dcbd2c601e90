"""Readers of Parquet files with pictures in them, and of Parquet files with embeddings."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beholder.columns import PictureReason, RowStatus
from beholder.errors import DamagedError, InputError, OversizedError
from beholder.io import remote, storage
from beholder.io.schemas import group_bytes, is_list, is_text, num_rows_of
from beholder.io.storage import covering_row_groups, open_parquet, rows_within
from beholder.io.stream import read_ahead
from beholder.kernels import ColumnBlock, Embeddings
from beholder.sources.column_choice import (
    VECTOR_NAMES,
    Columns,
    choose,
    choose_embedding_columns,
    fixed_size,
    is_byte_strings,
    is_numbers,
    list_values,
)
from beholder.sources.fetch import too_many_bytes
from beholder.sources.file_kinds import is_written_out, picture_of_text, without_written_out
from beholder.sources.labels import (
    block_labels,
    choose_label_columns,
    names_as_text,
    passable,
    passed_columns,
    renames,
    select_labels,
    valid_text,
)
from beholder.sources.reader import Block, Part, PictureBlock, PicturePart, PictureRef, ReadOptions, SourceOptions
from beholder.sources.tar_file import MOST_MEMBER_BYTES

_MOST_ROWS = 256
_INSIDE = "\0place in the list"
"""A column of batches: where in its list a picture stood. No column of a file is called so."""


def columns_of_parquet(path: str, options: SourceOptions) -> tuple[Columns, pa.Schema]:
    """Which columns of a Parquet file are what. Raises InputError when none holds pictures or places of pictures."""
    with remote.read_errors(path), storage.open_parquet(path, streamed=True) as file:
        found = columns_in(file, path, options)
        return found, file.schema_with_ranges(None if "*" in options.columns else options.columns)


def columns_in(file: pq.ParquetFile, path: str, options: SourceOptions) -> Columns:
    """The same of an opened file."""

    def first_value(name: str) -> object:
        return next(first_values(file, name), None)

    return choose(file.schema_arrow, options.picture_column, options.sample_column, first_value, path)


def first_values(file: pq.ParquetFile, name: str, num_rows: int = 16) -> Iterator[Any]:
    """The values of a column in the first rows without nulls; none of a damaged file, of which reading it will tell."""
    try:
        batch = next(file.iter_batches(batch_size=num_rows, columns=[name]), None)
    except DamagedError:
        return
    yield from (value.as_py() for value in (batch.column(0) if batch else ()) if value.is_valid)


class PackedReader:
    """Reads Parquet with bytes. `sample`: the sample column, else the path in the struct, else "<part name>:<row>".

    A null picture is an error; of a struct, the bytes count first, then the path (relative to the file's folder). Bytes may
    be written as base64 text, `data:` addresses or whole numbers. Where a cell is a list of pictures, they are rows of their
    own: "<sample>/0", "<sample>/1", ...; an empty list counts as one null.
    """

    def inspect(self, path: str, name: str, options: SourceOptions) -> PicturePart:
        """Choose the columns. Raises InputError when no column holds pictures."""
        columns, schema = columns_of_parquet(path, options)
        num_bytes = storage.size(path)
        with remote.read_errors(path), storage.open_parquet(path, streamed=columns.is_list) as file:
            metadata = file.metadata
            firsts = _first_pictures(file, columns) if columns.is_list else None
        starts = _group_starts(metadata)
        if firsts is not None:
            starts = [int(firsts[row]) for row in starts]
        identity = {"bytes": num_bytes, "contents": storage.content_sample(path, num_bytes)}
        light = passable(schema, columns.picture)
        detail = {**asdict(columns), "columns": light.names, "schema": light, "firsts": firsts}
        return PicturePart(path, name, "parquet", starts[-1], num_bytes, identity, _cuts(starts), detail=detail)

    def blocks(self, part: PicturePart, start: int, stop: int | None, options: SourceOptions) -> Iterator[PictureBlock]:
        """Pictures [start, stop), from the row group that holds `start`. Rows of a damaged row group are errors."""
        total = part.num_rows or 0
        stop = total if stop is None else min(stop, total)
        detail = part.detail
        passed = passed_columns(detail["columns"], detail["sample"], options)
        wanted = list(dict.fromkeys([detail["picture"], *([detail["sample"]] if detail["sample"] else []), *passed]))
        wanted += ["error_message"] if "error_message" in detail["columns"] and "error_message" not in wanted else []
        with remote.read_errors(part.path), storage.open_parquet(part.path, streamed=True) as file:
            names = sample_names(part, file)
            rows = (start, stop) if detail["firsts"] is None else _rows_with(detail["firsts"], start, stop)
            groups, at = storage.covering_row_groups(file.metadata, *rows)
            for group in groups:
                for first, batch in _picture_batches(file, group, at, wanted, detail["picture"], options):
                    if detail["firsts"] is not None:
                        first, batch = _one_a_row(batch, first, detail)
                    low, high = max(start, first), min(stop, first + batch.num_rows)
                    if high > low:
                        yield _block(part, batch.slice(low - first, high - low), low, names, passed, options)
                at += file.metadata.row_group(group).num_rows


def _group_starts(metadata: pq.FileMetaData) -> list[int]:
    """The first row of each row group, and the number of all rows."""
    return [0, *accumulate(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))]


def _cuts(starts: Sequence[int]) -> tuple[int, ...]:
    """Where a part may be cut, by what `_group_starts` gives; row groups can be empty."""
    return tuple(dict.fromkeys(start for start in starts if 0 < start < starts[-1]))


def _first_pictures(file: pq.ParquetFile, columns: Columns) -> npt.NDArray[np.int64]:
    """(N + 1,) int64: the number of the first picture of each row of a column of lists, and how many pictures there are.

    Empty lists and nulls count as one picture, which is missing, so that no row gets lost. Where the lists hold structs with
    a path, only the paths are read.
    """
    wanted = (_path_leaf(file, columns.picture) if columns.is_struct else None) or columns.picture
    lengths = [np.zeros(1, np.int64)]
    for batch in file.iter_batches(batch_size=_MOST_ROWS, columns=[wanted]):
        lengths.append(np.maximum(_list_lengths(batch.column(0)), 1))
    return np.cumsum(np.concatenate(lengths))


def _list_lengths(lists: pa.Array) -> npt.NDArray[np.int64]:
    """How many values each list holds, 0 for null."""
    return np.asarray(pc.list_value_length(lists).fill_null(0)).astype(np.int64)


def _flattened(lists: pa.Array) -> pa.Array:
    """The values of lists one after another, a null for each list without any."""
    lengths, values = _list_lengths(lists), lists.flatten()
    if lengths.all():
        return values
    starts = np.concatenate([[0], np.cumsum(np.maximum(lengths, 1))])[:-1]
    places = np.full(int(np.maximum(lengths, 1).sum()), -1, np.int64)
    is_value = np.ones(len(places), bool)
    is_value[starts[lengths == 0]] = False
    places[is_value] = np.arange(len(values))
    return values.take(pa.array(places, mask=~is_value))


def _path_leaf(file: pq.ParquetFile, picture: str) -> str | None:
    """What Parquet calls the paths in a column of lists of structs: "images.list.element.path", or as its writer has it."""
    leaves = [file.schema.column(i).path for i in range(file.metadata.num_columns)]
    return next((leaf for leaf in leaves if leaf.startswith(f"{picture}.") and leaf.endswith(".path")), None)


def _rows_with(firsts: npt.NDArray[np.int64], start: int, stop: int) -> tuple[int, int]:
    """Rows [first, end) that hold the pictures [start, stop)."""
    first = int(np.searchsorted(firsts, start, side="right")) - 1
    return first, max(first, int(np.searchsorted(firsts, stop, side="left")))


def _one_a_row(batch: pa.RecordBatch, first: int, detail: dict[str, Any]) -> tuple[int, pa.RecordBatch]:
    """Rows of lists as rows of one picture each, and the number of the first; `_INSIDE`: the place of each in its list."""
    firsts: npt.NDArray[np.int64] = detail["firsts"]
    counts = np.diff(firsts[first : first + batch.num_rows + 1])
    parents = pa.array(np.repeat(np.arange(batch.num_rows), counts))
    at = batch.schema.get_field_index(detail["picture"])
    lists = batch.column(at)
    is_damaged = (batch.schema.metadata or {}).get(b"damage") is not None
    pictures = pa.nulls(len(parents), lists.type.value_type) if is_damaged else _flattened(lists)
    if len(pictures) != len(parents):
        raise InputError("the lists of pictures have other lengths than when the run was planned; run the same command again")
    columns = {
        name: column.take(parents)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
        if name != detail["picture"]
    }
    inside = np.arange(len(parents)) - np.repeat(firsts[first : first + batch.num_rows] - firsts[first], counts)
    table = {**columns, detail["picture"]: pictures, _INSIDE: pa.array(inside)}
    flat = pa.RecordBatch.from_pydict(table)
    return int(firsts[first]), flat.replace_schema_metadata(batch.schema.metadata)


def sample_names(
    part: PicturePart, file: pq.ParquetFile, finish: Callable[[pa.ChunkedArray], pa.ChunkedArray] | None = None
) -> dict[int, str]:
    """New names of rows whose own name (after `finish`) is null or taken; found once by reading the names alone."""
    known: dict[int, str] | None = part.detail.get("renames")
    if known is None:
        values = own_names(part, file)
        known = {}
        if values is not None:
            known = renames(values if finish is None else finish(values), lambda row: row_name(part, row))
        part.detail["renames"] = known
    return known


def own_names(part: PicturePart, file: pq.ParquetFile) -> pa.ChunkedArray | None:
    """The names that the file has for its pictures (large_string, null where it has none); None: it has no names at all.

    Only the names are read. Raises InputError.
    """
    detail = part.detail
    name, firsts = detail["sample"], detail.get("firsts")
    if name is None and not _has_path(part, file):
        return None
    column = name or f"{detail['picture']}.path"
    leaf = column if name or firsts is None else _path_leaf(file, detail["picture"])
    try:
        values = file.read(columns=[leaf]).column(0)
    except DamagedError as error:
        raise InputError(f"{part.path} is damaged: the names of its pictures cannot be read ({error.why})") from None
    if name is None:
        chunks = values.chunks if firsts is None else [_flattened(chunk) for chunk in values.chunks]
        return pa.chunked_array([_path_field(chunk) for chunk in chunks], pa.large_string())
    texts = without_written_out(names_as_text(values, part.path, column))
    if firsts is None:
        return texts
    counts = np.diff(firsts)
    inside = np.arange(firsts[-1]) - np.repeat(firsts[:-1], counts)
    return _with_number(texts.take(pa.array(np.repeat(np.arange(len(counts)), counts))), inside)


def _with_number(names: Any, inside: npt.NDArray[np.int64]) -> Any:
    """Names of pictures in lists: "<name>/<place in the list>"."""
    return pc.binary_join_element_wise(names, pa.array(inside).cast(pa.large_string()), pa.scalar("/", pa.large_string()))


def row_name(part: PicturePart, number: int) -> str:
    """The name of a picture that has none of its own."""
    firsts = part.detail.get("firsts")
    if firsts is None:
        return f"{part.name}:{number}"
    row = int(np.searchsorted(firsts, number, side="right")) - 1
    return f"{part.name}:{row}/{number - int(firsts[row])}"


def _path_field(column: pa.StructArray) -> pa.Array:
    path = without_written_out(pc.struct_field(column, "path").cast(pa.large_string()))
    return pc.if_else(pc.is_valid(column), path, pa.scalar(None, pa.large_string()))


def _has_path(part: PicturePart, file: pq.ParquetFile) -> bool:
    if not part.detail["is_struct"]:
        return False
    kind = file.schema_arrow.field(part.detail["picture"]).type
    kind = kind.value_type if is_list(kind) else kind
    at = kind.get_field_index("path")
    return bool(at >= 0 and is_text(kind.field(at).type))


def _picture_batches(
    file: pq.ParquetFile, group: int, first: int, wanted: list[str], picture: str, options: SourceOptions
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(first row, batch) of a row group, few enough rows for a block; rows that cannot be decoded come as nulls."""
    metadata = file.metadata.row_group(group)
    num_rows = metadata.num_rows
    bytes_a_row = metadata.total_byte_size / max(1, num_rows)
    rows = max(1, min(options.block_rows, _MOST_ROWS, int(options.block_bytes / max(1.0, bytes_a_row))))
    at = first
    try:
        for batch in file.iter_batches(rows, [group], wanted, most_bytes=options.block_bytes):
            yield at, batch
            at += batch.num_rows
    except DamagedError as error:
        what = "unpacks to too much" if isinstance(error, OversizedError) else "is damaged here"
        rest = _without_pictures(file, group, wanted, picture).replace_schema_metadata({"damage": f"{what}: {error.why}"})
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
    texts = None
    if given is not None:
        own = without_written_out(names_as_text(pa.chunked_array([given]), part.path, detail["sample"])).combine_chunks()
        texts = (_with_number(own, columns[_INSIDE].to_numpy()) if _INSIDE in columns else own).to_pylist()
    for i, picture in enumerate(pictures):
        if damage is not None:
            refs.append(PictureRef(error=(PictureReason.UNREADABLE, f"the Parquet file {damage.decode()}")))
        else:
            refs.append(_ref(picture, part.path, notes[i] if notes else None))
        own = texts[i] if texts is not None else picture.get("path") if isinstance(picture, dict) else None
        if not isinstance(own, str) or (texts is None and is_written_out(own)):
            own = row_name(part, first + i)
        samples.append(valid_text(names.get(first + i, own)))
    return PictureBlock(refs, block_labels(samples, {name: columns[name] for name in passed}, options))


def _cells(column: pa.Array) -> list[Any]:
    """The cells of the picture column as Python has them; in place of bytes that are too many for a picture, what is wrong."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if is_numbers(column.type):
        return list(_bytes_of_numbers(column))
    data = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
    if not is_byte_strings(data.type):
        return list(column.to_pylist())
    lengths = _lengths(data)
    if not (lengths > MOST_MEMBER_BYTES).any():
        return list(column.to_pylist())
    cells: list[Any] = []
    for row, length in enumerate(lengths):
        if length <= MOST_MEMBER_BYTES:
            cells.append(column[row].as_py())
            continue
        refused = PictureRef(error=too_many_bytes(int(length), MOST_MEMBER_BYTES))
        cells.append(refused if data is column else {"bytes": refused, "path": _path_in(column[row])})
    return cells


def _bytes_of_numbers(column: pa.Array) -> Iterator[bytes | PictureRef | None]:
    """The bytes that each cell's whole numbers are, or what is wrong with them; signed ones count from -128."""
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    values = column.flatten()
    numbers = values.fill_null(-129 if values.type.bit_width > 8 else 0).to_numpy(zero_copy_only=False)
    at = 0
    for is_valid, length in zip(column.is_valid().to_pylist(), lengths.tolist(), strict=True):
        found = numbers[at : at + length]
        at += length
        if not is_valid:
            yield None
        elif found.size and (found.min() < -128 or found.max() > 255):
            yield _NO_BYTES
        else:
            yield found.astype(np.uint8).tobytes() if found.dtype.itemsize > 1 else found.view(np.uint8).tobytes()


_NO_BYTES = PictureRef(error=(PictureReason.NOT_AN_IMAGE, "the cell's whole numbers are no bytes (0 to 255)"))


def _lengths(data: pa.Array) -> npt.NDArray[np.int64]:
    """Bytes of each value of a column of bytes, 0 for null."""
    if not pa.types.is_binary_view(data.type):
        return np.asarray(pc.fill_null(pc.binary_length(data), 0)).astype(np.int64)
    views = np.frombuffer(data.buffers()[1], np.int32).reshape(-1, 4)  # the first of four numbers is the length
    found = views[data.offset : data.offset + len(data), 0]
    return np.where(data.is_valid().to_numpy(zero_copy_only=False), found, 0).astype(np.int64)


def _path_in(cell: Any) -> str | None:
    """The path in a cell that is a struct, if it has one."""
    return cell["path"].as_py() if cell.type.get_field_index("path") >= 0 else None


def _ref(picture: Any, file_path: str, note: Any) -> PictureRef:
    """Where one cell's picture is."""
    data, path = (picture.get("bytes"), picture.get("path")) if isinstance(picture, dict) else (picture, None)
    if isinstance(data, list):
        (data,) = _bytes_of_numbers(pa.array([data], pa.list_(pa.int64())))
    if isinstance(data, PictureRef):
        return data
    if isinstance(data, str):
        is_place = data is picture and not is_written_out(data)
        data, path = (None, data) if is_place else (data, path)
    elif isinstance(path, str) and data is None and is_written_out(path):
        data = path
    if isinstance(data, str):
        return picture_of_text(data)
    if data is not None:
        return PictureRef(data=data)
    if path:
        if "://" not in path and not path.startswith("/"):
            path = posixpath.join(posixpath.dirname(file_path), path)
        return PictureRef(path=path)
    text = f"the picture is null ({note})" if note else "the picture is null"
    return PictureRef(error=(PictureReason.MISSING, text))


_MOST_FETCHED_BYTES = 64 << 20
_MOST_TOLD = 3


class ParquetReader:
    """Reads Parquet with a fixed-size-list, list, large-list or tensor column, or with one float column per dimension."""

    def inspect(self, path: str, name: str, options: ReadOptions) -> Part:
        """Choose the embedding column(s) from the schema; for lists of free length look at the first rows."""
        num_bytes = storage.size(path)
        with remote.read_errors(path), open_parquet(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            layout, names, value_type = _choose_layout(schema, options.embedding_column, path)
            if layout == "wide":
                dim = len(names)
            else:
                size = fixed_size(schema.field(names[0]).type)
                dim = _first_length(file, names[0], path) if size is None else size
            embedded = set(names)
            chosen = choose_label_columns((name for name in schema.names if name not in embedded), options, path)
            others = pa.schema([field for field in file.schema_with_ranges(chosen) if field.name not in embedded])
            file.check_dictionaries(columns=chosen)
            num_rows = metadata.num_rows
            largest = max((group_bytes(metadata.row_group(group)) for group in range(metadata.num_row_groups)), default=0)
        if dim < 0 or (dim == 0 and num_rows):
            raise InputError(f"{path}: the embeddings in column {names[0]!r} have no dimensions")
        dtype = _dtype_of(value_type)
        detail = {"layout": layout, "columns": names, "labels": others, "group_bytes": largest}
        cuts = _cuts(_group_starts(metadata))
        return Part(path, name, "parquet", num_rows, dim, dtype, num_bytes, cuts=cuts, detail=detail)

    def blocks(self, part: Part, start: int, stop: int | None, options: ReadOptions) -> Iterator[Block]:
        """Rows [start, stop); decoded by a thread of its own, a few batches ahead."""
        return read_ahead(_batches(part, start, part.num_rows if stop is None else stop, options), depth=1)


def _dtype_of(value_type: pa.DataType) -> str:
    """The dtype in which such numbers are scored; whole ones exactly."""
    if pa.types.is_float16(value_type):
        return "float16"
    is_wide = pa.types.is_float64(value_type) or (pa.types.is_integer(value_type) and value_type.bit_width > 16)
    return "float64" if is_wide else "float32"


def _choose_layout(schema: pa.Schema, wanted: str | None, path: str) -> tuple[str, list[str], pa.DataType]:
    """("list" or "wide", embedding column names, element type). Raises InputError when it is not clear."""
    lists = {field.name: values for field in schema if (values := list_values(field.type)) is not None}
    floats = [name for name, value_type in lists.items() if pa.types.is_floating(value_type)]
    whole = [name for name, value_type in lists.items() if pa.types.is_integer(value_type)]
    if wanted is not None and wanted in lists:
        if wanted not in floats and wanted not in whole:
            raise InputError(f"{path}: column {wanted!r} is {schema.field(wanted).type}, expected a list of floats")
        return _as_list(schema, wanted, path)
    if wanted is None and floats:
        preferred = [name for name in VECTOR_NAMES if name in floats] or floats
        if len(floats) > 1 and preferred is floats:
            raise InputError(f"{path}: which column holds the embeddings? Name it with --embedding-column: {', '.join(floats)}")
        return _as_list(schema, preferred[0], path)
    for name in [wanted] if wanted is not None else VECTOR_NAMES:
        if name in schema.names and name not in floats:
            hint = _whole_numbers(name) if name in whole else ""
            raise InputError(f"{path}: column {name!r} is {schema.field(name).type}, expected a list of floats{hint}")
    numeric = [pa.types.is_floating(field.type) for field in schema]
    try:
        names = choose_embedding_columns(schema.names, numeric, wanted, path)
    except InputError as error:
        if whole:
            kind = schema.field(whole[0]).type
            raise InputError(f"{path}: column {whole[0]!r} is {kind}, no list of floats{_whole_numbers(whole[0])}") from None
        odd = [
            f"{field.name!r} is {field.type}"
            for field in schema
            if (pa.types.is_nested(field.type) or list_values(field.type) is not None)
        ]
        raise InputError(f"{error}; column {', '.join(odd[:_MOST_TOLD])}" if odd else str(error)) from None
    types = {schema.field(name).type for name in names}
    odd = [name for name in names if not pa.types.is_floating(schema.field(name).type)]
    if odd:
        raise InputError(
            f"{path}: column {odd[0]!r} is {schema.field(odd[0]).type}; embeddings must be float16, float32 or float64"
        )
    return "wide", names, max(types, key=lambda kind: kind.bit_width)


def _as_list(schema: pa.Schema, name: str, path: str) -> tuple[str, list[str], pa.DataType]:
    """The layout of a list column. Raises InputError for tensors that are no vectors."""
    kind = schema.field(name).type
    shape = getattr(kind, "shape", None)
    if shape is not None and sum(length > 1 for length in shape) > 1:
        raise InputError(f"{path}: column {name!r} holds a tensor of shape {list(shape)} a row, expected a vector")
    value_type = list_values(kind)
    assert value_type is not None
    return "list", [name], value_type


def _whole_numbers(name: str) -> str:
    """What to do about a column of whole numbers."""
    return (
        ": whole numbers are quantised embeddings, whose scale is not known; convert them to floats with their scale, "
        f"or score them as they are with --embedding-column {name}"
    )


def _first_length(file: pq.ParquetFile, name: str, path: str) -> int:
    """Length of the first list that is neither null nor empty; 0 when there is none."""
    for batch in file.iter_batches(batch_size=1024, columns=[name]):
        lengths = pc.list_value_length(_storage(batch.column(0)))
        if pc.max(lengths).as_py():
            first = next(length for length in lengths.to_pylist() if length)
            return int(first)
    if file.metadata.num_rows:
        raise InputError(f"{path}: every embedding in column {name!r} is null or empty")
    return 0


def _batches(part: Part, start: int, stop: int | None, options: ReadOptions) -> Iterator[Block]:
    names: list[str] = part.detail["columns"]
    is_list, large = part.detail["layout"] == "list", part.detail["group_bytes"] > _MOST_FETCHED_BYTES
    with remote.read_errors(part.path), open_parquet(part.path, streamed=is_list and large) as file:
        others = [name for name in file.schema_arrow.names if name not in set(names)]
        labels = choose_label_columns(others, options, part.path)
        groups, at = covering_row_groups(file.metadata, start, stop)
        for low, rows in rows_within(_record_batches(file, groups, labels + names, part, options), at, start, stop):
            embeddings, statuses = _lists(rows, names[0], part) if is_list else _wide(rows, names)
            table = pa.Table.from_batches([rows.select(labels)])
            yield Block(embeddings, select_labels(table, part, low, low + rows.num_rows, options), statuses)


def _record_batches(
    file: pq.ParquetFile, groups: Sequence[int], names: list[str], part: Part, options: ReadOptions
) -> Iterator[pa.RecordBatch]:
    """Row groups in order: as a whole where one fits into a block, which decodes a quarter faster; else in batches."""
    row_bytes = part.dim * np.dtype(part.dtype).itemsize
    labels = set(names) - set(part.detail["columns"])
    for group in groups:
        metadata = file.metadata.row_group(group)
        label_bytes = group_bytes(metadata, labels)
        num_bytes = metadata.num_rows * row_bytes + label_bytes
        is_small = num_bytes <= options.block_bytes and label_bytes <= options.block_bytes // 8
        if is_small and file.fits([group], names):
            yield from file.read_row_group(group, columns=names).combine_chunks().to_batches()
            continue
        most = options.block_bytes // 8
        rows = min(max(1, most // row_bytes), num_rows_of(metadata, most, labels))
        yield from file.iter_batches(rows, [group], names, most_bytes=most)


def _storage(column: pa.Array) -> pa.Array:
    """The lists behind a column of tensors; others as they are."""
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _wide(batch: pa.RecordBatch, names: list[str]) -> tuple[Embeddings, npt.NDArray[np.uint8] | None]:
    missing: npt.NDArray[np.bool_] | None = None
    arrays: list[npt.NDArray[Any]] = []
    for name in names:
        column = batch.column(name)
        if column.null_count:
            nulls = column.is_null().to_numpy(zero_copy_only=False)
            missing = nulls if missing is None else missing | nulls
            column = column.fill_null(0)
        arrays.append(column.to_numpy(zero_copy_only=True))
    widest = max((array.dtype for array in arrays), key=lambda dtype: dtype.itemsize)
    if any(array.dtype != widest for array in arrays):
        arrays = [array.astype(widest) for array in arrays]
    statuses = None if missing is None else np.where(missing, RowStatus.MISSING, 0).astype(np.uint8)
    return ColumnBlock(tuple(arrays)), statuses


def _lists(batch: pa.RecordBatch, name: str, part: Part) -> tuple[Embeddings, npt.NDArray[np.uint8] | None]:
    column, dtype, dim = _storage(batch.column(name)), np.dtype(part.dtype), part.dim
    num_rows = len(column)
    values = column.flatten()  # without the lists that are null; heeds the slice, which `.values` does not
    if pa.types.is_integer(values.type):
        values = values.cast(pa.from_numpy_dtype(dtype), safe=False)
    if pa.types.is_fixed_size_list(column.type):
        lengths = np.full(num_rows, dim)
    else:
        lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    if not column.null_count and not values.null_count and bool((lengths == dim).all()):
        return values.to_numpy(zero_copy_only=True).reshape(num_rows, dim), None

    valid = column.is_valid().to_numpy(zero_copy_only=False)
    lengths = np.where(valid, lengths, 0)
    statuses = np.where(valid, np.where(lengths == dim, 0, RowStatus.WRONG_DIMENSION), RowStatus.MISSING).astype(np.uint8)
    null_at = values.is_null().to_numpy(zero_copy_only=False)
    flat = values.fill_null(0).to_numpy(zero_copy_only=False)
    starts = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    embeddings = np.zeros((num_rows, dim), dtype)
    for row in np.flatnonzero(statuses == 0):
        inside = slice(starts[row], starts[row] + dim)
        if null_at[inside].any():
            statuses[row] = RowStatus.MISSING
        else:
            embeddings[row] = flat[inside]
    return embeddings, statuses
