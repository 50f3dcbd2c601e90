"""The part `path` of gpu.py: tars of JPEGs in, pictures/s out; and pictures for its other parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from beholder import Head, save_head
from beholder.kernels.scoring import Affine
from beholder.models.clip import random_tensors
from beholder.pixels.decode import prepare
from beholder.pixels.picture import PixelOptions
from beholder.sources.reader import PictureRef
from beholder.workers.pool import DecodePool
from pictures import SIZES, make_jpeg, make_set, mix_line
from tower_checkpoints import save_hugging_face

if TYPE_CHECKING:
    from gpu import Run


@cache
def prepared_pictures(count: int, side_px: int) -> npt.NDArray[np.uint8]:
    """(count, S, S, 3) uint8: photographs after the reference's transform; the same ones again after 64."""
    few = [
        prepare(make_jpeg(number, SIZES["512x384"]), PixelOptions(size_px=side_px)).pixels for number in range(min(count, 64))
    ]
    return np.resize(np.stack(few), (count, side_px, side_px, 3))


def path(run: Run, count: int) -> None:
    """Measure everything on one set of pictures, made for it and thrown away."""
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=run.out) as folder:
        made = make_set(Path(folder) / "pictures", count, workers=cores, num_tars=4 if run.is_dry else 16)
        run.keep("path", "pictures", mix_line(made))
        run.keep("path", "cores", cores)
        files = [path.read_bytes() for path in sorted((made / "folder" / "pictures").glob("*.jpg"))]
        decoding = decoding_rate(files, cores, "pillow", run)
        run.keep("path", "decoding alone, pictures/s", decoding)
        # The whole program several times over the same tars under other names, so that its start weighs little.
        several = Path(folder) / "several"
        several.mkdir()
        for tar in sorted((made / "tars").glob("*.tar")):
            for turn in range(1 if run.is_dry else 4):
                (several / f"{tar.stem}_{turn}.tar").hardlink_to(tar)
        found = _or_why(whole, run, several, Path(folder), "pillow")
        run.keep("path", "beholder score --decoder pillow", found)
        if isinstance(found, dict):
            lower = min([decoding, *tower_rate(run)])
            run.keep("path", "of the lower of decoding and tower", found["account"]["rows_per_second"] / lower)
        if not run.is_dry:
            run.keep("path", "decoding alone (scaled), pictures/s", decoding_rate(files, cores, "scaled", run))
            run.keep("path", "beholder score --decoder scaled", _or_why(whole, run, several, Path(folder), "scaled"))
        run.keep("path", "decoding on the GPU", _or_why(gpu_decoding, run, files))


def tower_rate(run: Run) -> list[float]:
    """Pictures a second of the tower that the whole path has, where it was measured before."""
    rates = run.record.get("parts", {}).get("rates", {})
    key = f"beholder bf16{'' if run.is_dry else ' compiled'}, batch {run.batch}"
    return [rates[key]["pictures_per_second"]] if isinstance(rates.get(key), dict) else []


def _or_why(work: Any, *given: Any) -> Any:
    try:
        return work(*given)
    except (ImportError, RuntimeError, OSError, ValueError, AttributeError, subprocess.SubprocessError) as error:
        text = getattr(error, "stderr", None) or str(error)
        return f"{type(error).__name__}: {' '.join(text.split())[-300:]}"


def decoding_rate(files: list[bytes], workers: int, decoder: str, run: Run) -> float:
    """Pictures a second of a decode pool whose pixels nobody uses; workers are started before the clock is."""
    options = PixelOptions(size_px=run.shape.image_px, decoder=decoder)  # type: ignore[arg-type]
    with DecodePool(options, num_workers=workers, num_slots=1024) as pool:
        for warm in (True, False):
            chosen = files[: 4 * workers] if warm else files
            started = time.perf_counter()
            for outcome in pool.map(zip(repeat(None), (PictureRef(data=data) for data in chosen), strict=False)):
                assert outcome.error is None
                outcome.release()
    return len(files) / (time.perf_counter() - started)


def whole(run: Run, tars: Path, folder: Path, decoder: str) -> dict[str, Any]:
    """`beholder score`: its own account, and the time of the whole process."""
    hf = save_hugging_face(folder / "tower", run.shape, random_tensors(run.shape))
    weight = np.random.default_rng(4).standard_normal(run.shape.dim)
    save_head(Head(name="random", math=Affine(weight, 5.0)), folder / "head.safetensors")
    out = folder / f"scores_{decoder}"
    line = [sys.executable, "-m", "beholder", "score", str(tars), "-o", str(out), "--backbone", str(hf), "--json"]
    line += [
        "--head",
        str(folder / "head.safetensors"),
        "--keep-embeddings",
        "--decoder",
        decoder,
        "--tower-activation",
        "quick_gelu",
        *(["--precision", "bf16"] if run.is_dry else ["--precision", "bf16", "--compile"]),
    ]
    line += ["--device", run.device.type] + (["--precision", "bf16", "-j", "2"] if run.is_dry else [])
    started = time.perf_counter()
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    seconds, account = time.perf_counter() - started, json.loads(done.stdout)
    told = {name: account[name] for name in ("num_scored", "num_rejected", "seconds", "rows_per_second", "waited_for")}
    return {"seconds": seconds, "account": told}


def gpu_decoding(run: Run, files: list[bytes]) -> dict[str, Any]:
    """Decoding by torchvision with nvJPEG and antialiased bicubic resize on the device: rate, and drift of its pixels."""
    if run.device.type != "cuda":
        raise RuntimeError("no CUDA device")
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import functional as transforms

    side = run.shape.image_px

    def pixels_of(chosen: list[bytes]) -> list[torch.Tensor]:
        raw = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in chosen]
        images = decode_jpeg(raw, mode=ImageReadMode.RGB, device=run.device)
        resized = [
            transforms.resize(i, [side], interpolation=transforms.InterpolationMode.BICUBIC, antialias=True) for i in images
        ]
        return [transforms.center_crop(i, [side, side]) for i in resized]

    chosen = files[:64]
    found = torch.stack(pixels_of(chosen)).permute(0, 2, 3, 1).cpu().numpy().astype(np.int16)
    wanted = np.stack([prepare(data, PixelOptions(size_px=side)).pixels for data in chosen]).astype(np.int16)
    torch.cuda.synchronize(run.device)
    started = time.perf_counter()
    for start in range(0, len(files), 64):
        pixels_of(files[start : start + 64])
    torch.cuda.synchronize(run.device)
    off = np.abs(found - wanted)
    rate = len(files) / (time.perf_counter() - started)
    return {"pictures_per_second": rate, "levels_max": int(off.max()), "levels_mean": float(off.mean())}
