"""The photographs that ship inside an installed package, scored by the real code and drawn on a contact sheet.

The tower and the head are made here and nobody trained them, so the scores mean nothing; with the real ones they are real.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beholder.columns import AESTHETIC_SCORE, MESSAGE, REASON, SAMPLE
from beholder.demo.pictures import draw_contact_sheet
from beholder.errors import HeadError, OutputError
from beholder.io import storage, writing
from beholder.models.catalog import DEFAULT_HEAD, DEFAULT_TOWER
from beholder.models.head_layouts import HeadFile, Layer
from beholder.models.heads import Head, load_head, math_of, save_head
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from beholder.scoring.summary import RunSummary

UNTRAINED_NOTE = "These scores mean nothing: nobody trained this tower and this head, their weights are random."

PACKAGES: tuple[tuple[str, str, str], ...] = (
    ("scikit-image", "skimage", "data"),
    ("scikit-learn", "sklearn", "datasets/images"),
    ("matplotlib", "matplotlib", "mpl-data/sample_data"),
)
"""(name on the package index, module, folder below it) of packages with photographs, the richest first."""

Say = Callable[[str], None]
"""Takes each line of the demo's account."""
INDENT = " " * 12
"""Before the lines that go on with a step."""

_SCORE_SD = 0.5
_MOST_REJECTS = 5


class Photographs(NamedTuple):
    """A folder of photographs and the package it belongs to."""

    package: str
    folder: Path


class Models(NamedTuple):
    """What scores: a tower and a head, and whether somebody trained them."""

    tower: str
    head: str
    is_trained: bool


def find_photographs(packages: Sequence[tuple[str, str, str]] = PACKAGES) -> Photographs | None:
    """The photographs of the first of `packages` that is installed with them, or None. Imports none of them."""
    for package, module, inside in packages:
        spec = importlib.util.find_spec(module)
        for place in (spec.submodule_search_locations or ()) if spec is not None else ():
            folder = Path(place) / inside
            if folder.is_dir() and any(path.suffix in (".jpg", ".png") for path in folder.iterdir()):
                return Photographs(package, folder)
    return None


def real_models() -> Models:
    """The default tower (1.2 GB) and head, fetched unless they are here. Raises HeadError, one line."""
    from beholder.models import download
    from beholder.models.catalog import tower_file_named
    from beholder.models.towers import find_tower_file, local_file

    try:
        load_head(DEFAULT_HEAD)
        entry = tower_file_named(DEFAULT_TOWER)
        is_direct = download.models_place() is None and not download.is_hub_offline(None)
        if entry is not None and is_direct and local_file(entry) is None:
            download.look_up(entry.sources[0])  # quick to fail where nothing can be reached, before other places are tried
        find_tower_file(DEFAULT_TOWER)
    except HeadError as error:
        raise HeadError(f"--real: {error}; the demo without --real needs no network") from None
    return Models(DEFAULT_TOWER, DEFAULT_HEAD, is_trained=True)


def untrained_models(folder: Path, seed: int) -> Models:
    """A small random CLIP tower (224 pixels to 768 numbers) and a random head, as files in `folder`; same seed, same bytes.

    The tower's file is in birder's layout, as the default tower's is.
    """
    import safetensors.torch

    from beholder.models.backbones import TowerShape
    from beholder.models.clip import random_tensors

    shape = TowerShape.small(image_px=224, patch_px=32, width=128, dim=768)
    tower, head = folder / "untrained_quick_gelu.safetensors", folder / "untrained-head.safetensors"
    tensors = {_birder_name(name): tensor for name, tensor in random_tensors(shape, seed).items()}
    for name in ("class_token", "pos_embedding"):
        tensors[name] = tensors[name].reshape(1, -1, shape.width)
    writing.write_bytes(str(tower), safetensors.torch.save(tensors, {"note": UNTRAINED_NOTE}))
    weight = np.random.default_rng(seed).standard_normal((1, shape.dim)) * _SCORE_SD
    math = math_of(HeadFile((Layer(weight, np.array([5.0])),), "none", 1.0, "made here"))
    save_head(Head(name="untrained-head", math=math, notes={"note": UNTRAINED_NOTE}), head)
    return Models(str(tower), str(head), is_trained=False)


_BIRDER_NAMES: Mapping[str, str] = {
    "positions": "pos_embedding", "patch.": "conv_proj.", "norm_pre.": "encoder.pre_block.0.", "norm_post.": "norm.",
    "blocks.": "encoder.block.", "attn.out.": "attn.proj.", "norm_1.": "norm1.", "norm_2.": "norm2.", "mlp_in.": "mlp.0.",
    "mlp_out.": "mlp.3.", "projection.": "classifier.",
}  # fmt: skip


def _birder_name(canonical: str) -> str:
    """A canonical tensor's name in birder's layout."""
    for ours, theirs in _BIRDER_NAMES.items():
        canonical = canonical.replace(ours, theirs)
    return canonical


def score_photographs(folder: Path, photographs: Photographs | None, models: Models, say: Say) -> dict[str, Any]:
    """Score the photographs as `beholder score` does, keep their embeddings, draw them, and tell it.

    Args:
        folder: where everything goes; results of the same job there are kept.
        photographs: None: nothing is done but told so.
        models: what scores.
        say: takes each line.

    Returns:
        A JSON-ready record.
    """
    if photographs is None:
        names = ", ".join(name for name, _, _ in PACKAGES)
        say(f"6  pictures skipped: no package with photographs is installed ({names}; the first has most)")
        return {"skipped": f"none of these packages is installed with photographs: {names}"}
    started = time.perf_counter()
    stem = "scores" if models.is_trained else "meaningless-scores"
    summary, is_anew = _scored(_options(folder / f"{stem}.parquet", photographs, models))
    rows = _read_rows(summary.output, SAMPLE, AESTHETIC_SCORE)
    sheet = folder / f"{stem}.png"
    title = f"{len(rows)} pictures of {photographs.package}, scored by {Path(models.tower).stem} and {Path(models.head).stem}"
    draw_contact_sheet(sheet, rows, title=title, warning="" if models.is_trained else UNTRAINED_NOTE)
    seconds = time.perf_counter() - started
    _tell(photographs, models, summary, rows, is_anew, seconds, say)
    return {
        "is_meaningless": not models.is_trained,
        "note": "" if models.is_trained else UNTRAINED_NOTE,
        "package": photographs.package,
        "folder": str(photographs.folder),
        "score": summary.to_json(),
        "pictures_per_second": summary.num_new / summary.seconds if summary.num_new and summary.seconds else None,
        "seconds": seconds,
        "paths": {"scores": summary.output, "embeddings": summary.embeddings, "rejects": summary.rejects, "sheet": str(sheet)},
    }


def _options(out: Path, photographs: Photographs, models: Models) -> ScoreOptions:
    """The job. The random tower runs in float32 on the processor: there is nothing to gain, and the result is the same."""
    options = ScoreOptions(
        sources=(str(photographs.folder),),
        out=str(out),
        heads=(models.head,),
        backbone=models.tower,
        keep_embeddings=True,
        workers=None if models.is_trained else 2,
    )
    return options if models.is_trained else replace(options, device="cpu", precision="fp32", offline=True)


def _scored(options: ScoreOptions) -> tuple[RunSummary, bool]:
    """The summary, and whether an earlier result had to go, as another version of a package would give another one."""
    try:
        return score(options), False
    except OutputError:
        return score(replace(options, overwrite=True)), True


def _read_rows(path: str, *names: str) -> list[Any]:
    """Tuples of these columns, in the order of the table."""
    with storage.open_parquet(path) as file:
        table = file.read(list(names))
    return list(zip(*(table.column(name).to_pylist() for name in names), strict=True))


def _tell(
    photographs: Photographs,
    models: Models,
    summary: RunSummary,
    rows: Sequence[tuple[str, float]],
    is_anew: bool,
    seconds: float,
    say: Say,
) -> None:
    """What was scored and how fast, what was rejected and why, what the presets would change, and what it means."""
    rate = "; kept from before"
    if summary.num_new:
        rate = f": {summary.num_new / summary.seconds:,.1f} pictures/s, decode workers' start included"
    rejected = f"{summary.num_rejected} rejected" + (f" ({_counted(summary.reasons)})" if summary.reasons else "")
    what = f"{summary.num_scored} pictures that come with {photographs.package} scored, {rejected}"
    say(f"6  pictures {what}{rate}  [{seconds:.1f} s]")
    rejects = _read_rows(summary.rejects, SAMPLE, REASON, MESSAGE) if summary.rejects is not None else []
    for path, reason, message in rejects[:_MOST_REJECTS]:
        say(f"{INDENT}{Path(path).name} is {reason}: {message}")
    if is_anew:
        say(f"{INDENT}anew: an earlier result there was by other models, versions or options")
    for note in summary.notes:
        say(f"{INDENT}{note}")
    if summary.traits:
        say(f"{INDENT}presets differ for some of them ({_counted(summary.traits)}): see --preset in beholder score --help")
    if not models.is_trained:
        say(f"{INDENT}{UNTRAINED_NOTE}")
        say(f"{INDENT}With OpenAI's tower and LAION's head (1.2 GB to fetch): beholder demo --real")
        return
    for path, value in sorted(rows, key=lambda row: -row[1]):
        say(f"{INDENT}{value:7.3f}  {Path(path).name}")


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
