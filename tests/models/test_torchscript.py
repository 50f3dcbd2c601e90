"""TorchScript archives that are built to do harm, or are damaged: one line each, and quickly."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from beholder.errors import HeadError
from beholder.models.tensor_files import open_script


def write(path: Path, description: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", description)
        archive.writestr("m/code/x.py", "torch.sigmoid(")
    return path


def text(word: str) -> bytes:
    return b"X" + len(word).to_bytes(4, "little") + word.encode()


def module(number: int, attributes: bytes) -> bytes:
    """Opcodes: an object of `__torch__.M` with these attributes, kept as memo `number`, and off the stack again."""
    return b"c__torch__\nM\n)\x81}(" + attributes + b"ub" + b"q" + bytes([number]) + b"0"


def test_modules_that_hold_each_other_twice_are_not_walked_to_the_end(tmp_path: Path) -> None:
    """A thousand bytes that name a module a million times."""
    chain = [module(0, text("a") + b"K\x01")]
    chain += [module(k, text("a") + b"h" + bytes([k - 1]) + text("b") + b"h" + bytes([k - 1])) for k in range(1, 21)]
    path = write(tmp_path / "x.pt", b"\x80\x02" + b"".join(chain) + b"h" + bytes([20]) + b".")
    assert path.stat().st_size < 2000
    with pytest.raises(HeadError, match="nested without end") as caught:
        open_script(path)
    assert "\n" not in str(caught.value)


def test_modules_inside_themselves_and_endless_names(tmp_path: Path) -> None:
    inside = b"\x80\x02c__torch__\nM\n)\x81q\x00}(" + text("a") + b"h\x00ub."
    with pytest.raises(HeadError, match="nested without end"):
        open_script(write(tmp_path / "x.pt", inside))
    long = b"\x80\x02" + module(0, text("a") + b"K\x01") + module(1, text("n" * 5000) + b"h\x00") + b"h\x01."
    with pytest.raises(HeadError, match="longer than any model's"):
        open_script(write(tmp_path / "y.pt", long))


class Shared(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 2)
        self.second = self.first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x)[..., :1].expand(3))


def test_a_module_with_two_names_gives_its_tensors_under_both(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Shared()), str(tmp_path / "x.pt"))
    expected = torch.jit.load(str(tmp_path / "x.pt")).state_dict()
    found = open_script(tmp_path / "x.pt")
    assert set(found.tensors) == set(expected) == {"first.weight", "first.bias", "second.weight", "second.bias"}
    for name, tensor in found.read(expected).items():
        assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_archive_with_flipped_bytes(tmp_path: Path, method: int) -> None:
    linear = torch.nn.Linear(64, 64)
    torch.jit.save(torch.jit.script(linear), str(tmp_path / "x.pt"))
    path = tmp_path / "y.pt"
    with zipfile.ZipFile(tmp_path / "x.pt") as old, zipfile.ZipFile(path, "w", method) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    assert torch.equal(open_script(path).read(["weight"])["weight"], linear.weight)
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda info: info.compress_size)
    sound = path.read_bytes()
    start = sound.index(largest.filename.encode(), largest.header_offset) + len(largest.filename)
    for offset in (0, 5, 40, 200, 1000):
        data = bytearray(sound)
        data[start + offset : start + offset + 40] = bytes(byte ^ 0xFF for byte in data[start + offset : start + offset + 40])
        path.write_bytes(bytes(data))
        with pytest.raises(HeadError, match="is damaged") as caught:
            open_script(path).read(["weight"])
        assert "\n" not in str(caught.value)
