"""Reads of mapped files that have been cut short: they give zeros and a mark instead of ending the process.

Linux sends SIGBUS to whoever touches a mapped page that its file does not hold any more, or that the device cannot read. The
handler here, a dozen instructions made by LLVM, puts pages of zeros in the place of what is gone and marks the range, as
systemd's `sigbus.c` does. Whoever reads a range asks for the mark afterwards, and throws away what was computed. Faults
anywhere else go to whatever handled them before.
"""

from __future__ import annotations

import ctypes
import mmap
import signal
import sys
import threading
from typing import Any

import numpy as np

_NUM_RANGES = 64
_START, _STOP, _MARK = range(3)
_WORD_BYTES = 8
_CODE_OFFSET, _ADDRESS_OFFSET = 8, 16
"""In siginfo_t of 64-bit Linux: why the signal was sent, and the address of the fault."""
_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000
_SA_SIGINFO, _SA_RESTART, _SA_ONSTACK = 4, 0x10000000, 0x08000000
_FLAGS = _SA_SIGINFO | _SA_RESTART | _SA_ONSTACK


class _Action(ctypes.Structure):
    """`struct sigaction` of the C library."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_lock = threading.Lock()
_ranges = np.zeros((_NUM_RANGES, 3), np.int64)
"""(64, 3): first byte, end, mark; zeros where free. The handler reads it by address."""
_before = _Action()
_kept_alive: list[Any] = []


class GuardedRange:
    """Bytes [start, stop) of this process, mapped from a file, `start` at a page's beginning, while they are read.

    On systems without the handler (other than 64-bit Linux), or past 64 ranges at once, nothing is guarded.
    """

    def __init__(self, start: int, stop: int) -> None:
        self._slot: int | None = None
        if not sys.platform.startswith("linux") or sys.maxsize < 2**32:
            return
        with _lock:
            if not _kept_alive:
                _install()
            free = np.flatnonzero(_ranges[:, _STOP] == 0)
            if len(free):
                self._slot = int(free[0])
                whole = -(-stop // mmap.PAGESIZE) * mmap.PAGESIZE
                _ranges[self._slot] = (start, whole, 0)

    @property
    def was_hit(self) -> bool:
        """Whether a read found nothing behind its page, and got zeros."""
        return self._slot is not None and bool(_ranges[self._slot, _MARK])

    def release(self) -> None:
        """Guard it no longer; before it is unmapped."""
        if self._slot is not None:
            with _lock:
                _ranges[self._slot] = 0
            self._slot = None


def _install() -> None:
    """Put the handler in the place of SIGBUS's. The lock is held."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = _compiled_handler(_address(libc.mmap), _address(libc.sigaction))
    _kept_alive.append(code)
    action = _Action(handler=code.get_function_address("beholder_sigbus"), flags=_FLAGS)
    if libc.sigaction(int(signal.SIGBUS), ctypes.byref(action), ctypes.byref(_before)) != 0:
        raise OSError(ctypes.get_errno(), "SIGBUS cannot be handled")


def _address(function: Any) -> int:
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)


def _compiled_handler(mmap_at: int, sigaction_at: int) -> Any:
    """Machine code of the handler; it calls nothing but `mmap` and `sigaction`, which a handler may."""
    from llvmlite import binding, ir

    word, half, byte = ir.IntType(64), ir.IntType(32), ir.IntType(8)
    pointer = ir.PointerType(byte)
    module = ir.Module(name="beholder_sigbus")
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [half, pointer, pointer]), name="beholder_sigbus")
    blocks = {name: function.append_basic_block(name) for name in ("entry", "loop", "inside", "next", "mark", "other")}
    build = ir.IRBuilder(blocks["entry"])

    def at(address: Any, kind: Any) -> Any:
        return build.inttoptr(address, ir.PointerType(kind))

    def call(address: int, returned: Any, *arguments: Any) -> Any:
        kind = ir.FunctionType(returned, [argument.type for argument in arguments])
        return build.call(at(ir.Constant(word, address), kind), arguments)

    information = build.ptrtoint(function.args[1], word)
    code = build.load(at(build.add(information, ir.Constant(word, _CODE_OFFSET)), half), typ=half)
    fault = build.load(at(build.add(information, ir.Constant(word, _ADDRESS_OFFSET)), word), typ=word)
    is_fault = build.icmp_signed(">", code, ir.Constant(half, 0))  # else it was sent by somebody
    build.cbranch(is_fault, blocks["loop"], blocks["other"])

    build.position_at_end(blocks["loop"])
    row = build.phi(word)
    first = ir.Constant(word, _ranges.__array_interface__["data"][0])
    row.add_incoming(first, blocks["entry"])
    start = build.load(at(row, word), typ=word)
    stop = build.load(at(build.add(row, ir.Constant(word, _STOP * _WORD_BYTES)), word), typ=word)
    is_inside = build.and_(build.icmp_unsigned("<=", start, fault), build.icmp_unsigned("<", fault, stop))
    build.cbranch(is_inside, blocks["inside"], blocks["next"])

    build.position_at_end(blocks["next"])
    following = build.add(row, ir.Constant(word, _ranges.strides[0]))
    row.add_incoming(following, blocks["next"])
    last = ir.Constant(word, first.constant + _ranges.nbytes)
    build.cbranch(build.icmp_unsigned("<", following, last), blocks["loop"], blocks["other"])

    build.position_at_end(blocks["inside"])
    page = build.and_(fault, ir.Constant(word, -mmap.PAGESIZE))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED | _MAP_NORESERVE
    numbers = [ir.Constant(half, value) for value in (mmap.PROT_READ, flags, -1)]
    made = call(mmap_at, word, page, build.sub(stop, page), *numbers, ir.Constant(word, 0))
    build.cbranch(build.icmp_signed("==", made, page), blocks["mark"], blocks["other"])

    build.position_at_end(blocks["mark"])
    build.store(ir.Constant(word, 1), at(build.add(row, ir.Constant(word, _MARK * _WORD_BYTES)), word))
    build.ret_void()

    build.position_at_end(blocks["other"])  # the instruction is run again, and its fault goes where it went before
    before = ir.Constant(word, ctypes.addressof(_before))
    call(sigaction_at, half, function.args[0], before, ir.Constant(word, 0))
    build.ret_void()

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(str(module)), machine)
    engine.finalize_object()
    return engine
