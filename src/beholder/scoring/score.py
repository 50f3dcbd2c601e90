"""The jobs `beholder score` and `beholder embed`: what the options name is found and checked, then planned and done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from beholder.errors import InputError
from beholder.io import storage
from beholder.models.backbones import SHAPES, canonical_backbone, same_backbone
from beholder.models.heads import Head, load_head
from beholder.models.spaces import CLEAR_COSINE, LEAST_COSINE, Space, space_of
from beholder.notices import doing
from beholder.scoring.embeddings_step import ScoreStep
from beholder.scoring.execute import Plan, execute
from beholder.scoring.options import EmbedOptions, ScoreOptions, source_options
from beholder.scoring.output import RunOutput
from beholder.scoring.summary import RunSummary
from beholder.sources.find import find
from beholder.sources.reader import Part, ReadOptions
from beholder.sources.sampling import MeanDirection, mean_direction
from beholder.sources.stamp import Stamp, stamps_of

__all__ = ["EmbedOptions", "ScoreOptions", "embed", "plan", "score"]

_SHARD_ROWS = 1_000_000
_FEW_ROWS = 10
"""The mean of fewer rows is no set's: single pictures lie down to 0.43, odd ones lower. They are warned of, never refused."""
_REAL_SETS = "real sets have 0.6 to 0.8, text embeddings 0.2, those of other towers 0"


def score(
    options: ScoreOptions | EmbedOptions,
    *,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_progress: Callable[[int, int], None] = lambda rows, num_bytes: None,
    on_resume: Callable[[int, int], None] = lambda shards, rows: None,
) -> RunSummary:
    """Score pictures or embeddings, or embed pictures; continue where an interrupted run of the same options stopped.

    Args:
        options: the job.
        on_plan: told what will be done, once, before it begins.
        on_progress: told (rows, bytes read) as they are done, from one thread.
        on_resume: told (shards, rows) that an earlier run had done.

    Raises:
        BeholderError: bad input, a refused head, an output in the way, a full disk, ...
    """
    return execute(plan(options), options, on_plan=on_plan, on_progress=on_progress, on_resume=on_resume)


embed = score


def plan(options: ScoreOptions | EmbedOptions) -> Plan:
    """Find and check everything the job needs. Raises BeholderError; nothing has been written by then."""
    if isinstance(options, EmbedOptions):
        from beholder.scoring.pictures import plan_embeddings

        return plan_embeddings(options, options.out or _default_output(options.sources, "pictures", "embeddings"))
    read_options = ReadOptions(
        columns=options.columns or (),
        sample_column=options.sample_column,
        embedding_column=options.embedding_column,
        block_bytes=options.memory_bytes // 4,
    )
    with doing("looking at the sources"):
        found = find(options.sources, source_options(options), read_options)
    if found.pictures:
        from beholder.scoring.pictures import plan_scores

        return plan_scores(options, options.out or _default_output(options.sources, "pictures"), parts=found.pictures)
    return _plan_embeddings(options, found.embeddings, read_options)


def _plan_embeddings(options: ScoreOptions, parts: Sequence[Part], read_options: ReadOptions) -> Plan:
    idle = ["--keep-embeddings"] if options.keep_embeddings else options.given()
    if idle:
        raise InputError(f"{idle[0]}: these are embeddings already, so it has no effect; leave it out")
    heads = [load_head(name, offline=options.offline) for name in options.heads]
    stamps = stamps_of(parts)
    warnings = _check_backbone([stamp for stamp in stamps if stamp is not None], heads, options.backbone)
    with doing("looking at the first embeddings"):
        told, notes = _check_space(parts, stamps, heads, options, read_options)
    warnings += told
    if all(part.num_rows == 0 for part in parts):
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
    summary = RunSummary(
        output=out,
        head_names=[head.name for head in heads],
        head_notes=[head.doubt for head in heads],
        warnings=warnings,
        notes=notes,
    )
    return Plan(step=step, sources=options.sources, inputs=inputs, summary=summary)


def _default_output(sources: Sequence[str], noun: str, kind: str = "scores") -> str:
    """The name of the result in the current folder, where none is given.

    `<stem>.scores.parquet` for one file, `<name>.scores` (a folder) for anything else; embeddings are always in a folder.
    """
    first = PurePosixPath(sources[0].split("://", 1)[-1].rstrip("/"))
    if len(sources) > 1 or storage.is_glob(sources[0]) or "{" in sources[0]:
        return f"{noun}.{kind}"
    is_folder = storage.is_folder(sources[0])
    name = first.name if is_folder else first.stem
    if name in ("", ".", "..", "~"):
        name = noun
    elif is_folder and name == "img_emb" and kind == "scores":
        name = first.parent.name or noun
    return f"{name}.{kind}" if is_folder or kind == "embeddings" else f"{name}.{kind}.parquet"


def _check_backbone(stamps: Sequence[Stamp], heads: Sequence[Head], told: str | None) -> list[str]:
    """Compare stamps (or what the user told) with the heads. Raises InputError; returns warnings."""
    warnings: list[str] = []
    for stamp in {stamp.path: stamp for stamp in stamps}.values():
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
    return warnings


def _check_space(
    parts: Sequence[Part],
    stamps: Sequence[Stamp | None],
    heads: Sequence[Head],
    options: ScoreOptions,
    read_options: ReadOptions,
) -> tuple[list[str], list[str]]:
    """Look whether the embeddings lie where those of the heads' tower do; (warnings, notes).

    Raises InputError for another space where neither a stamp nor the user says what made them.
    """
    dim, is_told = parts[0].dim, options.backbone is not None
    users: dict[str, str] = {}
    for head in heads:
        tower = head.backbone or options.backbone
        if tower is not None:
            users.setdefault(canonical_backbone(tower) or tower, head.name)
    known = [space for tower in users if (space := space_of(tower)) is not None and space.centroid.size == dim]
    spaces = known if options.space_check == "on" else []
    without = [part for part, stamp in zip(parts, stamps, strict=True) if stamp is None and not is_told]
    others = [part for part, stamp in zip(parts, stamps, strict=True) if stamp is not None or is_told]
    warnings: list[str] = []
    notes: list[str] = []
    if without:
        what = "no stamp (beholder.json)" if len(without) == len(parts) else f"no stamp in {len(without)} of {len(parts)} parts"
        what += " says what made these embeddings"
        where = without[0].path + (f" and {len(without) - 1:,} more" if len(without) > 1 else "")
        mean = mean_direction(without, dim, read_options) if spaces else None
        for space in spaces if mean is not None else ():
            assert mean is not None
            _refuse_another_space(mean, space, users[space.backbone], where)
            doubt = _warning_of(mean, space)
            if doubt is None:
                notes.append(f"{what}; {_note_of(mean, space)}")
            else:
                warnings.append(f"{what}, and {doubt}")
        seen = {space.backbone for space in spaces if mean is not None}
        unseen = [head.backbone for head in heads if head.backbone not in seen]
        if unseen:
            warnings.append(f"{what}; the scores are right only if it was {unseen[0] or 'the backbone of your head'}")
    mean = mean_direction(others, dim, read_options) if spaces and others else None
    if mean is not None:
        warnings += [doubt for space in spaces if (doubt := _warning_of(mean, space)) is not None]
    return warnings, notes


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


def _refuse_another_space(mean: MeanDirection, space: Space, head_name: str, where: str) -> None:
    """Raise InputError where the rows are no image embeddings of the space; a handful of rows is never refused.

    `where`: what the rows were read from, for the message.
    """
    if mean.num_rows >= _FEW_ROWS and mean.cosine(space.centroid) < LEAST_COSINE:
        raise InputError(
            f"these are not {space.name} image embeddings ({where}), which {head_name} is made for: the mean cosine of "
            f"{mean.rows} to their centroid is {_shown(mean, space)}, where {_REAL_SETS}; use a head for what made them, or "
            "score them all the same with --space-check off"
        )


def _warning_of(mean: MeanDirection, space: Space) -> str | None:
    """A line where the rows are hardly image embeddings of the space; None where they look like such."""
    if mean.cosine(space.centroid) >= (CLEAR_COSINE if mean.num_rows >= _FEW_ROWS else LEAST_COSINE):
        return None
    return (
        f"these may not be {space.name} image embeddings: the mean cosine of {mean.rows} to their centroid is "
        f"{_shown(mean, space)}, where {_REAL_SETS}"
    )


def _note_of(mean: MeanDirection, space: Space) -> str:
    """The line that says that the rows look like image embeddings of the space."""
    return (
        f"they look like {space.name} image embeddings: the mean cosine of {mean.rows} to their centroid is "
        f"{_shown(mean, space)}"
    )


def _shown(mean: MeanDirection, space: Space) -> str:
    """The cosine with two digits, and no "-0.00"."""
    return f"{round(mean.cosine(space.centroid), 2) + 0.0:.2f}"
