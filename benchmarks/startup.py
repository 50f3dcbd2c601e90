"""How long the command line takes to start: `beholder --help`, and `beholder score` of ten rows, after a first run.

python benchmarks/startup.py [--rounds 9]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from beholder.models.spaces import space_of
from score_embeddings import models_folder


def seconds(line: list[str], rounds: int) -> list[float]:
    """Wall times of whole processes, a first one left out."""
    found = []
    for number in range(rounds + 1):
        started = time.perf_counter()
        subprocess.run(line, check=True, capture_output=True, env={**os.environ, "BEHOLDER_MODELS": str(models_folder())})
        if number:
            found.append(time.perf_counter() - started)
    return found


def main() -> None:
    """Print median, least and most."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="counted runs of each command")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        space = space_of("ViT-L/14")
        assert space is not None
        rows = 24 * space.centroid + np.random.default_rng(0).standard_normal((10, 768))
        np.save(Path(folder) / "ten.npy", rows.astype(np.float16))
        ten = ["score", f"{folder}/ten.npy", "-o", f"{folder}/ten.parquet", "--overwrite"]
        for name, arguments in (("beholder --help", ["--help"]), ("beholder score, 10 rows", ten)):
            found = seconds([sys.executable, "-m", "beholder", *arguments], rounds)
            print(f"{name}: median {statistics.median(found):.2f} s (of {rounds}, {min(found):.2f} to {max(found):.2f})")


if __name__ == "__main__":
    main()
