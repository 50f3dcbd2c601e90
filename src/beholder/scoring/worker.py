"""A process that does shards of a job which another one planned: it makes the step anew, and does what it is told.

Whoever hands out shards (`scoring.hand_out`) talks to a `ShardWorker` over a socket to a child process (`scoring.devices`), or
by calls of an actor, with `scoring.messages`. Shards and done-markers are written here; only the small record of each comes
back.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import beholder
from beholder import notices
from beholder.errors import BeholderError, HeadError, InputError, OutputError, kind_and_text, os_error_text
from beholder.io import locations, places, storage
from beholder.scoring.folder import RunFolder
from beholder.scoring.index import IndexedShard
from beholder.scoring.options import Options, ScoreOptions
from beholder.scoring.protocol import Begun, Command, Done, Failed, Job, Message, Note, Open, Opened, Progress, Ready
from beholder.scoring.run import Step, do_each
from beholder.scoring.shards import Shard, difference, fingerprint
from beholder.scoring.summary import ShardCounts, Tally

if TYPE_CHECKING:
    from beholder.engine.engine import Engine
    from beholder.scoring.tower import TowerFacts

_IDLE_S = 0.05
"""After so long without another shard, those at hand are finished: else pictures would wait for others to fill their batch."""
_TELL_S = 0.25
_MOST_CHECKED = 1000


class ShardWorker:
    """Does shards as they are handed to it. `send` is called by one thread at a time; it must not fail.

    on_broken: called once, by any thread, with what happened, when something went wrong that is nobody's input: the worker is
    of no more use then, and another one may fare better.
    """

    def __init__(self, send: Callable[[Message], None], on_broken: Callable[[str], None]) -> None:
        self._send_it, self._on_broken = send, on_broken
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._tower: TowerFacts | None = None
        self._shards: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._is_over = threading.Event()

    def open(self, options: Options | None) -> None:
        """Load the tower of a job on pictures (None: it has none) and answer `Opened`."""
        with self._failures(), notices.told_to(lambda text: self._send(Note(text))):
            if options is not None:
                from beholder.scoring.pictures import heads_of
                from beholder.scoring.tower import open_engine

                self._tower, self._engine = open_engine(options, heads_of(options))
            self._send(Opened(self._tower))

    def begin(self, job: Job) -> None:
        """Make the step and answer `Ready`; then shards may be handed out."""
        with self._failures():
            if job.recipe.tower is not None and self._tower is not None:
                _check_tower(self._tower, job.recipe.tower)
            step = _step_of(job, self._engine)
            step.tally = tally = _WorkerTally(step)
            if job.probe:
                _write_probe(job.folder, job.probe)
            self._send(Ready())
            threading.Thread(target=self._work, args=(job, step, tally), name="beholder-shards", daemon=True).start()

    def obey(self, command: Command) -> None:
        """Do what a command says; of a shard: have it done after those that were handed out before."""
        match command:
            case Open(options):
                self.open(options)
            case Job():
                self.begin(command)
            case number:
                self._shards.put(number)

    def _send(self, message: Message) -> None:
        with self._lock:
            self._send_it(message)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Report what goes wrong."""
        try:
            yield
        except BeholderError as error:
            self._send(Failed(_can_be_sent(error)))
        except BaseException as error:
            traceback.print_exc()
            self._on_broken(kind_and_text(error))

    def _work(self, job: Job, step: Step, tally: _WorkerTally) -> None:
        folder = RunFolder(job.folder)

        def take(shard: Shard, done: IndexedShard, noted: Any) -> None:
            self._send(Done(shard.number, done, noted, tally.of(shard), step.stages.take()))

        telling = threading.Thread(target=self._tell, args=(step, tally), name="beholder-tell", daemon=True)
        telling.start()
        with self._failures(), step.staying_open():
            while True:
                do_each(step, folder, self._until_idle(step, self._shards.get()), job.fingerprint, take)
        self._is_over.set()
        telling.join()

    def _until_idle(self, step: Step, number: int) -> Iterator[Shard]:
        """Shards that were handed out, until none has come for a moment."""
        while True:
            self._send(Begun(number))
            yield step.shards[number]
            try:
                number = self._shards.get(timeout=_IDLE_S)
            except queue.Empty:
                return

    def _tell(self, step: Step, tally: _WorkerTally) -> None:
        while not self._is_over.wait(_TELL_S):
            if counts := tally.news():
                self._send(Progress(counts, step.waiting_for()))


class _WorkerTally(Tally):
    """Counts by shard, for the process that hands out."""

    def __init__(self, step: Step) -> None:
        super().__init__([], [])
        self._counts: dict[int, ShardCounts] = {}
        self._news: set[int] = set()
        self._counting = threading.Lock()

    def add(
        self, shard: Shard, rows: int, num_bytes: int, num_rejected: int, *, are_new: bool = True, each: Sequence[int] = ()
    ) -> None:
        """Count rows of a shard; the process that hands out hears their sums, not `each`."""
        with self._counting:
            was = self._counts.get(shard.number, ShardCounts())
            more = (rows, num_bytes, num_rejected, rows if are_new else 0)
            self._counts[shard.number] = ShardCounts(*(old + new for old, new in zip(was, more, strict=True)))
            self._news.add(shard.number)

    def end(self) -> None:
        """Others may come."""

    def of(self, shard: Shard) -> ShardCounts:
        """All counts of a shard that is done; nothing more is told of it."""
        with self._counting:
            self._news.discard(shard.number)
            return self._counts.pop(shard.number, ShardCounts())

    def news(self) -> dict[int, ShardCounts]:
        """Counts that have changed since they were asked for."""
        with self._counting:
            found = {number: self._counts[number] for number in self._news if number in self._counts}
            self._news.clear()
            return found


def _step_of(job: Job, engine: Engine | None) -> Step:
    """The step of a job. Raises InputError where this process would make other results than the one that planned."""
    recipe = job.recipe
    if job.probe:
        _check_inputs(recipe.parts)
    if recipe.tower is not None:
        from beholder.scoring.pictures import picture_step

        step: Step = picture_step(recipe.options, recipe.out, recipe.parts, recipe.tower, engine)
    else:
        from beholder.scoring.embeddings import score_step

        assert isinstance(recipe.options, ScoreOptions)
        assert recipe.read_options is not None
        step = score_step(recipe.options, recipe.out, recipe.parts, recipe.read_options)
    if fingerprint(step.options) != job.fingerprint:
        raise InputError(f"{_here()} would make other results: {difference(job.options, step.options)}")
    if (changed := difference(job.file_metadata, step.file_metadata)) is not None:
        raise InputError(f"{_here()} would write something else into its files than the one that hands out: {changed}")
    step.use_columns(job.columns)
    if job.earlier is not None:
        step.take_earlier(job.earlier, job.done, retry=job.retry)
    return step


def _check_tower(found: TowerFacts, wanted: TowerFacts) -> None:
    """Raise InputError where this process has another tower than the one that the job was planned with."""
    names = ["sha256", "activation", "dim", "image_px", "device_type", "precision"]
    names += ["batch_size"] if wanted.device_type == "cpu" else []
    then, now = ({name: getattr(facts, name) for name in names} for facts in (wanted, found))
    if (changed := difference(then, now)) is not None:
        raise InputError(f"{_here()} has another tower, or another kind of device, than the first worker: {changed}")
    then, now = ({name: facts.engine[name] for name in ("compiled", "form")} for facts in (wanted, found))
    if (changed := difference(then, now)) is not None:
        hint = "; --no-compile has all of them compute alike" if then["compiled"] != now["compiled"] else ""
        raise InputError(f"{_here()} would compute the tower otherwise than the first worker: {changed}{hint}")


def _check_inputs(parts: Sequence[Any]) -> None:
    """Raise InputError where parts are not to be seen here, or are others; of many, some are looked at."""
    for part in parts[:: max(1, len(parts) // _MOST_CHECKED)]:
        if getattr(part, "kind", "") == "files" and not storage.is_folder(part.path):
            continue  # (files that were named one by one: each is looked at when it is read)
        try:
            found = part.num_bytes if storage.is_folder(part.path) else storage.size(part.path)
        except InputError as error:
            raise InputError(f"{_here()} cannot see the input: {error}") from None
        except OSError as error:
            raise InputError(f"{_here()} cannot see the input {part.path}: {os_error_text(error)}") from None
        if part.num_bytes and found != part.num_bytes:
            raise InputError(
                f"{_here()} sees another {part.path}: {found:,} bytes, not {part.num_bytes:,}; inputs have to be the same on "
                "every node"
            )


def _write_probe(folder: str, name: str) -> None:
    """Write a small file into the run's folder, which must be there. Raises OutputError."""
    try:
        if locations.is_local(folder) and not storage.is_folder(folder):  # (it would be made)
            raise OutputError("there is no such folder")
        places.put_bytes(f"{folder}/{name}", b"")
    except BeholderError as error:
        raise OutputError(f"{_here()} cannot write to {folder}: {error}") from None


def _here() -> str:
    return f"node {socket.gethostname()}, process {os.getpid()} (beholder {beholder.__version__})"


def _can_be_sent(error: BeholderError) -> BeholderError:
    """The error without what may not be pickled."""
    plain = next(kind for kind in (OutputError, HeadError, InputError, BeholderError) if isinstance(error, kind))
    return plain(str(error))


def main(config: Mapping[str, Any]) -> None:
    """A child process (`workers.child_process.ChildProcess`): obeys commands on its socket until they end."""
    from beholder.workers.child_process import set_up_process

    set_up_process(config["parent"])
    os.chdir(config["folder"])
    with Connection(config["socket"]) as connection:

        def leave(text: str) -> None:
            with contextlib.suppress(OSError):
                print(text, file=sys.stderr, flush=True)
            time.sleep(0.05)
            os._exit(1)

        def send(message: Message) -> None:
            try:
                connection.send(message)
            except OSError:  # nobody is there any more
                os._exit(0)

        worker = ShardWorker(send, leave)
        while True:
            try:
                command: Command = connection.recv()
            except (EOFError, OSError):
                os._exit(0)
            worker.obey(command)
