"""A score set opened for browsing: the views, counts, listings and rows that the page asks for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.browse.conditions import Conditions
from beholder.browse.marks import Mark, MarkBook
from beholder.browse.newest_first import Recent
from beholder.browse.options import BrowseOptions
from beholder.browse.rows import Rows, RowStore, View, as_json, best_first
from beholder.browse.stacks import Stacks, read_stacks
from beholder.columns import HEIGHT, SAMPLE, TRAITS, WIDTH
from beholder.errors import InputError
from beholder.kernels.ordering import numbered
from beholder.options import all_cores
from beholder.pixels.picture import Trait
from beholder.scoreset.numbers import axis, axis_histogram, bucket_edges, buckets, counts_between
from beholder.scoreset.picture_column import caption_column_of, find_picture_column
from beholder.scoreset.score_set import ScoreSet, as_score

Tab = Literal["all", "kept", "dropped", "bucket", "marked_keep", "marked_drop", "no_score", "stacks", "stack", "undecided"]
Sort = Literal["best", "worst", "random"]
PAGE_ROWS = 500
"""Most rows of a listing in one answer."""
_CACHE_BYTES = 1 << 29
_CAPTION_LETTERS = 300
"""Of a caption so many are sent with a tile."""
_MOST_LEARNED = 2
"""Of scores that were learned here the last ones are kept: other pages may still show the one before."""
_LEARNED_DIGITS = 4
_TURNED = str(Trait.ROTATED.name).lower()


class Gone(Exception):  # noqa: N818
    """A view or listing that is no longer kept; the page asks for it anew."""


@dataclass(frozen=True)
class Listing:
    """Rows of a tab in the order they are shown, as they were when it was opened."""

    key: str
    rows: Rows
    tab: Tab


@dataclass(frozen=True)
class LearnedScore:
    """A score of the rows that is no column of the set.

    Attributes:
        name: what views call it.
        column: its column in exports.
        title: what people call it.
        head: its head, as a record has it (`Head.describe`).
    """

    name: str
    column: str
    title: str
    head: Mapping[str, Any]


class Session:
    """Everything the page asks about one score set. Thread-safe.

    Attributes:
        scores: the set.
        asked: what the user asked for.
        store: its rows.
        conditions: its conditions.
        marks: its marks.
        stacks: its groups of near-duplicates; None where nobody named any.
        picture_column: what says where pictures are in place of the rows' names; None: the names do.
        caption_column: its captions; None: there are none.
        learned: scores that were learned here, the newest last, by name.
        closing: what is closed with this.
    """

    def __init__(self, scores: ScoreSet, scratch: Path, options: BrowseOptions) -> None:
        self.scores, self.asked = scores, options
        self.store = RowStore(scores, scratch)
        self.picture_column = find_picture_column(scores, options.picture_column, options.pictures)
        self.caption_column = caption_column_of(self.store.table.schema, [SAMPLE, scores.sample_column, *scores.score_columns])
        has_traits = TRAITS in self.store.names and pa.types.is_large_string(self.store.table.schema.field(TRAITS).type)
        self._traits_column = TRAITS if has_traits else None  # in which a run of ours says what is special about each picture
        self.conditions = Conditions(self.store, scratch, threads=all_cores(), where=options.where)
        is_unique = self.conditions.has_unique_names()
        self.marks = MarkBook(options.marks_path, self.store.num_rows, self.conditions.rows_named, has_unique_names=is_unique)
        self.stacks: Stacks | None = None
        if options.groups is not None:
            self.stacks = read_stacks(options.groups, self.store, self.conditions.rows_named, scratch)
        self.learned: dict[str, LearnedScore] = {}
        self.closing = contextlib.ExitStack()
        self._forgotten: set[str] = set()
        self._num_stacks: dict[str, int] = {}
        self._values: dict[str, npt.NDArray[np.float32]] = {}
        self._whole: dict[str, tuple[View, tuple[float, float]]] = {}
        self._ranks: dict[str, npt.NDArray[np.uint32]] = {}
        self._lock = threading.Lock()
        self._views: Recent[View] = Recent(_CACHE_BYTES, lambda view: view.num_bytes)
        self._listings: Recent[Listing] = Recent(_CACHE_BYTES, lambda listing: int(listing.rows.nbytes))
        self._whole_of(scores.score_columns[0])

    def __enter__(self) -> Session:
        """It is open already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of everything."""
        self.closing.close()
        self.conditions.close()

    def values(self, score: str) -> npt.NDArray[np.float32]:
        """(N,) float32 scores, NaN for none: NULL, NaN and infinite ones. Raises Gone for a learned one that is not kept."""
        self._whole_of(score)
        found = self._values.get(score)
        if found is None:
            raise Gone(score)
        return found

    def is_score(self, name: str) -> bool:
        """Whether this is, or was, a score: a column of the set, or one that was learned here."""
        return name in self.scores.score_columns or name in self.learned or name in self._forgotten

    def add_learned(self, score: LearnedScore, values: npt.NDArray[np.float32]) -> None:
        """Rank all rows by a score that was learned here; of earlier ones the last is kept.

        Args:
            score: a name that no other score has.
            values: (N,) float32, NaN for rows without it; kept as it is.
        """
        whole = self._ranked_whole(score.name, values)
        with self._lock:
            self._values[score.name], self._whole[score.name] = values, whole
            self.learned = {**self.learned, score.name: score}
            for name in list(self.learned)[:-_MOST_LEARNED]:
                self.learned = {other: one for other, one in self.learned.items() if other != name}
                self._forgotten.add(name)
                self._values.pop(name, None)
                self._whole.pop(name, None)
                self._ranks.pop(name, None)

    def axis(self, score: str) -> tuple[float, float]:
        """Ends of the slider."""
        return self._whole_of(score)[1]

    def view(self, score: str, conditions: Sequence[str]) -> View:
        """The rows that satisfy all conditions, and those of the options, ranked by a score. Raises InputError."""
        if not self.is_score(score):
            raise InputError(f"there is no score {score!r}; there are {', '.join(self.scores.score_columns)}")
        whole = self._whole_of(score)[0]
        every = (*self.asked.where, *conditions)
        if not every:
            return whole
        key = _key("view", score, *every)
        found = self._views.get(key)
        if found is None:
            inside = self.conditions.matching(conditions)
            rows = whole.rows[inside[whole.rows]]
            ascending = np.ascontiguousarray(self.values(score)[rows][::-1])
            found = View(key, score, every, rows, ascending, inside, int(inside.sum()))
            self._views.put(key, found)
        return found

    def num_without(self, score: str) -> int:
        """How many rows have no such score, of those that satisfy the conditions of the options or are marked keep."""
        return len(self._without_score(self.view(score, ())))

    def known_view(self, key: str) -> View:
        """A view by its key. Raises Gone."""
        for whole, _ in list(self._whole.values()):
            if whole.key == key:
                return whole
        found = self._views.get(key)
        if found is None or found.score in self._forgotten:
            raise Gone(key)
        return found

    def describe(self, view: View) -> dict[str, Any]:
        """Histogram and buckets of a view, on the axis of the whole set."""
        low, high = self.axis(view.score)
        return {
            "view": view.key,
            "score": view.score,
            "conditions": list(view.conditions),
            "num_matching": view.num_matching,
            "num_scored": len(view.rows),
            "histogram": axis_histogram(view.ascending, low, high),
            "buckets": buckets(view.ascending, low, high),
        }

    def counts(self, view: View, threshold: float) -> dict[str, Any]:
        """The numbers of all tabs; each is that of the rows which `listing` gives for it.

        Counted are the rows that satisfy the view's conditions, and those marked keep besides: `beholder select` keeps these
        whatever a condition says. So `all` is `kept` and `dropped`, and it is the buckets and the rows without a score.

        Returns:
            `all`, `kept`, `dropped`, `marked_keep`, `marked_drop`, `no_score`; `buckets`, in their order; `above`, those with
            this score or more, whatever they are marked; `outside`, those that are counted for their mark alone; `stacks`,
            groups of near-duplicates of which any row satisfies the conditions; `version`.
        """
        values = self.values(view.score)
        keep, drop, outside = self.marks.marked(Mark.KEEP), self._dropped_in(view), self._outside(view)
        above = view.count_at_least(threshold)
        kept = above + int((~self._above(view, keep, threshold)).sum()) - int(self._above(view, drop, threshold).sum())
        added = values[outside]
        has_none = np.isnan(added)
        edges = bucket_edges(*self.axis(view.score))
        of_buckets = counts_between(view.ascending, edges) + counts_between(np.sort(added[~has_none]), edges)
        num_all = view.num_matching + len(outside)
        return {
            "all": num_all,
            "kept": kept,
            "dropped": num_all - kept,
            "marked_keep": len(keep),
            "marked_drop": len(drop),
            "no_score": view.num_matching - len(view.rows) + int(has_none.sum()),
            "buckets": of_buckets.tolist(),
            "above": above + int((added >= as_score(threshold)).sum()),
            "outside": len(outside),
            "stacks": self._num_stacks_in(view),
            "version": self.marks.version,
        }

    def _num_stacks_in(self, view: View) -> int:
        """Groups of near-duplicates in a view, counted once."""
        if self.stacks is None:
            return 0
        found = self._num_stacks.get(view.key)
        if found is None:
            found = self._num_stacks[view.key] = len(self.stacks.tops_in(view))
        return found

    def _above(self, view: View, rows: npt.NDArray[np.int64], threshold: float) -> npt.NDArray[np.bool_]:
        """Which of these rows are in the view and have the score (NaN never has)."""
        above: npt.NDArray[np.bool_] = self.values(view.score)[rows] >= as_score(threshold)
        return above if view.inside is None else above & view.inside[rows]

    def _outside(self, view: View) -> npt.NDArray[np.int64]:
        """Rows marked keep that do not satisfy the view's conditions."""
        keep = self.marks.marked(Mark.KEEP)
        return keep[:0] if view.inside is None else keep[~view.inside[keep]]

    def _dropped_in(self, view: View) -> npt.NDArray[np.int64]:
        """Rows marked drop that satisfy the view's conditions; of the others nothing is left to drop."""
        drop = self.marks.marked(Mark.DROP)
        return drop if view.inside is None else drop[view.inside[drop]]

    def selected(self, view: View, threshold: float) -> Rows:
        """Rows that are kept, best first: what `beholder select` writes."""
        return self.listing(view, "kept", "best", threshold=threshold).rows

    def ranks(self, score: str) -> npt.NDArray[np.uint32]:
        """(N,) 1 for the best of all rows, 0 for those without a score."""
        found = self._ranks.get(score)
        if found is None:
            found = numbered(self._whole_of(score)[0].rows, self.store.num_rows)
            with self._lock:
                if score in self._whole:  # it may have been dropped meanwhile
                    self._ranks[score] = found
        return found

    def _ranked(self, score: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """These rows best first; those without a score last, by sample."""
        ranks = self.ranks(score)[rows]
        with_score, without = rows[ranks > 0], rows[ranks == 0]
        names = [name.encode() for name in self.store.samples(without)]
        last = np.array(sorted(range(len(without)), key=lambda at: (names[at], without[at])), np.int64)
        return np.concatenate([with_score[np.argsort(ranks[ranks > 0])], without[last]])

    def listing(
        self,
        view: View,
        tab: Tab,
        sort: Sort,
        *,
        threshold: float,
        bucket: tuple[float, float] | None = None,
        seed: int = 0,
        stack: int | None = None,
    ) -> Listing:
        """The rows of a tab in order. Marks that come later change neither its rows nor their order.

        "stacks" has of each group of near-duplicates the one that stays, "stack" all of the group of row `stack`: the one
        that stays first, whatever order is asked for.
        """
        if tab == "stack":
            sort = "best"
        parts: list[Any] = [view.key, tab, sort, stack]
        if tab in ("kept", "dropped"):
            parts += [threshold, self.marks.version]
        elif tab == "bucket":
            parts += list(bucket or ())
        if tab.startswith("marked") or (view.inside is not None and len(self.marks.marked(Mark.KEEP))):
            parts += [self.marks.version]
        if sort == "random":
            parts += [seed]
        key = _key("listing", *parts)
        found = self._listings.get(key)
        if found is None:
            if tab in ("stacks", "stack"):
                rows = self._rows_of_stacks(view, stack if tab == "stack" else None)
            else:
                rows = self._rows_of(view, tab, threshold, bucket)
            if sort == "random":
                rows = rows[np.random.default_rng(seed).permutation(len(rows))]
            elif sort == "worst":
                rows = self._worst_first(view.score, rows)
            found = Listing(key, rows, tab)
            self._listings.put(key, found)
        return found

    def _rows_of_stacks(self, view: View, row: int | None) -> Rows:
        """The first rows of all groups, best first; or all rows of the group of this row."""
        if self.stacks is None:
            return np.empty(0, np.int64)
        return (
            self._ranked(view.score, self.stacks.tops_in(view)) if row is None else self.stacks.members[self.stacks.places(row)]
        )

    def _worst_first(self, score: str, rows: Rows) -> Rows:
        """Rows that are best first the other way round; those without a score stay at the end."""
        if len(self._whole_of(score)[0].rows) == self.store.num_rows:
            return rows[::-1]
        at = int(np.isfinite(self.values(score)[rows]).sum())
        return np.concatenate([rows[:at][::-1], rows[at:]])

    def _rows_of(self, view: View, tab: Tab, threshold: float, bucket: tuple[float, float] | None) -> Rows:
        """Rows of a tab, best first, those without a score last."""
        values, outside = self.values(view.score), self._outside(view)
        if tab == "all":
            scored = self._merged(view, view.rows, outside[np.isfinite(values[outside])])
            return self._followed_by(scored, self._without_score(view))
        if tab == "bucket":
            low, high = bucket or (-np.inf, np.inf)
            added = values[outside]
            return self._merged(view, view.between(low, high), outside[(added >= as_score(low)) & (added < as_score(high))])
        if tab == "no_score":
            return self._without_score(view)
        if tab in ("marked_keep", "marked_drop"):
            return self._ranked(view.score, self.marks.marked(Mark.KEEP) if tab == "marked_keep" else self._dropped_in(view))
        keep, drop = self.marks.marked(Mark.KEEP), self._dropped_in(view)
        at = view.count_at_least(threshold)
        rows: Rows = view.rows[:at] if tab == "kept" else view.rows[at:]
        if len(keep) or len(drop):
            rows = rows[self.marks.state[rows] != (Mark.DROP if tab == "kept" else Mark.KEEP)]
        if tab == "kept":
            return self._merged(view, rows, keep[~self._above(view, keep, threshold)])
        rows = self._merged(view, rows, drop[self._above(view, drop, threshold)])
        without = self._without_score(view)
        return self._followed_by(rows, without[self.marks.state[without] != Mark.KEEP])

    def _without_score(self, view: View) -> Rows:
        """Rows without a score that are counted, in their order."""
        if len(self._whole_of(view.score)[0].rows) == self.store.num_rows:
            return np.empty(0, np.int64)
        has_none = np.isnan(self.values(view.score))
        if view.inside is not None:
            has_none &= view.inside | (self.marks.state == Mark.KEEP)
        return np.flatnonzero(has_none)

    @staticmethod
    def _followed_by(rows: Rows, last: Rows) -> Rows:
        """All of them, in the first one's type."""
        return np.concatenate([rows, last.astype(rows.dtype)]) if len(last) else rows

    def _merged(self, view: View, rows: Rows, more: npt.NDArray[np.int64]) -> Rows:
        """`more` rows put in their places among `rows`, which are best first."""
        if not len(more):
            return rows
        ranks = self.ranks(view.score)
        more = self._ranked(view.score, more)
        place = np.searchsorted(ranks[rows], np.where(ranks[more] == 0, len(ranks) + 1, ranks[more]))
        return np.insert(rows, place, more.astype(rows.dtype))

    def keep_listing(self, view: View, tab: Tab, rows: Rows, *parts: Any) -> Listing:
        """A listing of rows that somebody else chose; `parts` tell it from others of the tab."""
        found = Listing(_key("listing", view.key, tab, *parts), rows, tab)
        self._listings.put(found.key, found)
        return found

    def known_listing(self, key: str) -> Listing:
        """A listing by its key. Raises Gone."""
        found = self._listings.get(key)
        if found is None:
            raise Gone(key)
        return found

    def page(self, listing: Listing, score: str, start: int, count: int) -> list[dict[str, Any]]:
        """What tiles need of rows [start, start + count): row, sample, score, mark, size.

        Where there are captions also `caption`, cut; where the set says that EXIF turns the picture, `turned`.
        Of stacks also how many rows they have (`stack`), of those of one whether each is the one that stays (`stays`) and its
        similarity to that one.
        """
        rows = listing.rows[max(0, start) : max(0, start) + min(max(0, count), PAGE_ROWS)]
        sizes = [name for name in (WIDTH, HEIGHT) if name in self.store.names and name not in self.scores.score_columns]
        more = [name for name in (self.caption_column, self._traits_column) if name is not None]
        found = self.store.fetch(rows, [SAMPLE, *sizes, *more])
        columns = [found.column(name).to_pylist() for name in found.column_names]
        values = self.values(score)[rows]
        return [
            {
                "row": int(row),
                "sample": names[0],
                "score": as_json(float(value)),
                "mark": self.mark_word(int(row)),
                **self._of_stack(listing.tab, int(row)),
                **{name: as_json(size) for name, size in zip(sizes, names[1:], strict=False)},
                **self._said_of(dict(zip(more, names[1 + len(sizes) :], strict=True))),
            }
            for row, value, *names in zip(rows.tolist(), values, *columns, strict=True)
        ]

    def _said_of(self, values: Mapping[str, str | None]) -> dict[str, Any]:
        """A caption, and whether the picture is turned, of the values of one row."""
        found: dict[str, Any] = {}
        if self.caption_column is not None and (caption := values[self.caption_column]):
            found["caption"] = caption if len(caption) <= _CAPTION_LETTERS else f"{caption[:_CAPTION_LETTERS]} …"
        if self._traits_column is not None and _TURNED in (values[self._traits_column] or "").split(","):
            found["turned"] = True
        return found

    def row(self, number: int) -> dict[str, Any]:
        """All that is known of a row, as JSON takes it: its columns, and the score that was learned last."""
        found = self.store.row(number)
        for score in list(self.learned.values())[-1:]:
            found[score.title] = as_json(round(float(self.values(score.name)[number]), _LEARNED_DIGITS))
        return found

    def marks_of(self, listing: Listing, start: int, count: int) -> list[tuple[int, str]]:
        """(row, mark) of the rows [start, start + count) of a listing."""
        rows = listing.rows[max(0, start) : max(0, start) + max(0, count)].tolist()
        return [(int(row), self.mark_word(int(row))) for row in rows]

    def addresses(self, rows: npt.NDArray[np.integer[Any]]) -> list[str | None]:
        """What is looked for as the pictures of these rows: their names, or what the picture column has; None: nothing."""
        if self.picture_column is None:
            return list(self.store.samples(rows))
        return [text or None for text in self.store.fetch(rows, [self.picture_column.name]).column(0).to_pylist()]

    def _of_stack(self, tab: Tab, row: int) -> dict[str, Any]:
        if self.stacks is None or tab not in ("stacks", "stack"):
            return {}
        places = self.stacks.places(row)
        at = places.start + int(np.flatnonzero(self.stacks.members[places] == row)[0])
        reference = self.stacks.reference[at].as_py()
        near = {} if reference is None else {"reference": reference}
        if tab == "stacks":
            return {"stack": self.stacks.size(row), **near}
        return {"stays": bool(self.stacks.stays[at]), "similarity": as_json(float(self.stacks.similarity[at])), **near}

    def mark_word(self, row: int) -> str:
        """A row's mark: "keep", "drop" or "" for none."""
        return Mark(int(self.marks.state[row])).word or ""

    def mark(self, rows: Sequence[int], mark: Mark) -> None:
        """Mark rows, on the disk before it returns. Raises OutputError."""
        self.marks.set(rows, self.store.samples(np.array(rows, np.int64)), mark)

    def marks_flag(self) -> list[str]:
        """What has `beholder select` take the marks; [] where there are none."""
        return ["--marks", str(self.marks.path)] if self.marks.state.any() else []

    def _whole_of(self, score: str) -> tuple[View, tuple[float, float]]:
        """The view without conditions of a score, and its axis; made once."""
        with self._lock:
            found = self._whole.get(score)
            if found is None:
                if score not in self.scores.score_columns:
                    raise Gone(score)
                values = self.scores.scores(score)
                values[~np.isfinite(values)] = np.nan
                found = self._ranked_whole(score, values)
                self._values[score], self._whole[score] = values, found
            return found

    def _ranked_whole(self, score: str, values: npt.NDArray[np.float32]) -> tuple[View, tuple[float, float]]:
        """The view without conditions of these values, and its axis."""
        rows = best_first(values, self.store)
        ascending = np.ascontiguousarray(values[rows][::-1])
        return View(_key("view", score), score, (), rows, ascending, None, len(values)), axis(ascending)


def _key(*parts: Any) -> str:
    """A short name for these values."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:20]
