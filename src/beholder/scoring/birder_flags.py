"""birder predict's command line (0.8.4), flag by flag, in; what each means here, or why it has no effect or is refused, out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

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

FLAGS: tuple[Flag, ...] = (
    Flag(("-n", "--network"), "text", "used", "the network; vit_l14_pn_quick_gelu is CLIP's ViT-L/14"),
    Flag(("--model-config",), "text", "refused", "the tower's shape is that of its weights"),
    Flag(("--forward-kwargs",), "text", "refused", "the tower has no such options"),
    Flag(("-e", "--epoch"), "int", "used", "models/NETWORK_TAG_EPOCH.pt is loaded; adds _eN to the file name"),
    Flag(("--quantized",), "switch", "refused", _ONE_FORM),
    Flag(("-t", "--tag"), "text", "used", "the network's tag, such as openai-clip"),
    Flag(("-r", "--reparameterized"), "switch", "refused", _ONE_FORM),
    Flag(("--pts",), "switch", "refused", _ONE_FORM),
    Flag(("--pt2",), "switch", "refused", _ONE_FORM),
    Flag(("--st", "--safetensors"), "switch", "used", "load models/NETWORK_TAG.safetensors in place of .pt"),
    Flag(("--compile",), "switch", "used", "run the tower through torch.compile"),
    Flag(("--compile-fullgraph",), "switch", "idle", "torch.compile takes the whole tower as it is"),
    Flag(("--compile-mode",), "text", "idle", "torch.compile's default mode is used"),
    Flag(("--channels-last",), "switch", "idle", "the patches are a matrix product, which has no memory format"),
    Flag(("--model-dtype",), "text", "used", "weights and products of this type; adds it to the file name",
         "float32", ("float32", "float16", "bfloat16")),
    Flag(("--amp",), "switch", "used", "products in --amp-dtype, the rest in float32"),
    Flag(("--amp-dtype",), "text", "used", "default: float16 on a GPU, bfloat16 on a processor", None, ("float16", "bfloat16")),
    Flag(("--fast-matmul",), "switch", "used", "float32 products in TF32 (GPU only)"),
    Flag(("--tta",), "switch", "refused", "the mean of five crops is not made here"),
    Flag(("--size",), "sizes", "used", "side of the pixels; must be the tower's own"),
    Flag(("--naflex",), "switch", "refused", "CLIP's towers take squares of one size"),
    Flag(("--batch-size",), "int", "used", "pictures the device takes at once; default: found"),
    Flag(("--img-loader",), "text", "used", "tv or pil; both give Pillow's pixels here", "tv", ("tv", "pil")),
    Flag(("-j", "--num-workers"), "int", "used", "processes that decode; default: by cores and device"),
    Flag(("--prefetch-factor",), "int", "idle", "the queues between the stages find their length themselves"),
    Flag(("--chunk-size",), "int", "idle", "memory does not grow with the pictures, and results are kept shard by shard"),
    Flag(("--center-crop",), "float", "used", "resize to int(size / C) first, then crop; in (0, 1]", 1.0),
    Flag(("--simple-crop",), "switch", "used", "short side to size, then centre crop (else squashed); adds _sc"),
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
    Flag(("--save-logits",), "switch", "used", "write CLIP's embeddings, which `beholder score` reads: ..._logits.csv"),
    Flag(("--save-embeddings",), "switch", "used", "write the vectors before the projection, which no head scores"),
    Flag(("--save-features",), "switch", "refused", _BEHIND),
    Flag(("--save-detection-features",), "switch", "refused", _BEHIND),
    Flag(("--save-labels",), "switch", "used", "add the column `label`, the folder's class (VDC takes it for a dimension)"),
    Flag(("--output-format",), "text", "used", "csv or parquet", "csv", ("csv", "parquet")),
    Flag(("--prefix",), "text", "used", "goes before the file name"),
    Flag(("--suffix",), "text", "used", "goes after the file name"),
    Flag(("--gpu",), "switch", "used", "run on a CUDA device; without it on the processor"),
    Flag(("--gpu-id",), "int", "used", "which one"),
    Flag(("--mps",), "switch", "used", "run on an Apple GPU"),
    Flag(("--parallel",), "switch", "used", "all GPUs; this version uses one, and says so where there are more"),
    Flag(("--wds",), "switch", "used", "DATA_PATH is a folder of tars or a brace path such as 'data/{000..099}.tar'"),
    Flag(("--wds-size",), "int", "used", "pictures in the tars, for the file name; default: counted"),
    Flag(("--wds-info",), "texts", "used", "a webdataset _info.json that lists the tars; may be repeated"),
    Flag(("--wds-split",), "text", "used", "which of its splits", "validation"),
    Flag(("--ignore-dir-names",), "switch", "refused", _CLASSES),
    Flag(("--class-mapping",), "text", "refused", _CLASSES),
    Flag(("--hierarchical",), "switch", "used", "labels are all folders below DATA_PATH joined by _, not the last one"),
)  # fmt: skip


def named(flags: tuple[str, ...], treatment: Treatment) -> list[Flag]:
    """Those of the flags given (by field name) that are treated so, in birder's order."""
    return [flag for flag in FLAGS if flag.treatment == treatment and flag.field in flags]
