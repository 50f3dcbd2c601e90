"""A score set in; a function that asks the application of browse about it, in this process, out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from beholder.browse.about import Rejects
from beholder.browse.app import make_app
from beholder.browse.options import BrowseOptions
from beholder.browse.pictures import Pictures
from beholder.browse.session import Session
from beholder.locate.locate import PictureFinder
from beholder.scoreset.score_set import open_scores

Ask = Callable[..., httpx.Response]


def client_of(
    path: Path,
    scratch: Path,
    marks: Path | None = None,
    groups: Path | None = None,
    more: Mapping[str, Any] | None = None,
    **looking: Any,
) -> Iterator[Ask]:
    """Asks the application over a set, without a server; `more`: of its options; `looking`: arguments of `Pictures`."""
    named = {"marks": str(marks) if marks else None, "groups": str(groups) if groups else None}
    options = BrowseOptions(scores=str(path), **named, **(more or {}))
    with (
        open_scores(str(path)) as scores,
        Session(scores, scratch, options) as session,
        PictureFinder(scores.record, confined=True) as finder,
    ):
        pictures = Pictures(finder, num_workers=2, **looking)
        app = make_app(session, pictures, Rejects(scores.rejects), scratch)

        def ask(path: str, body: Any = None, **parameters: Any) -> httpx.Response:
            async def one() -> httpx.Response:
                transport = httpx.ASGITransport(app=app)
                async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                    if body is None:
                        return await client.get(path, params=parameters or None)
                    return await client.post(path, json=body, params=parameters or None)

            return asyncio.run(one())

        yield ask
        pictures.close()
