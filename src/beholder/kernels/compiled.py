"""numba with the settings that all kernels share, and a cache that never stops a run."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba as nb
from numba.core.caching import IndexDataCacheFile

_DIGEST_BYTES = 32
_KERNELS = tuple((file.stat().st_mtime_ns, file.stat().st_size) for file in sorted(Path(__file__).parent.glob("*.py")))


def compiled(function: Callable[..., Any]) -> Any:
    """Compile `function` on first use, without the interpreter lock, and keep the machine code for later processes.

    Kept code is made anew when any file of the kernels changes: a function is compiled together with those it calls, and
    numba itself looks at its own file only. Kept code that is not what was written is made anew. Where nothing can be kept
    (no writable folder, a full disk) it is compiled in every process: slower to start, no worse.
    """
    try:
        dispatcher = nb.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # "cannot cache function: no locator available": neither here nor in the user's cache
        return nb.njit(nogil=True, error_model="numpy")(function)
    cache = dispatcher._cache
    files = cache._cache_file
    cache._cache_file = _Sealed(files._cache_path, cache._impl.filename_base, (files._source_stamp, _KERNELS))
    save = cache.save_overload

    def save_if_possible(signature: Any, data: Any) -> None:
        try:
            save(signature, data)
        except OSError:
            cache.disable()

    cache.save_overload = save_if_possible
    return dispatcher


class _Sealed(IndexDataCacheFile):  # type: ignore[misc]
    """Files of kept machine code, each behind the sha256 of its name and contents; one that does not fit counts as none.

    numba's own have no checksums: damaged code would be run.
    """

    def _load_index(self) -> dict[Any, str]:
        version, stamp, overloads = self._read(self._index_name) or (None, None, {})
        return overloads if (version, stamp) == (self._version, self._source_stamp) else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._write(self._index_name, (self._version, self._source_stamp, overloads))

    def _load_data(self, name: str) -> Any:
        found = self._read(name)
        if found is None:
            raise OSError(f"{name} is damaged")  # which means that there is none
        return found

    def _save_data(self, name: str, data: Any) -> None:
        self._write(name, data)

    def _read(self, name: str) -> Any:
        try:
            data = Path(self._data_path(name)).read_bytes()
        except OSError:
            return None
        digest, contents = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        return pickle.loads(contents) if digest == _digest(name, contents) else None

    def _write(self, name: str, data: Any) -> None:
        contents = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(_digest(name, contents) + contents)


def _digest(name: str, contents: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + contents).digest()
