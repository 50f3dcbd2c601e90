"""A tower and a few pictures in, factors that make its normalised tokens easy to store in bytes out.

A few channels of CLIP's tokens are many times larger than the rest, on every token. In a row with one scale they leave
the others few steps. So each channel is divided by a factor, in the LayerNorm's gain and shift, and its column of weights is
multiplied by it (SmoothQuant, https://arxiv.org/abs/2211.10438, equation 4 with alpha = 1/2). The factors are powers of
two: dividing by them is exact, and a last bit more or less in the measurement does not change them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from beholder.models.clip import Block, ClipVisionTower


@dataclass(frozen=True)
class BlockBalance:
    """Factors (W,) of the channels that go into query, key and value, and into the MLP."""

    qkv: Tensor
    mlp_in: Tensor


def balance(tower: ClipVisionTower, pixels: Tensor) -> list[BlockBalance]:
    """Factors for every block but the last, from (n, S, S, 3) uint8 pictures computed in float32."""
    found: list[BlockBalance] = []
    with torch.inference_mode():
        x = tower.tokens(tower.centred(pixels))
        for block in tower.blocks[:-1]:
            assert isinstance(block, Block)
            normed = block.norm_1(x)
            x = x + block.attn(normed)
            qkv = _factors(normed, block.attn.qkv.weight)
            normed = block.norm_2(x)
            x = x + block._mlp(normed)
            found.append(BlockBalance(qkv, _factors(normed, block.mlp_in.weight)))
    return found


def _factors(tokens: Tensor, weight: Tensor) -> Tensor:
    """sqrt(largest token / largest weight) of each channel, to the next power of two; the middle one is 1."""
    largest = tokens.abs().flatten(0, -2).amax(dim=0).clamp_min(1e-6)  # [W]
    wanted = torch.log2(largest / weight.abs().amax(dim=0).clamp_min(1e-6)) / 2
    return torch.exp2((wanted - wanted.median()).round())
