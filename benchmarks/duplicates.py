"""Near-duplicates: the exact way beside plain brute force and faiss, the approximate way beside the exact one.

    python benchmarks/duplicates.py [--rows 100000] [--threshold 0.95] [--threads 2] [--save]
    python benchmarks/duplicates.py --rows 1000000           # some minutes and 1.5 GB of disk

Each way runs in a process of its own on the same file of float16 rows, mapped; best rows first are simply the first. Recall is
the share of the rows that the exact way drops which the approximate way drops, too.

Data: 768 dimensions, made. As in CLIP's embeddings a large part of every row is common to all (two random rows have a cosine
of 0.45 or so), and the rest has a spectrum that falls steadily: without the common part 64 axes tell about 60 % of what
differs and 256 tell 85 %. Rows lie in 2,000 clusters, the largest wide, the others of every width: the closest hold pairs of
0.9 and more by themselves. On top of that a tenth of the rows are near-duplicates planted at a cosine of 0.90 to 0.999, and 1 %
are one placeholder picture, half of them byte for byte.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import machine
import result_files

DATA = Path(__file__).parent / "data"
DIM = 768
_PIECE = 20_000


def make_data(num_rows: int, path: Path) -> None:
    """Write (num_rows, 768) float16 rows of length 1, from a seed."""
    rng = np.random.default_rng(20)
    scale = (np.arange(DIM) + 6.0) ** -0.55
    scale /= np.sqrt((scale**2).sum())
    turn = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0].astype(np.float32)
    mean = rng.standard_normal(DIM) / np.sqrt(DIM)
    centres = rng.standard_normal((2000, DIM)) * scale
    widths = rng.uniform(0.2, 0.9, 2000)
    widths[:100] = 0.87
    popularity = rng.zipf(1.4, num_rows * 2)
    popularity = popularity[popularity <= 2000][:num_rows] - 1
    out = np.lib.format.open_memmap(path.with_suffix(".tmp"), "w+", np.float16, (num_rows, DIM))
    for low in range(0, num_rows, _PIECE):
        high = min(num_rows, low + _PIECE)
        width = widths[popularity[low:high], None]
        rows = np.sqrt(1 - width**2) * centres[popularity[low:high]] + width * rng.standard_normal((high - low, DIM)) * scale
        rows = (0.9 * mean + rows).astype(np.float32) @ turn
        out[low:high] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    chosen = rng.permutation(num_rows)
    num_copies, num_placeholders = num_rows // 10, num_rows // 100
    copies, rest = np.sort(chosen[:num_copies]), chosen[num_copies:]
    originals, placeholders = rest[:num_copies], np.sort(rest[num_copies : num_copies + num_placeholders])
    for low in range(0, num_copies, _PIECE):
        part = slice(low, low + _PIECE)
        rows = np.asarray(out[originals[part]], np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        cosine = 1 - 10 ** rng.uniform(-3, -1, (len(rows), 1))
        aside = (rng.standard_normal((len(rows), DIM)) * scale).astype(np.float32) @ turn
        aside -= (aside * rows).sum(axis=1, keepdims=True) * rows
        aside /= np.linalg.norm(aside, axis=1, keepdims=True)
        out[copies[part]] = cosine * rows + np.sqrt(1 - cosine**2) * aside
    first = np.asarray(out[rest[-1]])
    out[placeholders] = first
    half = placeholders[::2]
    out[half] = first + (1e-3 * rng.standard_normal((len(half), DIM))).astype(np.float16)
    out.flush()
    path.with_suffix(".tmp").rename(path)


class Clock:
    """Seconds since it was made: on the wall, and of all cores (which other programs on the machine change less)."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def told(self) -> dict[str, float]:
        """Both."""
        return {"seconds": time.perf_counter() - self.wall, "cpu": time.process_time() - self.cpu}


def ours(path: Path, threshold: float, threads: int, method: str) -> dict[str, Any]:
    """Our own, exact or approximate."""
    from beholder.curate.duplicates.groups import find_near_duplicates
    from beholder.scoreset.vectors import Vectors

    matrix = np.load(path, mmap_mode="r")
    vectors = Vectors(matrix, np.arange(len(matrix)), DIM)
    warm = Vectors(matrix[:256], np.arange(256), DIM)
    find_near_duplicates(warm, np.arange(256), threshold, method=method, num_threads=threads)  # type: ignore[arg-type]
    clock = Clock()
    found = find_near_duplicates(vectors, np.arange(len(matrix)), threshold, method=method, num_threads=threads)  # type: ignore[arg-type]
    return {**clock.told(), "stays": found.stays}


def brute_force(path: Path, threshold: float, threads: int) -> dict[str, Any]:
    """Blocked products of float32 rows with all that stay before, by numpy; decided in float32."""
    clock = Clock()
    rows = np.load(path).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    kept, num_kept, stays = np.empty_like(rows), 0, np.zeros(len(rows), np.bool_)
    for low in range(0, len(rows), 1024):
        block = rows[low : low + 1024]
        is_near = np.zeros(len(block), np.bool_)
        for start in range(0, num_kept, 16384):
            is_near |= (block @ kept[start : min(num_kept, start + 16384)].T).max(axis=1) >= threshold
        inside = block @ block.T
        for i in np.flatnonzero(~is_near):
            if (inside[i, :i][stays[low : low + i]] >= threshold).any():
                continue
            stays[low + i] = True
        new = block[stays[low : low + len(block)]]
        kept[num_kept : num_kept + len(new)] = new
        num_kept += len(new)
    return {**clock.told(), "stays": stays}


def faiss_flat(path: Path, threshold: float, threads: int) -> dict[str, Any]:
    """Faiss's own exact search for everything in range, float32, all rows against all; then greedy."""
    import faiss

    faiss.omp_set_num_threads(threads)
    clock = Clock()
    rows = np.load(path).astype(np.float32)
    faiss.normalize_L2(rows)
    index = faiss.IndexFlatIP(DIM)
    index.add(rows)
    stays = np.ones(len(rows), np.bool_)
    for low in range(0, len(rows), 4096):
        starts, _, places = index.range_search(rows[low : low + 4096], threshold)
        for i in range(len(starts) - 1):
            before = places[starts[i] : starts[i + 1]]
            before = before[before < low + i]
            stays[low + i] = not stays[before].any()
    return {**clock.told(), "stays": stays}


WAYS = {
    "exact": lambda path, threshold, threads: ours(path, threshold, threads, "exact"),
    "approximate": lambda path, threshold, threads: ours(path, threshold, threads, "approximate"),
    "numpy, brute force": brute_force,
    "faiss, IndexFlatIP": faiss_flat,
}


def alone(way: str, path: Path, threshold: float, threads: int) -> dict[str, Any]:
    """Run one way in a process of its own; adds `peak`, MiB of memory that is its own."""
    line = [
        sys.executable,
        __file__,
        "--way",
        way,
        "--file",
        str(path),
        "--threshold",
        str(threshold),
        "--threads",
        str(threads),
    ]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    running = subprocess.Popen(line, stdout=subprocess.PIPE, env=environment)
    peak = 0
    status = Path(f"/proc/{running.pid}/status")
    while running.poll() is None:
        for row in status.read_text(encoding="utf-8").splitlines() if status.exists() else []:
            if row.startswith("RssAnon"):
                peak = max(peak, int(row.split()[1]) >> 10)
        time.sleep(0.02)
    if running.returncode:
        raise SystemExit(f"{way}: exit status {running.returncode}")
    assert running.stdout is not None
    told = json.loads(running.stdout.read().splitlines()[-1])
    result = Path(told.pop("file"))
    stays = np.load(result)
    result.unlink()
    return {**told, "stays": stays, "peak": peak}


def main() -> None:
    """Print a table, or (for one way, in a process of its own) what it found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--threshold", type=float, default=0.95)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--most-brute", type=int, default=100_000, help="rows up to which brute force and IndexFlatIP run, too")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        found = WAYS[options.way](options.file, options.threshold, options.threads)
        target = DATA / f"duplicates-{options.way.split(',')[0]}.npy"
        np.save(target, found.pop("stays"))
        print(json.dumps({**found, "file": str(target)}))
        return
    DATA.mkdir(exist_ok=True)
    path = DATA / f"duplicates_{options.rows}.npy"
    if not path.exists():
        make_data(options.rows, path)
    ways = list(WAYS) if options.rows <= options.most_brute else ["exact", "approximate"]
    text = [
        f"## {options.rows:,} rows of {DIM} float16, cosine {options.threshold}, {options.threads} threads",
        "",
        "| way | seconds | CPU seconds | rows/s | own memory, MiB | dropped | recall of dropped | dropped by it alone |",
        "|---|---|---|---|---|---|---|---|",
    ]
    reference = None
    for way in ways:
        found = alone(way, path, options.threshold, options.threads)
        dropped = ~found["stays"]
        reference = dropped if reference is None else reference
        recall = (dropped & reference).sum() / max(1, reference.sum())
        seconds = found["seconds"]
        text.append(
            f"| {way} | {seconds:,.1f} | {found['cpu']:,.1f} | {options.rows / seconds:,.0f} | {found['peak']:,} |"
            f" {dropped.sum():,} | {recall:.4f} | {(dropped & ~reference).sum():,} |"
        )
        print(text[-1], file=sys.stderr)
    text += ["", *machine.lines("numpy", "numba", "faiss-cpu")]
    print("\n".join(text))
    if options.save:
        result_files.save(f"duplicates_{options.rows}", text)


if __name__ == "__main__":
    main()
