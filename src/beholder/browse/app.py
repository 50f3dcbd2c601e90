"""The web application behind the live page: its addresses, what they take and what they answer."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import math
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from beholder.browse.about import Rejects, about
from beholder.browse.marks import MARK_OF, Mark
from beholder.browse.newest_first import Busy
from beholder.browse.pictures import THUMBNAIL_SIDES, Pictures, Sent, shortened
from beholder.browse.rows import View
from beholder.browse.safety import BodyLimit
from beholder.browse.session import PAGE_ROWS, Gone, LearnedScore, Session, Sort, Tab
from beholder.browse.taste import Learner, Occupied
from beholder.columns import SAMPLE, WHERE_NOW, PictureReason
from beholder.errors import BeholderError, InputError, os_error_text
from beholder.options import KEEP_FIRST
from beholder.pixels.picture import PictureError, PixelOptions
from beholder.scoreset.score_set import quoted, text_literal

_KINDS = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
_PICTURE_CACHE = "private, max-age=86400"
"""Addresses of pictures hold the run's id, so another set on the same port never meets them."""
_QUIET_S = 60.0
"""The same warning is shown once in this time."""
_MOST_LETTERS = 1000
"""Of an error."""
_MOST_ROWS_TEXT = 8_000
"""Letters of a list of row numbers in an address."""
_GONE = ("does not exist", "(any more)")
"""In what is said of a picture that was there once; others are missing as they are empty, or outside of what may be read."""
_GONE_REASONS = (PictureReason.MISSING, PictureReason.UNREADABLE)
"""A picture has gone, or the whole source that it was in, which then cannot be read."""


def make_app(session: Session, pictures: Pictures, rejects: Rejects, scratch: Path) -> FastAPI:
    """The application, without the guard. It serves its own files, rows, and pictures by row number; nothing else."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # FastAPI's pages for people load code from elsewhere
    run = secrets.token_hex(6)
    learner = Learner(session, scratch)
    app.add_middleware(BodyLimit)
    _add_errors(app)
    _add_files(app)
    _add_rows(app, session, learner, rejects, run, pictures.pixels)
    _add_pictures(app, session, pictures)
    _add_marks(app, session)
    _add_taste(app, learner)
    _add_export(app, session, learner, scratch)
    return app


def _error(status: int, text: str) -> Response:
    """One line of JSON."""
    line = _line(text) + ("..." if len(text) > _MOST_LETTERS else "")
    return JSONResponse({"error": line}, status, {"cache-control": "no-store"})


def _line(text: str) -> str:
    """The beginning of a text as one line; what a visitor sent stands in it, and may be of any length and no text at all."""
    return " ".join(text[:_MOST_LETTERS].encode("utf-8", "backslashreplace").decode().split())


def warn_once(told: dict[str, float], text: str) -> None:
    """One warning line on stderr, unless `told` (text -> when, by `time.monotonic`) has it already."""
    now = time.monotonic()
    if now - told.get(text, -_QUIET_S) >= _QUIET_S:
        told[text] = now
        with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody is there to read it
            print(f"warning: {text}", file=sys.stderr, flush=True)


def _why(error: PictureError) -> str:
    """What to say of a picture that there is not, with advice where it has gone and nothing was advised yet."""
    text = str(error)
    is_gone = error.reason in _GONE_REASONS and any(words in text for words in _GONE) and WHERE_NOW not in text
    advice = f"; if it was moved: {WHERE_NOW}" if is_gone else ""
    return f"{error.reason}: {shortened(text)}{advice}"


def _json(value: Any) -> Response:
    return JSONResponse(value, headers={"cache-control": "no-store"})


def _add_errors(app: FastAPI) -> None:
    """Every failure is one line of JSON."""
    told: dict[str, float] = {}

    @app.exception_handler(Exception)
    async def internal(request: Request, error: Exception) -> Response:
        text = f"internal error at {request.url.path}: {type(error).__name__}: {error}"
        warn_once(told, _line(text))
        return _error(500, text)

    @app.exception_handler(OSError)
    async def of_the_system(_: Request, error: Exception) -> Response:
        assert isinstance(error, OSError)
        return _error(503, f"{os_error_text(error)}; try again")

    @app.exception_handler(Busy)
    async def busy(_: Request, error: Exception) -> Response:
        return _error(503, "too many requests are waiting for an answer; try again")

    @app.exception_handler(Occupied)
    async def occupied(_: Request, error: Exception) -> Response:
        return _error(503, str(error))

    @app.exception_handler(BeholderError)
    async def mendable(_: Request, error: Exception) -> Response:
        return _error(400 if isinstance(error, InputError) else 507, str(error))

    @app.exception_handler(Gone)
    async def gone(_: Request, error: Exception) -> Response:
        return _error(410, "this view is no longer kept; it is made anew")

    @app.exception_handler(RequestValidationError)
    async def unclear(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0] if error.errors() else {}
        return _error(400, f"{'.'.join(map(str, first.get('loc', ())))}: {first.get('msg', 'not understood')}")

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _error(error.status_code, str(error.detail))


def _add_files(app: FastAPI) -> None:
    """The page's own files, read once; no name leads anywhere else."""
    folder = importlib.resources.files("beholder.browse") / "static"
    files = {item.name: item.read_bytes() for item in folder.iterdir() if item.name.rsplit(".", 1)[-1] in _KINDS}

    def send(name: str) -> Response:
        if name not in files:
            return _error(404, "there is no such file")
        return Response(files[name], media_type=_KINDS[name.rsplit(".", 1)[-1]], headers={"cache-control": "no-cache"})

    @app.get("/")
    async def page() -> Response:
        return send("index.html")

    @app.get("/static/{name}")
    async def static(name: str) -> Response:
        return send(name)


def _add_rows(
    app: FastAPI, session: Session, learner: Learner, rejects: Rejects, run: str, pixels: PixelOptions | None
) -> None:
    @app.get("/api/set")
    def the_set() -> Response:
        session.conditions.warm_up()  # a page is there, and may ask for some
        return _json({"run": run, **about(session, rejects), "preset": None if pixels is None else pixels.preset})

    @app.get("/api/values")
    def values(column: str) -> Response:
        if column not in session.store.names:
            return _error(404, f"there is no column {column!r}")
        found = session.conditions.few_values(column)
        return _json({"values": found or [], "are_few": found is not None})

    @app.get("/api/range")
    def range_of(column: str) -> Response:
        if column not in session.store.names:
            return _error(404, f"there is no column {column!r}")
        least, largest = session.conditions.range_of(column)
        return _json({"least": least, "largest": largest})

    @app.post("/api/view")
    def view(wanted: ViewRequest) -> Response:
        return _json(session.describe(session.view(wanted.score, wanted.conditions())))

    @app.get("/api/count")
    async def count(view: str, threshold: float) -> Response:  # a binary search: quicker than a change of threads
        return _json(session.counts(session.known_view(view), threshold))

    @app.post("/api/listing")
    def listing(wanted: ListingRequest) -> Response:
        view = session.known_view(wanted.view)
        if wanted.tab == "stack" and (wanted.stack is None or wanted.stack >= session.store.num_rows):
            return _error(404, f"there is no row {wanted.stack}")
        how: dict[str, Any] = {"threshold": wanted.threshold, "seed": wanted.seed, "stack": wanted.stack}
        if wanted.tab == "undecided":
            found = learner.undecided(view)
        else:
            found = session.listing(view, wanted.tab, wanted.sort, bucket=wanted.bucket, **how)
        return _json({"listing": found.key, "count": len(found.rows), "version": session.marks.version})

    @app.get("/api/rows")
    def rows(listing: str, score: str, start: int, count: int = PAGE_ROWS) -> Response:
        if not session.is_score(score):
            return _error(404, f"there is no score {score!r}")
        return _json({"rows": session.page(session.known_listing(listing), score, start, count)})

    @app.get("/api/selection")
    def selection(listing: str, start: int, count: int) -> Response:
        if not 0 <= count <= MOST_MARKED:
            return _error(400, f"at most {MOST_MARKED:,} rows are given at once")
        return _json({"rows": session.marks_of(session.known_listing(listing), start, count)})

    @app.get("/api/row/{row}")
    def row(row: int) -> Response:
        if not 0 <= row < session.store.num_rows:
            return _error(404, f"there is no row {row}")
        return _json({"row": row, "values": session.row(row), "mark": session.mark_word(row)})

    @app.get("/api/rejects")
    def some_rejects(reason: str = "", start: int = 0, count: int = PAGE_ROWS) -> Response:
        num_rows, found = rejects.page(reason, max(0, start), min(max(0, count), PAGE_ROWS))
        return _json({"count": num_rows, "rows": found})


async def _unless_gone(request: Request, result: Future[Sent]) -> Sent | None:
    """The result; None when the browser has gone away meanwhile, which takes the work out of the queue."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    waiting: asyncio.Future[Sent] = asyncio.wrap_future(result)
    leaving: asyncio.Future[None] = asyncio.ensure_future(gone())
    both: set[asyncio.Future[Any]] = {waiting, leaving}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        waiting.cancel()
        return None
    finally:
        leaving.cancel()


def _add_pictures(app: FastAPI, session: Session, pictures: Pictures) -> None:
    """Pictures are asked for by row number only; no path comes from the page."""

    async def answer(request: Request, row: int, wish: Callable[[str], Future[Sent]]) -> Response:
        if not 0 <= row < session.store.num_rows:
            return _error(404, f"there is no row {row}")
        try:
            (address,) = session.addresses(np.array([row]))
            if address is None:
                assert session.picture_column is not None
                return _error(404, ": ".join(map(str, session.picture_column.missing().error or ())))
            found = wish(address)
            sent = found.result() if found.done() else await _unless_gone(request, found)
        except PictureError as error:
            return _error(404, _why(error))
        except Busy:
            return _error(503, "too many pictures are waiting; scroll slower")
        except BeholderError as error:  # no worker can be started
            return _error(500, str(error))
        if sent is None:
            return Response(status_code=499)
        return Response(sent.data, media_type=sent.media_type, headers={"cache-control": _PICTURE_CACHE})

    @app.get("/thumb/{run}/{side}/{row}")
    async def thumbnail(request: Request, run: str, side: int, row: int) -> Response:
        if side not in THUMBNAIL_SIDES:
            return _error(404, f"thumbnails have sides of {', '.join(map(str, THUMBNAIL_SIDES))}")
        return await answer(request, row, lambda name: pictures.thumbnail(name, side))

    @app.get("/api/turned")
    def turned(rows: Annotated[str, Query(max_length=_MOST_ROWS_TEXT)]) -> Response:
        """Which of these rows have a picture that EXIF turns, of those whose thumbnail was made."""
        numbers = [int(text) for text in rows.split(",") if text.isdecimal()]
        numbers = [row for row in numbers if row < session.store.num_rows]
        addresses = session.addresses(np.array(numbers, np.int64))
        return _json({"rows": [row for row, address in zip(numbers, addresses, strict=True) if pictures.is_turned(address)]})

    @app.get("/seen/{run}/{row}")
    async def seen(request: Request, run: str, row: int) -> Response:
        if pictures.pixels is None:
            return _error(404, "nothing says which pixels of these pictures were scored")
        return await answer(request, row, pictures.seen)

    @app.get("/picture/{run}/{row}")
    async def picture(request: Request, run: str, row: int) -> Response:
        return await answer(request, row, pictures.picture)


def _add_marks(app: FastAPI, session: Session) -> None:
    @app.get("/api/marks")
    def changes(since: int) -> Response:
        version, found = session.marks.changes(since)
        return _json({"version": version, "changes": found and [[row, mark.word or ""] for row, mark in found]})

    @app.post("/api/marks")
    def mark(wanted: MarksRequest) -> Response:
        if max(wanted.rows) >= session.store.num_rows:
            return _error(404, f"there is no row {max(wanted.rows)}")
        session.mark(wanted.rows, MARK_OF[wanted.mark])
        return _json({"version": session.marks.version})


def _add_taste(app: FastAPI, learner: Learner) -> None:
    """Learning from marks. What is asked for changes something, so it comes as JSON from the page itself, as marks do."""

    @app.get("/api/taste")
    def taste() -> Response:
        return _json(learner.state())

    @app.post("/api/taste/read")
    def read(_: NoRequest) -> Response:
        learner.read()
        return _json(learner.state())

    @app.post("/api/taste/learn")
    def learn(wanted: LearnRequest) -> Response:
        return _json(learner.learn(wanted.score))

    @app.post("/api/taste/save")
    def save(_: NoRequest) -> Response:
        return _json(learner.save())


def _add_export(app: FastAPI, session: Session, learner: Learner, scratch: Path) -> None:
    @app.get("/api/command")
    def command(view: str, threshold: float, format: ExportFormat) -> Response:
        found = session.known_view(view)
        if found.score in session.learned:
            return _json({"command": learner.command(found, threshold, format)})
        return _json({"command": select_command(session, found, threshold, format)})

    @app.get("/api/export")
    def export(view: str, threshold: float, format: ExportFormat) -> Response:
        found = session.known_view(view)
        path = scratch / f"export-{secrets.token_hex(8)}.{format}"
        num_rows = write_selection(session, found, threshold, path)
        return FileResponse(
            path,
            media_type=MEDIA_TYPES[format],
            filename=export_name(session, found, format),
            background=BackgroundTask(path.unlink, missing_ok=True),
            headers={"cache-control": "no-store", "x-beholder-rows": str(num_rows)},
        )


def _as_text(value: str) -> str:
    """The same; JSON can write half a pair of surrogates, which no text holds, and NUL, at which texts end for databases."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("it is no text in UTF-8") from None
    if "\0" in value:
        raise ValueError("it holds a NUL")
    return value


_Text = Annotated[str, Field(max_length=20_000), AfterValidator(_as_text)]
_Scalar = _Text | int | float | bool | None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ColumnFilter(_Strict):
    """A clicked filter on one column: least and largest value, text that it holds, values (None is NULL), NULL or not."""

    column: _Text
    kind: Literal["range", "contains", "in", "null", "not_null"]
    low: float | int | _Text | None = None
    high: float | int | _Text | None = None
    text: _Text = ""
    values: Annotated[list[_Scalar], Field(max_length=1000)] = []

    def sql(self) -> str:
        """As a condition that `select --where` takes as well. Raises InputError where it says nothing."""
        name = quoted(self.column)
        if self.kind == "range":
            ends = ((">=", self.low), ("<=", self.high))
            found = " AND ".join(f"{name} {sign} {_literal(end)}" for sign, end in ends if end is not None)
        elif self.kind == "contains":
            found = f"contains(lower({name}::VARCHAR), lower({text_literal(self.text)}))" if self.text else ""
        elif self.kind == "in":
            listed = ", ".join(_literal(value) for value in self.values if value is not None)
            parts = [f"{name} IN ({listed})"] if listed else []
            parts += [f"{name} IS NULL"] if None in self.values else []
            found = f"({' OR '.join(parts)})" if len(parts) > 1 else "".join(parts)
        else:
            found = f"{name} IS {'NOT ' if self.kind == 'not_null' else ''}NULL"
        if not found:
            raise InputError(f"the filter on {self.column} is empty")
        return found


def _literal(value: Any) -> str:
    """A value as SQL takes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, int | float) else text_literal(str(value))


class ViewRequest(_Strict):
    """A score and conditions: the written ones, then the clicked ones."""

    score: _Text
    where: _Text = ""
    filters: Annotated[list[ColumnFilter], Field(max_length=100)] = []

    def conditions(self) -> list[str]:
        """All of them as SQL."""
        written = [self.where.strip()] if self.where.strip() else []
        return [*written, *(item.sql() for item in self.filters)]


class ListingRequest(_Strict):
    """A tab of a view, in an order."""

    view: _Text
    tab: Tab
    sort: Sort = "best"
    threshold: float = 0.0
    low: float | None = None
    high: float | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    stack: Annotated[int, Field(ge=0)] | None = None

    @property
    def bucket(self) -> tuple[float, float]:
        """Its ends, open where none is given."""
        return (-math.inf if self.low is None else self.low, math.inf if self.high is None else self.high)


MOST_MARKED = 10_000
"""Rows that are marked at once."""


class NoRequest(_Strict):
    """Nothing is to be said."""


class LearnRequest(_Strict):
    """The score of the set whose head is started from."""

    score: _Text


class MarksRequest(_Strict):
    """Rows and what they are marked as."""

    rows: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=MOST_MARKED)]
    mark: Literal["keep", "drop"] | None


ExportFormat = Literal["txt", "csv", "parquet", "jsonl"]
MEDIA_TYPES: dict[ExportFormat, str] = {
    "txt": "text/plain; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "jsonl": "application/jsonl; charset=utf-8",
}
_PIECE_ROWS = 65_536


def write_selection(session: Session, view: View, threshold: float, target: Path) -> int:
    """Write what is kept as `beholder select --out` does, best first; the end of the file's name says how.

    Columns: sample, the scores, rank, kept, dropped_by, then the other columns of the set (but those of vectors).

    Returns:
        How many rows were written.
    """
    from beholder.curate.select import tables  # brings numba, which the page does not need before
    from beholder.io.tables import write_table

    rows, scores, store = session.selected(view, threshold), session.scores, session.store
    learned = session.learned.get(view.score)
    passed = tables.passed_columns(scores, [name for name in scores.metadata_columns if name in store.names])
    schema = tables.list_schema(scores, (pa.field(new, _kind(session, name)) for name, new in passed.items()))
    if learned is not None:
        schema = schema.insert(1 + len(scores.score_columns), pa.field(learned.column, pa.float32()))
    if target.suffix == ".txt":
        schema = pa.schema([schema.field(SAMPLE)])
    names = [SAMPLE] if len(schema) == 1 else [SAMPLE, *scores.score_columns, *passed]
    num_first = 1 + len(scores.score_columns)

    def pieces() -> Iterator[pa.Table]:
        for start in range(0, len(rows), _PIECE_ROWS):
            piece = rows[start : start + _PIECE_ROWS]
            ready: list[Any] = session.store.fetch(piece, names).columns
            if len(schema) > 1:
                own = [] if learned is None else [pa.array(session.values(learned.name)[piece], from_pandas=True)]
                decided = tables.decided(session.ranks(view.score)[piece], np.zeros(len(piece), np.uint8))
                ready[num_first:num_first] = [*own, *decided]
            yield pa.table([column.cast(item.type) for column, item in zip(ready, schema, strict=True)], schema=schema)

    by = view.score if learned is None else learned.column
    asked: dict[str, Any] = {"score": by, "min_score": threshold, "where": list(view.conditions), **_repeated(session)}
    if session.asked.join:
        asked["join"] = list(session.asked.join)
    marks = {mark.word: len(session.marks.marked(mark)) for mark in (Mark.KEEP, Mark.DROP)}
    record = tables.list_record(scores, asked, store.num_rows, len(rows), marked=marks)
    if learned is not None:
        record["score_columns"], record["heads"] = [*record["score_columns"], by], [*record["heads"], dict(learned.head)]
    write_table(str(target), pieces(), schema, record)
    return len(rows)


def export_name(session: Session, view: View, kind: str) -> str:
    """What the file of an export is called: by a score that was learned from marks its name says so."""
    learned: LearnedScore | None = session.learned.get(view.score)
    return f"selection{'' if learned is None else '-by-my-taste'}.{kind}"


def _kind(session: Session, name: str) -> pa.DataType:
    """The type of a passed column: the set's own, but for types that cannot be cast back to."""
    kind = session.scores.schema.field(name).type
    is_lost = pa.types.is_dictionary(kind) or pa.types.is_null(kind) or pa.types.is_float16(kind)
    return session.store.table.schema.field(name).type if is_lost else kind


def _repeated(session: Session) -> dict[str, str]:
    """How rows that name a sample again are taken, where that is not as usual."""
    return {} if session.asked.repeated == KEEP_FIRST else {"repeated": session.asked.repeated}


def select_command(session: Session, view: View, threshold: float, kind: ExportFormat) -> str:
    """The command line that selects the same rows."""
    options = session.asked
    words = ["beholder", "select", session.scores.source, "--min-score", repr(float(threshold))]
    if len(session.scores.score_columns) > 1:
        words += ["--score", view.score]
    for condition in view.conditions:
        words += ["--where", condition]
    words += session.marks_flag()
    for table in options.join:
        words += ["--join", table]
    named = (
        ("--repeated", _repeated(session).get("repeated")),
        ("--score-column", options.score_column),
        ("--sample-column", options.sample_column),
    )
    for flag, value in named:
        if value is not None:
            words += [flag, value]
    return shlex.join([*words, "-o", f"selection.{kind}"])
