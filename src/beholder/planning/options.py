"""Every option of `beholder plan` and `beholder bench`, once."""

from __future__ import annotations

import re
from dataclasses import dataclass

from beholder.errors import InputError
from beholder.models.catalog import DEFAULT_TOWER
from beholder.options import MOST_WORKERS, check_choices, check_threads, check_workers, option, threads_option
from beholder.pixels.picture import DECODERS, Decoder
from beholder.scoring.options import PRECISION_CHOICES, PrecisionChoice

LEAST_S, MOST_S = 1.0, 3600.0
_PIXELS = re.compile(r"(\d{1,6})x(\d{1,6})")


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is measured, and where; `sources`: whose pictures to decode, none: made ones alone."""

    sources: tuple[str, ...] = ()
    backbone: str = option(DEFAULT_TOWER, "The tower: a name (beholder models list), path, URL or hub id.", shown=DEFAULT_TOWER)
    device: str = option("auto", "auto (the processor, and a GPU where there is one), cpu, cuda, cuda:1, mps.")
    precision: PrecisionChoice = option(
        "auto", "auto: fp32, and the one that is likely to be the fastest on the device.", choices=PRECISION_CHOICES
    )
    decoder: Decoder = option("pillow", "How JPEGs are decoded: pillow or scaled.", choices=DECODERS)
    picture_column: str | None = option(None, "Column with paths, URLs or bytes of pictures.", shown="found by looking")
    storage: str | None = option(None, "A folder, here or in a bucket, to read and write.", shown="the current folder")
    out: str | None = option(
        None, "Keep the rates in this file.", flag=("--out", "-o"), shown="with the user's own data, as this machine's"
    )
    max_time_s: float = option(30.0, "About so many seconds in all, shared out to the stages.", flag=("--max-time",))
    offline: bool | None = option(None, "Never use the network for the tower.")

    def __post_init__(self) -> None:
        """Refuse what cannot be. Raises InputError."""
        check_choices(self)
        if not LEAST_S <= self.max_time_s <= MOST_S:
            raise InputError(f"--max-time {self.max_time_s:g}: give seconds, from {LEAST_S:g} to {MOST_S:,.0f}")


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """A job that is planned: `sources`, or `count` pictures of `pixels`; and what shall do it."""

    sources: tuple[str, ...] = ()
    count: int | None = option(
        None, "Plan for so many pictures, in place of SOURCES.", flag=("--count",), least=1, old=("--pictures",)
    )
    pixels: str = option("1024x768", "With --count: how large the pictures are.")
    rates: tuple[str, ...] = option(
        (), "A file of beholder bench, of this or another machine (repeatable; the last one counts).", shown="this machine's"
    )
    backbone: str = option(DEFAULT_TOWER, "The tower: one that was measured.", shown=DEFAULT_TOWER)
    devices: str | None = option(
        None, "Devices of each machine: numbers of GPUs (0,1,3), or cpu:N for N processes on the processor.",
        shown="a GPU if one was measured, else the processor",
    )  # fmt: skip
    precision: PrecisionChoice = option("auto", "auto: the fastest that was measured.", choices=PRECISION_CHOICES)
    machines: int = option(1, "So many machines like this one.", least=1)
    cores: int | None = option(None, "Cores of each machine.", shown="as many as were measured", least=1)
    workers: int | None = option(
        None, "Processes that read and decode, for each device.", flag=("--workers", "-j"), shown="as in score", least=0,
        most=MOST_WORKERS,
    )  # fmt: skip
    num_threads: int | None = threads_option("Threads of the tower on a processor.", shown="its cores")
    picture_column: str | None = option(None, "Column with paths, URLs or bytes of pictures.", shown="found by looking")
    embedding_column: str | None = option(
        None, "Column, array, or prefix of numbered columns with the embedding.", shown="found by looking"
    )
    keep_embeddings: bool = option(False, "The embeddings are written too.")
    out: str | None = option(
        None, "An output that has been begun: only what is left of it is planned.", flag=("--out", "-o"), shown="none"
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be. Raises InputError."""
        check_choices(self)
        if not self.sources and self.count is None:
            raise InputError("nothing to plan: name sources, or say how many pictures (--count 1000000 --pixels 1024x768)")
        if self.sources and self.count is not None:
            raise InputError("--count is for a plan without sources; name one of them")
        for flag, value in (("--count", self.count), ("--machines", self.machines), ("--cores", self.cores)):
            if value is not None and value < 1:
                raise InputError(f"{flag} {value}: give at least 1")
        check_workers(self.workers)
        check_threads(self.num_threads)
        self.size()

    def size(self) -> tuple[int, int]:
        """Width and height of `pixels`. Raises InputError."""
        found = _PIXELS.fullmatch(self.pixels.strip().lower())
        width, height = (int(found[1]), int(found[2])) if found else (0, 0)
        if not width or not height:
            raise InputError(f"--pixels {self.pixels}: give width and height, such as 1024x768")
        return width, height
