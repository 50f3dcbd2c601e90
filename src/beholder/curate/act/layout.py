"""Places of pictures in; where each file goes below the target, keeping the folders below its source, out."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.curate.act.files import Refused
from beholder.errors import InputError
from beholder.io import storage
from beholder.locate.named_sources import NamedSources
from beholder.locate.place import FilePlace, Place
from beholder.pixels.sniff import sniff
from beholder.sources.pictures.magic import HEAD_BYTES, PICTURE_SUFFIXES, TAR_SUFFIX, suffix_of

_SUFFIXES = {"JPEG": "jpg", "TIFF": "tif", "PPM": "ppm"}
_NAMELESS = "picture"
"""The name of a URL whose path has none."""
_MOST_NAME_BYTES = 240
"""Of a piece of a URL's path: disks take 255, and a suffix may come behind."""


class Layout:
    """Decides names.

    What lies below one folder that was named keeps its path below that. With several folders, each gets one of its own, named
    after it. Single files (and URLs) keep what their paths do not have in common. A tar or zip becomes a folder of its name.

    Args:
        sources: as the pictures were named.
        samples: all that are asked for, for what has no source that is known.
    """

    def __init__(self, sources: NamedSources, samples: pa.ChunkedArray) -> None:
        self._sources = sources
        folders = dict(sources.folders())
        self._labels = _labels(folders) if len(folders) > 1 else dict.fromkeys(folders, "")
        exact = sources.files()
        self._exact_start = _common_folder(min(exact), max(exact)) if exact else ""
        self._start = ""
        if sources.takes_any and len(samples):
            ends = pc.min_max(samples).as_py()
            self._start = _common_folder(ends["min"] or "", ends["max"] or "")
        self._repeated = _repeated(samples)

    def below(self, place: Place) -> str:
        """The path of the picture's file, or archive, below the target. Raises Refused."""
        if place.kind == "row":
            path = place.sample.split("://", 1)[-1].lstrip("/")
        elif place.source is None or place.source not in self._labels:
            known = self._sources.file_of(place.sample) if place.source is not None else None
            path = known or (place.sample if place.archive is None or not place.inside else place.inside)
            path = path.removeprefix(self._exact_start if known is not None else self._start)
            path = path.split("://", 1)[-1].lstrip("/")
            if place.kind == "url":
                path = (_without_query(path) if storage.is_web(place.sample) else path) or _NAMELESS
        else:
            label = self._labels[place.source]
            path = f"{label}/{place.inside}" if label else place.inside
        return _checked(path, place.sample)

    def path(self, place: Place, file: FilePlace) -> str:
        """Where a file of a picture goes below the target. Raises Refused."""
        below = self.below(place)
        if place.kind in ("tar", "zip"):
            folder = TAR_SUFFIX.sub("", below) if place.kind == "tar" else below.removesuffix(".zip")
            return _checked(f"{folder}/{file.name}", place.sample)
        if place.kind == "url":
            return self._url_path(below, place.sample)
        if file is place.files[0]:
            return with_suffix(below, file) if place.kind == "row" else below
        return os.path.join(os.path.dirname(below), file.name)  # noqa: PTH118, PTH120

    def _url_path(self, below: str, sample: str) -> str:
        """A path that no other URL has, and that a disk takes: where several differ in their queries, or pieces are long."""
        if sample != (base := _without_query(sample)) and bool(np.isin(hash(base), self._repeated)):
            below = marked(below, sample)
        *folders, last = below.split("/")
        folders = [piece if len(os.fsencode(piece)) <= _MOST_NAME_BYTES else marked(piece, piece) for piece in folders]
        return "/".join([*folders, last if len(os.fsencode(last)) <= _MOST_NAME_BYTES else marked(last, sample)])


def marked(path: str, sample: str) -> str:
    """The path with 8 hex digits of the sample's sha256 before its suffix, its last piece cut where that is long."""
    folder, slash, last = path.rpartition("/")
    stem, dot, suffix = last.rpartition(".") if suffix_of(last) in PICTURE_SUFFIXES else (last, "", "")
    stem = os.fsencode(stem)[: _MOST_NAME_BYTES - 20].decode("utf-8", "ignore")
    return f"{folder}{slash}{stem}-{hashlib.sha256(sample.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}{dot}{suffix}"


def with_suffix(path: str, file: FilePlace, data: bytes | None = None) -> str:
    """The path with the suffix of a picture's format, where it has none of a picture's.

    `data`: the picture, where it has been read; of local files the head is read.
    """
    ref = file.ref
    if suffix_of(path) in PICTURE_SUFFIXES or ref is None:
        return path
    try:
        if data is not None:
            kind = sniff(data)
        elif ref.data is None and ref.path is not None and storage.is_local(ref.path):
            low = ref.offset or 0
            kind = sniff(storage.read_range(ref.path, low, low + min(HEAD_BYTES, ref.length or HEAD_BYTES)))
        else:
            kind = sniff(ref.data or b"")
    except InputError:  # no picture, or it cannot be read: who opens it will see
        return path
    return f"{path}.{_SUFFIXES.get(kind, kind.lower())}"


def _without_query(url: str) -> str:
    return url.split("?", 1)[0].split("#", 1)[0]


def _repeated(samples: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Hashes of the URLs that several samples have but for what stands behind "?" or "#"; 8 bytes a URL are held meanwhile."""
    found = [np.empty(0, np.int64)]
    for chunk in samples.chunks:
        if not pc.any(pc.match_substring_regex(chunk, "^(?i:https?)://[^?#]*[?#]")).as_py():
            continue
        for some in samples.chunks:
            urls = some.filter(pc.match_substring_regex(some, "^(?i:https?)://")).to_pylist()
            found.append(np.fromiter((hash(_without_query(url)) for url in urls), np.int64, len(urls)))
        break
    hashes, counts = np.unique(np.concatenate(found), return_counts=True)
    return hashes[counts > 1]


def _checked(path: str, sample: str) -> str:
    """A relative path without steps upwards. Raises Refused."""
    pieces = path.split("/")
    if ".." in pieces:
        raise Refused("outside", f"{sample}: its path leads out of the folder that was named")
    kept = [piece for piece in pieces if piece not in ("", ".")]
    if not kept or "\0" in path:
        raise Refused("name", f"{sample!r} cannot be the name of a file")
    return "/".join(kept)


def _common_folder(first: str, last: str) -> str:
    """The folder that all texts between two (in order of their bytes) begin with, with its "/"; "" without one."""
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind("/", 0, length) + 1]


def _labels(folders: dict[int, str]) -> dict[int, str]:
    """Number of a source -> a folder name of its own."""
    labels: dict[int, str] = {}
    used: set[str] = set()
    for number, path in sorted(folders.items()):
        name = os.path.basename(os.path.abspath(path)) if "://" not in path else path.rstrip("/").rsplit("/", 1)[-1]  # noqa: PTH100, PTH119
        name, count = name or "pictures", 2
        free = name
        while free in used:
            free, count = f"{name}-{count}", count + 1
        used.add(free)
        labels[number] = free
    return labels
