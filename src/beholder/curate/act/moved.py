"""Files that are not where they were, or the folder of an act, in; what journals near at hand tell of them out."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from beholder.curate.act.entries import Intent
from beholder.curate.act.journal import header_of

_MOST_JOURNALS = 16
_MOST_BYTES = 1 << 28
"""Of all journals together, the newest first, that are looked through: about a second, where they are in memory."""
_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class Moved:
    """A file that was moved.

    Attributes:
        source: where it was, absolute.
        target: where it is, absolute.
        journal: the journal that says so.
    """

    source: str
    target: str
    journal: str


def find_moved(paths: Sequence[str], folders: Sequence[str]) -> Moved | None:
    """One of the files, if a move has taken it to where it is still as it was.

    Args:
        paths: absolute; they are not there any more.
        folders: where journals (`*.journal.jsonl`) are looked for, the newest few.
    """
    wanted = {json.dumps(path).encode() for path in paths if not os.path.lexists(path)}
    if not wanted:
        return None
    marks = re.compile(b'"from":(?:' + b"|".join(re.escape(name) for name in sorted(wanted)) + b")")
    left = _MOST_BYTES
    for journal in _newest_journals(folders)[:_MOST_JOURNALS]:
        with contextlib.suppress(OSError, ValueError, RecursionError):
            if header_of(str(journal)).get("action") != "move":
                continue
            with journal.open("rb") as file:
                for lines in _blocks(file, left):
                    if (found := _found_in(lines, marks, journal)) is not None:
                        return found
                left -= file.tell()
    return None


def find_journals(target: str, folders: Sequence[str]) -> list[str]:
    """Journals in the folders of acts into the folder `target` (absolute), the newest first."""
    found = []
    for journal in _newest_journals(folders):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            said = header_of(str(journal)).get("target")
            if isinstance(said, str) and os.path.realpath(said) == os.path.realpath(target):
                found.append(str(journal))
    return found


def _newest_journals(folders: Sequence[str]) -> list[Path]:
    """Journals in the folders, each once, the newest first; of what is called so, files alone (a pipe would never end)."""
    ages: dict[str, tuple[int, Path]] = {}
    for folder in folders:
        with contextlib.suppress(OSError):
            for path in Path(folder).glob("*.journal.jsonl"):
                with contextlib.suppress(OSError):  # links that lead in a circle, or nowhere
                    status = path.stat()
                    if stat.S_ISREG(status.st_mode):
                        ages.setdefault(os.path.realpath(path), (-status.st_mtime_ns, path))
    return [path for _, path in sorted(ages.values())]


def _blocks(file: BinaryIO, most: int) -> Iterator[bytes]:
    """Whole lines, some MiB at a time, `most` bytes in all; nothing behind a line that is longer."""
    rest = b""
    while most > 0 and (block := file.read(min(_BLOCK_BYTES, most))):
        most -= len(block)
        end = block.rfind(b"\n") + 1
        if end:
            yield rest + block[:end]
            rest = b""
        rest += block[end:]
        if len(rest) > _BLOCK_BYTES:
            return


def _found_in(lines: bytes, marks: re.Pattern[bytes], journal: Path) -> Moved | None:
    """What lines of a journal say of one of the files, whose names it writes as JSON."""
    for mark in marks.finditer(lines):
        line = lines[lines.rfind(b"\n", 0, mark.start()) + 1 : lines.find(b"\n", mark.end())]
        if line.startswith(b'{"do":'):
            with contextlib.suppress(KeyError, TypeError, ValueError, OSError, RecursionError):
                intent = Intent.from_json(json.loads(line))
                status = os.lstat(intent.target)
                if (status.st_size, status.st_mtime_ns) == (intent.size, intent.mtime_ns):
                    return Moved(intent.source, intent.target, str(journal))
    return None
