"""What a path or URL says by its text alone: whether it is of this machine, of the web, of a system's own; how it sorts."""

from __future__ import annotations

import os
import re
from pathlib import Path

_LOCAL_SCHEMES = ("file://", "local://")
"""What fsspec calls this machine's files."""
_SERVERS = frozenset({"http", "https", "s3", "s3a", "gs", "gcs", "hf"})
_SYSTEM_NAMES = frozenset(
    (
        b"thumbs.db", b"ehthumbs.db", b"desktop.ini", b"__macosx", b"lost+found", b"network trash folder", b"temporary items",
        b"$recycle.bin", b"system volume information", b"$winreagent", b"found.000",
        b"@eadir", b"@tmp", b"@sharebin", b"#recycle", b"#snapshot", b"@recycle", b"@recently-snapshot", b"@__thumb",
        b"~snapshot", b".snapshot", b".snapshots", b".zfs",
    )
)  # fmt: skip
_OLD_BINS = (b"RECYCLER", b"RECYCLED")
"""Of Windows before Vista; in small letters they are words, and may be classes of pictures."""
_INPUTS_OF_RESULTS = (b".parquet.inputs", b".pq.inputs", b".csv.inputs")
"""`columns.INPUTS_SUFFIX` behind the suffixes of results."""
_TRASH = b".trash"
"""`.Trash`, `.Trash-1000`, `.Trashes`, ..."""


def is_local(path: str) -> bool:
    """Whether `path` names a file of this machine (no `scheme://`, or `file://`, `local://`). Schemes may be in any case."""
    return "://" not in path or has_local_scheme(path)


def has_local_scheme(path: str) -> bool:
    """Whether `path` is the address of a file of this machine: `file://` or `local://`, in any case."""
    return path[: len(max(_LOCAL_SCHEMES, key=len))].lower().startswith(_LOCAL_SCHEMES)


def is_on_a_server(path: str) -> bool:
    """Whether an address surely leads to another machine; other schemes, and chains (`::`), may lead back to files here."""
    scheme, mark, rest = path.partition("://")
    return bool(mark) and scheme.lower() in _SERVERS and (is_web(path) or "::" not in rest)


def is_web(path: str) -> bool:
    """Whether `path` is on a web server, which lists no folders and takes no files."""
    return path[: len("https://")].lower().startswith(("http://", "https://"))


def without_query(path: str) -> str:
    """A web address without what follows `?` or `#`, which says nothing of the file's name; other paths as they are."""
    return path.split("?", 1)[0].split("#", 1)[0] if is_web(path) else path


def local_path(path: str) -> Path:
    """The local path behind a plain path or a `file://` URL; `~` is expanded."""
    if has_local_scheme(path):
        path = path.split("://", 1)[1]
    found = Path(os.path.expanduser(path))  # not Path.expanduser: it would expand ./~x as well
    return Path.cwd() / found if str(found).startswith("~") else found  # ./~ as text is ~, which would be expanded again


def local_text(path: str) -> str:
    """A local path as text, as it was given; a `file://` URL and `~` become the path behind them."""
    return str(local_path(path)) if has_local_scheme(path) or path.startswith("~") else path


def is_system_name(name: bytes) -> bool:
    """Whether a system keeps things of its own under this name: recycle bins, snapshots, thumbnails.

    Of Windows, macOS and Linux, and of network storage (Synology, QNAP, NetApp, ZFS).
    """
    lower = name.lower()
    return lower in _SYSTEM_NAMES or lower.startswith(_TRASH) or name in _OLD_BINS


def is_ignored_name(name: bytes) -> bool:
    """Whether a file or folder of this name is never looked at: hidden (a leading dot), a system's own, or notes of a run."""
    return name.startswith(b".") or name.endswith(_INPUTS_OF_RESULTS) or is_system_name(name)


def natural_key(path: str) -> list[tuple[int, int, str]]:
    """A sort key in which img_emb_2 comes before img_emb_10, whatever the zero padding."""
    return [(1, int(piece), piece) if i % 2 else (0, 0, piece) for i, piece in enumerate(re.split(r"([0-9]+)", path))]
