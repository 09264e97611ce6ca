"""Jobs on pairs: the loss against plain loops, and resumed as if they had never stopped."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from recsys.features.catalogue import Catalogue
from recsys.features.pair_batch import PairBatch, TripleBatch
from recsys.features.pair_batches import AllPairs, PairBatches, PositivesAndUnlabeled, Triples
from recsys.features.splits import UserHoldout
from recsys.models.interaction import InteractionNetwork
from recsys.models.light_gcn import LightGCN
from recsys.models.matrix_factorization import MatrixFactorization
from recsys.training.callbacks import Throughput
from recsys.training.data import EventLogData
from recsys.training.lagged_network import LaggedNetwork
from recsys.training.module import RecommenderModule
from recsys.training.objective import Objective
from recsys.training.pair_objective import PairObjective, TripleObjective, distinct_sum
from recsys.unbiased.normalized import DualUnbiased, SelfNormalized
from recsys.unbiased.pairwise import BPRLoss, UBPRLoss
from recsys.unbiased.pointwise import Naive, RelMF
from recsys.unbiased.posterior import PosteriorLabel, Shrinkage
from recsys.unbiased.propensity import Logged

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of users who like the items of their own parity."""
    made, random = tmp_path_factory.mktemp("log"), np.random.default_rng(0)
    user = np.repeat(np.arange(40), 6)
    item = 2 * (random.zipf(1.5, len(user)) % 10) + user % 2
    events = pd.DataFrame({"user_id": user, "item_id": item, "timestamp": 1_000_000 + np.arange(len(user))})
    events.to_parquet(made / "events.parquet")
    (made / "schema.yaml").write_text("name: toy\n")
    return made


def data(folder: Path, batches: PairBatches) -> EventLogData:
    files = {"schema": str(folder / "schema.yaml"), "events": str(folder / "events.parquet")}
    return EventLogData(
        **files, cache=str(folder / "cache"), split=UserHoldout(0.1, 0.1), batch_size=64, batches=batches
    )


@pytest.fixture(scope="module")
def catalogue(folder: Path) -> Catalogue:
    return data(folder, AllPairs()).catalogue


def network(kind: type[InteractionNetwork], catalogue: Catalogue) -> InteractionNetwork:
    torch.manual_seed(0)
    return kind(catalogue, width=4)  # type: ignore[call-arg]


def dense_scores(model: InteractionNetwork) -> Tensor:
    """`[n_users + 1, n_items + 1]`, of weights as they are now."""
    assert model.catalogue.n_users
    with torch.no_grad():
        users = torch.arange(model.catalogue.n_users + 1)
        vectors = model(users, torch.arange(model.n_items + 1))
        return vectors.users @ vectors.items.T


def squares(model: InteractionNetwork, users: Tensor, items: Tensor) -> float:
    tables = {name.split(".")[0]: weight.detach() for name, weight in model.named_parameters()}
    return sum(float(tables["users"][u].square().sum()) for u in set(users.tolist())) + sum(
        float(tables["items"][i].square().sum()) for i in set(items.tolist())
    )


@pytest.mark.parametrize("kind", [MatrixFactorization, LightGCN])
def test_the_loss_of_pairs_is_that_of_a_loop(
    kind: type[InteractionNetwork], catalogue: Catalogue, folder: Path
) -> None:
    model, objective = network(kind, catalogue), PairObjective(RelMF(clip=0.3), l2=0.1)
    objective.setup(catalogue, 0, CPU)
    batch = next(iter(data(folder, PositivesAndUnlabeled(2)).batches))
    assert isinstance(batch, PairBatch) and batch.weight is not None and catalogue.interactions is not None
    had = torch.bincount(catalogue.interactions[0], minlength=catalogue.n_items + 1)
    scores, total = dense_scores(model), 0.0
    for user, item, label, weight in zip(batch.users, batch.items, batch.label, batch.weight, strict=True):
        p = float(torch.sigmoid(scores[user, item]))
        r = float(label) / max(float(had[item] / had.max()) ** 0.5, 0.3)
        total += float(weight) * (r * (1 - p) ** 2 + (1 - r) * p**2)
    loss, parts = objective(model, batch)
    assert parts["data"].item() == pytest.approx(total / float(batch.weight.sum()), rel=1e-4)
    penalty = 0.05 * squares(model, batch.users, batch.items)
    assert loss.item() == pytest.approx(total / float(batch.weight.sum()) + penalty, rel=1e-4)


@pytest.mark.parametrize("loss", [BPRLoss(), UBPRLoss(clip=0.3, beta=0.01)])
def test_the_loss_of_triples_is_that_of_a_loop(loss: BPRLoss | UBPRLoss, catalogue: Catalogue, folder: Path) -> None:
    model, objective = network(MatrixFactorization, catalogue), TripleObjective(loss, l2=0.1)
    objective.setup(catalogue, 0, CPU)
    batch = next(iter(data(folder, Triples(3, positives=True)).batches))
    assert isinstance(batch, TripleBatch) and batch.other_label.any() and catalogue.interactions is not None
    had = torch.bincount(catalogue.interactions[0], minlength=catalogue.n_items + 1)
    scores, total = dense_scores(model), 0.0
    for user, item, other, label in zip(batch.users, batch.items, batch.others, batch.other_label, strict=True):
        value = float(torch.nn.functional.softplus(scores[user, other] - scores[user, item]))
        if isinstance(loss, UBPRLoss):
            theta, of_other = (max(float(had[i] / had.max()) ** 0.5, 0.3) for i in (item, other))
            value = max(value / theta * (1 - float(label) / of_other), -0.01)
        total += value
    items = torch.cat([batch.items, batch.others])
    expected = total / len(batch) + 0.05 * squares(model, batch.users, items)
    assert objective(model, batch).loss.item() == pytest.approx(expected, rel=1e-4)


def test_each_distinct_id_is_regularised_once() -> None:
    assert distinct_sum(torch.tensor([3, 3, 3, 1]), torch.tensor([2.0, 2.0, 2.0, 5.0])).item() == pytest.approx(7)


@pytest.mark.parametrize("kind", [MatrixFactorization, LightGCN])
def test_the_copy_lags_behind_and_has_no_gradient(kind: type[InteractionNetwork], catalogue: Catalogue) -> None:
    model, lag = network(kind, catalogue), LaggedNetwork(decay=0.75, interval=2, warmup=1)
    users, items = torch.tensor([3, 5, 3]), torch.tensor([2, 2, 4])
    start = {name: weight.clone() for name, weight in model.state_dict().items()}

    def asked() -> Tensor:
        return lag.relevance(model, users, items)

    assert not asked().any()
    first = asked()
    torch.testing.assert_close(first, torch.sigmoid(dense_scores(model)[users, items]))
    assert not first.requires_grad
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1)
    assert torch.equal(asked(), first)  # it moves after two steps
    moved = asked()
    follower = network(kind, catalogue)
    follower.load_state_dict({name: weight + 0.25 for name, weight in start.items()})
    torch.testing.assert_close(moved, torch.sigmoid(dense_scores(follower)[users, items]))
    other = LaggedNetwork(decay=0.75, interval=2, warmup=1)
    other.load_state_dict(lag.state_dict())
    assert torch.equal(other.relevance(model, users, items), asked())


CASES: dict[str, tuple[Callable[[], Objective], Callable[[], PairBatches]]] = {
    "naive": (lambda: PairObjective(Naive()), AllPairs),
    "rel": (lambda: PairObjective(RelMF(clip=0.1), l2=1e-4), lambda: PositivesAndUnlabeled(3)),
    "self-normalised": (lambda: PairObjective(SelfNormalized(clip=0.1)), AllPairs),
    "dual": (lambda: PairObjective(DualUnbiased()), AllPairs),
    "posterior": (lambda: PairObjective(PosteriorLabel(), lag=LaggedNetwork(0.5, 2, 3)), AllPairs),
    "shrinkage": (lambda: PairObjective(Shrinkage(), lag=LaggedNetwork(0.5, 2, 3)), AllPairs),
    "bpr": (lambda: TripleObjective(), lambda: Triples(3)),
    "ubpr": (lambda: TripleObjective(UBPRLoss(0.1)), lambda: Triples(3, positives=True)),
}


def fit(case: str, folder: Path, steps: int, save: Path | None = None, resume: Path | None = None) -> dict[str, Tensor]:
    """Weights after so many steps."""
    objective, batches = CASES[case]
    torch.manual_seed(1)
    module = RecommenderModule(partial(MatrixFactorization, width=4), objective())
    callbacks: list[L.Callback] = [Throughput()]
    if save is not None:
        callbacks.append(ModelCheckpoint(save, filename="last", every_n_train_steps=steps, save_top_k=-1))
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", callbacks=callbacks, enable_checkpointing=save is not None, **quiet
    )
    trainer.fit(module, datamodule=data(folder, batches()), ckpt_path=None if resume is None else str(resume))
    assert module.network is not None
    found = {f"network.{name}": weight.clone() for name, weight in module.network.state_dict().items()}
    return found | {name: value.clone() for name, value in module.objective.state_dict().items()}


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_job_ends_with_the_weights_of_one_that_was_not_stopped(
    case: str, folder: Path, tmp_path: Path
) -> None:
    whole = fit(case, folder, 13)
    fit(case, folder, 6, save=tmp_path)
    resumed = fit(case, folder, 13, resume=tmp_path / "last.ckpt")
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.parametrize("case", ["naive", "dual", "posterior", "bpr", "ubpr"])
def test_training_tells_the_parities_apart(case: str, folder: Path) -> None:
    weights = fit(case, folder, 150)
    given = data(folder, AllPairs())
    model = network(MatrixFactorization, given.catalogue)
    model.load_state_dict({n.removeprefix("network."): v for n, v in weights.items() if n.startswith("network.")})
    users = np.flatnonzero(given.split.train_end > given.split.train_start)
    items = given.log.items.values.to_numpy().astype(int) % 2
    scores = dense_scores(model)[users, 1:]
    own = torch.from_numpy(items[None] == (given.log.users.values.to_numpy().astype(int)[users - 1] % 2)[:, None])
    gap = scores[own].mean() - scores[~own].mean()
    assert gap > 0.05 * scores.std() + 0.01


def test_what_does_not_go_together_is_refused(catalogue: Catalogue, folder: Path) -> None:
    for make in (lambda: PairObjective(DualUnbiased(), Logged()), lambda: TripleObjective(UBPRLoss(), Logged())):
        with pytest.raises(ValueError, match="ItemPower"):
            make()
    with pytest.raises(ValueError, match="l2"):
        PairObjective(l2=-1)
    with pytest.raises(ValueError, match="decay"):
        LaggedNetwork(decay=1)
    pairs, triples = (next(iter(data(folder, b).batches)) for b in (AllPairs(), Triples()))
    model = network(MatrixFactorization, catalogue)
    for objective, batch in ((PairObjective(), triples), (TripleObjective(), pairs)):
        objective.setup(catalogue, 0, CPU)
        with pytest.raises(TypeError, match=r"data\.batches"):
            objective(model, batch)
    with pytest.raises(TypeError, match="knows users by id"):
        PairObjective()(torch.nn.Linear(1, 1), pairs)
    with pytest.raises(ValueError, match="another loss"):
        PairObjective(PosteriorLabel()).load_random_state({})
