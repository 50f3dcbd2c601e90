"""How far two sets of embeddings of the same pictures are apart in score, and the pictures on which a setting is judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from beholder.errors import OutputError
from beholder.io import records
from beholder.io.user_folders import cache_folder
from beholder.io.writing import write_bytes

if TYPE_CHECKING:
    from beholder.models.heads import Head

NUM_CHECK_PICTURES = 8
_REFERENCE_NORM = 17.9956
"""|w| of the default head, sac+logos+ava1-l14-linearMSE."""
_NUM_DIRECTIONS = 256


def check_pictures(side_px: int) -> npt.NDArray[np.uint8]:
    """The eight pictures of the self-check, (8, S, S, 3) uint8; the same bytes for ever.

    Noise with a 1/f spectrum like that of photographs (soft, hard and grey), a gradient, discs and bars, lines of letter-like
    marks, white noise, and a dark night with a few lights.
    """
    make = np.random.default_rng(20240229)
    rows, columns = np.mgrid[0:side_px, 0:side_px] / max(1, side_px - 1)  # [S, S] each, 0 to 1

    def photographic(slope: float, num_colours: int) -> npt.NDArray[np.float64]:
        frequency = np.hypot(np.fft.fftfreq(side_px)[:, None], np.fft.fftfreq(side_px)[None])
        frequency[0, 0] = 1.0
        white = np.fft.fft2(make.standard_normal((num_colours, side_px, side_px)))
        layers = np.fft.ifft2(white / frequency**slope).real  # [C, S, S]
        layers /= layers.std(axis=(1, 2), keepdims=True) + 1e-9
        return np.broadcast_to(np.moveaxis(layers, 0, -1), (side_px, side_px, 3))

    shapes = np.full((side_px, side_px, 3), 235.0)
    for _ in range(12):
        x, y, size, colour = make.random(), make.random(), 0.05 + 0.2 * make.random(), make.random(3) * 255
        shapes[np.hypot(rows - y, columns - x) < size] = colour
        shapes[(abs(rows - x) < size / 4) & (abs(columns - y) < size)] = 255 - colour
    cells = np.kron(make.random((-(-side_px // 2), -(-side_px // 2))) < 0.5, np.ones((2, 2)))[:side_px, :side_px]
    written = np.where((cells > 0) & ((rows * side_px).astype(int) % 14 < 8), 20.0, 245.0)
    lights = (make.random((side_px, side_px, 1)) > 0.995) * make.random((side_px, side_px, 3)) * 250
    pictures = [
        120 + 50 * photographic(1.2, 3), 110 + 60 * photographic(0.7, 3), 128 + 55 * photographic(1.0, 1),
        np.stack([255 * rows, 255 * columns, 255 * (1 - rows * columns)], axis=-1), shapes,
        np.repeat(written[..., None], 3, axis=-1), 255 * make.random((side_px, side_px, 3)),
        6 + 5 * make.random((side_px, side_px, 3)) + lights,
    ]  # fmt: skip
    found: npt.NDArray[np.uint8] = np.clip(np.rint(np.stack(pictures)), 0, 255).astype(np.uint8)
    return found


def score_drift(exact: npt.NDArray[np.float32], found: npt.NDArray[np.float32], heads: Sequence[Head] = ()) -> float:
    """The largest difference in score between two sets of embeddings of the same pictures, (N, D) each; inf for NaN.

    Over all heads given. Without one: over 256 fixed random directions of the default head's length, as if each were a head.
    """
    if not np.isfinite(found).all():
        return float("inf")
    if heads:
        return max(float(np.abs(np.asarray(head.score(exact), np.float64) - head.score(found)).max()) for head in heads)
    return float(_drift_of_random_heads(exact, found).max(initial=0.0))


def typical_drift(exact: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> float:
    """What 95 of 100 random heads of the default head's length do not exceed on any picture; inf for NaN.

    (N, D) each, as in `score_drift`. It belongs to the tower alone, so jobs with different heads judge alike by it.
    """
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.quantile(_drift_of_random_heads(exact, found).max(axis=0, initial=0.0), 0.95))


def _drift_of_random_heads(exact: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """[N, 256] absolute differences in score."""
    directions = np.random.default_rng(0).standard_normal((exact.shape[1], _NUM_DIRECTIONS))
    directions *= _REFERENCE_NORM / np.linalg.norm(directions, axis=0)
    differences: npt.NDArray[np.float64] = np.abs((_unit(found) - _unit(exact)) @ directions)
    return differences


def worst_case_drift(exact: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> float:
    """What no affine head of the default head's length could exceed: its length x the largest |x/|x| - y/|y||."""
    if not np.isfinite(found).all():
        return float("inf")
    return float(_REFERENCE_NORM * np.linalg.norm(_unit(found) - _unit(exact), axis=1).max(initial=0.0))


def _unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    wide = rows.astype(np.float64)
    found: npt.NDArray[np.float64] = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-300)
    return found


class Remembered:
    """What was measured on this machine before, one small JSON file in the cache folder for each set of circumstances."""

    def __init__(self, kind: str, circumstances: Mapping[str, Any]) -> None:
        self.circumstances = {"kind": kind, **circumstances}
        name = hashlib.sha256(json.dumps(self.circumstances, sort_keys=True).encode()).hexdigest()[:24]
        self.path: Path = cache_folder() / "engine" / f"{kind}-{name}.json"

    def load(self) -> dict[str, Any] | None:
        """The result, or None when there is none that can be read."""
        try:
            record = records.parse(self.path.read_bytes(), is_sealed=True)
        except (OSError, records.DamagedRecordError):
            return None
        matches = record.get("circumstances") == self.circumstances
        return dict(record["result"]) if matches and isinstance(record.get("result"), dict) else None

    def save(self, result: Mapping[str, Any]) -> None:
        """Keep `result`; where nothing can be kept (a read-only home) it is measured again next time."""
        record = {"circumstances": self.circumstances, "result": dict(result)}
        try:
            write_bytes(str(self.path), records.sealed(record, indent=1))
        except OutputError:
            return
