"""What advice says: two plain sentences, warnings about what makes a threshold mean something else, numbers as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from beholder.models.backbones import same_backbone
from beholder.models.published import LAION_EN, LANDMARKS, Landmark, canonical_head, published_share_at_least, published_shares

if TYPE_CHECKING:
    from beholder.curate.advise.representation import ColumnTable, Group
    from beholder.scoreset.numbers import ScoreStats
    from beholder.scoreset.score_set import ScoreSet

_VALUE_CHARACTERS = 60
_EMPTY = {"folder": "(no folder)", "word": "(no words)", "element": "(none in it)", "domain": "(no domain)"}

FEW_ROWS = 1000
"""Fewer scores leave the kept share of a quarter of them uncertain by 2.7 points and more (a Wilson interval of 95 %)."""

NOT_NORMALISED = 12.0
"""Means beyond this are of embeddings that were not divided by their length: 20 to 30 were met
(https://github.com/LAION-AI/aesthetic-predictor/issues/5)."""

_OUTSIDE_SHARE = 0.01
_OTHER_PIXELS = "https://github.com/christophschuhmann/improved-aesthetic-predictor/issues/12"


def percent(share: float) -> str:
    """A share for people: 51.2 %, 4.3 %, 0.026 %."""
    return f"{digits(share)} %"


def digits(share: float) -> str:
    """The same without the sign."""
    if share in (0.0, 1.0):
        return f"{100 * share:g}"
    return f"{100 * share:.1f}" if share >= 0.095 else f"{100 * share:#.2g}"


def published_percent(share: float) -> str:
    """A published share with the digits that were published."""
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.3g} %"


def threshold_text(threshold: float) -> str:
    """A threshold for people: 5.0, 5.25."""
    return f"{threshold:.1f}" if float(threshold).is_integer() and abs(threshold) < 1e6 else f"{threshold:.6g}"


def value_text(group: Group, kind: str) -> str:
    """What the rows of a group have in common, in one line, uncut."""
    return "NULL" if group.value is None else " ".join(group.value.split()) or _EMPTY.get(kind, "(empty)")


def cut(text: str, most: int, kind: str) -> str:
    """Text that is not too wide: of long folders and domains the end, which tells them apart."""
    if len(text) <= most:
        return text
    return f"…{text[len(text) + 1 - most :]}" if kind in ("folder", "domain") else f"{text[: most - 1]}…"


def kept_sentence(at: float | None, num_kept: int, num_scored: int, head: str | None, *, is_asked: bool = True) -> str:
    """What a threshold keeps and what that means. `is_asked`: whether the user named it; else it is an example."""
    if not num_scored or at is None:
        return "There are no scores, so no threshold keeps anything."
    example = "" if is_asked else ", for example"
    pictures = "picture stays" if num_scored == 1 else "pictures stay"
    text = f"At {threshold_text(at)}{example}, {num_kept:,} of {num_scored:,} {pictures}"
    if num_kept == num_scored:
        text += ": all of them, so this threshold drops nothing"
    elif not num_kept:
        text += ": no score is that high"
    else:
        text += f": the best {percent(num_kept / num_scored)}"
    laion = published_share_at_least(head, at) if head else None
    return text + (f"; of {LAION_EN}, {published_percent(laion)} score as high." if laion is not None else ".")


def hardest_hit(tables: Sequence[ColumnTable]) -> tuple[ColumnTable, Group] | None:
    """The group that clearly shrinks most, by the end of its ratio's interval that is nearer to 1; None: no group shrinks."""
    found = [(table, table.shrinking[0]) for table in tables if table.shrinking]
    return min(found, key=lambda pair: (pair[1].ratio_high or 0.0, pair[0].column), default=None)


def price_sentence(tables: Sequence[ColumnTable], num_kept: int, num_scored: int, *, is_priced: bool) -> str:
    """Which group pays most for a threshold, or that none clearly does; "" where nothing was compared."""
    if not is_priced or num_kept in (0, num_scored):
        return ""
    if not tables:
        return "No column has groups that could be compared."
    hit = hardest_hit(tables)
    if hit is not None:
        table, group = hit
        all_share = percent(num_kept / num_scored)
        value = cut(value_text(group, table.kind), _VALUE_CHARACTERS, table.kind)
        rows = f"{group.num_rows:,} stay" if group.num_rows > 1 else "1 stays"
        return (
            f"Pictures {_which(table, value)} are dropped most: {percent(group.share_kept)} of these {rows}, "
            f"against {all_share} of all."
        )
    if any(table.num_growing for table in tables):
        return "No group clearly shrinks; the table shows which ones grow."
    return "No group of pictures is clearly dropped more, or less, than the others."


def _which(table: ColumnTable, value: str) -> str:
    """Which pictures a group of a column is of."""
    column = table.column
    return {
        "folder": f"in the folder {value}",
        "value": f"whose {column} is {value}",
        "word": f"with the word {value!r} in {column}",
        "element": f"with {value} in {column}",
        "domain": f"from {value}",
    }.get(table.kind, f"of {column} {value}")


def warnings_about(
    scores: ScoreSet,
    column: str,
    head: str | None,
    stats: ScoreStats,
    num_rows: int,
    *,
    at: float | None,
    mark: Landmark | None,
    num_equal: int = 0,
) -> Iterator[str]:
    """Lines worth telling, the gravest first.

    Args:
        scores: the set.
        column: the scores in question.
        head: the head behind them: registry name, another name, or None.
        stats: of the scores.
        num_rows: rows, those without a score included.
        at: the threshold that the user thinks of, or None.
        mark: the landmark it was named by, or None.
        num_equal: rows whose score is that threshold, where the landmark dropped those.
    """
    yield from _about_range(stats)
    yield from _about_head(head)
    yield from about_other_scales(head, at, mark)
    if mark is not None and num_equal:
        rows = "the row that has" if num_equal == 1 else f"the {num_equal:,} rows that have"
        yield (
            f"{mark.name} kept scores above {mark.threshold:g} only; here, and by --min-score {mark.threshold:g}, "
            f"{rows} exactly {mark.threshold:g} stay as well; beholder select --min-score {mark.key} drops them"
        )
    yield from _about_pixels(scores, column, head)
    yield from _about_numbers(stats, num_rows, at)


def _about_range(stats: ScoreStats) -> Iterator[str]:
    """Scores that no head gives to embeddings made in the right way."""
    if not stats.count:
        return
    if abs(stats.mean) > NOT_NORMALISED:
        yield (
            f"the mean score is {stats.mean:.1f}: were the embeddings not normalised? Every head here needs rows of length 1; "
            "no threshold means anything on such scores (https://github.com/LAION-AI/aesthetic-predictor/issues/5)"
        )
        return
    if stats.count > 1 and stats.minimum == stats.maximum:
        yield f"all scores are {stats.minimum:g}: no threshold can tell these pictures apart"
    elif stats.minimum >= 0 and stats.maximum <= 1:
        yield "all scores are between 0 and 1: were they divided by 10, as Data-Juicer does? Published thresholds must be, too"
    outside = 1 - (stats.share_at_least(0.0) - stats.share_at_least(10.0078125))
    if outside > _OUTSIDE_SHARE:
        yield f"{outside:.1%} of the scores lie outside 0 to 10, where heads were trained; look at those pictures first"


def _about_head(head: str | None) -> Iterator[str]:
    """A head of which nothing is known."""
    if head is None:
        yield (
            "nobody says which head made these scores, so nothing published can be set beside them, and thresholds of others "
            "may be on another scale; if you know it, say --head NAME (beholder models list)"
        )
    elif not any(item.head == head for item in LANDMARKS) and not published_shares(head):
        yield (
            f"nothing is published for the head {head}: thresholds of other heads are on other scales and do not carry over "
            "(names of those that are known: beholder models list)"
        )


def about_other_scales(head: str | None, at: float | None, mark: Landmark | None) -> Iterator[str]:
    """A threshold that is known from another head."""
    if at is None:
        return
    if mark is not None:
        foreign = [mark] if mark.head != head else []
    else:
        same = [item for item in LANDMARKS if item.threshold == at and item.head == head]
        foreign = [item for item in LANDMARKS if item.threshold == at and item.head not in (head, None)]
        if len(same) >= len(foreign):  # more often cut there by this head than by others
            return
    if not foreign:
        return
    first = foreign[0]
    theirs, mine = first.head or "a head that its makers do not name", head or "a head that nobody names"
    more = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
    scale = "whose scale is another" if first.head and head else "whose scale may be another"
    line = f"{at:g} is where {first.name}{more} cut scores by {theirs}; these are by {mine}, {scale}"
    yield line + _translated(first, head)


def _translated(mark: Landmark, head: str | None) -> str:
    """Where about the same share of LAION-2B-en is kept by the other head; "" where that was not published."""
    if mark.head is None or head is None:
        return ""
    share = published_shares(mark.head).get(mark.threshold)
    points = sorted(published_shares(head).items())
    if share is None or not points:
        return ""
    kept = f": there it kept {100 * share:.2g} % of {LAION_EN}"
    above = [threshold for threshold, other in points if other >= share]
    below = [threshold for threshold, other in points if other < share]
    if above and below:
        return f"{kept}, which here lies between {above[-1]:g} and {below[0]:g}"
    return f"{kept}, which here lies {'above' if above else 'below'} {(above or below)[-1 if above else 0]:g}"


def _about_pixels(scores: ScoreSet, column: str, head: str | None) -> Iterator[str]:
    """Embeddings that were made in another way than those the published numbers are of."""
    from beholder.scoreset.score_set import KNOWN_SCORE_COLUMNS  # brings numpy, which the command's help does without

    record = scores.record
    pixels = record.get("pixels")
    if isinstance(pixels, Mapping) and pixels.get("preset") == "squash":
        yield (
            "the pictures were squashed to squares, not cropped (preset squash): their scores differ from those of cropped "
            "pictures, on which published thresholds were found (docs/pixels.md)"
        )
    backbone, needed = record.get("backbone"), _backbone_of(record, column)
    if isinstance(backbone, str) and needed and not same_backbone(backbone, needed):
        yield f"the embeddings are by {backbone}, the head was trained on those of {needed}: these scores mean nothing"
    elif "backbone" in record and needed and record.get("activation") not in (None, "quick_gelu") and canonical_head(head):
        activation = record["activation"]
        yield f"the tower was run with {activation}, the head was trained with quick_gelu: scores are off"
    if not record and KNOWN_SCORE_COLUMNS.get(column) is not None:
        yield (
            f"{column} was computed by others from other pixels: a picture's own score differs by up to about 0.7, so cut by "
            f"these scores or by your own, not by both ({_OTHER_PIXELS})"
        )


def _backbone_of(record: Mapping[str, Any], column: str) -> str | None:
    """The tower whose embeddings the head of a column needs, as the record tells it."""
    from beholder.scoreset.score_set import heads_recorded

    found = heads_recorded(record).get(column, {}).get("backbone")
    return found if isinstance(found, str) else None


def _about_numbers(stats: ScoreStats, num_rows: int, at: float | None) -> Iterator[str]:
    """Few scores, rows without one, thresholds that keep all or nothing."""
    if not stats.count:
        yield f"none of the {num_rows:,} rows has a score" if num_rows else "there are no rows (that meet the conditions)"
        return
    if num_rows > stats.count:
        yield f"{num_rows - stats.count:,} of {num_rows:,} rows have no score; they are in no count, and a selection drops them"
    if stats.count < FEW_ROWS:
        what = "1 score is" if stats.count == 1 else f"{stats.count:,} scores are"
        yield f"{what} few: shares are uncertain by several points, and only large differences between groups can be told"
    if at is not None and at > stats.maximum:
        yield f"nothing reaches {at:g}: the highest score is {stats.maximum:.3f}"
    elif at is not None and at <= stats.minimum:
        yield f"{at:g} keeps everything: the lowest score is {stats.minimum:.3f}"
