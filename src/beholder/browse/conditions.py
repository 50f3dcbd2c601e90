"""Conditions that people write or click, worked out in processes with a limit of time and memory."""

from __future__ import annotations

import functools
import json
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.browse.condition_process import MEMORY_FAULT, VIEW
from beholder.browse.pictures import Busy
from beholder.browse.rows import RowStore
from beholder.columns import SAMPLE
from beholder.errors import BeholderError, InputError
from beholder.scoreset.database import Remedy, all_rows, clear_errors, connect, count_of, interruptible, mask_where
from beholder.scoreset.score_set import ROW, quoted, text_literal
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
_CLOSE_S = 5.0
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
        self._few: dict[str, list[dict[str, Any]] | None] = {}
        self._ranges: dict[str, tuple[Any, Any]] = {}
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._num_busy = 0
        self._is_closed = False
        self._workers = [_Worker(self, {**config, "scratch": str(scratch / f"duckdb-{at}")}) for at in range(_AT_ONCE)]

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
        with self._changed:
            if self._workers[0].ident is None and not self._is_closed:
                self._workers[0].start()

    def close(self) -> None:
        """End what runs, and the processes."""
        with self._changed:
            self._is_closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for job in waiting:
            job.result.set_exception(InputError(_ENDED))
        deadline = time.monotonic() + _CLOSE_S
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            if worker.ident is not None:
                worker.join(max(0.0, deadline - time.monotonic()))
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
        named = f"condition {_short(' and '.join(conditions))}"
        _, data = self._ask("matching", named, conditions=list(conditions))
        mask = np.unpackbits(np.frombuffer(data, np.uint8), count=self._store.num_rows).view(np.bool_)
        return mask if self.shown is None else mask & self.shown

    def few_values(self, name: str) -> list[dict[str, Any]] | None:
        """All values of a column, `value` and `count`, commonest first; None: more than `MOST_VALUES`, or long texts; kept.

        Of the rows `shown`. Raises InputError, Busy.
        """
        if name not in self._few:
            named = f"condition {_short(quoted(name))}"
            self._few[name] = self._ask("few_values", named, column=quoted(name), most=MOST_VALUES)[0]["values"]
        return self._few[name]

    def range_of(self, name: str) -> tuple[Any, Any]:
        """The least and the largest value of a column of numbers in the rows `shown`, no NaN; kept. Raises InputError, Busy."""
        if name not in self._ranges:
            named = f"condition {_short(quoted(name))}"
            least, largest = self._ask("range", named, name=name)[0]["range"]
            self._ranges[name] = (least, largest)
        return self._ranges[name]

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
        with self._changed:
            if self._is_closed:
                raise InputError(_ENDED)
            if len(self._waiting) >= _MOST_WAITING:
                raise Busy
            self._waiting.append(job)
            unstarted = [worker for worker in self._workers if worker.ident is None]
            if unstarted and len(self._waiting) > len(self._workers) - len(unstarted) - self._num_busy:
                unstarted[0].start()
            self._changed.notify()
        return job.result.result()

    def _next_job(self) -> _Job | None:
        """What is to be done next; None: nothing any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            if self._is_closed:
                return None
            self._num_busy += 1
            return self._waiting.popleft()

    def _is_done(self) -> None:
        """A job is over."""
        with self._changed:
            self._num_busy -= 1

    @property
    def num_busy(self) -> int:
        """Conditions that are being worked out."""
        return self._num_busy

    @property
    def is_closed(self) -> bool:
        """Whether everything is to end."""
        return self._is_closed


@dataclass(frozen=True)
class _Job:
    """A request and who waits for its answer; `is_condition`: whether someone wrote what is worked out."""

    request: bytes
    named: str
    limit_s: float
    is_condition: bool
    result: Future[tuple[dict[str, Any], bytes]] = field(default_factory=Future)

    @property
    def advice(self) -> str:
        """The end of a message."""
        return "; write a simpler one" if self.is_condition else ""


class _Worker(threading.Thread):
    """Has a process work for `Conditions`; a process ends with the thread that started it, so it has one of its own."""

    def __init__(self, conditions: Conditions, config: dict[str, Any]) -> None:
        super().__init__(name="beholder-conditions", daemon=True)
        self._conditions, self._config = conditions, config
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._socket: Connection | None = None

    @property
    def process_id(self) -> int | None:
        """Of its process; None: there is none."""
        with self._lock:
            return None if self._child is None else self._child.process_id

    def kill(self) -> None:
        """End its process; any thread may do that."""
        with self._lock:
            if self._child is not None:
                self._child.kill()

    def run(self) -> None:
        """Work until all is closed."""
        self._start_early()
        while (job := self._conditions._next_job()) is not None:
            try:
                answer = self._answer(job)
            except BaseException as error:  # it belongs to whoever waits for the answer
                job.result.set_exception(error)
            else:
                job.result.set_result(answer)
            self._conditions._is_done()
            del job
            self._start_early()
        self._end()

    def _start_early(self) -> None:
        """Have a process ready for the next request; why there is none is said to whoever asks for something."""
        if not self._conditions.is_closed and not self._is_alive():
            try:
                self._start()
            except BeholderError:
                self._end()

    def _answer(self, job: _Job) -> tuple[dict[str, Any], bytes]:
        """The answer of a process; of one that ended over it another is asked, since it may have been ended from outside."""
        told = ""
        for _ in range(_MOST_TRIES):
            if not self._is_alive():
                self._start()
            try:
                return self._asked(job)
            except (EOFError, OSError):
                how, words = self._end()
                if self._conditions.is_closed:
                    raise InputError(_ENDED) from None
                if how == _ALARM:
                    raise self._over_time(job) from None
                told = "; ".join(filter(None, (how, words)))
        raise InputError(f"{job.named}: the database ended over it, {_MOST_TRIES} times ({told}){job.advice}")

    def _asked(self, job: _Job) -> tuple[dict[str, Any], bytes]:
        """The answer of the process that is there. Raises EOFError, OSError: it is gone."""
        assert self._socket is not None
        self._socket.send_bytes(job.request)
        if not self._socket.poll(job.limit_s):
            self._end()
            raise self._over_time(job)
        answer = json.loads(self._socket.recv_bytes())
        data = self._socket.recv_bytes() if answer["has_data"] else b""
        if "error" in answer:
            if answer["is_worn"]:
                self._end()
            if answer["kind"] == MEMORY_FAULT:
                raise InputError(f"{job.named}: it needs more memory than it may use{job.advice}")
            raise InputError(answer["error"])
        return answer, data

    @staticmethod
    def _over_time(job: _Job) -> InputError:
        return InputError(f"{job.named}: longer than {job.limit_s:g} s{job.advice}")

    def _is_alive(self) -> bool:
        """Whether there is a process; an idle one has nothing to say but that it is gone."""
        if self._socket is None:
            return False
        if self._socket.poll(0):
            self._end()
            return False
        return True

    def _start(self) -> None:
        """Have a new process that is up. Raises BeholderError."""
        how = ""
        handles = [handle for handle in (self._config["rows"], self._config["shown"]) if handle is not None]
        for num_failures in range(1, MOST_STARTS + 1):
            if self._conditions.is_closed:
                raise InputError(_ENDED)
            try:
                child = ChildProcess("beholder.browse.condition_process", self._config, handles)
            except (OSError, ValueError) as error:
                how = " ".join(str(error).split())
            else:
                with self._lock:
                    self._child = child
                self._socket = Connection(os.dup(child.socket.fileno()))
                if self._conditions.is_closed:
                    child.kill()
                try:
                    if self._socket.poll(START_S):
                        check_package(json.loads(self._socket.recv_bytes())["package"])
                        return
                except (EOFError, OSError):
                    pass
                how = ": ".join(filter(None, self._end()))
            time.sleep(START_PAUSE_S * num_failures)
        text = f"no process can be started to work out conditions in ({how})"
        raise BeholderError(f"{text}; mend that (memory, ulimit -u, ulimit -n), then try again")

    def _end(self) -> tuple[str, str]:
        """End the process: how it ended, and the last line it wrote."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        with self._lock:
            child, self._child = self._child, None
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


def _short(text: str) -> str:
    shown = " ".join(text.split())
    return f"'{shown}'" if len(shown) <= 120 else f"'{shown[:117]}...'"


def condition_of(
    column: str, kind: str, *, low: Any = None, high: Any = None, text: str = "", values: Sequence[Any] = ()
) -> str:
    """The SQL of a clicked filter: what `select --where` takes as well.

    Args:
        column: its name.
        kind: "range" (low and high, either may be None), "contains" (text, whatever its case), "in" (values; None is NULL),
            "null" or "not_null".
        low: the least value, or None.
        high: the largest value, or None.
        text: what the value has to hold.
        values: which values.

    Raises:
        InputError: a filter that says nothing.
    """
    name = quoted(column)
    if kind == "range" and (low is not None or high is not None):
        parts = [f"{name} {sign} {_literal(end)}" for sign, end in ((">=", low), ("<=", high)) if end is not None]
        return " AND ".join(parts)
    if kind == "contains" and text:
        return f"contains(lower({name}::VARCHAR), lower({text_literal(text)}))"
    if kind == "in" and values:
        listed = [_literal(value) for value in values if value is not None]
        parts = [f"{name} IN ({', '.join(listed)})"] if listed else []
        parts += [f"{name} IS NULL"] if None in values else []
        return f"({' OR '.join(parts)})" if len(parts) > 1 else parts[0]
    if kind in ("null", "not_null"):
        return f"{name} IS {'NOT ' if kind == 'not_null' else ''}NULL"
    raise InputError(f"the filter on {column} says nothing")


def _literal(value: Any) -> str:
    """A value as SQL takes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return text_literal(str(value))
