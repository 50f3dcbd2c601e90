"""A folder (or a list of single files) in, its pictures in natural order out, with names packed so that millions fit."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.columns import REJECTS_SUFFIX, SIDECAR_SUFFIX, STAMP_FILE
from beholder.errors import InputError, reading_failed
from beholder.io import storage
from beholder.pixels.picture import PictureBlock, PicturePart, PictureRef, SourceOptions
from beholder.sources.pictures.labels import UniqueNames, block_labels, valid_text
from beholder.sources.pictures.listing import OTHERS, PICTURES, Collector, Listing, suffix_of_bytes
from beholder.sources.pictures.magic import HEAD_BYTES, is_picture

_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "updated", "mtime", "Last-Modified")
"""What listings of S3, Google, Azure and others call what changes with a file; the first one that is there counts."""


_FIRST_LOOKS, _SLOW_LOOK_S, _LOOKING_THREADS = 8, 2e-4, 16
"""Files that are looked at one by one; a look that takes longer is slow, and the others are shared among so many threads."""


def is_result_folder(folder: str) -> bool:
    """Whether a folder holds results of an earlier run: a `beholder.json` that says so."""
    if not storage.is_local(folder):
        stamp = f"{folder}/{STAMP_FILE}"
        return storage.exists(stamp) and _is_result_record(storage.read_range(stamp, 0, storage.size(stamp)))
    try:
        with open(os.path.join(folder, STAMP_FILE), "rb") as file:  # noqa: PTH118, PTH123 (names that are not UTF-8)
            return _is_result_record(file.read(1 << 24))
    except OSError:
        return False


def is_result_file(path: str) -> bool:
    """Whether a file is a result of an earlier run, or the rejects beside one: a record stands beside it."""
    result = path.removesuffix(REJECTS_SUFFIX)
    return storage.exists(result + SIDECAR_SUFFIX)


def _is_result_record(data: bytes) -> bool:
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return b'"format": "beholder-' in data  # damaged, and still no folder of pictures
    return isinstance(record, dict) and str(record.get("format", "")).startswith("beholder")


def scan_local(folder: str) -> Listing:
    """Everything below a local folder. Links to folders are followed once; those to a folder above are not followed.

    Raises:
        InputError: a folder cannot be read, so that pictures would be missed.
    """
    root, found = os.fsencode(folder), Collector()
    seen: set[tuple[int, int]] = set()
    above = os.path.realpath(root)
    while above not in (b"/", b""):
        above = os.path.dirname(above)  # noqa: PTH120
        seen.add(_identity(os.stat(above)))  # noqa: PTH116
    linked = _walk(root, [b""], found, seen)
    while linked:
        linked = _walk(root, sorted(linked), found, seen)
    return found.listing()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_ino, status.st_dev


def _walk(root: bytes, folders: list[bytes], found: Collector, seen: set[tuple[int, int]]) -> list[bytes]:
    """Collect what is below `folders` (paths relative to `root`, ending in "/" or empty); the links to folders met there."""
    links: list[bytes] = []
    stack = folders[::-1]
    while stack:
        inside = stack.pop()
        path = os.path.join(root, inside)  # noqa: PTH118
        try:
            identity = _identity(os.stat(path))  # noqa: PTH116
            if identity in seen:
                continue
            seen.add(identity)
            if inside and is_result_folder(os.fsdecode(path)):
                continue
            with os.scandir(path) as entries:
                below = []
                for entry in entries:
                    name: bytes = entry.name
                    if storage.is_ignored_name(name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        below.append(inside + name + b"/")
                    elif entry.is_symlink() and _leads_to(entry, stat.S_ISDIR):
                        links.append(inside + name + b"/")
                    else:
                        _collect(entry, inside + name, found)
        except OSError as error:
            raise reading_failed(valid_text(path.rstrip(b"/") or path), error) from error
        stack += sorted(below, reverse=True)
    return links


def _leads_to(entry: os.DirEntry[bytes], is_kind: Callable[[int], bool]) -> bool:
    """Whether an entry, or what it links to, is of a kind; links that lead nowhere, or in circles, are not."""
    try:
        return is_kind(entry.stat().st_mode)
    except OSError:
        return False


def _collect(entry: os.DirEntry[bytes], path: bytes, found: Collector) -> None:
    """One entry that is no folder."""
    suffix = suffix_of_bytes(entry.name)
    if suffix in OTHERS:
        if _leads_to(entry, stat.S_ISREG):
            found.add_other(path, suffix)
        return
    try:
        status = entry.stat()
    except OSError:  # a link that leads nowhere, a file that has just vanished: decoding says so
        if suffix in PICTURES:
            found.add_link(path, 0, 0, 0, 0)
        else:
            found.num_ignored += 1
        return
    if not stat.S_ISREG(status.st_mode) or (suffix not in PICTURES and not _begins_as_picture(entry.path)):
        found.num_ignored += 1
    elif entry.is_symlink():
        found.add_link(path, status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)
    else:
        found.add_picture(path, status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)


def _begins_as_picture(path: bytes) -> bool:
    """Whether a file without a telling suffix is a picture by its first bytes; one that cannot be read is none."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return is_picture(file.read(HEAD_BYTES))
    except OSError:
        return False


def scan_remote(folder: str) -> tuple[Listing, str]:
    """Everything below a remote folder, and its URL. Files are told by their suffixes; their bytes are not looked at."""
    fs, inner = storage.filesystem(folder)
    root = str(fs.unstrip_protocol(inner)).rstrip("/") + "/"
    found = Collector()
    with storage.remote_errors(folder):
        entries = fs.find(inner, detail=True)
    files = {str(fs.unstrip_protocol(name)).removeprefix(root): entry for name, entry in entries.items()}
    records = [name for name in files if name.endswith(f"/{STAMP_FILE}")]
    results = tuple(
        name.removesuffix(STAMP_FILE) for name in records if _is_result_record(storage.read_range(root + name, 0, 1 << 24))
    )
    for name, entry in files.items():
        if name.startswith(results) or any(storage.is_ignored_name(piece.encode()) for piece in name.split("/")):
            continue
        suffix = suffix_of_bytes(name.rsplit("/", 1)[-1].encode())
        if suffix in PICTURES:
            found.add_picture(name.encode(), int(entry.get("size") or 0), _remote_stamp(entry))
        else:
            found.add_other(name.encode(), suffix)
    return found.listing(), root


def _remote_stamp(entry: Mapping[str, Any]) -> int:
    """A number of 63 bits made of what a server's listing says of a file's state; 0 where it says nothing."""
    tag = next((entry[key] for key in _TAGS if entry.get(key)), None)
    return int.from_bytes(hashlib.sha256(str(tag).encode()).digest()[:8], "big") >> 1 if tag is not None else 0


def part_of_listing(listing: Listing, path: str, name: str, base: str) -> PicturePart:
    """The part of a folder's pictures; `base` + relative name is the path of each."""
    digest = hashlib.sha256()
    for buffer in listing.names.buffers()[1:]:
        digest.update(buffer or b"")
    digest.update(np.ascontiguousarray(listing.sizes).tobytes())
    digest.update(np.ascontiguousarray(listing.stamps).tobytes())
    num_bytes = int(listing.sizes.sum())
    return PicturePart(
        path, name, "files", len(listing.names), num_bytes,
        {"files": len(listing.names), "bytes": num_bytes, "contents": digest.hexdigest()[:16]},
        num_ignored=listing.num_ignored,
        detail={"names": listing.names, "base": base, "sizes": listing.sizes, "stamps": listing.stamps},
    )  # fmt: skip


def part_of_files(paths: Sequence[str], path: str, name: str) -> PicturePart:
    """The part of single files and URLs, in the order given; URLs are not asked for, so their sizes and times count as 0."""
    names = pa.array([os.fsencode(file) for file in paths], pa.large_binary())
    looks = sizes_and_times(paths)
    return part_of_listing(Listing(names, looks[:, 0], looks[:, 1]), path, name, "")


def size_and_time(path: str) -> tuple[int, int]:
    """Bytes of a local file and when it was last written; zeros for URLs and for links that lead nowhere."""
    if not storage.is_local(path):
        return 0, 0
    try:
        status = storage.local_path(path).stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def sizes_and_times(paths: Sequence[str]) -> npt.NDArray[np.int64]:
    """`size_and_time` of each, (N, 2) int64; by several threads where the file system is slow to answer (a network's)."""
    began = monotonic()
    found = [size_and_time(path) for path in paths[:_FIRST_LOOKS]]
    rest = paths[_FIRST_LOOKS:]
    if monotonic() - began < _SLOW_LOOK_S * len(found) or not rest:
        found += map(size_and_time, rest)
    else:
        with ThreadPoolExecutor(_LOOKING_THREADS, thread_name_prefix="beholder-look") as pool:
            found += pool.map(size_and_time, rest)
    return np.array(found, np.int64).reshape(-1, 2)


def prefix_of(folder: str) -> str:
    """What stands before relative names, as os.path.join has it, for a local folder as the user gave it."""
    given = str(storage.local_path(folder)) if storage.has_local_scheme(folder) or folder.startswith("~") else folder
    return given if given.endswith("/") else given + "/"


class FilesReader:
    """Reads folders of pictures. `sample` is the folder as the user gave it, joined with the path below it."""

    def inspect(self, path: str, name: str, options: SourceOptions) -> PicturePart:
        """List a folder, or look at a single file. Raises InputError when there is no picture."""
        if storage.is_local(path) and not storage.is_folder(path):
            if not storage.exists(path):
                raise InputError(f"{path} does not exist; check the path")
            return part_of_files([path], path, name)
        if storage.is_local(path):
            listing, base = scan_local(str(storage.local_path(path))), prefix_of(path)
        elif storage.is_folder(path):
            listing, base = scan_remote(path)
        else:
            return part_of_files([path], path, name)
        if not len(listing.names):
            raise InputError(f"{path} holds no pictures")
        return part_of_listing(listing, path, name, base)

    def blocks(self, part: PicturePart, start: int, stop: int | None, options: SourceOptions) -> Iterator[PictureBlock]:
        """Pictures [start, stop), by path; no file is opened."""
        names: pa.Array = part.detail["names"]
        base = os.fsencode(part.detail["base"])
        renamed = _renamed(part)
        stop = len(names) if stop is None else min(stop, len(names))
        for low in range(start, stop, options.block_rows):
            high = min(low + options.block_rows, stop)
            paths = [base + name for name in names.slice(low, high - low).to_pylist()]
            samples = [valid_text(path) for path in paths]
            for row in range(low, high) if renamed else ():
                samples[row - low] = renamed.get(row, samples[row - low])
            states = np.stack([part.detail[name][low:high] for name in ("sizes", "stamps")], axis=1)
            refs = [PictureRef(path=os.fsdecode(path)) for path in paths]
            yield PictureBlock(refs, block_labels(samples, {}, options), states=states)


def _renamed(part: PicturePart) -> dict[int, str]:
    """Rows whose name is another one's text when written as valid UTF-8 (see `labels.valid_text`), with new names."""
    known: dict[int, str] | None = part.detail.get("renames")
    if known is None:
        known = {}
        names, base = part.detail["names"], os.fsencode(part.detail["base"])
        if _may_clash(names):
            unique = UniqueNames()
            for row, name in enumerate(names.to_pylist()):
                text = valid_text(base + name)
                given = unique.take(text)
                if given != text:
                    known[row] = given
        part.detail["renames"] = known
    return known


def _may_clash(names: pa.Array) -> bool:
    """Whether two names can have one text: some name is not UTF-8, or is there twice."""
    try:
        names.cast(pa.large_string())
    except pa.ArrowInvalid:
        return True
    return bool(pc.count_distinct(names).as_py() != len(names))
