"""The record beside the file of a head that was trained (`mine.json` beside `mine.safetensors`), and its copies."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from beholder.errors import BeholderError, OutputError
from beholder.io import locations, storage, writing
from beholder.io.records import json_value
from beholder.models import download
from beholder.models.heads import Head

_SUFFIX = ".safetensors"
_MOST_BYTES = 1 << 28


def record_path(head: str) -> str:
    """Where the record of a head's file is."""
    return f"{head.removesuffix(_SUFFIX)}.json"


def record_of(head: str, hashes: Collection[str] = ()) -> dict[str, Any] | None:
    """The record beside a head's file; None where there is none that can be read, or it is of another head.

    Args:
        head: the file's path; of a web address, and of files of other kinds, nothing is asked.
        hashes: sha256 of the head, of which the record has to have one; (): nobody knows them.
    """
    if not head.endswith(_SUFFIX) or locations.is_web(head):
        return None
    path = record_path(head)
    try:
        if not storage.exists(path) or storage.size(path) > _MOST_BYTES:
            return None
        record = json_value(storage.read_range(path, 0, storage.size(path)))
    except (BeholderError, OSError, ValueError):
        return None
    return record if isinstance(record, dict) and (not hashes or record.get("sha256") in hashes) else None


def record_to_carry(head: Head, name: str) -> dict[str, Any] | None:
    """What is beside the file from which a head was loaded by this name or path; None where nothing is."""
    own = download.own_file(name)
    return record_of(str(own) if own is not None else name, (head.sha256,))


def check_no_record(out: str) -> None:
    """Raise OutputError where a record would be replaced."""
    if storage.exists(record_path(out)):
        raise OutputError(
            f"{record_path(out)} is there already, and the record of the head would be written to it; remove it, or choose "
            "another name"
        )


def write_record(record: Mapping[str, Any], head: Head, out: str, sha256: str) -> None:
    """Write the record of a head beside a copy of it, whose file has this sha256. Raises OutputError."""
    whole = {**record, "name": head.name, "sha256": sha256}
    writing.write_bytes(record_path(out), (json.dumps(whole, indent=2) + "\n").encode())
