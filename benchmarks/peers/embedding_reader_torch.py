"""embedding-reader and the head in PyTorch, as its own aesthetic example does it: a folder of .npy in, rows/s out as JSON.

Arguments: folder with .npy, head (.pth). The layers are applied as they are published (five Linear, no activation).
"""

import json
import sys
import time

import torch
from embedding_reader import EmbeddingReader


def main(folder: str, head: str) -> None:
    """Score every row once; imports and the loading of the head are not timed."""
    state = torch.load(head, map_location="cpu", weights_only=True)
    layers = [(state[f"layers.{i}.weight"], state[f"layers.{i}.bias"]) for i in (0, 2, 4, 6, 7)]
    reader = EmbeddingReader(embeddings_folder=folder, file_format="npy")
    started, num_rows, total = time.perf_counter(), 0, 0.0
    with torch.inference_mode():
        for embeddings, _ in reader(batch_size=100_000, start=0, end=reader.count, show_progress=False):
            rows = torch.nn.functional.normalize(torch.from_numpy(embeddings.astype("float32", copy=False)))
            for weight, bias in layers:
                rows = torch.nn.functional.linear(rows, weight, bias)
            num_rows += len(rows)
            total += float(rows.double().sum())
    seconds = time.perf_counter() - started
    print(json.dumps({"rows_per_second": num_rows / seconds, "seconds": seconds, "mean": total / num_rows}))


if __name__ == "__main__":
    main(*sys.argv[1:])
