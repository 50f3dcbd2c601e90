"""Pictures that crash, hang, eat memory or end their decoder, in the live page: each costs its tile, and no process is left."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from beholder.browse.pictures import Pictures
from beholder.pixels.thumbnail import make_thumbnail
from beholder.sources.fetch import ReadLimits
from oracles import odd_thumbnails
from oracles.browse_clients import Ask, client_of
from oracles.hostile_set import HOSTILE, order_of, picture, write_hostile_set
from oracles.processes import children_of, is_running, wait_until_gone
from oracles.tiers import mostly_slow


@pytest.fixture
def odd_set(tmp_path: Path) -> Path:
    return write_hostile_set(tmp_path)


@pytest.fixture
def ask(odd_set: Path, tmp_path: Path) -> Iterator[Ask]:
    how = {"decoder": odd_thumbnails.NAME, "timeout_s": 3.0, "memory_bytes": 128 << 20}
    yield from client_of(odd_set, tmp_path, tmp_path / "m.jsonl", **how)


@pytest.mark.slow
def test_each_costs_one_tile(ask: Ask) -> None:
    for _ in range(2):  # a second try answers the same
        for number in range(10):
            answer = ask(f"/thumb/x/160/{number}")
            if order_of(number):
                assert answer.status_code == 404
                assert answer.json()["error"].startswith(HOSTILE[order_of(number)] + ":")
            else:
                assert answer.status_code == 200
                assert answer.content == make_thumbnail(picture(number), longest_px=160).data
    assert ask("/picture/x/1").content.startswith(b"\x89PNG")  # shown as it is stored: nothing decodes it here


@pytest.mark.slow
def test_workers_that_cannot_start_are_one_line_and_the_page_lives(
    odd_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODD_THUMBNAILS_FAIL_TO_START", "1")
    for ask in client_of(odd_set, tmp_path, tmp_path / "m.jsonl", decoder=odd_thumbnails.NAME):
        answer = ask("/thumb/x/160/0")
        assert answer.status_code == 500
        assert "told not to start" in answer.json()["error"]
        assert "\n" not in answer.json()["error"]
        assert ask("/").status_code == 200


def test_none_is_started_before_a_picture_is_asked_for_and_all_end_with_it(odd_set: Path) -> None:
    class Finder:
        def read(self, sample: str, limits: ReadLimits) -> bytes:
            return picture(int(sample))

    pictures = Pictures(Finder(), num_workers=3)
    assert pictures.process_ids == []
    for found in [pictures.thumbnail(str(number), 160) for number in range(12)]:
        assert Image.open(io.BytesIO(found.result(60).data)).size == (80, 60)
    workers = pictures.process_ids
    assert 1 <= len(workers) <= 3
    pictures.close()
    wait_until_gone(workers, 10)


@pytest.mark.slow
@pytest.mark.parametrize("sent", mostly_slow([signal.SIGKILL, signal.SIGTERM, signal.SIGINT], slow=0))
def test_no_worker_outlives_the_server(odd_set: Path, tmp_path: Path, sent: signal.Signals) -> None:
    line = [
        sys.executable,
        "-m",
        "beholder",
        "browse",
        str(odd_set),
        "--no-open",
        "--json",
        "--marks",
        str(tmp_path / "m.jsonl"),
    ]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(tmp_path)}
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            assert httpx.get(f"{url}thumb/x/160/0", timeout=60).status_code == 200
            workers = children_of(process.pid)
            assert workers
            process.send_signal(sent)
            assert process.wait(30) == (-sent if sent == signal.SIGKILL else 0)
        finally:
            process.kill()
    wait_until_gone(workers, 10)


def test_a_worker_that_was_killed_meanwhile_is_replaced(odd_set: Path, tmp_path: Path) -> None:
    for ask in client_of(odd_set, tmp_path, tmp_path / "m.jsonl"):
        others = set(children_of(os.getpid()))  # of tests before this one, in this process
        assert ask("/thumb/x/160/0").status_code == 200
        workers = set(children_of(os.getpid())) - others
        assert workers
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        wait_until_gone(list(workers), 10)
        assert ask("/thumb/x/160/2").status_code == 200
        replacements = set(children_of(os.getpid())) - others - workers
        assert replacements
        assert all(map(is_running, replacements))
