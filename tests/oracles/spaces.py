"""Made embeddings that lie at a chosen cosine to the centroid of a tower's space."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.models.spaces import space_of


def rows_at(
    cosine: float, num_rows: int, backbone: str = "ViT-L/14", *, seed: int = 0, dtype: npt.DTypeLike = np.float32
) -> npt.NDArray[Any]:
    """(num_rows, D) rows of different lengths, each at exactly this cosine, up to rounding."""
    space = space_of(backbone)
    assert space is not None
    make = np.random.default_rng(seed)
    aside = make.standard_normal((num_rows, space.centroid.size))
    aside -= np.outer(aside @ space.centroid, space.centroid)
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    rows = cosine * space.centroid + np.sqrt(1 - cosine**2) * aside
    return (rows * make.uniform(0.5, 12, (num_rows, 1))).astype(dtype)
