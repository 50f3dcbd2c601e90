"""Names of new files: paths below the target that keep the folders below a picture's source, and keys of members of tars."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from beholder.curate.act.files import Refused
from beholder.errors import InputError
from beholder.io import locations, storage
from beholder.locate.archives import FilePlace, Place
from beholder.locate.named_sources import NamedSources
from beholder.pixels.sniff import sniff
from beholder.sources.file_kinds import HEAD_BYTES, PICTURE_SUFFIXES, TAR_SUFFIX, suffix_of
from beholder.sources.labels import valid_text
from beholder.sources.tar_file import split_key

_SUFFIXES = {"JPEG": "jpg", "TIFF": "tif", "PPM": "ppm"}
_NAMELESS = "picture"
"""The name of a URL whose path has none."""
_MOST_NAME_BYTES = 240
"""Of a piece of a URL's path: disks take 255, and a suffix may come behind."""
CAPTION_ENDS = (".txt", ".caption")
"""What stands behind the key of a member that is a caption, in small letters."""


class Layout:
    """Decides where files go.

    What lies below one folder that was named keeps its path below that. With several folders, each gets one of its own, named
    after it. Single files (and URLs) keep what their paths do not have in common. A tar or zip becomes a folder of its name.

    Args:
        sources: as the pictures were named.
        samples: all that are asked for, for what has no source that is known.
    """

    def __init__(self, sources: NamedSources, samples: pa.ChunkedArray) -> None:
        self._sources = sources
        folders = dict(sources.folders())
        self._labels = _labels(folders) if len(folders) > 1 else dict.fromkeys(folders, "")
        exact = sources.files()
        self._exact_start = _common_folder(min(exact), max(exact)) if exact else ""
        self._start = ""
        if sources.takes_any and len(samples):
            ends = pc.min_max(samples).as_py()
            self._start = _common_folder(ends["min"] or "", ends["max"] or "")
        self._repeated = _repeated(samples)

    def below(self, place: Place) -> str:
        """The path of the picture's file, or archive, below the target. Raises Refused."""
        if place.kind == "row":
            path = place.sample.split("://", 1)[-1].lstrip("/")
        elif place.source is None or place.source not in self._labels:
            known = self._sources.file_of(place.sample) if place.source is not None else None
            path = known or (place.sample if place.archive is None or not place.inside else place.inside)
            path = path.removeprefix(self._exact_start if known is not None else self._start)
            path = path.split("://", 1)[-1].lstrip("/")
            if place.kind == "url":
                path = (_without_query(path) if locations.is_web(place.sample) else path) or _NAMELESS
        else:
            label = self._labels[place.source]
            path = f"{label}/{place.inside}" if label else place.inside
        return _checked(path, place.sample)

    def path(self, place: Place, file: FilePlace) -> str:
        """Where a file of a picture goes below the target. Raises Refused."""
        below = self.below(place)
        if place.kind in ("tar", "zip"):
            folder = TAR_SUFFIX.sub("", below) if place.kind == "tar" else below.removesuffix(".zip")
            return _checked(f"{folder}/{file.name}", place.sample)
        if place.kind == "url":
            return self._url_path(below, place.sample)
        if file is place.files[0]:
            return with_suffix(below, file) if place.kind == "row" else below
        return os.path.join(os.path.dirname(below), file.name)  # noqa: PTH118, PTH120

    def _url_path(self, below: str, sample: str) -> str:
        """A path that no other URL has, and that a disk takes: where several differ in their queries, or pieces are long."""
        if sample != (base := _without_query(sample)) and base in self._repeated:
            below = marked(below, sample)
        *folders, last = below.split("/")
        folders = [piece if len(os.fsencode(piece)) <= _MOST_NAME_BYTES else marked(piece, piece) for piece in folders]
        return "/".join([*folders, last if len(os.fsencode(last)) <= _MOST_NAME_BYTES else marked(last, sample)])


def marked(path: str, sample: str) -> str:
    """The path with 8 hex digits of the sample's sha256 before its suffix, its last piece cut where that is long."""
    folder, slash, last = path.rpartition("/")
    stem, dot, suffix = last.rpartition(".") if suffix_of(last) in PICTURE_SUFFIXES else (last, "", "")
    stem = os.fsencode(stem)[: _MOST_NAME_BYTES - 20].decode("utf-8", "ignore")
    return f"{folder}{slash}{stem}-{hashlib.sha256(sample.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}{dot}{suffix}"


def with_suffix(path: str, file: FilePlace, data: bytes | None = None) -> str:
    """The path with the suffix of a picture's format, where it has none of a picture's.

    `data`: the picture, where it has been read; of local files the head is read.
    """
    ref = file.ref
    if suffix_of(path) in PICTURE_SUFFIXES or ref is None:
        return path
    try:
        if data is None and ref.data is None and ref.path is not None and locations.is_local(ref.path):
            low = ref.offset or 0
            data = storage.read_range(ref.path, low, low + min(HEAD_BYTES, ref.length or HEAD_BYTES))
        kind = sniff(data or ref.data or b"")
    except InputError:  # no picture, or it cannot be read: who opens it will see
        return path
    return f"{path}.{_SUFFIXES.get(kind, kind.lower())}"


def _without_query(url: str) -> str:
    return url.split("?", 1)[0].split("#", 1)[0]


def _repeated(samples: pa.ChunkedArray) -> set[str]:
    """The URLs that several samples have but for what stands behind "?" or "#"."""
    urls = samples.filter(pc.match_substring_regex(samples, "^(?i:https?)://"))
    if not pc.any(pc.match_substring_regex(urls, "[?#]")).as_py():
        return set()
    counts = pc.replace_substring_regex(urls, "(?s)[?#].*", "").value_counts()
    return set(counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist())


def _checked(path: str, sample: str) -> str:
    """A relative path without steps upwards. Raises Refused."""
    pieces = path.split("/")
    if ".." in pieces:
        raise Refused("outside", f"{sample}: its path leads out of the folder that was named")
    kept = [piece for piece in pieces if piece not in ("", ".")]
    if not kept or "\0" in path:
        raise Refused("name", f"{sample!r} cannot be the name of a file")
    return "/".join(kept)


def _common_folder(first: str, last: str) -> str:
    """The folder that all texts between two (in order of their bytes) begin with, with its "/"; "" without one."""
    common = os.path.commonprefix([first, last])  # noqa: RUF071 (texts, not paths)
    return common[: common.rfind("/") + 1]


def _labels(folders: dict[int, str]) -> dict[int, str]:
    """Number of a source -> a folder name of its own."""
    labels: dict[int, str] = {}
    for number, path in sorted(folders.items()):
        name = os.path.basename(os.path.abspath(path)) if "://" not in path else path.rstrip("/").rsplit("/", 1)[-1]  # noqa: PTH100, PTH119
        name, count = name or "pictures", 2
        free = name
        while free in labels.values():
            free, count = f"{name}-{count}", count + 1
        labels[number] = free
    return labels


@dataclass(frozen=True)
class PackedNames:
    """The names of one picture in a tar.

    Attributes:
        key: webdataset's: what all its members begin with.
        names: (number of the file in its place, member's name), the picture first.
        is_renamed: whether the key is another than the names would give.
        group: the tar that the picture is from, and its key there; None for names that are not for a tar.
        own_name: its name there, in small letters.
        is_continued: whether it comes under the key of the picture before it, whose belongings are there already.
        caption: name of the member for a caption that is of a column; "" where there is none.
        is_replaced: whether that stands for one beside the picture, which is not among `names`.
        has_own_caption: whether one beside the picture is among `names`.
    """

    key: str
    names: tuple[tuple[int, str], ...]
    is_renamed: bool
    group: tuple[str, str] | None = None
    own_name: str = ""
    is_continued: bool = False
    caption: str = ""
    is_replaced: bool = False
    has_own_caption: bool = False


class KeyGiver:
    r"""Gives names in tars. Members of tars and zips keep theirs; files get their path below the source that was named.

    The key of a member ends before the first dot of its name, so that of IMG_1.2.jpg would be IMG_1: in names of files other
    dots become `_`, and bytes that are no UTF-8 become `\xNN`, as in samples. A key that another picture has gets `_2`, `_3`,
    ... Pictures of one key of one tar stay together within a shard; in the next one they get a key of their own, with their
    belongings. Names depend on what was packed and on nothing else, so that an act that was interrupted gives the same.

    webdataset compares what stands behind the key in small letters, and stops where that is there twice: beside `a.txt`,
    `a.TXT` becomes `a._2.TXT`, and of pictures the second gets a key of its own.

    Args:
        layout: gives paths below sources.
        taken: keys that are in use.
        has_captions: captions are of a column, one a picture: then no two pictures have a key in common.
    """

    def __init__(self, layout: Layout, taken: set[str], *, has_captions: bool = False) -> None:
        self._layout, self._taken, self._has_captions = layout, taken, has_captions
        self.begin_shard()

    def begin_shard(self) -> None:
        """Nothing is in the shard yet."""
        self._last: tuple[str, str] | None = None
        self._last_key = ""
        self._last_names: set[str] = set()

    def give(self, names: PackedNames) -> None:
        """The picture is in the shard under these names."""
        if names.group is None:
            return
        if not names.is_continued:
            self._taken.add(names.key)
            self._last, self._last_key, self._last_names = names.group, names.key, set()
        self._last_names.add(names.own_name)

    def names(self, place: Place, data: bytes | None = None, *, has_caption: bool = False) -> PackedNames:
        """The names for one picture, if it is the next in the shard.

        Args:
            place: where it is.
            data: its bytes, where they have been read.
            has_caption: it gets a caption of its own in place of those beside it.

        Raises:
            Refused: it cannot have one.
        """
        is_member = place.kind == "tar"
        first = self._first_name(place, data)
        split = split_key(first)
        if split is None:
            raise Refused("name", f"{place.sample}: {first!r} would not be read again from a tar")
        if ".." in first.split("/"):
            raise Refused("outside", f"{place.sample}: its path leads out of the folder that a tar is unpacked in")
        folder, slash, last = first.rpartition("/")
        stem, dot, suffix = last.rpartition(".")
        if is_member:  # the key ends before the first dot, and all from there on stays
            own, end, start = split[0], first[len(split[0]) :], split[0]
        else:
            start, end = folder + slash + (stem or last), dot + suffix if dot else ""
            own = folder + slash + (stem or last).replace(".", "_")
        group = (place.archive or "", split[0])
        if is_member and group == self._last and first.lower() not in self._last_names and not self._has_captions:
            names = ((0, self._last_key + end),)  # of the key just before
            return PackedNames(self._last_key, names, self._last_key != own, group, first.lower(), is_continued=True)
        key, count = own, 2
        while key in self._taken:
            key, count = f"{own}_{count}", count + 1
        ends = {0: end}
        is_replaced = has_own_caption = False
        for i, file in enumerate(place.files[1:], 1):
            name = valid_text(file.name if is_member else folder + slash + file.name.rsplit("/", 1)[-1])
            if not name.startswith(start if is_member else f"{start}."):
                continue
            rest = name[len(start) :]
            if rest.lower() in CAPTION_ENDS:
                is_replaced, has_own_caption = has_caption, not has_caption
                if has_caption:
                    continue
            if rest not in ends.values():
                ends[i] = _unlike(rest, {other.lower() for other in ends.values()})
        return PackedNames(
            key,
            tuple((i, key + rest) for i, rest in ends.items()),
            key != split[0],
            group,
            first.lower(),
            caption=f"{key}.txt" if has_caption else "",
            is_replaced=is_replaced,
            has_own_caption=has_own_caption,
        )

    def _first_name(self, place: Place, data: bytes | None) -> str:
        """The picture's name in the tar, before its key is looked at; with a suffix, where its bytes tell one."""
        picture = place.files[0]
        name = valid_text(picture.name.strip("/") if place.kind in ("tar", "zip") else self._layout.below(place))
        if suffix_of(name) in PICTURE_SUFFIXES or (place.kind == "tar" and "." in name.rsplit("/", 1)[-1]):
            return name
        return with_suffix(name, picture, data)


def _unlike(rest: str, taken: set[str]) -> str:
    """What stands behind a key, with a number before it where `taken` (in small letters) has it."""
    found, count = rest, 2
    while found.lower() in taken:
        found, count = f"._{count}{rest}", count + 1
    return found
