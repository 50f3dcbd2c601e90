"""Numbered names against Python's own formatting; ties told apart by names against Python's own sorting."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beholder.kernels import ordering, texts, ties
from beholder.sources.labels import row_names
from oracles.selection import name_hash


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 1), (0, 1001), (98, 102), (999_999_999, 1_000_000_003)])
@pytest.mark.parametrize("name", ["emb.npy", "ordner/größe.npy", ""])
def test_names_are_prefix_and_row_number(name: str, start: int, stop: int) -> None:
    names = row_names(name, start, stop)
    names.validate(full=True)
    assert names.type == pa.large_string()
    assert names.to_pylist() == [f"{name}#{row}" for row in range(start, stop)]


ROWS = st.lists(st.tuples(st.integers(0, 3), st.text("ab\x00\xe9", max_size=20), st.booleans()), max_size=40)


@given(ROWS)
def test_rows_that_tie_come_by_name_then_row_by_arrow_and_by_compiled_code(rows: list[tuple[int, str, bool]]) -> None:
    keys = np.array([key for key, _, _ in rows], np.uint32)
    names = pa.array([name for _, name, _ in rows], pa.large_string())
    dropped = np.array([is_dropped for _, _, is_dropped in rows], np.uint8)
    sorted_keys, order = ordering.sort_best_first(keys)
    flags, num_tied = ordering.mark_ties(sorted_keys, order)
    assert num_tied == sum(sum(other == key for other, _, _ in rows) > 1 for key, _, _ in rows)
    expected = sorted(range(len(rows)), key=lambda row: (-rows[row][0], rows[row][1].encode(), row))
    by_arrow, compiled = order.copy(), order.copy()
    ordering.sort_by_names(by_arrow, flags, names)
    ties.sort_by_names(compiled, flags.copy(), names)
    assert by_arrow.tolist() == compiled.tolist() == expected
    stays = {key for key, _, is_dropped in rows if not is_dropped}
    for mark_ties in (ordering.mark_ties, ties.mark_ties):
        wanted, num_wanted = mark_ties(sorted_keys, order, dropped)
        assert num_wanted == sum(sum(other == key for other, _, _ in rows) > 1 for key, _, _ in rows if key in stays)
        keys_in_order = [rows[row][0] for row in order]
        assert wanted.tolist() == [
            int(place > 0 and key == keys_in_order[place - 1] and key in stays) for place, key in enumerate(keys_in_order)
        ]


def test_hashes_of_names_of_every_length_are_those_of_the_slow_transcription() -> None:
    names = [f"{'pictures/é' * 5}"[:length] for length in range(45)] + ["", "\0", "\0" * 8, "ü" * 4, "x" * 1000]
    found = texts.name_hashes(*texts.text_buffers(pa.array(names, pa.large_string())[3:]), 7)
    assert found.tolist() == [name_hash(name, 7) for name in names[3:]]
