"""Scores of the same pictures in an exact and in another setting in; how far apart they are, and what that changes, out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.models.published import Threshold
from beholder.pixels.picture import PictureError, PictureRef, SourceOptions
from beholder.scoreset.score_set import as_score
from beholder.sources.fetch import ReadLimits, read_bytes
from beholder.sources.find import find_only_pictures
from beholder.sources.pictures.sampling import sample_refs


@dataclass(frozen=True)
class Drift:
    """How far two settings are apart, in points of score; other - exact.

    Attributes:
        num_pictures: that were scored in both.
        bias: mean of the differences.
        mean, p95, largest: of their absolute values.
        moved: threshold (`Threshold.short`) -> pictures that it keeps in one setting only.
    """

    num_pictures: int
    bias: float
    mean: float
    p95: float
    largest: float
    moved: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def measure_drift(exact: npt.NDArray[np.float32], other: npt.NDArray[np.float32], thresholds: Sequence[Threshold]) -> Drift:
    """Compare (N,) scores with (N,) scores; pictures with NaN in either are left out. Raises InputError when none is left."""
    exact, other = exact.astype(np.float64), other.astype(np.float64)
    both = np.isfinite(exact) & np.isfinite(other)
    if not both.any():
        raise InputError("none of these pictures could be scored in both settings")
    exact, other = exact[both], other[both]
    difference = other - exact
    size = np.abs(difference)
    moved = {threshold.short: int((_keeps(threshold, exact) != _keeps(threshold, other)).sum()) for threshold in thresholds}
    return Drift(
        int(both.sum()), float(difference.mean()), float(size.mean()), float(np.quantile(size, 0.95)), float(size.max()), moved
    )


def _keeps(threshold: Threshold, scores: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.bool_]:
    """Which of the (N,) scores stay."""
    value = as_score(threshold.value)
    return scores > value if threshold.is_strict else scores >= value


def sample_pictures(sources: Sequence[str], most: int, picture_column: str | None = None) -> list[PictureRef]:
    """Up to `most` pictures, evenly spread over everything that `sources` name; the same ones every time.

    Of a tar whose length only reading it through can tell (up to 1 GiB, packed or remote), the first ones are taken.

    Args:
        sources: as `beholder score` takes pictures.
        most: how many.
        picture_column: of tables: the column with paths, URLs or bytes; None: found by looking.

    Raises:
        InputError: there are none, or the sources are no pictures.
    """
    if most < 1:
        raise InputError("--sample must be at least 1")
    options = SourceOptions(columns=(), picture_column=picture_column, block_rows=min(256, most))
    return list(sample_refs(find_only_pictures(sources, options), most, options))


def picture_bytes(refs: Sequence[PictureRef]) -> Iterator[bytes]:
    """The bytes of pictures, read one by one; none for those that cannot be read (no bytes are no picture to any decoder)."""
    for ref in refs:
        try:
            yield read_bytes(ref, ReadLimits())
        except PictureError:
            yield b""
