"""How long a run of many finished shards takes to see that nothing is left: on this machine's disk, and in a bucket.

    python benchmarks/resume.py [--shards 100000] [--bucket-shards 100000] [--save]

The shards are not computed, but written down as a run would have left them: 512 rows each, so statistics with over a hundred
bins, and one file of scores. Once the index is missing, so that every done-marker is opened and every file hashed, as was so
before there was one; then it is there. The bucket is one of moto's, in this process; its requests are counted, not timed: what
one takes is up to the server. Nothing here needs a network.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import logging
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import machine
import result_files
from beholder import Head, save_head
from beholder.io import places, records
from beholder.kernels.scoring import Affine
from beholder.scoreset.numbers import ScoreStats
from beholder.scoring import index
from beholder.scoring.folder import RunFolder
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import plan, score
from beholder.scoring.shards import EarlierShard, ShardResult, fingerprint, marker_of

DIM, ROWS = 24, 512
BUCKET = "data"


def make_inputs(folder: Path, num_shards: int) -> tuple[Path, Path]:
    """An array with the rows of so many shards, of which the file system holds next to nothing, and a head."""
    source, head = folder / "x.npy", folder / "head.safetensors"
    with source.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (num_shards * ROWS, DIM)}
        np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
        file.truncate(file.tell() + 2 * num_shards * ROWS * DIM)
    save_head(Head(name="small", math=Affine(np.random.default_rng(2).standard_normal(DIM), 5.0)), head)
    return source, head


def table_bytes() -> bytes:
    """The scores of a shard."""
    file = io.BytesIO()
    scores = np.random.default_rng(0).normal(5.2, 0.5, ROWS).astype(np.float32)
    pq.write_table(pa.table({"sample": [f"x.npy#{row}" for row in range(ROWS)], "aesthetic_score": scores}), file)
    return file.getvalue()


def finished(options: ScoreOptions, folder: str) -> tuple[dict[str, Any], list[EarlierShard], bytes]:
    """The record of the run, all of its shards as finished ones, and the bytes of each one's file."""
    step = plan(options).step
    run_fingerprint, data = fingerprint(step.options), table_bytes()
    record = {**step.provenance, "options": dict(step.options), "columns": step.columns, "fingerprint": run_fingerprint}
    chance, digest, made = np.random.default_rng(1), hashlib.sha256(data).hexdigest(), []
    some = [ScoreStats.of(chance.normal(5.2, 0.5, ROWS).astype(np.float32)).to_json() for _ in range(1000)]
    for shard in step.shards:
        stats = some[shard.number % len(some)]
        name = f"scores/{shard.name}.parquet"
        result = ShardResult(ROWS, ROWS, 0, {}, {name: len(data)}, {"aesthetic_score": stats}, sha256={name: digest})
        made.append(EarlierShard(folder, shard.name, shard.identity, result, run_fingerprint, tuple(step.models)))
    return record, made, data


def timed(options: ScoreOptions, num_shards: int) -> float:
    """Seconds of a run in which all is done already."""
    begun = time.perf_counter()
    summary = score(options)
    seconds = time.perf_counter() - begun
    assert (summary.num_new, summary.num_read, summary.damaged) == (0, num_shards * ROWS, [])
    return seconds


def of_a_disk(root: Path, num_shards: int) -> list[str]:
    """Seconds with and without an index."""
    source, head = make_inputs(root, num_shards)
    out = root / "out"
    options = ScoreOptions(sources=(str(source),), out=str(out), heads=(str(head),), shard_rows=ROWS)
    record, shards, data = finished(options, str(out))
    (out / "done").mkdir(parents=True)
    (out / "scores").mkdir()
    num_bytes = 0
    for shard in shards:
        marker = records.sealed(shard.to_json())
        (out / marker_of(shard.name)).write_bytes(marker)
        (out / next(iter(shard.result.files))).write_bytes(data)
        num_bytes += len(marker)
    (out / "beholder.json").write_bytes(records.sealed(record))
    del shards
    begun = time.perf_counter()
    num_files = len(places.listing(str(out)))
    told = [f"- on a disk: {num_shards:,} shards, {num_bytes / num_shards:,.0f} bytes a marker; listing {num_files:,} files: "
            f"{time.perf_counter() - begun:.1f} s"]  # fmt: skip
    for what in ("without an index", "with one of many segments", "with one segment"):
        seconds = timed(options, num_shards)
        segments = [path.stat().st_size for path in (out / "done").glob("index-*")]
        size = sum(segments) / num_shards
        told.append(f"  - {what}: {seconds:.1f} s; the index is then {len(segments)} segments, {size:,.0f} bytes a shard")
    return told


@contextmanager
def bucket() -> Iterator[list[str]]:
    """A server with an empty bucket; the lines of its log."""
    import boto3
    from moto.server import ThreadedMotoServer

    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger = logging.getLogger("werkzeug")
    logger.addHandler(Keep())
    logger.setLevel(logging.INFO)
    logger.propagate = False
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    try:
        yield lines
    finally:
        server.stop()


def of_a_bucket(root: Path, num_shards: int) -> list[str]:
    """How many requests of each kind a run makes in which all is done already."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    source, head = make_inputs(root, num_shards)
    options = ScoreOptions(sources=(str(source),), out=f"s3://{BUCKET}/out", heads=(str(head),), shard_rows=ROWS)
    with bucket() as lines:
        record, shards, data = finished(options, options.out or "")
        put = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object
        for shard in shards:
            put(BUCKET, f"out/{marker_of(shard.name)}", records.sealed(shard.to_json()))
            put(BUCKET, f"out/{next(iter(shard.result.files))}", data)
        put(BUCKET, "out/beholder.json", records.sealed(record))
        looks = RunFolder(options.out or "").names()
        indexed = [
            index.IndexedShard(one, looks[marker_of(one.name)], {name: looks[name] for name in one.result.files})
            for one in shards
        ]
        put(BUCKET, f"out/{index.new_segment()}", index.pack(indexed))
        lines.clear()
        seconds = timed(options, num_shards)
        kinds = Counter(kind_of(line) for line in lines)
        told = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
        what = f"- in a bucket: {num_shards:,} shards, {2 * num_shards + 3:,} objects"
        return [f"{what}; requests: {told} ({seconds:.1f} s with moto, nearly all of it moto's)"]


def kind_of(line: str) -> str:
    """What a request in the server's log asks for."""
    found = re.search(r"(GET|PUT|HEAD|DELETE|POST) (\S+)", line)
    assert found is not None
    return "listing" if "list-type=2" in found[2] else found[1]


def main() -> None:
    """Print all of it, and keep it where that is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shards", type=int, default=100_000, help="on the disk")
    parser.add_argument("--bucket-shards", type=int, default=5000, help="in the bucket; moto takes long for many")
    parser.add_argument("--folder", default=None, help="where the disk's shards are made; default: a temporary folder")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    options = parser.parse_args()
    lines = [f"# A run in which all shards are done already, {result_files.month()}", ""]
    lines += [*machine.lines("beholder", "pyarrow", "s3fs", "moto"), ""]
    for what, number in ((of_a_disk, options.shards), (of_a_bucket, options.bucket_shards)):
        if number:
            root = Path(tempfile.mkdtemp(prefix="beholder-resume-", dir=options.folder))
            try:
                lines += what(root, number)
            finally:
                shutil.rmtree(root)
    print("\n".join(lines))
    if options.save:
        result_files.save("resume", lines)


if __name__ == "__main__":
    main()
