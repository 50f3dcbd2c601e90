"""`beholder bench`: measures the rates of this machine, each stage in its share of the time."""

from __future__ import annotations

import contextlib
import datetime
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from beholder.errors import InputError, OutputError
from beholder.notices import doing
from beholder.options import all_cores
from beholder.pixels.picture import PixelOptions
from beholder.planning import machine, rates
from beholder.planning.decode_rate import made_photographs, measure_decoding
from beholder.planning.options import BenchOptions
from beholder.planning.rates import Clock, Rates
from beholder.planning.run_rate import measure_rows, measure_run
from beholder.planning.storage_rate import measure_storage
from beholder.planning.tower_rate import devices_to_measure, find_tower, measure_tower
from beholder.sources.find import find_only_pictures
from beholder.sources.reader import PictureRef, SourceOptions
from beholder.sources.sampling import sample_refs

SHARES = {"decode": 0.25, "tower": 0.4, "storage": 0.1}
"""Of the time; the runs at the end take what they take, some seconds."""
_OWN = "from the source"
_OWN_PICTURES = 64
_OWN_BYTES = 256 << 20


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
            rows = measure_rows(folder, tower.shape.dim, clock=clock)
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
