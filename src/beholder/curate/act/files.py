"""One file to copy, link or move in; it is done without overwriting anything, or a reason why not, out."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator

from beholder.curate.act.entries import Intent
from beholder.curate.act.renaming import rename_new, sync_folder
from beholder.errors import os_error_text, writing_failed

_PIECE_BYTES = 1 << 20
NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_REASONS = {
    errno.ENOENT: "missing", errno.ENOTDIR: "missing", errno.EEXIST: "clash", errno.EACCES: "not_permitted",
    errno.EPERM: "not_permitted", errno.EROFS: "not_permitted", errno.EXDEV: "other_disk", errno.ENAMETOOLONG: "name",
    errno.EILSEQ: "name", errno.EINVAL: "name",
}  # fmt: skip


Report = Callable[[str], None]


def ignore(word: str) -> None:
    """A `Report` for whom it does not matter."""


class Refused(Exception):  # noqa: N818 (an answer, told by an exception)
    """Why a file is left as it is. `reason`: a word of `summary.REASONS`."""

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


def check_source(intent: Intent, *, follow: bool) -> os.stat_result:
    """The file an intent speaks of, as it was when planned. Raises Refused."""
    with refusals(intent.source):
        status = os.stat(intent.source, follow_symlinks=follow)  # noqa: PTH116
    if intent.size >= 0 and (status.st_size != intent.size or status.st_mtime_ns != intent.mtime_ns):
        raise Refused("changed", f"{intent.source} has changed since it was looked at")
    return status


def is_there(path: str) -> bool:
    """Whether anything of that name exists, a link that leads nowhere included. Raises Refused for impossible names."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
            raise Refused(_REASONS.get(error.errno or 0, "unreadable"), f"{path}: {os_error_text(error)}") from None
        raise Refused("name", f"{path}: the name is too long or cannot be written on this disk") from None
    return True


def are_same(one: str, other: str) -> bool:
    """Whether two paths lead to one file, links at their ends not followed. Raises OSError."""
    return os.path.samestat(os.lstat(one), os.lstat(other))


def is_spare(name: str, other: str) -> bool:
    """Whether a file has both names, so that one can go: not one name, reached by two ways (a folder that is a link).

    Raises OSError.
    """
    ways = [os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)) for path in (name, other)]  # noqa: PTH118, PTH119, PTH120
    return are_same(name, other) and os.lstat(name).st_nlink > 1 and ways[0] != ways[1]


def temporary(intent: Intent, run: str) -> str:
    """The file in which a copy grows; always the same one, so that a killed run's is known as ours."""
    return os.path.join(os.path.dirname(intent.target), f".beholder-{run}-{intent.number}.tmp")  # noqa: PTH118, PTH120


def move(intent: Intent, run: str, report: Report = ignore, *, as_it_was: bool = False) -> tuple[str, int] | None:
    """Rename without replacing; to another disk: copy, flush, compare, remove the original. Raises Refused, OutputError.

    Args:
        intent: what to move, and where to.
        run: id of the journal.
        report: told of what another disk does not keep of the file: words of `summary.KEPT`.
        as_it_was: give a file from another disk the owner, group and mode that the journal says (an undo).

    Returns:
        as `copy`, of a file that went to another disk: that may keep its time less exactly.
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
    made = copy(intent, run, None, moved=owner or (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)), report=report)
    if status.st_nlink > 1:
        report("links")
    sync_folder(os.path.dirname(intent.target))  # noqa: PTH120
    check_source(intent, follow=False)
    with refusals(intent.source):
        os.unlink(intent.source)  # noqa: PTH108
    return made


def copy(
    intent: Intent, run: str, data: bytes | None, *, moved: tuple[int, int, int] | None = None, report: Report = ignore
) -> tuple[str, int]:
    """Make a copy, whole or not at all; times, mode and extended attributes of whole files go along.

    Args:
        intent: what to copy, and where to.
        run: id of the journal.
        data: the bytes, of what has no place of its own.
        moved: owner, group and mode that the copy gets, which is to take the original's place: it is read again before it
            gets its name.
        report: told of what could not be kept, of one that takes the original's place.

    Returns:
        sha256 of the bytes, and the time (ns) that the copy bears.

    Raises:
        Refused: not this file.
        OutputError: the disk is full.
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
            if intent.offset is None and data is None:
                for word in _keep(intent.source, half, moved):
                    report(word)
            os.fsync(file.fileno())
            if moved is not None and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if moved is not None:
            verify(half, digest.hexdigest())
        with refusals(intent.target):
            rename_new(half, intent.target)
            return digest.hexdigest(), os.lstat(intent.target).st_mtime_ns
    finally:
        with contextlib.suppress(OSError):
            os.unlink(half)  # noqa: PTH108


def _keep(source: str, half: str, moved: tuple[int, int, int] | None) -> list[str]:
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


def link(intent: Intent) -> None:
    """Make a hard link to the file itself. Raises Refused."""
    check_source(intent, follow=True)
    with refusals(intent.target):
        try:
            os.link(os.path.realpath(intent.source), intent.target)
        except OSError as error:
            if error.errno == errno.EXDEV:
                text = f"{intent.target} is on another disk than {intent.source}, where hard links cannot lead; use --copy"
                raise Refused("other_disk", text) from None
            raise


def symlink(intent: Intent) -> None:
    """Make a symbolic link. Raises Refused."""
    check_source(intent, follow=True)
    with refusals(intent.target):
        os.symlink(intent.source, intent.target)  # noqa: PTH211


def sha256_of(path: str) -> str:
    """sha256 of a local file. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:  # noqa: PTH123
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def verify(path: str, sha256: str) -> None:
    """Read a copy again. Raises Refused when it is not what was written."""
    with refusals(path):
        if sha256_of(path) != sha256:
            raise Refused("unreadable", f"{path} does not read back as it was written; the original stays where it was")


def finish(action: str, intent: Intent, run: str, sha256: str | None) -> tuple[str, int] | None:
    """Bring to an end what a killed run had done but for the last steps: the target is there. As `made_before` otherwise."""
    with contextlib.suppress(OSError):
        os.unlink(temporary(intent, run))  # noqa: PTH108
    made = made_before(action, intent, sha256)
    if action == "move" and os.path.lexists(intent.source):
        with refusals(intent.source):
            os.unlink(intent.source)  # noqa: PTH108 (the second of two names, or the original of a verified copy)
    return made


def made_before(action: str, intent: Intent, sha256: str | None) -> tuple[str, int] | None:
    """Look at a target that is there: what a killed run made, or someone else's. Touches nothing.

    Args:
        action: "copy", "link", "symlink" or "move".
        intent: what was about to be done.
        sha256: of the bytes that were to be copied; None: they are read.

    Returns:
        as `act`.

    Raises:
        Refused: it is someone else's.
    """
    source, target = intent.source, intent.target
    with refusals(target):
        status = os.lstat(target)
        is_same = os.path.exists(source) and os.path.samefile(source, target)  # noqa: PTH110, PTH121
        if action == "move":
            if not os.path.lexists(source) and (status.st_size, status.st_mtime_ns) == (intent.size, intent.mtime_ns):
                return None
            check_source(intent, follow=False)
            is_copied = not is_same and status.st_mtime_ns == intent.mtime_ns and sha256_of(source) == sha256_of(target)
            if is_copied or is_spare(source, target):
                return None
        elif action in ("link", "symlink"):
            is_link = stat.S_ISLNK(status.st_mode)
            if is_same and (os.readlink(target) == source if is_link else action == "link"):  # noqa: PTH115
                return None
        elif action == "copy" and stat.S_ISREG(status.st_mode) and not is_same:
            sha256 = sha256_of_source(intent) if sha256 is None else sha256
            if sha256 == sha256_of(target):
                return sha256, status.st_mtime_ns
    raise Refused("clash", f"{target} is there already")


def act(action: str, intent: Intent, run: str, data: bytes | None, report: Report = ignore) -> tuple[str, int] | None:
    """Do what an intent says. Returns sha256 and time of what was copied, if it was. Raises Refused, OutputError.

    `report`: as of `move`.
    """
    if action == "copy":
        return copy(intent, run, data)
    if action == "move":
        return move(intent, run, report)
    if action == "link":
        link(intent)
    else:
        symlink(intent)
    return None
