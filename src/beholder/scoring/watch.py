"""A run as others see it while it lasts and afterwards: its log, its metrics, and its record of stage times.

The process that hands out shards, or does them itself, tells a `Watch` what happens. It counts, and never fails: nothing of a
run depends on it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import secrets
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from beholder import __version__, columns, notices
from beholder.errors import BeholderError, OutputError, one_line
from beholder.io import locations, places, records
from beholder.io.processes import memory_bytes
from beholder.io.records import DamagedRecordError
from beholder.options import all_cores
from beholder.scoring.run_log import MetricsFile, RunLog, Samples, utc_time
from beholder.scoring.shards import Shard, ShardResult
from beholder.scoring.summary import RunSummary, StageClock, Tally

if TYPE_CHECKING:
    from beholder.scoring.options import Options, Share

METRICS_PAUSE_S = 10.0
"""Seconds between two writings of the metrics."""
RUNS_FORMAT = "beholder-run"
"""The `format` of `run.json`."""
MOST_RUNS = 100
"""Runs of which `run.json` keeps what they took; the last ones."""
_RUN_FILE = re.compile(r"run(?:\.part-\d+-of-\d+)?\.json")
_MOST_SOURCES = 1000
_SOFTWARE = ("numpy", "pyarrow", "torch", "pillow")


class Watched(Protocol):
    """What a watch asks of a step while it runs.

    Attributes:
        shards: all of the job.
        options: that decide the result.
        tally: how far it is.
        stages: where the time goes.
    """

    shards: Sequence[Shard]
    options: Mapping[str, Any]
    tally: Tally
    stages: StageClock

    def waiting_for(self) -> str:
        """The stage that the others wait for."""


class Watch:
    """Tells of one run. Any thread may tell it something.

        with Watch(options) as watch:
            ...
            watch.done(summary)

    Args:
        options: of the job: where the log and the metrics go; None: nowhere.

    Attributes:
        run: names this run among others; in every line.
    """

    def __init__(self, options: Options | None = None) -> None:
        self._options = options
        self.run = secrets.token_hex(8)
        self._began, self._clock_began = time.time(), time.perf_counter()
        self._turn = threading.RLock()
        self._log: RunLog | None = None
        self._metrics: MetricsFile | None = None
        self._early: list[dict[str, Any]] | None = []
        """Lines before it is known where the result goes; None: they are written."""
        self._is_open = False
        self._step: Watched | None = None
        self._output = (options.out if options is not None else None) or ""
        self._share = None if options is None else options.share()
        self._begun: dict[str, tuple[float, str | None]] = {}
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._num_shards = self._num_before = 0
        self._most_rows = self._most_bytes = 0
        self._workers: set[str] = set()
        self._all_workers: list[str] = []
        self._device = ""
        self._plan_seconds = 0.0
        self._summary: RunSummary | None = None
        self._over = threading.Event()
        self._ticker: threading.Thread | None = None
        self._listening = contextlib.ExitStack()

    # From its beginning to its end.

    def __enter__(self) -> Watch:
        """Look at the files. Raises OutputError: one of them cannot be what is asked for."""
        options = self._options
        if options is None:
            return self
        if options.metrics is not None:
            self._metrics = MetricsFile(self._of_part(options.metrics))
        if options.log_json is not None:
            self._log = RunLog(self._of_part(options.log_json))
            self._listening.enter_context(notices.told_to(self._heard(notices.listener())))
        return self

    def _of_part(self, path: str) -> str:
        """Where a part writes in place of `path`, which all parts are given."""
        return path if self._share is None else self._share.file_for(path)

    def _heard(self, before: Any) -> Any:
        def listen(text: str) -> None:
            self._tell("notice", text=text)
            if before is not None:
                before(text)

        return listen

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Tell how the run has ended."""
        self._over.set()
        if self._ticker is not None:
            self._ticker.join()
        status = _status_of(error, self._summary)
        ending: dict[str, Any] = {
            "outcome": "done" if error is None else "interrupted" if isinstance(error, KeyboardInterrupt) else "failed",
            "exit_status": status,
            "seconds": time.perf_counter() - self._clock_began,
            "stage_seconds": self.stage_seconds(),
        }
        if error is not None:
            ending["error"] = _said_of(error)
        if self._summary is not None:
            ending["summary"] = self._summary.to_json()
        if not self._is_open:  # it has failed before it could begin
            try:
                self._open([self._output] if self._output else [], [])
            except BeholderError:
                self._log = self._metrics = None
        self._flush_early()
        self._tell("run_ended", **ending)
        self._write_metrics(status)
        self._listening.close()
        if self._log is not None:
            self._log.close()

    def planned(self, step: Watched, output: str, work: str, inputs: Sequence[str], device: str) -> None:
        """The plan is made: where the result goes, the folder of its shards, what is read, the device.

        Raises OutputError: the log or the metrics would be among them.
        """
        self._plan_seconds = time.perf_counter() - self._clock_began
        self._step, self._output, self._device = step, output, device
        try:
            self._open([output, work], inputs)
        except OutputError:
            self._log = self._metrics = None  # nothing is written there
            raise

    def _open(self, results: Sequence[str], inputs: Sequence[str]) -> None:
        """Open the files, for the first time. Raises OutputError: a file is among the results or inputs, or cannot be made."""
        named = self._named()
        if self._is_open or not named:
            return
        if len(set(named.values())) < len(named):
            raise OutputError("--log-json and --metrics name the same file; name two")
        for path in filter(locations.is_local, results):
            above = locations.local_path(path).resolve()
            for flag, place in named.items():
                if place == above or above in place.parents:
                    raise OutputError(f"{flag} {place} would lie in the result {path}; name a file beside it")
        taken = set(named.values())
        for path in filter(locations.is_local, inputs):
            if locations.local_path(path).resolve() in taken:
                raise OutputError(f"{path} is an input of this command, and the log or the metrics would be written to it")
        for file in (self._log, self._metrics):
            if file is not None:
                file.open()
        self._is_open = True

    def _named(self) -> dict[str, Path]:
        """Flag -> the file that it asks for."""
        options = self._options
        asked = {} if options is None else {"--log-json": options.log_json, "--metrics": options.metrics}
        return {flag: locations.local_path(self._of_part(path)).resolve() for flag, path in asked.items() if path is not None}

    def begun(self, summary: RunSummary, shards: Sequence[Shard], done: Container[str], num_rows: int) -> None:
        """The run has its place to itself, and knows what is left to do.

        Args:
            summary: what is known of it.
            shards: all of them, of a part its own.
            done: names of those that earlier runs did.
            num_rows: how many rows these have.
        """
        assert self._step is not None
        options = self._options
        self._num_shards, self._num_before = len(shards), sum(shard.name in done for shard in shards)
        sources = list(options.sources) if options is not None else []
        self._flush_early()
        self._tell(
            "run_begun",
            version=__version__,
            command=summary.verb,
            output=summary.output,
            part=None if self._share is None else self._share.name,
            sources=sources if len(sources) <= _MOST_SOURCES else len(sources),
            options=dict(self._step.options),
            heads=summary.head_names,
            engine=options.engine if options is not None else "local",
            devices=options.devices if options is not None else None,
            shards=self._num_shards,
            shards_done=self._num_before,
            shards_pending=self._num_shards - self._num_before,
            rows=self._step.tally.total()[0],
            rows_done=num_rows,
            host=socket.gethostname(),
            process=os.getpid(),
            warnings=summary.warnings,
        )
        if self._metrics is not None and self._ticker is None:
            self._write_metrics()
            self._ticker = threading.Thread(target=self._tick, name="beholder-metrics", daemon=True)
            self._ticker.start()

    def done(self, summary: RunSummary) -> None:
        """The run has come to a good end."""
        self._summary = summary

    # What happens on the way.

    def waiting_for_lock(self, place: str) -> None:
        """The run waits for the lock of the folder of its shards."""
        self._tell("waiting", what="lock", place=place)

    def worker_started(self, name: str) -> None:
        """A worker has opened what it needs."""
        with self._turn:
            self._workers.add(name)
            self._all_workers += [] if name in self._all_workers else [name]
        self._tell("worker_started", worker=name)

    def worker_died(self, name: str, why: str, *, is_replaced: bool) -> None:
        """A worker is no more."""
        with self._turn:
            self._workers.discard(name)
            self._counts["deaths"] += 1
        self._tell("worker_died", worker=name, why=one_line(why), replaced=is_replaced)

    def shard_damaged(self, name: str) -> None:
        """A shard that an earlier run finished is not as it was written, and is done again."""
        self._count("retried")
        self._tell("shard_retried", shard=name, why="it was damaged, or lacked a file", worker=None)

    def shard_begun(self, shard: Shard, worker: str | None = None) -> None:
        """Somebody has begun to read a shard."""
        with self._turn:
            self._begun[shard.name] = (time.perf_counter(), worker)
        self._tell("shard_begun", shard=shard.name, worker=worker)

    def shard_retried(self, shard: Shard, why: str, worker: str) -> None:
        """A shard that was begun will be begun again, or is given up."""
        with self._turn:
            was_begun = self._begun.pop(shard.name, None) is not None
            self._counts["retried"] += was_begun
        if was_begun:
            self._tell("shard_retried", shard=shard.name, why=one_line(why), worker=worker)

    def shard_done(self, shard: Shard, result: ShardResult) -> None:
        """A shard is done."""
        num_bytes = sum(result.files.values())
        with self._turn:
            began, worker = self._begun.pop(shard.name, (None, None))
            self._counts["shards"] += 1
            self._counts["written"] += num_bytes
            self._reasons.update(result.reasons)
        self._tell(
            "shard_done",
            shard=shard.name,
            worker=worker,
            seconds=None if began is None else time.perf_counter() - began,
            rows=result.num_read,
            scored=result.num_scored,
            rejected=result.num_rejected,
            reasons=result.reasons,
            bytes_written=num_bytes,
            files=list(result.files),
        )

    def told_of(self, shards: Iterator[Shard]) -> Iterator[Shard]:
        """These shards; each has begun when it is taken."""
        for shard in shards:
            self.shard_begun(shard)
            yield shard

    # What becomes of it.

    def _count(self, what: str) -> None:
        with self._turn:
            self._counts[what] += 1

    def _tell(self, event: str, **fields: Any) -> None:
        if self._log is None:
            return
        line = {"time": utc_time(time.time()), "run": self.run, "event": event, **fields}
        with self._turn:
            if self._early is not None:
                self._early.append(line)
            else:
                self._log.write(line)

    def _flush_early(self) -> None:
        with self._turn:
            lines, self._early = self._early or [], None
            for line in lines if self._log is not None else ():
                self._log.write(line)  # type: ignore[union-attr]

    def stage_seconds(self) -> dict[str, float]:
        """Stage -> seconds of this run, of all workers together."""
        found = {"plan": self._plan_seconds} if self._plan_seconds else {}
        return found if self._step is None else {**found, **self._step.stages.totals()}

    def _tick(self) -> None:
        has_warned = False
        while not self._over.wait(METRICS_PAUSE_S):
            try:
                self._write_metrics()
            except Exception as error:  # one writing that fails ends neither the thread nor the run
                if not has_warned:
                    has_warned = True
                    notices.say(f"the metrics could not be written this time: {type(error).__name__}: {one_line(str(error))}")

    def _write_metrics(self, status: int | None = None) -> None:
        """Write the metrics; `status`: of the end."""
        if self._metrics is None:
            return
        if status in (0, 3):
            self._metrics.last_success = time.time()
        with self._turn:
            samples = self._samples(status)
        self._metrics.write(samples)

    def _samples(self, status: int | None) -> Samples:
        options, step = self._options, self._step
        found = Samples({"output": self._output, "part": "" if self._share is None else self._share.name})
        engine = options.engine if options is not None else ""
        found.add("beholder_run_info", 1, run=self.run, version=__version__, engine=engine)
        found.add("beholder_run_start_time_seconds", self._began)
        found.add("beholder_run_finished", int(status is not None))
        found.add("beholder_run_exit_status", status)
        found.add("beholder_last_success_timestamp_seconds", self._metrics.last_success if self._metrics is not None else None)
        found.add("beholder_workers", len(self._workers) or 1 if status is None else 0)
        found.add("beholder_shards_under_way", len(self._begun) if status is None else 0)
        found.add("beholder_shards_total", self._counts["shards"])
        found.add("beholder_shards_retried_total", self._counts["retried"])
        found.add("beholder_worker_deaths_total", self._counts["deaths"])
        found.add("beholder_written_bytes_total", self._counts["written"])
        for reason, count in columns.in_order(dict(self._reasons)).items():
            found.add("beholder_rejected_rows_total", count, reason=reason)
        for stage, seconds in self.stage_seconds().items():
            found.add("beholder_stage_seconds_total", seconds, stage=stage)
        if step is not None:
            tally = step.tally  # rows of a worker that died are taken back, and counters must not fall
            self._most_rows, self._most_bytes = max(self._most_rows, tally.num_new), max(self._most_bytes, tally.num_bytes)
            found.add("beholder_job_shards", self._num_shards)
            found.add("beholder_job_shards_done", self._num_before + self._counts["shards"])
            found.add("beholder_job_rows", tally.total()[0])
            found.add("beholder_job_rows_done", tally.num_done)
            waiting_for = step.waiting_for() if status is None else ""
            if waiting_for:
                found.add("beholder_waiting", 1, stage=waiting_for)
        found.add("beholder_rows_total", self._most_rows)
        found.add("beholder_read_bytes_total", self._most_bytes)
        return found

    # The record in the folder.

    def record(self, summary: RunSummary) -> dict[str, Any]:
        """JSON-ready: what this run did, how long each stage took, and on what."""
        return {
            "run": self.run,
            "part": None if self._share is None else self._share.name,
            "command": summary.verb,
            "began": utc_time(self._began),
            "ended": utc_time(time.time()),
            "seconds": time.perf_counter() - self._clock_began,
            "stage_seconds": self.stage_seconds(),
            "waited_for": summary.bottleneck or None,
            "shards_done": self._counts["shards"],
            "shards_done_before": self._num_before,
            "shards_retried": self._counts["retried"],
            "worker_deaths": self._counts["deaths"],
            "rows_new": summary.num_new,
            "rows": summary.num_read,
            "scored": summary.num_scored,
            "rejected": summary.num_rejected,
            "reasons": summary.reasons,
            "bytes_read": summary.num_bytes,
            "bytes_written": self._counts["written"],
            "beholder": __version__,
            "software": {"python": platform.python_version(), **{name: version(name) for name in _SOFTWARE}},
            "hardware": _hardware(self._device),
            "workers": self._all_workers,
        }

    def write_record(self, root: str, summary: RunSummary) -> None:
        """Write `run.json` into the folder of a run, behind what earlier runs wrote there; where that fails, a line says so.

        A run that found nothing to do leaves it as it is.
        """
        place = f"{root}/{run_file(self._share)}"
        try:
            before = _runs_in(places.read_all(place))
            if before and not self._counts["shards"]:
                return
            runs = [*before, self.record(summary)][-MOST_RUNS:]
            data = {"format": RUNS_FORMAT, "version": columns.FORMAT_VERSION, "runs": runs}
            places.put_bytes(place, records.sealed(data, indent=2))
        except BeholderError as error:
            notices.say(f"{place}, with the times that the run took, could not be written: {error}")


def run_file(share: Share | None = None) -> str:
    """The name of the record of times in a run's folder, that of a part by its number."""
    return columns.RUN_FILE if share is None else share.file_for(columns.RUN_FILE)


def is_run_file(name: str) -> bool:
    """Whether `run_file` gives this name to some run."""
    return _RUN_FILE.fullmatch(name) is not None


def _runs_in(data: bytes | None) -> list[dict[str, Any]]:
    """What earlier runs wrote; nothing where it is damaged."""
    try:
        found = records.parse(data or b"{}").get("runs")
    except DamagedRecordError:
        return []
    return found if isinstance(found, list) else []


def _hardware(device: str) -> dict[str, Any]:
    """JSON-ready: this machine, and the device that the tower ran on (of several, the first one's)."""
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cores": all_cores(),
        "memory_bytes": memory_bytes(),
        "device": device or None,
    }


def _said_of(error: BaseException) -> str:
    """What ended a run, in one line."""
    if isinstance(error, KeyboardInterrupt):
        number = error.args[0] if error.args and error.args[0] in signal.valid_signals() else signal.SIGINT
        return f"interrupted ({signal.Signals(number).name})"
    return one_line(str(error)) or type(error).__name__


def _status_of(error: BaseException | None, summary: RunSummary | None) -> int:
    """The exit status that the command ends with."""
    if error is None:
        return 0 if summary is None else summary.exit_status
    if isinstance(error, KeyboardInterrupt):  # the number of the signal, where it is known
        return 128 + next((number for number in error.args if isinstance(number, int)), 2)
    return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
