"""CLIP image towers by name, path, URL or hub id: loaded, or a summary of their file's header.

Which file is taken for a name of the catalogue: the first that is on this machine, else the first that can be fetched, in the
order of `beholder models list`; files with a known sha256 are checked before they are opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.errors import BeholderError, HeadError
from beholder.io import locations, remote, storage, writing
from beholder.libraries.names import TowerName, parse
from beholder.models import download, transfer
from beholder.models.backbones import ACTIVATIONS, SHAPES, TowerActivation, TowerShape, canonical_backbone, same_backbone
from beholder.models.catalog import (
    DEFAULT_TOWER,
    Source,
    TowerEntry,
    backbone_by_sha256,
    did_you_mean,
    find_towers,
    is_plain_gelu_name,
    openai_repository,
    tower_by_sha256,
    tower_file_named,
    tower_suggestions,
)
from beholder.models.download import MOST_TOWER_BYTES, MissingError, file_sha256
from beholder.models.tensor_files import TensorFile, open_tensors, pack_header
from beholder.models.tower_layouts import (
    CONFIG_FILES,
    OPENAI_REASON,
    TOWER_FORMAT,
    WEIGHT_FILES,
    TowerFile,
    open_tower_file,
    read_configs,
    shard_files,
    tower_of_tensors,
)
from beholder.models.transfer import Watch, fetch_ranges, need_space

if TYPE_CHECKING:
    from beholder.models.clip import ClipVisionTower
    from beholder.models.heads import Head
    from beholder.models.library_towers import LibraryTower

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class TowerSummary:
    """What the header of a tower's file tells.

    Attributes:
        name: catalogue name, hub id, or the file's name.
        shape: the sizes.
        activation: None where nothing tells it.
        activation_from: what told the activation.
        backbone: id of the published tower whose weights these are, run as they were trained; None when that is not known.
        layout: a word for the layout of the file.
        path: the local file.
        source: where it was published or read from.
        licence: of the weights; None when unknown.
    """

    name: str
    shape: TowerShape
    activation: TowerActivation | None
    activation_from: str
    backbone: str | None
    layout: str
    path: Path
    source: str
    licence: str | None

    def describe(self) -> dict[str, Any]:
        """A JSON-ready record; for `beholder models info`."""
        return {
            "name": self.name, "backbone": self.backbone, "dim": self.shape.dim, **asdict(self.shape),
            "activation": self.activation, "activation_from": self.activation_from, "layout": self.layout,
            "licence": self.licence, "path": str(self.path), "source": self.source,
        }  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class Tower(TowerSummary):
    """A loaded image tower: pictures to CLIP embeddings.

    Attributes:
        module: the network, float32 on the CPU, frozen, in eval mode.
        activation: what stands in its MLPs.
        sha256: of the file, or of the tensors that were fetched out of a larger one.
        sha256_of: "file" or "tensors".
    """

    module: ClipVisionTower = field(repr=False)
    activation: TowerActivation
    sha256: str
    sha256_of: str

    def describe(self) -> dict[str, Any]:
        """A JSON-ready record that tells this tower from all others; for stamps."""
        return {
            "name": self.name, "sha256": self.sha256, "sha256_of": self.sha256_of, "backbone": self.backbone,
            "activation": self.activation, "activation_from": self.activation_from, "dim": self.shape.dim,
            "image_px": self.shape.image_px, "patch_px": self.shape.patch_px, "width": self.shape.width,
            "num_layers": self.shape.num_layers, "layout": self.layout, "source": self.source, "licence": self.licence,
        }  # fmt: skip


@dataclass(frozen=True)
class _Place:
    """A local file and what is known about it from where it came."""

    path: Path
    name: str
    source: str
    entry: TowerEntry | None = None
    backbone: str | None = None
    known_as: str = ""


def load_any_tower(
    name: str | os.PathLike[str] = DEFAULT_TOWER, *, offline: bool | None = None, activation: TowerActivation | None = None
) -> Tower | LibraryTower:
    """As `load_tower`; `LIBRARY:NAME` is a tower of timm, open_clip or transformers, but for other tools' names of OpenAI's."""
    other = library_name(name)
    if other is None:
        return load_tower(name, offline=offline, activation=activation)
    if activation is not None:
        raise HeadError(f"{other}: its activation is its library's; leave the activation out (--tower-activation)")
    from beholder.models.library_towers import load_library_tower

    return load_library_tower(other, offline=offline)


def library_name(name: str | os.PathLike[str]) -> TowerName | None:
    """The tower of another library that is meant; None for files, and for names that stand for CLIP towers known here."""
    if not isinstance(name, str) or find_towers(name):
        return None
    return parse(name)


def load_tower(
    name: str | os.PathLike[str] = DEFAULT_TOWER, *, offline: bool | None = None, activation: TowerActivation | None = None
) -> Tower:
    """Load a tower's image side, ready for use as float32 on the CPU.

    Args:
        name: a catalogue name or any tool's name for one of OpenAI's towers (`beholder models list`); a local file or folder; a
            URL (https, s3, ...); or a hub id "org/repo[@revision]".
        offline: True asks no network; None asks the environment (BEHOLDER_OFFLINE, HF_HUB_OFFLINE).
        activation: for checkpoints that do not say theirs; where they do, it overrules them (the tower is then no known one).

    Returns:
        The tower; float32 tensors of a safetensors file or a plain pickle stay in the file until they are used.

    Raises:
        HeadError: unknown, unreachable, damaged, unsafe, no CLIP ViT, of unknown activation; one line.
    """
    if activation is not None and activation not in ACTIVATIONS:
        raise HeadError(f"the activation is quick_gelu or gelu, not {activation}")
    place = _place(name, offline)
    digest, digest_of = file_identity(_weights(place.path))
    summary, file = _summary(place, activation, digest if digest_of == "file" else None)
    if summary.activation is None:
        raise HeadError(
            f"{place.path} does not say its activation, and the wrong one gives wrong embeddings without an error; say "
            'activation="quick_gelu" (OpenAI\'s weights) or "gelu" (LAION\'s, DataComp\'s) (--tower-activation)'
        )
    import torch

    from beholder.models.clip import build_tower

    with torch.inference_mode(False):  # a tower must serve outside of the caller's inference mode too
        module = build_tower(file.shape, summary.activation, file.tensors())
    known = {item.name: getattr(summary, item.name) for item in fields(summary)}
    return Tower(**known, module=module, sha256=digest, sha256_of=digest_of)


def inspect_tower(name: str | os.PathLike[str] = DEFAULT_TOWER, *, offline: bool | None = True) -> TowerSummary:
    """What a tower's file says of itself, without loading its weights; by default only if it is on this machine.

    Raises HeadError as `load_tower` does, but for an activation that nothing tells.
    """
    place = _place(name, offline)
    return _summary(place, None, None)[0]


def find_tower_file(name: str, *, offline: bool | None = None) -> Path:
    """The checked local file behind a name, fetched if it must be. Raises HeadError."""
    return _place(name, offline).path


def check_head_fits(tower: Tower | TowerSummary | LibraryTower, head: Head) -> str | None:
    """Raise HeadError when the head was made for other embeddings; None when it fits, else why that cannot be told."""
    if tower.shape.dim != head.dim:
        raise HeadError(f"{head.name} scores embeddings of length {head.dim}, and {tower.name} gives {tower.shape.dim}")
    if head.backbone is None:
        return (
            f"{head.name} does not say which tower it was trained on; only the length {head.dim} of the embeddings was compared"
        )
    ours = tower.backbone or tower.name
    if same_backbone(head.backbone, ours):
        return None
    needed = SHAPES.get(canonical_backbone(head.backbone) or "")
    if tower.backbone is None and (needed is None or (needed == tower.shape and tower.activation != "gelu")):
        return f"it is not known whether {tower.name} holds the weights of {head.backbone}, which {head.name} was trained on"
    if tower.backbone is None and needed == tower.shape:
        raise HeadError(f"{head.name} scores embeddings of {head.backbone}, run with quick_gelu; {tower.name} runs plain gelu")
    raise HeadError(
        f"{head.name} scores embeddings of {head.backbone}, and {tower.name} is another tower; its scores would mean nothing"
    )


def _summary(place: _Place, wanted: TowerActivation | None, digest: str | None) -> tuple[TowerSummary, TowerFile]:
    """Open the file and join what it says with what is known about where it came from."""
    file = open_tower_file(place.path, known_as=place.known_as)
    entry = place.entry or (tower_by_sha256(digest) if digest else None)
    backbone = entry.backbone if entry else place.backbone or (backbone_by_sha256(digest) if digest else None)
    if backbone is None and file.hints.is_openai:
        backbone = next((name for name, shape in SHAPES.items() if shape == file.shape), None)
    if backbone is not None and SHAPES[backbone] != file.shape:
        raise HeadError(f"{place.path} is not {backbone}: its sizes are {file.shape}")
    known, reason = file.hints.activation, file.hints.reason
    if backbone is not None:
        known, reason = "quick_gelu", reason if known == "quick_gelu" else OPENAI_REASON
    if wanted is not None and wanted != known:
        reason = "you said so" + (f", against {known}: {reason}" if known else "")
        known, backbone = wanted, None if known else backbone
    summary = TowerSummary(
        name=entry.name if entry else place.name, shape=file.shape, activation=known, activation_from=reason, backbone=backbone,
        layout=file.layout, path=place.path, source=place.source, licence=entry.licence if entry else None,
    )  # fmt: skip
    return summary, file


def _place(spec: str | os.PathLike[str], offline: bool | None) -> _Place:
    """Where the file is, after fetching it if need be."""
    if not isinstance(spec, str):
        return _local(Path(spec))
    if (other := library_name(spec)) is not None:
        raise HeadError(f"{other} is a tower of {other.library}, of which this knows no file; see that library about it")
    if not locations.is_local(spec):
        path = from_url(spec, offline=offline)
        return _Place(path, path.name, download.public_part(spec), known_as=path.name)
    path = locations.local_path(spec)
    if download.is_path(spec) and path.exists():
        return _local(path)
    entries = find_towers(spec)
    if entries:
        if is_plain_gelu_name(spec):
            _logger.warning(
                "%s: other tools run these weights with plain GELU today; beholder with QuickGELU, as OpenAI did", spec
            )
        return _of_catalog(entries, offline, is_exact=tower_file_named(spec) is not None)
    if path.exists():
        return _local(path)
    source = download.hub_source(spec)
    if source is not None:
        return _of_hub(source.repo, source.revision, offline)
    hint = did_you_mean(tower_suggestions(spec))
    raise HeadError(f"there is no tower {spec}: it is no known name, and no file is there; {hint}")


def _local(path: Path) -> _Place:
    if not path.exists():
        raise HeadError(f"{path} is not there; give the file or folder of a CLIP model")
    return _Place(path, path.stem if path.is_file() else path.name, str(path))


def _of_hub(repo: str, revision: str, offline: bool | None) -> _Place:
    path = find_on_hub(repo, revision, offline=offline)
    backbone = openai_repository(repo)
    source = f"https://huggingface.co/{repo}/tree/{revision}"
    return _Place(path, repo, source, backbone=backbone, known_as=f"{repo}/{path.name}")


def local_file(entry: TowerEntry) -> Path | None:
    """The file of a tower of the catalogue on this machine, not yet checked, or None. Asks no network."""
    found = download.locate(entry)
    if found is None and entry.is_partial:
        kept = download.kept_path("towers", entry.sources[0])
        found = kept if kept.is_file() else None
    return found


def fetch_tower(entry: TowerEntry, *, offline: bool | None = None) -> Path:
    """The checked local file of one tower of the catalogue, fetched if it must be. Raises HeadError."""
    if not entry.is_partial:
        return download.fetch_entry(entry, offline=offline)
    local, source = local_file(entry), entry.sources[0]
    is_damaged = local == download.kept_path("towers", source) and _whole_kept_tower(local) is None
    if local is not None and not is_damaged:
        check_file(local, entry)
        return local
    try:
        return from_hub(source, offline=offline, activation=entry.activation)
    except download.MissingError:
        if source.revision != "main":
            raise
    return find_on_hub(source.repo, source.revision, offline=offline)


def check_file(path: Path, entry: TowerEntry, *, again: bool = False) -> None:
    """Raise HeadError unless a local file is what was published (`again`: hashed whatever is remembered).

    Of tensors that were fetched out of a larger file, the data must be what was written; without `again` that is trusted.
    """
    if kept_tower(path) is not None:
        if again:
            check_kept(path)
    elif entry.sha256 is not None:
        download.verify(path, entry, again=again)


def _of_catalog(entries: Sequence[TowerEntry], offline: bool | None, *, is_exact: bool) -> _Place:
    """The first entry that is here, else the first that can be fetched; a file that was named (`is_exact`) goes before all."""
    num_first = 1 if is_exact else 0
    ordered = [*entries[:num_first], *sorted(entries[num_first:], key=lambda entry: local_file(entry) is None)]
    failures: list[str] = []
    for entry in ordered:
        try:
            path = fetch_tower(entry, offline=offline)
        except HeadError as error:
            failures.append(str(error))
            if not download.is_hub_offline(offline):
                _logger.info("%s", error)
            continue
        return _Place(path, entry.name, entry.sources[0].url, entry, known_as=entry.name)
    if download.is_hub_offline(offline) or len(failures) == 1:
        raise HeadError(failures[0])
    others = "other source" if len(failures) == 2 else f"{len(failures) - 1} other sources"
    raise HeadError(f"{failures[0]} (and the {others} of these weights failed too)")


def _weights(path: Path) -> Path:
    """The file whose sha256 stands for a folder."""
    return Path(open_tower_file(path).path) if path.is_dir() else path


_WORTH_CUTTING = 0.95
"""A file of which the tower is a larger share is fetched whole, through the hub's own cache."""
_DIGEST, _HEADER_DIGEST = "data_sha256", "header_sha256"
"""Texts of a kept file: the sha256 of its data, and of its header with zeros for this one."""
_NO_DIGEST = "0" * 64


def kept_tower(path: Path) -> TensorFile | None:
    """The header of a file that `keep` wrote, or None when there is none or it is damaged (it is then made anew)."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        opened = open_tensors(str(path))
        if opened.metadata.get("format") != TOWER_FORMAT:
            return None
        _check_header(path, opened)
    except HeadError as error:
        _logger.warning("%s; it is made anew", error)
        return None
    return opened


def _whole_kept_tower(path: Path) -> TensorFile | None:
    """As `kept_tower`, and its data are what was written; those of a large file that looks untouched are read once."""
    opened = kept_tower(path)
    if opened is None:
        return None
    try:
        if download.remembered(path, of=_DIGEST) != opened.metadata.get(_DIGEST):
            check_kept(path)
            download.remember(path, opened.metadata[_DIGEST], of=_DIGEST)
    except HeadError as error:
        _logger.warning("%s", error)
        return None
    return opened


def _check_header(path: Path, opened: TensorFile) -> None:
    """Raise HeadError unless the header of a kept file is what was written."""
    wanted = opened.metadata.get(_HEADER_DIGEST, _NO_DIGEST)
    with path.open("rb") as file:
        header = file.read(8)
        header += file.read(int.from_bytes(header, "little"))
    if hashlib.sha256(header.replace(wanted.encode(), _NO_DIGEST.encode())).hexdigest() != wanted:
        raise HeadError(f"{path} is damaged: its header does not have the sha256 it was written with")


def data_sha256(path: Path) -> str:
    """The sha256 of a safetensors file's data, without its header."""
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    return storage.sha256_of(path, 8 + header_bytes)


def check_kept(path: Path) -> None:
    """Raise HeadError unless a kept file's data have the sha256 it was written with."""
    opened = open_tensors(str(path))
    if data_sha256(path) != opened.metadata.get(_DIGEST):
        raise HeadError(f"{path} is damaged: its data do not have the sha256 it was written with; remove it and load again")


def from_hub(source: Source, *, offline: bool | None = None, activation: str = "") -> Path:
    """A local file with the tower of one file on the hub: kept tensors, a file of the hub's cache, or freshly fetched ones.

    Raises MissingError when the repository has no such file, HeadError for all else.
    """
    kept = download.kept_path("towers", source)
    known = _whole_kept_tower(kept)
    found = download.newest_copy(source, known.metadata.get("etag", "") if known is not None else None, offline)
    if not isinstance(found, download.PublishedVersion):
        return found or kept
    if download.cached(source) is None and source.file.endswith(".safetensors"):
        opened = open_tensors(download.file_url(source, found.commit))
        configs = _configs(replace(source, revision=found.commit))
        names = tower_of_tensors(opened, configs, source.repo, f"{source.repo} ({source.file})").names
        if sum(opened.tensors[name].stop - opened.tensors[name].start for name in names) < _WORTH_CUTTING * opened.num_bytes:
            about = {"etag": found.etag, "commit": found.commit, "source": source.url, "name": source.repo}
            return keep(opened, names, kept, {**about, "configs": json.dumps(configs), "activation": activation})
    _configs(source)
    return download.from_hub(source)


def find_on_hub(repo: str, revision: str, *, offline: bool | None = None) -> Path:
    """The tower of a hub repository, whichever of the usual files it has. Raises HeadError."""
    stem = repo.rsplit("/", 1)[-1]
    names = (*WEIGHT_FILES, f"{stem}.pt", f"{stem}.safetensors")

    def get(source: Source) -> Path:
        return _sharded(source, offline) if source.file.endswith(".index.json") else from_hub(source, offline=offline)

    sources = [Source(repo=repo, file=name, revision=revision) for name in names]
    return download.first_of(sources, get, offline, f"of a tower: {', '.join(names[:-1])}")


def _sharded(source: Source, offline: bool | None) -> Path:
    """All shards of a repository, fetched whole; the path of their index."""
    cached = download.cached(source)
    if download.is_hub_offline(offline):
        if cached is None:
            raise MissingError(source.file)
        return cached
    index = download.from_hub(source)
    for file in sorted({path.name for path in shard_files(index).values()}):
        download.from_hub(replace(source, file=file))
    _configs(source)
    return index


def from_url(url: str, *, offline: bool | None = None) -> Path:
    """A local file with the tower behind a URL (https, s3, ...), fetched again only when the server shows another one."""
    target = download.url_copy(url, "towers/url--", "tower")
    name, note = target.name, target.with_name("identity.json")
    if download.is_offline(offline):
        return download.offline_copy(target, url)
    identity = _identity(url)
    is_same = identity and target.is_file() and note.is_file() and note.read_bytes() == identity.encode()
    if is_same and _is_whole_copy(target, url):
        return target
    writing.remove(str(note))
    download.unseal_copy(target)
    if name.endswith(".safetensors"):
        opened = open_tensors(url)
        names = tower_of_tensors(opened, {}, name, download.public_part(url)).names
        keep(opened, names, target, {"source": download.public_part(url), "name": name})
    else:
        with writing.write_whole(str(target)) as temporary:
            transfer.get_large(url, temporary, name, most_bytes=MOST_TOWER_BYTES)
    download.seal_copy(target, file_sha256(target))
    writing.write_bytes(str(note), identity.encode())
    return target


def _is_whole_copy(path: Path, url: str) -> bool:
    try:
        download.check_copy(path, url)
    except HeadError as error:
        _logger.warning("%s; it is fetched anew", error)
        return False
    return True


def _identity(url: str) -> str:
    """What a server says of a file that changes with it (ETag, time, size); empty where it says nothing."""
    try:
        file_system, inner = remote.filesystem(url)
        info = file_system.info(inner)
    except BeholderError as error:
        raise HeadError(str(error)) from error
    except FileNotFoundError as error:
        reason = transfer.why(error.__cause__) if isinstance(error.__cause__, Exception) else "it does not exist there"
        raise HeadError(f"cannot get {url}: {reason}") from None
    except Exception as error:  # remote back ends raise errors of their own libraries, which have no common parent
        raise HeadError(f"cannot get {url}: {transfer.why(error)}") from None
    found = {key: str(info[key]) for key in ("ETag", "etag", "Last-Modified", "LastModified", "mtime") if info.get(key)}
    return json.dumps({**found, "size": info.get("size")}, sort_keys=True) if found else ""


def keep(opened: TensorFile, names: list[str], target: Path, about: Mapping[str, str]) -> Path:
    """Fetch the named tensors of a remote safetensors file into one of our own, whole or not at all. Raises HeadError."""
    wanted = {name: opened.tensors[name] for name in sorted(names, key=lambda name: opened.tensors[name].start)}
    texts = {**about, "format": TOWER_FORMAT, "version": "1", _DIGEST: _NO_DIGEST, _HEADER_DIGEST: _NO_DIGEST}
    at = start = len(pack_header(wanted, texts))
    spans = []
    for info in wanted.values():
        spans.append((info.start, info.stop, at))
        at += info.stop - info.start
    Watch(about.get("source", opened.path), MOST_TOWER_BYTES).expect(at - start)
    need_space(target.parent, at, about.get("name", "the tower"))
    with writing.write_whole(str(target)) as temporary:
        with temporary.open("r+b") as file:
            file.write(pack_header(wanted, texts))
            file.truncate(at)
        fetch_ranges(opened.path, spans, temporary, about.get("name", "tower"))
        texts[_DIGEST] = data_sha256(temporary)
        texts[_HEADER_DIGEST] = hashlib.sha256(pack_header(wanted, texts)).hexdigest()
        with temporary.open("r+b") as file:
            file.write(pack_header(wanted, texts))
    return target


def _configs(source: Source) -> dict[str, Any]:
    """The configuration files of a repository, fetched into the hub's cache, and what is in them."""
    found: list[Path] = []
    for name in CONFIG_FILES:
        with contextlib.suppress(MissingError):
            found.append(download.from_hub(replace(source, file=name)))
    return read_configs(found[0].parent) if found else {}


def file_identity(path: Path) -> tuple[str, str]:
    """(sha256, "file" or "tensors"): what a tower's file is known by; of a sharded one, the sha256 of its shards' sha256."""
    if path.name.endswith(".index.json"):
        shards = sorted(set(shard_files(path, are_here=True).values()))
        return hashlib.sha256("".join(file_sha256(shard) for shard in shards).encode()).hexdigest(), "tensors"
    own = kept_tower(path)
    if own is not None and own.metadata.get(_DIGEST):
        return own.metadata[_DIGEST], "tensors"
    return file_sha256(path), "file"
