"""Thumbnails of the page's pictures that together fit a number of bytes, and why others have none."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from beholder.columns import PictureReason
from beholder.errors import BeholderError
from beholder.pixels.picture import PictureError
from beholder.pixels.thumbnail import Thumbnail, ThumbnailKind, encoded
from beholder.reporting.rows import RowFacts
from beholder.scoreset.score_set import as_score
from beholder.sources.reader import PictureRef
from beholder.workers.pool import ThumbnailPool

LADDER: tuple[tuple[int, int], ...] = (
    (480, 78), (400, 76), (320, 74), (256, 72), (224, 68), (192, 64), (160, 58), (128, 52), (96, 45),
)  # fmt: skip
"""(longest side in pixels, quality), from the finest to the coarsest."""
_BYTES_PER_PIXEL = 0.11
"""A guess for the first try: what photographs take at these qualities; if they take more, they are made smaller."""
_AREA = 0.75
_MOST_THREADS = 16
_POLL_S = 0.05

_AT_ONCE = 32

Find = Callable[[Sequence[str]], Sequence[PictureRef]]
"""Names -> where they are, in the same order."""
Read = Callable[[str], bytes]
"""A picture's name -> its bytes. Raises PictureError."""
Make = Callable[[bytes, float], Thumbnail]
"""A picture's bytes, and the seconds that reading them took -> its thumbnail. Raises PictureError; BeholderError: none can be
made at all."""


@dataclass(frozen=True)
class NoPicture:
    """Why there is no thumbnail: the fixed word, and what was found."""

    reason: str
    text: str


@dataclass
class Thumbnails:
    """What came of the pictures.

    Attributes:
        found: name -> thumbnail.
        failed: name -> why there is none.
        longest_px, quality: that they were made with.
        num_left_out: thumbnails that were made and left out, as the page would have grown too large.
    """

    found: dict[str, Thumbnail] = field(default_factory=dict)
    failed: dict[str, NoPicture] = field(default_factory=dict)
    longest_px: int = LADDER[0][0]
    quality: int = LADDER[0][1]
    num_left_out: int = 0


def find_places(
    find: Find, names: Sequence[str], *, max_time_s: float, on_progress: Callable[[int], None] | None = None
) -> dict[str, PictureRef]:
    """Where each picture is; for those not found in time, an error that says so.

    Names are asked for in stretches that share a folder or archive, so that each archive is gone through once.

    Args:
        find: names -> where they are, in the same order (`locate.PictureFinder.find`).
        names: of the pictures.
        max_time_s: after so many seconds what is not found yet is given up.
        on_progress: told how many more were looked for.

    Raises:
        InputError: what `find` raises.
    """
    answers: SimpleQueue[dict[str, PictureRef] | Exception] = SimpleQueue()
    is_over = threading.Event()

    def search() -> None:
        try:
            for stretch in _stretches(names):
                answers.put(dict(zip(stretch, find(stretch), strict=True)))
                if is_over.is_set():
                    return
        except Exception as error:  # raised again by the thread that waits
            answers.put(error)

    threading.Thread(target=search, daemon=True, name="beholder-find").start()
    stop, found = time.monotonic() + max_time_s, dict[str, PictureRef]()
    with contextlib.suppress(Empty):
        while len(found) < len(names):
            answer = answers.get(timeout=max(0.0, stop - time.monotonic()))
            if isinstance(answer, Exception):
                raise answer
            found |= answer
            if on_progress is not None:
                on_progress(len(answer))
    is_over.set()
    if on_progress is not None and len(found) < len(names):
        on_progress(len(names) - len(found))
    late = (PictureReason.TIMED_OUT, f"looking for pictures took longer than {max_time_s:g} s in all")
    return {name: found.get(name) or PictureRef(error=late) for name in names}


def _stretches(names: Sequence[str]) -> list[list[str]]:
    """The names, those of one folder or archive together, in lists of at least a few dozen."""
    by_parent: dict[str, list[str]] = {}
    for name in names:
        by_parent.setdefault(name.rpartition("/")[0], []).append(name)
    stretches: list[list[str]] = [[]]
    for inside in by_parent.values():
        if len(stretches[-1]) >= _AT_ONCE:
            stretches.append([])
        stretches[-1] += inside
    return stretches


def load_thumbnails(
    read: Read,
    uses: dict[str, int],
    *,
    max_bytes: int,
    timeout_s: float,
    threads: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Thumbnails:
    """Read pictures in parallel, and make thumbnails of them that fit, in processes of their own that end with this call.

    Args:
        read: gives a picture's bytes; called from several threads.
        uses: name -> how often the page shows it, the most important first.
        max_bytes: of all thumbnails, each counted as often as it is shown.
        timeout_s: longest time for reading and decoding one picture; then it counts as timed out.
        threads: that read; None: as many as are useful here. So many pictures are decoded at once at most, and one a core.
        on_progress: told how many more are done.

    Raises:
        BeholderError: no process can be started to decode pictures in.
    """
    total = sum(uses.values())
    rung = next(
        (i for i, (px, _) in enumerate(LADDER) if total * px * px * _AREA * _BYTES_PER_PIXEL <= max_bytes), len(LADDER) - 1
    )
    px, quality = LADDER[rung]

    num_threads = min(threads or min(_MOST_THREADS, 4 * (os.cpu_count() or 1)), max(1, len(uses)))
    with ThumbnailPool(timeout_s=timeout_s) as pool:

        def make(data: bytes, spent_s: float) -> Thumbnail:
            return pool.make(data, longest_px=px, quality=quality, spent_s=spent_s)

        done = _each(list(uses), read, make, timeout_s=timeout_s, num_threads=num_threads, on_progress=on_progress)
    result = Thumbnails(longest_px=px, quality=quality)
    for name in uses:
        outcome = done[name]
        if isinstance(outcome, Thumbnail):
            result.found[name] = outcome
        else:
            result.failed[name] = outcome
    _fit(result, uses, rung, max_bytes)
    return result


def _fit(result: Thumbnails, uses: dict[str, int], rung: int, max_bytes: int) -> None:
    """Make thumbnails smaller, then leave some out, until they fit."""

    def size() -> int:
        return sum(len(thumbnail.data) * uses[name] for name, thumbnail in result.found.items())

    while size() > max_bytes and rung + 1 < len(LADDER):
        rung += 1
        px, quality = LADDER[rung]
        result.found = {name: _smaller(thumbnail, px, quality) for name, thumbnail in result.found.items()}
        result.longest_px, result.quality = px, quality
    left = size()
    for name in reversed(list(result.found)):
        if left <= max_bytes:
            break
        left -= len(result.found.pop(name).data) * uses[name]
        result.num_left_out += 1
        result.failed[name] = NoPicture("left_out", "left out to keep the page small; see --max-size")


def _smaller(thumbnail: Thumbnail, longest_px: int, quality: int) -> Thumbnail:
    """The same picture, smaller or coarser."""
    from PIL import Image

    kind: ThumbnailKind = "webp" if thumbnail.media_type == "image/webp" else "jpeg"
    with Image.open(io.BytesIO(thumbnail.data), formats=[kind.upper()]) as image:
        image.thumbnail((longest_px, longest_px), Image.Resampling.BICUBIC)
        flat = image.convert("L" if image.mode == "L" else "RGB")
        flat.info = {}
        return encoded(flat, quality=quality, kind=kind)


def _each(
    names: Sequence[str],
    read: Read,
    make: Make,
    *,
    timeout_s: float,
    num_threads: int,
    on_progress: Callable[[int], None] | None,
) -> dict[str, Thumbnail | NoPicture]:
    """Every name's outcome. A thread that reads for too long is left behind, and another one takes its place."""
    lock, waiting = threading.Lock(), deque(names)
    reading: dict[str, float] = {}
    """Names that are being read, and since when; those that are given up are taken out."""
    outcomes: SimpleQueue[tuple[str, Thumbnail | NoPicture | BeholderError]] = SimpleQueue()

    def work() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                name = waiting.popleft()
                since = reading[name] = time.monotonic()
            data = _bytes_of(read, name)
            with lock:
                if reading.pop(name, None) is None:  # given up meanwhile: another thread took this one's place
                    return
            outcomes.put((name, data if isinstance(data, NoPicture) else _thumbnail_of(make, data, time.monotonic() - since)))

    def start() -> None:
        threading.Thread(target=work, daemon=True, name="beholder-thumbnail").start()

    for _ in range(num_threads):
        start()
    found: dict[str, Thumbnail | NoPicture] = {}
    try:
        while (num_done := len(found)) < len(names):
            with contextlib.suppress(Empty):
                name, outcome = outcomes.get(timeout=_POLL_S)
                if isinstance(outcome, BeholderError):
                    raise outcome
                found[name] = outcome
            with lock:
                late = [name for name, since in reading.items() if time.monotonic() - since > timeout_s]
                for name in late:
                    del reading[name]
            for name in late:
                text = f"reading and decoding took longer than {timeout_s:g} s"
                found[name] = NoPicture(str(PictureReason.TIMED_OUT), text)
                start()
            if on_progress is not None and len(found) > num_done:
                on_progress(len(found) - num_done)
    finally:
        with lock:
            waiting.clear()
    return found


def _bytes_of(read: Read, name: str) -> bytes | NoPicture:
    try:
        return read(name)
    except PictureError as error:
        return NoPicture(str(error.reason), str(error))
    except Exception as error:  # a source that breaks must not end the report; the page says what happened
        text = " ".join(str(error).split())[:200]
        return NoPicture(str(PictureReason.UNREADABLE), f"{type(error).__name__}: {text}")


def _thumbnail_of(make: Make, data: bytes, spent_s: float) -> Thumbnail | NoPicture | BeholderError:
    """The pool sees to it that this comes to an end."""
    try:
        return make(data, spent_s)
    except PictureError as error:
        return NoPicture(str(error.reason), str(error))
    except BeholderError as error:
        return error
    except Exception as error:  # that nobody thought of; told once, not waited for by the report for ever
        text = " ".join(str(error).split())[:200]
        return BeholderError(f"internal error in making a thumbnail ({type(error).__name__}: {text}); please report it")


_NAME_CHARACTERS, _WHOLE_NAME_CHARACTERS, _LABEL_CHARACTERS, _REASON_CHARACTERS = 80, 500, 80, 300
_CAPTION_CHARACTERS = 160
DIGITS = 3
"""After the point of a score, where nothing asks for more."""


@dataclass(frozen=True)
class InlineImage:
    """A thumbnail as the page holds it."""

    media_type: str
    base64: str
    width: int
    height: int


@dataclass(frozen=True)
class Card:
    """A picture in a gallery.

    Attributes:
        picture: its key in the page's table of pictures.
        words: its name and score, for those who do not see it.
        label: the number that stands before its name.
        short: the end of its name.
        score: of the head that the gallery is about, or None.
        tag: a word beside it ("kept", the rule that dropped it), or "".
        is_kept: whether that word is good news.
        thumbnail: or None.
        failure: why there is none, or None where none was asked for.
        is_bare: whether its gallery has no pictures at all.
        caption: shown where there is no picture, or "".
    """

    picture: str
    words: str
    label: str
    short: str
    score: float | None
    tag: str = ""
    is_kept: bool = True
    thumbnail: InlineImage | None = None
    failure: NoPicture | None = None
    is_bare: bool = False
    caption: str = ""


@dataclass
class CardMaker:
    """Makes cards, and keeps the page's table of pictures.

    Attributes:
        names: of the heads, in the order of a row's scores.
        rows: by number.
        thumbnails: by address; None before they were made, or where none are wanted.
        kept: row -> kept or not, where there is a selection.
        dropped_by: row -> the rule, for those that were dropped.
        pictures: key -> name and facts, for the large view.
        no_address: why there is no picture of a row that says nowhere where it is.
    """

    names: list[str]
    rows: dict[int, RowFacts]
    thumbnails: Thumbnails | None
    kept: dict[int, bool] = field(default_factory=dict)
    dropped_by: dict[int, str] = field(default_factory=dict)
    pictures: dict[str, dict[str, object]] = field(default_factory=dict)
    no_address: NoPicture | None = None
    _inlined: dict[str, InlineImage] = field(default_factory=dict)

    def cards(self, rows: Iterable[int], head: int, digits: int = DIGITS) -> list[Card]:
        """Cards of rows, in their order, with the score of one head, to so many digits after the point."""
        return [self.card(self.rows[row], head, digits=digits) for row in rows if row in self.rows]

    def card(
        self, facts: RowFacts, head: int, *, label: str = "", tag: str = "", is_kept: bool = True, digits: int = DIGITS
    ) -> Card:
        """The card of one row."""
        key = str(facts.row)
        score = facts.scores[head] if facts.scores else None
        if key not in self.pictures:
            self.pictures[key] = {"name": _cut(facts.sample, _WHOLE_NAME_CHARACTERS), "facts": self._facts(facts)}
        if not tag and facts.row in self.kept:
            is_kept = self.kept[facts.row]
            tag = "kept" if is_kept else self.dropped_by.get(facts.row, "dropped").replace("_", " ")
        told = "no score" if score is None else f"{float(as_score(score)):.{digits}f}"
        shown = label or told
        thumbnail = self.thumbnails.found.get(facts.address or "") if self.thumbnails else None
        short = short_name(facts.sample)
        return Card(
            picture=key,
            words=f"{short}, {label or (told if score is None else f'score {told}')}" + (f", {tag}" if tag else ""),
            label=shown,
            short=short,
            score=score,
            tag=tag,
            is_kept=is_kept,
            thumbnail=self._inline(facts.address or "", thumbnail) if thumbnail else None,
            failure=self._failure(facts),
            is_bare=self.thumbnails is None or not self.thumbnails.found,
            caption=_cut(facts.caption, _CAPTION_CHARACTERS) if thumbnail is None else "",
        )

    def _failure(self, facts: RowFacts) -> NoPicture | None:
        """Why there is no thumbnail; None where there is one, or none was asked for."""
        if self.thumbnails is None:
            return None
        return self.thumbnails.failed.get(facts.address) if facts.address is not None else self.no_address

    def _facts(self, facts: RowFacts) -> list[tuple[str, str]]:
        lines = [
            (name, f"{score:.7g}" if score is not None else "no score")
            for name, score in zip(self.names, facts.scores, strict=False)
        ]
        if facts.row in self.kept:
            lines.append(("selection", "kept" if self.kept[facts.row] else f"dropped: {self.dropped_by.get(facts.row, '')}"))
        if facts.row >= 0:
            lines.append(("row", f"{facts.row:,}"))
        failure = self._failure(facts)
        return [
            *lines,
            *([("no picture", _cut(failure.text, _REASON_CHARACTERS))] if failure else []),
            *((_cut(name, _LABEL_CHARACTERS), text) for name, text in facts.facts),
        ]

    def _inline(self, address: str, thumbnail: Thumbnail) -> InlineImage:
        if address not in self._inlined:
            text = base64.b64encode(thumbnail.data).decode("ascii")
            self._inlined[address] = InlineImage(thumbnail.media_type, text, thumbnail.width, thumbnail.height)
        return self._inlined[address]


def short_name(sample: str) -> str:
    """The last part of a path or address, its end where it is long."""
    last = sample.rstrip("/").rsplit("/", 1)[-1] or sample
    return last if len(last) <= _NAME_CHARACTERS else "…" + last[-_NAME_CHARACTERS:]


def _cut(text: str, most: int) -> str:
    """The text, or its beginning and end where it is long."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 :]}"
