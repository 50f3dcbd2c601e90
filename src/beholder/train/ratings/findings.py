"""What was found while ratings were read and matched: counted remarks, in order, as sentences with examples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from beholder.errors import one_line

_MOST_EXAMPLES = 3
_LONGEST = 60


@dataclass(frozen=True)
class Finding:
    """One remark.

    Attributes:
        what: a fixed word for programs, such as `missing` or `duplicated`.
        count: how many rows, pictures or raters it is about.
        text: a sentence for people, with the count, without a full stop and without the examples.
        examples: up to three of them, as they stand in the file.
    """

    what: str
    count: int
    text: str
    examples: tuple[str, ...] = ()

    def line(self, *, with_names: bool = True) -> str:
        """It as a full sentence; `with_names`: with the examples, which may be names of pictures and people."""
        return str(self) if with_names else f"{self.text}."

    def __str__(self) -> str:
        shown = ", ".join(map(_short, self.examples))
        more = ", ..." if self.examples and self.count > len(self.examples) else ""
        return f"{self.text} ({shown}{more})." if shown else f"{self.text}."


@dataclass
class Findings:
    """Remarks that are being collected."""

    found: list[Finding] = field(default_factory=list)

    def note(self, what: str, count: int, text: str, examples: Iterable[object] = ()) -> None:
        """Add a remark, unless it is about nothing (count 0)."""
        if count:
            shown = tuple(str(each) for each, _ in zip(examples, range(_MOST_EXAMPLES), strict=False))
            self.found.append(Finding(what, int(count), text, shown))


def is_or_are(count: int, one: str = "is", many: str = "are") -> str:
    """The verb that goes with a count."""
    return one if count == 1 else many


def _short(text: str) -> str:
    plain = one_line(text)
    return plain if len(plain) <= _LONGEST else f"...{plain[3 - _LONGEST :]}"
