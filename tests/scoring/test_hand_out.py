"""Handing out shards: to workers that are slow, die, or never come, played by threads."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beholder.errors import BeholderError
from beholder.notices import told_to
from beholder.scoring.hand_out import Died, Handle, HandOut, Workforce
from beholder.scoring.options import ScoreOptions
from beholder.scoring.protocol import Command, Done, Job, Opened, Progress, Ready
from beholder.scoring.score import plan
from beholder.scoring.shards import EarlierShard, ShardResult
from beholder.scoring.summary import ShardCounts

Act = Callable[["Played", int], None]


class Played(Handle):
    """A worker that does what a function says with each shard."""

    def __init__(self, force: Players, number: int) -> None:
        self.force, self.number, self.name = force, number, f"worker {number}"
        self.is_stopped = False

    def tell(self, command: Command) -> None:
        if isinstance(command, Job):
            self.force.said.put((self, Ready()))
        elif isinstance(command, int):
            self.force.handed[self.number].append(command)
            threading.Thread(target=self.force.act, args=(self, command), daemon=True).start()

    def stop(self) -> None:
        self.is_stopped = True

    def done(self, number: int) -> None:
        result = ShardResult(10, 10, 0)
        shard = EarlierShard(Path(), f"s{number}", {}, result, "", ())
        self.force.said.put((self, Progress({number: ShardCounts(5, 5, 0, 5)}, "decode")))
        self.force.said.put((self, Done(number, shard, None, ShardCounts(10, 10, 0, 10))))

    def dies(self, number: int, why: str = "told to", *, is_blameless: bool = False) -> None:
        self.force.said.put((self, Progress({number: ShardCounts(1, 1, 0, 1)}, "")))
        self.force.said.put((self, Died(why, is_blameless)))


class Players(Workforce):
    """Played workers; those of `absent` never come."""

    def __init__(self, num_workers: int, act: Act, absent: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.num_workers, self.act, self.absent = num_workers, act, absent
        self.handed: dict[int, list[int]] = {number: [] for number in range(num_workers)}
        self.is_closed = False

    def start(self, number: int, options: Any) -> Handle:
        worker = Played(self, number)
        if number not in self.absent:
            self.said.put((worker, Opened(None)))
        return worker

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def planned(tmp_path: Path, plain_head: Path) -> Any:
    """The plan of twenty shards of ten rows."""
    np.save(tmp_path / "e.npy", np.ones((200, 24), np.float32))
    options = ScoreOptions(
        sources=(str(tmp_path / "e.npy"),),
        out=str(tmp_path / "out"),
        heads=(str(plain_head),),
        shard_rows=10,
        space_check="off",
    )
    return plan(options)


def hand_out(planned: Any, force: Players) -> Counter[int]:
    """Each shard's number, as often as it was told to be done."""
    found: Counter[int] = Counter()
    step = planned.step
    job = Job(recipe=planned.recipe, folder="", fingerprint="", options={}, file_metadata={}, columns={})
    with HandOut(force) as hand:
        hand.do(step, job, list(step.shards), lambda shard, done, noted: found.update([shard.number]))
    assert force.is_closed
    return found


def test_a_shard_waits_for_nobody_who_never_comes(planned: Any) -> None:
    died: set[int] = set()

    def act(worker: Played, number: int) -> None:
        if number == 3 and not died:
            died.add(number)
            worker.dies(number)
        else:
            worker.done(number)

    found = hand_out(planned, Players(2, act, absent=frozenset({1})))
    assert found == Counter(range(20))
    assert (planned.step.tally.num_done, planned.step.tally.num_new) == (200, 200)


def test_everybody_gets_a_share(planned: Any) -> None:
    def act(worker: Played, number: int) -> None:
        time.sleep(0.02)
        worker.done(number)

    force = Players(2, act)
    assert hand_out(planned, force) == Counter(range(20))
    assert min(map(len, force.handed.values())) >= 6


def test_what_others_are_to_blame_for_counts_against_no_shard(planned: Any) -> None:
    deaths: Counter[int] = Counter()

    def act(worker: Played, number: int) -> None:
        if number == 5 and deaths[5] < 4:
            deaths[5] += 1
            worker.dies(number, is_blameless=True)
        else:
            worker.done(number)

    assert hand_out(planned, Players(2, act)) == Counter(range(20))


def test_a_place_where_all_die_is_left_to_the_others(planned: Any) -> None:
    def act(worker: Played, number: int) -> None:
        if worker.number == 0:
            worker.dies(number)
        else:
            time.sleep(0.05)
            worker.done(number)

    said: list[str] = []
    with told_to(said.append):
        assert hand_out(planned, Players(2, act)) == Counter(range(20))
    assert said[-1] == "worker 0: told to; 5 times in a row without a shard done, so it is left out"


def test_where_all_die_it_is_one_line(planned: Any) -> None:
    with pytest.raises(BeholderError, match="20 shards could not be done, over which 3 workers died"):
        hand_out(planned, Players(1, lambda worker, number: worker.dies(number)))
