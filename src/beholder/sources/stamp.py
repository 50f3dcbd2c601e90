"""Stamps: what is written beside embeddings about how they were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from beholder.columns import EMBEDDINGS_FOLDER, SIDECAR_SUFFIX, STAMP_FILE
from beholder.errors import InputError
from beholder.io import records, storage
from beholder.sources.reader import Part


@dataclass(frozen=True)
class Stamp:
    """What is written beside embeddings about how they were made.

    Attributes:
        path: where it was read.
        backbone: the model's name as written, or None.
        record: everything in the file.
    """

    path: str
    backbone: str | None
    record: dict[str, Any]


def find_stamp(part: Part) -> Stamp | None:
    """The stamp of a part: `FILE.beholder.json`, or `beholder.json` in its folder, or above img_emb or embeddings."""
    folder = part.path.rsplit("/", 1)[0] if "/" in part.path else "."
    candidates = [part.path + SIDECAR_SUFFIX, f"{folder}/{STAMP_FILE}"]
    if PurePosixPath(folder).name in ("img_emb", "text_emb", EMBEDDINGS_FOLDER):
        above = folder.rsplit("/", 1)[0] if "/" in folder else "."
        candidates.append(f"{above}/{STAMP_FILE}")
    if storage.is_web(part.path):
        candidates = []
    for candidate in candidates:
        if storage.exists(candidate):
            return read_stamp(candidate)
    return None


def read_stamp(path: str) -> Stamp:
    """Read a stamp. Raises InputError when it is not one."""
    try:
        record = records.read(path)
    except records.DamagedRecordError as error:
        raise InputError(f"{path} is not a readable stamp: {error}; restore or remove it") from None
    backbone = record.get("backbone")
    if isinstance(backbone, dict):
        backbone = backbone.get("name")
    return Stamp(path, backbone if isinstance(backbone, str) else None, record)


def find_stamps(parts: Sequence[Part]) -> tuple[list[Stamp], int]:
    """The different stamps of `parts`, and how many parts have none."""
    found = stamps_of(parts)
    stamps = {stamp.path: stamp for stamp in found if stamp is not None}
    return list(stamps.values()), found.count(None)


def stamps_of(parts: Sequence[Part]) -> list[Stamp | None]:
    """The stamp of each part; None for those without."""
    found: list[Stamp | None] = []
    folders: dict[str, Stamp | None] = {}
    for part in parts:
        folder = part.path.rsplit("/", 1)[0] if "/" in part.path else "."
        single = len(parts) <= 64 and storage.is_local(part.path) and storage.exists(part.path + SIDECAR_SUFFIX)
        if single:
            found.append(find_stamp(part))
            continue
        if folder not in folders:
            folders[folder] = find_stamp(part)
        found.append(folders[folder])
    return found
