"""Bytes in; a bound that the system sets on what this process may take beyond what it has now, for a while or for good.

It counts private memory that can be written to (RLIMIT_DATA, Linux 4.7 and newer); mapped files and address space that is
only set aside are free. What would go beyond it fails where it is asked for: MemoryError, or what a library makes of that.
"""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

_LEAST_BYTES = 1 << 30
_SHARE = 0.8
_lock = threading.Lock()
_num_inside = 0
_before: tuple[int, int] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def _used() -> int | None:
    """Bytes that count now; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
    except (OSError, ValueError, IndexError):
        return None
    return pages * resource.getpagesize()


def limit_for_good(num_bytes: int) -> None:
    """Allow this process `num_bytes` beyond what it has now. Nothing happens where the system does not tell what that is."""
    used = _used()
    if used is not None:
        hard = _smaller(used + num_bytes, resource.getrlimit(resource.RLIMIT_DATA)[1])
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


@contextlib.contextmanager
def within_free_memory() -> Iterator[None]:
    """Inside, this process may not take much more than the machine has free, so that a mistake ends in MemoryError.

    The bound is a share of the free memory, at least 1 GiB; that of whoever is inside first holds for all threads until the
    last one is out.
    """
    global _before, _num_inside
    with _lock:
        _num_inside += 1
        used = _used() if _num_inside == 1 else None
        if _num_inside == 1:
            _before = resource.getrlimit(resource.RLIMIT_DATA)
        if used is not None:
            wanted = used + max(_LEAST_BYTES, int(_SHARE * free_bytes()))
            resource.setrlimit(resource.RLIMIT_DATA, (_smaller(wanted, _before[0]), _before[1]))
    try:
        yield
    finally:
        with _lock:
            _num_inside -= 1
            if not _num_inside:
                resource.setrlimit(resource.RLIMIT_DATA, _before)


def free_bytes() -> int:
    """Memory that this process could still get: of the machine, and of the control group (version 2) that it is in."""
    found = [os.sysconf("SC_AVPHYS_PAGES") * resource.getpagesize()]
    with contextlib.suppress(OSError, ValueError, LookupError):
        found = [_numbers_of(Path("/proc/meminfo"))["MemAvailable"] * 1024]
    with contextlib.suppress(OSError, ValueError, LookupError):  # no such group, or no limit ("max")
        group = Path("/sys/fs/cgroup")
        taken = int((group / "memory.current").read_text(encoding="ascii")) - _numbers_of(group / "memory.stat")["file"]
        found.append(max(0, int((group / "memory.max").read_text(encoding="ascii")) - taken))
    return min(found)


def _numbers_of(path: Path) -> dict[str, int]:
    """Lines `name: number ...` or `name number`."""
    lines = (line.replace(":", " ").split() for line in path.read_text(encoding="ascii").splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def _smaller(one: int, other: int) -> int:
    return one if other == resource.RLIM_INFINITY else min(one, other)
