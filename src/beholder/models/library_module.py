"""A tower of another library as beholder's engine wants it: uint8 pictures in, embeddings out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from beholder.libraries.transforms import Normalisation

_PATCH_PX = 16


@dataclass(frozen=True)
class LibraryShape:
    """What is known of another library's tower.

    Attributes:
        name: its space, which stands for the network's sizes.
        image_px: side of the square picture, in pixels.
        dim: length of the embedding.
    """

    name: str
    image_px: int
    dim: int

    @property
    def num_tokens(self) -> int:
        """Of a vision transformer of this picture size with patches of 16: what batches on a processor are sized by."""
        return (self.image_px // _PATCH_PX) ** 2 + 1


class LibraryModule(nn.Module):
    """The library's own network behind the last two steps of its preprocessing. Embeddings are not normalised.

    Attributes:
        shape: see `LibraryShape`.
        activation: stands beside the weights' sha256 where measurements are kept: the name, since networks with other
            activations can have the same weights.
    """

    def __init__(self, network: nn.Module, normalisation: Normalisation, shape: LibraryShape) -> None:
        super().__init__()
        self.network, self.shape, self.activation = network, shape, shape.name
        self._divisor = normalisation.divisor
        for name in ("mean", "std"):
            values = torch.tensor(getattr(normalisation, name), dtype=torch.float32).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, S, S, 3) uint8, height x width x RGB -> (B, D) float32."""
        return self.features(self.normalised(pixels))

    def normalised(self, pixels: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, 3, S, S) float32, as the library's own preprocessing ends."""
        fractions = pixels.permute(0, 3, 1, 2).to(torch.float32).contiguous() / self._divisor
        return self._spread(fractions)

    def embed_images(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) float in [0, 1], RGB -> (B, D); differentiable with respect to the images."""
        return self.features(self._spread(images.to(torch.float32) * (255 / self._divisor)))

    def features(self, normalised: Tensor) -> Tensor:
        """(B, 3, S, S) float32 -> (B, D) float32."""
        found: Tensor = self.network(normalised)
        return found.float()

    def _spread(self, fractions: Tensor) -> Tensor:
        return (fractions - self.get_buffer("mean")) / self.get_buffer("std")


def weights_sha256(module: nn.Module) -> str:
    """Lower-case hex sha256 of a module's tensors and their names; for towers that are known by no file of their own."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()
