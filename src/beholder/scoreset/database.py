"""DuckDB for score sets: connections, users' conditions checked and run, its errors as one line, and a bound on memory.

The bound is on what this process may take beyond what it has now, for a while or for good. It counts private memory that can
be written to (RLIMIT_DATA, Linux 4.7 and newer); mapped files and address space that is only set aside are free. What would
go beyond it fails where it is asked for: MemoryError, or what a library makes of that.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.errors import BeholderError, InputError, clipped
from beholder.scoreset.score_set import ROW, text_literal
from beholder.scoreset.untyped import Untyped

if TYPE_CHECKING:
    import duckdb

T = TypeVar("T")

_BATCH_ROWS = 1 << 20
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL")


def is_number(kind: str) -> bool:
    """Whether a type of DuckDB's is one of numbers."""
    return kind.upper().removeprefix("U").startswith(_NUMBERS) and not kind.endswith("]")


@dataclass(frozen=True)
class Remedy:
    """What a user can do where memory is short.

    Attributes:
        is_condition: whether a user wrote what was worked out, and can write a simpler one.
        memory_flag: the option that says how much DuckDB may use; None: there is none.
    """

    is_condition: bool = False
    memory_flag: str | None = None

    @property
    def of_machine(self) -> str:
        """Where the machine has no more."""
        return "write a simpler one" if self.is_condition else "close other programs"

    @property
    def of_database(self) -> str:
        """Where DuckDB used up what it may."""
        if self.memory_flag is not None:
            return f"give a larger {self.memory_flag}, or more room for temporary files"
        return "write a simpler one" if self.is_condition else "make more room for temporary files (TMPDIR)"


NO_FLAG = Remedy()
"""Of commands without that option, for what nobody wrote."""
WITH_FLAG = Remedy(memory_flag="--memory")
"""Of `select` and `advise`."""


def connect(scratch: Path, *, memory: int = 1_500_000_000, num_threads: int = 1) -> duckdb.DuckDBPyConnection:
    """A connection in memory that spills into `scratch`, asks no network, and shows nothing."""
    import duckdb

    connection = duckdb.connect()
    for setting in (
        f"memory_limit = '{memory}B'",
        f"temp_directory = {text_literal(str(scratch / 'duckdb'))}",
        f"threads = {num_threads}",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "enable_progress_bar = false",
        "preserve_insertion_order = false",
        "TimeZone = 'UTC'",
    ):
        try:
            connection.execute(f"SET {setting}")
        except duckdb.Error:
            if not setting.startswith("TimeZone"):  # an extension of its own, which may be missing
                raise
    return connection


_TOKEN = re.compile(
    r"""(?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*")|(?P<comment>--|/\*)|(?P<dollar>\$\w*\$)|(?P<end>;)|(?P<open>\()|(?P<close>\))""",
    re.VERBOSE,
)


def check_expression(
    connection: duckdb.DuckDBPyConnection,
    expression: str,
    source: str,
    flag: str = "--where",
    untyped: Untyped | None = None,
    remedy: Remedy | None = None,
) -> str:
    """The text as it is to be run: columns of text in it may be meant as numbers (`untyped`).

    flag: how messages call it; one of a command that has --memory, or something else.
    remedy: what can be done where memory is short; None: as `flag` says.

    Raises InputError unless it is one SQL expression over `source` (what stands after FROM).
    """
    import duckdb

    named = f"{flag} {in_quotes(expression)}"
    if not expression.strip():
        raise InputError(f"{flag} is empty; give a condition such as 'width >= 512'")
    if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in expression):  # surrogates: a broken argument
        raise InputError(f"{named}: it holds a NUL or bytes that are not UTF-8 text")
    depth = 0
    for match in _TOKEN.finditer(expression):
        if match["comment"] or match["end"] or match["dollar"]:
            raise InputError(f"{named}: one condition without {match[0]!r}")
        depth += 1 if match["open"] else -1 if match["close"] else 0
        if depth < 0:
            break
    if depth:
        raise InputError(f"{named}: its brackets do not match")
    try:
        line = f"SELECT (\n{expression}\n) FROM {source} LIMIT 0"
        if len(connection.extract_statements(line)) != 1:
            raise InputError(f"{named}: one condition, not several statements")
        fitted = (untyped or Untyped()).fitted(connection, expression, source)
        do(connection, f"SELECT (\n{fitted}\n) FROM {source} LIMIT 0")  # what holds no column is worked out here already
        return fitted
    except (duckdb.Error, MemoryError) as error:
        raise refused(named, error, remedy or Remedy(True, "--memory" if flag.startswith("--") else None)) from None


_OPERATORS = {
    "=>": ">=", "=<": "<=", "=!": "!=", "===": "=", "!==": "!=", ">==": ">=", "<==": "<=", "!": "not", "=~": "~",
    "~=": "~", "&&": "and", "||": "or",
}  # fmt: skip
"""Operators of other languages, and what SQL has for them."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether the system refused memory, rather than DuckDB having used up what it was given."""
    import duckdb

    return isinstance(error, MemoryError) or (isinstance(error, duckdb.Error) and "bad alloc" in str(error).lower())


def refused(named: str, error: Exception, remedy: Remedy = NO_FLAG) -> BeholderError:
    """One line out of what DuckDB says. `remedy`: what can be done where it is about memory."""
    import duckdb

    if is_out_of_memory(error):
        return BeholderError(f"{named}: it needs more memory than this machine has free; {remedy.of_machine}")
    if isinstance(error, duckdb.OutOfMemoryException):
        return BeholderError(f"{named}: DuckDB ran out of memory; {remedy.of_database}")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = re.sub(r"^(\w+ )*Error: ", "", lines[0] if lines else "an unknown error").rstrip(".")
    text = text.replace('syntax error at or near ")"', "syntax error at its end")  # the bracket that it is read in
    if "VARCHAR" in text and ("explicit cast" in text or "explicit type casts" in text):
        text += "; of a column of text that holds more than numbers, TRY_CAST(COLUMN AS DOUBLE) makes numbers"
    text = _with_operator(text, named)
    candidates = next((line for line in lines if line.startswith("Candidate bindings")), "")
    return InputError(f"{named}: {text[:400]}" + (f" ({candidates[:200]})" if candidates and candidates not in text else ""))


def _with_operator(text: str, named: str) -> str:
    """What DuckDB says of an operator that SQL has not, with the one that was meant."""
    unknown = re.match(r"Scalar Function with name ([^\w\s]+) does not exist", text)
    if unknown:
        meant = _OPERATORS.get(unknown[1])
        return f"there is no operator {unknown[1]}" + (f"; write {meant}" if meant else "")
    if text.startswith(("Chained comparisons", "No function matches the given name and argument types '&&")):
        for word in ("&&", "||"):
            if word in named:
                return f"{text.split('. You might')[0]}; for {word} write {_OPERATORS[word]}"
    return text


def in_quotes(expression: str) -> str:
    """An expression as messages name it: in quotes, on one line, of a long one the beginning."""
    plain = " ".join(expression.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0").split())
    return f"'{clipped(plain, 120)}'"


@contextlib.contextmanager
def clear_errors(named: str, remedy: Remedy = NO_FLAG) -> Iterator[None]:
    """Turn what DuckDB raises into one line that begins with `named`; `remedy`: as of `refused`."""
    import duckdb

    try:
        yield
    except (duckdb.Error, pa.ArrowException, UnicodeDecodeError, MemoryError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise refused(named, error, remedy) from None  # Arrow hands on what DuckDB says as its own errors


def interruptible(connection: duckdb.DuckDBPyConnection, work: Callable[[], T]) -> T:
    """`work()`, which asks the connection for something that may take long, so that a KeyboardInterrupt ends it at once.

    DuckDB looks for signals in few places only; so it works in a thread of its own, and this one waits. Values of lists and
    texts are outside of DuckDB's own memory limit; for them there is that of `within_free_memory`.
    """
    with within_free_memory(), ThreadPoolExecutor(1, thread_name_prefix="beholder-duckdb") as pool:
        future = pool.submit(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            while not future.done():  # an interrupt that comes before the query has begun is lost
                connection.interrupt()
                wait([future], timeout=0.1)
            raise


def do(connection: duckdb.DuckDBPyConnection, statement: str) -> None:
    """Run a statement that may take long and has no result."""
    interruptible(connection, lambda: connection.execute(statement) and None)


def all_rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    """All rows of a query's result."""
    return interruptible(connection, lambda: connection.execute(query).fetchall())


def first_row(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...] | None:
    """The first row of a query's small result, None where it has none; the result is read to its end."""
    found = all_rows(connection, query)
    return found[0] if found else None


def count_of(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    """Rows of a table."""
    (count,) = first_row(connection, f"SELECT count(*) FROM {table}") or (0,)
    return int(count)


def rows_of(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[npt.NDArray[np.int64]]:
    """The first column of a query's result, piece by piece, as int64."""
    for batch in batches_of(connection, query, _BATCH_ROWS):
        yield batch.column(0).to_numpy(zero_copy_only=False)


def batches_of(connection: duckdb.DuckDBPyConnection, query: str, num_rows: int) -> Iterator[pa.RecordBatch]:
    """A query's result, at most about `num_rows` at a time."""
    reader = interruptible(connection, lambda: connection.sql(query).to_arrow_reader(num_rows))
    while (batch := interruptible(connection, lambda: next(reader, None))) is not None:
        yield batch


def mask_where(
    connection: duckdb.DuckDBPyConnection,
    expression: str,
    source: str,
    num_rows: int,
    untyped: Untyped | None = None,
    remedy: Remedy = Remedy(True, "--memory"),
) -> npt.NDArray[np.bool_]:
    """(N,) whether the condition holds for each row of `source`, which has the column ROW; NULL counts as false.

    untyped: what knows which columns of text may be meant as numbers.
    remedy: what can be done where memory is short.

    Raises InputError when it is no condition, or fails on a value.
    """
    fitted = check_expression(connection, expression, source, untyped=untyped, remedy=remedy)
    mask = np.zeros(num_rows, np.bool_)
    with clear_errors(f"--where {in_quotes(expression)}", remedy):
        for rows in rows_of(connection, f"SELECT {ROW} FROM {source} WHERE (\n{fitted}\n)"):
            mask[rows] = True
    return mask


_LEAST_BYTES = 1 << 30
_FREE_SHARE = 0.8
_lock = threading.Lock()
_num_inside = 0
_before: tuple[int, int] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def _used() -> int | None:
    """Bytes that count now; None where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * resource.getpagesize()
    return None


def limit_for_good(num_bytes: int) -> None:
    """Allow this process `num_bytes` beyond what it has now. Nothing happens where the system does not tell what that is."""
    used = _used()
    if used is not None:
        hard = _smaller(used + num_bytes, resource.getrlimit(resource.RLIMIT_DATA)[1])
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


@contextlib.contextmanager
def within_free_memory() -> Iterator[None]:
    """Inside, this process may not take much more than the machine has free, so that a mistake ends in MemoryError.

    The bound is a share of the free memory, at least 1 GiB; that of whoever is inside first holds for all threads until the
    last one is out.
    """
    global _before, _num_inside
    with _lock:
        _num_inside += 1
        used = _used() if _num_inside == 1 else None
        if _num_inside == 1:
            _before = resource.getrlimit(resource.RLIMIT_DATA)
        if used is not None:
            wanted = used + max(_LEAST_BYTES, int(_FREE_SHARE * free_bytes()))
            resource.setrlimit(resource.RLIMIT_DATA, (_smaller(wanted, _before[0]), _before[1]))
    try:
        yield
    finally:
        with _lock:
            _num_inside -= 1
            if not _num_inside:
                resource.setrlimit(resource.RLIMIT_DATA, _before)


def free_bytes() -> int:
    """Memory that this process could still get: of the machine, and of the control group (version 2) that it is in."""
    found = [os.sysconf("SC_AVPHYS_PAGES") * resource.getpagesize()]
    with contextlib.suppress(OSError, ValueError, LookupError):
        found = [_numbers_of(Path("/proc/meminfo"))["MemAvailable"] * 1024]
    with contextlib.suppress(OSError, ValueError, LookupError):  # no such group, or no limit ("max")
        group = Path("/sys/fs/cgroup")
        taken = int((group / "memory.current").read_text(encoding="ascii")) - _numbers_of(group / "memory.stat")["file"]
        found.append(max(0, int((group / "memory.max").read_text(encoding="ascii")) - taken))
    return min(found)


def _numbers_of(path: Path) -> dict[str, int]:
    """Lines `name: number ...` or `name number`."""
    lines = (line.replace(":", " ").split() for line in path.read_text(encoding="ascii").splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def _smaller(one: int, other: int) -> int:
    return one if other == resource.RLIM_INFINITY else min(one, other)
