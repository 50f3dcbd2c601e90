"""Files on this machine and on servers: what a path is, listings, reading; results are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from beholder.errors import BeholderError, InputError, OutputError, reading_failed, reason_of, writing_failed
from beholder.io import temporaries

if TYPE_CHECKING:
    import pyarrow.parquet as pq

    from beholder.io.parquet import ParquetFile

Answer = TypeVar("Answer")


class WholeOnlyError(InputError):
    """A web server that gives files as a whole only: no parts of them, or it does not tell how large they are."""


_LOCAL_SCHEMES = ("file://", "local://")
"""What fsspec calls this machine's files."""
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP, errno.ENAMETOOLONG)
_SERVERS = frozenset({"http", "https", "s3", "s3a", "gs", "gcs", "hf"})
_SYSTEM_NAMES = frozenset(
    (
        b"thumbs.db", b"ehthumbs.db", b"desktop.ini", b"__macosx", b"lost+found", b"network trash folder", b"temporary items",
        b"$recycle.bin", b"system volume information", b"$winreagent", b"found.000",
        b"@eadir", b"@tmp", b"@sharebin", b"#recycle", b"#snapshot", b"@recycle", b"@recently-snapshot", b"@__thumb",
        b"~snapshot", b".snapshot", b".snapshots", b".zfs",
    )
)  # fmt: skip
_OLD_BINS = (b"RECYCLER", b"RECYCLED")
"""Of Windows before Vista; in small letters they are words, and may be classes of pictures."""
_INPUTS_OF_RESULTS = (b".parquet.inputs", b".pq.inputs", b".csv.inputs")
"""`columns.INPUTS_SUFFIX` behind the suffixes of results."""
_TRASH = b".trash"
"""`.Trash`, `.Trash-1000`, `.Trashes`, ..."""
_WILDCARD = re.compile(r"[*?\[]")
PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP answers after which the same request may succeed a moment later."""
CONNECT_S, SILENCE_S = 10.0, 30.0
"""How long connecting to a web server, and waiting for its next bytes, may take."""
PAUSES_S = (0.25, 1.0)
"""Before the second and the third try of what failed in passing."""
_COPY_BYTES = 1 << 20
_MOST_WHOLE_BYTES = 8 << 20
"""Largest file of which a part is read by fetching the whole, from web servers that give no parts."""
_BUFFER_BYTES = 1 << 16
"""Bytes of a column that are read from a local file at a time; there may be a thousand columns."""
_SAMPLE_PIECES, _SAMPLE_BYTES = 16, 4096
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "oci"})
"""Where a file that is being sent is not seen before it is whole."""
_PIECE_OF_UPLOAD, _MOST_PIECES = 50 << 20, 9000
_PROTOCOL_PACKAGES = {
    "s3": "beholder[s3]", "gs": "beholder[gs]", "gcs": "beholder[gs]",
}  # fmt: skip


def is_local(path: str) -> bool:
    """Whether `path` names a file of this machine (no `scheme://`, or `file://`, `local://`). Schemes may be in any case."""
    return "://" not in path or has_local_scheme(path)


def has_local_scheme(path: str) -> bool:
    """Whether `path` is the address of a file of this machine: `file://` or `local://`, in any case."""
    return path[: len(max(_LOCAL_SCHEMES, key=len))].lower().startswith(_LOCAL_SCHEMES)


def is_on_a_server(path: str) -> bool:
    """Whether an address surely leads to another machine; other schemes, and chains (`::`), may lead back to files here."""
    scheme, mark, rest = path.partition("://")
    return bool(mark) and scheme.lower() in _SERVERS and (is_web(path) or "::" not in rest)


def is_web(path: str) -> bool:
    """Whether `path` is on a web server, which lists no folders and takes no files."""
    return path[: len("https://")].lower().startswith(("http://", "https://"))


def without_query(path: str) -> str:
    """A web address without what follows `?` or `#`, which says nothing of the file's name; other paths as they are."""
    return path.split("?", 1)[0].split("#", 1)[0] if is_web(path) else path


def is_glob(path: str) -> bool:
    """Whether `path` holds `*`, `?` or `[`, and is no file of that name (in a URL, `?` begins the query)."""
    return any(mark in path for mark in ("*[" if is_web(path) else "*?[")) and not (is_local(path) and exists(path))


def local_path(path: str) -> Path:
    """The local path behind a plain path or a `file://` URL; `~` is expanded."""
    if has_local_scheme(path):
        path = path.split("://", 1)[1]
    found = Path(os.path.expanduser(path))  # not Path.expanduser: it would expand ./~x as well
    return Path.cwd() / found if str(found).startswith("~") else found  # ./~ as text is ~, which would be expanded again


def filesystem(path: str) -> tuple[Any, str]:
    """The fsspec file system of `path` and the path inside it."""
    import fsspec

    try:
        place = _with_plain_scheme(path) if not is_local(path) else str(local_path(path))
        found: tuple[Any, str] = fsspec.core.url_to_fs(place, **_patience(place))
        return found
    except ImportError as error:
        package = _PROTOCOL_PACKAGES.get(path.split("://", 1)[0].lower())
        hint = f"install it with: pip install '{package}'" if package else str(error)
        raise InputError(f"{path}: this kind of address needs a package that is not installed; {hint}") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:  # of addresses inside each other (`zip://a.png::s3://b/x.zip`) the outer ones are opened here
        raise reading_failed(path, error) from error
    except Exception as error:  # back ends raise what they do
        raise InputError(f"{path} cannot be opened: {reason_of(error)}") from None


def _patience(path: str) -> dict[str, Any]:
    """How long web servers may be silent, unless the user's settings of fsspec say so; its own 300 s are for a whole answer.

    What else the settings say of the client (a proxy, credentials) stays.
    """
    import fsspec

    if not is_web(path) or "::" in path:
        return {}
    given: Any = {}
    for scheme in ("http", "https"):  # as fsspec puts them together
        given = fsspec.config.conf.get(scheme, {}).get("client_kwargs", given)
    if not isinstance(given, dict) or "timeout" in given:
        return {}
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
    return {"client_kwargs": {**given, "timeout": timeout}}


def _with_plain_scheme(path: str) -> str:
    """The address with its scheme in lower case, which is how back ends know it (RFC 3986: any case means the same)."""
    scheme, mark, rest = path.partition("://")
    return scheme.lower() + mark + rest


def is_system_name(name: bytes) -> bool:
    """Whether a system keeps things of its own under this name: recycle bins, snapshots, thumbnails.

    Of Windows, macOS and Linux, and of network storage (Synology, QNAP, NetApp, ZFS).
    """
    lower = name.lower()
    return lower in _SYSTEM_NAMES or lower.startswith(_TRASH) or name in _OLD_BINS


def is_ignored_name(name: bytes) -> bool:
    """Whether a file or folder of this name is never looked at: hidden (a leading dot), a system's own, or notes of a run."""
    return name.startswith(b".") or name.endswith(_INPUTS_OF_RESULTS) or is_system_name(name)


def forget_listings(path: str) -> None:
    """Have the next look at a remote folder see what is there now: back ends keep listings as long as the process lives."""
    if not is_local(path):
        filesystem(path)[0].invalidate_cache()


@contextlib.contextmanager
def remote_errors(path: str) -> Iterator[None]:
    """Turn whatever a remote file system, the system or Arrow raises while reading `path` into one `InputError` line.

    Remote back ends raise errors of their own libraries (botocore, aiohttp, ...), which have no common parent. Arrow raises
    its own, OSError without a number, and UnicodeDecodeError for names that are no text: all of them mean a damaged file.
    """
    try:
        yield
    except BeholderError:
        raise
    except FileNotFoundError as error:
        cause = error.__cause__  # on the web every failure is called so; the cause tells them apart
        if is_web(path) and isinstance(cause, Exception) and getattr(cause, "status", None) not in (404, 410):
            text = " ".join(str(cause).split()) or type(cause).__name__
            raise InputError(f"cannot read {path}: {type(cause).__name__}: {text[:300]}") from error
        raise InputError(f"cannot read {path}: it does not exist (any more); check the path") from error
    except PermissionError as error:
        if is_local(path):
            raise reading_failed(path, error) from error
        text = " ".join(str(error).split())[:300]
        raise InputError(f"cannot read {path}: access denied ({text}); check your credentials and its permissions") from error
    except OSError as error:
        if is_local(path) and error.errno is None:
            raise _damaged(path, error) from None
        raise reading_failed(path, error) from error
    except Exception as error:
        if isinstance(error, UnicodeDecodeError) or type(error).__module__.startswith("pyarrow"):
            raise _damaged(path, error) from None
        if is_local(path):
            raise
        if is_web(path) and NO_RANGES in str(error):
            why = "the server gives no parts of files (byte ranges); download it first"
            raise WholeOnlyError(f"cannot read {path}: {why}") from None
        text = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"cannot read {path}: {type(error).__name__}: {text[:300]}") from error


def _damaged(path: str, error: Exception) -> InputError:
    """What to say about a file in which a library found what cannot be."""
    return InputError(f"{path} is damaged: {reason_of(error)}; write it again")


def asked_again(
    ask: Callable[[], Answer], may_pass: Callable[[Exception], bool], pauses_s: Iterable[float] = PAUSES_S
) -> Answer:
    """What `ask` gives; asked again after each pause while what it raises may pass. Raises what `ask` raises."""
    for pause_s in pauses_s:
        try:
            return ask()
        except Exception as error:
            if not may_pass(error):
                raise
        time.sleep(pause_s)
    return ask()


def _asked_again(path: str, ask: Callable[[], Answer]) -> Answer:
    """What `ask` gives; asked again of a web server alone, as clients of object stores do that themselves."""
    return asked_again(ask, is_passing, PAUSES_S if is_web(path) else ())


def is_passing(error: BaseException) -> bool:
    """Whether what a web server, or the way to it, has done may be otherwise a moment later."""
    import aiohttp

    cause = error.__cause__ if isinstance(error, FileNotFoundError) else error  # so the back end calls every failure
    if isinstance(cause, aiohttp.ClientResponseError):
        return cause.status in PASSING_STATUS
    passing = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError, TimeoutError)
    return isinstance(cause, passing)


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
        return local_path(path).stat().st_mode
    except ValueError:  # a zero byte
        return 0
    except OSError as error:
        if error.errno in _NOT_THERE:
            return 0
        raise


def exists(path: str) -> bool:
    """Whether there is a file or folder at `path`."""
    if is_local(path):
        return bool(mode_at(path))
    fs, inner = filesystem(path)
    with remote_errors(path):
        if not is_web(path):
            return bool(fs.exists(inner))
        try:
            _asked_again(path, lambda: fs.info(inner))
        except FileNotFoundError as error:  # so the back end calls every failure; the cause tells them apart
            cause = error.__cause__
            if cause is None or isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) in (404, 410):
                return False
            raise cause from None
        return True


def is_folder(path: str) -> bool:
    """Whether `path` is a folder (for object stores: a prefix with objects below it)."""
    if is_local(path):
        return stat.S_ISDIR(mode_at(path))
    if is_web(path):
        return False
    fs, inner = filesystem(path)
    with remote_errors(path):
        return bool(fs.isdir(inner))


def size(path: str) -> int:
    """Bytes of the file at `path`. Raises InputError when it is missing, and WholeOnlyError when a server does not tell."""
    with remote_errors(path):
        if is_local(path):
            return local_path(path).stat().st_size
        fs, inner = filesystem(path)
        num_bytes = _asked_again(path, lambda: fs.size(inner))
    if num_bytes is None:
        raise WholeOnlyError(f"cannot read {path}: the server does not state its size; download it first")
    return int(num_bytes)


def open_local(path: str | bytes | Path) -> IO[bytes]:
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
    """Open `path` for reading bytes; seekable. The caller closes it, and wraps reads in `remote_errors` for local files."""
    with remote_errors(path):
        if is_local(path):
            return open_local(local_path(path))
        fs, inner = filesystem(path)
        opened = _asked_again(path, lambda: fs.open(inner, "rb"))
        return cast("IO[bytes]", RemoteFile(opened, lambda: remote_errors(path), lambda read: _asked_again(path, read)))


def read_range(path: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of `path`, fewer at its end."""
    if stop <= start:  # an empty range is an error to object stores
        return b""
    with remote_errors(path):
        if is_local(path):
            with open_local(local_path(path)) as file:
                file.seek(start)
                return file.read(stop - start)
        return _asked_again(path, lambda: remote_range(path, start, stop))


def remote_range(path: str, start: int, stop: int) -> bytes:
    """`read_range` of a remote file, asked for once. Raises what the back end raises."""
    fs, inner = filesystem(path)
    if is_web(path):
        return _web_range(fs, inner, start, stop)
    data: bytes = fs.cat_file(inner, start=start, end=stop)
    return data


NO_RANGES = "support range requests"
"""What fsspec says, and is said here, about servers that give whole files only."""
_PIECE_BYTES = 1 << 18


def _web_range(fs: Any, url: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a URL, fewer at its end; never more are read, whatever the server sends.

    A server that gives whole files only is read from the beginning, where the file is small. Raises ValueError for a larger
    one, FileNotFoundError, and what the server's library raises.
    """
    from fsspec.asyn import sync

    async def get() -> bytes:
        options = dict(fs.kwargs)
        headers = dict(options.pop("headers", None) or {})
        headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        session = await fs.set_session()
        async with session.get(fs.encode_url(url), headers=headers, **options) as response:
            if response.status == 416:  # it ends before
                return b""
            if response.status in (404, 410):
                raise FileNotFoundError(url)
            response.raise_for_status()
            skip = 0 if response.status == 206 else start
            wanted = skip + stop - start
            is_large = wanted > _MOST_WHOLE_BYTES and (response.content_length or wanted) > _MOST_WHOLE_BYTES
            if response.status != 206 and is_large:
                raise ValueError(f"The HTTP server does not {NO_RANGES}")
            found = bytearray()
            async for piece in response.content.iter_chunked(_PIECE_BYTES):
                found += piece
                if len(found) >= wanted:
                    break
            return bytes(found[skip:wanted])

    data: bytes = sync(fs.loop, get)
    return data


def list_files(folder: str) -> list[str]:
    """Every file below `folder`, sorted by path, each once; as paths that `open_binary` takes. See `is_ignored_name`."""
    with remote_errors(folder):
        if is_local(folder):
            root = local_path(folder)
            found: list[str] = []
            seen: set[tuple[int, int]] = set()
            for parent, folders, files in os.walk(root, followlinks=True):
                status = os.stat(parent)
                if (status.st_dev, status.st_ino) in seen:
                    folders.clear()
                    continue
                seen.add((status.st_dev, status.st_ino))
                folders[:] = sorted(name for name in folders if not is_ignored_name(os.fsencode(name)))
                found += [os.path.join(parent, name) for name in files if not is_ignored_name(os.fsencode(name))]
            return sorted(found)
        fs, inner = filesystem(folder)
        start = len(str(fs.unstrip_protocol(inner)).rstrip("/"))
        paths = sorted(str(fs.unstrip_protocol(name)) for name in fs.find(inner))
        return [path for path in paths if not any(map(is_ignored_name, os.fsencode(path[start + 1 :]).split(b"/")))]


def expand_glob(pattern: str) -> list[str]:
    """Files and folders that match a glob (`*`, `?`, `[...]`, `**`), sorted.

    What lies in folders of a system's own (`is_system_name`) is left out, unless the pattern names them.
    """
    import glob

    if is_local(pattern):
        whole = str(local_path(pattern))
        return sorted(name for name in glob.glob(whole, recursive=True) if not _is_in_system_folder(name, whole))
    fs, inner = filesystem(pattern)
    whole = str(fs.unstrip_protocol(inner))
    with remote_errors(pattern):
        found = [str(fs.unstrip_protocol(name)) for name in fs.glob(inner)]
    return sorted(name for name in found if not _is_in_system_folder(name, whole))


def _is_in_system_folder(path: str, pattern: str) -> bool:
    """Whether a match lies in a folder of a system's own, or is one, that the pattern does not name."""
    wild = _WILDCARD.search(pattern)
    start = pattern.rfind("/", 0, wild.start() if wild is not None else None) + 1
    named = pattern.split("/")
    return any(is_system_name(os.fsencode(piece)) for piece in path[start:].split("/") if piece not in named)


def natural_key(path: str) -> list[tuple[int, int, str]]:
    """A sort key in which img_emb_2 comes before img_emb_10, whatever the zero padding."""
    return [(1, int(piece), piece) if i % 2 else (0, 0, piece) for i, piece in enumerate(re.split(r"([0-9]+)", path))]


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
    if is_local(path):
        return ParquetFile(path, str(local_path(path)), buffer_size=_BUFFER_BYTES, pre_buffer=False)
    buffer = _MOST_WHOLE_BYTES if streamed else 0
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


def content_sample(path: str, num_bytes: int) -> str:
    """Short digest that tells a changed file from the same one without reading it all; "" where that cannot be told.

    Local files: 16 pieces of 4 KiB, evenly spread, the first and the last included. Remote ones: the server's ETag.
    """
    digest = hashlib.sha256()
    with remote_errors(path):
        if not is_local(path):
            fs, inner = filesystem(path)
            information = _asked_again(path, lambda: fs.info(inner))
            tag = information.get("ETag") or information.get("etag") or information.get("md5Hash")
            return str(tag).strip('"') if tag else ""
        with open_local(local_path(path)) as file:
            for piece in range(_SAMPLE_PIECES):
                file.seek((num_bytes - _SAMPLE_BYTES) * piece // (_SAMPLE_PIECES - 1) if num_bytes > _SAMPLE_BYTES else 0)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def sha256_of(path: Path) -> str:
    """Lower-case hex sha256 of a local file."""
    digest = hashlib.sha256()
    with open_local(path) as file:
        while chunk := file.read(_COPY_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def write_whole(path: str, *, scratch: Path | None = None) -> Iterator[Path]:
    """Give a temporary local path to write; on success it becomes `path` at once, on any failure nothing is left.

    Local results are flushed to the disk and renamed; remote ones are uploaded as one object. The temporary file stands
    beside the result, or in `scratch` (a folder of the same disk that is cleared after a killed run); what a killed run left of
    it is taken over by the next one. Raises OutputError.
    """
    target = local_path(path) if is_local(path) else None
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
        if is_local(path):
            raise writing_failed(path, error) from error
        text = " ".join(str(error).split())[:300]
        raise OutputError(f"cannot write {path}: access denied ({text}); check your credentials and its permissions") from error
    except OSError as error:
        raise writing_failed(path, error) from error
    except Exception as error:  # see `remote_errors`
        if is_local(path):
            raise
        raise OutputError(f"cannot write {path}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error


def _upload(temporary: Path, path: str) -> None:
    """Put a local file to a remote path as one object."""
    fs, inner = filesystem(path)
    with write_errors(path):
        fs.put_file(str(temporary), inner)


def _publish(temporary: Path, target: Path) -> None:
    """Flush `temporary`, give it the usual permissions, and rename it to `target`."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(temporary, 0o666 & ~mask)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)


def in_its_folder(path: str, write: Callable[[Any, str], Any]) -> Any:
    """What `write` gives for the fsspec file system of a remote path and the path inside it.

    On a server with folders like a disk's that of the path is made where it is missing. Raises what `write` raises.
    """
    fs, inner = filesystem(path)
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
    if not is_local(path):
        with write_errors(path):
            in_its_folder(path, lambda fs, inner: fs.pipe_file(inner, data))
        return
    with write_whole(path, scratch=scratch) as temporary:
        temporary.write_bytes(data)


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
    if is_local(path):
        with write_whole(path, scratch=scratch) as temporary, temporary.open("wb") as out:
            yield out
        return
    fs, inner = filesystem(path)
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
        if is_local(path):
            local_path(path).unlink(missing_ok=True)
            return
        fs, inner = filesystem(path)
        if fs.exists(inner):
            fs.rm_file(inner)
    except FileNotFoundError:
        return
    except OSError as error:
        raise writing_failed(path, error) from error
    except Exception as error:  # see `remote_errors`
        raise OutputError(f"cannot remove {path}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error


def remove_stray_temporaries(folder: Path) -> None:
    """Delete what a killed run left half-written in `folder` (not below it)."""
    for stray in folder.glob(f"{temporaries.PREFIX}*{temporaries.SUFFIX}"):
        stray.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where converted and downloaded heads are kept: `$BEHOLDER_CACHE`, else `~/.cache/beholder` (XDG rules)."""
    chosen = os.environ.get("BEHOLDER_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "beholder"


def data_folder() -> Path:
    """Where the user's own things are kept, named heads and rates: `$BEHOLDER_DATA`, else `~/.local/share/beholder`."""
    chosen = os.environ.get("BEHOLDER_DATA")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".local" / "share") / "beholder"


class RemoteFile(io.RawIOBase):
    """A remote file for libraries that take it apart, which cannot mistake a failing server for a damaged file.

    Args:
        opened: a file of fsspec's.
        errors: gives the context in which it is read: it turns what the server's library raises into a BeholderError.
        tried: calls what it is given, again where that fails in passing.
    """

    def __init__(
        self,
        opened: Any,
        errors: Callable[[], AbstractContextManager[None]],
        tried: Callable[[Callable[[], bytes]], bytes] = lambda read: read(),
    ) -> None:
        self._opened, self._errors, self._tried = opened, errors, tried

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        with self._errors():
            return self._tried(lambda: self._opened.read(size))

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; returns how many bytes came."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place. Raises ValueError for one before the start."""
        return int(self._opened.seek(offset, whence))

    def tell(self) -> int:
        """The place."""
        return int(self._opened.tell())

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Let go of it."""
        if not self.closed:
            self._opened.close()
        super().close()
