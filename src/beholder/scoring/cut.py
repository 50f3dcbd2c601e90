"""A finished result that was joined from shards in, the shards' files out: the way back, for a run that goes on.

What the shards were is kept in a zip beside the result: their markers, in order, and their tables of inputs.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from beholder import columns
from beholder.errors import InputError, OutputError
from beholder.io import records, storage
from beholder.scoring import score_files
from beholder.scoring.embedding_files import cut_shard
from beholder.scoring.shards import EarlierShard, RunFolder, Shard, is_shard_file

_COPY_BYTES = 1 << 20
HEAD_BYTES = 64
"""How much of a file `is_packed` looks at."""


def pack_inputs(folder: Path, names: Sequence[str], target: Path) -> None:
    """Put the markers and the tables of inputs of these shards of a run's folder, in this order, into a zip."""
    with zipfile.ZipFile(target, "w", allowZip64=True) as out:
        for name in names:
            for inside in (f"{columns.DONE_FOLDER}/{name}.json", f"{columns.INPUTS_FOLDER}/{name}.parquet"):
                if (folder / inside).is_file():
                    with (folder / inside).open("rb") as file, out.open(zipfile.ZipInfo(inside), "w") as member:
                        shutil.copyfileobj(file, member, _COPY_BYTES)  # without times: the same shards give the same bytes


def is_packed(head: bytes) -> bool:
    """Whether the first bytes of a file are those of what `pack_inputs` makes."""
    return head.startswith(b"PK") and head[30:].startswith(f"{columns.DONE_FOLDER}/".encode())


def unpack_inputs(packed: Path, place: Path, complaint: str) -> list[EarlierShard]:
    """Unpack what `pack_inputs` packed into `place`: the shards in order. Raises OutputError(complaint) for anything else."""
    names = []
    try:
        with zipfile.ZipFile(packed) as source:
            for inside in source.namelist():
                path = PurePosixPath(inside)
                if str(path.parent) == columns.DONE_FOLDER and path.suffix == ".json" and len(path.parts) == 2:
                    names.append(path.stem)
                elif not is_shard_file(inside):
                    raise OutputError(complaint)
                (place / inside).parent.mkdir(parents=True, exist_ok=True)
                with source.open(inside) as file, (place / inside).open("wb") as out:
                    shutil.copyfileobj(file, out, _COPY_BYTES)
        return [RunFolder(place).unchecked_shard(name) for name in names]
    except (zipfile.BadZipFile, records.DamagedRecordError, InputError):
        raise OutputError(complaint) from None


def cut_result(shards: Sequence[EarlierShard], result: Path, folders: Sequence[str], place: Path) -> None:
    """Cut a file that was joined from the shards' files in `folders` into these, below `place`.

    Raises OutputError when it has another number of rows.
    """
    own = tuple(f"{folder}/" for folder in folders)
    parts = [(shard, name) for shard in shards for name in shard.result.files if name.startswith(own)]
    for _, name in parts:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
    if result.suffix.lower() == ".csv":
        _cut_csv(parts, result, place)
        return
    is_rejects = columns.REJECTS_FOLDER in folders
    with storage.open_parquet(str(result)) as file:
        rows = _Rows(file.iter_batches(), file.schema_arrow)
        said: dict[str, Any] = json.loads((file.schema_arrow.metadata or {}).get(b"beholder", b"{}"))
        for shard, name in parts:
            num_rows = shard.result.num_rejected if is_rejects else shard.result.num_scored
            pieces = rows.take(num_rows)
            if own[0].startswith((columns.SCORES_FOLDER, columns.REJECTS_FOLDER)):
                with score_files.parquet_rows(place / name, file.schema_arrow.remove_metadata(), said) as out:
                    for piece in pieces:
                        out.write(piece)
            else:
                cut_shard(place / name, pieces, file.schema_arrow)
        if rows.is_short or not rows.is_at_end:
            raise OutputError(f"{result} has another number of rows than were written; use --overwrite to make it again")


class _Rows:
    """Batches in, tables of as many rows as are asked for out."""

    def __init__(self, batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> None:
        self._batches, self._schema = batches, schema.remove_metadata()
        self._rest = self._schema.empty_table()
        self.is_short = False

    def take(self, num_rows: int) -> Iterator[pa.Table]:
        """The next `num_rows` rows, in pieces."""
        while num_rows:
            if not self._rest.num_rows and not self._more():
                self.is_short = True
                return
            piece = self._rest.slice(0, num_rows)
            self._rest = self._rest.slice(piece.num_rows)
            num_rows -= piece.num_rows
            yield piece

    def _more(self) -> bool:
        batch = next(self._batches, None)
        if batch is not None:
            self._rest = pa.Table.from_batches([batch]).replace_schema_metadata(None)
        return batch is not None

    @property
    def is_at_end(self) -> bool:
        """Whether there are no more rows."""
        while not self._rest.num_rows:
            if not self._more():
                return True
        return False


def _cut_csv(parts: Sequence[tuple[EarlierShard, str]], result: Path, place: Path) -> None:
    """Parts are a header and rows; the result is one header and the rows of all, as they were."""
    with result.open("rb") as source:
        header = source.readline()
        for shard, name in parts:
            left = shard.result.files[name] - len(header)
            with (place / name).open("wb") as out:
                out.write(header)
                while left and (data := source.read(min(left, _COPY_BYTES))):
                    out.write(data)
                    left -= len(data)
            if left:
                raise OutputError(f"{result} is shorter than what was written; use --overwrite to make it again")


def mark_again(shard: EarlierShard) -> None:
    """Write the marker of a shard whose files have been cut, with their sizes and checksums as they are now."""
    folder = RunFolder(shard.folder)
    fingerprint, models = folder.run_of(shard.name)
    sizes = {name: (shard.folder / name).stat().st_size for name in shard.result.files}
    result = shard.result.with_files(sizes)
    folder.mark_finished(Shard(shard.name, 0, 0, None, shard.identity), result, fingerprint, models)
