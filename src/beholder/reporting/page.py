"""The content of a page in; one HTML file that asks nothing of any network out."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from beholder.reporting import charts

_STATIC = "static"


def _static(name: str) -> str:
    """A file of the package, with plain line ends: the hash of a script is of the text as browsers see it."""
    text = resources.files("beholder.reporting").joinpath(_STATIC, name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


def _hash(text: str) -> str:
    """How a content security policy names an inline style or script."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") + "'"


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


def render(content: Mapping[str, Any]) -> bytes:
    """The page as UTF-8. All text of `content` is escaped; what no text may hold (lone surrogates) is replaced."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_static),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": charts.percent, "number": charts.number, "count": lambda value: f"{value:,}"}
    style, script = _static("report.css"), _static("report.js")
    environment.globals |= {
        "box": {
            "width": charts.WIDTH,
            "height": charts.HEIGHT,
            "left": charts.LEFT,
            "right": charts.WIDTH - charts.RIGHT,
            "top": charts.TOP,
            "bottom": charts.HEIGHT - charts.BOTTOM,
        },
        "policy": policy(style, script),
        "style": Markup(style),  # ours, and named by its hash in the policy
        "script": Markup(script),
    }
    return environment.get_template("report.html.j2").render(content).encode("utf-8", "replace")
