"""The bytes of a sound file in; the same damaged as disks, networks and enemies do it out, always the same for a seed."""

from __future__ import annotations

import random


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One to four of: bytes flipped, a cut, a stretch lost, doubled, moved or zeroed, a number changed, a tail."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not found:
            break
        at = rng.randrange(len(found))
        if rng.random() < 0.4:  # headers and directories stand at the ends
            at = rng.choice((min(at, rng.randrange(200)), max(0, len(found) - 1 - rng.randrange(min(len(found), 600)))))
        end = min(len(found), at + rng.choice((1, 2, 4, 8, 16, 64, 500)))
        match rng.randrange(9):
            case 0:
                found[at] ^= 1 << rng.randrange(8)
            case 1:
                found[at] = rng.choice((0, 1, 127, 128, 255, 10, rng.randrange(256)))
            case 2:
                del found[at:]
            case 3:
                del found[at:end]
            case 4:
                found[at:at] = found[at:end]
            case 5:
                stretch = found[at:end]
                place = rng.randrange(len(found))
                found[place : place + len(stretch)] = stretch
            case 6:
                found[at:end] = bytes(end - at)
            case 7:
                size = rng.choice((2, 4, 8))
                number = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 10**9, len(data), len(data) + 1, 2**16))
                found[at : at + size] = (number & (256**size - 1)).to_bytes(size, rng.choice(("little", "big")))
            case _:
                found += rng.choice((b"\0", b"PK\5\6", bytes(found[-40:]), b"\n{}"))
    return bytes(found)
