"""What a pickle would have its reader do, told by its operations: what takes memory or time without end is refused.

A pickle of a few hundred bytes can name a tuple of two of a tuple of two ..., which would be hashed or shown for years, or ask
for a place of any size for its results. Readers that call nothing but what they know (torch's `weights_only`) do that too. So
the operations are gone through first, with the sizes of values in place of the values (`pickletools` tells what each takes and
leaves): a value that is shared counts each time.
"""

from __future__ import annotations

import pickletools
import warnings
from dataclasses import dataclass
from typing import IO, Any

_MOST_OF_ANY = 1_000_000
_MOST_PER_OPERATION = 8
"""A key of a dict, an item of a set or the arguments of a call may hold so many values, and so many for each operation."""
_MOST_COUNTED = 1 << 40
"""Sizes are counted up to here: those of a chain of doublings would themselves be numbers of a million digits."""
_MOST_DEPTH = 1000
"""Values in values: Python hashes a tuple of a tuple ... by as many calls, and ends where its stack does."""
_MOST_BYTES_ASKED = 64 << 20
_LETTERS = 64
"""So many letters of a text count as one value."""
_GET = frozenset(("GET", "BINGET", "LONG_BINGET"))
_PUT = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_GLOBAL = frozenset(("GLOBAL", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"))
_CALL = frozenset(("REDUCE", "NEWOBJ", "NEWOBJ_EX", "INST", "OBJ"))
_PERSISTENT = frozenset(("PERSID", "BINPERSID"))
_GROW = frozenset(("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"))
_KEYED = frozenset(("SETITEM", "SETITEMS", "DICT", "ADDITEMS", "FROZENSET"))
_COPYING = frozenset(
    f"torch._utils._rebuild_device_tensor_from_{source}" for source in ("numpy", "cpu_tensor")
)  # they copy a tensor, which may name its numbers many times
_DOUBLING = "_codecs.encode"
_MOST_NAME_LETTERS = 1000
"""Of a text that may be the name of a class or function, or of its module."""


class HeavyPickleError(Exception):
    """A pickle that is not to be read; its text is a reason."""


@dataclass(eq=False)
class _Value:
    """What stands for a value.

    Attributes:
        size: how many values it is, with all that are in it; `_MOST_COUNTED` at most.
        depth: how many values are in each other.
        largest: the largest whole number in it.
        name: of a class or function, behind its module and a dot; "" for values of all other kinds.
        text: of a text that is no longer than names are; else "".
        is_held: whether another value holds it.
    """

    size: int = 1
    depth: int = 1
    largest: int = 0
    name: str = ""
    text: str = ""
    is_held: bool = False


def check_pickle(file: IO[bytes]) -> None:
    """Go through one pickle, up to the byte behind it.

    Raises:
        HeavyPickleError: it would take memory or time without end, or calls what is no name.
        Exception: it is none; what `pickletools` raises, or a missing value.
    """
    machine = _Machine()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python remarks on odd escapes in texts
        for number, (operation, argument, _) in enumerate(pickletools.genops(file), 1):
            machine.most = _MOST_OF_ANY + _MOST_PER_OPERATION * number
            machine.take(operation, argument, number)


class _Machine:
    """The stack, the marks on it, and the results that have a number."""

    def __init__(self) -> None:
        self.stack: list[_Value] = []
        self.marks: list[int] = []
        self.memo: dict[int, _Value] = {}
        self.most = 0

    def take(self, operation: Any, argument: Any, number: int) -> None:
        """One operation, the `number`-th."""
        name = operation.name
        if name in _PUT:
            if int(argument) > number + _MOST_OF_ANY:
                raise HeavyPickleError("it numbers its results as if there were millions")
            self.memo[int(argument)] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in _GET:
            self.stack.append(self.memo[int(argument)])
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name == "DUP":
            self.stack.append(self.stack[-1])
        elif name == "POP" and self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self._other(name, operation, argument)

    def _other(self, name: str, operation: Any, argument: Any) -> None:
        taken = self._popped(operation.stack_before)
        if name in _GROW:
            self._grow(name, taken)
            return
        if name in _CALL:
            self._check_call(name, taken, argument)
        if name in _KEYED:
            self._check_keys(taken[::2] if name == "DICT" else taken)
        if name in _PERSISTENT:
            self._check_size(taken)
        for value in taken:
            value.is_held = True
        for _ in operation.stack_after:
            self.stack.append(self._made(name, taken, argument))

    def _popped(self, wanted: Any) -> list[_Value]:
        """What an operation takes off the stack, the lowest first."""
        names = [kind.name for kind in wanted]
        start = len(self.stack)
        if "mark" in names:
            start = self.marks.pop()
            start -= names.index("mark")
        else:
            start -= len(names)
        if start < (self.marks[-1] if self.marks else 0):
            raise ValueError("it takes a value that is not there")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def _grow(self, name: str, taken: list[_Value]) -> None:
        """Something is put into a container, which stays on the stack."""
        held, *items = taken
        if name in _KEYED:
            self._check_keys(items if name == "ADDITEMS" else items[::2])
        others = [item for item in items if item is not held]
        if others and held.is_held:
            raise HeavyPickleError("its values are nested without end, or filled when they are in use already")
        for item in others:
            item.is_held = True
        held.size = min(_MOST_COUNTED, held.size + sum(item.size for item in others))
        held.depth = max([held.depth, *(1 + item.depth for item in others)])
        held.largest = max([held.largest, *(item.largest for item in others)])
        self.stack.append(held)

    def _check_call(self, name: str, taken: list[_Value], argument: Any) -> None:
        called = _Value(name=_dotted(argument)) if name == "INST" else taken[0]
        if not called.name:
            raise HeavyPickleError("it calls what is no name")
        arguments = taken if name == "INST" else taken[1:]
        self._check_size(arguments)
        if called.name in _COPYING:
            raise HeavyPickleError(f"it asks for {called.name}")
        if called.name.endswith(".bytearray") and max((one.largest for one in arguments), default=0) > _MOST_BYTES_ASKED:
            raise HeavyPickleError("it asks for bytes without end")

    def _check_keys(self, keys: list[_Value]) -> None:
        for key in keys:
            self._check_size([key])

    def _check_size(self, values: list[_Value]) -> None:
        if sum(value.size for value in values) > self.most:
            raise HeavyPickleError("it names the same values again and again")
        if max((value.depth for value in values), default=0) > _MOST_DEPTH:
            raise HeavyPickleError("its values are nested without end")

    def _made(self, name: str, taken: list[_Value], argument: Any) -> _Value:
        size = 1 + sum(value.size for value in taken)
        largest = max((value.largest for value in taken), default=0)
        if name == "STACK_GLOBAL":
            return _Value(name=".".join(value.text for value in taken) if all(value.text for value in taken) else "")
        if name in _GLOBAL:
            return _Value(name=_dotted(argument))
        if name in _PERSISTENT:  # a storage, or in old files a class, with its program; readers of weights refuse those
            return _Value(name="stored beside")
        if name in _CALL and taken and taken[0].name == _DOUBLING:
            size *= 2
        if isinstance(argument, str | bytes | bytearray):
            size += len(argument) // _LETTERS
        elif type(argument) is int:
            largest = abs(argument)
        depth = 1 + max((value.depth for value in taken), default=0)
        text = argument if isinstance(argument, str) and len(argument) <= _MOST_NAME_LETTERS else ""
        return _Value(min(size, _MOST_COUNTED), depth, largest, text=text)


def _dotted(argument: Any) -> str:
    """A name as `pickletools` tells it, "module name", with a dot between: the name itself may have some."""
    return str(argument).replace(" ", ".", 1)
