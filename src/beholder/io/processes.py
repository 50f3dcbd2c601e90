"""Which machine this is, what it has, and which processes run on it."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

MOST_PID = 1 << 31
"""Numbers of processes are below it."""


def this_machine() -> str:
    """Names this machine since it was started, and the processes that can be seen from here; "" where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 (no path)
    except OSError:
        return ""


def name_of_machine() -> str:
    """Tells this machine from others that share a disk with it: `this_machine`, or its host name where that is not known."""
    return this_machine() or socket.gethostname()


def memory_bytes() -> int | None:
    """The main memory of this machine; None where the system does not say."""
    with contextlib.suppress(ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def started(pid: int) -> int | None:
    """When a process began, in the system's ticks; 0 where there is none (any more), None where there is one that is hidden."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # where processes of others are hidden (hidepid), they can be told from those that are gone by a signal
        return None if is_running(pid) else 0
    return 0 if words[0] in ("Z", "X") else int(words[19])


def is_running(pid: int) -> bool:
    """Whether there is such a process on this machine."""
    if not 0 < pid < MOST_PID:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
