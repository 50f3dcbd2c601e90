"""The scores at which rows are cut, translated where they were given on the scale of another head (`--scale-of`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from beholder.curate.options import SelectRules
from beholder.errors import InputError
from beholder.models.published import Threshold
from beholder.scoreset.score_set import ScoreSet

if TYPE_CHECKING:
    from beholder.scoreset.kept_scales import Translation


@dataclass(frozen=True)
class Cuts:
    """Where scores are cut, on their own scale.

    Attributes:
        least: scores of at least this stay (above it, where it is strict); None: all.
        most: scores of at most this stay; None: all.
        least_text, most_text: the rules as people write them.
        translations: what became of thresholds that were given on another scale.
        notes: lines about maps that are damaged.
    """

    least: Threshold | None
    most: float | None
    least_text: str
    most_text: str
    translations: tuple[Translation, ...] = ()
    notes: tuple[str, ...] = ()


def cuts_of(scores: ScoreSet, column: str | None, rules: SelectRules) -> Cuts:
    """The cuts that rules ask for.

    Args:
        scores: the set.
        column: the score column that thresholds go by.
        rules: what was asked for.

    Raises:
        InputError: no map between the two scales, a threshold outside of what it was fitted to, a landmark of another head.
    """
    least, most = rules.least_score, rules.max_score
    if rules.scale_of is None or column is None:
        return Cuts(least, most, "" if least is None else str(least), "" if most is None else f"score <= {most:g}")
    from beholder.scoreset.kept_scales import Scale, find_map, head_of_column, translate  # loads heads, which few rules need

    scale, head = Scale.named(rules.scale_of), head_of_column(scores, column, rules.head)
    if least is not None and least.landmark is not None and (scale.head is None or least.landmark.head != scale.head.name):
        whose = least.landmark.head or "a head that its makers do not name"
        raise InputError(
            f"--min-score {least.landmark.key} is on the scale of {whose}, and --scale-of names {scale.said}; give a number"
        )
    damaged: list[str] = []
    found, is_forward = find_map(head, scale, scores.source, damaged)
    made: list[Translation] = []

    def translated(value: float, flag: str, *, is_strict: bool = False) -> Translation:
        made.append(
            translate(found, is_forward=is_forward, value=value, flag=flag, scale=scale, head=head, is_strict=is_strict)
        )
        return made[-1]

    least_text = most_text = ""
    if least is not None:
        lower = translated(least.value, "--min-score", is_strict=least.is_strict)
        stays_strict = least.is_strict and not is_forward  # else the score that it became is the first one above
        least_text = f"score {'>' if stays_strict else '>='} {lower.used:.6g} ({least.short} on {scale.said})"
        least = Threshold(lower.used, least.landmark if stays_strict else None)
    if most is not None:
        upper = translated(most, "--max-score")
        most_text, most = f"score <= {upper.used:.6g} ({most:g} on {scale.said})", upper.used
    return Cuts(least, most, least_text, most_text, tuple(made), tuple(damaged))
