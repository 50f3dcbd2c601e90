"""The thread that starts workers, feeds and times them, replaces those that die, and finds out which picture caused it."""

from __future__ import annotations

import collections
import contextlib
import heapq
import os
import selectors
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Any, Literal

from beholder.columns import PictureReason
from beholder.errors import BeholderError
from beholder.sources.reader import PictureRef
from beholder.workers.child_process import (
    BEAT_S,
    END_S,
    MOST_STARTS,
    START_PAUSE_S,
    START_S,
    ChildProcess,
    Deaths,
    Pulse,
    anonymous_file,
    check_package,
    is_crash,
    status_text,
)  # fmt: skip
from beholder.workers.protocol import (
    HELLO,
    RECEIVE_BYTES,
    Reply,
    Request,
    SharedSlots,
    Spool,
    WorkerOptions,
    pack_requests,
    take_frames,
    unpack_replies,
)  # fmt: skip

_CLOSED = "the pool is closed"
_TICK_S = BEAT_S
_QUEUED_S = 0.1
"""About so much work is queued at each worker, so that it never waits for the pool, and is sent many pictures at a time."""
_LEAST_QUEUED, MOST_QUEUED = 2, 64
_INLINE_BYTES = 64 << 10
"""Up to here a picture's bytes go through the socket, which is the faster way while they fit into its buffer; larger ones go
through the spool (measured, 100 KB: 14 and 26 microseconds), so that a worker never waits for the pool to refill the buffer."""
_MOST_LATE_START_FAILURES = 20
"""In a row, where workers came up before: something else may be ending them."""
_LONGEST_START_PAUSE_S = 2.0
_MOST_SEEN_DEATHS = 3
"""A picture that was queued at so many workers when they died is made alone: it may be what does harm after it was made."""


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """One picture that is under way.

    Attributes:
        ref: where its bytes are.
        slot: where its pixels go; -1: nowhere.
        how, spent_s: see `protocol.Request`.
        remote: whether its bytes come from a server.
        is_dropped: whether nobody waits for it any more, so that it need not be begun.
        then: called once it is done, where it was dropped before.
        reply: what became of it; None as long as it is under way.
    """

    ref: PictureRef
    slot: int = -1
    how: dict[str, Any] | None = None
    spent_s: float = 0.0
    remote: bool = False
    is_dropped: bool = False
    then: Callable[[], None] | None = None
    reply: Reply | None = None
    deaths: Deaths | None = None
    num_seen_deaths: int = 0
    """Workers that died while it was queued there."""
    place: int | None = None
    """In the spool."""


class WorkerProcess(ChildProcess):
    """A running worker and what is on its way to and from it. Only the dispatcher's thread uses it."""

    def __init__(self, config: Mapping[str, Any], handles: tuple[int, int]) -> None:
        super().__init__("beholder.workers.worker", config, handles)
        self.socket.setblocking(False)
        self.said_hello = False
        self.heard = monotonic()
        """When it last sent something, or was given something while it had nothing to do."""
        self.talks_nonsense = False
        """Whether it has sent what no worker sends."""
        self._outgoing = bytearray()
        self._incoming = bytearray()

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
        """Replies that have come; None when the worker is gone and nothing is left, or says what no worker says."""
        data = self._read()
        return self._replies(data) if data is not None else []

    def _read(self) -> bytes | None:
        """What is in the socket; b"": it is at its end; None: nothing."""
        try:
            return self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _replies(self, data: bytes) -> list[Reply] | None:
        if not data or self.talks_nonsense:
            return None
        self.heard = monotonic()
        self._incoming += data
        try:
            return [reply for body in take_frames(self._incoming) for reply in unpack_replies(body)]
        except (ValueError, LookupError, struct.error):  # its memory was overwritten
            self.talks_nonsense = True
            return None

    def end(self, patience_s: float = END_S) -> tuple[list[Reply], int | None]:
        """Kill it, wait for its end, and give its last whole replies and its exit status (negative: the signal)."""
        status = self.stop(patience_s)
        replies: list[Reply] = []
        while data := self._read():
            replies += self._replies(data) or []
        return replies, status


@dataclass(eq=False)
class WorkerSlot:
    """The place of one worker: the process that is there now, and what it was given."""

    number: int
    depth: int
    """How many jobs it should have; more are given when half are done."""
    process: WorkerProcess | None = None
    jobs: dict[int, Job] = field(default_factory=dict)
    start_at: float = 0.0
    started: float = 0.0
    busy_s: float = 0.0
    mean_s: float = _QUEUED_S / _LEAST_QUEUED
    seen: int = 0
    """Ticket that was at hand at the last look."""
    seen_since: float = 0.0
    """When it was begun, on the clock of the pulse."""
    is_suspect: bool = False
    """Whether it was over time at the last look."""
    is_alone: bool = False
    """Whether it was given one picture that is to be made alone."""
    is_fresh: bool = True
    """Whether its worker has not been given anything yet, or is still to be started."""
    ending: Literal["", "over time", "silent", "used"] = ""
    """Why it was killed, which it may take a while to notice."""
    ending_since: float = 0.0

    @property
    def is_up(self) -> bool:
        """Whether its worker can be given pictures."""
        return self.process is not None and self.process.said_hello and not self.ending


class Dispatcher:
    """Owns workers and spool, and has jobs done. Jobs and workers belong to its thread alone.

    Args:
        options: of the workers.
        num_workers: processes, at most; each is started when there is a job for it.
        num_slots: places for pixels.
        most_deaths: so many deaths of workers with no picture in between end it.
        most_queued: jobs that a worker is given ahead, at most.
        advice: what to do when no worker can be started.

    Raises:
        BeholderError: there are too few descriptors, too little memory or no thread for it.
    """

    def __init__(
        self,
        options: WorkerOptions,
        *,
        num_workers: int,
        num_slots: int,
        most_deaths: int,
        most_queued: int = MOST_QUEUED,
        advice: str,
    ) -> None:
        self._options, self._most_deaths, self._advice = options, most_deaths, advice
        self._most_queued = most_queued
        self._queue: collections.deque[Job] = collections.deque()
        self._suspects: collections.deque[Job] = collections.deque()
        """To be made alone, each in a worker that has nothing else to do; they come first."""
        self._pulse = Pulse()
        self._workers = [WorkerSlot(number, min(_LEAST_QUEUED, most_queued)) for number in range(num_workers)]
        self._last_ticket = 0
        self._num_restarts = self._num_deaths = self._num_start_failures = 0
        self._spent = (0.0, 0.0, 0.0)
        self._failure: BaseException | None = None
        self._hungry = self._stopping = self._was_up = self.has_ended = False
        self._next_tick = 0.0
        self._process_id = os.getpid()
        self._ringing = threading.Lock()
        self._telling = threading.Lock()  # taken itself: Ctrl-C inside of a condition's `with` leaves it taken for good
        self._told = threading.Condition(self._telling)
        self._awaited: list[Job] = []
        """Jobs that somebody waits for; under `_telling`."""
        self._thread = threading.Thread(target=self._run, name="beholder-decode", daemon=True)
        with contextlib.ExitStack() as opened:  # closed again where one of the next cannot be had
            try:
                self._open(opened, num_slots)
                self._thread.start()
            except (OSError, RuntimeError) as error:  # the latter: there is no thread
                raise self._no_start(" ".join(str(error).split())) from None
            opened.pop_all()

    def _open(self, opened: contextlib.ExitStack, num_slots: int) -> None:
        """Open what is shared with workers, and what wakes the thread, each to be closed with `opened`. Raises OSError."""
        options, num_workers = self._options, len(self._workers)
        self._shared = anonymous_file("beholder-slots")
        opened.callback(os.close, self._shared)
        size_px = options.pixels.size_px if options.pixels is not None else 0
        self.slots = SharedSlots(self._shared, num_workers=num_workers, num_slots=num_slots, size_px=size_px)
        opened.callback(delattr, self, "slots")  # its mapping has a descriptor of its own
        self._spool = Spool(anonymous_file("beholder-spool"))
        opened.callback(os.close, self._spool.handle)
        self._config = {
            "options": asdict(options), "slots": self._shared, "spool": self._spool.handle, "num_slots": num_slots,
            "num_workers": num_workers,
        }  # fmt: skip
        self._bell, self._ring = os.pipe()
        for handle in (self._bell, self._ring):
            opened.callback(os.close, handle)
            os.set_blocking(handle, False)
        self._selector = opened.enter_context(selectors.DefaultSelector())
        self._selector.register(self._bell, selectors.EVENT_READ)

    def _no_start(self, how: str) -> BeholderError:
        return BeholderError(f"decode workers cannot be started ({how}); {self._advice}")

    # Called by other threads.

    def submit(self, jobs: Sequence[Job]) -> None:
        """Have jobs done; the `reply` of each tells what became of it."""
        self._queue.extend(jobs)
        if self._hungry and not self.has_ended:
            self._wake()

    def wait_for(self, job: Job, patience_s: float | None = None) -> Reply | None:
        """What became of a job; None where it is still under way after `patience_s`. Raises what ended the dispatcher."""
        if job.reply is None:
            with self._telling:
                self._awaited.append(job)
                try:
                    self._told.wait_for(lambda: job.reply is not None or self.has_ended, patience_s)
                finally:
                    self._awaited.remove(job)
        if job.reply is None and self.has_ended:
            raise self._failure or RuntimeError(_CLOSED)
        return job.reply

    def drop(self, job: Job, then: Callable[[], None]) -> None:
        """Nobody waits for this job any more; `then` is called once it is done, at once where it is."""
        with self._telling:
            job.is_dropped = True
            is_done = job.reply is not None
            if not is_done:
                job.then = then
        if is_done:
            then()

    def check(self) -> None:
        """Raise what ended the dispatcher, if it has ended."""
        if os.getpid() != self._process_id:
            raise RuntimeError("a decode pool cannot be used in a forked process; make one there")
        if self._stopping or self._failure is not None:
            raise self._failure or RuntimeError(_CLOSED)

    def spent(self) -> tuple[float, float, float, int]:
        """Seconds of all workers on reading, decoding and idling; number of workers that were replaced."""
        states = [self.slots.state(slot.number) for slot in self._workers]
        read_s = self._spent[0] + sum(state.read_s for state in states)
        decode_s = self._spent[1] + sum(state.decode_s for state in states)
        return read_s, decode_s, self._spent[2] + sum(state.idle_s for state in states), self._num_restarts

    def process_ids(self) -> list[int]:
        """Of the workers that run now."""
        return [process.process_id for slot in self._workers if (process := slot.process) is not None]

    def num_warm(self) -> int:
        """Workers that have made a picture."""
        return sum(slot.is_up and slot.busy_s > 0 for slot in self._workers)

    def close(self) -> None:
        """End the workers and the thread, unless they are those of a process that was forked to this one."""
        self._stopping = True
        if self._thread.is_alive() and os.getpid() == self._process_id:
            self._wake()
            self._thread.join()

    def _wake(self) -> None:
        self._hungry = False
        with self._ringing, contextlib.suppress(BlockingIOError):  # full: it is about to wake
            if self._ring >= 0:
                os.write(self._ring, b"x")

    # The thread.

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        except BaseException as error:  # raised in whoever waits
            self._failure = error
        try:
            self._end_all()
        except BaseException as error:
            self._failure = self._failure or error  # the first one says why
        with self._telling:  # whoever waits for a job learns why it is not done
            self.has_ended = True
            self._told.notify_all()

    def _turn(self) -> None:
        """Start who is missing, hand out jobs, wait for something to happen, and deal with it."""
        self._start_missing()
        self._assign()
        is_growing = any(slot.process is None for slot in self._workers)
        self._hungry = is_growing or bool(self._hungry_slots(2 * self._options.num_readers))
        if self._hungry and self._queue and (self._start_missing() or self._assign()):
            return
        waiting = self._queue or self._suspects or any(self._is_busy(slot) for slot in self._workers)
        for key, events in self._selector.select(_TICK_S if waiting else None):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._bell, 4096)
            elif key.data.process is not None and key.fileobj is key.data.process.socket:
                self._serve(key.data, events)
        self._hungry = False
        now = monotonic()
        self._pulse.beat()
        if now >= self._next_tick:
            self._next_tick = now + _TICK_S
            for slot in self._workers:
                self._look_at(slot, now)

    def _is_busy(self, slot: WorkerSlot) -> bool:
        """Whether something may happen there of which no socket tells."""
        return bool(slot.jobs) or (slot.process is not None and not slot.is_up)

    def _start_missing(self) -> int:
        """Start workers where there are none, as far as there are jobs; how many were started."""
        missing = [slot for slot in self._workers if slot.process is None]
        if missing:
            num_jobs = len(self._queue) + len(self._suspects) + sum(len(slot.jobs) for slot in self._workers)
            needs_fresh = bool(self._suspects) and not any(slot.is_fresh for slot in self._workers if slot.process is not None)
            missing = missing[: max(num_jobs - (len(self._workers) - len(missing)), int(needs_fresh))]
        num_started = 0
        for slot in missing:
            now = monotonic()
            if now >= slot.start_at:
                self.slots.clear(slot.number)
                slot.busy_s, slot.seen, slot.is_suspect, slot.is_alone = 0.0, 0, False, False
                slot.started, slot.ending = now, ""
                try:
                    slot.process = WorkerProcess({**self._config, "number": slot.number}, (self._shared, self._spool.handle))
                except (OSError, ValueError) as error:
                    self._count_start_failure(slot, " ".join(str(error).split()))
                    continue
                self._selector.register(slot.process.socket, selectors.EVENT_READ, slot)
                num_started += 1
        return num_started

    def _assign(self) -> int:
        """Hand queued jobs to the workers that have least to do; how many were handed out."""
        num_given = self._assign_suspects()
        if not self._queue:
            return num_given
        least = 2 * self._options.num_readers if self._queue[0].remote else 0
        by_load = [(len(slot.jobs), slot.number) for slot in self._hungry_slots(least)]
        heapq.heapify(by_load)
        batches: dict[int, list[Request]] = {number: [] for _, number in by_load}
        while by_load and self._queue:
            job = self._queue.popleft()
            if job.is_dropped:
                self._deliver(job, Reply())
                continue
            slot = self._workers[by_load[0][1]]
            batches[slot.number].append(self._request(job, slot))
            num_given += 1
            if len(slot.jobs) >= max(slot.depth, least):
                heapq.heappop(by_load)
            else:
                heapq.heapreplace(by_load, (len(slot.jobs), slot.number))
        for number, requests in batches.items():
            if requests:
                self._send(self._workers[number], requests)
        return num_given

    def _assign_suspects(self) -> int:
        """Hand out pictures that are to be made alone; how many were handed out.

        One that a worker crashed over gets a new worker: what an earlier picture did to an old one would be laid at its door.
        """
        num_given = 0
        for slot in self._workers:
            while self._suspects and slot.is_up and not slot.jobs:
                job = self._suspects[0]
                if job.is_dropped:
                    self._deliver(job, Reply())
                else:
                    if job.deaths is not None and job.deaths.num_crashes and not slot.is_fresh:
                        if not any(other.is_fresh for other in self._workers):
                            self._kill(slot, "used", monotonic())
                        break
                    slot.is_alone = True
                    self._send(slot, [self._request(job, slot)])
                    num_given += 1
                self._suspects.popleft()
        return num_given

    def _send(self, slot: WorkerSlot, requests: list[Request]) -> None:
        assert slot.process is not None
        slot.is_fresh = False
        slot.is_alone = slot.is_alone or self._most_queued == 1
        if len(slot.jobs) == len(requests):
            slot.process.heard = monotonic()
        slot.process.send(requests)
        self._watch(slot)

    def _hungry_slots(self, least: int) -> list[WorkerSlot]:
        """Workers that have done half of what they were given, of `least` jobs or as many as keep them busy."""
        return [
            slot
            for slot in self._workers
            if len(slot.jobs) <= (slot.depth if slot.depth > least else least) // 2 and slot.is_up and not slot.is_alone
        ]

    def _request(self, job: Job, slot: WorkerSlot) -> Request:
        self._last_ticket += 1
        slot.jobs[self._last_ticket] = job
        ref, request = job.ref, Request(self._last_ticket, job.slot, how=job.how, spent_s=job.spent_s)
        if ref.data is None:
            request.path, request.offset, request.length, request.known = ref.path, ref.offset, ref.length, ref.known
        elif len(ref.data) <= _INLINE_BYTES:
            request.data = ref.data
        else:
            job.place = self._spool.put(ref.data)
            request.spooled = (job.place, len(ref.data))
        return request

    def _watch(self, slot: WorkerSlot) -> None:
        """Ask to be told of room in the socket just while something waits for it."""
        process = slot.process
        if process is None:
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if process.has_outgoing else 0)
        if self._selector.get_key(process.socket).events != events:
            self._selector.modify(process.socket, events, slot)

    def _serve(self, slot: WorkerSlot, events: int) -> None:
        process = slot.process
        assert process is not None
        if events & selectors.EVENT_WRITE:
            process.push()
            self._watch(slot)
        if events & selectors.EVENT_READ:
            replies = process.receive()
            if replies is not None:
                self._complete(slot, replies)
            if replies is None or process.talks_nonsense:
                self._reap(slot)

    def _complete(self, slot: WorkerSlot, replies: list[Reply]) -> None:
        """Hand on what a worker has done."""
        assert slot.process is not None
        num_done = 0
        for reply in replies:
            if reply.ticket == HELLO:
                self._greet(slot, reply.message)
            elif (job := slot.jobs.pop(reply.ticket, None)) is not None:
                num_done += 1
                self._deliver(job, reply)
            else:  # nobody asked for that
                slot.process.talks_nonsense = True
                break
        slot.is_alone = slot.is_alone and bool(slot.jobs)
        if num_done:
            self._tell()
            self._num_deaths = 0
            state = self.slots.state(slot.number)
            spent = (state.read_s + state.decode_s - slot.busy_s) / num_done
            slot.busy_s = state.read_s + state.decode_s
            slot.mean_s += 0.3 * (max(spent, 0.0) - slot.mean_s)
            slot.depth = max(_LEAST_QUEUED, round(_QUEUED_S / max(slot.mean_s, 1e-9)))
            slot.depth = min(self._most_queued, slot.depth)

    def _greet(self, slot: WorkerSlot, package: str) -> None:
        assert slot.process is not None
        if slot.process.said_hello:
            return
        check_package(package)
        slot.process.said_hello = self._was_up = True
        self._num_start_failures = 0

    def _deliver(self, job: Job, reply: Reply) -> None:
        """A job is done; whoever waits for it learns that by `_tell`."""
        self._unspool(job)
        job.reply = reply
        if job.is_dropped:
            with self._telling:
                then, job.then = job.then, None
            if then is not None:
                then()

    def _tell(self) -> None:
        """Wake whoever waits for a job that is done now: once for many jobs, and nobody for whose job it is too early."""
        if self._awaited:
            with self._telling:
                if any(job.reply is not None for job in self._awaited):
                    self._told.notify_all()

    def _unspool(self, job: Job) -> None:
        if job.place is not None:
            assert job.ref.data is not None
            self._spool.release(job.place, len(job.ref.data))
            job.place = None

    def _look_at(self, slot: WorkerSlot, now: float) -> None:
        """Kill a worker whose picture is over time (seen at two looks), that does nothing, or that never starts.

        Time in which this process stood still is not counted: its workers are likely to have stood still, too.
        """
        process = slot.process
        if process is None:
            return
        if process.has_ended or (slot.ending and now - slot.ending_since > END_S):
            self._reap(slot)
            return
        if slot.ending:
            return
        process.trim()
        state = self.slots.state(slot.number)
        job, limit = slot.jobs.get(state.ticket), self._options.timeout_s
        if slot.seen != state.ticket:
            slot.seen, slot.is_suspect = state.ticket, False
            slot.seen_since = self._pulse.now() - (now - state.started)
        is_over = job is not None and self._pulse.now() - slot.seen_since > limit - job.spent_s
        if is_over and slot.is_suspect:
            self._kill(slot, "over time", now)
        elif (slot.jobs and now - process.heard > 2 * limit + 60.0) or (not slot.is_up and now - slot.started > START_S):
            self._kill(slot, "silent", now)
        slot.is_suspect = is_over

    @staticmethod
    def _kill(slot: WorkerSlot, why: Literal["over time", "silent", "used"], now: float) -> None:
        """Kill a worker; it is reaped when its socket ends, so that nobody waits for that."""
        assert slot.process is not None
        slot.ending, slot.ending_since = why, now
        slot.process.kill()

    def _reap(self, slot: WorkerSlot) -> None:
        """A worker is gone: see to the picture it had at hand, give back the others; a new one is started at the next turn."""
        process = slot.process
        assert process is not None
        self._selector.unregister(process.socket)
        replies, status = process.end(0.0 if slot.ending else END_S)
        self._complete(slot, replies)
        stderr_tail, was_up = process.stderr_tail(), process.said_hello
        process.close()
        slot.process, slot.is_fresh = None, True
        state = self.slots.state(slot.number)
        self._spent = (self._spent[0] + state.read_s, self._spent[1] + state.decode_s, self._spent[2] + state.idle_s)
        self.slots.clear(slot.number)
        self._num_restarts += 1
        at_hand = slot.jobs.pop(state.ticket, None)
        if at_hand is None and slot.is_alone and slot.jobs:  # it may have done its harm by then: there was no other
            _, at_hand = slot.jobs.popitem()
        for job in reversed(slot.jobs.values()):
            self._unspool(job)
            job.num_seen_deaths += 1
            (self._queue if job.num_seen_deaths < _MOST_SEEN_DEATHS else self._suspects).appendleft(job)
        slot.jobs.clear()
        if at_hand is not None and slot.ending == "over time" and state.ticket == slot.seen:
            text = f"reading and decoding took longer than {self._options.timeout_s:g} s"
            self._deliver(at_hand, Reply(reason=PictureReason.TIMED_OUT, message=text))
            self._tell()
        elif at_hand is not None:
            self._attribute_crash(at_hand, status, stderr_tail, crashed=process.talks_nonsense)
        if slot.ending == "used":
            return
        self._count_death(slot, status, stderr_tail, was_up=was_up)

    def _attribute_crash(self, job: Job, status: int | None, stderr_tail: str, *, crashed: bool) -> None:
        """The picture that a worker had at hand when it died: to blame, or tried again alone, in case it was not."""
        self._unspool(job)
        job.deaths = job.deaths or Deaths()
        text = job.deaths.add(status, stderr_tail, crashed=crashed)
        if text is None:
            self._suspects.appendleft(job)
        else:
            self._deliver(job, Reply(reason=PictureReason.CRASHED, message=text))
            self._tell()

    def _count_death(self, slot: WorkerSlot, status: int | None, stderr_tail: str, *, was_up: bool) -> None:
        how = "; ".join(filter(None, (status_text(status), stderr_tail)))
        self._num_deaths += 1
        if not was_up:
            self._count_start_failure(slot, how, is_killed=not is_crash(status))
        if self._num_deaths > self._most_deaths:
            text = f"decode workers died {self._num_deaths} times without finishing a picture (the last: {how})"
            raise BeholderError(f"{text}; check memory, and that the picture libraries work")

    def _count_start_failure(self, slot: WorkerSlot, how: str, *, is_killed: bool = False) -> None:
        self._num_start_failures += 1
        slot.start_at = monotonic() + min(START_PAUSE_S * self._num_start_failures, _LONGEST_START_PAUSE_S)
        most = _MOST_LATE_START_FAILURES if self._was_up or is_killed else MOST_STARTS
        if self._num_start_failures >= most:
            raise self._no_start(how)

    def _end_all(self) -> None:
        """Leave no process and no descriptor behind; what cannot be ended or closed keeps nothing else from it."""
        processes = [slot.process for slot in self._workers if slot.process is not None]
        for process in processes:
            process.kill()
        patient_until = monotonic() + END_S
        with self._ringing:
            ring, self._ring = self._ring, -1
        with contextlib.ExitStack() as closing:  # from the last one on
            for handle in (self._shared, self._spool.handle, ring, self._bell):
                closing.callback(os.close, handle)
            closing.callback(self._selector.close)
            for process in processes:
                closing.callback(process.close)
                closing.callback(lambda ending: ending.end(max(patient_until - monotonic(), 0.0)), process)
            for slot in self._workers:
                slot.process = None
