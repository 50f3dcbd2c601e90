"""Shares of a ranking (10%, 0.1) as exact numbers, alone or in a list, and how many rows each of a list gets."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from beholder.errors import InputError

STARS = (5, 4, 3, 2, 1)
"""What the shares of `--xmp-stars` give, the first to the best."""
NO_STARS = "none"
_STARS_FLAG, _LABELS_FLAG = "--xmp-stars", "--xmp-labels"
_EXAMPLE = "Green=10%,Yellow=20%"


def parse_share(text: str, flag: str = "--top-share") -> Fraction:
    """Text such as 10%, 2.5 % or 0.1 -> an exact share in (0, 1]. Raises InputError, which names the flag."""
    share = _number(text, flag)
    if not 0 < share <= 1:
        is_percent = text.strip().endswith("%")
        hint = f"; did you mean {text.strip()}%?" if not is_percent and share > 1 else ""
        raise InputError(f"{flag} {text!r}: above 0 and at most 100%{hint}")
    return share


def _number(text: str, flag: str) -> Fraction:
    plain = text.strip()
    is_percent = plain.endswith("%")
    try:
        return Fraction(Decimal(plain.removesuffix("%").strip())) / (100 if is_percent else 1)
    except (InvalidOperation, ValueError, OverflowError):
        raise InputError(f"{flag} {text!r} is no share; write for example 10% or 0.1") from None


def parse_stars(text: str) -> list[tuple[int, Fraction]]:
    """Text such as 5%,15%,30%,30%,20% -> (5, 1/20), (4, 3/20), ...: stars and the share that gets them, the best first.

    Shares may be 0, and fewer than five: what they leave over gets nothing. `none` gives nothing to any row.

    Raises:
        InputError: no shares, more than five, or more than 100 % together.
    """
    if text.strip().lower() == NO_STARS:
        return []
    pieces = text.split(",")
    if len(pieces) > len(STARS):
        raise InputError(f"{_STARS_FLAG} {text!r} has {len(pieces)} shares; give at most five, those of 5, 4, 3, 2 and 1 stars")
    found = [(stars, _zero_or_share(piece, _STARS_FLAG)) for stars, piece in zip(STARS, pieces, strict=False)]
    _check_sum([share for _, share in found], text, _STARS_FLAG)
    return found


def parse_labels(text: str) -> list[tuple[str, Fraction]]:
    """Text such as Green=10%,Yellow=20% -> (label, the share that gets it), the best first.

    Raises InputError: a piece without name or share, or more than 100 % together.
    """
    found = []
    for piece in text.split(","):
        label, sign, share = piece.rpartition("=")
        label = label.strip()
        if not sign or not label or not label.isprintable():
            raise InputError(f"{_LABELS_FLAG} {text!r}: {piece.strip()!r} is no label with its share; write {_EXAMPLE}")
        found.append((label, _zero_or_share(share, _LABELS_FLAG)))
    _check_sum([share for _, share in found], text, _LABELS_FLAG)
    return found


def _zero_or_share(text: str, flag: str) -> Fraction:
    return Fraction(0) if _number(text, flag) == 0 else parse_share(text, flag)


def _check_sum(shares: Sequence[Fraction], text: str, flag: str) -> None:
    if not sum(shares):
        raise InputError(f"{flag} {text!r} gives nothing to any picture; give a share above 0")
    if sum(shares) > 1:
        raise InputError(f"{flag} {text!r}: these shares are {float(100 * sum(shares)):g} % together, more than all pictures")


def counts(shares: Sequence[tuple[object, Fraction]], num_rows: int) -> list[int]:
    """How many of `num_rows` ranked rows get each value, one after the other from the best; the rows left over get nothing.

    Where a share ends, counted from the best row, is rounded up to whole rows as with `--top-share`: of 3 rows the first gets
    what 5 % get, however few these are.
    """
    found: list[int] = []
    total, given = Fraction(0), 0
    for _, share in shares:
        total += share
        end = -(-num_rows * total.numerator // total.denominator)
        found.append(end - given)
        given = end
    return found
