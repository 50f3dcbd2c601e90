"""Mutated records of ours (runs, shards, index, journals, marks, maps, rates, stamps): used, passed over, or refused."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import BeholderError, Head, save_head
from beholder.io import records
from beholder.models.catalog import DEFAULT_TOWER
from beholder.planning.rates import tower_name
from beholder.scoreset.head_key import HeadKey
from beholder.scoreset.kept_scales import folder_of, head_named
from oracles import odd_json
from oracles.fuzzing import Target, check
from oracles.in_process import all_of, command, empty_beside
from oracles.score_jobs import run
from oracles.tiers import mostly_slow

Change = Callable[[bytes], bytes]
ROWS = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
_LIMITS: dict[str, Any] = {"limit_s": 8.0, "most_bytes": 256 << 20, "names_file": False}


def in_record(data: bytes, change: Change, rng: random.Random) -> bytes:
    """A record changed as a tree: sealed anew, or without a checksum as old versions and hands leave it."""
    plain = records.parse(data)
    tree = odd_json.changed(plain, rng)
    text = odd_json.text_of(tree)
    if rng.random() < 0.5 and isinstance(tree, dict):
        with contextlib.suppress(ValueError, RecursionError):
            return records.sealed(json.loads(text))
    return text.encode("utf-8", "replace")


def in_json(data: bytes, change: Change, rng: random.Random) -> bytes:
    """The file as one tree."""
    return odd_json.document(json.loads(data), rng)


def in_lines(data: bytes, change: Change, rng: random.Random) -> bytes:
    """JSON lines."""
    return odd_json.lines([json.loads(line) for line in data.splitlines()], rng)


# ----- a run that scored embeddings -----


@functools.cache
def _run() -> Path:
    """A folder `run` with three finished shards, and what it was made of beside it; made once."""
    place = Path.cwd().parent / "made"
    place.mkdir()
    np.save(place / "rows.npy", ROWS)
    save_head(Head.affine(np.arange(8.0), name="mine"), place / "head.safetensors")
    run([place / "rows.npy"], place / "run", place / "head.safetensors", shard_rows=15)
    return place


def _inside(pattern: str) -> Path:
    """The first file of the run that fits."""
    return sorted((_run() / "run").glob(pattern))[0]


def _seed_of(pattern: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [_inside(pattern).read_bytes()]


def with_run(pattern: str, path: Path) -> Hashable:
    """All that is done with a run one file of which is replaced: its status, a check of it, its scores, going on with it."""
    made, folder = _run(), empty_beside(path)
    shutil.copytree(made / "run", folder / "run")
    (folder / "run" / _inside(pattern).relative_to(made / "run")).write_bytes(path.read_bytes())
    out = str(folder / "run")
    told = all_of(
        ("status", out, "--json"),
        ("status", out),
        ("verify", out, "--json"),
        ("rejects", out),
        ("score", str(made / "rows.npy"), "--head", str(made / "head.safetensors"), "--shard-rows", "15", "-q", "-o", out),
        ("status", out, "--json"),
        ("select", out, "--top", "5", "-q", "--overwrite", "-o", str(folder / "kept.csv")),
    )
    return json.loads(told[-2])["num_scored"]


def in_segment(data: bytes, change: Change, rng: random.Random) -> bytes:
    """Lines of a segment of the index, with a right checksum."""
    with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as source:
        lines = source.read().splitlines()[:-1]
    at = rng.randrange(len(lines))
    lines[at] = odd_json.text_of(odd_json.changed(json.loads(lines[at]), rng)).encode("utf-8", "replace")
    text = b"\n".join([*lines, b""])
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(text)
        out.write(json.dumps({"sha256": hashlib.sha256(text).hexdigest()}).encode() + b"\n")
    return bytes(sink.getvalue())


# ----- a score set with its record, as commands that look at it read it -----


def _set(folder: Path, record: bytes) -> Path:
    """A result in one file, and its record beside it."""
    table = pa.table({"sample": [f"p/{i}.jpg" for i in range(40)], "aesthetic_score": pa.array(ROWS[:, 0])})
    pq.write_table(table, folder / "set.parquet")
    (folder / "set.parquet.beholder.json").write_bytes(record)
    return folder / "set.parquet"


def set_record() -> Sequence[bytes]:
    """The record of a result in one file."""
    made = _run()
    run([made / "rows.npy"], made / "one.parquet", made / "head.safetensors")
    record = records.parse((made / "one.parquet.beholder.json").read_bytes())
    more = {
        **record, "score_columns": ["aesthetic_score"], "pictures": {"sources": ["p"], "folder": "/nowhere"}, "backbone": "x/y",
        "pixels": {"preset": "openai", "decoder": "pillow"}, "funnel": [{"rule": "top", "left": 5}], "rules": {"top": 5},
    }  # fmt: skip
    return records.sealed(record), records.sealed(more)


def with_set(path: Path) -> Hashable:
    """A set with a record, through the commands that look at records."""
    folder = empty_beside(path)
    file = str(shutil.copyfile(_run() / "one.parquet", folder / "one.parquet"))
    shutil.copyfile(path, f"{file}.beholder.json")
    if (_run() / "one.parquet.rejects.parquet").exists():
        shutil.copyfile(_run() / "one.parquet.rejects.parquet", f"{file}.rejects.parquet")
    with contextlib.suppress(BeholderError):  # it is not where it was written
        command("verify", file, "--json")
    all_of(
        ("status", file, "--json"),
        ("rejects", file),
        ("advise", file, "--json"),
        ("select", file, "--top", "5", "-q", "-o", str(folder / "kept.csv")),
        ("report", file, "-q", "--no-thumbnails", "-o", str(folder / "page.html")),
        ("select", file, "--top", "5", "-q", "--copy", str(folder / "to")),
    )
    return "read"


# ----- others -----


def marks() -> Sequence[bytes]:
    """Marks as the live page keeps them."""
    lines = [{"sample": f"p/{i}.jpg", "mark": ("keep", "drop", None)[i % 3], "time": "2026-01-01T00:00:00Z"} for i in range(9)]
    return ["".join(json.dumps(line) + "\n" for line in lines).encode()]


def with_marks(path: Path) -> Hashable:
    """Marks in a selection and as ratings; and as the live page reads them, which skips what is no mark."""
    from beholder.browse.marks import MarkBook
    from beholder.train.ratings.read import read_ratings

    folder = empty_beside(path)
    book = MarkBook(path, 9,
                    lambda names: {name: [int(name[2])] for name in names if re.match("p/[0-8]", name)},
                    has_unique_names=True)  # fmt: skip
    assert book.state.max(initial=0) <= 2
    file = str(_set(folder, b"{}"))
    command("select", file, "--marks", str(path), "-q", "-o", str(folder / "kept.csv"))
    read_ratings(str(path))
    return book.num_damaged


def journal() -> Sequence[bytes]:
    """The journal of files that were copied."""
    folder = Path.cwd().parent / "acted"
    (folder / "p").mkdir(parents=True)
    for number in range(6):
        (folder / "p" / f"{number}.jpg").write_bytes(b"\xff\xd8" + bytes([number]) * 50)
    pq.write_table(
        pa.table({"sample": [f"{folder}/p/{i}.jpg" for i in range(6)], "aesthetic_score": np.arange(6.0)}), folder / "s.parquet"
    )
    command("select", str(folder / "s.parquet"), "--top", "4", "-q", "--copy", str(folder / "to"), "--apply")
    return [
        path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and b"beholder-journal" in path.read_bytes()[:200]
    ][:1]


def in_journal(data: bytes, change: Change, rng: random.Random) -> bytes:
    """Lines of a journal with their checksums made anew."""
    from beholder.curate.act import journal as own

    lines, check, found = data.splitlines(keepends=True), "", []
    at = rng.randrange(len(lines))
    for number, line in enumerate(lines):
        tree = {name: value for name, value in json.loads(line).items() if name != "check"}
        if number == at:
            tree = odd_json.changed(tree, rng)
        text = odd_json.text_of(tree).encode("utf-8", "replace")[:-1]
        check = own._sum(check, text)
        found.append(text + own._FIELD + check.encode() + own._END)
    return b"".join(found)


def with_journal(path: Path) -> Hashable:
    """What a journal says."""
    from beholder.curate.act.journal import read_journal

    state = read_journal(str(path))
    return state.is_finished, state.num_files, len(state.unsettled), bool(state.num_lost)


def rates() -> Sequence[bytes]:
    """What bench keeps of a machine."""
    tower = {"backbone": tower_name(DEFAULT_TOWER), "device": "cpu", "device_name": "typed", "precision": "fp32", "dim": 768,
             "pictures_per_second": 10, "core_s": 1.6, "feed_s": 0.0001, "load_s": 5, "is_random": False}  # fmt: skip
    size = {"what": "made", "pixels": 1e6, "num_bytes": 200_000, "core_s": 0.011, "core_s_alone": 0.011}
    plain = {
        "format": "beholder-rates", "version": 2, "date": "2026-11-29", "num_cores": 16, "about": ["- typed"], "busy": 0.2,
        "decode": {"constant_s": 0.001, "pixel_s": 1e-8, "decoder": "pillow", "image_px": 224, "sizes": [size]},
        "towers": [tower], "run": {"core_s": 0.0002, "start_s": 20, "written_bytes": 100},
        "storage": {"place": "/data", "read_bytes_per_second": 1e9, "write_bytes_per_second": 2e8, "is_cached": False},
        "rows": {"rows_per_second": 100, "num_cores": 16, "dim": 768, "start_s": 2},
    }  # fmt: skip
    return [records.sealed(plain)]


def with_rates(path: Path) -> Hashable:
    """A plan by rates."""
    told = command("plan", "--count", "1000", "--rates", str(path), "--json")
    assert told
    return command("plan", "--count", "1000", "--rates", str(path))[:20]


def _of_head() -> HeadKey:
    return head_named("sac+logos+ava1-l14-linearMSE")


def scale_map() -> Sequence[bytes]:
    """Maps onto ratings and percentiles."""
    name = _of_head().to_json()
    plain = {
        "format": "beholder-scale-map", "version": 2, "of": name, "onto": {"kind": "percentiles"}, "method": "quantile",
        "num_pictures": 40, "error": 0.25, "score_range": [-2.0, 2.0], "value_range": [0.0, 100.0], "scores": [-2.0, 0.0, 2.0],
        "values": [0.0, 40.0, 100.0], "bounds": None, "ends": [[], []], "note": "x",
    }  # fmt: skip
    bounds = {
        "scores": [-2.0, 2.0],
        "values": [1.0, 5.0],
        "residuals": [0.1 * i for i in range(40)],
        "groups": [i // 2 for i in range(40)],
    }
    other = {**plain, "onto": {"kind": "ratings"}, "method": "isotonic", "bounds": bounds, "ends": [[-2.0, -1.0], [1.0, 2.0]]}
    return records.sealed(plain, indent=1), records.sealed(other, indent=1)


def with_map(path: Path) -> Hashable:
    """A map that is kept with a head: listed, and used for a threshold."""
    from beholder.scoreset.scales import read_map

    found = read_map(str(path))
    json.dumps(found.to_json())
    folder, kept = empty_beside(path), folder_of(_of_head())
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, kept / "x.json")
    record = {
        "format": "beholder-score-set",
        "version": 1,
        "score_columns": ["aesthetic_score"],
        "heads": [{"name": _of_head().name}],
    }
    file = str(_set(folder, json.dumps(record).encode()))
    scale = "percentiles" if found.kind == "percentiles" else "ratings"
    command("select", file, "--min-score", "1.5", "--scale-of", scale, "-q", "-o", str(folder / "kept.csv"))
    command("models", "info", _of_head().name)
    return found.kind, found.method


def head_record() -> Sequence[bytes]:
    """The record beside a head that says what it was trained on."""
    import base64

    hashes = base64.b64encode(np.sort(np.random.default_rng(0).integers(0, 2**63, 20).astype("<u8")).tobytes()).decode()
    told = {"num_pictures": 20, "samples_sha256": "0" * 64, "hashes": hashes, "is_whole": True}
    sketched = {**told, "sketches": hashes, "dim": 12, "backbone": None}
    return [json.dumps({"name": "mine", "trained_on": one, "measures": {"values": {}}}).encode() for one in (told, sketched)]


def _two_pictures() -> Any:
    """Two pictures with sketches of embeddings."""
    from beholder.train.sketches import sketched
    from beholder.train.trained_on import Pictures

    at = np.arange(2)
    return replace(Pictures.named(["a", "b"]), sketched=sketched(2, at, np.ones((2, 12)), at, None))


def with_head_record(path: Path) -> Hashable:
    """What a head was trained on; None where the record does not say it."""
    from beholder.train.trained_on import trained_on

    found = trained_on(str(path.with_suffix(".safetensors")))
    if found is None:
        raise BeholderError("no record")
    return found.is_whole, found.share(_two_pictures())


def stamp() -> Sequence[bytes]:
    """A stamp beside embeddings."""
    plain = {"format": "beholder-embeddings", "version": 1, "backbone": "openai/clip-vit-large-patch14", "normalised": False,
             "tower": {"name": "x", "sha256": "0" * 64, "backbone": None}, "pixels": {"preset": "openai"}}  # fmt: skip
    return records.sealed(plain), json.dumps({"backbone": {"name": "ViT-L/14"}}).encode()


def with_stamp(path: Path) -> Hashable:
    """Embeddings that are scored with a stamp beside them."""
    made, folder = _run(), empty_beside(path)
    np.save(folder / "rows.npy", ROWS)
    (folder / "rows.npy.beholder.json").write_bytes(path.read_bytes())
    command(
        "score", str(folder / "rows.npy"), "--head", str(made / "head.safetensors"), "-q", "-o", str(folder / "out.parquet")
    )
    return pq.read_metadata(folder / "out.parquet").num_rows


def log() -> Sequence[bytes]:
    """A log of a run."""
    return [b'{"time": "2026-01-01T00:00:00Z", "run": "a", "event": "begin"}\n{"time": "x", "run": "a", "event": "end"}\n']


def with_log(path: Path) -> Hashable:
    """A run that is told to go on with a log, and with a file of metrics, that are there."""
    made, folder = _run(), empty_beside(path)
    shutil.copyfile(path, folder / "log.jsonl")
    command("score", str(made / "rows.npy"), "--head", str(made / "head.safetensors"), "-q", "-o", str(folder / "out.parquet"),
            "--log-json", str(folder / "log.jsonl"))  # fmt: skip
    return "read"


def metrics() -> Sequence[bytes]:
    """Metrics of a run."""
    folder = Path.cwd().parent / "metrics"
    folder.mkdir()
    made = _run()
    command("score", str(made / "rows.npy"), "--head", str(made / "head.safetensors"), "-q", "-o", str(folder / "out.parquet"),
            "--metrics", str(folder / "m.prom"))  # fmt: skip
    return [(folder / "m.prom").read_bytes()]


def with_metrics(path: Path) -> Hashable:
    """The same of metrics."""
    made, folder = _run(), empty_beside(path)
    shutil.copyfile(path, folder / "m.prom")
    command("score", str(made / "rows.npy"), "--head", str(made / "head.safetensors"), "-q", "-o", str(folder / "out.parquet"),
            "--metrics", str(folder / "m.prom"))  # fmt: skip
    return "read"


def lease() -> Sequence[bytes]:
    """Who has the lock of a folder."""
    from beholder.scoring.lock import Holder

    return [Holder.here(20.0).data()]


def with_lease(path: Path) -> Hashable:
    """Who has it; None for what does not say so."""
    from beholder.scoring.lock import Holder

    found = Holder.parse(path.read_bytes())
    if found is None:
        raise BeholderError("nobody")
    return found.is_alive, bool(str(found))


TARGETS: Mapping[str, Target] = {
    "record of a run": Target(functools.partial(with_run, "beholder.json"), _seed_of("beholder.json"), "beholder.json",
                              insides=(in_record,), count=3, **_LIMITS),
    "marker of a shard": Target(functools.partial(with_run, "done/*.json"), _seed_of("done/*.json"), "x.json",
                                insides=(in_record,), count=3, **_LIMITS),
    "segment of the index": Target(functools.partial(with_run, "done/*.zst"), _seed_of("done/*.zst"), "x.zst",
                                   insides=(in_segment,), count=3, **_LIMITS),
    "run.json": Target(functools.partial(with_run, "run.json"), _seed_of("run.json"), "run.json", insides=(in_json,), count=3,
                       **_LIMITS),
    "record of a result": Target(with_set, set_record, "x.json", insides=(in_record,), count=3, **_LIMITS),
    "marks": Target(with_marks, marks, "marks.jsonl", insides=(in_lines,), is_text=True, count=4, **_LIMITS),
    "journal": Target(with_journal, journal, "x.jsonl", insides=(in_journal,), count=7, **_LIMITS),
    "scale map": Target(with_map, scale_map, "x.json", insides=(in_record,), count=4, **_LIMITS),
    "rates": Target(with_rates, rates, "x.json", insides=(in_record,), count=8, **_LIMITS),
    "record of a head": Target(with_head_record, head_record, "x.json", insides=(in_json,), count=7, **_LIMITS),
    "stamp": Target(with_stamp, stamp, "x.json", insides=(in_record, in_json), count=4, **_LIMITS),
    "log of a run": Target(with_log, log, "x.jsonl", insides=(in_lines,), count=5, **_LIMITS),
    "metrics of a run": Target(with_metrics, metrics, "x.prom", is_text=True, count=3, **_LIMITS),
    "lease": Target(with_lease, lease, "x.json", insides=(in_json,), count=7, **_LIMITS),
}  # fmt: skip


@pytest.mark.parametrize("name", mostly_slow(TARGETS))
def test_mutated_records_are_used_or_refused(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path, count=TARGETS[name].count)


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_records_for_a_minute(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path)
