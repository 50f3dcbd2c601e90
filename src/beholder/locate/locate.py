"""Finds the pictures of a score set again: where the bytes of each are, and of what belongs to it."""

from __future__ import annotations

import os
import posixpath
import re
import stat
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import pyarrow as pa

from beholder.columns import WHERE_NOW, PictureReason
from beholder.errors import InputError
from beholder.io import locations
from beholder.locate.archives import Archives, FilePlace, NamedRows, Place, missing_place
from beholder.locate.named_sources import (
    BROKEN,
    NamedSources,
    SourceMatch,
    choose_base,
    is_relative,
    named_in,
    refuses_address,
)
from beholder.pixels.picture import PictureError
from beholder.sources.fetch import ReadLimits, read_bytes
from beholder.sources.file_kinds import base_name
from beholder.sources.find import Source, expand_source, gather_singles, give_names
from beholder.sources.folder import Sidecars
from beholder.sources.reader import PicturePart, PictureRef, SourceOptions, picture_reader


class NamedParts:
    """Looks names up in what has to be read for it. Everything is listed at the first question.

    Args:
        sources: what was named.
        options: how it was read.
        archives: where tars are looked into.
        guess: also take a name for a path below a folder that was named, or for a key of its tars.
    """

    def __init__(self, sources: NamedSources, options: SourceOptions, archives: Archives, *, guess: bool) -> None:
        self._sources, self._options, self._archives, self._guess = sources, options, archives, guess

    def find(self, samples: Sequence[str], *, odd: Sequence[bool], full: bool) -> list[Place | None]:
        """The place of each; None where there is none. `odd`: look into listings, too; `full`: with what belongs to it.

        Raises InputError: a source cannot be read.
        """
        found: list[Place | None] = [None] * len(samples)
        parts = [*self._tables, *(self._listings if any(odd) else ())]
        spellings = [samples, [self._sources.rebased(sample) for sample in samples]]
        for rows in parts:
            for names in spellings[: 2 if self._sources.base else 1]:
                self._look(rows, samples, names, found)
        if self._guess:
            left = [i for i, place in enumerate(found) if place is None]
            for i in left:
                found[i] = self._below_a_folder(samples[i])
            self._keys([i for i in left if found[i] is None], samples, found, full)
        return found

    def _look(self, rows: NamedRows, samples: Sequence[str], names: Sequence[str], found: list[Place | None]) -> None:
        numbers = rows.find(pa.array(names, pa.large_string()))
        if all(number is None for number in numbers):
            return
        refs = rows.refs(number for number in numbers if number is not None)
        for i, number in enumerate(numbers):
            if number is None:
                continue
            place, before = self._place(samples[i], rows.part, refs[number]), found[i]
            if before is not None and before != place:
                text = f"several pictures of the sources are called {samples[i]!r}, so it is not clear which is meant"
                place = missing_place(samples[i], text, PictureReason.UNREADABLE)
            found[i] = place

    def _place(self, sample: str, part: PicturePart, ref: PictureRef) -> Place:
        """Where a row's picture is."""
        if ref.error is not None:
            return missing_place(sample, ref.error[1], ref.error[0])
        if ref.path is None or ref.offset is not None:
            size = len(ref.data) if ref.data is not None else ref.length
            return Place(sample, "row", (FilePlace(sample, ref, size),), archive=part.path)
        path = self._settled(ref.path, part)
        size = _size(path)
        file = FilePlace(path.rsplit("/", 1)[-1], replace(ref, path=path), size)
        if not locations.is_local(path):
            return Place(sample, "url", (file,), is_listed=part.kind != "parquet")
        if size is None:
            return missing_place(sample, f"{path} does not exist (any more)")
        if part.kind == "files":
            return Place(sample, "file", (file,), *self._below_its_folder(path))
        archive = part.path if part.kind == "parquet" else None
        return Place(sample, "file", (file,), archive=archive, is_listed=part.kind == "table")

    def _below_its_folder(self, path: str) -> tuple[int | None, str]:
        """Number of the source that a listed file is of, and its path below that."""
        fitting = [(number, folder) for number, folder in self._sources.folders() if path.startswith(folder)]
        number, folder = max(fitting, key=lambda item: len(item[1]), default=(None, ""))
        return number, path[len(folder) :]

    def _settled(self, path: str, part: PicturePart) -> str:
        """A place as it is opened: relative ones of a table count from where its scores were made, else from its folder."""
        if part.kind != "table" or not is_relative(path) or not self._sources.base:
            return path
        below, beside = self._sources.base + path, posixpath.join(posixpath.dirname(part.path), path)
        return beside if _size(below) is None and _size(beside) is not None else below

    def _below_a_folder(self, sample: str) -> Place | None:
        if not is_relative(sample) or ".." in sample.split("/"):
            return None
        for number, folder in self._sources.folders():
            if locations.is_local(folder) and (size := _size(folder + sample)) is not None:
                file = FilePlace(sample.rsplit("/", 1)[-1], PictureRef(path=folder + sample), size)
                return Place(sample, "file", (file,), number, sample)
        return None

    def _keys(self, left: Sequence[int], samples: Sequence[str], found: list[Place | None], full: bool) -> None:
        """Look for keys in all tars."""
        if not left:
            return
        for item in self._found:
            if item.kind != "tar":
                continue
            kind, files = self._archives.find(item.path, ["/" + samples[i] for i in left], with_belongings=full)
            for i, members in zip(left, files, strict=True):
                place = Place(samples[i], kind, members, None, item.name, item.path)
                if place.error is not None:
                    continue
                if found[i] is not None:
                    text = f"several tars have a picture of the key {samples[i]!r}, so it is not clear which is meant"
                    place = missing_place(samples[i], text, PictureReason.UNREADABLE)
                found[i] = place

    @cached_property
    def _found(self) -> list[Source]:
        """What the sources hold, named as it was when the pictures were scored, not looked into."""
        base = self._sources.base
        items = list(gather_singles([item for source in self._sources.opened for item in expand_source(source, self._options)]))
        given = [replace(item, path=item.path.removeprefix(base) if base else item.path) for item in items]
        return [replace(item, name=named.name) for item, named in zip(items, give_names(given), strict=True)]

    @cached_property
    def _tables(self) -> list[NamedRows]:
        chosen = [item for item in self._found if item.kind in ("parquet", "table")]
        parts = [picture_reader(item.kind).inspect(item.path, item.name, self._options) for item in chosen]
        return [NamedRows(replace(part, name=item.name)) for part, item in zip(parts, chosen, strict=True)]

    @cached_property
    def _listings(self) -> list[NamedRows]:
        return [NamedRows(item.part) for item in self._found if item.kind == "files" and item.part is not None]


def _status(path: str) -> os.stat_result | None:
    """What the system says of a local file; None where it is not there, or on a server."""
    if not locations.is_local(path):
        return None
    try:
        return locations.local_path(path).stat()
    except (OSError, ValueError):
        return None


def _size(path: str) -> int | None:
    status = _status(path)
    return None if status is None else status.st_size


_ODD_NAME = re.compile(r"\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|#[0-9]+$")
"""Samples that may be spelt otherwise than their file: not UTF-8, or the second of a name."""
_REMOTE_ARCHIVE = re.compile(r"\.(tar|tar\.gz|tgz|tar\.bz2|tbz2?|tar\.xz|txz|zip)(?=/)", re.IGNORECASE)
LOOKED_AT = 512
"""So many first samples tell which folder relative names count from."""


class PictureFinder:
    """Finds the pictures of a score set again. Thread-safe; a context manager.

    What lies below a folder, pattern, archive or file that was named is looked for there, without listing it. Other names, and
    odd ones, are looked up in the lists, tables and Parquet files that were named. Where no sources are known, a name is a path
    or URL, or one below a tar or zip.

    Args:
        record: of the score set; None or {} where it says nothing.
        pictures: sources in place of those of the record. As many as the record names: each takes the place of one. Otherwise
            a sample may also be a path below one of them or, of tars, a key.
        root: the folder that relative names count from. None: the current one, else that in which the scores were made;
            names that are there in both, and are not the same, are refused.
        confined: a local file whose real path is outside the real paths of the sources is MISSING, by whatever address.
        offline: pictures on servers are MISSING.
        addresses: what is asked for are paths and URLs that a column of the set has (`scoreset.picture_column`), not its names:
            they may lead to any place, whatever sources are named.
    """

    def __init__(
        self,
        record: Mapping[str, object] | None,
        *,
        pictures: Sequence[str] = (),
        root: str | None = None,
        confined: bool = False,
        offline: bool = False,
        addresses: bool = False,
    ) -> None:
        said = named_in(record)
        given: Sequence[str] | None = said.get("sources")
        self._folder: str | None = said.get("folder")
        self._root, self._offline, self._confined = root, offline, confined
        self._takes_addresses = addresses
        self._options = SourceOptions(sample_column=said.get("sample_column"), picture_column=said.get("picture_column"))
        takes_places = given is not None and len(pictures) == len(given)
        self._is_replaced = bool(pictures) and not takes_places
        self._given = tuple(pictures) if self._is_replaced else None if given is None else tuple(given)
        self._opened = tuple(pictures) or None
        self._lock = threading.RLock()
        self._named: NamedSources | None = None
        self._parts: NamedParts | None = None
        self._proven: set[int] = set()
        self._archives, self._sidecars = Archives(), Sidecars()

    def __enter__(self) -> PictureFinder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget all that is kept in memory."""
        with self._lock:
            self._archives.close()
            self._parts = None

    def sources(self, samples: Sequence[str] = ()) -> NamedSources:
        """The sources as they are opened; `samples`: some names, for score sets that name no sources.

        Raises InputError where it is not clear which folder relative names count from.
        """
        with self._lock:
            if self._named is None:
                names = [sample.split("/", 1)[0] for sample in samples[:LOOKED_AT]] if self._given is None else self._given
                base = choose_base(names if self._opened is None else (), self._root, self._folder)
                self._named = NamedSources(self._given, self._opened, base)
                self._named.takes_any |= self._takes_addresses
            return self._named

    def find(self, samples: Sequence[str]) -> list[PictureRef]:
        """Where the bytes of each are; in packed tars the bytes themselves. One with an `error` where there is no picture."""
        contents = self.contents([replace(place, files=place.files[:1]) for place in self.locate(samples)])
        return [files[0][1] for files in contents]

    def read(self, sample: str, limits: ReadLimits | None = None) -> bytes:
        """The bytes of a picture as stored. Raises PictureError."""
        try:
            (ref,) = self.find([sample])
        except PictureError:
            raise
        except InputError as error:
            raise PictureError(PictureReason.UNREADABLE, str(error)) from None
        return read_bytes(ref, limits or ReadLimits())

    def contents(self, places: Sequence[Place]) -> list[list[tuple[str, PictureRef]]]:
        """(name, place of its bytes) of each file of each place; what packed tars hold is read."""
        return self._archives.contents(places)

    def locate(self, samples: Sequence[str], *, with_belongings: bool = False) -> list[Place]:
        """Where each is, without reading pictures (but for cells of Parquet files and packed members of zips).

        Args:
            samples: names, as in the score set.
            with_belongings: list what belongs to each picture as well.

        Raises:
            InputError: it is not clear which folder relative names count from.
        """
        named = self.sources(samples)
        found: dict[int, Place] = {}
        inside: dict[str, list[tuple[int, SourceMatch, str]]] = {}
        matches = [named.match(sample) for sample in samples]
        for i, (sample, match) in enumerate(zip(samples, matches, strict=True)):
            if match is None:
                continue
            if (end := self._archive_of(match)) is not None:
                inside.setdefault(match.path[:end], []).append((i, match, match.path[end:]))
            elif (place := self._by_path(sample, match)) is not None:
                found[i] = place
        for path, wanted in inside.items():
            self._in_archive(path, wanted, samples, found, with_belongings)
        left = [i for i in range(len(samples)) if i not in found and not self._is_surely_gone(samples[i], matches[i])]
        by_name = self._by_name([samples[i] for i in left], with_belongings)
        found |= {i: place for i, place in zip(left, by_name, strict=True) if place is not None}
        places = []
        for i, sample in enumerate(samples):
            match, place = matches[i], found.get(i)
            if match is not None and (place is None or (place.kind == "none" and _is_file(match.path))):
                place = _file_or_nothing(sample, match)
            places.append(self._allowed(place or missing_place(sample, f"no source has a picture of this name; {WHERE_NOW}")))
        return [self._with_sidecars(place) for place in places] if with_belongings else places

    def _archive_of(self, match: SourceMatch) -> int | None:
        """How many characters of a path name the archive that it leads into; None: into none, as far as can be told."""
        if match.archive is not None:
            return match.archive
        if not locations.is_local(match.path):
            archives = [] if self._refusal(match) else list(_REMOTE_ARCHIVE.finditer(match.path))
            return archives[-1].end() if archives else None
        end = None if _is_file(match.path) else self._archive_above(match.path)
        if end is not None:
            self._prove(match)
        return end

    def _refusal(self, match: SourceMatch) -> str | None:
        """Why an address may not be read."""
        return refuses_address(match.path, is_below_source=match.source is not None) if self._confined else None

    def _by_path(self, sample: str, match: SourceMatch) -> Place | None:
        """The file or address that a path is; None where there is no such file, or another name may be meant."""
        path = match.path
        if not locations.is_local(path):
            if text := self._refusal(match):
                return missing_place(sample, text, inside=match.inside)
            return Place(sample, "url", (FilePlace(base_name(path), PictureRef(path=path)),), match.source, match.inside)
        if not _is_file(path) or (self._given is not None and _ODD_NAME.search(sample)):  # the listing tells whose name it is
            return None
        self._prove(match)
        return _file_or_nothing(sample, match)

    def _prove(self, match: SourceMatch) -> None:
        """A source in which one path was found holds no Parquet files: it would have been refused."""
        if match.source is not None:
            self._proven.add(match.source)

    def _is_surely_gone(self, sample: str, match: SourceMatch | None) -> bool:
        if match is None or _ODD_NAME.search(sample):
            return False
        return match.source in self._proven or self._given is None

    def _archive_above(self, path: str) -> int | None:
        """How many characters of a local path name a file that is above it; None where there is none."""
        if path.endswith(BROKEN) and _is_file(path.removesuffix(BROKEN)):
            return len(path) - len(BROKEN)
        at = len(path)
        while (at := path.rfind("/", 0, at)) > 0:
            if self._archives.knows(path[:at]):
                return at
        at = len(path)
        while (at := path.rfind("/", 0, at)) > 0:
            if (status := _status(path[:at])) is not None:
                return at if stat.S_ISREG(status.st_mode) else None
        return None

    def _in_archive(
        self, path: str, wanted: Sequence[tuple[int, SourceMatch, str]], samples: Sequence[str], found: dict[int, Place],
        with_belongings: bool,
    ) -> None:  # fmt: skip
        if self._offline and not locations.is_local(path):
            for i, _, _ in wanted:
                found[i] = missing_place(samples[i], f"{path} is on a server, and --offline was given")
            return
        kind, files = self._archives.find(path, [inner for _, _, inner in wanted], with_belongings=with_belongings)
        for (i, match, inner), members in zip(wanted, files, strict=True):
            where = match.inside if match.archive is not None else match.inside[: len(match.inside) - len(inner)]
            place = Place(samples[i], kind, members, match.source, where, path)
            found[i] = place if place.error is None else replace(place, kind="none")

    def _by_name(self, samples: Sequence[str], with_belongings: bool) -> Sequence[Place | None]:
        """Look samples up in what has to be read for it: lists, tables, Parquet files, listings."""
        if not samples:
            return []
        with self._lock:
            parts = self._parts or NamedParts(self.sources(), self._options, self._archives, guess=self._is_replaced)
            self._parts = parts
        try:
            return parts.find(samples, odd=[bool(_ODD_NAME.search(sample)) for sample in samples], full=with_belongings)
        except InputError as error:
            return [missing_place(sample, f"{error}; {WHERE_NOW}") for sample in samples]

    def _allowed(self, place: Place) -> Place:
        """The place itself, or none where it may not be read."""
        ref = place.files[0].ref
        path = place.archive if place.kind in ("tar", "zip") else ref.path if ref is not None else None
        if path is None or place.kind == "none":
            return place
        is_local = locations.is_local(path)
        if self._offline and not is_local:
            return missing_place(place.sample, f"{path} is on a server, and --offline was given")
        if not self._confined:
            return place
        if is_local:
            text = self.sources().refuses(place, path)
        else:  # by its name it was looked at before; a cell of a Parquet file may hold any
            text = refuses_address(path, is_below_source=place.kind != "url" or place.is_listed or place.source is not None)
        return missing_place(place.sample, text, inside=place.inside) if text else place

    def _with_sidecars(self, place: Place) -> Place:
        ref = place.files[0].ref
        if place.kind != "file" or ref is None or ref.path is None or self._confined:
            return place
        with self._lock:
            beside = self._sidecars.of(str(locations.local_path(ref.path)))
        return replace(place, files=place.files + tuple(
            FilePlace(base_name(path), PictureRef(path=path), owners=owners) for path, owners in beside
        ))  # fmt: skip


def _is_file(path: str) -> bool:
    status = _status(path)
    return status is not None and stat.S_ISREG(status.st_mode)


def _file_or_nothing(sample: str, match: SourceMatch) -> Place:
    """The place of a local file, or of one that has gone."""
    status = _status(match.path)
    if status is None:
        return missing_place(sample, f"{match.path} does not exist (any more)", inside=match.inside)
    if not stat.S_ISREG(status.st_mode):
        return missing_place(sample, f"{match.path} is no file", PictureReason.UNREADABLE, match.inside)
    file = FilePlace(base_name(match.path), PictureRef(path=match.path), status.st_size)
    return Place(sample, "file", (file,), match.source, match.inside)
