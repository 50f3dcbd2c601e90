"""Results in, text for a terminal out: progress with rate and time left, summaries, small histograms."""

from __future__ import annotations

import re
import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from beholder.errors import InputError

if TYPE_CHECKING:
    from beholder.jobs.score import ScorePlan
    from beholder.scores.summary import ScoreSummary
    from beholder.stats import ScoreStats

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30, "TI": 1 << 40}
_HISTOGRAM_BINS = 16
_BAR_WIDTH = 40


def parse_bytes(text: str) -> int:
    """Text such as 512MB, 1GiB or 2e9 -> bytes. Raises InputError."""
    match = re.fullmatch(r"\s*([\d.]+(?:[eE]\d+)?)\s*([KMGT]?I?)B?\s*", text, flags=re.IGNORECASE)
    try:
        return int(float(match[1]) * _UNITS[match[2].upper()]) if match else _not_bytes(text)
    except (ValueError, KeyError):
        return _not_bytes(text)


def _not_bytes(text: str) -> int:
    raise InputError(f"{text!r} is no amount of memory; write for example 512MB or 2GB")


class ScoreProgress:
    """A progress bar on the error stream: rows, rows/s, GB/s, time left. Nothing is shown where that is no terminal."""

    def __init__(self, *, enabled: bool) -> None:
        self._console = Console(stderr=True)
        self._enabled = enabled
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._started = time.perf_counter()
        self._rows = self._bytes = 0

    def __enter__(self) -> ScoreProgress:
        """Begin; the bar appears with the plan."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def plan(self, plan: ScorePlan) -> None:
        """Say what will be done, with warnings, and show the bar."""
        for warning in plan.warnings:
            self._console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
        if not self._enabled:
            return
        text = TextColumn("{task.completed:,.0f} rows  {task.fields[rate]}")
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("scoring"), BarColumn(), text, TimeRemainingColumn(), console=self._console, transient=True
            )
            self._bar.start()
            self._task = self._bar.add_task("scoring", total=plan.num_rows, rate="")
        self._started = time.perf_counter()

    def resumed(self, shards: int, rows: int) -> None:
        """Say what an earlier run had done."""
        if not self._enabled:
            return
        what = "1 shard was" if shards == 1 else f"{shards:,} shards were"
        self._console.print(f"continuing: {what} already scored ({rows:,} rows)", highlight=False)
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, rows)

    def advance(self, rows: int, num_bytes: int) -> None:
        """Count rows and bytes just scored."""
        self._rows += rows
        self._bytes += num_bytes
        if self._bar is not None and self._task is not None:
            seconds = max(1e-9, time.perf_counter() - self._started)
            self._bar.update(
                self._task, advance=rows, rate=f"{self._rows / seconds:,.0f} rows/s  {self._bytes / seconds / 1e9:.2f} GB/s"
            )


def show_summary(summary: ScoreSummary) -> None:
    """Print what was scored, how scores are spread, what a threshold keeps, and what was rejected."""
    from beholder.models.published import published_share_at_least
    from beholder.scores.summary import QUANTILES, THRESHOLDS

    console = Console(highlight=False, soft_wrap=True)
    rate = ""
    if summary.num_new and summary.seconds:
        rate = (
            f" in {summary.seconds:.2f} s ({summary.num_new / summary.seconds:,.0f} rows/s, "
            f"{summary.num_bytes / summary.seconds / 1e9:.2f} GB/s)"
        )
    if summary.num_new < summary.num_read:
        console.print(f"{summary.num_read - summary.num_new:,} rows had been scored before", markup=False)
    console.print(
        f"read {summary.num_read:,} = scored {summary.num_scored:,} + rejected {summary.num_rejected:,}{rate}", markup=False
    )
    for (name, stats), head in zip(summary.stats.items(), summary.head_names, strict=True):
        console.print(f"\n[bold]{name}[/bold]" + (f"  ({head})" if head != name else ""))
        if not stats.count:
            console.print("  nothing was scored")
            continue
        console.print(
            f"  mean {stats.mean:.3f}   sd {stats.standard_deviation:.3f}   min {stats.minimum:.3f}   max {stats.maximum:.3f}"
        )
        console.print("  " + "   ".join(f"{100 * q:g}% {stats.quantile(q):.3f}" for q in QUANTILES))
        for line in histogram_lines(stats):
            console.print("  " + line, markup=False)
        table = Table(box=None, padding=(0, 2), pad_edge=True)
        shares = {threshold: published_share_at_least(head, threshold) for threshold in THRESHOLDS}
        is_published = any(share is not None for share in shares.values())
        for title in ("score at least", "kept", "rows", *(["of LAION-2B-en"] if is_published else [])):
            table.add_column(title, justify="right")
        for threshold in THRESHOLDS:
            published = shares[threshold]
            table.add_row(
                f"{threshold:g}",
                _percent(stats.share_at_least(threshold)),
                f"{stats.count_at_least(threshold):,}",
                *(["not published" if published is None else _percent(published)] if is_published else []),
            )
        console.print(table)
    if summary.num_rejected:
        console.print(
            "\nrejected: " + ", ".join(f"{count:,} {reason}" for reason, count in sorted(summary.reasons.items())), markup=False
        )
        console.print(f"  listed in {summary.rejects}", markup=False)
    console.print(f"\nscores: {summary.output}", markup=False)


def histogram_lines(stats: ScoreStats) -> list[str]:
    """A histogram of text: one line a bin, from the 0.1 % to the 99.9 % quantile, edges on round numbers."""
    low, high = stats.quantile(0.001), stats.quantile(0.999)
    step = _round_step((high - low) / _HISTOGRAM_BINS)
    first, last = int(low // step), int(high // step)
    edges = [index * step for index in range(first, last + 2)]
    counts = stats.histogram(edges)
    most = max(counts, default=0)
    return [
        f"{edge:8.3g} {'█' * round(_BAR_WIDTH * count / most) if most else ''} {count:,}".rstrip()
        for edge, count in zip(edges, counts, strict=False)
    ]


def _round_step(width: float) -> float:
    """The next power of two at or above `width`: such bin edges are exact."""
    step = 2.0**-10
    while step < width:
        step *= 2
    return step


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %" if share < 0.1 else f"{100 * share:.1f} %"
