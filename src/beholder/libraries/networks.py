"""Networks of timm, open_clip and transformers: the image side alone, with the features that each library publishes.

Weights are taken from files on this machine; `Fetch` brings published ones there. Every tensor of the image side must come from
the file: a library that fills what is missing with random numbers is not let do so.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from beholder.errors import BeholderError, HeadError, kind_and_text
from beholder.libraries.names import Library, TowerName, imported, is_place, near_misses
from beholder.libraries.transforms import described

FeatureKind = Literal["pooled", "projected"]

Fetch = Callable[[str, Sequence[str], str], Path]
"""(repository, files, revision) -> the first of these files that the repository has, on this machine. Raises HeadError."""

_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"
_INDEX = f"{_SAFE}.index.json"
_TORCH_FILES = (".bin", ".pt", ".pth")
_MOST_TAGS = 6


@dataclass(frozen=True, eq=False)
class Network:
    """An image tower as its library made it.

    Attributes:
        module: (B, 3, S, S) float32, normalised as the library does it -> (B, D) features; on the CPU, in eval mode.
        model: its name in the library, with the tag of the published weights.
        kind: "pooled": what the library pools out of the last layer; "projected": the space that is shared with texts.
        transform: the library's preprocessing (`transforms.described`).
        source: where the weights came from.
        licence: of the weights; None where the library does not tell.
        settings: of a model that comes with a configuration of its own: what in it decides the features beside the weights.
    """

    module: nn.Module
    model: str
    kind: FeatureKind
    transform: str
    source: str
    licence: str | None = None
    settings: str = ""


def load_network(name: TowerName, fetch: Fetch, *, is_offline: bool = False) -> Network:
    """The network behind a name; `is_offline`: no library may download anything by itself.

    Raises HeadError: unknown, unreachable, damaged, not an image tower; one line.
    """
    imported(name.library)
    if not name.model:
        raise HeadError(f"{name} names no model; write {_EXAMPLES[name.library]}")
    try:
        with torch.random.fork_rng(devices=[]), _quiet():
            found = _LOADERS[name.library](name, fetch, is_offline)
    except BeholderError:
        raise
    except MemoryError:
        raise HeadError(f"there is not enough memory for {name}") from None
    except Exception as error:  # these libraries raise what they like
        raise HeadError(f"{name.library} cannot load {name}: {kind_and_text(error, 300)}") from None
    found.module.requires_grad_(False).eval()
    return found


_EXAMPLES: Mapping[Library, str] = {
    "timm": "timm:vit_base_patch16_siglip_224.webli",
    "open_clip": "open_clip:ViT-H-14/laion2b_s32b_b79k",
    "transformers": "transformers:google/siglip2-base-patch16-224",
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the libraries tell of their own loading off the terminal; what matters is raised."""
    names = ("timm", "open_clip", "transformers")
    before = {name: logging.getLogger(name).level for name in names}
    root = logging.getLogger()
    handlers, root_level = list(root.handlers), root.level  # open_clip logs with the root logger, and may give it a handler
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        root.setLevel(max(root_level, logging.ERROR))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _no_bars():
                yield
    finally:
        root.setLevel(root_level)
        for handler in set(root.handlers) - set(handlers):
            root.removeHandler(handler)
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Keep transformers from showing bars of its own, where it has been imported."""
    talk = getattr(sys.modules.get("transformers"), "logging", None)
    if talk is None or not talk.is_progress_bar_enabled():
        yield
        return
    talk.disable_progress_bar()
    try:
        yield
    finally:
        talk.enable_progress_bar()


def _file(name: TowerName) -> Path:
    """The local file or folder with a tower's weights. Raises HeadError."""
    if not is_place(name.place):
        raise HeadError(f"{name}: after @ stands a path, such as /data/weights.safetensors or ./weights.safetensors")
    path = Path(name.place).expanduser()
    if not path.exists():
        raise HeadError(f"{path} is not there; give the file with the weights of {name.model}")
    return path


# timm


def _timm(name: TowerName, fetch: Fetch, is_offline: bool) -> Network:
    import timm

    if name.model.startswith(("hf-hub:", "hf_hub:")):
        raise HeadError(f"{name}: give the name that timm itself has for the model (timm.list_models), and @FILE for your own")
    if not timm.is_model(name.model):
        known = [*timm.list_models(), *timm.list_pretrained()]
        raise HeadError(f"timm {timm.__version__} has no model {name.model}; {near_misses(name.model, known)}")
    cfg = timm.get_pretrained_cfg(name.model)
    if cfg is not None and len(set(cfg.input_size[1:])) > 1:  # before hundreds of layers are made
        height, width = cfg.input_size[1:]
        raise HeadError(f"{name} takes pictures of {width} x {height} pixels, and beholder's towers take squares")
    if name.place:
        path = _file(name)
        model, source = timm.create_model(name.model, pretrained=True, **_timm_own(path, cfg)), str(path)
    else:
        model, source = _timm_published(name, cfg, fetch, is_offline)
    model.reset_classifier(0)
    found = {**model.pretrained_cfg, **timm.data.resolve_model_data_config(model)}
    config = {key: found[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")}
    full = ".".join(part for part in (found.get("architecture"), found.get("tag")) if part)
    return Network(
        module=model,
        model=name.model if name.place else full or name.model,
        kind="pooled",
        transform=described("timm", opens_rgb=True, config=config),
        source=source,
        licence=None if name.place else found.get("license"),
    )


def _timm_published(name: TowerName, cfg: Any, fetch: Fetch, is_offline: bool) -> tuple[Any, str]:
    """Timm's model with its published weights, and where they came from."""
    import timm

    if cfg is None or not cfg.has_weights:
        tagged = timm.list_pretrained(f"{name.model}*")[:3]
        hint = f"; with weights: {', '.join(tagged)}" if tagged else "; give your own: timm:NAME@FILE"
        raise HeadError(f"timm has no published weights for {name.model}{hint}")
    if not cfg.hf_hub_id:
        _refuse_offline(name, cfg.url, is_offline)
        return timm.create_model(name.model, pretrained=True), str(cfg.url)
    file = cfg.hf_hub_filename
    path = fetch(cfg.hf_hub_id, [file] if file else [_SAFE, _PICKLED], "main")
    if path.suffix in _TORCH_FILES:
        timm.models.load_state_dict(str(path), weights_only=True)  # refuses what is more than weights, before it is loaded
    overlay = {"file": str(path), "custom_load": cfg.custom_load == "hf"}
    return timm.create_model(name.model, pretrained=True, pretrained_cfg_overlay=overlay), _hub_page(cfg.hf_hub_id)


def _refuse_offline(name: TowerName, url: Any, is_offline: bool) -> None:
    """Raise HeadError where a library would download weights that are no files of the hub."""
    if is_offline:
        model = name.model.partition("/")[0] if name.library == "open_clip" else name.model
        raise HeadError(f"{name} is at {url}, and offline mode is on; give the file: {name.library}:{model}@FILE")


def _timm_own(path: Path, cfg: Any) -> dict[str, Any]:
    """Arguments with which timm loads a file strictly, whatever number of classes its classifier has, if any."""
    import timm

    state = timm.models.load_state_dict(str(path), weights_only=True)
    named = getattr(cfg, "classifier", None) or ()
    classifiers = (named,) if isinstance(named, str) else tuple(named)
    sizes = {len(state[f"{item}.weight"]) for item in classifiers if f"{item}.weight" in state}
    num_classes = sizes.pop() if sizes else 0
    return {
        "num_classes": num_classes,
        "pretrained_cfg_overlay": {"file": str(path), "custom_load": False, "num_classes": num_classes},
    }


# open_clip


class _OpenClipVisual(nn.Module):
    """The image side of a model of open_clip: what `encode_image` gives, not normalised."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D)."""
        found = self.visual(images)
        features: Tensor = found[0] if isinstance(found, tuple) else found  # CoCa gives tokens as well
        return features


def _open_clip(name: TowerName, fetch: Fetch, is_offline: bool) -> Network:
    import open_clip

    model_name, _, tag = name.model.partition("/")
    if open_clip.get_model_config(model_name) is None:
        raise HeadError(f"open_clip has no model {model_name}; {near_misses(model_name, open_clip.list_models())}")
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    cfg = open_clip.get_pretrained_cfg(model_name, tag) if tag else {}
    if tag and not cfg:
        near = near_misses(tag, tags) if difflib.get_close_matches(tag, tags) else f"it has {_listed(tags)}"
        raise HeadError(f"open_clip has no weights {tag} of {model_name}; {near}")
    if not tag and not name.place:
        raise HeadError(
            f"{name} does not say which weights; write open_clip:{model_name}@FILE, or open_clip:{model_name}/TAG with one of "
            f"open_clip's own: {_listed(tags)}"
        )
    path, source = (str(_file(name)),) * 2 if name.place else _open_clip_published(name, cfg, fetch, is_offline)
    published = {key: cfg[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in cfg}
    model = open_clip.create_model(model_name, pretrained=path, force_preprocess_cfg=published)
    config = dict(model.visual.preprocess_cfg)
    return Network(
        module=_OpenClipVisual(model.visual),
        model=name.model,
        kind="projected",
        transform=described("open_clip", opens_rgb=False, config=config),
        source=source,
    )


def _listed(tags: Sequence[str]) -> str:
    """A few tags, and how many more there are."""
    more = f" and {len(tags) - _MOST_TAGS} more" if len(tags) > _MOST_TAGS else ""
    return (", ".join(tags[:_MOST_TAGS]) or "none") + more


def _open_clip_published(name: TowerName, cfg: Mapping[str, Any], fetch: Fetch, is_offline: bool) -> tuple[str, str]:
    """The file of published weights, and where it came from."""
    import open_clip

    if not cfg.get("hf_hub"):
        _refuse_offline(name, cfg["url"], is_offline)
        return str(open_clip.download_pretrained(dict(cfg))), str(cfg["url"])
    repo, _, file = str(cfg["hf_hub"]).rpartition("/")
    stem = file.rpartition(".")[0]
    files = [f"{stem}.safetensors", file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    return str(fetch(repo, list(dict.fromkeys(files)), "main")), _hub_page(repo)


# transformers


class _TransformersFeatures(nn.Module):
    """The image features of a model of transformers."""

    def __init__(self, model: nn.Module, *, has_texts: bool) -> None:
        super().__init__()
        self.model, self.has_texts = model, has_texts

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D)."""
        run: Any = self.model.get_image_features if self.has_texts else self.model
        found = run(pixel_values=images)
        for name in ("image_embeds", "pooler_output"):
            features = getattr(found, name, None)
            if isinstance(features, Tensor):
                return features
        if isinstance(found, Tensor):
            return found
        raise HeadError(f"a {type(self.model).__name__} gives no pooled features, so no embedding of a picture")


_TEXT_PARTS = ("text_model", "text_projection", "language_model", "text_embed_dim_projection")
_PROJECTIONS = ("visual_projection", "vision_projection", "image_projection")


def _transformers(name: TowerName, fetch: Fetch, is_offline: bool) -> Network:
    import transformers

    revision = "main" if not name.place or is_place(name.place) else name.place
    is_here = bool(name.place) and is_place(name.place)
    folder = _file(name) if is_here else _transformers_published(name.model, revision, fetch)
    if not folder.is_dir():
        raise HeadError(f"{folder} is a file; give the folder with config.json and the weights beside it")
    if not any((folder / file).is_file() for file in _PREPROCESSING):
        raise HeadError(f"{name.model} has no preprocessor_config.json, so it is no image tower, or not a whole one")
    safe = {"local_files_only": True, "trust_remote_code": False}
    with _no_foreign_code(folder):
        config = transformers.AutoConfig.from_pretrained(folder, **safe)
        processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", **safe)
        kinds = [text for text in config.architectures or () if text.endswith("VisionModelWithProjection")]
        loader = getattr(transformers, kinds[0]) if kinds else transformers.AutoModel
        model, info = loader.from_pretrained(folder, config=config, dtype=torch.float32, output_loading_info=True, **safe)
    has_texts = callable(getattr(model, "get_image_features", None))
    for part in _TEXT_PARTS if has_texts else ():
        if isinstance(getattr(model, part, None), nn.Module):
            setattr(model, part, nn.Identity())
    missing = sorted(set(info["missing_keys"]) & set(model.state_dict()))
    if missing:
        raise HeadError(f"{folder} lacks {len(missing)} tensors of the image tower, such as {missing[0]}")
    is_projected = bool(kinds) or any(getattr(model, part, None) is not None for part in _PROJECTIONS)
    settings = json.loads(processor.to_json_string())
    return Network(
        module=_TransformersFeatures(model, has_texts=has_texts),
        model=name.model,
        kind="projected" if is_projected else "pooled",
        transform=described("transformers", opens_rgb=True, **{"class": type(processor).__name__, "config": settings}),
        source=str(folder) if is_here else f"{_hub_page(name.model)}/tree/{revision}",
        settings=_settings_in(folder),
    )


@contextlib.contextmanager
def _no_foreign_code(folder: Path) -> Iterator[None]:
    """Say in our words that a tower comes with program code of its own; the library would have one trust it."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise HeadError(
            f"{folder} needs program code of its own, which is never run; give a tower of a kind that transformers itself has"
        ) from None


_ABOUT_LOADING = ("transformers_version", "dtype", "torch_dtype", "architectures")
_PREPROCESSING = ("preprocessor_config.json", "processor_config.json")


def _settings_in(folder: Path) -> str:
    """JSON of what a folder's own files say of the image side, as they stand there: a newer library changes nothing of it."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    side = config.get("vision_config")
    files = [path for name in _PREPROCESSING if (path := folder / name).is_file()]
    found = [config.get("model_type"), side if isinstance(side, dict) else config]
    found += [json.loads(path.read_text(encoding="utf-8")) for path in files]
    return json.dumps([_without_loading(one) for one in found], sort_keys=True)


def _without_loading(value: Any) -> Any:
    """A JSON value without what only says how it was written or is loaded."""
    if not isinstance(value, dict):
        return value
    kept = {name: one for name, one in value.items() if name not in _ABOUT_LOADING and not name.startswith("_")}
    return {name: _without_loading(one) for name, one in kept.items()}


def _transformers_published(repo: str, revision: str, fetch: Fetch) -> Path:
    """The folder of a repository's files in the hub's cache: configuration, preprocessing, weights."""
    folder = fetch(repo, ["config.json"], revision).parent
    fetch(repo, _PREPROCESSING, revision)
    weights = fetch(repo, [_SAFE, _INDEX, _PICKLED, f"{_PICKLED}.index.json"], revision)
    if weights.name.endswith(".index.json"):
        for file in sorted(set(json.loads(weights.read_text(encoding="utf-8"))["weight_map"].values())):
            fetch(repo, [file], revision)
    return folder


def _hub_page(repo: str) -> str:
    return f"https://huggingface.co/{repo}"


_LOADERS: Mapping[Library, Callable[[TowerName, Fetch, bool], Network]] = {
    "timm": _timm, "open_clip": _open_clip, "transformers": _transformers,
}  # fmt: skip
