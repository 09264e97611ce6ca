"""Small tables in place of a large one: against hand-made lists, integers of Python and a closed form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.features.embedding_table import Table
from recsys.features.partitions import DoubleHash, QuotientRemainder, Whole, partition_of
from recsys.features.schema import SchemaError

MASK = 2**64 - 1


def splitmix64(state: int) -> int:
    """The published generator, in integers without bounds."""
    z = state & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@given(st.integers(2, 3000), st.integers(2, 100))
def test_quotient_and_remainder_tell_every_row_from_every_other(rows: int, remainders: int) -> None:
    parts = QuotientRemainder(rows, remainders)
    quotient, remainder = (part.tolist() for part in parts.places(torch.arange(rows)))
    assert list(zip(quotient, remainder, strict=True)) == [
        (0, 0) if row == 0 else (1 + (row - 1) // remainders, 1 + (row - 1) % remainders) for row in range(rows)
    ]
    assert len(set(zip(quotient, remainder, strict=True))) == rows
    assert parts.sizes[0] == max(quotient) + 1 and max(remainder) < parts.sizes[1] == remainders + 1


@given(st.lists(st.integers(1, 2**63 - 2), min_size=1, max_size=20), st.integers(2, 10**6))
def test_hashes_are_those_of_splitmix64(rows: list[int], buckets: int) -> None:
    """The rows of a saved model depend on these very numbers."""
    assert splitmix64(1234567 + 0x9E3779B97F4A7C15) == 6457827717110365317  # published first output of seed 1234567
    places = DoubleHash(2**63 - 1, buckets).places(torch.tensor([0, *rows]))
    for step, part in enumerate(places, start=1):
        state = step * 0x9E3779B97F4A7C15
        assert part.tolist() == [0, *((splitmix64(row + state) & (2**63 - 1)) % buckets + 1 for row in rows)]


def test_two_hashes_are_independent() -> None:
    """Rows fill the cells of both hashes like balls thrown at random: chi-square over all pairs of buckets."""
    buckets, rows = 20, 40_001
    first, second = DoubleHash(rows, buckets).places(torch.arange(1, rows))
    cells = torch.bincount((first - 1) * buckets + second - 1, minlength=buckets**2).double()
    expected = (rows - 1) / buckets**2
    chi_square = float(((cells - expected) ** 2 / expected).sum())
    assert chi_square < 492.0  # 0.999 quantile, 399 degrees of freedom


@pytest.mark.parametrize(
    ("compression", "expected"),
    [
        (None, Whole(1001)),
        ({"method": "quotient_remainder", "rows": 40}, QuotientRemainder(1001, 40)),
        ({"method": "double_hash", "rows": 70}, DoubleHash(1001, 70)),
    ],
)
def test_a_table_says_how_it_is_held(compression: dict | None, expected: object) -> None:
    assert partition_of("brand", Table(compression=compression), 1001) == expected
    assert Whole(7).sizes == (7,) and Whole(7).places(torch.tensor([3, 0]))[0].tolist() == [3, 0]


@pytest.mark.parametrize("method", ["quotient_remainder", "double_hash"])
def test_a_compression_that_saves_nothing_is_refused(method: str) -> None:
    table = Table(compression={"method": method, "rows": 1000})
    with pytest.raises(SchemaError, match=r"table `brand`: .* saves nothing, the table has 1,001\. Lower .* to 32 for"):
        partition_of("brand", table, 1001)
