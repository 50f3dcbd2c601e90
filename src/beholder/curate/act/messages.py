"""What an act or an undo did, or would do: the counts, and the lines that say so."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from beholder.columns import WHERE_NOW
from beholder.curate.act.journal import MOST_EXAMPLES, JournalState
from beholder.curate.options import XMP
from beholder.errors import number_of
from beholder.io.xmp import REJECTED

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
"""Why a picture was left out. Of an undo also "unfinished" (a file at which a run was killed) and "unnamed" (one that the
journal does not name, as it has lost its end)."""
STAR_REASONS = REASONS | {
    "changed": "changed since it was scored or looked at",
    "in_archive": "inside an archive or table, where no sidecar can be",
    "remote": "on a server, where no sidecar can be written",
    "link": "whose sidecar is a symbolic link",
    "damaged": "whose sidecar is no XMP that can be read and changed safely",
}
"""The same of stars in sidecars."""
AS_WANTED = {
    "rated": "rated or labelled before (--xmp-replace replaces that)",
    "shared": "whose sidecar a better picture has, too, which decides",
    "same": "whose sidecar says so already",
}
"""Why a picture's sidecar is left as it is though nothing is wrong."""
KEPT = {
    "owner": "owner",
    "group": "group",
    "mode": "permissions",
    "attributes": "extended attributes or access lists",
    "links": "hard links",
}
"""What a file has beside its bytes and times, which another disk or user may not be able to give it."""
_DONE = {"copy": "copied", "link": "linked", "symlink": "linked", "move": "moved", "tars": "packed", "hf-parquet": "packed",
         "xmp": "rated"}  # fmt: skip
_WOULD = {"copy": "copy", "link": "link", "symlink": "link", "move": "move", "tars": "pack", "hf-parquet": "pack",
          "xmp": "rate"}  # fmt: skip
_SHARDS = {"tars": "tar", "hf-parquet": "Parquet file"}
_PATH_BEGINS = r"(?<![^\s'\"(\[{<:=])"
"""Before a path in a text: nothing, or one of these."""
_SHOWN = 3
"""Examples of each reason."""


@dataclass
class ActionSummary:
    """What an act did, or, where `applied` is false, would do.

    Attributes:
        action: "copy", "link", "symlink", "move", "tars", "hf-parquet", "xmp" or "undo".
        target: the folder; of stars that of the journal.
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
        ratings: of stars, stars ("label" for a label alone) -> pictures.
        num_changed: of stars, sidecars that were there before; of an undo those that were put back as they were.
        num_with_raw: of stars, sidecars that are named as those of a raw file, too.
        reasons: reason -> pictures (or, of an undo, files) left out, or left as they are (`AS_WANTED`).
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
    ratings: dict[str, int] = field(default_factory=dict)
    num_changed: int = 0
    num_with_raw: int = 0
    renamed: int = 0
    caption_column: str | None = None
    captions: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def num_skipped(self) -> int:
        """Pictures left out."""
        return sum(count for reason, count in self.reasons.items() if reason not in AS_WANTED)

    @property
    def num_as_wanted(self) -> int:
        """Pictures whose sidecars are left as they are, though nothing is wrong."""
        return sum(self.reasons.values()) - self.num_skipped

    @property
    def exit_status(self) -> int:
        """3 where something was left out, else 0."""
        return 3 if self.num_skipped else 0

    def leave_out(self, reason: str, sample: str, text: str) -> None:
        """Count a picture that was left out."""
        seen = self.reasons.get(reason, 0)
        self.reasons[reason] = seen + 1
        if seen < MOST_EXAMPLES:
            self.examples.append((reason, sample, text))

    def leave_out_all(self, state: JournalState) -> None:
        """Count the pictures that are left out by what a journal says."""
        for reason, count, examples in state.left_out.counted():
            room = max(0, MOST_EXAMPLES - self.reasons.get(reason, 0))
            self.reasons[reason] = self.reasons.get(reason, 0) + count
            self.examples += [(reason, sample, text) for sample, text in examples[:room]]

    def note_not_kept(self, word: str) -> None:
        """Count a file that another disk does not keep all of."""
        self.not_kept[word] = self.not_kept.get(word, 0) + 1

    def leave_file(self, text: str) -> None:
        """Count a file beside a picture that stayed behind."""
        self.num_files_left += 1
        if self.num_files_left <= MOST_EXAMPLES:
            self.files_left.append(text)

    def count_done(self, state: JournalState) -> None:
        """Take the counts of all that was done from what a journal says."""
        shards = state.shards
        self.num_done = state.num_pictures + sum(shard.pictures for shard in shards)
        self.num_files = state.num_files + sum(shard.num_files for shard in shards)
        self.num_bytes = state.num_file_bytes + sum(shard.num_bytes for shard in shards)
        self.num_shards, self.renamed = len(shards), sum(shard.renamed for shard in shards)
        told = sorted(state.ratings.items(), key=lambda item: -2 if item[0] is None else item[0], reverse=True)
        self.ratings = {"label" if stars is None else str(stars): count for stars, count in told}
        self.num_changed = state.num_changed
        self.captions = dict(sum((shard.captions for shard in shards), Counter[str]()))

    def count_before(self, state: JournalState) -> None:
        """Count what earlier runs of the same act did, and say so where it is not there any more."""
        self.count_done(state)
        self.num_before, self.num_files_before = self.num_done, self.num_files
        self.num_bytes_before, self.num_shards_before = self.num_bytes, self.num_shards
        self.earlier = "finished" if state.is_finished else "interrupted"
        self.time = state.ended if state.is_finished else str(state.header["time"])
        made = [*state.first_made, *(path for shard in state.shards for path, *_ in shard.files)]
        gone = next((path for path in made if not os.path.lexists(path)), None)
        if state.is_finished and gone is not None:
            anew = f"; to have it anew, take back what is left ({undo_command(str(self.journal))}), then do it again"
            self.notes.append(
                f"not all of it is there any more: {shown_path(gone)} is gone" + (anew if self.action != "move" else "")
            )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"num_skipped": self.num_skipped}


def bytes_text(count: int) -> str:
    """Bytes for people: 1.2 GB."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def shown_path(path: str) -> str:
    """A path as people see it: below the current folder without that, on one line."""
    return _on_one_line(path.removeprefix(_here()) or path)


def shown_text(text: str) -> str:
    """A text with paths in it, as `shown_path`."""
    here = _here()
    return _on_one_line(re.sub(_PATH_BEGINS + re.escape(here), "", text) if here else text)


def _here() -> str:
    """What stands before paths below the current folder; nothing where that is the root of all."""
    here = os.getcwd()  # noqa: PTH109
    return f"{here}/" if here != "/" else ""


def _on_one_line(text: str) -> str:
    return text if text.isprintable() else repr(text)


def undo_command(journal: str, *, apply: bool = True) -> str:
    """What takes an act back, or (without `apply`) shows what that would do, to be typed."""
    path = shown_path(journal)
    return f"beholder undo {shlex.quote(f'./{path}' if path.startswith('-') else path)}" + (" --apply" if apply else "")


def _time_text(time: str) -> str:
    """ISO 8601 in UTC for people: 2026-11-25 20:24 UTC."""
    return f"{time[:10]} {time[11:16]} UTC" if time.endswith("+00:00") else time


def stars_text(stars: float) -> str:
    """A rating for people: 5 stars, 1 star, rejected."""
    return "-1 (rejected)" if stars == REJECTED else f"{stars:g} star{'' if stars == 1 else 's'}"


def nothing_selected(action: str) -> str:
    """The warning of an act of no pictures."""
    return f"no picture is selected, so there is nothing to {_WOULD[action]}"


def and_more(count: int) -> str:
    """What stands below a few examples."""
    return f"... and {count:,} more"


def act_lines(summary: ActionSummary) -> Iterator[str]:
    """What is said at the end of an act."""
    action = summary.action
    into = " in XMP sidecars" if action == XMP else f" to {shown_path(summary.target)}"
    verb, would = _DONE[action], f"would {_WOULD[action]}"
    done = (summary.num_done, summary.num_files, summary.num_bytes, summary.num_shards)
    before = (summary.num_before, summary.num_files_before, summary.num_bytes_before, summary.num_shards_before)
    num_new, num_files, num_bytes, num_shards = (one - other for one, other in zip(done, before, strict=True))
    new_text = _what(action, num_new, num_files, num_bytes, num_shards, summary.num_unsized)
    if summary.earlier == "finished":
        journal = f"(journal: {shown_path(str(summary.journal))})"
        yield f"done already, {_time_text(summary.time)}: {verb} {_what(action, *before)}{into} {journal}"
        if num_new:
            yield f"{verb if summary.applied else would} {new_text} that had been left out"
    elif summary.applied:
        yield f"{verb} {_what(action, *done)}{into}"
        if summary.earlier:
            yield f"{number_of(summary.num_before, 'picture')} of them by earlier runs"
    else:
        yield f"{would} {new_text}{into}"
        if summary.earlier:
            yield (
                f"{number_of(summary.num_before, 'picture')} {'is' if summary.num_before == 1 else 'are'} {verb} already, by a "
                f"run of {_time_text(summary.time)} that was interrupted; --apply goes on with it"
            )
    if summary.renamed:
        names = number_of(summary.renamed, "picture")
        yield f"{names} got another name: dots in a name are replaced, and two pictures may not share a key"
    yield from _caption_lines(summary)
    yield from _star_lines(summary)
    yield from _not_kept_lines(summary)
    yield from summary.notes
    yield from map(shown_text, summary.files_left)
    if summary.num_files_left > len(summary.files_left):
        yield f"... and {summary.num_files_left - len(summary.files_left):,} more files beside pictures stayed behind"
    if summary.num_skipped:
        yield f"left out: {number_of(summary.num_skipped, 'picture')}"
        yield from _reason_lines(summary, STAR_REASONS if action == XMP else REASONS)
    if summary.num_as_wanted:
        yield f"left as {'it is' if summary.num_as_wanted == 1 else 'they are'}: {number_of(summary.num_as_wanted, 'picture')}"
        yield from _reason_lines(summary, AS_WANTED, as_wanted=True)
    take_back = f"to take it back: {undo_command(str(summary.journal))}"
    if summary.earlier == "finished" and not num_new:
        is_whole = not (summary.notes or summary.num_skipped)
        yield f"{'nothing is left to do; ' if is_whole else ''}{take_back}"
        another = "another journal" if action == XMP else "another folder, or another journal"
        yield f"for another act name {another} with --journal-out"
    elif summary.applied:
        yield take_back
    elif num_new or summary.earlier:
        yield "nothing has been touched; add --apply to do it"
    else:
        why = "left out" if summary.num_skipped else "left as it is"
        yield f"nothing has been touched, and there is nothing to do: every picture is {why}"


def _what(action: str, pictures: int, files: int, num_bytes: int, shards: int, num_unsized: int = 0) -> str:
    more = f" with {number_of(files - pictures, 'file')} beside" if files > pictures else ""
    packed = f" in {number_of(shards, _SHARDS[action])}" if action in _SHARDS else ""
    if action == XMP:
        return number_of(pictures, "picture")
    size = bytes_text(num_bytes)
    if num_unsized:
        unknown = f"unknown bytes of {number_of(num_unsized, 'file')} on servers"
        size = f"{size} and {unknown}" if num_bytes else unknown
    return f"{number_of(pictures, 'picture')}{more}, {size}{packed}"


def _star_lines(summary: ActionSummary) -> Iterator[str]:
    """How many pictures have how many stars, and how many sidecars are new."""
    if summary.action != XMP or not summary.num_done:
        return
    words = {"label": "a label alone"}
    given = [f"{count:,} with {words.get(stars) or stars_text(int(stars))}" for stars, count in summary.ratings.items()]
    new = summary.num_done - summary.num_changed
    yield f"{', '.join(given)}; {number_of(new, 'new sidecar')}, {summary.num_changed:,} changed"
    if summary.num_with_raw:
        yield f"{number_of(summary.num_with_raw, 'sidecar')} of them also named as that of a raw file beside the picture"


def _not_kept_lines(summary: ActionSummary) -> Iterator[str]:
    """What files did not keep, or would not, as they went to another disk."""
    for word, count in summary.not_kept.items():
        if summary.action == XMP:
            them = "its other names keep" if count == 1 else "their other names keep"
            yield f"{number_of(count, 'changed sidecar')} with hard links: {them} what was there"
        elif word == "links":
            most = f" (up to {summary.most_links:,} names each)" if summary.most_links else ""
            yield (
                f"{number_of(count, 'file')} with hard links{most} {'were' if summary.applied else 'would be'} moved to "
                "another file system, each as a copy of its own: the other names keep the file that was there"
            )
        else:
            why = "the file system has none" if word == "attributes" else "needs root, or the file system has none"
            does, whose = "did" if summary.applied else "would", "its" if count == 1 else "their"
            yield f"{number_of(count, 'file')} {does} not keep {whose} {KEPT[word]} on another file system ({why})"


def _caption_lines(summary: ActionSummary) -> Iterator[str]:
    """How many pictures have a caption of the column, and what of the others."""
    if summary.caption_column is None or not summary.num_done:
        return
    written, replaced, kept, without = (summary.captions.get(word, 0) for word in ("written", "replaced", "kept", "without"))
    instead = f", {replaced:,} in place of one beside the picture" if replaced else ""
    yield f"{number_of(written, 'caption')} of column {summary.caption_column!r}{instead}"
    if kept or without:
        told = [f"{kept:,} {'keeps the one' if kept == 1 else 'keep those'} beside"] if kept else []
        told += [f"{without:,} {'has' if without == 1 else 'have'} none"] if without else []
        yield f"{number_of(kept + without, 'picture')} without a caption in that column: {', '.join(told)}"


def _reason_lines(summary: ActionSummary, words: Mapping[str, str], *, as_wanted: bool = False) -> Iterator[str]:
    """How many were left out, or `as_wanted` left as they are, for each reason, with examples."""
    chosen = [item for item in summary.reasons.items() if (item[0] in AS_WANTED) == as_wanted]
    for reason, count in sorted(chosen, key=lambda item: -item[1]):
        yield f"  {count:,} {words.get(reason, reason)}"
        texts = [text for word, _, text in summary.examples if word == reason][:_SHOWN]
        yield from (f"    {shown_text(text.replace(f'; {WHERE_NOW}', ''))}" for text in texts)  # which is said below, once
        if count > len(texts) > 0:
            yield f"    {and_more(count - len(texts))}"
        if reason == "missing" and "missing" in words:
            yield f"    if they were moved: {WHERE_NOW}"


def undo_lines(summary: ActionSummary, action: str) -> Iterator[str]:
    """What an undo of an act says at its end."""
    would = "" if summary.applied else "would be "
    done = "moved back" if action == "move" else "taken away"
    has_any = bool(summary.num_files or summary.num_shards)
    if has_any and action == XMP:
        new = summary.num_files - summary.num_changed
        yield (
            f"{number_of(summary.num_files, 'sidecar')}: {new:,} {would}taken away, {summary.num_changed:,} {would}put back as "
            f"{'it was' if summary.num_changed == 1 else 'they were'}"
        )
    elif has_any:
        files = f" ({number_of(summary.num_files, 'file')})" if summary.num_files > summary.num_done else ""
        yield f"{number_of(summary.num_done, 'picture')}{files}, {bytes_text(summary.num_bytes)}: {would}{done}"
    else:
        yield f"nothing {would or 'was '}{done}" + ("" if summary.num_skipped else ": nothing of it is left to take back")
    yield from _not_kept_lines(summary)
    yield from summary.notes
    if summary.num_skipped:
        kept, other = ("shard", "folder") if action in _SHARDS else ("file", "--journal-out")
        yield f"{would}left as {'it is' if summary.num_skipped == 1 else 'they are'}: {number_of(summary.num_skipped, kept)}"
        yield from _reason_lines(summary, {})
        yield (
            f"see to {'it' if summary.num_skipped == 1 else 'them'} by hand, then run it again: "
            f"{undo_command(str(summary.journal))} (until nothing is left, a new act needs another {other})"
        )
    if has_any and not summary.applied:
        yield "nothing has been touched; add --apply to do it"
