"""Options of `beholder calibrate`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import PurePosixPath
from typing import ClassVar, Literal

from beholder.errors import InputError
from beholder.options import option, repeated_option
from beholder.train.options import MeasuredOptions
from beholder.train.ratings.options import RatingsOptions

MapChoice = Literal["auto", "isotonic", "quantile"]
MAP_CHOICES: tuple[MapChoice, ...] = ("auto", "isotonic", "quantile")
_TABLES = (".parquet", ".csv", ".jsonl")


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
            flag = of_ratings.metadata.get("flag", ("--" + of_ratings.name.replace("_", "-"),))[0]
            raise InputError(f"{flag} is for --ratings, which is not given")
        for flag, value in (("--split-by", self.split_by), ("--embeddings", self.embeddings)):
            if value is not None and (chosen not in ("--onto", "--ratings") or self.map_method == "quantile"):
                raise InputError(f"{flag} is for isotonic maps, whose error is measured on folds; leave it out")
