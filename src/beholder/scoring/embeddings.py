"""Jobs on embeddings: their plan, and the step that scores them, a shard of rows at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder import __version__, columns
from beholder.columns import REASON_TEXT, RowStatus, score_column_names
from beholder.errors import InputError
from beholder.io.locations import natural_key
from beholder.io.schemas import add_counts, fit_table, num_bytes_of, pieces_of
from beholder.io.storage import content_sample
from beholder.io.stream import GivenUp, Stream
from beholder.kernels.scoring import RowScorer
from beholder.models.backbones import SHAPES, canonical_backbone, same_backbone
from beholder.models.heads import Head, load_head
from beholder.models.spaces import CLEAR_COSINE, LEAST_COSINE, Space, space_of
from beholder.notices import doing
from beholder.scoring import files
from beholder.scoring.execute import Plan
from beholder.scoring.options import ScoreOptions
from beholder.scoring.output import RunOutput
from beholder.scoring.protocol import Recipe
from beholder.scoring.run import Step
from beholder.scoring.shards import (
    KEPT_FROM,
    Changes,
    EarlierShard,
    Shard,
    ShardResult,
    kept_shard,
    plan_shards,
)
from beholder.scoring.summary import PartSize, RunSummary, StageClock, Tally
from beholder.sources.labels import ConsecutiveLabels, embedding_labels_schema
from beholder.sources.reader import Part, ReadOptions, embedding_reader
from beholder.sources.sampling import MeanDirection, mean_direction
from beholder.sources.stamp import Stamp, stamps_of

_SHARD_ROWS = 1_000_000
_FEW_ROWS = 10
"""The mean of fewer rows is no set's: single pictures lie down to 0.43, odd ones lower. They are warned of, never refused."""
_REAL_SETS = "real sets have 0.6 to 0.8, text embeddings 0.2, those of other towers 0"
STAGE = "score"
_PIECE_BYTES = 16 << 20
"""Bytes of labels that are written at a time."""
_LEAST_WAITING_BYTES = 16 << 20
_REJECTS = [(STAGE, status.word, REASON_TEXT.get(status, "")) for status in RowStatus]
"""What the rejects table says of each `RowStatus`."""


def plan_scores(options: ScoreOptions, out: str, *, parts: Sequence[Part], read_options: ReadOptions) -> Plan:
    """The plan of `beholder score EMBEDDINGS`. Raises BeholderError; nothing has been written by then."""
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
    inputs = [path for part in parts for path in (part.path, part.metadata_path) if path]
    summary = RunSummary(
        output=out,
        head_names=[head.name for head in heads],
        head_notes=[head.doubt for head in heads],
        warnings=warnings,
        notes=notes,
    )
    step = score_step(options, out, parts, read_options)
    recipe = Recipe(options=options, out=out, parts=list(parts), read_options=read_options)
    return Plan(step=step, out=RunOutput(out), inputs=inputs, summary=summary, recipe=recipe)


def score_step(options: ScoreOptions, out: str, parts: Sequence[Part], read_options: ReadOptions) -> ScoreStep:
    """The step of a job on embeddings. Raises BeholderError."""
    return ScoreStep(
        parts,
        [load_head(name, offline=options.offline) for name in options.heads],
        as_csv=RunOutput(out).kind == "csv",
        read_options=read_options,
        shard_rows=options.shard_rows or _SHARD_ROWS,
        num_threads=options.num_threads,
    )


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
                    f"it is not known whether {stamp.backbone}, which made these embeddings, holds the weights of "
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
        seen = {space.backbone for space in spaces if mean is not None}
        for space in spaces if mean is not None else ():
            assert mean is not None
            cosine = _cosine_to(mean, space)
            if mean.num_rows >= _FEW_ROWS and mean.cosine(space.centroid) < LEAST_COSINE:
                raise InputError(
                    f"these are not {space.name} image embeddings ({where}), which {users[space.backbone]} is made for: "
                    f"{cosine}, where {_REAL_SETS}; use a head for what made them, or score them all the same with "
                    "--space-check off"
                )
            doubt = _doubt_of(mean, space)
            if doubt is None:
                notes.append(f"{what}; they look like {space.name} image embeddings: {cosine}")
            else:
                warnings.append(f"{what}, and {doubt}")
        unseen = [head.backbone for head in heads if head.backbone not in seen]
        if unseen:
            warnings.append(f"{what}; the scores are right only if it was {unseen[0] or 'the backbone of your head'}")
    mean = mean_direction(others, dim, read_options) if spaces and others else None
    if mean is not None:
        warnings += [doubt for space in spaces if (doubt := _doubt_of(mean, space)) is not None]
    return warnings, notes


def _doubt_of(mean: MeanDirection, space: Space) -> str | None:
    """A line where the rows are hardly image embeddings of the space; None where they look like such."""
    if mean.cosine(space.centroid) >= (CLEAR_COSINE if mean.num_rows >= _FEW_ROWS else LEAST_COSINE):
        return None
    return f"these may not be {space.name} image embeddings: {_cosine_to(mean, space)}, where {_REAL_SETS}"


def _cosine_to(mean: MeanDirection, space: Space) -> str:
    """The cosine in words, with two digits, and no "-0.00"."""
    cosine = round(mean.cosine(space.centroid), 2) + 0.0
    return f"the mean cosine of {mean.rows} to their centroid is {cosine:.2f}"


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


@dataclass(frozen=True)
class ScoredRows:
    """Consecutive rows of a shard before they are written.

    Attributes:
        scores: (N, H) float32, NaN where rejected.
        statuses: (N,) uint8 `RowStatus`.
        labels: N rows, `sample` first; None when they lie in the part's metadata file, to be read while writing.
    """

    scores: npt.NDArray[np.float32]
    statuses: npt.NDArray[np.uint8]
    labels: pa.Table | None


class ScoreStep(Step):
    """Scores parts with one or several heads.

    Args:
        parts: what to score; all of the heads' dimension (checked here).
        heads: the heads, all of one dimension.
        as_csv: write CSV text with rejected rows in place (empty score, `status`) instead of Parquet without them.
        read_options: columns to pass through, how much memory a block may take.
        shard_rows: rows of a shard.
        num_threads: threads that score; None for all cores.

    Raises:
        InputError: a part has another dimension than the heads, or a column would be written twice.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        heads: Sequence[Head],
        *,
        as_csv: bool,
        read_options: ReadOptions,
        shard_rows: int,
        num_threads: int | None = None,
    ) -> None:
        self.parts, self.heads, self.as_csv, self.read_options = list(parts), list(heads), as_csv, read_options
        self.score_names = score_column_names([head.name for head in heads])
        _check_columns(self.score_names, read_options, as_csv)
        _check_dimensions(parts, heads)
        self._scorer = RowScorer([head.math for head in heads], num_threads=num_threads)
        for dtype in {part.dtype for part in parts}:
            self._scorer.warm_up(dtype)
        self.shards = plan_shards(self.parts, _identity, shard_rows)
        self.schema = embedding_labels_schema(self.parts, read_options)
        files.scores_schema(self.schema, self.score_names)
        if self.as_csv:
            files.check_csv_names(self.schema.names)
        self.models = [head.sha256 for head in self.heads]
        self.options = {
            "--head": [head.name for head in self.heads],
            "head sha256": self.models,
            "--column": list(read_options.columns),
            "--sample-column": read_options.sample_column,
            "--embedding-column": read_options.embedding_column,
            "--shard-rows": shard_rows,
            "output format": "csv" if self.as_csv else "parquet",
        }
        self.provenance = {
            "format": columns.SCORE_SET_FORMAT,
            "version": columns.FORMAT_VERSION,
            "beholder": __version__,
            "score_columns": self.score_names,
            "heads": [head.describe() for head in self.heads],
        }
        self.file_metadata = self.provenance
        self.tally = Tally(
            self.shards, [PartSize(num_rows=part.num_rows, about_rows=part.detail.get("about_rows")) for part in self.parts]
        )
        self.stages = StageClock("read", "score")
        self._changes = Changes()
        self._vanished: list[EarlierShard] = []

    def waiting_for(self) -> str:
        """What takes most of the time lately: "read" or "score"; "" at first."""
        return self.stages.slowest() if self.asked_elsewhere is None else self.asked_elsewhere()

    def knows_any(self, earlier: Sequence[EarlierShard]) -> bool:
        """Whether a part of an earlier run is among the inputs."""
        return not {part.name for part in self.parts}.isdisjoint(shard.identity.get("name") for shard in earlier)

    def kept(self) -> Iterator[tuple[Shard, Iterable[ScoredRows]]]:
        """Shards of parts that have vanished, each as a shard of its own."""
        again = sum(shard.result.num_read for shard in self._vanished if KEPT_FROM in shard.identity)
        self._changes = self._changes._replace(num_vanished=self._changes.num_vanished - again)
        for number, shard in enumerate(self._vanished):
            yield kept_shard(number, shard, len(self.shards)), self._rows_of(shard)

    def _rows_of(self, shard: EarlierShard) -> Iterator[ScoredRows]:
        """Rows of an earlier shard; where rejected ones are not in their place, they come last."""
        known = {status.word: status for status in RowStatus}
        for labels, scores, words in files.read_rows(shard, self.score_names, as_csv=self.as_csv):
            yield ScoredRows(scores, np.array([known[word] for word in words], np.uint8), labels)

    def take_earlier(self, earlier: Sequence[EarlierShard], done: Sequence[EarlierShard], *, retry: bool) -> None:
        """Count what has changed; rows are scored anew, a shard at a time."""
        now = {shard.name: shard.identity for shard in self.shards}
        parts = {part.name for part in self.parts}
        num_changed = num_vanished = 0
        by_name = {shard.identity.get(KEPT_FROM, shard.name): shard for shard in reversed(earlier)}
        for name in sorted(by_name, key=natural_key):
            shard = by_name[name]
            if now.get(name) == shard.identity:
                continue
            if shard.identity.get("name") not in parts:
                self._vanished.append(shard)
                num_vanished += shard.result.num_read
            elif KEPT_FROM not in shard.identity:
                num_changed += shard.result.num_read
        self._changes = Changes(num_changed, num_vanished)

    def changes(self) -> Changes:
        """How the rows differ from those of earlier runs."""
        return self._changes

    def compute_each(self, shards: Iterable[Shard]) -> Generator[tuple[Shard, Stream[ScoredRows]], None, None]:
        """Read and score shards, one after the other. A shard too large to be held is yielded when it is begun.

        Then the rest is scored while its first rows are written: whoever takes a shard has to let another thread write it
        before the next one is asked for.
        """
        for shard in shards:
            rows: Stream[ScoredRows] = Stream(max(_LEAST_WAITING_BYTES, self.read_options.block_bytes // 4))
            is_yielded = False
            try:
                for block in self._scored(shard):
                    if rows.is_full and not is_yielded:
                        is_yielded = True
                        yield shard, rows
                    with doing("write") if rows.is_full else contextlib.nullcontext():
                        is_taken = rows.put(block, _bytes_of(block))
                    if not is_taken:
                        return
                rows.end()
            finally:
                rows.end(GivenUp())
            if not is_yielded:
                yield shard, rows
        self.tally.end()

    def _scored(self, shard: Shard) -> Iterator[ScoredRows]:
        """Read and score the shard's rows."""
        part = self.parts[shard.part]
        blocks = embedding_reader(part.kind).blocks(part, shard.start, shard.stop, self.read_options)
        while True:
            with self.stages.measure("read"):
                block = next(blocks, None)
            if block is None:
                return
            with self.stages.measure("score"):
                found, states = self._scorer.score(block.embeddings, before_chunk=block.before_chunk)
            if block.statuses is not None:
                bad = block.statuses != 0
                states[bad] = block.statuses[bad]
                found[bad] = np.nan
            self.tally.add(shard, len(states), block.embeddings.nbytes, int(np.count_nonzero(states)))
            yield ScoredRows(found, states, block.labels)

    def file_names(self, shard: Shard) -> Sequence[str]:
        """The scores and the rejects."""
        return files.score_files(shard.name, as_csv=self.as_csv)

    def write(self, shard: Shard, computed: Iterable[ScoredRows], folder: str) -> ShardResult:
        """Write scores and rejects of the shard below `folder`, as its rows come: from `compute_each`, or kept ones."""
        remarks: dict[str, int] = {}
        try:
            with files.shard_rows(
                Path(folder), shard.name, self.schema, self.score_names, as_csv=self.as_csv, metadata=self.provenance
            ) as out:
                for rows in self._labelled(shard, computed):
                    assert rows.labels is not None
                    labels, lost = fit_table(rows.labels, self.schema)
                    add_counts(remarks, lost)
                    bad = {int(row): _REJECTS[rows.statuses[row]] for row in np.flatnonzero(rows.statuses)}
                    out.write(labels, rows.scores, bad)
                if shard.stop is not None and out.num_read != shard.stop - shard.start:
                    path, promised = self.parts[shard.part].path, shard.stop - shard.start
                    raise InputError(f"{path} gave {out.num_read} rows where {promised} were expected; did it change?")
        finally:
            if isinstance(computed, Stream):
                computed.leave()  # though the files could not be opened: else `compute_each` would wait for room without end
        return replace(out.result(), remarks=remarks)

    def _labelled(self, shard: Shard, computed: Iterable[ScoredRows]) -> Iterator[ScoredRows]:
        """The rows with their labels, in pieces of bounded bytes."""
        part = self.parts[shard.part]
        stop = shard.stop if shard.stop is not None else part.num_rows or 0
        with contextlib.closing(ConsecutiveLabels(part, shard.start, stop, self.read_options)) as metadata:
            for rows in computed:
                num_rows, at = len(rows.statuses), 0
                for labels in metadata.take(num_rows) if rows.labels is None else pieces_of(rows.labels, _PIECE_BYTES):
                    here = slice(at, at + labels.num_rows)
                    yield ScoredRows(rows.scores[here], rows.statuses[here], labels)
                    at = here.stop
                if at != num_rows:
                    raise InputError(f"{part.metadata_path} has fewer rows than when the run was planned; did it change?")


def _bytes_of(rows: ScoredRows) -> int:
    """Bytes of what waits to be written."""
    return rows.scores.nbytes + rows.statuses.nbytes + (0 if rows.labels is None else num_bytes_of(rows.labels))


def _identity(part: Part) -> dict[str, Any]:
    """How a part is now; other contents give another one."""
    return {
        "name": part.name,
        "rows": part.num_rows,
        "dim": part.dim,
        "dtype": part.dtype,
        "bytes": part.num_bytes,
        "contents": content_sample(part.path, part.num_bytes),
    }


def _check_columns(score_names: Sequence[str], options: ReadOptions, as_csv: bool) -> None:
    reserved = [columns.SAMPLE, *score_names, *([columns.STATUS] if as_csv else [])]
    for name in options.columns:
        if name in reserved and not (name == columns.SAMPLE and options.sample_column in (None, columns.SAMPLE)):
            raise InputError(f"--column {name}: the score set has a column of that name of its own; rename yours first")
    if len(set(score_names)) < len(score_names):
        raise InputError("the same head was named twice; name each head once")


def _check_dimensions(parts: Sequence[Part], heads: Sequence[Head]) -> None:
    for head in heads[1:]:
        if head.dim != heads[0].dim:
            raise InputError(
                f"{heads[0].name} needs {heads[0].dim} dimensions and {head.name} {head.dim}; use one after the other"
            )
    for part in parts:
        if part.dim != heads[0].dim and part.num_rows != 0:
            hint = _DIMENSION_HINTS.get(part.dim, "are they of another model?")
            raise InputError(f"{part.path} has {part.dim} dimensions, {heads[0].name} needs {heads[0].dim}: {hint}")


_DIMENSION_HINTS = {
    1024: "1024 is ViT-L/14 before its projection (birder's --save-embeddings); use birder predict --save-logits",
    512: "512 is ViT-B/32 or B/16; use a head made for it (beholder models list)",
    768: "768 is ViT-L/14; use a head made for it (beholder models list)",
    769: "769 is 768 and one column too many, perhaps a label; name the columns with --embedding-column",
    1152: "1152 is SigLIP so400m; no head in the registry is made for it",
}
