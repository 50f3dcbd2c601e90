"""Nodes of a Ray cluster on this machine, and the processes of actors on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@contextlib.contextmanager
def cluster_of(num_nodes: int) -> Iterator[Any]:
    """A cluster of so many nodes of four logical processors, ended at the end."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    for _ in range(num_nodes - 1):
        made.add_node(**NODE)
    made.wait_for_nodes()
    yield made
    made.shutdown()
