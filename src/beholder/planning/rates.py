"""The rates of a machine: what `beholder bench` measures and keeps, and `beholder plan` calculates with."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from beholder.errors import InputError
from beholder.io import records, user_folders, writing
from beholder.libraries.names import is_place
from beholder.models.backbones import canonical_backbone
from beholder.models.catalog import tower_file_named
from beholder.models.towers import library_name

Clock = Callable[[], float]
"""What tells the time to measurements: seconds that only grow."""
FORMAT, VERSION = "beholder-rates", 2
"""1 did not say what giving pictures to a device takes (`TowerRate.feed_s`)."""
KEPT_AS = "rates.json"
"""In the folder of what is the user's own (`user_folders.data_folder`): the rates of this machine."""


@dataclass(frozen=True, kw_only=True)
class SizeRate:
    """What pictures of about one size cost to decode.

    Attributes:
        what: which pictures these are.
        pixels, num_bytes: of one of them, on average.
        core_s: seconds of a core for one, from its file to the tower's pixels, while all cores decode.
        core_s_alone: the same while one core does.
    """

    what: str
    pixels: float
    num_bytes: float
    core_s: float
    core_s_alone: float


@dataclass(frozen=True, kw_only=True)
class DecodeRate:
    """Decoding as a function of pixels: seconds of a core = constant_s + pixel_s * pixels (`fitted`)."""

    constant_s: float
    pixel_s: float
    decoder: str
    image_px: int
    sizes: tuple[SizeRate, ...]

    def core_s(self, pixels: float) -> float:
        """Seconds of a core for a picture of so many pixels."""
        return self.constant_s + self.pixel_s * pixels

    @property
    def bytes_per_pixel(self) -> float:
        """Of the pictures that were measured."""
        return sum(size.num_bytes for size in self.sizes) / sum(size.pixels for size in self.sizes)


@dataclass(frozen=True, kw_only=True)
class TowerRate:
    """A tower on one device.

    Attributes:
        backbone: its name.
        device: "cpu", "cuda" or "mps".
        device_name: as its maker calls it.
        precision: what was computed in.
        dim: length of an embedding.
        pictures_per_second: by the clock, all cores of the processor or one device.
        core_s: seconds of the processor's cores for one picture: on a processor all the work, else what keeps the device busy,
            with the waiting for it where that takes a core.
        feed_s: of these, seconds for giving it to the device (a part of a batch: copied, its kernels started), which is the
            work of the one process that feeds it.
        load_s: seconds until the first picture can be computed.
        is_random: whether the weights were random.
    """

    backbone: str
    device: str
    device_name: str
    precision: str
    dim: int
    pictures_per_second: float
    core_s: float
    feed_s: float
    load_s: float
    is_random: bool


@dataclass(frozen=True, kw_only=True)
class RunRate:
    """What a run costs beside decoding, tower and storage.

    Attributes:
        core_s: seconds of a core for one picture in the process that feeds a device, for handing it on and writing.
        start_s: seconds before the first picture and after the last one, the tower's loading left out.
        written_bytes: that a run keeps of one picture: its row, and what it needs to know it again.
    """

    core_s: float
    start_s: float
    written_bytes: float


@dataclass(frozen=True, kw_only=True)
class StorageRate:
    """A place that is read and written: bytes a second; `is_cached`: reading came from memory, for all that was tried."""

    place: str
    read_bytes_per_second: float
    write_bytes_per_second: float
    is_cached: bool


@dataclass(frozen=True, kw_only=True)
class RowsRate:
    """Embeddings to scores, from memory, with the writing of scores: rows a second on `num_cores` cores."""

    rows_per_second: float
    num_cores: int
    dim: int
    start_s: float


@dataclass(frozen=True, kw_only=True)
class Rates:
    """All that is known of a machine; a stage that was not measured is None, or empty.

    Attributes:
        date: when it was measured, yyyy-mm-dd.
        num_cores: of the processor, as many as the program may use.
        about: Markdown lines on hardware and versions.
        busy: share of the processor that others took meanwhile, 0 to 1.
    """

    date: str
    num_cores: int
    about: tuple[str, ...] = ()
    busy: float = 0.0
    decode: DecodeRate | None = None
    towers: tuple[TowerRate, ...] = ()
    run: RunRate | None = None
    storage: StorageRate | None = None
    rows: RowsRate | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


def tower_name(name: str) -> str:
    """A tower's name as rates have it: of a published tower its id, whatever it was called; of a local file its whole path.

    Of another library's tower LIBRARY:MODEL, whatever its weights; of transformers' own folders their whole path.
    """
    if Path(name).exists():
        return str(Path(name).resolve())
    if (other := library_name(name)) is not None:
        if other.library == "transformers" and is_place(other.place):
            return f"{other.library}:{Path(other.place).expanduser().resolve()}"
        return f"{other.library}:{other.model}"
    entry = tower_file_named(name)
    return canonical_backbone(entry.backbone if entry is not None else name) or name


def kept_path() -> Path:
    """Where the rates of this machine are kept."""
    return user_folders.data_folder() / KEPT_AS


def save(rates: Rates, path: str) -> None:
    """Write them whole or not at all. Raises OutputError."""
    writing.write_bytes(path, records.sealed(rates.to_json(), indent=1))


def load(path: str) -> Rates:
    """Read a file of rates, local or remote. Raises InputError: it is not there, damaged, or something else."""
    try:
        record = records.read(path)
        if record.get("format") != FORMAT:
            raise records.DamagedRecordError("it is no file of rates")
        version = record.get("version")
        if type(version) is int and 0 < version < VERSION:
            raise InputError(f"{path} was measured by an older version; run beholder bench again (beholder bench -o {path})")
        if version != VERSION:
            raise records.DamagedRecordError(f"it is of version {version!r}, and {VERSION} is understood here")
        rates: Rates = _taken(Rates, record, "")
    except records.DamagedRecordError as error:
        raise InputError(f"{path} cannot be used: {error}; make it again: beholder bench -o {path}") from None
    return rates


def load_all(paths: Sequence[str]) -> Rates:
    """The rates in several files as one: of each stage those of the last file that has it; none: those of this machine.

    Cores are those that the decoding was measured on, where it was; `busy` is the most of any file of which something is taken.

    Raises InputError.
    """
    if not paths:
        kept = kept_path()
        if not kept.exists():
            raise InputError("no rates of this machine are known: run beholder bench first, or name a file of rates (--rates)")
        return load(str(kept))
    files = [load(path) for path in paths]
    last = {name: file for file in files for name in ("decode", "run", "storage", "rows") if getattr(file, name) is not None}
    towers = {_key(tower): (tower, file) for file in files for tower in file.towers}
    return replace(
        files[0],
        num_cores=last.get("decode", files[0]).num_cores,
        busy=max((file.busy for file in (*last.values(), *(file for _, file in towers.values()))), default=0.0),
        towers=tuple(tower for tower, _ in towers.values()),
        **{name: getattr(file, name) for name, file in last.items()},
    )


def _key(tower: TowerRate) -> tuple[str, str, str]:
    return tower.backbone, tower.device, tower.precision


def fitted(sizes: Sequence[SizeRate]) -> tuple[float, float]:
    """(constant, a pixel) of the line through the costs that is best in relative terms; neither is below 0.

    Least squares of (constant + slope * p) / s - 1 over pixels p and seconds s (weights 1 / s^2), in closed form. With sizes
    that are one and the same the cost is taken as proportional to pixels.
    """
    weights = [1 / size.core_s**2 for size in sizes]
    total = sum(weights)
    mean_p = sum(weight * size.pixels for weight, size in zip(weights, sizes, strict=True)) / total
    mean_s = sum(weight * size.core_s for weight, size in zip(weights, sizes, strict=True)) / total
    spread = sum(weight * (size.pixels - mean_p) ** 2 for weight, size in zip(weights, sizes, strict=True))
    if spread <= 1e-9 * total * mean_p**2:
        return 0.0, mean_s / mean_p
    together = zip(weights, sizes, strict=True)
    slope = sum(weight * (size.pixels - mean_p) * (size.core_s - mean_s) for weight, size in together) / spread
    if slope <= 0:
        return mean_s, 0.0
    if mean_s < slope * mean_p:
        squares = sum(weight * size.pixels**2 for weight, size in zip(weights, sizes, strict=True))
        products = sum(weight * size.pixels * size.core_s for weight, size in zip(weights, sizes, strict=True))
        return 0.0, products / squares
    return mean_s - slope * mean_p, slope


def through(point: SizeRate, others: Sequence[SizeRate]) -> tuple[float, float]:
    """The line through the cost of `point`, with the slope of `others`, or less where the constant would be below 0."""
    slope = min(fitted(others)[1], point.core_s / point.pixels)
    return point.core_s - slope * point.pixels, slope


_POSITIVE = {"pictures_per_second", "rows_per_second", "read_bytes_per_second", "write_bytes_per_second", "num_cores", "pixels"}


def _taken(kind: Any, value: Any, where: str) -> Any:
    """A value of a record as the type that a field has. Raises DamagedRecordError, naming the field."""
    if isinstance(kind, types.UnionType):
        return None if value is None else _taken(typing.get_args(kind)[0], value, where)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise records.DamagedRecordError(f"{where} is no list")
        return tuple(_taken(typing.get_args(kind)[0], one, f"{where}[{at}]") for at, one in enumerate(value))
    if is_dataclass(kind) and isinstance(kind, type):
        return _object(kind, value, where)
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 1 << 1023 else math.inf
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise records.DamagedRecordError(f"{where} is no {'number' if kind in (int, float) else kind.__name__}")
    least_of = _POSITIVE if kind in (int, float) else ()
    if kind in (int, float) and (value < 0 or (value == 0 and where.rsplit(".", 1)[-1] in least_of)):
        raise records.DamagedRecordError(f"{where} is {value:g}, which is no such number")
    return value


def _object(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise records.DamagedRecordError(f"{where or 'it'} is no object")
    hints, given = typing.get_type_hints(kind), {}
    for item in fields(kind):
        name = f"{where}.{item.name}" if where else item.name
        if item.name in value:
            given[item.name] = _taken(hints[item.name], value[item.name], name)
    try:
        return kind(**given)
    except TypeError:
        missing = [item.name for item in fields(kind) if item.name not in given]
        raise records.DamagedRecordError(f"{where or 'it'} does not say {missing[0]}") from None
