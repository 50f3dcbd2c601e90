"""The tower of a job on its device: opened in this process, or by another one, which tells what a plan has to know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from beholder.engine import Precision
from beholder.errors import InputError
from beholder.models.catalog import DEFAULT_TOWER
from beholder.models.heads import Head
from beholder.pixels.picture import PixelOptions
from beholder.scoring.options import EmbedOptions, Options

if TYPE_CHECKING:
    from beholder.engine.engine import Engine


@dataclass(frozen=True)
class TowerFacts:
    """What a plan has to know of a tower on its device; another process can be told it (it can be pickled).

    Attributes:
        name, backbone, sha256, activation, description: of `models.towers.Tower`; `sha256` also says whether the vector before
            the projection is taken.
        transform: of `models.library_towers.LibraryTower`; "" for CLIP's own pixels.
        image_px, dim: side of the pictures, length of an embedding.
        device, device_type: "cuda:1" and "cuda".
        precision, batch_size, check_seconds: of `Engine`, whose `describe()` is `engine`.
        warnings: lines worth telling.
    """

    name: str
    backbone: str | None
    sha256: str
    activation: str
    description: Mapping[str, Any]
    image_px: int
    dim: int
    device: str
    device_type: str
    precision: Precision
    batch_size: int | None
    check_seconds: float
    engine: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    transform: str = ""


OpenTower = Callable[[Options, Sequence[Head]], "tuple[TowerFacts, Engine | None]"]
"""Finds out about the tower of a job: opened in this process (`open_engine`), or by another one, which has it then."""


def open_engine(options: Options, heads: Sequence[Head]) -> tuple[TowerFacts, Engine]:
    """Load the tower, check that the heads are made for it, and put it on its device. Raises BeholderError."""
    from beholder.engine.engine import Engine
    from beholder.models.clip import without_projection
    from beholder.models.towers import Tower, check_head_fits, load_any_tower

    tower = load_any_tower(options.backbone or DEFAULT_TOWER, offline=options.offline, activation=options.activation)
    warnings = [warning for head in heads if (warning := check_head_fits(tower, head))]
    wanted = tower
    if isinstance(options, EmbedOptions) and options.hidden:
        if not isinstance(tower, Tower):
            raise InputError(f"{tower.name}: the vector before the projection is there for CLIP's own shapes only")
        module = without_projection(tower.module)
        wanted = replace(tower, module=module, shape=module.shape, sha256=f"{tower.sha256}-hidden")
    engine = Engine(
        wanted,
        device=options.device,
        precision=options.precision,
        compile=bool(options.compile),
        batch_size=options.batch_size,
        num_threads=options.num_threads,
        heads=heads,
    )
    facts = TowerFacts(
        name=tower.name,
        backbone=tower.backbone,
        sha256=tower.sha256,
        activation=tower.activation,
        description=tower.describe(),
        image_px=tower.shape.image_px,
        dim=engine.dim,
        device=str(engine.device),
        device_type=engine.device.type,
        precision=engine.precision,
        batch_size=engine.batch_size,
        check_seconds=engine.check_seconds,
        engine=engine.describe(),
        warnings=tuple(warnings),
        transform="" if isinstance(tower, Tower) else tower.transform,
    )
    return facts, engine


def pixels_for(options: Options, tower: TowerFacts) -> PixelOptions:
    """Which pixels the options ask for, for this tower. Raises InputError."""
    return replace(options.pixels(tower.image_px), transform=tower.transform)
