"""Reading the bytes of one picture (a local file, a range of one, a URL), or the reason why there are none."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import stat
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from beholder.columns import PictureReason
from beholder.errors import InputError, os_error_text
from beholder.io import locations, remote
from beholder.options import PICTURE_TIMEOUT_S
from beholder.pixels.picture import PictureError
from beholder.sources.reader import PictureRef

_MISSING_STATUS = frozenset({404, 410})
_PIECE_BYTES = 1 << 18
_WANTED_FLAGS = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


@dataclass(frozen=True, kw_only=True)
class ReadLimits:
    """How long and how much is read for one picture.

    Attributes:
        max_bytes: files (or ranges) with more are TOO_LARGE.
        timeout_s: seconds for one picture, all tries together.
        num_tries: how often a request is made before a passing network failure counts as UNREADABLE.
        first_pause_s: before the second try; doubled before each further one.
    """

    max_bytes: int = 1 << 30
    timeout_s: float = PICTURE_TIMEOUT_S
    num_tries: int = 3
    first_pause_s: float = 0.25


class _PassingError(Exception):
    """A failure that may be gone at the next try; the text says what it was."""


class OpenArchives:
    """The last few local files of which ranges were read, kept open: a tar is opened once, not once a member."""

    def __init__(self, most: int = 8) -> None:
        self._open: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._most = most

    def get(self, path: str) -> tuple[int, int]:
        """Descriptor and size of `path`."""
        found = self._open.get(path)
        if found is None:
            found = _open_regular(path)
            self._open[path] = found
            if len(self._open) > self._most:
                os.close(self._open.popitem(last=False)[1][0])
        else:
            self._open.move_to_end(path)
        return found

    def close(self) -> None:
        """Close them all."""
        while self._open:
            os.close(self._open.popitem()[1][0])


def read_bytes(ref: PictureRef, limits: ReadLimits, archives: OpenArchives | None = None) -> bytes:
    """The bytes of one picture. Raises PictureError, and nothing else.

    MISSING: no such file, or 404. UNREADABLE: permission, I/O or network error, or not a regular file. TOO_LARGE: more than
    `limits.max_bytes`. TRUNCATED: the range goes past the end of its file. TIMED_OUT: a server was too slow.
    A local file can block here as long as its file system does; `pool` then ends the worker.
    """
    if ref.error is not None:
        raise PictureError(*ref.error)
    if ref.data is not None:
        _check_size(len(ref.data), limits)
        return ref.data
    if ref.path is None:
        raise PictureError(PictureReason.MISSING, "there is no path and there are no bytes for this picture")
    try:
        if locations.is_local(ref.path):
            return _read_local(ref, limits, archives)
        return _read_remote(ref, limits)
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError(PictureReason.MISSING, f"{ref.path} does not exist (any more)") from None
    except OSError as error:
        reason = PictureReason.MISSING if error.errno in (errno.ENOENT, errno.ENOTDIR) else PictureReason.UNREADABLE
        raise PictureError(reason, f"cannot read {ref.path}: {os_error_text(error)}") from None
    except InputError as error:
        raise PictureError(PictureReason.UNREADABLE, str(error)) from None
    except MemoryError:
        raise PictureError(PictureReason.TOO_LARGE, f"{ref.path} does not fit in the memory of a decode worker") from None
    except Exception as error:  # remote back ends raise errors of their own libraries, which have no common parent
        raise PictureError(PictureReason.UNREADABLE, f"cannot read {ref.path}: {_text(error)}") from None


def load_client(path: str | None) -> None:
    """Import what such URLs are read with: it can take seconds, which no picture is to answer for. Errors: see `read_bytes`."""
    with contextlib.suppress(Exception):
        if path is not None and locations.is_web(path):
            import aiohttp  # noqa: F401
        remote.filesystem(path or "")


def _text(error: BaseException) -> str:
    """Kind and text of an error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300].removesuffix(": ")


def too_many_bytes(num_bytes: int, max_bytes: int) -> tuple[PictureReason, str]:
    """Reason and text for a picture with more bytes than are read."""
    return PictureReason.TOO_LARGE, f"it has {num_bytes:,} bytes, the limit is {max_bytes:,}"


def _check_size(num_bytes: int, limits: ReadLimits) -> None:
    if num_bytes > limits.max_bytes:
        raise PictureError(*too_many_bytes(num_bytes, limits.max_bytes))


def _open_regular(path: str) -> tuple[int, int]:
    """Descriptor and size of a regular file; never waits for a pipe's other end. Raises PictureError or OSError."""
    try:
        handle = os.open(locations.local_text(path), _WANTED_FLAGS)
    except ValueError as error:  # a zero byte in the name
        raise PictureError(PictureReason.MISSING, f"cannot read {path!r}: {error}") from None
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise PictureError(PictureReason.UNREADABLE, f"cannot read {path}: it is {kind}, a file was expected")
    return handle, status.st_size


def _read_local(ref: PictureRef, limits: ReadLimits, archives: OpenArchives | None) -> bytes:
    assert ref.path is not None
    keep = archives is not None and ref.offset is not None
    handle, size = archives.get(ref.path) if archives is not None and keep else _open_regular(ref.path)
    try:
        start = ref.offset or 0
        wanted = max(size - start, 0) if ref.length is None else ref.length
        _check_size(wanted, limits)
        return _whole_range(_read_from(handle, start, wanted), ref)
    finally:
        if not keep:
            os.close(handle)


def _read_from(handle: int, start: int, wanted: int) -> bytes:
    """`wanted` bytes from `start`, fewer where the file ends."""
    data = os.pread(handle, wanted, start)
    if len(data) < wanted:  # signals, 2 GiB limits, network file systems
        pieces = [data]
        while data and (left := wanted - sum(map(len, pieces))):
            data = os.pread(handle, left, start + wanted - left)
            pieces.append(data)
        data = b"".join(pieces)
    return data


def _read_remote(ref: PictureRef, limits: ReadLimits) -> bytes:
    """Ask a server, several times when it fails in passing."""
    assert ref.path is not None
    deadline = time.monotonic() + limits.timeout_s
    pause = limits.first_pause_s
    for attempt in range(1, limits.num_tries + 1):
        try:
            return _fetch_web(ref, limits, deadline) if locations.is_web(ref.path) else _fetch_object(ref, limits)
        except (_PassingError, ConnectionError, TimeoutError) as error:
            wait = pause * random.uniform(0.8, 1.2)
            if time.monotonic() + wait >= deadline or (isinstance(error, TimeoutError) and time.monotonic() >= deadline):
                text = f"{ref.path}: no whole answer within {limits.timeout_s:g} s ({_text(error)})"
                raise PictureError(PictureReason.TIMED_OUT, text) from None
            if attempt == limits.num_tries:
                what = str(error) if isinstance(error, _PassingError) else _text(error)
                text = f"cannot read {ref.path}: {what} ({limits.num_tries} tries)"
                raise PictureError(PictureReason.UNREADABLE, text) from None
            time.sleep(wait)
            pause *= 2
    raise AssertionError("a try returns or raises")


def _fetch_object(ref: PictureRef, limits: ReadLimits) -> bytes:
    """From an object store or any other fsspec file system."""
    assert ref.path is not None
    fs, inner = remote.filesystem(ref.path)
    start = ref.offset or 0
    if ref.length is not None:
        _check_size(ref.length, limits)
        data: bytes = fs.cat_file(inner, start=start, end=start + ref.length) if ref.length else b""
        return _whole_range(data, ref)
    size = int(fs.size(inner) or 0)
    _check_size(size - start, limits)
    whole: bytes = (fs.cat_file(inner, start=start, end=size) if start else fs.cat_file(inner)) if size > start else b""
    return whole


def _whole_range(data: bytes, ref: PictureRef) -> bytes:
    """`data` cut to the range of `ref`, which it must fill."""
    if ref.length is not None and len(data) < ref.length:
        text = f"{ref.path} ends inside this picture ({len(data):,} of {ref.length:,} bytes at {ref.offset or 0:,})"
        raise PictureError(PictureReason.TRUNCATED, text)
    return data if ref.length is None else data[: ref.length]


def _fetch_web(ref: PictureRef, limits: ReadLimits, deadline: float) -> bytes:
    """From a web server, on fsspec's event loop, so that its settings (headers, proxies, credentials) hold."""
    import asyncio

    import aiohttp
    from fsspec.asyn import sync

    assert ref.path is not None
    fs, url = remote.filesystem(ref.path)

    async def get() -> bytes:
        return await asyncio.wait_for(_get(fs, url, ref, limits), max(deadline - time.monotonic(), 0.001))

    try:
        data: bytes = sync(fs.loop, get)
    except aiohttp.ClientResponseError as error:
        if error.status in _MISSING_STATUS:
            text = f"{ref.path} does not exist: the server answers {error.status}"
            raise PictureError(PictureReason.MISSING, text) from None
        text = f"the server answers {error.status} {error.message}".strip()
        if error.status in remote.PASSING_STATUS:
            raise _PassingError(text) from None
        if error.status == 416:
            raise PictureError(PictureReason.TRUNCATED, f"{ref.path} ends before this picture") from None
        raise PictureError(PictureReason.UNREADABLE, f"cannot read {ref.path}: {text}") from None
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
        raise _PassingError(_text(error)) from None
    except aiohttp.ClientError as error:  # a bad URL, too many redirects: the same at every try
        raise PictureError(PictureReason.UNREADABLE, f"cannot read {ref.path}: {_text(error)}") from None
    return _whole_range(data, ref)


async def _get(fs: Any, url: str, ref: PictureRef, limits: ReadLimits) -> bytes:
    """One GET; reads no more than is wanted or allowed."""
    import aiohttp

    start, length = ref.offset or 0, ref.length
    if length is not None:
        _check_size(length, limits)
        if length == 0:
            return b""
    options = dict(fs.kwargs)
    headers = dict(options.pop("headers", None) or {})
    if start or length is not None:
        headers["Range"] = f"bytes={start}-{'' if length is None else start + length - 1}"
    options["timeout"] = aiohttp.ClientTimeout(
        total=limits.timeout_s, sock_connect=remote.CONNECT_S, sock_read=remote.SILENCE_S
    )
    session = await fs.set_session()
    async with session.get(fs.encode_url(url), headers=headers, **options) as response:
        response.raise_for_status()
        skip = start if response.status != 206 else 0  # a server that gives no parts sends all from the beginning
        stop = None if length is None else skip + length
        if stop is None and response.content_length is not None and not response.headers.get("Content-Encoding"):
            _check_size(response.content_length - skip, limits)
        pieces: list[bytes] = []
        seen = 0
        async for piece in response.content.iter_chunked(_PIECE_BYTES):
            kept = piece[max(skip - seen, 0) :]
            seen += len(piece)
            if kept:
                pieces.append(kept)
            _check_size(seen - skip, limits) if stop is None else None
            if stop is not None and seen >= stop:
                break
    return b"".join(pieces)
