"""Options of `beholder train`, `evaluate` and `calibrate`, and those that they share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import PurePosixPath
from typing import ClassVar, Literal

from beholder.errors import InputError
from beholder.options import check_threads, flag_names, option, repeated_option, threads_option
from beholder.train.ratings.options import RatingsOptions

MethodChoice = Literal["auto", "ridge", "logistic", "mlp-linear", "mlp-relu"]
METHOD_CHOICES: tuple[MethodChoice, ...] = ("auto", "ridge", "logistic", "mlp-linear", "mlp-relu")
MapChoice = Literal["auto", "isotonic", "quantile"]
MAP_CHOICES: tuple[MapChoice, ...] = ("auto", "isotonic", "quantile")
_TABLES = (".parquet", ".csv", ".jsonl")
NEAR = 0.95
"""Cosine similarity from which two pictures count as the same one."""


@dataclass(frozen=True, kw_only=True)
class MeasuredOptions(RatingsOptions):
    """What is never on both sides of a split, nor resampled apart, and what draws splits and resamples."""

    PANEL: ClassVar[str] = "Measuring"

    split_by: str | None = option(
        None,
        "Pictures that belong together, never on both sides of a split: of one folder (folder), or equal in this column of the "
        "ratings (calibrate: else of the scores).",
        shown="near-duplicates alone",
    )
    near_duplicates: float = option(
        NEAR,
        "Cosine from which pictures belong together as near-duplicates, where there are embeddings; 0: not looked for.",
    )
    seed: int = option(0, "Draws splits and resamples; the same data and seed give the same figures.", least=0)
    overwrite: bool = option(False, "Replace what this command wrote before.")
    num_threads: int | None = threads_option()

    def check(self) -> None:
        """Raise InputError for values that mean nothing."""
        super().check()
        check_threads(self.num_threads)
        if not 0 <= self.near_duplicates <= 1:
            raise InputError(f"--near-duplicates {self.near_duplicates:g}: give a cosine from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class JudgedOptions(MeasuredOptions):
    """What `beholder train` and `evaluate` share: ratings that heads are measured by."""

    PANEL: ClassVar[str] = "Measuring"

    ratings: str | None = option(
        None,
        "People's ratings: a table, votes, pairs, marks of browse, a folder with liked and disliked pictures, stars in XMP "
        "(docs/train.md lists them).",
        shown="needed",
    )
    good_from: float | None = option(None, "Ratings from here up count as good, where that is measured.", shown="the median")
    offline: bool | None = option(None, "Never use the network.", shown="as the environment says")

    def check(self) -> None:
        """Raise InputError for values that mean nothing, and ratings that nobody named."""
        super().check()
        if self.ratings is None:
            raise InputError("--ratings is needed: a file with ratings, or a folder of rated pictures (docs/train.md)")


@dataclass(frozen=True, kw_only=True)
class TrainJobOptions(JudgedOptions):
    """What `beholder train` takes; `sources` are embeddings, a score set with kept embeddings, or pictures."""

    PANEL: ClassVar[str] = "Training"

    sources: tuple[str, ...]
    out: str = option(
        "head.safetensors",
        "The head, ending in .safetensors; its card (.md) and record (.json) stand beside it.",
        flag=("--out", "-o"),
    )
    method: MethodChoice = option(
        "auto",
        "ridge or the published layers (mlp-linear, mlp-relu) for ratings, logistic for keep and drop and for pairs; auto: "
        "ridge or logistic.",
        choices=METHOD_CHOICES,
    )
    start_from: str | None = option(
        None, "An affine head that is shrunk towards in place of zero, so that few ratings help.", shown="none"
    )
    name: str | None = option(None, "Name of the head.", shown="that of the file")
    backbone: str | None = option(
        None, "The tower of the embeddings where no stamp says it; of pictures the one that embeds them.", shown="by the stamp"
    )
    balance: str | None = option(None, "Column of the ratings whose groups count the same in all.")
    strength: float | None = option(None, "How strongly weights are held down.", shown="chosen on ratings left out")
    compare_with: tuple[str, ...] | None = option(
        None, "A head to stand beside the new one; may be repeated.", shown="the public ones of the tower"
    )
    device: str | None = option(None, "What the tower runs on, of pictures.", shown="auto")
    licence: str | None = option(None, "Licence of the weights, for the card.")
    push_to_hub: str | None = option(
        None, "Upload the head and its card to this repository of the Hugging Face hub, ORG/NAME.", shown="not uploaded"
    )
    private: bool = option(False, "A repository that is made on the hub is private.")
    dry_run: bool = option(False, "Only show what would be uploaded.")

    def check(self) -> None:
        """Raise InputError for values that mean nothing, and ratings that nobody named."""
        super().check()
        if not self.out.endswith(".safetensors"):
            raise InputError(f"--out {self.out}: a head is written as .safetensors; name such a file")
        if self.push_to_hub is None and (self.dry_run or self.private):
            raise InputError(f"--{'dry-run' if self.dry_run else 'private'} says how to upload; add --push-to-hub ORG/NAME")
        if self.push_to_hub is not None:
            from beholder.models.upload import check_repo

            check_repo(self.push_to_hub)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(JudgedOptions):
    """What `beholder evaluate` takes; `sources` are sets or tables of scores, embeddings, or both."""

    PANEL: ClassVar[str] = "Evaluation"

    sources: tuple[str, ...]
    out: str | None = option(None, "The page, ending in .html.", flag=("--out", "-o"), shown="SCORES.evaluation.html")
    head: tuple[str, ...] = option(
        (), "A head that scores the embeddings; may be repeated.", shown="of embeddings alone the public ones of their tower"
    )
    score_column: tuple[str, ...] = option(
        (), "The column with scores; may be repeated.", shown="all that the set names, else a known name"
    )
    sample_column: str | None = option(None, "The column of the scores that names pictures.", shown="found by its usual names")
    by: tuple[str, ...] = option(
        (), "Measures of each group of a column of the ratings, or of each folder, as well; may be repeated."
    )
    weigh_by: Literal["votes", "pictures"] = option(
        "votes",
        "Whether a picture counts by its votes, as in train, or all pictures the same, as published figures have it.",
        choices=("votes", "pictures"),
    )
    title: str | None = option(None, "The page's title.", shown="the name of the ratings")

    def check(self) -> None:
        """Raise InputError for values that mean nothing, and ratings that nobody named."""
        super().check()
        if not self.sources:
            raise InputError("name what is evaluated: a set or table of scores, or embeddings")
        for flag, values in (("--head", self.head), ("--score-column", self.score_column), ("--by", self.by)):
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise InputError(f"{flag} {twice} is given twice; name it once")


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(MeasuredOptions):
    """What `beholder calibrate` takes; `scores` is what `beholder score` wrote, or any table of scores."""

    PANEL: ClassVar[str] = "Calibration"

    scores: str
    onto: str | None = option(
        None, "Map onto another head's scale: scores by it, of the same pictures or of others, or a further score of SCORES."
    )
    ratings: str | None = option(None, "Map onto people's ratings of these pictures (docs/train.md lists what is read).")
    percentiles: bool = option(False, "Map onto percentiles of this set, 0 to 100.")
    scale_of: str | None = option(
        None, "Fit nothing: take the map onto this scale (a head, ratings or percentiles) that is kept with the scores' head."
    )
    map_method: MapChoice = option(
        "auto",
        "isotonic: the rising map with the least squared error, picture by picture; quantile: the one that keeps the share of "
        "pictures above a score, for sets of different pictures as well; auto: isotonic where pictures are in both.",
        flag=("--map",),
        choices=MAP_CHOICES,
    )
    interval: float | None = option(
        None,
        "Add bounds to the table of --out that hold the true value of such a picture with this chance, e.g. 0.9: the columns "
        "SCORE_low and SCORE_high.",
    )
    out: str | None = option(
        None,
        "Write a table with the scores on the new scale, the column SCORE_calibrated: .parquet, .csv or .jsonl.",
        flag=("--out", "-o"),
    )
    score: str | None = option(None, "The score to map, where there are several: a column or its head's name.")
    head: str | None = option(None, "The head that made the scores, where the set does not say, e.g. laion-v2.")
    score_column: str | None = option(None, "Which column holds scores, in other tools' tables.", shown="found by its name")
    sample_column: str | None = option(None, "Which column names the rows.", shown="found by its name")
    onto_column: str | None = option(None, "Which column of --onto holds scores, where there are several.")
    onto_sample_column: str | None = option(None, "Which column of --onto names the rows.", shown="found by its name")
    onto_head: str | None = option(None, "The head that made the scores of --onto, where they do not say.")
    embeddings: str | None = option(
        None, "Embeddings of the scored pictures, to find near-duplicates by.", shown="those kept beside the scores"
    )
    repeated: str = repeated_option()

    def check(self) -> None:
        """Raise InputError for values that mean nothing, and for flags that do not go together."""
        super().check()
        given = {
            "--onto": self.onto is not None, "--ratings": self.ratings is not None, "--percentiles": self.percentiles,
            "--scale-of": self.scale_of is not None,
        }  # fmt: skip
        chosen = [flag for flag, is_given in given.items() if is_given]
        if not chosen:
            raise InputError(f"onto which scale? give one of {', '.join(given)}")
        if len(chosen) > 1:
            raise InputError(f"{chosen[0]} and {chosen[1]}: choose one scale at a time")
        self._check_map(chosen[0])
        if self.interval is not None and not 0 < self.interval < 1:
            raise InputError(f"--interval {self.interval:g}: give a chance between 0 and 1, for example 0.9")
        if self.interval is not None and self.out is None:
            raise InputError("--interval adds columns to a table, which --out names; add -o calibrated.parquet")
        if self.scale_of is not None and self.out is None:
            raise InputError("--scale-of fits nothing, so there is nothing to do but a table; add -o calibrated.parquet")
        if self.out is not None and PurePosixPath(self.out).suffix.lower() not in _TABLES:
            raise InputError(f"--out {self.out}: a table is written as {', '.join(_TABLES)}; the name's end says which")

    def _check_map(self, chosen: str) -> None:
        if self.map_method == "quantile" and chosen == "--ratings":
            raise InputError("--map quantile is for scores of two heads; onto ratings a map is isotonic, leave it out")
        if self.map_method == "isotonic" and chosen == "--percentiles":
            raise InputError("--map isotonic needs a second number of each picture; percentiles are quantiles, leave it out")
        if self.map_method != "auto" and chosen == "--scale-of":
            raise InputError("--map is for a map that is fitted, and --scale-of takes one that is kept")
        if self.interval is not None and (chosen == "--percentiles" or self.map_method == "quantile"):
            raise InputError("--interval needs a second number of each picture, and an isotonic map; quantiles have no bounds")
        of_onto = {
            "--onto-column": self.onto_column,
            "--onto-sample-column": self.onto_sample_column,
            "--onto-head": self.onto_head,
        }
        for flag, value in of_onto.items():
            if value is not None and chosen != "--onto":
                raise InputError(f"{flag} is for --onto, which is not given")
        of_ratings = next((item for item in fields(RatingsOptions) if getattr(self, item.name) != item.default), None)
        if of_ratings is not None and chosen != "--ratings":
            raise InputError(f"{flag_names(of_ratings)[0]} is for --ratings, which is not given")
        for flag, value in (("--split-by", self.split_by), ("--embeddings", self.embeddings)):
            if value is not None and (chosen not in ("--onto", "--ratings") or self.map_method == "quantile"):
                raise InputError(f"{flag} is for isotonic maps, whose error is measured on folds; leave it out")
