"""Selecting from 100 million score rows: seconds and peak memory of beholder beside plain DuckDB SQL, polars and pandas.

    python benchmarks/select_rows.py [--rows 100000000] [--fit-rows 10000000] [--rounds 1] [--fit-rounds 3] [--folder DIR]
                                     [--tasks ...] [--sides ...] [--names ...] [--note ...] [--save]
    python benchmarks/select_rows.py --rows 1000000000 --fit-rows 0

Whole processes, imports and start included, from Parquet files to one Parquet file with the rows that stay, best first, ties
by sample, with each row's rank among all rows and the columns passed through. Peak memory is the largest resident set of the
process (which starts no others). Results are compared before a time counts: row by row where they are in order.

- beholder: `select` and its writer.
- beholder, each sample once: the same, and before any rule whether a sample comes twice, which the command looks for and none
  of the others does (`compare.py` runs the whole command).
- DuckDB: the SQL that gives the same file, at the same memory limit; the same without ranks, which is less work; and of the
  threshold also without order, which is no more than reading, comparing and writing.
- polars, lazily with its streaming engine: at --fit-rows, and the best 1 % at --rows too, which it holds in little memory.
- pandas: at --fit-rows, which fit in memory.

Beyond 200 million rows: the rules for which nothing is held of a row, names that ascend (a billion: 13 GB), and beside beholder
only the threshold without order.

The rows: names as `beholder score` writes them from tars (they ascend), or, in `shuffled` sets, addresses in random order.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import machine
import result_files

DATA = result_files.REPOSITORY / "benchmarks" / "data"
MEMORY = 3_000_000_000
SEED = 4
GROUP_ROWS = 1 << 20
CATEGORIES = 1000
PER_GROUP = 1000
MOST_COMPARED = 200_000_000
BYTES_A_ROW = 15_000
"""Of the budget; a row has about 1.5 MB, so it is of about the best 1 %."""
WHERE = "width >= 768 AND height >= 768 AND punsafe < 0.1"
PASSED = "width, height, num_bytes, punsafe, category"
FIRST = "sample, aesthetic_score"


@dataclass(frozen=True)
class Task:
    """One selection, in beholder's options and in SQL."""

    title: str
    rules: Callable[[int], dict[str, object]]
    sql: Callable[[int, str], str]
    plain_sql: Callable[[int, str], str]


def _columns(rank: str) -> str:
    return f"{FIRST}, {rank} AS rank, true AS kept, CAST(NULL AS VARCHAR) AS dropped_by, {PASSED}"


def _above_quantile(source: str, quantile: float = 0.99) -> str:
    return f"aesthetic_score::DOUBLE >= (SELECT quantile_cont(aesthetic_score::DOUBLE, {quantile}) FROM {source})"


def _num_cut(rows: int, source: str) -> str:
    return f"(SELECT least({rows // 50}, ceil(count(*) / 10))::BIGINT FROM {source} WHERE {_above_quantile(source, 0.95)})"


ORDER = "aesthetic_score DESC, sample"
TASKS = {
    "top": Task(
        "best 1 %",
        lambda rows: {"top": rows // 100},
        lambda rows, source: (
            f"SELECT {_columns(f'row_number() OVER (ORDER BY {ORDER})')} FROM "
            f"(SELECT * FROM {source} ORDER BY {ORDER} LIMIT {rows // 100}) ORDER BY rank"
        ),
        lambda rows, source: f"SELECT {FIRST}, {PASSED} FROM {source} ORDER BY {ORDER} LIMIT {rows // 100}",
    ),
    "threshold": Task(
        "score >= 6",
        lambda rows: {"min_score": 6.0},
        lambda rows, source: (
            f"SELECT {_columns(f'row_number() OVER (ORDER BY {ORDER})')} FROM "
            f"(SELECT * FROM {source} WHERE aesthetic_score >= 6) ORDER BY rank"
        ),
        lambda rows, source: f"SELECT {FIRST}, {PASSED} FROM {source} WHERE aesthetic_score >= 6 ORDER BY {ORDER}",
    ),
    "share": Task(
        "best share of 1 %",
        lambda rows: {"top_share": "1%"},
        lambda rows, source: (
            f"SELECT {_columns(f'row_number() OVER (ORDER BY {ORDER})')} FROM "
            f"(SELECT * FROM {source} ORDER BY {ORDER} LIMIT {-(-rows // 100)}) ORDER BY rank"
        ),
        lambda rows, source: f"SELECT {FIRST}, {PASSED} FROM {source} ORDER BY {ORDER} LIMIT {-(-rows // 100)}",
    ),
    "quantile": Task(
        "score >= the 0.99 quantile",
        lambda rows: {"quantile": 0.99},
        lambda rows, source: (
            f"SELECT {_columns(f'row_number() OVER (ORDER BY {ORDER})')} FROM "
            f"(SELECT * FROM {source} WHERE {_above_quantile(source)}) ORDER BY rank"
        ),
        lambda rows, source: f"SELECT {FIRST}, {PASSED} FROM {source} WHERE {_above_quantile(source)} ORDER BY {ORDER}",
    ),
    "cuts": Task(
        "score >= the 0.95 quantile, of these 10 % and at most 2 % of all",
        lambda rows: {"quantile": 0.95, "top_share": "10%", "top": rows // 50},
        lambda rows, source: (
            f"SELECT {_columns(f'row_number() OVER (ORDER BY {ORDER})')} FROM "
            f"(SELECT * FROM {source} ORDER BY {ORDER} LIMIT {_num_cut(rows, source)}) ORDER BY rank"
        ),
        lambda rows, source: f"SELECT {FIRST}, {PASSED} FROM {source} ORDER BY {ORDER} LIMIT {_num_cut(rows, source)}",
    ),
    "budget": Task(
        f"the best of {BYTES_A_ROW:,} bytes a row",
        lambda rows: {"budget": rows * BYTES_A_ROW},
        lambda rows, source: (
            f"SELECT {_columns('place')} FROM (SELECT *, row_number() OVER (ORDER BY {ORDER}) AS place, "
            f"sum(num_bytes) OVER (ORDER BY {ORDER} ROWS UNBOUNDED PRECEDING) AS used FROM {source}) "
            f"WHERE used <= {rows * BYTES_A_ROW} ORDER BY place"
        ),
        lambda rows, source: (
            f"SELECT {FIRST}, {PASSED} FROM {source} "
            f"QUALIFY sum(num_bytes) OVER (ORDER BY {ORDER} ROWS UNBOUNDED PRECEDING) <= {rows * BYTES_A_ROW} ORDER BY {ORDER}"
        ),
    ),
    "per": Task(
        f"best {PER_GROUP:,} of each of {CATEGORIES:,} categories",
        lambda rows: {"top": PER_GROUP, "per": "category"},
        lambda rows, source: (
            f"SELECT {_columns('place')} FROM (SELECT *, row_number() OVER (ORDER BY {ORDER}) AS place, "
            f"row_number() OVER (PARTITION BY category ORDER BY {ORDER}) AS inside FROM {source}) "
            f"WHERE inside <= {PER_GROUP} ORDER BY place"
        ),
        lambda rows, source: (
            f"SELECT {FIRST}, {PASSED} FROM {source} "
            f"QUALIFY row_number() OVER (PARTITION BY category ORDER BY {ORDER}) <= {PER_GROUP} ORDER BY {ORDER}"
        ),
    ),
    "where": Task(
        f"`{WHERE}` and score >= 5",
        lambda rows: {"where": (WHERE,), "min_score": 5.0},
        lambda rows, source: (
            f"SELECT {_columns('place')} FROM (SELECT *, row_number() OVER (ORDER BY {ORDER}) AS place FROM {source}) "
            f"WHERE {WHERE} AND aesthetic_score >= 5 ORDER BY place"
        ),
        lambda rows, source: f"SELECT {FIRST}, {PASSED} FROM {source} WHERE {WHERE} AND aesthetic_score >= 5 ORDER BY {ORDER}",
    ),
}


STREAMED = ["threshold", "top", "share", "quantile", "cuts", "budget"]
"""Rules for which beholder holds nothing of a row."""
UNORDERED_SQL = f"SELECT {FIRST}, {PASSED} FROM {{source}} WHERE aesthetic_score >= 6"


def make_rows(rows: int, shuffled: bool, folder: Path) -> Path:
    """The Parquet file with so many rows, made once, a group of rows at a time."""
    path = folder / f"select_{'shuffled_' if shuffled else ''}{rows}.parquet"
    if path.exists():
        return path
    print(f"  making {path.name}", file=sys.stderr)
    words = pa.array([f"category {i:04d}" for i in range(CATEGORIES)])
    temporary = path.with_suffix(".partial")
    writer = None
    first = 0
    for drawn in drawn_groups(rows):
        count = len(drawn["width"])
        table = pa.table({
            "sample": names_of(np.arange(first, first + count), shuffled),
            **drawn,
            "category": pa.DictionaryArray.from_arrays(drawn["category"], words).cast(pa.string()),
        })  # fmt: skip
        writer = writer or pq.ParquetWriter(
            temporary, table.schema, compression="zstd", compression_level=1, use_dictionary=["width", "height", "category"]
        )
        writer.write_table(table, row_group_size=GROUP_ROWS)
        first += count
    assert writer is not None
    writer.close()
    temporary.rename(path)
    return path


def drawn_groups(rows: int) -> Iterator[dict[str, np.ndarray]]:
    """The columns that are drawn, for each group of rows; each is drawn while the one before it is used."""
    rng = np.random.default_rng(SEED)
    sides = np.array([256, 384, 512, 640, 768, 800, 1024, 1280, 1600, 1920, 2048], np.int32)

    def draw(count: int) -> dict[str, np.ndarray]:
        return {
            "aesthetic_score": rng.normal(4.9, 0.75, count).astype(np.float32),
            "width": rng.choice(sides, count),
            "height": rng.choice(sides, count),
            "num_bytes": rng.integers(10_000, 3_000_000, count),
            "punsafe": rng.beta(0.5, 6, count).astype(np.float32),
            "category": rng.zipf(1.2, count) % CATEGORIES,
        }

    with ThreadPoolExecutor(1) as pool:
        drawn = None
        for first in range(0, rows, GROUP_ROWS):
            following = pool.submit(draw, min(GROUP_ROWS, rows - first))
            if drawn is not None:
                yield drawn.result()
            drawn = following
        if drawn is not None:
            yield drawn.result()


def names_of(numbers: np.ndarray, shuffled: bool) -> pa.Array:
    """Names that ascend, `laion/00012.tar/000120034`, or addresses in random order; all different."""
    if not shuffled:
        return tar_names(numbers)
    mixed = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    return pa.array([f"https://i.example.org/736x/{m >> 56:02x}/{m & 0xFFFFFFFFFFFFFF:014x}.jpg" for m in mixed.tolist()])


def tar_names(numbers: np.ndarray) -> pa.Array:
    """The names that ascend, of numbers below a billion, which have the same length all."""
    parts = (b"laion/", (numbers // 10_000, 5), b".tar/", (numbers, 9))
    width = sum(len(part) if isinstance(part, bytes) else part[1] for part in parts)
    text = np.empty((len(numbers), width), np.uint8)
    at = 0
    for part in parts:
        if isinstance(part, bytes):
            text[:, at : at + len(part)] = np.frombuffer(part, np.uint8)
            at += len(part)
            continue
        left, digits = part[0].astype(np.int32), part[1]
        for place in range(at + digits - 1, at - 1, -1):
            left, digit = np.divmod(left, 10)
            text[:, place] = digit + ord("0")
        at += digits
    offsets = np.arange(0, text.size + 1, width, dtype=np.int32)
    return pa.StringArray.from_buffers(len(numbers), pa.py_buffer(offsets), pa.py_buffer(text))


def beholder_side(task: Task, rows: int, source: Path, out: Path, *, each_once: bool) -> None:
    """Our own."""
    from beholder.curate.options import OutputOptions, SelectRules
    from beholder.curate.select.selection import select_rows, write_lists
    from beholder.options import ALL, KEEP_FIRST
    from beholder.scoreset.row_names import open_each_once

    rules = SelectRules(**task.rules(rows), memory=MEMORY)  # type: ignore[arg-type]
    with (
        open_each_once(str(source), KEEP_FIRST if each_once else ALL, num_threads=rules.threads) as scores,
        select_rows(scores, rules) as selection,
    ):
        write_lists(selection, OutputOptions(out=str(out)))


def duckdb_side(sql: str, out: Path) -> None:
    """DuckDB, as its documentation has it."""
    import duckdb

    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        connection = duckdb.connect()
        connection.execute(f"SET memory_limit = '{MEMORY}B'; SET temp_directory = '{scratch}'")
        connection.execute(f"COPY ({sql}) TO '{out}' (FORMAT parquet)")
        connection.close()


def num_best(name: str, rows: int) -> int:
    """How many rows the best 1 % are: rounded down as a number, up as a share."""
    return rows // 100 if name == "top" else -(-rows // 100)


def polars_side(name: str, rows: int, source: Path, out: Path) -> None:
    """polars, lazily, streaming to the file."""
    import polars as pl

    frame = pl.scan_parquet(source)
    order = {"by": ["aesthetic_score", "sample"], "descending": [True, False]}
    if name in ("top", "share"):
        frame = frame.sort(**order).head(num_best(name, rows)).with_row_index("rank", 1)
    elif name == "quantile":
        edge = frame.select(pl.col("aesthetic_score").cast(pl.Float64).quantile(0.99, "linear")).collect().item()
        frame = frame.filter(pl.col("aesthetic_score").cast(pl.Float64) >= edge).sort(**order).with_row_index("rank", 1)
    elif name == "threshold":
        frame = frame.filter(pl.col("aesthetic_score") >= 6).sort(**order).with_row_index("rank", 1)
    else:
        frame = frame.sort(**order).with_row_index("rank", 1)
        if name == "per":
            frame = frame.filter(pl.int_range(pl.len()).over("category") < PER_GROUP)
        elif name == "budget":
            frame = frame.filter(pl.col("num_bytes").cum_sum() <= rows * BYTES_A_ROW)
        else:
            big = (pl.col("width") >= 768) & (pl.col("height") >= 768) & (pl.col("punsafe") < 0.1)
            frame = frame.filter(big & (pl.col("aesthetic_score") >= 5))
    frame.sink_parquet(out)


def pandas_side(name: str, rows: int, source: Path, out: Path) -> None:
    """Pandas."""
    import pandas as pd

    frame = pd.read_parquet(source).sort_values(["aesthetic_score", "sample"], ascending=[False, True])
    frame["rank"] = np.arange(1, len(frame) + 1)
    if name in ("top", "share"):
        frame = frame.head(num_best(name, rows))
    elif name == "quantile":
        frame = frame[frame["aesthetic_score"].astype(float) >= frame["aesthetic_score"].astype(float).quantile(0.99)]
    elif name == "budget":
        frame = frame[frame["num_bytes"].cumsum() <= rows * BYTES_A_ROW]
    elif name == "threshold":
        frame = frame[frame["aesthetic_score"] >= 6]
    elif name == "per":
        frame = frame.groupby("category", sort=False).head(PER_GROUP)
    else:
        big = (frame["width"] >= 768) & (frame["height"] >= 768) & (frame["punsafe"] < 0.1)
        frame = frame[big & (frame["aesthetic_score"] >= 5)]
    frame.to_parquet(out, index=False)


SIDES = {
    "beholder": "**beholder**",
    "beholder_once": "**beholder**, each sample once",
    "duckdb": "DuckDB, the same file",
    "duckdb_plain": "DuckDB, without ranks",
    "duckdb_unordered": "DuckDB, without order",
    "polars": "polars",
    "pandas": "pandas",
}
IN_MEMORY = ("polars", "pandas")
WITHOUT_RANK = ("duckdb_plain", "duckdb_unordered")


def fits(side: str, name: str, rows: int, fit_rows: int) -> bool:
    """Whether a side does a task on so many rows in the memory of this machine: sorting all of them in polars does not."""
    if side == "duckdb_unordered":
        return name == "threshold"
    if side in IN_MEMORY and name == "cuts":
        return False
    if side.startswith("beholder"):
        return side == "beholder" or name == "threshold"  # looking for what comes twice is the same whatever the rule
    if rows > MOST_COMPARED:
        return False
    return rows <= fit_rows or side not in IN_MEMORY or (side == "polars" and name in ("top", "threshold"))


def child(side: str, name: str, rows: int, source: Path, out: Path) -> None:
    """What a measured process does."""
    task = TASKS[name]
    if side.startswith("beholder"):
        beholder_side(task, rows, source, out, each_once=side == "beholder_once")
    elif side in IN_MEMORY:
        (polars_side if side == "polars" else pandas_side)(name, rows, source, out)
    elif side == "duckdb_unordered":
        duckdb_side(UNORDERED_SQL.format(source=f"read_parquet('{source}')"), out)
    else:
        sql = task.sql if side == "duckdb" else task.plain_sql
        duckdb_side(sql(rows, f"read_parquet('{source}')"), out)


@dataclass
class Measured:
    """Seconds of each round, and the largest resident set in bytes."""

    seconds: list[float] = field(default_factory=list)
    peak: int = 0
    failure: str = ""


def run(side: str, name: str, rows: int, source: Path, out: Path, limit: float) -> tuple[float, int, str]:
    """Run one process: seconds, peak bytes, why it failed."""
    line = [sys.executable, __file__, "--child", side, name, str(rows), str(source), str(out)]
    started = time.perf_counter()
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return time.perf_counter() - started, 0, f"more than {limit / 60:.0f} min"
    seconds = time.perf_counter() - started
    if done.returncode:
        return seconds, 0, (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1][:120]
    return seconds, int(done.stdout.split()[-1]), ""


def peak_bytes() -> int:
    """The largest resident set of this process so far."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def same_rows(one: Path, two: Path, with_rank: bool) -> bool:
    """Whether two results hold the same rows in the same order."""
    names = ["sample", "aesthetic_score", "width", "category", *(["rank"] if with_rank else [])]

    def batches(path: Path) -> Iterator[pa.Table]:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1 << 16, columns=names):
                yield from (pa.table(batch).select(names).slice(at, 1 << 12) for at in range(0, batch.num_rows, 1 << 12))

    def values(path: Path) -> Iterator[tuple[object, ...]]:
        for table in batches(path):
            yield from zip(*(column.cast(pa.string()).to_pylist() for column in table.columns), strict=True)

    return all(a == b for a, b in zip(values(one), values(two), strict=True))


def same_set(one: Path, two: Path) -> bool:
    """Whether two results hold the same rows in any order, told by their number and the sum of their hashes."""
    import duckdb

    sums = f"count(*), sum(hash({FIRST}, {PASSED})::HUGEINT)"
    with duckdb.connect() as connection:
        found = [connection.execute(f"SELECT {sums} FROM read_parquet('{path}')").fetchone() for path in (one, two)]
    return found[0] == found[1]


def measure(
    rows: int, shuffled: bool, tasks: list[str], asked: list[str], rounds: int, options: argparse.Namespace, work: Path
) -> list[str]:
    """Run all sides on all tasks of one set; the lines of the table."""
    source = make_rows(rows, shuffled, options.folder)
    lines = [f"## {rows:,} rows, {'addresses in random order' if shuffled else 'names that ascend'}", ""]
    lines += [f"{source.stat().st_size / 1e9:.2f} GB of Parquet.", ""]
    lines += ["| selection | side | seconds | | peak memory | rows out |", "|---|---|---|---|---|---|"]
    for name in tasks:
        sides = [side for side in asked if fits(side, name, rows, options.fit_rows)]
        found = {side: Measured() for side in sides}
        num_out = 0
        for number in range(rounds):
            for side in sides:
                out = work / f"{side}.parquet"
                out.unlink(missing_ok=True)
                if found[side].failure:
                    continue
                seconds, peak, why = run(side, name, rows, source, out, options.limit)
                if not why and side != sides[0] and number == 0 and (work / f"{sides[0]}.parquet").exists():
                    first = work / f"{sides[0]}.parquet"
                    same = same_set(first, out)
                    if side != "duckdb_unordered" and rows <= MOST_COMPARED:
                        same = same and same_rows(first, out, side not in WITHOUT_RANK)
                    why = "" if same else "another result"
                found[side].seconds.append(seconds)
                found[side].peak = max(found[side].peak, peak)
                found[side].failure = why
                if not why and side == sides[0]:
                    num_out = pq.read_metadata(out).num_rows
                print(f"  {rows:,} {name}, {side}: {seconds:.1f} s, {peak / 1e9:.2f} GB {why}", file=sys.stderr)
        base = statistics.median(found[sides[0]].seconds)
        for side in sides:
            middle = statistics.median(found[side].seconds)
            told = f"{middle:.1f}" if not found[side].failure else f"{found[side].failure} ({middle:.1f})"
            ratio = f"{middle / base:.1f} x" if side != sides[0] and not found[side].failure else ""
            title = TASKS[name].title if side == sides[0] else ""
            lines.append(
                f"| {title} | {SIDES[side]} | {told} | {ratio} | {found[side].peak / 1e9:.2f} GB | "
                f"{f'{num_out:,}' if side == sides[0] else ''} |"
            )
    return [*lines, ""]


def main() -> None:
    """Measure, print, and with --save keep the result."""
    if sys.argv[1:2] == ["--child"]:
        side, name, rows, source, out = sys.argv[2:]
        child(side, name, int(rows), Path(source), Path(out))
        print(peak_bytes())
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--fit-rows", type=int, default=10_000_000, help="rows for polars and pandas")
    parser.add_argument("--rounds", type=int, default=1, help="of --rows")
    parser.add_argument("--fit-rounds", type=int, default=3, help="of --fit-rows")
    parser.add_argument("--folder", type=Path, default=DATA, help="where rows are made, and results; a billion: 25 GB")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS))
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--names", nargs="+", choices=["ascending", "shuffled"])
    parser.add_argument("--limit", type=float, default=1800, help="seconds that a process may take")
    parser.add_argument("--note", help="a line of the result: what else the machine did")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    options = parser.parse_args()
    is_large = options.rows > MOST_COMPARED
    options.tasks = options.tasks or (STREAMED if is_large else list(TASKS))
    options.names = options.names or (["ascending"] if is_large else ["ascending", "shuffled"])
    text = [f"# Selecting from {options.rows:,} score rows, {result_files.month()}", ""]
    text += machine.lines("beholder", "duckdb", "pyarrow", "polars", "pandas", "numba")
    text.append(
        f"- whole processes, sides in turn, medians of {options.rounds} round(s) at {options.rows:,} rows and of "
        f"{options.fit_rounds} at {options.fit_rows:,}; memory limit of beholder and DuckDB {MEMORY / 1e9:.0f} GB"
    )
    text.append("- results compared; ratio: how many times longer than beholder")
    if options.note:
        text.append(f"- {options.note}")
    text.append("")
    options.folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        work = Path(folder)
        for order in options.names:
            shuffled = order == "shuffled"
            if options.rows > options.fit_rows:
                text += measure(options.rows, shuffled, options.tasks, options.sides, options.rounds, options, work)
            few = min(options.rows, options.fit_rows)
            if few:
                text += measure(few, shuffled, options.tasks, options.sides, options.fit_rounds, options, work)
            shutil.rmtree(work / "scratch", ignore_errors=True)
    print("\n".join(text))
    if options.save:
        result_files.save(f"select_rows_{options.rows}" if is_large else "select_rows", text)


if __name__ == "__main__":
    main()
