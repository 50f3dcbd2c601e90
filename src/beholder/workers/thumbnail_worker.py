"""Runs in a process of its own: the bytes of a picture in over a socket, a thumbnail or the reason why there is none back."""

from __future__ import annotations

import os
import signal
import socket
from typing import Any, Protocol

import beholder
from beholder.pixels.picture import PixelOptions
from beholder.pixels.thumbnail import Thumbnail, ThumbnailKind
from beholder.workers.messages import HELLO, Reply
from beholder.workers.thumbnail_messages import Gone, Wish, receive_wish, send_outcome
from beholder.workers.worker_setup import GRACE_S, MemoryLimit, failure_of, function_of, set_up_process


class MakeThumbnail(Protocol):
    """`pixels.thumbnail.make_thumbnail`: the bytes of a file -> a small picture. Raises PictureError."""

    def __call__(self, data: bytes, *, longest_px: int, quality: int, kind: ThumbnailKind, **seen: PixelOptions) -> Thumbnail:
        """Make it; `pixels` is there only where the square for a tower is wanted."""
        ...


def main(config: dict[str, Any]) -> None:
    """Make one thumbnail after the other until the pool closes its end of the socket; never returns."""
    set_up_process(config["parent"], 0)
    make: MakeThumbnail = function_of(config["decoder"])
    connection = socket.socket(fileno=config["socket"])
    memory = MemoryLimit(config["memory_bytes"])
    try:
        send_outcome(connection, Reply(HELLO, None, str(beholder.__file__), 0, 0, 0, 0))
        while True:
            signal.setitimer(signal.ITIMER_REAL, 0)
            wish, data = receive_wish(connection)
            signal.setitimer(signal.ITIMER_REAL, wish.timeout_s + GRACE_S)
            memory.begin(data)
            _serve(connection, make, wish, data)
    except Gone:
        os._exit(0)


def _serve(connection: socket.socket, make: MakeThumbnail, wish: Wish, data: bytes) -> None:
    try:
        seen = {} if wish.pixels is None else {"pixels": PixelOptions(**wish.pixels)}
        found = make(data, longest_px=wish.longest_px, quality=wish.quality, kind=wish.kind, **seen)
    except Exception as error:  # the picture is lost, nothing else
        reason, text = failure_of(error)
        send_outcome(connection, Reply(0, reason, text, 0, 0, 0, 0))
    else:
        reply = Reply(0, None, found.media_type, found.width, found.height, int(found.is_turned), len(found.data))
        send_outcome(connection, reply, found.data)
