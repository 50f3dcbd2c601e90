"""The job `beholder train`: ratings are matched to embeddings, a head is fitted and measured, and written with its card."""

from __future__ import annotations

import shlex
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from beholder.errors import HeadError, InputError
from beholder.models.backbones import known_backbone, same_backbone
from beholder.models.heads import Head, load_head
from beholder.models.upload import Upload, push_head
from beholder.notices import doing, say
from beholder.train.card import HeadFiles
from beholder.train.options import TrainJobOptions
from beholder.train.pairs import train_on_pairs
from beholder.train.rated import labels_of, rated_pairs, rated_rows, ratings_record
from beholder.train.ratings.match import Matched, match_ratings
from beholder.train.ratings.ratings import Ratings
from beholder.train.ratings.read import read_ratings
from beholder.train.ratings.rows import names_at
from beholder.train.sketches import sketched
from beholder.train.source import EmbeddingSource, open_source
from beholder.train.threads import at_most
from beholder.train.trained_on import KEY, TrainedOn
from beholder.train.training import Method, Trained, TrainOptions, train_head

_LABEL_FLAGS = "--split-by and --balance"


@dataclass(frozen=True, kw_only=True)
class TrainRun:
    """A head that was trained and written.

    Attributes:
        out, card, record_file: the files that were written.
        head: ready to score.
        record: what `record_file` holds.
        seconds: of all, but for the upload.
        upload: what was sent to the hub; None where that was not asked for.
    """

    out: str
    card: str
    record_file: str
    head: Head
    record: dict[str, Any]
    seconds: float
    upload: Upload | None = None


def train(options: TrainJobOptions) -> TrainRun:
    """Train a head on people's ratings, measure it, and write it with its card and record.

    Raises:
        BeholderError: ratings that are not understood or match nothing, too few of them, embeddings of another tower, ...
    """
    with at_most(options.num_threads):
        return _train(options)


def _train(options: TrainJobOptions) -> TrainRun:
    options.check()
    assert options.ratings is not None
    started = time.perf_counter()
    files = HeadFiles(options.out)
    files.check(overwrite=options.overwrite, advice="use another --out")
    with doing("reading the ratings"):
        ratings = read_ratings(options.ratings, options)
    start_from = None if options.start_from is None else load_head(options.start_from, offline=options.offline)
    others = None
    if options.compare_with is not None:
        others = tuple(load_head(name, offline=options.offline) for name in options.compare_with)
    source = open_source(options.sources, lambda: _embedded(options))
    backbone = _backbone(options, source, start_from)
    with doing("finding the rated pictures"):
        matched = match_ratings(ratings, source.names)
    with tempfile.TemporaryDirectory(prefix="beholder-train-") as scratch:
        with doing("reading the embeddings of rated pictures"):
            rated = source.read(matched.rows, Path(scratch))
        how = TrainOptions(
            method=_method(options, ratings),
            start_from=start_from,
            strength=options.strength,
            near_duplicates=options.near_duplicates or None,
            seed=options.seed,
            name=options.name or PurePosixPath(options.out.removesuffix(".safetensors")).name,
            backbone=backbone,
            compare_with=others,
            offline=options.offline,
            cut=options.good_from,
        )
        with doing("fitting and measuring"):
            trained: Trained
            labels = partial(labels_of, ratings=ratings, path=options.ratings, options=options, flags=_LABEL_FLAGS)
            groups = [] if options.split_by is None else [labels(options.split_by)]
            if ratings.pairs is not None:
                pairs = rated_pairs(ratings, matched.places, rated.names, groups=groups)
                trained = train_on_pairs(rated.matrix, pairs, how)
                tested = np.arange(len(rated.names))
            else:
                balance = None if options.balance is None else labels(options.balance)
                rows = rated_rows(ratings, matched.places, rated.names, groups=groups, balance=balance)
                on_pictures = train_head(rated.matrix, rows, how)
                trained, tested = on_pictures, on_pictures.tested
        fitted = trained.fitted
        sketches = sketched(len(fitted), np.arange(len(fitted)), rated.matrix, fitted, backbone)
    names = names_at(ratings.samples, matched.places[tested])
    known = TrainedOn.of(
        [rated.names[row] for row in fitted.tolist()],
        () if ratings.is_by_row else names_at(ratings.samples, matched.places[fitted]),
        sketches,
    )
    record = {**_record(options, ratings, matched, source, trained.record), "test_samples": names, KEY: known.to_json()}
    head = replace(trained.head, licence=options.licence, source=None)
    remarks = [*ratings.lines(with_names=False), *matched.lines(with_names=False)]
    head, record = files.write(head, record, remarks, seconds=time.perf_counter() - started)
    seconds = time.perf_counter() - started
    return TrainRun(
        out=options.out,
        card=files.card,
        record_file=files.record,
        head=head,
        record=record,
        seconds=seconds,
        upload=_uploaded(options, files.card),
    )


def _uploaded(options: TrainJobOptions, card: str) -> Upload | None:
    """The head and its card on the hub, where that was asked for. Raises HeadError, saying that the head is written."""
    if options.push_to_hub is None:
        return None
    try:
        return push_head(
            options.out,
            card,
            options.push_to_hub,
            is_private=options.private,
            overwrite=options.overwrite,
            dry_run=options.dry_run,
        )
    except HeadError as error:
        again = f"beholder models push {shlex.quote(options.out)} {options.push_to_hub}"
        raise HeadError(f"{error}; the head is written to {options.out}, and is uploaded later by: {again}") from None


def _embedded(options: TrainJobOptions) -> str:
    """Embed the pictures beside the head, and say where; what is there already is kept."""
    from beholder.scoring.options import EmbedOptions
    from beholder.scoring.score import embed

    out = _embeddings_of(options)
    given = {"backbone": options.backbone, "device": options.device, "offline": options.offline}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    say(f"embedding the pictures into {out}")
    summary = embed(EmbedOptions(sources=options.sources, out=out, **chosen))
    for warning in summary.warnings:
        say(f"warning: {warning}")
    return out


def _embeddings_of(options: TrainJobOptions) -> str:
    """Where embeddings of pictures are kept."""
    return f"{options.out.removesuffix('.safetensors')}.embeddings"


def _backbone(options: TrainJobOptions, source: EmbeddingSource, start_from: Head | None) -> str | None:
    """The tower of the embeddings. Raises InputError where the stamp, the flag and the head to start from disagree."""
    wanted = known_backbone(options.backbone) if options.backbone else None
    is_made_here = source.place == _embeddings_of(options)  # --backbone may be a file then
    if source.backbone and wanted and not is_made_here and not same_backbone(source.backbone, wanted):
        raise InputError(f"{source.place} is of {source.backbone} by its stamp, not of {options.backbone}")
    found = source.backbone or wanted
    if start_from is not None and start_from.dim != source.dim:
        raise InputError(
            f"--start-from {start_from.name} scores embeddings of {start_from.dim} numbers, these have {source.dim}"
        )
    if start_from is not None and start_from.backbone and found and not same_backbone(start_from.backbone, found):
        raise InputError(f"--start-from {start_from.name} is for {start_from.backbone}, and the embeddings are of {found}")
    return found


def _method(options: TrainJobOptions, ratings: Ratings) -> Method:
    """The method for this kind of ratings. Raises InputError for one that does not fit."""
    is_choice = ratings.kind in ("decisions", "pairs")
    if options.method == "auto":
        return "logistic" if is_choice else "ridge"
    if options.method == "logistic" and not is_choice:
        raise InputError("--method logistic is for keep and drop and for pairs; these are ratings: use ridge, or mlp-relu")
    if options.method != "logistic" and ratings.kind == "pairs":
        raise InputError(f"--method {options.method} takes no pairs; use logistic")
    return options.method


def _record(
    options: TrainJobOptions, ratings: Ratings, matched: Matched, source: EmbeddingSource, found: dict[str, Any]
) -> dict[str, Any]:
    """What is written beside the head."""
    from beholder import __version__

    measured = {**found["measured"], "split_by": options.split_by}
    return {
        "beholder": __version__,
        **found,
        "balance": options.balance,
        "measured": measured,
        "ratings": ratings_record(ratings, options.ratings, matched.num_matched, matched.ways),
        "embeddings": {"source": source.place, "dim": source.dim, "backbone": source.backbone},
        "remarks": [*ratings.lines(), *matched.lines()],
    }
