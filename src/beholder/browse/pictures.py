"""Thumbnails and pictures of rows for the live page, the newest request first."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from beholder.browse.newest_first import NewestFirst, Recent
from beholder.columns import WHERE_NOW, PictureReason
from beholder.errors import BeholderError
from beholder.io import locations
from beholder.locate.locate import PictureFinder
from beholder.options import THUMBNAIL_TIMEOUT_S
from beholder.pixels.picture import PictureError, PixelOptions
from beholder.pixels.sniff import sniff
from beholder.sources.fetch import ReadLimits
from beholder.workers.pool import DEFAULT_THUMBNAILER, ThumbnailPool, is_large

THUMBNAIL_SIDES = (160, 240, 320, 480, 640)
"""Sides of thumbnails, in pixels, that are made; others are refused."""
_CACHE_BYTES = 192 << 20
"""Of thumbnails that are kept, at most."""
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


@dataclass(frozen=True)
class Sent:
    """Bytes for a browser and what they are; `is_turned`: whether EXIF turned the picture."""

    data: bytes
    media_type: str
    is_turned: bool = False


class Pictures:
    """Thumbnails and pictures of samples: read in threads, decoded in processes of their own.

    Those who ask for the same at once wait for one piece of work. Slow servers hold up reading threads only; large pictures
    wait for their turn beside the others. A picture that crashed or hung there, or that was not read in time, is given up, in
    all its sizes, until this ends: each further try would take as long, and hold up others.

    Args:
        finder: where pictures are.
        num_workers: processes that decode, at most.
        num_readers: threads that read pictures for thumbnails; half as many do so for the large view.
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
        timeout_s: float = THUMBNAIL_TIMEOUT_S,
        decoder: str = DEFAULT_THUMBNAILER,
        memory_bytes: int | None = None,
        pixels: PixelOptions | None = None,
    ) -> None:
        self.pixels = pixels
        self._finder, self._limits = finder, ReadLimits(timeout_s=timeout_s)
        self._recent: Recent[Sent] = Recent(_CACHE_BYTES, lambda sent: len(sent.data) + _ENTRY_BYTES)
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

    def is_turned(self, sample: str | None) -> bool:
        """Whether EXIF turns the picture, of which a thumbnail was made; False where that is not known."""
        return sample in self._turned

    def thumbnail(self, sample: str, side: int) -> Future[Sent]:
        """A thumbnail at most `side` pixels long; the result may raise PictureError or Busy."""
        return self._made_by(self._thumbnails, sample, side, longest_px=side)

    def picture(self, sample: str) -> Future[Sent]:
        """The picture as it is stored where browsers show its format, else as JPEG; may raise PictureError or Busy."""
        return self._made_by(self._wholes, sample, _WHOLE, **_AS_JPEG)

    def seen(self, sample: str) -> Future[Sent]:
        """The square of the picture that was scored, as PNG; may raise PictureError or Busy. `pixels` has to be known."""
        return self._made_by(self._wholes, sample, _SEEN, pixels=self.pixels)

    def _made_by(self, queue: NewestFirst[Sent], sample: str, side: int, **how: Any) -> Future[Sent]:
        """What was made lately, else what the processes make of bytes that a thread of `queue` reads; large ones one by one."""
        done: Future[Sent] = Future()
        kept = self._recent.get((sample, side))
        if kept is not None:
            done.set_result(kept)
            return done
        try:
            self._check(sample, is_decoded=side != _WHOLE)
        except PictureError as known:
            done.set_exception(known)
            return done

        def work() -> Sent | Future[Sent]:
            self._check(sample, is_decoded=side != _WHOLE)
            data, spent_s = self._read(sample)
            stored = as_stored(data) if side == _WHOLE else None
            if stored is not None:
                return stored
            self._check(sample)
            if not is_large(data):
                return self._decoded(sample, side, data, spent_s, **how)
            read = (data, spent_s) if self._large.num_waiting < _MOST_LARGE_IN_MEMORY else None

            def large() -> Sent:
                self._check(sample)
                return self._decoded(sample, side, *(self._read(sample) if read is None else read), **how)

            return self._large.submit((sample, side), large)

        return queue.submit((sample, side), work)

    def _check(self, sample: str, *, is_decoded: bool = True) -> None:
        """Raises PictureError: the sample was given up, as it cannot be read or (where it is to be decoded) decoded."""
        known = self._unread.get(sample) or (self._undecoded.get(sample) if is_decoded else None)
        if known is not None:
            raise PictureError(known.reason, str(known))

    def _read(self, sample: str) -> tuple[bytes, float]:
        """The picture's bytes, and how many seconds it took to read them. Raises PictureError."""
        start = time.monotonic()
        try:
            data = self._finder.read(sample, self._limits)
        except PictureError as error:
            if error.reason in _WORTH_NO_OTHER_TRY:
                self._unread[sample] = error
            raise
        return data, time.monotonic() - start

    def _decoded(self, sample: str, side: int, data: bytes, spent_s: float, **how: Any) -> Sent:
        """What the processes make of the picture; kept, but for whole ones. Raises PictureError."""
        try:
            made = self._workers.make(data, spent_s=spent_s, **how)
        except PictureError as error:
            if error.reason in _WORTH_NO_OTHER_TRY:
                self._undecoded[sample] = error
            raise
        sent = Sent(made.data, made.media_type, made.is_turned)
        if side != _WHOLE:
            self._recent.put((sample, side), sent)
        if side > _WHOLE and sent.is_turned:
            self._turned[sample] = None
            if len(self._turned) > _MOST_TURNED:
                self._turned.pop(next(iter(self._turned)), None)
        return sent


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
    if not all(locations.is_local(source) for source in named.opened):
        return None
    claims = {sample: named.match(sample) for sample in samples}
    local = [sample for sample, claim in claims.items() if claim is None or locations.is_local(claim.path)]
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
