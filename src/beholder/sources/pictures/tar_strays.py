"""Sidecars of a tar that do not stand beside a picture of their key in; what they say of which pictures out."""

from __future__ import annotations

from typing import Any

from beholder.sources.pictures.tar_members import Member

_MOST_WAITING_BYTES = 64 << 20
"""Bytes of sidecars that are kept of a tar because their pictures stand elsewhere in it, before or behind them."""
Unread = list[tuple[Member, str]]
"""Sidecars and their kinds."""


class Strays:
    """Sidecars that do not stand beside a picture of their key; they belong to all pictures of it. What comes first counts.

    Attributes:
        late: row -> what was said of it after it was given out.
        num_left: sidecars that were passed over, as `_MOST_WAITING_BYTES` were kept already.
    """

    def __init__(self) -> None:
        self.late: dict[int, dict[str, Any]] = {}
        self.num_left = 0
        self._rows: dict[str, list[int]] = {}
        self._said: dict[str, tuple[dict[str, Any], int]] = {}
        self._unread: dict[str, list[Unread]] = {}
        self._num_bytes = 0

    def meet_picture(self, key: str, row: int) -> None:
        """Note that there is a picture of this key."""
        self._rows.setdefault(key, []).append(row)

    def meet_sidecars(self, key: str, fields: dict[str, Any], num_sidecars: int, num_bytes: int) -> None:
        """Keep what sidecars say that have no picture beside them."""
        self._num_bytes += num_bytes
        if self._num_bytes > _MOST_WAITING_BYTES:
            self.num_left += num_sidecars
            return
        for row in self._rows.get(key, ()):
            self.late[row] = fields | self.late.get(row, {})
        known, count = self._said.get(key, ({}, 0))
        self._said[key] = fields | known, count + num_sidecars

    def meet_unread(self, key: str, members: Unread) -> None:
        """Note where sidecars are that have no picture beside them."""
        self._unread.setdefault(key, []).append(members)

    def said_of(self, key: str) -> dict[str, Any]:
        """What was read so far."""
        return self._said.get(key, ({}, 0))[0]

    def unread_of(self, key: str) -> list[Unread]:
        """What was noted so far."""
        return self._unread.get(key, [])

    def said_of_none(self) -> list[dict[str, Any]]:
        """What was read of keys without a picture so far."""
        return [fields for key, (fields, _) in self._said.items() if key not in self._rows]

    def unread_by_row(self) -> dict[int, list[Unread]]:
        """What was noted, by the pictures of the keys."""
        return {row: units for key, units in self._unread.items() for row in self._rows.get(key, ())}

    @property
    def num_ownerless(self) -> int:
        """Sidecars, read or noted, of keys without a picture."""
        unread = sum(len(unit) for key, units in self._unread.items() if key not in self._rows for unit in units)
        return unread + sum(count for key, (_, count) in self._said.items() if key not in self._rows)
