"""The public heads and towers: their names, where each file is published, and how to check it. Nothing is loaded here.

sha256, size and shapes of `HEADS` were read from the files themselves. Those of `TOWERS` are as their publishers state them
(OpenAI: the sha256 is part of the URL in clip/clip.py; birder: net/vit.py; Hugging Face: the hub's file listing). The files of
`BUNDLES` and `TOWERS` were never fetched by us; that those of one backbone hold the same weights is their publishers' account.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from beholder.models.backbones import BACKBONES, SHAPES, TowerActivation, find_backbone

Normalisation = Literal["l2", "l2, times sqrt(dim)"]

DEFAULT_HEAD = "sac+logos+ava1-l14-linearMSE"
DEFAULT_TOWER = "vit_l14_pn_quick_gelu_openai-clip"

_L14, _L14_336, _B32, _B16 = (
    f"openai/clip-vit-{kind}" for kind in ("large-patch14", "large-patch14-336", "base-patch32", "base-patch16")
)


@dataclass(frozen=True)
class Source:
    """Where a file is published: a repository of the Hugging Face hub, or a plain URL.

    Attributes:
        file: name of the file in the repository; empty for a plain URL.
        repo: "org/name" on the hub; empty for a plain URL.
        revision: branch, tag or commit on the hub.
        plain_url: the URL where there is no hub repository.
    """

    file: str = ""
    repo: str = ""
    revision: str = "main"
    plain_url: str = ""

    @property
    def url(self) -> str:
        """The address a browser would take."""
        return self.plain_url or f"https://huggingface.co/{self.repo}/resolve/{self.revision}/{quote(self.file)}"


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """One published file, with a head or a tower in it.

    Attributes:
        name: the name beholder uses for it.
        aliases: other names for it.
        files: names it goes by on disk, the publisher's first.
        sources: where it is published, in the order they are asked.
        sha256: of the whole file; None where it is not known.
        num_bytes: of the whole file; None likewise.
        licence: of the weights, as published.
        backbone: id of the tower in it, or of the one whose embeddings its head scores (`BACKBONES`).
    """

    name: str
    aliases: tuple[str, ...] = ()
    files: tuple[str, ...]
    sources: tuple[Source, ...]
    sha256: str | None
    num_bytes: int | None
    licence: str = "MIT"
    backbone: str


@dataclass(frozen=True, kw_only=True)
class HeadEntry(PublishedFile):
    """One public head. File names are understood as names, too, with and without their ending.

    Attributes:
        dim: length of the embedding.
        normalisation: what is done to an embedding first: "l2" divides by its length; "l2, times sqrt(dim)" then multiplies.
        is_affine: whether it is weight . x + bias; otherwise it has ReLUs.
        scale_note: what its numbers mean.
        twin: name of the entry with the same weights by its publisher's account (not checked by us); empty if none.
    """

    dim: int
    normalisation: Normalisation = "l2"
    is_affine: bool = True
    scale_note: str
    twin: str = ""


@dataclass(frozen=True, kw_only=True)
class TowerEntry(PublishedFile):
    """One published file with an image tower.

    Attributes:
        activation: what the weights were trained with.
        is_partial: whether only the image tower's tensors are fetched, by range requests.
        note: what the file is.
    """

    activation: TowerActivation = "quick_gelu"
    is_partial: bool = False
    note: str

    @property
    def dim(self) -> int:
        """Length of its embeddings."""
        return SHAPES[self.backbone].dim


@dataclass(frozen=True)
class RefusedHead:
    """A public head that beholder recognises and does not run, with the reason."""

    name: str
    aliases: tuple[str, ...]
    sha256: str | None
    reason: str


# Commits: the newest of each repository that we know of, read 2026-11. simulacra-aesthetic-models: branch, pinned by sha256.
_RAW = "https://raw.githubusercontent.com"
_IAP = f"{_RAW}/christophschuhmann/improved-aesthetic-predictor/6934dd81792f086e613a121dbce43082cb8be85e"
_LAION = f"{_RAW}/LAION-AI/aesthetic-predictor/6d122adad522ab246644d9dc1c6d7a3810ee255f"
_SIMULACRA = f"{_RAW}/crowsonkb/simulacra-aesthetic-models/main/models"

_V2_NOTE = "trained on a 0-10 scale; about 1 to 8 on web pictures, mean 4.77 on COYO-700M; never clipped"
_AVA_NOTE = "trained on a 0-10 scale (AVA and logo ratings); never clipped; thresholds of other heads do not carry over"
_V1_NOTE = "trained on a 0-10 scale; wider than the v2 heads, below 0 and above 10 occur; never clipped"
_SIMULACRA_NOTE = "trained on the 1-10 ratings of Simulacra Aesthetic Captions; never clipped"


def _head(
    name: str, place: str, sha256: str, num_bytes: int, *aliases: str, note: str, licence: str = "MIT", backbone: str = _L14,
    file: str = "", before: tuple[Source, ...] = (), normalisation: Normalisation = "l2", is_affine: bool = True,
) -> HeadEntry:  # fmt: skip
    """A head published as `<name>.pth` below the URL `place`; `before` and `file`: another source that is asked first."""
    return HeadEntry(
        name=name, aliases=aliases, files=(f"{name}.pth", *((file,) if file else ())), sha256=sha256, num_bytes=num_bytes,
        sources=(*before, Source(plain_url=f"{place}/{quote(f'{name}.pth')}")), licence=licence, backbone=backbone,
        dim=SHAPES[backbone].dim, normalisation=normalisation, is_affine=is_affine, scale_note=note,
    )  # fmt: skip


def _improved(name: str, sha256: str, num_bytes: int, *, is_affine: bool) -> HeadEntry:
    return _head(name, _IAP, sha256, num_bytes, note=_AVA_NOTE, licence="Apache-2.0", is_affine=is_affine)


def _laion_v1(kind: str, sha256: str, num_bytes: int, backbone: str, *aliases: str) -> HeadEntry:
    name = f"sa_0_4_vit_{kind}_linear"
    return _head(name, _LAION, sha256, num_bytes, *aliases, note=_V1_NOTE, backbone=backbone)


def _simulacra(kind: str, sha256: str, num_bytes: int, backbone: str) -> HeadEntry:
    return _head(
        f"sac_public_2022_06_29_vit_{kind}_linear", _SIMULACRA, sha256, num_bytes, f"simulacra-{kind}", note=_SIMULACRA_NOTE,
        backbone=backbone, normalisation="l2, times sqrt(dim)",
    )  # fmt: skip


_BIRDERS_NAME = "openai-clip_aesthetic-predictor.pt"

HEADS: tuple[HeadEntry, ...] = (
    _head(
        DEFAULT_HEAD, _IAP, "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0", 3714759,
        "laion-v2", "laion-aesthetics-v2", "improved-aesthetic-predictor", "birder-project/aesthetic-predictor",
        note=_V2_NOTE, licence="Apache-2.0", file=_BIRDERS_NAME,
        before=(Source(repo="birder-project/aesthetic-predictor", file=_BIRDERS_NAME),),
    ),
    _improved(
        "ava+logos-l14-linearMSE", "390a3aafaf3b37d57148f9b22f30556de38343064b7d915acfa80d3812b4c9ff", 3714759, is_affine=True
    ),
    _improved(
        "ava+logos-l14-reluMSE", "0af3254c651d55b7ea851429c20f26ec880bb0169805a4df85b814bd7966f3e4", 3714887, is_affine=False
    ),
    _laion_v1(
        "l_14", "2cd4e60f4f24ae3bcd57b847b13c1f3ba27edc28cc1a7f9ce74ee9f421243cba", 4071, _L14,
        "laion-v1", "laion-aesthetics-v1", "laion-v1-l_14", "sa_0_4",
    ),
    _laion_v1("b_32", "c7b14cead230694acc7b9447974d3cad78003c72da032e402a303b6c2429e85f", 3047, _B32, "laion-v1-b_32"),
    _laion_v1("b_16", "8ad3923d7ecf019df20ecd2ab5542a3075fbba0278d239c0371345f3d7fcbde0", 3047, _B16, "laion-v1-b_16"),
    _simulacra("l_14", "f77d1d0f4bb04b0ff8e60c5747fd0bfff0cc4a85263a6106627522c06eae85c6", 4135, _L14),
    _simulacra("b_32", "64315370e2293a08cc2f4816ae9db715f935791569c1a57d84b943e482ea5e12", 3111, _B32),
    _simulacra("b_16", "cdc27b2196565bcb69f2692731084b0189612b98aae74adec033782469ab583c", 3111, _B16),
)  # fmt: skip


def _bundle(repo: str, twin: str, *, revision: str = "main") -> HeadEntry:
    original = next(entry for entry in HEADS if entry.name == twin)
    return HeadEntry(
        name=repo, files=("model.safetensors",), sources=(Source(repo=repo, file="model.safetensors", revision=revision),),
        sha256=None, num_bytes=None, licence=f"not checked; the original weights are {original.licence}",
        backbone=original.backbone, dim=original.dim, is_affine=original.is_affine, scale_note=original.scale_note, twin=twin,
    )  # fmt: skip


BUNDLES: tuple[HeadEntry, ...] = (
    _bundle("shunk031/aesthetics-predictor-v1-vit-large-patch14", "sa_0_4_vit_l_14_linear"),
    _bundle("shunk031/aesthetics-predictor-v1-vit-base-patch32", "sa_0_4_vit_b_32_linear"),
    _bundle("shunk031/aesthetics-predictor-v1-vit-base-patch16", "sa_0_4_vit_b_16_linear"),
    _bundle("shunk031/aesthetics-predictor-v2-sac-logos-ava1-l14-linearMSE", DEFAULT_HEAD),
    _bundle("shunk031/aesthetics-predictor-v2-ava-logos-l14-linearMSE", "ava+logos-l14-linearMSE"),
    _bundle("shunk031/aesthetics-predictor-v2-ava-logos-l14-reluMSE", "ava+logos-l14-reluMSE"),
    _bundle("ttj/sac-logos-ava1-l14-linearMSE", DEFAULT_HEAD, revision="1e77fa05081323d99725fc40a9bf9f88180490e7"),
)
"""The same weights repackaged on the hub, most with a whole CLIP tower around them. Their sha256 is not known to us."""

REFUSED: tuple[RefusedHead, ...] = (
    RefusedHead(
        "aesthetic-predictor-v2-5",
        ("aesthetic_predictor_v2_5", "aesthetic-predictor-v2.5", "discus0434/aesthetic-predictor-v2-5"),
        "a6caf256b3dc434273c98dcb12f6bf17c5d4fc647d8df11f038386923dd06220",
        "Aesthetic Predictor V2.5 scores SigLIP so400m embeddings (1152 numbers), not CLIP's, and is AGPL-3.0; "
        "use its own package for it",
    ),
    RefusedHead(
        "candle-aesthetic-predictor",
        ("rockerBOO/candle-aesthetic-predictor",),
        None,
        "rockerBOO's candle head takes embeddings that are not normalised, keeps dropout on when it scores, and has no licence",
    ),
)


def _openai(file: str, sha256: str, num_bytes: int, backbone: str) -> TowerEntry:
    clip_name = find_backbone(backbone).aliases[0]  # type: ignore[union-attr]
    return TowerEntry(
        name=file.removesuffix(".pt"), aliases=(f"clip:{clip_name}",), files=(file,), sha256=sha256, num_bytes=num_bytes,
        sources=(Source(plain_url=f"https://openaipublic.azureedge.net/clip/models/{sha256}/{file}"),), backbone=backbone,
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
        _L14, revision="32bd64288804d66eefd0ccbe215aa642df71cc41", num_bytes=1_710_540_580,
        sha256="a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
    ),
    _openai("ViT-L-14.pt", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836", 932_768_134, _L14),
    _openai("ViT-L-14-336px.pt", "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02", 934_088_680, _L14_336),
    _hugging_face(_L14_336),
    _openai("ViT-B-16.pt", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f", 350_837_078, _B16),
    _hugging_face(_B16),
    _openai("ViT-B-32.pt", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af", 353_976_522, _B32),
    _hugging_face(_B32),
)  # fmt: skip

_OTHER_TOWER_FILES = {
    # pytorch_model.bin of openai/clip-vit-large-patch14; open_clip_model.safetensors of timm/vit_large_patch14_clip_224.openai.
    "f1a17cdbe0f36fec524f5cafb1c261ea3bbbc13e346e0f74fc9eb0460dedd0d3": _L14,
    "9ce2e8a8ebfff3793d7d375ad6d3c35cb9aebf3de7ace0fc7308accab7cd207e": _L14,
}
"""sha256 of further files with OpenAI's weights -> backbone."""

# Names under which open_clip (since 2.29) and timm run OpenAI's weights with plain GELU. As names of weights they are
# understood, and QuickGELU, with which OpenAI trained them, is used and said. As names of embeddings they are not.
_PLAIN_GELU_NAMES = {
    re.sub(r"[-_]quickgelu", "", alias).casefold(): backbone.id
    for backbone in BACKBONES
    for alias in backbone.aliases
    if "quickgelu" in alias
}


def _key(name: str) -> str:
    folded = name.strip().casefold()
    ending = next((ending for ending in (".pth", ".pt", ".safetensors") if folded.endswith(ending)), "")
    return folded.removesuffix(ending)


_HEADS_BY_NAME = {
    _key(name): entry
    for entry in (*HEADS, *BUNDLES)
    for name in (entry.name, *entry.aliases, *(() if entry.twin else entry.files))
}
_TOWERS_BY_NAME = {name.casefold(): entry for entry in TOWERS for name in (entry.name, *entry.aliases, *entry.files)}


def find(name: str) -> HeadEntry | None:
    """The head with this name, alias or file name, or None. Case does not matter."""
    return _HEADS_BY_NAME.get(_key(name))


def find_refused(name: str) -> RefusedHead | None:
    """The refused head with this name or alias, or None."""
    return next((head for head in REFUSED if _key(name) in map(_key, (head.name, *head.aliases))), None)


def by_sha256(digest: str) -> HeadEntry | None:
    """The head whose file has this sha256 (64 lower-case hex digits), or None."""
    return next((entry for entry in HEADS if entry.sha256 == digest), None)


def refused_by_sha256(digest: str) -> RefusedHead | None:
    """The refused head whose file has this sha256, or None."""
    return next((head for head in REFUSED if head.sha256 == digest), None)


def suggestions(name: str) -> list[str]:
    """Up to three names of heads that look like `name`, best first; empty when none does."""
    near = difflib.get_close_matches(_key(name), list(_HEADS_BY_NAME), n=6, cutoff=0.5)
    return list(dict.fromkeys(_HEADS_BY_NAME[key].name for key in near))[:3]


def did_you_mean(near: Iterable[str]) -> str:
    """The end of a message about an unknown name."""
    names = list(near)
    return f"did you mean {' or '.join(names)}?" if names else "see: beholder models list"


def find_towers(name: str) -> tuple[TowerEntry, ...]:
    """Published files for a name: the one that is meant first, then others with the same weights. Empty: an unknown name.

    A backbone's id (a repository of the hub) stands for all its files, in the order of `TOWERS`; with `hf-hub:` before it for
    that repository's own.
    """
    named, backbone = tower_file_named(name), find_backbone(name)
    wanted = named.backbone if named else backbone.id if backbone else _PLAIN_GELU_NAMES.get(name.strip().casefold())
    same = tuple(entry for entry in TOWERS if entry.backbone == wanted and entry is not named)
    return (named, *same) if named else same


def tower_file_named(name: str) -> TowerEntry | None:
    """The very file that a name stands for; None for names of a backbone, which several files hold, and for unknown names."""
    return _TOWERS_BY_NAME.get(name.strip().casefold())


def is_plain_gelu_name(name: str) -> bool:
    """Whether other tools run OpenAI's weights with plain GELU under this name."""
    return name.strip().casefold() in _PLAIN_GELU_NAMES


def openai_repository(repo: str) -> str | None:
    """The backbone whose untouched weights a hub repository holds (timm's `*.openai`, the catalogue's), or None."""
    entry = tower_file_named(repo) or tower_file_named(f"hf-hub:{repo}")
    timm_name = repo.casefold().removeprefix("timm/")
    backbone = find_backbone(timm_name)
    return entry.backbone if entry else _PLAIN_GELU_NAMES.get(timm_name) or (backbone.id if backbone else None)


def tower_by_sha256(digest: str) -> TowerEntry | None:
    """The tower file with this sha256, or None."""
    return next((entry for entry in TOWERS if entry.sha256 == digest), None)


def backbone_by_sha256(digest: str) -> str | None:
    """The backbone whose weights a file of this sha256 holds, or None."""
    entry = tower_by_sha256(digest)
    return entry.backbone if entry else _OTHER_TOWER_FILES.get(digest)


def tower_suggestions(name: str) -> list[str]:
    """Up to three names of towers that look like `name`, best first."""
    known = {alias.casefold(): alias for backbone in BACKBONES for alias in (backbone.id, *backbone.aliases)}
    known |= {entry.name.casefold(): entry.name for entry in TOWERS}
    return [known[key] for key in difflib.get_close_matches(name.strip().casefold(), list(known), n=3, cutoff=0.6)]
