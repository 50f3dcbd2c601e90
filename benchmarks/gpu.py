"""beholder on a GPU: is it right, how fast is it beside transformers and timm, and where does the whole path wait.

    python benchmarks/gpu.py --out DIR [--parts correct products rates path head] [--batches 128 256] [--minutes 9]
                             [--eager] [--fp8]
    python benchmarks/gpu.py --out DIR --dry          all of it on the processor with a tiny tower, in under a minute

Parts:
    correct   each precision against float32 (and float32 against transformers): embeddings, and scores of the default head
    products  matrix products a second that the card does in each precision: the largest seen over squares and the tower's sizes
    rates     pictures/s on the device for every batch: beholder's Engine beside transformers and timm with the same weights,
              eager and compiled, warmed up, in turns, medians; and the share of what the products allow
    path      `beholder score` from tars of JPEGs with all cores decoding; decoding alone; on the GPU, if torchvision can
    head      `head.score` on tensors of the device against the processor

Everything measured is merged into DIR/gpu.json, and DIR/gpu.md is written from it, so parts and batches may be run in several
calls, each of which stops taking up new work after --minutes. What cannot run says why, in the result.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gpu_path
import gpu_report
import machine
from beholder.engine.devices import float32_products
from beholder.errors import BeholderError
from beholder.models.backbones import SHAPES, TowerShape
from beholder.models.clip import random_tensors
from gpu_sides import DTYPES, build, synchronize, timed

PARTS = ("correct", "products", "rates", "path", "head")
WANTING = (ImportError, RuntimeError, BeholderError, TypeError, ValueError, OSError)
"""What building or running a side may raise where this machine or this version of a library cannot do it."""


@dataclass
class Run:
    """What all parts know."""

    out: Path
    device: torch.device
    shape: TowerShape
    is_dry: bool
    deadline: float
    batches: list[int]
    rounds: int
    with_fp8: bool
    is_eager: bool
    record: dict[str, Any] = field(default_factory=dict)

    def is_late(self) -> bool:
        """Whether no new work should be begun."""
        return time.perf_counter() > self.deadline

    def keep(self, part: str, key: str, value: Any) -> None:
        """Put a result into the record, and the record on disk."""
        self.record.setdefault("parts", {}).setdefault(part, {})[key] = value
        (self.out / "gpu.json").write_text(json.dumps(self.record, indent=1), encoding="utf-8")
        print(f"  {part}: {key}: {json.dumps(value)[:160]}", file=sys.stderr, flush=True)


def why(error: BaseException) -> str:
    """One line on what went wrong."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def precisions(run: Run) -> list[str]:
    """Those of the device."""
    return ["fp32", "bf16"] if run.device.type == "cpu" else ["fp32", "tf32", "bf16", "fp16"]


def score_of(embeddings: torch.Tensor) -> tuple[np.ndarray[Any, Any], str]:
    """Scores in float64 by the default head where it is at hand and fits, else by a random one of its length; and which."""
    rows = embeddings.double().numpy()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    try:
        from beholder import load_head

        head = load_head("sac+logos+ava1-l14-linearMSE", offline=True)
        if head.dim == rows.shape[1]:
            return unit @ head.weight + head.bias, head.name
    except BeholderError:
        pass
    weight = np.random.default_rng(5).standard_normal(rows.shape[1])
    return unit @ (weight * (18.0 / np.linalg.norm(weight))), "a random head of the default head's length (18)"


def correct(run: Run) -> None:
    """Part (a)."""
    num_pictures = 8 if run.is_dry else 256
    batch = 4 if run.is_dry else 64
    tensors = random_tensors(run.shape)
    pixels = torch.from_numpy(gpu_path.prepared_pictures(num_pictures, run.shape.image_px)).to(run.device)
    batches = list(pixels.split(batch))

    def embeddings(what: str, precision: str, compiled: bool) -> torch.Tensor:
        with float32_products(tf32=precision == "tf32"):
            side = build(what, run.shape, tensors, run.device, precision, batch, compiled)
            rows = torch.cat([side.run([side.prepared(one)]) for one in batches])
        side.close()
        return rows

    try:
        exact, reference = embeddings("transformers", "fp32", False), "transformers in float32 on this device"
    except WANTING as error:
        run.keep("correct", "transformers", why(error))
        exact, reference = embeddings("beholder", "fp32", False), "beholder in float32 on this device"
    wanted, head = score_of(exact)
    run.keep("correct", "reference", f"{reference}; {num_pictures} pictures; scores by {head}")
    kinds = [("beholder", name, False) for name in precisions(run)]
    kinds += [("transformers", name, False) for name in ("bf16",)] + [("timm", name, False) for name in ("fp32", "bf16")]
    if not (run.is_dry or run.is_eager):
        kinds += [("beholder", name, True) for name in ("bf16", "fp16")]
    kinds += [("beholder", "fp8", True)] if run.with_fp8 else []
    for what, precision, compiled in kinds:
        key = f"{what} {precision}{' compiled' if compiled else ''}"
        if run.is_late():
            run.keep("correct", key, "left out: no time")
            continue
        try:
            found = embeddings(what, precision, compiled)
        except WANTING as error:
            run.keep("correct", key, why(error))
            continue
        drift = np.abs(score_of(found)[0] - wanted)
        off = ((found - exact).norm(dim=1) / exact.norm(dim=1)).max()
        run.keep("correct", key, {"embedding": float(off), "score_max": float(drift.max()), "score_mean": float(drift.mean())})


def products(run: Run) -> None:
    """Part (b): the largest rate over squares and the tower's own products."""
    tokens = (256 if not run.is_dry else 2) * run.shape.num_tokens
    width, mlp = run.shape.width, run.shape.mlp_width
    squares = [128] if run.is_dry else [4096, 8192, 16384]
    sizes = [(side, side, side) for side in squares] + [(tokens, width, mlp), (tokens, mlp, width), (tokens, width, 3 * width)]
    for name in [*precisions(run), *(["fp8"] if run.with_fp8 else [])]:
        best, at = 0.0, None
        for m, k, n in sizes:
            try:
                rate = product_rate(run, name, m, k, n)
            except WANTING as error:
                run.keep("products", name, why(error))
                break
            if rate > best:
                best, at = rate, [m, k, n]
        if at:
            run.keep("products", name, {"tflops": best / 1e12, "at": at})


def product_rate(run: Run, precision: str, m: int, k: int, n: int) -> float:
    """Floating-point operations a second of (m, k) x (k, n), random numbers, median of the rounds."""
    made = [torch.randn(size, device=run.device).to(DTYPES[precision]) for size in ((m, k), (n, k))]
    one = torch.ones((), device=run.device)
    if precision == "fp8":
        left, right = (part.to(torch.float8_e4m3fn) for part in made)

        def work() -> Any:
            return torch._scaled_mm(left, right.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    else:

        def work() -> Any:
            return made[0] @ made[1].t()

    seconds = []
    with float32_products(tf32=precision == "tf32"):
        for _ in range(run.rounds + 1):
            synchronize(run.device)
            times = 1 if run.is_dry else max(1, int(2e14 / (2 * m * k * n)))
            started = time.perf_counter()
            for _ in range(times):
                work()
            synchronize(run.device)
            seconds.append((time.perf_counter() - started) / times)
    return 2 * m * k * n / statistics.median(seconds[1:])


def sides_of(run: Run) -> list[tuple[str, str, bool]]:
    """What part (c) compares: (program, precision, compiled)."""
    if run.is_dry:
        return [
            ("beholder", "bf16", False),
            ("transformers", "bf16", False),
            ("timm", "bf16", False),
            ("beholder", "fp32", False),
        ]
    found = [("beholder", name, compiled) for name in ("bf16", "fp16") for compiled in (False, True)]
    found += [(what, "bf16", compiled) for what in ("transformers", "timm") for compiled in (False, True)]
    found += [(what, "fp16", False) for what in ("transformers", "timm")] + [("beholder", "tf32", False)]
    found = [side for side in found if not (run.is_eager and side[2])]
    return found + ([("beholder", "fp8", True)] if run.with_fp8 else [])


def rates(run: Run) -> None:
    """Part (c)."""
    tensors = random_tensors(run.shape)
    for batch in run.batches:
        made = gpu_path.prepared_pictures(min(batch, 256), run.shape.image_px)
        several = [np.resize(np.roll(made, turn, axis=0), (batch, *made.shape[1:])) for turn in range(3)]
        pixels = [torch.from_numpy(one).to(run.device) for one in several]
        sides, times, inputs = {}, {}, {}
        for what, precision, compiled in sides_of(run):
            key = f"{what} {precision}{' compiled' if compiled else ''}, batch {batch}"
            if run.is_late():
                run.keep("rates", key, "left out: no time")
                continue
            try:
                side = build(what, run.shape, tensors, run.device, precision, batch, compiled)
                given = [side.prepared(one) for one in pixels]
                with float32_products(tf32=precision == "tf32"):
                    for _ in range(1 if run.is_dry else 3):
                        timed(side, given, 2, run.device)
                    once = timed(side, given, 4, run.device) / 4
            except WANTING as error:
                run.keep("rates", key, why(error))
                continue
            sides[key], inputs[key] = (side, precision), given
            times[key] = 1 if run.is_dry else max(3, math.ceil(0.5 / once))
        seconds: dict[str, list[float]] = {key: [] for key in sides}
        for _ in range(run.rounds):
            for key, (side, precision) in sides.items():
                with float32_products(tf32=precision == "tf32"):
                    seconds[key].append(timed(side, inputs[key], times[key], run.device) / times[key])
        for key, (side, precision) in sides.items():
            rate = batch / statistics.median(seconds[key])
            low, high = batch / max(seconds[key]), batch / min(seconds[key])
            allowed = run.record.get("parts", {}).get("products", {}).get(precision)
            share = rate * 2 * run.shape.num_macs / (allowed["tflops"] * 1e12) if isinstance(allowed, dict) else None
            run.keep("rates", key, {"pictures_per_second": rate, "low": low, "high": high, "share_of_products": share})
            side.close()


def head(run: Run) -> None:
    """Part (e)."""
    from beholder import Head, load_head
    from beholder.kernels.scoring import Affine

    try:
        made = load_head("sac+logos+ava1-l14-linearMSE", offline=True)
    except BeholderError:
        weight = np.random.default_rng(3).standard_normal(768)
        made = Head(name="a random head", math=Affine(weight * 18 / np.linalg.norm(weight), 5.2))
    rows = torch.randn(1000 if run.is_dry else 1_000_000, 768, generator=torch.Generator().manual_seed(1))
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        there = rows.to(dtype)
        here = made.score(there)
        on_device = there.to(run.device)
        seconds = []
        for _ in range(run.rounds + 1):
            synchronize(run.device)
            started = time.perf_counter()
            found = made.score(on_device)
            synchronize(run.device)
            seconds.append(time.perf_counter() - started)
        worst = float((found.cpu() - here).abs().max())
        rate = len(rows) / statistics.median(seconds[1:])
        run.keep("head", str(dtype).removeprefix("torch."), {"largest_difference": worst, "rows_per_second": rate})


def open_run(options: argparse.Namespace) -> Run:
    """Look at the machine and at what an earlier call has left."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() and not options.dry else torch.device("cpu")
    if device.type == "cpu" and not options.dry:
        raise SystemExit("gpu.py: no CUDA device here; --dry tries the script on the processor")
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "gpu.json"
    record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU: a dry run"
    if record and record["device"] != name:
        raise SystemExit(f"gpu.py: {file} is of another device ({record['device']}); choose another --out")
    shape = TowerShape.small(image_px=56) if options.dry else SHAPES[options.shape]
    record |= {
        "device": name,
        "is_dry": options.dry,
        "is_eager": options.eager,
        "machine": machine.lines("beholder", "torch", "torchvision", "transformers", "timm", "pillow"),
        "shape": "a tiny tower" if options.dry else options.shape,
        "gflops_per_picture": 2 * shape.num_macs / 1e9,
    }
    return Run(
        out=options.out,
        device=device,
        shape=shape,
        is_dry=options.dry,
        deadline=time.perf_counter() + 60 * options.minutes,
        batches=[2, 4] if options.dry else options.batches,
        rounds=1 if options.dry else 5,
        with_fp8=options.fp8,
        is_eager=options.eager,
        record=record,
    )


def main() -> None:
    """Run the parts asked for, and write what is known."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json and gpu.md")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 256, 512, 1024])
    parser.add_argument("--shape", choices=list(SHAPES), default="openai/clip-vit-large-patch14")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing new after so long")
    parser.add_argument("--pictures", type=int, default=4000, help="JPEGs of the whole path")
    parser.add_argument("--fp8", action="store_true", help="try float8 products as well: an experiment")
    parser.add_argument("--eager", action="store_true", help="nothing compiled: torch.compile takes minutes a side")
    parser.add_argument("--dry", action="store_true", help="a tiny tower on the processor")
    options = parser.parse_args()
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # the peers' patch convolution: torch takes TF32 for it unasked
    run = open_run(options)
    for part in options.parts:
        if run.is_late():
            run.keep(part, "left out", "no time")
            continue
        if part == "path":
            gpu_path.path(run, 16 if options.dry else options.pictures)
        else:
            {"correct": correct, "products": products, "rates": rates, "head": head}[part](run)
    (options.out / "gpu.md").write_text(gpu_report.page(run.record), encoding="utf-8")
    print((options.out / "gpu.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
