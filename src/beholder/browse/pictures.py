"""A row's sample in, its thumbnail or its picture as a browser shows it out; the newest wish first."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from beholder.columns import PictureReason
from beholder.images.picture import PictureError
from beholder.images.sniff import sniff
from beholder.images.thumbnail_pool import DEFAULT_THUMBNAILER, TIMEOUT_S, ThumbnailPool

THUMBNAIL_SIDES = (160, 240, 320, 480, 640)
"""Sides of thumbnails, in pixels, that are made; others are refused."""
CACHE_BYTES = 192 << 20
_MOST_WAITING = 512
_SHOWN_AS_THEY_ARE = {
    "JPEG": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "WEBP": "image/webp", "AVIF": "image/avif",
}  # fmt: skip
"""Formats that every browser of today shows; others are sent as JPEG. What is no picture by its bytes is not sent at all."""
_LARGEST_SIDE = 4096
_ENTRY_BYTES = 200
_WHOLE = 0
"""In place of a side: the picture as a browser shows it."""
_WORTH_NO_OTHER_TRY = (PictureReason.CRASHED, PictureReason.TIMED_OUT)


class Finder(Protocol):
    """What `images.locate.PictureFinder` is here."""

    def read(self, sample: str) -> bytes:
        """The picture's bytes. Raises PictureError."""


@dataclass(frozen=True)
class Sent:
    """Bytes for a browser and what they are."""

    data: bytes
    media_type: str


class Busy(Exception):  # noqa: N818
    """A wish was pushed out by newer ones."""


class NewestFirst:
    """A few threads that do the newest piece of work first; when too many wait, the oldest are given up (`Busy`)."""

    def __init__(self, num_threads: int, most_waiting: int = _MOST_WAITING) -> None:
        self._waiting: deque[tuple[Future[Sent], Callable[[], Sent]]] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._most = most_waiting
        self._threads = [threading.Thread(target=self._work, daemon=True, name="pictures") for _ in range(num_threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], Sent]) -> Future[Sent]:
        """Have `work` done; cancelling the result takes it out of the queue."""
        result: Future[Sent] = Future()
        with self._changed:
            self._waiting.append((result, work))
            given_up = self._waiting.popleft()[0] if len(self._waiting) > self._most else None
            self._changed.notify()
        if given_up is not None and given_up.set_running_or_notify_cancel():
            given_up.set_exception(Busy())
        return result

    def close(self) -> None:
        """End the threads; what waits is cancelled."""
        with self._changed:
            self._is_closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for result, _ in waiting:
            result.cancel()
        for thread in self._threads:
            thread.join(timeout=5.0)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._is_closed:
                    self._changed.wait()
                if self._is_closed:
                    return
                result, work = self._waiting.pop()
            if not result.set_running_or_notify_cancel():
                continue
            try:
                result.set_result(work())
            except BaseException as error:  # it belongs to whoever waits for the result
                result.set_exception(error)


class Recent:
    """The last results, up to a number of bytes. Thread-safe."""

    def __init__(self, most_bytes: int = CACHE_BYTES) -> None:
        self._found: OrderedDict[tuple[str, int], Sent] = OrderedDict()
        self._lock = threading.Lock()
        self._most, self.num_bytes = most_bytes, 0

    def get(self, key: tuple[str, int]) -> Sent | None:
        """What was kept under `key`."""
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
            return found

    def put(self, key: tuple[str, int], value: Sent) -> None:
        """Keep it, and let go of the oldest."""
        with self._lock:
            old = self._found.pop(key, None)
            self.num_bytes += len(value.data) - (len(old.data) if old is not None else -_ENTRY_BYTES)
            self._found[key] = value
            while self.num_bytes > self._most and self._found:
                self.num_bytes -= len(self._found.popitem(last=False)[1].data) + _ENTRY_BYTES


class Pictures:
    """Thumbnails and pictures of samples, decoded in processes of their own.

    A picture that crashed or hung there is given up until this ends: each further try would take as long, and hold up others.
    """

    def __init__(
        self,
        finder: Finder,
        *,
        num_threads: int,
        cache_bytes: int = CACHE_BYTES,
        timeout_s: float = TIMEOUT_S,
        decoder: str = DEFAULT_THUMBNAILER,
    ) -> None:
        self._finder = finder
        self._recent = Recent(cache_bytes)
        self._given_up: dict[tuple[str, int], PictureError] = {}
        self._workers = ThumbnailPool(num_workers=num_threads, timeout_s=timeout_s, decoder=decoder)
        self._pool = NewestFirst(num_threads)

    def close(self) -> None:
        """End the processes and the threads."""
        self._workers.close()
        self._pool.close()

    @property
    def process_ids(self) -> list[int]:
        """Of the processes that run now."""
        return self._workers.process_ids

    def kept_thumbnail(self, sample: str, side: int) -> Sent | None:
        """A thumbnail that was made lately."""
        return self._recent.get((sample, side))

    def thumbnail(self, sample: str, side: int) -> Future[Sent]:
        """A thumbnail at most `side` pixels long; the result may raise PictureError or Busy."""

        def make() -> Sent:
            found = self._looked_at(sample, side, lambda data: self._small(data, side))
            self._recent.put((sample, side), found)
            return found

        return self._pool.submit(make)

    def picture(self, sample: str) -> Future[Sent]:
        """The picture as it is stored where browsers show its format, else as JPEG; may raise PictureError or Busy."""
        return self._pool.submit(lambda: self._looked_at(sample, _WHOLE, lambda data: as_shown(data, self._workers)))

    def _small(self, data: bytes, side: int) -> Sent:
        made = self._workers.make(data, longest_px=side)
        return Sent(made.data, made.media_type)

    def _looked_at(self, sample: str, side: int, make: Callable[[bytes], Sent]) -> Sent:
        """What `make` makes of the picture's bytes, unless its decoder has failed at that before. Raises PictureError."""
        known = self._given_up.get((sample, side))
        if known is not None:
            raise PictureError(known.reason, str(known))
        data = self._finder.read(sample)
        try:
            return make(data)
        except PictureError as error:
            if error.reason in _WORTH_NO_OTHER_TRY:
                self._given_up[sample, side] = error
            raise


def as_shown(data: bytes, workers: ThumbnailPool) -> Sent:
    """The bytes with the media type that they really have, or a JPEG made of them. Raises PictureError: no picture."""
    media_type = _SHOWN_AS_THEY_ARE.get(sniff(data))
    if media_type is not None:
        return Sent(data, media_type)
    made = workers.make(data, longest_px=_LARGEST_SIDE, quality=92, kind="jpeg")
    return Sent(made.data, made.media_type)
