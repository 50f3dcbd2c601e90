"""Options of `beholder train`, and those that it shares with `evaluate` and `calibrate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from beholder.errors import InputError
from beholder.options import check_threads, option, threads_option
from beholder.train.ratings.options import RatingsOptions

MethodChoice = Literal["auto", "ridge", "logistic", "mlp-linear", "mlp-relu"]
METHOD_CHOICES: tuple[MethodChoice, ...] = ("auto", "ridge", "logistic", "mlp-linear", "mlp-relu")
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
