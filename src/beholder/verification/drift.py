"""Scores of the same pictures in an exact and in another setting in; how far apart they are, and what that changes, out."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.images.fetch_bytes import ReadLimits, read_bytes
from beholder.images.picture import PictureError, PicturePart, PictureRef, SourceOptions
from beholder.images.sources import find_pictures, reader_of


@dataclass(frozen=True)
class Drift:
    """How far two settings are apart, in points of score; other - exact.

    Attributes:
        num_pictures: that were scored in both.
        bias: mean of the differences.
        mean, p95, largest: of their absolute values.
        moved: threshold -> pictures that are at or above it in one setting only.
    """

    num_pictures: int
    bias: float
    mean: float
    p95: float
    largest: float
    moved: dict[float, int]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"moved": {f"{threshold:g}": count for threshold, count in self.moved.items()}}


def measure_drift(exact: npt.NDArray[np.float32], other: npt.NDArray[np.float32], thresholds: Sequence[float]) -> Drift:
    """Compare (N,) scores with (N,) scores; pictures with NaN in either are left out. Raises InputError when none is left."""
    exact, other = exact.astype(np.float64), other.astype(np.float64)
    both = np.isfinite(exact) & np.isfinite(other)
    if not both.any():
        raise InputError("none of these pictures could be scored in both settings")
    exact, other = exact[both], other[both]
    difference = other - exact
    size = np.abs(difference)
    moved = {float(t): int(((exact >= t) != (other >= t)).sum()) for t in thresholds}
    return Drift(
        int(both.sum()), float(difference.mean()), float(size.mean()), float(np.quantile(size, 0.95)), float(size.max()), moved
    )


def sample_pictures(sources: Sequence[str], most: int) -> list[PictureRef]:
    """Up to `most` pictures, evenly spread over everything that `sources` name; the same ones every time.

    Of a tar whose length only reading it through can tell (up to 1 GiB, packed or remote), the first ones are taken.
    Raises InputError.
    """
    if most < 1:
        raise InputError("--sample must be at least 1")
    options = SourceOptions(columns=(), block_rows=min(256, most))
    parts = find_pictures(sources, options)
    chosen = [parts[place] for place in _spread(len(parts), most)]
    known = sum(part.num_rows or 0 for part in chosen)
    is_known = all(part.num_rows is not None for part in chosen)
    found: list[PictureRef] = []
    for number, part in enumerate(chosen):
        even = -(-(most - len(found)) // (len(chosen) - number))
        quota = max(1, round(most * (part.num_rows or 0) / known)) if is_known and known else even
        found += _refs(part, quota, options)
    return found[:most]


def picture_bytes(refs: Sequence[PictureRef]) -> Iterator[bytes]:
    """The bytes of pictures, read one by one; none for those that cannot be read (no bytes are no picture to any decoder)."""
    for ref in refs:
        try:
            yield read_bytes(ref, ReadLimits())
        except PictureError:
            yield b""


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers [0, count), evenly spread."""
    wanted = min(count, most)
    return [place * count // wanted for place in range(wanted)]


def _refs(part: PicturePart, quota: int, options: SourceOptions) -> list[PictureRef]:
    """Up to `quota` pictures of a part: evenly spread where its length is known, else the first ones."""
    reader = reader_of(part.kind)
    if part.num_rows is None:
        return [ref for block in reader.blocks(part, 0, quota, options) for ref in block.refs]
    found: list[PictureRef] = []
    for rows in _stretches(part, _spread(part.num_rows, quota)):
        wanted, at = set(rows), rows[0]
        for block in reader.blocks(part, rows[0], rows[-1] + 1, options):
            found += [ref for row, ref in enumerate(block.refs, at) if row in wanted]
            at += len(block.refs)
    return found


def _stretches(part: PicturePart, rows: list[int]) -> list[list[int]]:
    """Rows that are read together, so that nothing is read twice.

    Places (folders, tables, tars) come in one go; of Parquet files with bytes, the rows of a row group; members of zips,
    which can be packed, are reached one by one.
    """
    if part.kind == "zip":
        return [[row] for row in rows]
    edges = part.cuts if part.cuts is not None else ()
    return [list(together) for _, together in itertools.groupby(rows, lambda row: bisect.bisect_right(edges, row))]
