"""Where a tower is published in, a local file with it out; of a whole CLIP model on a server only the image tower travels.

The tensors fetched by range are kept as one safetensors file of beholder's own, under their own names and in their own dtypes,
with the source, its commit or ETag, and the sha256 of the data in the header; later loads map that file into memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from beholder.errors import BeholderError, HeadError
from beholder.io import storage
from beholder.models import head_download, hub
from beholder.models.byte_ranges import MOST_TOWER_BYTES, Watch, fetch_pieces, need_space
from beholder.models.catalog import Source
from beholder.models.digests import file_sha256
from beholder.models.tensors import TensorFile, open_tensors
from beholder.models.tower_checkpoint import TOWER_FORMAT, WEIGHT_FILES, shard_files, tower_of_tensors
from beholder.models.tower_hints import CONFIG_FILES

_logger = logging.getLogger(__name__)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WORTH_CUTTING = 0.95
"""A file of which the tower is a larger share is fetched whole, through the hub's own cache."""
_DIGEST = "data_sha256"


def kept_path(source: Source) -> Path:
    """Where the tensors of a hub repository's file are kept."""
    file = "" if source.file == "model.safetensors" else f"--{source.file.removesuffix('.safetensors')}"
    name = f"hub--{source.repo}{file}@{source.revision}".replace("/", "--")
    return storage.cache_folder() / "towers" / f"{name}.safetensors"


def kept_tower(path: Path) -> TensorFile | None:
    """The header of a file that `keep` wrote, or None when there is none or it is damaged (it is then made anew)."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        opened = open_tensors(str(path))
    except HeadError as error:
        _logger.warning("%s; it is made anew", error)
        return None
    return opened if opened.metadata.get("format") == TOWER_FORMAT else None


def data_sha256(path: Path) -> str:
    """The sha256 of a safetensors file's data, without its header."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_kept(path: Path) -> None:
    """Raise HeadError unless a kept file's data have the sha256 it was written with."""
    opened = open_tensors(str(path))
    if data_sha256(path) != opened.metadata.get(_DIGEST):
        raise HeadError(f"{path} is damaged: its data do not have the sha256 it was written with; remove it and load again")


def from_hub(source: Source, *, offline: bool | None = None, activation: str = "") -> Path:
    """A local file with the tower of one file on the hub: kept tensors, a file of the hub's cache, or freshly fetched ones.

    Raises hub.MissingError when the repository has no such file, HeadError for all else.
    """
    kept = kept_path(source)
    known = kept_tower(kept)
    is_offline = head_download.is_hub_offline(offline)
    if known is not None and (_COMMIT.fullmatch(source.revision) or is_offline):
        return kept
    local = hub.cached(source)
    if local is not None and (_COMMIT.fullmatch(source.revision) or is_offline):
        return local
    if is_offline:
        raise hub.MissingError(f"{source.file} of {source.repo} is not on this machine, and offline mode is on")
    try:
        published = hub.look_up(source)
    except hub.MissingError:
        raise
    except HeadError as error:
        if known is None and local is None:
            raise
        _logger.warning("%s; using the copy kept earlier", error)
        return kept if known is not None else Path(str(local))
    if known is not None and known.metadata.get("etag") == published.etag:
        return kept
    if local is None and source.file.endswith(".safetensors"):
        pinned = Source(repo=source.repo, file=source.file, revision=published.commit)
        url = hub.file_url(source, published.commit)
        opened = open_tensors(url)
        configs = _configs(pinned)
        names = tower_of_tensors(opened, configs, source.repo, f"{source.repo} ({source.file})").names
        if _bytes_of(opened, names) < _WORTH_CUTTING * opened.num_bytes:
            about = {"etag": published.etag, "commit": published.commit, "source": source.url, "name": source.repo}
            return keep(opened, names, kept, {**about, "configs": json.dumps(configs), "activation": activation})
    for name in CONFIG_FILES:
        _downloaded(Source(repo=source.repo, file=name, revision=source.revision))
    return hub.download(source)


def find_on_hub(repo: str, revision: str, *, offline: bool | None = None) -> Path:
    """The tower of a hub repository, whichever of the usual files it has. Raises HeadError."""
    stem = repo.rsplit("/", 1)[-1]
    for name in (*WEIGHT_FILES, f"{stem}.pt", f"{stem}.safetensors"):
        source = Source(repo=repo, file=name, revision=revision)
        try:
            if name.endswith(".index.json"):
                return _sharded(source, offline)
            return from_hub(source, offline=offline)
        except hub.MissingError:
            continue
    if head_download.is_hub_offline(offline):
        raise HeadError(f"{repo} is not on this machine, and offline mode is on; load it once with a network")
    raise HeadError(f"{repo} has none of the files of a tower: {', '.join(WEIGHT_FILES)}, {stem}.pt")


def _sharded(source: Source, offline: bool | None) -> Path:
    """All shards of a repository, fetched whole; the path of their index."""
    cached = hub.cached(source)
    if head_download.is_hub_offline(offline):
        if cached is None:
            raise hub.MissingError(source.file)
        return cached
    index = hub.download(source)
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise HeadError(f"{source.file} of {source.repo} is not a sound index of a sharded checkpoint") from None
    for name in (*shards, *CONFIG_FILES):
        part = Source(repo=source.repo, file=str(name), revision=source.revision)
        hub.download(part) if name in shards else _downloaded(part)
    return index


def from_url(url: str, *, offline: bool | None = None) -> Path:
    """A local file with the tower behind a URL (https, s3, ...), fetched again only when the server shows another one."""
    folder = storage.cache_folder() / "towers" / f"url--{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    name = re.sub(r"[^\w.+-]", "_", urlsplit(url).path.rsplit("/", 1)[-1]) or "tower"
    target, note = folder / name, folder / "identity.json"
    if head_download.is_offline(offline):
        if target.is_file():
            return target
        raise HeadError(f"{url} was never fetched on this machine, and offline mode is on (BEHOLDER_OFFLINE or offline=True)")
    identity = _identity(url)
    if identity and target.is_file() and note.is_file() and note.read_text(encoding="utf-8") == identity:
        return target
    if name.endswith(".safetensors"):
        opened = open_tensors(url)
        names = tower_of_tensors(opened, {}, name, head_download.public_part(url)).names
        keep(opened, names, target, {"source": head_download.public_part(url), "name": name})
    else:
        try:
            with storage.write_whole(str(target)) as temporary:
                head_download.get_large(url, temporary, name, most_bytes=MOST_TOWER_BYTES)
        except head_download.UnavailableError as error:
            raise HeadError(str(error)) from None
    storage.write_bytes(str(note), identity.encode())
    return target


def _identity(url: str) -> str:
    """What a server says of a file that changes with it (ETag, time, size); empty where it says nothing."""
    try:
        file_system, inner = storage.filesystem(url)
        info = file_system.info(inner)
    except BeholderError as error:
        raise HeadError(str(error)) from error
    except FileNotFoundError as error:
        reason = head_download.why(error.__cause__) if isinstance(error.__cause__, Exception) else "it does not exist there"
        raise HeadError(f"cannot get {url}: {reason}") from None
    except Exception as error:  # remote back ends raise errors of their own libraries, which have no common parent
        raise HeadError(f"cannot get {url}: {head_download.why(error)}") from None
    found = {key: str(info[key]) for key in ("ETag", "etag", "Last-Modified", "LastModified", "mtime") if info.get(key)}
    return json.dumps({**found, "size": info.get("size")}, sort_keys=True) if found else ""


def keep(opened: TensorFile, names: list[str], target: Path, about: Mapping[str, str]) -> Path:
    """Fetch the named tensors of a remote safetensors file into one of our own, whole or not at all. Raises HeadError."""
    ordered = sorted(names, key=lambda name: opened.tensors[name].start)
    header: dict[str, Any] = {}
    at = 0
    for name in ordered:
        info = opened.tensors[name]
        num_bytes = info.stop - info.start
        header[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [at, at + num_bytes]}
        at += num_bytes
    Watch(about.get("source", opened.path), MOST_TOWER_BYTES).expect(at)
    texts = {**about, "format": TOWER_FORMAT, "version": "1", _DIGEST: "0" * 64}
    start = len(_header(header, texts))
    need_space(target.parent, start + at, about.get("name", "the tower"))
    spans = [
        (opened.tensors[name].start, opened.tensors[name].stop, start + header[name]["data_offsets"][0]) for name in ordered
    ]
    with storage.write_whole(str(target)) as temporary:
        with temporary.open("r+b") as file:
            file.write(_header(header, texts))
            file.truncate(start + at)
        fetch_pieces(opened.path, spans, temporary, about.get("name", "tower"))
        texts[_DIGEST] = data_sha256(temporary)
        with temporary.open("r+b") as file:
            file.write(_header(header, texts))
    return target


def _header(tensors: Mapping[str, Any], texts: Mapping[str, str]) -> bytes:
    text = json.dumps({"__metadata__": dict(texts), **tensors}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes_of(opened: TensorFile, names: list[str]) -> int:
    return sum(opened.tensors[name].stop - opened.tensors[name].start for name in names)


def _configs(source: Source) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in CONFIG_FILES:
        path = _downloaded(Source(repo=source.repo, file=name, revision=source.revision))
        try:
            if path is not None:
                found[name] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    return found


def _downloaded(source: Source) -> Path | None:
    """A small file of a repository, or None where it has none."""
    try:
        return hub.download(source)
    except hub.MissingError:
        return None


def file_identity(path: Path) -> tuple[str, str]:
    """(sha256, "file" or "tensors"): what a tower's file is known by; of a sharded one, the sha256 of its shards' sha256."""
    if path.name.endswith(".index.json"):
        shards = sorted(set(shard_files(path).values()))
        return hashlib.sha256("".join(file_sha256(shard) for shard in shards).encode()).hexdigest(), "tensors"
    own = kept_tower(path)
    if own is not None and own.metadata.get(_DIGEST):
        return own.metadata[_DIGEST], "tensors"
    return file_sha256(path), "file"
