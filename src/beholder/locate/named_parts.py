"""Samples that no path tells in; the rows of lists, tables, Parquet files and listings that have these names out."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import pyarrow as pa

from beholder.columns import PictureReason
from beholder.io import storage
from beholder.locate.archives import Archives
from beholder.locate.named_rows import NamedRows
from beholder.locate.named_sources import NamedSources, is_relative
from beholder.locate.place import FilePlace, Place, nowhere
from beholder.pixels.picture import PicturePart, PictureRef, SourceOptions
from beholder.sources.pictures.parts import Found, expand_source, gather_singles, give_names, reader_of


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
                place = nowhere(samples[i], text, PictureReason.UNREADABLE)
            found[i] = place

    def _place(self, sample: str, part: PicturePart, ref: PictureRef) -> Place:
        """Where a row's picture is."""
        if ref.error is not None:
            return nowhere(sample, ref.error[1], ref.error[0])
        if ref.path is None or ref.offset is not None:
            size = len(ref.data) if ref.data is not None else ref.length
            return Place(sample, "row", (FilePlace(sample, ref, size),), archive=part.path)
        path = self._settled(ref.path, part)
        size = _size(path)
        file = FilePlace(path.rsplit("/", 1)[-1], replace(ref, path=path), size)
        if not storage.is_local(path):
            return Place(sample, "url", (file,), is_listed=part.kind != "parquet")
        if size is None:
            return nowhere(sample, f"{path} does not exist (any more)")
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
            if storage.is_local(folder) and (size := _size(folder + sample)) is not None:
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
                    place = nowhere(samples[i], text, PictureReason.UNREADABLE)
                found[i] = place

    @cached_property
    def _found(self) -> list[Found]:
        """What the sources hold, named as it was when the pictures were scored, not looked into."""
        base = self._sources.base
        items = list(gather_singles([item for source in self._sources.opened for item in expand_source(source, self._options)]))
        given = [replace(item, path=item.path.removeprefix(base) if base else item.path) for item in items]
        return [replace(item, name=named.name) for item, named in zip(items, give_names(given), strict=True)]

    @cached_property
    def _tables(self) -> list[NamedRows]:
        chosen = [item for item in self._found if item.kind in ("parquet", "table")]
        parts = [reader_of(item.kind).inspect(item.path, item.name, self._options) for item in chosen]
        return [NamedRows(replace(part, name=item.name)) for part, item in zip(parts, chosen, strict=True)]

    @cached_property
    def _listings(self) -> list[NamedRows]:
        return [NamedRows(item.part) for item in self._found if item.kind == "files" and item.part is not None]


def _size(path: str) -> int | None:
    """Bytes of a local file; None where it is not there, or on a server."""
    if not storage.is_local(path):
        return None
    try:
        return storage.local_path(path).stat().st_size
    except (OSError, ValueError):
        return None
