"""Stars and colour labels in XMP: read from a packet or sidecar, and written so that every other byte stays as it was.

XMP is RDF in XML (ISO 16684-1). A rating is the property `Rating` of the namespace `http://ns.adobe.com/xap/1.0/`: 1 to 5
stars, 0 for none, -1 for rejected; `Label` is a text, in Lightroom the name of a colour. Both stand at an `rdf:Description`
right below `rdf:RDF`, as an attribute (Lightroom, darktable) or as an element (Exiv2's older files, ExifTool). Where they stand
is found by a parser (expat, in the standard library); then only those bytes are replaced. A packet with a document type
declaration is refused: XMP has none, and entities are how XML takes all memory or reads other files.
"""

from __future__ import annotations

import codecs
import math
import re
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape

from beholder.errors import InputError, OutputError
from beholder.io import remote, storage

XMP_NAMESPACE = "http://ns.adobe.com/xap/1.0/"
RDF_NAMESPACE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
REJECTED, UNRATED, MOST_STARS = -1, 0, 5
SUFFIX = ".xmp"

_RATING, _LABEL = "Rating", "Label"
_MOST_BYTES = 64 << 20
"""A larger sidecar is none; those of editors with painted masks have a few MB."""
_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BYTE_ORDERS = {codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be"} | {
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_TAG = re.compile(rb"""<(?P<name>[^\s/>"']+)(?P<attributes>(?:[^>"']|"[^"]*"|'[^']*')*?)(?P<end>\s*/?>)""")
_ATTRIBUTE = re.compile(rb"""(?P<space>\s+)(?P<name>[^\s=/>"']+)\s*=\s*(?P<value>"[^"]*"|'[^']*')""")
_NEW = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="beholder">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
""".encode()


@dataclass(frozen=True)
class XmpRating:
    """What a packet says of a picture.

    Attributes:
        stars: 1 to 5, 0 (said to be unrated) or -1 (rejected), also fractions between; None where nothing is said.
        label: the text of the label; None where there is none.
        unusable: the text of a rating that is no number from -1 to 5; None where there is none of that kind.
    """

    stars: float | None = None
    label: str | None = None
    unusable: str | None = None


def read_rating(path: str) -> XmpRating:
    """What a sidecar says. Raises InputError for a file that cannot be read, or is no XMP."""
    return parse_rating(read_sidecar(path), path)


def read_sidecar(path: str) -> bytes:
    """The bytes of a sidecar, local or remote. Raises InputError for one that cannot be read or is too large to be one."""
    if not storage.exists(path):
        raise InputError(f"{path} does not exist")
    with remote.read_errors(path), storage.open_binary(path) as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise InputError(f"{path} is larger than {_MOST_BYTES >> 20} MiB, which no XMP sidecar is; it is not read")
    return data


def parse_rating(packet: bytes, named: str = "the XMP packet") -> XmpRating:
    """What an XMP packet says; of several ratings the first counts.

    Args:
        packet: UTF-8 (or what its XML declaration says), or UTF-16 or UTF-32 with their mark.
        named: where it is from, for messages.

    Raises:
        InputError: it is no well-formed XML, has a document type declaration, or has no `rdf:RDF`.
    """
    places = _places(_as_utf8(packet, named)[0], named)
    text = next((place.text.strip() for place in places.found if place.name == _RATING), None)
    label = next((place.text for place in places.found if place.name == _LABEL), None)
    stars = _stars(text)
    return XmpRating(stars, label or None, text if text and stars is None else None)


def with_rating(packet: bytes | None, rating: int | None, label: str | None = None, named: str = "the XMP packet") -> bytes:
    """An XMP packet with this rating and label, all other bytes as they were; a new small sidecar where there is none.

    Where a packet says a rating more than once, each of them is changed. What other programs keep beside it under other
    names (`MicrosoftPhoto:Rating`, digiKam's) stays.

    Args:
        packet: what is there; None: nothing.
        rating: -1 (rejected), 0 (unrated) to 5; None leaves it as it is.
        label: any text; None leaves it as it is.
        named: where the packet is from, for messages.

    Raises:
        InputError: a packet that `parse_rating` refuses, or a rating that is none.
        OutputError: the packet is written in a way that cannot be changed safely.
    """
    if rating is not None and rating not in range(REJECTED, MOST_STARS + 1):
        raise InputError(f"a rating in XMP is a whole number from {REJECTED} (rejected) to {MOST_STARS}, not {rating}")
    data, encoding, mark = _as_utf8(_NEW if packet is None else packet, named)
    wanted = {_RATING: None if rating is None else str(rating), _LABEL: label}
    for name, text in wanted.items():
        if text is not None:
            data = _with_property(data, name, text, named)
    found = parse_rating(data, named)
    if (rating is not None and found.stars != rating) or (label is not None and found.label != (label or None)):
        raise OutputError(f"{named}: its rating stands where it cannot be changed safely; the file is left as it is")
    return mark + data.decode().encode(encoding) if encoding else data


def _as_utf8(packet: bytes, named: str) -> tuple[bytes, str, bytes]:
    """The packet in UTF-8, the encoding to go back to, and its mark; both are empty where the bytes are the packet's own."""
    for mark, encoding in _ENCODINGS:
        if packet.startswith(mark):
            try:
                return packet.decode(encoding).encode(), _BYTE_ORDERS[mark], mark
            except UnicodeError:
                raise InputError(f"{named} is {encoding.upper()} text that breaks off or is damaged") from None
    return packet.rstrip(b"\0"), "", b""


def _stars(text: str | None) -> float | None:
    try:
        stars = float(text) if text else math.nan
    except ValueError:
        return None
    return stars if REJECTED <= stars <= MOST_STARS else None


@dataclass
class _Place:
    """Where a property stands.

    Attributes:
        name: `Rating` or `Label`.
        is_attribute: or an element.
        prefix: of its namespace, as it is written there.
        start: byte of the `<` of its start tag; of an attribute that of the Description.
        end: of an element: byte of the `<` of its end tag; of one that closes itself (`<xmp:Rating/>`) it means nothing.
        text: its value.
    """

    name: str
    is_attribute: bool
    prefix: str
    start: int
    end: int = -1
    text: str = ""


@dataclass
class _Places:
    """What was found in a packet.

    Attributes:
        found: ratings and labels, in order.
        rdf: byte of the `<` of `rdf:RDF` and its prefix; None where there is none.
        description: the same of the first `rdf:Description` right below, or None.
        prefixes: prefix -> namespace where the description begins (where there is none, below `rdf:RDF`).
    """

    found: list[_Place] = field(default_factory=list)
    rdf: tuple[int, str] | None = None
    description: tuple[int, str] | None = None
    prefixes: dict[str, str] = field(default_factory=dict)


def _places(data: bytes, named: str) -> _Places:
    """Look through a packet. Raises InputError."""
    is_utf16 = re.match(rb"<\?xml[^>]*encoding\s*=\s*[\"']utf-?(16|32)", data, re.IGNORECASE) is not None
    parser = expat.ParserCreate("utf-8" if is_utf16 else None, namespace_separator=" ")
    parser.namespace_prefixes = True
    parser.buffer_text = True
    places = _Places()
    path: list[tuple[str, str]] = []
    scopes: dict[str, list[str]] = {}
    at_rdf: list[bool] = []

    def start(raw: str, attributes: dict[str, str]) -> None:
        at = parser.CurrentByteIndex
        space, name, prefix = _split(raw)
        parent = path[-1] if path else ("", "")
        if (space, name) == (RDF_NAMESPACE, "RDF") and places.rdf is None:
            places.rdf = (at, prefix)
            places.prefixes = _now(scopes)
        is_description = (space, name) == (RDF_NAMESPACE, "Description") and parent == (RDF_NAMESPACE, "RDF")
        if is_description:
            if places.description is None:
                places.description, places.prefixes = (at, prefix), _now(scopes)
            for key, value in attributes.items():
                of, own, its = _split(key)
                if of == XMP_NAMESPACE and own in (_RATING, _LABEL):
                    places.found.append(_Place(own, True, its, at, text=value))
        is_property = space == XMP_NAMESPACE and name in (_RATING, _LABEL) and bool(at_rdf) and at_rdf[-1]
        if is_property:
            places.found.append(_Place(name, False, prefix, at))
        path.append((space, name))
        at_rdf.append(is_description)

    def end(raw: str) -> None:
        space, name, _ = _split(raw)
        path.pop()
        at_rdf.pop()
        if space == XMP_NAMESPACE and at_rdf and at_rdf[-1] and places.found and not places.found[-1].is_attribute:
            last = places.found[-1]
            if last.name == name and last.end < 0:
                last.end = parser.CurrentByteIndex

    def text(piece: str) -> None:
        if places.found and not places.found[-1].is_attribute and places.found[-1].end < 0:
            places.found[-1].text += piece

    def declare(prefix: str | None, uri: str | None) -> None:
        scopes.setdefault(prefix or "", []).append(uri or "")

    def undeclare(prefix: str | None) -> None:
        scopes[prefix or ""].pop()

    def refuse(*_: object) -> None:
        raise InputError(f"{named} has a document type declaration, which no XMP has; it is not read")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.StartNamespaceDeclHandler, parser.EndNamespaceDeclHandler = declare, undeclare
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise InputError(f"{named} is no XMP: {error}") from None
    except (LookupError, ValueError) as error:  # an encoding that nobody knows
        raise InputError(f"{named} is no XMP: {' '.join(str(error).split())[:100]}") from None
    if places.rdf is None:
        raise InputError(f"{named} is no XMP: it has no rdf:RDF")
    return places


def _split(raw: str) -> tuple[str, str, str]:
    """Namespace, name and prefix of what expat calls `namespace name prefix`."""
    pieces = raw.split(" ")
    return ("", pieces[0], "") if len(pieces) == 1 else (pieces[0], pieces[1], pieces[2] if len(pieces) > 2 else "")


def _now(scopes: dict[str, list[str]]) -> dict[str, str]:
    return {prefix: uris[-1] for prefix, uris in scopes.items() if uris}


def _with_property(data: bytes, name: str, text: str, named: str) -> bytes:
    """The packet with a property of this value: each that is there changed, else one more attribute of the Description."""
    places = _places(data, named)
    mine = [place for place in places.found if place.name == name]
    for place in reversed(mine):
        data = _changed(data, place, text, named)
    if mine:
        return data
    if places.description is None:
        return _with_description(data, places, name, text, named)
    tag = _tag_at(data, places.description[0], named)
    prefix = next((its for its, uri in places.prefixes.items() if its and uri == XMP_NAMESPACE), None)
    attributes = list(_ATTRIBUTE.finditer(tag["attributes"]))
    space = attributes[-1]["space"] if attributes else b" "
    added = b""
    if prefix is None:
        prefix = _free_prefix(places.prefixes)
        added = space + f'xmlns:{prefix}="{XMP_NAMESPACE}"'.encode()
    added += space + f"{prefix}:{name}=".encode() + _quoted(text)
    at = tag.start("end")
    return data[:at] + added + data[at:]


def _changed(data: bytes, place: _Place, text: str, named: str) -> bytes:
    """The packet with another value at one place."""
    tag = _tag_at(data, place.start, named)
    if place.is_attribute:
        wanted = f"{place.prefix}:{place.name}".encode()
        found = next((each for each in _ATTRIBUTE.finditer(tag["attributes"]) if each["name"] == wanted), None)
        if found is None:
            raise OutputError(f"{named}: its rating stands where it cannot be changed safely; the file is left as it is")
        low, high = (tag.start("attributes") + at for at in found.span("value"))
        return data[:low] + _quoted(text) + data[high:]
    whole = escape(text).encode("ascii", "xmlcharrefreplace")
    if tag["end"].strip() == b">":
        return data[: tag.end()] + whole + data[place.end :]
    start = data[tag.start() : tag.start("end")]
    return data[: tag.start()] + start + b">" + whole + b"</" + tag["name"] + b">" + data[tag.end() :]


def _with_description(data: bytes, places: _Places, name: str, text: str, named: str) -> bytes:
    """The packet with a Description in its empty `rdf:RDF`."""
    assert places.rdf is not None
    tag, prefix = _tag_at(data, places.rdf[0], named), places.rdf[1]
    qualified = f"{prefix}:" if prefix else ""
    about = f'{prefix}:about=""' if prefix else f'xmlns:rdf="{RDF_NAMESPACE}" rdf:about=""'
    added = f'<{qualified}Description {about} xmlns:xmp="{XMP_NAMESPACE}" xmp:{name}='.encode() + _quoted(text) + b"/>"
    if tag["end"].strip() == b">":
        return data[: tag.end()] + added + data[tag.end() :]
    return data[: tag.start("end")] + b">" + added + b"</" + tag["name"] + b">" + data[tag.end() :]


def _tag_at(data: bytes, at: int, named: str) -> re.Match[bytes]:
    tag = _TAG.match(data, at)
    if tag is None:
        raise OutputError(f"{named}: its rating stands where it cannot be changed safely; the file is left as it is")
    return tag


def _free_prefix(taken: dict[str, str]) -> str:
    """A prefix that stands for nothing else here."""
    return next(
        prefix for prefix in ("xmp", "xap", *(f"xmp{number}" for number in range(len(taken) + 1))) if prefix not in taken
    )


def _quoted(text: str) -> bytes:
    """An attribute's value in quotes, in ASCII, so that it fits any encoding."""
    plain = escape(text, {'"': "&quot;", "\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})
    return b'"' + plain.encode("ascii", "xmlcharrefreplace") + b'"'
