"""Whoever calls the decode pool: killed, interrupted, a daemon, a thread, a fork; workers end with it and nothing is left."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles.odd_pools import ODD, SIZE_PX, assert_right, pool_of, refs_of, run
from oracles.processes import is_running, wait_until_gone

TESTS = Path(__file__).resolve().parents[1]


def left_over() -> tuple[int, int, set[Path]]:
    """Open files, threads, shared memory (folders there are other tests')."""
    shared = {path for path in Path("/dev/shm").iterdir() if not path.is_dir()}
    return sum(1 for _ in Path("/proc/self/fd").iterdir()), threading.active_count(), shared


@pytest.mark.slow
def test_nothing_is_left_after_closing() -> None:
    with pool_of(1) as pool:
        run(pool, refs_of([b"first"]))
    gc.collect()
    before = left_over()
    process_ids: list[int] = []

    def fail() -> None:
        with pool_of(3) as pool:
            outcomes = pool.map(refs_of([b"good", *[b"sleep:4"] * 9]))
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


def script(body: str) -> list[str]:
    head = f"""
        import signal, sys, time
        signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background, such as tests, ignore it
        sys.path.insert(0, {str(TESTS)!r})
        from beholder.pixels.picture import PixelOptions
        from beholder.sources.reader import PictureRef
        from beholder.workers.pool import DecodePool
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


CLOSING = f"""
import os
with DecodePool(options, num_workers=1, timeout_s=5, decoder={ODD!r}) as pool:
    for outcome in pool.map(enumerate([PictureRef(data=b"first")])):
        outcome.release()
    for name in os.listdir("/proc/self/fd"):
        if "beholder-spool" in os.readlink(f"/proc/self/fd/{{name}}"):
            os.close(int(name))
            break
    next(pool.map(enumerate([PictureRef(data=bytes(1 << 20))])))
"""


def test_a_program_that_closes_our_descriptors_is_told_of_the_first_that_is_missed() -> None:
    """The pool ends over it; that it cannot close it either neither hides that nor leaves the caller waiting."""
    done = subprocess.run(script(CLOSING), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "os.pwrite(" in done.stderr
    assert "os.close" not in done.stderr
    assert done.stderr.splitlines()[-1] == "OSError: [Errno 9] Bad file descriptor"


@pytest.mark.slow
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


INSIDE = f"""
import threading
def interrupt(frame, event, arg):
    if event == "return":
        sys.settrace(None)
        raise KeyboardInterrupt
    return interrupt
with DecodePool(options, num_workers=1, decoder={ODD!r}) as pool:
    for outcome in pool.map((number, PictureRef(data=b"sleep:0.02:%d" % number)) for number in range(40)):
        outcome.release()
        if outcome.tag == 5:
            sys.settrace(lambda frame, *_: interrupt if frame.f_code is threading.Condition.__enter__.__code__ else None)
    sys.settrace(None)
"""


def test_an_interrupt_wherever_a_lock_is_taken_does_not_hang_the_caller() -> None:
    """Ctrl-C the moment when a condition has taken its lock, in the caller's thread: nothing else would ever get it."""
    done = subprocess.run(script(INSIDE), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1, 130), done.stderr
    assert done.stderr.count("Traceback") <= 1


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
