"""Pictures per second of the L/14 tower on the processor: beholder's precisions beside transformers, and their drift.

    python benchmarks/tower_cpu.py [--rounds N] [--save]

All sides have the same random weights, pictures and cores, and go in turn, round by round (transformers is given normalised
floats, and is not timed for making them). It runs in float32 and bfloat16 with `sdpa` under `torch.inference_mode`, each
at several batches; its best one counts.

Drift is measured on the eight pictures of the self-check against beholder's float32, with the public head, for two sets of
random weights: as CLIP initialises them, and with six channels 30 times larger, as trained towers have. Neither is a trained
tower: what the real weights give is measured by the same self-check when they are loaded.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

import machine
import result_files
from beholder import load_head
from beholder.engine import Precision
from beholder.engine.drift import check_pictures, score_drift, worst_case_drift
from beholder.engine.engine import Engine
from beholder.models.backbones import PIXEL_MEAN, PIXEL_STD, SHAPES, TowerShape
from beholder.models.clip import ClipVisionTower, build_tower, random_tensors
from gpu_sides import transformers_module

HEAD = "sac+logos+ava1-l14-linearMSE"
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
BATCHES = {"float32": (1, 4, 8), "bfloat16": (1, 2, 4, 8)}
_LONG_S = 40.0
"""A side whose first pass takes longer is timed by that pass alone: bfloat16 on processors that only emulate it."""
Rows = npt.NDArray[np.float32]


def tensors_with(factor: float, shape: TowerShape) -> dict[str, torch.Tensor]:
    """Random weights; six channels of every token are `factor` times larger."""
    tensors = random_tensors(shape)
    if factor != 1:
        large = torch.randperm(shape.width, generator=torch.Generator().manual_seed(5))[:6]
        tensors["norm_pre.weight"][large] *= factor
        tensors["norm_pre.bias"][large] += factor / 4
    return tensors


def drifts(tower: ClipVisionTower, pictures: npt.NDArray[np.uint8]) -> dict[str, tuple[float, float]]:
    """Precision -> largest difference in score with the public head, and what no head of its length could exceed."""
    head, found = load_head(HEAD), {}
    rows = {name: Engine(tower, device="cpu", precision=name).embed(pictures) for name in PRECISIONS}
    for name in PRECISIONS[1:]:
        found[name] = (score_drift(rows["fp32"], rows[name], [head]), worst_case_drift(rows["fp32"], rows[name]))
    return found


def transformers_side(module: torch.nn.Module, pixels: torch.Tensor, batch: int) -> Callable[[], Rows]:
    """All of `pixels` (N, 3, S, S) in batches."""

    def run() -> Rows:
        with torch.inference_mode():
            found = [module(pixel_values=part).image_embeds.float() for part in pixels.split(batch)]
        return torch.cat(found).numpy()

    return run


def sides(
    tensors: dict[str, torch.Tensor], shape: TowerShape, pictures: npt.NDArray[np.uint8]
) -> dict[str, Callable[[], Rows]]:
    """Everything that is timed: name -> what embeds all pictures."""
    tower, found = build_tower(shape, "quick_gelu", tensors), {}
    for name in PRECISIONS:
        engine = Engine(tower, device="cpu", precision=name)
        found[f"beholder {name}"] = lambda engine=engine: engine.embed(pictures)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    pixels = (torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255 - mean) / std
    for name, batches in BATCHES.items():
        dtype: torch.dtype = getattr(torch, name)
        module = transformers_module(shape, tensors).to(dtype)
        for batch in batches:
            found[f"transformers {name}, batch {batch}"] = transformers_side(module, pixels.to(dtype), batch)
    return found


def speeds(all_sides: dict[str, Callable[[], Rows]], num_pictures: int, rounds: int) -> dict[str, float]:
    """Median pictures a second, sides in turn; correctness first."""
    exact = all_sides["beholder fp32"]()
    seconds: dict[str, list[float]] = {}
    for name, side in all_sides.items():
        started = time.perf_counter()
        worst = float(np.abs(side() - exact).max() / np.abs(exact).max())  # this run is the warm-up too
        first = time.perf_counter() - started
        print(f"  {name}: {first:.1f} s, largest difference {worst:.1e} of the largest value", file=sys.stderr)
        assert worst < (2e-5 if "32" in name else 0.1), (name, worst)
        seconds[name] = [first] if first > _LONG_S else []
    repeated = [name for name, values in seconds.items() if not values]
    for _ in range(rounds):
        for name in repeated:
            side = all_sides[name]
            started = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - started)
    return {name: num_pictures / statistics.median(values) for name, values in seconds.items()}


def table(rates: dict[str, float]) -> list[str]:
    """Markdown rows with ratios to the best of transformers."""
    best = {kind: max(rate for name, rate in rates.items() if f"transformers {kind}" in name) for kind in BATCHES}
    rows = ["| tower | pictures/s | x transformers float32 | x transformers bfloat16 |", "|---|---|---|---|"]
    for name, rate in rates.items():
        rows.append(f"| {name} | {rate:.2f} | {rate / best['float32']:.2f} | {rate / best['bfloat16']:.2f} |")
    return [*rows, "", "Ratios are to transformers at its best batch of that precision."]


def main() -> None:
    """Measure, print, and with --save write benchmarks/results/tower_cpu_*.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/tower_cpu_*.md")
    options = parser.parse_args()
    chosen = os.environ.get("BEHOLDER_MODELS") or os.environ.get("BEHOLDER_TEST_MODELS")
    os.environ["BEHOLDER_MODELS"] = chosen or str(Path(__file__).resolve().parents[2] / "shared" / "models")
    shape = SHAPES["openai/clip-vit-large-patch14"]
    pictures = check_pictures(shape.image_px)
    lines = [
        f"# The L/14 tower on a processor, {result_files.month()}",
        "",
        *machine.lines("beholder", "torch", "transformers"),
    ]
    lines += [
        f"- random weights; {len(pictures)} pictures a turn, medians of {options.rounds} rounds, sides in turn (of those that",
        f"  take over {_LONG_S:.0f} s the first pass); load when it began {os.getloadavg()[0]:.1f} (1: one core was busy)",
        "",
    ]
    rates = speeds(sides(random_tensors(shape), shape, pictures), len(pictures), options.rounds)
    lines += [*table(rates), "", f"Drift in score, {HEAD}, eight check pictures, against float32:", ""]
    lines += ["| weights | precision | drift | bound for any head of that length |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as cache:
        os.environ["BEHOLDER_CACHE"] = cache
        for title, factor in (("random", 1.0), ("random, six channels x 30", 30.0)):
            tower = build_tower(shape, "quick_gelu", tensors_with(factor, shape))
            for name, (drift, bound) in drifts(tower, pictures).items():
                lines.append(f"| {title} | {name} | {drift:.4f} | {bound:.3f} |")
            if factor == 1:
                auto = Engine(tower, device="cpu", heads=[load_head(HEAD)]).describe()
                check = auto["self_check"]
                lines_auto = (
                    f"`auto` takes {auto['precision']} here ({auto['form']}), chosen in {check['seconds']:.0f} s: "
                    f"pictures/s {check['pictures_per_second']}, left out {check['failed']}."
                )
    lines += [
        "",
        lines_auto,
        "Random weights say little about trained ones: the self-check measures those when they are loaded.",
    ]
    print("\n".join(lines))
    if options.save:
        result_files.save("tower_cpu", lines)


if __name__ == "__main__":
    main()
