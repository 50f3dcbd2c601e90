"""Layers of a head, or a tower and a head, in; a differentiable torch module out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from beholder.models.clip import ClipVisionTower


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

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(B, D) embeddings, not necessarily normalised -> (B,) scores."""
        first = self.get_buffer("weight_0")
        with torch.autocast(device_type=embeddings.device.type, enabled=False):
            x = embeddings.to(first.dtype)  # [B, D]
            x = x / x.detach().abs().amax(dim=-1, keepdim=True)  # the length is then in float32's range; 0/0 is NaN
            x = x / x.norm(dim=-1, keepdim=True)
            for number in range(self.num_layers):
                x = nn.functional.linear(x, self.get_buffer(f"weight_{number}"), self.get_buffer(f"bias_{number}"))
                if number < self.num_layers - 1:
                    x = nn.functional.relu(x)
            return x.squeeze(-1)  # [B]


class PictureScoreModule(nn.Module):
    """Pictures to scores, differentiable: (B, 3, S, S) float in [0, 1] -> (B,). The tower's weights are shared, not copied."""

    def __init__(self, tower: ClipVisionTower, head: nn.Module) -> None:
        super().__init__()
        self.tower, self.head = tower, head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) RGB, height x width, float in [0, 1], already S x S -> (B,) scores."""
        if not images.is_floating_point():
            raise TypeError(f"images must be floats in [0, 1], not {images.dtype}; divide uint8 pixels by 255")
        scores: torch.Tensor = self.head(self.tower.embed_images(images))
        return scores
