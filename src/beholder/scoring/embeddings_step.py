"""The scoring step: shards of embedding parts in; scores, statuses and reject reasons of their rows out, written whole.

It does one shard at a time; `beholder.scoring.score` is the whole job (find the input, run the shards, join, sum up).
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder import columns
from beholder.columns import REASON_TEXT, RowStatus, score_column_names
from beholder.errors import InputError
from beholder.io.schemas import fit_table, merge_remarks, num_bytes_of, pieces_of, schema_of_json, schema_to_json
from beholder.io.storage import content_sample, natural_key
from beholder.kernels.scoring import RowScorer
from beholder.models.heads import Head
from beholder.notices import doing
from beholder.scoreset.numbers import ScoreStats
from beholder.scoring import score_files
from beholder.scoring.progress import PartSize, StageClock, Tally
from beholder.scoring.shards import (
    KEPT_FROM,
    Changes,
    EarlierShard,
    Shard,
    ShardResult,
    kept_shard,
    plan_rows,
    shard_name,
    shard_names,
)
from beholder.scoring.stream import Stream
from beholder.sources.embeddings.labels import ConsecutiveLabels, labels_schema
from beholder.sources.embeddings.parts import reader_of
from beholder.sources.embeddings.reader import Part, ReadOptions

STAGE = "score"
_PIECE_BYTES = 16 << 20
"""Bytes of labels that are written at a time."""
_LEAST_WAITING_BYTES = 16 << 20
_WORDS = np.array([status.word for status in RowStatus], dtype=object)


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
        self._decide(labels_schema(self.parts, read_options))
        self.tally = Tally(
            self.shards, [PartSize(num_rows=part.num_rows, about_rows=part.detail.get("about_rows")) for part in self.parts]
        )
        self._clock = StageClock("read", "score")
        self._changes = Changes()
        self._vanished: list[EarlierShard] = []

    def _decide(self, schema: pa.Schema) -> None:
        """Let these be the columns of every shard, beside the scores."""
        score_files.scores_schema(schema, self.score_names)
        if self.as_csv:
            score_files.check_csv_names(schema.names)
        self.schema = schema

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

    @property
    def columns(self) -> Mapping[str, Any]:
        """The columns that every shard gets, whatever its own part has."""
        return schema_to_json(self.schema)

    def use_columns(self, recorded: Mapping[str, Any] | None) -> None:
        """Take over the columns of a run that is continued."""
        schema = schema_of_json(recorded)
        if schema is not None:
            self._decide(schema)

    @property
    def names_files(self) -> bool:
        """False: parts are files."""
        return False

    def is_current(self, shard: EarlierShard) -> bool:
        """True: the identity of a part says it all."""
        return True

    def knows_any(self, earlier: Sequence[EarlierShard]) -> bool:
        """Whether a part of an earlier run is among the inputs."""
        return not {part.name for part in self.parts}.isdisjoint(shard.identity.get("name") for shard in earlier)

    def can_redo(self, earlier: EarlierShard) -> bool:
        """True: embeddings are scored about as fast as they are read."""
        return True

    def kept(self) -> Iterator[tuple[Shard, Iterable[ScoredRows]]]:
        """Shards of parts that have vanished, each as a shard of its own."""
        again = sum(shard.result.num_read for shard in self._vanished if KEPT_FROM in shard.identity)
        self._changes = replace(self._changes, num_vanished=self._changes.num_vanished - again)
        for number, shard in enumerate(self._vanished):
            yield kept_shard(number, shard), self._rows_of(shard)

    def _rows_of(self, shard: EarlierShard) -> Iterator[ScoredRows]:
        """Rows of an earlier shard; where rejected ones are not in their place, they come last."""
        scores_name, rejects_name = score_files.shard_files(shard.name, as_csv=self.as_csv)
        if self.as_csv:
            for labels, scores, words in score_files.read_csv_shard(shard.folder / scores_name, self.score_names):
                yield ScoredRows(scores, _statuses_of(words), labels)
            return
        for labels, scores in score_files.read_shard(shard.folder / scores_name, self.score_names):
            yield ScoredRows(scores, np.zeros(labels.num_rows, np.uint8), labels)
        if rejects_name in shard.result.files:
            rejects = score_files.read_rejects(shard.folder / rejects_name)
            scores = np.full((rejects.num_rows, len(self.heads)), np.nan, np.float32)
            words = rejects.column(columns.REASON).to_pylist()
            yield ScoredRows(scores, _statuses_of(words), rejects.select([columns.SAMPLE]))

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

    def compute_each(self, shards: Sequence[Shard], progress: Any) -> Generator[tuple[Shard, Stream[ScoredRows]], None, None]:
        """Read and score shards, one after the other. A shard too large to be held is yielded when it is begun.

        Then the rest is scored while its first rows are written: whoever takes a shard has to let another thread write it
        before the next one is asked for.
        """
        for shard in shards:
            rows: Stream[ScoredRows] = Stream(max(_LEAST_WAITING_BYTES, self.read_options.block_bytes // 4))
            is_yielded = False
            try:
                for block in self._scored(shard, progress):
                    if rows.is_full and not is_yielded:
                        is_yielded = True
                        yield shard, rows
                    with doing("write") if rows.is_full else contextlib.nullcontext():
                        is_taken = rows.put(block, _bytes_of(block))
                    if not is_taken:
                        return
                rows.end()
            finally:
                rows.fail()
            if not is_yielded:
                yield shard, rows
        self.tally.end()

    def _scored(self, shard: Shard, progress: Any) -> Iterator[ScoredRows]:
        """Read and score the shard's rows."""
        part = self.parts[shard.part]
        blocks = reader_of(part.kind).blocks(part, shard.start, shard.stop, self.read_options)
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
            num_bytes = block.embeddings.nbytes
            self.tally.add(shard, len(states), num_bytes, int(np.count_nonzero(states)))
            progress(len(states), num_bytes)
            yield ScoredRows(found, states, block.labels)

    def file_names(self, shard: Shard) -> Sequence[str]:
        """The scores and the rejects."""
        return score_files.shard_files(shard.name, as_csv=self.as_csv)

    def write(self, shard: Shard, computed: Iterable[ScoredRows], folder: str) -> ShardResult:
        """Write scores and rejects of the shard below `folder`, as its rows come: from `compute_each`, or kept ones."""
        writing = _Writing(self, shard, Path(folder))
        try:
            with writing:
                for piece in self._labelled(shard, computed):
                    writing.write(piece)
                writing.check()
        finally:
            if isinstance(computed, Stream):
                computed.leave()  # though the files could not be opened: else `compute_each` would wait for room without end
        return writing.result()

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


class _Writing:
    """The files of one shard while they are written, and the counts of what went into them."""

    def __init__(self, step: ScoreStep, shard: Shard, folder: Path) -> None:
        self._step, self._shard, self._folder = step, shard, folder
        self._scores_name, self._rejects_name = score_files.shard_files(shard.name, as_csv=step.as_csv)
        self._open = contextlib.ExitStack()
        self._csv: score_files.CsvRows | None = None
        self._parquet: score_files.ParquetRows | None = None
        self._rejects: score_files.ParquetRows | None = None
        self._scores: list[npt.NDArray[np.float32]] = []
        self._statuses: list[npt.NDArray[np.uint8]] = []
        self._remarks: dict[str, int] = {}

    def __enter__(self) -> _Writing:
        names, schema = self._step.score_names, score_files.scores_schema(self._step.schema, self._step.score_names)
        path = self._folder / self._scores_name
        if self._step.as_csv:
            self._csv = self._open.enter_context(score_files.csv_rows(path, schema, names))
        else:
            self._parquet = self._open.enter_context(score_files.parquet_rows(path, schema, self._step.provenance))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.__exit__(kind, error, trace)

    def check(self) -> None:
        """Raise InputError when these are not as many rows as the shard has."""
        shard, num_rows = self._shard, sum(map(len, self._statuses))
        if shard.stop is not None and num_rows != shard.stop - shard.start:
            path, promised = self._step.parts[shard.part].path, shard.stop - shard.start
            raise InputError(f"{path} gave {num_rows} rows where {promised} were promised; did it change?")

    def write(self, rows: ScoredRows) -> None:
        """Write rows with their labels."""
        assert rows.labels is not None
        labels, lost = fit_table(rows.labels, self._step.schema)
        merge_remarks(self._remarks, lost)
        self._scores.append(rows.scores)
        self._statuses.append(rows.statuses)
        kept = rows.statuses == 0
        table = score_files.scores_table(labels, rows.scores, self._step.score_names)
        if self._csv is not None:
            self._csv.write(table, _WORDS[rows.statuses])
        elif self._parquet is not None:
            self._parquet.write(table if kept.all() else table.filter(pa.array(kept)))
        if not kept.all():
            self._reject(labels.column(columns.SAMPLE).filter(pa.array(~kept)), rows.statuses[~kept])

    def _reject(self, samples: pa.ChunkedArray, statuses: npt.NDArray[np.uint8]) -> None:
        if self._rejects is None:
            path = self._folder / self._rejects_name
            self._rejects = self._open.enter_context(
                score_files.parquet_rows(path, score_files.REJECTS_SCHEMA, self._step.provenance)
            )
        found = [RowStatus(int(status)) for status in statuses]
        texts = [REASON_TEXT[status] for status in found]
        self._rejects.write(score_files.rejects_table(samples, [STAGE] * len(found), [status.word for status in found], texts))

    def result(self) -> ShardResult:
        """The counts, once all is written."""
        names = self._step.score_names
        scores = np.concatenate(self._scores) if self._scores else np.empty((0, len(names)), np.float32)
        statuses = np.concatenate(self._statuses) if self._statuses else np.empty(0, np.uint8)
        kept = statuses == 0
        reasons = np.bincount(statuses[~kept], minlength=len(RowStatus))
        written = [self._scores_name, *([self._rejects_name] if self._rejects is not None else [])]
        return ShardResult(
            num_read=len(statuses),
            num_scored=int(kept.sum()),
            num_rejected=int((~kept).sum()),
            reasons={RowStatus(i).word: int(count) for i, count in enumerate(reasons) if count},
            files={name: (self._folder / name).stat().st_size for name in written},
            stats={name: ScoreStats.of(scores[kept, i]).to_json() for i, name in enumerate(names)},
            remarks=self._remarks,
        )


def _statuses_of(words: Sequence[str]) -> npt.NDArray[np.uint8]:
    """`RowStatus` by its words, (N,) uint8."""
    known = {status.word: status for status in RowStatus}
    return np.array([known[word] for word in words], np.uint8)


def _bytes_of(rows: ScoredRows) -> int:
    """Bytes of what waits to be written."""
    return rows.scores.nbytes + rows.statuses.nbytes + (0 if rows.labels is None else num_bytes_of(rows.labels))


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
