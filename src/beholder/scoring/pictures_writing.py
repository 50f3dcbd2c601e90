"""What is written of an embedded shard of pictures: scores, embeddings, or both, and the rejects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder import columns
from beholder.columns import REASON_TEXT, RowStatus, score_column_names
from beholder.errors import InputError
from beholder.io import records
from beholder.io.schemas import fit_column, fit_table
from beholder.io.storage import write_bytes
from beholder.kernels.scoring import RowScorer
from beholder.models.heads import Head
from beholder.pixels.picture import Trait
from beholder.scoring import score_files
from beholder.scoring.embedding_files import EMBEDDING, WriteOptions, read_labels, ready_rows, shard_files, write_shard
from beholder.scoring.inputs import METADATA as INPUTS_METADATA
from beholder.scoring.inputs import EarlierRows, EmbeddedShard, FoundRow, ScoredRows, inputs_file, inputs_table, reasons_of
from beholder.scoring.shards import EarlierShard, Shard, ShardResult
from beholder.sources.labels import join_labels
from beholder.sources.reader import LateLabels

EMBED_STAGE = "embed"
_MEASURED = pa.schema([
    (columns.WIDTH, pa.int32()), (columns.HEIGHT, pa.int32()), (columns.TRAITS, pa.string()), (columns.NUM_BYTES, pa.int64())
])  # fmt: skip


class PictureProduct:
    """Scores, embeddings, or both, of embedded pictures.

    Args:
        stamp: JSON-ready: what made the embeddings; the record of the run and the stamp of kept embeddings.
        heads: heads to score with; none writes no scores.
        as_csv: write scores as CSV text with rejected rows in place.
        keep: how embeddings are written; None writes none.
        keep_folder: where below the run's folder they go: "" for an embedding set, "embeddings" beside scores.
        dim: length of an embedding.
        num_threads: threads that score; None for all cores.

    Attributes:
        schema: the columns of every shard, without scores and embeddings; see `use_columns`.

    Raises:
        InputError: a head is made for embeddings of another length.
    """

    def __init__(
        self,
        stamp: Mapping[str, Any],
        *,
        heads: Sequence[Head],
        as_csv: bool,
        keep: WriteOptions | None,
        keep_folder: str,
        dim: int,
        num_threads: int | None = None,
    ) -> None:
        self.heads, self.as_csv, self._stamp = list(heads), as_csv, dict(stamp)
        self._keep, self._keep_folder = keep, keep_folder
        self.score_names = score_column_names([head.name for head in heads]) if heads else []
        if len(set(self.score_names)) < len(self.score_names):
            raise InputError("the same head was named twice; name each head once")
        for head in heads:
            if head.dim != dim:
                raise InputError(f"{head.name} needs {head.dim} dimensions, this tower gives {dim}; use a head made for it")
        self._dim = dim
        self._reserved = {*self.score_names, EMBEDDING, *([columns.STATUS] if as_csv else [])}
        self._scorer = RowScorer([head.math for head in heads], num_threads=num_threads) if heads else None
        if self._scorer is not None:
            self._scorer.warm_up("float32")
        self.schema = _MEASURED
        self._names: dict[str, str] = {}

    def use_columns(self, source: pa.Schema) -> None:
        """Decide the columns: those of the sources (`sample` first), then what is measured and they lack: width, height, ...

        A column of the sources that has the name of one of ours is renamed by `columns.source_names`.
        """
        self._names = columns.source_names(source.names, self._reserved)
        named = pa.schema([(self._names[item.name], item.type) for item in source])
        if self.as_csv:
            score_files.check_csv_names(named.names)
        self.schema = pa.schema([*named, *(item for item in _MEASURED if item.name not in named.names)])

    def _renamed(self, table: pa.Table) -> pa.Table:
        """The table with the names that its columns have in the output."""
        return table.rename_columns([self._names.get(name, name) for name in table.column_names])

    @property
    def options(self) -> Mapping[str, Any]:
        """What decides the files, in the words of the command line."""
        found: dict[str, Any] = {}
        if self.heads:
            found["--head"] = [head.name for head in self.heads]
            found["head sha256"] = [head.sha256 for head in self.heads]
            found["output format"] = "csv" if self.as_csv else "parquet"
            found["--keep-embeddings"] = self._keep is not None
        if self._keep is not None:
            found |= {"--format": self._keep.format, "--dtype": self._keep.dtype, "--normalise": self._keep.normalise}
            found["label"] = None if self._keep.folders is None else self._keep.folders.to_json()
        return found

    @property
    def models(self) -> Sequence[str]:
        """sha256 of the heads."""
        return [head.sha256 for head in self.heads]

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Record of the models and the software; for an embedding set it is its stamp."""
        if not self.heads:
            return self._stamp
        return {
            **self._stamp,
            "format": columns.SCORE_SET_FORMAT,
            "score_columns": self.score_names,
            "heads": [head.describe() for head in self.heads],
        }

    def file_names(self, shard: Shard, index: int) -> list[str]:
        """Every file that `write` may make for the shard, relative to the run's folder."""
        names = [*score_files.shard_files(shard.name, as_csv=self.as_csv), inputs_file(shard.name)]
        if not self.heads:
            names = names[1:]
        if self._keep is not None:
            names += [str(Path(self._keep_folder) / name) for name in shard_files(index, shard.name, self._keep)]
        return names

    def take(self, rows: Sequence[int], embeddings: npt.NDArray[np.float32]) -> ScoredRows:
        """Score the pictures of these numbers, (B, D) float32; the embeddings are kept only if they are to be written.

        Raises InputError for an embedding that cannot be written as asked for.
        """
        scores, statuses = self._score(embeddings)
        kept = None
        if self._keep is not None:
            kept = np.zeros(embeddings.shape, self._keep.dtype)
            are_fine = statuses == 0
            kept[are_fine] = ready_rows(embeddings[are_fine], self._keep)
        return ScoredRows(np.array(rows, np.int64), scores, statuses, kept)

    def taken_over(self, rows: Sequence[int], found: Sequence[FoundRow]) -> ScoredRows:
        """What earlier runs found of the pictures of these numbers, none of them rejected, as `take` gives it."""
        kept = None
        if self._keep is not None:
            kept = np.stack([some.embedding for some in found if some.embedding is not None])
        scores = np.stack([some.scores for some in found])
        return ScoredRows(np.array(rows, np.int64), scores, np.zeros(len(rows), np.uint8), kept)

    def labels_of(self, earlier: EarlierShard) -> pa.Table:
        """What an earlier run wrote of a shard's pictures besides scores and embeddings, in order; of rejected ones little.

        Columns have the names that they have in results.
        """
        rows = score_files.read_rows(earlier, self.score_names, as_csv=self.as_csv)
        tables = [labels for labels, _, _ in rows]
        if self.as_csv:
            return pa.concat_tables(tables)
        if self._keep is not None and not self.heads:
            tables.insert(0, read_labels(earlier.folder, list(earlier.result.files), self._keep))
        fitted = [fit_table(table, self.schema)[0] for table in tables]
        is_rejected = np.array([reason is not None for reason in reasons_of(earlier)], bool)
        places = np.empty(len(is_rejected), np.int64)
        places[np.argsort(is_rejected, kind="stable")] = np.arange(len(is_rejected))
        return pa.concat_tables(fitted).take(pa.array(places))

    def earlier_rows(self, shards: Sequence[EarlierShard], *, retry: bool) -> EarlierRows:
        """What earlier runs found of the pictures of these shards."""
        return EarlierRows(shards, self._keep, self._keep_folder, retry=retry)

    def write(self, shard: Shard, index: int, found: EmbeddedShard, folder: Path) -> ShardResult:
        """Write the files of one shard below `folder`, each whole or not at all. Empties `found.scored`.

        Args:
            shard: names the files.
            index: its number in the run; numbers the files of clip-retrieval's layout.
            found: the embedded pictures.
            folder: the run's folder.
        """
        num_rows = len(found.widths)
        unordered, scores, statuses = self._joined(found.scored)
        order = np.argsort(unordered, kind="stable")  # in order already unless a batch was retried
        rejects = {row: (stage, str(reason), text) for row, (stage, reason, text) in found.rejects.items()}
        for at in np.flatnonzero(statuses):
            status = RowStatus(int(statuses[at]))
            rejects[int(unordered[at])] = (EMBED_STAGE, status.word, REASON_TEXT[status])
        order = order[statuses[order] == 0]
        kept_rows = unordered[order]
        everywhere = np.full((num_rows, len(self.heads)), np.nan, np.float32)
        everywhere[kept_rows] = scores[order]
        remarks = dict(found.remarks)
        labels = self._labels(found, remarks)
        assert labels.num_rows == num_rows == len(kept_rows) + len(rejects), "pictures were lost"

        with score_files.shard_rows(
            folder, shard.name, self.schema, self.score_names, as_csv=self.as_csv, metadata=self.provenance
        ) as out:
            out.write(labels, everywhere, rejects)
        result = out.result()
        written = dict(result.files)
        if self._keep is not None:
            embeddings = self._embeddings(found.scored, order)
            written |= self._write_embeddings(shard, index, labels.take(pa.array(kept_rows)), embeddings, folder)
        table = inputs_table(found, rejects, everywhere)
        name = inputs_file(shard.name)
        score_files.write_parquet(folder / name, [table], table.schema, INPUTS_METADATA)
        written[name] = (folder / name).stat().st_size
        traits = Counter(word for traits in found.traits for word in trait_words(traits))
        return replace(result, files=written, traits=dict(traits), remarks=remarks)

    def _joined(
        self, scored: Sequence[ScoredRows]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Numbers (N,), scores (N, H) and statuses (N,) of all pictures that were embedded, in the order they came."""
        if not scored:
            return np.empty(0, np.int64), np.empty((0, len(self.heads)), np.float32), np.empty(0, np.uint8)
        return (
            np.concatenate([some.rows for some in scored]),
            np.concatenate([some.scores for some in scored]),
            np.concatenate([some.statuses for some in scored]),
        )

    def _embeddings(self, scored: list[ScoredRows], order: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Embeddings (M, D) of the pictures at `order`, as they are written. Empties `scored` on the way: one copy is held."""
        places = np.full(sum(len(some.rows) for some in scored), -1, np.int64)
        places[order] = np.arange(len(order))
        assert self._keep is not None
        found = np.empty((len(order), self._dim), self._keep.dtype)
        scored.reverse()
        first = 0
        while scored:
            some = scored.pop()
            assert some.embeddings is not None
            to = places[first : first + len(some.rows)]
            found[to[to >= 0]] = some.embeddings[to >= 0]
            first += len(some.rows)
        return found

    def _labels(self, found: EmbeddedShard, remarks: dict[str, int]) -> pa.Table:
        """What is known of each picture in the columns that were decided: what the source said, and what was measured."""
        tables = found.labels or [pa.table({columns.SAMPLE: pa.array([], pa.string())})]
        said = [self._renamed(table) for table in tables]
        late = [LateLabels(one.rows, self._renamed(one.said)) for one in found.late]
        labels = join_labels(said, self.schema, late=late, remarks=remarks)
        given = {name for table in (*said, *(one.said for one in late)) for name in table.column_names}
        known = np.array([width > 0 for width in found.widths], bool)
        measured = {
            columns.WIDTH: pa.array(found.widths, pa.int32(), mask=~known),
            columns.HEIGHT: pa.array(found.heights, pa.int32(), mask=~known),
            columns.TRAITS: pa.array([",".join(trait_words(traits)) for traits in found.traits], pa.string()),
            columns.NUM_BYTES: pa.array(found.num_bytes, pa.int64(), mask=~known),
        }
        for name, column in measured.items():
            if name not in given and name in labels.column_names:
                at = labels.column_names.index(name)
                kind = self.schema.field(name).type
                labels = labels.set_column(at, name, fit_column(pa.chunked_array([column]), kind))
        return labels

    def _score(self, embeddings: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Scores (N, H) and statuses (N,); without heads only NaN and infinite embeddings are found."""
        if self._scorer is not None and len(embeddings):
            return self._scorer.score(embeddings)
        statuses = np.zeros(len(embeddings), np.uint8)
        statuses[np.isinf(embeddings).any(axis=1)] = RowStatus.INF
        statuses[np.isnan(embeddings).any(axis=1)] = RowStatus.NAN
        return np.empty((len(embeddings), len(self.heads)), np.float32), statuses

    def _write_embeddings(
        self, shard: Shard, index: int, labels: pa.Table, embeddings: npt.NDArray[Any], folder: Path
    ) -> dict[str, int]:
        assert self._keep is not None
        place = folder / self._keep_folder
        written = write_shard(place, index, shard.name, embeddings, labels, self._keep, self._stamp)
        if self._keep_folder and written and not self._is_stamped(place / columns.STAMP_FILE):
            write_bytes(str(place / columns.STAMP_FILE), records.sealed(self._stamp, indent=2))
        return {str(Path(self._keep_folder) / name): size for name, size in written.items()}

    def _is_stamped(self, stamp: Path) -> bool:
        """Whether a stamp is there that can be read and tells of the present sources."""
        try:
            found = records.read(str(stamp)) if stamp.is_file() else {}
        except records.DamagedRecordError:
            return False
        return bool(found) and found.get(columns.PICTURES) == self._stamp.get(columns.PICTURES)


def trait_words(traits: Trait) -> list[str]:
    """The words of the traits that are set, in a fixed order: "rotated", "palette", ..."""
    return [trait.name.lower() for trait in Trait if trait and trait in traits and trait.name]
