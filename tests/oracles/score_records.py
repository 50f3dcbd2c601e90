"""What score sets say about themselves, and names that try to break a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

V1_HEAD = "sa_0_4_vit_l_14_linear"
HOSTILE = (
    "photos/</script><script>alert(1)</script>.jpg",
    "photos/<img src=x onerror=alert(1)>.jpg",
    "photos/\"onmouseover='alert(1)'.jpg",
    "photos/{{ 7*7 }}&amp;</style>.jpg",
    "photos/\u202egpj.exe ünïcødé 写真.jpg",
)


def record_of(heads: Sequence[tuple[str, str]], **more: Any) -> dict[str, Any]:
    """What a score set says about itself; heads: (column, head)."""
    return {
        "format": "beholder-score-set",
        "version": 1,
        "beholder": "0.1.0",
        "score_columns": [column for column, _ in heads],
        "heads": [{"name": name, "sha256": "ab" * 32, "backbone": "openai/clip-vit-large-patch14"} for _, name in heads],
        **more,
    }
