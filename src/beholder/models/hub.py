"""A file's place on the Hugging Face hub in, a local copy or its size and version out; every failure is one line.

The hub's own settings hold: HF_ENDPOINT (a mirror), HF_HOME and HF_HUB_CACHE (where copies are kept), HF_HUB_OFFLINE.
They are read when a function is called, not when huggingface_hub was imported.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from beholder import notices
from beholder.errors import HeadError, os_error_text
from beholder.models.byte_ranges import MOST_TOWER_BYTES, Watch, need_space
from beholder.models.catalog import Source

_TIMEOUT_S = 15.0
_CHUNK_BYTES = 1 << 14
"""What the client hands on at a time, in place of its own 10 MiB: a slow server is noticed after a minute, not at the end."""


class MissingError(HeadError):
    """The repository is there, and has no file of that name."""


@dataclass(frozen=True)
class Published:
    """What the hub says about a file: the commit it is of, its ETag, and its size (None: not told)."""

    commit: str
    etag: str
    num_bytes: int | None


def endpoint() -> str:
    """The hub that is asked: $HF_ENDPOINT, else https://huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def file_url(source: Source, revision: str) -> str:
    """The URL at which the hub serves the file's bytes, by range if asked so."""
    return f"{endpoint()}/{source.repo}/resolve/{quote(revision, safe='')}/{quote(source.file)}"


def cached(source: Source) -> Path | None:
    """The copy in the hub's local cache, or None. Asks no network."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source.repo, source.file, cache_dir=_cache_folder(), revision=source.revision)
    return Path(found) if isinstance(found, str) and Path(found).exists() else None


def look_up(source: Source) -> Published:
    """Ask the hub about a file without fetching it, once and with a short patience. Raises HeadError."""
    with _one_line(source):
        from huggingface_hub import get_hf_file_metadata

        found = get_hf_file_metadata(file_url(source, source.revision), timeout=_TIMEOUT_S, endpoint=endpoint())
        if found.commit_hash is None or found.etag is None:
            raise HeadError(f"{endpoint()} does not answer as a Hugging Face hub does; check HF_ENDPOINT and proxies")
        return Published(found.commit_hash, found.etag, found.size)


def download(source: Source) -> Path:
    """Fetch a file into the hub's local cache (or find it there unchanged). Raises HeadError.

    `look_up` comes first because the client itself retries a dead connection for half a minute. A download that broke off
    is taken up where it stopped, and large ones show a bar on a terminal: the client sees to both
    (where a command shows what is going on itself, it shows this as well).
    """
    num_bytes = look_up(source).num_bytes
    what = f"cannot get {source.file} of {source.repo}"
    Watch(what, MOST_TOWER_BYTES).expect(num_bytes or 0)
    watch = Watch(what, MOST_TOWER_BYTES if num_bytes is None else num_bytes)
    need_space(cache_folder(), num_bytes or 0, source.file)
    with _one_line(source):
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

        constants.DOWNLOAD_CHUNK_SIZE = min(constants.DOWNLOAD_CHUNK_SIZE, _CHUNK_BYTES)
        hides_bar = notices.is_heard() and not are_progress_bars_disabled()
        if hides_bar:
            disable_progress_bars()
        try:
            with notices.doing(f"network: fetching {source.file}"):
                path = hf_hub_download(
                    source.repo, source.file, revision=source.revision, cache_dir=_cache_folder(), endpoint=endpoint(),
                    library_name="beholder", etag_timeout=_TIMEOUT_S, tqdm_class=watched_bar(watch),
                )  # fmt: skip
        finally:
            if hides_bar:
                enable_progress_bars()
        return Path(path)


def watched_bar(watch: Watch) -> Any:
    """The client's progress bar, which tells `watch` of every byte once; a fault that `watch` finds ends the download.

    Of what the client tells in another thread nothing is passed on: Xet does so, prints what is raised there and goes on.
    Its own limits hold there.
    """
    from huggingface_hub.utils.tqdm import tqdm

    waiting = threading.get_ident()

    class Watched(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            if threading.get_ident() == waiting:
                watch(int(n or 0))
            shown: bool | None = super().update(n)
            return shown

        def update_transfer(self, n: float) -> None:
            """Bytes that came and are not written yet. Of a class that has this, Xet makes one bar and not two."""

        def set_transfer_postfix_str(self, text: str, refresh: bool = True) -> None:
            """The speed at which they come."""

    return Watched


def forget(path: Path) -> None:
    """Remove a file from a cache: the link or file itself and, in the hub's own layout, the bytes it points to.

    A link that leads out of the cache is only unlinked. What may not be removed stays; it is fetched anew all the same.
    """
    blob = path.resolve()
    is_hubs_own = blob.parent.name == "blobs" and blob.parent.parent in path.absolute().parents
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        if is_hubs_own:
            blob.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where the hub's client keeps its copies."""
    return Path(_cache_folder() or Path.home() / ".cache" / "huggingface" / "hub").expanduser()


def _cache_folder() -> str | None:
    """What the environment says now; None leaves it to huggingface_hub, whose default it then is."""
    chosen = os.environ.get("HF_HUB_CACHE")
    home = os.environ.get("HF_HOME")
    return chosen or (str(Path(home).expanduser() / "hub") if home else None)


@contextlib.contextmanager
def _one_line(source: Source) -> Iterator[None]:
    from huggingface_hub import errors

    where = f"{source.file} of {source.repo}" + (f"@{source.revision}" if source.revision != "main" else "")
    try:
        yield
    except HeadError:
        raise
    except errors.GatedRepoError:
        hint = "its owner lets in only those who asked; accept its terms, then: hf auth login"
        raise HeadError(f"cannot get {where}: {hint}") from None
    except errors.RepositoryNotFoundError:
        raise HeadError(f"cannot get {where}: {endpoint()} has no such repository, or it is private") from None
    except errors.RevisionNotFoundError:
        raise HeadError(f"cannot get {where}: the repository has no such revision") from None
    except errors.LocalEntryNotFoundError as error:
        raise HeadError(f"cannot get {where}: {endpoint()} cannot be reached ({_cause(error)})") from None
    except errors.EntryNotFoundError:
        raise MissingError(f"cannot get {where}: the repository has no such file") from None
    except errors.HFValidationError as error:
        raise HeadError(f"cannot get {where}: {_text(error)}") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        raise HeadError(f"cannot get {where}: {endpoint()} answered with HTTP status {status}") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise HeadError(f"cannot get {where}: {endpoint()} cannot be reached ({_text(error)})") from None
        raise HeadError(
            f"cannot keep {where} in {cache_folder()}: {os_error_text(error)}; HF_HOME names another place"
        ) from None
    except Exception as error:  # the client's HTTP library (it has changed twice) raises errors of its own
        raise HeadError(f"cannot get {where}: {endpoint()} cannot be reached ({_text(error)})") from None


def _cause(error: BaseException) -> str:
    return _text(error.__cause__ or error)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
