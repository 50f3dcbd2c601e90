"""The pipeline's bookkeeping: whatever shards, rejects and batches there are, every picture's embedding is in its own row."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from beholder import BeholderError, preprocess
from beholder.engine.engine import Engine
from beholder.models.backbones import TowerShape
from beholder.models.clip import ClipVisionTower, random_tower
from beholder.pixels.picture import PixelOptions
from beholder.scoring.files import WriteOptions
from beholder.scoring.picture_step import PictureStep
from beholder.scoring.pictures_shard import EmbeddedShard, PictureProduct
from beholder.sources.find import find_pictures
from beholder.sources.reader import PicturePart, SourceOptions
from oracles.made_pictures import encoded, noise
from oracles.tiers import mostly_slow

SHAPE = TowerShape.small(image_px=28, patch_px=14, width=64, dim=24)
DISTINCT = 12
BAD = (b"", b"<html>not found</html>", encoded(noise("RGB", 40, 30, 1), "PNG")[:500], None)
"""What stands for a reject: empty, no picture, cut short, null."""
REASONS = ("empty", "not_an_image", "truncated", "missing")


@lru_cache(maxsize=1)
def tower() -> ClipVisionTower:
    return random_tower(SHAPE, seed=5)


@lru_cache(maxsize=8)
def engine(batch_size: int) -> Engine:
    return Engine(tower(), device="cpu", precision="fp32", batch_size=batch_size, num_threads=1)


@lru_cache(maxsize=1)
def pictures() -> tuple[list[bytes], np.ndarray]:
    """Files of different sizes, and their embeddings (12, 24), one at a time by the plain tower."""
    data = [encoded(noise("RGB", 30 + number, 50 - number, number), "PNG") for number in range(DISTINCT)]
    module = tower()
    with torch.inference_mode():
        rows = [module(torch.from_numpy(preprocess(one, size_px=SHAPE.image_px))[None])[0].numpy() for one in data]
    return data, np.stack(rows)


Part = Sequence[int]
"""For each picture of a part: the number of a good one, or -1 - k for the bad kind k."""


def write_parts(folder: Path, parts: Sequence[Part]) -> list[PicturePart]:
    """Each part as a Parquet file with row groups of three, so that it can be cut into shards."""
    data, _ = pictures()
    paths = []
    for number, part in enumerate(parts):
        cells = [data[one] if one >= 0 else BAD[-1 - one] for one in part]
        keys = [f"{number}-{row}" for row in range(len(part))]
        path = folder / f"{number:03d}.parquet"
        pq.write_table(pa.table({"jpg": pa.array(cells, pa.binary()), "key": pa.array(keys)}), path, row_group_size=3)
        paths.append(str(path))
    return find_pictures(paths, SourceOptions())


def make_step(parts: list[PicturePart], batch_size: int, shard_rows: int, workers: int = 0) -> PictureStep:
    keep = WriteOptions(format="parquet", dtype="float32", normalise=False)
    product = PictureProduct(
        {"format": "beholder-embeddings"}, heads=[], as_csv=False, keep=keep, keep_folder="", dim=SHAPE.dim
    )
    return PictureStep(
        parts, engine(batch_size), product, pixels=PixelOptions(size_px=SHAPE.image_px), source=SourceOptions(),
        num_workers=workers, timeout_s=30, shard_rows=shard_rows, record={"tower sha256": "x"},
    )  # fmt: skip


def embedded(found: EmbeddedShard) -> tuple[list[int], np.ndarray]:
    """Numbers and embeddings of the pictures of a shard that have one."""
    numbers = [at for at, row in enumerate(found.rows) if row.embedding is not None]
    return numbers, np.array([found.rows[at].embedding for at in numbers], np.float32).reshape(-1, SHAPE.dim)


def check_shard(found: EmbeddedShard, part: Part, start: int, stop: int) -> None:
    """Every row of the shard has its own embedding, name, size or reason."""
    wanted = list(part[start:stop])
    assert found.is_complete
    assert found.num_rows == len(wanted) == len(found.rows)
    keys = [name for table in found.labels for name in table.column("sample").to_pylist()]
    assert [key.split("-")[1] for key in keys] == [str(row) for row in range(start, stop)]
    numbers, rows = embedded(found)
    good = [row for row, one in enumerate(wanted) if one >= 0]
    assert numbers == good
    expected = pictures()[1][[wanted[row] for row in numbers]] if good else rows
    assert len(rows) == len(good)
    assert np.abs(rows - expected).max(initial=0) < 2e-5
    assert [None if row.reject is None else row.reject[1] for row in found.rows] == [
        REASONS[-1 - one] if one < 0 else None for one in wanted
    ]
    assert [row.width for row in found.rows] == [30 + one if one >= 0 else 0 for one in wanted]
    assert [row.height for row in found.rows] == [50 - one if one >= 0 else 0 for one in wanted]


def check_run(folder: Path, parts: Sequence[Part], batch_size: int, shard_rows: int, workers: int = 0) -> None:
    step = make_step(write_parts(folder, parts), batch_size, shard_rows, workers)
    told: list[int] = []
    done = []
    step.tally.on_progress = lambda rows, num_bytes: told.append(rows)
    for shard, computed in step.compute_each(step.shards):
        part = parts[shard.part]
        assert shard is computed.shard
        check_shard(computed, part, shard.start, len(part) if shard.stop is None else shard.stop)
        numbers, rows = embedded(computed)
        result = step.write(shard, computed, str(folder / "out"))
        assert all(row.embedding is None for row in computed.rows), "an embedding is held once"
        assert (result.num_read, result.num_rejected) == (computed.num_rows, len(computed.rows) - len(numbers))
        check_files(folder / "out", result.files, computed, numbers, rows)
        done.append(shard.name)
    assert done == [shard.name for shard in step.shards]
    assert sum(told) == sum(len(part) for part in parts)


def check_files(
    folder: Path, names: dict[str, int], found: EmbeddedShard, numbers: Sequence[int], embeddings: np.ndarray
) -> None:
    """What was written, read again by pyarrow: rows in order, the bits of the computed embeddings."""
    kept = [name for name in names if name.startswith("embeddings/")]
    written = [pq.read_table(folder / name) for name in kept]
    samples = [sample for table in written for sample in table.column("sample").to_pylist()]
    keys = [name for table in found.labels for name in table.column("sample").to_pylist()]
    assert samples == [keys[row] for row in numbers]
    if samples:
        rows = np.array([row for table in written for row in table.column("embedding").to_pylist()], np.float32)
        assert np.array_equal(rows, embeddings)


one_picture = st.integers(-len(BAD), DISTINCT - 1)
some_parts = st.lists(st.lists(one_picture, max_size=11), min_size=1, max_size=5)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=some_parts, batch_size=st.sampled_from([1, 2, 3, 5, 64]), shard_rows=st.integers(1, 12))
@example(parts=[[-1, -2, -3], [0], [-4]], batch_size=3, shard_rows=12)
@example(parts=[[0, 1], [], [2, 3]], batch_size=5, shard_rows=1)
@example(parts=[[-1]], batch_size=1, shard_rows=1)
def test_every_embedding_is_in_its_own_row(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[int]], batch_size: int, shard_rows: int
) -> None:
    check_run(tmp_path_factory.mktemp("run"), parts, batch_size, shard_rows)


@pytest.mark.parametrize("batch_size", mostly_slow([1, 3, 64]))
def test_with_workers_too(tmp_path: Path, batch_size: int) -> None:
    make = np.random.default_rng(batch_size)
    parts = [make.integers(-len(BAD), DISTINCT, size).tolist() for size in (0, 1, 30, 7, 0, 64)]
    check_run(tmp_path, parts, batch_size, 9, workers=2)


def test_nothing_to_do_is_done_at_once(tmp_path: Path) -> None:
    check_run(tmp_path, [[]], 2, 5)
    step = make_step(find_pictures([str(tmp_path / "000.parquet")], SourceOptions()), 2, 5)
    assert step.waiting_for() == ""
    assert list(step.compute_each([])) == []


def test_only_the_shards_that_are_asked_for(tmp_path: Path) -> None:
    """As after an interruption: the middle of one part and all of another."""
    parts = [[*range(12)], [3, -2, 4], [5]]
    step = make_step(write_parts(tmp_path, parts), 2, 3)
    chosen = [shard for shard in step.shards if (shard.part, shard.start) in {(0, 3), (0, 9), (2, 0)}]
    assert len(chosen) == 3
    found = list(step.compute_each(chosen))
    assert [shard for shard, _ in found] == chosen
    for shard, computed in found:
        check_shard(computed, parts[shard.part], shard.start, shard.stop or len(parts[shard.part]))


@pytest.mark.parametrize("workers", [0, 1])
def test_shards_before_a_source_that_fails_are_given_first(tmp_path: Path, workers: int) -> None:
    """The last part vanishes between planning and reading; what came before is not lost in a batch half full."""
    parts = [[0, 1, 2], [-1, 3], [4, 5]]
    step = make_step(write_parts(tmp_path, parts), 64, 5, workers)
    (tmp_path / "002.parquet").unlink()
    computing = step.compute_each(step.shards)
    for number, (shard, computed) in enumerate(itertools.islice(computing, 2)):
        assert shard.part == number
        check_shard(computed, parts[number], 0, len(parts[number]))
    with pytest.raises(BeholderError, match=r"002\.parquet"):
        next(computing)


def test_stopping_early_leaves_nothing_running(tmp_path: Path) -> None:
    step = make_step(write_parts(tmp_path, [[0, 1, 2], [3, 4, 5], [6, 7, 8]]), 1, 3, workers=1)
    computing = step.compute_each(step.shards)
    assert isinstance(computing, Iterator)
    next(computing)
    pool = step._pool
    assert pool is not None
    assert len(pool.process_ids) == 1
    computing.close()
    assert pool.process_ids == []
