"""The pixels of pictures, in order, a bounded number ahead of their use, made by worker processes that may crash or hang."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.io import storage
from beholder.pixels.picture import PictureError, PixelOptions, Prepare, Trait
from beholder.sources.fetch import OpenArchives, ReadLimits, read_bytes, too_many_bytes
from beholder.sources.reader import PictureRef
from beholder.workers.child_process import memory_for
from beholder.workers.dispatcher import Dispatcher, Job
from beholder.workers.protocol import Reply, WorkerOptions
from beholder.workers.worker import attempt, function_of

DEFAULT_DECODER = "beholder.pixels.decode:prepare"
_JOIN_S = 5.0
_WAIT_S = 1.0


@dataclass(slots=True, eq=False)
class Outcome:
    """What became of one picture.

    Attributes:
        tag: what stood beside its ref.
        pixels: (size_px, size_px, 3) uint8 in shared memory, valid until `release`; None when there is an error, or the
            contents are known.
        error: why there are none.
        width, height: of the picture as stored; 0 with an error.
        traits: what makes presets differ for it.
        num_bytes: bytes of the file that were read.
        digest: of a file of its own that could be read: `picture.contents_digest`.
        are_known: whether it was not decoded, as its contents are those that were `known`, or nothing was to be done.
    """

    tag: Any
    pixels: npt.NDArray[np.uint8] | None
    error: PictureError | None
    width: int
    height: int
    traits: Trait
    num_bytes: int
    digest: bytes | None
    are_known: bool
    _give_back: Callable[[], None] | None = None

    def release(self) -> None:
        """Give the pixels' place back: `pixels` is None from now on. Once is enough; more does nothing."""
        self.pixels = None
        if self._give_back is not None:
            give_back, self._give_back = self._give_back, None
            give_back()

    def take(self, out: npt.NDArray[np.uint8]) -> None:
        """Copy the pixels to `out` (a row of a batch) and release them."""
        assert self.pixels is not None
        out[...] = self.pixels
        self.release()


def _outcome(tag: Any, reply: Reply, pixels: npt.NDArray[np.uint8] | None, give_back: Callable[[], None] | None) -> Outcome:
    error = PictureError(reply.reason, reply.message) if reply.reason is not None else None
    facts = (reply.width, reply.height, Trait(reply.traits), reply.num_bytes, reply.digest, reply.are_known)
    return Outcome(tag, pixels, error, *facts, give_back)


@dataclass(frozen=True)
class PoolStats:
    """Where the time of a pool went so far.

    Attributes:
        num_restarts: workers that died or were ended and replaced.
        wait_s: seconds the consumer waited for the next outcome.
        source_s: seconds spent in the iterator of refs (listing, reading archives).
        read_s, decode_s, idle_s: seconds of all workers together: reading or waiting for bytes, decoding, without work.
    """

    num_restarts: int
    wait_s: float
    source_s: float
    read_s: float
    decode_s: float
    idle_s: float

    @property
    def slowest(self) -> Literal["read", "decode"]:
        """Which of the two holds the consumer up when it waits."""
        starved = self.idle_s > self.decode_s and self.source_s > 0.5 * self.wait_s
        return "read" if starved or self.read_s > self.decode_s else "decode"


class DecodePool:
    """Makes pixels of pictures, a bounded number ahead of their use, in order, whatever the pictures do to the decoder.

        with DecodePool(PixelOptions(), num_workers=8, timeout_s=30, num_slots=512) as pool:
            for outcome in pool.map(enumerate(refs)):
                if outcome.error is None:
                    outcome.take(batch[n])        # or read outcome.pixels, then outcome.release()

    A picture that takes longer than `timeout_s` is TIMED_OUT. One that a worker had at hand when it died is tried again, alone
    in a worker; it is CRASHED once two workers crashed over it, or five were killed, which something else may have done. What
    was queued there is made by others.

    Workers are fresh interpreters: nothing of the caller's program is imported or forked, so a pool works beside CUDA, in
    threads, notebooks and daemonic processes.

    Args:
        options: which pixels.
        num_workers: processes. 0: everything is done in the calling thread; then nothing guards against crashes and hangs
            (only reads from servers are timed), and `pixels` is an array of its own.
        timeout_s: seconds for one picture, reading and decoding.
        num_slots: pictures taken from the iterator and not released yet, at most. A consumer must not hold that many.
        max_bytes: pictures with more bytes are TOO_LARGE.
        memory_bytes: what a worker may use beyond what it starts with; a picture that needs more is TOO_LARGE (Linux).
            None: 32 bytes for each of `options.max_pixels`, at least 4 GiB; 0: no limit.
        num_readers: URLs read at the same time by each worker.
        ahead_bytes: no more refs are taken while those that wait hold more bytes of `data` than this.
        most_deaths: so many deaths of workers with no picture in between end the job with BeholderError.
        decoder: "package.module:function" that workers decode with.
    """

    def __init__(
        self,
        options: PixelOptions,
        *,
        num_workers: int,
        timeout_s: float = 60.0,
        num_slots: int = 256,
        max_bytes: int = 1 << 30,
        memory_bytes: int | None = None,
        num_readers: int = 8,
        ahead_bytes: int = 256 << 20,
        most_deaths: int = 200,
        decoder: str = DEFAULT_DECODER,
    ) -> None:
        if num_workers < 0 or num_slots < 1 or num_readers < 1 or not timeout_s > 0:
            raise InputError("a decode pool needs 0 or more workers, 1 or more slots and readers, and a time limit above 0")
        self._options = WorkerOptions(
            decoder=decoder, pixels=options, timeout_s=timeout_s, max_bytes=max_bytes, num_readers=num_readers,
            memory_bytes=memory_for(options.max_pixels) if memory_bytes is None else memory_bytes,
        )  # fmt: skip
        self._num_workers, self._num_slots = num_workers, num_slots
        self._ahead_bytes, self._most_deaths = ahead_bytes, most_deaths
        self._few = 4 * num_workers
        """With fewer pictures under way, more are pulled whenever there is a slot."""
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._done = threading.Condition(self._lock)
        self._free = list(range(num_slots))
        self._low_water = max(1, num_slots // 8)
        self._dispatcher: Dispatcher | None = None
        self._process_id = -1
        self._mapping = threading.Lock()
        self._wait_s = self._source_s = self._read_s = self._decode_s = 0.0
        self._pull: _Pull | None = None
        self._reading_since: float | None = None

    def __enter__(self) -> DecodePool:
        """Start the workers, without waiting until they are up."""
        if self._num_workers and self._dispatcher is None:
            self._process_id = os.getpid()
            self._dispatcher = Dispatcher(
                self._options, num_workers=self._num_workers, num_slots=self._num_slots, on_done=self._take_done,
                on_end=self._wake, most_deaths=self._most_deaths, advice="mend that, or use none (0 workers)",
            )  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        """End the workers."""
        self.close()

    def close(self) -> None:
        """End the workers; pixels that were not released stay valid as long as they are referred to."""
        dispatcher = self._dispatcher
        if dispatcher is not None and os.getpid() == self._process_id:
            dispatcher.close()

    @property
    def stats(self) -> PoolStats:
        """Where the time went so far; may be asked for at any time, by any thread."""
        read_s, decode_s, idle_s, num_restarts = self._read_s, self._decode_s, 0.0, 0
        since = self._reading_since
        read_s += monotonic() - since if since is not None else 0.0
        if self._dispatcher is not None:
            read_s, decode_s, idle_s, num_restarts = self._dispatcher.spent()
        source_s = self._source_s + (self._pull.source_s if self._pull is not None else 0.0)
        return PoolStats(num_restarts, self._wait_s, source_s, read_s, decode_s, idle_s)

    @property
    def process_ids(self) -> list[int]:
        """Of the workers that run now."""
        return self._dispatcher.process_ids() if self._dispatcher is not None else []

    def map(self, refs: Iterator[tuple[Any, PictureRef]]) -> Iterator[Outcome]:
        """Make every picture of `refs` (pairs of a tag and a ref; may be endless): outcomes in the same order.

        `refs` is read by a thread, `num_slots` ahead of what was released at most; what it raises is raised here after the
        outcomes before it. One `map` at a time; closing it early drops what is under way, and the pool can be used again.
        Raises BeholderError when workers cannot be started or die without end.
        """
        if not self._mapping.acquire(blocking=False):
            raise RuntimeError("a decode pool runs one map at a time")
        try:
            if self._num_workers == 0:
                yield from self._map_here(refs)
            elif self._dispatcher is None:
                raise RuntimeError("use a decode pool in a with statement")
            else:
                yield from self._map_there(refs, self._dispatcher)
        finally:
            self._mapping.release()

    def _map_there(self, refs: Iterator[tuple[Any, PictureRef]], dispatcher: Dispatcher) -> Iterator[Outcome]:
        pull = self._pull = _Pull(self, dispatcher, refs)
        waiting: list[tuple[_PulledJob, Reply]] = []
        try:
            while waiting := self._next_done(pull, dispatcher):
                waiting.reverse()
                while waiting:
                    job, reply = waiting.pop()
                    if reply.reason is not None or reply.are_known:
                        self._free_slot(job.slot)
                        yield _outcome(job.tag, reply, None, None)
                    else:
                        yield _outcome(job.tag, reply, dispatcher.slots.pixels[job.slot], partial(self._free_slot, job.slot))
        finally:
            for job, _ in waiting:
                self._free_slot(job.slot)
            pull.close(_JOIN_S)
            self._source_s += pull.source_s
            self._pull = None

    def _next_done(self, pull: _Pull, dispatcher: Dispatcher) -> list[tuple[_PulledJob, Reply]]:
        """The next pictures in order that are done, at least one; empty at the end."""
        began = monotonic()
        try:
            with self._lock:
                while not (found := pull.take()):
                    dispatcher.check()
                    if pull.is_over:
                        if pull.error is not None:
                            raise pull.error
                        return []
                    if pull.num_under_way < self._few:  # the next free slot is worth a wake-up
                        self._room.notify_all()
                    self._done.wait(_WAIT_S)
                return found
        finally:
            self._wait_s += monotonic() - began

    def _take_done(self, results: list[tuple[_PulledJob, Reply]]) -> None:
        """What the dispatcher tells of jobs."""
        with self._lock:
            for job, reply in results:
                job.pull.finish(job, reply)
            if any(pull.has_next for pull in {job.pull for job, _ in results}):
                self._done.notify_all()

    def _wake(self, _: BaseException | None) -> None:
        with self._lock:
            self._done.notify_all()

    def _put_slot(self, slot: int) -> None:
        """Give a slot back; called with the lock held."""
        self._free.append(slot)
        if len(self._free) >= self._low_water:
            self._room.notify_all()

    def _free_slot(self, slot: int) -> None:
        with self._lock:
            self._put_slot(slot)

    def _map_here(self, refs: Iterator[tuple[Any, PictureRef]]) -> Iterator[Outcome]:
        """Everything in this thread."""
        prepare: Prepare = function_of(self._options.decoder)
        with contextlib.closing(OpenArchives()) as archives:
            while True:
                began = monotonic()
                pair = next(refs, None)
                self._source_s += monotonic() - began
                if pair is None:
                    return
                tag, ref = pair
                outcome = (
                    _outcome(tag, Reply(are_known=True), None, None) if ref.is_done else self._make(tag, ref, prepare, archives)
                )
                self._wait_s += monotonic() - began
                yield outcome

    def _make(self, tag: Any, ref: PictureRef, prepare: Prepare, archives: OpenArchives) -> Outcome:
        """As a worker does."""
        options, reply = self._options, Reply()
        assert options.pixels is not None
        limits = ReadLimits(max_bytes=options.max_bytes, timeout_s=options.timeout_s)
        began, read_s, pixel_options = monotonic(), self._read_s, options.pixels

        def read() -> bytes:
            self._reading_since = monotonic()
            try:
                return read_bytes(ref, limits, archives)
            finally:
                self._read_s += monotonic() - self._reading_since
                self._reading_since = None

        found = attempt(reply, ref, read, lambda data: prepare(data, pixel_options))
        self._decode_s += monotonic() - began - (self._read_s - read_s)
        if found is None:
            return _outcome(tag, reply, None, None)
        reply.width, reply.height, reply.traits = found.width, found.height, int(found.traits)
        return _outcome(tag, reply, found.pixels, None)


@dataclass(slots=True, eq=False, kw_only=True)
class _PulledJob(Job):
    """A picture and its place in the order of its pull."""

    pull: _Pull
    number: int
    tag: Any

    @property
    def is_dropped(self) -> bool:
        """Whether its pull was closed."""
        return self.pull.closed


class _Pull:
    """Reads one iterator in a thread, as far ahead as there are slots and `ahead_bytes` allow."""

    def __init__(self, pool: DecodePool, dispatcher: Dispatcher, refs: Iterator[tuple[Any, PictureRef]]) -> None:
        self._pool, self._dispatcher, self._refs = pool, dispatcher, iter(refs)
        self._bytes_ahead = 0
        self._finished: dict[int, tuple[_PulledJob, Reply]] = {}
        self._next = 0
        self._num_pulled = 0
        self._at_end = False
        self.closed = False
        self.error: BaseException | None = None
        """What the iterator raised; due when all before it is taken."""
        self.source_s = 0.0
        """Seconds spent in the iterator."""
        self._thread = threading.Thread(target=self._work, name="beholder-pull", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            while (slot := self._wait_for_slot()) is not None:
                if not self._pull_one(slot):
                    break
        except BaseException as error:  # handed to the consumer, which raises it
            self.error = error
        finally:
            try:
                close = getattr(self._refs, "close", None)
                if close is not None:
                    close()
            except BaseException as error:
                self.error = self.error or error
            with self._pool._lock:
                self._at_end = True
                self._pool._done.notify_all()

    def _wait_for_slot(self) -> int | None:
        """A slot, once there is one and not too many bytes wait; None when closed."""
        with self._pool._lock:
            while not self.closed:
                if self._bytes_ahead <= self._pool._ahead_bytes and self._pool._free:
                    return self._pool._free.pop()  # the one used last, which is still in the cache
                self._pool._room.wait()
        return None

    def _pull_one(self, slot: int) -> bool:
        """Take one ref from the iterator and hand it on; False at its end."""
        pair = None
        began = monotonic()
        try:
            pair = next(self._refs, None)
        finally:
            self.source_s += monotonic() - began
            if pair is None:
                with self._pool._lock:
                    self._pool._put_slot(slot)
        if pair is None:
            return False
        tag, ref = pair
        max_bytes = self._pool._options.max_bytes
        if ref.data is not None and len(ref.data) > max_bytes:
            ref = PictureRef(error=too_many_bytes(len(ref.data), max_bytes))
        remote = ref.data is None and ref.path is not None and not storage.is_local(ref.path)
        job = _PulledJob(ref=ref, slot=slot, remote=remote, pull=self, number=self._num_pulled, tag=tag)
        self._num_pulled += 1
        if ref.error is not None or ref.is_done:  # (no bytes then)
            reply = Reply(are_known=ref.is_done)
            if ref.error is not None:
                reply.reason, reply.message = ref.error
            self._pool._take_done([(job, reply)])
            return True
        if ref.data is not None:
            with self._pool._lock:
                self._bytes_ahead += len(ref.data)
        self._dispatcher.submit(job)
        return True

    def finish(self, job: _PulledJob, reply: Reply) -> None:
        """Note a result; called with the lock held. Results of a closed pull are dropped."""
        if job.ref.data is not None:
            was_full = self._bytes_ahead > self._pool._ahead_bytes
            self._bytes_ahead -= len(job.ref.data)
            if was_full:
                self._pool._room.notify_all()
        if self.closed:
            self._pool._put_slot(job.slot)
        else:
            self._finished[job.number] = (job, reply)

    @property
    def has_next(self) -> bool:
        """Whether the next result in order is there; called with the lock held."""
        return self._next in self._finished

    @property
    def num_under_way(self) -> int:
        """Pictures that were pulled and not taken; called with the lock held."""
        return self._num_pulled - self._next

    @property
    def is_over(self) -> bool:
        """Whether every result was taken and the iterator is at its end; called with the lock held."""
        return self._at_end and self._next == self._num_pulled

    def take(self) -> list[tuple[_PulledJob, Reply]]:
        """All results that are next in order; called with the lock held."""
        found = []
        while (done := self._finished.pop(self._next, None)) is not None:
            found.append(done)
            self._next += 1
        return found

    def close(self, patience_s: float) -> None:
        """Stop the thread and drop what is under way. A thread that hangs in the iterator is left after `patience_s`."""
        with self._pool._lock:
            self.closed = True
            for job, _ in self._finished.values():
                self._pool._put_slot(job.slot)
            self._finished.clear()
            self._pool._room.notify_all()
        self._thread.join(patience_s)
