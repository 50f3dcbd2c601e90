"""Runs of the decode pool over URLs of a healthy server that answers in adverse order; none of their pictures may be lost.

The tests do a few. Many, with the figures of each and of all together:

    PYTHONPATH=src python tests/oracles/url_runs.py 100
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from beholder.sources.reader import PictureRef
from oracles.odd_decoders import pixels_of
from oracles.odd_pools import SIZE_PX, pool_of, run
from oracles.web import Answer, Server, running

NUM_URLS = 242
Delay = Callable[[int, int, random.Random], float]
ORDERS: dict[str, Delay] = {
    "at once": lambda at, of, rng: 0.0,
    "slow first": lambda at, of, rng: 0.4 if at < of // 10 else 0.0,
    "slow last": lambda at, of, rng: 0.4 if at >= of - of // 10 else 0.0,
    "first comes last": lambda at, of, rng: 1.5 if at == 0 else 0.0,
    "faster and faster": lambda at, of, rng: 0.2 * (1 - at / of),
    "slower and slower": lambda at, of, rng: 0.2 * at / of,
    "in turns": lambda at, of, rng: 0.06 * (at % 2),
    "one of sixteen slow": lambda at, of, rng: 0.5 if at % 16 == 0 else 0.0,
    "all but one of sixteen slow": lambda at, of, rng: 0.0 if at % 16 == 15 else 0.12,
    "reversed in groups": lambda at, of, rng: 0.015 * (15 - at % 16),
    "mixed": lambda at, of, rng: rng.choice([0.0, 0.0, 0.01, 0.05, 0.3]),
    "bursts": lambda at, of, rng: -0.25,
}
"""How long the server waits before it answers for picture `at` of `of`; negative: until a multiple of so many seconds."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run: pictures of the right pixels, the reasons of those that were rejected, seconds."""

    num_right: int
    rejects: Counter[str]
    wall_s: float


class Waiting(Server):
    """Gives `datas`[N] at /N, `delays`[N] seconds after it was asked; `num_asked`: requests so far."""

    def __init__(self, datas: list[bytes], delays: list[float]) -> None:
        super().__init__(_Late)
        self.datas, self.delays, self.num_asked = datas, delays, 0


class _Late(Answer):
    server: Waiting

    def answer(self, *, with_body: bool) -> None:
        number = int(self.name)
        self.server.num_asked += 1
        delay = self.server.delays[number]
        time.sleep(delay if delay >= 0 else -delay - time.monotonic() % -delay)
        data = self.server.datas[number]
        self.send(200, data if with_body else b"", promised=len(data), sized=number % 5 > 0)


def url_run(order: str, seed: int, *, num_urls: int = NUM_URLS, **options: Any) -> Outcome:
    """One run with two workers: a third of the pictures take as long to decode as a large photograph."""
    rng = random.Random(seed)
    datas = [b"sleep:%.3f:%d" % (rng.uniform(0.012, 0.03) if rng.random() < 0.3 else 0.0, at) for at in range(num_urls)]
    datas = [data + bytes(rng.choice([0, 0, 3000, 200_000])) for data in datas]
    delays = [ORDERS[order](at, num_urls, rng) for at in range(num_urls)]
    with running(Waiting(datas, delays)) as server, pool_of(2, **{"timeout_s": 20.0, "num_slots": 72, **options}) as pool:
        began = time.monotonic()
        found = run(pool, ((at, PictureRef(path=f"{server.url}/{at}")) for at in range(num_urls)))
        wall_s = time.monotonic() - began
    right = sum(
        isinstance(found[at], np.ndarray) and np.array_equal(found[at], pixels_of(data, SIZE_PX))
        for at, data in enumerate(datas)
    )
    return Outcome(right, Counter(str(result[0]) for result in found.values() if isinstance(result, tuple)), wall_s)


def main(num_runs: int) -> None:
    """Do so many runs, in all orders in turn, and tell what came of them."""
    rejects: Counter[str] = Counter()
    walls, num_right = [], 0
    for number in range(num_runs):
        order = list(ORDERS)[number % len(ORDERS)]
        outcome = url_run(order, number)
        rejects += outcome.rejects
        num_right += outcome.num_right
        walls.append(outcome.wall_s)
        what = f"{outcome.num_right:4} right {outcome.wall_s:6.1f} s {dict(outcome.rejects)}"
        print(f"{number + 1:4} {order:28} {what}", flush=True)
    print(
        f"{num_runs} runs of {NUM_URLS} URLs: {num_right} of {num_runs * NUM_URLS} pictures right, rejected {dict(rejects)}; "
        f"median {np.median(walls):.1f} s, longest {max(walls):.1f} s"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 12)
