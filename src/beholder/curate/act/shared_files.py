"""Captions and JSON that several pictures share, while it is open what becomes of them: which may be done now."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from beholder.curate.act.entries import Intent


class SharedFiles:
    """Shared files of an act that are planned and neither done nor given up.

    A copy or link is made as soon as one of the pictures was; a move waits for all of them, and a file stays where a picture
    stays that it belongs to.

    Args:
        action: "copy", "link", "symlink" or "move".
    """

    def __init__(self, action: str) -> None:
        self._needs_all = action == "move"
        self._waiting: dict[str, Intent] = {}
        self._decided: set[str] = set()
        """Targets of which a picture was done or, of a move, was not."""

    def add(self, intent: Intent) -> None:
        """A shared file is planned."""
        self._waiting[intent.target] = intent

    def note(self, picture: Intent, *, is_done: bool) -> None:
        """Tell what became of a picture."""
        if is_done != self._needs_all:
            self._decided.update(target for target in picture.shares if target in self._waiting)

    def may_go(self, intent: Intent) -> bool:
        """Whether a shared file can be done, as far as is known now."""
        return (intent.target in self._decided) != self._needs_all

    def settle(self, intent: Intent) -> None:
        """A shared file was done, or given up."""
        if self._waiting.get(intent.target) is intent:
            del self._waiting[intent.target]
            self._decided.discard(intent.target)

    def is_waiting(self, intent: Intent) -> bool:
        """Whether the same file is planned to go to the same place."""
        other = self._waiting.get(intent.target)
        return other is not None and (other.source, other.offset) == (intent.source, intent.offset)

    @property
    def waiting(self) -> list[Intent]:
        """All of them."""
        return list(self._waiting.values())

    def ready(self) -> list[Intent]:
        """Those that were passed over with the first of their pictures, and can be done with one that was since."""
        return [] if self._needs_all else [self._waiting[target] for target in sorted(self._decided)]
