"""Where a job's result goes: a folder of shards, or one file that is joined from shards in a folder beside it."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from beholder import columns
from beholder.errors import OutputError, writing_failed
from beholder.io import crash, locations, places, records, remote, storage, writing
from beholder.io.records import DamagedRecordError
from beholder.scoring import files
from beholder.scoring.folder import RunFolder, is_own_file
from beholder.scoring.listed_folder import remove_empty
from beholder.scoring.run import Step
from beholder.scoring.shards import DamagedShardError, ShardResult, is_shard_file, marker_of
from beholder.scoring.summary import RunSummary
from beholder.scoring.watch import is_run_file

_UNKNOWN_SUFFIXES = frozenset(
    (".gz", ".zst", ".zip", ".txt", ".tsv", ".json", ".jsonl", ".feather", ".arrow", ".npy", ".npz", ".db", ".xlsx")
)
NOT_BY_US = "already exists and was not written by this command; use --overwrite, or another output"
TABLES = {".parquet", ".pq", ".csv", ".tsv", ".npy"}
"""What readers of a run's folders take for results."""
_KINDS = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}
"""Of results that are one file, by suffix."""
INPUTS_FILE = "inputs_file"
NUM_KEPT = "num_kept"
"""In the record of a finished result: rows that were kept though their inputs have vanished."""
OF_RESULT = ("result", "files", "inputs", INPUTS_FILE, NUM_KEPT)
"""In the record of a finished result: what the record of a run under way has not."""
_PLACING, _REPLACED = "placing", "replaced"
"""In the folder of shards: kept embeddings on their way to their place, and those that were there before."""
_PLACING_STAMP = ".beholder-placing.json"
"""In a remote folder of kept embeddings, in place of the stamp, while they are on their way."""


@dataclass(frozen=True)
class Product:
    """What a kind of job writes.

    Attributes:
        noun: "scores" or "embeddings", for messages.
        format: the `format` of its record.
        folders: below the run's folder: where its shards' own files lie.
    """

    noun: str
    format: str
    folders: tuple[str, ...]


EMBEDDINGS = Product(
    "embeddings",
    columns.EMBEDDINGS_FORMAT,
    (columns.IMAGES_FOLDER, columns.METADATA_FOLDER, columns.EMBEDDINGS_FOLDER),
)
SCORES = Product("scores", columns.SCORE_SET_FORMAT, (columns.SCORES_FOLDER,))
PRODUCTS = {product.format: product for product in (SCORES, EMBEDDINGS)}
"""By the `format` of their records, where any value of JSON may stand, one without a hash too: look for it in a tuple."""


class RunOutput:
    """The output as the user named it, and the folder in which its shards are written first.

    Args:
        out: a folder, or a file ending in .parquet, .pq or .csv; local or a URL.
        product: what is written there.

    Attributes:
        kind: "folder", "parquet" or "csv".
        work: the folder with the run's record, shards and done-markers, a path or URL; of a folder the output itself, of a file
            one beside it.
        folder: the same.
        is_separate: whether shards are written elsewhere first; then the result is joined.
        rejects, kept_embeddings: where rejects are found, and embeddings that are kept beside scores.
        sidecar: where the record of a result stands that is joined; of a folder, its own.
        inputs: what the shards of such a result were made of: their markers, and their tables of inputs.

    Raises:
        OutputError: the name asks for a kind of file that is not written.
    """

    def __init__(self, out: str, product: Product = SCORES) -> None:
        if locations.is_web(out):
            raise OutputError(f"cannot write {out}: a web server takes no files; give a local path, or a bucket (s3://, gs://)")
        writing.check_text(out)
        if not locations.is_local(out) and not out.partition("://")[2].strip("/"):
            raise OutputError(f"{out} names no place that could be written to; name a bucket, or a folder in it")
        self.out, self.product = out, product
        suffix = PurePosixPath(out).suffix.lower()
        self.kind = _KINDS.get(suffix, "folder")
        if suffix in _UNKNOWN_SUFFIXES:
            raise OutputError(
                f"{out}: {product.noun} are written as .parquet, .csv, or into a folder (a name without such a suffix)"
            )
        self.is_local = locations.is_local(out)
        self.is_separate = self.kind != "folder"
        if self.kind == "folder":
            base = out.rstrip("/")
            self.rejects, self.kept_embeddings = f"{base}/{columns.REJECTS_FOLDER}", f"{base}/{columns.EMBEDDINGS_FOLDER}"
            self.sidecar = f"{base}/{columns.STAMP_FILE}"
        else:
            self.rejects, self.kept_embeddings = out + columns.REJECTS_SUFFIX, f"{out}.{columns.EMBEDDINGS_FOLDER}"
            self.sidecar = out + columns.SIDECAR_SUFFIX
        self.inputs = out + columns.INPUTS_SUFFIX
        place = str(locations.local_path(out)) if self.is_local else out
        self.work = place if self.kind == "folder" else place + columns.PARTIAL_SUFFIX
        self.folder = RunFolder(self.work)

    def clear(self) -> None:
        """Forget earlier runs. A result that is made elsewhere stays until the new one replaces it, as does a folder's record.

        Everything is looked at before the first file is removed, and only files of ours are.
        Raises OutputError for a folder or a record that is not ours.
        """
        self._check_targets()
        folder = self.folder
        if folder.exists():
            if not folder.is_run_of(self.product.format) and folder.holds_something():
                raise OutputError(f"{self.work} is not a beholder run, so --overwrite leaves it alone; choose another output")
            folder.look()
            own, strange = self._sorted_files()
            if strange:
                raise _in_the_way(folder.place_of(strange[0]))
            with folder.locked():
                folder.remove_set_aside()
                self._remove(own)
                self._remove_run_files()
        if self.kind != "folder":
            writing.remove(self.sidecar)

    def _sorted_files(self, *, by_name: bool = False, known: Container[str] = ()) -> tuple[list[str], list[str]]:
        """Files in the folders of shards, relative: those that a run wrote, and tables that readers would take for such.

        Anything else there (a README, pictures) is in neither list, nor is what is `known`. `by_name`: names alone tell what a
        run wrote; else a shard's file has a done-marker, or looks like ours inside.
        """
        finished = self.folder.finished_names()
        own: list[str] = []
        strange: list[str] = []
        folders = tuple(f"{name}/" for name in self._folders)
        found = (name for name in self.folder.names() if name.startswith(folders))
        for name in sorted(name for name in found if name not in known):
            path = PurePosixPath(name)
            is_named = is_shard_file(name) and (by_name or path.stem in finished)
            if is_named or is_own_file(name) or _is_by_us(self.folder.place_of(name), name):
                own.append(name)
            elif path.suffix.lower() in TABLES:
                strange.append(name)
        return own, strange

    @property
    def _folders(self) -> tuple[str, ...]:
        """Folders below the folder of shards; that of the markers first, since what has no marker counts as not done."""
        own = (columns.DONE_FOLDER, *self.product.folders, columns.EMBEDDINGS_FOLDER, columns.REJECTS_FOLDER)
        return tuple(dict.fromkeys((*own, columns.INPUTS_FOLDER)))

    def _remove(self, own: Sequence[str]) -> None:
        """Remove these files of the folder of shards, and the local folders that are empty then."""
        of_markers = tuple(name for name in own if name.startswith(f"{columns.DONE_FOLDER}/"))
        self.folder.remove(of_markers)
        self.folder.remove(name for name in own if not name.startswith(f"{columns.DONE_FOLDER}/"))
        for name in self._folders if self.is_local else ():
            remove_empty(self.folder.path / name)

    def is_by_us(self, inside: str) -> bool:
        """Whether a file in the folder of shards, at `inside` relative to it, is one that a run wrote, by its first bytes."""
        return _is_by_us(self.folder.place_of(inside), inside)

    def _remove_run_files(self) -> None:
        """Remove what runs wrote of the times that they took."""
        folder = self.folder
        folder.remove([name for name in folder.names() if is_run_file(name) and records.looks_ours(folder.read(name) or b"")])

    def check_place(self) -> None:
        """Raise OutputError, before anything is loaded, when something that is no run of ours stands where the result goes."""
        if self.kind == "folder":
            self.folder.record_or_nothing()
            return
        self._check_targets()
        if storage.exists(self.out) and self.read_sidecar() is None and not self.folder.exists():
            raise OutputError(f"{self.out} {NOT_BY_US}")

    def _check_targets(self) -> None:
        """Raise OutputError when a folder stands where the file goes, or somebody else's file where its record goes."""
        if self.kind == "folder":
            return
        if storage.is_folder(self.out):
            raise OutputError(f"{self.out} is a folder; choose another output, or a name without such an ending")
        data = places.read_all(self.sidecar)
        if data is not None and not is_of_run(data):
            raise OutputError(f"{self.sidecar} is in the way of the record and is not ours; move it, or choose another output")

    def damaged(self, error: DamagedRecordError) -> OutputError:
        """What to say of a damaged record beside the output."""
        return OutputError(f"{self.sidecar} is damaged: {error}; restore it, or use --overwrite to make {self.out} again")

    def refuse_inputs(self, inputs: Sequence[str]) -> None:
        """Raise OutputError when something that would be written is one of the inputs, or a rejects table somebody else's."""
        if self.kind == "folder":
            own = _place(self.out).rstrip("/")
            for path in inputs:
                if (_place(path).rstrip("/") + "/").startswith(own + "/"):
                    what = "is" if _place(path).rstrip("/") == own else f"holds {path}, which is"
                    raise OutputError(f"{self.out} {what} an input of this command; choose another output")
            return
        written = {_place(path): path for path in (self.out, self.rejects, self.sidecar, self.inputs)}
        for path in inputs:
            if _place(path) in written:
                raise OutputError(f"{written[_place(path)]} is an input of this command; choose another output")
        if storage.exists(self.inputs) and not is_packed(storage.read_range(self.inputs, 0, 64)):
            raise OutputError(f"{self.inputs} is in the way of what a run writes and is not ours; move it")
        if storage.exists(self.rejects) and not files.is_ours(self.rejects):
            raise OutputError(
                f"{self.rejects} is in the way of the rejects table and is not ours; move it, or choose another output"
            )

    def check_place_for_embeddings(self) -> None:
        """Raise OutputError, before any work, when embeddings could not be kept beside the scores."""
        if self.kind != "folder":
            self._check_kept()

    def earlier_options(self) -> Mapping[str, Any]:
        """The options of the run that this output holds, finished or not; none where there is none."""
        record = self.folder.read_record() or self.read_sidecar() or {}
        options = record.get("options")
        return options if isinstance(options, dict) else {}

    def read_sidecar(self) -> dict[str, Any] | None:
        """The record beside the output; None where there is none, or somebody else's. Raises OutputError when it is damaged."""
        data = places.read_all(self.sidecar) if self.is_separate else None
        if data is None:
            return None
        try:
            record = records.parse(data)
        except DamagedRecordError as error:
            if records.looks_ours(data):
                raise self.damaged(error) from None
            return None
        return record if _is_record(record) and "result" in record else None

    def publish(self, step: Step, results: Mapping[str, ShardResult], summary: RunSummary, identity: str) -> None:
        """Join the shards to one file once all are done; the record that says so is written last."""
        if not self.is_separate:
            return
        self._check_shards(results)
        written = {
            name: Published(size, result.sha256.get(name))
            for result in results.values()
            for name, size in result.files.items()
            if not name.startswith(f"{columns.INPUTS_FOLDER}/")
        }
        own = self._parts(results, self.product.folders)
        rejects = self._parts(results, (columns.REJECTS_FOLDER,))
        kept = [] if columns.EMBEDDINGS_FOLDER in self.product.folders else self._kept(list(written))
        if rejects:
            files.join_shards(self.rejects, rejects, step.file_metadata, self._scratch)
        else:
            writing.remove(self.rejects)
        crash.reach("rejects published")
        if summary.embeddings is not None:
            self._place_kept(kept)
        crash.reach("embeddings published")
        files.join_shards(self.out, own, step.file_metadata, self._scratch)
        crash.reach("result published")
        inside = f"{columns.EMBEDDINGS_FOLDER}/"
        written = {name: one for name, one in written.items() if kept and name.startswith(inside)}
        written["output"] = self._published(self.out)
        if rejects:
            written["rejects"] = self._published(self.rejects)
        record = {
            **step.provenance,
            "options": dict(step.options),
            "columns": step.columns,
            "inputs": identity,
            "result": summary.merged_result().to_json(),
            "files": {name: one.to_json() for name, one in written.items()},
            INPUTS_FILE: self._pack_inputs(results).to_json(),
            NUM_KEPT: summary.num_kept,
        }
        crash.reach("inputs packed")
        writing.write_bytes(self.sidecar, records.sealed(record, indent=2), scratch=self._scratch)
        crash.reach("result recorded")

    @property
    def _scratch(self) -> Path | None:
        """Where temporary files of a local result stand: in the folder of shards, where the next run finds them."""
        return self.folder.path if self.is_local else None

    def _parts(self, results: Mapping[str, ShardResult], folders: Sequence[str]) -> list[files.ShardFile]:
        """The shards' files in these folders, in order."""
        own = tuple(f"{folder}/" for folder in folders)
        return [
            files.ShardFile(self.folder.place_of(name), size, result.sha256.get(name))
            for result in results.values()
            for name, size in result.files.items()
            if name.startswith(own)
        ]

    def _pack_inputs(self, results: Mapping[str, ShardResult]) -> Published:
        """Put the markers and the tables of inputs of these shards, in this order, into a zip beside the result."""

        def wanted() -> Iterator[tuple[str, int]]:
            names = self.folder.names()
            for name, result in results.items():
                inputs = f"{columns.INPUTS_FOLDER}/{name}.parquet"
                marker = names.get(marker_of(name)) or places.entry_of(self.folder.place_of(marker_of(name)))
                yield marker_of(name), marker.num_bytes if marker is not None else 0
                if inputs in result.files:
                    yield inputs, result.files[inputs]

        start = len(self.folder.place_of(""))
        pairs = ((self.folder.place_of(name), size) for name, size in wanted())
        with writing.open_whole(self.inputs, scratch=self._scratch) as sink, zipfile.ZipFile(sink, "w") as out:
            for place, size, data in places.fetched_ahead(pairs):
                with out.open(zipfile.ZipInfo(place[start:]), "w") as member:  # without times: the same shards, the same bytes
                    if data is not None:
                        member.write(data)
                        continue
                    with remote.read_errors(place), storage.open_stream(place, size) as file:
                        shutil.copyfileobj(file, member)
        return self._published(self.inputs)

    def _published(self, place: str) -> Published:
        """Size and checksum of a file just written; of a remote one the size alone."""
        sha256 = storage.sha256_of(locations.local_path(place)) if self.is_local else None
        return Published(storage.size(place), sha256)

    def _check_shards(self, results: Mapping[str, ShardResult]) -> None:
        """Compare all shards with what was written before they are joined; of remote ones the sizes, by one listing.

        Raises DamagedShardError for one that was damaged since it was written; it is taken back, so that it is redone.
        """
        if not self.is_local:
            self.folder.look()
        for name, result in results.items():
            try:
                self.folder.check_files(result if self.is_local else result.with_sizes_alone())
            except DamagedShardError:
                self.folder.forget(name, list(result.files))
                raise

    def _kept(self, names: Sequence[str]) -> list[str]:
        """Files of the embeddings that are kept beside the scores, by their names in the folder, their stamp last."""
        found = [name for name in sorted(names) if name.startswith(f"{columns.EMBEDDINGS_FOLDER}/")]
        stamp = f"{columns.EMBEDDINGS_FOLDER}/{columns.STAMP_FILE}"
        data = self.folder.read(stamp)
        if data is None:
            return found
        try:
            records.parse(data)
        except DamagedRecordError as error:
            place = self.folder.place_of(stamp)
            raise OutputError(f"{place} is damaged: {error}; use --overwrite to start anew") from None
        return [*found, stamp]

    def _place_kept(self, kept: Sequence[str]) -> None:
        """Put kept embeddings beside a single-file result, in place of an earlier run's; locally all at once."""
        if not self._check_kept() and not kept:
            return
        inside = len(f"{columns.EMBEDDINGS_FOLDER}/")
        if not self.is_local:
            self._copy_kept({name[inside:]: self.folder.place_of(name) for name in kept})
            return
        target, work = self.kept_embeddings, self.folder.path
        folder, made, old_folder = locations.local_path(target), work / _PLACING, work / _REPLACED
        for rest in (made, old_folder):  # of a run that was killed here
            shutil.rmtree(rest, ignore_errors=True)
        for name in kept:
            places.copy(str(work / name), str(made / name[inside:]))
        try:
            if folder.exists():
                folder.rename(old_folder)
                crash.reach("embeddings moved away")
            if kept:
                made.rename(folder)
        except OSError as error:
            raise writing_failed(target, error) from error

    def _copy_kept(self, targets: Mapping[str, str]) -> None:
        """Have the server copy kept embeddings to their place (by name there: from where); those of an earlier run go.

        The stamp there goes first, and comes last: what is without one is not finished. Meanwhile another file says whose they
        are.
        """
        base = self.kept_embeddings
        meanwhile = f"{base}/{_PLACING_STAMP}"
        stamp = next((place for name, place in targets.items() if name == columns.STAMP_FILE), f"{base}/{columns.STAMP_FILE}")
        if (data := places.read_all(stamp)) is not None:
            places.put_bytes(meanwhile, data)
        old = [name for name in places.listing(base) if name not in targets]
        own = [name for name in old if _is_by_us(f"{base}/{name}", name)]
        strange = [name for name in old if PurePosixPath(name).suffix.lower() in TABLES and name not in own]
        if strange:
            raise _in_the_way(f"{base}/{strange[0]}")
        writing.remove(f"{base}/{columns.STAMP_FILE}")
        crash.reach("embeddings taken away")
        places.remove_all([f"{base}/{name}" for name in own])
        pairs = [(place, f"{base}/{name}") for name, place in targets.items()]
        places.copy_all([pair for pair in pairs if not pair[1].endswith(f"/{columns.STAMP_FILE}")])
        crash.reach("embeddings copied")
        places.copy_all([pair for pair in pairs if pair[1].endswith(f"/{columns.STAMP_FILE}")])
        writing.remove(meanwhile)

    def _check_kept(self) -> bool:
        """Whether an earlier run of this output has kept embeddings. Raises OutputError when others stand in their place."""
        target = self.kept_embeddings
        if not (locations.local_path(target).exists() if self.is_local else storage.is_folder(target)):
            return False
        stamp = f"{target}/{columns.STAMP_FILE}"
        data = places.read_all(stamp) or places.read_all(f"{target}/{_PLACING_STAMP}")
        try:
            record = records.parse(data) if data is not None else {}
        except DamagedRecordError as error:
            raise OutputError(f"{stamp} is damaged: {error}; restore it, or move {target} away") from None
        if record.get(columns.KEPT_BESIDE) != PurePosixPath(self.out).name:
            raise OutputError(f"{target} is in the way of the embeddings to be kept; move it, or choose another output")
        if self.is_local:  # the folder is replaced as a whole
            for place in storage.list_files(target):
                inside = place.removeprefix(f"{locations.local_path(target)}/")
                if inside != columns.STAMP_FILE and not is_shard_file(inside):
                    raise _in_the_way(place)
        return True

    def remove_leftovers(self, results: Iterable[ShardResult]) -> None:
        """Remove files of shards that a run which was killed had not finished and that are not planned any more.

        Readers of a local folder would take them for results.
        """
        known = {name for result in results for name in result.files}
        known |= {name for name in self.folder.names() if is_own_file(name)}
        self.folder.remove(name for name in self._sorted_files(known=known)[0] if is_shard_file(name))

    def remove_work(self) -> None:
        """Remove the shards of a joined result; the record goes last, so that what is left stays known as ours."""
        if self.is_separate:
            self.discard()

    def discard(self) -> None:
        """Remove a run's files from the folder of its shards, and the folder unless something else is in it."""
        folder = self.folder
        folder.removed()
        if self.is_local:
            for name in (_PLACING, _REPLACED):
                shutil.rmtree(folder.path / name, ignore_errors=True)
        folder.look()
        folder.remove_set_aside()
        self._remove(self._sorted_files(by_name=self.is_separate)[0])
        crash.reach("shards removed")
        folder.remove_strays()
        self._remove_run_files()
        folder.remove([columns.STAMP_FILE])
        crash.reach("run removed")


def output_of(place: str) -> str:
    """The output whose shards lie in this folder: it, or the file beside it that they are joined to."""
    file = place.rstrip("/").removesuffix(columns.PARTIAL_SUFFIX)
    return file if file != place.rstrip("/") and PurePosixPath(file).suffix.lower() in _KINDS else place


def is_packed(head: bytes) -> bool:
    """Whether the first bytes of a file are those of what `RunOutput.inputs` is."""
    return head.startswith(b"PK") and head[30:].startswith(f"{columns.DONE_FOLDER}/".encode())


@dataclass(frozen=True)
class Published:
    """A file of a finished result: its bytes, and their sha256 where that is known."""

    num_bytes: int
    sha256: str | None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"bytes": self.num_bytes, "sha256": self.sha256}

    @classmethod
    def from_json(cls, record: Any) -> Published:
        """Restore what `to_json` wrote. Raises DamagedRecordError."""
        fields = records.json_object(record, "files are")
        num_bytes, sha256 = records.whole_number(fields.get("bytes"), "the size of a file"), fields.get("sha256")
        if not isinstance(sha256, str | None):
            raise DamagedRecordError("a checksum is no text")
        return cls(num_bytes, sha256)


def is_of_run(data: bytes) -> bool:
    """Whether a record, damaged or not, is one of a run, not a stamp that somebody has written by hand."""
    if not records.looks_ours(data):
        return False
    try:
        return _is_record(records.parse(data))
    except DamagedRecordError:
        return True


def _is_record(record: Mapping[str, Any]) -> bool:
    return record.get("format") in tuple(PRODUCTS) and isinstance(record.get("options"), dict)


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
        return storage.exists(place) and files.is_ours(place)
    if name.suffix == ".parquet":
        return files.is_ours(place)
    return storage.read_range(place, 0, 7) in (b"sample,", b"sample\n")


def _in_the_way(place: str) -> OutputError:
    return OutputError(
        f"{place} was not written by beholder and would be taken for a result; move it, or choose another output"
    )


def _place(path: str) -> str:
    """One name for one file, links followed; URLs stay as they are."""
    return str(locations.local_path(path).resolve()) if locations.is_local(path) else path
