"""Jobs on pictures: their plan, and the step that embeds them.

Decode workers, the device and the writer of the last shard work side by side; batches are filled across files and shards.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder import columns
from beholder.columns import EmbeddingFormat
from beholder.engine import MAX_DRIFT, PRECISIONS
from beholder.errors import BeholderError, InputError
from beholder.io.schemas import merge_remarks
from beholder.io.storage import is_local, local_path
from beholder.models.heads import Head, load_head
from beholder.notices import doing
from beholder.pixels.picture import PixelOptions, Trait
from beholder.scoring.execute import Plan
from beholder.scoring.files import WriteOptions
from beholder.scoring.messages import Recipe
from beholder.scoring.options import EmbedOptions, ScoreOptions, source_options
from beholder.scoring.output import EMBEDDINGS, RunOutput
from beholder.scoring.pictures_shard import (
    EarlierRows,
    EmbeddedShard,
    Noted,
    PictureProduct,
    PictureRow,
    has_inputs,
    packed_path,
    packed_state,
    states_of,
)
from beholder.scoring.run import Step
from beholder.scoring.shards import KEPT_FROM, Changes, EarlierShard, Shard, ShardResult, kept_shard, plan_shards
from beholder.scoring.summary import SETTLED_BY, PartSize, RunSummary, StageClock, Tally
from beholder.scoring.tower import OpenTower, Options, TowerFacts, num_cores, open_engine, pixels_for
from beholder.sources.find import find_only_pictures
from beholder.sources.folder import sizes_and_times
from beholder.sources.labels import picture_labels_schema
from beholder.sources.reader import PictureBlock, PicturePart, PictureRef, SourceOptions, contents_digest, picture_reader
from beholder.sources.sampling import count_traits
from beholder.workers.pool import DecodePool, Outcome

if TYPE_CHECKING:
    from beholder.engine.engine import Engine

_CPU_SHARD_PICTURES, _DEVICE_SHARD_PICTURES = 512, 8192
_MOST_SOURCES = 1000
"""Of more sources (every file of a folder by the shell) no list is kept in the record; their samples are their paths."""


def plan_scores(
    options: ScoreOptions, out: str, *, parts: Sequence[PicturePart] | None = None, open_tower: OpenTower | None = None
) -> Plan:
    """The plan of `beholder score PICTURES`, of `parts` where the sources have been looked into already.

    Raises BeholderError; nothing has been written by then.
    """
    return _plan(options, out, parts, open_tower)


def plan_embeddings(
    options: EmbedOptions, out: str, *, parts: Sequence[PicturePart] | None = None, open_tower: OpenTower | None = None
) -> Plan:
    """The plan of `beholder embed`, of `parts` where the sources have been looked into already.

    Raises BeholderError; nothing has been written by then.
    """
    return _plan(options, out, parts, open_tower)


def _plan(options: Options, out: str, known: Sequence[PicturePart] | None, open_tower: OpenTower | None) -> Plan:
    heads, keep = heads_of(options), _what_is_kept(options, out)
    source = source_options(options)
    with doing("looking at the sources"):
        parts = find_only_pictures(options.sources, source) if known is None else list(known)
    output = _output_of(options, out)
    inputs = [part.path for part in parts]
    output.refuse_inputs(inputs)
    if not options.overwrite:
        output.check_place()
    with doing("loading the tower"):
        tower, engine = (open_tower or open_engine)(_settled(options, output), heads)
    options = replace(options, compile=bool(tower.engine["compiled"]))
    pixels = pixels_for(options, tower)
    summary = RunSummary(
        output=out,
        unit="pictures",
        verb="score" if heads else "embed",
        head_names=[head.name for head in heads],
        head_notes=[head.doubt for head in heads],
        warnings=list(tower.warnings),
        notes=_notes(tower, pixels, parts) + _preset_notes(options, pixels, parts),
        preset=pixels.preset,
        embeddings=output.kept_embeddings if keep is not None and heads else None,
        num_ignored=sum(part.num_ignored for part in parts),
        check_seconds=tower.check_seconds,
    )
    step = picture_step(options, out, parts, tower, engine)
    recipe = Recipe(options=options, out=out, parts=parts, tower=tower)
    return Plan(step=step, out=output, sources=options.sources, inputs=inputs, summary=summary, recipe=recipe)


def picture_step(
    options: Options, out: str, parts: Sequence[PicturePart], tower: TowerFacts, engine: Engine | None
) -> PictureStep:
    """The step of a job on pictures; without an engine it can be planned, not computed. Raises InputError."""
    heads, keep = heads_of(options), _what_is_kept(options, out)
    pixels = pixels_for(options, tower)
    beside = {columns.KEPT_BESIDE: PurePosixPath(out).name} if heads and keep is not None else {}
    stamp = beside | stamp_of(tower, pixels, keep, hidden=getattr(options, "hidden", False))
    stamp[columns.PICTURES] = _where(options)
    product = PictureProduct(
        stamp,
        heads=heads,
        as_csv=_output_of(options, out).kind == "csv" and bool(heads),
        keep=keep,
        keep_folder=columns.EMBEDDINGS_FOLDER if heads else "",
        dim=tower.dim,
        num_threads=options.num_threads,
    )
    return PictureStep(
        parts,
        engine,
        product,
        pixels=pixels,
        source=source_options(options),
        num_workers=_num_workers(options, tower.device_type),
        timeout_s=options.timeout_s,
        shard_rows=options.shard_rows or (_CPU_SHARD_PICTURES if tower.device_type == "cpu" else _DEVICE_SHARD_PICTURES),
        record=_deciding(tower, pixels),
    )


def _output_of(options: Options, out: str) -> RunOutput:
    return RunOutput(out) if isinstance(options, ScoreOptions) else RunOutput(out, EMBEDDINGS)


def heads_of(options: Options) -> list[Head]:
    """The heads to score with; none embeds."""
    return [load_head(name, offline=options.offline) for name in getattr(options, "heads", ())]


def _what_is_kept(options: Options, out: str) -> WriteOptions | None:
    """How embeddings are written, None: not at all. Raises InputError for a format that `out` cannot have."""
    if isinstance(options, ScoreOptions):
        return WriteOptions() if options.keep_embeddings else None
    kind = RunOutput(out, EMBEDDINGS).kind
    by_kind: dict[str, EmbeddingFormat] = {"folder": "npy", "parquet": "parquet", "csv": "birder-csv"}
    wanted = options.format or by_kind[kind]
    fitting = {"folder": True, "parquet": wanted in ("parquet", "birder-parquet"), "csv": wanted == "birder-csv"}[kind]
    if not fitting:
        raise InputError(f"--format {wanted} does not go into {out}; leave one of them out, or name a folder")
    is_birder = wanted.startswith("birder")
    if is_birder and (options.dtype == "float16" or options.normalise):
        raise InputError(f"{out}: birder's layouts hold float32 as the tower gives it; leave --dtype and --normalise out")
    return WriteOptions(
        format=wanted,
        dtype=options.dtype or ("float32" if is_birder else "float16"),
        normalise=not is_birder if options.normalise is None else options.normalise,
        is_bare=options.is_bare,
        folders=options.folders,
    )


def _settled(options: Options, output: RunOutput) -> Options:
    """With what "auto" and None stand for, as far as that is known before the device is.

    Where a run is continued, they are what it was begun with: another machine's check may choose another precision. Else the
    tower is compiled only where that is asked for.
    """
    before = {} if options.overwrite else output.earlier_options()
    recorded, was_compiled = before.get("--precision"), before.get("--compile")
    if options.precision == "auto" and recorded in PRECISIONS:
        options = replace(options, precision=recorded)
    if options.compile is None:
        options = replace(options, compile=was_compiled is True)
    return options


def stamp_of(tower: TowerFacts, pixels: PixelOptions, keep: WriteOptions | None, *, hidden: bool = False) -> dict[str, Any]:
    """JSON-ready: everything about how embeddings are made (`docs/formats.md`)."""
    from beholder import __version__

    backbone = tower.backbone or tower.name
    return {
        "format": columns.EMBEDDINGS_FORMAT,
        "version": columns.FORMAT_VERSION,
        "beholder": __version__,
        "backbone": f"{backbone} before its projection" if hidden else backbone,
        "weights_sha256": tower.sha256,
        "activation": tower.activation,
        "tower": dict(tower.description),
        "dim": tower.dim,
        "pixels": pixels.to_json(),
        "decoder": pixels.decoder,
        "precision": dict(tower.engine),
        **({} if keep is None else {"normalised": keep.normalise, "dtype": keep.dtype}),
        "software": {name: version(name) for name in ("torch", "pillow", "numpy")},
    }


def _where(options: Options) -> dict[str, Any]:
    """JSON-ready: where the pictures were found, so that they can be shown, copied or packed later."""
    few = len(options.sources) <= _MOST_SOURCES
    return {
        "sources": list(options.sources) if few else None,
        "folder": str(Path.cwd()),
        "sample_column": options.sample_column,
        "picture_column": options.picture_column,
    }


def _deciding(tower: TowerFacts, pixels: PixelOptions) -> Mapping[str, Any]:
    """What decides embeddings, in the words of the command line; a run with others is another run."""
    return {
        "--backbone": tower.backbone or tower.name,
        "tower sha256": tower.sha256,
        "--activation": tower.activation,
        "--preset": pixels.preset,
        "--decoder": pixels.decoder,
        "--max-pixels": pixels.max_pixels,
        "size and crop": [pixels.size_px, pixels.crop],
        "--precision": tower.precision,
        "device": tower.device_type,
        "--compile": bool(tower.engine["compiled"]),
        **({"--batch-size": tower.batch_size} if tower.device_type == "cpu" else {}),
        "pillow": version("pillow"),
        "dim": tower.dim,
        **({"preprocessing": pixels.transform} if pixels.transform else {}),
    }


def _num_workers(options: Options, device_type: str) -> int:
    """Decode processes: all cores beside a GPU; beside a CPU tower, which keeps all cores busy itself, half of them."""
    if options.workers is not None:
        return options.workers
    return max(1, num_cores() // 2) if device_type == "cpu" else num_cores()


_TRAIT_WORDS = {
    Trait.ROTATED: ("is turned by EXIF", "are turned by EXIF"),
    Trait.PALETTE: ("has a palette", "have a palette"),
    Trait.ALPHA: ("has an alpha channel", "have an alpha channel"),
    Trait.DEEP: ("has more than 8 bits", "have more than 8 bits"),
}


def _preset_notes(options: Options, pixels: PixelOptions, parts: Sequence[PicturePart]) -> list[str]:
    """A line on the pictures for which the preset matters, from the headers of some; none where the preset settles it."""
    if getattr(options, "is_bare", False):  # birder's own command, which has no presets
        return []
    matter = [trait for trait in _TRAIT_WORDS if str(trait.name).lower() not in SETTLED_BY[pixels.preset]]
    if not matter:
        return []
    with doing("looking at some pictures"):
        num_seen, counts = count_traits(parts)
    found = [f"{counts[trait]:,} {_TRAIT_WORDS[trait][counts[trait] > 1]}" for trait in matter if counts[trait]]
    if not found:
        return []
    verb = "scores" if isinstance(options, ScoreOptions) else "embeds"
    preset = "reference, the default," if pixels.preset == "reference" else pixels.preset
    return [
        f"of {num_seen:,} pictures looked at, {', '.join(found)}: --preset upright {verb} them as people see them; "
        f"{preset} {verb} them as stored"
    ]


def _notes(tower: TowerFacts, pixels: PixelOptions, parts: Sequence[PicturePart]) -> list[str]:
    """Lines that say what is done with what."""
    drift, check = tower.engine["drift"], tower.engine["self_check"]
    how = f"{tower.device}, {tower.precision}{', compiled' if tower.engine['compiled'] else ''}"
    if drift is not None and tower.precision != "fp32":
        how += f" (scores within {drift:.4f} of fp32 on the self-check)"
    batch = f"batches of {tower.batch_size}" if tower.batch_size else "batches as large as is fastest"
    where = "1 part" if len(parts) == 1 else f"{len(parts):,} parts"
    notes = [f"{tower.name} on {how}, {batch}; pixels: {pixels.preset}, {pixels.decoder}; {where}"]
    if check is not None and check.get("chosen") != check.get("chosen_for_tower"):
        usual = check["chosen_for_tower"]
        drift = check["drift"][usual]
        notes.append(f"{usual} would move the scores of these heads by {drift:.3f}, over {MAX_DRIFT}, so not used")
    return notes


DECODE_STAGE = "decode"
_LEAST_SLOTS = 64


class _Work(NamedTuple):
    """A picture on its way: its shard and number; what earlier runs found of it, should its contents be as they were."""

    target: EmbeddedShard
    at: int
    earlier: PictureRow | None = None
    is_new: bool = True


@dataclass(frozen=True)
class _Taken:
    """Pictures of a shard that are taken over from earlier runs."""

    target: EmbeddedShard
    rows: list[tuple[int, PictureRow]]


class PictureStep(Step):
    """Embeds pictures and writes what `product` wants of them.

    Args:
        parts: where the pictures are.
        engine: the tower on its device; None: for planning only.
        product: what is written: scores, embeddings, or both.
        pixels: which pixels are wanted.
        source: how sources are read.
        num_workers: decode processes; 0 decodes in this one.
        timeout_s: seconds for one picture.
        shard_rows: most pictures of a shard (a tar is always one).
        record: JSON-ready: tower, pixels, precision: what decides embeddings.
    """

    def __init__(
        self,
        parts: Sequence[PicturePart],
        engine: Engine | None,
        product: PictureProduct,
        *,
        pixels: PixelOptions,
        source: SourceOptions,
        num_workers: int,
        timeout_s: float,
        shard_rows: int,
        record: Mapping[str, Any],
    ) -> None:
        self.parts, self.engine, self.product, self.pixels = list(parts), engine, product, pixels
        self._source, self._num_workers, self._timeout_s = source, num_workers, timeout_s
        self.shards = plan_shards(self.parts, _identity, shard_rows)
        self.product.use_columns(picture_labels_schema(self.parts, source))
        self.schema, self.provenance, self.file_metadata = product.schema, product.provenance, product.file_metadata
        self.models = [record["tower sha256"], *product.models]
        self.options = {
            **record,
            **product.options,
            "--column": list(source.columns),
            "--sample-column": source.sample_column,
            "--picture-column": source.picture_column,
            "--shard-rows": shard_rows,
        }
        self.names_files = any(part.kind == "table" for part in self.parts)
        self._by_name = {part.name: part for part in self.parts}
        self.tally = Tally(self.shards, [_size(part) for part in self.parts])
        self._clock = StageClock("decode", "tower")
        self._pool: DecodePool | None = None
        self._kept_open: contextlib.ExitStack | None = None
        self._slower_half = "decode"
        self._is_remote = False
        self._earlier: EarlierRows | None = None
        self._keeps = False

    def use_columns(self, recorded: Mapping[str, Any] | None) -> None:
        """Take over the columns of a run that is continued."""
        super().use_columns(recorded)
        self.product.schema = self.schema

    @property
    def beside(self) -> Mapping[str, Mapping[str, Any]]:
        """The stamp of embeddings that are kept beside scores."""
        return self.product.beside

    @property
    def stages(self) -> StageClock:
        """Where the time of this run went."""
        return self._clock

    def waiting_for(self) -> str:
        """The stage that the device has lately waited for, or "tower" when it is busy; "" at first.

        "read" (sources and pictures), "network" (the same, where they are on servers), or "decode".
        """
        if self.asked_elsewhere is not None:
            return self.asked_elsewhere()
        stage, pool = self._clock.slowest(), self._pool
        if stage == "decode":
            stage = self._slower_half if pool is None else pool.stats.slowest
        if stage == "read" and self._is_remote:
            return "network"
        return stage

    @contextlib.contextmanager
    def staying_open(self) -> Iterator[None]:
        """Keep the decode workers from one `compute_each` to the next."""
        with contextlib.ExitStack() as self._kept_open:
            yield
        self._kept_open = self._pool = None

    def compute_each(self, shards: Iterable[Shard]) -> Generator[tuple[Shard, EmbeddedShard], None, None]:
        """Read, decode and embed the pictures of `shards`; the device goes on to the next shard without a pause.

        When a source fails, the shards before it are finished first.
        """
        assert self.engine is not None, "a step that was made for planning cannot compute"
        failed: BeholderError | None = None
        opened: deque[EmbeddedShard] = deque()
        with contextlib.ExitStack() as stack:
            pool = self._pool if self._kept_open is not None else None
            if pool is None:
                pool = (self._kept_open or stack).enter_context(self._new_pool(self.engine))
            self._pool = pool
            batches = _Batches(self.engine, pool, self.product, self._clock)
            groups = pool.map_groups(self._work(shards, opened))
            with contextlib.closing(groups):  # type: ignore[type-var]
                while True:
                    group = None
                    try:
                        with self._clock.measure("decode"):
                            group = next(groups, None)
                    except BeholderError as error:
                        failed = error
                    if group is None:
                        break
                    for (target, kind), outcomes in groupby(group, _kind_of):
                        if kind == _KNOWN:
                            self._take_known(target, list(outcomes))
                        else:
                            self._take_new(target, list(outcomes), batches, are_new=kind == _NEW)
                    yield from _completed(opened)
            self.tally.end()
            batches.finish()
            yield from _completed(opened)
            self._slower_half = pool.stats.slowest
            if self._kept_open is None:
                self._pool = None
        if failed is not None:
            raise failed
        assert not opened, "a shard was not completed"

    def _new_pool(self, engine: Engine) -> DecodePool:
        slots = max(_LEAST_SLOTS, 2 * engine.call_size) + 4 * self._num_workers
        return DecodePool(
            self.pixels,
            num_workers=self._num_workers,
            timeout_s=self._timeout_s,
            num_slots=slots,
            stands_back=engine.device.type != "cpu",  # beside a tower on the same cores time limits would be tighter
        )

    def _take_new(self, target: EmbeddedShard, outcomes: list[Outcome], batches: _Batches, *, are_new: bool) -> None:
        """Pictures of a shard that were decoded, or could not be."""
        sizes = [outcome.reply.num_bytes for outcome in outcomes]
        good: list[Outcome] = []
        rows: list[PictureRow] = []
        for outcome in outcomes:
            work: _Work = outcome.tag
            row, reply = target.rows[work.at], outcome.reply
            target.noted.num_changed += work.earlier is not None
            row.digest = reply.digest
            if reply.reason is not None:
                row.reject = (DECODE_STAGE, str(reply.reason), reply.message)
                continue
            row.width, row.height, row.traits, row.num_bytes = reply.width, reply.height, _traits(reply.traits), reply.num_bytes
            good.append(outcome)
            rows.append(row)
        num_rejected = len(outcomes) - len(good)
        self.tally.add(target.shard, len(outcomes), sum(sizes), num_rejected, are_new=are_new, each=sizes)
        target.num_done += num_rejected
        batches.add(target, rows, good)

    def _take_known(self, target: EmbeddedShard, outcomes: list[Outcome]) -> None:
        """Pictures of a shard whose files, or contents, are as they were."""
        for outcome in outcomes:
            tag: _Work | _Taken = outcome.tag
            if isinstance(tag, _Taken):
                self._take_over(target, tag.rows)
            else:
                assert tag.earlier is not None
                self._take_over(target, [(tag.at, tag.earlier)])

    def _take_over(self, target: EmbeddedShard, rows: Sequence[tuple[int, PictureRow]]) -> None:
        """Pictures of a shard of which earlier runs found all there is to know."""
        self.tally.add(target.shard, len(rows), 0, sum(found.reject is not None for _, found in rows), are_new=False)
        for at, found in rows:
            target.take_over(at, found)

    def is_current(self, shard: EarlierShard) -> bool:
        """Whether the local files that a list or table names are as they were; of other parts the identity says so."""
        part = self._by_name.get(shard.identity.get("name", ""))
        if part is None or part.kind != "table" or not has_inputs(shard):
            return True
        paths, states, digests = states_of(shard)
        names = [(at, os.fsdecode(path)) for at, path in enumerate(paths) if path is not None]
        local = [(at, name) for at, name in names if is_local(name)]
        now = sizes_and_times([name for _, name in local])
        for (at, name), (size, stamp) in zip(local, now.tolist(), strict=True):
            if size != states[at, 0]:
                return False
            if stamp != states[at, 1] and (digests[at] is None or _digest_of(name) != digests[at]):
                return False
        return True

    def knows_any(self, earlier: Sequence[EarlierShard]) -> bool:
        """Whether a picture, or a part that is one file, of earlier runs is among the sources."""
        names = {part.name for part in self.parts if part.kind not in ("files", "table")}
        by_name = {shard.identity.get("name") for shard in earlier}
        if names & by_name:
            return True
        usable = [shard for shard in earlier if has_inputs(shard)]
        if len(usable) < len(earlier) and {part.name for part in self.parts} & by_name:
            return True
        known = EarlierRows(usable, self.product.read, retry=False)
        shards = [shard for shard in self.shards if self.parts[shard.part].kind in ("files", "table")]
        for shard, block in self._blocks(shards):
            if block is not None and known.holds_any(self._inputs(shard, block, 0)[0]):
                return True
        return False

    def can_redo(self, earlier: EarlierShard) -> bool:
        """Whether what was found of each of its pictures is known."""
        return has_inputs(earlier)

    def take_earlier(self, earlier: Sequence[EarlierShard], done: Sequence[EarlierShard], *, retry: bool) -> None:
        """Take over what earlier runs found of the pictures that have not changed."""
        usable = [shard for shard in earlier if has_inputs(shard)]
        self._earlier = EarlierRows(usable, self.product.read, retry=retry)
        for shard in done:
            if has_inputs(shard):
                self._earlier.note_present(states_of(shard)[0])

    def kept(self) -> Iterator[tuple[Shard, EmbeddedShard]]:
        """What earlier runs found of pictures that have vanished, as shards of their own."""
        self._keeps = True
        if self._earlier is None:
            return
        number = 0
        for at, (earlier, gone) in enumerate(self._earlier.vanished()):
            if not gone.any():
                continue
            shard = kept_shard(number, earlier, len(self.shards))
            number += 1
            labels = self.product.labels_of(earlier).filter(pa.array(gone))
            rows = [row for row, is_gone in zip(self._earlier.rows(at), gone, strict=True) if is_gone]
            yield shard, EmbeddedShard(shard, [labels], rows, num_rows=len(rows), num_done=len(rows))

    def changes(self) -> Changes:
        """How the pictures differ from those of earlier runs."""
        if self._earlier is None:
            return Changes()
        gone = [(shard, int(rows.sum())) for shard, rows in self._earlier.vanished()]
        num_vanished = sum(count for shard, count in gone if not (self._keeps and KEPT_FROM in shard.identity))
        return Changes(self._earlier.num_changed, num_vanished, self._earlier.num_retried)

    def noted(self, computed: EmbeddedShard) -> Noted:
        """What was seen of earlier runs' pictures on the way."""
        return computed.noted

    def note(self, noted: Noted) -> None:
        """Take in what was seen of earlier runs' pictures in a shard that is done."""
        if self._earlier is not None:
            self._earlier.note(noted)

    def _blocks(self, shards: Iterable[Shard]) -> Iterator[tuple[Shard, Any]]:
        """(shard, block) of all shards in order, and (shard, None) at the end of each; the pool reads it in a thread."""
        for shard in shards:
            part = self.parts[shard.part]
            self._is_remote = not is_local(part.path)
            for block in picture_reader(part.kind).blocks(part, shard.start, shard.stop, self._source):
                self._is_remote |= any(ref.path is not None and not is_local(ref.path) for ref in block.refs[:1])
                yield shard, block
            yield shard, None

    def _work(self, shards: Iterable[Shard], opened: deque[EmbeddedShard]) -> Iterator[list[tuple[_Work | _Taken, PictureRef]]]:
        """What is to be done for the shards, a block at a time, in order; each shard is added to `opened` when it begins."""
        current: EmbeddedShard | None = None
        row = 0
        for shard, block in self._blocks(shards):
            if current is None:
                current, row = EmbeddedShard(shard), 0
                opened.append(current)
            if block is None:
                current.num_rows, current = row, None
                continue
            assert len(block.refs) == block.labels.num_rows, "a source gave labels for other pictures"
            current.labels.append(block.labels)
            current.late += [block.late] if block.late is not None else []
            merge_remarks(current.remarks, block.remarks)
            paths, states = self._inputs(shard, block, row)
            current.rows += [PictureRow(path, *state) for path, state in zip(paths, states.tolist(), strict=True)]
            known = [None] * len(paths) if self._earlier is None else self._earlier.find(paths, states, current.noted)
            taken = [(at, one[0]) for at, one in enumerate(known, row) if one is not None and one[1]]
            group: list[tuple[_Work | _Taken, PictureRef]] = []
            if taken:
                group.append((_Taken(current, taken), PictureRef(is_done=True)))
            for at, (ref, path, one) in enumerate(zip(block.refs, paths, known, strict=True), row):
                found, is_same = one or (None, False)
                if is_same:
                    continue
                if found is not None:
                    ref = replace(ref, known=found.digest)
                group.append((_Work(current, at, found, path is not None or self._earlier is None), ref))
            row += len(paths)
            yield group

    def _inputs(self, shard: Shard, block: PictureBlock, first: int) -> tuple[Sequence[bytes | None], npt.NDArray[np.int64]]:
        """What names each picture of a block in later runs, and how its file looked: (N, 2) int64."""
        part = self.parts[shard.part]
        if part.kind in ("files", "table"):
            states = block.states
            if states is None:  # (a list has been read, not the files in it)
                states = np.zeros((len(block.refs), 2), np.int64)
                named = [at for at, ref in enumerate(block.refs) if ref.path is not None]
                states[named] = sizes_and_times([block.refs[at].path or "" for at in named])
            return [None if ref.path is None else os.fsencode(ref.path) for ref in block.refs], states
        name = part.name
        paths = [packed_path(name, shard.start + first + at) for at in range(len(block.refs))]
        return paths, np.full((len(paths), 2), packed_state(shard.identity), np.int64)

    def file_names(self, shard: Shard) -> Sequence[str]:
        """What the product may write of the shard."""
        return self.product.file_names(shard)

    def write(self, shard: Shard, computed: EmbeddedShard, folder: str) -> ShardResult:
        """Write what the product wants of the shard below `folder`."""
        return self.product.write(shard, computed, Path(folder))


def _digest_of(path: str) -> bytes | None:
    """The digest of a local file's contents; None where it cannot be read."""
    try:
        return contents_digest(local_path(path).read_bytes())
    except OSError:
        return None


_KNOWN, _AGAIN, _NEW = range(3)
"""Pictures that need not be decoded; those that were and count as done by an earlier run; all others."""


def _kind_of(outcome: Outcome) -> tuple[EmbeddedShard, int]:
    """The shard of a picture, and whether it is taken over."""
    tag: _Work | _Taken = outcome.tag
    if outcome.reply.are_known or isinstance(tag, _Taken):
        return tag.target, _KNOWN
    return tag.target, _NEW if tag.is_new else _AGAIN


@lru_cache(maxsize=256)
def _traits(bits: int) -> Trait:
    return Trait(bits)


def _completed(opened: deque[EmbeddedShard]) -> Iterator[tuple[Shard, EmbeddedShard]]:
    """Shards that are complete, in order."""
    while opened and opened[0].is_complete:
        done = opened.popleft()
        yield done.shard, done


_Owners = tuple[EmbeddedShard, list[PictureRow]]
"""Pictures of one shard that stand together in a batch."""


class _Batches:
    """Fills calls of the engine with pixels, and has the product finish the pictures with their embeddings.

    One call is under way while the next one fills, so there are two arrays of pixels, used in turn.
    """

    def __init__(self, engine: Engine, pool: DecodePool, product: PictureProduct, clock: StageClock) -> None:
        self._engine, self._pool, self._product, self._clock = engine, pool, product, clock
        self._spare: list[npt.NDArray[np.uint8]] = []
        self._filling = self._fresh()
        self._num_filled = 0
        self._owners: list[_Owners] = []
        self._running: deque[tuple[list[_Owners], npt.NDArray[np.uint8], Any]] = deque()

    def _fresh(self) -> npt.NDArray[np.uint8]:
        """An array of the size the engine wants now (it learns a better one, or runs out of memory)."""
        size, side = self._engine.call_size, self._engine.image_px
        found = self._spare.pop() if self._spare else None
        return found if found is not None and len(found) == size else np.empty((size, side, side, 3), np.uint8)

    def add(self, target: EmbeddedShard, rows: list[PictureRow], outcomes: list[Outcome]) -> None:
        """Take the pixels of pictures of a shard; whatever is a whole call is handed over."""
        start = 0
        while start < len(rows):
            at = self._num_filled
            stop = min(len(rows), start + len(self._filling) - at)
            self._num_filled += stop - start
            self._pool.take(outcomes[start:stop], self._filling[at : self._num_filled])
            self._owners.append((target, rows[start:stop]))
            if self._num_filled == len(self._filling):
                self._send()
            start = stop

    def finish(self) -> None:
        """Send what is left and wait for everything."""
        if self._owners:
            self._send()
        while self._running:
            self._receive()

    def _send(self) -> None:
        """Hand a call to the engine, and take the result of the one before, which ran meanwhile."""
        with self._clock.measure("tower"):
            handle = self._engine.submit(self._filling[: self._num_filled])
        self._running.append((self._owners, self._filling, handle))
        while len(self._running) > 1:
            self._receive()
        self._owners, self._filling, self._num_filled = [], self._fresh(), 0

    def _receive(self) -> None:
        owners, pixels, handle = self._running.popleft()
        with self._clock.measure("tower"):
            embeddings = self._engine.result(handle)
        self._spare = [pixels]
        self._product.finish([row for _, rows in owners for row in rows], embeddings)
        for target, rows in owners:  # a batch can belong to several shards
            target.num_done += len(rows)


def _size(part: PicturePart) -> PartSize:
    """How many pictures a part has, or what tells of it later."""
    return PartSize(num_rows=part.num_rows, num_bytes=part.num_bytes, is_plain=part.detail.get("is_plain", False))


def _identity(part: PicturePart) -> dict[str, Any]:
    """How a part is now; other contents give another one."""
    return {"name": part.name, "rows": part.num_rows, "bytes": part.num_bytes, **part.identity}
