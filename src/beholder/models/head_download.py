"""A registry entry or a URL in, a local file out; a registry head is checked against its sha256 before anyone uses it.

A head is looked for, in this order: in the folder `$BEHOLDER_MODELS`, in beholder's and the hub's local caches, at the
mirror `$BEHOLDER_MODELS` when that is a URL, and at the places where it is published.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from beholder.errors import BeholderError, HeadError
from beholder.io import storage
from beholder.models import byte_ranges, hub
from beholder.models.catalog import PublishedFile, Source
from beholder.models.digests import file_sha256, remember

_CONNECT_TIMEOUT_S = 15.0
_READ_TIMEOUT_S = 60.0
_LARGE_BYTES = 32 << 20
"""Larger files are fetched in pieces, each tried again when the connection breaks, with a progress bar."""
_LEAST_BOUND_BYTES = 1 << 20
"""What comes instead of a file may be a web page; it is fetched, so that the message can say so."""
_TRUE = {"1", "on", "true", "yes"}

NO_NETWORK_HINT = (
    "without a network: run `beholder models export DIR` on a machine that has one, copy DIR, and set BEHOLDER_MODELS=DIR"
)


def no_network_hint(entry: PublishedFile) -> str:
    """What to do where there is no network; a tower has to be named when it is exported, it is large."""
    is_large = (entry.num_bytes or _LARGE_BYTES) >= _LARGE_BYTES
    return NO_NETWORK_HINT.replace("export DIR`", f"export DIR {entry.name}`") if is_large else NO_NETWORK_HINT


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").strip().casefold() in _TRUE


def is_offline(offline: bool | None) -> bool:
    """Whether nothing may be asked for over a network: `offline`, or where that is None, $BEHOLDER_OFFLINE."""
    return _is_set("BEHOLDER_OFFLINE") if offline is None else offline


def is_hub_offline(offline: bool | None) -> bool:
    """Whether published files may not be asked for: as `is_offline`, and $HF_HUB_OFFLINE counts too."""
    return is_offline(offline) or (offline is None and _is_set("HF_HUB_OFFLINE"))


def models_place() -> str | None:
    """$BEHOLDER_MODELS: a local folder with head files, or the base URL of a mirror; None when it is not set."""
    return os.environ.get("BEHOLDER_MODELS") or None


def cached_path(entry: PublishedFile) -> Path:
    """Where beholder keeps its own download of a registry head."""
    return storage.cache_folder() / "models" / entry.files[0]


def locate(entry: PublishedFile) -> Path | None:
    """The file of a registry head on this machine, not yet checked, or None. Asks no network."""
    place = models_place()
    if place is not None and storage.is_local(place):
        found = _in_folder(storage.local_path(place), entry)
        if found is not None:
            return found
    if cached_path(entry).is_file():
        return cached_path(entry)
    return next((path for source in entry.sources if source.repo and (path := hub.cached(source)) is not None), None)


def locate_own(name: str) -> Path | None:
    """The file of a head of one's own in the folder $BEHOLDER_MODELS, by the name that `beholder models export` gave it."""
    place = models_place()
    if place is None or not storage.is_local(place) or "/" in name or not name:
        return None
    paths = [storage.local_path(place) / file for file in (name, f"{name}.safetensors")]
    return next((path for path in paths if path.is_file()), None)


def verify(path: Path, entry: PublishedFile, *, again: bool = False) -> None:
    """Raise HeadError, naming both sha256, unless the file is the published one.

    A large file that was hashed before and looks untouched is not hashed again, unless `again`.
    """
    if entry.sha256 is None:
        raise HeadError(f"{entry.name}: its sha256 was never published, so a file of it cannot be verified")
    try:
        found, num_bytes = file_sha256(path, again=again), path.stat().st_size
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise HeadError(f"cannot read {path}: {error.strerror or error}") from error
    if found == entry.sha256:
        return
    hint = ""
    if start.lstrip().startswith(b"<"):
        hint = "; it is a web page (an error page or a login page, perhaps of a proxy)"
    elif entry.num_bytes is not None and num_bytes != entry.num_bytes:
        hint = f"; it has {num_bytes} bytes instead of {entry.num_bytes}"
    raise HeadError(f"{path} is not {entry.name}: expected sha256 {entry.sha256}, found {found}{hint}")


def fetch_entry(entry: PublishedFile, *, offline: bool | None = None) -> Path:
    """The verified local file of a registry head that has a sha256, downloaded if it must be.

    Raises HeadError: a wrong file (which is not kept if a cache held it), or none to be had, with what to do.
    """
    local = locate(entry)
    if local is not None and _checked(local, entry):
        return local
    failures: list[str] = []
    place = models_place()
    if place is not None and not storage.is_local(place) and not is_offline(offline):
        found = _from_mirror(place, entry, failures)
        if found is not None:
            return found
    if is_hub_offline(offline):
        reason = "and offline mode is on (BEHOLDER_OFFLINE, HF_HUB_OFFLINE or offline=True)"
        raise HeadError(f"{entry.name} is not on this machine {reason}; " + "; ".join([*failures, no_network_hint(entry)]))
    for source in entry.sources:
        try:
            return _from_source(source, entry)
        except UnavailableError as error:
            failures.append(str(error))
    raise HeadError(f"cannot get {entry.name}: " + "; ".join([*failures, no_network_hint(entry)]))


class UnavailableError(Exception):
    """A place that does not give the file; the next one is asked."""


def _in_folder(folder: Path, entry: PublishedFile) -> Path | None:
    if not folder.is_dir():
        raise HeadError(f"BEHOLDER_MODELS is {folder}, which is not a folder; set it to a folder with head files, or unset it")
    plain = [name for name in (entry.name, *entry.aliases) if "/" not in name]
    names = [*entry.files, *(name + ending for name in plain for ending in (".pth", ".pt"))]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _checked(path: Path, entry: PublishedFile) -> bool:
    """Verify a file found on this machine. A wrong one in a cache is removed, to be fetched anew; one of the user's raises."""
    try:
        verify(path, entry)
    except HeadError as error:
        place = models_place()
        if place is not None and storage.is_local(place) and path.parent == storage.local_path(place):
            raise HeadError(f"{error}; replace it, or unset BEHOLDER_MODELS") from None
        if isinstance(error.__cause__, OSError):
            raise
        hub.forget(path)
        return False
    return True


def _from_mirror(place: str, entry: PublishedFile, failures: list[str]) -> Path | None:
    for file in entry.files:
        url = f"{place.rstrip('/')}/{quote(file)}"
        try:
            return _download_verified(url, entry)
        except UnavailableError as error:
            failures.append(str(error))
    return None


def _from_source(source: Source, entry: PublishedFile) -> Path:
    if not source.repo:
        return _download_verified(source.url, entry)
    try:
        path = hub.download(source)
    except HeadError as error:
        raise UnavailableError(str(error)) from error
    try:
        verify(path, entry)
    except HeadError as error:
        hub.forget(path)
        raise HeadError(f"{error}; it came from {hub.file_url(source, source.revision)} and was not kept") from None
    return path


def _download_verified(url: str, entry: PublishedFile) -> Path:
    target = cached_path(entry)
    with storage.write_whole(str(target)) as temporary:
        most_bytes = max(entry.num_bytes, _LEAST_BOUND_BYTES) if entry.num_bytes else byte_ranges.MOST_TOWER_BYTES
        get_large(url, temporary, entry.name, entry.num_bytes, most_bytes=most_bytes)
        try:
            verify(temporary, entry)
        except HeadError as error:
            raise HeadError(f"{str(error).replace(str(temporary), url, 1)}; it was not kept") from None
    if entry.sha256 is not None:
        remember(target, entry.sha256)
    return target


def download_url(url: str, most_bytes: int, *, offline: bool | None = None) -> Path:
    """Fetch a head file of at most `most_bytes` by URL (https, s3, ...). Raises HeadError.

    It is fetched each time, so that a changed file is seen; the copy of the last time serves when offline.
    """
    name = re.sub(r"[^\w.+-]", "_", urlsplit(url).path.rsplit("/", 1)[-1]) or "head"
    target = storage.cache_folder() / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:16] / name
    if is_offline(offline):
        if target.is_file():
            return target
        raise HeadError(f"{url} was never fetched on this machine, and offline mode is on (BEHOLDER_OFFLINE or offline=True)")
    try:
        with storage.write_whole(str(target)) as temporary:
            _get(url, temporary, most_bytes)
    except UnavailableError as error:
        raise HeadError(str(error)) from None
    return target


def get_large(url: str, target: Path, label: str, num_bytes: int | None = None, *, most_bytes: int) -> None:
    """Fetch a URL into an existing local file: in pieces where it is large and the server gives parts. Raises UnavailableError.

    `num_bytes` is its size where that is known; otherwise the server is asked. More than `most_bytes` are not taken.
    """
    if storage.is_web(url) and (num_bytes is None or num_bytes >= _LARGE_BYTES):
        try:
            total = storage.size(url)
            if total >= _LARGE_BYTES:
                byte_ranges.Watch(url, most_bytes).expect(total)
                byte_ranges.need_space(target.parent, total, label)
                byte_ranges.fetch_pieces(url, [(0, total, 0)], target, label)
                return
        except BeholderError as error:
            if "gives no parts" not in str(error) and "does not tell its size" not in str(error):
                text = str(error).removeprefix(f"cannot read {url}: ").removeprefix(f"{url}: ")
                raise UnavailableError(f"cannot get {url}: {text}") from None
    _get(url, target, most_bytes)


def _get(url: str, target: Path, most_bytes: int) -> None:
    """Stream a URL into a local file. Raises UnavailableError when that fails for whatever reason."""
    from fsspec.callbacks import Callback

    watch = byte_ranges.Watch(url, most_bytes)

    class Watched(Callback):  # type: ignore[misc]
        def set_size(self, size: int | None) -> None:
            watch.expect(size or 0)

        def relative_update(self, inc: int = 1) -> None:
            watch(inc)

    try:
        file_system, inner = _file_system(url)
        file_system.get_file(inner, str(target), callback=Watched())
    except FileNotFoundError as error:
        is_gone = not isinstance(error.__cause__, Exception) or getattr(error.__cause__, "status", None) in (404, 410)
        reason = "it does not exist there" if is_gone else why(error.__cause__)  # type: ignore[arg-type]
        raise UnavailableError(f"cannot get {url}: {reason}") from None
    except BeholderError as error:
        raise UnavailableError(f"cannot get {error}") from None
    except Exception as error:  # remote back ends raise errors of their own libraries, which have no common parent
        raise UnavailableError(f"cannot get {url}: {why(error)}") from None


def _file_system(url: str) -> tuple[Any, str]:
    if not storage.is_web(url):
        return storage.filesystem(url)
    _, address = storage.filesystem(url)
    import aiohttp
    import fsspec

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_READ_TIMEOUT_S)
    return fsspec.filesystem("http", client_kwargs={"timeout": timeout}), address


def why(error: Exception) -> str:
    """A remote back end's error in a few words."""
    status = getattr(error, "status", None)
    if isinstance(status, int) and status >= 400:
        return f"the server answered with HTTP status {status}"
    text = " ".join(str(error).split())[:200]
    if "Timeout" in type(error).__name__ or isinstance(error, TimeoutError):
        return "the server did not answer in time"
    if "Payload" in type(error).__name__:
        return f"the connection broke off before the end ({text})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def public_part(url: str) -> str:
    """The URL without what may be a secret in a stamp: signatures in the query, a password before the host."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rsplit("@", 1)[-1], parts.path, "", ""))
