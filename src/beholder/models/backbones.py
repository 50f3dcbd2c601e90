"""A name of a CLIP image tower in, as any tool writes it; the one id that stamps are compared by out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Backbone:
    """An image tower with published weights.

    Attributes:
        id: its Hugging Face repository, which is how beholder names it.
        dim: length of its embedding (the projection, not the hidden state before it).
        tower: (patch in pixels, tokens, width) of the vision transformer, by which its tensors are recognised.
        aliases: other tools' names for the same weights run with the same activation (QuickGELU).
    """

    id: str
    dim: int
    tower: tuple[int, int, int]
    aliases: tuple[str, ...]


# Left out on purpose: "ViT-L-14/openai" of open_clip and timm's "vit_large_patch14_clip_224.openai". Since open_clip 2.29
# (2024-10) and in timm these names run OpenAI's weights with plain GELU, which gives other embeddings.
BACKBONES: tuple[Backbone, ...] = (
    Backbone(
        "openai/clip-vit-large-patch14",
        768,
        (14, 257, 1024),
        (
            "ViT-L/14",
            "clip:ViT-L/14",
            "ViT-L-14-quickgelu/openai",
            "open_clip:ViT-L-14-quickgelu/openai",
            "vit_large_patch14_clip_quickgelu_224.openai",
            "vit_l14_pn_quick_gelu_openai-clip",
            "birder-project/vit_l14_pn_quick_gelu_openai-clip",
        ),
    ),
    Backbone(
        "openai/clip-vit-large-patch14-336",
        768,
        (14, 577, 1024),
        (
            "ViT-L/14@336px",
            "ViT-L/14@336",
            "clip:ViT-L/14@336px",
            "ViT-L-14-336-quickgelu/openai",
            "open_clip:ViT-L-14-336-quickgelu/openai",
            "vit_large_patch14_clip_quickgelu_336.openai",
        ),
    ),
    Backbone(
        "openai/clip-vit-base-patch32",
        512,
        (32, 50, 768),
        (
            "ViT-B/32",
            "clip:ViT-B/32",
            "ViT-B-32-quickgelu/openai",
            "open_clip:ViT-B-32-quickgelu/openai",
            "vit_base_patch32_clip_quickgelu_224.openai",
        ),
    ),
    Backbone(
        "openai/clip-vit-base-patch16",
        512,
        (16, 197, 768),
        (
            "ViT-B/16",
            "clip:ViT-B/16",
            "ViT-B-16-quickgelu/openai",
            "open_clip:ViT-B-16-quickgelu/openai",
            "vit_base_patch16_clip_quickgelu_224.openai",
        ),
    ),
)

_BY_NAME = {name.casefold(): backbone for backbone in BACKBONES for name in (backbone.id, *backbone.aliases)}


def find_backbone(name: str) -> Backbone | None:
    """The tower that `name` stands for, or None when it is not in the table. Case does not matter."""
    return _BY_NAME.get(name.strip().casefold())


def canonical_backbone(name: str) -> str | None:
    """The id of the tower that `name` stands for, or None when it is not in the table."""
    backbone = find_backbone(name)
    return backbone.id if backbone is not None else None


def same_backbone(a: str, b: str) -> bool:
    """Whether two names stand for the same tower. Names outside the table are the same only when they are spelt alike."""
    return (canonical_backbone(a) or a.strip().casefold()) == (canonical_backbone(b) or b.strip().casefold())


def backbone_of_tower(patch: int, tokens: int, width: int, dim: int) -> str | None:
    """The id of the OpenAI tower with these sizes, or None. Sizes cannot tell OpenAI's weights from others of that shape."""
    return next((b.id for b in BACKBONES if b.tower == (patch, tokens, width) and b.dim == dim), None)
