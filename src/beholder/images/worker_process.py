"""Settings in, one decode worker process out, as the pool sees it: started, fed, heard, ended, and its last words read."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic

import beholder
from beholder.errors import BeholderError
from beholder.images.messages import Reply, Request, pack_requests, take_frames, unpack_replies
from beholder.images.picture import PixelOptions
from beholder.images.shared_slots import anonymous_file

_RECEIVE_BYTES = 1 << 18
_MOST_STDERR_BYTES = 1 << 20
_END_S = 30.0
_START = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "import json, sys; config = json.loads(sys.argv[1]); sys.path[:] = config['path']\n"
    "from beholder.images.worker import main; main(config)"
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
DEFAULT_DECODER = "beholder.images.decode:prepare"


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What every worker of a pool is started with.

    Attributes:
        options: which pixels.
        timeout_s: for one picture, reading and decoding.
        max_bytes: of one picture.
        memory_bytes: address space a worker may use beyond what it starts with; 0: no limit. Linux only.
        num_readers: URLs that one worker reads at the same time.
        nice: added to the workers' niceness.
        decoder: "package.module:function" of type `picture.Prepare`.
    """

    options: PixelOptions
    timeout_s: float
    max_bytes: int
    memory_bytes: int
    num_readers: int
    nice: int
    decoder: str


class WorkerProcess:
    """A running worker. Everything here is called by the pool's dispatching thread only."""

    def __init__(self, number: int, settings: WorkerSettings, places: Mapping[str, int]) -> None:
        """Start it. `places`: the descriptors "slots" and "spool", and the sizes "num_slots" and "num_workers"."""
        self.number = number
        self.said_hello = False
        self.heard = monotonic()
        """When it last sent something, or was given something while it had nothing to do."""
        self._outgoing = bytearray()
        self._incoming = bytearray()
        self._stderr = anonymous_file("beholder-stderr")
        fcntl.fcntl(self._stderr, fcntl.F_SETFL, fcntl.fcntl(self._stderr, fcntl.F_GETFL) | os.O_APPEND)
        self.socket, theirs = socket.socketpair()
        self.socket.setblocking(False)
        config = {
            **asdict(settings), "path": _module_path(), "number": number, "parent": os.getpid(), "socket": theirs.fileno(),
            "prepare": settings.decoder, **places,
        }  # fmt: skip
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, json.dumps(config)],
                stdin=subprocess.DEVNULL, stdout=self._stderr, stderr=self._stderr, start_new_session=True,
                env={**_MALLOC, **os.environ, **_ONE_THREAD}, pass_fds=(theirs.fileno(), places["slots"], places["spool"]),
            )  # fmt: skip
        except (OSError, ValueError) as error:
            self.socket.close()
            os.close(self._stderr)
            raise BeholderError(f"a decode worker cannot be started ({error}); use fewer workers, or none (0)") from error
        finally:
            theirs.close()

    @property
    def process_id(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def has_outgoing(self) -> bool:
        """Whether requests wait for room in the socket."""
        return bool(self._outgoing)

    def send(self, requests: list[Request]) -> None:
        """Queue requests and send what the socket takes."""
        self._outgoing += pack_requests(requests)
        self.push()

    def push(self) -> None:
        """Send what the socket takes of what is queued. A dead worker is noticed by `receive`, not here."""
        try:
            while self._outgoing:
                del self._outgoing[: self.socket.send(self._outgoing)]
        except BlockingIOError:
            pass
        except OSError:
            self._outgoing.clear()

    def receive(self) -> list[Reply] | None:
        """Replies that have come; None when the worker is gone and nothing is left."""
        try:
            data = self.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        self.heard = monotonic()
        self._incoming += data
        return [reply for body in take_frames(self._incoming) for reply in unpack_replies(body)]

    def end(self) -> tuple[list[Reply], int | None]:
        """Kill it, wait for its end, and give its last whole replies and its exit status (negative: the signal)."""
        with contextlib.suppress(OSError):
            self._process.kill()
        status: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):  # in uninterruptible sleep on a dead file system
            status = self._process.wait(_END_S)
        replies: list[Reply] = []
        while found := self.receive():
            replies += found
        return replies, status

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
        """Free descriptors; after `end`."""
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


def package_file() -> str:
    """Path of the package that this process runs; a worker must run the same."""
    return str(beholder.__file__)


def _module_path() -> list[str]:
    """Where a worker looks for modules: as this process does, and surely where this package is."""
    home = str(Path(package_file()).resolve().parents[1])
    found = [entry for entry in sys.path if isinstance(entry, str)]
    return found if home in found else [*found, home]
