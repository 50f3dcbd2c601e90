"""A large local file in, its sha256 out: hashed once, then remembered as long as its size, time and inode stay the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from beholder.errors import BeholderError, HeadError
from beholder.io import storage

REMEMBERED_FROM_BYTES = 32 << 20
"""Smaller files are hashed each time: that takes under 0.1 s."""


def file_sha256(path: Path, *, again: bool = False) -> str:
    """Lower-case hex sha256 of a local file; `again` hashes it whatever is remembered. Raises HeadError."""
    try:
        known = None if again else _known(path)
        if known is not None:
            return known
        found = storage.sha256_of(path)
        remember(path, found)
        return found
    except OSError as error:
        raise HeadError(f"cannot read {path}: {error.strerror or error}") from error


def remember(path: Path, digest: str) -> None:
    """Note the sha256 of a file that was just hashed (or just written); small ones are not worth a note."""
    if path.stat().st_size >= REMEMBERED_FROM_BYTES:
        with contextlib.suppress(BeholderError):  # a cache that cannot be written only costs time
            storage.write_bytes(str(_note(path)), json.dumps({"file": _identity(path), "sha256": digest}).encode())


def _identity(path: Path) -> list[object]:
    seen = path.stat()
    return [str(path.resolve()), seen.st_size, seen.st_mtime_ns, seen.st_ino]


def _note(path: Path) -> Path:
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    return storage.cache_folder() / "digests" / f"{name}.json"


def _known(path: Path) -> str | None:
    if path.stat().st_size < REMEMBERED_FROM_BYTES:
        return None
    try:
        record = json.loads(_note(path).read_text(encoding="utf-8"))
        return str(record["sha256"]) if record["file"] == _identity(path) else None
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
