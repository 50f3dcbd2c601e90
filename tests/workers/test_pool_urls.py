"""The decode pool over URLs: whatever the order in which a healthy server answers, every picture is made."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from beholder.sources.reader import PictureRef
from oracles.odd_pools import assert_right, pool_of, run
from oracles.tiers import mostly_slow
from oracles.url_runs import Waiting, url_run
from oracles.web import running


@pytest.mark.slow
@pytest.mark.parametrize("order", mostly_slow(["mixed", "at once", "slow first"], slow=0))
def test_no_picture_of_a_healthy_server_is_lost(order: str) -> None:
    """More orders, and many more runs: `oracles/url_runs.py`."""
    found = url_run(order, 1, num_urls=100, timeout_s=8.0)
    assert not found.rejects
    assert found.num_right == 100


@pytest.mark.slow
def test_a_worker_that_was_stopped_blames_no_server() -> None:
    """It is stopped, for longer than a picture may take, while it waits for answers that a server is about to give."""
    datas = [b"%d" % number for number in range(8)]
    with running(Waiting(datas, [0.3] * 8)) as server, pool_of(1, timeout_s=2.5) as pool:

        def stop() -> None:
            while server.num_asked < 8:
                time.sleep(0.01)
            (process_id,) = pool.process_ids
            os.kill(process_id, signal.SIGSTOP)
            time.sleep(3.5)
            os.kill(process_id, signal.SIGCONT)

        stopper = threading.Thread(target=stop, daemon=True)
        stopper.start()
        assert_right(run(pool, ((at, PictureRef(path=f"{server.url}/{at}")) for at in range(8))), datas)
        stopper.join()
        assert pool.stats.num_restarts == 0
