"""The index of a run's finished shards: segments that hold the done-markers of many shards, and how their files looked.

A done-marker and the files that a listing shows as the index has them need not be opened. Nothing depends on it: a segment that
is lost, damaged or out of date only costs opening done-markers. Segments are written whole and never changed; several processes
write their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa

from beholder import columns
from beholder.io.places import Entry
from beholder.io.records import DamagedRecordError, json_value
from beholder.scoreset.numbers import packed
from beholder.scoring.shards import EarlierShard, ShardResult, is_shard_file

SEGMENT = re.compile(rf"{columns.DONE_FOLDER}/index-[0-9a-f]{{16}}-[0-9a-f]{{8}}\.jsonl\.zst")
"""Names of segments, relative to the run's folder; that of a done-marker ends in .json."""
MOST_WAITING, MOST_WAITING_S = 1000, 60.0
"""A segment is written when so many shards are not in one, or one has not been for so long."""
MERGED_AT_ONCE = 8
"""So many segments of about the same size become one."""
_FORMAT = {"format": "beholder-index", "version": 1}
_CHECKSUM = "sha256"
_OF_DAMAGE: tuple[type[Exception], ...] = (pa.ArrowException, OSError, ValueError, ArithmeticError, LookupError)
_OF_DAMAGE += (TypeError, AttributeError, AssertionError)
_BINS = re.compile(r"([1248]:\d{1,9}:[A-Za-z0-9+/]*=*)?")
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class IndexedShard:
    """A finished shard, and how its marker and its files looked when it was."""

    shard: EarlierShard
    marker: Entry
    files: Mapping[str, Entry]


def new_segment() -> str:
    """A name for a segment, relative to the run's folder; later ones sort behind."""
    return f"{columns.DONE_FOLDER}/index-{time.time_ns():016x}-{secrets.token_hex(4)}.jsonl.zst"


def pack(shards: Sequence[IndexedShard]) -> bytes:
    """A segment with these shards: lines of JSON, compressed. What many shards share stands there once.

    The first line is the head, the last one the checksum of all before it; between them stand lines of what is shared, and of
    shards, which name theirs by number.
    """
    lines = [json.dumps(_FORMAT)]
    numbers: dict[str, int] = {}
    for one in shards:
        shard, result = one.shard, one.shard.result
        common = json.dumps([shard.fingerprint, list(shard.models), shard.identity], separators=(",", ":"))
        if common not in numbers:
            numbers[common] = len(numbers)
            lines.append(common)
        files = {name: [*one.files[name], result.sha256[name]] for name in result.files}
        counts = [result.num_read, result.num_scored, result.num_rejected]
        stats = {name: packed(record) for name, record in result.stats.items()}
        more = [result.reasons, stats, result.traits, result.remarks]
        line = {"of": numbers[common], "shard": shard.name, "marker": list(one.marker), "files": files, "counts": counts,
                "more": more}  # fmt: skip
        lines.append(json.dumps(line, separators=(",", ":")))
    text = "\n".join([*lines, ""]).encode()
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(text)
        out.write(json.dumps({_CHECKSUM: hashlib.sha256(text).hexdigest()}).encode() + b"\n")
    return bytes(sink.getvalue())


def unpack(data: bytes, folder: str) -> Iterator[IndexedShard]:
    """The shards of a segment, whose files lie in `folder`. Raises DamagedRecordError for one that is not what was written."""
    with _damage():
        lines = list(_lines(pa.BufferReader(data)))
        if json_value(lines[0]) != _FORMAT:
            raise DamagedRecordError("it is of another format or version")
        shared: list[Any] = []
        for line in lines[1:]:
            found = json_value(line)
            if isinstance(found, list):
                shared.append(found)
            else:
                yield _restored(found, shared, folder)


def check(file: IO[bytes]) -> None:
    """Read a segment to its end, a piece at a time. Raises DamagedRecordError for one that is not what was written."""
    with _damage():
        for _ in _lines(pa.PythonFile(file, "r")):
            pass


def _lines(source: pa.NativeFile) -> Iterator[bytes]:
    """The lines of a segment but the last one, their checksum. Raises DamagedRecordError at the end where that does not fit."""
    digest, rest = hashlib.sha256(), b""
    with pa.CompressedInputStream(source, "zstd") as unpacked:
        while piece := unpacked.read(_PIECE_BYTES):
            rest += piece
            at = rest.rstrip(b"\n").rfind(b"\n") + 1
            digest.update(rest[:at])
            yield from rest[:at].splitlines()
            rest = rest[at:]
    if json_value(rest)[_CHECKSUM] != digest.hexdigest():
        raise DamagedRecordError("its checksum (sha256) does not fit its contents")


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """Turn what taking apart something else than a segment raises into a DamagedRecordError."""
    try:
        yield
    except DamagedRecordError:
        raise
    except _OF_DAMAGE as error:
        raise DamagedRecordError(f"it is no segment of an index ({' '.join(str(error).split())[:100]})") from None


def _is_statistics(found: Any, num_scored: int) -> bool:
    """Whether something looks like what `numbers.packed` makes of the statistics of so many scores."""
    is_packed = isinstance(found["bins"], str) and _BINS.fullmatch(found["bins"]) is not None
    moments = [found[name] for name in ("mean", "sum_squared_deviations", "minimum", "maximum")]
    if num_scored == 0:
        moments = [one for one in moments if one is not None]
    are_numbers = all(type(one) in (int, float) and math.isfinite(one) for one in moments)
    return is_packed and type(found["count"]) is int and found["count"] == num_scored and are_numbers


def _restored(line: dict[str, Any], shared: Sequence[Any], folder: str) -> IndexedShard:
    fingerprint, models, identity = shared[line["of"]]
    if not (isinstance(fingerprint, str) and isinstance(identity, dict) and all(isinstance(one, str) for one in models)):
        raise DamagedRecordError("it does not say what its shards are of")
    name, files = line["shard"], line["files"]
    if not all(is_shard_file(file, name) for file in files):
        raise DamagedRecordError("it names files of another shard")
    reasons, stats, traits, remarks = line["more"]
    num_read, num_scored, num_rejected = line["counts"]
    counts = [one for words in (reasons, traits, remarks) for one in words.values()]
    counts += [num_read, num_scored, num_rejected, *(said[0] for said in files.values())]
    if not all(type(one) is int and 0 <= one < 1 << 63 for one in counts) or not all(
        _is_statistics(one, num_scored) for one in stats.values()
    ):
        raise DamagedRecordError("it holds other things than counts and statistics")
    result = ShardResult(
        num_read,
        num_scored,
        num_rejected,
        reasons=reasons,
        files={file: said[0] for file, said in files.items()},
        stats=stats,
        traits=traits,
        remarks=remarks,
        sha256={file: said[2] for file, said in files.items()},
    )
    shard = EarlierShard(folder, name, identity, result, fingerprint, tuple(models))
    return IndexedShard(shard, Entry(*line["marker"]), {file: Entry(*said[:2]) for file, said in files.items()})
