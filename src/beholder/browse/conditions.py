"""Conditions that people write or click, worked out in processes with a limit of time and memory."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
import time
import weakref
from collections.abc import Collection, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.browse.newest_first import Busy
from beholder.browse.rows import VIEW, RowStore
from beholder.columns import SAMPLE
from beholder.errors import BeholderError, InputError
from beholder.scoreset.database import Remedy, all_rows, clear_errors, connect, count_of, in_quotes, interruptible, mask_where
from beholder.scoreset.score_set import ROW, quoted
from beholder.scoreset.untyped import Form, Untyped
from beholder.workers.child_process import MOST_STARTS, START_PAUSE_S, START_S, ChildProcess, check_package, status_text

TIME_LIMIT_S = 20.0
MEMORY_BYTES = 2 << 30
"""What a process may use beyond what it starts with."""
MOST_VALUES = 20
"""Columns with at most so many values have them listed."""
_AT_ONCE = 2
_MOST_WAITING = 16
_MOST_TRIES = 2
"""A condition that so many processes ended over is to blame; once, one may also have been ended from outside."""
_ALARM = "SIGALRM"
"""How a process ends that ended itself, its time being up."""
_ENDED = "beholder browse was stopped"


class Conditions:
    """Answers which rows satisfy SQL expressions. Thread-safe; few at once, each within a time and the memory of a process.

    The expressions are worked out by DuckDB in up to two processes of their own (`condition_process`), which stay warm. One
    that is over its time is killed, one that was short of memory is ended; another takes its place at once. Names are looked
    up by a DuckDB in this process: nobody writes those questions. So are the conditions of whoever starts the program worked
    out, once and with the limits that they have in `beholder select`.

    Attributes:
        shown: (N,) bool, the rows that satisfy those conditions; None: there are none, so all rows are shown.
        forms: what the columns without a type hold, of those whose values are all numbers, truth values, dates or times.
        num_busy: questions that have no answer yet.
    """

    def __init__(
        self,
        store: RowStore,
        scratch: Path,
        *,
        threads: int,
        where: Sequence[str] = (),
        time_limit_s: float = TIME_LIMIT_S,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        """Work out `where`, conditions that all rows satisfy that are shown. Raises BeholderError."""
        self._store, self._time_limit_s = store, time_limit_s
        self._names = connect(scratch / "names", num_threads=threads)
        self._names.register(VIEW, store.table)
        self._names_lock = threading.Lock()
        self.forms = self._forms_of(store.untyped)
        self.shown = self._rows_of(where)
        shown = None if self.shown is None else _written(self.shown, scratch / "shown")
        if shown is not None:
            weakref.finalize(self, os.close, shown)
        config = {
            "rows": store.handle,
            "shown": shown,
            "sample_column": store.sample_column,
            "threads": threads,
            "memory_bytes": memory_bytes,
            "untyped": list(store.untyped),
            "forms": {name: asdict(form) for name, form in self.forms.items()},
        }
        self._kept: dict[tuple[str, str], dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._own = threading.local()
        self._workers: list[_Worker] = []
        self._pool = ThreadPoolExecutor(_AT_ONCE, "beholder-conditions", self._add_worker, (config, scratch))
        self.num_busy, self.is_closed = 0, False

    def _add_worker(self, config: dict[str, Any], scratch: Path) -> None:
        """Have a process for this thread of the pool; a process ends with the thread that started it."""
        with self._lock:
            worker = _Worker({**config, "scratch": str(scratch / f"duckdb-{len(self._workers)}")})
            self._workers.append(worker)
            if self.is_closed:
                worker.close()
        self._own.worker = worker
        worker.begin()

    def _forms_of(self, names: Collection[str]) -> dict[str, Form]:
        """What the columns without a type hold. It takes as long as it takes: all their values are looked at, once."""
        untyped = Untyped(names)
        with clear_errors("the columns of a CSV cannot be looked through"):
            return interruptible(self._names, lambda: untyped.forms(self._names, VIEW)) if names else {}

    def _rows_of(self, where: Sequence[str]) -> npt.NDArray[np.bool_] | None:
        """The rows that satisfy all conditions of `where`; None: there are none. It takes as long as it takes."""
        if not where:
            return None
        untyped = Untyped(self._store.untyped, self.forms)
        masks = (
            mask_where(self._names, text, VIEW, self._store.num_rows, untyped, Remedy(is_condition=True)) for text in where
        )
        return functools.reduce(np.logical_and, masks)

    def warm_up(self) -> None:
        """Have a process ready for the first condition; does not wait for it."""
        with self._lock:
            if not self._workers and not self.is_closed:
                self._pool.submit(lambda: None)

    def close(self) -> None:
        """End what runs, and the processes."""
        with self._lock:
            self.is_closed = True
        for worker in self._workers:
            worker.close()
        self._pool.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.end()
        self._names.interrupt()
        with self._names_lock:
            self._names.close()

    @property
    def process_ids(self) -> list[int]:
        """Of the processes that run now."""
        return [process_id for worker in self._workers if (process_id := worker.process_id) is not None]

    def matching(self, conditions: Sequence[str]) -> npt.NDArray[np.bool_]:
        """(N,) bool: rows `shown` for which every condition is true; NULL counts as false. Raises InputError, one line; Busy.

        What is a condition is decided as for `beholder select --where`.
        """
        if not conditions:
            return np.ones(self._store.num_rows, np.bool_) if self.shown is None else self.shown
        named = f"condition {in_quotes(' and '.join(conditions))}"
        _, data = self._ask("matching", named, conditions=list(conditions))
        mask = np.unpackbits(np.frombuffer(data, np.uint8), count=self._store.num_rows).view(np.bool_)
        return mask if self.shown is None else mask & self.shown

    def few_values(self, name: str) -> list[dict[str, Any]] | None:
        """All values of a column, `value` and `count`, commonest first; None: more than `MOST_VALUES`, or long texts; kept.

        Of the rows `shown`. Raises InputError, Busy.
        """
        found: list[dict[str, Any]] | None = self._ask_once("few_values", name, column=quoted(name), most=MOST_VALUES)["values"]
        return found

    def range_of(self, name: str) -> tuple[Any, Any]:
        """The least and the largest value of a column of numbers in the rows `shown`, no NaN; kept. Raises InputError, Busy."""
        least, largest = self._ask_once("range", name, name=name)["range"]
        return least, largest

    def _ask_once(self, wanted: str, name: str, /, **arguments: Any) -> dict[str, Any]:
        """What a process says of a column; kept."""
        if (wanted, name) not in self._kept:
            self._kept[wanted, name] = self._ask(wanted, f"condition {in_quotes(quoted(name))}", **arguments)[0]
        return self._kept[wanted, name]

    def has_unique_names(self) -> bool:
        """Whether no two rows surely share a name (by 64-bit hashes: chance may say no where it is yes, never the reverse)."""
        with self._names_lock:
            return count_of(self._names, f"(SELECT DISTINCT hash({SAMPLE}) FROM {VIEW})") == self._store.num_rows

    def rows_named(self, names: Sequence[str]) -> dict[str, list[int]]:
        """Rows with these names."""
        found: dict[str, list[int]] = {}
        if not names:
            return found
        with self._names_lock:
            self._names.register("wanted", pa.table({SAMPLE: pa.array(list(dict.fromkeys(names)), pa.large_string())}))
            query = f"SELECT {SAMPLE}, {ROW} FROM {VIEW} SEMI JOIN wanted USING ({SAMPLE}) ORDER BY {ROW}"
            for name, row in all_rows(self._names, query):
                found.setdefault(name, []).append(row)
        return found

    def _ask(self, wanted: str, named: str, **arguments: Any) -> tuple[dict[str, Any], bytes]:
        """An answer of a process.

        Args:
            wanted: what `condition_process` calls it.
            named: how messages call what is asked for.
            arguments: JSON-ready.
        """
        request = {"wanted": wanted, "arguments": {**arguments, "named": named}, "limit_s": self._time_limit_s}
        job = _Job(json.dumps(request).encode(), named, self._time_limit_s, wanted == "matching")
        with self._lock:
            if self.is_closed:
                raise InputError(_ENDED)
            if self.num_busy >= _AT_ONCE + _MOST_WAITING:
                raise Busy
            self.num_busy += 1
            answer: Future[tuple[dict[str, Any], bytes]] = self._pool.submit(lambda: self._own.worker.answer(job))
        try:
            return answer.result()
        except CancelledError:
            raise InputError(_ENDED) from None
        finally:
            with self._lock:
                self.num_busy -= 1


@dataclass(frozen=True)
class _Job:
    """A request for a process; `is_condition`: whether someone wrote what is worked out."""

    request: bytes
    named: str
    limit_s: float
    is_condition: bool

    @property
    def advice(self) -> str:
        """The end of a message."""
        return "; write a simpler one" if self.is_condition else ""

    @property
    def over_time(self) -> InputError:
        """What is said where it takes too long."""
        return InputError(f"{self.named}: longer than {self.limit_s:g} s{self.advice}")


class _Worker:
    """A process that works out what is asked for, and another one in its place when it ends. Of one thread, but for `close`."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._socket: Connection | None = None
        self._is_up = self._is_closed = False

    @property
    def process_id(self) -> int | None:
        """Of its process; None: there is none."""
        child = self._child
        return None if child is None else child.process_id

    def close(self) -> None:
        """Kill the process, and start no other; any thread may do that."""
        with self._lock:
            self._is_closed = True
            if self._child is not None:
                self._child.kill()

    def answer(self, job: _Job) -> tuple[dict[str, Any], bytes]:
        """The answer of a process; of one that ended over it another is asked, since it may have been ended from outside."""
        how = ""
        try:
            for _ in range(_MOST_TRIES):
                self._wait_until_up()
                try:
                    return self._asked(job)
                except (EOFError, OSError):
                    status, words = self.end()
                if self._is_closed:
                    raise InputError(_ENDED)
                if status == _ALARM:
                    raise job.over_time
                how = "; ".join(filter(None, (status, words)))
            raise InputError(f"{job.named}: the database ended while it worked on it, {_MOST_TRIES} times ({how}){job.advice}")
        finally:
            if self._child is None:
                self.begin()  # the next one need not wait for it

    def _asked(self, job: _Job) -> tuple[dict[str, Any], bytes]:
        """The answer of the process that is there. Raises EOFError, OSError: it is gone."""
        assert self._socket is not None
        self._socket.send_bytes(job.request)
        if not self._socket.poll(job.limit_s):
            self.end()
            raise job.over_time
        answer = json.loads(self._socket.recv_bytes())
        data = self._socket.recv_bytes() if answer["has_data"] else b""
        if "error" in answer:
            if answer["is_worn"]:
                self.end()
            if answer["is_short"]:
                raise InputError(f"{job.named}: it needs more memory than it may use{job.advice}")
            raise InputError(answer["error"])
        return answer, data

    def begin(self) -> str:
        """Start a process, which need not be up yet; returns why there is none, or ""."""
        handles = [handle for handle in (self._config["rows"], self._config["shown"]) if handle is not None]
        with self._lock:
            if self._is_closed:
                return _ENDED
            try:
                self._child = ChildProcess("beholder.browse.condition_process", self._config, handles)
            except (OSError, ValueError) as error:
                return " ".join(str(error).split())
        self._socket, self._is_up = Connection(self._child.socket.detach()), False  # takes no further descriptor
        return ""

    def _wait_until_up(self) -> None:
        """Have a process that is up. Raises BeholderError."""
        if self._is_up and self._socket is not None and self._socket.poll(0):  # an idle one says nothing but that it is gone
            self.end()
        how = ""
        for num_failures in range(1, MOST_STARTS + 1):
            if self._is_up:
                return
            if self._child is None:
                how = self.begin()
            if self._is_closed:
                raise InputError(_ENDED)
            if self._socket is not None:
                with contextlib.suppress(EOFError, OSError):
                    if self._socket.poll(START_S):
                        check_package(json.loads(self._socket.recv_bytes())["package"])
                        self._is_up = True
                        return
                how = ": ".join(filter(None, self.end()))
            time.sleep(START_PAUSE_S * num_failures)
        text = f"no process can be started to work out conditions in ({how})"
        raise BeholderError(f"{text}; mend that (memory, ulimit -u, ulimit -n), then try again")

    def end(self) -> tuple[str, str]:
        """End the process: how it ended, and the last line it wrote."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        with self._lock:
            child, self._child, self._is_up = self._child, None, False
        if child is None:
            return "", ""
        how, words = status_text(child.stop()), child.stderr_tail()
        child.close()
        return how, words


def _written(mask: npt.NDArray[np.bool_], path: Path) -> int:
    """A descriptor of a file, whose name is gone already, that holds a mask for other processes, one byte a row."""
    mask.tofile(path)
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    path.unlink()
    return handle
