"""A wish for a thumbnail or what became of it in, frames on the socket between a pool and a worker out, and back."""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any

from beholder.pixels.picture import PictureError
from beholder.pixels.thumbnail import MEDIA_TYPES, SQUARE_TYPE, Thumbnail, ThumbnailKind
from beholder.workers.messages import LENGTH, Reply, pack_reply, unpack_replies

_RECEIVE_BYTES = 1 << 20
_LEAST_WAIT_S = 0.001
"""What has come is taken even when time is up: this process may have been stopped meanwhile."""
_MOST_REPLY_BYTES = 1 << 16
_MOST_THUMBNAIL_BYTES = 1 << 28


class Gone(Exception):  # noqa: N818
    """The other end is closed, or says what cannot be."""


class Nonsense(Gone):
    """The other end says what cannot be."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be made of a picture's bytes; `longest_px`, `quality`, `kind` as `make_thumbnail` takes them.

    Attributes:
        timeout_s: after that and a grace the worker ends by itself.
        pixels: as `make_thumbnail` takes them, JSON-ready; None: a small picture is made.
    """

    longest_px: int
    quality: int
    kind: ThumbnailKind
    timeout_s: float
    pixels: dict[str, Any] | None = None


def send_wish(connection: socket.socket, wish: Wish, data: bytes, deadline: float | None = None) -> None:
    """Ask for a thumbnail. Raises Gone, TimeoutError (past `deadline` of `time.monotonic`)."""
    _send(connection, json.dumps(asdict(wish)).encode(), deadline)
    _send(connection, data, deadline)


def receive_wish(connection: socket.socket) -> tuple[Wish, bytes]:
    """What is asked for and the picture's bytes. Raises Gone."""
    return Wish(**json.loads(_receive(connection))), _receive(connection)


def send_outcome(connection: socket.socket, reply: Reply, data: bytes = b"") -> None:
    """Tell what became of it; a thumbnail's media type stands in the reply's message, its bytes follow. Raises Gone."""
    _send(connection, pack_reply(reply))
    if reply.num_bytes:
        _send(connection, data)


def receive_reply(connection: socket.socket, deadline: float) -> Reply:
    """What a worker says. Raises Gone, TimeoutError."""
    try:
        (reply,) = unpack_replies(_receive(connection, deadline, _MOST_REPLY_BYTES))
    except (ValueError, LookupError, struct.error) as error:  # its memory was overwritten
        raise Nonsense from error
    return reply


def receive_outcome(connection: socket.socket, deadline: float) -> Thumbnail | PictureError:
    """What became of it; nothing else is believed of a process that reads hostile files. Raises Gone, TimeoutError."""
    reply = receive_reply(connection, deadline)
    if reply.reason is not None:
        return PictureError(reply.reason, reply.message)
    if reply.message not in (*MEDIA_TYPES.values(), SQUARE_TYPE) or not 0 < reply.num_bytes <= _MOST_THUMBNAIL_BYTES:
        raise Nonsense
    data = _receive(connection, deadline, reply.num_bytes)
    return Thumbnail(data, reply.message, reply.width, reply.height, bool(reply.traits))


def _wait_until(connection: socket.socket, deadline: float | None) -> None:
    connection.settimeout(None if deadline is None else max(deadline - monotonic(), _LEAST_WAIT_S))


def _send(connection: socket.socket, body: bytes, deadline: float | None = None) -> None:
    """One frame."""
    try:
        for piece in (LENGTH.pack(len(body)), body):
            _wait_until(connection, deadline)
            connection.sendall(piece)
    except TimeoutError:
        raise
    except OSError as error:
        raise Gone from error


def _receive(connection: socket.socket, deadline: float | None = None, most_bytes: int | None = None) -> bytes:
    """The body of one frame."""
    (length,) = LENGTH.unpack(_receive_exactly(connection, LENGTH.size, deadline))
    if most_bytes is not None and length > most_bytes:
        raise Nonsense
    return _receive_exactly(connection, length, deadline)


def _receive_exactly(connection: socket.socket, num_bytes: int, deadline: float | None) -> bytes:
    found = bytearray(num_bytes)
    view, at = memoryview(found), 0
    try:
        while at < num_bytes:
            _wait_until(connection, deadline)
            received = connection.recv_into(view[at : at + _RECEIVE_BYTES])
            if not received:
                raise Gone
            at += received
    except TimeoutError:
        raise
    except OSError as error:
        raise Gone from error
    return bytes(found)
