"""Charts as coordinates, which the page's template draws as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from beholder.scoreset.numbers import HeadNumbers, Histogram, nice_step, published_densities
from beholder.scoreset.score_set import as_score

WIDTH, HEIGHT = 720.0, 338.0
LEFT, RIGHT, TOP, BOTTOM = 88.0, 16.0, 34.0, 54.0
_HALF_LETTER = 7.0
"""Half the width of a letter on a narrow screen, at least."""
_X_TICKS, _Y_TICKS = 10, 5
_LEAST_SHARE = 1e-9
NOTHING = "\N{EN DASH}"
"""Stands where there is no number."""
NO_BREAK = "\N{NO-BREAK SPACE}"


class Tick(NamedTuple):
    """A mark on an axis: where, and what it says."""

    at: float
    text: str


class Cut(NamedTuple):
    """Where a threshold stands, what it says, and where the middle of these words is, above the chart and inside its ends."""

    at: float
    text: str
    text_at: float


class Box(NamedTuple):
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float


class Point(NamedTuple):
    """A published point: where, and what it says."""

    x: float
    y: float
    words: str


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What is drawn in a box of WIDTH x HEIGHT.

    Attributes:
        name: unique in the page, for ids.
        title, summary: what it shows, in words.
        x_label, y_label: of the axes.
        x_ticks, y_ticks: marks.
        line: the path of a curve ("" for none).
        reads: (x, words) for a pointer that moves over it, ascending in x.
    """

    name: str
    title: str
    summary: str
    x_label: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    line: str = ""
    reads: list[tuple[float, str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Chart(Drawing):
    """A chart of scores.

    Attributes:
        bars, kept_bars: of all scores, and of those that a selection kept.
        reference: paths of LAION's curve.
        points: LAION's published points.
        threshold: where the chosen threshold is, or None.
        low, high: ends of the x axis.
    """

    bars: list[Box] = field(default_factory=list)
    kept_bars: list[Box] = field(default_factory=list)
    reference: list[str] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    threshold: Cut | None
    low: float
    high: float

    def place(self, value: float) -> float | None:
        """Where a score is on the x axis; None beyond its ends."""
        axes = _Axes(self.low, self.high, lambda y: y)
        return axes.x(value) if axes.has(value) else None


@dataclass(frozen=True)
class _Axes:
    """From values to places in the box."""

    low: float
    high: float
    y_of: Callable[[float], float]

    def x(self, value: float) -> float:
        inner = WIDTH - LEFT - RIGHT
        return round(LEFT + inner * (value - self.low) / (self.high - self.low), 2)

    def x_ticks(self) -> list[Tick]:
        return axis_ticks(self.low, self.high, _X_TICKS, self.x)

    def has(self, value: float) -> bool:
        return self.low <= value <= self.high


_INNER_HEIGHT = HEIGHT - TOP - BOTTOM


def _linear(top: float) -> Callable[[float], float]:
    return lambda value: round(TOP + _INNER_HEIGHT * (1 - min(1.0, value / top)), 2)


def _logarithmic(least: float) -> Callable[[float], float]:
    return lambda value: round(TOP + _INNER_HEIGHT * math.log10(max(value, least)) / math.log10(least), 2)


def path(places: Iterable[tuple[float, float]]) -> str:
    """A line from place to place; "" where there are fewer than two."""
    texts = [f"{x} {y}" for x, y in places]
    return f"M{'L'.join(texts)}" if len(texts) > 1 else ""


def percent(share: float | None) -> str:
    """A share as people read it: 25.3 %, 0.51 %, 0.0004 %."""
    if share is None or math.isnan(share):
        return NOTHING
    value = 100 * share
    if value in (0, 100):
        text = f"{value:.0f}"
    elif value >= 99.95 or 1 <= value < 10:
        text = f"{value:.2f}"
    else:
        text = f"{value:.1f}" if value >= 10 else f"{value:.2g}"
    return f"{text}{NO_BREAK}%"


def share_tick(share: float) -> str:
    """A share at an axis: without the digits that all of them would end with."""
    return f"{100 * share:.6g}{NO_BREAK}%"


def number(value: float) -> str:
    """A place on the score axis, without digits it does not need."""
    return f"{value:.5g}"


def numbers_apart(values: Sequence[float]) -> list[str]:
    """Places on the score axis with as many digits as tell them apart, at least those of `number`."""
    for digits in range(5, 10):
        texts = [f"{value:.{digits}g}" for value in values]
        if len(set(texts)) == len(set(values)):
            break
    return texts


def digits_apart(scores: Sequence[float], *, least: int = 3) -> int:
    """How many digits after the point tell scores apart, which are float32; those that are equal stay equal."""
    different = {float(as_score(score)) for score in scores if math.isfinite(score)}
    enough = (digits for digits in range(least, 9) if len({f"{score:.{digits}f}" for score in different}) == len(different))
    return next(enough, 9)


def axis_ticks(
    low: float, high: float, most: int, place: Callable[[float], float], show: Callable[[float], str] = "{:.10g}".format
) -> list[Tick]:
    """Marks on an axis, at round steps.

    Args:
        low: where the axis starts.
        high: where it ends.
        most: about how many marks there are at most.
        place: from values to places.
        show: from values to what is said of them.
    """
    step = nice_step((high - low) / most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    values = [float(f"{index * step:.10g}") for index in range(first, last + 1)]
    return [Tick(place(value), show(value)) for value in values]


def histogram_chart(
    name: str, numbers: HeadNumbers, histogram: Histogram, threshold: float | None, selection: bool = False
) -> Chart:
    """Share of pictures per bin as bars, LAION-2B-en's as a step line, on one scale."""
    edges, counts = histogram.edges, histogram.counts
    width = float(edges[1] - edges[0])
    shares = counts / max(1, numbers.num_scored)
    reference = published_densities(numbers.published())
    low, high = float(edges[0]), float(edges[-1])
    inside = [(max(a, low), min(b, high), density * width) for a, b, density in reference if b > low and a < high]
    step = nice_step(max([*shares, *(height for _, _, height in inside), 1e-12]) / _Y_TICKS)
    top = step * math.ceil(max([*shares, *(height for _, _, height in inside), 1e-12]) / step - 1e-9)
    axes = _Axes(low, high, _linear(top))
    floor = axes.y_of(0.0)

    def boxes(values: Sequence[int]) -> list[Box]:
        made = []
        for left, right, count in zip(edges[:-1], edges[1:], values, strict=True):
            if not count:
                continue
            y = axes.y_of(count / max(1, numbers.num_scored))
            made.append(Box(axes.x(left) + 0.5, y, max(0.5, axes.x(right) - axes.x(left) - 1), round(floor - y, 2)))
        return made

    reads = []
    texts = numbers_apart(edges.tolist())
    for index, (left, right, count) in enumerate(zip(edges[:-1], edges[1:], counts, strict=True)):
        words = f"{texts[index]} to {texts[index + 1]}"
        if index == 0 and histogram.num_below:
            words = f"below {texts[1]}"
        elif index == len(counts) - 1 and histogram.num_above:
            words = f"{texts[-2]} and more"
        words += f": {count:,} pictures, {percent(count / max(1, numbers.num_scored))}"
        if histogram.kept is not None:
            words += f", {histogram.kept[index]:,} kept"
        reads.append((axes.x((left + right) / 2), words))
    paths = [
        f"M{axes.x(a)} {axes.y_of(height)}H{axes.x(b)}"
        + (f"V{axes.y_of(inside[i + 1][2])}" if i + 1 < len(inside) and inside[i + 1][0] == b else "")
        for i, (a, b, height) in enumerate(inside)
    ]
    return Chart(
        name=name,
        title="Distribution of scores",
        summary=_histogram_words(numbers, histogram, bool(inside), selection),
        x_label="score",
        y_label=f"share of pictures per {number(width)}",
        x_ticks=axes.x_ticks(),
        y_ticks=[Tick(axes.y_of(i * step), share_tick(i * step)) for i in range(round(top / step) + 1)],
        bars=boxes(counts.tolist()),
        kept_bars=boxes(histogram.kept.tolist()) if histogram.kept is not None else [],
        reference=paths,
        threshold=_threshold(axes, threshold),
        low=low,
        high=high,
        reads=reads,
    )


def _histogram_words(numbers: HeadNumbers, histogram: Histogram, has_reference: bool, selection: bool) -> str:
    values = (numbers.minimum, numbers.quantile(0.25), numbers.quantile(0.75), numbers.maximum)
    digits = digits_apart(values)
    low, quarter, three, high = (f"{value:.{digits}f}" for value in values)
    text = (
        f"Histogram of {numbers.num_scored:,} scores from {low} to {high}; half of them lie between {quarter} and {three}."
        if numbers.num_scored > 1
        else f"One score, {low}."
    )
    beyond = histogram.num_below + histogram.num_above
    if beyond:
        text += f" The outermost bars hold {beyond:,} scores beyond them, too."
    if selection:
        text += " The part of each bar in the second colour was kept by the selection."
    return text + (" The line is LAION-2B-en." if has_reference else "")


def kept_chart(name: str, numbers: HeadNumbers, threshold: float | None, *, is_logarithmic: bool) -> Chart:
    """The share that a threshold keeps, as a curve over thresholds, with LAION-2B-en's published points."""
    curve = numbers.curve()
    low, high = curve[0][0], curve[-1][0]
    if not high > low:
        low, high = low - 0.5, high + 0.5
    total = max(1, numbers.num_scored)
    published = [(at, share) for at, share in numbers.published() if low <= at <= high]
    positive = [kept / total for _, kept in curve if kept]
    least = 10.0 ** math.floor(math.log10(min([*positive, *(share for _, share in published), 0.1])) + 1e-9)
    least = max(least, _LEAST_SHARE)
    axes = _Axes(low, high, _logarithmic(least) if is_logarithmic else _linear(1.0))
    drawn = [(at, kept / total) for at, kept in curve if kept or not is_logarithmic]
    if is_logarithmic:
        decades = round(-math.log10(least))
        y_ticks = [Tick(axes.y_of(10.0**-i), share_tick(10.0**-i)) for i in range(0, decades + 1, 1 + decades // 6)]
    else:
        y_ticks = [Tick(axes.y_of(i / _Y_TICKS), share_tick(i / _Y_TICKS)) for i in range(_Y_TICKS + 1)]
    return Chart(
        name=name,
        title="Kept share, tail" if is_logarithmic else "Kept share",
        summary="Share of pictures with at least a score, "
        + ("on a logarithmic scale, to read the best few." if is_logarithmic else "for every threshold.")
        + (" Dots are LAION-2B-en." if published else ""),
        x_label="score at least",
        y_label="kept (log scale)" if is_logarithmic else "kept",
        x_ticks=axes.x_ticks(),
        y_ticks=y_ticks,
        line=path((axes.x(at), axes.y_of(share)) for at, share in drawn),
        reference=[path((axes.x(at), axes.y_of(share)) for at, share in published)] if len(published) > 1 else [],
        points=[
            Point(axes.x(at), axes.y_of(share), f"LAION-2B-en at {number(at)}: {percent(share)}") for at, share in published
        ],
        threshold=_threshold(axes, threshold),
        low=low,
        high=high,
        reads=[
            (axes.x(at), f"score at least {text}: {kept:,} kept, {percent(kept / total)}")
            for (at, kept), text in zip(curve, numbers_apart([at for at, _ in curve]), strict=True)
        ],
    )


def _threshold(axes: _Axes, threshold: float | None) -> Cut | None:
    if threshold is None or not axes.has(threshold):
        return None
    at, text = axes.x(threshold), number(threshold)
    half = _HALF_LETTER * len(text)
    return Cut(at, text, round(min(max(at, LEFT + half), WIDTH - half), 2))
