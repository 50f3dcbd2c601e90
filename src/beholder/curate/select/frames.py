"""A data frame or a place of scores, and rules, in; a selection whose tables are frames of the same kind out."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import fields
from fractions import Fraction
from os import fspath
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.curate.select.options import SelectRules
from beholder.curate.select.selection import Selection, select_rows
from beholder.io.frames import Back, as_source, texts_of
from beholder.scoreset.repeated import open_each_once

_LISTS = ("where", "exclude", "join", "dedup_against", "pictures")


def select(source: Any, **rules: Any) -> FrameSelection:
    """Choose rows of scores by rules; nothing is written.

        selection = beholder.select("scores.parquet", min_score=5, where="width >= 512", top=1000)
        selection.kept_rows()       # best first, with rank
        selection.decisions()       # every row: kept or not, its rank, the rule that dropped it

    Args:
        source: what `beholder score` wrote (a folder, .parquet or .csv), another table of scores, or a polars, pandas or
            Arrow frame with a column of samples and one of scores.
        rules: the options of `beholder select` as keywords (`curate.select.options.SelectRules`): min_score (a number or
            a landmark such as "sd-v1"), max_score, quantile, top, top_share ("10%" or 0.1), per, balance, where, sample, seed,
            temperature, budget (bytes), size_column, exclude, marks, dedup (a similarity or "exact-bytes"), dedup_keep,
            dedup_per, dedup_against, dedup_against_similarity, embeddings, clusters, score, rank_by, join, repeated,
            score_column, sample_column, pictures, root, memory, num_threads. `where`, `exclude`, `join`, `dedup_against`
            and `pictures` take one text or several.

    Returns:
        the selection. It keeps the scores open until it is closed (`with`) or forgotten.

    Raises:
        TypeError: no such rule, or a source of another kind.
        InputError: rules that mean nothing, scores that cannot be read.
    """
    known = {item.name for item in fields(SelectRules)}
    unknown = [name for name in rules if name not in known]
    if unknown:
        raise TypeError(f"select() has no rule {unknown[0]!r}; there are {', '.join(sorted(known))}")
    for name in _LISTS:
        if rules.get(name) is not None:
            rules[name] = texts_of(rules[name], name, "select")
    if isinstance(rules.get("top_share"), int | float | Fraction):
        share = rules["top_share"]
        rules["top_share"] = f"{share.numerator / share.denominator!r}" if isinstance(share, Fraction) else repr(share)
    for name in ("marks", "embeddings", "root"):
        if rules.get(name) is not None:
            rules[name] = fspath(rules[name])
    chosen = SelectRules(**{name: value for name, value in rules.items() if value is not None})
    chosen.check()
    given, back = as_source(source, "select")
    owned = ExitStack()
    try:
        named = {"score_column": chosen.score_column, "sample_column": chosen.sample_column}
        scores = owned.enter_context(open_each_once(given, chosen.repeated, num_threads=chosen.threads, **named))
        return FrameSelection(select_rows(scores, chosen, owned=owned), back)
    except BaseException:
        owned.close()
        raise


class FrameSelection:
    """A selection whose tables are frames of the kind that was given (Arrow for files).

    Attributes:
        selection: the selection itself, whose tables are Arrow.
    """

    def __init__(self, selection: Selection, back: Back) -> None:
        self.selection = selection
        self._back = back

    def __repr__(self) -> str:
        """What stays of what."""
        return repr(self.selection)

    def __enter__(self) -> FrameSelection:
        """For `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close the scores and free scratch files; tables cannot be made any more."""
        self.selection.close()

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """(N,) whether each row stays, in the order of the source."""
        return self.selection.kept

    @property
    def num_kept(self) -> int:
        """How many rows stay."""
        return self.selection.num_kept

    @property
    def rank(self) -> npt.NDArray[np.uint32]:
        """(N,) uint32, 1 for the best row of all, 0 for rows without a score and those that name a sample again."""
        return self.selection.rank

    @property
    def dropped_by(self) -> npt.NDArray[np.uint8]:
        """(N,) uint8 index into `RULES`, 0 for rows that stay."""
        return self.selection.dropped_by

    @property
    def funnel(self) -> tuple[Any, ...]:
        """What each rule did: `.word`, `.text`, `.rows_in`, `.dropped`, `.left`, `.threshold`."""
        return self.selection.funnel

    @property
    def thresholds(self) -> dict[str, float | None]:
        """What rules found out; see `Selection`."""
        return self.selection.thresholds

    @property
    def groups(self) -> Any:
        """Groups of near-duplicates as a frame, or None."""
        return None if self.selection.groups is None else self._back(self.selection.groups)

    def kept_rows(self) -> Any:
        """The rows that stay, best first, with rank and the columns passed through."""
        return self._back(self.selection.kept_rows())

    def decisions(self) -> Any:
        """Every row in the order of the source: sample, scores, rank, kept, dropped_by."""
        return self._back(self.selection.decisions())
