"""Numbers of processes in; which of them run, read from the system, out."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

NO_FLOCK = "import errno, fcntl\ndef refuse(*_):\n    raise OSError(errno.ENOLCK, 'No locks available')\nfcntl.flock = refuse\n"
"""To run before a command: a file system that knows no locks (some of NFS, FUSE, Lustre without the option)."""


def is_running(process_id: int) -> bool:
    """Whether it is there and more than a name in its parent's list."""
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until_gone(process_ids: list[int], seconds: float) -> None:
    """Fail unless all of them end in that time."""
    end = time.monotonic() + seconds
    while any(map(is_running, process_ids)):
        assert time.monotonic() < end, "workers outlive their pool"
        time.sleep(0.05)


def children_of(process_id: int) -> list[int]:
    """Processes that any of its threads started and that are there."""
    found = []
    for thread in Path(f"/proc/{process_id}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            found += [int(word) for word in (thread / "children").read_text().split()]
    return sorted(found)
