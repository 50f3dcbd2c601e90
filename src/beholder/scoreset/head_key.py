"""Which head some scores are by, told by its weights where they are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beholder.models import catalog
from beholder.models.published import canonical_head


@dataclass(frozen=True, kw_only=True)
class HeadKey:
    """Which head some scores are by.

    Attributes:
        name: its catalogue name, of a repackaged head that of the original; or its own.
        hashes: sha256 by which its weights are known: of its file, then of the one that this was made of; () where nobody says.
        place: where it was read from, or "".
    """

    name: str
    hashes: tuple[str, ...] = ()
    place: str = ""

    @classmethod
    def of_record(cls, head: Mapping[str, Any] | None) -> HeadKey | None:
        """The head in the record of a score set, or None where it says nothing."""
        name = (head or {}).get("name")
        if head is None or not isinstance(name, str) or not name:
            return None
        entry = catalog.find(name)
        original = catalog.find(entry.twin) if entry is not None and entry.twin else None
        if original is not None:  # known by its name: the bytes of the repackaged file are others
            return cls(name=original.name, hashes=(original.sha256,) if original.sha256 else ())
        given = [head.get("sha256"), head.get("source_sha256")]
        hashes = tuple(dict.fromkeys(text for text in given if isinstance(text, str) and text))
        if not hashes and entry is not None and entry.sha256:
            hashes = (entry.sha256,)
        place = head.get("source")
        return cls(name=canonical_head(name) or name, hashes=hashes, place=place if isinstance(place, str) else "")

    @property
    def short(self) -> str:
        """Its name as people write it: an alias of the catalogue where there is one."""
        entry = catalog.find(self.name)
        return entry.aliases[0] if entry is not None and entry.aliases else self.name

    def is_same(self, other: HeadKey) -> bool:
        """Whether both are the same weights, as far as anything tells."""
        if self.hashes and other.hashes:
            return bool(set(self.hashes) & set(other.hashes))
        return self.name == other.name

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"name": self.name, "hashes": list(self.hashes)}
