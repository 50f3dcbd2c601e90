"""Tables and score sets with damage of any kind: one clear line or rejects, never an internal error or an abort at the end."""

from __future__ import annotations

import contextlib
import io
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from beholder import InputError
from beholder.cli.app import app
from beholder.errors import BeholderError
from oracles.tiers import mostly_slow

ROWS = 40
MUTATIONS = 12
"""Of each kind of file: enough to fail without the checks; more were tried once (see the commit that brought this)."""


def command(*arguments: str) -> str:
    """The line that a command ends with, "" for one that does its work. Anything else is raised."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            app(list(arguments), standalone_mode=False)
        except BeholderError as error:
            return str(error)
        except (SystemExit, typer.Exit):
            return ""
    return ""


def select(path: Path, *more: str) -> str:
    rules = more or ("--min-score", "-9")
    return command("select", str(path), *rules, "-q", "--overwrite", "-o", str(path.parent / "kept.csv"))


@pytest.fixture(scope="module")
def whole() -> dict[str, bytes]:
    """Sound files by name."""
    names = [f"p/é{i}.jpg" for i in range(ROWS)]
    scores = pa.array(np.linspace(-2, 2, ROWS), pa.float32())
    captions = [f"a cät {i % 7}" for i in range(ROWS)]
    table = pa.table({"sample": names, "aesthetic_score": scores, "caption": captions, "n": range(ROWS)})
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.random.default_rng(1).standard_normal(24 * ROWS), pa.float32()), 24)
    found = {}
    for name, rows, options in (
        ("set", table, {"use_dictionary": False, "compression": "none"}),
        ("groups", table, {"row_group_size": 17}),
        ("vectors", pa.table({"sample": names, "embedding": vectors}), {"use_dictionary": False, "compression": "none"}),
    ):
        out = io.BytesIO()
        pq.write_table(rows, out, **options)
        found[f"{name}.parquet"] = out.getvalue()
    lines = [f'{name},{score},"x, ""y"" {i}"' for i, (name, score) in enumerate(zip(names, scores.to_pylist(), strict=True))]
    return found | {"set.csv": "\n".join(["sample,aesthetic_score,caption", *lines]).encode()}


def damaged(data: bytes, seed: int) -> Iterator[bytes]:
    """Bytes changed, cut out, put in, the end cut off."""
    chance = random.Random(seed)
    for _ in range(MUTATIONS):
        found = bytearray(data)
        at, kind = chance.randrange(len(found)), chance.random()
        if kind < 0.6:
            for _ in range(chance.choice((1, 2, 8))):
                found[chance.randrange(len(found))] = chance.randrange(256)
        elif kind < 0.75:
            del found[at:]
        elif kind < 0.9:
            del found[at : at + chance.randrange(1, 40)]
        else:
            found[at:at] = chance.randbytes(chance.randrange(1, 40))
        yield bytes(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", mostly_slow(["set.parquet", "set.csv", "groups.parquet", "vectors.parquet"], quick=2, slow=0))
def test_random_damage(tmp_path: Path, whole: dict[str, bytes], name: str, plain_head: Path) -> None:
    path = tmp_path / name
    for data in damaged(whole[name], 3):
        path.write_bytes(data)
        if name.startswith("vectors"):
            score = ("score", str(path), "--head", str(plain_head), "-q", "--overwrite", "-o", str(tmp_path / "o.parquet"))
            said = [command(*score)]
        else:
            said = [select(path), select(path, "--where", "caption <> 'x'", "--per", "caption", "--top", "2")]
        assert all("\n" not in line and line.isprintable() for line in said)


def test_text_that_is_no_utf8(tmp_path: Path, whole: dict[str, bytes]) -> None:
    path = tmp_path / "s.parquet"
    for place, word in (("sample", "p/é".encode()), ("caption", "cät".encode())):
        path.write_bytes(whole["set.parquet"].replace(word, b"\xff" * len(word)))
        line = f"{path} is damaged near row 0: column {place!r}: text that is not UTF-8; write it again"
        assert select(path) == line
    path.write_bytes(whole["set.parquet"].replace(b"caption", b"capt\xffon"))
    assert "is not a whole Parquet file" in select(path)
    path = tmp_path / "s.csv"
    path.write_bytes(b"sample,aesthetic_score\n\xff\xfe,1\n")
    assert (
        select(path)
        == f"{path} cannot be read as CSV: column 'sample' holds bytes that are no UTF-8 text; save the file as UTF-8"
    )
    path.write_bytes(b"sample,aesth\xffetic_score\na,1\n")
    assert select(path) == f"{path} cannot be read as CSV: its column names are no UTF-8 text; save the file as UTF-8"
    path.write_bytes(bytes(range(256)) * 9)
    assert select(path) == f"{path} cannot be read as CSV: it is no text, it holds zero bytes"
    path.write_bytes(b"sample,aesthetic_score\na,1,\x1b[31m\x07\n")
    assert select(path) == f"{path} cannot be read as CSV: CSV parse error: Expected 2 columns, got 3: a,1,?[31m?"


def test_two_columns_of_one_name(tmp_path: Path, plain_head: Path) -> None:
    twice = pa.Table.from_arrays([pa.array(["a.jpg"]), pa.array(["x"]), pa.array(["y"])], ["path", "tag", "tag"])
    pq.write_table(twice, tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("path,tag,tag\na.jpg,x,y\n")
    from beholder.sources.find import find_pictures
    from beholder.sources.reader import SourceOptions

    for name in ("t.parquet", "t.csv"):
        with pytest.raises(InputError, match="has two columns named 'tag'; rename one"):
            find_pictures([str(tmp_path / name)], SourceOptions(picture_column="path"))
    scores = pa.Table.from_arrays([pa.array(["a.jpg"]), pa.array([5.0]), *twice.columns[1:]], ["sample", "score", "tag", "tag"])
    pq.write_table(scores, tmp_path / "s.parquet")
    assert select(tmp_path / "s.parquet") == f"{tmp_path}/s.parquet has two columns named 'tag'; rename one"
    vector = pa.FixedSizeListArray.from_arrays(pa.array([1.0] * 24, pa.float32()), 24)
    rows = pa.Table.from_arrays([vector, *twice.columns[1:]], ["embedding", "tag", "tag"])
    pq.write_table(rows, tmp_path / "e.parquet")
    for column in ("tag", "*"):
        score = ("score", str(tmp_path / "e.parquet"), "--head", str(plain_head), "--column", column, "-q")
        assert "has two columns called 'tag'" in command(*score, "-o", str(tmp_path / "o.parquet"))


@pytest.mark.soak
def test_a_refused_table_ends_with_one_line_each_time(tmp_path: Path, plain_head: Path) -> None:
    """Ten times, since what aborted at the end did so in a third of the runs."""
    (tmp_path / "ragged.csv").write_text("image_path,c\nimgs/0.jpg,x\nimgs/1.jpg\n")
    (tmp_path / "latin.csv").write_bytes(b"image_path,c\nimgs/0.jpg,\xe9\n")
    (tmp_path / "set.csv").write_text("sample,score\n" + "a,1\n" * 50_000 + "b\n")
    commands = [["score", name, "--head", str(plain_head)] for name in ("ragged.csv", "latin.csv") * 3]
    commands += [["select", "set.csv", "--min-score", "0"]] * 4
    runs = [
        subprocess.Popen([sys.executable, "-m", "beholder", *line], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for line in commands
    ]
    for run in runs:
        said = run.communicate()[1]
        assert (run.returncode, said.count("\n")) == (1, 1), said
        assert "cannot be read as CSV: " in said
