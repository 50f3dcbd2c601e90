"""Registry entries in; which of them are on this machine and sound, or a folder of them for another machine, out."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from beholder.errors import HeadError, OutputError
from beholder.io import records as json_records
from beholder.io import storage
from beholder.models import catalog, head_download, hub
from beholder.models.catalog import HeadEntry

if TYPE_CHECKING:
    from beholder.models.catalog import TowerEntry
    from beholder.models.head import Head

MANIFEST_FILE = "manifest.json"
MANIFEST_FORMAT = "beholder-models"

State = Literal["ok", "converted", "missing", "wrong"]


@dataclass(frozen=True)
class HeadState:
    """What is on this machine of one head or tower.

    Attributes:
        name: its registry name.
        state: "ok": the published file, checked; "converted": only beholder's conversion of it, checked; "missing"; "wrong".
        path: the file that was looked at; None when missing.
        message: what is wrong, or empty.
    """

    name: str
    state: State
    path: str | None = None
    message: str = ""


def entries_named(names: Iterable[str]) -> list[HeadEntry]:
    """The entries of these names or aliases; for no names, all heads with a known file. Raises HeadError, with near misses."""
    found: list[HeadEntry] = []
    for name in names:
        entry, refused = catalog.find(name), catalog.find_refused(name)
        if refused is not None:
            raise HeadError(f"{refused.name} is refused: {refused.reason}")
        if entry is None:
            near = catalog.suggestions(name)
            hint = f"did you mean {' or '.join(near)}?" if near else "see: beholder models list"
            raise HeadError(f"there is no head named {name}; {hint}")
        found.append(entry)
    return found or list(catalog.HEADS)


def is_here(entry: HeadEntry) -> bool:
    """Whether the head can be loaded without a network; its file is not checked here."""
    from beholder.models.heads import kept_conversion

    return kept_conversion(entry) is not None or (entry.sha256 is not None and head_download.locate(entry) is not None)


def check(entry: HeadEntry) -> HeadState:
    """Hash the file on this machine again and load it. Nothing is fetched, removed or repaired."""
    from beholder.models.head_checkpoint import read_head_file
    from beholder.models.heads import kept_conversion

    path = head_download.locate(entry) if entry.sha256 is not None else None
    state: State = "ok"
    if path is None:
        path, state = kept_conversion(entry), "converted"
    if path is None:
        return HeadState(entry.name, "missing")
    try:
        if state == "ok":
            head_download.verify(path, entry, again=True)
        read_head_file(path)
    except HeadError as error:
        return HeadState(entry.name, "wrong", str(path), str(error))
    return HeadState(entry.name, state, str(path))


def export(
    folder: str,
    entries: Sequence[HeadEntry],
    *,
    towers: Sequence[TowerEntry] = (),
    own: Sequence[Head] = (),
    offline: bool | None = None,
) -> dict[str, Any]:
    """Copy verified files and a manifest into `folder`, for `BEHOLDER_MODELS=folder` on a machine without a network.

    Heads and towers that are not here are downloaded first; files of an earlier export are replaced, somebody else's are not.
    Heads of one's own are written in beholder's format as `<name>.safetensors`; that name is what `load_head` knows them by.
    Returns the manifest. Raises HeadError and OutputError.
    """
    from beholder.models.heads import save_head

    for entry in entries:
        if entry.sha256 is None:
            raise HeadError(
                f"{entry.name} cannot be exported: its sha256 is not known; export {entry.twin}, the original, instead"
            )
    own_files = {f"{own_name(head)}.safetensors": head for head in own}
    if len(own_files) < len(own):
        raise HeadError(
            "two heads to export have the same name; give one another with: beholder models save FILE OUT --name NAME"
        )
    _check_target(folder.rstrip("/"), [*entries, *towers], list(own_files))
    records: list[dict[str, Any]] = []
    if not storage.exists(f"{folder.rstrip('/')}/{MANIFEST_FILE}"):
        _write_manifest(folder, records)  # so that files of an export that breaks off are known as ours
    for entry in entries:
        source = head_download.fetch_entry(entry, offline=offline)
        with storage.write_whole(f"{folder.rstrip('/')}/{entry.files[0]}") as temporary:
            shutil.copyfile(source, temporary)
            head_download.verify(temporary, entry)
        records.append(
            {
                "name": entry.name,
                "file": entry.files[0],
                "sha256": entry.sha256,
                "num_bytes": entry.num_bytes,
                "licence": entry.licence,
                "backbone": entry.backbone,
                "source": entry.sources[0].url,
            }
        )
    for file, head in own_files.items():
        place = f"{folder.rstrip('/')}/{file}"
        digest = save_head(head, place)
        records.append(
            {
                "name": own_name(head),
                "file": file,
                "sha256": digest,
                "num_bytes": storage.size(place),
                "licence": head.licence,
                "backbone": head.backbone,
                "source": head.source,
            }
        )
    if towers:
        from beholder.models.tower_store import export_towers

        records += export_towers(folder, towers, offline=offline)
    return _write_manifest(folder, records)


def _write_manifest(folder: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    manifest = {"format": MANIFEST_FORMAT, "version": 1, "files": records}
    storage.write_bytes(f"{folder.rstrip('/')}/{MANIFEST_FILE}", (json.dumps(manifest, indent=2) + "\n").encode())
    return manifest


def save_anew(head: Head, path: str) -> str:
    """Write a head in beholder's own format where nothing is yet; its sha256. Raises OutputError."""
    from beholder.models.heads import save_head

    if not path.endswith(".safetensors"):
        raise OutputError(f"{path}: a head is written as .safetensors; name such a file")
    if storage.exists(path):
        raise OutputError(f"{path} is there already; remove it, or choose another name")
    return save_head(head, path)


def own_name(head: Head) -> str:
    """The name of a head of one's own as the name of a file: what a file's name may not hold becomes "-"."""
    return re.sub(r"[^\w.+-]+", "-", head.name).strip(".-") or "head"


def _check_target(folder: str, entries: Sequence[HeadEntry | TowerEntry], own: Sequence[str] = ()) -> None:
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
        if storage.exists(place) and not (
            storage.is_local(place) and storage.sha256_of(storage.local_path(place)) == entry.sha256
        ):
            raise OutputError(f"{place} is in the way of {entry.name} and is another file; move it, or choose another folder")
    for file in own:
        if storage.exists(f"{folder}/{file}"):
            raise OutputError(f"{folder}/{file} is there already and no export of ours; move it, or choose another folder")


def download(entry: HeadEntry, *, offline: bool | None = None) -> Path | None:
    """Fetch, check and load a head, so that later loads need no network. Returns its file; None for a kept bundle head."""
    from beholder.models.heads import kept_conversion, load_head

    path = head_download.fetch_entry(entry, offline=offline) if entry.sha256 is not None else None
    load_head(entry.name, offline=offline)
    return path or kept_conversion(entry)


def remove(entry: HeadEntry) -> list[Path]:
    """Delete beholder's and the hub's cached copies of a head; files in $BEHOLDER_MODELS are yours and stay. Returns them."""
    from beholder.models.heads import kept_conversion

    places = [head_download.cached_path(entry), kept_conversion(entry)]
    places += [hub.cached(source) for source in entry.sources if source.repo]
    removed = [path for path in dict.fromkeys(places) if path is not None and path.is_file()]
    for path in removed:
        hub.forget(path)
    return removed


def entry_record(entry: HeadEntry) -> dict[str, Any]:
    """An entry as a JSON-ready record, with whether it is on this machine and LAION's published shares."""
    from beholder.models.published import published_shares

    record = asdict(entry)
    record["sources"] = [source.url for source in entry.sources]
    record["here"] = is_here(entry)
    record["published_share_at_least"] = {str(key): share for key, share in published_shares(entry.name).items()}
    return record
