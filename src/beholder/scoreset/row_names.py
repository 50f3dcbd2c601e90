"""The samples of a score set: names of chosen rows, whether all ascend, windows of their bytes, their hashes.

Names are never all in memory: they are streamed, and kept only for rows that are few.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.errors import InputError
from beholder.kernels.ordering import Chosen
from beholder.options import ALL, KEEP_FIRST, REFUSE, REPEATED
from beholder.scoreset.row_reader import RowReader
from beholder.scoreset.score_set import ScoreSet, open_scores

if TYPE_CHECKING:
    from beholder.kernels.texts import NameScan

Rows = npt.NDArray[np.uint32]
T = TypeVar("T")

FEW_ROWS = 4_000_000
"""So many rows' names may be held in memory."""


class Names:
    """The samples of a set. `on_rows` hears of rows that were read, with what for."""

    def __init__(self, reader: RowReader, on_rows: Callable[[str, int], None] | None = None) -> None:
        self._reader = reader
        self._column = reader.scores.sample_column
        self._on_rows = on_rows
        self._scan: NameScan | None = None
        self._kept_rows: Rows | None = None
        self._kept = pa.array([], pa.large_string())

    def map(
        self, what: str, work: Callable[[int, pa.LargeStringArray], T], wanted: Callable[[int, int], bool] | None = None
    ) -> Iterator[T]:
        """`work(first row, names)` on pieces, by several threads at once; results in order."""

        def do(first: int, table: pa.Table) -> T:
            return work(first, whole(self._reader.scores.names_in(table.column(0), first)))

        def tell(num_rows: int) -> None:
            if self._on_rows is not None:
                self._on_rows(what, num_rows)

        return self._reader.map([self._column], do, wanted=wanted, on_rows=tell)

    def of(self, rows: Rows) -> pa.LargeStringArray:
        """Names of these rows, which ascend; they are kept for the next call. For up to about FEW_ROWS."""
        found = self.remembered(rows)
        if found is not None:
            return found
        chosen = Chosen(rows)

        def take(first: int, names: pa.LargeStringArray) -> pa.LargeStringArray:
            return names.take(pa.array(chosen.inside(first, len(names))))

        pieces = list(self.map("names", take, chosen.any))
        self._kept = pa.concat_arrays(pieces) if pieces else pa.array([], pa.large_string())
        self._kept_rows = rows
        assert len(self._kept) == len(rows)
        return self._kept

    def remembered(self, rows: Rows) -> pa.LargeStringArray | None:
        """The names of these ascending rows, if the last call of `of` was about all of them; else None."""
        if self._kept_rows is None or len(rows) > len(self._kept_rows):
            return None
        places = np.searchsorted(self._kept_rows, rows)
        if len(rows) and (places[-1] >= len(self._kept_rows) or not np.array_equal(self._kept_rows[places], rows)):
            return None
        return self._kept if len(rows) == len(self._kept_rows) else self._kept.take(pa.array(places))

    def scan(self) -> NameScan:
        """Whether all names ascend in row order, and what they all begin with. One pass, done once."""
        if self._scan is None:
            self._scan = _joined(self.map("order of names", _looked))
        return self._scan

    def windows(self, skip: int, out: npt.NDArray[np.uint64]) -> None:
        """`texts.fill_windows` for every row of the set; out: (N,)."""
        from beholder.kernels import texts

        def fill(first: int, names: pa.LargeStringArray) -> None:
            texts.fill_windows(*texts.text_buffers(names), skip, out[first : first + len(names)])

        for _ in self.map("names that tie", fill):
            pass

    def first_windows(self, out: npt.NDArray[np.uint64]) -> int | None:
        """Windows of what comes after the bytes that all names begin with; out: (N,). N is at least 1.

        Returns:
            how many bytes that are; None where the names ascend in row order, and `out` holds nothing.
        """
        guess = self._scan or self._first_scan()
        if guess.ascending:
            guess = self.scan()
            if guess.ascending:
                return None
        skip = len(guess.common)
        if self._scan is not None:
            self.windows(skip, out)
            return skip

        from beholder.kernels import texts

        def look(first: int, names: pa.LargeStringArray) -> NameScan | None:
            offsets, data = texts.text_buffers(names)
            texts.fill_windows(offsets, data, skip, out[first : first + len(names)])
            return texts.scan_names(offsets, data) if len(names) else None

        self._scan = _joined(self.map("names that tie", look))
        if len(self._scan.common) < skip:  # what the first names share, others do not
            skip = len(self._scan.common)
            self.windows(skip, out)
        return skip

    def _first_scan(self) -> NameScan:
        """Of the names that are read first."""
        return _joined(self.map("order of names", _looked, lambda start, _: start == 0))

    def hashed(self, seed: int, use: Callable[[int, npt.NDArray[np.uint64]], None]) -> None:
        """`use(first row, hashes)` on pieces of `texts.name_hashes`, by several threads at once."""
        from beholder.kernels import texts

        def do(first: int, names: pa.LargeStringArray) -> None:
            use(first, texts.name_hashes(*texts.text_buffers(names), seed))

        for _ in self.map("drawing", do):
            pass


def _looked(_: int, names: pa.LargeStringArray) -> NameScan | None:
    from beholder.kernels import texts

    return texts.scan_names(*texts.text_buffers(names)) if len(names) else None


def _joined(scans: Iterator[NameScan | None]) -> NameScan:
    from beholder.kernels import texts

    found = [scan for scan in scans if scan is not None]
    return reduce(texts.join_scans, found) if found else texts.NameScan(True, b"", b"", b"")


def whole(column: pa.ChunkedArray) -> pa.LargeStringArray:
    """A chunked array as one array."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


Hashes = npt.NDArray[np.uint64]

_SORTED_AT_ONCE = 1 << 24
"""Hashes that are sorted at a time: 128 MiB."""
_LEAST_STRETCH = 1 << 19
_FEW_ROWS = 1 << 19
"""So many names are held in memory and compared as they are, sooner than numba is loaded."""


@contextlib.contextmanager
def open_each_once(
    source: str | pa.Table,
    repeated: str = KEEP_FIRST,
    *,
    score_column: str | None = None,
    sample_column: str | None = None,
    num_threads: int = 1,
) -> Iterator[ScoreSet]:
    """`open_scores`, with each sample once.

    Args:
        source: as `open_scores` takes it.
        repeated: "keep-first": of rows of one sample the first stays, the others are left out (`ScoreSet.left_out`), and a note
            of the set says how many; "refuse": InputError where a sample is named twice; "all": as it is.
        score_column: as `open_scores` takes it.
        sample_column: the same.
        num_threads: threads that read.

    Raises:
        InputError: as `open_scores`; another word for `repeated`; a sample that is named twice, with "refuse".
    """
    if repeated not in REPEATED:
        raise InputError(f"--repeated {repeated}: one of {', '.join(REPEATED)}")
    with contextlib.ExitStack() as opened:
        scores = opened.enter_context(open_scores(source, score_column=score_column, sample_column=sample_column))
        again = repeated_rows(scores, num_threads) if repeated != ALL else np.empty(0, np.uint32)
        if not len(again):
            yield scores
            return
        name = Names(RowReader(scores)).of(again[:1])[0].as_py()
        rows, name_again = ("1 row", "names") if len(again) == 1 else (f"{len(again):,} rows", "name")
        told = f"{rows} of {scores.source} {name_again} a sample that came before (the first: {name!r})"
        if repeated == REFUSE:
            raise InputError(f"{told}; leave files out, or keep the first row of each with --repeated keep-first")
        note = f"{told}; the first row of each sample is kept (--repeated)"
        yield replace(scores, left_out=again, notes=(*scores.notes, note))


def repeated_rows(
    scores: ScoreSet, num_threads: int = 1, *, sorted_at_once: int = _SORTED_AT_ONCE, few_rows: int = _FEW_ROWS
) -> Rows:
    """Rows, ascending, whose sample an earlier row has; rows without a name have none.

    Of more than `few_rows`, two hashes of 64 bits tell samples apart, which no two names share but by a miracle. Memory:
    8 bytes for each of `sorted_at_once` rows, and 40 for each row whose hash is there again; what is more lies in a temporary
    file, 8 bytes a row, that is written once and read once.
    """
    names = Names(RowReader(scores, num_threads=num_threads))
    if scores.num_rows <= few_rows:
        all_rows = np.arange(scores.num_rows, dtype=np.uint32)
        samples = names.of(all_rows)
        _, first_rows = np.unique(samples.dictionary_encode().indices.to_numpy(), return_index=True)
        again = np.setdiff1d(all_rows, first_rows, assume_unique=True)
        again = again[pc.not_equal(samples.take(pa.array(again)), "").to_numpy(zero_copy_only=False)]
        found: Rows = again.astype(np.uint32)
        return found
    alike = _alike(names, scores.num_rows, sorted_at_once)
    if not len(alike):
        return np.empty(0, np.uint32)
    rows, first, second = _rows_with(names, alike)
    order = np.lexsort((rows, second, first))
    same = (first[order][1:] == first[order][:-1]) & (second[order][1:] == second[order][:-1])
    return np.sort(rows[order[1:][same]]).astype(np.uint32)


def _alike(names: Names, num_rows: int, at_once: int) -> Hashes:
    """Hashes that are there more than once, ascending, but for that of the empty name.

    Hashes are put into a file stretch by stretch, each in order, so that a share of all hashes (those with the same upper
    bits, about `at_once`) is a run in each stretch; then shares are read and sorted one after another.
    """
    from beholder.kernels import texts

    bits = max(0, (num_rows // at_once).bit_length())
    edges = np.arange(1, 1 << bits, dtype=np.uint64) << np.uint64(64 - bits)

    def sorted_hashes(_: int, found: pa.LargeStringArray) -> Hashes:
        hashes = texts.name_hashes(*texts.text_buffers(found), 0)
        hashes.sort()
        return hashes

    alike = []
    with tempfile.SpooledTemporaryFile(8 * at_once, prefix="beholder-hashes-") as scratch:
        starts, first = [], 0  # of the runs of each stretch, in hashes from the start of the file
        for hashes in _stretches(names.map("samples that come twice", sorted_hashes)):
            starts.append(first + np.concatenate([[0], np.searchsorted(hashes, edges), [len(hashes)]]))
            first += len(hashes)
            scratch.write(hashes.data)
        for number in range(len(edges) + 1):
            share = np.empty(sum(int(at[number + 1] - at[number]) for at in starts), np.uint64)
            end = 0
            for at in starts:
                start, end = end, end + int(at[number + 1] - at[number])
                scratch.seek(8 * int(at[number]))
                share[start:end] = np.frombuffer(scratch.read(8 * (end - start)), np.uint64)
            share.sort()
            alike.append(np.unique(share[1:][share[1:] == share[:-1]]))
    found: Hashes = np.setdiff1d(np.concatenate(alike), texts.name_hashes(np.zeros(2, np.int64), np.zeros(0, np.uint8), 0))
    return found


def _stretches(pieces: Iterator[Hashes]) -> Iterator[Hashes]:
    """Ascending hashes of pieces; small pieces are put together, each stretch ascending."""
    waiting: list[Hashes] = []
    count = 0
    for piece in pieces:
        waiting.append(piece)
        count += len(piece)
        if count >= _LEAST_STRETCH:
            yield np.sort(np.concatenate(waiting)) if len(waiting) > 1 else piece
            waiting, count = [], 0
    if waiting:
        yield np.sort(np.concatenate(waiting))


def _rows_with(names: Names, alike: Hashes) -> tuple[npt.NDArray[np.int64], Hashes, Hashes]:
    """Rows, ascending, whose hash is one of these, which ascend: (rows, their hashes, hashes of another seed)."""
    from beholder.kernels import texts

    def look(first: int, found: pa.LargeStringArray) -> tuple[npt.NDArray[np.int64], Hashes, Hashes]:
        hashes = texts.name_hashes(*texts.text_buffers(found), 0)
        places = np.flatnonzero(alike[np.minimum(np.searchsorted(alike, hashes), len(alike) - 1)] == hashes)
        others = texts.name_hashes(*texts.text_buffers(found.take(pa.array(places))), 1)
        return places + first, hashes[places], others

    pieces = list(names.map("samples that come twice", look))
    rows, hashes, others = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return rows, hashes, others
