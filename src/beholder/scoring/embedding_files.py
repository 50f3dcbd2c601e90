"""Files of embeddings that other tools read as their own, written a shard at a time and joined at the end.

Layouts: clip-retrieval's folders of `.npy` and Parquet, one Parquet list column, birder's CSV and birder's Parquet. What made
the embeddings (the stamp) stands in the schema metadata of every Parquet file, under the key `beholder`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beholder import columns
from beholder.columns import EmbeddingDtype, EmbeddingFormat
from beholder.errors import InputError, OutputError
from beholder.io import storage, tables
from beholder.io.schemas import common_schema
from beholder.io.tables import stamped
from beholder.scoring.options import LABEL, FolderLabels
from beholder.sources.npy import check_array, read_header

EMBEDDING = "embedding"
IMAGE_PATH = "image_path"
LIST_GROUP_ROWS = 4096
"""Most rows of a row group with a list column: VDC 0.1.x misreads every row of a group beyond them (formats: VDC's reader)."""
WIDE_GROUP_ROWS = 16384
_CSV_ROWS = 1024
_MOST_STRING_BYTES = 2**31 - 1
_COPY_BYTES = 1 << 20
_HEADER_BYTES = 1 << 16
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


def _parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Floats gain nothing from dictionaries and statistics, and next to nothing from compression."""
    texts = [field.name for field in schema if not _is_embedding(field)]
    leaves = [f"{f.name}.list.element" if pa.types.is_fixed_size_list(f.type) else f.name for f in schema if _is_embedding(f)]
    has_list = any(pa.types.is_fixed_size_list(field.type) for field in schema)
    return {
        "compression": {**dict.fromkeys(texts, "zstd"), **dict.fromkeys(leaves, "none")},
        "use_dictionary": [name for name in texts if name not in (columns.SAMPLE, IMAGE_PATH)],
        "write_statistics": texts,
        "most_rows": LIST_GROUP_ROWS if has_list else WIDE_GROUP_ROWS,
        "most_bytes": 1 << 40,
    }


def _is_embedding(field: pa.Field) -> bool:
    is_wide = field.name.isdecimal() and pa.types.is_float32(field.type)
    return bool(is_wide or (field.name == EMBEDDING and pa.types.is_fixed_size_list(field.type)))


def ready_rows(embeddings: npt.NDArray[np.float32], options: WriteOptions) -> npt.NDArray[Any]:
    """(N, D) rows as they are written: normalised in float64 if wanted, then rounded once. Rows of zeros stay zeros.

    Raises InputError for a value that float16 cannot hold.
    """
    if options.normalise:
        wide = embeddings.astype(np.float64)
        lengths = np.sqrt(np.einsum("nd,nd->n", wide, wide))
        return (wide / np.where(lengths == 0, 1, lengths)[:, None]).astype(options.dtype)
    with np.errstate(over="ignore"):
        ready = np.ascontiguousarray(embeddings, options.dtype)
    if options.dtype == "float16" and (lost := np.isinf(ready) & np.isfinite(embeddings)).any():
        row = int(np.flatnonzero(lost.any(axis=1))[0])
        raise InputError(f"row {row} holds a value beyond float16's 65504; choose --dtype float32, or normalised rows")
    return ready


def shard_files(index: int, stem: str, options: WriteOptions) -> tuple[str, ...]:
    """The files that `write_shard` writes for these, relative to its folder."""
    if options.format == "npy":
        return f"{columns.IMAGES_FOLDER}/img_emb_{index:05d}.npy", f"{columns.METADATA_FOLDER}/metadata_{index:05d}.parquet"
    return (f"{columns.EMBEDDINGS_FOLDER}/{stem}.{'csv' if options.format == 'birder-csv' else 'parquet'}",)


def write_shard(
    folder: Path,
    index: int,
    stem: str,
    embeddings: npt.NDArray[Any],
    labels: pa.Table,
    options: WriteOptions,
    stamp: Mapping[str, Any],
) -> dict[str, int]:
    """Write one shard, every file whole or not at all. Without rows "npy" writes nothing: readers would pair parts wrongly.

    Args:
        folder: the embedding set's folder.
        index: number of the part in clip-retrieval's layout, from 0 without gaps.
        stem: file stem of the part in the other layouts.
        embeddings: (N, D) as `ready_rows` gives them.
        labels: N rows, `sample` first. Birder's layouts take `sample` only.
        options: layout, dtype, whether rows are normalised.
        stamp: JSON-ready; for the schema metadata of Parquet files.

    Returns:
        Bytes of each file written, by its path relative to `folder`.

    Raises:
        InputError: a passed-through column has the name of one of the layout's own.
        OutputError: the file cannot be written.
    """
    assert len(embeddings) == labels.num_rows, f"{len(embeddings)} embeddings with {labels.num_rows} labels"
    if not len(embeddings) and options.format == "npy":
        return {}
    names = shard_files(index, stem, options)
    path = folder / names[0]
    if options.format == "npy":
        _write_parquet(folder / names[1], iter([_metadata(labels)]), stamp)
        with storage.write_whole(str(path)) as temporary, temporary.open("wb") as out:
            header = {"descr": embeddings.dtype.str, "fortran_order": False, "shape": embeddings.shape}
            np.lib.format.write_array_header_1_0(out, header)
            out.write(np.ascontiguousarray(embeddings).data)
    elif options.format == "birder-csv":
        _write_csv(path, embeddings, _chosen_labels(labels, options))
    else:
        as_tables = _list_tables if options.format == "parquet" else _wide_tables
        if options.format == "parquet" and EMBEDDING in labels.column_names:
            raise InputError(
                f"column {EMBEDDING!r} is in the metadata and the name of the embedding's own; leave it out, or rename it"
            )
        _write_parquet(path, as_tables(embeddings, _chosen_labels(labels, options)), stamp)
    return {name: (folder / name).stat().st_size for name in names}


def read_shard(folder: Path, names: Sequence[str], options: WriteOptions) -> npt.NDArray[Any]:
    """Embeddings (N, D) of the shard's files of these names, as they were written. Raises InputError.

    `options`: as they were written with.
    """
    (name,) = (name for name in names if Path(name).parent.name != columns.METADATA_FOLDER)
    path = folder / name
    if options.format == "npy":
        found: npt.NDArray[Any] = np.load(path, mmap_mode="r")
        return found
    if options.format == "parquet":
        with storage.open_parquet(str(path)) as file:
            lists = file.read([EMBEDDING]).column(EMBEDDING)
        numbers = pa.concat_arrays([chunk.flatten() for chunk in lists.chunks] or [pa.array([], lists.type.value_type)])
        return np.asarray(numbers.to_numpy(zero_copy_only=False).reshape(len(lists), lists.type.list_size))
    if options.format == "birder-csv":
        with path.open("rb") as opened:
            wide = [name for name in opened.readline().decode().strip().split(",") if name.isdecimal()]
        table = _read_csv(path, dict.fromkeys(wide, pa.float32()))
    else:
        with storage.open_parquet(str(path)) as file:
            wide = [item.name for item in file.schema_arrow if item.name.isdecimal() and pa.types.is_float32(item.type)]
            table = file.read(wide)
    return np.stack([table.column(name).to_numpy() for name in wide], axis=1)


def read_labels(folder: Path, names: Sequence[str], options: WriteOptions) -> pa.Table:
    """What stands beside the embeddings in the shard's files of these names: `sample` first. Raises InputError."""
    own = [name for name in names if name.startswith((columns.METADATA_FOLDER, columns.EMBEDDINGS_FOLDER))]
    if not own:
        return pa.table({columns.SAMPLE: pa.array([], pa.string())})  # (nobody was embedded)
    (name,) = own
    if options.format == "birder-csv":
        return _read_csv(folder / name, {columns.SAMPLE: pa.string()})
    with storage.open_parquet(str(folder / name)) as file:
        wanted = [item.name for item in file.schema_arrow if not _is_embedding(item)]
        table = file.read([columns.SAMPLE] if options.format in BIRDER_FORMATS else wanted)
        return table.replace_schema_metadata(None)


def _read_csv(path: Path, types: Mapping[str, pa.DataType]) -> pa.Table:
    """These columns of what `_write_csv` wrote: the text of each number reads back as the same float32."""
    from pyarrow import csv

    chosen = csv.ConvertOptions(include_columns=list(types), column_types=types)
    return csv.read_csv(path, parse_options=csv.ParseOptions(newlines_in_values=True), convert_options=chosen)


def _write_csv(path: Path, embeddings: npt.NDArray[np.float32], labels: pa.Table) -> None:
    """As birder has it: `sample`, [`label`], `0` ... `D-1`."""
    names = [*labels.column_names, *map(str, range(embeddings.shape[1]))]
    with storage.write_whole(str(path)) as temporary, temporary.open("wb") as out:
        tables.write_csv(out, [pa.array([name], pa.large_string()) for name in names])
        for low in range(0, len(embeddings), _CSV_ROWS):
            some = labels.slice(low, _CSV_ROWS)
            numbers = np.ascontiguousarray(embeddings[low : low + _CSV_ROWS].T, np.float32)
            cells = [*(column.combine_chunks() for column in some.columns), *map(pa.array, numbers)]
            tables.write_csv(out, [pc.cast(cell, pa.large_string()) for cell in cells])


def _write_parquet(path: Path, made: Iterator[pa.Table], stamp: Mapping[str, Any]) -> None:
    """Write tables of one schema."""
    first = next(made)
    schema = stamped(first.schema, stamp)
    with tables.parquet_rows(str(path), schema, **_parquet_options(schema)) as out:
        out.write(first)
        for table in made:
            out.write(table)


def _metadata(labels: pa.Table) -> pa.Table:
    """`sample`, `image_path` (the sample again, unless the source has a column of that name), then the rest."""
    labels = _with_text_samples(labels)
    rest = [name for name in labels.column_names if name not in (columns.SAMPLE, IMAGE_PATH)]
    path = labels.column(IMAGE_PATH if IMAGE_PATH in labels.column_names else columns.SAMPLE)
    named = {columns.SAMPLE: labels.column(columns.SAMPLE), IMAGE_PATH: path}
    return pa.table({**named, **{name: labels.column(name) for name in rest}})


def _list_tables(embeddings: npt.NDArray[Any], labels: pa.Table) -> Iterator[pa.Table]:
    for low in range(0, max(1, len(embeddings)), LIST_GROUP_ROWS):
        rows = np.ascontiguousarray(embeddings[low : low + LIST_GROUP_ROWS])
        lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
        yield labels.slice(low, len(rows)).append_column(EMBEDDING, lists)


def _wide_tables(embeddings: npt.NDArray[Any], labels: pa.Table) -> Iterator[pa.Table]:
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
    if suffixes == {".csv"}:
        tables.join_csv(target, parts, scratch)
    elif suffixes == {".npy"}:
        with storage.write_whole(target, scratch=scratch) as temporary:
            _join_npy(parts, temporary, target)
    else:  # row groups are filled across parts: many small shards would give as many small groups
        schema = stamped(_common_schema([pq.read_schema(part).remove_metadata() for part in parts], target), stamp)
        tables.join_parquet(target, parts, schema, scratch=scratch, **_parquet_options(schema))


def cut_shard(path: Path, made: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write rows of a joined Parquet file, with its schema, as a shard's file again."""
    with tables.parquet_rows(str(path), schema, **_parquet_options(schema)) as out:
        for table in made:
            out.write(table)


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


def _common_schema(schemas: Sequence[pa.Schema], target: str) -> pa.Schema:
    """All columns of all parts, embeddings last; those whose types have nothing in common become text."""
    kinds: dict[str, set[pa.DataType]] = {}
    for item in (item for schema in schemas for item in schema):
        kinds.setdefault(item.name, set()).add(item.type)
    if any(len(found) > 1 and any(map(pa.types.is_fixed_size_list, found)) for found in kinds.values()):
        raise OutputError(f"{target}: parts have embeddings of different kinds; use --overwrite to start anew")
    return pa.schema(sorted(common_schema(schemas), key=lambda item: pa.types.is_fixed_size_list(item.type)))
