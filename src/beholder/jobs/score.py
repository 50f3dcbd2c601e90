"""The scoring job: embeddings and heads named by the user in, a score set and its summary out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from beholder import storage
from beholder.embeddings.block import Part, ReadOptions
from beholder.embeddings.source import find_parts
from beholder.embeddings.stamp import find_stamps
from beholder.errors import InputError, OutputError
from beholder.jobs.output import ScoreOutput
from beholder.models.backbones import canonical_backbone, same_backbone
from beholder.models.heads import Head, load_head
from beholder.models.registry import DEFAULT_HEAD
from beholder.run import local
from beholder.scores.summary import ScoreSummary
from beholder.shards import RunFolder, fingerprint
from beholder.steps.score import ScoreStep

_SMALLEST_MEMORY = 64_000_000


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Options of the job; the command line's flags have the same names.

    Attributes:
        sources: files, folders, globs, URLs or `.txt` lists of embeddings.
        out: a folder, or a file that ends in .parquet or .csv; None: named after the source, in the current folder.
        heads: registry names, paths, URLs or hub ids.
        columns: metadata columns to pass through; ("*",) for all.
        sample_column: the column that names rows; None: found by its usual names.
        embedding_column: the column, array or prefix of columns with the embedding; None: found by looking.
        backbone: what the embeddings were made with, for sets without a stamp; None: unknown.
        memory_bytes: about how much memory reading may take.
        num_threads: threads; None for all cores.
        shard_rows: most rows of a shard, the unit that is kept when a run is interrupted.
        overwrite: start anew where a result exists.
        offline: never use the network for heads.
    """

    sources: tuple[str, ...]
    out: str | None = None
    heads: tuple[str, ...] = (DEFAULT_HEAD,)
    columns: tuple[str, ...] = ()
    sample_column: str | None = None
    embedding_column: str | None = None
    backbone: str | None = None
    memory_bytes: int = 1 << 30
    num_threads: int | None = None
    shard_rows: int = 1_000_000
    overwrite: bool = False
    offline: bool | None = None

    def __post_init__(self) -> None:
        """Take a single text or path where several may stand; refuse options that cannot work."""
        for name in ("sources", "heads", "columns"):
            given = getattr(self, name)
            several = (given,) if isinstance(given, str | os.PathLike) else given
            object.__setattr__(self, name, tuple(os.fspath(item) for item in several))
        if self.out is not None:
            object.__setattr__(self, "out", os.fspath(self.out))
        if "" in (*self.sources, *self.heads, *self.columns) or self.out == "":
            raise InputError("one of the names given is empty (an unset variable?)")
        if len(set(self.columns)) < len(self.columns):
            raise InputError("the same --column was named twice; name each column once")
        if not self.sources:
            raise InputError("nothing to score: name files, folders, globs or URLs of embeddings")
        if not self.heads:
            raise InputError("no head: name at least one (beholder models list)")
        if self.memory_bytes < _SMALLEST_MEMORY:
            raise InputError(f"--memory {self.memory_bytes} is too little; give at least 64MB")
        if self.shard_rows < 1 or (self.num_threads is not None and self.num_threads < 1):
            raise InputError("--shard-rows and --threads must be at least 1")


@dataclass(frozen=True)
class ScorePlan:
    """A checked job, before anything is written.

    Attributes:
        parts, heads: what is scored with what.
        out: the output as it will be named.
        warnings: lines worth telling.
    """

    parts: list[Part]
    heads: list[Head]
    out: str
    warnings: list[str]

    @property
    def num_rows(self) -> int | None:
        """Rows of all parts; None when some part does not tell (CSV)."""
        counts = [part.num_rows for part in self.parts]
        return None if None in counts else sum(count for count in counts if count is not None)

    @property
    def num_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.num_bytes for part in self.parts)


def plan(options: ScoreOptions) -> ScorePlan:
    """Find and check everything the job needs. Raises BeholderError; nothing has been written by then."""
    read_options = _read_options(options)
    heads = [load_head(name, offline=options.offline) for name in options.heads]
    parts = find_parts(options.sources, read_options)
    warnings = _check_backbone(parts, heads, options.backbone)
    if sum(part.num_rows or 0 for part in parts) == 0 and all(part.num_rows is not None for part in parts):
        raise InputError(f"{', '.join(options.sources)}: zero rows, nothing to score")
    return ScorePlan(parts, heads, options.out or _default_output(options.sources), warnings)


def score(
    options: ScoreOptions,
    *,
    on_plan: Callable[[ScorePlan], None] = lambda plan: None,
    on_progress: Callable[[int, int], None] = lambda rows, num_bytes: None,
    on_resume: Callable[[int, int], None] = lambda shards, rows: None,
) -> ScoreSummary:
    """Score embeddings; continue where an interrupted run of the same options stopped.

    Args:
        options: the job.
        on_plan: told what will be done, once, before it begins.
        on_progress: told (rows, bytes of embeddings) as they are scored, from one thread.
        on_resume: told (shards, rows) that an earlier run had done.

    Raises:
        BeholderError: bad input, a refused head, an output in the way, a full disk, ...
    """
    planned = plan(options)
    out = ScoreOutput(planned.out)
    out.refuse_inputs([path for part in planned.parts for path in (part.path, part.metadata_path) if path])
    step = ScoreStep(
        planned.parts,
        planned.heads,
        as_csv=out.kind == "csv",
        read_options=_read_options(options),
        shard_rows=options.shard_rows,
        num_threads=options.num_threads,
    )
    identity = fingerprint({"inputs": [shard.identity | {"start": shard.start} for shard in step.shards]})
    summary = ScoreSummary(output=planned.out, head_names=[head.name for head in planned.heads], warnings=planned.warnings)
    if options.overwrite:
        out.clear()
    on_plan(planned)
    earlier = None if options.overwrite else out.finished(step, identity)
    if earlier is not None:
        on_resume(len(step.shards), earlier.num_read)
        summary.add([earlier])
        summary.rejects = out.rejects if earlier.num_rejected else None
        return summary

    def progress(rows: int, num_bytes: int) -> None:
        summary.num_new += rows
        summary.num_bytes += num_bytes
        on_progress(rows, num_bytes)

    folder = RunFolder(out.work)
    local.check_folder(step, folder)
    with folder.locked():
        earlier = None if options.overwrite else out.matching_result(step, identity)
        if earlier is not None:  # by a run that finished while this one was getting ready
            out.remove_work()
            raise OutputError(f"{planned.out} was just finished by another run of the same command; nothing is left to do")
        started = time.perf_counter()
        report = local.run(step, folder, progress, on_resume)
        summary.add(report.results)
        if summary.num_read == 0:
            raise InputError(f"{', '.join(options.sources)}: zero rows, nothing to score")
        out.publish(step, report.results, summary, identity)
        summary.seconds = time.perf_counter() - started
        out.remove_work()
    summary.rejects = out.rejects if summary.num_rejected else None
    return summary


def _read_options(options: ScoreOptions) -> ReadOptions:
    return ReadOptions(
        columns=options.columns,
        sample_column=options.sample_column,
        embedding_column=options.embedding_column,
        block_bytes=options.memory_bytes // 4,
    )


def _default_output(sources: Sequence[str]) -> str:
    """`<stem>.scores.parquet` for one file, `<name>.scores` (a folder) for anything else, in the current folder."""
    first = PurePosixPath(sources[0].split("://", 1)[-1].rstrip("/"))
    if len(sources) > 1 or storage.is_glob(sources[0]) or sources[0].endswith(".txt"):
        return "embeddings.scores"
    if storage.is_folder(sources[0]):
        name = first.name if first.name not in ("", ".", "..", "~") else "embeddings"
        return f"{first.parent.name or 'embeddings'}.scores" if name == "img_emb" else f"{name}.scores"
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
