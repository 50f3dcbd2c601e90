"""A line of a journal in; TypeError out where a field does not hold what it should: here alone stands what fields hold."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

_MOST = 1 << 62
_Check = Callable[[Any], bool]


def check_line(said: dict[str, Any]) -> None:
    """Raise TypeError, naming the field, for a line that was not written by us. Fields that nobody knows may hold anything."""
    for name, value in said.items():
        holds = _FIELDS.get(name)
        if holds is not None and not holds(value):
            raise TypeError(f"{name!r} cannot be {str(value)[:40]!r}")


def check_header(said: dict[str, Any]) -> None:
    """The same for the first line, and that nothing which is needed lacks."""
    for name, holds in _HEADER.items():
        if not holds(said.get(name)):
            raise TypeError(f"{name!r} cannot be {str(said.get(name))[:40]!r}")


def _text(value: Any) -> bool:
    return type(value) is str


def _path(value: Any) -> bool:
    if type(value) is not str or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST


def _number(value: Any) -> bool:
    """A time, which may be before 1970."""
    return type(value) is int and -_MOST < value < _MOST


def _id_number(value: Any) -> bool:
    """A user, a group or a mode."""
    return type(value) is int and 0 <= value < 1 << 32


def _size(value: Any) -> bool:
    """A count, or -1 for what is not known."""
    return type(value) is int and -1 <= value < _MOST


def _lists_of(*kinds: _Check) -> _Check:
    def holds(value: Any) -> bool:
        return type(value) is list and all(
            type(row) is list and len(row) == len(kinds) and all(kind(cell) for kind, cell in zip(kinds, row, strict=True))
            for row in value
        )

    return holds


def _plain(value: Any) -> bool:
    """A text that can be shown as it stands."""
    return type(value) is str and value.isprintable()


def _id(value: Any) -> bool:
    """What names of temporary files are made of."""
    return type(value) is str and re.fullmatch("[0-9a-z]{1,32}", value) is not None


_FILES = _lists_of(_path, _count, _number, _text)
_HEADER: dict[str, _Check] = {
    "id": _id, "time": _plain, "target": lambda value: _path(value) and os.path.isabs(value),  # noqa: PTH117
    "num_pictures": lambda value: value is None or _count(value),
    "action": lambda value: value in ("copy", "link", "symlink", "move", "tars", "hf-parquet"),
}  # fmt: skip
_FIELDS: dict[str, _Check] = {
    "do": _count, "from": _path, "to": _path, "size": _size, "mtime": _number, "sample": _text, "of": _text,
    "owner": lambda value: type(value) is list and len(value) == 3 and all(map(_id_number, value)),
    "length": _count, "offset": _count, "part": _count, "shared": lambda value: value is True,
    "with": lambda value: type(value) is list and all(map(_path, value)),
    "skip": _text, "reason": _text, "text": _text, "folder": _path, "planned": _count,
    "sums": _lists_of(_count, _text), "fetched": _lists_of(_count, _count, _path),
    "results": _lists_of(_count, _count), "copies": _lists_of(_count, _text, _number),
    "failed": _lists_of(_count, _text, _text),
    "shard": _text, "files": lambda value: bool(value) and _FILES(value), "left_out": _lists_of(_text, _text, _text),
    "captions": lambda value: type(value) is dict and all(map(_count, value.values())),
    "pictures": _count, "num_files": _count, "bytes": _count, "renamed": _count, "packing": _text,
    "undone": _lists_of(_count, _count), "undone shard": _text, "end": _text, "time": _text, "left": _count, "lost": _count,
}  # fmt: skip
