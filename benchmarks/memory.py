"""Peak memory of `beholder score` over 1.5 GB and over 50 GB of embeddings: it has to be the same.

    python benchmarks/memory.py [--names 33] [--memory 1GB]

The 50 GB are one 1,000,000 x 768 float16 file under many names (hard links), so they come from the page cache. RssAnon and
RssFile of the running program are read from /proc every 10 ms: RssAnon is what it takes for itself, RssFile counts pages
of the mapped files, which stay the system's and are given back at any time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from score_embeddings import DATA, make_data, models_folder


def peaks(source: Path, out: Path, memory: str) -> tuple[dict[str, int], float]:
    """Peak RssAnon and RssFile in MiB while `source` is scored, and the seconds it took."""
    line = [sys.executable, "-m", "beholder", "score", str(source), "-o", str(out), "-q", "--memory", memory]
    started = time.perf_counter()
    running = subprocess.Popen(line, env={**os.environ, "BEHOLDER_MODELS": str(models_folder())}, stderr=subprocess.DEVNULL)
    found = {"RssAnon": 0, "RssFile": 0}
    while running.poll() is None:
        status = Path(f"/proc/{running.pid}/status").read_text(encoding="utf-8")
        for name in found:
            values = [int(row.split()[1]) for row in status.splitlines() if row.startswith(name)]
            found[name] = max([found[name], *(value >> 10 for value in values)])
        time.sleep(0.01)
    assert running.returncode == 0
    return found, time.perf_counter() - started


def main() -> None:
    """Print one line for one name and one for many."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--names", type=int, default=33, help="names of the 1.5 GB file")
    parser.add_argument("--memory", default="1GB", help="the option given to beholder")
    options = parser.parse_args()
    make_data(1_000_000)
    original = next((DATA / "npy").glob("*.npy"))
    with tempfile.TemporaryDirectory(dir=DATA) as folder:
        for names in (1, options.names):
            source = Path(folder) / f"of{names}"
            source.mkdir()
            for number in range(names):
                (source / f"part_{number:03d}.npy").hardlink_to(original)
            found, seconds = peaks(source, Path(folder) / f"out{names}", options.memory)
            size = names * original.stat().st_size / 1e9
            rss = f"peak RssAnon {found['RssAnon']} MiB, RssFile {found['RssFile']} MiB"
            print(f"{size:6.1f} GB, --memory {options.memory}: {rss}, {seconds:.1f} s")


if __name__ == "__main__":
    main()
