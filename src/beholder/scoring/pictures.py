"""Plans of jobs on pictures: options become the step that embeds them (`picture_step.py`), with stamp, record, notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from beholder import columns
from beholder.columns import EmbeddingFormat
from beholder.engine import MAX_DRIFT, PRECISIONS
from beholder.errors import InputError
from beholder.models.heads import Head, load_head
from beholder.notices import doing
from beholder.options import all_cores
from beholder.pixels.picture import PixelOptions, Trait
from beholder.scoring.execute import Plan
from beholder.scoring.files import WriteOptions
from beholder.scoring.options import Options, ScoreOptions, source_options
from beholder.scoring.output import EMBEDDINGS, RunOutput
from beholder.scoring.picture_step import PictureStep
from beholder.scoring.pictures_shard import PictureProduct
from beholder.scoring.protocol import Recipe
from beholder.scoring.summary import SETTLED_BY, RunSummary
from beholder.scoring.tower import OpenTower, TowerFacts, open_engine, pixels_for
from beholder.sources.find import find_only_pictures
from beholder.sources.reader import PicturePart
from beholder.sources.sampling import count_traits

if TYPE_CHECKING:
    from beholder.engine.engine import Engine

_CPU_SHARD_PICTURES, _DEVICE_SHARD_PICTURES = 512, 8192
_MOST_SOURCES = 1000
"""Of more sources (every file of a folder by the shell) no list is kept in the record; their samples are their paths."""


def plan_pictures(
    options: Options, out: str, *, parts: Sequence[PicturePart] | None = None, open_tower: OpenTower | None = None
) -> Plan:
    """The plan of `beholder score PICTURES` and `embed`, of `parts` where the sources have been looked into already.

    Raises BeholderError; nothing has been written by then.
    """
    heads, keep = heads_of(options), _what_is_kept(options, out)
    source = source_options(options)
    with doing("looking at the sources"):
        parts = find_only_pictures(options.sources, source) if parts is None else list(parts)
    output = _output_of(options, out)
    inputs = [part.path for part in parts]
    output.refuse_inputs(inputs)
    if not options.overwrite:
        output.check_place()
    with doing("loading the tower"):
        tower, engine = (open_tower or open_engine)(_settled(options, output), heads)
    options = replace(options, compile=bool(tower.engine["compiled"]))
    pixels = pixels_for(options, tower)
    summary = RunSummary(
        output=out,
        unit="pictures",
        verb="score" if heads else "embed",
        head_names=[head.name for head in heads],
        head_notes=[head.doubt for head in heads],
        warnings=list(tower.warnings),
        notes=_notes(tower, pixels, parts) + _preset_notes(options, pixels, parts),
        preset=pixels.preset,
        embeddings=output.kept_embeddings if keep is not None and heads else None,
        num_ignored=sum(part.num_ignored for part in parts),
        check_seconds=tower.check_seconds,
    )
    step = picture_step(options, out, parts, tower, engine)
    recipe = Recipe(options=options, out=out, parts=parts, tower=tower)
    return Plan(step=step, out=output, inputs=inputs, summary=summary, recipe=recipe)


def picture_step(
    options: Options, out: str, parts: Sequence[PicturePart], tower: TowerFacts, engine: Engine | None
) -> PictureStep:
    """The step of a job on pictures; without an engine it can be planned, not computed. Raises InputError."""
    heads, keep = heads_of(options), _what_is_kept(options, out)
    pixels = pixels_for(options, tower)
    beside = {columns.KEPT_BESIDE: PurePosixPath(out).name} if heads and keep is not None else {}
    stamp = beside | stamp_of(tower, pixels, keep, hidden=getattr(options, "hidden", False))
    stamp[columns.PICTURES] = _where(options)
    product = PictureProduct(
        stamp,
        heads=heads,
        as_csv=_output_of(options, out).kind == "csv" and bool(heads),
        keep=keep,
        keep_folder=columns.EMBEDDINGS_FOLDER if heads else "",
        dim=tower.dim,
        num_threads=options.num_threads,
    )
    return PictureStep(
        parts,
        engine,
        product,
        pixels=pixels,
        source=source_options(options),
        num_workers=_num_workers(options, tower.device_type),
        timeout_s=options.timeout_s,
        shard_rows=options.shard_rows or (_CPU_SHARD_PICTURES if tower.device_type == "cpu" else _DEVICE_SHARD_PICTURES),
        record=_deciding(tower, pixels),
    )


def _output_of(options: Options, out: str) -> RunOutput:
    return RunOutput(out) if isinstance(options, ScoreOptions) else RunOutput(out, EMBEDDINGS)


def heads_of(options: Options) -> list[Head]:
    """The heads to score with; none embeds."""
    return [load_head(name, offline=options.offline) for name in getattr(options, "heads", ())]


def _what_is_kept(options: Options, out: str) -> WriteOptions | None:
    """How embeddings are written, None: not at all. Raises InputError for a format that `out` cannot have."""
    if isinstance(options, ScoreOptions):
        return WriteOptions() if options.keep_embeddings else None
    kind = RunOutput(out, EMBEDDINGS).kind
    by_kind: dict[str, EmbeddingFormat] = {"folder": "npy", "parquet": "parquet", "csv": "birder-csv"}
    wanted = options.format or by_kind[kind]
    fitting = {"folder": True, "parquet": wanted in ("parquet", "birder-parquet"), "csv": wanted == "birder-csv"}[kind]
    if not fitting:
        raise InputError(f"--format {wanted} does not go into {out}; leave one of them out, or name a folder")
    is_birder = wanted.startswith("birder")
    if is_birder and (options.dtype == "float16" or options.normalise):
        raise InputError(f"{out}: birder's layouts hold float32 as the tower gives it; leave --dtype and --normalise out")
    return WriteOptions(
        format=wanted,
        dtype=options.dtype or ("float32" if is_birder else "float16"),
        normalise=not is_birder if options.normalise is None else options.normalise,
        is_bare=options.is_bare,
        folders=options.folders,
    )


def _settled(options: Options, output: RunOutput) -> Options:
    """With what "auto" and None stand for, as far as that is known before the device is.

    Where a run is continued, they are what it was begun with: another machine's check may choose another precision. Else the
    tower is compiled only where that is asked for.
    """
    before = {} if options.overwrite else output.earlier_options()
    recorded, was_compiled = before.get("--precision"), before.get("--compile")
    if options.precision == "auto" and recorded in PRECISIONS:
        options = replace(options, precision=recorded)
    if options.compile is None:
        options = replace(options, compile=was_compiled is True)
    return options


def stamp_of(tower: TowerFacts, pixels: PixelOptions, keep: WriteOptions | None, *, hidden: bool = False) -> dict[str, Any]:
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
        "tower": dict(tower.description),
        "dim": tower.dim,
        "pixels": pixels.to_json(),
        "decoder": pixels.decoder,
        "precision": dict(tower.engine),
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


def _deciding(tower: TowerFacts, pixels: PixelOptions) -> Mapping[str, Any]:
    """What decides embeddings, in the words of the command line; a run with others is another run."""
    return {
        "--backbone": tower.backbone or tower.name,
        "tower sha256": tower.sha256,
        "--activation": tower.activation,
        "--preset": pixels.preset,
        "--decoder": pixels.decoder,
        "--max-pixels": pixels.max_pixels,
        "size and crop": [pixels.size_px, pixels.crop],
        "--precision": tower.precision,
        "device": tower.device_type,
        "--compile": bool(tower.engine["compiled"]),
        **({"--batch-size": tower.batch_size} if tower.device_type == "cpu" else {}),
        "pillow": version("pillow"),
        "dim": tower.dim,
        **({"preprocessing": pixels.transform} if pixels.transform else {}),
    }


def _num_workers(options: Options, device_type: str) -> int:
    """Decode processes: all cores beside a GPU; beside a CPU tower, which keeps all cores busy itself, half of them."""
    if options.workers is not None:
        return options.workers
    return max(1, all_cores() // 2) if device_type == "cpu" else all_cores()


_TRAIT_WORDS = {
    Trait.ROTATED: ("is turned by EXIF", "are turned by EXIF"),
    Trait.PALETTE: ("has a palette", "have a palette"),
    Trait.ALPHA: ("has an alpha channel", "have an alpha channel"),
    Trait.DEEP: ("has more than 8 bits", "have more than 8 bits"),
}


def _preset_notes(options: Options, pixels: PixelOptions, parts: Sequence[PicturePart]) -> list[str]:
    """A line on the pictures for which the preset matters, from the headers of some; none where the preset settles it."""
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
        f"of {num_seen:,} pictures looked at, {', '.join(found)}: --preset upright {verb} them as people see them; "
        f"{preset} {verb} them as stored"
    ]


def _notes(tower: TowerFacts, pixels: PixelOptions, parts: Sequence[PicturePart]) -> list[str]:
    """Lines that say what is done with what."""
    drift, check = tower.engine["drift"], tower.engine["self_check"]
    how = f"{tower.device}, {tower.precision}{', compiled' if tower.engine['compiled'] else ''}"
    if drift is not None and tower.precision != "fp32":
        how += f" (scores within {drift:.4f} of fp32 on the self-check)"
    batch = f"batches of {tower.batch_size}" if tower.batch_size else "batches as large as is fastest"
    where = "1 part" if len(parts) == 1 else f"{len(parts):,} parts"
    notes = [f"{tower.name} on {how}, {batch}; pixels: {pixels.preset}, {pixels.decoder}; {where}"]
    if check is not None and check.get("chosen") != check.get("chosen_for_tower"):
        usual = check["chosen_for_tower"]
        drift = check["drift"][usual]
        notes.append(f"{usual} would move the scores of these heads by {drift:.3f}, over {MAX_DRIFT}, so not used")
    return notes
