"""Diagnostics of vectors while a model trains: what is measured, and when the alarm goes off."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recsys.evaluation.diagnostics import RepresentationDiagnostics
from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.exposure import GROUPS, group_of_events
from recsys.evaluation.representation import alignment, effective_rank, uniformity
from recsys.features.batch import SequenceBatch
from recsys.features.batching import histories
from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.splits import GlobalTime, Split
from recsys.models.recommender import VectorRecommender
from recsys.models.synergen import SynerGen

LENGTH = 7


@pytest.fixture(scope="module")
def split(log: EventLog) -> Split:
    return GlobalTime(0.3, 0.3)(log)


class Given(nn.Module, VectorRecommender):
    """Item vectors that are given; a user is the last item of the history."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.n_items = len(vectors) - 1
        self.register_buffer("vectors", vectors)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        return self.vectors if ids is None else self.vectors[ids]

    def user_vectors(self, batch: SequenceBatch) -> Tensor:
        return self.vectors[batch.item_id[batch.offsets[1:].long() - 1]]

    def config(self) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {"vectors": self.vectors}

    @classmethod
    def from_state(cls, config: dict[str, Any], state: dict[str, Tensor]) -> Given:
        return cls(state["vectors"])


def epoch(
    callback: RepresentationDiagnostics, model: nn.Module, split: Split, number: int = 0, max_epochs: int = 10
) -> tuple[dict[str, float], list[str]]:
    """What is logged, and what is warned of."""
    found: dict[str, float] = {}
    data = SimpleNamespace(split=split, max_length=LENGTH)
    trainer = SimpleNamespace(datamodule=data, current_epoch=number, max_epochs=max_epochs, is_global_zero=True)
    module = SimpleNamespace(network=model, log=lambda name, value, **_: found.__setitem__(name, value))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callback.on_train_epoch_end(trainer, module)  # type: ignore[arg-type]
    return found, [str(warning.message) for warning in caught]


def test_values_are_those_of_the_vectors_of_the_network(split: Split) -> None:
    torch.manual_seed(0)
    network = SynerGen(Catalogue.from_split(split, LENGTH), width=8, layers=1, dropout=0.5).train()
    before = torch.get_rng_state()
    values, warned = epoch(RepresentationDiagnostics(least=0, least_of_best=0), network, split)
    assert torch.equal(torch.get_rng_state(), before) and network.training and not warned
    network.eval()
    part, n = split.validation, split.log.n_items
    batch = histories(split.log, part.users, part.history_start, part.history_end, LENGTH)
    with torch.no_grad():
        items = network.match(network.items(torch.arange(1, n + 1)))
        last = network.encode_vectors(batch, network.items(batch.item_id))[batch.offsets[1:].long() - 1]
    targets = items[torch.from_numpy(split.log.item_id[part.target_start].astype(np.int64)) - 1]
    expected = {
        "val/item_effective_rank": effective_rank(items),
        "val/user_effective_rank": effective_rank(last),
        "val/item_uniformity": uniformity(items),
        "val/user_uniformity": uniformity(last),
        "val/alignment": alignment(last, targets),
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    ranked = evaluate(network, split, which="validation", ks=(10,), top=10, max_length=LENGTH).ranked
    groups = group_of_events(split.train_counts())
    for index, name in enumerate(GROUPS):
        share = np.mean([groups[item] == index for item in ranked[ranked > 0]])
        assert values[f"val/{name}_share@10"] == pytest.approx(share)
    assert values.keys() == {*expected, *(f"val/{name}_share@10" for name in GROUPS)}


def drawn(n: int, d: int = 12, directions: int = 12) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randn(n + 1, directions, generator=random) @ torch.randn(directions, d, generator=random)


def test_the_sample_is_the_same_each_time(split: Split) -> None:
    model = Given(drawn(split.log.n_items))
    one, other = (RepresentationDiagnostics(items=15, users=20, seed=seed) for seed in (1, 2))
    first, _ = epoch(one, model, split)
    again, _ = epoch(one, model, split, 1)
    assert first == again != epoch(other, model, split)[0]
    resumed = RepresentationDiagnostics(items=15, users=20, seed=1)
    resumed.load_state_dict(one.state_dict())
    epoch(resumed, model, split, 2)
    assert [entry["epoch"] for entry in resumed.history] == [0, 1, 2]


def test_epochs_between_are_left_out_but_not_the_last(split: Split) -> None:
    model = Given(drawn(split.log.n_items))
    for every, max_epochs, measured in ((4, 10, [0, 4, 8, 9]), (4, -1, [0, 4, 8]), (None, 10, [])):
        callback = RepresentationDiagnostics(every_n_epochs=every)
        for number in range(10):
            epoch(callback, model, split, number, max_epochs)
        assert [entry["epoch"] for entry in callback.history] == measured


def shrunk(vectors: Tensor, directions: int) -> Tensor:
    u, s, v = torch.linalg.svd(vectors, full_matrices=False)
    return u[:, :directions] @ torch.diag(s[:directions]) @ v[:directions]


@pytest.mark.parametrize(
    ("later", "said"),
    [
        (lambda x: shrunk(x, 1), "use 1.0 of 12 dimensions: vectors collapse. Raise the temperature"),
        (lambda x: x * math.nan, "are not finite: lower the learning rate"),
        (lambda x: x.index_put((torch.tensor(3),), torch.tensor(math.inf)), "are not finite"),
    ],
)
def test_a_collapse_is_told_once_with_what_to_do(split: Split, later: Callable[[Tensor], Tensor], said: str) -> None:
    healthy = drawn(split.log.n_items)
    callback = RepresentationDiagnostics()
    assert epoch(callback, Given(healthy), split)[1] == []
    _, warned = epoch(callback, Given(later(healthy)), split, 1)
    assert any(text.startswith("epoch 1: the item vectors ") and said in text for text in warned)
    assert len(warned) == 2, "of items and of users"
    assert epoch(callback, Given(later(healthy)), split, 2)[1] == []
    assert epoch(callback, Given(healthy), split, 3)[1] == []
    assert len(epoch(callback, Given(later(healthy)), split, 4)[1]) == 2, "it recovered, and collapses again"


def test_the_two_shares_are_limits_of_their_own(split: Split) -> None:
    healthy = drawn(split.log.n_items)
    poor = shrunk(healthy, 2)
    of_all = RepresentationDiagnostics(least=0.3, least_of_best=0)
    assert "of 12 dimensions" in epoch(of_all, Given(poor), split)[1][0]
    of_best = RepresentationDiagnostics(least=0, least_of_best=0.5)
    assert epoch(of_best, Given(poor), split)[1] == [], "it was never better"
    assert epoch(of_best, Given(healthy), split, 1)[1] == []
    assert len(epoch(of_best, Given(poor), split, 2)[1]) == 2


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        RepresentationDiagnostics(every_n_epochs=0)
    with pytest.raises(ValueError, match=r"below 1, not 1\.5"):
        RepresentationDiagnostics(least=1.5)
