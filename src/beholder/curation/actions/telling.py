"""Counts of an act in; the lines that tell people of it out."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator

from beholder.curation.actions.summary import REASONS, ActionSummary

_DONE = {"copy": "copied", "link": "linked", "symlink": "linked", "move": "moved", "tars": "packed", "hf-parquet": "packed"}
_WOULD = {"copy": "copy", "link": "link", "symlink": "link", "move": "move", "tars": "pack", "hf-parquet": "pack"}
_SHARDS = {"tars": "tar", "hf-parquet": "Parquet file"}


def bytes_text(count: int) -> str:
    """Bytes for people: 1.2 GB."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def shown_path(path: str) -> str:
    """A path as people see it: below the current folder without that, on one line."""
    text = path.removeprefix(os.getcwd().rstrip("/") + "/")  # noqa: PTH109
    return text if text.isprintable() else repr(text)


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number and its noun: 1 picture, 2 pictures."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def lines_of(summary: ActionSummary) -> Iterator[str]:
    """What is said at the end."""
    beside = summary.num_files - summary.num_done
    more = f" with {counted(beside, 'file')} beside" if beside > 0 else ""
    what = f"{counted(summary.num_done, 'picture')}{more}, {bytes_text(summary.num_bytes)}"
    shards = f" in {counted(summary.num_shards, _SHARDS[summary.action])}" if summary.action in _SHARDS else ""
    if summary.applied:
        yield f"{_DONE[summary.action]} {what}{shards} to {shown_path(summary.target)}"
        if summary.num_before:
            yield f"{counted(summary.num_before, 'picture')} of them by earlier runs"
    else:
        yield f"would {_WOULD[summary.action]} {what}{shards} to {shown_path(summary.target)}"
    if summary.renamed:
        names = counted(summary.renamed, "picture")
        yield f"{names} got another name: dots in a name are replaced, and two pictures may not share a key"
    yield from summary.notes
    yield from left_out(summary)
    if summary.applied:
        yield f"to take it back: beholder undo {shlex.quote(shown_path(str(summary.journal)))}"
    else:
        yield "nothing has been touched; add --apply to do it"


def left_out(summary: ActionSummary) -> Iterator[str]:
    """What was left out, with examples."""
    if not summary.num_skipped:
        return
    yield f"left out: {counted(summary.num_skipped, 'picture')}"
    for reason, count in sorted(summary.reasons.items(), key=lambda item: -item[1]):
        yield f"  {count:,} {REASONS.get(reason, reason)}"
        shown = [text for word, _, text in summary.examples if word == reason]
        yield from (f"    {text if text.isprintable() else repr(text)}" for text in shown[:3])
