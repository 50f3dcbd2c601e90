"""Results in, text for a terminal out: progress with rate and time left, summaries, small histograms."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from beholder import streams

if TYPE_CHECKING:
    from beholder.jobs.execute import Plan
    from beholder.scores.summary import RunSummary
    from beholder.stats import ScoreStats

_REDRAW_S = 0.1
_SHOWN_SECONDS = 0.5
_FEW = 20
"""Fewer scores have no histogram and no thresholds worth a table."""
_MANY = 10_000
"""From so many scores on, the histogram leaves out the outermost thousandths."""
_HISTOGRAM_BINS = 16
_BAR_WIDTH = 40


class JobProgress:
    """A progress bar on the error stream: rows or pictures, rate, time left. Nothing is shown where that is no terminal."""

    def __init__(self, *, enabled: bool) -> None:
        self._console = Console(stderr=True)
        self._enabled = enabled
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._started = self._shown = time.perf_counter()
        self._rows = self._bytes = self._unshown = 0
        self._unit, self._done = "rows", "scored"
        self._waiting_for: Callable[[], str] = lambda: ""

    def __enter__(self) -> JobProgress:
        """Begin; the bar appears with the plan."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def plan(self, plan: Plan) -> None:
        """Say what will be done, with warnings, and show the bar."""
        self._unit, self._done, self._waiting_for = (
            plan.unit,
            {"score": "scored", "embed": "embedded"}[plan.verb],
            plan.waiting_for,
        )
        for warning in plan.warnings:
            warn(warning)
        if not self._enabled:
            return
        for note in plan.notes:
            self._console.print(note, markup=False, highlight=False, soft_wrap=True)
        if self._console.is_terminal:
            title = {"score": "scoring", "embed": "embedding"}[plan.verb]
            text = TextColumn("{task.completed:,.0f} {task.fields[unit]}  {task.fields[rate]}")
            self._bar = Progress(
                TextColumn(title), BarColumn(), text, TimeRemainingColumn(), console=self._console, transient=True
            )
            self._bar.start()
            self._task = self._bar.add_task(title, total=plan.num_rows, rate="", unit=plan.unit)
        self._started = self._shown = time.perf_counter()

    def message(self, line: str) -> None:
        """Say what takes long before the plan is there."""
        if self._enabled:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def resumed(self, shards: int, rows: int) -> None:
        """Say what an earlier run had done."""
        if not self._enabled:
            return
        what = "1 shard was" if shards == 1 else f"{shards:,} shards were"
        self._console.print(f"continuing: {what} already {self._done} ({rows:,} {self._unit})", highlight=False)
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, rows)

    def advance(self, rows: int, num_bytes: int) -> None:
        """Count rows and bytes just done; the bar is drawn anew a few times a second."""
        self._rows += rows
        self._bytes += num_bytes
        self._unshown += rows
        now = time.perf_counter()
        if self._bar is None or self._task is None or now - self._shown < _REDRAW_S:
            return
        self._shown = now
        seconds = max(1e-9, now - self._started)
        rate = f"{self._rows / seconds:,.{0 if self._rows > 100 * seconds else 1}f} {self._unit}/s"
        if self._unit == "rows":
            rate += f"  {self._bytes / seconds / 1e9:.2f} GB/s"
        elif stage := self._waiting_for():
            rate += f"  waiting for: {stage}"
        self._bar.update(self._task, advance=self._unshown, rate=rate)
        self._unshown = 0


def warn(text: str) -> None:
    """A warning on the error stream."""
    Console(stderr=True).print(f"warning: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def show_summary(summary: RunSummary) -> None:
    """Print what was scored, how scores are spread, what a threshold keeps, and what was rejected."""
    from beholder.columns import reason_text
    from beholder.models.published import published_share_at_least
    from beholder.scores.summary import QUANTILES, THRESHOLDS

    console = Console(highlight=False, soft_wrap=True)
    for line in _count_lines(summary):
        console.print(line, markup=False)
    for (name, stats), head in zip(summary.stats.items(), summary.head_names, strict=True):
        console.print(f"\n[bold]{name}[/bold]" + (f"  ({head})" if head != name else ""))
        if not stats.count:
            console.print("  nothing was scored")
            continue
        if stats.count == 1:
            console.print(f"  {stats.mean:.3f}")
            continue
        console.print(
            f"  mean {stats.mean:.3f}   sd {stats.standard_deviation:.3f}   min {stats.minimum:.3f}   max {stats.maximum:.3f}"
        )
        if stats.count < _FEW:
            continue
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
        console.print(f"\nrejected {summary.num_rejected:,}, listed in {summary.rejects}", markup=False)
        for reason, count in sorted(summary.reasons.items(), key=lambda item: -item[1]):
            console.print(f"  {count:,} {reason}: {reason_text(reason)}", markup=False)
    for line in preset_lines(summary):
        console.print(line, markup=False)
    console.print(f"\n{'scores' if summary.verb == 'score' else 'embeddings'}: {summary.output}", markup=False)
    if summary.embeddings:
        console.print(f"embeddings: {summary.embeddings}", markup=False)


def _count_lines(summary: RunSummary) -> list[str]:
    """What was read and what became of it, and how fast."""
    lines, rate = [], ""
    if summary.num_new and summary.seconds:
        per_second = summary.num_new / summary.seconds
        rate = f" in {summary.seconds:.2f} s ({per_second:,.{0 if per_second > 100 else 1}f} {summary.unit}/s"
        rate += f", {summary.num_bytes / summary.seconds / 1e9:.2f} GB/s)" if summary.unit == "rows" else ")"
        if summary.bottleneck:
            rate += f", mostly waiting for: {summary.bottleneck}"
    if summary.num_new < summary.num_read:
        lines.append(f"{summary.num_read - summary.num_new:,} {summary.unit} had been {summary.done} before")
    lines.append(f"read {summary.num_read:,} = {summary.done} {summary.num_scored:,} + rejected {summary.num_rejected:,}{rate}")
    if summary.check_seconds >= _SHOWN_SECONDS:
        lines.append(f"before that, choosing the precision took {summary.check_seconds:.1f} s; later runs remember it")
    if summary.num_ignored:
        what = "1 file was" if summary.num_ignored == 1 else f"{summary.num_ignored:,} files were"
        lines.append(f"{what} left alone: no picture, or a link to one that is listed already")
    return lines


_PRESET_HINTS = {
    "rotated": "turned by EXIF, which `reference` ignores",
    "palette": "with a palette, which `reference` resizes coarsely",
    "alpha": "with transparency, which `reference` drops",
    "deep": "of 16 bits, which `reference` clips to white",
    "cmyk": "in CMYK, converted without a colour profile",
}


def preset_lines(summary: RunSummary) -> list[str]:
    """How many pictures have what makes presets differ, and which option matters; nothing where none has."""
    found = [f"{summary.traits[word]:,} {text}" for word, text in _PRESET_HINTS.items() if summary.traits.get(word)]
    if not found:
        return []
    advice = "--preset upright shows the tower what a person sees; use one preset for all that you compare (docs/pixels.md)"
    return ["", "presets differ for: " + ", ".join(found), f"  {advice}"]


def histogram_lines(stats: ScoreStats) -> list[str]:
    """A histogram of text: one line a bin, edges on round numbers; of many scores from the 0.1 % to the 99.9 % quantile."""
    low, high = stats.minimum, stats.maximum
    if stats.count >= _MANY:
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


def run_and_show(job: Callable[..., RunSummary], options: Any, *, as_json: bool, quiet: bool) -> None:
    """Run a job with a progress bar and print its summary. Exits with 3 when something was rejected."""
    with JobProgress(enabled=not quiet) as progress:
        summary = job(
            options,
            on_plan=progress.plan,
            on_progress=progress.advance,
            on_resume=progress.resumed,
            on_message=progress.message,
        )
    if as_json:
        print(json.dumps(summary.to_json(), indent=2))
    elif not quiet:
        show_summary(summary)
        failure = streams.take_output_failure()
        if failure is not None:  # the work is done all the same
            warn(f"the summary could not be printed ({failure.strerror}); {summary.output} is complete")
    if summary.num_rejected:
        raise SystemExit(3)
