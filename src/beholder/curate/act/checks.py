"""Lines of a journal in; the same with checksums, by which changed, missing and swapped lines and a lost end are known, out.

Each line ends with `check`: 16 hex digits of the sha256 of the line before's check and the line's own text up to there. The
first line also has `written`: the bytes of the file that were flushed to the disk, and 8 hex digits of the sha256 of that
number. It is overwritten in place after each flush, and counts as empty for the line's own check. So a file that is shorter has
lost its end, while that of a killed run is at least so long.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

_FIELD, _DIGITS = b',"check":"', 16
_END = b'"}\n'
_CHECK_BYTES = len(_FIELD) + _DIGITS + len(_END)
_WRITTEN = re.compile(rb'"written":"(\d{16}) ([0-9a-f]{8})"')


def with_check(line: dict[str, Any], before: str) -> tuple[bytes, str]:
    """The text of a line, and its checksum. `before`: that of the line before, "" for the first one."""
    text = json.dumps(line, separators=(",", ":")).encode()[:-1]
    check = _sum(before, text)
    return text + _FIELD + check.encode() + _END, check


def checked(line: bytes, before: str) -> str | None:
    """The checksum of a line that follows the one of checksum `before`; None where it is not as it was written there."""
    text, check = line[:-_CHECK_BYTES], line[-_CHECK_BYTES:]
    found = _sum(before, text)
    return found if check == _FIELD + found.encode() + _END else None


def written_text(num_bytes: int) -> str:
    """The value of `written`: always of the same length, so that it can be overwritten."""
    number = f"{num_bytes:016d}"
    return f"{number} {hashlib.sha256(number.encode()).hexdigest()[:8]}"


def place_of_written(header: bytes) -> int:
    """Where in the first line the value of `written` begins."""
    found = _WRITTEN.search(header)
    assert found is not None
    return found.start(1)


def written_in(header: bytes) -> int | None:
    """The bytes of the file that were flushed, by its first line; None where that is not as it was written."""
    found = _WRITTEN.search(header)
    if found is None or found[0] != f'"written":"{written_text(int(found[1]))}"'.encode():
        return None
    return int(found[1])


def _sum(before: str, text: bytes) -> str:
    if not before:  # the first line, whose one value changes later
        text = _WRITTEN.sub(b'"written":""', text, count=1)
    return hashlib.sha256(before.encode() + text).hexdigest()[:_DIGITS]
