"""The scoring step: shards of embedding parts in; scores, statuses and reject reasons of their rows out, written whole.

It does one shard at a time; `beholder.jobs.score` is the whole job (find the input, run the shards, join, sum up).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder import columns
from beholder.columns import REASON_TEXT, RowStatus, score_column_names
from beholder.embeddings.block import Part, ReadOptions
from beholder.embeddings.labels import read_metadata
from beholder.embeddings.source import reader_of
from beholder.errors import InputError
from beholder.kernels.scoring import RowScorer
from beholder.models.heads import Head
from beholder.scores import files
from beholder.shards import Shard, ShardResult, plan_rows, shard_name, shard_names
from beholder.stats import ScoreStats
from beholder.steps.clock import StageClock
from beholder.steps.tally import PartSize, Tally
from beholder.storage import content_sample

STAGE = "score"
_WORDS = np.array([status.word for status in RowStatus], dtype=object)


@dataclass(frozen=True)
class ScoredShard:
    """Scores of a shard's rows before they are written.

    Attributes:
        scores: (N, H) float32, NaN where rejected.
        statuses: (N,) uint8 `RowStatus`.
        labels: N rows, `sample` first; None when they lie in the part's metadata file, to be read while writing.
    """

    scores: npt.NDArray[np.float32]
    statuses: npt.NDArray[np.uint8]
    labels: pa.Table | None


class ScoreStep:
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
        self.shard_rows = shard_rows
        self.score_names = score_column_names([head.name for head in heads])
        _check_columns(self.score_names, read_options, as_csv)
        _check_dimensions(parts, heads)
        self._scorer = RowScorer([head.math for head in heads], num_threads=num_threads)
        for dtype in {part.dtype for part in parts}:
            self._scorer.warm_up(dtype)
        self.shards = _plan(self.parts, shard_rows)
        self.tally = Tally(
            self.shards, [PartSize(num_rows=part.num_rows, about_rows=part.detail.get("about_rows")) for part in self.parts]
        )
        self._clock = StageClock("read", "score")

    def waiting_for(self) -> str:
        """What takes most of the time lately: "read" or "score"; "" at first."""
        return self._clock.slowest()

    @property
    def options(self) -> Mapping[str, Any]:
        """What decides the result, in the words of the command line."""
        return {
            "--head": [head.name for head in self.heads],
            "head sha256": [head.sha256 for head in self.heads],
            "--column": list(self.read_options.columns),
            "--sample-column": self.read_options.sample_column,
            "--embedding-column": self.read_options.embedding_column,
            "--shard-rows": self.shard_rows,
            "output format": "csv" if self.as_csv else "parquet",
        }

    @property
    def models(self) -> Sequence[str]:
        """sha256 of the heads."""
        return [head.sha256 for head in self.heads]

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Record of the heads and the software."""
        from beholder import __version__

        return {
            "format": columns.SCORE_SET_FORMAT,
            "version": columns.FORMAT_VERSION,
            "beholder": __version__,
            "score_columns": self.score_names,
            "heads": [head.describe() for head in self.heads],
        }

    def compute_each(self, shards: Sequence[Shard], progress: Any) -> Generator[tuple[Shard, ScoredShard], None, None]:
        """Read and score shards, one after the other."""
        for shard in shards:
            yield shard, self._compute(shard, progress)
        self.tally.end()

    def _compute(self, shard: Shard, progress: Any) -> ScoredShard:
        """Read and score the shard's rows."""
        part = self.parts[shard.part]
        scores, statuses, labels = [], [], []
        blocks = reader_of(part.kind).blocks(part, shard.start, shard.stop, self.read_options)
        while True:
            with self._clock.measure("read"):
                block = next(blocks, None)
            if block is None:
                break
            with self._clock.measure("score"):
                found, states = self._scorer.score(block.embeddings, before_chunk=block.before_chunk)
            if block.statuses is not None:
                bad = block.statuses != 0
                states[bad] = block.statuses[bad]
                found[bad] = np.nan
            scores.append(found)
            statuses.append(states)
            if block.labels is not None:
                labels.append(block.labels)
            self.tally.add(shard, len(states), block.embeddings.nbytes, int(np.count_nonzero(states)))
            progress(len(states), block.embeddings.nbytes)
        return ScoredShard(
            np.concatenate(scores) if scores else np.empty((0, len(self.heads)), np.float32),
            np.concatenate(statuses) if statuses else np.empty(0, np.uint8),
            pa.concat_tables(labels, promote_options="permissive") if labels else None,
        )

    def file_names(self, shard: Shard) -> Sequence[str]:
        """The scores and the rejects."""
        return files.shard_files(shard.name, as_csv=self.as_csv)

    def write(self, shard: Shard, computed: ScoredShard, folder: str) -> ShardResult:
        """Write scores and rejects of the shard below `folder`."""
        part, scores, statuses = self.parts[shard.part], computed.scores, computed.statuses
        num_rows = len(statuses)
        if shard.stop is not None and num_rows != shard.stop - shard.start:
            raise InputError(f"{part.path} gave {num_rows} rows where {shard.stop - shard.start} were promised; did it change?")
        labels = computed.labels
        if labels is None:
            labels = read_metadata(part, shard.start, shard.start + num_rows, self.read_options)
        kept = statuses == 0
        written = {}
        table = files.scores_table(labels, scores, self.score_names)
        if self.as_csv:
            name = f"{columns.SCORES_FOLDER}/{shard.name}.csv"
            written[name] = files.write_csv_part(
                Path(folder) / name, files.csv_columns(table, _WORDS[statuses], self.score_names)
            )
        else:
            name = f"{columns.SCORES_FOLDER}/{shard.name}.parquet"
            table = table if kept.all() else table.filter(pa.array(kept))
            written[name] = files.write_parquet(Path(folder) / name, table, self.provenance)
        if not kept.all():
            rejected = labels.column(columns.SAMPLE).filter(pa.array(~kept))
            name = f"{columns.REJECTS_FOLDER}/{shard.name}.parquet"
            rejects = files.rejects_table(
                rejected,
                [STAGE] * len(rejected),
                [RowStatus(int(status)).word for status in statuses[~kept]],
                [REASON_TEXT[RowStatus(int(status))] for status in statuses[~kept]],
            )
            written[name] = files.write_parquet(Path(folder) / name, rejects, self.provenance)
        reasons = np.bincount(statuses[~kept], minlength=len(RowStatus))
        stats = {name: ScoreStats.of(scores[kept, i]).to_json() for i, name in enumerate(self.score_names)}
        num_scored = int(kept.sum())
        return ShardResult(
            num_read=num_rows,
            num_scored=num_scored,
            num_rejected=num_rows - num_scored,
            reasons={RowStatus(i).word: int(count) for i, count in enumerate(reasons) if count},
            files=written,
            stats=stats,
        )


def _plan(parts: Sequence[Part], shard_rows: int) -> list[Shard]:
    shards = []
    for index, (part, stem) in enumerate(zip(parts, shard_names([part.name for part in parts]), strict=True)):
        identity = {
            "name": part.name,
            "rows": part.num_rows,
            "dim": part.dim,
            "dtype": part.dtype,
            "bytes": part.num_bytes,
            "contents": content_sample(part.path, part.num_bytes),
        }
        ranges = plan_rows(part.num_rows, part.cuts, shard_rows)
        for start, stop in ranges:
            shards.append(Shard(shard_name(stem, start, len(ranges) == 1), index, start, stop, identity))
    assert len({shard.name for shard in shards}) == len(shards), "two shards of one name"
    return shards


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
