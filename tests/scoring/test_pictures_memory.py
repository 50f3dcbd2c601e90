"""Memory: scoring thirty thousand pictures takes hardly more of it than scoring five thousand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import Head, save_head
from beholder.kernels.scoring import Affine
from oracles.checkpoints import hf_config, hf_state, write_json, write_safetensors
from oracles.made_pictures import encoded, noise
from oracles.tar_making import tar
from oracles.tiers import mostly_slow

FEW, MANY = 5_000, 30_000
MOST_GROWTH = 40 << 20
DIM = 1024
"""Long embeddings: 30,000 of them take 123 MB, and only their scores are wanted."""

pytestmark = pytest.mark.slow

CHILD = """
import sys
from pathlib import Path
from beholder.scoring.score import ScoreOptions, score

few = int(sys.argv[5])
seen, at_few, peak = 0, 0, 0

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

def progress(rows, num_bytes):
    global seen, at_few, peak
    seen += rows
    if seen % 50 == 0:
        peak = max(peak, anonymous())
        if seen <= few:
            at_few = peak

score(ScoreOptions(sources=(sys.argv[1],), out=sys.argv[2], backbone=sys.argv[3], heads=(sys.argv[4],), device="cpu",
                   precision="fp32", workers=0, num_threads=1, batch_size=64), on_progress=progress)
print(seen, at_few, peak)
"""


@pytest.fixture(scope="module")
def tiny_tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One patch, one block: so little to compute that the pipeline is what is measured."""
    from beholder.models.backbones import TowerShape
    from beholder.models.clip import random_tensors

    folder = tmp_path_factory.mktemp("tower")
    shape = TowerShape(image_px=14, patch_px=14, width=64, num_layers=1, num_heads=1, mlp_width=64, dim=DIM)
    write_json(folder / "config.json", hf_config(shape))
    write_safetensors(folder / "model.safetensors", hf_state(random_tensors(shape)))
    return folder


@pytest.fixture(scope="module")
def long_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An affine head for that tower."""
    path = tmp_path_factory.mktemp("head") / "long.safetensors"
    save_head(Head(name="long", math=Affine(np.random.default_rng(23).standard_normal(DIM), 5.0)), path)
    return path


def make_tars(folder: Path, data: list[bytes]) -> None:
    for shard in range(MANY // 1000):
        members = [(f"{number:05d}.jpg", data[number % len(data)]) for number in range(1000)]
        (folder / f"{shard:05d}.tar").write_bytes(tar(members))


def make_one_tar(folder: Path, data: list[bytes]) -> None:
    """A tar is one shard, however many pictures it has."""
    (folder / "all.tar").write_bytes(tar([(f"{number:05d}.jpg", data[number % len(data)]) for number in range(MANY)]))


def make_parquet(folder: Path, data: list[bytes]) -> None:
    pictures = pa.array([data[number % len(data)] for number in range(MANY)], pa.binary())
    keys = pa.array([str(number) for number in range(MANY)])
    pq.write_table(pa.table({"jpg": pictures, "key": keys}), folder / "pictures.parquet", row_group_size=1000)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see memory")
@pytest.mark.parametrize("make", mostly_slow([make_one_tar, make_tars, make_parquet], quick=0, slow=1))
def test_memory_is_flat_in_the_number_of_pictures(tmp_path: Path, tiny_tower: Path, long_head: Path, make: object) -> None:
    data = [encoded(noise("RGB", 16, 15, seed), "JPEG") for seed in range(10)]
    source = tmp_path / "source"
    source.mkdir()
    assert callable(make)
    make(source, data)
    line = [sys.executable, "-c", CHILD, str(source), str(tmp_path / "out"), str(tiny_tower), str(long_head), str(FEW)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    seen, at_few, peak = map(int, done.stdout.split())
    assert seen == MANY
    assert at_few > 50 << 20
    assert peak - at_few < MOST_GROWTH, f"{at_few >> 20} MiB after {FEW} pictures, {peak >> 20} MiB after {MANY}"
