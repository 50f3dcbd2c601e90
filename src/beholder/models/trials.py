"""A tower on a device in, what was measured there out: drift and speed of each precision, and the best batch size."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from beholder.errors import BeholderError
from beholder.models.backends import Backend
from beholder.models.clip_vit import ClipVisionTower
from beholder.models.devices import device_name
from beholder.models.forms import build_backend, candidates, default_batch_size
from beholder.models.precision import NUM_CHECK_PICTURES, Remembered, ScoringHead, check_pictures, score_drift, worst_case_drift
from beholder.models.precisions import MAX_DRIFT, Precision
from beholder.models.tower_shape import TowerShape

FIRST_CUDA_BATCH, LAST_CUDA_BATCH = 64, 1024
_WORTH_DOUBLING = 1.02
"""A doubled batch is kept when it gives this many times the pictures a second."""
_TIMED_BATCHES = 5
_AS_FAST = 0.9
"""Speeds this close are taken for equal: so far do two measurements of one thing differ."""
_VERSION = 1
"""Goes up when the arithmetic changes, so that older measurements are made again."""


@dataclass(frozen=True)
class Situation:
    """What a self-check holds for."""

    tower: ClipVisionTower
    sha256: str
    device: torch.device
    compile: bool
    num_threads: int | None
    heads: Sequence[ScoringHead]

    def remembered(self, precisions: Sequence[str]) -> Remembered:
        """Where its result is kept."""
        return Remembered(
            "self-check",
            {
                "version": _VERSION,
                "tower": self.sha256,
                "activation": self.tower.activation,
                "device": device_name(self.device),
                "device_type": self.device.type,
                "torch": str(torch.__version__),
                "compile": self.compile,
                "num_threads": self.num_threads or torch.get_num_threads(),
                "heads": sorted(head.sha256 for head in self.heads),
                "precisions": list(precisions),
            },
        )


def self_check(situation: Situation, only: Sequence[Precision] | None = None) -> dict[str, Any]:
    """Embed the check pictures in each precision and compare with fp32 on the same device.

    Returns "drift" {precision: units of score}, "worst_case" (the same for the worst head of the default one's length),
    "pictures_per_second" (a first, rough figure), and "chosen": the fastest with a drift of at most 0.02.
    A precision that cannot run here is left out, with the reason under "failed".
    """
    trying: list[Precision] = ["fp32", *(name for name in (only or candidates(situation.device)) if name != "fp32")]
    kept = situation.remembered(trying)
    found = kept.load() if all(head.sha256 for head in situation.heads) else None
    if found is None:
        found = _measured(situation, trying)
        if all(head.sha256 for head in situation.heads):
            kept.save(found)
    return found


def _measured(situation: Situation, trying: Sequence[Precision]) -> dict[str, Any]:
    pictures = check_pictures(situation.tower.shape.image_px)
    found: dict[str, Any] = {"drift": {}, "worst_case": {}, "pictures_per_second": {}, "failed": {}}
    exact: npt.NDArray[np.float32] | None = None
    for precision in trying:
        try:
            rows, rate = _trial(situation, precision, pictures)
        except BeholderError as error:
            if exact is None:
                raise
            found["failed"][precision] = str(error)
            continue
        exact = rows if exact is None else exact
        found["drift"][precision] = score_drift(exact, rows, situation.heads)
        found["worst_case"][precision] = worst_case_drift(exact, rows)
        found["pictures_per_second"][precision] = round(rate, 2)
    found["chosen"] = chosen(found["pictures_per_second"], found["drift"])
    return found


def chosen(rates: Mapping[str, float], drifts: Mapping[str, float]) -> str:
    """The fastest inside 0.02; of those that are all but as fast (within a tenth), the one that drifts least."""
    allowed = {name: rate for name, rate in rates.items() if drifts[name] <= MAX_DRIFT}
    fast = [name for name, rate in allowed.items() if rate >= max(allowed.values()) * _AS_FAST]
    return min(fast, key=drifts.__getitem__)


def _trial(
    situation: Situation, precision: Precision, pictures: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float32], float]:
    """Embeddings of the check pictures, and pictures a second the second time."""
    backend = build_backend(
        situation.tower, situation.device, precision, compile=situation.compile, num_threads=situation.num_threads
    )
    try:
        batch = default_batch_size(situation.device, situation.tower.shape) or NUM_CHECK_PICTURES
        pixels = torch.from_numpy(pictures)

        def run() -> npt.NDArray[np.float32]:
            waiting = [backend.submit(pixels[start : start + batch], batch) for start in range(0, len(pixels), batch)]
            return np.concatenate([fetch() for fetch in waiting])

        rows = run()
        started = time.perf_counter()
        run()
        return rows, len(pixels) / (time.perf_counter() - started)
    finally:
        backend.close()


def find_batch_size(backend: Backend, device: torch.device, shape: TowerShape, form: str) -> int:
    """Double from 64 to at most 1024 as long as it pays and memory allows. Remembered for the device, tower and form."""
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
    kept = Remembered(
        "batch-size",
        {
            "version": _VERSION, "device": device_name(device), "memory": memory, "shape": repr(shape), "form": form,
            "torch": str(torch.__version__),
        },
    )  # fmt: skip
    found = kept.load()
    if found is None:
        found = {"batch_size": best_batch_size(backend, shape.image_px)}
        kept.save(found)
    return int(found["batch_size"])


def best_batch_size(backend: Backend, image_px: int, *, first: int = FIRST_CUDA_BATCH, last: int = LAST_CUDA_BATCH) -> int:
    """See `find_batch_size`. Where even `first` does not fit: the largest half of it that does, else BeholderError."""
    size, best, best_rate = first, 0, 0.0
    while 1 <= size <= last:
        try:
            rate = _batch_rate(backend, image_px, size)
        except torch.OutOfMemoryError:
            rate = 0.0
        if rate == 0.0:
            if best:
                break
            size //= 2
            last = size
            continue
        if rate < best_rate * _WORTH_DOUBLING:
            break
        best, best_rate = size, rate
        size *= 2
    if not best:
        raise BeholderError("no memory for a single picture; choose another device or precision")
    return best


def _batch_rate(backend: Backend, image_px: int, size: int) -> float:
    """Pictures a second in batches of `size`, the first two left out."""
    pixels = torch.zeros(size, image_px, image_px, 3, dtype=torch.uint8)
    for _ in range(2):
        backend.submit(pixels, size)()
    seconds = []
    for _ in range(_TIMED_BATCHES):
        started = time.perf_counter()
        backend.submit(pixels, size)()
        seconds.append(time.perf_counter() - started)
    return size / statistics.median(seconds)
