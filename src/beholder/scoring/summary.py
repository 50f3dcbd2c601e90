"""The numbers of a run that a user is shown: how far it is, and what came of it."""

from __future__ import annotations

import contextlib
import json
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from beholder.columns import SCORES_FOLDER, in_order
from beholder.io.schemas import add_counts
from beholder.scoreset.numbers import QUANTILES, ScoreStats
from beholder.scoring.shards import Shard, ShardResult

THRESHOLDS = (4.5, 5.0, 5.5, 6.0, 6.5)
"""Thresholds that public sets cut at (docs/heads.md); each is a bin edge of `ScoreStats`, so shares are exact."""


SETTLED_BY: dict[str, frozenset[str]] = {
    "": frozenset(),
    "reference": frozenset(),
    "rgb": frozenset({"palette"}),
    "squash": frozenset({"palette"}),
    "upright": frozenset({"rotated", "palette", "alpha", "deep", "cmyk"}),
}
"""Preset -> the traits of pictures (words of `pixels.picture.Trait`) for which it shows the tower what a person sees."""


@dataclass(kw_only=True)
class RunSummary:
    """The result of a job.

    Attributes:
        output: where the result is, as it is named.
        unit, verb: what was counted ("rows", "pictures") and what was done with it ("score", "embed").
        rejects: where the rejects table is, or None when nothing was rejected.
        num_read, num_scored, num_rejected: rows over all runs of this job.
        reasons: rejected rows by reason, in the order of `columns.REASONS`.
        reject_examples: reason -> `sample` and `message` of three rows, or fewer where there are fewer.
        stats: per score column.
        head_names: the head behind each score column, in the same order.
        head_notes: a line worth telling about each of them, "" where there is none; in the same order.
        num_new: rows scored by this run (the others were done by earlier, interrupted ones).
        seconds: wall time of this run's reading, scoring and writing.
        num_bytes: bytes of embeddings this run read.
        warnings: lines worth telling.
        notes: what was used: tower, device, precision.
        remarks: what was found in the data and is worth telling: a line -> how many times.
        traits: how many pictures have what makes presets differ (`pixels.picture.Trait` words).
        num_ignored: files among the sources that are no pictures.
        embeddings: where embeddings are kept beside the scores, or None.
        bottleneck: the stage that the others waited for, or "".
        part: where only a part of the job was done (`--part`): which, and how many shards it has; else None.
        check_seconds: what measuring took before that, to choose the precision; 0 where it was remembered.
        damaged: names of shards of earlier runs that were damaged, or lacked a file, and so were done again.
        num_changed, num_vanished, num_retried: since an earlier run: rows whose input was known and is another one now, rows
            whose input is not among the sources any more, rows that were rejected for a passing reason and tried again.
        num_kept: rows that were kept though their input is not among the sources, of this and of earlier runs.
        num_unchecked: shards of an older version, which wrote no checksums: sizes were compared, no contents.
        preset: which pixels of pictures were scored; "": there were none.
    """

    output: str
    unit: str = "rows"
    verb: str = "score"
    rejects: str | None = None
    num_read: int = 0
    num_scored: int = 0
    num_rejected: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    reject_examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    stats: dict[str, ScoreStats] = field(default_factory=dict)
    head_names: list[str] = field(default_factory=list)
    head_notes: list[str] = field(default_factory=list)
    num_new: int = 0
    seconds: float = 0.0
    num_bytes: int = 0
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    remarks: dict[str, int] = field(default_factory=dict)
    traits: dict[str, int] = field(default_factory=dict)
    num_ignored: int = 0
    embeddings: str | None = None
    bottleneck: str = ""
    part: str | None = None
    check_seconds: float = 0.0
    damaged: list[str] = field(default_factory=list)
    num_unchecked: int = 0
    preset: str = ""
    num_changed: int = 0
    num_vanished: int = 0
    num_retried: int = 0
    num_kept: int = 0

    @property
    def done(self) -> str:
        """What was done, as a participle."""
        return {"score": "scored", "embed": "embedded"}[self.verb]

    @property
    def list_rejects(self) -> str | None:
        """The command that lists everything that was rejected; None where nothing was."""
        return f"beholder rejects {shlex.quote(self.output)}" if self.num_rejected else None

    @property
    def exit_status(self) -> int:
        """That of the command: 3 where something was rejected, but for a part of a job.

        Schedulers take a task that ends so for one that has failed; the run that puts the whole together says it.
        """
        return 3 if self.num_rejected and self.part is None else 0

    @property
    def read_with(self) -> str | None:
        """What reads the scores in pandas; None of embeddings."""
        if self.verb != "score":
            return None
        if self.output.lower().endswith(".csv"):
            return f"pandas.read_csv({json.dumps(self.output, ensure_ascii=False)})"
        return f"pandas.read_parquet({json.dumps(self.rows_folder or self.output, ensure_ascii=False)})"

    @property
    def rows_folder(self) -> str | None:
        """The folder of Parquet files with the scores; None where they are one file, and of embeddings."""
        if self.verb != "score" or self.output.lower().endswith((".parquet", ".pq", ".csv")):
            return None
        return f"{self.output.rstrip('/')}/{SCORES_FOLDER}"

    def add(self, results: Iterable[ShardResult]) -> None:
        """Add shards' counts and statistics."""
        stats: dict[str, list[dict[str, Any]]] = {}
        for result in results:
            self.num_read += result.num_read
            self.num_scored += result.num_scored
            self.num_rejected += result.num_rejected
            add_counts(self.reasons, result.reasons)
            add_counts(self.traits, result.traits)
            add_counts(self.remarks, result.remarks)
            for name, record in result.stats.items():
                stats.setdefault(name, []).append(record)
        for name, records in stats.items():
            self.stats.setdefault(name, ScoreStats()).merge_records(records)
        self.reasons = in_order(self.reasons)

    def merged_result(self) -> ShardResult:
        """All shards as one result, for the record beside a single output file."""
        stats = {name: stats.to_json() for name, stats in self.stats.items()}
        return ShardResult(
            self.num_read,
            self.num_scored,
            self.num_rejected,
            dict(self.reasons),
            {},
            stats,
            dict(self.traits),
            dict(self.remarks),
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready record for `--json`; shares and quantiles are None where nothing was scored."""
        from beholder.models.published import published_share_at_least

        scores = {}
        notes = dict(zip(self.head_names, self.head_notes, strict=False))
        for (name, stats), head in zip(self.stats.items(), self.head_names, strict=bool(self.stats)):  # a part may be empty
            some = stats.count > 0
            scores[name] = {
                "head": head,
                "note": notes.get(head) or None,
                "count": stats.count,
                "mean": stats.mean if some else None,
                "standard_deviation": stats.standard_deviation if some else None,
                "minimum": stats.minimum if some else None,
                "maximum": stats.maximum if some else None,
                "quantiles": {str(q): stats.quantile(q) if some else None for q in QUANTILES},
                "share_at_least": {str(t): stats.share_at_least(t) if some else None for t in THRESHOLDS},
                "laion_2b_en_share_at_least": {str(t): published_share_at_least(head, t) for t in THRESHOLDS},
            }
        return {
            "output": self.output,
            "read_with": self.read_with,
            "unit": self.unit,
            "embeddings": self.embeddings,
            "rejects": self.rejects,
            "num_read": self.num_read,
            "num_scored": self.num_scored,
            "num_rejected": self.num_rejected,
            "reasons": self.reasons,
            "reject_examples": self.reject_examples,
            "list_rejects": self.list_rejects,
            "traits": self.traits,
            "remarks": self.remarks,
            "num_ignored": self.num_ignored,
            "num_new": self.num_new,
            "num_changed": self.num_changed,
            "num_vanished": self.num_vanished,
            "num_retried": self.num_retried,
            "num_vanished_kept": self.num_kept,
            "damaged_shards": self.damaged,
            "num_unchecked_shards": self.num_unchecked,
            "seconds": self.seconds,
            "seconds_choosing_precision": self.check_seconds,
            "rows_per_second": self.num_new / self.seconds if self.seconds else None,
            "bytes_read": self.num_bytes,
            "scores": scores,
            "waited_for": self.bottleneck,
            "part": self.part,
            "notes": self.notes,
            "warnings": self.warnings,
        }


_TAR_BLOCK_BYTES = 512
"""A member of a tar has a header of so many bytes, and is padded to a multiple of them."""


@dataclass(frozen=True, kw_only=True)
class PartSize:
    """What is known of a part before it is read.

    Attributes:
        num_rows: how many rows it has; None where only reading it through can tell.
        about_rows: where that is None: an estimate, if there is one.
        num_bytes: where both are None: bytes of the file, of which an estimate is made once some of it was read; 0: unknown.
        is_plain: whether it is a tar without compression, so that the rows read of it tell of the rest.
    """

    num_rows: int | None
    about_rows: int | None = None
    num_bytes: int = 0
    is_plain: bool = False


class ShardCounts(NamedTuple):
    """How far a shard is: rows whose end is known, bytes read for them, those rejected, those not done by an earlier run."""

    rows: int = 0
    num_bytes: int = 0
    num_rejected: int = 0
    num_new: int = 0


class Tally:
    """Counts what is done. One thread counts, any may ask.

    Attributes:
        num_done: rows whose end is known, those of earlier runs among them.
        num_new: of these, those of this run.
        num_bytes: bytes read in this run.
        num_rejected: of `num_done`.
        num_parts: parts of the job.
        part: number of the part at hand, from 1.
        on_progress: told (rows, bytes read) of this run as they are done.
    """

    on_progress: Callable[[int, int], None] | None = None

    def __init__(self, shards: Sequence[Shard], sizes: Sequence[PartSize]) -> None:
        """Shards of the job, in the order in which they are done, and the size of each part that they are of."""
        self._shards, self._sizes, self.num_parts = list(shards), list(sizes), len(sizes)
        self.num_done = self.num_new = self.num_bytes = self.num_rejected = self.part = 0
        self._found: dict[int, int] = {}
        """Rows of parts that did not tell how many they have, and that were read to their end."""
        self._at: int | None = None
        self._open: dict[int, list[int]] = {}
        """Rows and bytes read of each part at hand."""
        self._put: dict[int, ShardCounts] = {}
        self._told_of: dict[int, ShardCounts] = {}
        self._told: int | None = None

    def tell_total(self, num_rows: int) -> None:
        """Say how many rows there are, where somebody knows."""
        self._told = num_rows

    def resume(self, results: Mapping[str, ShardResult]) -> None:
        """Count what earlier runs did: results by shard name."""
        for shard in self._shards:
            result = results.get(shard.name)
            if result is None:
                continue
            self.num_done += result.num_read
            self.num_rejected += result.num_rejected
            if self._sizes[shard.part].num_rows is None:  # (such a part is one shard)
                self._found[shard.part] = result.num_read

    def resume_whole(self, result: ShardResult) -> None:
        """Count a job that earlier runs have finished, by what all its shards together gave."""
        self.num_done, self.num_rejected = result.num_read, result.num_rejected
        self.tell_total(result.num_read)

    def add(
        self, shard: Shard, rows: int, num_bytes: int, num_rejected: int, *, are_new: bool = True, each: Sequence[int] = ()
    ) -> None:
        """Count rows of `shard` and their bytes; rows of shards before it have all been counted.

        are_new: not done by an earlier run.
        each: bytes of each row, of a tar with several rows.
        """
        if shard.part != self._at:
            self._leave()
            self._at, self.part = shard.part, shard.part + 1
        is_at = self._open.setdefault(shard.part, [0, 0])
        is_at[0] += rows
        num_blocks = sum(-(-size // _TAR_BLOCK_BYTES) for size in each or (num_bytes,))
        is_at[1] += (rows + num_blocks) * _TAR_BLOCK_BYTES
        self.num_done += rows
        self.num_bytes += num_bytes
        self.num_rejected += num_rejected
        if are_new:
            self.num_new += rows
            if self.on_progress is not None:
                self.on_progress(rows, num_bytes)

    def end(self) -> None:
        """Say that there are no more rows."""
        self._leave()
        self._at = None

    def put(self, shard: Shard, counts: ShardCounts, *, is_done: bool = False) -> None:
        """Say how far a shard is that another process does, in place of what was said of it before; several may be at hand."""
        before = self._put.get(shard.number, ShardCounts())
        self._put[shard.number] = counts
        self.num_done += counts.rows - before.rows
        self.num_bytes += counts.num_bytes - before.num_bytes
        self.num_rejected += counts.num_rejected - before.num_rejected
        self.num_new += counts.num_new - before.num_new
        self.part = max(self.part, shard.part + 1)
        self._open[shard.part] = [counts.rows, counts.rows * _TAR_BLOCK_BYTES + counts.num_bytes]
        if is_done:
            self._close(shard.part)
        told = self._told_of.get(shard.number, ShardCounts())  # (of a shard that is begun again nothing is told twice)
        if self.on_progress is not None and counts.num_new > told.num_new:
            self._told_of[shard.number] = counts
            self.on_progress(counts.num_new - told.num_new, max(0, counts.num_bytes - told.num_bytes))

    def total(self) -> tuple[int | None, bool]:
        """How many rows there are, and whether that is certain; None where there is nothing to tell it by yet."""
        if self._told is not None:
            return max(self._told, self.num_done), True
        opened, ended = dict(self._open), dict(self._found)  # whoever counts goes on meanwhile
        known = about = left_bytes = rows = num_bytes = 0  # `rows` in `num_bytes` were read; so many more are in `left_bytes`
        is_certain = True
        for part, size in enumerate(self._sizes):
            found = ended.get(part) if size.num_rows is None else size.num_rows
            known += found or 0
            if found is not None:
                if size.num_rows is None and size.about_rows is None and size.num_bytes:
                    rows, num_bytes = rows + found, num_bytes + size.num_bytes
                continue
            is_certain = False
            if size.about_rows is not None:
                about += size.about_rows
            elif size.num_bytes:
                left_bytes += size.num_bytes
            else:
                return None, False
            if part in opened and size.is_plain and size.about_rows is None:
                rows, num_bytes = rows + opened[part][0], num_bytes + opened[part][1]
        if is_certain:
            return max(known, self.num_done), True
        if left_bytes and not (rows and num_bytes):
            return None, False
        left = about + (left_bytes * rows / num_bytes if left_bytes else 0)
        at_hand = sum(is_at[0] for part, is_at in opened.items() if self._sizes[part].num_rows is None and part not in ended)
        return max(round(known + max(left, at_hand)), self.num_done), False

    def _leave(self) -> None:
        """The part at hand is done."""
        if self._at is not None:
            self._close(self._at)

    def _close(self, part: int) -> None:
        rows, _ = self._open.get(part, (0, 0))
        if self._sizes[part].num_rows is None:  # (such a part is one shard)
            self._found[part] = rows
        self._open.pop(part, None)


_WAITING_SHARE = 0.5
"""The first stage is the bottleneck when it took more than this share of the last seconds."""


class StageClock:
    """Seconds spent waiting for each of two stages, older ones fading away. One thread measures, any may ask.

    It also adds up what each stage took in all, without fading: of these two, and of others that run beside them.
    """

    def __init__(self, first: str, second: str, memory_s: float = 10.0) -> None:
        self._first, self._second, self._memory_s = first, second, memory_s
        self._seconds = {first: 0.0, second: 0.0}
        self._last = time.perf_counter()
        self._running: tuple[str, float] | None = None
        self._totals: dict[str, float] = {}
        self._adding = threading.Lock()

    @contextlib.contextmanager
    def beside(self, stage: str) -> Iterator[None]:
        """Count the time inside for a stage that nobody waits for, in any thread: it stands in `totals` alone."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add({stage: time.perf_counter() - started})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add to `totals` what stages took, here or in another process."""
        with self._adding:
            for stage, more in seconds.items():
                self._totals[stage] = self._totals.get(stage, 0.0) + more

    def totals(self) -> dict[str, float]:
        """Stage -> seconds in all; those under way are not counted yet."""
        with self._adding:
            return dict(self._totals)

    def take(self) -> dict[str, float]:
        """`totals`, which begin anew then: for whoever adds them to those of another process."""
        with self._adding:
            found, self._totals = self._totals, {}
            return found

    @contextlib.contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the time inside for `stage`."""
        started = time.perf_counter()
        self._running = (stage, started)
        try:
            yield
        finally:
            self._running = None
            now = time.perf_counter()
            self._seconds = self._faded(now)
            self._last = now
            self._seconds[stage] += now - started
            self.add({stage: now - started})

    def _faded(self, now: float) -> dict[str, float]:
        fade = 0.5 ** ((now - self._last) / self._memory_s)
        return {name: seconds * fade for name, seconds in self._seconds.items()}

    def slowest(self) -> str:
        """The stage that took most of the last seconds, the one under way included; "" before anything was measured."""
        running, now = self._running, time.perf_counter()
        seconds = self._faded(now) if running is not None else self._seconds
        if running is not None:
            seconds[running[0]] += now - running[1]
        total = sum(seconds.values())
        if not total:
            return ""
        return self._first if seconds[self._first] > _WAITING_SHARE * total else self._second
