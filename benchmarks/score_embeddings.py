"""Scores per second from embeddings: beholder, the speed of memory, and the tools people use today, side by side in one run.

    python benchmarks/score_embeddings.py [--rows N] [--rounds N] [--save]

Measured in turn, round by round, so that a drift of the machine hits all; medians and ratios are printed.

(a) 1,000,000 x 768 float16 in one .npy that is in the page cache, as reading it from the disk leaves it there, and as
    writing it does (how a file came there decides in how large pages it lies): reader and kernel, against reading the same
    number of bytes from memory (a compiled loop over int64, all cores), and the whole command with its Parquet output.
(b) the same file with embedding-reader and the published five layers in PyTorch.
(c) birder's logits, 100,000 rows of Parquet and 20,000 of CSV, with VDC's aesthetic_filter: rates as both programs report
    them (imports and model loading left out), ours once more in a process that has scored before, and whole processes.

Peers run in .venv-peers (make peers). Correctness comes first: our scores are compared with float64 and with VDC's.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba as nb
import numpy as np
import polars as pl
import pyarrow.parquet as pq

import machine
import result_files
from beholder import load_head
from beholder.kernels.scoring import RowScorer
from beholder.models.spaces import Space, space_of
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from beholder.sources.npy import NpyReader
from beholder.sources.reader import ReadOptions

REPOSITORY = Path(__file__).resolve().parents[1]
PEERS = REPOSITORY / ".venv-peers" / "bin" / "python"
DATA = REPOSITORY / "benchmarks" / "data"
HEAD = "sac+logos+ava1-l14-linearMSE"
DIM = 768


def models_folder() -> Path:
    """Where the public heads are: $BEHOLDER_MODELS or $BEHOLDER_TEST_MODELS, else ../shared/models."""
    chosen = os.environ.get("BEHOLDER_MODELS") or os.environ.get("BEHOLDER_TEST_MODELS")
    return Path(chosen) if chosen else REPOSITORY.parent / "shared" / "models"


def _space() -> Space:
    space = space_of("ViT-L/14")
    assert space is not None
    return space


def make_data(num_rows: int) -> None:
    """Unit-length float16 rows, and birder's logits as polars writes them. Kept in benchmarks/data.

    All lie where embeddings of ViT-L/14 do (mean cosine to their centroid 0.65), so that they are scored as real ones are.
    """
    middle = 24 * _space().centroid.astype(np.float32)
    (DATA / "npy").mkdir(parents=True, exist_ok=True)
    npy = DATA / "npy" / f"img_emb_l14_{num_rows}.npy"
    for other in (DATA / "npy").glob("*.npy"):
        if other != npy:
            other.unlink()
    if not npy.exists():
        rng = np.random.default_rng(0)
        out = np.lib.format.open_memmap(npy.with_suffix(".tmp"), "w+", np.float16, (num_rows, DIM))
        for low in range(0, num_rows, 50_000):
            rows = middle + rng.standard_normal((min(50_000, num_rows - low), DIM), dtype=np.float32)
            out[low : low + len(rows)] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        out.flush()
        npy.with_suffix(".tmp").rename(npy)
    if not (DATA / "logits_l14.csv").exists():
        rows = middle + np.random.default_rng(1).standard_normal((100_000, DIM), dtype=np.float32)
        frame = pl.DataFrame(
            {"sample": [f"images/{i:08d}.jpg" for i in range(len(rows))], **{str(i): rows[:, i] for i in range(DIM)}}
        )
        frame.write_parquet(DATA / "logits_l14.parquet", row_group_size=50_176)
        frame.head(20_000).write_csv(DATA / "logits_l14.csv")


@nb.njit(nogil=True)
def _xor(words: Any) -> int:
    found = np.int64(0)
    for i in range(words.size):
        found ^= words[i]
    return found


class MemoryRead:
    """Reads an array in anonymous memory with all cores: the limit for anything that has to look at every byte."""

    def __init__(self, num_bytes: int) -> None:
        self.words = np.ones(num_bytes // 8, np.int64)
        self.num_threads = len(os.sched_getaffinity(0))
        self.pool = ThreadPoolExecutor(self.num_threads - 1) if self.num_threads > 1 else None
        _xor(self.words[:8])

    def __call__(self) -> None:
        """Read it once."""
        chunk, counter = 1 << 20, itertools.count()

        def work() -> None:
            while (low := next(counter) * chunk) < len(self.words):
                _xor(self.words[low : low + chunk])

        helpers = [self.pool.submit(work) for _ in range(self.num_threads - 1)] if self.pool else []
        work()
        for helper in helpers:
            helper.result()


def timed(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def run_json(line: list[str], **kwargs: Any) -> dict[str, Any]:
    """Run a program that prints JSON; `wall` is its whole time in seconds."""
    started = time.perf_counter()
    result = subprocess.run(line, capture_output=True, text=True, check=True, **kwargs)
    return {**json.loads(result.stdout), "wall": time.perf_counter() - started}


def run_vdc(source: Path, work: Path) -> dict[str, float]:
    """VDC's aesthetic_filter on `source`: its own rate, and the whole process."""
    line = [
        str(PEERS),
        "-m",
        "vdc.scripts.aesthetic_filter",
        "--device",
        "cpu",
        "--force",
        "--output-csv",
        "vdc.csv",
        str(source),
    ]
    started = time.perf_counter()
    result = subprocess.run(line, capture_output=True, text=True, check=True, cwd=work)
    wall = time.perf_counter() - started
    rate = re.search(r"\(([\d.]+) samples/sec\)", result.stdout + result.stderr)
    assert rate, result.stdout + result.stderr
    return {"rows_per_second": float(rate[1]), "wall": wall}


def run_beholder(source: Path, out: Path) -> dict[str, Any]:
    """The command `beholder score`: its own rate, and the whole process."""
    line = [sys.executable, "-m", "beholder", "score", str(source), "-o", str(out), "--overwrite", "--json"]
    return run_json(line, env={**os.environ, "BEHOLDER_MODELS": str(models_folder())})


def read_from_disk(path: Path) -> None:
    """Have a file in the page cache as reading it from its begin to its end leaves it there."""
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while file.read(8 << 20):
            pass


def against_memory(npy: Path, num_rows: int, rounds: int, work: Path) -> tuple[list[str], dict[str, float]]:
    """Part (a) and (b)."""
    head = load_head(HEAD)
    scorer, reader, options = RowScorer([head.math]), NpyReader(), ReadOptions()
    written = Path(shutil.copyfile(npy, work / "written.npy"))
    read_from_disk(npy)
    parts = {path: reader.inspect(str(path), path.name, options) for path in (npy, written)}
    part = parts[npy]
    in_memory = np.fromfile(npy, np.float16, offset=part.detail["offset"]).reshape(num_rows, DIM)
    exact = in_memory[:20_000].astype(np.float64)
    exact = (exact @ head.weight) / np.linalg.norm(exact, axis=1) + head.bias
    worst = float(np.abs(scorer.score(in_memory[:20_000])[0][:, 0] - exact).max())
    assert worst < 1e-5, worst

    def from_file(path: Path) -> None:
        for block in reader.blocks(parts[path], 0, None, options):
            scorer.score(block.embeddings, before_chunk=block.before_chunk)

    def whole_job() -> None:
        score(ScoreOptions(sources=(str(npy),), out=str(work / "whole"), overwrite=True))

    memory_read = MemoryRead(in_memory.nbytes)
    sides: dict[str, Callable[[], Any]] = {
        "memory": memory_read, "array": lambda: scorer.score(in_memory), "file": lambda: from_file(npy),
        "written": lambda: from_file(written), "job": whole_job,
    }  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in sides}
    peer: list[float] = []
    for name, side in sides.items():
        side()  # warm-up: compiled code, page cache
        print(f"  warm: {name}", file=sys.stderr)
    for number in range(rounds):
        for name, side in sides.items():
            side()  # once for nothing: between rounds the system takes memory back, and the first touch pays for that
            times[name].append(timed(side))
        if PEERS.exists() and number < 3:
            head_file = models_folder() / f"{HEAD}.pth"
            line = [str(PEERS), str(REPOSITORY / "benchmarks/peers/embedding_reader_torch.py"), str(npy.parent), str(head_file)]
            peer.append(float(run_json(line)["seconds"]))
    seconds = {name: statistics.median(values) for name, values in times.items()}
    titles = {
        "memory": "limit: reading that many bytes from memory",
        "array": "beholder, array in memory (`head.score`)",
        "file": "beholder, reader and kernel, .npy in the page cache, read from the disk",
        "written": "the same, .npy in the page cache, written just before",
        "job": "beholder, whole job with Parquet output",
    }
    rows = []
    for name, title in titles.items():
        rate, speed = num_rows / seconds[name] / 1e6, in_memory.nbytes / seconds[name] / 1e9
        rows.append(f"| {title} | {rate:.2f} M | {speed:.1f} | {seconds['memory'] / seconds[name]:.0%} of the limit |")
    if peer:
        slow = statistics.median(peer)
        speed = in_memory.nbytes / slow / 1e9
        share = f"{seconds['file'] / slow:.1%} of beholder's"
        rows.append(f"| embedding-reader and PyTorch layers | {num_rows / slow / 1e6:.3f} M | {speed:.2f} | {share} |")
        seconds["peer"] = slow
    print(f"largest difference from float64 on 20,000 rows: {worst:.1e}", file=sys.stderr)
    return rows, seconds


def read_parquet_only(source: Path) -> None:
    """Decode every row group, as beholder does, and throw it away: the limit for birder's Parquet."""
    with pq.ParquetFile(source, memory_map=True, pre_buffer=False) as file:
        for group in range(file.num_row_groups):
            file.read_row_group(group)


def against_vdc(name: str, out_suffix: str, rounds: int, work: Path) -> tuple[str, float]:
    """Part (c) for one file of birder's logits; the table row, and the ratio of the rates."""
    source = DATA / name
    ours, theirs = [], []
    run_vdc(source, work)
    run_beholder(source, work / f"ours{out_suffix}")
    for _ in range(rounds):
        theirs.append(run_vdc(source, work))
        ours.append(run_beholder(source, work / f"ours{out_suffix}"))
    job = ScoreOptions(sources=(str(source),), out=str(work / f"ours{out_suffix}"), overwrite=True)
    steady = statistics.median((done := score(job)).num_new / done.seconds for _ in range(rounds + 1))
    found = pl.read_csv(work / "ours.csv") if out_suffix == ".csv" else pl.read_parquet(work / f"ours{out_suffix}")
    both = found.join(pl.read_csv(work / "vdc.csv"), on="sample", suffix="_vdc")
    assert len(both) == len(found)
    worst = (both["aesthetic_score"] - both["aesthetic_score_vdc"]).abs().max()
    assert isinstance(worst, float)
    assert worst < 1e-4, worst

    def median(runs: list[dict[str, Any]], key: str) -> float:
        return statistics.median(run[key] for run in runs)

    rate, vdc_rate = median(ours, "rows_per_second"), median(theirs, "rows_per_second")
    wall, vdc_wall = median(ours, "wall"), median(theirs, "wall")
    row = (
        f"| {name} ({len(found):,} rows) to {out_suffix} | {vdc_rate:,.0f} | {rate:,.0f}, {rate / vdc_rate:.1f} x "
        f"| {steady:,.0f}, **{steady / vdc_rate:.1f} x** "
        f"| {vdc_wall:.2f} s | {wall:.2f} s, {vdc_wall / wall:.1f} x | {worst:.0e} |"
    )
    return row, rate / vdc_rate


def main() -> None:
    """Run everything and print the tables; with --save also write them to benchmarks/results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the .npy")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of part (a); parts (b) and (c) run 3 and 5")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/score_embeddings_*.md")
    options = parser.parse_args()
    os.environ["BEHOLDER_MODELS"] = str(models_folder())
    make_data(options.rows)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        rows, seconds = against_memory(DATA / "npy" / f"img_emb_l14_{options.rows}.npy", options.rows, options.rounds, work)
        text = [f"# Scores per second from embeddings, {datetime.date.today():%Y-%m}", ""]
        text += machine.lines("beholder", "numba", "numpy", "pyarrow", "torch")
        text += [f"- head {HEAD}; medians of {options.rounds} rounds, sides in turn", ""]
        text += [f"{options.rows:,} x {DIM} float16:", "", "| what | rows/s | GB/s | |", "|---|---|---|---|", *rows, ""]
        if "peer" in seconds:
            text += [f"beholder from the file is {seconds['peer'] / seconds['file']:.0f} x embedding-reader with PyTorch.", ""]
        if PEERS.exists():
            (work / "models").mkdir()
            shutil.copyfile(models_folder() / f"{HEAD}.pth", work / "models" / "openai-clip_aesthetic-predictor.pt")
            text += ["birder's logits; VDC 0.1.1 `aesthetic_filter`; rates as both programs report them, without start-up:", ""]
            text += ["| input and output | VDC rows/s | beholder, new process | running process | VDC, all | beholder, all | |"]
            text += ["|---|---|---|---|---|---|---|"]
            for name, suffix in (("logits_l14.parquet", ".parquet"), ("logits_l14.csv", ".csv")):
                text.append(against_vdc(name, suffix, 5, work)[0])
            decode = statistics.median(timed(lambda: read_parquet_only(DATA / "logits_l14.parquet")) for _ in range(5))
            alone = f"Decoding that Parquet alone (pyarrow): {100_000 / decode:,.0f} rows/s."
            text += ["", f"Last column: largest difference in score. {alone}"]
        else:
            text.append("embedding-reader and VDC were left out: their environment is not installed (make peers).")
    print("\n".join(text))
    if options.save:
        result_files.save("score_embeddings", text)


if __name__ == "__main__":
    main()
