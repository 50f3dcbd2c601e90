"""`.npy` parts: every order and dtype, every way to be wrong, memory-mapped without a copy."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from beholder.errors import InputError
from beholder.sources.npy import NpyReader
from beholder.sources.reader import ReadOptions

OPTIONS = ReadOptions()


def read(path: Path, start: int = 0, stop: int | None = None, **options: int) -> np.ndarray:
    reader, wanted = NpyReader(), ReadOptions(**options)  # type: ignore[arg-type]
    part = reader.inspect(str(path), path.name, wanted)
    blocks = []
    for block in reader.blocks(part, start, stop, wanted):
        if block.before_chunk is not None:
            block.before_chunk(0, block.embeddings.shape[0])
        blocks.append(np.array(block.embeddings))
    return np.concatenate(blocks) if blocks else np.empty((0, part.dim), part.dtype)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (1000, 768), (33, 4096)])
def test_rows_come_back_as_they_were_saved(tmp_path: Path, shape: tuple[int, int], dtype: str, order: str) -> None:
    rows = np.random.default_rng(0).standard_normal(shape).astype(dtype, order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "x.npy", rows)
    found = read(tmp_path / "x.npy", block_bytes=10_000)
    assert found.dtype == rows.dtype
    assert np.array_equal(found, rows)
    assert np.array_equal(read(tmp_path / "x.npy", shape[0] // 3, shape[0], block_bytes=10_000), rows[shape[0] // 3 :])


def test_blocks_are_views_of_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((100, 8), np.float16))
    reader = NpyReader()
    part = reader.inspect(str(tmp_path / "x.npy"), "x.npy", OPTIONS)
    for block in reader.blocks(part, 0, None, OPTIONS):
        assert isinstance(block.embeddings, np.ndarray)
        assert not block.embeddings.flags.owndata
        assert not block.embeddings.flags.writeable


def test_no_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.empty((0, 768), np.float32))
    assert NpyReader().inspect(str(tmp_path / "x.npy"), "x.npy", OPTIONS).num_rows == 0
    assert read(tmp_path / "x.npy").shape == (0, 768)


def test_newer_header_versions_are_read(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    for version in [(1, 0), (2, 0), (3, 0)]:
        with (tmp_path / "x.npy").open("wb") as file:
            np.lib.format.write_array(file, rows, version=version)
        assert np.array_equal(read(tmp_path / "x.npy"), rows)


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_object_arrays_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    target = tmp_path / "executed"
    np.save(tmp_path / "x.npy", np.array([_Bomb(target)], object), allow_pickle=True)
    with pytest.raises(InputError, match="never unpickled"):
        read(tmp_path / "x.npy")
    (tmp_path / "y.npy").write_bytes(pickle.dumps(_Bomb(target)))
    with pytest.raises(InputError, match="not an .npy file"):
        read(tmp_path / "y.npy")
    assert not target.exists()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((4, 8), np.int8), "dtype int8: integer embeddings are quantised"),
        (np.ones((4, 8), np.uint8), "quantised"),
        (np.ones((4, 8), bool), "must be float16, float32 or float64"),
        (np.ones((4, 8), np.complex64), "must be float16"),
        (np.ones((4, 8), ">f4"), "big-endian"),
        (np.ones((4, 8), np.longdouble), "must be float16"),
        (np.ones(768, np.float32), "1-D with 768 values.*reshape"),
        (np.ones((2, 3, 4), np.float32), "shape .2, 3, 4., expected 2-D"),
        (np.float32(3), "expected 2-D"),
        (np.ones((4, 0), np.float32), "without dimensions"),
    ],
)
def test_arrays_that_cannot_be_scored_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path / "x.npy")
    assert "x.npy" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((10, 4), np.float32))
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(whole[: 128 + 3 * 16 + 5])
    with pytest.raises(InputError, match="truncated: its header promises 10 rows .288 bytes., the file has 181, 3 whole rows"):
        read(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes(whole[:40])
    with pytest.raises(InputError, match="damaged .npy header"):
        read(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes(b"")
    with pytest.raises(InputError, match="empty .0 bytes."):
        read(tmp_path / "x.npy")


def test_a_file_cut_short_while_it_is_read_stops_with_a_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.ones((1000, 64), np.float32))
    reader, options = NpyReader(), ReadOptions(block_bytes=64_000)
    blocks = reader.blocks(reader.inspect(str(path), "x.npy", options), 0, None, options)
    next(blocks)
    with path.open("rb+") as file:
        file.truncate(100_000)
    with pytest.raises(InputError, match="cut short while it was read"):
        list(blocks)


def test_a_file_deleted_while_it_is_read_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    rows = np.random.default_rng(0).standard_normal((1000, 64)).astype(np.float32)
    np.save(path, rows)
    reader, options = NpyReader(), ReadOptions(block_bytes=64_000)
    blocks = reader.blocks(reader.inspect(str(path), "x.npy", options), 0, None, options)
    found = [np.array(next(blocks).embeddings)]
    path.unlink()
    found += [np.array(block.embeddings) for block in blocks]
    assert np.array_equal(np.concatenate(found), rows)


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read .*nowhere.npy: it does not exist"):
        read(tmp_path / "nowhere.npy")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (5,20)",
        "{'descr': '<f4', 1: 2, 'shape': (5, 20)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 20), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-5, 20), }",
    ],
)
def test_damaged_headers_are_one_clear_line(tmp_path: Path, header: str) -> None:
    text = header.encode().ljust(117) + b"\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(400))
    with pytest.raises(InputError, match="damaged .npy header"):
        read(tmp_path / "x.npy")


CUT_SHORT = """
import os, random, sys, threading, time
import numpy as np
from beholder.sources.reader import ReadOptions
from beholder.sources.npy import NpyReader
from beholder.errors import InputError
from beholder.kernels.scoring import Affine, RowScorer

path, rng, options = sys.argv[1], random.Random(5), ReadOptions(block_bytes=4 << 20)
rows = np.random.default_rng(0).standard_normal((40_000, 256)).astype(np.float16)
scorer, reader = RowScorer([Affine(np.ones(256), 0.0)], num_threads=2), NpyReader()
scorer.warm_up("float16")
started = time.perf_counter()
expected = scorer.score(rows)[0]
seconds = time.perf_counter() - started
for number in range(60):
    np.save(path, np.asarray(rows, order="CF"[number % 2]))
    os.utime(path, (1, 1))  # a cut within the clock's tick of the writing (4 ms) would leave no trace in the file's times
    part = reader.inspect(path, "x.npy", options)
    wait, length = rng.random() * seconds, rng.choice([0, 1000, rng.randrange(part.num_bytes)])

    is_open = threading.Event()

    def cut():
        if number % 5 == 4:  # what was written anew before it is opened is another file
            is_open.wait()
        time.sleep(wait)
        os.truncate(path, length)
        if number % 5 == 4:
            os.truncate(path, part.num_bytes)  # as long again, and full of zeros

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        found = []
        for block in reader.blocks(part, 0, None, options):
            is_open.set()
            found.append(scorer.score(block.embeddings, before_chunk=block.before_chunk)[0])
        print("whole" if np.array_equal(np.concatenate(found), expected) else "WRONG")
    except InputError as error:
        print("one line" if "\\n" not in str(error) and path in str(error) else "WRONG")
    is_open.set()
    cutter.join()
"""


@pytest.mark.slow
def test_files_cut_short_at_any_moment_never_end_the_process(tmp_path: Path) -> None:
    """Touching a mapped page that the file does not hold any more is SIGBUS, unless it is seen to."""
    line = [sys.executable, "-c", CUT_SHORT, str(tmp_path / "x.npy")]
    result = subprocess.run(line, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr
    said = Counter(result.stdout.splitlines())
    assert set(said) <= {"whole", "one line"}
    assert said.total() == 60
    assert said["one line"] >= 20


def test_a_file_cut_short_before_its_size_was_asked_for_is_one_line(tmp_path: Path) -> None:
    """Its header promises more rows than there are, and its size is that of the rest."""
    path = tmp_path / "x.npy"
    np.save(path, np.ones((100, 8), np.float32))
    reader, options = NpyReader(), ReadOptions()
    part = reader.inspect(str(path), "x.npy", options)
    with path.open("rb+") as file:
        file.truncate(1000)
    with pytest.raises(InputError, match=r"x\.npy was cut short since it was looked at"):
        list(reader.blocks(replace(part, num_bytes=1000), 0, None, options))


def test_other_faults_of_the_bus_still_end_the_process(tmp_path: Path) -> None:
    """A mapping of somebody else's, of a file that is cut short: not ours to hide."""
    code = (
        "import mmap, os, sys\n"
        "import numpy as np\n"
        "from beholder.sources.reader import ReadOptions\n"
        "from beholder.sources.npy import NpyReader\n"
        "np.save(sys.argv[1], np.ones((10, 4), np.float32))\n"
        "reader, options = NpyReader(), ReadOptions()\n"
        "blocks = list(reader.blocks(reader.inspect(sys.argv[1], 'x.npy', options), 0, None, options))\n"
        "file = open(sys.argv[2], 'wb+'); file.truncate(1 << 20)\n"
        "mapped = mmap.mmap(file.fileno(), 0); file.truncate(0)\n"
        "print('ready', flush=True); mapped[5000]\n"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "x.npy"), str(tmp_path / "other")]
    result = subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)
    assert (result.returncode, result.stdout) == (-signal.SIGBUS, "ready\n")


def test_a_file_written_to_while_it_is_read_stops_with_a_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.ones((1000, 64), np.float32))
    reader, options = NpyReader(), ReadOptions(block_bytes=64_000)
    blocks = reader.blocks(reader.inspect(str(path), "x.npy", options), 0, None, options)
    next(blocks)
    with path.open("rb+") as file:
        file.seek(200_000)
        file.write(b"other rows")
    os.utime(path, (1, 1))
    with pytest.raises(InputError, match="x.npy was written to while it was read; run the same command again"):
        list(blocks)


def test_bytes_behind_the_promised_rows_are_told(tmp_path: Path) -> None:
    path = tmp_path / "two.npy"
    with path.open("wb") as file:
        np.save(file, np.ones((5, 8), np.float32))
        np.save(file, np.ones((5, 8), np.float32))
    with pytest.raises(InputError, match=r"two\.npy has 288 bytes after the 5 rows that its header promises: another array"):
        NpyReader().inspect(str(path), "two.npy", ReadOptions())
    path.write_bytes(path.read_bytes()[:288] + b"x")
    with pytest.raises(InputError, match="has 1 bytes after the 5 rows .*: what they are is unknown"):
        NpyReader().inspect(str(path), "two.npy", ReadOptions())
