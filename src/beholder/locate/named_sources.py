"""The sources of a score set, as named and as opened now: which of them a sample belongs to, and which files may be read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from beholder.columns import PICTURES
from beholder.errors import InputError
from beholder.io import locations, remote, storage
from beholder.locate.archives import Place
from beholder.sources.file_kinds import (
    PARQUET_SUFFIXES,
    PICTURE_SUFFIXES,
    RANGE,
    TABLE_SUFFIXES,
    base_name,
    expand_ranges,
    is_tar_name,
    names_pictures,
    suffix_of,
)
from beholder.sources.folder import prefix_of
from beholder.sources.table import read_list

_WILD = re.compile(r"[*?\[{]")
BROKEN = "#broken"
"""What stands behind a tar's path in the name of the error at its end."""
_NO_FOLDERS = PICTURE_SUFFIXES | PARQUET_SUFFIXES | TABLE_SUFFIXES | {"zip", "txt"}


@dataclass(frozen=True)
class SourceMatch:
    """Whose a sample is, by its text.

    Attributes:
        source: number of the source; None where none is named.
        path: where its file, or the archive it is in, is opened: a path or URL, and below it.
        inside: what stands behind the source's own path in it; the name of a source that is one file.
        archive: whether the source itself is the archive, and how many characters of `path` name it.
    """

    source: int | None
    path: str
    inside: str
    archive: int | None = None


class NamedSources:
    """What was named, and where to open it.

    Attributes:
        given: as samples begin.
        opened: the same sources as they are opened now.
        base: what stands before relative local samples: "" or a folder that ends in "/".
        takes_any: whether any name may be a path: no sources are known, or a list of pictures is one.
        whole_folders: (number, path) of the sources that are folders, as they are opened.
    """

    def __init__(self, given: Sequence[str] | None, opened: Sequence[str] | None, base: str) -> None:
        self.base = base
        self.given = tuple(map(_trimmed, given or ()))
        self.opened = tuple(map(_trimmed, opened)) if opened is not None else tuple(map(self.rebased, self.given))
        self._lists: list[pa.Array] = []
        self._places: list[str] = []
        self._num_listed = 0
        self.whole_folders: list[tuple[int, str]] = []
        self._prefixes: dict[str, tuple[int, str]] = {}
        self._exact: dict[str, tuple[int, str]] = {}
        self.takes_any = given is None
        for number, (name, place) in enumerate(zip(self.given, self.opened, strict=True)):
            self._take(number, name, place)

    def _take(self, number: int, name: str, place: str) -> None:
        self._places.append(place)
        if _is_pattern(place):
            self._prefixes.setdefault(_as_listed(_literal(name)), (number, _as_listed(_literal(place))))
        elif _is_folder(place):
            self._prefixes.setdefault(_as_listed(prefix_of(name)), (number, _as_listed(prefix_of(place))))
            self.whole_folders.append((number, place))
        elif suffix_of(place) == "txt":
            self._take_list(place)
        else:
            self._exact.setdefault(name, (number, place))

    def _take_list(self, place: str) -> None:
        """A list of pictures takes any name; one of sources, what they take. One that cannot be read takes none.

        Sources of a list get numbers behind those that were named.
        """
        try:
            entries = read_list(place)
        except InputError:
            return
        if names_pictures(entries[0].as_py()):
            self.takes_any = True
            self._lists.append(entries)
            return
        for entry in entries.to_pylist():
            if suffix_of(entry) != "txt":
                self._num_listed += 1
                self._take(len(self.given) + self._num_listed - 1, _trimmed(entry), _trimmed(self.rebased(entry)))

    def rebased(self, path: str) -> str:
        """A path as it is opened: relative local ones below `base`."""
        return self.base + path if self.base and is_relative(path) else path

    def match(self, sample: str) -> SourceMatch | None:
        """Whose `sample` is; None where no source has such names."""
        if sample in self._exact:
            number, place = self._exact[sample]
            return SourceMatch(number, place, base_name(place))
        at = len(sample)
        if (tar := sample.removesuffix(BROKEN)) != sample and tar in self._exact:
            number, place = self._exact[tar]
            return SourceMatch(number, place + BROKEN, base_name(place), len(place))
        while (at := sample.rfind("/", 0, at)) >= 0:
            if sample[:at] in self._exact:
                number, place = self._exact[sample[:at]]
                return SourceMatch(number, place + sample[at:], base_name(place), len(place))
            if sample[: at + 1] in self._prefixes:
                number, place = self._prefixes[sample[: at + 1]]
                return SourceMatch(number, place + sample[at + 1 :], sample[at + 1 :])
        if "" in self._prefixes and is_relative(sample):
            number, place = self._prefixes[""]
            return SourceMatch(number, place + sample, sample)
        return SourceMatch(None, self.rebased(sample), sample) if self.takes_any else None

    def files(self) -> list[str]:
        """Names of the sources that are single files, URLs or archives, as samples begin."""
        return list(self._exact)

    def file_of(self, sample: str) -> str | None:
        """Which of `files` a sample is, or lies in."""
        at = len(sample)
        while at > 0:
            if sample[:at] in self._exact:
                return sample[:at]
            at = sample.rfind("/", 0, at)
        return None

    def local_files(self) -> Iterator[str]:
        """Local files and folders that are named: sources themselves, what patterns match, entries of lists."""
        for place in self._places:
            if not locations.is_local(place):
                continue
            if RANGE.search(place) and _is_pattern(place):
                yield from (name for path in expand_ranges(place) for name in storage.expand_glob(path))
            elif storage.is_glob(place):
                yield from storage.expand_glob(place)
            else:
                yield place
        for entries in self._lists:
            yield from (self.rebased(entry) for entry in entries.to_pylist() if locations.is_local(entry))

    def folders(self) -> list[tuple[int, str]]:
        """(number, path with a "/" at its end) of the sources that are folders or patterns, as they are opened."""
        return list(self._prefixes.values())

    @cached_property
    def _allowed(self) -> frozenset[str]:
        """Real paths of local files and folders that may be read: what was named, or else the folder that names count from."""
        if self.takes_any and not self.opened:
            return frozenset({os.path.realpath(locations.local_path(self.base or "."))})
        return frozenset(os.path.realpath(locations.local_path(path)) for path in self.local_files())

    def refuses(self, place: Place, path: str) -> str | None:
        """Why the local file `path`, at which `place` is, may not be read; None: its real path is a source's, or below one.

        Files that a list or table names one by one may be read as well, and of a Parquet file those below its folder.
        """
        real = os.path.realpath(locations.local_path(path))
        if place.is_listed:
            return None
        if place.kind == "file" and place.archive is not None:
            folder = os.path.realpath(locations.local_path(place.archive).parent)
            return None if real.startswith(folder.rstrip("/") + "/") else f"{path} leads out of the folder of {place.archive}"
        at = len(real)
        while at > 0:
            if real[:at] in self._allowed:
                return None
            at = real.rfind("/", 0, at)
        return None if "/" in self._allowed else f"{path} {_OUTSIDE}"


def _trimmed(source: str) -> str:
    return source.rstrip("/") or "/" if len(source) > 1 else source


def is_relative(path: str) -> bool:
    """Whether a path counts from a folder that it does not name."""
    return "://" not in path and not path.startswith(("/", "~"))


def _is_pattern(place: str) -> bool:
    return (
        bool(_WILD.search(place)) and not locations.is_web(place) and not (locations.is_local(place) and storage.exists(place))
    )


def _literal(pattern: str) -> str:
    """The folder that everything a glob or brace range can match is in, with a "/" at its end, or ""."""
    found = _WILD.search(pattern)
    return pattern[: pattern.rfind("/", 0, found.start() if found else None) + 1]


def _as_listed(folder: str) -> str:
    """A folder as listings of its server begin; local ones stay as they are. Asks nobody."""
    if locations.is_local(folder) or locations.is_web(folder):
        return folder
    fs, inner = remote.filesystem(folder)
    return str(fs.unstrip_protocol(inner)).rstrip("/") + "/"


def _is_folder(place: str) -> bool:
    if locations.is_local(place):
        return storage.is_folder(place)
    return not locations.is_web(place) and suffix_of(place) not in _NO_FOLDERS and not is_tar_name(place)


def choose_base(names: Iterable[str], root: str | None, folder: str | None) -> str:
    """What stands before relative names: `root`, else the current folder or the one the scores were made in.

    Args:
        names: relative and other names of sources, or samples.
        root: what the user said.
        folder: the current folder of the run that made the scores, if it is known.

    Raises:
        InputError: the names mean different things in the two folders.
    """
    if root is not None:
        return prefix_of(root)
    starts = {_literal(name) or name if _WILD.search(name) else name for name in names if is_relative(name)}
    if not starts or folder is None or not Path(folder).is_dir() or Path(folder).samefile(Path()):
        return ""
    there = {name for name in starts if storage.is_there(str(Path(folder, name)))}
    here = {name for name in starts if storage.is_there(name)}
    for name in sorted(here & there):
        if not Path(folder, name).samefile(name):
            raise InputError(
                f"{name!r} is there both in the current folder and in {folder}, where the scores were made; "
                f"say which with --root, for example --root {folder}"
            )
    return prefix_of(folder) if there and not here else ""


def named_in(record: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a score set's record says of its pictures; {} where it says nothing."""
    found = (record or {}).get(PICTURES)
    if not isinstance(found, dict):
        return {}
    sources = found.get("sources")
    are_sources = isinstance(sources, list | tuple) and all(isinstance(source, str) for source in sources)
    texts = {key: found[key] for key in ("folder", "sample_column", "picture_column") if isinstance(found.get(key), str)}
    return texts | ({"sources": sources} if are_sources else {})


_OUTSIDE = "leads to a place outside of the sources that were named; name its folder with --pictures to allow it"


def refuses_address(path: str, *, is_below_source: bool = False) -> str | None:
    """Why what is at an address may not be read; None: it may.

    fsspec knows schemes, and chains of them, that lead back to files of this machine (`simplecache::file://`, `zip://`): what
    is not surely on a server is read only below a source that was named so.
    """
    if locations.is_on_a_server(path) or (is_below_source and ".." not in path.split("/")):
        return None
    return f"{path} {_OUTSIDE}"
