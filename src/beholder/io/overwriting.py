"""Whether a file may be written: what a command reads is never replaced, nor what was not written by it."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable
from pathlib import PurePath

from beholder.errors import OutputError
from beholder.io import locations, storage

_TABLES = (".parquet", ".pq", ".csv", ".tsv")
"""What is read of a folder of tables."""
_LOOKED_AT = 1 << 20
"""Bytes at the start of a file that is to be replaced, among which has to stand whose it is."""


def check_ours(path: str, mark: str, advice: str = "use another --out") -> None:
    """Raise OutputError for a file that is there, and does not hold what all begin with that this command writes.

    Args:
        path: that is to be written, local or remote.
        mark: a text that stands in the first MiB of all of ours.
        advice: what to do about a file of somebody else, for the end of the message.
    """
    if storage.exists(path) and mark.encode() not in storage.read_range(path, 0, min(storage.size(path), _LOOKED_AT)):
        raise OutputError(f"{path} would be replaced, and was not written by this command; move it, or {advice}")


def is_read(out: str, sources: Iterable[str | None]) -> bool:
    """Whether a file is one of those that are read, by whatever path, or would be once it is there.

    Args:
        out: a file that is to be written; it need not be there.
        sources: what is read: files, folders of tables, globs; here or on a server. None is passed over.
    """
    return any(source is not None and _is_of(out, source) for source in sources)


def _is_of(out: str, source: str) -> bool:
    if locations.is_local(out) != locations.is_local(source):
        return False
    is_table = PurePath(out).suffix.lower() in _TABLES
    if not locations.is_local(out):
        one, other = locations.without_query(out), locations.without_query(source).rstrip("/")
        return one == other or (is_table and one.startswith(other + "/")) or (storage.is_glob(source) and _matches(one, other))
    file, whole = locations.local_path(out), locations.local_path(source)
    if storage.is_glob(source):
        is_there = file.exists() and any(file.samefile(found) for found in storage.expand_glob(source))
        return is_there or _matches(os.path.abspath(file), os.path.abspath(whole))  # noqa: PTH100
    if file.resolve() == whole.resolve() or (file.exists() and whole.exists() and file.samefile(whole)):
        return True
    if not (is_table and whole.is_dir()):
        return False
    is_inside = whole.resolve() in file.resolve().parents
    return is_inside or (file.exists() and any(file.samefile(found) for found in storage.list_files(source)))


def _matches(path: str, pattern: str) -> bool:
    """Whether a path is one that a glob finds; `**` stands for any folders."""
    one, other = PurePath(path).parts, PurePath(pattern).parts
    if "**" in other:
        return fnmatch.fnmatchcase(path, pattern.replace("/**/", "/*")) or fnmatch.fnmatchcase(path, pattern)
    return len(one) == len(other) and all(map(fnmatch.fnmatchcase, one, other))
