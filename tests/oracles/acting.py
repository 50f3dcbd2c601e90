"""Score sets over made pictures, acts on them, and what a folder holds, for the tests of actions."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from beholder.curate.act.messages import ActionSummary
from beholder.curate.act.run import perform
from beholder.curate.act.undo import undo
from beholder.curate.options import ActionOptions
from beholder.scoreset.score_set import open_scores

NAMES = ["a.jpg", "b/c.png", "b/d/ö.webp", "-x.jpg", "n\nl.jpg", "b/a.jpg", "e.f.jpg", "z" * 251 + ".jpg"]
"""Pictures below `photos` that acts are tried on."""


def score_table(samples: Sequence[str], sources: Sequence[str] | None, **columns: Any) -> pa.Table:
    """Scores 1, 2, ... of these samples, with a record that names the sources."""
    record = {"pictures": {"sources": sources if sources is None else list(sources), "folder": str(Path.cwd())}}
    scores = pa.array([1.0 + i for i in range(len(samples))], pa.float32())
    table = pa.table({"sample": pa.array(samples, pa.large_string()), "aesthetic_score": scores, **columns})
    return table.replace_schema_metadata({"beholder": json.dumps(record)})


def photos(*names: str, source: str = "photos", **columns: object) -> pa.Table:
    """Scores of the pictures (without names: all of NAMES) of the folder `photos`."""
    return score_table([f"photos/{name}" for name in names or NAMES], [source], **columns)


def act(table: pa.Table, **options: Any) -> tuple[ActionSummary, list[str]]:
    """Do something with all rows of a score table: the summary, and what was said."""
    said: list[str] = []
    with open_scores(table) as scores:
        summary = perform(table, scores, ActionOptions(**options), said.append)
    return summary, said


def take_back(journal: str | None, **options: Any) -> tuple[ActionSummary, list[str]]:
    """Undo: the summary, and what was said."""
    said: list[str] = []
    assert journal is not None
    return undo(journal, **{"dry_run": False} | options, say=said.append), said


def contents(folder: Path) -> dict[str, bytes | str]:
    """Relative path -> bytes of every file below a folder; of a symbolic link the text "-> where it leads"."""
    found: dict[str, bytes | str] = {}
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            below = str(path.relative_to(folder))
            found[below] = f"-> {path.readlink()}" if path.is_symlink() else path.read_bytes()
    return found
