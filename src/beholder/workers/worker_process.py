"""Settings in, one decode worker process out, as the pool sees it: started, fed, heard, ended."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from time import monotonic

from beholder.errors import BeholderError
from beholder.pixels.picture import PixelOptions
from beholder.workers.child_process import END_S, ChildProcess
from beholder.workers.messages import RECEIVE_BYTES, Reply, Request, pack_requests, take_frames, unpack_replies

_MOST_FRAME_BYTES = 4 << 20
"""Replies that a worker keeps to itself are far fewer."""
DEFAULT_DECODER = "beholder.pixels.decode:prepare"


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What every worker of a pool is started with.

    Attributes:
        options: which pixels.
        timeout_s: for one picture, reading and decoding.
        max_bytes: of one picture.
        memory_bytes: address space a worker may use beyond what it starts with; 0: no limit. Linux only.
        num_readers: URLs that one worker reads at the same time.
        nice: added to the workers' niceness.
        decoder: "package.module:function" of type `picture.Prepare`.
    """

    options: PixelOptions
    timeout_s: float
    max_bytes: int
    memory_bytes: int
    num_readers: int
    nice: int
    decoder: str


class WorkerProcess(ChildProcess):
    """A running worker. Everything here is called by the pool's dispatching thread only."""

    def __init__(self, number: int, settings: WorkerSettings, places: Mapping[str, int]) -> None:
        """Start it. `places`: the descriptors "slots" and "spool", and the sizes "num_slots" and "num_workers"."""
        config = {**asdict(settings), "number": number, **places}
        try:
            super().__init__("beholder.workers.worker", config, (places["slots"], places["spool"]))
        except (OSError, ValueError) as error:
            raise BeholderError(f"a decode worker cannot be started ({error}); use fewer workers, or none (0)") from error
        self.socket.setblocking(False)
        self.number = number
        self.said_hello = False
        self.heard = monotonic()
        """When it last sent something, or was given something while it had nothing to do."""
        self.talks_nonsense = False
        """Whether it has sent what no worker sends."""
        self._outgoing = bytearray()
        self._incoming = bytearray()

    @property
    def has_outgoing(self) -> bool:
        """Whether requests wait for room in the socket."""
        return bool(self._outgoing)

    def send(self, requests: list[Request]) -> None:
        """Queue requests and send what the socket takes."""
        self._outgoing += pack_requests(requests)
        self.push()

    def push(self) -> None:
        """Send what the socket takes of what is queued. A dead worker is noticed by `receive`, not here."""
        try:
            while self._outgoing:
                del self._outgoing[: self.socket.send(self._outgoing)]
        except BlockingIOError:
            pass
        except OSError:
            self._outgoing.clear()

    def receive(self) -> list[Reply] | None:
        """Replies that have come; None when the worker is gone and nothing is left, or says what no worker says."""
        data = self._read()
        return self._replies(data) if data is not None else []

    def _read(self) -> bytes | None:
        """What is in the socket; b"": it is at its end; None: nothing."""
        try:
            return self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _replies(self, data: bytes) -> list[Reply] | None:
        if not data or self.talks_nonsense:
            return None
        self.heard = monotonic()
        self._incoming += data
        try:
            found = [reply for body in take_frames(self._incoming) for reply in unpack_replies(body)]
        except (ValueError, LookupError, struct.error):  # its memory was overwritten
            self.talks_nonsense = True
            return None
        self.talks_nonsense = len(self._incoming) > _MOST_FRAME_BYTES
        return found

    def end(self, patience_s: float = END_S) -> tuple[list[Reply], int | None]:
        """Kill it, wait for its end, and give its last whole replies and its exit status (negative: the signal)."""
        status = self.stop(patience_s)
        replies: list[Reply] = []
        while data := self._read():
            replies += self._replies(data) or []
        return replies, status
