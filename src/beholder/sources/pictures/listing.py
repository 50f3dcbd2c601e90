"""Files that were found in, a listing out: pictures in natural order, their names packed so that millions fit."""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.io import storage
from beholder.sources.pictures.magic import OTHER_SUFFIXES, PARQUET_SUFFIXES, PICTURE_SUFFIXES, SIDECAR_SUFFIXES, TAR_SUFFIX

PICTURES = {suffix.encode() for suffix in PICTURE_SUFFIXES}
OTHERS = {suffix.encode() for suffix in OTHER_SUFFIXES}
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
    """`magic.suffix_of` of a plain file name."""
    stem, dot, suffix = name.rpartition(b".")
    return suffix.lower() if dot and stem else b""


class Collector:
    """Sorts files by what they are while a folder is walked."""

    def __init__(self) -> None:
        self.pictures, self.sidecars = _Names(), _Names()
        self.sizes, self.stamps, self.inodes, self.devices = array("q"), array("q"), array("Q"), array("Q")
        self._links: list[_Link] = []
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

    def add_link(self, path: bytes, size: int, stamp: int, inode: int, device: int) -> None:
        """A link to a picture; `inode` 0: one that leads nowhere."""
        self._links.append(_Link(path, size, stamp, inode, device))

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
        archives = {kind: sorted(paths, key=storage.natural_key) for kind, paths in self.archives.items()}
        num_ignored = self.num_ignored + orphans + len(self._links) - len(kept)
        return Listing(names, sizes[places], stamps[places], num_ignored, has_arrays=self.has_arrays, **archives)

    def _kept_links(self) -> list[_Link]:
        """Links whose file is not there by its own name, nor by a link before."""
        if not self._links:
            return []
        inodes, devices = np.array(self.inodes, np.uint64), np.array(self.devices, np.uint64)
        maybe = np.flatnonzero(np.isin(inodes, np.array([link.inode for link in self._links], np.uint64)))
        seen = {(int(inodes[i]), int(devices[i])) for i in maybe}
        kept = []
        for link in sorted(self._links, key=lambda link: storage.natural_key(os.fsdecode(link.path))):
            if link.inode == 0 or (link.inode, link.device) not in seen:
                seen.add((link.inode, link.device))
                kept.append(link)
        return kept


class _Link(NamedTuple):
    """A link to a picture, and what it leads to."""

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
