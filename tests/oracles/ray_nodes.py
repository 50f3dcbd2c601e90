"""Nodes of a Ray cluster on this machine, and the processes of actors on them."""

from __future__ import annotations

import contextlib
from pathlib import Path

NODE = {"num_cpus": 4, "object_store_memory": 80_000_000}
"""With fewer logical processors Ray's scheduler keeps actors waiting for one another."""


def actor_processes() -> list[int]:
    """Process ids of actors that do shards."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (place / "cmdline").read_bytes().startswith(b"ray::ShardActor"):
                found.append(int(place.name))
    return found
