"""A step and a folder in, every shard done exactly once out, on this machine; interrupted anywhere, it continues."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from beholder import storage
from beholder.errors import OutputError
from beholder.notices import doing
from beholder.run.step import Progress, Step
from beholder.shards import DamagedShardError, RunFolder, Shard, ShardResult, difference, fingerprint

_CHECKERS = 8
"""Threads that read finished shards again; hashing and reading run side by side."""


@dataclass(frozen=True)
class RunReport:
    """What a run did.

    Attributes:
        results: per shard, in order, those of earlier runs included.
        num_resumed: how many shards were already done.
        damaged: names of the shards that were done again because their marker or files were damaged or gone.
        num_unchecked: shards of an older version without checksums.
    """

    results: list[ShardResult]
    num_resumed: int
    damaged: list[str]
    num_unchecked: int


def check_folder(step: Step, folder: RunFolder) -> bool:
    """Whether `folder` holds an earlier run of this step; nothing is written.

    Raises OutputError when it holds something else, a run with other options, or shards of inputs that are not named now.
    """
    if not folder.path.is_dir():
        return False
    before = folder.read_record()
    if before is not None and before.get("format") == step.provenance["format"]:
        changed = difference(before.get("options") or {}, step.options)
        if changed is not None:
            raise OutputError(
                f"{folder.path} was begun with other options: {changed}; "
                "use the same options to continue, --overwrite to start anew, or another output"
            )
        strangers = sorted(folder.finished_names() - {shard.name for shard in step.shards})
        if strangers:
            raise OutputError(
                f"{folder.path} holds results of {strangers[0]}, which is not among the inputs now; "
                "name all of them to continue, --overwrite to start anew, or another output"
            )
        return True
    if folder.holds_something():
        raise OutputError(f"{folder.path} already exists and is not a beholder run; choose another output, or remove it")
    return False


def open_run(step: Step, folder: RunFolder, *, anew: bool = False) -> str:
    """Check the folder, write the run's record, clear half-written files; the options' fingerprint. Raises OutputError.

    `anew`: a record that is there is of a run whose shards have been removed, and is replaced.
    """
    run_fingerprint = fingerprint(step.options)
    is_known = not anew and check_folder(step, folder)
    for place in (folder.path, *folder.path.glob("*/"), *folder.path.glob("*/*/")):
        storage.remove_stray_temporaries(place)
    if is_known:
        step.use_columns((folder.read_record() or {}).get("columns"))
    else:
        record = {**step.provenance, "options": dict(step.options), "columns": step.columns, "fingerprint": run_fingerprint}
        folder.write_record(record)
    return run_fingerprint


def run(
    step: Step,
    folder: RunFolder,
    progress: Progress,
    on_resume: Callable[[Mapping[str, ShardResult]], None] | None = None,
    *,
    redo: Callable[[ShardResult], bool] | None = None,
    anew: bool = False,
) -> RunReport:
    """Do every pending shard of `step` in `folder`. While one shard is written, the next one is computed.

    Args:
        step: the work.
        folder: locked by the caller.
        progress: told rows and bytes as they are done.
        on_resume: told the results that were there already, by shard name, once.
        redo: asked whether a finished shard is to be done again.
        anew: replace the record of an earlier run, whose shards have been removed.
    """
    run_fingerprint = open_run(step, folder, anew=anew)
    with doing("checking what an earlier run has done"):
        results, again, damaged = _recognised(step, folder, run_fingerprint, redo)
    _check_numbers(step, folder, results)
    for shard in again:
        folder.forget(shard, step.file_names(shard))
    num_resumed = len(results)
    num_unchecked = sum(result.is_unchecked for result in results.values())
    if num_resumed and on_resume is not None:
        on_resume(results)

    def write(shard: Shard, computed: Any) -> ShardResult:
        result = step.write(shard, computed, str(folder.path))
        return folder.mark_finished(shard, result, run_fingerprint, step.models)

    pending = [shard for shard in step.shards if shard.name not in results]
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="beholder-write") as writer:
        writing: tuple[str, Future[ShardResult]] | None = None
        with contextlib.closing(step.compute_each(pending, progress)) as computing:
            for shard, computed in computing:
                if writing is not None:
                    with doing("write"):
                        results[writing[0]] = writing[1].result()
                writing = (shard.name, writer.submit(write, shard, computed))
                del computed
        if writing is not None:
            with doing("write"):
                results[writing[0]] = writing[1].result()
    return RunReport([results[shard.name] for shard in step.shards], num_resumed, damaged, num_unchecked)


def _recognised(
    step: Step, folder: RunFolder, run_fingerprint: str, redo: Callable[[ShardResult], bool] | None
) -> tuple[dict[str, ShardResult], list[Shard], list[str]]:
    """The results of finished shards by name, the shards to be done again, and which of them are damaged."""

    def look(shard: Shard) -> ShardResult | DamagedShardError | None:
        try:
            return folder.finished(shard, run_fingerprint)
        except DamagedShardError as error:
            return error

    results: dict[str, ShardResult] = {}
    again: list[Shard] = []
    damaged: list[str] = []
    names = folder.finished_names()
    marked = [shard for shard in step.shards if shard.name in names]
    with ThreadPoolExecutor(max_workers=_CHECKERS, thread_name_prefix="beholder-check") as checkers:
        for shard, found in zip(marked, checkers.map(look, marked), strict=True):
            if isinstance(found, DamagedShardError):
                damaged.append(shard.name)
                again.append(shard)
            elif found is not None and redo is not None and redo(found):
                again.append(shard)
            elif found is not None:
                results[shard.name] = found
    return results, again, damaged


def _check_numbers(step: Step, folder: RunFolder, results: Mapping[str, ShardResult]) -> None:
    """Raise OutputError when a shard to be done would be written over the files of a finished one.

    Files of clip-retrieval's layout are numbered, and an input that was added before others moves their numbers.
    """
    owners = {name: shard for shard, result in results.items() for name in result.files}
    for shard in step.shards:
        taken = next((name for name in step.file_names(shard) if name in owners), None)
        if shard.name not in results and taken is not None:
            raise OutputError(
                f"{folder.path}: the inputs before {shard.name} are not those of the earlier run, so it would replace "
                f"{taken}, which holds {owners[taken]}; choose another output, or --overwrite to start anew"
            )
