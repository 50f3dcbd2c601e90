"""The sizes of a CLIP image tower in numbers: the four published ones, the checks on others, and CLIP's pixel constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from beholder.errors import BeholderError

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


SHAPES: Mapping[str, TowerShape] = {
    "openai/clip-vit-base-patch32": TowerShape(224, 32, 768, 12, 12, 3072, 512),
    "openai/clip-vit-base-patch16": TowerShape(224, 16, 768, 12, 12, 3072, 512),
    "openai/clip-vit-large-patch14": TowerShape(224, 14, 1024, 24, 16, 4096, 768),
    "openai/clip-vit-large-patch14-336": TowerShape(336, 14, 1024, 24, 16, 4096, 768),
}
"""The published towers, by the id of `backbones.py`."""
