"""What became of each picture of a shard, and the table that keeps it for later runs, a row a picture.

The table says which file a picture is and how it looked (bytes, time, digest), and all that came of it but its embedding. So a
later run can take over what it finds of files that have not changed.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder import columns
from beholder.columns import PASSING_REASONS
from beholder.errors import InputError
from beholder.io import storage
from beholder.pixels.picture import Trait
from beholder.scoring.embedding_files import WriteOptions, read_shard
from beholder.scoring.shards import EarlierShard, Shard, fingerprint
from beholder.sources.reader import DIGEST_BYTES, LateLabels

PATH, SIZE, STAMP, DIGEST, SCORES = "path", "size", "stamp", "digest", "scores"
METADATA = {"format": columns.INPUTS_FORMAT, "version": columns.FORMAT_VERSION}
_MOST_OPEN = 8
"""Tables of earlier shards that are held at a time; an unchanged order of pictures needs two."""


def inputs_file(stem: str) -> str:
    """Where the table of a shard stands, relative to the run's folder."""
    return f"{columns.INPUTS_FOLDER}/{stem}.parquet"


def packed_path(part: str, row: int) -> bytes:
    """What stands for the path of a picture that is a piece of a file: no file has such a name."""
    return b"\0" + part.encode() + b"\0%d" % row


def packed_state(identity: Mapping[str, Any]) -> tuple[int, int]:
    """What stands for size and time of such a picture: a number made of how its file looked."""
    return 0, int(fingerprint(identity), 16) >> 1


@dataclass(frozen=True)
class ScoredRows:
    """What is kept of some embedded pictures until their shard is written.

    Attributes:
        rows: (B,) int64, their numbers in the shard.
        scores: (B, H) float32, one column a head.
        statuses: (B,) uint8, `RowStatus`.
        embeddings: (B, D) as they are written; None where they are not wanted: 100,000 pictures of L/14 are 150 MB.
    """

    rows: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    statuses: npt.NDArray[np.uint8]
    embeddings: npt.NDArray[Any] | None


@dataclass
class EmbeddedShard:
    """What became of a shard's pictures; lists and arrays have one entry per picture, in order.

    Attributes:
        labels: tables of N rows together, `sample` first.
        scored: the pictures that have an embedding, batch by batch.
        widths, heights, traits, num_bytes: as stored; 0 where unknown.
        paths, states, digests: what the pictures are, and how their files looked; see `scoring.inputs.inputs_table`. `states`
            is in pieces.
        late, remarks: as of `pixels.picture.PictureBlock`.
        rejects: picture number -> (stage, reason, message).
        num_rows: N, once the source has been read to the shard's end.
        num_done: pictures whose end is known.
    """

    shard: Shard
    labels: list[pa.Table] = field(default_factory=list)
    scored: list[ScoredRows] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    traits: list[Trait] = field(default_factory=list)
    num_bytes: list[int] = field(default_factory=list)
    paths: list[bytes | None] = field(default_factory=list)
    states: list[npt.NDArray[np.int64]] = field(default_factory=list)
    digests: list[bytes | None] = field(default_factory=list)
    late: list[LateLabels] = field(default_factory=list)
    remarks: dict[str, int] = field(default_factory=dict)
    rejects: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    num_rows: int | None = None
    num_done: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether every picture has its embedding or its reason."""
        return self.num_rows is not None and self.num_done == self.num_rows

    def begin(self, paths: Sequence[bytes | None], states: npt.NDArray[np.int64]) -> None:
        """Make room for pictures whose end is not known yet."""
        num_rows = len(paths)
        self.widths += [0] * num_rows
        self.heights += [0] * num_rows
        self.traits += [Trait.NONE] * num_rows
        self.num_bytes += [0] * num_rows
        self.digests += [None] * num_rows
        self.states.append(states)
        self.paths += paths

    def describe(self, row: int, width: int, height: int, traits: Trait, num_bytes: int) -> None:
        """Note what is known of a picture."""
        self.widths[row], self.heights[row], self.traits[row], self.num_bytes[row] = width, height, traits, num_bytes


class FoundRow(NamedTuple):
    """What a run found of one picture.

    Attributes:
        digest: of the file's contents, where it is a file of its own and could be read.
        reject: (stage, reason, message), or None.
        width, height, traits, num_bytes: as of `scoring.pictures_step.EmbeddedShard`.
        scores: (H,) float32.
        embedding: (D,) as written; None where none is kept, and of rejected pictures.
    """

    digest: bytes | None
    reject: tuple[str, str, str] | None
    width: int
    height: int
    traits: Trait
    num_bytes: int
    scores: npt.NDArray[np.float32]
    embedding: npt.NDArray[Any] | None


@dataclass(frozen=True)
class Known:
    """What earlier runs know of a picture.

    Attributes:
        found: what they found of it; None where it has to be done anew.
        is_same: whether the file is surely as it was; else its contents decide.
    """

    found: FoundRow | None
    is_same: bool = False


def inputs_table(
    found: EmbeddedShard, rejects: Mapping[int, tuple[str, str, str]], scores: npt.NDArray[np.float32]
) -> pa.Table:
    """The table of a shard's N pictures.

    Args:
        found: the shard.
        rejects: picture number -> (stage, reason, message).
        scores: (N, H) float32, NaN where rejected.
    """
    num_rows, num_heads = scores.shape
    states = np.concatenate([np.zeros((0, 2), np.int64), *found.states])
    words = [[rejects[row][i] if row in rejects else None for row in range(num_rows)] for i in range(3)]
    measured: Sequence[Sequence[int]] = (found.widths, found.heights, found.traits, found.num_bytes)
    named = {
        PATH: pa.array(found.paths, pa.large_binary()),
        SIZE: pa.array(states[:, 0]),
        STAMP: pa.array(states[:, 1]),
        DIGEST: pa.array(found.digests, pa.binary(DIGEST_BYTES)),
        **{name: pa.array(said, pa.string()) for name, said in zip(_REJECT, words, strict=True)},
        **{name: pa.array(list(map(int, said)), pa.int64()) for name, said in zip(_MEASURED, measured, strict=True)},
    }
    if num_heads:
        named[SCORES] = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(scores).reshape(-1)), num_heads)
    return pa.table(named)


_REJECT = (columns.STAGE, columns.REASON, columns.MESSAGE)
_MEASURED = (columns.WIDTH, columns.HEIGHT, columns.TRAITS, columns.NUM_BYTES)


class _Opened:
    """The table of one earlier shard in memory, and its kept embeddings, once they are asked for."""

    def __init__(self, shard: EarlierShard, keep: WriteOptions | None, keep_folder: str) -> None:
        table = _read(shard)
        self._shard, self._keep, self._keep_folder = shard, keep, keep_folder
        self.paths: list[bytes | None] = table.column(PATH).to_pylist()
        self.sizes = table.column(SIZE).to_numpy()
        self.stamps = table.column(STAMP).to_numpy()
        self.digests: list[bytes | None] = table.column(DIGEST).to_pylist()
        self._rejects = list(zip(*(table.column(name).to_pylist() for name in _REJECT), strict=True))
        self._measured = {name: table.column(name).to_pylist() for name in _MEASURED}
        self._scores = np.zeros((table.num_rows, 0), np.float32)
        if SCORES in table.column_names and table.num_rows:
            chunks = table.column(SCORES).chunks
            self._scores = np.concatenate([chunk.flatten().to_numpy() for chunk in chunks]).reshape(table.num_rows, -1)
        self._place = np.cumsum([reason is None for _, reason, _ in self._rejects]) - 1
        self._embeddings: npt.NDArray[Any] | None = None

    def reason(self, row: int) -> str | None:
        """Why a picture was rejected; None where it was not."""
        word: str | None = self._rejects[row][1]
        return word

    def row(self, row: int) -> FoundRow:
        """What was found of a picture."""
        stage, reason, message = self._rejects[row]
        embedding = None
        if reason is None and self._keep is not None:
            if self._embeddings is None:
                self._embeddings = self._read_embeddings()
            embedding = self._embeddings[self._place[row]]
        width, height, traits, num_bytes = (self._measured[name][row] for name in _MEASURED)
        reject = None if reason is None else (stage, reason, message)
        return FoundRow(self.digests[row], reject, width, height, Trait(traits), num_bytes, self._scores[row], embedding)

    def _read_embeddings(self) -> npt.NDArray[Any]:
        assert self._keep is not None
        inside = f"{self._keep_folder}/" if self._keep_folder else ""
        own = (columns.IMAGES_FOLDER, columns.METADATA_FOLDER, columns.EMBEDDINGS_FOLDER)
        prefixes = tuple(f"{inside}{folder}/" for folder in own)
        names = [name for name in self._shard.result.files if name.startswith(prefixes)]
        return read_shard(self._shard.folder, names, self._keep)


def _read(shard: EarlierShard, names: Sequence[str] | None = None) -> pa.Table:
    with storage.open_parquet(str(shard.folder / inputs_file(shard.name))) as file:
        return file.read(names)


class EarlierRows:
    """What earlier runs of the same options found, by the path of the picture; used by one thread at a time.

    16 bytes are held for each picture; the rest is read when it is asked for, a shard at a time.

    Args:
        shards: those with a table of their pictures; what stands before counts before.
        keep: how embeddings are kept; None: they are not.
        keep_folder: where below a run's folder.
        retry: whether pictures that were rejected for a passing reason are to be done again.
    """

    def __init__(self, shards: Sequence[EarlierShard], keep: WriteOptions | None, keep_folder: str, *, retry: bool) -> None:
        self._shards, self._keep, self._keep_folder, self._retry = list(shards), keep, keep_folder, retry
        hashes = [_hashes(_paths(shard)) for shard in self._shards]
        self._starts = np.cumsum([0, *map(len, hashes)])
        joined = np.concatenate([np.zeros(0, np.uint64), *hashes])
        self._order = np.argsort(joined, kind="stable")
        self._hashes = joined[self._order]
        self._is_present = joined == _hashes([None])[0]
        self._open: OrderedDict[int, _Opened] = OrderedDict()
        self.num_changed = self.num_retried = 0

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._hashes)

    def find(self, paths: Sequence[bytes | None], states: npt.NDArray[np.int64]) -> list[Known]:
        """What is known of these N pictures; states: (N, 2) int64, size and stamp. Notes that they are among the sources."""
        wanted = _hashes(paths)
        first, last = (np.searchsorted(self._hashes, wanted, side) for side in ("left", "right"))
        found = []
        for row, path in enumerate(paths):
            known = None if path is None else self._find(path, first[row], last[row], *states[row])
            found.append(known or Known(None))
        return found

    def _find(self, path: bytes, first: int, last: int, size: int, stamp: int) -> Known | None:
        """The best of the rows of one path; None where none is known."""
        best: Known | None = None
        was_known = is_retried = False
        for number in self._order[first:last].tolist():
            at = int(np.searchsorted(self._starts, number, "right")) - 1
            row = number - int(self._starts[at])
            opened = self._opened(at)
            if opened.paths[row] != path:
                continue
            was_known = self._is_present[number] = True
            if best is not None:
                continue
            if self._retry and opened.reason(row) in PASSING_REASONS:
                is_retried = True
            elif opened.sizes[row] != size:
                continue
            elif opened.stamps[row] == stamp:
                best = Known(opened.row(row), is_same=True)
            elif opened.digests[row] is not None:
                best = Known(opened.row(row))
        if was_known and best is None:
            self.num_retried += is_retried
            self.num_changed += not is_retried
        return best or (Known(None) if was_known else None)

    def _opened(self, at: int) -> _Opened:
        found = self._open.get(at)
        if found is None:
            found = self._open[at] = _Opened(self._shards[at], self._keep, self._keep_folder)
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

    def rows(self, shard: int, rows: Sequence[int]) -> list[FoundRow]:
        """What was found of these rows of the shard of this number."""
        opened = self._opened(shard)
        return [opened.row(row) for row in rows]

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


def states_of(shard: EarlierShard) -> tuple[list[bytes | None], npt.NDArray[np.int64], list[bytes | None]]:
    """Paths of a shard's pictures; their sizes and stamps, (N, 2) int64; digests of their contents."""
    table = _read(shard, [PATH, SIZE, STAMP, DIGEST])
    states = np.stack([table.column(name).to_numpy() for name in (SIZE, STAMP)], axis=1)
    return table.column(PATH).to_pylist(), states, table.column(DIGEST).to_pylist()


def reasons_of(shard: EarlierShard) -> list[str | None]:
    """Why each of a shard's pictures was rejected; None for those that were not."""
    found: list[str | None] = _read(shard, [columns.REASON]).column(columns.REASON).to_pylist()
    return found


def has_inputs(shard: EarlierShard) -> bool:
    """Whether a shard has a table of its pictures that can be read (older versions wrote none)."""
    if inputs_file(shard.name) not in shard.result.files:
        return False
    try:
        with storage.open_parquet(str(Path(shard.folder) / inputs_file(shard.name))) as file:
            return bool(file.metadata.num_rows == shard.result.num_read)
    except InputError:
        return False


def _paths(shard: EarlierShard) -> list[bytes | None]:
    found: list[bytes | None] = _read(shard, [PATH]).column(PATH).to_pylist()
    return found


def _hashes(paths: Sequence[bytes | None]) -> npt.NDArray[np.uint64]:
    """8 bytes of each path, (N,) uint64."""
    made = b"".join(hashlib.blake2b(path or b"", digest_size=8).digest() for path in paths)
    return np.frombuffer(made, np.uint64)
