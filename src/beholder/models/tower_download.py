"""Fetches towers from the hub and by URL; of a whole CLIP model on a server only the image tower travels.

The tensors fetched by range are kept as one safetensors file of beholder's own, under their own names and in their own dtypes,
with the source, its commit or ETag, and the sha256 of the data in the header; later loads map that file into memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from beholder.errors import BeholderError, HeadError
from beholder.io import storage
from beholder.models import download
from beholder.models.catalog import Source
from beholder.models.checkpoints import TensorFile, open_tensors, pack_header
from beholder.models.download import MOST_TOWER_BYTES, MissingError, Watch, fetch_ranges, file_sha256, need_space
from beholder.models.tower_layouts import CONFIG_FILES, TOWER_FORMAT, WEIGHT_FILES, shard_files, tower_of_tensors

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

    Raises MissingError when the repository has no such file, HeadError for all else.
    """
    kept = kept_path(source)
    known = kept_tower(kept)
    found = download.newest_copy(source, known.metadata.get("etag", "") if known is not None else None, offline)
    if not isinstance(found, download.PublishedVersion):
        return found or kept
    if download.cached(source) is None and source.file.endswith(".safetensors"):
        opened = open_tensors(download.file_url(source, found.commit))
        configs = _configs(replace(source, revision=found.commit))
        names = tower_of_tensors(opened, configs, source.repo, f"{source.repo} ({source.file})").names
        if sum(opened.tensors[name].stop - opened.tensors[name].start for name in names) < _WORTH_CUTTING * opened.num_bytes:
            about = {"etag": found.etag, "commit": found.commit, "source": source.url, "name": source.repo}
            return keep(opened, names, kept, {**about, "configs": json.dumps(configs), "activation": activation})
    for name in CONFIG_FILES:
        _downloaded(replace(source, file=name))
    return download.from_hub(source)


def find_on_hub(repo: str, revision: str, *, offline: bool | None = None) -> Path:
    """The tower of a hub repository, whichever of the usual files it has. Raises HeadError."""
    stem = repo.rsplit("/", 1)[-1]
    for name in (*WEIGHT_FILES, f"{stem}.pt", f"{stem}.safetensors"):
        source = Source(repo=repo, file=name, revision=revision)
        try:
            if name.endswith(".index.json"):
                return _sharded(source, offline)
            return from_hub(source, offline=offline)
        except MissingError:
            continue
    if download.is_hub_offline(offline):
        raise HeadError(f"{repo} is not on this machine, and offline mode is on; load it once with a network")
    raise HeadError(f"{repo} has none of the files of a tower: {', '.join(WEIGHT_FILES)}, {stem}.pt")


def _sharded(source: Source, offline: bool | None) -> Path:
    """All shards of a repository, fetched whole; the path of their index."""
    cached = download.cached(source)
    if download.is_hub_offline(offline):
        if cached is None:
            raise MissingError(source.file)
        return cached
    index = download.from_hub(source)
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise HeadError(f"{source.file} of {source.repo} is not a sound index of a sharded checkpoint") from None
    for name in (*shards, *CONFIG_FILES):
        part = replace(source, file=str(name))
        download.from_hub(part) if name in shards else _downloaded(part)
    return index


def from_url(url: str, *, offline: bool | None = None) -> Path:
    """A local file with the tower behind a URL (https, s3, ...), fetched again only when the server shows another one."""
    folder = storage.cache_folder() / "towers" / f"url--{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    name = re.sub(r"[^\w.+-]", "_", urlsplit(url).path.rsplit("/", 1)[-1]) or "tower"
    target, note = folder / name, folder / "identity.json"
    if download.is_offline(offline):
        if target.is_file():
            return target
        raise HeadError(f"{url} was never fetched on this machine, and offline mode is on (BEHOLDER_OFFLINE or offline=True)")
    identity = _identity(url)
    if identity and target.is_file() and note.is_file() and note.read_text(encoding="utf-8") == identity:
        return target
    if name.endswith(".safetensors"):
        opened = open_tensors(url)
        names = tower_of_tensors(opened, {}, name, download.public_part(url)).names
        keep(opened, names, target, {"source": download.public_part(url), "name": name})
    else:
        with storage.write_whole(str(target)) as temporary:
            download.get_large(url, temporary, name, most_bytes=MOST_TOWER_BYTES)
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
        reason = download.why(error.__cause__) if isinstance(error.__cause__, Exception) else "it does not exist there"
        raise HeadError(f"cannot get {url}: {reason}") from None
    except Exception as error:  # remote back ends raise errors of their own libraries, which have no common parent
        raise HeadError(f"cannot get {url}: {download.why(error)}") from None
    found = {key: str(info[key]) for key in ("ETag", "etag", "Last-Modified", "LastModified", "mtime") if info.get(key)}
    return json.dumps({**found, "size": info.get("size")}, sort_keys=True) if found else ""


def keep(opened: TensorFile, names: list[str], target: Path, about: Mapping[str, str]) -> Path:
    """Fetch the named tensors of a remote safetensors file into one of our own, whole or not at all. Raises HeadError."""
    wanted = {name: opened.tensors[name] for name in sorted(names, key=lambda name: opened.tensors[name].start)}
    texts = {**about, "format": TOWER_FORMAT, "version": "1", _DIGEST: "0" * 64}
    at = start = len(pack_header(wanted, texts))
    spans = []
    for info in wanted.values():
        spans.append((info.start, info.stop, at))
        at += info.stop - info.start
    Watch(about.get("source", opened.path), MOST_TOWER_BYTES).expect(at - start)
    need_space(target.parent, at, about.get("name", "the tower"))
    with storage.write_whole(str(target)) as temporary:
        with temporary.open("r+b") as file:
            file.write(pack_header(wanted, texts))
            file.truncate(at)
        fetch_ranges(opened.path, spans, temporary, about.get("name", "tower"))
        texts[_DIGEST] = data_sha256(temporary)
        with temporary.open("r+b") as file:
            file.write(pack_header(wanted, texts))
    return target


def _configs(source: Source) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in CONFIG_FILES:
        path = _downloaded(replace(source, file=name))
        try:
            if path is not None:
                found[name] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    return found


def _downloaded(source: Source) -> Path | None:
    """A small file of a repository, or None where it has none."""
    try:
        return download.from_hub(source)
    except MissingError:
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
