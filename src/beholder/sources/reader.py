"""What readers of sources give, and which reader reads what: parts of pictures or embeddings, and blocks of their rows."""

from __future__ import annotations

import bisect
import hashlib
import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from beholder.columns import PictureReason
    from beholder.kernels import Embeddings

DIGEST_BYTES = 16
_Item = TypeVar("_Item")
_PICTURE_READERS = {
    "files": "folder.FilesReader",
    "tar": "tar.TarReader",
    "parquet": "parquet.PackedReader",
    "table": "table.TableReader",
    "zip": "zip.ZipReader",
}
_EMBEDDING_READERS = {
    "npy": "npy.NpyReader",
    "npz": "npy.NpzReader",
    "parquet": "parquet.ParquetReader",
    "csv": "csv.CsvReader",
    "json": "json_lines.JsonReader",
    "torch": "torch_files.TorchReader",
}
_NEAR_ROWS = {"table": 1 << 16, "zip": 1}
"""Wanted rows so near to each other are read together: what lies between in a table is passed anyway, in a zip unpacked."""


@dataclass(frozen=True)
class Part:
    """One file of embeddings (and perhaps the metadata file beside it), with what its header promises.

    Attributes:
        path: where it is opened: a local path or a URL.
        name: its path relative to what the user gave; names its shards and, without metadata, its samples.
        kind: "npy", "npz", "parquet", "csv", "json" or "torch".
        num_rows: rows it holds; None when only reading it through can tell (CSV, JSON lines).
        dim: elements of a row.
        dtype: "float16", "float32" or "float64".
        num_bytes: size of the file.
        metadata_path: Parquet file with the same rows in the same order, or None.
        cuts: rows at which it may be cut into shards, ascending, without 0 and num_rows; None: anywhere.
        detail: what the reader of this kind needs to know again (for example which columns hold the embedding); `labels`: the
            Arrow schema of the other columns, where it has any.
    """

    path: str
    name: str
    kind: str
    num_rows: int | None
    dim: int
    dtype: str
    num_bytes: int
    metadata_path: str | None = None
    cuts: tuple[int, ...] | None = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a part.

    Attributes:
        embeddings: (N, D) float16, float32 or float64. Valid until the next block is asked for.
        labels: N rows: `sample` (string) first, then the asked-for columns; None when they lie in another file.
        statuses: (N,) uint8 `RowStatus` of rows that the reader itself rejects (MISSING, WRONG_DIMENSION; 0 elsewhere);
            None when it rejects none. Such rows hold zeros in `embeddings`.
        before_chunk: to be called by a worker before it touches rows [start, stop) of this block, or None.
    """

    embeddings: Embeddings
    labels: pa.Table | None = None
    statuses: npt.NDArray[np.uint8] | None = None
    before_chunk: Callable[[int, int], None] | None = None


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How parts of embeddings are read.

    Attributes:
        columns: metadata columns to pass through, in this order; ("*",) for all.
        sample_column: the column that names the rows; None: the first known one (`columns.SAMPLE_COLUMN_NAMES`).
        embedding_column: the column (or the prefix of numbered columns) with the embedding; None: found by looking.
        block_bytes: how many bytes of embeddings a block may hold.
    """

    columns: tuple[str, ...] = ()
    sample_column: str | None = None
    embedding_column: str | None = None
    block_bytes: int = 256 << 20


class Reader(Protocol):
    """Reads parts of embeddings of one kind. `inspect` reads no more than headers; `blocks` gives rows in order."""

    def inspect(self, path: str, name: str, options: ReadOptions) -> Part:
        """Look at the header. Raises InputError, naming the file, for anything that cannot be scored."""
        ...

    def blocks(self, part: Part, start: int, stop: int | None, options: ReadOptions) -> Iterator[Block]:
        """Rows [start, stop) of `part`; stop None: to its end. Raises InputError when the file is not as promised."""
        ...


@dataclass(slots=True)
class PictureRef:
    """One picture that has not been decoded: exactly one of `data`, `error`, `path` and `is_done` says where it is.

    It is not to be changed; making frozen ones would take four times as long, for each picture.

    Attributes:
        data: its bytes, already read (a Parquet cell, a member of a remote tar, a compressed zip member).
        path: a local path or URL, when `data` and `error` are None.
        offset, length: the bytes [offset, offset + length) of `path`; None: all of it.
        error: (reason, message) when the source already knows that there is none (a null, a broken archive).
        known: the digest of its contents when they were last seen (`contents_digest`): where they are the same still, it is
            read and not decoded.
        is_done: nothing is to be read; it holds a place in the order.
    """

    data: bytes | None = None
    path: str | None = None
    offset: int | None = None
    length: int | None = None
    error: tuple[PictureReason, str] | None = None
    known: bytes | None = None
    is_done: bool = False

    @property
    def is_file(self) -> bool:
        """Whether it is a file of its own, not a piece of one."""
        return self.path is not None and self.offset is None and self.length is None


def contents_digest(data: bytes) -> bytes:
    """16 bytes that tell whether a file's contents are those that were seen before."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


@dataclass(frozen=True)
class PicturePart:
    """A stretch of pictures that is listed or stored together: a folder, a tar, a Parquet file, a list, a zip.

    Attributes:
        path: where it is opened; the folder, file or URL as the user named it.
        name: names its shards; unique among the parts of a run.
        kind: "files", "tar", "parquet", "table" or "zip".
        num_rows: pictures in it; None when only reading it through can tell (most tars).
        num_bytes: bytes of the archive or of all its pictures; 0 when unknown (URLs).
        identity: JSON-ready: what it looked like when it was planned (sizes, a digest of names and times); another one is
            another input.
        cuts: rows at which it may be cut into shards, as in `Part`.
        num_ignored: files in it that are no pictures by name or content and no sidecars of one.
        detail: what its reader needs again (a table of paths, column names, ...); `columns`: names of those that can be passed
            through, `schema`: their types as far as they are known.
    """

    path: str
    name: str
    kind: str
    num_rows: int | None
    num_bytes: int
    identity: dict[str, Any]
    cuts: tuple[int, ...] | None = None
    num_ignored: int = 0
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LateLabels:
    """What a source says of pictures after they were given out.

    Attributes:
        rows: (M,) int64, their numbers among those that were asked for.
        said: M rows of columns; they may have any name.
    """

    rows: npt.NDArray[np.int64]
    said: pa.Table


@dataclass(frozen=True)
class PictureBlock:
    """Consecutive pictures of a part.

    Attributes:
        refs: N pictures.
        labels: N rows: `sample` (string, unique in the part) first, then what the source says of each picture.
        late: what the source says, only now, of pictures of this and of earlier blocks; it counts where the labels say nothing.
        remarks: what cannot be said of any picture: a line -> how many times.
        states: (N, 2) int64, of listed files: bytes, and what changes when the file is written again (its time in nanoseconds,
            or a number made of the server's tag); zeros where nothing tells. None: of other pictures.
    """

    refs: list[PictureRef]
    labels: pa.Table
    late: LateLabels | None = None
    remarks: dict[str, int] = field(default_factory=dict)
    states: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How parts of pictures are read.

    Attributes:
        columns: columns of the source to pass through, in this order; ("*",) for all it has (the default).
        sample_column: the column that names pictures in tables and Parquet files; None: found by its usual names.
        picture_column: the column with paths, URLs or bytes; None: found by looking.
        block_rows: at most so many pictures in a block (fewer where bytes are read along).
        block_bytes: about so many bytes of pictures in a block at most.
    """

    columns: tuple[str, ...] = ("*",)
    sample_column: str | None = None
    picture_column: str | None = None
    block_rows: int = 256
    block_bytes: int = 64 << 20


class PictureReader(Protocol):
    """Reads parts of pictures of one kind, as `Reader` those of embeddings. A broken picture is a ref with an `error`."""

    def inspect(self, path: str, name: str, options: SourceOptions) -> PicturePart:
        """Look at listing or header. Raises InputError, naming the file, for anything that holds no pictures."""
        ...

    def blocks(self, part: PicturePart, start: int, stop: int | None, options: SourceOptions) -> Iterator[PictureBlock]:
        """Pictures [start, stop) of `part`, in order; stop None: to its end."""
        ...


def picture_reader(kind: str) -> PictureReader:
    """The reader for a kind of part of pictures."""
    return cast(PictureReader, _reader(_PICTURE_READERS[kind]))


def embedding_reader(kind: str) -> Reader:
    """The reader for a kind of part of embeddings."""
    return cast(Reader, _reader(_EMBEDDING_READERS[kind]))


def _reader(place: str) -> object:
    module, _, name = place.partition(".")
    return getattr(importlib.import_module(f"beholder.sources.{module}"), name)()


def refs_of(part: PicturePart, rows: Sequence[int], options: SourceOptions) -> Iterator[tuple[int, PictureRef]]:
    """(row, picture) of some rows of a part, ascending; rows of one row group, or near to each other, are read together."""
    near = _NEAR_ROWS.get(part.kind, 64)
    stretch: list[int] = []
    for row in [*rows, -1]:
        if stretch and row >= 0 and part.cuts is not None:
            together = bisect.bisect_right(part.cuts, row) == bisect.bisect_right(part.cuts, stretch[-1])
        else:
            together = bool(stretch) and 0 <= row - stretch[-1] <= near
        if stretch and not together:
            wanted = set(stretch)
            at = stretch[0]
            for block in picture_reader(part.kind).blocks(part, at, stretch[-1] + 1, options):
                yield from ((number, ref) for number, ref in enumerate(block.refs, at) if number in wanted)
                at += len(block.refs)
            stretch = []
        stretch.append(row)


def in_blocks(items: Iterable[_Item], bytes_of: Callable[[_Item], int], options: SourceOptions) -> Iterator[list[_Item]]:
    """Items together, as many as a block may have."""
    some: list[_Item] = []
    num_bytes = 0
    for item in items:
        some.append(item)
        num_bytes += bytes_of(item)
        if len(some) >= options.block_rows or num_bytes >= options.block_bytes:
            yield some
            some, num_bytes = [], 0
    if some:
        yield some
