"""Keep and drop: marks of `beholder browse`, and folders of liked and disliked pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from beholder.errors import InputError
from beholder.io import locations, remote, storage
from beholder.scoreset.joined import read_marks
from beholder.sources.file_kinds import PICTURE_SUFFIXES, suffix_of
from beholder.train.ratings.findings import Findings, is_or_are, number_of
from beholder.train.ratings.means import decisions
from beholder.train.ratings.ratings import DROP, KEEP, Ratings

LIKED = ("liked", "like", "likes", "keep", "good", "yes", "up", "positive")
DISLIKED = ("disliked", "dislike", "dislikes", "drop", "bad", "no", "down", "negative")
"""Names of folders, by pairs."""


def read_browse_marks(path: str) -> Ratings:
    """Marks of `beholder browse`; of each picture the last one counts. Raises InputError."""
    marks = read_marks(path)
    if not marks:
        raise InputError(f"{path} holds no marks; mark pictures to keep and to drop in `beholder browse` first")
    values = np.array([KEEP if word == "keep" else DROP for word in marks.values()])
    samples = pa.array(list(marks), pa.large_string())
    found = decisions(path, "marks of `beholder browse`", np.arange(len(marks)), samples, values, Findings())
    return replace(found, has_public_name=False)


def liked_and_disliked(folder: str, files: list[str]) -> tuple[str, str] | None:
    """Two folders in a folder, by their names (`liked`, `disliked` and others alike); None where they are not there."""
    names = {path.rsplit("/", 1)[0] for path in files}
    there = {name.rsplit("/", 1)[-1].lower(): name for name in sorted(names) if name.rpartition("/")[0] == _whole(folder)}
    return next(
        ((there[one], there[other]) for one, other in zip(LIKED, DISLIKED, strict=True) if {one, other} <= set(there)), None
    )


def _whole(folder: str) -> str:
    if locations.is_local(folder):
        return str(locations.local_path(folder)).rstrip("/")
    fs, inner = remote.filesystem(folder)
    return str(fs.unstrip_protocol(inner)).rstrip("/")


def read_folders(liked: str, disliked: str) -> Ratings:
    """Two folders of pictures; samples are names of files, with the folders below the two. Raises InputError."""
    findings = Findings()
    names: list[str] = []
    values: list[float] = []
    for folder, value in ((liked, KEEP), (disliked, DROP)):
        if not storage.is_folder(folder):
            raise InputError(f"{folder} is no folder; liked and disliked pictures are two folders")
        start = len(_whole(folder)) + 1
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
    encoded = pa.array(names, pa.large_string()).dictionary_encode()
    keys = encoded.indices.to_numpy().astype(np.int64)
    samples = encoded.dictionary.cast(pa.large_string())
    found = decisions(
        f"{liked} and {disliked}", "pictures in two folders, liked and disliked", keys, samples, np.array(values), findings
    )
    return replace(found, has_public_name=False)
