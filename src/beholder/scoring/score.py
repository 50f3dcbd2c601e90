"""The jobs `beholder score` and `beholder embed`: what the options name is found and checked, then planned and done."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from beholder.errors import InputError
from beholder.io import storage
from beholder.notices import doing
from beholder.scoring import embeddings
from beholder.scoring.execute import Plan, execute
from beholder.scoring.options import EmbedOptions, Options, ScoreOptions, source_options
from beholder.scoring.run import OtherOptionsError
from beholder.scoring.summary import RunSummary
from beholder.scoring.watch import Watch
from beholder.sources.find import find
from beholder.sources.reader import ReadOptions

if TYPE_CHECKING:
    from beholder.scoring.hand_out import HandOut

__all__ = ["EmbedOptions", "ScoreOptions", "embed", "plan", "score"]


def score(
    options: Options,
    *,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_progress: Callable[[int, int], None] = lambda rows, num_bytes: None,
    on_resume: Callable[[int, int], None] = lambda shards, rows: None,
) -> RunSummary:
    """Score pictures or embeddings, or embed pictures; continue where an interrupted run of the same options stopped.

    Args:
        options: the job.
        on_plan: told what will be done, once, before it begins.
        on_progress: told (rows, bytes read) as they are done, from one thread.
        on_resume: told (shards, rows) that an earlier run had done.

    Raises:
        BeholderError: bad input, a refused head, an output in the way, a full disk, ...
    """
    may_try_again = options.part is not None and options.precision == "auto"
    with Watch(options) as watch:
        while True:
            with _workers(options, watch) as workers:
                try:
                    summary = execute(
                        plan(options, workers),
                        options,
                        on_plan=on_plan,
                        on_progress=on_progress,
                        on_resume=on_resume,
                        hand_out=None if workers is None else workers.do,
                        watch=watch,
                    )
                except OtherOptionsError as error:
                    if not may_try_again or error.option != "--precision":
                        raise
                    may_try_again = False  # another part has begun meanwhile, and its precision holds for all
                else:
                    watch.done(summary)
                    return summary


embed = score


@contextlib.contextmanager
def _workers(options: Options, watch: Watch) -> Iterator[HandOut | None]:
    """The processes that do the shards; None: this one does them. Raises InputError for devices that are none."""
    if options.engine == "ray":
        from beholder.scoring.hand_out import HandOut
        from beholder.scoring.ray_engine import RayWorkers, resources_of

        force = RayWorkers(options.address or "auto", options.actors, resources_of(options.actor_resources))
        with HandOut(force, watch) as workers:
            yield workers
        return
    if options.devices is None:
        yield None
        return
    if options.device != "auto":
        raise InputError(f"--device {options.device} beside --devices {options.devices}: name devices once")
    from beholder.scoring.devices import ChildWorkers, devices_of
    from beholder.scoring.hand_out import HandOut

    with HandOut(ChildWorkers(devices_of(options.devices)), watch) as workers:
        yield workers


def plan(options: Options, workers: HandOut | None = None) -> Plan:
    """Find and check everything the job needs. Raises BeholderError; nothing has been written by then."""
    open_tower = None if workers is None else workers.open_tower
    if isinstance(options, EmbedOptions):
        from beholder.scoring.pictures import plan_pictures

        out = options.out or _default_output(options.sources, "pictures", "embeddings")
        return plan_pictures(options, out, open_tower=open_tower)
    read_options = ReadOptions(
        columns=options.columns or (),
        sample_column=options.sample_column,
        embedding_column=options.embedding_column,
        block_bytes=options.memory_bytes // 4,
    )
    with doing("looking at the sources"):
        found = find(options.sources, source_options(options), read_options)
    if found.pictures:
        from beholder.scoring.pictures import plan_pictures

        out = options.out or _default_output(options.sources, "pictures")
        return plan_pictures(options, out, parts=found.pictures, open_tower=open_tower)
    if options.devices is not None and "cpu" not in options.devices:
        raise InputError(f"--devices {options.devices}: embeddings are scored on the processor; say cpu:N, or leave it out")
    out = options.out or _default_output(options.sources, "embeddings")
    return embeddings.plan_scores(options, out, parts=found.embeddings, read_options=read_options)


def _default_output(sources: Sequence[str], noun: str, kind: str = "scores") -> str:
    """The name of the result in the current folder, where none is given.

    `<stem>.scores.parquet` for one file, `<name>.scores` (a folder) for anything else; embeddings are always in a folder.
    """
    first = PurePosixPath(sources[0].split("://", 1)[-1].rstrip("/"))
    if len(sources) > 1 or storage.is_glob(sources[0]) or "{" in sources[0]:
        return f"{noun}.{kind}"
    is_folder = storage.is_folder(sources[0])
    name = first.name if is_folder else first.stem
    if name in ("", ".", "..", "~"):
        name = noun
    elif is_folder and name == "img_emb" and kind == "scores":
        name = first.parent.name or noun
    return f"{name}.{kind}" if is_folder or kind == "embeddings" else f"{name}.{kind}.parquet"
