"""HTML pages as one file each: a template with the common style and scripts inside, and a policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import PurePosixPath
from typing import Any

from beholder.errors import InputError, OutputError
from beholder.io import storage
from beholder.reporting import charts


def render(template: str, content: Mapping[str, Any], *, scripts: Sequence[str] = ("page.js",)) -> bytes:
    """A page as UTF-8. All text of `content` is escaped; what no text may hold (lone surrogates) is replaced.

    Args:
        template: a file of `static/` that extends `page.html.j2`.
        content: what it shows.
        scripts: files of `static/`, put together in this order.
    """
    from markupsafe import Markup

    style, script = _static("report.css"), "".join(_static(name) for name in scripts)
    common = {
        "policy": policy(style, script),
        "style": Markup(style),  # ours, and named by its hash in the policy
        "script": Markup(script),
    }
    page: str = _environment().get_template(template).render(common | dict(content))
    return page.encode("utf-8", "replace")


@cache
def _environment() -> Any:
    """jinja2's, which keeps the templates that it has compiled."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_static),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": charts.percent, "number": charts.number, "count": lambda value: f"{value:,}"}
    environment.globals |= {
        "box": {
            "width": charts.WIDTH,
            "height": charts.HEIGHT,
            "left": charts.LEFT,
            "right": charts.WIDTH - charts.RIGHT,
            "top": charts.TOP,
            "bottom": charts.HEIGHT - charts.BOTTOM,
        }
    }
    return environment


def page_name(source: str, what: str) -> str:
    """How a page is called where nobody says it: as what it is of, in the current folder."""
    name = PurePosixPath(source.split("?", 1)[0].rstrip("/")).name or "scores"
    for suffix in (".parquet", ".pq", ".csv", ".tsv", ".npy"):
        name = name.removesuffix(suffix)
    return f"{'scores' if storage.is_glob(name) else name}.{what}.html"


def check_is_html(out: str) -> None:
    """Raise OutputError for a page whose name says that it is something else."""
    if PurePosixPath(out).suffix.lower() not in (".html", ".htm"):
        raise OutputError(f"{out}: the page is an HTML file; give it a name that ends in .html")


def made_at() -> str:
    """The present time (of $SOURCE_DATE_EPOCH, where that is set), as pages show it."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = time.gmtime(int(given or time.time()))
    except (ValueError, OverflowError, OSError):
        raise InputError(f"SOURCE_DATE_EPOCH is {given!r}; give seconds since 1970, or unset it") from None
    return time.strftime("%Y-%m-%d %H:%M UTC", moment)


def policy(style: str, script: str) -> str:
    """Nothing may be loaded but pictures in the page itself, and no other style or script may run."""
    parts = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": _hash(style),
        "script-src": _hash(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in parts.items())


def _static(name: str) -> str:
    """A file of the package, with plain line ends: the hash of a script is of the text as browsers see it."""
    text = resources.files("beholder.reporting").joinpath("static", name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


def _hash(text: str) -> str:
    """How a content security policy names an inline style or script."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") + "'"
