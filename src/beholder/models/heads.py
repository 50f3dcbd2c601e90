"""Heads: in memory, with scores, a torch module and a record; loaded by name, path, URL or hub id; and saved.

A name goes from the catalogue to a checked local file, to its layers, to a `Head`. Of a CLIP model with a head in it only the
head is read. What takes torch, or a large file, to read is kept converted, so that the next load takes neither.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from beholder.errors import BeholderError, HeadError, InputError, text_of
from beholder.io import locations, records, user_folders, writing
from beholder.kernels.scoring import Affine, Perceptron, RowScorer
from beholder.models import catalog, download
from beholder.models.backbones import canonical_backbone, find_backbone, known_backbone, same_backbone
from beholder.models.catalog import DEFAULT_HEAD, HeadEntry, Source
from beholder.models.head_layouts import (
    HEAD_FORMAT,
    LARGEST,
    LINEAR,
    MAX_PICKLE_BYTES,
    NOT_SAID,
    PLAIN,
    Activation,
    HeadFile,
    HeadUsage,
    InputScale,
    Layer,
    is_bundle,
    pack_head,
    read_array_head,
    read_head_file,
    read_tensor_head,
)
from beholder.models.tensor_files import TensorFile, look_at, open_tensors

if TYPE_CHECKING:
    import torch

_logger = logging.getLogger(__name__)
_RULES = "2"
"""Of telling a head's layout. A conversion kept under other ones is made anew: they may have told another."""
_MAX_WHOLE_BYTES = 64 << 20
"""Hub files up to this size are fetched whole; of larger ones (a CLIP tower with a head) only the head is read."""
_DEVICE_CHUNK_ROWS = 16384
_ROW_TYPES = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True, eq=False, kw_only=True)
class Head:
    """The small model that turns an embedding x into a score: math(x / |x|). Scores are never clipped.

    Attributes:
        name: catalogue name, or what its file says or is called.
        math: the arithmetic in float64: `Affine` (weight . x/|x| + bias) or `Perceptron` (layers with ReLU between them).
        sha256: of the file it came from (of its weights where `sha256_of` says so); empty for a head not saved yet.
        sha256_of: "file" or "weights". A head read out of a bundle with a whole CLIP tower has the hash of its weights.
        backbone: id of the tower whose embeddings it scores; None when nothing tells.
        licence: of the weights; None when unknown.
        source: where it was published or read from; None when made in memory.
        source_sha256: for a converted head, of the file it was converted from; None otherwise.
        scale_note: what its numbers mean.
        layout: a word for the layout it was found in.
        notes: further texts that are saved with it (how it was trained, say).
        is_scale_known: whether anything tells that it was trained on embeddings divided by their length (times a factor).
    """

    name: str
    math: Affine | Perceptron = field(repr=False)
    sha256: str = ""
    sha256_of: str = "file"
    backbone: str | None = None
    licence: str | None = None
    source: str | None = None
    source_sha256: str | None = None
    scale_note: str = ""
    layout: str = HEAD_FORMAT
    notes: Mapping[str, str] = field(default_factory=dict)
    is_scale_known: bool = True

    @classmethod
    def affine(cls, weight: Any, bias: Any = 0.0, *, name: str = "affine", backbone: str | None = None) -> Head:
        """A head of one's own: weight . x/|x| + bias.

        Args:
            weight: (D,) or (1, D) floats: an array, a list, or a torch tensor; `coef_` of scikit-learn, `weight` of
                `torch.nn.Linear`. To be used on embeddings of length 1.
            bias: one number, in whatever it comes; `intercept_` of scikit-learn.
            name: what its scores are called by.
            backbone: the tower whose embeddings it was trained on, by any tool's name; None when unknown.

        Raises:
            HeadError: other shapes, no floats, NaN or infinite values.
        """
        row, offset = _numbers(weight, f"{name}: weight"), _numbers(bias, f"{name}: bias")
        if row.size == 0 or row.ndim not in (1, 2) or row.size != row.shape[-1]:
            raise HeadError(f"{name}: weight has shape {row.shape}; give (D,) or (1, D) numbers, one for each of the embedding")
        if offset.size != 1:
            raise HeadError(f"{name}: bias has shape {offset.shape}; give one number")
        known = find_backbone(backbone) if backbone else None
        if known is not None and known.dim != row.size:
            raise HeadError(f"{name}: weight has {row.size} numbers, and {known.id} gives {known.dim}")
        math = Affine(row.reshape(-1).copy(), float(offset.reshape(-1)[0]))
        return cls(name=name, math=math, backbone=known_backbone(backbone))

    @property
    def doubt(self) -> str:
        """What nothing tells of how the head is meant to be used, in a line; empty where all is known."""
        tower, scale = "which tower it was trained on", "whether the embeddings it was trained on were normalised"
        given, record = "; it is given normalised ones", "beholder models save records"
        if self.backbone is None and not self.is_scale_known:
            return f"nothing says {tower}, or {scale}{given} ({record} both)"
        if not self.is_scale_known:
            return f"nothing says {scale}{given} ({record} it)"
        return f"nothing says {tower} ({record} it)" if self.backbone is None else ""

    @property
    def is_affine(self) -> bool:
        """Whether the head is exactly weight . x/|x| + bias."""
        return isinstance(self.math, Affine)

    @property
    def dim(self) -> int:
        """Length of the embeddings it scores."""
        return int(self.layers[0].weight.shape[1])

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The linear layers on x/|x|: one for an affine head; otherwise with ReLU after all but the last."""
        if isinstance(self.math, Affine):
            return (Layer(self.math.weight[np.newaxis], np.array([self.math.bias])),)
        return tuple(Layer(weight, bias) for weight, bias in zip(self.math.weights, self.math.biases, strict=True))

    @property
    def weight(self) -> npt.NDArray[np.float64]:
        """(D,) float64; any factor on the normalised embedding is inside. Raises HeadError for a head with ReLUs."""
        return self._affine().weight

    @property
    def bias(self) -> float:
        """Raises HeadError for a head with ReLUs."""
        return self._affine().bias

    def _affine(self) -> Affine:
        if isinstance(self.math, Affine):
            return self.math
        raise HeadError(f"{self.name} has ReLUs between its layers, so it has no single weight vector; use score() or layers")

    def score(self, embeddings: Any) -> Any:
        """Score embeddings, which need not be normalised.

        Args:
            embeddings: (N, D) or (D,), float16, float32 or float64, any memory layout; nested lists of floats; or a torch
                tensor (bfloat16 too) on any device.

        Returns:
            (N,) float32 scores, NaN for rows that are all zeros or hold NaN or Inf; a tensor on the same device for a
            tensor. For a single (D,) embedding a float.

        Raises:
            InputError: whole numbers, objects, or rows of another length than `dim`.
        """
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(embeddings, torch.Tensor):
            return self._score_tensor(embeddings)
        rows, is_single = _as_rows(embeddings, self)
        scores = self._scorer().score(rows)[0].reshape(-1)
        return float(scores[0]) if is_single else scores

    def _score_tensor(self, embeddings: torch.Tensor) -> torch.Tensor | float:
        import torch

        floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        if embeddings.dtype not in floats or embeddings.layout != torch.strided:
            raise InputError(f"embeddings must be a dense floating-point tensor, not {embeddings.dtype} {embeddings.layout}")
        _check_shape(tuple(embeddings.shape), self)
        rows = embeddings.detach()
        rows = (rows if rows.dtype != torch.bfloat16 else rows.float()).reshape(-1, self.dim)
        if rows.device.type == "cuda":
            scores = score_on_device(self, rows)
        else:
            found = self._scorer().score(rows.cpu().resolve_neg().numpy())[0].reshape(-1)
            scores = torch.from_numpy(found).to(rows.device)
        return float(scores[0]) if embeddings.ndim == 1 else scores

    def _scorer(self) -> RowScorer:
        """The compiled scorer, made on first use, anew in a forked process (its threads do not survive a fork)."""
        made = self.__dict__.get("_made_scorer")
        if made is None or made[0] != os.getpid():
            made = (os.getpid(), RowScorer([self.math]))
            self.__dict__["_made_scorer"] = made
        scorer: RowScorer = made[1]
        return scorer

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the scorer, whose threads cannot travel to another process."""
        return {key: value for key, value in self.__dict__.items() if key != "_made_scorer"}

    def as_module(self) -> torch.nn.Module:
        """A frozen float32 `torch.nn.Module`: (B, D) -> (B,), differentiable with respect to its input.

        It moves with `.to()`, keeps full precision under autocast, and agrees with `score` to 1e-5.
        """
        from beholder.models.clip import HeadModule

        return HeadModule([(layer.weight, layer.bias) for layer in self.layers])

    def describe(self) -> dict[str, Any]:
        """A JSON-ready record that tells this head from all others; for stamps and `beholder models info`."""
        record: dict[str, Any] = {
            "name": self.name,
            "sha256": self.sha256,
            "sha256_of": self.sha256_of,
            "backbone": self.backbone,
            "dim": self.dim,
            "is_affine": self.is_affine,
            "layout": self.layout,
            "licence": self.licence,
            "source": self.source,
            "source_sha256": self.source_sha256,
            "scale_note": self.scale_note,
            "notes": dict(self.notes),
        }
        if self.is_affine:
            record |= {"weight_norm": float(np.linalg.norm(self.weight)), "bias": self.bias}
        return record


def math_of(file: HeadFile, where: str = "the head") -> Affine | Perceptron:
    """Fold layers in float64: into one affine map where nothing stands between them, and the input's factor into weights.

    Raises HeadError where that gives numbers beyond all use, as many layers of large weights do; `where`: for the message.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found = _folded(file)
    weights = (found.weight, found.bias) if isinstance(found, Affine) else (*found.weights, *found.biases)
    if not all((np.abs(part) <= LARGEST).all() for part in weights):
        raise HeadError(f"{where} is damaged: its layers, one behind the other, multiply to numbers above {LARGEST:g}")
    return found


def _folded(file: HeadFile) -> Affine | Perceptron:
    if file.activation == "relu" and len(file.layers) > 1:
        first = file.layers[0].weight * file.input_scale
        weights = (first, *(layer.weight for layer in file.layers[1:]))
        return Perceptron(weights, tuple(layer.bias for layer in file.layers))
    weight, bias = file.layers[-1].weight, file.layers[-1].bias
    for layer in reversed(file.layers[:-1]):
        weight, bias = weight @ layer.weight, weight @ layer.bias + bias
    return Affine(weight[0] * file.input_scale, float(bias[0]))


def score_on_device(head: Head, rows: torch.Tensor) -> torch.Tensor:
    """Scores (N,) float32 of rows (N, D) on the rows' own device, in float64, so that TF32 settings change nothing."""
    import torch

    module = head.as_module().double().to(rows.device)
    for buffer, exact in zip(module.buffers(), (a for layer in head.layers for a in (layer.weight, layer.bias)), strict=True):
        buffer.copy_(torch.from_numpy(exact))
    scores = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
    with torch.no_grad():
        for start in range(0, len(rows), _DEVICE_CHUNK_ROWS):
            chunk = rows[start : start + _DEVICE_CHUNK_ROWS].double()
            largest = chunk.abs().amax(dim=-1, keepdim=True)
            scores[start : start + _DEVICE_CHUNK_ROWS] = module(chunk / largest)
    return scores


def checked_backbone(head_name: str, known: str | None, wanted: str | None) -> str | None:
    """The tower of a head when the caller says its embeddings are of `wanted`. Raises HeadError when that is another."""
    if wanted is None:
        return known
    if known is None or same_backbone(known, wanted):
        return known or known_backbone(wanted)
    if canonical_backbone(wanted) is None:
        raise HeadError(f"{head_name} scores embeddings of {known}; {wanted} is not known to be the same tower (docs/heads.md)")
    raise HeadError(f"{head_name} scores embeddings of {known}, and these are of {wanted}; its scores would mean nothing")


def _numbers(values: Any, what: str) -> npt.NDArray[np.float64]:
    """Finite numbers as float64. Raises HeadError."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float64).numpy()
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise HeadError(f"{what} is no array of numbers ({text_of(error, 150)})") from None
    if array.dtype.kind not in "fiu":
        raise HeadError(f"{what} holds {array.dtype}, not numbers")
    found = array.astype(np.float64)
    if not np.isfinite(found).all():
        raise HeadError(f"{what} holds NaN or infinite values")
    return found


def _check_shape(shape: tuple[int, ...], head: Head) -> None:
    if len(shape) not in (1, 2) or shape[-1] != head.dim:
        raise InputError(f"embeddings have shape {shape}; {head.name} needs (N, {head.dim}) or ({head.dim},)")


def _as_rows(embeddings: Any, head: Head) -> tuple[npt.NDArray[np.floating[Any]], bool]:
    """(N, D) rows as the kernel reads them, copied only if it must be, and whether a single (D,) embedding was given."""
    if isinstance(embeddings, np.ma.MaskedArray):
        raise InputError("embeddings are a masked array; fill it first (masked values have no meaning for a head)")
    try:
        array = np.asarray(embeddings)
    except (ValueError, TypeError) as error:
        raise InputError(f"embeddings are not a table of numbers ({text_of(error, 150)})") from None
    if array.dtype.newbyteorder("=") not in _ROW_TYPES:
        raise InputError(f"embeddings hold {array.dtype}; they must be float16, float32 or float64")
    _check_shape(array.shape, head)
    if not array.dtype.isnative or not array.flags.aligned:
        array = array.astype(array.dtype.newbyteorder("="))
    return array.reshape(-1, head.dim) if array.ndim == 1 else array, array.ndim == 1


def load_head(
    spec: str | os.PathLike[str] = DEFAULT_HEAD,
    *,
    backbone: str | None = None,
    offline: bool | None = None,
    activation: Activation | None = None,
    input_scale: InputScale | None = None,
) -> Head:
    """Load a head.

    Args:
        spec: a catalogue name, alias or file name (`beholder models list`); a local path; a URL (https, s3, ...); or a hub
            id "org/repo[@revision]" with a `model.safetensors`. A file is in a published layout, or one's own: linear layers
            as torch, scikit-learn or numpy save them (docs/heads.md).
        backbone: the tower that made your embeddings, by any tool's name; a head for another one is refused.
        offline: True asks no network; None asks the environment (BEHOLDER_OFFLINE, and HF_HUB_OFFLINE for published heads).
        activation: what stands between linear layers whose file does not tell it: "relu", or "none" (nothing, Dropout,
            Identity). Without it such a file is refused.
        input_scale: what a head whose file does not tell it multiplies an embedding of length 1 with first: a positive
            number, or "sqrt-dim".

    Returns:
        The head. Its file is known by its sha256, whatever its name; a file of a public head is checked before use.

    Raises:
        HeadError: unknown, unreachable, damaged, unsafe, not the published file, or for another tower; one line.
    """
    head = _found(spec, offline, HeadUsage(activation=activation, input_scale=input_scale))
    wanted = find_backbone(backbone) if backbone else None
    if wanted is not None and wanted.dim != head.dim:
        raise HeadError(f"{head.name} scores embeddings of length {head.dim}, and {wanted.id} gives {wanted.dim}")
    return dataclasses.replace(head, backbone=checked_backbone(head.name, head.backbone, backbone))


def save_head(head: Head, path: str | os.PathLike[str]) -> str:
    """Write a head in beholder's own safetensors format, whole or not at all; loading it gives the same float64 weights.

    `path` is a local path or a URL (s3, ...). Returns the sha256 of the file. Raises OutputError.
    """
    data = _packed(head, {})
    writing.write_bytes(os.fspath(path), data)
    return hashlib.sha256(data).hexdigest()


def kept_conversion(entry: HeadEntry) -> Path | None:
    """Where beholder keeps its conversion of a public head, with which no network is needed; None if it has none."""
    path = _converted_path(entry.sha256) if entry.sha256 is not None else download.kept_path("heads", entry.sources[0])
    return path if path.is_file() else None


def _found(spec: str | os.PathLike[str], offline: bool | None, said: HeadUsage) -> Head:
    if not isinstance(spec, str):
        return _from_file(Path(spec), said)
    if not locations.is_local(spec):
        return _from_url(spec, offline, said)
    path = locations.local_path(spec)
    if download.is_path(spec) and path.exists():
        return _from_file(path, said)
    entry, refused = catalog.find(spec), catalog.find_refused(spec)
    if entry is not None:
        return _from_catalog(entry, offline, said)
    if refused is not None:
        raise HeadError(f"{refused.name} is refused: {refused.reason}")
    own = path if path.is_file() else download.locate_own(spec)
    if own is not None:
        return _from_file(own, said)
    source = download.hub_source(spec, "model.safetensors")
    if source is not None:
        named = catalog.find(source.repo)
        return _from_hub(source, offline, said, named if named is not None and named.twin else None)
    hint = catalog.did_you_mean(catalog.suggestions(spec))
    raise HeadError(f"there is no head {spec}: it is no known name, and no file is there; {hint}")


def _from_catalog(entry: HeadEntry, offline: bool | None, said: HeadUsage) -> Head:
    if entry.sha256 is None:
        return _from_hub(entry.sources[0], offline, said, entry)
    kept = _converted(entry.sha256) if said == NOT_SAID else None
    if kept is not None:
        return _built(kept, entry.name, entry.sha256, entry.sources[0].url)
    return _from_file(download.fetch_entry(entry, offline=offline), said, known_as=entry.sha256)


def _from_file(path: Path, said: HeadUsage, *, known_as: str | None = None, source: str | None = None) -> Head:
    """Load a local file. `known_as` is its sha256 where that was just checked; `source` where it was fetched from."""
    source = source or str(path)
    if not path.is_file():
        raise HeadError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; give the file of a head")
    kind, start = look_at(path)
    tensors = open_tensors(str(path)) if kind == "safetensors" else None
    if tensors is not None and is_bundle(tensors.shapes):
        return _from_bundle(tensors, path.stem, source, said)
    digest = known_as or download.file_sha256(path)
    refused = catalog.refused_by_sha256(digest)
    if refused is not None:
        raise HeadError(f"{path} is refused: {refused.reason}")
    is_kept_converted = kind not in ("safetensors", "npy", "npz") and said == NOT_SAID
    kept = _converted(digest) if is_kept_converted else None
    if kept is not None:
        file = kept
    else:
        file = read_tensor_head(tensors, said) if tensors is not None else read_array_head(path, kind, start, said)
    is_scale_known = file.layout not in (LINEAR, PLAIN) or said.input_scale is not None
    head = _built(file, path.stem, digest, source, is_scale_known=is_scale_known)
    if is_kept_converted and kept is None:
        _keep(_converted_path(digest), head, rules=_RULES)
    return head


def _from_url(url: str, offline: bool | None, said: HeadUsage) -> Head:
    """Load by URL; of a safetensors file with a whole tower only the head is fetched."""
    source = download.public_part(url)
    file_name = urlsplit(url).path.rsplit("/", 1)[-1]
    if file_name.endswith(".safetensors") and not download.is_offline(offline):
        opened = open_tensors(url)
        if is_bundle(opened.shapes):
            return _from_bundle(opened, file_name.removesuffix(".safetensors"), source, said)
    return _from_file(download.download_url(url, MAX_PICKLE_BYTES, offline=offline), said, source=source)


def _from_hub(source: Source, offline: bool | None, said: HeadUsage, entry: HeadEntry | None = None) -> Head:
    """Load a file of a hub repository: a small one whole, of a large one only the head, which is kept."""
    kept_path = download.kept_path("heads", source)
    kept = _kept(kept_path)
    found = download.newest_copy(source, kept.metadata.get("etag", "") if kept is not None else None, offline)
    if found is None and kept is not None:
        return _restored(kept)
    if isinstance(found, download.PublishedVersion):
        if found.num_bytes is None or found.num_bytes > _MAX_WHOLE_BYTES:
            opened = open_tensors(download.file_url(source, found.commit))
            head = _named(_from_bundle(opened, source.repo, source.url, said), source.repo, entry)
            _keep(kept_path, head, etag=found.etag)
            return head
        found = download.from_hub(source)
    assert found is not None
    return _named(_from_file(found, said, source=source.url), source.repo, entry)


def _from_bundle(opened: TensorFile, name: str, source: str, said: HeadUsage) -> Head:
    """The head inside a CLIP model. The file is never read whole, so it is known by the sha256 of the head's weights."""
    file = read_tensor_head(opened, said)
    return dataclasses.replace(_built(file, name, file.tensors_sha256, source), sha256_of="weights")


def _built(file: HeadFile, name: str, digest: str, source: str, *, is_scale_known: bool = True) -> Head:
    """Join what a file holds with what the catalogue knows about its sha256, or what its own metadata says."""
    entry = catalog.by_sha256(digest)
    texts = file.metadata
    converted_from = texts.get("source_sha256") or None
    return Head(
        name=entry.name if entry else texts.get("name") or name,
        math=math_of(file, source),
        sha256=digest,
        backbone=known_backbone(entry.backbone if entry else file.backbone),
        licence=entry.licence if entry else texts.get("licence") or None,
        source=entry.sources[0].url if entry else texts.get("source") or source,
        source_sha256=converted_from if converted_from != digest else None,
        scale_note=entry.scale_note if entry else texts.get("scale_note", ""),
        layout=texts.get("layout", file.layout),
        notes=_notes(texts),
        is_scale_known=entry is not None or is_scale_known,
    )


def _named(head: Head, name: str, entry: HeadEntry | None) -> Head:
    """What the catalogue knows about a repackaged head, where its own file does not say."""
    if entry is None:
        return dataclasses.replace(head, name=name)
    return dataclasses.replace(
        head, name=entry.name, licence=entry.licence, scale_note=entry.scale_note, backbone=head.backbone or entry.backbone,
        is_scale_known=True,
    )  # fmt: skip


def _notes(texts: Mapping[str, str]) -> dict[str, str]:
    try:
        found = records.json_value(texts.get("notes", "{}"))
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _packed(head: Head, extra: Mapping[str, str]) -> bytes:
    texts = {
        "name": head.name,
        "backbone": head.backbone or "",
        "licence": head.licence or "",
        "source": head.source or "",
        "source_sha256": head.source_sha256 or head.sha256,
        "sha256_of": head.sha256_of,
        "scale_note": head.scale_note,
        "layout": head.layout,
        "notes": json.dumps(dict(head.notes), sort_keys=True),
    }
    activation: Activation = "none" if head.is_affine else "relu"
    return pack_head(HeadFile(head.layers, activation, 1.0, HEAD_FORMAT, head.backbone, {**texts, **extra}))


def _converted_path(digest: str) -> Path:
    return user_folders.cache_folder() / "heads" / f"{digest}.safetensors"


def _converted(digest: str) -> HeadFile | None:
    """The kept conversion of the pickled file with this sha256, without the names it had then, or None."""
    kept = _kept(_converted_path(digest))
    if kept is None or kept.metadata.get("source_sha256") != digest:
        return None
    if kept.metadata.get("rules") != _RULES and catalog.by_sha256(digest) is None:
        return None
    return dataclasses.replace(kept, layout=kept.metadata.get("layout", kept.layout), metadata={})


def _keep(path: Path, head: Head, **extra: str) -> None:
    """Keep a converted head, so that loading it again needs neither torch nor the whole file."""
    try:
        writing.write_bytes(str(path), _packed(head, extra))
    except BeholderError as error:
        _logger.warning("%s; the head works, but will be converted again next time", error)


def _kept(path: Path) -> HeadFile | None:
    """A kept head, or None when there is none or it is damaged (it is then made anew)."""
    if not path.is_file():
        return None
    try:
        kept = read_head_file(path)
    except HeadError as error:
        _logger.warning("%s; it is made anew", error)
        return None
    return kept if kept.layout == HEAD_FORMAT else None


def _restored(kept: HeadFile) -> Head:
    """A head kept from a hub bundle, as it was when it was first read."""
    head = _built(kept, kept.metadata.get("name", ""), kept.metadata.get("source_sha256", ""), "")
    return dataclasses.replace(head, sha256_of=kept.metadata.get("sha256_of", "file"), source_sha256=None)
