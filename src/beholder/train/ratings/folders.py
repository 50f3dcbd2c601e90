"""Ratings that folders of pictures are: liked and disliked ones, or stars in XMP, in sidecars or inside the pictures."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pyarrow as pa

from beholder.errors import InputError, number_of
from beholder.io import remote, storage
from beholder.io.xmp import REJECTED, SUFFIX, UNRATED, XmpRating, parse_rating, read_rating
from beholder.pixels.xmp import embedded_packet
from beholder.sources.file_kinds import PICTURE_SUFFIXES, RAW_SUFFIXES, suffix_of
from beholder.train.ratings.findings import Findings, is_or_are
from beholder.train.ratings.means import decisions
from beholder.train.ratings.options import RatingsOptions
from beholder.train.ratings.ratings import DROP, KEEP, Ratings
from beholder.train.ratings.rows import check_varied, distinct

LIKED = ("liked", "like", "likes", "keep", "good", "yes", "up", "positive")
DISLIKED = ("disliked", "dislike", "dislikes", "drop", "bad", "no", "down", "negative")
"""Names of folders, by pairs."""


def liked_and_disliked(folder: str, files: list[str]) -> tuple[str, str] | None:
    """Two folders in a folder, by their names (`liked`, `disliked` and others alike); None where they are not there."""
    names, root = {path.rsplit("/", 1)[0] for path in files}, storage.root_of(folder)
    there = {name.rsplit("/", 1)[-1].lower(): name for name in sorted(names) if name.rpartition("/")[0] == root}
    return next(
        ((there[one], there[other]) for one, other in zip(LIKED, DISLIKED, strict=True) if {one, other} <= set(there)), None
    )


def read_folders(liked: str, disliked: str) -> Ratings:
    """Two folders of pictures; samples are names of files, with the folders below the two. Raises InputError."""
    findings = Findings()
    names: list[str] = []
    values: list[float] = []
    for folder, value in ((liked, KEEP), (disliked, DROP)):
        if not storage.is_folder(folder):
            raise InputError(f"{folder} is no folder; liked and disliked pictures are two folders")
        start = len(storage.root_of(folder)) + 1
        inside = [path[start:] for path in storage.list_files(folder)]
        mine = [name for name in inside if suffix_of(name) in PICTURE_SUFFIXES]
        if not mine:
            raise InputError(f"{folder} holds no pictures")
        others = [name for name in inside if suffix_of(name) not in PICTURE_SUFFIXES]
        among = "liked" if value == KEEP else "disliked"
        text = f"{number_of(len(others), 'file')} among the {among} {is_or_are(len(others))} no picture, and passed over"
        findings.note("no-picture", len(others), text, others)
        names += mine
        values += [value] * len(mine)
    keys, samples = distinct(pa.array(names, pa.large_string()))
    found = decisions(
        f"{liked} and {disliked}", "pictures in two folders, liked and disliked", keys, samples, np.array(values), findings
    )
    return replace(found, has_public_name=False)


def read_stars(folder: str, files: list[str], options: RatingsOptions) -> Ratings:
    """Stars of the pictures below a folder.

    A sidecar is named as its picture with `.xmp` behind (`a.jpg.xmp`: darktable, digiKam) or in place of the suffix (`a.xmp`:
    Lightroom; it is of all pictures of that name). The first counts before the second, and a sidecar before what is inside a
    picture. Samples are paths relative to the folder; of a sidecar whose picture is not there, the path without its `.xmp`.

    Args:
        folder: as it was named.
        files: all files below it, as `storage.list_files` gives them.
        options: `rejected_as`.

    Raises:
        InputError: no picture has stars, or all have the same.
    """
    findings = Findings()
    start = len(storage.root_of(folder)) + 1
    inside = [path[start:] for path in files]
    pictures = [name for name in inside if suffix_of(name) in PICTURE_SUFFIXES | RAW_SUFFIXES]
    said = _of_sidecars(folder, files, inside, pictures, findings)
    num_sidecars = len(said)
    embedded = _of_pictures(dict(zip(inside, files, strict=True)), pictures, said, findings)
    num_embedded = sum(name not in said for name in embedded)
    for name, found in embedded.items():
        said.setdefault(name, found)
    return _rated(folder, said, num_sidecars, num_embedded, len(pictures), options, findings)


def _of_sidecars(
    folder: str, files: list[str], inside: list[str], pictures: list[str], findings: Findings
) -> dict[str, XmpRating]:
    """Picture -> what its sidecar says of stars."""
    whole = set(pictures)
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in pictures:
        by_stem[name.rpartition(".")[0].lower()].append(name)
    exact: dict[str, XmpRating] = {}
    by_name: dict[str, XmpRating] = {}
    damaged, unusable = [], []
    for path, name in zip(files, inside, strict=True):
        if not name.lower().endswith(SUFFIX):
            continue
        try:
            found = read_rating(path)
        except InputError:
            damaged.append(name)
            continue
        if found.unusable is not None:
            unusable.append(f"{name}: {found.unusable!r}")
        if found.stars is None:
            continue
        stem = name[: -len(SUFFIX)]
        if stem in whole:
            exact[stem] = found
        else:
            by_name.update(dict.fromkeys(by_stem.get(stem.lower(), [stem]), found))
    count = len(damaged)
    findings.note(
        "damaged", count, f"{number_of(count, 'sidecar')} {is_or_are(count)} no XMP that can be read, and passed over", damaged
    )
    _note_unusable(unusable, findings)
    return by_name | exact


def _of_pictures(
    paths: dict[str, str], pictures: list[str], known: dict[str, XmpRating], findings: Findings
) -> dict[str, XmpRating]:
    """Picture -> what the XMP inside it says of stars."""
    said: dict[str, XmpRating] = {}
    unusable, others, damaged = [], [], []
    for name in pictures:
        if suffix_of(name) in RAW_SUFFIXES:
            continue
        with remote.read_errors(paths[name]), storage.open_binary(paths[name]) as file:
            packet = embedded_packet(file)
        if packet is None:
            continue
        try:
            found = parse_rating(packet, name)
        except InputError:
            damaged.append(name)
            continue
        if found.unusable is not None:
            unusable.append(f"{name}: {found.unusable!r}")
        if found.stars is not None:
            said[name] = found
            if name in known and known[name].stars != found.stars:
                others.append(name)
    count = len(damaged)
    text = f"the XMP in {number_of(count, 'picture')} cannot be read, and is passed over"
    findings.note("damaged", count, text, damaged)
    _note_unusable(unusable, findings)
    count = len(others)
    text = (
        f"{number_of(count, 'picture')} {is_or_are(count, 'has', 'have')} other stars inside than in the sidecar, which counts"
    )
    findings.note("disagreeing", count, text, others)
    return said


def _note_unusable(unusable: list[str], findings: Findings) -> None:
    count = len(unusable)
    text = f"{number_of(count, 'file')} {is_or_are(count, 'has', 'have')} a rating that is no number from -1 to 5, and left out"
    findings.note("text", count, text, unusable)


def _rated(
    folder: str,
    said: dict[str, XmpRating],
    num_sidecars: int,
    num_embedded: int,
    num_pictures: int,
    options: RatingsOptions,
    findings: Findings,
) -> Ratings:
    """Ratings of what sidecars and pictures say."""
    if not said:
        raise InputError(
            f"{folder} has no stars: of {number_of(num_pictures, 'picture')} none has an XMP sidecar, or XMP inside, with "
            "xmp:Rating; two folders liked and disliked were not there either"
        )
    rejected = [name for name, found in said.items() if found.stars == REJECTED]
    unrated = [name for name, found in said.items() if found.stars == UNRATED]
    count = len(unrated)
    text = f"{number_of(count, 'picture')} {is_or_are(count)} unrated (0 stars), and left out"
    findings.note("unrated", count, text, unrated)
    count = len(rejected)
    became = (
        "left out"
        if math.isnan(options.rejected_as)
        else f"count{'s' if count == 1 else ''} as {options.rejected_as:g} (--rejected-as)"
    )
    findings.note("rejected", count, f"{number_of(count, 'picture')} {is_or_are(count)} rejected (-1), and {became}", rejected)
    values = {
        name: options.rejected_as if found.stars == REJECTED else found.stars
        for name, found in said.items()
        if found.stars is not None and found.stars != UNRATED
    }
    values = {name: value for name, value in sorted(values.items()) if not math.isnan(value)}
    if not values:
        raise InputError(f"{folder} has no stars: all {len(said):,} pictures with XMP are unrated (0) or rejected (-1)")
    numbers = np.array(list(values.values()), np.float64)
    check_varied(numbers, folder, "stars")
    places = [
        f"{number_of(num_sidecars, 'sidecar')}" if num_sidecars else "",
        f"{number_of(num_embedded, 'picture')}" if num_embedded else "",
    ]
    return Ratings(
        kind="mean",
        source=folder,
        has_public_name=False,
        layout=f"stars (xmp:Rating) in {' and in '.join(filter(None, places))}",
        samples=pa.array(list(values), pa.large_string()),
        values=numbers,
        findings=tuple(findings.found),
    )
