"""The HTML page about scores: collected, drawn and written as one file."""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from beholder import __version__
from beholder.errors import InputError, OutputError
from beholder.io import locations, storage, writing
from beholder.io.overwriting import is_read
from beholder.locate.locate import PictureFinder
from beholder.models.download import is_offline
from beholder.options import take_old_names
from beholder.pixels.picture import PictureError
from beholder.reporting.charts import NO_BREAK, digits_apart, number, percent
from beholder.reporting.contents import Contents, gather, provenance
from beholder.reporting.heads import thin_out
from beholder.reporting.options import ReportOptions
from beholder.reporting.page import check_is_html, made_at, page_name, render
from beholder.reporting.pictures import CardMaker, NoPicture, Thumbnails, find_places, load_thumbnails
from beholder.scoreset.foreign import as_source, texts_of
from beholder.scoreset.row_names import open_each_once
from beholder.sources.fetch import ReadLimits, read_bytes

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_BYTES = 256 << 20
"""Larger files are not read for a thumbnail."""
_THINNER = "Fewer pictures of each bucket are shown than were asked for, to keep this page small; --max-size allows more."
_MARKUP_BYTES = 420
"""About so many bytes of the page go with each picture, beyond those of its thumbnail."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is (0: unknown)."""


@dataclass(frozen=True, kw_only=True)
class ReportSummary:
    """What was written.

    Attributes:
        output: the file.
        num_bytes: of it.
        num_rows: rows of the set in all, those that name a sample again included.
        num_rows_that_meet: rows that meet the conditions, each sample once; the page is about these.
        where: the conditions.
        num_scored: rows with a finite score, by the score column that has most.
        num_scored_by_column: score column -> rows with a finite score.
        num_rejected: rows that were read and not scored, of the whole set.
        num_pictures: pictures that the page shows by name.
        num_thumbnails: of these, the ones it shows as a picture.
        missing: why there is no thumbnail -> how many pictures.
        thumbnail_px, thumbnail_quality: size and quality of thumbnails; 0 without any.
        picture_column: the column that said where the pictures are; None: the rows' names did.
        seconds: how long it took.
        notes: lines about how the page was made.
        warnings: lines worth telling.
    """

    output: str
    num_bytes: int
    num_rows: int
    num_rows_that_meet: int
    num_scored: int
    num_scored_by_column: dict[str, int]
    num_rejected: int
    num_pictures: int
    num_thumbnails: int
    where: tuple[str, ...] = ()
    missing: dict[str, int] = field(default_factory=dict)
    thumbnail_px: int = 0
    thumbnail_quality: int = 0
    picture_column: str | None = None
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def write_report(
    options: ReportOptions,
    *,
    table: pa.Table | None = None,
    arguments: list[str] | None = None,
    on_progress: Progress | None = None,
) -> ReportSummary:
    """Write the page.

    Args:
        options: see `ReportOptions`.
        table: the scores, in place of `options.scores`.
        arguments: the command line, for the page's provenance.
        on_progress: told what is being done.

    Raises:
        InputError: scores, selection or groups that cannot be read.
        OutputError: the file is there already, or cannot be written.
        BeholderError: no process can be started to decode pictures in.
    """
    started = time.perf_counter()
    out = _checked_output(options)
    _check_places(options)

    def say(text: str) -> None:
        if on_progress is not None:
            on_progress(text, 0, 0)

    named = {"score_column": options.score_column, "sample_column": options.sample_column}
    source: Any = table if table is not None else options.scores
    with (
        tempfile.TemporaryDirectory(prefix="beholder-report-") as scratch,
        open_each_once(source, options.repeated, num_threads=options.threads or 1, **named) as whole,
    ):
        contents = gather(whole, options, Path(scratch), say)
        scores = contents.scores
        most = options.max_size if options.no_thumbnails else options.max_size // 2
        page, thumbnails = _thinned_out(contents, None, options, arguments, most), None
        if not options.no_thumbnails:
            thumbnails = _thumbnails(contents, options, len(page), on_progress)
            say("writing the page")
            page = _thinned_out(contents, thumbnails, options, arguments, options.max_size)
        writing.write_bytes(out, page)
        shown = set(contents.addresses())
        failed = thumbnails.failed if thumbnails is not None else {}
        reasons = [failure.reason for failure in failed.values()]
        return ReportSummary(
            output=out,
            num_bytes=len(page),
            num_rows=contents.num_rows_of_set,
            num_rows_that_meet=scores.num_rows,
            where=contents.where,
            num_scored=max((head.num_scored for head in contents.heads), default=0),
            num_scored_by_column={head.column: head.num_scored for head in contents.heads},
            num_rejected=contents.num_rejected,
            num_pictures=len(shown),
            num_thumbnails=len(shown & thumbnails.found.keys()) if thumbnails is not None else 0,
            missing={reason: reasons.count(reason) for reason in sorted(set(reasons))},
            thumbnail_px=thumbnails.longest_px if thumbnails is not None and thumbnails.found else 0,
            thumbnail_quality=thumbnails.quality if thumbnails is not None and thumbnails.found else 0,
            picture_column=contents.picture_column.name if contents.picture_column is not None else None,
            notes=[contents.picture_column.note] if contents.picture_column is not None else [],
            seconds=time.perf_counter() - started,
            warnings=contents.notes,
        )


def _checked_output(options: ReportOptions) -> str:
    """Where the page goes. Raises OutputError where it may not be written."""
    out = options.out or page_name(options.scores, "report")
    if storage.exists(out) and not options.overwrite:
        raise OutputError(f"{out} exists; name another file, or replace it with --overwrite")
    if storage.exists(out) and is_read(
        out, (options.scores, options.decisions, options.groups, *options.join, *options.pictures)
    ):
        raise OutputError(f"{out} is what the page is made of; name another file")
    check_is_html(out)
    return out


def _check_places(options: ReportOptions) -> None:
    """Refuse places of pictures that are not there: they are looked at last. Raises InputError."""
    for flag, places in (("--pictures", options.pictures), ("--root", (options.root,) if options.root is not None else ())):
        for place in places:
            is_pattern = storage.is_glob(place) or "{" in place
            if locations.is_local(place) and not is_pattern and not storage.exists(place):
                raise InputError(f"{flag} {place} does not exist; name the folder or file that holds the pictures now")


def _last_part(source: str) -> str:
    """The name of a file or folder without its place; a pattern as it is."""
    return source if storage.is_glob(source) else PurePosixPath(source.split("?", 1)[0].rstrip("/")).name or source


def _thinned_out(
    contents: Contents,
    thumbnails: Thumbnails | None,
    options: ReportOptions,
    arguments: list[str] | None,
    most_bytes: int,
) -> bytes:
    """The page, after leaving pictures out until it has so many bytes at most, or until there is nothing to leave out."""
    while len(page := _page(contents, thumbnails, options, arguments)) > most_bytes:
        if not sum(thin_out(head) for head in contents.heads):
            break
        if _THINNER not in contents.notes:
            contents.notes.append(_THINNER)
    return page


def _thumbnails(
    contents: Contents,
    options: ReportOptions,
    bare: int,
    on_progress: Progress | None,
) -> Thumbnails | None:
    """Thumbnails that fit the page; None where pictures cannot be looked up at all, which the page then says."""
    uses: dict[str, int] = {}
    for address in contents.addresses():
        uses[address] = uses.get(address, 0) + 1
    if not uses:
        return Thumbnails()
    room = (options.max_size - bare - _MARKUP_BYTES * sum(uses.values())) * 3 // 4
    limits = ReadLimits(max_bytes=_MOST_BYTES, timeout_s=options.timeout, num_tries=2)

    def counting(text: str) -> Callable[[int], None]:
        done = 0

        def advanced(count: int) -> None:
            nonlocal done
            done += count
            if on_progress is not None:
                on_progress(text, done, len(uses))

        return advanced

    try:
        with PictureFinder(
            contents.scores.record,
            pictures=options.pictures,
            root=options.root,
            offline=is_offline(options.offline),
            addresses=contents.picture_column is not None,
        ) as finder:
            seeking = counting("looking for pictures")
            refs = find_places(finder.find, list(uses), max_time_s=options.max_time, on_progress=seeking)
            return load_thumbnails(
                lambda name: read_bytes(refs[name], limits),
                uses,
                max_bytes=max(0, room),
                timeout_s=options.timeout,
                threads=options.threads,
                on_progress=counting("reading pictures"),
            )
    except PictureError:
        raise
    except InputError as error:
        if options.pictures or options.root is not None:
            raise
        contents.notes.append(f"No pictures are shown: {error}. Name where they are now with --pictures or --root.")
        return None


def _page(
    contents: Contents,
    thumbnails: Thumbnails | None,
    options: ReportOptions,
    arguments: list[str] | None,
) -> bytes:
    """The page, rendered."""
    scores = contents.scores
    maker = CardMaker(
        [head.name for head in contents.heads],
        contents.facts,
        thumbnails,
        contents.kept,
        contents.dropped_by,
        no_address=NoPicture(*(contents.picture_column.missing().error or ("", ""))) if contents.picture_column else None,
    )
    heads = [_head_view(head, maker) for head in contents.heads]
    groups = _group_view(contents, maker)
    notes = [*contents.notes, *_thumbnail_notes(thumbnails)]
    made = made_at()
    extra = [
        ("made", made),
        ("beholder", __version__),
        ("command", shlex.join(["beholder", *arguments]) if arguments else "beholder.report(...)"),
        ("seed", str(options.seed)),
    ]
    if thumbnails is not None and thumbnails.found:
        extra.append(
            ("thumbnails", f"{len(thumbnails.found):,}, at most {thumbnails.longest_px} pixels, quality {thumbnails.quality}")
        )
    if options.join:
        extra.insert(3, ("joined", ", ".join(options.join)))
    return render(
        "report.html.j2",
        {
            "version": __version__,
            "title": options.title or f"Aesthetic scores of {_last_part(scores.source)}",
            "made": made,
            "tiles": _tiles(contents),
            "notes": notes,
            "num_rows": scores.num_rows,
            "num_rows_of_set": contents.num_rows_of_set,
            "where": contents.where,
            "num_read": contents.num_read,
            "num_rejected": contents.num_rejected,
            "scores_known": bool(scores.record),
            "heads": heads,
            "lead": _lead(contents),
            "decisions": contents.decisions,
            "border_words": _border_words(contents),
            "groups": groups,
            "picture_note": contents.picture_column.note if contents.picture_column is not None else "",
            "has_pictures": thumbnails is not None and bool(thumbnails.found),
            "rejects": contents.rejects,
            "provenance": provenance(scores, extra),
            "pictures": maker.pictures,
        },
        scripts=("page.js", "report.js"),
    )


def _head_view(head: Any, maker: CardMaker) -> Any:
    """The section with cards in place of rows."""
    scores = [score for row in (*head.above, *head.below) if (score := maker.rows[row].scores[head.index]) is not None]
    digits = digits_apart([*scores, *([head.threshold] if head.threshold is not None else [])])
    cards = {name: maker.cards(getattr(head, name), head.index) for name in ("best", "worst", "lost")}
    cards |= {name: maker.cards(getattr(head, name), head.index, digits) for name in ("above", "below")}
    buckets = [replace(bucket, rows=maker.cards(bucket.rows, head.index)) for bucket in head.buckets]
    return replace(head, **cards, buckets=buckets)


def _group_view(contents: Contents, maker: CardMaker) -> dict[str, Any] | None:
    """Near-duplicate groups with cards; those of names that the set lacks have no scores."""
    groups = contents.groups
    if groups is None:
        return None
    shown, unknown = [], 0
    for group in groups.shown:
        cards = []
        for member in group.members:
            facts = contents.member_facts(member)
            if facts.row < 0:
                unknown += 1
                facts = replace(facts, row=-unknown)
            label = f"{facts.scores[0]:.3f}" if facts.scores and facts.scores[0] is not None else "no score"
            tag = "stays" if member.is_kept else "goes"
            if member.similarity is not None and not member.is_kept:
                tag += f", {member.similarity:.3f} alike"
            cards.append(maker.card(facts, 0, label=label, tag=tag, is_kept=member.is_kept))
        shown.append({"size": group.size, "cards": cards})
    return {
        "source": groups.source,
        "num_groups": groups.num_groups,
        "num_pictures": groups.num_pictures,
        "num_dropped": groups.num_dropped,
        "shown": shown,
    }


def _lead(contents: Contents) -> list[tuple[str, str]]:
    """(head, sentence) that the page opens with; of the selection, or where there is one head, without the head's name."""
    heads = contents.heads
    lines = [(head.name, [sentence.replace(" %", f"{NO_BREAK}%") for sentence in head.lead]) for head in heads]
    found = (
        [("", sentence) for sentence in lines[0][1]] if len(lines) == 1 else [(name, " ".join(said)) for name, said in lines]
    )
    if contents.decisions is None:
        return found
    kept, total = contents.decisions.num_kept, contents.scores.num_rows
    sentence = f"The selection keeps {kept:,} of {total:,} pictures{f': {percent(kept / total)}' if total else ''}."
    return [("", sentence), *found]


def _tiles(contents: Contents) -> list[tuple[str, str]]:
    """(number, what it is) at the head of the page."""
    num_rows = contents.scores.num_rows
    scored = (f"{max((h.num_scored for h in contents.heads), default=0):,}", "scored")
    tiles = [(f"{contents.num_read:,}", "read"), scored, (f"{contents.num_rejected:,}", "rejected")]
    if contents.where:
        tiles = [(f"{num_rows:,}", f"of {contents.num_rows_of_set:,} rows meet the conditions"), scored]
    first = contents.heads[0]
    texts = dict(first.summary)
    if len(contents.heads) == 1:
        tiles += [
            (texts[label], words)
            for label, words in (("mean", "mean score"), ("sd", "standard deviation"), ("median", "median"))
        ]
        if first.is_chosen and first.threshold is not None and first.num_scored:
            words = f"{first.num_kept:,} kept at {number(first.threshold)} or more"
            words += f"; LAION-2B-en {first.share_laion}" if first.share_laion else ""
            tiles.append((first.share_kept, words))
    else:
        tiles.append((str(len(contents.heads)), "heads"))
    if contents.decisions is not None:
        kept = contents.decisions.num_kept
        tiles.append((f"{kept:,}", f"kept by the selection ({percent(kept / num_rows if num_rows else 0)})"))
    return tiles


def _border_words(contents: Contents) -> str:
    """What the border of a selection is, or "" for that of a threshold."""
    if contents.decisions is None or not contents.kept:
        return ""
    return (
        "The lowest-ranked pictures that the selection kept, beside the best-ranked ones that its rules about scores and "
        "numbers dropped."
    )


def _thumbnail_notes(thumbnails: Thumbnails | None) -> Sequence[str]:
    """What is to be said about pictures that are not shown."""
    if thumbnails is None:
        return ()
    notes = []
    gone = [failure for failure in thumbnails.failed.values() if failure.reason != "left_out"]
    total = len(thumbnails.failed) + len(thumbnails.found)
    if gone:
        counts = {reason: sum(item.reason == reason for item in gone) for reason in sorted({item.reason for item in gone})}
        told = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.items())
        notes.append(f"{len(gone):,} of the {total:,} pictures chosen for this page could not be shown: {told}.")
        if counts.keys() & {"missing", "unreadable"}:
            notes[-1] += (
                " If they were moved, name where they are now with --pictures or --root; if a column has their paths or URLs, "
                "name it with --picture-column."
            )
    if thumbnails.num_left_out:
        notes.append(f"{thumbnails.num_left_out:,} pictures are left out to keep this page small; --max-size allows more.")
    return notes


def report(
    scores: Any, out: str | os.PathLike[str] = "report.html", *, on_progress: Progress | None = None, **options: Any
) -> ReportSummary:
    """Write one self-contained HTML page about scores.

    Args:
        scores: what `beholder score` wrote, or any Parquet or CSV file with a column of scores, a folder or glob of them; or a
            polars, pandas or Arrow table.
        out: the HTML file.
        on_progress: called with (what is being done, how much is done, how much there is; 0: unknown).
        options: those of `beholder report`, by the names of `ReportOptions`: min_score, decisions, groups, per_bucket,
            pictures, root, no_thumbnails, group_by, where, join, title, max_size, overwrite, ... Their former names (at,
            selection, columns) are taken, too.

    Raises:
        TypeError: no such option, or scores of another kind.
        InputError: scores, decisions or groups that cannot be read.
        OutputError: the file is there already, or cannot be written.
    """
    options = take_old_names(options, ReportOptions, "report")
    known = {item.name for item in fields(ReportOptions)} - {"scores", "out"}
    unknown = next((name for name in options if name not in known), None)
    if unknown is not None:
        raise TypeError(f"report() has no option {unknown!r}; there are {', '.join(sorted(known))}")
    for name in ("pictures", "group_by", "where", "join"):
        if name in options:
            options[name] = texts_of(options[name], name, "report")
    for name in ("decisions", "groups", "root"):
        if options.get(name) is not None:
            options[name] = os.fspath(options[name])
    if options.get("min_score") is not None:
        options["min_score"] = str(options["min_score"])
    given, _ = as_source(scores, "report")
    is_place = isinstance(given, str)
    made = ReportOptions(scores=given if is_place else "scores", out=os.fspath(out), **options)
    return write_report(made, table=None if is_place else given, on_progress=on_progress)
