"""Pictures in; for each the files to make or move, checked, or the reason why it is left out, out. Touches nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from beholder import storage
from beholder.columns import PictureReason
from beholder.curation.actions.entries import Intent
from beholder.curation.actions.files import Refused, is_there, refusals
from beholder.curation.actions.layout import Layout
from beholder.images.place import FilePlace, Place

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
        number: of the first intent.
    """

    def __init__(self, action: str, target: str, layout: Layout, roots: dict[int, str], number: int = 0) -> None:
        self.action, self.target, self.layout, self.roots = action, target, layout, roots
        self.number = number
        self._seen: set[int] = set()
        self._shared: dict[str, int] = {}
        self._folders: dict[str, str | None] = {}
        self._leavable: dict[str, Refused | None] = {}
        self.new_folders: list[str] = []

    def plan(self, places: Sequence[Place], sizes: Sequence[Any]) -> list[Planned]:
        """Look at some pictures. `sizes`: bytes when they were scored, None where nobody knows."""
        found = []
        for place, size in zip(places, sizes, strict=True):
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
        intents = []
        for i, file in enumerate(place.files):
            if i == 0 or self._takes(file):
                intent = self._intent(place, file, i)
                if file.owners == 1 or not _is_done(intent):
                    intents.append(intent)
        targets = {hash(intent.target) for intent in intents}
        if len(targets) < len(intents) or targets & self._seen:
            raise Refused("clash", f"{intents[0].target}: another of the pictures goes there, too")
        for intent in intents:
            self._check_target(intent)
        self._seen |= targets
        return intents

    def _takes(self, file: FilePlace) -> bool:
        """Whether what belongs to a picture goes with it: what several share goes with the first, when moved with the last."""
        path = file.ref.path if file.ref is not None else None
        if file.owners == 1 or path is None or (file.ref is not None and file.ref.offset is not None):
            return True
        left = self._shared.get(path, file.owners) - 1
        self._shared[path] = left
        return left == 0 if self.action == "move" else left == file.owners - 1

    def _intent(self, place: Place, file: FilePlace, part: int) -> Intent:
        """What is to be done with one file. Raises Refused."""
        path = self.layout.path(place, file)
        target = f"{self.target}/{path}"
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


def _is_done(intent: Intent) -> bool:
    """Whether what several pictures share is there already, copied or linked with another of them."""
    try:
        there = os.stat(intent.target)  # noqa: PTH116
    except (OSError, ValueError):
        return False
    return (there.st_size, there.st_mtime_ns) == (intent.size, intent.mtime_ns)


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
