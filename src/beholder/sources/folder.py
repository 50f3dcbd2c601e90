"""Folders of pictures: their listing in natural order, packed so that millions fit, and the files beside each picture."""

from __future__ import annotations

import hashlib
import os
import stat
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.columns import STAMP_FILE
from beholder.errors import reading_failed
from beholder.io import locations, remote, storage
from beholder.sources.file_kinds import (
    HEAD_BYTES,
    OTHER_SUFFIXES,
    PARQUET_SUFFIXES,
    PICTURE_SUFFIXES,
    SIDECAR_SUFFIXES,
    TAR_SUFFIX,
    is_picture,
)
from beholder.sources.labels import UniqueNames, block_labels, valid_text
from beholder.sources.reader import PictureBlock, PicturePart, PictureRef, SourceOptions
from beholder.sources.stamp import is_result_folder, is_result_record

PICTURES = {suffix.encode() for suffix in PICTURE_SUFFIXES}
OTHERS = {suffix.encode() for suffix in OTHER_SUFFIXES}
_SIDECARS = {suffix.encode() for suffix in SIDECAR_SUFFIXES}
_PARQUETS = {suffix.encode() for suffix in PARQUET_SUFFIXES}
_PIECE = 1 << 15
_DIGITS = 20
"""Numbers of up to so many digits are ordered by value."""


class PackedNames:
    """Packed names: bytes objects live only until `_PIECE` of them have come together."""

    def __init__(self) -> None:
        self._new: list[bytes] = []
        self._done: list[pa.Array] = []

    def add(self, name: bytes) -> None:
        """One more."""
        self._new.append(name)
        if len(self._new) == _PIECE:
            self._pack()

    def _pack(self) -> None:
        self._done.append(pa.array(self._new, pa.large_binary()))
        self._new = []

    def packed(self) -> pa.Array:
        """All so far, large_binary, as they came."""
        self._pack()
        return pa.concat_arrays(self._done)


@dataclass
class Listing:
    """What a folder holds, the pictures' names relative to it and packed.

    Attributes:
        names: large_binary, natural order.
        sizes: bytes of each, in the same order.
        stamps: what changes when one is written again: its time in nanoseconds, of remote ones a number made of the server's
            tag; 0 where nothing tells.
        num_ignored: files that are no pictures, no archives and no sidecars of a picture, and links to pictures listed already.
        tars, parquets, zips: relative paths of archives, natural order.
        has_arrays: whether there are .npy or .npz files.
    """

    names: pa.Array = field(default_factory=lambda: pa.array([], pa.large_binary()))
    sizes: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    stamps: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
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
    """`file_kinds.suffix_of` of a plain file name."""
    stem, dot, suffix = name.rpartition(b".")
    return suffix.lower() if dot and stem else b""


class Collector:
    """Sorts files by what they are while a folder is walked."""

    def __init__(self) -> None:
        self.pictures, self.sidecars = PackedNames(), PackedNames()
        self.sizes, self.stamps, self.inodes, self.devices = array("q"), array("q"), array("Q"), array("Q")
        self.links: list[_Link] = []
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

    def add_picture(self, path: bytes, size: int, stamp: int, inode: int = 0, device: int = 0) -> None:
        """A picture by its own name."""
        self.pictures.add(path)
        self.sizes.append(size)
        self.stamps.append(stamp)
        self.inodes.append(inode)
        self.devices.append(device)

    def listing(self) -> Listing:
        """Everything in natural order; a file that is reached by several links is there once, by its own name if that is."""
        kept = self._kept_links()
        names = pa.concat_arrays([self.pictures.packed(), pa.array([link.path for link in kept], pa.large_binary())])
        sizes = np.concatenate([np.array(self.sizes, np.int64), np.array([link.size for link in kept], np.int64)])
        stamps = np.concatenate([np.array(self.stamps, np.int64), np.array([link.stamp for link in kept], np.int64)])
        order = natural_order(names)
        places = order.to_numpy()
        names = names.take(order)
        orphans = _num_orphans(self.sidecars.packed(), names)
        archives = {kind: sorted(paths, key=locations.natural_key) for kind, paths in self.archives.items()}
        num_ignored = self.num_ignored + orphans + len(self.links) - len(kept)
        return Listing(names, sizes[places], stamps[places], num_ignored, has_arrays=self.has_arrays, **archives)

    def _kept_links(self) -> list[_Link]:
        """Links whose file is not there by its own name, nor by a link before."""
        if not self.links:
            return []
        inodes, devices = np.array(self.inodes, np.uint64), np.array(self.devices, np.uint64)
        maybe = np.flatnonzero(np.isin(inodes, np.array([link.inode for link in self.links], np.uint64)))
        seen = {(int(inodes[i]), int(devices[i])) for i in maybe}
        kept = []
        for link in sorted(self.links, key=lambda link: locations.natural_key(os.fsdecode(link.path))):
            if link.inode == 0 or (link.inode, link.device) not in seen:
                seen.add((link.inode, link.device))
                kept.append(link)
        return kept


class _Link(NamedTuple):
    """A link to a picture, and what it leads to; `inode` 0: nowhere."""

    path: bytes
    size: int
    stamp: int
    inode: int
    device: int


def _num_orphans(sidecars: pa.Array, pictures: pa.Array) -> int:
    """How many of these files stand beside no picture of their stem (x.txt and x.jpg.txt belong to x.jpg)."""
    if not len(sidecars):
        return 0
    stems = pc.replace_substring_regex(sidecars, pattern=r"\.[^./]*$", replacement="")
    owners = pa.concat_arrays([pictures, pc.replace_substring_regex(pictures, pattern=r"\.[^./]*$", replacement="")])
    return int(len(sidecars) - (pc.sum(pc.is_in(stems, value_set=owners)).as_py() or 0))


_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "updated", "mtime", "Last-Modified")
"""What listings of S3, Google, Azure and others call what changes with a file; the first one that is there counts."""


_FIRST_LOOKS, _SLOW_LOOK_S, _LOOKING_THREADS = 8, 2e-4, 16
"""Files that are looked at one by one; a look that takes longer is slow, and the others are shared among so many threads."""


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
                    if locations.is_ignored_name(name):
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
            found.links.append(_Link(path, 0, 0, 0, 0))
        else:
            found.num_ignored += 1
        return
    if not stat.S_ISREG(status.st_mode) or (suffix not in PICTURES and not begins_as_picture(entry.path)):
        found.num_ignored += 1
    elif entry.is_symlink():
        found.links.append(_Link(path, status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev))
    else:
        found.add_picture(path, status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)


def begins_as_picture(path: bytes) -> bool:
    """Whether a file without a telling suffix is a picture by its first bytes; one that cannot be read is none."""
    try:
        with storage.open_local(path) as file:
            return is_picture(file.read(HEAD_BYTES))
    except OSError:
        return False


def scan_remote(folder: str) -> tuple[Listing, str]:
    """Everything below a remote folder, and its URL. Files are recognised by their suffixes; their bytes are not read."""
    fs, inner = remote.filesystem(folder)
    root = str(fs.unstrip_protocol(inner)).rstrip("/") + "/"
    found = Collector()
    with remote.read_errors(folder):
        entries = fs.find(inner, detail=True)
    files = {str(fs.unstrip_protocol(name)).removeprefix(root): entry for name, entry in entries.items()}
    records = [name for name in files if name.endswith(f"/{STAMP_FILE}")]
    results = tuple(
        name.removesuffix(STAMP_FILE) for name in records if is_result_record(storage.read_range(root + name, 0, 1 << 24))
    )
    for name, entry in files.items():
        if name.startswith(results) or any(locations.is_ignored_name(piece.encode()) for piece in name.split("/")):
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
    if not locations.is_local(path):
        return 0, 0
    try:
        status = locations.local_path(path).stat()
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
    given = locations.local_text(folder)
    return given if given.endswith("/") else given + "/"


class FilesReader:
    """Reads folders of pictures, and single ones, whose parts `part_of_listing` makes.

    `sample` is the folder as the user gave it, joined with the path below it.
    """

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


_MOST_NAMES = 1_000_000
"""Listings are kept until so many names of sidecars and pictures are known; a folder without any counts as one."""


class Sidecars:
    """Looks up sidecars; listings of the last folders are kept."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[dict[bytes, list[bytes]], Counter[bytes]]] = {}
        self._num_names = 0

    def of(self, path: str) -> list[tuple[str, int]]:
        """Paths of a picture's sidecars, and how many pictures each belongs to (cat.txt: to cat.jpg and cat.png)."""
        folder, name = os.path.split(os.fsencode(path))
        if folder not in self._known:
            if self._num_names > _MOST_NAMES:
                self._known, self._num_names = {}, 0
            self._known[folder] = _beside(folder or b".")
            self._num_names += 1 + sum(len(names) for names in self._known[folder])
        sidecars, stems = self._known[folder]
        stem = name.rpartition(b".")[0] or name
        own = [(found, 1) for found in sidecars.get(name, ())]
        by_stem = sidecars.get(stem, ()) if stem != name else ()
        own += [(found, max(stems[stem], 1)) for found in by_stem]
        return [(os.fsdecode(folder + b"/" * (folder not in (b"", b"/")) + found), owners) for found, owners in own]


def _beside(folder: bytes) -> tuple[dict[bytes, list[bytes]], Counter[bytes]]:
    """What sidecars are named after (a picture's name, or its stem) -> their names, sorted; pictures of each stem."""
    sidecars: dict[bytes, list[bytes]] = {}
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 (names that are not UTF-8)
    except OSError:  # who asks will see it when the picture is opened
        return {}, Counter()
    names = [name for name in names if not name.startswith(b".")]
    for name in names:
        if suffix_of_bytes(name) in _SIDECARS:
            sidecars.setdefault(name.rpartition(b".")[0], []).append(name)
    stems = Counter(name.rpartition(b".")[0] for name in names if sidecars and suffix_of_bytes(name) in PICTURES)
    return sidecars, stems
