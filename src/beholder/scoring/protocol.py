"""What whoever hands out shards and the workers that do them say to each other; all of it can be pickled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from beholder.errors import BeholderError
from beholder.scoring.index import IndexedShard
from beholder.scoring.options import Options
from beholder.scoring.shards import EarlierShard
from beholder.scoring.summary import ShardCounts
from beholder.sources.reader import ReadOptions

if TYPE_CHECKING:
    from beholder.scoring.tower import TowerFacts


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that another process needs to make the step of a plan again.

    Attributes:
        options: of the job.
        out: its output.
        parts: what it reads: `PicturePart`s, or `Part`s of embeddings.
        tower: what is known of the tower; None where the parts are embeddings.
        read_options: how embeddings are read; None where the parts are pictures.
    """

    options: Options
    out: str
    parts: Sequence[Any]
    tower: TowerFacts | None = None
    read_options: ReadOptions | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker is given once, before the first shard.

    Attributes:
        recipe: makes the step.
        folder: the run's folder.
        fingerprint, options: of the step, which the one that is made has to have.
        file_metadata: of the step, which the one that is made has to have.
        columns: `Step.columns` of the run.
        earlier, done, retry: as `Step.take_earlier` takes them; None: there is nothing to take over.
        probe: a name for a file that is written into the folder at first, to see whether it is the folder of the one that hands
            out; inputs are looked at as well. "": neither is.
    """

    recipe: Recipe
    folder: str
    fingerprint: str
    options: Mapping[str, Any]
    file_metadata: Mapping[str, Any]
    columns: Mapping[str, Any]
    earlier: list[EarlierShard] | None = None
    done: list[EarlierShard] = field(default_factory=list)
    retry: bool = False
    probe: str = ""


@dataclass(frozen=True)
class Note:
    """A line that the worker would say to its user."""

    text: str


@dataclass(frozen=True)
class Opened:
    """The worker has its tower, if the job needs one, on its device."""

    tower: TowerFacts | None


@dataclass(frozen=True)
class Ready:
    """The worker has made the step; it takes shards."""


@dataclass(frozen=True)
class Progress:
    """How far the shards at hand are, by number; and what the worker waits for."""

    counts: dict[int, ShardCounts]
    waiting_for: str


@dataclass(frozen=True)
class Begun:
    """The worker has begun to read a shard."""

    number: int


@dataclass(frozen=True)
class Done:
    """A shard is written, its done-marker too. `seconds`: what stages took since the one before."""

    number: int
    shard: IndexedShard
    noted: Any
    counts: ShardCounts
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """The job cannot go on: bad input, a full disk, ... which another worker would meet as well."""

    error: BeholderError


Message = Note | Opened | Ready | Begun | Progress | Done | Failed


@dataclass(frozen=True)
class Open:
    """Asks for `ShardWorker.open`."""

    options: Options | None


Command = Open | Job | int
"""What a worker is told: a number is a shard."""


def with_options(command: Command, changed: Callable[[Options], Options]) -> Command:
    """The command with its options, if it has any, made those of one worker."""
    match command:
        case Open(options) if options is not None:
            return Open(changed(options))
        case Job(recipe=recipe):
            return replace(command, recipe=replace(recipe, options=changed(recipe.options)))
    return command
