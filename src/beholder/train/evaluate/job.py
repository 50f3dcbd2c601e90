"""The job `beholder evaluate`: ratings are matched to scores, and heads measured on the pictures that all of them score."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from beholder.errors import InputError, number_of
from beholder.io.records import finite
from beholder.notices import doing
from beholder.train.evaluate.by import ByColumn, InGroup, by_column, labels_of_pairs, pairs_in, pictures_in
from beholder.train.evaluate.evaluation import Comparisons, Judged, compare_pairs, compare_pictures
from beholder.train.evaluate.scored import Found, Scored, find_scored
from beholder.train.folds import FEW_GROUPS, list_sha256
from beholder.train.measures import CONSTANT
from beholder.train.noise import Ceiling, noise_ceiling, pair_ceiling, suspicious_marks, suspicious_ratings
from beholder.train.options import EvaluateOptions
from beholder.train.rated import Labels, labels_of, rated_pairs, ratings_record, variances_of
from beholder.train.ratings.findings import is_or_are
from beholder.train.ratings.match import FEWEST_RATINGS
from beholder.train.ratings.ratings import Numbers, Ratings
from beholder.train.ratings.read import read_ratings
from beholder.train.ratings.rows import names_at
from beholder.train.resampling import Resampling
from beholder.train.rows import Doubles
from beholder.train.threads import at_most
from beholder.train.together import Near, together
from beholder.train.trained_on import lost_line, not_near, share_in_words

LEAST_UNSEEN = 20
"""So many pictures (or pairs) that no head was trained on are enough to be measured on alone."""

_LOST_WAY = "run this where it is, or score with a name that beholder models add gave it"


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
        options: of the job; how: resamples and intervals.
        notes: lines about measuring, to which others are added.
    """

    ratings: Ratings
    kept: Numbers
    scored: Sequence[Scored]
    groups: Numbers
    labels: dict[str, Labels]
    options: EvaluateOptions
    how: Resampling
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
    columns = [name for name in dict.fromkeys((*options.by, options.split_by)) if name]
    labels = {name: labels_of(name, ratings, options.ratings, options, "--by and --split-by") for name in columns}
    unseen = _leave_out_trained(_in_all(found.scored, ratings, notes), found.scored, ratings, found.embedded.near)
    kept = unseen.kept
    notes += unseen.notes
    asked = _Asked(
        ratings=ratings,
        kept=kept,
        scored=[replace(one, scores=one.scores[kept]) for one in found.scored],
        groups=_groups(kept, labels, found, options, notes),
        labels=labels,
        options=options,
        how=Resampling(seed=options.seed),
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
        **vars(measured),
        ratings=ratings,
        remarks=record["remarks"],
        notes=notes,
        warnings=unseen.warnings,
        record=record,
    )


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


@dataclass(frozen=True, kw_only=True)
class _Unseen:
    """What is measured of n pictures that all heads score.

    Attributes:
        kept: places of the pictures in the ratings.
        notes: what was left out.
        warnings: a line for each head that was trained on pictures it is measured on.
        shares: by head, of the kept pictures the share that it was trained on; only of heads whose record says which.
    """

    kept: Numbers
    notes: list[str]
    warnings: list[str]
    shares: dict[str, float]


def _leave_out_trained(kept: Numbers, scored: Sequence[Scored], ratings: Ratings, near: Near | None) -> _Unseen:
    """Leave out the pictures that any head was trained on, where enough others are there.

    Args:
        kept: places of the pictures in the ratings.
        scored: the heads.
        ratings: which pictures are rated.
        near: near-duplicates among all rated pictures; what is one of a trained picture is left out as well.
    """
    known = [one.seen.at(kept) for one in scored if one.seen is not None]
    surely = {seen.name: seen.surely() for seen in known}
    in_any = np.logical_or.reduce([*surely.values(), np.zeros(len(kept), np.bool_)])
    left = not_near(in_any, None if near is None else near.among(kept).pairs)
    notes = [lost_line(one.name, one.lost, _LOST_WAY) for one in scored if one.lost is not None]
    notes += [line for seen in known for line in seen.lines_by_place("name embeddings of them as a source as well")]
    if in_any.any() and _is_enough(kept[left], ratings):
        told = ", ".join(f"{name} on {np.count_nonzero(mask):,}" for name, mask in surely.items() if mask.any())
        notes.append(
            f"Of {number_of(len(kept), 'picture')} {len(kept) - len(left):,} are left out for all heads, since a head was "
            f"trained on them ({told}) or on near-duplicates of them; the other {len(left):,} are measured."
        )
    else:
        left = np.arange(len(kept))
    shares = {seen.name: seen.at(left).share() for seen in known}
    warnings = [_warning(*one) for one in shares.items() if one[1] > 0]
    return _Unseen(kept=kept[left], notes=notes, warnings=warnings, shares=shares)


def _is_enough(left: Numbers, ratings: Ratings) -> bool:
    """Whether something can be measured on these pictures."""
    if ratings.pairs is None:
        return len(left) >= LEAST_UNSEEN and bool(np.ptp(ratings.values[left]) > 0)
    is_left = np.zeros(ratings.num_samples, np.bool_)
    is_left[left] = True
    pairs = ratings.pairs
    return int(np.count_nonzero(is_left[pairs.better] & is_left[pairs.worse] & ~pairs.is_tie)) >= LEAST_UNSEEN


def _warning(name: str, share: float) -> str:
    return (
        f"{name} was trained on {share_in_words(share)} of the measured pictures, so its figures are too good, and so is its "
        "lead over other heads: they say how well it fits, not how well it predicts. What train printed of it is of pictures "
        f"that it had not seen; to measure it here, rate at least {LEAST_UNSEEN} others."
    )


def _groups(kept: Numbers, labels: dict[str, Labels], found: Found, options: EvaluateOptions, notes: list[str]) -> Numbers:
    """(n,) groups of the measured pictures, and what is to be said of them."""
    groups, said = together(
        len(kept),
        None if found.embedded.near is None else found.embedded.near.among(kept),
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
    names = names_at(ratings.samples, kept)
    cut = asked.options.good_from
    compared = compare_pictures(asked.scored, truth, weights, groups, names, how, cut=cut, is_marks=is_marks)
    known = variances_of(ratings)
    variances = np.full(len(kept), np.nan) if known is None else known[kept]
    predicted = compared.judged[0].predicted
    odd = suspicious_marks(truth, predicted) if is_marks else suspicious_ratings(truth, predicted, variances)
    return Measured(
        samples=names,
        truth=truth,
        weights=weights,
        compared=compared,
        by=asked.by(compared, pictures_in(compared, truth, weights, groups, how), lambda labels: labels),
        ceiling=noise_ceiling(truth, variances, weights=weights, groups=groups, how=how),
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
            f"{number_of(len(better), 'pair')} that {is_or_are(len(better))} no tie can be measured: all heads "
            f"have to score both pictures; at least {FEWEST_RATINGS} are needed"
        )
    if not decided.all():
        count = int(np.count_nonzero(~decided))
        asked.notes.append(f"{number_of(count, 'pair')} that people found equal {is_or_are(count)} left out.")
    of_pairs = np.stack([groups[better], groups[worse]], axis=1)
    compared = compare_pairs(asked.scored, better, worse, weights, of_pairs, how)
    return Measured(
        samples=names_at(asked.ratings.samples, kept[np.unique(np.concatenate([better, worse]))]),
        truth=np.ones(len(better)),
        weights=weights,
        compared=compared,
        by=asked.by(
            compared, pairs_in(compared, weights, of_pairs, how), lambda labels: labels_of_pairs(labels, better, worse)
        ),
        ceiling=pair_ceiling(left, right, targets, votes, groups=groups, how=how),
        suspicious=[],
    )


def _record(measured: Measured, found: Found, asked: _Asked) -> dict[str, Any]:
    """What was found, ready for JSON."""
    from beholder import __version__

    compared, ratings, options = measured.compared, asked.ratings, asked.options
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
            "near_duplicates": options.near_duplicates if found.embedded.near is not None else None,
            "split_by": options.split_by,
            "weigh_by": "votes" if np.ptp(measured.weights) > 0 else compared.unit,
            "cut": finite(first.cut),
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
        "map": {"slope": finite(one.slope), "intercept": finite(one.intercept)},
        "calibration": [one_bin.to_json() for one_bin in one.bins],
    }
