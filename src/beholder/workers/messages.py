"""Requests and replies of the decode pool in, bytes for the pipe between it and a worker out, and back."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from beholder.columns import PictureReason
from beholder.pixels.picture import DIGEST_BYTES

LENGTH = struct.Struct("<I")
RECEIVE_BYTES = 1 << 18
"""Read from a socket at once."""
_REPLY = struct.Struct(f"<QBHIIQB{DIGEST_BYTES}sH")
_REASONS = tuple(PictureReason)
_CODES = {reason: code for code, reason in enumerate(_REASONS, start=1)}
_MOST_TEXT_BYTES = 4000
HELLO = (1 << 63) - 1
"""Ticket of the first reply of a worker, whose message is the path of the package it runs."""


@dataclass(slots=True)
class Request:
    """One picture to make: `data` (sent along), or `spooled` (place in the spool's file), or a path says where it is.

    `known`: see `PictureRef`.
    """

    ticket: int
    slot: int
    data: bytes | None = None
    spooled: tuple[int, int] | None = None
    path: str | None = None
    offset: int | None = None
    length: int | None = None
    known: bytes | None = None


@dataclass(slots=True)
class Reply:
    """What became of one request; the pixels are in its slot unless there is a `reason`, or its contents `are_known`.

    `digest`: of a file of its own that could be read, `picture.contents_digest`.
    """

    ticket: int
    reason: PictureReason | None
    message: str
    width: int
    height: int
    traits: int
    num_bytes: int
    digest: bytes | None = None
    are_known: bool = False


def pack_requests(requests: list[Request]) -> bytes:
    """One frame. Only requests are pickled: they go from the pool to its workers, never back."""
    rows = [(r.ticket, r.slot, r.data, r.spooled, r.path, r.offset, r.length, r.known) for r in requests]
    body = pickle.dumps(rows, protocol=5)
    return LENGTH.pack(len(body)) + body


def unpack_requests(body: Any) -> list[Request]:
    """The requests of a frame's body."""
    return [Request(*row) for row in pickle.loads(body)]


def pack_reply(reply: Reply) -> bytes:
    """A reply as plain bytes: what comes back from a process that reads hostile files is never unpickled."""
    text = reply.message.encode("utf-8", "replace")[:_MOST_TEXT_BYTES]
    code = 0 if reply.reason is None else _CODES[reply.reason]
    width, height = min(reply.width, 0xFFFFFFFF), min(reply.height, 0xFFFFFFFF)
    seen = 0 if reply.digest is None else 2 if reply.are_known else 1
    head = (reply.ticket, code, reply.traits & 0xFFFF, width, height, reply.num_bytes, seen, reply.digest or b"", len(text))
    return _REPLY.pack(*head) + text


def unpack_replies(body: bytes) -> Iterator[Reply]:
    """The replies of a frame's body."""
    at = 0
    while at < len(body):
        ticket, code, traits, width, height, num_bytes, seen, digest, length = _REPLY.unpack_from(body, at)
        at += _REPLY.size
        reason = _REASONS[code - 1] if code else None
        text = body[at : at + length].decode("utf-8", "replace") if length else ""
        at += length
        yield Reply(ticket, reason, text, width, height, traits, num_bytes, digest if seen else None, seen > 1)


def take_frames(buffer: bytearray) -> list[bytes]:
    """Remove every whole frame from the front of `buffer`; their bodies."""
    at = 0
    bodies = []
    while len(buffer) - at >= LENGTH.size:
        (length,) = LENGTH.unpack_from(buffer, at)
        if len(buffer) - at - LENGTH.size < length:
            break
        at += LENGTH.size
        bodies.append(bytes(buffer[at : at + length]))
        at += length
    del buffer[:at]
    return bodies
