"""Settings in, one decode worker process out, as the pool sees it: started, fed, heard, ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from time import monotonic

from beholder.errors import BeholderError
from beholder.images.child_process import ChildProcess
from beholder.images.messages import RECEIVE_BYTES, Reply, Request, pack_requests, take_frames, unpack_replies
from beholder.images.picture import PixelOptions

DEFAULT_DECODER = "beholder.images.decode:prepare"


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
            super().__init__("beholder.images.worker", config, (places["slots"], places["spool"]))
        except (OSError, ValueError) as error:
            raise BeholderError(f"a decode worker cannot be started ({error}); use fewer workers, or none (0)") from error
        self.socket.setblocking(False)
        self.number = number
        self.said_hello = False
        self.heard = monotonic()
        """When it last sent something, or was given something while it had nothing to do."""
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
        """Replies that have come; None when the worker is gone and nothing is left."""
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        self.heard = monotonic()
        self._incoming += data
        return [reply for body in take_frames(self._incoming) for reply in unpack_replies(body)]

    def end(self) -> tuple[list[Reply], int | None]:
        """Kill it, wait for its end, and give its last whole replies and its exit status (negative: the signal)."""
        status = self.stop()
        replies: list[Reply] = []
        while found := self.receive():
            replies += found
        return replies, status
