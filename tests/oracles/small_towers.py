"""A small tower's sizes, pictures for it, and what tests ask of its files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from beholder.models.backbones import TowerShape

SHAPE = TowerShape.small()
PICTURES = torch.randint(0, 256, (2, 28, 28, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
B32 = "openai/clip-vit-base-patch32"


def file_sha256(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
