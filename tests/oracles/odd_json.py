"""JSON texts changed as trees: values of other kinds, huge numbers, NaN, nesting, keys twice, half surrogates; and as bytes.

A tree is what `json.loads` gives. Written by hand, since `json.dumps` writes neither a key twice nor ten thousand brackets.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Mapping
from typing import Any

from oracles.mutating import mutated


class Raw(str):
    """A piece of text that stands in the JSON as it is."""


class Pairs(list[tuple[str, Any]]):
    """An object whose keys may come twice."""


DEEP = Raw("[" * 20_000 + "]" * 20_000)
DEEP_OBJECTS = Raw('{"a":' * 3_000 + "1" + "}" * 3_000)
DIGITS = Raw("1" * 5_000)
"""More than Python makes a number of."""
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 255, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**40, 10**400, -(10**400),
    0.5, -0.0, 1e-320, 1e308, -1e308, float("nan"), float("inf"), float("-inf"),
    "", " ", "x", "0", "-1", "1e999", "nan", "true", "null", "\0", "\n", "a\nb\x1b[31m", "\ud800", "é猫\u202e", "x" * 5_000,
    "../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "2020-13-45T99:99:99Z", "[]", "{}",
    [], {}, [[]], [None], [0], [""], ["a", 1, None], [[0, 1], [2]], {"": 0}, {"a": {}}, {"value": None}, [{}], list(range(300)),
    DEEP, DEEP_OBJECTS, DIGITS, Raw("-" + DIGITS), Raw("1e5000"), Raw("01"), Raw("'a'"), Raw(""), Raw("// no\n1"),
    Raw('"\\udc00\\ud800"'), Raw("-Infinity"),
)  # fmt: skip


def text_of(tree: Any) -> str:
    """The tree as JSON."""
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, Pairs):
        return "{" + ", ".join(f"{json.dumps(key)}: {text_of(value)}" for key, value in tree) + "}"
    if isinstance(tree, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {text_of(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, list | tuple):
        return "[" + ", ".join(map(text_of, tree)) + "]"
    return json.dumps(tree)


def _places(tree: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """(container, key) of every value below."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if type(tree) is list else ()
    for key, value in items:
        found.append((tree, key))
        _places(value, found)
    return found


def changed(tree: Any, rng: random.Random, *, odd: tuple[Any, ...] = ODD) -> Any:
    """A copy with one to three values replaced, taken out, doubled, exchanged, wrapped or called otherwise."""
    root = [copy.deepcopy(tree)]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = _places(root, [])
        if not places:
            break
        container, key = rng.choice(places)
        match rng.choice("rrrrrrdtswkm"):
            case "r":
                container[key] = copy.deepcopy(rng.choice(odd))
            case "d":
                if container is not root:
                    del container[key]
            case "t" if isinstance(container, dict):
                twice = Pairs([*container.items(), (key, rng.choice(odd))])
                rng.shuffle(twice)
                holder, place = next((one for one in places if one[0][one[1]] is container), (root, 0))
                holder[place] = twice
            case "s":
                other, place = rng.choice(places)
                container[key] = copy.deepcopy(other[place])
            case "w":
                container[key] = rng.choice(([container[key]], {"value": container[key]}, [container[key]] * 2))
            case "k" if isinstance(container, dict):
                container[rng.choice(("", "x", key + " ", key.upper(), "\ud800", "__class__", "\0"))] = container.pop(key)
            case "m" if isinstance(container[key], int | float) and not isinstance(container[key], bool):
                container[key] = rng.choice((-container[key], container[key] + 1, str(container[key]), [container[key]]))
            case _:
                container[key] = copy.deepcopy(rng.choice(odd))
    return root[0]


def document(tree: Any, rng: random.Random) -> bytes:
    """The bytes of a changed tree, seldom damaged as bytes instead, or in another encoding."""
    chance = rng.random()
    if chance < 0.12:
        return mutated(json.dumps(tree).encode(), rng)
    text = text_of(changed(tree, rng))
    if chance < 0.16:
        return text.encode(rng.choice(("utf-16", "utf-32", "utf-8-sig")), "replace")
    return text.encode("utf-8", "replace")


def lines(trees: list[Any], rng: random.Random) -> bytes:
    """JSON lines, one or a few of which are changed, or damaged, or taken out, or come again."""
    texts = [json.dumps(tree).encode() for tree in trees]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(texts))
        match rng.randrange(6):
            case 0:
                del texts[at : at + rng.choice((1, 1, 3))]
            case 1:
                texts.insert(at, texts[rng.randrange(len(texts))])
            case _:
                try:
                    texts[at] = document(json.loads(texts[at]), rng)
                except (ValueError, RecursionError):
                    texts[at] = mutated(texts[at], rng)
        if not texts:
            break
    ending = rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b""))
    return b"\n".join(texts) + ending
