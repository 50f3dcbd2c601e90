"""The decode pool: order, exactness and bounds, whatever the pictures, the workers and the caller do."""

from __future__ import annotations

import contextlib
import gc
import io
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beholder.columns import PictureReason
from beholder.errors import BeholderError, InputError
from beholder.images.picture import PictureRef, PixelOptions
from beholder.images.pool import DecodePool
from oracles.odd_decoders import pixels_of

SIZE_PX = 16
TESTS = Path(__file__).resolve().parents[1]
ODD = "oracles.odd_decoders:prepare"


def pool_of(num_workers: int = 2, *, decoder: str = ODD, **options: Any) -> DecodePool:
    return DecodePool(PixelOptions(size_px=SIZE_PX), num_workers=num_workers, decoder=decoder, **options)


def refs_of(datas: list[bytes]) -> Iterator[tuple[int, PictureRef]]:
    return enumerate(PictureRef(data=data) for data in datas)


def run(pool: DecodePool, refs: Iterator[tuple[Any, PictureRef]]) -> dict[Any, Any]:
    """Tag -> a copy of the pixels, or (reason, message); tags come in the order of the refs."""
    found: dict[Any, Any] = {}
    for outcome in pool.map(refs):
        assert outcome.tag not in found
        if outcome.error is None:
            assert outcome.pixels is not None
            assert outcome.pixels.shape == (SIZE_PX, SIZE_PX, 3)
            assert outcome.pixels.dtype == np.uint8
            found[outcome.tag] = outcome.pixels.copy()
            outcome.release()
            assert outcome.pixels is None
        else:
            assert outcome.pixels is None
            found[outcome.tag] = (outcome.error.reason, str(outcome.error))
    return found


def assert_right(found: dict[Any, Any], datas: list[bytes]) -> None:
    assert list(found) == list(range(len(datas)))
    for number, data in enumerate(datas):
        np.testing.assert_array_equal(found[number], pixels_of(data, SIZE_PX), err_msg=f"picture {number}")


def is_running(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until_gone(process_ids: list[int], seconds: float) -> None:
    end = time.monotonic() + seconds
    while any(map(is_running, process_ids)):
        assert time.monotonic() < end, "workers outlive their pool"
        time.sleep(0.05)


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_pixels_and_facts_in_order_from_bytes_files_and_ranges(num_workers: int, tmp_path: Path) -> None:
    datas = [b"picture %d" % number * (number % 9 + 1) for number in range(90)]
    refs: list[PictureRef] = []
    archive, at = tmp_path / "archive \N{SNOWMAN}.tar", 0
    archive.write_bytes(b"".join(datas))
    for number, data in enumerate(datas):
        file = tmp_path / f"{number}.bin"
        file.write_bytes(data)
        name = f"file://{file}" if number % 2 else str(file)
        inside = PictureRef(path=str(archive), offset=at, length=len(data))
        refs.append([PictureRef(data=data), PictureRef(path=name), inside][number % 3])
        at += len(data)
    with pool_of(num_workers) as pool:
        for number, outcome in enumerate(pool.map(enumerate(refs))):
            assert outcome.tag == number
            np.testing.assert_array_equal(outcome.pixels, pixels_of(datas[number], SIZE_PX))
            length = len(datas[number])
            assert (outcome.width, outcome.height, outcome.num_bytes) == (length, length % 7 + 1, length)
            assert outcome.traits == length % 32
            batch = np.zeros((2, SIZE_PX, SIZE_PX, 3), np.uint8)
            outcome.take(batch[1])
            np.testing.assert_array_equal(batch[1], pixels_of(datas[number], SIZE_PX))
            assert not batch[0].any()
            outcome.release()
        assert number == 89
        assert pool.stats.num_done == 90
        assert pool.stats.num_errors == pool.stats.num_restarts == 0
        assert pool.stats.num_bytes == at


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_real_decoder_gives_what_it_gives_without_a_pool(num_workers: int) -> None:
    from PIL import Image

    from beholder.images.decode import prepare
    from beholder.images.picture import PictureError

    rng, datas = np.random.default_rng(3), []
    for number in range(24):
        size = tuple(int(side) for side in rng.integers(1, 300, 2))
        picture = Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8))
        file = io.BytesIO()
        picture.save(file, ["JPEG", "PNG", "WEBP"][number % 3])
        datas.append(file.getvalue())
    datas += [b"", b"not a picture", datas[1][: len(datas[1]) // 2]]
    options = PixelOptions(size_px=56)
    with DecodePool(options, num_workers=num_workers) as pool:
        for number, outcome in enumerate(pool.map(refs_of(datas))):
            if number >= 24:
                with pytest.raises(PictureError) as caught:
                    prepare(datas[number], options)
                assert outcome.error is not None
                assert (outcome.error.reason, str(outcome.error)) == (caught.value.reason, str(caught.value))
                continue
            wanted = prepare(datas[number], options)
            np.testing.assert_array_equal(outcome.pixels, wanted.pixels)
            assert (outcome.width, outcome.height, outcome.traits) == (wanted.width, wanted.height, wanted.traits)
            outcome.release()
    assert number == 26


@pytest.mark.parametrize("num_workers", [0, 2])
def test_no_picture_one_picture_and_errors_that_the_source_knew(num_workers: int) -> None:
    known = PictureRef(error=(PictureReason.UNREADABLE, "a broken archive"))
    with pool_of(num_workers) as pool:
        assert run(pool, iter([])) == {}
        assert_right(run(pool, refs_of([b"one"])), [b"one"])
        assert run(pool, iter([("a", known), ("b", known)])) == dict.fromkeys("ab", known.error)
        found = run(pool, enumerate([known, PictureRef(data=b"x"), PictureRef(), known]))
        assert [found[number][0] for number in (0, 2, 3)] == ["unreadable", "missing", "unreadable"]
        np.testing.assert_array_equal(found[1], pixels_of(b"x", SIZE_PX))
        assert pool.stats.num_errors == 5


def test_an_endless_iterator_is_read_no_further_than_there_are_slots() -> None:
    pulled = 0

    def endless() -> Iterator[tuple[int, PictureRef]]:
        nonlocal pulled
        for number in itertools.count():
            pulled += 1
            yield number, PictureRef(data=b"%d" % number)

    with pool_of(num_slots=10) as pool:
        outcomes, held = pool.map(endless()), []
        for number, outcome in enumerate(outcomes):
            held.append(outcome)
            if len(held) == 7:
                time.sleep(0.02 if number < 60 else 0)
                assert number + 1 <= pulled <= number + 1 - 7 + 10
                for one in held:
                    np.testing.assert_array_equal(one.pixels, pixels_of(b"%d" % one.tag, SIZE_PX))
                    one.release()
                held.clear()
            if number == 1000:
                break
        outcomes.close()  # type: ignore[attr-defined]


def test_bytes_that_wait_are_bounded_too() -> None:
    pulled = 0

    def data_of(number: int) -> bytes:
        return (b"sleep:0.5:" if number == 0 else b"%d" % number) + bytes(1 << 20)

    def large() -> Iterator[tuple[int, PictureRef]]:
        nonlocal pulled
        for number in range(60):
            pulled += 1
            yield number, PictureRef(data=data_of(number))

    with pool_of(1, num_slots=64, ahead_bytes=4 << 20) as pool:
        for outcome in pool.map(large()):
            if outcome.tag == 0:
                assert 4 <= pulled <= 8
            np.testing.assert_array_equal(outcome.pixels, pixels_of(data_of(outcome.tag), SIZE_PX))
            outcome.release()
    assert pulled == 60


def test_large_bytes_arrive_whole_and_their_memory_is_given_back() -> None:
    rng = np.random.default_rng(5)
    sizes = [*map(int, rng.integers(5 << 20, 6 << 20, 8)), (64 << 10) - 1, 64 << 10, (64 << 10) + 1]
    datas = [rng.bytes(size) for size in sizes]
    with pool_of(2) as pool:
        assert_right(run(pool, refs_of(datas)), datas)
        spool = pool._dispatcher._spool.handle  # type: ignore[union-attr]
        assert os.fstat(spool).st_blocks * 512 < 1 << 20


def test_hanging_crashing_leaving_and_failing_pictures_cost_nothing_but_themselves() -> None:
    datas = [b"good %d" % number for number in range(300)]
    odd = {
        5: (b"sleep:60", "timed_out", "longer than 0.5 s"),
        6: (b"signal:11", "crashed", "SIGSEGV"),
        7: (b"signal:6", "crashed", "SIGABRT"),
        60: (b"exit:3", "crashed", "exit status 3; last words"),
        61: (b"signal:19", "timed_out", "longer than 0.5 s"),
        100: (b"bad:", "damaged", "told to be damaged"),
        101: (b"bug:", "crashed", "ZeroDivisionError: told to fail"),
        299: (b"signal:9", "crashed", "SIGKILL"),
    }
    for number, (data, _, _) in odd.items():
        datas[number] = data
    datas[200:202] = [b"environment:", b"spam:"]
    with pool_of(2, timeout_s=0.5) as pool:
        found = run(pool, refs_of(datas))
        for number, data in enumerate(datas):
            if number in odd:
                assert found[number][0] == odd[number][1], number
                assert odd[number][2] in found[number][1]
            else:
                np.testing.assert_array_equal(found[number], pixels_of(data, SIZE_PX))
        assert pool.stats.num_restarts == 2 + 2 * 4
        assert pool.stats.num_errors == len(odd)


def test_a_picture_whose_worker_was_ended_once_is_made_by_another(tmp_path: Path) -> None:
    datas = [b"a", b"once:" + os.fsencode(tmp_path / "mark"), b"b"]
    with pool_of(1) as pool:
        assert_right(run(pool, refs_of(datas)), datas)
        assert pool.stats.num_restarts == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address space is limited on Linux only")
def test_a_picture_that_eats_memory_is_too_large() -> None:
    with pool_of(1, memory_bytes=512 << 20, max_bytes=1000) as pool:
        found = run(pool, refs_of([b"a", b"eat:", b"x" * 1001, b"b"]))
        assert [found[1][0], found[2][0]] == ["too_large", "too_large"]
        assert "1,001 bytes" in found[2][1]
        np.testing.assert_array_equal(found[3], pixels_of(b"b", SIZE_PX))
        assert pool.stats.num_restarts == 0


def test_every_picture_once_while_workers_are_killed_at_random() -> None:
    rng, kills = random.Random(7), random.Random(8)
    datas = [rng.randbytes(rng.choice([10, 1000, 100_000])) for _ in range(2000)]
    stop = threading.Event()

    def kill(pool: DecodePool) -> None:
        for _ in range(8):
            running = pool.process_ids
            for process_id in kills.sample(running, min(len(running), kills.randint(0, 2))):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process_id, signal.SIGKILL)
            if stop.wait(kills.uniform(0.0, 0.4)):
                return

    found: dict[int, Any] = {}
    with pool_of(2, num_slots=100) as pool:
        assert_right(run(pool, refs_of([b"up"])), [b"up"])
        killer = threading.Thread(target=kill, args=(pool,), daemon=True)
        killer.start()
        try:
            for outcome in pool.map(refs_of(datas)):
                assert outcome.error is None or outcome.error.reason == "crashed"  # killed twice over the same picture
                found[outcome.tag] = outcome.pixels.copy() if outcome.pixels is not None else None
                outcome.release()
                time.sleep(0.0005)
        finally:
            stop.set()
            killer.join()
        assert pool.stats.num_restarts >= 4
    assert list(found) == list(range(2000))
    crashed = sum(pixels is None for pixels in found.values())
    assert crashed <= 2
    for number, pixels in found.items():
        if pixels is not None:
            np.testing.assert_array_equal(pixels, pixels_of(datas[number], SIZE_PX))


def test_what_the_iterator_raises_comes_after_the_outcomes_before_it() -> None:
    closed = []

    def failing() -> Iterator[tuple[int, PictureRef]]:
        try:
            yield from refs_of([b"%d" % number for number in range(40)])
            raise InputError("the list ends in the middle")
        finally:
            closed.append(True)

    with pool_of(2, num_slots=8) as pool:
        seen, outcomes = [], pool.map(failing())
        for outcome in itertools.islice(outcomes, 40):
            seen.append(outcome.tag)
            outcome.release()
        with pytest.raises(InputError, match="in the middle"):
            next(outcomes)
        assert seen == list(range(40))
        assert closed == [True]
        assert_right(run(pool, refs_of([b"again"])), [b"again"])


def test_a_map_that_is_left_early_leaves_the_pool_as_new() -> None:
    with pool_of(2, num_slots=6, timeout_s=5) as pool:
        for lap in range(5):
            outcomes = pool.map((number, PictureRef(data=b"lap %d %d" % (lap, number))) for number in itertools.count())
            for _ in range(lap * 3 + 1):
                next(outcomes).release()
            kept = next(outcomes)
            with pytest.raises(RuntimeError, match="one map at a time"):
                next(pool.map(iter([])))
            outcomes.close()  # type: ignore[attr-defined]
            np.testing.assert_array_equal(kept.pixels, pixels_of(b"lap %d %d" % (lap, lap * 3 + 1), SIZE_PX))
            kept.release()
        datas = [b"%d" % number for number in range(50)]
        assert_right(run(pool, refs_of(datas)), datas)
        dispatcher = pool._dispatcher
        assert dispatcher is not None
        assert sorted(dispatcher._free) == list(range(6))
    with pytest.raises(RuntimeError, match="closed"):
        next(pool.map(refs_of([b"late"])))
    with pytest.raises(RuntimeError, match="with statement"):
        next(pool_of(1).map(refs_of([b"early"])))


def left_over() -> tuple[int, int, set[Path]]:
    """Open files, threads, shared memory."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir()), threading.active_count(), set(Path("/dev/shm").iterdir())


def test_nothing_is_left_after_closing() -> None:
    with pool_of(1) as pool:
        run(pool, refs_of([b"first"]))
    gc.collect()
    before = left_over()
    process_ids: list[int] = []

    def fail() -> None:
        with pool_of(3) as pool:
            outcomes = pool.map(refs_of([b"good", *[b"sleep:30"] * 9]))
            next(outcomes).release()
            while len(process_ids) < 3:
                process_ids[:] = pool.process_ids
            assert all(map(is_running, process_ids))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    gc.collect()
    assert not any(Path(f"/proc/{process_id}").exists() for process_id in process_ids)  # no zombies either
    open_files, threads, shared = left_over()
    assert open_files <= before[0]  # fewer: what an earlier test left to the collector is gone by now
    assert threads <= before[1]
    assert shared <= before[2]


def test_workers_that_cannot_start_end_the_job_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD_DECODERS_FAIL_TO_START", "1")
    with pool_of(2) as pool, pytest.raises(BeholderError) as caught:
        run(pool, refs_of([b"x"]))
    assert "cannot be started" in str(caught.value)
    assert "told not to start" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_workers_that_die_without_end_end_the_job_with_one_line() -> None:
    with pool_of(2, most_deaths=9) as pool, pytest.raises(BeholderError, match="died 10 times") as caught:
        run(pool, refs_of([b"exit:5"] * 100))
    assert "exit status 5" in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "large").write_bytes(bytes(2000))
    (tmp_path / "empty").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        wanted = {
            "none": "missing", "file/below": "missing", "zero\0byte": "missing", ".": "unreadable", "pipe": "unreadable",
            "socket": "unreadable", "large": "too_large",
        }  # fmt: skip
        refs = [(name, PictureRef(path=str(tmp_path / name))) for name in wanted]
        file = str(tmp_path / "file")
        refs += [("device", PictureRef(path="/dev/zero")), ("past", PictureRef(path=file, offset=3, length=9))]
        refs += [("tail", PictureRef(path=file, offset=3)), ("empty", PictureRef(path=str(tmp_path / "empty")))]
        for num_workers in (0, 1):
            with pool_of(num_workers, max_bytes=1999, timeout_s=5) as pool:
                found = run(pool, iter(refs))
            reasons = {name: result[0] for name, result in found.items() if isinstance(result, tuple)}
            assert reasons == {**wanted, "device": "unreadable", "past": "truncated"}
            assert all("\n" not in result[1] for result in found.values() if isinstance(result, tuple))
            np.testing.assert_array_equal(found["tail"], pixels_of(b"45", SIZE_PX))
            np.testing.assert_array_equal(found["empty"], pixels_of(b"", SIZE_PX))


def script(body: str) -> list[str]:
    head = f"""
        import sys, time
        sys.path.insert(0, {str(TESTS)!r})
        from beholder.images.picture import PictureRef, PixelOptions
        from beholder.images.pool import DecodePool
        options = PixelOptions(size_px={SIZE_PX})
    """
    return [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(body)]


BUSY = f"""
with DecodePool(options, num_workers=2, timeout_s=1, decoder={ODD!r}) as pool:
    def refs():
        for number in range(10**9):
            yield number, PictureRef(data=b"sleep:0.02:%d" % number)
    for outcome in pool.map(refs()):
        outcome.release()
        if outcome.tag == 10:
            print(*pool.process_ids, flush=True)
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_a_caller_that_is_killed_or_interrupted(sent: signal.Signals) -> None:
    caller = subprocess.Popen(script(BUSY), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True)
    assert caller.stdout is not None
    process_ids = [int(word) for word in caller.stdout.readline().split()]
    assert len(process_ids) == 2
    assert all(map(is_running, process_ids))
    os.killpg(caller.pid, sent)
    _, errors = caller.communicate(timeout=10)
    assert caller.returncode in (-sent, 130)
    assert errors.count("Traceback") == (sent == signal.SIGINT), errors  # of the caller alone
    wait_until_gone(process_ids, 3.0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere it ends 5 s after its time limit")
def test_a_hanging_worker_ends_even_when_its_caller_is_killed() -> None:
    body = f"""
        import threading
        with DecodePool(options, num_workers=2, decoder={ODD!r}) as pool:
            threading.Timer(0.6, lambda: print(*pool.process_ids, flush=True)).start()
            list(pool.map((n, PictureRef(data=b"sleep:1000")) for n in range(4)))
    """
    caller = subprocess.Popen(script(body), stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    process_ids = [int(word) for word in caller.stdout.readline().split()]
    assert len(process_ids) == 2
    caller.kill()
    caller.wait()
    wait_until_gone(process_ids, 3.0)


def test_a_script_without_a_main_guard_runs_once() -> None:
    body = """
        print("started")
        with DecodePool(options, num_workers=2, decoder="oracles.odd_decoders:prepare") as pool:
            print(sum(outcome.error is None for outcome in pool.map((n, PictureRef(data=b"%d" % n)) for n in range(20))))
    """
    done = subprocess.run(script(body), capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.split() == ["started", "20"]


def in_process(queue: Any) -> None:
    datas = [b"%d" % number for number in range(40)]
    with pool_of(2) as pool:
        queue.put({tag: pixels.tolist() for tag, pixels in run(pool, refs_of(datas)).items()})


def test_inside_a_daemonic_process() -> None:
    import multiprocessing

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=in_process, args=(queue,), daemon=True)
    process.start()
    found = queue.get(timeout=20)
    process.join(10)
    assert process.exitcode == 0
    assert_right({tag: np.array(pixels, np.uint8) for tag, pixels in found.items()}, [b"%d" % number for number in range(40)])


def test_inside_a_data_loader_worker() -> None:
    from torch.utils.data import DataLoader, IterableDataset

    class Pictures(IterableDataset[np.ndarray]):
        def __iter__(self) -> Iterator[np.ndarray]:
            with pool_of(1) as pool:
                for outcome in pool.map(refs_of([b"%d" % number for number in range(20)])):
                    pixels = np.array(outcome.pixels)
                    outcome.release()
                    yield pixels

    found = [batch.numpy() for batch in DataLoader(Pictures(), batch_size=None, num_workers=1)]
    assert_right(dict(enumerate(found)), [b"%d" % number for number in range(20)])


def test_in_several_threads_at_once() -> None:
    datas = [b"%d" % number for number in range(100)]
    found: list[dict[int, Any]] = []

    def work() -> None:
        with pool_of(1) as pool:
            found.append(run(pool, refs_of(datas)))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for one in found:
        assert_right(one, datas)


def test_a_forked_child_can_neither_use_nor_end_the_pool_of_its_parent() -> None:
    with pool_of(1) as pool:
        assert_right(run(pool, refs_of([b"a"])), [b"a"])
        child = os.fork()
        if child == 0:
            code = 1
            try:
                next(pool.map(refs_of([b"b"])))
            except RuntimeError:
                pool.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert_right(run(pool, refs_of([b"c"])), [b"c"])
        assert pool.stats.num_restarts == 0


def test_stats_tell_where_the_time_goes() -> None:
    with pool_of(2) as pool:
        run(pool, refs_of([b"sleep:0.02:%d" % number for number in range(40)]))
        stats = pool.stats
        assert 0.8 <= stats.decode_s < 2.0
        assert stats.read_s < 0.2
        assert stats.wait_s >= 0.35
        assert stats.busy > 0.5
        assert stats.slowest == "decode"

    def slow() -> Iterator[tuple[int, PictureRef]]:
        for number in range(30):
            time.sleep(0.02)
            yield number, PictureRef(data=b"%d" % number)

    with pool_of(2) as pool:
        run(pool, refs_of([b"started"]))
        run(pool, slow())
        assert pool.stats.source_s >= 0.6
        assert pool.stats.busy < 0.5
        assert pool.stats.slowest == "read"


def test_options_that_make_no_sense() -> None:
    for wrong in ({"num_workers": -1}, {"num_slots": 0}, {"timeout_s": 0.0}, {"num_readers": 0}):
        with pytest.raises(InputError):
            DecodePool(PixelOptions(), **{"num_workers": 1, **wrong})
