"""Options of small jobs on pictures; embeddings and scores the plain way, one picture at a time."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beholder import load_head, preprocess
from beholder.models.towers import load_tower
from beholder.scoring.options import EmbedOptions, ScoreOptions
from beholder.scoring.summary import RunSummary
from oracles.slow_scores import affine_scores

SIDE = 56


def picture_bytes(seed: int, kind: str = "JPEG", size: tuple[int, int] = (70, 60)) -> bytes:
    """A smooth picture from a seed as a file; size: width, height."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def score_options(sources: Any, out: Path, tower: Path, head: Path, **more: Any) -> ScoreOptions:
    """Float32 on one thread of the CPU, decoded there too, unless told otherwise."""
    defaults: dict[str, Any] = {"precision": "fp32", "workers": 0, "device": "cpu", "num_threads": 1}
    return ScoreOptions(sources=sources, out=str(out), backbone=str(tower), heads=(str(head),), **{**defaults, **more})


def embed_options(sources: Any, out: Path, tower: Path, **more: Any) -> EmbedOptions:
    """As `score_options`."""
    defaults: dict[str, Any] = {"precision": "fp32", "workers": 0, "device": "cpu", "num_threads": 1}
    return EmbedOptions(sources=sources, out=str(out), backbone=str(tower), **{**defaults, **more})


def plain_embeddings(paths: list[str], tower: Path, preset: str = "reference") -> np.ndarray:
    """One picture at a time through the plain tower: (pictures, dim) float32."""
    import torch

    module = load_tower(str(tower)).module
    pixels = [torch.from_numpy(preprocess(path, size_px=SIDE, preset=preset)) for path in paths]  # type: ignore[arg-type]
    with torch.inference_mode():
        return np.concatenate([module(one[None]).numpy() for one in pixels])


def plain_scores(paths: list[str], tower: Path, head: Path) -> np.ndarray:
    """One picture at a time, by an affine head in float64."""
    loaded = load_head(str(head))
    return affine_scores(plain_embeddings(paths, tower), loaded.weight, loaded.bias)


def check_counts(summary: RunSummary, scored: int, rejected: int) -> None:
    """Every picture is either scored or rejected."""
    assert (summary.num_read, summary.num_scored, summary.num_rejected) == (scored + rejected, scored, rejected)
