"""Heads by name, path, URL or hub id, and files of heads in beholder's own format.

A name goes from the catalogue to a checked local file, to its layers, to a `Head`. Of a CLIP model with a head in it only the
head is read. What takes torch, or a large file, to read is kept converted, so that the next load takes neither.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from beholder.errors import BeholderError, HeadError
from beholder.io import storage
from beholder.models import catalog, download
from beholder.models.backbones import find_backbone, known_backbone
from beholder.models.catalog import DEFAULT_HEAD, HeadEntry, Source
from beholder.models.checkpoints import TensorFile, look_at, open_tensors
from beholder.models.head import Head, checked_backbone, math_of
from beholder.models.head_layouts import (
    HEAD_FORMAT,
    LINEAR,
    MAX_PICKLE_BYTES,
    NOT_SAID,
    PLAIN,
    Activation,
    HeadFile,
    HeadUsage,
    InputScale,
    is_bundle,
    pack_head,
    read_array_head,
    read_head_file,
    read_tensor_head,
)

__all__ = ["Head", "kept_conversion", "load_head", "save_head"]

_logger = logging.getLogger(__name__)
_FILE_ENDINGS = (
    ".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".npy", ".npz", ".joblib", ".pkl", ".pickle", ".csv", ".json", ".h5",
)  # fmt: skip
_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_RULES = "2"
"""Of telling a head's layout. A conversion kept under other ones is made anew: they may have told another."""
_MAX_WHOLE_BYTES = 64 << 20
"""Hub files up to this size are fetched whole; of larger ones (a CLIP tower with a head) only the head is read."""


def load_head(
    spec: str | os.PathLike[str] = DEFAULT_HEAD,
    *,
    backbone: str | None = None,
    offline: bool | None = None,
    activation: Activation | None = None,
    input_scale: InputScale | None = None,
) -> Head:
    """Load a head.

    Args:
        spec: a catalogue name, alias or file name (`beholder models list`); a local path; a URL (https, s3, ...); or a hub
            id "org/repo[@revision]" with a `model.safetensors`. A file is in a published layout, or one's own: linear layers
            as torch, scikit-learn or numpy save them (docs/heads.md).
        backbone: the tower that made your embeddings, by any tool's name; a head for another one is refused.
        offline: True asks no network; None asks the environment (BEHOLDER_OFFLINE, and HF_HUB_OFFLINE for published heads).
        activation: what stands between linear layers whose file does not tell it: "relu", or "none" (nothing, Dropout,
            Identity). Without it such a file is refused.
        input_scale: what a head whose file does not tell it multiplies an embedding of length 1 with first: a positive
            number, or "sqrt-dim".

    Returns:
        The head. Its file is known by its sha256, whatever its name; a file of a public head is checked before use.

    Raises:
        HeadError: unknown, unreachable, damaged, unsafe, not the published file, or for another tower; one line.
    """
    head = _found(spec, offline, HeadUsage(activation=activation, input_scale=input_scale))
    wanted = find_backbone(backbone) if backbone else None
    if wanted is not None and wanted.dim != head.dim:
        raise HeadError(f"{head.name} scores embeddings of length {head.dim}, and {wanted.id} gives {wanted.dim}")
    return dataclasses.replace(head, backbone=checked_backbone(head.name, head.backbone, backbone))


def save_head(head: Head, path: str | os.PathLike[str]) -> str:
    """Write a head in beholder's own safetensors format, whole or not at all; loading it gives the same float64 weights.

    `path` is a local path or a URL (s3, ...). Returns the sha256 of the file. Raises OutputError.
    """
    data = _packed(head, {})
    with storage.write_whole(os.fspath(path)) as temporary:
        temporary.write_bytes(data)
        return storage.sha256_of(temporary)


def kept_conversion(entry: HeadEntry) -> Path | None:
    """Where beholder keeps its conversion of a public head, with which no network is needed; None if it has none."""
    path = _converted_path(entry.sha256) if entry.sha256 is not None else _kept_path(entry.sources[0])
    return path if path.is_file() else None


def _found(spec: str | os.PathLike[str], offline: bool | None, said: HeadUsage) -> Head:
    if not isinstance(spec, str):
        return _from_file(Path(spec), said)
    if not storage.is_local(spec):
        return _from_url(spec, offline, said)
    path = storage.local_path(spec)
    is_path = storage.has_local_scheme(spec) or spec.startswith(("~", ".", "/")) or spec.casefold().endswith(_FILE_ENDINGS)
    if is_path and path.exists():
        return _from_file(path, said)
    entry, refused = catalog.find(spec), catalog.find_refused(spec)
    if entry is not None:
        return _from_catalog(entry, offline, said)
    if refused is not None:
        raise HeadError(f"{refused.name} is refused: {refused.reason}")
    own = path if path.is_file() else download.locate_own(spec)
    if own is not None:
        return _from_file(own, said)
    hub_id = _HUB_ID.fullmatch(spec)
    if hub_id is not None and not is_path:
        source = Source(repo=hub_id["repo"], file="model.safetensors", revision=hub_id["revision"] or "main")
        named = catalog.find(source.repo)
        return _from_hub(source, offline, said, named if named is not None and named.twin else None)
    hint = catalog.did_you_mean(catalog.suggestions(spec))
    raise HeadError(f"there is no head {spec}: it is no known name, and no file is there; {hint}")


def _from_catalog(entry: HeadEntry, offline: bool | None, said: HeadUsage) -> Head:
    if entry.sha256 is None:
        return _from_hub(entry.sources[0], offline, said, entry)
    kept = _converted(entry.sha256) if said == NOT_SAID else None
    if kept is not None:
        return _built(kept, entry.name, entry.sha256, entry.sources[0].url)
    return _from_file(download.fetch_entry(entry, offline=offline), said, known_as=entry.sha256)


def _from_file(path: Path, said: HeadUsage, *, known_as: str | None = None, source: str | None = None) -> Head:
    """Load a local file. `known_as` is its sha256 where that was just checked; `source` where it was fetched from."""
    source = source or str(path)
    if not path.is_file():
        raise HeadError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; give the file of a head")
    kind, start = look_at(path)
    tensors = open_tensors(str(path)) if kind == "safetensors" else None
    if tensors is not None and is_bundle(tensors.shapes):
        return _from_bundle(tensors, path.stem, source, said)
    digest = known_as or download.file_sha256(path)
    refused = catalog.refused_by_sha256(digest)
    if refused is not None:
        raise HeadError(f"{path} is refused: {refused.reason}")
    is_kept_converted = kind not in ("safetensors", "npy", "npz") and said == NOT_SAID
    kept = _converted(digest) if is_kept_converted else None
    if kept is not None:
        file = kept
    else:
        file = read_tensor_head(tensors, said) if tensors is not None else read_array_head(path, kind, start, said)
    is_scale_known = file.layout not in (LINEAR, PLAIN) or said.input_scale is not None
    head = _built(file, path.stem, digest, source, is_scale_known=is_scale_known)
    if is_kept_converted and kept is None:
        _keep(_converted_path(digest), head, rules=_RULES)
    return head


def _from_url(url: str, offline: bool | None, said: HeadUsage) -> Head:
    """Load by URL; of a safetensors file with a whole tower only the head is fetched."""
    source = download.public_part(url)
    file_name = urlsplit(url).path.rsplit("/", 1)[-1]
    if file_name.endswith(".safetensors") and not download.is_offline(offline):
        opened = open_tensors(url)
        if is_bundle(opened.shapes):
            return _from_bundle(opened, file_name.removesuffix(".safetensors"), source, said)
    return _from_file(download.download_url(url, MAX_PICKLE_BYTES, offline=offline), said, source=source)


def _from_hub(source: Source, offline: bool | None, said: HeadUsage, entry: HeadEntry | None = None) -> Head:
    """Load a file of a hub repository: a small one whole, of a large one only the head, which is kept."""
    kept_path = _kept_path(source)
    kept = _kept(kept_path)
    found = download.newest_copy(source, kept.metadata.get("etag", "") if kept is not None else None, offline)
    if found is None and kept is not None:
        return _restored(kept)
    if isinstance(found, download.PublishedVersion):
        if found.num_bytes is None or found.num_bytes > _MAX_WHOLE_BYTES:
            opened = open_tensors(download.file_url(source, found.commit))
            head = _named(_from_bundle(opened, source.repo, source.url, said), source.repo, entry)
            _keep(kept_path, head, etag=found.etag)
            return head
        found = download.from_hub(source)
    assert found is not None
    return _named(_from_file(found, said, source=source.url), source.repo, entry)


def _kept_path(source: Source) -> Path:
    name = f"hub--{source.repo}@{source.revision}".replace("/", "--")
    return storage.cache_folder() / "heads" / f"{name}.safetensors"


def _from_bundle(opened: TensorFile, name: str, source: str, said: HeadUsage) -> Head:
    """The head inside a CLIP model. The file is never read whole, so it is known by the sha256 of the head's weights."""
    file = read_tensor_head(opened, said)
    return dataclasses.replace(_built(file, name, file.tensors_sha256, source), sha256_of="weights")


def _built(file: HeadFile, name: str, digest: str, source: str, *, is_scale_known: bool = True) -> Head:
    """Join what a file holds with what the catalogue knows about its sha256, or what its own metadata says."""
    entry = catalog.by_sha256(digest)
    texts = file.metadata
    converted_from = texts.get("source_sha256") or None
    return Head(
        name=entry.name if entry else texts.get("name") or name,
        math=math_of(file),
        sha256=digest,
        backbone=known_backbone(entry.backbone if entry else file.backbone),
        licence=entry.licence if entry else texts.get("licence") or None,
        source=entry.sources[0].url if entry else texts.get("source") or source,
        source_sha256=converted_from if converted_from != digest else None,
        scale_note=entry.scale_note if entry else texts.get("scale_note", ""),
        layout=texts.get("layout", file.layout),
        notes=_notes(texts),
        is_scale_known=entry is not None or is_scale_known,
    )


def _named(head: Head, name: str, entry: HeadEntry | None) -> Head:
    """What the catalogue knows about a repackaged head, where its own file does not say."""
    if entry is None:
        return dataclasses.replace(head, name=name)
    return dataclasses.replace(
        head, name=entry.name, licence=entry.licence, scale_note=entry.scale_note, backbone=head.backbone or entry.backbone,
        is_scale_known=True,
    )  # fmt: skip


def _notes(texts: Mapping[str, str]) -> dict[str, str]:
    try:
        found = json.loads(texts.get("notes", "{}"))
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _packed(head: Head, extra: Mapping[str, str]) -> bytes:
    texts = {
        "name": head.name,
        "backbone": head.backbone or "",
        "licence": head.licence or "",
        "source": head.source or "",
        "source_sha256": head.source_sha256 or head.sha256,
        "sha256_of": head.sha256_of,
        "scale_note": head.scale_note,
        "layout": head.layout,
        "notes": json.dumps(dict(head.notes), sort_keys=True),
    }
    activation: Activation = "none" if head.is_affine else "relu"
    return pack_head(HeadFile(head.layers, activation, 1.0, HEAD_FORMAT, head.backbone, {**texts, **extra}))


def _converted_path(digest: str) -> Path:
    return storage.cache_folder() / "heads" / f"{digest}.safetensors"


def _converted(digest: str) -> HeadFile | None:
    """The kept conversion of the pickled file with this sha256, without the names it had then, or None."""
    kept = _kept(_converted_path(digest))
    if kept is None or kept.metadata.get("source_sha256") != digest:
        return None
    if kept.metadata.get("rules") != _RULES and catalog.by_sha256(digest) is None:
        return None
    return dataclasses.replace(kept, layout=kept.metadata["layout"], metadata={})


def _keep(path: Path, head: Head, **extra: str) -> None:
    """Keep a converted head, so that loading it again needs neither torch nor the whole file."""
    try:
        storage.write_bytes(str(path), _packed(head, extra))
    except BeholderError as error:
        _logger.warning("%s; the head works, but will be converted again next time", error)


def _kept(path: Path) -> HeadFile | None:
    """A kept head, or None when there is none or it is damaged (it is then made anew)."""
    if not path.is_file():
        return None
    try:
        kept = read_head_file(path)
    except HeadError as error:
        _logger.warning("%s; it is made anew", error)
        return None
    return kept if kept.layout == HEAD_FORMAT else None


def _restored(kept: HeadFile) -> Head:
    """A head kept from a hub bundle, as it was when it was first read."""
    head = _built(kept, kept.metadata.get("name", ""), kept.metadata.get("source_sha256", ""), "")
    return dataclasses.replace(head, sha256_of=kept.metadata.get("sha256_of", "file"), source_sha256=None)
