"""A job of copies, links or moves in; done piece by piece, each journaled before it is done, or only planned."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from beholder import columns, storage
from beholder.curation.actions import files, journal
from beholder.curation.actions.entries import Intent, Told
from beholder.curation.actions.journal import Journal
from beholder.curation.actions.plan import Planned, Planner
from beholder.curation.actions.run import Job, Say, free_bytes, take_over
from beholder.curation.actions.telling import bytes_text, shown_path
from beholder.errors import OutputError, os_error_text
from beholder.images.fetch_bytes import ReadLimits, read_bytes
from beholder.images.picture import PictureError

_BATCH = 256
_BATCH_READ = 32
"""Pictures in a batch; fewer where their bytes are held in memory meanwhile."""
_EXAMPLES = 5


def rehearse(job: Job, say: Say) -> None:
    """Plan everything, touch nothing; the first few files are named."""
    planner, summary = _planner(job), job.summary
    shown = 0
    needed = 0
    for batch in _batches(job):
        for planned in _planned(job, planner, batch):
            if not planned.intents:
                summary.leave_out(planned.reason or "", planned.sample, planned.text)
                continue
            num_bytes = sum(intent.num_bytes for intent in planned.intents)
            summary.num_done += 1
            summary.num_files += len(planned.intents)
            summary.num_bytes += num_bytes
            job.progress(1, num_bytes)
            if job.action == "copy" or (job.action == "move" and _is_elsewhere(planned.intents[0], job.target)):
                needed += num_bytes
            if shown < _EXAMPLES:
                shown += 1
                say(f"  {shown_path(planned.intents[0].source)} -> {shown_path(planned.intents[0].target)}")
    if (more := summary.num_done - summary.num_before - shown) > 0:
        say(f"  ... and {more:,} more")
    if needed > (free := free_bytes(job.target)):
        summary.notes.append(f"the disk of {job.target} has {bytes_text(free)} free, {bytes_text(needed)} are needed")


def _is_elsewhere(intent: Intent, target: str) -> bool:
    """Whether a file is on another disk than the target."""
    at = target
    while not os.path.lexists(at):
        at = os.path.dirname(at)  # noqa: PTH120
    with contextlib.suppress(OSError):
        return os.lstat(intent.source).st_dev != os.stat(at).st_dev  # noqa: PTH116
    return False


def _planner(job: Job) -> Planner:
    roots = {
        number: os.path.realpath(storage.local_path(path)) for number, path in job.sources.folders() if storage.is_local(path)
    }
    return Planner(job.action, job.target, job.layout, roots, job.told.num_intents if job.told is not None else 0)


def _batches(job: Job) -> Iterator[pa.Table]:
    """What is left to do: all that was not planned yet; of a finished act what was left out."""
    told, summary = job.told, job.summary
    if told is not None:
        take_over(job, told)
        if told.is_finished:
            again = job.kept.filter(pa.array(told.left_out.among(job.kept.column(columns.SAMPLE))))
            for at in range(0, again.num_rows, _BATCH):
                yield again.slice(at, _BATCH)
            return
        told.left_out.tell(summary)
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
        _resettle(job, log, told)
        _go(replace(job, told=told), log, str(told.header.get("id")))


def _resettle(job: Job, log: Journal, told: Told) -> None:
    """Bring to an end what a killed run had begun."""
    left = list(told.unsettled.values())
    run = str(told.header.get("id"))
    for at in range(0, len(left), _BATCH):
        some = left[at : at + _BATCH]
        _make_folders(told.folders)
        said = _act(job, some, run, _bytes_of(job, some), again=True)
        log.write(said)
        for _ in told.take(said):
            pass


def _go(job: Job, log: Journal, run: str) -> None:
    planner, summary = _planner(job), job.summary
    num_planned = job.told.num_planned if job.told is not None else 0
    is_retry = job.told is not None and job.told.is_finished
    is_new = not is_retry
    for batch in _batches(job):
        is_new = True
        planned = _planned(job, planner, batch)
        intents = [intent for picture in planned for intent in picture.intents]
        num_planned += 0 if is_retry else batch.num_rows
        lines: list[dict[str, Any]] = [{"folder": folder} for folder in planner.new_folders]
        lines += [intent.to_json() for intent in intents]
        for picture in planned:
            if not picture.intents:
                summary.leave_out(picture.reason or "", picture.sample, picture.text)
                lines.append({"skip": picture.sample, "reason": picture.reason, "text": picture.text})
        log.write(*lines, {"planned": num_planned})
        _make_folders(planner.new_folders)
        planner.new_folders = []
        for some in _pieces(planned):
            held = {i.number: planned_ for planned_ in some for i in planned_.intents if i.part is not None}
            data = _read(job, list({id(p): p for p in held.values()}.values()))
            if sums := [[number, hashlib.sha256(held).hexdigest()] for number, held in data.items() if isinstance(held, bytes)]:
                log.write({"sums": sums})  # an undo of a killed run knows these copies by them
            said: dict[str, Any] = {}
            try:
                _act(job, [i for p in some for i in p.intents], run, data, said=said)
            finally:
                with contextlib.suppress(OutputError):  # full disks: what is not said will be found out
                    log.write(said, sync=False)
            _count(job, some, said)
    if is_new:
        log.write(journal.end())


def _pieces(planned: Sequence[Planned]) -> Iterator[Sequence[Planned]]:
    """Few pictures at a time where their bytes have to be read along."""
    step = _BATCH_READ if any(i.part is not None for p in planned for i in p.intents) else len(planned) or 1
    for at in range(0, len(planned), step):
        yield planned[at : at + step]


def _count(job: Job, some: Sequence[Planned], said: dict[str, Any]) -> None:
    failed = {number: (reason, text) for number, reason, text in said["failed"]}
    for picture in some:
        for i, intent in enumerate(picture.intents):
            if intent.number in failed:
                if i == 0:
                    job.summary.leave_out(failed[intent.number][0], picture.sample, failed[intent.number][1])
                else:
                    job.summary.leave_file(f"left where it was: {failed[intent.number][1]}")
                continue
            job.summary.num_done += i == 0
            job.summary.num_files += 1
            job.summary.num_bytes += intent.num_bytes
            job.progress(int(i == 0), intent.num_bytes)


def _make_folders(folders: Sequence[str]) -> None:
    """Make folders; one that cannot be made shows when a file is put into it."""
    for folder in folders:
        try:
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103
        except OSError as error:
            if error.errno in files.NO_ROOM:
                raise OutputError(f"cannot write {folder}: {os_error_text(error)}") from error


def _read(job: Job, pictures: Sequence[Planned]) -> dict[int, bytes | files.Refused]:
    """Bytes of the files that have no place of their own, by intent."""
    contents = job.finder.contents([picture.place for picture in pictures])
    found: dict[int, bytes | files.Refused] = {}
    for picture, refs in zip(pictures, contents, strict=True):
        for intent in picture.intents:
            if intent.part is not None:
                found[intent.number] = _one(refs[intent.part][1])
    return found


def _one(ref: Any) -> bytes | files.Refused:
    try:
        return read_bytes(ref, ReadLimits())
    except PictureError as error:
        return files.Refused("missing" if str(error.reason) == "missing" else "unreadable", str(error))


def _bytes_of(job: Job, intents: Sequence[Intent]) -> dict[int, bytes | files.Refused]:
    """The same for intents that a journal has kept."""
    wanted = [intent for intent in intents if intent.part is not None]
    places = job.finder.locate([intent.sample for intent in wanted], with_belongings=job.options.sidecars)
    found: dict[int, bytes | files.Refused] = {}
    for intent, refs in zip(wanted, job.finder.contents(places), strict=True):
        assert intent.part is not None
        if intent.part < len(refs):
            found[intent.number] = _one(refs[intent.part][1])
        else:
            found[intent.number] = files.Refused("missing", f"{intent.sample} is not there any more")
    return found


def _act(
    job: Job, intents: Sequence[Intent], run: str, data: dict[int, bytes | files.Refused], *, again: bool = False,
    said: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Do them in order; what became of each goes into `said`, the journal's line, as it happens."""
    said = {} if said is None else said
    done: list[int] = []
    said.update(results=[], copies=[], failed=[])
    lost: set[str] = set()
    try:
        for intent in intents:
            try:
                given = data.get(intent.number)
                if isinstance(given, files.Refused):
                    raise given
                if not intent.is_picture and intent.sample in lost:
                    raise files.Refused("missing", f"{intent.source}: its picture was left out")
                doing = files.recover if again else files.act
                more = doing(job.action, intent, run, given)
            except files.Refused as refused:
                said["failed"].append([intent.number, refused.reason, refused.text])
                if intent.is_picture:
                    lost.add(intent.sample)
                continue
            done.append(intent.number)
            if more is not None:
                said["copies"].append([intent.number, *more])
    finally:
        said["results"] = journal.ranges(done)
    return said
