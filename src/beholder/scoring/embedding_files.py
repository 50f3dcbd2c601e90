"""Files of embeddings that other tools read as their own, written a shard at a time and joined at the end.

Layouts: clip-retrieval's folders of `.npy` and Parquet, one Parquet list column, birder's CSV and birder's Parquet. What made
the embeddings (the stamp) stands in the schema metadata of every Parquet file, under the key `beholder`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beholder import columns
from beholder.columns import EmbeddingDtype, EmbeddingFormat
from beholder.errors import InputError, OutputError
from beholder.io import storage
from beholder.io.schemas import common_schema, fit_table
from beholder.kernels.shortest import csv_lines
from beholder.scoring.options import LABEL, FolderLabels
from beholder.sources.embeddings.npy import check_array, read_header

EMBEDDING = "embedding"
IMAGE_PATH = "image_path"
STAMP_KEY = b"beholder"
LIST_GROUP_ROWS = 4096
"""Most rows of a row group with a list column: VDC 0.1.x misreads every row of a group beyond them (formats: VDC's reader)."""
WIDE_GROUP_ROWS = 16384
BIRDER_FORMATS: tuple[EmbeddingFormat, ...] = ("birder-csv", "birder-parquet")


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """How embeddings are written.

    Attributes:
        format: "npy": clip-retrieval's layout; "parquet": one fixed-size-list column `embedding`; "birder-csv",
            "birder-parquet": `sample`, then one column per dimension, named by its number.
        dtype: of the elements. Birder's layouts are float32.
        normalise: whether rows are divided by their length. Birder's layouts hold them as they are.
        is_bare: no other columns than `sample` (and `label`), as birder writes; birder's layouts always are.
        folders: birder's `--save-labels`: a column `label` follows `sample`; None: no such column.
    """

    format: EmbeddingFormat = "npy"
    dtype: EmbeddingDtype = "float16"
    normalise: bool = True
    is_bare: bool = False
    folders: FolderLabels | None = None

    def __post_init__(self) -> None:
        """Refuse what no reader would understand. Raises InputError."""
        if self.format not in get_args(EmbeddingFormat):
            raise InputError(f"--format {self.format}: choose one of {', '.join(get_args(EmbeddingFormat))}")
        if self.dtype not in get_args(EmbeddingDtype):
            raise InputError(f"--dtype {self.dtype}: choose one of {', '.join(get_args(EmbeddingDtype))}")
        if self.format in BIRDER_FORMATS and (self.dtype != "float32" or self.normalise):
            raise InputError(f"--format {self.format}: birder's files are float32 and not normalised; choose another format")

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Floats gain nothing from dictionaries and statistics, and next to nothing from compression."""
    texts = [field.name for field in schema if not _is_embedding(field)]
    return {
        "compression": {**dict.fromkeys(texts, "zstd"), **{_leaf(f): "none" for f in schema if _is_embedding(f)}},
        "use_dictionary": [name for name in texts if name not in (columns.SAMPLE, IMAGE_PATH)],
        "write_statistics": texts,
        "write_page_checksum": True,
    }


def stamped(schema: pa.Schema, stamp: Mapping[str, Any]) -> pa.Schema:
    """The schema with the stamp in its metadata, and nothing else there."""
    return schema.with_metadata({STAMP_KEY: json.dumps(stamp).encode()})


def group_rows(schema: pa.Schema) -> int:
    """Most rows of a row group in a file of this schema."""
    return LIST_GROUP_ROWS if any(pa.types.is_fixed_size_list(field.type) for field in schema) else WIDE_GROUP_ROWS


def _is_embedding(field: pa.Field) -> bool:
    is_wide = field.name.isdecimal() and pa.types.is_float32(field.type)
    return bool(is_wide or (field.name == EMBEDDING and pa.types.is_fixed_size_list(field.type)))


def _leaf(field: pa.Field) -> str:
    """The path of a column's values in Parquet."""
    return f"{field.name}.list.element" if pa.types.is_fixed_size_list(field.type) else field.name


_CSV_ROWS = 1024


def header(num_dimensions: int, *, with_label: bool) -> bytes:
    """The first line."""
    names = [columns.SAMPLE, *([LABEL] if with_label else []), *map(str, range(num_dimensions))]
    return (",".join(names) + "\n").encode()


def write_rows(out: IO[bytes], labels: pa.Table, embeddings: npt.NDArray[np.float32]) -> None:
    """Write one line a row: the sample (quoted as RFC 4180 wants it), the label if there is one, then the numbers.

    Numbers are the shortest decimals that read back as the same float32, in the style of polars: 5.0, 1e-7, NaN.

    Args:
        out: a binary file.
        labels: N rows with `sample`, and perhaps `label` (int64).
        embeddings: (N, D) float32.
    """
    texts = _quoted(labels.column(columns.SAMPLE))
    if LABEL in labels.column_names:
        numbers = pc.cast(labels.column(LABEL), pa.large_string())
        texts = pc.binary_join_element_wise(texts, numbers, pa.scalar(",", pa.large_string()))
    array = pa.array(texts.to_numpy(), pa.large_string()) if texts.num_chunks != 1 else texts.chunk(0)
    for low in range(0, len(embeddings), _CSV_ROWS):
        some = array.slice(low, _CSV_ROWS)
        offsets, data = _buffers(some)
        out.write(csv_lines(offsets, data, embeddings[low : low + _CSV_ROWS]).data)


def _buffers(array: pa.Array) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """Offsets (N + 1,) and bytes of a large_string array without nulls."""
    _, offsets, data = array.buffers()
    starts = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return starts, np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)


def _quoted(samples: pa.ChunkedArray) -> pa.ChunkedArray:
    """Quotes around values that hold a comma, quote or line break, or nothing; quotes inside doubled. Null is empty."""
    text = pc.fill_null(pc.cast(samples, pa.large_string()), "")
    needed = pc.or_(pc.match_substring_regex(text, '[",\r\n]'), pc.equal(text, ""))
    if not pc.any(needed).as_py():
        return text
    nothing, mark = pa.scalar("", pa.large_string()), pa.scalar('"', pa.large_string())
    wrapped = pc.binary_join_element_wise(nothing, pc.replace_substring(text, '"', '""'), nothing, mark)
    return pc.if_else(needed, wrapped, text)


__all__ = [
    "EmbeddingDtype",
    "EmbeddingFormat",
    "WriteOptions",
    "join_shards",
    "read_shard",
    "ready_rows",
    "shard_files",
    "write_shard",
]

_ROWS_AT_ONCE = 4096
_MOST_STRING_BYTES = 2**31 - 1


def ready_rows(embeddings: npt.NDArray[np.float32], options: WriteOptions) -> Iterator[npt.NDArray[Any]]:
    """Rows as they are written, up to 4096 at a time, in order: normalised in float64 if wanted, then rounded once.

    Rows of zeros stay zeros. Raises InputError for a value that float16 cannot hold.
    """
    for low in range(0, max(1, len(embeddings)), _ROWS_AT_ONCE):
        rows = embeddings[low : low + _ROWS_AT_ONCE]
        if options.normalise:
            wide = rows.astype(np.float64)
            lengths = np.sqrt(np.einsum("nd,nd->n", wide, wide))
            yield (wide / np.where(lengths == 0, 1, lengths)[:, None]).astype(options.dtype)
            continue
        with np.errstate(over="ignore"):
            ready = np.ascontiguousarray(rows, options.dtype)
        if options.dtype == "float16" and (lost := np.isinf(ready) & np.isfinite(rows)).any():
            row = low + int(np.flatnonzero(lost.any(axis=1))[0])
            raise InputError(f"row {row} holds a value beyond float16's 65504; choose --dtype float32, or normalised rows")
        yield ready


def shard_files(index: int, stem: str, options: WriteOptions) -> tuple[str, ...]:
    """The files that `write_shard` writes for these, relative to its folder."""
    if options.format == "npy":
        return f"{columns.IMAGES_FOLDER}/img_emb_{index:05d}.npy", f"{columns.METADATA_FOLDER}/metadata_{index:05d}.parquet"
    return (f"{columns.EMBEDDINGS_FOLDER}/{stem}.{'csv' if options.format == 'birder-csv' else 'parquet'}",)


def write_shard(
    folder: Path,
    index: int,
    stem: str,
    embeddings: npt.NDArray[np.float32],
    labels: pa.Table,
    options: WriteOptions,
    stamp: Mapping[str, Any],
    *,
    are_ready: bool = False,
) -> dict[str, int]:
    """Write one shard, every file whole or not at all. Without rows "npy" writes nothing: readers would pair parts wrongly.

    Args:
        folder: the embedding set's folder.
        index: number of the part in clip-retrieval's layout, from 0 without gaps.
        stem: file stem of the part in the other layouts.
        embeddings: (N, D) float32, not normalised; or rows that `ready_rows` gave.
        labels: N rows, `sample` first. Birder's layouts take `sample` only.
        options: layout, dtype, whether rows are normalised.
        stamp: JSON-ready; for the schema metadata of Parquet files.
        are_ready: whether the embeddings are rows as they are written.

    Returns:
        Bytes of each file written, by its path relative to `folder`.

    Raises:
        InputError: a passed-through column has the name of one of the layout's own.
        OutputError: the file cannot be written.
    """
    if len(embeddings) != labels.num_rows:
        raise AssertionError(f"{len(embeddings)} embeddings with {labels.num_rows} labels")
    if not len(embeddings) and options.format == "npy":
        return {}
    names = shard_files(index, stem, options)
    if options.format == "npy":
        _write_parquet(folder / names[1], iter([_metadata(labels)]), stamp)
        _write_npy(folder / names[0], embeddings, None if are_ready else options)
    elif options.format == "birder-csv":
        _write_csv(folder / names[0], embeddings, labels, options)
    else:
        tables = (
            _list_tables(embeddings, labels, options, are_ready=are_ready)
            if options.format == "parquet"
            else _wide_tables(embeddings, labels, options)
        )
        _write_parquet(folder / names[0], tables, stamp)
    return {name: (folder / name).stat().st_size for name in names}


def _write_npy(path: Path, embeddings: npt.NDArray[Any], options: WriteOptions | None) -> None:
    dtype = embeddings.dtype if options is None else np.dtype(options.dtype)
    with storage.write_whole(str(path)) as temporary, temporary.open("wb") as out:
        header = {"descr": dtype.str, "fortran_order": False, "shape": embeddings.shape}
        np.lib.format.write_array_header_1_0(out, header)
        for rows in _pieces(embeddings) if options is None else ready_rows(embeddings, options):
            out.write(rows.data)


def _pieces(ready: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Rows that are ready, cut as `ready_rows` cuts."""
    for low in range(0, max(1, len(ready)), _ROWS_AT_ONCE):
        yield np.ascontiguousarray(ready[low : low + _ROWS_AT_ONCE])


def read_shard(folder: Path, names: Sequence[str], options: WriteOptions) -> npt.NDArray[Any]:
    """Embeddings (N, D) of the shard's files of these names, as they were written. Raises InputError.

    `options`: as they were written with.
    """
    (name,) = (name for name in names if Path(name).parent.name != columns.METADATA_FOLDER)
    path = folder / name
    if options.format == "npy":
        found: npt.NDArray[Any] = np.load(path, mmap_mode="r")
        return found
    if options.format == "birder-csv":
        return _read_csv(path)
    with storage.open_parquet(str(path)) as file:
        schema = file.schema_arrow
        if options.format == "parquet":
            lists = file.read([EMBEDDING]).column(EMBEDDING)
            numbers = pa.concat_arrays([chunk.flatten() for chunk in lists.chunks] or [pa.array([], lists.type.value_type)])
            return np.asarray(numbers.to_numpy(zero_copy_only=False).reshape(len(lists), lists.type.list_size))
        wide = [field.name for field in schema if field.name.isdecimal() and pa.types.is_float32(field.type)]
        table = file.read(wide)
        return np.stack([table.column(name).to_numpy() for name in wide], axis=1)


def read_labels(folder: Path, names: Sequence[str], options: WriteOptions) -> pa.Table:
    """What stands beside the embeddings in the shard's files of these names: `sample` first. Raises InputError."""
    if not any(name.startswith((columns.METADATA_FOLDER, columns.EMBEDDINGS_FOLDER)) for name in names):
        return pa.table({columns.SAMPLE: pa.array([], pa.string())})  # (nobody was embedded)
    (name,) = (name for name in names if name.startswith((columns.METADATA_FOLDER, columns.EMBEDDINGS_FOLDER)))
    path = folder / name
    if options.format == "birder-csv":
        from pyarrow import csv

        chosen = csv.ConvertOptions(include_columns=[columns.SAMPLE], column_types={columns.SAMPLE: pa.string()})
        return csv.read_csv(path, parse_options=csv.ParseOptions(newlines_in_values=True), convert_options=chosen)
    with storage.open_parquet(str(path)) as file:
        kinds = file.schema_arrow
        wanted = [field.name for field in kinds if not (pa.types.is_fixed_size_list(field.type) or field.name.isdecimal())]
        table = file.read([columns.SAMPLE] if options.format in BIRDER_FORMATS else wanted)
        return table.replace_schema_metadata(None)


def _read_csv(path: Path) -> npt.NDArray[np.float32]:
    """What `_write_csv` wrote: each number is the shortest text of its float32, and so comes back."""
    from pyarrow import csv

    with path.open("rb") as file:
        names = [name for name in file.readline().decode().strip().split(",") if name.isdecimal()]
    table = csv.read_csv(
        path,
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(include_columns=names, column_types=dict.fromkeys(names, pa.float32())),
    )
    return np.stack([table.column(name).to_numpy() for name in names], axis=1)


def _write_csv(path: Path, embeddings: npt.NDArray[np.float32], labels: pa.Table, options: WriteOptions) -> None:
    labels = _chosen_labels(labels, options)
    with storage.write_whole(str(path)) as temporary, temporary.open("wb") as out:
        out.write(header(embeddings.shape[1], with_label=options.folders is not None))
        write_rows(out, labels, np.ascontiguousarray(embeddings, np.float32))


def _write_parquet(path: Path, tables: Iterator[pa.Table], stamp: Mapping[str, Any]) -> None:
    """Write tables of one schema, each as row groups of its own."""
    first = next(tables)
    schema = stamped(first.schema, stamp)
    with storage.write_whole(str(path)) as temporary, pq.ParquetWriter(temporary, schema, **parquet_options(schema)) as writer:
        writer.write_table(first.replace_schema_metadata(schema.metadata), row_group_size=group_rows(schema))
        for table in tables:
            writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=group_rows(schema))


def _metadata(labels: pa.Table) -> pa.Table:
    """`sample`, `image_path` (the sample again, unless the source has a column of that name), then the rest."""
    labels = _with_text_samples(labels)
    rest = [name for name in labels.column_names if name not in (columns.SAMPLE, IMAGE_PATH)]
    path = labels.column(IMAGE_PATH if IMAGE_PATH in labels.column_names else columns.SAMPLE)
    named = {columns.SAMPLE: labels.column(columns.SAMPLE), IMAGE_PATH: path}
    return pa.table({**named, **{name: labels.column(name) for name in rest}})


def _list_tables(
    embeddings: npt.NDArray[Any], labels: pa.Table, options: WriteOptions, *, are_ready: bool
) -> Iterator[pa.Table]:
    if EMBEDDING in labels.column_names:
        raise InputError(
            f"column {EMBEDDING!r} is in the metadata and the name of the embedding's own; leave it out, or rename it"
        )
    labels, at = _chosen_labels(labels, options), 0
    for rows in _pieces(embeddings) if are_ready else ready_rows(embeddings, options):
        lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
        yield labels.slice(at, len(rows)).append_column(EMBEDDING, lists)
        at += len(rows)


def _wide_tables(embeddings: npt.NDArray[np.float32], labels: pa.Table, options: WriteOptions) -> Iterator[pa.Table]:
    labels = _chosen_labels(labels, options)
    names = [str(dimension) for dimension in range(embeddings.shape[1])]
    for low in range(0, max(1, len(embeddings)), WIDE_GROUP_ROWS):
        part = labels.slice(low, WIDE_GROUP_ROWS)
        numbers = np.ascontiguousarray(embeddings[low : low + WIDE_GROUP_ROWS].T, np.float32)
        yield pa.table([*part.columns, *map(pa.array, numbers)], names=[*part.column_names, *names])


def _chosen_labels(labels: pa.Table, options: WriteOptions) -> pa.Table:
    """`sample`, `label` if asked for, and the others where the layout has them: to birder's readers they would be features."""
    chosen = _with_text_samples(labels)
    if options.is_bare or options.format in BIRDER_FORMATS:
        chosen = chosen.select([columns.SAMPLE])
    if options.folders is not None:
        chosen = chosen.drop_columns([LABEL]) if LABEL in chosen.column_names else chosen
        chosen = chosen.add_column(1, LABEL, options.folders.of(labels))
    return chosen


def _with_text_samples(labels: pa.Table) -> pa.Table:
    """`sample` first, as string (large_string only past 2 GiB of names)."""
    samples = labels.column(columns.SAMPLE).cast(pa.large_string())
    if (pc.sum(pc.binary_length(samples)).as_py() or 0) <= _MOST_STRING_BYTES:
        samples = samples.cast(pa.string())
    rest = [name for name in labels.column_names if name != columns.SAMPLE]
    return pa.table({columns.SAMPLE: samples, **{name: labels.column(name) for name in rest}})


_COPY_BYTES = 1 << 20
_HEADER_BYTES = 1 << 16


def join_shards(parts: Sequence[Path], target: str, stamp: Mapping[str, Any], *, scratch: Path | None = None) -> None:
    """Join files that `write_shard` wrote, in this order, to one; whole or not at all.

    Args:
        parts: at least one; all `.npy`, all `.csv` or all `.parquet` (for "npy" that is the metadata, joined on its own).
        target: a local path or a URL.
        stamp: for the schema metadata of Parquet.
        scratch: where the temporary file stands; see `storage.write_whole`.

    Raises:
        OutputError: no parts, parts that do not fit together, or the target cannot be written.
    """
    suffixes = {part.suffix for part in parts}
    if len(suffixes) != 1:
        raise OutputError(
            f"cannot write {target}: nothing was embedded" if not parts else f"{target}: parts of different kinds"
        )
    with storage.write_whole(target, scratch=scratch) as temporary:
        if suffixes == {".npy"}:
            _join_npy(parts, temporary, target)
        elif suffixes == {".csv"}:
            _join_csv(parts, temporary, target)
        else:
            _join_parquet(parts, temporary, target, stamp)


def cut_shard(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write rows of a joined Parquet file, with its schema, as a shard's file again."""
    with storage.write_whole(str(path)) as temporary, pq.ParquetWriter(temporary, schema, **parquet_options(schema)) as writer:
        for table in tables:
            writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=group_rows(schema))


def _join_npy(parts: Sequence[Path], temporary: Path, target: str) -> None:
    headers = []
    for part in parts:
        with part.open("rb") as source:
            shape, _, dtype, offset = read_header(source.read(_HEADER_BYTES), str(part))
        check_array(shape, dtype, str(part))
        headers.append((shape, dtype, offset))
    if len({(shape[1], dtype.str) for shape, dtype, _ in headers}) > 1:
        raise OutputError(f"{target}: parts have different dimensions or types; use --overwrite to start anew")
    num_rows, ((_, dim), dtype, _) = sum(shape[0] for shape, _, _ in headers), headers[0]
    with temporary.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, {"descr": dtype.str, "fortran_order": False, "shape": (num_rows, dim)})
        for part, (_, _, offset) in zip(parts, headers, strict=True):
            with part.open("rb") as source:
                source.seek(offset)
                shutil.copyfileobj(source, out, _COPY_BYTES)


def _join_csv(parts: Sequence[Path], temporary: Path, target: str) -> None:
    header: bytes | None = None
    with temporary.open("wb") as out:
        for part in parts:
            with part.open("rb") as source:
                line = source.readline()
                if header is None:
                    header = line
                    out.write(header)
                elif line != header:
                    raise OutputError(f"{target}: parts have different columns; use --overwrite to start anew")
                shutil.copyfileobj(source, out, _COPY_BYTES)


def _join_parquet(parts: Sequence[Path], temporary: Path, target: str, stamp: Mapping[str, Any]) -> None:
    """Row groups are filled across parts: many small shards would give as many small groups."""
    schema = stamped(_common_schema([pq.read_schema(part).remove_metadata() for part in parts], target), stamp)
    most = group_rows(schema)
    waiting: list[pa.Table] = []
    num_waiting = 0
    with pq.ParquetWriter(temporary, schema, **parquet_options(schema)) as writer:
        for part in parts:
            with storage.open_parquet(str(part)) as source:
                for batch in source.iter_batches(batch_size=most):
                    waiting.append(fit_table(pa.Table.from_batches([batch]), schema)[0])
                    num_waiting += batch.num_rows
                    while num_waiting >= most:
                        table = pa.concat_tables(waiting)
                        writer.write_table(table.slice(0, most), row_group_size=most)
                        waiting, num_waiting = [table.slice(most)], num_waiting - most
        if num_waiting:
            writer.write_table(pa.concat_tables(waiting), row_group_size=most)


def _common_schema(schemas: Sequence[pa.Schema], target: str) -> pa.Schema:
    """All columns of all parts, embeddings last; those whose types have nothing in common become text."""
    kinds: dict[str, set[pa.DataType]] = {}
    for item in (item for schema in schemas for item in schema):
        kinds.setdefault(item.name, set()).add(item.type)
    if any(len(found) > 1 and any(map(pa.types.is_fixed_size_list, found)) for found in kinds.values()):
        raise OutputError(f"{target}: parts have embeddings of different kinds; use --overwrite to start anew")
    return pa.schema(sorted(common_schema(schemas), key=lambda item: pa.types.is_fixed_size_list(item.type)))
