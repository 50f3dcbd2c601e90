"""What several processes bring, and what a Ray cluster costs: the whole command on the same cores, in turns.

    python benchmarks/scale.py [--count 20000] [--tower small|middle|large] [--sides ...] [--rounds 3] [--save]

Pictures are small (70 x 60 JPEGs in tars of 100), with one decode worker for each process. With the small tower what is not
computing shows most; with the middle one, which a core computes for some 5 to 20 ms a picture, whether processes get in each
other's way; with the large one (some 200 ms) what is left where decoding takes next to nothing of the cores, as with a real
tower. Sides:

- one: `--device cpu`, one thread, one decode worker;
- cpu1: `--devices cpu:1`, the same in a process that is handed its shards;
- two: `--devices cpu:2`, for each process the same;
- ray: `--engine ray --address local --actors 2`, for each actor the same; its time has the start of the cluster in it, which is
  told apart.

Every side writes the same bytes, which is checked. Whole commands, so imports and loading are in the seconds.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import machine
import result_files
from beholder import Head, save_head
from beholder.kernels.scoring import Affine
from beholder.models.backbones import TowerShape
from beholder.models.clip import random_tensors
from tower_checkpoints import save_hugging_face

DATA = result_files.REPOSITORY / "benchmarks" / "data"
HEAD = "small_head.safetensors"
EACH = 100
DIM = 24
TOWERS = {
    "small": TowerShape.small(image_px=56, patch_px=14, width=64, dim=DIM),
    "middle": TowerShape.small(image_px=112, patch_px=14, width=256, num_layers=6, dim=DIM),
    "large": TowerShape.small(image_px=224, patch_px=14, width=512, num_layers=8, dim=DIM),
}
SIDES = {
    "one": ["--device", "cpu"],
    "cpu1": ["--devices", "cpu:1"],
    "two": ["--devices", "cpu:2"],
    "ray": ["--engine", "ray", "--address", "local", "--actors", "2", "--actor-resources", "num_cpus=1"],
}


def make_inputs(folder: Path, count: int, each: int = EACH) -> Path:
    """Tars of `each` small pictures, towers and a head below `folder`; those that are there stay."""
    tars = folder / (f"small_{count}" if each == EACH else f"small_{count}_by_{each}")
    for name, shape in TOWERS.items():
        if not (folder / f"{name}_tower").is_dir():
            save_hugging_face(folder / f"{name}_tower", shape, random_tensors(shape))
    save_head(Head(name="small", math=Affine(np.random.default_rng(23).standard_normal(DIM), 5.0)), folder / HEAD)
    if tars.is_dir():
        return tars
    made = Path(tempfile.mkdtemp(dir=folder))
    rng = np.random.default_rng(0)
    for number in range(-(-count // each)):
        with tarfile.open(made / f"{number:05d}.tar", "w") as tar:
            for at in range(min(each, count - number * each)):
                file = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (60, 70, 3), np.uint8)).save(file, "JPEG")
                member = tarfile.TarInfo(f"{at:04d}.jpg")
                member.size = file.tell()
                tar.addfile(member, io.BytesIO(file.getvalue()))
    made.rename(tars)
    return tars


def run(side: str, tars: Path, out: Path, tower: str) -> tuple[float, float]:
    """Seconds of the whole command, and of the scoring that it tells of."""
    line = [sys.executable, "-m", "beholder", "score", str(tars), "-o", str(out), "--backbone", str(DATA / f"{tower}_tower")]
    line += ["--head", str(DATA / HEAD), "--precision", "fp32", "--batch-size", "30", "--threads", "1"]
    began = time.perf_counter()
    done = subprocess.run(
        [*line, "-j", "1", *SIDES[side]], capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    seconds = time.perf_counter() - began
    found = re.search(r" in ([\d.,]+) s \(", done.stdout)
    if done.returncode != 0 or found is None:
        sys.exit(f"{side}: {done.stderr[-500:]}")
    return seconds, float(found[1].replace(",", ""))


def same(one: Path, other: Path) -> bool:
    """Whether the files of scores are the same bytes."""
    names = sorted(path.name for path in (one / "scores").iterdir())
    return names == sorted(path.name for path in (other / "scores").iterdir()) and all(
        (one / "scores" / name).read_bytes() == (other / "scores" / name).read_bytes() for name in names
    )


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--tower", choices=TOWERS, default="small")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    chosen = parser.parse_args()
    DATA.mkdir(exist_ok=True)
    tars = make_inputs(DATA, chosen.count)
    seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in chosen.sides}
    with tempfile.TemporaryDirectory(dir=DATA) as scratch:
        for _ in range(chosen.rounds):
            for side in chosen.sides:
                out = Path(scratch) / side
                shutil.rmtree(out, ignore_errors=True)
                seconds[side].append(run(side, tars, out, chosen.tower))
                print(f"{side}: {seconds[side][-1][0]:.1f} s, of which scoring {seconds[side][-1][1]:.1f} s", file=sys.stderr)
        others = [Path(scratch) / side for side in chosen.sides[1:]]
        assert all(same(Path(scratch) / chosen.sides[0], other) for other in others), "sides wrote different bytes"
    whole, scoring = ({side: statistics.median(pair[at] for pair in some) for side, some in seconds.items()} for at in (0, 1))
    lines = [
        f"# {chosen.count:,} pictures, {chosen.tower} tower: one process, two, and two Ray actors, {result_files.month()}",
        "",
    ]
    lines += machine.lines("beholder", "ray", "torch", "pillow")
    lines += [f"- whole commands in turns, medians of {chosen.rounds} round(s); all sides wrote the same bytes", ""]
    lines += ["| side | whole command | scoring | pictures/s while scoring | against the first |", "|---|---|---|---|---|"]
    first = scoring[chosen.sides[0]]
    for side in chosen.sides:
        how = " ".join(SIDES[side])
        lines.append(
            f"| `{how}` | {whole[side]:.1f} s | {scoring[side]:.1f} s | {chosen.count / scoring[side]:,.0f} "
            f"| {first / scoring[side]:.2f} x |"
        )
    print("\n".join(lines))
    if chosen.save:
        result_files.save(f"scale_{chosen.tower}", lines)


if __name__ == "__main__":
    main()
