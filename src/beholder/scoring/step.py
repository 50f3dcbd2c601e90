"""The protocol of a step: what a runner needs to know about work it does not understand."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Protocol

from beholder.scoring.shards import Changes, EarlierShard, Shard, ShardResult

Progress = Callable[[int, int], None]
"""Called with (rows, bytes) just done; may be called from any thread that runs the step."""


class Step(Protocol):
    """Work cut into shards, each computed and then written."""

    @property
    def shards(self) -> Sequence[Shard]:
        """All shards, in order; fixed once the step is made."""
        ...

    @property
    def options(self) -> Mapping[str, Any]:
        """JSON-ready options that decide the result; another run must have the same."""
        ...

    @property
    def models(self) -> Sequence[str]:
        """sha256 of the models in use."""
        ...

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the record should say besides the options."""
        ...

    @property
    def columns(self) -> Mapping[str, Any]:
        """JSON-ready: the columns that every shard gets; a run that is continued keeps those that it was begun with."""
        ...

    def use_columns(self, recorded: Mapping[str, Any] | None) -> None:
        """Take over the `columns` that stand in the record of the run that is continued; None: an older one, without."""
        ...

    @property
    def names_files(self) -> bool:
        """Whether some inputs only name files, so that `is_current` says more than a shard's identity."""
        ...

    def is_current(self, shard: EarlierShard) -> bool:
        """Whether a shard of the same identity was made of what is there now; files that its input only names may differ."""
        ...

    def knows_any(self, earlier: Sequence[EarlierShard]) -> bool:
        """Whether anything that earlier runs found is of the inputs of this one."""
        ...

    def can_redo(self, earlier: EarlierShard) -> bool:
        """Whether a shard that was set aside can be made again without doing again what it cost."""
        ...

    def take_earlier(self, earlier: Sequence[EarlierShard], done: Sequence[EarlierShard], *, retry: bool) -> None:
        """Be told what earlier runs of the same options found, so that what has not changed is not done again.

        Args:
            earlier: what was set aside; what stands before counts before.
            done: the finished shards of this run.
            retry: whether rows that were rejected for a passing reason are to be done again.
        """
        ...

    def kept(self) -> Iterator[tuple[Shard, Any]]:
        """Rows that earlier runs found of inputs that have vanished, as shards of their own, each ready for `write`."""
        ...

    def changes(self) -> Changes:
        """How the inputs differ from what `take_earlier` told of, once all shards have been computed."""
        ...

    def compute_each(self, shards: Sequence[Shard], progress: Progress) -> Generator[tuple[Shard, Any], None, None]:
        """Do the work of these shards, in order; nothing is written. A step may begin the next shard before one is taken."""
        ...

    def file_names(self, shard: Shard) -> Sequence[str]:
        """Every file that `write` may make for the shard, relative to the run's folder; each passes `shards.is_shard_file`."""
        ...

    def write(self, shard: Shard, computed: Any, folder: str) -> ShardResult:
        """Write the shard's files below `folder`, each whole or not at all."""
        ...
