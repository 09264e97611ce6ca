"""Tables of judged queries, against a loop over their rows, and the errors that their faults give."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.features.datasets import DatasetError
from recsys.features.judged_queries import JudgedQueries, load_judged
from recsys.features.list_table import ListDataError


def documents() -> pd.DataFrame:
    random = np.random.default_rng(0)
    query = random.permutation(np.repeat([3, 7, 8, 9], [2, 1, 4, 3]))
    columns = {"query_id": query, "relevance": random.integers(0, 5, 10)}
    frame = pd.DataFrame(columns | {f"f{number}": random.random(10) for number in range(2)})
    return frame.assign(split=np.where(query > 8, "test", "train"))


def test_documents_stand_with_their_queries() -> None:
    frame = documents().drop(columns="split")
    found = JudgedQueries.from_frame(frame)
    assert found.features.shape == (4, 4, 2) and found.features.dtype == np.float32
    for place, query in enumerate((3, 7, 8, 9)):
        rows = [row for _, row in frame.iterrows() if row["query_id"] == query]
        assert found.mask[place].tolist() == [True] * len(rows) + [False] * (4 - len(rows))
        assert found.grade[place].tolist() == [int(row["relevance"]) for row in rows] + [0] * (4 - len(rows))
        expected = [[row["f0"], row["f1"]] for row in rows] + [[0.0, 0.0]] * (4 - len(rows))
        assert found.features[place] == pytest.approx(np.array(expected))
    one = JudgedQueries.from_frame(frame, features=["f1"])
    assert np.array_equal(one.features[..., 0], found.features[..., 1])


def test_parts_are_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    documents().to_parquet(tmp_path / "web" / "documents.parquet")
    parts = load_judged("web", tmp_path)
    assert parts["train"].mask.sum(1).tolist() == [2, 1, 4] and parts["test"].mask.sum(1).tolist() == [3]
    assert parts["test"].features.shape == (1, 3, 2)  # without the column that names the part


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        (lambda frame: frame.drop(columns="relevance"), r"documents.parquet: no column \['relevance'\]"),
        (lambda frame: frame.drop(columns="split"), r"no column \['split'\]"),
        (lambda frame: frame.drop(columns=["f0", "f1"]), "no column of features"),
        (lambda frame: frame.assign(split="train"), r"`split` names \['train'\], and must name `train` and `test`"),
        (lambda frame: frame.assign(split=frame["split"].mask(frame.index == 0)), "`split` is empty in 1 rows"),
        (lambda frame: frame.assign(query_id=1), "query 1 stands in several parts"),
        (lambda frame: frame.assign(relevance=0.5), "`relevance` is a whole number from 0"),
        (lambda frame: frame.assign(f1=np.nan), "feature `f1` is empty or infinite"),
        (lambda frame: frame.assign(f1="blue"), r"features are numbers, \['f1'\] are not"),
    ],
)
def test_faults_are_named(tmp_path: Path, spoiled: Callable[[pd.DataFrame], pd.DataFrame], message: str) -> None:
    (tmp_path / "web").mkdir()
    spoiled(documents()).to_parquet(tmp_path / "web" / "documents.parquet")
    with pytest.raises(ListDataError, match=message):
        load_judged("web", tmp_path)


def test_queries_without_a_name_are_refused() -> None:
    frame = documents().drop(columns="split")
    with pytest.raises(ListDataError, match="`query_id` is empty in 1 rows"):
        JudgedQueries.from_frame(frame.assign(query_id=frame["query_id"].where(frame.index > 0)))
    with pytest.raises(ListDataError, match="empty"):
        JudgedQueries.from_frame(frame.iloc[:0])
    with pytest.raises(ListDataError, match=r"no column \['f9'\]; it has \['query_id'"):
        JudgedQueries.from_frame(frame, features=["f9"])


def test_a_missing_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match=r"web: no .*documents\.parquet; docs/data-format\.md"):
        load_judged("web", tmp_path)
    monkeypatch.delenv("RECSYS_DATA", raising=False)
    with pytest.raises(DatasetError, match="web: set RECSYS_DATA"):
        load_judged("web")


@pytest.mark.skipif(not os.environ.get("RECSYS_DATA"), reason="RECSYS_DATA names no folder of data sets")
def test_the_example_of_lightgbm_is_what_it_is_said_to_be() -> None:
    try:
        parts = load_judged("ltr_lightgbm")
    except DatasetError as missing:
        pytest.skip(str(missing))
    sizes = {name: (len(part.mask), int(part.mask.sum())) for name, part in parts.items()}
    assert sizes == {"train": (201, 3005), "test": (50, 768)}
    assert parts["train"].features.shape[2] == 301 and set(np.unique(parts["train"].grade)) == set(range(5))
