"""birder predict's flags in; its job done by ours, under birder's file names and columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.engine import Precision
from beholder.errors import BeholderError, HeadError, InputError
from beholder.io import storage
from beholder.notices import doing
from beholder.scoring.birder_flags import named
from beholder.scoring.folder_labels import FolderLabels
from beholder.scoring.options import EmbedOptions

if TYPE_CHECKING:
    from beholder.pixels.picture import PicturePart
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
        network ... data_path: see `birder_flags.FLAGS`.
        given: field names of all flags that were given, those without effect too.
        overwrite, offline: of ours: start anew where a result exists; never use the network for weights.
    """

    network: str | None = None
    tag: str | None = None
    epoch: int | None = None
    st: bool = False
    compile: bool = False
    model_dtype: str = "float32"
    amp: bool = False
    amp_dtype: str | None = None
    fast_matmul: bool = False
    size: tuple[int, ...] | None = None
    batch_size: int | None = None
    img_loader: str = "tv"
    num_workers: int | None = None
    center_crop: float = 1.0
    simple_crop: bool = False
    save_logits: bool = False
    save_embeddings: bool = False
    save_labels: bool = False
    output_format: str = "csv"
    prefix: str | None = None
    suffix: str | None = None
    gpu: bool = False
    gpu_id: int | None = None
    mps: bool = False
    parallel: bool = False
    wds: bool = False
    wds_size: int | None = None
    wds_info: tuple[str, ...] = ()
    wds_split: str = "validation"
    hierarchical: bool = False
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
    return str(storage.local_path(path).parent) if storage.is_local(path) else path.split("://", 1)[-1].rsplit("/", 1)[0]


def _read_info(path: str, split: str) -> dict[str, Any]:
    """A split of an info file. Raises InputError."""
    try:
        splits = dict(json.loads(storage.read_range(path, 0, storage.size(path)))["splits"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"--wds-info {path}: not a webdataset _info.json: no JSON object with splits") from None
    found = splits.get(split)
    if found is None:
        raise InputError(f"--wds-info {path}: no split {split!r}; choose another --wds-split: {', '.join(splits)}")
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
    from beholder.pixels.picture import SourceOptions
    from beholder.sources.pictures.looks import head_of
    from beholder.sources.pictures.magic import compression_of
    from beholder.sources.pictures.parts import reader_of

    unknown = [part for part in parts if part.num_rows is None]
    remote = next((part.path for part in unknown if not storage.is_local(part.path)), None)
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
        blocks = reader_of(part.kind).blocks(part, 0, None, SourceOptions(columns=()))
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
    from beholder.scoring.birder_pictures import list_pictures
    from beholder.scoring.execute import execute
    from beholder.scoring.pictures import plan_embeddings
    from beholder.scoring.pictures_step import PictureStep

    lines = notes(flags, num_gpus=_check_device(flags))
    classes = read_classes(find_tower_file(checkpoint(flags), offline=flags.offline))
    options = EmbedOptions(**embed_options(flags, kind=kind, classes=classes, sources=find_sources(flags)))
    with doing("looking at the sources"):
        listed = None if flags.wds else list_pictures(options.sources)
    if listed is not None:
        lines += listed[1]
    planned = plan_embeddings(options, str(options.out), parts=None if listed is None else [listed[0]])
    assert isinstance(planned.step, PictureStep)
    size_px = planned.step.decode.pixels.size_px
    if flags.size is not None and flags.size[0] != size_px:
        raise InputError(f"--size {flags.size[0]}: this tower takes {size_px} pixels; other sizes give other embeddings")
    with doing("counting the pictures"):
        num_samples, counting = count_samples(planned.step.parts, flags)
    planned.tally.tell_total(num_samples)
    out = output_path(
        flags,
        num_classes=len(classes) or planned.step.engine.dim,
        size_px=size_px,
        num_samples=num_samples,
        kind=kind,
    )
    planned = replace(planned, out=out, notes=[*lines, *counting, *planned.notes])
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
            from beholder.models.tensors import open_tensors

            found = json.loads(open_tensors(str(path)).metadata.get("class_to_idx", "{}"))
        else:
            from beholder.models.torch_files import load_weights

            held = load_weights(path, mapped=True)
            found = held.get("class_to_idx", {}) if isinstance(held, dict) else {}
    except HeadError:
        return {}
    except (ValueError, RecursionError):
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
