"""Bad input, end to end: the real program gives one clear line, the right exit status, and leaves no output behind.

The table in docs/bad-input.md is checked against what is seen here: every row, its line word for word, its exit status.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import Head, save_head
from beholder.columns import SCORE_SET_FORMAT
from beholder.kernels.scoring import Affine

D = 768
BACKBONE = "openai/clip-vit-large-patch14"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "bad-input.md"
ROWS = np.random.default_rng(0).standard_normal((5, D)).astype(np.float32)
PORT = "127.0.0.1:9"
"""Nothing listens on the discard port: connections to it are refused at once."""


@dataclass(frozen=True)
class Case:
    """A situation: what to make in the current folder, the command line, and what must be said.

    Attributes:
        make: writes the input files.
        arguments: of `beholder score`; `-o scores.parquet` and the head are added where they are not given.
        names: the file, head or option that the line must name.
        words: a pattern the line must match.
        status: exit status.
        environment: variables to set.
    """

    make: Callable[[], object]
    names: str
    words: str
    arguments: tuple[str, ...] = ("embeddings.npy",)
    status: int = 1
    environment: dict[str, str] = field(default_factory=dict)


class _Bomb:
    """An object whose unpickling would leave a file."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (os.system, ("touch unpickled",))


def _save(rows: object, name: str = "embeddings.npy") -> None:
    np.save(name, np.asarray(rows))


def _stamp(backbone: str) -> None:
    _save(ROWS)
    Path("embeddings.npy.beholder.json").write_text(json.dumps({"backbone": backbone}))


def _truncated() -> None:
    _save(ROWS)
    os.truncate("embeddings.npy", 10_000)


def _twice() -> None:
    with Path("embeddings.npy").open("wb") as file:
        np.save(file, ROWS)
        np.save(file, ROWS)


def _object_names() -> None:
    np.savez("embeddings.npz", embeddings=ROWS, paths=np.array([f"{i}.jpg" for i in range(len(ROWS))], object))


def _long_texts() -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array(["x" * (1 << 20)]))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(2000 * D, np.float32)), D)
    table = pa.table({"caption": texts, "embedding": vectors})
    pq.write_table(table, "embeddings.parquet", dictionary_pagesize_limit=1 << 30, store_schema=False)


def _objects() -> None:
    np.save("embeddings.npy", np.array([_Bomb(), _Bomb()], dtype=object), allow_pickle=True)
    assert b"touch unpickled" in Path("embeddings.npy").read_bytes()
    assert pickle.dumps(_Bomb())


def _with(value: float) -> None:
    rows = ROWS.copy()
    rows[3] = value
    _save(rows)


def _held() -> None:
    """A folder that a run of another machine has locked."""
    holder = {"host": "node7", "user": "ann", "machine": "other", "pid": 4711, "started": 1, "token": "x", "interval_s": 0.0}
    Path("scores").mkdir()
    lock = Path("scores/.lock").open("w")  # noqa: SIM115 (held until the next one, or the end of the tests)
    fcntl.flock(lock, fcntl.LOCK_EX)
    lock.write(json.dumps(holder | {"since": "2026-11-29T08:00:00+00:00"}))
    lock.flush()
    HELD[:] = [lock]


HELD: list[Any] = []


def _finished_by_an_earlier_version() -> None:
    record = {"format": SCORE_SET_FORMAT, "options": {}, "result": {}}
    fsspec.filesystem("memory").pipe_file("/bucket/scores/beholder.json", json.dumps(record).encode())


def _set(num_metadata: int = 5, part_numbers: tuple[int, ...] = (0,)) -> None:
    Path("set/img_emb").mkdir(parents=True)
    Path("set/metadata").mkdir()
    for number in part_numbers:
        _save(ROWS, f"set/img_emb/img_emb_{number}.npy")
    pq.write_table(pa.table({"image_path": [str(i) for i in range(num_metadata)]}), "set/metadata/metadata_0.parquet")


def _corrupted_head() -> None:
    _save(ROWS)
    Path("models").mkdir()
    Path("models/sac+logos+ava1-l14-linearMSE.pth").write_bytes(b"not what was published" * 1000)


def _file(name: str, data: bytes) -> Callable[[], None]:
    def make() -> None:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(data)

    return make


def _table(name: str, **more: list[object]) -> None:
    frame = {"sample": [str(i) for i in range(5)], **more, **{str(i): ROWS[:, i] for i in range(D)}}
    write = pl.DataFrame(frame)
    if name.endswith(".csv"):
        write.write_csv(name)
    else:
        write.write_parquet(name)


def _damaged_parquet() -> None:
    _table("embeddings.parquet")
    os.truncate("embeddings.parquet", Path("embeddings.parquet").stat().st_size - 1000)


def _both(first: Callable[[], object], second: Callable[[], object]) -> Callable[[], None]:
    def make() -> None:
        first()
        second()

    return make


def _good() -> None:
    _save(ROWS)


CASES: dict[str, Case] = {
    "embeddings of another length": Case(
        lambda: _save(ROWS[:, :512]), "embeddings.npy", "has 512 dimensions, my-head needs 768"
    ),
    "embeddings of another model (by their stamp)": Case(
        lambda: _stamp("openai/clip-vit-large-patch14-336"), "embeddings.npy.beholder.json", "made with .* my-head is made for"
    ),
    "embeddings of another model (by where they lie)": Case(
        lambda: _save(np.random.default_rng(0).standard_normal((500, D)).astype(np.float32)),
        "embeddings.npy",
        "these are not CLIP ViT-L/14 image embeddings",
    ),
    "a truncated .npy": Case(_truncated, "embeddings.npy", "truncated: its header promises 5 rows"),
    "an .npy of Python objects": Case(_objects, "embeddings.npy", "Python objects, which are never unpickled"),
    "an .npy saved twice into one file": Case(_twice, "embeddings.npy", "15488 bytes after the 5 rows"),
    "an .npz whose names are Python objects": Case(
        _object_names, "embeddings.npz[paths]", "save it as text", ("embeddings.npz",)
    ),
    "an empty file": Case(_file("embeddings.npy", b""), "embeddings.npy", r"empty \(0 bytes\)"),
    "zero rows": Case(lambda: _save(ROWS[:0]), "embeddings.npy", "zero rows, nothing to score"),
    "a 1-D array": Case(lambda: _save(ROWS[0]), "embeddings.npy", "1-D with 768 values"),
    "integers": Case(lambda: _save(ROWS.astype(np.int8)), "embeddings.npy", "dtype int8: integer embeddings are quantised"),
    "a row with NaN": Case(lambda: _with(np.nan), "scores.parquet.rejects.parquet", "1 nan", status=3),
    "a row of zeros": Case(lambda: _with(0), "scores.parquet.rejects.parquet", "1 zero_norm", status=3),
    "metadata with another number of rows": Case(
        lambda: _set(4), "metadata_0.parquet", "img_emb_0.npy has 5 rows but its metadata .* has 4", ("set",)
    ),
    "metadata that lacks for one part": Case(
        lambda: _set(5, (0, 1)), "img_emb_1.npy", "has no metadata file with number 1", ("set",)
    ),
    "a head nobody knows": Case(
        _good,
        "sac+logos+ava1-l14-linearMS:",
        r"did you mean sac\+logos\+ava1-l14-linearMSE",
        ("embeddings.npy", "--head", "sac+logos+ava1-l14-linearMS"),
    ),
    "a head file that is not the published one": Case(
        _corrupted_head,
        "models/sac+logos+ava1-l14-linearMSE.pth",
        "sha256",
        ("embeddings.npy", "--head", "sac+logos+ava1-l14-linearMSE"),
        environment={"BEHOLDER_MODELS": "models"},
    ),
    "the hub out of reach": Case(
        _good,
        "ttj/sac-logos-ava1-l14-linearMSE",
        f"http://{PORT} cannot be reached",
        ("embeddings.npy", "--head", "ttj/sac-logos-ava1-l14-linearMSE"),
        environment={"HF_ENDPOINT": f"http://{PORT}"},
    ),
    "the address of a head out of reach": Case(
        _good, f"http://{PORT}/head.pth", "cannot get", ("embeddings.npy", "--head", f"http://{PORT}/head.pth")
    ),
    "offline, and the head was never fetched": Case(
        _good,
        "sac+logos+ava1-l14-linearMSE",
        "offline",
        ("embeddings.npy", "--offline", "--head", "sac+logos+ava1-l14-linearMSE"),
    ),
    "the output exists": Case(
        _both(_good, _file("scores.parquet", b"mine")), "scores.parquet", "already exists .*use --overwrite"
    ),
    "another run is writing the output": Case(
        _both(_good, _held),
        "scores",
        "another run is writing .*process 4711 of ann on node7",
        ("embeddings.npy", "-o", "scores"),
    ),
    "a remote folder of an earlier version": Case(
        _both(_good, _finished_by_an_earlier_version),
        "memory://bucket/scores",
        "finished by an earlier version",
        ("embeddings.npy", "-o", "memory://bucket/scores"),
    ),
    "the output cannot be written": Case(
        _both(_good, _file("file", b"mine")),
        "file/scores.parquet",
        "cannot write",
        ("embeddings.npy", "-o", "file/scores.parquet"),
    ),
    "softmax outputs, not logits": Case(
        lambda: _table("logits.csv", prediction=["cat"] * 5), "logits.csv", "softmax outputs.*--save-logits", ("logits.csv",)
    ),
    "a column that is not there": Case(
        lambda: _table("embeddings.parquet"),
        "embeddings.parquet",
        "no column 'caption'; it has: sample",
        ("embeddings.parquet", "--column", "caption"),
    ),
    "a column asked of a file without metadata": Case(
        _good, "embeddings.npy", "no metadata, so no column 'caption'", ("embeddings.npy", "--column", "caption")
    ),
    "a folder without embeddings": Case(
        _file("notes/notes.md", b"hello"), "notes", "holds no pictures, and no .npy", ("notes",)
    ),
    "a folder of several kinds": Case(
        _both(lambda: Path("set").mkdir(), _both(lambda: _save(ROWS, "set/a.npy"), lambda: _table("set/b.parquet"))),
        "set",
        r"different kinds of files \(1 .npy, 1 .parquet\)",
        ("set",),
    ),
    "a damaged Parquet file": Case(_damaged_parquet, "embeddings.parquet", "not a whole Parquet file", ("embeddings.parquet",)),
    "a Parquet file made to fill the memory": Case(
        _long_texts, "embeddings.parquet", "unpacks to", ("embeddings.parquet", "--column", "caption")
    ),
    "a file of another kind than its name says": Case(
        _file("embeddings.npy", b"<html>not found</html>"), "embeddings.npy", "not .npy inside"
    ),
    "a path that does not exist": Case(lambda: None, "embedings.npy", "does not exist; check the path", ("embedings.npy",)),
    "a glob without matches": Case(lambda: None, "img_emb/*.npy", "nothing matches", ("img_emb/*.npy",)),
    "the same file twice": Case(_good, "embeddings.npy", "named twice", ("embeddings.npy", "embeddings.npy")),
    "a nonsensical --memory": Case(_good, "'plenty'", "no number of bytes", ("embeddings.npy", "--memory", "plenty")),
    "too little --memory": Case(_good, "--memory", "give at least 64MB", ("embeddings.npy", "--memory", "1MB")),
    "an unknown option": Case(_good, "--treshold", "No such option", ("embeddings.npy", "--treshold", "5"), status=2),
}


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """The case named by the test's parameter, with its files made in a current folder of their own."""
    found = CASES[request.param]
    monkeypatch.chdir(tmp_path)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "200")
    save_head(Head(name="my-head", math=Affine(np.linspace(-1, 1, D), 5.0), backbone=BACKBONE), "my-head.safetensors")
    found.make()
    return found


def command_line(case: Case) -> list[str]:
    line = ["beholder", "score", *case.arguments]
    if "-o" not in line:
        line += ["-o", "scores.parquet"]
    if "--head" not in line:
        line += ["--head", "my-head.safetensors"]
    return line


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check(case: Case, status: object, out: str, err: str, before: dict[str, bytes], folder: Path) -> str:
    """What every failure owes its user; returns the line that tells."""
    assert status == case.status
    assert "Traceback" not in out + err
    after = files_below(folder)
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    if case.status == 3:
        assert lines == []
        (at,) = [number for number, line in enumerate(out.splitlines()) if line.startswith("rejected ")]
        told = " ".join(line.strip() for line in out.splitlines()[at : at + 2])
        beside = {"scores.parquet.beholder.json", "scores.parquet.rejects.parquet", "scores.parquet.inputs"}
        assert set(after) - set(before) == {"scores.parquet", *beside}
        assert len(pl.read_parquet(folder / "scores.parquet")) == len(ROWS) - 1
        assert pl.read_parquet(folder / "scores.parquet.rejects.parquet")["sample"].to_list() == ["embeddings.npy#3"]
    else:
        assert out == ""
        if case.status == 1:
            (told,) = lines
            assert told.startswith("beholder: ")
            assert "internal error" not in told
        else:
            (told,) = [line.strip("│ ") for line in lines if "option" in line.lower() and "--treshold" in line]
        assert after == before
        assert not list(folder.rglob("*.partial"))
    assert case.names in told
    assert re.search(case.words, told), told
    assert len(told) < 400
    return told


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_bad_input_is_one_clear_line(
    case: Case,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from beholder.__main__ import main

    before = files_below(tmp_path)
    monkeypatch.setattr(sys, "argv", command_line(case))
    status: object = 0
    try:
        main()
    except SystemExit as stop:
        status = stop.code or 0
    seen = capsys.readouterr()
    told = check(case, status, seen.out, seen.err, before, tmp_path)
    compare_with_the_documentation(request.node.callspec.params["case"], told, case.status)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        "an .npy of Python objects",
        pytest.param("an unknown option", marks=pytest.mark.slow),
        *(pytest.param(name, marks=pytest.mark.soak) for name in ("a row with NaN", "the output exists")),
    ],
    indirect=True,
)
def test_the_installed_program_says_the_same(case: Case, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    before = files_below(tmp_path)
    line = [sys.executable, "-m", "beholder", *command_line(case)[1:]]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    told = check(case, done.returncode, done.stdout, done.stderr, before, tmp_path)
    compare_with_the_documentation(request.node.callspec.params["case"], told, done.returncode)


def documented() -> dict[str, tuple[str, str]]:
    """Situation -> (line, exit status) of every row of the table about embeddings."""
    text = PAGE.read_text(encoding="utf-8").split("\n## Pictures\n")[0]
    rows = [line for line in text.splitlines() if line.startswith("|")]
    found = {}
    for row in rows[2:]:
        situation, line, todo, status = (cell.strip() for cell in row.strip("|").split("|"))
        assert todo, situation
        assert situation not in found
        found[situation] = (line.strip("`"), status)
    return found


def compare_with_the_documentation(situation: str, told: str, status: int) -> None:
    """The documented line is the real one, word for word; `...` stands for what other libraries say and for long digests."""
    line, documented_status = documented()[situation]
    assert re.fullmatch(".*".join(re.escape(piece) for piece in line.split("...")), told), told
    assert documented_status == str(status)


def test_every_row_of_the_documentation_is_tested() -> None:
    assert list(documented()) == list(CASES)
