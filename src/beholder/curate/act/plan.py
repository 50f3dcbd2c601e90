"""Pictures in; for each the files to make or move, checked, or the reason why it is left out, out. Touches nothing."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from beholder.columns import PictureReason
from beholder.curate.act.entries import Intent
from beholder.curate.act.files import Refused, is_there, refusals, sha256_of, sha256_of_source
from beholder.curate.act.layout import Layout, marked
from beholder.curate.act.shared_files import SharedFiles
from beholder.io import storage
from beholder.locate.place import FilePlace, Place

_WHOLE_FILES = ("move", "link", "symlink")


@dataclass
class Planned:
    """One picture.

    Attributes:
        sample: its name.
        place: where it is.
        intents: what to do, the picture first; empty where it is left out.
        reason, text: why it is.
    """

    sample: str
    place: Place
    intents: list[Intent] = field(default_factory=list)
    reason: str | None = None
    text: str = ""


class Planner:
    """Plans acts that make or move single files.

    Args:
        action: "copy", "link", "symlink" or "move".
        target: the folder, absolute.
        layout: gives names below it.
        roots: real paths of the folders that were named, by number of the source.
        shared: files that several pictures share, of which it is open what becomes of them; those that are planned are added.
        number: of the first intent.
    """

    def __init__(
        self, action: str, target: str, layout: Layout, roots: dict[int, str], shared: SharedFiles, number: int = 0
    ) -> None:
        self.action, self.target, self.layout, self.roots, self.shared = action, target, layout, roots, shared
        self.number, self._is_continued = number, number > 0
        self._seen: set[int] = set()
        self._taken: set[int] = set()
        self._waiting: dict[str, int] = {}
        self._expected: Counter[str] = Counter()
        self._expected_files: set[str] = set()
        self._folders: dict[str, str | None] = {}
        self._leavable: dict[str, Refused | None] = {}
        self.new_folders: list[str] = []

    def plan(self, places: Sequence[Place], sizes: Sequence[Any]) -> list[Planned]:
        """Look at some pictures. `sizes`: bytes when they were scored, None where nobody knows."""
        found = []
        for place, size in zip(map(with_recorded_size, places, sizes), sizes, strict=True):
            planned = Planned(place.sample, place)
            first = self.number
            try:
                planned.intents = self._intents(place, size)
            except Refused as refused:
                self.number = first
                planned.reason, planned.text = refused.reason, refused.text
            found.append(planned)
        return found

    def _intents(self, place: Place, size: Any) -> list[Intent]:
        check_place(place, size)
        if self.action in _WHOLE_FILES and place.kind != "file":
            raise _not_a_file(self.action, place)
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
            raise Refused("clash", f"{intents[0].target}: another of the pictures goes there, too")
        for intent in intents:
            self._check_target(intent)
        self._seen |= targets
        self._note_belongings(place)
        for intent in intents:
            if intent.is_shared:
                self.shared.add(intent)
        return intents

    def free_target(self, target: str, sample: str) -> str:
        """The path itself, or a like one where another picture's goes or anything stands.

        Raises Refused for impossible names.
        """
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
            return there.st_size == intent.length and sha256_of(intent.target) == sha256_of_source(intent)
        except (OSError, ValueError, Refused):
            return False

    def _target_of(self, place: Place, file: FilePlace) -> str:
        return f"{self.target}/{self.layout.path(place, file)}"

    def _intent(self, place: Place, file: FilePlace, part: int) -> Intent:
        """What is to be done with one file. Raises Refused."""
        target = self._target_of(place, file)
        ref = file.ref
        if ref is not None and ref.error is not None:
            raise Refused("unreadable", ref.error[1])
        has_place = ref is not None and ref.path is not None and storage.is_local(ref.path)
        source = ref.path if has_place and ref is not None else place.archive or (ref.path if ref is not None else None)
        assert source is not None
        size, time = -1, -1
        if storage.is_local(source):
            source = os.path.abspath(storage.local_path(source))  # noqa: PTH100 (links stay as they are)
            with refusals(source):
                status = os.lstat(source) if self.action == "move" else os.stat(source)  # noqa: PTH116
            size, time = status.st_size, status.st_mtime_ns
            if self.action == "move":
                self._check_leaving(source, place, status)
        intent = Intent(self.number, place.sample, source, target, size, time, is_picture=part == 0)
        self.number += 1
        if self.action == "move":
            intent.owner = status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)
        if not has_place:
            intent.part, intent.length = part, file.size
        elif ref is not None and ref.offset is not None:
            intent.offset, intent.length = ref.offset, ref.length
        return intent

    def _check_leaving(self, source: str, place: Place, status: os.stat_result) -> None:
        """Whether a file may be moved away. Raises Refused."""
        if stat.S_ISLNK(status.st_mode):
            raise Refused("link", f"{source} is a symbolic link; --copy and --link take the file it leads to")
        folder = os.path.dirname(source)  # noqa: PTH120
        if folder not in self._leavable:
            root = self.roots.get(place.source) if place.source is not None else None
            real = os.path.realpath(folder)
            if root is not None and not f"{real}/".startswith(root.rstrip("/") + "/"):
                self._leavable[folder] = Refused("outside", f"{folder} leads out of {root}; what lies there can only be copied")
            elif not os.access(folder, os.W_OK | os.X_OK):
                self._leavable[folder] = Refused("not_permitted", f"nothing can be moved out of {folder}: it is not writable")
            else:
                self._leavable[folder] = None
        refused = self._leavable[folder]
        if refused is not None:
            raise Refused(refused.reason, refused.text)

    def _check_target(self, intent: Intent) -> None:
        """Whether a file can be made. Raises Refused."""
        folder = os.path.dirname(intent.target)  # noqa: PTH120
        if folder not in self._folders:
            self._folders[folder] = self._problem_of(folder)
        problem = self._folders[folder]
        if problem is not None:
            raise Refused(*problem.split(":", 1))
        if is_there(intent.target):
            raise Refused("clash", f"{intent.target} is there already")

    def _problem_of(self, folder: str) -> str | None:
        """Why nothing can be made in a folder, as "reason:text"; new folders are noted."""
        missing: list[str] = []
        at = folder
        while not is_there(at):
            missing.append(at)
            at = os.path.dirname(at)  # noqa: PTH120
        if not os.path.isdir(at):  # noqa: PTH112
            return f"clash:{at} is there already and is no folder"
        real, root = os.path.realpath(at), os.path.realpath(self.target)
        if len(at) >= len(self.target) and not f"{real}/".startswith(root.rstrip("/") + "/"):
            return f"outside:{at} is a link that leads out of {self.target}"
        if not os.access(at, os.W_OK | os.X_OK):
            return f"not_permitted:{at} is not writable"
        self.new_folders += [path for path in reversed(missing) if path not in self._folders]
        for path in missing:
            self._folders.setdefault(path, None)
        return None


def _may_be_shared(place: Place, file: FilePlace) -> bool:
    """Whether a file belongs to several pictures; of zips nobody counts them."""
    return file.owners > 1 or place.kind == "zip"


def _path(file: FilePlace) -> str:
    """What tells a file from others of its archive, or of none."""
    ref = file.ref
    return ref.path if ref is not None and ref.path is not None and ref.offset is None else file.name


def with_recorded_size(place: Place, size: Any) -> Place:
    """The place of a picture on a server with the bytes that it had when it was scored, which are not asked for again."""
    if place.kind != "url" or not isinstance(size, int) or place.files[0].size is not None:
        return place
    return replace(place, files=(replace(place.files[0], size=size), *place.files[1:]))


def check_place(place: Place, size: Any) -> None:
    """Raise Refused for a picture that is not there, or has another size than when it was scored."""
    error = place.error
    if error is not None:
        raise Refused("missing" if error[0] == PictureReason.MISSING else "unreadable", error[1])
    now = place.files[0].size
    if isinstance(size, int) and now is not None and size != now:
        raise Refused("changed", f"{place.sample} has {now:,} bytes; it had {size:,} when it was scored")


def _not_a_file(action: str, place: Place) -> Refused:
    if place.kind == "url":
        return Refused("remote", f"{place.sample} is on a server; --copy fetches it")
    return Refused("in_archive", f"{place.sample} lies inside {place.archive}; --copy takes it out, --tars packs it anew")
