"""Every option of `beholder report`, once: default, meaning, check; its flags are made from this class."""

from __future__ import annotations

from dataclasses import dataclass

from beholder.errors import InputError
from beholder.options import (
    THUMBNAIL_TIMEOUT_S,
    check_threads,
    check_timeout,
    join_option,
    option,
    picture_column_option,
    repeated_option,
    threads_option,
    where_option,
)

MAX_SIZE = 9_000_000
_LEAST_SIZE = 400_000
_MOST_PER_BUCKET = 1000


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What the page shows, and how it is made; the meaning of each option stands in its help. None: not given.

    Attributes:
        scores: a score set (see `scoreset.score_set.open_scores`).
        where: rows that do not meet all conditions are left out of everything but the rejects.
        max_size: bytes of the page; thumbnails are made smaller until it fits.
        threads: so many pictures are decoded at once at most, and one a core.
        offline: None: as $BEHOLDER_OFFLINE says.
    """

    scores: str
    out: str | None = option(None, "The HTML file.", flag=("--out", "-o"), shown="SCORES.report.html")
    min_score: str | None = option(
        None,
        "The score the page is about: a number, or a landmark such as sd-v1.",
        shown="that of --decisions, else none",
        old=("--at",),
        old_names=("at",),
    )
    decisions: str | None = option(
        None,
        "What beholder select --decisions-out wrote: show what was kept.",
        old=("--selection",),
        old_names=("selection",),
    )
    groups: str | None = option(None, "Near-duplicates that beholder select --groups-out wrote.")
    per_bucket: int = option(24, "Pictures of each bucket of scores.", least=0)
    pictures: tuple[str, ...] = option((), "Where the pictures are now; may be repeated.", shown="where they were scored")
    root: str | None = option(None, "The folder that relative names of pictures count from.")
    picture_column: str | None = picture_column_option()
    no_thumbnails: bool = option(False, "Show no pictures, only names and scores.")
    group_by: tuple[str, ...] = option(
        (),
        "A metadata column whose groups are compared (repeatable).",
        shown="all that can be grouped",
        old=("--column",),
        old_names=("columns",),
    )
    where: tuple[str, ...] = where_option()
    join: tuple[str, ...] = join_option()
    head: str | None = option(None, "The head that made the scores, where the set does not say.", shown="what the set says")
    repeated: str = repeated_option()
    score_column: str | None = option(None, "The column with scores.", shown="all that the set names, else a known name")
    sample_column: str | None = option(None, "The column that names pictures.", shown="found by its usual names")
    title: str | None = option(None, "The page's title.", shown="the name of the scores")
    seed: int = option(0, "Seed of the random choice of pictures that are shown.", least=0)
    max_size: int = option(MAX_SIZE, "Largest size of the page, for example 5MB.", read="bytes", shown="9MB")
    timeout: float = option(THUMBNAIL_TIMEOUT_S, "Seconds for reading and decoding one picture.")
    max_time: float = option(300.0, "Seconds for finding all pictures, together; archives have to be read through.")
    threads: int | None = threads_option("Threads; so many pictures are read at once.", "4 per core, at most 16")
    offline: bool | None = option(None, "Never use the network: show no pictures that are on servers.")
    overwrite: bool = option(False, "Replace an existing file.")

    def __post_init__(self) -> None:
        """Refuse what cannot be done, and what would have no effect. Raises InputError."""
        if self.per_bucket > _MOST_PER_BUCKET:
            raise InputError(f"--per-bucket {self.per_bucket:,}: at most {_MOST_PER_BUCKET:,}; beholder browse shows all")
        if self.per_bucket < 0 or self.seed < 0:
            raise InputError("--per-bucket and --seed must not be negative")
        check_threads(self.threads)
        check_timeout(self.timeout)
        check_timeout(self.max_time, "--max-time")
        if self.max_size < _LEAST_SIZE:
            raise InputError(f"--max-size {self.max_size:,} bytes is too small for a page; allow at least {_LEAST_SIZE:,}")
        if self.no_thumbnails and (self.pictures or self.root is not None or self.picture_column is not None):
            raise InputError("--pictures, --root and --picture-column have no effect with --no-thumbnails; leave out one")
