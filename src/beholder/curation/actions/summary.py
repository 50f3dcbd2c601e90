"""Counts of what was, or would be, done to files; the lines that say it out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

_MOST_EXAMPLES = 5
REASONS = {
    "missing": "not there (any more)",
    "changed": "of another size than when it was scored",
    "clash": "whose place is taken",
    "in_archive": "inside an archive, where files cannot be moved or linked",
    "remote": "on a server",
    "link": "symbolic links",
    "outside": "outside of the folder that was named",
    "unreadable": "not readable",
    "name": "of a name that cannot be used",
    "not_permitted": "not permitted",
    "other_disk": "on another disk, where hard links cannot lead",
}
"""Why a picture was left out."""


@dataclass
class ActionSummary:
    """What an act did, or, where `applied` is false, would do.

    Attributes:
        action: "copy", "link", "symlink", "move", "tars", "hf-parquet" or "undo".
        target: the folder.
        journal: where it is written; None for dry runs.
        applied: whether files were touched.
        num_pictures: asked for.
        num_done: done, runs before included.
        num_files, num_bytes: of them, with what belongs to them.
        num_before: done by earlier runs of the same command.
        num_shards: tars or Parquet files.
        reasons: reason -> pictures (or files) left out.
        examples: (reason, sample, text) of the first few of each reason.
        renamed: pictures that got another name, so that no two are one.
        notes: lines to say.
    """

    action: str
    target: str
    applied: bool
    journal: str | None = None
    num_pictures: int = 0
    num_done: int = 0
    num_files: int = 0
    num_bytes: int = 0
    num_before: int = 0
    num_shards: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    examples: list[tuple[str, str, str]] = field(default_factory=list)
    renamed: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def num_skipped(self) -> int:
        """Pictures left out."""
        return sum(self.reasons.values())

    @property
    def exit_status(self) -> int:
        """3 where something was left out, else 0."""
        return 3 if self.num_skipped else 0

    def leave_out(self, reason: str, sample: str, text: str) -> None:
        """Count one."""
        seen = self.reasons.get(reason, 0)
        self.reasons[reason] = seen + 1
        if seen < _MOST_EXAMPLES:
            self.examples.append((reason, sample, text))

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"num_skipped": self.num_skipped}
