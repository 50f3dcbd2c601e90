"""Text for a terminal: progress with rate and time left, summaries, small histograms."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table

from beholder import notices, streams
from beholder.errors import InputError, clipped, number_of

if TYPE_CHECKING:
    from beholder.scoreset.numbers import ScoreStats
    from beholder.scoring.execute import Plan
    from beholder.scoring.summary import RunSummary

Found = TypeVar("Found")

_REDRAW_S = 0.2
_LINE_PAUSE_S = 30
_SHOWN_SECONDS = 0.5
_RATE_OF_LAST_S = 120.0
"""Rates and the time left are by what was done in so many seconds."""
_SHOWN_BAR_WIDTH = 20
_FEW = 20
"""Fewer scores have no histogram and no thresholds worth a table."""
_MANY = 10_000
"""From so many scores on, the histogram leaves out the outermost thousandths."""
_HISTOGRAM_BINS = 16
_BAR_WIDTH = 40
_MOST_OF_REJECT = 100
"""Characters of a rejected sample's name, and of what was wrong with it, in a summary."""
_MOST_NAMES = 5
"""Of more shards that were done again the first are named; `--json` has all."""


class JobProgress:
    """How far a job is, on the error stream: a bar on a terminal, else a line every 30 seconds (BEHOLDER_PROGRESS_S).

    Both say how much is done of how much, the rate, the time left, how much was rejected, and what is waited for. Until the
    plan is made they say what is going on.
    """

    def __init__(self, *, enabled: bool) -> None:
        """Raises InputError: BEHOLDER_PROGRESS_S is no number of seconds."""
        self._console = Console(stderr=True)
        self._enabled = enabled
        self._has_bar = enabled and sys.stderr.isatty() and not self._console.is_dumb_terminal
        self._pause_s = _REDRAW_S if self._has_bar else _line_pause_s()
        self._bar: Progress | None = None
        self._plan: Plan | None = None
        self._stage: tuple[str, int, int] | None = None
        self._rates: dict[str, _Rates] = {}
        self._started = time.monotonic()
        self._over = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="beholder-progress", daemon=True)
        self._listening = contextlib.ExitStack()

    def __enter__(self) -> JobProgress:
        """Begin to listen and to show."""
        self._listening.enter_context(notices.told_to(self._say))
        if self._has_bar:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(_SHOWN_BAR_WIDTH))
            text = TextColumn("{task.fields[text]}", markup=False, table_column=Column(overflow="fold"))
            self._bar = Progress(*columns, text, console=self._console, transient=True)
            self._bar.add_task("starting", total=None, text="")
            self._bar.start()
        if self._enabled and self._pause_s:
            self._ticker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Take the bar away."""
        self._over.set()
        if self._ticker.is_alive():
            self._ticker.join()
        if self._bar is not None:
            self._bar.stop()
        self._listening.close()

    def plan(self, plan: Plan) -> None:
        """Say what will be done, with warnings; from now on its progress is shown."""
        for warning in plan.summary.warnings:
            warn(warning, self._console)
        for note in plan.summary.notes:
            self._say(note)
        self._plan = plan

    def stage(self, what: str, done: int, total: int) -> None:
        """What is being done, how much of it is done, and how much it is in all (0: not known), of a job without a plan."""
        self._stage = (what, done, total)

    def resumed(self, shards: int, rows: int) -> None:
        """Say what an earlier run had done."""
        assert self._plan is not None
        what, summary = number_of(shards, "shard was", "shards were"), self._plan.summary
        self._say(f"continuing: {what} already {summary.done} ({rows:,} {summary.unit})")

    def _say(self, text: str) -> None:
        if self._enabled:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _tick(self) -> None:
        while not self._over.wait(self._pause_s):
            line, title, done, total, text = self._state()
            if self._bar is None:
                self._say(line)
                continue
            task = self._bar.tasks[0]
            if total is None:
                task.total = None  # `update` takes None for: as it was
            self._bar.update(task.id, description=title, total=total, completed=done, text=text)

    def _state(self) -> tuple[str, str, int, int | None, str]:
        """Without a bar the line to print; with one its title, what is done, of how much (None: not known), the text beside."""
        so_far = f"{duration(time.monotonic() - self._started)} so far"
        if self._plan is not None:
            tally = self._plan.step.tally
            rate, bytes_rate = self._rates.setdefault("", _Rates()).of(tally.num_new, tally.num_bytes)
            text = progress_text(self._plan, rate, bytes_rate, notices.current() or self._plan.step.waiting_for())
            return (
                text,
                {"score": "scoring", "embed": "embedding"}[self._plan.summary.verb],
                tally.num_done,
                tally.total()[0],
                text,
            )
        if self._stage is None:
            text = notices.current() or "starting"
            return f"{text}, {so_far}", "", 0, None, text
        what, done, total = self._stage
        if what not in self._rates:
            self._rates = {what: _Rates()}
        (rate,) = self._rates[what].of(done)
        text = stage_text(done, total, rate) if total else so_far
        return f"{what}: {text}", what, done, total or None, text


class _Rates:
    """How much is done a second, by what was done in the last two minutes."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, tuple[int, ...]]] = deque()

    def of(self, *counts: int) -> list[float]:
        """The rates of these counts, which are what is done by now; 0 at first."""
        now = time.monotonic()
        self._seen.append((now, counts))
        while now - self._seen[0][0] > _RATE_OF_LAST_S and len(self._seen) > 2:
            self._seen.popleft()
        then, before = self._seen[0]
        return [(count - old) / (now - then) if now > then else 0.0 for count, old in zip(counts, before, strict=True)]


def stage_text(done: int, total: int, rate: float) -> str:
    """How far something is: how much of how much, and the time left, by what is done a second lately (0: not known yet)."""
    left = f", about {duration((total - done) / rate)} left" if rate > 0 else ""
    return f"{done:,} of {total:,} ({100 * done / total:.0f} %){left}"


def progress_text(plan: Plan, rate: float, bytes_rate: float, waiting_for: str) -> str:
    """How far a job is, in one line.

    Args:
        plan: the job.
        rate: rows or pictures a second lately.
        bytes_rate: bytes read a second.
        waiting_for: what holds it up, or "".
    """
    tally, unit = plan.step.tally, plan.summary.unit
    done, (total, is_exact) = tally.num_done, tally.total()
    if total is None:
        pieces = [f"{done:,} {unit}, of how many is not known yet"]
        if tally.num_parts > 1 and tally.part:
            pieces.append(f"part {tally.part:,} of {tally.num_parts:,}")
    else:
        share = f" ({100 * done / total:.0f} %)" if total else ""
        pieces = [
            f"{done:,} of {total:,} {unit}{share}" if is_exact else f"{done:,} of about {_rounded(total):,} {unit}{share}"
        ]
    if rate:
        pieces.append(f"{rate:,.{0 if rate > 100 else 1}f} {unit}/s")
        if unit == "rows":
            pieces[-1] += f" ({bytes_rate / 1e9:.2f} GB/s)"
        if total is not None:
            pieces.append(f"{'' if is_exact else 'about '}{duration((total - done) / rate)} left")
    pieces.append(f"{tally.num_rejected:,} rejected")
    if waiting_for:
        pieces.append(f"waiting for: {waiting_for}")
    return ", ".join(pieces)


def _rounded(count: int) -> int:
    """To three digits, as it is an estimate."""
    return int(float(f"{count:.2e}"))


def duration(seconds: float) -> str:
    """Seconds in words: "40 s", "12 min", "3 h 20 min", "2 d 5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _line_pause_s() -> float:
    """Seconds between two lines; 0: there are none. Raises InputError."""
    given = os.environ.get("BEHOLDER_PROGRESS_S", "")
    try:
        seconds = float(given or _LINE_PAUSE_S)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < threading.TIMEOUT_MAX:
        raise InputError(f"BEHOLDER_PROGRESS_S is {given!r}; give a number of seconds, 0 for no lines")
    return seconds


def warn(text: str, console: Console | None = None) -> None:
    """A warning on the error stream."""
    (console or Console(stderr=True)).print(f"warning: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def show_summary(summary: RunSummary) -> None:
    """Print what was scored, how scores are spread, what a threshold keeps, and what was rejected."""
    from beholder.columns import reason_text
    from beholder.models.published import published_share_at_least
    from beholder.scoreset.numbers import QUANTILES
    from beholder.scoring.summary import THRESHOLDS

    console = Console(highlight=False, soft_wrap=True)
    for line in _count_lines(summary):
        console.print(line, markup=False)
    if summary.part is not None:
        how = f"the same command without --part puts {summary.output} together"
        console.print(f"{summary.part} done; once all parts are, {how}", markup=False)
        return
    notes = dict(zip(summary.head_names, summary.head_notes, strict=False))
    for (name, stats), head in zip(summary.stats.items(), summary.head_names, strict=True):
        console.print(f"\n[bold]{name}[/bold]" + (f"  ({head})" if head != name else ""))
        if notes.get(head):
            console.print(f"  {notes[head]}", markup=False)
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
            examples = summary.reject_examples.get(reason, [])
            for example in examples:
                detail = example["message"] if example["message"] != reason_text(reason) else ""
                console.print(f"      {reject_line(example['sample'], detail, _MOST_OF_REJECT)}", markup=False)
            if count > len(examples):
                console.print("      ...", markup=False)
        console.print(f"all of them: {summary.list_rejects}", markup=False)
    for line in remark_lines(summary):
        console.print(line, markup=False)
    for line in preset_lines(summary):
        console.print(line, markup=False)
    console.print(f"\n{'scores' if summary.verb == 'score' else 'embeddings'}: {summary.output}", markup=False)
    if summary.rows_folder is not None:
        console.print(f"read them with: {summary.read_with}", markup=False)
    if summary.embeddings:
        console.print(f"embeddings: {summary.embeddings}", markup=False)


def reject_line(sample: str | None, message: str | None, most: int | None = None) -> str:
    """A rejected sample and what was wrong, on one line that a terminal shows as it is; each cut to `most` characters."""
    texts = []
    for text in (sample or "", message or ""):
        text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
        texts.append(text if most is None else clipped(text, most))
    return "  ".join(filter(None, texts))


def _count_lines(summary: RunSummary) -> list[str]:
    """What was read and what became of it, and how fast."""
    lines, rate = [], ""
    if summary.num_new and summary.seconds:
        per_second = summary.num_new / summary.seconds
        rate = f" in {summary.seconds:.2f} s ({per_second:,.{0 if per_second > 100 else 1}f} {summary.unit}/s"
        rate += f", {summary.num_bytes / summary.seconds / 1e9:.2f} GB/s)" if summary.unit == "rows" else ")"
        if summary.bottleneck:
            rate += f", mostly waiting for: {summary.bottleneck}"
    if summary.num_new < summary.num_read or summary.num_vanished:
        lines.append(_history(summary))
    if summary.damaged:
        what = number_of(len(summary.damaged), "shard was", "shards were")
        names = ", ".join(summary.damaged[:_MOST_NAMES]) + (", ..." if len(summary.damaged) > _MOST_NAMES else "")
        lines.append(f"{what} damaged, or lacked a file, and done again: {names}")
    if summary.num_unchecked:
        what = number_of(summary.num_unchecked, "shard")
        lines.append(f"{what} of an earlier version without checksums: only the sizes of files were compared")
    lines.append(f"read {summary.num_read:,} = {summary.done} {summary.num_scored:,} + rejected {summary.num_rejected:,}{rate}")
    if summary.check_seconds >= _SHOWN_SECONDS:
        lines.append(f"before that, choosing the precision took {summary.check_seconds:.1f} s; later runs remember it")
    if summary.num_ignored:
        what = number_of(summary.num_ignored, "file was", "files were")
        lines.append(f"{what} ignored: not a picture, or a link to one that is listed already")
    return lines


def _history(summary: RunSummary) -> str:
    """How many rows are new, changed, gone, and done before."""
    redone = summary.num_changed + summary.num_retried
    counts = {
        "new": summary.num_new - redone,
        "changed": summary.num_changed,
        "tried again": summary.num_retried,
        "vanished": summary.num_vanished,
    }
    said = [f"{count:,} {word}" for word, count in counts.items() if count > 0]
    said += [f"{summary.num_kept:,} kept at the end"] if summary.num_kept else []
    before = summary.num_read - summary.num_new - summary.num_kept
    return f"{summary.unit}: " + ", ".join([*said, f"{before:,} {summary.done} before"])


_PRESET_HINTS = {
    "rotated": "turned by EXIF, which `reference` ignores",
    "palette": "with a palette, which `reference` resizes coarsely",
    "alpha": "with transparency, which `reference` drops",
    "deep": "of 16 bits, which `reference` clips to white",
    "cmyk": "in CMYK, converted without a colour profile",
}


def remark_lines(summary: RunSummary) -> list[str]:
    """What was found in the data: sidecars without a picture, values that fit into no column."""
    lines = [f"  {count:,} {text}" for text, count in summary.remarks.items()]
    return ["", "some of what the sources say could not be put into the result:", *lines] if lines else []


def preset_lines(summary: RunSummary) -> list[str]:
    """How many pictures have what makes presets differ, and which option matters; nothing where none has, or it is settled."""
    from beholder.scoring.summary import SETTLED_BY

    open_ones = {word: text for word, text in _PRESET_HINTS.items() if word not in SETTLED_BY[summary.preset]}
    found = [f"{summary.traits[word]:,} {text}" for word, text in open_ones.items() if summary.traits.get(word)]
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


def run_and_tell(
    job: Callable[[], Found],
    record_of: Callable[[Found], dict[str, Any]],
    lines_of: Callable[[Found], list[str]],
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run a job while its progress is shown, and print what it found: its record as JSON, or some lines."""
    with JobProgress(enabled=not (quiet or as_json)):
        found = job()
    if as_json:
        print(json.dumps(record_of(found), indent=2))
    elif not quiet:
        print("\n".join(lines_of(found)))


def run_and_show(job: Callable[..., RunSummary], options: Any, *, as_json: bool, quiet: bool) -> None:
    """Run a job with a progress bar and print its summary. Exits with its status."""
    with JobProgress(enabled=not quiet) as progress:
        summary = job(options, on_plan=progress.plan, on_resume=progress.resumed)
    if as_json:
        print(json.dumps(summary.to_json(), indent=2))
    elif not quiet:
        show_summary(summary)
        failure = streams.take_output_failure()
        if failure is not None:  # the work is done all the same
            warn(f"the summary could not be printed ({failure.strerror}); {summary.output} is complete")
    if summary.exit_status:
        raise SystemExit(summary.exit_status)
