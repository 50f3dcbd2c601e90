"""Feeds mutated files to a reader, in a process of their own; what is neither read nor refused in one line is a finding.

A test file has a table `TARGETS` of name -> `Target`, and hands a name to `check`, once with a number of files, and for
`make soak` with a number of seconds:

    @pytest.mark.parametrize("name", TARGETS)
    def test_mutated_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
        check(__file__, name, tmp_path, count=TARGETS[name].count)

The number of a file and the seed make the file, so a run with a count does the same everywhere.

Environment: BEHOLDER_FUZZ_SECONDS (of each target of a long run, 60), BEHOLDER_FUZZ_SEED (of a long run, 1),
BEHOLDER_FUZZ_FINDINGS (folder that keeps what was found), BEHOLDER_FUZZ_TABLE (file that takes a line of JSON for each run;
`python tests/oracles/fuzzing.py TABLE` prints it as Markdown; `python tests/oracles/fuzzing.py TEST_FILE TARGET FILE` reads a
file again that was kept; both with `tests` and `src` in PYTHONPATH).
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import importlib.util
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from oracles.mutating import Inside, mutated, mutated_text

_MOST_SEEDS, _MOST_SEED_BYTES = 400, 1 << 18
_MOST_FINDINGS = 12
_MOST_LINE = 4000
_IN_MEMORY = "/dev/shm"
"""Files are written over thousands of times a minute, which on a disk takes longer than reading them."""
_SPACE = 6 << 30
"""Address space that a reader may take beyond what its process has; what it really fills is `Target.most_bytes`."""


@dataclass(frozen=True)
class Target:
    """A reader and the files it is fed.

    Attributes:
        read: reads a file through a public entry point to its end. Raises BeholderError for what cannot be read, AssertionError
            where its own counts do not add up; anything else is a finding. What it gives tells kinds of outcome apart (rows,
            reasons): a file with a new one is mutated further.
        seeds: makes small valid files; all of them must be read.
        name: of the file; its suffix may decide.
        tokens: words of the format.
        insides: changes within the format; each file takes one of them or, in half of the cases, plain bytes.
        is_made: the files are made by `insides` alone: plain changes of their bytes would only break what stands for the input.
        is_text: lines and numbers are changed besides bytes.
        count: files of the quick test.
        limit_s: a file may take so much processor time, in seconds, and 5 times as long by the clock.
        most_bytes: a file may take so much more memory than any one before.
        names_file: every refusal names the file.
        prints: a library in C prints what it finds, which commands keep to themselves: no finding.
        refuses: some of the files are refused; a run in which none is has not reached the reader.
    """

    read: Callable[[Path], Hashable]
    seeds: Callable[[], Sequence[bytes]]
    name: str
    tokens: tuple[bytes, ...] = ()
    insides: tuple[Inside, ...] = ()
    is_made: bool = False
    is_text: bool = False
    count: int = 16
    limit_s: float = 10.0
    most_bytes: int = 400 << 20
    names_file: bool = True
    refuses: bool = True
    prints: bool = False


@dataclass
class Finding:
    """One fault: what happened, with which file.

    Attributes:
        what: the exception and its place, or "hang", "crash", "memory", ...
        number: of the file in its run; -1 of a seed.
        text: the traceback or the message.
        path: where the file is kept; "" before.
    """

    what: str
    number: int
    text: str
    path: str = ""


@dataclass
class Result:
    """What a run did.

    Attributes:
        inputs, refused: files fed, and those of them that were refused in one line.
        outcomes: kinds of outcome.
        cpu_s: processor time, in seconds.
        slowest_s: of one file.
        peak_bytes: the largest memory beyond that of the start.
    """

    inputs: int = 0
    refused: int = 0
    outcomes: int = 0
    cpu_s: float = 0.0
    slowest_s: float = 0.0
    peak_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)


def check(module: str, name: str, folder: Path, *, count: int | None = None) -> Result:
    """Run target `name` of the test file `module` in `folder`; fails with the kept files where anything was found.

    `count`: so many files; None: for BEHOLDER_FUZZ_SECONDS.
    """
    seconds = None if count else float(os.environ.get("BEHOLDER_FUZZ_SECONDS", "60"))
    seed = os.environ.get("BEHOLDER_FUZZ_SEED", "1") if seconds else "0"
    kept = Path(os.environ.get("BEHOLDER_FUZZ_FINDINGS") or folder / "findings")
    with tempfile.TemporaryDirectory(
        prefix="beholder-fuzz-", dir=_IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else folder
    ) as work:
        result, refuses = _run(module, name, Path(work), count, seconds, seed)
        for finding in result.findings:
            finding.path = _kept(kept, name, seed, finding)
    _tell(module, name, seed, result)
    lines = [
        f"{finding.what}\n  file {finding.path} (number {finding.number}, seed {seed})\n{finding.text}"
        for finding in result.findings
    ]
    assert not result.findings, f"{len(lines)} findings in {name}:\n" + "\n".join(lines)
    assert result.refused > 0 or not refuses, "no mutated file was refused: is it read at all?"
    return result


def _kept(kept: Path, name: str, seed: str, finding: Finding) -> str:
    kept.mkdir(parents=True, exist_ok=True)
    source = Path(finding.path)
    place = kept / f"{name.replace(' ', '_')}-{seed}-{finding.number}{source.suffix}"
    shutil.copyfile(source, place)
    Path(f"{place}.why").write_text(f"{finding.what}\n{finding.text}\n")
    return str(place)


def _run(module: str, name: str, folder: Path, count: int | None, seconds: float | None, seed: str) -> tuple[Result, bool]:
    """Children one after another, each going on where the last one died; and whether the target refuses files."""
    from oracles.program import Forked

    total, first, began, deaths, place = Result(), 0, time.monotonic(), 0, folder
    while (count is None or first < count) and len(total.findings) < _MOST_FINDINGS and deaths < (2 if count else 30):
        left = None if seconds is None else seconds - (time.monotonic() - began)
        if left is not None and left <= 0:
            break
        place = Path(tempfile.mkdtemp(dir=folder))
        words = {
            "module": module,
            "name": name,
            "folder": str(place),
            "count": count,
            "seconds": left,
            "seed": seed,
            "first": first,
        }
        code = "import sys; from oracles import fuzzing; fuzzing.child(sys.argv[1])"
        (place / "here").mkdir()
        with (place / "log").open("wb") as log:
            running = Forked(["-c", code, json.dumps(words)], stdout=log, stderr=log, cwd=str(place / "here"))
            with running:
                status = running.wait(timeout=(left or 240) + 120)
        done = _done(place, status, first)
        first += done.inputs
        _add(total, done)
        if status == 0:
            break
        deaths += 1
    return total, not (place / "refuses nothing").exists()


def _done(place: Path, status: int, first: int) -> Result:
    """What a child has left; one that died has a finding more."""
    told = json.loads((place / "result.json").read_text()) if (place / "result.json").exists() else {}
    result = Result(**{**told, "findings": [Finding(**each) for each in told.get("findings", ())]})
    if status == 0:
        return result
    log = (place / "log").read_text(errors="replace")
    files = sorted((place / "now").iterdir()) if (place / "now").is_dir() else []
    kind = "hang" if "Timeout (" in log else f"crash, status {status}"
    if not files or (status > 0 and kind != "hang"):
        raise AssertionError(f"the child failed by itself, status {status}: {log}")
    number = int((place / "number").read_text())
    if number < 0:
        raise AssertionError(f"{kind} on a seed: {log}")
    shutil.copyfile(files[0], place / f"died{files[0].suffix}")
    frames = re.findall(r'File "([^"]*)", line (\d+)', log.split("most recent call first", 1)[-1])[:2]
    what = " < ".join([kind, *(f"{Path(file).name}:{line}" for file, line in frames)])
    result.findings.append(Finding(what, number, log[-3000:], str(place / f"died{files[0].suffix}")))
    result.inputs = number - first + 1
    return result


def _add(total: Result, done: Result) -> None:
    known = {finding.what for finding in total.findings}
    total.inputs += done.inputs
    total.refused += done.refused
    total.outcomes = max(total.outcomes, done.outcomes)
    total.cpu_s += done.cpu_s
    total.slowest_s = max(total.slowest_s, done.slowest_s)
    total.peak_bytes = max(total.peak_bytes, done.peak_bytes)
    total.findings += [finding for finding in done.findings if finding.what not in known]


def _tell(module: str, name: str, seed: str, result: Result) -> None:
    """Append a line to the table."""
    table = os.environ.get("BEHOLDER_FUZZ_TABLE")
    if not table:
        return
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(module).parent, capture_output=True, text=True
    ).stdout
    line = {
        "group": Path(module).stem.removeprefix("test_"),
        "reader": name,
        "seed": seed,
        "commit": commit.strip(),
        **asdict(result),
    }
    line["findings"] = [finding.what for finding in result.findings]
    with Path(table).open("a") as file:
        file.write(json.dumps(line) + "\n")


def table(path: Path) -> str:
    """The lines of a table as Markdown; several runs of one reader at one commit are added up."""
    rows: dict[tuple[str, str, str], list[Any]] = {}
    for line in path.read_text().splitlines():
        told = json.loads(line)
        row = rows.setdefault((told["group"], told["reader"], told["commit"]), [0, 0.0, 0, 0.0, 0, 0])
        row[0] += told["inputs"]
        row[1] += told["cpu_s"] / 60
        row[2] = max(row[2], told["outcomes"])
        row[3] = max(row[3], told["slowest_s"])
        row[4] = max(row[4], told["peak_bytes"] >> 20)
        row[5] += len(told["findings"])
    head = "| reader | commit | files | CPU minutes | kinds of outcome | slowest, s | memory, MiB | findings |\n"
    head += "|---|---|---|---|---|---|---|---|\n"
    lines = (
        f"| {group}: {name} | {commit} | {files:,} | {minutes:.2f} | {kinds} | {slowest:.2f} | {memory} | {found} |\n"
        for (group, name, commit), (files, minutes, kinds, slowest, memory, found) in rows.items()
    )
    return head + "".join(lines)


# ----- in the child -----


def child(words: str) -> None:
    """Feed files until the count or the time is used up; `_run` says what stands in `words`."""
    told = json.loads(words)
    _Feeder(_target(told["module"], told["name"]), told).run()


def _target(path: str, name: str) -> Target:
    """A target of a test file."""
    spec = importlib.util.spec_from_file_location("fuzz_targets", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_targets"] = module
    spec.loader.exec_module(module)
    found: Target = module.TARGETS[name]
    return found


def replay(module: str, name: str, file: Path) -> Hashable:
    """What target `name` of the test file `module` gives for a file that was kept; raises what it raises."""
    target = _target(module, name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "now" / target.name
        path.parent.mkdir()
        shutil.copyfile(file, path)
        return target.read(path)


class _Feeder:
    def __init__(self, target: Target, told: dict[str, Any]) -> None:
        self.target, self.told = target, told
        self.folder = Path(told["folder"])
        self.now = self.folder / "now"
        self.here = Path.cwd()
        self.now.mkdir()
        _write(self.folder / "number", b"-1")
        (self.folder / "tmp").mkdir()
        tempfile.tempdir = os.environ["TMPDIR"] = str(self.folder / "tmp")
        if not target.refuses:
            _write(self.folder / "refuses nothing", b"")
        self.seeds = list(target.seeds())
        self.num_first = len(self.seeds)
        self.known: set[Hashable] = set()
        self.armed = 0.0
        self.shrinking_s = 0.2 * (told["seconds"] or 50.0)  # for all findings together
        self.found: dict[str, Finding] = {}
        self.result = Result()
        self.log = self.folder / "log"

    def run(self) -> None:
        faulthandler.enable()
        warnings.simplefilter("always")
        for data in self.seeds:
            outcome, what = self.feed(data, -1)
            if outcome != "read" or what is not None:
                raise AssertionError(f"a seed is not read, or not only read: {what}: {self.last}")
        self.result = Result(findings=list(self.found.values()))
        self.start_bytes = _peak_bytes()
        _limit_space()
        began, cpu = time.monotonic(), time.process_time()
        number = self.told["first"]
        while (self.told["count"] is None or number < self.told["count"]) and len(self.found) < _MOST_FINDINGS:
            if self.told["seconds"] is not None and time.monotonic() - began > self.told["seconds"]:
                break
            (self.folder / "number").write_text(str(number))
            rng = random.Random(f"{self.told['seed']} {self.told['name']} {number}")
            data = self.made(rng)
            outcome, what = self.feed(data, number)
            self.result.inputs += 1
            self.result.refused += outcome == "refused"
            if what is not None and what not in self.found:
                self.keep(data, number, what)
            number += 1
            if number % 20 == 0:
                self.write(cpu)
        self.write(cpu)
        faulthandler.cancel_dump_traceback_later()

    def write(self, cpu: float) -> None:
        """Leave what is known so far, for the parent of one that dies."""
        self.result.outcomes = len(self.known)
        self.result.cpu_s = time.process_time() - cpu
        self.result.peak_bytes = max(0, _peak_bytes() - self.start_bytes)
        self.result.findings = list(self.found.values())
        _write(self.folder / "result.json", json.dumps(asdict(self.result)).encode())

    def made(self, rng: random.Random) -> bytes:
        """The next file: a seed (more often one of the first), changed."""
        seed = rng.choice(self.seeds[: self.num_first] if rng.random() < 0.4 else self.seeds)
        others, tokens = self.seeds, self.target.tokens
        plain = functools.partial(mutated, rng=rng, others=others, tokens=tokens)
        change = (
            functools.partial(mutated_text, rng=rng, tokens=tokens) if self.target.is_text and rng.random() < 0.8 else plain
        )
        if self.target.insides and (self.target.is_made or rng.random() < 0.6):
            with contextlib.suppress(Exception):  # a seed that was damaged has no such piece any more
                return rng.choice(self.target.insides)(seed, functools.partial(mutated, rng=rng, tokens=tokens), rng)
        return change(seed)

    def feed(self, data: bytes, number: int) -> tuple[str, str | None]:
        """("read" or "refused" or "fault", what was found or None); a new kind of outcome makes the file a seed."""
        path = self.now / self.target.name
        _write(path, data)
        before, said = _peak_bytes(), self.log.stat().st_size
        cpu = time.process_time()
        if time.monotonic() - self.armed > 0.5 * self.target.limit_s:  # each time it starts a thread
            self.armed = time.monotonic()
            faulthandler.dump_traceback_later(5 * self.target.limit_s, exit=True)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            outcome, what, key = self.verdict(path)
        took = time.process_time() - cpu
        self.result.slowest_s = max(self.result.slowest_s, took)
        sys.stdout.flush()
        sys.stderr.flush()
        if what is None:
            what = self.beside(warned, before, said, took)
        if (
            key not in self.known
            and number >= 0
            and what is None
            and len(self.seeds) < _MOST_SEEDS
            and len(data) < _MOST_SEED_BYTES
        ):
            self.seeds.append(data)
        self.known.add(key)
        return outcome, what

    def verdict(self, path: Path) -> tuple[str, str | None, Hashable]:
        """What reading comes to: (outcome, finding, kind of outcome)."""
        from beholder import BeholderError

        try:
            said = self.target.read(path)
        except BeholderError as error:
            self.last = str(error)
            return "refused", self.wrong_line(error, path), (type(error).__name__, _plain(self.last, path))
        except BaseException as error:
            self.last = "".join(traceback.format_exception(error))
            return "fault", f"{type(error).__name__} {_place_of(error)}", type(error).__name__
        self.last = ""
        return "read", None, ("read", said)

    def wrong_line(self, error: Exception, path: Path) -> str | None:
        text = str(error)
        if not text.strip() or len(text.splitlines()) != 1 or "Traceback" in text or len(text) > _MOST_LINE:
            return f"no short line: {_place_of(error)}"
        if self.target.names_file and path.name not in text:
            return f"a line without the file: {_place_of(error)}"
        return None

    def beside(self, warned: list[warnings.WarningMessage], before: int, said: int, took: float) -> str | None:
        """What was done besides reading."""
        if warned:
            self.last = str(warned[0].message)
            return f"warning {warned[0].category.__name__} {Path(warned[0].filename).name}:{warned[0].lineno}"
        if self.log.stat().st_size > said and not self.target.prints:
            self.last = self.log.read_bytes()[said:][:2000].decode(errors="replace")
            return f"printed {_plain(self.last, self.now)[:60]}"
        strays = [str(path) for place in (self.here, self.folder / "tmp") for path in place.rglob("*")]
        strays += [str(path) for path in self.now.iterdir() if path.name != self.target.name]
        if strays:
            for path in (*self.here.iterdir(), *(self.folder / "tmp").iterdir()):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            self.last = str(strays)
            return "files left behind"
        if _peak_bytes() - before > self.target.most_bytes:
            self.last = f"{_peak_bytes() - before:,} bytes more than ever before"
            return "memory"
        if took > self.target.limit_s:
            self.last = f"{took:.1f} s of processor time"
            return "slow"
        return None

    def keep(self, data: bytes, number: int, what: str) -> None:
        text = self.last
        data = self.smaller(data, what)
        place = self.folder / f"finding-{number}{Path(self.target.name).suffix}"
        _write(place, data)
        self.found[what] = Finding(what, number, text[-3000:], str(place))

    def smaller(self, data: bytes, what: str) -> bytes:
        """The file without what the finding does not need: stretches of half of it, a quarter, ... are left out in turn."""
        if what in ("memory", "slow"):
            return data
        began, size = time.monotonic(), len(data) // 2
        until = began + min(5.0, self.shrinking_s)
        while size >= 1 and time.monotonic() < until:
            at = 0
            while at < len(data) and time.monotonic() < until:
                less = data[:at] + data[at + size :]
                if self.feed(less, -2)[1] == what:
                    data = less
                else:
                    at += size
            size //= 2
        self.shrinking_s -= time.monotonic() - began
        return data


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _limit_space() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _place_of(error: BaseException) -> str:
    """Where it was raised: the last place in our code, and the very last one."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/beholder/" in frame.filename or "/tests/" in frame.filename][-1:]
    places = (f"{Path(frame.filename).name}:{frame.lineno}" for frame in [*frames[-1:], *ours])
    return " < ".join(dict.fromkeys(places))


def _plain(text: str, path: Path) -> str:
    """A message without what differs from file to file."""
    text = text.replace(str(path), "FILE")
    return re.sub(r"b?'[^']*'|b?\"[^\"]*\"|\d[\d,.]*", "#", text)[:160]


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(table(Path(sys.argv[1])), end="")
    else:
        print(replay(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
