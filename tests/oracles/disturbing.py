"""Jobs that something happens to at a random moment, and the same command again to its end, beside an undisturbed run.

A `Job` is a command and its undisturbed results; `disturb` starts it over and over, each time into an output of its own, has
something done to it at a moment drawn over its whole duration, and counts the rows that this cost.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oracles.fault_table import Difference, FaultTable, Row, Rows, compare, differing, rows_of
from oracles.processes import children_of, wait_until_gone
from oracles.program import Done, Forked, start
from oracles.result_bytes import check_same

SUFFIXES = ("", ".parquet", ".csv")
INTERRUPTED = "interrupted; run the same command again to continue"
_END_S = 120


@dataclass(frozen=True)
class Job:
    """A command that writes a result.

    Attributes:
        words: the command without its output.
        whole: folder of the undisturbed results, `out.SUFFIX` each, and of what runs say.
        env: its environment.
        status: how it ends, 3 where some rows are rejected.
        seconds: how long an undisturbed run takes, by suffix.
        suffixes: the kinds of output that it is tried with.
    """

    words: tuple[str, ...]
    whole: Path
    env: Mapping[str, str]
    status: int = 3
    suffixes: tuple[str, ...] = SUFFIXES
    seconds: dict[str, float] = field(default_factory=dict)

    def start(self, out: Path, *more: str, before: str = "") -> Running:
        """Start it."""
        out.parent.mkdir(parents=True, exist_ok=True)
        return Running([*self.words, "-o", str(out), *more], self.whole / "runs", self.env, before=before)

    def finish(self, out: Path, *, before: str = "") -> Done:
        """Run it to its end, which must be that of an undisturbed run."""
        done = self.start(out, before=before).done()
        assert done.returncode == self.status, done.stderr
        return done

    def prepare(self) -> Job:
        """Make the undisturbed results, once all is compiled."""
        self.finish(self.whole / "first" / "out")
        for suffix in self.suffixes:
            begun = time.monotonic()
            self.finish(self.expected(suffix))
            self.seconds[suffix] = time.monotonic() - begun
        return self

    def expected(self, suffix: str) -> Path:
        """The undisturbed result."""
        return self.whole / f"out{suffix}"


class Running:
    """A started command: its process, and what it has said so far.

    Args:
        folder: its words, and its temporary files, go to a new one below.
        cwd: where it is started.

    Attributes:
        temporary: the folder for its temporary files.
    """

    def __init__(
        self, line: Sequence[str], folder: Path, env: Mapping[str, str], *, before: str = "", cwd: Path | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(dir=folder))
        self.temporary = self._folder / "tmp"
        self.temporary.mkdir()
        self._said, self._printed = self._folder / "said.txt", self._folder / "printed.txt"
        with self._said.open("w") as said, self._printed.open("w") as printed:
            how = {"env": {**env, "TMPDIR": str(self.temporary)}, "stderr": said, "stdout": printed, "cwd": cwd}
            self.process: Forked = start(*line, before=before, **how)

    def runs_for(self, seconds: float) -> bool:
        """Wait so long; whether it still runs then."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it is there."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        try:
            return self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def said(self) -> str:
        """Its error stream so far."""
        return self._said.read_text(encoding="utf-8", errors="replace")

    def done(self) -> Done:
        """Wait for its end: how it ended and what it said. An orderly end leaves no temporary file."""
        status = self.wait()
        done = Done(self.process.args, status, self._printed.read_text(encoding="utf-8"), self.said())
        assert status < 0 or not list(self.temporary.iterdir()), f"status {status}: {list(self.temporary.rglob('*'))}"
        shutil.rmtree(self._folder)
        return done


@dataclass
class Fault:
    """One run that something is to be done to.

    Attributes:
        job, running, out: the run.
        chance: draws what is done.
        undone: is closed before the same command is run again.
    """

    job: Job
    running: Running
    out: Path
    chance: random.Random
    undone: contextlib.ExitStack

    def kill(self, victims: Sequence[int]) -> bool:
        """Kill one of these processes; false where there is none."""
        alive = [victim for victim in victims if Path(f"/proc/{victim}").exists()]
        if not alive:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.chance.choice(alive), signal.SIGKILL)
            return True
        return False

    def children(self) -> list[int]:
        """Processes that the run has started."""
        try:
            return children_of(self.running.process.pid)
        except FileNotFoundError:
            return []


Injection = Callable[[Fault], bool]
"""Does something to a run; false where it came too late."""
Check = Callable[[Done, Job], None]
"""Looks at how a disturbed run ended."""


def one_line(done: Done) -> str:
    """What a run that failed said last, which is one line of ours and no traceback."""
    assert "Traceback" not in done.stderr, done.stderr
    assert "internal error" not in done.stderr, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("beholder: "), done.stderr
    assert len(last) < 1500
    return last


def ends_by(*statuses: int) -> Check:
    """The run has ended with one of these, or as if nothing had happened; what it said last is one line."""

    def check(done: Done, job: Job) -> None:
        assert done.returncode in (*statuses, job.status), f"status {done.returncode}: {done.stderr}"
        if done.returncode > 0 and done.returncode != job.status:
            one_line(done)

    return check


def undisturbed(done: Done, job: Job) -> None:
    """It has ended rightly the first time."""
    assert done.returncode == job.status, done.stderr


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Say which injection it was, when something fails there."""
    try:
        yield
    except BaseException as error:
        error.add_note(what)
        raise


def disturb(
    kind: str,
    job: Job,
    table: FaultTable,
    folder: Path,
    count: int,
    inject: Injection,
    check: Check,
    *,
    seed: int = 0,
    before: Callable[[random.Random], str] = lambda chance: "",
    at_once: bool = False,
) -> None:
    """Inject `count` times, count the rows that it cost, and record them.

    Args:
        kind: what the table calls it; with `seed` it decides all that is drawn.
        job: the command.
        table: where it is recorded.
        folder: for outputs.
        count: how many.
        inject: done at a moment drawn uniformly over the time that an undisturbed run takes.
        check: how the disturbed run may end.
        before: code that the disturbed run begins with.
        seed: another draws other moments.
        at_once: inject as soon as the run has started.
    """
    chance, cost = random.Random(f"{kind} {seed}"), Difference()
    injected = tries = 0
    while injected < count and not (cost.lost or cost.doubled or cost.wrong):
        tries += 1
        assert tries <= 5 * count + 10, f"{kind}: {injected} injections in {tries} runs"
        suffix = chance.choice(job.suffixes)
        seconds = 0.0 if at_once else chance.uniform(0.0, job.seconds[suffix])
        out = folder / f"{tries}" / f"out{suffix}"
        with told(f"{kind}, seed {seed}, run {tries}: out{suffix}, after {seconds:.3f} of {job.seconds[suffix]:.3f} s"):
            running = job.start(out, before=before(chance))
            with contextlib.ExitStack() as undone:
                fault = Fault(job, running, out, chance, undone)
                is_done = running.runs_for(seconds) and inject(fault)
                children = fault.children()
                done = running.done()
                wait_until_gone(children, 30)
                if is_done:
                    check(done, job)
                    injected += 1
                else:
                    undisturbed(done, job)
            if done.returncode != job.status or is_done:
                job.finish(out)
            cost += cost_of(job.expected(suffix), out)
            shutil.rmtree(out.parent)
    table.record(kind, injected=injected, **cost.counts())


def counted(expected: Rows, found: Rows) -> Difference:
    """As `compare`; prints the names of the first rows that differ."""
    if names := differing(expected, found):
        print(f"these differ: {names}")
    return compare(expected, found)


def cost_of(expected: Path, out: Path, *, to_the_bit: bool = True) -> Difference:
    """Rows that are not as in the undisturbed result; where all are, the files are the same to the bit and nothing is left.

    `to_the_bit`: whether sources have the same times in both, which are written down beside results.
    """
    found = counted(rows_of(expected), rows_of(out))
    if found == Difference():
        if to_the_bit:
            check_same(out, expected)
        left = [path for path in out.parent.rglob("*") if path.name.startswith(".beholder-") or path.name.endswith(".partial")]
        assert not left
    return found


@dataclass(frozen=True)
class FileJob:
    """A command that makes files in the folder where it is started.

    Attributes:
        words: the command.
        make: fills the folder before it.
        env: its environment.
        told: what of a file counts; None where not even its being there does.
        back: a command that has all as it was before.
    """

    words: tuple[str, ...]
    make: Callable[[Path], None]
    env: Mapping[str, str]
    told: Callable[[Path], bytes | None] = Path.read_bytes
    back: tuple[str, ...] = ()

    def start(self, folder: Path, words: Sequence[str] | None = None) -> Running:
        """Start it, or another command, there."""
        return Running(words or self.words, folder.with_name(f"{folder.name} runs"), self.env, cwd=folder)

    def finish(self, folder: Path, words: Sequence[str] | None = None) -> None:
        """Run it, or another command, there to its end."""
        done = self.start(folder, words).done()
        assert done.returncode == 0, done.stderr

    def files(self, folder: Path) -> Rows:
        """The files below a folder as rows of `compare`: name -> (what of it counts,)."""
        found: dict[str, list[Row]] = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file() and (counts := self.told(path)) is not None:
                found[path.relative_to(folder).as_posix()] = [(counts,)]
        return found


def disturb_files(
    kind: str, job: FileJob, table: FaultTable, folder: Path, count: int, send: signal.Signals, *, is_whole: bool
) -> None:
    """End the command `count` times by a signal at moments drawn over its duration, each time elsewhere; then run it again.

    Args:
        kind: what the table calls it.
        job: the command.
        table: where it is recorded.
        folder: for the folders where it runs.
        count: how many.
        send: the signal.
        is_whole: whether every file that the killed run has left under its final name has to be as in the end.
    """
    chance, cost = random.Random(f"{kind} {send.name}"), Difference()
    whole = folder / "whole"
    for place in (folder / "first", whole):
        place.mkdir()
        job.make(place)
        before, begun = job.files(place), time.monotonic()
        job.finish(place)
        seconds = time.monotonic() - begun
    expected = job.files(whole)
    assert expected != before
    injected = tries = 0
    while injected < count:
        tries += 1
        assert tries <= 5 * count + 10, f"{kind}: {injected} injections in {tries} runs"
        place = folder / str(tries)
        place.mkdir()
        job.make(place)
        moment = chance.uniform(0.0, seconds)
        with told(f"{kind}, {send.name}, run {tries}, after {moment:.3f} of {seconds:.3f} s"):
            running = job.start(place)
            if running.runs_for(moment):
                running.send(send)
                injected += 1
            done = running.done()
            assert done.returncode in (0, -send, 128 + send), done.stderr
            if done.returncode == 128 + send:
                assert one_line(done) == f"beholder: {INTERRUPTED}"
            if is_whole:
                found = {name: row for name, row in job.files(place).items() if not Path(name).name.startswith(".beholder-")}
                assert not [name for name in found if found[name] not in (before.get(name), expected.get(name))]
            job.finish(place)
            cost += counted(expected, job.files(place))
            if job.back:
                job.finish(place, job.back)
                cost += counted(before, job.files(place))
        shutil.rmtree(place)
    table.record(kind, injected=injected, **cost.counts())
