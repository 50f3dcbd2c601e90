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
from beholder.scoring.options import Options
from beholder.scoring.protocol import Begun, Command, Done, Failed, Job, Message, Note, Opened, Progress, Ready
from beholder.scoring.run import OnDone, Step
from beholder.scoring.shards import Shard
from beholder.scoring.summary import ShardCounts
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
    def tell(self, command: Command) -> None:
        """Tell it something. Where it is gone, `Died` comes in the queue, and nothing is raised."""

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
        last_death: why the last one died.
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
    last_death: str = ""
    probe: str = ""


class _Shards:
    """What becomes of the shards of one job.

    Args:
        step, pending, on_done: as of `HandOut.do`.

    Attributes:
        by_number: all of them.
        sizes: about how many rows each may have.
        waiting: numbers of those that no worker has, the biggest first.
        left: of those that are neither done nor lost; `rows_left` in them.
        tries: how many workers died over each.
    """

    def __init__(self, step: Step, pending: Sequence[Shard], on_done: OnDone) -> None:
        self._step, self._on_done = step, on_done
        self.by_number = {shard.number: shard for shard in pending}
        self.sizes = {shard.number: step.num_rows_about(shard) for shard in pending}
        self.waiting = deque(sorted(self.sizes, key=lambda number: (-self.sizes[number], number)))
        self.left = set(self.sizes)
        self.rows_left = sum(self.sizes.values())
        self.tries: Counter[int] = Counter()
        self._lost: dict[int, str] = {}

    def progressed(self, number: int, counts: ShardCounts) -> None:
        """Count what a worker has done of a shard so far."""
        self._step.tally.put(self.by_number[number], counts)

    def was_done(self, done: Done) -> None:
        """Count a shard that was done, once."""
        self._step.stages.add(done.seconds)
        if done.number in self.left:
            self._step.tally.put(self.by_number[done.number], done.counts, is_done=True)
            self._take_off(done.number)
            self._on_done(self.by_number[done.number], done.shard, done.noted)

    def came_back(self, number: int) -> None:
        """Have a shard wait again whose worker died, not over it."""
        self._step.tally.put(self.by_number[number], ShardCounts())
        self.waiting.append(number)

    def was_died_over(self, number: int, why: str) -> None:
        """Have a shard wait again over which a worker died, unless too many have."""
        self.tries[number] += 1
        if self.tries[number] < MOST_TRIES:
            self.came_back(number)
            return
        self._step.tally.put(self.by_number[number], ShardCounts())
        self._lost[number] = why
        self._take_off(number)

    def _take_off(self, number: int) -> None:
        self.left.discard(number)
        self.rows_left -= self.sizes[number]

    def check_none_lost(self) -> None:
        """Raise BeholderError where shards could not be done."""
        if not self._lost:
            return
        names = ", ".join(self.by_number[number].name for number in sorted(self._lost)[:3])
        more = f" and {len(self._lost) - 3} more" if len(self._lost) > 3 else ""
        what = "1 shard" if len(self._lost) == 1 else f"{len(self._lost):,} shards"
        why = self._lost[min(self._lost)]
        raise BeholderError(
            f"{what} could not be done, over which {MOST_TRIES} workers died ({names}{more}: {why}); all others "
            "are done, and the same command tries these again"
        )


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
                    raise BeholderError(f"no worker could be started: {place.last_death}")

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
            self._do(job, _Shards(step, pending, on_done))
        finally:  # they keep devices and memory, and nothing of theirs may be written once this is over
            self._workforce.close()
            for place in self._places:
                self._take_probe(job.folder, place)

    def _do(self, job: Job, shards: _Shards) -> None:
        num_places = len(shards.left)
        for place in self._places[:num_places]:
            if place.handle is None:
                self._start(place)
            elif place.is_opened:
                self._begin(place, job)
        may_take = list(self._places)
        while shards.left:
            for place in may_take:
                self._top_up(place, shards)
            if all(place.is_given_up for place in self._places[:num_places]):
                why = next(place.last_death for place in self._places if place.last_death)
                raise BeholderError(f"no worker is left: {why}")
            try:
                who, message = self._workforce.said.get(timeout=_LOOK_S)
            except queue.Empty:
                may_take = list(self._places)
                continue
            found = next((place for place in self._places if place.handle is who), None)
            if found is None:  # of one that was replaced meanwhile
                continue
            self._hear(found, who.name, message, job, shards)
            may_take = list(self._places) if isinstance(message, Died) else [found]
        shards.check_none_lost()

    def _hear(self, place: _Place, name: str, message: Message | Died, job: Job, shards: _Shards) -> None:
        """Do what follows from something that the worker of this place has said. Raises BeholderError."""
        match message:
            case Opened():
                place.is_opened = True
                self._watch.worker_started(name)
                self._begin(place, job)
            case Ready():
                if not self._take_probe(job.folder, place):
                    raise InputError(
                        f"{name} writes to a {job.folder} of its own, not to that of this machine; name an output that all "
                        "nodes share"
                    )
                place.is_ready, place.num_failed_starts = True, 0
            case Begun(number):
                if number in place.at_hand:
                    self._watch.shard_begun(shards.by_number[number], name)
            case Progress():
                place.waiting_for = message.waiting_for
                for number in message.counts.keys() & place.at_hand:
                    place.begun.add(number)
                    shards.progressed(number, message.counts[number])
            case Done():
                place.rows_at_hand -= place.at_hand.pop(message.number, 0)
                place.num_deaths = 0
                shards.was_done(message)
            case Failed():
                raise message.error
            case Died():
                begun = place.begun & place.at_hand.keys() or set(list(place.at_hand)[:1])
                for number in place.at_hand:
                    self._watch.shard_retried(shards.by_number[number], message.why, name)
                    if number in begun and not message.is_blameless:
                        self._failed_at.setdefault(number, set()).add(place.number)
                        shards.was_died_over(number, message.why)
                    else:
                        shards.came_back(number)
                self._died(place, message.why)
            case Note():
                pass  # the first worker has said it, when it opened its tower

    def _begin(self, place: _Place, job: Job) -> None:
        assert place.handle is not None
        place.probe = own_name() if self._workforce.checks_visibility else ""
        place.handle.tell(replace(job, probe=place.probe))

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
        place.last_death = f"{handle.name}: {why}"
        place.num_failed_starts += not place.is_ready
        place.num_deaths += 1
        place.handle, place.at_hand, place.is_ready = None, {}, False
        others = any(not other.is_given_up for other in self._places if other is not place)
        force = self._workforce
        if place.num_failed_starts >= force.most_starts or (others and place.num_deaths >= force.most_deaths):
            place.is_given_up = True
            self._watch.worker_died(handle.name, why, is_replaced=False)
            times = "once" if place.num_deaths == 1 else f"{place.num_deaths} times in a row"
            say(f"{place.last_death}; {times} without a shard done, so it is left out")
            return
        self._watch.worker_died(handle.name, why, is_replaced=True)
        say(f"{place.last_death}; another one is started in its place")
        self._start(place)

    def _top_up(self, place: _Place, shards: _Shards) -> None:
        """Hand shards to a worker until enough wait for it. One over which a worker died is handed out alone."""
        if not place.is_ready or place.handle is None:
            return
        if any(number in shards.tries for number in place.at_hand):
            return
        enough = min(_ROWS_AHEAD, shards.rows_left // (2 * sum(not other.is_given_up for other in self._places)))
        while len(place.at_hand) < _LEAST_AHEAD or place.rows_at_hand < enough:
            number = next((number for number in shards.waiting if self._may_have(place, number)), None)
            if number is None or (number in shards.tries and place.at_hand):
                return
            shards.waiting.remove(number)
            place.at_hand[number] = shards.sizes[number]
            place.rows_at_hand += shards.sizes[number]
            place.handle.tell(number)
            if number in shards.tries:
                return

    def _may_have(self, place: _Place, number: int) -> bool:
        """Whether a shard is for a worker of this place: not where one died over it, unless one did everywhere."""
        failed_at = self._failed_at.get(number, set())
        others = {other.number for other in self._places if other.is_ready}
        return place.number not in failed_at or others <= failed_at
