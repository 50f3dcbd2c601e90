"""The job `beholder evaluate`: ratings are matched to scores, and heads measured on the pictures that all of them score."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.notices import doing
from beholder.train.evaluate.by import ByColumn, InGroup, by_column, labels_of_pairs, pairs_in, pictures_in
from beholder.train.evaluate.evaluation import Comparisons, How, Judged
from beholder.train.evaluate.options import EvaluateOptions
from beholder.train.evaluate.pairs import compare_pairs
from beholder.train.evaluate.pictures import compare_pictures
from beholder.train.evaluate.scored import Found, Scored, find_scored
from beholder.train.evaluate.unseen import leave_out_trained
from beholder.train.folds import FEW_GROUPS, list_sha256
from beholder.train.measures import CONSTANT
from beholder.train.noise import Ceiling, MeanRatings, noise_ceiling, pair_ceiling, suspicious_marks, suspicious_ratings
from beholder.train.rated import Labels, labels_of, names_at, rated_pairs, ratings_record, variances_of
from beholder.train.ratings.findings import number_of
from beholder.train.ratings.match import FEWEST_RATINGS
from beholder.train.ratings.ratings import Numbers, Ratings
from beholder.train.ratings.read import read_ratings
from beholder.train.threads import at_most
from beholder.train.together import together

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured.

    Attributes:
        samples: names of the n measured pictures; of pairs, of those that are in one.
        truth: (n,) their ratings; of pairs (P,) ones: the first of each is the better one.
        weights: (n,) or (P,).
        compared: the heads.
        by: groups of each column that was asked for.
        ceiling: what the raters' noise allows; None where nothing tells.
        suspicious: ratings that the best head contradicts most: sample, rating, predicted, residual, deviations.
    """

    samples: list[str]
    truth: Doubles
    weights: Doubles
    compared: Comparisons
    by: tuple[ByColumn, ...]
    ceiling: Ceiling | None
    suspicious: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Evaluation(Measured):
    """Heads measured against ratings.

    Attributes:
        ratings: as read.
        remarks: of ratings, reading and matching, in full sentences.
        notes: of measuring.
        warnings: why figures are not what they seem.
        record: everything of this, ready for JSON.
    """

    ratings: Ratings
    remarks: list[str]
    notes: list[str]
    warnings: list[str]
    record: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What is to be measured.

    Attributes:
        ratings: of all rated pictures.
        kept: (n,) places of those that are measured.
        scored: heads, with the scores of these.
        groups: (n,) what is resampled together.
        labels: by column, (N,) the group of each rated picture.
        options: of the job; how: of the measures.
        notes: lines about measuring, to which others are added.
    """

    ratings: Ratings
    kept: Numbers
    scored: Sequence[Scored]
    groups: Numbers
    labels: dict[str, Labels]
    options: EvaluateOptions
    how: How
    notes: list[str]

    def by(
        self, compared: Comparisons, measure_one: Callable[[Numbers], list[InGroup]], labels_of_rows: Callable[[Labels], Labels]
    ) -> tuple[ByColumn, ...]:
        """The groups of each column that was asked for.

        Args:
            compared: of all.
            measure_one: measures of some of it.
            labels_of_rows: from labels of the pictures to those of what is measured.
        """
        return tuple(
            by_column(name, labels_of_rows(self.labels[name][self.kept]), compared, measure_one) for name in self.options.by
        )


def evaluate(options: EvaluateOptions) -> Evaluation:
    """Measure heads against ratings.

    Raises:
        BeholderError: ratings that are not understood or match nothing, sources that are no scores, too few pictures that all
            heads score, ratings that are all the same, ...
    """
    with at_most(options.num_threads):
        return _evaluate(options)


def _evaluate(options: EvaluateOptions) -> Evaluation:
    options.check()
    assert options.ratings is not None
    started = time.perf_counter()
    with doing("reading the ratings"):
        ratings = read_ratings(options.ratings, options)
    with doing("finding the scores of rated pictures"):
        found = find_scored(ratings, options)
    _check_others(found.scored, ratings, options)
    notes: list[str] = []
    labels = {name: _labels(name, ratings, options) for name in dict.fromkeys((*options.by, options.split_by)) if name}
    unseen = leave_out_trained(
        _in_all(found.scored, ratings, notes), found.scored, ratings, None if found.near is None else found.near.pairs
    )
    kept = unseen.kept
    notes += unseen.notes
    asked = _Asked(
        ratings=ratings,
        kept=kept,
        scored=[replace(one, scores=one.scores[kept]) for one in found.scored],
        groups=_groups(kept, labels, found, options, notes),
        labels=labels,
        options=options,
        how=How(cut=options.good_from, seed=options.seed),
        notes=notes,
    )
    with doing("measuring"):
        measured = _of_pictures(asked) if ratings.pairs is None else _of_pairs(asked)
    compared = measured.compared
    num_groups = compared.judged[0].measures.num_groups
    if num_groups < FEW_GROUPS:
        notes.append(f"Intervals are from resampling {num_groups:,} groups, too few for them to be relied on.")
    notes += [
        f"{one.name} gives all of them the same score, so it orders nothing."
        for one in compared.judged
        if len(one.scores) and (np.ptp(one.scores) == 0 if ratings.pairs is None else not one.scores.any())
    ]
    record = {
        **_record(measured, found, asked),
        "remarks": [*ratings.lines(), *found.remarks],
        "notes": notes,
        "warnings": unseen.warnings,
        "seconds": time.perf_counter() - started,
    }
    for head in record["heads"]:
        head["trained_on_share"] = unseen.shares.get(head["name"])
    return Evaluation(
        **{item.name: getattr(measured, item.name) for item in fields(Measured)},
        ratings=ratings,
        remarks=record["remarks"],
        notes=notes,
        warnings=unseen.warnings,
        record=record,
    )


def _labels(column: str, ratings: Ratings, options: EvaluateOptions) -> Labels:
    """(N,) the group of each rated picture."""
    assert options.ratings is not None
    return labels_of(column, ratings, options.ratings, options, "--by and --split-by")


def _check_others(scored: Sequence[Scored], ratings: Ratings, options: EvaluateOptions) -> None:
    """Refuse a column of ratings that is given as scores, and what scores nothing. Raises InputError."""
    for one in scored:
        has_score = np.isfinite(one.scores)
        if not has_score.any():
            raise InputError(f"{one.source}: {one.name} has no score of any rated picture; leave it out")
        if one.source == options.ratings and np.array_equal(one.scores[has_score], ratings.values[has_score]):
            raise InputError(
                f"{one.source}: column {one.column!r} is the ratings themselves; name the column with the scores with "
                "--score-column, and the one with the ratings with --rating-column"
            )


def _in_all(scored: Sequence[Scored], ratings: Ratings, notes: list[str]) -> Numbers:
    """(n,) rated pictures that all heads score, and a line about the others. Raises InputError where too few are left."""
    known = np.array([np.isfinite(one.scores) for one in scored])
    in_all, in_any = known.all(axis=0), known.any(axis=0)
    kept = np.flatnonzero(in_all)
    lacking = [
        f"{one.name} lacks {int(np.count_nonzero(in_any & ~has)):,}"
        for one, has in zip(scored, known, strict=True)
        if (in_any & ~has).any()
    ]
    said = f"of {number_of(int(in_any.sum()), 'rated picture')} that a head scores, all heads score {len(kept):,}"
    if len(kept) < FEWEST_RATINGS:
        why = f" ({', '.join(lacking)})" if lacking else ""
        raise InputError(
            f"{said}{why}; at least {FEWEST_RATINGS} are needed to measure anything; leave out heads that lack many"
        )
    if lacking:
        notes.append(f"O{said[1:]}, and are measured on these: {', '.join(lacking)}.")
    return kept.astype(np.int64)


def _groups(kept: Numbers, labels: dict[str, Labels], found: Found, options: EvaluateOptions, notes: list[str]) -> Numbers:
    """(n,) groups of the measured pictures, and what is to be said of them."""
    groups, said = together(
        len(kept),
        None if found.near is None else found.near.among(kept),
        None if options.split_by is None else labels[options.split_by][kept],
        options.split_by,
        wanted=bool(options.near_duplicates),
        then="Those of a group are resampled together.",
        otherwise="the intervals are too narrow",
    )
    notes += said
    return groups


def _of_pictures(asked: _Asked) -> Measured:
    """Heads measured on ratings of pictures."""
    ratings, kept, how, groups = asked.ratings, asked.kept, asked.how, asked.groups
    truth = ratings.values[kept]
    if np.ptp(truth) == 0:
        raise InputError(f"all {len(kept):,} measured pictures are rated {truth[0]:g}, so there is nothing to measure against")
    weights = np.ones(len(kept))
    if asked.options.weigh_by == "votes" and ratings.counts is not None:
        weights = ratings.counts[kept]
        if np.ptp(weights) > 0:
            asked.notes.append("A picture counts by its votes; with --weigh-by pictures all count the same.")
    is_marks = ratings.kind == "decisions"
    names = names_at(ratings, kept)
    compared = compare_pictures(asked.scored, truth, weights, groups, names, how, is_marks=is_marks)
    known = variances_of(ratings)
    variances = np.full(len(kept), np.nan) if known is None else known[kept]
    rated = MeanRatings(truth, variances, np.full(len(kept), np.nan))
    predicted = compared.judged[0].predicted
    odd = suspicious_marks(truth, predicted) if is_marks else suspicious_ratings(truth, predicted, variances)
    return Measured(
        samples=names,
        truth=truth,
        weights=weights,
        compared=compared,
        by=asked.by(compared, pictures_in(compared, truth, weights, groups, how), lambda labels: labels),
        ceiling=noise_ceiling(rated, weights=weights, groups=groups, level=how.level, resamples=how.resamples, seed=how.seed),
        suspicious=odd.to_json(names, truth, predicted),
    )


def _of_pairs(asked: _Asked) -> Measured:
    """Heads measured on pairs."""
    kept, how, groups = asked.kept, asked.how, asked.groups
    pairs = rated_pairs(asked.ratings, kept)
    left, right = np.asarray(pairs.left, np.int64), np.asarray(pairs.right, np.int64)
    targets, votes = np.asarray(pairs.targets, np.float64), np.asarray(pairs.votes, np.float64)
    decided = targets != 0.5
    better, worse, weights = left[decided], right[decided], votes[decided]
    if len(better) < FEWEST_RATINGS:
        raise InputError(
            f"{number_of(len(better), 'pair')} that {'is' if len(better) == 1 else 'are'} no tie can be measured: all heads "
            f"have to score both pictures; at least {FEWEST_RATINGS} are needed"
        )
    if not decided.all():
        count = int(np.count_nonzero(~decided))
        asked.notes.append(f"{number_of(count, 'pair')} that people found equal {'is' if count == 1 else 'are'} left out.")
    of_pairs = np.stack([groups[better], groups[worse]], axis=1)
    compared = compare_pairs(asked.scored, better, worse, weights, of_pairs, how)
    return Measured(
        samples=names_at(asked.ratings, kept[np.unique(np.concatenate([better, worse]))]),
        truth=np.ones(len(better)),
        weights=weights,
        compared=compared,
        by=asked.by(
            compared, pairs_in(compared, weights, of_pairs, how), lambda labels: labels_of_pairs(labels, better, worse)
        ),
        ceiling=pair_ceiling(
            left, right, targets, votes, groups=groups, level=how.level, resamples=how.resamples, seed=how.seed
        ),
        suspicious=[],
    )


def _record(measured: Measured, found: Found, asked: _Asked) -> dict[str, Any]:
    """What was found, ready for JSON."""
    from beholder import __version__

    compared, ratings, options = measured.compared, asked.ratings, asked.options
    assert options.ratings is not None
    first = compared.judged[0].measures
    has_score = np.logical_or.reduce([np.isfinite(one.scores) for one in found.scored])
    return {
        "beholder": __version__,
        "seed": asked.how.seed,
        "ratings": ratings_record(ratings, options.ratings, int(np.count_nonzero(has_score)), found.ways),
        "measured": {
            "unit": compared.unit,
            "num_rows": first.num_rows,
            "num_pictures": len(measured.samples),
            "num_groups": first.num_groups,
            "samples_sha256": list_sha256(measured.samples),
            "near_duplicates": options.near_duplicates if found.near is not None else None,
            "split_by": options.split_by,
            "weigh_by": "votes" if np.ptp(measured.weights) > 0 else compared.unit,
            "cut": _finite(first.cut),
            "level": first.level,
            "num_resamples": first.num_resamples,
            "ordered_by": compared.measure,
        },
        "heads": [_head_record(at, one, compared) for at, one in enumerate(compared.judged)],
        "beside": [{"name": CONSTANT, "measures": compared.constant.to_json(), "difference": None}],
        "differences": [
            {
                "first": one.first,
                "second": one.second,
                "verdict": one.verdict(compared.measure),
                "difference": one.measures.to_json(),
            }
            for one in compared.differences
        ],
        "missing_heads": found.missing,
        "ceiling": None if measured.ceiling is None else measured.ceiling.to_json(),
        "by": [one.to_json() for one in measured.by],
        "suspicious": measured.suspicious,
    }


def _head_record(at: int, one: Judged, compared: Comparisons) -> dict[str, Any]:
    """What is recorded of a head, by its place; `difference` is that of the best head to it."""
    difference = compared.to_best(at)
    return {
        "name": one.name,
        "source": one.source,
        "column": one.column,
        "measures": one.measures.to_json(),
        "difference": None if difference is None else difference.measures.to_json(),
        "verdict": None if difference is None else difference.verdict(compared.measure),
        "map": {"slope": _finite(one.slope), "intercept": _finite(one.intercept)},
        "calibration": [one_bin.to_json() for one_bin in one.bins],
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
