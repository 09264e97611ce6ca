"""Training on pools against loops over their positives."""

from __future__ import annotations

import math
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

from recsys.denoising.adaptive_denoising import ReweightedLoss, TruncatedLoss
from recsys.denoising.personal_loss import PersonalLossResampling, PersonalLossWeights
from recsys.denoising.pool_losses import BCEPoolLoss, BPRPoolLoss
from recsys.denoising.temperature import StandardizedTemperature
from recsys.denoising.user_pools import PoolBatch, UserPools
from recsys.denoising.weighting import PoolWeighting
from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.noise import InjectedNoise, inject
from recsys.features.pair_batches import Triples
from recsys.features.schema import Schema
from recsys.features.splits import GlobalTime, Split, UserHoldout
from recsys.models.interaction import InteractionNetwork
from recsys.models.light_gcn import LightGCN
from recsys.models.matrix_factorization import MatrixFactorization
from recsys.models.pair_towers import PairTowers
from recsys.training.callbacks import Throughput
from recsys.training.data import EventLogData
from recsys.training.module import RecommenderModule
from recsys.training.pool_objective import PoolObjective
from recsys.training.sparse_adam import SparseAdam

CPU, L2 = torch.device("cpu"), 0.01
NETWORKS = {"factorization": MatrixFactorization, "graph": LightGCN, "towers": PairTowers}
every_network = pytest.mark.parametrize("kind", NETWORKS)


@pytest.fixture(scope="module")
def split() -> Split:
    random = np.random.default_rng(1)
    frame = pd.DataFrame({"user_id": random.integers(0, 15, 240), "item_id": random.integers(0, 40, 240)})
    frame["timestamp"] = np.arange(len(frame))
    return inject(GlobalTime(0.1, 0.1)(EventLog.from_frame(frame, Schema(name="toy"))), 0.3)


def pools(split: Split, size: int = 4, n: int = 2, batch_size: int = 32) -> UserPools:
    batches = UserPools(size, n)
    batches.setup(split, batch_size)
    return batches


def first(split: Split, **sizes: int) -> PoolBatch:
    batch = next(iter(pools(split, **sizes)))
    assert isinstance(batch, PoolBatch)
    return batch


def network_of(split: Split, kind: str = "factorization") -> InteractionNetwork:
    torch.manual_seed(0)
    made = NETWORKS[kind](Catalogue.from_split(split, interactions=True), width=8, init_std=0.7)
    assert isinstance(made, InteractionNetwork)
    return made


def objective_of(split: Split, weighting: PoolWeighting, l2: float = L2, **others: Any) -> PoolObjective:
    objective = PoolObjective(weighting=weighting, l2=l2, **others)
    objective.setup(Catalogue.from_split(split, interactions=True), 0, CPU)
    return objective


class Given(PoolWeighting):
    """Weights that a test gives."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values, self.losses = values, torch.zeros(0)

    def weights(self, losses: Tensor, users: Tensor, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        self.losses = losses
        return self.values, {}


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def vectors(network: InteractionNetwork) -> tuple[np.ndarray, np.ndarray]:
    users, items = network.encode(torch.arange(network.catalogue.n_users + 1), torch.arange(network.n_items + 1))
    assert users is not None and items is not None
    return users.detach().double().numpy(), items.detach().double().numpy()


def scores(network: InteractionNetwork, batch: PoolBatch) -> tuple[np.ndarray, np.ndarray]:
    """`[B, k]` and `[B, m]`, pair by pair."""
    users, items = vectors(network)
    return tuple(
        np.array([[users[u] @ items[i] for i in row] for u, row in zip(batch.users, ids, strict=True)])
        for ids in (batch.items, batch.others)
    )  # type: ignore[return-value]


@every_network
@pytest.mark.parametrize("pointwise", [False, True])
def test_a_step_equals_a_loop_over_pools(split: Split, kind: str, pointwise: bool) -> None:
    network, batch = network_of(split, kind), first(split)
    weights = torch.rand(32, 4, generator=torch.Generator().manual_seed(0))
    weights = torch.where(weights < 0.5, 0.0, weights)
    weighting = Given(weights)
    loss = BCEPoolLoss() if pointwise else BPRPoolLoss()
    found, parts = objective_of(split, weighting, loss=loss)(network, batch)
    positive, negative = scores(network, batch)
    total, personal, trained = 0.0, np.zeros((32, 4)), []
    for row in range(32):
        for column in range(4):
            s = positive[row, column]
            own = softplus(-s) if pointwise else np.mean([softplus(j - s) for j in negative[row]])
            personal[row, column] = own
            total += float(weights[row, column]) * own / 32
            if weights[row, column] > 0:
                trained.append(int(batch.items[row, column]))
        if pointwise:
            total += float(np.mean([softplus(j) for j in negative[row]])) / 32
    np.testing.assert_allclose(weighting.losses, personal, rtol=1e-4, atol=1e-6)
    assert parts["data"].item() == pytest.approx(total, rel=1e-5)
    assert parts["personal_loss"].item() == pytest.approx(personal.mean(), rel=1e-5)
    norms = network(torch.arange(network.catalogue.n_users + 1), torch.arange(network.n_items + 1))
    squares = norms.user_norms[batch.users].mean() + norms.item_norms[trained].mean()
    squares = squares + norms.item_norms[batch.others.flatten()].mean()
    assert found.item() == pytest.approx(total + L2 * squares.item(), rel=1e-5)
    assert batch.injected is not None
    shares = (weights * batch.injected).sum() / weights.sum(), batch.injected.float().mean()
    assert (parts["injected_share"], parts["injected_pool_share"]) == shares


def test_weights_get_no_gradient(split: Split) -> None:
    """The gradient is that of the losses with the weights as numbers."""
    network, batch = network_of(split), first(split)
    weighting = PersonalLossWeights(0.5, start=0)
    objective = objective_of(split, weighting, l2=0.0)
    losses = objective.losses(network, batch)
    assert not losses.requires_grad
    gradients = []
    for used in (weighting, Given((-losses / 0.5).softmax(-1))):
        network.zero_grad()
        objective_of(split, used, l2=0.0)(network, batch).loss.backward()
        gradients.append([weight.grad.to_dense() for weight in network.parameters() if weight.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_only_chosen_positives_are_touched(split: Split) -> None:
    """Rows of a table that are in a gradient, if only as zeros, are moved by momentum."""
    network, batch = network_of(split), first(split)
    weighting = PersonalLossResampling(0.1, start=0)
    objective_of(split, weighting, l2=0.0)(network, batch).loss.backward()
    table = next(weight for name, weight in network.named_parameters() if "item_id" in name)
    assert table.grad is not None and table.grad.is_sparse
    touched = set(table.grad.coalesce().indices()[0].tolist())
    again = objective_of(split, PersonalLossResampling(0.1, start=0), l2=0.0)
    weights, _ = again.weighting.weights(again.losses(network, batch), batch.users, 0)
    assert touched == {*batch.items[weights > 0].tolist(), *batch.others.flatten().tolist()}
    assert len(batch.items[weights > 0]) == len(batch) and touched < {*batch.items.flatten().tolist()} | touched


@every_network
def test_pools_of_one_are_plain_training_bit_for_bit(split: Split, kind: str) -> None:
    """Whatever the weighting: a written-out BPR step over the same users is the oracle."""
    trained: list[list[Tensor]] = []
    for weighting in (PersonalLossResampling(0.01, start=1), PersonalLossResampling(math.inf), None):
        network = network_of(split, kind)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
        objective = None if weighting is None else objective_of(split, weighting)
        batches = pools(split, size=1, n=1)
        for batch in [*batches, *batches, *batches]:
            assert isinstance(batch, PoolBatch)
            if objective is not None:
                loss = objective(network, batch).loss
            else:
                made = network(batch.users, torch.cat([batch.items[:, 0], batch.others[:, 0]]))
                own, other = made.items.split(len(batch))
                difference = (made.users * other).sum(-1) - (made.users * own).sum(-1)
                loss = torch.nn.functional.softplus(difference).sum() / len(batch)
                own_norms, other_norms = made.item_norms.split(len(batch))
                loss = loss + L2 * (made.user_norms.mean() + own_norms.mean() + other_norms.mean())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        trained.append([weight.detach().clone() for weight in network.parameters()])
    for one, other, plain in zip(*trained, strict=True):
        assert torch.equal(one, other) and bool(one.isfinite().all())
        assert torch.equal(one, plain)


def test_an_infinite_temperature_is_uniform_resampling_of_the_same_pools_bit_for_bit(split: Split) -> None:
    weights = []
    for weighting in (PersonalLossResampling(math.inf, start=0), PersonalLossResampling(0.01, start=99)):
        network, objective = network_of(split), objective_of(split, weighting)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
        for batch in pools(split):
            optimizer.zero_grad()
            objective(network, batch).loss.backward()  # type: ignore[arg-type]
            optimizer.step()
        weights.append([weight.detach().clone() for weight in network.parameters()])
    assert all(torch.equal(*both) for both in zip(*weights, strict=True))


def test_cross_entropy_baselines_against_their_formulas(split: Split) -> None:
    network, batch = network_of(split), first(split, size=1, n=1)
    positive, negative = (1 / (1 + np.exp(-s[:, 0])) for s in scores(network, batch))
    of_positive, of_negative = -np.log(positive), -np.log(1 - negative)
    reweighted, _ = objective_of(split, ReweightedLoss(0.25), l2=0.0, loss=BCEPoolLoss())(network, batch)
    expected = (positive**0.25 * of_positive).mean() + ((1 - negative) ** 0.25 * of_negative).mean()
    assert reweighted.item() == pytest.approx(expected, rel=1e-5)
    batch = PoolBatch(batch.users, batch.items, batch.others, epoch=torch.tensor(10))
    truncated, _ = objective_of(split, TruncatedLoss(0.25), l2=0.0, loss=BCEPoolLoss())(network, batch)
    assert truncated.item() == pytest.approx(np.sort(of_positive)[:24].mean() + of_negative.mean(), rel=1e-5)


def test_the_graph_keeps_the_noise(split: Split) -> None:
    network = network_of(split, "graph")
    assert isinstance(network, LightGCN)
    edges = network.adjacency.to_dense()
    noise = split.log.columns["injected"]
    users, items = split.log.user_ids()[noise], split.log.item_id[noise]
    assert len(users) and bool((edges[users, network.n_users + 1 + torch.tensor(items)] > 0).all())


def test_dropout_is_off_while_losses_are_measured_and_on_again_after(split: Split) -> None:
    network, batch = network_of(split), first(split)
    seen: list[bool] = []
    handle = network.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    network.train()
    objective_of(split, PersonalLossResampling(start=0))(network, batch)
    assert seen == [False, True] and network.training
    network.eval()
    objective_of(split, PersonalLossResampling(start=1))(network, batch)
    assert seen == [False, True, False] and not network.training
    handle.remove()
    towers = PairTowers(network.catalogue, width=8, dropout=0.5).train()
    measured = [objective_of(split, PersonalLossResampling()).losses(towers, batch) for _ in range(2)]
    assert torch.equal(*measured) and not torch.equal(
        towers(batch.users, batch.users)[0], towers(batch.users, batch.users)[0]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of users who like the items of their own parity."""
    made, random = tmp_path_factory.mktemp("log"), np.random.default_rng(0)
    user = np.repeat(np.arange(60), 14)
    item = 2 * random.integers(0, 25, len(user)) + user % 2
    events = pd.DataFrame({"user_id": user, "item_id": item, "timestamp": 1_000_000 + np.arange(len(user))})
    events.to_parquet(made / "events.parquet")
    (made / "schema.yaml").write_text("name: toy\n")
    return made


class Logged(L.Callback):
    """The values of each epoch."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.epochs.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def fit(
    folder: Path, steps: int, weighting: PoolWeighting, save: Path | None = None, resume: Path | None = None
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Weights after so many steps, and what was logged."""
    torch.manual_seed(1)
    module = RecommenderModule(
        partial(MatrixFactorization, width=8),
        PoolObjective(weighting=weighting),
        table_optimizer=partial(SparseAdam, lr=0.02),
    )
    data = EventLogData(
        schema=str(folder / "schema.yaml"),
        events=str(folder / "events.parquet"),
        cache=str(folder / "cache"),
        split=InjectedNoise(UserHoldout(0.05, 0.05), 0.3),
        batch_size=128,
        batches=UserPools(5),
    )
    logged = Logged()
    callbacks: list[L.Callback] = [Throughput(), logged]
    if save is not None:
        callbacks.append(ModelCheckpoint(save, filename="last", every_n_train_steps=steps, save_top_k=-1))
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", callbacks=callbacks, enable_checkpointing=save is not None, **quiet
    )
    trainer.fit(module, datamodule=data, ckpt_path=None if resume is None else str(resume))
    assert module.network is not None
    return {name: weight.clone() for name, weight in module.network.state_dict().items()}, logged.epochs


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_job_ends_with_the_weights_of_one_that_was_not_stopped(folder: Path, tmp_path: Path) -> None:
    """Both draws of the resampler and running moments of the users are in the checkpoint."""

    def weighting() -> PoolWeighting:
        return PersonalLossResampling(StandardizedTemperature(0.3), start=0)

    whole, _ = fit(folder, 13, weighting())
    fit(folder, 6, weighting(), save=tmp_path)
    resumed, _ = fit(folder, 13, weighting(), resume=tmp_path / "last.ckpt")
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.filterwarnings("ignore")
def test_noise_is_trained_on_less_than_it_is_there(folder: Path) -> None:
    _, epochs = fit(folder, 130, PersonalLossResampling(0.1, start=5))
    assert len(epochs) >= 14 and "train/personal_loss" not in epochs[4]
    shares = {
        name: np.array([epoch[f"train/{name}"] for epoch in epochs])
        for name in ("injected_share", "injected_pool_share")
    }
    there = 3 / 16  # of 13 or so items, three or four are injected for each
    assert shares["injected_pool_share"].mean() == pytest.approx(there, abs=0.05)
    assert shares["injected_share"][:5].mean() == pytest.approx(shares["injected_pool_share"][:5].mean(), abs=0.03)
    assert shares["injected_share"][9:].mean() < 0.5 * shares["injected_pool_share"][9:].mean()
    assert epochs[0]["train/effective_pool_size"] == 5 > epochs[-1]["train/effective_pool_size"] + 0.5


def test_what_cannot_be_trained_is_refused(split: Split) -> None:
    with pytest.raises(ValueError, match="l2 must be"):
        PoolObjective(l2=-1.0)
    triples = Triples(1)
    triples.setup(split, 8)
    objective = objective_of(split, PersonalLossResampling())
    with pytest.raises(TypeError, match="on UserPools, not a MatrixFactorization on a TripleBatch"):
        objective(network_of(split), next(iter(triples)))  # type: ignore[arg-type]
