"""Pictures per second and core from JPEG bytes to the pixels CLIP is given: beholder beside the loops people use today.

    python benchmarks/decode.py [--rounds N] [--sizes "640x480" "3 MP" "12 MP"] [--few] [--save]

Every side is a process of its own, all on the same core, one thread, pictures in memory; they run in turns, and medians are
shown. Beforehand every side's pixels are compared with OpenAI's transform, written with Pillow: equal to the bit, or the drift.
Peers run in .venv-peers (make peers); the plain Pillow loop runs in this environment too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import machine
import result_files
from pictures import DATA, SIZES, make_jpeg, photograph_files

LOOPS = Path(__file__).resolve().parent / "peers" / "decode_loops.py"
PEERS = Path(__file__).resolve().parents[1] / ".venv-peers" / "bin" / "python"
OURS = {"beholder": "pillow", "beholder_scaled": "scaled"}

TITLES = {
    "pil": "Pillow alone, OpenAI's transform up to uint8",
    "beholder": "**beholder** (`decode.prepare`)",
    "beholder_scaled": "**beholder**, `--decoder scaled`",
    "openai": "clip.load's transform (torchvision on Pillow), to floats",
    "open_clip": "open_clip 3.3.0's transform, to floats",
    "timm": "timm 1.0.31's transform, to floats",
    "transformers": "transformers 5.23 `CLIPImageProcessorPil`, to floats",
    "birder": "birder 0.8.4 `--img-loader pil --simple-crop`, to floats",
    "turbojpeg": "simplejpeg 1.9.0 (libjpeg-turbo) and Pillow's resize",
    "opencv": "OpenCV 5.0.0, INTER_AREA",
    "pil_draft": "Pillow `draft()` (scaled decoding)",
    "vips": "libvips 8.18 `thumbnail_buffer` (scaled decoding)",
}
COUNTS = {"512x384": 200, "640x480": 200, "1024x768": 100, "3 MP": 40, "12 MP": 12}


class Side:
    """One tool in a process of its own that prepares pictures when it is asked to."""

    def __init__(self, name: str, core: int) -> None:
        python = sys.executable if name in OURS else str(PEERS if PEERS.exists() else sys.executable)
        line = [python, __file__, "--serve", name] if name in OURS else [python, str(LOOPS), name]
        one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        self.running = subprocess.Popen(
            line,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **one},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request, wait for the answer."""
        assert self.running.stdin is not None
        assert self.running.stdout is not None
        self.running.stdin.write(json.dumps(request) + "\n")
        self.running.stdin.flush()
        line = self.running.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(map(str, self.running.args))} ended with {self.running.wait()}")  # type: ignore[arg-type]
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End the process."""
        assert self.running.stdin is not None
        self.running.stdin.close()
        self.running.wait()


def serve(name: str) -> None:
    """Be one of our sides."""
    sys.path.insert(0, str(LOOPS.parent))
    import decode_loops

    from beholder.pixels.decode import prepare
    from beholder.pixels.picture import PixelOptions

    options = PixelOptions(decoder=OURS[name])  # type: ignore[arg-type]
    decode_loops.serve(lambda data: prepare(data, options).pixels)


def make_files(size: str, count: int) -> list[str]:
    """JPEGs of one size in benchmarks/data."""
    folder = DATA / "decode" / size.replace(" ", "")
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:04d}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        if not file.exists():
            file.write_bytes(make_jpeg(number, SIZES[size], seed=1))
    return [str(file) for file in files]


def drift(side: Side, wanted: np.ndarray[Any, Any], work: Path) -> str:
    """How a side's pixels differ from the reference's, in words."""
    side.ask(pixels=str(work / "pixels.npy"))
    found = np.load(work / "pixels.npy").astype(np.int16)
    off = np.abs(found - wanted.astype(np.int16))
    if not off.any():
        return "equal to the bit"
    return f"max {off.max()}, mean {off.mean():.2g} levels"


def measure(size: str, names: list[str], count: int, rounds: int, core: int, work: Path) -> list[str]:
    """The table of one size."""
    files = make_files(size, count)
    sides: dict[str, Side] = {}
    drifts: dict[str, str] = {}
    wanted: np.ndarray[Any, Any] | None = None
    for name in names:
        side = Side(name, core)
        try:
            side.ask(files=files)
            if wanted is None:
                side.ask(pixels=str(work / "wanted.npy"))
                wanted = np.load(work / "wanted.npy")
            drifts[name] = drift(side, wanted, work)
            sides[name] = side
        except RuntimeError as error:
            print(f"left out: {error}", file=sys.stderr)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side.ask(run=1)
    for _ in range(rounds):
        for name, side in sides.items():
            times[name] += side.ask(run=1)["seconds"]
    for side in sides.values():
        side.close()
    rates = {name: count / statistics.median(values) for name, values in times.items()}
    size_kb = sum(Path(file).stat().st_size for file in files) / count / 1e3
    rows = [f"{size}, {count} JPEGs of {size_kb:,.0f} kB on average:", ""]
    rows += ["| side | pictures/s and core | to the Pillow loop | pixels |", "|---|---|---|---|"]
    for name, rate in rates.items():
        rows.append(f"| {TITLES[name]} | {rate:.1f} | {rate / rates[names[0]]:.2f} x | {drifts[name]} |")
    return [*rows, ""]


def main() -> None:
    """Measure, print, and with --save keep the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", nargs="+", default=["640x480", "3 MP", "12 MP"], choices=list(SIZES))
    parser.add_argument("--sides", nargs="+", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--few", action="store_true", help="a tenth of the pictures, to try the script")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/decode_PROCESSOR_YYYYMM.md")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    names = ["pil"] + [name for name in options.sides if name != "pil" and (PEERS.exists() or name in OURS)]
    core = max(os.sched_getaffinity(0))
    text = [f"# JPEG to CLIP's pixels, per core, {result_files.month()}", ""]
    text += machine.lines("beholder", "numpy", "pillow", "torch")
    text.append(f"- one core, one thread a side; medians of {options.rounds} rounds, sides in turn; pictures in memory")
    text.append(f"- cuts of {len(photograph_files())} photographs, long side lying or standing (benchmarks/pictures.py)")
    text.append(
        "- floats: ToTensor and Normalize are part of those transforms; beholder's tower takes uint8, so has no such step"
    )
    if not PEERS.exists():
        text.append("- peers were left out: their environment is not installed (make peers)")
    text.append("")
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            print(f"  {size}", file=sys.stderr)
            count = max(3, COUNTS[size] // 10) if options.few else COUNTS[size]
            text += measure(size, names, count, options.rounds, core, Path(folder))
    print("\n".join(text))
    if options.save:
        result_files.save("decode", text)


if __name__ == "__main__":
    main()
