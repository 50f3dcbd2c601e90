"""Ends scoring runs at every named crash point, in forked children, and lets another run finish.

Run as a program, so that forking finds no threads. Arguments: once or each, a folder, head, a tower for pictures ("": of
embeddings), then suffixes of outputs. By "once" every point ends one run, by "each" a first run and one over changed inputs,
for every suffix. Prints the points that were reached and all there are, as JSON; a result that is not, to the bit, the one of a
run from scratch ends it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import traceback
from pathlib import Path

import numpy as np

import beholder.engine.engine
import beholder.models.towers
import beholder.scoring.pictures  # (so that children find it imported)
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from oracles.picture_jobs import picture_bytes
from oracles.result_bytes import check_same

SCORING = Path(beholder.scoring.pictures.__file__).parent
POINTS = sorted({name for file in SCORING.glob("*.py") for name in re.findall(r'reach\("([^"]+)"\)', file.read_text())})

OVER_EARLIER = {
    "room made",
    "shard adopted",
    "shard linked aside",
    "shard set aside",
    "result opened",
    "opened result set aside",
}
"""Points that only a run over changed inputs meets."""
OF_PICTURES = ["embeddings moved away", "embeddings published", "result published"]
"""Points at which pictures have more to lose than embeddings; each costs the time to load a tower twice."""


def make(source: Path, numbers: range, *, as_pictures: bool, seed: int = 0) -> None:
    """Write inputs of these numbers: pictures (one of four is none), or arrays whose first row is rejected."""
    source.mkdir(exist_ok=True)
    for number in numbers:
        if as_pictures:
            data = b"\xff\xd8 no picture" if number % 4 == 3 else picture_bytes(number + seed)
            (source / f"p{number}.jpg").write_bytes(data)
        else:
            rows = np.random.default_rng(number + seed).standard_normal((40 + number, 24)).astype(np.float32)
            rows[0] = 0
            np.save(source / f"e{number}.npy", rows)


def status_of(options: ScoreOptions, point: str = "") -> int:
    """How a run in a child ends: 0, or 137 where it was ended at the point."""
    child = os.fork()
    if child == 0:
        try:
            os.environ["BEHOLDER_CRASH_AT"] = point
            score(options)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, 137):
        sys.exit(f"a run failed: {options.out}, to be ended at {point!r}")
    return status


def restore(saved: Path, now: Path) -> None:
    """Let the folder be what was saved."""
    shutil.rmtree(now, ignore_errors=True)
    shutil.copytree(saved, now)


def main(how: str, folder: str, head: str, tower: str, *suffixes: str) -> None:
    """End a first run and a run over changed inputs at each point, then finish it."""
    now, fresh, grown, scratch = (Path(folder) / name for name in ("now", "fresh", "grown", "scratch"))
    reached = set()
    for suffix in suffixes:
        for place in (now, fresh, grown, scratch):
            shutil.rmtree(place, ignore_errors=True)
        now.mkdir()
        more = {"backbone": tower, "device": "cpu", "precision": "fp32", "workers": 0, "keep_embeddings": True} if tower else {}
        more |= {"shard_rows": 3 if tower else 25, "num_threads": 1, "heads": (head,), "sources": (str(now / "in"),)}
        job = ScoreOptions(out=str(now / f"out{suffix}"), **more)  # type: ignore[arg-type]
        make(now / "in", range(8 if tower else 3), as_pictures=bool(tower))
        shutil.copytree(now, fresh)
        if not tower:  # in this process, so that children find everything imported and compiled
            score(ScoreOptions(**{**job.__dict__, "out": str(scratch / "warm")}))
        status_of(job)
        make(now / "in", range(2, 3), as_pictures=bool(tower), seed=100)
        make(now / "in", range(10, 12), as_pictures=bool(tower))
        (now / "in" / ("p1.jpg" if tower else "e1.npy")).unlink()
        shutil.copytree(now, grown)
        for saved in (grown,) if tower else (fresh, grown):
            restore(saved, now)
            expected = scratch / saved.name / f"out{suffix}"
            status_of(ScoreOptions(**{**job.__dict__, "out": str(expected)}))
            for point in OF_PICTURES if tower else [*POINTS, "shard done:2"]:
                if (saved == fresh and point in OVER_EARLIER) or (how == "once" and point.split(":")[0] in reached):
                    continue
                restore(saved, now)
                if status_of(job, point) == 137:
                    reached.add(point.split(":")[0])
                    status_of(job)
                    check_same(Path(job.out or ""), expected)
    print(json.dumps([sorted(reached), POINTS]))


if __name__ == "__main__":
    main(*sys.argv[1:])
