"""Item vectors of one rank; several are in tests/distributed."""

from __future__ import annotations

import pytest
import torch

from recsys.retrieval import item_export
from recsys.retrieval.item_export import gather_item_vectors
from tests.retrieval.test_topk import Vectors

CPU = torch.device("cpu")


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("block", [4, 7, 16_384])
def test_all_vectors_whatever_the_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_export, "_BLOCK", block)
    model = Vectors(torch.rand(5, 21))
    found = gather_item_vectors(model, CPU, memory_gib=1)
    assert found is not None and torch.equal(found, model.table.T)


@pytest.mark.usefixtures("one_rank")
def test_more_than_the_stated_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_export, "_BLOCK", 8)
    model = Vectors(torch.rand(4, 1000))
    needed = (1000 + 2 * 8) * 4 * 4 / 2**30
    assert gather_item_vectors(model, CPU, memory_gib=needed) is not None
    with pytest.raises(ValueError, match=r"1000 item vectors of 4 dimensions take .* allow more .*`ShardedRanker`"):
        gather_item_vectors(model, CPU, memory_gib=0.99 * needed)
