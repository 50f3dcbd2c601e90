"""A job of copies, links or moves in; done piece by piece, each journaled before it is done, or only planned."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from beholder import columns
from beholder.curate.act import files, in_flight, journal
from beholder.curate.act.entries import Intent
from beholder.curate.act.fetching import fetch, pieces
from beholder.curate.act.journal import Journal
from beholder.curate.act.layout import with_suffix
from beholder.curate.act.plan import Planned, Planner
from beholder.curate.act.run import Job, Say, free_bytes, take_over
from beholder.curate.act.shared_files import SharedFiles
from beholder.curate.act.telling import and_more, bytes_text, shown_path
from beholder.errors import OutputError, os_error_text
from beholder.io import storage
from beholder.locate.place import nowhere

_BATCH = 256
"""Pictures that are planned together."""
_EXAMPLES = 5


def rehearse(job: Job, say: Say) -> None:
    """Plan everything, touch nothing; the first few files are named."""
    left, summary = _taken_over(job, None), job.summary
    planner = _planner(job)
    planner.expect(left)
    disk = _Disk(job)
    shown = 0
    needed = 0
    for planned in itertools.chain(left, (one for batch in _batches(job) for one in _planned(job, planner, batch))):
        if not planned.intents:
            summary.leave_out(planned.reason or "", planned.sample, planned.text)
            continue
        intents = _would_be_done(planner.shared, planned)
        num_bytes = sum(intent.num_bytes for intent in intents)
        num_pictures = sum(intent.is_picture for intent in intents)  # 0: the rest of one that was moved already
        summary.num_done += num_pictures
        summary.num_files += len(intents)
        summary.num_bytes += num_bytes
        summary.num_unsized += sum(intent.size < 0 and intent.length is None for intent in intents)
        job.progress(num_pictures, num_bytes)
        needed += disk.needs(intents)
        if num_pictures and shown < _EXAMPLES:
            shown += 1
            say(f"  {shown_path(planned.intents[0].source)} -> {shown_path(planned.intents[0].target)}")
    _give_up(job, None, planner.shared)
    _note_left_with_others(job, planner)
    if (more := summary.num_done - summary.num_before - shown) > 0:
        say(f"  {and_more(more)}")
    if needed > (free := free_bytes(job.target)):
        summary.notes.append(f"the disk of {job.target} has {bytes_text(free)} free, {bytes_text(needed)} are needed")


def _would_be_done(shared: SharedFiles, planned: Planned) -> list[Intent]:
    """What would be done with a picture: its files, and what others have left for it."""
    for intent in planned.intents:
        if intent.is_picture:
            shared.note(intent, is_done=True)
    found = [intent for intent in planned.intents if not intent.is_shared or shared.may_go(intent)]
    found += [intent for intent in shared.ready() if intent not in found]
    for intent in found:
        shared.settle(intent)
    return found


class _Disk:
    """The disk of the target, in a dry run: what it needs; what a move to it would not keep of files goes into the summary."""

    def __init__(self, job: Job) -> None:
        self._action, self._summary = job.action, job.summary
        at = job.target
        while not os.path.lexists(at):
            at = os.path.dirname(at)  # noqa: PTH120
        self._device = os.stat(at).st_dev  # noqa: PTH116
        self._user = os.geteuid() if hasattr(os, "geteuid") else 0

    def needs(self, intents: Sequence[Intent]) -> int:
        """Bytes that these files take on it."""
        if self._action == "copy":
            return sum(intent.num_bytes for intent in intents)
        return sum(intent.num_bytes for intent in intents if self._action == "move" and self._comes_from_elsewhere(intent))

    def _comes_from_elsewhere(self, intent: Intent) -> bool:
        """Whether a file that is to be moved is on another disk, so that it is copied."""
        try:
            status = os.lstat(intent.source)
        except OSError:
            return False
        if status.st_dev == self._device:
            return False
        if status.st_nlink > 1:
            self._summary.note_not_kept("links")
            self._summary.most_links = max(self._summary.most_links, status.st_nlink)
        if self._user not in (0, status.st_uid):
            self._summary.note_not_kept("owner")
        return True


def _planner(job: Job) -> Planner:
    roots = {
        number: os.path.realpath(storage.local_path(path)) for number, path in job.sources.folders() if storage.is_local(path)
    }
    told = job.told
    shared = told.shared if told is not None else SharedFiles(job.action)
    return Planner(job.action, job.target, job.layout, roots, shared, told.num_intents if told is not None else 0)


def _taken_over(job: Job, log: Journal | None) -> list[Planned]:
    """Count what earlier runs did and left out; what a killed one had in flight and did not come to is given back."""
    told = job.told
    if told is None:
        return []
    left = in_flight.settle(job, told, log)
    take_over(job, told)
    if not told.is_finished:
        told.left_out.tell(job.summary)
    return left


def _batches(job: Job) -> Iterator[pa.Table]:
    """What is left to do: all that was not planned yet; of a finished act what was left out."""
    told = job.told
    if told is not None and told.is_finished:
        again = job.kept.filter(pa.array(told.left_out.among(job.kept.column(columns.SAMPLE))))
        for at in range(0, again.num_rows, _BATCH):
            yield again.slice(at, _BATCH)
        return
    yield from job.batches(told.num_planned if told is not None else 0, _BATCH)


def _planned(job: Job, planner: Planner, batch: pa.Table) -> list[Planned]:
    samples = batch.column(columns.SAMPLE).to_pylist()
    sizes = batch.column(columns.NUM_BYTES).to_pylist() if columns.NUM_BYTES in batch.column_names else [None] * len(samples)
    return planner.plan(job.finder.locate(samples, with_belongings=job.options.sidecars), sizes)


def apply(job: Job) -> None:
    """Do it, or go on with it. Raises OutputError when the disk is full; the same again continues."""
    if job.told is None:
        with journal.new_journal(job.journal, **job.header) as (log, run):
            _go(job, log, run)
        return
    with journal.reopened(job.journal) as (log, told):
        _go(replace(job, told=told), log, str(told.header.get("id")))


def _go(job: Job, log: Journal, run: str) -> None:
    left = _taken_over(job, log)
    planner, summary = _planner(job), job.summary
    if left:
        assert job.told is not None
        _make_folders(job.told.folders)
        for some in in_flight.found_anew(job, left):
            _do(job, planner, log, run, some)
    num_planned = job.told.num_planned if job.told is not None else 0
    is_retry = job.told is not None and job.told.is_finished
    for batch in _batches(job):
        planned = _planned(job, planner, batch)
        intents = [intent for picture in planned for intent in picture.intents]
        num_planned += 0 if is_retry else batch.num_rows
        left_out = [picture for picture in planned if not picture.intents]
        for picture in left_out:
            summary.leave_out(picture.reason or "", picture.sample, picture.text)
        if is_retry and not intents:
            continue  # the journal says already that they were left out
        lines: list[dict[str, Any]] = [{"folder": folder} for folder in planner.new_folders]
        lines += [intent.to_json() for intent in intents]
        lines += [{"skip": picture.sample, "reason": picture.reason, "text": picture.text} for picture in left_out]
        log.write(*lines, {"planned": num_planned})
        _make_folders(planner.new_folders)
        planner.new_folders = []
        for some in pieces(planned):
            _do(job, planner, log, run, some)
    _give_up(job, log, planner.shared)
    _note_left_with_others(job, planner)
    if not is_retry or summary.num_done > summary.num_before:
        log.write(journal.end())


def _note_left_with_others(job: Job, planner: Planner) -> None:
    """Count files beside pictures that stay, though a picture that they belong to goes."""
    left = "left" if job.options.apply else "would be left"
    for path in planner.left_with_others:
        job.summary.leave_file(f"{left} where it is: {path}, as a picture stays to which it belongs, too")


def _do(job: Job, planner: Planner, log: Journal, run: str, some: Sequence[Planned]) -> None:
    """Do what is planned of some pictures, and write down what became of it."""
    data = fetch(job.finder, some)
    if sums := [[number, hashlib.sha256(held).hexdigest()] for number, held in data.items() if isinstance(held, bytes)]:
        fetched = _fitted(planner, some, data)
        log.write({"sums": sums} | ({"fetched": fetched} if fetched else {}))  # by which copies of a killed run are known
    said: dict[str, Any] = {}
    try:
        _act(job, planner.shared, [intent for picture in some for intent in picture.intents], run, data, said)
    finally:
        with contextlib.suppress(OutputError):  # full disks: what is not said will be found out
            log.write(said, sync=False)
    _count(job, planner, some, said)
    ready = _alone(planner.shared.ready())
    for few in in_flight.found_anew(job, ready) if ready else ():
        _do(job, planner, log, run, few)


def _alone(shared: Sequence[Intent]) -> list[Planned]:
    """Files that are done without the picture that they were planned with."""
    return [Planned(intent.sample, nowhere(intent.sample, ""), [intent]) for intent in shared]


def _give_up(job: Job, log: Journal | None, shared: SharedFiles) -> None:
    """Leave out the files that pictures share of which none was done."""
    waiting = shared.waiting
    done = "linked" if job.action.endswith("link") else "copied"
    texts = [f"{intent.source}: none of the pictures that it belongs to was {done}" for intent in waiting]
    if log is not None and waiting:
        failed = [[intent.number, "missing", text] for intent, text in zip(waiting, texts, strict=True)]
        log.write({"results": [], "failed": failed})
    for intent, text in zip(waiting, texts, strict=True):
        shared.settle(intent)
        job.summary.leave_file(f"{'left' if job.options.apply else 'would be left'} where it is: {text}")


def _fitted(planner: Planner, some: Sequence[Planned], data: dict[int, bytes | files.Refused]) -> list[list[Any]]:
    """Give what was fetched its length, and a picture of a server the suffix of its format where its name has none.

    Returns:
        [number, length, target] of the intents that are changed by it.
    """
    found: list[list[Any]] = []
    for picture in some:
        for intent in picture.intents:
            held, target = data.get(intent.number), intent.target
            if not isinstance(held, bytes):
                continue
            if intent.is_picture and picture.place.kind == "url":
                target = with_suffix(intent.target, picture.place.files[0], held)
                if target != intent.target:
                    target = planner.free_target(target, intent.sample)
            if (intent.length, intent.target) != (len(held), target):
                intent.length, intent.target = len(held), target
                found.append([intent.number, len(held), target])
    return found


def _count(job: Job, planner: Planner, some: Sequence[Planned], said: dict[str, Any]) -> None:
    failed = {number: (reason, text) for number, reason, text in said["failed"]}
    done = {number for first, last in said["results"] for number in range(first, last + 1)}
    for picture in some:
        for intent in picture.intents:
            if intent.number in failed:
                if intent.is_picture:
                    job.summary.leave_out(failed[intent.number][0], picture.sample, failed[intent.number][1])
                    planner.note_stays(picture.place)
                else:
                    job.summary.leave_file(f"left where it was: {failed[intent.number][1]}")
                continue
            if intent.number not in done:  # shared, and waiting for another of its pictures
                continue
            job.summary.num_done += intent.is_picture
            job.summary.num_files += 1
            job.summary.num_bytes += intent.num_bytes
            job.progress(int(intent.is_picture), intent.num_bytes)


def _make_folders(folders: Sequence[str]) -> None:
    """Make folders; one that cannot be made shows when a file is put into it."""
    for folder in folders:
        try:
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103
        except OSError as error:
            if error.errno in files.NO_ROOM:
                raise OutputError(f"cannot write {folder}: {os_error_text(error)}") from error


def _act(
    job: Job,
    shared: SharedFiles,
    intents: Sequence[Intent],
    run: str,
    data: dict[int, bytes | files.Refused],
    said: dict[str, Any],
) -> None:
    """Do them in order; what became of each goes into `said`, the journal's line, as it happens."""
    done: list[int] = []
    said.update(results=[], copies=[], failed=[])
    lost: set[str] = set()
    try:
        for intent in intents:
            if intent.is_shared and job.action != "move" and not shared.may_go(intent):
                continue  # it waits for another of its pictures
            try:
                if in_flight.stays(job.action, shared, intent):
                    raise files.Refused("missing", in_flight.stays_text(intent))
                given = data.get(intent.number)
                if isinstance(given, files.Refused):
                    raise given
                if not intent.is_picture and not intent.is_shared and intent.sample in lost:
                    raise files.Refused("missing", f"{intent.source}: its picture was left out")
                more = files.act(job.action, intent, run, given, job.summary.note_not_kept)
            except files.Refused as refused:
                said["failed"].append([intent.number, refused.reason, refused.text])
                if intent.is_picture:
                    lost.add(intent.sample)
                _note(shared, intent, is_done=False)
                continue
            done.append(intent.number)
            _note(shared, intent, is_done=True)
            if more is not None:
                said["copies"].append([intent.number, *more])
    finally:
        said["results"] = journal.ranges(sorted(done))


def _note(shared: SharedFiles, intent: Intent, *, is_done: bool) -> None:
    if intent.is_picture:
        shared.note(intent, is_done=is_done)
    elif intent.is_shared:
        shared.settle(intent)
