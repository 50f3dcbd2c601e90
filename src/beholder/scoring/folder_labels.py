"""Names of pictures and a network's classes in, birder's `label` column out: the class named like the picture's folder."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from beholder import columns

if TYPE_CHECKING:
    import pyarrow as pa

LABEL = "label"
NO_LABEL = -1
_CLS = "cls"
"""webdataset's member with the class number; `sources.pictures.tar` passes it on under this name."""


@dataclass(frozen=True)
class FolderLabels:
    """What birder's `--save-labels` writes.

    Attributes:
        classes: class name -> number.
        is_hierarchical: take all folders below the root, joined by `_`, not only the last one.
        roots: the folders that the user named, for that.
    """

    classes: Mapping[str, int] = field(default_factory=dict)
    is_hierarchical: bool = False
    roots: Sequence[str] = ()

    def of(self, labels: pa.Table) -> pa.Array:
        """(N,) int64: the number in `cls` where the source has one, else that of the folder's class, else -1."""
        import pyarrow as pa
        import pyarrow.compute as pc

        folders = pc.replace_substring_regex(labels.column(columns.SAMPLE).cast(pa.large_string()), "(?s)(^|/)[^/]*$", "")
        encoded = folders.combine_chunks().dictionary_encode()
        numbers = [self.classes.get(self._class_of(folder), NO_LABEL) for folder in encoded.dictionary.to_pylist()]
        found = pa.array(numbers, pa.int64()).take(encoded.indices)
        if _CLS in labels.column_names and pa.types.is_integer(labels.schema.field(_CLS).type):
            found = pc.coalesce(labels.column(_CLS).cast(pa.int64()).combine_chunks(), found)
        return found

    def _class_of(self, folder: str) -> str:
        """The name of the class of the pictures in `folder`."""
        if not self.is_hierarchical:
            return posixpath.basename(folder)
        above = [root for root in self.roots if folder == root.rstrip("/") or folder.startswith(f"{root.rstrip('/')}/")]
        inside = posixpath.relpath(folder, max(above, key=len)) if above else folder
        return inside.replace("/", "_")

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"classes": dict(self.classes), "hierarchical": self.is_hierarchical, "roots": list(self.roots)}
