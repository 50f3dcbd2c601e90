"""Files that are not where they were in; where a move that a journal tells of has taken one of them out."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from beholder.curation.actions.entries import Intent
from beholder.curation.actions.journal import header_of

_MOST_JOURNALS = 16
_MOST_BYTES = 1 << 28
"""Of a journal that are looked through, which takes some tenths of a second."""


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
    wanted = {json.dumps(path).encode(): path for path in paths if not os.path.lexists(path)}
    journals = {path.resolve(): path for folder in folders for path in Path(folder).glob("*.journal.jsonl")} if wanted else {}
    for journal in islice(sorted(journals.values(), key=_age), _MOST_JOURNALS):
        with contextlib.suppress(OSError):
            if header_of(str(journal)).get("action") == "move" and (found := _found_in(journal, wanted)) is not None:
                return found
    return None


def _age(journal: Path) -> int:
    with contextlib.suppress(OSError):
        return -journal.stat().st_mtime_ns
    return 0


def _found_in(journal: Path, wanted: dict[bytes, str]) -> Moved | None:
    """What a journal says of one of the files, whose names it writes as JSON."""
    marks = [b'"from":' + name for name in wanted]
    with journal.open("rb") as file:
        num_bytes = 0
        for line in file:
            num_bytes += len(line)
            if num_bytes > _MOST_BYTES:
                break
            if line.startswith(b'{"do":') and any(mark in line for mark in marks):
                with contextlib.suppress(KeyError, TypeError, ValueError, OSError):
                    intent = Intent.from_json(json.loads(line))
                    status = os.lstat(intent.target)
                    if (status.st_size, status.st_mtime_ns) == (intent.size, intent.mtime_ns):
                        return Moved(intent.source, intent.target, str(journal))
    return None
