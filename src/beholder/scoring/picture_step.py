"""The step that embeds pictures: decode workers, the device and the writer of the last shard work side by side.

Batches are filled across files and shards.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.errors import BeholderError
from beholder.io.locations import is_local, local_path
from beholder.io.schemas import add_counts
from beholder.pixels.picture import PixelOptions, Trait
from beholder.scoring.pictures_shard import (
    EarlierRows,
    EmbeddedShard,
    Noted,
    PictureProduct,
    PictureRow,
    has_inputs,
    packed_path,
    packed_state,
    states_of,
)
from beholder.scoring.run import Step
from beholder.scoring.shards import KEPT_FROM, Changes, EarlierShard, Shard, ShardResult, kept_shard, plan_shards
from beholder.scoring.summary import PartSize, StageClock, Tally
from beholder.sources.folder import sizes_and_times
from beholder.sources.labels import picture_labels_schema
from beholder.sources.reader import PictureBlock, PicturePart, PictureRef, SourceOptions, contents_digest, picture_reader
from beholder.workers.pool import DecodePool, Outcome

if TYPE_CHECKING:
    from beholder.engine.engine import Engine

DECODE_STAGE = "decode"
_LEAST_SLOTS = 64


class _Work(NamedTuple):
    """A picture on its way: its shard and number; what earlier runs found of it, should its contents be as they were."""

    target: EmbeddedShard
    at: int
    earlier: PictureRow | None = None
    is_new: bool = True


@dataclass(frozen=True)
class _Taken:
    """Pictures of a shard that are taken over from earlier runs."""

    target: EmbeddedShard
    rows: list[tuple[int, PictureRow]]


class PictureStep(Step):
    """Embeds pictures and writes what `product` wants of them.

    Args:
        parts: where the pictures are.
        engine: the tower on its device; None: for planning only.
        product: what is written: scores, embeddings, or both.
        pixels: which pixels are wanted.
        source: how sources are read.
        num_workers: decode processes; 0 decodes in this one.
        timeout_s: seconds for one picture.
        shard_rows: most pictures of a shard (a tar is always one).
        record: JSON-ready: tower, pixels, precision: what decides embeddings.
    """

    def __init__(
        self,
        parts: Sequence[PicturePart],
        engine: Engine | None,
        product: PictureProduct,
        *,
        pixels: PixelOptions,
        source: SourceOptions,
        num_workers: int,
        timeout_s: float,
        shard_rows: int,
        record: Mapping[str, Any],
    ) -> None:
        self.parts, self.engine, self.product, self.pixels = list(parts), engine, product, pixels
        self._source, self._num_workers, self._timeout_s = source, num_workers, timeout_s
        self.shards = plan_shards(self.parts, _identity, shard_rows)
        self.product.use_columns(picture_labels_schema(self.parts, source))
        self.schema, self.provenance, self.file_metadata = product.schema, product.provenance, product.file_metadata
        self.beside, self.models = product.beside, [record["tower sha256"], *product.models]
        self.options = {
            **record,
            **product.options,
            "--column": list(source.columns),
            "--sample-column": source.sample_column,
            "--picture-column": source.picture_column,
            "--shard-rows": shard_rows,
        }
        self.names_files = any(part.kind == "table" for part in self.parts)
        self._by_name = {part.name: part for part in self.parts}
        self.tally = Tally(self.shards, [_size(part) for part in self.parts])
        self.stages = StageClock("decode", "tower")
        self._pool: DecodePool | None = None
        self._kept_open: contextlib.ExitStack | None = None
        self._slower_half = "decode"
        self._is_remote = False
        self._earlier: EarlierRows | None = None
        self._keeps = False

    def use_columns(self, recorded: Mapping[str, Any] | None) -> None:
        """Take over the columns of a run that is continued."""
        super().use_columns(recorded)
        self.product.schema = self.schema

    def waiting_for(self) -> str:
        """The stage that the device has lately waited for, or "tower" when it is busy; "" at first.

        "read" (sources and pictures), "network" (the same, where they are on servers), or "decode".
        """
        if self.asked_elsewhere is not None:
            return self.asked_elsewhere()
        stage, pool = self.stages.slowest(), self._pool
        if stage == "decode":
            stage = self._slower_half if pool is None else pool.stats.slowest
        if stage == "read" and self._is_remote:
            return "network"
        return stage

    @contextlib.contextmanager
    def staying_open(self) -> Iterator[None]:
        """Keep the decode workers from one `compute_each` to the next."""
        with contextlib.ExitStack() as self._kept_open:
            yield
        self._kept_open = self._pool = None

    def compute_each(self, shards: Iterable[Shard]) -> Generator[tuple[Shard, EmbeddedShard], None, None]:
        """Read, decode and embed the pictures of `shards`; the device goes on to the next shard without a pause.

        When a source fails, the shards before it are finished first.
        """
        assert self.engine is not None, "a step that was made for planning cannot compute"
        failed: BeholderError | None = None
        opened: deque[EmbeddedShard] = deque()
        with contextlib.ExitStack() as stack:
            pool = self._pool if self._kept_open is not None else None
            if pool is None:
                pool = (self._kept_open or stack).enter_context(self._new_pool(self.engine))
            self._pool = pool
            batches = _Batches(self.engine, pool, self.product, self.stages)
            groups = pool.map_groups(self._work(shards, opened))
            with contextlib.closing(groups):  # type: ignore[type-var]
                while True:
                    group = None
                    try:
                        with self.stages.measure("decode"):
                            group = next(groups, None)
                    except BeholderError as error:
                        failed = error
                    if group is None:
                        break
                    for (target, kind), outcomes in groupby(group, _kind_of):
                        if kind == _KNOWN:
                            self._take_known(target, list(outcomes))
                        else:
                            self._take_new(target, list(outcomes), batches, are_new=kind == _NEW)
                    yield from _completed(opened)
            self.tally.end()
            batches.finish()
            yield from _completed(opened)
            self._slower_half = pool.stats.slowest
            if self._kept_open is None:
                self._pool = None
        if failed is not None:
            raise failed
        assert not opened, "a shard was not completed"

    def _new_pool(self, engine: Engine) -> DecodePool:
        slots = max(_LEAST_SLOTS, 2 * engine.call_size) + 4 * self._num_workers
        return DecodePool(
            self.pixels,
            num_workers=self._num_workers,
            timeout_s=self._timeout_s,
            num_slots=slots,
            stands_back=engine.device.type != "cpu",  # beside a tower on the same cores time limits would be tighter
        )

    def _take_new(self, target: EmbeddedShard, outcomes: list[Outcome], batches: _Batches, *, are_new: bool) -> None:
        """Pictures of a shard that were decoded, or could not be."""
        sizes = [outcome.reply.num_bytes for outcome in outcomes]
        good: list[Outcome] = []
        rows: list[PictureRow] = []
        for outcome in outcomes:
            work: _Work = outcome.tag
            row, reply = target.rows[work.at], outcome.reply
            target.noted.num_changed += work.earlier is not None
            row.digest = reply.digest
            if reply.reason is not None:
                row.reject = (DECODE_STAGE, str(reply.reason), reply.message)
                continue
            row.width, row.height, row.traits, row.num_bytes = reply.width, reply.height, _traits(reply.traits), reply.num_bytes
            good.append(outcome)
            rows.append(row)
        num_rejected = len(outcomes) - len(good)
        self.tally.add(target.shard, len(outcomes), sum(sizes), num_rejected, are_new=are_new, each=sizes)
        target.num_done += num_rejected
        batches.add(target, rows, good)

    def _take_known(self, target: EmbeddedShard, outcomes: list[Outcome]) -> None:
        """Pictures of a shard whose files, or contents, are as they were."""
        for outcome in outcomes:
            tag: _Work | _Taken = outcome.tag
            if isinstance(tag, _Taken):
                self._take_over(target, tag.rows)
            else:
                assert tag.earlier is not None
                self._take_over(target, [(tag.at, tag.earlier)])

    def _take_over(self, target: EmbeddedShard, rows: Sequence[tuple[int, PictureRow]]) -> None:
        """Pictures of a shard of which earlier runs found all there is to know."""
        self.tally.add(target.shard, len(rows), 0, sum(found.reject is not None for _, found in rows), are_new=False)
        for at, found in rows:
            target.take_over(at, found)

    def is_current(self, shard: EarlierShard) -> bool:
        """Whether the local files that a list or table names are as they were; of other parts the identity says so."""
        part = self._by_name.get(shard.identity.get("name", ""))
        if part is None or part.kind != "table" or not has_inputs(shard):
            return True
        paths, states, digests = states_of(shard)
        names = [(at, os.fsdecode(path)) for at, path in enumerate(paths) if path is not None]
        local = [(at, name) for at, name in names if is_local(name)]
        now = sizes_and_times([name for _, name in local])
        for (at, name), (size, stamp) in zip(local, now.tolist(), strict=True):
            if size != states[at, 0]:
                return False
            if stamp != states[at, 1] and (digests[at] is None or _digest_of(name) != digests[at]):
                return False
        return True

    def knows_any(self, earlier: Sequence[EarlierShard]) -> bool:
        """Whether a picture, or a part that is one file, of earlier runs is among the sources."""
        names = {part.name for part in self.parts if part.kind not in ("files", "table")}
        by_name = {shard.identity.get("name") for shard in earlier}
        if names & by_name:
            return True
        usable = [shard for shard in earlier if has_inputs(shard)]
        if len(usable) < len(earlier) and {part.name for part in self.parts} & by_name:
            return True
        known = EarlierRows(usable, self.product.read, retry=False)
        shards = [shard for shard in self.shards if self.parts[shard.part].kind in ("files", "table")]
        for shard, block in self._blocks(shards):
            if block is not None and known.holds_any(self._inputs(shard, block, 0)[0]):
                return True
        return False

    def take_earlier(self, earlier: Sequence[EarlierShard], done: Sequence[EarlierShard], *, retry: bool) -> None:
        """Take over what earlier runs found of the pictures that have not changed."""
        usable = [shard for shard in earlier if has_inputs(shard)]
        self._earlier = EarlierRows(usable, self.product.read, retry=retry)
        for shard in done:
            if has_inputs(shard):
                self._earlier.note_present(states_of(shard)[0])

    def kept(self) -> Iterator[tuple[Shard, EmbeddedShard]]:
        """What earlier runs found of pictures that have vanished, as shards of their own."""
        self._keeps = True
        if self._earlier is None:
            return
        number = 0
        for at, (earlier, gone) in enumerate(self._earlier.vanished()):
            if not gone.any():
                continue
            shard = kept_shard(number, earlier, len(self.shards))
            number += 1
            labels = self.product.labels_of(earlier).filter(pa.array(gone))
            rows = [row for row, is_gone in zip(self._earlier.rows(at), gone, strict=True) if is_gone]
            yield shard, EmbeddedShard(shard, [labels], rows, num_rows=len(rows), num_done=len(rows))

    def changes(self) -> Changes:
        """How the pictures differ from those of earlier runs."""
        if self._earlier is None:
            return Changes()
        gone = [(shard, int(rows.sum())) for shard, rows in self._earlier.vanished()]
        num_vanished = sum(count for shard, count in gone if not (self._keeps and KEPT_FROM in shard.identity))
        return Changes(self._earlier.num_changed, num_vanished, self._earlier.num_retried)

    def noted(self, computed: EmbeddedShard) -> Noted:
        """What was seen of earlier runs' pictures on the way."""
        return computed.noted

    def note(self, noted: Noted) -> None:
        """Take in what was seen of earlier runs' pictures in a shard that is done."""
        if self._earlier is not None:
            self._earlier.note(noted)

    def _blocks(self, shards: Iterable[Shard]) -> Iterator[tuple[Shard, Any]]:
        """(shard, block) of all shards in order, and (shard, None) at the end of each; the pool reads it in a thread."""
        for shard in shards:
            part = self.parts[shard.part]
            self._is_remote = not is_local(part.path)
            for block in picture_reader(part.kind).blocks(part, shard.start, shard.stop, self._source):
                self._is_remote |= any(ref.path is not None and not is_local(ref.path) for ref in block.refs[:1])
                yield shard, block
            yield shard, None

    def _work(self, shards: Iterable[Shard], opened: deque[EmbeddedShard]) -> Iterator[list[tuple[_Work | _Taken, PictureRef]]]:
        """What is to be done for the shards, a block at a time, in order; each shard is added to `opened` when it begins."""
        current: EmbeddedShard | None = None
        row = 0
        for shard, block in self._blocks(shards):
            if current is None:
                current, row = EmbeddedShard(shard), 0
                opened.append(current)
            if block is None:
                current.num_rows, current = row, None
                continue
            assert len(block.refs) == block.labels.num_rows, "a source gave labels for other pictures"
            current.labels.append(block.labels)
            current.late += [block.late] if block.late is not None else []
            add_counts(current.remarks, block.remarks)
            paths, states = self._inputs(shard, block, row)
            current.rows += [PictureRow(path, *state) for path, state in zip(paths, states.tolist(), strict=True)]
            known = [None] * len(paths) if self._earlier is None else self._earlier.find(paths, states, current.noted)
            taken = [(at, one[0]) for at, one in enumerate(known, row) if one is not None and one[1]]
            group: list[tuple[_Work | _Taken, PictureRef]] = []
            if taken:
                group.append((_Taken(current, taken), PictureRef(is_done=True)))
            for at, (ref, path, one) in enumerate(zip(block.refs, paths, known, strict=True), row):
                found, is_same = one or (None, False)
                if is_same:
                    continue
                if found is not None:
                    ref = replace(ref, known=found.digest)
                group.append((_Work(current, at, found, path is not None or self._earlier is None), ref))
            row += len(paths)
            yield group

    def _inputs(self, shard: Shard, block: PictureBlock, first: int) -> tuple[Sequence[bytes | None], npt.NDArray[np.int64]]:
        """What names each picture of a block in later runs, and how its file looked: (N, 2) int64."""
        part = self.parts[shard.part]
        if part.kind in ("files", "table"):
            states = block.states
            if states is None:  # (a list has been read, not the files in it)
                states = np.zeros((len(block.refs), 2), np.int64)
                named = [at for at, ref in enumerate(block.refs) if ref.path is not None]
                states[named] = sizes_and_times([block.refs[at].path or "" for at in named])
            return [None if ref.path is None else os.fsencode(ref.path) for ref in block.refs], states
        name = part.name
        paths = [packed_path(name, shard.start + first + at) for at in range(len(block.refs))]
        return paths, np.full((len(paths), 2), packed_state(shard.identity), np.int64)

    def file_names(self, shard: Shard) -> Sequence[str]:
        """What the product may write of the shard."""
        return self.product.file_names(shard)

    def write(self, shard: Shard, computed: EmbeddedShard, folder: str) -> ShardResult:
        """Write what the product wants of the shard below `folder`."""
        return self.product.write(shard, computed, Path(folder))


def _digest_of(path: str) -> bytes | None:
    """The digest of a local file's contents; None where it cannot be read."""
    try:
        return contents_digest(local_path(path).read_bytes())
    except OSError:
        return None


_KNOWN, _AGAIN, _NEW = range(3)
"""Pictures that need not be decoded; those that were and count as done by an earlier run; all others."""


def _kind_of(outcome: Outcome) -> tuple[EmbeddedShard, int]:
    """The shard of a picture, and whether it is taken over."""
    tag: _Work | _Taken = outcome.tag
    if outcome.reply.are_known or isinstance(tag, _Taken):
        return tag.target, _KNOWN
    return tag.target, _NEW if tag.is_new else _AGAIN


@lru_cache(maxsize=256)
def _traits(bits: int) -> Trait:
    return Trait(bits)


def _completed(opened: deque[EmbeddedShard]) -> Iterator[tuple[Shard, EmbeddedShard]]:
    """Shards that are complete, in order."""
    while opened and opened[0].is_complete:
        done = opened.popleft()
        yield done.shard, done


_Owners = tuple[EmbeddedShard, list[PictureRow]]
"""Pictures of one shard that stand together in a batch."""


class _Batches:
    """Fills calls of the engine with pixels, and has the product finish the pictures with their embeddings.

    One call is under way while the next one fills, so there are two arrays of pixels, used in turn.
    """

    def __init__(self, engine: Engine, pool: DecodePool, product: PictureProduct, clock: StageClock) -> None:
        self._engine, self._pool, self._product, self._clock = engine, pool, product, clock
        self._spare: list[npt.NDArray[np.uint8]] = []
        self._filling = self._fresh()
        self._num_filled = 0
        self._owners: list[_Owners] = []
        self._running: deque[tuple[list[_Owners], npt.NDArray[np.uint8], Any]] = deque()

    def _fresh(self) -> npt.NDArray[np.uint8]:
        """An array of the size the engine wants now (it learns a better one, or runs out of memory)."""
        size, side = self._engine.call_size, self._engine.image_px
        found = self._spare.pop() if self._spare else None
        return found if found is not None and len(found) == size else np.empty((size, side, side, 3), np.uint8)

    def add(self, target: EmbeddedShard, rows: list[PictureRow], outcomes: list[Outcome]) -> None:
        """Take the pixels of pictures of a shard; whatever is a whole call is handed over."""
        start = 0
        while start < len(rows):
            at = self._num_filled
            stop = min(len(rows), start + len(self._filling) - at)
            self._num_filled += stop - start
            self._pool.take(outcomes[start:stop], self._filling[at : self._num_filled])
            self._owners.append((target, rows[start:stop]))
            if self._num_filled == len(self._filling):
                self._send()
            start = stop

    def finish(self) -> None:
        """Send what is left and wait for everything."""
        if self._owners:
            self._send()
        while self._running:
            self._receive()

    def _send(self) -> None:
        """Hand a call to the engine, and take the result of the one before, which ran meanwhile."""
        with self._clock.measure("tower"):
            handle = self._engine.submit(self._filling[: self._num_filled])
        self._running.append((self._owners, self._filling, handle))
        while len(self._running) > 1:
            self._receive()
        self._owners, self._filling, self._num_filled = [], self._fresh(), 0

    def _receive(self) -> None:
        owners, pixels, handle = self._running.popleft()
        with self._clock.measure("tower"):
            embeddings = self._engine.result(handle)
        self._spare = [pixels]
        self._product.finish([row for _, rows in owners for row in rows], embeddings)
        for target, rows in owners:  # a batch can belong to several shards
            target.num_done += len(rows)


def _size(part: PicturePart) -> PartSize:
    """How many pictures a part has, or what tells of it later."""
    return PartSize(num_rows=part.num_rows, num_bytes=part.num_bytes, is_plain=part.detail.get("is_plain", False))


def _identity(part: PicturePart) -> dict[str, Any]:
    """How a part is now; other contents give another one."""
    return {"name": part.name, "rows": part.num_rows, "bytes": part.num_bytes, **part.identity}
