"""A planned job is done: continued after an interruption, left alone where it is finished, brought up to date else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from beholder.columns import MESSAGE, PASSING_REASONS, SAMPLE
from beholder.errors import InputError, OutputError
from beholder.io import storage
from beholder.notices import doing
from beholder.scoreset.rejects import count_reasons, find_rejects
from beholder.scoring import run
from beholder.scoring.options import JobOptions
from beholder.scoring.output import SCORES, Product, RunOutput
from beholder.scoring.progress import Tally
from beholder.scoring.reopen import FinishedResult
from beholder.scoring.run import Step
from beholder.scoring.shards import RunFolder, ShardResult, fingerprint
from beholder.scoring.summary import RunSummary

NUM_EXAMPLES = 3
"""Rejects of each reason that a summary names."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A checked job, before anything is written.

    Attributes:
        step: the work.
        out: the output as it will be named.
        sources: as the user named them, for messages.
        inputs: files that are read, which an output may not replace.
        unit: what is counted: "rows" (of embeddings) or "pictures".
        verb: what is done with them: "score" or "embed".
        num_rows: how many there are; None when some part does not tell (CSV, tar).
        num_bytes: bytes of all parts; 0 where unknown.
        product: what is written.
        head_names: the head behind each score column.
        head_notes: what is worth telling of each head, or "".
        warnings: lines worth telling.
        notes: lines that say what is done with what (device, precision, ...).
        keeps_embeddings: whether embeddings are written beside scores.
        num_ignored: files among the sources that are no pictures.
        tally: how far it is, while it runs.
        waiting_for: asked while it runs: the stage that the others wait for, or "".
        check_seconds: what measuring took, to choose the precision; 0 where it was remembered.
        preset: which pixels of pictures are scored; "": there are none.
    """

    step: Step
    out: str
    sources: tuple[str, ...]
    inputs: list[str]
    unit: str = "rows"
    verb: str = "score"
    num_rows: int | None
    num_bytes: int
    product: Product = SCORES
    head_names: list[str] = field(default_factory=list)
    head_notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    keeps_embeddings: bool = False
    num_ignored: int = 0
    tally: Tally
    waiting_for: Callable[[], str]
    check_seconds: float = 0.0
    preset: str = ""


def execute(
    plan: Plan,
    options: JobOptions,
    *,
    on_plan: Callable[[Plan], None],
    on_progress: Callable[[int, int], None],
    on_resume: Callable[[int, int], None],
) -> RunSummary:
    """Do the job; continue where an interrupted run of the same options stopped.

    Args:
        plan: the job.
        options: say whether to start anew, and whether to do shards with passing rejects again.
        on_plan: told what will be done, once, before it begins.
        on_progress: told (rows, bytes read) as they are done, from one thread.
        on_resume: told (shards, rows) that an earlier run had done.

    Raises:
        BeholderError: an output in the way, a full disk, inputs that changed, ...
    """
    out, step = RunOutput(plan.out, plan.product), plan.step
    out.refuse_inputs(plan.inputs)
    if plan.keeps_embeddings:
        out.check_place_for_embeddings()
    identity = fingerprint({"inputs": [shard.identity | {"start": shard.start} for shard in step.shards]})
    summary = _empty_summary(plan, out)
    if options.overwrite:
        out.clear()
    on_plan(plan)
    earlier, wants_retry = None, False
    if not options.overwrite:
        out.check_place()
        found = FinishedResult(out)
        earlier = found.earlier(step, identity)
        wants_retry = earlier is not None and options.retry_rejects and _may_change(earlier)
        drops_kept = options.vanished == "drop" and found.num_kept > 0 and found.can_be_opened
    if earlier is not None and not wants_retry and not drops_kept and found.is_current(step):
        _check_kept(plan, out, earlier)
        summary.num_kept = found.num_kept
        on_resume(len(step.shards), earlier.num_read)
        return _with_examples(_filled(summary, out, [earlier]))
    if wants_retry and not found.can_be_opened:
        raise OutputError(
            f"{plan.out} is one finished file that does not say what its rows were made of, so --retry-rejects would "
            f"{plan.verb} everything again; use --overwrite for that, or a folder as output from the start"
        )

    def progress(rows: int, num_bytes: int) -> None:
        summary.num_new += rows
        summary.num_bytes += num_bytes
        on_progress(rows, num_bytes)

    folder = RunFolder(out.work)
    if not options.overwrite:
        run.check_folder(step, folder)
    with folder.locked():
        started, is_opened = time.perf_counter(), False
        if not options.overwrite:
            found = FinishedResult(out)
            if earlier is None and found.result_of(step, identity) is not None:  # by a run that finished while this got ready
                out.remove_work()
                raise OutputError(f"{plan.out} was just finished by another run of the same command; nothing is left to do")
            is_opened = found.needs_opening(step)
        if is_opened:
            with doing(f"opening {plan.out} again"):
                found.open_again()
        redo = _may_change if options.retry_rejects else None
        try:
            report = run.run(
                step,
                folder,
                progress,
                _resuming(plan, on_resume),
                redo=redo,
                anew=options.overwrite,
                keep_vanished=options.vanished == "keep",
            )
        except run.OtherInputsError:
            if is_opened:
                out.remove_work()
            raise
        summary.damaged, summary.num_unchecked = report.damaged, report.num_unchecked
        changes = report.changes
        summary.num_changed, summary.num_vanished = changes.num_changed, changes.num_vanished
        summary.num_retried = changes.num_retried
        summary.num_kept = report.num_kept
        summary.bottleneck = plan.waiting_for() if plan.unit == "pictures" else ""
        _filled(summary, out, report.results)
        if summary.num_read == 0:
            out.discard()
            raise InputError(f"{', '.join(plan.sources)}: zero {plan.unit}, nothing to {plan.verb}")
        out.remove_leftovers(report.results)
        with doing(f"writing {plan.out}"):
            out.publish(step, report.shards, report.results, summary, identity)
        summary.seconds = time.perf_counter() - started
        out.remove_work()
    return _with_examples(summary)


def _with_examples(summary: RunSummary) -> RunSummary:
    """The summary with some rejects of each reason, as the finished result has them."""
    if summary.num_rejected:
        with doing("reading some of the rejects"):
            summary.reject_examples = {
                reason.word: [{SAMPLE: sample, MESSAGE: message} for sample, _, message in reason.examples]
                for reason in count_reasons(find_rejects(summary.output).paths, NUM_EXAMPLES)
            }
    return summary


def _resuming(plan: Plan, on_resume: Callable[[int, int], None]) -> Callable[[Mapping[str, ShardResult]], None]:
    """What is told the results of earlier runs: it counts them, and tells `on_resume`."""

    def resume(results: Mapping[str, ShardResult]) -> None:
        plan.tally.resume(results)
        on_resume(len(results), sum(result.num_read for result in results.values()))

    return resume


def _filled(summary: RunSummary, out: RunOutput, results: Sequence[ShardResult]) -> RunSummary:
    """The summary with what became of the shards."""
    summary.add(results)
    summary.rejects = out.rejects if summary.num_rejected else None
    return summary


def _empty_summary(plan: Plan, out: RunOutput) -> RunSummary:
    return RunSummary(
        output=plan.out,
        unit=plan.unit,
        verb=plan.verb,
        head_names=plan.head_names,
        head_notes=plan.head_notes,
        warnings=list(plan.warnings),
        notes=list(plan.notes),
        num_ignored=plan.num_ignored,
        check_seconds=plan.check_seconds,
        preset=plan.preset,
        embeddings=out.kept_embeddings if plan.keeps_embeddings else None,
    )


def _may_change(result: ShardResult) -> bool:
    """Whether a shard has rejects whose reason may be gone by now: a server or disk that did not answer, a slow machine."""
    return any(word in result.reasons for word in PASSING_REASONS)


def _check_kept(plan: Plan, out: RunOutput, earlier: ShardResult) -> None:
    """Raise OutputError when embeddings that a finished run kept are gone."""
    if plan.keeps_embeddings and earlier.num_scored and not storage.is_folder(out.kept_embeddings):
        raise OutputError(f"{out.kept_embeddings}, kept by the finished run, is gone; use --overwrite to make it again")
