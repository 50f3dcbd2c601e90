"""Hands the shards of a job out to workers, one per device, and sees to it that each is done: what dies is replaced."""

from __future__ import annotations

import queue
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from beholder.errors import BeholderError, InputError
from beholder.io import places, writing
from beholder.io.temporaries import own_name
from beholder.notices import say
from beholder.scoring.messages import Begun, Done, Failed, Job, Message, Note, Opened, Progress, Ready
from beholder.scoring.run import OnDone, Step
from beholder.scoring.shards import Shard
from beholder.scoring.summary import ShardCounts
from beholder.scoring.tower import Options
from beholder.scoring.watch import Watch

MOST_TRIES = 3
"""A shard over which so many workers died is given up."""
_ROWS_AHEAD = 4096
_LEAST_AHEAD = 2
"""Shards are handed to a worker until so many rows, and so many shards, wait for it: it need not pause between two."""
_LOOK_S = 1.0


@dataclass(frozen=True)
class Died:
    """A worker is no more; `is_blameless`: what it was at has nothing to do with that."""

    why: str
    is_blameless: bool = False


class Handle(ABC):
    """A worker as whoever hands out sees it. What it says comes as (handle, message) in the queue it was started with.

    Attributes:
        name: for messages: "cuda:1", "node gpu-7, process 4711".
    """

    name: str

    @abstractmethod
    def begin(self, job: Job) -> None:
        """Have it make the step."""

    @abstractmethod
    def do(self, number: int) -> None:
        """Have it do a shard."""

    @abstractmethod
    def stop(self) -> None:
        """End it, whatever it is at."""


Said = tuple[Handle, Message | Died]


class Workforce(ABC):
    """Starts workers: child processes of this machine, or actors of a cluster.

    Attributes:
        num_workers: how many are wanted.
        said: what workers say.
        most_starts: so many deaths in one place before anybody was ready there, and no other worker is started in it.
        most_deaths: so many deaths in one place, with no shard done in between, and it is left to the others.
        checks_visibility: whether workers are to look if they see the same input and output as this process.
    """

    num_workers: int
    most_starts = 3
    most_deaths = 5
    checks_visibility = False

    def __init__(self) -> None:
        self.said: queue.SimpleQueue[Said] = queue.SimpleQueue()

    @abstractmethod
    def start(self, number: int, options: Options | None) -> Handle:
        """Start a worker, which says `Opened`, `Failed` or `Died`.

        Args:
            number: 0 ... num_workers - 1.
            options: those of the job, of which each worker takes its device; None: it needs no tower.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of everything, workers too."""


@dataclass(eq=False)
class _Place:
    """A worker's place: who is there now.

    Attributes:
        number: of the place.
        handle: None where nobody is.
        is_ready: whether shards may be handed to it.
        at_hand: shards that it has, and how many rows each may have; `rows_at_hand` together.
        begun: those of which it has told something.
        num_failed_starts: deaths in a row before it was ready.
        num_deaths: deaths in a row without a shard that was done.
        is_opened: whether it has its tower.
        is_given_up: whether nobody is started here any more.
        waiting_for: what it waits for.
        last_words: why the last one died.
        probe: the file that it is to write into the run's folder.
    """

    number: int
    handle: Handle | None = None
    is_opened: bool = False
    is_ready: bool = False
    at_hand: dict[int, int] = field(default_factory=dict)
    rows_at_hand: int = 0
    begun: set[int] = field(default_factory=set)
    num_failed_starts: int = 0
    num_deaths: int = 0
    is_given_up: bool = False
    waiting_for: str = ""
    last_words: str = ""
    probe: str = ""


class HandOut:
    """Shards of one job on several workers. Used as a context manager; one thread uses it.

    Args:
        workforce: starts the workers.
        watch: told of them, and of their shards.
    """

    def __init__(self, workforce: Workforce, watch: Watch | None = None) -> None:
        self._workforce, self._watch = workforce, watch or Watch()
        self._places = [_Place(number) for number in range(workforce.num_workers)]
        self._options: Options | None = None
        self._failed_at: dict[int, set[int]] = {}

    def __enter__(self) -> HandOut:
        """Nothing is started yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all workers."""
        self._workforce.close()

    def open_tower(self, options: Options, _: Sequence[Any]) -> tuple[Any, None]:
        """What the first worker says of the tower (`pictures.OpenTower`); the others get its precision, batch size and form."""
        self._options = options
        place = self._places[0]
        self._start(place)
        while True:
            who, message = self._workforce.said.get()
            if who is not place.handle:
                continue
            if isinstance(message, Note):
                say(message.text)
            if isinstance(message, Opened):
                place.is_opened = True
                self._watch.worker_started(who.name)
                assert message.tower is not None
                size = message.tower.batch_size if message.tower.device_type == "cpu" else options.batch_size
                is_compiled = bool(message.tower.engine["compiled"])
                self._options = replace(options, precision=message.tower.precision, batch_size=size, compile=is_compiled)
                return message.tower, None
            if isinstance(message, Failed):
                raise message.error
            if isinstance(message, Died):
                self._died(place, message.why)
                if place.is_given_up:
                    raise BeholderError(f"no worker could be started: {place.last_words}")

    def waiting_for(self) -> str:
        """What most workers wait for."""
        found = Counter(place.waiting_for for place in self._places if place.waiting_for)
        return found.most_common(1)[0][0] if found else ""

    def do(self, step: Step, job: Job, pending: Sequence[Shard], on_done: OnDone) -> None:
        """Have all `pending` shards of the job done, the biggest first.

        Args:
            step: made for planning; its tally is told how far they are.
            job: what workers are given.
            pending: the shards.
            on_done: told of each, in the order in which they are done.

        Raises:
            BeholderError: what a worker met that others would meet too; all workers are gone; or some shards could not be done,
                over which workers died: then all others are.
        """
        step.asked_elsewhere = self.waiting_for
        try:
            self._do(step, job, pending, on_done)
        finally:  # they keep devices and memory, and nothing of theirs may be written once this is over
            self._workforce.close()
            for place in self._places:
                self._take_probe(job.folder, place)

    def _do(self, step: Step, job: Job, pending: Sequence[Shard], on_done: OnDone) -> None:
        sizes = {shard.number: step.num_rows_about(shard) for shard in pending}
        by_number = {shard.number: shard for shard in pending}
        waiting = deque(sorted(sizes, key=lambda number: (-sizes[number], number)))
        rows_left = sum(sizes.values())
        tries: Counter[int] = Counter()
        why: dict[int, str] = {}
        lost: list[int] = []
        left = set(sizes)
        for place in self._places[: len(pending)]:
            if place.handle is None:
                self._start(place)
            elif place.is_opened:
                self._begin(place, job)
        may_take = list(self._places)
        while left:
            for place in may_take:
                self._top_up(place, waiting, sizes, tries, rows_left)
            if all(place.is_given_up for place in self._places[: len(pending)]):
                words = next(place.last_words for place in self._places if place.last_words)
                raise BeholderError(f"no worker is left: {words}")
            try:
                who, message = self._workforce.said.get(timeout=_LOOK_S)
            except queue.Empty:
                may_take = list(self._places)
                continue
            found = next((place for place in self._places if place.handle is who), None)
            if found is None:  # of one that was replaced meanwhile
                continue
            may_take = list(self._places) if isinstance(message, Died) else [found]
            if isinstance(message, Opened):
                found.is_opened = True
                self._watch.worker_started(who.name)
                self._begin(found, job)
            elif isinstance(message, Ready):
                if not self._take_probe(job.folder, found):
                    raise InputError(
                        f"{who.name} writes to a {job.folder} of its own, not to that of this machine; name an output that all "
                        "nodes share"
                    )
                found.is_ready, found.num_failed_starts = True, 0
            elif isinstance(message, Begun):
                if message.number in found.at_hand:
                    self._watch.shard_begun(by_number[message.number], who.name)
            elif isinstance(message, Progress):
                found.waiting_for = message.waiting_for
                for number, counts in message.counts.items():
                    if number in found.at_hand:
                        found.begun.add(number)
                        step.tally.put(by_number[number], counts)
            elif isinstance(message, Done):
                found.rows_at_hand -= found.at_hand.pop(message.number, 0)
                found.num_deaths = 0
                step.stages.add(message.seconds)
                if message.number in left:
                    rows_left -= sizes[message.number]
                    step.tally.put(by_number[message.number], message.counts, is_done=True)
                    left.discard(message.number)
                    on_done(by_number[message.number], message.shard, message.noted)
            elif isinstance(message, Failed):
                raise message.error
            elif isinstance(message, Died):
                begun = [number for number in found.at_hand if number in found.begun] or list(found.at_hand)[:1]
                for number in found.at_hand:
                    step.tally.put(by_number[number], ShardCounts())
                    self._watch.shard_retried(by_number[number], message.why, who.name)
                    if number in begun and not message.is_blameless:
                        tries[number] += 1
                        self._failed_at.setdefault(number, set()).add(found.number)
                        why[number] = message.why
                    if tries[number] >= MOST_TRIES:
                        lost.append(number)
                        left.discard(number)
                        rows_left -= sizes[number]
                    else:
                        waiting.append(number)
                self._died(found, message.why)
        if lost:
            names = ", ".join(by_number[number].name for number in sorted(lost)[:3])
            more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
            what = "1 shard" if len(lost) == 1 else f"{len(lost):,} shards"
            raise BeholderError(
                f"{what} could not be done, over which {MOST_TRIES} workers died ({names}{more}: {why[min(lost)]}); all others "
                "are done, and the same command tries these again"
            )

    def _begin(self, place: _Place, job: Job) -> None:
        assert place.handle is not None
        place.probe = own_name() if self._workforce.checks_visibility else ""
        place.handle.begin(replace(job, probe=place.probe))

    def _take_probe(self, folder: str, place: _Place) -> bool:
        """Whether the file is here that a worker was to write; it is taken away."""
        if not place.probe:
            return True
        path, place.probe = f"{folder}/{place.probe}", ""
        is_here = places.entry_of(path) is not None
        writing.remove(path)
        return is_here

    def _start(self, place: _Place) -> None:
        place.handle, place.is_opened, place.is_ready, place.waiting_for = None, False, False, ""
        place.at_hand, place.rows_at_hand, place.begun = {}, 0, set()
        place.handle = self._workforce.start(place.number, self._options)

    def _died(self, place: _Place, why: str) -> None:
        """Put another worker in a place, unless several have failed there."""
        handle = place.handle
        assert handle is not None
        handle.stop()
        place.last_words = f"{handle.name}: {why}"
        place.num_failed_starts += not place.is_ready
        place.num_deaths += 1
        place.handle, place.at_hand, place.is_ready = None, {}, False
        others = any(not other.is_given_up for other in self._places if other is not place)
        force = self._workforce
        if place.num_failed_starts >= force.most_starts or (others and place.num_deaths >= force.most_deaths):
            place.is_given_up = True
            self._watch.worker_died(handle.name, why, is_replaced=False)
            times = "once" if place.num_deaths == 1 else f"{place.num_deaths} times in a row"
            say(f"{place.last_words}; {times} without a shard done, so it is left out")
            return
        self._watch.worker_died(handle.name, why, is_replaced=True)
        say(f"{place.last_words}; another one is started in its place")
        self._start(place)

    def _top_up(self, place: _Place, waiting: deque[int], sizes: dict[int, int], tries: Counter[int], rows_left: int) -> None:
        """Hand shards to a worker until enough wait for it. One over which a worker died is handed out alone."""
        if not place.is_ready or place.handle is None:
            return
        if tries and any(tries[number] for number in place.at_hand):
            return
        enough = min(_ROWS_AHEAD, rows_left // (2 * sum(not other.is_given_up for other in self._places)))
        while len(place.at_hand) < _LEAST_AHEAD or place.rows_at_hand < enough:
            number = next((number for number in waiting if self._may_have(place, number)), None)
            if number is None or (tries[number] and place.at_hand):
                return
            waiting.remove(number)
            place.at_hand[number] = sizes[number]
            place.rows_at_hand += sizes[number]
            place.handle.do(number)
            if tries[number]:
                return

    def _may_have(self, place: _Place, number: int) -> bool:
        """Whether a shard is for a worker of this place: not where one died over it, unless one did everywhere."""
        failed_at = self._failed_at.get(number, set())
        others = {other.number for other in self._places if other.is_ready}
        return place.number not in failed_at or others <= failed_at
