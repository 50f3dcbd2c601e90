"""Towers of timm, open_clip and transformers: as the engine wants them, loaded by name, known by the hash of their weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from beholder.errors import BeholderError, HeadError, kind_and_text
from beholder.libraries.names import DIGEST_LENGTH, TowerName, imported
from beholder.libraries.transforms import Normalisation, cut_of, normalisation_of, whole_of
from beholder.models import download
from beholder.models.catalog import Source

if TYPE_CHECKING:
    from beholder.libraries.networks import FeatureKind

ACTIVATION = "as published"
"""What stands in records in the place of a CLIP tower's activation."""
_DISTRIBUTIONS = {"timm": "timm", "open_clip": "open_clip_torch", "transformers": "transformers"}
_LARGEST_FAULT = 1e-5
"""Most that normalised pixels of the trial picture may differ from the library's own; float32 roundings are 100 times less."""
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


@dataclass(frozen=True, eq=False, kw_only=True)
class LibraryTower:
    """A loaded image tower of another library.

    Attributes:
        name: `LIBRARY:MODEL#DIGEST`, which names the space of its embeddings; DIGEST is the beginning of `sha256`, or
            where the model has a configuration of its own (`Network.settings`) of the sha256 of both.
        backbone: the same.
        shape: side of the picture, length of the embedding.
        activation: `ACTIVATION`.
        module: the network with the end of its preprocessing, float32 on the CPU, frozen, in eval mode.
        sha256: of the image side's tensors with their names, as `weights_sha256` has it.
        kind: "pooled" or "projected".
        transform: the library's preprocessing up to uint8 pixels, for `pixels.picture.PixelOptions.transform`.
        library, version: what it was made with.
        source: where the weights came from; licence: theirs, where the library tells.
    """

    name: str
    backbone: str
    shape: LibraryShape
    activation: str
    module: LibraryModule = field(repr=False)
    sha256: str
    kind: FeatureKind
    transform: str
    normalisation: Normalisation
    library: str
    version: str
    source: str
    licence: str | None

    def describe(self) -> dict[str, Any]:
        """A JSON-ready record that tells this tower from all others; for stamps."""
        return {
            "name": self.name, "backbone": self.backbone, "library": self.library, "library_version": self.version,
            "sha256": self.sha256, "sha256_of": "tensors", "features": self.kind, "dim": self.shape.dim,
            "image_px": self.shape.image_px, "preprocessing": json.loads(self.transform),
            "normalisation": asdict(self.normalisation), "source": self.source, "licence": self.licence,
        }  # fmt: skip


def load_library_tower(name: TowerName, *, offline: bool | None = None) -> LibraryTower:
    """Load a tower of another library, float32 on the CPU.

    Raises HeadError: no such library, model or weights; other weights than the name asks for; no image tower; one line.
    """
    imported(name.library)
    from beholder.libraries.networks import load_network

    with torch.inference_mode(False):
        network = load_network(name, _fetch_with(offline), is_offline=download.is_hub_offline(offline))
        sha256 = weights_sha256(network.module)
        digest = _digest_of(sha256, network.settings)
        if name.digest and digest != name.digest:
            raise HeadError(
                f"the weights of {name} are {digest}, not {name.digest}; where you have the others, write "
                f"{name.library}:{name.model}@FILE"
            )
        space = replace(name, model=network.model, digest=digest).space
        try:
            side = _side_of(network.transform)
            normalisation = normalisation_of(network.transform)
            module = LibraryModule(network.module, normalisation, LibraryShape(space, side, 1)).eval()
            _check_normalisation(module, network.transform)
            dim = _dim_of(module, side)
        except BeholderError as error:
            raise HeadError(f"{name}: {error}") from None
    module.shape = LibraryShape(space, side, dim)
    return LibraryTower(
        name=space, backbone=space, shape=module.shape, activation=ACTIVATION, module=module, sha256=sha256, kind=network.kind,
        transform=network.transform, normalisation=normalisation, library=name.library,
        version=version(_DISTRIBUTIONS[name.library]), source=network.source, licence=network.licence,
    )  # fmt: skip


def _digest_of(sha256: str, settings: str) -> str:
    """What tells spaces of one name apart: the weights, and a configuration that comes with them."""
    both = hashlib.sha256(f"{sha256}\n{settings}".encode()).hexdigest() if settings else sha256
    return both[:DIGEST_LENGTH]


def _fetch_with(offline: bool | None) -> Any:
    """A `networks.Fetch` through the hub's own cache."""

    def fetch(repo: str, files: Sequence[str], revision: str) -> Path:
        def get(source: Source) -> Path:
            found = download.newest_copy(source, None, offline)
            return found if isinstance(found, Path) else download.from_hub(source)

        sources = [Source(repo=repo, file=file, revision=revision) for file in files]
        return download.first_of(sources, get, offline, f"that are needed: {', '.join(files)}")

    return fetch


def _trial_picture(width: int, height: int) -> Any:
    """A Pillow image of noise, the same for ever."""
    from PIL import Image

    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def _side_of(transform: str) -> int:
    """Side of the square that the transform makes of any picture. Raises HeadError."""
    shapes = {cut_of(transform)(_trial_picture(*size)).shape for size in ((97, 61), (50, 83))}
    if len(shapes) > 1:
        raise HeadError("its preprocessing makes pictures of different sizes, and a batch needs one")
    height, width, *rest = shapes.pop()
    if height != width or rest != [3]:
        raise HeadError(f"it takes pictures of {width} x {height} pixels, and beholder's towers take squares in colour")
    return int(height)


def _check_normalisation(module: LibraryModule, transform: str) -> None:
    """Raise HeadError where pixels that are normalised by the tower are not those of the library's whole pipeline."""
    image = _trial_picture(97, 61)
    wanted: npt.NDArray[np.float32] = whole_of(transform)(image)
    found = module.normalised(torch.from_numpy(cut_of(transform)(image))[None])[0].numpy()
    if found.shape != wanted.shape or not np.abs(found - wanted).max() <= _LARGEST_FAULT:
        raise HeadError("its preprocessing ends in more than a normalisation by channel")


def _dim_of(module: LibraryModule, side: int) -> int:
    """Length of an embedding, found by making one. Raises HeadError where the network gives no vector a picture."""
    try:
        with torch.inference_mode():
            found = module(torch.full((2, side, side, 3), 128, dtype=torch.uint8))
    except BeholderError:
        raise
    except Exception as error:  # whatever the network does with one tensor of pictures
        raise HeadError(f"it is no tower that takes pictures alone: {kind_and_text(error)}") from None
    if found.ndim != 2 or len(found) != 2:
        raise HeadError(f"it gives {tuple(found.shape)} for two pictures, and one vector for each is needed")
    return int(found.shape[1])
