"""Acts to another disk, to a full one, and to files that may not grow."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from oracles.acting import act, contents, photos, score_table, take_back
from oracles.tar_making import png
from oracles.tiers import mostly_slow


def test_to_another_disk_originals_go_after_their_copies(here: Path) -> None:
    other = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    if other is None or other.stat().st_dev == here.stat().st_dev:
        pytest.skip("this system has no second disk that can be written")
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


@pytest.fixture
def folders() -> Iterator[tuple[Path, Path]]:
    """Two folders on two disks that everybody may write in; the first is the current one, with `photos` in it."""
    other = Path("/dev/shm")
    before = Path.cwd()
    with contextlib.ExitStack() as stack:
        one = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=tempfile.gettempdir())))
        if not other.is_dir() or other.stat().st_dev == one.stat().st_dev:
            pytest.skip("this system has no second disk that can be written")
        two = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=other)))
        (one / "photos").mkdir()
        (one / "photos" / "a.jpg").write_bytes(png(1))
        for path in (one, two, one / "photos"):
            path.chmod(0o777)
        os.chdir(one)
        stack.callback(os.chdir, before)
        yield one, two


def state(path: Path) -> tuple[object, ...]:
    """What a file has beside its bytes."""
    status = path.lstat()
    attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return status.st_uid, status.st_gid, status.st_mode, status.st_mtime_ns, attributes


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
ACL = bytes.fromhex("02000000 01000600ffffffff 02000400d2040000 04000400ffffffff 10000400ffffffff 20000000ffffffff")
"""Access list of a file: rw for its owner, r for user 1234, r for its group, nothing for others."""


@needs_root
def test_owner_group_mode_and_attributes_go_along_and_come_back(folders: tuple[Path, Path]) -> None:
    path, moved = folders[0] / "photos" / "a.jpg", folders[1] / "best" / "a.jpg"
    with contextlib.suppress(OSError):  # a disk without
        os.setxattr(path, "user.note", b"seen")
    with contextlib.suppress(OSError):
        os.setxattr(path, "system.posix_acl_access", ACL)
    os.chown(path, 1234, 2345)
    path.chmod(0o640)
    os.utime(path, ns=(10**18, 10**18 + 7))
    before = state(path)
    done, _ = act(photos("a.jpg"), move=str(moved.parent), journal="j.jsonl", apply=True)
    assert state(moved) == before
    assert (done.not_kept, done.exit_status) == ({}, 0)
    take_back("j.jsonl")
    assert state(path) == before
    act(photos("a.jpg"), move=str(moved.parent), journal="j.jsonl", apply=True)
    os.chown(moved, 0, 0)  # as on a disk that has no owners
    moved.chmod(0o644)
    os.utime(moved, ns=(10**18, 10**18 + 7))
    take_back("j.jsonl")
    assert state(path)[:4] == before[:4]


def test_hard_links_are_said_and_the_other_names_stay(folders: tuple[Path, Path]) -> None:
    path = folders[0] / "photos" / "a.jpg"
    for name in ("more.jpg", "most.jpg"):
        os.link(path, folders[0] / name)
    planned, said = act(photos("a.jpg"), move=f"{folders[1]}/best", journal="j.jsonl")
    assert (planned.not_kept, planned.most_links) == ({"links": 1}, 3)
    links = "1 file with hard links (up to 3 names each) would be moved to another file system, each as a copy of its own: "
    assert links + "the other names keep the file that was there" in said
    done, said = act(photos("a.jpg"), move=f"{folders[1]}/best", journal="j.jsonl", apply=True)
    assert (done.not_kept, done.exit_status) == ({"links": 1}, 0)
    assert sum("with hard links" in line for line in said) == 1
    assert (folders[0] / "more.jpg").read_bytes() == png(1)
    assert take_back("j.jsonl")[0].exit_status == 0
    assert path.read_bytes() == png(1)
    assert act(photos("a.jpg"), move=f"{folders[0]}/near")[0].not_kept == {}


@needs_root
def test_an_owner_that_cannot_be_kept_is_said_once_with_a_count(folders: tuple[Path, Path]) -> None:
    for name in ("b.jpg", "c.jpg"):
        (folders[0] / "photos" / name).write_bytes(png(2))
    for path in (folders[0] / "photos").iterdir():
        os.chown(path, 1234, 2345)
        path.chmod(0o4755)
    names = ("a.jpg", "b.jpg", "c.jpg")
    os.setegid(65534)
    os.seteuid(65534)
    try:
        planned, _ = act(photos(*names), move=f"{folders[1]}/best", journal="j.jsonl")
        done, said = act(photos(*names), move=f"{folders[1]}/best", journal="j.jsonl", apply=True)
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert planned.not_kept == {"owner": 3}
    assert (done.num_done, done.exit_status) == (3, 0)
    assert done.not_kept == {"owner": 3, "group": 3, "mode": 3}  # what lends the owner's rights is not given to another
    line = "3 files did not keep their owner on another file system (needs root, or the file system has none)"
    assert said.count(line) == 1, said
    assert (folders[1] / "best" / "a.jpg").stat().st_mode & 0o7777 == 0o755
    take_back("j.jsonl")  # by root, who may
    back = (folders[0] / "photos" / "a.jpg").stat()
    assert (back.st_uid, back.st_gid, back.st_mode & 0o7777) == (1234, 2345, 0o4755)


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
@pytest.mark.parametrize(("action", "journal"), mostly_slow([("copy", "disk/j.jsonl"), ("move", "j.jsonl")]))
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


@pytest.mark.slow
def test_a_file_that_may_not_grow_leaves_nothing_half_written(here: Path) -> None:
    (here / "photos" / "big.jpg").write_bytes(bytes(200_000))
    (here / "samples.txt").write_text("photos/a.jpg\nphotos/big.jpg\nphotos/b/c.png")
    failed = drive(here, limit=60_000, copy="best")
    assert failed.returncode == 1
    assert "cannot write" in failed.stderr
    assert contents(here / "best") == {"a.jpg": png(0)}
    assert drive(here, copy="best").returncode == 0
    assert contents(here / "best") == {"a.jpg": png(0), "big.jpg": bytes(200_000), "b/c.png": png(1)}
