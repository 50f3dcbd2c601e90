"""The plan of a job on pictures: the tower, the heads and the pixels are loaded, checked and written down."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from beholder import columns
from beholder.columns import EmbeddingFormat
from beholder.engine import MAX_DRIFT, PRECISIONS
from beholder.errors import InputError
from beholder.models.catalog import DEFAULT_TOWER
from beholder.models.heads import Head, load_head
from beholder.notices import doing
from beholder.scoring.files import WriteOptions
from beholder.sources.reader import PicturePart, PixelOptions, Trait
from beholder.scoring.execute import Plan
from beholder.scoring.files import WriteOptions
from beholder.scoring.options import EmbedOptions, ScoreOptions, source_options
from beholder.scoring.output import EMBEDDINGS, RunOutput
from beholder.scoring.pictures_shard import PictureProduct
from beholder.scoring.pictures_step import DecodeOptions, PictureStep
from beholder.scoring.summary import SETTLED_BY, RunSummary
from beholder.sources.find import find_only_pictures
from beholder.sources.reader import PicturePart
from beholder.sources.sampling import count_traits

if TYPE_CHECKING:
    from beholder.engine.engine import Engine
    from beholder.models.towers import Tower

Options = ScoreOptions | EmbedOptions
_CPU_SHARD_PICTURES, _DEVICE_SHARD_PICTURES = 512, 8192
_MOST_SOURCES = 1000
"""Of more sources (every file of a folder by the shell) no list is kept in the record; their samples are their paths."""


def plan_scores(options: ScoreOptions, out: str, *, parts: Sequence[PicturePart] | None = None) -> Plan:
    """The plan of `beholder score PICTURES`, of `parts` where the sources have been looked into already.

    Raises BeholderError; nothing has been written by then.
    """
    heads = [load_head(name, offline=options.offline) for name in options.heads]
    return _plan(options, out, heads, WriteOptions() if options.keep_embeddings else None, parts)


def plan_embeddings(options: EmbedOptions, out: str, *, parts: Sequence[PicturePart] | None = None) -> Plan:
    """The plan of `beholder embed`, of `parts` where the sources have been looked into already.

    Raises BeholderError; nothing has been written by then.
    """
    kind = RunOutput(out, EMBEDDINGS).kind
    by_kind: dict[str, EmbeddingFormat] = {"folder": "npy", "parquet": "parquet", "csv": "birder-csv"}
    wanted = options.format or by_kind[kind]
    fitting = {"folder": True, "parquet": wanted in ("parquet", "birder-parquet"), "csv": wanted == "birder-csv"}[kind]
    if not fitting:
        raise InputError(f"--format {wanted} does not go into {out}; leave one of them out, or name a folder")
    is_birder = wanted.startswith("birder")
    if is_birder and (options.dtype == "float16" or options.normalise):
        raise InputError(f"{out}: birder's layouts hold float32 as the tower gives it; leave --dtype and --normalise out")
    keep = WriteOptions(
        format=wanted,
        dtype=options.dtype or ("float32" if is_birder else "float16"),
        normalise=not is_birder if options.normalise is None else options.normalise,
        is_bare=options.is_bare,
        folders=options.folders,
    )
    return _plan(options, out, [], keep, parts)


def _plan(
    options: Options,
    out: str,
    heads: Sequence[Head],
    keep: WriteOptions | None,
    known: Sequence[PicturePart] | None = None,
) -> Plan:
    source = source_options(options)
    with doing("looking at the sources"):
        parts = find_only_pictures(options.sources, source) if known is None else list(known)
    product = RunOutput(out, EMBEDDINGS) if not heads else RunOutput(out)
    inputs = [part.path for part in parts]
    product.refuse_inputs(inputs)
    if not options.overwrite:
        product.check_place()
    with doing("loading the tower"):
        tower, engine, warnings = open_engine(_as_before(options, product), heads)
    pixels = options.pixels(tower.shape.image_px)
    beside = {columns.KEPT_BESIDE: PurePosixPath(out).name} if heads and keep is not None else {}
    stamp = beside | stamp_of(tower, engine, pixels, keep, hidden=getattr(options, "hidden", False))
    stamp[columns.PICTURES] = _where(options)
    step = PictureStep(
        parts,
        engine,
        PictureProduct(
            stamp,
            heads=heads,
            as_csv=product.kind == "csv" and bool(heads),
            keep=keep,
            keep_folder=columns.EMBEDDINGS_FOLDER if heads else "",
            dim=engine.dim,
            num_threads=options.num_threads,
        ),
        DecodeOptions(pixels=pixels, source=source, num_workers=_num_workers(options, engine), timeout_s=options.timeout_s),
        shard_rows=options.shard_rows or (_CPU_SHARD_PICTURES if engine.device.type == "cpu" else _DEVICE_SHARD_PICTURES),
        record=_deciding(tower, engine, pixels, options.compile),
    )
    summary = RunSummary(
        output=out,
        unit="pictures",
        verb="score" if heads else "embed",
        head_names=[head.name for head in heads],
        head_notes=[head.doubt for head in heads],
        warnings=warnings,
        notes=_notes(tower, engine, pixels, parts) + _preset_notes(options, pixels, parts),
        preset=pixels.preset,
        embeddings=product.kept_embeddings if keep is not None and heads else None,
        num_ignored=sum(part.num_ignored for part in parts),
        check_seconds=engine.check_seconds,
    )
    return Plan(step=step, product=product.product, sources=options.sources, inputs=inputs, summary=summary)


def _as_before(options: Options, output: RunOutput) -> Options:
    """Where a run is continued, "auto" is the precision that it was begun with: another machine's check may choose another."""
    before = {} if options.overwrite else output.earlier_options()
    recorded = before.get("--precision")
    if options.precision != "auto" or recorded not in PRECISIONS:
        return options
    return replace(options, precision=recorded)


def open_engine(options: Options, heads: Sequence[Head]) -> tuple[Tower, Engine, list[str]]:
    """Load the tower, check that the heads are made for it, and put it on its device; with warnings worth telling."""
    from beholder.engine.engine import Engine
    from beholder.models.clip import without_projection
    from beholder.models.towers import check_head_fits, load_tower

    tower = load_tower(options.backbone or DEFAULT_TOWER, offline=options.offline, activation=options.activation)
    warnings = [warning for head in heads if (warning := check_head_fits(tower, head))]
    wanted = tower
    if isinstance(options, EmbedOptions) and options.hidden:
        module = without_projection(tower.module)
        wanted = replace(tower, module=module, shape=module.shape, sha256=f"{tower.sha256}-hidden")
    engine = Engine(
        wanted,
        device=options.device,
        precision=options.precision,
        compile=options.compile,
        batch_size=options.batch_size,
        num_threads=options.num_threads,
        heads=heads,
    )
    return tower, engine, warnings


def stamp_of(
    tower: Tower, engine: Engine, pixels: PixelOptions, keep: WriteOptions | None, *, hidden: bool = False
) -> dict[str, Any]:
    """JSON-ready: everything about how embeddings are made (`docs/formats.md`)."""
    from beholder import __version__

    backbone = tower.backbone or tower.name
    return {
        "format": columns.EMBEDDINGS_FORMAT,
        "version": columns.FORMAT_VERSION,
        "beholder": __version__,
        "backbone": f"{backbone} before its projection" if hidden else backbone,
        "weights_sha256": tower.sha256,
        "activation": tower.activation,
        "tower": tower.describe(),
        "dim": engine.dim,
        "pixels": pixels.to_json(),
        "decoder": pixels.decoder,
        "precision": engine.describe(),
        **({} if keep is None else {"normalised": keep.normalise, "dtype": keep.dtype}),
        "software": {name: version(name) for name in ("torch", "pillow", "numpy")},
    }


def _where(options: Options) -> dict[str, Any]:
    """JSON-ready: where the pictures were found, so that they can be shown, copied or packed later."""
    few = len(options.sources) <= _MOST_SOURCES
    return {
        "sources": list(options.sources) if few else None,
        "folder": str(Path.cwd()),
        "sample_column": options.sample_column,
        "picture_column": options.picture_column,
    }


def _deciding(tower: Tower, engine: Engine, pixels: PixelOptions, compiled: bool) -> Mapping[str, Any]:
    """What decides embeddings, in the words of the command line; a run with others is another run."""
    return {
        "--backbone": tower.backbone or tower.name,
        "tower sha256": tower.sha256,
        "--activation": tower.activation,
        "--preset": pixels.preset,
        "--decoder": pixels.decoder,
        "--max-pixels": pixels.max_pixels,
        "size and crop": [pixels.size_px, pixels.crop],
        "--precision": engine.precision,
        "device": engine.device.type,
        "--compile": compiled,
        **({"--batch-size": engine.batch_size} if engine.device.type == "cpu" else {}),
        "pillow": version("pillow"),
        "dim": engine.dim,
    }


def _num_workers(options: Options, engine: Engine) -> int:
    """Decode processes: all cores beside a GPU; beside a CPU tower, which keeps all cores busy itself, half of them."""
    if options.workers is not None:
        return options.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // 2) if engine.device.type == "cpu" else cores


_TRAIT_WORDS = {
    Trait.ROTATED: ("is turned by EXIF", "are turned by EXIF"),
    Trait.PALETTE: ("has a palette", "have a palette"),
    Trait.ALPHA: ("has an alpha channel", "have an alpha channel"),
    Trait.DEEP: ("has more than 8 bits", "have more than 8 bits"),
}


def _preset_notes(options: Options, pixels: PixelOptions, parts: Sequence[PicturePart]) -> list[str]:
    """A line on the pictures for which the preset matters, by a look at some; none where the preset settles it."""
    if getattr(options, "is_bare", False):  # birder's own command, which has no presets
        return []
    matter = [trait for trait in _TRAIT_WORDS if str(trait.name).lower() not in SETTLED_BY[pixels.preset]]
    if not matter:
        return []
    with doing("looking at some pictures"):
        num_seen, counts = count_traits(parts)
    found = [f"{counts[trait]:,} {_TRAIT_WORDS[trait][counts[trait] > 1]}" for trait in matter if counts[trait]]
    if not found:
        return []
    verb = "scores" if isinstance(options, ScoreOptions) else "embeds"
    preset = "reference, the default," if pixels.preset == "reference" else pixels.preset
    return [
        f"of {num_seen:,} pictures looked at {', '.join(found)}: --preset upright {verb} them as people see them; "
        f"{preset} {verb} them as stored"
    ]


def _notes(tower: Tower, engine: Engine, pixels: PixelOptions, parts: Sequence[PicturePart]) -> list[str]:
    """Lines that say what is done with what."""
    made = engine.describe()
    drift, check = made["drift"], made["self_check"]
    how = f"{engine.device}, {engine.precision}"
    if drift is not None and engine.precision != "fp32":
        how += f" (scores within {drift:.4f} of fp32 on the self-check)"
    batch = f"batches of {engine.batch_size}" if engine.batch_size else "batches as large as pay"
    where = "1 part" if len(parts) == 1 else f"{len(parts):,} parts"
    notes = [f"{tower.name} on {how}, {batch}; pixels: {pixels.preset}, {pixels.decoder}; {where}"]
    if check is not None and check.get("chosen") != check.get("chosen_for_tower"):
        usual = check["chosen_for_tower"]
        drift = check["drift"][usual]
        notes.append(f"{usual} would move the scores of these heads by {drift:.3f}, over {MAX_DRIFT}, so not used")
    return notes
