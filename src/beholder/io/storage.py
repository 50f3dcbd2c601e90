"""Files on this machine and on servers: whether they are there, listings, reading, at any place or from front to back."""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar, cast

from beholder.errors import BeholderError, InputError
from beholder.io import locations, remote
from beholder.io.ranges_file import SizedFile

if TYPE_CHECKING:
    from concurrent.futures import Future

    import pyarrow as pa
    import pyarrow.parquet as pq

    from beholder.io.parquet import ParquetFile

Rows = TypeVar("Rows", "pa.Table", "pa.RecordBatch")

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP, errno.ENAMETOOLONG)
_WILDCARD = re.compile(r"[*?\[]")
_BUFFER_BYTES = 1 << 16
"""Bytes of a column that are read from a local file at a time; there may be a thousand columns."""
_SAMPLE_PIECES, _SAMPLE_BYTES = 16, 4096
PIECE_BYTES = 8 << 20
"""Of a remote file that is read from front to back, in one request."""
_PAUSES_S = (0.25, 0.5, 1.0)
"""Before a piece of such a file is asked for again, which failed in passing."""


def is_glob(path: str) -> bool:
    """Whether `path` holds `*`, `?` or `[`, and is no file of that name (in a URL, `?` begins the query)."""
    marks = "*[" if locations.is_web(path) else "*?["
    return any(mark in path for mark in marks) and not (locations.is_local(path) and exists(path))


def is_there(path: str) -> bool:
    """Whether anything is at a local path that a file names; not where it cannot be looked at: a closed folder, a long name."""
    try:
        return bool(mode_at(path))
    except OSError:
        return False


def is_local_file(path: str) -> bool:
    """Whether a regular file is at a local path that a file names, as `is_there` has it."""
    try:
        return stat.S_ISREG(mode_at(path))
    except OSError:
        return False


def mode_at(path: str) -> int:
    """What is at a local path (`st_mode`); 0: nothing. Raises OSError where the system does not let us look."""
    try:
        return locations.local_path(path).stat().st_mode
    except ValueError:  # a zero byte
        return 0
    except OSError as error:
        if error.errno in _NOT_THERE:
            return 0
        raise


def exists(path: str) -> bool:
    """Whether there is a file or folder at `path`."""
    if locations.is_local(path):
        return bool(mode_at(path))
    fs, inner = remote.filesystem(path)
    with remote.read_errors(path):
        if not locations.is_web(path):
            return bool(fs.exists(inner))
        try:
            remote.asked_again_if_web(path, lambda: fs.info(inner))
        except FileNotFoundError as error:  # so the back end calls every failure; the cause tells them apart
            cause = error.__cause__
            if cause is None or isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) in (404, 410):
                return False
            raise cause from None
        return True


def is_folder(path: str) -> bool:
    """Whether `path` is a folder (for object stores: a prefix with objects below it)."""
    if locations.is_local(path):
        return stat.S_ISDIR(mode_at(path))
    if locations.is_web(path):
        return False
    fs, inner = remote.filesystem(path)
    with remote.read_errors(path):
        return bool(fs.isdir(inner))


def size(path: str) -> int:
    """Bytes of the file at `path`. Raises InputError when it is missing, and WholeOnlyError when a server does not tell."""
    with remote.read_errors(path):
        if locations.is_local(path):
            return locations.local_path(path).stat().st_size
        fs, inner = remote.filesystem(path)
        num_bytes = remote.asked_again_if_web(path, lambda: fs.size(inner))
    if num_bytes is None:
        raise remote.WholeOnlyError(f"cannot read {path}: the server does not state its size; download it first")
    return int(num_bytes)


def open_local(path: str | bytes | Path) -> io.BufferedReader:
    """Open a file of this machine for reading bytes; a pipe that stands there is not waited for. Raises OSError."""
    return open(path, "rb", opener=open_without_waiting)


def open_without_waiting(path: str | bytes, flags: int) -> int:
    """As `os.open`; a pipe that nobody writes to is one that has ended."""
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.set_blocking(handle, True)
    except BaseException:
        os.close(handle)
        raise
    return handle


def open_binary(path: str) -> IO[bytes]:
    """Open `path` for reading bytes; seekable. The caller closes it, and wraps reads in `read_errors` for local files."""
    with remote.read_errors(path):
        if locations.is_local(path):
            return open_local(locations.local_path(path))
        fs, inner = remote.filesystem(path)
        opened = remote.asked_again_if_web(path, lambda: fs.open(inner, "rb"))
        return cast(
            "IO[bytes]",
            remote.RemoteFile(opened, lambda: remote.read_errors(path), lambda read: remote.asked_again_if_web(path, read)),
        )


def read_range(path: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of `path`, fewer at its end."""
    if stop <= start:  # an empty range is an error to object stores
        return b""
    with remote.read_errors(path):
        if locations.is_local(path):
            with open_local(locations.local_path(path)) as file:
                file.seek(start)
                return file.read(stop - start)
        return remote.asked_again_if_web(path, lambda: remote.remote_range(path, start, stop))


def root_of(folder: str) -> str:
    """A folder as the paths begin that `list_files` gives, without a `/` at its end."""
    if locations.is_local(folder):
        return str(locations.local_path(folder)).rstrip("/")
    fs, inner = remote.filesystem(folder)
    return str(fs.unstrip_protocol(inner)).rstrip("/")


def open_stream(path: str, num_bytes: int | None = None) -> io.BufferedReader:
    """Open a file to be read from front to back, a remote one in pieces that are fetched ahead. The caller closes it."""
    if locations.is_local(path):
        with remote.read_errors(path):
            return open_local(locations.local_path(path))
    return io.BufferedReader(RemoteStream(path, size(path) if num_bytes is None else num_bytes))


class RemoteStream(SizedFile):
    """The bytes of a remote file. Seeking is possible, forward within the piece at hand or to another one.

    Every piece is a request of its own, so that a consumer may take its time without a server hanging up.

    Args:
        path: URL.
        num_bytes: its size.
        piece_bytes: bytes of one request.
        pauses_s: before a request that failed in passing is made again.
    """

    def __init__(
        self, path: str, num_bytes: int, piece_bytes: int = PIECE_BYTES, *, pauses_s: Sequence[float] = _PAUSES_S
    ) -> None:
        from concurrent.futures import ThreadPoolExecutor

        super().__init__(num_bytes)
        self.path, self._piece_bytes, self._pauses_s = path, piece_bytes, pauses_s
        self._low, self._piece = 0, b""
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="beholder-fetch")
        self._ahead: tuple[int, Future[bytes]] | None = None

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill `buffer` from the piece at hand; fewer bytes at its end. Raises InputError when the server fails for good."""
        if self._at >= self.num_bytes:
            return 0
        if not self._low <= self._at < self._low + len(self._piece):
            self._load(self._at - self._at % self._piece_bytes)
        inside = self._at - self._low
        count = min(len(buffer), len(self._piece) - inside)
        if count <= 0:
            raise InputError(f"cannot read {self.path}: the server sends fewer bytes than it promised; did the file change?")
        buffer[:count] = self._piece[inside : inside + count]
        self._at += count
        return count

    def _load(self, low: int) -> None:
        if self._ahead is not None and self._ahead[0] == low:
            self._piece = self._ahead[1].result()
        else:
            self._piece = self._fetch(low)
        self._low, self._ahead = low, None
        following = low + self._piece_bytes
        if following < self.num_bytes:
            self._ahead = (following, self._pool.submit(self._fetch, following))

    def _fetch(self, low: int) -> bytes:
        high = min(low + self._piece_bytes, self.num_bytes)
        with remote.read_errors(self.path):
            return remote.asked_again(lambda: remote.remote_range(self.path, low, high), self._is_passing, self._pauses_s)

    def _is_passing(self, error: Exception) -> bool:
        """Whether a piece may come a moment later: not what is not there or closed to us, whatever the back end."""
        if locations.is_web(self.path):
            return remote.is_passing(error)
        return not isinstance(error, BeholderError | FileNotFoundError | PermissionError)

    def close(self) -> None:
        """Drop what is under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()


def list_files(folder: str) -> list[str]:
    """Every file below `folder`, sorted by path, each once; as paths that `open_binary` takes. See `is_ignored_name`."""
    with remote.read_errors(folder):
        if locations.is_local(folder):
            root = locations.local_path(folder)
            found: list[str] = []
            seen: set[tuple[int, int]] = set()
            for parent, folders, files in os.walk(root, followlinks=True):
                status = os.stat(parent)
                if (status.st_dev, status.st_ino) in seen:
                    folders.clear()
                    continue
                seen.add((status.st_dev, status.st_ino))
                folders[:] = sorted(name for name in folders if not locations.is_ignored_name(os.fsencode(name)))
                found += [os.path.join(parent, name) for name in files if not locations.is_ignored_name(os.fsencode(name))]
            return sorted(found)
        fs, inner = remote.filesystem(folder)
        start = len(str(fs.unstrip_protocol(inner)).rstrip("/"))
        paths = sorted(str(fs.unstrip_protocol(name)) for name in fs.find(inner))
        return [path for path in paths if not any(map(locations.is_ignored_name, os.fsencode(path[start + 1 :]).split(b"/")))]


def expand_glob(pattern: str) -> list[str]:
    """Files and folders that match a glob (`*`, `?`, `[...]`, `**`), sorted.

    What lies in folders of a system's own (`is_system_name`) is left out, unless the pattern names them.
    """
    import glob

    if locations.is_local(pattern):
        whole = str(locations.local_path(pattern))
        return sorted(name for name in glob.glob(whole, recursive=True) if not _is_in_system_folder(name, whole))
    fs, inner = remote.filesystem(pattern)
    whole = str(fs.unstrip_protocol(inner))
    with remote.read_errors(pattern):
        found = [str(fs.unstrip_protocol(name)) for name in fs.glob(inner)]
    return sorted(name for name in found if not _is_in_system_folder(name, whole))


def _is_in_system_folder(path: str, pattern: str) -> bool:
    """Whether a match lies in a folder of a system's own, or is one, that the pattern does not name."""
    wild = _WILDCARD.search(pattern)
    start = pattern.rfind("/", 0, wild.start() if wild is not None else None) + 1
    named = pattern.split("/")
    return any(locations.is_system_name(os.fsencode(piece)) for piece in path[start:].split("/") if piece not in named)


def open_parquet(path: str, *, streamed: bool = False, data: bytes | None = None) -> ParquetFile:
    """Open a Parquet file, local or remote; `streamed`: a remote one is read piece by piece, not a row group at once.

    A local one is read, not mapped: where it is cut short meanwhile, reading it fails, and a map would end the process.
    `data`: what the file holds, where it has been fetched already.

    Raises InputError when it is not one, or is cut short. See `ParquetFile` for what reading it raises.
    """
    from beholder.io.parquet import ParquetFile

    num_bytes = size(path) if data is None else len(data)
    if num_bytes == 0:
        raise InputError(f"{path} is empty (0 bytes)")
    if data is not None:
        return ParquetFile(path, io.BytesIO(data), read_range=lambda start, stop: data[start:stop], pre_buffer=False)
    if locations.is_local(path):
        return ParquetFile(path, str(locations.local_path(path)), buffer_size=_BUFFER_BYTES, pre_buffer=False)
    buffer = remote.MOST_WHOLE_BYTES if streamed else 0
    ranges = functools.partial(read_range, path)
    return ParquetFile(path, open_binary(path), read_range=ranges, pre_buffer=not streamed, buffer_size=buffer)


def covering_row_groups(metadata: pq.FileMetaData, start: int, stop: int | None) -> tuple[list[int], int]:
    """Row groups that overlap rows [start, stop) (stop None: to the end), and the first row of the first of them."""
    groups: list[int] = []
    first = at = 0
    for group in range(metadata.num_row_groups):
        num_rows = metadata.row_group(group).num_rows
        if (stop is None or at < stop) and at + num_rows > start:
            first = at if not groups else first
            groups.append(group)
        at += num_rows
    return groups, first


def rows_within(batches: Iterable[Rows], at: int, start: int, stop: int | None) -> Iterator[tuple[int, Rows]]:
    """(first row, rows) of consecutive batches, the first of which begins at row `at`, cut to the rows [start, stop)."""
    for batch in batches:
        end = at + batch.num_rows
        low, high = max(start, at), end if stop is None else min(stop, end)
        if high > low:
            yield low, batch.slice(low - at, high - low)
        at = end
        if stop is not None and at >= stop:
            return


def content_sample(path: str, num_bytes: int) -> str:
    """Short digest that tells a changed file from the same one without reading it all; "" where that cannot be told.

    Local files: 16 pieces of 4 KiB, evenly spread, the first and the last included. Remote ones: the server's ETag.
    """
    digest = hashlib.sha256()
    with remote.read_errors(path):
        if not locations.is_local(path):
            fs, inner = remote.filesystem(path)
            information = remote.asked_again_if_web(path, lambda: fs.info(inner))
            tag = information.get("ETag") or information.get("etag") or information.get("md5Hash")
            return str(tag).strip('"') if tag else ""
        with open_local(locations.local_path(path)) as file:
            for piece in range(_SAMPLE_PIECES):
                file.seek((num_bytes - _SAMPLE_BYTES) * piece // (_SAMPLE_PIECES - 1) if num_bytes > _SAMPLE_BYTES else 0)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def sha256_of(path: str | Path, start: int = 0) -> str:
    """Lower-case hex sha256 of a local file, from byte `start` on. Raises OSError."""
    with open_local(path) as file:
        if start:
            file.seek(start)
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_at(path: str, num_bytes: int | None = None) -> str:
    """The same of a file anywhere, of `num_bytes` where that is known. Raises InputError."""
    with remote.read_errors(path), open_stream(path, num_bytes) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
