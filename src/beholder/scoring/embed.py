"""The embedding job: pictures and a tower named by the user in, an embedding set with its stamp and a summary out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath

from beholder.io import storage
from beholder.scoring.execute import Plan, execute
from beholder.scoring.options import EmbedOptions
from beholder.scoring.summary import RunSummary

__all__ = ["EmbedOptions", "embed", "plan"]


def embed(
    options: EmbedOptions,
    *,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_progress: Callable[[int, int], None] = lambda rows, num_bytes: None,
    on_resume: Callable[[int, int], None] = lambda shards, rows: None,
) -> RunSummary:
    """Embed pictures; continue where an interrupted run of the same options stopped. See `scoring.score.score`."""
    return execute(plan(options), options, on_plan=on_plan, on_progress=on_progress, on_resume=on_resume)


def plan(options: EmbedOptions) -> Plan:
    """Find and check everything the job needs. Raises BeholderError; nothing has been written by then."""
    from beholder.scoring.pictures import plan_embeddings

    return plan_embeddings(options, options.out or _default_output(options.sources))


def _default_output(sources: tuple[str, ...]) -> str:
    """`<name>.embeddings`, a folder in the current one."""
    first = PurePosixPath(sources[0].split("://", 1)[-1].rstrip("/"))
    single = len(sources) == 1 and not storage.is_glob(sources[0]) and "{" not in sources[0]
    stem = (first.name if storage.is_folder(sources[0]) else first.stem) if single else ""
    return f"{stem if stem not in ('', '.', '..', '~') else 'pictures'}.embeddings"
