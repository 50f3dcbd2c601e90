"""Pictures per second from tars of JPEGs to embeddings and scores on disk, with the B/32 tower: beholder beside its peers.

    python benchmarks/whole_path.py [--count 2000] [--rounds 3] [--sides ...] [--few] [--save]

Whole processes, in turns, medians. Each side runs the full set and a set of 48 pictures; the steady rate is that of the
difference, so start-up (imports, loading, compilation, warm-up) is told apart. Every side has the same weights (random, of the
published B/32 shape, QuickGELU), in the layout it loads. Scores are those of LAION's B/32 head; they mean nothing with random
weights, but their drift is that of the arithmetic. The reference is float32 with OpenAI's transform, by transformers.

- beholder: `beholder score TARS --keep-embeddings`: decoding, tower, scores, embeddings, in one program.
- birder 0.8.4: `predict --img-loader pil --simple-crop --save-logits` on a folder of the same files (its tars need labels). It
  writes logits only: scoring them would be a second program (VDC, which takes 768 dimensions only), which is not timed.
- clip-retrieval 2.45.0: its own inference code (peers/clip_retrieval_loop.py). Embeddings only as well.
- transformers 5.23: a DataLoader with CLIPImageProcessorPil, and the head (peers/transformers_loop.py).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

import machine
import result_files
from beholder import load_head
from pictures import DATA, make_set, mix_line
from tower_checkpoints import save_birder, save_hugging_face, state_in

REPOSITORY = Path(__file__).resolve().parents[1]
PEERS = REPOSITORY / ".venv-peers" / "bin" / "python"
LOOPS = REPOSITORY / "benchmarks" / "peers"
TOWERS = DATA / "towers"
HEAD = "sa_0_4_vit_b_32_linear"
FEW = 48

Scores = dict[str, float]
Floats = npt.NDArray[np.floating]


@dataclass
class Side:
    """One program: how it is called on a set, what it wrote, and how long it took."""

    title: str
    line: Callable[[Path, Path], list[str]]
    read: Callable[[Path], Scores]
    seconds: list[float] = field(default_factory=list)
    seconds_few: list[float] = field(default_factory=list)
    drift: str = ""


def models_folder() -> Path:
    """Where the public heads are: $BEHOLDER_MODELS or $BEHOLDER_TEST_MODELS, else ../shared/models."""
    chosen = os.environ.get("BEHOLDER_MODELS") or os.environ.get("BEHOLDER_TEST_MODELS")
    return Path(chosen) if chosen else REPOSITORY.parent / "shared" / "models"


def make_towers() -> None:
    """The B/32 tower in the layouts of all sides, kept in benchmarks/data/towers."""
    from safetensors.torch import save_file

    from beholder.models.backbones import SHAPES
    from beholder.models.clip import random_tensors

    shape = SHAPES["openai/clip-vit-base-patch32"]
    last = TOWERS / "b32_visual.safetensors"
    if not last.exists():
        tensors = random_tensors(shape)
        save_hugging_face(TOWERS / "b32_hf", shape, tensors)
        save_birder(TOWERS / "birder" / "models" / "vit_b32_pn_random.pt", shape, tensors)
        save_file(state_in("openai", tensors), last)
    if PEERS.exists() and not (TOWERS / "b32_open_clip.pt").exists():
        line = [str(PEERS), str(LOOPS / "clip_retrieval_loop.py"), "--make", str(TOWERS / "b32_open_clip.pt"), str(last)]
        subprocess.run(line, check=True)


def key_of(sample: str) -> str:
    """The nine digits that all sides' names of a picture hold last."""
    return re.findall(r"\d{9}", sample)[-1]


def scores_of(names: list[str], embeddings: Floats) -> Scores:
    """LAION's head on embeddings of a side that does not score."""
    found = load_head(str(models_folder() / f"{HEAD}.pth")).score(embeddings.astype(np.float32))
    return dict(zip(map(key_of, names), found.tolist(), strict=True))


def read_beholder(out: Path) -> Scores:
    """A score set: Parquet files under scores/."""
    table = pa.concat_tables(
        [pq.read_table(path) for path in sorted(out.glob("scores/*.parquet"))], promote_options="permissive"
    )
    names = map(key_of, table["sample"].to_pylist())
    return dict(zip(names, table["aesthetic_score"].to_pylist(), strict=True))


def read_birder(out: Path) -> Scores:
    """The logits in results/: `sample`, then a column per dimension."""
    table = pq.read_table(next((out / "results").glob("*_logits.parquet")))
    return scores_of(table["sample"].to_pylist(), np.stack([table[str(i)].to_numpy() for i in range(512)], axis=1))


def read_clip_retrieval(out: Path) -> Scores:
    """img_emb/*.npy and metadata/*.parquet."""
    names = pq.read_table(next((out / "metadata").glob("*.parquet")))["image_path"].to_pylist()
    return scores_of(names, np.load(next((out / "img_emb").glob("*.npy"))))


def read_transformers(out: Path) -> Scores:
    """The .npz of peers/transformers_loop.py."""
    with np.load(out / "out.npz") as file:
        return dict(zip(map(key_of, file["names"].tolist()), file["scores"].tolist(), strict=True))


def tars(made: Path) -> str:
    """The tars of a set, with braces."""
    return str(made / "tars" / f"{{00000..{len(list((made / 'tars').glob('*.tar'))) - 1:05d}}}.tar")


def beholder_side(title: str, *flags: str) -> Side:
    """`beholder score`."""

    def line(made: Path, out: Path) -> list[str]:
        head = str(models_folder() / f"{HEAD}.pth")
        found = [sys.executable, "-m", "beholder", "score", tars(made), "-o", str(out), "--backbone", str(TOWERS / "b32_hf")]
        return [*found, "--head", head, "--keep-embeddings", *flags]

    return Side(title, line, read_beholder)


def birder_side(title: str, batch: int, workers: int, *flags: str) -> Side:
    """`birder predict`, which looks for models/ and writes results/ below the working directory."""

    def line(made: Path, out: Path) -> list[str]:
        (out / "models").symlink_to(TOWERS / "birder" / "models")
        found = [
            str(PEERS),
            "-m",
            "birder.scripts.predict",
            "-n",
            "vit_b32_pn",
            "-t",
            "random",
            "--simple-crop",
            "--save-logits",
        ]
        found += ["--img-loader", "pil", "--output-format", "parquet", "--batch-size", str(batch), "-j", str(workers)]
        return [*found, *flags, str(made / "folder")]

    return Side(title, line, read_birder)


def clip_retrieval_side(title: str, batch: int, workers: int) -> Side:
    """clip-retrieval's inference."""

    def line(made: Path, out: Path) -> list[str]:
        loop, checkpoint = str(LOOPS / "clip_retrieval_loop.py"), str(TOWERS / "b32_open_clip.pt")
        return [str(PEERS), loop, tars(made), str(out), str(workers), str(batch), checkpoint]

    return Side(title, line, read_clip_retrieval)


def transformers_side(title: str, batch: int, workers: int, dtype: str, pixels: str = "processor") -> Side:
    """A script with transformers."""

    def line(made: Path, out: Path) -> list[str]:
        head = str(models_folder() / f"{HEAD}.pth")
        found = [
            str(PEERS),
            str(LOOPS / "transformers_loop.py"),
            tars(made),
            str(out / "out.npz"),
            str(TOWERS / "b32_hf"),
            head,
        ]
        return [*found, str(workers), str(batch), dtype, pixels]

    return Side(title, line, read_transformers)


def all_sides(batch: int, workers: int) -> dict[str, Side]:
    """Every side by the name that --sides takes."""
    half = ("--amp", "--amp-dtype", "bfloat16")
    return {
        "beholder": beholder_side("**beholder score** (precision auto)"),
        "beholder_fp32": beholder_side("**beholder score** `--precision fp32`", "--precision", "fp32"),
        "beholder_scaled": beholder_side("**beholder score** `--decoder scaled`", "--decoder", "scaled"),
        "birder": birder_side("birder predict, float32", batch, workers),
        "birder_amp": birder_side("birder predict `--amp --amp-dtype bfloat16`", batch, workers, *half),
        "clip_retrieval": clip_retrieval_side("clip-retrieval inference, float32", batch, workers),
        "transformers": transformers_side("transformers and DataLoader, float32", batch, workers, "float32"),
        "transformers_bf16": transformers_side("transformers and DataLoader, bfloat16", batch, workers, "bfloat16"),
    }


def run(side: Side, made: Path, work: Path) -> tuple[float, Scores]:
    """Run a side once in a fresh folder; seconds of the whole process, and its scores."""
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    is_ours = side.read is read_beholder
    if not is_ours:
        out.mkdir()
    line = side.line(made, out)
    started = time.perf_counter()
    done = subprocess.run(line, cwd=work if is_ours else out, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{side.title} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    return seconds, side.read(out)


def drift_of(found: Scores, wanted: Scores) -> str:
    """Difference in score over all pictures, which must be the same ones."""
    assert found.keys() == wanted.keys(), f"{len(found)} of {len(wanted)} pictures"
    off = np.abs([found[key] - wanted[key] for key in wanted])
    return f"max {off.max():.1e}, mean {off.mean():.1e}"


def measure(names: list[str], options: argparse.Namespace, work: Path) -> list[str]:
    """Run all sides in turns; the lines of the table."""
    made = make_set(DATA / f"pictures_{options.count}", options.count)
    few = make_set(DATA / f"pictures_{FEW}", FEW)
    sides = all_sides(options.batch, options.workers)
    wanted: Scores | None = None
    if PEERS.exists():
        wanted = run(transformers_side("the reference", options.batch, options.workers, "float32", "openai"), made, work)[1]
        print("  reference: done", file=sys.stderr)
    for name in names:
        run(sides[name], few, work)  # page cache, compiled code, remembered settings
    for number in range(options.rounds):
        for name in names:
            side = sides[name]
            side.seconds_few.append(run(side, few, work)[0])
            seconds, found = run(side, made, work)
            side.seconds.append(seconds)
            side.drift = drift_of(found, wanted) if wanted else "no reference"
            print(
                f"  round {number + 1}, {name}: {seconds:.1f} s for all, {side.seconds_few[-1]:.1f} s for {FEW}",
                file=sys.stderr,
            )
    rates = {}
    for name in names:
        whole, start = statistics.median(sides[name].seconds), statistics.median(sides[name].seconds_few)
        rates[name] = (options.count / whole, (options.count - FEW) / (whole - start), start)
    rows = ["| side | pictures/s, whole process | | pictures/s, steady | | seconds for the first 48 | drift in score |"]
    rows.append("|---|---|---|---|---|---|---|")
    for name in names:
        whole, steady, start = rates[name]
        ratios = [
            f"{rates[names[0]][i] / rates[name][i]:.2f} x"
            if name != names[0] and min(rates[name][i], rates[names[0]][i]) > 0
            else ""
            for i in (0, 1)
        ]
        cells = [
            f"{whole:.1f}",
            ratios[0],
            f"{steady:.1f}" if steady > 0 else "too few to tell",
            ratios[1],
            f"{start:.1f}",
            sides[name].drift,
        ]
        rows.append(f"| {sides[name].title} | {' | '.join(cells)} |")
    first = sides[names[0]].title.replace("**", "")
    return [f"- {mix_line(made)}", "", *rows, "", f"Ratios: how many times faster `{first}` is."]


def main() -> None:
    """Measure, print, and with --save keep the result."""
    names = list(all_sides(1, 1))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="pictures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32, help="the peers' batch")
    parser.add_argument(
        "--workers", type=int, default=len(os.sched_getaffinity(0)), help="the peers' decode processes (at most 4)"
    )
    parser.add_argument("--sides", nargs="+", choices=names, default=names)
    parser.add_argument("--few", action="store_true", help="96 pictures and one round, to try the script")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/whole_path_PROCESSOR_YYYYMM.md")
    options = parser.parse_args()
    if options.few:
        options.count, options.rounds = 96, 1
    options.workers = min(options.workers, 4)
    make_towers()
    chosen = [name for name in options.sides if PEERS.exists() or name.startswith("beholder")]
    text = [f"# From tars of JPEGs to embeddings and scores, CLIP B/32, {result_files.month()}", ""]
    text += machine.lines("beholder", "torch", "pillow", "numpy")
    text.append(f"- random weights of the published shape; head {HEAD}; whole processes in turns, medians of {options.rounds}")
    text.append(f"- peers: batches of {options.batch}, {options.workers} decode processes; beholder: as it chooses")
    if not PEERS.exists():
        text.append("- peers were left out: their environment is not installed (make peers)")
    DATA.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=DATA) as folder:
        text += measure(chosen, options, Path(folder))
    print("\n".join(text))
    if options.save:
        result_files.save("whole_path", text)


if __name__ == "__main__":
    main()
