"""Tars of JPEGs in, embeddings and scores out, the way a script with transformers does it; also the float32 reference.

    python transformers_loop.py TARS OUT.npz MODEL HEAD WORKERS BATCH {float32,bfloat16} {processor,openai}

A DataLoader over webdataset with Pillow in its workers, CLIPVisionModelWithProjection (scaled dot product attention), the
published linear head on the normalised embedding. "openai" takes OpenAI's transform (torchvision on Pillow) in place of
CLIPImageProcessorPil: with float32 and it, the scores are the reference that others' drift is measured from.
"""

import io
import sys

import numpy as np
import torch
import webdataset as wds
from PIL import Image
from torch.utils.data import DataLoader
from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection


def transform_of(kind):
    """Bytes -> (3, 224, 224) float32."""
    if kind == "openai":
        import decode_loops

        return decode_loops.openai()[0]
    processor = CLIPImageProcessorPil()
    return lambda data: processor(images=Image.open(io.BytesIO(data)), return_tensors="pt")["pixel_values"][0]


class Prepare:
    """A sample of the tar -> (key, pixels)."""

    def __init__(self, kind):
        self.transform = transform_of(kind)

    def __call__(self, sample):
        """One sample."""
        return sample["__key__"], self.transform(sample["jpg"])


def main(tars, out, model, head, workers, batch, dtype, pixels):
    """Score everything in the tars (a path with braces)."""
    tower = CLIPVisionModelWithProjection.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
    state = torch.load(head, map_location="cpu", weights_only=True)
    dataset = wds.WebDataset(tars, shardshuffle=False).map(Prepare(pixels))
    loader = DataLoader(dataset, batch_size=int(batch), num_workers=int(workers))
    names, rows, scores = [], [], []
    with torch.inference_mode():
        for keys, images in loader:
            found = tower(pixel_values=images.to(tower.dtype)).image_embeds.float()
            unit = torch.nn.functional.normalize(found, dim=-1)
            names += keys
            rows.append(found.numpy())
            scores.append(torch.nn.functional.linear(unit, state["weight"].float(), state["bias"].float())[:, 0].numpy())
    np.savez(out, names=names, embeddings=np.concatenate(rows), scores=np.concatenate(scores))


if __name__ == "__main__":
    sys.path.insert(0, __file__.rsplit("/", 1)[0])
    main(*sys.argv[1:])
