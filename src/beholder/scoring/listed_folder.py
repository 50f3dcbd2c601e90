"""A folder on this machine's disks, on NFS or in a bucket, whose listing is kept, and followed by what is written there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from beholder.columns import EARLIER_FOLDER
from beholder.errors import writing_failed
from beholder.io import locations, places, processes, storage
from beholder.io.places import Entry


@dataclass
class NewFile:
    """A file of a folder while it is made.

    Attributes:
        path: where it is to be written.
        num_bytes, sha256: once it has been.
    """

    path: Path
    num_bytes: int = 0
    sha256: str = ""


class ListedFolder:
    """A folder anywhere. Any thread may use it.

    Args:
        root: a path, or the URL of a place that can be written to.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = os.fspath(root).rstrip("/") or "/"
        self.is_local = locations.is_local(self.root)
        if self.is_local:
            self.root = str(locations.local_path(self.root))
        self._listed: dict[str, Entry] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._turn = threading.RLock()

    @property
    def path(self) -> Path:
        """A local folder's path."""
        assert self.is_local, f"{self.root} is no folder of this machine"
        return Path(self.root)

    def place_of(self, name: str) -> str:
        """The path or URL of a file by its name in the folder."""
        return f"{self.root}/{name}"

    # What is there.

    def look(self) -> None:
        """Have the next question about what is there be answered by a new listing."""
        with self._turn:
            self._listed = None

    def names(self) -> Mapping[str, Entry]:
        """Every file, by its name in the folder: as it was when that was first asked, and what has been written since."""
        with self._turn:  # a copy, since other threads may write
            return dict(self._looks())

    def times(self) -> dict[str, float | None]:
        """When every file was written last, by its name, by a new listing; in seconds since 1970, None where nothing says."""
        found = list(places.listing_with_times(self.root))
        with self._turn:
            self._listed = {name: entry for name, entry, _ in found}
        return {name: written for name, _, written in found}

    def _looks(self) -> dict[str, Entry]:
        with self._turn:
            if self._listed is None:
                self._listed = places.listing(self.root)
            return self._listed

    def _note_looks(self, looks: Mapping[str, Entry]) -> None:
        """Have the listing, if there is one, show files as they look now."""
        with self._turn:
            if self._listed is not None:
                self._listed.update(looks)

    def exists(self) -> bool:
        """Whether there is such a folder."""
        return self.path.is_dir() if self.is_local else storage.is_folder(self.root)

    def read(self, name: str) -> bytes | None:
        """A small file's bytes, None where there is none. Raises InputError."""
        return places.read_all(self.place_of(name))

    # What is written.

    def put(self, name: str, data: bytes) -> Entry:
        """Write a file, whole or not at all; how it looks then. Raises OutputError."""
        found = places.put_bytes(self.place_of(name), data)
        self._note_looks({name: found})
        return found

    def put_written(self, name: str, source: Path) -> Entry:
        """Have a file at its place that was written to `source`, which is that place already in a local folder."""
        if not self.is_local:
            found = places.put_file(self.place_of(name), source)
        else:
            found = places.entry_of(self.place_of(name)) or Entry(0, "")
        self._note_looks({name: found})
        return found

    @contextlib.contextmanager
    def new_file(self, name: str) -> Iterator[NewFile]:
        """Give a local path for a file that is written there, and has its place in the folder then."""
        path = self.path / name if self.is_local else self._scratch_folder() / name.replace("/", "__")
        made = NewFile(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield made
            made.num_bytes, made.sha256 = path.stat().st_size, storage.sha256_of(path)
            self.put_written(name, path)
        except OSError as error:
            raise writing_failed(self.place_of(name), error) from error
        finally:
            if not self.is_local:
                path.unlink(missing_ok=True)

    def remove(self, names: Iterable[str]) -> None:
        """Delete files by their names in the folder. Raises OutputError."""
        names = list(names)
        places.remove_all([self.place_of(name) for name in names])
        with self._turn:
            if self._listed is not None:
                for name in names:
                    self._listed.pop(name, None)

    # The local folder of this process, for what is put to a remote one.

    def _scratch_folder(self) -> Path:
        with self._turn:
            if self._scratch is None:
                _remove_abandoned(self._scratch_start)
                start = f"{self._scratch_start}{os.getpid()}-"
                try:
                    self._scratch = tempfile.TemporaryDirectory(prefix=start, ignore_cleanup_errors=True)
                except OSError as error:
                    raise writing_failed(tempfile.gettempdir(), error) from error
            return Path(self._scratch.name)

    @property
    def _scratch_start(self) -> str:
        """How names of such folders begin, also for what is set aside in a run; the number of their process follows.

        Several machines may share the folder that they are in (TMPDIR on a shared disk), and each knows its own processes.
        """
        run = self.root.split(f"/{EARLIER_FOLDER}/")[0]
        digests = [hashlib.sha256(text.encode()).hexdigest() for text in (run, processes.name_of_machine())]
        return f"beholder-shard-{digests[0][:12]}-{digests[1][:12]}-"

    def close(self) -> None:
        """Let go of the local folder of this process, and of those of processes that are gone."""
        if not self.is_local:
            _remove_abandoned(self._scratch_start)
        with self._turn:
            if self._scratch is not None:
                self._scratch.cleanup()
                self._scratch = None


def _remove_abandoned(start: str) -> None:
    """Remove local folders of this name that processes of this machine which are gone left."""
    for path in Path(tempfile.gettempdir()).glob(f"{start}*"):
        pid = path.name.removeprefix(start).split("-")[0]
        with contextlib.suppress(OSError):
            status = path.lstat()
            is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
            if is_own and pid.isdecimal() and not processes.is_running(int(pid)):
                shutil.rmtree(path, ignore_errors=True)


def remove_empty(top: Path) -> None:
    """Remove a local folder and those below it, as far as nothing is in them."""
    inside = (path for path in top.rglob("*") if path.is_dir() and not path.is_symlink())
    for path in [*sorted(inside, reverse=True), top]:
        with contextlib.suppress(OSError):  # something is in it, or it is not there
            path.rmdir()
