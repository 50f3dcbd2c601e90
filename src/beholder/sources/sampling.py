"""A small sample looked at before a run: in which presets pictures would differ, and where embeddings point on average."""

from __future__ import annotations

import contextlib
import io
import itertools
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from beholder.errors import BeholderError
from beholder.io import locations, storage
from beholder.kernels import ColumnBlock, Embeddings
from beholder.pixels.decode import header_traits
from beholder.pixels.opening import ORIENTATION, reader_for
from beholder.pixels.picture import Trait
from beholder.pixels.sniff import sniff, stored_size
from beholder.sources.fetch import ReadLimits, read_bytes
from beholder.sources.reader import (
    Part,
    PicturePart,
    PictureRef,
    ReadOptions,
    SourceOptions,
    embedding_reader,
    picture_reader,
    refs_of,
)

LOOKED_AT = 400
"""So many pictures are looked at before a run."""
LOOK_S = 2.0
"""Seconds that reading headers may take; what was found by then is reported."""
_HEAD_BYTES = 1 << 18
"""EXIF, palettes and modes stand in the first bytes, but of WebP files, which are read whole."""
_MOST_WHOLE_BYTES = 32 << 20
_MOST_PARTS = 64
_READERS = 4
_AT_ONCE = 32
_WHOLE_KINDS = ("WEBP", "TIFF")
_UNSEEN_KINDS = ("HEIC", "AVIF")
"""Only their decoders, which are made of C, could tell more; they turn pictures upright, in every preset."""
_WEBP_ALPHA = 0x10


def sample_refs(parts: Sequence[PicturePart], most: int, options: SourceOptions) -> Iterator[PictureRef]:
    """Up to `most` pictures, evenly spread over `parts`; the same ones every time.

    Of a tar whose length only reading it through can tell (up to 1 GiB, packed or remote), the first ones are taken.
    """
    chosen = [parts[place] for place in spread(len(parts), most)]
    known = sum(part.num_rows or 0 for part in chosen)
    is_known = all(part.num_rows is not None for part in chosen)
    num_found = 0
    for number, part in enumerate(chosen):
        even = -(-(most - num_found) // (len(chosen) - number))
        quota = max(1, round(most * (part.num_rows or 0) / known)) if is_known and known else even
        for ref in itertools.islice(_refs(part, quota, options), max(0, most - num_found)):
            num_found += 1
            yield ref


def spread(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers [0, count), evenly spread."""
    wanted = min(count, most)
    return [place * count // wanted for place in range(wanted)]


def _refs(part: PicturePart, quota: int, options: SourceOptions, *, are_spread: bool = True) -> Iterator[PictureRef]:
    """Up to `quota` pictures of a part: evenly spread where its length is known, else the first ones."""
    if part.num_rows is not None and are_spread:
        yield from (ref for _, ref in refs_of(part, spread(part.num_rows, quota), options))
        return
    stop = quota if part.num_rows is None else min(quota, part.num_rows)
    blocks = picture_reader(part.kind).blocks(part, 0, stop, options)
    yield from itertools.islice((ref for block in blocks for ref in block.refs), quota)


def count_traits(parts: Sequence[PicturePart], *, most: int = LOOKED_AT, seconds: float = LOOK_S) -> tuple[int, Counter[Trait]]:
    """How many pictures were looked at, and how many of them have which trait, as far as headers tell it.

    An alpha channel counts although all of it may be opaque. Web servers are not asked; what cannot be read does not count.

    Args:
        parts: as `find_pictures` gives them.
        most: pictures that are looked at, at most.
        seconds: after which no further one is begun.
    """
    deadline = time.monotonic() + seconds
    counts: Counter[Trait] = Counter()
    num_seen = 0
    refs = _firsts(parts, most)
    with ThreadPoolExecutor(_READERS, thread_name_prefix="beholder-look") as pool, contextlib.suppress(BeholderError):
        while time.monotonic() < deadline and (some := list(itertools.islice(refs, _AT_ONCE))):
            for found in pool.map(lambda ref: _traits(ref, deadline), some):
                if found is not None:
                    num_seen += 1
                    counts.update(trait for trait in Trait if trait and trait in found)
    return num_seen, counts


@dataclass(frozen=True)
class PictureSizes:
    """What the headers of some pictures say.

    Attributes:
        pixels: (N,) int64, width times height.
        num_bytes: (N,) int64, of their files.
    """

    pixels: npt.NDArray[np.int64]
    num_bytes: npt.NDArray[np.int64]


def sample_sizes(parts: Sequence[PicturePart], options: SourceOptions, most: int) -> PictureSizes:
    """Pixels and bytes of pictures evenly spread over the parts, as far as they can be read in `LOOK_S` (at least one is).

    Those whose header does not tell its size do not count.
    """
    deadline = time.monotonic() + LOOK_S
    found: list[tuple[int, int]] = []
    few = replace(options, columns=(), block_rows=16, block_bytes=8 << 20)
    for ref in sample_refs(parts, most, few):
        if found and time.monotonic() > deadline:
            break
        if ref.error is not None:
            continue
        try:
            head = _head(ref, _HEAD_BYTES)
            size = stored_size(head, sniff(head))
            num_bytes = len(ref.data) if ref.data is not None else ref.length or storage.size(ref.path or "")
        except BeholderError:
            continue
        if size is not None:
            found.append((size[0] * size[1], num_bytes))
    table = np.array(found, np.int64).reshape(-1, 2)
    return PictureSizes(table[:, 0], table[:, 1])


def _firsts(parts: Sequence[PicturePart], most: int) -> Iterator[PictureRef]:
    """Pictures to look at: spread over folders and tables, the first ones of archives, where farther ones cost reading."""
    chosen = [parts[place] for place in spread(len(parts), min(most, _MOST_PARTS))]
    quota = -(-most // max(1, len(chosen)))
    options = SourceOptions(columns=(), block_rows=min(256, quota), block_bytes=8 << 20)
    for part in chosen:
        is_listed = part.kind in ("files", "table")
        if is_listed or not locations.is_web(part.path):
            yield from _refs(part, quota, options, are_spread=is_listed)


def _traits(ref: PictureRef, deadline: float) -> Trait | None:
    """What a picture's header tells; None for one that was not, or cannot be, looked at."""
    if time.monotonic() > deadline or ref.error is not None or (ref.path is not None and locations.is_web(ref.path)):
        return None
    try:
        head = _head(ref, _HEAD_BYTES)
        kind = sniff(head)
        if kind in _UNSEEN_KINDS:
            return Trait.NONE
        if kind in _WHOLE_KINDS and len(head) >= _HEAD_BYTES:
            head = _head(ref, None)
        if kind == "WEBP":
            return _webp_traits(head)
        with reader_for(kind)(io.BytesIO(head)) as opened:
            # of a PNG without EXIF before its pixels, Pillow would read the pixels to look behind them
            has_none = kind == "PNG" and not {"exif", "Raw profile type exif", "xmp"} & set(opened.info)
            return header_traits(opened, is_turned=has_none or kind == "TIFF")
    except Exception:  # decoders raise whatever their libraries do; the run itself says what is wrong with a picture
        return None


def _webp_traits(data: bytes) -> Trait:
    """Of a WebP file, by its chunks (https://developers.google.com/speed/webp/docs/riff_container)."""
    from PIL.Image import Exif

    traits, at = Trait.NONE, 12
    while at + 8 <= len(data):
        name, (length,) = data[at : at + 4], struct.unpack_from("<I", data, at + 4)
        body = data[at + 8 : at + 8 + length]
        if (name == b"VP8X" and body[0] & _WEBP_ALPHA) or (name == b"VP8L" and len(body) >= 5 and body[4] & _WEBP_ALPHA):
            traits |= Trait.ALPHA
        elif name == b"EXIF":
            exif = Exif()
            exif.load(body)
            traits |= Trait.ROTATED if exif.get(ORIENTATION, 1) in range(2, 9) else Trait.NONE
        at += 8 + length + length % 2
    return traits


def _head(ref: PictureRef, num_bytes: int | None) -> bytes:
    """The first bytes of a picture; None: all."""
    if ref.data is not None:
        return ref.data
    if num_bytes is None or ref.path is None:
        return read_bytes(ref, ReadLimits(max_bytes=_MOST_WHOLE_BYTES, timeout_s=LOOK_S, num_tries=1))
    start = ref.offset or 0
    stop = start + (num_bytes if ref.length is None else min(num_bytes, ref.length))
    return storage.read_range(ref.path, start, stop)


MOST_ROWS = 10_000
_BLOCK_BYTES = 64 << 20
_CHUNK_ROWS = 128
"""Rows that are looked at together: as float64 they stay in the cache of a core."""


@dataclass(frozen=True)
class MeanDirection:
    """The mean of the first rows of some parts, each divided by its length.

    Attributes:
        vector: (D,) float64.
        num_rows: rows it was made of, at most `MOST_ROWS`; without those that have no direction (zeros, NaN, Inf, missing).
        is_all: whether these are all the rows there are.
    """

    vector: npt.NDArray[np.float64]
    num_rows: int
    is_all: bool

    def cosine(self, direction: npt.NDArray[np.float64]) -> float:
        """The mean cosine of the rows to a direction: (D,) float64 of length 1."""
        return float(self.vector @ direction)

    @property
    def rows(self) -> str:
        """Which rows these were, in words."""
        if not self.is_all:
            return f"the first {self.num_rows:,} rows"
        return "its one row" if self.num_rows == 1 else f"all {self.num_rows:,} rows"


def mean_direction(parts: Sequence[Part], dim: int, options: ReadOptions) -> MeanDirection | None:
    """The mean direction of the first rows of the parts with `dim` numbers a row; None where no row has a direction.

    No more is read than these rows, or the pieces that their file is read in. Raises InputError, as reading them does.
    """
    few = replace(options, columns=(), block_bytes=min(options.block_bytes, _BLOCK_BYTES))
    total, num_good, num_read = np.zeros(dim), 0, 0
    is_all = True
    for part in parts:
        if part.dim != dim or part.num_rows == 0:
            continue
        wanted = MOST_ROWS - num_read
        if wanted == 0:
            is_all = False
            break
        stop = wanted if part.num_rows is None else min(wanted, part.num_rows)
        read = 0
        for block in embedding_reader(part.kind).blocks(part, 0, stop, few):
            num_rows = block.embeddings.shape[0]
            if block.before_chunk is not None:
                block.before_chunk(0, num_rows)
            for low in range(0, num_rows, _CHUNK_ROWS):
                rows = _rows(block.embeddings, low, min(num_rows, low + _CHUNK_ROWS))
                lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
                good = np.isfinite(lengths) & (lengths > 0)
                if block.statuses is not None:
                    good &= block.statuses[low : low + _CHUNK_ROWS] == 0
                total += (1 / lengths[good]) @ (rows if good.all() else rows[good])
                num_good += int(good.sum())
            read += num_rows
        num_read += read
        is_all = is_all and (read < stop or part.num_rows == stop)
    return MeanDirection(total / num_good, num_good, is_all) if num_good else None


def _rows(embeddings: Embeddings, low: int, high: int) -> npt.NDArray[np.float64]:
    """Rows [low, high) as float64."""
    if isinstance(embeddings, ColumnBlock):
        return np.stack([column[low:high] for column in embeddings.columns], axis=1).astype(np.float64)
    return embeddings[low:high].astype(np.float64)
