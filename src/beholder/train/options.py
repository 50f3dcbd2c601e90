"""Options of `beholder train`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from beholder.errors import InputError
from beholder.options import option
from beholder.train.measured_options import JudgedOptions

MethodChoice = Literal["auto", "ridge", "logistic", "mlp-linear", "mlp-relu"]
METHOD_CHOICES: tuple[MethodChoice, ...] = ("auto", "ridge", "logistic", "mlp-linear", "mlp-relu")


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
