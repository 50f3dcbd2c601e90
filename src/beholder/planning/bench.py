"""`beholder bench`: measures the rates of this machine, each stage in its share of the time."""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from beholder.errors import InputError, OutputError, reading_failed, writing_failed
from beholder.io import locations, storage, writing
from beholder.io.page_cache import share_in_memory
from beholder.notices import doing
from beholder.options import all_cores
from beholder.pixels.picture import PixelOptions
from beholder.planning import machine, rates
from beholder.planning.decode_rate import made_photographs, measure_decoding
from beholder.planning.options import BenchOptions
from beholder.planning.rates import Clock, Rates, StorageRate
from beholder.planning.run_rate import measure_rows, measure_run
from beholder.planning.tower_rate import devices_to_measure, find_tower, measure_tower
from beholder.sources.find import find_only_pictures
from beholder.sources.reader import PictureRef, SourceOptions
from beholder.sources.sampling import sample_refs

SHARES = {"decode": 0.25, "tower": 0.4, "storage": 0.1, "rows": 0.15}
"""Of the time; that whole processes start takes what it takes, some seconds."""
_OWN = "from the source"
_OWN_PICTURES = 64
_OWN_BYTES = 256 << 20
_PIECE_BYTES, _MOST_BYTES = 8 << 20, 512 << 20
"""Of the file that the storage is measured with."""
_CACHED_SHARE = 0.5


def bench(options: BenchOptions, *, clock: Clock = time.monotonic) -> tuple[Rates, list[str]]:
    """Measure everything; (rates, notes). They are kept where `options.out` says, or as those of this machine.

    Raises BeholderError: no such device or tower, a source without pictures, storage that cannot be written, ...
    """
    devices = devices_to_measure(options.device)
    own = _own_pictures(options)
    place = options.storage or str(Path.cwd())
    idle = _Idle()
    with _scratch_folder() as folder:
        with doing("measuring the storage"):
            stored = measure_storage(place, seconds=options.max_time_s * SHARES["storage"], clock=clock)
        with doing("measuring the tower"):
            tower = find_tower(options, clock)
            pixels = PixelOptions(size_px=tower.shape.image_px, decoder=options.decoder, transform=tower.transform)
            towers, notes = measure_tower(
                tower, devices, options.precision, seconds=options.max_time_s * SHARES["tower"], clock=clock
            )
        with doing("measuring how pictures are decoded"):
            decode = measure_decoding(
                {**made_photographs(folder), **own},
                pixels,
                own=_OWN if own else None,
                seconds=options.max_time_s * SHARES["decode"],
                clock=clock,
            )
        with doing("measuring whole runs"):
            run = measure_run(folder, tower.shape.image_px, clock=clock)
            rows = measure_rows(folder, tower.shape.dim, seconds=options.max_time_s * SHARES["rows"], clock=clock)
    found = Rates(
        date=f"{datetime.date.today():%Y-%m-%d}",
        num_cores=all_cores(),
        about=tuple(machine.lines("beholder", "torch", "numpy", "pillow")),
        busy=idle.busy(),
        decode=decode,
        towers=tuple(towers),
        run=run,
        storage=stored,
        rows=rows,
    )
    rates.save(found, options.out or str(rates.kept_path()))
    return found, notes


@contextlib.contextmanager
def _scratch_folder() -> Iterator[Path]:
    """A folder for what is made to measure with: some 1.2 GB. Raises OutputError where it cannot be written."""
    try:
        with tempfile.TemporaryDirectory(prefix="beholder-bench-") as name:
            yield Path(name)
    except OSError as error:
        where, why = tempfile.gettempdir(), error.strerror or error
        raise OutputError(f"cannot write {where}: {why}; make room for 2 GB, or name another folder (TMPDIR)") from error


def _own_pictures(options: BenchOptions) -> dict[str, list[PictureRef]]:
    """Some pictures of the sources, read from where they are; none without sources. Raises InputError."""
    if not options.sources:
        return {}
    with doing("looking at the sources"):
        source = SourceOptions(columns=(), picture_column=options.picture_column, block_rows=16, block_bytes=8 << 20)
        parts = find_only_pictures(options.sources, source)
        refs: list[PictureRef] = []
        num_bytes = 0
        for ref in sample_refs(parts, _OWN_PICTURES, source):
            if ref.error is None:
                refs.append(ref)
                num_bytes += len(ref.data or b"")
            if num_bytes > _OWN_BYTES:
                break
    if not refs:
        raise InputError(f"{', '.join(options.sources)}: no picture to measure with")
    return {_OWN: refs}


class _Idle:
    """How much of the processor others take while we measure (Linux; elsewhere nothing is known)."""

    def __init__(self) -> None:
        self._before = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds of all cores: that anybody worked, in all, and that we and our ended children worked."""
        try:
            words = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]
        except OSError:
            return 0.0, 0.0, 0.0
        ticks = os.sysconf("SC_CLK_TCK")
        values = [int(word) / ticks for word in words[:8]]
        ours = os.times()
        return sum(values) - values[3] - values[4], sum(values), ours[0] + ours[1] + ours[2] + ours[3]

    def busy(self) -> float:
        """Share of the processor that others had since this was made, 0 to 1."""
        worked, whole, ours = (now - before for now, before in zip(self._now(), self._before, strict=True))
        return min(1.0, max(0.0, (worked - ours) / whole)) if whole > 0 else 0.0


def measure_storage(place: str, *, seconds: float, clock: Clock) -> StorageRate:
    """Bytes a second of a new file there, which is deleted again: written and flushed, then read.

    Before a local file is read, the system is asked to forget it (posix_fadvise); `is_cached` says that it did not, as on disks
    in memory. What lies below the system (a disk's own memory, the host of a virtual machine) may still have it.

    Raises BeholderError: the place cannot be written or read.
    """
    path = f"{place.rstrip('/')}/.beholder-bench-{secrets.token_hex(4)}.tmp"
    piece = np.random.default_rng(0).bytes(_PIECE_BYTES)
    try:
        if locations.is_local(path):
            return _local(place, locations.local_path(path), piece, seconds, clock)
        return _remote(place, path, piece, seconds, clock)
    finally:
        with contextlib.suppress(OSError):
            writing.remove(path)


def _local(place: str, path: Path, piece: bytes, seconds: float, clock: Clock) -> StorageRate:
    try:
        with path.open("wb", buffering=0) as file:
            began, written = clock(), 0
            while written < _MOST_BYTES and (not written or clock() - began < seconds / 3):
                written += file.write(piece)  # which may be a part of it
            os.fsync(file.fileno())
            write_s = clock() - began
    except OSError as error:
        raise writing_failed(str(path), error) from error
    try:
        with path.open("rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            in_memory = share_in_memory([path])
            is_cached = in_memory is None or in_memory > _CACHED_SHARE
            began, read = clock(), 0
            while (not read or clock() - began < seconds / 3) and (found := file.read(_PIECE_BYTES)):
                read += len(found)
            read_s = clock() - began
    except OSError as error:
        raise reading_failed(str(path), error) from error
    return StorageRate(
        place=place,
        read_bytes_per_second=read / max(read_s, 1e-9),
        write_bytes_per_second=written / max(write_s, 1e-9),
        is_cached=is_cached,
    )


def _remote(place: str, path: str, piece: bytes, seconds: float, clock: Clock) -> StorageRate:
    began, written = clock(), 0
    with writing.open_whole(path, num_bytes=_MOST_BYTES) as file:
        while written < _MOST_BYTES and (not written or clock() - began < seconds / 3):
            file.write(piece)
            written += len(piece)
    write_s = clock() - began
    began, read = clock(), 0
    while read < written and (not read or clock() - began < seconds / 3):
        read += len(storage.read_range(path, read, min(written, read + _PIECE_BYTES)))
    return StorageRate(
        place=place,
        read_bytes_per_second=read / max(clock() - began, 1e-9),
        write_bytes_per_second=written / max(write_s, 1e-9),
        is_cached=False,
    )
