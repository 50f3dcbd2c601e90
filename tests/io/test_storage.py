"""Results are written whole or not at all; files are listed once and in order."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from beholder import InputError, OutputError
from beholder.io import storage, writing
from oracles.processes import NO_FLOCK
from oracles.program import python


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _fail_while_writing(path: str, error: BaseException) -> None:
    with writing.write_whole(path) as temporary:
        temporary.write_bytes(b"half")
        raise error


def test_a_result_appears_at_once_and_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "er" / "x.bin"
    with writing.write_whole(str(target)) as temporary:
        assert temporary.parent == target.parent
        temporary.write_bytes(b"half")
        assert not target.exists()
        with temporary.open("ab") as file:
            file.write(b" and half")
    assert target.read_bytes() == b"half and half"
    assert below(tmp_path) == ["new", "new/er", "new/er/x.bin"]


@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt(), InputError("theirs")])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "x.bin").write_bytes(b"old")
    with pytest.raises(type(error)) as caught:
        _fail_while_writing(str(tmp_path / "x.bin"), error)
    assert caught.value is error
    assert below(tmp_path) == ["x.bin"]
    assert (tmp_path / "x.bin").read_bytes() == b"old"


def test_the_systems_errors_become_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"cannot write .*x\.bin: the disk is full"),
        writing.write_whole(str(tmp_path / "x.bin")),
    ):
        raise OSError(28, "No space left on device")
    assert below(tmp_path) == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="a part of its path is a file"):
        writing.write_bytes(str(tmp_path / "file" / "er" / "x.bin"), b"data")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="it is a folder, a file was expected"):
        writing.write_bytes(str(tmp_path / "folder"), b"data")
    assert below(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0, 0o666)])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int, expected: int) -> None:
    """As for a file made with open(); temporary files alone would be private to their owner."""
    before = os.umask(mask)
    try:
        writing.write_bytes(str(tmp_path / "x.bin"), b"data")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.bin").stat().st_mode) == expected


def test_scratch_holds_the_temporary_file(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with writing.write_whole(str(tmp_path / "x.bin"), scratch=scratch) as temporary:
        assert temporary.parent == scratch
        temporary.write_bytes(b"data")
    assert below(tmp_path) == ["scratch", "x.bin"]
    nowhere = tmp_path / "nowhere"
    with (
        pytest.raises(OutputError, match=r"cannot write .*y\.bin"),
        writing.write_whole(str(tmp_path / "y.bin"), scratch=nowhere) as temporary,
    ):
        temporary.write_bytes(b"data")


def test_a_killed_writer_leaves_one_stray_file_that_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"old")
    code = (
        "import os, signal, sys; from beholder.io import storage, writing\n"
        "with writing.write_whole(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.bin")], check=False, timeout=60)
    assert done.returncode == -9
    assert (tmp_path / "x.bin").read_bytes() == b"old"
    assert len(below(tmp_path)) == 2
    (tmp_path / "deeper").mkdir()
    mine = [".beholder.tmp", "beholder-x.tmp", ".beholder-x", "deeper/.beholder-x.tmp"]
    for name in mine:
        (tmp_path / name).write_bytes(b"")
    writing.remove_stray_temporaries(tmp_path)
    assert below(tmp_path) == sorted(["x.bin", "deeper", *mine])
    writing.remove_stray_temporaries(tmp_path / "nowhere")


KILLED = (
    "import os, signal, sys; from beholder.io import storage, writing\n"
    "with writing.write_whole(sys.argv[1]) as temporary:\n"
    "    temporary.write_bytes(b'half of it, and longer'); os.kill(os.getpid(), signal.SIGKILL)"
)


@pytest.mark.parametrize("fails", [False, True])
def test_the_next_writer_takes_over_what_a_killed_one_left(tmp_path: Path, fails: bool) -> None:
    target = tmp_path / "x.bin"
    for _ in range(2):
        python("-c", KILLED, str(target))
        assert len(below(tmp_path)) == 1, "the second has taken over what the first left"
    writing.write_bytes(str(tmp_path / "y.bin"), b"other")
    assert len(below(tmp_path)) == 2
    if fails:
        with pytest.raises(RuntimeError):
            _fail_while_writing(str(target), RuntimeError("mine"))
        assert below(tmp_path) == ["y.bin"]
    writing.write_bytes(str(target), b"whole")
    assert below(tmp_path) == ["x.bin", "y.bin"]
    assert target.read_bytes() == b"whole"


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    target = str(tmp_path / "x.bin")
    with writing.write_whole(target) as first:
        first.write_bytes(b"first")
        with writing.write_whole(target) as second:
            second.write_bytes(b"second, longer")
        assert Path(target).read_bytes() == b"second, longer"
        with writing.write_whole(target) as third:
            assert third != first
            third.write_bytes(b"third")
        assert first.read_bytes() == b"first"
    assert Path(target).read_bytes() == b"first"
    assert below(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("what", ["link", "hard link", "folder", "pipe"])
def test_what_others_have_put_at_the_name_stays(tmp_path: Path, what: str) -> None:
    target = tmp_path / "x.bin"
    with writing.write_whole(str(target)) as taken:
        pass
    (tmp_path / "theirs").write_bytes(b"theirs")
    put = {
        "link": lambda: taken.symlink_to("theirs"),
        "hard link": lambda: taken.hardlink_to(tmp_path / "theirs"),
        "folder": taken.mkdir,
        "pipe": lambda: os.mkfifo(taken),
    }
    put[what]()
    writing.write_bytes(str(target), b"mine")
    assert target.read_bytes() == b"mine"
    assert (tmp_path / "theirs").read_bytes() == b"theirs"
    assert below(tmp_path) == sorted([taken.name, "theirs", "x.bin"])


def test_a_file_system_without_locks_is_written_all_the_same(tmp_path: Path) -> None:
    code = "import sys; from beholder.io import storage, writing; writing.write_bytes(sys.argv[1], b'data')"
    python("-c", code, str(tmp_path / "x.bin"), before=NO_FLOCK, check=True)
    assert below(tmp_path) == ["x.bin"]


def test_a_pipe_in_a_files_place_is_waited_for_by_nobody(tmp_path: Path) -> None:
    pipe = tmp_path / "x.bin"
    os.mkfifo(pipe)
    with storage.open_binary(str(pipe)) as file:
        assert file.read() == b""
    assert storage.sha256_of(pipe) == hashlib.sha256().hexdigest()
    for read in (lambda: storage.read_range(str(pipe), 0, 9), lambda: storage.content_sample(str(pipe), 9)):
        with pytest.raises(InputError, match=r"x\.bin"):
            read()
    writer = os.open(pipe, os.O_RDWR)
    try:
        os.write(writer, b"of a command")
        with storage.open_binary(str(pipe)) as file:
            assert file.read(12) == b"of a command"
    finally:
        os.close(writer)


def test_files_are_listed_sorted_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b", "a", "B", "a.d/c", "aa/x", ".hidden", ".folder/x", "aa/.x", "é"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    expected = ["B", "a", "a.d/c", "aa/x", "b", "é"]
    assert storage.list_files(str(tmp_path)) == [f"{tmp_path}/{name}" for name in expected]
    (tmp_path / "empty").mkdir()
    assert storage.list_files(str(tmp_path / "empty")) == []


def test_a_folder_reached_by_several_links_is_listed_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_bytes(b"")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "real")
    (tmp_path / "file").symlink_to(tmp_path / "real" / "x")
    found = [Path(path).resolve() for path in storage.list_files(str(tmp_path))]
    assert len(storage.list_files(str(tmp_path))) == 2
    assert set(found) == {tmp_path / "real" / "x"}


def test_sizes_ranges_and_digests(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    path = tmp_path / "x.bin"
    path.write_bytes(data)
    assert storage.sha256_of(path) == hashlib.sha256(data).hexdigest()
    assert storage.size(str(path)) == len(data)
    assert storage.read_range(str(path), 3, 10) == data[3:10]
    assert storage.read_range(f"file://{path}", len(data) - 2, len(data) + 5) == data[-2:]
    assert storage.read_range(str(path), 5, 5) == storage.read_range(str(path), 9, 5) == b""
    path.write_bytes(b"")
    assert storage.sha256_of(path) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert (storage.size(str(path)), storage.read_range(str(path), 0, 100)) == (0, b"")
    for read in (storage.size, storage.open_binary, lambda name: storage.read_range(name, 0, 1)):
        with pytest.raises(InputError, match=r"cannot read .*nowhere: it does not exist"):
            read(str(tmp_path / "nowhere"))


def test_removing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    writing.remove(str(tmp_path / "x"))
    writing.remove(str(tmp_path / "x"))
    writing.remove("memory://nowhere/x")
    assert below(tmp_path) == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="a part of its path is a file"):
        writing.remove(str(tmp_path / "file" / "x"))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/*.npy", True), ("a?.npy", True), ("a[1].npy", True), ("a.npy", False), ("s3://b/*.npy", True),
        ("https://x/a.npy?signature=1", False), ("https://x/*.npy", True),
    ],
)  # fmt: skip
def test_what_a_glob_is(path: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.is_glob(path) is expected
    if "://" not in path and expected and "*" not in path:
        Path(path).write_bytes(b"")
        assert not storage.is_glob(path)


def test_remote_file_systems_take_whole_files_too() -> None:
    import fsspec

    writing.write_bytes("memory://bucket/x.bin", b"data")
    assert fsspec.filesystem("memory").cat_file("/bucket/x.bin") == b"data"
    assert storage.exists("memory://bucket/x.bin")
    assert storage.is_folder("memory://bucket")
    assert storage.read_range("memory://bucket/x.bin", 1, 3) == b"at"
    with pytest.raises(RuntimeError, match="mine"):
        _fail_while_writing("memory://bucket/x.bin", RuntimeError("mine"))
    assert storage.read_range("memory://bucket/x.bin", 0, 9) == b"data"
    writing.remove("memory://bucket/x.bin")
    assert not storage.exists("memory://bucket/x.bin")
