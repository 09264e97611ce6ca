"""Doubly robust learning of two networks: against draws of exposure and outcome, and against losses written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from recsys.features.catalogue import Catalogue
from recsys.features.exposed_pairs import ExposedPairs
from recsys.features.pair_batch import PairBatch
from recsys.features.pair_batches import AllPairs, PairBatches, Triples
from recsys.features.random_test import RandomTest
from recsys.models.interaction import InteractionNetwork
from recsys.models.matrix_factorization import MatrixFactorization
from recsys.training.data import EventLogData
from recsys.training.doubly_robust_objective import DoublyRobustObjective
from recsys.training.module import RecommenderModule
from recsys.training.objective import Objective
from recsys.training.pair_objective import PairObjective
from recsys.training.sparse_adam import SparseAdam
from recsys.unbiased.doubly_robust import ImputationWeight, JointLearning, MoreRobust
from recsys.unbiased.local_losses import CrossEntropy
from recsys.unbiased.logistic_exposure import LogisticExposure
from recsys.unbiased.nonnegative import NonNegativity, PerPair
from recsys.unbiased.pointwise import Naive
from recsys.unbiased.propensity import ItemPower, Logged, PropensityError

CPU = torch.device("cpu")
USERS, ITEMS, DRAWS = 15, 20, 1000
pytestmark = pytest.mark.filterwarnings("ignore")
SCHEMA = """name: ratings
events: {weight: rating}
duplicates: keep
features:
  - {name: split, column: split, entity: event, type: categorical}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users chose what to rate, the more often what they like: items of their own parity."""
    made, random = tmp_path_factory.mktemp("ratings"), np.random.default_rng(0)
    user, item = (values.ravel() for values in np.mgrid[:USERS, :ITEMS])
    own = user % 2 == item % 2
    rating = np.where(random.random(len(user)) < np.where(own, 0.9, 0.1), 5, 1)
    chosen = random.random(len(user)) < np.where(own, 0.6, 0.3)
    shown = random.random(len(user)) < 0.2
    frame = pd.DataFrame({"user_id": user, "item_id": item, "rating": rating, "timestamp": 0})
    parts = [frame[chosen].assign(split="train_mnar"), frame[shown].assign(split="test_random")]
    pd.concat(parts).to_parquet(made / "events.parquet")
    (made / "schema.yaml").write_text(SCHEMA)
    return made


def data(folder: Path, batches: PairBatches | None = None) -> EventLogData:
    files = {"schema": str(folder / "schema.yaml"), "events": str(folder / "events.parquet")}
    batches = batches if batches is not None else ExposedPairs()
    return EventLogData(**files, cache=str(folder / "cache"), split=RandomTest(), batch_size=64, batches=batches)


@pytest.fixture(scope="module")
def catalogue(folder: Path) -> Catalogue:
    return data(folder).catalogue


def network(catalogue: Catalogue, seed: int, width: int = 3) -> MatrixFactorization:
    torch.manual_seed(seed)
    return MatrixFactorization(catalogue, width=width, init_std=0.8)


def scores_of(model: InteractionNetwork, users: Tensor, items: Tensor) -> Tensor:
    vectors = model(users, items)
    return (vectors.users * vectors.items).sum(-1)


@dataclass
class World:
    """All pairs, whose relevance is that of a network, and their propensities.

    Another network is judged, and one that imputes wrongly believes what it says.
    """

    catalogue: Catalogue

    def __post_init__(self) -> None:
        self.truth, self.judged, self.believer = (network(self.catalogue, seed) for seed in (1, 2, 2))
        self.users = torch.arange(1, USERS + 1).repeat_interleave(ITEMS)
        self.items = torch.arange(1, ITEMS + 1).repeat(USERS)
        self.random = torch.Generator().manual_seed(3)
        self.theta = 0.1 + 0.8 * torch.rand(len(self.users), generator=self.random)
        with torch.no_grad():
            self.gamma = torch.sigmoid(scores_of(self.truth, self.users, self.items))
            p = torch.sigmoid(scores_of(self.judged, self.users, self.items))
        self.if_relevant, self.if_not = (1 - p) ** 2, p**2
        self.ideal = float(self.expected(self.gamma).mean())

    def expected(self, relevance: Tensor) -> Tensor:
        return relevance * self.if_relevant + (1 - relevance) * self.if_not

    def imputed(self, model: InteractionNetwork) -> Tensor:
        with torch.no_grad():
            return torch.sigmoid(scores_of(model, self.users, self.items))

    def draw(self, propensity: Tensor, times: int = 1) -> PairBatch:
        """Each pair so many times, exposed and relevant by chance; the propensities that the log has may be wrong."""
        uniform = torch.rand(2, times * len(self.users), generator=self.random)
        observed = (uniform[0] < self.theta.repeat(times)).float()
        label = observed * (uniform[1] < self.gamma.repeat(times))
        return PairBatch(
            self.users.repeat(times),
            self.items.repeat(times),
            label,
            propensity=propensity.repeat(times),
            observed=observed,
        )

    @torch.no_grad()
    def losses(self, imputing: InteractionNetwork, propensity: Tensor, clip: float = 1e-3) -> Tensor:
        """`[DRAWS]` losses of the judged network; one batch has all draws, of which the mean is taken one by one."""
        kept = Kept()
        objective_with(imputing, clip, nonnegative=kept)(self.judged, self.draw(propensity, DRAWS))
        return kept.local.view(DRAWS, -1).double().mean(1)


class Kept(NonNegativity):
    """Keeps the losses of pairs."""

    bounds = False
    local: Tensor

    def forward(self, local: Tensor, weight: Tensor | None) -> Tensor:
        self.local = local
        return local.mean()


@pytest.fixture
def world(catalogue: Catalogue) -> World:
    return World(catalogue)


def objective_with(imputing: InteractionNetwork, clip: float = 1e-3, **settings: Any) -> DoublyRobustObjective:
    made = DoublyRobustObjective(lambda catalogue: imputing, Logged(), clip=clip, **settings)
    made.build(imputing.catalogue)
    made.setup(imputing.catalogue, 0, CPU)
    return made


def errors(found: Tensor, expected: float) -> float:
    """How many standard errors the mean is away from what is expected."""
    return abs(float(found.double().mean()) - expected) / (float(found.double().std()) / len(found) ** 0.5)


def test_either_model_being_right_is_enough(world: World) -> None:
    assert errors(world.losses(world.believer, world.theta), world.ideal) < 2
    assert errors(world.losses(world.truth, world.theta.sqrt()), world.ideal) < 2


@pytest.mark.parametrize("clip", [1e-3, 0.7])
def test_with_both_wrong_it_misses_by_the_predicted_bias(world: World, clip: float) -> None:
    """By the mean of `(1 - theta / theta_hat) * (e_hat - e)`, where theta_hat is clipped."""
    miss = world.expected(world.imputed(world.believer)) - world.expected(world.gamma)
    bias = float(((1 - world.theta / world.theta.sqrt().clamp(min=clip)) * miss).mean())
    found = world.losses(world.believer, world.theta.sqrt(), clip)
    assert errors(found, world.ideal + bias) < 2
    assert errors(found, world.ideal) > 5


def variance_of(world: World, relevance: Tensor) -> float:
    """Of the doubly robust loss of all pairs, by its formula: outcomes and exposures are random both."""
    square = world.gamma * (1 - relevance) ** 2 + (1 - world.gamma) * relevance**2
    each = (world.if_relevant - world.if_not) ** 2 * (square / world.theta - (world.gamma - relevance) ** 2)
    return float(each.sum()) / len(each) ** 2


def test_the_variance_is_the_predicted_one_and_less_than_without_imputation(world: World) -> None:
    found = world.losses(world.truth, world.theta)
    predicted = variance_of(world, world.gamma)
    assert float(found.var()) == pytest.approx(predicted, rel=4 * (2 / DRAWS) ** 0.5)
    assert predicted < 0.8 * variance_of(world, torch.zeros_like(world.gamma))


def learned(world: World, weight: ImputationWeight) -> Tensor:
    """Relevance as an imputing network has it that is too narrow for the truth."""
    imputing = network(world.catalogue, 5, width=1)
    objective = objective_with(imputing, weight=weight)
    optimizer = torch.optim.Adam(imputing.parameters(), lr=0.1)
    for _ in range(60):
        loss = objective(world.judged, world.draw(world.theta, times=10)).loss
        optimizer.zero_grad()
        loss.backward()
        for table in imputing.parameters():
            assert table.grad is not None
            table.grad = table.grad.to_dense()
        optimizer.step()
    return world.imputed(imputing)


def test_mrdr_has_less_variance_than_dr_jl(world: World) -> None:
    """Pairs of which few are seen are relevant and the others are not, and no narrow network tells them apart."""
    rare = torch.rand(len(world.theta), generator=world.random) < 0.5
    world.theta, world.gamma = torch.where(rare, 0.1, 0.9), torch.where(rare, 0.9, 0.1)
    of_joint, of_robust = (learned(world, weight) for weight in (JointLearning(), MoreRobust()))
    assert variance_of(world, of_robust) < 0.8 * variance_of(world, of_joint)
    # Each is better at what it minimises.
    gap = world.if_relevant - world.if_not
    miss = [float((gap * (relevance - world.gamma)).square().mean()) for relevance in (of_joint, of_robust)]
    assert miss[0] < miss[1]


@pytest.mark.parametrize(
    ("weight", "factor"),
    [(JointLearning(), lambda theta: 1 / theta), (MoreRobust(), lambda theta: (1 - theta) / theta**2)],
)
def test_each_network_moves_by_its_own_loss_alone(
    world: World, weight: ImputationWeight, factor: Callable[[Tensor], Tensor]
) -> None:
    imputing, clip = network(world.catalogue, 4), 0.3
    batch = world.draw(world.theta)
    assert batch.observed is not None
    theta, observed, label = world.theta.clamp(min=clip), batch.observed, batch.label
    tables = [*world.judged.parameters(), *imputing.parameters()]

    p = torch.sigmoid(scores_of(world.judged, world.users, world.items))
    g = torch.sigmoid(scores_of(imputing, world.users, world.items))
    corrected = (g + observed / theta * (label - g)).detach()
    of_network = (corrected * (1 - p) ** 2 + (1 - corrected) * p**2).mean()
    gap = ((1 - p) ** 2 - p**2).detach()
    of_imputation = (observed * factor(theta) * ((label - g) * gap) ** 2).mean()
    expected = [
        gradient.to_dense()
        for loss, model in ((of_network, world.judged), (of_imputation, imputing))
        for gradient in torch.autograd.grad(loss, [*model.parameters()])
    ]
    found = objective_with(imputing, clip, weight=weight)(world.judged, batch)
    for ours, theirs in zip(torch.autograd.grad(found.loss, tables), expected, strict=True):
        torch.testing.assert_close(ours.to_dense(), theirs, rtol=1e-4, atol=1e-7)
        assert theirs.any()
    assert found.parts["doubly_robust"].item() == pytest.approx(float(of_network), rel=1e-5)
    assert found.parts["imputation"].item() == pytest.approx(float(of_imputation), rel=1e-5)
    assert found.loss.item() == pytest.approx(float(of_network + of_imputation), rel=1e-5)


def test_what_it_logs_and_regularises(world: World) -> None:
    imputing, batch, clip = network(world.catalogue, 4), world.draw(world.theta), 0.3
    assert batch.observed is not None
    seen = batch.observed > 0
    loss, parts = objective_with(imputing, clip, l2=0.1, imputation_l2=0.01)(world.judged, batch)
    weight = 1 / world.theta[seen].clamp(min=clip)
    assert parts["clipped_share"].item() == pytest.approx(float((world.theta[seen] < clip).float().mean()))
    assert parts["mean_weight"].item() == pytest.approx(float(weight.sum()) / len(batch), rel=1e-5)
    share = float(weight.sum() ** 2 / (weight.square().sum() * len(weight)))
    assert parts["effective_share"].item() == pytest.approx(share, rel=1e-5)
    squares = [
        sum(float(table.detach()[1:].square().sum()) for table in m.parameters()) for m in (world.judged, imputing)
    ]
    penalty = 0.5 * (0.1 * squares[0] + 0.01 * squares[1])
    expected = float(parts["doubly_robust"] + parts["imputation"]) + penalty
    assert loss.item() == pytest.approx(expected, rel=1e-5) and not any(part.requires_grad for part in parts.values())
    plain = objective_with(imputing, clip)(world.judged, batch)
    assert plain.loss.item() == pytest.approx(expected - penalty, rel=1e-5)


def test_everything_observed_for_sure_leaves_no_word_to_the_imputation(world: World) -> None:
    """With all propensities 1 the loss is the naive one, whatever is imputed, and MRDR has nothing to learn."""
    ones = torch.ones_like(world.theta)
    label = (torch.rand(len(ones), generator=world.random) < world.gamma).float()
    batch = PairBatch(world.users, world.items, label, propensity=ones, observed=ones)
    objective = objective_with(network(world.catalogue, 4), weight=MoreRobust())
    found, naive = objective(world.judged, batch), PairObjective(Naive())(world.judged, batch)
    torch.testing.assert_close(found.loss, naive.loss, rtol=1e-6, atol=0)
    assert found.parts["imputation"] == 0


def test_a_pair_that_stands_for_several_counts_as_often(world: World) -> None:
    times = 1 + torch.arange(len(world.users)) % 3
    batch = world.draw(world.theta)
    repeated = PairBatch(
        *(getattr(batch, name).repeat_interleave(times) for name in ("users", "items", "label")),
        propensity=world.theta.repeat_interleave(times),
        observed=batch.observed.repeat_interleave(times) if batch.observed is not None else None,
    )
    weighted = PairBatch(
        batch.users, batch.items, batch.label, times.float(), propensity=batch.propensity, observed=batch.observed
    )
    objective = objective_with(network(world.catalogue, 4))
    ours, theirs = objective(world.judged, weighted).parts, objective(world.judged, repeated).parts
    for name in ("loss", "doubly_robust", "imputation", "mean_weight"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-7)


def made(weight: ImputationWeight | None = None) -> DoublyRobustObjective:
    narrow = partial(MatrixFactorization, width=2)
    return DoublyRobustObjective(narrow, LogisticExposure(), weight, l2=1e-5, imputation_l2=1e-5)


def fit(
    folder: Path, objective: Objective, steps: int, save: Path | None = None, resume: Path | None = None
) -> RecommenderModule:
    torch.manual_seed(1)
    tables = partial(SparseAdam, lr=0.02)
    module = RecommenderModule(partial(MatrixFactorization, width=4), objective, table_optimizer=tables)
    callbacks: list[L.Callback] = []
    if save is not None:
        callbacks.append(ModelCheckpoint(save, filename="last", every_n_train_steps=steps, save_top_k=-1))
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", callbacks=callbacks, enable_checkpointing=save is not None, **quiet
    )
    trainer.fit(module, datamodule=data(folder), ckpt_path=None if resume is None else str(resume))
    return module


def test_a_resumed_job_ends_with_the_weights_of_one_that_was_not_stopped(folder: Path, tmp_path: Path) -> None:
    whole = fit(folder, made(MoreRobust()), 9).state_dict()
    fit(folder, made(MoreRobust()), 4, save=tmp_path)
    resumed = fit(folder, made(MoreRobust()), 9, resume=tmp_path / "last.ckpt").state_dict()
    assert whole.keys() == resumed.keys() and any("imputing" in name for name in whole)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_both_networks_learn_and_that_of_the_job_begins_as_in_any_other(folder: Path) -> None:
    start, other = fit(folder, made(), 0), fit(folder, PairObjective(Naive()), 0)
    assert start.network is not None and other.network is not None
    for ours, theirs in zip(start.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    module = fit(folder, made(), 100)
    objective = module.objective
    assert isinstance(objective, DoublyRobustObjective) and isinstance(module.network, InteractionNetwork)
    log = data(folder).log
    user, item = torch.arange(1, USERS + 1).repeat_interleave(ITEMS), torch.arange(1, ITEMS + 1).repeat(USERS)
    raw = [torch.from_numpy(v.values.to_numpy().astype(int)) % 2 for v in (log.users, log.items)]
    own = raw[0][user - 1] == raw[1][item - 1]
    for model in (module.network, objective.imputing):
        with torch.no_grad():
            found = torch.sigmoid(scores_of(model, user, item))
        assert found[own].mean() - found[~own].mean() > 0.2


def test_what_does_not_go_together_is_refused(catalogue: Catalogue, folder: Path) -> None:
    imputation = partial(MatrixFactorization, width=2)
    for settings, message in (
        ({"clip": 0.0}, "clip must be above 0"),
        ({"clip": 1.5}, "clip must lie"),
        ({"l2": -1.0}, "l2"),
        ({"imputation_l2": -1.0}, "l2"),
        ({"local": CrossEntropy()}, "no lower bound"),
    ):
        with pytest.raises(ValueError, match=message):
            DoublyRobustObjective(imputation, ItemPower(), **settings)  # type: ignore[arg-type]
    DoublyRobustObjective(imputation, ItemPower(), local=CrossEntropy(), nonnegative=PerPair())
    objective, model = made(), network(catalogue, 0)
    objective.build(catalogue)
    objective.setup(catalogue, 0, CPU)
    for batches in (AllPairs(), Triples()):
        with pytest.raises(TypeError, match=r"set `data.batches` to `ExposedPairs`"):
            objective(model, next(iter(data(folder, batches).batches)))
    with pytest.raises(TypeError, match="knows users by id"):
        objective(nn.Linear(1, 1), next(iter(data(folder).batches)))
    with pytest.raises(PropensityError, match="ExposedPairs"):
        objective.setup(data(folder, AllPairs()).catalogue, 0, CPU)
