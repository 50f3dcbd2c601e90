"""A decoder that does what the bytes say: makes pixels from them, or sleeps, crashes, exits, eats memory, fails.

Workers of a decode pool load it by name, so that the pool is tested with every kind of misbehaviour.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

from beholder.columns import PictureReason
from beholder.pixels.picture import PictureError, PixelOptions, Pixels, Trait

EATEN: list[bytearray] = []


def prepare(data: bytes, options: PixelOptions) -> Pixels:
    """Pixels that are a function of the bytes alone, unless they begin with an order."""
    order, _, rest = data.partition(b":")
    if order == b"sleep":
        time.sleep(float(rest.split(b":")[0]))
    elif order == b"signal":
        os.kill(os.getpid(), int(rest))
    elif order == b"exit":
        print("last words", file=sys.stderr, flush=True)
        os._exit(int(rest))
    elif order == b"killed":  # its worker is killed the first few times: their number, and a file that counts them
        times, _, path = rest.partition(b":")
        with Path(os.fsdecode(path)).open("ab") as marks:
            if marks.tell() < int(times):
                marks.write(b"x")
                marks.flush()
                os.kill(os.getpid(), signal.SIGKILL)
    elif order == b"later":  # is made, and does harm that shows a little later
        threading.Timer(0.03, ctypes.string_at, (0,)).start()
    elif order == b"nonsense":  # writes on the socket to the pool what no worker says
        os.write(json.loads(sys.argv[1])["socket"], b"\x20\0\0\0" + b"\xff" * 32)
    elif order == b"eat":
        while True:
            EATEN.append(bytearray(64 << 20))
    elif order == b"bad":
        raise PictureError(PictureReason.DAMAGED, "told to be damaged")
    elif order == b"bug":
        raise ZeroDivisionError("told to fail")
    elif order == b"environment":
        assert "torch" not in sys.modules
        assert os.environ["OMP_NUM_THREADS"] == "1"
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    elif order == b"spam":
        sys.stderr.write("x" * (3 << 20) + "\n")
        sys.stderr.flush()
    return Pixels(pixels_of(data, options.size_px), len(data), len(data) % 7 + 1, Trait(len(data) % 32))


def pixels_of(data: bytes, size_px: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(data).digest()[:8], "little")
    return np.random.default_rng(seed).integers(0, 256, (size_px, size_px, 3), np.uint8)


def room(data: bytes, options: PixelOptions) -> Pixels:
    """The width that comes out: how many MiB a picture of these bytes may take. They are reserved, not used."""
    taken = []
    try:
        while True:
            taken.append(mmap.mmap(-1, 16 << 20))
    except (OSError, MemoryError):
        num_mib = 16 * len(taken)
    for piece in taken:
        piece.close()
    return Pixels(np.zeros((options.size_px, options.size_px, 3), np.uint8), num_mib, 1, Trait.NONE)


def trivial(data: bytes, options: PixelOptions) -> Pixels:
    """As little work as possible."""
    return Pixels(np.zeros((options.size_px, options.size_px, 3), np.uint8), 1, 1, Trait.NONE)


def broken_start(data: bytes, options: PixelOptions) -> Pixels:
    raise AssertionError("never called")


if os.environ.get("ODD_DECODERS_FAIL_TO_START"):
    raise ImportError("told not to start")
