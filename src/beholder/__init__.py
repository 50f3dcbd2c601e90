"""beholder: aesthetic scores for pictures, from CLIP embeddings and the public aesthetic heads, and curated sets from scores.

    import beholder

    run = beholder.score("photos/")     # what `beholder score photos/` does; run.scores(), run.rejects()

    scorer = beholder.load_scorer()
    scorer.score("cat.jpg")     # 4.38; an iterable of pictures gives (N,) float32

    head = beholder.load_head("sac+logos+ava1-l14-linearMSE")
    head.score(embeddings)      # (N, D) float -> (N,) float32

    beholder.select(frame, min_score=5, top=1000).kept_rows()       # polars, pandas, Arrow, or what `beholder score` wrote
    beholder.advise(frame, min_score=5)
    beholder.report(frame, "report.html")

Names are loaded when they are first used, so importing the package is quick and imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beholder.curate.advise.advice import Advice, advise
    from beholder.curate.select.selection import FrameSelection, select
    from beholder.errors import BeholderError, HeadError, InputError, OutputError
    from beholder.models.heads import Head, load_head, save_head
    from beholder.pixels.picture import PictureError
    from beholder.reporting.report import report
    from beholder.scoring.api import ScoreRun, score
    from beholder.scoring.scorer import Scorer, load_scorer, preprocess

__version__ = "0.1.0"

__all__ = [
    "Advice", "BeholderError", "FrameSelection", "Head", "HeadError", "InputError", "OutputError", "PictureError", "ScoreRun",
    "Scorer", "__version__", "advise", "load_head", "load_scorer", "preprocess", "report", "save_head", "score", "select",
]  # fmt: skip

_HOMES = {
    "BeholderError": "beholder.errors",
    "HeadError": "beholder.errors",
    "InputError": "beholder.errors",
    "OutputError": "beholder.errors",
    "PictureError": "beholder.pixels.picture",
    "preprocess": "beholder.scoring.scorer",
    "Scorer": "beholder.scoring.scorer",
    "load_scorer": "beholder.scoring.scorer",
    "Head": "beholder.models.heads",
    "load_head": "beholder.models.heads",
    "save_head": "beholder.models.heads",
    "ScoreRun": "beholder.scoring.api",
    "score": "beholder.scoring.api",
    "Advice": "beholder.curate.advise.advice",
    "advise": "beholder.curate.advise.advice",
    "FrameSelection": "beholder.curate.select.selection",
    "select": "beholder.curate.select.selection",
    "report": "beholder.reporting.report",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'beholder' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
