"""Pictures that the demo draws: histograms of scores and hidden truth, and a contact sheet of scored photographs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError, clipped
from beholder.io import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_INCHES, _HEIGHT_INCHES, _DOTS_PER_INCH = 9.6, 5.4, 150
_BIN_WIDTH = 0.05
_MAX_BINS = 400
_SCORE_COLOUR, _TRUTH_COLOUR, _TEXT_COLOUR, _QUIET_COLOUR = "#8fb3d1", "#b3402a", "#222222", "#606060"


def draw_histogram(
    path: Path,
    scores: npt.NDArray[np.float32],
    truth: npt.NDArray[np.float32],
    thresholds: Sequence[float],
    *,
    subtitle: str = "",
) -> None:
    """Draw `histogram_figure` to a PNG of 1440 x 810 pixels, written whole or not at all.

    Raises BeholderError when there is nothing to draw, or the file cannot be written.
    """
    title = "Scores of synthetic embeddings"
    figure = histogram_figure(scores, truth, thresholds, title=title, subtitle=subtitle)
    with writing.write_whole(str(path)) as temporary:
        figure.savefig(temporary, format="png", metadata={"Title": title, "Description": subtitle})


def histogram_figure(
    scores: npt.NDArray[np.float32], truth: npt.NDArray[np.float32], thresholds: Sequence[float], *, title: str, subtitle: str
) -> Figure:
    """The scores' histogram filled, the truth's as an outline, and what each threshold keeps.

    Args:
        scores: (N,) float32, finite, N >= 1.
        truth: (N,) float32, finite: what the scores should be.
        thresholds: score values to mark, with the share of scores at or above each.
        title: headline; should say that nothing here comes from pictures.
        subtitle: a second, smaller line.

    Raises:
        InputError: the series do not fit together or are empty.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if scores.ndim != 1 or scores.shape != truth.shape or not scores.size:
        raise InputError(f"cannot draw scores of shape {scores.shape} against a truth of shape {truth.shape}")
    figure = Figure(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES), dpi=_DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.10, 0.115, 0.87, 0.665))
    _draw_series(axes, scores, truth)
    _draw_thresholds(axes, scores, thresholds)
    _label(figure, axes, title, subtitle)
    return figure


def bin_edges(low: float, high: float) -> npt.NDArray[np.float64]:
    """Edges from a multiple of the bin width at or below `low` to one above `high`; the width is 0.05, or more if needed."""
    width = _BIN_WIDTH * max(1, int(np.ceil((high - low) / _BIN_WIDTH / _MAX_BINS)))
    first = np.floor(low / width)
    return np.arange(first, np.floor(high / width) + 2) * width


def _draw_series(axes: Axes, scores: npt.NDArray[np.float32], truth: npt.NDArray[np.float32]) -> None:
    """The two histograms over common bins."""
    edges = bin_edges(float(min(scores.min(), truth.min())), float(max(scores.max(), truth.max())))
    score_counts, truth_counts = (np.histogram(series, bins=edges)[0] for series in (scores, truth))
    axes.stairs(score_counts, edges, fill=True, color=_SCORE_COLOUR, label="scores of the fitted head")
    axes.stairs(truth_counts, edges, color=_TRUTH_COLOUR, linewidth=1.4, label="hidden truth")
    axes.set_ylabel(f"rows per {edges[1] - edges[0]:.3g} of score", color=_TEXT_COLOUR)
    low, high = np.quantile(np.concatenate([scores, truth]), [0.0001, 0.9999])
    room = 0.06 * (high - low) + _BIN_WIDTH
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(0, max(score_counts.max(), truth_counts.max()) * 1.08)


def _draw_thresholds(axes: Axes, scores: npt.NDArray[np.float32], thresholds: Sequence[float]) -> None:
    """A dotted line for each threshold inside the picture, with the share of scores it keeps above it."""
    left, right = axes.get_xlim()
    for threshold in thresholds:
        if not left < threshold < right:
            continue
        share = float(np.count_nonzero(scores >= np.float32(threshold))) / scores.size
        axes.axvline(threshold, color=_TEXT_COLOUR, linewidth=0.8, linestyle=(0, (1, 2.5)))
        axes.text(
            threshold, 1.015, f"{threshold:g}\n{percent(share)}", transform=axes.get_xaxis_transform(),
            ha="center", va="bottom", fontsize=8, color=_TEXT_COLOUR, linespacing=1.3,
        )  # fmt: skip


def percent(share: float) -> str:
    """A share in [0, 1] as text with two or three digits that count: 41.3 %, 3.1 %, 0.052 %."""
    value = 100 * share
    return f"{value:.1f} %" if value >= 1 else f"{value:.2g} %"


def _label(figure: Figure, axes: Axes, title: str, subtitle: str) -> None:
    """Titles, axis names, legend; no more lines than are needed."""
    from matplotlib.ticker import FuncFormatter

    figure.text(0.10, 0.935, title, fontsize=13, fontweight="bold", color=_TEXT_COLOUR)
    figure.text(0.10, 0.890, subtitle, fontsize=9, color=_QUIET_COLOUR)
    axes.text(
        0, 1.015, "score at least\nkept", transform=axes.transAxes, ha="left", va="bottom", fontsize=8, color=_QUIET_COLOUR,
        linespacing=1.3,
    )  # fmt: skip
    axes.set_xlabel("score", color=_TEXT_COLOUR)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:,.0f}"))
    axes.tick_params(colors=_TEXT_COLOUR, labelsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.yaxis.grid(True, color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    legend = axes.legend(loc="upper left", fontsize=9, borderaxespad=0.2)
    legend.get_frame().set(facecolor="white", edgecolor="none", alpha=1.0)


if TYPE_CHECKING:
    from PIL.Image import Image

_CELL_PX, _TEXT_PX, _GAP_PX, _COLUMNS = 180, 36, 12, 6
_PAPER, _INK, _WARNING = "#ffffff", "#222222", "#b3402a"


def draw_contact_sheet(path: Path, rows: Sequence[tuple[str, float]], *, title: str, warning: str = "") -> None:
    """Draw the pictures in the order given to a PNG, written whole or not at all; none gives a sheet with the title alone.

    Args:
        path: of the PNG.
        rows: (local path of a picture, its score).
        title: stands on top.
        warning: a second line in another colour.
    """
    from PIL import Image, ImageDraw, ImageFont
    from PIL.PngImagePlugin import PngInfo

    num_lines = -(-len(rows) // _COLUMNS)
    top = _GAP_PX + (60 if warning else 34)
    size = (_COLUMNS * (_CELL_PX + _GAP_PX) + _GAP_PX, top + num_lines * (_CELL_PX + _TEXT_PX + _GAP_PX) + _GAP_PX)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP_PX, _GAP_PX), title, _INK, ImageFont.load_default(18))
    draw.text((_GAP_PX, _GAP_PX + 28), warning, _WARNING, ImageFont.load_default(18))
    small = ImageFont.load_default(13)
    for number, (picture, score) in enumerate(rows):
        left = _GAP_PX + number % _COLUMNS * (_CELL_PX + _GAP_PX)
        above = top + number // _COLUMNS * (_CELL_PX + _TEXT_PX + _GAP_PX)
        found = _thumbnail(picture)
        sheet.paste(found, (left + (_CELL_PX - found.width) // 2, above + (_CELL_PX - found.height) // 2))
        draw.text((left, above + _CELL_PX + 2), f"{score:.3f}", _WARNING if warning else _INK, small)
        draw.text((left, above + _CELL_PX + 18), clipped(Path(picture).name, 24), _INK, small)
    text = PngInfo()
    text.add_text("Title", title)
    text.add_text("Description", warning)
    with writing.write_whole(str(path)) as temporary:
        sheet.save(temporary, format="PNG", pnginfo=text)


def _thumbnail(path: str) -> Image:
    """The picture in RGB, at most a cell large."""
    from PIL import Image

    with Image.open(path) as picture:
        found = picture.convert("RGB")
    found.thumbnail((_CELL_PX, _CELL_PX))
    return found
