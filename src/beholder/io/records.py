"""JSON records with a checksum of their own contents: read back whole, or refused for one stated reason.

A record's checksum stands in its last field, `sha256`: that of the record as JSON without that field, its keys sorted, without
blanks, ASCII only. So it survives being formatted anew, and no other change.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from beholder.io import storage

CHECKSUM = "sha256"
_MOST_BYTES = 64 << 20
"""Largest record that is read; those of the largest runs have a few megabytes."""
_ENDING = re.compile(rb',"sha256":"([0-9a-f]{64})"\}\n\Z')
"""How `sealed` ends a record that is not indented."""
_ENDING_BYTES = 80
_OURS = re.compile(rb'"format"\s*:\s*"beholder-')


class DamagedRecordError(ValueError):
    """A record that cannot be believed; its text is a reason that fits after "is damaged: "."""


def sealed(record: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    """The record as a JSON text that ends in its checksum. `record`: JSON-ready, without a field `sha256`."""
    plain = json.loads(json.dumps(record))
    if indent is None:
        return _canonical(plain)[:-1] + (b"," if plain else b"") + f'"{CHECKSUM}":"{_checksum(plain)}"}}\n'.encode()
    return json.dumps({**plain, CHECKSUM: _checksum(plain)}, indent=indent).encode() + b"\n"


def json_value(data: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError, and nothing else, for no JSON, and for nesting and numbers without end."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse(data: bytes, *, is_sealed: bool = False) -> dict[str, Any]:
    """The record in a JSON text, without its checksum; one without (of an older version, or somebody else's) is taken as it is.

    Raises DamagedRecordError: no JSON, no object, nested without end, a checksum that does not fit, or, with `is_sealed`, none.
    """
    if len(data) > _MOST_BYTES:
        raise DamagedRecordError(f"it has {len(data):,} bytes, which no record has")
    try:
        found = json_object(json.loads(data), "it is")
        wanted = found.pop(CHECKSUM, None)
        if wanted is None and is_sealed:
            raise DamagedRecordError("it has no checksum (sha256)")
        if wanted is not None and not (_is_as_written(data, wanted) or _checksum(found) == wanted):
            raise DamagedRecordError("its checksum (sha256) does not fit its contents")
    except RecursionError:
        raise DamagedRecordError("it is nested too deeply") from None
    except DamagedRecordError:
        raise
    except ValueError as error:  # text that is not UTF-8, and numbers of thousands of digits, too
        raise DamagedRecordError(f"it is no JSON ({' '.join(str(error).split())[:100]})") from None
    return found


def _is_as_written(data: bytes, wanted: Any) -> bool:
    """Whether a text is to the byte what `sealed` makes without indentation; spares making JSON of the record again."""
    ending = _ENDING.search(data, max(0, len(data) - _ENDING_BYTES))
    return ending is not None and hashlib.sha256(data[: ending.start()] + b"}").hexdigest() == wanted


def _checksum(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(record)).hexdigest()


def read(path: str) -> dict[str, Any]:
    """The record in a file, local or remote. Raises DamagedRecordError, and InputError when it cannot be read."""
    num_bytes = storage.size(path)
    if num_bytes > _MOST_BYTES:
        raise DamagedRecordError(f"it has {num_bytes:,} bytes, which no record has")
    return parse(storage.read_range(path, 0, num_bytes))


def looks_ours(data: bytes) -> bool:
    """Whether a text, damaged or not, says that it is a record of this program."""
    return _OURS.search(data) is not None


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def finite(value: float | None) -> float | None:
    """The number, or None: JSON has no NaN, and no infinity."""
    return value if value is not None and math.isfinite(value) else None


def json_object(value: Any, what: str) -> dict[str, Any]:
    """An object from a record. Raises DamagedRecordError for anything else; `what`: "files are", for its text."""
    if not isinstance(value, dict):
        raise DamagedRecordError(f"{what} no JSON object")
    found: dict[str, Any] = value
    return found


def whole_number(value: Any, what: str) -> int:
    """A count from a record. Raises DamagedRecordError for anything but a whole number from 0 to 2**63 - 1."""
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise DamagedRecordError(f"{what} is no count")
    return value
