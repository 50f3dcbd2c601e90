"""A page in; its elements, texts and addresses out, read by Python's own parser."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

VOID = frozenset({"meta", "link", "img", "input", "br", "hr", "circle"})
ADDRESSES = frozenset({"src", "href", "srcset", "data", "action", "formaction", "poster", "background", "xlink:href"})


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    texts: list[str] = field(default_factory=list)
    inside: list[Element] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(" ".join([*self.texts, *(child.text for child in self.inside)]).split())

    def all(self, tag: str, **wanted: str) -> list[Element]:
        """All elements below with this tag and these attributes (`class_` for one of its classes)."""
        found = []
        for child in self.inside:
            classes = (child.attributes.get("class") or "").split()
            plain = {name: value for name, value in wanted.items() if name != "class_"}
            has_class = "class_" not in wanted or wanted["class_"] in classes
            if child.tag == tag and has_class and all(child.attributes.get(name) == value for name, value in plain.items()):
                found.append(child)
            found += child.all(tag, **wanted)
        return found

    def one(self, tag: str, **wanted: str) -> Element:
        (found,) = self.all(tag, **wanted)
        return found


class Page(HTMLParser):
    """Builds a tree and notes what is not well nested."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("document", {})
        self.faults: list[str] = []
        self.elements: list[Element] = []
        self._open = [self.root]
        self.feed(text)
        self.close()
        self.faults += [f"<{element.tag}> is not closed" for element in self._open[1:]]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if len({name for name, _ in attrs}) != len(attrs):
            self.faults.append(f"<{tag}> has an attribute twice")
        element = Element(tag, dict(attrs))
        self._open[-1].inside.append(element)
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if self._open[-1].tag != tag:
            self.faults.append(f"</{tag}> closes <{self._open[-1].tag}>")
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].texts.append(data)

    def json(self, name: str) -> Any:
        """The data block with this id."""
        (found,) = [item for item in self.elements if item.tag == "script" and item.attributes.get("id") == name]
        return json.loads("".join(found.texts))

    def addresses(self) -> list[tuple[str, str, str]]:
        """(tag, attribute, value) of every attribute that names an address."""
        return [
            (element.tag, name, value or "")
            for element in self.elements
            for name, value in element.attributes.items()
            if name in ADDRESSES
        ]
