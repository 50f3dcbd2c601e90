"""Pools of workers that may crash, hang or run out of memory: pixels of pictures in order, and thumbnails on demand."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from beholder.columns import PictureReason
from beholder.errors import InputError
from beholder.io import locations
from beholder.options import PICTURE_TIMEOUT_S, THUMBNAIL_TIMEOUT_S
from beholder.pixels.picture import MAX_PIXELS, PictureError, PixelOptions, Prepare
from beholder.pixels.sniff import sniff, stored_size
from beholder.pixels.thumbnail import MEDIA_TYPES, SQUARE_TYPE, Thumbnail, ThumbnailKind, check_request
from beholder.sources.fetch import OpenArchives, ReadLimits, read_bytes, too_many_bytes
from beholder.sources.reader import PictureRef
from beholder.workers.child_process import memory_for
from beholder.workers.dispatcher import Dispatcher, Job
from beholder.workers.protocol import Reply, WorkerOptions
from beholder.workers.worker import attempt, function_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DEFAULT_DECODER = "beholder.pixels.decode:prepare"
_JOIN_S = 5.0
_WAIT_S = 1.0
_MOST_TOGETHER = 64
_GATHER_S = 0.02
"""Outcomes are handed on so many together; the consumer, once it has one, waits for the others at most so long. Each time it
wakes costs as much as several pictures."""
Refs = Sequence[tuple[Any, PictureRef]]
"""Pairs of a tag and a picture."""


@dataclass(slots=True, eq=False)
class Outcome:
    """What became of one picture.

    Attributes:
        tag: what stood beside its ref.
        reply: what is known of it; `reply.are_known`: it was not decoded, as its contents are those that were `known`, or
            nothing was to be done.
    """

    tag: Any
    reply: Reply
    _pool: DecodePool
    _slot: int = -1
    """Where its pixels are in the pool's memory; -1: nowhere, or in an array of their own."""
    _own: npt.NDArray[np.uint8] | None = None

    @property
    def pixels(self) -> npt.NDArray[np.uint8] | None:
        """(size_px, size_px, 3) uint8 in shared memory, valid until `release`.

        None when there is an error, or the contents are known, and after `release`.
        """
        return self._own if self._slot < 0 else self._pool._pixels[self._slot]

    @property
    def error(self) -> PictureError | None:
        """Why there are no pixels."""
        return PictureError(self.reply.reason, self.reply.message) if self.reply.reason is not None else None

    def release(self) -> None:
        """Give the pixels' place back: `pixels` is None from now on. Once is enough; more does nothing."""
        self._own = None
        if self._slot >= 0:
            slot, self._slot = self._slot, -1
            self._pool._free_slots([slot])

    def take(self, out: npt.NDArray[np.uint8]) -> None:
        """Copy the pixels to `out` (a row of a batch) and release them."""
        assert self.pixels is not None
        out[...] = self.pixels
        self.release()


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
        num_workers: processes, at most (and never more than pictures). 0: everything is done in the calling thread; then
            nothing guards against crashes and hangs (only reads from servers are timed), and `pixels` is an array of its own.
        timeout_s: seconds for one picture, reading and decoding.
        num_slots: pictures taken from the iterator and not released yet, at most. A consumer must not hold that many.
        max_bytes: pictures with more bytes are TOO_LARGE.
        memory_bytes: what a worker may use beyond what it starts with; a picture that needs more is TOO_LARGE (Linux).
            None: 32 bytes for each of `options.max_pixels`, at least 4 GiB; 0: no limit.
        num_readers: URLs read at the same time by each worker.
        ahead_bytes: refs that were taken and wait hold at most so many bytes of `data`, room for two groups more included: the
            one that is being read, and the last one, which its source may hold until then. One group is taken however large.
        most_deaths: so many deaths of workers with no picture in between end the job with BeholderError.
        decoder: "package.module:function" that workers decode with.
        stands_back: workers leave cores first to other processes, such as the one that feeds a device with their pixels.
    """

    def __init__(
        self,
        options: PixelOptions,
        *,
        num_workers: int,
        timeout_s: float = PICTURE_TIMEOUT_S,
        num_slots: int = 256,
        max_bytes: int = 1 << 30,
        memory_bytes: int | None = None,
        num_readers: int = 8,
        ahead_bytes: int = 384 << 20,
        most_deaths: int = 200,
        decoder: str = DEFAULT_DECODER,
        stands_back: bool = False,
    ) -> None:
        if num_workers < 0 or num_slots < 1 or num_readers < 1 or not timeout_s > 0:
            raise InputError("a decode pool needs 0 or more workers, 1 or more slots and readers, and a time limit above 0")
        self._options = WorkerOptions(
            decoder=decoder, pixels=options, timeout_s=timeout_s, max_bytes=max_bytes, num_readers=num_readers,
            memory_bytes=memory_for(options.max_pixels) if memory_bytes is None else memory_bytes, stands_back=stands_back,
        )  # fmt: skip
        self._num_workers, self._num_slots = num_workers, num_slots
        self._ahead_bytes, self._most_deaths = ahead_bytes, most_deaths
        self._few = 4 * num_workers
        """With fewer pictures under way, more are read whenever there is a slot."""
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._free = list(range(num_slots))
        self._low_water = max(1, num_slots // 8)
        self._dispatcher: Dispatcher | None = None
        self._mapping = threading.Lock()
        self._wait_s = self._source_s = self._read_s = self._decode_s = 0.0
        self._ahead: _ReadAhead | None = None
        self._reading_since: float | None = None

    def __enter__(self) -> DecodePool:
        """Make ready; each worker is started when there is a picture for it. Raises BeholderError: none could be.

        The transform of another library's tower is made here first: what is wrong with it is one line, not every worker's end.
        """
        if self._options.pixels is not None and self._options.pixels.transform:
            from beholder.pixels.library import get_ready

            get_ready(self._options.pixels)
        if self._num_workers and self._dispatcher is None:
            self._dispatcher = Dispatcher(
                self._options, num_workers=self._num_workers, num_slots=self._num_slots, most_deaths=self._most_deaths,
                advice="mend that, or use none (0 workers)",
            )  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        """End the workers."""
        self.close()

    def close(self) -> None:
        """End the workers; pixels that were not released stay valid as long as they are referred to."""
        if self._dispatcher is not None:
            self._dispatcher.close()

    @property
    def stats(self) -> PoolStats:
        """Where the time went so far; may be asked for at any time, by any thread."""
        read_s, decode_s, idle_s, num_restarts = self._read_s, self._decode_s, 0.0, 0
        since = self._reading_since
        read_s += monotonic() - since if since is not None else 0.0
        if self._dispatcher is not None:
            read_s, decode_s, idle_s, num_restarts = self._dispatcher.spent()
        source_s = self._source_s + (self._ahead.source_s if self._ahead is not None else 0.0)
        return PoolStats(num_restarts, self._wait_s, source_s, read_s, decode_s, idle_s)

    @property
    def process_ids(self) -> list[int]:
        """Of the workers that run now."""
        return self._dispatcher.process_ids() if self._dispatcher is not None else []

    @property
    def num_warm(self) -> int:
        """Workers that have made a picture, with all that is loaded for the first one."""
        return self._dispatcher.num_warm() if self._dispatcher is not None else 0

    def map(self, refs: Iterator[tuple[Any, PictureRef]]) -> Iterator[Outcome]:
        """Make every picture of `refs` (pairs of a tag and a ref; may be endless): outcomes in the same order.

        As `map_groups` does, one by one.
        """
        for group in self.map_groups(_Singly(refs)):
            num_given = 0
            try:
                for outcome in group:
                    num_given += 1
                    yield outcome
            finally:  # closed early: nobody has seen the rest
                for outcome in group[num_given:]:
                    outcome.release()

    def map_groups(self, groups: Iterator[Refs]) -> Iterator[list[Outcome]]:
        """Make every picture of all `groups` (which may be endless): outcomes in the same order, many at a time.

        What comes out together need not have come in together: as many as are done, and at least one.
        `groups` is read by a thread, `num_slots` ahead of what was released at most (and one group); what it raises is raised
        here after the outcomes before it. One `map` at a time; closing it early drops what is under way, and the pool can be
        used again.
        Raises BeholderError when workers cannot be started or die without end.
        """
        if not self._mapping.acquire(blocking=False):
            raise RuntimeError("a decode pool runs one map at a time")
        try:
            if self._num_workers == 0:
                yield from self._map_here(groups)
            elif self._dispatcher is None:
                raise RuntimeError("use a decode pool in a with statement")
            else:
                yield from self._map_there(groups, self._dispatcher)
        finally:
            self._mapping.release()

    def take(self, outcomes: Sequence[Outcome], out: npt.NDArray[np.uint8]) -> None:
        """Copy the pixels of these outcomes to `out`, (N, size_px, size_px, 3), and release them all."""
        slots = [outcome._slot for outcome in outcomes]
        if not slots or min(slots) < 0:
            for outcome, row in zip(outcomes, out, strict=True):
                outcome.take(row)
            return
        self._pixels.take(slots, axis=0, out=out, mode="clip")  # ("raise" would make another copy)
        for outcome in outcomes:
            outcome._slot = -1
        self._free_slots(slots)

    @property
    def _pixels(self) -> npt.NDArray[np.uint8]:
        assert self._dispatcher is not None
        return self._dispatcher.slots.pixels

    def _map_there(self, groups: Iterator[Refs], dispatcher: Dispatcher) -> Iterator[list[Outcome]]:
        dispatcher.check()
        ahead = self._ahead = _ReadAhead(self, dispatcher, groups)
        try:
            while True:
                began = monotonic()
                try:
                    jobs = ahead.take()
                finally:
                    self._wait_s += monotonic() - began
                if not jobs:
                    return
                outcomes, unused = [], []
                for job in jobs:
                    assert job.reply is not None
                    has_none = job.reply.reason is not None or job.reply.are_known
                    outcomes.append(Outcome(job.tag, job.reply, self, -1 if has_none else job.slot))
                    if has_none:
                        unused.append(job.slot)
                if unused:
                    self._free_slots(unused)
                yield outcomes
        finally:
            ahead.close()
            self._source_s += ahead.source_s
            self._ahead = None

    def _free_slots(self, slots: Sequence[int]) -> None:
        with self._lock:
            self._free.extend(slots)
            if len(self._free) >= self._low_water or self._ahead is None or len(self._ahead.jobs) < self._few:
                self._room.notify_all()

    def _map_here(self, groups: Iterator[Refs]) -> Iterator[list[Outcome]]:
        """Everything in this thread, one by one."""
        prepare: Prepare = function_of(self._options.decoder)
        with contextlib.closing(OpenArchives()) as archives:
            while True:
                began = monotonic()
                group = next(groups, None)
                self._source_s += monotonic() - began
                if group is None:
                    return
                for tag, ref in group:
                    outcome = (
                        Outcome(tag, Reply(are_known=True), self) if ref.is_done else self._make(tag, ref, prepare, archives)
                    )
                    self._wait_s += monotonic() - began
                    yield [outcome]
                    began = monotonic()

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
            return Outcome(tag, reply, self)
        reply.width, reply.height, reply.traits = found.width, found.height, int(found.traits)
        return Outcome(tag, reply, self, _own=found.pixels)


class _Singly:
    """An iterator's items as groups of one; closed with it."""

    def __init__(self, refs: Iterator[tuple[Any, PictureRef]]) -> None:
        self._refs = iter(refs)

    def __iter__(self) -> _Singly:
        return self

    def __next__(self) -> Refs:
        return [next(self._refs)]

    def close(self) -> None:
        """Close the iterator, where it can be."""
        close = getattr(self._refs, "close", None)
        if close is not None:
            close()


@dataclass(slots=True, eq=False, kw_only=True)
class _TaggedJob(Job):
    """A picture, and what stood beside its ref."""

    tag: Any


class _ReadAhead:
    """Reads one iterator in a thread, as far ahead as there are slots and `ahead_bytes` allow, and has its pictures made."""

    def __init__(self, pool: DecodePool, dispatcher: Dispatcher, groups: Iterator[Refs]) -> None:
        self._pool, self._dispatcher, self._groups = pool, dispatcher, iter(groups)
        self.jobs: collections.deque[_TaggedJob] = collections.deque()
        """Those that were not taken yet, in order."""
        self._more = threading.Condition(pool._lock)
        self._most = max(1, min(_MOST_TOGETHER, pool._num_slots // 4))
        self._bytes_ahead = self._most_in_group = 0
        """Bytes of what was read and is not taken yet, and of the largest group."""
        self._at_end = self._is_closed = False
        self._error: BaseException | None = None
        """What the iterator raised; due when all before it is taken."""
        self.source_s = 0.0
        """Seconds spent in the iterator."""
        self._thread = threading.Thread(target=self._work, name="beholder-read-ahead", daemon=True)
        self._thread.start()

    def take(self) -> list[_TaggedJob]:
        """The next jobs in order, all done, at least one; none at the end.

        Raises what the iterator raised, or what ended the dispatcher.
        """
        first = self._first()
        if first is None:
            return []
        self._dispatcher.wait_for(first)
        with self._pool._lock:
            some = list(itertools.islice(self.jobs, self._most))
        if some[-1].reply is None:
            self._dispatcher.wait_for(some[-1], _GATHER_S)
        done = list(itertools.takewhile(lambda job: job.reply is not None, some))
        self._remove(done)
        return done

    def _first(self) -> _TaggedJob | None:
        """The next job in order; None at the end."""
        if self.jobs:  # (only this thread takes them away)
            return self.jobs[0]
        with self._pool._lock:
            while not self.jobs:
                if self._at_end:
                    if self._error is not None:
                        raise self._error
                    return None
                self._dispatcher.check()
                self._pool._room.notify_all()  # any free slot is worth a wake-up
                self._more.wait(_WAIT_S)
            return self.jobs[0]

    def _remove(self, taken: Sequence[_TaggedJob]) -> None:
        """The next jobs were taken."""
        with self._pool._lock:
            was_full = not self._has_memory()
            for job in taken:
                self.jobs.popleft()
                self._bytes_ahead -= len(job.ref.data or b"")
            if was_full or len(self.jobs) < self._pool._few:
                self._pool._room.notify_all()

    def close(self) -> None:
        """Stop the thread and drop what is under way. A thread that hangs in the iterator is left after `_JOIN_S`."""
        with self._pool._lock:
            self._is_closed = True
            self._pool._room.notify_all()
        for job in self.jobs:
            self._dispatcher.drop(job, partial(self._pool._free_slots, [job.slot]))
        self._thread.join(_JOIN_S)

    def _work(self) -> None:
        try:
            while self._wait_for_room(for_group=True) and (jobs := self._read()) is not None:
                self._hand_on(jobs)
                del jobs  # nor the bytes of its pictures, while the next group is read
        except BaseException as error:  # handed to the consumer, which raises it
            self._error = error
        finally:
            try:
                close = getattr(self._groups, "close", None)
                if close is not None:
                    close()
            except BaseException as error:
                self._error = self._error or error
            with self._pool._lock:
                self._at_end = True
                self._more.notify_all()

    def _wait_for_room(self, *, for_group: bool = False) -> bool:
        """Wait until there is a slot, and for another group memory; False when closed."""
        with self._pool._lock:
            while not self._is_closed:
                if self._pool._free and (not for_group or self._has_memory()):
                    return True
                self._pool._room.wait()
        return False

    def _has_memory(self) -> bool:
        """Whether another group may be read, while the source still holds the last one."""
        return not self._bytes_ahead or self._bytes_ahead + 2 * self._most_in_group <= self._pool._ahead_bytes

    def _read(self) -> list[_TaggedJob] | None:
        """The jobs of the next group; None at the end."""
        began = monotonic()
        try:
            group = next(self._groups, None)
        finally:
            self.source_s += monotonic() - began
        if group is None:
            return None
        jobs = [self._job_of(tag, ref) for tag, ref in group]
        num_bytes = sum(len(job.ref.data or b"") for job in jobs)
        with self._pool._lock:
            self._bytes_ahead += num_bytes
            self._most_in_group = max(self._most_in_group, num_bytes)
        return jobs

    def _hand_on(self, jobs: Sequence[_TaggedJob]) -> None:
        """Have the pictures of a group made, as many at a time as there are slots."""
        start = 0
        while start < len(jobs) and self._wait_for_room():
            with self._pool._lock:
                stop = start
                while stop < len(jobs) and self._pool._free and not self._is_closed:
                    jobs[stop].slot = self._pool._free.pop()  # the one used last, which is still in the cache
                    stop += 1
                some = jobs[start:stop]
                self.jobs.extend(some)
                self._more.notify_all()
            self._dispatcher.submit([job for job in some if job.reply is None])
            start = stop

    def _job_of(self, tag: Any, ref: PictureRef) -> _TaggedJob:
        """The job of a picture; done already where there is nothing to do."""
        max_bytes, data = self._pool._options.max_bytes, ref.data
        error = ref.error if data is None or len(data) <= max_bytes else too_many_bytes(len(data), max_bytes)
        if error is not None:
            return _TaggedJob(ref=PictureRef(error=error), tag=tag, reply=Reply(reason=error[0], message=error[1]))
        if ref.is_done:
            return _TaggedJob(ref=ref, tag=tag, reply=Reply(are_known=True))
        remote = data is None and ref.path is not None and not locations.is_local(ref.path)
        return _TaggedJob(ref=ref, remote=remote, tag=tag)


DEFAULT_THUMBNAILER = "beholder.pixels.thumbnail:make_thumbnail"
_MOST_DEATHS = 1 << 30
"""A page lives as long as it is looked at, whatever its pictures do."""
_LARGE_PIXELS = 32_000_000
"""Pictures with more pixels are decoded one at a time, so that workers together need little more memory than one."""
_LARGE = threading.Lock()


class ThumbnailPool:
    """Makes thumbnails in other processes, whatever the pictures do to the decoder. Any number of threads may ask.

        with ThumbnailPool() as pool:
            small = pool.make(data, longest_px=240)

    The bytes that come out are those of `make_thumbnail` in this process. A picture that takes longer than `timeout_s` is
    TIMED_OUT; one over which two workers crash, or five are killed, is CRASHED; one that needs more memory than a worker may
    use is TOO_LARGE (Linux).

    Workers are fresh interpreters that load neither numpy (but for a tower's square) nor torch; each is started when a picture
    first needs it, and ends with the pool or, however that may come, with this process.

    Args:
        num_workers: processes, at most (and never more than threads that ask at once); None: one a core.
        timeout_s: seconds for one picture, from when a worker has it.
        memory_bytes: what a worker may use beyond what it starts with; None: as for scores (`memory_for`); 0: no limit.
        decoder: "package.module:function" that workers call as `make_thumbnail`.
    """

    def __init__(
        self,
        *,
        num_workers: int | None = None,
        timeout_s: float = THUMBNAIL_TIMEOUT_S,
        memory_bytes: int | None = None,
        decoder: str = DEFAULT_THUMBNAILER,
    ) -> None:
        num_workers = len(os.sched_getaffinity(0)) if num_workers is None else num_workers
        if num_workers < 1 or not timeout_s > 0:
            raise InputError("a thumbnail pool needs 1 or more workers, and a time limit above 0")
        self._num_workers, self._timeout_s = num_workers, timeout_s
        memory_bytes = memory_for(MAX_PIXELS) if memory_bytes is None else memory_bytes
        self._options = WorkerOptions(decoder=decoder, timeout_s=timeout_s, memory_bytes=memory_bytes)
        self._lock = threading.Lock()
        self._dispatcher: Dispatcher | None = None
        self._is_closed = False

    def __enter__(self) -> ThumbnailPool:
        """Nothing is started yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        """End the workers."""
        self.close()

    @property
    def process_ids(self) -> list[int]:
        """Of the workers that run now."""
        dispatcher = self._dispatcher
        return dispatcher.process_ids() if dispatcher is not None else []

    def close(self) -> None:
        """End the workers; whoever waits for one gets a RuntimeError."""
        with self._lock:
            self._is_closed = True
            dispatcher = self._dispatcher
        if dispatcher is not None:
            dispatcher.close()

    def make(
        self,
        data: bytes,
        *,
        longest_px: int = 320,
        quality: int = 78,
        kind: ThumbnailKind = "webp",
        spent_s: float = 0.0,
        pixels: PixelOptions | None = None,
    ) -> Thumbnail:
        """A small picture, as `make_thumbnail` makes it. Waits for a free worker; that time does not count.

        Args:
            data: the bytes of a file.
            longest_px: of the longer side, at most.
            quality: 1 to 100.
            kind: "webp" or "jpeg".
            spent_s: seconds of the picture's time that went by with reading it.
            pixels: see `make_thumbnail`.

        Raises:
            PictureError: and nothing else on account of `data`, whatever it holds.
            InputError: there is no such kind, size or quality.
            BeholderError: workers cannot be started.
            RuntimeError: the pool is closed.
        """
        check_request(longest_px, quality, kind)
        if spent_s >= self._timeout_s:
            text = f"reading and decoding took longer than {self._timeout_s:g} s"
            raise PictureError(PictureReason.TIMED_OUT, text)
        how: dict[str, Any] = {"longest_px": longest_px, "quality": quality, "kind": kind}
        if pixels is not None:
            how["pixels"] = pixels.to_json()
        with _LARGE if is_large(data) else contextlib.nullcontext():
            reply = self._ask(Job(ref=PictureRef(data=data), how=how, spent_s=spent_s))
        if reply.reason is not None:
            raise PictureError(reply.reason, reply.message)
        if reply.message not in (*MEDIA_TYPES.values(), SQUARE_TYPE):  # else a hostile picture could have a page sent
            raise PictureError(PictureReason.CRASHED, "the decoder crashed on it: what it sent is no thumbnail")
        return Thumbnail(reply.data, reply.message, reply.width, reply.height, bool(reply.traits))

    def _ask(self, job: Job) -> Reply:
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the thumbnail pool is closed")
            if self._dispatcher is None or self._dispatcher.has_ended:  # what the last one failed over may be mended
                self._dispatcher = Dispatcher(
                    self._options, num_workers=self._num_workers, num_slots=0, most_deaths=_MOST_DEATHS, most_queued=1,
                    advice="mend that (memory, ulimit -n, ulimit -u, ulimit -v), then try again",
                )  # fmt: skip
            dispatcher = self._dispatcher
            dispatcher.submit([job])
        reply = dispatcher.wait_for(job)
        assert reply is not None  # (patience without end)
        return reply


def is_large(data: bytes) -> bool:
    """Whether a picture, by its header, is one of those that are decoded one at a time. Raises PictureError: it is none."""
    width, height = stored_size(data, sniff(data)) or (0, 0)
    return width * height > _LARGE_PIXELS
