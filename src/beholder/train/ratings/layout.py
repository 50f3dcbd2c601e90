"""What the columns of a table of ratings mean, found out by their names, or said by options."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from beholder.columns import SAMPLE_COLUMN_NAMES
from beholder.errors import ChoiceNeededError, InputError
from beholder.io import schemas
from beholder.train.ratings.options import PAIR_COLUMNS, RATING_COLUMN, SAMPLE_COLUMN, RatingsOptions
from beholder.train.ratings.tables import RatingTable, numbers_of


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SAMPLES = (
    *(name.lower() for name in SAMPLE_COLUMN_NAMES[:-3]),
    *_words("image image_name img_name image_file imagepath img_path filename file filepath file_path picture photo name img"),
    *_words("image_id imageid img_id photo_id id url"),
)
"""Names of the column that names pictures, best first, in lower case."""
RATINGS = _words(
    "rating ratings score mos mean mean_score mean_rating avg average average_score average_rating rating_mean score_mean "
    "stars star aesthetic aesthetics aesthetic_score aesthetic_rating personal_score beauty beauty_score quality quality_score "
    "user_rating my_rating target label y value mark decision liked like keep"
)
RATERS = _words(
    "rater rater_id worker worker_id workerid user user_id userid annotator annotator_id labeler labeller labeler_id judge "
    "judge_id subject subject_id participant participant_id observer observer_id evaluator assessor performer completed_by uid "
    "assignment:worker_id"
)
COUNTS = _words(
    "count counts votes vote_count num_votes n_votes nvotes num_ratings n_ratings rating_count ratings_count c_total "
    "total_votes number_of_votes number_of_ratings num_raters n_raters n"
)
DEVIATIONS = _words(
    "std sd stdev stddev std_dev deviation standard_deviation rating_std std_rating score_std std_score mos_std sigma"
)
HISTOGRAM_FAMILIES = _words("score scores vote votes c count counts star stars n num bin hist histogram level p prob")
LISTS = _words("label labels votes histogram distribution hist dist scores ratings counts score rating score_distribution")
BETTER_AND_WORSE = (
    ("better", "worse"), ("winner", "loser"), ("chosen", "rejected"), ("preferred", "rejected"), ("win", "lose"),
    ("best", "worst"), ("better_image", "worse_image"), ("chosen_image", "rejected_image"), ("winner_image", "loser_image"),
)  # fmt: skip
SIDES = (
    ("left", "right"), ("a", "b"), ("image_a", "image_b"), ("img_a", "img_b"), ("sample_a", "sample_b"), ("path_a", "path_b"),
    ("file_a", "file_b"), ("photo_a", "photo_b"), ("embedding_a", "embedding_b"), ("first", "second"), ("image_1", "image_2"),
    ("image1", "image2"), ("img1", "img2"), ("img_1", "img_2"), ("left_image", "right_image"), ("image_left", "image_right"),
    ("sample_1", "sample_2"), ("path_1", "path_2"), ("file_1", "file_2"), ("photo_1", "photo_2"),
)  # fmt: skip
CHOICES = _words(
    "target winner label result choice chosen chosen_image preference preferred answer selected selection human_choice better"
)
PAIR_VOTES = _words("votes num_votes n_votes count weight strength preference_strength")
_FEWEST_LEVELS, _MOST_LEVELS = 3, 21
_FIRST_OF_TANET = 2
_MOST_LISTED = 12
_NUMBERED = re.compile(r"^(.*?)[_ -]?(\d{1,3})$")
_PREFIX = re.compile(r"^(input|output|assignment):", re.IGNORECASE)
"""Before the names of columns in Toloka's tables."""


@dataclass(frozen=True, kw_only=True)
class MeanLayout:
    """A rating in each row, of a picture or of a picture by a rater.

    Attributes:
        sample: column that names pictures; None: rows are pictures in the order of another file.
        rating: column with the rating.
        rater: column that says who rated, or None.
        count: column with the number of votes, or None.
        deviation: column with their standard deviation, or None.
    """

    sample: str | None
    rating: str
    rater: str | None = None
    count: str | None = None
    deviation: str | None = None


@dataclass(frozen=True, kw_only=True)
class HistogramLayout:
    """How many votes each number of stars got.

    Attributes:
        sample: column that names pictures; None: rows are pictures in the order of another file.
        columns: a column for each level, ascending, or one with lists.
        levels: what each column stands for; () for a list: 1 to its length.
        total: column with the number of all votes, or None.
        mean: column with the mean, or None.
        is_shifted: the numbers in the columns' names are one higher than what they stand for (TANet).
    """

    sample: str | None
    columns: tuple[str, ...]
    levels: tuple[float, ...]
    total: str | None = None
    mean: str | None = None
    is_shifted: bool = False


@dataclass(frozen=True, kw_only=True)
class PairsLayout:
    """Two pictures in each row.

    Attributes:
        first: column that names the one.
        second: column that names the other.
        choice: column that says which is better; None: the first is.
        votes: column with the number of votes or the strength, or None.
        side_votes: columns with the votes for the first and for the second, or None.
        is_assumed: nothing in the names says that the first is the better one.
    """

    first: str
    second: str
    choice: str | None = None
    votes: str | None = None
    side_votes: tuple[str, str] | None = None
    is_assumed: bool = False


Layout = MeanLayout | HistogramLayout | PairsLayout


def layout_of(table: RatingTable, options: RatingsOptions) -> Layout:
    """What the columns mean.

    Raises:
        ChoiceNeededError: several columns may hold the ratings, or none that can be told.
        InputError: a column that options name is not there.
    """
    names = _Columns(table)
    for asked in (
        options.rating_column, options.ratings_sample_column, options.rater_column, options.count_column,
        options.deviation_column, *options.pair_names,
    ):  # fmt: skip
        names.check(asked)
    kind = options.ratings_kind
    if kind == "pairs" or options.pair_columns is not None:
        return _pairs(names, options, is_asked=True) or _no_pairs(table)
    if kind == "auto" and options.rating_column is None and (found := _pairs(names, options, is_asked=False)) is not None:
        return found
    if kind == "histogram" or (kind == "auto" and options.rating_column is None):
        histogram = _histogram(names, options)
        if histogram is not None:
            return histogram
        if kind == "histogram":
            raise InputError(
                f"{table.named} has no histogram of votes: columns such as score1 ... score10 or c1 ... c5, or one with lists, "
                f"were expected; it has {_listed(table.schema.names)}"
            )
    return _mean(names, options)


class _Columns:
    """The columns of a table, found by their names in lower case."""

    def __init__(self, table: RatingTable) -> None:
        self.table = table
        self.names: list[str] = list(table.schema.names)
        self._by_word: dict[str, str] = {}
        for name in self.names:
            self._by_word.setdefault(_PREFIX.sub("", name.strip()).lower(), name)
            self._by_word.setdefault(name.strip().lower(), name)

    def check(self, asked: str | None) -> None:
        if asked is not None and asked not in self.names:
            raise InputError(f"{self.table.named} has no column {asked!r}; it has {_listed(self.names)}")

    def first(self, words: Iterable[str], but: Sequence[str | None] = ()) -> str | None:
        """The column with the first of these names that is there."""
        return next((name for word in words if (name := self._by_word.get(word)) is not None and name not in but), None)

    def all(self, words: Iterable[str], but: Sequence[str | None] = ()) -> list[str]:
        """Columns with any of these names."""
        found = (self._by_word.get(word) for word in words)
        return list(dict.fromkeys(name for name in found if name is not None and name not in but))

    def type_of(self, name: str) -> pa.DataType:
        return schemas.value_type(self.table.schema.field(name).type)

    def is_list(self, name: str) -> bool:
        return schemas.is_list(self.type_of(name))

    def is_plain(self, name: str) -> bool:
        """Whether a column holds single values: no lists, no structs, no bytes of pictures."""
        kind = self.type_of(name)
        return schemas.is_number(kind) or schemas.is_text(kind) or pa.types.is_boolean(kind)

    def holds_numbers(self, name: str) -> bool:
        """Whether most of what stands there is a number; of CSV that needs a look at the values."""
        if schemas.is_number(self.type_of(name)):
            return True
        if not schemas.is_text(self.type_of(name)):
            return False
        found = numbers_of(self.table.read([name]).column(0))
        known = ~found.is_missing
        return bool(known.any()) and int(found.is_text.sum()) * 2 < int(known.sum())


def _pairs(names: _Columns, options: RatingsOptions, *, is_asked: bool) -> PairsLayout | None:
    """Columns of pairs; None where there are none."""
    if options.pair_columns is not None:
        first, second = options.pair_names
        return _sided(names, options, first, second, is_named=True)
    for better, worse in BETTER_AND_WORSE:
        good, bad = names.first([better]), names.first([worse])
        if good is not None and bad is not None:
            return PairsLayout(first=good, second=bad, votes=options.count_column or names.first(PAIR_VOTES))
    for one, other in SIDES:
        left, right = names.first([one]), names.first([other])
        if left is not None and right is not None:
            found = _sided(names, options, left, right, is_named=False)
            if (
                is_asked
                or found.choice is not None
                or found.votes is not None
                or found.side_votes is not None
                or len(names.names) == 2
            ):
                return found
    return None


def _sided(names: _Columns, options: RatingsOptions, first: str, second: str, *, is_named: bool) -> PairsLayout:
    """Two pictures side by side, and what says which is better."""
    sides = [(names.first([f"votes_{one}", f"{one}_votes", f"wins_{one}", f"{one}_wins"])) for one in _ends(first, second)]
    if sides[0] is not None and sides[1] is not None:
        return PairsLayout(first=first, second=second, side_votes=(sides[0], sides[1]))
    choice = options.rating_column or names.first(CHOICES, but=(first, second))
    votes = options.count_column or names.first(PAIR_VOTES, but=(choice,))
    return PairsLayout(first=first, second=second, choice=choice, votes=votes, is_assumed=choice is None and not is_named)


def _ends(first: str, second: str) -> tuple[str, str]:
    """What is different in two names of columns: `a` and `b` of image_a and image_b."""
    one, other = (_PREFIX.sub("", name).lower() for name in (first, second))
    pieces = [(a, b) for a, b in zip(re.split(r"[_ -]", one), re.split(r"[_ -]", other), strict=False) if a != b]
    return pieces[0] if pieces else (one, other)


def _no_pairs(table: RatingTable) -> PairsLayout:
    raise InputError(
        f"{table.named} has no columns of pairs such as better, worse or left, right; name them with {PAIR_COLUMNS} "
        f"BETTER,WORSE (it has {_listed(table.schema.names)})"
    )


def _histogram(names: _Columns, options: RatingsOptions) -> HistogramLayout | None:
    """Columns with votes by level; None where there are none."""
    families: dict[str, list[tuple[int, str]]] = {}
    for name in names.names:
        match = _NUMBERED.match(name.strip().lower())
        if match is not None and (match[1] in HISTOGRAM_FAMILIES or not match[1]) and not names.is_list(name):
            families.setdefault(match[1], []).append((int(match[2]), name))
    usable = []
    for members in families.values():
        members.sort()
        numbers = [number for number, _ in members]
        if _FEWEST_LEVELS <= len(members) <= _MOST_LEVELS and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            usable.append(members)
    if len(usable) > 1:
        shown = " or ".join(f"{members[0][1]} ... {members[-1][1]}" for members in usable)
        raise ChoiceNeededError(f"{names.table.named}: which columns are the histogram of votes, {shown}? Leave the others out")
    if usable:
        members = usable[0]
        columns, first = tuple(name for _, name in members), members[0][0]
        is_shifted = first == _FIRST_OF_TANET
        levels = tuple(float(number - is_shifted) for number, _ in members)
        sample = _sample(names, options, columns)
        return HistogramLayout(
            sample=sample,
            columns=columns,
            levels=levels,
            total=names.first(("c_total", "total", "total_votes", "num_votes"), but=(sample,)),
            mean=names.first(("mos", "mean", "mean_score"), but=(sample,)),
            is_shifted=is_shifted,
        )
    lists = [name for name in names.all(LISTS) if names.is_list(name)]
    if len(lists) == 1:
        return HistogramLayout(sample=_sample(names, options, lists), columns=(lists[0],), levels=())
    if len(lists) > 1:
        raise _ask(names.table.named, lists)
    return None


def _mean(names: _Columns, options: RatingsOptions) -> MeanLayout:
    """Columns of one rating a row. Raises ChoiceNeededError."""
    plain = [name for name in names.names if names.is_plain(name)]
    rater = options.rater_column or (names.first(RATERS) if options.ratings_kind != "mean" else None)
    if options.ratings_kind == "raters" and rater is None:
        raise ChoiceNeededError(
            f"{names.table.named}: which column says who rated? Name it with --rater-column: {_listed(plain)}"
        )
    taken = (rater, options.rating_column, *(name for name in names.names if name not in plain))
    count = options.count_column or (names.first(COUNTS, but=taken) if rater is None else None)
    deviation = options.deviation_column or names.first(DEVIATIONS, but=taken)
    used = [rater, count, deviation]
    rating = options.rating_column
    if rating is None:
        found = [name for name in names.all(RATINGS, but=used) if name in plain]
        sample = _sample(names, options, [*found, *used], is_needed=False)
        if not found:
            found = [name for name in plain if name not in (*used, sample) and names.holds_numbers(name)]
        if len(found) != 1:
            raise _ask(names.table.named, found or [name for name in plain if name != sample])
        rating = found[0]
    return MeanLayout(
        sample=_sample(names, options, [rating, *used]), rating=rating, rater=rater, count=count, deviation=deviation
    )


def _sample(names: _Columns, options: RatingsOptions, used: Sequence[str | None], *, is_needed: bool = True) -> str | None:
    """The column that names pictures; None where rows belong to pictures by their place. Raises ChoiceNeededError."""
    if options.ratings_sample_column is not None:
        return options.ratings_sample_column
    found = next((name for name in names.all(SAMPLES, but=used) if names.is_plain(name)), None)
    if found is not None or not is_needed:
        return found
    texts = [
        name
        for name in names.names
        if name not in used and schemas.is_text(names.type_of(name)) and not names.holds_numbers(name)
    ]
    if len(texts) == 1:
        return texts[0]
    if any(names.is_list(name) and name not in used for name in names.names):
        return None
    others = [name for name in names.names if name not in used and names.is_plain(name)]
    raise ChoiceNeededError(
        f"{names.table.named}: which column names the pictures? Name it with {SAMPLE_COLUMN}"
        + (f": {_listed(others)}" if others else "; it has none beside the ratings")
    )


def _ask(named: str, found: Sequence[str]) -> ChoiceNeededError:
    if not found:
        return ChoiceNeededError(f"{named} has no column with ratings")
    return ChoiceNeededError(f"{named}: which column holds the ratings? Name it with {RATING_COLUMN}: {_listed(found)}")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_LISTED])
    return shown if len(names) <= _MOST_LISTED else f"{shown}, ... ({len(names)} in all)"
