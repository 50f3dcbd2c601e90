"""The command as a process: its address, a taken port, a wrong set, tokens, Ctrl-C; marks after kill -9."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from beholder.browse.options import BrowseOptions
from beholder.browse.pictures import gone_warning
from beholder.browse.server import listening, serving
from beholder.errors import BeholderError, InputError
from beholder.locate.locate import PictureFinder
from oracles.browse_page import until
from oracles.browse_sets import running, write_set
from oracles.program import beholder, start
from oracles.tiers import mostly_slow

START_S = 60


@pytest.fixture(autouse=True)
def _own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What kill -9 leaves behind goes with the test."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def line_of(*arguments: str) -> list[str]:
    return ["browse", *arguments, "--no-open"]


@contextlib.contextmanager
def process_of(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running `beholder browse` and its address."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with start(*line_of("--json", *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            if not first:
                assert process.stderr is not None
                raise AssertionError(process.stderr.read())
            yield process, json.loads(first)["url"]
        finally:
            process.kill()


def failure_of(*arguments: str) -> str:
    """What a command that fails says: one line."""
    result = beholder(*line_of(*arguments), timeout=START_S)
    assert result.returncode == 1, result
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def mark(url: str, row: int, word: str | None) -> None:
    found = httpx.post(f"{url}api/marks", json={"rows": [row], "mark": word}, headers={"origin": url.rstrip("/")})
    assert found.status_code == 200, found.text


@pytest.mark.slow
def test_it_serves_marks_survive_kill_9_and_ctrl_c_ends_cleanly(photo_set: Path, tmp_path: Path) -> None:
    marks = str(tmp_path / "m.jsonl")
    with process_of(str(photo_set), "--marks", marks) as (process, url):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        assert httpx.get(url).text.startswith("<!doctype html>")
        mark(url, 3, "keep")
        mark(url, 4, "drop")
        mark(url, 3, "drop")
        process.kill()
        assert process.wait(10) == -signal.SIGKILL
    with process_of(str(photo_set), "--marks", marks) as (process, url):
        view = httpx.post(f"{url}api/view", json={"score": "aesthetic_score"}, headers={"origin": url.rstrip("/")}).json()[
            "view"
        ]
        counts = httpx.get(f"{url}api/count", params={"view": view, "threshold": 5}).json()
        assert (counts["marked_keep"], counts["marked_drop"]) == (0, 2)
        with socket.create_connection((url.split("/")[2].split(":")[0], int(url.split(":")[2].strip("/")))) as idle:
            idle.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")  # a visitor who never ends his request
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.slow
def test_sigterm_ends_as_ctrl_c_does_and_leaves_nothing(photo_set: Path, tmp_path: Path) -> None:
    with process_of(str(photo_set), "--marks", str(tmp_path / "m.jsonl")) as (process, _):
        assert list(tmp_path.glob("beholder-*"))
        process.terminate()
        assert process.wait(20) == 0
    assert not list(tmp_path.glob("beholder-*"))


@pytest.mark.parametrize("how", mostly_slow([[], ["--quiet"], ["--json"]]))
def test_where_nobody_reads_the_address_the_page_is_opened_still(photo_set: Path, tmp_path: Path, how: list[str]) -> None:
    opener, opened = tmp_path / "opener", tmp_path / "opened"
    opener.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}.new && mv {opened}.new {opened}\n', encoding="utf-8")
    opener.chmod(0o755)
    reading, writing = os.pipe()
    os.close(reading)
    line = ["browse", str(photo_set), "--marks", str(tmp_path / "m.jsonl"), *how]
    environment = {**os.environ, "DISPLAY": ":77", "BROWSER": f"{opener} %s"}
    with start(*line, stdout=writing, stderr=subprocess.PIPE, env=environment) as process:
        os.close(writing)
        try:
            until(lambda: opened.exists() or process.poll() is not None, START_S)
            assert httpx.get(opened.read_text(encoding="utf-8")).status_code == 200
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_with_a_token_only_the_printed_address_opens_the_page(photo_set: Path, tmp_path: Path) -> None:
    options = BrowseOptions(scores=str(photo_set), token=True, no_open=True, marks=str(tmp_path / "m.jsonl"))
    with running(options, tmp_path) as served:
        plain, token = served.url.split("?token=")
        assert httpx.get(plain).status_code == 401
        assert httpx.get(f"{plain}api/set").status_code == 401
        with httpx.Client() as client:
            assert client.get(served.url).status_code == 200
            assert client.get(f"{plain}api/set").json()["num_rows"] == 60
        assert httpx.get(f"{plain}?token={token[:-1]}").status_code == 401


def test_any_other_address_asks_for_a_token() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "box.lan"):
        assert BrowseOptions(scores="x", host=host).needs_token
    for host in ("127.0.0.1", "localhost", "::1"):
        assert not BrowseOptions(scores="x", host=host).needs_token
        assert BrowseOptions(scores="x", host=host, token=True).needs_token


def test_a_taken_port_is_one_line(photo_set: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"port {port} is taken" in failure_of(str(photo_set), "--port", str(port))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"scores": "none.parquet"}, "does not exist"),
        ({"marks": "no/m.jsonl"}, "--marks"),
        ({"score_column": "no"}, "no column 'no'"),
    ],
)
def test_a_wrong_set_or_place_is_said_before_anybody_visits(photo_set: Path, wrong: dict[str, str], said: str) -> None:
    options = BrowseOptions(**{"scores": str(photo_set), **wrong})  # type: ignore[arg-type]
    with pytest.raises(BeholderError, match=said) as refusal, serving(options, 1):
        pass
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("host", "said"),
    [("no.such.host.invalid", "no such address"), ("192.0.2.7", "no address of this machine"), ("a" * 300, "such")],
)
def test_addresses_that_are_not_this_machine(host: str, said: str) -> None:
    with pytest.raises(InputError, match=said), listening(BrowseOptions(scores="x", host=host)):
        pass


def test_options_that_mean_nothing_are_refused() -> None:
    for wrong in ({"port": 70_000}, {"port": -1}, {"host": ""}, {"marks": ""}, {"marks": "s3://bucket/m.jsonl"}):
        with pytest.raises(InputError):
            BrowseOptions(scores="x", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scores", "marks"),
    [
        ("/data/x.parquet", "/data/x.parquet.marks.jsonl"),
        ("/data/x.scores/", "/data/x.scores.marks.jsonl"),
        ("s3://bucket/set.parquet", "set.parquet.marks.jsonl"),
        ("/data/*.parquet", "parquet.marks.jsonl"),
        ("hf://a?b=1/", "a_b_1.marks.jsonl"),
    ],
)
def test_where_marks_go(scores: str, marks: str) -> None:
    assert BrowseOptions(scores=scores).marks_path == Path(marks)


def test_a_moved_set_is_found_with_pictures(photo_set: Path, tmp_path: Path) -> None:
    shutil.copytree(photo_set.parent / "pictures", tmp_path / "elsewhere")
    shutil.copy(photo_set, tmp_path / "scores.parquet")
    shutil.copy(f"{photo_set}.beholder.json", tmp_path / "scores.parquet.beholder.json")
    options = BrowseOptions(scores=str(tmp_path / "scores.parquet"), pictures=(str(tmp_path / "elsewhere"),), no_open=True)
    with running(options, tmp_path) as served:
        assert httpx.get(f"{served.url}picture/x/5").content == (tmp_path / "elsewhere/005.jpg").read_bytes()


def warning_of(scores: Path, **more: Any) -> str | None:
    with serving(BrowseOptions(scores=str(scores), no_open=True, **more), 1) as (_, address):
        return address.warning


def set_of(folder: Path, names: list[str | None], sources: list[str]) -> Path:
    rows = {"sample": pa.array(names, pa.string()), "aesthetic_score": pa.array([5.0] * len(names), pa.float32())}
    return write_set(folder / "scores.parquet", rows, sources=sources, folder=folder)


def test_that_all_pictures_are_gone_is_said_at_the_start_once(tmp_path: Path) -> None:
    path = set_of(tmp_path, [f"photos/{number}.jpg" for number in range(20)], ["photos"])
    with process_of(str(path)) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr is not None
        (line,) = process.stderr.read().splitlines()
    assert line.startswith("warning: cannot find any of the first 8 pictures (")
    assert line.endswith("; --pictures or --root say where the pictures are now")
    assert line.count("--pictures") == 1
    assert "photos" in line


def test_pictures_are_gone_only_where_none_is_there(tmp_path: Path) -> None:
    path = set_of(tmp_path, [f"photos/{number}.jpg" for number in range(20)], ["photos"])
    (tmp_path / "photos").mkdir()
    assert "any of the first 8 pictures" in (warning_of(path) or "")
    (tmp_path / "photos/7.jpg").write_bytes(b"x")
    assert warning_of(path) is None
    (tmp_path / "photos").rename(tmp_path / "moved")
    assert "any of the first 8 pictures" in (warning_of(path) or "")
    assert warning_of(path, pictures=(str(tmp_path / "moved"),)) is None
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "moved").rename(tmp_path / "elsewhere/photos")
    assert warning_of(path, root=str(tmp_path / "elsewhere")) is None


@pytest.mark.parametrize(
    ("names", "sources", "said"),
    [
        ([], ["photos"], None),
        (["photos/a.jpg"], ["photos"], "cannot find the first picture ("),
        ([None, None], ["photos"], "cannot find any of the first 2 pictures ("),
        (["photos/\x1b[2J" + "y" * 900], ["photos"], "cannot find the first picture ("),
        (["http://192.0.2.7/a.jpg"], [], None),
        (["http://192.0.2.7/p/a.jpg"], ["http://192.0.2.7/p"], None),
        (["photos/a.jpg", "http://192.0.2.7/p/a.jpg"], ["photos", "http://192.0.2.7/p"], None),
    ],
)
def test_odd_sets_are_looked_up_without_asking_servers(
    tmp_path: Path, names: list[str | None], sources: list[str], said: str | None
) -> None:
    warning = warning_of(set_of(tmp_path, names, sources))
    if said is None:
        assert warning is None
    else:
        assert warning is not None
        assert warning.startswith(said)
        assert warning.isprintable()
        assert len(warning) < 600


def test_a_search_that_takes_long_holds_nothing_up() -> None:
    class Slow(PictureFinder):
        def locate(self, samples: Any, **more: Any) -> Any:
            is_over.wait(60)
            return super().locate(samples, **more)

    is_over = threading.Event()
    with Slow({}) as finder:
        assert gone_warning(finder, ["none/a.jpg"], timeout_s=0.05) is None
        is_over.set()
        assert gone_warning(finder, ["none/a.jpg"], timeout_s=60) is not None
