"""An act on the files of the kept pictures, from the options to the summary: everything checked, then done or rehearsed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beholder import columns
from beholder.curate.act import files, pack, sidecars, single
from beholder.curate.act.files import rename_new
from beholder.curate.act.journal import JournalState, read_journal
from beholder.curate.act.layout import Layout
from beholder.curate.act.messages import (
    ActionSummary,
    act_lines,
    bytes_text,
    nothing_selected,
    shown_path,
    undo_command,
)
from beholder.curate.act.plan import Job, Progress, Say
from beholder.curate.options import ACTION_FLAGS, SHARDED, XMP, Action, ActionOptions
from beholder.errors import InputError, OutputError, number_of, writing_failed
from beholder.io import locations
from beholder.locate.locate import PictureFinder
from beholder.locate.named_sources import NamedSources
from beholder.scoreset.picture_column import NUM_LOOKED_AT, PictureColumn, picture_column_of
from beholder.scoreset.score_set import ROW, ScoreSet


def perform(
    kept: pa.Table,
    scores: ScoreSet,
    options: ActionOptions,
    say: Say,
    *,
    rejected: pa.Table | None = None,
    progress: Progress | None = None,
) -> ActionSummary:
    """Do, or without `options.apply` only plan, what the options say with the pictures of `kept`.

    Args:
        kept: one row a picture: `sample`, and what is to be written beside packed pictures (scores, rank, metadata). A column
            ROW puts the work into the order of the set; `num_bytes` tells pictures that changed since they were scored. For
            stars they are given the best first, and ROW counts for nothing.
        scores: the set they are from, which knows where its pictures are.
        options: what to do.
        say: called with lines for people.
        rejected: like `kept`, the pictures that are to be rejected, for stars.
        progress: called with (pictures, bytes) since the last time.

    Returns:
        Counts, reasons, and the journal. Of no pictures at all nothing is looked at, written or said; `warnings` says so.

    Raises:
        InputError: it cannot be done at all (no such sources, the target lies inside a source, ...); nothing was touched.
        OutputError: the disk is full, or cannot be written; running the same again continues.
    """
    chosen = options.action
    if chosen is None:
        raise InputError(f"nothing to do: give {ACTION_FLAGS}")
    action, folder = chosen
    target, path = _places(action, folder, scores, options)
    pack.check_caption_column(kept.schema, options)
    if action == XMP:
        kept = sidecars.with_stars(kept, rejected, options)
    if not kept.num_rows:
        return ActionSummary(action, target, options.apply, warnings=[nothing_selected(action)])
    kept = _named(kept) if action == XMP else _ordered(kept)
    column = _picture_column(kept, scores, options)
    has_addresses = column is not None
    with PictureFinder(scores.record, pictures=options.pictures, root=options.root, addresses=has_addresses) as finder:
        job = _job(action, target, path, kept, column, finder, options, progress or (lambda count, size: None))
        if action in SHARDED:
            apply, rehearse = pack.apply, pack.rehearse
        elif action == XMP:
            apply, rehearse = sidecars.SidecarAct.apply, sidecars.SidecarRehearsal.rehearse
        else:
            apply, rehearse = single.Act.apply, single.Rehearsal.rehearse
        if options.apply:
            job.summary.journal = job.journal
            apply(job)
        else:
            rehearse(job, say)
    for line in act_lines(job.summary):
        say(line)
    return job.summary


def _places(action: Action, folder: str, scores: ScoreSet, options: ActionOptions) -> tuple[str, str]:
    """The folder of an act (of stars that of its journal), and its journal; both absolute. Raises InputError."""
    if not locations.is_local(folder):
        raise InputError(f"--{action} {folder}: files are written to this machine's disks only")
    target = os.path.abspath(locations.local_path(folder))  # noqa: PTH100
    beside = target
    if action == XMP:
        is_here = locations.is_local(scores.source) and os.path.lexists(locations.local_path(scores.source))
        beside = os.path.abspath(locations.local_path(scores.source)) if is_here else f"{target}/scores"  # noqa: PTH100
        beside += f".{XMP}"
    path = os.path.abspath(options.journal or f"{beside}.journal.jsonl")  # noqa: PTH100
    return (os.path.dirname(path) if action == XMP else target), path  # noqa: PTH120


def _job(
    action: str,
    target: str,
    path: str,
    kept: pa.Table,
    column: PictureColumn | None,
    finder: PictureFinder,
    options: ActionOptions,
    progress: Progress,
) -> Job:
    """Everything looked at that can be before the first picture is. Raises InputError, OutputError."""
    summary = ActionSummary(action, target, options.apply, num_pictures=kept.num_rows, caption_column=options.caption_column)
    known = kept
    if column is not None:
        kept, known = _at_addresses(kept, column, summary)
    num_repeats = 0
    if action not in SHARDED:
        kept, repeats = _each_once(kept)
        num_repeats = len(repeats)
        for name in repeats:  # the same in every run, so the journal need not say it
            summary.leave_out("clash", name, f"{name}: a row before names the same picture")
    names = kept.column(columns.SAMPLE)
    sources = finder.sources(names.slice(0, 512).to_pylist())
    if action != XMP:
        _check_target(action, target, sources)
    header = {
        "action": action,
        "target": target,
        "num_pictures": summary.num_pictures,
        "fingerprint": _fingerprint(action, target, kept, num_repeats, options),
        "folder": str(Path.cwd()),
    }
    earlier = _earlier(path, header, apply=options.apply)
    if earlier is not None:
        summary.journal = path
    return Job(
        action=action,
        target=target,
        kept=kept,
        known=known,
        finder=finder,
        sources=sources,
        layout=Layout(sources, names),
        options=options,
        journal=path,
        earlier=earlier,
        header=header,
        summary=summary,
        progress=progress,
    )


def _ordered(kept: pa.Table) -> pa.Table:
    """In the order of the set, as `_named`."""
    if ROW in kept.column_names:
        kept = kept.take(pc.array_sort_indices(kept.column(ROW).combine_chunks()))
    return _named(kept)


def _named(kept: pa.Table) -> pa.Table:
    """The names first, as large strings; ROW is left out."""
    names = kept.column(columns.SAMPLE).cast(pa.large_string())
    others = [name for name in kept.column_names if name not in (columns.SAMPLE, ROW)]
    return pa.table({columns.SAMPLE: names, **{name: kept.column(name) for name in others}})


def _picture_column(kept: pa.Table, scores: ScoreSet, options: ActionOptions) -> PictureColumn | None:
    """The column with the pictures' paths or URLs; None: their names say where they are. Raises InputError."""
    name = scores.sample_column
    others = [item for item in kept.column_names if item not in (columns.SAMPLE, name, *columns.OF_A_SELECTION)]
    first = kept.select([columns.SAMPLE, *others]).slice(0, NUM_LOOKED_AT).rename_columns([name, *others])
    return picture_column_of(first, scores, options.picture_column, options.pictures)


def _at_addresses(kept: pa.Table, column: PictureColumn, summary: ActionSummary) -> tuple[pa.Table, pa.Table]:
    """The rows that have an address, with that as their name, and as they are; the others are left out. Raises InputError."""
    addresses = kept.column(column.name).cast(pa.large_string())
    has_one = pc.fill_null(pc.not_equal(addresses, ""), False)
    known, addresses = kept.filter(has_one), addresses.filter(has_one)
    if not known.num_rows:
        raise InputError(f"column {column.name!r} is empty for all {kept.num_rows:,} kept rows; --picture-column names another")
    summary.notes.append(column.note_of_files)
    _, why = column.missing().error or ("", "")
    for name in kept.filter(pc.invert(has_one)).column(columns.SAMPLE).to_pylist():
        summary.leave_out("missing", name, f"{name}: {why}")
    return known.set_column(0, columns.SAMPLE, addresses), known


def _each_once(kept: pa.Table) -> tuple[pa.Table, list[str]]:
    """Rows whose `sample` no row before has, in order; the samples of the others."""
    names = kept.column(columns.SAMPLE)
    rows = pa.table({"name": names, "row": np.arange(len(names))})
    first = rows.group_by("name", use_threads=False).aggregate([("row", "min")]).column("row_min").sort()
    if len(first) == len(names):
        return kept, []
    is_again = pc.invert(pc.is_in(rows.column("row"), first))
    return kept.take(first), names.filter(is_again).to_pylist()


def _fingerprint(action: str, target: str, kept: pa.Table, num_repeats: int, options: ActionOptions) -> str:
    """Tells whether two acts are the same one."""
    said = f"{action}\0{target}\0{options.sidecars}\0{options.pictures}\0{options.root}\0"
    digest = hashlib.sha256(said.encode("utf-8", "surrogateescape"))
    if action in SHARDED:
        digest.update(f"{pack.shard_limits(action, options)}\0{kept.column_names}".encode())
        if options.caption_column is not None:
            digest.update(f"\0{options.caption_column}\0".encode())
            captions = kept.column(options.caption_column)
            for at in range(0, len(captions), 1 << 14):
                texts = captions.slice(at, 1 << 14).cast(pa.large_string())
                digest.update(repr(pc.binary_length(texts).to_pylist()).encode())
                digest.update("".join(text or "" for text in texts.to_pylist()).encode())
    if action == XMP:
        digest.update(f"{options.xmp_replace}\0{options.xmp_names}\0".encode())
        for at in range(0, kept.num_rows, 1 << 14):
            gets = kept.slice(at, 1 << 14).select([sidecars.STARS, sidecars.LABEL])
            digest.update(repr(gets.to_pydict()).encode())
    if num_repeats:
        digest.update(f"{num_repeats}\0".encode())
    names = kept.column(columns.SAMPLE)
    for at in range(0, len(names), 1 << 16):
        digest.update("\n".join(names.slice(at, 1 << 16).to_pylist()).encode() + b"\n")
    return digest.hexdigest()[:32]


def _check_target(action: str, target: str, sources: NamedSources) -> None:
    """Raise InputError for a folder that cannot be one, or lies where the pictures are read from."""
    for _, folder in sources.whole_folders:
        if locations.is_local(folder) and files.lies_in(
            os.path.realpath(target), os.path.realpath(locations.local_path(folder))
        ):
            raise InputError(
                f"--{action} {target} lies inside {folder}, which the pictures are from; "
                "the next run over that would find them twice, so name a folder outside of it"
            )
    at = files.existing_part(target)
    if not os.path.isdir(at):  # noqa: PTH112
        raise OutputError(f"cannot write {target}: {at} is there already and is no folder")
    if not os.access(at, os.W_OK | os.X_OK) or os.statvfs(at).f_flag & os.ST_RDONLY:
        raise OutputError(f"cannot write {target}: {at} is not writable; choose a place you may use")


def _earlier(path: str, header: dict[str, Any], *, apply: bool) -> JournalState | None:
    """What the journal of an earlier run of the same act says. Raises InputError where it is another's."""
    if not os.path.lexists(path):
        return None
    state = read_journal(path)
    is_other = state.header.get("fingerprint") != header["fingerprint"]
    if state.is_wholly_undone or (state.did_nothing and (is_other or state.action in SHARDED)):
        if apply:  # it is kept under another name, out of the way
            aside = f"{path}.{state.run}.undone"
            try:
                rename_new(path, aside)
            except OSError as error:
                raise writing_failed(aside, error) from error
        return None
    if is_other:
        where = "their sidecars" if state.action == XMP else state.header.get("target")
        raise InputError(
            f"{path} is the journal of another act ({state.action} of {state.header.get('num_pictures')} pictures "
            f"into {where}, begun {state.header.get('time')}); name another with --journal-out"
        )
    if state.num_lost:
        raise InputError(
            f"{shown_path(path)} has lost its end ({bytes_text(state.num_lost)}), so it is not known how far this act had "
            f"come: put the whole journal back, or see what is there ({undo_command(path, apply=False)})"
        )
    if state.is_undone:
        raise InputError(f"{shown_path(path)}: {_undone_text(state, path)}")
    return state


def _undone_text(state: JournalState, path: str) -> str:
    """Why an act that was taken back in part cannot go on, and what to do."""
    count, kind = state.num_kept_by_undo, "file"
    other = "or begin another act with another --journal-out; it leaves alone what is in its way"
    if state.action in SHARDED:
        kind, other = "shard", f"or name another folder with --{state.action}"
    if count is None:
        return f"an undo of this act was begun and is not finished; run it again ({undo_command(path)}), {other}"
    left = f"{number_of(count, kind)} as {'it was' if count == 1 else 'they were'}"
    look = undo_command(path, apply=False)
    return f"an undo of this act was begun and left {left}; see why ({look}) and end it with --apply, {other}"
