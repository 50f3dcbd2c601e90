"""Files of scores, rejects and embeddings: written a shard at a time, read again, and joined at the end.

Scores are Parquet or CSV text. Embeddings have the layouts that other tools read as their own: clip-retrieval's folders of
`.npy` and Parquet, one Parquet list column, birder's CSV and birder's Parquet. What made them (the stamp) stands in the schema
metadata of every Parquet file, under the key `beholder`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder import columns
from beholder.columns import EmbeddingDtype, EmbeddingFormat
from beholder.errors import InputError
from beholder.io import locations, places, storage, tables, writing
from beholder.io.schemas import as_text, common_schema, pieces_of
from beholder.io.tables import ParquetRows, TablePart, open_table, stamped
from beholder.scoreset.numbers import ScoreStats
from beholder.scoring.options import LABEL, FolderLabels
from beholder.scoring.shards import DamagedShardError, EarlierShard, ShardResult

if TYPE_CHECKING:
    from beholder.io.parquet import ParquetFile

Reject = tuple[str, str, str]
"""Of a rejected row: the stage it failed in, the fixed word for the reason, and the text."""
REJECTS_SCHEMA = pa.schema([
    (columns.SAMPLE, pa.string()), (columns.STAGE, pa.string()), (columns.REASON, pa.string()), (columns.MESSAGE, pa.string())
])  # fmt: skip
EMBEDDING = "embedding"
IMAGE_PATH = "image_path"
LIST_GROUP_ROWS = 4096
"""Most rows of a row group with a list column: VDC 0.1.x misreads every row of a group beyond them (formats: VDC's reader)."""
WIDE_GROUP_ROWS = 16384
BIRDER_FORMATS: tuple[EmbeddingFormat, ...] = ("birder-csv", "birder-parquet")
_CSV_BYTES = 8 << 20
"""Bytes of columns that are made to text at a time, of which there are several copies then."""
_CSV_ROWS = 1024
_MOST_STRING_BYTES = 2**31 - 1
_COPY_BYTES = 1 << 22


def _is_embedding(field: pa.Field) -> bool:
    is_wide = field.name.isdecimal() and pa.types.is_float32(field.type)
    return bool(is_wide or (field.name == EMBEDDING and pa.types.is_fixed_size_list(field.type)))


def _parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Samples differ in every row, so a dictionary only costs; statistics of scores let readers skip row groups.

    Numbers of embeddings gain nothing from dictionaries and statistics, and next to nothing from compression.
    """
    vectors = [field for field in schema if _is_embedding(field)]
    rest = [field for field in schema if not _is_embedding(field)]
    words = [f.name for f in rest if f.name not in (columns.SAMPLE, IMAGE_PATH) and not pa.types.is_floating(f.type)]
    options: dict[str, Any] = {"compression": "zstd", "compression_level": 1, "use_dictionary": words}
    if not vectors:
        return options
    has_list = pa.types.is_fixed_size_list(vectors[0].type)
    leaves = [f"{field.name}.list.element" if has_list else field.name for field in vectors]
    names = [field.name for field in rest]
    return options | {
        "compression": {**dict.fromkeys(names, "zstd"), **dict.fromkeys(leaves, "none")},
        "compression_level": None,
        "write_statistics": names,
        "most_rows": LIST_GROUP_ROWS if has_list else WIDE_GROUP_ROWS,
        "most_bytes": 1 << 40,
    }


def parquet_rows(path: Path, schema: pa.Schema) -> contextlib.AbstractContextManager[ParquetRows]:
    """Write a Parquet file of scores, rejects or embeddings as its rows come, whole or not at all."""
    return tables.parquet_rows(str(path), schema, **_parquet_options(schema))


def write_parquet(path: Path, parts: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write tables of this schema, with its metadata, as a shard's file."""
    with parquet_rows(path, schema) as out:
        for part in parts:
            out.write(part)


class ShardFile(NamedTuple):
    """A shard's file: where it is, a path or URL, its bytes, and their sha256 where that is known."""

    place: str
    num_bytes: int
    sha256: str | None = None

    def check(self, data: bytes) -> None:
        """Raise DamagedShardError where it is not what was written."""
        if self.sha256 is not None and hashlib.sha256(data).hexdigest() != self.sha256:
            raise DamagedShardError(f"{self.place} is damaged: it is not what was written (sha256); use --overwrite")


def join_shards(target: str, parts: Sequence[ShardFile], metadata: Mapping[str, Any], scratch: Path | None) -> None:
    """Join shards' files of one kind, in order, to one; whole or not at all. `metadata`: for the schema of Parquet.

    Small remote files are fetched ahead, larger ones read piece by piece.

    Raises OutputError: parts of CSV have different columns, a part is damaged, or the target cannot be written.
    """

    def opened() -> Iterator[TablePart]:
        ahead = places.fetched_ahead((part.place, part.num_bytes) for part in parts)
        for part, (place, num_bytes, data) in zip(parts, ahead, strict=True):
            if data is not None:
                part.check(data)
            yield TablePart(place, num_bytes, data)

    num_bytes = sum(part.num_bytes for part in parts)
    if target.lower().endswith(".csv"):
        tables.join_csv(target, opened(), num_bytes=num_bytes, scratch=scratch)
        return
    names = [part.place for part in parts]
    schemas = list(map(_schema_of, names) if locations.is_local(names[0]) else places.in_threads(_schema_of, names))
    schema = stamped(common_schema(one.remove_metadata() for one in schemas), metadata)
    if len(parts) == 1 and schemas[0].equals(schema, check_metadata=True):
        with writing.open_whole(target, num_bytes=num_bytes, scratch=scratch) as out, next(opened()).open() as source:
            shutil.copyfileobj(source, out, _COPY_BYTES)
        return
    # Row groups are filled across parts: many small shards would give as many small groups.
    tables.join_parquet(target, opened(), schema, num_bytes=num_bytes, scratch=scratch, **_parquet_options(schema))


def _schema_of(place: str) -> pa.Schema:
    with storage.open_parquet(place, streamed=True) as file:
        return file.schema_arrow


def score_files(stem: str, *, as_csv: bool) -> list[str]:
    """Where the scores and the rejects of a shard are written, relative to the run's folder."""
    return [
        f"{columns.SCORES_FOLDER}/{stem}.{'csv' if as_csv else 'parquet'}",
        f"{columns.REJECTS_FOLDER}/{stem}.parquet",
    ]


class ShardRows:
    """The scores and rejects of one shard as they are written, and the counts of what went into them. See `shard_rows`."""

    def __init__(
        self, opened: contextlib.ExitStack, folder: Path, stem: str, schema: pa.Schema, names: Sequence[str], *, as_csv: bool,
        metadata: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self._opened, self._folder, self._names, self._metadata = opened, folder, names, metadata
        scores_name, self._rejects_name = score_files(stem, as_csv=as_csv)
        self._written: list[str] = [scores_name] if names else []
        self._scores: list[npt.NDArray[np.float32]] = []
        self._reasons: Counter[str] = Counter()
        self._csv: IO[bytes] | None = None
        self._parquet: ParquetRows | None = None
        self._rejects: ParquetRows | None = None
        self.num_read = 0
        if names and as_csv:
            temporary = opened.enter_context(writing.write_whole(str(folder / scores_name)))
            self._csv = opened.enter_context(temporary.open("wb"))
            header = [columns.SAMPLE, *names, columns.STATUS, *schema.names[1:]]
            tables.write_csv(self._csv, [pa.array([name], pa.large_string()) for name in header])
        elif names:
            self._parquet = opened.enter_context(
                parquet_rows(folder / scores_name, stamped(scores_schema(schema, names), metadata))
            )

    def write(self, labels: pa.Table, scores: npt.NDArray[np.float32], rejects: Mapping[int, Reject]) -> None:
        """Take the next rows.

        Args:
            labels: N rows of the shard's columns, `sample` first.
            scores: (N, H) float32; those of rejected rows count for nothing.
            rejects: of these rows, by their number from 0.
        """
        is_kept = np.ones(labels.num_rows, bool)
        is_kept[list(rejects)] = False
        self.num_read += labels.num_rows
        self._scores.append(scores[is_kept] if rejects else scores)
        if self._csv is not None:
            words = np.full(labels.num_rows, columns.STATUS_OK, dtype=object)
            scores = np.where(is_kept[:, None], scores, np.float32(np.nan))
            for row, (_, reason, _) in rejects.items():
                words[row] = reason
            self._write_csv(labels.append_column(columns.STATUS, pa.array(words, pa.large_string())), scores)
        elif self._parquet is not None:
            table = scores_table(labels, scores, self._names)
            self._parquet.write(table.filter(pa.array(is_kept)) if rejects else table)
        if not rejects:
            return
        if self._rejects is None:
            self._written.append(self._rejects_name)
            self._rejects = self._opened.enter_context(
                parquet_rows(self._folder / self._rejects_name, stamped(REJECTS_SCHEMA, self._metadata))
            )
        rows = sorted(rejects)
        samples = labels.column(columns.SAMPLE).take(pa.array(rows)).cast(pa.string())
        said = zip(*(rejects[row] for row in rows), strict=True)
        self._rejects.write(pa.table([samples, *(pa.array(texts, pa.string()) for texts in said)], schema=REJECTS_SCHEMA))
        self._reasons.update(reason for _, reason, _ in rejects.values())

    def _write_csv(self, labels: pa.Table, scores: npt.NDArray[np.float32]) -> None:
        """Lines of `sample`, the scores (empty where NaN), `status`, then the other columns."""
        assert self._csv is not None
        for piece in pieces_of(scores_table(labels, scores, self._names), _CSV_BYTES):
            own = {columns.SAMPLE, columns.STATUS, *self._names}
            others = [as_text(piece.column(name)) for name in piece.column_names if name not in own]
            samples = as_text(piece.column(columns.SAMPLE))
            texts = [tables.as_text(piece.column(name)) for name in self._names]
            tables.write_csv(self._csv, [samples, *texts, piece.column(columns.STATUS), *others])

    def result(self) -> ShardResult:
        """The counts, and the sizes of the files; once they are closed."""
        scores = np.concatenate([np.empty((0, len(self._names)), np.float32), *self._scores])
        return ShardResult(
            num_read=self.num_read,
            num_scored=len(scores),
            num_rejected=self.num_read - len(scores),
            reasons=dict(self._reasons),
            files={name: (self._folder / name).stat().st_size for name in self._written},
            stats={name: ScoreStats.of(np.ascontiguousarray(scores[:, i])).to_json() for i, name in enumerate(self._names)},
        )


@contextlib.contextmanager
def shard_rows(
    folder: Path, stem: str, schema: pa.Schema, names: Sequence[str], *, as_csv: bool, metadata: Mapping[str, Any]
) -> Iterator[ShardRows]:
    """Write the scores and rejects of a shard as its rows come, each file whole or not at all.

    Args:
        folder: the run's folder.
        stem: the shard's name.
        schema: its columns without scores, `sample` first.
        names: the score columns; without any only rejects are written.
        as_csv: CSV text with rejected rows in their place (empty score, `status`) instead of Parquet without them.
        metadata: JSON-ready; goes into Parquet's schema.
    """
    with contextlib.ExitStack() as opened:
        yield ShardRows(opened, folder, stem, schema, names, as_csv=as_csv, metadata=metadata)


def scores_table(labels: pa.Table, scores: npt.NDArray[np.float32], names: Sequence[str]) -> pa.Table:
    """`sample`, then one float32 column per head, then the other columns of `labels`. scores: (N, H) float32."""
    table = {columns.SAMPLE: labels.column(columns.SAMPLE)}
    for position, name in enumerate(names):
        table[name] = pa.array(np.ascontiguousarray(scores[:, position]))
    for name in labels.column_names[1:]:
        table[name] = labels.column(name)
    return pa.table(table)


def scores_schema(labels: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """The columns of `scores_table`. Raises InputError when a passed-through column has a score column's name."""
    twice = [name for name in labels.names if name in names]
    if twice:
        raise InputError(f"column {twice[0]!r} is in the metadata and the name of a score; name the columns to pass one by one")
    return pa.schema([labels.field(columns.SAMPLE), *((name, pa.float32()) for name in names), *list(labels)[1:]])


def check_csv_names(names: Iterable[str]) -> None:
    """Raise InputError for a passed-through column that a CSV cannot have."""
    for name in names:
        if name == columns.STATUS:
            raise InputError("column 'status' is the CSV's own; name the columns to pass one by one, or write .parquet")
        if "\n" in name or "\r" in name:
            raise InputError(f"column {name!r} has a line break in its name, which a CSV header cannot hold; leave it out")


def open_earlier(shard: EarlierShard, name: str) -> ParquetFile:
    """Open a Parquet file of an earlier shard; a remote one is fetched in one request, a large one read in pieces."""
    place = shard.place_of(name)
    ((_, _, data),) = places.fetched_ahead([(place, shard.result.files[name])])
    return storage.open_parquet(place, streamed=True, data=data)


def read_rows(
    shard: EarlierShard, names: Sequence[str], *, as_csv: bool
) -> Iterator[tuple[pa.Table, npt.NDArray[np.float32], list[str]]]:
    """Rows of an earlier shard, in pieces; where rejected ones are not in their place (Parquet), they come last.

    Labels (`sample` first; text in CSV, of rejected rows of Parquet the sample alone), scores (N, H) float32 with NaN where
    rejected, and statuses.
    """
    scores_name, rejects_name = score_files(shard.name, as_csv=as_csv)
    if as_csv:
        types = dict.fromkeys(names, pa.float32())
        with open_table(shard.place_of(scores_name), types, empty_is_null=True) as (_, batches):
            for batch in batches:
                table = pa.Table.from_batches([batch])
                words: list[str] = table.column(columns.STATUS).to_pylist()
                yield table.drop_columns([*names, columns.STATUS]), _columns(table, names), words
        return
    if names:
        with open_earlier(shard, scores_name) as file:
            for batch in file.iter_batches():
                table = pa.Table.from_batches([batch]).replace_schema_metadata(None)
                yield table.drop_columns(list(names)), _columns(table, names), [columns.STATUS_OK] * table.num_rows
    if rejects_name in shard.result.files:
        with open_earlier(shard, rejects_name) as file:
            table = file.read().replace_schema_metadata(None)
        scores = np.full((table.num_rows, len(names)), np.nan, np.float32)
        yield table.select([columns.SAMPLE]), scores, table.column(columns.REASON).to_pylist()


def _columns(table: pa.Table, names: Sequence[str]) -> npt.NDArray[np.float32]:
    found = [pc.fill_null(table.column(name), float("nan")).to_numpy() for name in names]
    return np.stack(found, axis=1).astype(np.float32, copy=False)


def is_ours(path: str) -> bool:
    """Whether a Parquet file, local or remote, was written by this program."""
    try:
        with storage.open_parquet(path) as file:
            return b"beholder" in (file.schema_arrow.metadata or {})
    except (InputError, pa.ArrowException, OSError):
        return False


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


def embedding_files(index: int, stem: str, options: WriteOptions) -> tuple[str, ...]:
    """The files that `write_embeddings` writes for these, relative to its folder."""
    if options.format == "npy":
        return f"{columns.IMAGES_FOLDER}/img_emb_{index:05d}.npy", f"{columns.METADATA_FOLDER}/metadata_{index:05d}.parquet"
    return (f"{columns.EMBEDDINGS_FOLDER}/{stem}.{'csv' if options.format == 'birder-csv' else 'parquet'}",)


def write_embeddings(
    folder: Path,
    index: int,
    stem: str,
    embeddings: npt.NDArray[Any],
    labels: pa.Table,
    options: WriteOptions,
    stamp: Mapping[str, Any],
) -> dict[str, int]:
    """Write the embeddings of one shard, every file whole or not at all.

    Without rows "npy" writes nothing: readers would pair parts wrongly.

    Args:
        folder: the embedding set's folder.
        index: number of the part in clip-retrieval's layout, from 0 without gaps.
        stem: file stem of the part in the other layouts.
        embeddings: (N, D) as `ready_rows` gives them.
        labels: N rows, `sample` first. Birder's layouts take `sample` only.
        options: the layout.
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
    names = embedding_files(index, stem, options)
    path = folder / names[0]
    if options.format == "npy":
        metadata = _metadata(labels)
        write_parquet(folder / names[1], [metadata], stamped(metadata.schema, stamp))
        with writing.write_whole(str(path)) as temporary, temporary.open("wb") as out:
            header = {"descr": embeddings.dtype.str, "fortran_order": False, "shape": embeddings.shape}
            np.lib.format.write_array_header_1_0(out, header)
            out.write(np.ascontiguousarray(embeddings).data)
    elif options.format == "birder-csv":
        _write_csv(path, embeddings, _chosen_labels(labels, options))
    else:
        if options.format == "parquet" and EMBEDDING in labels.column_names:
            raise InputError(
                f"column {EMBEDDING!r} is in the metadata and the name of the embedding's own; leave it out, or rename it"
            )
        chosen = _chosen_labels(labels, options)
        group_rows = LIST_GROUP_ROWS if options.format == "parquet" else WIDE_GROUP_ROWS
        made = (
            _embedding_table(embeddings[low : low + group_rows], chosen.slice(low, group_rows), options)
            for low in range(0, len(embeddings), group_rows)
        )
        schema = _embedding_table(embeddings[:0], chosen.slice(0, 0), options).schema
        write_parquet(path, made, stamped(schema, stamp))
    return {name: (folder / name).stat().st_size for name in names}


def read_embeddings(shard: EarlierShard, names: Sequence[str], options: WriteOptions) -> npt.NDArray[Any]:
    """Embeddings (N, D) of the files of these names of an earlier shard, as they were written. Raises InputError.

    `options`: as they were written with.
    """
    (name,) = (name for name in names if Path(name).parent.name != columns.METADATA_FOLDER)
    place = shard.place_of(name)
    if options.format == "npy":
        found: npt.NDArray[Any]
        if locations.is_local(place):
            found = np.load(locations.local_path(place), mmap_mode="r")
        else:
            found = np.load(io.BytesIO(storage.read_range(place, 0, shard.result.files[name])))
        return found
    if options.format == "parquet":
        with open_earlier(shard, name) as file:
            lists = file.read([EMBEDDING]).column(EMBEDDING)
        numbers = pa.concat_arrays([chunk.flatten() for chunk in lists.chunks] or [pa.array([], lists.type.value_type)])
        return np.asarray(numbers.to_numpy(zero_copy_only=False).reshape(len(lists), lists.type.list_size))
    if options.format == "birder-csv":
        data = _bytes_of(shard, name)
        wide = [name for name in data[: data.find(b"\n")].decode().strip().split(",") if name.isdecimal()]
        table = _read_csv(data, dict.fromkeys(wide, pa.float32()))
    else:
        with open_earlier(shard, name) as file:
            wide = [item.name for item in file.schema_arrow if item.name.isdecimal() and pa.types.is_float32(item.type)]
            table = file.read(wide)
    return np.stack([table.column(name).to_numpy() for name in wide], axis=1)


def read_labels(shard: EarlierShard, options: WriteOptions) -> pa.Table:
    """What stands beside the embeddings in an earlier shard's files: `sample` first. Raises InputError."""
    names = shard.result.files
    own = [name for name in names if name.startswith((columns.METADATA_FOLDER, columns.EMBEDDINGS_FOLDER))]
    if not own:
        return pa.table({columns.SAMPLE: pa.array([], pa.string())})  # (nobody was embedded)
    (name,) = own
    if options.format == "birder-csv":
        return _read_csv(_bytes_of(shard, name), {columns.SAMPLE: pa.string()})
    with open_earlier(shard, name) as file:
        wanted = [item.name for item in file.schema_arrow if not _is_embedding(item)]
        table = file.read([columns.SAMPLE] if options.format in BIRDER_FORMATS else wanted)
        return table.replace_schema_metadata(None)


def _bytes_of(shard: EarlierShard, name: str) -> bytes:
    """What an earlier shard's file holds; numbers of the pictures of one shard, which were in memory when it was made."""
    return storage.read_range(shard.place_of(name), 0, shard.result.files[name])


def _read_csv(data: bytes, types: Mapping[str, pa.DataType]) -> pa.Table:
    """These columns of what `_write_csv` wrote: the text of each number reads back as the same float32."""
    from pyarrow import csv

    chosen = csv.ConvertOptions(include_columns=list(types), column_types=types)
    parsed = csv.ParseOptions(newlines_in_values=True)
    return csv.read_csv(pa.BufferReader(data), parse_options=parsed, convert_options=chosen)


def _write_csv(path: Path, embeddings: npt.NDArray[np.float32], labels: pa.Table) -> None:
    """As birder has it: `sample`, [`label`], `0` ... `D-1`."""
    names = [*labels.column_names, *map(str, range(embeddings.shape[1]))]
    with writing.write_whole(str(path)) as temporary, temporary.open("wb") as out:
        tables.write_csv(out, [pa.array([name], pa.large_string()) for name in names])
        for low in range(0, len(embeddings), _CSV_ROWS):
            some = labels.slice(low, _CSV_ROWS)
            numbers = np.ascontiguousarray(embeddings[low : low + _CSV_ROWS].T, np.float32)
            cells = [*(column.combine_chunks() for column in some.columns), *map(pa.array, numbers)]
            tables.write_csv(out, [pc.cast(cell, pa.large_string()) for cell in cells])


def _embedding_table(embeddings: npt.NDArray[Any], labels: pa.Table, options: WriteOptions) -> pa.Table:
    """The labels, then the embeddings as one list column, or as a float32 column per dimension."""
    if options.format == "parquet":
        values = pa.array(np.ascontiguousarray(embeddings).reshape(-1))
        return labels.append_column(EMBEDDING, pa.FixedSizeListArray.from_arrays(values, embeddings.shape[1]))
    numbers = np.ascontiguousarray(embeddings.T, np.float32)
    names = [*labels.column_names, *map(str, range(len(numbers)))]
    return pa.table([*labels.columns, *map(pa.array, numbers)], names=names)


def _metadata(labels: pa.Table) -> pa.Table:
    """`sample`, `image_path` (the sample again, unless the source has a column of that name), then the rest."""
    labels = _with_text_samples(labels)
    rest = [name for name in labels.column_names if name not in (columns.SAMPLE, IMAGE_PATH)]
    path = labels.column(IMAGE_PATH if IMAGE_PATH in labels.column_names else columns.SAMPLE)
    named = {columns.SAMPLE: labels.column(columns.SAMPLE), IMAGE_PATH: path}
    return pa.table({**named, **{name: labels.column(name) for name in rest}})


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
