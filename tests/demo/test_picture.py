"""The picture: what it draws, measured in its pixels and read from its parts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from beholder.demo.pictures import bin_edges, draw_histogram, histogram_figure, percent
from beholder.errors import InputError, OutputError

Series = npt.NDArray[np.float32]


def spread(seed: int = 0, num_rows: int = 4000) -> tuple[Series, Series]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(4.8, 0.9, num_rows).astype(np.float32)
    return (truth + rng.normal(0, 0.2, num_rows)).astype(np.float32), truth


def pixels(path: Path) -> npt.NDArray[np.float64]:
    import matplotlib.image

    return np.asarray(matplotlib.image.imread(path), np.float64)[:, :, :3] * 255


def near(picture: npt.NDArray[np.float64], colour: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    return np.asarray(np.abs(picture - np.array(colour)).max(axis=2) < 12)


def test_heights_in_the_picture_follow_the_counts(tmp_path: Path) -> None:
    # 3000 scores in one bin, 1000 in another; the truth lies elsewhere, so the filled colour is the scores' alone.
    scores = np.repeat(np.array([4.025, 6.025], np.float32), [3000, 1000])
    truth = np.full(4000, 5.025, np.float32)
    draw_histogram(tmp_path / "h.png", scores, truth, ())
    picture = pixels(tmp_path / "h.png")
    assert picture.shape == (810, 1440, 3)
    filled = near(picture, (0x8F, 0xB3, 0xD1))
    filled[:250, :600] = False  # the legend's own swatch
    tall = filled.sum(axis=0)
    columns = np.flatnonzero(tall > 20)
    groups = np.split(columns, np.flatnonzero(np.diff(columns) > 5) + 1)
    heights = [int(tall[group].max()) for group in groups]
    assert len(heights) == 2
    assert heights[0] / heights[1] == pytest.approx(3.0, rel=0.05)
    assert near(picture, (0xB3, 0x40, 0x2A)).sum() > 500


def test_titles_and_kept_shares() -> None:
    scores = np.repeat(np.array([4.0, 5.0, 6.0, 7.0], np.float32), [500, 300, 180, 20])
    figure = histogram_figure(
        scores, scores, (4.5, 5.0, 6.5, 99.0), title="Scores of synthetic embeddings", subtitle="1,000 rows"
    )
    assert [text.get_text() for text in figure.texts] == ["Scores of synthetic embeddings", "1,000 rows"]
    (axes,) = figure.axes
    shown = [text.get_text() for text in axes.texts]
    # at or above 4.5 and 5: 300 + 180 + 20 of 1000; above 6.5: 20; 99 is outside.
    assert shown[:3] == ["4.5\n50.0 %", "5\n50.0 %", "6.5\n2.0 %"]
    assert not any(text.startswith("99") for text in shown)
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["scores of the fitted head", "hidden truth"]
    assert axes.get_xlabel() == "score"
    assert axes.get_ylabel() == "rows per 0.05 of score"


def test_default_title_says_synthetic(tmp_path: Path) -> None:
    draw_histogram(tmp_path / "h.png", *spread(), (4.5, 5.0))
    assert b"Scores of synthetic embeddings" in (tmp_path / "h.png").read_bytes()


@pytest.mark.parametrize(
    ("low", "high"), [(1.17, 8.08), (4.0, 4.0), (-3.3, -3.2), (-5000.0, 7000.0), (0.0, 0.05), (4.9999, 5.0)]
)
def test_edges_hold_everything_and_stay_few(low: float, high: float) -> None:
    edges = bin_edges(low, high)
    assert edges[0] <= low
    assert edges[-1] > high
    assert 2 <= len(edges) <= 403
    width = edges[1] - edges[0]
    np.testing.assert_allclose(np.diff(edges), width, rtol=1e-6)
    assert width / 0.05 == pytest.approx(round(width / 0.05), abs=1e-6)


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100.0 %"), (0.413, "41.3 %"), (0.0313, "3.1 %"), (0.00052, "0.052 %"), (0.0, "0 %")]
)
def test_percent(share: float, text: str) -> None:
    assert percent(share) == text


def test_one_row_and_equal_scores_are_drawn(tmp_path: Path) -> None:
    one = np.array([4.2], np.float32)
    draw_histogram(tmp_path / "one.png", one, one, (4.5,))
    assert pixels(tmp_path / "one.png").shape == (810, 1440, 3)


def test_nothing_to_draw_and_no_place_to_draw_it(tmp_path: Path) -> None:
    none, some = np.empty(0, np.float32), np.ones(3, np.float32)
    for scores, truth in ((none, none), (some, some[:2]), (some[:, None], some[:, None])):
        with pytest.raises(InputError, match="cannot draw"):
            draw_histogram(tmp_path / "h.png", scores, truth, ())
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"):
        draw_histogram(tmp_path / "file" / "h.png", some, some, ())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_pyplot_is_never_loaded() -> None:
    script = (
        "import sys, numpy as np\nfrom beholder.demo.pictures import histogram_figure\n"
        "x = np.ones(3, np.float32)\nhistogram_figure(x, x, (), title='t', subtitle='')\n"
        "print('matplotlib.pyplot' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
