"""Pickles made of opcodes: sound ones changed operation by operation, and programs that do harm where they are run.

Operations are (letter, bytes of the argument), as `pickletools` tells them apart. Nothing here loads a pickle.
"""

from __future__ import annotations

import io
import pickletools
import random
import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

Op = tuple[bytes, bytes]
_OPCODES = {op.code.encode("latin1"): op for op in pickletools.opcodes}

GLOBALS = (
    ("os", "system"), ("posix", "system"), ("os", "mkdir"), ("builtins", "eval"), ("builtins", "exec"), ("builtins", "getattr"),
    ("__builtin__", "eval"), ("subprocess", "Popen"), ("pathlib", "Path"), ("numpy", "load"), ("torch", "load"),
    ("torch.hub", "load"), ("torch.jit._pickle", "build_intlist"), ("torch.jit._pickle", "restore_type_tag"),
    ("collections", "OrderedDict"), ("collections", "Counter"), ("collections", "defaultdict"), ("_codecs", "encode"),
    ("builtins", "bytearray"), ("builtins", "set"), ("builtins", "complex"), ("builtins", "range"), ("builtins", "list"),
    ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_qtensor"), ("torch._utils", "_rebuild_sparse_tensor"),
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"), ("torch._utils", "_rebuild_meta_tensor_no_storage"),
    ("torch._utils", "_rebuild_wrapper_subclass"), ("torch._utils", "_rebuild_nested_tensor"),
    ("torch._tensor", "_rebuild_from_type_v2"), ("torch", "FloatStorage"), ("torch", "LongStorage"), ("torch", "HalfStorage"),
    ("torch", "BFloat16Storage"), ("torch.storage", "UntypedStorage"), ("torch.storage", "TypedStorage"), ("torch", "Size"),
    ("torch", "Tensor"), ("torch", "device"), ("torch", "FloatTensor"), ("torch.sparse", "FloatTensor"), ("torch", "float32"),
    ("torch.nn.parameter", "Parameter"), ("torch.serialization", "_get_layout"), ("torch.nn.modules.linear", "Linear"),
    ("__torch__", "M"), ("__torch__.x", "Y"), ("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"),
    ("sklearn.linear_model._base", "LinearRegression"), ("", ""), ("x\ny", "z"), ("torch", "é"),
)  # fmt: skip
NUMBERS = (0, 1, 2, 255, 256, 65_535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1)
TEXTS = (
    b"",
    b"storage",
    b"weight",
    b"bias",
    b"0",
    b"1",
    b"cpu",
    b"cuda",
    b"meta",
    b"latin1",
    b"hex",
    b"\xff\xfe",
    b"../../x",
    b"a\nb",
)


def operations(data: bytes) -> list[Op]:
    """Those of a sound pickle."""
    found = list(pickletools.genops(data))
    ends = [place for _, _, place in found[1:]] + [found[-1][2] + 1]
    return [
        (data[start : start + 1], data[start + 1 : end])
        for (_, _, start), end in zip(found, ends, strict=True)
        if start is not None and end is not None
    ]


def text_of(ops: Sequence[Op]) -> bytes:
    """The pickle of some operations."""
    return b"".join(code + argument for code, argument in ops)


def number(value: int) -> Op:
    """A number of any size."""
    packed = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return (b"\x8a", bytes([len(packed)]) + packed) if len(packed) < 256 else (b"\x8b", struct.pack("<i", len(packed)) + packed)


def text(value: bytes) -> Op:
    """A text, which need be no UTF-8."""
    return b"X", struct.pack("<I", len(value)) + value


def named(module: str, name: str) -> Op:
    """A class or function by its name."""
    return b"c", f"{module}\n{name}\n".encode()


def called(module: str, name: str, *arguments: Sequence[Op]) -> list[Op]:
    """A call with arguments, each of them operations that leave one value."""
    return [named(module, name), (b"(", b""), *(op for one in arguments for op in one), (b"t", b""), (b"R", b"")]


def _argument(code: bytes, rng: random.Random) -> bytes:
    """An argument of an opcode, seldom a sound one."""
    kind = _OPCODES[code].arg
    if kind is None:
        return b""
    value, word = rng.choice(NUMBERS), rng.choice(TEXTS)
    match kind.name:
        case "uint1":
            return bytes([value & 255])
        case "uint2":
            return struct.pack("<H", value & 65_535)
        case "int4" | "uint4":
            return struct.pack("<I", value & (2**32 - 1))
        case "uint8":
            return struct.pack("<Q", value)
        case "float8":
            return struct.pack(">d", rng.choice((0.0, 1e308, float("nan"), float("-inf"))))
        case "long1":
            return number(value)[1]
        case "long4":
            return struct.pack("<i", rng.choice((3, -1, 2**31 - 1))) + b"\1\2\3"
        case "stringnl_noescape_pair":
            return "{}\n{}\n".format(*rng.choice(GLOBALS)).encode()
        case "decimalnl_short" | "decimalnl_long" | "floatnl":
            return rng.choice((b"0", b"1", b"-5", b"1" * 5_000, b"1e999", b"x", b"1L", b"00", b"01")) + b"\n"
        case "stringnl" | "stringnl_noescape" | "unicodestringnl":
            return rng.choice((b"'a'", b"'", b"\\u0000", word.replace(b"\n", b""))) + b"\n"
        case "string1" | "bytes1" | "unicodestring1":
            return bytes([rng.choice((len(word), 255))]) + word
        case "string4" | "bytes4" | "unicodestring4":
            return struct.pack("<I", rng.choice((len(word), len(word), 2**31 - 1, 2**32 - 1))) + word
        case _:
            return struct.pack("<Q", rng.choice((len(word), len(word), 2**40, 2**63 - 1))) + word


def changed(ops: Sequence[Op], rng: random.Random) -> list[Op]:
    """Operations with one to four put in, taken out, replaced, given another argument, doubled or exchanged."""
    found = list(ops)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not found:
            break
        at = rng.randrange(len(found))
        code = rng.choice(list(_OPCODES))
        match rng.randrange(8):
            case 0:
                found.insert(at, (code, _argument(code, rng)))
            case 1:
                del found[at]
            case 2:
                found[at] = (code, _argument(code, rng))
            case 3:
                found[at] = (found[at][0], _argument(found[at][0], rng))
            case 4:
                other = rng.randrange(len(found))
                found[at], found[other] = found[other], found[at]
            case 5:
                found[at:at] = found[at : at + rng.choice((1, 3, 20))]
            case 6:
                found[at:at] = called(
                    *rng.choice(GLOBALS),
                    *([rng.choice((number(rng.choice(NUMBERS)), text(rng.choice(TEXTS))))] for _ in range(rng.randrange(4))),
                )
            case _:
                places = [place for place, (one, _) in enumerate(found) if one == b"c"]
                if places:
                    found[rng.choice(places)] = named(*rng.choice(GLOBALS))
    return found


def nested(depth: int) -> list[Op]:
    """A tuple of two of a tuple of two ...: `depth` operations that hold 2 ** depth values."""
    ops: list[Op] = [(b")", b"")]
    for _ in range(depth):
        ops += [(b"q", b"\xfe"), (b"h", b"\xfe"), (b"\x86", b"")]
    return ops


def harmful(canary: Path) -> Iterator[tuple[str, list[Op]]]:
    """Values, by what is wrong with them: each leaves one on the stack. A folder `canary` is made where one of them is run."""
    place = [text(str(canary).encode())]
    yield "mkdir", called("os", "mkdir", place)
    yield "posix.mkdir", called("posix", "mkdir", place)
    yield "eval", called("builtins", "eval", [text(f"__import__('os').mkdir({str(canary)!r})".encode())])
    yield "old builtins", called("__builtin__", "eval", [text(f"__import__('os').mkdir({str(canary)!r})".encode())])
    yield "instance", [(b"(", b""), *place, (b"i", b"os\nmkdir\n")]
    yield "object", [(b"(", b""), named("os", "mkdir"), *place, (b"o", b"")]
    yield "stack global", [text(b"os"), text(b"mkdir"), (b"\x93", b""), (b"(", b""), *place, (b"t", b""), (b"R", b"")]
    yield "dotted", [text(b"torch"), text(b"os.mkdir"), (b"\x93", b""), (b"(", b""), *place, (b"t", b""), (b"R", b"")]
    yield "new object", [named("pathlib", "Path"), (b"(", b""), *place, (b"t", b""), (b"\x81", b"")]
    yield "extension", [(b"\x82", b"\1")]
    yield "rebuilt type", called(
        "torch._tensor", "_rebuild_from_type_v2", [named("os", "mkdir")], [named("torch", "Tensor")],
        [(b"(", b""), *place, (b"t", b"")], [(b"}", b"")],
    )  # fmt: skip
    yield (
        "state",
        [
            *called("collections", "OrderedDict"),
            (b"}", b""),
            text(b"__class__"),
            named("os", "mkdir"),
            (b"s", b""),
            (b"b", b""),
        ],
    )
    yield "memory of the memo", [(b"N", b""), (b"r", struct.pack("<I", 2**31 - 1))]
    yield "bytes without end", called("builtins", "bytearray", [number(40 << 30)])
    yield "doubled bytes", _doubled(60)
    yield "hashed without end", [(b"}", b""), *nested(60), (b"N", b""), (b"s", b"")]
    yield "told without end", [*nested(60), (b")", b""), (b"R", b"")]
    yield "built without end", [*nested(60), (b"}", b""), (b"b", b"")]
    yield "a key in a set", called("builtins", "set", [(b"(", b""), *nested(60), (b"t", b"")])
    yield "counted", called("collections", "Counter", [(b"(", b""), *nested(60), (b"t", b"")])


def _doubled(times: int) -> list[Op]:
    ops = [text(b"x" * 1000), text(b"latin1"), (b"\x86", b"")]
    ops = [named("_codecs", "encode"), *ops, (b"R", b"")]
    for _ in range(times):
        ops = [named("_codecs", "encode"), *ops, text(b"hex"), (b"\x86", b""), (b"R", b"")]
    return ops


def repacked(archive: bytes, description: bytes) -> bytes:
    """A zip of torch's with another `data.pkl`; its checksums are right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            target.writestr(name, description if name.endswith("/data.pkl") else source.read(name))
    return out.getvalue()


def description_of(archive: bytes) -> bytes:
    """The `data.pkl` of a zip of torch's."""
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        return source.read(next(name for name in source.namelist() if name.endswith("/data.pkl")))
