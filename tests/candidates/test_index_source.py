"""Candidates of an index: those of exact retrieval where it is complete, measured, and refused where it misses much."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recsys.candidates.files import JobError
from recsys.candidates.index_source import IndexSource
from recsys.candidates.run import run_job
from recsys.candidates.sources import ModelSource
from recsys.retrieval.approximate import RecallError
from recsys.retrieval.item_index import HNSW, IVFPQ, Flat, IndexKind, ItemIndex
from tests.candidates.conftest import Saved, lists_of

pytest.importorskip("faiss", reason="the extra `ann` is not installed")
Make = Callable[..., Saved]
COLUMNS = ["user_id", "item_id", "rank", "score"]


@pytest.mark.parametrize("index", [Flat(), HNSW()])
def test_an_index_that_misses_nothing_gives_the_exact_lists(saved: Make, tmp_path: Path, index: IndexKind) -> None:
    made = saved("synergen")
    exact = run_job(made.config(tmp_path / "exact", sources=(ModelSource(name="index"),)))
    found = run_job(made.config(tmp_path / "index", sources=(IndexSource(index=index, recall_at=5),)))
    assert lists_of(found.folder)[COLUMNS].equals(lists_of(exact.folder)[COLUMNS])
    assert found.manifest.measured["index_recall_at_5"] == 1.0
    assert 0 < found.manifest.measured["index_recall_at_5_low"] < 1


def test_an_index_that_misses_much_ends_the_job_before_any_list(
    saved: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_item(index: ItemIndex, users: torch.Tensor, n: int) -> torch.Tensor:
        return torch.ones(len(users), n, dtype=torch.int64)

    monkeypatch.setattr(ItemIndex, "search", first_item)
    with pytest.raises(RecallError, match=r"recall@5 of the index .* below 0.9"):
        run_job(saved("synergen").config(tmp_path, sources=(IndexSource(recall_at=5, least_recall=0.9),)))
    assert not list(tmp_path.rglob("part-*.parquet"))


def test_a_start_that_was_ended_with_half_an_index_is_taken_up(
    saved: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(index: ItemIndex, users: torch.Tensor, n: int) -> torch.Tensor:
        raise KeyboardInterrupt

    config = saved("synergen").config(tmp_path, sources=(IndexSource(index=Flat(), recall_at=5),))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ItemIndex, "search", ended)
        run_job(config)
    assert run_job(config).manifest.users == 40


def test_what_cannot_be_indexed_is_refused(saved: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JobError, match=r"source index: least_recall lies in 0\.\.1"):
        IndexSource(least_recall=1.5)
    with pytest.raises(JobError, match="source index: an index holds vectors of items"):
        run_job(saved("cosine").config(tmp_path / "a", sources=(IndexSource(),)))
    with pytest.raises(JobError, match="source index: ivf_pq learns from 30 items"):
        run_job(saved("synergen").config(tmp_path / "b", sources=(IndexSource(index=IVFPQ()),)))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(JobError, match=r"source index: approximate retrieval needs FAISS: pip install 'recsys\[ann\]'"):
        run_job(saved("synergen").config(tmp_path / "c", sources=(IndexSource(),)))
