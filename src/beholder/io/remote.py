"""Files on servers: their file systems, what their failures mean, and which of them may pass."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from beholder.errors import BeholderError, InputError, kind_and_text, reading_failed, reason_of
from beholder.io import locations

Answer = TypeVar("Answer")


class WholeOnlyError(InputError):
    """A web server that gives files as a whole only: no parts of them, or it does not tell how large they are."""


PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP answers after which the same request may succeed a moment later."""
CONNECT_S, SILENCE_S = 10.0, 30.0
"""How long connecting to a web server, and waiting for its next bytes, may take."""
PAUSES_S = (0.25, 1.0)
"""Before the second and the third try of what failed in passing."""
MOST_WHOLE_BYTES = 8 << 20
"""Largest file of which a part is read by fetching the whole, from web servers that give no parts."""
_PROTOCOL_PACKAGES = {
    "s3": "beholder[s3]", "gs": "beholder[gs]", "gcs": "beholder[gs]",
}  # fmt: skip


def filesystem(path: str) -> tuple[Any, str]:
    """The fsspec file system of `path` and the path inside it."""
    import fsspec

    try:
        place = _with_plain_scheme(path) if not locations.is_local(path) else str(locations.local_path(path))
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

    if not locations.is_web(path) or "::" in path:
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


def forget_listings(path: str) -> None:
    """Have the next look at a remote folder see what is there now: back ends keep listings as long as the process lives."""
    if not locations.is_local(path):
        filesystem(path)[0].invalidate_cache()


@contextlib.contextmanager
def read_errors(path: str) -> Iterator[None]:
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
        if locations.is_web(path) and isinstance(cause, Exception) and getattr(cause, "status", None) not in (404, 410):
            raise InputError(f"cannot read {path}: {kind_and_text(cause)}") from error
        raise InputError(f"cannot read {path}: it does not exist (any more); check the path") from error
    except PermissionError as error:
        if locations.is_local(path):
            raise reading_failed(path, error) from error
        text = " ".join(str(error).split())[:300]
        raise InputError(f"cannot read {path}: access denied ({text}); check your credentials and its permissions") from error
    except OSError as error:
        if locations.is_local(path) and error.errno is None:
            raise _damaged(path, error) from None
        raise reading_failed(path, error) from error
    except Exception as error:
        if isinstance(error, UnicodeDecodeError) or type(error).__module__.startswith("pyarrow"):
            raise _damaged(path, error) from None
        if locations.is_local(path):
            raise
        if locations.is_web(path) and NO_RANGES in str(error):
            why = "the server gives no parts of files (byte ranges); download it first"
            raise WholeOnlyError(f"cannot read {path}: {why}") from None
        raise InputError(f"cannot read {path}: {kind_and_text(error)}") from error


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


def asked_again_if_web(path: str, ask: Callable[[], Answer]) -> Answer:
    """What `ask` gives; asked again of a web server alone, as clients of object stores do that themselves."""
    return asked_again(ask, is_passing, PAUSES_S if locations.is_web(path) else ())


def is_passing(error: BaseException) -> bool:
    """Whether what a web server, or the way to it, has done may be otherwise a moment later."""
    import aiohttp

    cause = error.__cause__ if isinstance(error, FileNotFoundError) else error  # so the back end calls every failure
    if isinstance(cause, aiohttp.ClientResponseError):
        return cause.status in PASSING_STATUS
    passing = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError, TimeoutError)
    return isinstance(cause, passing)


def remote_range(path: str, start: int, stop: int) -> bytes:
    """`read_range` of a remote file, asked for once. Raises what the back end raises."""
    fs, inner = filesystem(path)
    if locations.is_web(path):
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
            is_large = wanted > MOST_WHOLE_BYTES and (response.content_length or wanted) > MOST_WHOLE_BYTES
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
