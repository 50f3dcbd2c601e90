"""clip-retrieval's own inference (runner, webdataset reader, mapper, writer, logger) on tars, on a checkpoint from a file.

    python clip_retrieval_loop.py TARS OUT WORKERS BATCH CHECKPOINT         runs it; TARS with braces
    python clip_retrieval_loop.py --make CHECKPOINT VISUAL.safetensors      makes the open_clip checkpoint it needs

clip_retrieval 2.45.0 and all_clip 1.3.0 as installed; the model is `open_clip:ViT-B-32-quickgelu/CHECKPOINT`. Packages that its
modules name and this run does not use (wandb, the OpenAI package, sentence-transformers, the index and its web server) are
stood in for by empty modules. Its logger process loads this file again, so the stand-ins come first.
There must be at least as many tars as workers: a worker without one raises, and the run then hangs.
"""

import sys
import types
from importlib.util import find_spec
from pathlib import Path


def _stand_in(name, **names):
    module = types.ModuleType(name)
    module.__dict__.update(names)
    sys.modules.setdefault(name, module)


def _stand_ins():
    for name in ("wandb", "clip"):
        _stand_in(name)
    _stand_in("sentence_transformers", SentenceTransformer=None)
    for name in ("clip_retrieval", "clip_retrieval.clip_inference"):  # their __init__ import the index, flask and so on
        folder = Path(find_spec("fire").origin).parents[1] / name.replace(".", "/")
        _stand_in(name, __path__=[str(folder)])


_stand_ins()


def make(checkpoint, visual):
    """open_clip's B/32 with a random text tower and the given image tower."""
    import open_clip
    import torch
    from safetensors.torch import load_file

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None)
    missing, unexpected = model.load_state_dict(load_file(visual), strict=False)
    assert not unexpected, unexpected
    assert not [name for name in missing if name.startswith("visual.")], missing
    torch.save(model.state_dict(), checkpoint)


def run(tars, out, workers, batch, checkpoint):
    """What `clip-retrieval inference` does in one worker: clip_inference/worker.py with its default options but for text."""
    from clip_retrieval.clip_inference.worker import worker

    worker(
        tasks=[0],
        input_dataset=tars,
        output_folder=out,
        output_partition_count=1,
        input_format="webdataset",
        batch_size=int(batch),
        num_prepro_workers=int(workers),
        enable_text=False,
        enable_image=True,
        enable_metadata=False,
        clip_model=f"open_clip:ViT-B-32-quickgelu/{checkpoint}",
        use_jit=False,
    )


if __name__ == "__main__":
    if sys.argv[1] == "--make":
        make(*sys.argv[2:])
    else:
        run(*sys.argv[1:])
