"""The scoring job: pictures or embeddings and heads named by the user in, a score set and its summary out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from beholder import storage
from beholder.embeddings.block import Part, ReadOptions
from beholder.embeddings.source import find_parts
from beholder.embeddings.stamp import find_stamps
from beholder.errors import InputError
from beholder.images.sources import looks_like_pictures
from beholder.jobs.execute import Plan, execute
from beholder.jobs.options import ScoreOptions
from beholder.jobs.output import RunOutput
from beholder.models.backbones import canonical_backbone, same_backbone
from beholder.models.heads import Head, load_head
from beholder.scores.summary import RunSummary
from beholder.steps.score import ScoreStep

__all__ = ["ScoreOptions", "plan", "score"]

_SHARD_ROWS = 1_000_000


def score(
    options: ScoreOptions,
    *,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_progress: Callable[[int, int], None] = lambda rows, num_bytes: None,
    on_resume: Callable[[int, int], None] = lambda shards, rows: None,
) -> RunSummary:
    """Score pictures or embeddings; continue where an interrupted run of the same options stopped.

    Args:
        options: the job.
        on_plan: told what will be done, once, before it begins.
        on_progress: told (rows, bytes read) as they are scored, from one thread.
        on_resume: told (shards, rows) that an earlier run had done.

    Raises:
        BeholderError: bad input, a refused head, an output in the way, a full disk, ...
    """
    planned = plan(options)
    return execute(planned, overwrite=options.overwrite, on_plan=on_plan, on_progress=on_progress, on_resume=on_resume)


def plan(options: ScoreOptions) -> Plan:
    """Find and check everything the job needs. Raises BeholderError; nothing has been written by then."""
    if looks_like_pictures(options.sources):
        from beholder.jobs.pictures import plan_scores

        return plan_scores(options, options.out or _default_output(options.sources, "pictures"))
    if options.keep_embeddings:
        raise InputError("--keep-embeddings: these are embeddings already; leave it out")
    return _plan_embeddings(options)


def _plan_embeddings(options: ScoreOptions) -> Plan:
    read_options = ReadOptions(
        columns=options.columns or (),
        sample_column=options.sample_column,
        embedding_column=options.embedding_column,
        block_bytes=options.memory_bytes // 4,
    )
    heads = [load_head(name, offline=options.offline) for name in options.heads]
    parts = find_parts(options.sources, read_options)
    warnings = _check_backbone(parts, heads, options.backbone)
    counts = [part.num_rows for part in parts]
    num_rows = None if None in counts else sum(count or 0 for count in counts)
    if num_rows == 0:
        raise InputError(f"{', '.join(options.sources)}: zero rows, nothing to score")
    out = options.out or _default_output(options.sources, "embeddings")
    inputs = [path for part in parts for path in (part.path, part.metadata_path) if path]
    RunOutput(out).refuse_inputs(inputs)
    step = ScoreStep(
        parts,
        heads,
        as_csv=RunOutput(out).kind == "csv",
        read_options=read_options,
        shard_rows=options.shard_rows or _SHARD_ROWS,
        num_threads=options.num_threads,
    )
    return Plan(
        step=step,
        out=out,
        sources=options.sources,
        inputs=inputs,
        num_rows=num_rows,
        num_bytes=sum(part.num_bytes for part in parts),
        head_names=[head.name for head in heads],
        warnings=warnings,
    )


def _default_output(sources: Sequence[str], noun: str) -> str:
    """`<stem>.scores.parquet` for one file, `<name>.scores` (a folder) for anything else, in the current folder."""
    first = PurePosixPath(sources[0].split("://", 1)[-1].rstrip("/"))
    if len(sources) > 1 or storage.is_glob(sources[0]) or sources[0].endswith(".txt") or "{" in sources[0]:
        return f"{noun}.scores"
    if storage.is_folder(sources[0]):
        name = first.name if first.name not in ("", ".", "..", "~") else noun
        return f"{first.parent.name or noun}.scores" if name == "img_emb" else f"{name}.scores"
    return f"{first.stem}.scores.parquet"


def _check_backbone(parts: Sequence[Part], heads: Sequence[Head], told: str | None) -> list[str]:
    """Compare stamps (or what the user told) with the heads. Raises InputError; returns warnings."""
    stamps, num_without = find_stamps(parts)
    known = [(stamp.backbone, stamp.path) for stamp in stamps if stamp.backbone]
    if told is not None:
        known.append((told, "--backbone"))
    for backbone, where in known:
        for head in heads:
            if head.backbone is not None and not same_backbone(backbone, head.backbone):
                raise InputError(
                    f"these embeddings were made with {canonical_backbone(backbone) or backbone} ({where}), "
                    f"but {head.name} is made for {head.backbone}; scores would mean nothing, so use a head for that backbone"
                )
    if told is None and num_without:
        needed = heads[0].backbone or "the backbone of your head"
        what = "no stamp (beholder.json)" if num_without == len(parts) else f"no stamp in {num_without} of {len(parts)} parts"
        return [f"{what} says what made these embeddings; the scores are right only if it was {needed}"]
    return []
