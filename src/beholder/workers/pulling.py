"""An iterator of picture refs in; jobs for the dispatcher, pulled by a thread, and results in the same order out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Protocol

from beholder.io import storage
from beholder.pixels.picture import PictureError, PictureRef
from beholder.sources.fetch import too_many_bytes
from beholder.workers.child_process import Deaths


class SlotKeeper(Protocol):
    """What a pull needs of the dispatcher."""

    lock: threading.Lock
    room: threading.Condition
    done: threading.Condition
    few: int
    """With fewer pictures under way, more are pulled whenever there is a slot."""

    def take_slot(self) -> int | None:
        """A free slot, or None; called with the lock held."""
        ...

    def put_slot(self, slot: int) -> None:
        """Give a slot back; called with the lock held."""
        ...

    def submit(self, job: Job) -> None:
        """Have a job done."""
        ...


@dataclass(slots=True, eq=False)
class Job:
    """One picture that is under way; `number` is its place in the pull's order."""

    pull: Pull
    number: int
    tag: Any
    ref: PictureRef
    slot: int
    remote: bool
    deaths: Deaths = field(default_factory=Deaths)
    num_seen_deaths: int = 0
    """Workers that died while it was queued there."""
    place: int | None = None


@dataclass(slots=True, eq=False)
class Finished:
    """One picture that is done: its pixels are in `slot` unless there is an error, or `are_known`; see `messages.Reply`."""

    tag: Any
    slot: int
    error: PictureError | None
    width: int = 0
    height: int = 0
    traits: int = 0
    num_bytes: int = 0
    digest: bytes | None = None
    are_known: bool = False


class Pull:
    """Reads one iterator in a thread, as far ahead as there are slots and `ahead_bytes` allow."""

    def __init__(self, refs: Iterator[tuple[Any, PictureRef]], keeper: SlotKeeper, ahead_bytes: int, max_bytes: int) -> None:
        self._refs = iter(refs)
        self._max_bytes = max_bytes
        self._keeper = keeper
        self._ahead_bytes = ahead_bytes
        self._bytes_ahead = 0
        self._finished: dict[int, Finished] = {}
        self._next = 0
        self._num_pulled = 0
        self._at_end = False
        self.closed = False
        self.error: BaseException | None = None
        """What the iterator raised; due when all before it is taken."""
        self.source_s = 0.0
        """Seconds spent in the iterator."""
        self._thread = threading.Thread(target=self._work, name="beholder-pull", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            while (slot := self._wait_for_slot()) is not None:
                if not self._pull_one(slot):
                    break
        except BaseException as error:  # handed to the consumer, which raises it
            self.error = error
        finally:
            try:
                close = getattr(self._refs, "close", None)
                if close is not None:
                    close()
            except BaseException as error:
                self.error = self.error or error
            with self._keeper.lock:
                self._at_end = True
                self._keeper.done.notify_all()

    def _wait_for_slot(self) -> int | None:
        """A slot, once there is one and not too many bytes wait; None when closed."""
        with self._keeper.lock:
            while not self.closed:
                if self._bytes_ahead <= self._ahead_bytes and (slot := self._keeper.take_slot()) is not None:
                    return slot
                self._keeper.room.wait()
        return None

    def _pull_one(self, slot: int) -> bool:
        """Take one ref from the iterator and hand it on; False at its end."""
        pair = None
        began = monotonic()
        try:
            pair = next(self._refs, None)
        finally:
            self.source_s += monotonic() - began
            if pair is None:
                with self._keeper.lock:
                    self._keeper.put_slot(slot)
        if pair is None:
            return False
        tag, ref = pair
        if ref.data is not None and len(ref.data) > self._max_bytes:
            ref = PictureRef(error=too_many_bytes(len(ref.data), self._max_bytes))
        remote = ref.data is None and ref.path is not None and not storage.is_local(ref.path)
        job = Job(self, self._num_pulled, tag, ref, slot, remote)
        self._num_pulled += 1
        if ref.error is not None or ref.is_done:  # (no bytes then)
            error = PictureError(*ref.error) if ref.error is not None else None
            with self._keeper.lock:
                self.finish(job, Finished(tag, slot, error, are_known=ref.is_done))
                self._keeper.done.notify_all()
            return True
        if ref.data is not None:
            with self._keeper.lock:
                self._bytes_ahead += len(ref.data)
        self._keeper.submit(job)
        return True

    def finish(self, job: Job, finished: Finished) -> None:
        """Note a result; called with the lock held. Results of a closed pull are dropped."""
        if job.ref.data is not None:
            was_full = self._bytes_ahead > self._ahead_bytes
            self._bytes_ahead -= len(job.ref.data)
            if was_full:
                self._keeper.room.notify_all()
        if self.closed:
            self._keeper.put_slot(finished.slot)
        else:
            self._finished[job.number] = finished

    @property
    def has_next(self) -> bool:
        """Whether the next result in order is there; called with the lock held."""
        return self._next in self._finished

    @property
    def runs_dry(self) -> bool:
        """Whether so few pictures are under way that the next free slot is worth a wake-up; called with the lock held."""
        return self._num_pulled - self._next < self._keeper.few

    @property
    def is_over(self) -> bool:
        """Whether every result was taken and the iterator is at its end; called with the lock held."""
        return self._at_end and self._next == self._num_pulled

    def take(self) -> list[Finished]:
        """All results that are next in order; called with the lock held."""
        found = []
        while (finished := self._finished.pop(self._next, None)) is not None:
            found.append(finished)
            self._next += 1
        return found

    def close(self, patience_s: float) -> None:
        """Stop the thread and drop what is under way. A thread that hangs in the iterator is left after `patience_s`."""
        with self._keeper.lock:
            self.closed = True
            for finished in self._finished.values():
                self._keeper.put_slot(finished.slot)
            self._finished.clear()
            self._keeper.room.notify_all()
        self._thread.join(patience_s)
