"""Does a planned job: from scratch, continued, brought up to date, or not at all where it is finished."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from beholder.columns import MESSAGE, PASSING_REASONS, SAMPLE
from beholder.errors import BeholderError, InputError, OutputError
from beholder.io import storage
from beholder.notices import doing
from beholder.scoreset.rejects import count_reasons, find_rejects
from beholder.scoring.options import JobOptions, Share
from beholder.scoring.output import RunOutput
from beholder.scoring.protocol import Job, Recipe
from beholder.scoring.reopen import FinishedResult
from beholder.scoring.run import OnDone, OtherInputsError, Run, Step, check_folder
from beholder.scoring.shards import EarlierShard, Shard, ShardResult, fingerprint
from beholder.scoring.summary import RunSummary
from beholder.scoring.watch import Watch

NUM_EXAMPLES = 3
"""Rejects of each reason that a summary names."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A checked job, before anything is written.

    Attributes:
        step: the work.
        out: where its result goes.
        inputs: files that are read, which an output may not replace.
        summary: what is told of it: what is counted, the heads, warnings; the rest is filled in as it is done.
        recipe: for other processes that do its shards.
    """

    step: Step
    out: RunOutput
    inputs: list[str]
    summary: RunSummary
    recipe: Recipe


HandOut = Callable[[Step, Job, Sequence[Shard], OnDone], None]
"""Has shards of a job done by other processes (`scoring.hand_out.HandOut.do`)."""


def execute(
    plan: Plan,
    options: JobOptions,
    *,
    on_plan: Callable[[Plan], None],
    on_progress: Callable[[int, int], None],
    on_resume: Callable[[int, int], None],
    hand_out: HandOut | None = None,
    watch: Watch | None = None,
) -> RunSummary:
    """Do the job; continue where an interrupted run of the same options stopped.

    Args:
        plan: the job.
        options: say whether to start anew, and whether to do shards with passing rejects again.
        on_plan: told what will be done, once, before it begins.
        on_progress: told (rows, bytes read) as they are done, from one thread.
        on_resume: told (shards, rows) that an earlier run had done.
        hand_out: has the shards done elsewhere; None: they are done here.
        watch: told what happens.

    Raises:
        BeholderError: an output in the way, a full disk, inputs that changed, ...
    """
    step, out, summary = plan.step, plan.out, plan.summary
    watch = watch or Watch()
    watch.planned(step, out.out, out.work, plan.inputs, _device_of(plan))
    out.refuse_inputs(plan.inputs)
    if summary.embeddings is not None:
        out.check_place_for_embeddings()
    identity = fingerprint({"inputs": [shard.identity | {"start": shard.start} for shard in step.shards]})
    if options.overwrite:
        out.clear()
    on_plan(plan)
    folder, earlier = out.folder, None
    if not options.overwrite:
        out.check_place()
        found = FinishedResult(out)
        earlier = found.earlier(step, identity)
        if earlier is not None:
            if _is_all_done(found, earlier, step, options):
                return _as_it_is(plan, options, found, earlier, on_resume, watch)
            _check_may_go_on(plan, options, found, earlier)
        check_folder(step, folder)
        if options.part is not None and FinishedResult(out).needs_opening(step):
            raise _needs_whole(out)
    step.tally.on_progress = on_progress
    do_pending = None if hand_out is None else partial(_do_elsewhere, plan, options, hand_out)
    begun = Run(step=step, folder=folder, summary=summary, on_resume=on_resume, watch=watch, do_pending=do_pending)
    share = options.share()
    if share is not None:
        return _execute_share(plan, share, identity, begun)
    return _execute_whole(plan, options, identity, earlier, begun)


def _is_all_done(found: FinishedResult, earlier: ShardResult, step: Step, options: JobOptions) -> bool:
    """Whether a finished result is what was asked for, and nothing of it is to be tried again or left out."""
    wants_retry = options.retry_rejects and _may_change(earlier)
    drops_kept = options.vanished == "drop" and found.num_kept > 0 and found.can_be_opened
    return not wants_retry and not drops_kept and found.is_current(step)


def _as_it_is(
    plan: Plan,
    options: JobOptions,
    found: FinishedResult,
    earlier: ShardResult,
    on_resume: Callable[[int, int], None],
    watch: Watch,
) -> RunSummary:
    """The summary of a result that is finished. Raises OutputError: embeddings that it kept are gone."""
    step, out, summary = plan.step, plan.out, plan.summary
    found.remove_shards()
    _check_kept(out, summary, earlier)
    summary.num_kept = found.num_kept
    summary.part = None if options.share() is None else f"{options.share()} (of what is finished)"
    on_resume(len(step.shards), earlier.num_read)
    step.tally.resume_whole(earlier)
    watch.begun(summary, step.shards, {shard.name for shard in step.shards}, earlier.num_read)
    _add(summary, out, [earlier])
    return _with_examples(summary)


def _check_may_go_on(plan: Plan, options: JobOptions, found: FinishedResult, earlier: ShardResult) -> None:
    """Raise OutputError where a finished result cannot be opened for what is still to be done to it."""
    if options.part is not None:
        raise _needs_whole(plan.out)
    if options.retry_rejects and _may_change(earlier) and not found.can_be_opened:
        raise OutputError(
            f"{plan.out.out} is one finished file that does not say what its rows were made of, so --retry-rejects would "
            f"{plan.summary.verb} everything again; use --overwrite for that, or a folder as output from the start"
        )


def _execute_whole(plan: Plan, options: JobOptions, identity: str, earlier: ShardResult | None, begun: Run) -> RunSummary:
    """Do what is pending of all shards, and make the result of them. `earlier`: what is known of a result that is there."""
    step, out, summary, folder = plan.step, plan.out, plan.summary, plan.out.folder
    begun.watch.waiting_for_lock(folder.root)
    with folder.locked():
        started = time.perf_counter()
        found = FinishedResult(out)
        is_opened = not options.overwrite and _open_again(out, found, step, identity, is_finished=earlier is not None)
        try:
            results = begun.do_all(
                redo=_may_change if options.retry_rejects else None,
                anew=options.overwrite,
                keep_vanished=options.vanished == "keep",
            )
        except OtherInputsError:
            if is_opened:
                out.remove_work()
            raise
        for name, record in step.beside.items():
            folder.keep_beside(name, record, results.values())
        summary.num_new, summary.num_bytes = step.tally.num_new, step.tally.num_bytes
        summary.bottleneck = step.waiting_for() if summary.unit == "pictures" else ""
        _add(summary, out, results.values())
        if summary.num_read == 0:
            out.discard()
            raise InputError(f"{', '.join(plan.recipe.options.sources)}: zero {summary.unit}, nothing to {summary.verb}")
        out.remove_leftovers(results.values())
        with doing(f"writing {out.out}"), step.stages.beside("join") if out.is_separate else contextlib.nullcontext():
            try:
                out.publish(step, results, summary, identity)
            except BeholderError:
                if not _was_finished_meanwhile(out, found, step, identity):
                    raise
        summary.seconds = time.perf_counter() - started
        if not out.is_separate:
            begun.watch.write_record(folder.root, summary)
        out.remove_work()
    return _with_examples(summary)


def _open_again(out: RunOutput, found: FinishedResult, step: Step, identity: str, *, is_finished: bool) -> bool:
    """Take a finished result apart again where it is to be continued; whether it was. Raises OutputError."""
    if not is_finished:
        _check_unfinished(out, found, step, identity)
    if not found.needs_opening(step):
        return False
    with doing(f"opening {out.out} again"):
        found.open_again()
    return True


def _execute_share(plan: Plan, share: Share, identity: str, begun: Run) -> RunSummary:
    """Do one share of the shards; nothing is joined, and the summary is of the share. Raises OutputError as `Run.do_share`."""
    step, out, summary, folder = plan.step, plan.out, plan.summary, plan.out.folder
    begun.watch.waiting_for_lock(folder.root)
    with folder.locked(is_shared=True):
        _check_unfinished(out, FinishedResult(out), step, identity)
        started = time.perf_counter()
        results = begun.do_share(share)
        summary.num_new, summary.num_bytes = step.tally.num_new, step.tally.num_bytes
        summary.part = f"{share} ({len(results):,} of {len(step.shards):,} shards)"
        _add(summary, out, results.values())
        summary.rejects, summary.seconds = None, time.perf_counter() - started
        if not out.is_separate:
            begun.watch.write_record(folder.root, summary)
    return summary


def _device_of(plan: Plan) -> str:
    """What the device of the tower is called by its maker; "" where there is none."""
    tower = plan.recipe.tower
    return "" if tower is None else str(tower.engine.get("device_name") or tower.device)


def _check_unfinished(out: RunOutput, found: FinishedResult, step: Step, identity: str) -> None:
    """Raise OutputError where another run of the same job has finished it while this one got ready."""
    if found.result_of(step, identity) is not None:
        out.remove_work()
        raise OutputError(f"{out.out} was just finished by another run of the same command; nothing is left to do")


def _was_finished_meanwhile(out: RunOutput, before: FinishedResult, step: Step, identity: str) -> bool:
    """Whether another run, which should not have been there, was faster, and took the shards away.

    `before`: the result that this run found, which may be of the same inputs, too: of pictures in a list, or of a run before
    --retry-rejects.
    """
    with contextlib.suppress(BeholderError):  # what this run met is told
        found = FinishedResult(out)
        return found.record != before.record and found.result_of(step, identity) is not None
    return False


def _needs_whole(out: RunOutput) -> OutputError:
    return OutputError(
        f"{out.out} is finished, and the inputs are not those it was made of; run the same command once without --part"
    )


def _do_elsewhere(
    plan: Plan,
    options: JobOptions,
    hand_out: HandOut,
    pending: Sequence[Shard],
    aside: list[EarlierShard],
    done: list[EarlierShard],
    on_done: OnDone,
) -> None:
    """Have pending shards done by other processes (`run.DoPending`)."""
    step = plan.step
    job = Job(
        recipe=plan.recipe,
        folder=plan.out.folder.root,
        fingerprint=fingerprint(step.options),
        options=dict(step.options),
        file_metadata=dict(step.file_metadata),
        columns=step.columns,
        earlier=aside or None,
        done=done if aside else [],
        retry=options.retry_rejects,
    )
    hand_out(step, job, pending, on_done)


def _add(summary: RunSummary, out: RunOutput, results: Iterable[ShardResult]) -> None:
    """Let the summary tell what became of the shards."""
    summary.add(results)
    summary.rejects = out.rejects if summary.num_rejected else None


def _with_examples(summary: RunSummary) -> RunSummary:
    """The summary with some rejects of each reason, as the finished result has them."""
    if summary.num_rejected:
        with doing("reading some of the rejects"):
            summary.reject_examples = {
                reason.word: [{SAMPLE: sample, MESSAGE: message} for sample, _, message in reason.examples]
                for reason in count_reasons(find_rejects(summary.output).paths, NUM_EXAMPLES)
            }
    return summary


def _may_change(result: ShardResult) -> bool:
    """Whether a shard has rejects whose reason may be gone by now: a server or disk that did not answer, a slow machine."""
    return any(word in result.reasons for word in PASSING_REASONS)


def _check_kept(out: RunOutput, summary: RunSummary, earlier: ShardResult) -> None:
    """Raise OutputError when embeddings that a finished run kept are gone."""
    if summary.embeddings is not None and earlier.num_scored and not storage.is_folder(summary.embeddings):
        raise OutputError(f"{summary.embeddings}, kept by the finished run, is gone; use --overwrite to make it again")
