"""The Python interface: pictures of every kind to scores and embeddings, in threads, workers, event loops, and as a module."""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import beholder
from beholder import InputError, PictureError, Scorer, load_head, load_scorer, preprocess
from beholder.models.towers import load_tower
from oracles.made_pictures import encoded, noise
from oracles.slow_scores import affine_scores
from oracles.web import FileServer, serving

SIDE, DIM, NUM = 56, 24, 9


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Nine pictures of different sizes and kinds."""
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    for number in range(NUM):
        image = noise("RGB", 60 + 7 * number, 90 - 5 * number, number)
        path = folder / f"{number}.{('jpg', 'png', 'webp')[number % 3]}"
        path.write_bytes(encoded(image, ("JPEG", "PNG", "WEBP")[number % 3]))
        found.append(str(path))
    return found


@pytest.fixture
def scorer(small_tower: Path, plain_head: Path) -> Scorer:
    return load_scorer(small_tower, plain_head, device="cpu", precision="fp32", num_threads=1)


@pytest.fixture(scope="module")
def embeddings(paths: list[str], small_tower: Path) -> np.ndarray:
    """(9, 24) by the plain tower, one picture at a time."""
    module = load_tower(str(small_tower)).module
    with torch.inference_mode():
        rows = [module(torch.from_numpy(preprocess(path, size_px=SIDE))[None])[0].numpy() for path in paths]
    return np.stack(rows)


@pytest.fixture(scope="module")
def scores(embeddings: np.ndarray, plain_head: Path) -> np.ndarray:
    head = load_head(str(plain_head))
    return np.asarray(affine_scores(embeddings, head.weight, head.bias))


@pytest.fixture(scope="module")
def web(paths: list[str]) -> Iterator[FileServer]:
    with serving({Path(path).name: Path(path).read_bytes() for path in paths}) as server:
        yield server


KINDS: dict[str, Callable[[str, str], Any]] = {
    "text path": lambda path, url: path,
    "path": lambda path, url: Path(path),
    "bytes": lambda path, url: Path(path).read_bytes(),
    "bytearray": lambda path, url: bytearray(Path(path).read_bytes()),
    "memoryview": lambda path, url: memoryview(Path(path).read_bytes()),
    "Pillow image": lambda path, url: Image.open(path),
    "array": lambda path, url: np.asarray(Image.open(path).convert("RGB")),
    "URL": lambda path, url: f"{url}/{Path(path).name}",
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_picture_of_every_kind_is_a_float(
    scorer: Scorer, paths: list[str], scores: np.ndarray, embeddings: np.ndarray, web: FileServer, kind: str
) -> None:
    for number in (0, 1):
        found = scorer.score(KINDS[kind](paths[number], web.url))
        assert type(found) is float
        assert abs(found - scores[number]) < 1e-4
        row = scorer.embed(KINDS[kind](paths[number], web.url))
        assert (row.shape, row.dtype) == ((DIM,), np.float32)
        assert np.abs(row - embeddings[number]).max() < 2e-5


def test_several_pictures_come_as_a_list_generator_or_array(
    scorer: Scorer, paths: list[str], scores: np.ndarray, embeddings: np.ndarray, web: FileServer
) -> None:
    mixed = [make(paths[number], web.url) for number, make in enumerate(KINDS.values())]
    for given, count in ((mixed, len(mixed)), (iter(paths), NUM), ((path for path in paths), NUM), (paths[:1], 1)):
        found = scorer.score(given)
        assert isinstance(found, np.ndarray)
        assert (found.shape, found.dtype) == ((count,), np.float32)
        assert np.abs(found - scores[:count]).max() < 1e-4
    rows = scorer.embed(paths)
    assert (rows.shape, rows.dtype) == ((NUM, DIM), np.float32)
    assert np.abs(rows - embeddings).max() < 2e-5
    stack = np.random.default_rng(0).integers(0, 256, (3, 60, 70, 3), np.uint8)
    assert np.array_equal(scorer.score(stack), scorer.score(list(stack)))


@pytest.mark.parametrize(
    "nothing", [[], (), iter(()), np.empty((0, 60, 70, 3), np.uint8)], ids=["list", "tuple", "iterator", "array"]
)
def test_no_pictures_are_no_scores(scorer: Scorer, nothing: Any) -> None:
    found = scorer.score(nothing)
    assert isinstance(found, np.ndarray)
    assert (found.shape, found.dtype) == ((0,), np.float32)
    assert scorer.embed([]).shape == (0, DIM)


def test_more_pictures_than_a_call_takes_keep_their_order_and_are_read_as_needed(
    scorer: Scorer, paths: list[str], embeddings: np.ndarray
) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield paths[number % NUM] if number < 130 else "/no/such/picture.jpg"

    with pytest.raises(PictureError, match=r"picture 130: .*/no/such/picture.jpg"):
        scorer.embed(endless())
    assert taken < 300
    order = [number % NUM for number in range(130)]
    found = scorer.embed(paths[number] for number in order)
    assert np.abs(found - embeddings[order]).max() < 2e-5
    assert np.array_equal(found[:NUM], scorer.embed(paths)), "the bits depend on the company"


BAD: dict[str, tuple[Any, str]] = {
    "missing": ("/no/such/picture.jpg", "missing"),
    "empty": (b"", "empty"),
    "no picture": (b"<html>not found</html>", "not_an_image"),
    "floats": (Image.new("F", (60, 60)), "unsupported"),
    "float array": (np.zeros((60, 60, 3)), "unsupported"),
    "four channels": (np.zeros((60, 60, 4), np.uint8), "unsupported"),
    "a number": (7, "unsupported"),
    "None": (None, "unsupported"),
    "a grey array": (np.zeros((60, 60), np.uint8), "unsupported"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_picture_raises_or_is_nan(scorer: Scorer, paths: list[str], scores: np.ndarray, kind: str) -> None:
    bad, reason = BAD[kind]
    with pytest.raises(PictureError, match="picture 1: ") as raised:
        scorer.score([paths[0], bad, paths[2]])
    assert str(raised.value.reason) == reason
    assert "\n" not in str(raised.value)
    found = scorer.score([paths[0], bad, paths[2]], on_error="nan")
    assert isinstance(found, np.ndarray)
    assert np.isnan(found).tolist() == [False, True, False]
    assert np.abs(found[[0, 2]] - scores[[0, 2]]).max() < 1e-4
    assert np.isnan(scorer.embed([bad], on_error="nan")).all()
    assert np.isnan(scorer.embed([bad, bad], on_error="nan")).tolist() == [[True] * DIM] * 2


def test_a_single_bad_picture(scorer: Scorer) -> None:
    with pytest.raises(PictureError):
        scorer.score(b"")
    found = scorer.score(b"", on_error="nan")
    assert type(found) is float
    assert np.isnan(found)


def test_wrong_arguments_are_one_line(scorer: Scorer, paths: list[str], small_tower: Path, shared_models: Path) -> None:
    for wrong in (7, None, 1.5, object()):
        with pytest.raises(InputError, match="is no picture: give a path"):
            scorer.score(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="on_error='skip': choose 'raise' or 'nan'"):
        scorer.score(paths, on_error="skip")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--preset nice"):
        load_scorer(small_tower, preset="nice")  # type: ignore[arg-type]
    with pytest.raises(beholder.HeadError, match="768.*24"):
        load_scorer(small_tower, shared_models / "sa_0_4_vit_l_14_linear.pth")


def test_options_decide_pixels_and_head(small_tower: Path, plain_head: Path, second_head: Path, paths: list[str]) -> None:
    grey = noise("RGBA", 90, 60, 3)
    plain = load_scorer(small_tower, plain_head, device="cpu", precision="fp32", preset="squash", batch_size=1)
    module = load_tower(str(small_tower)).module
    with torch.inference_mode():
        expected = module(torch.from_numpy(preprocess(grey, size_px=SIDE, preset="squash"))[None])[0].numpy()
    assert np.abs(plain.embed(grey) - expected).max() < 2e-5
    head = load_head(str(second_head))
    other = load_scorer(small_tower, head, device="cpu", precision="fp32")
    assert other.head is head
    assert other.score(paths[0]) == pytest.approx(head.score(other.embed(paths[0])), abs=1e-6)


def test_threads_share_a_scorer(scorer: Scorer, paths: list[str]) -> None:
    alone = scorer.embed(paths)
    found: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        order = np.roll(np.arange(NUM), number)
        for _ in range(3):
            found[number] = scorer.embed([paths[i] for i in order])[np.argsort(order)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(found) == list(range(5))
    assert all(np.array_equal(rows, alone) for rows in found.values())


def test_it_works_inside_a_running_event_loop(scorer: Scorer, paths: list[str], scores: np.ndarray, web: FileServer) -> None:
    """As in a notebook, whose cells run in a loop; with a URL, whose reading has a loop of its own."""

    async def cell() -> tuple[Any, Any]:
        here = scorer.score([paths[0], f"{web.url}/{Path(paths[1]).name}"])
        there = await asyncio.to_thread(scorer.score, paths[2])
        return here, there

    here, there = asyncio.run(cell())
    assert np.abs(here - scores[:2]).max() < 1e-4
    assert abs(there - scores[2]) < 1e-4


class Scored(torch.utils.data.Dataset[Any]):
    """Scores in the worker."""

    def __init__(self, scorer: Scorer, pictures: list[str]) -> None:
        self.scorer, self.pictures = scorer, pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Any:
        return self.scorer.score(self.pictures[index])


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_dataloader_worker_scores(scorer: Scorer, paths: list[str], scores: np.ndarray, web: FileServer, start: str) -> None:
    urls = [*paths[:4], f"{web.url}/{Path(paths[4]).name}"]
    before = scorer.score(urls)  # threads and connections of this process do not survive the fork
    loader = torch.utils.data.DataLoader(
        Scored(scorer, urls), batch_size=2, num_workers=1, multiprocessing_context=start, timeout=60
    )
    found = torch.cat(list(loader)).numpy()
    assert np.abs(found - scores[:5]).max() < 1e-4
    assert np.array_equal(found.astype(np.float32), before)
    assert np.array_equal(scorer.score(urls), before)


def test_a_bad_picture_in_a_dataloader_worker_is_told(scorer: Scorer) -> None:
    loader = torch.utils.data.DataLoader(
        Scored(scorer, ["/no/such/picture.jpg"]), num_workers=1, multiprocessing_context="fork", timeout=60
    )
    with pytest.raises(Exception, match="/no/such/picture.jpg"):
        list(loader)


def test_a_copied_scorer_gives_the_same_bits(scorer: Scorer, paths: list[str]) -> None:
    copy = pickle.loads(pickle.dumps(scorer))
    assert np.array_equal(copy.score(paths), scorer.score(paths))
    assert (copy.pixels, copy.engine.precision) == (scorer.pixels, scorer.engine.precision)
    assert multiprocessing.active_children() == []


def images_of(paths: list[str]) -> torch.Tensor:
    """(N, 3, S, S) float32 in [0, 1]."""
    pixels = np.stack([preprocess(path, size_px=SIDE) for path in paths])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("count", [1, NUM])
def test_the_module_gives_the_scorers_scores(scorer: Scorer, paths: list[str], count: int) -> None:
    module = scorer.as_module()
    found = module(images_of(paths[:count]))
    assert found.shape == (count,)
    assert np.abs(found.detach().numpy() - scorer.score(paths[:count])).max() < 1e-4
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("head", ["plain_head", "second_head"])
def test_the_modules_gradient_is_that_of_finite_differences(
    request: pytest.FixtureRequest, small_tower: Path, paths: list[str], head: str
) -> None:
    module = load_scorer(small_tower, request.getfixturevalue(head), device="cpu", precision="fp32").as_module().double()
    images = images_of(paths[:2]).double().requires_grad_()
    scores = module(images)
    assert scores.dtype == torch.float64
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    make = torch.Generator().manual_seed(0)
    step = 1e-5
    with torch.no_grad():
        for _ in range(12):
            direction = torch.randn(images.shape, generator=make, dtype=torch.float64)
            slope = (module(images + step * direction) - module(images - step * direction)).sum() / (2 * step)
            assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-6, abs=1e-8)
    assert gradient.abs().amax() > 1e-4


def test_the_module_moves_alone(scorer: Scorer, paths: list[str]) -> None:
    """Converting or moving it leaves the scorer, and modules made later, as they were."""
    before = scorer.score(paths)
    module = scorer.as_module()
    again = scorer.as_module()
    first = module.tower.patch.weight
    assert first.data_ptr() == scorer.tower.module.patch.weight.data_ptr(), "the weights were copied"
    double = module.to(torch.float64)
    assert double(images_of(paths).double()).dtype == torch.float64
    assert scorer.tower.module.patch.weight.dtype == torch.float32
    assert np.array_equal(scorer.score(paths), before)
    assert again(images_of(paths)).dtype == torch.float32
    assert np.abs(double(images_of(paths).double()).numpy() - before).max() < 1e-4
    meta = scorer.as_module().to("meta")
    assert {value.device.type for value in (*meta.parameters(), *meta.buffers())} == {"meta"}
    assert scorer.tower.module.patch.weight.device.type == "cpu"


def test_the_module_can_drive_an_optimiser(scorer: Scorer, paths: list[str]) -> None:
    images = images_of(paths[:2]).requires_grad_()
    module = scorer.as_module()
    start = module(images).sum().item()
    (gradient,) = torch.autograd.grad(module(images).sum(), images)
    assert module(images + 0.01 * gradient / gradient.abs().amax()).sum().item() > start


def test_importing_beholder_stays_light() -> None:
    heavy = ["torch", "numba", "pyarrow", "PIL", "numpy", "polars", "huggingface_hub", "matplotlib", "fsspec"]
    code = f"import sys, beholder; dir(beholder); print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
    code = "import sys, beholder; beholder.load_scorer, beholder.Scorer; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


def test_an_image_is_not_changed(scorer: Scorer) -> None:
    image = noise("P", 70, 60, 5)
    before = image.copy()
    scorer.score(image)
    assert (image.mode, image.tobytes()) == (before.mode, before.tobytes())


def test_the_same_image_may_come_again(scorer: Scorer) -> None:
    """Pillow reads a file when its pixels are first asked for, which two threads must not do at once."""
    data = encoded(noise("RGB", 500, 400, 6), "PNG")
    expected = scorer.score(data)
    for _ in range(5):
        lazy = Image.open(io.BytesIO(data))
        assert scorer.score([lazy] * 6).tolist() == [expected] * 6  # type: ignore[union-attr]


def test_frames_of_one_image_are_scored_each(scorer: Scorer) -> None:
    """Pillow's iterator over frames gives the same object again and again, turned to the next frame."""
    frames = [noise("L", 70, 60, number) for number in range(40)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    copies = [frame.copy() for frame in ImageSequence.Iterator(Image.open(io.BytesIO(data)))]
    expected = scorer.score(copies)
    assert len(set(expected.tolist())) == 40  # type: ignore[union-attr]
    assert np.array_equal(scorer.score(ImageSequence.Iterator(Image.open(io.BytesIO(data)))), expected)


def test_a_damaged_animation_is_one_bad_picture(scorer: Scorer) -> None:
    frames = [noise("L", 70, 60, number) for number in range(4)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    broken = Image.open(io.BytesIO(data[:900]))
    assert np.isnan(scorer.score([broken, frames[0]], on_error="nan")).tolist() == [True, False]
