"""Heads written as the checkpoints that other programs load: the published five layers, or LAION's first single one."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from beholder.errors import HeadError, OutputError
from beholder.io import storage, writing
from beholder.kernels.scoring import Affine
from beholder.models.head_layouts import HIDDEN_WIDTHS, LINEAR_POSITIONS, RELU_POSITIONS
from beholder.models.heads import Head

PublishedLayout = Literal["five-layers", "laion-v1"]
PUBLISHED_LAYOUTS: tuple[PublishedLayout, ...] = get_args(PublishedLayout)
SUFFIXES = (".pth", ".pt")

Floats = npt.NDArray[np.float32]


def tensors_in_layout(head: Head, layout: PublishedLayout) -> dict[str, Floats]:
    """The head's numbers, float32, by the names that a layout has.

    five-layers: D-1024-128-64-16-1, as improved-aesthetic-predictor and VDC load them; nothing stands between the layers of an
    affine head. Its weight is the first row of the first layer, whose number the other layers pass on; the bias is that of the
    last one. So the number is that of the head but for its rounding to float32. A head with ReLUs has to be of these widths.
    laion-v1: one layer, `weight` (1, D) and `bias` (1,).

    Raises HeadError for a head that has no such form.
    """
    if layout == "laion-v1":
        if not isinstance(head.math, Affine):
            raise HeadError(f"{head.name} has ReLUs between its layers, so it is no single layer; use five-layers")
        return {"weight": _single(head.math.weight[np.newaxis]), "bias": _single(np.array([head.math.bias]))}
    if isinstance(head.math, Affine):
        return _named(_passing_on(head.math), LINEAR_POSITIONS)
    layers = [(layer.weight, layer.bias) for layer in head.layers]
    if tuple(len(weight) for weight, _ in layers) != (*HIDDEN_WIDTHS, 1):
        widths = "-".join(str(len(weight)) for weight, _ in layers)
        raise HeadError(f"{head.name} has layers of {widths}, not the published {'-'.join(map(str, HIDDEN_WIDTHS))}-1")
    return _named(layers, RELU_POSITIONS)


def _passing_on(math: Affine) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    layers: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = []
    before = len(math.weight)
    for width in (*HIDDEN_WIDTHS, 1):
        weight = np.zeros((width, before))
        if layers:
            weight[0, 0] = 1.0
        else:
            weight[0] = math.weight
        layers.append((weight, np.zeros(width)))
        before = width
    layers[-1] = (layers[-1][0], np.array([math.bias]))
    return layers


def _named(
    layers: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]], positions: tuple[int, ...]
) -> dict[str, Floats]:
    found: dict[str, Floats] = {}
    for position, (weight, bias) in zip(positions, layers, strict=True):
        found |= {f"layers.{position}.weight": _single(weight), f"layers.{position}.bias": _single(bias)}
    return found


def _single(values: npt.NDArray[np.float64]) -> Floats:
    return np.ascontiguousarray(values, np.float32)


def save_published(head: Head, path: str, layout: PublishedLayout = "five-layers") -> str:
    """Write a head as such a checkpoint, where nothing is yet; its sha256. Raises HeadError and OutputError."""
    import torch

    if storage.exists(path):
        raise OutputError(f"{path} is there already; remove it, or choose another name")
    tensors: Mapping[str, torch.Tensor] = {
        name: torch.from_numpy(values) for name, values in tensors_in_layout(head, layout).items()
    }
    buffer = io.BytesIO()
    torch.save(dict(tensors), buffer)
    with writing.write_whole(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
        return storage.sha256_of(temporary)
