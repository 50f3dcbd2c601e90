"""Where a job's result goes: a folder of shards, or one file that is joined from shards in a folder beside it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from beholder import columns, storage
from beholder.errors import OutputError, writing_failed
from beholder.run.step import Step
from beholder.scores import files
from beholder.scores.summary import RunSummary
from beholder.shards import LOCK_FILE, RunFolder, ShardResult, difference

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
        files.join_csv(target, parts, scratch)
    else:
        files.join_parquet(target, parts, provenance, scratch)


def _join_embeddings(target: str, parts: Sequence[Path], is_csv: bool, provenance: Mapping[str, Any], scratch: Path) -> None:
    from beholder.embeddings.writers import join_shards

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

    def clear(self) -> None:
        """Forget earlier runs. A result that is made elsewhere stays until the new one replaces it.

        Raises OutputError for a folder that is not ours.
        """
        if self._is_foreign():
            raise OutputError(f"{self.out} is not a beholder run, so --overwrite leaves it alone; choose another output")
        if self.work.is_dir():
            record = RunFolder(self.work).read_record()
            if any(self.work.iterdir()) and (record is None or record.get("format") != self.product.format):
                raise OutputError(f"{self.work} is not a beholder run, so --overwrite leaves it alone; choose another output")
            with RunFolder(self.work).locked():
                for name in (*self.product.folders, columns.EMBEDDINGS_FOLDER, columns.REJECTS_FOLDER, columns.DONE_FOLDER):
                    shutil.rmtree(self.work / name, ignore_errors=True)
                RunFolder(self.work).record_path.unlink(missing_ok=True)
        if self.kind != "folder":
            storage.remove(self._sidecar)

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
        changed = f"with other options: {changed}" if changed else "and was made from other inputs"
        raise OutputError(f"{self.out} already exists {changed}; use --overwrite, or another output")

    def check_place(self) -> None:
        """Raise OutputError, before anything is loaded, when something that is no run of ours stands where the result goes."""
        folder = RunFolder(self.work)
        is_strange = not self.is_separate and folder.read_record() is None and folder.holds_something()
        if is_strange or self._is_foreign():
            raise OutputError(f"{self.out} already exists and is not a beholder run; choose another output, or remove it")
        if self.kind != "folder" and storage.exists(self.out) and self._read_sidecar() is None and not self.work.is_dir():
            raise OutputError(f"{self.out} {_NOT_BY_US}")

    def matching_result(self, step: Step, identity: str) -> ShardResult | None:
        """The result that stands in the record beside the output, when it is of these options and inputs."""
        record = self._read_sidecar() if self.is_separate else None
        if record is None or difference(record.get("options") or {}, step.options) or record.get("inputs") != identity:
            return None
        return ShardResult(**record["result"]) if self.kind == "folder" or storage.exists(self.out) else None

    def refuse_inputs(self, inputs: Sequence[str]) -> None:
        """Raise OutputError when something that would be written is one of the inputs, or a rejects table somebody else's."""
        if self.kind == "folder":
            own = _place(self.out).rstrip("/")
            for path in inputs:
                if (_place(path).rstrip("/") + "/").startswith(own + "/"):
                    what = "is" if _place(path).rstrip("/") == own else f"holds {path}, which is"
                    raise OutputError(f"{self.out} {what} an input of this command; choose another output")
            return
        written = {_place(path): path for path in (self.out, self.rejects, self._sidecar)}
        for path in inputs:
            if _place(path) in written:
                raise OutputError(f"{written[_place(path)]} is an input of this command; choose another output")
        if self.is_local and storage.exists(self.rejects) and not files.is_ours(storage.local_path(self.rejects)):
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
        if self.work.is_dir():
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
        storage.remove(self._sidecar)
        targets = {f"{base}/{path.relative_to(self.work)}": path for path in paths}
        for folder in (*self.product.folders, columns.EMBEDDINGS_FOLDER, columns.REJECTS_FOLDER):
            if storage.is_folder(f"{base}/{folder}"):
                for old in storage.list_files(f"{base}/{folder}"):
                    if old not in targets:
                        storage.remove(old)
        for target, path in targets.items():
            with storage.write_whole(target, scratch=self.work) as temporary:
                shutil.copyfile(path, temporary)

    def _read_sidecar(self) -> dict[str, Any] | None:
        if not storage.exists(self._sidecar):
            return None
        try:
            record = json.loads(storage.read_range(self._sidecar, 0, storage.size(self._sidecar)))
        except ValueError:
            return None
        return record if isinstance(record, dict) and "result" in record else None

    def publish(self, step: Step, results: Sequence[ShardResult], summary: RunSummary, identity: str) -> None:
        """Join the shards (or upload them) once all are done; the record that says so is written last."""
        if not self.is_separate:
            return
        names = [name for result in results for name in result.files]
        own = [self.work / name for name in names if name.startswith(tuple(f"{folder}/" for folder in self.product.folders))]
        rejects = [self.work / name for name in names if name.startswith(f"{columns.REJECTS_FOLDER}/")]
        kept = [] if columns.EMBEDDINGS_FOLDER in self.product.folders else self._kept()
        if self.kind == "folder":
            self._upload([*own, *kept, *rejects])
        else:
            if rejects:
                files.join_parquet(self.rejects, rejects, step.provenance, self.work)
            else:
                storage.remove(self.rejects)
            if summary.embeddings is not None:
                self._place_kept(kept)
            self.product.join(self.out, own, self.kind == "csv", step.provenance, self.work)
        record = {
            **step.provenance,
            "options": dict(step.options),
            "inputs": identity,
            "result": asdict(summary.merged_result()),
        }
        storage.write_bytes(self._sidecar, files.record_bytes(record), scratch=self.work)

    def _kept(self) -> list[Path]:
        """Files of the embeddings that are kept beside the scores, their stamp last."""
        found = sorted(path for path in (self.work / columns.EMBEDDINGS_FOLDER).rglob("*") if path.is_file())
        return sorted(found, key=lambda path: path.name == columns.STAMP_FILE)

    def _place_kept(self, kept: Sequence[Path]) -> None:
        """Put kept embeddings beside a single-file result, in place of an earlier run's; locally all at once."""
        if not self._check_kept() and not kept:
            return
        base, target = self.work / columns.EMBEDDINGS_FOLDER, self.kept_embeddings
        if not self.is_local:
            storage.remove(f"{target}/{columns.STAMP_FILE}")
            targets = {f"{target}/{path.relative_to(base)}": path for path in kept}
            for old in storage.list_files(target) if storage.is_folder(target) else []:
                if old not in targets:
                    storage.remove(old)
            for place, path in targets.items():
                with storage.write_whole(place, scratch=self.work) as temporary:
                    shutil.copyfile(path, temporary)
            return
        folder, made, old_folder = storage.local_path(target), self.work / "placing", self.work / "replaced"
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
            record = json.loads(storage.read_range(stamp, 0, storage.size(stamp))) if storage.exists(stamp) else None
        except ValueError:
            record = None
        if not isinstance(record, dict) or record.get(columns.KEPT_BESIDE) != PurePosixPath(self.out).name:
            raise OutputError(f"{target} is in the way of the embeddings to be kept; move it, or choose another output")
        return True

    def discard(self) -> None:
        """Remove what a run without a single row has written; the caller holds the lock."""
        if self.is_separate:
            self.remove_work()
            return
        for name in (*self.product.folders, columns.EMBEDDINGS_FOLDER, columns.REJECTS_FOLDER, columns.DONE_FOLDER):
            shutil.rmtree(self.work / name, ignore_errors=True)
        for name in (columns.STAMP_FILE, LOCK_FILE):
            (self.work / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something else is in it
            self.work.rmdir()

    def remove_work(self) -> None:
        """Remove the shards of a joined or uploaded result; the record goes last, so that what is left stays known as ours."""
        if not self.is_separate or not self.work.is_dir():
            return
        record = RunFolder(self.work).record_path
        for path in self.work.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path != record:
                path.unlink(missing_ok=True)
        record.unlink(missing_ok=True)
        self.work.rmdir()


def _place(path: str) -> str:
    """One name for one file, links followed; URLs stay as they are."""
    return str(storage.local_path(path).resolve()) if storage.is_local(path) else path
