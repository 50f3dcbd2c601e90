"""The log of a run: one JSON object a line, added to a file as things happen; a file that cannot be written ends no run."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from beholder.errors import OutputError, os_error_text, reading_failed, writing_failed
from beholder.io import locations, writing
from beholder.notices import say

_MAY_PASS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EAGAIN})
"""What is wrong with the place for now; anything else is wrong with the name that was given."""
_HEAD_BYTES = 1 << 16


def utc_time(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC, with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local_place(path: str, flag: str) -> Path:
    """The local path of a file that a flag names; nothing is made. Raises OutputError."""
    if not locations.is_local(path):
        raise OutputError(f"{flag} {path}: it is written bit by bit while the run lasts; name a file of this machine")
    writing.check_text(path)
    place = locations.local_path(path)
    if place.is_dir():
        raise OutputError(f"{flag} {path} is a folder; name a file")
    return place


class RunLog:
    """A file of lines, which are added behind those that are there.

    Args:
        path: a local file, or a device or pipe; nothing is written before `open`.

    Raises:
        OutputError: it cannot be a log: it is a file of somebody else's.
    """

    def __init__(self, path: str) -> None:
        self._path, self._place = path, local_place(path, "--log-json")
        self._file = -1
        self._is_torn = False
        """Whether the file may end in the middle of a line."""
        self._num_lost = 0
        self._has_warned = False
        try:
            if self._place.is_file() and not _is_log(self._place):
                raise OutputError(f"--log-json {path} is there and is no log of beholder; choose another name")
        except OSError as error:
            raise reading_failed(path, error) from error

    def open(self) -> None:
        """Make the file and the folders above it. Raises OutputError: nothing may be written there."""
        try:
            self._place.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            if error.errno == errno.ENXIO:
                text = (
                    f"--log-json {self._path} is a pipe that nobody reads, or a socket; start its reader first, or name a file"
                )
                raise OutputError(text) from error
            if error.errno not in _MAY_PASS:
                raise writing_failed(self._path, error) from error
            self._warn(error)

    def _open(self) -> None:
        self._is_torn = self._is_torn or (self._place.is_file() and _is_torn(self._place))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # no run waits for a pipe's reader
        self._file = os.open(self._place, flags, 0o666)

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a line, at once. Where that fails one warning is said, and later lines are tried all the same."""
        more = {"lines_lost": self._num_lost} if self._num_lost else {}
        line = json.dumps({**record, **more}, ensure_ascii=True, default=str).encode() + b"\n"
        try:
            if self._file < 0:
                self._open()
            self._put(b"\n" + line if self._is_torn else line)
        except OSError as error:
            self._num_lost += 1
            self._warn(error)
        else:
            self._is_torn, self._num_lost = False, 0

    def _put(self, data: bytes) -> None:
        written = 0
        while written < len(data):
            try:
                written += os.write(self._file, data[written:])
            except OSError:
                self._is_torn = self._is_torn or written > 0
                raise

    def _warn(self, error: OSError) -> None:
        if self._has_warned:
            return
        self._has_warned = True  # before it is said: what is said becomes a line as well
        say(f"the log {self._path} cannot be written, and the run goes on without it: {os_error_text(error)}")

    def close(self) -> None:
        """Let go of it."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.close(self._file)
        self._file = -1


def _is_log(place: Path) -> bool:
    """Whether a file is empty, or its first line is one of a log."""
    with place.open("rb") as file:
        line = file.readline(_HEAD_BYTES)
    if not line:
        return True
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):  # the first line of a run that was killed, cut off
        return line.startswith(b'{"time": "') and not line.endswith(b"\n")
    return isinstance(found, dict) and {"time", "run", "event"} <= found.keys()


def _is_torn(place: Path) -> bool:
    """Whether a file ends in the middle of a line."""
    with place.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
