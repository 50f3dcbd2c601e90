"""A journal that has lost its end in; the files in its target of which it does not tell out."""

from __future__ import annotations

import bisect
import os
from array import array
from collections.abc import Iterator

from beholder.curate.act import journal
from beholder.curate.act.entries import Told


def unnamed_files(path: str, told: Told) -> Iterator[str]:
    """Files below the target that stand in no line of the journal, in order of their folders; 8 bytes a file are held.

    Half-written temporary files of the same act are not among them. Raises InputError where the journal cannot be read.
    """
    known = array("q", sorted(hash(name) for name in _named(path, told)))
    target, own = str(told.header["target"]), f".beholder-{told.header['id']}-"
    for folder, folders, names in os.walk(target):
        folders.sort()
        for name in sorted(names):
            file = os.path.join(folder, name)  # noqa: PTH118
            at = bisect.bisect_left(known, hash(file))
            if (at == len(known) or known[at] != hash(file)) and not (name.startswith(own) and name.endswith(".tmp")):
                yield file


def _named(path: str, told: Told) -> Iterator[str]:
    for _, outcome in journal.settled(path):
        if outcome is not None:
            yield outcome.intent.target
    for intent in told.unsettled.values():
        yield intent.target
    for shard in told.shards:
        yield from (made for made, *_ in shard.files)
    yield os.path.abspath(path)  # noqa: PTH100
