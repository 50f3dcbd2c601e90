"""Rows and thumbnails in; what the page's template shows of each picture out."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field

from beholder.pixels.thumbnail import Thumbnail
from beholder.reporting.pictures import NoPicture, Thumbnails
from beholder.reporting.rows import RowFacts
from beholder.scoreset.score_set import as_score

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
