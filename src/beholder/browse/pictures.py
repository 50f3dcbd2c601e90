"""Thumbnails and pictures of rows for the live page, the newest request first, each made once for all who ask."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from beholder.columns import WHERE_NOW, PictureReason
from beholder.errors import BeholderError
from beholder.io import storage
from beholder.locate.locate import PictureFinder
from beholder.pixels.picture import PictureError, PixelOptions
from beholder.pixels.sniff import sniff
from beholder.sources.fetch import ReadLimits
from beholder.workers.thumbnail_pool import DEFAULT_THUMBNAILER, TIMEOUT_S, ThumbnailPool, is_large

THUMBNAIL_SIDES = (160, 240, 320, 480, 640)
"""Sides of thumbnails, in pixels, that are made; others are refused."""
CACHE_BYTES = 192 << 20
_SHOWN_AS_THEY_ARE = {
    "JPEG": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "WEBP": "image/webp", "AVIF": "image/avif",
}  # fmt: skip
"""Formats that every browser of today shows; others are sent as JPEG. What is no picture by its bytes is not sent at all."""
_AS_JPEG: dict[str, Any] = {"longest_px": 4096, "quality": 92, "kind": "jpeg"}
_ENTRY_BYTES = 200
_WHOLE = 0
"""In place of a side: the picture as a browser shows it."""
_SEEN = -1
"""In place of a side: the square that was scored."""
_MOST_LARGE_IN_MEMORY = 4
"""So many large pictures wait with their bytes; further ones are read again at their turn."""
_CLOSE_S = 2.0
_MOST_TURNED = 1_000_000
"""Names of turned pictures that are remembered."""
_WORTH_NO_OTHER_TRY = (PictureReason.CRASHED, PictureReason.TIMED_OUT)


_MOST_WAITING = 512

Result = TypeVar("Result")


class Busy(Exception):  # noqa: N818
    """A wish was pushed out by newer ones."""


@dataclass(eq=False)
class _Piece(Generic[Result]):
    """What is to be done, and who waits for it; `elsewhere`: it goes on in other threads."""

    key: Hashable
    work: Callable[[], Result | Future[Result]]
    askers: list[Future[Result]] = field(default_factory=list)
    elsewhere: Future[Result] | None = None


class NewestFirst(Generic[Result]):
    """A few threads that do the newest piece of work first; when too many wait, the oldest are given up (`Busy`)."""

    def __init__(self, num_threads: int, most_waiting: int = _MOST_WAITING) -> None:
        self._waiting: dict[Hashable, _Piece[Result]] = {}
        self._begun: dict[Hashable, _Piece[Result]] = {}
        self._changed = threading.Condition()
        self._is_closed = False
        self._most = most_waiting
        self._threads = [threading.Thread(target=self._work, daemon=True, name="pictures") for _ in range(num_threads)]
        for thread in self._threads:
            thread.start()

    @property
    def num_waiting(self) -> int:
        """Pieces that no thread has begun."""
        return len(self._waiting)

    def submit(self, key: Hashable, work: Callable[[], Result | Future[Result]]) -> Future[Result]:
        """Have `work` done, unless a piece with this key waits or runs already: then wait for that one.

        A Future that `work` returns is waited for without a thread. Cancelling the result means to wait no more; what nobody
        waits for leaves the queue.
        """
        asker: Future[Result] = Future()
        pushed_out = None
        with self._changed:
            if self._is_closed:
                asker.cancel()
                return asker
            piece = self._begun.get(key)
            if piece is None:
                piece = self._waiting.pop(key, None) or _Piece(key, work)
                self._waiting[key] = piece  # the newest again
                if len(self._waiting) > self._most:
                    pushed_out = self._waiting.pop(next(iter(self._waiting)))
                self._changed.notify()
            piece.askers.append(asker)
        asker.add_done_callback(lambda _: self._leave(piece, asker))
        if pushed_out is not None:
            self._finish(pushed_out, error=Busy())
        return asker

    def close(self, deadline: float | None = None) -> None:
        """End the threads; what waits is cancelled. Threads that are in the middle of a piece are waited for until `deadline`.

        deadline: of `time.monotonic`; None: 5 seconds from now.
        """
        with self._changed:
            self._is_closed = True
            waiting = [asker for piece in self._waiting.values() for asker in piece.askers]
            self._waiting.clear()
            self._changed.notify_all()
        for asker in waiting:
            asker.cancel()
        deadline = time.monotonic() + 5.0 if deadline is None else deadline
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._is_closed:
                    self._changed.wait()
                if self._is_closed:
                    return
                key, piece = self._waiting.popitem()
                self._begun[key] = piece
            try:
                found = piece.work()
            except BaseException as error:  # it belongs to whoever waits for the result
                self._finish(piece, error=error)
            else:
                if isinstance(found, Future):
                    self._go_on(piece, found)
                else:
                    self._finish(piece, found)
            del piece  # and the picture's bytes with it

    def _go_on(self, piece: _Piece[Result], elsewhere: Future[Result]) -> None:
        """Wait for what goes on in other threads."""

        def done(result: Future[Result]) -> None:
            if result.cancelled():
                self._cancel(piece)
            elif (error := result.exception()) is not None:
                self._finish(piece, error=error)
            else:
                self._finish(piece, result.result())

        with self._changed:
            piece.elsewhere = elsewhere
            is_wanted = bool(piece.askers)
            if not is_wanted:
                self._begun.pop(piece.key, None)
        elsewhere.add_done_callback(done)
        if not is_wanted:
            elsewhere.cancel()

    def _leave(self, piece: _Piece[Result], asker: Future[Result]) -> None:
        """One who asked waits no more."""
        with self._changed:
            if asker not in piece.askers:
                return
            piece.askers.remove(asker)
            if piece.askers:
                return
            if self._waiting.get(piece.key) is piece:
                del self._waiting[piece.key]
            elsewhere = piece.elsewhere
            if elsewhere is not None and self._begun.get(piece.key) is piece:
                del self._begun[piece.key]
        if elsewhere is not None:
            elsewhere.cancel()

    def _taken(self, piece: _Piece[Result]) -> list[Future[Result]]:
        """Those who wait for a piece; nobody joins them any more."""
        with self._changed:
            if self._begun.get(piece.key) is piece:
                del self._begun[piece.key]
            askers, piece.askers = piece.askers, []
            return askers

    def _cancel(self, piece: _Piece[Result]) -> None:
        for asker in self._taken(piece):
            asker.cancel()

    def _finish(self, piece: _Piece[Result], result: Result | None = None, error: BaseException | None = None) -> None:
        for asker in self._taken(piece):
            if not asker.set_running_or_notify_cancel():
                continue
            if error is not None:
                asker.set_exception(error)
            else:
                asker.set_result(result)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Sent:
    """Bytes for a browser and what they are; `is_turned`: whether EXIF turned the picture."""

    data: bytes
    media_type: str
    is_turned: bool = False


@dataclass(frozen=True)
class _Read:
    """The bytes of a picture, and how many seconds it took to read them."""

    data: bytes
    spent_s: float


class Recent(Generic[Result]):
    """The last results up to a number of bytes, the newest always. Thread-safe.

    Args:
        most_bytes: of all together.
        size_of: gives the bytes of one.
    """

    def __init__(self, most_bytes: int, size_of: Callable[[Result], int]) -> None:
        self._found: OrderedDict[Hashable, Result] = OrderedDict()
        self._lock = threading.Lock()
        self._most, self._size_of, self.num_bytes = most_bytes, size_of, 0

    def get(self, key: Hashable) -> Result | None:
        """What was kept under `key`."""
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, key: Hashable, value: Result) -> None:
        """Keep it, and let go of the oldest."""
        with self._lock:
            if key in self._found:
                self.num_bytes -= self._size_of(self._found.pop(key))
            self._found[key] = value
            self.num_bytes += self._size_of(value)
            while self.num_bytes > self._most and len(self._found) > 1:
                self.num_bytes -= self._size_of(self._found.popitem(last=False)[1])


class Pictures:
    """Thumbnails and pictures of samples: read in threads, decoded in processes of their own.

    Those who ask for the same at once wait for one piece of work. Slow servers hold up reading threads only; large pictures
    wait for their turn beside the others. A picture that crashed or hung there, or that was not read in time, is given up, in
    all its sizes, until this ends: each further try would take as long, and hold up others.

    Args:
        finder: where pictures are.
        num_workers: processes that decode, at most.
        num_readers: threads that read pictures for thumbnails; half as many do so for the large view.
        cache_bytes: of thumbnails that are kept, at most.
        timeout_s: seconds for reading and decoding one picture; waiting for others does not count.
        decoder: see `ThumbnailPool`.
        memory_bytes: the same.
        pixels: which pixels of the pictures were scored; None: not known.
    """

    def __init__(
        self,
        finder: PictureFinder,
        *,
        num_workers: int,
        num_readers: int = 8,
        cache_bytes: int = CACHE_BYTES,
        timeout_s: float = TIMEOUT_S,
        decoder: str = DEFAULT_THUMBNAILER,
        memory_bytes: int | None = None,
        pixels: PixelOptions | None = None,
    ) -> None:
        self.pixels = pixels
        self._finder, self._limits = finder, ReadLimits(timeout_s=timeout_s)
        self._recent: Recent[Sent] = Recent(cache_bytes, lambda sent: len(sent.data) + _ENTRY_BYTES)
        self._unread: dict[str, PictureError] = {}
        self._undecoded: dict[str, PictureError] = {}
        self._turned: dict[str, None] = {}
        self._workers = ThumbnailPool(num_workers=num_workers, timeout_s=timeout_s, decoder=decoder, memory_bytes=memory_bytes)
        self._thumbnails: NewestFirst[Sent] = NewestFirst(num_readers)
        self._wholes: NewestFirst[Sent] = NewestFirst((num_readers + 1) // 2)
        self._large: NewestFirst[Sent] = NewestFirst(1)

    def close(self) -> None:
        """End the processes and the threads."""
        self._workers.close()
        deadline = time.monotonic() + _CLOSE_S
        for queue in (self._thumbnails, self._wholes, self._large):
            queue.close(deadline)

    @property
    def process_ids(self) -> list[int]:
        """Of the processes that run now."""
        return self._workers.process_ids

    def kept_thumbnail(self, sample: str, side: int) -> Sent | None:
        """A thumbnail that was made lately."""
        return self._recent.get((sample, side))

    def is_turned(self, sample: str | None) -> bool:
        """Whether EXIF turns the picture, of which a thumbnail was made; False where that is not known."""
        return sample in self._turned

    def thumbnail(self, sample: str, side: int) -> Future[Sent]:
        """A thumbnail at most `side` pixels long; the result may raise PictureError or Busy."""

        def make(read: _Read) -> Sent:
            made = self._decoded(sample, read, longest_px=side)
            if made.is_turned:
                self._turned[sample] = None
                if len(self._turned) > _MOST_TURNED:
                    self._turned.pop(next(iter(self._turned)), None)
            self._recent.put((sample, side), made)
            return made

        return self._made_by(self._thumbnails, sample, side, make)

    def picture(self, sample: str) -> Future[Sent]:
        """The picture as it is stored where browsers show its format, else as JPEG; may raise PictureError or Busy."""
        return self._made_by(self._wholes, sample, _WHOLE, lambda read: self._decoded(sample, read, **_AS_JPEG))

    def seen(self, sample: str) -> Future[Sent]:
        """The square of the picture that was scored, as PNG; may raise PictureError or Busy. `pixels` has to be known."""

        def make(read: _Read) -> Sent:
            made = self._decoded(sample, read, pixels=self.pixels)
            self._recent.put((sample, _SEEN), made)
            return made

        return self._made_by(self._wholes, sample, _SEEN, make)

    def _made_by(self, queue: NewestFirst[Sent], sample: str, side: int, make: Callable[[_Read], Sent]) -> Future[Sent]:
        """What `make` makes of the picture's bytes, read by a thread of `queue`; large ones are decoded one by one."""

        def work() -> Sent | Future[Sent]:
            self._check(sample, is_decoded=side != _WHOLE)
            read = self._read(sample)
            stored = as_stored(read.data) if side == _WHOLE else None
            if stored is not None:
                return stored
            self._check(sample)
            if not is_large(read.data):
                return make(read)
            kept = read if self._large.num_waiting < _MOST_LARGE_IN_MEMORY else None

            def large() -> Sent:
                self._check(sample)
                return make(self._read(sample) if kept is None else kept)

            return self._large.submit((sample, side), large)

        try:
            self._check(sample, is_decoded=side != _WHOLE)
        except PictureError as known:
            failed: Future[Sent] = Future()
            failed.set_exception(known)
            return failed
        return queue.submit((sample, side), work)

    def kept_seen(self, sample: str) -> Sent | None:
        """A square that was made lately."""
        return self._recent.get((sample, _SEEN))

    def _check(self, sample: str, *, is_decoded: bool = True) -> None:
        """Raises PictureError: the sample was given up, as it cannot be read or (where it is to be decoded) decoded."""
        known = self._unread.get(sample) or (self._undecoded.get(sample) if is_decoded else None)
        if known is not None:
            raise PictureError(known.reason, str(known))

    def _read(self, sample: str) -> _Read:
        """The picture's bytes. Raises PictureError."""
        start = time.monotonic()
        try:
            data = self._finder.read(sample, self._limits)
        except PictureError as error:
            if error.reason in _WORTH_NO_OTHER_TRY:
                self._unread[sample] = error
            raise
        return _Read(data, time.monotonic() - start)

    def _decoded(self, sample: str, read: _Read, **how: Any) -> Sent:
        """What the processes make of the picture. Raises PictureError."""
        try:
            made = self._workers.make(read.data, spent_s=read.spent_s, **how)
        except PictureError as error:
            if error.reason in _WORTH_NO_OTHER_TRY:
                self._undecoded[sample] = error
            raise
        return Sent(made.data, made.media_type, made.is_turned)


def as_stored(data: bytes) -> Sent | None:
    """The bytes with the media type that they really have, where browsers show such; None: they are something else."""
    media_type = _SHOWN_AS_THEY_ARE.get(sniff(data))
    return Sent(data, media_type) if media_type is not None else None


NUM_LOOKED_UP = 8
"""So many first pictures are looked up at the start."""
_TIMEOUT_S = 3.0
_MOST_LETTERS = 400


def gone_warning(finder: PictureFinder, samples: Sequence[str], *, timeout_s: float = _TIMEOUT_S) -> str | None:
    """One line where none of these pictures can be found, with the reason of the first and the flags that help; else None.

    Nothing is asked of servers: pictures there, and sets with a source there, are not looked up.

    Args:
        finder: where pictures are.
        samples: names; none of them gives None.
        timeout_s: seconds that the search may hold up the start; what takes longer gives None.
    """
    found: list[str | None] = []

    def look() -> None:
        with contextlib.suppress(OSError, ValueError):  # the finder may be closed by now: nobody waits any more
            found.append(_why_none_is_there(finder, samples))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return found[0] if found else None


def _why_none_is_there(finder: PictureFinder, samples: Sequence[str]) -> str | None:
    """The warning itself, however long it takes."""
    named = finder.sources(samples)
    if not all(storage.is_local(source) for source in named.opened):
        return None
    claims = {sample: named.match(sample) for sample in samples}
    local = [sample for sample, claim in claims.items() if claim is None or storage.is_local(claim.path)]
    if not local:
        return None
    try:
        texts = [place.error[1] for place in finder.locate(local) if place.error is not None]
        if len(texts) < len(local):
            return None
    except (BeholderError, PictureError) as error:  # a source cannot be read at all
        texts = [str(error)]
    from beholder.curate.act.messages import shown_text

    first = shortened(shown_text(texts[0].removesuffix(f"; {WHERE_NOW}")))
    whose = "the first picture" if len(local) == 1 else f"any of the first {len(local)} pictures"
    return f"cannot find {whose} ({first}); {WHERE_NOW}"


def shortened(text: str) -> str:
    """The text, or its beginning and end: names have any length."""
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS // 2]} … {text[-_MOST_LETTERS // 2 :]}"
