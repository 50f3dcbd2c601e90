"""Memory of a process and all that it starts, read from /proc while a command runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_EVERY_S = 0.02


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: its exit status; None if it was stopped because it took too much memory or time.
        rss_mib, anon_mib: peak of VmRSS (with the pages of mapped files) and of RssAnon (its own), summed over all processes.
        seconds: how long it ran.
        stderr: what it wrote there.
    """

    status: int | None
    rss_mib: int
    anon_mib: int
    seconds: float
    stderr: str


def tree(pid: int) -> list[int]:
    """A process and all that it has started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except OSError:
        return []
    return [pid, *(one for child in children for one in tree(int(child)))]


def memory_of(pid: int) -> dict[str, int]:
    """VmRSS and RssAnon of a process tree, in KiB."""
    found = {"VmRSS": 0, "RssAnon": 0}
    for one in tree(pid):
        try:
            lines = Path(f"/proc/{one}/status").read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(":")
            if name in found:
                found[name] += int(value.split()[0])
    return found


def watched(
    command: Sequence[str], *, most_mib: int | None = None, most_s: float | None = None, env: Mapping[str, str] | None = None
) -> Ended:
    """Run a command and watch its memory every 20 ms; it is killed beyond `most_mib` of RSS or `most_s` seconds."""
    started = time.perf_counter()
    errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed below)
    running = subprocess.Popen(
        command, env=dict(env or os.environ), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
        start_new_session=True,
    )  # fmt: skip
    most = {"VmRSS": 0, "RssAnon": 0}
    is_stopped = False
    while running.poll() is None:
        now = memory_of(running.pid)
        most = {name: max(most[name], now[name] >> 10) for name in most}
        is_late = most_s is not None and time.perf_counter() - started > most_s
        if is_late or (most_mib is not None and most["VmRSS"] > most_mib):
            is_stopped = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
        time.sleep(_EVERY_S)
    seconds = time.perf_counter() - started
    with errors:
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    return Ended(None if is_stopped else running.returncode, most["VmRSS"], most["RssAnon"], seconds, said)
