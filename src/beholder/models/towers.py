"""CLIP image towers by name, path, URL or hub id: loaded, or a summary of their file's header.

Which file is taken for a name of the catalogue: the first that is on this machine, else the first that can be fetched, in the
order of `beholder models list`; files with a known sha256 are checked before they are opened.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.errors import HeadError
from beholder.io import storage
from beholder.models import download, tower_download
from beholder.models.backbones import ACTIVATIONS, SHAPES, TowerActivation, TowerShape, canonical_backbone, same_backbone
from beholder.models.catalog import (
    DEFAULT_TOWER,
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
from beholder.models.tower_layouts import OPENAI_REASON, TowerFile, open_tower_file

if TYPE_CHECKING:
    from beholder.models.clip import ClipVisionTower
    from beholder.models.head import Head

__all__ = ["DEFAULT_TOWER", "Tower", "TowerSummary", "check_head_fits", "find_tower_file", "inspect_tower", "load_tower"]

_logger = logging.getLogger(__name__)
_FILE_ENDINGS = (".pt", ".pth", ".bin", ".safetensors", ".index.json")
_HUB_ID = re.compile(r"(?:hf-hub:)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


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
            "name": self.name, "backbone": self.backbone, "dim": self.shape.dim, "image_px": self.shape.image_px,
            "patch_px": self.shape.patch_px, "width": self.shape.width, "num_layers": self.shape.num_layers,
            "num_heads": self.shape.num_heads, "mlp_width": self.shape.mlp_width, "activation": self.activation,
            "activation_from": self.activation_from, "layout": self.layout, "licence": self.licence, "path": str(self.path),
            "source": self.source,
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
    digest, digest_of = tower_download.file_identity(_weights(place.path))
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


def check_head_fits(tower: Tower | TowerSummary, head: Head) -> str | None:
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
        return f"nothing tells whether {tower.name} holds the weights of {head.backbone}, which {head.name} was trained on"
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
    if not storage.is_local(spec):
        path = tower_download.from_url(spec, offline=offline)
        return _Place(path, path.name, download.public_part(spec), known_as=path.name)
    path = storage.local_path(spec)
    is_path = storage.has_local_scheme(spec) or spec.startswith(("~", ".", "/")) or spec.casefold().endswith(_FILE_ENDINGS)
    if is_path and path.exists():
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
    hub_id = _HUB_ID.fullmatch(spec)
    if hub_id is not None and not is_path:
        return _of_hub(hub_id["repo"], hub_id["revision"] or "main", offline)
    hint = did_you_mean(tower_suggestions(spec))
    raise HeadError(f"there is no tower {spec}: it is no known name, and no file is there; {hint}")


def _local(path: Path) -> _Place:
    if not path.exists():
        raise HeadError(f"{path} is not there; give the file or folder of a CLIP model")
    return _Place(path, path.stem if path.is_file() else path.name, str(path))


def _of_hub(repo: str, revision: str, offline: bool | None) -> _Place:
    path = tower_download.find_on_hub(repo, revision, offline=offline)
    backbone = openai_repository(repo)
    source = f"https://huggingface.co/{repo}/tree/{revision}"
    return _Place(path, repo, source, backbone=backbone, known_as=f"{repo}/{path.name}")


def local_file(entry: TowerEntry) -> Path | None:
    """The file of a tower of the catalogue on this machine, not yet checked, or None. Asks no network."""
    found = download.locate(entry)
    if found is None and entry.is_partial:
        kept = tower_download.kept_path(entry.sources[0])
        found = kept if kept.is_file() else None
    return found


def fetch_tower(entry: TowerEntry, *, offline: bool | None = None) -> Path:
    """The checked local file of one tower of the catalogue, fetched if it must be. Raises HeadError."""
    if not entry.is_partial:
        return download.fetch_entry(entry, offline=offline)
    local = local_file(entry)
    if local is not None:
        check_file(local, entry)
        return local
    source = entry.sources[0]
    try:
        return tower_download.from_hub(source, offline=offline, activation=entry.activation)
    except download.MissingError:
        if source.revision != "main":
            raise
    return tower_download.find_on_hub(source.repo, source.revision, offline=offline)


def check_file(path: Path, entry: TowerEntry, *, again: bool = False) -> None:
    """Raise HeadError unless a local file is what was published (`again`: hashed whatever is remembered).

    Of tensors that were fetched out of a larger file, the data must be what was written; without `again` that is trusted.
    """
    if tower_download.kept_tower(path) is not None:
        if again:
            tower_download.check_kept(path)
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
