"""Commands with closed standard streams, full disks behind them, no reader or a poor encoding: the work is done and right."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from beholder import Head, save_head
from beholder.kernels.scoring import Affine
from oracles import program
from oracles.made_pictures import encoded, noise

WEIGHT = np.linspace(-1, 1, 24)
ROWS = np.random.default_rng(0).standard_normal((50, 24)).astype(np.float32)
EXACT = 5.0 + (ROWS.astype(np.float64) @ WEIGHT) / np.linalg.norm(ROWS.astype(np.float64), axis=1)
CLOSED = [numbers for count in (1, 2, 3) for numbers in itertools.combinations(range(3), count)]
SCORE = ("score", "e.npy", "--head", "head.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "e.npy", ROWS)
    save_head(Head(name="head", math=Affine(WEIGHT, 5.0)), tmp_path / "head.safetensors")
    return tmp_path


def start(folder: Path, *arguments: str, closed: tuple[int, ...] = (), **settings: object) -> subprocess.Popen[Any]:
    """A command some of whose standard streams are closed; a plain interpreter where it is about how that begins."""

    def prepare() -> None:
        for number in closed:
            os.close(number)

    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
    if not closed and "env" not in settings:
        return program.start(*arguments, cwd=folder, text=False, **streams)
    line = [sys.executable, "-m", "beholder", *arguments]
    return subprocess.Popen(line, cwd=folder, preexec_fn=prepare, **streams)  # type: ignore[call-overload, no-any-return]


def ended(running: subprocess.Popen[Any]) -> tuple[int, bytes, bytes]:
    out, err = running.communicate(timeout=200)
    assert b"Traceback" not in (out or b"") + (err or b"")
    return running.returncode, out or b"", err or b""


def check_scores(path: Path) -> None:
    np.testing.assert_allclose(pl.read_parquet(path)["aesthetic_score"].to_numpy(), EXACT, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_embeddings_are_scored_with_closed_streams(folder: Path) -> None:
    outputs = {(1,): "output.parquet", (0, 2): "others.parquet"}
    running = {numbers: start(folder, *SCORE, "-o", name, closed=numbers) for numbers, name in outputs.items()}
    for numbers, name in outputs.items():
        status, out, _ = ended(running[numbers])
        assert status == 0, numbers
        assert (b"read 50 = scored 50" in out) == (1 not in numbers)
        check_scores(folder / name)


@pytest.mark.slow
def test_errors_are_one_line_whatever_is_closed(folder: Path) -> None:
    running = {numbers: start(folder, "undo", "nothing.jsonl", closed=numbers) for numbers in CLOSED}
    for numbers, one in running.items():
        status, out, err = ended(one)
        assert status == 1, numbers
        assert out == b""
        assert err.startswith(b"beholder: cannot read nothing.jsonl") == (2 not in numbers)
        assert err.count(b"\n") == (2 not in numbers)


@pytest.mark.slow
def test_pictures_are_scored_with_all_streams_closed(folder: Path, small_tower: Path) -> None:
    (folder / "photos").mkdir()
    for seed in range(5):
        (folder / "photos" / f"{seed}.png").write_bytes(encoded(noise("RGB", 60, 60, seed), "PNG"))
    how = ("--head", "head.safetensors", "--backbone", str(small_tower), "--device", "cpu", "--precision", "fp32", "-j", "2")
    running = start(folder, "score", "photos", *how, "-o", "scores.parquet", closed=(0, 1, 2))
    assert ended(running)[0] == 0
    assert pl.read_parquet(folder / "scores.parquet")["sample"].to_list() == [f"photos/{seed}.png" for seed in range(5)]


@pytest.mark.slow
def test_a_pool_works_in_a_program_without_standard_streams(tmp_path: Path) -> None:
    # In Python the streams are the caller's: sockets and shared files get the numbers 0 to 2, and workers must not lose them.
    (tmp_path / "a.png").write_bytes(encoded(noise("RGB", 60, 60, 1), "PNG"))
    (tmp_path / "program.py").write_text(
        "import os\n"
        "for number in range(3): os.close(number)\n"
        "from beholder.pixels.picture import PixelOptions\n"
        "from beholder.sources.reader import PictureRef\n"
        "from beholder.workers.pool import DecodePool\n"
        "with DecodePool(PixelOptions(size_px=32), num_workers=1, timeout_s=20, num_slots=4) as pool:\n"
        "    outcomes = pool.map(enumerate([PictureRef(path='a.png')] * 3))\n"
        "    found = [(o.tag, o.error, o.reply.width, o.release()) for o in outcomes]\n"
        "with open('found', 'w') as file: file.write(repr(found))\n"
    )
    subprocess.run([sys.executable, "program.py"], cwd=tmp_path, timeout=100, check=True)
    assert (tmp_path / "found").read_text() == repr([(number, None, 60, None) for number in range(3)])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_summary_that_cannot_be_printed_costs_nothing_else(folder: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        text = start(folder, *SCORE, "-o", "text.parquet", stdout=full)
        lines = start(folder, *SCORE, "-o", "json.parquet", "--json", stdout=full)
        silent = start(folder, "undo", "nothing.jsonl", stdout=full, stderr=full)
        (status, _, err) = ended(text)
        assert status == 0
        assert b"warning: the summary could not be printed (No space left on device); text.parquet is complete\n" in err
        (status, _, err) = ended(lines)
        assert status == 1  # whoever asked for JSON did not get it
        assert err.endswith(b"beholder: what was to be printed could not be written: No space left on device\n")
        assert ended(silent)[0] == 1
    for name in ("text", "json"):
        check_scores(folder / f"{name}.parquet")


def test_nobody_has_to_read(folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    running = start(folder, *SCORE, "-o", "scores.parquet", stdout=writing)
    listing = start(folder, "models", "list", stdout=writing)
    os.close(writing)
    status, _, err = ended(running)
    assert (status, err.count(b"\n")) == (0, 1)  # the warning that the embeddings have no stamp
    check_scores(folder / "scores.parquet")
    assert ended(listing)[::2] == (0, b"")


def test_a_pipe_that_is_full_and_does_not_block_is_waited_for(folder: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    filled = os.write(writing, b"." * (1 << 20))  # as much as it takes
    running = start(folder, "models", "list", stdout=writing)
    os.close(writing)
    with open(reading, "rb") as pipe:  # noqa: PTH123
        text = pipe.read()
    assert ended(running)[0] == 0
    assert text[filled:] == program.beholder("models", "list", cwd=folder).stdout.encode()


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"PYTHONIOENCODING": "ascii:strict"},
        pytest.param({"LC_ALL": "C"}, marks=pytest.mark.slow),
        pytest.param({"PYTHONIOENCODING": "idna"}, marks=pytest.mark.soak),
    ],
    ids=["ascii", "C", "idna"],
)
def test_no_encoding_ends_a_run(folder: Path, settings: dict[str, str]) -> None:
    name, no_text = os.fsdecode("日ü.parquet".encode()), os.fsdecode("ü".encode() + b"\xff.parquet")
    running = start(folder, *SCORE, "-o", name, env=os.environ | settings)
    broken = start(folder, *SCORE, "-o", no_text, env=os.environ | settings)
    status, out, err = ended(running)
    assert status == 0, err
    check_scores(folder / name)
    if "ascii:strict" in settings.values():
        assert out.isascii()
        assert b"###" in out  # the histogram's bars
        assert err.isascii()
    status, out, err = ended(broken)
    assert (status, out) == (1, b"")
    assert err.endswith(b"\\udcff.parquet: its name is no UTF-8 text; choose another output\n")
    assert err.count(b"\n") == 1


@pytest.mark.slow
def test_json_in_ascii_is_whole(folder: Path) -> None:
    name = "日😀.parquet"
    running = start(folder, *SCORE, "-o", name, "--json", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    status, out, _ = ended(running)
    assert status == 0
    assert json.loads(out)["output"] == name
