"""Stars in XMP: sidecars in the style of several programs, read and changed; what an independent parser sees afterwards."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from beholder.errors import InputError
from beholder.io.xmp import XmpRating, parse_rating, read_rating, with_rating

LIGHTROOM = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 7.0-c000 1.000000, 0000/00/00-00:00:00        ">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/"
    xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"
    xmlns:stEvt="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"
   xmp:ModifyDate="2024-05-01T10:11:12.34"
   xmp:Rating="3"
   xmp:Label="Gr&#xFC;n"
   crs:Exposure2012="+0.35"
   crs:HasSettings="True">
   <xmpMM:History>
    <rdf:Seq>
     <rdf:li stEvt:action="saved" stEvt:parameters="a &gt; b"/>
    </rdf:Seq>
   </xmpMM:History>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""
DARKTABLE = """<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:exif="http://ns.adobe.com/exif/1.0/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:darktable="http://darktable.sf.net/"
   exif:DateTimeOriginal="2023:01:02 03:04:05.000"
   xmp:Rating="-1"
   darktable:xmp_version="5"
   darktable:history_end="2">
   <darktable:history>
    <rdf:Seq>
     <rdf:li darktable:num="0" darktable:operation="exposure" darktable:params="gz02eJxjYGBgkGAAgRNODESDBntUNgA4HgYa"/>
     <rdf:li darktable:num="1" darktable:operation="größe" darktable:params="00"/>
    </rdf:Seq>
   </darktable:history>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
""".encode()
DIGIKAM = b"""<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 5.5.0">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:digiKam="http://www.digikam.org/ns/1.0/"
    xmlns:MicrosoftPhoto="http://ns.microsoft.com/photo/1.0/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    digiKam:PickLabel="0"
    MicrosoftPhoto:Rating="75"
    xmp:Rating='4'/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""
EXIFTOOL = b"""<?xpacket begin='\xef\xbb\xbf' id='W5M0MpCehiHzreSzNTczkc9d'?>
<x:xmpmeta xmlns:x='adobe:ns:meta/' x:xmptk='Image::ExifTool 12.40'>
<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>

 <rdf:Description rdf:about=''
  xmlns:dc='http://purl.org/dc/elements/1.1/'>
  <dc:title><rdf:Alt><rdf:li xml:lang='x-default'>Rating 5</rdf:li></rdf:Alt></dc:title>
 </rdf:Description>

 <rdf:Description rdf:about=''
  xmlns:xap='http://ns.adobe.com/xap/1.0/'>
  <xap:Label>Red &amp; more</xap:Label>
  <xap:Rating>2</xap:Rating>
 </rdf:Description>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end='w'?>"""
STYLES = {"lightroom": LIGHTROOM, "darktable": DARKTABLE, "digikam": DIGIKAM, "exiftool": EXIFTOOL}
XMP = "{http://ns.adobe.com/xap/1.0/}"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"


def independent(data: bytes) -> tuple[str | None, str | None, list[object]]:
    """Rating, label, and everything else, as ElementTree sees them."""
    root = ET.fromstring(data)
    found: dict[str, str] = {}
    for description in root.iter(f"{RDF}Description"):
        for name in ("Rating", "Label"):
            if (value := description.attrib.pop(XMP + name, None)) is not None:
                found[name] = value
            for child in description.findall(XMP + name):
                found[name] = child.text or ""
                description.remove(child)
    rest = [(each.tag, sorted(each.attrib.items()), (each.text or "").strip()) for each in root.iter()]
    return found.get("Rating"), found.get("Label"), list(rest)


@pytest.mark.parametrize(
    ("style", "stars", "label"),
    [("lightroom", 3, "Grün"), ("darktable", -1, None), ("digikam", 4, None), ("exiftool", 2, "Red & more")],
)
def test_reads_what_programs_write(style: str, stars: int, label: str | None, tmp_path: Path) -> None:
    sidecar = tmp_path / "a.jpg.xmp"
    sidecar.write_bytes(STYLES[style])
    assert read_rating(str(sidecar)) == XmpRating(stars, label)


@pytest.mark.parametrize(
    ("style", "old", "new"),
    [
        ("lightroom", b'xmp:Rating="3"', b'xmp:Rating="5"'),
        ("darktable", b'xmp:Rating="-1"', b'xmp:Rating="5"'),
        ("digikam", b"xmp:Rating='4'", b'xmp:Rating="5"'),
        ("exiftool", b"<xap:Rating>2</xap:Rating>", b"<xap:Rating>5</xap:Rating>"),
    ],
)
def test_changes_the_rating_and_no_other_byte(style: str, old: bytes, new: bytes) -> None:
    before = STYLES[style]
    assert before.count(old) == 1
    assert with_rating(before, 5) == before.replace(old, new)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("rating", "label"), [(0, None), (-1, "Red"), (5, 'a "b" <c> & \N{SNOWMAN}'), (None, "Blue")])
def test_another_parser_sees_the_change_and_nothing_else_changed(style: str, rating: int | None, label: str | None) -> None:
    was_rating, was_label, was_rest = independent(STYLES[style])
    after = with_rating(STYLES[style], rating, label)
    now_rating, now_label, now_rest = independent(after)
    assert now_rating == (was_rating if rating is None else str(rating))
    assert now_label == (was_label if label is None else label)
    assert now_rest == was_rest
    assert with_rating(after, rating, label) == after


def test_a_new_sidecar_is_a_small_packet() -> None:
    data = with_rating(None, 4)
    assert data == (
        b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="beholder">\n'
        b' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        b'  <rdf:Description rdf:about=""\n'
        b'    xmlns:xmp="http://ns.adobe.com/xap/1.0/"\n'
        b'    xmp:Rating="4"/>\n'
        b" </rdf:RDF>\n</x:xmpmeta>\n"
        b'<?xpacket end="w"?>\n'
    )
    assert independent(data)[0] == "4"


def test_a_sidecar_without_a_rating_gets_one() -> None:
    plain = DARKTABLE.replace(b'   xmp:Rating="-1"\n', b"")
    assert parse_rating(plain) == XmpRating()
    after = with_rating(plain, 2)
    assert after == plain.replace(b'darktable:history_end="2">', b'darktable:history_end="2"\n   xmp:Rating="2">')
    assert independent(after)[2] == independent(plain)[2]


def test_a_prefix_is_declared_where_it_is_missing_and_never_one_that_means_another_thing() -> None:
    other = b"""<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:xmp="http://example.com/other">
 <r:Description r:about="" xmp:Rating="9"/></r:RDF>"""
    assert parse_rating(other).stars is None
    after = with_rating(other, 1, "Red")
    assert after == other.replace(
        b'xmp:Rating="9"', b'xmp:Rating="9" xmlns:xap="http://ns.adobe.com/xap/1.0/" xap:Rating="1" xap:Label="Red"'
    )
    assert independent(after)[:2] == ("1", "Red")


@pytest.mark.parametrize(
    "empty",
    [
        b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/>',
        b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"></rdf:RDF>',
        b'<RDF xmlns="http://www.w3.org/1999/02/22-rdf-syntax-ns#"> </RDF>',
    ],
)
def test_a_packet_without_a_description_gets_one(empty: bytes) -> None:
    assert independent(with_rating(empty, 3, "Red"))[:2] == ("3", "Red")


def test_a_rating_of_something_inside_is_not_the_pictures() -> None:
    nested = LIGHTROOM.replace(b'   xmp:Rating="3"\n', b"").replace(
        b'<rdf:li stEvt:action="saved"', b'<rdf:li xmp:Rating="1" stEvt:action="saved"'
    )
    assert parse_rating(nested).stars is None
    after = with_rating(nested, 5)
    assert b'<rdf:li xmp:Rating="1"' in after
    assert parse_rating(after).stars == 5


def test_a_rating_said_twice_is_changed_twice() -> None:
    twice = DIGIKAM.replace(
        b" </rdf:RDF>",
        b"""  <rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/">
   <xmp:Rating/>
  </rdf:Description>
 </rdf:RDF>""",
    )
    after = with_rating(twice, 1)
    assert after == twice.replace(b"xmp:Rating='4'", b'xmp:Rating="1"').replace(b"<xmp:Rating/>", b"<xmp:Rating>1</xmp:Rating>")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_other_encodings_come_back_as_they_were(encoding: str) -> None:
    text = "\ufeff" + DARKTABLE.decode().replace('encoding="UTF-8"', 'encoding="UTF-16"')
    data = text.encode(encoding)
    assert parse_rating(data).stars == -1
    assert with_rating(data, 2) == text.replace('xmp:Rating="-1"', 'xmp:Rating="2"').encode(encoding)


@pytest.mark.parametrize(
    ("text", "stars"), [("3.5", 3.5), (" 4 ", 4), ("6", None), ("five", None), ("nan", None), ("-2", None)]
)
def test_ratings_that_are_none_are_told_apart(text: str, stars: float | None) -> None:
    found = parse_rating(LIGHTROOM.replace(b'xmp:Rating="3"', f'xmp:Rating="{text}"'.encode()))
    assert found == XmpRating(stars, "Grün", None if stars is not None else text.strip())


def test_entities_are_never_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("5")
    for declared in ('<!ENTITY a "5"><!ENTITY b "&a;&a;">', f'<!ENTITY b SYSTEM "{secret.as_uri()}">', ""):
        hostile = f"<!DOCTYPE x [{declared}]>".encode() + LIGHTROOM.replace(b'"3"', b'"&b;"')
        with pytest.raises(InputError, match="has a document type declaration, which no XMP has; it is not read"):
            parse_rating(hostile, "a.xmp")
        with pytest.raises(InputError, match="document type declaration"):
            with_rating(hostile, 1)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "a.xmp is no XMP: no element found: line 1, column 0"),
        (b"hello", "a.xmp is no XMP: syntax error: line 1, column 0"),
        (LIGHTROOM[:400], "a.xmp is no XMP: "),
        (b"<html/>", "a.xmp is no XMP: it has no rdf:RDF"),
        (b"\xff\xfe<", "a.xmp is UTF-16 text that breaks off or is damaged"),
    ],
)
def test_what_is_no_xmp_is_refused_and_never_overwritten(data: bytes, line: str) -> None:
    with pytest.raises(InputError) as read:
        parse_rating(data, "a.xmp")
    assert line in str(read.value)
    with pytest.raises(InputError) as written:
        with_rating(data, 3, named="a.xmp")
    assert line in str(written.value)


def test_a_rating_to_be_written_is_checked() -> None:
    for rating in (6, -2):
        with pytest.raises(InputError, match=f"a rating in XMP is a whole number from -1 \\(rejected\\) to 5, not {rating}"):
            with_rating(None, rating)
    with pytest.raises(InputError, match="does not exist"):
        read_rating("nowhere/a.xmp")
