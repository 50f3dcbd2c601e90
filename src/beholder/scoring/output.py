"""Where a job's result goes: a folder of shards, or one file that is joined from shards in a folder beside it."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from beholder import columns
from beholder.errors import OutputError, writing_failed
from beholder.io import records, storage
from beholder.io.records import DamagedRecordError
from beholder.scoring import cut, score_files
from beholder.scoring.run import Step, is_set_aside, new_set_aside, remove_set_aside
from beholder.scoring.shards import (
    LOCK_FILE,
    DamagedShardError,
    EarlierShard,
    RunFolder,
    Shard,
    ShardResult,
    difference,
    is_shard_file,
    link_or_copy,
)
from beholder.scoring.summary import RunSummary

_UNKNOWN_SUFFIXES = {
    ".gz",
    ".zst",
    ".zip",
    ".txt",
    ".tsv",
    ".json",
    ".jsonl",
    ".feather",
    ".arrow",
    ".npy",
    ".npz",
    ".db",
    ".xlsx",
}


_NOT_BY_US = "already exists and was not written by this command; use --overwrite, or another output"
_MARKER = re.compile(rf"{columns.DONE_FOLDER}/[^/]+\.json")
_TEMPORARY = re.compile(r"(?:.+/)?\.beholder-[^/]*\.tmp")
_TABLES = {".parquet", ".pq", ".csv", ".tsv", ".npy"}
"""What readers of a run's folders take for results."""
_INPUTS_FILE = "inputs_file"
_KEPT = "num_kept"
"""In the record of a finished result: rows that were kept though their inputs have vanished."""
_OF_RESULT = ("result", "files", "inputs", _INPUTS_FILE, _KEPT)
"""In the record of a finished result: what the record of a run under way has not."""
_PLACING, _REPLACED = "placing", "replaced"
"""In the folder of shards: kept embeddings on their way to their place, and those that were there before."""


@dataclass(frozen=True)
class Product:
    """What a kind of job writes.

    Attributes:
        noun: "scores" or "embeddings", for messages.
        format: the `format` of its record.
        folders: below the run's folder: where its shards' own files lie.
        join: (target, parts, is CSV, provenance, scratch folder): joins shards to one file.
    """

    noun: str
    format: str
    folders: tuple[str, ...]
    join: Callable[[str, Sequence[Path], bool, Mapping[str, Any], Path], None]


def _join_scores(target: str, parts: Sequence[Path], is_csv: bool, provenance: Mapping[str, Any], scratch: Path) -> None:
    if is_csv:
        score_files.join_csv(target, parts, scratch)
    else:
        score_files.join_parquet(target, parts, provenance, scratch)


def _join_embeddings(target: str, parts: Sequence[Path], is_csv: bool, provenance: Mapping[str, Any], scratch: Path) -> None:
    from beholder.scoring.embedding_files import join_shards

    join_shards(parts, target, provenance, scratch=scratch)


EMBEDDINGS = Product(
    "embeddings",
    columns.EMBEDDINGS_FORMAT,
    (columns.IMAGES_FOLDER, columns.METADATA_FOLDER, columns.EMBEDDINGS_FOLDER),
    _join_embeddings,
)
SCORES = Product("scores", columns.SCORE_SET_FORMAT, (columns.SCORES_FOLDER,), _join_scores)


class RunOutput:
    """The output as the user named it, and the local folder in which its shards are written first.

    Args:
        out: a folder, or a file ending in .parquet, .pq or .csv; local or a URL.
        product: what is written there.

    Attributes:
        kind: "folder", "parquet" or "csv".
        work: the local folder with the run's record, shards and done-markers; the output itself for a local folder.

    Raises:
        OutputError: the name asks for a kind of file that is not written.
    """

    def __init__(self, out: str, product: Product = SCORES) -> None:
        if storage.is_web(out):
            raise OutputError(f"cannot write {out}: a web server takes no files; give a local path, or a bucket (s3://, gs://)")
        storage.check_text(out)
        self.out, self.product = out, product
        suffix = PurePosixPath(out).suffix.lower()
        self.kind = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}.get(suffix, "folder")
        if suffix in _UNKNOWN_SUFFIXES:
            raise OutputError(
                f"{out}: {product.noun} are written as .parquet, .csv, or into a folder (a name without such a suffix)"
            )
        self.is_local = storage.is_local(out)
        if not self.is_local:
            self.work = storage.cache_folder() / "runs" / hashlib.sha256(out.encode()).hexdigest()[:16]
        elif self.kind == "folder":
            self.work = storage.local_path(out)
        else:
            path = storage.local_path(out)
            self.work = path.with_name(path.name + columns.PARTIAL_SUFFIX)

    @property
    def is_separate(self) -> bool:
        """Whether shards are written elsewhere first."""
        return self.kind != "folder" or not self.is_local

    @property
    def rejects(self) -> str:
        """Where rejects are found."""
        if self.kind == "folder":
            return f"{self.out.rstrip('/')}/{columns.REJECTS_FOLDER}"
        return self.out + columns.REJECTS_SUFFIX

    @property
    def kept_embeddings(self) -> str:
        """Where embeddings that are kept beside scores are found."""
        if self.kind == "folder":
            return f"{self.out.rstrip('/')}/{columns.EMBEDDINGS_FOLDER}"
        return f"{self.out}.{columns.EMBEDDINGS_FOLDER}"

    @property
    def _sidecar(self) -> str:
        return f"{self.out.rstrip('/')}/{columns.STAMP_FILE}" if self.kind == "folder" else self.out + columns.SIDECAR_SUFFIX

    @property
    def _inputs(self) -> str:
        """What the shards of a result that is joined or uploaded were made of: their markers, and their tables of inputs."""
        return (
            f"{self.out.rstrip('/')}/{columns.INPUTS_FOLDER}.zip" if self.kind == "folder" else self.out + columns.INPUTS_SUFFIX
        )

    def clear(self) -> None:
        """Forget earlier runs. A result that is made elsewhere stays until the new one replaces it, as does a folder's record.

        Everything is looked at before the first file is removed, and only files of ours are.
        Raises OutputError for a folder or a record that is not ours.
        """
        if self._is_foreign():
            raise OutputError(f"{self.out} is not a beholder run, so --overwrite leaves it alone; choose another output")
        self._check_targets()
        if self.work.is_dir():
            folder = RunFolder(self.work)
            if not folder.is_run_of(self.product.format) and folder.holds_something():
                raise OutputError(f"{self.work} is not a beholder run, so --overwrite leaves it alone; choose another output")
            own, strange = self._sorted_files()
            if strange:
                raise _in_the_way(self.work / strange[0])
            with folder.locked():
                remove_set_aside(folder)
                self._remove(own)
        if self.kind != "folder":
            storage.remove(self._sidecar)

    def _sorted_files(self, *, by_name: bool = False) -> tuple[list[str], list[str]]:
        """Files in the folders of shards, relative: those that a run wrote, and tables that readers would take for such.

        Anything else there (a README, pictures) is in neither list. `by_name`: names alone tell what a run wrote; else a
        shard's file has a done-marker, or looks like ours inside.
        """
        finished = RunFolder(self.work).finished_names()
        own: list[str] = []
        strange: list[str] = []
        for folder in self._folders:
            for path in sorted((self.work / folder).rglob("*")):
                name = path.relative_to(self.work).as_posix()
                if path.is_dir() and not path.is_symlink():
                    continue
                is_named = is_shard_file(name) and (by_name or path.stem in finished)
                if is_named or _MARKER.fullmatch(name) or _TEMPORARY.fullmatch(name) or _is_by_us(str(path), name):
                    own.append(name)
                elif path.suffix.lower() in _TABLES:
                    strange.append(name)
        return own, strange

    @property
    def _folders(self) -> tuple[str, ...]:
        """Folders below the folder of shards; that of the markers first, since what has no marker counts as not done."""
        own = (columns.DONE_FOLDER, *self.product.folders, columns.EMBEDDINGS_FOLDER, columns.REJECTS_FOLDER)
        return tuple(dict.fromkeys((*own, columns.INPUTS_FOLDER)))

    def _remove(self, own: Sequence[str]) -> None:
        """Remove these files of the folder of shards, and the folders that are empty then."""
        try:
            for name in own:
                (self.work / name).unlink(missing_ok=True)
        except OSError as error:
            raise writing_failed(str(self.work / name), error) from error
        for name in self._folders:
            inside = (path for path in (self.work / name).rglob("*") if path.is_dir() and not path.is_symlink())
            for path in [*sorted(inside, reverse=True), self.work / name]:
                with contextlib.suppress(OSError):  # something else is in it, or it is not there
                    path.rmdir()

    def finished(self, step: Step, identity: str) -> ShardResult | None:
        """The whole result of an earlier, finished run of the same job; None when there is work to do.

        Raises OutputError when something else is in the way.
        """
        self.check_place()
        if not self.is_separate or not storage.exists(self._sidecar if self.kind == "folder" else self.out):
            return None
        result = self.matching_result(step, identity)
        if result is not None:
            self._clear_up()
            return result
        record = self._read_sidecar()
        if self.work.is_dir() and (self.is_local or record is None):
            return None
        if record is None:
            raise OutputError(f"{self.out} {_NOT_BY_US}")
        changed = difference(record.get("options") or {}, step.options)
        if changed is not None:
            raise OutputError(f"{self.out} already exists with other options: {changed}; use --overwrite, or another output")
        self._check_inputs(record)
        return None

    def num_kept(self) -> int:
        """How many rows of a finished result were kept though their inputs have vanished."""
        found = (self._read_sidecar() or {}).get(_KEPT) if self.is_separate else None
        return found if isinstance(found, int) else 0

    def can_be_opened(self) -> bool:
        """Whether a finished result, joined or uploaded, can be taken apart into its shards again."""
        record = self._read_sidecar() if self.is_separate else None
        return record is not None and self._has_inputs(record)

    def _has_inputs(self, record: Mapping[str, Any]) -> bool:
        """Whether what its shards were made of is there, and as it was written."""
        try:
            written = _Published.from_json(record.get(_INPUTS_FILE))
        except DamagedRecordError:
            return False
        if not storage.exists(self._inputs) or storage.size(self._inputs) != written.num_bytes:
            return False
        return not self.is_local or storage.sha256_of(storage.local_path(self._inputs)) == written.sha256

    def _check_inputs(self, record: Mapping[str, Any]) -> None:
        """Raise OutputError when a result of other inputs cannot be taken apart."""
        if not self._has_inputs(record):
            raise OutputError(
                f"{self.out} already exists and was made from other inputs, and {self._inputs}, which would say what it was "
                "made of, is not there or not what was written; use --overwrite, or another output"
            )

    def is_current(self, step: Step) -> bool:
        """Whether files that the inputs of a finished result only name (in a list) are as they were, if that is known."""
        if not step.names_files or not self.can_be_opened():
            return True
        with tempfile.TemporaryDirectory(prefix="beholder-inputs-") as scratch:
            return all(map(step.is_current, self._unpacked(Path(scratch))))

    def needs_opening(self, step: Step) -> bool:
        """Whether a finished result has to be taken apart before its run can be continued."""
        if not self.is_separate or not storage.exists(self._sidecar):
            return False
        record = self._read_sidecar()
        if record is None or difference(record.get("options") or {}, step.options) is not None:
            return False
        return not RunFolder(self.work).finished_names() and not is_set_aside(RunFolder(self.work))

    def open_again(self) -> None:
        """Take a finished result apart into its shards, which are set aside in `work`; the result stays until it is replaced.

        The caller holds the lock. Raises OutputError when something of it is not what was written.
        """
        record = self._read_sidecar()
        assert record is not None, "there is no finished result"
        self._check_inputs(record)
        for name, one in _object(record.get("files", {})).items():
            self._check_published(name, _Published.from_json(one))
        folder = RunFolder(self.work)
        folder.write_record({key: value for key, value in record.items() if key not in _OF_RESULT})
        with new_set_aside(folder) as place:
            shards = self._unpacked(place)
            if self.kind == "folder":
                for shard in shards:
                    for name in shard.result.files:
                        if not name.startswith(f"{columns.INPUTS_FOLDER}/"):
                            _fetch(f"{self.out.rstrip('/')}/{name}", place / name)
                self._fetch_stamp(f"{self.out.rstrip('/')}/{columns.EMBEDDINGS_FOLDER}")
                return
            cut.cut_result(shards, self._at_hand(self.out, place), self.product.folders, place)
            if any(shard.result.num_rejected for shard in shards):
                cut.cut_result(shards, self._at_hand(self.rejects, place), (columns.REJECTS_FOLDER,), place)
            inside = f"{columns.EMBEDDINGS_FOLDER}/"
            for shard in shards if columns.EMBEDDINGS_FOLDER not in self.product.folders else ():
                for name in shard.result.files:
                    if name.startswith(inside):
                        _fetch(f"{self.kept_embeddings}/{name.removeprefix(inside)}", place / name)
            self._fetch_stamp(self.kept_embeddings)
            for shard in shards:
                cut.mark_again(shard)

    def _fetch_stamp(self, kept: str) -> None:
        """Have the stamp of kept embeddings in the folder of the shards, where there is one."""
        if columns.EMBEDDINGS_FOLDER not in self.product.folders and storage.exists(f"{kept}/{columns.STAMP_FILE}"):
            _fetch(f"{kept}/{columns.STAMP_FILE}", self.work / columns.EMBEDDINGS_FOLDER / columns.STAMP_FILE)

    def _at_hand(self, path: str, scratch: Path) -> Path:
        """A local file with what stands at `path`."""
        if self.is_local:
            return storage.local_path(path)
        copy = scratch / f".{PurePosixPath(path).name}"
        _fetch(path, copy)
        return copy

    def _unpacked(self, place: Path) -> list[EarlierShard]:
        """Unpack markers and tables of inputs into `place`: the shards in order. Their other files are not there yet."""
        packed = self._at_hand(self._inputs, place)
        return cut.unpack_inputs(packed, place, f"{self._inputs} is damaged; use --overwrite to make {self.out} again")

    def check_place(self) -> None:
        """Raise OutputError, before anything is loaded, when something that is no run of ours stands where the result goes."""
        folder = RunFolder(self.work)
        is_strange = not self.is_separate and folder.read_record() is None and folder.holds_something()
        if is_strange or self._is_foreign():
            raise OutputError(f"{self.out} already exists and is not a beholder run; choose another output, or remove it")
        self._check_targets()
        if self.kind != "folder" and storage.exists(self.out) and self._read_sidecar() is None and not self.work.is_dir():
            raise OutputError(f"{self.out} {_NOT_BY_US}")

    def _check_targets(self) -> None:
        """Raise OutputError when a folder stands where the file goes, or somebody else's file where its record goes."""
        if self.kind != "folder" and storage.is_folder(self.out):
            raise OutputError(f"{self.out} is a folder; choose another output, or a name without such an ending")
        if not self.is_separate or not storage.exists(self._sidecar):
            return
        data = self._sidecar_bytes()
        try:
            is_ours = _is_record(records.parse(data))
        except DamagedRecordError:
            is_ours = records.looks_ours(data)
        if not is_ours:
            raise OutputError(f"{self._sidecar} is in the way of the record and is not ours; move it, or choose another output")

    def _sidecar_bytes(self) -> bytes:
        return storage.read_range(self._sidecar, 0, storage.size(self._sidecar))

    def matching_result(self, step: Step, identity: str) -> ShardResult | None:
        """The result that stands in the record beside the output, when it is of these options and inputs.

        Raises OutputError when the record is damaged, or the output is not what was written.
        """
        record = self._read_sidecar() if self.is_separate else None
        if record is None or difference(record["options"], step.options) or record.get("inputs") != identity:
            return None
        if self.kind != "folder" and not storage.exists(self.out):
            return None
        try:
            result = ShardResult.from_json(record["result"])
            published = {name: _Published.from_json(one) for name, one in _object(record.get("files", {})).items()}
        except DamagedRecordError as error:
            raise self._damaged(error) from None
        for name, one in published.items():
            self._check_published(name, one)
        return result

    def _place_of(self, name: str) -> str:
        """Where a file of the record's `files` stands."""
        if self.kind == "folder":
            return f"{self.out.rstrip('/')}/{name}"
        inside = name.removeprefix(f"{columns.EMBEDDINGS_FOLDER}/")
        return {"output": self.out, "rejects": self.rejects}.get(name, f"{self.kept_embeddings}/{inside}")

    def _check_published(self, name: str, published: _Published) -> None:
        """Raise OutputError when a file of the finished result is not what was written; of remote ones the size is compared."""
        place = self._place_of(name)
        is_there = storage.exists(place) and not (self.is_local and storage.is_folder(place))
        if is_there and storage.size(place) == published.num_bytes:
            if published.sha256 is None or not self.is_local:
                return
            with storage.remote_errors(place):
                if storage.sha256_of(storage.local_path(place)) == published.sha256:
                    return
        what = "is not what was written (damaged, or edited)" if is_there else "is gone, which the finished run had written"
        raise OutputError(f"{place} {what}; restore it, or use --overwrite to make it again")

    def _damaged(self, error: DamagedRecordError) -> OutputError:
        return OutputError(f"{self._sidecar} is damaged: {error}; restore it, or use --overwrite to make {self.out} again")

    def refuse_inputs(self, inputs: Sequence[str]) -> None:
        """Raise OutputError when something that would be written is one of the inputs, or a rejects table somebody else's."""
        if self.kind == "folder":
            own = _place(self.out).rstrip("/")
            for path in inputs:
                if (_place(path).rstrip("/") + "/").startswith(own + "/"):
                    what = "is" if _place(path).rstrip("/") == own else f"holds {path}, which is"
                    raise OutputError(f"{self.out} {what} an input of this command; choose another output")
            return
        written = {_place(path): path for path in (self.out, self.rejects, self._sidecar, self._inputs)}
        for path in inputs:
            if _place(path) in written:
                raise OutputError(f"{written[_place(path)]} is an input of this command; choose another output")
        if storage.exists(self._inputs) and not cut.is_packed(storage.read_range(self._inputs, 0, cut.HEAD_BYTES)):
            raise OutputError(f"{self._inputs} is in the way of what a run writes and is not ours; move it")
        if storage.exists(self.rejects) and not score_files.is_ours(self.rejects):
            raise OutputError(
                f"{self.rejects} is in the way of the rejects table and is not ours; move it, or choose another output"
            )

    def check_place_for_embeddings(self) -> None:
        """Raise OutputError, before any work, when embeddings could not be kept beside the scores."""
        if self.kind != "folder":
            self._check_kept()

    def earlier_options(self) -> Mapping[str, Any]:
        """The options of the run that this output holds, finished or not; none where there is none."""
        record = RunFolder(self.work).read_record() if self.work.is_dir() else None
        record = record or (self._read_sidecar() if self.is_separate else None) or {}
        options = record.get("options")
        return options if isinstance(options, dict) else {}

    def _clear_up(self) -> None:
        """Remove shards that a finished run left when it was killed; another run that is at it is left alone."""
        if self.work.is_dir() and RunFolder(self.work).is_run_of(self.product.format):
            with contextlib.suppress(OutputError), RunFolder(self.work).locked():
                self.remove_work()

    def _is_foreign(self) -> bool:
        """Whether a remote folder holds files that neither a finished run nor one to be continued put there."""
        if self.is_local or self.kind != "folder" or self.work.is_dir() or storage.exists(self._sidecar):
            return False
        return storage.is_folder(self.out) and bool(storage.list_files(self.out))

    def _upload(self, paths: Sequence[Path]) -> None:
        """Put the shards' files into the remote folder, and take away those of the result that they replace."""
        base = self.out.rstrip("/")
        targets = {path.relative_to(self.work).as_posix(): path for path in paths}
        old = self._replaced(base, [f"{base}/{folder}" for folder in self._folders], targets)
        storage.remove(self._sidecar)
        for place in old:
            storage.remove(place)
        for name, path in targets.items():
            with storage.write_whole(f"{base}/{name}", scratch=self.work) as temporary:
                shutil.copyfile(path, temporary)

    def _replaced(self, base: str, folders: Sequence[str], targets: Mapping[str, Path]) -> list[str]:
        """Files of an earlier run in remote folders below `base`, without `targets` (relative to it).

        Raises OutputError for tables that are not ours.
        """
        found = [place for folder in folders if storage.is_folder(folder) for place in storage.list_files(folder)]
        whole = storage.filesystem(base)[1].rstrip("/") + "/"
        old = []
        for place in found:
            name = storage.filesystem(place)[1].removeprefix(whole)
            if name in targets:
                continue
            if _is_by_us(place, name):
                old.append(place)
            elif PurePosixPath(place).suffix.lower() in _TABLES:
                raise _in_the_way(place)
        return old

    def _read_sidecar(self) -> dict[str, Any] | None:
        """The record beside the output; None where there is none, or somebody else's. Raises OutputError when it is damaged."""
        if not storage.exists(self._sidecar):
            return None
        data = self._sidecar_bytes()
        try:
            record = records.parse(data)
        except DamagedRecordError as error:
            if records.looks_ours(data):
                raise self._damaged(error) from None
            return None
        return record if _is_record(record) and "result" in record else None

    def publish(
        self, step: Step, shards: Sequence[Shard], results: Sequence[ShardResult], summary: RunSummary, identity: str
    ) -> None:
        """Join the shards (or upload them) once all are done; the record that says so is written last."""
        if not self.is_separate:
            return
        self._check_shards(shards, results)
        written = {
            name: _Published(size, result.sha256.get(name))
            for result in results
            for name, size in result.files.items()
            if not name.startswith(f"{columns.INPUTS_FOLDER}/")
        }
        own = [self.work / name for name in written if name.startswith(tuple(f"{folder}/" for folder in self.product.folders))]
        rejects = [self.work / name for name in written if name.startswith(f"{columns.REJECTS_FOLDER}/")]
        kept = [] if columns.EMBEDDINGS_FOLDER in self.product.folders else self._kept(list(written))
        if self.kind == "folder":
            self._upload([*own, *kept, *rejects])
        else:
            if rejects:
                score_files.join_parquet(self.rejects, rejects, step.provenance, self.work)
            else:
                storage.remove(self.rejects)
            if summary.embeddings is not None:
                self._place_kept(kept)
            self.product.join(self.out, own, self.kind == "csv", step.provenance, self.work)
            inside = f"{columns.EMBEDDINGS_FOLDER}/"
            written = {name: one for name, one in written.items() if kept and name.startswith(inside)}
            written["output"] = self._published(self.out)
            if rejects:
                written["rejects"] = self._published(self.rejects)
        record = {
            **step.provenance,
            **(columns.HOW_TO_READ if self.kind == "folder" and self.product is SCORES else {}),
            "options": dict(step.options),
            "columns": step.columns,
            "inputs": identity,
            "result": summary.merged_result().to_json(),
            "files": {name: one.to_json() for name, one in written.items()},
            _INPUTS_FILE: self._pack_inputs(shards).to_json(),
            _KEPT: summary.num_kept,
        }
        storage.write_bytes(self._sidecar, score_files.record_bytes(record), scratch=self.work)

    def _pack_inputs(self, shards: Sequence[Shard]) -> _Published:
        """Put the markers of all shards, in order, and what they were made of into one file beside the result."""
        with storage.write_whole(self._inputs, scratch=self.work) as temporary:
            cut.pack_inputs(self.work, [shard.name for shard in shards], temporary)
        return self._published(self._inputs)

    def _published(self, place: str) -> _Published:
        """Size and checksum of a file just written; of a remote one the size alone."""
        sha256 = storage.sha256_of(storage.local_path(place)) if self.is_local else None
        return _Published(storage.size(place), sha256)

    def _check_shards(self, shards: Sequence[Shard], results: Sequence[ShardResult]) -> None:
        """Compare all shards with their checksums before they are joined or uploaded.

        Raises DamagedShardError for one that was damaged since it was written; it is taken back, so that it is redone.
        """
        folder = RunFolder(self.work)
        for shard, result in zip(shards, results, strict=True):
            try:
                folder.check_files(result)
            except DamagedShardError:
                folder.forget(shard.name, list(result.files))
                raise

    def _kept(self, names: Sequence[str]) -> list[Path]:
        """Files of the embeddings that are kept beside the scores, their stamp last."""
        found = [self.work / name for name in sorted(names) if name.startswith(f"{columns.EMBEDDINGS_FOLDER}/")]
        stamp = self.work / columns.EMBEDDINGS_FOLDER / columns.STAMP_FILE
        if not stamp.is_file():
            return found
        try:
            records.read(str(stamp))
        except DamagedRecordError as error:
            raise OutputError(f"{stamp} is damaged: {error}; use --overwrite to start anew") from None
        return [*found, stamp]

    def _place_kept(self, kept: Sequence[Path]) -> None:
        """Put kept embeddings beside a single-file result, in place of an earlier run's; locally all at once."""
        if not self._check_kept() and not kept:
            return
        base, target = self.work / columns.EMBEDDINGS_FOLDER, self.kept_embeddings
        if not self.is_local:
            targets = {path.relative_to(base).as_posix(): path for path in kept}
            replaced = self._replaced(target, [target], targets)
            storage.remove(f"{target}/{columns.STAMP_FILE}")
            for old in replaced:
                storage.remove(old)
            for name, path in targets.items():
                with storage.write_whole(f"{target}/{name}", scratch=self.work) as temporary:
                    shutil.copyfile(path, temporary)
            return
        folder, made, old_folder = storage.local_path(target), self.work / _PLACING, self.work / _REPLACED
        for rest in (made, old_folder):  # of a run that was killed here
            shutil.rmtree(rest, ignore_errors=True)
        for path in kept:
            copy = made / path.relative_to(base)
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                copy.hardlink_to(path)
            except OSError:  # a file system without links
                shutil.copyfile(path, copy)
        try:
            if folder.exists():
                folder.rename(old_folder)
            if kept:
                made.rename(folder)
        except OSError as error:
            raise writing_failed(target, error) from error

    def _check_kept(self) -> bool:
        """Whether an earlier run of this output has kept embeddings. Raises OutputError when others stand in their place."""
        target = self.kept_embeddings
        if not (storage.local_path(target).exists() if self.is_local else storage.is_folder(target)):
            return False
        stamp = f"{target}/{columns.STAMP_FILE}"
        try:
            record = records.read(stamp) if storage.exists(stamp) else {}
        except DamagedRecordError as error:
            raise OutputError(f"{stamp} is damaged: {error}; restore it, or move {target} away") from None
        if record.get(columns.KEPT_BESIDE) != PurePosixPath(self.out).name:
            raise OutputError(f"{target} is in the way of the embeddings to be kept; move it, or choose another output")
        if self.is_local:  # the folder is replaced as a whole
            for place in storage.list_files(target):
                inside = place.removeprefix(f"{storage.local_path(target)}/")
                if inside != columns.STAMP_FILE and not is_shard_file(inside):
                    raise _in_the_way(place)
        return True

    def remove_leftovers(self, results: Sequence[ShardResult]) -> None:
        """Remove files of shards that a run which was killed had not finished and that are not planned any more.

        Readers of a local folder would take them for results.
        """
        known = {name for result in results for name in result.files}
        for name in self._sorted_files()[0]:
            if is_shard_file(name) and name not in known:
                (self.work / name).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove what a run without a single row has written; the caller holds the lock."""
        self._remove_run()

    def remove_work(self) -> None:
        """Remove the shards of a joined or uploaded result; the record goes last, so that what is left stays known as ours."""
        if self.is_separate and self.work.is_dir():
            self._remove_run()

    def _remove_run(self) -> None:
        """Remove a run's files from the folder of its shards, and the folder unless something else is in it."""
        for name in (_PLACING, _REPLACED):
            shutil.rmtree(self.work / name, ignore_errors=True)
        remove_set_aside(RunFolder(self.work))
        self._remove(self._sorted_files(by_name=self.is_separate)[0])
        for stray in self.work.glob(".beholder-*.tmp"):
            stray.unlink(missing_ok=True)
        for name in (LOCK_FILE, columns.STAMP_FILE):
            (self.work / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something else is in it
            self.work.rmdir()


@dataclass(frozen=True)
class _Published:
    """A file of a finished result: its bytes, and their sha256 where that is known."""

    num_bytes: int
    sha256: str | None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"bytes": self.num_bytes, "sha256": self.sha256}

    @classmethod
    def from_json(cls, record: Any) -> _Published:
        """Restore what `to_json` wrote. Raises DamagedRecordError."""
        fields = _object(record)
        num_bytes, sha256 = records.whole_number(fields.get("bytes"), "the size of a file"), fields.get("sha256")
        if not isinstance(sha256, str | None):
            raise DamagedRecordError("a checksum is no text")
        return cls(num_bytes, sha256)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DamagedRecordError("files are no JSON object")
    return value


def _is_record(record: Mapping[str, Any]) -> bool:
    """Whether it is the record of a run, not a stamp that somebody has written by hand."""
    formats = (columns.SCORE_SET_FORMAT, columns.EMBEDDINGS_FORMAT)
    return record.get("format") in formats and isinstance(record.get("options"), dict)


def _is_by_us(place: str, inside: str) -> bool:
    """Whether a file in a run's folder, at `inside` relative to it, is one of a run, by its name and its first bytes."""
    name = PurePosixPath(inside)
    if name.name == columns.STAMP_FILE and str(name.parent) in (columns.EMBEDDINGS_FOLDER, "."):
        data = storage.read_range(place, 0, storage.size(place))
        return records.looks_ours(data)
    if not is_shard_file(inside):
        return False
    if name.suffix == ".npy":  # it says nothing of its maker; the metadata of its number, which is written before it, does
        number = name.stem.removeprefix("img_emb_")
        place = f"{place.removesuffix(str(PurePosixPath(*name.parts[-2:])))}{columns.METADATA_FOLDER}/metadata_{number}.parquet"
        return storage.exists(place) and score_files.is_ours(place)
    if name.suffix == ".parquet":
        return score_files.is_ours(place)
    return storage.read_range(place, 0, 7) in (b"sample,", b"sample\n")


def _in_the_way(place: Path | str) -> OutputError:
    return OutputError(f"{place} is not of this program and would be taken for a result; move it, or choose another output")


def _fetch(source: str, target: Path) -> None:
    """Have a file at a local place: linked where that can be, else copied. Raises OutputError and InputError."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if storage.is_local(source):
            link_or_copy(storage.local_path(source), target)
            return
        with storage.remote_errors(source), storage.open_binary(source) as file, target.open("wb") as out:
            shutil.copyfileobj(file, out, 1 << 20)
    except OSError as error:
        raise writing_failed(str(target), error) from error


def _place(path: str) -> str:
    """One name for one file, links followed; URLs stay as they are."""
    return str(storage.local_path(path).resolve()) if storage.is_local(path) else path
