"""The embeddings of a score set's rows, matched by sample, as one memory-mapped matrix."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.columns import SAMPLE
from beholder.errors import InputError, writing_failed
from beholder.kernels import ColumnBlock, Embeddings, address_of, scoring, similarity
from beholder.kernels.vectors import LANES
from beholder.models.backbones import same_backbone
from beholder.scoreset.row_names import Names
from beholder.scoreset.row_reader import RowReader
from beholder.scoreset.score_set import ScoreSet
from beholder.sources.find import find_parts
from beholder.sources.labels import ConsecutiveLabels
from beholder.sources.reader import Part, ReadOptions, embedding_reader
from beholder.sources.stamp import find_stamps

Rows = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]
"""Called with what is done and how much it is in all."""

_WRITE_BYTES = 32 << 20


@dataclass(frozen=True)
class Vectors:
    """Embeddings of the rows of a score set.

    Attributes:
        matrix: (K, P) float16 or float32, C order, mapped or in memory; every row has a direction (finite, not all zeros).
            P is the embeddings' dimension rounded up to a multiple of 16, with zeros beyond it. The embeddings of reference
            sets come first.
        place: (N,) int64: for each row of the score set its row in `matrix`, or -1 where it has no embedding.
        dim: the embeddings' own dimension.
        backbone: the model that they are of, by their stamp; None where nobody says.
        num_references: rows of `matrix` that are of reference sets; num_references_left_out: rows of these that have no
            direction.
        reference_names: names of the former, in a file; None where there are none.
    """

    matrix: npt.NDArray[Any]
    place: Rows
    dim: int
    backbone: str | None = None
    num_references: int = 0
    num_references_left_out: int = 0
    reference_names: NamesFile | None = None

    def __post_init__(self) -> None:
        matrix = self.matrix
        if matrix.dtype not in (np.float16, np.float32) or matrix.shape[1] % LANES or not matrix.flags.c_contiguous:
            raise ValueError("a matrix of vectors is C-contiguous float16 or float32, and its width a multiple of 16")

    @staticmethod
    def of(rows: npt.ArrayLike) -> Vectors:
        """Vectors of an (N, D) array of float16, float32 or float64 in memory; rows without a direction have no embedding."""
        given = np.asarray(rows)
        matrix = stored(given, np.dtype(np.float16 if given.dtype == np.float16 else np.float32))
        usable = _usable(matrix)
        place = np.where(usable, np.cumsum(usable) - 1, -1)
        return Vectors(matrix if usable.all() else matrix[usable], place, given.shape[1])


def load_vectors(
    scores: ScoreSet,
    embeddings: str,
    *,
    scratch: Path,
    rows: Rows | None = None,
    references: Sequence[str] = (),
    on_progress: Progress | None = None,
    on_reference: Progress | None = None,
) -> Vectors:
    """Read the embeddings of a score set's rows into a file in `scratch`; memory does not grow with the dimension.

    Rows are matched by sample. Where the names of both are the same, one by one (as in what `beholder score
    --keep-embeddings` writes), that takes no memory, and each row has its own; else all names of the scores are held,
    about 100 bytes a row, and rows of the set that share a sample share its embedding. A row whose embedding is null, not
    finite or all zeros has none.

    Args:
        scores: the score set.
        embeddings: a set of embeddings in any layout that `beholder score` reads, local or remote.
        scratch: a folder on a disk with room for 2 (float16) or 4 bytes a number; the file in it is unlinked, so that it goes
            with the returned value.
        rows: rows of the score set whose embeddings are wanted; None: all.
        references: further sets of embeddings, read whole; names may be those of the set's rows, or there twice.
        on_progress: told the number of embeddings read, and of all.
        on_reference: told the same of the reference sets.

    Raises:
        InputError: nothing to read; no sample of one is in the other; parts of different dimensions; a sample that
            is there twice with different embeddings (which is the picture's cannot be told); a reference set of another
            dimension, or of another model by its stamp.
        OutputError: `scratch` is full or cannot be written.
    """
    parts, options = _find(scores, embeddings)
    dim = parts[0].dim
    odd = next((part for part in parts if part.dim != dim), None)
    if odd is not None:
        raise InputError(f"{odd.path} has embeddings of {odd.dim} dimensions and {parts[0].path} of {dim}; name one set")
    stamps, _ = find_stamps(parts)
    backbone = next((stamp.backbone for stamp in stamps if stamp.backbone), None)
    reference_options = ReadOptions()
    reference_parts = [part for path in references for part in _reference_parts(path, reference_options, parts[0], backbone)]
    is_half = all(part.dtype == "float16" for part in (*parts, *reference_parts))
    dtype = np.dtype(np.float16 if is_half else np.float32)
    wanted = np.full(scores.num_rows, rows is None)
    if rows is not None:
        wanted[rows] = True
    total = total_rows(parts) or scores.num_rows
    for matcher in (_ByPosition, _ByName) if total == scores.num_rows else (_ByName,):
        with contextlib.suppress(_DisagreeError), MatrixFile(scratch, dim, dtype) as out:
            names = NamesFile(scratch) if reference_parts else None
            left_out = _add_references(out, names, reference_parts, reference_options, on_reference)
            num_references = out.num_rows
            place = _place_all(parts, options, matcher(scores, wanted), out, total, on_progress)
            return Vectors(out.matrix(), place, dim, backbone, num_references, left_out, names)
    raise AssertionError("looking up does not disagree")


def total_rows(parts: Sequence[Part]) -> int | None:
    """Rows of all parts; None where one does not tell."""
    known = [part.num_rows for part in parts if part.num_rows is not None]
    return sum(known) if len(known) == len(parts) else None


def _reference_parts(path: str, options: ReadOptions, like_part: Part, backbone: str | None) -> list[Part]:
    """The parts of a reference set. Raises InputError where their embeddings cannot be compared with those of `like_part`."""
    parts = find_parts([path], options)
    odd = next((part for part in parts if part.dim != like_part.dim), None)
    if odd is not None:
        raise InputError(
            f"the reference {odd.path} has embeddings of {odd.dim} dimensions, the pictures' in {like_part.path} have "
            f"{like_part.dim}: they are of different models, and cannot be compared"
        )
    for stamp in find_stamps(parts)[0]:
        if backbone and stamp.backbone and not same_backbone(stamp.backbone, backbone):
            raise InputError(
                f"the reference {path} is of {stamp.backbone} by its stamp, the pictures' embeddings are of {backbone}; "
                "embeddings of different models cannot be compared"
            )
    return parts


def _add_references(
    out: MatrixFile,
    names_file: NamesFile | None,
    parts: Sequence[Part],
    options: ReadOptions,
    on_progress: Progress | None,
) -> int:
    """Put whole sets into the matrix, and their names into a file; returns how many of their rows have no direction."""
    left_out = 0
    with contextlib.closing(pieces_of(parts, options, total_rows(parts) or 0, on_progress)) as pieces:
        for _, names, rows, is_whole in pieces:
            matrix = stored(rows, out.dtype)
            usable = _usable(matrix) & is_whole
            out.add(matrix[usable])
            if names_file is not None:
                names_file.add(names.filter(pa.array(usable)))
            left_out += int((~usable).sum())
    return left_out


def _place_all(
    parts: Sequence[Part],
    options: ReadOptions,
    matcher: _ByPosition | _ByName,
    out: MatrixFile,
    total: int,
    on_progress: Progress | None,
) -> Rows:
    """Put those rows that are wanted into the matrix; (N,) the place of each row of the set in it. Raises _DisagreeError."""
    with contextlib.closing(pieces_of(parts, options, total, on_progress)) as pieces:
        for part, names, rows, is_whole in pieces:
            found = matcher.find(names)
            at = np.flatnonzero((found >= 0) & is_whole)
            if not len(at):
                continue
            matrix = stored(rows[at], out.dtype)
            usable = _usable(matrix)
            at, matrix = at[usable], matrix[usable]
            keys = found[at]
            is_new, known = _new_keys(keys, matcher.places)
            for row in np.flatnonzero(~is_new):  # of a sample that came before
                if not np.array_equal(out.row(int(known[row])) if known[row] >= 0 else matrix[~known[row]], matrix[row]):
                    name = names[int(at[row])].as_py()
                    raise InputError(f"{part.path}: sample {name!r} is there twice with different embeddings; leave one out")
            matcher.places[keys[is_new]] = np.arange(out.num_rows, out.num_rows + int(is_new.sum()))
            out.add(matrix[is_new])
    return matcher.rows()


def _new_keys(keys: Rows, places: Rows) -> tuple[npt.NDArray[np.bool_], Rows]:
    """Which keys have no embedding yet, and where those of the others are: a row, or ~i for number i of these keys."""
    known = places[keys]
    order = np.argsort(keys, kind="stable")
    same = np.zeros(len(keys), np.bool_)
    same[1:] = keys[order][1:] == keys[order][:-1]
    starts = np.maximum.accumulate(np.where(same, 0, np.arange(len(keys))))
    earlier = np.empty(len(keys), np.int64)
    earlier[order] = np.where(same, order[starts], -1)
    repeated = (known < 0) & (earlier >= 0)
    known = np.where(repeated, ~earlier, known)
    return (known < 0) & ~repeated, known


def _find(scores: ScoreSet, embeddings: str) -> tuple[list[Part], ReadOptions]:
    """The parts of the set, named by the column that the scores are named by where they have it."""
    recorded = scores.record.get("options")
    chosen = recorded if isinstance(recorded, dict) else {}
    named = [chosen.get("sample_column"), scores.sample_column if scores.sample_column != SAMPLE else None]
    for name in [*(name for name in named if name), None]:
        options = ReadOptions(sample_column=name)
        try:
            return find_parts([embeddings], options), options
        except InputError:
            if name is None:
                raise
    raise AssertionError("the last of the candidates is None")


def pieces_of(
    parts: Sequence[Part], options: ReadOptions, total: int, on_progress: Progress | None
) -> Generator[tuple[Part, pa.Array, npt.NDArray[Any], npt.NDArray[np.bool_]]]:
    """A few rows at a time: their part, names, embeddings, and which of these are not null or damaged."""
    done = 0
    for part in parts:
        step = max(1, _WRITE_BYTES // (part.dim * 4))
        with contextlib.closing(ConsecutiveLabels(part, 0, part.num_rows or 0, options)) as metadata:
            for block in embedding_reader(part.kind).blocks(part, 0, part.num_rows, options):
                num_rows = block.embeddings.shape[0]
                labels = block.labels if block.labels is not None else metadata.table(num_rows)
                names = labels.column(SAMPLE).cast(pa.large_string())
                names = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
                is_whole = np.ones(num_rows, np.bool_) if block.statuses is None else block.statuses == 0
                for start in range(0, num_rows, step):
                    piece = slice(start, min(num_rows, start + step))
                    yield part, names[piece], _rows_of(block.embeddings, piece), is_whole[piece]
                    done += piece.stop - piece.start
                    if on_progress is not None:
                        on_progress(done, max(done, total))


def _rows_of(embeddings: Embeddings, piece: slice) -> npt.NDArray[Any]:
    if isinstance(embeddings, ColumnBlock):
        return np.stack([column[piece] for column in embeddings.columns], axis=1)
    return embeddings[piece]


def stored(rows: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Rows as the matrix holds them: zeros up to a multiple of 16, and float64 rows scaled by a power of two to fit float32."""
    if rows.dtype.itemsize == 8 and rows.size:
        largest = np.abs(rows).max(axis=1, initial=0.0)
        exponents = np.frexp(np.where(np.isfinite(largest), largest, 1.0))[1]
        rows = np.ldexp(rows, -exponents[:, None])
    out = np.zeros((len(rows), -(-rows.shape[1] // LANES) * LANES), dtype)
    out[:, : rows.shape[1]] = rows
    return out


def _usable(matrix: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """(N,) whether each row has a direction."""
    out = np.empty(len(matrix), np.bool_)
    if len(matrix):
        similarity.usable_rows(*place_of(matrix), out)
    return out


def place_of(matrix: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], int, int, int]:
    """The first arguments of the kernels of similarity: `kernels.address_of`, and the blocks of lanes of a row."""
    return *address_of(matrix), matrix.shape[1] // LANES


def unit_rows(rows: npt.NDArray[Any], out: npt.NDArray[np.float32]) -> None:
    """Write (n, P) rows as float32 of length 1 into `out`, which is as large."""
    rows = np.ascontiguousarray(rows)
    scoring.normalise_rows(*address_of(rows), out)


class _ScratchFile:
    """A growing file without a name in a folder. It is written, not mapped: a full disk is an error and not the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with self._errors():
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, prefix="vectors-")  # noqa: SIM115 (closed with this)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise writing_failed(str(self._folder), error) from error

    def append(self, data: Any) -> int:
        """Write bytes at the end; returns where they begin. Raises OutputError."""
        with self._errors():
            start = self._file.seek(0, os.SEEK_END)
            self._file.write(data)
        return start


class MatrixFile(_ScratchFile):
    """A growing matrix in a file."""

    def __init__(self, folder: Path, dim: int, dtype: np.dtype[Any]) -> None:
        super().__init__(folder)
        self.width, self.dtype, self.num_rows = -(-dim // LANES) * LANES, dtype, 0

    def __enter__(self) -> MatrixFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Append rows of the right width and type. Raises OutputError."""
        self.append(np.ascontiguousarray(rows).data)
        self.num_rows += len(rows)

    def row(self, number: int) -> npt.NDArray[Any]:
        """A row that was added."""
        num_bytes = self.width * self.dtype.itemsize
        with self._errors():
            self._file.seek(number * num_bytes)
        return np.frombuffer(self._file.read(num_bytes), self.dtype)

    def matrix(self) -> npt.NDArray[Any]:
        """All rows, mapped for reading; the disk's space is given back with the array."""
        with self._errors():
            self._file.flush()
        if not self.num_rows:
            return np.empty((0, self.width), self.dtype)
        return np.memmap(self._file, self.dtype, "r", shape=(self.num_rows, self.width))


class NamesFile(_ScratchFile):
    """A growing list of names in a file, of which a few are read again."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._edges = [0]
        self._starts: list[int] = []

    def add(self, names: pa.Array) -> None:
        """Append large strings. Raises OutputError."""
        if not len(names):
            return
        sink = pa.BufferOutputStream()
        table = pa.table({SAMPLE: names})
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        self._starts.append(self.append(sink.getvalue()))
        self._edges.append(self._edges[-1] + len(names))

    def take(self, numbers: Rows) -> pa.Array:
        """(M,) numbers -> (M,) names, as large strings."""
        wanted, back = np.unique(np.asarray(numbers, np.int64), return_inverse=True)
        found = [pa.array([], pa.large_string())]
        pieces = np.searchsorted(self._edges, wanted, side="right") - 1
        for piece in np.unique(pieces).tolist():
            self._file.seek(self._starts[piece])
            names = pa.ipc.open_stream(self._file).read_all().column(0).combine_chunks()
            found.append(names.take(pa.array(wanted[pieces == piece] - self._edges[piece])))
        return pa.concat_arrays(found).take(pa.array(back.reshape(-1)))


class _DisagreeError(Exception):
    """The names of the embeddings are not those of the score set in the same order."""


class _ByPosition:
    """From names of embeddings to rows of a score set, as long as they are the same, one by one. Keys are the set's rows.

    Attributes:
        places: (K,) key -> row of its embedding in the matrix, or -1.
    """

    def __init__(self, scores: ScoreSet, wanted: npt.NDArray[np.bool_]) -> None:
        self._wanted, self._names, self._at = wanted, scores.samples(), 0
        self._left = pa.chunked_array([], pa.large_string())
        self.places = np.full(scores.num_rows, -1, np.int64)

    def find(self, names: pa.Array) -> Rows:
        """(n,) keys of those names that are wanted, -1 for others. Raises _DisagreeError."""
        while len(self._left) < len(names) and (more := next(self._names, None)) is not None:
            self._left = pa.chunked_array([*self._left.chunks, *more.chunks], pa.large_string())
        if not self._left.slice(0, len(names)).equals(pa.chunked_array([names])):
            raise _DisagreeError
        self._left = self._left.slice(len(names))
        rows = np.arange(self._at, self._at + len(names))
        self._at += len(names)
        return np.where(self._wanted[rows], rows, -1)

    def rows(self) -> Rows:
        """(N,) the place of each row of the set. Raises _DisagreeError when the set goes on."""
        if self._at != len(self.places):
            raise _DisagreeError
        return self.places


class _ByName:
    """From names of embeddings to rows of a score set, looked up. Keys are the numbers of the set's different samples.

    Attributes:
        places: (K,) key -> row of its embedding in the matrix, or -1.
    """

    def __init__(self, scores: ScoreSet, wanted: npt.NDArray[np.bool_]) -> None:
        names = pa.chunked_array([chunk for batch in scores.samples() for chunk in batch.chunks], pa.large_string())
        encoded = names.dictionary_encode().combine_chunks()
        self._samples = encoded.dictionary
        self._keys: Rows = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        self.places = np.full(len(self._samples), -1, np.int64)
        self._wanted = np.zeros(len(self._samples), np.bool_)
        self._wanted[self._keys[wanted]] = True
        self._has_any, self._example = False, ""
        self._source = scores.source

    def find(self, names: pa.Array) -> Rows:
        """(n,) keys of those names that are wanted, -1 for others."""
        found: Rows = pc.index_in(names, value_set=self._samples).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        self._has_any |= bool((found >= 0).any())
        self._example = self._example or (names[0].as_py() if len(names) else "")
        found[found >= 0] = np.where(self._wanted[found[found >= 0]], found[found >= 0], -1)
        return found

    def rows(self) -> Rows:
        """(N,) the place of each row of the set. Raises InputError when no name was in the set."""
        if not self._has_any and self._example and len(self._samples):
            raise InputError(
                f"the embeddings hold none of the pictures of {self._source}: their samples are as {self._example!r}, those of"
                f" the scores as {self._samples[0].as_py()!r}; name the embeddings of these pictures, in the same way"
            )
        places: Rows = self.places[self._keys]
        return places


def samples_of(scores: ScoreSet, rows: Rows | Sequence[int]) -> pa.Array:
    """Names of rows of a score set, as large strings, in the order of `rows`; reads the set once."""
    wanted, back = np.unique(np.asarray(rows, np.int64), return_inverse=True)
    return Names(RowReader(scores)).of(wanted.astype(np.uint32)).take(pa.array(back.reshape(-1)))
