"""Learning from marks while browsing: the embeddings, the head that was learned last, its scores, and what to mark next.

Everything happens in this process: no head is fetched, and nothing is sent anywhere.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from beholder.browse.about import describe_score
from beholder.browse.marks import Mark
from beholder.browse.rows import View
from beholder.browse.session import Gone, LearnedScore, Listing, Session
from beholder.errors import BeholderError, HeadError, InputError, number_of
from beholder.io import locations, storage
from beholder.models import catalog
from beholder.models.backbones import same_backbone

if TYPE_CHECKING:
    from beholder.models.heads import Head
    from beholder.scoreset.score_set import ScoreSet
    from beholder.scoreset.vectors import Vectors
    from beholder.train.taste import Taste, Unseen
    from beholder.train.trained_on import TrainedOn

TITLE = "my taste"
_COLUMN = "my_taste"
_SAVED_MARK = '"learned_in": "beholder browse"'
"""Stands in the record of a saved head; no other record is replaced."""
_NONE_KEPT = (
    "there are no embeddings of these pictures; score them again with --keep-embeddings, or name some with "
    "beholder browse --embeddings"
)


class Occupied(Exception):  # noqa: N818
    """It cannot be done at this moment; the text says why, and what to do."""


class _Stopped(Exception):  # noqa: N818
    """The page was ended while embeddings were read."""


@dataclass(frozen=True)
class Learned:
    """What was learned last.

    Attributes:
        score: as the session knows it.
        taste: the head and its measures.
        public: the score whose head it started from.
        backbone: the tower of the embeddings.
        note: why it started from no head; None: it did start from one.
        version: of the marks that it was learned from.
        trained_on: the pictures that it was learned from.
        odds: (K,) float32 scores of the embeddings.
        num_unusable: marked pictures without an embedding.
        seconds: from the request to the new order.
    """

    score: LearnedScore
    taste: Taste
    public: str
    backbone: str | None
    note: str | None
    version: int
    trained_on: TrainedOn
    odds: npt.NDArray[np.float32]
    num_unusable: int
    seconds: float


class Learner:
    """Learns a score from the marks of a session, one at a time. Thread-safe.

    Args:
        session: the rows, marks and views; the learner is closed with it.
        scratch: a folder with room for the embeddings, which lie in a file there that is mapped.

    Raises:
        InputError: no embeddings where the options name some.
    """

    def __init__(self, session: Session, scratch: Path) -> None:
        self._session, self._scratch = session, scratch / "embeddings"
        self.place = session.asked.embeddings or session.scores.embeddings
        self._files = _stamps(session.scores.files)
        self._lock = threading.Lock()
        self._learning = threading.Lock()
        self._reader: threading.Thread | None = None
        self._is_closed = False
        self._progress = (0, 0)
        self._failure: BeholderError | None = None
        self._vectors: Vectors | None = None
        self._heads: dict[str, Head] = {}
        self._learned: Learned | None = None
        self._saved: str | None = None
        session.closing.callback(self.close)
        if session.asked.embeddings is not None:
            from beholder.sources.find import find_parts
            from beholder.sources.reader import ReadOptions

            find_parts([session.asked.embeddings], ReadOptions())  # a wrong name is told at the start
            self.read()

    def close(self) -> None:
        """Stop reading."""
        self._is_closed = True
        reader = self._reader
        if reader is not None:
            reader.join(timeout=10)

    # -- embeddings

    def read(self, *, again: bool = True) -> None:
        """Begin to read the embeddings, unless they are there or being read; does not wait. Raises InputError: there are none.

        again: whether to begin anew where they could not be read.
        """
        if self.place is None:
            raise InputError(_NONE_KEPT)
        with self._lock:
            is_reading = self._reader is not None and self._reader.is_alive()
            if self._vectors is not None or self._is_closed or is_reading or (self._failure is not None and not again):
                return
            self._failure, self._progress = None, (0, 0)
            self._reader = threading.Thread(target=self._read, args=(self.place,), daemon=True, name="embeddings")
            self._reader.start()

    def _read(self, place: str) -> None:
        """Read them into a file, then do once all that learning does: embeddings are in memory then, and code is compiled."""
        from beholder.scoreset.vectors import load_vectors
        from beholder.train.taste import warm_up

        scores = self._session.scores
        try:
            found = load_vectors(scores, place, scratch=self._scratch, on_progress=self._on_progress)
            self._check_unchanged()
            warm_up(found.matrix[:, : found.dim])
            self._vectors = found
        except _Stopped:
            return
        except Occupied as error:
            self._failure = InputError(str(error))
        except BeholderError as error:
            self._failure = error
        except Exception as error:  # whoever asks is told
            self._failure = BeholderError(f"{place} cannot be read: {type(error).__name__}: {error}")

    def _on_progress(self, done: int, total: int) -> None:
        if self._is_closed:
            raise _Stopped
        self._progress = (done, total)

    def _ready(self) -> Vectors:
        """The embeddings. Raises Occupied while they are read, BeholderError where they cannot be."""
        self.read(again=False)
        vectors, failure = self._vectors, self._failure
        if vectors is not None:
            return vectors
        if failure is not None:
            raise failure
        done, total = self._progress
        share = f" ({100 * done // total} %)" if total else ""
        raise Occupied(f"the embeddings are being read{share}; try again in a moment")

    # -- what the page asks

    def state(self) -> dict[str, Any]:
        """Everything the page shows of this, ready for JSON."""
        reader, vectors, failure = self._reader, self._vectors, self._failure
        done, total = self._progress
        is_reading = vectors is None and failure is None and reader is not None
        learned = self._learned
        return {
            "why": _NONE_KEPT if self.place is None else None if failure is None else str(failure),
            "is_possible": self.place is not None,
            "place": self.place,
            "reading": {"done": done, "total": total} if is_reading else None,
            "embeddings": None if vectors is None else _told_of(vectors),
            "is_learning": self._learning.locked(),
            "file": str(self._session.asked.taste_path),
            "learned": None if learned is None else self._describe(learned),
        }

    def learn(self, public: str) -> dict[str, Any]:
        """Fit a head to all marks, starting from that of a score of the set, and rank all rows by it; returns `state`.

        Raises:
            Occupied: one is being learned, embeddings are being read, or the set is another one by now.
            BeholderError: too few marks, no embeddings.
        """
        if public not in self._session.scores.score_columns:
            raise InputError(f"there is no score {public!r} to start from")
        with self._alone():
            started = time.perf_counter()
            self._check_unchanged()
            self._check_marks()
            vectors = self._ready()
            self._learned = self._learn(vectors, public, started)
            self._saved = None
        return self.state()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._learning.acquire(blocking=False):
            raise Occupied("a head is being learned from the marks already; try again in a moment")
        try:
            yield
        finally:
            self._learning.release()

    def _check_unchanged(self) -> None:
        """Raise Occupied where the files of the set are not those that were opened."""
        if _stamps(self._session.scores.files) != self._files:
            raise Occupied(
                f"{self._session.scores.source} has changed since this page was opened; end beholder browse, and start it again"
            )

    def _check_marks(self) -> None:
        """Raise InputError where there are too few, before embeddings are read for them, if there are any."""
        if self.place is None:
            raise InputError(_NONE_KEPT)
        from beholder.train.taste import check_marks

        marks = self._session.marks
        marks.catch_up()
        if self._vectors is None:
            check_marks(len(marks.marked(Mark.KEEP)), len(marks.marked(Mark.DROP)))

    def _learn(self, vectors: Vectors, public: str, started: float) -> Learned:
        from beholder.train.sketches import sketched
        from beholder.train.taste import check_marks, learn_taste, scores_of_all
        from beholder.train.trained_on import TrainedOn

        session = self._session
        version, marks = session.marks.version, session.marks.state.copy()
        marked = np.flatnonzero(marks)
        usable = marked[vectors.place[marked] >= 0]
        rows = usable[np.unique(vectors.place[usable], return_index=True)[1]]  # of rows that share a picture the first
        keeps = marks[rows] == Mark.KEEP
        num_unusable = len(marked) - len(usable)
        try:
            check_marks(int(keeps.sum()), int((~keeps).sum()))
        except InputError as error:
            have = number_of(num_unusable, "marked picture has", "marked pictures have")
            more = f" ({have} no embedding)" if num_unusable else ""
            raise InputError(f"{error}{more}") from None
        start, note = self._head_of(public, vectors)
        places = vectors.place[rows]
        samples = session.store.samples(rows)
        taste = learn_taste(
            vectors.matrix[places][:, : vectors.dim],
            keeps,
            samples=samples,
            start_from=start,
            before=session.values(public)[rows],
        )
        found = scores_of_all(taste.fit.math, vectors.matrix[:, : vectors.dim])
        score = self._named(taste, vectors)
        has_one = vectors.place >= 0
        session.add_learned(score, np.where(has_one, found[vectors.place], np.float32(np.nan)))
        return Learned(
            score=score,
            taste=taste,
            public=public,
            backbone=vectors.backbone,
            note=note,
            version=version,
            trained_on=TrainedOn.of(
                samples,
                sketched=sketched(len(rows), np.arange(len(rows)), vectors.matrix[:, : vectors.dim], places, vectors.backbone),
            ),
            odds=found,
            num_unusable=num_unusable,
            seconds=time.perf_counter() - started,
        )

    def _named(self, taste: Taste, vectors: Vectors) -> LearnedScore:
        """A score of a name that nothing else has, not even after a restart."""
        title, column, names = TITLE, _COLUMN, {name.casefold() for name in self._session.scores.schema.names}
        while title in names or column in names:
            title, column = f"{title}*", f"{column}_"
        head = taste.to_head(TITLE, vectors.backbone)
        return LearnedScore(f"{TITLE} {secrets.token_hex(6)}", column, title, head.describe())

    def _head_of(self, score: str, vectors: Vectors) -> tuple[Head | None, str | None]:
        """The head to start from, or None and why."""
        if score in self._heads:
            return self._heads[score], None
        head, note = head_in_use(self._session.scores, score, vectors.backbone, vectors.dim)
        if head is not None:  # one that is not there may be there the next time
            self._heads[score] = head
        return head, note

    def undecided(self, view: View) -> Listing:
        """Pictures of a view by the learned score to be marked next. Raises InputError: it is by another score."""
        from beholder.train.taste import undecided

        session, vectors = self._session, self._vectors
        if vectors is None or view.score not in session.learned:
            raise InputError("what is undecided is known of a score that was learned from marks only; learn from them first")
        learned = self._learned
        if learned is None or learned.score.name != view.score:
            raise Gone(view.key)
        version, state = session.marks.version, session.marks.state.copy()
        allowed = (vectors.place >= 0) & (state == Mark.NONE)
        if view.inside is not None:
            allowed &= view.inside
        rows = np.flatnonzero(allowed)[::-1]
        row_of = np.full(len(vectors.matrix), -1, np.int64)
        row_of[vectors.place[rows]] = rows  # of rows that share a picture the first
        marked = vectors.place[np.flatnonzero(state)]
        chosen = undecided(
            vectors.matrix[:, : vectors.dim],
            learned.odds,
            np.flatnonzero(row_of >= 0),
            marked=np.unique(marked[marked >= 0]),
        )
        return session.keep_listing(view, "undecided", row_of[chosen], version)

    def save(self) -> dict[str, Any]:
        """Write the learned head with its card and record, beside the marks; returns `state`. Raises BeholderError."""
        from beholder import __version__
        from beholder.train.card import HeadFiles
        from beholder.train.trained_on import KEY

        with self._alone():
            learned = self._learned
            if learned is None:
                raise InputError("nothing was learned from the marks yet, so there is no head to save")
            path = self._session.asked.taste_path
            files = HeadFiles(str(path))
            advice = "browse with marks in another file (--marks)"
            files.check(overwrite=True, advice=advice, mark=_SAVED_MARK)
            name = path.name.removesuffix(".safetensors")
            record = {
                "beholder": __version__,
                "learned_in": "beholder browse",
                **learned.taste.record(name, learned.backbone, before_name=learned.public),
                KEY: learned.trained_on.to_json(),
                "ratings": {
                    "file": str(self._session.marks.path),
                    "public_name": None,
                    "kind": "decisions",
                    "layout": "marks of `beholder browse`",
                    "scale": None,
                    "num_pictures": learned.taste.num_keep + learned.taste.num_drop + learned.num_unusable,
                    "num_matched": learned.taste.num_keep + learned.taste.num_drop,
                    "ways": {},
                },
                "remarks": told(learned),
                "embeddings": {
                    "source": self.place,
                    "dim": len(learned.taste.fit.weight),
                    "backbone": learned.backbone,
                },
            }
            files.write(learned.taste.to_head(name, learned.backbone), record, told(learned))
            self._saved = str(path)
        return self.state()

    def command(self, view: View, threshold: float, kind: str) -> str:
        """The command lines that select the same rows; a line with # where there are none."""
        learned, saved = self._learned, self._saved
        if learned is None or learned.score.name != view.score or saved is None or self.place is None:
            return "# save the head first: it is what a command scores with"
        if view.conditions:
            return "# conditions are about columns that a new run by the head does not have: use the download"
        table = f"{saved.removesuffix('.safetensors')}.parquet"
        words = ["beholder", "select", table, "--min-score", repr(float(threshold)), *self._session.marks_flag()]
        head = saved if os.path.isabs(saved) else f"./{saved}"  # noqa: PTH117
        scoring = ["beholder", "score", self.place, "--head", head, "-o", table]
        return f"{shlex.join(scoring)}\n{shlex.join([*words, '-o', f'selection.{kind}'])}"

    def _describe(self, learned: Learned) -> dict[str, Any]:
        score = describe_score(self._session, learned.score.name)
        is_inside = score["low"] <= 0 <= score["high"]
        return {
            "score": {**score, "title": learned.score.title, "is_learned": True, **({"start": 0.0} if is_inside else {})},
            "public": learned.public,
            "start_from": learned.taste.start_from,
            "num_keep": learned.taste.num_keep,
            "num_drop": learned.taste.num_drop,
            "num_unusable": learned.num_unusable,
            "version": learned.version,
            "seconds": learned.seconds,
            "unseen": None if learned.taste.unseen is None else _told_unseen(learned.taste.unseen),
            "summary": summary(learned),
            "told": told(learned),
            "saved": self._saved,
        }


def head_in_use(scores: ScoreSet, score: str, backbone: str | None, dim: int) -> tuple[Head | None, str | None]:
    """The head that gave a score, where it can be started from; or None, and why not. No network is asked.

    Args:
        scores: the set.
        score: one of its columns.
        backbone: the tower of the embeddings; None: nobody says.
        dim: their length.
    """
    from beholder.models.heads import load_head

    name = scores.head_names.get(score)
    if name is None:
        return None, f"nothing says which head {score} is by, so this started from none"
    known = scores.head_record(score)
    source, head = known.get("source"), None
    try:
        path = locations.local_path(source) if isinstance(source, str) and locations.is_local(source) else None
        if path is not None and path.is_file() and storage.sha256_of(path) == known.get("sha256"):
            head = load_head(path)
        if head is None:
            head = load_head(name, offline=True)
            is_another = catalog.find(name) is None and known.get("sha256") not in (None, head.sha256, head.source_sha256)
            if is_another:
                return None, f"{name} is another head by now, so this started from none"
    except HeadError:
        return None, f"{name} is not on this machine (beholder models download), so this started from no head"
    if not head.is_affine:
        return None, f"{name} has ReLUs between its layers, so this started from no head"
    if head.dim != dim or (backbone and head.backbone and not same_backbone(backbone, head.backbone)):
        return None, f"{name} is for other embeddings, so this started from no head"
    return head, None


def _stamps(files: Sequence[Path]) -> list[tuple[int, int, int]]:
    """What tells whether files are the same as before; a file that is gone is one that changed."""
    found = []
    for path in files:
        try:
            status = path.stat()
        except OSError:
            found.append((0, 0, 0))
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return found


def _told_of(vectors: Vectors) -> dict[str, Any]:
    num_rows = int(np.count_nonzero(vectors.place >= 0))
    return {
        "rows": num_rows,
        "without": len(vectors.place) - num_rows,
        "dim": vectors.dim,
        "dtype": str(vectors.matrix.dtype),
        "num_bytes": int(vectors.matrix.nbytes),
    }


def _told_unseen(found: Unseen) -> dict[str, Any]:
    from beholder.train.taste import ORDER, SIDE

    return {
        "is_known": found.is_known,
        "num_keep": found.num_keep,
        "num_drop": found.num_drop,
        "by": found.by,
        "order": found.order.to_json(),
        "side": found.measures[SIDE].to_json(),
        "public": None if found.before is None else found.before[ORDER].to_json(),
        "gain": None if found.gain is None else found.gain[ORDER].to_json(),
    }


def summary(learned: Learned) -> str:
    """How well marks are foretold, in a line."""
    from beholder.train.taste import LEAST_MARKS, ORDER

    unseen, num_groups = learned.taste.unseen, learned.taste.num_groups
    if num_groups < LEAST_MARKS:
        return f"Too few different pictures are marked ({num_groups:,}; near-duplicates count as one) to tell anything"
    if unseen is None or not unseen.is_known:
        return "Too few marks to tell how well it foretells others"
    order = unseen.order
    before = "" if unseen.before is None else f"; {learned.public}: {_percent(unseen.before[ORDER].value)}"
    return (
        f"Keep before drop in {_percent(order.value)} of pairs it has not seen "
        f"({_percent(order.low, '')} to {_percent(order.high)}){before}"
    )


def told(learned: Learned) -> list[str]:
    """Further lines about what was learned."""
    from beholder.train.taste import ORDER, SIDE

    taste, unseen = learned.taste, learned.taste.unseen
    lines = [f"learned from {taste.num_keep:,} keep and {taste.num_drop:,} drop marks in {learned.seconds:.2f} s"]
    lines.append(learned.note or f"started from {taste.start_from}")
    if unseen is not None and unseen.is_known:
        side = unseen.measures[SIDE]
        lines.append(
            f"foretells {_percent(side.value)} of the marks it has not seen ({_percent(side.low, '')} to {_percent(side.high)})"
        )
    gain = None if unseen is None or not unseen.is_known or unseen.gain is None else unseen.gain[ORDER]
    if gain is not None and gain.has_bounds:
        than = "better" if gain.low > 0 else "worse"
        lines.append(
            f"{than if gain.is_real else 'no surer'} than {learned.public}: {_points(gain.value)} points of pairs "
            f"({_points(gain.low)} to {_points(gain.high)})"
        )
    if taste.num_groups < taste.num_keep + taste.num_drop:
        lines.append(f"near-duplicates count as one picture: {taste.num_groups:,} different ones")
    if taste.num_left_out:
        lines.append(f"{taste.num_left_out:,} more marks were left out; beholder train takes all")
    if learned.num_unusable:
        were = "marked picture has no embedding, and was", "marked pictures have no embedding, and were"
        lines.append(f"{number_of(learned.num_unusable, *were)} left out")
    return lines


def _percent(share: float, unit: str = " %") -> str:
    return f"{100 * share:.0f}{unit}"


def _points(difference: float) -> str:
    return f"{100 * difference:+.0f}"
