"""Finished results that were joined: recognised, compared, and taken apart again for a run that goes on.

What the shards were is kept in a zip beside the result: their markers, in order, and their tables of inputs.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import PurePosixPath

import pyarrow as pa

from beholder import columns
from beholder.errors import OutputError
from beholder.io import locations, places, records, storage
from beholder.scoring import files
from beholder.scoring.folder import RunFolder
from beholder.scoring.listed_folder import NewFile
from beholder.scoring.output import INPUTS_FILE, NOT_BY_US, NUM_KEPT, OF_RESULT, Published, RunOutput
from beholder.scoring.run import Step
from beholder.scoring.shards import EarlierShard, ShardResult, difference, is_shard_file

_COPY_BYTES = 1 << 20


class FinishedResult:
    """A finished result that was joined, and the record beside it; of other outputs the record is None."""

    def __init__(self, out: RunOutput) -> None:
        self.out, self.record = out, out.read_sidecar()

    def result_of(self, step: Step, identity: str) -> ShardResult | None:
        """The result that stands in the record, when it is of these options and inputs.

        Raises OutputError when the record is damaged, or the output is not what was written.
        """
        out, record = self.out, self.record
        if record is None or difference(record["options"], step.options) or record.get("inputs") != identity:
            return None
        if not storage.exists(out.out):
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
        if not out.is_separate or not storage.exists(out.out):
            return None
        result = self.result_of(step, identity)
        if result is not None:
            return result
        if out.folder.exists():
            return None
        if record is None:
            raise OutputError(f"{out.out} {NOT_BY_US}")
        changed = difference(record.get("options") or {}, step.options)
        if changed is not None:
            raise OutputError(f"{out.out} already exists with other options: {changed}; use --overwrite, or another output")
        self._check_inputs()
        return None

    def remove_shards(self) -> None:
        """Remove shards that the finished run left when it was killed. For when nothing is left to do: else they are new."""
        folder = self.out.folder
        if folder.is_run_of(self.out.product.format) or folder.is_left_over():
            with contextlib.suppress(OutputError), folder.locked():  # (another run that is at it is left alone)
                self.out.remove_work()

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
        return not out.is_local or storage.sha256_of(locations.local_path(out.inputs)) == written.sha256

    def is_current(self, step: Step) -> bool:
        """Whether files that the inputs only name (in a list) are as they were, if that is known."""
        if not step.names_files or not self.can_be_opened:
            return True
        with tempfile.TemporaryDirectory(prefix="beholder-inputs-") as scratch:
            place = RunFolder(scratch)
            return all(step.is_current(replace(shard, folder=place.root)) for shard, _ in self._unpacked(place, is_short=True))

    def needs_opening(self, step: Step) -> bool:
        """Whether it has to be taken apart before its run can be continued."""
        if self.record is None or difference(self.record.get("options") or {}, step.options) is not None:
            return False
        folder = self.out.folder
        return not folder.finished_names() and not folder.places_aside()

    def open_again(self) -> None:
        """Take it apart into its shards, which are set aside in the folder of shards; the result stays until it is replaced.

        The caller holds the lock. Raises OutputError when something of it is not what was written.
        """
        out = self.out
        assert self.record is not None, "there is no finished result"
        self._check_inputs()
        self._check_files()
        folder = out.folder
        folder.write_record({key: value for key, value in self.record.items() if key not in OF_RESULT})
        keeps = columns.EMBEDDINGS_FOLDER not in out.product.folders
        inside = f"{columns.EMBEDDINGS_FOLDER}/"
        with folder.opening() as place:
            made: dict[str, NewFile] = {}
            shards = []
            for shard, inputs in self._unpacked(place):
                shards.append(shard)
                made |= inputs
            made |= _cut_result(shards, out.out, out.product.folders, place)
            if any(shard.result.num_rejected for shard in shards):
                made |= _cut_result(shards, out.rejects, (columns.REJECTS_FOLDER,), place)
            kept = [name for shard in shards for name in shard.result.files if keeps and name.startswith(inside)]
            places.copy_all([(f"{out.kept_embeddings}/{name.removeprefix(inside)}", place.place_of(name)) for name in kept])
            stamp = f"{out.kept_embeddings}/{columns.STAMP_FILE}"
            if keeps and storage.exists(stamp):
                places.copy(stamp, folder.place_of(f"{inside}{columns.STAMP_FILE}"))
            for shard in shards:
                place.mark_again(_as_made(shard, made, place))

    def _check_inputs(self) -> None:
        """Raise OutputError when a result of other inputs cannot be taken apart."""
        if not self.can_be_opened:
            raise OutputError(
                f"{self.out.out} already exists and was made from other inputs, and {self.out.inputs}, which would say what it "
                "was made of, is not there or not what was written; use --overwrite, or another output"
            )

    def written(self) -> dict[str, Published]:
        """Every file of the result as it was written, by its path or URL, what it was made of as well.

        Raises DamagedRecordError.
        """
        inputs = (self.record or {}).get(INPUTS_FILE)
        return self._files() | ({} if inputs is None else {self.out.inputs: Published.from_json(inputs)})

    def _files(self) -> dict[str, Published]:
        out = self.out
        files = records.json_object((self.record or {}).get("files", {}), "files are")
        start = f"{columns.EMBEDDINGS_FOLDER}/"
        known = {"output": out.out, "rejects": out.rejects}
        return {
            known.get(name, f"{out.kept_embeddings}/{name.removeprefix(start)}"): Published.from_json(one)
            for name, one in files.items()
        }

    def _check_files(self) -> None:
        """Raise OutputError when a file of the result is not what was written; of remote ones the size is compared."""
        out = self.out
        for place, written in self._files().items():
            is_there = storage.exists(place) and not (out.is_local and storage.is_folder(place))
            if is_there and storage.size(place) == written.num_bytes:
                if written.sha256 is None or not out.is_local:
                    continue
                if storage.sha256_at(place) == written.sha256:
                    continue
            what = "is not what was written (damaged, or edited)" if is_there else "is gone, which the finished run had written"
            raise OutputError(f"{place} {what}; restore it, or use --overwrite to make it again")

    def _unpacked(self, place: RunFolder, *, is_short: bool = False) -> Iterator[tuple[EarlierShard, Mapping[str, NewFile]]]:
        """Unpack markers and tables of inputs into `place`: the shards in order, and the tables that were unpacked.

        Their other files are not there yet. `is_short`: the tables of a shard go when the next one is asked for.
        Raises OutputError for a damaged zip.
        """
        complaint = f"{self.out.inputs} is damaged; use --overwrite to make {self.out.out} again"
        shard: EarlierShard | None = None
        made: dict[str, NewFile] = {}
        try:
            with storage.open_stream(self.out.inputs) as opened, zipfile.ZipFile(opened) as source:
                for inside in source.namelist():
                    path = PurePosixPath(inside)
                    if str(path.parent) == columns.DONE_FOLDER and path.suffix == ".json" and len(path.parts) == 2:
                        if shard is not None:
                            yield shard, made
                        if is_short:
                            place.remove(made)
                        shard = EarlierShard.from_json(records.parse(source.read(inside)), place.root, path.stem)
                        made = {}
                    elif is_shard_file(inside):
                        with place.new_file(inside) as new, source.open(inside) as file, new.path.open("wb") as out:
                            shutil.copyfileobj(file, out, _COPY_BYTES)
                        made[inside] = new
                    else:
                        raise OutputError(complaint)
            if shard is not None:
                yield shard, made
        except (zipfile.BadZipFile, records.DamagedRecordError):
            raise OutputError(complaint) from None


def _cut_result(shards: Sequence[EarlierShard], result: str, folders: Sequence[str], place: RunFolder) -> dict[str, NewFile]:
    """Cut a file that was joined from the shards' files in `folders` into these, in `place`, one after the other.

    Raises OutputError when it has another number of rows.
    """
    own = tuple(f"{folder}/" for folder in folders)
    parts = [(shard, name) for shard in shards for name in shard.result.files if name.startswith(own)]
    if result.lower().endswith(".csv"):
        return _cut_csv(parts, result, place)
    is_rejects = columns.REJECTS_FOLDER in folders
    made: dict[str, NewFile] = {}
    with storage.open_parquet(result, streamed=True) as file:
        pieces = (pa.Table.from_batches([batch]).replace_schema_metadata(None) for batch in file.iter_batches())
        rest, left = next(pieces, None), 0
        for shard, name in parts:
            left += shard.result.num_rejected if is_rejects else shard.result.num_scored
            with place.new_file(name) as new, files.parquet_rows(new.path, file.schema_arrow) as out:
                while left and rest is not None:
                    piece = rest.slice(0, left)
                    out.write(piece)
                    left -= piece.num_rows
                    rest = rest.slice(piece.num_rows) if piece.num_rows < rest.num_rows else next(pieces, None)
            made[name] = new
        if left or rest is not None:
            raise OutputError(f"{result} has another number of rows than were written; use --overwrite to make it again")
    return made


def _cut_csv(parts: Sequence[tuple[EarlierShard, str]], result: str, place: RunFolder) -> dict[str, NewFile]:
    """Parts are a header and rows; the result is one header and the rows of all, as they were."""
    made: dict[str, NewFile] = {}
    with storage.open_stream(result) as source:
        header = source.readline()
        for shard, name in parts:
            left = shard.result.files[name] - len(header)
            with place.new_file(name) as new, new.path.open("wb") as out:
                out.write(header)
                while left and (data := source.read(min(left, _COPY_BYTES))):
                    out.write(data)
                    left -= len(data)
            made[name] = new
            if left:
                raise OutputError(f"{result} is shorter than what was written; use --overwrite to make it again")
    return made


def _as_made(shard: EarlierShard, made: Mapping[str, NewFile], place: RunFolder) -> EarlierShard:
    """The shard with sizes and checksums of its files as they are now: of those that were cut others than before."""
    was = shard.result
    sizes = {name: made[name].num_bytes if name in made else size for name, size in was.files.items()}
    known = was.sha256 | {name: made[name].sha256 for name in was.files if name in made}
    sums = {name: known.get(name) or storage.sha256_at(place.place_of(name), size) for name, size in was.files.items()}
    return replace(shard, result=replace(was, files=sizes, sha256=sums))
