"""The mean direction of embeddings and a tower's space in; a refusal, a warning or a note on whether they are of it out."""

from __future__ import annotations

from beholder.errors import InputError
from beholder.models.spaces import CLEAR_COSINE, LEAST_COSINE, Space
from beholder.sources.embeddings.directions import MeanDirection

FEW_ROWS = 10
"""The mean of fewer rows is no set's: single pictures lie down to 0.43, odd ones lower. They are warned of, never refused."""
_REAL_SETS = "real sets have 0.6 to 0.8, text embeddings 0.2, those of other towers 0"


def refuse_another_space(mean: MeanDirection, space: Space, head_name: str, where: str) -> None:
    """Raise InputError where the rows are no image embeddings of the space; a handful of rows is never refused.

    `where`: what the rows were read from, for the message.
    """
    if mean.num_rows >= FEW_ROWS and mean.cosine(space.centroid) < LEAST_COSINE:
        raise InputError(
            f"these are not {space.name} image embeddings ({where}), which {head_name} is made for: the mean cosine of "
            f"{mean.rows} to their centroid is {_shown(mean, space)}, where {_REAL_SETS}; use a head for what made them, or "
            "score them all the same with --space-check off"
        )


def warning_of(mean: MeanDirection, space: Space) -> str | None:
    """A line where the rows are hardly image embeddings of the space; None where they look like such."""
    if mean.cosine(space.centroid) >= (CLEAR_COSINE if mean.num_rows >= FEW_ROWS else LEAST_COSINE):
        return None
    return (
        f"these may not be {space.name} image embeddings: the mean cosine of {mean.rows} to their centroid is "
        f"{_shown(mean, space)}, where {_REAL_SETS}"
    )


def note_of(mean: MeanDirection, space: Space) -> str:
    """The line that says that the rows look like image embeddings of the space."""
    return (
        f"they look like {space.name} image embeddings: the mean cosine of {mean.rows} to their centroid is "
        f"{_shown(mean, space)}"
    )


def _shown(mean: MeanDirection, space: Space) -> str:
    """The cosine with two digits, and no "-0.00"."""
    return f"{round(mean.cosine(space.centroid), 2) + 0.0:.2f}"
