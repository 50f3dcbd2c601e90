"""Acts taken back by their journals: moves brought back, copies, links and packed files that nobody has changed taken away."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from beholder.curate.act import files, journal, sidecar
from beholder.curate.act.files import Intent, Refused, refusals
from beholder.curate.act.journal import Journal, JournalState, PackedShard, Settled
from beholder.curate.act.messages import ActionSummary, bytes_text, shown_path, undo_command, undo_lines
from beholder.curate.act.plan import Say
from beholder.curate.options import XMP
from beholder.errors import InputError, OutputError
from beholder.io import crash, storage

_BATCH = 512
_STAYS = frozenset(
    (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EBUSY, errno.ENOTDIR, errno.EROFS)
)
"""Errors of folders that are not empty, or that are no longer ours to remove."""


def undo(path: str, *, dry_run: bool, say: Say) -> ActionSummary:
    """Take back what a journal says was done.

    A file is moved back if it is still what was moved and nothing stands where it was; a copy, link or packed file is taken
    away if it is as it was made and the pictures it was made of are still as they were (servers are not asked); a sidecar
    that is as it was written is taken away, or gets its earlier bytes. Everything else is left, with the reason. Folders that
    were made and are empty go. Interrupted, it goes on when it is run again.

    Args:
        path: the journal.
        dry_run: only say what would be done.
        say: called with lines for people.

    Raises:
        InputError: it is no journal (of the folder of an act the message names that), or damaged.
        OutputError: another run is using it; the disk is full.
    """
    _check_no_target(path)
    state = journal.read_journal(path)
    summary = ActionSummary("undo", str(state.header["target"]), not dry_run, journal=path)
    if state.is_wholly_undone:
        say(f"{path} was taken back before; nothing is left to do")
        return summary
    with contextlib.ExitStack() as stack:
        log: Journal | None = None
        if not dry_run:
            log, state = stack.enter_context(journal.reopened(path, for_undo=True))
            log.write({"undo": "begin"} | ({"lost": state.num_lost} if state.num_lost else {}))
        if state.num_lost:
            why = "; its last line is damaged and counts as lost" if state.is_last_damaged else ""
            summary.notes.append(
                f"{shown_path(path)} has lost its end ({bytes_text(state.num_lost)}{why}), so it does not say all that was "
                "done: what it says is taken back, and "
                + ("sidecars that it does not name stay" if state.action == XMP else "the folder is searched for more")
            )
        elif not state.is_finished:
            summary.notes.append("this act was stopped before its end; what it had done is taken back")
        _undo_files(path, state, log, summary)
        _undo_shards(path, state, log, summary)
        if state.num_lost and state.action == XMP:
            _count_unknown(state, summary)
        for file in _unnamed_files(path, state) if state.num_lost and state.action != XMP else ():
            summary.leave_out("unnamed", file, f"{file} is named by no line of the journal")
        if log is not None:
            _remove_folders(state.folders)
            log.write({"end": "undone", "left": summary.num_skipped})
    for line in undo_lines(summary, state.action):
        say(line)
    return summary


def _check_no_target(path: str) -> None:
    """Raise InputError, which names the journal, where the folder of an act was given in its place; it may be gone."""
    is_folder = os.path.isdir(path)  # noqa: PTH112
    beside = f"{os.path.abspath(path)}.journal.jsonl"  # noqa: PTH100
    if path and (is_folder or not os.path.lexists(path)) and os.path.isfile(beside):  # noqa: PTH113
        told = f"the journal is {shown_path(beside)}: {undo_command(beside, apply=False)}"
        raise InputError(f"{path} is the folder of an act; {told}")
    if is_folder:
        raise InputError(
            f"{path} is a folder; name the journal of the act, which stands beside it unless --journal-out named another"
        )


def _undo_files(path: str, state: JournalState, log: Journal | None, summary: ActionSummary) -> None:
    undone: list[int] = []

    def note() -> None:
        if log is not None and undone:
            log.write({"undone": journal.ranges(undone)}, sync=False)
        undone.clear()

    try:
        for outcome in _made(path, state):
            intent = outcome.intent
            if state.was_undone(intent):
                continue
            summary.num_pictures += intent.is_picture
            try:
                is_there = _take_back(state, outcome, summary, act=log is not None)
            except Refused as refused:
                summary.leave_out(refused.reason, intent.sample, refused.text)
                continue
            crash.reach("undo file")
            undone.append(intent.number)
            if is_there:
                summary.num_done += intent.is_picture
                summary.num_files += 1
                summary.num_changed += outcome.intent.change is not None and outcome.intent.change.splice is not None
                summary.num_bytes += intent.num_bytes
            if len(undone) >= _BATCH:
                note()
    finally:
        with contextlib.suppress(OutputError):
            note()


def _made(path: str, state: JournalState) -> Iterator[Settled]:
    """What was made or moved by an act, or may have been when its run was killed."""
    for _, outcome in journal.settled(path):
        if outcome is not None and outcome.is_done:
            yield outcome
    for intent in state.unsettled.values():
        yield Settled(intent, True, state.sums.get(intent.number))


def _take_back(state: JournalState, outcome: Settled, summary: ActionSummary, *, act: bool) -> bool:
    """Undo one file; whether there was anything to do. Raises Refused."""
    intent, action = outcome.intent, state.action
    if act:
        files.remove_temporary(intent, state.run)
    if action == XMP:
        return sidecar.take_back(intent, f"{state.run}-undo", act=act)
    if action == "move":
        return _move_back(outcome, f"{state.run}-undo", summary, act=act)
    with refusals(intent.target):
        try:
            status = os.lstat(intent.target)
        except FileNotFoundError:
            return False  # never made, or taken away by its owner
        if action == "symlink":
            if not (stat.S_ISLNK(status.st_mode) and os.readlink(intent.target) == intent.source):  # noqa: PTH115
                raise Refused("changed", f"{intent.target} is not the link that was made")
        elif action == "link":
            is_link = _stands_alone(intent) and os.path.samefile(intent.source, intent.target)  # noqa: PTH121
            if not is_link or status.st_nlink < 2:
                raise Refused("changed", f"{intent.target} is the only name left of that file, or another file")
        else:
            _check_copy(outcome, status)
        if act:
            os.unlink(intent.target)  # noqa: PTH108 (ours, unchanged, and the original is there)
    return True


def _stands_alone(intent: Intent) -> bool:
    """Whether the original is there, and is not merely a link to what was made of it."""
    source, target = intent.source, intent.target
    return os.path.exists(source) and os.path.realpath(source) != os.path.realpath(target)  # noqa: PTH110


def _check_copy(outcome: Settled, status: os.stat_result) -> None:
    """Raise Refused unless a copy is as it was made, and its original is as it was."""
    intent = outcome.intent
    if not stat.S_ISREG(status.st_mode):
        raise Refused("changed", f"{intent.target} is no file any more")
    if intent.size >= 0:
        try:
            files.check_source(intent, follow=True)
        except Refused as refused:
            what = "is not there any more" if refused.reason == "missing" else "is not as it was"
            raise Refused("missing", f"{intent.target} stays: {intent.source} {what}") from None
        if not _stands_alone(intent) or os.path.samefile(intent.source, intent.target):  # noqa: PTH121
            raise Refused("missing", f"{intent.target} stays: {intent.source} only leads to it")
    sha256 = outcome.sha256
    if sha256 is None:  # killed between making it and noting it
        if intent.part is not None:
            raise Refused("unfinished", f"{intent.target}: the journal does not say whether it was made by this act")
        sha256 = files.sha256_of_source(intent)
    if outcome.mtime_ns not in (None, status.st_mtime_ns) or storage.sha256_of(intent.target) != sha256:
        raise Refused("changed", f"{intent.target} has changed since it was made")


def _move_back(outcome: Settled, run: str, summary: ActionSummary, *, act: bool) -> bool:
    intent = outcome.intent
    time = intent.mtime_ns if outcome.mtime_ns is None else outcome.mtime_ns
    back = replace(intent, source=intent.target, target=intent.source, mtime_ns=time)
    if act:  # of an undo that was killed
        files.remove_temporary(back, run)
    if not os.path.lexists(intent.target):
        if os.path.lexists(intent.source):
            return False  # back already, or never moved
        raise Refused("missing", f"{intent.target} is not there any more, so it cannot be moved back")
    if os.path.lexists(intent.source):
        with refusals(intent.target):
            if not (files.is_spare(intent.target, intent.source) or _is_half_done(intent)):
                raise Refused("clash", f"{intent.source} is there already, so {intent.target} stays")
            if act:  # killed between link and unlink, or between a copy to another disk and the end of its original
                os.unlink(intent.target)  # noqa: PTH108
        return True
    files.check_source(back, follow=False)
    if act:
        with refusals(intent.source):
            os.makedirs(os.path.dirname(intent.source), exist_ok=True)  # noqa: PTH103, PTH120
        files.move(back, run, summary.note_not_kept, as_it_was=True)
    return True


def _is_half_done(intent: Intent) -> bool:
    """Whether a move to another disk was killed between its last two steps: both are there, and the same."""
    with contextlib.suppress(OSError, Refused):
        files.check_source(intent, follow=False)
        status = os.lstat(intent.target)
        same = (status.st_size, status.st_mtime_ns) == (intent.size, intent.mtime_ns)
        is_other = not files.are_same(intent.source, intent.target)
        return same and is_other and files.have_same_bytes(intent.source, intent.target)
    return False


def _undo_shards(path: str, state: JournalState, log: Journal | None, summary: ActionSummary) -> None:
    """Take away tars and Parquet files that are as they were written, while all that is in them is still where it was."""
    for shard in state.shards:
        if shard.name in state.undone_shards:
            continue
        summary.num_pictures += shard.pictures
        try:
            present = _present(shard)
            if shard.files[0][0] in present:  # else no picture is left in it: a table alone holds none
                _check_origins(shard, journal.origins_of(path, shard))
            if log is not None:
                for made in present:
                    with refusals(made):
                        os.unlink(made)  # noqa: PTH108
                    crash.reach("undo shard file")
                log.write({"undone shard": shard.name})
        except Refused as refused:
            summary.leave_out(refused.reason, shard.name, refused.text)
            continue
        if present:
            summary.num_done += shard.pictures
            summary.num_shards += 1
            summary.num_bytes += sum(present.values())
    if log is not None:
        for half in Path(str(state.header["target"])).glob(files.half_name(state.run, "*")):
            with contextlib.suppress(OSError):  # a folder that cannot be written any more: it stays, and harms nobody
                half.unlink()


def _present(shard: PackedShard) -> dict[str, int]:
    """The files of a shard that are there, and their bytes. Raises Refused where one is not as it was made."""
    found = {}
    for path, size, time, sha256 in shard.files:
        if os.path.lexists(path):
            with refusals(path):
                status = os.lstat(path)
                is_as_made = (status.st_size, status.st_mtime_ns) == (size, time) and storage.sha256_of(path) == sha256
            if not is_as_made:
                raise Refused("changed", f"{path} has changed since it was written")
            found[path] = size
    return found


def _check_origins(shard: PackedShard, origins: Mapping[str, tuple[int, int]]) -> None:
    """Raise Refused where a file that a shard was made of is not as it was. `origins`: path -> (size, time in ns)."""
    for origin, was in origins.items():
        try:
            status = os.stat(origin)  # noqa: PTH116
        except OSError:
            raise Refused("missing", f"{shard.name} stays: {origin}, from which it was made, is not there any more") from None
        if (status.st_size, status.st_mtime_ns) != was:
            raise Refused("missing", f"{shard.name} stays: {origin}, from which it was made, has changed")


def _unnamed_files(path: str, state: JournalState) -> Iterator[str]:
    """Files below the target that stand in no line of a journal that has lost its end; half-written ones are not among them.

    Raises InputError where the journal cannot be read.
    """
    named = {outcome.intent.target for _, outcome in journal.settled(path) if outcome is not None}
    named.update(intent.target for intent in state.unsettled.values())
    named.update(made for shard in state.shards for made, *_ in shard.files)
    named.add(os.path.abspath(path))  # noqa: PTH100
    for folder, folders, names in os.walk(str(state.header["target"])):
        folders.sort()
        for name in sorted(names):
            file = os.path.join(folder, name)  # noqa: PTH118
            if file not in named and not fnmatchcase(name, files.half_name(state.run, "*")):
                yield file


def _count_unknown(state: JournalState, summary: ActionSummary) -> None:
    """Count what a journal that has lost its end may have said of more sidecars, unless all were in lines that are left."""
    num_pictures = state.header.get("num_pictures") or 0
    if state.is_finished or state.num_planned < num_pictures:
        text = f"of {num_pictures - state.num_planned:,} pictures it is not known whether their sidecars were written"
        if state.is_finished:
            text = "it is not known which sidecars were written after this act had come to its end"
        summary.leave_out("unnamed", str(summary.journal), text)


def _remove_folders(folders: Sequence[str]) -> None:
    """Remove the folders that were made, if they are empty."""
    for folder in reversed(folders):
        try:
            os.rmdir(folder)  # noqa: PTH106
        except OSError as error:
            if error.errno not in _STAYS:
                raise OutputError(f"cannot remove {folder}: {error.strerror}") from error
