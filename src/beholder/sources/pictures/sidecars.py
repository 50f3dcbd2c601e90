"""A local picture in, the files that belong to it (cat.json and cat.txt beside cat.jpg) out."""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from beholder.sources.pictures.listing import suffix_of_bytes
from beholder.sources.pictures.magic import PICTURE_SUFFIXES, SIDECAR_SUFFIXES

_PICTURES = {suffix.encode() for suffix in PICTURE_SUFFIXES}
_SIDECARS = {suffix.encode() for suffix in SIDECAR_SUFFIXES}
_MOST_NAMES = 1_000_000
"""Listings are kept until so many sidecars are known; a folder without any counts as one."""


@dataclass
class _Folder:
    sidecars: dict[bytes, list[bytes]] = field(default_factory=dict)
    """What they are named after (a picture's name, or its stem) -> their names, sorted."""
    stems: Counter[bytes] = field(default_factory=Counter)
    """Pictures of each stem."""

    @property
    def num_names(self) -> int:
        """What is kept of it."""
        return 1 + len(self.sidecars) + len(self.stems)


class Sidecars:
    """Looks up sidecars; listings of the last folders are kept."""

    def __init__(self) -> None:
        self._folders: OrderedDict[bytes, _Folder] = OrderedDict()
        self._num_names = 0

    def of(self, path: str) -> list[tuple[str, int]]:
        """Paths of a picture's sidecars, and how many pictures each belongs to (cat.txt: to cat.jpg and cat.png)."""
        folder, name = os.path.split(os.fsencode(path))
        known = self._folder(folder)
        stem = name.rpartition(b".")[0] or name
        own = [(found, 1) for found in known.sidecars.get(name, ())]
        by_stem = known.sidecars.get(stem, ()) if stem != name else ()
        own += [(found, max(known.stems[stem], 1)) for found in by_stem]
        return [(os.fsdecode(folder + b"/" * (folder not in (b"", b"/")) + found), owners) for found, owners in own]

    def _folder(self, path: bytes) -> _Folder:
        known = self._folders.get(path)
        if known is None:
            known = self._folders[path] = _listed(path or b".")
            self._num_names += known.num_names
            while self._num_names > _MOST_NAMES and len(self._folders) > 1:
                self._num_names -= self._folders.popitem(last=False)[1].num_names
        return known


def _listed(path: bytes) -> _Folder:
    found, pictures = _Folder(), []
    try:
        names = sorted(os.listdir(path))  # noqa: PTH208 (names that are not UTF-8)
    except OSError:  # who asks will see it when the picture is opened
        return found
    for name in names:
        suffix = suffix_of_bytes(name)
        if name.startswith(b"."):
            continue
        if suffix in _SIDECARS:
            found.sidecars.setdefault(name.rpartition(b".")[0], []).append(name)
        elif suffix in _PICTURES:
            pictures.append(name.rpartition(b".")[0])
    if found.sidecars:
        found.stems.update(pictures)
    return found
