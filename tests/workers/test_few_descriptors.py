"""Pools where the system gives too few descriptors: one line each time, none left behind, and work once there are more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PROGRAM = f"""
import gc, os, resource, sys
sys.path.insert(0, {str(TESTS)!r})
from beholder.errors import BeholderError
from beholder.pixels.picture import PixelOptions
from beholder.pixels.thumbnail import make_thumbnail
from beholder.sources.reader import PictureRef
from beholder.workers.pool import DecodePool, ThumbnailPool
from oracles.made_pictures import encoded, smooth

spare, times = int(sys.argv[2]), int(sys.argv[3])
good = encoded(smooth(90, 60), "PNG")
expected = make_thumbnail(good)
most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

def num_open():
    gc.collect()
    return len(os.listdir("/proc/self/fd")) - 1  # but for the one that lists

def tried(make):
    before = num_open()
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + spare, hard))
    for _ in range(times):
        text = "made"
        try:
            make()
        except BeholderError as error:
            text = str(error)
        print(num_open() - before, text)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))

def thumbnails():
    with ThumbnailPool(num_workers=1) as pool:
        tried(lambda: pool.make(good))
        assert pool.make(good) == expected

def pixels():
    options = PixelOptions(size_px=32)
    refs = [("a", PictureRef(data=good))]
    with DecodePool(options, num_workers=0) as here:
        (wanted,) = here.map(iter(refs))

    def made():
        with DecodePool(options, num_workers=1, num_slots=4) as pool:
            for outcome in pool.map(iter(refs)):
                assert outcome.error is None and (outcome.pixels == wanted.pixels).all()
                outcome.release()
    made()
    tried(made)
    made()

{{"thumbnails": thumbnails, "pixels": pixels}}[sys.argv[1]]()
print("done")
"""


@pytest.mark.parametrize(
    ("pool", "spare", "times", "most_left", "advice"),
    [
        ("thumbnails", 3, 10, 0, "mend that (memory, ulimit -n, ulimit -u, ulimit -v), then try again"),
        ("thumbnails", 8, 2, 1, "mend that (memory, ulimit -n, ulimit -u, ulimit -v), then try again"),
        pytest.param("pixels", 3, 4, 0, "mend that, or use none (0 workers)", marks=pytest.mark.slow),
        pytest.param("pixels", 8, 4, 0, "mend that, or use none (0 workers)", marks=pytest.mark.slow),
    ],
)
def test_too_few_descriptors_are_one_clear_line(pool: str, spare: int, times: int, most_left: int, advice: str) -> None:
    """With 3 the pool itself cannot be made, with 8 its workers cannot; then what it shares with them stays as long as it."""
    line = [sys.executable, "-c", PROGRAM, pool, str(spare), str(times)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=100)
    assert done.stderr == ""
    *failures, last = done.stdout.splitlines()
    assert last == "done"
    assert len(failures) == times
    for failure in failures:
        left, text = failure.split(" ", 1)
        assert int(left) <= most_left
        assert text == f"decode workers cannot be started ([Errno 24] Too many open files); {advice}"
