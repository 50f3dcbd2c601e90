"""Scores of the rated pictures, from wherever they are: columns of sets and tables of scores, heads on embeddings."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beholder.errors import BeholderError, InputError
from beholder.io import remote, storage
from beholder.io.tables import header_of
from beholder.models.backbones import same_backbone
from beholder.models.heads import Head, load_head
from beholder.scoreset.foreign import find_scores, is_csv
from beholder.scoreset.head_key import HeadKey
from beholder.scoreset.row_names import open_each_once
from beholder.scoreset.score_set import KNOWN_SCORE_COLUMNS, ScoreSet, open_scores, record_in
from beholder.sources.detect import detect
from beholder.sources.find import find_parts
from beholder.sources.reader import ReadOptions, SourceOptions
from beholder.train.options import EvaluateOptions
from beholder.train.public import public_heads, scores_of
from beholder.train.rated import values_at
from beholder.train.ratings.match import Matched, match_ratings
from beholder.train.ratings.ratings import Numbers, Ratings
from beholder.train.rows import Doubles, usable_rows
from beholder.train.source import EmbeddingSource, open_source
from beholder.train.together import Embedded
from beholder.train.trained_on import Seen, keys_of, known_of, lost_file, pictures_of


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores of rated pictures by one head, or of one column.

    Attributes:
        name: the head's, else the column's; each once.
        source: where the scores, or the embeddings, are.
        column: that they stand in; None: made of embeddings.
        scores: (N,) float64, of each rated picture; NaN where there is none.
        seen: which of the rated pictures the head was trained on; None where there is no record of it.
        lost: the file of the head, where a record may have been, if it is not there any more.
    """

    name: str
    source: str
    column: str | None
    scores: Doubles
    seen: Seen | None = None
    lost: str | None = None


@dataclass(kw_only=True)
class Found:
    """What was found of N rated pictures.

    Attributes:
        scored: columns in the order of their sources, then heads.
        embedded: what the embeddings of the rated pictures say.
        remarks: what a summary says of matching and reading, in full sentences.
        ways: in which way how many rated pictures were found, in the first source (`Matched.ways`).
        missing: a line for each public head that cannot be had.
    """

    scored: list[Scored] = field(default_factory=list)
    embedded: Embedded = field(default_factory=Embedded)
    remarks: list[str] = field(default_factory=list)
    ways: Mapping[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def find_scored(ratings: Ratings, options: EvaluateOptions) -> Found:
    """Scores of the rated pictures by all that was named, and which of these pictures are near-duplicates.

    Raises:
        InputError: a source that is neither scores nor embeddings, ratings that match none of its pictures, a column that no
            source has, heads for other embeddings, or nothing that scores.
    """
    found = Found()
    has_scores = [_has_scores(source, options) for source in options.sources]
    tables = [source for source, known in zip(options.sources, has_scores, strict=True) if known]
    bare = [source for source, known in zip(options.sources, has_scores, strict=True) if not known]
    kept = [place for source in tables if (place := _add_columns(source, tables, ratings, options, found)) is not None]
    lost = [name for name in options.score_column if all(one.column != name for one in found.scored)]
    if lost:
        raise InputError(f"{' and '.join(tables) or bare[0]} has no column {lost[0]!r} (--score-column)")
    if options.head and not (bare or kept):
        raise InputError(
            f"{' and '.join(tables)} kept no embeddings, which --head is for; name embeddings as well, or give the pictures to "
            "beholder score again with --keep-embeddings"
        )
    if bare or kept:
        _add_heads(bare or (kept if options.head else kept[:1]), bool(bare), ratings, options, found)
    found.scored = [
        one if one.seen is None else replace(one, seen=replace(one.seen, name=one.name).with_sketches(found.embedded.sketched))
        for one in _told_apart(found.scored)
    ]
    if not found.scored:
        raise InputError("; ".join(["no head scores these embeddings: name one with --head", *found.missing]))
    return found


def _has_scores(source: str, options: EvaluateOptions) -> bool:
    """Whether a source is a set or table of scores; embeddings otherwise. Raises InputError for what is neither."""
    try:
        place = find_scores(source)
        names, record = _header(place.files[0])
    except BeholderError as error:
        if not _is_embeddings(source, f"{error}"):
            raise
        return False
    if place.record.get("score_columns") or record.get("score_columns"):
        return True
    if any(name in KNOWN_SCORE_COLUMNS or name in options.score_column for name in names):
        return True
    if _is_embeddings(source, None) and _has_vectors(source):
        return False
    with open_scores(source, sample_column=options.sample_column):  # says what is missing
        return True


def _header(path: str) -> tuple[list[str], dict[str, object]]:
    """Names of the columns of a table, and what it says about itself."""
    if is_csv(path):
        return header_of(path), {}
    with remote.read_errors(path), storage.open_parquet(path) as file:
        return file.schema_arrow.names, record_in(file.schema_arrow)


def _is_embeddings(source: str, why: str | None) -> bool:
    """Whether a source can be read as embeddings. Raises InputError for pictures, unless `why` it is no scores is None."""
    try:
        kind = detect([source], SourceOptions(), None)
    except BeholderError:
        return False
    if kind == "pictures" and why is not None:
        raise InputError(f"{source} holds pictures without scores; score them first: beholder score {source} --keep-embeddings")
    is_unknown = kind is None and why is not None and storage.exists(source)  # the reader of embeddings says what is wrong
    return kind == "embeddings" or is_unknown


def _has_vectors(source: str) -> bool:
    """Whether the reader of embeddings finds some."""
    try:
        find_parts([source], ReadOptions())
    except BeholderError:
        return False
    return True


def _add_columns(source: str, tables: Sequence[str], ratings: Ratings, options: EvaluateOptions, found: Found) -> str | None:
    """Add the scores of a set; where it kept embeddings, or None."""
    names, _ = _header(find_scores(source).files[0])
    wanted: list[str | None] = [name for name in options.score_column if name in names]
    kept, matched, named = None, None, keys_of(options.head)
    for column in wanted or [None]:
        with open_each_once(source, score_column=column, sample_column=options.sample_column) as scores:
            if matched is None:
                matched = _matched(ratings, scores, tables, found)
                found.remarks += [f"{note[:1].upper()}{note[1:]}." for note in scores.notes]
                kept = scores.embeddings
            for name in scores.score_columns:
                values = np.full(ratings.num_samples, np.nan)
                values[matched.places] = _values_at(scores, name, matched.rows)
                head = scores.head_names.get(name) or name
                key = HeadKey.of_record(scores.head_record(name))
                known, seen = known_of(key, *named), None
                if known is not None:
                    names = values_at(scores.samples(), matched.rows).to_pylist()
                    seen = Seen(name=head, known=known, pictures=pictures_of(ratings, matched, names))
                lost = lost_file(key, *named) if known is None else None
                found.scored.append(Scored(name=head, source=source, column=name, scores=values, seen=seen, lost=lost))
    return kept


def _matched(ratings: Ratings, scores: ScoreSet, tables: Sequence[str], found: Found) -> Matched:
    """Which row of the set each rated picture is."""
    try:
        matched = match_ratings(ratings, scores.samples)
    except InputError as error:
        raise InputError(f"{scores.source}: {error}" if len(tables) > 1 else f"{error}") from None
    found.ways = found.ways or matched.ways
    said = f"{scores.source}: " if len(tables) > 1 else ""
    found.remarks += [f"{said}{line}" for line in matched.lines()]
    return matched


def _values_at(scores: ScoreSet, column: str, rows: Numbers) -> Doubles:
    """Scores of rows, which ascend, as float64; NaN where there is none, or an infinite one."""
    some = values_at((batch.column(0) for batch in scores.batches([column])), rows).cast(pa.float64(), safe=False)
    values = pc.fill_null(some, np.nan).to_numpy()
    return np.where(np.isfinite(values), values, np.nan)


def _add_heads(places: Sequence[str], is_bare: bool, ratings: Ratings, options: EvaluateOptions, found: Found) -> None:
    """Add scores by heads on embeddings, and say which rated pictures are near-duplicates by them."""
    source = open_source(places, lambda: places[0])
    matched = match_ratings(ratings, source.names)
    found.ways = found.ways or matched.ways
    if is_bare:
        found.remarks += matched.lines()
    heads = _heads(source, is_bare, options, found)
    with tempfile.TemporaryDirectory(prefix="beholder-evaluate-") as scratch:
        read = source.read(matched.rows, Path(scratch))
        matrix = read.matrix
        usable, excluded = usable_rows(matrix, np.zeros(len(matrix)))
        if excluded:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in excluded.items())
            found.remarks.append(f"Embeddings of rated pictures that cannot be used: {reasons}.")
        at = matched.places[usable]
        similarity = options.near_duplicates
        found.embedded = Embedded.of(ratings.num_samples, at, matrix, usable, source.backbone, similarity)
        named = keys_of(options.head)
        for head in heads:
            values = np.full(ratings.num_samples, np.nan)
            values[at] = scores_of(head, matrix, usable)
            known = known_of(HeadKey.of_record(head.describe()), *named)
            seen = None
            if known is not None:
                seen = Seen(name=head.name, known=known, pictures=pictures_of(ratings, matched, read.names))
            found.scored.append(Scored(name=head.name, source=source.place, column=None, scores=values, seen=seen))


def _heads(source: EmbeddingSource, is_bare: bool, options: EvaluateOptions, found: Found) -> list[Head]:
    """The heads that were named, else, of embeddings alone, the public ones of the tower. Raises InputError."""
    heads = [load_head(name, offline=options.offline) for name in options.head]
    if not heads and is_bare:
        heads, found.missing = public_heads(source.backbone, source.dim, offline=options.offline)
    for head in heads:
        if head.dim != source.dim:
            raise InputError(f"{head.name} scores embeddings of {head.dim} numbers, and {source.place} has {source.dim}")
        if head.backbone and source.backbone and not same_backbone(head.backbone, source.backbone):
            raise InputError(f"{head.name} is for {head.backbone}, and the embeddings are of {source.backbone}")
    return heads


def _told_apart(scored: Sequence[Scored]) -> list[Scored]:
    """Names that are there more than once with what tells them apart: the column, else the source, else a number."""
    found = []
    for at, one in enumerate(scored):
        same = [other for other in scored if other.name == one.name]
        if len({other.column for other in same}) == len(same) > 1:
            more = one.column or one.source
        elif len({other.source for other in same}) == len(same) > 1:
            more = one.source
        elif len(same) > 1:
            more = f"{1 + sum(other.name == one.name for other in scored[:at])}"
        else:
            more = ""
        found.append(replace(one, name=f"{one.name} ({more})") if more else one)
    return found
