"""beholder on a GPU: is it right, how fast is it beside transformers and timm, and where does the whole path wait.

    python benchmarks/gpu.py --out DIR [--stages ...] [--batch 256] [--minutes 5.75]
    python benchmarks/gpu.py --out DIR --dry          all of it on the processor with a tiny tower, in under two minutes

Stages, the most important first; each has its share of the time, and is cut off at the end of it:
    correct    each precision against float32 (and float32 against transformers): embeddings, and scores of the default head
    products   matrix products a second that the card does in bf16 and fp8: the largest seen over squares and the tower's sizes
    compiled   pictures/s on the device: beholder compiled, in bf16 and fp8; what compiling took; the share of the products
    eager      the same of beholder, transformers and timm, nothing compiled, in bf16
    peers      the same of transformers and timm compiled
    path       `beholder score` from tars of JPEGs with all cores decoding; decoding alone; on the GPU, if torchvision can
    head       `head.score` on tensors of the device against the processor

Everything measured is merged into DIR/gpu.json at once, and DIR/gpu.md is written from it after each stage, so that a run that
is cut off keeps what it has, and stages may be run in several calls. What cannot run says why, in the result.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import os
import signal
import statistics
import sys
import threading
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

STAGES = {"correct": 45, "products": 20, "compiled": 75, "eager": 45, "peers": 55, "path": 90, "head": 10}
"""Seconds of each, of 340 in all; what one leaves goes to the next."""
DRY_STAGES = {"correct": 14, "products": 2, "compiled": 40, "eager": 6, "peers": 28, "path": 22, "head": 3}
"""The same of a dry run, in which compiling takes longest."""
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
    batch: int
    rounds: int
    record: dict[str, Any] = field(default_factory=dict)

    def is_late(self) -> bool:
        """Whether no new work should be begun."""
        return time.perf_counter() > self.deadline

    def write_page(self) -> None:
        """Write the page of what is known."""
        (self.out / "gpu.md").write_text(gpu_report.page(self.record), encoding="utf-8")

    def keep(self, part: str, key: str, value: Any) -> None:
        """Put a result into the record, and the record on disk."""
        self.record.setdefault("parts", {}).setdefault(part, {})[key] = value
        (self.out / "gpu.json").write_text(json.dumps(self.record, indent=1), encoding="utf-8")
        print(f"  {part}: {key}: {json.dumps(value)[:160]}", file=sys.stderr, flush=True)


class OutOfTime(BaseException):
    """A stage has had its time. No Exception, so that nothing on the way takes it for a failure of its own."""


def why(error: BaseException) -> str:
    """One line on what went wrong."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def precisions(run: Run) -> list[str]:
    """Those of the device."""
    return ["fp32", "bf16"] if run.device.type == "cpu" else ["fp32", "bf16", "fp8", "tf32", "fp16"]


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
    """Embeddings and scores of each precision."""
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
    kinds += [("beholder", "fp8", True)] if run.is_dry else [("beholder", "bf16", True), ("beholder", "fp8", True)]
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
    """The largest rate over squares and the tower's own products."""
    tokens = (256 if not run.is_dry else 2) * run.shape.num_tokens
    width, mlp = run.shape.width, run.shape.mlp_width
    squares = [128] if run.is_dry else [4096, 8192]
    sizes = [(side, side, side) for side in squares] + [(tokens, width, mlp), (tokens, mlp, width), (tokens, width, 3 * width)]
    for name in ("bf16",) if run.is_dry else ("bf16", "fp8"):
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
    if precision == "fp8":
        left, right = (part.to(torch.float8_e4m3fn) for part in made)
        by_row, by_column = torch.ones(m, 1, device=run.device), torch.ones(1, n, device=run.device)

        def work() -> Any:
            return torch._scaled_mm(
                left, right.t(), scale_a=by_row, scale_b=by_column, out_dtype=torch.bfloat16, use_fast_accum=True
            )
    else:

        def work() -> Any:
            return made[0] @ made[1].t()

    seconds = []
    with float32_products(tf32=precision == "tf32"):
        for _ in range(run.rounds + 1):
            synchronize(run.device)
            times = 1 if run.is_dry else max(1, int(5e13 / (2 * m * k * n)))
            started = time.perf_counter()
            for _ in range(times):
                work()
            synchronize(run.device)
            seconds.append((time.perf_counter() - started) / times)
    return 2 * m * k * n / statistics.median(seconds[1:])


SIDES = {
    "compiled": [("beholder", "bf16", True), ("beholder", "fp8", True)],
    "eager": [(what, "bf16", False) for what in ("beholder", "transformers", "timm")],
    "peers": [(what, "bf16", True) for what in ("transformers", "timm")],
}
"""What each stage compares: (program, precision, compiled)."""


def rates(run: Run, stage: str) -> None:
    """Pictures a second of a stage's sides, in turns; what was timed when the time ends counts."""
    tensors = random_tensors(run.shape)
    made = gpu_path.prepared_pictures(min(run.batch, 256), run.shape.image_px)
    several = [np.resize(np.roll(made, turn, axis=0), (run.batch, *made.shape[1:])) for turn in range(3)]
    pixels = [torch.from_numpy(one).to(run.device) for one in several]
    sides: dict[str, tuple[Any, str, list[torch.Tensor], int]] = {}
    seconds: dict[str, list[float]] = {}
    try:
        for what, precision, compiled in SIDES[stage]:
            key = f"{what} {precision}{' compiled' if compiled else ''}, batch {run.batch}"
            began = time.perf_counter()
            try:
                side = build(what, run.shape, tensors, run.device, precision, run.batch, compiled)
                given = [side.prepared(one) for one in pixels]
                for _ in range(1 if run.is_dry else 3):
                    timed(side, given, 2, run.device)
            except WANTING as error:
                run.keep("rates", key, why(error))
                continue
            if compiled:
                run.keep("compiling", key, time.perf_counter() - began)
            once = timed(side, given, 2, run.device) / 2
            sides[key] = side, precision, given, 1 if run.is_dry else max(3, math.ceil(0.5 / once))
            seconds[key] = [once]
        for number in range(run.rounds):
            for key, (side, _, given, times) in sides.items():
                seconds[key] = (seconds[key] if number else []) + [timed(side, given, times, run.device) / times]
    finally:
        for key, (side, precision, _, _) in sides.items():
            _keep_rate(run, key, precision, seconds[key])
            side.close()


def _keep_rate(run: Run, key: str, precision: str, seconds: list[float]) -> None:
    rate, low, high = (run.batch / of(seconds) for of in (statistics.median, max, min))
    allowed = run.record.get("parts", {}).get("products", {}).get(precision)
    share = rate * 2 * run.shape.num_macs / (allowed["tflops"] * 1e12) if isinstance(allowed, dict) else None
    run.keep("rates", key, {"pictures_per_second": rate, "low": low, "high": high, "share_of_products": share})


def head(run: Run) -> None:
    """`head.score` on the device."""
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
        batch=2 if options.dry else options.batch,
        rounds=1 if options.dry else 5,
        record=record,
    )


def run_stage(run: Run, stage: str, seconds: float, num_pictures: int) -> None:
    """One stage, cut off after so many seconds."""
    work = {
        "correct": lambda: correct(run),
        "products": lambda: products(run),
        "path": lambda: gpu_path.path(run, num_pictures),
        "head": lambda: head(run),
    }.get(stage, lambda: rates(run, stage))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    began = time.perf_counter()
    try:
        work()
        ended = "whole"
    except OutOfTime:
        ended = "cut off"
    except WANTING as error:
        ended = why(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    run.keep("stages", stage, f"{ended}, {time.perf_counter() - began:.0f} s")
    run.write_page()


def end_late(run: Run, seconds: float) -> None:
    """End the program after so many seconds, whatever hangs: what is known was written."""
    time.sleep(seconds)
    run.keep("stages", "all", "ended by the clock")
    run.write_page()
    os._exit(0)


def main() -> None:
    """Run the stages asked for, and write what is known."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json and gpu.md")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--shape", choices=list(SHAPES), default="openai/clip-vit-large-patch14")
    parser.add_argument("--minutes", type=float, help="of all stages together (default: 5.75; 1.9 with --dry)")
    parser.add_argument("--pictures", type=int, default=3000, help="JPEGs of the whole path")
    parser.add_argument("--dry", action="store_true", help="a tiny tower on the processor")
    options = parser.parse_args()
    options.minutes = options.minutes or (1.9 if options.dry else 5.75)
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # the peers' patch convolution: torch takes TF32 for it unasked
    with contextlib.suppress(ImportError):  # (not on the clock of the stage that needs it first)
        importlib.import_module("transformers.models.clip.modeling_clip")
    run = open_run(options)

    def over(number: int, frame: object) -> None:
        raise OutOfTime

    signal.signal(signal.SIGALRM, over)
    threading.Thread(target=end_late, args=(run, 60 * options.minutes), daemon=True).start()
    shares = DRY_STAGES if options.dry else STAGES
    factor = 60 * options.minutes / sum(shares.values())
    spare = 0.0
    for stage in options.stages:
        began = time.perf_counter()
        run_stage(run, stage, factor * shares[stage] + spare, 16 if options.dry else options.pictures)
        spare = max(0.0, factor * shares[stage] + spare - (time.perf_counter() - began))
    print((options.out / "gpu.md").read_text(encoding="utf-8"))
    if options.dry and (missing := gpu_report.missing(run.record, options.stages)):
        sys.exit(f"gpu.py: nothing was measured of {', '.join(missing)}")


if __name__ == "__main__":
    main()
