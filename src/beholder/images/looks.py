"""Sources in; what a quick look tells about them out: pictures or embeddings, a list of pictures or of sources."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence

from beholder import storage
from beholder.errors import InputError
from beholder.images.files import is_result_file, is_result_folder, scan_remote
from beholder.images.listing import suffix_of_bytes
from beholder.images.magic import (
    HEAD_BYTES,
    OTHER_SUFFIXES,
    PARQUET_SUFFIXES,
    PICTURE_SUFFIXES,
    TABLE_SUFFIXES,
    compression_of,
    is_tar_name,
    kind_of_bytes,
    suffix_of,
)
from beholder.images.picture import SourceOptions

RANGE = re.compile(r"\{([0-9]+|[a-zA-Z])\.\.([0-9]+|[a-zA-Z])(\.\.[0-9]+)?\}")
"""A brace range as shells and webdataset have it."""
_MOST_EXPANDED = 1_000_000
_MOST_LOOKED_AT = 64
_MOST_ENTRIES = 200_000
_CSV_LOOK_BYTES = 1 << 16


def looks_like_pictures(sources: Sequence[str]) -> bool:
    """Whether the first of `sources` that tells anything is pictures (a folder, tar, table, ... of them).

    Cheap: a few listings and first bytes. False for embeddings, for what is not there, and for what cannot be read, so that
    the reader of embeddings, which knows more about files of numbers, says what is wrong.
    """
    for source in sources:
        try:
            told = _look(source)
        except (InputError, OSError, RuntimeError):  # RuntimeError: a home folder that is not known
            return False
        if told is not None:
            return told
    return False


def _look(source: str, depth: int = 0) -> bool | None:
    """Whether one source is pictures; None when it does not tell."""
    source = source.rstrip("/") if len(source) > 1 else source
    if RANGE.search(source) and not (storage.is_local(source) and storage.exists(source)):
        source = RANGE.sub(lambda found: found[1], source)
    if storage.is_glob(source):
        matches = sorted(storage.expand_glob(source), key=storage.natural_key)[:_MOST_LOOKED_AT]
        return next((told for path in matches if (told := _look(path, depth)) is not None), None)
    if suffix_of(source) == "txt":
        if depth > 3:
            return None
        entry = first_line(source)
        return None if entry is None else names_pictures(entry) or _look(entry, depth + 1)
    if storage.is_local(source):
        if storage.is_folder(source):
            return _look_into_folder(str(storage.local_path(source)))
        return storage.local_path(source).is_file() and _look_into_file(source)
    if suffix_of(source) in PICTURE_SUFFIXES or is_tar_name(source):
        return True
    if not suffix_of(source) and storage.is_folder(source):
        if is_result_folder(source):
            return False
        listing, root = scan_remote(source)
        if len(listing.names) or listing.tars:
            return True
        archives = (listing.parquets or listing.zips)[:1]
        return not listing.has_arrays and bool(archives) and _look_into_file(root + archives[0])
    return _look_into_file(source)


def _look_into_file(path: str) -> bool | None:
    head = head_of(path)
    kind, suffix = kind_of_bytes(head), suffix_of(path)
    if kind in ("files", "tar"):
        return True
    if kind == "parquet":
        return _parquet_has_pictures(path)
    if kind == "zip":
        return suffix != "npz" and _zip_has_pictures(path)
    if head.startswith(b"\x93NUMPY"):
        return False
    if suffix in PICTURE_SUFFIXES or is_tar_name(path):
        return True
    if suffix in TABLE_SUFFIXES and not compression_of(head):
        return _csv_names_pictures(storage.read_range(path, 0, _CSV_LOOK_BYTES), "\t" if suffix == "tsv" else ",")
    return False


def _parquet_has_pictures(path: str) -> bool:
    from beholder.images.packed import columns_of_parquet
    from beholder.images.picture_columns import holds_embeddings

    try:
        columns, schema = columns_of_parquet(path, SourceOptions())
    except InputError:
        return False
    return bool(columns.picture) and not holds_embeddings(schema)


def _zip_has_pictures(path: str) -> bool:
    from beholder.images.zips import is_numpy, open_zip

    with storage.remote_errors(path), storage.open_binary(path) as file:
        archive = open_zip(path, file)
        return not is_numpy(archive) and any(suffix_of(name) in PICTURE_SUFFIXES for name in archive.namelist())


def _csv_names_pictures(data: bytes, delimiter: str) -> bool:
    """Whether a table's header has a column for places of pictures, its first rows hold some, and none for dimensions."""
    from beholder.images.picture_columns import PATH_NAMES, are_dimensions, looks_like_place

    lines = data.decode("utf-8-sig", "replace").splitlines()[:_MOST_LOOKED_AT]
    try:
        rows = list(csv.reader(lines, delimiter=delimiter))
    except csv.Error:
        return False
    if not rows or are_dimensions(rows[0]):
        return False
    places = [i for i, name in enumerate(rows[0]) if name.lower() in PATH_NAMES]
    return any(looks_like_place(row[i]) for row in rows[1:] for i in places if i < len(row))


def _look_into_folder(folder: str) -> bool | None:
    """Pictures or tars anywhere below say yes; else a Parquet file or zip is looked into, if there are no arrays."""
    if is_result_folder(folder):
        return False
    archives: list[str] = []
    has_arrays, num_unknown = False, 0
    for number, path in enumerate(_files_below(os.fsencode(folder))):
        name, suffix = os.fsdecode(path), suffix_of_bytes(path.rsplit(b"/", 1)[-1]).decode("ascii", "replace")
        if suffix in PICTURE_SUFFIXES or is_tar_name(name):
            return True
        if suffix in ("npy", "npz"):
            has_arrays = True
        elif suffix in (*PARQUET_SUFFIXES, "zip"):
            archives.append(name)
        elif suffix not in OTHER_SUFFIXES and num_unknown < _MOST_LOOKED_AT:
            num_unknown += 1
            if kind_of_head(name) == "files":
                return True
        if number > _MOST_ENTRIES:
            return None
    if has_arrays:
        return False
    archives = [path for path in sorted(archives, key=storage.natural_key) if not is_result_file(path)]
    return any(_look_into_file(path) for path in archives[:4])


def _files_below(folder: bytes) -> Iterator[bytes]:
    """Regular files, each folder's own ones first; results of earlier runs and hidden names are left out."""
    stack = [folder]
    while stack:
        here = stack.pop()
        below = []
        with os.scandir(here) as entries:
            for entry in entries:
                if storage.is_ignored_name(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
                elif _is_regular(entry):
                    yield entry.path
        stack += [path for path in below if not is_result_folder(os.fsdecode(path))]


def _is_regular(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link in circles
        return False


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
    text = storage.read_range(path, 0, _CSV_LOOK_BYTES).decode("utf-8-sig", "replace")
    return next((line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")), None)


def names_pictures(entry: str) -> bool:
    """Whether a line of a list is a single picture's path or URL, by the look of it, or by its content where that is local."""
    suffix = suffix_of(entry)
    if storage.is_glob(entry) or RANGE.search(entry):
        return False
    if suffix in PICTURE_SUFFIXES:
        return True
    if is_tar_name(entry) or suffix in (*PARQUET_SUFFIXES, *TABLE_SUFFIXES, "zip", "txt", "npy", "npz"):
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
