"""The section of one head: its numbers, charts and chosen rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.kernels.bits import GOLDEN, splitmix64
from beholder.models.published import published_share_at_least
from beholder.reporting.charts import NOTHING, Chart, digits_apart, histogram_chart, kept_chart, numbers_apart, percent
from beholder.reporting.rows import RowFacts
from beholder.scoreset.numbers import QUANTILES, HeadNumbers, counts_between

NUM_BEST, NUM_BORDER, NUM_LEAD = 18, 12, 6
_FEWEST_SHOWN = 4


@dataclass(frozen=True)
class BucketRows:
    """A bucket of scores, in words, and the rows that are shown of it."""

    anchor: str
    label: str
    count: int
    share: str
    rows: list[int]


@dataclass
class HeadSection:
    """What is shown of one head; rows are numbers of rows, ordered once their names are known.

    Attributes:
        index: its place among the heads.
        column, name: of the scores and of the head.
        num_scored, num_not_finite: rows with a finite score, and with an infinite one.
        summary: (label, text) of moments and quantiles.
        charts: histogram, kept share, and its tail; [] without scores.
        steps: (threshold, share kept, words, places on the charts) to try; the slider begins at number `first_step`.
        threshold: what the section is about, or None.
        is_chosen: whether the user or a selection chose it; else it is an example.
        num_kept, share_kept, share_laion: at the threshold.
        buckets, best, worst, above, below: rows.
        lost: the best-ranked rows that rules of a selection dropped whatever their score.
        lead: sentences that the page opens with.
        advice, prices: what `curate.advise` says, and its tables as they are shown.
        has_selection: whether the border is that of a selection.
    """

    index: int
    column: str
    name: str
    num_scored: int
    num_not_finite: int
    summary: list[tuple[str, str]]
    charts: list[Chart] = field(default_factory=list)
    steps: list[tuple[float, str, str, list[float | None]]] = field(default_factory=list)
    first_step: int = 0
    threshold: float | None = None
    is_chosen: bool = False
    num_kept: int = 0
    share_kept: str = ""
    share_laion: str | None = None
    buckets: list[BucketRows] = field(default_factory=list)
    best: list[int] = field(default_factory=list)
    worst: list[int] = field(default_factory=list)
    above: list[int] = field(default_factory=list)
    below: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    lead: list[str] = field(default_factory=list)
    has_selection: bool = False
    advice: Any = None
    prices: list[Any] = field(default_factory=list)

    @property
    def first_seen(self) -> tuple[list[int], list[int]]:
        """Rows that the page opens with: those on either side of the cut, or the best and worst where none was chosen."""
        worst = self.worst if self.num_scored > 1 else []
        pair = (self.above, self.below) if self.is_chosen or self.has_selection else (self.best, worst)
        return pair[0][:NUM_LEAD], pair[1][:NUM_LEAD]

    @property
    def rows(self) -> Iterable[int]:
        """All rows it may show, the most important first."""
        yield from itertools.chain(*self.first_seen, self.above, self.below, self.lost, self.best, self.worst)
        for bucket in self.buckets:
            yield from bucket.rows

    def put_in_order(self, facts: Mapping[int, RowFacts], *, border_is_ordered: bool) -> None:
        """Sort the chosen rows by score and name, and cut the candidates to those that are shown."""

        def key(row: int, sign: int) -> tuple[float, bytes, int]:
            score = facts[row].scores[self.index]
            return (sign * (score if score is not None else math.nan), facts[row].sample.encode("utf-8", "surrogatepass"), row)

        def ordered(rows: list[int], sign: int, most: int | None = None) -> list[int]:
            return sorted((row for row in rows if row in facts), key=lambda row: key(row, sign))[:most]

        self.best, self.worst = ordered(self.best, -1, NUM_BEST), ordered(self.worst, 1, NUM_BEST)
        if not border_is_ordered:
            self.above, self.below = ordered(self.above, 1, NUM_BORDER), ordered(self.below, -1, NUM_BORDER)
        self.buckets = [replace(bucket, rows=ordered(bucket.rows, -1)) for bucket in self.buckets]


def thin_out(section: HeadSection) -> bool:
    """Show half as many pictures of each bucket; False where there are few already."""
    if max((len(bucket.rows) for bucket in section.buckets), default=0) <= _FEWEST_SHOWN:
        return False
    section.buckets = [
        replace(bucket, rows=bucket.rows[::2] if len(bucket.rows) > _FEWEST_SHOWN else bucket.rows)
        for bucket in section.buckets
    ]
    return True


def head_section(
    index: int,
    column: str,
    head: str | None,
    scores: npt.NDArray[np.float32],
    *,
    threshold: float | None,
    kept: npt.NDArray[np.bool_] | None,
    per_bucket: int,
    seed: int,
) -> HeadSection:
    """Count, draw and choose. `kept`: (N,) what a selection kept."""
    numbers = HeadNumbers(column, head, scores)
    section = HeadSection(index, column, numbers.name, numbers.num_scored, numbers.num_not_finite, _summary(numbers))
    section.threshold = threshold
    section.lead = [_spread(numbers)]
    if not numbers.num_scored:
        return section
    kept_scores = scores[kept & np.isfinite(scores)] if kept is not None else None
    section.charts = [
        histogram_chart(
            f"histogram-{index}", numbers, numbers.histogram(kept_scores), threshold, selection=kept_scores is not None
        ),
        kept_chart(f"kept-{index}", numbers, threshold, is_logarithmic=False),
        kept_chart(f"tail-{index}", numbers, threshold, is_logarithmic=True),
    ]
    section.steps = _steps(numbers, section.charts)
    middle = numbers.quantile(0.5) if threshold is None else threshold
    section.first_step = min(range(len(section.steps)), key=lambda place: abs(section.steps[place][0] - middle))
    num_scored = numbers.num_scored
    section.best = at_places(numbers, scores, num_scored - NUM_BEST, num_scored).tolist()
    section.worst = at_places(numbers, scores, 0, NUM_BEST).tolist()
    found = buckets(numbers, scores, per_bucket, seed)
    section.buckets = [
        BucketRows(
            f"bucket-{index}-{place}",
            label,
            bucket.count,
            percent(bucket.count / numbers.num_scored),
            bucket.rows.tolist(),
        )
        for place, (bucket, label) in enumerate(zip(found, _labels(found), strict=True))
    ]
    if threshold is not None:
        section.num_kept = numbers.count_at_least(threshold)
        section.share_kept = percent(numbers.share_at_least(threshold))
        laion = published_share_at_least(head, threshold) if head else None
        section.share_laion = percent(laion) if laion is not None else None
        cut = num_scored - section.num_kept
        section.above = at_places(numbers, scores, cut, cut + NUM_BORDER).tolist()
        section.below = at_places(numbers, scores, cut - NUM_BORDER, cut).tolist()
    return section


def set_border(section: HeadSection, kept: Rows, dropped: Rows, lost: Rows) -> None:
    """Show the border of a selection in place of that of a threshold."""
    section.has_selection = True
    section.above, section.below, section.lost = kept.tolist(), dropped.tolist(), lost.tolist()


def _summary(numbers: HeadNumbers) -> list[tuple[str, str]]:
    """(label, text); no digits are invented: a dash where there are no scores."""

    def text(value: float) -> str:
        return NOTHING if math.isnan(value) else f"{value:.3f}"

    lines = [("mean", text(numbers.mean)), ("sd", text(numbers.standard_deviation)), ("min", text(numbers.minimum))]
    lines += [("median" if q == 0.5 else f"{100 * q:g} %", text(numbers.quantile(q))) for q in QUANTILES]
    return [*lines, ("max", text(numbers.maximum))]


def _spread(numbers: HeadNumbers) -> str:
    """How scores are spread, in a sentence."""
    if not numbers.num_scored:
        return "No picture has a score."
    low, high = numbers.minimum, numbers.maximum
    if numbers.num_scored == 1:
        return f"One picture is scored: {low:.3f}."
    if low == high:
        return f"All {numbers.num_scored:,} pictures score {low:.3f}."
    values = [low, *(numbers.quantile(q) for q in (0.25, 0.5, 0.75)), high]
    digits = digits_apart(values, least=2)
    lowest, quarter, middle, three, highest = (f"{value:.{digits}f}" for value in values)
    return (
        f"{numbers.num_scored:,} pictures score from {lowest} to {highest}; half of them lie between {quarter} and {three}, "
        f"the middle one at {middle}."
    )


def _labels(buckets: Sequence[Bucket]) -> list[str]:
    """Their ends in words, with digits that tell them apart."""
    ends = sorted({end for bucket in buckets for end in (bucket.low, bucket.high)})
    texts = dict(zip(ends, numbers_apart(ends), strict=True))

    def label(low: float, high: float) -> str:
        if math.isinf(low):
            return "all" if math.isinf(high) else f"below {texts[high]}"
        return f"{texts[low]} and more" if math.isinf(high) else f"{texts[low]} to {texts[high]}"

    return [label(bucket.low, bucket.high) for bucket in buckets]


def _steps(numbers: HeadNumbers, charts: list[Chart]) -> list[tuple[float, str, str, list[float | None]]]:
    """Thresholds to try, what each keeps, and where it stands on each chart."""
    found = []
    curve = numbers.curve()
    for (threshold, kept), text in zip(curve, numbers_apart([threshold for threshold, _ in curve]), strict=True):
        words = f"kept at {text} or more: {kept:,} of {numbers.num_scored:,}; {numbers.num_scored - kept:,} dropped"
        laion = published_share_at_least(numbers.head, threshold) if numbers.head else None
        words += f". LAION-2B-en kept {percent(laion)}" if laion is not None else ""
        found.append((threshold, percent(kept / numbers.num_scored), words, [chart.place(threshold) for chart in charts]))
    return found


Rows = npt.NDArray[np.int64]

_CHUNK = 1 << 20
_MOST_BUCKETS, _FEWEST_BUCKETS = 30, 2
_HALF_POINT, _LEAST_WIDTH = 0.5, 2.0**-6
_MOST_IN_ONE, _MOST_IN_TWO = 0.5, 0.8
"""Where one bucket of even width, or two beside each other, would hold a larger share, they are made otherwise."""
_BUCKETS_BY_COUNT = 8
_MOST_TIES = 4096
"""Of so many rows of one score, only the first are looked at when the best are chosen."""


@dataclass(frozen=True)
class Bucket:
    """Scores in [low, high), an outer one without that end.

    Attributes:
        low, high: -inf and inf at the ends of a set whose outermost scores lie far off.
        count: rows in it.
        rows: a sample of them.
    """

    low: float
    high: float
    count: int
    rows: Rows


def bucket_edges(numbers: HeadNumbers) -> list[float]:
    """Edges of the buckets: multiples of 0.5, or of another power of two where that would make too many or too few.

    Where one of them would hold most scores they are narrower; where that does not help, all hold about as many.
    """
    if not numbers.num_scored:
        return []
    low, high = numbers.shown_range()
    width = _HALF_POINT
    while (high - low) / width > _MOST_BUCKETS:
        width *= 2
    while 0 < (high - low) / width < _FEWEST_BUCKETS and width > _LEAST_WIDTH:
        width /= 2
    edges = _even_edges(low, high, width)
    while _is_crowded(numbers, edges) and width > _LEAST_WIDTH and 2 * (high - low) / width <= _MOST_BUCKETS:
        width /= 2
        edges = _even_edges(low, high, width)
    return (_edges_by_count(numbers) or edges) if _is_crowded(numbers, edges) else edges


def _even_edges(low: float, high: float, width: float) -> list[float]:
    first, last = math.floor(low / width), math.floor(high / width)
    return [index * width for index in range(first, last + 2)]


def _edges_by_count(numbers: HeadNumbers) -> list[float]:
    """Edges between which about equally many scores lie; [] where scores are too few, or too much alike, for three buckets."""
    if numbers.num_scored < _BUCKETS_BY_COUNT:
        return []
    places = [place * numbers.num_scored // _BUCKETS_BY_COUNT for place in range(_BUCKETS_BY_COUNT)]
    edges = sorted({*(float(numbers.ordered[place]) for place in places), numbers.maximum})
    return edges if len(edges) > 3 else []


def _is_crowded(numbers: HeadNumbers, edges: list[float]) -> bool:
    """Whether one of the buckets, or two of at least four, hold most scores."""
    shares = counts_between(numbers.ordered, edges) / numbers.num_scored
    return bool(shares.max() > _MOST_IN_ONE or (len(shares) > 3 and (shares[1:] + shares[:-1]).max() > _MOST_IN_TWO))


def buckets(
    numbers: HeadNumbers, scores: npt.NDArray[np.float32], per_bucket: int, seed: int, *, at_once: int = _CHUNK
) -> list[Bucket]:
    """A sample of at most `per_bucket` rows of each bucket that has any; the same rows for the same seed. Highest first.

    Rows are ordered by a hash of their number and the seed, and those with the smallest are taken: one pass, and memory
    for one piece of the set and the rows taken.
    """
    edges = bucket_edges(numbers)
    if not edges:
        return []
    num_buckets = len(edges) - 1
    bounds = np.asarray(edges[1:-1], np.float32)
    taken: list[tuple[npt.NDArray[np.uint64], Rows]] = [
        (np.empty(0, np.uint64), np.empty(0, np.int64)) for _ in range(num_buckets)
    ]
    limits = np.full(num_buckets, np.iinfo(np.uint64).max, np.uint64)
    for start in range(0, len(scores), at_once):
        piece = scores[start : start + at_once]
        finite = np.flatnonzero(np.isfinite(piece))
        places = np.searchsorted(bounds, piece[finite], side="right")
        rows = finite + start
        keys = hashed(rows, seed)
        near = keys <= limits[places]
        for place in np.unique(places[near]):
            mine = near & (places == place)
            old_keys, old_rows = taken[place]
            all_keys, all_rows = np.concatenate([old_keys, keys[mine]]), np.concatenate([old_rows, rows[mine]])
            order = np.lexsort((all_rows, all_keys))[:per_bucket]
            taken[place] = all_keys[order], all_rows[order]
            if len(order) == per_bucket:
                limits[place] = taken[place][0][-1] if per_bucket else 0
    ends = [-math.inf if numbers.minimum < edges[0] else edges[0], *edges[1:-1]]
    tops = [*edges[1:-1], math.inf if numbers.maximum >= edges[-1] else edges[-1]]
    found = [
        Bucket(low, high, int(count), rows)
        for low, high, count, (_, rows) in zip(ends, tops, counts_between(numbers.ordered, edges), taken, strict=True)
        if count
    ]
    return found[::-1]


def hashed(rows: Rows, seed: int) -> npt.NDArray[np.uint64]:
    """(N,) well mixed numbers of rows and a seed (splitmix64, https://prng.di.unimi.it/splitmix64.c)."""
    with np.errstate(over="ignore"):
        mixed = rows.astype(np.uint64) + np.uint64(1)
        mixed = (mixed + np.uint64(seed % (1 << 64)) * np.uint64(0xD1342543DE82EF95)) * GOLDEN
        found: npt.NDArray[np.uint64] = splitmix64(mixed)
    return found


def at_places(numbers: HeadNumbers, scores: npt.NDArray[np.float32], first: int, stop: int) -> Rows:
    """Rows among which those at places [first, stop) of the ascending scores are: these and what ties with the outermost."""
    first, stop = max(0, first), min(stop, numbers.num_scored)
    if first >= stop:
        return np.empty(0, np.int64)
    return _between(scores, float(numbers.ordered[first]), float(numbers.ordered[stop - 1]))


def _between(scores: npt.NDArray[np.float32], low: float, high: float) -> Rows:
    """Rows with low <= score <= high, finite; of each of the two outer scores at most `_MOST_TIES`, the first in the set."""
    found: list[Rows] = []
    ties = {low: 0, high: 0}
    for start in range(0, len(scores), _CHUNK):
        piece = scores[start : start + _CHUNK]
        inside = (piece >= low) & (piece <= high) & np.isfinite(piece)
        if not inside.any():
            continue
        for edge in ties:
            tied = np.flatnonzero(inside & (piece == edge))
            room = max(0, _MOST_TIES - ties[edge])
            ties[edge] += len(tied)
            inside[tied[room:]] = False
        found.append(np.flatnonzero(inside) + start)
    return np.concatenate(found) if found else np.empty(0, np.int64)
