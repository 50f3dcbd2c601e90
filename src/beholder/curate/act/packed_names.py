"""Places of pictures in; the keys and member names that they get in new tars, no key in two of them, out."""

from __future__ import annotations

from dataclasses import dataclass

from beholder.curate.act.captions import MEMBER_ENDS
from beholder.curate.act.files import Refused
from beholder.curate.act.layout import Layout, with_suffix
from beholder.locate.place import FilePlace, Place
from beholder.sources.pictures.magic import PICTURE_SUFFIXES, suffix_of
from beholder.sources.pictures.tar_members import split_key


@dataclass(frozen=True)
class PackedNames:
    """One picture in a tar.

    Attributes:
        key: webdataset's: what all its members begin with.
        names: (number of the file in its place, member's name), the picture first.
        is_renamed: whether the key is another than the names would give.
        group: the tar that the picture is from, and its key there; None for names that are not for a tar.
        own_name: its name there, in small letters.
        caption: name of the member for a caption that is of a column; "" where there is none.
        is_replaced: whether that stands for one beside the picture, which is not among `names`.
        has_own_caption: whether one beside the picture is among `names`.
        is_continued: whether it comes under the key of the picture before it, whose belongings are there already.
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
    """Gives names. Members of tars and zips keep theirs; files get their path below the source that was named.

    The key of a member ends before the first dot of its name, so that of IMG_1.2.jpg would be IMG_1: in names of files other
    dots become `_`. A key that another picture has gets `_2`, `_3`, ... Pictures of one key of one tar stay together within a
    shard; in the next one they get a key of their own, with their belongings. Names depend on what was packed and on nothing
    else, so that an act that was interrupted gives the same.

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

        Raises Refused where it cannot have one.
        """
        picture = place.files[0]
        first = _first_name(self._layout, place, data)
        split = split_key(first)
        if split is None:
            raise Refused("name", f"{place.sample}: {first!r} would not be read again from a tar")
        if ".." in first.split("/"):
            raise Refused("outside", f"{place.sample}: its path leads out of the folder that a tar is unpacked in")
        own = _undotted(first) if place.kind != "tar" else split[0]
        group = (place.archive or "", split[0])
        is_of_last = place.kind == "tar" and group == self._last and first.lower() not in self._last_names
        if is_of_last and not self._has_captions:  # of the key just before
            name = self._last_key + first[len(split[0]) :]
            return PackedNames(self._last_key, ((0, name),), self._last_key != own, group, first.lower(), True)
        key, count = own, 2
        while key in self._taken:
            key, count = f"{own}_{count}", count + 1
        names = {0: key + _rest(first, place.kind == "tar")}
        folder = first.rpartition("/")[0]
        is_replaced = has_own = False
        for i, file in enumerate(place.files[1:], 1):
            name = file.name if place.kind == "tar" else _beside(folder, file, picture)
            if place.kind != "tar":
                stem = first.rpartition(".")[0] or first
                rest = name[len(stem) :] if name.startswith(stem + ".") else None
            else:
                rest = name[len(split[0]) :] if name.startswith(split[0]) else None
            if rest is not None and rest.lower() in MEMBER_ENDS:
                is_replaced, has_own = has_caption, not has_caption
                if has_caption:
                    continue
            if rest is not None and key + rest not in names.values():
                names[i] = key + _unlike(rest, {other[len(key) :].lower() for other in names.values()})
        return PackedNames(
            key,
            tuple(names.items()),
            key != split[0],
            group,
            first.lower(),
            caption=f"{key}.txt" if has_caption else "",
            is_replaced=is_replaced,
            has_own_caption=has_own,
        )


def _first_name(layout: Layout, place: Place, data: bytes | None) -> str:
    """The picture's name in the tar, before its key is looked at; with a suffix, where its bytes tell one."""
    picture = place.files[0]
    name = picture.name.strip("/") if place.kind in ("tar", "zip") else layout.below(place)
    if suffix_of(name) in PICTURE_SUFFIXES:
        return name
    given = with_suffix(name, picture, data)
    return given if place.kind != "tar" or "." not in name.rsplit("/", 1)[-1] else name


def _undotted(name: str) -> str:
    """A file's path without its suffix, other dots of its last piece as `_`."""
    folder, slash, last = name.rpartition("/")
    stem = last.rpartition(".")[0] or last
    return folder + slash + stem.replace(".", "_")


def _rest(name: str, is_member: bool) -> str:
    """What stands behind the key: of members all from the first dot on, of files the suffix."""
    if is_member:
        split = split_key(name)
        return name[len(split[0]) :] if split is not None else ""
    _, dot, suffix = name.rsplit("/", 1)[-1].rpartition(".")
    return dot + suffix if dot else ""


def _unlike(rest: str, taken: set[str]) -> str:
    """What stands behind a key, with a number before it where `taken` (in small letters) has it."""
    found, count = rest, 2
    while found.lower() in taken:
        found, count = f"._{count}{rest}", count + 1
    return found


def _beside(folder: str, file: FilePlace, picture: FilePlace) -> str:
    """The path of what belongs to a picture, as its picture's is."""
    name = file.name.rsplit("/", 1)[-1]
    return f"{folder}/{name}" if folder else name
