"""What a name or the first bytes of a file tell: a picture, a list of pictures or of sources, a range of names."""

from __future__ import annotations

import re

from beholder.errors import InputError
from beholder.io import storage
from beholder.io.tables import read_head
from beholder.sources.pictures.magic import (
    HEAD_BYTES,
    PARQUET_SUFFIXES,
    PICTURE_SUFFIXES,
    TABLE_SUFFIXES,
    is_tar_name,
    kind_of_bytes,
    suffix_of,
)
from beholder.sources.pictures.text_pictures import is_written_out

RANGE = re.compile(r"\{([0-9]+|[a-zA-Z])\.\.([0-9]+|[a-zA-Z])(\.\.[0-9]+)?\}")
"""A brace range as shells and webdataset have it."""
_MOST_EXPANDED = 1_000_000
MOST_LOOKED_AT = 64
"""So many things of a kind are looked at."""
_LOOK_BYTES = 1 << 16


def head_of(path: str) -> bytes:
    """The first bytes of a file, few or none of a short one. Raises InputError when it cannot be read."""
    if storage.is_web(path):  # some servers do not tell sizes
        return storage.read_range(path, 0, HEAD_BYTES)
    return storage.read_range(path, 0, min(HEAD_BYTES, storage.size(path)))


def kind_of_head(path: str) -> str | None:
    """Kind of a local file by its first bytes; None for one that cannot be read."""
    try:
        return kind_of_bytes(storage.read_range(path, 0, HEAD_BYTES))
    except InputError:
        return None


def first_line(path: str) -> str | None:
    """The first entry of a list; None when there is none."""
    text = read_head(path, _LOOK_BYTES)[0].decode("utf-8-sig", "replace")
    return next((line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")), None)


def names_pictures(entry: str) -> bool:
    """Whether a line of a list is a single picture's path or URL, by the look of it, or by its content where that is local."""
    if is_written_out(entry):
        return True
    suffix = suffix_of(entry)
    if storage.is_glob(entry) or RANGE.search(entry):
        return False
    if suffix in PICTURE_SUFFIXES:
        return True
    if is_tar_name(entry) or suffix in (*PARQUET_SUFFIXES, *TABLE_SUFFIXES, "zip", "txt", "npy", "npz", "pt", "pth"):
        return False
    if not storage.is_local(entry):
        return storage.is_web(entry)
    return storage.local_path(entry).is_file() and kind_of_head(entry) == "files"


def expand_ranges(source: str) -> list[str]:
    """What a source with brace ranges names: `{00000..00012}` as in a shell. Raises InputError for more than a million."""
    from braceexpand import braceexpand

    count = 1
    for low, high, step in RANGE.findall(source):
        span = abs(int(high) - int(low)) if low.isdigit() and high.isdigit() else 26
        count *= span // max(1, int(step.strip(".") or 1)) + 1
    if count > _MOST_EXPANDED:
        raise InputError(f"{source} names {count:,} files; name fewer at a time")
    try:
        return list(braceexpand(source))
    except ValueError:
        raise InputError(f"{source}: the braces do not match") from None
