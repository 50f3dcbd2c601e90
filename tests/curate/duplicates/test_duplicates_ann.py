"""Near-duplicates by faiss: few are missed, none is wrong; and clusters. Skipped where faiss is not installed."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from beholder.curate.duplicates import ann
from beholder.curate.duplicates.ann import cluster_rows
from beholder.curate.duplicates.exact import Search, choose_basis, keep_best
from beholder.curate.duplicates.groups import find_near_duplicates, near_references
from beholder.scoreset.vectors import Vectors
from oracles.duplicates import similarities
from oracles.tiers import mostly_slow

pytest.importorskip("faiss")


def directions(num_rows: int, dim: int, dtype: Any = np.float16) -> np.ndarray:
    """A large common mean, a spectrum that falls, and a tenth of the rows near-duplicates of others at 0.9 to 0.999."""
    rng = np.random.default_rng(num_rows)
    scale = np.arange(1, dim + 1) ** -0.5
    rows = rng.standard_normal((num_rows, dim)) * scale + 1.2 * rng.standard_normal(dim) * scale
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    copies = rng.permutation(num_rows)[: num_rows // 5].reshape(2, -1)
    cosine = 1 - 10 ** rng.uniform(-3, -1, (copies.shape[1], 1))
    aside = rng.standard_normal((copies.shape[1], dim)) * scale
    aside -= (aside * rows[copies[0]]).sum(axis=1, keepdims=True) * rows[copies[0]]
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    rows[copies[1]] = cosine * rows[copies[0]] + np.sqrt(1 - cosine**2) * aside
    return rows.astype(dtype)


@pytest.mark.parametrize("dtype", mostly_slow([np.float16, np.float32]))
@pytest.mark.parametrize("threshold", [0.9, 0.95])
def test_few_are_missed_and_none_is_wrong(dtype: Any, threshold: float) -> None:
    rows = directions(12_000, 64, dtype)
    given_vectors, order = Vectors.of(rows), np.arange(len(rows))
    exact = find_near_duplicates(given_vectors, order, threshold, method="exact")
    found = find_near_duplicates(given_vectors, order, threshold, method="approximate", num_threads=2)
    assert found.method == "approximate"
    assert (~exact.stays).sum() > 400
    assert (~found.stays & ~exact.stays).sum() >= 0.98 * (~exact.stays).sum()
    dropped = np.flatnonzero(~found.stays)
    assert found.stays[found.keeper[dropped]].all()
    assert (found.keeper[dropped] < dropped).all()
    for row in dropped[:50]:
        pair = similarities(rows[[row, found.keeper[row]]])[0, 1]
        assert pair >= threshold
        assert np.float32(pair) == found.similarity[row]


@pytest.mark.parametrize("num_rows", [1, 2, 39, 40, 41, 300])
def test_few_rows(num_rows: int) -> None:
    rows = directions(300, 24)[:num_rows]
    order = np.arange(num_rows)
    exact = find_near_duplicates(Vectors.of(rows), order, 0.9, method="exact")
    found = find_near_duplicates(Vectors.of(rows), order, 0.9, method="approximate")
    assert np.array_equal(found.keeper, exact.keeper)


def test_one_picture_many_times_and_rows_that_always_stay() -> None:
    rows = np.ones((9000, 32), np.float16)
    found = find_near_duplicates(Vectors.of(rows), np.arange(9000), 1.0, method="approximate", num_always=2)
    assert found.stays.nonzero()[0].tolist() == [0, 1]
    assert (found.keeper[2:] == 0).all()
    nothing = find_near_duplicates(Vectors.of(np.zeros((5, 8), np.float32)), np.arange(5), 0.9, method="approximate")
    assert nothing.stays.all()


def test_inside_groups_and_ended_early() -> None:
    """A group of each kind: one large enough for the index, and small ones, which are always compared pair by pair."""
    rows = directions(6000, 48)
    groups = np.where(np.arange(6000) % 3 > 0, 0, np.arange(6000) % 90)
    given_vectors, order = Vectors.of(rows), np.arange(6000)
    exact, found = (
        find_near_duplicates(given_vectors, order, 0.9, method=method, groups=groups) for method in ("exact", "approximate")
    )
    assert (exact.method, found.method) == ("exact", "approximate")
    small = groups > 0
    assert np.array_equal(found.keeper[small], exact.keeper[small])
    assert (groups[found.keeper] == groups).all()
    assert (~found.stays & ~exact.stays).sum() >= 0.98 * (~exact.stays).sum() > 0
    whole, part = (
        find_near_duplicates(given_vectors, order, 0.9, method="approximate", most_stays=most) for most in (None, 500)
    )
    num_decided = int((part.keeper >= 0).sum())
    assert 500 <= num_decided < 6000
    assert np.array_equal(part.keeper[:num_decided], whole.keeper[:num_decided])


def test_few_that_are_near_a_reference_are_missed_and_none_is_wrong() -> None:
    rows = directions(4000, 48)
    given_vectors = Vectors(Vectors.of(rows).matrix, np.arange(1500, 4000), 48, num_references=1500)
    order = np.random.default_rng(1).permutation(2500)
    (nearest, similarity), (indexed, _) = (
        near_references(given_vectors, order, 0.9, is_exact=is_exact, num_threads=2) for is_exact in (True, False)
    )
    exact, found = nearest >= 0, indexed >= 0
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    slow = (unit[1500:] @ unit[:1500].T)[order]
    assert np.array_equal(exact, (slow >= 0.9).any(axis=1))
    assert np.array_equal(nearest[exact], slow.argmax(axis=1)[exact])
    assert np.allclose(similarity[exact], slow.max(axis=1)[exact], atol=1e-6)
    assert np.isnan(similarity[~exact]).all()
    assert exact.sum() > 100
    assert not (found & ~exact).any()
    assert (found & exact).sum() >= 0.98 * exact.sum()


@pytest.mark.soak
def test_candidates_are_bounded_where_nearly_all_rows_are_some() -> None:
    """Few axes tell little apart: without a bound, a block of 4,096 rows has half a million candidates."""
    rng = np.random.default_rng(2)
    rows = (0.65 * rng.standard_normal((9000, 128)) + rng.standard_normal(128)).astype(np.float16)
    rows[6000:] = rows[:3000] + np.float16(0.2) * rng.standard_normal((3000, 128)).astype(np.float16)
    vectors, order = Vectors.of(rows), np.arange(len(rows))
    basis = choose_basis(vectors.matrix, order, 0.85, pair_cost=0.0)

    def found(most: int) -> tuple[np.ndarray, np.ndarray, int]:
        made: list[ann.IndexedKept] = []

        def make(search: Search, capacity: int) -> ann.IndexedKept:
            made.append(ann.IndexedKept(search, order, bound=most))
            return made[0]

        asked = {"num_always": 0, "num_threads": 2, "basis": basis, "make_kept": make, "block_rows": 4096}
        keeper, near = keep_best(vectors, order, 0.85, **asked)  # type: ignore[arg-type]
        return keeper, near, made[0].most_candidates

    keeper, near, most = found(1 << 40)
    assert most > 400_000
    assert 2000 < (keeper != order).sum() <= 3000
    for bound in (20_000, 3_000):
        one, other, held = found(bound)
        assert np.array_equal(one, keeper)
        assert np.array_equal(other, near)
        assert held < most / 8


EQUAL = """
import resource, sys
import faiss, numpy as np
from beholder.curate.duplicates.groups import find_near_duplicates
from beholder.scoreset.vectors import Vectors

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

rows = np.ones((20_000, 32), np.float16)
find = lambda count, always: find_near_duplicates(
    Vectors.of(rows[:count]), np.arange(count), float(sys.argv[1]), method="approximate", num_always=always, num_threads=2
)
find(2000, 100)  # loads what has to be
before = peak()
found = find(20_000, 11_000)
assert np.flatnonzero(found.stays).tolist() == list(range(11_000))
assert (found.keeper[11_000:] == 0).all()
assert np.abs(found.similarity[11_000:] - 1).max() < 1e-6
print((peak() - before) // 1024)
"""


@pytest.mark.soak
@pytest.mark.parametrize("threshold", ["0.5", "0.0"])
def test_memory_where_all_rows_are_near_and_many_stay(threshold: str) -> None:
    """11,000 equal rows that stay are candidates for each of the rest: 90 million for 8,192 rows, more than 1 GB."""
    ran = subprocess.run([sys.executable, "-c", EQUAL, threshold], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 700


def test_faiss_has_its_threads_back() -> None:
    import faiss

    before = faiss.omp_get_max_threads()
    find_near_duplicates(Vectors.of(directions(500, 16)), np.arange(500), 0.9, method="approximate", num_threads=1)
    assert faiss.omp_get_max_threads() == before


def test_clusters_are_the_groups_there_are() -> None:
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((5, 48))
    truth = rng.integers(0, 5, 2000)
    rows = (centres[truth] + 0.2 * rng.standard_normal((2000, 48))) * 10.0 ** rng.uniform(-3, 3, (2000, 1))
    rows[7] = 0
    labels = cluster_rows(Vectors.of(rows), 5, seed=3, num_threads=2)
    assert labels.dtype == np.int32
    assert labels[7] == -1
    has = np.arange(2000) != 7
    pairs = set(zip(truth[has].tolist(), labels[has].tolist(), strict=True))
    assert len(pairs) == 5
    assert np.array_equal(labels, cluster_rows(Vectors.of(rows), 5, seed=3, num_threads=2))


def test_clusters_of_few_rows() -> None:
    rows = np.eye(4, dtype=np.float32)
    assert sorted(cluster_rows(Vectors.of(rows), 10).tolist()) == [0, 1, 2, 3]
    assert cluster_rows(Vectors.of(rows), 1).tolist() == [0] * 4
    assert cluster_rows(Vectors.of(rows[:0]), 3).tolist() == []
    assert cluster_rows(Vectors.of(rows * 0), 3).tolist() == [-1] * 4


@pytest.mark.slow
def test_without_faiss_the_error_says_what_to_do() -> None:
    code = (
        "import sys\nsys.modules['faiss'] = None\nimport numpy as np\n"
        "from beholder.curate.duplicates.groups import find_near_duplicates\n"
        "from beholder.curate.duplicates.ann import cluster_rows\n"
        "from beholder.scoreset.vectors import Vectors\n"
        "v = Vectors.of(np.eye(8, dtype=np.float32))\n"
        "print(find_near_duplicates(v, np.arange(8), 0.9).method)\n"
        "for call in (lambda: find_near_duplicates(v, np.arange(8), 0.9, method='approximate'), lambda: cluster_rows(v, 2)):\n"
        "    try:\n        call()\n    except Exception as error:\n        print(type(error).__name__, error)\n"
        "print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert out[0] == "exact"
    assert out[1].startswith("InputError near-duplicates among 8 rows")
    assert "pip install 'beholder[dedup]'" in out[1]
    assert out[2] == "InputError making clusters needs faiss, which is not installed: pip install 'beholder[dedup]'"
    assert out[3] == "False"
