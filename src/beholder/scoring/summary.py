"""The numbers that a user is told of a run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from beholder.columns import SCORES_FOLDER
from beholder.io.schemas import merge_remarks
from beholder.scoreset.numbers import QUANTILES, ScoreStats
from beholder.scoring.shards import ShardResult

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
        reasons: rejected rows by reason.
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
        for result in results:
            self.num_read += result.num_read
            self.num_scored += result.num_scored
            self.num_rejected += result.num_rejected
            for reason, count in result.reasons.items():
                self.reasons[reason] = self.reasons.get(reason, 0) + count
            for trait, count in result.traits.items():
                self.traits[trait] = self.traits.get(trait, 0) + count
            merge_remarks(self.remarks, result.remarks)
            for name, record in result.stats.items():
                self.stats.setdefault(name, ScoreStats()).merge(ScoreStats.from_json(record))

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
        for (name, stats), head in zip(self.stats.items(), self.head_names, strict=True):
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
            "notes": self.notes,
            "warnings": self.warnings,
        }
