"""Counts of an act in; the lines that tell people of it out."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator

from beholder.columns import WHERE_NOW
from beholder.curate.act.captions import KEPT as KEPT_BESIDE
from beholder.curate.act.captions import REPLACED, WITHOUT, WRITTEN
from beholder.curate.act.summary import KEPT, REASONS, ActionSummary

_DONE = {"copy": "copied", "link": "linked", "symlink": "linked", "move": "moved", "tars": "packed", "hf-parquet": "packed"}
_WOULD = {"copy": "copy", "link": "link", "symlink": "link", "move": "move", "tars": "pack", "hf-parquet": "pack"}
_SHARDS = {"tars": "tar", "hf-parquet": "Parquet file"}
_PATH_BEGINS = r"(?<![^\s'\"(\[{<:=])"
"""Before a path in a text: nothing, or one of these."""
_SHOWN = 3
"""Examples of each reason."""


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


def time_text(time: str) -> str:
    """ISO 8601 in UTC for people: 2026-11-25 20:24 UTC."""
    return f"{time[:10]} {time[11:16]} UTC" if time.endswith("+00:00") else time


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number and its noun: 1 picture, 2 pictures."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def nothing_selected(action: str) -> str:
    """The warning of an act of no pictures."""
    return f"no picture is selected, so there is nothing to {_WOULD[action]}"


def and_more(count: int) -> str:
    """What stands below a few examples."""
    return f"... and {count:,} more"


def lines_of(summary: ActionSummary) -> Iterator[str]:
    """What is said at the end."""
    verb, would, target = _DONE[summary.action], f"would {_WOULD[summary.action]}", shown_path(summary.target)
    has_new = summary.num_done > summary.num_before
    if summary.earlier == "finished":
        journal = shown_path(str(summary.journal))
        yield f"done already, {time_text(summary.time)}: {verb} {_before(summary)} to {target} (journal: {journal})"
        if has_new:
            yield f"{verb if summary.applied else would} {_new(summary)} that had been left out"
    elif summary.applied:
        yield f"{verb} {_all(summary)} to {target}"
        if summary.earlier:
            yield f"{counted(summary.num_before, 'picture')} of them by earlier runs"
    else:
        yield f"{would} {_new(summary)} to {target}"
        if summary.earlier:
            yield (
                f"{counted(summary.num_before, 'picture')} {'is' if summary.num_before == 1 else 'are'} {verb} already, by a "
                f"run of {time_text(summary.time)} that was interrupted; --apply goes on with it"
            )
    if summary.renamed:
        names = counted(summary.renamed, "picture")
        yield f"{names} got another name: dots in a name are replaced, and two pictures may not share a key"
    yield from _captions(summary)
    yield from _not_kept(summary)
    yield from summary.notes
    yield from _files_left(summary)
    yield from _left_out(summary)
    yield from _what_next(summary, has_new=has_new)


def _what_next(summary: ActionSummary, *, has_new: bool) -> Iterator[str]:
    if summary.earlier == "finished" and not has_new:
        is_whole = not (summary.notes or summary.num_skipped)
        yield f"{'nothing is left to do; ' if is_whole else ''}to take it back: {undo_command(str(summary.journal))}"
        yield "for another act name another folder, or another journal with --journal-out"
    elif summary.applied:
        yield f"to take it back: {undo_command(str(summary.journal))}"
    elif has_new or summary.earlier:
        yield "nothing has been touched; add --apply to do it"
    else:
        yield "nothing has been touched, and there is nothing to do: every picture is left out"


def _what(pictures: int, files: int, num_bytes: int, shards: int, action: str, num_unsized: int = 0) -> str:
    beside = files - pictures
    more = f" with {counted(beside, 'file')} beside" if beside > 0 else ""
    packed = f" in {counted(shards, _SHARDS[action])}" if action in _SHARDS else ""
    size = bytes_text(num_bytes)
    if num_unsized:
        unknown = f"unknown bytes of {counted(num_unsized, 'file')} on servers"
        size = f"{size} and {unknown}" if num_bytes else unknown
    return f"{counted(pictures, 'picture')}{more}, {size}{packed}"


def _all(summary: ActionSummary) -> str:
    return _what(summary.num_done, summary.num_files, summary.num_bytes, summary.num_shards, summary.action)


def _before(summary: ActionSummary) -> str:
    counts = (summary.num_before, summary.num_files_before, summary.num_bytes_before, summary.num_shards_before)
    return _what(*counts, summary.action)


def _new(summary: ActionSummary) -> str:
    return _what(
        summary.num_done - summary.num_before,
        summary.num_files - summary.num_files_before,
        summary.num_bytes - summary.num_bytes_before,
        summary.num_shards - summary.num_shards_before,
        summary.action,
        summary.num_unsized,
    )


def _not_kept(summary: ActionSummary) -> Iterator[str]:
    """What files did not keep, or would not, as they went to another disk."""
    verb = "were" if summary.applied else "would be"
    for word, count in summary.not_kept.items():
        if word == "links":
            most = f" (up to {summary.most_links:,} names each)" if summary.most_links else ""
            yield (
                f"{counted(count, 'file')} with hard links{most} {verb} moved to another file system, each as a copy of its "
                "own: the other names keep the file that was there"
            )
        else:
            why = "the file system has none" if word == "attributes" else "needs root, or the file system has none"
            does, whose = "did" if summary.applied else "would", "its" if count == 1 else "their"
            yield f"{counted(count, 'file')} {does} not keep {whose} {KEPT[word]} on another file system ({why})"


def _captions(summary: ActionSummary) -> Iterator[str]:
    """How many pictures have a caption of the column, and what of the others."""
    if summary.caption_column is None or not summary.num_done:
        return
    written, replaced = summary.captions.get(WRITTEN, 0), summary.captions.get(REPLACED, 0)
    instead = f", {replaced:,} in place of one beside the picture" if replaced else ""
    yield f"{counted(written, 'caption')} of column {summary.caption_column!r}{instead}"
    kept, without = summary.captions.get(KEPT_BESIDE, 0), summary.captions.get(WITHOUT, 0)
    if kept or without:
        told = [f"{kept:,} {'keeps the one' if kept == 1 else 'keep those'} beside"] if kept else []
        told += [f"{without:,} {'has' if without == 1 else 'have'} none"] if without else []
        yield f"{counted(kept + without, 'picture')} without a caption in that column: {', '.join(told)}"


def _files_left(summary: ActionSummary) -> Iterator[str]:
    yield from map(shown_text, summary.files_left)
    if summary.num_files_left > len(summary.files_left):
        yield f"... and {summary.num_files_left - len(summary.files_left):,} more files beside pictures stayed behind"


def _left_out(summary: ActionSummary) -> Iterator[str]:
    """What was left out, with examples."""
    if not summary.num_skipped:
        return
    yield f"left out: {counted(summary.num_skipped, 'picture')}"
    for reason, count in sorted(summary.reasons.items(), key=lambda item: -item[1]):
        yield f"  {count:,} {REASONS.get(reason, reason)}"
        yield from _examples(summary, reason)
        if reason == "missing":
            yield f"    if they were moved: {WHERE_NOW}"


def _examples(summary: ActionSummary, reason: str) -> Iterator[str]:
    texts = [text for word, _, text in summary.examples if word == reason][:_SHOWN]
    yield from (f"    {shown_text(text.replace(f'; {WHERE_NOW}', ''))}" for text in texts)  # which is said below, once
    if summary.reasons[reason] > len(texts) > 0:
        yield f"    {and_more(summary.reasons[reason] - len(texts))}"


_LEFT_BY_UNDO = {
    ("copy", "changed"): ("edited since it was made", "edited since they were made", "put elsewhere or delete what was edited"),
    ("copy", "missing"): (
        "whose original is gone or was changed, so that it may be the only one",
        "whose originals are gone or were changed, so that they may be the only ones",
        "put back what is gone, or take the copies elsewhere",
    ),
    ("copy", "unfinished"): (
        "at which a run was killed, or that was there before",
        "at which a run was killed, or that were there before",
        "put elsewhere or delete, as you see fit",
    ),
    ("link", "changed"): (
        "that is the only name left of its file, or another file",
        "that are the only names left of their files, or other files",
        "move to another place",
    ),
    ("symlink", "changed"): ("that is another link, or none", "that are other links, or none", "move to another place"),
    ("move", "changed"): ("edited since it was moved", "edited since they were moved", "move back by hand"),
    ("move", "missing"): (
        "that is not where it was moved to",
        "that are not where they were moved to",
        "bring to the old or the new place",
    ),
    ("move", "clash"): ("whose old place is taken", "whose old places are taken", "take away what stands there"),
    ("tars", "changed"): ("changed since it was written", "changed since they were written", "move to another place"),
    ("tars", "missing"): (
        "of pictures that are gone or were changed, so that it may be the only place of them",
        "of pictures that are gone or were changed, so that they may be the only place of them",
        "put the pictures back, or move to another place",
    ),
}  # fmt: skip
"""(act, reason) -> which file an undo left as it was, which files, and what to do with them."""
_UNNAMED = {
    "move": "see whose they are, and move back those of this act by hand (folders below are as they were at the old place)",
    "": "see whose they are, and delete those of this act (their originals are where they were)",
}
"""Act -> what to do with files of which a journal that has lost its end does not tell."""


def undo_lines(summary: ActionSummary, action: str, journal: str, *, had_any: bool) -> Iterator[str]:
    """What an undo says at its end.

    Args:
        summary: of the undo.
        action: that was taken back.
        journal: its journal.
        had_any: whether the act had done, or begun to do, anything.
    """
    would = "" if summary.applied else "would be "
    done = "moved back" if action == "move" else "taken away"
    if summary.num_files or summary.num_shards:
        files = f" ({counted(summary.num_files, 'file')})" if summary.num_files > summary.num_done else ""
        yield f"{counted(summary.num_done, 'picture')}{files}, {bytes_text(summary.num_bytes)}: {would}{done}"
    else:
        why = "" if summary.num_skipped else f": {_why_nothing(summary, action, had_any=had_any)}"
        yield f"nothing {would or 'was '}{done}{why}"
    yield from _not_kept(summary)
    yield from summary.notes
    yield from _files_left_by_undo(summary, action, journal)
    if not summary.applied and (summary.num_files or summary.num_shards):
        yield "nothing has been touched; add --apply to do it"


def _files_left_by_undo(summary: ActionSummary, action: str, journal: str) -> Iterator[str]:
    """What an undo left as it was, or would, and how to go on."""
    if not summary.num_skipped:
        return
    would = "" if summary.applied else "would be "
    kind, kept = ("tars", "shard") if action in _SHARDS else (action, "file")
    yield f"{would}left as {'it is' if summary.num_skipped == 1 else 'they are'}: {counted(summary.num_skipped, kept)}"
    for reason, count in sorted(summary.reasons.items(), key=lambda item: -item[1]):
        one, many, mend = _LEFT_BY_UNDO.get((kind, reason), ("", "", ""))
        if reason == "unnamed":
            mend = _UNNAMED.get(action, _UNNAMED[""])
        text = (one if count == 1 else many) or REASONS.get(reason, reason)
        yield f"  {count:,} {text}" + (f": {mend}" if mend else "")
        yield from _examples(summary, reason)
    other = "folder" if action in _SHARDS else "--journal-out"
    again = "it again" if summary.applied else "it"
    yield f"then run {again}: {undo_command(journal)} (until nothing is left, a new act needs another {other})"


def _why_nothing(summary: ActionSummary, action: str, *, had_any: bool) -> str:
    """Why an undo found nothing to do."""
    if not had_any:
        return f"nothing had been {_DONE[action]}"
    if not summary.num_pictures:
        return "all of it was before"
    return "all of it is where it was" if action == "move" else "none of it is there any more"
