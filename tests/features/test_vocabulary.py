from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features.vocabulary import HashBuckets, Vocabulary, stable_hash

GOLDEN_STRINGS = [13950350942979735504, 11777970717867984523, 16908809132758853863]
GOLDEN_INTEGERS = [0, 6238072747940578789, 5185122842947594062]

raw_ids = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30),
    st.lists(st.text(st.characters(codec="utf-8"), max_size=5), min_size=1, max_size=30),
)


@settings(deadline=None)
@given(raw_ids, st.randoms())
def test_ids_count_the_smaller_values(values: list, random) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)
    vocabulary = Vocabulary.of(shuffled)
    expected = [1 + sum(other < value for other in set(values)) for value in values]
    assert vocabulary.encode(values).tolist() == expected
    assert vocabulary.decode(vocabulary.encode(values)).tolist() == values
    assert len(vocabulary) == len(set(values)) == vocabulary.rows - 1


@settings(deadline=None)
@given(raw_ids)
def test_saving_keeps_everything(values: list) -> None:
    vocabulary = Vocabulary.of(values, unknown_buckets=3)
    with tempfile.TemporaryDirectory() as folder:
        vocabulary.save(Path(folder) / "v.parquet")
        loaded = Vocabulary.load(Path(folder) / "v.parquet")
    assert loaded.values.equals(vocabulary.values) and loaded.values.dtype == vocabulary.values.dtype
    assert loaded.unknown_buckets == 3


def test_unknown_values_are_dropped_or_hashed() -> None:
    values, unknown = ["b", "a"], [f"unknown {i}" for i in range(200)]
    assert not Vocabulary.of(values).encode(unknown).any()
    hashed = Vocabulary.of(values, unknown_buckets=4)
    codes = hashed.encode([*unknown, "a"])
    assert set(codes[:-1]) == {3, 4, 5, 6} and codes[-1] == 1 and hashed.rows == 7
    assert hashed.encode(pd.Series(["a", None])).tolist() == [1, 0]


def test_hash_buckets_spread_evenly_and_skip_missing_values() -> None:
    codes = HashBuckets(10).encode(np.arange(10_000))
    counts = np.bincount(codes, minlength=11)
    assert counts[0] == 0
    chi_square = float(((counts[1:] - 1000) ** 2 / 1000).sum())
    assert chi_square < 27.9  # 0.999 quantile, 9 degrees of freedom
    assert HashBuckets(10).encode(pd.Series(["x", None]))[1] == 0


def test_hashes_never_change() -> None:
    """A saved model's rows depend on these very numbers."""
    assert stable_hash(["a", "word", "é"]).tolist() == GOLDEN_STRINGS
    assert stable_hash([0, 1, -5]).tolist() == GOLDEN_INTEGERS
    assert stable_hash(np.array([0, 1, -5], dtype=np.int32)).tolist() == GOLDEN_INTEGERS


@pytest.mark.parametrize("ids", [[0], [3], [-1]])
def test_ids_without_a_raw_value_are_refused(ids: list[int]) -> None:
    with pytest.raises(IndexError, match=r"1\.\.2"):
        Vocabulary.of([5, 6]).decode(ids)


def test_kinds_are_not_mixed() -> None:
    with pytest.raises(TypeError, match="int64"):
        Vocabulary.of([1, 2]).encode(["1"])
    with pytest.raises(TypeError, match="float64"):
        Vocabulary.of([1.5])
    with pytest.raises(ValueError, match="ascending"):
        Vocabulary(pd.Index(["b", "a"]))
