"""One `.npy` file in, blocks of its rows out: memory-mapped when local, read ahead in ranges when remote."""

from __future__ import annotations

import ctypes
import errno
import io
import mmap
import os
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError, damaged, reading_failed
from beholder.io import storage
from beholder.io.stream import read_ahead
from beholder.kernels.faults import GuardedRange
from beholder.sources.embeddings.reader import Block, Part, ReadOptions

_MAGIC = b"\x93NUMPY"
_HEADER_BYTES = 1 << 16
_ACCEPTED = {"<f2": "float16", "<f4": "float32", "<f8": "float64"}
_MADV_DONTNEED = 4
_MADV_WILLNEED = 3
_MADV_POPULATE_READ = 22
_EHWPOISON = 133
_UNREADABLE = (errno.EFAULT, errno.EIO, _EHWPOISON)
"""What MADV_POPULATE_READ answers where a read would end the process: beyond the file's end, a failing disk or memory."""
_RESIDENCY_SAMPLES = 32
_PAGE = mmap.PAGESIZE


def check_array(shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> None:
    """Refuse arrays that are not (N, D) little-endian float16, float32 or float64. Raises InputError."""
    if dtype.hasobject:
        raise InputError(
            f"{where} holds Python objects, which are never unpickled; save it as a float array: X.astype('float32')"
        )
    if dtype.str not in _ACCEPTED:
        if dtype.kind in "iu":
            hint = "integer embeddings are quantised; convert them to float16 or float32 with their scale first"
        elif dtype.kind == "f" and dtype.str.startswith(">"):
            hint = "big-endian; convert it: X.astype('<f4')"
        else:
            hint = "embeddings must be float16, float32 or float64"
        raise InputError(f"{where} has dtype {dtype}: {hint}")
    if len(shape) == 1:
        raise InputError(
            f"{where} is 1-D with {shape[0]} values, expected (rows, dimensions); for one embedding save X.reshape(1, -1)"
        )
    if len(shape) != 2:
        raise InputError(f"{where} has shape {shape}, expected 2-D (rows, dimensions)")
    if shape[1] == 0:
        raise InputError(f"{where} has shape {shape}: rows without dimensions cannot be scored")


_PARSING = threading.Lock()
"""One header at a time: numpy has Python parse them, whose count of nested terms (and filter of warnings) threads share; it
refused sound headers with "AST constructor recursion depth mismatch"."""


def read_header(head: bytes, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, Fortran order, dtype and data offset from the first bytes of an `.npy`. Raises InputError."""
    if not head:
        raise InputError(f"{where} is empty (0 bytes)")
    if not head.startswith(_MAGIC):
        raise InputError(f"{where} is not an .npy file: it does not start with \\x93NUMPY")
    stream = io.BytesIO(head)
    with (
        _PARSING,
        damaged(lambda why: InputError(f"{where} has a damaged .npy header: {why}")),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # numpy and Python remark on odd headers; what matters is raised
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        else:
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    if any(isinstance(length, bool) or length < 0 for length in shape):
        raise InputError(f"{where} has a damaged .npy header: its shape is {shape}")
    return shape, fortran, dtype, stream.tell()


def check_end(where: str, num_rows: int, promised: int, num_bytes: int, rest: bytes = b"") -> None:
    """Refuse an array that has other than the promised bytes; `rest`: the first ones behind them. Raises InputError."""
    if num_bytes < promised:
        raise InputError(f"{where} is truncated: its header promises {promised} bytes, and it has {num_bytes}; write it again")
    if num_bytes > promised:
        what = "another array (numpy.save twice on one open file?)" if rest.startswith(_MAGIC) else "what they are is unknown"
        raise InputError(
            f"{where} has {num_bytes - promised} bytes after the {num_rows} rows that its header promises: {what}; "
            "save each array into a file of its own, or all rows as one array"
        )


class NpyReader:
    """Reads `.npy` files. Local float16 and float32 rows are scored where the page cache holds them, without a copy."""

    def inspect(self, path: str, name: str, options: ReadOptions) -> Part:
        """Check magic, header, dtype, shape and that the file is as long as the header promises."""
        num_bytes = storage.size(path)
        shape, fortran, dtype, offset = read_header(storage.read_range(path, 0, _HEADER_BYTES), path)
        check_array(shape, dtype, path)
        expected = offset + shape[0] * shape[1] * dtype.itemsize
        if num_bytes > expected:
            check_end(path, shape[0], expected, num_bytes, storage.read_range(path, expected, expected + len(_MAGIC)))
        if num_bytes < expected:
            whole = max(0, num_bytes - offset) // (shape[1] * dtype.itemsize)
            rows = "" if fortran else f", {whole} whole rows"
            raise InputError(
                f"{path} is truncated: its header promises {shape[0]} rows ({expected} bytes), the file has {num_bytes}{rows}; "
                "write it again"
            )
        detail = {"fortran": fortran, "offset": offset}
        return Part(path, name, "npy", shape[0], shape[1], dtype.name, num_bytes, detail=detail)

    def blocks(self, part: Part, start: int, stop: int | None, options: ReadOptions) -> Iterator[Block]:
        """Rows [start, stop) in blocks of at most `options.block_bytes`."""
        stop = part.num_rows if stop is None else stop
        assert stop is not None
        if storage.is_local(part.path):
            return _mapped_blocks(part, start, stop, options)
        return read_ahead(_remote_blocks(part, start, stop, options))


def _block_starts(part: Part, start: int, stop: int, block_bytes: int) -> Iterator[tuple[int, int]]:
    rows = max(1, block_bytes // (part.dim * np.dtype(part.dtype).itemsize))
    for low in range(start, stop, rows):
        yield low, min(stop, low + rows)


class _Mapping:
    """A read-only mapping of a file, with advice to the system about what is needed next and no longer."""

    def __init__(self, path: str) -> None:
        try:
            self._file = storage.local_path(path).open("rb")
            state = os.fstat(self._file.fileno())
            self.num_bytes, self._written_ns = state.st_size, state.st_mtime_ns
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise reading_failed(path, error if isinstance(error, OSError) else OSError(str(error))) from error
        self._path = path
        self.bytes = np.frombuffer(self._map, np.uint8)
        self._address: int = self.bytes.__array_interface__["data"][0]
        self._guard = GuardedRange(self._address, self._address + self.num_bytes)
        libc = ctypes.CDLL(None, use_errno=True)
        self._madvise = libc.madvise
        self._madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self._mincore = libc.mincore
        self._mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]

    def advise(self, low: int, high: int, advice: int) -> int:
        """Advise on bytes [low, high), rounded out to pages; 0, or the error number.

        Called through ctypes because Python's own `mmap.madvise` keeps the interpreter lock while pages are fetched.
        """
        low = low // _PAGE * _PAGE
        high = min(self.num_bytes, high)
        if high <= low or self._madvise(self._address + low, high - low, advice) == 0:
            return 0
        return ctypes.get_errno()

    def fetch_now(self, low: int, high: int) -> None:
        """Have bytes [low, high) in memory before they are touched. Raises InputError when the file does not hold them now.

        A kernel before 5.14 does not know the advice (EINVAL), and memory may be short (ENOMEM, EAGAIN): then pages come as
        they are touched.
        """
        if self.advise(low, high, _MADV_POPULATE_READ) in _UNREADABLE:
            self.check(is_unreadable=True)

    def fetch_soon(self, low: int, high: int) -> None:
        """Have bytes [low, high) read in the background, unless a sample says that they are in memory already.

        Asking for what is there costs a walk over every page; that is a tenth of the time of scoring it.
        """
        low, high = low // _PAGE * _PAGE, min(self.num_bytes, high)
        if high <= low:
            return
        state = (ctypes.c_ubyte * 1)()
        step = max(_PAGE, (high - low) // _RESIDENCY_SAMPLES // _PAGE * _PAGE)
        for at in range(low, high, step):
            if self._mincore(self._address + at, 1, state) != 0 or not state[0] & 1:
                self.advise(low, high, _MADV_WILLNEED)
                return

    def check(self, *, is_unreadable: bool = False) -> None:
        """Raise InputError when the file changed, or a part could not be read: what was read of it is worth nothing then."""
        state = os.fstat(self._file.fileno())
        if state.st_size < self.num_bytes:
            raise InputError(f"{self._path} was cut short while it was read; restore it and run the same command again")
        if state.st_mtime_ns != self._written_ns:
            raise InputError(f"{self._path} was written to while it was read; run the same command again once it is complete")
        if is_unreadable or self._guard.was_hit:
            raise InputError(
                f"cannot read {self._path}: the device reports an error, or the file was cut short for a while; "
                "check the disk, and run the same command again"
            )

    def close(self) -> None:
        """Let go of the file; the mapping itself lives as long as any array that looks into it."""
        self._guard.release()
        del self.bytes, self._map
        self._file.close()


def _mapped_blocks(part: Part, start: int, stop: int, options: ReadOptions) -> Iterator[Block]:
    offset, dtype = int(part.detail["offset"]), np.dtype(part.dtype)
    assert part.num_rows is not None
    mapping = _Mapping(part.path)
    if mapping.num_bytes < part.num_bytes:
        raise InputError(f"{part.path} was cut short since it was looked at; restore it and run the same command again")
    values = mapping.bytes[offset : offset + part.num_rows * part.dim * dtype.itemsize].view(dtype)
    fortran = bool(part.detail["fortran"])
    rows: npt.NDArray[Any]
    rows = values.reshape(part.dim, part.num_rows).T if fortran else values.reshape(part.num_rows, part.dim)
    del values
    row_bytes = part.dim * dtype.itemsize
    try:
        for low, high in _block_starts(part, start, stop, options.block_bytes):
            mapping.check()
            if fortran:
                yield Block(rows[low:high])
                mapping.check()
                continue
            first, last = offset + low * row_bytes, offset + high * row_bytes
            if low == start:
                mapping.fetch_soon(first, last)
            mapping.fetch_soon(last, min(last + (high - low) * row_bytes, offset + stop * row_bytes))

            def fetch(begin: int, end: int, first: int = first) -> None:
                mapping.fetch_now(first + begin * row_bytes, first + end * row_bytes)

            yield Block(rows[low:high], before_chunk=fetch)
            mapping.check()
            mapping.advise(first, last, _MADV_DONTNEED)
    finally:
        del rows
        mapping.close()


def _remote_blocks(part: Part, start: int, stop: int, options: ReadOptions) -> Iterator[Block]:
    offset, dtype = int(part.detail["offset"]), np.dtype(part.dtype)
    assert part.num_rows is not None
    if part.detail["fortran"]:
        yield from _remote_fortran_blocks(part, start, stop, options)
        return
    row_bytes = part.dim * dtype.itemsize
    for low, high in _block_starts(part, start, stop, options.block_bytes // 4):
        data = storage.read_range(part.path, offset + low * row_bytes, offset + high * row_bytes)
        if len(data) < (high - low) * row_bytes:
            raise InputError(
                f"{part.path} ended early: {len(data)} bytes came instead of {(high - low) * row_bytes}; try again"
            )
        yield Block(np.frombuffer(data, dtype).reshape(high - low, part.dim))


def _remote_fortran_blocks(part: Part, start: int, stop: int, options: ReadOptions) -> Iterator[Block]:
    """Column-major remote files: one range per column and block."""
    offset, dtype = int(part.detail["offset"]), np.dtype(part.dtype)
    assert part.num_rows is not None
    for low, high in _block_starts(part, start, stop, options.block_bytes // 4):
        block = np.empty((part.dim, high - low), dtype)
        for column in range(part.dim):
            at = offset + (column * part.num_rows + low) * dtype.itemsize
            data = storage.read_range(part.path, at, at + (high - low) * dtype.itemsize)
            if len(data) < (high - low) * dtype.itemsize:
                raise InputError(f"{part.path} ended early; try again")
            block[column] = np.frombuffer(data, dtype)
        yield Block(block.T)
