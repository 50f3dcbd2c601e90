"""The public heads and towers on this machine: which are here and whole, copies for another machine, and their removal."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from beholder.errors import HeadError, OutputError
from beholder.io import locations, storage, writing
from beholder.io import records as json_records
from beholder.models import catalog, download, towers
from beholder.models.backbones import SHAPES
from beholder.models.catalog import HEADS, TOWERS, HeadEntry, TowerEntry
from beholder.models.head_layouts import read_head_file
from beholder.models.head_record import record_path, write_record
from beholder.models.heads import Head, kept_conversion, load_head, save_head
from beholder.models.published import published_shares
from beholder.models.tower_layouts import open_tower_file
from beholder.models.towers import check_file, fetch_tower, inspect_tower, local_file

MANIFEST_FILE = "manifest.json"
MANIFEST_FORMAT = "beholder-models"

Entry = HeadEntry | TowerEntry
State = Literal["ok", "converted", "missing", "wrong"]


@dataclass(frozen=True)
class ModelState:
    """What is on this machine of one head or tower.

    Attributes:
        name: its name in the catalogue.
        state: "ok": the published file, checked; "converted": only beholder's conversion of it, checked; "missing"; "wrong".
        path: the file that was looked at; None when missing.
        message: what is wrong, or empty.
    """

    name: str
    state: State
    path: str | None = None
    message: str = ""


def entries_named(names: Iterable[str]) -> list[Entry]:
    """The entries of these names or aliases, heads first; for no names, all heads with a known file.

    Raises HeadError for unknown names, with near misses, and for refused heads.
    """
    found: list[Entry] = []
    for name in names:
        refused = catalog.find_refused(name)
        if refused is not None:
            raise HeadError(f"{refused.name} is refused: {refused.reason}")
        entry = catalog.find(name) or tower_named(name)
        if entry is None:
            near, near_towers = catalog.suggestions(name), catalog.tower_suggestions(name)
            no_tower = ", and no such tower" if near_towers and not near else ""
            raise HeadError(f"there is no head named {name}{no_tower}; {catalog.did_you_mean(near or near_towers)}")
        if entry not in found:
            found.append(entry)
    return sorted(found or HEADS, key=lambda entry: isinstance(entry, TowerEntry))


def tower_named(name: str) -> TowerEntry | None:
    """The tower of this name, None for what is no tower's; of several files, one that is here, else the first."""
    if catalog.find(name) is not None or catalog.find_refused(name) is not None:
        return None
    found = catalog.find_towers(name)
    return next((entry for entry in found if local_file(entry) is not None), found[0] if found else None)


def towers_meant(name: str) -> list[TowerEntry]:
    """The file that a name stands for, or all files of the backbone it names."""
    exact = catalog.tower_file_named(name)
    return [exact] if exact is not None else list(catalog.find_towers(name))


def towers_here() -> list[TowerEntry]:
    """Towers of the catalogue with a file on this machine."""
    return [entry for entry in TOWERS if local_file(entry) is not None]


def is_here(entry: Entry) -> bool:
    """Whether it can be loaded without a network; its file is not checked here."""
    return _local_copy(entry)[0] is not None


def _local_copy(entry: Entry) -> tuple[Path | None, bool]:
    """The file of a head or tower on this machine, not yet checked, and whether it is one of beholder's own making."""
    if isinstance(entry, TowerEntry):
        path = local_file(entry)
        return path, path is not None and towers.kept_tower(path) is not None
    path = download.locate(entry) if entry.sha256 is not None else None
    return (path, False) if path is not None else (kept_conversion(entry), True)


def fetch(entry: Entry, *, offline: bool | None = None) -> Path | None:
    """Fetch, check and open a head or tower, so that later loads need no network. Returns its file.

    Where a tower's file cannot be had, another one with the same weights is taken, with a warning.
    """
    if isinstance(entry, TowerEntry):
        return inspect_tower(entry.name, offline=offline).path
    path = download.fetch_entry(entry, offline=offline) if entry.sha256 is not None else None
    load_head(entry.name, offline=offline)
    return path or kept_conversion(entry)


def check(entry: Entry) -> ModelState:
    """Hash the file on this machine again and read all its tensors. Nothing is fetched, removed or repaired."""
    path, is_converted = _local_copy(entry)
    if path is None:
        return ModelState(entry.name, "missing")
    try:
        if isinstance(entry, TowerEntry):
            check_file(path, entry, again=True)
            file = open_tower_file(path, known_as=entry.name)
            file.tensors()
            if file.shape != SHAPES[entry.backbone]:
                raise HeadError(f"{path} is not {entry.backbone}: its sizes are {file.shape}")
        else:
            if not is_converted:
                download.verify(path, entry, again=True)
            read_head_file(path)
    except HeadError as error:
        return ModelState(entry.name, "wrong", str(path), str(error))
    return ModelState(entry.name, "converted" if is_converted else "ok", str(path))


def remove(entry: Entry) -> list[Path]:
    """Delete beholder's and the hub's cached copies; files in $BEHOLDER_MODELS are yours and stay. Returns what is gone."""
    converted = download.kept_path("towers", entry.sources[0]) if isinstance(entry, TowerEntry) else kept_conversion(entry)
    places = [download.cached_path(entry), converted]
    places += [download.cached(source) for source in entry.sources if source.repo]
    removed = [path for path in dict.fromkeys(places) if path is not None and path.is_file()]
    for path in removed:
        download.forget(path)
    return removed


def entry_record(entry: Entry) -> dict[str, Any]:
    """An entry as a JSON-ready record, with whether it is here; of a head LAION's published shares, of a tower its sizes."""
    record, here = asdict(entry) | {"sources": [source.url for source in entry.sources]}, is_here(entry)
    if isinstance(entry, TowerEntry):
        return record | {"shape": asdict(SHAPES[entry.backbone]), "dim": entry.dim, "here": here}
    shares = {str(threshold): share for threshold, share in published_shares(entry.name).items()}
    return record | {"here": here, "published_share_at_least": shares}


def add_own(head: Head, name: str, *, record: Mapping[str, Any] | None = None, overwrite: bool = False) -> Path:
    """Keep a head of one's own under a name, by which it is known from then on, with the record of its training; where.

    Raises HeadError for a name that is another model's or cannot be one, OutputError for one that is given already.
    """
    if own_name(replace(head, name=name)) != name:
        raise HeadError(f"{name!r} cannot be a name: use letters, digits, and . _ + - inside")
    if catalog.find(name) is not None or catalog.find_refused(name) is not None or tower_named(name) is not None:
        raise HeadError(f"{name} is the name of a published model; choose another")
    path = download.own_heads_folder() / f"{name}.safetensors"
    if path.exists() and not overwrite:
        raise OutputError(f"there is a head {name} already ({path}); use --overwrite to replace it, or another --name")
    path.parent.mkdir(parents=True, exist_ok=True)
    named = replace(head, name=name)
    digest = save_head(named, path)
    Path(record_path(str(path))).unlink(missing_ok=True)
    if record is not None:
        write_record(record, named, str(path), digest)
    return path


def own_heads() -> list[Path]:
    """The files of all heads that `add_own` keeps."""
    return sorted(download.own_heads_folder().glob("*.safetensors"))


def remove_own(name: str) -> Path | None:
    """Delete a head that `add_own` keeps, and its record; the head's file that is gone, None where none has this name."""
    path = download.own_heads_folder() / f"{name}.safetensors"
    if "/" in name or not path.is_file():
        return None
    path.unlink()
    Path(record_path(str(path))).unlink(missing_ok=True)
    return path


def own_name(head: Head) -> str:
    """The name of a head of one's own as the name of a file: what a file's name may not hold becomes "-"."""
    return re.sub(r"[^\w.+-]+", "-", head.name).strip(".-") or "head"


def export(
    folder: str,
    entries: Sequence[Entry],
    *,
    own: Sequence[tuple[Head, Mapping[str, Any] | None]] = (),
    offline: bool | None = None,
) -> dict[str, Any]:
    """Copy verified files and a manifest into `folder`, for `BEHOLDER_MODELS=folder` on a machine without a network.

    What is not here is downloaded first; files of an earlier export are replaced, somebody else's are not. Heads of one's own
    are written in beholder's format as `<name>.safetensors`, with the record of their training where they have one; that name
    is what `load_head` knows them by.
    Returns the manifest. Raises HeadError and OutputError.
    """
    for entry in entries:
        if isinstance(entry, HeadEntry) and entry.sha256 is None:
            raise HeadError(
                f"{entry.name} cannot be exported: its sha256 is not known; export {entry.twin}, the original, instead"
            )
    own_files = {f"{own_name(head)}.safetensors": (head, record) for head, record in own}
    if len(own_files) < len(own):
        raise HeadError(
            "two heads to export have the same name; give one another with: beholder models save FILE OUT --name NAME"
        )
    place = folder.rstrip("/")
    with_records = [record_path(file) for file, (_, record) in own_files.items() if record is not None]
    _check_target(place, entries, [*own_files, *with_records])
    records: list[dict[str, Any]] = []
    if not storage.exists(f"{place}/{MANIFEST_FILE}"):
        _write_manifest(place, records)  # so that files of an export that breaks off are known as ours
    records += [_exported(place, entry, offline) for entry in entries if isinstance(entry, HeadEntry)]
    for file, (head, record) in own_files.items():
        digest, size = save_head(head, f"{place}/{file}"), storage.size(f"{place}/{file}")
        if record is not None:
            write_record(record, head, f"{place}/{file}", digest)
        records.append(_manifest_record(own_name(head), file, digest, size, head.licence, head.backbone, head.source))
    records += [_exported(place, entry, offline) for entry in entries if isinstance(entry, TowerEntry)]
    return _write_manifest(place, records)


def _exported(folder: str, entry: Entry, offline: bool | None) -> dict[str, Any]:
    """Copy the checked file of a head or tower; its record in the manifest."""
    is_kept = False
    if isinstance(entry, TowerEntry):
        source = fetch_tower(entry, offline=offline)
        is_kept = towers.kept_tower(source) is not None
        if entry.is_partial and not is_kept and source.suffix != ".safetensors":
            raise HeadError(
                f"{entry.name} cannot be exported from {source}: its sha256 is not known; export another tower file"
            )
    else:
        source = download.fetch_entry(entry, offline=offline)
    with writing.write_whole(f"{folder}/{entry.files[0]}") as temporary:
        shutil.copyfile(source, temporary)
        digest = storage.sha256_of(temporary)
        if not is_kept and entry.sha256 is not None and digest != entry.sha256:
            raise HeadError(f"{source} changed while it was copied; run the same command again")
    record = _manifest_record(
        entry.name, entry.files[0], digest, source.stat().st_size, entry.licence, entry.backbone, entry.sources[0].url
    )
    return record | ({"sha256_of": "file"} if isinstance(entry, TowerEntry) else {})


def _manifest_record(
    name: str, file: str, sha256: str, num_bytes: int, licence: str | None, backbone: str | None, source: str | None
) -> dict[str, Any]:
    return {
        "name": name, "file": file, "sha256": sha256, "num_bytes": num_bytes, "licence": licence, "backbone": backbone,
        "source": source,
    }  # fmt: skip


def _write_manifest(folder: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    manifest = {"format": MANIFEST_FORMAT, "version": 1, "files": records}
    writing.write_bytes(f"{folder}/{MANIFEST_FILE}", (json.dumps(manifest, indent=2) + "\n").encode())
    return manifest


def _check_target(folder: str, entries: Sequence[Entry], own: Sequence[str]) -> None:
    """Raise OutputError when somebody else's manifest, or another file of an entry's name, would be replaced."""
    manifest = f"{folder}/{MANIFEST_FILE}"
    if storage.exists(manifest):
        try:
            if json_records.read(manifest).get("format") == MANIFEST_FORMAT:
                return
        except json_records.DamagedRecordError:
            pass
        raise OutputError(f"{manifest} is in the way of the manifest and is not ours; move it, or choose another folder")
    for entry in entries:
        place = f"{folder}/{entry.files[0]}"
        is_same = locations.is_local(place) and storage.exists(place)
        is_same = is_same and storage.sha256_of(locations.local_path(place)) == entry.sha256
        if storage.exists(place) and not is_same:
            raise OutputError(f"{place} is in the way of {entry.name} and is another file; move it, or choose another folder")
    for file in own:
        if storage.exists(f"{folder}/{file}"):
            raise OutputError(f"{folder}/{file} is there already and no export of ours; move it, or choose another folder")
