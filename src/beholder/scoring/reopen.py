"""Finished results that were joined or uploaded: recognised, compared, and taken apart again for a run that goes on.

What the shards were is kept in a zip beside the result: their markers, in order, and their tables of inputs.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

import pyarrow as pa

from beholder import columns
from beholder.errors import InputError, OutputError, writing_failed
from beholder.io import records, storage
from beholder.scoring import files
from beholder.scoring.output import INPUTS_FILE, NOT_BY_US, NUM_KEPT, OF_RESULT, Published, RunOutput
from beholder.scoring.run import Step, is_set_aside, new_set_aside
from beholder.scoring.shards import EarlierShard, RunFolder, Shard, ShardResult, difference, is_shard_file, link_or_copy

_COPY_BYTES = 1 << 20


class FinishedResult:
    """A finished result that was joined or uploaded, and the record beside it; of other outputs the record is None."""

    def __init__(self, out: RunOutput) -> None:
        self.out, self.record = out, out.read_sidecar()

    def result_of(self, step: Step, identity: str) -> ShardResult | None:
        """The result that stands in the record, when it is of these options and inputs.

        Raises OutputError when the record is damaged, or the output is not what was written.
        """
        out, record = self.out, self.record
        if record is None or difference(record["options"], step.options) or record.get("inputs") != identity:
            return None
        if out.kind != "folder" and not storage.exists(out.out):
            return None
        try:
            result = ShardResult.from_json(record["result"])
            self._check_files()
        except records.DamagedRecordError as error:
            raise out.damaged(error) from None
        return result

    def earlier(self, step: Step, identity: str) -> ShardResult | None:
        """The whole result of an earlier, finished run of the same job; None when there is work to do.

        Raises OutputError when something else is in the way.
        """
        out, record = self.out, self.record
        if not out.is_separate or not storage.exists(out.sidecar if out.kind == "folder" else out.out):
            return None
        result = self.result_of(step, identity)
        if result is not None:
            folder = RunFolder(out.work)
            if out.work.is_dir() and folder.is_run_of(out.product.format):  # shards that a finished run left when it was killed
                with contextlib.suppress(OutputError), folder.locked():  # (another run that is at it is left alone)
                    out.remove_work()
            return result
        if out.work.is_dir() and (out.is_local or record is None):
            return None
        if record is None:
            raise OutputError(f"{out.out} {NOT_BY_US}")
        changed = difference(record.get("options") or {}, step.options)
        if changed is not None:
            raise OutputError(f"{out.out} already exists with other options: {changed}; use --overwrite, or another output")
        self._check_inputs()
        return None

    @property
    def num_kept(self) -> int:
        """How many rows were kept though their inputs have vanished."""
        found = (self.record or {}).get(NUM_KEPT)
        return found if isinstance(found, int) else 0

    @cached_property
    def can_be_opened(self) -> bool:
        """Whether it can be taken apart into its shards again: what these were made of is there, and as it was written."""
        out = self.out
        try:
            written = Published.from_json((self.record or {}).get(INPUTS_FILE))
        except records.DamagedRecordError:
            return False
        if not storage.exists(out.inputs) or storage.size(out.inputs) != written.num_bytes:
            return False
        return not out.is_local or storage.sha256_of(storage.local_path(out.inputs)) == written.sha256

    def is_current(self, step: Step) -> bool:
        """Whether files that the inputs only name (in a list) are as they were, if that is known."""
        if not step.names_files or not self.can_be_opened:
            return True
        with tempfile.TemporaryDirectory(prefix="beholder-inputs-") as scratch:
            return all(map(step.is_current, self._unpacked(Path(scratch))))

    def needs_opening(self, step: Step) -> bool:
        """Whether it has to be taken apart before its run can be continued."""
        if self.record is None or difference(self.record.get("options") or {}, step.options) is not None:
            return False
        folder = RunFolder(self.out.work)
        return not folder.finished_names() and not is_set_aside(folder)

    def open_again(self) -> None:
        """Take it apart into its shards, which are set aside in the folder of shards; the result stays until it is replaced.

        The caller holds the lock. Raises OutputError when something of it is not what was written.
        """
        out = self.out
        assert self.record is not None, "there is no finished result"
        self._check_inputs()
        self._check_files()
        folder = RunFolder(out.work)
        folder.write_record({key: value for key, value in self.record.items() if key not in OF_RESULT})
        keeps = columns.EMBEDDINGS_FOLDER not in out.product.folders
        inside = f"{columns.EMBEDDINGS_FOLDER}/"
        with new_set_aside(folder) as place:
            shards = self._unpacked(place)
            if out.kind != "folder":
                _cut_result(shards, self._at_hand(out.out, place), out.product.folders, place)
                if any(shard.result.num_rejected for shard in shards):
                    _cut_result(shards, self._at_hand(out.rejects, place), (columns.REJECTS_FOLDER,), place)
            for name in (name for shard in shards for name in shard.result.files):
                if out.kind == "folder" and not name.startswith(f"{columns.INPUTS_FOLDER}/"):
                    _fetch(f"{out.out.rstrip('/')}/{name}", place / name)
                elif out.kind != "folder" and keeps and name.startswith(inside):
                    _fetch(f"{out.kept_embeddings}/{name.removeprefix(inside)}", place / name)
            stamp = f"{out.kept_embeddings}/{columns.STAMP_FILE}"
            if keeps and storage.exists(stamp):
                _fetch(stamp, out.work / columns.EMBEDDINGS_FOLDER / columns.STAMP_FILE)
            for shard in shards if out.kind != "folder" else ():
                _mark_again(shard)

    def _check_inputs(self) -> None:
        """Raise OutputError when a result of other inputs cannot be taken apart."""
        if not self.can_be_opened:
            raise OutputError(
                f"{self.out.out} already exists and was made from other inputs, and {self.out.inputs}, which would say what it "
                "was made of, is not there or not what was written; use --overwrite, or another output"
            )

    def _check_files(self) -> None:
        """Raise OutputError when a file of the result is not what was written; of remote ones the size is compared."""
        out = self.out
        files = (self.record or {}).get("files", {})
        if not isinstance(files, dict):
            raise records.DamagedRecordError("files are no JSON object")
        for name, written in {name: Published.from_json(one) for name, one in files.items()}.items():
            inside = name.removeprefix(f"{columns.EMBEDDINGS_FOLDER}/")
            place = {"output": out.out, "rejects": out.rejects}.get(name, f"{out.kept_embeddings}/{inside}")
            place = f"{out.out.rstrip('/')}/{name}" if out.kind == "folder" else place
            is_there = storage.exists(place) and not (out.is_local and storage.is_folder(place))
            if is_there and storage.size(place) == written.num_bytes:
                if written.sha256 is None or not out.is_local:
                    continue
                with storage.remote_errors(place):
                    if storage.sha256_of(storage.local_path(place)) == written.sha256:
                        continue
            what = "is not what was written (damaged, or edited)" if is_there else "is gone, which the finished run had written"
            raise OutputError(f"{place} {what}; restore it, or use --overwrite to make it again")

    def _at_hand(self, path: str, scratch: Path) -> Path:
        """A local file with what stands at `path`."""
        if self.out.is_local:
            return storage.local_path(path)
        copy = scratch / f".{PurePosixPath(path).name}"
        _fetch(path, copy)
        return copy

    def _unpacked(self, place: Path) -> list[EarlierShard]:
        """Unpack markers and tables of inputs into `place`: the shards in order. Their other files are not there yet."""
        packed = self._at_hand(self.out.inputs, place)
        return _unpack_inputs(packed, place, f"{self.out.inputs} is damaged; use --overwrite to make {self.out.out} again")


def _fetch(source: str, target: Path) -> None:
    """Have a file at a local place: linked where that can be, else copied. Raises OutputError and InputError."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if storage.is_local(source):
            link_or_copy(storage.local_path(source), target)
            return
        with storage.remote_errors(source), storage.open_binary(source) as file, target.open("wb") as out:
            shutil.copyfileobj(file, out, _COPY_BYTES)
    except OSError as error:
        raise writing_failed(str(target), error) from error


def _unpack_inputs(packed: Path, place: Path, complaint: str) -> list[EarlierShard]:
    """Unpack what `RunOutput` packed into `place`: the shards in order. Raises OutputError(complaint)."""
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
        return [RunFolder(place).marked_shard(name) for name in names]
    except (zipfile.BadZipFile, records.DamagedRecordError, InputError):
        raise OutputError(complaint) from None


def _cut_result(shards: Sequence[EarlierShard], result: Path, folders: Sequence[str], place: Path) -> None:
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
        pieces = (pa.Table.from_batches([batch]).replace_schema_metadata(None) for batch in file.iter_batches())
        rest, left = next(pieces, None), 0
        for shard, name in parts:
            left += shard.result.num_rejected if is_rejects else shard.result.num_scored
            with files.parquet_rows(place / name, file.schema_arrow) as out:
                while left and rest is not None:
                    piece = rest.slice(0, left)
                    out.write(piece)
                    left -= piece.num_rows
                    rest = rest.slice(piece.num_rows) if piece.num_rows < rest.num_rows else next(pieces, None)
        if left or rest is not None:
            raise OutputError(f"{result} has another number of rows than were written; use --overwrite to make it again")


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


def _mark_again(shard: EarlierShard) -> None:
    """Write the marker of a shard whose files have been cut, with their sizes and checksums as they are now."""
    sizes = {name: (shard.folder / name).stat().st_size for name in shard.result.files}
    result = shard.result.with_files(sizes)
    marked = Shard(shard.name, 0, 0, None, shard.identity)
    RunFolder(shard.folder).mark_finished(marked, result, shard.fingerprint, shard.models)
