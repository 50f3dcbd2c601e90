"""What is to be done with each picture: the files to make or move, checked, or the reason why it is left out.

Nothing here touches a file.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from beholder import columns
from beholder.columns import PictureReason
from beholder.curate.act import files
from beholder.curate.act.files import Intent, Refused, is_there, refusals
from beholder.curate.act.journal import Journal, JournalState, SharedFiles, new_journal, reopened
from beholder.curate.act.layout import Layout, marked
from beholder.curate.act.messages import ActionSummary, bytes_text
from beholder.curate.options import ActionOptions
from beholder.io import locations, storage
from beholder.locate.archives import FilePlace, Place
from beholder.locate.locate import PictureFinder
from beholder.locate.named_sources import NamedSources
from beholder.pixels.picture import PictureError
from beholder.sources.fetch import ReadLimits, read_bytes
from beholder.sources.reader import PictureRef

Say = Callable[[str], None]
Progress = Callable[[int, int], None]
_READ_AT_ONCE = 32
"""Pictures whose bytes are held in memory together."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """An act, ready to begin.

    Attributes:
        target: the folder, absolute.
        kept: the pictures in the order of the set, `sample` (large_string) first: their names, or what the column with their
            paths or URLs has; of single files each once.
        known: the same rows, with the names of the set: what is written beside packed pictures.
        journal: where its journal is, or will be.
        earlier: what that says of an earlier run of the same act; None without one.
        header: what the journal begins with.
        progress: told (pictures, bytes) as they are done.
    """

    action: str
    target: str
    kept: pa.Table
    known: pa.Table
    finder: PictureFinder
    sources: NamedSources
    layout: Layout
    options: ActionOptions
    journal: str
    earlier: JournalState | None
    header: dict[str, Any]
    summary: ActionSummary
    progress: Progress

    @property
    def state(self) -> JournalState:
        """What the earlier run's journal says; without one that of an act that has done nothing."""
        return self.earlier if self.earlier is not None else JournalState(self.header | {"id": ""})

    def open_journal(self) -> AbstractContextManager[tuple[Journal, JournalState]]:
        """Its journal, to be written into; begun where this is the first run. Raises InputError, OutputError."""
        return reopened(self.journal) if self.earlier is not None else new_journal(self.journal, **self.header)

    def located(self, rows: pa.Table, *, with_belongings: bool) -> Iterator[tuple[Place, Any]]:
        """Where pictures are, and their bytes when they were scored (None where nobody knows)."""
        samples = rows.column(columns.SAMPLE).to_pylist()
        sizes = [None] * len(samples)
        if columns.NUM_BYTES in rows.column_names:
            sizes = rows.column(columns.NUM_BYTES).to_pylist()
        for place, size in zip(self.finder.locate(samples, with_belongings=with_belongings), sizes, strict=True):
            if place.kind == "url" and isinstance(size, int) and place.files[0].size is None:  # servers are not asked again
                place = replace(place, files=(replace(place.files[0], size=size), *place.files[1:]))
            yield place, size

    def note_room(self, needed: int) -> None:
        """Say so where the target's disk has not so many bytes free."""
        free = shutil.disk_usage(files.existing_part(self.target)).free
        if needed > free:
            text = f"the disk of {self.target} has {bytes_text(free)} free, {bytes_text(needed)} are needed"
            self.summary.notes.append(text)


@dataclass
class Planned:
    """One picture: what to do, the picture first; nothing where it is left out, and then `refused` says why."""

    sample: str
    place: Place
    intents: list[Intent] = field(default_factory=list)
    refused: Refused | None = None

    @property
    def is_fetched(self) -> bool:
        """Whether bytes of it have to be read along."""
        return any(intent.part is not None for intent in self.intents)


class Planner:
    """Plans acts that make or move single files.

    Args:
        job: the act.
        state: what was planned and done so far; shared files that are planned are added to it.
    """

    def __init__(self, job: Job, state: JournalState) -> None:
        self.action, self.target, self.layout = job.action, job.target, job.layout
        self.shared: SharedFiles = state.shared
        self.number, self._is_continued = state.num_intents, state.num_intents > 0
        self._roots = {
            number: os.path.realpath(locations.local_path(path))
            for number, path in job.sources.folders()
            if locations.is_local(path)
        }
        self._seen: set[int] = set()
        """Hashes of targets."""
        self._taken: set[int] = set()
        """Hashes of shared files that were copied or linked with one of their pictures."""
        self._waiting: dict[str, int] = {}
        """Shared files that are moved -> pictures of them that are not planned yet."""
        self._expected: Counter[str] = Counter()
        self._expected_files: set[str] = set()
        self._folders: dict[str, Refused | None] = {}
        self._sources: dict[str, Refused | None] = {}
        """Folders of pictures -> why nothing may be written there, or moved from there; None: it may."""
        self.new_folders: list[str] = []

    def plan(self, located: Iterable[tuple[Place, Any]]) -> list[Planned]:
        """Look at some pictures, given with their bytes when they were scored."""
        found = []
        for place, size in located:
            planned, first = Planned(place.sample, place), self.number
            try:
                planned.intents = self._intents(place, size)
            except Refused as refused:
                self.number = first
                planned.refused = refused
            found.append(planned)
        return found

    def _intents(self, place: Place, size: Any) -> list[Intent]:
        check_place(place, size)
        if self.action != "copy" and place.kind == "url":
            raise Refused("remote", f"{place.sample} is on a server; --copy fetches it")
        if self.action != "copy" and place.kind != "file":
            text = f"{place.sample} lies inside {place.archive}; --copy takes it out, --tars packs it anew"
            raise Refused("in_archive", text)
        intents: list[Intent] = []
        shares = []
        for i, file in enumerate(place.files):
            is_shared = i > 0 and _may_be_shared(place, file)
            if is_shared:
                shares.append(self._target_of(place, file))
                if self._goes_with_another(place, file, shares[-1]):
                    continue
            intent = self._intent(place, file, i)
            if is_shared:
                if self.shared.is_waiting(intent) or intent.target in self._expected_files or self._is_done(intent):
                    continue
                intent.is_shared = True
            intents.append(intent)
        intents[0].shares = tuple(shares)
        targets = {hash(intent.target) for intent in intents}
        if len(targets) < len(intents) or targets & self._seen:
            raise Refused("clash", f"{intents[0].target}: another picture goes there, too")
        for intent in intents:
            self._check_target(intent)
        self._seen |= targets
        self._note_belongings(place)
        for intent in intents:
            if intent.is_shared:
                self.shared.add(intent)
        return intents

    def free_target(self, target: str, sample: str) -> str:
        """The path itself, or a like one where another picture's goes or anything stands. Raises Refused."""
        if hash(target) in self._seen or is_there(target):
            target = marked(target, sample)
        self._seen.add(hash(target))
        return target

    def expect(self, left: Sequence[Planned]) -> None:
        """Before a dry run: the pictures that would be done first, as an earlier run had them in flight."""
        intents = [intent for picture in left for intent in picture.intents]
        self._expected.update(target for intent in intents for target in intent.shares)
        self._expected_files.update(intent.target for intent in intents if intent.is_shared)

    def _goes_with_another(self, place: Place, file: FilePlace, target: str) -> bool:
        """Whether what several pictures share goes with another of them: with the first, when moved with the last."""
        if self.action == "move":
            return self._num_waited_for(file, target) > 1
        return hash((place.archive, _path(file))) in self._taken

    def _note_belongings(self, place: Place) -> None:
        """A picture is acted on, with what belongs to it alone, or to it and to others that were before."""
        for file in place.files[1:]:
            if _may_be_shared(place, file) and self.action == "move":
                self._waiting[_path(file)] = self._num_waited_for(file, self._target_of(place, file)) - 1
            elif _may_be_shared(place, file):
                self._taken.add(hash((place.archive, _path(file))))

    def _num_waited_for(self, file: FilePlace, target: str) -> int:
        """Pictures that a shared file belongs to and that are not planned to be moved yet."""
        return self._waiting.get(_path(file), file.owners - self._expected[target])

    def note_stays(self, place: Place) -> None:
        """A picture that was to be moved stays, and what it shares with others stays with it."""
        for file in place.files[1:]:
            if self._waiting.get(_path(file), 0) > 0:  # else it is planned: then it is given up
                self._waiting[_path(file)] += 1

    @property
    def left_with_others(self) -> list[str]:
        """Files that stay where they are though pictures they belong to are moved: others stay that share them."""
        return [path for path, left in self._waiting.items() if left > 0]

    def _is_done(self, intent: Intent) -> bool:
        """Whether what several pictures share is there already, copied or linked with another of them by a run before."""
        try:
            there = os.stat(intent.target)  # noqa: PTH116
            if intent.part is not None:  # without a place of its own: its bytes are not read for this
                return self._is_continued and there.st_size == intent.length
            if intent.offset is None:
                return (there.st_size, there.st_mtime_ns) == (intent.size, intent.mtime_ns)
            is_as_long = there.st_size == intent.length
            return is_as_long and storage.sha256_of(intent.target) == files.sha256_of_source(intent)
        except (OSError, ValueError, Refused):
            return False

    def _target_of(self, place: Place, file: FilePlace) -> str:
        return f"{self.target}/{self.layout.path(place, file)}"

    def _intent(self, place: Place, file: FilePlace, part: int) -> Intent:
        """What is to be done with one file. Raises Refused."""
        target, ref = self._target_of(place, file), file.ref
        if ref is not None and ref.error is not None:
            raise Refused("unreadable", ref.error[1])
        path = ref.path if ref is not None else None
        has_place = path is not None and locations.is_local(path)
        source = path if has_place else place.archive or path
        assert source is not None
        intent = Intent(self.number, place.sample, source, target, -1, -1, is_picture=part == 0)
        self.number += 1
        if locations.is_local(source):
            intent.source = source = os.path.abspath(locations.local_path(source))  # noqa: PTH100 (links stay as they are)
            with refusals(source):
                status = os.lstat(source) if self.action == "move" else os.stat(source)  # noqa: PTH116
            intent.size, intent.mtime_ns = status.st_size, status.st_mtime_ns
            if self.action == "move":
                self._check_leaving(source, place, status)
                intent.owner = status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)
        if not has_place:
            intent.part, intent.length = part, file.size
        elif ref is not None and ref.offset is not None:
            intent.offset, intent.length = ref.offset, ref.length
        return intent

    def _check_leaving(self, source: str, place: Place, status: os.stat_result) -> None:
        """Raise Refused where a file may not be moved away."""
        if stat.S_ISLNK(status.st_mode):
            raise Refused("link", f"{source} is a symbolic link; --copy and --link take the file it leads to")
        folder = os.path.dirname(source)  # noqa: PTH120
        read_only = f"nothing can be moved out of {folder}: it is not writable"
        self._check_source_folder(folder, place, "what lies there can only be copied", read_only)

    def _check_source_folder(self, folder: str, place: Place, if_outside: str, read_only: str) -> None:
        """Raise Refused for a folder of pictures that leads out of its source, or is not writable; each is looked at once."""
        if folder not in self._sources:
            root = self._roots.get(place.source) if place.source is not None else None
            self._sources[folder] = None
            if root is not None and not files.lies_in(os.path.realpath(folder), root):
                self._sources[folder] = Refused("outside", f"{folder} leads out of {root}; {if_outside}")
            elif not os.access(folder, os.W_OK | os.X_OK):
                self._sources[folder] = Refused("not_permitted", read_only)
        if (refused := self._sources[folder]) is not None:
            raise Refused(refused.reason, refused.text)

    def _check_target(self, intent: Intent) -> None:
        """Raise Refused where a file cannot be made."""
        folder = os.path.dirname(intent.target)  # noqa: PTH120
        if folder not in self._folders:
            self._folders[folder] = self._problem_of(folder)
        if (refused := self._folders[folder]) is not None:
            raise Refused(refused.reason, refused.text)
        if is_there(intent.target):
            raise Refused("clash", f"{intent.target} is there already")

    def _problem_of(self, folder: str) -> Refused | None:
        """Why nothing can be made in a folder; new folders are noted. Raises Refused for impossible names."""
        at = folder if is_there(folder) else files.existing_part(folder)
        if not os.path.isdir(at):  # noqa: PTH112
            return Refused("clash", f"{at} is there already and is no folder")
        if len(at) >= len(self.target) and not files.lies_in(os.path.realpath(at), os.path.realpath(self.target)):
            return Refused("outside", f"{at} is a link that leads out of {self.target}")
        if not os.access(at, os.W_OK | os.X_OK):
            return Refused("not_permitted", f"{at} is not writable")
        missing = [path for path in folders_between(at, folder) if path not in self._folders]
        self.new_folders += missing
        self._folders |= dict.fromkeys(missing)
        return None


def folders_between(above: str, folder: str) -> list[str]:
    """The folders below `above` down to `folder`, which come into being when that is made; outermost first."""
    found = []
    while folder != above:
        found.append(folder)
        folder = os.path.dirname(folder)  # noqa: PTH120
    return found[::-1]


def _may_be_shared(place: Place, file: FilePlace) -> bool:
    """Whether a file belongs to several pictures; of zips nobody counts them."""
    return file.owners > 1 or place.kind == "zip"


def _path(file: FilePlace) -> str:
    """What tells a file from others of its archive, or of none."""
    ref = file.ref
    return ref.path if ref is not None and ref.path is not None and ref.offset is None else file.name


def check_place(place: Place, size: Any) -> None:
    """Raise Refused for a picture that is not there, or has another size than when it was scored."""
    error = place.error
    if error is not None:
        raise Refused("missing" if error[0] == PictureReason.MISSING else "unreadable", error[1])
    now = place.files[0].size
    if isinstance(size, int) and now is not None and size != now:
        raise Refused("changed", f"{place.sample} has {now:,} bytes; it had {size:,} when it was scored")


def few(planned: Sequence[Planned]) -> Iterator[Sequence[Planned]]:
    """Few pictures at a time where their bytes have to be read along."""
    step = _READ_AT_ONCE if any(picture.is_fetched for picture in planned) else len(planned) or 1
    for at in range(0, len(planned), step):
        yield planned[at : at + step]


def relocated(job: Job, planned: Sequence[Planned]) -> Iterator[Sequence[Planned]]:
    """Pictures that an earlier run planned, few at a time, with the places of those whose bytes are to be read."""
    for some in few(planned):
        wanted = [picture.sample for picture in some if picture.is_fetched]
        places = iter(job.finder.locate(wanted, with_belongings=job.options.sidecars) if wanted else ())
        yield [replace(picture, place=next(places)) if picture.is_fetched else picture for picture in some]


def fetch(finder: PictureFinder, pictures: Sequence[Planned]) -> dict[int, bytes | Refused]:
    """Bytes of the files that have no place of their own, by number of the intent."""
    wanted = [picture for picture in pictures if picture.is_fetched]
    found: dict[int, bytes | Refused] = {}
    for picture, refs in zip(wanted, finder.contents([picture.place for picture in wanted]), strict=True):
        for intent in picture.intents:
            if intent.part is not None and intent.part < len(refs):
                try:
                    found[intent.number] = bytes_of(refs[intent.part][1])
                except Refused as refused:
                    found[intent.number] = refused
            elif intent.part is not None:
                found[intent.number] = Refused("missing", f"{intent.sample} is not there any more")
    return found


def bytes_of(ref: PictureRef) -> bytes:
    """The bytes of a file. Raises Refused."""
    try:
        return read_bytes(ref, ReadLimits())
    except PictureError as error:
        raise Refused("missing" if str(error.reason) == "missing" else "unreadable", str(error)) from None
