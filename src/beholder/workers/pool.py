"""Pools of workers that may crash, hang or run out of memory: pixels of pictures in order, and thumbnails on demand."""

from __future__ import annotations

import collections
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from beholder.columns import PictureReason
from beholder.errors import InputError
from beholder.io import storage
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


@dataclass(slots=True, eq=False)
class Outcome:
    """What became of one picture.

    Attributes:
        tag: what stood beside its ref.
        reply: what is known of it; `reply.are_known`: it was not decoded, as its contents are those that were `known`, or
            nothing was to be done.
        pixels: (size_px, size_px, 3) uint8 in shared memory, valid until `release`; None when there is an error, or the
            contents are known.
    """

    tag: Any
    reply: Reply
    pixels: npt.NDArray[np.uint8] | None = None
    _give_back: Callable[[], None] | None = None

    @property
    def error(self) -> PictureError | None:
        """Why there are no pixels."""
        return PictureError(self.reply.reason, self.reply.message) if self.reply.reason is not None else None

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
        ahead_bytes: no more refs are taken while those that wait hold more bytes of `data` than this.
        most_deaths: so many deaths of workers with no picture in between end the job with BeholderError.
        decoder: "package.module:function" that workers decode with.
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
        """Make ready; each worker is started when there is a picture for it. Raises BeholderError: none could be."""
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
        dispatcher.check()
        ahead = self._ahead = _ReadAhead(self, dispatcher, refs)
        try:
            while True:
                began = monotonic()
                try:
                    job = ahead.first()
                    if job is None:
                        return
                    reply = job.reply.result()
                finally:
                    self._wait_s += monotonic() - began
                ahead.remove_first()
                if reply.reason is not None or reply.are_known:
                    self._free_slot(job.slot)
                    yield Outcome(job.tag, reply)
                else:
                    yield Outcome(job.tag, reply, dispatcher.slots.pixels[job.slot], partial(self._free_slot, job.slot))
        finally:
            ahead.close()
            self._source_s += ahead.source_s
            self._ahead = None

    def _free_slot(self, slot: int, _: Any = None) -> None:
        with self._lock:
            self._free.append(slot)
            if len(self._free) >= self._low_water or self._ahead is None or len(self._ahead.jobs) < self._few:
                self._room.notify_all()

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
                outcome = Outcome(tag, Reply(are_known=True)) if ref.is_done else self._make(tag, ref, prepare, archives)
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
            return Outcome(tag, reply)
        reply.width, reply.height, reply.traits = found.width, found.height, int(found.traits)
        return Outcome(tag, reply, found.pixels)


@dataclass(slots=True, eq=False, kw_only=True)
class _TaggedJob(Job):
    """A picture, and what stood beside its ref."""

    tag: Any


class _ReadAhead:
    """Reads one iterator in a thread, as far ahead as there are slots and `ahead_bytes` allow, and has its pictures made."""

    def __init__(self, pool: DecodePool, dispatcher: Dispatcher, refs: Iterator[tuple[Any, PictureRef]]) -> None:
        self._pool, self._dispatcher, self._refs = pool, dispatcher, iter(refs)
        self.jobs: collections.deque[_TaggedJob] = collections.deque()
        """Those that were not taken yet, in order."""
        self._more = threading.Condition(pool._lock)
        self._bytes_ahead = 0
        self._at_end = self._is_closed = False
        self._error: BaseException | None = None
        """What the iterator raised; due when all before it is taken."""
        self.source_s = 0.0
        """Seconds spent in the iterator."""
        self._thread = threading.Thread(target=self._work, name="beholder-read-ahead", daemon=True)
        self._thread.start()

    def first(self) -> _TaggedJob | None:
        """The next job in order; None at the end. Raises what the iterator raised, or what ended the dispatcher."""
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

    def remove_first(self) -> None:
        """The next job was taken."""
        with self._pool._lock:
            job = self.jobs.popleft()
            was_full = self._bytes_ahead > self._pool._ahead_bytes
            self._bytes_ahead -= len(job.ref.data or b"")
            if was_full or len(self.jobs) < self._pool._few:
                self._pool._room.notify_all()

    def close(self) -> None:
        """Stop the thread and drop what is under way. A thread that hangs in the iterator is left after `_JOIN_S`."""
        with self._pool._lock:
            self._is_closed = True
            self._pool._room.notify_all()
        for job in self.jobs:
            job.is_dropped = True
            job.reply.add_done_callback(partial(self._pool._free_slot, job.slot))
        self._thread.join(_JOIN_S)

    def _work(self) -> None:
        try:
            while (slot := self._wait_for_slot()) is not None and self._read_one(slot):
                pass
        except BaseException as error:  # handed to the consumer, which raises it
            self._error = error
        finally:
            try:
                close = getattr(self._refs, "close", None)
                if close is not None:
                    close()
            except BaseException as error:
                self._error = self._error or error
            with self._pool._lock:
                self._at_end = True
                self._more.notify_all()

    def _wait_for_slot(self) -> int | None:
        """A slot, once there is one and not too many bytes wait; None when closed."""
        with self._pool._lock:
            while not self._is_closed:
                if self._bytes_ahead <= self._pool._ahead_bytes and self._pool._free:
                    return self._pool._free.pop()  # the one used last, which is still in the cache
                self._pool._room.wait()
        return None

    def _read_one(self, slot: int) -> bool:
        """Take one ref from the iterator and hand it on; False at its end, and when closed meanwhile."""
        pair, began = None, monotonic()
        try:
            pair = next(self._refs, None)
        finally:
            self.source_s += monotonic() - began
            if pair is None:
                with self._pool._lock:
                    self._pool._free.append(slot)
        if pair is None:
            return False
        tag, ref = pair
        max_bytes = self._pool._options.max_bytes
        if ref.data is not None and len(ref.data) > max_bytes:
            ref = PictureRef(error=too_many_bytes(len(ref.data), max_bytes))
        remote = ref.data is None and ref.path is not None and not storage.is_local(ref.path)
        job = _TaggedJob(ref=ref, slot=slot, remote=remote, tag=tag)
        with self._pool._lock:
            if self._is_closed:
                self._pool._free.append(slot)
                return False
            self._bytes_ahead += len(ref.data or b"")
            self.jobs.append(job)
            self._more.notify_all()
        if ref.is_done:
            job.reply.set_result(Reply(are_known=True))
        elif ref.error is not None:
            job.reply.set_result(Reply(reason=ref.error[0], message=ref.error[1]))
        else:
            self._dispatcher.submit(job)
        return True


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
            self._dispatcher.submit(job)
        return job.reply.result()


def is_large(data: bytes) -> bool:
    """Whether a picture, by its header, is one of those that are decoded one at a time. Raises PictureError: it is none."""
    width, height = stored_size(data, sniff(data)) or (0, 0)
    return width * height > _LARGE_PIXELS
