"""Damage at rest to what runs wrote: `beholder verify` finds it, and the same command mends it or is refused in one line."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from beholder.scoring.check import check_result
from beholder.scoring.score import score
from oracles.bucket_jobs import make_photos
from oracles.damaged_runs import DAMAGES, Case, Seen, damage_and_run, make_cases
from oracles.fault_table import FaultTable
from oracles.picture_jobs import score_options
from oracles.tiers import sizes


def inject(cases: list[Case], scratch: Path, table: FaultTable, num: int, seed: int) -> list[Seen]:
    """Every kind of damage `num` times, to the cases in turn; fails with what was wrong, and what was not told."""
    rng, turn, seen = random.Random(seed), itertools.cycle(cases), []
    for damage in DAMAGES:
        some = [damage_and_run(next(turn), damage, scratch, rng, is_silent=bool(number % 2)) for number in range(num)]
        kinds = Counter(one.kind for one in some)
        wrong: dict[str, list[str]] = defaultdict(list)
        for one in some:
            wrong[one.kind] += [one.text] if one.outcome == "wrong" or not one.is_told else []
        print({kind: texts for kind, texts in wrong.items() if texts})  # which pytest shows where something is
        assert len(kinds) > 1
        table.record(f"results at rest: {damage}", injected=num, lost=0, doubled=0, wrong=sum(map(len, wrong.values())))
        seen += some
    return seen


def test_damage_to_scores_is_found_and_mended_or_refused(tmp_path: Path, fault_table: FaultTable) -> None:
    seen = inject(make_cases(tmp_path, with_pictures=False), tmp_path / "scratch", fault_table, 4, seed=7)
    assert {"done again", "refused"} <= {one.outcome for one in seen}


@sizes("slow", "soak")
def test_damage_to_any_result_is_found_and_mended_or_refused(tmp_path: Path, fault_table: FaultTable, num_faults: int) -> None:
    """Embeddings, and scores with the embeddings kept, too."""
    inject(make_cases(tmp_path), tmp_path / "scratch", fault_table, max(8, num_faults), seed=8)


@pytest.mark.parametrize("damage", ["deleted", "emptied", "bit flipped"])
def test_a_damaged_stamp_of_kept_embeddings_is_written_again(
    tmp_path: Path, small_tower: Path, plain_head: Path, fault_table: FaultTable, damage: str
) -> None:
    options = score_options(
        (str(make_photos(tmp_path / "in", 4)),), tmp_path / "out", small_tower, plain_head, shard_rows=2, keep_embeddings=True
    )
    score(options)
    stamp = tmp_path / "out" / "embeddings" / "beholder.json"
    whole = stamp.read_bytes()
    DAMAGES[damage](stamp, [stamp], random.Random(0))
    (finding,) = check_result(str(tmp_path / "out")).findings
    assert (finding.file, finding.mend) == (str(stamp), "run the same command again, which writes it anew")
    assert score(options).num_new == 0
    assert check_result(str(tmp_path / "out")).is_whole
    wrong = int(stamp.read_bytes() != whole)
    fault_table.record(f"results at rest: {damage}", injected=1, lost=0, doubled=0, wrong=wrong)
