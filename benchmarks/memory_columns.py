"""Peak memory of `beholder score --column caption` over 1 and 10 million rows with captions of 1 kB: it has to be the same.

    python benchmarks/memory_columns.py [--names 10] [--rows 1000000] [--bytes 1000] [--memory 1GB] [--data FOLDER]

One file of a million rows of 16 dimensions stands under many names (hard links), once as clip-retrieval's .npy with metadata
and once as Parquet with a list column, each in row groups of a million rows. RssAnon is what the processes of the run take
for themselves, Rss what they take with the pages of mapped files; both are read from /proc every 20 ms and summed over the
process and its children.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beholder import Head, save_head
from beholder.kernels.scoring import Affine
from process_memory import watched

DIM = 16
_PIECE_ROWS = 50_000


def captions(rng: np.random.Generator, num_rows: int, num_bytes: int) -> pa.Array:
    """Texts of `num_bytes` characters, all different."""
    letters = rng.integers(97, 123, (1 << 20) + num_bytes, np.uint8)
    starts = rng.integers(0, 1 << 20, num_rows)
    data = np.lib.stride_tricks.sliding_window_view(letters, num_bytes)[starts]
    offsets = np.arange(num_rows + 1, dtype=np.int64) * num_bytes
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.Array.from_buffers(pa.large_string(), num_rows, buffers)


def make_data(folder: Path, num_rows: int, num_bytes: int) -> dict[str, list[Path]]:
    """Files by kind of source: an .npy and its metadata; one Parquet file with both."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((num_rows, DIM)).astype(np.float32)
    np.save(folder / "rows.npy", rows)
    kinds = {"sample": pa.string(), "caption": pa.large_string()}
    lists = pa.schema([*kinds.items(), ("embedding", pa.list_(pa.float32(), DIM))])
    pieces = []
    for low in range(0, num_rows, _PIECE_ROWS):
        some = rows[low : low + _PIECE_ROWS]
        names = pa.array([f"pictures/{low + i:09d}.jpg" for i in range(len(some))])
        embedding = pa.FixedSizeListArray.from_arrays(pa.array(some.reshape(-1)), DIM)
        pieces.append(pa.table([names, captions(rng, len(some), num_bytes), embedding], schema=lists))
    table = pa.concat_tables(pieces)
    pq.write_table(table, folder / "list.parquet", compression="zstd", row_group_size=1_000_000)
    pq.write_table(table.select(list(kinds)), folder / "metadata.parquet", compression="zstd", row_group_size=1_000_000)
    return {"npy": [folder / "rows.npy", folder / "metadata.parquet"], "parquet": [folder / "list.parquet"]}


def linked(folder: Path, kind: str, files: list[Path], names: int) -> Path:
    """A source that has the files under so many names."""
    for number in range(names):
        if kind == "npy":
            places = [folder / "img_emb" / f"img_emb_{number}.npy", folder / "metadata" / f"metadata_{number}.parquet"]
        else:
            places = [folder / f"part_{number}.parquet"]
        for place, file in zip(places, files, strict=True):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.hardlink_to(file)
    return folder


def main() -> None:
    """Print one line for each kind of source, output and number of names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--names", type=int, nargs="+", default=[1, 10], help="names of the file")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the file")
    parser.add_argument("--bytes", type=int, default=1000, help="bytes of a caption")
    parser.add_argument("--memory", default="1GB", help="the option given to beholder")
    parser.add_argument("--outputs", nargs="+", default=["none", "parquet", "csv", "folder"], help="none: without the column")
    parser.add_argument("--kinds", nargs="+", default=["npy", "parquet"])
    parser.add_argument("--data", type=Path, default=None, help="folder for the data; else a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.data) as name:
        folder = Path(name)
        head = folder / "head.safetensors"
        save_head(Head(name="head", math=Affine(np.linspace(-1, 1, DIM), 5.0)), head)
        files = make_data(folder, options.rows, options.bytes)
        for kind in options.kinds:
            for names in options.names:
                source = linked(folder / f"{kind}-{names}", kind, files[kind], names)
                for output in options.outputs:
                    suffix = {"parquet": ".parquet", "csv": ".csv"}.get(output, "")
                    out = folder / f"out{suffix}"
                    line = [sys.executable, "-m", "beholder", "score", str(source), "-o", str(out), "--head", str(head), "-q"]
                    line += ["--memory", options.memory, *([] if output == "none" else ["--column", "caption"])]
                    ended = watched(line)
                    assert ended.status == 0, f"{' '.join(line)} ended with {ended.status}: {ended.stderr}"
                    rows = f"{kind:>7}, {names * options.rows:>12,} rows -> {output:<7}"
                    memory = f"RssAnon {ended.anon_mib:>5} MiB, Rss {ended.rss_mib:>5} MiB"
                    print(f"{rows} {memory}, {ended.seconds:6.1f} s", flush=True)
                    for rest in folder.glob("out*"):
                        shutil.rmtree(rest) if rest.is_dir() else rest.unlink()


if __name__ == "__main__":
    main()
