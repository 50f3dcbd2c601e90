"""Thumbnails made by worker processes that may crash, hang or run out of memory."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from beholder.columns import PictureReason
from beholder.errors import InputError
from beholder.pixels.picture import MAX_PIXELS, PictureError, PixelOptions
from beholder.pixels.sniff import sniff, stored_size
from beholder.pixels.thumbnail import MEDIA_TYPES, SQUARE_TYPE, Thumbnail, ThumbnailKind, check_request
from beholder.sources.reader import PictureRef
from beholder.workers.child_process import memory_for
from beholder.workers.dispatcher import Dispatcher, Job
from beholder.workers.protocol import Reply, WorkerOptions

DEFAULT_THUMBNAILER = "beholder.pixels.thumbnail:make_thumbnail"
TIMEOUT_S = 20.0
_MOST_DEATHS = 1 << 30
"""A page lives as long as it is looked at, whatever its pictures do."""
_LARGE_PIXELS = 32_000_000
"""Pictures with more pixels are decoded one at a time, so that workers together need little more memory than one."""
_LARGE = threading.Lock()


@dataclass(slots=True, eq=False, kw_only=True)
class ThumbnailRequest(Job):
    """A picture of which a thumbnail is wanted, and who waits for it."""

    result: Future[Reply] = field(default_factory=Future)


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
        timeout_s: float = TIMEOUT_S,
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
        self._waiting: set[ThumbnailRequest] = set()
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
            reply = self._ask(ThumbnailRequest(ref=PictureRef(data=data), how=how, spent_s=spent_s)).result()
        if reply.reason is not None:
            raise PictureError(reply.reason, reply.message)
        if reply.message not in (*MEDIA_TYPES.values(), SQUARE_TYPE):  # else a hostile picture could have a page sent
            raise PictureError(PictureReason.CRASHED, "the decoder crashed on it: what it sent is no thumbnail")
        return Thumbnail(reply.data, reply.message, reply.width, reply.height, bool(reply.traits))

    def _ask(self, request: ThumbnailRequest) -> Future[Reply]:
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the thumbnail pool is closed")
            if self._dispatcher is None:
                self._dispatcher = Dispatcher(
                    self._options, num_workers=self._num_workers, num_slots=0, on_done=self._take_done, on_end=self._give_up,
                    most_deaths=_MOST_DEATHS, most_queued=1, is_lazy=True,
                    advice="mend that (memory, ulimit -u, ulimit -v), then try again",
                )  # fmt: skip
            self._dispatcher.check()
            self._waiting.add(request)
            self._dispatcher.submit(request)
        return request.result

    def _take_done(self, results: list[tuple[ThumbnailRequest, Reply]]) -> None:
        """What the dispatcher tells of requests."""
        with self._lock:
            self._waiting.difference_update(request for request, _ in results)
        for request, reply in results:
            request.result.set_result(reply)

    def _give_up(self, failure: BaseException | None) -> None:
        """The dispatcher has ended; whoever asks next starts another, in case that what it failed over is mended."""
        with self._lock:
            requests, self._waiting = self._waiting, set()
            self._dispatcher = None
        for request in requests:
            request.result.set_exception(failure or RuntimeError("the thumbnail pool is closed"))


def is_large(data: bytes) -> bool:
    """Whether a picture, by its header, is one of those that are decoded one at a time. Raises PictureError: it is none."""
    width, height = stored_size(data, sniff(data)) or (0, 0)
    return width * height > _LARGE_PIXELS
