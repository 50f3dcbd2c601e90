"""Data frames of polars, pandas and Arrow as Arrow tables, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike, fspath
from typing import Any

import pyarrow as pa

from beholder.errors import InputError

Back = Callable[[pa.Table], Any]


def as_source(given: Any, function: str) -> tuple[str | pa.Table, Back]:
    """What `score_set.open_scores` takes, and how tables become what was given (Arrow for paths).

    Args:
        given: a path, or a frame: polars (lazy too), pandas, Arrow, or anything with Arrow's stream interface.
        function: the name of the caller's function, for messages.

    Raises:
        TypeError: something else.
        InputError: a frame that Arrow cannot hold.
    """
    if isinstance(given, str | PathLike):
        return fspath(given), _same
    home = type(given).__module__.split(".", 1)[0]
    try:
        if isinstance(given, pa.Table):
            return given, _same
        if home == "polars" and hasattr(given, "lazy"):
            import polars

            return given.lazy().collect().to_arrow(), polars.from_arrow
        if home == "pandas" and hasattr(given, "columns"):
            odd = [name for name in given.columns if not isinstance(name, str)]
            if odd:
                raise InputError(f"the frame has a column named {odd[0]!r}, which is no text; rename it")
            return pa.Table.from_pandas(given, preserve_index=False), pa.Table.to_pandas
        is_table = isinstance(given, pa.RecordBatch) or (hasattr(given, "__arrow_c_stream__") and hasattr(given, "columns"))
        if is_table or isinstance(given, pa.RecordBatchReader):  # a column of polars has the interface, too
            return pa.table(given), _same
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"the frame cannot be read: {' '.join(str(error).split())[:300]}") from None
    raise TypeError(f"{function}() takes a path or a polars, pandas or Arrow table, not {type(given).__name__}")


def _same(table: pa.Table) -> Any:
    return table


def texts_of(given: Any, name: str, function: str) -> tuple[str, ...]:
    """One text or path, or a list of them. Raises TypeError for anything else."""
    items = (given,) if isinstance(given, str | PathLike) else given
    if not isinstance(items, list | tuple | set | frozenset) or not all(isinstance(item, str | PathLike) for item in items):
        kind = type(given).__name__
        raise TypeError(f"{function}() takes texts and paths for {name}, no {kind}; write a frame to a file and name that")
    return tuple(fspath(item) for item in items)
