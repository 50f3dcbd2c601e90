"""Sources that change, vanish or cannot be read any more while a run reads them: the next run gives what is there then."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from oracles.disturbing import Job, cost_of, one_line, told
from oracles.fault_jobs import of_pictures, of_rows, write_photos, write_rows, write_tars
from oracles.fault_table import Difference, FaultTable
from oracles.program import Done
from oracles.source_changes import NO_OVERRIDE, OF_FILES
from oracles.tiers import sized

FORBIDDEN = "file forbidden (mode 000)"
READ_ERROR = "read error (EIO)"
"""What stands there has the time at which its reader was started."""
NONE_IS_LEFT = "none of them is of the inputs now"
SLOW = [("file replaced",), ("folder renamed",), ("files grown or new",)]
DONE = (0, 3)
SOURCES: dict[str, Callable[[Path], Path]] = {"pictures": write_photos, "tars": write_tars, "embeddings": write_rows}


class Reader:
    """A job over a source that is changed, and put back.

    Args:
        source: of `SOURCES`.
        folder: for all that it reads and writes.
        words: the command, given the source's folder.
    """

    def __init__(
        self, source: str, folder: Path, env: Mapping[str, str], words: Callable[[Path], tuple[str, ...]], chance: random.Random
    ) -> None:
        self.inside, self.folder, self._chance = folder / "in", folder, chance
        self._pristine = SOURCES[source](folder / "pristine")
        self._job = Job(words(self.inside), folder / "runs", env)
        self._undisturbed: dict[str, Path] = {}
        self._put_back()
        self._end("first", "")
        begun = time.monotonic()
        self._end("timed", "")
        self._seconds = time.monotonic() - begun

    def _put_back(self) -> None:
        shutil.rmtree(self.inside, ignore_errors=True)
        shutil.copytree(self._pristine, self.inside)

    def _end(self, where: str, suffix: str, *more: str) -> tuple[Path, int, str]:
        """Run the job to its end: the output, the status, and what it said."""
        out = self.folder / where / f"out{suffix}"
        done = self._job.start(out, *more, before=NO_OVERRIDE).done()
        return out, status_of(done), done.stderr

    def cost(self, kind: str) -> Difference:
        """Change something while a run reads, run again, then put all back and run again: how the results differ.

        The run that is disturbed ends in one line, if it fails. The next one, and one from scratch over what is there then,
        write the same bytes, or both are refused. Of a file that may not be read any more, but has its size and time, the
        score that an earlier run found stays; where nothing is left of what was scored the next run is refused.
        """
        suffix, seconds = self._chance.choice(self._job.suffixes), self._chance.uniform(0.0, self._seconds)
        with told(f"{self.inside}, out{suffix}, changed after {seconds:.3f} of {self._seconds:.3f} s"):
            running = self._job.start(self.folder / "out" / f"out{suffix}", before=NO_OVERRIDE)
            running.runs_for(seconds)
            OF_FILES[kind](self.inside, self._chance)
            status_of(running.done())
            out, found, said = self._end("out", suffix)
            scratch, expected, _ = self._end("scratch", suffix)
            assert found == expected or kind == FORBIDDEN or NONE_IS_LEFT in said, said
            is_seen = found == expected in DONE and kind != FORBIDDEN
            cost = cost_of(scratch, out, to_the_bit=kind != READ_ERROR) if is_seen else Difference()
            self._put_back()
            if suffix not in self._undisturbed:
                self._undisturbed[suffix], _, _ = self._end("undisturbed", suffix)
            out, found, said = self._end("out", suffix, "--retry-rejects")
            assert found == 3, said
            cost += cost_of(self._undisturbed[suffix], out)
        for place in ("out", "scratch", "in moved"):
            shutil.rmtree(self.folder / place, ignore_errors=True)
        return cost


def status_of(done: Done) -> int:
    """How a run has ended: done, or in one line that says why not."""
    if done.returncode not in DONE:
        assert done.returncode == 1, f"status {done.returncode}: {done.stderr}"
        one_line(done)
    return done.returncode


@pytest.mark.parametrize(("kind", "size"), sized(zip(OF_FILES), [], SLOW))
def test_what_is_there_at_the_end_is_what_counts(
    tmp_path: Path, fault_table: FaultTable, job_env: dict[str, str], small_head: Path, small_tower: Path,
    plain_head: Path, kind: str, num_faults: int,
) -> None:  # fmt: skip
    """Pictures in folders, tars and embeddings in turn."""
    chance, cost = random.Random(kind), Difference()

    def words(inside: Path) -> tuple[str, ...]:
        if inside.parent.name == "embeddings":
            return of_rows(inside, small_head)
        return ("score", *of_pictures(inside, small_tower, "--head", str(plain_head), "--device", "cpu", "-j", "0"))

    names, first = list(SOURCES), list(OF_FILES).index(kind)
    readers: dict[str, Reader] = {}
    for number in range(num_faults):
        source = names[(first + number) % len(names)]
        if source not in readers:
            readers[source] = Reader(source, tmp_path / source, job_env, words, chance)
        cost += readers[source].cost(kind)
    fault_table.record(f"source changes: {kind}", injected=num_faults, **cost.counts())
