"""numba with the settings that all kernels share, and a cache that never stops a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba as nb

_KERNELS = tuple((file.stat().st_mtime_ns, file.stat().st_size) for file in sorted(Path(__file__).parent.glob("*.py")))


def compiled(function: Callable[..., Any]) -> Any:
    """Compile `function` on first use, without the interpreter lock, and keep the machine code for later processes.

    Kept code is made anew when any file of the kernels changes: a function is compiled together with those it calls, and
    numba itself looks at its own file only. Where nothing can be kept (no writable folder, a full disk) it is compiled in
    every process: slower to start, no worse.
    """
    try:
        dispatcher = nb.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # "cannot cache function: no locator available": neither here nor in the user's cache
        return nb.njit(nogil=True, error_model="numpy")(function)
    cache = dispatcher._cache
    cache._cache_file._source_stamp = (cache._cache_file._source_stamp, _KERNELS)
    save = cache.save_overload

    def save_if_possible(signature: Any, data: Any) -> None:
        try:
            save(signature, data)
        except OSError:
            cache.disable()

    cache.save_overload = save_if_possible
    return dispatcher
