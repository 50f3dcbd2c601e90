"""birder predict's flags and file names: ours beside birder 0.8.4's own source, which is read as text, not run as a whole."""

from __future__ import annotations

import ast
import re
import tarfile
import textwrap
import zipfile
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from beholder.errors import BeholderError, HeadError, InputError
from beholder.scoring import birder
from beholder.scoring.birder import (
    FLAGS,
    BirderFlags,
    checkpoint,
    embed_options,
    find_sources,
    kinds,
    notes,
    output_path,
    read_classes,
)
from beholder.scoring.options import EmbedOptions, FolderLabels
from beholder.sources.find import find_pictures
from beholder.sources.reader import PicturePart, SourceOptions
from oracles.peers import PEERS, needs_peers

CARD = {
    "network": "vit_l14_pn_quick_gelu", "tag": "openai-clip", "simple_crop": True, "gpu": True, "parallel": True,
    "batch_size": 256, "amp": True, "amp_dtype": "bfloat16", "save_logits": True, "suffix": "NAME", "data_path": ("DIR",),
    "given": ("network", "tag", "simple_crop", "gpu", "parallel", "batch_size", "chunk_size", "amp", "amp_dtype",
              "save_logits", "suffix"),
}  # fmt: skip
PLAIN: dict[str, Any] = {"network": "net", "save_logits": True, "data_path": ("DIR",)}


def birders_source() -> str:
    (path,) = PEERS.parents[1].glob("lib/python*/site-packages/birder/scripts/predict.py")
    return path.read_text(encoding="utf-8")


def birders_name(source: str, num_classes: int, num_samples: int, **given: Any) -> str:
    """Run birder's own lines that make the name of the output."""
    start = source.index("    # Sort out output file names")
    stop = source.index("    if args.save_sparse_results is True:\n        results")
    defaults = {"epoch": None, "naflex": False, "tta": False, "prefix": None, "suffix": None, "simple_crop": False,
                "model_dtype": "float32", "center_crop": 1.0, "size": (224, 224)}  # fmt: skip
    names: dict[str, Any] = {
        "args": SimpleNamespace(**{**defaults, **given}), "class_to_idx": range(num_classes), "num_samples": num_samples,
        "network_name": given["network"] + (f"_{given['tag']}" if given.get("tag") else ""),
    }  # fmt: skip
    exec(textwrap.dedent(source[start:stop]), names)
    return str(names["base_output_path"])


@needs_peers("birder is")
@pytest.mark.parametrize(
    "given",
    [
        {"network": "vit_l14_pn_quick_gelu", "tag": "openai-clip", "simple_crop": True, "suffix": "NAME"},
        {"network": "net"},
        {"network": "net", "epoch": 0},
        {"network": "net", "tag": "t", "epoch": 12, "prefix": "tol10m", "suffix": "x_y", "model_dtype": "bfloat16"},
        {"network": "net", "center_crop": 0.9, "simple_crop": True, "model_dtype": "float16", "prefix": ""},
        {"network": "net", "center_crop": 1, "suffix": ""},
    ],
)
@pytest.mark.parametrize("num_samples", [0, 5704723])
def test_the_name_is_birders(given: dict[str, Any], num_samples: int) -> None:
    flags = BirderFlags(**{**PLAIN, **given})
    ours = output_path(flags, num_classes=768, size_px=224, num_samples=num_samples, kind="logits")
    assert ours == f"results/{birders_name(birders_source(), 768, num_samples, **given)}_logits.csv"


def test_names_that_were_published() -> None:
    """From VDC's documentation of the ten million pictures of its Tree of Life, and from its `--help`."""
    names = {"network": "vit_l14_pn_quick_gelu", "tag": "openai-clip"}
    flags = BirderFlags(**{**PLAIN, **names, "prefix": "tol10m", "output_format": "parquet"})
    path = output_path(flags, num_classes=768, size_px=224, num_samples=5704723, kind="logits")
    assert path == "results/tol10m_vit_l14_pn_quick_gelu_openai-clip_768_224px_crop1.0_5704723_logits.parquet"
    flags = BirderFlags(**{**PLAIN, **names, "suffix": "iwildcam2022"})
    path = output_path(flags, num_classes=768, size_px=224, num_samples=201399, kind="embeddings")
    assert path == "results/vit_l14_pn_quick_gelu_openai-clip_768_224px_crop1.0_201399_iwildcam2022_embeddings.csv"


@needs_peers("birder is")
def test_every_flag_of_birder_is_known_with_its_default_and_choices() -> None:
    ours = {name: flag for flag in FLAGS for name in flag.names}
    seen = set()
    for call in ast.walk(ast.parse(birders_source())):
        if not isinstance(call, ast.Call) or getattr(call.func, "attr", "") != "add_argument":
            continue
        names = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
        if names == ["data_path"]:
            continue
        flag = ours[names[0]]
        assert list(flag.names) == names
        seen |= set(names)
        settings = {keyword.arg: keyword.value for keyword in call.keywords}
        assert (flag.kind == "switch") == ("store_true" in ast.dump(settings.get("action", ast.Constant(None))))
        default = settings.get("default")
        if flag.default is not None:
            assert isinstance(default, ast.Constant)
            assert default.value == flag.default
        if isinstance(settings.get("choices"), ast.List):
            assert list(flag.choices) == ast.literal_eval(settings["choices"])
    assert seen == set(ours)


@needs_peers("birder is")
def test_what_birder_forbids_together_is_refused() -> None:
    """The pairs in birder's `validate_args` among flags that mean something here."""
    source = birders_source()
    assert "--amp can only be used with --model-dtype float32" in source
    assert "--parallel requires --gpu to be set" in source
    for given in ({"amp": True, "model_dtype": "float16"}, {"parallel": True}, {"center_crop": 0.0}, {"center_crop": 1.1}):
        with pytest.raises(InputError):
            BirderFlags(**{**PLAIN, **given})


def test_flags_are_told_once_and_each_says_something() -> None:
    names = [name for flag in FLAGS for name in flag.names]
    assert len(names) == len(set(names))
    for flag in FLAGS:
        assert flag.text
        if flag.treatment == "used":
            assert flag.field in BirderFlags.__dataclass_fields__, flag.name
        else:
            assert flag.field not in BirderFlags.__dataclass_fields__, flag.name


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.treatment == "refused"], ids=lambda flag: flag.name)
def test_refused_flags_name_themselves_and_the_reason(flag: Any) -> None:
    with pytest.raises(InputError, match=f"^{flag.name} is not done here: {re.escape(flag.text)}$"):
        BirderFlags(**PLAIN, given=(flag.field,))


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.treatment == "idle"], ids=lambda flag: flag.name)
def test_idle_flags_are_taken_with_a_note(flag: Any) -> None:
    flags = BirderFlags(**PLAIN, given=(flag.field,), compile=True)
    assert notes(flags, num_gpus=0)[0] == f"{flag.name} has no effect here: {flag.text}"


def test_the_model_cards_command() -> None:
    flags = BirderFlags(**CARD)  # type: ignore[arg-type]
    options = EmbedOptions(**embed_options(flags, kind="logits", classes={}, sources=find_sources(flags)))
    assert (options.sources, options.backbone) == (("DIR",), "vit_l14_pn_quick_gelu_openai-clip")
    assert (options.preset, options.crop, options.device, options.precision) == ("rgb", 1.0, "cuda", "bf16")
    assert (options.format, options.dtype, options.normalise, options.is_bare) == ("birder-csv", "float32", False, True)
    assert (options.batch_size, options.hidden, options.folders) == (256, False, None)
    lines = notes(flags, num_gpus=1)
    assert [line.split()[0] for line in lines] == ["--chunk-size", "--parallel", "pixels"]
    assert "with one GPU" in lines[1]
    assert "one of the 8 GPUs" in notes(flags, num_gpus=8)[1]
    name = output_path(flags, num_classes=768, size_px=224, num_samples=50_000, kind="logits")
    assert name == "results/vit_l14_pn_quick_gelu_openai-clip_768_224px_crop1.0_50000_sc_NAME_logits.csv"


@pytest.mark.parametrize(
    ("given", "device", "precision"),
    [
        ({}, "cpu", "fp32"),
        ({"amp": True}, "cpu", "bf16"),
        ({"amp": True, "gpu": True}, "cuda", "fp16"),
        ({"amp": True, "mps": True}, "mps", "fp16"),
        ({"amp": True, "amp_dtype": "float16"}, "cpu", "fp16"),
        ({"amp_dtype": "bfloat16", "gpu": True}, "cuda", "fp32"),
        ({"model_dtype": "bfloat16", "gpu": True, "gpu_id": 1}, "cuda:1", "bf16"),
        ({"model_dtype": "float16", "gpu": True, "fast_matmul": True}, "cuda", "fp16"),
        ({"fast_matmul": True, "gpu": True}, "cuda", "tf32"),
        ({"fast_matmul": True}, "cpu", "fp32"),
        ({"gpu": True, "gpu_id": 1, "parallel": True}, "cuda", "fp32"),
        ({"gpu_id": 1}, "cpu", "fp32"),
    ],
)
def test_device_and_precision(given: dict[str, Any], device: str, precision: str) -> None:
    flags = BirderFlags(**PLAIN, **given)
    assert (flags.device, flags.precision) == (device, precision)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"amp_dtype": "float16"}, "--amp-dtype"),
        ({"fast_matmul": True}, "--fast-matmul"),
        ({"gpu_id": 1}, "--gpu-id"),
        ({"hierarchical": True}, "--hierarchical"),
        ({"img_loader": "tv"}, "pixels are Pillow's"),
    ],
)
def test_what_changes_nothing_is_said(given: dict[str, Any], word: str) -> None:
    flags = BirderFlags(**{**PLAIN, "img_loader": "pil", **given})
    (line,) = notes(flags, num_gpus=0)
    assert line.startswith(word)
    assert notes(BirderFlags(**PLAIN, img_loader="pil"), num_gpus=0) == []


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"network": None}, "--network"),
        ({"save_logits": False}, "nothing to save"),
        ({"data_path": ()}, "folder or file"),
        ({"wds": True, "data_path": ()}, "--wds"),
        ({"wds": True, "data_path": ("a.tar", "b.tar")}, "one path"),
        ({"wds": True, "data_path": ("s3://b/{0..9}.tar",)}, "--wds-size"),
        ({"wds": True, "hierarchical": True}, "--hierarchical"),
        ({"size": (224, 336)}, "squares"),
        ({"size": (0,)}, "--size"),
        ({"size": (1, 2, 3)}, "--size"),
        ({"given": ("compile_mode",)}, "--compile-mode requires --compile"),
        ({"batch_size": 0}, "--batch-size"),
        ({"gpu": True, "mps": True}, "not both"),
    ],
)
def test_what_cannot_work_is_refused_at_once(given: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=re.escape(word)) as caught:
        BirderFlags(**{**PLAIN, **given})
    assert "\n" not in str(caught.value)


def test_embeddings_are_birders_vectors_before_the_projection() -> None:
    flags = BirderFlags(**{**PLAIN, "save_embeddings": True, "output_format": "parquet", "center_crop": 0.875})
    assert kinds(flags) == ["logits", "embeddings"]
    options = embed_options(flags, kind="embeddings", classes={}, sources=("DIR",))
    assert (options["format"], options["hidden"], options["preset"], options["crop"]) == ("parquet", True, "squash", 0.875)
    assert embed_options(flags, kind="logits", classes={}, sources=("DIR",))["format"] == "birder-parquet"


def test_labels_come_from_the_checkpoints_classes(tmp_path: Path) -> None:
    flags = BirderFlags(**{**PLAIN, "save_labels": True, "hierarchical": True, "data_path": (str(tmp_path), "x.jpg")})
    options = embed_options(flags, kind="logits", classes={"cat": 3}, sources=flags.data_path)
    assert options["folders"] == FolderLabels({"cat": 3}, True, (str(tmp_path),))
    torch.save({"state": {"w": torch.ones(2)}, "class_to_idx": {"cat": 3, "dog": 0}}, tmp_path / "a.pt")
    assert read_classes(tmp_path / "a.pt") == {"cat": 3, "dog": 0}
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors", {"class_to_idx": '{"cat": 3}'})
    assert read_classes(tmp_path / "a.safetensors") == {"cat": 3}
    torch.save([1], tmp_path / "b.pt")
    for name, data in {"c": b"no checkpoint", "d": b"\x80\x02}", "e": b"", "f": b"PK\3\4garbage"}.items():
        (tmp_path / f"{name}.pt").write_bytes(data)
    assert [read_classes(tmp_path / f"{name}.pt") for name in "bcdef"] == [{}] * 5, "loading the tower says what they are"
    assert read_classes(tmp_path) == {}
    with zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("archive/data.pkl", b"\x80\x02}X\0\0\0\x10" + bytes(64 << 20))
        out.writestr("archive/version", "3\n")
    assert read_classes(tmp_path / "packed.pt") == {}


@pytest.mark.parametrize("said", ['{"cat": "x"}', "{broken", "[1]", '{"cat": 1.5}', "[" * 10_000])
def test_classes_that_are_no_table_of_numbers_are_refused(tmp_path: Path, said: str) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors", {"class_to_idx": said})
    with pytest.raises(HeadError, match=r"a\.safetensors: its class_to_idx is no table of class names and whole numbers"):
        read_classes(tmp_path / "a.safetensors")


def test_a_local_checkpoint_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = BirderFlags(**PLAIN, tag="t", epoch=3)
    with pytest.raises(InputError, match=r"models/net_t_3\.pt does not exist"):
        checkpoint(flags)
    assert checkpoint(BirderFlags(**PLAIN, tag="t")) == "net_t"
    (tmp_path / "models").mkdir()
    for name in ("net_t_3.pt", "net_t.pt", "net_t.safetensors"):
        (tmp_path / "models" / name).write_bytes(b"")
    assert checkpoint(flags) == "models/net_t_3.pt"
    assert checkpoint(BirderFlags(**PLAIN, tag="t")) == "models/net_t.pt"
    assert checkpoint(BirderFlags(**PLAIN, tag="t", st=True)) == "models/net_t.safetensors"


def test_sources_of_webdatasets(tmp_path: Path) -> None:
    (tmp_path / "in" / "below").mkdir(parents=True)
    for name in ("in/b.tar", "in/a.tar", "in/x.jpg", "in/below/c.tar"):
        (tmp_path / name).write_bytes(b"")
    wds: dict[str, Any] = {**PLAIN, "wds": True}
    assert find_sources(BirderFlags(**{**wds, "data_path": (f"{tmp_path}/in",)})) == tuple(
        f"{tmp_path}/in/{n}.tar" for n in "ab"
    )
    assert find_sources(BirderFlags(**{**wds, "data_path": ("x/{0..9}.tar",)})) == ("x/{0..9}.tar",)
    with pytest.raises(InputError, match=r"holds no \.tar"):
        find_sources(BirderFlags(**{**wds, "data_path": (str(tmp_path),)}))
    info = tmp_path / "_info.json"
    info.write_text('{"name": "x", "splits": {"validation": {"filenames": ["a.tar", "s3://b/c.tar"], "num_samples": 7}}}')
    flags = BirderFlags(**{**wds, "data_path": (), "wds_info": (str(info), str(info))})
    assert find_sources(flags) == (f"{tmp_path}/a.tar", "s3://b/c.tar") * 2
    assert birder.count_samples([], flags) == (14, [])
    for split, text in (("training", "no split 'training'.*validation"), ("validation", "not a webdataset")):
        if split == "validation":
            info.write_text("[1]")
        with pytest.raises(InputError, match=text):
            find_sources(BirderFlags(**{**wds, "data_path": (), "wds_info": (str(info),), "wds_split": split}))
    for wrong, text in (("[" * 100_000, "not a webdataset"), ('{"splits": [[1, 2]]}', "no split 'validation'; .*: 1$")):
        info.write_text(wrong)
        with pytest.raises(InputError, match=text):
            find_sources(BirderFlags(**{**wds, "data_path": (), "wds_info": (str(info),)}))


def test_the_number_in_the_name(tmp_path: Path) -> None:
    part = PicturePart("in", "in", "files", 12, 0, {})
    assert birder.count_samples([part, part], BirderFlags(**PLAIN)) == (24, [])
    remote = [part, PicturePart("https://host/x.tar", "x.tar", "tar", None, 0, {})]
    with pytest.raises(InputError, match="^--wds-size is required: https://host/x.tar is remote"):
        birder.count_samples(remote, BirderFlags(**PLAIN))
    sized = BirderFlags(**{**PLAIN, "wds": True, "wds_size": 99})
    assert birder.count_samples(remote, sized) == (99, [])
    for name, mode in (("x.tar", "w"), ("x.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as tar:  # type: ignore[call-overload]
            for number in range(3):
                tar.addfile(tarfile.TarInfo(f"{number}.png"), None)
        parts = find_pictures([str(tmp_path / name)], SourceOptions())
        count, lines = birder.count_samples(parts, BirderFlags(**PLAIN))
        assert count == 3
        assert [line.split(" is compressed")[0] for line in lines] == ([str(tmp_path / name)] if "gz" in name else [])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize(("given", "flag"), [({}, "--gpu"), ({"gpu_id": 2}, "--gpu-id 2"), ({"parallel": True}, "--gpu")])
def test_a_gpu_that_is_not_there_is_one_line(given: dict[str, Any], flag: str) -> None:
    with pytest.raises(BeholderError, match=f"^{flag}: no CUDA device") as caught:
        birder.predict(BirderFlags(**PLAIN, gpu=True, **given), "logits")
    assert "\n" not in str(caught.value)


def test_birders_results_are_below_the_current_folder() -> None:
    path = output_path(BirderFlags(**PLAIN), num_classes=2, size_px=32, num_samples=1, kind="logits")
    assert PurePosixPath(path).parent == PurePosixPath("results")
