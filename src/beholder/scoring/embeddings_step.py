"""The step that scores embeddings, a shard of rows at a time.

It does one shard at a time; `beholder.scoring.score` is the whole job (find the input, run the shards, join, sum up).
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder import __version__, columns
from beholder.columns import REASON_TEXT, RowStatus, score_column_names
from beholder.errors import InputError
from beholder.io.schemas import fit_table, merge_remarks, num_bytes_of, pieces_of
from beholder.io.storage import content_sample, natural_key
from beholder.io.stream import GivenUp, Stream
from beholder.kernels.scoring import RowScorer
from beholder.models.heads import Head
from beholder.notices import doing
from beholder.scoring import files
from beholder.scoring.progress import PartSize, StageClock, Tally
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
from beholder.sources.labels import ConsecutiveLabels, embedding_labels_schema
from beholder.sources.reader import Part, ReadOptions, embedding_reader

STAGE = "score"
_PIECE_BYTES = 16 << 20
"""Bytes of labels that are written at a time."""
_LEAST_WAITING_BYTES = 16 << 20
_REJECTS = [(STAGE, status.word, REASON_TEXT.get(status, "")) for status in RowStatus]
"""What the rejects table says of each `RowStatus`."""


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
        self.tally = Tally(
            self.shards, [PartSize(num_rows=part.num_rows, about_rows=part.detail.get("about_rows")) for part in self.parts]
        )
        self._clock = StageClock("read", "score")
        self._changes = Changes()
        self._vanished: list[EarlierShard] = []

    def waiting_for(self) -> str:
        """What takes most of the time lately: "read" or "score"; "" at first."""
        return self._clock.slowest()

    def knows_any(self, earlier: Sequence[EarlierShard]) -> bool:
        """Whether a part of an earlier run is among the inputs."""
        return not {part.name for part in self.parts}.isdisjoint(shard.identity.get("name") for shard in earlier)

    def kept(self) -> Iterator[tuple[Shard, Iterable[ScoredRows]]]:
        """Shards of parts that have vanished, each as a shard of its own."""
        again = sum(shard.result.num_read for shard in self._vanished if KEPT_FROM in shard.identity)
        self._changes = self._changes._replace(num_vanished=self._changes.num_vanished - again)
        for number, shard in enumerate(self._vanished):
            yield kept_shard(number, shard), self._rows_of(shard)

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

    def compute_each(self, shards: Sequence[Shard]) -> Generator[tuple[Shard, Stream[ScoredRows]], None, None]:
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
            with self._clock.measure("read"):
                block = next(blocks, None)
            if block is None:
                return
            with self._clock.measure("score"):
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
                    merge_remarks(remarks, lost)
                    bad = {int(row): _REJECTS[rows.statuses[row]] for row in np.flatnonzero(rows.statuses)}
                    out.write(labels, rows.scores, bad)
                if shard.stop is not None and out.num_read != shard.stop - shard.start:
                    path, promised = self.parts[shard.part].path, shard.stop - shard.start
                    raise InputError(f"{path} gave {out.num_read} rows where {promised} were promised; did it change?")
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
