"""A worker process: it makes pixels, or thumbnails, of the pictures that a pool asks for over a socket."""

from __future__ import annotations

import collections
import contextlib
import importlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar

import beholder
from beholder.columns import PictureReason
from beholder.errors import kind_and_text
from beholder.io import locations
from beholder.pixels.picture import PictureError, PixelOptions
from beholder.sources.fetch import OpenArchives, ReadLimits, load_client, read_bytes
from beholder.sources.reader import PictureRef, contents_digest
from beholder.workers.child_process import GRACE_S, MemoryLimit, Pulse, set_up_process, stand_back
from beholder.workers.protocol import (
    HELLO,
    RECEIVE_BYTES,
    Reply,
    Request,
    SharedSlots,
    Spool,
    WorkerOptions,
    frame,
    pack_reply,
    take_frames,
    unpack_requests,
)  # fmt: skip

_LOOK_S = 0.025
"""How long a worker that has work looks away from its socket, and keeps replies to itself."""
_MOST_KEPT_REPLIES = 32
_ORPHAN_CHECK_MS = 2000
_STALL_S = 0.5
"""A read that timed out is done again when the process stood still for longer than that meanwhile, up to so many times:"""
_MOST_STALLED_READS = 3


Made = TypeVar("Made")


def function_of(name: str) -> Any:
    """The function behind "package.module:function"."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def attempt(reply: Reply, ref: PictureRef, read: Callable[[], bytes], decode: Callable[[bytes], Made]) -> Made | None:
    """Read a picture and decode it, unless its contents are known; what comes of it is noted in `reply`."""
    try:
        data = read()
        reply.num_bytes = len(data)
        if ref.is_file:
            reply.digest = contents_digest(data)
            reply.are_known = reply.digest == ref.known
        return None if reply.are_known else decode(data)
    except PictureError as error:
        reply.reason, reply.message = error.reason, str(error)
    except MemoryError:
        reply.reason, reply.message = PictureReason.TOO_LARGE, "decoding needs more memory than it may use"
    except Exception as error:  # a fault of the decoder costs the picture, not the run
        reply.reason, reply.message = PictureReason.CRASHED, f"the decoder failed: {kind_and_text(error)}"
    return None


@dataclass
class _Job:
    """A request on its way: its bytes once they were read, or why they could not be."""

    request: Request
    data: bytes | None = None
    error: PictureError | None = None
    reading_since: float | None = None
    read_s: float = 0.0

    @property
    def ref(self) -> PictureRef:
        """Where its bytes are, if they are not sent along."""
        return PictureRef(
            path=self.request.path, offset=self.request.offset, length=self.request.length, known=self.request.known
        )


def main(config: dict[str, Any]) -> None:
    """Serve until the pool closes its end of the socket; never returns."""
    set_up_process(config["parent"])
    if config["options"]["stands_back"]:
        stand_back()
    pixels = config["options"]["pixels"]
    if config["options"]["decoder"].startswith("beholder.") and not (pixels and pixels["transform"]):
        # numba looks for SciPy's BLAS, which no kernel of ours uses: half of the time that a worker takes to start.
        sys.modules["scipy"] = None  # type: ignore[assignment]
    _Worker(config).serve()


class _RemoteReads:
    """Reads URLs ahead in threads, several at a time; what was read is put on a list and rings a bell.

    Time in which this process stood still (stopped, or a decoder held the interpreter) is no server's fault: it is not counted.
    """

    def __init__(self, limits: ReadLimits, num_readers: int) -> None:
        self.pending: dict[int, _Job] = {}
        self._pulse = Pulse()
        self._pulse.start_thread()
        self.finished: collections.deque[_Job] = collections.deque()
        self.bell, self._ring = os.pipe()
        os.set_blocking(self.bell, False)
        os.set_blocking(self._ring, False)
        self._limits = limits
        self._num_readers = num_readers
        self._num_stuck = 0
        self._threads = ThreadPoolExecutor(num_readers, thread_name_prefix="beholder-read")

    def start(self, job: _Job) -> None:
        """Have the bytes of a job read."""
        self.pending[job.request.ticket] = job
        self._threads.submit(self._read, job)

    def _read(self, job: _Job) -> None:
        ref = job.ref
        load_client(ref.path)
        for tries_left in reversed(range(_MOST_STALLED_READS)):
            job.reading_since = since = self._pulse.now()
            job.error, lost_before = None, self._pulse.lost_s
            try:
                job.data = read_bytes(ref, self._limits)
            except PictureError as error:
                job.error = error
                stalled = error.reason == PictureReason.TIMED_OUT and self._pulse.lost_s - lost_before > _STALL_S
                if stalled and tries_left:
                    continue
            break
        job.read_s = self._pulse.now() - since
        self.finished.append(job)
        with contextlib.suppress(BlockingIOError):
            os.write(self._ring, b"x")

    def take(self) -> list[_Job]:
        """Jobs that were read since the last call, or whose reading took too long."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.bell, 4096)
        done = []
        while self.finished:
            job = self.finished.popleft()
            if self.pending.pop(job.request.ticket, None) is not None:
                done.append(job)
        return done

    def give_up_overdue(self) -> list[_Job]:
        """Jobs whose reading hangs beyond the limit; their threads are lost, and too many lost ones end the worker."""
        latest = self._pulse.now() - self._limits.timeout_s - 1.0
        overdue = [job for job in self.pending.values() if job.reading_since is not None and job.reading_since < latest]
        given_up = []
        for job in overdue:
            del self.pending[job.request.ticket]
            self._num_stuck += 1
            text = f"{job.request.path}: no whole answer within {self._limits.timeout_s:g} s"
            given_up.append(_Job(job.request, error=PictureError(PictureReason.TIMED_OUT, text)))
        return given_up

    @property
    def is_stuck(self) -> bool:
        """Whether half of the threads hang."""
        return 2 * self._num_stuck >= self._num_readers


class _Worker:
    """State of the worker process."""

    def __init__(self, config: dict[str, Any]) -> None:
        options = dict(config["options"])
        pixels = options.pop("pixels")
        self._options = WorkerOptions(**options, pixels=None if pixels is None else PixelOptions(**pixels))
        self._number: int = config["number"]
        self._parent: int = config["parent"]
        self._function = function_of(self._options.decoder)
        if self._options.pixels is not None and self._options.pixels.transform:
            from beholder.pixels.library import get_ready

            get_ready(self._options.pixels)  # before memory is limited and a picture's time runs
        self._limits = ReadLimits(max_bytes=self._options.max_bytes, timeout_s=self._options.timeout_s)
        self._socket = socket.socket(fileno=config["socket"])
        self._socket.setblocking(True)
        self._spool = Spool(config["spool"])
        size_px = 0 if self._options.pixels is None else self._options.pixels.size_px
        self._slots = SharedSlots(
            config["slots"], num_workers=config["num_workers"], num_slots=config["num_slots"], size_px=size_px
        )
        self._archives = OpenArchives()
        self._incoming = bytearray()
        self._ready: collections.deque[_Job] = collections.deque()
        self._remote: _RemoteReads | None = None
        self._replies: list[bytes] = []
        self._flushed = self._looked = monotonic()
        self._read_s = self._decode_s = self._idle_s = 0.0
        self._memory = MemoryLimit(self._options.memory_bytes)

    def serve(self) -> None:
        """Make pictures until the pool is gone."""
        self._replies.append(pack_reply(Reply(HELLO, message=str(beholder.__file__))))
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        while True:
            if not self._ready:
                self._flush()
                self._wait()
            elif monotonic() - self._looked > _LOOK_S:
                self._look()
            while self._ready:
                self._make(self._ready.popleft())
                now = monotonic()
                if now - self._flushed > _LOOK_S or len(self._replies) >= _MOST_KEPT_REPLIES:
                    self._flush()
                if now - self._looked > _LOOK_S:
                    break

    def _look(self, patience_ms: int = 0) -> None:
        """Take what has come meanwhile; wait for it only so long."""
        for handle, _ in self._poll.poll(patience_ms):
            if handle == self._socket.fileno():  # the other one is the bell: nothing to receive then
                self._receive()
        self._take_read()

    def _wait(self) -> None:
        """Wait for requests or for bytes from servers."""
        began = monotonic()
        reading = self._remote is not None and bool(self._remote.pending)
        self._look(_ORPHAN_CHECK_MS)
        if os.getppid() != self._parent:
            os._exit(0)
        spent = monotonic() - began
        self._read_s += spent if reading else 0.0
        self._idle_s += 0.0 if reading else spent
        self._slots.spend(self._number, self._read_s, self._decode_s, self._idle_s)

    def _take_read(self) -> None:
        self._looked = monotonic()
        if self._remote is None:
            return
        self._ready.extend(self._remote.take())
        if overdue := self._remote.give_up_overdue():
            for job in overdue:
                self._make(job)
            self._flush()
            if self._remote.is_stuck:
                os._exit(0)  # the pool starts another worker, which redoes what was queued here

    def _receive(self) -> None:
        """Read what is in the socket and queue the requests of every whole frame; the rest of one is never waited for."""
        try:
            while len(data := self._socket.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)) == RECEIVE_BYTES:
                self._incoming += data
        except BlockingIOError:
            pass
        except ConnectionError:
            os._exit(0)
        else:
            if not data:
                os._exit(0)
            self._incoming += data
        for body in take_frames(self._incoming):
            for request in unpack_requests(body):
                self._queue(_Job(request, data=request.data))

    def _queue(self, job: _Job) -> None:
        path = job.request.path
        if path is None or locations.is_local(path):
            self._ready.append(job)
            return
        self._memory.lift()  # several are read at once, beside the one that is decoded
        if self._remote is None:
            self._remote = _RemoteReads(self._limits, self._options.num_readers)
            self._poll.register(self._remote.bell, select.POLLIN)
        self._remote.start(job)

    def _read(self, job: _Job) -> bytes:
        """The bytes of a job, from wherever they are."""
        if job.error is not None:
            raise job.error
        if job.data is not None:
            return job.data
        began = monotonic()
        try:
            if job.request.spooled is not None:
                return self._spool.get(*job.request.spooled)
            return read_bytes(job.ref, self._limits, self._archives)
        except EOFError:
            text = "the bytes of this picture did not reach the decode worker"
            raise PictureError(PictureReason.UNREADABLE, text) from None
        finally:
            self._read_s += monotonic() - began

    def _make(self, job: _Job) -> None:
        """Read, decode, put the pixels into the slot, and note the reply."""
        request, reply = job.request, Reply(job.request.ticket)
        began, read_s = monotonic(), self._read_s
        self._slots.begin(self._number, began - job.read_s, request.ticket)
        left_s = self._options.timeout_s - request.spent_s - job.read_s
        signal.setitimer(signal.ITIMER_REAL, max(left_s, 0.0) + GRACE_S)
        attempt(reply, job.ref, lambda: self._read(job), lambda data: self._decode(data, request, reply))
        # What happens to the worker from here on is not this picture's doing.
        self._slots.begin(self._number, monotonic(), 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._replies.append(pack_reply(reply))
        self._decode_s += monotonic() - began - (self._read_s - read_s)
        self._slots.spend(self._number, self._read_s, self._decode_s, self._idle_s)
        if reply.reason == PictureReason.TOO_LARGE and self._memory.is_worn:
            self._flush()
            os._exit(0)  # what a failure left in use would make later pictures too large

    def _decode(self, data: bytes, request: Request, reply: Reply) -> None:
        if self._remote is None or not self._remote.pending:
            self._memory.begin(data)
        if self._options.pixels is not None:
            found = self._function(data, self._options.pixels)
            self._slots.pixels[request.slot] = found.pixels
            reply.width, reply.height, reply.traits = found.width, found.height, int(found.traits)
            return
        how = dict(request.how or {})
        if how.get("pixels") is not None:
            how["pixels"] = PixelOptions(**how["pixels"])
        small = self._function(data, **how)
        reply.width, reply.height, reply.traits = small.width, small.height, int(small.is_turned)
        reply.message, reply.data = small.media_type, small.data

    def _flush(self) -> None:
        """Send the replies that are waiting."""
        self._flushed = monotonic()
        if not self._replies:
            return
        body = b"".join(self._replies)
        self._replies.clear()
        try:
            self._socket.sendall(frame(body))
        except OSError:
            os._exit(0)
