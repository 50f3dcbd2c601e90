"""A journal in; moves brought back, copies, links and packed files that nobody has changed taken away, and the counts, out."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from beholder.curate.act import files, journal
from beholder.curate.act.entries import Intent, PackedShard, Settled, Told
from beholder.curate.act.files import Refused, refusals
from beholder.curate.act.journal import Journal
from beholder.curate.act.moved import find_journals
from beholder.curate.act.summary import ActionSummary
from beholder.curate.act.telling import bytes_text, counted, shown_path, undo_command, undo_lines
from beholder.curate.act.unnamed import unnamed_files
from beholder.errors import InputError, OutputError

_BATCH = 512
_STAYS = frozenset(
    (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EBUSY, errno.ENOTDIR, errno.EROFS)
)
"""Errors of folders that are not empty, or that are no longer ours to remove."""
Say = Callable[[str], None]
Progress = Callable[[int, int], None]


def undo(path: str, *, dry_run: bool, say: Say, progress: Progress | None = None) -> ActionSummary:
    """Take back what a journal says was done.

    A file is moved back if it is still what was moved and nothing stands where it was; a copy, link or packed file is taken
    away if it is as it was made and the pictures it was made of are still as they were (servers are not asked). Everything
    else is left, with the reason. Folders that were made and are empty go. Interrupted, it goes on when it is run again.

    Args:
        path: the journal.
        dry_run: only say what would be done.
        say: called with lines for people.
        progress: called with (files, bytes) since the last time.

    Raises:
        InputError: it is no journal (of the folder of an act the message names that), or damaged.
        OutputError: another run is using it; the disk is full.
    """
    _check_no_target(path)
    told = journal.read_journal(path)
    summary = ActionSummary("undo", str(told.header.get("target")), not dry_run, journal=path)
    if told.is_wholly_undone:
        say(f"{path} was taken back before; nothing is left to do")
        return summary
    with contextlib.ExitStack() as stack:
        log: Journal | None = None
        if not dry_run:
            log, told = stack.enter_context(journal.reopened(path, for_undo=True))
            log.write({"undo": "begin"} | ({"lost": told.num_lost} if told.num_lost else {}))
        summary.notes += _notes(path, told)
        _undo_files(path, told, log, summary, progress or (lambda count, size: None))
        _undo_shards(path, told, log, summary)
        if told.num_lost or (not told.is_checked and not told.is_finished):
            _note_unnamed(path, told, summary)
        if log is not None:
            _remove_folders(told)
            log.write({"end": "undone", "left": summary.num_skipped})
    had_any = bool(told.num_files or told.unsettled or told.shards)
    for line in undo_lines(summary, str(told.header.get("action")), path, had_any=had_any):
        say(line)
    return summary


def _check_no_target(path: str) -> None:
    """Raise InputError, which names the journal, where the folder of an act was given in its place; it may be gone."""
    if os.path.lexists(path) and not os.path.isdir(path):  # noqa: PTH112
        return
    target = os.path.abspath(path)  # noqa: PTH100
    found = find_journals(target, [str(Path(target).parent), str(Path.cwd())]) if path else []
    if not found and not os.path.isdir(path):  # noqa: PTH112
        return
    if not found:
        raise InputError(
            f"{path} is a folder; name the journal of the act, which stands beside it unless --journal-out named another"
        )
    what = "journal is" if len(found) == 1 else "journals are"
    raise InputError(
        f"{path} is the folder of an act; the {what} {', '.join(map(shown_path, found))}: {undo_command(found[0], apply=False)}"
    )


def _notes(path: str, told: Told) -> list[str]:
    """How far the journal goes, where that is not to the end of a finished act, and whether it can be trusted."""
    notes = []
    if not told.is_checked:
        notes.append(f"{shown_path(path)} has no checksums yet, as an earlier version wrote it: it is taken as it stands")
    if told.num_lost:
        why = "; its last line is damaged and counts as lost" if told.is_last_damaged else ""
        notes.append(
            f"{shown_path(path)} has lost its end ({bytes_text(told.num_lost)}{why}), so it does not tell all that was done: "
            "what it tells is taken back, and the folder is searched for more"
        )
    elif not told.is_finished:
        notes.append("this act was stopped before its end; what it had done is taken back")
    return notes


def _note_unnamed(path: str, told: Told, summary: ActionSummary) -> None:
    """Say which files in the target the journal does not name. Of one that has surely lost its end they count as left."""
    count, first = 0, ""
    for file in unnamed_files(path, told):
        if told.num_lost:
            summary.leave_out("unnamed", file, f"{file} stands in no line of the journal")
        count, first = count + 1, first or file
    if count and not told.num_lost:
        files_text = f"{counted(count, 'file')} that it does not name ({shown_path(first)}{', ...' if count > 1 else ''})"
        folder = shown_path(str(told.header["target"]))
        summary.notes.append(f"{folder} holds {files_text}; if the journal has lost its end, they may be of this act")


def _undo_files(path: str, told: Told, log: Journal | None, summary: ActionSummary, progress: Progress) -> None:
    action, run = str(told.header.get("action")), str(told.header.get("id"))
    undone: list[int] = []

    def note() -> None:
        if log is not None and undone:
            log.write({"undone": journal.ranges(sorted(undone))}, sync=False)
        undone.clear()

    def one(outcome: Settled) -> None:
        intent = outcome.intent
        if not outcome.is_done or intent.number in told.undone:
            return
        summary.num_pictures += intent.is_picture
        try:
            is_there = _take_back(action, outcome, run, summary.note_not_kept, act=log is not None)
        except Refused as refused:
            summary.leave_out(refused.reason, intent.sample, refused.text)
            return
        undone.append(intent.number)
        if is_there:
            summary.num_done += intent.is_picture
            summary.num_files += 1
            summary.num_bytes += intent.num_bytes
            progress(1, intent.num_bytes)
        if len(undone) >= _BATCH:
            note()

    try:
        for _, outcome in journal.settled(path):
            if outcome is not None:
                one(outcome)
        for intent in told.unsettled.values():
            one(Settled(intent, True, told.sums.get(intent.number)))
    finally:
        with contextlib.suppress(OutputError):
            note()


def _take_back(action: str, outcome: Settled, run: str, report: files.Report, *, act: bool) -> bool:
    """Undo one file; whether there was anything to do. `report`: as of `files.move`. Raises Refused."""
    intent = outcome.intent
    if act:
        with contextlib.suppress(OSError):
            os.unlink(files.temporary(intent, run))  # noqa: PTH108 (of a run that was killed)
    if action == "move":
        return _move_back(outcome, run, report, act=act)
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
    if outcome.sha256 is None:  # killed between making it and noting it
        if intent.part is not None:
            raise Refused("unfinished", f"{intent.target}: the journal does not say whether it was made by this act")
        sha256 = files.sha256_of_source(intent)
    else:
        sha256 = outcome.sha256
    if outcome.mtime_ns not in (None, status.st_mtime_ns) or files.sha256_of(intent.target) != sha256:
        raise Refused("changed", f"{intent.target} has changed since it was made")


def _move_back(outcome: Settled, run: str, report: files.Report, *, act: bool) -> bool:
    intent = outcome.intent
    time = intent.mtime_ns if outcome.mtime_ns is None else outcome.mtime_ns
    back = replace(intent, source=intent.target, target=intent.source, mtime_ns=time)
    if act:
        with contextlib.suppress(OSError):
            os.unlink(files.temporary(back, f"{run}-undo"))  # noqa: PTH108 (of an undo that was killed)
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
        files.move(back, f"{run}-undo", report, as_it_was=True)
    return True


def _is_half_done(intent: Intent) -> bool:
    """Whether a move to another disk was killed between its last two steps: both are there, and the same."""
    with contextlib.suppress(OSError, Refused):
        files.check_source(intent, follow=False)
        status = os.lstat(intent.target)
        same = (status.st_size, status.st_mtime_ns) == (intent.size, intent.mtime_ns)
        is_other = not files.are_same(intent.source, intent.target)
        return same and is_other and files.sha256_of(intent.source) == files.sha256_of(intent.target)
    return False


def _undo_shards(path: str, told: Told, log: Journal | None, summary: ActionSummary) -> None:
    """Take away tars and Parquet files that are as they were written, while all that is in them is still where it was."""
    for shard in told.shards:
        if shard.name in told.undone_shards:
            continue
        summary.num_pictures += shard.pictures
        try:
            present = _present(shard)
            if shard.files[0][0] in present:  # else no picture is left in it: a table alone holds none
                for origin, (size, time) in journal.origins_of(path, shard).items():
                    _check_origin(origin, size, time, shard.name)
            if log is not None:
                for made in present:
                    with refusals(made):
                        os.unlink(made)  # noqa: PTH108
                log.write({"undone shard": shard.name})
        except Refused as refused:
            summary.leave_out(refused.reason, shard.name, refused.text)
            continue
        if present:
            summary.num_done += shard.pictures
            summary.num_shards += 1
            summary.num_bytes += sum(present.values())
    if log is not None:
        _remove_half_shards(told)


def _present(shard: PackedShard) -> dict[str, int]:
    """The files of a shard that are there, and their bytes. Raises Refused where one is not as it was made."""
    found = {}
    for path, size, time, sha256 in shard.files:
        if os.path.lexists(path):
            with refusals(path):
                status = os.lstat(path)
                is_as_made = (status.st_size, status.st_mtime_ns) == (size, time) and files.sha256_of(path) == sha256
            if not is_as_made:
                raise Refused("changed", f"{path} has changed since it was written")
            found[path] = size
    return found


def _remove_half_shards(told: Told) -> None:
    run = str(told.header.get("id"))
    for half in Path(str(told.header.get("target"))).glob(f".beholder-{run}-*.tmp"):
        with contextlib.suppress(OSError):  # a folder that cannot be written any more: it stays, and harms nobody
            half.unlink()


def _check_origin(origin: str, size: int, time: int, shard: str) -> None:
    try:
        status = os.stat(origin)  # noqa: PTH116
    except OSError:
        raise Refused("missing", f"{shard} stays: {origin}, from which it was made, is not there any more") from None
    if (status.st_size, status.st_mtime_ns) != (size, time):
        raise Refused("missing", f"{shard} stays: {origin}, from which it was made, has changed")


def _remove_folders(told: Told) -> None:
    """Remove the folders that were made, if they are empty."""
    for folder in reversed(told.folders):
        try:
            os.rmdir(folder)  # noqa: PTH106
        except OSError as error:
            if error.errno not in _STAYS:
                raise OutputError(f"cannot remove {folder}: {error.strerror}") from error
