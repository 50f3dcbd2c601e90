"""Files below a folder that may be anywhere: listed with sizes and versions, put, copied, made once, fetched, removed."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from beholder.errors import reading_failed, writing_failed
from beholder.io import locations, remote, storage, writing
from beholder.io.temporaries import own_name

_AT_ONCE = 16
"""Requests to a server that run side by side."""
_WHOLE_BYTES = 64 << 20
"""A file of up to so many bytes is sent, or fetched, in one request."""
_AHEAD = 8
"""Files that are fetched ahead."""
_COPY_BYTES = 1 << 20
_DELETED_AT_ONCE = 1000
_VERSIONS = (
    *("ETag", "etag", "md5Hash", "generation", "LastModified", "last_modified", "updated"),
    *("mtime", "modified", "created"),
)
"""Where file systems say what changes when a file is written again, the surest first."""
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
Item = TypeVar("Item")
Found = TypeVar("Found")


class Entry(NamedTuple):
    """A file as a listing shows it.

    Attributes:
        num_bytes: its size.
        version: what changes when it is written again: the time in nanoseconds of a local file, a server's tag or time; ""
            where nothing tells.
    """

    num_bytes: int
    version: str

    def is_as(self, other: Entry | None) -> bool:
        """Whether a file that looked so is surely the one that looks like `other`."""
        return self == other and self.version != ""


def listing(folder: str) -> dict[str, Entry]:
    """Every file below a folder, by its name relative to it; {} where there is none. On a server: one recursive listing.

    Here, what is in folders of a system's own (`locations.is_system_name`) is left out.
    """
    return {name: entry for name, entry, _ in listing_with_times(folder)}


def listing_with_times(folder: str) -> Iterator[tuple[str, Entry, float | None]]:
    """Every file below a folder as (name relative to it, how it looks, when it was written last), as `listing` finds them.

    Times are in seconds since 1970 by the clock of whoever keeps the files; None where that says none.
    """
    if locations.is_local(folder):
        for name, entry in _walked(str(locations.local_path(folder))):
            yield name, entry, int(entry.version) / 1e9
        return
    fs, inner = remote.filesystem(folder)
    start = inner.rstrip("/") + "/"
    with remote.read_errors(folder):
        fs.invalidate_cache()  # others write there, too
        try:
            found = fs.find(inner, detail=True)
        except FileNotFoundError:
            found = {}
        fs.invalidate_cache()
    for name, entry in found.items():
        if name.startswith(start) and not name.endswith("/"):
            yield name[len(start) :], _entry(entry), _time(entry)


def _walked(root: str) -> Iterator[tuple[str, Entry]]:
    """Files below a local folder, through links to folders as well; a folder inside itself is left out.

    So are folders of a system's own: snapshots of a file server hold everything again, and bins may be closed.
    """
    waiting = [(root, "", frozenset[tuple[int, int]]())]
    while waiting:
        folder, before, above = waiting.pop()
        try:
            status = os.stat(folder)  # noqa: PTH116 (a path for each of a million files takes too long)
            here = (status.st_dev, status.st_ino)
            if here in above:
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir():
                        if locations.is_system_name(os.fsencode(entry.name)):
                            continue
                        waiting.append((entry.path, f"{before}{entry.name}/", above | {here}))
                        continue
                    try:
                        status = entry.stat()
                    except FileNotFoundError:  # a link that leads nowhere, or a file that has just vanished
                        continue
                    yield before + entry.name, Entry(status.st_size, str(status.st_mtime_ns))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise reading_failed(folder, error) from error


def _entry(information: Mapping[str, Any]) -> Entry:
    value = next((one for name in _VERSIONS if (one := information.get(name))), "")
    if isinstance(value, datetime.datetime):
        value = value.timestamp()
    return Entry(int(information.get("size") or 0), str(value).strip('"'))


def _time(information: Mapping[str, Any]) -> float | None:
    """When a remote file was written last, as its file system says it."""
    value = next((one for name in _TIMES if (one := information.get(name))), None)
    with contextlib.suppress(ValueError):
        value = datetime.datetime.fromisoformat(value) if isinstance(value, str) else value
    if isinstance(value, datetime.datetime):
        return value.timestamp()
    return float(value) if isinstance(value, int | float) else None


def entry_of(path: str) -> Entry | None:
    """How a file looks now; None where there is none."""
    with remote.read_errors(path):
        try:
            if locations.is_local(path):
                status = locations.local_path(path).stat()
                return Entry(status.st_size, str(status.st_mtime_ns))
            fs, inner = remote.filesystem(path)
            fs.invalidate_cache(inner)
            information = fs.info(inner)
        except (FileNotFoundError, NotADirectoryError):
            return None
    return None if information.get("type") == "directory" else _entry(information)


def read_all(path: str) -> bytes | None:
    """All bytes of a file; None where there is none. Raises InputError."""
    with remote.read_errors(path):
        try:
            if locations.is_local(path):
                return locations.local_path(path).read_bytes()
            fs, inner = remote.filesystem(path)
            return _fetched(fs, inner)
        except (FileNotFoundError, NotADirectoryError):
            return None


def _fetched(fs: Any, inner: str) -> bytes:
    """All bytes of a remote file, in one request unless it is large; asked for all, back ends ask for its size first."""
    data = b""
    try:
        data = fs.cat_file(inner, start=0, end=_WHOLE_BYTES)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception:  # an empty file has no such range, and not all servers know ranges
        data = fs.cat_file(inner)
    else:
        if len(data) == _WHOLE_BYTES:
            data = fs.cat_file(inner)
    return bytes(data)


def put_bytes(path: str, data: bytes) -> Entry:
    """Write a file, whole or not at all; how it looks then."""
    if locations.is_local(path):
        writing.write_bytes(path, data)
    else:
        with writing.write_errors(path):
            said = writing.in_its_folder(path, lambda fs, inner: fs.pipe_file(inner, data))
        if isinstance(said, dict) and said.get("ETag"):
            return _entry({"size": len(data), "ETag": said["ETag"]})
    return entry_of(path) or Entry(len(data), "")


def put_file(path: str, source: Path) -> Entry:
    """Have the bytes of a local file at `path`, whole or not at all; how it looks then."""
    num_bytes = source.stat().st_size
    if num_bytes <= _WHOLE_BYTES and not locations.is_local(path):
        return put_bytes(path, source.read_bytes())
    with writing.write_whole(path) if locations.is_local(path) else contextlib.nullcontext(source) as ready:
        if ready is not source:
            shutil.copyfile(source, ready)
        else:
            fs, inner = remote.filesystem(path)
            with writing.write_errors(path):
                fs.put_file(str(source), inner)
    return entry_of(path) or Entry(num_bytes, "")


def create(path: str, data: bytes) -> bool:
    """Write a file only if there is none: of several that try at once one succeeds, and the others are told False.

    So it is on this machine, on network file systems, and on servers that take conditions (S3). On others two that try in the
    same moment may both succeed.
    """
    if not locations.is_local(path):
        fs, inner = remote.filesystem(path)
        with writing.write_errors(path):
            try:
                writing.in_its_folder(path, lambda fs, inner: fs.pipe_file(inner, data, mode="create"))
            except FileExistsError:
                return False
            except (TypeError, ValueError, NotImplementedError):  # a back end without conditions
                if _is_there(fs, inner):
                    return False
                fs.pipe_file(inner, data)
            except Exception:  # not every server says in the words of S3 that a file is there
                if _is_there(fs, inner):
                    return False
                raise
        return True
    target = locations.local_path(path)
    temporary = target.with_name(own_name())
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        try:
            target.hardlink_to(temporary)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            try:
                with target.open("xb") as out:
                    out.write(data)
            except FileExistsError:
                return False
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise writing_failed(path, error) from error
    return True


def _is_there(fs: Any, inner: str) -> bool:
    """Whether there is a remote file, others' included that have just been written; False also where that is not told."""
    with contextlib.suppress(Exception):  # what went wrong before is told
        fs.invalidate_cache(inner)
        return bool(fs.exists(inner))
    return False


def modified(path: str) -> float | None:
    """When a file was written last, in seconds by the clock of whoever keeps it; None where there is no file, or no time."""
    with remote.read_errors(path):
        try:
            if locations.is_local(path):
                return locations.local_path(path).stat().st_mtime
            fs, inner = remote.filesystem(path)
            fs.invalidate_cache(inner)
            found: datetime.datetime = fs.modified(inner)
        except (FileNotFoundError, NotImplementedError, KeyError):
            return None
    return found.timestamp()


def copy(source: str, target: str) -> None:
    """Have a file under another name as well, in place of what is there: linked, or copied by the server, where that can be.

    Raises OutputError and InputError.
    """
    if locations.is_local(source) and locations.is_local(target):
        try:
            locations.local_path(target).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(locations.local_path(source), locations.local_path(target))
        except OSError as error:
            raise writing_failed(target, error) from error
        return
    fs, inner = remote.filesystem(source)
    other, place = remote.filesystem(target)
    if fs is other:
        with writing.write_errors(target):
            writing.in_its_folder(target, lambda fs, place: fs.cp_file(inner, place))
            fs.invalidate_cache(place)
        return
    with remote.read_errors(source), storage.open_binary(source) as file, writing.open_whole(target) as out:
        shutil.copyfileobj(file, out, _COPY_BYTES)


def link_or_copy(source: Path, target: Path) -> None:
    """Have a local file under another name as well, in place of what is there. Raises OSError."""
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def in_threads(
    work: Callable[[Item], Found], items: Iterable[Item], *, at_once: int = _AT_ONCE, ahead: int | None = None
) -> Iterator[Found]:
    """What `work` gives for each item, in order; `at_once` at once, and at most `ahead` (twice as many) before their turn."""
    most = 2 * at_once if ahead is None else ahead
    with ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="beholder-place") as pool:
        waiting: deque[Future[Found]] = deque()
        rest = iter(items)
        try:
            while True:
                waiting += [pool.submit(work, item) for item in islice(rest, most - len(waiting))]
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def copy_all(pairs: Sequence[tuple[str, str]]) -> None:
    """`copy` for (source, target)s; several at once where a server does it."""
    if all(locations.is_local(source) for source, _ in pairs):
        for source, target in pairs:
            copy(source, target)
        return
    for _ in in_threads(lambda pair: copy(*pair), pairs):
        pass


def remove_all(paths: Sequence[str]) -> None:
    """Delete these files of one place, as far as they are there. Raises OutputError."""
    if not paths:
        return
    if locations.is_local(paths[0]):
        for path in paths:
            writing.remove(path)
        return
    fs = remote.filesystem(paths[0])[0]
    inner = [remote.filesystem(path)[1] for path in paths]
    if hasattr(fs, "_bulk_delete") and not any(mark in name for name in inner for mark in "*?["):
        with writing.write_errors(paths[0]):
            for low in range(0, len(inner), _DELETED_AT_ONCE):
                fs.rm(inner[low : low + _DELETED_AT_ONCE])
        return

    def remove(name: str) -> None:
        with writing.write_errors(paths[0]), contextlib.suppress(FileNotFoundError):
            fs.rm_file(name)

    for _ in in_threads(remove, inner):
        pass


def fetched_ahead(files: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int, bytes | None]]:
    """(path, size, bytes) of each (path, size) of one place, a few fetched ahead; no bytes of local files, and of large ones.

    Raises InputError for one that is gone.
    """

    def fetched(file: tuple[str, int]) -> tuple[str, int, bytes | None]:
        path, num_bytes = file
        is_small = not locations.is_local(path) and num_bytes <= _WHOLE_BYTES // 2
        return path, num_bytes, storage.read_range(path, 0, num_bytes) if is_small else None

    rest = iter(files)
    first = list(islice(rest, 1))
    if all(locations.is_local(path) for path, _ in first):
        return map(fetched, chain(first, rest))
    return in_threads(fetched, chain(first, rest), at_once=_AHEAD, ahead=_AHEAD)
