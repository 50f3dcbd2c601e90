"""JPEG bytes in, the pixels CLIP is given out, as other tools make them; a process that measures on request.

    python decode_loops.py TOOL

One JSON object a line on standard input: {"files": [...]} reads the pictures into memory, {"run": n} prepares all of them n
times and answers with the seconds of each time, {"pixels": path} saves (N, 224, 224, 3) uint8. Answers are JSON lines.
Everything runs on one thread. Tools that give normalised floats are timed as they are; their pixels are turned back into
levels only when they are saved.
"""

import io
import json
import os
import sys
import time
from pathlib import Path

SIZE = 224
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def serve(prepare, levels=None):
    """Answer requests until standard input ends. `levels` turns one result of `prepare` into uint8 (224, 224, 3)."""
    import numpy as np

    out, sys.stdout = sys.stdout, sys.stderr
    pictures = []
    for line in sys.stdin:
        request = json.loads(line)
        answer = {}
        if "files" in request:
            pictures = [Path(path).read_bytes() for path in request["files"]]
        elif "run" in request:
            seconds = []
            for _ in range(request["run"]):
                started = time.perf_counter()
                for data in pictures:
                    prepare(data)
                seconds.append(time.perf_counter() - started)
            answer = {"seconds": seconds}
        else:
            made = [prepare(data) for data in pictures]
            np.save(request["pixels"], np.stack([np.asarray(levels(x) if levels else x) for x in made]))
        print(json.dumps(answer), file=out, flush=True)


def from_normalised(x):
    """(3, 224, 224) normalised floats -> (224, 224, 3) uint8."""
    import numpy as np

    rows = np.asarray(x, dtype=np.float64).reshape(3, SIZE, SIZE).transpose(1, 2, 0)
    return np.rint((rows * STD + MEAN) * 255).clip(0, 255).astype(np.uint8)


def _sizes(width, height):
    """Size after Resize(224) and the corner of CenterCrop(224), as torchvision computes them for OpenAI's transform."""
    short, long = min(width, height), max(width, height)
    other = int(SIZE * long / short)
    new = (SIZE, other) if width <= height else (other, SIZE)
    return new, round((new[0] - SIZE) / 2.0), round((new[1] - SIZE) / 2.0)


def pil():
    """OpenAI's transform up to the pixels, with Pillow alone: the shortest exact loop there is."""
    import numpy as np
    from PIL import Image

    def prepare(data):
        image = Image.open(io.BytesIO(data))
        new, left, top = _sizes(*image.size)
        image = image.resize(new, Image.BICUBIC).crop((left, top, left + SIZE, top + SIZE))
        return np.asarray(image.convert("RGB"))

    return prepare, None


def openai():
    """OpenAI's transform as clip.load gives it (torchvision on PIL), to normalised floats."""
    from PIL import Image
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    steps = [
        Resize(SIZE, InterpolationMode.BICUBIC),
        CenterCrop(SIZE),
        lambda i: i.convert("RGB"),
        ToTensor(),
        Normalize(MEAN, STD),
    ]
    transform = Compose(steps)
    return lambda data: transform(Image.open(io.BytesIO(data))), from_normalised


def open_clip():
    """open_clip's evaluation transform."""
    from open_clip.transform import image_transform
    from PIL import Image

    transform = image_transform(SIZE, is_train=False)
    return lambda data: transform(Image.open(io.BytesIO(data))), from_normalised


def timm():
    """The evaluation transform of timm for the L/14 tower, on the RGB picture its dataset hands it."""
    import timm.data
    from PIL import Image

    transform = timm.data.create_transform(
        (3, SIZE, SIZE), interpolation="bicubic", mean=MEAN, std=STD, crop_pct=1.0, is_training=False
    )
    return lambda data: transform(Image.open(io.BytesIO(data)).convert("RGB")), from_normalised


def transformers():
    """CLIPImageProcessorPil of transformers, as a DataLoader calls it: one picture at a time."""
    from PIL import Image
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil()

    def prepare(data):
        return processor(images=Image.open(io.BytesIO(data)), return_tensors="pt")["pixel_values"][0]

    return prepare, from_normalised


def birder():
    """What birder does with --img-loader pil and --simple-crop."""
    from birder.data.transforms.classification import inference_preset
    from PIL import Image

    class Stats(dict):
        pass

    transform = inference_preset((SIZE, SIZE), Stats(mean=MEAN, std=STD), 1.0, True)
    return lambda data: transform(Image.open(io.BytesIO(data)).convert("RGB")), from_normalised


def opencv():
    """OpenCV: imdecode, INTER_AREA to the short side, crop. Not Pillow's pixels."""
    import cv2
    import numpy as np

    cv2.setNumThreads(1)

    def prepare(data):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        new, left, top = _sizes(image.shape[1], image.shape[0])
        image = cv2.resize(image, new, interpolation=cv2.INTER_AREA)[top : top + SIZE, left : left + SIZE]
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    return prepare, None


def vips():
    """libvips: thumbnail_buffer, which decodes at 1/2 ... 1/8 where it can, then a Lanczos kernel. Not Pillow's pixels."""
    os.environ["VIPS_CONCURRENCY"] = "1"
    import pyvips

    pyvips.cache_set_max(0)

    def prepare(data):
        image = pyvips.Image.thumbnail_buffer(data, SIZE, height=SIZE, crop="centre", no_rotate=True)
        return (image if image.bands == 3 else image.colourspace("srgb")[:3]).numpy()

    return prepare, None


def turbojpeg():
    """Decoding by simplejpeg (libjpeg-turbo), Pillow for the rest."""
    import numpy as np
    import simplejpeg
    from PIL import Image

    def prepare(data):
        image = Image.fromarray(simplejpeg.decode_jpeg(data))
        new, left, top = _sizes(*image.size)
        return np.asarray(image.resize(new, Image.BICUBIC).crop((left, top, left + SIZE, top + SIZE)))

    return prepare, None


def pil_draft():
    """Pillow's own scaled decoding: draft() to at least the size wanted, then the usual resize. Not the reference's pixels."""
    import numpy as np
    from PIL import Image

    def prepare(data):
        image = Image.open(io.BytesIO(data))
        new, left, top = _sizes(*image.size)
        image.draft("RGB", new)
        image = image.resize(new, Image.BICUBIC).crop((left, top, left + SIZE, top + SIZE))
        return np.asarray(image.convert("RGB"))

    return prepare, None


TOOLS = {
    tool.__name__: tool for tool in (pil, openai, open_clip, timm, transformers, birder, opencv, vips, turbojpeg, pil_draft)
}


if __name__ == "__main__":
    serve(*TOOLS[sys.argv[1]]())
