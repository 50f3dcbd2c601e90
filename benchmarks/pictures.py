"""Real photographs in, JPEGs as the web has them out: tars in img2dataset's layout and a folder of the same files.

    python benchmarks/pictures.py [--count 2000] [--out FOLDER]

The photographs are those that ship inside scikit-image, scikit-learn and matplotlib. Each picture is a cut of one of them,
mirrored at its edges where the picture is larger, rescaled, changed in brightness and colour, with a camera's noise, and
compressed as web pictures are. Same seed and same Pillow, same bytes. `mix.json` says what was made; where
it is, nothing is made again.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = REPOSITORY / "benchmarks" / "data"

PHOTOGRAPHS = {
    "skimage": ("data/astronaut.png", "data/chelsea.png", "data/coffee.png", "data/hubble_deep_field.jpg", "data/ihc.png",
                "data/motorcycle_left.png", "data/motorcycle_right.png", "data/retina.jpg", "data/rocket.jpg"),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
}  # fmt: skip
"""Colour photographs of at least 200 pixels, by package."""

SIZES = {
    "512x384": (512, 384), "640x480": (640, 480), "1024x768": (1024, 768), "3 MP": (2048, 1536), "12 MP": (4000, 3000),
}  # fmt: skip
MIX = {"512x384": 0.25, "640x480": 0.35, "1024x768": 0.30, "3 MP": 0.08, "12 MP": 0.02}
"""Share of each size: mostly what a web collection holds, with a few from cameras."""


def photograph_files() -> list[Path]:
    """Photographs found in the packages of this environment, or else of the peers'; sorted by package and name."""
    homes = [Path(sysconfig.get_path("purelib"))]
    homes += sorted((REPOSITORY / ".venv-peers" / "lib").glob("python3*/site-packages"))
    found = []
    for package, names in PHOTOGRAPHS.items():
        spec = find_spec(package)
        folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
        folders += [home / package for home in homes]
        for name in names:
            found += [folder / name for folder in folders if (folder / name).exists()][:1]
    return found


@cache
def _photographs() -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    found = [np.asarray(Image.open(path).convert("RGB")) for path in photograph_files()]
    if not found:
        print("no photographs are installed (scikit-image, scikit-learn, matplotlib): pictures are synthetic", file=sys.stderr)
        rng = np.random.default_rng(7)
        for _ in range(4):
            total = np.zeros((480, 640, 3), np.float32)
            for octave in range(6):
                coarse = rng.normal(0, 40 / 2**octave, (3, 6 * 2**octave, 8 * 2**octave)).astype(np.float32)
                total += np.stack([np.asarray(Image.fromarray(plane).resize((640, 480))) for plane in coarse], axis=2)
            found.append(np.clip(128 + total, 0, 255).astype(np.uint8))
    return found


@cache
def _grain() -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(99).standard_normal((1024, 1024), dtype=np.float32)


def make_jpeg(number: int, size: tuple[int, int], seed: int = 0) -> bytes:
    """Picture `number` with `size` (long side, short side); two of five stand upright."""
    rng = np.random.default_rng([seed, number, *size])
    width, height = size if rng.random() < 0.6 else size[::-1]
    photograph = _photographs()[rng.integers(len(_photographs()))]
    zoom = float(rng.uniform(0.8, 1.6) if max(size) < 1500 else rng.uniform(1.2, 2.0))
    need = (int(height / zoom) + 1, int(width / zoom) + 1)
    pads = [max(0, n - have) for n, have in zip(need, photograph.shape, strict=False)]
    image = np.pad(photograph, [(0, pads[0]), (0, pads[1]), (0, 0)], mode="symmetric") if any(pads) else photograph
    top, left = (int(rng.integers(0, have - n + 1)) for n, have in zip(need, image.shape, strict=False))
    cut = Image.fromarray(np.ascontiguousarray(image[top : top + need[0], left : left + need[1]]))
    pixels = np.asarray(cut.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    grain = np.tile(np.roll(_grain(), tuple(rng.integers(0, 1024, 2)), (0, 1)), (-(-height // 1024), -(-width // 1024)))
    pixels = pixels * rng.uniform(0.85, 1.15, 3).astype(np.float32) + float(rng.uniform(-15, 15))
    pixels += float(rng.uniform(0.5, 3.0)) * grain[:height, :width, np.newaxis]
    out = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(
        out,
        "JPEG",
        quality=int(rng.integers(75, 96)),
        subsampling="4:4:4" if rng.random() < 0.1 else "4:2:0",
        progressive=bool(rng.random() < 0.15),
    )
    return out.getvalue()


def _one(task: tuple[int, str, int]) -> tuple[int, str, bytes]:
    number, name, seed = task
    return number, name, make_jpeg(number, SIZES[name], seed)


def _tasks(count: int, seed: int) -> list[tuple[int, str, int]]:
    """The mix, exact to one picture, in a seeded order."""
    edges = np.round(np.cumsum(list(MIX.values())) * count).astype(int)
    names = np.repeat(list(MIX), np.diff(edges, prepend=0))
    np.random.default_rng(seed).shuffle(names)
    return [(number, str(name), seed) for number, name in enumerate(names)]


def jpegs(count: int, seed: int = 0, workers: int = 2) -> Iterator[tuple[int, str, bytes]]:
    """(number, size's name, JPEG) of a whole mix, in order."""
    tasks = _tasks(count, seed)
    if workers <= 1:
        yield from map(_one, tasks)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(_one, tasks, chunksize=8)


def make_set(out: Path, count: int, seed: int = 0, workers: int = 2, num_tars: int = 4) -> Path:
    """Write `out`/tars/00000.tar ... with .parquet and _stats.json (img2dataset), folder/pictures/*.jpg, mix.json."""
    done = out / "mix.json"
    if done.exists() and json.loads(done.read_text(encoding="utf-8"))["count"] == count:
        return out
    for folder in ("tars", "folder/pictures"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    made, mix = jpegs(count, seed, workers), {name: [0, 0] for name in SIZES}
    for shard in range(num_tars):
        size = (count * (shard + 1)) // num_tars - (count * shard) // num_tars
        _write_shard(out, shard, list(islice(made, size)), mix)
    record = {
        "count": count,
        "seed": seed,
        "tars": num_tars,
        "mix": {name: {"pictures": n, "megabytes": round(total / 1e6, 1)} for name, (n, total) in mix.items()},
        "photographs": [path.name for path in photograph_files()] or ["synthetic"],
    }
    done.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return out


def _write_shard(out: Path, shard: int, made: list[tuple[int, str, bytes]], mix: dict[str, list[int]]) -> None:
    rows: list[dict[str, Any]] = []
    with tarfile.open(out / "tars" / f"{shard:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, (_, name, data) in enumerate(made):
            key = f"{shard:05d}{number:04d}"
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
            row = {
                "url": f"https://example.org/{key}.jpg", "caption": f"picture {key}", "key": key, "status": "success",
                "error_message": None, "width": width, "height": height, "original_width": width, "original_height": height,
            }  # fmt: skip
            for suffix, content in (("jpg", data), ("txt", row["caption"].encode()), ("json", json.dumps(row).encode())):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            (out / "folder" / "pictures" / f"{key}.jpg").write_bytes(data)
            rows.append(row)
            mix[name][0] += 1
            mix[name][1] += len(data)
    schema = pa.schema([(name, pa.int32() if name.endswith(("width", "height")) else pa.string()) for name in rows[0]])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), out / "tars" / f"{shard:05d}.parquet")
    stats = {"count": len(rows), "successes": len(rows), "failed_to_download": 0, "failed_to_resize": 0}
    (out / "tars" / f"{shard:05d}_stats.json").write_text(json.dumps(stats), encoding="utf-8")


def mix_line(made: Path) -> str:
    """One line of Markdown on what a set holds."""
    record = json.loads((made / "mix.json").read_text(encoding="utf-8"))
    parts = [f"{part['pictures']} of {name}" for name, part in record["mix"].items() if part["pictures"]]
    total = sum(part["megabytes"] for part in record["mix"].values())
    kind = f"cuts of {len(record['photographs'])} photographs" if record["photographs"] != ["synthetic"] else "synthetic"
    what = f"{record['count']:,} JPEGs in {record['tars']} tars, {total:,.0f} MB"
    return f"{what} ({', '.join(parts)}): {kind}, seed {record['seed']}"


def main() -> None:
    """Make the set and say what it holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--out", type=Path, help="default: benchmarks/data/pictures_COUNT")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    out = make_set(options.out or DATA / f"pictures_{options.count}", options.count, workers=options.workers)
    print(f"{out}: {mix_line(out)}")


if __name__ == "__main__":
    main()
