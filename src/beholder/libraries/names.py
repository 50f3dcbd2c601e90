"""Names of other libraries' towers: `LIBRARY:NAME`, with `@PLACE` where the weights lie, and `#DIGEST` of what they must be.

timm:vit_base_patch16_siglip_224.webli          open_clip:ViT-H-14/laion2b_s32b_b79k
timm:vit_base_patch16_siglip_224@/data/a.pt     transformers:google/siglip2-base-patch16-224@main
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from beholder.errors import HeadError, kind_and_text

Library = Literal["timm", "open_clip", "transformers"]

LIBRARIES: tuple[Library, ...] = ("timm", "open_clip", "transformers")
DIGEST_LENGTH = 12
"""Of the weights' sha256, so many hex digits stand in a space's name."""
_NAME = re.compile(
    rf"(?P<library>{'|'.join(LIBRARIES)}):(?P<model>[^@#]*)(@(?P<place>.*?))?(#(?P<digest>[0-9a-f]{{{DIGEST_LENGTH}}}))?",
    re.DOTALL,
)
_INSTALL = {"timm": "beholder[timm]", "open_clip": "beholder[open_clip]", "transformers": "beholder[transformers]"}


@dataclass(frozen=True)
class TowerName:
    """A tower of another library.

    Attributes:
        library: which one.
        model: its name there; of open_clip with "/TAG" where published weights are meant; a repository of transformers.
        place: a local file or folder with the weights, or a repository's revision; "": as published.
        digest: the first digits of the weights' sha256 that are wanted; "": any.
    """

    library: Library
    model: str
    place: str = ""
    digest: str = ""

    @property
    def space(self) -> str:
        """The name of its embeddings' space: where the weights lie does not matter."""
        return f"{self.library}:{self.model}" + (f"#{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return f"{self.library}:{self.model}" + (f"@{self.place}" if self.place else "")


def parse(spec: str) -> TowerName | None:
    """The tower that a name stands for; None for names that belong to no library."""
    found = _NAME.fullmatch(spec.strip())
    if found is None:
        return None
    library: Library = found["library"]  # type: ignore[assignment]
    model, place = found["model"], found["place"] or ""
    if library == "transformers" and not place and is_place(model):
        model, place = model.rstrip("/").rsplit("/", 1)[-1], model
    return TowerName(library, model, place, found["digest"] or "")


def is_place(text: str) -> bool:
    """Whether this is written as a local path."""
    return text.startswith(("/", "./", "../", "~"))


def space_of_name(name: str) -> str:
    """The space that a name stands for, by whatever library; other names stay as they are."""
    found = parse(name)
    return name if found is None else found.space


def same_space(a: str, b: str) -> bool | None:
    """Whether two names stand for the same space; None where neither is of these libraries.

    A name without a digest stands for any weights of that name.
    """
    first, second = parse(a), parse(b)
    if first is None and second is None:
        return None
    if first is None or second is None:
        return False
    is_named_alike = (first.library, first.model.casefold()) == (second.library, second.model.casefold())
    return is_named_alike and (first.digest == second.digest or not (first.digest and second.digest))


def imported(library: Library) -> Any:
    """The library's package. Raises HeadError where it is not installed, or cannot be imported."""
    try:
        found = importlib.import_module(library)
        if library != "transformers":
            importlib.import_module("torchvision.transforms")
    except ModuleNotFoundError as error:
        missing = (error.name or library).partition(".")[0]
        raise HeadError(
            f"a tower of {library} needs {missing}, which is not installed: pip install '{_INSTALL[library]}'"
        ) from None
    except Exception as error:  # a torchvision that was built for another torch raises RuntimeError, others what they like
        raise HeadError(
            f"{library} cannot be imported here ({kind_and_text(error)}); "
            f"install what fits your torch: pip install --upgrade '{_INSTALL[library]}'"
        ) from None
    return found


def near_misses(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: up to three that look like it."""
    by_key = {item.casefold(): item for item in known}
    near = difflib.get_close_matches(name.casefold(), list(by_key), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(by_key[key] for key in near)}?" if near else "look the name up in that library"
