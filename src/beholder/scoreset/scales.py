"""Maps from the scale of a head's scores onto another scale: what one says, both of its directions, and its file.

A map never falls, and is made of straight lines between knots. Mapped values are compared as float32, which is how tables hold
them, so a threshold that was translated keeps exactly the rows whose mapped value reaches it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.io import records, writing
from beholder.kernels import ordering
from beholder.scoreset.head_key import HeadKey
from beholder.scoreset.score_set import as_score

Doubles = npt.NDArray[np.float64]
ScaleKind = Literal["head", "ratings", "percentiles"]
SCALE_KINDS: tuple[ScaleKind, ...] = get_args(ScaleKind)
MapMethod = Literal["isotonic", "quantile"]
MAP_METHODS: tuple[MapMethod, ...] = get_args(MapMethod)
SCALE_MAP_FORMAT = "beholder-scale-map"
_VERSION = 2
"""1 had other names for its measures, and some of its maps no ends."""
NUM_ENDS = 20
"""With fewer fitted pictures beyond a score, what an isotonic map says there is said with a warning."""
_NONE = np.empty(0)


@dataclass(frozen=True)
class StepMap:
    """A map that never falls: straight lines between knots, level beyond them.

    Attributes:
        scores: (K,) float64, ascending; values: (K,) float64, never falling.
    """

    scores: Doubles
    values: Doubles

    def __call__(self, given: npt.ArrayLike) -> Doubles:
        """Scores of any shape -> values in float64; NaN stays NaN."""
        return np.asarray(np.interp(np.asarray(given, np.float64), self.scores, self.values))

    @property
    def score_range(self) -> tuple[float, float]:
        """The least and the largest score that it was fitted to."""
        return float(self.scores[0]), float(self.scores[-1])

    @property
    def value_range(self) -> tuple[float, float]:
        """The least and the largest value that it gives."""
        return float(self.values[0]), float(self.values[-1])

    def thinned(self) -> StepMap:
        """The same map without knots inside of its level stretches."""
        same = self.values[1:] == self.values[:-1]
        is_inside = np.concatenate(([False], same[:-1] & same[1:], [False])) if len(self.values) > 1 else np.zeros(1, bool)
        return StepMap(self.scores[~is_inside], self.values[~is_inside])

    def least_reaching(self, value: float, *, is_strict: bool = False) -> float:
        """The smallest float32 score whose mapped value is at least `value`; -inf where all reach it, inf where none does.

        Args:
            value: compared as float32, like the mapped values.
            is_strict: the mapped value has to be above.
        """
        wanted = as_score(value)
        at = self._first(lambda mapped: bool(mapped > wanted) if is_strict else bool(mapped >= wanted))
        if at is None:
            return math.inf
        return -math.inf if at == self._keys()[0] else ordering.score_of(at)  # level below the first knot

    def largest_within(self, value: float) -> float:
        """The largest float32 score whose mapped value is at most `value`; inf where all are, -inf where none is."""
        wanted = as_score(value)
        at = self._first(lambda mapped: bool(mapped > wanted))
        if at is None:
            return math.inf  # level beyond the last knot
        return -math.inf if at == self._keys()[0] else ordering.score_of(at - 1)

    def _first(self, is_reached: Callable[[np.float32], bool]) -> int | None:
        """The first key of a score of the fitted range whose mapped value is reached, which no larger score undoes."""
        low, high = self._keys()
        if not is_reached(np.float32(self(ordering.score_of(high)))):
            return None
        while low < high:
            middle = (low + high) // 2
            if is_reached(np.float32(self(ordering.score_of(middle)))):
                high = middle
            else:
                low = middle + 1
        return low

    def _keys(self) -> tuple[int, int]:
        """The keys (`ordering.ordered_keys`) of the first and the last float32 of the fitted range."""
        least, most = self.score_range
        first, last = ordering.key_of(least), ordering.key_of(most)
        first += ordering.score_of(first) < least
        last -= ordering.score_of(last) > most
        return first, max(first, last)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What bounds of a mapped value go by: split conformal prediction (`train.calibrate.fit.conformal_margin`).

    Attributes:
        steps: a map that was fitted without the rows that it was measured on.
        residuals: (n,) float64, ascending: how far the truth of those rows was from it.
        groups: (n,) int64, from 0: the group of each residual; None: each row is one of its own.
    """

    steps: StepMap
    residuals: Doubles
    groups: npt.NDArray[np.int64] | None = None

    @property
    def num_groups(self) -> int:
        """Groups, or single rows, that the residuals are of."""
        return len(self.residuals) if self.groups is None else len(np.unique(self.groups))


@dataclass(frozen=True, kw_only=True)
class ScaleMap:
    """A map from the scale of one head onto another scale.

    Attributes:
        of: the head whose scores it takes.
        kind: what it gives: scores of a head, people's ratings, or percentiles.
        onto: the head whose scale it gives; None for others.
        method: how it was fitted.
        steps: the map.
        num_pictures: that it was fitted to.
        error: how far it is off on pictures that the fit has not seen, in units of the scale that it gives.
        bounds: what bounds go by; None where it has none.
        ends: of an isotonic map the `NUM_ENDS` lowest and highest of the scores that it was fitted to, ascending; else none.
        more: the rest of its record: what the error is, measures, why it was fitted so.
    """

    of: HeadKey
    kind: ScaleKind
    onto: HeadKey | None
    method: MapMethod
    steps: StepMap
    num_pictures: int
    error: float
    bounds: Bounds | None = None
    ends: tuple[Doubles, Doubles] = (_NONE, _NONE)
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scale(self) -> str:
        """The scale that it gives, as people write it."""
        return self.onto.short if self.onto is not None else self.kind

    @property
    def how(self) -> str:
        """What it rests on, in short: "isotonic, 10,000 pictures, error 0.21"."""
        return f"{self.method}, {self.num_pictures:,} pictures, {self._error_word} {self.error:.2g}"

    @property
    def _error_word(self) -> str:
        return "root Brier score" if self.more.get("is_chance") else "error"

    def num_beyond(self, score: float) -> int | None:
        """Fitted pictures at or beyond a score, on the side that has fewer of them; None for `NUM_ENDS` and more."""
        lowest, highest = self.ends
        counts = [int((highest >= score).sum())] if len(highest) else []
        counts += [int((lowest <= score).sum())] if len(lowest) else []
        return min(counts) if counts and min(counts) < NUM_ENDS else None

    def to_json(self, *, is_whole: bool = True) -> dict[str, Any]:
        """JSON-ready; not whole: without knots, residuals and ends."""
        record = {
            "of": self.of.to_json(),
            "onto": {"kind": self.kind, **(self.onto.to_json() if self.onto is not None else {})},
            "method": self.method,
            "num_pictures": self.num_pictures,
            "error": self.error,
            "score_range": list(self.steps.score_range),
            "value_range": list(self.steps.value_range),
            **self.more,
        }
        if not is_whole:
            return record
        bounds = None
        if self.bounds is not None:
            groups = None if self.bounds.groups is None else self.bounds.groups.tolist()
            bounds = {**_knots(self.bounds.steps), "residuals": self.bounds.residuals.tolist(), "groups": groups}
        return {**record, **_knots(self.steps), "bounds": bounds, "ends": [part.tolist() for part in self.ends]}


def _knots(steps: StepMap) -> dict[str, list[float]]:
    return {"scores": steps.scores.tolist(), "values": steps.values.tolist()}


def write_map(found: ScaleMap, path: str) -> None:
    """Write the file of a map, whole or not at all. Raises OutputError."""
    record = {"format": SCALE_MAP_FORMAT, "version": _VERSION, **found.to_json()}
    writing.write_bytes(path, records.sealed(record, indent=1))


_MOST_GROUPS = 1 << 53
_OWN_FIELDS = frozenset(
    {"format", "version", "of", "onto", "method", "num_pictures", "error", "score_range", "value_range", "scores", "values",
     "bounds", "ends"}
)  # fmt: skip


def read_map(path: str) -> ScaleMap:
    """The map in a file. Raises InputError, one line, for what is no whole map, and for one of an older version."""
    try:
        record = records.read(path)
        is_map, version = record.get("format") == SCALE_MAP_FORMAT, record.get("version")
        if is_map and type(version) is int and 0 < version < _VERSION:
            raise InputError(f"{path} was made by an older version; run beholder calibrate again, with --overwrite")
        if not is_map or version != _VERSION:
            raise records.DamagedRecordError(f"it is no {SCALE_MAP_FORMAT} of version {_VERSION}")
        return _parsed(record)
    except (records.DamagedRecordError, KeyError, TypeError, ValueError, OverflowError) as error:
        why = str(error) if isinstance(error, records.DamagedRecordError) else "a field of it is missing or of another kind"
        raise InputError(f"{path} is damaged: {why}; remove it, and run beholder calibrate again") from None


def _parsed(record: Mapping[str, Any]) -> ScaleMap:
    """A record as a map. Raises KeyError, TypeError, ValueError or DamagedRecordError."""
    of, onto, kind, method = record["of"], record["onto"], record["onto"]["kind"], record["method"]
    if kind not in SCALE_KINDS or method not in MAP_METHODS:
        raise ValueError(kind)
    bounds = record["bounds"]
    return ScaleMap(
        of=_head(of),
        kind=kind,
        onto=_head(onto) if kind == "head" else None,
        method=method,
        steps=_steps(record),
        num_pictures=records.whole_number(record["num_pictures"], "num_pictures"),
        error=float(record["error"]),
        bounds=None if bounds is None else _bounds(bounds),
        ends=_ends(record["ends"]),
        more={name: value for name, value in record.items() if name not in _OWN_FIELDS},
    )


def _bounds(given: Mapping[str, Any]) -> Bounds:
    residuals, groups = _numbers(given["residuals"]), None
    if given["groups"] is not None:
        numbers = _numbers(given["groups"])
        if numbers.shape != residuals.shape or (numbers < 0).any() or (numbers > _MOST_GROUPS).any():
            raise ValueError("groups")
        groups = numbers.astype(np.int64)
    return Bounds(steps=_steps(given), residuals=residuals, groups=groups)


def _ends(given: Any) -> tuple[Doubles, Doubles]:
    lowest, highest = given
    return _numbers(lowest), _numbers(highest)


def _head(given: Mapping[str, Any]) -> HeadKey:
    return HeadKey(name=str(given["name"]), hashes=tuple(map(str, given["hashes"])))


def _steps(given: Mapping[str, Any]) -> StepMap:
    scores, values = _numbers(given["scores"]), _numbers(given["values"])
    if scores.shape != values.shape or not scores.size or (np.diff(scores) <= 0).any() or (np.diff(values) < 0).any():
        raise ValueError("knots")
    return StepMap(scores, values)


def _numbers(given: Any) -> Doubles:
    found = np.asarray(given, np.float64)
    if found.ndim != 1 or not np.isfinite(found).all():
        raise ValueError("numbers")
    return found
