"""New tars in the hands of others: webdataset itself, and the readers of clip-retrieval, open_clip and datasets."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beholder.sources.find import find_pictures
from beholder.sources.reader import SourceOptions, picture_reader
from oracles.acting import act, score_table
from oracles.peers import ask, needs_peers
from oracles.tar_making import png, tar
from oracles.tar_reading import img2dataset_tar

pytestmark = needs_peers("webdataset and datasets are")

WEBDATASET = """
import base64, json, sys
import webdataset as wds
raw = wds.WebDataset(sys.argv[1], shardshuffle=False)
if sys.argv[2] == "raw":
    found = [(s["__key__"], {k: base64.b64encode(v).decode() for k, v in s.items() if not k.startswith("__")}) for s in raw]
else:
    workers = int(sys.argv[2])
    samples = wds.WebLoader(raw.decode("pil"), batch_size=None, num_workers=workers)
    found = []
    for s in samples:
        said = {k: v for k, v in s.items() if not k.startswith("__")}
        for k, v in said.items():
            if hasattr(v, "tobytes"):
                said[k] = [v.mode, v.size, base64.b64encode(v.tobytes()).decode()]
        found.append((s["__key__"], said))
print(json.dumps(found))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(number: int, kind: str, mode: str = "RGB") -> bytes:
    """A picture of noise, 7 by 5 pixels."""
    stream = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(stream, kind)
    return stream.getvalue()


def pixels(data: bytes) -> list[Any]:
    """Mode, size and base64 of a picture's pixels, by Pillow."""
    shown = Image.open(io.BytesIO(data)).convert("RGB")
    return ["RGB", list(shown.size), base64.b64encode(shown.tobytes()).decode()]


def as_bytes(found: str) -> list[tuple[str, dict[str, bytes]]]:
    """Key and members of each sample."""
    return [(key, {name: base64.b64decode(data) for name, data in members.items()}) for key, members in json.loads(found)]


FILES = {
    "a.jpg": picture(0, "JPEG"), "a.txt": "wörds\n".encode(), "a.json": b'{"n": [1, null, "\xc3\xb6"]}',
    "b/IMG_1.2.JPG": picture(1, "JPEG"), "b/IMG_1.2.txt": b"dots", "b/IMG_1.2.JPG.json": b'{"x": 2.5}',
    "b/c.v1/d.png": picture(2, "PNG"), "b/c.v1/d.json": b"{}", "b/IMG_1_2.webp": picture(3, "WEBP"),
    "grey": picture(4, "PNG", "L"), "\xe9/x y.gif": picture(5, "GIF", "P"), "__init__.jpeg": picture(6, "JPEG"),
    "n\nl.png": picture(7, "PNG", "RGBA"), "z" * 120 + "/" + "y" * 150 + ".jpg": picture(8, "JPEG"),
}  # fmt: skip
PACKED = [
    ("a", {"jpg": "a.jpg", "json": "a.json", "txt": "a.txt"}),
    ("b/IMG_1_2", {"jpg": "b/IMG_1.2.JPG", "jpg.json": "b/IMG_1.2.JPG.json", "txt": "b/IMG_1.2.txt"}),
    ("b/c.v1/d", {"png": "b/c.v1/d.png", "json": "b/c.v1/d.json"}),
    ("b/IMG_1_2_2", {"webp": "b/IMG_1_2.webp"}),
    ("grey", {"png": "grey"}),
    ("\xe9/x y", {"gif": "\xe9/x y.gif"}),
    ("__init__", {"jpeg": "__init__.jpeg"}),
    ("n\nl", {"png": "n\nl.png"}),
    ("z" * 120 + "/" + "y" * 150, {"jpg": "z" * 120 + "/" + "y" * 150 + ".jpg"}),
]
"""Key, and of each member the file that it is."""


def pack_files(here: Path) -> None:
    """A folder of FILES in three tars."""
    for name, data in FILES.items():
        (here / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "photos" / name).write_bytes(data)
    samples = [f"photos/{name}" for name in FILES if not name.endswith((".txt", ".json"))]
    done, _ = act(score_table(samples, ["photos"]), tars="out", shard_count=4, apply=True)
    assert (done.num_done, done.num_shards) == (9, 3)


def test_webdataset_has_files_and_what_belongs_to_them(here: Path) -> None:
    pack_files(here)
    found = as_bytes(ask(WEBDATASET, "out/{00000..00002}.tar", "raw", cache=here / "cache"))
    assert found == [(key, {name: FILES[file] for name, file in members.items()}) for key, members in PACKED]


@pytest.mark.soak
def test_webdataset_decodes_them_in_workers(here: Path) -> None:
    pack_files(here)
    found = json.loads(ask(WEBDATASET, "out/{00000..00002}.tar", "2", cache=here / "cache"))
    expected: dict[str, dict[str, Any]] = {}
    for key, members in PACKED:
        expected[key] = {name: pixels(FILES[file]) for name, file in members.items() if name[-3:] not in ("txt", "son")}
    expected["a"] |= {"txt": "wörds\n", "json": {"n": [1, None, "ö"]}}
    expected["b/IMG_1_2"] |= {"txt": "dots", "jpg.json": {"x": 2.5}}
    expected["b/c.v1/d"] |= {"json": {}}
    assert len(found) == len(expected)
    assert dict(found) == expected


def test_webdataset_has_members_of_img2dataset_as_they_were(here: Path) -> None:
    for shard in range(2):
        img2dataset_tar(here, shard)
    chosen = [(shard, i) for shard in range(2) for i in range(20) if i not in (3, 7) and i % 3]
    samples = [f"{shard:05d}.tar/{shard:05d}{i:04d}" for shard, i in chosen]
    sources = ["00000.tar", "00001.tar"]
    act(score_table(samples, sources), tars="out", shard_count=10, apply=True)
    found = as_bytes(ask(WEBDATASET, "out/{00000..00002}.tar", "raw", cache=here / "cache"))
    before = dict(as_bytes(ask(WEBDATASET, "{00000..00001}.tar", "raw", cache=here / "cache")))
    assert len(before) == 36
    assert found == [(sample[-9:], before[sample[-9:]]) for sample in samples]
    assert found[0][1]["jpg"] == png(1)
    assert found[0][1]["txt"] == b"of 1"
    act(score_table(samples[-1:], sources), tars="one", apply=True)
    assert as_bytes(ask(WEBDATASET, "one/00000.tar", "raw", cache=here / "cache")) == found[-1:]


@pytest.mark.soak
def test_names_that_differ_in_case_alone(here: Path) -> None:
    """The webdataset package makes small letters of what stands behind a key, and stops at the first that is there twice."""
    (here / "photos").mkdir()
    files = {"a.jpg": png(0), "a.txt": b"small", "a.TXT": b"capital", "a.Txt": b"both", "b.JPG": png(1), "b.jpg": png(2)}
    for name, data in files.items():
        (here / "photos" / name).write_bytes(data)
    done, _ = act(score_table(["photos/a.jpg", "photos/b.JPG", "photos/b.jpg"], ["photos"]), tars="out", apply=True)
    assert done.num_done == 3
    found = dict(as_bytes(ask(WEBDATASET, "out/00000.tar", "raw", cache=here / "cache")))
    assert sorted(found["a"].values()) == sorted([png(0), b"small", b"capital", b"both"])
    assert set(found["a"]) == {"jpg", "txt", "_2.txt", "_3.txt"}
    assert (found["b"], found["b_2"]) == ({"jpg": png(1)}, {"jpg": png(2)})
    members = [("1.jpg", png(3)), ("1.JPG", png(4)), ("1.txt", b"x"), ("1.TXT", b"y"), ("2.png", png(5)), ("2.PNG", png(6))]
    (here / "t.tar").write_bytes(tar(members))
    part = find_pictures(["t.tar"], SourceOptions())[0]
    samples = [
        name
        for block in picture_reader(part.kind).blocks(part, 0, None, SourceOptions())
        for name in block.labels.column("sample").to_pylist()
    ]
    assert len(samples) == 4
    act(score_table(samples, ["t.tar"]), tars="out2", apply=True)
    again = as_bytes(ask(WEBDATASET, "out2/00000.tar", "raw", cache=here / "cache"))
    assert [key for key, _ in again] == ["1", "1_2", "2", "2_2"]
    assert {one for _, found in again for one in found.values()} == {data for _, data in members}


CLIP_RETRIEVAL = """
import importlib.util, json, sys, numpy as np
(package,) = importlib.util.find_spec("clip_retrieval").submodule_search_locations  # its __init__ needs flask and an index
spec = importlib.util.spec_from_file_location("reader", package + "/clip_inference/reader.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
reader = module.WebdatasetReader(lambda urls: urls, lambda picture: np.asarray(picture.convert("RGB")), lambda texts: [0],
                                 sys.argv[1:], batch_size=4, num_prepro_workers=0, enable_metadata=True)
found = []
for batch in reader:
    for row in zip(batch["image_filename"], batch["image_tensor"].tolist(), batch["text"], batch["metadata"], strict=True):
        found.append([row[0], np.ravel(row[1]).tolist(), row[2], json.loads(row[3])["url"]])
print(json.dumps(found))
"""
OPEN_CLIP = """
import json, sys, types, numpy as np
from open_clip_train.data import get_wds_dataset
args = types.SimpleNamespace(val_data=sys.argv[1], val_num_samples=0, batch_size=4, workers=0)
loader = get_wds_dataset(args, np.asarray, is_train=False, tokenizer=lambda text: [text]).dataloader
print(json.dumps([[np.ravel(p).tolist(), t] for pictures, texts in loader for p, t in zip(pictures, texts, strict=True)]))
"""
DATASETS = """
import json, sys, numpy as np, datasets
read = datasets.load_dataset("webdataset", data_files=sys.argv[1], split="train")
assert isinstance(read.features["jpg"], datasets.Image), read.features
print(json.dumps([[r["__key__"], np.ravel(r["jpg"].convert("RGB")).tolist(), r["txt"], r["json"]["url"]] for r in read]))
"""


@pytest.fixture
def packed(here: Path) -> list[tuple[str, list[int], str, str]]:
    """Tars `out/*.tar` chosen from what img2dataset wrote: key, pixels, caption and URL of each picture."""
    img2dataset_tar(here)
    chosen = [i for i in range(20) if i not in (3, 7) and i % 2]
    act(score_table([f"00000.tar/00000{i:04d}" for i in chosen], ["00000.tar"]), tars="out", shard_count=5, apply=True)
    return [(f"00000{i:04d}", [i] * 3, f"of {i}", f"http://x/{i}.jpg") for i in chosen]


def test_clip_retrieval_reads_them(here: Path, packed: list[tuple[str, list[int], str, str]]) -> None:
    found = json.loads(ask(CLIP_RETRIEVAL, "out/00000.tar", "out/00001.tar", cache=here / "cache"))
    assert [tuple(row) for row in found] == packed


def test_open_clip_reads_them(here: Path, packed: list[tuple[str, list[int], str, str]]) -> None:
    found = json.loads(ask(OPEN_CLIP, "out/{00000..00001}.tar", cache=here / "cache"))
    assert [tuple(row) for row in found] == [(pixels, caption) for _, pixels, caption, _ in packed]


def test_datasets_reads_them(here: Path, packed: list[tuple[str, list[int], str, str]]) -> None:
    found = json.loads(ask(DATASETS, "out/*.tar", cache=here / "cache"))
    assert [tuple(row) for row in found] == packed
