"""The golden table's logic: pictures by hash from a folder or a server of ours, scores by a small random tower."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beholder import load_head, load_scorer
from beholder.errors import InputError
from beholder.verification import GOLDEN, GoldenPictures, GoldenRow, GoldenScorer, check_golden, golden_failure
from oracles.slow_scores import affine_scores
from oracles.web import FileServer, serving


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Three pictures under names that say nothing, in folders."""
    folder = tmp_path / "pictures" / "below"
    folder.mkdir(parents=True)
    paths = []
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (60, 80, 3), np.uint8)
        paths.append(folder / f"{number}.png")
        Image.fromarray(noise).save(paths[-1])
    (folder / "notes.txt").write_text("no picture")
    return paths


@pytest.fixture
def server(pictures: list[Path]) -> Iterator[FileServer]:
    """A server with these pictures."""
    with serving({path.name: path.read_bytes() for path in pictures[0].parent.iterdir() if path.is_file()}) as web:
        yield web


def row_of(path: Path, published: float, head: str = "small", **more: Any) -> GoldenRow:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    defaults = {"tolerance": 0.01, "reason": "made here", "sha256": digest, "source": "here"}
    return GoldenRow(**{"picture": path.name, "head": head, "published": published, **defaults, **more})  # type: ignore[arg-type]


def by_size(head: str, path: Path) -> float:
    """A score that is easily told: the number in the file's name."""
    return float(path.stem.split("-")[-1])


def test_the_table_holds_what_was_published() -> None:
    """Numbers from shunk031's tests, Data-Juicer's tests and elda27's scores.html, as in the field study."""
    found = {(row.picture.split(".")[0], row.head): row.published for row in GOLDEN}
    assert len(found) == len(GOLDEN) == 16
    assert found["cat", "sac+logos+ava1-l14-linearMSE"] == 4.382
    assert found["a-photo-of-an-astronaut-riding-a-horse", "ava+logos-l14-reluMSE"] == 5.3372
    assert found["random_image", "sa_0_4_vit_l_14_linear"] == 1.897435
    for row in GOLDEN:
        assert load_head_entry(row.head) == row.head
        assert row.url.startswith("https://")
        assert row.picture.replace(" ", "") in row.url
        assert len(row.sha256) in (0, 16)
        assert 0 < row.tolerance <= 0.02
        assert row.reason


def load_head_entry(name: str) -> str:
    from beholder.models.catalog import find

    entry = find(name)
    assert entry is not None
    return entry.name


def test_pictures_are_found_in_a_folder_by_their_hash(pictures: list[Path]) -> None:
    rows = [row_of(pictures[0], 0.005), row_of(pictures[1], 1.02), row_of(pictures[2], 2.0, sha256="0" * 16)]
    results = check_golden(by_size, GoldenPictures(str(pictures[0].parents[1])), rows)
    assert [result.verdict for result in results] == ["agrees", "differs", "not checked"]
    assert results[0].difference == pytest.approx(-0.005)
    assert "sha256 that begins with 0000" in results[2].message
    assert results[2].difference is None
    assert golden_failure(results) == "1 of 3 published scores are not reproduced: 1.png (small)"
    assert golden_failure(results[:1]) is None
    assert golden_failure([results[0], results[2]]) is None


def test_nothing_checked_is_no_success(pictures: list[Path]) -> None:
    results = check_golden(by_size, GoldenPictures(str(pictures[0].parent)), [row_of(pictures[2], 2.0, sha256="0" * 16)])
    assert "no published score could be checked" in (golden_failure(results) or "")
    assert golden_failure([]) is not None
    with pytest.raises(InputError, match="--pictures"):
        GoldenPictures(str(pictures[0].parent / "nowhere"))


def test_a_score_that_is_no_number_differs(pictures: list[Path]) -> None:
    results = check_golden(lambda head, path: math.nan, GoldenPictures(str(pictures[0].parent)), [row_of(pictures[0], 0.0)])
    assert results[0].verdict == "differs"


def test_pictures_are_fetched_checked_and_kept(pictures: list[Path], server: FileServer) -> None:
    rows = [row_of(path, 0.0, url=f"{server.url}/{path.name}") for path in pictures]
    asked: list[Path] = []

    def score(head: str, path: Path) -> float:
        asked.append(path)
        return 0.0

    assert [result.verdict for result in check_golden(score, GoldenPictures(), rows)] == ["agrees"] * 3
    assert [path.read_bytes() for path in asked] == [path.read_bytes() for path in pictures]
    del server.files[pictures[0].name]  # the cache has it
    assert [result.verdict for result in check_golden(score, GoldenPictures(), rows)] == ["agrees"] * 3
    assert check_golden(score, GoldenPictures(offline=True), rows)[0].verdict == "agrees"
    asked[0].write_bytes(b"damaged")
    result = check_golden(score, GoldenPictures(), rows)[0]
    assert result.verdict == "not checked"
    assert "cannot get" in result.message
    assert asked[0].read_bytes() == b"damaged"


def test_another_file_at_the_url_is_not_taken(pictures: list[Path], server: FileServer) -> None:
    wrong = row_of(pictures[0], 0.0, url=f"{server.url}/{pictures[1].name}")
    result = check_golden(by_size, GoldenPictures(), [wrong])[0]
    assert result.verdict == "not checked"
    assert "another file" in result.message
    assert wrong.sha256 in result.message


def test_a_picture_of_unknown_hash_neither_fails_nor_makes_a_success(pictures: list[Path], server: FileServer) -> None:
    row = row_of(pictures[1], 5.0, sha256="", url=f"{server.url}/{pictures[1].name}", reason="may have changed")
    results = check_golden(by_size, GoldenPictures(), [row])
    assert (results[0].verdict, results[0].message) == ("differs", "may have changed")
    assert "no published score could be checked" in (golden_failure(results) or "")
    good = check_golden(by_size, GoldenPictures(str(pictures[0].parent)), [row_of(pictures[0], 0.0)])
    assert golden_failure([*results, *good]) is None
    assert check_golden(by_size, GoldenPictures(str(pictures[0].parent)), [row])[0].verdict == "not checked"


def test_offline_says_so(pictures: list[Path]) -> None:
    result = check_golden(by_size, GoldenPictures(offline=True), [row_of(pictures[0], 0.0, url="https://example.org/x.png")])[0]
    assert "offline" in result.message
    nowhere = check_golden(by_size, GoldenPictures(), [row_of(pictures[0], 0.0)])[0]
    assert "--pictures" in nowhere.message


def test_a_tower_that_cannot_be_had_is_a_reason_not_a_crash(pictures: list[Path]) -> None:
    """The published heads need a network here; an unknown one is refused at once."""
    row = row_of(pictures[0], 0.0, head="no-such-head")
    result = check_golden(GoldenScorer(offline=True), GoldenPictures(str(pictures[0].parent)), [row])[0]
    assert result.verdict == "not checked"
    assert "no-such-head" in result.message


def test_the_whole_way_with_a_small_tower(pictures: list[Path], small_tower: Path, plain_head: Path, second_head: Path) -> None:
    """Heads without a backbone are scored on the given tower; every picture is embedded once for all heads."""
    scorer = load_scorer(small_tower, plain_head, precision="fp32", device="cpu")
    head = load_head(plain_head)
    embedding = np.asarray(scorer.embed(pictures[0]), np.float64)
    assert head.weight is not None
    expected = float(affine_scores(embedding[None], head.weight, head.bias)[0])
    rows = [row_of(pictures[0], expected, head=str(plain_head)), row_of(pictures[0], 1e3, head=str(second_head))]
    golden = GoldenScorer(str(small_tower), device="cpu")
    results = check_golden(golden, GoldenPictures(str(pictures[0].parent)), rows)
    assert [result.verdict for result in results] == ["agrees", "differs"]
    assert results[0].ours == pytest.approx(expected, abs=1e-4)
