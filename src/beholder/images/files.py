"""A folder (or a list of single files) in, its pictures in natural order out, with names packed so that millions fit."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder import storage
from beholder.columns import REJECTS_SUFFIX, SIDECAR_SUFFIX, STAMP_FILE
from beholder.errors import InputError, reading_failed
from beholder.images.labels import UniqueNames, block_labels, valid_text
from beholder.images.magic import (
    HEAD_BYTES,
    IGNORED_NAMES,
    OTHER_SUFFIXES,
    PARQUET_SUFFIXES,
    PICTURE_SUFFIXES,
    SIDECAR_SUFFIXES,
    TAR_SUFFIX,
    is_picture,
)
from beholder.images.picture import PictureBlock, PicturePart, PictureRef, SourceOptions

_PICTURES = {suffix.encode() for suffix in PICTURE_SUFFIXES}
_OTHERS = {suffix.encode() for suffix in OTHER_SUFFIXES}
_SIDECARS = {suffix.encode() for suffix in SIDECAR_SUFFIXES}
_PARQUETS = {suffix.encode() for suffix in PARQUET_SUFFIXES}
_PIECE = 1 << 15
_DIGITS = 20
"""Numbers of up to so many digits are ordered by value."""


class _Names:
    """Packed names: bytes objects live only until `_PIECE` of them have come together."""

    def __init__(self) -> None:
        self._new: list[bytes] = []
        self._done: list[pa.Array] = []

    def add(self, name: bytes) -> None:
        self._new.append(name)
        if len(self._new) == _PIECE:
            self._pack()

    def _pack(self) -> None:
        self._done.append(pa.array(self._new, pa.large_binary()))
        self._new = []

    def packed(self) -> pa.Array:
        self._pack()
        return pa.concat_arrays(self._done)


@dataclass
class Listing:
    """What a folder holds, the pictures' names relative to it and packed.

    Attributes:
        names: large_binary, natural order.
        sizes: bytes of each, in the same order.
        num_ignored: files that are no pictures, no archives and no sidecars of a picture.
        tars, parquets, zips: relative paths of archives, natural order.
        has_arrays: whether there are .npy or .npz files.
    """

    names: pa.Array = field(default_factory=lambda: pa.array([], pa.large_binary()))
    sizes: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    num_ignored: int = 0
    tars: list[str] = field(default_factory=list)
    parquets: list[str] = field(default_factory=list)
    zips: list[str] = field(default_factory=list)
    has_arrays: bool = False


def natural_order(names: pa.Array) -> pa.Array:
    """Indices that put binary names into natural order: b"9.jpg" before b"10.jpg"; the bytes decide between equals."""
    keys = pc.replace_substring_regex(names, pattern="([0-9]+)", replacement="0" * _DIGITS + "\\1")
    keys = pc.replace_substring_regex(keys, pattern=f"0*([0-9]{{{_DIGITS},}})", replacement="\\1")
    return pc.sort_indices(pa.table({"key": keys, "name": names}), sort_keys=[("key", "ascending"), ("name", "ascending")])


def suffix_of_bytes(name: bytes) -> bytes:
    """`magic.suffix_of` of a plain file name."""
    stem, dot, suffix = name.rpartition(b".")
    return suffix.lower() if dot and stem else b""


class _Collector:
    """Sorts files by what they are while a folder is walked."""

    def __init__(self) -> None:
        self.pictures, self.sidecars = _Names(), _Names()
        self.sizes, self.inodes, self.devices = array("q"), array("Q"), array("Q")
        self.links: list[tuple[int, bytes, int, int]] = []
        self.archives: dict[str, list[str]] = {"tars": [], "parquets": [], "zips": []}
        self.num_ignored, self.has_arrays = 0, False

    def add_other(self, path: bytes, suffix: bytes) -> None:
        """A file that is no picture by its suffix."""
        if suffix == b"zip":
            self.archives["zips"].append(os.fsdecode(path))
        elif suffix in _PARQUETS:
            self.archives["parquets"].append(os.fsdecode(path))
        elif TAR_SUFFIX.search(os.fsdecode(path)):
            self.archives["tars"].append(os.fsdecode(path))
        else:
            self.has_arrays |= suffix in (b"npy", b"npz")
            if suffix in _SIDECARS:
                self.sidecars.add(path)
            else:
                self.num_ignored += 1

    def add_picture(self, path: bytes, size: int, inode: int = 0, device: int = 0) -> None:
        self.pictures.add(path)
        self.sizes.append(size)
        self.inodes.append(inode)
        self.devices.append(device)

    def listing(self) -> Listing:
        """Everything in natural order; a file that is reached by several links is there once, by its own name if that is."""
        names, sizes = self.pictures.packed(), np.frombuffer(self.sizes, np.int64) if self.sizes else np.zeros(0, np.int64)
        if self.links:
            inodes, devices = np.frombuffer(self.inodes, np.uint64), np.frombuffer(self.devices, np.uint64)
            names, sizes = _with_links(names, sizes, inodes, devices, self.links)
        order = natural_order(names)
        names, sizes = names.take(order), sizes[order.to_numpy()]
        orphans = _num_orphans(self.sidecars.packed(), names)
        archives = {kind: sorted(paths, key=storage.natural_key) for kind, paths in self.archives.items()}
        return Listing(names, sizes, self.num_ignored + orphans, has_arrays=self.has_arrays, **archives)


def _with_links(
    names: pa.Array, sizes: npt.NDArray[np.int64], inodes: npt.NDArray[np.uint64], devices: npt.NDArray[np.uint64],
    links: Sequence[tuple[int, bytes, int, int]],
) -> tuple[pa.Array, npt.NDArray[np.int64]]:  # fmt: skip
    """Add links (size, path, inode, device) whose file is not there by its own name, nor by a link before."""
    maybe = np.flatnonzero(np.isin(inodes, np.array([link[2] for link in links], np.uint64)))
    seen = {(int(inodes[i]), int(devices[i])) for i in maybe}
    kept = []
    for size, path, inode, device in sorted(links, key=lambda link: storage.natural_key(os.fsdecode(link[1]))):
        if inode == 0 or (inode, device) not in seen:
            seen.add((inode, device))
            kept.append((size, path))
    added = pa.array([path for _, path in kept], pa.large_binary())
    return pa.concat_arrays([names, added]), np.concatenate([sizes, np.array([size for size, _ in kept], np.int64)])


def _num_orphans(sidecars: pa.Array, pictures: pa.Array) -> int:
    """How many of these files stand beside no picture of their stem (x.txt and x.jpg.txt belong to x.jpg)."""
    if not len(sidecars):
        return 0
    stems = pc.replace_substring_regex(sidecars, pattern=r"\.[^./]*$", replacement="")
    owners = pa.concat_arrays([pictures, pc.replace_substring_regex(pictures, pattern=r"\.[^./]*$", replacement="")])
    return int(len(sidecars) - (pc.sum(pc.is_in(stems, value_set=owners)).as_py() or 0))


def is_ignored_name(name: bytes) -> bool:
    """Whether a file or folder of this name is never looked at."""
    return name.startswith(b".") or name.lower() in IGNORED_NAMES


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
    except ValueError:
        return False
    return isinstance(record, dict) and str(record.get("format", "")).startswith("beholder")


def scan_local(folder: str) -> Listing:
    """Everything below a local folder. Links to folders are followed once; those to a folder above are not followed.

    Raises:
        InputError: a folder cannot be read, so that pictures would be missed.
    """
    root, found = os.fsencode(folder), _Collector()
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


def _walk(root: bytes, folders: list[bytes], found: _Collector, seen: set[tuple[int, int]]) -> list[bytes]:
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
                    if is_ignored_name(name):
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


def _collect(entry: os.DirEntry[bytes], path: bytes, found: _Collector) -> None:
    """One entry that is no folder."""
    suffix = suffix_of_bytes(entry.name)
    if suffix in _OTHERS:
        if _leads_to(entry, stat.S_ISREG):
            found.add_other(path, suffix)
        return
    try:
        status = entry.stat()
    except OSError:  # a link that leads nowhere, a file that has just vanished: decoding says so
        if suffix in _PICTURES:
            found.links.append((0, path, 0, 0))
        else:
            found.num_ignored += 1
        return
    if not stat.S_ISREG(status.st_mode) or (suffix not in _PICTURES and not _begins_as_picture(entry.path)):
        found.num_ignored += 1
    elif entry.is_symlink():
        found.links.append((status.st_size, path, status.st_ino, status.st_dev))
    else:
        found.add_picture(path, status.st_size, status.st_ino, status.st_dev)


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
    found = _Collector()
    with storage.remote_errors(folder):
        entries = fs.find(inner, detail=True)
    sizes = {str(fs.unstrip_protocol(name)).removeprefix(root): entry.get("size") or 0 for name, entry in entries.items()}
    stamps = [name for name in sizes if name.endswith(f"/{STAMP_FILE}")]
    results = tuple(
        name.removesuffix(STAMP_FILE) for name in stamps if _is_result_record(storage.read_range(root + name, 0, 1 << 24))
    )
    for name, size in sizes.items():
        if name.startswith(results) or any(is_ignored_name(piece.encode()) for piece in name.split("/")):
            continue
        suffix = suffix_of_bytes(name.rsplit("/", 1)[-1].encode())
        if suffix in _PICTURES:
            found.add_picture(name.encode(), int(size))
        else:
            found.add_other(name.encode(), suffix)
    return found.listing(), root


def part_of_listing(listing: Listing, path: str, name: str, base: str) -> PicturePart:
    """The part of a folder's pictures; `base` + relative name is the path of each."""
    digest = hashlib.sha256()
    for buffer in listing.names.buffers()[1:]:
        digest.update(buffer or b"")
    digest.update(np.ascontiguousarray(listing.sizes).tobytes())
    num_bytes = int(listing.sizes.sum())
    return PicturePart(
        path, name, "files", len(listing.names), num_bytes,
        {"files": len(listing.names), "bytes": num_bytes, "contents": digest.hexdigest()[:16]},
        num_ignored=listing.num_ignored, detail={"names": listing.names, "base": base},
    )  # fmt: skip


def part_of_files(paths: Sequence[str], sizes: Sequence[int], path: str, name: str) -> PicturePart:
    """The part of single files and URLs, in the order given."""
    names = pa.array([os.fsencode(file) for file in paths], pa.large_binary())
    return part_of_listing(Listing(names, np.array(sizes, np.int64)), path, name, "")


def prefix_of(folder: str) -> str:
    """What stands before relative names, as os.path.join has it, for a local folder as the user gave it."""
    given = str(storage.local_path(folder)) if folder.startswith(("~", "file://")) else folder
    return given if given.endswith("/") else given + "/"


class FilesReader:
    """Reads folders of pictures. `sample` is the folder as the user gave it, joined with the path below it."""

    def inspect(self, path: str, name: str, options: SourceOptions) -> PicturePart:
        """List a folder, or look at a single file. Raises InputError when there is no picture."""
        if storage.is_local(path) and not storage.is_folder(path):
            if not storage.exists(path):
                raise InputError(f"{path} does not exist; check the path")
            return part_of_files([path], [storage.size(path)], path, name)
        if storage.is_local(path):
            listing, base = scan_local(str(storage.local_path(path))), prefix_of(path)
        elif storage.is_folder(path):
            listing, base = scan_remote(path)
        else:
            return part_of_files([path], [0], path, name)
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
            yield PictureBlock([PictureRef(path=os.fsdecode(path)) for path in paths], block_labels(samples, {}, options))


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
