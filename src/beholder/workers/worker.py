"""Runs in a process of its own: requests for pictures in over a socket, pixels out into shared slots, replies back."""

from __future__ import annotations

import collections
import contextlib
import os
import select
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import Any

import beholder
from beholder.columns import PictureReason
from beholder.io import storage
from beholder.pixels.picture import PictureError, PictureRef, PixelOptions, Prepare, contents_digest
from beholder.sources.fetch import OpenArchives, ReadLimits, load_client, read_bytes
from beholder.workers.messages import HELLO, LENGTH, RECEIVE_BYTES, Reply, Request, pack_reply, take_frames, unpack_requests
from beholder.workers.pulse import Pulse
from beholder.workers.shared_slots import SharedSlots, Spool
from beholder.workers.worker_setup import GRACE_S, MemoryLimit, failure_of, function_of, set_up_process

_LOOK_S = 0.01
"""How long a worker that has work looks away from its socket, and keeps replies to itself."""
_MOST_KEPT_REPLIES = 32
_ORPHAN_CHECK_MS = 2000
_STALL_S = 0.5
"""A read that timed out is done again when the process stood still for longer than that meanwhile, up to so many times:"""
_MOST_STALLED_READS = 3


@dataclass
class _Job:
    """A request on its way: its bytes once they were read, or why they could not be."""

    request: Request
    data: bytes | None = None
    error: PictureError | None = None
    reading_since: float | None = None
    read_s: float = 0.0


def main(config: dict[str, Any]) -> None:
    """Serve until the pool closes its end of the socket; never returns."""
    set_up_process(config["parent"], config["nice"])
    worker = _Worker(config)
    worker.serve()


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
        request = job.request
        ref = PictureRef(path=request.path, offset=request.offset, length=request.length)
        load_client(request.path)
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
        self._number: int = config["number"]
        self._parent: int = config["parent"]
        self._timeout_s: float = config["timeout_s"]
        self._options = PixelOptions(**config["options"])
        self._prepare: Prepare = function_of(config["decoder"])
        self._limits = ReadLimits(max_bytes=config["max_bytes"], timeout_s=config["timeout_s"])
        self._num_readers: int = config["num_readers"]
        self._socket = socket.socket(fileno=config["socket"])
        self._socket.setblocking(True)
        self._spool: int = config["spool"]
        self._slots = SharedSlots(
            config["slots"], num_workers=config["num_workers"], num_slots=config["num_slots"], size_px=self._options.size_px
        )
        self._archives = OpenArchives()
        self._incoming = bytearray()
        self._ready: collections.deque[_Job] = collections.deque()
        self._remote: _RemoteReads | None = None
        self._replies: list[bytes] = []
        self._flushed = self._looked = monotonic()
        self._read_s = self._decode_s = self._idle_s = 0.0
        self._memory = MemoryLimit(config["memory_bytes"])

    def serve(self) -> None:
        """Make pictures until the pool is gone."""
        self._reply(HELLO, message=str(beholder.__file__))
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
        if path is None or storage.is_local(path):
            self._ready.append(job)
            return
        self._memory.lift()  # several are read at once, beside the one that is decoded
        if self._remote is None:
            self._remote = _RemoteReads(self._limits, self._num_readers)
            self._poll.register(self._remote.bell, select.POLLIN)
        self._remote.start(job)

    def _read(self, job: _Job) -> bytes:
        """The bytes of a job, from wherever they are."""
        if job.error is not None:
            raise job.error
        if job.data is not None:
            return job.data
        request = job.request
        if request.spooled is not None:
            place, length = request.spooled
            return _read_spooled(self._spool, Spool.offset(place), length)
        ref = PictureRef(path=request.path, offset=request.offset, length=request.length)
        return read_bytes(ref, self._limits, self._archives)

    def _make(self, job: _Job) -> None:
        """Read, decode, put the pixels into the slot, and note the reply."""
        request = job.request
        began = read = monotonic()
        self._slots.begin(self._number, began - job.read_s, request.ticket)
        signal.setitimer(signal.ITIMER_REAL, max(self._timeout_s - job.read_s, 0.0) + GRACE_S)
        num_bytes, digest = 0, None
        try:
            data = self._read(job)
            read = monotonic()
            num_bytes = len(data)
            is_file = request.path is not None and request.offset is None and request.length is None
            digest = contents_digest(data) if is_file else None
            if digest is not None and digest == request.known:
                self._reply(request.ticket, num_bytes=num_bytes, digest=digest, are_known=True)
                return
            if self._remote is None or not self._remote.pending:
                self._memory.begin(data)
            found = self._prepare(data, self._options)
            self._slots.pixels[request.slot] = found.pixels
            where = (found.width, found.height, int(found.traits))
            self._reply(request.ticket, None, "", *where, num_bytes=num_bytes, digest=digest)
        except Exception as error:  # the picture is lost, the run is not
            self._reply(request.ticket, *failure_of(error), num_bytes=num_bytes, digest=digest)
        finally:
            self._slots.begin(
                self._number, monotonic(), 0
            )  # what happens to the worker from here on is not this picture's doing
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._read_s += read - began
            self._decode_s += monotonic() - read
            self._slots.spend(self._number, self._read_s, self._decode_s, self._idle_s)

    def _reply(
        self,
        ticket: int,
        reason: PictureReason | None = None,
        message: str = "",
        width: int = 0,
        height: int = 0,
        traits: int = 0,
        *,
        num_bytes: int = 0,
        digest: bytes | None = None,
        are_known: bool = False,
    ) -> None:
        reply = Reply(ticket, reason, message, width, height, traits, num_bytes, digest, are_known)
        self._replies.append(pack_reply(reply))

    def _flush(self) -> None:
        """Send the replies that are waiting."""
        self._flushed = monotonic()
        if not self._replies:
            return
        body = b"".join(self._replies)
        self._replies.clear()
        try:
            self._socket.sendall(LENGTH.pack(len(body)) + body)
        except OSError:
            os._exit(0)


def _read_spooled(handle: int, start: int, length: int) -> bytes:
    """Exactly `length` bytes of the spool."""
    data = os.pread(handle, length, start)
    while len(data) < length:
        more = os.pread(handle, length - len(data), start + len(data))
        if not more:
            raise PictureError(PictureReason.UNREADABLE, "the bytes of this picture did not reach the decode worker")
        data += more
    return data
