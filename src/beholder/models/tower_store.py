"""Registry towers in; which of their files are here and sound, copies of them for another machine, or their removal, out."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from beholder.errors import HeadError
from beholder.io import storage
from beholder.models import catalog, head_download, hub, tower_download
from beholder.models.backbones import SHAPES
from beholder.models.catalog import TOWERS, TowerEntry, find_towers, tower_file_named
from beholder.models.head_store import HeadState
from beholder.models.tower_checkpoint import open_tower_file
from beholder.models.towers import check_file, fetch_tower, inspect_tower, local_file


def tower_named(name: str) -> TowerEntry | None:
    """The registry tower of this name, None for what is no tower's; of several files, one that is here, else the first."""
    if catalog.find(name) is not None or catalog.find_refused(name) is not None:
        return None
    found = find_towers(name)
    return next((entry for entry in found if local_file(entry) is not None), found[0] if found else None)


def tower_record(entry: TowerEntry) -> dict[str, Any]:
    """An entry as a JSON-ready record, with its sizes and whether it is on this machine."""
    record = asdict(entry)
    record["sources"] = [source.url for source in entry.sources]
    record["shape"] = asdict(SHAPES[entry.backbone])
    record["dim"] = entry.dim
    record["here"] = local_file(entry) is not None
    return record


def download_tower(entry: TowerEntry, *, offline: bool | None = None) -> Path:
    """Fetch and check a tower and read its header, so that later loads need no network. Returns its file.

    Where the file cannot be had, another one with the same weights is taken, with a warning.
    """
    return inspect_tower(entry.name, offline=offline).path


def check_tower(entry: TowerEntry) -> HeadState:
    """Hash the tower's file on this machine again and read all its tensors. Nothing is fetched, removed or repaired."""
    path = local_file(entry)
    if path is None:
        return HeadState(entry.name, "missing")
    kept = tower_download.kept_tower(path) is not None
    try:
        check_file(path, entry, again=True)
        file = open_tower_file(path, known_as=entry.name)
        file.tensors()
        if file.shape != SHAPES[entry.backbone]:
            raise HeadError(f"{path} is not {entry.backbone}: its sizes are {file.shape}")
    except HeadError as error:
        return HeadState(entry.name, "wrong", str(path), str(error))
    return HeadState(entry.name, "converted" if kept else "ok", str(path))


def towers_here() -> list[TowerEntry]:
    """Registry towers with a file on this machine."""
    return [entry for entry in TOWERS if local_file(entry) is not None]


def export_towers(folder: str, entries: Sequence[TowerEntry], *, offline: bool | None = None) -> list[dict[str, Any]]:
    """Copy checked tower files into `folder`, for `BEHOLDER_MODELS=folder` elsewhere. Returns their manifest records."""
    records: list[dict[str, Any]] = []
    for entry in entries:
        source = fetch_tower(entry, offline=offline)
        is_kept = tower_download.kept_tower(source) is not None
        if entry.is_partial and not is_kept and source.suffix != ".safetensors":
            raise HeadError(
                f"{entry.name} cannot be exported from {source}: its sha256 is not known; export another tower file"
            )
        with storage.write_whole(f"{folder.rstrip('/')}/{entry.files[0]}") as temporary:
            shutil.copyfile(source, temporary)
            digest, digest_of = storage.sha256_of(temporary), "file"
            if not is_kept and entry.sha256 is not None and digest != entry.sha256:
                raise HeadError(f"{source} changed while it was copied; run the same command again")
        records.append(
            {
                "name": entry.name, "file": entry.files[0], "sha256": digest, "sha256_of": digest_of,
                "num_bytes": source.stat().st_size, "licence": entry.licence, "backbone": entry.backbone,
                "source": entry.sources[0].url,
            }
        )  # fmt: skip
    return records


def towers_meant(name: str) -> list[TowerEntry]:
    """The file that a name stands for, or all files of the backbone it names."""
    exact = tower_file_named(name)
    return [exact] if exact is not None else list(find_towers(name))


def remove_tower(entry: TowerEntry) -> list[Path]:
    """Delete beholder's and the hub's cached copies of a tower; files in $BEHOLDER_MODELS are yours and stay. Returns them."""
    places = [head_download.cached_path(entry), tower_download.kept_path(entry.sources[0])]
    places += [path for source in entry.sources if source.repo and (path := hub.cached(source)) is not None]
    removed = [path for path in dict.fromkeys(places) if path.is_file()]
    for path in removed:
        hub.forget(path)
    return removed
