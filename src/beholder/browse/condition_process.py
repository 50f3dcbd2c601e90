"""A process that gets conditions over a socket and answers with the rows that meet them; its database reaches no file.

A request is one JSON message, an answer one JSON message and the bytes it announces.
"""

from __future__ import annotations

import os

os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # another one sets memory aside before the limit is there

import json
import shutil
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

import beholder
from beholder.browse.rows import VIEW, as_json
from beholder.columns import SAMPLE
from beholder.errors import BeholderError, InputError
from beholder.scoreset.database import (
    Remedy,
    check_expression,
    clear_errors,
    connect,
    is_out_of_memory,
    limit_for_good,
    rows_of,
)
from beholder.scoreset.score_set import ROW, quoted
from beholder.scoreset.untyped import Form, Untyped
from beholder.workers.child_process import set_up_process

SHOWN = "shown"
"""The rows of VIEW that satisfy the conditions the program was started with."""
MOST_LETTERS = 20_000
_GRACE_S = 5.0
"""Past its time the system itself ends this process, should its parent be stopped."""
_DATABASE_SHARE = 0.75
"""Of the memory: DuckDB puts the rest on the disk from there on. Lists and texts are outside of its own count."""
_FIRST_ROWS = 20_000
"""So many rows tell of most columns that they have many values."""
_LONG_VALUE = 200
_MOST_TEMPORARY = "10GB"


def main(config: dict[str, Any]) -> None:
    """Answer one request after the other until the other end of the socket is closed; never returns.

    Args:
        config: `rows`, a descriptor of the Arrow file with the rows; `shown`, one of a file with a byte for each row, 1 where
            it is shown, or None: all are; `sample_column`; `untyped`, columns of text that may be
            meant as numbers; `scratch`, a folder for this process alone; `threads`; `memory_bytes`, which the system lets
            this process have beyond what it starts with; `parent` and `socket`.
    """
    set_up_process(config["parent"])
    connection = Connection(config["socket"])
    database = _Database(config)
    limit_for_good(config["memory_bytes"])
    try:
        connection.send_bytes(json.dumps({"package": str(beholder.__file__)}).encode())
        while True:
            signal.setitimer(signal.ITIMER_REAL, 0)
            request = json.loads(connection.recv_bytes())
            signal.setitimer(signal.ITIMER_REAL, request["limit_s"] + _GRACE_S)
            answer, data = database.answer(request)
            connection.send_bytes(json.dumps({**answer, "has_data": data is not None}).encode())
            if data is not None:
                connection.send_bytes(data)
    except (EOFError, OSError):
        os._exit(0)


class _Database:
    """DuckDB over the mapped rows, which it sees as the view `scores`, and nothing else.

    File access, extensions, secrets, Python variables and its own settings are shut before the first condition is run.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        forms = {name: Form(**form) for name, form in config["forms"].items()}
        self._untyped = Untyped(config["untyped"], forms)
        self._table = _mapped(config["rows"], config["sample_column"])
        scratch = Path(config["scratch"])
        shutil.rmtree(scratch, ignore_errors=True)  # of a process before this one, which was killed
        memory = int(config["memory_bytes"] * _DATABASE_SHARE)
        self._connection = connect(scratch, memory=memory, num_threads=max(1, config["threads"]))
        for line in (
            f"SET max_temp_directory_size = '{_MOST_TEMPORARY}'",
            "SET python_enable_replacements = false",
            "SET allow_community_extensions = false",
            "SET enable_external_access = false",
            "SET lock_configuration = true",
        ):
            self._connection.execute(line)
        self._connection.register(VIEW, self._table)
        self._register_shown(config["shown"])
        check_expression(self._connection, "true", VIEW)  # all threads and modules are there before the first request

    def _register_shown(self, handle: int | None) -> None:
        """Have the view SHOWN: all rows, or those of which the file behind a descriptor has a 1."""
        if handle is None:
            self._connection.register(SHOWN, self._table)
            return
        name = "beholder_shown"
        while name in self._table.column_names:
            name += "_"
        mask = np.fromfile(f"/proc/self/fd/{handle}", np.bool_)
        self._connection.register("all_rows", self._table.append_column(name, pa.array(mask)))
        query = f"SELECT * EXCLUDE ({quoted(name)}) FROM all_rows WHERE {quoted(name)}"
        self._connection.execute(f"CREATE TEMP VIEW {SHOWN} AS {query}")

    def answer(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes | None]:
        """What to send: the answer, or `error`, and whether it is short of memory, or worn: then another process is better."""
        try:
            found: tuple[dict[str, Any], bytes | None] = getattr(self, f"_{request['wanted']}")(**request["arguments"])
        except (BeholderError, MemoryError, duckdb.Error) as error:
            is_short = is_out_of_memory(error) or not isinstance(error, InputError | duckdb.Error)
            is_short = is_short or isinstance(error, duckdb.OutOfMemoryException)
            is_worn = is_short or isinstance(error, duckdb.InternalException | duckdb.FatalException)
            return {"error": str(error), "is_short": is_short, "is_worn": is_worn}, None
        return found

    def _matching(self, conditions: list[str], named: str) -> tuple[dict[str, Any], bytes]:
        """A bit for each row, 1 where all conditions are true."""
        fitted = []
        for text in conditions:
            if len(text) > MOST_LETTERS:
                raise InputError(f"the condition has {len(text):,} letters, the most is {MOST_LETTERS:,}")
            fitted.append(check_expression(self._connection, text, VIEW, "condition", self._untyped))
        both = " AND ".join(f"(\n{text}\n)" for text in fitted)
        mask = np.zeros(self._table.num_rows, np.bool_)
        with clear_errors(named, Remedy(is_condition=True)):
            for rows in rows_of(self._connection, f"SELECT {ROW} FROM {VIEW} WHERE {both}"):
                mask[rows] = True
        return {}, np.packbits(mask).tobytes()

    def _few_values(self, column: str, most: int, named: str) -> tuple[dict[str, Any], None]:
        """All values of a column in the rows shown, commonest first; None where there are more than `most`, or long texts."""
        first = f"SELECT count(DISTINCT v) AS found FROM (SELECT {column} AS v FROM {SHOWN} LIMIT {_FIRST_ROWS})"
        if self._columns(first, named)["found"][0] > most:
            return {"values": None}, None
        query = f"SELECT {column} AS value, count(*) AS count FROM {SHOWN} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {int(most) + 1}"
        found = self._columns(query, named)
        pairs = zip(found["value"], found["count"], strict=True)
        values = [{"value": as_json(_plain(value)), "count": int(count)} for value, count in pairs]
        is_long = any(isinstance(item["value"], str) and len(item["value"]) > _LONG_VALUE for item in values)
        return {"values": None if is_long or len(values) > most else values}, None

    def _range(self, name: str, named: str) -> tuple[dict[str, Any], None]:
        """The least and the largest value of a column of numbers in the rows shown."""
        with clear_errors(named):
            form = self._untyped.forms(self._connection, VIEW).get(name)
        column = quoted(name) if form is None else form.sql(quoted(name))
        query = f"SELECT min({column}) AS least, max({column}) AS largest FROM {SHOWN} WHERE NOT isnan({column}::DOUBLE)"
        found = self._columns(query, named)
        return {"range": [as_json(_plain(found[name][0])) for name in ("least", "largest")]}, None

    def _columns(self, query: str, named: str) -> dict[str, Any]:
        with clear_errors(named):
            found: dict[str, Any] = self._connection.execute(query).fetchnumpy()
            return found


def _mapped(handle: int, sample_column: str) -> pa.Table:
    """The rows in the Arrow file behind a descriptor; its name is gone already."""
    table = pa.ipc.open_file(pa.memory_map(f"/proc/self/fd/{handle}")).read_all()
    return table if sample_column in table.column_names else table.append_column(sample_column, table.column(SAMPLE))


def _plain(value: Any) -> Any:
    """A numpy scalar as Python has it; masked values are None."""
    if value is np.ma.masked or value is None:
        return None
    return value.item() if isinstance(value, np.generic) and not isinstance(value, np.datetime64) else value
