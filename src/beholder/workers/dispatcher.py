"""Jobs in, results out: the thread that starts decode workers, feeds and times them, and replaces those that die."""

from __future__ import annotations

import collections
import contextlib
import os
import selectors
import threading
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal

from beholder.columns import PictureReason
from beholder.errors import BeholderError
from beholder.pixels.picture import PictureError
from beholder.workers.child_process import END_S, MOST_STARTS, START_PAUSE_S, START_S, check_package, is_crash, status_text
from beholder.workers.messages import HELLO, Reply, Request
from beholder.workers.pulling import Finished, Job
from beholder.workers.pulse import BEAT_S, Pulse
from beholder.workers.shared_slots import SharedSlots, Spool, anonymous_file
from beholder.workers.worker_process import WorkerProcess, WorkerSettings

_TICK_S = BEAT_S
_QUEUED_S = 0.04
"""About so much work is queued at each worker, so that it never waits for the pool."""
_LEAST_QUEUED, _MOST_QUEUED = 2, 64
_INLINE_BYTES = 64 << 10
"""Up to here a picture's bytes go through the socket, which is the faster way while they fit into its buffer; larger ones go
through the spool (measured, 100 KB: 14 and 26 microseconds), so that a worker never waits for the pool to refill the buffer."""
_MOST_LATE_START_FAILURES = 20
"""In a row, where workers came up before: something else may be ending them."""
_LONGEST_START_PAUSE_S = 2.0
_MOST_SEEN_DEATHS = 3
"""A picture that was queued at so many workers when they died is made alone: it may be what does harm after it was made."""


@dataclass(eq=False)
class _Seat:
    """The place of one worker: the process that sits there now, and what it was given."""

    number: int
    process: WorkerProcess | None = None
    jobs: dict[int, Job] = field(default_factory=dict)
    start_at: float = 0.0
    started: float = 0.0
    busy_s: float = 0.0
    mean_s: float = _QUEUED_S / _LEAST_QUEUED
    depth: int = _LEAST_QUEUED
    """How many jobs it should have; more are given when half are done."""
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
        return self.process is not None and self.process.said_hello and not self.ending


class Dispatcher:
    """Owns workers, slots and spool. `lock` guards slots and results; jobs and workers belong to its thread alone."""

    def __init__(self, settings: WorkerSettings, *, num_workers: int, num_slots: int, most_deaths: int) -> None:
        self.lock = threading.Lock()
        self.room = threading.Condition(self.lock)
        self.done = threading.Condition(self.lock)
        self._settings, self._most_deaths = settings, most_deaths
        self._shared = anonymous_file("beholder-slots")
        self.slots = SharedSlots(self._shared, num_workers=num_workers, num_slots=num_slots, size_px=settings.options.size_px)
        self._spool = Spool(anonymous_file("beholder-spool"))
        self._places = {
            "slots": self._shared, "spool": self._spool.handle, "num_slots": num_slots, "num_workers": num_workers,
        }  # fmt: skip
        self._free = list(range(num_slots))
        self._low_water = max(1, num_slots // 8)
        self.few = 4 * num_workers
        self._queue: collections.deque[Job] = collections.deque()
        self._suspects: collections.deque[Job] = collections.deque()
        """To be made alone, each in a worker that has nothing else to do; they come first."""
        self._pulse = Pulse()
        self._seats = [_Seat(number) for number in range(num_workers)]
        self._last_ticket = 0
        self._num_restarts = self._num_deaths = self._num_start_failures = 0
        self._spent = (0.0, 0.0, 0.0)
        self._failure: BaseException | None = None
        self._hungry = self._stopping = self._was_up = False
        self._next_tick = 0.0
        self._process_id = os.getpid()
        self._ringing = threading.Lock()
        self._bell, self._ring = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._ring, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="beholder-decode", daemon=True)
        self._thread.start()

    # Called by other threads.

    def take_slot(self) -> int | None:
        """A free slot (the one used last, which is still in the cache), or None; called with the lock held."""
        return self._free.pop() if self._free else None

    def put_slot(self, slot: int) -> None:
        """Give a slot back; called with the lock held."""
        self._free.append(slot)
        if len(self._free) >= self._low_water:
            self.room.notify_all()

    def free_slot(self, slot: int) -> None:
        """Give a slot back."""
        with self.lock:
            self.put_slot(slot)

    def submit(self, job: Job) -> None:
        """Have a job done; its pull is told."""
        self._queue.append(job)
        if self._hungry:
            self._wake()

    def check(self) -> None:
        """Raise what ended the dispatcher, if it has ended."""
        if self._failure is not None:
            raise self._failure
        if os.getpid() != self._process_id:
            raise RuntimeError("a decode pool cannot be used in a forked process; make one there")
        if self._stopping:
            raise RuntimeError("the decode pool is closed")

    def spent(self) -> tuple[float, float, float, int]:
        """Seconds of all workers on reading, decoding and idling; number of workers that were replaced."""
        states = [self.slots.state(seat.number) for seat in self._seats]
        read_s = self._spent[0] + sum(state.read_s for state in states)
        decode_s = self._spent[1] + sum(state.decode_s for state in states)
        return read_s, decode_s, self._spent[2] + sum(state.idle_s for state in states), self._num_restarts

    def process_ids(self) -> list[int]:
        """Of the workers that run now."""
        return [process.process_id for seat in self._seats if (process := seat.process) is not None]

    def close(self) -> None:
        """End the workers and the thread."""
        self._stopping = True
        if self._thread.is_alive():
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
        except BaseException as error:  # raised in the consumer
            self._failure = error
        finally:
            self._end_all()
            with self.lock:
                self.done.notify_all()

    def _turn(self) -> None:
        """Start who is missing, hand out jobs, wait for something to happen, and deal with it."""
        if any(seat.process is None for seat in self._seats):
            self._start_missing()
        self._assign()
        self._hungry = bool(self._hungry_seats(2 * self._settings.num_readers))
        if self._hungry and self._queue and self._assign():
            return
        waiting = self._queue or self._suspects or any(seat.jobs or not seat.is_up for seat in self._seats)
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
            for seat in self._seats:
                self._look_at(seat, now)

    def _start_missing(self) -> None:
        for seat in self._seats:
            now = monotonic()
            if seat.process is None and now >= seat.start_at:
                self.slots.clear(seat.number)
                seat.busy_s, seat.seen, seat.is_suspect, seat.is_alone = 0.0, 0, False, False
                seat.started, seat.ending = now, ""
                seat.process = WorkerProcess(seat.number, self._settings, self._places)
                self._selector.register(seat.process.socket, selectors.EVENT_READ, seat)

    def _assign(self) -> int:
        """Hand queued jobs to the workers that have least to do; how many were handed out."""
        num_given = self._assign_suspects()
        if not self._queue:
            return num_given
        least = 2 * self._settings.num_readers if self._queue[0].remote else 0
        seats = self._hungry_seats(least)
        batches: dict[int, list[Request]] = {seat.number: [] for seat in seats}
        while seats and self._queue:
            job = self._queue.popleft()
            if self._is_dropped(job):
                continue
            seat = min(seats, key=lambda seat: len(seat.jobs))
            batches[seat.number].append(self._request(job, seat))
            num_given += 1
            if len(seat.jobs) >= max(seat.depth, least):
                seats.remove(seat)
        for number, requests in batches.items():
            if requests:
                self._send(self._seats[number], requests)
        return num_given

    def _assign_suspects(self) -> int:
        """Hand out pictures that are to be made alone; how many were handed out.

        One that a worker crashed over gets a new worker: what an earlier picture did to an old one would be laid at its door.
        """
        num_given = 0
        for seat in self._seats:
            while self._suspects and seat.is_up and not seat.jobs:
                job = self._suspects[0]
                if not self._is_dropped(job):
                    if job.deaths.num_crashes and not seat.is_fresh:
                        if not any(other.is_fresh for other in self._seats):
                            self._kill(seat, "used", monotonic())
                        break
                    seat.is_alone = True
                    self._send(seat, [self._request(job, seat)])
                    num_given += 1
                self._suspects.popleft()
        return num_given

    def _is_dropped(self, job: Job) -> bool:
        """Whether nobody waits for it any more."""
        if not job.pull.closed:
            return False
        with self.lock:
            job.pull.finish(job, Finished(job.tag, job.slot, None))
        return True

    def _send(self, seat: _Seat, requests: list[Request]) -> None:
        assert seat.process is not None
        seat.is_fresh = False
        if len(seat.jobs) == len(requests):
            seat.process.heard = monotonic()
        seat.process.send(requests)
        self._watch(seat)

    def _hungry_seats(self, least: int) -> list[_Seat]:
        """Workers that have done half of what they were given, of `least` jobs or as many as keep them busy."""
        return [
            seat
            for seat in self._seats
            if len(seat.jobs) <= (seat.depth if seat.depth > least else least) // 2 and seat.is_up and not seat.is_alone
        ]

    def _request(self, job: Job, seat: _Seat) -> Request:
        self._last_ticket += 1
        seat.jobs[self._last_ticket] = job
        ref = job.ref
        if ref.data is None:
            where = (ref.path, ref.offset, ref.length)
            return Request(self._last_ticket, job.slot, None, None, *where, ref.known)
        if len(ref.data) <= _INLINE_BYTES:
            return Request(self._last_ticket, job.slot, data=ref.data)
        job.place = self._spool.put(ref.data)
        return Request(self._last_ticket, job.slot, spooled=(job.place, len(ref.data)))

    def _watch(self, seat: _Seat) -> None:
        """Ask to be told of room in the socket just while something waits for it."""
        process = seat.process
        if process is None:
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if process.has_outgoing else 0)
        if self._selector.get_key(process.socket).events != events:
            self._selector.modify(process.socket, events, seat)

    def _serve(self, seat: _Seat, events: int) -> None:
        process = seat.process
        assert process is not None
        if events & selectors.EVENT_WRITE:
            process.push()
            self._watch(seat)
        if events & selectors.EVENT_READ:
            replies = process.receive()
            if replies is None:
                self._bury(seat)
            else:
                self._complete(seat, replies)

    def _complete(self, seat: _Seat, replies: list[Reply]) -> None:
        """Hand on what a worker has done."""
        results: list[tuple[Job, Finished]] = []
        for reply in replies:
            if reply.ticket == HELLO:
                self._greet(seat, reply.message)
            elif (job := seat.jobs.pop(reply.ticket, None)) is not None:
                error = PictureError(reply.reason, reply.message) if reply.reason is not None else None
                where = (reply.width, reply.height, reply.traits, reply.num_bytes)
                results.append((job, Finished(job.tag, job.slot, error, *where, reply.digest, reply.are_known)))
        seat.is_alone = seat.is_alone and bool(seat.jobs)
        if results:
            self._num_deaths = 0
            state = self.slots.state(seat.number)
            spent = (state.read_s + state.decode_s - seat.busy_s) / len(results)
            seat.busy_s = state.read_s + state.decode_s
            seat.mean_s += 0.3 * (max(spent, 0.0) - seat.mean_s)
            seat.depth = max(_LEAST_QUEUED, min(_MOST_QUEUED, round(_QUEUED_S / max(seat.mean_s, 1e-9))))
            self._deliver(results)

    def _greet(self, seat: _Seat, package: str) -> None:
        assert seat.process is not None
        if seat.process.said_hello:
            return
        check_package(package)
        seat.process.said_hello = self._was_up = True
        self._num_start_failures = 0

    def _deliver(self, results: list[tuple[Job, Finished]]) -> None:
        for job, _ in results:
            self._unspool(job)
        with self.lock:
            for job, finished in results:
                job.pull.finish(job, finished)
            if any(pull.has_next for pull in {job.pull for job, _ in results}):
                self.done.notify_all()

    def _unspool(self, job: Job) -> None:
        if job.place is not None:
            assert job.ref.data is not None
            self._spool.release(job.place, len(job.ref.data))
            job.place = None

    def _look_at(self, seat: _Seat, now: float) -> None:
        """Kill a worker whose picture is over time (seen at two looks), that does nothing, or that never starts.

        Time in which this process stood still is not counted: its workers are likely to have stood still, too.
        """
        process, limit = seat.process, self._settings.timeout_s
        if process is None:
            return
        if process.has_ended or (seat.ending and now - seat.ending_since > END_S):
            self._bury(seat)
            return
        if seat.ending:
            return
        process.trim()
        state = self.slots.state(seat.number)
        is_at_hand = state.ticket in seat.jobs
        if seat.seen != state.ticket:
            seat.seen, seat.is_suspect = state.ticket, False
            seat.seen_since = self._pulse.now() - (now - state.started)
        is_over = is_at_hand and self._pulse.now() - seat.seen_since > limit
        if is_over and seat.is_suspect:
            self._kill(seat, "over time", now)
        elif (seat.jobs and now - process.heard > 2 * limit + 60.0) or (not seat.is_up and now - seat.started > START_S):
            self._kill(seat, "silent", now)
        seat.is_suspect = is_over

    @staticmethod
    def _kill(seat: _Seat, why: Literal["over time", "silent", "used"], now: float) -> None:
        """Kill a worker; it is buried when its socket ends, so that nobody waits for that."""
        assert seat.process is not None
        seat.ending, seat.ending_since = why, now
        seat.process.kill()

    def _bury(self, seat: _Seat) -> None:
        """A worker is gone: see to the picture it had at hand, give back the others; a new one is started at the next turn."""
        process = seat.process
        assert process is not None
        self._selector.unregister(process.socket)
        replies, status = process.end(0.0 if seat.ending else END_S)
        self._complete(seat, replies)
        words, was_up = process.last_words(), process.said_hello
        process.close()
        seat.process, seat.is_fresh = None, True
        state = self.slots.state(seat.number)
        self._spent = (self._spent[0] + state.read_s, self._spent[1] + state.decode_s, self._spent[2] + state.idle_s)
        self.slots.clear(seat.number)
        self._num_restarts += 1
        at_hand = seat.jobs.pop(state.ticket, None)
        if at_hand is None and seat.is_alone and seat.jobs:  # it may have done its harm by then: there was no other
            _, at_hand = seat.jobs.popitem()
        for job in reversed(seat.jobs.values()):
            self._unspool(job)
            job.num_seen_deaths += 1
            (self._queue if job.num_seen_deaths < _MOST_SEEN_DEATHS else self._suspects).appendleft(job)
        seat.jobs.clear()
        if at_hand is not None and seat.ending == "over time" and state.ticket == seat.seen:
            self._unspool(at_hand)
            text = f"it took longer than {self._settings.timeout_s:g} s to read and decode"
            error = PictureError(PictureReason.TIMED_OUT, text)
            self._deliver([(at_hand, Finished(at_hand.tag, at_hand.slot, error))])
        elif at_hand is not None:
            self._judge(at_hand, status, words, crashed=process.talks_nonsense)
        if seat.ending == "used":
            return
        how = status_text(status)
        self._count_death(seat, f"{how}; {words}" if words else how, was_up=was_up, killed=not is_crash(status))

    def _judge(self, job: Job, status: int | None, words: str, *, crashed: bool) -> None:
        """The picture that a worker had at hand when it died: to blame, or tried again alone, in case it was not."""
        self._unspool(job)
        text = job.deaths.add(status, words, crashed=crashed)
        if text is None:
            self._suspects.appendleft(job)
        else:
            self._deliver([(job, Finished(job.tag, job.slot, PictureError(PictureReason.CRASHED, text)))])

    def _count_death(self, seat: _Seat, how: str, *, was_up: bool, killed: bool) -> None:
        self._num_deaths += 1
        if not was_up:
            self._num_start_failures += 1
            seat.start_at = monotonic() + min(START_PAUSE_S * self._num_start_failures, _LONGEST_START_PAUSE_S)
        if self._num_start_failures >= (_MOST_LATE_START_FAILURES if self._was_up or killed else MOST_STARTS):
            raise BeholderError(f"decode workers cannot be started ({how}); mend that, or use none (0 workers)")
        if self._num_deaths > self._most_deaths:
            text = f"decode workers died {self._num_deaths} times without finishing a picture (the last: {how})"
            raise BeholderError(f"{text}; check memory, and that the picture libraries work")

    def _end_all(self) -> None:
        """Leave no process and no descriptor behind."""
        processes = [seat.process for seat in self._seats if seat.process is not None]
        for process in processes:
            process.kill()
        patient_until = monotonic() + END_S
        for process in processes:
            process.end(max(patient_until - monotonic(), 0.0))
            process.close()
        for seat in self._seats:
            seat.process = None
        self._selector.close()
        with self._ringing:
            ring, self._ring = self._ring, -1
        for handle in (self._bell, ring, self._spool.handle, self._shared):
            os.close(handle)
