"""What is behind the sources of a plan: pictures or rows, bytes, pixels; counted, or estimated with the error told."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from beholder.errors import InputError
from beholder.io import locations
from beholder.io.page_cache import share_in_memory
from beholder.planning.arithmetic import Work
from beholder.sources.find import find
from beholder.sources.reader import Part, PicturePart, ReadOptions, SourceOptions, picture_reader
from beholder.sources.sampling import sample_refs, sample_sizes, spread

_COUNTED_PARTS = 16
_COUNT_S = 10.0
_COUNT_FEW = 2
_SIGMAS = 2.0
_SIZES = 400
_ALONE = ("files", "table")
"""Kinds of parts whose pictures are files of their own."""
_FILES = 64
"""So many files are looked up in memory."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What sources hold.

    Attributes:
        unit: "pictures" or "rows".
        work: of all of it.
        error: of the number of rows: two standard errors as a share of it; 0 where it was counted, None where nothing tells.
        notes: what was estimated, and from what.
        dim: of embeddings.
    """

    unit: str
    work: Work
    error: float | None
    notes: tuple[str, ...]
    dim: int = 0


def inputs_of(sources: Sequence[str], pictures: SourceOptions, embeddings: ReadOptions) -> Inputs:
    """Look at sources as a run does, and at a few of their tars and headers. Raises InputError: nothing to score is there."""
    began = time.monotonic()
    found = find(sources, pictures, embeddings)
    look_s = time.monotonic() - began  # a run looks like this, too
    in_memory = _share_in_memory(found.pictures or found.embeddings, pictures)
    work = _pictures(found.pictures, pictures) if found.pictures else _rows(found.embeddings)
    return replace(work, work=replace(work.work, look_s=look_s, memory_share=in_memory))


def _share_in_memory(parts: Sequence[PicturePart] | Sequence[Part], options: SourceOptions) -> float:
    """Share of the sources that lies in this machine's memory; 0 where nothing tells. Before anything else is read of them."""
    alone = [part for part in parts if isinstance(part, PicturePart) and part.kind in _ALONE]
    packed = [part.path for part in parts if part.kind not in _ALONE]
    files = [packed[place] for place in spread(len(packed), _FILES)]
    files += [ref.path for ref in sample_refs(alone, _FILES, replace(options, columns=())) if ref.path is not None]
    local = [Path(locations.local_path(path)) for path in files if locations.is_local(path)]
    return (share_in_memory(local) or 0.0) * len(local) / max(1, len(files))


def _pictures(parts: Sequence[PicturePart], options: SourceOptions) -> Inputs:
    count, error, notes = _count(parts, options)
    sizes = sample_sizes(parts, options, most=_SIZES)
    if not len(sizes.pixels):
        raise InputError("no header of these pictures tells how large they are; plan with --count and --pixels")
    pixels = float(sizes.pixels.mean())
    notes.append(f"{pixels:,.0f} pixels a picture: the mean of {len(sizes.pixels):,} headers{_spread(sizes.pixels.tolist())}")
    num_bytes = float(sum(part.num_bytes for part in parts))
    if not all(part.num_bytes for part in parts):
        num_bytes = count * float(sizes.num_bytes.mean())
        notes.append(f"bytes: {sizes.num_bytes.mean():,.0f} a picture, the mean of the same")
    work = Work(num_rows=count, pixels=pixels, read_bytes=num_bytes)
    return Inputs(unit="pictures", work=work, error=error, notes=tuple(notes))


def _spread(values: Sequence[float]) -> str:
    """The mean's error in words: two standard errors."""
    if len(values) < _COUNT_FEW:
        return ""
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f", ± {100 * _SIGMAS * deviation / math.sqrt(len(values)) / mean:.1f} %"


def _count(parts: Sequence[PicturePart], options: SourceOptions) -> tuple[float, float | None, list[str]]:
    """(pictures, error as a share, notes): of parts of unknown length some are read through, and the others go by bytes."""
    known = sum(part.num_rows or 0 for part in parts)
    unknown = [part for part in parts if part.num_rows is None]
    if not unknown:
        return float(known), 0.0, []
    deadline = time.monotonic() + _COUNT_S
    counted: list[tuple[int, int]] = []
    for place in spread(len(unknown), _COUNTED_PARTS):
        if len(counted) >= _COUNT_FEW and time.monotonic() > deadline:
            break
        part = unknown[place]
        blocks = picture_reader(part.kind).blocks(part, 0, None, replace(options, columns=()))
        counted.append((sum(len(block.refs) for block in blocks), part.num_bytes))
    rows, num_bytes = sum(found for found, _ in counted), sum(size for _, size in counted)
    in_all = sum(part.num_bytes for part in unknown)
    if not rows or not num_bytes:
        raise InputError("the tars that were looked into hold no pictures; plan with --count and --pixels")
    ratio = rows / num_bytes
    estimate = known + ratio * in_all
    if len(counted) == len(unknown):
        return estimate, 0.0, []
    what = f"about {estimate:,.0f} pictures: {len(counted)} of {len(unknown):,} tars were counted"
    if len(counted) < _COUNT_FEW:
        return estimate, None, [f"{what}; how far that is off cannot be told from one"]
    residual = sum((found - ratio * size) ** 2 for found, size in counted) / (len(counted) - 1)
    left_out = 1 - len(counted) / len(unknown)  # ratio estimator: Cochran, Sampling Techniques, 1977, section 6.4
    error = _SIGMAS * math.sqrt(left_out * residual / len(counted)) / (num_bytes / len(counted)) * in_all / estimate
    return estimate, error, [f"{what}, the others go by their bytes: ± {100 * error:.1f} %"]


def _rows(parts: Sequence[Part]) -> Inputs:
    unknown = next((part for part in parts if part.num_rows is None), None)
    if unknown is not None:
        raise InputError(f"{unknown.path}: only reading it through tells how many rows it has; .npy and Parquet files say it")
    kinds = sorted({part.kind for part in parts})
    notes = [] if kinds == ["npy"] else [f"rates are those of .npy; {' and '.join(kinds)} take longer to unpack"]
    work = Work(
        num_rows=sum(part.num_rows or 0 for part in parts),
        pixels=0.0,
        read_bytes=sum(part.num_bytes for part in parts),
    )
    return Inputs(unit="rows", work=work, error=0.0, notes=tuple(notes), dim=parts[0].dim)
