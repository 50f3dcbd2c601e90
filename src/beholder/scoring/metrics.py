"""Numbers of a run in the text format of Prometheus, in a file that is replaced whole, as node_exporter's collector reads it.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from beholder.errors import BeholderError, OutputError, reading_failed, writing_failed
from beholder.io import writing
from beholder.notices import say
from beholder.scoring.run_log import local_place

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
        self._place = place = local_place(path, "--metrics")
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
