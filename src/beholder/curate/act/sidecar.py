"""One XMP sidecar: found, written whole or not at all, and put back as it was."""

from __future__ import annotations

import contextlib
import os
import stat

from beholder.curate.act import files
from beholder.curate.act.change import SidecarChange, sha256
from beholder.curate.act.files import Intent, Made, Refused, refusals
from beholder.curate.options import DARKTABLE
from beholder.errors import InputError
from beholder.io import crash, storage
from beholder.io.xmp import SUFFIX, read_sidecar

_CHANGED, _MADE = "has changed since it was looked at", "has changed since it was written"


def candidates(picture: str, names: str) -> list[str]:
    """Where the sidecar of a picture may be, the one that is made where there is none first.

    Args:
        picture: a local path.
        names: "darktable": a.jpg.xmp before a.xmp; "adobe": the other way round.
    """
    folder, slash, name = picture.rpartition("/")
    stem = name.rpartition(".")[0] or name
    stems = dict.fromkeys((name, stem) if names == DARKTABLE else (stem, name))
    return [f"{folder}{slash}{base}{suffix}" for base in stems for suffix in (SUFFIX, SUFFIX.upper())]


def existing(places: list[str]) -> str | None:
    """The first of some paths at which anything stands, links that lead nowhere included."""
    for path in places:
        with contextlib.suppress(Refused):  # a name that is too long: there is none
            if files.is_there(path):
                return path
    return None


def check_writable(path: str) -> os.stat_result:
    """What the system says of a sidecar that may be replaced. Raises Refused for links, other than files, read-only ones."""
    with refusals(path):
        status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        raise Refused("link", f"{path} is a symbolic link, which is left alone")
    if not stat.S_ISREG(status.st_mode):
        raise Refused("unreadable", f"{path} is no file")
    if not status.st_mode & 0o222 or not os.access(path, os.W_OK):
        raise Refused("not_permitted", f"{path} is read-only")
    return status


def read(path: str) -> bytes:
    """The bytes of a sidecar. Raises Refused."""
    try:
        with refusals(path):
            return read_sidecar(path)
    except InputError as error:
        raise Refused("damaged" if os.access(path, os.R_OK) else "unreadable", str(error)) from None


def write(intent: Intent, run: str) -> Made:
    """Write what an intent says: a new sidecar where there is nothing, else in place of the one it was planned for.

    The new file is flushed and then takes the name in one step. Raises Refused, OutputError.
    """
    change = _change_of(intent)
    is_new = change.splice is None
    status = files.check_source(intent, follow=is_new)
    before = None if is_new else read(intent.target)
    if change.splice is not None and sha256(before or b"") != change.splice.sha256:
        raise Refused("changed", f"{intent.target} {_CHANGED}")
    data = change.new(before)
    if sha256(data) != change.sha256:
        raise Refused("changed", f"{intent.target} would not become what the journal says; another version began this act")
    return change.sha256, _put(intent, run, data, None if is_new else status)


def _put(intent: Intent, run: str, data: bytes, was: os.stat_result | None) -> int:
    """Write a file whole, in place of the one of this status (None: of nothing), whose owner, group, mode and so on it gets.

    Its time is now, by which other programs know that it has changed. Gives that time (ns). Raises Refused, OutputError.
    """
    half = files.temporary(intent, run)
    try:
        with refusals(half):
            files.remove_temporary(intent, run)
            handle = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                crash.reach("sidecar written")
                if was is not None:
                    files.keep(intent.target, half, (was.st_uid, was.st_gid, stat.S_IMODE(was.st_mode)))
                    os.utime(half)
                os.fsync(file.fileno())
        crash.reach("sidecar flushed")
        with refusals(intent.target):
            if was is None:
                files.rename_new(half, intent.target)
            else:
                now = os.lstat(intent.target)
                if (now.st_ino, now.st_size, now.st_mtime_ns) != (was.st_ino, was.st_size, was.st_mtime_ns):
                    raise Refused("changed", f"{intent.target} {_CHANGED}")
                os.replace(half, intent.target)  # noqa: PTH105 (its bytes before are in the journal)
            return os.lstat(intent.target).st_mtime_ns
    finally:
        files.remove_temporary(intent, run)


def made_before(intent: Intent) -> Made:
    """What a killed run made of a sidecar; None where it had not come to that. Raises Refused for what is someone else's."""
    change = _change_of(intent)
    if not files.is_there(intent.target):
        if change.splice is not None:
            raise Refused("missing", f"{intent.target} is not there any more")
        return None
    status, found = _found(intent.target)
    if found == change.sha256:
        return found, status.st_mtime_ns
    if change.splice is None:
        raise Refused("clash", f"{intent.target} is there already")
    if found != change.splice.sha256:
        raise Refused("changed", f"{intent.target} {_CHANGED}")
    return None


def take_back(intent: Intent, run: str, *, act: bool) -> bool:
    """Remove a sidecar that was made, or give one that was changed its earlier bytes; whether there was anything to do.

    Raises Refused where somebody has changed it since, OutputError.
    """
    change, target = _change_of(intent), intent.target
    if act:
        files.remove_temporary(intent, run)
    if not files.is_there(target):
        if change.splice is None:
            return False  # never made, or taken away by its owner
        raise Refused("missing", f"{target} is not there any more, so it cannot be put back as it was")
    status, found = _found(target)
    if change.splice is not None and found == change.splice.sha256:
        return False  # never changed, or back already
    if found != change.sha256:
        raise Refused("changed", f"{target} {_MADE}")
    if not act:
        return True
    if change.splice is None:
        with refusals(target):
            os.unlink(target)  # noqa: PTH108 (ours, unchanged)
        return True
    earlier = change.splice.backward(read(target))
    if sha256(earlier) != change.splice.sha256:
        raise Refused("changed", f"{target} {_MADE}")
    _put(intent, run, earlier, status)
    return True


def _found(target: str) -> tuple[os.stat_result, str]:
    """What the system says of a sidecar that is there, and its sha256; "" for what is no file. Raises Refused."""
    with refusals(target):
        status = os.lstat(target)
        return status, storage.sha256_of(target) if stat.S_ISREG(status.st_mode) else ""


def _change_of(intent: Intent) -> SidecarChange:
    assert intent.change is not None
    return intent.change
