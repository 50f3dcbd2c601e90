"""The job `beholder calibrate`: a map of scores onto another scale is fitted or found, kept with the head, and applied."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from beholder.errors import InputError, OutputError
from beholder.io import storage
from beholder.io.overwriting import is_read
from beholder.notices import doing
from beholder.scoreset.head_key import HeadKey
from beholder.scoreset.kept_scales import Scale, check_free, find_map, head_of_column, keep_map, path_of
from beholder.scoreset.row_names import open_each_once
from beholder.scoreset.scales import ScaleKind, ScaleMap
from beholder.scoreset.score_set import ScoreSet
from beholder.train.calibrate.fit import Fitted, fit_map, fit_percentiles, rows_of
from beholder.train.calibrate.series import (
    FEWEST,
    Series,
    finite_scores,
    has_score,
    joined_rows,
    score_column,
    series_of,
)
from beholder.train.calibrate.table import is_calibrated, margin_of, write_calibrated
from beholder.train.options import CalibrateOptions
from beholder.train.rated import FOLDER, Labels, has_labels, labels_of, ratings_record, values_at
from beholder.train.ratings.match import Matched, match_ratings
from beholder.train.ratings.ratings import Numbers, Ratings
from beholder.train.ratings.read import read_ratings
from beholder.train.rows import Doubles
from beholder.train.threads import at_most, usable_threads
from beholder.train.trained_on import Seen, known_of, lost_file, lost_line, pictures_of


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """What a calibration made.

    Attributes:
        found: the map.
        kept: the file of a map that was fitted; None for one that was there.
        column: the score that was mapped.
        out: the table that was written, or None; new_columns: its columns that are new.
        margin: half the width of the bounds, where there are any.
        lines: what was found on the way, in full sentences.
    """

    found: ScaleMap
    kept: str | None
    column: str
    out: str | None
    new_columns: tuple[str, ...]
    margin: float | None
    lines: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, without the map's knots."""
        return {
            "map_file": self.kept,
            "column": self.column,
            "output": self.out,
            "new_columns": list(self.new_columns),
            "margin": self.margin,
            "remarks": list(self.lines),
            **self.found.to_json(is_whole=False),
        }


@dataclass(kw_only=True)
class _Asked:
    """The scores that are to be mapped: their set, column and head."""

    scores: ScoreSet
    column: str
    head: HeadKey

    @cached_property
    def numbers(self) -> Doubles:
        """(N,) float64, NaN where a row has none; read where they are needed."""
        return finite_scores(self.scores, self.column)


def calibrate(options: CalibrateOptions) -> Calibrated:
    """Fit a map, or find one, keep it, and write the scores on its scale.

    Raises:
        BeholderError: scores that cannot be read or whose head nobody knows, too few common pictures, numbers that are all the
            same or fall where the others rise, a map or table that is there already, no map of a scale, ...
    """
    with at_most(options.num_threads):
        return _calibrate(options)


def _calibrate(options: CalibrateOptions) -> Calibrated:
    options.check()
    if options.out is not None:
        _check_out(options.out, options)
    with _opened(options.scores, options, options.score_column, options.sample_column) as scores:
        column = score_column(scores, options.score)
        asked = _Asked(
            scores=scores,
            column=column,
            head=head_of_column(scores, column, options.head),
        )
        kept, lines = None, list(scores.notes)
        if options.scale_of is not None:
            found = _kept(asked, options.scale_of, lines)
        else:
            with doing("fitting the map"):
                found, more = _fitted(asked, options)
            lines += more
        margin = None if options.interval is None else margin_of(found, options.interval)
        if options.scale_of is None:
            kept = str(keep_map(found, overwrite=options.overwrite))
        new: list[str] = []
        if options.out is not None:
            with doing("writing the table"):
                new = write_calibrated(options.out, scores, column, found, options.interval)
    return Calibrated(
        found=found, kept=kept, column=column, out=options.out, new_columns=tuple(new), margin=margin, lines=tuple(lines)
    )


def _opened(source: str, options: CalibrateOptions, column: str | None, sample: str | None) -> AbstractContextManager[ScoreSet]:
    """Scores, each sample once."""
    return open_each_once(source, options.repeated, num_threads=usable_threads(), score_column=column, sample_column=sample)


def _check_out(path: str, options: CalibrateOptions) -> None:
    """Raise OutputError for a table that is there, that was written by something else, or that is read."""
    if is_read(path, (options.scores, options.onto, options.ratings)):
        raise OutputError(f"--out {path} is read by this command; write to another file")
    if storage.is_folder(path):
        raise OutputError(f"--out {path} is a folder; name a file")
    if not storage.exists(path):
        return
    if not options.overwrite:
        raise OutputError(f"--out {path} exists; choose another name, or replace it with --overwrite")
    if not is_calibrated(path):
        raise OutputError(f"--out {path} would be replaced, and was not written by this command; move it, or use another --out")


def _kept(asked: _Asked, named: str, lines: list[str]) -> ScaleMap:
    """The map of the scores' head onto a scale; a line is added for each damaged one.

    Raises:
        InputError: there is none, or only one of the other direction.
    """
    scale = Scale.named(named)
    found, is_forward = find_map(asked.head, scale, asked.scores.source, lines)
    if not is_forward:
        raise InputError(
            f"--scale-of {named}: the map between {asked.head.short} and {scale.said} goes the other way; make one of these "
            f"scores: beholder calibrate {asked.scores.source} --onto SCORES_BY_{scale.said}"
        )
    return found


def _fitted(asked: _Asked, options: CalibrateOptions) -> tuple[ScaleMap, list[str]]:
    """A new map, and what was found on the way."""
    if options.onto is not None:
        return _onto_scores(asked, options.onto, options)
    if options.ratings is not None:
        return _onto_ratings(asked, options.ratings, options)
    _check_place(asked, "percentiles", None, options)
    numbers = asked.scores.scores(asked.column)
    numbers = numbers[np.isfinite(numbers)]
    fitted = fit_percentiles(numbers, f"the scores by {asked.head.short}", seed=options.seed)
    return _as_map(asked, "percentiles", None, fitted, options, {}), []


def _onto_scores(asked: _Asked, onto: str, options: CalibrateOptions) -> tuple[ScaleMap, list[str]]:
    """Onto the scores of another head, in the same set or in another one."""
    if has_score(asked.scores, onto):
        column = score_column(asked.scores, onto, "--onto")
        head = head_of_column(asked.scores, column, options.onto_head, flag="--onto-head")
        _check_other(asked, head, onto)
        numbers = finite_scores(asked.scores, column)
        rows, kept = rows_of(numbers), options.embeddings or asked.scores.embeddings
        series = series_of(asked.scores, asked.numbers, rows, numbers[rows], options, embeddings=kept)
        return _of_two_heads(asked, head, series, options, []), list(series.notes)
    with _opened(onto, options, options.onto_column, options.onto_sample_column) as other:
        column = score_column(other, None, "--onto-column")
        head = head_of_column(other, column, options.onto_head, flag="--onto-head")
        _check_other(asked, head, onto)
        numbers = finite_scores(other, column)
        rows, places = joined_rows(asked.scores, other)
        kept = options.embeddings or asked.scores.embeddings or other.embeddings
        series = series_of(asked.scores, asked.numbers, rows, numbers[places], options, all_truth=numbers, embeddings=kept)
        found = _of_two_heads(asked, head, series, options, list(other.notes))
        return found, [*other.notes, *series.notes]


def _check_other(asked: _Asked, head: HeadKey, onto: str) -> None:
    if head.is_same(asked.head):
        raise InputError(
            f"--onto {onto}: its scores are by the same head ({head.short}), so there is nothing to map; name another head's"
        )
    if head.name in ("ratings", "percentiles"):
        raise InputError(f"--onto {onto}: a head called {head.name} could not be told from the scale of that name; rename it")


def _of_two_heads(asked: _Asked, head: HeadKey, series: Series, options: CalibrateOptions, notes: list[str]) -> ScaleMap:
    _check_place(asked, "head", head, options)
    names = (f"the scores by {asked.head.short}", f"the scores by {head.short}")
    fitted = fit_map(series, options.map_method, names, seed=options.seed)
    return _as_map(asked, "head", head, fitted, options, {"onto_scores": options.onto, "notes": notes})


def _onto_ratings(asked: _Asked, place: str, options: CalibrateOptions) -> tuple[ScaleMap, list[str]]:
    """Onto people's ratings of pictures of the set."""
    _check_place(asked, "ratings", None, options)
    ratings = read_ratings(place, options)
    if ratings.pairs is not None:
        raise InputError(
            f"{place} holds pairs, which say that one picture is better and not how good it is; train a head of them, or give "
            "ratings of single pictures"
        )
    matched = match_ratings(ratings, asked.scores.samples, fewest=FEWEST)
    at, seen = matched.places, _seen(asked, ratings, matched)
    series = series_of(
        asked.scores,
        asked.numbers,
        matched.rows,
        ratings.values[at],
        options,
        weights=None if ratings.counts is None else ratings.counts[at],
        labels=_rated_labels(asked, ratings, place, options, at),
        embeddings=options.embeddings or asked.scores.embeddings,
        seen=seen,
    )
    is_chance = ratings.kind == "decisions"
    names = (f"the scores by {asked.head.short}", "the ratings")
    fitted = fit_map(series, options.map_method, names, seed=options.seed, is_chance=is_chance)
    about = ratings_record(ratings, place, matched.num_matched, matched.ways)
    found = _as_map(asked, "ratings", None, fitted, options, {"ratings": about, "is_chance": is_chance})
    return found, [*ratings.lines(), *matched.lines(), *_lost(asked, seen), *series.notes]


def _seen(asked: _Asked, ratings: Ratings, matched: Matched) -> Seen | None:
    """Which of the matched pictures the head was trained on; None: nothing is known."""
    known = known_of(asked.head, _recorded(asked))
    if known is None:
        return None
    names = values_at(asked.scores.samples(), matched.rows).to_pylist()
    return Seen(name=asked.head.short, known=known, pictures=pictures_of(ratings, matched, names)).at(matched.places)


def _lost(asked: _Asked, seen: Seen | None) -> list[str]:
    """A line where nothing is known of the pictures, since the file of the head is not where it was."""
    lost = lost_file(asked.head, _recorded(asked)) if seen is None else None
    return [] if lost is None else [lost_line(asked.head.short, lost, "name it with --head")]


def _recorded(asked: _Asked) -> HeadKey | None:
    """The head as the set itself describes it."""
    return HeadKey.of_record(asked.scores.head_record(asked.column))


def _rated_labels(asked: _Asked, ratings: Ratings, place: str, options: CalibrateOptions, at: Numbers) -> Labels | None:
    """(M,) what belongs together by a column of the ratings; None where none is asked for, or where the scores have it.

    Raises:
        InputError: neither has the column.
    """
    column = options.split_by
    if column is None or column == FOLDER:
        return None
    if has_labels(column, ratings, place):
        return labels_of(column, ratings, place, options, "--split-by")[at]
    if column not in asked.scores.schema.names:
        raise InputError(
            f"--split-by {column}: neither {place} nor {asked.scores.source} has such a column; say {FOLDER}, or one of theirs"
        )
    return None


def _check_place(asked: _Asked, kind: ScaleKind, onto: HeadKey | None, options: CalibrateOptions) -> None:
    """Raise OutputError before any work where a map is there already."""
    scale = onto.short if onto is not None else kind
    check_free(path_of(asked.head, kind, onto), asked.head, scale, overwrite=options.overwrite)


def _as_map(
    asked: _Asked, kind: ScaleKind, onto: HeadKey | None, fitted: Fitted, options: CalibrateOptions, more: dict[str, Any]
) -> ScaleMap:
    from beholder import __version__

    known = dict(fitted.more)
    if "measured" in known:
        known["measured"] = {**known["measured"], "split_by": options.split_by}
    return ScaleMap(
        of=asked.head,
        kind=kind,
        onto=onto,
        method=fitted.method,
        steps=fitted.steps,
        num_pictures=fitted.num_pictures,
        error=fitted.error,
        bounds=fitted.bounds,
        ends=fitted.ends,
        more={**known, **more, "source": asked.scores.source, "seed": options.seed, "beholder": __version__},
    )
