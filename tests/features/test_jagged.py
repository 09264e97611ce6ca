from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features.jagged import JaggedColumn, expand_ranges

lists = st.lists(st.lists(st.integers(0, 1000), max_size=5), min_size=1, max_size=8)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 6)), max_size=10))
def test_expand_ranges_equals_a_loop(ranges: list[tuple[int, int]]) -> None:
    start, lengths = np.array(ranges, dtype=np.int64).reshape(-1, 2).T
    expected = [index for first, length in ranges for index in range(first, first + length)]
    assert expand_ranges(start, lengths).tolist() == expected


@settings(deadline=None)
@given(lists, st.data())
def test_gather_equals_picking_lists(rows: list[list[int]], data: st.DataObject) -> None:
    picked = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10))
    column = JaggedColumn.from_lists(rows).gather(np.array(picked, dtype=np.int64))
    assert len(column) == len(picked)
    assert [column.row(i).tolist() for i in range(len(column))] == [rows[i] for i in picked]
    assert column.lengths.tolist() == [len(rows[i]) for i in picked]
