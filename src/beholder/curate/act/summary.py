"""What was, or would be, done to files, one by one, in; how much of what it was out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from beholder.curate.act.tallies import MOST_EXAMPLES

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
    "unfinished": "at which a run was killed",
    "unnamed": "that the journal does not name, as it has lost its end",
}
"""Why a picture was left out."""
KEPT = {
    "owner": "owner",
    "group": "group",
    "mode": "permissions",
    "attributes": "extended attributes or access lists",
    "links": "hard links",
}
"""What a file has beside its bytes and times, which another disk or user may not be able to give it."""


@dataclass
class ActionSummary:
    """What an act did, or, where `applied` is false, would do.

    Attributes:
        action: "copy", "link", "symlink", "move", "tars", "hf-parquet" or "undo".
        target: the folder.
        journal: where it is written; None for dry runs, unless there is one of the same act.
        applied: whether files were touched.
        num_pictures: asked for.
        num_done: done, runs before included.
        num_files, num_bytes: of them, with what belongs to them.
        num_before, num_files_before, num_bytes_before, num_shards_before: done by earlier runs of the same command.
        earlier: how the last of these ended; None where there was none.
        time: when that was ("finished") or when it was begun ("interrupted"), ISO 8601; "" where there was none.
        num_unsized: of a dry run, files on servers whose bytes are not known before they are fetched: `num_bytes` lacks them.
        num_shards: tars or Parquet files.
        reasons: reason -> pictures (or, of an undo, files) left out.
        examples: (reason, sample, text) of the first few of each reason.
        num_files_left: files beside pictures that stayed behind though their pictures did not.
        files_left: texts about the first few of these.
        not_kept: word of KEPT -> files that were moved to another disk, or would be, without that.
        most_links: of a dry run, most names that one of these files has.
        renamed: pictures that got another name, so that no two are one.
        caption_column: whose text is the caption of what is packed; None where that was not asked for.
        captions: how many pictures were, or would be, packed with a caption of it ("written"), how many of these in place of
            one beside the picture ("replaced"), and for how many it has none: "kept", which have one beside, and "without".
        notes: lines to say.
        warnings: what may not be as it was meant.
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
    num_files_before: int = 0
    num_bytes_before: int = 0
    num_shards_before: int = 0
    earlier: Literal["finished", "interrupted"] | None = None
    time: str = ""
    num_unsized: int = 0
    num_shards: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    examples: list[tuple[str, str, str]] = field(default_factory=list)
    num_files_left: int = 0
    files_left: list[str] = field(default_factory=list)
    not_kept: dict[str, int] = field(default_factory=dict)
    most_links: int = 0
    renamed: int = 0
    caption_column: str | None = None
    captions: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

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
        if seen < MOST_EXAMPLES:
            self.examples.append((reason, sample, text))

    def leave_out_many(self, reason: str, count: int, examples: Sequence[tuple[str, str]]) -> None:
        """Count several; `examples`: (sample, text) of some of them."""
        room = max(0, MOST_EXAMPLES - self.reasons.get(reason, 0))
        self.reasons[reason] = self.reasons.get(reason, 0) + count
        self.examples += [(reason, sample, text) for sample, text in examples[:room]]

    def note_not_kept(self, word: str) -> None:
        """Count a file that another disk does not keep all of."""
        self.not_kept[word] = self.not_kept.get(word, 0) + 1

    def count_captions(self, counts: Mapping[str, int]) -> None:
        """Add counts of captions."""
        for word, count in counts.items():
            self.captions[word] = self.captions.get(word, 0) + count

    def leave_file(self, text: str) -> None:
        """Count a file beside a picture that stayed behind."""
        self.num_files_left += 1
        if self.num_files_left <= MOST_EXAMPLES:
            self.files_left.append(text)

    def done_before(self, earlier: Literal["finished", "interrupted"], time: str) -> None:
        """All that is counted so far was done by an earlier run."""
        self.earlier, self.time = earlier, time
        self.num_before, self.num_files_before = self.num_done, self.num_files
        self.num_bytes_before, self.num_shards_before = self.num_bytes, self.num_shards

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"num_skipped": self.num_skipped}
