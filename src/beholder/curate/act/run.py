"""Kept pictures and options in; files copied, linked, moved or packed (or what would be), and the counts, out."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beholder import columns
from beholder.curate.act import journal as journals
from beholder.curate.act.captions import OF_THE_SELECTION, check_caption_column, pieces_of
from beholder.curate.act.entries import Told
from beholder.curate.act.layout import Layout
from beholder.curate.act.moved import find_moved
from beholder.curate.act.options import PARQUET_BYTES, SHARDED, TAR_BYTES, TAR_COUNT, ActionOptions
from beholder.curate.act.renaming import rename_new
from beholder.curate.act.repeats import without_repeats
from beholder.curate.act.summary import ActionSummary
from beholder.curate.act.tallies import MOST_EXAMPLES
from beholder.curate.act.telling import bytes_text, counted, lines_of, nothing_selected, shown_path, undo_command
from beholder.errors import InputError, OutputError, writing_failed
from beholder.io import storage
from beholder.locate.locate import PictureFinder
from beholder.locate.named_sources import NamedSources, named_in
from beholder.scoreset.picture_column import NUM_LOOKED_AT, PictureColumn, picture_column_of
from beholder.scoreset.score_set import ROW, ScoreSet

Say = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """An act, ready to begin.

    Attributes:
        action: what to do.
        target: the folder, absolute.
        kept: the pictures in the order of the set, `sample` (large_string) first: their names, or what the column with their
            paths or URLs has; of single files each once.
        known: the same rows, with the names of the set: what is written beside packed pictures.
        finder: finds them.
        sources: where they were named.
        layout: gives names below the target.
        options: as the user gave them.
        journal: where its journal is, or will be.
        told: what that says of an earlier run of the same act; None without one.
        header: what the journal begins with.
        summary: counts, filled while the act goes on.
        progress: told (pictures, bytes) as they are done.
    """

    action: str
    target: str
    kept: pa.Table
    known: pa.Table
    finder: PictureFinder
    sources: NamedSources
    layout: Layout
    options: ActionOptions
    journal: str
    told: Told | None
    header: dict[str, Any]
    summary: ActionSummary
    progress: Progress

    def batches(self, start: int, num_rows: int) -> Iterator[pa.Table]:
        """The pictures from number `start` on, `num_rows` at a time."""
        for at in range(start, self.kept.num_rows, num_rows):
            yield self.kept.slice(at, num_rows)

    @property
    def shard_limits(self) -> tuple[int, int]:
        """Most pictures and most bytes of a tar or Parquet file."""
        return _limits(self.action, self.options)


def perform(
    kept: pa.Table, scores: ScoreSet, options: ActionOptions, say: Say, *, progress: Progress | None = None
) -> ActionSummary:
    """Do, or without `options.apply` only plan, what the options say with the pictures of `kept`.

    Args:
        kept: one row a picture: `sample`, and what is to be written beside packed pictures (scores, rank, metadata). A column
            ROW puts the work into the order of the set; `num_bytes` tells pictures that changed since they were scored.
        scores: the set they are from, which knows where its pictures are.
        options: what to do.
        say: called with lines for people.
        progress: called with (pictures, bytes) since the last time.

    Returns:
        Counts, reasons, and the journal. Of no pictures at all nothing is looked at, written or said; `warnings` says so.

    Raises:
        InputError: it cannot be done at all (no such sources, the target lies inside a source, ...); nothing was touched.
        OutputError: the disk is full, or cannot be written; running the same again continues.
    """
    from beholder.curate.act import packing, single

    chosen = options.action
    if chosen is None:
        raise InputError("nothing to do: give --copy, --link, --symlink, --move, --tars or --hf-parquet")
    action, folder = chosen
    if not storage.is_local(folder):
        raise InputError(f"--{action} {folder}: files are written to this machine's disks only")
    target = os.path.abspath(storage.local_path(folder))  # noqa: PTH100
    check_caption_column(kept.schema, options)
    if not kept.num_rows:
        return ActionSummary(action, target, options.apply, warnings=[nothing_selected(action)])
    kept = _ordered(kept)
    column = _picture_column(kept, scores, options)
    has_addresses = column is not None
    with PictureFinder(scores.record, pictures=options.pictures, root=options.root, addresses=has_addresses) as finder:
        job = _job(action, target, kept, column, finder, options, progress or (lambda count, size: None))
        doing = packing if action in SHARDED else single
        if options.apply:
            job.summary.journal = job.journal
            doing.apply(job)
        else:
            doing.rehearse(job, say)
        _note_moved(job)
    for line in lines_of(job.summary):
        say(line)
    return job.summary


def _job(
    action: str,
    target: str,
    kept: pa.Table,
    column: PictureColumn | None,
    finder: PictureFinder,
    options: ActionOptions,
    progress: Progress,
) -> Job:
    """Everything looked at that can be before the first picture is. Raises InputError, OutputError."""
    num_pictures, known, without = kept.num_rows, kept, list[str]()
    if column is not None:
        kept, known, without = _at_addresses(kept, column)
    kept, repeats = (kept, list[str]()) if action in SHARDED else without_repeats(kept)
    names = kept.column(columns.SAMPLE)
    sources = finder.sources(names.slice(0, 512).to_pylist())
    _check_target(action, target, sources)
    path = os.path.abspath(options.journal or f"{target}.journal.jsonl")  # noqa: PTH100
    header = {
        "action": action,
        "target": target,
        "num_pictures": num_pictures,
        "fingerprint": _fingerprint(action, target, kept, len(repeats), options),
        "folder": str(Path.cwd()),
    }
    told = _earlier(path, header, apply=options.apply)
    summary = ActionSummary(action, target, options.apply, num_pictures=num_pictures, caption_column=options.caption_column)
    if repeats:  # the same in every run, so the journal need not say it
        texts = [(name, f"{name}: a row before names the same picture") for name in repeats[:MOST_EXAMPLES]]
        summary.leave_out_many("clash", len(repeats), texts)
    if column is not None:
        summary.notes.append(column.note_of_files)
        _, why = column.missing().error or ("", "")
        texts = [(name, f"{name}: {why}") for name in without[:MOST_EXAMPLES]]
        summary.leave_out_many("missing", len(without), texts)
    if told is not None:
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
        told=told,
        header=header,
        summary=summary,
        progress=progress,
    )


def _note_moved(job: Job) -> None:
    """Where pictures are not there, say where one is and how to bring it back, if a journal near at hand knows."""
    samples = [sample for reason, sample, _ in job.summary.examples if reason == "missing"]
    claims = [claim for sample in samples if (claim := job.sources.claim(sample)) is not None and storage.is_local(claim.path)]
    paths = [os.path.abspath(storage.local_path(claim.path)) for claim in claims]  # noqa: PTH100
    moved = find_moved(paths, [str(Path.cwd()), str(Path(job.journal).parent)])
    if moved is not None and os.path.realpath(moved.journal) != os.path.realpath(job.journal):
        source, target, by = shown_path(moved.source), shown_path(moved.target), shown_path(moved.journal)
        job.summary.notes.append(
            f"{source} was moved to {target}, as {by} says; to have all of that act where it was: {undo_command(moved.journal)}"
        )


def _ordered(kept: pa.Table) -> pa.Table:
    """In the order of the set, names as large strings; ROW is left out."""
    if ROW in kept.column_names:
        kept = kept.take(pc.array_sort_indices(kept.column(ROW).combine_chunks())).drop_columns([ROW])
    names = kept.column(columns.SAMPLE).cast(pa.large_string())
    if names.null_count:
        raise InputError(f"{names.null_count} of the kept rows have no name, so their pictures cannot be found")
    others = [name for name in kept.column_names if name != columns.SAMPLE]
    return pa.table({columns.SAMPLE: names, **{name: kept.column(name) for name in others}})


def _picture_column(kept: pa.Table, scores: ScoreSet, options: ActionOptions) -> PictureColumn | None:
    """The column with the pictures' paths or URLs; None: their names say where they are. Raises InputError."""
    name = scores.sample_column
    others = [item for item in kept.column_names if item not in (columns.SAMPLE, name, *OF_THE_SELECTION)]
    first = kept.select([columns.SAMPLE, *others]).slice(0, NUM_LOOKED_AT).rename_columns([name, *others])
    has_sources = bool(options.pictures) or "sources" in named_in(scores.record)
    return picture_column_of(first, name, options.picture_column, source=scores.source, has_sources=has_sources)


def _at_addresses(kept: pa.Table, column: PictureColumn) -> tuple[pa.Table, pa.Table, list[str]]:
    """The rows that have an address, with that as their name, and as they are; the names of the others. Raises InputError."""
    addresses = kept.column(column.name).cast(pa.large_string())
    has_one = pc.fill_null(pc.not_equal(addresses, ""), False)
    known, addresses = kept.filter(has_one), addresses.filter(has_one)
    if not known.num_rows:
        raise InputError(f"column {column.name!r} is empty for all {kept.num_rows:,} kept rows; --picture-column names another")
    without = kept.filter(pc.invert(has_one)).column(columns.SAMPLE).to_pylist()
    return known.set_column(0, columns.SAMPLE, addresses), known, without


def _limits(action: str, options: ActionOptions) -> tuple[int, int]:
    if action == "tars":
        return options.shard_count or TAR_COUNT, options.shard_bytes or TAR_BYTES
    return options.shard_count or 1 << 62, options.shard_bytes or PARQUET_BYTES


def _fingerprint(action: str, target: str, kept: pa.Table, num_repeats: int, options: ActionOptions) -> str:
    """Tells whether two acts are the same one."""
    said = f"{action}\0{target}\0{options.sidecars}\0{options.pictures}\0{options.root}\0"
    digest = hashlib.sha256(said.encode("utf-8", "surrogateescape"))
    if action in SHARDED:
        digest.update(f"{_limits(action, options)}\0{kept.column_names}".encode())
        if options.caption_column is not None:
            digest.update(f"\0{options.caption_column}\0".encode())
            for piece in pieces_of(kept, options.caption_column):
                digest.update(piece)
    if num_repeats:
        digest.update(f"{num_repeats}\0".encode())
    names = kept.column(columns.SAMPLE)
    for at in range(0, len(names), 1 << 16):
        digest.update("\n".join(names.slice(at, 1 << 16).to_pylist()).encode() + b"\n")
    return digest.hexdigest()[:32]


def _check_target(action: str, target: str, sources: NamedSources) -> None:
    """Raise InputError for a folder that cannot be one, or lies where the pictures are read from."""
    real = os.path.realpath(target)
    for _, folder in sources.whole_folders:
        if storage.is_local(folder):
            root = os.path.realpath(storage.local_path(folder))
            if f"{real}/".startswith(root.rstrip("/") + "/"):
                raise InputError(
                    f"--{action} {target} lies inside {folder}, which the pictures are from; "
                    "the next run over that would find them twice, so name a folder outside of it"
                )
    at = target
    while not os.path.lexists(at):
        at = os.path.dirname(at)  # noqa: PTH120
    if not os.path.isdir(at):  # noqa: PTH112
        raise OutputError(f"cannot write {target}: {at} is there already and is no folder")
    if not os.access(at, os.W_OK | os.X_OK) or os.statvfs(at).f_flag & os.ST_RDONLY:
        raise OutputError(f"cannot write {target}: {at} is not writable; choose a place you may use")


def _earlier(path: str, header: dict[str, Any], *, apply: bool) -> Told | None:
    """What the journal of an earlier run of the same act says. Raises InputError where it is another's."""
    if not os.path.lexists(path):
        return None
    told = journals.read_journal(path)
    if told.is_wholly_undone or _is_of_nothing(told, str(header["target"])):
        if apply:  # it is kept under another name, out of the way
            aside = f"{path}.{told.header.get('id')}.undone"
            try:
                rename_new(path, aside)
            except OSError as error:
                raise writing_failed(aside, error) from error
        return None
    if told.header.get("fingerprint") != header["fingerprint"]:
        raise InputError(
            f"{path} is the journal of another act ({told.header.get('action')} of {told.header.get('num_pictures')} pictures "
            f"into {told.header.get('target')}, begun {told.header.get('time')}); name another with --journal-out"
        )
    if told.num_lost:
        raise InputError(
            f"{shown_path(path)} has lost its end ({bytes_text(told.num_lost)}), so it is not known how far this act had come: "
            f"put the whole journal back, or see what is there ({undo_command(path, apply=False)})"
        )
    if told.is_undone:
        text = _undone_text(str(header["action"]), told.num_kept_by_undo, path)
        raise InputError(f"{shown_path(path)}: {text}")
    return told


def _is_of_nothing(told: Told, target: str) -> bool:
    """Whether a journal is of an act of no pictures into this folder, as earlier versions wrote them."""
    asked, did = told.header.get("num_pictures"), told.num_intents or told.shards
    return asked == 0 and not did and told.header.get("target") == target


def _undone_text(action: str, num_kept: int | None, path: str) -> str:
    """Why an act that was taken back in part cannot go on, and what to do."""
    if action in SHARDED:
        other = f"or name another folder with --{action}"
    else:
        other = "or begin another act with another --journal-out; what is in its way it leaves as it is"
    if num_kept is None:
        return f"an undo of this act was begun and has not come to its end; run it again ({undo_command(path)}), {other}"
    left = f"{counted(num_kept, 'shard' if action in SHARDED else 'file')} as {'it was' if num_kept == 1 else 'they were'}"
    look = undo_command(path, apply=False)
    return f"an undo of this act was begun and left {left}; see why ({look}) and end it with --apply, {other}"


def take_over(job: Job, told: Told) -> None:
    """Count what earlier runs of the same act did, and say so where it is not there any more."""
    summary = job.summary
    summary.num_done, summary.num_files, summary.num_bytes = told.num_pictures, told.num_files, told.num_file_bytes
    for shard in told.shards:
        summary.num_done += shard.pictures
        summary.num_files += shard.num_files
        summary.num_bytes += shard.num_bytes
        summary.renamed += shard.renamed
        summary.num_shards += 1
        summary.count_captions(shard.captions)
    summary.done_before(
        "finished" if told.is_finished else "interrupted", told.ended if told.is_finished else str(told.header.get("time"))
    )
    made = [*told.first_made, *(path for shard in told.shards for path, *_ in shard.files)]
    gone = next((path for path in made if not os.path.lexists(path)), None)
    if told.is_finished and gone is not None:
        anew = f"; to have it anew, take back what is left ({undo_command(job.journal)}), then do it again"
        summary.notes.append(
            f"not all of it is there any more: {shown_path(gone)} is gone" + (anew if job.action != "move" else "")
        )


def free_bytes(path: str) -> int:
    """Bytes that are free on the disk that holds `path`, or will."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)  # noqa: PTH120
    return shutil.disk_usage(path).free
