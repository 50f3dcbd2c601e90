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
from pathlib import Path
from typing import Any

import beholder
from beholder.errors import BeholderError
from beholder.images.shared_slots import anonymous_file
from beholder.streams import above_standard

START_S = 120.0
"""A worker that is not up by then counts as dead."""
START_PAUSE_S = 0.1
"""Times the number of failures in a row: the pause before another worker is started."""
MOST_STARTS = 4
"""So many failures in a row, of workers none of which ever came up, and no more are started."""
ALARM = "SIGALRM"
"""How a worker ends that ended itself, its time being up."""
MOST_TRIES = 2
"""A picture that so many workers died of is to blame; once, a worker may also have been ended from outside."""

_MOST_STDERR_BYTES = 1 << 20
_END_S = 30.0
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

    def stop(self) -> int | None:
        """Kill it, wait for its end, and give its exit status (negative: the signal; None: it cannot be ended)."""
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # in uninterruptible sleep on a dead file system
            return self._process.wait(_END_S)
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


def crash_text(num_deaths: int, how: str, words: str) -> str:
    """What is said of a picture that ended its worker so many times, the last time like that."""
    return f"the decoder crashed on it, {num_deaths} times ({how}{'; ' + words if words else ''})"


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
