"""CLIP's image towers: the sizes they have, and the names that other tools give the published ones.

Stamps are compared by a tower's id, its Hugging Face repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from beholder.errors import BeholderError
from beholder.libraries.names import same_space, space_of_name

TowerActivation = Literal["quick_gelu", "gelu"]
ACTIVATIONS: tuple[TowerActivation, ...] = ("quick_gelu", "gelu")

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of red, green and blue in [0, 1]: https://github.com/openai/CLIP/blob/dcba3cb2e2827b402d2701e7e1c7d9fed8a20ef1/clip/clip.py#L85."""

LAYER_NORM_EPS = 1e-5
HEAD_DIM = 64
"""Width of an attention head in every published tower: num_heads = width // 64 (`build_model` in clip/model.py)."""


@dataclass(frozen=True)
class TowerShape:
    """Sizes of a CLIP image tower.

    Attributes:
        image_px: side of the square picture, in pixels.
        patch_px: side of a patch, in pixels.
        width: length of a token.
        num_layers: transformer blocks.
        num_heads: attention heads in a block; each is width / num_heads long.
        mlp_width: hidden length of a block's MLP.
        dim: length of the embedding (after the projection).
    """

    image_px: int
    patch_px: int
    width: int
    num_layers: int
    num_heads: int
    mlp_width: int
    dim: int

    def __post_init__(self) -> None:
        """Refuse sizes that make no tower."""
        if min(self.image_px, self.patch_px, self.width, self.num_heads, self.mlp_width, self.dim) < 1 or self.num_layers < 1:
            raise BeholderError(f"a tower's sizes must be at least 1: {self}")
        if self.image_px % self.patch_px or self.width % self.num_heads:
            raise BeholderError(f"a tower's patches must fill its picture, and its heads its width: {self}")

    @property
    def num_patches(self) -> int:
        """Patches in a picture."""
        return (self.image_px // self.patch_px) ** 2

    @property
    def num_tokens(self) -> int:
        """The class token and the patches."""
        return self.num_patches + 1

    @property
    def num_macs(self) -> int:
        """Multiply-adds in matrix products for one picture: patches, 12 width^2-like products a block, attention, projection.

        In the last block only the class token is queried. Twice this is the number of floating-point operations.
        """
        tokens, width = self.num_tokens, self.width
        patches = self.num_patches * 3 * self.patch_px**2 * width
        per_query = 2 * width * width + 2 * width * self.mlp_width + 2 * tokens * width
        keys_and_values = tokens * 2 * width * width
        blocks = self.num_layers * keys_and_values + ((self.num_layers - 1) * tokens + 1) * per_query
        return patches + blocks + width * self.dim

    @classmethod
    def small(
        cls, *, image_px: int = 28, patch_px: int = 14, width: int = 128, num_layers: int = 2, dim: int = 32
    ) -> TowerShape:
        """A tower for tests and demonstrations, with OpenAI's proportions: heads of 64, an MLP of 4 x width."""
        return cls(image_px, patch_px, width, num_layers, width // HEAD_DIM, 4 * width, dim)


@dataclass(frozen=True)
class Backbone:
    """An image tower with published weights.

    Attributes:
        id: its Hugging Face repository, which is how beholder names it.
        shape: its sizes.
        aliases: other tools' names for the same weights run with the same activation (QuickGELU).
    """

    id: str
    shape: TowerShape
    aliases: tuple[str, ...]

    @property
    def dim(self) -> int:
        """Length of its embedding (the projection, not the hidden state before it)."""
        return self.shape.dim


def _openai(kind: str, clip: str, open_clip: str, timm: str, shape: TowerShape, *others: str) -> Backbone:
    """One of OpenAI's towers, with the names of its weights in CLIP's, open_clip's and timm's code."""
    # Left out on purpose: "ViT-L-14/openai" of open_clip and timm's "vit_large_patch14_clip_224.openai". Since open_clip 2.29
    # (2024-10) and in timm these names run OpenAI's weights with plain GELU, which gives other embeddings.
    with_quick_gelu = f"{open_clip}-quickgelu/openai"
    names = (clip, f"clip:{clip}", with_quick_gelu, f"open_clip:{with_quick_gelu}", timm, *others)
    return Backbone(f"openai/clip-vit-{kind}", shape, names)


_BIRDER = "vit_l14_pn_quick_gelu_openai-clip"
BACKBONES: tuple[Backbone, ...] = (
    _openai(
        "large-patch14", "ViT-L/14", "ViT-L-14", "vit_large_patch14_clip_quickgelu_224.openai",
        TowerShape(224, 14, 1024, 24, 16, 4096, 768), _BIRDER, f"birder-project/{_BIRDER}",
    ),
    _openai(
        "large-patch14-336", "ViT-L/14@336px", "ViT-L-14-336", "vit_large_patch14_clip_quickgelu_336.openai",
        TowerShape(336, 14, 1024, 24, 16, 4096, 768), "ViT-L/14@336",
    ),
    _openai(
        "base-patch32", "ViT-B/32", "ViT-B-32", "vit_base_patch32_clip_quickgelu_224.openai",
        TowerShape(224, 32, 768, 12, 12, 3072, 512),
    ),
    _openai(
        "base-patch16", "ViT-B/16", "ViT-B-16", "vit_base_patch16_clip_quickgelu_224.openai",
        TowerShape(224, 16, 768, 12, 12, 3072, 512),
    ),
)  # fmt: skip

SHAPES: Mapping[str, TowerShape] = {backbone.id: backbone.shape for backbone in BACKBONES}
_BY_NAME = {name.casefold(): backbone for backbone in BACKBONES for name in (backbone.id, *backbone.aliases)}


def find_backbone(name: str) -> Backbone | None:
    """The tower that `name` stands for, or None when it is not in the table. Case does not matter."""
    return _BY_NAME.get(name.strip().casefold())


def canonical_backbone(name: str) -> str | None:
    """The id of the tower that `name` stands for, or None when it is not in the table."""
    backbone = find_backbone(name)
    return backbone.id if backbone is not None else None


def known_backbone(name: str | None) -> str | None:
    """The id of the tower that `name` stands for, or the name as it is; None for no name."""
    return (canonical_backbone(name) or space_of_name(name)) if name else None


def same_backbone(a: str, b: str) -> bool:
    """Whether two names stand for the same tower. Names outside the table are the same only when they are spelt alike.

    Of towers of other libraries the weights' digest counts too, where both names have one.
    """
    first, second = canonical_backbone(a), canonical_backbone(b)
    if first is None and second is None and (is_same := same_space(a, b)) is not None:
        return is_same
    return (first or a.strip().casefold()) == (second or b.strip().casefold())


def backbone_of_tower(patch: int, tokens: int, width: int, dim: int) -> str | None:
    """The id of the OpenAI tower with these sizes, or None. Sizes cannot tell OpenAI's weights from others of that shape."""
    sizes = (patch, tokens, width, dim)
    return next((b.id for b in BACKBONES if (b.shape.patch_px, b.shape.num_tokens, b.shape.width, b.dim) == sizes), None)
