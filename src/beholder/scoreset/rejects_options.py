"""Every option of `beholder rejects`, once: default, meaning, check; its flags are made from this class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from beholder.errors import InputError
from beholder.options import option

_KINDS = (".txt", ".csv", ".parquet", ".jsonl")


@dataclass(frozen=True, kw_only=True)
class RejectsOptions:
    """Options of `beholder rejects`.

    Attributes:
        scores: what `beholder score`, `embed` or `predict` wrote: a folder, .parquet or .csv, local or remote.
        out: a list to write; None: the rows are shown.
        reason: only rows of these reasons; (): of all.
        pictures, root: for a .txt: where the pictures are now (see `locate.locate.PictureFinder`).
        overwrite: replace `out` where it exists.
    """

    scores: str
    out: str | None = option(
        None,
        "Write a list: .csv, .parquet or .jsonl with all that is known, .txt with names that beholder score takes.",
        flag=("--out", "-o"),
        shown="a table on the terminal",
    )
    reason: tuple[str, ...] = option((), "Only this reason; may be repeated.", shown="all")
    pictures: tuple[str, ...] = option((), "For a .txt: where the pictures are now, in place of the sources; may be repeated.")
    root: str | None = option(None, "For a .txt: the folder that relative names count from.", shown="the current one")
    overwrite: bool = option(False, "Replace the list where it exists.")

    def __post_init__(self) -> None:
        """Refuse a list of a kind that is not written. Raises InputError."""
        if self.out is not None and PurePosixPath(self.out).suffix.lower() not in _KINDS:
            raise InputError(f"--out {self.out}: a list is written as {', '.join(_KINDS)}; the name's end says which")
