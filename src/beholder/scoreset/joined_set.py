"""A score set with the columns that other tables bring to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from beholder.scoreset.database import clear_errors, connect
from beholder.scoreset.joined import join_metadata
from beholder.scoreset.memory_limit import within_free_memory
from beholder.scoreset.score_set import ScoreSet


@dataclass(frozen=True, kw_only=True)
class JoinedSet(ScoreSet):
    """A score set to which tables were joined: their columns stand behind its own.

    Attributes:
        joined: a Parquet file with the further columns of each row, in the set's order; nothing else reads the set from DuckDB.
        joined_names: these columns.
    """

    joined: Path
    joined_names: tuple[str, ...]

    def batches(self, names: Sequence[str], *, num_rows: int = 1 << 20) -> Iterator[pa.Table]:
        """As `ScoreSet.batches`."""
        more = [name for name in names if name in self.joined_names]
        if not more:
            yield from super().batches(names, num_rows=num_rows)
            return
        own = [name for name in names if name not in more] or [self.sample_column]
        with pq.ParquetFile(self.joined) as file:
            pieces = file.iter_batches(batch_size=num_rows, columns=more)
            waiting = pa.Table.from_batches([], pa.schema([self.schema.field(name) for name in more]))
            for table in super().batches(own, num_rows=num_rows):
                while waiting.num_rows < table.num_rows:
                    waiting = pa.concat_tables([waiting, pa.Table.from_batches([next(pieces)], waiting.schema)])
                mine, waiting = waiting.slice(0, table.num_rows), waiting.slice(table.num_rows)
                found = {**dict(zip(own, table.columns, strict=True)), **dict(zip(more, mine.columns, strict=True))}
                yield pa.table([found[name] for name in names], names=list(names))


def with_joined(scores: ScoreSet, join: Sequence[str], scratch: Path, *, num_threads: int) -> ScoreSet:
    """The set with the columns of the tables; the set itself where there are none.

    Args:
        scores: the set.
        join: tables, as `beholder select --join` takes them.
        scratch: a folder that stays as long as the set is read.
        num_threads: to use.

    Raises:
        InputError: what `join_metadata` raises.
    """
    if not join:
        return scores
    named = f"--join {', '.join(join)}"
    database = contextlib.closing(connect(scratch / "join", num_threads=num_threads))
    with within_free_memory(), database as connection, clear_errors(named):
        scores.register(connection)
        found = join_metadata(connection, scores, join, scratch)
    more = pq.read_schema(found.file).remove_metadata()
    own = {item.name: getattr(scores, item.name) for item in fields(ScoreSet)}
    own["schema"] = pa.schema([*scores.schema, *more], scores.schema.metadata)
    own["untyped"] = scores.untyped | found.untyped
    own["notes"] = (*scores.notes, *found.notes)
    return JoinedSet(**own, joined=found.file, joined_names=tuple(more.names))
