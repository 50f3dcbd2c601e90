"""Journals of acts by the rules of docs/actions.md, written and read without the package's own code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def lines_of(path: Path) -> list[dict[str, Any]]:
    """What the lines say, without checksums."""
    lines = path.read_bytes().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "check"} for line in lines]


def write_journal(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """A journal of these lines, whole: checksums and length fit. The first line gets its `version` and `written` here."""
    (header, *others) = lines
    first = {"format": header["format"], "version": 2, "written": ""} | {
        name: value for name, value in header.items() if name not in ("version", "written")
    }
    texts, check = [], ""
    for said in (first, *others):
        text = json.dumps(said, separators=(",", ":"))[:-1]
        check = hashlib.sha256((check + text).encode()).hexdigest()[:16]
        texts.append(f'{text},"check":"{check}"}}\n')
    number = f"{len(''.join(texts)) + 25:016d}"
    filled = f'"written":"{number} {hashlib.sha256(number.encode()).hexdigest()[:8]}"'
    path.write_text("".join(texts).replace('"written":""', filled, 1))
