"""What a pool and its workers say to each other over a socket, and the memory that they share."""

from __future__ import annotations

import mmap
import os
import pickle
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from beholder.columns import PictureReason
from beholder.io.writing import write_at
from beholder.pixels.picture import PixelOptions
from beholder.sources.reader import DIGEST_BYTES

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

RECEIVE_BYTES = 1 << 18
"""Read from a socket at once."""
HELLO = (1 << 63) - 1
"""Ticket of the first reply of a worker, whose message is the path of the package it runs."""
_LENGTH = struct.Struct("<I")
_MOST_FRAME_BYTES = 256 << 20
"""Thumbnails are far smaller, and larger pictures go through the spool."""
_REPLY = struct.Struct(f"<QBHIIQB{DIGEST_BYTES}sHI")
_REASONS = tuple(PictureReason)
_CODES = {reason: code for code, reason in enumerate(_REASONS, start=1)}
_MOST_TEXT_BYTES = 4000
_NOW = struct.Struct("<dq")
_SPENT = struct.Struct("<ddd")
_CELL = struct.Struct("<dqddd")
_CELL_BYTES = 64
_PAGE_BYTES = 4096
_SPOOL_STRIDE_BYTES = 1 << 32
_KEPT_SPOOL_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What every worker of a pool is started with.

    Attributes:
        decoder: "package.module:function": of type `picture.Prepare`, or `thumbnail.make_thumbnail` and the like.
        pixels: which pixels are made; None: thumbnails are made, each as its request says.
        timeout_s: for one picture, reading and decoding.
        max_bytes: of one picture.
        memory_bytes: address space a worker may use beyond what it starts with; 0: no limit. Linux only.
        num_readers: URLs that one worker reads at the same time.
        stands_back: whether it leaves cores first to others.
    """

    decoder: str
    pixels: PixelOptions | None = None
    timeout_s: float
    max_bytes: int = 1 << 30
    memory_bytes: int
    num_readers: int = 1
    stands_back: bool = False


@dataclass(slots=True)
class Request:
    """One picture to make: `data` (sent along), or `spooled` (place in the spool's file), or a path says where it is.

    Attributes:
        slot: where its pixels go.
        known: see `PictureRef`.
        how: keywords for the maker of thumbnails.
        spent_s: seconds of the picture's time that are gone.
    """

    ticket: int
    slot: int
    data: bytes | None = None
    spooled: tuple[int, int] | None = None
    path: str | None = None
    offset: int | None = None
    length: int | None = None
    known: bytes | None = None
    how: dict[str, Any] | None = None
    spent_s: float = 0.0


@dataclass(slots=True)
class Reply:
    """What became of one request; without a `reason`, its pixels are in its slot or a thumbnail in `data`.

    Attributes:
        message: why there is nothing; of a thumbnail, its media type.
        traits: what makes presets differ; of a thumbnail, whether it was turned.
        num_bytes: of the picture, that were read.
        digest: of a file of its own that could be read, `reader.contents_digest`.
        are_known: whether its contents are those that were known, so that nothing was made.
    """

    ticket: int = 0
    reason: PictureReason | None = None
    message: str = ""
    width: int = 0
    height: int = 0
    traits: int = 0
    num_bytes: int = 0
    digest: bytes | None = None
    are_known: bool = False
    data: bytes = b""


def frame(body: bytes) -> bytes:
    """A body as it goes over the socket."""
    return _LENGTH.pack(len(body)) + body


def take_frames(buffer: bytearray) -> list[bytes]:
    """Remove every whole frame from the front of `buffer`; their bodies. Raises ValueError for one that is too long."""
    at = 0
    bodies = []
    while len(buffer) - at >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(buffer, at)
        if length > _MOST_FRAME_BYTES:
            raise ValueError("no frame is that long")
        if len(buffer) - at - _LENGTH.size < length:
            break
        at += _LENGTH.size
        bodies.append(bytes(buffer[at : at + length]))
        at += length
    del buffer[:at]
    return bodies


def pack_requests(requests: list[Request]) -> bytes:
    """One frame. Only requests are pickled: they go from the pool to its workers, never back."""
    rows = [(r.ticket, r.slot, r.data, r.spooled, r.path, r.offset, r.length, r.known, r.how, r.spent_s) for r in requests]
    return frame(pickle.dumps(rows, protocol=5))


def unpack_requests(body: bytes) -> list[Request]:
    """The requests of a frame's body."""
    return [Request(*row) for row in pickle.loads(body)]


def pack_reply(reply: Reply) -> bytes:
    """A reply as plain bytes: what comes back from a process that reads hostile files is never unpickled."""
    text = reply.message.encode("utf-8", "replace")[:_MOST_TEXT_BYTES]
    code = 0 if reply.reason is None else _CODES[reply.reason]
    width, height = min(reply.width, 0xFFFFFFFF), min(reply.height, 0xFFFFFFFF)
    seen = 0 if reply.digest is None else 2 if reply.are_known else 1
    facts = (reply.traits & 0xFFFF, width, height, reply.num_bytes, seen, reply.digest or b"")
    return _REPLY.pack(reply.ticket, code, *facts, len(text), len(reply.data)) + text + reply.data


def unpack_replies(body: bytes) -> Iterator[Reply]:
    """The replies of a frame's body, at least one. Raises ValueError, LookupError, struct.error: they are none."""
    at = 0
    while at < len(body) or not body:
        ticket, code, traits, width, height, num_bytes, seen, digest, text_length, length = _REPLY.unpack_from(body, at)
        at += _REPLY.size
        reason = _REASONS[code - 1] if code else None
        text = body[at : at + text_length].decode("utf-8", "replace") if text_length else ""
        at += text_length
        data = body[at : at + length] if length else b""
        at += length
        if at > len(body):
            raise ValueError("a reply is longer than its frame")
        yield Reply(ticket, reason, text, width, height, traits, num_bytes, digest if seen else None, seen > 1, data)


class WorkerState(NamedTuple):
    """What a worker says of itself.

    Attributes:
        started: when the picture at hand was begun, on the clock of `time.monotonic`.
        ticket: the picture at hand; 0: none.
        read_s, decode_s, idle_s: seconds spent so far on reading (or waiting for it), decoding, waiting for work.
    """

    started: float
    ticket: int
    read_s: float
    decode_s: float
    idle_s: float


class SharedSlots:
    """One shared file, mapped by the pool and by each worker: state cells first, then the slots for pixels."""

    def __init__(self, handle: int, *, num_workers: int, num_slots: int, size_px: int) -> None:
        self.handle = handle
        first = -(-num_workers * _CELL_BYTES // _PAGE_BYTES) * _PAGE_BYTES
        slot_bytes = size_px * size_px * 3
        total = first + num_slots * slot_bytes
        if os.fstat(handle).st_size < total:
            os.ftruncate(handle, total)
        self._memory = mmap.mmap(handle, total)
        if num_slots:  # else numpy is not even imported
            import numpy as np

            pixels = np.frombuffer(self._memory, np.uint8, num_slots * slot_bytes, first)
            self.pixels: npt.NDArray[np.uint8] = pixels.reshape(num_slots, size_px, size_px, 3)

    def begin(self, worker: int, started: float, ticket: int) -> None:
        """Say which picture is at hand (0: none)."""
        _NOW.pack_into(self._memory, worker * _CELL_BYTES, started, ticket)

    def spend(self, worker: int, read_s: float, decode_s: float, idle_s: float) -> None:
        """Say how long what took so far."""
        _SPENT.pack_into(self._memory, worker * _CELL_BYTES + _NOW.size, read_s, decode_s, idle_s)

    def state(self, worker: int) -> WorkerState:
        """What the worker said last."""
        return WorkerState(*_CELL.unpack_from(self._memory, worker * _CELL_BYTES))

    def clear(self, worker: int) -> None:
        """Forget what a worker said; for its successor."""
        _CELL.pack_into(self._memory, worker * _CELL_BYTES, 0.0, 0, 0.0, 0.0, 0.0)


class Spool:
    """A shared file through which bytes of pictures go to workers: `pwrite` here, `pread` there; places are used again."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self._free: list[int] = []
        self._num_places = 0

    def put(self, data: bytes) -> int:
        """Write `data` to a free place and return the place; it is taken until `release`."""
        place = self._free.pop() if self._free else self._num_places
        self._num_places += place == self._num_places
        write_at(self.handle, data, place * _SPOOL_STRIDE_BYTES)
        return place

    def get(self, place: int, num_bytes: int) -> bytes:
        """Exactly the bytes that were put there. Raises EOFError: they are not there."""
        offset = place * _SPOOL_STRIDE_BYTES
        data = os.pread(self.handle, num_bytes, offset)
        while len(data) < num_bytes:
            more = os.pread(self.handle, num_bytes - len(data), offset + len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def release(self, place: int, num_bytes: int) -> None:
        """Give a place back; the memory behind large pictures goes back to the system."""
        if num_bytes > _KEPT_SPOOL_BYTES:
            _punch_hole(self.handle, place * _SPOOL_STRIDE_BYTES, num_bytes)
        self._free.append(place)


def _punch_hole(handle: int, start: int, num_bytes: int) -> None:
    """Free the memory of a range of a file, where the system can."""
    import ctypes

    fallocate = getattr(ctypes.CDLL(None), "fallocate64", None) if sys.platform.startswith("linux") else None
    if fallocate is not None:
        fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        keep_size, punch_hole = 1, 2
        fallocate(handle, keep_size | punch_hole, start, num_bytes)  # a refusal only costs memory
