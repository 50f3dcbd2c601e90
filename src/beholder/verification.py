"""How right scores are: against published ones, and of fast settings against the exact one; options of `beholder verify`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from beholder.errors import BeholderError, InputError
from beholder.io import locations, storage, user_folders, writing
from beholder.models.catalog import DEFAULT_HEAD, DEFAULT_TOWER
from beholder.models.published import Threshold, read_threshold
from beholder.options import check_choices, option
from beholder.pixels.picture import DECODERS, PRESETS, Decoder, PictureError, Preset
from beholder.scoring.options import PRECISION_CHOICES, PrecisionChoice
from beholder.sources.reader import PictureRef, SourceOptions

SAMPLE_PICTURES = 200
_DRIFT_ONLY = {
    "head": "--head", "decoder": "--decoder", "preset": "--preset", "sample": "--draw", "min_score": "--min-score",
    "picture_column": "--picture-column",
}  # fmt: skip
"""Fields that mean nothing for published scores, which have their own pictures, heads and pixels."""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """What is compared with what; None: not given. `sources`: the user's pictures, or one result; none with `golden`."""

    sources: tuple[str, ...] = ()
    golden: bool = option(False, "Compare with published scores of public pictures.")
    pictures: str | None = option(
        None, "With --golden: a folder with those pictures, under any names; then none is downloaded."
    )
    sample: int | None = option(
        None, "How many of your pictures to take, evenly spread.", shown=str(SAMPLE_PICTURES), least=1, flag=("--draw",),
        old=("--sample",),
    )  # fmt: skip
    picture_column: str | None = option(None, "Column with paths, URLs or bytes of pictures.", shown="found by looking")
    head: str | None = option(None, "The head.", shown=DEFAULT_HEAD)
    backbone: str | None = option(None, "The image tower.", shown=DEFAULT_TOWER)
    precision: PrecisionChoice | None = option(
        None, "The setting to compare with fp32.", choices=PRECISION_CHOICES, shown="auto; with --golden fp32"
    )
    decoder: Decoder | None = option(None, "The decoder to compare with pillow.", choices=DECODERS, shown="pillow")
    preset: Preset | None = option(None, "The pixels to compare with reference.", choices=PRESETS, shown="reference")
    min_score: tuple[str, ...] = option(
        (),
        "Count pictures that change sides at this score: a number, or a landmark such as sd-v1 (repeatable).",
        shown="4.5, 5, 5.5, 6, 6.5",
        old=("--threshold",),
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps.")
    offline: bool | None = option(None, "Never use the network.")

    def __post_init__(self) -> None:
        """Refuse what cannot be done, and what would have no effect, before anything is loaded. Raises InputError."""
        if self.golden == bool(self.sources):
            both = ", not both" if self.golden else ""
            raise InputError(f"name pictures, or what a run wrote, or use --golden for the published scores{both}")
        if self.pictures is not None and not self.golden:
            raise InputError("--pictures goes with --golden; name your own pictures without it")
        if self.golden:
            why = "published scores have their own pictures, heads and pixels; leave out, or name pictures"
            self._refuse(_DRIFT_ONLY, f"with --golden: {why}")
        _ = self.thresholds
        if self.sample is not None and self.sample < 1:
            raise InputError("--draw must be at least 1")
        check_choices(self)

    def refuse_settings(self) -> None:
        """Raise InputError where something was given that means nothing for what a run wrote."""
        why = "which is what a run wrote: its files are read, and nothing is scored"
        self._refuse({**_DRIFT_ONLY, "backbone": "--backbone", "precision": "--precision"}, f"on {self.sources[0]}, {why}")

    def _refuse(self, flags: Mapping[str, str], why: str) -> None:
        """Raise InputError where any of these fields (name -> flag) was given."""
        idle = [flag for name, flag in flags.items() if getattr(self, name) not in (None, ())]
        if idle:
            raise InputError(f"{', '.join(idle)} {'has' if len(idle) == 1 else 'have'} no effect {why}")

    @property
    def thresholds(self) -> tuple[Threshold, ...]:
        """`min_score` as thresholds. Raises InputError."""
        return tuple(read_threshold(given) for given in self.min_score)

    @property
    def models(self) -> dict[str, Any]:
        """Keywords of `load_scorer` that both settings have in common."""
        named = {"head": self.head, "backbone": self.backbone}
        given = {name: value for name, value in named.items() if value is not None}
        return {**given, "device": self.device, "offline": self.offline}

    @property
    def setting(self) -> dict[str, Any]:
        """Keywords of `load_scorer` for the setting that is compared with the exact one."""
        return {
            "precision": self.precision or "auto",
            "decoder": self.decoder or "pillow",
            "preset": self.preset or "reference",
        }


@dataclass(frozen=True)
class Drift:
    """How far two settings are apart, in points of score; other - exact.

    Attributes:
        num_pictures: that were scored in both.
        bias: mean of the differences.
        mean, p95, largest: of their absolute values.
        moved: threshold (`Threshold.short`) -> pictures that it keeps in one setting only.
    """

    num_pictures: int
    bias: float
    mean: float
    p95: float
    largest: float
    moved: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def measure_drift(exact: npt.NDArray[np.float32], other: npt.NDArray[np.float32], thresholds: Sequence[Threshold]) -> Drift:
    """Compare (N,) scores with (N,) scores; pictures with NaN in either are left out. Raises InputError when none is left."""
    import numpy as np

    exact, other = exact.astype(np.float64), other.astype(np.float64)
    both = np.isfinite(exact) & np.isfinite(other)
    if not both.any():
        raise InputError("none of these pictures could be scored in both settings")
    exact, other = exact[both], other[both]
    difference = other - exact
    size = np.abs(difference)
    moved = {one.short: int((_keeps(one, exact) != _keeps(one, other)).sum()) for one in thresholds}
    return Drift(
        int(both.sum()), float(difference.mean()), float(size.mean()), float(np.quantile(size, 0.95)), float(size.max()), moved
    )


def _keeps(threshold: Threshold, scores: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.bool_]:
    """Which of the (N,) scores stay."""
    from beholder.scoreset.score_set import as_score

    value = as_score(threshold.value)
    return scores > value if threshold.is_strict else scores >= value


def sample_pictures(sources: Sequence[str], most: int, picture_column: str | None = None) -> list[PictureRef]:
    """Up to `most` pictures, evenly spread over everything that `sources` name; the same ones every time.

    Of a tar whose length only reading it through can tell (up to 1 GiB, packed or remote), the first ones are taken.

    Args:
        sources: as `beholder score` takes pictures.
        most: how many.
        picture_column: of tables: the column with paths, URLs or bytes; None: found by looking.

    Raises:
        InputError: there are none, or the sources are no pictures.
    """
    from beholder.sources.find import find_only_pictures
    from beholder.sources.sampling import sample_refs

    options = SourceOptions(columns=(), picture_column=picture_column, block_rows=min(256, most))
    return list(sample_refs(find_only_pictures(sources, options), most, options))


def picture_bytes(refs: Sequence[PictureRef]) -> Iterator[bytes]:
    """The bytes of pictures, read one by one; none for those that cannot be read (no bytes are no picture to any decoder)."""
    from beholder.sources.fetch import ReadLimits, read_bytes

    for ref in refs:
        try:
            yield read_bytes(ref, ReadLimits())
        except PictureError:
            yield b""


if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from beholder.models.heads import Head
    from beholder.scoring.scorer import Scorer

Verdict = Literal["agrees", "differs", "not checked"]
HASH_DIGITS = 16
"""How much of a picture's sha256 is known."""
_MOST_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class GoldenRow:
    """One published score.

    Attributes:
        picture: file name.
        head: name in the registry.
        published: the score.
        tolerance: how far another right implementation may be from it, with `reason`.
        reason: why so far.
        sha256: first 16 digits of the file's hash; "" where it was not published: then only `url` gives the picture, and
            a difference may be the picture's.
        url: where the picture is published; "" where only a folder can give it.
        source: who published the score.
    """

    picture: str
    head: str
    published: float
    tolerance: float
    reason: str
    sha256: str = ""
    url: str = ""
    source: str


@dataclass(frozen=True)
class GoldenResult:
    """What became of a row: `ours` and `difference` (ours - published) are None where it was not checked."""

    row: GoldenRow
    ours: float | None
    verdict: Verdict
    message: str = ""

    @property
    def difference(self) -> float | None:
        """Ours minus the published score."""
        return None if self.ours is None else self.ours - self.row.published

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        row = asdict(self.row)
        return {**row, "ours": self.ours, "difference": self.difference, "verdict": self.verdict, "message": self.message}


V2, V2_AVA, V2_RELU = "sac+logos+ava1-l14-linearMSE", "ava+logos-l14-linearMSE", "ava+logos-l14-reluMSE"
V1_L14, V1_B16, V1_B32 = (f"sa_0_4_vit_{kind}_linear" for kind in ("l_14", "b_16", "b_32"))

_FLOAT32 = "float32 on a CPU with Pillow's pixels; what is left is the JPEG decoder, and summation order"
_UNSTATED = "published with 4 digits of a tenth, of an unstated version of the pixels; right ones differ by 0.02 (field study)"
_FOREIGN = "the picture's hash was not published, so it may have been changed where it lies"


def _row(repository: str, path: str, part: str, head: str, published: float, sha256: str, loosely: bool = False) -> GoldenRow:
    """A picture in a repository, whose tests or examples (`part`) have its score."""
    tolerance, reason = (0.02, _UNSTATED) if loosely else (0.005, _FLOAT32)
    return GoldenRow(
        picture=path.rsplit("/", 1)[-1], head=head, published=published, tolerance=tolerance, reason=reason, sha256=sha256,
        url=f"https://raw.githubusercontent.com/{repository}/HEAD/{path}", source=f"{repository}, {part}",
    )  # fmt: skip


_SHUNK, _JUICER, _ELDA = "shunk031/simple-aesthetics-predictor", "modelscope/data-juicer", "elda27/aesthetic-predictor"
_ASTRONAUT = (_SHUNK, "assets/a-photo-of-an-astronaut-riding-a-horse.png", "tests")
_CAT = "lovely-cat-as-domestic-animal-view-pictures-182393057.jpg"
_CC0 = {
    "beautiful-red-rose": (6.536710, "692be43636c8fceb"),
    "matterhorn": (6.891597, "7f950f9b9365098d"),
    "peacock": (5.389231, "7f503a3eb92a5a71"),
    "random_image": (1.897435, "8d4c74e21e812e9f"),
    "StockSnap_MCQZDECWU5": (6.713892, "4d56658aa857ce52"),
    "tennis_player": (7.259356, "49d3c0e4ce702f76"),
    "test_image": (6.889888, "50ad65f6ac06a149"),
}
GOLDEN: tuple[GoldenRow, ...] = (
    *(
        _row(*_ASTRONAUT, head, score, "59e7267a6e55a65c")
        for head, score in ((V2, 5.7546), (V2_AVA, 5.6563), (V2_RELU, 5.3372))
    ),
    _row(_JUICER, "tests/ops/data/cat.jpg", "tests/ops", V2, 4.382, "dea9e7ef97386345", loosely=True),
    _row(_JUICER, "tests/ops/data/blip.jpg", "tests/ops", V2, 5.973, "9eeaa87013b4e800", loosely=True),
    _row(_JUICER, "tests/ops/data/lena-face.jpg", "tests/ops", V2, 5.216, "e8ecb06aa09a2dbd", loosely=True),
    *(_row(_ELDA, f"examples/cc0/{name}.jpg", "examples/scores.html", V1_L14, *said) for name, said in _CC0.items()),
    *(
        GoldenRow(picture=_CAT, head=head, published=score, tolerance=0.005, reason=_FOREIGN,
                  url=f"https://thumbs.dreamstime.com/b/{_CAT}", source=f"{_SHUNK}, tests")
        for head, score in ((V1_L14, 5.0491), (V1_B16, 4.3533), (V1_B32, 4.4723))
    ),
)  # fmt: skip
"""Scores published with enough about how they were made. Left out: means over video frames, pictures that are not public,
and rows whose pictures exist only as links to the web (COYO, LAION's sets)."""


class GoldenPictures:
    """Where the pictures come from: a folder, whatever they are called there, else their URLs, by way of the cache.

    Args:
        folder: a folder with some of them, found by their hashes; then nothing is downloaded.
        offline: never use the network; None: as the environment says.
    """

    def __init__(self, folder: str | None = None, *, offline: bool | None = None) -> None:
        from beholder.models.download import is_offline

        self._offline = is_offline(offline)
        self._known = None if folder is None else _hashes(folder)
        self._folder = folder

    def find(self, row: GoldenRow) -> Path:
        """A local file with the row's picture. Raises BeholderError that says why there is none."""
        from beholder.models.transfer import UnavailableError, get_large

        if self._known is not None:
            if not row.sha256:
                raise InputError("its hash was not published, so it cannot be found in a folder")
            path = self._known.get(row.sha256)
            if path is None:
                raise InputError(f"no file in {self._folder} has a sha256 that begins with {row.sha256}")
            return path
        name = hashlib.sha256(row.url.encode()).hexdigest()[:HASH_DIGITS]
        cached = user_folders.cache_folder() / "golden" / f"{name}-{row.picture}"
        if cached.is_file() and _fits(cached, row):
            return cached
        if not row.url:
            raise InputError("it is published nowhere; give a folder with --pictures")
        if self._offline:
            raise InputError("it was never fetched on this machine, and offline mode is on")
        with writing.write_whole(str(cached)) as temporary:
            try:
                get_large(row.url, temporary, row.picture, most_bytes=_MOST_BYTES)
            except UnavailableError as error:
                raise InputError(str(error)) from None
            if not _fits(temporary, row):
                found = storage.sha256_of(temporary)[:HASH_DIGITS]
                raise InputError(f"{row.url} gives another file (sha256 {found}..., expected {row.sha256}...)")
        return cached


def _hashes(folder: str) -> dict[str, Path]:
    """The files below a local folder, by the first digits of their sha256."""
    paths = [locations.local_path(file) for file in storage.list_files(folder)] if storage.is_folder(folder) else []
    if not locations.is_local(folder) or not paths:
        raise InputError(f"--pictures {folder}: no such local folder, or nothing in it")
    return {storage.sha256_of(path)[:HASH_DIGITS]: path for path in paths if path.stat().st_size <= _MOST_BYTES}


def _fits(path: Path, row: GoldenRow) -> bool:
    return not row.sha256 or storage.sha256_of(path).startswith(row.sha256)


def check_golden(
    score_picture: Callable[[str, Path], float],
    pictures: GoldenPictures,
    rows: Iterable[GoldenRow] = GOLDEN,
    *,
    on_result: Callable[[GoldenResult], None] = lambda result: None,
) -> list[GoldenResult]:
    """Score every picture that can be had, and compare.

    Args:
        score_picture: (name of the head, picture's file) -> score; asked only for pictures that are there.
        pictures: gives the files.
        rows: what to check.
        on_result: told each result as it comes.

    Returns:
        One result a row. A failure to get or to score a picture makes it "not checked", with the reason.
    """
    results = []
    for row in rows:
        try:
            ours = score_picture(row.head, pictures.find(row))
        except BeholderError as error:
            results.append(GoldenResult(row, None, "not checked", str(error)))
        else:
            agrees = abs(ours - row.published) <= row.tolerance  # False for NaN
            note = "" if agrees or row.sha256 else row.reason
            results.append(GoldenResult(row, ours, "agrees" if agrees else "differs", note))
        on_result(results[-1])
    return results


class GoldenScorer:
    """Scores pictures with heads by name, each on the tower that it was made for; every tower is loaded once, when needed.

    Args:
        backbone: stands in for OpenAI's L/14 (another file of it, say); None: the default tower.
        precision, device, offline: see `beholder.load_scorer`.
    """

    def __init__(
        self, backbone: str | None = None, *, precision: str = "fp32", device: str = "auto", offline: bool | None = None
    ) -> None:
        self._l14 = backbone
        self._setting: dict[str, Any] = {"precision": precision, "device": device, "offline": offline}
        self._scorers: dict[str | None, Scorer] = {}
        self._failures: dict[str | None, BeholderError] = {}
        self._embeddings: dict[tuple[str | None, Path], npt.NDArray[np.float32]] = {}

    def __call__(self, head_name: str, picture: Path) -> float:
        """The score of one picture. Raises BeholderError."""
        from beholder.models.catalog import DEFAULT_HEAD, find
        from beholder.models.heads import load_head

        head = load_head(head_name, offline=self._setting["offline"])
        default = find(DEFAULT_HEAD)
        is_l14 = head.backbone is None or (default is not None and head.backbone == default.backbone)
        place = self._l14 if is_l14 else head.backbone
        if (place, picture) not in self._embeddings:
            self._embeddings[place, picture] = self._scorer(place, head).embed(picture)
        return float(head.score(self._embeddings[place, picture]))

    def _scorer(self, place: str | None, head: Head) -> Scorer:
        from beholder.scoring.scorer import load_scorer

        if place in self._failures:
            raise self._failures[place]
        if place not in self._scorers:
            named: dict[str, Any] = {} if place is None else {"backbone": place}
            try:
                self._scorers[place] = load_scorer(head=head, **named, **self._setting)
            except BeholderError as error:
                self._failures[place] = error
                raise
        return self._scorers[place]


def golden_failure(results: Sequence[GoldenResult]) -> str | None:
    """Why the check as a whole failed, in one line; None: something was checked, and all of it agrees.

    A difference on a picture whose hash is not known is reported, but fails nothing; nor does such a picture make a success.
    """
    known = [result for result in results if result.row.sha256]
    wrong = [result for result in known if result.verdict == "differs"]
    if wrong:
        names = ", ".join(f"{result.row.picture} ({result.row.head})" for result in wrong)
        return f"{len(wrong)} of {len(known)} published scores are not reproduced: {names}"
    if not any(result.verdict == "agrees" for result in known):
        why = next((result.message for result in known if result.message), "there are no rows")
        return f"no published score could be checked; the first reason: {why}"
    return None
