"""Sidecars for the tests of stars: such as programs write them, and what an independent parser reads of them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

XMP = "{http://ns.adobe.com/xap/1.0/}"
DESCRIPTION = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"
LIGHTROOM = """<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 7.0-c000 1.000000, 0000/00/00-00:00:00        ">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/"
   xmp:ModifyDate="2024-05-01T10:11:12.34"
   xmp:Rating="{stars}"
   crs:Exposure2012="+0.35"/>
 </rdf:RDF>
</x:xmpmeta>
"""
DARKTABLE = """<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:darktable="http://darktable.sf.net/"
   xmp:Rating="{stars}" xmp:Label="{label}" darktable:history_end="2">
   <darktable:history><rdf:Seq><rdf:li darktable:operation="größe"/></rdf:Seq></darktable:history>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""


def said(path: Path | str) -> tuple[str | None, str | None]:
    """Rating and label of a sidecar, as ElementTree reads them; None where there is none."""
    (description,) = ET.fromstring(Path(path).read_bytes()).iter(DESCRIPTION)
    found = (description.get(XMP + name, description.findtext(XMP + name)) for name in ("Rating", "Label"))
    return next(found), next(found)


def stars_below(folder: Path | str) -> dict[str, str | None]:
    """Relative path of each sidecar below a folder -> its rating."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() == ".xmp")
    return {path.relative_to(folder).as_posix(): said(path)[0] for path in paths}
