"""The runner: every pending shard of a step is done exactly once; interrupted anywhere, it continues.

A step is work cut into shards (`Step`); the runner does not understand it. Where the inputs are not those of the runs before,
what these found is set aside first (`EARLIER_FOLDER`), so that the shards of this run can be written in its place. Shards of
the same input are then taken over whole, and the step takes over what it can of the others. What was set aside is removed at
the end.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from beholder.columns import HOW_TO_READ, PICTURES, PLANNED, SCORE_SET_FORMAT
from beholder.errors import OutputError
from beholder.io import crash, locations
from beholder.io.schemas import schema_of_json, schema_to_json
from beholder.notices import doing
from beholder.scoring.folder import RunFolder
from beholder.scoring.index import IndexedShard
from beholder.scoring.options import Share
from beholder.scoring.shards import (
    Changes,
    DamagedShardError,
    EarlierShard,
    Shard,
    ShardResult,
    difference,
    fingerprint,
)
from beholder.scoring.summary import RunSummary, StageClock, Tally
from beholder.scoring.watch import Watch


class Step(ABC):
    """Work cut into shards, each computed and then written.

    Attributes:
        shards: all, in order; fixed once the step is made.
        options: JSON-ready: what decides the result, in the words of the command line; another run must have the same.
        models: sha256 of the models in use.
        provenance: what the record should say besides the options.
        file_metadata: the same for the files of results: without what differs between processes that make the same ones.
        schema: the columns that every shard gets; a run that is continued keeps those that it was begun with.
        names_files: whether some inputs only name files, so that `is_current` says more than a shard's identity.
        beside: records that stand beside the files of shards, by their names in the folder of the run.
        tally: how far it is, while it runs.
        stages: where the time of this run goes, of other processes that do its shards as well.
        parts: what the shards are of.
        asked_elsewhere: what `waiting_for` says where other processes do the shards; None: this one does them.
    """

    shards: Sequence[Shard]
    options: Mapping[str, Any]
    models: Sequence[str]
    provenance: Mapping[str, Any]
    file_metadata: Mapping[str, Any]
    schema: pa.Schema
    names_files: bool = False
    beside: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    tally: Tally
    stages: StageClock
    parts: Sequence[Any]
    asked_elsewhere: Callable[[], str] | None = None

    def num_rows_about(self, shard: Shard) -> int:
        """How many rows a shard has; of one that only reading can tell, a guess by its bytes."""
        if shard.stop is not None:
            return shard.stop - shard.start
        part = self.parts[shard.part]
        return int(part.num_rows if part.num_rows is not None else 1 + part.num_bytes // _GUESSED_BYTES)

    @property
    def columns(self) -> Mapping[str, Any]:
        """`schema`, JSON-ready."""
        return schema_to_json(self.schema)

    def use_columns(self, recorded: Mapping[str, Any] | None) -> None:
        """Take over the `columns` that stand in the record of the run that is continued; None: an older one, without."""
        self.schema = schema_of_json(recorded) or self.schema

    def is_current(self, shard: EarlierShard) -> bool:
        """Whether a shard of the same identity was made of what is there now; files that its input only names may differ."""
        return True

    @abstractmethod
    def knows_any(self, earlier: Sequence[EarlierShard]) -> bool:
        """Whether anything that earlier runs found is of the inputs of this one."""

    @abstractmethod
    def take_earlier(self, earlier: Sequence[EarlierShard], done: Sequence[EarlierShard], *, retry: bool) -> None:
        """Be told what earlier runs of the same options found, so that what has not changed is not done again.

        Args:
            earlier: what was set aside; what stands before counts before.
            done: the finished shards of this run.
            retry: whether rows that were rejected for a passing reason are to be done again.
        """

    @abstractmethod
    def kept(self) -> Iterator[tuple[Shard, Any]]:
        """Rows that earlier runs found of inputs that have vanished, as shards of their own, each ready for `write`."""

    @abstractmethod
    def changes(self) -> Changes:
        """How the inputs differ from what `take_earlier` told of, once all shards have been computed."""

    @abstractmethod
    def waiting_for(self) -> str:
        """Asked while it runs, by any thread: the stage that the others wait for, or "" where that is not known yet."""

    @abstractmethod
    def compute_each(self, shards: Iterable[Shard]) -> Generator[tuple[Shard, Any], None, None]:
        """Do the work of these shards, in order; nothing is written. A step may begin the next shard before one is taken."""

    def staying_open(self) -> contextlib.AbstractContextManager[None]:
        """Keep what `compute_each` opens from one call of it to the next."""
        return contextlib.nullcontext()

    def noted(self, computed: Any) -> Any:
        """What was seen of earlier runs' rows while a shard was computed, for `note`; it can be pickled."""
        return None

    def note(self, noted: Any) -> None:
        """Take in what was seen of earlier runs' rows in a shard that is done, here or by another process."""
        assert noted is None

    @abstractmethod
    def file_names(self, shard: Shard) -> Sequence[str]:
        """Every file that `write` may make for the shard, relative to the run's folder; each passes `shards.is_shard_file`."""

    @abstractmethod
    def write(self, shard: Shard, computed: Any, folder: str) -> ShardResult:
        """Write the shard's files below `folder`, each whole or not at all."""


_GUESSED_BYTES = 100_000
"""Of a picture, in an archive of which no more than its size is known."""
_OF_INPUTS = ("columns", PICTURES, PLANNED)
"""What a record says that depends on the inputs."""


def planned_of(record: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Shards and rows that a run's record says it has in all; None for what it does not say, or says by no count."""
    planned = record.get(PLANNED)
    said = [planned.get(name) for name in ("shards", "rows")] if isinstance(planned, Mapping) else [None, None]
    num_shards, num_rows = (one if type(one) is int and 0 <= one < 1 << 63 else None for one in said)
    return num_shards, num_rows


OnDone = Callable[[Shard, IndexedShard, Any], None]
"""Told of a shard that is done: the shard, what its marker says and how its files look, `Step.noted`."""
DoPending = Callable[[Sequence[Shard], list[EarlierShard], list[EarlierShard], OnDone], None]
"""Does shards, given what was set aside and which shards are done; tells of each."""


class OtherOptionsError(OutputError):
    """A run was begun with other options.

    Attributes:
        option: the first one that differs.
    """

    def __init__(self, text: str, option: str) -> None:
        super().__init__(text)
        self.option = option


class OtherInputsError(OutputError):
    """A folder holds results, and none of them is of the inputs."""


@dataclass
class _Before:
    """What is there of the runs before this one.

    Attributes:
        done: shards that stay as they are, by name.
        stale: finished shards of other inputs, or of none of the present ones.
        again: finished shards that are to be done again because somebody asked for it.
        damaged: names of the shards that are damaged.
    """

    done: dict[str, EarlierShard] = field(default_factory=dict)
    stale: list[EarlierShard] = field(default_factory=list)
    again: list[EarlierShard] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def check_folder(step: Step, folder: RunFolder) -> bool:
    """Whether `folder` holds an earlier run of this step; nothing is written.

    Raises OutputError when it holds something else, or a run with other options.
    """
    before = folder.record_or_nothing()
    if before is not None and before.get("format") == step.provenance["format"]:
        if "result" in before:
            raise OutputError(
                f"{folder.root} was finished by an earlier version, which uploaded it and left nothing there to continue from; "
                "use --overwrite to make it again, or another output"
            )
        changed = difference(before.get("options") or {}, step.options)
        if changed is not None:
            raise OtherOptionsError(
                f"{folder.root} was begun with other options: {changed}; "
                "use the same options to continue, --overwrite to start anew, or another output",
                changed.partition(" was ")[0],
            )
        return True
    if before is not None:
        raise folder.not_a_run()
    return False


@dataclass(kw_only=True)
class Run:
    """The shards of a step on their way into a folder. While one shard is written, the next one is computed.

    Attributes:
        step: the work.
        folder: locked by the caller.
        summary: told what was damaged, has changed, vanished, or was kept.
        on_resume: told (shards, rows) that were done already, once, if there are any.
        watch: told what happens to each shard.
        do_pending: has the pending shards done elsewhere; None: they are done here.
    """

    step: Step
    folder: RunFolder
    summary: RunSummary
    on_resume: Callable[[int, int], None]
    watch: Watch
    do_pending: DoPending | None

    def __post_init__(self) -> None:
        """Know the run by its options."""
        self._fingerprint = fingerprint(self.step.options)

    def do_all(self, *, redo: Callable[[ShardResult], bool] | None, anew: bool, keep_vanished: bool) -> dict[str, ShardResult]:
        """Do every pending shard.

        Args:
            redo: asked whether a finished shard is to be done again.
            anew: replace the record of an earlier run, whose shards have been removed.
            keep_vanished: keep rows of earlier runs whose inputs have vanished, behind the others.

        Returns:
            The results of all shards in order, those of earlier runs included, by name; behind those of the step the ones with
            rows that were kept though their inputs have vanished.

        Raises:
            OutputError: other options, damage, ...
            OtherInputsError: nothing that is there is of the inputs.
        """
        step, folder, summary = self.step, self.folder, self.summary
        is_known = not anew and check_folder(step, folder)
        folder.remove_strays()
        record = self._record()
        if not is_known:
            folder.remove_set_aside()
            folder.write_record(record)
            crash.reach("run recorded")
        with doing("checking what an earlier run has done"):
            before = self._recognised(step.shards, redo)
            aside = self._set_aside_before()
        if is_known:
            aside = [*self._make_room(before, aside, record), *aside]
        if aside:
            with doing("reusing what an earlier run has done"):
                before.done |= self._adopt(aside, before.done, redo)
                step.take_earlier(aside, list(before.done.values()), retry=redo is not None)
        summary.num_unchecked = sum(shard.result.is_unchecked for shard in before.done.values())
        results = self._resume(step.shards, before)
        pending = [shard for shard in step.shards if shard.name not in results]
        self._do(pending, results, aside, list(before.done.values()))
        if self.do_pending is not None:
            folder.look()
            folder.remove_strays()  # of workers that died
        in_order = {shard.name: results[shard.name] for shard in step.shards}
        for shard, computed in step.kept() if keep_vanished else ():
            with doing("keeping rows whose inputs have vanished"):
                done = folder.write_shard(step, shard, computed, self._fingerprint)
                folder.note(done)
                in_order[shard.name] = done.shard.result
            summary.num_kept += in_order[shard.name].num_read
        summary.num_changed, summary.num_vanished, summary.num_retried = step.changes()
        crash.reach("shards all done")
        folder.remove_set_aside()
        crash.reach("set aside removed")
        return in_order

    def do_share(self, share: Share) -> dict[str, ShardResult]:
        """Do the pending shards of one share, while others do other shares; nothing of theirs is touched.

        A share is every N-th shard by name, so it is the same for the same inputs. Results of the share alone.

        Raises OutputError as `do_all`, and where inputs have changed since the run began, which needs a run of the whole.
        """
        step, folder = self.step, self.folder
        if not check_folder(step, folder):
            folder.begin_record(self._record())
            check_folder(step, folder)  # another part may have been faster, with other options
        step.use_columns((folder.read_record() or {}).get("columns"))
        ours = sorted(step.shards, key=lambda shard: shard.name)[share.number :: share.count]
        with doing("checking what an earlier run has done"):
            before = self._recognised(ours, None)
            if before.stale or folder.places_aside():
                raise OutputError(
                    f"{folder.root}: the inputs are not those that the run was begun with; run the same command once without "
                    "--part, which takes over what has not changed"
                )
        if all(shard.stop is not None for shard in ours):
            step.tally.tell_total(sum(map(step.num_rows_about, ours)))
        results = self._resume(ours, before)
        pending = [shard for shard in sorted(ours, key=lambda shard: shard.number) if shard.name not in results]
        self._do(pending, results, [], [])
        return results

    def _record(self) -> dict[str, Any]:
        """What the record of the run says."""
        step = self.step
        hint = HOW_TO_READ if step.provenance["format"] == SCORE_SET_FORMAT else {}
        rows = None if any(shard.stop is None for shard in step.shards) else sum(map(step.num_rows_about, step.shards))
        return {
            **step.provenance,
            **hint,
            "options": dict(step.options),
            "columns": step.columns,
            "fingerprint": self._fingerprint,
            PLANNED: {"shards": len(step.shards), "rows": rows},
        }

    def _resume(self, shards: Sequence[Shard], before: _Before) -> dict[str, ShardResult]:
        """Tell everybody what earlier runs have done of these shards; the results of that by name."""
        results = {name: shard.result for name, shard in before.done.items()}
        num_rows = sum(result.num_read for result in results.values())
        self.summary.damaged = before.damaged
        if results:
            self.step.tally.resume(results)
            self.on_resume(len(results), num_rows)
        self.watch.begun(self.summary, shards, results, num_rows)
        for name in before.damaged:
            self.watch.shard_damaged(name)
        return results

    def _do(
        self,
        pending: Sequence[Shard],
        results: dict[str, ShardResult],
        aside: list[EarlierShard],
        done: list[EarlierShard],
    ) -> None:
        """Do shards, here or elsewhere; their results are added."""

        def take(shard: Shard, found: IndexedShard, noted: Any) -> None:
            self.folder.note(found)
            results[shard.name] = found.shard.result
            self.step.note(noted)
            self.watch.shard_done(shard, found.shard.result)

        if self.do_pending is None:
            do_each(self.step, self.folder, self.watch.told_of(iter(pending)), self._fingerprint, take)
        elif pending:
            self.do_pending(pending, aside, done, take)

    def _recognised(self, shards: Sequence[Shard], redo: Callable[[ShardResult], bool] | None) -> _Before:
        """What is there of earlier runs; where `shards` are not all of the step's, of these alone."""
        step, folder = self.step, self.folder
        planned = {shard.name: shard for shard in shards}
        marked = folder.finished_names()
        others = sorted(marked - planned.keys()) if len(shards) == len(step.shards) else []
        names = [*(name for name in planned if name in marked), *others]
        before = _Before()
        for name, found in zip(names, folder.finished_shards(names, self._fingerprint), strict=True):
            shard = planned.get(name)
            if found is None or isinstance(found, DamagedShardError):
                before.damaged += [] if found is None else [name]
                folder.forget(name, step.file_names(shard) if shard is not None else folder.named_files(name))
            elif shard is None or difference(found.identity, shard.identity) or not step.is_current(found):
                before.stale.append(found)
            elif redo is not None and redo(found.result):
                before.again.append(found)
            elif not set(found.result.files) <= set(step.file_names(shard)):  # numbered, and others come before it now
                before.stale.append(found)
            else:
                before.done[name] = found
        return before

    def _make_room(self, before: _Before, aside: Sequence[EarlierShard], record: Mapping[str, Any]) -> list[EarlierShard]:
        """Set aside the finished shards that are not those of the present inputs, and let the record be of these.

        Returns:
            What was set aside.

        Raises OutputError when nothing that is there is of the present inputs.
        """
        step, folder = self.step, self.folder
        old = folder.read_record() or {}
        if old.get("columns", step.columns) != step.columns:
            before.stale += before.done.values()
            before.done.clear()
        others = [*before.stale, *aside]
        if others and not before.done and not before.again and not step.knows_any(others):
            raise OtherInputsError(
                f"{folder.root} holds results of {others[0].name}, and none of them is of the inputs now; "
                "use --overwrite to start anew, or another output"
            )
        moved = [*before.stale, *before.again]
        if moved:
            place = folder.new_place_aside()
            with doing("setting aside what an earlier run has done"):
                moved = folder.set_aside(moved, place)
        crash.reach("room made")
        if any(old.get(key) != record.get(key) for key in _OF_INPUTS):
            folder.write_record(record)
        return moved

    def _set_aside_before(self) -> list[EarlierShard]:
        """Whole shards that were set aside, those of the last time first."""
        return [
            found
            for place in self.folder.places_aside()
            for found in place.finished_shards(sorted(place.finished_names(), key=locations.natural_key), self._fingerprint)
            if isinstance(found, EarlierShard)
        ]

    def _adopt(
        self,
        aside: Sequence[EarlierShard],
        done: Mapping[str, EarlierShard],
        redo: Callable[[ShardResult], bool] | None,
    ) -> dict[str, EarlierShard]:
        """Take over whole shards of the present inputs that were set aside and are not `done`."""
        step, folder = self.step, self.folder
        known = {earlier.name: earlier for earlier in reversed(aside)}
        fitting = {
            place: (RunFolder(place).read_record() or {}).get("columns") == step.columns
            for place in {earlier.folder for earlier in aside}
        }
        adopted = {}
        for shard in step.shards:
            found = known.get(shard.name)
            if found is None or shard.name in done or difference(found.identity, shard.identity):
                continue
            if redo is not None and redo(found.result):
                continue
            if fitting[found.folder] and step.is_current(found):
                done_again = folder.adopt(found, shard, step.file_names(shard), self._fingerprint, step.models)
                folder.note(done_again)
                adopted[shard.name] = done_again.shard
                crash.reach("shard adopted")
        return adopted


def do_each(step: Step, folder: RunFolder, shards: Iterable[Shard], run_fingerprint: str, on_done: OnDone) -> None:
    """Compute and write shards as they come. While one is written, the next one is computed.

    `on_done` is called by one thread at a time.
    """

    def write(shard: Shard, computed: Any) -> None:
        with step.stages.beside("write"):
            done = folder.write_shard(step, shard, computed, run_fingerprint)
        on_done(shard, done, step.noted(computed))

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="beholder-write") as writer:
        writing: Future[None] | None = None
        with contextlib.closing(step.compute_each(shards)) as computing:
            for shard, computed in computing:
                if writing is not None:
                    with doing("write"):
                        writing.result()
                writing = writer.submit(write, shard, computed)
                del computed
        if writing is not None:
            with doing("write"):
                writing.result()
