"""Sources in; whether a file really lies in one of them, whatever links and addresses say, out."""

from __future__ import annotations

import os
from functools import cached_property

from beholder.io import storage
from beholder.locate.named_sources import NamedSources
from beholder.locate.place import Place

_OUTSIDE = "leads to a place outside of the sources that were named; name its folder with --pictures to allow it"


class Fence:
    """What files may be read: on servers, all; of this machine, those whose real path is that of a source, or below it.

    Args:
        sources: what was named. Files that a list or table names one by one may be read as well, and of a Parquet file those
            below its folder. Where no sources are known: what is below `root`, or else the current folder.
        root: the folder that relative names count from, if it was said.
    """

    def __init__(self, sources: NamedSources, root: str | None) -> None:
        self._sources, self._root = sources, root

    @cached_property
    def _real(self) -> frozenset[str]:
        """Real paths of files and folders that were named."""
        if self._sources.takes_any and not self._sources.opened:
            return frozenset({os.path.realpath(storage.local_path(self._root or self._sources.base or "."))})
        return frozenset(os.path.realpath(storage.local_path(path)) for path in self._sources.local_files())

    def refuses(self, place: Place, path: str) -> str | None:
        """Why the local file `path`, at which `place` is, may not be read; None: it may."""
        real = os.path.realpath(storage.local_path(path))
        if place.is_listed:
            return None
        if place.kind == "file" and place.archive is not None:
            folder = os.path.realpath(storage.local_path(place.archive).parent)
            return None if real.startswith(folder.rstrip("/") + "/") else f"{path} leads out of the folder of {place.archive}"
        at = len(real)
        while at > 0:
            if real[:at] in self._real:
                return None
            at = real.rfind("/", 0, at)
        if "/" in self._real:
            return None
        return f"{path} {_OUTSIDE}"


def refuses_address(path: str, *, is_below_source: bool = False) -> str | None:
    """Why what is at an address may not be read; None: it may.

    fsspec knows schemes, and chains of them, that lead back to files of this machine (`simplecache::file://`, `zip://`): what
    is not surely on a server is read only below a source that was named so.
    """
    if storage.is_on_a_server(path) or (is_below_source and ".." not in path.split("/")):
        return None
    return f"{path} {_OUTSIDE}"
