"""Stars in a folder of pictures: from XMP sidecars, or from the XMP inside the pictures."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pyarrow as pa

from beholder.errors import InputError
from beholder.io import locations, remote, storage
from beholder.io.xmp import REJECTED, SUFFIX, UNRATED, XmpRating, parse_rating, read_rating
from beholder.pixels.xmp import embedded_packet
from beholder.sources.file_kinds import PICTURE_SUFFIXES, RAW_SUFFIXES, suffix_of
from beholder.train.ratings.findings import Findings, is_or_are, number_of
from beholder.train.ratings.options import RatingsOptions
from beholder.train.ratings.ratings import Ratings
from beholder.train.ratings.scales import check_varied


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
    start = _start(folder, files)
    inside = [path[start:] for path in files]
    pictures = [name for name in inside if suffix_of(name) in PICTURE_SUFFIXES | RAW_SUFFIXES]
    said = _of_sidecars(folder, files, inside, pictures, findings)
    num_sidecars = len(said)
    embedded = _of_pictures(dict(zip(inside, files, strict=True)), pictures, said, findings)
    num_embedded = sum(name not in said for name in embedded)
    for name, found in embedded.items():
        said.setdefault(name, found)
    return _rated(folder, said, num_sidecars, num_embedded, len(pictures), options, findings)


def _start(folder: str, files: list[str]) -> int:
    """How many letters of each path are the folder's."""
    if locations.is_local(folder):
        return len(str(locations.local_path(folder)).rstrip("/")) + 1
    fs, inner = remote.filesystem(folder)
    return len(str(fs.unstrip_protocol(inner)).rstrip("/")) + 1


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
    findings.note("disagreeing", count, text, others, is_warning=True)
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
