"""The bytes of pictures in, their thumbnails out, made by worker processes that may crash, hang or run out of memory."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from beholder.columns import PictureReason
from beholder.errors import BeholderError, InputError
from beholder.pixels.picture import MAX_PIXELS, PictureError, PixelOptions
from beholder.pixels.sniff import sniff, stored_size
from beholder.pixels.thumbnail import Thumbnail, ThumbnailKind, check_request
from beholder.workers.child_process import MOST_STARTS, START_PAUSE_S, START_S, ChildProcess, Deaths, check_package, status_text
from beholder.workers.thumbnail_messages import Gone, Nonsense, Wish, receive_outcome, receive_reply, send_wish
from beholder.workers.worker_setup import memory_for

DEFAULT_THUMBNAILER = "beholder.pixels.thumbnail:make_thumbnail"
TIMEOUT_S = 20.0
_CLOSE_S = 5.0
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
        decoder: "package.module:function" that workers call (`thumbnail_worker.MakeThumbnail`).
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
        self._config = {"decoder": decoder, "memory_bytes": memory_bytes}
        self._changed = threading.Condition()
        self._idle: list[ChildProcess] = []
        self._running: set[ChildProcess] = set()
        self._num_seats = 0
        self._is_closed = False
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="beholder-start")
        """Starts all workers: they end with the thread that started them, and callers' threads come and go."""

    def __enter__(self) -> ThumbnailPool:
        """Nothing is started yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        """End the workers."""
        self.close()

    @property
    def process_ids(self) -> list[int]:
        """Of the workers that run now."""
        with self._changed:
            return [worker.process_id for worker in self._running]

    def close(self) -> None:
        """End the workers; whoever waits for one gets a RuntimeError."""
        with self._changed:
            self._is_closed = True
            for worker in self._running:
                worker.kill()
            idle = list(self._idle)
            self._idle.clear()
            self._changed.notify_all()
        for worker in idle:
            self._bury(worker)
        with self._changed:  # the others are buried by the threads that use them
            self._changed.wait_for(lambda: not self._running, _CLOSE_S)
        self._starter.shutdown()

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
        left_s = self._timeout_s - spent_s
        if left_s <= 0:
            raise self._over_time(spent_s)
        seen = None if pixels is None else pixels.to_json()
        wish = Wish(longest_px=longest_px, quality=quality, kind=kind, timeout_s=left_s, pixels=seen)
        with _turn_of(data):
            outcome = self._made(wish, data, spent_s)
        if isinstance(outcome, PictureError):
            raise outcome
        return outcome

    def _made(self, wish: Wish, data: bytes, spent_s: float) -> Thumbnail | PictureError:
        deaths = Deaths()
        while True:
            worker = self._take()
            try:
                outcome = self._ask(worker, wish, data)
            except TimeoutError:
                self._bury(worker)
                return self._over_time(spent_s)
            except Gone as gone:
                status, words = self._bury(worker)
                self._check_open()
                text = deaths.add(status, words, crashed=isinstance(gone, Nonsense))
                if text is not None:
                    return PictureError(PictureReason.CRASHED, text)
            except BaseException:
                self._bury(worker)
                raise
            else:
                self._put_back(worker, outcome)
                return outcome

    def _over_time(self, spent_s: float) -> PictureError:
        what = "reading and decoding" if spent_s else "decoding"
        return PictureError(PictureReason.TIMED_OUT, f"{what} took longer than {self._timeout_s:g} s")

    @staticmethod
    def _ask(worker: ChildProcess, wish: Wish, data: bytes) -> Thumbnail | PictureError:
        deadline = time.monotonic() + wish.timeout_s
        send_wish(worker.socket, wish, data, deadline)
        return receive_outcome(worker.socket, deadline)

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError("the thumbnail pool is closed")

    def _take(self) -> ChildProcess:
        """A worker that has nothing to do, or a new one."""
        while (worker := self._idle_worker()) is not None:
            if not _has_word(worker):
                return worker
            self._bury(worker)  # ended from outside, while it had no picture
        try:
            return self._started()
        except BaseException:
            self._free_seat()
            raise

    def _idle_worker(self) -> ChildProcess | None:
        """A worker that waits; None: there is a seat for a new one, and it is taken."""
        with self._changed:
            while True:
                self._check_open()
                if self._idle:
                    return self._idle.pop()
                if self._num_seats < self._num_workers:
                    self._num_seats += 1
                    return None
                self._changed.wait()

    def _started(self) -> ChildProcess:
        """A new worker that is up."""
        how = ""
        for num_failures in range(1, MOST_STARTS + 1):
            self._check_open()
            try:
                worker = self._starter.submit(self._start).result()
            except (OSError, ValueError) as error:
                how = " ".join(str(error).split())
            else:
                try:
                    check_package(receive_reply(worker.socket, time.monotonic() + START_S).message)
                except BaseException as error:
                    status, words = self._end(worker)
                    how = ": ".join(filter(None, (status_text(status), words)))
                    if not isinstance(error, (Gone, TimeoutError)):
                        raise
                else:
                    return worker
            time.sleep(START_PAUSE_S * num_failures)
        self._check_open()
        text = f"no process can be started to decode pictures in ({how})"
        raise BeholderError(f"{text}; mend that (memory, ulimit -u, ulimit -v), then try again")

    def _start(self) -> ChildProcess:
        """Start a worker; in the starter's thread."""
        worker = ChildProcess("beholder.workers.thumbnail_worker", self._config)
        with self._changed:
            self._running.add(worker)
            if self._is_closed:
                worker.kill()
        return worker

    def _put_back(self, worker: ChildProcess, outcome: Thumbnail | PictureError) -> None:
        """Have it wait for the next picture; a worker that had too little memory may have lost some, and is replaced."""
        is_worn = isinstance(outcome, PictureError) and outcome.reason == PictureReason.TOO_LARGE
        worker.trim()
        with self._changed:
            if not is_worn and not self._is_closed:
                self._idle.append(worker)
                self._changed.notify()
                return
        self._bury(worker)

    def _bury(self, worker: ChildProcess) -> tuple[int | None, str]:
        """End a worker and free its seat: its exit status (as `ChildProcess.stop` gives it) and the last line it wrote."""
        found = self._end(worker)
        self._free_seat()
        return found

    def _end(self, worker: ChildProcess) -> tuple[int | None, str]:
        status, words = worker.stop(), worker.last_words()
        worker.close()
        with self._changed:
            self._running.discard(worker)
            self._changed.notify_all()
        return status, words

    def _free_seat(self) -> None:
        with self._changed:
            self._num_seats -= 1
            self._changed.notify_all()


def _has_word(worker: ChildProcess) -> bool:
    """Whether an idle worker says something: it has none to say but that it is gone."""
    poll = select.poll()
    poll.register(worker.socket, select.POLLIN)
    return bool(poll.poll(0))


def is_large(data: bytes) -> bool:
    """Whether a picture, as its header says, is one of those that are decoded one at a time."""
    width, height = stored_size(data, sniff(data)) or (0, 0)
    return width * height > _LARGE_PIXELS


def _turn_of(data: bytes) -> contextlib.AbstractContextManager[object]:
    """What is held while a picture is decoded: the lock, for large ones. Raises PictureError: it is no picture."""
    return _LARGE if is_large(data) else contextlib.nullcontext()
