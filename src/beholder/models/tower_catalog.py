"""A tower's name, alias or sha256 in; which published files hold it, how to check them, out. Nothing is loaded here.

sha256 and sizes are as their publishers state them (OpenAI: the sha256 is part of the URL in clip/clip.py; birder: net/vit.py;
Hugging Face: the hub's file listing). We did not fetch these files. That the files of a backbone hold the same weights is their
publishers' account.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from beholder.models.backbones import BACKBONES, find_backbone
from beholder.models.head_catalog import Source
from beholder.models.tower_shape import SHAPES, TowerActivation

DEFAULT_TOWER = "vit_l14_pn_quick_gelu_openai-clip"

_OPENAI_URL = "https://openaipublic.azureedge.net/clip/models"
_HF_L14_COMMIT = "32bd64288804d66eefd0ccbe215aa642df71cc41"


@dataclass(frozen=True, kw_only=True)
class TowerEntry:
    """One published file with an image tower.

    Attributes:
        name: the name beholder uses for it.
        aliases: other names for this very file.
        files: names it goes by on disk, the publisher's first.
        sources: where it is published, in the order they are asked.
        sha256: of the whole file; None where it is not known.
        num_bytes: of the whole file; None likewise.
        licence: of the weights, as published.
        backbone: id of the tower (`BACKBONES`).
        activation: what the weights were trained with.
        is_partial: whether only the image tower's tensors are fetched, by range requests.
        note: what the file is.
    """

    name: str
    aliases: tuple[str, ...] = ()
    files: tuple[str, ...]
    sources: tuple[Source, ...]
    sha256: str | None
    num_bytes: int | None
    licence: str = "MIT"
    backbone: str
    activation: TowerActivation = "quick_gelu"
    is_partial: bool = False
    note: str

    @property
    def dim(self) -> int:
        """Length of its embeddings."""
        return SHAPES[self.backbone].dim


def _openai(file: str, clip_name: str, sha256: str, num_bytes: int, backbone: str) -> TowerEntry:
    return TowerEntry(
        name=file.removesuffix(".pt"), aliases=(f"clip:{clip_name}",), files=(file,), sha256=sha256, num_bytes=num_bytes,
        sources=(Source(plain_url=f"{_OPENAI_URL}/{sha256}/{file}"),), backbone=backbone,
        note="OpenAI's archive: both towers, float16",
    )  # fmt: skip


def _hugging_face(
    backbone: str, *, revision: str = "main", sha256: str | None = None, num_bytes: int | None = None
) -> TowerEntry:
    return TowerEntry(
        name=f"hf-hub:{backbone}", files=(f"{backbone.replace('/', '--')}.safetensors",), sha256=sha256,
        num_bytes=num_bytes, sources=(Source(repo=backbone, file="model.safetensors", revision=revision),), backbone=backbone,
        is_partial=True, note="of OpenAI's model on the hub only the image tower is fetched",
    )  # fmt: skip


_L14, _L14_336, _B32, _B16 = (
    f"openai/clip-vit-{kind}" for kind in ("large-patch14", "large-patch14-336", "base-patch32", "base-patch16")
)

TOWERS: tuple[TowerEntry, ...] = (
    TowerEntry(
        name=DEFAULT_TOWER,
        aliases=(f"birder-project/{DEFAULT_TOWER}",),
        files=(f"{DEFAULT_TOWER}.pt",),
        sources=(Source(repo=f"birder-project/{DEFAULT_TOWER}", file=f"{DEFAULT_TOWER}.pt"),),
        sha256="2c7462390956d8942de0df21d9d1a43cf53fdbe3a3570a1add64d859313a0bee",
        num_bytes=None,
        backbone=_L14,
        note="birder's file: the image tower alone, float32, 1.2 GB",
    ),
    _hugging_face(
        _L14, revision=_HF_L14_COMMIT, num_bytes=1_710_540_580,
        sha256="a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
    ),
    _openai("ViT-L-14.pt", "ViT-L/14", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836", 932_768_134, _L14),
    _openai(
        "ViT-L-14-336px.pt", "ViT-L/14@336px", "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02", 934_088_680,
        _L14_336,
    ),
    _hugging_face(_L14_336),
    _openai("ViT-B-16.pt", "ViT-B/16", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f", 350_837_078, _B16),
    _hugging_face(_B16),
    _openai("ViT-B-32.pt", "ViT-B/32", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af", 353_976_522, _B32),
    _hugging_face(_B32),
)  # fmt: skip

_OTHER_FILES = {
    # pytorch_model.bin of openai/clip-vit-large-patch14; open_clip_model.safetensors of timm/vit_large_patch14_clip_224.openai.
    "f1a17cdbe0f36fec524f5cafb1c261ea3bbbc13e346e0f74fc9eb0460dedd0d3": _L14,
    "9ce2e8a8ebfff3793d7d375ad6d3c35cb9aebf3de7ace0fc7308accab7cd207e": _L14,
}
"""sha256 of further files with OpenAI's weights -> backbone."""

# Names under which open_clip (since 2.29) and timm run OpenAI's weights with plain GELU. As names of weights they are
# understood, and QuickGELU, with which OpenAI trained them, is used and said. As names of embeddings they are not.
PLAIN_GELU_NAMES = {
    re.sub(r"[-_]quickgelu", "", alias).casefold(): backbone.id
    for backbone in BACKBONES
    for alias in backbone.aliases
    if "quickgelu" in alias
}

_BY_NAME = {name.casefold(): entry for entry in TOWERS for name in (entry.name, *entry.aliases, *entry.files)}


def find_towers(name: str) -> tuple[TowerEntry, ...]:
    """Published files for a name: the one that is meant first, then others with the same weights. Empty: an unknown name.

    A backbone's id (a repository of the hub) stands for all its files, in the order of `TOWERS`; with `hf-hub:` before it for
    that repository's own.
    """
    key = name.strip().casefold()
    named = _BY_NAME.get(key)
    backbone = find_backbone(name)
    wanted = named.backbone if named else backbone.id if backbone else PLAIN_GELU_NAMES.get(key)
    same = tuple(entry for entry in TOWERS if entry.backbone == wanted and entry is not named)
    return (named, *same) if named else same


def tower_file_named(name: str) -> TowerEntry | None:
    """The very file that a name stands for; None for names of a backbone, which several files hold, and for unknown names."""
    return _BY_NAME.get(name.strip().casefold())


def is_plain_gelu_name(name: str) -> bool:
    """Whether other tools run OpenAI's weights with plain GELU under this name."""
    return name.strip().casefold() in PLAIN_GELU_NAMES


def openai_repository(repo: str) -> str | None:
    """The backbone whose untouched weights a hub repository holds (timm's `*.openai`, the registry's), or None."""
    key = repo.casefold()
    entry = _BY_NAME.get(key) or _BY_NAME.get(f"hf-hub:{key}")
    found = entry.backbone if entry else PLAIN_GELU_NAMES.get(key.removeprefix("timm/"))
    backbone = find_backbone(key.removeprefix("timm/")) if found is None else None
    return found or (backbone.id if backbone else None)


def tower_by_sha256(digest: str) -> TowerEntry | None:
    """The entry whose file has this sha256, or None."""
    return next((entry for entry in TOWERS if entry.sha256 == digest), None)


def backbone_by_sha256(digest: str) -> str | None:
    """The backbone whose weights a file of this sha256 holds, or None."""
    entry = tower_by_sha256(digest)
    return entry.backbone if entry else _OTHER_FILES.get(digest)


def tower_suggestions(name: str) -> list[str]:
    """Up to three names of towers that look like `name`, best first."""
    known = {alias.casefold(): alias for backbone in BACKBONES for alias in (backbone.id, *backbone.aliases)}
    known |= {entry.name.casefold(): entry.name for entry in TOWERS}
    return [known[key] for key in difflib.get_close_matches(name.strip().casefold(), list(known), n=3, cutoff=0.6)]
