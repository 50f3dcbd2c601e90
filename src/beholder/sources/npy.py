"""Readers of `.npy` files (memory-mapped when local, read ahead in ranges when remote) and of `.npz` archives (streamed)."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import math
import mmap
import os
import sys
import threading
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder import columns
from beholder.errors import InputError, damaged, reading_failed
from beholder.io import locations, remote, storage
from beholder.io.page_cache import is_in_memory
from beholder.io.stream import read_ahead
from beholder.kernels.faults import GuardedRange
from beholder.sources.labels import choose_label_columns, choose_sample_column, refuse_columns, select_labels
from beholder.sources.reader import Block, Part, ReadOptions

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
        if fortran and not locations.is_local(path):
            raise InputError(
                f"{path} is in Fortran order, which is read from this machine only; copy it here, or save it in C order: "
                "numpy.ascontiguousarray(X)"
            )
        detail = {"fortran": fortran, "offset": offset}
        return Part(path, name, "npy", shape[0], shape[1], dtype.name, num_bytes, detail=detail)

    def blocks(self, part: Part, start: int, stop: int | None, options: ReadOptions) -> Iterator[Block]:
        """Rows [start, stop) in blocks of at most `options.block_bytes`."""
        stop = part.num_rows if stop is None else stop
        assert stop is not None
        if locations.is_local(part.path):
            return _mapped_blocks(part, start, stop, options)
        return read_ahead(_remote_blocks(part, start, stop, options))


class _Mapping:
    """A read-only mapping of a file, with advice to the system about what is needed next and no longer."""

    def __init__(self, path: str) -> None:
        try:
            self._file = storage.open_local(locations.local_path(path))
            state = os.fstat(self._file.fileno())
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            self.num_bytes, self._written_ns = len(self._map), state.st_mtime_ns  # (it may be cut since the time was asked for)
        except (OSError, ValueError) as error:
            raise reading_failed(path, error if isinstance(error, OSError) else OSError(str(error))) from error
        self._path = path
        self.bytes = np.frombuffer(self._map, np.uint8)
        self._address: int = self.bytes.__array_interface__["data"][0]
        self._guard = GuardedRange(self._address, self._address + self.num_bytes)
        libc = ctypes.CDLL(None, use_errno=True)
        self._madvise = libc.madvise
        self._madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

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

        Asking for pages that are in memory goes over every page; that is a tenth of the time of scoring it.
        """
        low, high = low // _PAGE * _PAGE, min(self.num_bytes, high)
        if high <= low:
            return
        step = max(_PAGE, (high - low) // _RESIDENCY_SAMPLES // _PAGE * _PAGE)
        for at in range(low, high, step):
            if not is_in_memory(self._address + at):
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
    end = offset + part.num_rows * part.dim * dtype.itemsize
    if mapping.num_bytes < max(part.num_bytes, end):  # (it may have been cut before its size was asked for)
        raise InputError(f"{part.path} was cut short since it was looked at; restore it and run the same command again")
    values = mapping.bytes[offset:end].view(dtype)
    fortran = bool(part.detail["fortran"])
    rows: npt.NDArray[Any]
    rows = values.reshape(part.dim, part.num_rows).T if fortran else values.reshape(part.num_rows, part.dim)
    del values
    row_bytes = part.dim * dtype.itemsize
    try:
        num_rows = max(1, options.block_bytes // row_bytes)
        for low in range(start, stop, num_rows):
            high = min(stop, low + num_rows)
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
    row_bytes = part.dim * dtype.itemsize
    num_rows = max(1, options.block_bytes // 4 // row_bytes)
    for low in range(start, stop, num_rows):
        high = min(stop, low + num_rows)
        data = storage.read_range(part.path, offset + low * row_bytes, offset + high * row_bytes)
        if len(data) < (high - low) * row_bytes:
            raise InputError(
                f"{part.path} ended early: {len(data)} bytes came instead of {(high - low) * row_bytes}; try again"
            )
        yield Block(np.frombuffer(data, dtype).reshape(high - low, part.dim))


_PREFERRED = ("embeddings", "embedding", "img_emb", "image_embeddings", "features", "arr_0")
_USUAL = {"samples": columns.SAMPLE, "names": columns.SAMPLE, "paths": "path", "ids": "id", "keys": "key"}
"""What arrays of labels are called in archives -> the columns that they are."""
_MOST_LABEL_BYTES = 1 << 20
"""Of one value; fixed-width text has as many bytes in every row as in the longest."""
_LABEL_BLOCK_BYTES = 32 << 20
_MOST_TEXT_BYTES = 64 << 20
_MOST_RATIO = 16
_ROW_TEXT_BYTES = 256
"""Text of an archive's labels that is read may take `_MOST_TEXT_BYTES`, or so many times what it takes in the file, or so many
bytes in a row: numbers and short words that are the same in all rows pack to next to nothing."""


@dataclass(frozen=True)
class _Array:
    """An array of an archive, as its header says. `offset`: where its numbers begin in the member."""

    key: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int

    def unfit(self, num_rows: int) -> str | None:
        """Why it cannot be a column of `num_rows` labels; None: it can."""
        if self.dtype.hasobject:
            return f"it holds Python objects, which are never unpickled; save it as text: {self.key}.astype(str)"
        if self.shape != (num_rows,):
            return f"its shape is {self.shape}, and there are {num_rows} rows"
        if self.dtype.kind not in "USiufb":
            return f"it is of type {self.dtype}; save it as text: {self.key}.astype(str)"
        if self.dtype.itemsize > _MOST_LABEL_BYTES:
            return f"each of its values takes {self.dtype.itemsize:,} bytes; save shorter texts"
        return None


class NpzReader:
    """Reads `.npz` files: one 2-D float array, and 1-D arrays of text or numbers of the same length as labels."""

    def inspect(self, path: str, name: str, options: ReadOptions) -> Part:
        """Read the headers of the archive's arrays and choose the embeddings. Raises InputError, also for labels unfit."""
        num_bytes = storage.size(path)
        with remote.read_errors(path), _open_archive(path) as archive:
            _check_only(archive, path)
            infos = {info.filename[:-4]: info for info in archive.infolist() if info.filename.endswith(".npy")}
            arrays = {key: _header(archive, info, key, path) for key, info in infos.items()}
            found = arrays[_choose(arrays, options.embedding_column, path)]
            where = f"{path}[{found.key}]"
            check_array(found.shape, found.dtype, where)
            if found.fortran:
                raise InputError(f"{where} is in Fortran order, which cannot be streamed from an archive; save it as .npy")
            labels = _label_columns(arrays, found, options, path)
            for key in (found.key, *labels.values()):
                promised = arrays[key].offset + math.prod(arrays[key].shape) * arrays[key].dtype.itemsize
                check_end(f"{path}[{key}]", arrays[key].shape[0], promised, infos[key].file_size)
        kinds = pa.schema([(column, _column_type(arrays[key].dtype)) for column, key in labels.items()])
        detail = {"key": found.key, "arrays": labels, "labels": kinds}
        return Part(path, name, "npz", found.shape[0], found.shape[1], found.dtype.name, num_bytes, cuts=(), detail=detail)

    def blocks(self, part: Part, start: int, stop: int | None, options: ReadOptions) -> Iterator[Block]:
        """Rows [start, stop), inflated a block at a time."""
        return read_ahead(_stream(part, start, stop, options))


def _choose(arrays: Mapping[str, _Array], wanted: str | None, path: str) -> str:
    if wanted is not None:
        if wanted not in arrays:
            raise InputError(f"{path} has no array {wanted!r}; it has: {', '.join(sorted(arrays)) or 'none'}")
        return wanted
    for key in _PREFERRED:
        if key in arrays:
            return key
    found = [key for key, array in arrays.items() if len(array.shape) == 2 and array.dtype.kind == "f"]
    if len(found) == 1:
        return found[0]
    listing = ", ".join(f"{key} {array.shape} {array.dtype}" for key, array in sorted(arrays.items())) or "none"
    raise InputError(f"{path}: which array holds the embeddings? Name it with --embedding-column; it has: {listing}")


def _label_columns(arrays: Mapping[str, _Array], embeddings: _Array, options: ReadOptions, path: str) -> dict[str, str]:
    """Column -> array of what the labels are made of. Raises InputError when one that is wanted cannot be a column."""
    asked = {*options.columns, options.sample_column}
    others = {key: array for key, array in arrays.items() if key != embeddings.key}
    named: dict[str, str] = {}
    order = [*(key for key in _USUAL if key in others), *(key for key in others if key not in _USUAL)]
    for key in sorted(order, key=lambda key: others[key].unfit(embeddings.shape[0]) is not None):  # those that fit go first
        usual = _USUAL.get(key, key)
        named[key if key in asked or usual in arrays or usual in named else usual] = key
    unfit = {name: why for name, key in named.items() if (why := others[key].unfit(embeddings.shape[0])) is not None}
    sample = choose_sample_column(named, options.sample_column, path) if named else options.sample_column
    wanted = [name for name in (sample, *options.columns) if name in unfit]
    if "*" in options.columns:  # what has a value a row is a column
        wanted += [name for name in unfit if others[named[name]].shape == embeddings.shape[:1]]
    if wanted:
        key = named[wanted[0]]
        hint = "; or leave it out of the file" if wanted[0] == sample and options.sample_column is None else ""
        raise InputError(f"{path}[{key}] cannot be a column of labels: {unfit[wanted[0]]}{hint}")
    return {name: key for name, key in named.items() if name not in unfit}


def _damage(where: str) -> contextlib.AbstractContextManager[None]:
    return damaged(lambda why: InputError(f"{where} is damaged: {why}; write it again"))


@contextlib.contextmanager
def _open_archive(path: str) -> Iterator[zipfile.ZipFile]:
    with storage.open_binary(path) as file:
        with damaged(lambda why: InputError(f"{path} is not a whole .npz archive: {why}; write it again")):
            archive = zipfile.ZipFile(file)
        yield archive


def _check_only(archive: zipfile.ZipFile, path: str) -> None:
    """Refuse what numpy.savez writes when it is called twice on one open file, where the first archive would be lost."""
    first = min((info.header_offset for info in archive.infolist()), default=0)
    if first:
        raise InputError(
            f"{path} has {first} bytes before its arrays: perhaps another archive (numpy.savez twice on one open file); "
            "save each into a file of its own"
        )
    names = archive.namelist()
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise InputError(f"{path} has two arrays called {twice.removesuffix('.npy')!r}; save it again under two names")


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo, key: str, path: str) -> _Array:
    where = f"{path}[{key}]"
    with _member(archive, info.filename, path) as stream:
        shape, fortran, dtype, offset = read_header(_read(stream, _HEADER_BYTES, where), where)
    return _Array(key, shape, fortran, dtype, offset)


def _member(archive: zipfile.ZipFile, name: str, path: str) -> IO[bytes]:
    with _damage(path):
        try:
            return archive.open(name)
        except (NotImplementedError, RuntimeError) as error:  # an unknown compression, a password
            raise InputError(f"{path}: {name} cannot be unpacked ({error}); write it with numpy.savez") from None


def _read(stream: IO[bytes], num_bytes: int, where: str) -> bytes:
    with _damage(where):
        return stream.read(num_bytes)


class _Rows:
    """The rows of one array of an opened archive, from front to back."""

    def __init__(self, archive: zipfile.ZipFile, key: str, path: str, start: int) -> None:
        self.where = f"{path}[{key}]"
        self._stream = _member(archive, f"{key}.npy", path)
        shape, _, self.dtype, offset = read_header(_read(self._stream, _HEADER_BYTES, self.where), self.where)
        self._dim = shape[1:]
        self.row_bytes = math.prod(self._dim) * self.dtype.itemsize
        with _damage(self.where):
            self._stream.seek(offset + start * self.row_bytes)

    def read(self, num_rows: int) -> np.ndarray[Any, Any]:
        """The next (num_rows, ...)."""
        wanted = num_rows * self.row_bytes
        data = _read(self._stream, wanted, self.where)
        if len(data) < wanted:
            raise InputError(f"{self.where} ends early: {wanted - len(data)} bytes are missing; write it again")
        return np.frombuffer(data, self.dtype).reshape(num_rows, *self._dim)

    def close(self) -> None:
        self._stream.close()


def _stream(part: Part, start: int, stop: int | None, options: ReadOptions) -> Iterator[Block]:
    assert part.num_rows is not None
    stop = part.num_rows if stop is None else stop
    label_keys: dict[str, str] = part.detail["arrays"]
    if not label_keys:
        refuse_columns(part, options)
    with contextlib.ExitStack() as stack:
        stack.enter_context(remote.read_errors(part.path))
        archive = stack.enter_context(_open_archive(part.path))

        def opened(key: str) -> _Rows:
            return stack.enter_context(contextlib.closing(_Rows(archive, key, part.path, start)))

        embeddings = opened(part.detail["key"])
        chosen = choose_label_columns(label_keys, options, part.path) if label_keys else []
        labels = {name: opened(label_keys[name]) for name in chosen}
        texts = [label_keys[name] for name, rows in labels.items() if rows.dtype.kind in "US"]
        packed = sum(archive.getinfo(f"{key}.npy").compress_size for key in texts)
        left = max(_MOST_TEXT_BYTES, _MOST_RATIO * packed, _ROW_TEXT_BYTES * part.num_rows)
        label_bytes = sum(rows.row_bytes for rows in labels.values())
        num_rows = max(1, min(options.block_bytes // 4 // embeddings.row_bytes, _LABEL_BLOCK_BYTES // max(1, label_bytes)))
        for low in range(start, stop, num_rows):
            high = min(stop, low + num_rows)
            block = embeddings.read(high - low)
            table = pa.table({name: _column(rows.read(high - low), rows.where) for name, rows in labels.items()})
            left -= sum(column.nbytes for column in table.columns if pa.types.is_large_string(column.type))
            if left < 0:
                raise InputError(
                    f"{part.path}: its labels unpack to far more than they take in the file; "
                    "save them as Parquet beside the embeddings, or leave them out"
                )
            yield Block(block, select_labels(table, part, low, high, options))


def _column_type(dtype: np.dtype[Any]) -> pa.DataType:
    """Of the labels that `_column` makes of such values."""
    return pa.large_string() if dtype.kind in "US" else pa.from_numpy_dtype(dtype.newbyteorder("="))


def _check_letters(values: np.ndarray[Any, Any]) -> None:
    """Raise ValueError for letters that do not exist: numpy makes texts of them all the same, which are no UTF-8 afterwards."""
    if values.dtype.itemsize:
        codes = np.ascontiguousarray(values).view(np.dtype(np.uint32).newbyteorder(values.dtype.byteorder))
        if codes.size and codes.max() > sys.maxunicode:
            raise ValueError(f"a letter beyond U+{sys.maxunicode:X}")


def _column(values: np.ndarray[Any, Any], where: str) -> pa.Array:
    """Labels as Arrow has them; bytes that are no text become escapes, always the same way."""
    with _damage(where):
        if values.dtype.kind == "S":
            return pa.array([value.decode("utf-8", "backslashreplace") for value in values.tolist()], pa.large_string())
        if values.dtype.kind == "U":
            _check_letters(values)
            texts = values.tolist()
            try:
                return pa.array(texts, pa.large_string())
            except UnicodeEncodeError:  # lone surrogates
                return pa.array([text.encode("utf-8", "backslashreplace").decode() for text in texts], pa.large_string())
        return pa.array(values.astype(values.dtype.newbyteorder("=")))
