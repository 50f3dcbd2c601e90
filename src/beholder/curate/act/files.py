"""One file copied, linked, moved or renamed without anything being overwritten, or a reason why not."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from beholder.curate.act.change import SidecarChange
from beholder.errors import os_error_text, writing_failed
from beholder.io import crash, storage

_AT_FDCWD, _NOREPLACE = -100, 1
_PIECE_BYTES = 1 << 20
NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_REASONS = {
    errno.ENOENT: "missing", errno.ENOTDIR: "missing", errno.EEXIST: "clash", errno.EACCES: "not_permitted",
    errno.EPERM: "not_permitted", errno.EROFS: "not_permitted", errno.EXDEV: "other_disk", errno.ENAMETOOLONG: "name",
    errno.EILSEQ: "name", errno.EINVAL: "name",
}  # fmt: skip

Made = tuple[str, int] | None
"""sha256 of a copy's bytes and the time (ns) that it bears; None for links and what was renamed."""
Report = Callable[[str], None]
"""Told, in words of `messages.KEPT`, what another disk does not keep of a file."""


_INTENT_KEYS = {
    "number": "do", "source": "from", "target": "to", "size": "size", "mtime_ns": "mtime", "length": "length",
    "offset": "offset", "part": "part", "owner": "owner",
}  # fmt: skip
"""Field of an intent -> field of its line."""


@dataclass(slots=True)
class Intent:
    """One file that is to be made or moved.

    Attributes:
        source, target: absolute; of what is in an archive that, or a URL.
        size, mtime_ns: of `source` when it was planned; -1 where that is not known (URLs).
        length: bytes of the new file, where it is a part of `source`.
        offset: where that part begins, if it has a place.
        part: number of the file among those of its picture, where its bytes have no place.
        is_picture: false for what belongs to one.
        owner: user, group and mode of a file that is to be moved.
        is_shared: whether it belongs to other pictures as well.
        shares: of a picture: targets of files that it shares with others, planned with it or with another of them.
        change: of a sidecar (`target`; `source` is the same, or, of a new one, its picture): what is written into it.
    """

    number: int
    sample: str
    source: str
    target: str
    size: int
    mtime_ns: int
    length: int | None = None
    offset: int | None = None
    part: int | None = None
    is_picture: bool = True
    owner: tuple[int, int, int] | None = None
    is_shared: bool = False
    shares: tuple[str, ...] = ()
    change: SidecarChange | None = None

    def to_json(self) -> dict[str, Any]:
        """What its line holds."""
        said = {key: value for name, key in _INTENT_KEYS.items() if (value := getattr(self, name)) is not None}
        said["sample" if self.is_picture else "of"] = self.sample
        said |= ({"shared": True} if self.is_shared else {}) | ({"with": list(self.shares)} if self.shares else {})
        return said | ({"xmp": self.change.to_json()} if self.change is not None else {})

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Intent:
        """The intent of a line. Raises KeyError where a field lacks."""
        intent = cls(
            said["do"], said.get("sample") or said.get("of", ""), said["from"], said["to"], said["size"], said["mtime"]
        )
        intent.length, intent.offset, intent.part = said.get("length"), said.get("offset"), said.get("part")
        intent.owner = tuple(said["owner"]) if "owner" in said else None
        intent.is_picture, intent.is_shared = "sample" in said, "shared" in said
        intent.shares = tuple(said.get("with", ()))
        intent.change = SidecarChange.from_json(said["xmp"]) if "xmp" in said else None
        return intent

    @property
    def num_bytes(self) -> int:
        """Of the new file, as far as they are known."""
        return max(self.size if self.length is None else self.length, 0)


class Refused(Exception):  # noqa: N818 (an answer, told by an exception)
    """Why a file is left as it is. `reason`: a word of `messages.REASONS`."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason, self.text = reason, text


@contextlib.contextmanager
def refusals(path: str) -> Iterator[None]:
    """Turn what the system says about one file into a reason; a full disk stops everything (OutputError)."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise writing_failed(path, error) from error
        reason = _REASONS.get(error.errno or 0, "unreadable")
        raise Refused(reason, f"{path}: {os_error_text(error)}") from None
    except ValueError as error:  # a zero byte in a name
        raise Refused("name", f"{path!r}: {error}") from None


def rename_new(source: str, target: str) -> None:
    """Rename, and never replace: FileExistsError where there is something of that name already.

    One step where the system has it (Linux: renameat2); else a hard link and an unlink, so that the file is never away.
    """
    rename = _renameat2()
    if rename is not None:
        if rename(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            raise OSError(code, os.strerror(code), target)
    rename_by_link(source, target)


def rename_by_link(source: str, target: str) -> None:
    """The same on systems that cannot do it in one step. Killed in between, the file has both names."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from None
        os.rename(source, target)  # noqa: PTH104 (a disk without hard links: checked just before)
        return
    os.unlink(source)  # noqa: PTH108


@cache
def _renameat2() -> ctypes._NamedFuncPointer | None:
    try:
        found = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    found.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return found


def sync_folder(path: str) -> None:
    """Have a folder's entries on the disk; systems that cannot do that are left alone."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_there(path: str) -> bool:
    """Whether anything of that name exists, a link that leads nowhere included. Raises Refused for impossible names."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and _REASONS.get(error.errno or 0) != "name":
            raise Refused(_REASONS.get(error.errno or 0, "unreadable"), f"{path}: {os_error_text(error)}") from None
        raise Refused("name", f"{path}: the name is too long or cannot be written on this disk") from None
    return True


def existing_part(path: str) -> str:
    """The path itself, or the nearest folder above it that exists."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)  # noqa: PTH120
    return path


def lies_in(path: str, folder: str) -> bool:
    """Whether a path is a folder, or below it; both absolute, links resolved."""
    return f"{path}/".startswith(folder.rstrip("/") + "/")


def check_source(intent: Intent, *, follow: bool) -> os.stat_result:
    """The file an intent speaks of, as it was when planned. Raises Refused."""
    with refusals(intent.source):
        status = os.stat(intent.source, follow_symlinks=follow)  # noqa: PTH116
    if intent.size >= 0 and (status.st_size != intent.size or status.st_mtime_ns != intent.mtime_ns):
        raise Refused("changed", f"{intent.source} has changed since it was looked at")
    return status


def pieces_of(intent: Intent) -> Iterator[bytes]:
    """The bytes of what an intent speaks of, as they were when planned. Raises Refused."""
    status = check_source(intent, follow=True)
    if not stat.S_ISREG(status.st_mode):
        raise Refused("unreadable", f"{intent.source} is no file")
    left = intent.size if intent.length is None else intent.length
    with refusals(intent.source), open(intent.source, "rb") as file:  # noqa: PTH123
        file.seek(intent.offset or 0)
        while left > 0:
            piece = file.read(min(_PIECE_BYTES, left))
            if not piece:
                raise Refused("changed", f"{intent.source} has become shorter")
            left -= len(piece)
            yield piece


def sha256_of_source(intent: Intent) -> str:
    """sha256 of what an intent speaks of, as it was when planned. Raises Refused."""
    digest = hashlib.sha256()
    for piece in pieces_of(intent):
        digest.update(piece)
    return digest.hexdigest()


def half_name(run: str, what: object) -> str:
    """The name of a file of an act that is being written; always the same one, so that a killed run's is known as ours."""
    return f".beholder-{run}-{what}.tmp"


def temporary(intent: Intent, run: str) -> str:
    """The file in which a copy grows."""
    return os.path.join(os.path.dirname(intent.target), half_name(run, intent.number))  # noqa: PTH118, PTH120


def remove_temporary(intent: Intent, run: str) -> None:
    """Remove what a killed run had half written."""
    with contextlib.suppress(OSError):
        os.unlink(temporary(intent, run))  # noqa: PTH108


def act(action: str, intent: Intent, run: str, data: bytes | None, report: Report) -> Made:
    """Copy, link, symlink or move; `data`: the bytes, of what has no place of its own. Raises Refused, OutputError."""
    if action == "copy":
        return _copy(intent, run, data, report)
    if action == "move":
        return move(intent, run, report)
    check_source(intent, follow=True)
    with refusals(intent.target):
        if action == "symlink":
            os.symlink(intent.source, intent.target)  # noqa: PTH211
            return None
        try:
            os.link(os.path.realpath(intent.source), intent.target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            text = f"{intent.target} is on another disk than {intent.source}, where hard links cannot lead; use --copy"
            raise Refused("other_disk", text) from None
    return None


def move(intent: Intent, run: str, report: Report, *, as_it_was: bool = False) -> Made:
    """Rename without replacing; to another disk: copy, flush, compare, remove the original. Raises Refused, OutputError.

    `as_it_was`: a file from another disk is given the owner, group and mode that the journal says (an undo).
    """
    status = check_source(intent, follow=False)
    with refusals(intent.target):
        try:
            rename_new(intent.source, intent.target)
            return None
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
    owner = intent.owner if as_it_was else None
    made = _copy(intent, run, None, report, owner or (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)))
    if status.st_nlink > 1:
        report("links")
    sync_folder(os.path.dirname(intent.target))  # noqa: PTH120
    crash.reach("move copied")
    check_source(intent, follow=False)
    with refusals(intent.source):
        os.unlink(intent.source)  # noqa: PTH108
    return made


def _copy(
    intent: Intent, run: str, data: bytes | None, report: Report, moved: tuple[int, int, int] | None = None
) -> tuple[str, int]:
    """Make a copy, whole or not at all; times, mode and extended attributes of whole files go along.

    `moved`: owner, group and mode of one that is to take the original's place, which is read again before it gets its name;
    `report` is told what of these it could not keep. Raises Refused, OutputError.
    """
    half = temporary(intent, run)
    try:
        with refusals(half):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(half)  # noqa: PTH108 (of this very run, killed before)
            handle = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with refusals(half), os.fdopen(handle, "wb") as file:
            digest = hashlib.sha256()
            for piece in pieces_of(intent) if data is None else [data]:
                file.write(piece)
                digest.update(piece)
            file.flush()
            crash.reach("copy written")
            if intent.offset is None and data is None:
                lost = keep(intent.source, half, moved)
                for word in lost if moved is not None else ():
                    report(word)
            os.fsync(file.fileno())
            if moved is not None and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with refusals(half):
            if moved is not None and storage.sha256_of(half) != digest.hexdigest():
                raise Refused("unreadable", f"{half} does not read back as it was written; the original stays where it was")
        crash.reach("copy flushed")
        with refusals(intent.target):
            rename_new(half, intent.target)
            return digest.hexdigest(), os.lstat(intent.target).st_mtime_ns
    finally:
        remove_temporary(intent, run)


def keep(source: str, half: str, moved: tuple[int, int, int] | None) -> list[str]:
    """Give a copy what its original has beside its bytes, as far as this disk and user can; the words for what is not kept.

    `moved`: owner, group and mode of one that takes the original's place. Other copies get the mode alone, and belong to
    whoever makes them. Raises OSError where one of the two cannot be looked at.
    """
    status = os.stat(source)  # noqa: PTH116
    mode, wanted = stat.S_IMODE(status.st_mode), _attributes(source)
    if moved is not None:
        uid, gid, mode = moved
        for owner in ((uid, gid), (-1, gid)):
            with contextlib.suppress(OSError):
                os.chown(half, *owner)
                break
    for name, value in wanted.items():
        with contextlib.suppress(OSError):
            os.setxattr(half, name, value)
    now = os.stat(half)  # noqa: PTH116
    is_ours = moved is None or (now.st_uid, now.st_gid) == (uid, gid)
    with contextlib.suppress(OSError):  # a mode that lends an owner's rights is none without that owner
        os.chmod(half, mode if is_ours else mode & ~(stat.S_ISUID | stat.S_ISGID))  # noqa: PTH101
    with contextlib.suppress(OSError):
        os.utime(half, ns=(status.st_atime_ns, status.st_mtime_ns))
    made = os.stat(half)  # noqa: PTH116
    kept = {
        "owner": moved is None or made.st_uid == uid,
        "group": moved is None or made.st_gid == gid,
        "mode": stat.S_IMODE(made.st_mode) == mode,
        "attributes": wanted.items() <= _attributes(half).items(),
    }
    return [word for word, is_kept in kept.items() if not is_kept]


def _attributes(path: str) -> dict[str, bytes]:
    """Extended attributes, lists of access rights (ACLs) among them; {} where there are none, or the system has none."""
    found: dict[str, bytes] = {}
    if hasattr(os, "listxattr"):
        with contextlib.suppress(OSError):
            for name in os.listxattr(path):
                found[name] = os.getxattr(path, name)
    return found


def are_same(one: str, other: str) -> bool:
    """Whether two paths lead to one file, links at their ends not followed. Raises OSError."""
    return os.path.samestat(os.lstat(one), os.lstat(other))


def have_same_bytes(one: str, other: str) -> bool:
    """Whether two files hold the same, by their sha256. Raises OSError."""
    return storage.sha256_of(one) == storage.sha256_of(other)


def is_spare(name: str, other: str) -> bool:
    """Whether a file has both names, so that one can go: not one name, reached by two ways (a folder that is a link).

    Raises OSError.
    """
    ways = [os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)) for path in (name, other)]  # noqa: PTH118, PTH119, PTH120
    return are_same(name, other) and os.lstat(name).st_nlink > 1 and ways[0] != ways[1]


def finish(action: str, intent: Intent, run: str, sha256: str | None) -> Made:
    """Bring to an end what a killed run had done but for the last steps: the target is there. As `made_before` otherwise."""
    remove_temporary(intent, run)
    made = made_before(action, intent, sha256)
    if action == "move" and os.path.lexists(intent.source):
        with refusals(intent.source):
            os.unlink(intent.source)  # noqa: PTH108 (the second of two names, or the original of a verified copy)
    return made


def made_before(action: str, intent: Intent, sha256: str | None) -> Made:
    """Look at a target that is there: what a killed run made, or someone else's (Refused). Touches nothing.

    `sha256`: of the bytes that were to be copied; None: they are read.
    """
    source, target = intent.source, intent.target
    with refusals(target):
        status = os.lstat(target)
        is_same = os.path.exists(source) and os.path.samefile(source, target)  # noqa: PTH110, PTH121
        if action == "move":
            if not os.path.lexists(source) and (status.st_size, status.st_mtime_ns) == (intent.size, intent.mtime_ns):
                return None
            check_source(intent, follow=False)
            is_copied = not is_same and status.st_mtime_ns == intent.mtime_ns and have_same_bytes(source, target)
            if is_copied or is_spare(source, target):
                return None
        elif action in ("link", "symlink"):
            is_link = stat.S_ISLNK(status.st_mode)
            if is_same and (os.readlink(target) == source if is_link else action == "link"):  # noqa: PTH115
                return None
        elif stat.S_ISREG(status.st_mode) and not is_same and (intent.part is None or sha256 is not None):
            sha256 = sha256_of_source(intent) if sha256 is None else sha256
            if sha256 == storage.sha256_of(target):
                return sha256, status.st_mtime_ns
    raise Refused("clash", f"{target} is there already")
