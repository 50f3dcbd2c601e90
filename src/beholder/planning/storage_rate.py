"""Measures reading and writing of a place, past the page cache as far as the system lets one."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

import numpy as np

from beholder.errors import reading_failed, writing_failed
from beholder.io import locations, storage, writing
from beholder.io.page_cache import share_in_memory
from beholder.planning.rates import Clock, StorageRate

_PIECE_BYTES = 8 << 20
_MOST_BYTES = 512 << 20
_CACHED_SHARE = 0.5


def measure_storage(place: str, *, seconds: float, clock: Clock) -> StorageRate:
    """Bytes a second of a new file there, which is deleted again: written and flushed, then read.

    Before a local file is read, the system is asked to forget it (posix_fadvise); `is_cached` says that it did not, as on disks
    in memory. What lies below the system (a disk's own memory, the host of a virtual machine) may still have it.

    Raises BeholderError: the place cannot be written or read.
    """
    path = f"{place.rstrip('/')}/.beholder-bench-{secrets.token_hex(4)}.tmp"
    piece = np.random.default_rng(0).bytes(_PIECE_BYTES)
    try:
        if locations.is_local(path):
            return _local(place, locations.local_path(path), piece, seconds, clock)
        return _remote(place, path, piece, seconds, clock)
    finally:
        with contextlib.suppress(OSError):
            writing.remove(path)


def _local(place: str, path: Path, piece: bytes, seconds: float, clock: Clock) -> StorageRate:
    try:
        with path.open("wb", buffering=0) as file:
            began, written = clock(), 0
            while written < _MOST_BYTES and (not written or clock() - began < seconds / 3):
                written += file.write(piece)  # which may be a part of it
            os.fsync(file.fileno())
            write_s = clock() - began
    except OSError as error:
        raise writing_failed(str(path), error) from error
    try:
        with path.open("rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            in_memory = share_in_memory([path])
            is_cached = in_memory is None or in_memory > _CACHED_SHARE
            began, read = clock(), 0
            while (not read or clock() - began < seconds / 3) and (found := file.read(_PIECE_BYTES)):
                read += len(found)
            read_s = clock() - began
    except OSError as error:
        raise reading_failed(str(path), error) from error
    return StorageRate(
        place=place,
        read_bytes_per_second=read / max(read_s, 1e-9),
        write_bytes_per_second=written / max(write_s, 1e-9),
        is_cached=is_cached,
    )


def _remote(place: str, path: str, piece: bytes, seconds: float, clock: Clock) -> StorageRate:
    began, written = clock(), 0
    with writing.open_whole(path, num_bytes=_MOST_BYTES) as file:
        while written < _MOST_BYTES and (not written or clock() - began < seconds / 3):
            file.write(piece)
            written += len(piece)
    write_s = clock() - began
    began, read = clock(), 0
    while read < written and (not read or clock() - began < seconds / 3):
        read += len(storage.read_range(path, read, min(written, read + _PIECE_BYTES)))
    return StorageRate(
        place=place,
        read_bytes_per_second=read / max(clock() - began, 1e-9),
        write_bytes_per_second=written / max(write_s, 1e-9),
        is_cached=False,
    )
