"""Sources that change, vanish or cannot be read any more while a run reads them: the next run gives what is there then."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from oracles.disturbing import Job, cost_of, one_line, told
from oracles.fault_jobs import of_pictures, of_rows, write_photos, write_rows, write_tars
from oracles.fault_table import Difference, FaultTable
from oracles.source_changes import NO_OVERRIDE, OF_FILES
from oracles.tiers import sized

QUICK = {("pictures", "file replaced"), ("tars", "files grown or new"), ("embeddings", "file truncated")}
KINDS = [(source, kind) for source in ("pictures", "tars", "embeddings") for kind in OF_FILES]
DONE = (0, 3)


@dataclass(frozen=True)
class Place:
    """Where one run reads and writes."""

    job: Job
    folder: Path
    suffix: str

    def run(self, where: str, *more: str) -> int:
        """Run the job to its end: its status; what fails ends in one line."""
        done = self.job.start(self.folder / where / f"out{self.suffix}", *more, before=NO_OVERRIDE).done()
        if done.returncode not in DONE:
            assert done.returncode == 1, f"status {done.returncode}: {done.stderr}"
            one_line(done)
        return done.returncode

    def cost(self, scratch: str, *more: str) -> Difference:
        """Run again, and from scratch, over what is there now: how the results differ. One is refused where the other is."""
        found, expected = self.run("out", *more), self.run(scratch)
        assert found == expected
        if expected not in DONE:
            return Difference()
        out = Path("out", f"out{self.suffix}")
        return cost_of(self.folder / scratch / out.name, self.folder / out)


@pytest.mark.parametrize(("source", "kind", "size"), sized(KINDS, QUICK))
def test_what_is_there_at_the_end_is_what_counts(
    tmp_path: Path, fault_table: FaultTable, job_env: dict[str, str], small_head: Path, small_tower: Path,
    plain_head: Path, source: str, kind: str, num_faults: int,
) -> None:  # fmt: skip
    """The run that was disturbed ends, in one line if it fails; the next one and one from scratch write the same bytes.

    Then all is put back as it was, and the same command is run again.
    """
    make: Callable[[Path], Path] = {"pictures": write_photos, "tars": write_tars, "embeddings": write_rows}[source]
    pristine = make(tmp_path / "pristine")
    base = Job((), tmp_path / "runs", job_env)
    chance, cost, longest = random.Random(f"{kind} {source}"), Difference(), 0.0
    for number in range(num_faults):
        folder = tmp_path / str(number)
        folder.mkdir()
        inside = Path(shutil.copytree(pristine, folder / "in"))
        more = ("--head", str(plain_head), "--device", "cpu", "-j", chance.choice("0001"))
        words = of_rows(inside, small_head) if source == "embeddings" else ("score", *of_pictures(inside, small_tower, *more))
        place = Place(replace(base, words=words), folder, chance.choice(base.suffixes))
        if not longest:
            place.run("first")
            begun = time.monotonic()
            place.run("undisturbed")
            longest = time.monotonic() - begun
        seconds = chance.uniform(0.0, longest)
        with told(f"{kind}, {source}, run {number}: out{place.suffix}, after {seconds:.3f} s; {' '.join(words)}"):
            running = place.job.start(folder / "out" / f"out{place.suffix}", before=NO_OVERRIDE)
            running.runs_for(seconds)
            OF_FILES[kind](inside, chance)
            first = running.done()
            if first.returncode not in DONE:
                assert first.returncode == 1, f"status {first.returncode}: {first.stderr}"
                one_line(first)
            cost += place.cost("scratch")
            shutil.rmtree(inside, ignore_errors=True)
            shutil.copytree(pristine, inside)
            cost += place.cost("put back", "--retry-rejects")
        shutil.rmtree(folder)
    fault_table.record(f"{kind}: {source}", injected=num_faults, **cost.counts())
