"""The scoring job: pictures or embeddings and heads named by the user in, a score set and its summary out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

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
from beholder.models.tower_shape import SHAPES
from beholder.notices import doing
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
    return execute(plan(options), options, on_plan=on_plan, on_progress=on_progress, on_resume=on_resume)


def plan(options: ScoreOptions) -> Plan:
    """Find and check everything the job needs. Raises BeholderError; nothing has been written by then."""
    with doing("looking at the sources"):
        are_pictures = options.picture_column is not None or looks_like_pictures(options.sources)
    if are_pictures:
        from beholder.jobs.pictures import plan_scores

        if options.embedding_column is not None:
            raise InputError("--embedding-column: these are pictures, which have none; leave it out")

        return plan_scores(options, options.out or _default_output(options.sources, "pictures"))
    return _plan_embeddings(options)


def _plan_embeddings(options: ScoreOptions) -> Plan:
    read_options = ReadOptions(
        columns=options.columns or (),
        sample_column=options.sample_column,
        embedding_column=options.embedding_column,
        block_bytes=options.memory_bytes // 4,
    )
    with doing("looking at the sources"):
        parts = find_parts(options.sources, read_options)
    idle = ["--keep-embeddings"] if options.keep_embeddings else options.given()
    if idle:
        raise InputError(f"{idle[0]}: these are embeddings already, so it has no effect; leave it out")
    heads = [load_head(name, offline=options.offline) for name in options.heads]
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
        head_notes=[head.doubt for head in heads],
        warnings=warnings,
        tally=step.tally,
        waiting_for=step.waiting_for,
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
    warnings: list[str] = []
    for stamp in stamps:
        for head in heads:
            if stamp.backbone and head.backbone is not None and not same_backbone(stamp.backbone, head.backbone):
                if not _may_be(stamp.record, head.backbone):
                    raise _other_backbone(stamp.backbone, stamp.path, head)
                if told is not None:
                    continue
                warnings.append(
                    f"nothing tells whether {stamp.backbone}, which made these embeddings, holds the weights of "
                    f"{head.backbone}, which {head.name} was trained on"
                )
    for head in heads:
        if told is not None and head.backbone is not None and not same_backbone(told, head.backbone):
            raise _other_backbone(told, "--backbone", head)
    if told is None and num_without:
        needed = heads[0].backbone or "the backbone of your head"
        what = "no stamp (beholder.json)" if num_without == len(parts) else f"no stamp in {num_without} of {len(parts)} parts"
        warnings.append(f"{what} says what made these embeddings; the scores are right only if it was {needed}")
    return warnings


def _other_backbone(backbone: str, where: str, head: Head) -> InputError:
    return InputError(
        f"these embeddings were made with {canonical_backbone(backbone) or backbone} ({where}), "
        f"but {head.name} is made for {head.backbone}; scores would mean nothing, so use a head for that backbone"
    )


def _may_be(record: Mapping[str, Any], needed: str) -> bool:
    """Whether a stamp tells of a tower of unknown weights that could be `needed`, as `models.towers.check_head_fits` has it."""
    tower = record.get("tower")
    if not isinstance(tower, dict) or tower.get("backbone") is not None or record.get("backbone") != tower.get("name"):
        return False
    shape = SHAPES.get(canonical_backbone(needed) or "")
    if shape is None:
        return True
    sizes = ("image_px", "patch_px", "width", "num_layers", "dim")
    return tower.get("activation") != "gelu" and all(tower.get(name) == getattr(shape, name) for name in sizes)
