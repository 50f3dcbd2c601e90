"""Runs a CLIP tower on a device: back end, precision and batch size chosen, and checked against float32.

Here stand only the words for what a tower is computed in; nothing is imported for them.
"""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
MAX_DRIFT = 0.02
"""A setting that moves a check picture's score further than this, in units of score, is never chosen by itself."""
