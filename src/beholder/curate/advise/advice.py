"""Advice on a threshold: what it keeps, where others cut, and which groups of pictures it drops most."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from typing import Any

import numpy as np

from beholder.curate.advise.representation import METHOD, ColumnTable, Group, GroupCounts, represent
from beholder.curate.advise.rows import SCORE, Grouper, LeftOut, Rows, choose_score, chosen_columns, finite, head_of, open_rows
from beholder.curate.advise.wording import hardest_hit, kept_sentence, price_sentence, warnings_about
from beholder.curate.options import AdviseOptions
from beholder.models.published import LAION_EN, Landmark, PublishedShares, landmarks_of, published_of, read_threshold
from beholder.options import KEEP_FIRST, check_threads, take_old_names
from beholder.scoreset.database import NO_FLAG, WITH_FLAG, Remedy
from beholder.scoreset.foreign import as_source, texts_of
from beholder.scoreset.numbers import QUANTILES, Ascending, ScoreStats, count_above, count_at_least, grid_around
from beholder.scoreset.row_names import open_each_once
from beholder.scoreset.score_set import ScoreSet

__all__ = ["Advice", "GridRow", "LandmarkRow", "advise", "choose_score"]

WANTED_SHARE = 0.25
"""Without a threshold of the user, the price is shown for the one in the grid that keeps most nearly this share, which is
what LAION's 5+ kept (`models.published`)."""

_BATCH_ROWS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """One threshold.

    Attributes:
        threshold: rows with a score at or above it are kept.
        num_kept, share_kept: of the rows with a score.
        published: name of a public set -> published share of it at or above the same score of the same head, in (0, 1];
            None where this threshold was not published.
        is_wanted: whether the user asked for this threshold.
    """

    threshold: float
    num_kept: int
    share_kept: float
    published: Mapping[str, float | None]
    is_wanted: bool = False

    @property
    def laion_2b_en(self) -> float | None:
        """The published share of LAION-2B-en, or None."""
        return self.published.get(LAION_EN)


@dataclass(frozen=True, kw_only=True)
class LandmarkRow:
    """Where somebody cut scores of the same head, and what the same cut keeps here."""

    landmark: Landmark
    num_kept: int
    share_kept: float


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What `advise` found. JSON-ready by `to_json`.

    Attributes:
        source: the scores, as the user named them.
        score_column: the scores that advice is about.
        head: the head behind them: its registry name where it is a known one, else what the record or the user calls it.
        where: conditions that rows had to meet.
        num_rows: rows of the set in all, those that name a sample again included.
        num_rows_that_meet: rows that meet the conditions, each sample once.
        num_scored: of these, those with a finite score; all shares are of these.
        mean, standard_deviation, minimum, maximum: of the scores; None without any.
        quantiles: q -> score, to within 0.2 %; {} without any.
        at: the threshold whose price is shown; None without scores.
        at_reason: why this one.
        grid: thresholds, ascending.
        landmarks: where others cut scores of this head, ascending.
        published: sets with published scores of this head.
        tables: the price: groups of each column, the most changed column first.
        left_out: columns without a table.
        method: how intervals and tests were made, in words.
        warnings: what should be known before a threshold is taken.
        sentences: the first things to know, in plain words: what `at` keeps, and which group pays for it most.
        seconds: how long it took.
    """

    source: str
    score_column: str
    head: str | None
    where: tuple[str, ...]
    num_rows: int
    num_rows_that_meet: int
    num_scored: int
    mean: float | None
    standard_deviation: float | None
    minimum: float | None
    maximum: float | None
    quantiles: Mapping[str, float]
    at: float | None
    at_reason: str
    grid: tuple[GridRow, ...]
    landmarks: tuple[LandmarkRow, ...]
    published: tuple[PublishedShares, ...]
    tables: tuple[ColumnTable, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    method: str = METHOD
    warnings: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and texts; no NaN, no infinity."""
        hit = self.hardest_hit
        return asdict(self) | {
            "published": [item.to_json() for item in self.published],
            "num_kept": self.num_kept,
            "share_kept": _share(self.num_kept, self.num_scored),
            "hardest_hit": {"column": hit[0].column, "kind": hit[0].kind} | asdict(hit[1]) if hit is not None else None,
        }

    @property
    def num_kept(self) -> int:
        """Rows that `at` keeps."""
        return next((row.num_kept for row in self.grid if row.threshold == self.at), 0)

    @property
    def hardest_hit(self) -> tuple[ColumnTable, Group] | None:
        """The group that clearly shrinks most, and its column's table; None where no group clearly shrinks."""
        return hardest_hit(self.tables)


def advise(
    scores: ScoreSet | str | PathLike[str] | Any,
    *,
    grid: Sequence[float] | None = None,
    min_score: float | str | None = None,
    group_by: Sequence[str] | str | None = None,
    score: str | None = None,
    head: str | None = None,
    where: str | Sequence[str] | None = None,
    join: str | Sequence[str] = (),
    with_price: bool = True,
    memory: int = AdviseOptions.memory,
    num_threads: int | None = None,
    repeated: str = KEEP_FIRST,
    score_column: str | None = None,
    sample_column: str | None = None,
    **old_names: Any,
) -> Advice:
    """Advise on a threshold for a score set.

    Args:
        scores: a set that is open; or what `open_scores` takes; or a data frame of polars, pandas or Arrow.
        grid: thresholds of the table; None: half and quarter points around the scores, and the published points of their head.
        min_score: the threshold in question, or the short name of a landmark ("sd-v1"); None: see `WANTED_SHARE`.
        group_by: metadata columns whose groups are compared (`sample`: by folder); None: all that can be grouped.
        score: the score column, or a name of the head behind it; needed where there are several.
        head: the head that made the scores, where the set does not say.
        where: SQL conditions; rows that do not meet all of them are left out of everything.
        join: tables (Parquet, CSV) with more columns, joined by sample.
        with_price: whether groups are looked at; without, only the scores are read.
        memory: bytes that DuckDB may use; the rest goes to a temporary folder.
        num_threads: of DuckDB; None: all cores.
        repeated: what becomes of rows that name a sample again (`row_names.open_each_once`); for a set that is not open yet.
        score_column: see `open_scores`; the same.
        sample_column: the same.
        old_names: `thresholds`, `at` and `columns` are what grid, min_score and group_by were called.

    Raises:
        InputError: no such column, landmark, head or table; a condition that is no SQL expression.
        TypeError: scores of another kind, an unknown option.
    """
    options = {name: value for name, value in locals().items() if name not in ("scores", "old_names")}
    opening = ("repeated", "score_column", "sample_column")
    given = {name: value for name, value in options.items() if name not in opening}
    for name, value in take_old_names(old_names, AdviseOptions, "advise").items():
        if name not in ("grid", "min_score", "group_by"):
            raise TypeError(f"advise() has no option {name!r}; there are {', '.join(sorted(options))}")
        if given[name] is not None:
            raise TypeError(f"advise() got {name!r} twice, once by its former name")
        given[name] = value
    check_threads(num_threads)
    if isinstance(scores, ScoreSet):  # of a command without --memory
        return _advise(scores, **given, remedy=NO_FLAG)
    named = {"score_column": score_column, "sample_column": sample_column}
    with open_each_once(as_source(scores, "advise")[0], repeated, num_threads=num_threads or 1, **named) as opened:
        return _advise(opened, **given, remedy=WITH_FLAG)


def _advise(
    scores: ScoreSet,
    *,
    grid: Sequence[float] | None,
    min_score: float | str | None,
    group_by: Sequence[str] | str | None,
    score: str | None,
    head: str | None,
    where: str | Sequence[str] | None,
    join: str | Sequence[str],
    with_price: bool,
    memory: int,
    num_threads: int | None,
    remedy: Remedy,
) -> Advice:
    """`advise` for an open set. `remedy`: what a user can do where memory is short."""
    started = time.perf_counter()
    cut = None if min_score is None else read_threshold(min_score)
    column = choose_score(scores, score)
    head = head_of(scores, column, head)
    asked = tuple(finite(float(threshold), "--grid") for threshold in grid or ())
    at = None if cut is None else finite(cut.value, "--min-score")
    mark = None if cut is None else cut.landmark
    wanted = (group_by,) if isinstance(group_by, str) else group_by
    conditions = (where,) if isinstance(where, str) else tuple(where or ())
    tables = texts_of(join, "join", "advise")
    how: dict[str, Any] = {"memory": memory, "num_threads": num_threads, "remedy": remedy}
    counted: list[GroupCounts | LeftOut] = []
    with open_rows(scores, column, where=conditions, join=tables, **how) as rows:
        picked = chosen_columns(rows, wanted) if with_price else []
        num_rows, stats, ascending = _scores(rows)
        thresholds = sorted({*(asked or _grid(stats, head)), *([] if at is None else [at])})
        kept = {threshold: count_at_least(ascending, threshold) for threshold in thresholds}
        price_of, reason = at, "asked for" if mark is None else f"asked for: {mark.name}"
        if at is None:
            price_of, reason = _example(kept, stats.count)
        if price_of is not None and with_price:
            grouper = Grouper(rows, price_of, stats.count, kept[price_of], is_forced=wanted is not None)
            counted = [grouper.count(name) for name in picked]
    prices = represent([item for item in counted if isinstance(item, GroupCounts)])
    num_kept = 0 if price_of is None else kept[price_of]
    num_equal = 0  # rows that the landmark dropped, and that are counted as kept here
    if mark is not None and mark.is_strict:
        num_equal = kept[mark.threshold] - count_above(ascending, mark.threshold)
    sentences = (
        kept_sentence(price_of, num_kept, stats.count, head, is_asked=at is not None),
        price_sentence(prices, num_kept, stats.count, is_priced=with_price),
    )
    warnings = warnings_about(scores, column, head, stats, num_rows, at=at, mark=mark, num_equal=num_equal)
    some = stats.count > 0
    return Advice(
        source=scores.source,
        score_column=column,
        head=head,
        where=conditions,
        num_rows=scores.whole().num_rows,
        num_rows_that_meet=num_rows,
        num_scored=stats.count,
        mean=stats.mean if some else None,
        standard_deviation=stats.standard_deviation if some else None,
        minimum=stats.minimum if some else None,
        maximum=stats.maximum if some else None,
        quantiles={f"{q:g}": stats.quantile(q) for q in QUANTILES} if some else {},
        at=price_of,
        at_reason=reason,
        grid=tuple(_grid_rows(kept, stats.count, head, (*asked, at))),
        landmarks=tuple(_landmark_rows(ascending, head)),
        published=published_of(head),
        tables=prices,
        left_out=tuple(item for item in counted if isinstance(item, LeftOut)),
        sentences=tuple(filter(None, sentences)),
        warnings=(*scores.notes, *rows.notes, *warnings),
        seconds=time.perf_counter() - started,
    )


def _scores(rows: Rows) -> tuple[int, ScoreStats, Ascending]:
    """Rows of the view, and their scores: statistics, and all of them in order (4 bytes each)."""
    num_rows, stats, pieces = 0, ScoreStats(), [np.empty(0, np.float32)]
    for batch in rows.batches(f"SELECT {SCORE} FROM rows", _BATCH_ROWS):
        num_rows += batch.num_rows
        pieces.append(batch.column(0).drop_null().to_numpy(zero_copy_only=False).astype(np.float32))
        stats.merge(ScoreStats.of(pieces[-1]))
    return num_rows, stats, np.sort(np.concatenate(pieces))


def _grid(stats: ScoreStats, head: str | None) -> list[float]:
    """Half and quarter points (or other round ones) around the scores, and what is published; ascending, each once."""
    return sorted(grid_around(stats) | {threshold for item in published_of(head) for threshold in item.shares})


def _example(kept: Mapping[float, int], num_scored: int) -> tuple[float | None, str]:
    """The threshold whose price is shown where none was asked for, and why this one. `kept`: threshold -> rows kept."""
    if not kept or not num_scored:
        return None, "there are no scores"
    best = min(kept, key=lambda threshold: (abs(kept[threshold] / num_scored - WANTED_SHARE), threshold))
    return best, f"none was asked for; this one keeps most nearly {WANTED_SHARE:.0%}, as LAION's 5+ did of LAION-2B-en"


def _grid_rows(
    kept: Mapping[float, int], num_scored: int, head: str | None, wanted: Sequence[float | None]
) -> Iterator[GridRow]:
    sets = [item for item in published_of(head) if item.has_shares]
    for threshold, count in kept.items():
        published = {item.dataset: item.shares.get(threshold) for item in sets}
        share = _share(count, num_scored)
        is_wanted = threshold in wanted
        yield GridRow(threshold=threshold, num_kept=count, share_kept=share, published=published, is_wanted=is_wanted)


def _landmark_rows(ascending: Ascending, head: str | None) -> Iterator[LandmarkRow]:
    for mark in landmarks_of(head):
        count = (count_above if mark.is_strict else count_at_least)(ascending, mark.threshold)
        yield LandmarkRow(landmark=mark, num_kept=count, share_kept=_share(count, len(ascending)))


def _share(count: int, total: int) -> float:
    return count / total if total else 0.0
