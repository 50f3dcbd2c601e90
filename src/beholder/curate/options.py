"""Every option of `select`, of `advise` and of acts on files, with its default, and the checks of what goes together."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, fields
from fractions import Fraction
from numbers import Real
from typing import Any, ClassVar, Literal, get_args

from beholder.curate.shares import parse_labels, parse_share, parse_stars
from beholder.errors import InputError
from beholder.models.published import Threshold, read_threshold
from beholder.options import (
    all_cores,
    check_choices,
    check_threads,
    join_option,
    option,
    picture_column_option,
    repeated_option,
    threads_option,
    where_option,
)

Action = Literal["copy", "link", "symlink", "move", "tars", "hf-parquet", "xmp"]
ACTIONS: tuple[Action, ...] = get_args(Action)
SHARDED = ("tars", "hf-parquet")
XMP: Action = "xmp"
INTO_FOLDERS = tuple(action for action in ACTIONS if action != XMP)
"""Acts that make files in a folder that is named."""
ACTION_FLAGS = "--copy, --link, --symlink, --move, --tars, --hf-parquet or --xmp"
DARKTABLE, ADOBE = "darktable", "adobe"
"""How a new sidecar of a.jpg is named: a.jpg.xmp (darktable, digiKam, Immich), or a.xmp (Adobe's programs, Capture One)."""
TAR_COUNT, TAR_BYTES = 10_000, 1_000_000_000
"""Pictures and bytes of a tar, as img2dataset and webdataset have it."""
PARQUET_BYTES = 500_000_000
"""Of a Parquet file, as Hugging Face's `push_to_hub` has it."""


def pictures_option() -> Any:
    """The field for where pictures are now."""
    text = "Where the pictures are, if not where they were scored; as many as were scored take their places (repeatable)."
    return option((), text, flag=("--pictures",))


def root_option() -> Any:
    """The field for the folder of relative names."""
    return option(None, "The folder that relative names of pictures count from.")


@dataclass(frozen=True, kw_only=True)
class StarOptions:
    """Flags of stars and labels in XMP sidecars. Without `apply` none is touched; pictures never are."""

    PANEL: ClassVar[str] = "Stars for photo programs (only with --apply)"

    xmp: bool = option(
        False,
        "Write stars by rank into the XMP sidecars of the kept pictures (of all that have scores, where no rule is given); "
        "all else in a sidecar stays, and pictures are never written to.",
    )
    xmp_stars: str = option(
        "5%,15%,30%,30%,20%",
        "--xmp: the shares of the kept pictures that get 5, 4, 3, 2 and 1 stars, the best first; what fewer shares leave over "
        "gets nothing; none writes no stars.",
    )
    xmp_labels: str | None = option(
        None, "--xmp: colour labels and their shares, the best first, e.g. Green=10%,Yellow=20%, in the program's own words."
    )
    xmp_rejected: bool = option(
        False,
        "--xmp: give -1 (rejected) to what was dropped by score or rank: --marks, --min-score, --quantile, --dedup, --balance, "
        "--top, --top-share, --budget.",
    )
    xmp_replace: bool = option(False, "--xmp: replace stars and labels that pictures have already; else these stay.")
    xmp_names: Literal["darktable", "adobe"] = option(
        DARKTABLE,
        "--xmp: how a new sidecar of a.jpg is named: a.jpg.xmp (darktable, digiKam), or a.xmp (Adobe, Capture One); one that "
        "is there is used.",
        choices=(DARKTABLE, ADOBE),
    )

    @property
    def star_shares(self) -> list[tuple[int, Fraction]]:
        """Stars and the share that gets them, the best first. Raises InputError."""
        return parse_stars(self.xmp_stars)

    @property
    def label_shares(self) -> list[tuple[str, Fraction]]:
        """Labels and the share that gets them, the best first. Raises InputError."""
        return [] if self.xmp_labels is None else parse_labels(self.xmp_labels)

    def check_stars(self) -> None:
        """Raise InputError for flags that mean nothing."""
        check_choices(self)
        if not self.xmp:
            for item in fields(StarOptions):
                if getattr(self, item.name) != item.default:
                    raise InputError(f"--{item.name.replace('_', '-')} is for --xmp, which is not given")
        elif not (self.star_shares or self.label_shares or self.xmp_rejected):
            raise InputError("--xmp-stars none leaves nothing to write; add --xmp-labels or --xmp-rejected")


@dataclass(frozen=True, kw_only=True)
class ActionOptions(StarOptions):
    """Flags of everything that touches files. Without `apply` nothing is touched."""

    PANEL: ClassVar[str] = "Files of the kept pictures (only with --apply)"

    copy: str | None = option(None, "Copy them into this folder; folders below the source stay as they are.")
    link: str | None = option(None, "The same with hard links, which take no space (same disk only).")
    symlink: str | None = option(None, "The same with symbolic links.")
    move: str | None = option(None, "Move them into this folder; `beholder undo` brings them back.")
    tars: str | None = option(
        None,
        "Pack them into webdataset tars: original bytes and names, .json and .txt members, a table of scores beside.",
    )
    hf_parquet: str | None = option(None, "Pack them into Parquet files with an image column, as Hugging Face has it.")
    shard_count: int | None = option(None, "Most pictures in a tar or Parquet file.", shown="10000 in tars", least=1)
    shard_bytes: int | None = option(
        None, "Most bytes of pictures in a tar or Parquet file.", read="bytes", shown="1GB in tars, 500MB in Parquet"
    )
    caption_column: str | None = option(
        None,
        "--tars, --hf-parquet: the column of the scores (or of --join) whose text is the caption of each picture: its .txt "
        "member in tars, the column text in Parquet.",
    )
    sidecars: bool = option(
        True, "Whether files of the same name (cat.txt, cat.json beside cat.jpg) go with the picture.",
        flag=("--sidecars/--no-sidecars",),
    )  # fmt: skip
    apply: bool = option(False, "Do it. Without this flag only show what would happen.")
    journal: str | None = option(
        None,
        "Where the journal of an act is written.",
        flag=("--journal-out",),
        shown="DIR.journal.jsonl beside the folder; of --xmp SCORES.xmp.journal.jsonl",
        old=("--journal",),
    )
    pictures: tuple[str, ...] = pictures_option()
    root: str | None = root_option()
    picture_column: str | None = picture_column_option()

    @property
    def action(self) -> tuple[Action, str] | None:
        """What to do, and the folder to do it in; None: nothing. Raises InputError when flags do not fit together.

        Stars are written beside the pictures, so that their folder is "".
        """
        self.check_stars()
        given = ((action, getattr(self, action.replace("-", "_"))) for action in INTO_FOLDERS)
        chosen = [(action, folder) for action, folder in given if folder is not None]
        if self.xmp:
            chosen.append((XMP, ""))
        if len(chosen) > 1:
            raise InputError(f"--{chosen[0][0]} and --{chosen[1][0]}: choose one at a time")
        if not chosen:
            idle = next((flag for flag, value in (("--apply", self.apply), ("--journal-out", self.journal)) if value), None)
            if idle is not None:
                raise InputError(f"{idle} needs one of {ACTION_FLAGS}")
        elif not chosen[0][1] and chosen[0][0] != XMP:
            raise InputError(f"--{chosen[0][0]} needs the name of a folder (an unset variable?)")
        is_sharded = bool(chosen) and chosen[0][0] in SHARDED
        if (self.shard_count or self.shard_bytes) and not is_sharded:
            raise InputError("--shard-count and --shard-bytes are for --tars and --hf-parquet")
        if self.caption_column is not None and not is_sharded:
            raise InputError("--caption-column is for --tars and --hf-parquet")
        if self.picture_column is not None and not chosen:
            raise InputError(f"--picture-column is for {ACTION_FLAGS.replace(' or ', ' and ')}")
        return chosen[0] if chosen else None


@dataclass(frozen=True, kw_only=True)
class AdviseOptions:
    """What to advise on, and how scores are read."""

    PANEL: ClassVar[str] = "Advice"

    scores: str
    min_score: str | None = option(
        None,
        "The threshold in question: a number, or a landmark (sd-v1, laion-5plus, ...); which groups it drops most is shown.",
        shown="the one that keeps most nearly 25 %",
        old=("--at",),
        old_names=("at",),
    )
    grid: tuple[float, ...] = option(
        (),
        "A threshold of the table (repeatable).",
        shown="half and quarter points around the scores",
        old=("--threshold",),
        old_names=("thresholds",),
    )
    group_by: tuple[str, ...] = option(
        (),
        "A metadata column whose groups are compared (repeatable).",
        shown="all that can be grouped",
        old=("--column",),
        old_names=("columns",),
    )
    price: bool = option(True, "Compare groups, or only read the scores.", flag=("--price/--no-price",))
    groups_shown: int = option(4, "Groups of a column to show from each end.", least=1, old=("--groups",))
    where: tuple[str, ...] = where_option()
    join: tuple[str, ...] = join_option()
    score: str | None = option(None, "The score to go by, where there are several: a column or its head's name.")
    head: str | None = option(None, "The head that made the scores, where the set does not say, e.g. laion-v2.")
    repeated: str = repeated_option()
    score_column: str | None = option(None, "Which column holds scores, in other tools' tables.", shown="found by its name")
    sample_column: str | None = option(None, "Which column names the rows.", shown="found by its name")
    memory: int = option(2_000_000_000, "About how much memory may be taken.", read="bytes", shown="2GB")
    num_threads: int | None = threads_option()


DedupMethod = Literal["auto", "exact", "approximate"]
DEDUP_METHODS: tuple[DedupMethod, ...] = get_args(DedupMethod)
EXACT_BYTES = "exact-bytes"
"""What `dedup` is, in place of a similarity, where pictures are told to be the same by the bytes of their files."""
SCORE, PIXELS, BYTES, OLDEST = "score", "pixels", "bytes", "oldest"
KEEP_WORDS = (SCORE, PIXELS, BYTES, OLDEST)
"""What `dedup_keep` may be but for an expression."""
SMALLEST_MEMORY = 256_000_000
_ONE_OF = "--top, --top-share, --draw"


@dataclass(frozen=True, kw_only=True)
class RuleOptions:
    """Which rows stay. The rules work in the order in which they stand in `row_mask.RULES`."""

    PANEL: ClassVar[str] = "Which pictures stay"

    min_score: float | str | None = option(
        None, "Keep scores of at least this: a number, or a landmark (sd-v1, laion-5plus, ...; some keep only what is above)."
    )
    max_score: float | None = option(None, "Keep scores of at most this.")
    scale_of: str | None = option(
        None,
        "The scale that --min-score and --max-score are on, where it is not the scores' own: a head, ratings or percentiles; "
        "beholder calibrate makes the map that translates them.",
        shown="that of the scores",
    )
    quantile: float | None = option(None, "Keep scores of at least this quantile (0 to 1) of the rows that other rules left.")
    top: int | None = option(None, "Keep the best N.", least=1)
    top_share: str | None = option(
        None,
        "Keep the best share: 10% or 0.1, rounded up to whole rows. With --top as well, both count from the rows that were "
        "there before either, and the smaller number stays.",
    )
    per: str | None = option(
        None,
        f"Apply {_ONE_OF} inside each group of this column: one of the scores, of --join, or folder, source, aspect, "
        "score_bucket, cluster.",
    )
    balance: str | None = option(
        None, "Keep equally many of each group of this column, the best ones; with --top N about N in all."
    )
    where: tuple[str, ...] = where_option()
    sample: int | None = option(
        None,
        "Draw N rows at random, weighted by score (see --temperature).",
        least=1,
        flag=("--draw",),
        old=("--sample",),
    )
    seed: int = option(0, "The seed of --draw; the same seed draws the same rows.")
    temperature: float = option(1.0, "--draw: a row's weight is exp(score / temperature); inf draws all rows alike.")
    budget: int | None = option(None, "Keep the best rows whose bytes on disk fit, e.g. 500GB.", read="bytes")
    size_column: str | None = option(None, "Column with each picture's bytes for --budget.", shown="num_bytes")
    exclude: tuple[str, ...] = option((), "Drop the samples of this list: .txt, .csv or .parquet (repeatable).")
    marks: str | None = option(None, "Marks made with `beholder browse`: what is marked drop goes, what is marked keep stays.")
    dedup: float | str | None = option(
        None,
        "Drop near-duplicates: pictures whose embedding has at least this cosine similarity (0.95) to one that stays; or, with "
        "exact-bytes, pictures whose files hold the same bytes as those of one that stays.",
    )
    dedup_keep: str = option(
        SCORE,
        "--dedup: which of the similar pictures stays: that with the best score, the most pixels, the most bytes, the "
        "oldest file (score, pixels, bytes, oldest), or the highest value of an SQL expression, e.g. 'width * height'; where "
        "that is equal, the better ranked.",
    )
    dedup_per: str | None = option(
        None, "--dedup: compare only pictures that have the same value of this column (any that --per takes)."
    )
    dedup_method: DedupMethod = option(
        "auto", "Compare all pairs (exact), or through an index (approximate).", choices=DEDUP_METHODS
    )
    dedup_against: tuple[str, ...] = option(
        (), "Drop pictures near to any of these embeddings, as those of a test set that must not leak (repeatable)."
    )
    dedup_against_similarity: float | None = option(
        None, "--dedup-against: the least cosine similarity of what is dropped.", shown="that of --dedup"
    )
    embeddings: str | None = option(None, "Embeddings for --dedup and --clusters.", shown="those kept beside the scores")
    clusters: int | None = option(None, "Make the column cluster: k-means of the embeddings, with N clusters.", least=1)


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How scores are read and ranked."""

    PANEL: ClassVar[str] = "Reading and ranking"

    score: str | None = option(None, "The score to go by, where there are several: a column or its head's name.")
    head: str | None = option(None, "--scale-of: the head that made the scores, where the set does not say, e.g. laion-v2.")
    rank_by: str | None = option(
        None,
        'Rank by an expression over percentiles of scores, e.g. "0.7*a + 0.3*b"; names with odd characters in `backticks`.',
    )
    join: tuple[str, ...] = join_option()
    repeated: str = repeated_option()
    score_column: str | None = option(None, "Which column holds scores, in other tools' tables.", shown="found by its name")
    sample_column: str | None = option(None, "Which column names the rows.", shown="found by its name")
    memory: int = option(3_000_000_000, "About how much memory may be taken.", read="bytes", shown="3GB")
    num_threads: int | None = threads_option()


@dataclass(frozen=True, kw_only=True)
class SelectRules(ReadOptions, RuleOptions):
    """All that decides a selection: what `beholder.select` takes beside the scores."""

    pictures: tuple[str, ...] = pictures_option()
    root: str | None = root_option()

    def __post_init__(self) -> None:
        """A similarity or a score that was given as text is a number."""
        for name in ("dedup", "min_score"):
            value = getattr(self, name)
            if isinstance(value, str):
                with contextlib.suppress(ValueError):
                    object.__setattr__(self, name, float(value))

    @property
    def least_score(self) -> Threshold | None:
        """`min_score` as a threshold. Raises InputError."""
        return None if self.min_score is None else read_threshold(self.min_score)

    @property
    def similarity(self) -> float | None:
        """The similarity of near-duplicates; None where they are not looked for."""
        return float(self.dedup) if isinstance(self.dedup, Real) else None

    @property
    def reference_similarity(self) -> float | None:
        """The similarity from which pictures of `dedup_against` drop others; None where there are none of these."""
        if not self.dedup_against:
            return None
        return self.similarity if self.dedup_against_similarity is None else self.dedup_against_similarity

    @property
    def threads(self) -> int:
        """Threads to use."""
        return self.num_threads or all_cores()

    @property
    def share(self) -> Fraction | None:
        """`top_share` as an exact number in (0, 1]."""
        return None if self.top_share is None else parse_share(str(self.top_share))

    def check(self) -> None:
        """Raise InputError for values that mean nothing, and for rules that do not go together."""
        most, least = self.max_score, self.least_score
        if most is not None and (not isinstance(most, Real) or math.isnan(most)):
            raise InputError(f"--max-score {most!r} is not a number")
        if least is not None and most is not None and (least.value > most or (least.is_strict and least.value == most)):
            above = f"is above --max-score {most:g}" if least.value > most else f"keeps only what is above --max-score {most:g}"
            raise InputError(f"--min-score {self.min_score} {above}; nothing could stay")
        if self.quantile is not None and not 0 <= self.quantile <= 1:
            raise InputError(f"--quantile {self.quantile:g}: a quantile is between 0 and 1; 0.9 keeps the best tenth")
        for name, number in (("--top", self.top), ("--draw", self.sample), ("--clusters", self.clusters)):
            if number is not None and number < 1:
                raise InputError(f"{name} {number}: give at least 1")
        if self.budget is not None and self.budget < 0:
            raise InputError(f"--budget {self.budget}: give at least 0 bytes")
        if not self.temperature > 0:
            raise InputError(f"--temperature {self.temperature:g}: give a number above 0 (inf draws all rows alike)")
        self._check_dedup()
        check_threads(self.num_threads)
        if self.memory < SMALLEST_MEMORY:
            raise InputError(f"--memory {self.memory:,} is too little; give at least 256MB")
        _ = self.share
        self._check_together()

    def _check_dedup(self) -> None:
        if isinstance(self.dedup, str) and self.dedup != EXACT_BYTES:
            raise InputError(f"--dedup {self.dedup}: give a cosine similarity, for example 0.95, or {EXACT_BYTES}")
        if self.dedup_method not in DEDUP_METHODS:
            raise InputError(f"unknown method {self.dedup_method!r} for near-duplicates; choose {', '.join(DEDUP_METHODS)}")
        given = (("--dedup", self.similarity), ("--dedup-against-similarity", self.dedup_against_similarity))
        for flag, similarity in given:
            if similarity is not None and not 0 < similarity <= 1:
                raise InputError(f"{flag} {similarity:g}: give a cosine similarity above 0 and at most 1, for example 0.95")
        if not self.dedup_keep.strip():
            raise InputError(f"--dedup-keep is empty; give {', '.join(KEEP_WORDS)}, or an SQL expression")
        if self.dedup_against and self.reference_similarity is None:
            raise InputError(
                "--dedup-against needs a similarity from which a picture is dropped; add --dedup-against-similarity 0.95, or "
                "--dedup 0.95, which drops near-duplicates among the pictures as well"
            )

    def _check_together(self) -> None:
        if self.per is not None and self.balance is not None:
            raise InputError("--per and --balance exclude each other; --balance already works by group")
        if self.per is not None and self.top is None and self.top_share is None and self.sample is None:
            raise InputError(f"--per {self.per} says by which groups, not how many of each; add one of {_ONE_OF}")
        if self.size_column is not None and self.budget is None:
            raise InputError("--size-column is for --budget, which is not given")
        if self.clusters is not None and "cluster" not in (self.per, self.balance, self.dedup_per):
            raise InputError("--clusters makes the column cluster, which nothing uses; add --per cluster or --balance cluster")
        compared = self.similarity if self.similarity is not None else self.reference_similarity
        cut = self.min_score if self.min_score is not None else self.max_score
        idle = (
            ("--scale-of", self.scale_of is not None, cut, "--min-score and --max-score"),
            ("--head", self.head is not None, self.scale_of, "--scale-of"),
            ("--seed", self.seed != 0, self.sample, "--draw"),
            ("--temperature", self.temperature != 1, self.sample, "--draw"),
            ("--dedup-method", self.dedup_method != "auto", compared, "--dedup with a similarity"),
            ("--dedup-keep", self.dedup_keep != SCORE, self.dedup, "--dedup"),
            ("--dedup-per", self.dedup_per is not None, self.dedup, "--dedup"),
            (
                "--dedup-against-similarity",
                self.dedup_against_similarity is not None,
                self.dedup_against or None,
                "--dedup-against",
            ),
            ("--embeddings", self.embeddings is not None, compared or self.clusters, "--dedup and --clusters"),
        )
        for flag, is_given, needed, what in idle:
            if is_given and needed is None:
                raise InputError(f"{flag} is for {what}, which is not given")
        if not self.has_rule:
            raise InputError(
                "no rule says which pictures stay; give for example --min-score 5, --top 1000, --top-share 10%, "
                "--where 'width >= 512' (all: beholder select --help)"
            )

    @property
    def has_rule(self) -> bool:
        """Whether anything could drop a row."""
        single = (
            self.min_score, self.max_score, self.quantile, self.top, self.top_share, self.balance, self.sample, self.budget,
            self.marks, self.dedup,
        )  # fmt: skip
        return any(value is not None for value in single) or bool(self.where or self.exclude or self.dedup_against)


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Lists that are written."""

    PANEL: ClassVar[str] = "Lists"

    out: str | None = option(
        None, "Write what stays, best first: .txt (samples), .csv, .parquet or .jsonl.", flag=("--out", "-o")
    )
    decisions_out: str | None = option(None, "Write what became of every row: .csv, .parquet or .jsonl.", old=("--decisions",))
    dropped_out: str | None = option(
        None, "Write what goes, with the rule: .txt, .csv, .parquet or .jsonl.", old=("--dropped",)
    )
    groups_out: str | None = option(
        None, "Write the groups that --dedup and --dedup-against find: .csv, .parquet or .jsonl.", old=("--groups",)
    )
    overwrite: bool = option(False, "Replace files that are there.")


@dataclass(frozen=True, kw_only=True)
class SelectOptions(ActionOptions, OutputOptions, SelectRules):
    """Everything that `beholder select` takes.

    Attributes:
        scores: where the scores are.
    """

    scores: str

    @property
    def has_rule(self) -> bool:
        """Whether anything could drop a row, or none has to: stars are of all pictures where no rule is given."""
        return self.xmp or super().has_rule

    def check(self) -> None:
        """Raise InputError for what means nothing, before any work."""
        self.check_stars()
        super().check()
        _ = self.action
        if self.groups_out is not None and self.dedup is None and not self.dedup_against:
            raise InputError("--groups-out writes the groups that --dedup and --dedup-against find, and neither is given")
