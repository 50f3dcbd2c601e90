"""CLIP's image tower and heads as torch modules: uint8 pictures to embeddings to scores, one definition for every shape.

OpenAI's `VisionTransformer` (https://github.com/openai/CLIP/blob/dcba3cb2e2827b402d2701e7e1c7d9fed8a20ef1/clip/model.py#L206),
with three changes that leave its numbers alone: pixels come as uint8 and their normalisation is inside the patch embedding; the
patch embedding is a matrix product over flattened patches; in the last block only the class token is asked.

Letters in shape comments: B pictures, S image_px, P patch_px, G patches a side, T tokens = 1 + G*G, W width, H heads, D dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from beholder.models.backbones import LAYER_NORM_EPS, PIXEL_MEAN, PIXEL_STD, TowerActivation, TowerShape
from beholder.models.tower_layouts import canonical_shapes

if TYPE_CHECKING:
    from beholder.models.library_towers import LibraryModule

PIXEL_CENTRE = 128
"""Taken from every uint8 value first: -128 ... 127 is exact in bfloat16 too, and the sums stay small."""


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI's activation: x * sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head self-attention with the products of query, key and value in one."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Every token asks every token."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # [B, T, W] each
        return self._attend(q, k, v)  # [B, T, W]

    def forward_first(self, x: Tensor) -> Tensor:
        """Only the first token asks."""
        weight, bias, width = self.qkv.weight, self.qkv.bias, x.shape[-1]
        q = F.linear(x[:, :1], weight[:width], bias[:width])  # [B, 1, W]
        k, v = F.linear(x, weight[width:], bias[width:]).chunk(2, dim=-1)  # [B, T, W] each
        return self._attend(q, k, v)  # [B, 1, W]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        head_dim = q.shape[-1] // self.num_heads
        q, k, v = (part.view(*part.shape[:2], self.num_heads, head_dim).transpose(1, 2) for part in (q, k, v))  # [B, H, T, W/H]
        mixed = F.scaled_dot_product_attention(q, k, v)  # [B, H, queries, W/H]
        found: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return found


class Block(nn.Module):
    """x += attention(norm_1(x)); x += mlp(norm_2(x))."""

    def __init__(self, shape: TowerShape, activation: TowerActivation) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(shape.width, LAYER_NORM_EPS)
        self.attn = Attention(shape.width, shape.num_heads)
        self.norm_2 = nn.LayerNorm(shape.width, LAYER_NORM_EPS)
        self.mlp_in = nn.Linear(shape.width, shape.mlp_width)
        self.mlp_out = nn.Linear(shape.mlp_width, shape.width)
        self.activation = quick_gelu if activation == "quick_gelu" else F.gelu

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, W) -> (B, T, W)."""
        x = x + self.attn(self.norm_1(x))
        return x + self._mlp(self.norm_2(x))

    def forward_first(self, x: Tensor) -> Tensor:
        """(B, T, W) -> (B, 1, W): what `forward` gives for the first token, without the work for the others."""
        first = x[:, :1] + self.attn.forward_first(self.norm_1(x))
        return first + self._mlp(self.norm_2(first))

    def _mlp(self, x: Tensor) -> Tensor:
        found: Tensor = self.mlp_out(self.activation(self.mlp_in(x)))
        return found


class ClipVisionTower(nn.Module):
    """CLIP's image tower. Embeddings are CLIP's projection, not normalised.

    Parameters carry the canonical names of `canonical_shapes`; `patch` alone differs from a checkpoint: it holds the pixels'
    normalisation as well (`load_canonical`).
    """

    def __init__(self, shape: TowerShape, activation: TowerActivation = "quick_gelu") -> None:
        """Weights are torch's own random ones until `load_canonical`; make it under `torch.device("meta")` to spend nothing."""
        super().__init__()
        self.shape = shape
        self.activation = activation
        self.patch = nn.Linear(shape.patch_px**2 * 3, shape.width)  # on pixels - 128, in order (row, column, channel)
        self.class_token = nn.Parameter(torch.zeros(shape.width))
        self.positions = nn.Parameter(torch.zeros(shape.num_tokens, shape.width))
        self.norm_pre = nn.LayerNorm(shape.width, LAYER_NORM_EPS)
        self.blocks = nn.ModuleList(Block(shape, activation) for _ in range(shape.num_layers))
        self.norm_post = nn.LayerNorm(shape.width, LAYER_NORM_EPS)
        self.projection = nn.Linear(shape.width, shape.dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, S, S, 3) uint8, height x width x RGB -> (B, D) embeddings, float32 (float64 where the tower is)."""
        return _wide(self.projection(self._hidden(self.centred(pixels))))

    def hidden(self, pixels: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, W): the class token after the last norm, before the projection."""
        return _wide(self._hidden(self.centred(pixels)))

    def embed_images(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) float in [0, 1], RGB -> (B, D) embeddings; differentiable with respect to the images."""
        centred = images.to(self.patch.weight.dtype) * 255 - PIXEL_CENTRE
        return _wide(self.projection(self._hidden(centred.permute(0, 2, 3, 1))))

    def centred(self, pixels: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> the same in the weights' dtype, minus 128; exact in every dtype from bfloat16 up."""
        return pixels.to(self.patch.weight.dtype) - PIXEL_CENTRE

    def tokens(self, centred: Tensor) -> Tensor:
        """(B, S, S, 3) pixels - 128 -> (B, T, W): what the first block is given."""
        side = self.shape.image_px
        if centred.shape[1:] != (side, side, 3):
            raise ValueError(f"pictures must be {side} x {side} x 3, not {tuple(centred.shape[1:])}")
        grid, patch = side // self.shape.patch_px, self.shape.patch_px
        patches = centred.reshape(len(centred), grid, patch, grid, patch, 3).transpose(2, 3)  # [B, G, G, P, P, 3]
        x = self.patch(patches.flatten(3).flatten(1, 2))  # [B, G*G, W]
        class_token = self.class_token.expand(len(x), 1, -1)  # [B, 1, W]
        found: Tensor = self.norm_pre(torch.cat([class_token, x], dim=1) + self.positions)
        return found  # [B, T, W]

    def _hidden(self, centred: Tensor) -> Tensor:
        x = self.tokens(centred)
        for block in self.blocks[:-1]:
            x = block(x)
        last: Block = self.blocks[-1]  # type: ignore[assignment]
        found: Tensor = self.norm_post(last.forward_first(x)[:, 0])
        return found  # [B, W]

    def load_canonical(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the tensors of `canonical_shapes`, any float dtype, as float32 on their own device, without a second copy.

        `projection.bias` may be missing (it then is zero). The tensors become the tower's parameters; do not change them after.
        """
        state = {name: tensor.detach().float() for name, tensor in tensors.items() if name != "patch.weight"}
        weight, bias = folded_patch(tensors["patch.weight"])
        state |= {"patch.weight": weight, "patch.bias": bias}
        state.setdefault("projection.bias", torch.zeros(self.shape.dim, device=weight.device))
        self.load_state_dict(state, strict=True, assign=True)
        self.requires_grad_(False)


def folded_patch(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The patch convolution on normalised pixels -> (weight, bias) of a Linear on uint8 - 128, computed in float64.

    (W, 3, P, P) -> (W, P*P*3) in the order (row, column, channel), and (W,), both float32:
    w . (u/255 - mean)/std = w/(255 std) . (u - 128) + sum of w (128/255 - mean)/std.
    """
    exact = weight.detach().double()
    mean, std = (torch.tensor(c, dtype=torch.float64, device=weight.device).view(1, 3, 1, 1) for c in (PIXEL_MEAN, PIXEL_STD))
    bias = (exact * ((PIXEL_CENTRE / 255 - mean) / std)).sum(dim=(1, 2, 3))  # [W]
    scaled = (exact / (255 * std)).permute(0, 2, 3, 1).flatten(1)  # [W, P*P*3]
    return scaled.float(), bias.float()


class HeadModule(nn.Module):
    """score = layers(x / |x|): (B, D) -> (B,). Weights are buffers, so nothing trains them and `.to()` moves them.

    A row of zeros gives NaN, as everywhere in beholder. Input of another dtype is converted to the weights' dtype first.
    """

    def __init__(self, layers: Sequence[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]) -> None:
        """Take (weight (out, in), bias (out,)) pairs; ReLU stands after all but the last. Kept as float32."""
        super().__init__()
        self.num_layers = len(layers)
        for number, (weight, bias) in enumerate(layers):
            self.register_buffer(f"weight_{number}", torch.tensor(weight, dtype=torch.float32))
            self.register_buffer(f"bias_{number}", torch.tensor(bias, dtype=torch.float32))

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, D) embeddings, not necessarily normalised -> (B,) scores."""
        first = self.get_buffer("weight_0")
        with torch.autocast(device_type=embeddings.device.type, enabled=False):
            x = embeddings.to(first.dtype)  # [B, D]
            x = x / x.detach().abs().amax(dim=-1, keepdim=True)  # the length is then in float32's range; 0/0 is NaN
            x = x / x.norm(dim=-1, keepdim=True)
            for number in range(self.num_layers):
                x = F.linear(x, self.get_buffer(f"weight_{number}"), self.get_buffer(f"bias_{number}"))
                if number < self.num_layers - 1:
                    x = F.relu(x)
            return x.squeeze(-1)  # [B]


class PictureScoreModule(nn.Module):
    """Pictures to scores, differentiable: (B, 3, S, S) float in [0, 1] -> (B,). The tower's weights are shared, not copied."""

    def __init__(self, tower: ClipVisionTower | LibraryModule, head: nn.Module) -> None:
        super().__init__()
        self.tower, self.head = tower, head

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) RGB, height x width, float in [0, 1], already S x S -> (B,) scores."""
        if not images.is_floating_point():
            raise TypeError(f"images must be floats in [0, 1], not {images.dtype}; divide uint8 pixels by 255")
        scores: Tensor = self.head(self.tower.embed_images(images))
        return scores


def build_tower(shape: TowerShape, activation: TowerActivation, tensors: Mapping[str, Tensor]) -> ClipVisionTower:
    """A tower with these canonical tensors, frozen, in eval mode; memory is spent on the tensors once."""
    with torch.device("meta"):
        tower = ClipVisionTower(shape, activation)
    tower.load_canonical(tensors)
    return tower.eval()


def without_projection(tower: ClipVisionTower) -> ClipVisionTower:
    """A tower of the same weights that gives what `tower.hidden` gives, as its embedding of length W; nothing is copied."""
    shape = replace(tower.shape, dim=tower.shape.width)
    with torch.device("meta"):
        found = ClipVisionTower(shape, tower.activation)
    like = tower.projection.weight
    identity = {
        "projection.weight": torch.eye(shape.width, dtype=like.dtype, device=like.device),
        "projection.bias": torch.zeros(shape.width, dtype=like.dtype, device=like.device),
    }
    found.load_state_dict({**tower.state_dict(), **identity}, strict=True, assign=True)
    return found.requires_grad_(False).eval()


def random_tensors(shape: TowerShape, seed: int = 0) -> dict[str, Tensor]:
    """Canonical float32 tensors of a tower nobody trained, with the spreads of CLIP's initialisation; same seed, same bytes.

    Norms and biases, which CLIP starts at 1 and 0, are spread a little as well, so that no mistake in them goes unseen.
    """
    make = torch.Generator().manual_seed(seed)
    width = shape.width
    residual = (width * 2 * shape.num_layers) ** -0.5
    spreads = {
        "patch.weight": (3 * shape.patch_px**2) ** -0.5, "class_token": width**-0.5, "positions": width**-0.5,
        "attn.qkv.weight": width**-0.5, "attn.out.weight": residual, "mlp_in.weight": (2 * width) ** -0.5,
        "mlp_out.weight": residual, "projection.weight": width**-0.5,
    }  # fmt: skip
    found: dict[str, Tensor] = {}
    for name, size in canonical_shapes(shape).items():
        spread = next((value for part, value in spreads.items() if name.endswith(part)), 0.05)
        tensor = torch.empty(size).uniform_(-spread * 3**0.5, spread * 3**0.5, generator=make)
        found[name] = tensor.add_(1.0) if "norm" in name and name.endswith("weight") else tensor
    return found


def random_tower(shape: TowerShape, seed: int = 0, activation: TowerActivation = "quick_gelu") -> ClipVisionTower:
    """A tower nobody trained, for tests, benchmarks and demonstrations; its embeddings mean nothing."""
    return build_tower(shape, activation, random_tensors(shape, seed))


def _wide(embeddings: Tensor) -> Tensor:
    return embeddings if embeddings.dtype == torch.float64 else embeddings.float()
