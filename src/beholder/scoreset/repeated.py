"""A score set with each sample once: rows whose sample came before are left out, refused or kept.

Names of large sets are never all in memory: one pass hashes them, and rows whose hashes are alike are looked at again.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.errors import InputError
from beholder.options import ALL, KEEP_FIRST, REFUSE, REPEATED
from beholder.scoreset.row_names import Names
from beholder.scoreset.row_reader import RowReader
from beholder.scoreset.score_set import ScoreSet, open_scores

Rows = npt.NDArray[np.uint32]
Hashes = npt.NDArray[np.uint64]

_SORTED_AT_ONCE = 1 << 24
"""Hashes that are sorted at a time: 128 MiB."""
_BLOCK = 1 << 20
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
    file.
    """
    names = Names(RowReader(scores, num_threads=num_threads))
    if scores.num_rows <= few_rows:
        rows = np.arange(scores.num_rows, dtype=np.uint32)
        samples = names.of(rows)
        _, first_rows = np.unique(samples.dictionary_encode().indices.to_numpy(), return_index=True)
        again = np.setdiff1d(rows, first_rows, assume_unique=True)
        again = again[pc.not_equal(samples.take(pa.array(again)), "").to_numpy(zero_copy_only=False)]
        found: Rows = again.astype(np.uint32)
        return found
    from beholder.kernels.texts import name_hashes

    with tempfile.TemporaryFile(prefix="beholder-hashes-") as scratch:
        hashes = _room(scores.num_rows, sorted_at_once, scratch)

        def put(first: int, found: Hashes) -> None:
            hashes[first : first + len(found)] = found

        names.hashed(0, put)
        alike = _alike(hashes, sorted_at_once)
        alike = alike[alike != name_hashes(np.zeros(2, np.int64), np.zeros(0, np.uint8), 0)]
        if not len(alike):
            return np.empty(0, np.uint32)
        rows = np.concatenate([start + np.flatnonzero(np.isin(part, alike)) for start, part in _blocks(hashes)])
        first = hashes[rows]
    second = np.empty(len(rows), np.uint64)

    def put_second(start: int, found: Hashes) -> None:
        low, high = np.searchsorted(rows, [start, start + len(found)])
        second[low:high] = found[rows[low:high] - start]

    names.hashed(1, put_second)
    order = np.lexsort((rows, second, first))
    same = (first[order][1:] == first[order][:-1]) & (second[order][1:] == second[order][:-1])
    return np.sort(rows[order[1:][same]]).astype(np.uint32)


def _room(num_rows: int, most: int, scratch: IO[bytes]) -> Hashes:
    """Where hashes are kept: in memory where they are few, else in the file."""
    if num_rows <= most:
        return np.empty(num_rows, np.uint64)
    scratch.truncate(8 * num_rows)
    return np.memmap(scratch, np.uint64, shape=(num_rows,))


def _blocks(hashes: Hashes) -> Iterator[tuple[int, Hashes]]:
    for start in range(0, len(hashes), _BLOCK):
        yield start, hashes[start : start + _BLOCK]


def _alike(hashes: Hashes, at_once: int) -> Hashes:
    """Hashes that are there more than once, ascending."""
    bits = max(0, (len(hashes) // at_once).bit_length())
    found = []
    for number in range(1 << bits):
        shares = [part[(part >> np.uint64(64 - bits)) == number] for _, part in _blocks(hashes)] if bits else [hashes]
        these = np.concatenate(shares)
        these.sort()
        found.append(np.unique(these[1:][these[1:] == these[:-1]]))
    return np.concatenate(found)
