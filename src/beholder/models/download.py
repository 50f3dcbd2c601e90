"""Fetches published files, and files by URL, into local caches; published ones are checked by their sha256 before any use.

A published file is looked for, in this order: in the folder `$BEHOLDER_MODELS`, in beholder's and the hub's local caches,
at the mirror `$BEHOLDER_MODELS` when that is a URL, and at the places where it is published. Every failure is one line.

The settings of the Hugging Face hub hold: HF_ENDPOINT (a mirror), HF_HOME and HF_HUB_CACHE (where copies are kept),
HF_HUB_OFFLINE. They are read when a function is called, not when huggingface_hub was imported.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from beholder import notices
from beholder.errors import BeholderError, HeadError, kind_and_text, os_error_text
from beholder.io import locations, records, remote, storage, user_folders, writing
from beholder.models.catalog import PublishedFile, Source
from beholder.models.transfer import LARGE_BYTES, TIMEOUT_S, UnavailableError, Watch, get, get_large, is_passing, need_space

_logger = logging.getLogger(__name__)

_LEAST_BOUND_BYTES = 1 << 20
"""What comes instead of a file may be a web page; it is fetched, so that the message can say so."""
MOST_TOWER_BYTES = 32 << 30
"""Largest checkpoint that is fetched where its size is not known beforehand; CLIP's largest have about 10 GB."""
_CHUNK_BYTES = 1 << 14
"""What the hub's client hands on at a time, in place of its own 10 MiB: so a slow server is noticed after a minute."""

_NO_NETWORK_HINT = (
    "without a network: run `beholder models export DIR` on a machine that has one, copy DIR, and set BEHOLDER_MODELS=DIR"
)

_NOT_HERE = "{} is not on this machine, and offline mode is on; load it once with a network"

_SEAL = ".sha256"
"""Behind the name of a copy: the file with its sha256."""
_FILE_ENDINGS = (
    ".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".npy", ".npz", ".joblib", ".pkl", ".pickle", ".csv", ".json", ".h5",
)  # fmt: skip
_HUB_ID = re.compile(r"(?:hf-hub:)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


class MissingError(HeadError):
    """The repository is there, and has no file of that name."""


# Settings of the environment


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").strip().casefold() in ("1", "on", "true", "yes")


def is_offline(offline: bool | None) -> bool:
    """Whether nothing may be asked for over a network: `offline`, or where that is None, $BEHOLDER_OFFLINE."""
    return _is_set("BEHOLDER_OFFLINE") if offline is None else offline


def is_hub_offline(offline: bool | None) -> bool:
    """Whether published files may not be asked for: as `is_offline`, and $HF_HUB_OFFLINE counts too."""
    return is_offline(offline) or (offline is None and _is_set("HF_HUB_OFFLINE"))


def models_place() -> str | None:
    """$BEHOLDER_MODELS: a local folder with head files, or the base URL of a mirror; None when it is not set."""
    return os.environ.get("BEHOLDER_MODELS") or None


# What a name may stand for, beside an entry of the catalogue


def is_path(spec: str) -> bool:
    """Whether a name is meant as a local path, by how it is written."""
    return locations.has_local_scheme(spec) or spec.startswith(("~", ".", "/")) or spec.casefold().endswith(_FILE_ENDINGS)


def hub_source(spec: str, file: str = "") -> Source | None:
    """`file` of the repository that "org/repo[@revision]" names, with or without "hf-hub:"; None for other names."""
    found = None if is_path(spec) else _HUB_ID.fullmatch(spec)
    return Source(repo=found["repo"], file=file, revision=found["revision"] or "main") if found is not None else None


def kept_path(kind: str, source: Source) -> Path:
    """Where beholder keeps the part of a hub repository's file that it needs; `kind` is "heads" or "towers"."""
    file = "" if source.file == "model.safetensors" else f"--{source.file.removesuffix('.safetensors')}"
    name = f"hub--{source.repo}{file}@{source.revision}".replace("/", "--")
    return user_folders.cache_folder() / kind / f"{name}.safetensors"


# Published files: found, fetched and checked


def cached_path(entry: PublishedFile) -> Path:
    """Where beholder keeps its own download of a published file."""
    return user_folders.cache_folder() / "models" / entry.files[0]


def locate(entry: PublishedFile) -> Path | None:
    """The file of a published file on this machine, not yet checked, or None. Asks no network."""
    place = models_place()
    if place is not None and locations.is_local(place):
        found = _in_folder(locations.local_path(place), entry)
        if found is not None:
            return found
    if cached_path(entry).is_file():
        return cached_path(entry)
    return next((path for source in entry.sources if source.repo and (path := cached(source)) is not None), None)


def own_heads_folder() -> Path:
    """Where heads of one's own are kept that `beholder models add` gave a name."""
    return user_folders.data_folder() / "heads"


def locate_own(name: str) -> Path | None:
    """The file of a head of one's own, by the name that `beholder models add` gave it, or `export` in $BEHOLDER_MODELS."""
    if "/" in name or not name:
        return None
    place = models_place()
    folders = [own_heads_folder()]
    folders += [locations.local_path(place)] if place is not None and locations.is_local(place) else []
    paths = [folder / file for folder in folders for file in (f"{name}.safetensors", name)]
    return next((path for path in paths if path.is_file()), None)


def own_file(name: str) -> Path | None:
    """The local file that a path means, or the name of a head of one's own (`locate_own`); None where it means none."""
    path = locations.local_path(name) if locations.is_local(name) else None
    return path if path is not None and path.is_file() else locate_own(name)


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
    """The verified local file of a published file that has a sha256, downloaded if it must be.

    Raises HeadError: a wrong file (which is not kept if a cache held it), or none to be had, with what to do.
    """
    local = locate(entry)
    if local is not None and _checked(local, entry):
        return local
    failures: list[str] = []
    place = models_place()
    places: list[Source] = []
    if place is not None and not locations.is_local(place) and not is_offline(offline):
        places = [Source(plain_url=f"{place.rstrip('/')}/{quote(file)}") for file in entry.files]
    if not is_hub_offline(offline):
        places += entry.sources
    for source in places:
        try:
            return _from_source(source, entry)
        except UnavailableError as error:
            failures.append(str(error))
    failed = "; ".join([*failures, _no_network_hint(entry)])
    if is_hub_offline(offline):
        why_not = "and offline mode is on (BEHOLDER_OFFLINE, HF_HUB_OFFLINE or offline=True)"
        raise HeadError(f"{entry.name} is not on this machine {why_not}; {failed}")
    raise HeadError(f"cannot get {entry.name}: {failed}")


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
        if place is not None and locations.is_local(place) and path.parent == locations.local_path(place):
            raise HeadError(f"{error}; replace it, or unset BEHOLDER_MODELS") from None
        if isinstance(error.__cause__, OSError):
            raise
        forget(path)
        return False
    return True


def _from_source(source: Source, entry: PublishedFile) -> Path:
    if not source.repo:
        return _download_verified(source.url, entry)
    try:
        path = from_hub(source)
    except HeadError as error:
        raise UnavailableError(str(error)) from error
    try:
        verify(path, entry)
    except HeadError as error:
        forget(path)
        raise HeadError(f"{error}; it came from {file_url(source, source.revision)} and was not kept") from None
    return path


def _download_verified(url: str, entry: PublishedFile) -> Path:
    target = cached_path(entry)
    with writing.write_whole(str(target)) as temporary:
        most_bytes = max(entry.num_bytes, _LEAST_BOUND_BYTES) if entry.num_bytes else MOST_TOWER_BYTES
        get_large(url, temporary, entry.name, entry.num_bytes, most_bytes=most_bytes)
        try:
            verify(temporary, entry)
        except HeadError as error:
            raise HeadError(f"{str(error).replace(str(temporary), url, 1)}; it was not kept") from None
    if entry.sha256 is not None:
        remember(target, entry.sha256)
    return target


def _no_network_hint(entry: PublishedFile) -> str:
    """What to do where there is no network; a tower has to be named when it is exported, it is large."""
    is_large = (entry.num_bytes or LARGE_BYTES) >= LARGE_BYTES
    return _NO_NETWORK_HINT.replace("export DIR`", f"export DIR {entry.name}`") if is_large else _NO_NETWORK_HINT


# Hashes of large files, remembered as long as size, time and inode stay the same


def file_sha256(path: Path, *, again: bool = False) -> str:
    """Lower-case hex sha256 of a local file; `again` hashes it whatever is remembered. Raises HeadError."""
    try:
        if not again and (noted := remembered(path)) is not None:
            return noted
        found = storage.sha256_of(path)
        remember(path, found)
        return found
    except OSError as error:
        raise HeadError(f"cannot read {path}: {error.strerror or error}") from error


def remember(path: Path, digest: str, *, of: str = "file") -> None:
    """Note the sha256 of a file that was just hashed (or just written); small ones are not worth a note.

    `of` tells notes apart: "file" is of all its bytes.
    """
    if path.stat().st_size >= LARGE_BYTES:
        note = records.sealed({"file": _identity(path), "digest": digest, "of": of})
        with contextlib.suppress(BeholderError):  # a cache that cannot be written only costs time
            writing.write_bytes(str(_note_path(path, of)), note)


def remembered(path: Path, *, of: str = "file") -> str | None:
    """What `remember` noted, if the file looks as it did then; None for small files and damaged notes. Raises OSError."""
    if path.stat().st_size < LARGE_BYTES:
        return None
    try:
        note = records.parse(_note_path(path, of).read_bytes(), is_sealed=True)
    except (OSError, records.DamagedRecordError):
        return None
    return str(note["digest"]) if (note.get("file"), note.get("of")) == (_identity(path), of) and "digest" in note else None


def _identity(path: Path) -> list[object]:
    seen = path.stat()
    return [str(path.resolve()), seen.st_size, seen.st_mtime_ns, seen.st_ino]


def _note_path(path: Path, of: str) -> Path:
    name = hashlib.sha256(f"{of} {path.resolve()}".encode()).hexdigest()[:32]
    return user_folders.cache_folder() / "digests" / f"{name}.json"


# Any URL


def download_url(url: str, most_bytes: int, *, offline: bool | None = None) -> Path:
    """Fetch a head file of at most `most_bytes` by URL (https, s3, ...). Raises HeadError.

    It is fetched each time, so that a changed file is seen; the copy of the last time serves when offline, if it is whole.
    """
    target = url_copy(url, "downloads/", "head")
    if is_offline(offline):
        return offline_copy(target, url)
    with writing.write_whole(str(target)) as temporary:
        get(url, temporary, most_bytes)
        digest = storage.sha256_of(temporary)
        unseal_copy(target)
    seal_copy(target, digest)
    return target


def url_copy(url: str, place: str, usual_name: str) -> Path:
    """Where the copy of what a URL gives is kept, in a folder of its own whose path in the cache begins with `place`."""
    name = re.sub(r"[^\w.+-]", "_", urlsplit(url).path.rsplit("/", 1)[-1]) or usual_name
    return user_folders.cache_folder() / f"{place}{hashlib.sha256(url.encode()).hexdigest()[:16]}" / name


def offline_copy(path: Path, url: str) -> Path:
    """The copy, for want of a network. Raises HeadError where there is none, or a damaged one."""
    if not path.is_file():
        raise HeadError(f"{url} was never fetched on this machine, and offline mode is on (BEHOLDER_OFFLINE or offline=True)")
    check_copy(path, url)
    return path


def seal_copy(path: Path, digest: str) -> None:
    """Write down beside a copy of what no catalogue knows which sha256 it has. Raises OutputError."""
    writing.write_bytes(f"{path}{_SEAL}", digest.encode() + b"\n")


def unseal_copy(path: Path) -> None:
    """Forget what `seal_copy` wrote, before another file takes the place of the copy. Raises OutputError."""
    writing.remove(f"{path}{_SEAL}")


def check_copy(path: Path, url: str) -> None:
    """Raise HeadError where a copy is not as `seal_copy` says; one without a seal, of an earlier version, passes."""
    try:
        wanted = Path(f"{path}{_SEAL}").read_bytes().strip()
    except OSError:
        return
    if file_sha256(path).encode() != wanted:
        raise HeadError(f"{path}, the copy of {url}, is damaged: it is not what was fetched (sha256); fetch it again online")


def public_part(url: str) -> str:
    """The URL without what may be a secret in a stamp: signatures in the query, a password before the host."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rsplit("@", 1)[-1], parts.path, "", ""))


# The Hugging Face hub


@dataclass(frozen=True)
class PublishedVersion:
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
    """The copy in the hub's local cache, or None. Asks no network. One that was damaged since it came is removed."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source.repo, source.file, cache_dir=hub_cache_folder(), revision=source.revision)
    if not isinstance(found, str) or not Path(found).exists():
        return None
    path = Path(found)
    with contextlib.suppress(OSError, records.DamagedRecordError, HeadError):  # nothing is known of it
        seal = records.parse(_hub_seal_path(path).read_bytes(), is_sealed=True)
        if seal.get("digest") != file_sha256(path):
            _logger.warning("%s is damaged: it is not what was fetched (sha256); it is fetched anew", path)
            forget(path)
            return None
    return path


def _seal_hub_copy(path: Path) -> None:
    """Write down the sha256 of a file that has just come into the hub's cache, in beholder's own."""
    with contextlib.suppress(BeholderError):  # a cache that cannot be written knows of no damage
        seal = records.sealed({"file": str(path.resolve()), "digest": file_sha256(path)})
        writing.write_bytes(str(_hub_seal_path(path)), seal)


def _hub_seal_path(path: Path) -> Path:
    return _note_path(path, "hub").with_suffix(".seal")


def look_up(source: Source) -> PublishedVersion:
    """Ask the hub about a file without fetching it, with a short patience. Raises HeadError."""
    with _one_line(source):
        from huggingface_hub import get_hf_file_metadata

        place = file_url(source, source.revision)
        found = remote.asked_again(lambda: get_hf_file_metadata(place, timeout=TIMEOUT_S, endpoint=endpoint()), is_passing)
        if found.commit_hash is None or found.etag is None:
            raise HeadError(f"{endpoint()} does not answer as a Hugging Face hub does; check HF_ENDPOINT and proxies")
        return PublishedVersion(found.commit_hash, found.etag, found.size)


def from_hub(source: Source, *, clock: Callable[[], float] = time.monotonic) -> Path:
    """Fetch a file into the hub's local cache (or find it there unchanged). Raises HeadError.

    `look_up` comes first because the client itself retries a dead connection for half a minute. A download that broke off
    is taken up where it stopped, and large ones show a bar on a terminal: the client sees to both
    (where a command shows what is going on itself, it shows this as well). `clock` gives seconds, for `Watch`.
    """
    num_bytes = look_up(source).num_bytes
    what = f"cannot get {source.file} of {source.repo}"
    Watch(what, MOST_TOWER_BYTES).expect(num_bytes or 0)
    most_bytes = MOST_TOWER_BYTES if num_bytes is None else num_bytes
    is_here = cached(source) is not None  # (a damaged copy is none)
    need_space(hub_cache_folder(), num_bytes or 0, source.file)
    with _one_line(source):
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

        constants.DOWNLOAD_CHUNK_SIZE = min(constants.DOWNLOAD_CHUNK_SIZE, _CHUNK_BYTES)
        hides_bar = notices.is_heard() and not are_progress_bars_disabled()
        if hides_bar:
            disable_progress_bars()
        try:
            with notices.doing(f"network: fetching {source.file}"):
                path = remote.asked_again(lambda: hf_hub_download(
                    source.repo, source.file, revision=source.revision, cache_dir=hub_cache_folder(), endpoint=endpoint(),
                    library_name="beholder", etag_timeout=TIMEOUT_S,
                    tqdm_class=watched_bar(Watch(what, most_bytes, clock=clock)),
                ), is_passing)  # fmt: skip
        finally:
            if hides_bar:
                enable_progress_bars()
        if not (is_here and _hub_seal_path(Path(path)).exists()):
            _seal_hub_copy(Path(path))
        return Path(path)


def first_of(sources: Sequence[Source], get: Callable[[Source], Path], offline: bool | None, what: str) -> Path:
    """What `get` gives of the first of these files that their repository has; `what`: they, in words. Raises HeadError."""
    for source in sources:
        with contextlib.suppress(MissingError):
            return get(source)
    if is_hub_offline(offline):
        raise HeadError(_NOT_HERE.format(sources[0].repo))
    raise HeadError(f"{sources[0].repo} has none of the files {what}")


def newest_copy(source: Source, kept_etag: str | None, offline: bool | None) -> Path | PublishedVersion | None:
    """Which copy of a file on the hub serves, where a part of it may be kept here already (of the version `kept_etag`).

    None: the kept part; a path: the whole file in the hub's cache; else the version that has to be fetched. A commit never
    changes; where the hub cannot be asked, what is here serves, with a warning. Raises HeadError where nothing does.
    """
    is_settled = is_hub_offline(offline) or re.fullmatch("[0-9a-f]{40}", source.revision) is not None
    if kept_etag is not None and is_settled:
        return None
    local = cached(source)
    if local is not None and is_settled:
        return local
    if is_hub_offline(offline):
        raise MissingError(_NOT_HERE.format(source.repo))
    try:
        published = look_up(source)
    except HeadError as error:
        if kept_etag is None and local is None:
            raise
        _logger.warning("%s; using the copy kept earlier", error)
        return None if kept_etag is not None else local
    return None if kept_etag == published.etag else published


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


def hub_cache_folder() -> Path:
    """Where the hub's client keeps its copies, as the environment says now (the client asks only when it is imported)."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(chosen or Path(home) / "hub").expanduser()


@contextlib.contextmanager
def _one_line(source: Source) -> Iterator[None]:
    from huggingface_hub import errors

    where = f"{source.file} of {source.repo}" + (f"@{source.revision}" if source.revision != "main" else "")
    try:
        yield
    except HeadError:
        raise
    except errors.EntryNotFoundError as error:
        if not isinstance(error, errors.LocalEntryNotFoundError):
            raise MissingError(f"cannot get {where}: the repository has no such file") from None
        raise HeadError(f"cannot get {where}: {unreachable(error.__cause__ or error)}") from None
    except Exception as error:  # the client's HTTP library (it has changed twice) raises errors of its own
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            folder, why_not = hub_cache_folder(), os_error_text(error)
            raise HeadError(f"cannot keep {where} in {folder}: {why_not}; HF_HOME names another place") from None
        match error:
            case errors.GatedRepoError():
                reason = "its owner lets in only those who asked; accept its terms, then: hf auth login"
            case errors.RepositoryNotFoundError():
                reason = f"{endpoint()} has no such repository, or it is private"
            case errors.RevisionNotFoundError():
                reason = "the repository has no such revision"
            case errors.HFValidationError():
                reason = kind_and_text(error)
            case errors.HfHubHTTPError():
                reason = f"{endpoint()} answered with HTTP status {getattr(error.response, 'status_code', None)}"
            case _:
                reason = unreachable(error)
        raise HeadError(f"cannot get {where}: {reason}") from None


def unreachable(error: BaseException) -> str:
    """Why the hub gave no answer, in words."""
    return f"{endpoint()} cannot be reached ({kind_and_text(error)})"
