"""Where the program keeps things between runs: what it can make or fetch again, and what is the user's own."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where converted and downloaded heads are kept: `$BEHOLDER_CACHE`, else `~/.cache/beholder` (XDG rules)."""
    return _folder("BEHOLDER_CACHE", "XDG_CACHE_HOME", ".cache")


def data_folder() -> Path:
    """Where the user's own things are kept, named heads and rates: `$BEHOLDER_DATA`, else `~/.local/share/beholder`."""
    return _folder("BEHOLDER_DATA", "XDG_DATA_HOME", ".local/share")


def _folder(variable: str, base_variable: str, usual: str) -> Path:
    """The folder that a variable names, else one below what XDG's names, or else below `usual` in the user's home."""
    if chosen := os.environ.get(variable):
        return Path(chosen).expanduser()
    base = os.environ.get(base_variable)
    return (Path(base).expanduser() if base else Path.home() / usual) / "beholder"
