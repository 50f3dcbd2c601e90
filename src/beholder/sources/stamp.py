"""Records of ours beside files: the stamps that say how embeddings were made, and results of earlier runs among sources."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from beholder.columns import (
    DONE_FOLDER,
    EARLIER_FOLDER,
    EMBEDDINGS_FOLDER,
    EMBEDDINGS_FORMAT,
    INPUTS_FOLDER,
    REJECTS_FOLDER,
    REJECTS_SUFFIX,
    SCORE_SET_FORMAT,
    SIDECAR_SUFFIX,
    STAMP_FILE,
)
from beholder.errors import InputError
from beholder.io import locations, records, storage
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
    if locations.is_web(part.path):
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
    """The stamp of each part; None for those without. Each file of up to 64 local ones may have its own."""
    known: dict[str, Stamp | None] = {}
    found = []
    for part in parts:
        own, place = part.path + SIDECAR_SUFFIX, part.path.rsplit("/", 1)[0] if "/" in part.path else "."
        if len(parts) <= 64 and locations.is_local(part.path) and storage.exists(own):
            place = own
        if place not in known:
            known[place] = find_stamp(part)
        found.append(known[place])
    return found


def is_result_folder(folder: str) -> bool:
    """Whether a folder holds results of an earlier run: a `beholder.json` that says so."""
    if not locations.is_local(folder):
        stamp = f"{folder}/{STAMP_FILE}"
        return storage.exists(stamp) and is_result_record(storage.read_range(stamp, 0, storage.size(stamp)))
    try:
        with open(os.path.join(folder, STAMP_FILE), "rb") as file:  # noqa: PTH118, PTH123 (names that are not UTF-8)
            return is_result_record(file.read(1 << 24))
    except OSError:
        return False


def is_result_file(path: str) -> bool:
    """Whether a file is a result of an earlier run, or the rejects beside one: a record stands beside it."""
    result = path.removesuffix(REJECTS_SUFFIX)
    return storage.exists(result + SIDECAR_SUFFIX)


def is_result_record(data: bytes) -> bool:
    """Whether a `beholder.json` is that of a result."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return b'"format": "beholder-' in data  # damaged, and still no folder of pictures
    return isinstance(record, dict) and str(record.get("format", "")).startswith("beholder")


def refuse_scores(source: str, files: list[str]) -> None:
    """Raise InputError for a folder in which scores of runs are all there is; it says where the kept embeddings are."""
    runs = [
        path.rpartition("/")[0] for path in files if path.endswith(f"/{STAMP_FILE}") and _format_of(path) == SCORE_SET_FORMAT
    ]
    kept = [f"{run}/{EMBEDDINGS_FOLDER}" for run in runs if f"{run}/{EMBEDDINGS_FOLDER}/{STAMP_FILE}" in files]
    if kept:
        others = f" (and {len(kept) - 1:,} more)" if len(kept) > 1 else ""
        raise InputError(f"{source} holds scores; the embeddings that were kept are in {kept[0]}{others}: score those")
    if runs:
        raise InputError(f"{source} holds scores and no embeddings; score its pictures with --keep-embeddings to have them")


def _format_of(path: str) -> object:
    """The format in a record; None where it is damaged."""
    try:
        return read_stamp(path).record.get("format")
    except InputError:
        return None


def without_results(files: list[str]) -> list[str]:
    """Leave out score sets (of earlier runs, say), folders and single files with their rejects; and rejects of embeddings."""
    folders, singles = [], set()
    for path in files:
        kind = _format_of(path) if path.endswith(STAMP_FILE) else None
        if kind not in (SCORE_SET_FORMAT, EMBEDDINGS_FORMAT):
            continue
        is_scores = kind == SCORE_SET_FORMAT
        if path.rsplit("/", 1)[-1] == STAMP_FILE:
            root = path.removesuffix(STAMP_FILE)
            own = (REJECTS_FOLDER, DONE_FOLDER, INPUTS_FOLDER, EARLIER_FOLDER)
            folders += [root] if is_scores else [f"{root}{folder}/" for folder in own]
        else:
            out = path.removesuffix(SIDECAR_SUFFIX)
            singles |= {out, out + REJECTS_SUFFIX} if is_scores else {out + REJECTS_SUFFIX}
    return [path for path in files if path not in singles and not path.startswith(tuple(folders))]
