"""The folders and files that birder predict is given in, the very files that it would take, in its order, out.

birder 0.8.4 (`collect_samples_from_paths` of `birder/common/fs_ops.py`): everything below a folder, hidden files and those
behind links too, whose name ends like one of `SUFFIXES`; all paths of all arguments together, sorted as text.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beholder.errors import InputError, reading_failed
from beholder.io import storage
from beholder.pixels.picture import PicturePart
from beholder.sources.pictures.folder import part_of_listing
from beholder.sources.pictures.labels import valid_text
from beholder.sources.pictures.listing import Listing
from beholder.sources.pictures.magic import HEAD_BYTES, OTHER_SUFFIXES, PICTURE_SUFFIXES, SIDECAR_SUFFIXES, is_picture

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""`IMG_EXTENSIONS` of torchvision, which birder goes by; in any case."""
_TAKEN = frozenset(suffix.encode() for suffix in SUFFIXES)
_UNNAMED, _DANGLING = "without such an ending", "links that lead nowhere"
_PIECE = 1 << 15

_Identity = tuple[int, int]


def list_pictures(paths: Sequence[str]) -> tuple[PicturePart, list[str]] | None:
    """List what birder would read.

    Args:
        paths: local folders and files, as they were typed.

    Returns:
        The pictures as one part, and a line for each thing that is left out; None where some of `paths` are no local folders
        and files, which birder could not read: URLs, patterns, what does not exist.

    Raises:
        InputError: nothing is left, a picture is named twice, or a folder cannot be read.
    """
    if not all(os.path.isdir(path) or os.path.isfile(path) for path in paths):  # noqa: PTH112, PTH113 (birder's own words)
        return None
    found = _Found()
    for path in paths:
        if os.path.isdir(path):  # noqa: PTH112
            found.add_folder(os.fsencode(path))
        else:
            found.add_file(os.fsencode(path), os.stat(path))  # noqa: PTH116
    notes = found.notes()
    if not found.sizes:
        why = "".join(f"; {note}" for note in notes)
        raise InputError(
            f"{', '.join(paths)}: no picture that birder predict takes ({' '.join(SUFFIXES)}); of tars, give --wds{why}"
        )
    return _part_of(found, paths), notes


class _Found:
    """What the walk has met; names are packed, so that millions fit."""

    def __init__(self) -> None:
        self.sizes, self.stamps = array("q"), array("q")
        self.num_ignored = self.num_circles = 0
        self.left_out: Counter[str] = Counter()
        self._new: list[bytes] = []
        self._packed: list[pa.Array] = []

    def paths(self) -> pa.Array:
        """All so far, large_binary, as they were met."""
        return pa.concat_arrays([*self._packed, pa.array(self._new, pa.large_binary())])

    def add_folder(self, top: bytes) -> None:
        """Everything below `top`, through links as well; a folder inside itself is left out. Raises InputError."""
        stack: list[tuple[bytes, tuple[_Identity, ...]]] = [(top, ())]
        while stack:
            folder, above = stack.pop()
            try:
                status = os.stat(folder)  # noqa: PTH116 (names that are not UTF-8)
                here = (status.st_ino, status.st_dev)
                if here in above:
                    self.num_circles += 1
                    continue
                with os.scandir(folder) as entries:
                    for entry in entries:
                        path = os.path.join(folder, entry.name)  # noqa: PTH118 (a/ and a// stay as typed, as in birder)
                        if entry.is_dir():
                            stack.append((path, (*above, here)))
                        else:
                            self._add_entry(entry, path)
            except OSError as error:
                raise reading_failed(valid_text(folder), error) from error

    def _add_entry(self, entry: os.DirEntry[bytes], path: bytes) -> None:
        try:
            status = entry.stat()
        except OSError:  # a link that leads nowhere, or a file that has just vanished
            self._leave_out(path, is_there=False)
            return
        if entry.is_file():
            self.add_file(path, status)
        else:
            self.num_ignored += 1

    def add_file(self, path: bytes, status: os.stat_result) -> None:
        """One file, taken or left out by its name."""
        if _suffix(path) not in _TAKEN:
            self._leave_out(path, is_there=True)
            return
        self._new.append(path)
        if len(self._new) == _PIECE:
            self._packed.append(pa.array(self._new, pa.large_binary()))
            self._new = []
        self.sizes.append(status.st_size)
        self.stamps.append(status.st_mtime_ns)

    def _leave_out(self, path: bytes, *, is_there: bool) -> None:
        """Count a file that birder does not take: as a picture, or as something else."""
        suffix = _suffix(path).decode("ascii", "replace")
        if storage.is_ignored_name(os.path.basename(path)) or suffix[1:] in SIDECAR_SUFFIXES:  # noqa: PTH119
            return
        if suffix[1:] in PICTURE_SUFFIXES:
            self.left_out[suffix if is_there else _DANGLING] += 1
        elif is_there and suffix[1:] not in OTHER_SUFFIXES and _begins_as_picture(path):
            self.left_out[_UNNAMED] += 1
        else:
            self.num_ignored += 1

    def notes(self) -> list[str]:
        """What a user should know of what is left out."""
        lines = []
        if self.left_out:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.left_out.most_common())
            several = "1 picture is" if self.left_out.total() == 1 else f"{self.left_out.total():,} pictures are"
            lines.append(f"{several} left out, as birder leaves them out: {kinds} (`beholder embed` takes every kind)")
        if self.num_circles:
            lines.append(
                f"{self.num_circles:,} links to a folder above are not followed; birder lists what is behind such a link "
                "again and again"
            )
        return lines


def _part_of(found: _Found, paths: Sequence[str]) -> PicturePart:
    """Pictures sorted by their whole path, as birder sorts them. Raises InputError when one is there twice."""
    whole = found.paths()
    order = pc.array_sort_indices(whole)
    whole, places = whole.take(order), order.to_numpy()
    same = pc.index(pc.equal(whole[1:], whole[:-1]), True).as_py() if len(whole) > 1 else -1
    if same >= 0:
        raise InputError(f"{valid_text(whole[same].as_py())} is named twice; name it once")
    first = min(paths)
    name = Path(os.path.abspath(first)).name or "pictures"  # noqa: PTH100
    listing = Listing(
        whole, np.array(found.sizes, np.int64)[places], np.array(found.stamps, np.int64)[places], num_ignored=found.num_ignored
    )
    return part_of_listing(listing, first, valid_text(name), "")


def _suffix(path: bytes) -> bytes:
    return os.path.splitext(path)[1].lower()  # noqa: PTH122 (birder's rule: ".jpg" alone has none)


def _begins_as_picture(path: bytes) -> bool:
    """Whether a file is a picture by its first bytes; one that cannot be read is none."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return is_picture(file.read(HEAD_BYTES))
    except OSError:
        return False
