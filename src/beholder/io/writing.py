"""Results, written whole or not at all, on this machine and on servers."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from beholder.errors import BeholderError, OutputError, kind_and_text, writing_failed
from beholder.io import locations, remote, temporaries

_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "oci"})
"""Where a file that is being sent is not seen before it is whole."""
_PIECE_OF_UPLOAD, _MOST_PIECES = 50 << 20, 9000


@contextlib.contextmanager
def write_whole(path: str, *, scratch: Path | None = None) -> Iterator[Path]:
    """Give a temporary local path to write; on success it becomes `path` at once, on any failure nothing is left.

    Local results are flushed to the disk and renamed; remote ones are uploaded as one object. The temporary file stands
    beside the result, or in `scratch` (a folder of the same disk that is cleared after a killed run); what a killed run left of
    it is taken over by the next one. Raises OutputError.
    """
    target = locations.local_path(path) if locations.is_local(path) else None
    folder = target.parent if target is not None else None
    with contextlib.ExitStack() as opened:
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            temporary = opened.enter_context(temporaries.temporary(scratch or folder, target))
        except OSError as error:
            raise writing_failed(path, error) from error
        try:
            yield temporary
            if target is not None:
                _publish(temporary, target)
            else:
                _upload(temporary, path)
        except UnicodeEncodeError:
            check_text(str(temporary))
            raise
        except OSError as error:
            raise writing_failed(path, error) from error


def check_text(path: str) -> None:
    """Refuse to write to a path with bytes that are no UTF-8, as Arrow does. Raises OutputError."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise OutputError(f"cannot write {path}: its name is no UTF-8 text; choose another output") from None


@contextlib.contextmanager
def write_errors(path: str) -> Iterator[None]:
    """Turn whatever a remote file system or the system raises while writing `path` into one `OutputError` line."""
    try:
        yield
    except BeholderError:
        raise
    except PermissionError as error:
        if locations.is_local(path):
            raise writing_failed(path, error) from error
        text = " ".join(str(error).split())[:300]
        raise OutputError(f"cannot write {path}: access denied ({text}); check your credentials and its permissions") from error
    except OSError as error:
        raise writing_failed(path, error) from error
    except Exception as error:  # see `read_errors`
        if locations.is_local(path):
            raise
        raise OutputError(f"cannot write {path}: {kind_and_text(error)}") from error


def _upload(temporary: Path, path: str) -> None:
    """Put a local file to a remote path as one object."""
    fs, inner = remote.filesystem(path)
    with write_errors(path):
        fs.put_file(str(temporary), inner)


def _publish(temporary: Path, target: Path) -> None:
    """Flush `temporary`, give it the usual permissions, and rename it to `target`."""
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(target)


def in_its_folder(path: str, write: Callable[[Any, str], Any]) -> Any:
    """What `write` gives for the fsspec file system of a remote path and the path inside it.

    On a server with folders like a disk's that of the path is made where it is missing. Raises what `write` raises.
    """
    fs, inner = remote.filesystem(path)
    try:
        return write(fs, inner)
    except FileNotFoundError:
        folder = inner.rpartition("/")[0]
        if not folder or _is_object_store(path):  # which would make a bucket
            raise
        fs.makedirs(folder, exist_ok=True)
        return write(fs, inner)


def _is_object_store(path: str) -> bool:
    return path.split("://", 1)[0].lower() in _OBJECT_STORES


def write_bytes(path: str, data: bytes, *, scratch: Path | None = None) -> None:
    """Write `data` to `path`, whole or not at all. `scratch`: as of `write_whole`."""
    if not locations.is_local(path):
        with write_errors(path):
            in_its_folder(path, lambda fs, inner: fs.pipe_file(inner, data))
        return
    with write_whole(path, scratch=scratch) as temporary:
        temporary.write_bytes(data)


def write_at(handle: int, data: bytes | memoryview, place: int) -> int:
    """Write all of `data` into an open file from the byte `place` on; returns where it ends. Raises OSError."""
    left = memoryview(data)
    while left:
        written = os.pwrite(handle, left, place)
        left, place = left[written:], place + written
    return place


@contextlib.contextmanager
def open_whole(path: str, *, num_bytes: int = 0, scratch: Path | None = None) -> Iterator[IO[bytes]]:
    """Give a file to write from front to back; on success it becomes `path` at once, on any failure nothing is left.

    A remote one is sent in pieces as it is written (a multipart upload where the server has such), so that no copy of it is
    made here; where a server shows files before they are whole it gets another name until then.

    Args:
        path: the result.
        num_bytes: about how many are written, as far as that is known; servers take 10,000 pieces at most.
        scratch: as of `write_whole`, for a local result.
    """
    if locations.is_local(path):
        with write_whole(path, scratch=scratch) as temporary, temporary.open("wb") as out:
            yield out
        return
    fs, inner = remote.filesystem(path)
    is_whole_at_once = _is_object_store(path)
    folder, slash, _ = inner.rpartition("/")
    place = inner if is_whole_at_once else f"{folder}{slash}{temporaries.own_name()}"
    piece = max(_PIECE_OF_UPLOAD, -(-num_bytes // _MOST_PIECES // (1 << 20)) << 20)
    with write_errors(path):
        if not is_whole_at_once and folder:
            fs.makedirs(folder, exist_ok=True)
        opened = fs.open(place, "wb", block_size=piece)
    sink = RemoteSink(opened, path)
    try:
        yield cast("IO[bytes]", sink)
        with write_errors(path):
            opened.close()
            if place != inner:
                fs.mv(place, inner)
    except BaseException:  # also of ending it: an upload in pieces that is never ended is kept, and paid for
        _give_up(fs, opened, place if place != inner else None)
        raise
    with write_errors(path):
        fs.invalidate_cache(inner)


def _give_up(fs: Any, opened: Any, place: str | None) -> None:
    """Let go of a file that is being sent, without ending it; remove what stands at `place`."""
    with contextlib.suppress(Exception):  # what went wrong before is told
        if hasattr(opened, "discard"):
            opened.discard()
        opened.closed = True  # closing it, as the interpreter does, would end it
    if place is not None:
        with contextlib.suppress(Exception):
            opened.close()
            fs.rm_file(place)


class RemoteSink(io.RawIOBase):
    """A remote file that is written from front to back; a failing server is an OutputError.

    Args:
        opened: a file of fsspec's; whoever opened it ends it.
        path: for messages.
    """

    def __init__(self, opened: Any, path: str) -> None:
        self._opened, self._path, self._at = opened, path, 0

    def writable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """How many bytes have been written."""
        return self._at

    def write(self, data: Any) -> int:
        """Take all of it."""
        with write_errors(self._path):
            piece = bytes(data)
            self._opened.write(piece)
        self._at += len(piece)
        return len(piece)


def remove(path: str) -> None:
    """Delete the file at `path` if there is one. Raises OutputError."""
    try:
        if locations.is_local(path):
            locations.local_path(path).unlink(missing_ok=True)
            return
        fs, inner = remote.filesystem(path)
        if fs.exists(inner):
            fs.rm_file(inner)
    except FileNotFoundError:
        return
    except OSError as error:
        raise writing_failed(path, error) from error
    except Exception as error:  # see `read_errors`
        raise OutputError(f"cannot remove {path}: {kind_and_text(error)}") from error


def remove_stray_temporaries(folder: Path) -> None:
    """Delete what a killed run left half-written in `folder` (not below it)."""
    for stray in folder.glob(f"{temporaries.PREFIX}*{temporaries.SUFFIX}"):
        stray.unlink(missing_ok=True)
