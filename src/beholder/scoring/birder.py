"""birder predict (0.8.4) done by beholder: its flags, the pictures that it takes, its file names and columns.

birder's `collect_samples_from_paths` (`birder/common/fs_ops.py`) takes everything below a folder, hidden files and those behind
links too, whose name ends like one of `SUFFIXES`; all paths of all arguments together, sorted as text.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow.compute as pc

from beholder.engine import Precision
from beholder.errors import BeholderError, HeadError, InputError, reading_failed
from beholder.io import locations, storage
from beholder.io.records import json_value
from beholder.notices import doing
from beholder.options import MOST_WORKERS, flag_names, option
from beholder.scoring.options import EmbedOptions, FolderLabels
from beholder.sources.file_kinds import OTHER_SUFFIXES, PICTURE_SUFFIXES, SIDECAR_SUFFIXES
from beholder.sources.folder import Listing, PackedNames, begins_as_picture, part_of_listing
from beholder.sources.labels import valid_text
from beholder.sources.reader import PicturePart

if TYPE_CHECKING:
    from beholder.scoring.execute import Plan
    from beholder.scoring.summary import RunSummary

RESULTS_FOLDER, MODELS_FOLDER = "results", "models"
"""Below the current folder, as birder has them."""
_AMP_DTYPES = {"cuda": "float16", "cpu": "bfloat16", "mps": "float16"}
"""What torch's autocast takes by default (`torch.get_autocast_dtype`)."""
_PRECISIONS: dict[str, Precision] = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


@dataclass(frozen=True, kw_only=True)
class BirderFlags:
    """birder predict's flags that mean something here, under birder's names, and with its defaults.

    Attributes:
        data_path: what stands behind the flags.
        given: field names of all flags that were given, those without effect too.
        overwrite, offline: of ours: start anew where a result exists; never use the network for weights.
    """

    network: str | None = option(None, "the network; vit_l14_pn_quick_gelu is CLIP's ViT-L/14", flag=("-n", "--network"))
    epoch: int | None = option(None, "models/NETWORK_TAG_EPOCH.pt is loaded; adds _eN to the file name", flag=("-e", "--epoch"))
    tag: str | None = option(None, "the network's tag, such as openai-clip", flag=("-t", "--tag"))
    st: bool = option(False, "load models/NETWORK_TAG.safetensors in place of .pt", flag=("--st", "--safetensors"))
    compile: bool = option(False, "run the tower through torch.compile")
    model_dtype: str = option(
        "float32", "weights and products of this type; adds it to the file name", choices=("float32", "float16", "bfloat16")
    )
    amp: bool = option(False, "products in --amp-dtype, the rest in float32")
    amp_dtype: str | None = option(None, "default: float16 on a GPU, bfloat16 on a processor", choices=("float16", "bfloat16"))
    fast_matmul: bool = option(False, "float32 products in TF32 (GPU only)")
    size: tuple[int, ...] | None = option(None, "side of the pixels; must be the tower's own")
    batch_size: int | None = option(None, "pictures the device takes at once; default: found")
    img_loader: str = option("tv", "tv or pil; both give Pillow's pixels here", choices=("tv", "pil"))
    num_workers: int | None = option(None, "processes that decode; default: by cores and device", flag=("-j", "--num-workers"))
    center_crop: float = option(1.0, "resize to int(size / C) first, then crop; in (0, 1]")
    simple_crop: bool = option(False, "short side to size, then centre crop (else squashed); adds _sc")
    save_logits: bool = option(False, "write CLIP's embeddings, which `beholder score` reads: ..._logits.csv")
    save_embeddings: bool = option(False, "write the vectors before the projection, which no head scores")
    save_labels: bool = option(False, "add the column `label`, the folder's class (VDC takes it for a dimension)")
    output_format: str = option("csv", "csv or parquet", choices=("csv", "parquet"))
    prefix: str | None = option(None, "goes before the file name")
    suffix: str | None = option(None, "goes after the file name")
    gpu: bool = option(False, "run on a CUDA device; without it on the processor")
    gpu_id: int | None = option(None, "which one")
    mps: bool = option(False, "run on an Apple GPU")
    parallel: bool = option(False, "all GPUs; this version uses one, and says so where there are more")
    wds: bool = option(False, "DATA_PATH is a folder of tars or a brace path such as 'data/{000..099}.tar'")
    wds_size: int | None = option(None, "pictures in the tars, for the file name; default: counted")
    wds_info: tuple[str, ...] = option((), "a webdataset _info.json that lists the tars; may be repeated")
    wds_split: str = option("validation", "which of its splits")
    hierarchical: bool = option(False, "labels are all folders below DATA_PATH joined by _, not the last one")
    data_path: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    overwrite: bool = False
    offline: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what birder refuses, and what cannot be done here. Raises InputError, one line."""
        for flag in named(self.given, "refused"):
            raise InputError(f"{flag.name} is not done here: {flag.text}")
        for is_wrong, text in self._mistakes():
            if is_wrong:
                raise InputError(text)

    def _mistakes(self) -> list[tuple[bool, str]]:
        """What birder's own `validate_args` checks, and what concerns only us."""
        sizes = self.size or (1,)
        needs_compile = [flag for flag in named(self.given, "idle") if flag.field.startswith("compile_")]
        is_remote = self.wds and not self.wds_info and any("://" in path for path in self.data_path)
        return [
            (self.network is None, "--network is required: -n vit_l14_pn_quick_gelu -t openai-clip"),
            (not 0 < self.center_crop <= 1, f"--center-crop must be in (0, 1], not {self.center_crop}"),
            (self.parallel and not self.gpu, "--parallel requires --gpu"),
            (self.gpu and self.mps, "--gpu or --mps, not both"),
            (bool(needs_compile) and not self.compile, f"{needs_compile[0].name if needs_compile else ''} requires --compile"),
            (self.amp and self.model_dtype != "float32", "--amp goes with --model-dtype float32 only"),
            (len(sizes) > 2 or len(set(sizes)) > 1, "--size: CLIP's towers take squares; give one number"),
            (min(sizes) < 1, "--size must be at least 1"),
            (self.batch_size is not None and self.batch_size < 1, "--batch-size must be at least 1"),
            (self.num_workers is not None and self.num_workers < 0, "--num-workers must be at least 0"),
            (self.num_workers is not None and self.num_workers > MOST_WORKERS, f"--num-workers: at most {MOST_WORKERS}"),
            (not (self.save_logits or self.save_embeddings), "nothing to save: add --save-logits, which heads can score"),
            (not self.wds and not self.data_path, "name at least one folder or file of pictures, or use --wds"),
            (not self.wds and bool(self.wds_info), "--wds-info goes with --wds"),
            (self.wds and not self.wds_info and not self.data_path, "--wds needs a folder of tars, or --wds-info"),
            (self.wds and len(self.data_path) > 1, "--wds takes one path; for several tars give a folder or a brace path"),
            (is_remote and self.wds_size is None, "--wds-size is required for remote tars"),
            (self.wds and self.hierarchical, "--wds cannot be used with --hierarchical: tars have no folders"),
        ]  # fmt: skip

    @property
    def network_name(self) -> str:
        """Network and tag."""
        return f"{self.network}_{self.tag}" if self.tag is not None else str(self.network)

    @property
    def device_type(self) -> str:
        """cuda, mps or cpu: birder uses the processor unless told."""
        return "cuda" if self.gpu else "mps" if self.mps else "cpu"

    @property
    def device(self) -> str:
        """The device's full name."""
        return f"cuda:{self.gpu_id}" if self.gpu and self.gpu_id is not None and not self.parallel else self.device_type

    @property
    def precision(self) -> Precision:
        """What products are computed in."""
        if self.amp:
            return _PRECISIONS[self.amp_dtype or _AMP_DTYPES[self.device_type]]
        if self.model_dtype == "float32" and self.fast_matmul and self.gpu:
            return "tf32"
        return _PRECISIONS[self.model_dtype]


def checkpoint(flags: BirderFlags) -> str:
    """The tower to load: birder's local file `models/NETWORK_TAG[_EPOCH].pt` where it is there, else the published name.

    Raises InputError where only the local file would do.
    """
    suffix = "safetensors" if flags.st else "pt"
    epoch = "" if flags.epoch is None else f"_{flags.epoch}"
    local = f"{MODELS_FOLDER}/{flags.network_name}{epoch}.{suffix}"
    if Path(local).is_file():
        return local
    if epoch or flags.st:
        raise InputError(f"{local} does not exist; without --epoch and --st a published network is fetched by its name")
    return flags.network_name


def output_path(flags: BirderFlags, *, num_classes: int, size_px: int, num_samples: int, kind: str) -> str:
    """The path that birder's scripts/predict.py writes to; `kind` is "logits" or "embeddings"."""
    epoch = "" if flags.epoch is None else f"_e{flags.epoch}"
    name = f"{flags.network_name}_{num_classes}{epoch}_{size_px}px_crop{flags.center_crop}_{num_samples}"
    name += "_sc" if flags.simple_crop else ""
    name += f"_{flags.model_dtype}" if flags.model_dtype != "float32" else ""
    name = f"{flags.prefix}_{name}" if flags.prefix is not None else name
    name += f"_{flags.suffix}" if flags.suffix is not None else ""
    return f"{RESULTS_FOLDER}/{name}_{kind}.{flags.output_format}"


def embed_options(flags: BirderFlags, *, kind: str, classes: Mapping[str, int], sources: tuple[str, ...]) -> dict[str, Any]:
    """Keywords of `EmbedOptions` for the same job; `out` is to be set when the number of pictures is known."""
    is_logits, is_csv = kind == "logits", flags.output_format == "csv"
    roots = tuple(path for path in flags.data_path if storage.is_folder(path)) if flags.hierarchical else ()
    return {
        "sources": sources,
        "out": f"{RESULTS_FOLDER}/{flags.network_name}_{kind}.{flags.output_format}",
        "columns": ("*",) if flags.wds and flags.save_labels else (),
        "backbone": checkpoint(flags),
        "preset": "rgb" if flags.simple_crop else "squash",
        "crop": flags.center_crop,
        "device": flags.device,
        "precision": flags.precision,
        "batch_size": None if flags.device_type == "cpu" else flags.batch_size,
        "compile": flags.compile,
        "workers": flags.num_workers,
        "overwrite": flags.overwrite,
        "offline": flags.offline,
        "format": "birder-csv" if is_csv else "birder-parquet" if is_logits else "parquet",
        "dtype": "float32",
        "normalise": False,
        "hidden": not is_logits,
        "is_bare": True,
        "folders": FolderLabels(classes, flags.hierarchical, roots) if flags.save_labels else None,
    }


def notes(flags: BirderFlags, *, num_gpus: int) -> list[str]:
    """One line for each flag that has no effect, or another than a user of birder may expect."""
    lines = [f"{flag.name} has no effect here: {flag.text}" for flag in named(flags.given, "idle")]
    if flags.parallel:
        several = f"this version uses one of the {num_gpus} GPUs; run it once for each, on parts of the pictures"
        lines.append(f"--parallel has no effect {'here: ' + several if num_gpus > 1 else 'with one GPU'}")
    if flags.gpu_id is not None and (not flags.gpu or flags.parallel):
        lines.append(f"--gpu-id has no effect {'with --parallel' if flags.parallel else 'without --gpu'}")
    if flags.batch_size is not None and flags.device_type == "cpu":
        lines.append("--batch-size has no effect on a processor, which takes a few pictures at a time")
    if flags.amp_dtype is not None and not flags.amp:
        lines.append("--amp-dtype has no effect without --amp")
    if flags.fast_matmul and flags.precision != "tf32":
        why = "products are in 16 bits" if flags.gpu else "there is no TF32 without --gpu"
        lines.append(f"--fast-matmul has no effect here: {why}")
    if flags.hierarchical and not flags.save_labels:
        lines.append("--hierarchical has no effect without --save-labels")
    if flags.img_loader == "tv":
        lines.append("pixels are Pillow's, which the heads were trained on; birder's default loader (tv) gives slightly others")
    return lines


def find_sources(flags: BirderFlags) -> tuple[str, ...]:
    """What is read: the paths as given; with --wds the tars of the folder, the brace path, or those of the info files."""
    if not flags.wds:
        return flags.data_path
    if flags.wds_info:
        return tuple(tar for info in flags.wds_info for tar in _listed_tars(info, flags.wds_split))
    (path,) = flags.data_path
    if not storage.is_folder(path):
        return (path,)
    inside = _parent(f"{path.rstrip('/')}/x")
    tars = [file for file in storage.list_files(path) if file.endswith(".tar") and _parent(file) == inside]
    if not tars:
        raise InputError(f"--wds: {path} holds no .tar file")
    return tuple(sorted(tars))


def _parent(path: str) -> str:
    return str(locations.local_path(path).parent) if locations.is_local(path) else path.split("://", 1)[-1].rsplit("/", 1)[0]


def _read_info(path: str, split: str) -> dict[str, Any]:
    """A split of an info file. Raises InputError."""
    try:
        splits = dict(json_value(storage.read_range(path, 0, storage.size(path)))["splits"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"--wds-info {path}: not a webdataset _info.json: no JSON object with splits") from None
    found = splits.get(split)
    if found is None:
        raise InputError(f"--wds-info {path}: no split {split!r}; choose another --wds-split: {', '.join(map(str, splits))}")
    names = found.get("filenames") if isinstance(found, dict) else None
    if not isinstance(names, list) or not isinstance(found.get("num_samples"), int):
        raise InputError(f"--wds-info {path}: the split {split!r} lacks filenames or num_samples")
    return {"filenames": [str(name) for name in names], "num_samples": found["num_samples"]}


def _listed_tars(info: str, split: str) -> list[str]:
    base = info.rsplit("/", 1)[0] + "/" if "/" in info else ""
    names = _read_info(info, split)["filenames"]
    return [name if "://" in name or name.startswith("/") else base + name for name in names]


def count_samples(parts: Sequence[PicturePart], flags: BirderFlags) -> tuple[int, list[str]]:
    """The number in the file name: what --wds-size or the info files say, else the pictures found (tars are counted).

    With a line for each compressed tar, of which only reading it whole tells the number.

    Raises:
        InputError: remote tars would have to be fetched whole for it.
    """
    if flags.wds_size is not None:
        return flags.wds_size, []
    if flags.wds_info:
        return sum(int(_read_info(info, flags.wds_split)["num_samples"]) for info in flags.wds_info), []
    from beholder.sources.file_kinds import compression_of, head_of
    from beholder.sources.reader import SourceOptions, picture_reader

    unknown = [part for part in parts if part.num_rows is None]
    remote = next((part.path for part in unknown if not locations.is_local(part.path)), None)
    if remote is not None:
        raise InputError(
            f"--wds-size is required: {remote} is remote, and would be fetched twice, once to count the pictures for the "
            "name of the result"
        )
    total = sum(part.num_rows or 0 for part in parts)
    lines = []
    for part in unknown:
        if compression_of(head_of(part.path)):
            lines.append(f"{part.path} is compressed, so it was read whole to count its pictures; --wds-size N spares that")
        blocks = picture_reader(part.kind).blocks(part, 0, None, SourceOptions(columns=()))
        total += sum(block.labels.num_rows for block in blocks)
    return total, lines


def kinds(flags: BirderFlags) -> list[str]:
    """The files asked for: "logits", "embeddings" or both; each is a run of its own."""
    return [kind for kind, is_wanted in (("logits", flags.save_logits), ("embeddings", flags.save_embeddings)) if is_wanted]


def predict(
    flags: BirderFlags,
    kind: str,
    *,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_progress: Callable[[int, int], None] = lambda rows, num_bytes: None,
    on_resume: Callable[[int, int], None] = lambda shards, rows: None,
) -> RunSummary:
    """Write one of the files that birder predict would write.

    Raises BeholderError: no such network, device or folder, an output in the way, ... Bad pictures are rejected, not raised.
    """
    from beholder.models.towers import find_tower_file
    from beholder.scoring.execute import execute
    from beholder.scoring.output import EMBEDDINGS, RunOutput
    from beholder.scoring.picture_step import PictureStep
    from beholder.scoring.pictures import plan_pictures

    lines = notes(flags, num_gpus=_check_device(flags))
    classes = read_classes(find_tower_file(checkpoint(flags), offline=flags.offline))
    options = EmbedOptions(**embed_options(flags, kind=kind, classes=classes, sources=find_sources(flags)))
    with doing("looking at the sources"):
        listed = None if flags.wds else list_pictures(options.sources)
    if listed is not None:
        lines += listed[1]
    planned = plan_pictures(options, str(options.out), parts=None if listed is None else [listed[0]])
    assert isinstance(planned.step, PictureStep)
    size_px = planned.step.pixels.size_px
    if flags.size is not None and flags.size[0] != size_px:
        raise InputError(f"--size {flags.size[0]}: this tower takes {size_px} pixels; other sizes give other embeddings")
    with doing("counting the pictures"):
        num_samples, counting = count_samples(planned.step.parts, flags)
    planned.step.tally.tell_total(num_samples)
    out = output_path(
        flags,
        num_classes=len(classes) or planned.step.product.dim,
        size_px=size_px,
        num_samples=num_samples,
        kind=kind,
    )
    planned.summary.output, planned.summary.notes = out, [*lines, *counting, *planned.summary.notes]
    planned = replace(planned, out=RunOutput(out, EMBEDDINGS))
    return execute(planned, options, on_plan=on_plan, on_progress=on_progress, on_resume=on_resume)


def read_classes(path: Path) -> dict[str, int]:
    """Read birder's `class_to_idx` of a checkpoint; empty where the file, or the folder, has none.

    A file that cannot be read has none, too: loading the tower says what is wrong with it.
    Raises HeadError for one whose `class_to_idx` is no table of names and whole numbers.
    """
    if not path.is_file():
        return {}
    try:
        if path.suffix == ".safetensors":
            from beholder.models.tensor_files import open_tensors

            found = json_value(open_tensors(str(path)).metadata.get("class_to_idx", "{}"))
        else:
            from beholder.models.tensor_files import load_weights

            held = load_weights(path, mapped=True)
            found = held.get("class_to_idx", {}) if isinstance(held, dict) else {}
    except HeadError:
        return {}
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(type(number) is int for number in found.values()):
        raise HeadError(f"{path}: its class_to_idx is no table of class names and whole numbers; export the network again")
    return {str(word): number for word, number in found.items()}


def _check_device(flags: BirderFlags) -> int:
    """The number of GPUs, 0 without --gpu. Raises BeholderError when the device asked for is not there."""
    if flags.device_type == "cpu":
        return 0
    import torch

    from beholder.engine.devices import find_device

    try:
        find_device(flags.device)
    except BeholderError as error:
        flag = "--mps" if flags.mps else "--gpu" if flags.gpu_id is None else f"--gpu-id {flags.gpu_id}"
        raise BeholderError(str(error).replace(f"--device {flags.device}", flag, 1)) from None
    return torch.cuda.device_count()


Kind = Literal["switch", "int", "float", "text", "sizes", "texts"]
Treatment = Literal["used", "idle", "refused"]
"""idle: taken, and nothing follows from it."""


@dataclass(frozen=True)
class Flag:
    """One of birder's flags.

    Attributes:
        names: as typed, birder's own name first after the short one.
        kind: what follows it: nothing, a value, one or two whole numbers, or a value each time it is given.
        treatment: what becomes of it.
        text: help; for idle and refused ones the reason, as it is told to the user.
        default: birder's; where ours is another one (found by looking), None.
        choices: words that are allowed.
    """

    names: tuple[str, ...]
    kind: Kind
    treatment: Treatment
    text: str
    default: Any = None
    choices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The long name."""
        return max(self.names, key=len)

    @property
    def field(self) -> str:
        """The name of its value, as birder has it."""
        return "st" if "--st" in self.names else self.name.removeprefix("--").replace("-", "_")


_CLASSES = "the columns of this network are an embedding's dimensions, not classes"
_ONE_FORM = "the tower is loaded from its weights only"
_BEHIND = "only the embedding (--save-logits) and the vector before it (--save-embeddings) are written here"
_SCORES_LESS = "softmax over an embedding's dimensions means nothing; use --save-logits and score that file"

_KINDS: dict[str, Kind] = {
    "bool": "switch", "int | None": "int", "float": "float", "str": "text", "str | None": "text", "tuple[str, ...]": "texts",
    "tuple[int, ...] | None": "sizes",
}  # fmt: skip
FLAGS: tuple[Flag, ...] = (
    *(
        Flag(
            flag_names(item), _KINDS[str(item.type)], "used",
            item.metadata["help"], item.default or None, item.metadata.get("choices", ()),
        )
        for item in fields(BirderFlags) if "help" in item.metadata
    ),
    Flag(("--model-config",), "text", "refused", "the tower's shape is that of its weights"),
    Flag(("--forward-kwargs",), "text", "refused", "the tower has no such options"),
    Flag(("--quantized",), "switch", "refused", _ONE_FORM),
    Flag(("-r", "--reparameterized"), "switch", "refused", _ONE_FORM),
    Flag(("--pts",), "switch", "refused", _ONE_FORM),
    Flag(("--pt2",), "switch", "refused", _ONE_FORM),
    Flag(("--compile-fullgraph",), "switch", "idle", "torch.compile takes the whole tower as it is"),
    Flag(("--compile-mode",), "text", "idle", "torch.compile's default mode is used"),
    Flag(("--channels-last",), "switch", "idle", "the patches are a matrix product, which has no memory format"),
    Flag(("--tta",), "switch", "refused", "the mean of five crops is not made here"),
    Flag(("--naflex",), "switch", "refused", "CLIP's towers take squares of one size"),
    Flag(("--prefetch-factor",), "int", "idle", "the queues between the stages find their length themselves"),
    Flag(("--chunk-size",), "int", "idle", "memory does not grow with the pictures, and results are kept shard by shard"),
    Flag(("--show",), "switch", "refused", _CLASSES),
    Flag(("--show-top-below",), "float", "refused", _CLASSES),
    Flag(("--show-target-below",), "float", "refused", _CLASSES),
    Flag(("--show-mistakes",), "switch", "refused", _CLASSES),
    Flag(("--show-out-of-k",), "switch", "refused", _CLASSES),
    Flag(("--show-class",), "text", "refused", _CLASSES),
    Flag(("--shuffle",), "switch", "refused", "rows are written in the order of the pictures, so that a run can be continued"),
    Flag(("--summary",), "switch", "refused", _CLASSES),
    Flag(("--save-results",), "switch", "refused", _CLASSES),
    Flag(("--save-sparse-results",), "switch", "refused", _CLASSES),
    Flag(("--skip-results-analysis",), "switch", "idle", "there is no such analysis"),
    Flag(("--save-output",), "switch", "refused", _SCORES_LESS),
    Flag(("--save-features",), "switch", "refused", _BEHIND),
    Flag(("--save-detection-features",), "switch", "refused", _BEHIND),
    Flag(("--ignore-dir-names",), "switch", "refused", _CLASSES),
    Flag(("--class-mapping",), "text", "refused", _CLASSES),
)  # fmt: skip


def named(flags: tuple[str, ...], treatment: Treatment) -> list[Flag]:
    """Those of the flags given (by field name) that are treated so, in birder's order."""
    return [flag for flag in FLAGS if flag.treatment == treatment and flag.field in flags]


SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""`IMG_EXTENSIONS` of torchvision, which birder goes by; in any case."""
_TAKEN = frozenset(suffix.encode() for suffix in SUFFIXES)
_UNNAMED, _DANGLING = "without such an ending", "links that lead nowhere"

_Identity = tuple[int, int]


def list_pictures(paths: Sequence[str]) -> tuple[PicturePart, list[str]] | None:
    """List what birder would read.

    Args:
        paths: local folders and files, as they were typed.

    Returns:
        The pictures as one part, and a line for each thing that is left out; None where some of `paths` are no local folders
        and files, which birder could not read: URLs, patterns, what does not exist.

    Raises:
        InputError: nothing is left, a picture is named twice, or a folder cannot be read.
    """
    if not all(os.path.isdir(path) or os.path.isfile(path) for path in paths):  # noqa: PTH112, PTH113 (birder's own words)
        return None
    found = _Found()
    for path in paths:
        if os.path.isdir(path):  # noqa: PTH112
            found.add_folder(os.fsencode(path))
        else:
            found.add_file(os.fsencode(path), os.stat(path))  # noqa: PTH116
    notes = found.notes()
    if not found.sizes:
        why = "".join(f"; {note}" for note in notes)
        raise InputError(
            f"{', '.join(paths)}: no picture that birder predict takes ({' '.join(SUFFIXES)}); of tars, give --wds{why}"
        )
    return _part_of(found, paths), notes


class _Found:
    """What the walk has met, in the order in which it was met."""

    def __init__(self) -> None:
        self.sizes, self.stamps = array("q"), array("q")
        self.num_ignored = self.num_circles = 0
        self.left_out: Counter[str] = Counter()
        self.paths = PackedNames()

    def add_folder(self, top: bytes) -> None:
        """Everything below `top`, through links as well; a folder inside itself is left out. Raises InputError."""
        stack: list[tuple[bytes, tuple[_Identity, ...]]] = [(top, ())]
        while stack:
            folder, above = stack.pop()
            try:
                status = os.stat(folder)  # noqa: PTH116 (names that are not UTF-8)
                here = (status.st_ino, status.st_dev)
                if here in above:
                    self.num_circles += 1
                    continue
                with os.scandir(folder) as entries:
                    for entry in entries:
                        path = os.path.join(folder, entry.name)  # noqa: PTH118 (a/ and a// stay as typed, as in birder)
                        if entry.is_dir():
                            stack.append((path, (*above, here)))
                        else:
                            self._add_entry(entry, path)
            except OSError as error:
                raise reading_failed(valid_text(folder), error) from error

    def _add_entry(self, entry: os.DirEntry[bytes], path: bytes) -> None:
        try:
            status = entry.stat()
        except OSError:  # a link that leads nowhere, or a file that has just vanished
            self._leave_out(path, is_there=False)
            return
        if entry.is_file():
            self.add_file(path, status)
        else:
            self.num_ignored += 1

    def add_file(self, path: bytes, status: os.stat_result) -> None:
        """One file, taken or left out by its name."""
        if _suffix(path) not in _TAKEN:
            self._leave_out(path, is_there=True)
            return
        self.paths.add(path)
        self.sizes.append(status.st_size)
        self.stamps.append(status.st_mtime_ns)

    def _leave_out(self, path: bytes, *, is_there: bool) -> None:
        """Count a file that birder does not take: as a picture, or as something else."""
        suffix = _suffix(path).decode("ascii", "replace")
        if locations.is_ignored_name(os.path.basename(path)) or suffix[1:] in SIDECAR_SUFFIXES:  # noqa: PTH119
            return
        if suffix[1:] in PICTURE_SUFFIXES:
            self.left_out[suffix if is_there else _DANGLING] += 1
        elif is_there and suffix[1:] not in OTHER_SUFFIXES and begins_as_picture(path):
            self.left_out[_UNNAMED] += 1
        else:
            self.num_ignored += 1

    def notes(self) -> list[str]:
        """What a user should know of what is left out."""
        lines = []
        if self.left_out:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.left_out.most_common())
            several = "1 picture is" if self.left_out.total() == 1 else f"{self.left_out.total():,} pictures are"
            lines.append(f"{several} left out, as birder leaves them out: {kinds} (`beholder embed` takes every kind)")
        if self.num_circles:
            lines.append(
                f"{self.num_circles:,} links to a folder above are not followed; birder lists what is behind such a link "
                "again and again"
            )
        return lines


def _part_of(found: _Found, paths: Sequence[str]) -> PicturePart:
    """Pictures sorted by their whole path, as birder sorts them. Raises InputError when one is there twice."""
    whole = found.paths.packed()
    order = pc.array_sort_indices(whole)
    whole, places = whole.take(order), order.to_numpy()
    same = pc.index(pc.equal(whole[1:], whole[:-1]), True).as_py() if len(whole) > 1 else -1
    if same >= 0:
        raise InputError(f"{valid_text(whole[same].as_py())} is named twice; name it once")
    first = min(paths)
    name = Path(os.path.abspath(first)).name or "pictures"  # noqa: PTH100
    listing = Listing(
        whole, np.array(found.sizes, np.int64)[places], np.array(found.stamps, np.int64)[places], num_ignored=found.num_ignored
    )
    return part_of_listing(listing, first, valid_text(name), "")


def _suffix(path: bytes) -> bytes:
    return os.path.splitext(path)[1].lower()  # noqa: PTH122 (birder's rule: ".jpg" alone has none)
