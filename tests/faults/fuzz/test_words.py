"""Mutated words of the command line and of the environment: done, or refused in one line that a terminal shows as it is."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import Head, save_head
from oracles.fuzzing import Target, check
from oracles.in_process import command, empty_beside
from oracles.mutating import ODD_NUMBERS, ODD_TEXTS
from oracles.tiers import mostly_slow

Change = Callable[[bytes], bytes]
ROWS = 24
SET = {
    "sample": [f"p/{i % 5}/é{i}.jpg" for i in range(ROWS)],
    "aesthetic_score": pa.array(np.linspace(2, 8, ROWS), pa.float32()),
    "label": ["cat", "dog", None] * (ROWS // 3),
    "width": pa.array(range(ROWS), pa.int32()),
    "num_bytes": pa.array(range(1000, 1000 + ROWS), pa.int64()),
}
SELECT = (
    ("--top", "5"), ("--min-score", "4.5"), ("--max-score", "1e3"), ("--top-share", "10%"), ("--top-share", "0.5"),
    ("--quantile", "0.9"), ("--budget", "3kB"), ("--draw", "5", "--temperature", "0.5", "--seed", "3"), ("--memory", "200MB",
        "--top", "3"),
    ("--top", "3", "--per", "folder"), ("--top", "2", "--balance", "label"), ("--min-score", "50%"), ("--threads", "1", "--top",
        "1"),
    ("--dedup", "0.95"), ("--clusters", "3", "--top", "2"), ("--rank-by", "width + aesthetic_score", "--top", "3"),
    ("--top", "3", "--repeated", "all"), ("--score", "aesthetic_score", "--top", "3"), ("--top", "3", "--score-column",
        "width"),
    ("--top", "3", "--sample-column", "label"), ("--top", "4", "--xmp", "--xmp-stars", "5%,10%,20%"),
    ("--top", "4", "--xmp", "--xmp-labels", "Red=10%,Green=20%"), ("--top", "4", "--shard-count", "2", "--tars", "to"),
    ("--top", "3", "--scale-of", "ratings", "--head", "laion-v2"), ("--size-column", "width", "--budget", "1MiB"),
    ("--top", "3", "--per", "source", "--max-score", "-inf"),
)  # fmt: skip
CONDITIONS = (
    "width >= 5", "label = 'cat' AND width < 9", "label IS NULL OR lower(label) LIKE 'd%'", "width BETWEEN 3 AND 7",
    "label IN ('cat', 1)",
    "length(sample) % 2 = 0", "width::VARCHAR = '03'", "CASE WHEN width > 3 THEN true ELSE false END",
    "regexp_matches(sample, 'é[0-9]+')",
    "aesthetic_score > (1 + 2) * 1e0",
)  # fmt: skip
_SQL = (
    "(", ")", "'", '"', "--", "/*", ";", "\\", "NULL", "width", "label", "nope", "1/0", "0.0/0", "1e999", "'x'::INT", "::DATE",
    "COUNT(*)",
    "SUM(width)", "row_number() OVER ()", "(SELECT 1)", "(SELECT * FROM read_csv('/etc/passwd'))", "read_text('/etc/passwd')",
    "getenv('HOME')",
    "SELECT", "UNION ALL SELECT 1", "; DROP TABLE scores", "COPY scores TO 'stolen.csv'", "ATTACH 'stolen.db'", "$1", "?", ":a",
    "{'a': 1}",
    "[1, 2]", "x -> x + 1", "*", "scores.*", "COLUMNS('.*')", "random()", "repeat('x', 100000000)", "range(1000000000)",
    "INTERVAL 1 DAY",
    "TIMESTAMP '2020-01-01'", "unnest([1,2])", "EXISTS (SELECT 1)", "width = ANY([1])", "current_setting('threads')", "rowid",
    "#1", "1 =",
    "list_sum(range(100000000)) > 0", "regexp_matches(repeat('a', 30), '(a+)+$')", "'\ud800'", "\0", "é", "x" * 3000, "(" * 500,
        "NOT " * 500,
)  # fmt: skip
OTHERS = (
    ("advise", "SET", "--grid", "5", "--groups-shown", "3"), ("advise", "SET", "--min-score", "5", "--group-by", "label"),
    ("report", "SET", "-q", "--no-thumbnails", "--seed", "3", "--max-time", "10", "-o", "OUT/page.html"),
    ("rejects", "SET", "--reason", "truncated"), ("status", "SET"), ("undo", "SET"),
    ("plan", "--count", "100", "--pixels", "640x480"), ("plan", "--count", "5", "--devices", "cpu:2", "--machines", "2",
                                                        "--cores", "4"),
    ("score", "ROWS", "--head", "HEAD", "-q", "--part", "0/2", "-o", "OUT/part"),
    ("score", "ROWS", "--head", "HEAD", "-q", "--shard-rows", "9", "--threads", "1", "-o", "OUT/run"),
    ("score", "ROWS", "--head", "HEAD", "-q", "--memory", "100MB", "--devices", "cpu:1", "-o", "OUT/one.parquet"),
    ("score", "ROWS", "--head", "HEAD", "-q", "--column", "x", "--sample-column", "y", "-o", "OUT/one.csv"),
    ("score", "ROWS", "--head", "HEAD", "-q", "--backbone", "ViT-B/32", "--embedding-column", "x", "-o", "OUT/two.csv"),
    ("models", "info", "laion-v2"), ("models", "list", "--json"), ("models", "save", "HEAD", "OUT/h.safetensors",
        "--input-scale", "2"),
    ("models", "save", "HEAD", "OUT/h.safetensors", "--activation", "relu", "--backbone", "ViT-L/14"), ("models", "add", "HEAD",
        "mine"),
    ("models", "remove", "mine"), ("predict", "--help"), ("verify", "SET"), ("calibrate", "SET", "--percentiles"),
    ("calibrate", "SET", "--ratings", "SET", "--interval", "0.9"), ("evaluate", "SET", "--ratings", "SET", "-o", "OUT/e.html"),
    ("train", "ROWS", "--ratings", "SET", "-o", "OUT/t.safetensors", "--folds", "2"),
)  # fmt: skip
VARIABLES: Mapping[str, tuple[str, ...]] = {
    "SOURCE_DATE_EPOCH": ("0", "x", "-1", "1e9", "9" * 30, " 5 ", "٣", "nan"),
    "BEHOLDER_PROGRESS_S": ("0", "x", "-1", "nan", "inf", "1e999", ""),
    "BEHOLDER_OFFLINE": ("1", "x", "\u202e", "true"),
    "BEHOLDER_CACHE": ("OUT/cache", "/dev/null/x", "OUT/\nx", "~nobody/x", "/proc/1"),
    "BEHOLDER_DATA": ("OUT/data", "/dev/null", "~nobody", "OUT/é", "/proc/1"),
    "BEHOLDER_MODELS": ("OUT/models", "/dev/null", "http://127.0.0.1:9/", "x://y", "~nobody", "http://[", "s3://"),
    "HF_ENDPOINT": ("http://127.0.0.1:9", "x", "", "http://["),
    "HF_HOME": ("/dev/null", "~nobody"),
    "HF_HUB_CACHE": ("/dev/null", "OUT/x"),
    "XDG_CACHE_HOME": ("/dev/null", "x", "~nobody"),
    "XDG_DATA_HOME": ("/dev/null", "~nobody"),
    "SLURM_ARRAY_TASK_ID": ("0", "x", "-1", "9" * 5000, "²"),
    "SLURM_ARRAY_TASK_COUNT": ("2", "0", "x", "9" * 30),
    "SLURM_ARRAY_TASK_MIN": ("1", "x"),
    "SLURM_ARRAY_TASK_STEP": ("0", "2", "x"),
    "COLUMNS": ("0", "x", "-5", "1", "9" * 20),
    "TMPDIR": ("/dev/null", "/nonexistent"),
    "HOME": ("", "/dev/null", "/nonexistent"),
    "TZ": ("Mars/X", ":", ""),
    "BEHOLDER_TRACEBACK": ("x", ""),
    "NO_COLOR": ("1",),
    "FORCE_COLOR": ("x",),
    "OMP_NUM_THREADS": ("x", "0", "-1"),
    "NUMBA_NUM_THREADS": ("x", "0", "99999"),
}
"""Values of environment variables that the program, or what it is made of, asks for."""


def run(path: Path) -> Hashable:
    """The command line in a file (JSON: `words`, `environment`), with a score set, embeddings and a head at hand."""
    asked = json.loads(path.read_bytes())
    folder = empty_beside(path)
    (folder / "out").mkdir()
    pq.write_table(pa.table(SET), folder / "set.parquet")
    np.save(folder / "rows.npy", np.random.default_rng(0).standard_normal((ROWS, 8)).astype(np.float32))
    save_head(Head.affine(np.arange(8.0), name="mine"), folder / "head.safetensors")
    places = {
        "SET": folder / "set.parquet",
        "ROWS": folder / "rows.npy",
        "HEAD": folder / "head.safetensors",
        "OUT": folder / "out",
    }

    def placed(word: str) -> str:
        for name, place in places.items():
            word = str(place) + word[len(name) :] if word == name or word.startswith(f"{name}/") else word
        return word.replace("\0", "")  # no system hands one on

    with _environment({name: placed(value) for name, value in asked["environment"].items()}):
        command(*(placed(word) for word in asked["words"]))
    assert not list(Path.cwd().iterdir()), "something was written where nothing should be"
    return asked["words"][0], len(asked["words"])


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def _seeds(*lines: Sequence[str], environment: Mapping[str, str] | None = None) -> list[bytes]:
    return [json.dumps({"words": list(words), "environment": dict(environment or {})}).encode() for words in lines]


def of_select() -> list[bytes]:
    """Rules."""
    return _seeds(*(("select", "SET", *rule, "-q", "--overwrite", "-o", "OUT/kept.csv") for rule in SELECT[:8]))


def in_rule(data: bytes, change: Change, rng: random.Random) -> bytes:
    """A rule, or two, with odd values."""
    words = ["select", "SET"]
    for rule in rng.sample(SELECT, rng.choice((1, 1, 2))):
        words += [_odd(word, rng) if not word.startswith("--") and rng.random() < 0.7 else word for word in rule]
    return _seeds([*words, "-q", "--overwrite", "-o", "OUT/kept.csv"])[0]


def _odd(word: str, rng: random.Random) -> str:
    """A word, a number or a text that is like it, or like nothing."""
    match rng.randrange(6):
        case 0:
            return rng.choice(ODD_NUMBERS)
        case 1:
            return rng.choice(ODD_TEXTS)
        case 2:
            at = rng.randrange(len(word) + 1)
            return (
                word[:at]
                + rng.choice((*ODD_TEXTS[:30], "%", "%%", ",", ",,", "=", "x", "-", ".", "e", "K", "iB", "0"))
                + word[at:]
            )
        case 3:
            return word * rng.choice((2, 3))
        case 4:
            return rng.choice((f"-{word}", f"{word}%", f"+{word}", f" {word} ", word.upper(), word[:-1], word[::-1]))
        case _:
            return rng.choice(
                (
                    "nan%",
                    "100%",
                    "101%",
                    "0%",
                    "-5%",
                    "1e-400",
                    "inf",
                    "9" * 400,
                    "1" + "0" * 400,
                    "folder",
                    "label",
                    "0/0",
                    "a=b",
                )
            )


def of_conditions() -> list[bytes]:
    """Conditions."""
    return _seeds(
        *(
            ("select", "SET", "--top", "5", "--where", text, "-q", "--overwrite", "-o", "OUT/kept.csv")
            for text in CONDITIONS[:4]
        )
    )


def in_condition(data: bytes, change: Change, rng: random.Random) -> bytes:
    """A condition with a piece of SQL put in, taken out or exchanged; or as an expression to rank by."""
    pieces = rng.choice(CONDITIONS).split(" ")
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(pieces))
        if rng.random() < 0.5:
            pieces[at] = rng.choice(_SQL)
        else:
            pieces[at:at] = [rng.choice(_SQL)]
    flag = rng.choice(("--where", "--where", "--where", "--rank-by", "--per", "--dedup-keep", "--balance"))
    words = ["select", "SET", "--top", "5", flag, " ".join(pieces), "-q", "--overwrite", "-o", "OUT/kept.csv"]
    return _seeds(words if rng.random() < 0.8 else ["advise", "SET", "--where", " ".join(pieces)])[0]


def of_others() -> list[bytes]:
    """Other commands."""
    return _seeds(("models", "list"), *OTHERS[:2])


def in_others(data: bytes, change: Change, rng: random.Random) -> bytes:
    """A command with odd values, a flag taken away, or one of another command."""
    words = list(rng.choice(OTHERS))
    for at in range(1, len(words)):
        if (
            not words[at].startswith("-")
            and words[at] not in ("SET", "ROWS", "HEAD")
            and not words[at].startswith("OUT")
            and rng.random() < 0.6
        ):
            words[at] = _odd(words[at], rng)
    if rng.random() < 0.2:
        del words[rng.randrange(1, len(words))]
    if rng.random() < 0.2:
        words += rng.choice(SELECT)
    return _seeds(words)[0]


def in_environment(data: bytes, change: Change, rng: random.Random) -> bytes:
    """Variables with odd values."""
    chosen = rng.sample(list(VARIABLES), rng.choice((1, 1, 2, 3)))
    environment = {name: rng.choice((*VARIABLES[name], rng.choice(ODD_TEXTS[:20]).replace("\0", ""))) for name in chosen}
    words = rng.choice((*OTHERS[:3], OTHERS[8], OTHERS[9], ("score", "ROWS", "--head", "HEAD", "-q", "--part", "slurm", "-o",
                                                            "OUT/p"),
                        ("models", "list"), ("models", "info", "laion-v2"), ("models", "add", "HEAD", "mine"),
                        ("score", "ROWS", "--head", "laion-v2", "-q", "-o", "OUT/q")))  # fmt: skip
    return _seeds(words, environment=environment)[0]


_LIMITS: dict[str, Any] = {"limit_s": 12.0, "most_bytes": 1 << 30, "names_file": False, "is_made": True}


def _only(inside: Callable[[bytes, Change, random.Random], bytes]) -> Callable[[bytes, Change, random.Random], bytes]:
    return inside


TARGETS: Mapping[str, Target] = {
    "rules": Target(run, of_select, "x.json", insides=(in_rule,), count=13, **_LIMITS),
    "conditions": Target(run, of_conditions, "x.json", insides=(in_condition,), count=15, **_LIMITS),
    "commands": Target(run, of_others, "x.json", insides=(in_others,), count=15, **_LIMITS),
    "environment": Target(run, of_others, "x.json", insides=(in_environment,), count=8, **_LIMITS),
}


@pytest.mark.parametrize("name", mostly_slow(TARGETS))
def test_mutated_words_are_done_or_refused(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path, count=TARGETS[name].count)


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_words_for_a_minute(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path)
