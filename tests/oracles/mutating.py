"""Mutations of files: bytes as disks, networks and enemies change them, text as people and programs do; the same for a seed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

Change = Callable[[bytes], bytes]
Inside = Callable[[bytes, Change, random.Random], bytes]
"""(file, change, rng) -> the file with one piece of it changed, and the checksums and lengths around that piece made right
again, so that readers get as deep as the piece. Any exception: the file has no such piece (any more)."""

NUMBERS = tuple(
    sorted(
        {sign * 2**bits + near for bits in (0, 7, 8, 15, 16, 24, 31, 32, 53, 63, 64) for near in (-1, 0, 1) for sign in (1, -1)}
    )
)
"""Where counters, lengths and offsets turn over."""
ODD_NUMBERS = (
    "", "0", "-0", "-1", "1e999", "-1e-999", "nan", "NaN", "-inf", "Infinity", "1_0", "0x10", "1,5", "1.2.3", "+", "٣", "½",
    "1e", "9" * 40, "2147483648", "18446744073709551616", "null", "None", "true", "1" + "0" * 400,
)  # fmt: skip
ODD_TEXTS = (
    '"', "'", '""', "\\", "\0", "\r", "\r\n", "\n\n", "\t", ",", ";", "\ufeff", "\u2028", "\x85", "\x1b[2J", "\x7f", "\u202e",
    "é", "e\u0301", "\U0001f600", "日本", "../", "/", "//", "~", "%00",
    "%2e%2e", "{0..3}", "{", "}", "[", "]", "[[[[", "*", "?", "#", "s3://", "http://",
    "file://", "data:,", "://", "\x0c", "\x1a", " ", "-", "--help", "=", "\ud800", "A" * 5000,
)  # fmt: skip
_CODES = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252", "utf-7", "shift-jis")


def mutated(data: bytes, rng: random.Random, *, others: Sequence[bytes] = (), tokens: Sequence[bytes] = ()) -> bytes:
    """One to four changes of bytes; half of the files get one only.

    Args:
        data: a file.
        rng: decides.
        others: files whose tails are spliced on.
        tokens: words of the format.
    """
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        if not found:
            break
        found = _once(found, rng, others, tokens)
    return bytes(found)


def _place(found: bytes | bytearray, rng: random.Random, tokens: Sequence[bytes]) -> int:
    """Somewhere; more often near the ends, where headers and directories stand, and behind words of the format."""
    size, chosen = len(found), rng.random()
    if chosen < 0.2:
        return min(size - 1, rng.randrange(200))
    if chosen < 0.4:
        return max(0, size - 1 - rng.randrange(min(size, 600)))
    if chosen < 0.6 and tokens:
        at = found.find(rng.choice(tokens), rng.randrange(size))
        return min(size - 1, at + rng.randrange(16)) if at >= 0 else rng.randrange(size)
    return rng.randrange(size)


def _once(found: bytearray, rng: random.Random, others: Sequence[bytes], tokens: Sequence[bytes]) -> bytearray:
    at = _place(found, rng, tokens)
    end = min(len(found), at + rng.choice((1, 1, 2, 4, 8, 16, 64, 512)))
    match rng.randrange(16):
        case 0 | 1:
            found[at] ^= 1 << rng.randrange(8)
        case 2:
            found[at] = rng.choice((0, 1, 9, 10, 13, 32, 34, 127, 128, 254, 255, rng.randrange(256)))
        case 3 | 4:
            size, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
            number = rng.choice((*NUMBERS, len(found), len(found) + 1, len(found) - at))
            found[at : at + size] = (number & (256**size - 1)).to_bytes(size, order)  # type: ignore[arg-type]
        case 5:
            size, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
            before = int.from_bytes(found[at : at + size], order)  # type: ignore[arg-type]
            after = (before + rng.randint(-35, 35)) & (256**size - 1)
            found[at : at + size] = after.to_bytes(size, order)  # type: ignore[arg-type]
        case 6:
            del found[at:end]
        case 7:
            found[at:at] = rng.randbytes(end - at)
        case 8:
            found[at:at] = found[at:end] * rng.choice((1, 1, 2, 50))
        case 9:
            stretch, place = found[at:end], rng.randrange(len(found))
            found[place : place + len(stretch)] = stretch
        case 10:
            del found[at:]
        case 11:
            found[at:end] = bytes([rng.choice((0, 0, 255, 32))]) * (end - at)
        case 12 if others:
            other = rng.choice(others)
            found[at:] = other[rng.randrange(len(other) + 1) :] if rng.random() < 0.5 else other[at:]
        case 13 | 14 if tokens:
            token = rng.choice(tokens)
            if rng.random() < 0.5:
                found[at : at + len(token)] = token
            else:
                found[at:at] = token
        case _:
            found += rng.choice((b"\0", b"\n", bytes(found[-40:]), bytes(found[:40]), b"\0" * 512, b"\n{}"))
    return found


def mutated_text(data: bytes, rng: random.Random, *, tokens: Sequence[bytes] = ()) -> bytes:
    """A text with lines lost, doubled and swapped, odd numbers and letters, or in another encoding."""
    text = data.decode("utf-8", "surrogateescape")
    for _ in range(rng.choice((1, 1, 2, 4))):
        text = _once_in_text(text, rng, [token.decode("utf-8", "surrogateescape") for token in tokens])
    if rng.random() < 0.08:
        return text.encode(rng.choice(_CODES), "replace")
    return text.encode(
        "utf-8", "surrogatepass" if rng.random() < 0.5 else "surrogateescape" if _can_escape(text) else "replace"
    )


def _can_escape(text: str) -> bool:
    return all(not "\ud800" <= mark <= "\udfff" or "\udc80" <= mark <= "\udcff" for mark in text)


def _once_in_text(text: str, rng: random.Random, tokens: Sequence[str]) -> str:
    lines = text.splitlines(keepends=True) or [""]
    at = rng.choice((0, rng.randrange(len(lines)), len(lines) - 1))
    spot = rng.randrange(len(lines[at]) + 1)
    match rng.randrange(11):
        case 0:
            del lines[at]
        case 1:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        case 2:
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        case 3 | 4:
            pieces = list(re.finditer(r"[-+]?\d[\d.eE+-]*", lines[at]))
            if pieces:
                piece = rng.choice(pieces)
                lines[at] = lines[at][: piece.start()] + rng.choice(ODD_NUMBERS) + lines[at][piece.end() :]
        case 5 | 6:
            lines[at] = lines[at][:spot] + rng.choice(ODD_TEXTS) + lines[at][spot:]
        case 7:
            old, new = rng.choice(
                ((",", ";"), (",", "\t"), ("\n", "\r"), ("\n", "\r\n"), ('"', "'"), (",", ",,"), ("\n", "\n\n"))
            )
            return text.replace(old, new) if rng.random() < 0.5 else text.replace(old, new, 1)
        case 8:
            lines[at] = lines[at][:spot] + lines[at][min(len(lines[at]), spot + rng.choice((1, 3, 20))) :]
        case 9:
            word = rng.choice(tokens) if tokens else rng.choice(ODD_TEXTS)
            lines[at] = lines[at][:spot] + word + lines[at][spot:]
        case _:
            cells = re.split(r"([,;\t])", lines[at])
            if len(cells) > 1:
                cells[rng.randrange(len(cells))] = rng.choice((*ODD_NUMBERS, *ODD_TEXTS))
                lines[at] = "".join(cells)
    return "".join(lines)
