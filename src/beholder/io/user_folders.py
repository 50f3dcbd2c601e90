"""Where the program keeps things between runs: what it can make or fetch again, and what is the user's own."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where converted and downloaded heads are kept: `$BEHOLDER_CACHE`, else `~/.cache/beholder` (XDG rules)."""
    chosen = os.environ.get("BEHOLDER_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "beholder"


def data_folder() -> Path:
    """Where the user's own things are kept, named heads and rates: `$BEHOLDER_DATA`, else `~/.local/share/beholder`."""
    chosen = os.environ.get("BEHOLDER_DATA")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".local" / "share") / "beholder"
