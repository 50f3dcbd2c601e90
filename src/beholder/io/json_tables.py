"""JSON lines (one object a line), or a JSON list of objects, read as the rows of a table, piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from beholder.errors import InputError
from beholder.io import storage
from beholder.io.text import open_text, read_head

JSON_SUFFIXES = frozenset(("jsonl", "ndjson", "json"))
_PIECE_BYTES = 8 << 20
_MOST_LINE_BYTES = 256 << 20
_MOST_LIST_BYTES = 1 << 30
_HINT = "expected JSON lines: one object a line"


def read_objects(path: str, most_bytes: int | None = None) -> Iterator[list[dict[str, Any]]]:
    """The rows of a file, in lists of about 8 MiB of text.

    Args:
        path: UTF-8 or marked UTF-16, local or remote. Blank lines are passed over.
        most_bytes: only whole rows among the first bytes; None: all.

    Raises:
        InputError: a line that is no JSON object, named by its number.
    """
    head, _ = read_head(path, 1 << 10)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        yield _list_of_objects(path)
        return
    number = 0
    for lines in _lines(path, most_bytes):
        rows = []
        for line in lines:
            number += 1
            if line.strip():
                rows.append(_object(line, path, number))
        if rows:
            yield rows


def _lines(path: str, most_bytes: int | None) -> Iterator[list[bytes]]:
    """The lines of a file, in pieces."""
    rest, taken = b"", 0
    with storage.remote_errors(path), open_text(path) as file:
        while True:
            wanted = _PIECE_BYTES if most_bytes is None else min(_PIECE_BYTES, most_bytes - taken)
            piece = file.read(wanted) if wanted > 0 else b""
            if not taken:
                piece = piece.removeprefix(b"\xef\xbb\xbf")
            taken += len(piece)
            if not piece:
                is_cut = wanted <= 0 and bool(file.read(1))
                if rest and not is_cut:
                    yield [rest]
                return
            lines = (rest + piece).split(b"\n")
            rest = lines.pop()
            if len(rest) > _MOST_LINE_BYTES:
                raise InputError(f"{path}: a line is longer than {_MOST_LINE_BYTES >> 20} MiB; {_HINT}")
            if lines:
                yield lines


def _object(line: bytes, path: str, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except UnicodeDecodeError:
        raise InputError(f"{path}: line {number} is not UTF-8 text; save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else " ".join(str(error).split())[:100]
        raise InputError(f"{path}: line {number} is not JSON ({why}); {_HINT}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: line {number} is a JSON {_word(found)}; {_HINT}")
    return found


def _list_of_objects(path: str) -> list[dict[str, Any]]:
    if storage.size(path) > _MOST_LIST_BYTES:
        raise InputError(f"{path} is one JSON list of more than {_MOST_LIST_BYTES >> 30} GiB; write it as JSON lines (.jsonl)")
    with storage.remote_errors(path), open_text(path) as file:
        data = file.read()
    try:
        found = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:100]
        raise InputError(f"{path} is not JSON ({why}); {_HINT}, or a list of objects") from None
    for number, row in enumerate(found):
        if not isinstance(row, dict):
            raise InputError(f"{path}: entry {number} of the list is a JSON {_word(row)}; expected objects")
    return list(found)


def _word(value: object) -> str:
    words = {list: "list", str: "text", bool: "truth value", int: "number", float: "number", type(None): "null"}
    return words.get(type(value), type(value).__name__)
