"""Every option of the jobs, once: default, meaning, check; the command line's flags are made from these classes."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from beholder import columns
from beholder.columns import EMBEDDING_DTYPES, EMBEDDING_FORMATS, EmbeddingDtype, EmbeddingFormat
from beholder.engine import PRECISIONS, Precision
from beholder.errors import InputError
from beholder.models.backbones import ACTIVATIONS, TowerActivation
from beholder.models.catalog import DEFAULT_HEAD, DEFAULT_TOWER
from beholder.options import (
    MOST_WORKERS,
    PICTURE_TIMEOUT_S,
    check_choices,
    check_threads,
    check_timeout,
    check_workers,
    flag_names,
    option,
    threads_option,
)
from beholder.pixels.picture import DECODERS, MAX_PIXELS, PRESETS, Decoder, PixelOptions, Preset
from beholder.sources.reader import SourceOptions

SMALLEST_MEMORY = 64_000_000

SpaceCheck = Literal["on", "off"]
SPACE_CHECKS: tuple[SpaceCheck, ...] = ("on", "off")
JobEngine = Literal["local", "ray"]
JOB_ENGINES: tuple[JobEngine, ...] = ("local", "ray")
Vanished = Literal["drop", "keep"]
VANISHED: tuple[Vanished, ...] = ("drop", "keep")
PrecisionChoice = Precision | Literal["auto"]
PRECISION_CHOICES: tuple[PrecisionChoice, ...] = ("auto", *PRECISIONS)


@dataclass(frozen=True)
class Share:
    """One of `count` shares of the shards, by its number from 0."""

    number: int
    count: int

    @property
    def name(self) -> str:
        """As `--part` names it."""
        return f"{self.number}/{self.count}"

    def file_for(self, path: str) -> str:
        """Where this part writes in place of a file that all parts are given."""
        pure = PurePosixPath(path)
        return str(pure.with_name(f"{pure.stem}.part-{self.number}-of-{self.count}{pure.suffix}"))

    def __str__(self) -> str:
        return f"part {self.number} of {self.count}"


_SLURM = "SLURM_ARRAY_TASK"


def _is_count(text: str) -> bool:
    """Whether a text is a whole number of up to 18 digits; Python refuses those of thousands."""
    return text.isdecimal() and len(text) <= 18


def share_of(text: str, environment: Mapping[str, str]) -> Share:
    """The share that `--part` names: "3/64", or "slurm": that of the task of a job array that this is. Raises InputError."""
    if text == "slurm":
        names = [f"{_SLURM}_{word}" for word in ("ID", "COUNT", "MIN", "STEP")]
        values = [environment.get(name, default) for name, default in zip(names, ("", "", "0", "1"), strict=True)]
        if not all(map(_is_count, values)) or not int(values[3]):
            raise InputError(f"--part slurm: this is no task of a SLURM job array ({names[0]} and {names[1]} are not set)")
        task, count, first, step = map(int, values)
        number = (task - first) // step
        hint = f"{names[0]} is {task}, {names[1]} {count}, {names[2]} {first}"
    else:
        before, slash, after = text.partition("/")
        if not (slash and _is_count(before) and _is_count(after)):
            raise InputError(f"--part {text}: say K/N, such as 3/64, or slurm")
        number, count = int(before), int(after)
        hint = f"parts of {count:,} are 0/{count} to {count - 1}/{count}" if count else "there is at least one part"
    if not 0 <= number < count:
        raise InputError(f"--part {text}: there is no such part; {hint}")
    return Share(number, count)


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """What every job has; the help of each option says what it does. None: the default that the help shows.

    Attributes:
        sources: files, folders, globs, URLs or lists.
        retry_rejects: do rows again that were rejected for one of `columns.PASSING_REASONS`.
        offline: None: as the environment says.
    """

    sources: tuple[str, ...]
    out: str | None = option(
        None,
        "A folder, or a file ending in .parquet or .csv.",
        flag=("--out", "-o"),
        shown="named after SOURCES",
    )
    columns: tuple[str, ...] | None = option(
        None,
        "Column of the source to pass through; may be repeated; '*' for all.",
        flag=("--column",),
        shown="none of embeddings, all of pictures",
    )
    sample_column: str | None = option(None, "Column that names the rows.", shown="sample, image_path, key, ... or FILE#ROW")
    num_threads: int | None = threads_option()
    shard_rows: int | None = option(
        None,
        "Most rows of a shard, which is what an interruption can cost. A tar under 1 GiB is always one shard.",
        shown="1,000,000 rows of embeddings; 512 pictures on a CPU, 8,192 elsewhere",
        least=1,
    )
    devices: str | None = option(
        None,
        "Several devices of this machine, a process for each: all (GPUs), their numbers (0,1,3), or cpu:N for N processes. "
        "Results are the same, and a run may be continued on other devices of the kind.",
    )
    engine: JobEngine = option(
        "local", "local: this machine; ray: a Ray cluster, an actor for each GPU (see docs/scale.md).", choices=JOB_ENGINES
    )
    address: str | None = option(
        None, "Of the Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local to start one here.", shown="auto"
    )
    actors: int | None = option(None, "Actors on the cluster.", shown="one for each GPU, else for each node", least=1)
    actor_resources: str | None = option(
        None, "What each actor takes of its node.", shown="a GPU and its share of the processors; without GPUs num_cpus=2"
    )
    part: str | None = option(
        None,
        "Do one share of the shards, K/N with K from 0 to N-1, beside others that do the other shares; slurm: as the task of a "
        "job array says. The same command without it puts the whole together.",
    )
    overwrite: bool = option(False, "Start anew where a result exists.")
    retry_rejects: bool = option(False, "Try again what was rejected for a reason that may have passed (network, disk, time).")
    vanished: Vanished = option(
        "drop",
        "Results of an earlier run whose pictures or files are not among the sources any more: drop, or keep (at the end).",
        choices=VANISHED,
    )
    log_json: str | None = option(
        None,
        "Add a line of JSON to this file for whatever happens: shards begun, done, begun again, workers, the end.",
        shown="none",
    )
    metrics: str | None = option(
        None, "Replace this file (.prom) every 10 s by the run's numbers as Prometheus' node_exporter reads them.", shown="none"
    )
    offline: bool | None = option(None, "Never use the network for models.")

    def __post_init__(self) -> None:
        """Take a single text or path where several may stand; refuse options that cannot work."""
        for name in ("sources", "heads", "columns"):
            given = getattr(self, name, None)
            if given is not None:
                several = (given,) if isinstance(given, str | os.PathLike) else given
                object.__setattr__(self, name, tuple(os.fspath(item) for item in several))
        for name in ("out", "log_json", "metrics"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, os.fspath(path))
        given = (*self.sources, *getattr(self, "heads", ()), *(self.columns or ()), self.out, self.log_json, self.metrics)
        if "" in given:
            raise InputError("one of the names given is empty (an unset variable?)")
        check_choices(self)
        if self.columns and len(set(self.columns)) < len(self.columns):
            raise InputError("the same --column was named twice; name each column once")
        if not self.sources:
            raise InputError("nothing to score: name files, folders, globs or URLs of pictures or embeddings")
        if self.shard_rows is not None and self.shard_rows < 1:
            raise InputError("--shard-rows must be at least 1")
        check_threads(self.num_threads)
        if self.part is not None and (self.overwrite or self.retry_rejects or self.vanished == "keep"):
            raise InputError(
                "--overwrite, --retry-rejects and --vanished keep are for the whole: run the command once without --part"
            )
        if (share := self.share()) is not None:  # in other processes "slurm" would be something else
            object.__setattr__(self, "part", share.name)
        of_ray = {"--address": self.address, "--actors": self.actors, "--actor-resources": self.actor_resources}
        idle = [flag for flag, value in of_ray.items() if value is not None]
        if idle and self.engine != "ray":
            raise InputError(f"{idle[0]} has no effect without --engine ray; leave one out, or add the other")
        if self.engine == "ray" and self.devices is not None:
            raise InputError("--devices is for this machine, --engine ray for a cluster; name one")
        if self.actors is not None and self.actors < 1:
            raise InputError("--actors must be at least 1")

    def share(self) -> Share | None:
        """What `--part` asks for. Raises InputError."""
        return None if self.part is None else share_of(self.part, os.environ)


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """How pictures become embeddings; the help of each option says what it does. None: the default that the help shows.

    Attributes:
        preset, decoder, max_pixels: see `pixels.picture.PixelOptions`.
        precision: "auto" is made out by a self-check, once for a tower and machine.
    """

    PANEL: ClassVar[str] = "Pictures"

    backbone: str | None = option(
        None,
        "The image tower: a name (beholder models list), path, URL, hub id, or timm:, open_clip: or transformers:NAME. For "
        "embeddings without a stamp: what made them.",
        shown=DEFAULT_TOWER + " for pictures",
    )
    activation: TowerActivation | None = option(
        None,
        "The tower's activation, where its file does not say it.",
        choices=ACTIVATIONS,
        flag=("--tower-activation",),
        shown="as the file says",
        old=("--activation",),
    )
    preset: Preset = option(
        "reference",
        "Pixels: reference (OpenAI's transform to the bit), upright (EXIF applied, alpha on white, palettes expanded), "
        "rgb (RGB first), squash (RGB first, no crop: birder's default).",
        choices=PRESETS,
    )
    decoder: Decoder = option(
        "pillow", "pillow (exact) or scaled (large JPEGs at 1/2, 1/4, 1/8: faster, pixels differ a little).", choices=DECODERS
    )
    max_pixels: int = option(MAX_PIXELS, "Reject pictures with more pixels than this.", least=1)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps.")
    precision: PrecisionChoice = option(
        "auto", "auto: faster than fp32 where scores stay within 0.02 of it on a self-check.", choices=PRECISION_CHOICES
    )
    batch_size: int | None = option(None, "Pictures the device takes at once.", shown="found", least=1)
    compile: bool | None = option(None, "Run the tower through torch.compile.", flag=("--compile/--no-compile",), shown="no")
    workers: int | None = option(
        None, "Processes that read and decode; 0: none.", flag=("--workers", "-j"), shown="by cores and device", least=0,
        most=MOST_WORKERS,
    )  # fmt: skip
    timeout_s: float = option(
        PICTURE_TIMEOUT_S, "Seconds that one picture may take to be read and decoded.", flag=("--timeout",)
    )
    picture_column: str | None = option(None, "Column with paths, URLs or bytes of pictures.", shown="found by looking")

    def pixels(self, size_px: int) -> PixelOptions:
        """Which pixels these options ask for, for a tower of `size_px`. Raises InputError."""
        return PixelOptions(preset=self.preset, size_px=size_px, decoder=self.decoder, max_pixels=self.max_pixels)

    def given(self) -> list[str]:
        """Flags of this class that were given another value than their default; `--backbone` does not count."""
        named = (item for item in fields(PictureOptions) if item.name != "backbone")
        changed = [item for item in named if getattr(self, item.name) != item.default]
        return [flag_names(item)[0] for item in changed]

    def check(self) -> None:
        """Raise InputError for what cannot work, before anything is loaded."""
        self.pixels(224)
        check_timeout(self.timeout_s)
        check_workers(self.workers)
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError("--batch-size must be at least 1")


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(PictureOptions, JobOptions):
    """Options of `beholder score`; the help of each says what it does.

    Attributes:
        heads: registry names, paths, URLs or hub ids.
    """

    heads: tuple[str, ...] = option(
        (DEFAULT_HEAD,),
        "A name (beholder models list), path, URL or hub id; may be repeated.",
        flag=("--head",),
        shown=DEFAULT_HEAD,
    )
    embedding_column: str | None = option(
        None, "Column, array, or prefix of numbered columns with the embedding.", shown="found by looking"
    )
    memory_bytes: int = option(
        1 << 30, "About how much memory reading embeddings may take.", flag=("--memory",), read="bytes", shown="1GB"
    )
    keep_embeddings: bool = option(False, "For pictures: write the embeddings too, beside the scores.")
    space_check: SpaceCheck = option(
        "on",
        "Refuse embeddings without a stamp that do not look like those of the head's tower (by their mean cosine to its "
        "centroid); off: score them all the same.",
        choices=SPACE_CHECKS,
    )

    def __post_init__(self) -> None:
        """Check everything that can be checked without looking at a file."""
        super().__post_init__()
        self.check()
        if not self.heads:
            raise InputError("no head: name at least one (beholder models list)")
        if self.memory_bytes < SMALLEST_MEMORY:
            raise InputError(f"--memory {self.memory_bytes} is too little; give at least 64MB")


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(PictureOptions, JobOptions):
    """Options of `beholder embed`; the help of each says what it does.

    Attributes:
        format: a file name that ends in .parquet or .csv asks for "parquet" and "birder-csv".
        crop, hidden, is_bare, folders: for `beholder predict`: see `PixelOptions.crop`; the vector before the projection in
            place of the embedding; see `files.WriteOptions`.
    """

    format: EmbeddingFormat | None = option(
        None,
        "npy (clip-retrieval's folders), parquet (one list column), birder-csv, birder-parquet (a column per dimension).",
        choices=EMBEDDING_FORMATS,
        shown="npy; by the ending of --out",
    )
    dtype: EmbeddingDtype | None = option(
        None, "Numbers as written.", choices=EMBEDDING_DTYPES, shown="float16; float32 in birder's layouts"
    )
    normalise: bool | None = option(
        None,
        "Divide each embedding by its length, as clip-retrieval does.",
        flag=("--normalise/--raw",),
        shown="--normalise; --raw in birder's layouts",
    )
    crop: float = 1.0
    hidden: bool = False
    is_bare: bool = False
    folders: FolderLabels | None = None

    def __post_init__(self) -> None:
        """Check everything that can be checked without looking at a file."""
        super().__post_init__()
        self.check()

    def pixels(self, size_px: int) -> PixelOptions:
        """Which pixels these options ask for, for a tower of `size_px`. Raises InputError."""
        return replace(super().pixels(size_px), crop=self.crop)


Options = ScoreOptions | EmbedOptions


def source_options(options: Options) -> SourceOptions:
    """How the pictures of a job are read."""
    return SourceOptions(
        columns=("*",) if options.columns is None else options.columns,
        sample_column=options.sample_column,
        picture_column=options.picture_column,
    )


if TYPE_CHECKING:
    import pyarrow as pa

LABEL = "label"
NO_LABEL = -1
_CLS = "cls"
"""webdataset's member with the class number; `sources.tar` passes it on under this name."""


@dataclass(frozen=True)
class FolderLabels:
    """What birder's `--save-labels` writes.

    Attributes:
        classes: class name -> number.
        is_hierarchical: take all folders below the root, joined by `_`, not only the last one.
        roots: the folders that the user named, for that.
    """

    classes: Mapping[str, int] = field(default_factory=dict)
    is_hierarchical: bool = False
    roots: Sequence[str] = ()

    def of(self, labels: pa.Table) -> pa.Array:
        """(N,) int64: the number in `cls` where the source has one, else that of the folder's class, else -1."""
        import pyarrow as pa
        import pyarrow.compute as pc

        folders = pc.replace_substring_regex(labels.column(columns.SAMPLE).cast(pa.large_string()), "(?s)(^|/)[^/]*$", "")
        encoded = folders.combine_chunks().dictionary_encode()
        numbers = [self.classes.get(self._class_of(folder), NO_LABEL) for folder in encoded.dictionary.to_pylist()]
        found = pa.array(numbers, pa.int64()).take(encoded.indices)
        if _CLS in labels.column_names and pa.types.is_integer(labels.schema.field(_CLS).type):
            found = pc.coalesce(labels.column(_CLS).cast(pa.int64()).combine_chunks(), found)
        return found

    def _class_of(self, folder: str) -> str:
        """The name of the class of the pictures in `folder`."""
        if not self.is_hierarchical:
            return posixpath.basename(folder)
        above = [root for root in self.roots if folder == root.rstrip("/") or folder.startswith(f"{root.rstrip('/')}/")]
        inside = posixpath.relpath(folder, max(above, key=len)) if above else folder
        return inside.replace("/", "_")

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"classes": dict(self.classes), "hierarchical": self.is_hierarchical, "roots": list(self.roots)}


@dataclass(frozen=True)
class StatusOptions:
    """Options of `beholder status`; `output` is what a run writes or wrote: a folder, .parquet or .csv, local or remote."""

    output: str
    watch: bool = option(False, "Look again every few seconds, until nobody works on it any more.")
