"""The job `beholder evaluate`: ratings are matched to scores, and heads measured on the pictures that all of them score."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.notices import doing
from beholder.train.evaluate.by import ByColumn, by_column, labels_of_pairs, pairs_in, pictures_in
from beholder.train.evaluate.evaluation import Comparisons, How
from beholder.train.evaluate.options import EvaluateOptions
from beholder.train.evaluate.pairs import compare_pairs
from beholder.train.evaluate.pictures import compare_pictures
from beholder.train.evaluate.scored import Found, Scored, find_scored
from beholder.train.evaluate.unseen import leave_out_trained
from beholder.train.folds import FEW_GROUPS, joined_groups, list_sha256
from beholder.train.noise import Ceiling, MeanRatings, noise_ceiling, pair_ceiling, suspicious_marks, suspicious_ratings
from beholder.train.rated import FOLDER, Labels, labels_of, names_at, rated_pairs, variances_of
from beholder.train.ratings.findings import number_of
from beholder.train.ratings.match import FEWEST_RATINGS
from beholder.train.ratings.ratings import Numbers, Ratings
from beholder.train.ratings.read import read_ratings

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Heads measured against ratings.

    Attributes:
        ratings: as read.
        samples: names of the n measured pictures; of pairs, of those that are in one.
        truth: (n,) their ratings; of pairs (P,) ones: the first of each is the better one.
        weights: (n,) or (P,).
        compared: the heads.
        by: groups of each column that was asked for.
        ceiling: what the raters' noise allows: measure -> value; None where nothing tells.
        suspicious: ratings that the best head contradicts most: sample, rating, predicted, residual, deviations.
        remarks: of ratings, reading and matching, in full sentences.
        notes: of measuring.
        warnings: why figures are not what they seem.
        record: everything of this, ready for JSON.
    """

    ratings: Ratings
    samples: list[str]
    truth: Doubles
    weights: Doubles
    compared: Comparisons
    by: tuple[ByColumn, ...]
    ceiling: dict[str, float | None] | None
    suspicious: list[dict[str, Any]]
    remarks: list[str]
    notes: list[str]
    warnings: list[str]
    record: dict[str, Any]


def evaluate(options: EvaluateOptions) -> Evaluation:
    """Measure heads against ratings.

    Raises:
        BeholderError: ratings that are not understood or match nothing, sources that are no scores, too few pictures that all
            heads score, ratings that are all the same, ...
    """
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
    unseen = leave_out_trained(_in_all(found.scored, ratings, notes), found.scored, ratings, found.near)
    kept = unseen.kept
    notes += unseen.notes
    scored = [replace(one, scores=one.scores[kept]) for one in found.scored]
    groups = _groups(kept, labels, found, options, notes)
    how = How(cut=options.good_from, seed=options.seed)
    with doing("measuring"):
        judge = _of_pairs if ratings.pairs is not None else _of_pictures
        parts = judge(ratings, kept, scored, groups, labels, options, how, notes)
    compared: Comparisons = parts["compared"]
    num_groups = compared.judged[0].measures.num_groups
    if num_groups < FEW_GROUPS:
        notes.append(f"Intervals are from resampling {num_groups:,} groups, too few for them to be relied on.")
    notes += [
        f"{one.name} gives all of them the same score, so it orders nothing."
        for one in compared.judged
        if len(one.scores) and (np.ptp(one.scores) == 0 if ratings.pairs is None else not one.scores.any())
    ]
    remarks = [*ratings.lines(), *found.remarks]
    made = Evaluation(ratings=ratings, remarks=remarks, notes=notes, warnings=unseen.warnings, record={}, **parts)
    record = _record(made, found, options, how, time.perf_counter() - started)
    for head in record["heads"]:
        head["trained_on_share"] = unseen.shares.get(head["name"])
    return replace(made, record=record)


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
    near = None
    if found.near is not None:
        at = np.full(int(max(kept.max(), found.near.max() if found.near.size else 0)) + 1, -1, np.int64)
        at[kept] = np.arange(len(kept))
        near = at[found.near]
        near = near[(near >= 0).all(axis=1)]
    lacking = len(kept) if found.is_embedded is None else int(np.count_nonzero(~found.is_embedded[kept]))
    if lacking and options.near_duplicates:
        whose = "No source has embeddings" if found.is_embedded is None else f"{lacking:,} pictures have no embedding"
        notes.append(
            f"{whose}, so near-duplicates could not be looked for{'' if found.is_embedded is None else ' among them'}; where "
            "there are many, the intervals are too narrow."
        )
    chosen = [] if options.split_by is None else [labels[options.split_by][kept]]
    groups = joined_groups(len(kept), chosen, near)
    num_groups = int(groups.max()) + 1
    if num_groups < len(groups):
        split = {None: "", FOLDER: "of one folder"}.get(options.split_by, f"equal in {options.split_by}")
        why = " or ".join(filter(None, ["" if near is None else "near-duplicates", split]))
        notes.append(
            f"The {len(groups):,} pictures are {number_of(num_groups, 'group')}: {why}. Those of a group are resampled "
            "together."
        )
    return groups


def _of_pictures(
    ratings: Ratings,
    kept: Numbers,
    scored: Sequence[Scored],
    groups: Numbers,
    labels: dict[str, Labels],
    options: EvaluateOptions,
    how: How,
    notes: list[str],
) -> dict[str, Any]:
    """What an `Evaluation` holds, of ratings of pictures."""
    truth = ratings.values[kept]
    if np.ptp(truth) == 0:
        raise InputError(f"all {len(kept):,} measured pictures are rated {truth[0]:g}, so there is nothing to measure against")
    is_weighted = options.weigh_by == "votes" and ratings.counts is not None
    weights = ratings.counts[kept] if is_weighted and ratings.counts is not None else np.ones(len(kept))
    if is_weighted and np.ptp(weights) > 0:
        notes.append("A picture counts by its votes; with --weigh-by pictures all count the same.")
    is_marks = ratings.kind == "decisions"
    names = names_at(ratings, kept)
    compared = compare_pictures(scored, truth, weights, groups, names, how, is_marks=is_marks)
    known = variances_of(ratings)
    variances = np.full(len(kept), np.nan) if known is None else known[kept]
    ceiling = noise_ceiling(MeanRatings(truth, variances, np.full(len(kept), np.nan)), weights=weights, seed=how.seed)
    measure_one = pictures_in(compared, truth, weights, groups, how)
    return {
        "samples": names,
        "truth": truth,
        "weights": weights,
        "compared": compared,
        "by": tuple(by_column(name, labels[name][kept], compared, measure_one) for name in options.by),
        "ceiling": _told(ceiling),
        "suspicious": _suspicious(compared, truth, None if is_marks else variances, names),
    }


def _of_pairs(
    ratings: Ratings,
    kept: Numbers,
    scored: Sequence[Scored],
    groups: Numbers,
    labels: dict[str, Labels],
    options: EvaluateOptions,
    how: How,
    notes: list[str],
) -> dict[str, Any]:
    """What an `Evaluation` holds, of pairs."""
    pairs = rated_pairs(ratings, kept)
    left, right = np.asarray(pairs.left, np.int64), np.asarray(pairs.right, np.int64)
    targets, votes = np.asarray(pairs.targets, np.float64), np.asarray(pairs.votes, np.float64)
    decided = targets != 0.5
    better, worse = left[decided], right[decided]
    if len(better) < FEWEST_RATINGS:
        raise InputError(
            f"{number_of(len(better), 'pair')} that {'is' if len(better) == 1 else 'are'} no tie can be measured: all heads "
            f"have to score both pictures; at least {FEWEST_RATINGS} are needed"
        )
    if not decided.all():
        count = int(np.count_nonzero(~decided))
        notes.append(f"{number_of(count, 'pair')} that people found equal {'is' if count == 1 else 'are'} left out.")
    of_pairs = np.stack([groups[better], groups[worse]], axis=1)
    compared = compare_pairs(scored, better, worse, votes[decided], of_pairs, how)
    measure_one = pairs_in(compared, votes[decided], of_pairs, how)
    ceiling = pair_ceiling(left, right, targets, votes)
    return {
        "samples": names_at(ratings, kept[np.unique(np.concatenate([better, worse]))]),
        "truth": np.ones(len(better)),
        "weights": votes[decided],
        "compared": compared,
        "by": tuple(
            by_column(name, labels_of_pairs(labels[name][kept], better, worse), compared, measure_one) for name in options.by
        ),
        "ceiling": None if np.isnan(ceiling) else {"pair_accuracy": ceiling},
        "suspicious": [],
    }


def _told(ceiling: Ceiling | None) -> dict[str, float | None] | None:
    return None if ceiling is None else ceiling.to_json()


def _suspicious(compared: Comparisons, truth: Doubles, variances: Doubles | None, names: Sequence[str]) -> list[dict[str, Any]]:
    """Ratings, or marks where there are no variances, that the best head contradicts most."""
    predicted = compared.judged[0].predicted
    found = suspicious_marks(truth, predicted) if variances is None else suspicious_ratings(truth, predicted, variances)
    return [
        {
            "sample": names[row],
            "rating": float(truth[row]),
            "predicted": float(predicted[row]),
            "residual": residual,
            "deviations": deviations,
        }
        for row, residual, deviations in zip(
            found.rows.tolist(), found.residuals.tolist(), found.deviations.tolist(), strict=True
        )
    ]


def _record(made: Evaluation, found: Found, options: EvaluateOptions, how: How, seconds: float) -> dict[str, Any]:
    """Everything that was found, ready for JSON."""
    from beholder import __version__

    compared, ratings = made.compared, made.ratings
    first = compared.judged[0].measures
    heads = []
    for at, one in enumerate(compared.judged):
        difference = compared.to_best(at)
        heads.append(
            {
                "name": one.name,
                "source": one.source,
                "column": one.column,
                "measures": one.measures.to_json(),
                "best_less_this": None if difference is None else difference.measures.to_json(),
                "verdict": None if difference is None else difference.verdict(compared.measure),
                "map": {"slope": _finite(one.slope), "intercept": _finite(one.intercept)},
                "calibration": [one_bin.to_json() for one_bin in one.bins],
            }
        )
    return {
        "beholder": __version__,
        "ratings": {
            "file": options.ratings,
            "kind": ratings.kind,
            "layout": ratings.layout,
            "scale": ratings.scale,
            "num_pictures": ratings.num_samples,
        },
        "measured": {
            "unit": compared.unit,
            "num_rows": first.num_rows,
            "num_pictures": len(made.samples),
            "num_groups": first.num_groups,
            "samples_sha256": list_sha256(made.samples),
            "near_duplicates": options.near_duplicates if found.near is not None else None,
            "split_by": options.split_by,
            "weigh_by": "votes" if np.ptp(made.weights) > 0 else compared.unit,
            "cut": _finite(first.cut),
            "level": first.level,
            "resamples": first.resamples,
            "seed": how.seed,
            "ordered_by": compared.measure,
        },
        "heads": heads,
        "constant": compared.constant.to_json(),
        "differences": [
            {
                "first": one.first,
                "second": one.second,
                "verdict": one.verdict(compared.measure),
                "values": one.measures.to_json()["values"],
            }
            for one in compared.differences
        ],
        "missing_heads": found.missing,
        "ceiling": made.ceiling,
        "by": [one.to_json() for one in made.by],
        "suspicious": made.suspicious,
        "remarks": made.remarks,
        "notes": made.notes,
        "warnings": made.warnings,
        "seconds": seconds,
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
