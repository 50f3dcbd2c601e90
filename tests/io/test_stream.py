"""Streams between threads: an interrupt at the worst moment."""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import Any

from beholder.io.stream import Stream


def test_an_interrupt_as_a_lock_is_taken_holds_up_nobody() -> None:
    """Ctrl-C the moment when a condition has taken its lock, in the thread that takes items: whoever puts them must go on."""
    stream: Stream[int] = Stream(1)

    def put() -> None:
        while stream.put(0, 1):
            pass

    def interrupt(frame: Any, event: str, arg: Any) -> Any:
        if event == "return":
            sys.settrace(None)
            raise KeyboardInterrupt
        return interrupt

    def take() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            for number, _ in enumerate(stream):
                if number:
                    break
                sys.settrace(lambda frame, *_: interrupt if frame.f_code is threading.Condition.__enter__.__code__ else None)
        sys.settrace(None)

    threads = [threading.Thread(target=work, daemon=True) for work in (put, take)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
