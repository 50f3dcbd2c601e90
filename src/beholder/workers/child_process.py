"""A module and its settings in, a fresh interpreter that runs it out, as its parent sees it: its socket, end and last words."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import beholder
from beholder.errors import BeholderError
from beholder.streams import above_standard
from beholder.workers.shared_slots import anonymous_file

START_S = 120.0
"""A worker that is not up by then counts as dead."""
START_PAUSE_S = 0.1
"""Times the number of failures in a row: the pause before another worker is started."""
MOST_STARTS = 4
"""So many failures in a row, of workers none of which ever came up, and no more are started."""
_MOST_CRASHES = 2
"""A picture that so many workers crashed over is to blame. It is tried again alone: the fault may have been another's."""
_MOST_KILLS = 5
"""As many for workers that ended as something else ends them (the system when memory runs out, a person, a batch system)."""
_CRASH_SIGNALS = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGSYS, signal.SIGTRAP}
)
_MOST_STDERR_BYTES = 1 << 20
END_S = 30.0
"""A worker that was killed and is not gone by then is left alone: it will not run again."""
_START = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "import importlib, json, sys; config = json.loads(sys.argv[1]); sys.path[:] = config['path']\n"
    "importlib.import_module(config['module']).main(config)"
)
_ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS",
    ),
    "1",
)  # fmt: skip
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(128 << 20)}
"""glibc keeps up to 128 MiB of freed memory for the next picture: 12-megapixel JPEGs take a quarter less."""


class ChildProcess:
    """An interpreter that runs a module of ours, and the socket to it. One thread at a time may use it."""

    def __init__(self, module: str, config: Mapping[str, Any], handles: Sequence[int] = ()) -> None:
        """Start it; nothing of this program is imported there or forked. The thread that calls this must outlive it.

        Args:
            module: its `main` is called with `config` and what `worker_setup.set_up_process` needs.
            config: JSON-ready.
            handles: descriptors that it inherits.

        Raises:
            OSError, ValueError: it cannot be started.
        """
        self._stderr = anonymous_file("beholder-stderr")
        fcntl.fcntl(self._stderr, fcntl.F_SETFL, fcntl.fcntl(self._stderr, fcntl.F_GETFL) | os.O_APPEND)
        self.socket, theirs = socket.socketpair()
        theirs = socket.socket(fileno=above_standard(theirs.detach()))
        whole = {**config, "module": module, "path": _module_path(), "parent": os.getpid(), "socket": theirs.fileno()}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, json.dumps(whole)],
                stdin=subprocess.DEVNULL, stdout=self._stderr, stderr=self._stderr, start_new_session=True,
                env={**_MALLOC, **os.environ, **_ONE_THREAD}, pass_fds=(theirs.fileno(), *handles),
            )  # fmt: skip
        except BaseException:
            self.close()
            raise
        finally:
            theirs.close()

    @property
    def process_id(self) -> int:
        """Of the process."""
        return self._process.pid

    def kill(self) -> None:
        """Kill it; any thread may do that. Whoever uses it sees the socket end."""
        with contextlib.suppress(OSError):
            self._process.kill()

    @property
    def has_ended(self) -> bool:
        """Whether it is no more; any other program may still hold its socket open."""
        return self._process.poll() is not None

    def stop(self, patience_s: float = END_S) -> int | None:
        """Kill it, wait for its end, and give its exit status (negative: the signal; None: it cannot be ended)."""
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # in uninterruptible sleep on a dead file system
            return self._process.wait(patience_s)
        return None

    def last_words(self) -> str:
        """Last line of its error output, or ""."""
        size = os.fstat(self._stderr).st_size
        text = os.pread(self._stderr, 4096, max(size - 4096, 0)).decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""

    def trim(self) -> None:
        """Drop its error output when libraries have written too much of it."""
        if os.fstat(self._stderr).st_size > _MOST_STDERR_BYTES:
            os.ftruncate(self._stderr, 0)

    def close(self) -> None:
        """Free descriptors; after `stop`."""
        self.socket.close()
        os.close(self._stderr)


def status_text(status: int | None) -> str:
    """An exit status in words: the signal's name, or the number."""
    if status is None:
        return "it cannot be ended"
    if status < 0:
        try:
            return signal.Signals(-status).name
        except ValueError:
            return f"signal {-status}"
    return f"exit status {status}"


def is_crash(status: int | None) -> bool:
    """Whether a process with this exit status (negative: the signal) may have ended through what it did itself."""
    return status is None or status >= 0 or -status in _CRASH_SIGNALS


@dataclass(slots=True)
class Deaths:
    """How many workers ended while they had one picture at hand, and whether it is to blame for that."""

    num_crashes: int = 0
    num_kills: int = 0

    def add(self, status: int | None, words: str, *, crashed: bool = False) -> str | None:
        """Count a death: what is said of the picture that is to blame; None: it is to be tried again, alone in a worker.

        Args:
            status: exit status (negative: the signal; None: it cannot be ended).
            words: the last line that the worker wrote, or "".
            crashed: count it as a crash, however it ended.
        """
        if crashed or is_crash(status):
            self.num_crashes += 1
        else:
            self.num_kills += 1
        how = f"{status_text(status)}{'; ' + words if words else ''}"
        if self.num_crashes == _MOST_CRASHES:
            return f"the decoder crashed on it, {self.num_crashes} times ({how})"
        if self.num_kills == _MOST_KILLS:
            return f"decode workers were killed over it, {self.num_kills} times ({how}); did memory run out?"
        return None


def check_package(path: str) -> None:
    """Refuse a worker that runs another beholder than this process. Raises BeholderError."""
    here = str(beholder.__file__)
    if os.path.realpath(path) != os.path.realpath(here):
        raise BeholderError(f"a decode worker runs another beholder ({path}) than this one ({here})")


def _module_path() -> list[str]:
    """Where a worker looks for modules: as this process does, and surely where this package is."""
    home = str(Path(str(beholder.__file__)).resolve().parents[1])
    found = [entry for entry in sys.path if isinstance(entry, str)]
    return found if home in found else [*found, home]
