"""The lock of a run's folder: one holder at a time, who is named; taken over when it is gone, and only then."""

from __future__ import annotations

import getpass
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from beholder import OutputError
from beholder.io.processes import this_machine
from beholder.io.temporaries import own_name
from beholder.scoring import lock
from beholder.scoring.folder import RunFolder
from oracles.processes import NO_FLOCK
from oracles.program import beholder
from oracles.s3 import BUCKET

HOLDER = (
    "import sys, time; from beholder.scoring.folder import RunFolder\n"
    "with RunFolder(sys.argv[1]).locked(kind=sys.argv[2]):\n    print('held', flush=True); time.sleep(60)"
)


@pytest.fixture(params=["flock", "lease"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["here", pytest.param("s3", marks=pytest.mark.slow)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The root of a folder that only leases lock: a local one, and one in a bucket."""
    if request.param == "s3":
        request.getfixturevalue("s3")
    return str(tmp_path / "run") if request.param == "here" else f"s3://{BUCKET}/run"


def put(root: str, **changes: Any) -> None:
    """A lease of another machine's, or as changed."""
    fs, inner = fsspec.url_to_fs(root)
    holder = json.loads(lock.Holder.here(0.2).data()) | {"host": "elsewhere", "machine": "other", "token": "x"} | changes
    fs.makedirs(inner, exist_ok=True)
    fs.pipe_file(f"{inner}/.lease", json.dumps(holder).encode())


def names(root: str) -> list[str]:
    fs, inner = fsspec.url_to_fs(root)
    fs.invalidate_cache()
    return [name.removeprefix(inner.rstrip("/") + "/") for name in fs.find(inner)]


def test_a_second_one_is_refused_and_told_who_has_it(tmp_path: Path, kind: Any) -> None:
    with RunFolder(tmp_path / "run").locked(kind=kind):
        with pytest.raises(OutputError) as caught, RunFolder(tmp_path / "run").locked(kind=kind):
            pytest.fail("two at once")
        who = f"process {os.getpid()} of {getpass.getuser()} on {socket.gethostname()}, since 20"
        assert who in str(caught.value)
        assert "another run is writing" in str(caught.value)
        assert "wait for it, or choose another output" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not list((tmp_path / "run").iterdir()), "nothing is left"
    with RunFolder(tmp_path / "run").locked(kind=kind):
        pass


def test_it_is_kept_out_by_a_process_until_that_is_killed(root: str) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, root, "lease"], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match=f"process {holder.pid} of"), RunFolder(root).locked(kind="lease"):
            pytest.fail("two at once")
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=30)
    assert names(root) == [".lease"]
    begun = time.monotonic()
    with RunFolder(root).locked(kind="lease"):
        assert time.monotonic() - begun < lock.INTERVAL_S, "of a process of this machine that is surely gone"
    assert names(root) == []


def test_another_machines_is_taken_over_when_it_is_not_renewed(root: str) -> None:
    put(root)
    told = r"on elsewhere, since .*; if that run is gone, this works 1 s after"
    with pytest.raises(OutputError, match=told), RunFolder(root).locked(kind="lease", interval_s=0.2):
        pytest.fail("it was written just now")
    time.sleep(0.2 * lock.PATIENCE + (1.2 if root.startswith("s3") else 0.1))  # S3 tells whole seconds
    with RunFolder(root).locked(kind="lease", interval_s=0.2):
        assert names(root) == [".lease"]
    assert names(root) == []


STRANGE = (
    {"since": "yesterday"}, {"since": "2026-01-01T00:00:00"}, {"interval_s": float("nan")}, {"interval_s": 10**400},
    {"pid": 2**63, "machine": this_machine()}, {"pid": -5, "machine": this_machine()},
)  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [*(b"", b"{", b"[]", b'{"host": 5}', b"\xff")]
    + [json.dumps(json.loads(lock.Holder.here(20).data()) | {"machine": "other"} | one).encode() for one in STRANGE],
)
def test_a_damaged_lease_counts_by_its_age(tmp_path: Path, text: bytes) -> None:
    (tmp_path / ".lease").write_bytes(text)
    with pytest.raises(OutputError, match="another run is writing"), RunFolder(tmp_path).locked(kind="lease"):
        pytest.fail("it was written just now")
    os.utime(tmp_path / ".lease", (time.time() - 1000, time.time() - 1000))
    with RunFolder(tmp_path).locked(kind="lease"):
        pass


def test_a_lease_is_renewed_and_what_was_taken_away_is_there_again(root: str) -> None:
    fs, inner = fsspec.url_to_fs(root)

    def text() -> bytes | None:
        fs.invalidate_cache()
        return fs.cat_file(f"{inner}/.lease") if fs.exists(f"{inner}/.lease") else None

    with RunFolder(root).locked(kind="lease", interval_s=0.1):
        first = text()
        begun = time.monotonic()
        time.sleep(0.1 * lock.PATIENCE + 1.2)
        put_after = time.monotonic() - begun
        with pytest.raises(OutputError, match="another run"), RunFolder(root).locked(kind="lease", interval_s=0.1):
            pytest.fail(f"it has been renewed for {put_after} s")
        fs.rm_file(f"{inner}/.lease")
        while text() is None:
            assert time.monotonic() - begun < 60
            time.sleep(0.05)
        assert text() == first
        for _ in range(20):  # (it may be renewed in the very moment)
            put(root, host="thief")
            time.sleep(0.5)
            if json.loads(text() or b"")["host"] == "thief":
                break
        else:
            pytest.fail("it is taken back")
    assert names(root) == [".lease"], "nor removed"


def test_a_run_where_the_system_knows_no_locks(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((30, 24)))
    line = ["score", str(tmp_path / "x.npy"), "-o", str(tmp_path / "out"), "--head", str(small_head)]
    with RunFolder(tmp_path / "out").locked(kind="lease"):
        refused = beholder(*line, before=NO_FLOCK)
        assert refused.returncode == 1
        assert re.search(rf"another run is writing .*out \(process {os.getpid()} of .*\); wait for it", refused.stderr)
    assert beholder(*line, before=NO_FLOCK).returncode == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["beholder.json", "done", "run.json", "scores"]


HALF_WRITTEN = NO_FLOCK + (
    "import os, signal, sys; from beholder.io import writing\n"
    "with writing.write_whole(sys.argv[1]) as path:\n    path.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
)


def test_half_written_files_of_killed_runs_go_where_the_system_knows_no_locks(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((30, 24)))
    line = ["score", str(tmp_path / "x.npy"), "-o", str(tmp_path / "out.csv"), "--head", str(small_head)]
    work = tmp_path / "out.csv.partial"

    def leave_half() -> None:
        done = subprocess.run([sys.executable, "-c", HALF_WRITTEN, str(work / "scores" / "part")], check=False)
        assert done.returncode == -signal.SIGKILL
        assert len(list((work / "scores").iterdir())) == 1

    for _ in ("before the run", "after it"):
        leave_half()
        assert beholder(*line, before=NO_FLOCK).returncode == 0
        assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.csv", "out.csv.beholder.json", "out.csv.inputs"]
    work.mkdir()
    (work / own_name()).write_bytes(b"of this process, which is there")
    assert beholder(*line, before=NO_FLOCK).returncode == 0
    assert len(list(work.iterdir())) == 1


SHARER = (
    "import sys, time; from beholder.scoring.folder import RunFolder\n"
    "with RunFolder(sys.argv[1]).locked(kind=sys.argv[2], interval_s=0.2, is_shared=True):\n"
    "    print('held', flush=True); time.sleep(60)"
)


def test_parts_share_the_lock_and_one_that_works_alone_waits_for_none(tmp_path: Path, kind: Any) -> None:
    root = str(tmp_path / "run")
    with RunFolder(root).locked(kind=kind, is_shared=True), RunFolder(root).locked(kind=kind, is_shared=True):
        assert len(lock.holders(root)) == 2
        for _ in range(2):
            with pytest.raises(OutputError, match=f"process {os.getpid()} of"), RunFolder(root).locked(kind=kind):
                raise AssertionError("nobody may work alone here")
        with RunFolder(root).locked(kind=kind, is_shared=True):
            assert len(lock.holders(root)) == 3
        assert len(lock.holders(root)) == 2
    assert names(root) == []
    assert not (tmp_path / "run" / ".parts").exists()
    with RunFolder(root).locked(kind=kind):
        with pytest.raises(OutputError, match="another run"), RunFolder(root).locked(kind=kind, is_shared=True):
            raise AssertionError("a part may not work beside it")
        assert [holder.pid for holder, _ in lock.holders(root)] == [os.getpid()]
    assert names(root) == []


def test_a_part_that_was_killed_keeps_nobody_out(tmp_path: Path, kind: Any) -> None:
    root = str(tmp_path / "run")
    running = subprocess.Popen([sys.executable, "-c", SHARER, root, kind], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.readline() == "held\n"
    assert [(holder.pid, is_at_work) for holder, is_at_work in lock.holders(root)] == [(running.pid, True)]
    with RunFolder(root).locked(kind=kind, is_shared=True):
        running.kill()
        running.wait(30)
        assert sorted(is_at_work for _, is_at_work in lock.holders(root)) == [False, True]
    with RunFolder(root).locked(kind=kind):
        RunFolder(root).look()
    folder = RunFolder(root)
    with folder.locked(kind=kind):
        folder.remove_strays()
        assert [name for name in names(root) if name.startswith(".parts")] == []


@pytest.mark.parametrize("name", [".lockdown.txt", ".lock/x", ".leases", ".lease-probe", ".parts", ".parts.csv"])
def test_a_file_that_is_called_nearly_as_a_lock_is_somebody_elses(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    folder = RunFolder(tmp_path)
    assert folder.holds_something()
    with pytest.raises(OutputError, match="is not a beholder run"):
        folder.record_or_nothing()
    if name not in (".lock/x", ".parts"):
        with folder.locked():
            folder.remove_strays()
    assert path.read_text() == "mine"


def test_what_a_lease_left_goes(tmp_path: Path) -> None:
    for name in (".lock", ".lease", ".parts/x", ".beholder-x.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    folder = RunFolder(tmp_path)
    assert not folder.holds_something()
    with folder.locked(kind="flock"):
        folder.remove_strays()
        assert names(str(tmp_path)) == [".lease", ".lock"]


def test_a_part_of_another_machine_is_known_by_its_lease(tmp_path: Path) -> None:
    root = tmp_path / "run"
    (root / ".parts").mkdir(parents=True)
    part = root / ".parts" / "x"
    part.write_text(json.dumps(json.loads(lock.Holder.here(0.2).data()) | {"host": "gpu-7", "machine": "other", "token": "x"}))
    with pytest.raises(OutputError, match="on gpu-7"), RunFolder(root).locked(kind="lease", interval_s=0.2):
        raise AssertionError("a part is at work")
    assert names(str(root)) == [".parts/x"]
    with RunFolder(root).locked(kind="lease", interval_s=0.2, is_shared=True):
        assert len(names(str(root))) == 2
    os.utime(part, (time.time() - 30,) * 2)
    with RunFolder(root).locked(kind="lease", interval_s=0.2):
        assert names(str(root)) == [".lease"]
