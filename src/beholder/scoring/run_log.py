"""The files by which a run is followed: its log and its metrics. One that cannot be written ends no run.

The log is one JSON object a line, added as things happen. The metrics are numbers in the text format of Prometheus, in a file
that is replaced whole, as node_exporter's collector reads it
(https://prometheus.io/docs/instrumenting/exposition_formats/).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from beholder.errors import BeholderError, OutputError, os_error_text, reading_failed, writing_failed
from beholder.io import locations, writing
from beholder.notices import say

_MAY_PASS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EAGAIN})
"""What is wrong with the place for now; anything else is wrong with the name that was given."""
_LINE_BYTES = 1 << 16


def utc_time(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC, with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _local_place(path: str, flag: str) -> Path:
    """The local path of a file that a flag names; nothing is made. Raises OutputError."""
    if not locations.is_local(path):
        raise OutputError(f"{flag} {path}: it is written bit by bit while the run lasts; name a file of this machine")
    writing.check_text(path)
    place = locations.local_path(path)
    if place.is_dir():
        raise OutputError(f"{flag} {path} is a folder; name a file")
    return place


class RunLog:
    """A file of lines, which are added behind those that are there.

    Args:
        path: a local file, or a device or pipe; nothing is written before `open`.

    Raises:
        OutputError: it cannot be a log: it is a file of somebody else's.
    """

    def __init__(self, path: str) -> None:
        self._path, self._place = path, _local_place(path, "--log-json")
        self._file = -1
        self._is_torn = False
        """Whether the file may end in the middle of a line."""
        self._num_lost = 0
        self._has_warned = False
        try:
            if self._place.is_file() and not _is_log(self._place):
                raise OutputError(f"--log-json {path} is there and is no log of beholder; choose another name")
        except OSError as error:
            raise reading_failed(path, error) from error

    def open(self) -> None:
        """Make the file and the folders above it. Raises OutputError: nothing may be written there."""
        try:
            self._place.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            if error.errno == errno.ENXIO:
                text = (
                    f"--log-json {self._path} is a pipe that nobody reads, or a socket; start its reader first, or name a file"
                )
                raise OutputError(text) from error
            if error.errno not in _MAY_PASS:
                raise writing_failed(self._path, error) from error
            self._warn(error)

    def _open(self) -> None:
        self._is_torn = self._is_torn or (self._place.is_file() and _is_torn(self._place))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # no run waits for a pipe's reader
        self._file = os.open(self._place, flags, 0o666)

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a line, at once. Where that fails one warning is said, and later lines are tried all the same."""
        more = {"lines_lost": self._num_lost} if self._num_lost else {}
        line = json.dumps({**record, **more}, ensure_ascii=True, default=str).encode() + b"\n"
        try:
            if self._file < 0:
                self._open()
            self._put(b"\n" + line if self._is_torn else line)
        except OSError as error:
            self._num_lost += 1
            self._warn(error)
        else:
            self._is_torn, self._num_lost = False, 0

    def _put(self, data: bytes) -> None:
        written = 0
        while written < len(data):
            try:
                written += os.write(self._file, data[written:])
            except OSError:
                self._is_torn = self._is_torn or written > 0
                raise

    def _warn(self, error: OSError) -> None:
        if self._has_warned:
            return
        self._has_warned = True  # before it is said: what is said becomes a line as well
        say(f"the log {self._path} cannot be written, and the run goes on without it: {os_error_text(error)}")

    def close(self) -> None:
        """Let go of it."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.close(self._file)
        self._file = -1


def _is_log(place: Path) -> bool:
    """Whether a file is empty, or its first line is one of a log."""
    with place.open("rb") as file:
        line = file.readline(_LINE_BYTES)
    if not line:
        return True
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):  # the first line of a run that was killed, cut off
        return line.startswith(b'{"time": "') and not line.endswith(b"\n")
    return isinstance(found, dict) and {"time", "run", "event"} <= found.keys()


def _is_torn(place: Path) -> bool:
    """Whether a file ends in the middle of a line."""
    with place.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


METRICS: dict[str, tuple[Literal["counter", "gauge"], str]] = {
    "beholder_run_info": ("gauge", "Always 1; its labels say which run this is."),
    "beholder_run_start_time_seconds": ("gauge", "When the run began, in seconds since 1970."),
    "beholder_run_finished": ("gauge", "Whether the run has ended, however it did: 1, else 0."),
    "beholder_run_exit_status": (
        "gauge",
        "Exit status of the command, once it has ended; 3: some rows were rejected.",
    ),
    "beholder_last_success_timestamp_seconds": ("gauge", "When a run with this file last ended with status 0 or 3."),
    "beholder_job_shards": ("gauge", "Shards of the job, of this part of it where it is one."),
    "beholder_job_shards_done": ("gauge", "Shards that are done, those of earlier runs among them."),
    "beholder_job_rows": ("gauge", "Rows or pictures of the job, as far as that is known or can be estimated."),
    "beholder_job_rows_done": (
        "gauge",
        "Rows or pictures that are done, by earlier runs and in unfinished shards too.",
    ),
    "beholder_workers": ("gauge", "Processes, or actors, that take shards."),
    "beholder_waiting": ("gauge", "1 for the stage that the others lately waited for."),
    "beholder_shards_under_way": ("gauge", "Shards that are begun and not done."),
    "beholder_shards_total": ("counter", "Shards done by this run."),
    "beholder_shards_retried_total": ("counter", "Shards that this run had to begin again."),
    "beholder_worker_deaths_total": ("counter", "Workers that died."),
    "beholder_rows_total": ("counter", "Rows or pictures that this run went through."),
    "beholder_rejected_rows_total": ("counter", "Rows or pictures rejected by this run, in shards that are done, by reason."),
    "beholder_read_bytes_total": ("counter", "Bytes of embeddings or pictures that this run read."),
    "beholder_written_bytes_total": ("counter", "Bytes of the files of shards that this run wrote."),
    "beholder_stage_seconds_total": ("counter", "Seconds that this run spent in each stage, of all workers together."),
}
"""Name -> type and help; in the order in which they are written."""

_LAST_SUCCESS = "beholder_last_success_timestamp_seconds"
_HEAD_BYTES, _MOST_BYTES = 64, 1 << 20


@dataclass
class Samples:
    """Values of metrics, by name and labels.

    Attributes:
        labels: that every sample has.
    """

    labels: Mapping[str, str]
    values: dict[str, list[tuple[Mapping[str, str], float]]] = field(default_factory=dict)

    def add(self, name: str, value: float | None, **labels: str) -> None:
        """Add a value; None: it is not known."""
        assert name in METRICS, name
        if value is not None:
            self.values.setdefault(name, []).append((labels, value))

    def text(self) -> str:
        """All of them in Prometheus' text format."""
        lines: list[str] = []
        for name, (kind, meaning) in METRICS.items():
            if name in self.values:
                lines += [f"# HELP {name} {_help(meaning)}", f"# TYPE {name} {kind}"]
                lines += [f"{name}{_braces({**self.labels, **own})} {_number(value)}" for own, value in self.values[name]]
        return "\n".join([*lines, ""])


def _help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _braces(labels: Mapping[str, str]) -> str:
    """Labels in braces; those without a value are as if they were not there."""
    return "{" + ",".join(f'{name}="{_label(value)}"' for name, value in labels.items() if value) + "}"


def _label(value: str) -> str:
    clean = value.encode("utf-8", "backslashreplace").decode()  # names of files may hold bytes that are no text
    return clean.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    """Whole numbers as such; times to the millisecond."""
    return str(int(value)) if value == int(value) else f"{value:.3f}"


class MetricsFile:
    """The file.

    Args:
        path: a local file; collectors want a name that ends in .prom.

    Raises:
        OutputError: no such file can be written, or somebody else's is there.
    """

    def __init__(self, path: str) -> None:
        self._path, self._has_warned = path, False
        self._place = place = _local_place(path, "--metrics")
        self.last_success: float | None = None
        """When a run before this one ended well, as the file says that is there."""
        if not place.exists():
            return
        if not place.is_file():
            raise OutputError(f"--metrics {path} is no plain file, and it is replaced whole each time; name another one")
        try:
            with place.open("rb") as file:
                data = file.read(_MOST_BYTES)
        except OSError as error:
            raise reading_failed(path, error) from error
        if data.strip() and not data[:_HEAD_BYTES].startswith(b"# HELP beholder_"):
            raise OutputError(f"--metrics {path} is there and holds no metrics of beholder; choose another name")
        found = re.search(rf"^{_LAST_SUCCESS}\{{[^\n]*\}} ([0-9.]+)$".encode(), data, re.MULTILINE)
        self.last_success = float(found[1]) if found else None

    def open(self) -> None:
        """Make the folders above it. Raises OutputError: nothing may be written there."""
        try:
            self._place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise writing_failed(self._path, error) from error
        if not os.access(self._place.parent, os.W_OK):
            raise writing_failed(self._path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))

    def write(self, samples: Samples) -> None:
        """Replace the file. Where that fails one warning is said, and it is tried again the next time."""
        try:
            writing.write_bytes(self._path, samples.text().encode())
        except BeholderError as error:
            if self._has_warned:
                return
            self._has_warned = True
            say(f"the metrics cannot be written, and the run goes on without them: {error}")
