"""Names of rows as Arrow buffers: their order, windows of their bytes, hashes and leading parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.kernels.bits import GOLDEN, splitmix64
from beholder.kernels.compiled import compiled

WINDOW_BYTES = 7
_mixed = compiled(splitmix64)

Offsets = npt.NDArray[np.int64]
Data = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class NameScan:
    """Names of a stretch of rows, seen once.

    Attributes:
        ascending: no name is smaller than the one before it.
        common: bytes that all names begin with.
        first, last: the outermost names.
    """

    ascending: bool
    common: bytes
    first: bytes
    last: bytes


def text_buffers(names: pa.LargeStringArray) -> tuple[Offsets, Data]:
    """Offsets (N + 1,) int64 and UTF-8 data of an Arrow array of large strings without nulls; no copy."""
    if not len(names):
        return np.zeros(1, np.int64), np.zeros(0, np.uint8)
    _, offsets, data = names.buffers()
    all_offsets = np.frombuffer(offsets, np.int64)[names.offset : names.offset + len(names) + 1]
    return all_offsets, np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8)


@compiled
def _scan(offsets, data):  # type: ignore[no-untyped-def]
    """Whether the names ascend, and how many first bytes they share with the first one."""
    ascending = True
    num = len(offsets) - 1
    first = offsets[0]
    shared = offsets[1] - first
    for row in range(1, num):
        start, stop, before = offsets[row], offsets[row + 1], offsets[row - 1]
        length = stop - start
        if ascending:
            least = min(length, start - before)
            i = 0
            while i < least and data[start + i] == data[before + i]:
                i += 1
            ascending = data[start + i] > data[before + i] if i < least else length >= start - before
            if i < shared:
                shared = i  # the one before shares at least `shared` bytes with the first
        else:
            shared = min(shared, length)
            differ = np.uint8(0)
            for i in range(shared):  # without a way out, so that many bytes are compared at once
                differ |= data[np.uint64(start + i)] ^ data[np.uint64(first + i)]
            if differ != 0:
                i = 0
                while data[start + i] == data[first + i]:
                    i += 1
                shared = i
    return ascending, shared


def scan_names(offsets: Offsets, data: Data) -> NameScan:
    """Look through N >= 1 names. offsets: (N + 1,); data: UTF-8 bytes."""
    ascending, shared = _scan(offsets, data)
    first = data[offsets[0] : offsets[1]].tobytes()
    return NameScan(bool(ascending), first[:shared], first, data[offsets[-2] : offsets[-1]].tobytes())


def join_scans(left: NameScan, right: NameScan) -> NameScan:
    """Two neighbouring stretches as one."""
    length = 0
    for a, b in zip(left.common, right.common, strict=False):
        if a != b:
            break
        length += 1
    ascending = left.ascending and right.ascending and left.last <= right.first
    return NameScan(ascending, left.common[:length], left.first, right.last)


@compiled
def _windows(offsets, data, skip, out):  # type: ignore[no-untyped-def]
    for row in range(len(offsets) - 1):
        start = offsets[row] + skip
        have = max(offsets[row + 1] - start, 0)
        window = np.uint64(0)
        for i in range(min(have, 7)):
            window |= np.uint64(data[start + i]) << np.uint64(56 - 8 * i)
        out[row] = window | np.uint64(min(have, 8))


def fill_windows(offsets: Offsets, data: Data, skip: int, out: npt.NDArray[np.uint64]) -> None:
    r"""Bytes [skip, skip + 7) of each name as numbers that compare as the bytes do; out: (N,).

    The lowest byte is how many bytes were there, 8 for more than 7: so "a" comes before "a\0", and equal windows whose lowest
    byte is not 8 are of equal names (if the bytes before `skip` were equal).
    """
    _windows(offsets, data, skip, out)


@compiled
def _eight(data, at):  # type: ignore[no-untyped-def]
    """Bytes [at, at + 8) as a number, the first one lowest; compiled code reads them at once."""
    word = np.uint64(data[at])
    for i in range(1, 8):
        word |= np.uint64(data[at + np.uint64(i)]) << np.uint64(8 * i)
    return word


@compiled
def _hashes(offsets, data, seed, out):  # type: ignore[no-untyped-def]
    base = _mixed(seed + GOLDEN)
    eight = np.uint64(8)
    for row in range(len(offsets) - 1):
        start, stop = np.uint64(offsets[row]), np.uint64(offsets[row + 1])
        found = _mixed(base ^ (stop - start))
        at = start
        while at + eight <= stop:
            found = _mixed((found ^ _eight(data, at)) + GOLDEN)
            at += eight
        if at < stop:
            if at > start:  # the last eight bytes, less those that were mixed in already
                word = _eight(data, stop - eight) >> (eight * (at + eight - stop))
            else:
                word = np.uint64(0)
                shift = np.uint64(0)
                while at < stop:
                    word |= np.uint64(data[at]) << shift
                    at += np.uint64(1)
                    shift += eight
            found = _mixed((found ^ word) + GOLDEN)
        out[row] = found


def name_hashes(offsets: Offsets, data: Data, seed: int) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each name and the seed: chained splitmix64 over 8 bytes at a time. (N,) uint64."""
    out = np.empty(len(offsets) - 1, np.uint64)
    _hashes(offsets, data, np.uint64(seed & 0xFFFFFFFFFFFFFFFF), out)
    return out


def _table(words: tuple[str, ...]) -> tuple[Data, npt.NDArray[np.int64]]:
    """Words one below the other, and their lengths."""
    lengths = np.array([len(word) for word in words])
    table = np.zeros((len(words), int(lengths.max())), np.uint8)
    for row, word in zip(table, words, strict=True):
        row[: len(word)] = np.frombuffer(word.encode(), np.uint8)
    return table, lengths


_ARCHIVES, _ARCHIVE_LENGTHS = _table((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip"))
_TABLES, _TABLE_LENGTHS = _table((".parquet", ".pq", ".csv", ".npy", ".npz"))


@compiled
def _ends_with(data, start, stop, word):  # type: ignore[no-untyped-def]
    """Whether data[start:stop] ends with the word, in any case of ASCII letters."""
    num = len(word)
    if stop - start < num:
        return False
    for i in range(num):
        byte = data[stop - num + i]
        if 65 <= byte <= 90:
            byte += 32
        if byte != word[i]:
            return False
    return True


@compiled
def _ends_with_any(data, start, stop, words, lengths):  # type: ignore[no-untyped-def]
    for number in range(len(lengths)):  # noqa: SIM110 - numba knows no `any` of a generator
        if _ends_with(data, start, stop, words[number, : lengths[number]]):
            return True
    return False


@compiled
def _folder_end(data, start, stop):  # type: ignore[no-untyped-def]
    for at in range(stop - 1, start - 1, -1):
        if data[at] == 47:
            return at
    return start


@compiled
def _source_end(data, start, stop):  # type: ignore[no-untyped-def]
    first_slash = -1
    scheme = -1
    for at in range(start, stop):
        if data[at] == 47:
            if _ends_with_any(data, start, at, _ARCHIVES, _ARCHIVE_LENGTHS):
                return at
            if scheme < 0 and at > start and data[at - 1] == 58 and at + 1 < stop and data[at + 1] == 47:
                scheme = at + 2
            elif first_slash < 0 and at > start and at >= scheme:
                first_slash = at
    at = stop
    while at > start and 48 <= data[at - 1] <= 57:
        at -= 1
    is_numbered = at < stop and at > start and (data[at - 1] == 58 or data[at - 1] == 35)
    if is_numbered and _ends_with_any(data, start, at - 1, _TABLES, _TABLE_LENGTHS):
        return at - 1
    return first_slash if first_slash > 0 else start


@compiled
def _part_ends(offsets, data, by_source, ends, heads):  # type: ignore[no-untyped-def]
    for row in range(len(offsets) - 1):
        start, stop = offsets[row], offsets[row + 1]
        end = _source_end(data, start, stop) if by_source else _folder_end(data, start, stop)
        ends[row] = end
        head = True
        if row > 0 and ends[row - 1] - offsets[row - 1] == end - start:
            before = offsets[row - 1]
            head = False
            for i in range(end - start):
                if data[before + i] != data[start + i]:
                    head = True
                    break
        heads[row] = head


@compiled
def _copy_heads(offsets, data, ends, heads, offsets_out, data_out):  # type: ignore[no-untyped-def]
    at = 0
    number = 0
    for row in range(len(heads)):
        if heads[row]:
            offsets_out[number] = at
            for i in range(offsets[row], ends[row]):
                data_out[at] = data[i]
                at += 1
            number += 1
    offsets_out[number] = at


def leading_parts(
    offsets: Offsets, data: Data, *, by_source: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Data]:
    """The leading part of each name: its folder (up to the last slash), or its source.

    The source is the archive in `TAR/KEY`, the file in `FILE:ROW` and `FILE#ROW` of tables and arrays, else the top folder
    (`photos`, `/data`, `s3://bucket`); empty where there is none.

    Returns:
        (N,) int64 number of the part in the following list; and the list as offsets (P + 1,) and UTF-8 data. Parts that
        follow each other differ; farther apart the same part may stand twice.
    """
    num_rows = len(offsets) - 1
    ends, heads = np.empty(num_rows, np.int64), np.empty(num_rows, np.bool_)
    _part_ends(offsets, data, by_source, ends, heads)
    part_offsets = np.zeros(int(heads.sum()) + 1, np.int64)
    part_data = np.empty(int((ends - offsets[:-1])[heads].sum()), np.uint8)
    _copy_heads(offsets, data, ends, heads, part_offsets, part_data)
    return np.cumsum(heads) - 1, part_offsets, part_data
