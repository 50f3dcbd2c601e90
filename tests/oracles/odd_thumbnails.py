"""A maker of thumbnails that does what stands behind the picture: nothing odd, or it crashes, hangs, eats memory, fails.

Workers of a thumbnail pool load it by name. The pictures are whole ones, to which an order is added: any other program shows
them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from beholder.columns import PictureReason
from beholder.pixels.picture import PictureError
from beholder.pixels.thumbnail import Thumbnail, make_thumbnail

NAME = "oracles.odd_thumbnails:make"
EATEN: list[bytearray] = []
_MARK = b"<an order to the decoder>"


def ordered(picture: bytes, order: str, argument: str = "") -> bytes:
    """The picture with an order: one of the methods below."""
    return picture + _MARK + f"{order}:{argument}".encode()


def make(data: bytes, **how: Any) -> Thumbnail:
    """Do what is ordered; then the thumbnail of the picture itself."""
    picture, _, order = data.partition(_MARK)
    if order:
        name, _, argument = order.decode().partition(":")
        getattr(_Orders, name)(argument)
    return make_thumbnail(picture, **how)


class _Orders:
    @staticmethod
    def segfault(_: str) -> None:
        ctypes.string_at(0)

    @staticmethod
    def abort(_: str) -> None:
        os.abort()

    @staticmethod
    def hang(_: str) -> None:
        while True:
            time.sleep(60)

    @staticmethod
    def spin(_: str) -> None:
        """As a decoder in a C library does: it holds the interpreter, and no signal handler of Python's gets its turn."""
        libc = ctypes.PyDLL(None)
        while True:
            libc.usleep(1000)

    @staticmethod
    def leave(status: str) -> None:
        print("last words", file=sys.stderr, flush=True)
        os._exit(int(status))

    @staticmethod
    def eat(_: str) -> None:
        while True:
            EATEN.append(bytearray(16 << 20))

    @staticmethod
    def fail(_: str) -> None:
        raise ZeroDivisionError("told to fail")

    @staticmethod
    def refuse(_: str) -> None:
        raise PictureError(PictureReason.DAMAGED, "told to be damaged")

    @staticmethod
    def die_at_first(marks: str) -> None:
        """As when the system kills workers for memory that others use: four times."""
        with Path(marks).open("a") as file:
            if file.tell() < 4:
                file.write("x")
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)

    @staticmethod
    def stop(_: str) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    @staticmethod
    def note(path: str) -> None:
        """Write down when it begins and ends."""
        with Path(path).open("a") as file:
            print("begins", file=file, flush=True)
            time.sleep(0.05)
            print("ends", file=file, flush=True)

    @staticmethod
    def spam(_: str) -> None:
        sys.stderr.write("x" * (3 << 20) + "\n")
        sys.stderr.flush()

    @staticmethod
    def lie(kind: str) -> None:
        """Write on the socket to the pool what no worker says, as code that took a worker over could."""
        import json
        import socket
        import struct

        from beholder.workers.protocol import Reply, pack_reply

        body = {
            "html": pack_reply(Reply(message="text/html", width=5, height=5, data=b"<script>")),
            "huge": pack_reply(Reply(message="image/webp", width=5, height=5, data=bytes(1000)))[:-500],
            "garbage": b"\xff" * 31,
            "nothing": b"",
        }[kind]
        connection = socket.socket(fileno=os.dup(json.loads(sys.argv[1])["socket"]))
        connection.sendall(struct.pack("<I", len(body)) + body)

    @staticmethod
    def check(_: str) -> None:
        """What a worker is: it loads nothing heavy, Ctrl-C is not for it, and it goes first when memory runs out."""
        assert not {"numpy", "torch", "numba", "pyarrow", "fsspec"} & set(sys.modules)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert os.environ["OMP_NUM_THREADS"] == "1"
        assert Path("/proc/self/oom_score_adj").read_text().strip() == "500"


if os.environ.get("ODD_THUMBNAILS_FAIL_TO_START"):
    raise ImportError("told not to start")
