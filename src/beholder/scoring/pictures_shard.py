"""What became of the pictures of a shard: written as scores, embeddings or both, and taken over by later runs.

Beside results stands a table that keeps a row a picture: which file it is and how it looked (bytes, time, digest), and all that
came of it but its embedding. So a later run can take over what it finds of files that have not changed.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder import columns
from beholder.columns import PASSING_REASONS, REASON_TEXT, RowStatus, score_column_names
from beholder.errors import InputError
from beholder.io import records, writing
from beholder.io.schemas import fit_column, fit_table
from beholder.io.tables import stamped
from beholder.kernels.scoring import RowScorer
from beholder.models.heads import Head
from beholder.pixels.picture import Trait
from beholder.scoring import files
from beholder.scoring.files import EMBEDDING, Reject, WriteOptions
from beholder.scoring.shards import EarlierShard, Shard, ShardResult, fingerprint
from beholder.sources.labels import join_labels
from beholder.sources.reader import DIGEST_BYTES, LateLabels

EMBED_STAGE = "embed"
_MEASURED = pa.schema([
    (columns.WIDTH, pa.int32()), (columns.HEIGHT, pa.int32()), (columns.TRAITS, pa.string()), (columns.NUM_BYTES, pa.int64())
])  # fmt: skip
_PATH, _SIZE, _STAMP, _DIGEST, _SCORES = "path", "size", "stamp", "digest", "scores"
_FIELDS = {
    _PATH: pa.large_binary(), _SIZE: pa.int64(), _STAMP: pa.int64(), _DIGEST: pa.binary(DIGEST_BYTES),
    columns.WIDTH: pa.int64(), columns.HEIGHT: pa.int64(), columns.TRAITS: pa.int64(), columns.NUM_BYTES: pa.int64(),
}  # fmt: skip
"""Columns of the table of pictures that are fields of `PictureRow`."""
_REJECT = (columns.STAGE, columns.REASON, columns.MESSAGE)
_OF_THIS_PROCESS = ("num_lanes", "drift", "self_check")
"""Of what is known of precision: other processes with the same results know something else, and write the same files."""
_METADATA = {"format": columns.INPUTS_FORMAT, "version": columns.FORMAT_VERSION}
_MOST_OPEN = 8
"""Tables of earlier shards that are held at a time; an unchanged order of pictures needs two."""


@dataclass(slots=True)
class PictureRow:
    """One picture: what it is, and what a run found of it.

    Attributes:
        path: what names it in later runs; None where nothing does.
        size, stamp: how its file looked.
        digest: of the file's contents, where it is a file of its own and could be read.
        reject: why it was rejected.
        width, height, traits, num_bytes: as stored; 0 where unknown.
        scores: (H,) float32; None before they are known, and of rejected pictures.
        embedding: (D,) as written; None where none is kept, and of rejected pictures.
    """

    path: bytes | None
    size: int
    stamp: int
    digest: bytes | None = None
    width: int = 0
    height: int = 0
    traits: Trait = Trait.NONE
    num_bytes: int = 0
    reject: Reject | None = None
    scores: npt.NDArray[np.float32] | None = None
    embedding: npt.NDArray[Any] | None = None


@dataclass
class Noted:
    """What was seen of the pictures of earlier runs while a shard was done.

    Attributes:
        present: numbers (of `EarlierRows`) of those that are among the sources still.
        num_changed: how many are there and are not what they were.
        num_retried: how many were rejected for a passing reason and tried again.
    """

    present: list[int] = field(default_factory=list)
    num_changed: int = 0
    num_retried: int = 0


@dataclass(eq=False)
class EmbeddedShard:
    """What became of a shard's pictures.

    Attributes:
        labels: tables of N rows together, `sample` first.
        rows: N, in order.
        late, remarks: as of `reader.PictureBlock`.
        num_rows: N, once the source has been read to the shard's end.
        num_done: pictures whose end is known.
        noted: what was seen of earlier runs' pictures on the way.
    """

    shard: Shard
    labels: list[pa.Table] = field(default_factory=list)
    rows: list[PictureRow] = field(default_factory=list)
    late: list[LateLabels] = field(default_factory=list)
    remarks: dict[str, int] = field(default_factory=dict)
    num_rows: int | None = None
    num_done: int = 0
    noted: Noted = field(default_factory=Noted)

    @property
    def is_complete(self) -> bool:
        """Whether every picture has its embedding or its reason."""
        return self.num_rows is not None and self.num_done == self.num_rows

    def take_over(self, at: int, found: PictureRow) -> None:
        """What an earlier run found of the picture of this number is what becomes of it."""
        self.rows[at] = replace(found, size=self.rows[at].size, stamp=self.rows[at].stamp)
        self.num_done += 1


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
        made = {key: value for key, value in self._stamp.get("precision", {}).items() if key not in _OF_THIS_PROCESS}
        self._file_stamp = self._stamp | ({"precision": made} if made else {})
        self._keep, self._keep_folder = keep, keep_folder
        self.score_names = score_column_names([head.name for head in heads]) if heads else []
        if len(set(self.score_names)) < len(self.score_names):
            raise InputError("the same head was named twice; name each head once")
        for head in heads:
            if head.dim != dim:
                raise InputError(f"{head.name} needs {head.dim} dimensions, this tower gives {dim}; use a head made for it")
        self.dim = dim
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
            files.check_csv_names(named.names)
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
        return self._with_heads(self._stamp)

    @property
    def file_metadata(self) -> Mapping[str, Any]:
        """The same for the schema of Parquet files, which are the same whichever process writes them."""
        return self._with_heads(self._file_stamp)

    @property
    def beside(self) -> Mapping[str, Mapping[str, Any]]:
        """The stamp of kept embeddings, by its name in the folder of a run."""
        return {f"{self._keep_folder}/{columns.STAMP_FILE}": self._file_stamp} if self._keep and self._keep_folder else {}

    def _with_heads(self, stamp: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self.heads:
            return stamp
        return {
            **stamp,
            "format": columns.SCORE_SET_FORMAT,
            "score_columns": self.score_names,
            "heads": [head.describe() for head in self.heads],
        }

    def file_names(self, shard: Shard) -> list[str]:
        """Every file that `write` may make for the shard, relative to the run's folder."""
        names = [*files.score_files(shard.name, as_csv=self.as_csv), inputs_file(shard.name)]
        if not self.heads:
            names = names[1:]
        if self._keep is not None:
            names += [
                str(Path(self._keep_folder) / name) for name in files.embedding_files(shard.number, shard.name, self._keep)
            ]
        return names

    def finish(self, rows: Sequence[PictureRow], embeddings: npt.NDArray[np.float32]) -> None:
        """Score embedded pictures, (B, D) float32; the embeddings are kept only if they are to be written.

        Raises InputError for an embedding that cannot be written as asked for.
        """
        scores, statuses = self._score(embeddings)
        for row, found, status in zip(rows, scores, statuses.tolist(), strict=True):
            if status:
                row.reject = (EMBED_STAGE, RowStatus(status).word, REASON_TEXT[RowStatus(status)])
            else:
                row.scores = found
        if self._keep is not None:
            kept = files.ready_rows(embeddings[statuses == 0], self._keep)
            for row, embedding in zip((row for row in rows if row.reject is None), kept, strict=True):
                row.embedding = embedding

    def write(self, shard: Shard, found: EmbeddedShard, folder: Path) -> ShardResult:
        """Write the files of one shard below `folder`, each whole or not at all; embeddings are let go of on the way.

        Args:
            shard: names the files; its number is that of the files of clip-retrieval's layout.
            found: the embedded pictures.
            folder: the run's folder.
        """
        rows, remarks = found.rows, dict(found.remarks)
        good = [at for at, row in enumerate(rows) if row.reject is None]
        scores = np.full((len(rows), len(self.heads)), np.nan, np.float32)
        if good:
            scores[good] = np.stack([one for at in good if (one := rows[at].scores) is not None])
        labels = self._labels(found, remarks)
        assert labels.num_rows == len(rows), "pictures were lost"
        rejects = {at: row.reject for at, row in enumerate(rows) if row.reject is not None}
        with files.shard_rows(
            folder, shard.name, self.schema, self.score_names, as_csv=self.as_csv, metadata=self.file_metadata
        ) as out:
            out.write(labels, scores, rejects)
        result = out.result()
        written = dict(result.files)
        if self._keep is not None:
            embeddings = np.empty((len(good), self.dim), self._keep.dtype)
            for place, at in enumerate(good):  # one copy is held
                embeddings[place] = rows[at].embedding
                rows[at].embedding = None
            written |= self._write_embeddings(shard, labels.take(pa.array(good, pa.int64())), embeddings, folder)
        table, name = _inputs_table(rows, scores), inputs_file(shard.name)
        files.write_parquet(folder / name, [table], stamped(table.schema, _METADATA))
        written[name] = (folder / name).stat().st_size
        traits: Counter[str] = Counter()
        for kind, count in Counter(int(row.traits) for row in rows).items():
            traits.update(dict.fromkeys(trait_words(kind), count))
        return replace(result, files=written, traits=dict(traits), remarks=remarks)

    def _labels(self, found: EmbeddedShard, remarks: dict[str, int]) -> pa.Table:
        """What is known of each picture in the columns that were decided: what the source said, and what was measured."""
        tables = found.labels or [pa.table({columns.SAMPLE: pa.array([], pa.string())})]
        said = [self._renamed(table) for table in tables]
        late = [LateLabels(one.rows, self._renamed(one.said)) for one in found.late]
        labels = join_labels(said, self.schema, late=late, remarks=remarks)
        given = {name for table in (*said, *(one.said for one in late)) for name in table.column_names}
        for item in _MEASURED:
            name = item.name
            if name not in given and name in labels.column_names:
                values: list[Any] = [getattr(row, name) if row.width > 0 else None for row in found.rows]
                if name == columns.TRAITS:
                    values = [",".join(trait_words(int(row.traits))) for row in found.rows]
                column = pa.array(values, item.type)
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

    def _write_embeddings(self, shard: Shard, labels: pa.Table, embeddings: npt.NDArray[Any], folder: Path) -> dict[str, int]:
        assert self._keep is not None
        place = folder / self._keep_folder
        written = files.write_embeddings(place, shard.number, shard.name, embeddings, labels, self._keep, self._file_stamp)
        if self._keep_folder and written and not self._is_stamped(place / columns.STAMP_FILE):
            writing.write_bytes(str(place / columns.STAMP_FILE), records.sealed(self._file_stamp, indent=2))
        return {str(Path(self._keep_folder) / name): size for name, size in written.items()}

    def _is_stamped(self, stamp: Path) -> bool:
        """Whether a stamp is there that can be read and tells of the present sources."""
        try:
            found = records.read(str(stamp)) if stamp.is_file() else {}
        except records.DamagedRecordError:
            return False
        return bool(found) and found.get(columns.PICTURES) == self._stamp.get(columns.PICTURES)

    def labels_of(self, earlier: EarlierShard) -> pa.Table:
        """What an earlier run wrote of a shard's pictures besides scores and embeddings, in order; of rejected ones little.

        Columns have the names that they have in results.
        """
        rows = files.read_rows(earlier, self.score_names, as_csv=self.as_csv)
        tables = [labels for labels, _, _ in rows]
        if self.as_csv:
            return pa.concat_tables(tables)
        if self._keep is not None and not self.heads:
            tables.insert(0, files.read_labels(earlier, self._keep))
        fitted = [fit_table(table, self.schema)[0] for table in tables]
        reasons = _read_inputs(earlier, [columns.REASON]).column(columns.REASON)
        is_rejected = reasons.is_valid().to_numpy()
        places = np.empty(len(is_rejected), np.int64)
        places[np.argsort(is_rejected, kind="stable")] = np.arange(len(is_rejected))
        return pa.concat_tables(fitted).take(pa.array(places))

    def read(self, earlier: EarlierShard) -> list[PictureRow]:
        """What an earlier run found of the pictures of a shard."""
        table = _read_inputs(earlier)
        rows = [PictureRow(*values) for values in zip(*(table.column(name).to_pylist() for name in _FIELDS), strict=True)]
        said = zip(*(table.column(name).to_pylist() for name in _REJECT), strict=True)
        for row, reject in zip(rows, said, strict=True):
            row.traits = Trait(row.traits)
            row.reject = reject if reject[1] is not None else None
        good = [row for row in rows if row.reject is None]
        scores = np.zeros((len(good), 0), np.float32)
        if self.heads and good:
            scores = np.concatenate([chunk.flatten().to_numpy() for chunk in table.column(_SCORES).chunks])
            scores = scores.reshape(len(rows), -1)[[row.reject is None for row in rows]]
        for row, found in zip(good, scores, strict=True):
            row.scores = found
        if self._keep is not None and good:
            own = (columns.IMAGES_FOLDER, columns.METADATA_FOLDER, columns.EMBEDDINGS_FOLDER)
            prefixes = tuple(str(Path(self._keep_folder) / folder) + "/" for folder in own)
            names = [name for name in earlier.result.files if name.startswith(prefixes)]
            for row, embedding in zip(good, files.read_embeddings(earlier, names, self._keep), strict=True):
                row.embedding = embedding
        return rows


def inputs_file(stem: str) -> str:
    """Where the table of a shard stands, relative to the run's folder."""
    return f"{columns.INPUTS_FOLDER}/{stem}.parquet"


def packed_path(part: str, row: int) -> bytes:
    """What stands for the path of a picture that is a piece of a file: no file has such a name."""
    return b"\0" + part.encode() + b"\0%d" % row


def packed_state(identity: Mapping[str, Any]) -> tuple[int, int]:
    """What stands for size and time of such a picture: a number made of how its file looked."""
    return 0, int(fingerprint(identity), 16) >> 1


@lru_cache(maxsize=256)
def trait_words(traits: int) -> tuple[str, ...]:
    """The words of the traits (of `Trait`) that are set, in a fixed order: "rotated", "palette", ..."""
    return tuple(trait.name.lower() for trait in Trait if trait and trait in Trait(traits) and trait.name)


def _inputs_table(rows: Sequence[PictureRow], scores: npt.NDArray[np.float32]) -> pa.Table:
    """The table of a shard's N pictures; scores: (N, H) float32, NaN where rejected."""
    named = {name: pa.array([getattr(row, name) for row in rows], kind) for name, kind in _FIELDS.items()}
    for number, name in enumerate(_REJECT):
        named[name] = pa.array([None if row.reject is None else row.reject[number] for row in rows], pa.string())
    if scores.shape[1]:
        named[_SCORES] = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(scores).reshape(-1)), scores.shape[1])
    return pa.table(named)


def _read_inputs(shard: EarlierShard, names: Sequence[str] | None = None) -> pa.Table:
    with files.open_earlier(shard, inputs_file(shard.name)) as file:
        return file.read(names)


def states_of(shard: EarlierShard) -> tuple[list[bytes | None], npt.NDArray[np.int64], list[bytes | None]]:
    """Paths of a shard's pictures; their sizes and stamps, (N, 2) int64; digests of their contents."""
    table = _read_inputs(shard, [_PATH, _SIZE, _STAMP, _DIGEST])
    states = np.stack([table.column(name).to_numpy() for name in (_SIZE, _STAMP)], axis=1)
    return table.column(_PATH).to_pylist(), states, table.column(_DIGEST).to_pylist()


def has_inputs(shard: EarlierShard) -> bool:
    """Whether a shard has a table of its pictures that can be read; without one all of it is done again."""
    if inputs_file(shard.name) not in shard.result.files:
        return False
    try:
        with files.open_earlier(shard, inputs_file(shard.name)) as file:
            return bool(file.metadata.num_rows == shard.result.num_read)
    except InputError:
        return False


Known = tuple[PictureRow, bool]
"""What earlier runs found of a picture, and whether its file is surely as it was; else its contents decide."""


class EarlierRows:
    """What earlier runs of the same options found, by the path of the picture; used by one thread at a time.

    16 bytes are held for each picture; the rest is read when it is asked for, a shard at a time.

    Args:
        shards: those with a table of their pictures; what stands before counts before.
        read: gives what an earlier run found of a shard's pictures.
        retry: whether pictures that were rejected for a passing reason are to be done again.
    """

    def __init__(
        self, shards: Sequence[EarlierShard], read: Callable[[EarlierShard], list[PictureRow]], *, retry: bool
    ) -> None:
        self._shards, self._read, self._retry = list(shards), read, retry
        hashes = [_hashes(_read_inputs(shard, [_PATH]).column(_PATH).to_pylist()) for shard in self._shards]
        self._starts = np.cumsum([0, *map(len, hashes)])
        joined = np.concatenate([np.zeros(0, np.uint64), *hashes])
        self._order = np.argsort(joined, kind="stable")
        self._hashes = joined[self._order]
        self._is_present = joined == _hashes([None])[0]
        self._open: OrderedDict[int, list[PictureRow]] = OrderedDict()
        self.num_changed = self.num_retried = 0

    def find(self, paths: Sequence[bytes | None], states: npt.NDArray[np.int64], noted: Noted) -> list[Known | None]:
        """What is known of these N pictures; None of those that have to be done anew.

        Args:
            paths: of the pictures.
            states: (N, 2) int64, size and stamp.
            noted: gets what was seen; `note` takes it in.
        """
        wanted = _hashes(paths)
        first, last = (np.searchsorted(self._hashes, wanted, side) for side in ("left", "right"))
        return [
            None if path is None else self._find(path, (first[row], last[row]), states[row], noted)
            for row, path in enumerate(paths)
        ]

    def _find(self, path: bytes, rows: tuple[int, int], state: npt.NDArray[np.int64], noted: Noted) -> Known | None:
        """The best of the rows of one path, which are among these in `_order`."""
        size, stamp = state.tolist()
        best: Known | None = None
        was_known = is_retried = False
        for number in self._order[slice(*rows)].tolist():
            at = int(np.searchsorted(self._starts, number, "right")) - 1
            row = self.rows(at)[number - int(self._starts[at])]
            if row.path != path:
                continue
            was_known = True
            noted.present.append(number)
            if best is not None:
                continue
            if self._retry and row.reject is not None and row.reject[1] in PASSING_REASONS:
                is_retried = True
            elif row.size == size and (row.stamp == stamp or row.digest is not None):
                best = row, bool(row.stamp == stamp)
        if was_known and best is None:
            noted.num_retried += is_retried
            noted.num_changed += not is_retried
        return best

    def note(self, noted: Noted) -> None:
        """Take in what `find` saw."""
        self._is_present[noted.present] = True
        self.num_changed += noted.num_changed
        self.num_retried += noted.num_retried

    def rows(self, at: int) -> list[PictureRow]:
        """What was found of the pictures of the shard of this number."""
        found = self._open.get(at)
        if found is None:
            found = self._open[at] = self._read(self._shards[at])
            if len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
        else:
            self._open.move_to_end(at)
        return found

    def holds_any(self, paths: Sequence[bytes | None]) -> bool:
        """Whether one of these pictures is known."""
        wanted = _hashes([path for path in paths if path is not None])
        at = np.searchsorted(self._hashes, wanted)
        inside = at < len(self._hashes)
        return bool((self._hashes[at[inside]] == wanted[inside]).any())

    def note_present(self, paths: Iterable[bytes | None]) -> None:
        """Note that these pictures are among the sources."""
        wanted = _hashes(list(paths))
        first, last = (np.searchsorted(self._hashes, wanted, side) for side in ("left", "right"))
        for low, high in zip(first.tolist(), last.tolist(), strict=True):
            self._is_present[self._order[low:high]] = True

    def vanished(self) -> list[tuple[EarlierShard, npt.NDArray[np.bool_]]]:
        """Per shard its rows, (N,) bool, whose picture is not among the sources that were looked up; each path once."""
        is_gone = ~self._is_present
        again = np.zeros(len(is_gone), bool)
        gone_in_order = is_gone[self._order]
        same = np.zeros(len(is_gone), bool)
        same[1:] = (self._hashes[1:] == self._hashes[:-1]) & gone_in_order[:-1]
        again[self._order] = same
        is_gone &= ~again
        edges = zip(self._starts[:-1], self._starts[1:], strict=True)
        return [(shard, is_gone[low:high]) for shard, (low, high) in zip(self._shards, edges, strict=True)]


def _hashes(paths: Sequence[bytes | None]) -> npt.NDArray[np.uint64]:
    """8 bytes of each path, (N,) uint64."""
    made = b"".join(hashlib.blake2b(path or b"", digest_size=8).digest() for path in paths)
    return np.frombuffer(made, np.uint64)
