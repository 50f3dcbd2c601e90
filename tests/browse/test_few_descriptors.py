"""Conditions where descriptors run out, before a process is started or just after: one line at most, and the next one works."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import gc, os, resource, sys, tempfile, threading
from pathlib import Path
import pyarrow as pa
from beholder.browse.conditions import Conditions
from beholder.browse.rows import RowStore
from beholder.errors import BeholderError
from beholder.scoreset.score_set import open_scores
from beholder.workers.child_process import ChildProcess

most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
num_lowered = 0

def num_open():
    gc.collect()
    return len(os.listdir("/proc/self/fd")) - 1  # but for the one that lists

def leave(spare):
    resource.setrlimit(resource.RLIMIT_NOFILE, (num_open() + spare, hard))

def lift():
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))

def lower_once_started(frame, event, _):
    global num_lowered
    if event == "return" and frame.f_code is ChildProcess.__init__.__code__:
        num_lowered += 1
        leave(0)

def ask():
    try:
        print("found", int(conditions.matching(["width < 5"]).sum()))
    except BeholderError as error:
        print(error)

table = pa.table({"sample": [f"{i}.jpg" for i in range(30)], "aesthetic_score": [5.0] * 30, "width": list(range(30))})
with tempfile.TemporaryDirectory() as folder:
    with open_scores(table) as scores:
        conditions = Conditions(RowStore(scores, Path(folder)), Path(folder), threads=1)
    if sys.argv[1] == "before":
        for spare in (2, 4):
            before = num_open()
            leave(spare)
            ask()
            lift()
            assert num_open() == before
    else:
        threading.setprofile(lower_once_started)
        ask()
        threading.setprofile(None)
        lift()
        assert num_lowered == 1
    ask()
    conditions.close()
print("done")
"""
NONE = "no process can be started to work out conditions in ([Errno 24] Too many open files)"
ADVICE = "mend that (memory, ulimit -u, ulimit -n), then try again"


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("before", [f"{NONE}; {ADVICE}"] * 2 + ["found 5"]),
        pytest.param("after", ["found 5", "found 5"], marks=pytest.mark.slow),
    ],
)
def test_conditions_outlive_a_lack_of_descriptors(when: str, said: list[str]) -> None:
    line = [sys.executable, "-c", PROGRAM, when]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=100)
    assert (done.stdout.splitlines(), done.stderr) == ([*said, "done"], "")
