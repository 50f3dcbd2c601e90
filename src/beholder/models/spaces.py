"""The mean image embedding of each tower: embeddings of other towers, or of texts, lie elsewhere.

The numbers, their source and what was measured: `models/data/README.md`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from beholder.models.backbones import canonical_backbone

_ARRAYS = {"openai/clip-vit-large-patch14": "vit_l_14", "openai/clip-vit-base-patch32": "vit_b_32"}
_NAMES = {"vit_l_14": "CLIP ViT-L/14", "vit_b_32": "CLIP ViT-B/32"}
CLEAR_COSINE, LEAST_COSINE = 0.45, 0.3
"""Mean cosine of a set to the centroid of its space: below the first it is doubtful, below the second it is another space."""


@dataclass(frozen=True, eq=False)
class Space:
    """The embeddings of one tower.

    Attributes:
        backbone: the tower's id.
        name: the tower's name as people say it.
        centroid: (D,) float64 of length 1: the mean direction of image embeddings.
    """

    backbone: str
    name: str
    centroid: npt.NDArray[np.float64]


def space_of(backbone: str) -> Space | None:
    """The space of the tower that `backbone` stands for, by any tool's name; None where its centroid is not known."""
    canonical = canonical_backbone(backbone)
    return None if canonical is None or canonical not in _ARRAYS else _load(canonical)


@functools.cache
def _load(backbone: str) -> Space:
    name = _ARRAYS[backbone]
    with (files("beholder.models") / "data" / "centroids.npz").open("rb") as file, np.load(file) as arrays:
        centroid = arrays[name].astype(np.float64)
    return Space(backbone, _NAMES[name], centroid / np.linalg.norm(centroid))
