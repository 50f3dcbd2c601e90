"""A head's name, alias or sha256 in; where to get it, how to check it, and what it needs out. Nothing is loaded here.

Every sha256, size and shape of `HEADS` was read from the file itself. The files of `BUNDLES` were never fetched by us.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal, Protocol
from urllib.parse import quote

from beholder.models.backbones import BACKBONES, Backbone, backbone_of_tower, canonical_backbone, find_backbone, same_backbone

__all__ = [
    "BACKBONES", "BUNDLES", "DEFAULT_HEAD", "HEADS", "REFUSED", "Backbone", "HeadEntry", "RefusedHead", "Source",
    "backbone_of_tower", "by_sha256", "canonical_backbone", "find", "find_backbone", "find_refused", "refused_by_sha256",
    "same_backbone", "suggestions",
]  # fmt: skip

Normalisation = Literal["l2", "l2, times sqrt(dim)"]

_L14, _B32, _B16 = (f"openai/clip-vit-{kind}" for kind in ("large-patch14", "base-patch32", "base-patch16"))
DEFAULT_HEAD = "sac+logos+ava1-l14-linearMSE"


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
        if self.plain_url:
            return self.plain_url
        return f"https://huggingface.co/{self.repo}/resolve/{self.revision}/{quote(self.file)}"


class PublishedFile(Protocol):
    """What finding and checking a published file takes, be it of a head or of a tower."""

    @property
    def name(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...
    @property
    def files(self) -> tuple[str, ...]: ...
    @property
    def sources(self) -> tuple[Source, ...]: ...
    @property
    def sha256(self) -> str | None: ...
    @property
    def num_bytes(self) -> int | None: ...


@dataclass(frozen=True, kw_only=True)
class HeadEntry:
    """One public head.

    Attributes:
        name: the name beholder uses for it.
        aliases: other names for it; file names are understood as well, with and without their ending.
        files: names its file goes by, the publisher's first.
        sources: where it is published, in the order they are asked.
        sha256: of the file; None where we never saw the file.
        num_bytes: of the file; None likewise.
        licence: of the weights, as published.
        backbone: id of the tower whose embeddings it scores (`BACKBONES`).
        dim: length of the embedding.
        normalisation: what is done to an embedding first: "l2" divides by its length; "l2, times sqrt(dim)" then multiplies.
        is_affine: whether it is weight . x + bias; otherwise it has ReLUs.
        scale_note: what its numbers mean.
        twin: name of the entry with the same weights by its publisher's account (not checked by us); empty if none.
    """

    name: str
    aliases: tuple[str, ...] = ()
    files: tuple[str, ...]
    sources: tuple[Source, ...]
    sha256: str | None
    num_bytes: int | None
    licence: str
    backbone: str
    dim: int
    normalisation: Normalisation = "l2"
    is_affine: bool = True
    scale_note: str
    twin: str = ""


@dataclass(frozen=True)
class RefusedHead:
    """A public head that beholder recognises and does not run, with the reason."""

    name: str
    aliases: tuple[str, ...]
    sha256: str | None
    reason: str


# Commits: the newest of each repository that we know of, read 2026-11. simulacra-aesthetic-models: branch, pinned by sha256.
_IAP = (
    "https://raw.githubusercontent.com/christophschuhmann/improved-aesthetic-predictor/6934dd81792f086e613a121dbce43082cb8be85e"
)
_LAION = "https://raw.githubusercontent.com/LAION-AI/aesthetic-predictor/6d122adad522ab246644d9dc1c6d7a3810ee255f"
_SIMULACRA = "https://raw.githubusercontent.com/crowsonkb/simulacra-aesthetic-models/main/models"

_V2_NOTE = "trained on a 0-10 scale; about 1 to 8 on web pictures, mean 4.77 on COYO-700M; never clipped"
_AVA_NOTE = "trained on a 0-10 scale (AVA and logo ratings); never clipped; thresholds of other heads do not carry over"
_V1_NOTE = "trained on a 0-10 scale; wider than the v2 heads, below 0 and above 10 occur; never clipped"
_SIMULACRA_NOTE = "trained on the 1-10 ratings of Simulacra Aesthetic Captions; never clipped"


def _from_github(base: str, file: str) -> Source:
    return Source(plain_url=f"{base}/{quote(file)}")


def _improved(name: str, sha256: str, num_bytes: int, *, is_affine: bool) -> HeadEntry:
    file = f"{name}.pth"
    return HeadEntry(
        name=name, files=(file,), sources=(_from_github(_IAP, file),), sha256=sha256,
        num_bytes=num_bytes, licence="Apache-2.0", backbone=_L14, dim=768, is_affine=is_affine, scale_note=_AVA_NOTE,
    )  # fmt: skip


def _laion_v1(kind: str, sha256: str, num_bytes: int, backbone: str, dim: int, aliases: tuple[str, ...]) -> HeadEntry:
    name = f"sa_0_4_vit_{kind}_linear"
    file = f"{name}.pth"
    return HeadEntry(
        name=name, aliases=aliases, files=(file,), sources=(_from_github(_LAION, file),), sha256=sha256,
        num_bytes=num_bytes, licence="MIT", backbone=backbone, dim=dim, scale_note=_V1_NOTE,
    )  # fmt: skip


def _simulacra(kind: str, sha256: str, num_bytes: int, backbone: str, dim: int) -> HeadEntry:
    name = f"sac_public_2022_06_29_vit_{kind}_linear"
    file = f"{name}.pth"
    return HeadEntry(
        name=name, aliases=(f"simulacra-{kind}",), files=(file,), sources=(_from_github(_SIMULACRA, file),), sha256=sha256,
        num_bytes=num_bytes, licence="MIT", backbone=backbone, dim=dim, normalisation="l2, times sqrt(dim)",
        scale_note=_SIMULACRA_NOTE,
    )  # fmt: skip


_DEFAULT_FILES = (f"{DEFAULT_HEAD}.pth", "openai-clip_aesthetic-predictor.pt")

HEADS: tuple[HeadEntry, ...] = (
    HeadEntry(
        name=DEFAULT_HEAD,
        aliases=("laion-v2", "laion-aesthetics-v2", "improved-aesthetic-predictor", "birder-project/aesthetic-predictor"),
        files=_DEFAULT_FILES,
        sources=(
            Source(repo="birder-project/aesthetic-predictor", file=_DEFAULT_FILES[1]),
            _from_github(_IAP, _DEFAULT_FILES[0]),
        ),
        sha256="21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
        num_bytes=3714759,
        licence="Apache-2.0",
        backbone=_L14,
        dim=768,
        scale_note=_V2_NOTE,
    ),
    _improved(
        "ava+logos-l14-linearMSE", "390a3aafaf3b37d57148f9b22f30556de38343064b7d915acfa80d3812b4c9ff", 3714759, is_affine=True
    ),
    _improved(
        "ava+logos-l14-reluMSE", "0af3254c651d55b7ea851429c20f26ec880bb0169805a4df85b814bd7966f3e4", 3714887, is_affine=False
    ),
    _laion_v1(
        "l_14", "2cd4e60f4f24ae3bcd57b847b13c1f3ba27edc28cc1a7f9ce74ee9f421243cba", 4071, _L14, 768,
        ("laion-v1", "laion-aesthetics-v1", "laion-v1-l_14", "sa_0_4"),
    ),
    _laion_v1("b_32", "c7b14cead230694acc7b9447974d3cad78003c72da032e402a303b6c2429e85f", 3047, _B32, 512, ("laion-v1-b_32",)),
    _laion_v1("b_16", "8ad3923d7ecf019df20ecd2ab5542a3075fbba0278d239c0371345f3d7fcbde0", 3047, _B16, 512, ("laion-v1-b_16",)),
    _simulacra("l_14", "f77d1d0f4bb04b0ff8e60c5747fd0bfff0cc4a85263a6106627522c06eae85c6", 4135, _L14, 768),
    _simulacra("b_32", "64315370e2293a08cc2f4816ae9db715f935791569c1a57d84b943e482ea5e12", 3111, _B32, 512),
    _simulacra("b_16", "cdc27b2196565bcb69f2692731084b0189612b98aae74adec033782469ab583c", 3111, _B16, 512),
)  # fmt: skip


def _bundle(repo: str, backbone: str, dim: int, twin: str, *, revision: str = "main", is_affine: bool = True) -> HeadEntry:
    original = next(entry for entry in HEADS if entry.name == twin)
    return HeadEntry(
        name=repo, files=("model.safetensors",), sources=(Source(repo=repo, file="model.safetensors", revision=revision),),
        sha256=None, num_bytes=None, licence=f"not checked; the original weights are {original.licence}", backbone=backbone,
        dim=dim, is_affine=is_affine, scale_note=original.scale_note, twin=twin,
    )  # fmt: skip


BUNDLES: tuple[HeadEntry, ...] = (
    _bundle("shunk031/aesthetics-predictor-v1-vit-large-patch14", _L14, 768, "sa_0_4_vit_l_14_linear"),
    _bundle("shunk031/aesthetics-predictor-v1-vit-base-patch32", _B32, 512, "sa_0_4_vit_b_32_linear"),
    _bundle("shunk031/aesthetics-predictor-v1-vit-base-patch16", _B16, 512, "sa_0_4_vit_b_16_linear"),
    _bundle("shunk031/aesthetics-predictor-v2-sac-logos-ava1-l14-linearMSE", _L14, 768, DEFAULT_HEAD),
    _bundle("shunk031/aesthetics-predictor-v2-ava-logos-l14-linearMSE", _L14, 768, "ava+logos-l14-linearMSE"),
    _bundle("shunk031/aesthetics-predictor-v2-ava-logos-l14-reluMSE", _L14, 768, "ava+logos-l14-reluMSE", is_affine=False),
    _bundle("ttj/sac-logos-ava1-l14-linearMSE", _L14, 768, DEFAULT_HEAD, revision="1e77fa05081323d99725fc40a9bf9f88180490e7"),
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

_ENDINGS = (".pth", ".pt", ".safetensors")


def _key(name: str) -> str:
    folded = name.strip().casefold()
    return next((folded.removesuffix(ending) for ending in _ENDINGS if folded.endswith(ending)), folded)


_BY_NAME = {
    _key(name): entry
    for entry in (*HEADS, *BUNDLES)
    for name in (entry.name, *entry.aliases, *(() if entry in BUNDLES else entry.files))
}
_REFUSED_BY_NAME = {_key(name): head for head in REFUSED for name in (head.name, *head.aliases)}
_BY_SHA256 = {entry.sha256: entry for entry in HEADS}


def find(name: str) -> HeadEntry | None:
    """The entry with this name, alias or file name, or None. Case does not matter."""
    return _BY_NAME.get(_key(name))


def find_refused(name: str) -> RefusedHead | None:
    """The refused head with this name or alias, or None."""
    return _REFUSED_BY_NAME.get(_key(name))


def by_sha256(digest: str) -> HeadEntry | None:
    """The entry whose file has this sha256 (64 lower-case hex digits), or None."""
    return _BY_SHA256.get(digest)


def refused_by_sha256(digest: str) -> RefusedHead | None:
    """The refused head whose file has this sha256, or None."""
    return next((head for head in REFUSED if head.sha256 == digest), None)


def suggestions(name: str) -> list[str]:
    """Up to three names of heads that look like `name`, best first; empty when none does."""
    found: list[str] = []
    for key in difflib.get_close_matches(_key(name), list(_BY_NAME), n=6, cutoff=0.5):
        if _BY_NAME[key].name not in found:
            found.append(_BY_NAME[key].name)
    return found[:3]
