"""Acts to another disk, to a full one, and to files that may not grow."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from oracles.acting import act, contents, photos, score_table, take_back
from oracles.tar_making import png


def test_to_another_disk_originals_go_after_their_copies(here: Path) -> None:
    other = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    if other is None or other.stat().st_dev == here.stat().st_dev:
        pytest.skip("this system has no second disk that can be written")
    import tempfile

    before = contents(here / "photos")
    with tempfile.TemporaryDirectory(dir=other) as folder:
        done, _ = act(photos(), move=f"{folder}/best", apply=True, journal="j.jsonl")
        assert contents(Path(folder, "best")) == before
        assert contents(here / "photos") == {}
        assert Path(folder, "best/a.jpg").stat().st_mtime_ns == 10**18
        linked, _ = act(score_table([f"{folder}/best/a.jpg"], None), link="here")
        assert linked.num_done == 1
        linked, _ = act(score_table([f"{folder}/best/a.jpg"], None), link="here", apply=True)
        assert linked.reasons == {"other_disk": 1}
        take_back(done.journal)
        assert contents(here / "photos") == before
        assert (here / "photos/a.jpg").stat().st_mtime_ns == 10**18


DRIVER = """
import sys
sys.path[:0] = {paths!r}
from oracles.acting import act, score_table
from beholder.errors import BeholderError
samples = open("samples.txt").read().splitlines()
try:
    summary, _ = act(score_table(samples, ["photos"]), **{options!r}, apply=True)
    print(summary.num_done, summary.num_before)
except BeholderError as error:
    print(error, file=sys.stderr)
    sys.exit(1)
"""


def drive(here: Path, limit: int | None = None, **options: object) -> subprocess.CompletedProcess[str]:
    def limited() -> None:
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    tests = Path(__file__).resolve().parents[2]
    script = DRIVER.format(paths=[str(tests)], options=options)
    line = [sys.executable, "-c", script]
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=here, preexec_fn=limited)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
@pytest.mark.parametrize(("action", "journal"), [("copy", "disk/j.jsonl"), ("move", "j.jsonl")])
def test_a_full_disk_is_one_clear_line_and_the_act_continues(here: Path, action: str, journal: str) -> None:
    disk = here / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True, check=False
    ).returncode:
        pytest.skip("this system does not let root mount a tmpfs")
    try:
        names = [f"{i:03d}.jpg" for i in range(100)]
        for i, name in enumerate(names):
            (here / "photos" / name).write_bytes(bytes([i]) * 10_000)
        (here / "samples.txt").write_text("\n".join(f"photos/{name}" for name in names))
        failed = drive(here, **{action: "disk/best"}, journal=journal)
        assert failed.returncode == 1
        assert "the disk is full; free some space and run the same command again" in failed.stderr
        assert len(failed.stderr.strip().splitlines()) == 1
        there = {name: data for name, data in contents(disk).items() if name != "j.jsonl"}
        assert 5 < len(there) < 30
        assert all(data == (bytes([names.index(Path(name).name)]) * 10_000) for name, data in there.items())
        subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
        again = drive(here, **{action: "disk/best"}, journal=journal)
        assert again.stdout.split()[0] == "100", again.stderr
        assert contents(disk / "best") == {name: bytes([i]) * 10_000 for i, name in enumerate(names)}
        take_back(str(here / journal))
        assert set(contents(disk)) <= {"j.jsonl"}
        assert all((here / "photos" / name).read_bytes() == bytes([i]) * 10_000 for i, name in enumerate(names))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_file_that_may_not_grow_leaves_nothing_half_written(here: Path) -> None:
    (here / "photos" / "big.jpg").write_bytes(bytes(200_000))
    (here / "samples.txt").write_text("photos/a.jpg\nphotos/big.jpg\nphotos/b/c.png")
    failed = drive(here, limit=60_000, copy="best")
    assert failed.returncode == 1
    assert "cannot write" in failed.stderr
    assert contents(here / "best") == {"a.jpg": png(0)}
    assert drive(here, copy="best").returncode == 0
    assert contents(here / "best") == {"a.jpg": png(0), "big.jpg": bytes(200_000), "b/c.png": png(1)}
