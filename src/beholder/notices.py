"""Lines and progress that code reports without knowing who shows them; in Python nobody does.

`say("measuring which precision is fastest")` is a line, at once; what `with doing("looking at the sources"):` names is shown
while it lasts, by a command's progress bar or the lines of its log.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

_listeners: list[Callable[[str], None]] = []
_doing: list[Callable[[], str]] = []


def say(text: str) -> None:
    """Say a line now. Where nobody listens (in Python) and under --quiet nothing is said."""
    for listener in _listeners[-1:]:
        listener(text)


@contextlib.contextmanager
def doing(what: str | Callable[[], str]) -> Iterator[None]:
    """Have it known what is going on until the end of the `with`; a function is asked each time that somebody looks."""
    text = (lambda: what) if isinstance(what, str) else what
    _doing.append(text)
    try:
        yield
    finally:
        _doing.remove(text)


def current() -> str:
    """What is going on, of things inside each other the innermost; "" where nothing is known."""
    for text in _doing[-1:]:
        return text()
    return ""


@contextlib.contextmanager
def told_to(listener: Callable[[str], None]) -> Iterator[None]:
    """Have what is said told to `listener` until the end of the `with`."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def listener() -> Callable[[str], None] | None:
    """Who is told what is said now, for a listener that passes it on; None: nobody."""
    return _listeners[-1] if _listeners else None


def is_heard() -> bool:
    """Whether somebody listens, who shows what is going on in a way of their own."""
    return bool(_listeners)
