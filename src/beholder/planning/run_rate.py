"""Measures what whole runs cost beside their stages, by the real jobs of `beholder score` on things made for it."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np

from beholder.engine.engine import Engine
from beholder.errors import BeholderError
from beholder.io.places import listing
from beholder.kernels.scoring import Affine
from beholder.models.backbones import TowerShape
from beholder.models.clip import random_tower
from beholder.models.heads import Head, save_head
from beholder.options import all_cores
from beholder.planning.rates import Clock, RowsRate, RunRate
from beholder.scoring.execute import execute
from beholder.scoring.options import ScoreOptions
from beholder.scoring.pictures import plan_pictures
from beholder.scoring.score import score
from beholder.scoring.tower import TowerFacts

_DIM = 8
_TAR_PICTURES, _FEW_TARS, _MANY_TARS = 256, 1, 7
_PICTURE_PX = (60, 70)
_MOST_ROWS, _MOST_ROW_BYTES = 1_000_000, 256 << 20
"""Of a file of embeddings: as many as a shard has, where that is not too much."""
_ROWS_A_SECOND = 250_000
"""Of that file, for each second of the time for all: what is measured reads and scores some twenty times as many."""
_FEW_FILES, _MANY_FILES = 1, 4
_ROUNDS, _ROUNDS_FROM_S = 3, 1.0
"""Of jobs on rows, of which the middle one counts; one where there is less time than that."""


def _head(folder: Path, dim: int) -> str:
    path = folder / f"head_{dim}.safetensors"
    save_head(Head(name="bench", math=Affine(np.random.default_rng(0).standard_normal(dim), 5.0)), path)
    return str(path)


def _command_seconds(line: Sequence[str], clock: Clock) -> float:
    """Seconds of a new process: of its imports, its work and its end. Raises BeholderError."""
    began = clock()
    done = subprocess.run([sys.executable, *line], capture_output=True, text=True, check=False)
    seconds = clock() - began
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise BeholderError(f"a run that was to be measured failed: {last[0]}")
    return seconds


def measure_run(folder: Path, image_px: int, *, clock: Clock) -> RunRate:
    """Runs over tars of small pictures with hardly a tower.

    A picture's cost is the difference of two, in the time of the process itself, without its decode workers; the start is what
    is left of the seconds of a whole process with few.
    """
    _make_tar(folder / "pictures.tar")
    engine = _engine(image_px)
    spent: dict[int, tuple[float, float]] = {}
    written: dict[int, int] = {}
    for count in (0, _FEW_TARS, _MANY_TARS):  # the first one warms up
        core_began, began = process_time(), clock()
        out = _run(folder, max(1, count), engine)
        spent[count] = process_time() - core_began, clock() - began
        written[count] = sum(entry.num_bytes for entry in listing(str(out)).values())
    tower_s = _tower_core_s(engine)
    engine.close()
    more = (_MANY_TARS - _FEW_TARS) * _TAR_PICTURES
    core_s = max(0.0, (spent[_MANY_TARS][0] - spent[_FEW_TARS][0]) / more - tower_s)
    each_s = max(0.0, (spent[_MANY_TARS][1] - spent[_FEW_TARS][1]) / more)
    code = "import sys, beholder.planning.run_rate as it; it.run_alone(sys.argv[1], int(sys.argv[2]))"
    whole_s = _command_seconds(["-c", code, str(folder), str(image_px)], clock)
    return RunRate(
        core_s=core_s,
        start_s=max(0.0, whole_s - each_s * _FEW_TARS * _TAR_PICTURES),
        written_bytes=(written[_MANY_TARS] - written[_FEW_TARS]) / more,
    )


def run_alone(folder: str, image_px: int) -> None:
    """All that a process does which `beholder score` is called in, for few pictures: what it imports is imported here."""
    for name in ("app", "jobs", "show"):
        importlib.import_module(f"beholder.cli.{name}")
    engine = _engine(image_px)
    _run(Path(folder), _FEW_TARS, engine)
    engine.close()


def _engine(image_px: int) -> Engine:
    return Engine(random_tower(TowerShape(image_px, image_px, _DIM, 1, 1, _DIM, _DIM)), device="cpu", precision="fp32")


def _run(folder: Path, num_tars: int, engine: Engine) -> Path:
    """Score so many of the tars; where the scores are."""
    made = Path(tempfile.mkdtemp(dir=folder))
    tars = [made / f"{number}.tar" for number in range(num_tars)]
    for path in tars:
        path.symlink_to(folder / "pictures.tar")
    options = ScoreOptions(
        sources=tuple(map(str, tars)), out=str(made / "scores"), heads=(_head(folder, _DIM),), device="cpu", precision="fp32"
    )
    plan = plan_pictures(options, str(options.out), open_tower=lambda options, heads: (_facts(engine), engine))
    execute(plan, options, on_plan=lambda _: None, on_progress=lambda *_: None, on_resume=lambda *_: None)
    return made / "scores"


def _make_tar(path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for number in range(_TAR_PICTURES):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (*_PICTURE_PX, 3), np.uint8)).save(file, "JPEG")
            member = tarfile.TarInfo(f"{number:04d}.jpg")
            member.size = file.tell()
            tar.addfile(member, io.BytesIO(file.getvalue()))


def _facts(engine: Engine) -> TowerFacts:
    return TowerFacts(
        name="bench", backbone=None, sha256="bench", activation="quick_gelu", description={}, image_px=engine.image_px,
        dim=engine.dim, device="cpu", device_type="cpu", precision="fp32", batch_size=engine.batch_size, check_seconds=0.0,
        engine=engine.describe(),
    )  # fmt: skip


def _tower_core_s(engine: Engine) -> float:
    """Seconds of a core that the tower without layers takes for a picture."""
    pixels = np.zeros((engine.call_size, engine.image_px, engine.image_px, 3), np.uint8)
    engine.embed(pixels)
    began = process_time()
    for _ in range(_FEW_TARS + 1):
        engine.embed(pixels)
    return (process_time() - began) / (_FEW_TARS + 1) / len(pixels)


def measure_rows(folder: Path, dim: int, *, seconds: float, clock: Clock) -> RowsRate:
    """Two jobs on files of float16 embeddings, which the page cache holds: the rate is that of the rows between them.

    The start is what is left of the whole command for the fewer of them.
    """
    num_rows = min(_MOST_ROWS, _MOST_ROW_BYTES // (2 * dim), max(1, int(_ROWS_A_SECOND * seconds)))
    some = np.random.default_rng(0).standard_normal((min(num_rows, 10_000), dim), np.float32).astype(np.float16)
    files = [str(folder / f"rows_{number}.npy") for number in range(_MANY_FILES)]
    for path in files:  # each of its own: one file again and again would come from the processor's cache
        np.save(path, np.resize(some, (num_rows, dim)))
    head = _head(folder, dim)

    def job(count: int) -> float:
        began = clock()
        score(ScoreOptions(sources=tuple(files[:count]), out=str(folder / f"of_{count}"), heads=(head,), overwrite=True))
        return clock() - began

    job(_MANY_FILES)  # to get warm
    num_rounds = _ROUNDS if seconds >= _ROUNDS_FROM_S else 1
    pairs = [(job(_FEW_FILES), job(_MANY_FILES)) for _ in range(num_rounds)]
    more = (_MANY_FILES - _FEW_FILES) * num_rows
    each_s = max(1e-12, median(many - few for few, many in pairs) / more)
    line = ["-m", "beholder", "score", *files[:_FEW_FILES], "-o", str(folder / "of_one"), "--head", head]
    whole_s = median(_command_seconds([*line, "--overwrite"], clock) for _ in range(num_rounds))
    return RowsRate(
        rows_per_second=1 / each_s,
        num_cores=all_cores(),
        dim=dim,
        start_s=max(0.0, whole_s - each_s * _FEW_FILES * num_rows),
    )
