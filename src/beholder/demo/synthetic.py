"""A made-up set of CLIP-like embeddings in clip-retrieval's layout, with a known hidden preference.

Nothing here comes from a picture. A row is a common direction, plus a "subject" and a "style" drawn from two tables,
plus noise in every dimension, then normalised and rounded to float16. The variance falls as a power law from direction to
direction, and two rows have a cosine near 0.5, both much as with CLIP's image embeddings. The hidden truth of a row is
`weight . x/|x| + bias` of the row as stored.
"""

from __future__ import annotations

import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from beholder.columns import FORMAT_VERSION, SAMPLE, STAMP_FILE
from beholder.errors import InputError
from beholder.io import remote, writing

BACKBONE_PREFIX = "synthetic/clip-like-"
"""Stands where a stamp names the model, followed by the number of dimensions."""

RATING = "rating"
TRUTH = "truth"

TRUTH_MEAN, TRUTH_SD = 4.8, 0.9
"""About what the LAION v2 head gives on web pictures (mean 4.77 on COYO-700M)."""
RATING_NOISE_SD = 0.7

_NUM_SUBJECTS, _NUM_STYLES = 1024, 128
_COMMON_SHARE, _SUBJECT_SHARE, _STYLE_SHARE, _NOISE_SHARE = 0.48, 0.24, 0.12, 0.16
"""Shares of a row's squared length, before it is normalised."""
_BLOCK_ROWS = 2048
_PARTS_AT_ONCE = 2
"""One part is flushed to the disk while the next one is drawn."""
_CALIBRATION_ROWS = 32_768


@dataclass(frozen=True, kw_only=True)
class SyntheticOptions:
    """What decides the set, to the bit on one machine.

    Attributes:
        num_rows: rows of the set, >= 1.
        dim: dimensions of a row, >= 2.
        num_rated: rows with a rating; at most `num_rows`.
        seed: draws everything, >= 0.
        part_rows: rows of a file.
    """

    num_rows: int = 1_000_000
    dim: int = 768
    num_rated: int = 20_000
    seed: int = 0
    part_rows: int = 250_000

    def __post_init__(self) -> None:
        """Refuse a set that cannot be made."""
        if self.num_rows < 1 or self.dim < 2 or self.part_rows < 1 or self.seed < 0:
            raise InputError("a synthetic set needs at least 1 row, 2 dimensions, 1 row a part, and a seed >= 0")
        if not 0 <= self.num_rated <= self.num_rows:
            raise InputError(f"{self.num_rated} of {self.num_rows} rows cannot be rated")

    @property
    def backbone(self) -> str:
        """What the stamp says instead of a model's name."""
        return f"{BACKBONE_PREFIX}{self.dim}"

    @property
    def num_bytes(self) -> int:
        """Of all embeddings."""
        return 2 * self.num_rows * self.dim

    @property
    def num_parts(self) -> int:
        """Files of embeddings."""
        return -(-self.num_rows // self.part_rows)

    def part_range(self, part: int) -> tuple[int, int]:
        """First row of a part and the row after its last."""
        return part * self.part_rows, min(self.num_rows, (part + 1) * self.part_rows)

    def part_paths(self, folder: Path, part: int) -> tuple[Path, Path]:
        """Embeddings and metadata of a part, numbered with as many digits as clip-retrieval takes."""
        number = f"{part:0{int(math.log10(self.num_parts)) + 1}d}"
        return folder / "img_emb" / f"img_emb_{number}.npy", folder / "metadata" / f"metadata_{number}.parquet"


@dataclass(frozen=True)
class _World:
    """What all rows share.

    Attributes:
        common: (D,) float32 direction.
        subjects, styles: (S, D) float32 offsets; a row has one of each.
        noise: (D,) float32 standard deviations.
        weight, bias: (D,) float64 and float: the hidden preference, for rows of length 1.
    """

    common: npt.NDArray[np.float32]
    subjects: npt.NDArray[np.float32]
    styles: npt.NDArray[np.float32]
    noise: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float64]
    bias: float

    @classmethod
    def draw(cls, dim: int, seed: np.random.SeedSequence) -> _World:
        """Draw everything; the preference is scaled so that the truth of a sample has the wanted mean and spread."""
        shape_seed, sample_seed = seed.spawn(2)
        rng = np.random.default_rng(shape_seed)
        ranks = np.arange(1, dim + 1)
        common = rng.normal(size=dim)
        common *= math.sqrt(_COMMON_SHARE) / np.linalg.norm(common)
        axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0] / np.sqrt(ranks)
        tables = []
        for count, share in ((_NUM_SUBJECTS, _SUBJECT_SHARE), (_NUM_STYLES, _STYLE_SHARE)):
            table = rng.normal(size=(count, dim)) @ axes.T
            tables.append(table * math.sqrt(share / np.mean(np.sum(table**2, axis=1))))
        noise = rng.permutation(1 / np.sqrt(ranks + dim / 8))
        noise *= math.sqrt(_NOISE_SHARE) / np.linalg.norm(noise)
        direction = rng.normal(size=dim)
        subjects, styles = (table.astype(np.float32) for table in tables)
        plain = cls(common.astype(np.float32), subjects, styles, noise.astype(np.float32), direction, 0.0)
        sample = plain.truth(plain.rows(_CALIBRATION_ROWS, sample_seed))
        scale = TRUTH_SD / float(sample.std())
        return replace(plain, weight=direction * scale, bias=TRUTH_MEAN - scale * float(sample.mean()))

    def rows(self, num_rows: int, seed: np.random.SeedSequence) -> npt.NDArray[np.float16]:
        """Draw (N, D) float16 rows of length 1. Uses no BLAS, whose own threads would get in the way of ours."""
        rng = np.random.Generator(np.random.SFC64(seed))
        rows = rng.standard_normal((num_rows, len(self.common)), dtype=np.float32)
        rows *= self.noise
        rows += self.common
        for table in (self.subjects, self.styles):
            rows += table[rng.integers(len(table), size=num_rows)]
        rows /= np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
        return rows.astype(np.float16)

    def truth(self, rows: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
        """The hidden preference of (N, D) rows as stored, (N,) float32, to within 1e-4."""
        wide = rows.astype(np.float32)
        dots = np.einsum("ij,j->i", wide, self.weight.astype(np.float32))
        lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        truth: npt.NDArray[np.float32] = (dots / lengths + np.float32(self.bias)).astype(np.float32)
        return truth


def write_synthetic(
    folder: Path,
    options: SyntheticOptions,
    *,
    num_threads: int | None = None,
) -> int:
    """Write `img_emb/`, `metadata/` and, last, the stamp; parts that are already complete are kept.

    Args:
        folder: the set's root. What it holds must come from the same options; the caller sees to that.
        options: what to make.
        num_threads: threads that draw; None for all cores. The result does not depend on it.

    Returns:
        How many parts were written now.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    world_seed, *part_seeds = np.random.SeedSequence(options.seed).spawn(1 + options.num_parts)
    pending = [part for part in range(options.num_parts) if not _is_complete(folder, options, part)]
    if pending:
        world = _World.draw(options.dim, world_seed)
        threads = num_threads or len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(max_workers=threads) as blocks, ThreadPoolExecutor(max_workers=_PARTS_AT_ONCE) as parts:
            futures = [parts.submit(_write_part, folder, options, part, world, part_seeds[part], blocks) for part in pending]
            try:
                for part_done in futures:
                    part_done.result()
            except BaseException:
                blocks.shutdown(wait=False, cancel_futures=True)
                parts.shutdown(wait=False, cancel_futures=True)
                raise
    stamp = {
        "format": "beholder-embeddings",
        "version": FORMAT_VERSION,
        "backbone": options.backbone,
        "normalised": True,
        "note": "synthetic, made by beholder demo: no picture is behind these embeddings",
        "options": asdict(options),
    }
    writing.write_bytes(str(folder / STAMP_FILE), json.dumps(stamp, indent=2).encode() + b"\n")
    return len(pending)


def _is_complete(folder: Path, options: SyntheticOptions, part: int) -> bool:
    """Whether both files of a part are there with the right number of rows. The metadata is written after the rows."""
    rows_path, metadata_path = options.part_paths(folder, part)
    start, stop = options.part_range(part)
    if not (rows_path.is_file() and metadata_path.is_file()):
        return False
    try:
        shape = np.load(rows_path, mmap_mode="r").shape
        num_rows = pq.read_metadata(metadata_path).num_rows
    except (ValueError, OSError):
        return False
    return bool(shape == (stop - start, options.dim) and num_rows == stop - start)


def _write_part(
    folder: Path,
    options: SyntheticOptions,
    part: int,
    world: _World,
    seed: np.random.SeedSequence,
    pool: ThreadPoolExecutor,
) -> None:
    """Draw a part in blocks of their own seeds, write its rows, then its metadata."""
    rows_path, metadata_path = options.part_paths(folder, part)
    first, stop = options.part_range(part)
    num_rows = stop - first
    starts = range(0, num_rows, _BLOCK_ROWS)
    rating_seed, *block_seeds = seed.spawn(1 + len(starts))
    truth = np.empty(num_rows, np.float32)
    with writing.write_whole(str(rows_path)) as temporary, temporary.open("wb", buffering=0) as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (num_rows, options.dim)}
        np.lib.format.write_array_header_1_0(file, header)
        body = file.tell()

        def write_block(start: int, block_seed: np.random.SeedSequence) -> None:
            rows = world.rows(min(_BLOCK_ROWS, num_rows - start), block_seed)
            truth[start : start + len(rows)] = world.truth(rows)
            data = rows.astype("<f2", copy=False).data.cast("B")
            writing.write_at(file.fileno(), data, body + start * options.dim * 2)  # a full disk ends a memory map with a crash

        for _ in pool.map(write_block, starts, block_seeds):
            pass
    ratings = _ratings(truth, _rated_share(options, part), rating_seed)
    names = pa.array([f"synthetic/{row:07d}.jpg" for row in range(first, stop)], pa.string())
    table = pa.table({SAMPLE: names, RATING: ratings, TRUTH: pa.array(truth)})
    table = table.replace_schema_metadata({"note": "synthetic, made by beholder demo"})
    with writing.write_whole(str(metadata_path)) as temporary:
        pq.write_table(table, temporary, compression="zstd", use_dictionary=False)


def _rated_share(options: SyntheticOptions, part: int) -> int:
    """How many rows of a part are rated: its share of all, so that the parts together have `num_rated`."""
    start, stop = options.part_range(part)
    return options.num_rated * stop // options.num_rows - options.num_rated * start // options.num_rows


def _ratings(truth: npt.NDArray[np.float32], num_rated: int, seed: np.random.SeedSequence) -> pa.Array:
    """The truth plus noise for `num_rated` rows drawn at random, null for all others, as float32."""
    rng = np.random.default_rng(seed)
    rated = rng.choice(len(truth), num_rated, replace=False)
    ratings = np.full(len(truth), np.nan, np.float32)
    ratings[rated] = truth[rated] + rng.normal(0, RATING_NOISE_SD, num_rated)
    return pa.array(ratings, mask=np.isnan(ratings))


@dataclass(frozen=True)
class RatedRows:
    """The rated rows of a set, in its order.

    Attributes:
        embeddings: (n, D) float16.
        ratings: (n,) float32.
        truth: (n,) float32, what the ratings are noisy readings of.
    """

    embeddings: npt.NDArray[np.float16]
    ratings: npt.NDArray[np.float32]
    truth: npt.NDArray[np.float32]


def read_rated(folder: Path, options: SyntheticOptions) -> RatedRows:
    """Read the rows that have a rating; the others stay on the disk. Raises InputError when a file cannot be read."""
    found: list[RatedRows] = []
    for part in range(options.num_parts):
        rows_path, metadata_path = options.part_paths(folder, part)
        with remote.read_errors(str(metadata_path)):
            table = pq.read_table(metadata_path, columns=[RATING, TRUTH])
            rated = np.flatnonzero(table.column(RATING).is_valid().to_numpy())
            ratings, truth = (table.column(name).take(pa.array(rated)).to_numpy() for name in (RATING, TRUTH))
            found.append(RatedRows(np.load(rows_path, mmap_mode="r")[rated], ratings, truth))
    return RatedRows(
        np.concatenate([part.embeddings for part in found]),
        np.concatenate([part.ratings for part in found]),
        np.concatenate([part.truth for part in found]),
    )
