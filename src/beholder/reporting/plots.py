"""Plots of scores against ratings as coordinates, which templates draw as inline SVG, in the box of `charts`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from beholder.reporting.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Drawing,
    Tick,
    axis_ticks,
    number,
    path,
    percent,
    share_tick,
)
from beholder.train.evaluate.bins import Bin

Doubles = npt.NDArray[np.float64]
Show = Callable[[float], str]

_MOST_DOTS = 1000
"""Of more pictures a plot shows how many there are in each small square."""
_COLUMNS, _ROWS = 52, 24
_FAINTEST = 0.12
_OUTERMOST = 0.001
"""The share of many pictures at either end that does not stretch an axis."""
_X_TICKS, _Y_TICKS = 8, 5
_MARGIN = 0.05
_CURVE_POINTS = 40
_HISTOGRAM_BINS = 24


class Dot(NamedTuple):
    """A picture, or the mean of a bin."""

    x: float
    y: float


class Span(NamedTuple):
    """An interval, upright."""

    x: float
    low: float
    high: float


class Cell(NamedTuple):
    """A square with pictures, darker (opacity to 1) where there are more."""

    x: float
    y: float
    width: float
    height: float
    opacity: float


@dataclass(frozen=True, kw_only=True)
class Plot(Drawing):
    """A plot of scores against ratings.

    Attributes:
        dots, cells: pictures, one by one or by squares.
        points, spans: means of bins and their intervals.
        reference, trend: paths of curves ("" for none).
        level: where a line across is, or None.
        legend: (kind of mark, words).
    """

    dots: list[Dot] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    points: list[Dot] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    reference: str = ""
    trend: str = ""
    level: float | None = None
    legend: list[tuple[str, str]]


@dataclass(frozen=True)
class _Frame:
    """From values to places in the box: x from `left` to `right`, y from `bottom` to `top`."""

    left: float
    right: float
    bottom: float
    top: float

    @classmethod
    def around(cls, x: Sequence[float], y: Sequence[float], *, y_within: tuple[float, float] | None = None) -> _Frame:
        """A frame with a margin about finite values; y not beyond what can be."""
        (left, right), (bottom, top) = _ends(x), _ends(y)
        if y_within is not None:
            bottom, top = max(bottom, y_within[0]), min(top, y_within[1])
        return cls(left, right, bottom, top)

    def x(self, value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (value - self.left) / (self.right - self.left), 1)

    def y(self, value: float) -> float:
        share = (value - self.bottom) / (self.top - self.bottom)
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(1.0, max(0.0, share)), 1)

    def x_ticks(self) -> list[Tick]:
        return axis_ticks(self.left, self.right, _X_TICKS, self.x)

    def y_ticks(self, show: Show) -> list[Tick]:
        return axis_ticks(self.bottom, self.top, _Y_TICKS, self.y, show)

    def path(self, x: Sequence[float], y: Sequence[float]) -> str:
        return path((self.x(one), self.y(other)) for one, other in zip(x, y, strict=True))


def _figure(value: float) -> str:
    """A score or a rating as people read it."""
    return f"{value:.4g}"


def _ends(values: Sequence[float]) -> tuple[float, float]:
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known), max(known)
    margin = (high - low) * _MARGIN or abs(high) * _MARGIN or 1.0
    return low - margin, high + margin


def calibration_plot(
    name: str, bins: Sequence[Bin], curve: Callable[[Doubles], Doubles] | None, *, title: str, x_label: str, y_label: str,
    is_share: bool, level: float, unit: str,
) -> Plot:  # fmt: skip
    """Mean ratings by score with their intervals, and the map that predicts ratings.

    Args:
        name: unique in the page.
        bins: at least one, ascending.
        curve: from scores to predicted ratings; None: nothing is predicted.
        title: of the plot.
        x_label: of the scores.
        y_label: of the ratings.
        is_share: whether ratings are shares, 0 to 1.
        level: of the intervals.
        unit: what is counted, as in `pictures`.
    """
    show: Show = percent if is_share else _figure
    highs = [one.rating_high if math.isfinite(one.rating_high) else one.rating for one in bins]
    lows = [one.rating_low if math.isfinite(one.rating_low) else one.rating for one in bins]
    frame = _Frame.around([one.score for one in bins], [*lows, *highs], y_within=(0.0, 1.0) if is_share else None)
    if is_share and frame.top - frame.bottom < 0.02:
        frame = _Frame(frame.left, frame.right, 0.0, 1.0)
    at = np.linspace(frame.left, frame.right, _CURVE_POINTS)
    reads = []
    for one in bins:
        where = _figure(one.low) if one.low == one.high else f"{_figure(one.low)} to {_figure(one.high)}"
        words = f"{x_label} {where}: {y_label} {show(one.rating)}"
        if math.isfinite(one.rating_low):
            words += f" ({show(one.rating_low)} to {show(one.rating_high)})"
        reads.append((frame.x(one.score), f"{words}, {one.num_rows:,} {unit}"))
    has_spans = any(math.isfinite(one.rating_low) for one in bins)
    legend = [("point", f"mean of a bin of about {bins[0].num_rows:,} {unit}")]
    legend += [("span", f"{100 * level:g} % interval of the mean")] if has_spans else []
    legend += [("reference", "what a rating is predicted to be")] if curve is not None else []
    return Plot(
        name=name,
        title=title,
        summary=f"{y_label[:1].upper()}{y_label[1:]} in {len(bins)} bin{'s' if len(bins) != 1 else ''} by {x_label}, from "
        f"{show(bins[0].rating)} in the lowest to {show(bins[-1].rating)} in the highest.",
        x_label=x_label,
        y_label=y_label,
        x_ticks=frame.x_ticks(),
        y_ticks=frame.y_ticks(share_tick if is_share else number),
        points=[Dot(frame.x(one.score), frame.y(one.rating)) for one in bins],
        spans=[
            Span(frame.x(one.score), frame.y(one.rating_low), frame.y(one.rating_high))
            for one in bins
            if math.isfinite(one.rating_low)
        ],
        reference="" if curve is None else _inside(frame, at, curve(at)),
        legend=legend,
        reads=reads,
    )


def scatter_plot(name: str, scores: Doubles, ratings: Doubles, bins: Sequence[Bin]) -> Plot:
    """Each picture's rating by its score; of many, how many there are where."""
    means = [(one.score, one.rating, f"mean rating {_figure(one.rating)}") for one in bins]
    return _cloud(name, "Ratings by score", scores, ratings, means, y_label="rating", level=None)


def residual_plot(name: str, scores: Doubles, residuals: Doubles, bins: Sequence[Bin]) -> Plot:
    """Each picture's rating less what is predicted, by its score."""
    means = [
        (one.score, one.rating - one.predicted, f"rated {one.rating - one.predicted:+.3g} on average, against predictions")
        for one in bins
    ]
    title = "Rating less prediction, by score"
    return _cloud(name, title, scores, residuals, means, y_label="rating less prediction", level=0.0)


def _cloud(
    name: str,
    title: str,
    x: Doubles,
    y: Doubles,
    means: Sequence[tuple[float, float, str]],
    *,
    y_label: str,
    level: float | None,
) -> Plot:
    """Pictures as dots or squares, with the means of bins."""
    is_many = len(x) > _MOST_DOTS
    tails = [_OUTERMOST, 1 - _OUTERMOST] if is_many else [0.0, 1.0]
    shown_x, shown_y = np.quantile(x, tails), np.quantile(y, tails)
    inside = (x >= shown_x[0]) & (x <= shown_x[1]) & (y >= shown_y[0]) & (y <= shown_y[1])
    frame = _Frame.around(shown_x.tolist(), [*shown_y.tolist(), *(() if level is None else (level,))])
    beyond = int(np.count_nonzero(~inside))
    summary = f"{len(x):,} pictures" + (", darker where there are more" if is_many else "")
    summary += f"; {beyond:,} lie beyond the ends and are not drawn." if beyond else "."
    dots = [] if is_many else [Dot(frame.x(one), frame.y(other)) for one, other in zip(x.tolist(), y.tolist(), strict=True)]
    near = [(score, value, words) for score, value, words in means if frame.left <= score <= frame.right]
    return Plot(
        name=name,
        title=title,
        summary=summary,
        x_label="score",
        y_label=y_label,
        x_ticks=frame.x_ticks(),
        y_ticks=frame.y_ticks(number),
        dots=dots,
        cells=_cells(frame, x[inside], y[inside]) if is_many else [],
        trend=frame.path([score for score, _, _ in near], [value for _, value, _ in near]),
        level=None if level is None else frame.y(level),
        legend=[
            ("cell", "pictures") if is_many else ("dot", "a picture"),
            *([("trend", "mean by score")] if len(near) > 1 else []),
        ],
        reads=[(frame.x(score), f"scores about {_figure(score)}: {words}") for score, _, words in near],
    )


def _cells(frame: _Frame, x: Doubles, y: Doubles) -> list[Cell]:
    """Squares with pictures; their darkness grows with the logarithm of how many."""
    edges = (np.linspace(frame.left, frame.right, _COLUMNS + 1), np.linspace(frame.bottom, frame.top, _ROWS + 1))
    counts, _, _ = np.histogram2d(x, y, bins=edges)
    width, height = (WIDTH - LEFT - RIGHT) / _COLUMNS, (HEIGHT - TOP - BOTTOM) / _ROWS
    most = math.log1p(counts.max()) if counts.size else 1.0
    return [
        Cell(
            round(LEFT + column * width, 1),
            round(HEIGHT - BOTTOM - (row + 1) * height, 1),
            round(width, 1),
            round(height, 1),
            round(_FAINTEST + (1 - _FAINTEST) * math.log1p(counts[column, row]) / most, 2),
        )
        for column, row in np.argwhere(counts > 0).tolist()
    ]


def marks_plot(name: str, scores: Doubles, is_kept: npt.NDArray[np.bool_]) -> Plot:
    """How scores of kept and of dropped pictures are spread."""
    low, high = _ends(scores.tolist())
    edges = np.linspace(low, high, _HISTOGRAM_BINS + 1)
    shares = [np.histogram(scores[mask], edges)[0] / max(1, int(mask.sum())) for mask in (is_kept, ~is_kept)]
    frame = _Frame(low, high, 0.0, float(max(share.max() for share in shares)) * (1 + _MARGIN))
    kept, dropped = int(is_kept.sum()), int((~is_kept).sum())
    paths = ["".join(_step(frame, edges, share)) for share in shares]
    return Plot(
        name=name,
        title="Scores of kept and of dropped pictures",
        summary=f"Share of the {kept:,} kept and of the {dropped:,} dropped pictures by score.",
        x_label="score",
        y_label="share of the kept, of the dropped",
        x_ticks=frame.x_ticks(),
        y_ticks=frame.y_ticks(share_tick),
        line=paths[0],
        reference=paths[1],
        legend=[("line", "kept"), ("reference", "dropped")],
        reads=[
            (
                frame.x(float(edges[at] + edges[at + 1]) / 2),
                f"{number(float(edges[at]))} to {number(float(edges[at + 1]))}: {percent(float(shares[0][at]))} of the kept, "
                f"{percent(float(shares[1][at]))} of the dropped",
            )
            for at in range(_HISTOGRAM_BINS)
        ],
    )


def _step(frame: _Frame, edges: Doubles, heights: Doubles) -> list[str]:
    """A line that is level in each bin."""
    start = f"M{frame.x(float(edges[0]))} {frame.y(0.0)}"
    steps = [f"V{frame.y(float(height))}H{frame.x(float(edge))}" for height, edge in zip(heights, edges[1:], strict=True)]
    return [start, *steps, f"V{frame.y(0.0)}"]


def _inside(frame: _Frame, x: Doubles, y: Doubles) -> str:
    """The part of a curve that is in the frame."""
    shown = (y >= frame.bottom) & (y <= frame.top)
    return frame.path(x[shown].tolist(), y[shown].tolist())
