"""Pictures that are not decoded yet in, their pixels out in the same order, made by worker processes that may crash or hang."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from beholder.errors import BeholderError, InputError
from beholder.pixels.picture import PictureError, PictureRef, PixelOptions, Prepare, Trait, contents_digest
from beholder.sources.fetch import OpenArchives, ReadLimits, read_bytes
from beholder.workers.dispatcher import Dispatcher
from beholder.workers.pulling import Finished, Pull
from beholder.workers.worker_process import DEFAULT_DECODER, WorkerSettings
from beholder.workers.worker_setup import failure_of, function_of, memory_for

_JOIN_S = 5.0
_WAIT_S = 1.0


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

    __slots__ = (
        "_pool", "_slot", "are_known", "digest", "error", "height", "num_bytes", "pixels", "tag", "traits", "width",
    )  # fmt: skip

    def __init__(
        self,
        tag: Any,
        pixels: npt.NDArray[np.uint8] | None,
        error: PictureError | None,
        width: int,
        height: int,
        traits: Trait,
        num_bytes: int,
        digest: bytes | None = None,
        *,
        are_known: bool = False,
    ) -> None:
        self.tag, self.pixels, self.error = tag, pixels, error
        self.width, self.height, self.traits, self.num_bytes = width, height, traits, num_bytes
        self.digest, self.are_known = digest, are_known
        self._pool: Dispatcher | None = None
        self._slot = -1

    def release(self) -> None:
        """Give the pixels' place back: `pixels` is None from now on. Once is enough; more does nothing."""
        self.pixels = None
        if self._pool is not None:
            pool, self._pool = self._pool, None
            pool.free_slot(self._slot)

    def take(self, out: npt.NDArray[np.uint8]) -> None:
        """Copy the pixels to `out` (a row of a batch) and release them."""
        assert self.pixels is not None
        out[...] = self.pixels
        self.release()


@dataclass(frozen=True)
class PoolStats:
    """Where the time of a pool went so far.

    Attributes:
        num_done: pictures with an outcome, errors included.
        num_errors: of these.
        num_restarts: workers that died or were ended and replaced.
        num_bytes: bytes of picture files read.
        wait_s: seconds the consumer waited for the next outcome.
        source_s: seconds spent in the iterator of refs (listing, reading archives).
        read_s, decode_s, idle_s: seconds of all workers together: reading or waiting for bytes, decoding, without work.
    """

    num_done: int
    num_errors: int
    num_restarts: int
    num_bytes: int
    wait_s: float
    source_s: float
    read_s: float
    decode_s: float
    idle_s: float

    @property
    def busy(self) -> float:
        """Share of the workers' time spent on reading and decoding, in [0, 1]."""
        total = self.read_s + self.decode_s + self.idle_s
        return (self.read_s + self.decode_s) / total if total > 0 else 0.0

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
        nice: added to the workers' niceness.
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
        nice: int = 0,
        most_deaths: int = 200,
        decoder: str = DEFAULT_DECODER,
    ) -> None:
        if num_workers < 0 or num_slots < 1 or num_readers < 1 or not timeout_s > 0:
            raise InputError("a decode pool needs 0 or more workers, 1 or more slots and readers, and a time limit above 0")
        if memory_bytes is None:
            memory_bytes = memory_for(options.max_pixels)
        self._settings = WorkerSettings(
            options=options, timeout_s=timeout_s, max_bytes=max_bytes, memory_bytes=memory_bytes, num_readers=num_readers,
            nice=nice, decoder=decoder,
        )  # fmt: skip
        self._num_workers, self._num_slots = num_workers, num_slots
        self._ahead_bytes, self._most_deaths = ahead_bytes, most_deaths
        self._dispatcher: Dispatcher | None = None
        self._process_id = -1
        self._mapping = threading.Lock()
        self._num_done = self._num_errors = self._num_bytes = 0
        self._wait_s = self._source_s = self._read_s = self._decode_s = 0.0
        self._pull: Pull | None = None
        self._reading_since: float | None = None

    def __enter__(self) -> DecodePool:
        """Start the workers, without waiting until they are up."""
        if self._num_workers and self._dispatcher is None:
            self._process_id = os.getpid()
            self._dispatcher = Dispatcher(
                self._settings, num_workers=self._num_workers, num_slots=self._num_slots, most_deaths=self._most_deaths
            )
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
        return PoolStats(
            self._num_done, self._num_errors, num_restarts, self._num_bytes, self._wait_s, source_s, read_s, decode_s, idle_s
        )

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
        pull = self._pull = Pull(refs, dispatcher, self._ahead_bytes, self._settings.max_bytes)
        waiting: list[Finished] = []
        try:
            while True:
                waiting = self._next_finished(pull, dispatcher)
                if not waiting:
                    return
                waiting.reverse()
                while waiting:
                    yield self._outcome(waiting.pop(), dispatcher)
        finally:
            for finished in waiting:
                dispatcher.free_slot(finished.slot)
            pull.close(_JOIN_S)
            self._source_s += pull.source_s
            self._pull = None

    def _next_finished(self, pull: Pull, dispatcher: Dispatcher) -> list[Finished]:
        """The next pictures in order that are done, at least one; empty at the end."""
        began = monotonic()
        try:
            with dispatcher.lock:
                while not (found := pull.take()):
                    dispatcher.check()
                    if pull.is_over:
                        if pull.error is not None:
                            raise pull.error
                        return []
                    if pull.runs_dry:
                        dispatcher.room.notify_all()
                    dispatcher.done.wait(_WAIT_S)
                return found
        finally:
            self._wait_s += monotonic() - began

    def _outcome(self, finished: Finished, dispatcher: Dispatcher) -> Outcome:
        self._num_done += 1
        self._num_bytes += finished.num_bytes
        if finished.error is not None:
            self._num_errors += 1
            dispatcher.free_slot(finished.slot)
            return Outcome(finished.tag, None, finished.error, 0, 0, Trait.NONE, finished.num_bytes, finished.digest)
        if finished.are_known:
            dispatcher.free_slot(finished.slot)
            read = (finished.num_bytes, finished.digest)
            return Outcome(finished.tag, None, None, 0, 0, Trait.NONE, *read, are_known=True)
        pixels = dispatcher.slots.pixels[finished.slot]
        read, traits = (finished.num_bytes, finished.digest), Trait(finished.traits)
        outcome = Outcome(finished.tag, pixels, None, finished.width, finished.height, traits, *read)
        outcome._pool, outcome._slot = dispatcher, finished.slot
        return outcome

    def _map_here(self, refs: Iterator[tuple[Any, PictureRef]]) -> Iterator[Outcome]:
        """Everything in this thread."""
        settings = self._settings
        prepare: Prepare = function_of(settings.decoder)
        limits = ReadLimits(max_bytes=settings.max_bytes, timeout_s=settings.timeout_s)
        with contextlib.closing(OpenArchives()) as archives:
            while True:
                began = monotonic()
                pair = next(refs, None)
                read = monotonic()
                self._source_s += read - began
                if pair is None:
                    return
                if pair[1].is_done:
                    outcome = Outcome(pair[0], None, None, 0, 0, Trait.NONE, 0, are_known=True)
                else:
                    outcome = self._make_here(*pair, lambda ref=pair[1]: read_bytes(ref, limits, archives), prepare)
                self._num_done += 1
                self._num_errors += outcome.error is not None
                self._num_bytes += outcome.num_bytes
                self._wait_s += monotonic() - began
                yield outcome

    def _make_here(self, tag: Any, ref: PictureRef, read: Any, prepare: Any) -> Outcome:
        began = done = self._reading_since = monotonic()
        num_bytes, digest = 0, None
        try:
            data = read()
            self._reading_since = None
            num_bytes = len(data)
            done = monotonic()
            digest = contents_digest(data) if ref.is_file else None
            if digest is not None and digest == ref.known:
                return Outcome(tag, None, None, 0, 0, Trait.NONE, num_bytes, digest, are_known=True)
            found = prepare(data, self._settings.options)
            return Outcome(tag, found.pixels, None, found.width, found.height, found.traits, num_bytes, digest)
        except Exception as error:  # as in a worker
            if isinstance(error, BeholderError) and not isinstance(error, PictureError):
                raise
            failed = PictureError(*failure_of(error))
        finally:
            self._reading_since = None
            self._read_s += done - began
            self._decode_s += monotonic() - done
        return Outcome(tag, None, failed, 0, 0, Trait.NONE, num_bytes, digest)
