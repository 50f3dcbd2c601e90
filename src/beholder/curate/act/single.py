"""Copies, links and moves of single files: planned, journaled and done some pictures at a time, or only looked at."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from beholder import columns
from beholder.curate.act import files, journal
from beholder.curate.act.files import Intent, Made, Refused
from beholder.curate.act.journal import Journal, JournalState
from beholder.curate.act.layout import with_suffix
from beholder.curate.act.messages import and_more, shown_path
from beholder.curate.act.plan import Job, Planned, Planner, Say, fetch, few, relocated
from beholder.errors import OutputError, os_error_text
from beholder.io import crash
from beholder.locate.archives import missing_place

_BATCH = 256
"""Pictures that are planned together."""
_EXAMPLES = 5


class NotYet(Exception):  # noqa: N818 (an answer, told by an exception)
    """A file is still to be done."""


class Act:
    """An act that is done; without a journal to write into it is only looked at.

    `state` is kept as a reader of the journal would have it after each line, and the summary is made of it.
    """

    def __init__(self, job: Job, log: Journal | None, state: JournalState) -> None:
        self.job, self.log, self.state = job, log, state
        self.planner = self._planner()
        self.is_retry = state.is_finished
        self._data: dict[int, bytes | Refused] = {}

    @classmethod
    def apply(cls, job: Job) -> None:
        """Do it, or go on with it. Raises OutputError when the disk is full; the same again continues."""
        with job.open_journal() as (log, state):
            cls(job, log, state).run()

    def _planner(self) -> Planner:
        return Planner(self.job, self.state)

    def _plan(self, rows: pa.Table) -> list[Planned]:
        """What is to be done with the pictures of some rows."""
        return self.planner.plan(self.job.located(rows, with_belongings=self.job.options.sidecars))

    def run(self) -> None:
        """All that is left to do."""
        job, state = self.job, self.state
        if job.earlier is not None:  # what a killed run had in flight
            for some in few(_pictures(state.unsettled.values())):
                self._go_through(some, self._finish)
            job.summary.count_before(state)
        if state.unsettled and self.log is not None:
            _make_folders(state.folders)
        self._do_all(_pictures(state.unsettled.values()))
        for rows in self._batches():
            planned = self._plan(rows)
            self._note_planned(planned, 0 if self.is_retry else rows.num_rows)
            for some in few(planned):
                self._do(some)
        self._give_up()
        left = self._words("left where it is")
        for path in self.planner.left_with_others:
            job.summary.leave_file(f"{left}: {path}, as a picture stays to which it belongs, too")
        job.summary.count_done(state)
        job.summary.leave_out_all(state)
        if self.log is not None and (not self.is_retry or job.summary.num_done > job.summary.num_before):
            self.log.write(journal.end_line())

    def _words(self, text: str) -> str:
        return text if self.log is not None else f"would be {text}"

    def _batches(self) -> Iterator[pa.Table]:
        """What is left to do: all that was not planned yet; of a finished act what was left out."""
        kept = self.job.kept
        if not self.is_retry:
            for at in range(self.state.num_planned, kept.num_rows, _BATCH):
                yield kept.slice(at, _BATCH)
            return
        left = set(self.state.left_out.reasons)
        for at in range(0, kept.num_rows if left else 0, 1 << 16):
            rows = kept.slice(at, 1 << 16)
            rows = rows.filter(pa.array([name in left for name in rows.column(columns.SAMPLE).to_pylist()]))
            for start in range(0, rows.num_rows, _BATCH):
                yield rows.slice(start, _BATCH)

    def _note_planned(self, planned: Sequence[Planned], num_more: int) -> None:
        """Write down what is about to be done with some pictures, `num_more` of which were not looked at before."""
        state, folders = self.state, self.planner.new_folders
        state.num_planned += num_more
        intents = [intent for picture in planned for intent in picture.intents]
        lines: list[dict[str, Any]] = [{"folder": folder} for folder in folders]
        lines += [intent.to_json() for intent in intents]
        for intent in intents:
            state.plan(intent)
        for picture in planned:
            if (refused := picture.refused) is not None:
                state.left_out.add(picture.sample, refused.reason, refused.text)
                lines.append({"skip": picture.sample, "reason": refused.reason, "text": refused.text})
        if self.log is None or (self.is_retry and not intents):
            return  # the journal says already that they were left out
        self.log.write(*lines, {"planned": state.num_planned})
        _make_folders(folders)
        self.planner.new_folders = []

    def _do_all(self, pictures: Sequence[Planned]) -> None:
        """Do what is left of pictures that were planned before."""
        for some in relocated(self.job, pictures):
            self._do(some)

    def _do(self, some: Sequence[Planned]) -> None:
        """Do what is planned of some pictures, and write down what became of it."""
        assert self.log is not None
        self._data = fetch(self.job.finder, some)
        held = {number: data for number, data in self._data.items() if isinstance(data, bytes)}
        if held:  # by this the copies of a killed run are known
            sums = [[number, hashlib.sha256(data).hexdigest()] for number, data in held.items()]
            fetched = self._fit(some, held)
            self.log.write({"sums": sums} | ({"fetched": fetched} if fetched else {}))
        self._go_through(some, self._begin)
        self._do_all(_pictures(self.state.shared.ready()))

    def _fit(self, some: Sequence[Planned], held: dict[int, bytes]) -> list[list[Any]]:
        """Give what was fetched its length, and a picture of a server the suffix of its format where its name has none.

        Returns:
            [number, length, target] of the intents that are changed by it.
        """
        found: list[list[Any]] = []
        fetched = [(picture, intent) for picture in some for intent in picture.intents if intent.number in held]
        for picture, intent in fetched:
            data, target = held[intent.number], intent.target
            if intent.is_picture and picture.place.kind == "url":
                target = with_suffix(intent.target, picture.place.files[0], data)
                if target != intent.target:
                    target = self.planner.free_target(target, intent.sample)
            if (intent.length, intent.target) != (len(data), target):
                intent.length, intent.target = len(data), target
                found.append([intent.number, len(data), target])
        return found

    def _go_through(self, some: Sequence[Planned], step: Callable[[Intent], Made]) -> None:
        """Take a step with each file in order; what became of it is written down at the end, however that comes."""
        done: list[int] = []
        copies: list[list[Any]] = []
        failed: list[list[Any]] = []
        try:
            for picture in some:
                for intent in picture.intents:
                    try:
                        made = step(intent)
                    except NotYet:
                        continue
                    except Refused as refused:
                        failed.append([intent.number, refused.reason, refused.text])
                        self.state.failed(intent, refused.reason, refused.text)
                        if intent.is_picture:
                            self.planner.note_stays(picture.place)
                        else:
                            self.job.summary.leave_file(f"{self._words('left where it was')}: {refused.text}")
                        continue
                    done.append(intent.number)
                    self.state.done(intent)
                    if made is not None:
                        copies.append([intent.number, *made])
                    self.job.progress(int(intent.is_picture), intent.num_bytes)
        finally:
            if self.log is not None and (done or failed):
                with contextlib.suppress(OutputError):  # full disks: what is not said will be found out
                    self.log.write({"results": journal.ranges(done), "copies": copies, "failed": failed}, sync=False)

    def _begin(self, intent: Intent) -> Made:
        """Make or move a file, where no other decides that it is not to be done. Raises Refused, NotYet."""
        if self.state.shared.must_wait(intent):  # for another of its pictures
            raise NotYet
        self._check_stays(intent)
        self._check_company(intent)
        return self._act(intent)

    def _act(self, intent: Intent) -> Made:
        data = self._data.get(intent.number)
        if isinstance(data, Refused):
            raise data
        made = self._make(intent, data)
        crash.reach("file done")
        return made

    def _make(self, intent: Intent, data: bytes | None) -> Made:
        """Make or move a file; `data`: its bytes, where it has no place of its own. Raises Refused, OutputError."""
        return files.act(self.job.action, intent, self.state.run, data, self.job.summary.note_not_kept)

    def _finish(self, intent: Intent) -> Made:
        """Bring to its end what a killed run had begun with a file. Raises Refused, NotYet."""
        action, sha256 = self.job.action, self.state.sums.get(intent.number)
        self._check_company(intent)
        if not files.is_there(intent.target):
            if intent.size >= 0:
                files.check_source(intent, follow=action != "move")
            self._check_stays(intent)
            raise NotYet
        if self.log is None:
            return files.made_before(action, intent, sha256)
        return files.finish(action, intent, self.state.run, sha256)

    def _check_company(self, intent: Intent) -> None:
        """Raise Refused for what belongs to a picture alone that was left out."""
        if not intent.is_picture and not intent.is_shared and intent.sample in self.state.left_out.reasons:
            raise Refused("missing", f"{intent.source}: its picture was left out")

    def _check_stays(self, intent: Intent) -> None:
        """Raise Refused where a file is not to be moved, as a picture stays that it belongs to."""
        if self.state.shared.must_stay(intent):
            raise Refused("missing", f"{intent.source}, as a picture stays to which it belongs, too")

    def _give_up(self) -> None:
        """Leave out the files that pictures share of which none was done."""
        done = "linked" if self.job.action.endswith("link") else "copied"
        failed = []
        for intent in self.state.shared.waiting:
            text = f"{intent.source}: none of the pictures that it belongs to was {done}"
            failed.append([intent.number, "missing", text])
            self.state.failed(intent, "missing", text)
            self.job.summary.leave_file(f"{self._words('left where it is')}: {text}")
        if self.log is not None and failed:
            self.log.write({"results": [], "failed": failed})


class Rehearsal(Act):
    """A dry run: as if every file could be done."""

    def __init__(self, job: Job, say: Say) -> None:
        super().__init__(job, None, job.state)
        self._say = say
        self._num_shown = self._num_needed = 0
        self._device = os.stat(files.existing_part(job.target)).st_dev  # noqa: PTH116

    @classmethod
    def rehearse(cls, job: Job, say: Say) -> None:
        """Plan everything, touch nothing; the first few files are named."""
        cls(job, say).run()

    def run(self) -> None:
        """All that would be left to do; then how many more files there are, and whether the disk has room for all."""
        super().run()
        if (more := self.job.summary.num_done - self.job.summary.num_before - self._num_shown) > 0:
            self._say(f"  {and_more(more)}")
        self.job.note_room(self._num_needed)

    def _do_all(self, pictures: Sequence[Planned]) -> None:
        self.planner.expect(pictures)
        self._do(pictures)

    def _do(self, some: Sequence[Planned]) -> None:
        self._go_through(some, self._begin)
        if ready := self.state.shared.ready():
            self._do(_pictures(ready))

    def _act(self, intent: Intent) -> Made:
        summary = self.job.summary
        summary.num_unsized += intent.size < 0 and intent.length is None
        if self.job.action == "copy" or (self.job.action == "move" and self._goes_far(intent)):
            self._num_needed += intent.num_bytes
        if intent.is_picture and self._num_shown < _EXAMPLES:
            self._num_shown += 1
            self._say(f"  {self._text(intent)}")
        return None

    def _text(self, intent: Intent) -> str:
        """What would be done with a picture, for people."""
        return f"{shown_path(intent.source)} -> {shown_path(intent.target)}"

    def _goes_far(self, intent: Intent) -> bool:
        """Whether a file is on another disk than the target; what it would not keep is counted."""
        try:
            status = os.lstat(intent.source)
        except OSError:
            return False
        if status.st_dev == self._device:
            return False
        if status.st_nlink > 1:
            self.job.summary.note_not_kept("links")
            self.job.summary.most_links = max(self.job.summary.most_links, status.st_nlink)
        if os.geteuid() not in (0, status.st_uid):
            self.job.summary.note_not_kept("owner")
        return True


def _pictures(intents: Iterable[Intent]) -> list[Planned]:
    """Files that were planned before, by picture."""
    found: list[Planned] = []
    for intent in intents:
        if intent.is_picture or not found or found[-1].sample != intent.sample:
            found.append(Planned(intent.sample, missing_place(intent.sample, "")))
        found[-1].intents.append(intent)
    return found


def _make_folders(folders: Sequence[str]) -> None:
    """Make folders; one that cannot be made shows when a file is put into it."""
    for folder in folders:
        try:
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103
        except OSError as error:
            if error.errno in files.NO_ROOM:
                raise OutputError(f"cannot write {folder}: {os_error_text(error)}") from error
