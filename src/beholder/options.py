"""A default and its meaning in, a field of a class of options out that the command line makes a flag of."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(default: Any, text: str, **more: Any) -> Any:
    """A field that is a flag too.

    Args:
        default: its default.
        text: what it means; the flag's help.
        more: `flag`: the flag's names where they are not the field's; `shown`: how the default is told;
            `read`: how text becomes the value ("bytes"); `choices`: the values that are allowed; `least`: the smallest number.
    """
    return field(default=default, metadata={"help": text, **more})
