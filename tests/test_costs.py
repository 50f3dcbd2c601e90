"""The costs in docs/scale.md: each line recomputed, by `beholder plan` as well, each rate found in the result file named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from beholder.planning.arithmetic import PictureRates, Setup, Work, estimate_pictures, estimate_rows, written_bytes
from beholder.planning.rates import DecodeRate, RowsRate, RunRate, StorageRate, TowerRate

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "scale.md").read_text(encoding="utf-8").partition("## What very large jobs cost")[2].partition("\n## ")[0]
LINES = re.findall(r"^\| ([^|]+) \| `([^`]+)` \| ([\d.,]+) ", PAGE, re.M) + [
    ("in the text", *found) for found in re.findall(r"`([^`]+)` = ([\d.,]+) ", PAGE)
]


def test_there_are_lines() -> None:
    assert len(LINES) == 24


@pytest.mark.parametrize(("title", "expression", "told"), LINES, ids=lambda text: text)
def test_the_arithmetic_comes_to_what_is_told(title: str, expression: str, told: str) -> None:
    assert re.fullmatch(r"[\d.e+*/() -]+", expression), title
    digits = len(told.partition(".")[2])
    assert f"{eval(expression):,.{digits}f}" == told  # numbers and operators alone


def test_rates_are_those_of_the_result_files() -> None:
    rows = re.findall(r"^\| (.+?) \| ([\d.,]+ ?[MG]?B?) ?(?:rows/s|pictures/s)? \| .+ \| (.+) \|$", PAGE, re.M)
    where = ""
    checked = 0
    for title, rate, link in rows:
        found = re.search(r"\]\((\.\./benchmarks/results/[^)]+)\)", link)
        where = found[1] if found else where if link == "the same" else ""
        if where:
            assert rate.strip() in (DOCS / where).read_text(encoding="utf-8"), title
            checked += 1
    assert checked == 7


DISK = StorageRate(place="", read_bytes_per_second=10e9 / 8, write_bytes_per_second=10e9 / 8, is_cached=False)
NAME = {"backbone": "", "device": "cuda", "device_name": "", "precision": "bf16"}
BILLION = PictureRates(
    decode=DecodeRate(constant_s=16 / 1543, pixel_s=0.0, decoder="pillow", image_px=224, sizes=()),
    tower=TowerRate(**NAME, dim=768, pictures_per_second=2195, core_s=0.0, feed_s=0.0, load_s=0.0, is_random=False),
    run=RunRate(core_s=0.0, start_s=0.0, written_bytes=13.09),
    storage=DISK,
)


def told(title: str) -> float:
    """The number that the page tells in the line of this title."""
    (found,) = [number for name, _, number in LINES if name == title]
    return float(found.replace(",", ""))


def test_plans_come_to_what_the_page_tells() -> None:
    work = Work(num_rows=1e9, pixels=0.0, read_bytes=1e9 * 184.5e3)
    found = estimate_pictures(work, BILLION, Setup(cores=16, is_gpu=True), keeps_embeddings=True)
    assert found.seconds["tower"] / 3600 == pytest.approx(told("the tower alone, H200 hours"), rel=1e-3)
    assert found.seconds["decode"] / 3600 * 16 == pytest.approx(told("decoding alone, hours of a core"), rel=1e-3)
    kept = written_bytes(1e9, kept_dim=768) - written_bytes(1e9)
    assert kept / 1e12 == pytest.approx(told("to write: embeddings too (`--keep-embeddings`, 768 float16)"), rel=5e-3)
    assert written_bytes(1e9) / 1e9 == pytest.approx(told("to write: scores"), rel=1e-3)


def test_plans_of_embeddings_come_to_what_the_page_tells() -> None:
    rates = RowsRate(rows_per_second=4.41e6, num_cores=2, dim=768, start_s=0.0)
    work = Work(num_rows=5.85e9, pixels=0.0, read_bytes=5.85e9 * 768 * 2)
    found = estimate_rows(work, rates, DISK, Setup(cores=2, is_gpu=False))
    assert found.seconds["scoring"] / 60 == pytest.approx(told("computing, 2 cores"), rel=5e-3)
    assert found.written_bytes / 1e9 == pytest.approx(told("to write"), rel=1e-3)
    reading_s = found.seconds["storage"] - found.written_bytes / DISK.write_bytes_per_second
    assert reading_s / 3600 == pytest.approx(told("reading over 10 Gbit/s"), rel=5e-3)
    assert found.binds == "storage"
    eight = estimate_rows(work, rates, DISK, Setup(cores=2, is_gpu=False, machines=8))
    assert eight.seconds["storage"] * 8 == pytest.approx(found.seconds["storage"])
