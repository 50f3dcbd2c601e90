"""A fresh interpreter that runs a module of ours: as its parent sees it, and what it does before and around its work."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import beholder
from beholder.errors import BeholderError
from beholder.pixels.picture import PictureError
from beholder.pixels.sniff import sniff, stored_size
from beholder.streams import above_standard

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

GRACE_S = 5.0
"""Past the time limit; then the system itself ends the worker, should its parent be gone or stopped."""
_STEPS_BACK = 5
"""Of priority: where cores are short, a worker gets a third of what the process that it works for gets."""
_LEAST_MEMORY_BYTES = 4 << 30
_MEMORY_PER_PIXEL_BYTES = 32
_MEMORY_PER_PICTURE_BYTES = 1 << 30
BEAT_S = 0.1
_LATE_S = 0.2
"""A beat that comes so much late was held up; a little lateness is how computers are."""


def anonymous_file(name: str) -> int:
    """Descriptor of a file without a name that lives in memory (or, where the system has none such, on the disk).

    It is none of 0 to 2, even where those are closed: a child process that inherits it has its standard streams there.
    """
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):  # refused by some sandboxes
            return above_standard(os.memfd_create(name, os.MFD_CLOEXEC))
    handle, path = tempfile.mkstemp(prefix=f"{name}-")
    os.unlink(path)  # noqa: PTH108
    return above_standard(handle)


class ChildProcess:
    """An interpreter that runs a module of ours, and the socket to it. One thread at a time may use it."""

    def __init__(
        self, module: str, config: Mapping[str, Any], handles: Sequence[int] = (), *, single_threaded: bool = True
    ) -> None:
        """Start it; nothing of this program is imported there or forked. The thread that calls this must outlive it.

        Args:
            module: its `main` is called with `config` and what `set_up_process` needs.
            config: JSON-ready.
            handles: descriptors that it inherits.
            single_threaded: whether libraries there use one thread, so that many workers do not get in each other's way.

        Raises:
            OSError, ValueError: it cannot be started.
        """
        with contextlib.ExitStack() as opened:  # closed again where it cannot be started
            self._stderr = anonymous_file("beholder-stderr")
            opened.callback(os.close, self._stderr)
            fcntl.fcntl(self._stderr, fcntl.F_SETFL, fcntl.fcntl(self._stderr, fcntl.F_GETFL) | os.O_APPEND)
            self.socket, theirs = socket.socketpair()
            opened.callback(self.socket.close)
            with socket.socket(fileno=above_standard(theirs.detach())) as theirs:
                whole = {**config, "module": module, "path": _module_path(), "parent": os.getpid(), "socket": theirs.fileno()}
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _START, json.dumps(whole)],
                    stdin=subprocess.DEVNULL, stdout=self._stderr, stderr=self._stderr, start_new_session=True,
                    env={**_MALLOC, **os.environ, **(_ONE_THREAD if single_threaded else {})},
                    pass_fds=(theirs.fileno(), *handles),
                )  # fmt: skip
            opened.pop_all()

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

    def stderr_tail(self) -> str:
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

    def add(self, status: int | None, stderr_tail: str, *, crashed: bool = False) -> str | None:
        """Count a death: what is said of the picture that is to blame; None: it is to be tried again, alone in a worker.

        Args:
            status: exit status (negative: the signal; None: it cannot be ended).
            stderr_tail: the last line that the worker wrote, or "".
            crashed: count it as a crash, however it ended.
        """
        if crashed or is_crash(status):
            self.num_crashes += 1
        else:
            self.num_kills += 1
        how = "; ".join(filter(None, (status_text(status), stderr_tail)))
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


def memory_for(max_pixels: int) -> int:
    """Bytes that a worker may use for a picture of so many pixels beyond what it starts with."""
    return max(_LEAST_MEMORY_BYTES, _MEMORY_PER_PIXEL_BYTES * max_pixels)


def set_up_process(parent: int) -> None:
    """End with the parent, and be the first to go when memory runs out.

    Args:
        parent: its process id; the worker ends when the thread there that started it does.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    if sys.platform.startswith("linux"):
        die_with_thread = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(die_with_thread, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it ended before that
        os._exit(0)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write("500")


def stand_back() -> None:
    """Leave cores first to the process that feeds the device, which waits for few milliseconds of them and has all wait.

    A lower priority, and no claim to a core at once on waking; with nobody else there it costs nothing.
    """
    with contextlib.suppress(OSError, AttributeError):  # (both are Linux's, and may be forbidden)
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with contextlib.suppress(OSError):
        os.nice(_STEPS_BACK)


class MemoryLimit:
    """How much address space this process may use; more gives MemoryError. Linux only.

    All pictures together: `limit_bytes` beyond what is in use now (0: any). Each picture: 1 GiB, and 32 bytes for each of its
    own pixels, beyond what is in use when it is begun: a file that says it is small cannot take what the largest may.
    """

    def __init__(self, limit_bytes: int) -> None:
        import resource

        self._resource = resource
        self._most = self._now = 0
        self._worn_bytes = 0
        used = self._used()
        if limit_bytes and used:
            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            self._most = used + limit_bytes if hard == resource.RLIM_INFINITY else min(used + limit_bytes, hard)
            self._worn_bytes = used + (self._most - used) // 2
            self._set(self._most)

    @property
    def is_worn(self) -> bool:
        """Whether half of what all pictures may take was never given back."""
        return bool(self._most) and self._used() > self._worn_bytes

    def begin(self, data: bytes) -> None:
        """Allow what the picture of these bytes may take; of one whose header tells no size, what all may."""
        if not self._most:
            return
        size = None
        with contextlib.suppress(PictureError):
            size = stored_size(data, sniff(data))
        used = self._used()
        if size is None or not used:
            self.lift()
            return
        own = _MEMORY_PER_PICTURE_BYTES + _MEMORY_PER_PIXEL_BYTES * size[0] * size[1]
        self._set(min(used + own, self._most))

    def lift(self) -> None:
        """Allow what all pictures may take."""
        if self._now != self._most:
            self._set(self._most)

    def _used(self) -> int:
        """Bytes of address space in use; 0 where that cannot be told."""
        with contextlib.suppress(OSError, ValueError), open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read().split()[0]) * self._resource.getpagesize()
        return 0

    def _set(self, limit: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._resource.setrlimit(self._resource.RLIMIT_AS, (limit, self._resource.getrlimit(self._resource.RLIMIT_AS)[1]))
            self._now = limit


class Pulse:
    """Told about every BEAT_S that the process is awake, it knows how long it was not.

    It was not when it was stopped or frozen, when one thread held the interpreter, and when no core was free for long.
    """

    def __init__(self) -> None:
        self._state = (monotonic(), 0.0)
        """When it was told last; seconds lost so far. One value, so that other threads see both or neither change."""

    @property
    def lost_s(self) -> float:
        """Seconds in which this process stood still so far, a stretch that is not over included."""
        last, lost_s = self._state
        late = monotonic() - last - BEAT_S
        return lost_s + (late if late > _LATE_S else 0.0)

    def now(self) -> float:
        """`time.monotonic()` without the time lost."""
        return monotonic() - self.lost_s

    def beat(self) -> None:
        """The process is awake."""
        lost_s = self.lost_s
        self._state = (monotonic(), lost_s)

    def start_thread(self) -> None:
        """Have a thread do that until the process ends."""
        threading.Thread(target=self._beat_on, name="beholder-pulse", daemon=True).start()

    def _beat_on(self) -> None:
        while True:
            time.sleep(BEAT_S)
            self.beat()
